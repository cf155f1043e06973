//! The node: what the doors call. One day it asks first where a name lives; today everything lives here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use relay_core::{
    attachments::Attachments,
    audit::Audit,
    conversations::Conversations,
    events::Events,
    fanout::Fanout,
    inbox::Inboxes,
    key_packages::KeyPackages,
    limits::Windows,
    locks::Locks,
    policy::{Op, Policy, Principal, quota::Quotas},
    presence::Presence,
    sessions::Sessions,
};
use relay_proto::{EventLimits, Namespace, NodeId, Problem};
use relay_store::{Clock, Store};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::Config, connections::Connections, gate::Reader, identity::Identity, metrics::Metrics,
};

/// A running relay without its doors.
#[derive(Debug)]
pub struct Node {
    pub config: Config,
    pub identity: Identity,
    pub clock: Arc<dyn Clock>,
    pub store: Store,
    pub events: Arc<Events>,
    pub locks: Locks,
    pub fanout: Arc<Fanout>,
    pub policy: Arc<Policy>,
    pub quotas: Arc<Quotas>,
    pub sessions: Arc<Sessions>,
    pub conversations: Arc<Conversations>,
    pub inboxes: Arc<Inboxes>,
    pub key_packages: KeyPackages,
    pub presence: Arc<Presence>,
    pub attachments: Arc<Attachments>,
    /// Frames of each user in the present second, over all connections.
    pub user_frames: Windows<NodeId>,
    pub audit: Arc<Audit>,
    pub connections: Connections,
    pub metrics: Arc<Metrics>,
    pub event_limits: EventLimits,
    /// Unix nanoseconds.
    pub started_at_ns: u64,
    /// Ends every task of the node and of its doors.
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
    pub(crate) draining: AtomicBool,
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

    /// From now on `/readyz` says no, so that load balancers look elsewhere.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
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
