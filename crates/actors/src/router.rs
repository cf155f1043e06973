//! The router: local delivery first, everything else to the [`Remote`].

mod entry;
mod here;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::future::BoxFuture;
use relay_proto::{
    Address, Call, CallError, Caller, NodeAddress, RelayId, ServiceName, call::AccessRules,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::task::TaskTracker;

use crate::{
    inbox::Mailbox,
    journal::{Journal, LogLevel, WallClock},
    results::{ResultLimits, ResultStore, ResultStoreError, Results},
    service::{BodyStream, Reply, ServiceInfo},
};

pub use entry::{ActorStatus, Life};
use entry::{Entry, State};
use here::request;

/// Where everything goes that does not live here; the federation gateway implements it.
pub trait Remote: Send + Sync {
    /// Delivers a call and waits for its answer. Dropping the future cancels the call.
    fn ask(
        &self,
        call: Call,
        caller: Caller,
        body: Option<BodyStream>,
    ) -> BoxFuture<'_, Result<Reply, CallError>>;

    /// Hands a message over; an answer is not waited for.
    fn send(&self, call: Call, caller: Caller) -> BoxFuture<'_, Result<(), CallError>>;
}

/// A method of every service, answered by the router where the service lives: what its actor is
/// doing. JSON-RPC keeps names that begin with `rpc.` for such uses.
pub const PING: &str = "rpc.ping";

/// The name under which every node itself answers [`PING`], with its relay id; no actor can have it.
pub const NODE: &str = "_node";

/// Who this node is, and what the router keeps.
#[derive(Debug, Clone)]
pub struct RouterConfig {
    pub relay: RelayId,
    pub results: ResultLimits,
    /// What the actors' logs are dated by, and stored results expire by.
    pub clock: WallClock,
}

impl RouterConfig {
    /// Default limits and the system's clock.
    pub fn new(relay: RelayId) -> Self {
        Self { relay, results: ResultLimits::default(), clock: WallClock::system() }
    }
}

/// Routes calls; cheap to clone.
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
}

struct Shared {
    relay: RelayId,
    /// The hub this node is linked to, for addresses that name it.
    hub: ArcSwapOption<RelayId>,
    /// Copied on change, which is rare, so that calls take no lock.
    services: ArcSwap<HashMap<ServiceName, Arc<Entry>>>,
    /// Held while `services` is changed.
    changing: Mutex<()>,
    remote: ArcSwapOption<Box<dyn Remote>>,
    access: ArcSwap<AccessRules>,
    results: Results,
    clock: WallClock,
    /// Counts changes of what is registered here.
    changes: watch::Sender<u64>,
    /// Calls with idempotency keys run to their end even when their caller goes.
    keyed: TaskTracker,
}

enum Place {
    Here(Arc<Entry>),
    Elsewhere(Arc<Box<dyn Remote>>),
    Nowhere(CallError),
}

