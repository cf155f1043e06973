//! What stands in the WebSocket messages of a link.
//!
//! On `+json` each text message is one object. On `+cbor` a binary message holds one or more maps,
//! one behind the other, with the same member names; JSON that passes through (`jsonrpc_request`,
//! `data`) stays JSON inside, as bytes under tag 262, so that no relay on the way rewrites it.
//! Unknown members are ignored; a member that comes twice is refused, so that two readers can
//! never understand different things.

use crate::link::message::{Message, MessageType};

mod cbor;
mod json;

/// The longest `message_id` or `correlation_id`, in bytes.
pub const MAX_ID: usize = 128;
/// The longest routing path; four hops are normal.
pub const MAX_PATH: usize = 16;
/// The longest of the remaining texts (`timestamp`, `method`, `trace`, …), in bytes.
pub const MAX_TEXT: usize = 256;

/// How a link writes, by its subprotocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `relay.link.v1+cbor`, binary messages.
    Cbor,
    /// `relay.link.v1+json`, text messages.
    Json,
}

impl Encoding {
    /// Both, the preferred one first.
    pub const ALL: [Self; 2] = [Self::Cbor, Self::Json];

    /// The WebSocket subprotocol.
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Self::Cbor => "relay.link.v1+cbor",
            Self::Json => "relay.link.v1+json",
        }
    }

    /// Chooses from the header `Sec-WebSocket-Protocol`: CBOR where it is offered, JSON for the
    /// rest, foreign clients without a subprotocol included.
    pub fn choose(offered: &str) -> Self {
        let cbor = Self::Cbor.subprotocol();
        if offered.split(',').any(|one| one.trim() == cbor) { Self::Cbor } else { Self::Json }
    }
}

/// One thing said on a link.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "read, matched and gone; a box would cost each call")]
pub enum Frame {
    Message(Message),
    Stream(StreamPiece),
    Credit(Credit),
}

/// A `stream` message: the next bytes of a stream, its end, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPiece {
    pub stream_id: u64,
    pub bytes: Vec<u8>,
    pub end: Option<StreamEnd>,
}

/// How a stream ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEnd {
    /// Everything was sent.
    Finished,
    /// The sender gave up; the text says why, at most [`MAX_TEXT`] bytes.
    Failed(String),
}

/// A `credit` message: the receiver of a stream has taken bytes, or wants no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    pub stream_id: u64,
    /// Bytes taken since the last credit.
    pub bytes: u64,
    /// Nobody reads on; the sender is to end the stream.
    pub stop: bool,
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("malformed message: {0}")]
    Malformed(String),
    #[error("the member '{0}' is missing, malformed or too long")]
    Member(&'static str),
    #[error("the member '{0}' comes twice")]
    Twice(&'static str),
}

/// Appends one message to `out`.
pub fn encode_message(message: &Message, encoding: Encoding, out: &mut Vec<u8>) {
    match encoding {
        Encoding::Cbor => cbor::encode_message(message, out),
        Encoding::Json => json::encode_message(message, out),
    }
}

/// Appends one piece of a stream to `out`.
pub fn encode_piece(
    stream_id: u64,
    bytes: &[u8],
    end: Option<&StreamEnd>,
    encoding: Encoding,
    out: &mut Vec<u8>,
) {
    match encoding {
        Encoding::Cbor => cbor::encode_piece(stream_id, bytes, end, out),
        Encoding::Json => json::encode_piece(stream_id, bytes, end, out),
    }
}

/// Appends one credit to `out`.
pub fn encode_credit(credit: &Credit, encoding: Encoding, out: &mut Vec<u8>) {
    match encoding {
        Encoding::Cbor => cbor::encode_credit(credit, out),
        Encoding::Json => json::encode_credit(credit, out),
    }
}

/// Appends any frame to `out`.
pub fn encode(frame: &Frame, encoding: Encoding, out: &mut Vec<u8>) {
    match frame {
        Frame::Message(message) => encode_message(message, encoding, out),
        Frame::Stream(piece) => {
            encode_piece(piece.stream_id, &piece.bytes, piece.end.as_ref(), encoding, out);
        }
        Frame::Credit(credit) => encode_credit(credit, encoding, out),
    }
}

/// Reads the first frame of a WebSocket message and says what is left behind it.
///
/// `None` stands for a message of a type that this version does not know.
///
/// # Errors
/// [`CodecError`].
pub fn decode_first(
    bytes: &[u8],
    encoding: Encoding,
) -> Result<(Option<Frame>, &[u8]), CodecError> {
    let decoded = match encoding {
        Encoding::Cbor => cbor::decode_first(bytes),
        Encoding::Json => json::decode(bytes).map(|frame| (frame, &[][..])),
    };
    let (frame, rest) = decoded?;
    if let Some(Frame::Message(message)) = &frame {
        check(message)?;
    }
    Ok((frame, rest))
}

/// The bounds that hold for every message, whatever it was read from.
fn check(message: &Message) -> Result<(), CodecError> {
    let short = |text: &Option<String>, most: usize| text.as_ref().is_none_or(|t| t.len() <= most);
    let rules = [
        (short(&message.message_id, MAX_ID), "message_id"),
        (short(&message.correlation_id, MAX_ID), "correlation_id"),
        (short(&message.timestamp, MAX_TEXT), "timestamp"),
        (short(&message.server_name, MAX_TEXT), "server_name"),
        (short(&message.method, MAX_TEXT), "method"),
        (short(&message.trace, MAX_TEXT), "trace"),
        (short(&message.idempotency_key, MAX_ID), "idempotency_key"),
        (message.routing_path.len() <= MAX_PATH, "routing_path"),
        (message.priority.is_none_or(|priority| priority <= 9), "priority"),
    ];
    match rules.into_iter().find(|(holds, _)| !holds) {
        Some((_, member)) => Err(CodecError::Member(member)),
        None => Ok(()),
    }
}

/// The names of the types on the wire.
pub(crate) const TYPES: [(MessageType, &str); 13] = [
    (MessageType::Hello, "hello"),
    (MessageType::Auth, "auth"),
    (MessageType::Welcome, "welcome"),
    (MessageType::Registration, "registration"),
    (MessageType::Heartbeat, "heartbeat"),
    (MessageType::Request, "request"),
    (MessageType::Response, "response"),
    (MessageType::ServiceDiscovery, "service_discovery"),
    (MessageType::Error, "error"),
    (MessageType::Stream, "stream"),
    (MessageType::Credit, "credit"),
    (MessageType::Forward, "forward"),
    (MessageType::Goaway, "goaway"),
];

fn type_name(message_type: MessageType) -> &'static str {
    TYPES.iter().find(|(known, _)| *known == message_type).map_or("error", |(_, name)| name)
}

fn type_named(name: &str) -> Option<MessageType> {
    TYPES.iter().find(|(_, known)| *known == name).map(|(message_type, _)| *message_type)
}

#[cfg(test)]
mod tests;
