//! The signed event: parsing, canonical bytes, verification (`events.md`; seed concept "Event Model").
//!
//! Bytes become types in stages, so that no stage can be skipped: JSON text → [`RawEvent`]
//! (shape is right) → [`Event`] (id and signature are right). Only an [`Event`] can be stored.

mod envelope;
mod kind;
mod rotation;
mod sign;
mod tags;
mod verify;

pub use envelope::{Event, EventError, EventLimits, Fence, RawEvent, Signature, parse_event};
pub use kind::{Class, class_of, reserved};
pub use rotation::{Rotation, RotationError, rotation_of, rotation_text};
pub use sign::{Draft, SigningKey};
pub use tags::{Tag, Tags};
pub use verify::{Verifier, verify};

/// The namespace of `sshsig` signatures over events.
pub const SSHSIG_NAMESPACE: &str = "forge-relay-event-v1";
/// How far ahead of the relay's clock an event may be dated, in nanoseconds (15 minutes).
pub const MAX_AHEAD_NS: u64 = 15 * 60 * 1_000_000_000;
