//! Cursors: opaque positions in one relay's order (`common.md`, Cursors).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::error::Problem;

/// Which order a cursor walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// After the event with this `seq`, in the order of arrival.
    AfterSeq(u64),
    /// Before the event with this `seq`, in reverse order of arrival.
    BeforeSeq(u64),
    /// After (`created_at_ns`, `seq`), oldest first.
    AfterTime(u64, u64),
    /// Before (`created_at_ns`, `seq`), newest first.
    BeforeTime(u64, u64),
}

/// A position, and the log that it is a position of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Names the log; a cursor of another log is refused.
    pub log: u32,
    pub position: Position,
}

const VERSION: u8 = 1;

impl Cursor {
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(22);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.log.to_be_bytes());
        let (tag, number, seq) = match self.position {
            Position::AfterSeq(seq) => (0, seq, None),
            Position::BeforeSeq(seq) => (1, seq, None),
            Position::AfterTime(ns, seq) => (2, ns, Some(seq)),
            Position::BeforeTime(ns, seq) => (3, ns, Some(seq)),
        };
        bytes.push(tag);
        bytes.extend_from_slice(&number.to_be_bytes());
        if let Some(seq) = seq {
            bytes.extend_from_slice(&seq.to_be_bytes());
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a cursor of the log `log`.
    ///
    /// # Errors
    /// `invalid_request` where the text is no cursor, or is one of another relay.
    pub fn decode(text: &str, log: u32) -> Result<Self, Problem> {
        let bytes = (text.len() <= 64).then(|| URL_SAFE_NO_PAD.decode(text).ok()).flatten();
        let cursor = bytes.as_deref().and_then(parse).ok_or_else(|| {
            Problem::invalid("not a cursor: give back the text that the relay sent, unchanged")
        })?;
        if cursor.log != log {
            return Err(Problem::invalid("the cursor is of another relay or an older store"));
        }
        Ok(cursor)
    }
}

fn parse(bytes: &[u8]) -> Option<Cursor> {
    let (&version, rest) = bytes.split_first()?;
    let (log, rest) = rest.split_first_chunk::<4>()?;
    let (&tag, rest) = rest.split_first()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let number = u64::from_be_bytes(*number);
    let seq = rest.try_into().map(u64::from_be_bytes).ok();
    let position = match (tag, seq) {
        (0, None) if rest.is_empty() => Position::AfterSeq(number),
        (1, None) if rest.is_empty() => Position::BeforeSeq(number),
        (2, Some(seq)) => Position::AfterTime(number, seq),
        (3, Some(seq)) => Position::BeforeTime(number, seq),
        _ => return None,
    };
    (version == VERSION).then_some(Cursor { log: u32::from_be_bytes(*log), position })
}
