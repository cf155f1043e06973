//! `relay-bench`: measures a relay, alone or beside its peers, and prints tables.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::Parser;
use relay_bench::{
    report::Table,
    scenario::{Run, Scenario},
    server::{Origin, Servers, Store},
};

/// Measures a relay, alone or beside its peers.
///
/// Load is signed before a run and answers are hardly looked at during it, since generator and
/// server share the machine; afterwards the server is asked for what it acknowledged.
#[derive(Debug, Parser)]
#[command(name = "relay-bench", version)]
struct Args {
    /// What to measure; several are run one after the other.
    #[arg(required = true, value_enum)]
    scenarios: Vec<Scenario>,

    /// The `relay` binary, started afresh for each case.
    #[arg(long, required_unless_present = "url", conflicts_with = "url")]
    server_bin: Option<PathBuf>,
    /// Stores to start it on.
    #[arg(long, value_delimiter = ',', default_value = "sqlite")]
    stores: Vec<Store>,
    /// One more argument for `relay serve`.
    #[arg(long = "server-arg", allow_hyphen_values = true)]
    server_args: Vec<String>,
    /// A relay that runs already, as `http://127.0.0.1:8080`; what is published stays there.
    #[arg(long)]
    url: Option<String>,
    /// The process behind `--url`, for its CPU time and memory.
    #[arg(long, requires = "url")]
    pid: Option<u32>,

    /// Also measure the peers (needs a build with `--features peers`, see tools/install-peers.sh).
    #[arg(long)]
    peers: bool,
    /// Only measure the peers.
    #[arg(long, requires = "peers")]
    peers_only: bool,
    /// Only cases whose name contains this.
    #[arg(long = "case")]
    only: Option<String>,

    /// Longest time of one case.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Events that are signed ahead for one case.
    #[arg(long, default_value_t = 200_000)]
    events: usize,
    /// Different authors of the events.
    #[arg(long, default_value_t = 200)]
    authors: usize,
    /// Events offered per second in open loop.
    #[arg(long, default_value_t = 5000)]
    rate: u32,
    /// Events stored for `big`.
    #[arg(long, default_value_t = 5_000_000)]
    big_events: usize,

    /// Where data directories are made; has to be on the disk that is to be measured.
    #[arg(long)]
    work_dir: Option<PathBuf>,
    /// Also write all tables to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Also put each table into its section of this Markdown document.
    #[arg(long)]
    write: Option<PathBuf>,
}

// One thread: what the generator does during a run is little, and the server wants the cores.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    // A second one would be refused; the first one holds.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if relay_bench::scenario::mls::shown().await? {
        return Ok(());
    }
    let args = Args::parse();
    let run = args.run()?;
    let mut tables = Vec::new();
    for &scenario in &args.scenarios {
        eprintln!("{} …", scenario.name());
        let name = scenario.name();
        let rows = scenario.rows(&run).await.with_context(|| format!("scenario {name}"))?;
        let table = Table { scenario: name.to_owned(), rows };
        println!("\n{name}\n\n{}", table.markdown());
        if let Some(document) = &args.write {
            table.write_into(document, &command_line(scenario), &today())?;
        }
        tables.push(table.json());
    }
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_string_pretty(&tables)?)?;
    }
    Ok(())
}

impl Args {
    fn run(&self) -> anyhow::Result<Run> {
        if self.peers && !cfg!(feature = "peers") {
            bail!("built without peers: cargo build --release -p relay-bench --features peers");
        }
        let origin = match (&self.server_bin, &self.url) {
            (Some(path), _) => {
                let path = std::fs::canonicalize(path).with_context(|| format!("{path:?}"))?;
                let stores = if self.peers_only { Vec::new() } else { self.stores.clone() };
                Origin::Binary { path, stores }
            }
            (None, Some(url)) => Origin::Running { addr: address_of(url)?, pid: self.pid },
            (None, None) => bail!("either --server-bin or --url is needed"),
        };
        let work_dir = self.work_dir.clone().unwrap_or_else(std::env::temp_dir);
        Ok(Run {
            servers: Servers { work_dir, origin, server_args: self.server_args.clone() },
            limit: Duration::from_secs(self.seconds.max(1)),
            events: self.events.max(1000),
            authors: self.authors.max(1),
            rate: self.rate.max(1),
            big_events: self.big_events.max(10_000),
            peers: self.peers,
            only: self.only.clone(),
        })
    }
}

fn address_of(url: &str) -> anyhow::Result<SocketAddr> {
    let address = url.strip_prefix("http://").context("--url starts with http://")?;
    let address = address.trim_end_matches('/');
    address.parse().with_context(|| format!("{address} is not ADDRESS:PORT"))
}

/// The command as typed, with only this scenario and without where results go.
fn command_line(scenario: Scenario) -> String {
    let mut words = vec!["relay-bench".to_owned(), scenario.name().to_owned()];
    let mut given = std::env::args().skip(1);
    while let Some(word) = given.next() {
        if ["--write", "--json", "--work-dir"].contains(&word.as_str()) {
            given.next();
        } else if word.starts_with("--") {
            words.push(word.clone());
            if !word.contains('=') && !word.starts_with("--peers") {
                words.extend(given.next());
            }
        }
    }
    words.join(" ")
}

/// The date of now in UTC, `2026-01-31`.
fn today() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()
}
