//! How long a relay takes from the start of its process until it answers `/readyz`.

use std::time::Instant;

use super::Run;
use crate::{
    hist::Histogram,
    relay,
    report::Row,
    server::{Origin, Postgres, Store},
};

const STARTS: usize = 20;
/// Events in the store of the starts that are not the first.
const STORED: usize = 20_000;

pub async fn rows(run: &Run) -> anyhow::Result<Vec<Row>> {
    let Origin::Binary { path, stores } = &run.servers.origin else {
        anyhow::bail!("the start can only be timed with --server-bin");
    };
    let mut rows = Vec::new();
    for &store in stores {
        let server = match store {
            Store::Sqlite => "relay, SQLite",
            Store::Postgres => "relay, PostgreSQL",
        };
        let (mut first, mut again) = (Histogram::default(), Histogram::default());
        let database = match store {
            Store::Sqlite => None,
            Store::Postgres => Some(Postgres::start(&run.servers.work_dir).await?),
        };
        let dir = run.servers.directory("start")?;
        let case = format!("{STORED} events stored");
        if run.wants(&case) {
            let (process, addr) = run.servers.serve(path, dir.path(), database.as_ref()).await?;
            relay::fill(addr, &run.signer(), 0..STORED).await?;
            drop(process);
            for _ in 0..STARTS {
                let started = Instant::now();
                let running = run.servers.serve(path, dir.path(), database.as_ref()).await?;
                again.record(started.elapsed());
                drop(running);
            }
            rows.push(row(server, case, again));
        }
        let case = "first start";
        // A database that has been used is no first start.
        if run.wants(case) && database.is_none() {
            for _ in 0..STARTS {
                let dir = run.servers.directory("start")?;
                let started = Instant::now();
                let running = run.servers.serve(path, dir.path(), None).await?;
                first.record(started.elapsed());
                drop(running);
            }
            rows.push(row(server, case.to_owned(), first));
        }
    }
    Ok(rows)
}

fn row(server: &str, case: String, latency: Histogram) -> Row {
    Row { server: server.to_owned(), case, latency: Some(latency), ..Row::default() }
}
