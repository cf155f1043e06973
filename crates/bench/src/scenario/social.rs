//! The social layer: uploads, feed pages, references with counts, and answers that nothing changed.

use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::future::try_join_all;
use prost::Message;
use relay_proto::{
    SigningKey,
    polycentric::{
        CountLwwElementReferences, CountReferences, Draft, Event, EventWriter, Events, ProcessId,
        QueryReferencesRequest, QueryReferencesRequestEvents, Reference, SystemKey, content,
        encode_param, opinion,
    },
};

use super::Run;
use crate::{hist::Histogram, http, report::Row, server::Target};

/// Events of one upload, as the client sends them.
const UPLOAD: usize = 20;
const CONNECTIONS: usize = 8;
/// As a cache keeps them open to its origin.
const CROWD: usize = 64;
/// Events that a feed is read out of.
const STORED: usize = 1_000_000;
/// Identities that have them.
const SYSTEMS: usize = 100;
/// Opinions on one post.
const OPINIONS: usize = 100_000;
const FIRST_MS: u64 = 1_700_000_000_000;

pub async fn rows(run: &Run) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for store in run.servers.stores() {
        if run.wants("uploads") {
            let target = run.servers.relay(store).await?;
            let per_system = run.events / CONNECTIONS;
            let uploads: Vec<Vec<Vec<u8>>> =
                (0..CONNECTIONS).map(|n| uploads(&posts(n, per_system))).collect();
            let case = format!("uploads of {UPLOAD}, {CONNECTIONS} connections");
            rows.push(upload(&target, case, uploads, UPLOAD, run.limit).await?);
        }
        if run.wants("feed") {
            let target = run.servers.relay(store).await?;
            let stored = STORED.min(run.big_events);
            fill(&target, stored).await?;
            for (age, quarter) in [("newest", 0), ("middle", 2), ("oldest", 4)] {
                let feeds: Vec<_> = (0..SYSTEMS).map(|n| feed_page(n, stored, quarter)).collect();
                let case = format!("feed page of 10 out of {stored}, {age}");
                rows.push(ask(&target, case, &feeds, 1, run.limit, 200).await?);
            }
            let feeds: Vec<_> = (0..SYSTEMS).map(|n| feed_page(n, stored, 0)).collect();
            let tagged = tagged(&target, &feeds).await?;
            for connections in [1, CONNECTIONS, CROWD] {
                let case = format!("unchanged feed page (304), {connections} connections");
                rows.push(ask(&target, case, &tagged, connections, run.limit, 304).await?);
            }
        }
        if run.wants("references") {
            let target = run.servers.relay(store).await?;
            let question = opinions(&target, OPINIONS.min(run.events)).await?;
            let case = format!("references with counts, {} opinions", OPINIONS.min(run.events));
            rows.push(ask(&target, case, &[question], 1, run.limit, 200).await?);
        }
    }
    Ok(rows)
}

fn key(n: usize) -> SigningKey {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&(n as u64 + 1).to_le_bytes());
    SigningKey::from_seed(seed)
}

fn writer(n: usize) -> EventWriter {
    let mut process = [0; 16];
    process[..8].copy_from_slice(&(n as u64).to_le_bytes());
    EventWriter::new(ProcessId::from_bytes(process))
}

fn posts(n: usize, count: usize) -> Vec<Event> {
    let (key, mut writer) = (key(n), writer(n));
    let post = |at: usize| {
        let text = format!("post {at} of {n}, about as long as people write when they are brief");
        writer.write(&key, Draft::post(&text, None), FIRST_MS + at as u64).ok()
    };
    (0..count).filter_map(post).collect()
}

fn uploads(events: &[Event]) -> Vec<Vec<u8>> {
    events.chunks(UPLOAD).map(request).collect()
}

fn request(events: &[Event]) -> Vec<u8> {
    let body = Events { events: events.iter().map(Event::to_signed).collect() }.encode_to_vec();
    let mut request = Vec::with_capacity(body.len() + 200);
    http::post_into("/events", "application/octet-stream", &body, &mut request);
    request
}

/// Sends each lane's requests one after the other, all lanes at once.
async fn upload(
    target: &Target,
    case: String,
    lanes: Vec<Vec<Vec<u8>>>,
    events: usize,
    limit: Duration,
) -> anyhow::Result<Row> {
    let cpu = target.watched.cpu();
    let start = Instant::now();
    let lanes = lanes.into_iter().map(|requests| async move {
        let mut latency = Histogram::default();
        let mut connection = http::Connection::open(target.addr).await?;
        for request in &requests {
            if start.elapsed() >= limit {
                break;
            }
            let sent = Instant::now();
            let (status, body) = connection.ask(request).await?;
            ensure!(status == 200, "status {status}: {}", String::from_utf8_lossy(body));
            latency.record(sent.elapsed());
        }
        anyhow::Ok(latency)
    });
    let mut latency = Histogram::default();
    for lane in try_join_all(lanes).await? {
        latency.join(&lane);
    }
    Ok(Row {
        server: target.name.clone(),
        case,
        operations: latency.total() * events as u64,
        took: start.elapsed(),
        latency: Some(latency),
        cpu: Some(target.watched.cpu().saturating_sub(cpu)),
        rss: Some(target.watched.rss()),
        ..Row::default()
    })
}

