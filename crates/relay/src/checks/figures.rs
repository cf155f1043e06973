//! What the relay's own figures tell.

use std::time::Duration;

use relay_client::{Client, Request};
use relay_proto::Namespace;

use super::{Finding, grade};
use crate::{error::Failure, times};

/// How long events wait for their commit: the bucket that holds 99 of 100 since the relay's start.
pub async fn lag(client: &Client, warn: Duration, crit: Duration) -> Result<Finding, Failure> {
    const NAME: &str = "lag";
    let text = client.fetch(Request::get("/metrics")).await;
    let text = text.map_err(|error| Failure::of(error, "the metrics"))?;
    let text = String::from_utf8_lossy(&text);
    let Some(seconds) = quantile(&text, "relay_event_lag_seconds", 0.99) else {
        return Ok(Finding::ok(NAME, "no event since the start"));
    };
    let level = grade(seconds, warn.as_secs_f64(), crit.as_secs_f64());
    let value = match Duration::try_from_secs_f64(seconds) {
        Ok(within) => format!("99 of 100 events are stored within {}", times::human(within)),
        Err(_) => "more than 1 of 100 events took longer than is measured".into(),
    };
    let cure = "relay doctor   (on the relay's machine: sync time of the disk)";
    Ok(Finding::graded(NAME, level, value, cure))
}

/// How many wait for the busiest lock of a namespace.
pub async fn locks(
    client: &Client,
    ns: &Namespace,
    warn: f64,
    crit: f64,
) -> Result<Finding, Failure> {
    const NAME: &str = "locks";
    let (mut held, mut busiest, mut cursor) = (0_usize, (0, String::new()), None);
    loop {
        let page = client.locks(ns, None, cursor.as_deref()).await;
        let page = page.map_err(|error| Failure::of(error, "the locks"))?;
        held += page.items.len();
        for item in &page.items {
            let waiting = item["waiting"].as_u64().unwrap_or(0);
            if waiting > busiest.0 {
                busiest = (waiting, item["resource"].as_str().unwrap_or_default().to_owned());
            }
        }
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    let (waiting, resource) = busiest;
    let level = grade(waiting as f64, warn, crit);
    let value = match waiting {
        0 => format!("{held} held in {ns}, nobody waits"),
        _ => format!("{held} held in {ns}, {waiting} wait for {resource}"),
    };
    let cure = format!("relay lock inspect {resource} -n {ns}   (who holds it)");
    Ok(Finding::graded(NAME, level, value, &cure))
}

/// The upper bound of the bucket in which this share of all observations is reached; infinite for
/// the last one, `None` where nothing was observed.
fn quantile(metrics: &str, name: &str, share: f64) -> Option<f64> {
    let prefix = format!("{name}_bucket{{le=\"");
    let buckets: Vec<(f64, f64)> = metrics
        .lines()
        .filter_map(|line| {
            let (bound, count) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, count.trim().parse().ok()?))
        })
        .collect();
    let all = buckets.last()?.1;
    let reached = |(_, count): &&(f64, f64)| *count >= all * share;
    (all > 0.0).then(|| buckets.iter().find(reached).map(|(bound, _)| *bound)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str =
        "x_bucket{le=\"0.1\"} 90\nx_bucket{le=\"1\"} 99\nx_bucket{le=\"+Inf\"} 100\n";

    #[test]
    fn a_share_is_found_in_its_bucket() {
        assert_eq!(quantile(METRICS, "x", 0.9), Some(0.1));
        assert_eq!(quantile(METRICS, "x", 0.99), Some(1.0));
        assert_eq!(quantile(METRICS, "x", 1.0), Some(f64::INFINITY));
        assert_eq!(quantile("x_bucket{le=\"+Inf\"} 0\n", "x", 0.99), None);
        assert_eq!(quantile("", "x", 0.99), None);
    }
}
