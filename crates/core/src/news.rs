//! Where something new lies, for those who tell devices that are not connected. Nobody waits for them: what is noted
//! twice is noted once, and what finds no room is left out.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError, Weak,
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
    /// In a conversation of another home that the user is in.
    Elsewhere(NodeId),
}

/// What is new, for everybody who listens.
#[derive(Debug, Default)]
pub struct News {
    has_listeners: AtomicBool,
    listeners: Mutex<Vec<Weak<Listener>>>,
}

/// What is new since it was asked last.
#[derive(Debug, Default)]
pub struct Listener {
    noted: Mutex<HashSet<Place, RandomState>>,
    filled: Notify,
}

impl News {
    /// From now on the answer hears what is new, as long as it lives.
    pub fn listen(&self) -> Arc<Listener> {
        let listener = Arc::<Listener>::default();
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|known| known.strong_count() > 0);
        listeners.push(Arc::downgrade(&listener));
        self.has_listeners.store(true, Ordering::Relaxed);
        listener
    }

    /// Notes a place, if anybody listens.
    pub fn note(&self, place: impl FnOnce() -> Place) {
        if !self.has_listeners.load(Ordering::Relaxed) {
            return;
        }
        let place = place();
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for listener in listeners.iter().filter_map(Weak::upgrade) {
            listener.note(place.clone());
        }
    }
}

impl Listener {
    fn note(&self, place: Place) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() < MAX_NOTED {
            noted.insert(place);
        }
        drop(noted);
        self.filled.notify_one();
    }

    /// Waits until something is new.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
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
