//! Durations and times as people write and read them.

use std::time::Duration;

use jiff::Timestamp;

/// Reads `500ms`, `30s`, `5m`, `24h`, `7d`, `0`; a bare number is not a duration.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is no duration; write 500ms, 30s, 5m, 24h or 7d");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "w" => 604_800.0,
        _ => return Err(bad()),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())
}

/// Reads a point in time as unix nanoseconds: RFC 3339, a duration ago (`2h`), or nanoseconds.
pub fn parse_time(text: &str) -> Result<u64, String> {
    let bad =
        || format!("'{text}' is no time; write 2026-01-31T12:00:00Z, 2h (ago) or nanoseconds");
    if let Some(ns) = relay_proto::filter::parse_ns(text).filter(|_| text.len() > 9) {
        return Ok(ns);
    }
    if let Ok(ago) = parse_duration(text) {
        let ago = u64::try_from(ago.as_nanos()).map_err(|_| bad())?;
        return Ok(relay_client::unix_ns().saturating_sub(ago));
    }
    let time: Timestamp = text.parse().map_err(|_| bad())?;
    u64::try_from(time.as_nanosecond()).map_err(|_| bad())
}

/// `12.3 s`, `4 min`, `3 h`, `5 d`: two digits that matter.
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

/// Unix nanoseconds as UTC RFC 3339 with seconds.
pub fn rfc3339(ns: u64) -> String {
    let time = Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Unix nanoseconds as a person at the terminal reads them: relative, with the local clock time.
pub fn relative(ns: u64, now_ns: u64) -> String {
    let time = Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default();
    let local = time.to_zoned(jiff::tz::TimeZone::system());
    let distance = Duration::from_nanos(now_ns.abs_diff(ns));
    let clock = if distance < Duration::from_secs(86_400) {
        local.strftime("%H:%M:%S").to_string()
    } else {
        local.strftime("%Y-%m-%d %H:%M").to_string()
    };
    if ns > now_ns {
        format!("in {} ({clock})", human(distance))
    } else {
        format!("{} ago ({clock})", human(distance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in
            [("500ms", 500), ("30s", 30_000), ("1.5m", 90_000), ("2d", 172_800_000), ("0", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "30", "s", "-1s", "1y", "1e9d", "."] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(parse_time("2025-12-27T00:00:00Z"), Ok(1_766_793_600_000_000_000));
        assert_eq!(parse_time("1766793600123456789"), Ok(1_766_793_600_123_456_789));
        assert!(parse_time("1h").unwrap() < relay_client::unix_ns());
        assert!(parse_time("yesterday").is_err());
        assert_eq!(rfc3339(1_766_793_600_000_000_000), "2025-12-27T00:00:00Z");
    }

    #[test]
    fn people_read_two_digits() {
        assert_eq!(human(Duration::from_millis(84)), "84 ms");
        assert_eq!(human(Duration::from_secs(41)), "41 s");
        assert_eq!(human(Duration::from_secs(600)), "10 min");
    }
}