/// Stores `count` posts of [`SYSTEMS`] identities, in large uploads.
async fn fill(target: &Target, count: usize) -> anyhow::Result<()> {
    const LARGE: usize = 500;
    let lanes = (0..CONNECTIONS).map(|lane| async move {
        let mut connection = http::Connection::open(target.addr).await?;
        for n in (lane..SYSTEMS).step_by(CONNECTIONS) {
            for chunk in posts(n, count / SYSTEMS).chunks(LARGE) {
                let (status, body) = connection.ask(&request(chunk)).await?;
                ensure!(status == 200, "status {status}: {}", String::from_utf8_lossy(body));
            }
        }
        anyhow::Ok(())
    });
    try_join_all(lanes).await.map(drop)
}

fn system(n: usize) -> String {
    let system = SystemKey::from(key(n).node_id());
    encode_param(&system.to_message().encode_to_vec())
}

/// A page of a feed, so many quarters of its length from its newest post.
fn feed_page(n: usize, stored: usize, quarter: u64) -> Vec<u8> {
    let posts = (stored / SYSTEMS) as u64;
    // The last quarter ends with a whole page, too.
    let after = FIRST_MS + (posts - quarter * posts / 4).max(10);
    let system = system(n);
    http::get(&format!("/query_index?system={system}&content_type=3&limit=10&after={after}"))
}

/// The same requests by somebody who has the answers.
async fn tagged(target: &Target, requests: &[Vec<u8>]) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut tagged = Vec::new();
    let mut connection = http::Connection::open(target.addr).await?;
    for request in requests {
        let tag = connection.header(request, "etag").await?;
        let mut again = request[..request.len() - 2].to_vec();
        again.extend_from_slice(format!("If-None-Match: {tag}\r\n\r\n").as_bytes());
        tagged.push(again);
    }
    Ok(tagged)
}

/// Stores a post with opinions of as many identities; gives the question about it.
async fn opinions(target: &Target, count: usize) -> anyhow::Result<Vec<u8>> {
    const BATCH: usize = 500;
    let post = posts(0, 1);
    let mut connection = http::Connection::open(target.addr).await?;
    connection.ask(&request(&post)).await?;
    let about = Reference::Event(post[0].pointer());
    for from in (0..count).step_by(BATCH) {
        let events: Vec<Event> = (from..count.min(from + BATCH))
            .filter_map(|n| {
                let value = if n % 3 == 0 { opinion::DISLIKE } else { opinion::LIKE };
                let draft = Draft::opinion(about.clone(), value, FIRST_MS + n as u64);
                writer(n + 1).write(&key(n + 1), draft, FIRST_MS + n as u64).ok()
            })
            .collect();
        let (status, body) = connection.ask(&request(&events)).await?;
        ensure!(status == 200, "status {status}: {}", String::from_utf8_lossy(body));
    }
    let count_value = |value: &'static [u8]| CountLwwElementReferences {
        value: value.into(),
        from_type: Some(content::OPINION),
    };
    let question = QueryReferencesRequest {
        reference: Some(about.to_message()),
        request_events: Some(QueryReferencesRequestEvents {
            from_type: Some(content::OPINION),
            ..Default::default()
        }),
        count_lww_element_references: vec![
            count_value(opinion::LIKE),
            count_value(opinion::DISLIKE),
        ],
        count_references: vec![CountReferences { from_type: Some(content::POST) }],
        ..Default::default()
    };
    let question = encode_param(&question.encode_to_vec());
    Ok(http::get(&format!("/query_references?query={question}")))
}

/// Asks the requests in turn until `limit` is over.
async fn ask(
    target: &Target,
    case: String,
    requests: &[Vec<u8>],
    connections: usize,
    limit: Duration,
    wanted: u16,
) -> anyhow::Result<Row> {
    let cpu = target.watched.cpu();
    let start = Instant::now();
    let lanes = (0..connections).map(|lane| async move {
        let mut latency = Histogram::default();
        let mut connection = http::Connection::open(target.addr).await?;
        for request in requests.iter().cycle().skip(lane * requests.len() / connections) {
            if start.elapsed() >= limit {
                break;
            }
            let sent = Instant::now();
            let (status, body) = connection.ask(request).await?;
            latency.record(sent.elapsed());
            ensure!(status == wanted, "status {status}: {}", String::from_utf8_lossy(body));
        }
        anyhow::Ok(latency)
    });
    let mut latency = Histogram::default();
    for lane in try_join_all(lanes).await? {
        latency.join(&lane);
    }
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
