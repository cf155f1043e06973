//! Checkpoints, off the writer's path.
//!
//! A checkpoint stalls the commit that it falls into, so a second connection copies pages back while the
//! writer goes on. Only to begin the log file anew does the writer have to take part, and then little is left to copy.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::Connection;

use super::{Role, open_connection};
use crate::error::{Result, StoreError};

/// Log size from which pages are copied back.
const COPY_FROM: u64 = 16 << 20;
/// Log size from which the writer is asked to begin the file anew.
const RESET_FROM: u64 = 64 << 20;
/// How often the size is looked at.
const INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Checkpointer {
    reset: Arc<AtomicBool>,
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Checkpointer {
    pub fn start(db: &Path) -> Result<Self> {
        let conn = open_connection(db, Role::Checkpointer)?;
        let mut wal = db.as_os_str().to_owned();
        wal.push("-wal");
        let wal = PathBuf::from(wal);
        let reset = Arc::new(AtomicBool::new(false));
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let thread = std::thread::Builder::new()
            .name("store-checkpoint".into())
            .spawn({
                let (reset, stop) = (reset.clone(), stop.clone());
                move || run(&conn, &wal, &reset, &stop)
            })
            .map_err(|error| StoreError::Database(error.to_string()))?;
        Ok(Self { reset, stop, thread: Mutex::new(Some(thread)) })
    }

    /// Set when the writer should begin the log file anew after its next commit.
    pub fn signal(&self) -> Arc<AtomicBool> {
        self.reset.clone()
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

fn run(conn: &Connection, wal: &Path, reset: &AtomicBool, stop: &(Mutex<bool>, Condvar)) {
    let mut copied = 0;
    loop {
        let Ok(stopped) = stop.0.lock() else { return };
        let Ok((stopped, _)) = stop.1.wait_timeout_while(stopped, INTERVAL, |stopped| !*stopped)
        else {
            return;
        };
        if *stopped {
            return;
        }
        drop(stopped);
        let size = std::fs::metadata(wal).map_or(0, |meta| meta.len());
        if size < COPY_FROM || size < copied + COPY_FROM / 4 && size < RESET_FROM {
            copied = copied.min(size);
            continue;
        }
        if let Err(error) = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
            tracing::warn!(%error, "a checkpoint failed; it will be tried again");
        }
        copied = size;
        if size >= RESET_FROM {
            reset.store(true, Ordering::Relaxed);
        }
    }
}
