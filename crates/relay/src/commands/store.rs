//! `relay store`: the database of a relay on this machine, while the relay does not run.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use relay_node::config::{Backend, Config, Sources};
use relay_store::{
    StoreError,
    offline::{self, StorePlace},
};
use serde_json::json;

use crate::{
    app::App,
    error::{Failure, Outcome, exit},
    progress::Progress,
};

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct StoreGroup {
    #[command(subcommand)]
    verb: Verb,
    /// Where the data lives, where the configuration does not say
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Tell which schema the database has and which this program reads
    #[command(after_help = "\
Examples:
  relay store status
  relay store status --data-dir /var/lib/relay --json")]
    Status,
    /// Bring the database to the schema of this program (`relay serve` does it by itself)
    #[command(after_help = "\
Examples:
  relay store migrate
  relay store migrate --data-dir /var/lib/relay")]
    Migrate,
    /// Copy everything into an empty store of either kind; the relay must be stopped
    #[command(after_help = "\
Events keep their seq and cursors stay good; locks keep their tokens and history.

Examples:
  relay store copy --to /etc/relay/database-url
  relay store copy --to-dir /var/lib/relay-sqlite")]
    Copy(Copy),
    /// Make every later fencing token greater than any before: after a backup was restored
    #[command(after_help = "\
Examples:
  relay store raise-tokens
  relay store raise-tokens --data-dir /var/lib/relay")]
    RaiseTokens,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Copy {
    /// A file with the connection string of an empty PostgreSQL database
    #[arg(long, value_name = "URL-FILE")]
    to: Option<PathBuf>,
    /// A directory for an SQLite store
    #[arg(long, value_name = "DIR")]
    to_dir: Option<PathBuf>,
}

impl StoreGroup {
    pub async fn run(self, app: &App) -> Outcome {
        let config = self.config(app)?;
        let place = place(&config)?;
        match self.verb {
            Verb::Status => status(app, &place).await,
            Verb::Migrate => migrate(app, &place).await,
            Verb::Copy(copy) => copy.run(app, &place).await,
            Verb::RaiseTokens => raise_tokens(app, &place).await,
        }
    }

    fn config(&self, app: &App) -> Result<Config, Failure> {
        let mut loaded =
            super::config::load(&Sources::of_process(app.global.config.clone(), Vec::new()))?;
        if let Some(dir) = &self.data_dir {
            loaded.config.node.data_dir = Some(dir.clone());
        }
        Ok(loaded.config)
    }
}

fn place(config: &Config) -> Result<StorePlace, Failure> {
    match (config.store.backend, &config.store.database_url_file) {
        (Backend::Sqlite, _) => Ok(StorePlace::Sqlite { dir: config.node.data_dir() }),
        (Backend::Postgres, Some(file)) => Ok(StorePlace::Postgres { url: read_url(file.path())? }),
        (Backend::Postgres, None) => {
            Err(Failure::usage("'database_url_file' is not set in [store]"))
        }
    }
}

/// Reads a connection string, which holds a password, from a file that others cannot read.
fn read_url(path: &Path) -> Result<String, Failure> {
    let at = |error: std::io::Error| Failure::failed(format!("{}: {error}", path.display()));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if fs::metadata(path).map_err(at)?.permissions().mode() & 0o007 != 0 {
            let path = path.display();
            return Err(Failure::failed(format!("the file {path} may be read by others"))
                .hint(format!("chmod 600 {path}"), "keeps its password to you"));
        }
    }
    fs::read_to_string(path).map_err(at)
}

fn named(place: &StorePlace) -> String {
    match place {
        StorePlace::Sqlite { dir } => format!("the store in {}", dir.display()),
        StorePlace::Postgres { .. } => "the PostgreSQL store".into(),
    }
}

fn failed(place: &StorePlace, error: &StoreError) -> Failure {
    let failure = Failure::failed(format!("{}: {error}", named(place)));
    match error {
        StoreError::InUse => failure.fact("a relay is running on it: stop it first"),
        _ => failure,
    }
}

async fn status(app: &App, place: &StorePlace) -> Outcome {
    let status = offline::schema_status(place).await.map_err(|error| failed(place, &error))?;
    let Some(status) = status else {
        return Err(Failure::new(exit::NOT_FOUND, format!("{} is not there", named(place)))
            .hint("relay serve", "makes one"));
    };
    let (schema, known) = (status.found, status.known);
    match place {
        StorePlace::Sqlite { dir } => app.out.one(
            &json!({
                "backend": "sqlite", "data_dir": dir, "schema": schema, "schema_of_program": known,
            }),
            &["backend", "data_dir", "schema", "schema_of_program"],
        )?,
        StorePlace::Postgres { .. } => app.out.one(
            &json!({"backend": "postgres", "schema": schema, "schema_of_program": known}),
            &["backend", "schema", "schema_of_program"],
        )?,
    }
    Ok(if schema > known { exit::FAILED } else { 0 })
}

async fn migrate(app: &App, place: &StorePlace) -> Outcome {
    // Names the log of a store that is made now; any number does that differs from other relays'.
    let new_log_id = RandomState::new().hash_one(std::process::id()) as u32;
    let status =
        offline::migrate(place, new_log_id).await.map_err(|error| failed(place, &error))?;
    app.notice(&format!("{} has schema {}", named(place), status.found));
    Ok(0)
}

impl Copy {
    async fn run(self, app: &App, from: &StorePlace) -> Outcome {
        let to = match (self.to, self.to_dir) {
            (Some(file), _) => StorePlace::Postgres { url: read_url(&file)? },
            (None, Some(dir)) => StorePlace::Sqlite { dir },
            (None, None) => return Err(Failure::usage("name the target: --to or --to-dir")),
        };
        let mut bar = None;
        let mode = (app.global.progress, app.global.plain);
        let copied = offline::copy(from, &to, |progress| {
            bar.get_or_insert_with(|| {
                Progress::new("copy", "rows", Some(progress.total), mode.0, mode.1)
            })
            .set(progress.done);
        })
        .await;
        let rows = copied.map_err(|error| {
            Failure::failed(format!("copying {} into {}: {error}", named(from), named(&to)))
        })?;
        if let Some(bar) = &mut bar {
            bar.finish(rows, &format!("{rows} rows"));
        }
        app.out.one(&json!({"rows": rows}), &["rows"])?;
        Ok(0)
    }
}

async fn raise_tokens(app: &App, place: &StorePlace) -> Outcome {
    app.confirm("raise the fencing tokens of", &named(place))?;
    let floor = offline::raise_tokens(place).await.map_err(|error| failed(place, &error))?;
    app.out.one(&json!({"last_token": floor}), &["last_token"])?;
    Ok(0)
}
