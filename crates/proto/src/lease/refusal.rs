//! Why the table refuses.

use std::borrow::Cow;

use crate::{
    error::{Code, Problem},
    key::NodeId,
};

/// A refusal of a lock operation. Becomes a [`Problem`] at the door.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseRefusal {
    #[error("the lock is held")]
    LockHeld {
        owner: NodeId,
        fencing_token: u64,
        /// Until the present lease ends, if it is not renewed.
        retry_after_ms: u64,
    },
    #[error("the lease has ended: acquire the lock again")]
    LeaseExpired,
    #[error("the fencing token is not the current one of this resource")]
    StaleToken,
    #[error("the lock belongs to another key")]
    Forbidden,
    #[error("the grant of this request_id has ended: use a new request_id")]
    RequestEnded,
    #[error("a later request with the same request_id waits in its place")]
    Superseded,
    #[error("{0}")]
    Invalid(Cow<'static, str>),
    #[error("too many wait for this lock")]
    TooManyWaiting,
    #[error("too many locks are held on this relay")]
    TooManyHeld,
    /// The one who waited is gone or has withdrawn; there is nobody to tell.
    #[error("the request was withdrawn")]
    Withdrawn,
}

/// How long a client is asked to keep away from a full table.
const FULL_RETRY_MS: u64 = 1000;

impl From<LeaseRefusal> for Problem {
    fn from(refusal: LeaseRefusal) -> Self {
        use LeaseRefusal as R;
        let message = refusal.to_string();
        match refusal {
            R::LockHeld { owner, fencing_token, retry_after_ms } => {
                Self::new(Code::LockHeld, message)
                    .with("owner", owner.to_string())
                    .with("fencing_token", fencing_token)
                    .with("retry_after_ms", retry_after_ms)
            }
            R::LeaseExpired => Self::new(Code::LeaseExpired, message),
            R::StaleToken => Self::new(Code::StaleToken, message),
            R::Forbidden => Self::new(Code::Forbidden, message),
            R::RequestEnded | R::Superseded => Self::new(Code::Conflict, message),
            R::Invalid(_) => Self::new(Code::InvalidRequest, message),
            R::TooManyWaiting | R::TooManyHeld => Self::rate_limited(message, FULL_RETRY_MS),
            R::Withdrawn => Self::new(Code::Gone, message),
        }
    }
}
