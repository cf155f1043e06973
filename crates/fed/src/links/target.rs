//! One way into the federation: a hub with its fallbacks, or a peer. The rules of when to dial whom are
//! `relay_proto::link::dialer`'s; this carries them out.

use std::{collections::HashMap, sync::Arc, time::Duration};

use relay_proto::{
    NodeId, Problem, RelayId,
    link::{
        dialer::{Action, Dialer, Plan},
        handshake::{Credential, Expected, FEATURE_STANDBY, HandshakeError, Identity, Pin},
    },
};
use serde::Serialize;
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Kind, Links,
    dial::{DialError, Dialled, dial},
    running::{Driver, End, Handle},
    shake::{self, ShakeError, Shaken},
    unix_ms,
};
use crate::link::Link;
use relay_proto::link::Encoding;

/// A hub that may be dialled.
#[derive(Debug, Clone)]
pub struct Hub {
    pub url: String,
    pub expected: Expected,
    /// In order of preference.
    pub credentials: Vec<Credential>,
}

/// Where to link to.
#[derive(Debug, Clone)]
pub struct Target {
    /// The first hub, then its fallbacks in order; at least one.
    pub hubs: Vec<Hub>,
    /// Hold a link to a fallback ready while all is well.
    pub standby: bool,
    /// Notice silence within seconds, not half a minute: for peers, and where there are fallbacks.
    pub quick: bool,
    /// How long the first hub must be back before returning to it.
    pub stable: Duration,
    /// How long what is under way may take when a hub is left.
    pub drain: Duration,
}

impl Target {
    /// A hub without fallbacks, or a peer.
    pub fn one(hub: Hub, quick: bool) -> Self {
        let (stable, drain) = (Duration::from_secs(60), Duration::from_secs(10));
        Self { hubs: vec![hub], standby: false, quick, stable, drain }
    }

    /// A first hub with fallbacks, the best of them warm.
    pub fn with_fallbacks(hubs: Vec<Hub>) -> Self {
        let several = hubs.len() > 1;
        let (stable, drain) = (Duration::from_secs(60), Duration::from_secs(10));
        Self { hubs, standby: several, quick: several, stable, drain }
    }
}

/// How a target is doing.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// The hub whose link is used.
    pub relay: Option<RelayId>,
    pub url: Option<String>,
    /// Unix milliseconds.
    pub since_ms: Option<u64>,
    /// From the dial to the link in use.
    pub dialled_in_ms: Option<u64>,
    /// The key that the hub in use has shown, for pinning.
    pub key: Option<NodeId>,
    /// Links that came into use after the first.
    pub reconnects: u64,
    /// The last failure, in words for people.
    pub last_error: Option<String>,
    /// Its one word.
    pub last_reason: Option<&'static str>,
    /// The hub's own refusal: trying again will not help without a person's doing.
    pub refused: Option<String>,
}

/// Keeps a target going; dropped, its links are drained and ended.
#[derive(Debug)]
pub struct TargetHandle {
    status: watch::Receiver<Status>,
    hurry: Arc<tokio::sync::Notify>,
    _stop: DropGuard,
}

impl TargetHandle {
    /// How it is doing, now and on every change.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Dials at once whatever is due later.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }
}

pub(super) fn start(links: &Links, target: Target) -> TargetHandle {
    let stop = links.0.stop.child_token();
    let (told, status) = watch::channel(Status::default());
    let hurry = Arc::new(tokio::sync::Notify::new());
    let keeper = Keeper {
        dialer: Dialer::new(Plan {
            hubs: target.hubs.len(),
            standby: target.standby,
            stable: target.stable,
        }),
        links: links.clone(),
        target: Arc::new(target),
        started: Instant::now(),
        up: HashMap::new(),
        work: JoinSet::new(),
        told,
    };
    links.0.tasks.spawn(keeper.run(stop.clone(), Arc::clone(&hurry)));
    TargetHandle { status, hurry, _stop: stop.drop_guard() }
}

