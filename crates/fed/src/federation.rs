//! The federation as the node sees it: one handle over all links.
//!
//! - [`Federation`]: `ask`, `send`, `forward`; takes what links tell ([`LinkEvents`])
//! - `calls`: a request's way through this relay, and what is sent again
//! - `choose`: which instance
//! - `explain`: the way of a call, without calling
//! - `query`: what spokes ask their hub
//! - `registration`: what a spoke tells its hub, and hubs each other
//! - `state`: links, registry and balance, behind one short lock
//! - `wire`: calls as messages
//! - [`views`]: what people and operators see
//!
//! A node of either role is built the same way: [`Federation::new`], handed to the links as their
//! [`LinkEvents`], and [`Federation::run`] beside them until the node stops.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use relay_proto::{
    Call, CallError, Caller, Problem, RelayId, SigningKey,
    balance::Tuning,
    call::{Json, MAX_TIMEOUT, Pattern},
    link::{Message, MessageType, NodeRef, NodeType},
    registry::{Limits, Timing},
    route::From,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    link::{Answering, ByteStream, Link, LinkEvents, Role},
    local::{Answer, Forward, LocalNode},
};

mod calls;
mod choose;
mod explain;
mod misses;
mod query;
mod registration;
mod state;
pub mod views;
mod wire;

pub use explain::{ExplainStep, Explained};
pub use query::Query;
use state::State;
use wire::Routed;

/// Who this node is and what it bears.
#[derive(Debug, Clone)]
pub struct FederationConfig {
    pub relay: RelayId,
    pub role: Role,
    /// The node's own key: signs its attachments.
    pub key: SigningKey,
    /// Any number drawn for this run of the program: seeds the draws among instances and tells the
    /// runs of a hub apart.
    pub seed: u64,
    /// Requests of other relays under way at once; further ones are refused as overloaded.
    /// Default 65 536.
    pub pending: usize,
    /// Of one link. Default 8192.
    pub pending_per_link: usize,
    /// Spokes whose word on the keys of their own users is taken. Hubs' words are. Default none: a
    /// spoke's users are known by their node.
    pub key_vouchers: Vec<Pattern>,
    pub timing: Timing,
    pub limits: Limits,
    pub tuning: Tuning,
}

impl FederationConfig {
    pub fn new(relay: RelayId, role: Role, key: SigningKey, seed: u64) -> Self {
        Self {
            relay,
            role,
            key,
            seed,
            pending: 65_536,
            pending_per_link: 8192,
            key_vouchers: Vec::new(),
            timing: Timing::default(),
            limits: Limits::default(),
            tuning: Tuning::default(),
        }
    }
}

/// Counted by event, since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests taken from links or made here.
    pub requests: AtomicU64,
    /// Requests sent again, to the same instance or another.
    pub retries: AtomicU64,
    /// A retry that the budget of one in ten did not allow.
    pub retries_refused: AtomicU64,
    /// Refused because too many are under way.
    pub overloaded: AtomicU64,
    /// Refused as loops or for want of hops.
    pub loops: AtomicU64,
    /// Dropped because nobody waits for them any more.
    pub expired: AtomicU64,
    /// Whose asker went away while they were under way.
    pub cancelled: AtomicU64,
    /// Answers and acknowledgements that nothing waited for.
    pub late: AtomicU64,
    /// Registrations that were refused.
    pub registrations_refused: AtomicU64,
    /// Messages that could not be read.
    pub malformed: AtomicU64,
}

/// The handle; cheap to clone.
#[derive(Clone)]
pub struct Federation {
    shared: Arc<Shared>,
}

struct Shared {
    config: FederationConfig,
    local: Arc<dyn LocalNode>,
    /// `now` of the pure rules is time since this.
    started: Instant,
    /// Never held across an await.
    state: Mutex<State>,
    /// Counts changes of links and registry.
    changed: watch::Sender<u64>,
    /// Wakes [`Federation::run`] when something waits to be sent to peers.
    flush: tokio::sync::Notify,
    pending: AtomicUsize,
    counters: Counters,
    /// The requests of links that are under way.
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Federation {
    /// A node without links yet. Hand it to the links as their [`LinkEvents`], and run
    /// [`Self::run`].
    pub fn new(config: FederationConfig, local: Arc<dyn LocalNode>) -> Self {
        let started = Instant::now();
        let state = State::new(&config, unix_ms());
        let shared = Shared {
            state: Mutex::new(state),
            local,
            started,
            changed: watch::Sender::new(0),
            flush: tokio::sync::Notify::new(),
            pending: AtomicUsize::new(0),
            counters: Counters::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            config,
        };
        let shared = Arc::new(shared);
        shared.register_self();
        Self { shared }
    }

    /// Does what must be done now and then: heartbeats, expiry, what hubs tell each other. Returns
    /// when `stop` is cancelled and the requests of links have ended.
    pub async fn run(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut services = self.shared.local.services_changed();
        let mut services_gone = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.shared.flush.notified() => self.shared.flush(),
                changed = services.changed(), if !services_gone => match changed {
                    Ok(()) => self.shared.services_changed(),
                    Err(_) => services_gone = true,
                },
                _ = ticks.tick() => self.shared.tick(),
            }
        }
        self.shared.stopping.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Calls a service elsewhere and waits for its answer. Dropping the future cancels the call.
    ///
    /// # Errors
    /// At once where there is no way or no such service, else what the service answers, or timeout.
    pub async fn ask(
        &self,
        call: Call,
        caller: Caller,
        body: Option<ByteStream>,
    ) -> Result<Answer, CallError> {
        let routed = Routed::call(&call, &caller);
        let answered = self.shared.dispatch(From::Here, routed, body, self.shared.now()).await?;
        wire::read_answer(answered)
    }

