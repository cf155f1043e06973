//! `relay store`: the database of a relay on this machine.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, Subcommand};
use relay_node::{
    Node,
    config::{Backend, Config, Sources},
};
use relay_store::SystemClock;
use serde_json::json;

use crate::{
    app::App,
    error::{Failure, Outcome, exit},
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
    /// Bring the database to this program's schema, while no relay uses it
    #[command(after_help = "\
Examples:
  relay store migrate
  relay store migrate --data-dir /var/lib/relay --dry-run")]
    Migrate {
        /// Tell what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

impl StoreGroup {
    pub async fn run(self, app: &App) -> Outcome {
        let config = self.config(app)?;
        match self.verb {
            Verb::Status => status(app, &config),
            Verb::Migrate { dry_run: true } => status(app, &config),
            Verb::Migrate { dry_run: false } => migrate(app, config).await,
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

/// Opening a store migrates it, after a copy where the configuration says so.
async fn migrate(app: &App, mut config: Config) -> Outcome {
    // Nobody is to connect meanwhile.
    config.listen.http.clear();
    config.listen.socket.clear();
    let node = Node::start(config.clone(), Arc::new(SystemClock))
        .await
        .map_err(|error| Failure::failed(error.to_string()))?;
    node.close(Duration::from_secs(10)).await;
    match config.store.backend {
        Backend::Sqlite => status(app, &config),
        Backend::Postgres => {
            app.notice("the database has this program's schema");
            Ok(0)
        }
    }
}

fn status(app: &App, config: &Config) -> Outcome {
    if config.store.backend != Backend::Sqlite {
        return Err(Failure::usage(
            "the status of a PostgreSQL store is told by the running relay",
        ));
    }
    let dir = config.node.data_dir();
    let status = relay_store::SqliteStore::schema_status(&dir)
        .map_err(|error| Failure::failed(format!("{}: {error}", dir.display())))?;
    let Some(status) = status else {
        return Err(Failure::new(
            exit::NOT_FOUND,
            format!("there is no store in {}", dir.display()),
        )
        .hint("relay serve", "makes one"));
    };
    let answer = json!({
        "backend": "sqlite", "data_dir": dir, "schema": status.found, "schema_of_program": status.known,
    });
    app.out.one(&answer, &["backend", "data_dir", "schema", "schema_of_program"])?;
    Ok(if status.found > status.known { exit::FAILED } else { 0 })
}
