//! `relay serve`: a relay.

use std::{io::IsTerminal, path::PathBuf};

use clap::Args;
use relay_node::config::{self, LogFormat};
use tracing_subscriber::EnvFilter;

use crate::{
    app::App,
    cli::Global,
    error::{Failure, Outcome},
    serve,
};

use super::node_flags::NodeFlags;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay serve
  relay serve --port 8080 --node-id relay.example.com --data-dir /var/lib/relay
  relay serve --connect wss://relay.example.com --node-id alice.home")]
pub struct Serve {
    #[command(flatten)]
    node: NodeFlags,
    /// Host this script; repeatable
    #[arg(long, value_name = "FILE.rl")]
    script: Vec<PathBuf>,
}

impl Serve {
    pub async fn run(self, app: &App) -> Outcome {
        let mut loaded = super::config::load(&self.node.sources(app))?;
        for file in &self.script {
            if !file.is_file() {
                return Err(Failure::usage(format!("--script {}: no such file", file.display())));
            }
            let script = config::Script { file: file.clone(), ..config::Script::default() };
            loaded.config.script.push(script);
        }
        log_of_relay(&app.global, &loaded.config.log);
        for notice in &loaded.notices {
            tracing::warn!("{notice}");
        }
        serve::run(loaded.config, None)
            .await
            .map_err(|error| Failure::failed(format!("{error:#}")))?;
        Ok(0)
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

pub fn log_of_relay(global: &Global, log: &config::Log) {
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
