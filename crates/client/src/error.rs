//! What can go wrong when a program talks to a relay.

use std::time::Duration;

use relay_proto::{CallError, Code, EventError, Problem};

use crate::keys::KeyFileError;

/// Why an operation failed. Match on the variant and, for [`Error::Refused`], on the problem's code;
/// never on text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The relay answered, and said no. A refused request changed nothing.
    #[error("{problem}")]
    Refused {
        /// Code, text and extra members.
        problem: Box<Problem>,
        /// The relay's name for the request, to be quoted to its operator.
        request_id: Option<String>,
    },
    /// The service that was called, or a relay on the way to it, answered with an error.
    #[error("{0}")]
    Call(Box<CallError>),
    /// No connection, or it broke before the answer. A write may have had its effect: repeat it with
    /// the same idempotency key.
    #[error("cannot reach {url}: {cause}")]
    Unreachable {
        /// The relay's address.
        url: String,
        /// What the system said.
        cause: String,
    },
    /// No answer within the deadline. A write may have had its effect, as above.
    #[error("no answer from {url} within {after:?}")]
    Timeout {
        /// The relay's address.
        url: String,
        /// The deadline that passed.
        after: Duration,
    },
    /// The relay answered something that is not in the protocol.
    #[error("unexpected answer from {url}: {what}")]
    Protocol {
        /// The relay's address.
        url: String,
        /// What is wrong with the answer.
        what: String,
    },
    /// The address of a relay that cannot be used.
    #[error("{0}")]
    Address(String),
    /// The operation needs a signing key, and the client has none.
    #[error("this needs a signing key")]
    NoKey,
    /// A key that cannot be read, or made.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The ssh-agent that holds the key gave no signature.
    #[error("{0}")]
    Agent(String),
    /// An event that no relay would accept, found before sending.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The lease had run out, by our own clock, before the grant could be used.
    #[error("the lock was granted, but its lease was over before the answer arrived")]
    LeaseOver,
    /// The local side of an operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    /// The relay's code, where it was the relay that refused.
    pub fn code(&self) -> Option<Code> {
        self.problem().map(|problem| problem.code)
    }

    /// The relay's refusal, with its extra members.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// Whether the same request may succeed later without any change to it.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => true,
            Self::Refused { problem, .. } => matches!(
                problem.code,
                Code::RateLimited
                    | Code::HomeUnreachable
                    | Code::Timeout
                    | Code::SlowConsumer
                    | Code::InternalError
            ),
            _ => false,
        }
    }

    /// How long the relay asks to wait before the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        let ms = self.problem()?.extra.get("retry_after_ms")?.as_u64()?;
        Some(Duration::from_millis(ms))
    }

    pub(crate) fn refused(problem: Problem) -> Self {
        Self::Refused { problem: Box::new(problem), request_id: None }
    }
}
