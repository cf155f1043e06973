//! `relay acl`, `quota`, `audit` and `token`: who may do what, and what was done.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use relay_client::{Request, unix_ns};
use relay_proto::{
    Namespace, NodeId,
    event::{Draft, Tags, reserved},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    app::App,
    error::{Failure, Outcome, exit},
    files, ids, output, times,
};

#[derive(Debug, Args)]
pub struct Acl {
    #[command(subcommand)]
    verb: Option<AclVerb>,
}

#[derive(Debug, Subcommand)]
enum AclVerb {
    /// Show the rules in force and where each comes from
    #[command(after_help = "\
Examples:
  relay acl show
  relay acl show --json")]
    Show,
    /// Ask what a key may do, and which rule decides
    #[command(after_help = "\
Examples:
  relay acl test --who ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541 --ns forge/prod --op write
  relay acl test --who '*' --op read")]
    Test {
        /// A key, or * for everybody
        #[arg(long, value_name = "KEY")]
        who: String,
        #[arg(long, value_name = "OP")]
        op: Op,
    },
    /// Publish rules, signed by your key (administrators)
    #[command(after_help = "\
Examples:
  relay acl set rules.json
  relay acl set rules.json --name forge --dry-run")]
    Set {
        /// JSON: {\"rules\":[{\"ns\":…,\"who\":[…],\"allow\":[…]}],\"groups\":{…}}
        file: PathBuf,
        /// Replaces the rules published under this name before
        #[arg(long, default_value = "main")]
        name: String,
        /// Print the event and send nothing
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Op {
    Read,
    Write,
    Lock,
    Admin,
}

#[derive(Debug, Args)]
pub struct Quota {
    #[command(subcommand)]
    verb: Option<QuotaVerb>,
}

#[derive(Debug, Subcommand)]
enum QuotaVerb {
    /// Show what a tenant uses and may use
    #[command(after_help = "\
Examples:
  relay quota show
  relay quota show forge --json")]
    Show {
        /// The first segment of its namespaces; that of --ns where absent
        tenant: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct Audit {
    #[command(subcommand)]
    verb: Option<AuditVerb>,
}

#[derive(Debug, Subcommand)]
enum AuditVerb {
    /// Show what was refused and what administrators did, latest last
    #[command(after_help = "\
Examples:
  relay audit tail
  relay audit tail --limit 1000 -o ndjson")]
    Tail {
        /// How many entries
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
}

#[derive(Debug, Args)]
pub struct Token {
    #[command(subcommand)]
    verb: Option<TokenVerb>,
}

#[derive(Debug, Subcommand)]
enum TokenVerb {
    /// Make a token; it is printed once, alone on stdout
    #[command(after_help = "\
Examples:
  relay token create --for metrics > metrics.token
  relay token create --for user --uses 1 --expires 24h")]
    Create {
        /// What it opens
        #[arg(long = "for", value_name = "WHAT", default_value = "user")]
        purpose: Purpose,
        /// Only for ids of this pattern
        #[arg(long, value_name = "PATTERN")]
        id: Option<String>,
        /// How many times
        #[arg(long, value_name = "N")]
        uses: Option<u32>,
        /// How long; 0 for ever
        #[arg(long, value_name = "DUR", default_value = "24h", value_parser = times::parse_duration)]
        expires: Duration,
    },
    /// List tokens, never their text
    #[command(after_help = "\
Examples:
  relay token ls
  relay token ls --json")]
    Ls,
    /// Make a token worthless
    #[command(after_help = "\
Examples:
  relay token revoke tok_00ab34cd56ef7890
  relay token revoke tok_00ab34cd56ef7890 --yes")]
    Revoke {
        /// Its id, as ls shows it
        token: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Purpose {
    User,
    Admin,
    Metrics,
    Spoke,
}

fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|word| word.get_name().to_owned()).unwrap_or_default()
}

impl Acl {
    pub async fn run(self, app: &App) -> Outcome {
        match self.verb.unwrap_or(AclVerb::Show) {
            AclVerb::Show => {
                let answer = ask(app, Request::get("/v1/acl"), "the rules").await?;
                list(app, &answer, "rules", &["ns", "who", "allow", "deny", "source"])
            }
            AclVerb::Test { who, op } => test(app, &who, op).await,
            AclVerb::Set { file, name, dry_run } => set(app, &file, &name, dry_run).await,
        }
    }
}

async fn test(app: &App, who: &str, op: Op) -> Outcome {
    if who != "*" {
        ids::parse_key(who).map_err(Failure::usage)?;
    }
    let target = app.target()?;
    let ns: Namespace = app.ns(&target)?;
    let who = ids::parse_key(who).map_or_else(|_| who.to_owned(), |id: NodeId| id.to_string());
    let request = Request::get("/v1/acl/test")
        .query("who", Some(who))
        .query("ns", Some(ns))
        .query("op", Some(word(op)));
    let answer = ask(app, request, "the test").await?;
    app.out.one(&answer, &["allowed", "rule", "source"])?;
    Ok(if answer["allowed"] == json!(true) { 0 } else { exit::NOT_ALLOWED })
}

async fn set(app: &App, file: &std::path::Path, name: &str, dry_run: bool) -> Outcome {
    let text = std::fs::read_to_string(file).map_err(|error| files::at(file, &error))?;
    let rules: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    if !rules["rules"].is_array() {
        return Err(Failure::usage(format!("{}: there is no list 'rules'", file.display())));
    }
    let target = app.target()?;
    let key = app.key(&target)?;
    let mut tags = Tags::new();
    tags.push(["d", name]);
    let draft = Draft {
        kind: reserved::ACL_POLICY,
        created_at_ns: unix_ns(),
        tags,
        content: rules.to_string(),
    };
    let event = draft.sign(&key).map_err(|error| Failure::usage(error.to_string()))?;
    if dry_run {
        output::line(&String::from_utf8_lossy(event.json()))?;
        return Ok(0);
    }
    let client = app.client_for(&target, false).await?;
    let answer = client.publish(&event).await.map_err(|error| Failure::of(error, "the rules"))?;
    let answer =
        serde_json::to_value(answer).map_err(|error| Failure::failed(error.to_string()))?;
    app.out.one(&answer, &["id", "seq", "status"])?;
    Ok(0)
}

impl Quota {
    pub async fn run(self, app: &App) -> Outcome {
        let QuotaVerb::Show { tenant } = self.verb.unwrap_or(QuotaVerb::Show { tenant: None });
        let tenant = match tenant {
            Some(tenant) => tenant,
            None => app.ns(&app.target()?)?.tenant().to_owned(),
        };
        let request = Request::get("/v1/quota").query("tenant", Some(&tenant));
        let answer = ask(app, request, &format!("quota of {tenant}")).await?;
        app.out.one(&answer, &["tenant"])?;
        Ok(0)
    }
}

impl Audit {
    pub async fn run(self, app: &App) -> Outcome {
        let AuditVerb::Tail { limit } = self.verb.unwrap_or(AuditVerb::Tail { limit: 50 });
        let request = Request::get("/v1/audit").query("limit", Some(limit));
        let mut answer = ask(app, request, "the audit log").await?;
        // The relay tells the latest first; at a terminal the latest is read at the bottom.
        if !app.out.is_json()
            && let Some(items) = answer["items"].as_array_mut()
        {
            items.reverse();
        }
        list(app, &answer, "items", &["at_ns", "actor", "action", "subject", "outcome", "count"])
    }
}

impl Token {
    pub async fn run(self, app: &App) -> Outcome {
        match self.verb.unwrap_or(TokenVerb::Ls) {
            TokenVerb::Create { purpose, id, uses, expires } => {
                let mut body = json!({ "for": word(purpose) });
                if let Some(id) = id {
                    body["pattern"] = id.into();
                }
                if let Some(uses) = uses {
                    body["uses"] = uses.into();
                }
                if !expires.is_zero() {
                    body["expires_in_ms"] = (expires.as_millis() as u64).into();
                }
                let answer = ask(app, Request::post("/v1/tokens", &body), "the token").await?;
                if app.out.is_json() {
                    app.out.one(&answer, &[])?;
                } else {
                    output::line(answer["token"].as_str().unwrap_or_default())?;
                    app.notice("this is the only time that it is shown");
                }
                Ok(0)
            }
            TokenVerb::Ls => {
                let answer = ask(app, Request::get("/v1/tokens"), "the tokens").await?;
                let columns = ["id", "for", "pattern", "uses_left", "expires_at_ms", "created_by"];
                list(app, &answer, "items", &columns)
            }
            TokenVerb::Revoke { token } => {
                app.confirm("revoke", &token)?;
                let path = format!("/v1/tokens/{token}");
                let request = Request::new(Method::DELETE, path);
                let answer = ask(app, request, &format!("token {token}")).await?;
                app.out.one(&answer, &["status", "id"])?;
                Ok(0)
            }
        }
    }
}

async fn ask(app: &App, request: Request, object: &str) -> Result<Value, Failure> {
    let client = app.client().await?;
    let bytes = client.fetch(request).await.map_err(|error| Failure::of(error, object))?;
    if bytes.is_empty() {
        return Ok(json!({ "status": "ok" }));
    }
    serde_json::from_slice(&bytes).map_err(|error| Failure::failed(format!("{object}: {error}")))
}

fn list(app: &App, answer: &Value, member: &str, columns: &[&str]) -> Outcome {
    let items = answer[member].as_array().cloned().unwrap_or_default();
    if items.is_empty() {
        app.advice("nothing to show");
    }
    app.out.list(answer, &items, columns)?;
    Ok(0)
}