/// What one of the keeper's tasks came to.
enum Done {
    /// Connected and welcomed.
    Linked {
        hub: usize,
        socket: Box<Dialled>,
        encoding: Encoding,
        shaken: Shaken,
        took: Duration,
    },
    Failed {
        hub: usize,
        error: Failure,
    },
    /// The hub asked to move.
    Moving {
        hub: usize,
        id: u64,
        after: Duration,
    },
    Ended {
        hub: usize,
        id: u64,
        end: End,
    },
    /// Nothing to say.
    Nothing,
}

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Shake(#[from] ShakeError),
}

impl Failure {
    fn reason(&self) -> &'static str {
        match self {
            Self::Dial(error) => error.reason(),
            Self::Shake(error) => error.reason(),
        }
    }

    fn refusal(&self) -> Option<&Problem> {
        match self {
            Self::Shake(ShakeError::Handshake(HandshakeError::Refused(problem))) => Some(problem),
            _ => None,
        }
    }
}

struct Up {
    handle: Handle,
    /// The dial and the handshake.
    took: Duration,
    relay: RelayId,
    key: NodeId,
    /// What the hub's `goaway` asked for.
    after: Option<Duration>,
}

struct Keeper {
    links: Links,
    target: Arc<Target>,
    dialer: Dialer,
    started: Instant,
    /// Links that are up, by hub.
    up: HashMap<usize, Up>,
    /// Dials, and links at work.
    work: JoinSet<Done>,
    told: watch::Sender<Status>,
}

impl Keeper {
    async fn run(mut self, stop: CancellationToken, hurry: Arc<tokio::sync::Notify>) {
        loop {
            self.act();
            let wake = self.dialer.wake_at().map(|at| self.started + at);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(done) = self.work.join_next() => self.note(done.unwrap_or(Done::Nothing)),
                () = sleep_until(wake) => {}
                () = hurry.notified() => self.dialer.hurry(self.started.elapsed()),
            }
        }
        self.stop().await;
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn act(&mut self) {
        for action in self.dialer.act(self.now()) {
            self.carry_out(action);
        }
        // The application uses the first link that it is told of, so spares come after.
        if self.dialer.active().is_some() {
            self.up.values().for_each(|up| up.handle.tell_up());
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Dial { hub, standby } => {
                let (links, target) = (self.links.clone(), Arc::clone(&self.target));
                let began = Instant::now();
                self.work.spawn(async move {
                    let Some(at) = target.hubs.get(hub) else { return Done::Nothing };
                    match Box::pin(link_to(&links, at, standby)).await {
                        Ok((socket, encoding, shaken)) => {
                            let (socket, took) = (Box::new(socket), began.elapsed());
                            Done::Linked { hub, socket, encoding, shaken, took }
                        }
                        Err(error) => Done::Failed { hub, error },
                    }
                });
            }
            Action::Promote(hub) => {
                let Some(up) = self.up.get(&hub) else { return };
                up.handle.tell_up();
                tracing::debug!(hub = %up.relay, "link in use");
                let url = self.target.hubs.get(hub).map(|hub| hub.url.clone());
                let took = u64::try_from(up.took.as_millis()).ok();
                self.told.send_modify(|status| {
                    status.reconnects += u64::from(status.since_ms.is_some());
                    status.relay = Some(up.relay.clone());
                    status.key = Some(up.key);
                    status.url = url;
                    status.since_ms = Some(unix_ms());
                    status.dialled_in_ms = took;
                    status.refused = None;
                });
            }
            Action::Drain(hub) => {
                if let Some(up) = self.up.get(&hub) {
                    up.handle.tell_moving();
                    up.handle.drain("moved", self.target.drain, Duration::ZERO);
                }
            }
        }
    }

