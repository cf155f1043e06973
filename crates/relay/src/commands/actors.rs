//! `relay actors`: what runs on the relay, for who looks after it.

use clap::{Args, Subcommand};
use relay_client::Request;
use relay_proto::ServiceName;
use serde_json::Value;

use crate::{
    app::App,
    error::{Failure, Outcome},
};

#[derive(Debug, Args)]
pub struct ActorsGroup {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the actors
    #[command(after_help = "\
Examples:
  relay actors ls
  relay actors ls --fields service_name,life,restarts")]
    Ls,
    /// Show one of them
    #[command(after_help = "\
Examples:
  relay actors show blog
  relay actors show blog --json")]
    Show {
        /// Its name
        name: ServiceName,
    },
    /// End its present life and begin the next, also where it was given up
    #[command(after_help = "\
Examples:
  relay actors restart blog
  relay actors restart blog -q")]
    Restart {
        /// Its name
        name: ServiceName,
    },
    /// Show its last log lines, and those that come
    #[command(after_help = "\
Examples:
  relay actors tail blog
  relay actors tail blog --lines 100 --no-follow")]
    Tail(Tail),
}

#[derive(Debug, Args)]
struct Tail {
    /// Its name
    name: ServiceName,
    /// How many of the kept lines
    #[arg(long, value_name = "N", default_value = "20")]
    lines: usize,
    /// End after those
    #[arg(long)]
    no_follow: bool,
}

const COLUMNS: [&str; 7] =
    ["service_name", "life", "is_healthy", "restarts", "waiting", "handled", "mean_us"];
const LINE: [&str; 3] = ["at_ms", "level", "message"];

impl ActorsGroup {
    pub async fn run(self, app: &App) -> Outcome {
        match self.verb.unwrap_or(Verb::Ls) {
            Verb::Ls => list(app).await,
            Verb::Show { name } => show(app, &name).await,
            Verb::Restart { name } => restart(app, &name).await,
            Verb::Tail(tail) => tail.run(app).await,
        }
    }
}

async fn list(app: &App) -> Outcome {
    let answer: Value = ask(app, Request::get("/v1/actors"), "actors").await?;
    let items = answer["items"].as_array().cloned().unwrap_or_default();
    if items.is_empty() {
        app.advice("nothing runs here; relay run FILE.rl starts a script");
    }
    app.out.list(&answer, &items, &COLUMNS)?;
    Ok(0)
}

async fn show(app: &App, name: &ServiceName) -> Outcome {
    let answer = ask(app, Request::get(format!("/v1/actors/{name}")), name.as_str()).await?;
    app.out.one(&answer, &COLUMNS)?;
    Ok(0)
}

async fn restart(app: &App, name: &ServiceName) -> Outcome {
    let request = Request::new(reqwest::Method::POST, format!("/v1/actors/{name}/restart"));
    ask(app, request, name.as_str()).await?;
    app.notice(&format!("{name} is restarted"));
    Ok(0)
}

impl Tail {
    async fn run(self, app: &App) -> Outcome {
        let path = format!("/v1/actors/{}/log", self.name);
        let request = Request::get(path).query("lines", Some(self.lines));
        let object = self.name.as_str();
        if self.no_follow {
            let answer = ask(app, request, object).await?;
            for line in answer["items"].as_array().into_iter().flatten() {
                app.out.item(line, &LINE)?;
            }
            return Ok(0);
        }
        let client = app.client().await?;
        let failed = |error| Failure::of(error, object);
        let request = request.query("follow", Some(true));
        let mut events = client.sse(request).await.map_err(failed)?;
        while let Some(event) = events.next().await.map_err(failed)? {
            let frame: Value = serde_json::from_str(&event.data).unwrap_or_default();
            app.out.item(&frame["body"], &LINE)?;
        }
        app.notice(&format!("{object} has ended"));
        Ok(0)
    }
}

async fn ask(app: &App, request: Request, object: &str) -> Result<Value, Failure> {
    let client = app.client().await?;
    client.call(request).await.map_err(|error| Failure::of(error, object))
}
