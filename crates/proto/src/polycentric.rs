//! The rules of Polycentric, the social protocol whose clients this relay serves (`polycentric.md`).
//!
//! Bytes become types in stages: [`Events`] off the wire → [`RawEvent`] (the shape is right) → [`Event`] (the
//! signature is right, too). An event's bytes are kept as they came and never encoded anew, since clients write
//! fields that an encoder would leave out, and signature, digest and pointers are over those bytes.
//!
//! Keys here follow this protocol's own rule, not the one of [`crate::key`]; see [`SystemKey`].

mod challenge;
mod event;
mod id;
mod message;
mod param;
mod ranges;
mod writer;

pub use challenge::{CHALLENGE_MAX_AGE_MS, ChallengeError, check_challenge, make_challenge};
pub use event::{
    Body, Event, EventError, Lww, MAX_CLAIM_FIELDS, MAX_EVENT_BYTES, MAX_EVENTS, MAX_POST_UNITS,
    MAX_REFERENCES, RawEvent, Target, parse_events, verify_all, verify_many,
};
pub use id::{
    EventKey, MAX_NUMBER, Pointer, ProcessId, Reference, Subject, SystemKey, WireError,
    decode_message, digest,
};
pub use message::*;
pub use param::{
    big_cursor, decode_param, encode_param, message_param, parse_big_cursor, parse_small_cursor,
    small_cursor,
};
pub use ranges::{Interval, Ranges};
pub use writer::{Draft, EventWriter};

/// What an event is about: the numbers of `polycentric.md` section 3.
pub mod content {
    pub const DELETE: u64 = 1;
    pub const SYSTEM_PROCESSES: u64 = 2;
    pub const POST: u64 = 3;
    pub const FOLLOW: u64 = 4;
    pub const USERNAME: u64 = 5;
    pub const DESCRIPTION: u64 = 6;
    pub const BLOB_SECTION: u64 = 8;
    pub const AVATAR: u64 = 9;
    pub const SERVER: u64 = 10;
    pub const VOUCH: u64 = 11;
    pub const CLAIM: u64 = 12;
    pub const BANNER: u64 = 13;
    pub const OPINION: u64 = 14;
    pub const STORE: u64 = 15;
    pub const AUTHORITY: u64 = 16;
    pub const JOIN_TOPIC: u64 = 17;
    pub const BLOCK: u64 = 18;
    pub const BLOCK_TOPIC: u64 = 19;
}

/// The values of an opinion.
pub mod opinion {
    pub const LIKE: &[u8] = &[1];
    pub const DISLIKE: &[u8] = &[2];
    pub const NEUTRAL: &[u8] = &[3];
}
