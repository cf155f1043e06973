//! Everything of one identity, to a file and back.

use std::{io::Write, path::PathBuf};

use clap::Args;
use prost::Message;
use relay_client::{
    proto::polycentric::{Events, ExportBundle, SystemKey, parse_events, verify_all},
    social::Social,
};
use serde_json::json;

use super::{parse_system, system_or_own};
use crate::{
    app::App,
    error::{Failure, Outcome},
    files,
    progress::Progress,
};

pub const EXAMPLES: &str = "\
Examples:
  relay social export --out me.polycentric
  relay social import me.polycentric";

/// Events of one request.
const CHUNK: u64 = 20;
/// Events checked and uploaded at once.
const BATCH: usize = 100;

#[derive(Debug, Args)]
pub struct Export {
    /// Whose; yours, where absent
    #[arg(value_parser = parse_system, value_name = "KEY")]
    who: Option<SystemKey>,
    /// Write here; stdout where absent
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
}

impl Export {
    /// The file is an export bundle of the protocol, without the key: keys leave by `relay keys export` only.
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let social = Social(&client);
        let system = system_or_own(app, self.who)?;
        let failed = |error| Failure::of(error, "the export");
        let held = social.ranges(system).await.map_err(failed)?;
        let total = held.iter().map(|(_, ranges)| ranges.count()).sum();
        let mut bar =
            Progress::new("export", "events", Some(total), app.global.progress, app.global.plain);
        let (mut events, mut looked_at) = (Vec::new(), 0);
        for (process, ranges) in held {
            for chunk in ranges.chunks(CHUNK) {
                let found = social.events(system, process, &chunk).await.map_err(failed)?;
                events.extend(found.iter().map(|event| event.to_signed()));
                looked_at += chunk.count();
                bar.set(looked_at);
            }
        }
        let count = events.len();
        let bundle = ExportBundle { key_pair: None, events: Some(Events { events }) };
        let bytes = bundle.encode_to_vec();
        match &self.out {
            Some(path) => files::replace(path, &bytes).map_err(|error| files::at(path, &error))?,
            None => std::io::stdout()
                .write_all(&bytes)
                .map_err(|error| Failure::failed(format!("stdout: {error}")))?,
        }
        bar.finish(looked_at, &format!("{count} events"));
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub struct Import {
    /// An export bundle, or events of the protocol
    file: PathBuf,
}

impl Import {
    pub async fn run(self, app: &App) -> Outcome {
        let bytes = std::fs::read(&self.file).map_err(|error| files::at(&self.file, &error))?;
        let events = ExportBundle::decode(&bytes[..])
            .ok()
            .and_then(|bundle| bundle.events)
            .or_else(|| Events::decode(&bytes[..]).ok())
            .ok_or_else(|| {
                Failure::usage(format!("{}: no export of the social layer", self.file.display()))
            })?;
        let client = app.client().await?;
        let social = Social(&client);
        let total = events.events.len() as u64;
        let mut bar =
            Progress::new("import", "events", Some(total), app.global.progress, app.global.plain);
        let mut done = 0;
        for batch in events.events.chunks(BATCH) {
            let body = Events { events: batch.to_vec() }.encode_to_vec();
            let checked = parse_events(body.into())
                .and_then(verify_all)
                .map_err(|error| Failure::failed(format!("{}: {error}", self.file.display())))?;
            social.upload(&checked).await.map_err(|error| Failure::of(error, "the import"))?;
            done += batch.len() as u64;
            bar.set(done);
        }
        bar.finish(done, "uploaded; what was there already stays as it was");
        app.out.one(&json!({ "events": done }), &["events"])?;
        Ok(0)
    }
}
