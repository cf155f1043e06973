//! What clients are told when the store fails.

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
        StoreError::Disk(_)
        | StoreError::Corrupt(_)
        | StoreError::Database(_)
        | StoreError::TooNew { .. }
        | StoreError::Unsafe(_)
        | StoreError::InUse => {
            tracing::error!(%error, "the store failed");
            Problem::new(Code::InternalError, "the relay could not store or read this")
        }
    }
}

/// When a client should ask a store again that could not answer.
const RETRY_AFTER_MS: u64 = 1_000;
