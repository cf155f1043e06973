//! Links over sockets: dialled and accepted, kept up, counted, and stopped.
//!
//! - [`socket`]: the WebSocket behind a small trait, and its settings
//! - [`dial`]: from a URL to a WebSocket
//! - [`admission`]: who may link
//! - [`shake`]: the handshake
//! - [`running`]: one link at work
//! - [`target`]: one way into the federation: a hub, its fallbacks, a warm standby
//! - [`door`]: a plain door, for programs without the edge
//! - [`certificate`]: what mutual TLS says about a relay
//! - [`ca`]: a small certificate authority for hubs
//!
//! [`Links`] owns every task in here; [`Links::shutdown`] ends and awaits them.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use relay_proto::{
    Problem, RelayId,
    link::{
        Encoding,
        handshake::{Identity, Offer},
    },
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub mod admission;
pub mod ca;
pub mod certificate;
pub mod dial;
pub mod door;
pub mod running;
pub mod shake;
pub mod socket;
pub mod target;

mod stream;

pub use admission::{Admission, Admitted, Arrival, Refusal};
pub use dial::Dialing;
pub use socket::{Adapted, Packet, Socket};
pub use target::{Hub, Status, Target, TargetHandle};

use crate::link::{Link, LinkEvents};
use running::{Driver, End, Handle, Opening};
use shake::{Accepting, ShakeError};

/// What holds for all links of a node.
#[derive(Debug, Clone)]
pub struct Settings {
    pub offer: Offer,
    /// What accepted links are told to show life by; 15 s by the specification.
    pub heartbeat: Duration,
    /// Links accepted per second; above, the edge answers 503.
    pub accepts_per_second: u32,
    /// Links accepted and up at a time, those in their handshake included.
    pub max_accepted: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            offer: Offer::MAIN,
            heartbeat: Duration::from_secs(15),
            accepts_per_second: 1_000,
            max_accepted: 20_000,
        }
    }
}

/// All links of a node.
#[derive(Clone)]
pub struct Links(Arc<Inner>);

struct Inner {
    identity: Identity,
    settings: Settings,
    dialing: Dialing,
    events: Arc<dyn LinkEvents>,
    admission: Arc<dyn Admission>,
    tasks: TaskTracker,
    stop: CancellationToken,
    accepted: Mutex<Accepted>,
    counters: Counters,
}

/// What came in.
#[derive(Default)]
struct Accepted {
    /// The newest link of each relay: a relay that comes again replaces its older link.
    links: HashMap<RelayId, Handle>,
    /// Accepted and not ended, those in their handshake included.
    count: usize,
    /// Tokens left of this second's, and when they were last filled up.
    tokens: f64,
    filled: Option<Instant>,
}

