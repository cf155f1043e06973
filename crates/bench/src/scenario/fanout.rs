//! One publisher and many subscribers whose filter matches everything it sends.

use std::{
    cell::RefCell,
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use serde_json::json;

use super::Run;
use crate::{
    hist::Histogram,
    load::{Plan, RelaySigner, index_in},
    publish::{Pace, Publisher, SILENCE, drive},
    relay::{self, SOCKET_PATH},
    report::Row,
    server::{Store, Target},
    ws::Socket,
};

/// Subscribers, and events to deliver to each at full speed.
const SATURATED: [(usize, usize); 2] = [(100, 30_000), (1000, 4000)];
/// Subscribers, and events a second.
const STEADY: [(usize, u32); 2] = [(100, 50), (1000, 10)];
/// Events in flight of the publisher at full speed.
const WINDOW: usize = 256;
/// Frames shorter than this are answers, not events.
const EVENT_BYTES: usize = 400;

pub async fn rows(run: &Run) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for store in run.servers.stores() {
        for (subscribers, events) in SATURATED {
            let case = format!("{subscribers} subscribers, full speed");
            if run.wants(&case) {
                rows.push(saturated(run, store, case, subscribers, events).await?);
            }
        }
        for (subscribers, rate) in STEADY {
            let case = format!("{subscribers} subscribers, {rate} events/s");
            if run.wants(&case) {
                rows.push(steady(run, store, case, subscribers, rate).await?);
            }
        }
    }
    Ok(rows)
}

/// A signer whose events all carry the topic that the subscribers ask for.
fn signer(run: &Run) -> RelaySigner {
    RelaySigner::new(Plan { topics: 1, authors: run.authors, ..Plan::usual() })
}

async fn subscribers(target: &Target, count: usize) -> anyhow::Result<Vec<Socket>> {
    let filter = json!({"tag.t": ["topic-0"]});
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let mut socket = Socket::connect(target.addr, SOCKET_PATH).await?;
        relay::subscribe(&mut socket, "all", &filter).await?;
        sockets.push(socket);
    }
    Ok(sockets)
}

/// Counts every delivery, and looks into one in 64: more would take from the server's cores.
async fn saturated(
    run: &Run,
    store: Store,
    case: String,
    count: usize,
    events: usize,
) -> anyhow::Result<Row> {
    const READ_EVERY: usize = 64;

    let target = run.servers.relay(store).await?;
    let signer = signer(run);
    let mut publisher = relay::publishers(target.addr, &signer, 1, 0..events).await?;
    let sockets = subscribers(&target, count).await?;

    let cpu = target.watched.cpu();
    let start = Instant::now();
    let readers = sockets.into_iter().map(|mut socket| async move {
        let mut got = 0;
        let mut read = HashSet::new();
        let mut all_new = true;
        while got < events {
            let received = socket.receive(|frame| {
                if frame.len() < EVENT_BYTES {
                    return;
                }
                got += 1;
                if got % READ_EVERY == 0 {
                    // Signatures are checked on several threads, so events of one connection may
                    // overtake each other; but none may come twice.
                    all_new &= index_in(frame).is_some_and(|index| read.insert(index));
                }
            });
            tokio::time::timeout(SILENCE, received)
                .await
                .with_context(|| format!("{got} of {events} events were delivered"))??;
        }
        ensure!(got == events, "{got} deliveries of {events} events");
        ensure!(all_new, "events were delivered twice, or were none");
        anyhow::Ok(())
    });
    let publish = drive(&mut publisher, Pace::InFlight(WINDOW), events, Duration::from_secs(600));
    let (published, _) = tokio::try_join!(publish, try_join_all(readers))?;
    let took = start.elapsed();
    ensure!(published.refused == 0, "{} events were refused", published.refused);
    Ok(Row {
        server: target.name.clone(),
        case,
        operations: (events * count) as u64,
        took,
        cpu: Some(target.watched.cpu().saturating_sub(cpu)),
        rss: Some(target.watched.rss()),
        ..Row::default()
    })
}

/// Times each delivery from the moment its event was due to be published.
async fn steady(
    run: &Run,
    store: Store,
    case: String,
    count: usize,
    rate: u32,
) -> anyhow::Result<Row> {
    let target = run.servers.relay(store).await?;
    let signer = signer(run);
    let events = (run.limit.as_secs_f64() * f64::from(rate)) as usize;
    let mut publisher = relay::publishers(target.addr, &signer, 1, 0..events).await?;
    let sockets = subscribers(&target, count).await?;

    let interval = Duration::from_secs(1) / rate;
    let latency = RefCell::new(Histogram::default());
    let cpu = target.watched.cpu();
    let start = Instant::now();
    let readers = sockets.into_iter().map(|mut socket| {
        let latency = &latency;
        async move {
            let mut got = 0;
            while got < events {
                let received = socket.receive(|frame| {
                    if let Some(index) = index_in(frame) {
                        let due = start + interval * index as u32;
                        latency.borrow_mut().record(due.elapsed());
                        got += 1;
                    }
                });
                tokio::time::timeout(SILENCE, received)
                    .await
                    .with_context(|| format!("{got} of {events} events were delivered"))??;
            }
            anyhow::Ok(())
        }
    });
    let publish = steady_publisher(&mut publisher, interval, events);
    let (refused, _) = tokio::try_join!(publish, try_join_all(readers))?;
    let took = start.elapsed();
    Ok(Row {
        server: target.name.clone(),
        case,
        operations: (events * count) as u64,
        took,
        latency: Some(latency.into_inner()),
        errors: refused,
        cpu: Some(target.watched.cpu().saturating_sub(cpu)),
        rss: Some(target.watched.rss()),
        value: None,
    })
}

async fn steady_publisher(
    publishers: &mut [Publisher],
    interval: Duration,
    events: usize,
) -> anyhow::Result<u64> {
    let limit = interval * events as u32;
    Ok(drive(publishers, Pace::Every(interval), events, limit).await?.refused)
}
