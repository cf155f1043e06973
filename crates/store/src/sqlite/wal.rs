//! Checkpoints, off the writer's path.
//!
//! A checkpoint stalls the commit that it falls into, so a second connection copies pages back while the
//! writer goes on. Only to begin the log file anew does the writer have to take part, and then little is left to copy.
//! The file keeps its size: writing over it needs no change of its metadata, which makes each commit faster.

use std::{
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::Connection;

use super::{Role, open_connection};
use crate::error::{Result, StoreError};

/// Pages in the log from which the writer is asked to begin it anew (64 MiB of 4 KiB pages).
const RESET_FROM_PAGES: i64 = 16_384;
/// How often pages are copied back while there are commits.
const INTERVAL: Duration = Duration::from_millis(500);

/// What writer and checkpointer tell each other.
#[derive(Debug, Default)]
pub(super) struct Signal {
    /// Transactions committed so far.
    pub commits: AtomicU64,
    /// The writer should begin the log anew after its next commit.
    pub reset: AtomicBool,
}

pub(super) struct Checkpointer {
    signal: Arc<Signal>,
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Checkpointer {
    pub fn start(db: &Path) -> Result<Self> {
        let conn = open_connection(db, Role::Checkpointer)?;
        let signal = Arc::new(Signal::default());
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let thread = std::thread::Builder::new()
            .name("store-checkpoint".into())
            .spawn({
                let (signal, stop) = (signal.clone(), stop.clone());
                move || run(&conn, &signal, &stop)
            })
            .map_err(|error| StoreError::Database(error.to_string()))?;
        Ok(Self { signal, stop, thread: Mutex::new(Some(thread)) })
    }

    pub fn signal(&self) -> Arc<Signal> {
        self.signal.clone()
    }

    pub async fn stop(&self) {
        if let Ok(mut stopped) = self.stop.0.lock() {
            *stopped = true;
        }
        self.stop.1.notify_all();
        let thread = self.thread.lock().ok().and_then(|mut held| held.take());
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        if let Ok(mut stopped) = self.stop.0.lock() {
            *stopped = true;
        }
        self.stop.1.notify_all();
    }
}

fn run(conn: &Connection, signal: &Signal, stop: &(Mutex<bool>, Condvar)) {
    let mut seen = 0;
    loop {
        let Ok(stopped) = stop.0.lock() else { return };
        let Ok((stopped, _)) = stop.1.wait_timeout_while(stopped, INTERVAL, |stopped| !*stopped)
        else {
            return;
        };
        if *stopped {
            // Folds the log into the database, so that a stopped relay leaves one whole file.
            copy_back(conn, "TRUNCATE");
            return;
        }
        drop(stopped);
        let commits = signal.commits.load(Ordering::Relaxed);
        if commits == seen {
            continue;
        }
        seen = commits;
        if copy_back(conn, "PASSIVE") >= RESET_FROM_PAGES {
            // What was written during the first copy; after it hardly anything is left to the writer.
            copy_back(conn, "PASSIVE");
            signal.reset.store(true, Ordering::Relaxed);
        }
    }
}

/// Copies what readers let go; returns the pages in the log.
fn copy_back(conn: &Connection, mode: &str) -> i64 {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    conn.query_row(&sql, [], |row| row.get(1)).unwrap_or_else(|error| {
        tracing::warn!(%error, "a checkpoint failed; it will be tried again");
        0
    })
}
