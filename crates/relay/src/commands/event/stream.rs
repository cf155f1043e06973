//! `relay event stream`.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use clap::Args;
use relay_client::{EventStream, Start, StreamItem, Subscription};
use relay_proto::Event;
use tokio::io::AsyncWriteExt;

use super::{filters::Filters, query::event_value};
use crate::{
    app::App,
    error::{Failure, Outcome},
    files, output,
};

pub const EXAMPLES: &str = "\
Examples:
  relay event stream --kind 1
  relay event stream --after begin --cursor-file jobs.cursor --tag t=job --exec ./work.sh";

#[derive(Debug, Args)]
pub struct Stream {
    #[command(flatten)]
    filters: Filters,
    /// Where to begin: a cursor, begin, or live
    #[arg(long, value_name = "CURSOR", default_value = "live")]
    after: String,
    /// Keep the last cursor here, and go on from it
    #[arg(long, value_name = "PATH")]
    cursor_file: Option<PathBuf>,
    /// Run this (with sh -c) for each event, the event on stdin; the cursor moves only after exit 0
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
    /// Stop when everything stored was delivered
    #[arg(long)]
    stored: bool,
    /// Stop after this many events
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

impl Stream {
    pub async fn run(self, app: &App) -> Outcome {
        if self.filters.text.is_some() {
            return Err(Failure::usage(
                "--text searches what is stored; streams have no text filter",
            ));
        }
        let target = app.target()?;
        let client = app.client().await?;
        let wanted = Subscription {
            filters: vec![self.filters.filter(app, &target)?],
            start: self.start()?,
            live: !self.stored,
            history: self.filters.history,
        };
        let mut stream = EventStream::open(&client, wanted)
            .await
            .map_err(|error| Failure::of(error, "the stream"))?;
        let mut left = self.limit.unwrap_or(u64::MAX);
        while left > 0 {
            let item = stream.next().await.map_err(|error| Failure::of(error, "the stream"))?;
            match item {
                None => break,
                Some(StreamItem::Event { cursor, event }) => {
                    self.deliver(app, &event, &cursor).await?;
                    self.remember(&cursor)?;
                    left -= 1;
                }
                Some(StreamItem::Live { cursor }) => self.remember(&cursor)?,
                Some(StreamItem::Gap { dropped }) => {
                    app.notice(&format!(
                        "{dropped} ephemeral events did not fit through the connection"
                    ));
                }
                Some(StreamItem::Interrupted { cause }) => {
                    app.notice(&format!("connection lost: {cause}; trying again"));
                }
                Some(StreamItem::Resumed) => app.notice("connection back, nothing missed"),
                Some(_) => {}
            }
        }
        Ok(0)
    }

    fn start(&self) -> Result<Start, Failure> {
        if let Some(path) = &self.cursor_file {
            match std::fs::read_to_string(path) {
                Ok(cursor) if !cursor.trim().is_empty() => {
                    return Ok(Start::After(cursor.trim().to_owned()));
                }
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(files::at(path, &error)),
            }
        }
        Ok(match self.after.as_str() {
            "live" => Start::Live,
            "begin" => Start::Beginning,
            cursor => Start::After(cursor.to_owned()),
        })
    }

    async fn deliver(&self, app: &App, event: &Event, cursor: &str) -> Result<(), Failure> {
        if let Some(command) = &self.exec {
            return run_for(command, event).await;
        }
        let plain = app.out.fields.is_empty()
            && !app.out.terminal
            && app.out.format == output::Format::Auto
            || matches!(app.out.format, output::Format::Ndjson | output::Format::Raw);
        if plain && app.out.fields.is_empty() {
            return Ok(output::line(&String::from_utf8_lossy(event.json()))?);
        }
        if app.out.format == output::Format::Json {
            let json = String::from_utf8_lossy(event.json());
            let cursor = serde_json::json!(cursor);
            return Ok(output::line(&format!("{{\"cursor\":{cursor},\"event\":{json}}}"))?);
        }
        Ok(app.out.item(&event_value(event)?, &["created_at_ns", "kind", "pubkey", "content"])?)
    }

    fn remember(&self, cursor: &str) -> Result<(), Failure> {
        match &self.cursor_file {
            Some(path) => write_cursor(path, cursor).map_err(|error| files::at(path, &error)),
            None => Ok(()),
        }
    }
}

/// Replaces the file as a whole. It is not synced for each event: a cursor that is a little old
/// brings events again, and never loses one.
fn write_cursor(path: &Path, cursor: &str) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    std::fs::write(&new, format!("{cursor}\n"))?;
    std::fs::rename(&new, path)
}

/// One run of the command, with the event on its stdin.
async fn run_for(command: &str, event: &Event) -> Result<(), Failure> {
    let failed = |what: String| {
        Failure::failed(format!("event {}: {what}", event.id()))
            .fact("the cursor stays before this event; the next start begins with it")
    };
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", command])
        .env("RELAY_EVENT_ID", event.id().to_string())
        .env("RELAY_EVENT_KIND", event.kind().to_string())
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("cannot run sh: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input closes it; that is no failure.
        let _ = stdin.write_all(event.json()).await;
        let _ = stdin.write_all(b"\n").await;
    }
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(format!("'{command}' ended with {status}"))) }
}
