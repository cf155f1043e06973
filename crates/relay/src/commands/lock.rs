//! `relay lock`: leases with fencing tokens.

pub mod child;
mod run;
mod show;
mod terminal;

use std::time::Duration;

use clap::{Args, Subcommand};
use relay_client::{Client, Error, LockRequest, unix_ns};
use relay_proto::{Code, Namespace};
use serde_json::Value;

use crate::{
    app::App,
    commands::event::parse_tag,
    complete,
    error::{Failure, Outcome},
    ids, times,
};

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct LockGroup {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Take a lock, and print its fencing token
    #[command(after_help = "\
Examples:
  relay lock acquire db/main --lease 60s --wait 30s
  relay lock acquire db/main --fields fencing_token -o raw")]
    Acquire(Acquire),
    /// Lengthen the lease of a lock we hold
    #[command(after_help = "\
Examples:
  relay lock renew db/main --fencing-token 17
  relay lock renew db/main --fencing-token 17 --lease 5m")]
    Renew(Renew),
    /// Give a lock back
    #[command(after_help = "\
Examples:
  relay lock release db/main --fencing-token 17
  relay lock release db/main --fencing-token 17 -n forge/prod")]
    Release(Release),
    /// Show who holds a lock
    #[command(after_help = "\
Examples:
  relay lock inspect db/main
  relay lock inspect db/main --require-held --json")]
    Inspect(show::Inspect),
    /// List the locks that are held
    #[command(after_help = "\
Examples:
  relay lock ls
  relay lock ls --prefix db/ -n forge/prod")]
    Ls(show::List),
    /// Show what happened to a lock
    #[command(after_help = "\
Examples:
  relay lock history db/main
  relay lock history db/main --limit 5 --json")]
    History(show::History),
    /// See a lock change hands
    #[command(after_help = "\
Examples:
  relay lock watch db/main
  relay lock watch db/main --json | head -n 1")]
    Watch(show::Watch),
    /// Run a command while holding a lock
    #[command(after_help = run::EXAMPLES)]
    Run(run::Run),
    /// End somebody's lease now (administrators)
    #[command(after_help = "\
Examples:
  relay lock break db/main --reason 'host is gone'
  relay lock break db/main --fencing-token 17 --reason 'host is gone' --yes")]
    Break(Break),
}

#[derive(Debug, Args)]
struct Acquire {
    /// What to lock
    #[arg(add = complete::resources())]
    resource: String,
    /// How long it is ours without renewal
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = times::parse_duration)]
    lease: Duration,
    /// How long to queue for it
    #[arg(long, value_name = "DUR", default_value = "0", value_parser = times::parse_duration)]
    wait: Duration,
    /// Repeats an earlier request after a lost answer
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Something that helps those who find it held; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_tag)]
    meta: Vec<(String, String)>,
}

#[derive(Debug, Args)]
struct Renew {
    /// What is locked
    #[arg(add = complete::resources())]
    resource: String,
    /// The token that acquire printed
    #[arg(long, value_name = "N", env = "RELAY_FENCING_TOKEN")]
    fencing_token: u64,
    /// How long it is ours from now
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = times::parse_duration)]
    lease: Duration,
}

#[derive(Debug, Args)]
struct Release {
    /// What is locked
    #[arg(add = complete::resources())]
    resource: String,
    /// The token that acquire printed
    #[arg(long, value_name = "N", env = "RELAY_FENCING_TOKEN")]
    fencing_token: u64,
}

#[derive(Debug, Args)]
struct Break {
    /// What is locked
    #[arg(add = complete::resources())]
    resource: String,
    /// Only if it is still held under this token; the present one where absent
    #[arg(long, value_name = "N")]
    fencing_token: Option<u64>,
    /// Why; it goes into the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Show who would lose it, and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl LockGroup {
    pub async fn run(self, app: &App) -> Outcome {
        match self.verb {
            Verb::Acquire(acquire) => acquire.run(app).await,
            Verb::Renew(renew) => renew.run(app).await,
            Verb::Release(release) => release.run(app).await,
            Verb::Inspect(inspect) => inspect.run(app).await,
            Verb::Ls(list) => list.run(app).await,
            Verb::History(history) => history.run(app).await,
            Verb::Watch(watch) => watch.run(app).await,
            Verb::Run(run) => run.run(app).await,
            Verb::Break(end) => end.run(app).await,
        }
    }
}

/// The members of an answer that come first.
const GRANT: [&str; 4] = ["fencing_token", "resource", "lease_ms", "lease_expires_at_ns"];

