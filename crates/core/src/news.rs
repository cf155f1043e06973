//! Where something new lies, for those who tell devices that are not connected. Nobody waits for them: what is noted
//! twice is noted once, and what finds no room is left out.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use ahash::RandomState;
use relay_proto::{NodeId, auth::DeviceId, conv::ConvId};
use tokio::sync::Notify;

/// Places that are remembered until somebody asks.
const MAX_NOTED: usize = 100_000;

/// Somewhere that something new lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    Conversation(ConvId),
    Inbox(NodeId, DeviceId),
}

/// What is new since somebody asked last.
#[derive(Debug, Default)]
pub struct News {
    wanted: AtomicBool,
    noted: Mutex<HashSet<Place, RandomState>>,
    filled: Notify,
}

impl News {
    /// From now on somebody asks.
    pub fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// Notes a place, if anybody asks.
    pub fn note(&self, place: impl FnOnce() -> Place) {
        if !self.wanted.load(Ordering::Relaxed) {
            return;
        }
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() < MAX_NOTED {
            noted.insert(place());
        }
        drop(noted);
        self.filled.notify_one();
    }

    /// Waits until something is new.
    pub async fn take(&self) -> Vec<Place> {
        loop {
            let taken =
                std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                return taken.into_iter().collect();
            }
            self.filled.notified().await;
        }
    }
}
