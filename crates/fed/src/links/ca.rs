//! A small certificate authority for hubs that prove themselves to each other by mutual TLS
//! (`relay ca`): it issues certificates that name a relay id, and revokes them by a list (RFC 5280).
//!
//! The authority is one value that the caller stores; its key never leaves it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};
use relay_proto::RelayId;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// How long the authority's own certificate holds.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Clocks may differ by this much.
const SKEW: Duration = Duration::from_secs(3600);

/// Why the authority could not do something.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("certificates: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("no randomness: {0}")]
    Random(String),
    #[error("no certificate with this serial number was issued")]
    NotIssued,
}

/// A certificate authority as it is stored. Contains its key.
#[derive(Serialize, Deserialize)]
pub struct Authority {
    /// The common name.
    pub name: String,
    /// What others trust.
    pub certificate_pem: String,
    /// Wiped when dropped.
    key_pem: String,
    pub issued: Vec<IssuedRecord>,
    /// Rises with each list of revoked certificates.
    list_number: u64,
    /// Unix seconds.
    not_before: u64,
}

/// What was issued.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IssuedRecord {
    /// Hex.
    pub serial: String,
    pub relay: RelayId,
    /// Unix seconds.
    pub not_after: u64,
    /// Unix seconds; `None` while it holds.
    pub revoked_at: Option<u64>,
}

/// A certificate and its key, for the relay it names.
pub struct IssuedCertificate {
    pub serial: String,
    /// The certificate, then the authority's.
    pub chain_pem: String,
    pub key_pem: Zeroizing<String>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("name", &self.name).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for IssuedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedCertificate").field("serial", &self.serial).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn init(name: &str, now: SystemTime) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let not_before = unix(now);
        let certificate = authority_params(name, not_before)?.self_signed(&key)?;
        Ok(Self {
            name: name.to_owned(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            issued: Vec::new(),
            list_number: 0,
            not_before,
        })
    }

    /// Issues a certificate that names `relay`, good for servers and clients.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn issue(
        &mut self,
        relay: &RelayId,
        life: Duration,
        now: SystemTime,
    ) -> Result<IssuedCertificate, CaError> {
        let serial = new_serial()?;
        let not_after = unix(now + life);
        let mut params = CertificateParams::new(vec![relay.to_string()])?;
        params.distinguished_name.push(DnType::CommonName, relay.as_str());
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = date(unix(now).saturating_sub(SKEW.as_secs()));
        params.not_after = date(not_after);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer()?)?;
        let serial = hex::encode(serial);
        let record = IssuedRecord {
            serial: serial.clone(),
            relay: relay.clone(),
            not_after,
            revoked_at: None,
        };
        self.issued.push(record);
        Ok(IssuedCertificate {
            serial,
            chain_pem: format!("{}{}", certificate.pem(), self.certificate_pem),
            key_pem: Zeroizing::new(key.serialize_pem()),
        })
    }

    /// Revokes a certificate by its serial number; takes effect with the next [`Self::revoked`].
    ///
    /// # Errors
    /// [`CaError::NotIssued`].
    pub fn revoke(&mut self, serial: &str, now: SystemTime) -> Result<(), CaError> {
        let record = self.issued.iter_mut().find(|record| record.serial == serial);
        record.ok_or(CaError::NotIssued)?.revoked_at.get_or_insert(unix(now));
        Ok(())
    }

    /// The list of revoked certificates (PEM), good for `life`.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn revoked(&mut self, life: Duration, now: SystemTime) -> Result<String, CaError> {
        self.list_number += 1;
        let revoked = self.issued.iter().filter_map(|record| {
            let at = record.revoked_at?;
            Some(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&hex::decode(&record.serial).ok()?),
                revocation_time: date(at),
                reason_code: None,
                invalidity_date: None,
            })
        });
        let params = CertificateRevocationListParams {
            this_update: date(unix(now)),
            next_update: date(unix(now + life)),
            crl_number: SerialNumber::from(self.list_number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer()?)?.pem()?)
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, CaError> {
        let key = KeyPair::from_pem(&self.key_pem)?;
        Ok(Issuer::new(authority_params(&self.name, self.not_before)?, key))
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.key_pem.zeroize();
    }
}

fn authority_params(name: &str, not_before: u64) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date(not_before.saturating_sub(SKEW.as_secs()));
    params.not_after = date(not_before.saturating_add(AUTHORITY_LIFE.as_secs()));
    Ok(params)
}

/// 16 random bytes, positive as RFC 5280 4.1.2.2 wants it.
fn new_serial() -> Result<[u8; 16], CaError> {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|error| CaError::Random(error.to_string()))?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn date(unix: u64) -> time::OffsetDateTime {
    let seconds = i64::try_from(unix).unwrap_or(i64::MAX);
    time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use rustls::{RootCertStore, server::WebPkiClientVerifier};
    use rustls_pki_types::{
        CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject,
    };

    use super::*;
    use crate::links::certificate::names;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn chain(issued: &IssuedCertificate) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).map(Result::unwrap).collect()
    }

    fn accepts(
        authority: &Authority,
        list: Option<&str>,
        chain: &[CertificateDer<'static>],
        at: SystemTime,
    ) -> bool {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.certificate_pem.as_bytes()).unwrap())
            .unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        if let Some(list) = list {
            builder = builder
                .with_crls(
                    [CertificateRevocationListDer::from_pem_slice(list.as_bytes()).unwrap()],
                );
        }
        let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap());
        builder.build().unwrap().verify_client_cert(&chain[0], &chain[1..], at).is_ok()
    }

    #[test]
    fn issued_certificates_hold_until_their_end_or_their_revocation() {
        let now = SystemTime::now();
        let mut authority = Authority::init("hubs", now).unwrap();
        let relay: RelayId = "hub-a.example.com".parse().unwrap();
        let first = authority.issue(&relay, 30 * DAY, now).unwrap();
        let second = authority.issue(&relay, 30 * DAY, now).unwrap();
        // Stored and read again, it is the same authority.
        let text = serde_json::to_string(&authority).unwrap();
        let mut authority: Authority = serde_json::from_str(&text).unwrap();

        assert!(names(&chain(&first), &relay));
        assert!(!names(&chain(&first), &"hub-b".parse().unwrap()) && !names(&[], &relay));
        assert!(accepts(&authority, None, &chain(&first), now));
        assert!(!accepts(&authority, None, &chain(&first), now + 31 * DAY));

        authority.revoke(&first.serial, now).unwrap();
        assert!(matches!(authority.revoke("00", now), Err(CaError::NotIssued)));
        let list = authority.revoked(7 * DAY, now).unwrap();
        assert!(!accepts(&authority, Some(&list), &chain(&first), now));
        assert!(accepts(&authority, Some(&list), &chain(&second), now));

        let other = Authority::init("hubs", now).unwrap();
        assert!(!accepts(&other, None, &chain(&second), now));
    }

    #[test]
    fn the_key_is_not_shown() {
        let now = SystemTime::now();
        let mut authority = Authority::init("hubs", now).unwrap();
        let issued = authority.issue(&"a".parse().unwrap(), DAY, now).unwrap();
        assert!(!format!("{authority:?} {issued:?}").contains("PRIVATE"));
    }
}
