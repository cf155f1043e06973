//! What a session is told, and what it tells.

use super::Pace;
use crate::{
    error::{Code, Problem},
    link::{
        codec::{CodecError, Encoding},
        handshake::Offer,
        message::{Message, MessageType},
    },
};

/// What a message waits behind; the first goes strictly first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Heartbeats, credit, cancellation, goaway, registry.
    Control,
    /// Calls and their answers.
    Call,
    /// Forwarded events, replay, streams of results.
    Stream,
    /// Bodies.
    Bulk,
}

/// What holds for one link, as its handshake settled it.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    pub encoding: Encoding,
    /// Whether this side dialled.
    pub dialled: bool,
    pub ours: Offer,
    pub theirs: Offer,
    pub pace: Pace,
    /// Whether the other side answers heartbeats that have a `message_id`.
    pub answers_heartbeats: bool,
}

/// Why something was not queued. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("too much waits for this link")]
    Full,
    #[error("the message is longer than the other side takes")]
    TooLarge,
    #[error("the link is draining")]
    Draining,
}

/// What the other side did that ends the link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("a message of {0} bytes, above what this side takes")]
    TooLong(usize),
    #[error("'{0:?}' after the handshake")]
    Unexpected(MessageType),
    #[error("stream {0} is not open, or its number is not the other side's to give")]
    Stream(u64),
    #[error("stream {0} sent more than its credit")]
    Credit(u64),
}

impl SessionError {
    /// What the other side is told before the link is closed.
    pub fn problem(&self) -> Problem {
        let code = match self {
            Self::TooLong(_) => Code::TooLarge,
            _ => Code::InvalidRequest,
        };
        Problem::new(code, self.to_string())
    }

    /// One word for logs and the metric's label.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Codec(_) => "malformed",
            Self::TooLong(_) => "too_large",
            Self::Unexpected(_) => "unexpected_message",
            Self::Stream(_) => "bad_stream",
            Self::Credit(_) => "credit_exceeded",
        }
    }
}

/// Why the clock ended a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Death {
    #[error("nothing was heard from the other side")]
    Silent,
    #[error("the other side takes no bytes")]
    Stalled,
}

/// What happened on a link.
#[derive(Debug)]
pub enum Event<R, C> {
    /// A message that wants no answer.
    Message(Message),
    /// A request that wants an answer by [`Session::answer`] with its `id`.
    Request { id: Box<str>, message: Message, body: Option<u64>, token: C },
    /// The answer to a request of this side, and the stream that belongs to it.
    Answered { token: R, message: Message, stream: Option<u64> },
    /// A request of this side got no answer in time.
    TimedOut { token: R, body: Option<u64> },
    /// Nobody waits for the answer to this request of the other side any more.
    Abandoned(C),
    /// The other side says why it is about to close.
    Refused(Problem),
}

/// What became of bytes given to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// This many were queued; the stream becomes writable again.
    Took(usize),
    /// The reader wants no more, or the stream has ended.
    Stopped,
}

/// What a stream has for its reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOutcome {
    Bytes(Vec<u8>),
    /// Nothing yet.
    Nothing,
    End,
    Failed(String),
}

/// Counters of one link.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub messages_in: u64,
    pub messages_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Answers that came after their request had ended.
    pub late: u64,
    /// Messages of unknown types, passed over.
    pub unknown: u64,
}
