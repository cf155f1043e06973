//! `relay serve`: a relay.

use std::{
    io::IsTerminal,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use relay_edge::Doors;
use relay_node::{
    Node,
    config::{self, FlagValue, LogFormat, Sources},
};
use relay_store::SystemClock;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{
    app::App,
    cli::Global,
    error::{Failure, Outcome, exit},
    ids, times,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay serve
  relay serve --port 8080 --node-id relay.example.com --data-dir /var/lib/relay")]
pub struct Serve {
    /// Listen here; repeatable. Loopback port 8080 where nothing is said
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Listen on this port of all interfaces
    #[arg(long, value_name = "N", env = "RELAY_PORT", conflicts_with = "listen")]
    port: Option<u16>,
    /// Stable, unique name of this relay
    #[arg(long, value_name = "ID")]
    node_id: Option<String>,
    /// A relay of its own
    #[arg(long, value_name = "TYPE", default_value = "main", hide = true)]
    node_type: NodeType,
    /// Where the data lives
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// What keeps the data
    #[arg(long, value_name = "ENGINE")]
    store: Option<Engine>,
    /// File with the URL of the PostgreSQL database
    #[arg(long, value_name = "PATH")]
    database_url_file: Option<PathBuf>,
    /// Form of the log on stderr
    #[arg(long, value_name = "FORM")]
    log_format: Option<LogForm>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NodeType {
    Main,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    Sqlite,
    Postgres,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogForm {
    Auto,
    Text,
    Json,
    Journald,
}

impl Serve {
    pub async fn run(self, app: &App) -> Outcome {
        let begun = Instant::now();
        let loaded = super::config::load(&self.sources(app))?;
        log_of_relay(&app.global, &loaded.config.log);
        for notice in &loaded.notices {
            tracing::warn!("{notice}");
        }
        let drain = loaded.config.drain.clone();
        // Listened for before the first answer, so that no signal finds the default at work.
        let mut stop = Stop::listen()?;
        let node = Node::start(loaded.config.clone(), Arc::new(SystemClock::default()))
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        let doors = match Doors::open(node.clone()).await {
            Ok(doors) => doors,
            Err(error) => {
                node.close(Duration::from_secs(5)).await;
                return Err(Failure::new(exit::USAGE, error.to_string()));
            }
        };
        announce(app, &node, &doors, &loaded, begun.elapsed());
        stop.asked().await;
        node.start_draining();
        tokio::select! {
            () = async {
                tokio::time::sleep(drain.delay).await;
                doors.close(drain.timeout).await;
                node.close(drain.timeout).await;
            } => {}
            // Asked twice: now. What was acknowledged is on disk already.
            () = stop.asked() => tracing::warn!("asked twice to stop: connections are cut"),
        }
        Ok(0)
    }

    fn sources(&self, app: &App) -> Sources {
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        let word = |value: Option<clap::builder::PossibleValue>| {
            value.map(|word| word.get_name().to_owned())
        };
        let engine = self.store.and_then(|engine| word(engine.to_possible_value()));
        let format = self.log_format.and_then(|format| word(format.to_possible_value()));
        let listen = (!self.listen.is_empty()).then(|| self.listen.join(","));
        let flags = [
            ("--listen", "listen.http", listen),
            ("--node-id", "node.id", self.node_id.clone()),
            ("--data-dir", "node.data_dir", self.data_dir.as_ref().map(path)),
            ("--store", "store.backend", engine),
            (
                "--database-url-file",
                "store.database_url_file",
                self.database_url_file.as_ref().map(path),
            ),
            ("--log-format", "log.format", format),
        ];
        let flags = flags
            .into_iter()
            .filter_map(|(flag, path, value)| {
                Some(FlagValue { flag: flag.into(), path: path.into(), value: value? })
            })
            .collect();
        let sources = Sources::of_process(app.global.config.clone(), flags);
        match self.port {
            Some(port) => sources.with_port(port),
            None => sources,
        }
    }
}

/// What start prints: under twelve lines on stderr.
fn announce(app: &App, node: &Node, doors: &Doors, loaded: &config::Loaded, took: Duration) {
    let key = node.identity.node_id().to_string();
    let relay_id = &node.identity.relay_id;
    let scheme = if doors.tls { "https" } else { "http" };
    let addresses: Vec<_> = doors.http.iter().map(|addr| format!("{scheme}://{addr}")).collect();
    let data = loaded.config.node.data_dir();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), relay_id, key, listen = ?addresses,
        data = %data.display(), ready_ms = took.as_millis() as u64, "ready"
    );
    if loaded.config.log.format == LogFormat::Json || app.global.quiet > 0 {
        return;
    }
    let socket = doors.socket.as_ref().map_or("none".into(), |path| path.display().to_string());
    let backend = loaded.config.store.backend.as_str();
    eprintln!("relay {}  main  {relay_id}  {}", env!("CARGO_PKG_VERSION"), ids::short(&key));
    eprintln!("  web      {}", addresses.join("  "));
    eprintln!("  data     {} ({backend})   socket   {socket}", data.display());
    for line in loaded.advice() {
        eprintln!("  note     {line}");
    }
    eprintln!(
        "ready in {}.  Next: relay keys gen   |   relay event publish --content hello   |   relay doctor",
        times::human(took)
    );
}

/// SIGTERM and SIGINT.
struct Stop {
    term: Signal,
    int: Signal,
}

impl Stop {
    fn listen() -> Result<Self, Failure> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// Sets up what a command says on stderr besides its messages.
pub fn log(global: &Global) {
    let default = match global.verbose {
        0 => "error",
        1 => "info",
        _ => "debug",
    };
    subscribe(default, false);
}

fn log_of_relay(global: &Global, log: &config::Log) {
    let level = match global.verbose {
        0 => log.level.as_str(),
        1 => "info",
        _ => "debug",
    };
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Auto => {
            !std::io::stderr().is_terminal() && std::env::var_os("JOURNAL_STREAM").is_none()
        }
        LogFormat::Text | LogFormat::Journald => false,
    };
    subscribe(level, json);
}

fn subscribe(default: &str, json: bool) {
    let filter = std::env::var("RELAY_LOG").unwrap_or_else(|_| default.to_owned());
    let filter = EnvFilter::try_new(&filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    // Each fails only where a subscriber is there already.
    let _ = if json { base.json().try_init() } else { base.try_init() };
}