impl Acquire {
    async fn run(self, app: &App) -> Outcome {
        let (client, ns) = as_holder(app).await?;
        let mut request =
            LockRequest::new(&self.resource).map_err(|error| Failure::of(error, "the lock"))?;
        request.ns = ns;
        request.lease = self.lease;
        request.wait = self.wait;
        if let Some(id) = self.request_id {
            request.request_id = id;
        }
        request.meta = self.meta.into_iter().map(|(name, value)| (name, value.into())).collect();
        match client.acquire(&request).await {
            Ok(grant) => print(app, &grant),
            Err(error) => Err(taken(&client, &request.ns, error, &self.resource).await),
        }
    }
}

impl Renew {
    async fn run(self, app: &App) -> Outcome {
        let (client, ns) = as_holder(app).await?;
        let grant = client
            .renew(&ns, &self.resource, self.fencing_token, self.lease)
            .await
            .map_err(|error| refusal(error, &self.resource))?;
        print(app, &grant)
    }
}

impl Release {
    async fn run(self, app: &App) -> Outcome {
        let (client, ns) = as_holder(app).await?;
        let answer = client
            .release(&ns, &self.resource, self.fencing_token)
            .await
            .map_err(|error| refusal(error, &self.resource))?;
        app.out.one(&answer, &["status", "resource", "fencing_token"])?;
        Ok(0)
    }
}

impl Break {
    async fn run(self, app: &App) -> Outcome {
        let target = app.target()?;
        let (client, ns) = (app.client().await?, app.ns(&target)?);
        let failed = |error| refusal(error, &self.resource);
        let state = client.inspect(&ns, &self.resource).await.map_err(failed)?;
        let token = self.fencing_token.or(state.fencing_token);
        let Some(token) = token.filter(|_| state.held) else {
            return Err(Failure::new(
                crate::error::exit::NOT_FOUND,
                format!("lock {} is free", self.resource),
            ));
        };
        if self.dry_run {
            return print(app, &state);
        }
        app.confirm("break", &self.resource)?;
        let answer =
            client.break_lock(&ns, &self.resource, token, &self.reason).await.map_err(failed)?;
        app.out.one(&answer, &["resource", "fencing_token"])?;
        Ok(0)
    }
}

/// A client that holds locks under the caller's key, and the namespace.
async fn as_holder(app: &App) -> Result<(Client, Namespace), Failure> {
    let target = app.target()?;
    Ok((app.client_with_key().await?, app.ns(&target)?))
}

fn print(app: &App, answer: &impl serde::Serialize) -> Outcome {
    let answer =
        serde_json::to_value(answer).map_err(|error| Failure::failed(error.to_string()))?;
    app.out.one(&answer, &GRANT)?;
    Ok(0)
}

/// A refused acquire. The refusal names the holder; since when it holds, only the history knows,
/// and where that can't be read the rest is told without it.
async fn taken(client: &Client, ns: &Namespace, error: Error, resource: &str) -> Failure {
    let mut failure = refusal(error, resource);
    let token = failure.extra.get("fencing_token").and_then(Value::as_u64);
    let (Some(token), Some(fact)) = (token, failure.facts.first_mut()) else { return failure };
    let history = client.lock_history(ns, resource, None).await;
    let since = history.ok().and_then(|page| since(&page.items, token));
    if let Some(since) = since {
        *fact = format!("taken    {}, {fact}", times::relative(since, unix_ns()));
    }
    failure
}

/// When the grant of this token began, in unix nanoseconds.
fn since(history: &[Value], token: u64) -> Option<u64> {
    let begins = |row: &&Value| {
        row["fencing_token"] == token
            && ["acquire", "take_over"].iter().any(|a| row["action"] == *a)
    };
    history.iter().find(begins)?["at_ns"].as_str()?.parse().ok()
}

/// A refused lock operation, with what the relay told about the holder.
fn refusal(error: Error, resource: &str) -> Failure {
    let object = format!("lock {resource}");
    if error.code() != Some(Code::LockHeld) {
        let mut failure = Failure::of(error, &object);
        for (command, _) in &mut failure.tries {
            *command = command.replace("RESOURCE", resource);
        }
        return failure;
    }
    let mut failure = Failure::of(error, &object);
    let text = |name: &str| failure.extra.get(name).and_then(Value::as_str).map(str::to_owned);
    if let Some(owner) = text("owner") {
        failure.what = format!("{object} is held by {}", ids::short(&owner));
    }
    let ends = failure.extra.get("retry_after_ms").and_then(Value::as_u64);
    let token = failure.extra.get("fencing_token").and_then(Value::as_u64);
    let ends = ends.map(|ms| format!("lease ends in {}", times::human(Duration::from_millis(ms))));
    let facts: Vec<_> =
        ends.into_iter().chain(token.map(|token| format!("token {token}"))).collect();
    if !facts.is_empty() {
        failure.facts.push(facts.join(", "));
    }
    failure.tries.clear();
    failure
        .hint(format!("relay lock acquire {resource} --wait 30s"), "queue for it")
        .hint(format!("relay lock watch {resource}"), "see it change")
}
