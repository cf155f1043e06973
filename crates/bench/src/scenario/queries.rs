//! Queries over kept-alive HTTP connections.

use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::future::try_join_all;
use memchr::memmem;

use super::Run;
use crate::{
    hist::Histogram,
    http,
    load::{Plan, RelaySigner},
    relay,
    report::Row,
    server::Target,
};

const STORED: usize = 200_000;
const KINDS: [u16; 5] = [1, 7, 1000, 1063, 9735];
const LIMIT: usize = 100;
const CONNECTIONS: [usize; 2] = [1, 8];

pub async fn rows(run: &Run) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for store in run.servers.stores() {
        let wanted: Vec<_> = CONNECTIONS
            .into_iter()
            .map(|connections| {
                let plural = if connections == 1 { "" } else { "s" };
                let case =
                    format!("author + kind, {LIMIT} of {STORED}, {connections} connection{plural}");
                (case, connections)
            })
            .filter(|(case, _)| run.wants(case))
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let target = run.servers.relay(store).await?;
        let plan = Plan { authors: run.authors, kinds: KINDS.to_vec(), ..Plan::usual() };
        let signer = RelaySigner::new(plan);
        relay::fill(target.addr, &signer, 0..STORED).await?;
        let requests = requests(&signer);
        for (case, connections) in wanted {
            ask_all(&target, &requests, connections, run.limit / 10).await?;
            rows.push(measure(&target, case, &requests, connections, run.limit).await?);
        }
    }
    Ok(rows)
}

/// Each pair of author and kind, with the number of events that it has to find.
fn requests(signer: &RelaySigner) -> Vec<(Vec<u8>, usize)> {
    let plan = &signer.plan;
    let mut stored = std::collections::HashMap::<_, usize>::new();
    for index in 0..STORED {
        *stored.entry((plan.author_of(index), plan.kind_of(index))).or_default() += 1;
    }
    stored
        .into_iter()
        .map(|((author, kind), events)| {
            let author = signer.author(author);
            let path = format!("/v1/events?authors={author}&kinds={kind}&limit={LIMIT}");
            (http::get(&path), events.min(LIMIT))
        })
        .collect()
}

async fn measure(
    target: &Target,
    case: String,
    requests: &[(Vec<u8>, usize)],
    connections: usize,
    limit: Duration,
) -> anyhow::Result<Row> {
    let cpu = target.watched.cpu();
    let start = Instant::now();
    let latency = ask_all(target, requests, connections, limit).await?;
    Ok(Row {
        server: target.name.clone(),
        case,
        operations: latency.total(),
        took: start.elapsed(),
        latency: Some(latency),
        cpu: Some(target.watched.cpu().saturating_sub(cpu)),
        rss: Some(target.watched.rss()),
        ..Row::default()
    })
}

/// Asks the requests in turn until `limit` is over. Every answer has to be long enough, and in
/// one of 16 the events are counted.
async fn ask_all(
    target: &Target,
    requests: &[(Vec<u8>, usize)],
    connections: usize,
    limit: Duration,
) -> anyhow::Result<Histogram> {
    const COUNT_EVERY: usize = 16;
    const EVENT_BYTES: usize = 900;

    let start = Instant::now();
    let lanes = (0..connections).map(|lane| async move {
        let mut latency = Histogram::default();
        let mut connection = http::Connection::open(target.addr).await?;
        let turns = requests.iter().cycle().skip(lane * requests.len() / connections);
        for (turn, (request, events)) in turns.enumerate() {
            if start.elapsed() >= limit {
                break;
            }
            let sent = Instant::now();
            let (status, body) = connection.ask(request).await?;
            latency.record(sent.elapsed());
            ensure!(status == 200, "status {status}: {}", String::from_utf8_lossy(body));
            ensure!(body.len() >= events * EVENT_BYTES, "a short answer: {} bytes", body.len());
            if turn % COUNT_EVERY == 0 {
                let found = memmem::find_iter(body, b"\"sig\":\"").count();
                ensure!(found == *events, "{found} events instead of {events}");
            }
        }
        anyhow::Ok(latency)
    });
    let mut all = Histogram::default();
    for latency in try_join_all(lanes).await? {
        all.join(&latency);
    }
    Ok(all)
}
