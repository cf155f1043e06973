//! `relay event import` and `export`.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use relay_client::{
    Order, Published,
    events::MAX_BATCH,
    import::{self, ImportOptions, ImportProgress, ImportWatcher},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncSeekExt, BufReader};

use super::filters::Filters;
use crate::{
    app::App,
    error::{Failure, Outcome, exit},
    files,
    progress::Progress,
};

pub const EXPORT_EXAMPLES: &str = "\
Examples:
  relay event export --out events.ndjson
  relay event export --kind 30001 --history > pointers.ndjson";
pub const IMPORT_EXAMPLES: &str = "\
Examples:
  relay event import events.ndjson
  relay event import events.ndjson --state import.state --progress json";

#[derive(Debug, Args)]
pub struct Import {
    /// NDJSON of signed events; - is stdin
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Keep here how far it got, and go on from there
    #[arg(long, value_name = "PATH")]
    state: Option<PathBuf>,
    /// Events in one request
    #[arg(long, default_value_t = MAX_BATCH, hide_default_value = true)]
    batch: usize,
    /// Keep the order of the lines: one request at a time instead of four
    #[arg(long)]
    in_order: bool,
}

#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    filters: Filters,
    /// Write here; stdout where absent
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Begin behind this cursor
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

/// How far an import got, kept beside it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    file: PathBuf,
    bytes: u64,
    lines: u64,
}

impl Import {
    pub async fn run(self, app: &App) -> Outcome {
        let from_stdin = self.file == Path::new("-");
        if from_stdin && self.state.is_some() {
            return Err(Failure::usage(
                "--state needs a file to go on in; stdin has no place to return to",
            ));
        }
        let options = ImportOptions {
            batch: self.batch,
            in_flight: if self.in_order { 1 } else { ImportOptions::default().in_flight },
            ..ImportOptions::default()
        };
        if from_stdin {
            return publish_stdin(app, options).await;
        }
        let start = self.saved()?;
        let at = |error: &io::Error| files::at(&self.file, error);
        let mut file = tokio::fs::File::open(&self.file).await.map_err(|error| at(&error))?;
        let length = file.metadata().await.map_err(|error| at(&error))?.len();
        if start.bytes > length {
            return Err(Failure::usage(format!(
                "{} is shorter than what was imported from it already; remove the state file to begin anew",
                self.file.display()
            )));
        }
        file.seek(io::SeekFrom::Start(start.bytes)).await.map_err(|error| at(&error))?;
        if start.bytes > 0 {
            app.notice(&format!("going on at line {}", start.lines + 1));
        }
        let target = app.target()?;
        let client = app.client_for(&target, false).await?;
        let mut watcher = Watcher {
            bar: Progress::new(
                "import",
                "bytes",
                Some(length),
                app.global.progress,
                app.global.plain,
            ),
            start: Saved { file: self.file.clone(), ..start },
            state: self.state.clone(),
            told: 0,
        };
        let input = BufReader::with_capacity(1 << 20, file);
        let done = import::import(&client, input, options, &mut watcher).await;
        watcher.end(app, done)
    }

    fn saved(&self) -> Result<Saved, Failure> {
        let Some(path) = &self.state else { return Ok(Saved::default()) };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Saved::default()),
            Err(error) => return Err(files::at(path, &error)),
        };
        let saved: Saved = serde_json::from_slice(&text)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        if saved.file != self.file {
            return Err(Failure::usage(format!(
                "{} belongs to the import of {}",
                path.display(),
                saved.file.display()
            )));
        }
        Ok(saved)
    }
}

/// Publishes what comes on stdin.
pub async fn publish_stdin(app: &App, options: ImportOptions) -> Outcome {
    let target = app.target()?;
    let client = app.client_for(&target, false).await?;
    let mut watcher = Watcher {
        bar: Progress::new("import", "bytes", None, app.global.progress, app.global.plain),
        start: Saved::default(),
        state: None,
        told: 0,
    };
    let input = BufReader::with_capacity(1 << 20, tokio::io::stdin());
    let done = import::import(&client, input, options, &mut watcher).await;
    watcher.end(app, done)
}

struct Watcher {
    bar: Progress,
    start: Saved,
    state: Option<PathBuf>,
    /// How many refusals were told one by one.
    told: u64,
}

/// Refusals told one by one; the rest is only counted.
const TOLD_AT_MOST: u64 = 20;

impl ImportWatcher for Watcher {
    fn progress(&mut self, progress: &ImportProgress) -> io::Result<()> {
        self.bar.set(self.start.bytes + progress.bytes);
        let Some(path) = &self.state else { return Ok(()) };
        let saved = Saved {
            file: self.start.file.clone(),
            bytes: self.start.bytes + progress.bytes,
            lines: self.start.lines + progress.lines,
        };
        files::replace(path, &serde_json::to_vec(&saved)?)
    }

    fn refused(&mut self, line: u64, answer: &Published) {
        self.told += 1;
        if self.told > TOLD_AT_MOST {
            return;
        }
        let text = |name: &str| {
            answer.more.get(name).and_then(|value| value.as_str()).unwrap_or("refused")
        };
        self.bar.say(&format!(
            "line {}: {}: {}",
            self.start.lines + line,
            text("code"),
            text("message")
        ));
    }
}

impl Watcher {
    fn end(mut self, app: &App, done: Result<ImportProgress, relay_client::Error>) -> Outcome {
        let done = done.map_err(|error| {
            let failure = Failure::of(error, "the import");
            match &self.state {
                Some(_) => failure.hint("repeat the same command", "it goes on where it stopped"),
                None => failure
                    .hint("repeat the same command", "what is there already is skipped by its id"),
            }
        })?;
        let ImportProgress { bytes, stored, duplicates, refused, .. } = done;
        self.bar.finish(
            self.start.bytes + bytes,
            &format!("{stored} stored, {duplicates} already there, {refused} refused"),
        );
        let answer = json!({ "stored": stored, "duplicates": duplicates, "refused": refused });
        app.out.one(&answer, &["stored", "duplicates", "refused"])?;
        Ok(if refused == 0 { 0 } else { exit::FAILED })
    }
}

impl Export {
    pub async fn run(self, app: &App) -> Outcome {
        let target = app.target()?;
        let client = app.client().await?;
        let mut query = self.filters.query(app, &target)?;
        query.order = Order::Arrival;
        query.limit = Some(1000);
        query.cursor.clone_from(&self.after);
        let failed = |error| Failure::of(error, "the export");
        let total = client.count(&query).await.map_err(failed)?;
        let total = if self.after.is_none() { Some(total) } else { None };
        let mut bar =
            Progress::new("export", "events", total, app.global.progress, app.global.plain);
        let mut out: Box<dyn Write> = match &self.out {
            Some(path) => {
                let file = std::fs::File::create(path).map_err(|error| files::at(path, &error))?;
                Box::new(io::BufWriter::new(file))
            }
            None => Box::new(io::BufWriter::new(io::stdout().lock())),
        };
        let mut done = 0;
        loop {
            let page = client.query_raw(&query).await.map_err(failed)?;
            for event in &page.events {
                out.write_all(event.get().as_bytes())?;
                out.write_all(b"\n")?;
            }
            done += page.events.len() as u64;
            bar.set(done);
            if page.events.is_empty() || page.cursor.is_none() {
                break;
            }
            query.cursor = page.cursor;
        }
        out.flush()?;
        bar.finish(done, &format!("{done} events"));
        Ok(0)
    }
}
