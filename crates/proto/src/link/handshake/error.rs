//! How a handshake fails, and what the other side is told.

use super::{Code, Message, MessageType, NodeId, Problem, RelayId};
use crate::link::message::MessageType as Type;

/// Why a handshake ended without a link.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum HandshakeError {
    #[error("'{got:?}' came where '{expected:?}' was due")]
    Unexpected { expected: Type, got: Type },
    #[error("malformed {0}")]
    Malformed(&'static str),
    #[error(
        "the other side speaks version {0} of the protocol, this one {old} to {new}",
        old = super::OLDEST_VERSION,
        new = super::VERSION
    )]
    Version(u32),
    #[error("the signature of {0} is wrong")]
    Signature(RelayId),
    #[error("{relay} shows the key {found}, but {pinned} is pinned for it")]
    WrongKey { relay: RelayId, pinned: NodeId, found: NodeId },
    #[error("{found} answers where {expected} was expected")]
    WrongRelay { expected: RelayId, found: RelayId },
    #[error("no key is known for {0}, and first use is not allowed")]
    NotPinned(RelayId),
    #[error("the other side is this relay itself, or bears its name or key")]
    Itself,
    #[error("the other side takes none of the proofs that this one has")]
    NoMethod,
    #[error("{0} did not prove that it knows the shared secret")]
    SecretUnproven(RelayId),
    #[error("refused by the other side: {0}")]
    Refused(Problem),
}

impl HandshakeError {
    /// What the other side is told: enough to act on, nothing that helps to guess.
    pub fn problem(&self) -> Problem {
        let code = match self {
            Self::Unexpected { .. } | Self::Malformed(_) | Self::NoMethod => Code::InvalidRequest,
            Self::Version(_) => Code::UnsupportedVersion,
            Self::Signature(_) | Self::SecretUnproven(_) | Self::NotPinned(_) => Code::Unauthorized,
            Self::WrongKey { .. } | Self::WrongRelay { .. } => Code::Conflict,
            Self::Itself => Code::LoopDetected,
            Self::Refused(problem) => return problem.clone(),
        };
        Problem::new(code, self.to_string())
    }

    /// One word for logs and the metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unexpected { .. } => "unexpected_message",
            Self::Malformed(_) => "malformed",
            Self::Version(_) => "unsupported_version",
            Self::Signature(_) => "bad_signature",
            Self::WrongKey { .. } => "wrong_key",
            Self::WrongRelay { .. } => "wrong_relay",
            Self::NotPinned(_) => "not_pinned",
            Self::Itself => "itself",
            Self::NoMethod => "no_method",
            Self::SecretUnproven(_) => "secret_unproven",
            Self::Refused(problem) => told_reason(problem).unwrap_or(problem.code.as_str()),
        }
    }
}

/// The member of a refusal that holds its one word.
pub const REASON: &str = "reason";

/// The words of refusals in a handshake. What the other side says becomes a label only when it is one of
/// them, so that there are never more labels than these.
const REASONS: [&str; 21] = [
    "unexpected_message",
    "malformed",
    "unsupported_version",
    "bad_signature",
    "wrong_key",
    "wrong_relay",
    "not_pinned",
    "itself",
    "no_method",
    "secret_unproven",
    "timeout",
    "bad_token",
    "unknown_relay",
    "bad_proof",
    "bad_certificate",
    "borrowed_id",
    "denied",
    "full",
    "internal",
    "stopping",
    "accept_rate",
];

fn told_reason(problem: &Problem) -> Option<&'static str> {
    let told = problem.extra.get(REASON)?.as_str()?;
    REASONS.into_iter().find(|reason| *reason == told)
}

/// The WebSocket close code that goes with an error (`federation.md`, Links): the last two digits
/// of the HTTP status behind 44.
pub const fn close_code(code: Code) -> u16 {
    let status = code.http_status();
    if status < 500 { 4000 + status } else { 1011 }
}

/// An `error` message that says `problem`.
pub fn error_message(problem: &Problem) -> Message {
    let data = serde_json::value::to_raw_value(&problem.members()).ok();
    Message { data, ..Message::new(MessageType::Error) }
}

/// What an `error` message says; `internal_error` where it says nothing readable.
pub fn read_error(message: &Message) -> Problem {
    let members = message.data.as_ref().and_then(|data| {
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(data.get()).ok()
    });
    let mut members = members.unwrap_or_default();
    let mut text = |name: &str| match members.remove(name) {
        Some(serde_json::Value::String(text)) => Some(text),
        _ => None,
    };
    let code = text("code").and_then(|code| Code::parse(&code)).unwrap_or(Code::InternalError);
    let message = text("message").unwrap_or_else(|| "the other relay gave no reason".to_owned());
    Problem { code, message, extra: members }
}
