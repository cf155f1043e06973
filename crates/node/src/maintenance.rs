//! Work by the clock: expired events, retention, lock history.

use std::{sync::Weak, time::Duration};

use relay_core::policy::Pattern;
use relay_store::{Retention, StoreError};
use tokio_util::sync::CancellationToken;

use crate::{config::NamespacePolicy, node::Node};

/// How often expired events are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);
/// Rounds of the above between two looks at retention.
const RETENTION_ROUNDS: u32 = 60;

/// Runs until the node stops.
pub(crate) async fn run(node: Weak<Node>, stop: CancellationToken) {
    let mut round = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EXPIRY_INTERVAL) => {}
        }
        let Some(node) = node.upgrade() else { return };
        if let Err(error) = sweep(&node, &stop, round % RETENTION_ROUNDS == 0).await {
            tracing::warn!(%error, "maintenance failed; it will be tried again");
        }
        round += 1;
    }
}

/// Prunes conversations, inboxes, KeyPackages and attachments until the node stops.
pub(crate) async fn run_chat(node: Weak<Node>, stop: CancellationToken) {
    loop {
        let Some(interval) = node.upgrade().map(|node| node.live().chat.retention_sweep_interval)
        else {
            return;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        let Some(node) = node.upgrade() else { return };
        let swept = async {
            node.conversations.sweep().await?;
            node.attachments.sweep().await
        };
        if let Err(error) = swept.await {
            tracing::warn!(%error, "old messages could not be pruned; it will be tried again");
        }
    }
}

async fn sweep(node: &Node, stop: &CancellationToken, retention: bool) -> Result<(), StoreError> {
    let now_ns = node.clock.wall_ns();
    while !stop.is_cancelled() && node.store.sweep_expired(now_ns / 1_000_000_000).await? > 0 {}
    if retention {
        node.keep_usage().await;
        for info in node.store.namespaces().await? {
            let config = node.live();
            let policy = config.namespace.iter().find(|policy| matches(policy, &info.name));
            let retention = policy.map(|policy| rules(policy, now_ns)).unwrap_or_default();
            while retention != Retention::default()
                && !stop.is_cancelled()
                && node.store.prune(info.name.clone(), retention.clone()).await? > 0
            {}
            let history = policy.and_then(|policy| policy.history).or(config.locks.history);
            if let Some(history) = history {
                let before_ns = now_ns.saturating_sub(history.as_nanos() as u64);
                while !stop.is_cancelled()
                    && node.store.prune_lock_history(info.name.clone(), before_ns).await? > 0
                {
                }
            }
        }
    }
    Ok(())
}

fn matches(policy: &NamespacePolicy, ns: &relay_proto::Namespace) -> bool {
    policy.r#match.parse::<Pattern>().is_ok_and(|pattern| pattern.matches(ns))
}

fn rules(policy: &NamespacePolicy, now_ns: u64) -> Retention {
    Retention {
        received_before_ns: policy.max_age.map(|age| now_ns.saturating_sub(age.as_nanos() as u64)),
        max_bytes: policy.max_bytes.map(|size| size.0),
        keep_versions: policy.keep_versions,
    }
}
