//! `relay topology`, `ping` and `top`: how the federation hangs together, and how it does.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use relay_client::{Client, Request, ServiceCall};
use relay_proto::{Address, NodeAddress};
use serde_json::{Value, json};

use crate::{
    app::App,
    error::{Failure, Outcome},
    output, times,
};

/// How often `--watch` and `top` look.
const INTERVAL: Duration = Duration::from_secs(1);
/// Pause between two pings.
const PING_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay topology
  relay topology --format dot | dot -Tsvg > federation.svg")]
pub struct Topology {
    /// Show it again whenever it changes
    #[arg(long)]
    watch: bool,
    /// How to draw it
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Drawing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Drawing {
    /// Hubs, home relays and links as tables
    Table,
    /// For Graphviz
    Dot,
    /// As the API answers
    Json,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay ping alice.home
  relay ping alice.home@relay.example.com --count 10")]
pub struct Ping {
    /// The relay: its id, or its address
    node: NodeAddress,
    /// How often
    #[arg(long, value_name = "N", default_value = "3")]
    count: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay top
  relay top --json | jq .services")]
pub struct Top {
    /// Look this often, then end; 0 is for ever
    #[arg(long, value_name = "N", default_value = "0")]
    count: u64,
}

impl Topology {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let mut shown = None;
        loop {
            let answer = fetch(&client, "/federation/topology").await?;
            let steady = without_rates(&answer);
            if shown.as_ref() != Some(&steady) {
                self.show(app, &answer)?;
                shown = Some(steady);
            }
            if !self.watch {
                return Ok(0);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    fn show(&self, app: &App, answer: &Value) -> Result<(), Failure> {
        if app.out.is_json() || self.format == Drawing::Json {
            output::line(&answer.to_string())?;
            return Ok(());
        }
        if self.format == Drawing::Dot {
            output::write(&dot(answer))?;
            return Ok(());
        }
        for (member, columns) in [
            ("hubs", ["id", "state", "spokes", "services"].as_slice()),
            ("spokes", &["id", "hub", "services", "is_healthy"]),
            ("links", &["from", "to", "rtt_us", "in_per_sec", "out_per_sec", "queued"]),
        ] {
            let items = answer[member].as_array().cloned().unwrap_or_default();
            app.out.list(answer, &items, columns)?;
        }
        Ok(())
    }
}

/// What counts as a change: not that a moment passed.
fn without_rates(answer: &Value) -> Value {
    let strip = |member: &str, keep: &[&str]| -> Vec<Value> {
        let items = answer[member].as_array().into_iter().flatten();
        items.map(|item| keep.iter().map(|name| item[*name].clone()).collect()).collect()
    };
    json!([
        strip("hubs", &["id", "state", "spokes", "services"]),
        strip("spokes", &["id", "hub", "services", "is_healthy"]),
        strip("links", &["from", "to", "is_draining"]),
    ])
}

/// The graph in Graphviz's language.
fn dot(answer: &Value) -> String {
    let mut out = String::from("graph federation {\n");
    let list = |member: &str| answer[member].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for hub in list("hubs") {
        let _ = writeln!(out, "  {:?} [shape=box];", text(&hub["id"]));
    }
    for spoke in list("spokes") {
        let (id, hub) = (text(&spoke["id"]), text(&spoke["hub"]));
        let _ = writeln!(out, "  {hub:?} -- {id:?};");
    }
    let hubs: Vec<String> = list("hubs").iter().map(|hub| text(&hub["id"])).collect();
    for link in list("links") {
        let (from, to) = (text(&link["from"]), text(&link["to"]));
        if hubs.contains(&from) && hubs.contains(&to) {
            let _ = writeln!(out, "  {from:?} -- {to:?} [style=bold];");
        }
    }
    out.push_str("}\n");
    out
}

impl Ping {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let name = |error| Failure::failed(format!("{error}"));
        let service = relay_actors::NODE.parse().map_err(name)?;
        let to = Address { service, node: Some(self.node.clone()) };
        let mut call = ServiceCall::new(to, relay_actors::PING.parse().map_err(name)?, None);
        call.timeout = app.timeout();
        for number in 0..self.count.max(1) {
            if number > 0 {
                tokio::time::sleep(PING_PAUSE).await;
            }
            let began = Instant::now();
            let answered = client.call_service(&call).await;
            let answer = answered.map_err(|error| Failure::of(error, &self.node.to_string()))?;
            let took = began.elapsed();
            if app.out.is_json() {
                let took_ms = took.as_secs_f64() * 1000.0;
                output::line(&json!({ "node": answer.result, "took_ms": took_ms }).to_string())?;
            } else {
                output::line(&format!("{}: {}", self.node, times::human(took)))?;
            }
        }
        Ok(0)
    }
}

impl Top {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let mut looked = 0;
        loop {
            let picture = picture(&client).await?;
            if app.out.is_json() || !app.out.terminal {
                output::line(&picture.to_string())?;
            } else {
                let clear = if app.out.plain { "" } else { "\x1b[2J\x1b[H" };
                output::write(clear)?;
                app.out.one(&picture["status"], &["relay", "node_type", "address", "hub"])?;
                let services = picture["services"].as_array().cloned().unwrap_or_default();
                let columns = ["service_name", "life", "waiting", "handled", "failed", "mean_us"];
                app.out.list(&picture, &services, &columns)?;
            }
            looked += 1;
            if looked == self.count {
                return Ok(0);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

/// What `top` shows at one moment.
async fn picture(client: &Client) -> Result<Value, Failure> {
    let status = fetch(client, "/status").await?;
    let health = fetch(client, "/federation/health").await?;
    let services = fetch(client, "/services").await?;
    Ok(json!({ "status": status, "federation": health, "services": services["services"] }))
}

async fn fetch(client: &Client, path: &str) -> Result<Value, Failure> {
    client.call(Request::get(path)).await.map_err(|error| Failure::of(error, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_graph_has_each_relay_and_the_links_between_hubs() {
        let answer = json!({
            "hubs": [{ "id": "hub-a" }, { "id": "hub-b" }],
            "spokes": [{ "id": "alice.home", "hub": "hub-a" }],
            "links": [{ "from": "hub-a", "to": "hub-b" }, { "from": "alice.home", "to": "hub-a" }],
        });
        let graph = dot(&answer);
        assert!(graph.contains("\"hub-a\" -- \"alice.home\";"), "{graph}");
        assert!(graph.contains("\"hub-a\" -- \"hub-b\" [style=bold];"), "{graph}");
        assert_eq!(graph.matches("--").count(), 2, "{graph}");
    }

    #[test]
    fn rates_are_no_change() {
        let at = |rate: f64| json!({ "links": [{ "from": "a", "to": "b", "in_per_sec": rate }] });
        assert_eq!(without_rates(&at(1.0)), without_rates(&at(2.0)));
    }
}
