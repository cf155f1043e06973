//! What hubs say to each other: the `data` of a `service_discovery` message between them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::record::Attachment;
use crate::address::RelayId;

/// One of three things about the sender's or the receiver's own homes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Gossip {
    /// Where the sender's log stands.
    Digest(Digest),
    /// Asks the receiver for a part of its log.
    Pull(Pull),
    /// A part of the sender's log.
    Delta(Delta),
}

/// A hub's log in a few bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Which run of the hub: it counts versions from 0 in each.
    #[serde(with = "decimal")]
    pub incarnation: u64,
    pub version: u64,
    /// Over all homes attached to it.
    #[serde(with = "decimal")]
    pub hash: u64,
}

/// Asks for what changed after a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pull {
    #[serde(with = "decimal")]
    pub incarnation: u64,
    pub after: u64,
    /// The asker throws away what it has: everything is wanted, from the first piece on.
    pub everything: bool,
}

/// The last changes of homes, in order of version, after `from` up to `to`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    #[serde(with = "decimal")]
    pub incarnation: u64,
    pub from: u64,
    pub to: u64,
    /// This is a piece of everything, to be put in place of what the receiver has.
    #[serde(default)]
    pub everything: bool,
    /// More follows `to`, to be asked for.
    #[serde(default)]
    pub more: bool,
    /// The sender's digest at `to`, in the last piece.
    pub changes: Vec<Change>,
}

/// The state of one home at a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub home: RelayId,
    pub version: u64,
    /// `None`: it is not attached any more.
    pub attachment: Option<Arc<Attachment>>,
}

impl Change {
    /// A number for exactly this change, so that equal sets have equal sums.
    pub(super) fn hash(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.version.to_le_bytes());
        hasher.update(self.home.as_str().as_bytes());
        if let Some(attachment) = &self.attachment {
            // A record is plain data with text keys; it always serialises.
            hasher.update(&serde_json::to_vec(attachment).unwrap_or_default());
        }
        let hash = hasher.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_be_bytes(first)
    }

    /// About how many bytes it takes in a message.
    pub(super) fn bytes(&self) -> usize {
        let service = |service: &Arc<super::ServiceRecord>| {
            let methods: usize = service.methods.iter().map(|method| method.len() + 3).sum();
            let metadata =
                if service.metadata.is_empty() { 2 } else { super::record::MAX_METADATA / 4 };
            120 + service.service_name.as_str().len() + methods + metadata
        };
        let attachment = |a: &Arc<Attachment>| 320 + a.services.iter().map(service).sum::<usize>();
        80 + self.home.as_str().len() + self.attachment.as_ref().map_or(4, attachment)
    }
}

/// 64-bit numbers that may exceed 2^53, as text.
mod decimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
    pub fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
