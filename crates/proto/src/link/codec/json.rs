//! `+json`: one object a text message.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{CodecError, Credit, Frame, MAX_TEXT, StreamEnd, StreamPiece, type_named};
use crate::link::message::{Message, MessageType};

pub(super) fn encode_message(message: &Message, out: &mut Vec<u8>) {
    write(message, out);
}

pub(super) fn encode_piece(
    stream_id: u64,
    bytes: &[u8],
    end: Option<&StreamEnd>,
    out: &mut Vec<u8>,
) {
    let data = URL_SAFE_NO_PAD.encode(bytes);
    let error = match end {
        Some(StreamEnd::Failed(text)) => Some(Cow::Borrowed(text.as_str())),
        _ => None,
    };
    let fin = end == Some(&StreamEnd::Finished);
    write(&PieceText { kind: "stream".into(), stream_id, data: data.into(), fin, error }, out);
}

pub(super) fn encode_credit(credit: &Credit, out: &mut Vec<u8>) {
    let Credit { stream_id, bytes, stop } = *credit;
    write(&CreditText { kind: "credit".into(), stream_id, bytes, stop }, out);
}

/// `None` for a type that this version does not know.
pub(super) fn decode(bytes: &[u8]) -> Result<Option<Frame>, CodecError> {
    let text = std::str::from_utf8(bytes).map_err(malformed)?;
    let head: Head<'_> = serde_json::from_str(text).map_err(malformed)?;
    match type_named(&head.kind) {
        None => Ok(None),
        Some(MessageType::Stream) => read_piece(text).map(Frame::Stream).map(Some),
        Some(MessageType::Credit) => {
            let CreditText { stream_id, bytes, stop, .. } =
                serde_json::from_str(text).map_err(malformed)?;
            Ok(Some(Frame::Credit(Credit { stream_id, bytes, stop })))
        }
        Some(_) => serde_json::from_str(text).map(Frame::Message).map(Some).map_err(malformed),
    }
}

fn read_piece(text: &str) -> Result<StreamPiece, CodecError> {
    let piece: PieceText<'_> = serde_json::from_str(text).map_err(malformed)?;
    let bytes =
        URL_SAFE_NO_PAD.decode(piece.data.as_bytes()).map_err(|_| CodecError::Member("data"))?;
    let end = match piece.error {
        Some(error) if error.len() > MAX_TEXT => return Err(CodecError::Member("error")),
        Some(error) => Some(StreamEnd::Failed(error.into_owned())),
        None => piece.fin.then_some(StreamEnd::Finished),
    };
    Ok(StreamPiece { stream_id: piece.stream_id, bytes, end })
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct PieceText<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    stream_id: u64,
    /// base64url.
    #[serde(default, borrow)]
    data: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "is_false")]
    fin: bool,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct CreditText<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    stream_id: u64,
    #[serde(default)]
    bytes: u64,
    #[serde(default, skip_serializing_if = "is_false")]
    stop: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

fn malformed(error: impl std::fmt::Display) -> CodecError {
    CodecError::Malformed(error.to_string())
}

fn write(value: &impl Serialize, out: &mut Vec<u8>) {
    // Writing plain structs into memory has no way to fail.
    if let Err(error) = serde_json::to_writer(out, value) {
        unreachable!("a message did not encode: {error}");
    }
}
