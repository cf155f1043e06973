//! `relay user`: users as an operator sees them.

use clap::{Args, Subcommand};
use relay_client::Request;
use serde_json::{Value, json};

use crate::{
    app::App,
    error::{Failure, Outcome},
};

const COLUMNS: [&str; 5] = ["user_id", "sessions", "conversations", "key_packages", "blob_bytes"];

#[derive(Debug, Args)]
pub struct UserGroup {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List users
    #[command(after_help = "\
Examples:
  relay user ls
  relay user ls --json")]
    Ls,
    /// Show what the relay has of a user
    #[command(after_help = "\
Examples:
  relay user show ed25519:56d8…
  relay user show ed25519:56d8… --json")]
    Show {
        /// The user's key
        user: String,
    },
    /// End every session and proof of a user
    #[command(after_help = "\
Examples:
  relay user revoke-tokens ed25519:56d8…
  relay user revoke-tokens ed25519:56d8… --yes")]
    RevokeTokens {
        /// The user's key
        user: String,
    },
    /// Delete what the relay has of a user, besides messages that others received
    #[command(after_help = "\
Examples:
  relay user purge ed25519:56d8…
  relay user purge ed25519:56d8… --yes")]
    Purge {
        /// The user's key
        user: String,
    },
}

impl UserGroup {
    pub async fn run(self, app: &App) -> Outcome {
        match self.verb {
            Verb::Ls => list(app).await,
            Verb::Show { user } => {
                let path = format!("/v1/users/{user}");
                let answer = call(app, Request::get(path), &user).await?;
                app.out.one(&answer, &COLUMNS)?;
                Ok(0)
            }
            Verb::RevokeTokens { user } => {
                change(app, "/v1/users/revoke_tokens", "revoke the tokens of", &user).await
            }
            Verb::Purge { user } => change(app, "/v1/users/purge", "purge", &user).await,
        }
    }
}

/// Every page, as one list.
async fn list(app: &App) -> Outcome {
    let mut items = Vec::new();
    let mut path = "/v1/users?limit=1000".to_owned();
    loop {
        let page = call(app, Request::get(path), "users").await?;
        items.extend(page["items"].as_array().cloned().unwrap_or_default());
        match page["cursor"].as_str() {
            Some(cursor) => path = format!("/v1/users?limit=1000&cursor={cursor}"),
            None => break,
        }
    }
    app.out.list(&json!({ "items": items }), &items, &COLUMNS)?;
    Ok(0)
}

async fn change(app: &App, path: &str, verb: &str, user: &str) -> Outcome {
    app.confirm(verb, user)?;
    let answer = call(app, Request::post(path, &json!({ "user_id": user })), user).await?;
    app.out.one(&answer, &["status", "invalidated", "sessions", "conversations"])?;
    Ok(0)
}

async fn call(app: &App, request: Request, object: &str) -> Result<Value, Failure> {
    let client = app.client().await?;
    client.call(request).await.map_err(|error| Failure::of(error, object))
}
