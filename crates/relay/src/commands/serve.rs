//! `relay serve`: a relay.

use std::{
    io::IsTerminal,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use clap::{Args, ValueEnum};
use relay_node::{
    Reread,
    config::{self, Config, FlagValue, Loaded, LogFormat, Problems, Sources},
};
use tracing_subscriber::{
    EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::{
    app::App,
    cli::Global,
    error::{Failure, Outcome},
    serve,
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
    /// Listen on this port of all interfaces [env: RELAY_PORT]
    #[arg(long, value_name = "N", conflicts_with = "listen")]
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
        let loaded = super::config::load(&self.sources(&app.global.config))?;
        let verbose = app.global.verbose;
        log_of_relay(verbose, &loaded.config.log);
        for notice in &loaded.notices {
            tracing::warn!("{notice}");
        }
        let sources = Arc::new(Again { serve: self, files: app.global.config.clone(), verbose });
        serve::run(loaded.config, sources)
            .await
            .map_err(|error| Failure::failed(format!("{error:#}")))?;
        Ok(0)
    }

    fn sources(&self, files: &[PathBuf]) -> Sources {
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
        let sources = Sources::of_process(files.to_vec(), flags);
        match self.port {
            Some(port) => sources.with_port(port),
            None => sources,
        }
    }
}

/// The command line, kept to read everything again at a reload.
#[derive(Debug)]
struct Again {
    serve: Serve,
    files: Vec<PathBuf>,
    verbose: u8,
}

impl Reread for Again {
    fn read(&self) -> Result<Loaded, Problems> {
        config::load(&self.serve.sources(&self.files))
    }

    fn apply(&self, config: &Config) {
        if let Some(filter) = FILTER.get() {
            let changed = filter.reload(level_filter(level_of(self.verbose, &config.log)));
            if let Err(error) = changed {
                tracing::warn!(%error, "the level of the log could not be changed");
            }
        }
    }
}

/// What is logged; a reload changes it.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Sets up what a command says on stderr besides its messages.
pub fn log(global: &Global) {
    let default = match global.verbose {
        0 => "error",
        1 => "info",
        _ => "debug",
    };
    subscribe(default, false);
}

fn level_of(verbose: u8, log: &config::Log) -> &str {
    match verbose {
        0 => log.level.as_str(),
        1 => "info",
        _ => "debug",
    }
}

fn log_of_relay(verbose: u8, log: &config::Log) {
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Auto => {
            !std::io::stderr().is_terminal() && std::env::var_os("JOURNAL_STREAM").is_none()
        }
        LogFormat::Text | LogFormat::Journald => false,
    };
    subscribe(level_of(verbose, log), json);
}

/// `RELAY_LOG` wins over what the configuration says.
fn level_filter(default: &str) -> EnvFilter {
    let filter = std::env::var("RELAY_LOG").unwrap_or_else(|_| default.to_owned());
    EnvFilter::try_new(&filter).unwrap_or_else(|_| EnvFilter::new("info"))
}

fn subscribe(default: &str, json: bool) {
    let (filter, handle) = reload::Layer::new(level_filter(default));
    let base = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter);
    // Each fails only where a subscriber is there already.
    let set =
        if json { registry.with(base.json()).try_init() } else { registry.with(base).try_init() };
    if set.is_ok() {
        let _ = FILTER.set(handle);
    }
}