impl Router {
    pub fn new(config: RouterConfig) -> Self {
        let shared = Shared {
            relay: config.relay,
            hub: ArcSwapOption::empty(),
            services: ArcSwap::default(),
            changing: Mutex::default(),
            remote: ArcSwapOption::empty(),
            access: ArcSwap::default(),
            results: Results::new(config.results),
            clock: config.clock,
            changes: watch::Sender::new(0),
            keyed: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sets the way to other nodes, once there is one.
    pub fn set_remote(&self, remote: impl Remote + 'static) {
        self.shared.remote.store(Some(Arc::new(Box::new(remote))));
    }

    /// Says which hub this node is linked to.
    pub fn set_hub(&self, hub: Option<RelayId>) {
        self.shared.hub.store(hub.map(Arc::new));
    }

    /// Sets who may call what here.
    pub fn set_access(&self, rules: AccessRules) {
        self.shared.access.store(Arc::new(rules));
    }

    /// Keeps results of idempotency keys in `store` from now on, beginning with those that it has.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub async fn keep_results(&self, store: Arc<dyn ResultStore>) -> Result<(), ResultStoreError> {
        self.shared.results.restore(store, self.shared.clock.now_ms()).await
    }

    /// This node's name.
    pub fn relay(&self) -> &RelayId {
        &self.shared.relay
    }

    /// The log of an actor here.
    pub fn journal(&self, name: &ServiceName) -> Option<Journal> {
        self.find(name).map(|entry| entry.journal.clone())
    }

    /// Adds a line to the log of an actor; one that is not here has none.
    pub fn log(&self, name: &ServiceName, level: LogLevel, message: &str) {
        if let Some(entry) = self.find(name) {
            entry.journal.write(level, message);
        }
    }

    /// Calls a service, here or anywhere, and waits for its answer. Dropping the future cancels
    /// the call, unless it has an idempotency key.
    ///
    /// # Errors
    /// At once where the call cannot start, else what the service answers, or timeout.
    pub async fn ask(&self, call: Call, caller: Caller) -> Result<Reply, CallError> {
        self.ask_with_body(call, caller, None).await
    }

    /// [`Self::ask`] with a body beside the arguments.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn ask_with_body(
        &self,
        call: Call,
        caller: Caller,
        body: Option<BodyStream>,
    ) -> Result<Reply, CallError> {
        if is_node_ping(&call) && call.to.node.as_ref().is_none_or(|node| self.is_here(node)) {
            return Reply::json(&self.shared.relay);
        }
        match self.place(&call.to) {
            Place::Here(entry) => self.serve(&entry, call, caller, body).await,
            Place::Elsewhere(remote) => {
                let deadline = Instant::now() + call.timeout;
                let answer = timeout_at(deadline, remote.ask(call, caller, body)).await;
                answer.unwrap_or_else(|_| Err(CallError::timeout()))
            }
            Place::Nowhere(error) => Err(error),
        }
    }

    /// Sends a message to a service, here or anywhere, at most once; no answer comes.
    ///
    /// # Errors
    /// Where it certainly does not arrive.
    pub async fn send(&self, call: Call, caller: Caller) -> Result<(), CallError> {
        match self.place(&call.to) {
            Place::Here(entry) => {
                self.admit(&entry, &call, &caller)?;
                entry.mailbox.send(request(call, caller, None))
            }
            Place::Elsewhere(remote) => remote.send(call, caller).await,
            Place::Nowhere(error) => Err(error),
        }
    }

