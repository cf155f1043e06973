//! `+cbor`: one or more maps of text keys, one behind the other.
//!
//! Written and read by hand: this is the path every call takes at every hop.

use std::str::FromStr;

use minicbor::{Decoder, Encoder, data::Tag, data::Type, encode::Error as EncodeError};
use serde_json::value::RawValue;

use super::{CodecError, Credit, Frame, MAX_PATH, MAX_TEXT, StreamEnd, StreamPiece};
use super::{type_name, type_named};
use crate::{
    call::Json,
    link::message::{Message, MessageType, NodeRef, NodeType},
};

/// JSON inside CBOR (IANA registry of CBOR tags).
const EMBEDDED_JSON: Tag = Tag::new(262);

type Writer<'a> = Encoder<&'a mut Vec<u8>>;
type Written = Result<(), EncodeError<std::convert::Infallible>>;

pub(super) fn encode_message(message: &Message, out: &mut Vec<u8>) {
    sure(try_message(message, &mut Encoder::new(out)));
}

pub(super) fn encode_piece(
    stream_id: u64,
    bytes: &[u8],
    end: Option<&StreamEnd>,
    out: &mut Vec<u8>,
) {
    let write = |e: &mut Writer<'_>| -> Written {
        e.map(2 + u64::from(!bytes.is_empty()) + u64::from(end.is_some()))?;
        e.str("type")?.str("stream")?.str("stream_id")?.u64(stream_id)?;
        if !bytes.is_empty() {
            e.str("data")?.bytes(bytes)?;
        }
        match end {
            Some(StreamEnd::Finished) => drop(e.str("fin")?.bool(true)?),
            Some(StreamEnd::Failed(error)) => drop(e.str("error")?.str(error)?),
            None => {}
        }
        Ok(())
    };
    sure(write(&mut Encoder::new(out)));
}

pub(super) fn encode_credit(credit: &Credit, out: &mut Vec<u8>) {
    let write = |e: &mut Writer<'_>| -> Written {
        e.map(3 + u64::from(credit.stop))?;
        e.str("type")?.str("credit")?.str("stream_id")?.u64(credit.stream_id)?;
        e.str("bytes")?.u64(credit.bytes)?;
        if credit.stop {
            e.str("stop")?.bool(true)?;
        }
        Ok(())
    };
    sure(write(&mut Encoder::new(out)));
}

fn try_message(m: &Message, e: &mut Writer<'_>) -> Written {
    let members = [
        m.message_id.is_some(),
        m.correlation_id.is_some(),
        m.timestamp.is_some(),
        m.source_node.is_some(),
        m.destination_node.is_some(),
        !m.routing_path.is_empty(),
        m.ttl.is_some(),
        m.server_name.is_some(),
        m.method.is_some(),
        m.jsonrpc_request.is_some(),
        m.data.is_some(),
        m.priority.is_some(),
        m.timeout_seconds.is_some(),
        m.deadline_ms.is_some(),
        m.trace.is_some(),
        m.idempotency_key.is_some(),
        m.stream_id.is_some(),
    ];
    e.map(1 + members.iter().map(|present| u64::from(*present)).sum::<u64>())?;
    e.str("type")?.str(type_name(m.message_type))?;
    text(e, "message_id", m.message_id.as_deref())?;
    text(e, "correlation_id", m.correlation_id.as_deref())?;
    text(e, "timestamp", m.timestamp.as_deref())?;
    node(e, "source_node", m.source_node.as_ref())?;
    node(e, "destination_node", m.destination_node.as_ref())?;
    if !m.routing_path.is_empty() {
        e.str("routing_path")?.array(m.routing_path.len() as u64)?;
        for relay in &m.routing_path {
            e.str(relay.as_str())?;
        }
    }
    number(e, "ttl", m.ttl.map(u64::from))?;
    text(e, "server_name", m.server_name.as_deref())?;
    text(e, "method", m.method.as_deref())?;
    json(e, "jsonrpc_request", m.jsonrpc_request.as_deref())?;
    json(e, "data", m.data.as_deref())?;
    number(e, "priority", m.priority.map(u64::from))?;
    number(e, "timeout_seconds", m.timeout_seconds.map(u64::from))?;
    number(e, "deadline_ms", m.deadline_ms)?;
    text(e, "trace", m.trace.as_deref())?;
    text(e, "idempotency_key", m.idempotency_key.as_deref())?;
    number(e, "stream_id", m.stream_id)
}

