//! Telling those who wait of new events, so that feeds need no polling.

use std::{collections::HashSet, sync::Arc};

use ahash::RandomState;
use bytes::Bytes;
use relay_proto::polycentric::SystemKey;
use relay_store::SocialChange;
use tokio::sync::broadcast;

/// Changes that wait for a slow watcher. Beyond it the watcher is told how many it missed.
const QUEUE: usize = 4_096;
/// Systems and topics of one watch.
const MAX_WATCHED: usize = 4_096;

/// What somebody wants to be told of.
#[derive(Debug, Clone, Default)]
pub struct WatchRequest {
    pub systems: HashSet<SystemKey, RandomState>,
    pub topics: HashSet<Bytes, RandomState>,
}

impl WatchRequest {
    pub fn is_empty(&self) -> bool {
        self.systems.is_empty() && self.topics.is_empty()
    }

    pub fn is_too_long(&self) -> bool {
        self.systems.len() + self.topics.len() > MAX_WATCHED
    }

    fn wants(&self, change: &SocialChange) -> bool {
        self.systems.contains(&change.system)
            || change.topics.iter().any(|topic| self.topics.contains(topic))
    }
}

/// The side that tells.
#[derive(Debug)]
pub struct Watch(broadcast::Sender<Arc<SocialChange>>);

impl Default for Watch {
    fn default() -> Self {
        Self(broadcast::channel(QUEUE).0)
    }
}

impl Watch {
    pub fn begin(&self, request: WatchRequest) -> Watched {
        Watched { request, changes: self.0.subscribe() }
    }

    pub(super) fn tell(&self, changes: &[SocialChange]) {
        if self.0.receiver_count() == 0 {
            return;
        }
        for change in changes {
            // Fails only where nobody listens any more.
            let _ = self.0.send(Arc::new(change.clone()));
        }
    }
}

/// The side that listens.
#[derive(Debug)]
pub struct Watched {
    request: WatchRequest,
    changes: broadcast::Receiver<Arc<SocialChange>>,
}

impl Watched {
    /// The next change that was asked for, or how many were missed. For ever where there is none.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Arc<SocialChange>, u64> {
        loop {
            match self.changes.recv().await {
                Ok(change) if self.request.wants(&change) => return Ok(change),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => return Err(missed),
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}
