//! `relay directory`: which relay has which key and address, signed and handed around.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use relay_client::{Client, Request, unix_ns};
use relay_fed::{DirectoryEntry, DirectoryFile};
use relay_proto::RelayId;
use serde_json::{Value, json};

use crate::{
    app::App,
    error::{Failure, Outcome},
    files, output, times,
};

#[derive(Debug, Args)]
pub struct DirectoryGroup {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Sign a directory: the entries of a file, with your key
    #[command(after_help = "\
Examples:
  relay directory sign entries.json > directory.json
  relay directory sign directory.json --key ~/.ssh/id_ed25519")]
    Sign {
        /// A list of {gateway_id, gateway_url, node_id, expires_at}, or a directory to sign anew
        file: PathBuf,
    },
    /// Check a directory's form and signature
    #[command(after_help = "\
Examples:
  relay directory verify directory.json
  relay directory verify directory.json --json")]
    Verify {
        /// The directory
        file: PathBuf,
    },
    /// Ask a relay who it is, add it, and sign the directory anew
    #[command(after_help = "\
Examples:
  relay directory add directory.json https://relay-a.example.com
  relay directory add directory.json https://relay-a.example.com --expires 90d")]
    Add {
        /// The directory; made where it is not there
        file: PathBuf,
        /// The relay's address
        relay: String,
        /// How long the entry holds
        #[arg(long, value_name = "DUR", default_value = "365d", value_parser = times::parse_duration)]
        expires: Duration,
    },
    /// Ask the relay where another one is
    #[command(after_help = "\
Examples:
  relay directory resolve relay-a.example.com
  relay directory resolve relay-a.example.com --json")]
    Resolve {
        /// Its id
        id: RelayId,
    },
}

impl DirectoryGroup {
    pub async fn run(self, app: &App) -> Outcome {
        match self.verb {
            Verb::Sign { file } => {
                let signed = sign(app, entries(&file)?)?;
                output::line(&signed.to_text())?;
                Ok(0)
            }
            Verb::Verify { file } => verify(app, &file),
            Verb::Add { file, relay, expires } => add(app, &file, &relay, expires).await,
            Verb::Resolve { id } => resolve(app, &id).await,
        }
    }
}

/// The entries of a file, signed already or not.
fn entries(file: &Path) -> Result<Vec<DirectoryEntry>, Failure> {
    let text = fs::read_to_string(file).map_err(|error| files::at(file, &error))?;
    if let Ok(entries) = serde_json::from_str(&text) {
        return Ok(entries);
    }
    Ok(parse(file, &text)?.entries)
}

fn parse(file: &Path, text: &str) -> Result<DirectoryFile, Failure> {
    DirectoryFile::parse(text)
        .map_err(|error| Failure::failed(format!("{}: {error}", file.display())))
}

fn sign(app: &App, entries: Vec<DirectoryEntry>) -> Result<DirectoryFile, Failure> {
    let path = app.key_path(&app.target().unwrap_or_default())?;
    let path = path.ok_or_else(|| {
        Failure::usage("a directory is signed with a key").hint("relay keys gen", "makes one")
    })?;
    let key = app.load_key(&path)?;
    DirectoryFile::sign(entries, &key).map_err(|error| Failure::usage(error.to_string()))
}

fn verify(app: &App, file: &Path) -> Outcome {
    let text = fs::read_to_string(file).map_err(|error| files::at(file, &error))?;
    let parsed = parse(file, &text)?;
    let now_ms = unix_ns() / 1_000_000;
    let over = parsed.entries.iter().filter(|entry| entry.expires_at <= now_ms).count();
    let answer = json!({
        "signed_by": parsed.signed_by,
        "entries": parsed.entries.len(),
        "expired": over,
    });
    app.out.one(&answer, &["signed_by", "entries", "expired"])?;
    Ok(0)
}

async fn add(app: &App, file: &Path, relay: &str, expires: Duration) -> Outcome {
    let mut all = if file.exists() { entries(file)? } else { Vec::new() };
    let client = Client::builder(relay).map_err(|error| Failure::usage(error.to_string()))?;
    let client = client.timeout(app.timeout()).build();
    let client = client.map_err(|error| Failure::usage(error.to_string()))?;
    let info = client.info().await.map_err(|error| Failure::of(error, relay))?;
    let entry = json!({
        "gateway_id": info["relay_id"],
        "gateway_url": relay,
        "node_id": info["key"],
        "expires_at": unix_ns() / 1_000_000 + expires.as_millis() as u64,
    });
    let entry: DirectoryEntry = serde_json::from_value(entry)
        .map_err(|error| Failure::failed(format!("{relay} does not say who it is: {error}")))?;
    all.retain(|known| known.gateway_id != entry.gateway_id);
    let answer = serde_json::to_value(&entry).unwrap_or_default();
    all.push(entry);
    let signed = sign(app, all)?;
    files::replace(file, signed.to_text().as_bytes()).map_err(|error| files::at(file, &error))?;
    app.out.one(&answer, &["gateway_id", "gateway_url", "node_id"])?;
    Ok(0)
}

async fn resolve(app: &App, id: &RelayId) -> Outcome {
    let client = app.client().await?;
    let request = Request::get("/v1/gateways/resolve").query("gateway_id", Some(id));
    let answer: Value =
        client.call(request).await.map_err(|error| Failure::of(error, id.as_str()))?;
    app.out.one(&answer, &["gateway_id", "gateway_url", "node_id"])?;
    Ok(0)
}