fn text(e: &mut Writer<'_>, name: &str, value: Option<&str>) -> Written {
    if let Some(value) = value {
        e.str(name)?.str(value)?;
    }
    Ok(())
}

fn number(e: &mut Writer<'_>, name: &str, value: Option<u64>) -> Written {
    if let Some(value) = value {
        e.str(name)?.u64(value)?;
    }
    Ok(())
}

fn json(e: &mut Writer<'_>, name: &str, value: Option<&RawValue>) -> Written {
    if let Some(value) = value {
        e.str(name)?.tag(EMBEDDED_JSON)?.bytes(value.get().as_bytes())?;
    }
    Ok(())
}

fn node(e: &mut Writer<'_>, name: &str, value: Option<&NodeRef>) -> Written {
    let Some(NodeRef { node_type, id, main_relay }) = value else { return Ok(()) };
    e.str(name)?.map(2 + u64::from(main_relay.is_some()))?;
    let node_type = match node_type {
        NodeType::Main => "main",
        NodeType::Home => "home",
    };
    e.str("type")?.str(node_type)?.str("id")?.str(id.as_str())?;
    text(e, "main_relay", main_relay.as_ref().map(|relay| relay.as_str()))
}

fn sure(written: Written) {
    // A vector takes everything.
    if let Err(error) = written {
        unreachable!("a message did not encode: {error}");
    }
}

/// The first frame, `None` where its type is unknown, and the bytes behind it.
pub(super) fn decode_first(bytes: &[u8]) -> Result<(Option<Frame>, &[u8]), CodecError> {
    let mut d = Decoder::new(bytes);
    let frame = read_frame(&mut d)?;
    let rest = bytes.get(d.position()..).unwrap_or_default();
    Ok((frame, rest))
}

fn read_frame(d: &mut Decoder<'_>) -> Result<Option<Frame>, CodecError> {
    let mut m = Message::new(MessageType::Error);
    let mut extra = Extra::default();
    let mut seen = 0_u32;
    let mut kind = None;
    let mut left = d.map()?.unwrap_or(u64::MAX);
    while left > 0 {
        left -= 1;
        if d.datatype()? == Type::Break {
            d.skip()?;
            break;
        }
        let name = d.str()?;
        let Some(at) = MEMBERS.iter().position(|known| *known == name) else {
            d.skip()?;
            continue;
        };
        if seen & (1 << at) != 0 {
            return Err(CodecError::Twice(MEMBERS[at]));
        }
        seen |= 1 << at;
        if at == 0 {
            kind = Some(type_named(d.str()?));
        } else {
            read_member(d, MEMBERS[at], &mut m, &mut extra)?;
        }
    }
    let Some(kind) = kind else { return Err(CodecError::Member("type")) };
    let Some(kind) = kind else { return Ok(None) };
    m.message_type = kind;
    finish(m, extra).map(Some)
}

/// What only `stream` and `credit` have.
#[derive(Default)]
struct Extra<'b> {
    piece: Option<&'b [u8]>,
    fin: bool,
    stop: bool,
    bytes: u64,
    error: Option<String>,
}

/// `type` first: everything else is read by [`read_member`].
const MEMBERS: [&str; 22] = [
    "type",
    "message_id",
    "correlation_id",
    "source_node",
    "destination_node",
    "routing_path",
    "ttl",
    "server_name",
    "method",
    "jsonrpc_request",
    "data",
    "deadline_ms",
    "timestamp",
    "priority",
    "timeout_seconds",
    "trace",
    "idempotency_key",
    "stream_id",
    "fin",
    "stop",
    "bytes",
    "error",
];

