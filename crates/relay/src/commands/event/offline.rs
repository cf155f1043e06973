//! `relay event sign`, `verify`, `decrypt` and `id`: they work on stdin and need no relay.

use std::io::{BufRead, Read};

use clap::Args;
use relay_client::{age, unix_ns};
use relay_proto::{
    EventLimits, NodeId,
    event::{Draft, Tags, parse_event, verify as verify_event},
    filter::parse_ns,
};
use serde::Deserialize;
use serde_json::json;

use super::publish;
use crate::{
    app::App,
    error::{Failure, Outcome, exit},
    output,
};

pub const SIGN_EXAMPLES: &str = "\
Examples:
  relay event sign < drafts.ndjson
  relay event sign --sshsig --key ~/.ssh/id_ed25519 < draft.json";
pub const VERIFY_EXAMPLES: &str = "\
Examples:
  relay event verify < events.ndjson
  relay event verify --json < event.json";
pub const DECRYPT_EXAMPLES: &str = "\
Examples:
  relay event decrypt < event.json
  relay event decrypt --key ~/.ssh/id_ed25519 < secret.age";
pub const ID_EXAMPLES: &str = "\
Examples:
  relay event id < event.json
  relay event id < drafts.ndjson";

#[derive(Debug, Args)]
pub struct Sign {
    /// Sign as ssh-keygen does
    #[arg(long)]
    sshsig: bool,
}

/// An event before it is signed, as people write it.
#[derive(Deserialize)]
struct Written {
    #[serde(default = "one")]
    kind: u16,
    #[serde(default)]
    tags: Tags,
    #[serde(default)]
    content: String,
    created_at_ns: Option<String>,
    pubkey: Option<NodeId>,
}

const fn one() -> u16 {
    1
}

impl Written {
    fn draft(self) -> Result<Draft, String> {
        let created_at_ns = match self.created_at_ns {
            Some(text) => {
                parse_ns(&text).ok_or("created_at_ns is a string of decimal nanoseconds")?
            }
            None => unix_ns(),
        };
        Ok(Draft { kind: self.kind, created_at_ns, tags: self.tags, content: self.content })
    }
}

impl Sign {
    pub fn run(self, app: &App) -> Outcome {
        let key = app.offline_key()?;
        for_each_line(|number, line| {
            let written: Written = serde_json::from_slice(line)
                .map_err(|error| Failure::failed(format!("line {number}: {error}")))?;
            let draft = written
                .draft()
                .map_err(|error| Failure::failed(format!("line {number}: {error}")))?;
            let event = publish::sign(&draft, &key, self.sshsig)?;
            Ok(output::line(&String::from_utf8_lossy(event.json()))?)
        })?;
        Ok(0)
    }
}

pub fn verify(app: &App) -> Outcome {
    let mut bad = 0_u64;
    for_each_line(|number, line| {
        let outcome = parse_event(line, &EventLimits::default()).and_then(verify_event);
        let answer = match &outcome {
            Ok(event) => {
                json!({ "line": number, "id": event.id(), "pubkey": event.pubkey(), "valid": true })
            }
            Err(error) => json!({ "line": number, "valid": false, "message": error.to_string() }),
        };
        bad += u64::from(outcome.is_err());
        if app.out.is_json() {
            return Ok(output::line(&answer.to_string())?);
        }
        Ok(output::line(&match outcome {
            Ok(event) => format!("ok\t{}\t{}", event.id(), event.pubkey()),
            Err(error) => format!("bad\tline {number}\t{error}"),
        })?)
    })?;
    Ok(if bad == 0 { 0 } else { exit::FAILED })
}

pub fn id(app: &App) -> Outcome {
    for_each_line(|number, line| {
        let failed = |what: String| Failure::failed(format!("line {number}: {what}"));
        let written: Written =
            serde_json::from_slice(line).map_err(|error| failed(error.to_string()))?;
        let author = match written.pubkey {
            Some(author) => author,
            None => app.offline_key()?.node_id(),
        };
        let draft = written.draft().map_err(failed)?;
        Ok(output::line(&relay_client::event_id(&draft, &author).to_string())?)
    })?;
    Ok(0)
}

pub fn decrypt(app: &App) -> Outcome {
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text)?;
    let sealed = match serde_json::from_str::<Written>(&text) {
        Ok(event) => event.content,
        Err(_) => text,
    };
    let signer = app.offline_key()?;
    let key = signer.key().ok_or_else(|| {
        Failure::usage("an agent signs but does not decrypt")
            .hint("--key ~/.ssh/id_ed25519", "the file of the key")
    })?;
    let plaintext = age::open(&sealed, key).map_err(|error| match error {
        age::SealError::NotForUs => {
            Failure::new(exit::NOT_ALLOWED, format!("not encrypted to {}", key.node_id()))
        }
        other => Failure::failed(other.to_string()),
    })?;
    let mut out = std::io::stdout().lock();
    std::io::Write::write_all(&mut out, &plaintext)?;
    std::io::Write::flush(&mut out)?;
    Ok(0)
}

/// Calls `act` with each line of stdin that is not empty, and its number.
fn for_each_line(mut act: impl FnMut(u64, &[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut input = std::io::stdin().lock();
    let mut line = Vec::new();
    let mut number = 0;
    while input.read_until(b'\n', &mut line)? > 0 {
        number += 1;
        let text = line.trim_ascii();
        if !text.is_empty() {
            act(number, text)?;
        }
        line.clear();
    }
    Ok(())
}
