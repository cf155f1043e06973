//! How links end.

use std::io;

use relay_proto::{
    Problem,
    link::session::{Death, SessionError},
};
use tokio_tungstenite::tungstenite::{self, error::CapacityError};

/// How a link ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("{0}")]
    Asked(String),
    #[error("everything under way has finished")]
    Drained,
    #[error("what was under way did not finish in time")]
    DrainTimeout,
    #[error(transparent)]
    Dead(#[from] Death),
    #[error("the other side broke the protocol: {0}")]
    Broken(#[from] SessionError),
    #[error("the other side mixed up text and binary messages")]
    WrongKind,
    #[error("the other side closed: {code} {reason}")]
    Closed { code: u16, reason: String },
    #[error("the other side refused: {0}")]
    Refused(Problem),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

impl End {
    /// One word for logs and the metric's label.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Asked(_) => "asked",
            Self::Drained => "drained",
            Self::DrainTimeout => "drain_timeout",
            Self::Dead(Death::Silent) => "silent",
            Self::Dead(Death::Stalled) => "stalled",
            Self::Broken(error) => error.reason(),
            Self::WrongKind => "malformed",
            Self::Closed { .. } => "closed",
            Self::Refused(_) => "refused",
            Self::Io(_) => "io",
        }
    }
}

/// What the WebSocket layer found wrong, where the other side is to blame.
pub(super) fn broken(error: io::Error) -> End {
    let mut source: Option<&(dyn std::error::Error + 'static)> =
        error.get_ref().map(|error| error as _);
    while let Some(inner) = source {
        match inner.downcast_ref::<tungstenite::Error>() {
            Some(tungstenite::Error::Capacity(CapacityError::MessageTooLong { size, .. })) => {
                return End::Broken(SessionError::TooLong(*size));
            }
            Some(tungstenite::Error::Utf8(_)) => return End::WrongKind,
            _ => source = inner.source(),
        }
    }
    End::Io(error)
}
