//! `relay event publish`.

use std::{io::Read, path::Path, time::Duration};

use clap::Args;
use relay_client::{Error, Signer, age, import, unix_ns};
use relay_proto::{
    Event, NodeId,
    event::{Draft, SSHSIG_NAMESPACE, Tags},
};

use crate::{
    app::App,
    error::{Failure, Outcome},
    ids, output, times,
};

use super::transfer;

pub const EXAMPLES: &str = "\
Examples:
  relay event publish --content hello
  relay event publish --kind 30001 --d site/prod --fence site/prod --content @manifest.json
  relay event publish --encrypt-to ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541 --content -";

#[derive(Debug, Args)]
pub struct Publish {
    /// Kind of the event
    #[arg(long, default_value_t = 1)]
    kind: u16,
    /// A tag NAME=VALUE, or a JSON list of strings; repeatable
    #[arg(long, value_name = "TAG", value_parser = parse_tag)]
    tag: Vec<Vec<String>>,
    /// Identifier of an addressable event
    #[arg(long, value_name = "VALUE")]
    d: Option<String>,
    /// Text, @FILE, or - for stdin
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    content: String,
    /// Encrypt the content to this key; repeatable
    #[arg(long, value_name = "KEY", value_parser = ids::parse_key)]
    encrypt_to: Vec<NodeId>,
    /// Store it only while we hold this lock (its token is in RELAY_FENCING_TOKEN)
    #[arg(long, value_name = "RESOURCE")]
    fence: Option<String>,
    /// Token of the fence
    #[arg(long, env = "RELAY_FENCING_TOKEN", value_name = "N", hide_env_values = true)]
    fencing_token: Option<u64>,
    /// Let it disappear after this time
    #[arg(long, value_name = "DUR", value_parser = times::parse_duration)]
    expires: Option<Duration>,
    /// Sign as ssh-keygen does
    #[arg(long)]
    sshsig: bool,
    /// Print the signed event and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Publish signed events from stdin, one a line
    #[arg(long, conflicts_with_all = ["content", "d", "tag", "fence", "encrypt_to", "expires", "sshsig", "dry_run"])]
    stdin: bool,
}

impl Publish {
    pub async fn run(self, app: &App) -> Outcome {
        if self.stdin {
            return transfer::publish_stdin(app, import::ImportOptions::default()).await;
        }
        let target = match app.target() {
            Err(_) if self.dry_run => crate::app::Target::default(),
            other => other?,
        };
        let draft = self.draft(app, &target)?;
        let key = app.key(&target)?;
        let event = sign(&draft, &key, self.sshsig)?;
        if self.dry_run {
            output::line(&String::from_utf8_lossy(event.json()))?;
            return Ok(0);
        }
        let client = app.client_for(&target, false).await?;
        let answer = client.publish(&event).await.map_err(|error| {
            self.explained(Failure::of(error, &format!("event {}", event.id())))
        })?;
        if app.out.is_json() {
            let answer =
                serde_json::to_value(answer).map_err(|error| Failure::failed(error.to_string()))?;
            app.out.one(&answer, &[])?;
        } else {
            output::line(&event.id().to_string())?;
        }
        Ok(0)
    }

    fn draft(&self, app: &App, target: &crate::app::Target) -> Result<Draft, Failure> {
        let mut tags: Tags = self.tag.iter().collect();
        let has = |tags: &Tags, name: &str| tags.values(name).next().is_some();
        if let Some(d) = &self.d {
            tags.push(["d", d]);
        }
        if let Some(ns) = app.chosen_ns(target)?
            && ns != relay_proto::Namespace::default()
            && !has(&tags, "ns")
        {
            tags.push(["ns", ns.as_str()]);
        }
        if let Some(resource) = &self.fence {
            let token = self.fencing_token.ok_or_else(|| {
                Failure::usage(format!("--fence {resource} needs the token of the lock"))
                    .hint(
                        format!(
                            "relay lock run {resource} -- relay event publish --fence {resource} …"
                        ),
                        "takes the lock and sets RELAY_FENCING_TOKEN",
                    )
                    .hint("--fencing-token N", "the token that acquire printed")
            })?;
            tags.push(["fence", resource, &token.to_string()]);
        }
        if let Some(expires) = self.expires {
            let at = unix_ns() / 1_000_000_000 + expires.as_secs();
            tags.push(["expiration", &at.to_string()]);
        }
        let mut content = read_content(&self.content)?;
        if !self.encrypt_to.is_empty() {
            for id in &self.encrypt_to {
                let text = id.to_string();
                if !tags.values("p").any(|known| known == text) {
                    tags.push(["p", &text]);
                }
            }
            content = age::seal(content.as_bytes(), &self.encrypt_to)
                .map_err(|error| Failure::usage(error.to_string()))?;
        }
        Ok(Draft { kind: self.kind, created_at_ns: unix_ns(), tags, content })
    }

    /// What helps when the relay refuses for a reason that this command knows more about.
    fn explained(&self, mut failure: Failure) -> Failure {
        if let (Some("fenced"), Some(resource)) = (failure.code, &self.fence) {
            failure.tries.clear();
            failure = failure
                .hint(format!("relay lock inspect {resource}"), "who holds it now")
                .hint(format!("relay lock history {resource}"), "when it was lost");
        }
        failure
    }
}

/// Signs natively, or as `ssh-keygen -Y sign` does.
pub fn sign(draft: &Draft, key: &Signer, sshsig: bool) -> Result<Event, Failure> {
    let signed = if sshsig {
        let author = key.node_id();
        key.sshsig(SSHSIG_NAMESPACE, &draft.canonical(&author))
            .and_then(|armour| Ok(draft.finish(author, &armour)?))
    } else {
        key.sign_event(draft)
    };
    signed.map_err(|error| match error {
        Error::Event(error) => Failure::usage(format!("the event would be refused: {error}")),
        other => Failure::failed(other.to_string()),
    })
}

/// `TEXT`, `@FILE` or `-`.
fn read_content(text: &str) -> Result<String, Failure> {
    let bytes = match text.strip_prefix('@') {
        Some(path) => {
            std::fs::read(path).map_err(|error| crate::files::at(Path::new(path), &error))?
        }
        None if text == "-" => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes)?;
            bytes
        }
        None => return Ok(text.to_owned()),
    };
    String::from_utf8(bytes).map_err(|_| {
        Failure::usage("the content is not UTF-8 text").hint(
            "base64 FILE | relay event publish --tag content-encoding=base64 --content -",
            "send bytes",
        )
    })
}

/// `NAME=VALUE`, or a JSON list of strings.
fn parse_tag(text: &str) -> Result<Vec<String>, String> {
    if text.starts_with('[') {
        let tag: Vec<String> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        return if tag.is_empty() { Err("a tag needs a name".into()) } else { Ok(tag) };
    }
    super::filters::parse_tag(text).map(|(name, value)| vec![name, value])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_pairs_or_lists() {
        assert_eq!(parse_tag("t=a=b").unwrap(), ["t", "a=b"]);
        assert_eq!(parse_tag(r#"["e","id","root"]"#).unwrap(), ["e", "id", "root"]);
        for bad in ["t", "=x", "[]", "[1]"] {
            assert!(parse_tag(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn both_signatures_verify() {
        let key = Signer::from(relay_client::keys::generate().unwrap());
        let draft = Draft { kind: 1, created_at_ns: 5, content: "x".into(), ..Draft::default() };
        let native = sign(&draft, &key, false).unwrap();
        let ssh = sign(&draft, &key, true).unwrap();
        assert_eq!(native.id(), ssh.id());
    }
}
