//! What is kept of logs (`gateway.md` 12.1): pruned after an append, and by a sweep.

use std::sync::atomic::Ordering;

use relay_proto::conv::ConvId;
use relay_store::{StoreError, chat::ConversationRetention};

use super::Conversations;

/// Messages deleted in one transaction, so that others do not wait long.
const BATCH: u64 = 500;
/// Conversations looked at in one go.
const PAGE: u64 = 200;
const DAY_MS: u64 = 86_400_000;

impl Conversations {
    /// After an append: a log above its count loses its oldest at once. Failures are left to the sweep.
    pub(super) fn prune_after(&self, conv: &ConvId, now_ms: u64) {
        if self.config().retention.max_events.is_none() {
            return;
        }
        let (store, conv, stats) = (self.store.clone(), conv.clone(), self.stats.clone());
        let rules = ConversationRetention { before_ms: None, ..self.rules(now_ms) };
        self.lines.spawn(async move {
            match store.prune_conversation(conv, rules).await {
                Ok(pruned) => {
                    stats.pruned.fetch_add(pruned.messages, Ordering::Relaxed);
                }
                Err(error) => tracing::debug!(%error, "a log is left to the sweep"),
            }
        });
    }

    /// Prunes every log by the rules, and forgets what was kept for a while only. Call it every minute or so.
    ///
    /// # Errors
    /// The store's; what was pruned by then stays pruned.
    pub async fn sweep(&self) -> Result<(), StoreError> {
        let now_ms = self.now_ms();
        let retention = self.config().retention;
        if retention.max_events.is_some() || retention.max_age_ms.is_some() {
            let mut after = 0;
            loop {
                let page = self.store.kept_conversations(after, PAGE).await?;
                let Some((last, _)) = page.last() else { break };
                after = *last;
                for (_, conv) in page {
                    self.prune_all(conv, now_ms).await?;
                }
            }
        }
        self.store
            .sweep_message_ids(now_ms.saturating_sub(self.config().idempotency_window_ms))
            .await?;
        let acked_before = now_ms.saturating_sub(7 * DAY_MS);
        self.store.sweep_inboxes(acked_before, now_ms.saturating_sub(90 * DAY_MS)).await?;
        let expired_before_s = now_ms.saturating_sub(7 * DAY_MS) / 1_000;
        self.store.sweep_key_packages(now_ms.saturating_sub(90 * DAY_MS), expired_before_s).await?;
        Ok(())
    }

    async fn prune_all(&self, conv: ConvId, now_ms: u64) -> Result<(), StoreError> {
        loop {
            let pruned = self.store.prune_conversation(conv.clone(), self.rules(now_ms)).await?;
            self.stats.pruned.fetch_add(pruned.messages, Ordering::Relaxed);
            if pruned.messages < BATCH {
                return Ok(());
            }
        }
    }

    fn rules(&self, now_ms: u64) -> ConversationRetention {
        let retention = self.config().retention;
        ConversationRetention {
            max_events: retention.max_events,
            before_ms: retention.max_age_ms.map(|age| now_ms.saturating_sub(age)),
            hard: retention.hard,
            stale_before_ms: retention
                .cursor_stale_after_ms
                .map_or(0, |after| now_ms.saturating_sub(after)),
            now_ms,
            batch: BATCH,
        }
    }
}
