//! What the relay's operators do: hide, refuse, judge, remove, and see who holds how much.

use clap::Args;
use relay_client::{
    Request,
    proto::polycentric::{EventKey, SystemKey},
};
use serde_json::{Value, json};

use super::{parse_event, parse_system};
use crate::{
    app::App,
    error::{Failure, Outcome},
};

pub const CENSOR_EXAMPLES: &str = "\
Examples:
  relay social censor ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541 --refuse
  relay social uncensor ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541";
pub const CENSORED_EXAMPLES: &str = "\
Examples:
  relay social censored
  relay social censored --json";
pub const QUEUE_EXAMPLES: &str = "\
Examples:
  relay social queue
  relay social queue --after 4711 --json";
pub const JUDGE_EXAMPLES: &str = "\
Examples:
  relay social approve 4711 --tag hate=0 --tag sexual=0 --tag violence=1
  relay social hide 4712";
pub const PURGE_EXAMPLES: &str = "\
Examples:
  relay social purge ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541
  relay social purge ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541 --dry-run";
pub const USAGE_EXAMPLES: &str = "\
Examples:
  relay social usage
  relay social usage ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541";

const USAGE: [&str; 6] = ["system", "handle", "processes", "events", "bytes", "bytes_limit"];

/// What is hidden: an identity, an event, or what a link leads to.
#[derive(Debug, Clone)]
enum What {
    System(SystemKey),
    Event(EventKey),
    Link(String),
}

fn parse_what(text: &str) -> Result<What, String> {
    if let Ok(event) = parse_event(text) {
        return Ok(What::Event(event));
    }
    if let Ok(system) = parse_system(text) {
        return Ok(What::System(system));
    }
    if text.contains("://") || text.starts_with("polycentric:") {
        return Ok(What::Link(text.to_owned()));
    }
    Err("neither a key (ed25519:…), nor an event (ed25519:…/PROCESS/CLOCK), nor a link".to_owned())
}

impl What {
    fn named(&self) -> Value {
        match self {
            Self::System(system) => json!({ "system": system.to_string() }),
            Self::Event(key) => json!({
                "system": key.system.to_string(),
                "process": relay_client::social::process_name(key.process),
                "clock": key.clock,
            }),
            Self::Link(url) => json!({ "url": url }),
        }
    }
}

#[derive(Debug, Args)]
pub struct Censor {
    /// An identity, an event, or a link to one
    #[arg(value_parser = parse_what, value_name = "WHAT")]
    what: What,
    /// Do not store it any more, either
    #[arg(long)]
    refuse: bool,
}

impl Censor {
    pub async fn run(self, app: &App) -> Outcome {
        let mut body = self.what.named();
        body["refuse"] = self.refuse.into();
        post(app, "/v1/social/censor", &body).await
    }
}

#[derive(Debug, Args)]
pub struct Uncensor {
    /// An identity, an event, or a link to one
    #[arg(value_parser = parse_what, value_name = "WHAT")]
    what: What,
}

impl Uncensor {
    pub async fn run(self, app: &App) -> Outcome {
        post(app, "/v1/social/uncensor", &self.what.named()).await
    }
}

pub async fn censored(app: &App) -> Outcome {
    let answer = call(app, Request::get("/v1/social/censored")).await?;
    list(app, &answer, &["system", "process", "clock", "refused"], "nothing is hidden")
}

#[derive(Debug, Args)]
pub struct Queue {
    /// Only what came after this number
    #[arg(long, default_value_t = 0, value_name = "SEQ")]
    after: u64,
}

impl Queue {
    pub async fn run(self, app: &App) -> Outcome {
        let request = Request::get("/v1/social/waiting").query("after", Some(self.after));
        let answer = call(app, request).await?;
        let columns = ["seq", "content_type", "system", "text"];
        list(app, &answer, &columns, "nothing waits for a verdict")
    }
}

#[derive(Debug, Args)]
pub struct Judge {
    /// The number in the queue
    seq: u64,
    /// What it is like, as NAME=LEVEL; repeatable
    #[arg(long, value_name = "NAME=LEVEL", value_parser = parse_tag)]
    tag: Vec<(String, u32)>,
}

fn parse_tag(text: &str) -> Result<(String, u32), String> {
    let (name, level) = text.split_once('=').ok_or("a tag is written NAME=LEVEL")?;
    let level = level.parse().map_err(|_| format!("'{level}' is no level"))?;
    Ok((name.to_owned(), level))
}

impl Judge {
    pub async fn run(self, app: &App, approve: bool) -> Outcome {
        let body = json!({ "seq": self.seq, "approve": approve, "tags": self.tag });
        post(app, "/v1/social/moderate", &body).await
    }
}

#[derive(Debug, Args)]
pub struct Purge {
    /// The identity
    #[arg(value_parser = parse_system, value_name = "KEY")]
    who: SystemKey,
    /// Only show what would be removed
    #[arg(long)]
    dry_run: bool,
}

impl Purge {
    pub async fn run(self, app: &App) -> Outcome {
        if self.dry_run {
            return Usage { who: Some(self.who) }.run(app).await;
        }
        app.confirm("remove every event of", &self.who.to_string())?;
        post(app, "/v1/social/purge", &json!({ "system": self.who.to_string() })).await
    }
}

#[derive(Debug, Args)]
pub struct Usage {
    /// One identity; those that hold most, where absent
    #[arg(value_parser = parse_system, value_name = "KEY")]
    who: Option<SystemKey>,
}

impl Usage {
    pub async fn run(self, app: &App) -> Outcome {
        let system = self.who.map(|who| who.to_string());
        let request = Request::get("/v1/social/usage").query("system", system);
        let answer = call(app, request).await?;
        list(app, &answer, &USAGE, "nobody has anything here")
    }
}

pub(super) fn list(app: &App, answer: &Value, columns: &[&str], empty: &str) -> Outcome {
    let items = answer["items"].as_array().map_or(&[][..], Vec::as_slice);
    if items.is_empty() {
        app.advice(empty);
    }
    app.out.list(answer, items, columns)?;
    Ok(0)
}

pub(super) async fn post(app: &App, path: &str, body: &Value) -> Outcome {
    call(app, Request::post(path, body)).await?;
    Ok(0)
}

pub(super) async fn call(app: &App, request: Request) -> Result<Value, Failure> {
    let client = app.client().await?;
    client.call(request).await.map_err(|error| Failure::of(error, "the social layer"))
}
