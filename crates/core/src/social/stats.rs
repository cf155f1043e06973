//! Counters, for metrics.

use std::sync::atomic::AtomicU64;

#[derive(Debug, Default)]
pub struct SocialStats {
    /// Events stored.
    pub stored: AtomicU64,
    /// Events that were held, deleted or refused by an operator already.
    pub duplicates: AtomicU64,
    /// Requests refused for their form or a signature.
    pub refused: AtomicU64,
    /// Requests refused by a quota.
    pub limited: AtomicU64,
    /// Identities purged.
    pub purged: AtomicU64,
    /// Answers that the asker had already.
    pub unchanged: AtomicU64,
    /// Verdicts of a moderation service that were carried out.
    pub judged: AtomicU64,
    /// Requests to a moderation service that brought none.
    pub judge_failed: AtomicU64,
    /// Events fetched from other servers.
    pub mirrored: AtomicU64,
}
