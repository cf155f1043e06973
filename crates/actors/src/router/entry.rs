//! One registered actor: its mailbox, and how it fares.

use std::sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed};

use arc_swap::ArcSwap;
use serde::Serialize;

use crate::{inbox::Mailbox, journal::Journal, service::ServiceInfo};

pub(super) struct Entry {
    pub(super) info: ArcSwap<ServiceInfo>,
    pub(super) mailbox: Mailbox,
    pub(super) journal: Journal,
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) life: Life,
    pub(super) restarts: u64,
    pub(super) last_crash: Option<String>,
    /// Why the program behind the service is not well, as its last check said.
    pub(super) ailing: Option<String>,
}

/// What an actor is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    Starting,
    Running,
    /// Waits out a pause after a crash; messages wait in the mailbox.
    Restarting,
    /// Only crashed; refuses everything until somebody restarts it.
    GaveUp,
    Stopped,
}

/// One actor as `relay actors` and the registry see it.
#[derive(Debug, Clone, Serialize)]
pub struct ActorStatus {
    #[serde(flatten)]
    pub info: ServiceInfo,
    pub life: Life,
    /// Running, and the program behind it said it is well.
    pub is_healthy: bool,
    /// Why it is not well.
    pub ailing: Option<String>,
    pub restarts: u64,
    pub last_crash: Option<String>,
    /// Messages in the mailbox.
    pub waiting: usize,
    pub handled: u64,
    pub failed: u64,
    pub overloaded: u64,
    pub expired: u64,
    /// A moving average of the time one message takes.
    pub mean_us: u32,
}

impl Entry {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self) -> ActorStatus {
        let counters = &self.mailbox.counters;
        let state = self.lock();
        ActorStatus {
            info: ServiceInfo::clone(&self.info.load()),
            life: state.life,
            is_healthy: state.life == Life::Running && state.ailing.is_none(),
            ailing: state.ailing.clone(),
            restarts: state.restarts,
            last_crash: state.last_crash.clone(),
            waiting: self.mailbox.waiting(),
            handled: counters.handled.load(Relaxed),
            failed: counters.failed.load(Relaxed),
            overloaded: counters.overloaded.load(Relaxed),
            expired: counters.expired.load(Relaxed),
            mean_us: counters.mean_us.load(Relaxed),
        }
    }
}
