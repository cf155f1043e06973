//! `relay serve`: a relay.

use std::{
    io::IsTerminal,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use clap::Args;
use relay_node::{
    Reread,
    config::{self, Config, Loaded, LogFormat, Problems},
};
use tracing_subscriber::{
    EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::{
    app::App,
    cli::Global,
    error::{Failure, Outcome},
    serve::{self, OwnScript},
};

use super::node_flags::NodeFlags;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay serve
  relay serve --port 8080 --node-id relay.example.com --data-dir /var/lib/relay
  relay serve --domain relay.example.com
  relay serve --connect wss://relay.example.com --node-id alice.home")]
pub struct Serve {
    #[command(flatten)]
    node: NodeFlags,
    /// Script to host; repeatable
    #[arg(long, value_name = "FILE.rl")]
    script: Vec<PathBuf>,
}

impl Serve {
    pub async fn run(self, app: &App) -> Outcome {
        if let Some(file) = self.script.iter().find(|file| !file.is_file()) {
            return Err(Failure::usage(format!("--script {}: no such file", file.display())));
        }
        CommandLine::new(app, self.node, self.script).serve(None).await
    }
}

/// What a relay in this process was started with, kept to read everything again at a reload.
#[derive(Debug)]
pub struct CommandLine {
    node: NodeFlags,
    scripts: Vec<PathBuf>,
    files: Vec<PathBuf>,
    verbose: u8,
}

impl CommandLine {
    pub fn new(app: &App, node: NodeFlags, scripts: Vec<PathBuf>) -> Self {
        let Global { config, verbose, .. } = &app.global;
        Self { node, scripts, files: config.clone(), verbose: *verbose }
    }

    /// Runs the relay until it is stopped, with a script of its own where there is one.
    pub async fn serve(self, script: Option<OwnScript>) -> Outcome {
        let loaded = self.read().map_err(|problems| super::config::refused(&problems))?;
        log_of_relay(self.verbose, &loaded.config.log);
        for notice in &loaded.notices {
            tracing::warn!("{notice}");
        }
        serve::run(loaded.config, script, Arc::new(self))
            .await
            .map_err(|error| Failure::failed(format!("{error:#}")))?;
        Ok(0)
    }
}

impl Reread for CommandLine {
    fn read(&self) -> Result<Loaded, Problems> {
        let mut loaded = config::load(&self.node.sources(&self.files))?;
        let scripts = self.scripts.iter().cloned();
        loaded
            .config
            .script
            .extend(scripts.map(|file| config::Script { file, ..config::Script::default() }));
        Ok(loaded)
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
