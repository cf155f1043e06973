//! `relay context`: saved relays.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    app::App,
    complete,
    contexts::{self, Context, Contexts, is_name},
    error::{Failure, Outcome, exit},
};

#[derive(Debug, Args)]
pub struct ContextGroup {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List saved relays
    #[command(after_help = "\
Examples:
  relay context ls
  relay context ls --json")]
    Ls,
    /// Save a relay
    #[command(after_help = "\
Examples:
  relay context add home https://relay.example.com
  relay context add ci https://relay.example.com --key /etc/ci/key --use")]
    Add {
        /// Its name
        name: String,
        /// https://… or unix:PATH
        address: String,
        /// Select it
        #[arg(long = "use")]
        select: bool,
    },
    /// Select a saved relay
    #[command(after_help = "\
Examples:
  relay context use home
  relay context use ci")]
    Use {
        /// Its name
        #[arg(add = complete::context_names())]
        name: String,
    },
    /// Show one
    #[command(after_help = "\
Examples:
  relay context show
  relay context show home --json")]
    Show {
        /// Its name; the selected one where absent
        #[arg(add = complete::context_names())]
        name: Option<String>,
    },
    /// Forget a saved relay and the session with it
    #[command(after_help = "\
Examples:
  relay context rm home
  relay context rm home --yes")]
    Rm {
        /// Its name
        #[arg(add = complete::context_names())]
        name: String,
        /// Show what would be forgotten
        #[arg(long)]
        dry_run: bool,
    },
}

impl ContextGroup {
    pub fn run(self, app: &App) -> Outcome {
        let mut contexts = Contexts::load()?;
        match self.verb.unwrap_or(Verb::Ls) {
            Verb::Ls => list(app, &contexts),
            Verb::Add { name, address, select } => add(app, contexts, name, address, select),
            Verb::Use { name } => {
                contexts.named(&name)?;
                contexts.current = Some(name);
                contexts.save()?;
                Ok(0)
            }
            Verb::Show { name } => {
                let name = name.or_else(|| contexts.current.clone()).ok_or_else(|| {
                    Failure::new(exit::NOT_FOUND, "no context is selected")
                        .hint("relay context ls", "those there are")
                })?;
                let value = describe(&name, contexts.named(&name)?, &contexts);
                app.out.one(&value, &["name", "url"])?;
                Ok(0)
            }
            Verb::Rm { name, dry_run } => {
                let value = describe(&name, contexts.named(&name)?, &contexts);
                if dry_run {
                    app.out.one(&value, &["name", "url"])?;
                    return Ok(0);
                }
                app.confirm("forget", &name)?;
                contexts.context.remove(&name);
                contexts.current = contexts.current.filter(|current| *current != name);
                contexts.save()?;
                contexts::forget_session(&name)?;
                Ok(0)
            }
        }
    }
}

fn list(app: &App, contexts: &Contexts) -> Outcome {
    let items: Vec<_> =
        contexts.context.iter().map(|(name, context)| describe(name, context, contexts)).collect();
    if items.is_empty() {
        app.advice("no saved relays; save one with: relay login https://relay.example.com");
    }
    let answer = json!({ "items": items });
    app.out.list(&answer, &items, &["current", "name", "url", "ns", "key"])?;
    Ok(0)
}

fn add(app: &App, mut contexts: Contexts, name: String, address: String, select: bool) -> Outcome {
    if !is_name(&name) {
        return Err(Failure::usage(format!("'{name}' is no name for a context")));
    }
    let address = normal(&address)?;
    let context = Context {
        url: address,
        key: absolute(app.global.key.clone())?,
        token_file: absolute(app.global.token_file.clone())?,
        ns: app.global.ns.clone(),
        device_id: contexts.context.get(&name).and_then(|old| old.device_id.clone()),
    };
    if select || contexts.context.is_empty() {
        contexts.current = Some(name.clone());
    }
    contexts.context.insert(name, context);
    contexts.save()?;
    Ok(0)
}

/// The address as the client writes it.
pub fn normal(address: &str) -> Result<String, Failure> {
    let endpoint: relay_client::Endpoint =
        address.parse().map_err(|error: relay_client::Error| Failure::usage(error.to_string()))?;
    Ok(endpoint.to_string())
}

/// A saved path must mean the same in every directory.
pub fn absolute(path: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    // The key of an agent is no file.
    if path.as_deref().is_some_and(|path| crate::app::agent_name(path).is_some()) {
        return Ok(path);
    }
    path.map(|path| std::path::absolute(&path).map_err(|error| crate::files::at(&path, &error)))
        .transpose()
}

fn describe(name: &str, context: &Context, contexts: &Contexts) -> Value {
    json!({
        "name": name,
        "current": contexts.current.as_deref() == Some(name),
        "url": context.url,
        "key": context.key,
        "token_file": context.token_file,
        "ns": context.ns,
        "device_id": context.device_id,
    })
}