    /// Takes a call that came over a link: served here or not at all, never sent on.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn receive(
        &self,
        call: Call,
        caller: Caller,
        body: Option<BodyStream>,
    ) -> Result<Reply, CallError> {
        if is_node_ping(&call) {
            return Reply::json(&self.shared.relay);
        }
        // Said to have not started, so that the caller's hub may try another instance.
        self.admits(&call, &caller).map_err(CallError::not_started)?;
        match self.find(&call.to.service) {
            Some(entry) => self.serve(&entry, call, caller, body).await,
            None => Err(CallError::service_not_found(&call.to.service).not_started()),
        }
    }

    /// Whether a call would be taken here; nothing is called.
    ///
    /// # Errors
    /// What it would be refused with.
    pub fn admits(&self, call: &Call, caller: &Caller) -> Result<(), CallError> {
        let entry = self.find(&call.to.service);
        let entry = entry.ok_or_else(|| CallError::service_not_found(&call.to.service))?;
        self.admit(&entry, call, caller)
    }

    /// Takes a message that came over a link and has no answer.
    ///
    /// # Errors
    /// Where it is refused.
    pub fn receive_send(&self, call: Call, caller: Caller) -> Result<(), CallError> {
        let entry = self.find(&call.to.service);
        let entry = entry.ok_or_else(|| CallError::service_not_found(&call.to.service))?;
        self.admit(&entry, &call, &caller)?;
        entry.mailbox.send(request(call, caller, None))
    }

    /// Every actor here.
    pub fn actors(&self) -> Vec<ActorStatus> {
        let services = self.shared.services.load();
        let mut all: Vec<_> = services.values().map(|entry| entry.status()).collect();
        all.sort_by(|a, b| a.info.name.cmp(&b.info.name));
        all
    }

    /// One actor.
    pub fn actor(&self, name: &ServiceName) -> Option<ActorStatus> {
        self.find(name).map(|entry| entry.status())
    }

    /// Changes whenever what is registered here, or its health, does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Replaces what is known of a running service, as a new version of its script says.
    pub fn update_info(&self, info: ServiceInfo) {
        if let Some(entry) = self.find(&info.name) {
            entry.info.store(Arc::new(info));
            self.changed();
        }
    }

    /// Notes what a health check said of the program behind a service.
    pub fn note_health(&self, name: &ServiceName, health: Result<(), String>) {
        let Some(entry) = self.find(name) else { return };
        let ailing = health.err();
        let before = std::mem::replace(&mut entry.lock().ailing, ailing.clone());
        if before.is_some() != ailing.is_some() {
            match &ailing {
                Some(why) => entry.journal.write(LogLevel::Warn, &format!("not well: {why}")),
                None => entry.journal.write(LogLevel::Info, "well again"),
            }
            self.changed();
        }
    }

    pub(crate) fn register(&self, info: ServiceInfo, mailbox: Mailbox) -> Option<Registered> {
        let name = info.name.clone();
        let state = State { life: Life::Starting, restarts: 0, last_crash: None, ailing: None };
        let info = ArcSwap::from_pointee(info);
        let journal = Journal::new(self.shared.clock.clone());
        let entry = Arc::new(Entry { info, mailbox, journal, state: Mutex::new(state) });
        let added = self.change(|services| {
            if name.as_str() == NODE || services.contains_key(&name) {
                return false;
            }
            services.insert(name.clone(), entry.clone());
            true
        });
        added.then(|| Registered { router: self.clone(), name, entry })
    }

    pub(crate) fn unregister(&self, name: &ServiceName) {
        self.change(|services| services.remove(name).is_some());
    }

    pub(crate) fn clear(&self) {
        self.change(|services| {
            services.clear();
            true
        });
    }

    /// Waits for the calls with idempotency keys; their actors have ended.
    pub(crate) async fn finish_keyed(&self) {
        self.shared.keyed.close();
        self.shared.keyed.wait().await;
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<ServiceName, Arc<Entry>>) -> bool) -> bool {
        let _changing = self.shared.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut services = HashMap::clone(&self.shared.services.load());
        let changed = change(&mut services);
        if changed {
            self.shared.services.store(Arc::new(services));
            self.changed();
        }
        changed
    }

    fn changed(&self) {
        self.shared.changes.send_modify(|count| *count += 1);
    }

    fn find(&self, name: &ServiceName) -> Option<Arc<Entry>> {
        self.shared.services.load().get(name).cloned()
    }

    fn place(&self, to: &Address) -> Place {
        let here = to.node.as_ref().is_some_and(|node| self.is_here(node));
        let local = (here || to.node.is_none()).then(|| self.find(&to.service)).flatten();
        if let Some(entry) = local {
            return Place::Here(entry);
        }
        if here {
            return Place::Nowhere(CallError::service_not_found(to));
        }
        match (self.shared.remote.load_full(), &to.node) {
            (Some(remote), _) => Place::Elsewhere(remote),
            (None, Some(node)) => Place::Nowhere(CallError::unreachable(node)),
            (None, None) => Place::Nowhere(CallError::service_not_found(to)),
        }
    }

    fn is_here(&self, node: &NodeAddress) -> bool {
        node.names(&self.shared.relay, self.shared.hub.load().as_deref())
    }
}

fn is_node_ping(call: &Call) -> bool {
    call.to.service.as_str() == NODE && call.method.as_str() == PING
}

/// The supervisor's hold on one registered actor.
pub(crate) struct Registered {
    router: Router,
    name: ServiceName,
    entry: Arc<Entry>,
}

impl Registered {
    pub const fn name(&self) -> &ServiceName {
        &self.name
    }

    pub fn set(&self, life: Life) {
        self.entry.lock().life = life;
        self.router.changed();
    }

    pub fn crashed(&self, reason: String) {
        self.entry.journal.write(LogLevel::Error, &format!("crashed: {reason}"));
        let mut state = self.entry.lock();
        state.restarts += 1;
        state.last_crash = Some(reason);
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services = self.shared.services.load();
        f.debug_struct("Router")
            .field("relay", &self.shared.relay)
            .field("services", &services.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
