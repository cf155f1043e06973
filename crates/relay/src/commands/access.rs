//! `relay acl`, `quota`, `audit` and `token`: who may do what, and what was done.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};
use relay_client::{Request, unix_ns};
use relay_proto::{
    Namespace, NodeId,
    event::{Draft, Tags, reserved},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    app::{App, Target},
    complete,
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
    /// Replace rules (administrators); those of the configuration stay
    #[command(after_help = "\
Examples:
  relay acl set rules.json
  relay acl set rules.json --sign forge --dry-run")]
    Set {
        /// JSON: {\"rules\":[{\"ns\":…,\"who\":[…],\"allow\":[…]}],\"groups\":{…}}
        file: PathBuf,
        /// Publish them as an event of your own key under this name, instead of having the relay
        /// sign them for its operator
        #[arg(long, value_name = "NAME")]
        sign: Option<String>,
        /// Print what would be sent
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
        /// Every tenant (administrators)
        #[arg(long, conflicts_with = "tenant")]
        all: bool,
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
        #[command(flatten)]
        bounds: Bounds,
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
        #[arg(add = complete::tokens())]
        token: String,
    },
}

/// Whom, how often and how long a token lets in.
#[derive(Debug, Args)]
struct Bounds {
    /// Only for ids of this pattern
    #[arg(long, value_name = "PATTERN")]
    id: Option<String>,
    /// How many times
    #[arg(long, value_name = "N")]
    uses: Option<u32>,
    /// How long; 0 for ever
    #[arg(long, value_name = "DUR", default_value = "24h", value_parser = times::parse_duration)]
    expires: Duration,
    /// Also draw the code on the terminal, for a telephone's camera
    #[arg(long)]
    qr: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay invite --qr
  relay invite --uses 1 --expires 2h

Whoever gets the line types: relay login --invite-file -")]
pub struct Invite {
    #[command(flatten)]
    bounds: Bounds,
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
            AclVerb::Set { file, sign, dry_run } => set(app, &file, sign.as_deref(), dry_run).await,
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
    let body = json!({ "who": who, "ns": ns, "op": word(op) });
    let answer = ask(app, Request::post("/v1/acl/test", &body), "the test").await?;
    app.out.one(&answer, &["allowed", "reason", "rule"])?;
    Ok(if answer["allowed"] == json!(true) { 0 } else { exit::NOT_ALLOWED })
}

async fn set(app: &App, file: &Path, sign: Option<&str>, dry_run: bool) -> Outcome {
    let text = std::fs::read_to_string(file).map_err(|error| files::at(file, &error))?;
    let rules: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    if !rules["rules"].is_array() {
        return Err(Failure::usage(format!("{}: there is no list 'rules'", file.display())));
    }
    if let Some(name) = sign {
        return publish_rules(app, name, &rules, dry_run).await;
    }
    if dry_run {
        output::line(&rules.to_string())?;
        return Ok(0);
    }
    let request = Request::new(Method::PUT, "/v1/acl").json(&rules);
    let answer = ask(app, request, "the rules").await?;
    app.out.one(&answer, &["status", "event_id"])?;
    Ok(0)
}

async fn publish_rules(app: &App, name: &str, rules: &Value, dry_run: bool) -> Outcome {
    let target = match app.target() {
        Err(_) if dry_run => Target::default(),
        other => other?,
    };
    let key = app.key(&target)?;
    let mut tags = Tags::new();
    tags.push(["d", name]);
    let draft = Draft {
        kind: reserved::ACL_POLICY,
        created_at_ns: unix_ns(),
        tags,
        content: rules.to_string(),
    };
    let event = key.sign_event(&draft).map_err(|error| Failure::usage(error.to_string()))?;
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
        let QuotaVerb::Show { tenant, all } =
            self.verb.unwrap_or(QuotaVerb::Show { tenant: None, all: false });
        let tenant = match tenant {
            Some(tenant) => Some(tenant),
            None if all => None,
            None => Some(app.ns(&app.target()?)?.tenant().to_owned()),
        };
        let request = Request::get("/v1/quota").query("tenant", tenant.as_ref());
        let object = format!("quota of {}", tenant.as_deref().unwrap_or("all tenants"));
        let answer = ask(app, request, &object).await?;
        let columns = ["tenant", "bytes", "events", "locks", "subscriptions", "limits"];
        list(app, &answer, "tenants", &columns)
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
        list(app, &answer, "items", &["at_ms", "actor", "action", "subject", "outcome", "times"])
    }
}

impl Token {
    pub async fn run(self, app: &App) -> Outcome {
        match self.verb.unwrap_or(TokenVerb::Ls) {
            TokenVerb::Create { purpose, bounds } => create(app, purpose, bounds).await,
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

impl Invite {
    pub async fn run(self, app: &App) -> Outcome {
        create(app, Purpose::User, self.bounds).await
    }
}

async fn create(app: &App, purpose: Purpose, bounds: Bounds) -> Outcome {
    let Bounds { id, uses, expires, qr } = bounds;
    if qr && app.global.plain {
        return Err(Failure::usage("--qr draws a picture, which --plain forbids"));
    }
    let mut body = json!({ "for": word(purpose) });
    if let Some(id) = id {
        body["pattern"] = id.into();
    }
    if let Some(uses) = uses {
        body["uses"] = uses.into();
    }
    if !expires.is_zero() {
        body["expires_ms"] = (expires.as_millis() as u64).into();
    }
    let answer = ask(app, Request::post("/v1/tokens", &body), "the token").await?;
    if app.out.is_json() {
        app.out.one(&answer, &[])?;
    } else {
        let code = answer["join_code"].as_str().or_else(|| answer["token"].as_str());
        let code = code.unwrap_or_default();
        output::line(code)?;
        if qr {
            app.notice(&picture(code)?);
        }
        app.notice("this is the only time that it is shown");
    }
    Ok(0)
}

/// A QR code in half blocks, two rows of modules a line. It goes to stderr: on stdout the code stands alone.
fn picture(code: &str) -> Result<String, Failure> {
    let made = qrcode::QrCode::new(code).map_err(|error| Failure::failed(error.to_string()))?;
    Ok(made.render::<qrcode::render::unicode::Dense1x2>().build())
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
