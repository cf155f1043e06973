//! `relay services`: what services there are, and how they do.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use relay_client::{Client, Request, ServiceCall};
use relay_proto::Address;
use serde_json::{Value, json};

use crate::{
    app::App,
    error::{Failure, Outcome},
    output, times,
};

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Pause between two pings.
const PING_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ServicesGroup {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List services
    #[command(after_help = "\
Examples:
  relay services ls
  relay services ls --scope federation --json")]
    Ls(List),
    /// Show one service: its instances, versions, methods and health
    #[command(after_help = "\
Examples:
  relay services show blog
  relay services show blog --scope federation --json")]
    Show(Show),
    /// Measure the way to a service and back
    #[command(after_help = "\
Examples:
  relay services ping blog
  relay services ping blog@alice.home --count 10")]
    Ping(Ping),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scope {
    /// Of the relay itself
    Node,
    /// Of the hub's own spokes
    Hub,
    /// Of all hubs
    Federation,
}

#[derive(Debug, Args)]
struct List {
    /// Whose services
    #[arg(long, value_name = "SCOPE", default_value = "node")]
    scope: Scope,
    /// Show them again whenever they change
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, Args)]
struct Show {
    /// Its name
    name: String,
    /// Where to look
    #[arg(long, value_name = "SCOPE", default_value = "node")]
    scope: Scope,
}

#[derive(Debug, Args)]
struct Ping {
    /// The service: its name or address
    target: Address,
    /// How often
    #[arg(long, value_name = "N", default_value = "3")]
    count: u32,
}

/// What a list shows.
const COLUMNS: [&str; 6] =
    ["service_name", "version", "is_healthy", "visibility", "node_address", "methods"];

impl ServicesGroup {
    pub async fn run(self, app: &App) -> Outcome {
        match self.verb {
            None => self.list.run(app).await,
            Some(Verb::Ls(list)) => list.run(app).await,
            Some(Verb::Show(show)) => show.run(app).await,
            Some(Verb::Ping(ping)) => ping.run(app).await,
        }
    }
}

impl Scope {
    const fn path(self) -> &'static str {
        match self {
            Self::Node => "/services",
            Self::Hub => "/registry",
            Self::Federation => "/federation/registry",
        }
    }
}

impl List {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let mut shown = None;
        loop {
            let answer = fetch(&client, self.scope).await?;
            if shown.as_ref() != Some(&answer) {
                let items = items(&answer);
                if items.is_empty() {
                    app.advice("no services; relay expose NAME --http URL makes one");
                }
                app.out.list(&answer, &items, &COLUMNS)?;
                shown = Some(answer);
            }
            if !self.watch {
                return Ok(0);
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }
}

impl Show {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let answer = fetch(&client, self.scope).await?;
        let found = |item: &Value| item["service_name"] == self.name.as_str();
        let instances: Vec<Value> = items(&answer).into_iter().filter(found).collect();
        match instances.as_slice() {
            [] => {
                let what = format!("there is no service '{}'", self.name);
                Err(Failure::new(crate::error::exit::NOT_FOUND, what)
                    .hint("relay services", "what there is")
                    .hint("--scope federation", "look further"))
            }
            [one] => {
                app.out.one(one, &COLUMNS)?;
                Ok(0)
            }
            several => {
                app.out.list(&json!({ "services": several }), several, &COLUMNS)?;
                Ok(0)
            }
        }
    }
}

impl Ping {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let method =
            relay_actors::PING.parse().map_err(|error| Failure::failed(format!("{error}")))?;
        let mut call = ServiceCall::new(self.target.clone(), method, None);
        call.timeout = app.timeout();
        call.timing = true;
        for number in 0..self.count.max(1) {
            if number > 0 {
                tokio::time::sleep(PING_PAUSE).await;
            }
            let began = Instant::now();
            let answer = client.call_service(&call).await;
            let answer = answer.map_err(|error| Failure::of(error, &self.target.to_string()))?;
            let took = began.elapsed();
            let node = answer.hops.last().map(|hop| hop.node.to_string());
            if app.out.is_json() {
                let line = json!({
                    "service": self.target,
                    "node": node,
                    "life": answer.result,
                    "took_ms": took.as_secs_f64() * 1000.0,
                });
                output::line(&line.to_string())?;
            } else {
                let node = node.unwrap_or_else(|| "?".to_owned());
                let life = answer.result.as_str().unwrap_or("?").to_owned();
                output::line(&format!(
                    "{} on {node}: {life}, {}",
                    self.target,
                    times::human(took)
                ))?;
            }
        }
        Ok(0)
    }
}

async fn fetch(client: &Client, scope: Scope) -> Result<Value, Failure> {
    let asked = client.call(Request::get(scope.path())).await;
    asked.map_err(|error| Failure::of(error, "services"))
}

/// The entries of an answer, each with the address of its node as one text.
fn items(answer: &Value) -> Vec<Value> {
    let mut items = answer["services"].as_array().cloned().unwrap_or_default();
    for item in &mut items {
        let node = &item["node_address"];
        let steps = [node["id"].as_str(), node["main_relay"].as_str()];
        let address = steps.into_iter().flatten().collect::<Vec<_>>().join("@");
        if !address.is_empty() {
            item["node_address"] = address.into();
        }
    }
    items
}
