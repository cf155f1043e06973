//! Upkeep: what expired is deleted, what was used is noted.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{SessionError, Sessions};

const EVERY: Duration = Duration::from_secs(10);

impl Sessions {
    /// Keeps the store in step with memory and time until `stop`, then once more.
    pub async fn run(&self, stop: CancellationToken) {
        let mut stopping = false;
        while !stopping {
            tokio::select! {
                () = stop.cancelled() => stopping = true,
                () = tokio::time::sleep(EVERY) => {}
            }
            if let Err(error) = self.sweep().await {
                tracing::warn!(%error, "sessions could not be swept");
            }
        }
    }

    /// One round of upkeep.
    ///
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn sweep(&self) -> Result<(), SessionError> {
        let seen = self.live.take_seen();
        if !seen.is_empty() {
            self.store.touch_sessions(seen).await?;
        }
        let expired = self.store.sweep_sessions(self.now_ms()).await?;
        self.live.end(&expired);
        Ok(())
    }
}
