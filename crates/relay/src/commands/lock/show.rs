//! `relay lock inspect`, `ls`, `history` and `watch`.

use std::time::Duration;

use clap::Args;
use relay_client::{Error, backoff::Backoff};
use serde_json::{Value, json};

use super::refusal;
use crate::{
    app::App,
    complete,
    error::{Failure, Outcome, exit},
};

#[derive(Debug, Args)]
pub struct Inspect {
    /// What to look at
    #[arg(add = complete::resources())]
    resource: String,
    /// Exit 3 where it is free
    #[arg(long)]
    require_held: bool,
}

#[derive(Debug, Args)]
pub struct List {
    /// Only those whose names begin so
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
}

#[derive(Debug, Args)]
pub struct History {
    /// What to look at
    #[arg(add = complete::resources())]
    resource: String,
    /// How many rows at most; 0 for all
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

#[derive(Debug, Args)]
pub struct Watch {
    /// What to look at
    #[arg(add = complete::resources())]
    resource: String,
}

impl Inspect {
    pub async fn run(self, app: &App) -> Outcome {
        let target = app.target()?;
        let (client, ns) = (app.client().await?, app.ns(&target)?);
        let state = client
            .inspect(&ns, &self.resource)
            .await
            .map_err(|error| refusal(error, &self.resource))?;
        let held = state.held;
        super::print(app, &state)?;
        Ok(if held || !self.require_held { 0 } else { exit::NOT_FOUND })
    }
}

impl List {
    pub async fn run(self, app: &App) -> Outcome {
        let target = app.target()?;
        let (client, ns) = (app.client().await?, app.ns(&target)?);
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = client
                .locks(&ns, self.prefix.as_deref(), cursor.as_deref())
                .await
                .map_err(|error| refusal(error, "list"))?;
            items.extend(page.items);
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        if items.is_empty() {
            app.advice(&format!("no lock is held in {ns}"));
        }
        let answer = json!({ "items": items });
        app.out.list(
            &answer,
            &items,
            &["resource", "owner", "fencing_token", "lease_expires_at_ns", "waiting"],
        )?;
        Ok(0)
    }
}

impl History {
    pub async fn run(self, app: &App) -> Outcome {
        let target = app.target()?;
        let (client, ns) = (app.client().await?, app.ns(&target)?);
        let most = if self.limit == 0 { usize::MAX } else { self.limit };
        let mut items: Vec<Value> = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = client
                .lock_history(&ns, &self.resource, cursor.as_deref())
                .await
                .map_err(|error| refusal(error, &self.resource))?;
            items.extend(page.items);
            cursor = page.cursor;
            if cursor.is_none() || items.len() >= most {
                break;
            }
        }
        items.truncate(most);
        if items.is_empty() {
            app.advice(&format!("nothing happened to {} in {ns}", self.resource));
        }
        let answer = json!({ "items": items, "cursor": cursor });
        app.out.list(
            &answer,
            &items,
            &["at_ns", "action", "owner", "fencing_token", "previous_owner"],
        )?;
        Ok(0)
    }
}

impl Watch {
    /// Follows the lock for ever; a broken connection is made again, and the present state that it
    /// begins with is told once more.
    pub async fn run(self, app: &App) -> Outcome {
        let target = app.target()?;
        let (client, ns) = (app.client().await?, app.ns(&target)?);
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
        let mut connected = false;
        loop {
            let opened = client.watch_lock(&ns, &self.resource).await;
            let ended = match opened {
                Ok(mut changes) => {
                    connected = true;
                    backoff.reset();
                    self.follow(app, &mut changes).await?
                }
                Err(error) if connected && error.is_transient() => error.to_string(),
                Err(error) => return Err(refusal(error, &self.resource)),
            };
            app.notice(&format!("connection lost: {ended}; trying again"));
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    /// Prints changes until the connection ends, and says why it did.
    async fn follow(
        &self,
        app: &App,
        changes: &mut relay_client::sse::SseStream,
    ) -> Result<String, Failure> {
        loop {
            match changes.next_frame().await {
                Ok(Some((t, body))) if t.starts_with("lock.") => self.tell(app, body)?,
                Ok(Some((t, body))) if t == "error" => return Ok(body["message"].to_string()),
                Ok(Some(_)) => {}
                Ok(None) => return Ok("the relay ended the stream".into()),
                Err(error @ (Error::Unreachable { .. } | Error::Timeout { .. })) => {
                    return Ok(error.to_string());
                }
                Err(error) => return Err(refusal(error, &self.resource)),
            }
        }
    }

    /// One line for the present state and for each change alike.
    fn tell(&self, app: &App, mut body: Value) -> Result<(), Failure> {
        if let Some(held) = body["held"].as_bool() {
            body["state"] = if held { "held" } else { "free" }.into();
        }
        let columns =
            ["state", "resource", "owner", "fencing_token", "lease_expires_at_ns", "reason"];
        Ok(app.out.item(&body, &columns)?)
    }
}