fn read_member<'b>(
    d: &mut Decoder<'b>,
    name: &'static str,
    m: &mut Message,
    extra: &mut Extra<'b>,
) -> Result<(), CodecError> {
    match name {
        "message_id" => m.message_id = Some(d.str()?.to_owned()),
        "correlation_id" => m.correlation_id = Some(d.str()?.to_owned()),
        "source_node" => m.source_node = Some(read_node(d, name)?),
        "destination_node" => m.destination_node = Some(read_node(d, name)?),
        "routing_path" => m.routing_path = read_path(d)?,
        "ttl" => m.ttl = Some(d.u8()?),
        "server_name" => m.server_name = Some(d.str()?.to_owned()),
        "method" => m.method = Some(d.str()?.to_owned()),
        "jsonrpc_request" => m.jsonrpc_request = Some(read_json(d, name)?),
        "data" if d.datatype()? == Type::Bytes => extra.piece = Some(d.bytes()?),
        "data" => m.data = Some(read_json(d, name)?),
        "deadline_ms" => m.deadline_ms = Some(d.u64()?),
        "timestamp" => m.timestamp = Some(d.str()?.to_owned()),
        "priority" => m.priority = Some(d.u8()?),
        "timeout_seconds" => m.timeout_seconds = Some(d.u32()?),
        "trace" => m.trace = Some(d.str()?.to_owned()),
        "idempotency_key" => m.idempotency_key = Some(d.str()?.to_owned()),
        "stream_id" => m.stream_id = Some(d.u64()?),
        "fin" => extra.fin = d.bool()?,
        "stop" => extra.stop = d.bool()?,
        "bytes" => extra.bytes = d.u64()?,
        "error" => extra.error = Some(d.str()?.to_owned()),
        _ => d.skip()?,
    }
    Ok(())
}

fn finish(m: Message, extra: Extra<'_>) -> Result<Frame, CodecError> {
    match m.message_type {
        MessageType::Stream => {
            let end = match extra.error {
                Some(error) if error.len() > MAX_TEXT => return Err(CodecError::Member("error")),
                Some(error) => Some(StreamEnd::Failed(error)),
                None => extra.fin.then_some(StreamEnd::Finished),
            };
            let stream_id = m.stream_id.ok_or(CodecError::Member("stream_id"))?;
            let bytes = extra.piece.unwrap_or_default().to_vec();
            Ok(Frame::Stream(StreamPiece { stream_id, bytes, end }))
        }
        MessageType::Credit => {
            let stream_id = m.stream_id.ok_or(CodecError::Member("stream_id"))?;
            Ok(Frame::Credit(Credit { stream_id, bytes: extra.bytes, stop: extra.stop }))
        }
        _ if extra.piece.is_some() => Err(CodecError::Member("data")),
        _ => Ok(Frame::Message(m)),
    }
}

fn read_json(d: &mut Decoder<'_>, name: &'static str) -> Result<Json, CodecError> {
    if d.tag()? != EMBEDDED_JSON {
        return Err(CodecError::Member(name));
    }
    let text = std::str::from_utf8(d.bytes()?).map_err(|_| CodecError::Member(name))?;
    // Checked, since it will stand inside other JSON.
    RawValue::from_string(text.to_owned()).map_err(|_| CodecError::Member(name))
}

fn read_path(d: &mut Decoder<'_>) -> Result<Vec<crate::RelayId>, CodecError> {
    let length = d.array()?.ok_or(CodecError::Member("routing_path"))?;
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_PATH);
    let length = length.ok_or(CodecError::Member("routing_path"))?;
    (0..length).map(|_| read_id(d.str()?, "routing_path")).collect()
}

fn read_node(d: &mut Decoder<'_>, member: &'static str) -> Result<NodeRef, CodecError> {
    let (mut node_type, mut id, mut main_relay) = (None, None, None);
    for _ in 0..d.map()?.ok_or(CodecError::Member(member))? {
        match d.str()? {
            "type" if node_type.is_none() => {
                node_type = Some(match d.str()? {
                    "main" => NodeType::Main,
                    "home" => NodeType::Home,
                    _ => return Err(CodecError::Member(member)),
                });
            }
            "id" if id.is_none() => id = Some(read_id(d.str()?, member)?),
            "main_relay" if main_relay.is_none() => main_relay = Some(read_id(d.str()?, member)?),
            "type" | "id" | "main_relay" => return Err(CodecError::Twice(member)),
            _ => d.skip()?,
        }
    }
    let node_type = node_type.ok_or(CodecError::Member(member))?;
    Ok(NodeRef { node_type, id: id.ok_or(CodecError::Member(member))?, main_relay })
}

fn read_id<T: FromStr>(text: &str, member: &'static str) -> Result<T, CodecError> {
    text.parse().map_err(|_| CodecError::Member(member))
}

impl From<minicbor::decode::Error> for CodecError {
    fn from(error: minicbor::decode::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}
