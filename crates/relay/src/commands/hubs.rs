//! `relay peers` and `relay spokes`: the relays linked to this hub.

use clap::{Args, Subcommand};
use relay_client::Request;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    app::App,
    error::{Failure, Outcome, exit},
};

#[derive(Debug, Args)]
pub struct PeersGroup {
    #[command(subcommand)]
    verb: Option<PeersVerb>,
}

#[derive(Debug, Subcommand)]
enum PeersVerb {
    /// List other hubs
    #[command(after_help = "\
Examples:
  relay peers ls
  relay peers --json")]
    Ls,
    /// Link to another hub, from now on
    #[command(after_help = "\
Examples:
  relay peers add wss://relay-b.example.com
  relay peers add wss://relay-b.example.com --url unix:/run/relay/relay.sock")]
    Add {
        /// Its address
        hub: String,
    },
    /// End the links to another hub, and dial it no more
    #[command(after_help = "\
Examples:
  relay peers rm relay-b.example.com
  relay peers rm relay-b.example.com --yes")]
    Rm {
        /// Its id; its address where it never answered
        id: String,
    },
    /// Show one
    #[command(after_help = "\
Examples:
  relay peers show relay-b.example.com
  relay peers show relay-b.example.com --json")]
    Show {
        /// Its id
        id: String,
    },
}

#[derive(Debug, Args)]
pub struct SpokesGroup {
    #[command(subcommand)]
    verb: Option<SpokesVerb>,
}

#[derive(Debug, Subcommand)]
enum SpokesVerb {
    /// List home relays
    #[command(after_help = "\
Examples:
  relay spokes ls
  relay spokes --json")]
    Ls,
    /// Show one
    #[command(after_help = "\
Examples:
  relay spokes show alice.home
  relay spokes show alice.home --json")]
    Show {
        /// Its id
        id: String,
    },
    /// Let home relays of a pattern in, beside those of the configuration
    #[command(after_help = "\
Examples:
  relay spokes allow '*.home'
  relay spokes allow ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541")]
    Allow {
        /// Over ids, or a key
        pattern: String,
    },
    /// Shut home relays of a pattern out, and end their links
    #[command(after_help = "\
Examples:
  relay spokes deny mallory.home --yes
  relay spokes deny 'guest-*'")]
    Deny {
        /// Over ids, or a key
        pattern: String,
    },
    /// End the links of a home relay; it may come again
    #[command(after_help = "\
Examples:
  relay spokes kick alice.home
  relay spokes kick alice.home --yes")]
    Kick {
        /// Its id
        id: String,
    },
}

const PEER_COLUMNS: [&str; 6] =
    ["id", "is_connected", "is_suspect", "spokes", "services", "version"];
const SPOKE_COLUMNS: [&str; 6] =
    ["id", "is_attached", "is_healthy", "services", "attached_since_ms", "version"];

impl PeersGroup {
    pub async fn run(self, app: &App) -> Outcome {
        match self.verb {
            None | Some(PeersVerb::Ls) => {
                let advice = "no other hubs; relay peers add wss://HUB links to one";
                list(app, "/federation/peers", "peers", &PEER_COLUMNS, advice).await
            }
            Some(PeersVerb::Show { id }) => {
                show(app, "/federation/peers", "peers", &id, &PEER_COLUMNS).await
            }
            Some(PeersVerb::Add { hub }) => {
                let request = Request::post("/federation/peers/add", &json!({ "url": hub }));
                change(app, request, &hub).await
            }
            Some(PeersVerb::Rm { id }) => {
                app.confirm("remove", &id)?;
                let path = format!("/federation/peers/{}", in_path(&id));
                change(app, Request::new(Method::DELETE, path), &id).await
            }
        }
    }
}

/// An address as one segment of a path.
fn in_path(id: &str) -> String {
    id.replace('%', "%25").replace('/', "%2F").replace('?', "%3F").replace('#', "%23")
}

impl SpokesGroup {
    pub async fn run(self, app: &App) -> Outcome {
        match self.verb {
            None | Some(SpokesVerb::Ls) => {
                let advice = "no home relays; relay token create --for spoke makes a join code";
                list(app, "/federation/spokes", "spokes", &SPOKE_COLUMNS, advice).await
            }
            Some(SpokesVerb::Show { id }) => {
                show(app, "/federation/spokes", "spokes", &id, &SPOKE_COLUMNS).await
            }
            Some(SpokesVerb::Allow { pattern }) => {
                let request = Request::post("/federation/spokes", &json!({ "allow": pattern }));
                change(app, request, &pattern).await
            }
            Some(SpokesVerb::Deny { pattern }) => {
                app.confirm("deny", &pattern)?;
                let request = Request::post("/federation/spokes", &json!({ "deny": pattern }));
                change(app, request, &pattern).await
            }
            Some(SpokesVerb::Kick { id }) => {
                app.confirm("kick", &id)?;
                let path = format!("/federation/spokes/{id}");
                change(app, Request::new(Method::DELETE, path), &id).await
            }
        }
    }
}

async fn list(app: &App, path: &str, member: &str, columns: &[&str], advice: &str) -> Outcome {
    let answer = fetch(app, path, member).await?;
    let items = answer[member].as_array().cloned().unwrap_or_default();
    if items.is_empty() {
        app.advice(advice);
    }
    app.out.list(&answer, &items, columns)?;
    Ok(0)
}

async fn show(app: &App, path: &str, member: &str, id: &str, columns: &[&str]) -> Outcome {
    let answer = fetch(app, path, member).await?;
    let found = answer[member].as_array().into_iter().flatten().find(|item| item["id"] == id);
    let found = found.ok_or_else(|| {
        let what = format!("'{id}' is not among the {member} of this hub");
        Failure::new(exit::NOT_FOUND, what).hint(format!("relay {member}"), "who is")
    })?;
    app.out.one(found, columns)?;
    Ok(0)
}

async fn change(app: &App, request: Request, object: &str) -> Outcome {
    let client = app.client().await?;
    let answer: Value = client.call(request).await.map_err(|error| Failure::of(error, object))?;
    app.out.one(&answer, &["id", "url", "pattern"])?;
    Ok(0)
}

async fn fetch(app: &App, path: &str, what: &str) -> Result<Value, Failure> {
    let client = app.client().await?;
    client.call(Request::get(path)).await.map_err(|error| Failure::of(error, what))
}