impl Links {
    pub fn new(
        identity: Identity,
        settings: Settings,
        dialing: Dialing,
        events: Arc<dyn LinkEvents>,
        admission: Arc<dyn Admission>,
    ) -> Self {
        Self(Arc::new(Inner {
            identity,
            settings,
            dialing,
            events,
            admission,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            accepted: Mutex::default(),
            counters: Counters::default(),
        }))
    }

    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Asked before the upgrade. The ticket is for [`Self::accept`]; dropped, its place is free again.
    ///
    /// # Errors
    /// `rate_limited` with `retry_after_ms`: too many at once, or this node is stopping.
    pub fn admit(&self) -> Result<Ticket, Problem> {
        let refuse = |reason: &'static str, wait_ms: u64| {
            self.0.counters.count(Kind::Refused, reason);
            Err(Problem::rate_limited("this hub takes no more links at the moment", wait_ms))
        };
        if self.0.stop.is_cancelled() {
            return refuse("stopping", 5_000);
        }
        let settings = &self.0.settings;
        let now = Instant::now();
        let mut accepted = self.accepted();
        if accepted.count >= settings.max_accepted {
            return refuse("full", 30_000);
        }
        let rate = f64::from(settings.accepts_per_second.max(1));
        let since = accepted.filled.map_or(1.0, |filled| (now - filled).as_secs_f64());
        accepted.filled = Some(now);
        accepted.tokens = (accepted.tokens + since * rate).min(rate);
        if accepted.tokens < 1.0 {
            return refuse("accept_rate", 1_000);
        }
        accepted.tokens -= 1.0;
        accepted.count += 1;
        Ok(Ticket(self.clone()))
    }

    /// Shakes hands on an accepted socket and runs its link to the end, in a task of its own: whoever
    /// brought the socket need not stay.
    pub fn accept<S: Socket>(
        &self,
        ticket: Ticket,
        socket: S,
        encoding: Encoding,
        arrival: Arrival,
    ) {
        let links = self.clone();
        self.0.tasks.spawn(async move {
            let _ticket = ticket;
            links.run_accepted(socket, encoding, arrival).await;
        });
    }

    async fn run_accepted<S: Socket>(&self, mut socket: S, encoding: Encoding, arrival: Arrival) {
        let shaken = {
            let accepting = Accepting {
                identity: &self.0.identity,
                offer: self.0.settings.offer,
                heartbeat: self.0.settings.heartbeat,
                admission: &*self.0.admission,
                arrival: &arrival,
            };
            let shaking = Box::pin(shake::accept(&mut socket, encoding, &accepting));
            // Links that are up are ended by `shutdown`; a handshake has nothing to finish.
            tokio::select! {
                biased;
                shaken = shaking => shaken,
                () = self.0.stop.cancelled() => return,
            }
        };
        let shaken = match shaken {
            Ok(shaken) => shaken,
            Err(error) => return self.note_refused(&arrival, &error),
        };
        let relay = shaken.peer.relay.clone();
        let opening = self.opening(shaken, encoding, false, false);
        let (driver, handle) = Driver::new(socket, opening, Arc::clone(&self.0.events), None);
        let replaced = self.accepted().links.insert(relay.clone(), handle.clone());
        if let Some(older) = replaced {
            older.close("replaced by a newer link of the same relay");
        }
        self.0.counters.count(Kind::Accepted, "up");
        tracing::info!(peer = %relay, remote = ?arrival.remote, "link accepted");
        drop(arrival);
        handle.tell_up();
        if self.0.stop.is_cancelled() {
            handle.drain("stopping", GRACE, apart(1));
        }
        let end = Box::pin(driver.run()).await;
        self.note_end(&relay, &end);
        let mut accepted = self.accepted();
        if accepted.links.get(&relay).is_some_and(|newest| newest.id() == handle.id()) {
            accepted.links.remove(&relay);
        }
    }

    /// A relay that showed a certificate which does not hold: its TLS handshake failed, so that it never came
    /// to a link.
    pub fn certificate_refused(&self, remote: SocketAddr, error: &dyn fmt::Display) {
        let reason = Refusal::Certificate.reason();
        self.0.counters.count(Kind::Refused, reason);
        tracing::warn!(%remote, reason, %error, "link refused");
    }

    fn note_refused(&self, arrival: &Arrival, error: &ShakeError) {
        self.0.counters.count(Kind::Refused, error.reason());
        let reason = error.reason();
        tracing::warn!(remote = ?arrival.remote, reason, %error, "link refused");
    }

    fn note_end(&self, peer: &RelayId, end: &End) {
        self.0.counters.count(Kind::Ended, end.reason());
        tracing::info!(%peer, reason = end.reason(), %end, "link ended");
    }

    fn opening(
        &self,
        shaken: shake::Shaken,
        encoding: Encoding,
        dialled: bool,
        quick: bool,
    ) -> Opening {
        let ours = self.0.settings.offer;
        Opening { shaken, encoding, dialled, ours, quick, since_ms: unix_ms() }
    }

    /// Keeps a link to a hub, or to one of its fallbacks, until the handle is dropped or stopped.
    pub fn connect(&self, target: Target) -> TargetHandle {
        target::start(self, target)
    }

    /// Asks all other sides to move, lets what is under way finish within `within`, and ends every task.
    pub async fn shutdown(&self, within: Duration) {
        self.0.stop.cancel();
        let open: Vec<Handle> = self.accepted().links.values().cloned().collect();
        let apart = apart(open.len());
        for link in open {
            link.drain("stopping", within, apart);
        }
        self.0.tasks.close();
        // Draining ends each link within its time; handshakes end by themselves.
        let most = within + GRACE + GRACE;
        if tokio::time::timeout(most, self.0.tasks.wait()).await.is_err() {
            tracing::warn!("links did not end in time");
            let open: Vec<Handle> = self.accepted().links.values().cloned().collect();
            open.iter().for_each(|link| link.close("stopping"));
            self.0.tasks.wait().await;
        }
    }

    fn accepted(&self) -> MutexGuard<'_, Accepted> {
        self.0.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("relay", &self.0.identity.relay).finish_non_exhaustive()
    }
}

/// A place for one accepted link.
#[derive(Debug)]
pub struct Ticket(Links);

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut accepted = self.0.accepted();
        accepted.count = accepted.count.saturating_sub(1);
    }
}

/// Over how long so many relays are asked to spread their coming back: a hub that is started again takes fifty in
/// a second without breaking into a sweat, and who has three does not want to wait for one.
fn apart(links: usize) -> Duration {
    const EACH: Duration = Duration::from_millis(20);
    const LEAST: Duration = Duration::from_millis(500);
    const MOST: Duration = Duration::from_secs(30);
    EACH.saturating_mul(u32::try_from(links).unwrap_or(u32::MAX)).clamp(LEAST, MOST)
}

/// The time for saying goodbye.
const GRACE: Duration = Duration::from_secs(1);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Came up, dialled by the other side.
    Accepted,
    /// Came up, dialled by this side.
    Dialled,
    /// The other side was refused.
    Refused,
    /// This side could not link: no connection, or refused by the other.
    Failed,
    /// Was up and ended.
    Ended,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Dialled => "dialled",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Ended => "ended",
        }
    }
}

/// Counts by kind and reason. Reasons are words of this program, so their number is bounded.
#[derive(Debug, Default)]
pub struct Counters(Mutex<BTreeMap<(Kind, &'static str), u64>>);

impl Counters {
    fn count(&self, kind: Kind, reason: &'static str) {
        *self.map().entry((kind, reason)).or_default() += 1;
    }

    pub fn get(&self, kind: Kind, reason: &'static str) -> u64 {
        self.map().get(&(kind, reason)).copied().unwrap_or_default()
    }

    /// All counts since the start.
    pub fn all(&self) -> Vec<(Kind, &'static str, u64)> {
        self.map().iter().map(|((kind, reason), count)| (*kind, *reason, *count)).collect()
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<(Kind, &'static str), u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_relays_come_back_spread_and_few_at_once() {
        assert_eq!(apart(0), Duration::from_millis(500));
        assert_eq!(apart(3), Duration::from_millis(500));
        assert_eq!(apart(1_000), Duration::from_secs(20));
        assert_eq!(apart(usize::MAX), Duration::from_secs(30));
    }
}
