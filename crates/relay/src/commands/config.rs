//! `relay config`: the relay's configuration.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use relay_client::Request;
use relay_node::config::{self, Origin, Sources};
use serde_json::{Value, json};

use super::operate::{self, Reload};
use crate::{
    app::App,
    error::{Failure, Outcome, exit},
    output,
};

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct ConfigGroup {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Tell every problem of the configuration
    #[command(after_help = "\
Examples:
  relay config check /etc/relay/relay.toml
  relay config check --security")]
    Check {
        /// This file alone, instead of all that a relay here would read
        file: Option<PathBuf>,
        /// What an operator should know about security
        #[arg(long)]
        security: bool,
    },
    /// Show the effective settings
    #[command(after_help = "\
Examples:
  relay config show --changed
  relay config show --origin")]
    Show {
        /// Where each was set
        #[arg(long)]
        origin: bool,
        /// Only those that differ from the defaults
        #[arg(long)]
        changed: bool,
    },
    /// Show where the files differ from what the relay runs with
    #[command(after_help = "\
Examples:
  relay config diff
  relay config diff new.toml --json")]
    Diff {
        /// This file, instead of all that the relay would read at a reload
        file: Option<PathBuf>,
    },
    /// Let the relay read its configuration again
    #[command(after_help = "\
Examples:
  relay config reload
  relay config reload --url unix:/run/relay/relay.sock")]
    Reload(Reload),
    /// Print a commented file to start from
    #[command(after_help = "\
Examples:
  relay config init > relay.toml
  relay config init --all > relay.toml")]
    Init {
        /// Also what few people need
        #[arg(long)]
        all: bool,
    },
    /// Print a JSON Schema for editors
    #[command(after_help = "\
Examples:
  relay config schema > relay.schema.json
  relay config schema --json")]
    Schema,
}

impl ConfigGroup {
    pub async fn run(self, app: &App) -> Outcome {
        match self.verb {
            Verb::Diff { file } => diff(app, file).await,
            Verb::Reload(reload) => reload.run(app).await,
            Verb::Check { file, security } => check(app, file, security),
            Verb::Show { origin, changed } => show(app, origin, changed),
            Verb::Init { all } => {
                output::write(&config::sample(all))?;
                Ok(0)
            }
            Verb::Schema => {
                output::line(&config::schema().to_string())?;
                Ok(0)
            }
        }
    }
}

fn check(app: &App, file: Option<PathBuf>, security: bool) -> Outcome {
    let sources = match file {
        Some(file) => Sources { files: vec![file], ..Sources::default() },
        None => Sources::of_process(app.global.config.clone(), Vec::new()),
    };
    let loaded = load(&sources)?;
    for notice in &loaded.notices {
        app.notice(&format!("note: {notice}"));
    }
    if security {
        for line in loaded.advice() {
            output::line(&line)?;
        }
    }
    app.advice("the configuration is good");
    Ok(0)
}

fn show(app: &App, origin: bool, changed: bool) -> Outcome {
    let loaded = load(&Sources::of_process(app.global.config.clone(), Vec::new()))?;
    let lines = loaded.lines();
    let chosen = lines.iter().filter(|line| !changed || line.origin != Origin::Default);
    let items: Vec<_> = chosen
        .map(|line| json!({ "setting": line.path, "value": line.value.to_string(), "origin": line.origin.to_string() }))
        .collect();
    let columns: &[&str] =
        if origin { &["setting", "value", "origin"] } else { &["setting", "value"] };
    let mut out = app.out.clone();
    out.wide = true;
    out.list(&json!({ "items": items }), &items, columns)?;
    Ok(0)
}

/// What a reload would change now, or where a file differs from what runs.
async fn diff(app: &App, file: Option<PathBuf>) -> Outcome {
    let client = app.client().await?;
    let answer = match file {
        None => operate::reload(&client, true).await?,
        Some(file) => {
            let loaded = load(&Sources { files: vec![file], ..Sources::default() })?;
            let running: Value = client
                .call(Request::get("/v1/config"))
                .await
                .map_err(|error| Failure::of(error, "the relay's configuration"))?;
            let running = running["items"].as_array().into_iter().flatten();
            let running = running
                .filter_map(|item| {
                    Some((item["setting"].as_str()?.into(), item["value"].as_str()?.into()))
                })
                .collect();
            let changed = config::differences(&running, &loaded.config.settings());
            json!({ "changed": changed, "restart": [] })
        }
    };
    operate::tell_changes(app, &answer)?;
    Ok(0)
}

/// Loads it, or tells every problem.
pub fn load(sources: &Sources) -> Result<config::Loaded, Failure> {
    config::load(sources).map_err(|problems| refused(&problems))
}

/// A configuration that cannot be used, as a person is told of it.
pub fn refused(problems: &config::Problems) -> Failure {
    let mut failure = Failure::new(exit::USAGE, "the configuration cannot be used");
    failure.facts = problems.0.iter().map(ToString::to_string).collect();
    failure.hint("relay config check", "after changing it")
}
