//! How long the certificate of a relay is still good.

use std::time::Duration;

use super::{Finding, Level};

/// Looks at the certificate that the relay at `url` shows; warns when fewer days are left.
///
/// A certificate that no authority vouches for, or that is for another name, fails as it does for clients.
pub async fn certificate(url: &str, timeout: Duration, warn_days: f64, crit_days: f64) -> Finding {
    const NAME: &str = "cert";
    const CURE: &str = "renew the certificate, then restart the relay (or the proxy that holds it)";
    if !url.starts_with("https://") {
        let cure = "[tls] cert_file = …, key_file = …   (or a proxy that holds one)";
        return Finding::bad(NAME, Level::Warn, format!("{url} is not encrypted"), cure);
    }
    match expiry_of(url, timeout).await {
        Err(what) => Finding::bad(NAME, Level::Fail, what, CURE),
        Ok(ends_s) => {
            let now_s = relay_client::unix_ns() as f64 / 1e9;
            let days = (ends_s as f64 - now_s) / 86_400.0;
            let level = if days <= crit_days {
                Level::Fail
            } else if days <= warn_days {
                Level::Warn
            } else {
                Level::Ok
            };
            Finding::graded(NAME, level, format!("{days:.0} days left"), CURE)
        }
    }
}

async fn expiry_of(url: &str, timeout: Duration) -> Result<i64, String> {
    let http = reqwest::Client::builder()
        .tls_info(true)
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| error.to_string())?;
    let url = format!("{}/livez", url.trim_end_matches('/'));
    let response = http.get(url).send().await.map_err(|error| causes(&error))?;
    let info = response.extensions().get::<reqwest::tls::TlsInfo>();
    let der = info.and_then(reqwest::tls::TlsInfo::peer_certificate);
    der.and_then(not_after).ok_or_else(|| "the certificate cannot be read".into())
}

/// The innermost cause says what is wrong with a certificate.
fn causes(error: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// The end of a certificate's validity in unix seconds (RFC 5280, 4.1).
fn not_after(certificate: &[u8]) -> Option<i64> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (_, body, _) = element(certificate)?;
    let (_, mut fields, _) = element(body)?;
    if let (VERSION, _, rest) = element(fields)? {
        fields = rest;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (SEQUENCE, validity, _) = element(fields)? else { return None };
    let (_, _, after) = element(validity)?;
    let (kind, text, _) = element(after)?;
    time(kind, std::str::from_utf8(text).ok()?)
}

/// Tag, content and what follows of one DER element.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`.
fn time(kind: u8, text: &str) -> Option<i64> {
    const UTC_TIME: u8 = 0x17;
    let full = match kind {
        UTC_TIME => {
            let century = if text.get(..2)?.parse::<u8>().ok()? < 50 { "20" } else { "19" };
            format!("{century}{text}")
        }
        _ => text.to_owned(),
    };
    let parsed = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", &full).ok()?;
    Some(parsed.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_real_certificate_is_found() {
        for (year, seconds) in [(2031, 1_924_992_000), (2061, 2_871_763_200)] {
            let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap();
            assert_eq!(not_after(certificate.der()), Some(seconds), "{year}");
        }
    }

    #[test]
    fn damaged_certificates_have_no_end() {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        for length in 0..der.len() {
            assert_eq!(not_after(&der[..length]), None);
        }
    }
}