    fn note(&mut self, done: Done) {
        match done {
            Done::Nothing => {}
            Done::Linked { hub, socket, encoding, shaken, took } => {
                self.links.0.counters.count(Kind::Dialled, "up");
                self.run_link(hub, *socket, encoding, shaken, took);
            }
            Done::Failed { hub, error } => {
                let reason = error.reason();
                self.links.0.counters.count(Kind::Failed, reason);
                let url = self.target.hubs.get(hub).map_or("", |hub| hub.url.as_str());
                tracing::debug!(%url, reason, %error, "not linked");
                self.told.send_modify(|status| {
                    status.last_error = Some(format!("{url}: {error}"));
                    status.last_reason = Some(reason);
                    status.refused = error.refusal().map(ToString::to_string);
                });
                let (now, random) = (self.now(), random());
                self.dialer.failed(now, hub, random);
            }
            Done::Moving { hub, id, after } => {
                if let Some(up) = self.up.get_mut(&hub).filter(|up| up.handle.id() == id) {
                    up.after = Some(after);
                    tracing::info!(hub = %up.relay, "the hub asks to move");
                    self.dialer.told_to_move(hub);
                }
            }
            Done::Ended { hub, id, end } => {
                let Some(up) = self.up.remove(&hub).filter(|up| up.handle.id() == id) else {
                    return;
                };
                self.links.note_end(&up.relay, &end);
                self.told.send_modify(|status| {
                    status.last_error = Some(end.to_string());
                    status.last_reason = Some(end.reason());
                    if status.relay.as_ref() == Some(&up.relay) {
                        status.relay = None;
                        status.url = None;
                    }
                });
                let (now, random) = (self.now(), random());
                self.dialer.lost(now, hub, up.after, random);
            }
        }
    }

    fn run_link(
        &mut self,
        hub: usize,
        socket: Dialled,
        encoding: Encoding,
        shaken: Shaken,
        took: Duration,
    ) {
        let (relay, key) = (shaken.peer.relay.clone(), shaken.peer.key);
        // There is one first use: from now on this hub has this key.
        if let Some(at) = Arc::make_mut(&mut self.target).hubs.get_mut(hub)
            && at.expected.pin == Pin::FirstUse
        {
            at.expected.pin = Pin::Key(key);
        }
        let opening = self.links.opening(shaken, encoding, true, self.target.quick);
        let (moving, moved) = oneshot::channel();
        let events = Arc::clone(&self.links.0.events);
        let (driver, handle) = Driver::new(socket, opening, events, Some(moving));
        let id = handle.id();
        self.up.insert(hub, Up { handle, took, relay, key, after: None });
        self.dialer.linked(self.now(), hub);
        // The application knows the link, where it is to, before anything comes over it.
        self.act();
        self.work.spawn(async move { Done::Ended { hub, id, end: Box::pin(driver.run()).await } });
        self.work.spawn(async move {
            moved.await.map_or(Done::Nothing, |after| Done::Moving { hub, id, after })
        });
    }

    /// Drains what is up and awaits every task.
    async fn stop(mut self) {
        let within = self.target.drain.min(Duration::from_secs(5));
        for up in self.up.values() {
            up.handle.drain("stopping", within, Duration::ZERO);
        }
        let most = within + super::GRACE;
        let _ = tokio::time::timeout(most, self.links_end()).await;
        // Dials that are under way have nothing to finish.
        self.work.shutdown().await;
    }

    async fn links_end(&mut self) {
        while !self.up.is_empty() {
            let Some(done) = self.work.join_next().await else { return };
            if let Ok(Done::Ended { hub, id, end }) = done
                && let Some(up) = self.up.remove(&hub).filter(|up| up.handle.id() == id)
            {
                self.links.note_end(&up.relay, &end);
            }
        }
    }
}

/// Connects to a hub and shakes hands.
async fn link_to(
    links: &Links,
    hub: &Hub,
    standby: bool,
) -> Result<(Dialled, Encoding, Shaken), Failure> {
    let inner = &links.0;
    let mut identity: Identity = inner.identity.clone();
    if standby {
        identity.features.push(FEATURE_STANDBY.to_owned());
    }
    let offer = inner.settings.offer;
    let most = offer.max_message_bytes;
    let (mut socket, encoding) = dial(&hub.url, &identity, &inner.dialing, most).await?;
    let Hub { expected, credentials, .. } = hub;
    let shaken =
        shake::initiate(&mut socket, encoding, &identity, offer, expected, credentials).await?;
    let relay = &shaken.peer.relay;
    inner
        .admission
        .check_dialled(relay, &shaken.peer.key)
        .map_err(|refusal| ShakeError::Refused { relay: relay.clone(), refusal })?;
    if expected.pin == Pin::FirstUse {
        let peer = &shaken.peer;
        tracing::warn!(hub = %peer.relay, key = %peer.key, "first use: this key is trusted from now on");
    }
    Ok((socket, encoding, shaken))
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness there is no jitter, which is no reason to stay unlinked.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
