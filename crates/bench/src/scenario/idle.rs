//! What a connection with one quiet subscription costs in memory.

use anyhow::Context;
use futures_util::future::try_join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

use super::Run;
use crate::{
    load::{Plan, RelaySigner},
    relay::{self, SOCKET_PATH},
    report::Row,
    ws::Socket,
};

const CONNECTIONS: usize = 10_000;
/// Opened at the same time.
const AT_ONCE: usize = 100;

pub async fn rows(run: &Run) -> anyhow::Result<Vec<Row>> {
    let case = format!("{CONNECTIONS} connections");
    let mut rows = Vec::new();
    if !run.wants(&case) {
        return Ok(rows);
    }
    raise_open_files(CONNECTIONS)?;
    for store in run.servers.stores() {
        let target = run.servers.relay(store).await?;
        let signer = RelaySigner::new(Plan { authors: CONNECTIONS, ..Plan::usual() });
        let mut sockets = open(&target, &signer, 0..AT_ONCE).await?;
        let before = target.watched.rss();
        for start in (AT_ONCE..CONNECTIONS).step_by(AT_ONCE) {
            sockets.extend(open(&target, &signer, start..start + AT_ONCE).await?);
        }
        let after = target.watched.rss();
        let added = (sockets.len() - AT_ONCE) as f64;
        rows.push(Row {
            server: target.name.clone(),
            case: case.clone(),
            rss: Some(after),
            value: Some(("KiB/connection", after.saturating_sub(before) as f64 / 1024.0 / added)),
            ..Row::default()
        });
    }
    Ok(rows)
}

async fn open(
    target: &crate::server::Target,
    signer: &RelaySigner,
    authors: std::ops::Range<usize>,
) -> anyhow::Result<Vec<Socket>> {
    let opened = authors.map(|author| async move {
        let mut socket = Socket::connect(target.addr, SOCKET_PATH).await?;
        let filter = json!({"authors": [signer.author(author)]});
        relay::subscribe(&mut socket, "mine", &filter).await?;
        anyhow::Ok(socket)
    });
    try_join_all(opened).await
}

/// Files that a process has open beside its connections, at most.
const BESIDE: u64 = 500;

/// How many connections a process may have under the limit of open files.
pub fn most_connections() -> anyhow::Result<usize> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(most.saturating_sub(BESIDE) as usize)
}

/// Lets this process, and the servers that it starts, open a file for every connection.
pub fn raise_open_files(connections: usize) -> anyhow::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let needed = connections as u64 + BESIDE;
    anyhow::ensure!(most >= needed, "the limit of open files is {most}, {needed} are needed");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of open files")
}
