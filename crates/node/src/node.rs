//! The node: what the doors call. Doors ask [`Node::homes`] first where a name lives.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use rand_core::{OsRng, RngCore};
use relay_actors::{BodyStream, Reply};
use relay_core::{
    attachments::Attachments,
    audit::Audit,
    conversations::Conversations,
    events::Events,
    fanout::Fanout,
    inbox::Inboxes,
    key_packages::KeyPackages,
    locks::Locks,
    policy::{Op, Policy, Principal, quota::Quotas},
    presence::Presence,
    sessions::Sessions,
    social::Social,
};
use relay_proto::{Call, CallError, Caller, EventLimits, Namespace, Problem};
use relay_store::{Clock, Store};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    chat::Afar,
    config::Config,
    connections::Connections,
    federation::Federated,
    gate::Reader,
    homes::{DoorFrame, Homes},
    identity::Identity,
    metrics::Metrics,
    mirror::Mirrors,
    push::Push,
    reload::Live,
    services::{Far, Services},
    settings,
};

/// A running relay without its doors.
#[derive(Debug)]
pub struct Node {
    /// As it was at the start. What may change since then is asked of [`Node::live`].
    pub config: Config,
    pub(crate) live: Live,
    pub identity: Identity,
    pub clock: Arc<dyn Clock>,
    pub store: Store,
    pub events: Arc<Events>,
    pub locks: Arc<Locks>,
    pub fanout: Arc<Fanout>,
    pub policy: Arc<Policy>,
    pub quotas: Arc<Quotas>,
    pub sessions: Arc<Sessions>,
    pub conversations: Arc<Conversations>,
    pub inboxes: Arc<Inboxes>,
    pub key_packages: KeyPackages,
    pub presence: Arc<Presence>,
    pub attachments: Arc<Attachments>,
    pub audit: Arc<Audit>,
    pub social: Arc<Social>,
    /// Identities that are fetched from other servers.
    pub mirrors: Mirrors,
    pub services: Arc<Services>,
    pub(crate) federated: ArcSwap<Federated>,
    pub homes: Arc<Homes>,
    /// The same for scripts.
    pub(crate) far: Far,
    pub(crate) afar: Afar,
    /// Where it is set up.
    pub push: Option<Arc<Push>>,
    /// Where requests that other relays forward come in.
    pub(crate) door: DoorFrame,
    pub connections: Connections,
    /// Where others reach this relay, once its doors are open, as far as it knows itself.
    pub address: OnceLock<String>,
    pub metrics: Arc<Metrics>,
    /// Unix nanoseconds.
    pub started_at_ns: u64,
    /// Ends every task of the node and of its doors.
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
    pub(crate) draining: AtomicBool,
    pub(crate) stop_asked: watch::Sender<Option<Duration>>,
}

impl Node {
    /// The view of a principal on what can be read.
    pub fn reader(&self, principal: Principal) -> Reader {
        Reader { policy: self.policy.clone(), principal }
    }

    /// Whether the principal may do this in the namespace.
    ///
    /// # Errors
    /// `unauthorized` for nobody in particular, else `forbidden`.
    pub fn check(&self, who: &Principal, ns: &Namespace, op: Op) -> Result<(), Problem> {
        self.policy.check(who, ns, op).inspect_err(|problem| {
            let action = match op {
                Op::Read => "namespace.read",
                Op::Write => "event.write",
                Op::Lock => "lock",
                Op::Admin => "admin",
            };
            self.audit.refused(&who.to_string(), action, ns.as_str(), problem);
        })
    }

    /// Calls a service, here or anywhere, and counts it. Dropping the future cancels the call,
    /// unless it has an idempotency key.
    ///
    /// # Errors
    /// As [`relay_actors::Router::ask`].
    pub async fn call(
        &self,
        call: Call,
        caller: Caller,
        body: Option<BodyStream>,
    ) -> Result<Reply, CallError> {
        let began = self.clock.mono_ns();
        let outcome = self.services.router.ask_with_body(call, caller, body).await;
        let took = self.clock.mono_ns().saturating_sub(began);
        self.metrics.called(outcome.as_ref().map(|_| ()).map_err(|error| error.code), took);
        outcome
    }

    /// Links, routes and registry as they are now; joining a hub makes new ones.
    pub fn federated(&self) -> Arc<Federated> {
        self.federated.load_full()
    }

    /// The limits of events in force now.
    pub fn event_limits(&self) -> EventLimits {
        settings::event_limits(&self.live.current())
    }

    /// Bytes that nobody can guess.
    pub fn random_bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        OsRng.fill_bytes(&mut bytes);
        bytes
    }

    /// From now on `/readyz` says no, so that load balancers look elsewhere.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Asks whoever runs the node to stop it in order, with so much time for what is under way.
    pub fn ask_to_stop(&self, timeout: Duration) {
        self.start_draining();
        self.stop_asked.send_replace(Some(timeout));
    }

    /// Waits until somebody asks for a stop; tells the time for what is under way.
    pub async fn stop_asked(&self) -> Duration {
        let mut asked = self.stop_asked.subscribe();
        // The sender lives as long as the node.
        let found = asked.wait_for(Option::is_some).await;
        found.ok().and_then(|timeout| *timeout).unwrap_or_default()
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Writes down how many events each tenant stored today.
    pub(crate) async fn keep_usage(&self) {
        let rows = self.quotas.usage();
        let rows = rows.into_iter().map(|row| (row.tenant, row.day, row.events)).collect();
        if let Err(error) = self.store.save_tenant_events(rows).await {
            tracing::warn!(%error, "the tenants' counters could not be kept");
        }
    }

    /// Ends the node's tasks and closes the store; the doors must be closed before.
    pub async fn close(&self, within: Duration) {
        self.stop.cancel();
        self.federated().close(within).await;
        self.services.close(within).await;
        self.tasks.close();
        if tokio::time::timeout(within, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "tasks did not end in time");
        }
        if tokio::time::timeout(within, self.conversations.close()).await.is_err() {
            tracing::warn!("conversations did not come to rest in time");
        }
        self.keep_usage().await;
        self.store.close().await;
        self.fanout.stop().await;
    }
}