    /// Hands a message to a service elsewhere. Resolves when the service's node has taken it.
    ///
    /// # Errors
    /// Where it certainly or possibly did not arrive.
    pub async fn send(&self, call: Call, caller: Caller) -> Result<(), CallError> {
        let routed = Routed::call(&call, &caller).without_answer();
        let answered = self.shared.dispatch(From::Here, routed, None, self.shared.now()).await?;
        match answered.message.message_type {
            MessageType::Error => Err(wire::read_error(&answered.message)),
            _ => Ok(()),
        }
    }

    /// Sends a request to the home it belongs to, with a body where it is a long one, and answers with the home's answer.
    ///
    /// # Errors
    /// The home's own problem, or `home_unreachable` and `timeout` where it may be tried again.
    pub async fn forward(
        &self,
        home: RelayId,
        forward: Forward,
        body: Option<ByteStream>,
        patience: Duration,
    ) -> Result<(Json, Option<ByteStream>), Problem> {
        let data = wire::to_json(&forward)
            .ok_or_else(|| Problem::invalid("the request cannot be written as JSON"))?;
        let routed = Routed::forward(home, data, patience.min(MAX_TIMEOUT));
        let answered = self.shared.dispatch(From::Here, routed, body, self.shared.now()).await;
        wire::read_forwarded(answered.map_err(Problem::from)?)
    }

    /// Changes whenever links, or what the registry knows, do.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// For a spoke: the hub it is attached to.
    pub fn hub(&self) -> Option<RelayId> {
        self.shared.lock().up().map(|link| link.peer().relay.clone())
    }

    /// How many homes and instances of services are known here.
    pub fn registry_size(&self) -> (usize, usize) {
        self.shared.lock().registry.size()
    }

    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn changed(&self) {
        self.changed.send_modify(|count| *count += 1);
        self.flush.notify_one();
    }

    /// Whether a node's word on the keys of its users is taken.
    fn takes_keys_of(&self, source: &NodeRef) -> bool {
        source.node_type == NodeType::Main
            || self.config.key_vouchers.iter().any(|pattern| pattern.matches(source.id.as_str()))
    }
}

impl LinkEvents for Federation {
    fn up(&self, link: Arc<dyn Link>) {
        let shared = &self.shared;
        let now = shared.now();
        match (shared.config.role, link.peer().role) {
            (Role::Main, Role::Main) => shared.lock().add_peer(now, link),
            (Role::Main, Role::Home) => shared.lock().add_spoke_link(link),
            (Role::Home, Role::Main) => {
                let first = shared.lock().add_up(link);
                if first {
                    shared.register();
                }
            }
            (Role::Home, Role::Home) => link.close("a spoke takes no links"),
        }
        shared.changed();
    }

    fn message(&self, link: &Arc<dyn Link>, message: Message) {
        self.shared.message(link, message);
    }

    fn request(
        &self,
        link: &Arc<dyn Link>,
        message: Message,
        body: Option<ByteStream>,
        answering: Box<dyn Answering>,
    ) {
        self.shared.request(link, message, body, answering);
    }

    fn load(&self) -> Option<Json> {
        self.shared.heartbeat()
    }

    fn down(&self, link: &Arc<dyn Link>, _reason: &str) {
        let now = self.shared.now();
        let moved = self.shared.lock().remove_link(now, link);
        if moved {
            self.shared.register();
        }
        self.shared.changed();
    }
}

impl fmt::Debug for Federation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Federation")
            .field("relay", &self.shared.config.relay)
            .field("role", &self.shared.config.role)
            .finish_non_exhaustive()
    }
}

/// How often [`Federation::run`] looks at what is due.
const TICK: Duration = Duration::from_secs(1);

/// Unix milliseconds: for people, and as the first attach epoch of a run, which only has to be above
/// those of earlier runs (and is raised where it is not).
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}

/// A count that goes down again when dropped.
struct Counted(Arc<Shared>, Arc<AtomicUsize>);

impl Counted {
    /// Counts one more request under way, where there is room.
    fn take(shared: &Arc<Shared>, of_link: &Arc<AtomicUsize>) -> Option<Self> {
        let counted = Self(shared.clone(), of_link.clone());
        let all = shared.pending.fetch_add(1, Relaxed);
        let of_link = of_link.fetch_add(1, Relaxed);
        (all < shared.config.pending && of_link < shared.config.pending_per_link).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Relaxed);
        self.1.fetch_sub(1, Relaxed);
    }
}
