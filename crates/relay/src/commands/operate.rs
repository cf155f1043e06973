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
        let first = ["status", "relay_id", "version", "url", "key", "uptime_s", "seq", "config"];
        app.out.one(&answer, &first)?;
        if answer["config"] == "reload_failed" {
            app.notice("the last reload failed: relay api GET /v1/config tells why");
        }
        Ok(if ready { 0 } else { exit::FAILED })
    }
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
