//! `relay join` and `leave`: becoming a spoke of a hub.

use std::path::PathBuf;

use clap::Args;
use relay_client::{Client, Error, Request, unix_ns};
use relay_node::{config::Sources, join::Joined};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    app::App,
    error::{Failure, Outcome, exit},
    prompt,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay join
  relay join --token-file join-code --fallback wss://relay-b.example.com

The join code is read from a prompt, from --token-file, or from stdin with --token-file -.")]
pub struct Join {
    /// Hubs to turn to when that one is out of reach
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    fallback: Vec<String>,
    /// Where the data of the relay lies, where none runs on this machine
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay leave
  relay leave --yes")]
pub struct Leave {
    /// Where the data of the relay lies, where none runs on this machine
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Join {
    pub async fn run(self, app: &App) -> Outcome {
        let code = self.code(app)?;
        let joined = Joined::from_code(&code, unix_ns() / 1_000_000)
            .map_err(|problem| Failure::usage(problem.message))?;
        check_pin(app, &joined).await?;
        match running(app, self.data_dir.is_some())? {
            Some(relay) => self.join_running(app, &relay, &code, &joined).await,
            None => self.join_later(app, joined),
        }
    }

    fn code(&self, app: &App) -> Result<String, Failure> {
        if let Some(file) = &app.global.token_file {
            return Ok(prompt::secret_file(file)?.to_string());
        }
        if prompt::possible(app.global.no_input) {
            return Ok(prompt::secret("Join code")?.to_string());
        }
        Err(Failure::usage("a join code is needed")
            .hint("relay join --token-file PATH", "read it from a file; - is stdin")
            .hint("relay token create --for spoke", "on the hub, makes one"))
    }

    async fn join_running(&self, app: &App, relay: &str, code: &str, joined: &Joined) -> Outcome {
        let client = local(app, relay)?;
        let asked = json!({ "code": code.trim(), "fallback": self.fallback });
        let failed = |error| Failure::of(error, &joined.url);
        let request = Request::post("/v1/federation/join", &asked);
        let _: Value = client.call(request).await.map_err(failed)?;
        let linked = async {
            loop {
                let status: Value = client.call(Request::get("/status")).await?;
                if status["is_attached"] == true && status["hub"].is_string() {
                    return Ok(status);
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(app.timeout(), linked).await {
            Ok(status) => {
                let status = status.map_err(failed)?;
                app.notice(&super::operate::linked(&status).unwrap_or_default());
                app.out.one(&status, &["relay", "address", "hub"])?;
                Ok(0)
            }
            Err(_) => {
                let status: Value = client.call(Request::get("/status")).await.map_err(failed)?;
                let why = status["uplink"]["last_error"].as_str().unwrap_or("no answer yet");
                Err(Failure::new(exit::UNREACHABLE, format!("no link to {} yet", joined.url))
                    .fact(format!("the relay goes on trying; last: {why}"))
                    .hint("relay status", "how it goes"))
            }
        }
    }

    /// No relay runs here: the next one that starts on this data links.
    fn join_later(&self, app: &App, joined: Joined) -> Outcome {
        let config = super::config::load(&sources(app, self.data_dir.as_ref()))?.config;
        let joined = Joined { fallback: self.fallback.clone(), ..joined };
        joined.save(&config).map_err(|problem| Failure::failed(problem.message))?;
        app.notice("kept; relay serve links to the hub");
        let dir = config.node.data_dir();
        app.out
            .one(&json!({ "url": joined.url, "data_dir": dir.display().to_string() }), &["url"])?;
        Ok(0)
    }
}

impl Leave {
    pub async fn run(self, app: &App) -> Outcome {
        app.confirm("leave", "the hub")?;
        let left = match running(app, self.data_dir.is_some())? {
            Some(relay) => {
                let request = Request::new(Method::DELETE, "/v1/federation/join");
                let asked: Result<Value, _> = local(app, &relay)?.call(request).await;
                asked.map(|_| true).map_err(|error| Failure::of(error, "leave"))?
            }
            None => {
                let config = super::config::load(&sources(app, self.data_dir.as_ref()))?.config;
                Joined::forget(&config)?
            }
        };
        if !left {
            return Err(Failure::new(exit::NOT_FOUND, "this relay has joined no hub"));
        }
        app.notice("left");
        Ok(0)
    }
}

/// Whoever answers there must have the key of the code.
pub async fn check_pin(app: &App, joined: &Joined) -> Result<(), Failure> {
    let failed = |error: Error| Failure::of(error, &joined.url);
    let relay = Client::builder(&joined.url).map_err(|error| Failure::usage(error.to_string()))?;
    let relay = relay.timeout(app.timeout()).build();
    let relay = relay.map_err(|error| Failure::usage(error.to_string()))?;
    let info = relay.info().await.map_err(failed)?;
    if info["key"] != joined.key.to_string() {
        let what = format!("{} has another key than the join code says", joined.url);
        return Err(Failure::new(exit::NOT_ALLOWED, what)
            .fact(format!("expected {}", joined.key))
            .fact(format!("found    {}", info["key"].as_str().unwrap_or("none")))
            .hint("ask its operator", "before you use this relay"));
    }
    Ok(())
}

/// How often a link that is being made is looked at.
const LOOK: std::time::Duration = std::time::Duration::from_millis(100);

/// The relay that was named or runs on this machine; a join code is no token for it.
fn running(app: &App, elsewhere: bool) -> Result<Option<String>, Failure> {
    if elsewhere {
        return Ok(None);
    }
    if let Some(url) = &app.global.url {
        return Ok(Some(url.clone()));
    }
    Ok(app.local_target()?.map(|target| target.url))
}

fn local(app: &App, url: &str) -> Result<Client, Failure> {
    let builder = Client::builder(url).map_err(|error| Failure::usage(error.to_string()))?;
    let builder = match app.key_path(&Default::default())? {
        Some(path) if !url.starts_with("unix:") => builder.key(app.signer(&path)?),
        _ => builder,
    };
    let client = builder.timeout(app.timeout()).build();
    client.map_err(|error| Failure::usage(error.to_string()))
}

fn sources(app: &App, data_dir: Option<&PathBuf>) -> Sources {
    let flags = data_dir.map(|dir| relay_node::config::FlagValue {
        flag: "--data-dir".into(),
        path: "node.data_dir".into(),
        value: dir.to_string_lossy().into_owned(),
    });
    Sources::of_process(app.global.config.clone(), flags.into_iter().collect())
}
