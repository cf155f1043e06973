//! `relay status`, `reload` and `drain`: what an operator asks of the running relay.

use std::time::Duration;

use clap::Args;
use relay_client::{Client, Error, Request};
use serde_json::{Value, json};

use crate::{
    app::App,
    error::{Failure, Outcome, exit},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay status
  relay status --url https://relay.example.com --json

Exit codes:
  0 ready   1 not ready   7 cannot reach")]
pub struct Status {}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay reload
  relay reload --url unix:/run/relay/relay.sock --json")]
pub struct Reload {}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay drain
  relay drain --timeout 60s --yes")]
pub struct Drain {}

/// How often a draining relay is asked whether it is still there.
const LOOK: Duration = Duration::from_millis(200);

impl Status {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let failed = |error| Failure::of(error, "status");
        let (health, ready) = match client.call(Request::get("/health")).await {
            Ok(health) => (health, true),
            Err(Error::Refused { problem, .. }) if problem.extra.contains_key("relay_id") => {
                // It speaks, but is not ready: the figures are in the refusal.
                let mut health = Value::Object(problem.extra);
                health["status"] = "unavailable".into();
                (health, false)
            }
            Err(error) => return Err(failed(error)),
        };
        let mut answer = client.info().await.map_err(failed)?;
        for heavy in ["limits", "kinds", "features", "gateway_id", "protocols"] {
            if let Some(members) = answer.as_object_mut() {
                members.remove(heavy);
            }
        }
        for (name, value) in health.as_object().into_iter().flatten() {
            answer[name] = value.clone();
        }
        answer["url"] = client.endpoint().to_string().into();
        let federation: Value = client.call(Request::get("/status")).await.map_err(failed)?;
        let federated: Result<Value, _> = client.call(Request::get("/federation/health")).await;
        if app.out.is_json() {
            answer["federation"] = federation;
        } else {
            for (name, value) in links(&federation, &federated.unwrap_or_default()) {
                answer[name] = value;
            }
        }
        let first = [
            "status",
            "relay_id",
            "version",
            "url",
            "key",
            "node_type",
            "link",
            "standby",
            "uptime_s",
            "seq",
            "config",
        ];
        app.out.one(&answer, &first)?;
        if answer["config"] == "reload_failed" {
            app.notice("the last reload failed: relay api GET /v1/config tells why");
        }
        Ok(if ready { 0 } else { exit::FAILED })
    }
}

/// What a person wants to know of a node's links, by `GET /status` and `GET /federation/health`.
fn links(status: &Value, federated: &Value) -> Vec<(&'static str, Value)> {
    let mut told = vec![("node_type", status["node_type"].clone())];
    if status["node_type"] == "main" {
        told.extend(["peers", "spokes"].map(|name| (name, federated[name].clone())));
        return told;
    }
    let link = linked(status).unwrap_or_else(|| {
        let why = status["uplink"]["last_error"].as_str().unwrap_or("no hub is configured");
        format!("none: {why}")
    });
    told.push(("link", link.into()));
    let standby = status["standby"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let standby: Vec<&str> = standby.collect();
    if !standby.is_empty() {
        told.push(("standby", standby.join(", ").into()));
    }
    told.extend(["address", "reconnects"].map(|name| (name, status[name].clone())));
    told
}

/// The link of a home relay in words; `None` where there is none.
pub(super) fn linked(status: &Value) -> Option<String> {
    let mut words = format!("linked to {}", status["hub"].as_str()?);
    if let Some(ms) = status["uplink"]["dialled_in_ms"].as_u64() {
        words += &format!(" in {ms} ms");
    }
    if let Some(us) = status["link"]["rtt_us"].as_f64() {
        words += &format!(" (rtt {:.1} ms)", us / 1_000.0);
    }
    Some(words)
}

impl Reload {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let answer = reload(&client, false).await?;
        tell_changes(app, &answer)?;
        Ok(0)
    }
}

/// Asks the relay to read its configuration again, or what that would do.
pub async fn reload(client: &Client, dry_run: bool) -> Result<Value, Failure> {
    let request = Request::post("/v1/config/reload", &json!({ "dry_run": dry_run }));
    client.call(request).await.map_err(|error| {
        let problems = match &error {
            Error::Refused { problem, .. } => problem.extra.get("problems").cloned(),
            _ => None,
        };
        let mut failure = Failure::of(error, "reload");
        if let Some(Value::Array(problems)) = problems {
            failure.what = "the relay's configuration cannot be used; nothing was changed".into();
            failure.facts =
                problems.iter().filter_map(|line| line.as_str().map(str::to_owned)).collect();
            failure.tries =
                vec![("relay config check".into(), "on the relay's machine, after mending".into())];
        }
        failure
    })
}

/// One row a setting, and whether it takes a restart.
pub fn tell_changes(app: &App, answer: &Value) -> Result<(), Failure> {
    let rows = |member: &str, effect: &str| -> Vec<Value> {
        let rows = answer[member].as_array().into_iter().flatten();
        rows.map(|row| {
            let mut row = row.clone();
            row["effect"] = effect.into();
            row
        })
        .collect()
    };
    let mut items = rows("changed", "live");
    items.extend(rows("restart", "restart"));
    let mut out = app.out.clone();
    out.wide = true;
    out.list(answer, &items, &["setting", "before", "after", "effect"])?;
    if items.is_empty() {
        app.advice("nothing differs");
    } else if items.iter().any(|item| item["effect"] == "restart") {
        app.notice("some settings need a restart of the relay");
    }
    Ok(())
}

impl Drain {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        app.confirm("drain", &client.endpoint().to_string())?;
        let timeout = app.timeout();
        let asked = json!({ "timeout_ms": timeout.as_millis() as u64 });
        let answer: Value = client
            .call(Request::post("/v1/drain", &asked))
            .await
            .map_err(|error| Failure::of(error, "drain"))?;
        app.out.one(&answer, &["status", "timeout_ms"])?;
        let gone = async {
            while !matches!(client.probe().await, Err(Error::Unreachable { .. })) {
                tokio::time::sleep(LOOK).await;
            }
        };
        // The relay may take its whole time, and then closes its store.
        let patience = timeout + Duration::from_secs(10);
        match tokio::time::timeout(patience, gone).await {
            Ok(()) => Ok(0),
            Err(_) => Err(Failure::new(exit::TIMEOUT, "the relay has not stopped yet")
                .hint("relay status", "what it is doing")),
        }
    }
}
