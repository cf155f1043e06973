//! The programs that Relay is compared with, each loaded in the way that suits it best.
//!
//! All of them run with their data on the same disk, with the same number of clients, and with
//! writes durable before the answer where they can do that.

pub mod etcd;
pub mod nats;
pub mod nostr;
pub mod postgres;
pub mod redis;

use crate::{
    report::Row,
    scenario::{
        Run,
        locks::{CASES, measure},
    },
};

/// The cases of the scenario `locks` on Redis, etcd and PostgreSQL.
pub async fn lock_rows(run: &Run) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (case, clients, keys) in CASES.into_iter().filter(|(case, ..)| run.wants(case)) {
        let server = redis::start(run).await?;
        let lockers = redis::connect(&server, clients, keys).await?;
        rows.push(measure(run, &server, case, lockers, keys).await?);
        drop(server);

        let server = etcd::start(run).await?;
        let lockers = etcd::connect(&server, clients, keys).await?;
        rows.push(measure(run, &server, case, lockers, keys).await?);
        drop(server);

        let (server, url) = postgres::start(run).await?;
        let lockers = postgres::connect(&url, clients, keys).await?;
        rows.push(measure(run, &server, case, lockers, keys).await?);
    }
    Ok(rows)
}
