//! Connections for reading. A read never holds one across an await.

use std::{path::Path, sync::Arc, sync::Mutex};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{Role, open_connection};
use crate::error::{Result, StoreError};

pub(super) struct Readers {
    /// As many permits as connections, so a permit always finds one.
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    pub fn open(path: &Path, count: usize) -> Result<Self> {
        let count = count.max(1);
        let idle: Result<Vec<_>> =
            (0..count).map(|_| open_connection(path, Role::Reader)).collect();
        Ok(Self { permits: Arc::new(Semaphore::new(count)), idle: Arc::new(Mutex::new(idle?)) })
    }

    pub async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let idle = self.idle.clone();
        let done = tokio::task::spawn_blocking(move || {
            let conn =
                idle.lock().ok().and_then(|mut idle| idle.pop()).ok_or(StoreError::Closed)?;
            let result = read(&conn);
            if let Ok(mut idle) = idle.lock() {
                idle.push(conn);
            }
            drop(permit);
            result
        });
        done.await.map_err(|error| StoreError::Database(error.to_string()))?
    }
}
