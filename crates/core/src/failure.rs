//! What clients are told when the store fails.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use relay_proto::{Code, Problem};
use relay_store::StoreError;

/// What a client is told of a failure of the store. Its cause is for the log, not for strangers.
pub fn store_problem(error: &StoreError) -> Problem {
    let wait = |message| {
        Problem::new(Code::HomeUnreachable, message).with("retry_after_ms", RETRY_AFTER_MS)
    };
    match error {
        StoreError::Closed => wait("the relay is stopping; nothing was stored"),
        StoreError::Busy => wait("the store is busy; nothing was stored"),
        StoreError::Full => wait("the relay's disk is full; nothing was stored"),
        StoreError::Lost(_) => {
            wait("the relay lost its database; send the same request again to be sure")
        }
        StoreError::Over(over) => Problem::new(Code::QuotaExceeded, over.to_string()),
        StoreError::Disk(_)
        | StoreError::Corrupt(_)
        | StoreError::Database(_)
        | StoreError::TooNew { .. }
        | StoreError::Unsafe(_)
        | StoreError::InUse => {
            let request_id = correlation_id();
            tracing::error!(%error, request_id, "the store failed");
            Problem::new(Code::InternalError, "the relay could not store or read this")
                .with("request_id", request_id)
        }
    }
}

/// A name for one request, told to the client and written to the log, by which an operator finds the cause.
pub fn correlation_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Keyed anew by each process, so that names do not repeat after a restart.
    static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    format!("{:016x}", HASHER.hash_one(NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// When a client should ask a store again that could not answer.
const RETRY_AFTER_MS: u64 = 1_000;
