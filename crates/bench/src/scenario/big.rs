//! First pages by every documented filter over millions of stored events.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::Run;
use crate::{
    hist::Histogram,
    http,
    load::{Plan, RelaySigner},
    relay,
    report::Row,
};

const KINDS: [u16; 5] = [1, 7, 1000, 1063, 9735];
const AUTHORS: usize = 20_000;
const TOPICS: usize = 2000;
/// Queries of each shape, with other values each time.
const QUERIES: usize = 100;

pub async fn rows(run: &Run) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for store in run.servers.stores() {
        let target = run.servers.relay(store).await?;
        let plan = Plan {
            authors: AUTHORS,
            topics: TOPICS,
            kinds: KINDS.to_vec(),
            // Spread over a day, so that time ranges select something.
            first_ns: Plan::usual().first_ns - 86_400_000_000_000,
            step_ns: 86_400_000_000_000 / run.big_events as u64,
            ..Plan::usual()
        };
        let signer = RelaySigner::new(plan);
        let start = Instant::now();
        relay::fill(target.addr, &signer, 0..run.big_events).await?;
        rows.push(Row {
            server: target.name.clone(),
            case: "filling by batches of 1000, signing included".to_owned(),
            operations: run.big_events as u64,
            took: start.elapsed(),
            rss: Some(target.watched.rss()),
            ..Row::default()
        });
        for (name, query) in shapes() {
            if run.wants(name) {
                let latency = ask(target.addr, &signer, run.big_events, query)
                    .await
                    .with_context(|| name.to_owned())?;
                let case = format!("by {name}");
                let server = target.name.clone();
                rows.push(Row { server, case, latency: Some(latency), ..Row::default() });
            }
        }
        rows.push(Row {
            server: target.name.clone(),
            case: "afterwards".to_owned(),
            rss: Some(target.watched.rss()),
            ..Row::default()
        });
    }
    Ok(rows)
}

/// Makes the query string that finds, among others, the plan's event of an index.
type Query = fn(&RelaySigner, usize) -> String;

fn shapes() -> Vec<(&'static str, Query)> {
    fn author(signer: &RelaySigner, index: usize) -> &str {
        signer.author(signer.plan.author_of(index))
    }
    vec![
        ("nothing (latest)", |_, _| String::new()),
        ("ids", |signer, index| {
            let id = signer.write_event(index, &mut Vec::new());
            format!("ids={}", String::from_utf8_lossy(&id))
        }),
        ("authors", |signer, index| format!("authors={}", author(signer, index))),
        ("20 authors", |signer, index| {
            let authors: Vec<_> = (index..index + 20).map(|index| author(signer, index)).collect();
            format!("authors={}", authors.join(","))
        }),
        ("kinds", |signer, index| format!("kinds={}", signer.plan.kind_of(index))),
        ("authors + kinds", |signer, index| {
            format!("authors={}&kinds={}", author(signer, index), signer.plan.kind_of(index))
        }),
        ("tag.t", |signer, index| format!("tag.t=topic-{}", signer.plan.topic_of(index))),
        ("tag.p", |signer, index| format!("tag.p={}", signer.author(signer.plan.peer_of(index)))),
        ("tag.t + kinds", |signer, index| {
            format!(
                "tag.t=topic-{}&kinds={}",
                signer.plan.topic_of(index),
                signer.plan.kind_of(index)
            )
        }),
        ("tag.t + authors", |signer, index| {
            format!("tag.t=topic-{}&authors={}", signer.plan.topic_of(index), author(signer, index))
        }),
        ("ns", |_, _| "ns=default".to_owned()),
        ("since_ns + until_ns", |signer, index| {
            let time = signer.plan.created_at_ns(index);
            format!("since_ns={time}&until_ns={}", time + 60_000_000_000)
        }),
        ("until_ns", |signer, index| format!("until_ns={}", signer.plan.created_at_ns(index))),
        ("kinds + since_ns + until_ns", |signer, index| {
            let time = signer.plan.created_at_ns(index);
            let kind = signer.plan.kind_of(index);
            format!("kinds={kind}&since_ns={time}&until_ns={}", time + 60_000_000_000)
        }),
        ("authors, order=seq", |signer, index| {
            format!("authors={}&order=seq", author(signer, index))
        }),
        ("tag.t, order=-seq", |signer, index| {
            format!("tag.t=topic-{}&order=-seq", signer.plan.topic_of(index))
        }),
        ("kinds, order=time", |signer, index| {
            format!("kinds={}&order=time", signer.plan.kind_of(index))
        }),
        ("authors, history", |signer, index| {
            format!("authors={}&history=true", author(signer, index))
        }),
    ]
}

async fn ask(
    to: std::net::SocketAddr,
    signer: &RelaySigner,
    stored: usize,
    query: Query,
) -> anyhow::Result<Histogram> {
    let mut latency = Histogram::default();
    let mut connection = http::Connection::open(to).await?;
    for number in 0..QUERIES {
        let index = number * (stored / QUERIES);
        let path = format!("/v1/events?limit=100&{}", query(signer, index));
        let request = http::get(path.trim_end_matches('&'));
        let sent = Instant::now();
        let asked = tokio::time::timeout(Duration::from_secs(60), connection.ask(&request));
        let (status, body) = asked.await.with_context(|| format!("no answer to {path}"))??;
        latency.record(sent.elapsed());
        ensure!(status == 200, "status {status}: {}", String::from_utf8_lossy(body));
        ensure!(relay::contains(body, b"\"sig\":\""), "nothing was found by {path}");
    }
    Ok(latency)
}
