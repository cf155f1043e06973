//! Acquire and release, durable, over sockets with a session each.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use futures_util::future::try_join_all;
use memchr::memmem;
use relay_proto::SigningKey;
use serde_json::json;

use super::Run;
use crate::{
    hist::Histogram,
    load::{Plan, number_at},
    publish::SILENCE,
    relay,
    report::Row,
    server::Target,
    ws::Socket,
};

const CLIENTS: usize = 64;

/// Which keys the clients take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// Each client one of its own.
    Own,
    /// All the same one, waiting for it.
    One,
}

/// Name, clients, keys.
pub const CASES: [(&str, usize, Keys); 3] = [
    ("64 clients, own keys", CLIENTS, Keys::Own),
    ("1 client", 1, Keys::Own),
    ("64 clients wait for one key", CLIENTS, Keys::One),
];

pub async fn rows(run: &Run) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for store in run.servers.stores() {
        for (case, clients, keys) in CASES.into_iter().filter(|(case, ..)| run.wants(case)) {
            let target = run.servers.relay(store).await?;
            let clients = connect(&target, clients, keys).await?;
            rows.push(measure(run, &target, case, clients, keys).await?);
        }
    }
    #[cfg(feature = "peers")]
    if run.peers {
        rows.extend(crate::peer::lock_rows(run).await?);
    }
    Ok(rows)
}

/// One client that takes and frees one lock.
pub trait Locker {
    /// Takes the lock, waiting for it where others hold it. Returns the fencing token.
    fn acquire(&mut self) -> impl Future<Output = anyhow::Result<u64>>;
    fn release(&mut self, token: u64) -> impl Future<Output = anyhow::Result<()>>;
}

/// Warms up, then lets all clients take and free their lock until the time is over.
/// With own keys the latency is that of a whole cycle, with one key that of getting it.
pub async fn measure<L: Locker>(
    run: &Run,
    target: &Target,
    case: &str,
    mut clients: Vec<L>,
    keys: Keys,
) -> anyhow::Result<Row> {
    cycles(&mut clients, keys, run.limit / 10).await?;
    let cpu = target.watched.cpu();
    let start = Instant::now();
    let latency = cycles(&mut clients, keys, run.limit).await?;
    Ok(Row {
        server: target.name.clone(),
        case: case.to_owned(),
        operations: latency.total(),
        took: start.elapsed(),
        latency: Some(latency),
        cpu: Some(target.watched.cpu().saturating_sub(cpu)),
        rss: Some(target.watched.rss()),
        ..Row::default()
    })
}

/// # Errors
/// Besides failures: a token that does not rise, which is also how two holders at once show.
async fn cycles<L: Locker>(
    clients: &mut [L],
    keys: Keys,
    limit: Duration,
) -> anyhow::Result<Histogram> {
    let latency = RefCell::new(Histogram::default());
    let start = Instant::now();
    let shared_token = Cell::new(0);
    let runs = clients.iter_mut().map(|client| {
        let (latency, shared_token) = (&latency, &shared_token);
        async move {
            let own_token = Cell::new(0);
            let last_token = if keys == Keys::One { shared_token } else { &own_token };
            while start.elapsed() < limit {
                let asked = Instant::now();
                let token = tokio::time::timeout(SILENCE, client.acquire())
                    .await
                    .context("a lock was not granted")??;
                let waited = asked.elapsed();
                ensure!(token > last_token.get(), "token {token} after {}", last_token.get());
                last_token.set(token);
                client.release(token).await?;
                let spent = if keys == Keys::One { waited } else { asked.elapsed() };
                latency.borrow_mut().record(spent);
            }
            anyhow::Ok(())
        }
    });
    try_join_all(runs).await?;
    Ok(latency.into_inner())
}

struct RelayLocker {
    socket: Socket,
    resource: String,
    acquire: Vec<u8>,
}

async fn connect(target: &Target, count: usize, keys: Keys) -> anyhow::Result<Vec<RelayLocker>> {
    let plan = Plan::usual();
    let mut clients = Vec::with_capacity(count);
    for client in 0..count {
        let key = SigningKey::from_seed(plan.secret("lock client", client));
        let resource = match keys {
            Keys::Own => format!("bench/{client}"),
            Keys::One => "bench/hot".to_owned(),
        };
        let mut body = json!({"resource": resource, "lease_ms": 60_000});
        if keys == Keys::One {
            body["wait_ms"] = json!(30_000);
        }
        clients.push(RelayLocker {
            socket: relay::session(target.addr, &key).await?,
            acquire: relay::frame("lock.acquire", "a", &body),
            resource,
        });
    }
    Ok(clients)
}

impl RelayLocker {
    /// Sends a frame and reads the number after `wanted` in the answer of type `t`.
    async fn ask(&mut self, frame: &[u8], t: &str) -> anyhow::Result<u64> {
        const TOKEN: &[u8] = b"\"fencing_token\":";
        self.socket.send(frame).await?;
        let answer = self
            .socket
            .receive_until(|answer| {
                if relay::contains(answer, t.as_bytes()) {
                    let at = memmem::find(answer, TOKEN)? + TOKEN.len();
                    return number_at(answer, at).map(|token| Ok(token as u64));
                }
                relay::contains(answer, b"\"t\":\"error\"")
                    .then(|| Err(String::from_utf8_lossy(answer).into_owned()))
            })
            .await?;
        match answer {
            Ok(token) => Ok(token),
            Err(refusal) => bail!("{}: {refusal}", self.resource),
        }
    }
}

impl Locker for RelayLocker {
    async fn acquire(&mut self) -> anyhow::Result<u64> {
        let frame = std::mem::take(&mut self.acquire);
        let token = self.ask(&frame, "\"t\":\"lock.acquired\"").await;
        self.acquire = frame;
        token
    }

    async fn release(&mut self, token: u64) -> anyhow::Result<()> {
        let body = format!(
            r#"{{"v":1,"t":"lock.release","id":"r","body":{{"resource":"{}","fencing_token":{token}}}}}"#,
            self.resource
        );
        self.ask(&crate::ws::frame(&body), "\"t\":\"lock.released\"").await.map(|_| ())
    }
}
