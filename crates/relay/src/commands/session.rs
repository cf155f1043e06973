//! `relay login`, `logout`, `whoami` and `relay session`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use relay_client::{Client, Error, Request, unix_ns};
use relay_node::join::{JOIN_CODE, Joined};
use serde_json::{Value, json};

use super::context::{absolute, normal};
use crate::{
    app::{App, Target},
    complete,
    contexts::{self, Contexts, is_name},
    error::{Failure, Outcome, exit},
    prompt,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay login https://relay.example.com
  relay login https://relay.example.com --name work --key ~/.ssh/id_ed25519
  relay login --invite-file -     (paste what `relay invite` printed there, then Ctrl-D)")]
pub struct Login {
    /// The relay; the chosen one where absent
    address: Option<String>,
    /// What `relay invite` printed at the relay: its address and its key; - is stdin
    #[arg(long, value_name = "PATH", conflicts_with = "address")]
    invite_file: Option<PathBuf>,
    /// What to call it; its host where absent
    #[arg(long)]
    name: Option<String>,
    /// Names this machine among your sessions
    #[arg(long, value_name = "ID")]
    device: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay logout
  relay logout --context work")]
pub struct Logout {}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay whoami
  relay whoami --json")]
pub struct Whoami {}

#[derive(Debug, Args)]
pub struct SessionGroup {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List your sessions
    #[command(after_help = "\
Examples:
  relay session ls
  relay session ls --json")]
    Ls,
    /// End one of your sessions, or all of a device
    #[command(after_help = "\
Examples:
  relay session revoke sid_4fT0a9
  relay session revoke --device d_laptop1 --yes")]
    Revoke {
        /// Its id
        #[arg(required_unless_present = "device", add = complete::sessions())]
        session: Option<String>,
        /// All sessions of this device
        #[arg(long, value_name = "ID", conflicts_with = "session")]
        device: Option<String>,
        /// The present session too
        #[arg(long)]
        include_self: bool,
    },
}

impl Login {
    pub async fn run(self, app: &App) -> Outcome {
        let mut contexts = Contexts::load()?;
        let address = match (self.invite_file, self.address) {
            (Some(file), _) => Some(invited(app, &file).await?),
            (None, Some(address)) if address.starts_with(JOIN_CODE) => {
                return Err(Failure::usage(
                    "an invite is a secret; on a command line others see it",
                )
                .hint("relay login --invite-file PATH", "read it from a file; - is stdin"));
            }
            (None, address) => address,
        };
        let target = match &address {
            Some(address) => {
                let url = normal(address)?;
                let known = contexts.context.iter().find(|(_, context)| context.url == url);
                let (name, context) = known
                    .map(|(name, context)| (Some(name.clone()), context.clone()))
                    .unwrap_or_default();
                Target { url, name, context }
            }
            None => app.target()?,
        };
        let name = self
            .name
            .clone()
            .or_else(|| target.name.clone())
            .unwrap_or_else(|| name_of(&target.url));
        if !is_name(&name) {
            return Err(Failure::usage(format!("'{name}' is no name for a context; give --name")));
        }
        let key = app.key(&target)?;
        let key_path = app.key_path(&target)?;
        let device = match self.device.or_else(|| target.context.device_id.clone()) {
            Some(device) => device,
            None => new_device()?,
        };
        let client = builder(app, &target)?
            .key(key)
            .build()
            .map_err(|error| Failure::usage(error.to_string()))?;
        let session = client
            .login(&device, Some("relay-cli"))
            .await
            .map_err(|error| Failure::of(error, &format!("login at {}", target.url)))?;
        contexts::save_session(&name, &session)?;
        let mut context = target.context;
        context.url = target.url;
        context.device_id = Some(device);
        context.key = absolute(key_path)?;
        context.ns = app.global.ns.clone().or(context.ns);
        contexts.context.insert(name.clone(), context);
        contexts.current = Some(name.clone());
        contexts.save()?;
        app.notice(&format!("logged in; '{name}' is the selected context"));
        app.out.one(
            &json!({ "user_id": session.user_id, "context": name }),
            &["user_id", "context"],
        )?;
        Ok(0)
    }
}

/// The address in an invite, once whoever answers there has shown the key that is in it too.
async fn invited(app: &App, file: &Path) -> Result<String, Failure> {
    let code = prompt::secret_file(file)?;
    let joined = Joined::from_code(&code, unix_ns() / 1_000_000)
        .map_err(|problem| Failure::usage(problem.message))?;
    super::join::check_pin(app, &joined).await?;
    Ok(joined.url)
}

impl Logout {
    pub async fn run(self, app: &App) -> Outcome {
        let target = app.target()?;
        let name =
            target.name.clone().filter(|name| matches!(contexts::session(name), Ok(Some(_))));
        let Some(name) = name else {
            return Err(Failure::new(exit::NOT_FOUND, format!("no session at {}", target.url)));
        };
        let client = app.client().await?;
        let ended = client.logout().await;
        contexts::forget_session(&name)?;
        match ended {
            Ok(answer) => {
                app.out.one(&answer, &["status"])?;
                Ok(0)
            }
            // It had ended already, which is what was wanted.
            Err(error) if error.code() == Some(relay_proto::Code::Unauthorized) => Ok(0),
            Err(error) => {
                let failure = Failure::of(error, "logout");
                Err(failure.fact("the session was forgotten here; at the relay it ends by itself"))
            }
        }
    }
}

impl Whoami {
    pub async fn run(self, app: &App) -> Outcome {
        let target = app.target()?;
        let client = app.client_with_key().await?;
        let request = Request::get("/v1/whoami").query("ns", app.chosen_ns(&target)?);
        let mut answer: Value =
            client.call(request).await.map_err(|error| Failure::of(error, "who you are"))?;
        answer["url"] = target.url.into();
        answer["context"] = target.name.into();
        app.out.one(&answer, &["principal", "via", "url", "context", "ns", "rights"])?;
        Ok(0)
    }
}

impl SessionGroup {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        match self.verb.unwrap_or(Verb::Ls) {
            Verb::Ls => {
                let answer =
                    client.sessions().await.map_err(|error| Failure::of(error, "your sessions"))?;
                let items = answer["sessions"].as_array().cloned().unwrap_or_default();
                let columns = [
                    "is_current",
                    "session_id",
                    "device_id",
                    "client_label",
                    "last_seen_at_ms",
                    "expires_at_ms",
                ];
                app.out.list(&answer, &items, &columns)?;
                Ok(0)
            }
            Verb::Revoke { session, device, include_self } => {
                let object = session.clone().or_else(|| device.clone()).unwrap_or_default();
                app.confirm("revoke", &object)?;
                let answer = revoke(&client, session, device, include_self)
                    .await
                    .map_err(|error| Failure::of(error, &format!("session {object}")))?;
                let revoked = answer["revoked"].as_u64().unwrap_or(0);
                app.out.one(&answer, &["status", "revoked"])?;
                Ok(if revoked == 0 { exit::NOT_FOUND } else { 0 })
            }
        }
    }
}

async fn revoke(
    client: &Client,
    session: Option<String>,
    device: Option<String>,
    include_self: bool,
) -> Result<Value, Error> {
    match (session, device) {
        (Some(session), _) => client.revoke_session("session_id", &session, include_self).await,
        (None, device) => {
            client.revoke_session("device_id", &device.unwrap_or_default(), include_self).await
        }
    }
}

fn builder(app: &App, target: &Target) -> Result<relay_client::ClientBuilder, Failure> {
    Client::builder(&target.url)
        .map(|builder| builder.timeout(app.timeout()))
        .map_err(|error| Failure::usage(error.to_string()))
}

/// The host, or `local`.
pub fn name_of(url: &str) -> String {
    let host = url.split("://").nth(1).unwrap_or("local");
    let host = host.split(['/', '?']).next().unwrap_or(host);
    host.replace([':', '[', ']'], "-").trim_matches('-').to_owned()
}

fn new_device() -> Result<String, Failure> {
    let id = relay_client::locks::new_request_id()
        .map_err(|error| Failure::failed(error.to_string()))?;
    let letters: String = id.chars().filter(char::is_ascii_alphanumeric).take(14).collect();
    Ok(format!("d_{letters}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_called_after_the_host() {
        assert_eq!(name_of("https://relay.example.com/x"), "relay.example.com");
        assert_eq!(name_of("http://127.0.0.1:8080"), "127.0.0.1-8080");
        assert_eq!(name_of("http://[::1]:8080"), "--1--8080".trim_matches('-'));
        assert_eq!(name_of("unix:/run/relay.sock"), "local");
    }
}
