//! Publishing durable, verified events.

use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::future::try_join_all;

use super::Run;
use crate::{
    hist::Histogram,
    http,
    load::Frames,
    publish::{Pace, Publisher, Tally, drive},
    relay,
    report::Row,
    server::{Store, Target},
};

/// Connections × events in flight on each.
pub const CLOSED: [(usize, usize); 2] = [(8, 64), (64, 1)];
/// Connections of the open loop.
const OPEN_CONNECTIONS: usize = 8;
/// Connections that send batches, and events in a batch.
const BATCHES: (usize, usize) = (4, 1000);

pub async fn rows(run: &Run) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for store in run.servers.stores() {
        for (connections, window) in CLOSED {
            let case = format!("sockets {connections} × {window}");
            if run.wants(&case) {
                rows.push(sockets(run, store, case, connections, Pace::InFlight(window)).await?);
            }
        }
        let case = format!("sockets, {} a second offered", run.rate);
        if run.wants(&case) {
            let interval = Duration::from_secs(OPEN_CONNECTIONS as u64) / run.rate;
            rows.push(sockets(run, store, case, OPEN_CONNECTIONS, Pace::Every(interval)).await?);
        }
        let case = format!("HTTP {} × batches of {}", BATCHES.0, BATCHES.1);
        if run.wants(&case) {
            rows.push(batches(run, store, case).await?);
        }
    }
    #[cfg(feature = "peers")]
    if run.peers {
        rows.extend(crate::peer::nostr::rows(run).await?);
    }
    Ok(rows)
}

async fn sockets(
    run: &Run,
    store: Store,
    case: String,
    connections: usize,
    pace: Pace,
) -> anyhow::Result<Row> {
    let target = run.servers.relay(store).await?;
    let signer = run.signer();
    let mut publishers =
        relay::publishers(target.addr, &signer, connections, 0..run.events).await?;
    let (warm, row) = measure(run, &target, case, &mut publishers, pace).await?;
    relay::confirm(target.addr, &signer, 0..run.events, warm + row.operations).await?;
    Ok(row)
}

/// Warms up, then publishes as `pace` says. Returns what the warm-up stored, and the row.
pub async fn measure(
    run: &Run,
    target: &Target,
    case: String,
    publishers: &mut [Publisher],
    pace: Pace,
) -> anyhow::Result<(u64, Row)> {
    let warm_up = publishers.first().map_or(0, |publisher| publisher.frames.len() / 20);
    let warm = drive(publishers, pace, warm_up, run.limit / 5).await?;
    ensure!(warm.refused == 0, "{} of {} events were refused", warm.refused, warm_up);
    let cpu = target.watched.cpu();
    let tally = drive(publishers, pace, usize::MAX >> 1, run.limit).await?;
    let cpu = target.watched.cpu().saturating_sub(cpu);
    Ok((warm.stored, row_of(target, case, tally, cpu)))
}

fn row_of(target: &Target, case: String, tally: Tally, cpu: Duration) -> Row {
    Row {
        server: target.name.clone(),
        case,
        operations: tally.stored,
        took: tally.took,
        latency: Some(tally.latency),
        errors: tally.refused,
        cpu: Some(cpu),
        rss: Some(target.watched.rss()),
        value: None,
    }
}

async fn batches(run: &Run, store: Store, case: String) -> anyhow::Result<Row> {
    let target = run.servers.relay(store).await?;
    let signer = run.signer();
    let (connections, size) = BATCHES;
    // Batches are quick: three times the events for a run of about the same length.
    let events = run.events * 3 / size * size;
    let requests = relay::batch_requests(&signer, 0..events, size);
    let warm_up = requests.len() / 20;
    let warm = send_batches(&target, &requests, 0..warm_up, 1, run.limit).await?;
    let cpu = target.watched.cpu();
    let tally =
        send_batches(&target, &requests, warm_up..requests.len(), connections, run.limit).await?;
    let cpu = target.watched.cpu().saturating_sub(cpu);
    let stored = warm.stored + tally.stored;
    relay::confirm(target.addr, &signer, 0..events, stored).await?;
    Ok(row_of(&target, case, tally, cpu))
}

/// Sends whole requests on `connections`; latency is that of a batch.
async fn send_batches(
    target: &Target,
    requests: &Frames,
    range: std::ops::Range<usize>,
    connections: usize,
    limit: Duration,
) -> anyhow::Result<Tally> {
    let next = std::cell::Cell::new(range.start);
    let start = Instant::now();
    let lanes = (0..connections).map(|_| async {
        let mut connection = http::Connection::open(target.addr).await?;
        let mut latency = Histogram::default();
        let (mut stored, mut refused) = (0, 0);
        while next.get() < range.end && start.elapsed() < limit {
            let number = next.replace(next.get() + 1);
            let sent = Instant::now();
            let (status, body) = connection.ask(requests.slice(number..number + 1)).await?;
            latency.record(sent.elapsed());
            ensure!(status == 200, "status {status}: {}", String::from_utf8_lossy(body));
            stored += relay::stored_in(body);
            refused += memchr::memmem::find_iter(body, b"\"status\":\"error\"").count() as u64;
        }
        Ok((latency, stored, refused))
    });
    let mut all = Tally::default();
    for (latency, stored, refused) in try_join_all(lanes).await? {
        all.latency.join(&latency);
        all.stored += stored;
        all.refused += refused;
    }
    all.took = start.elapsed();
    Ok(all)
}
