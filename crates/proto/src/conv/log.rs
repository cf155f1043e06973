//! What a conversation is made of, and one entry of its log.

use serde::{Deserialize, Serialize};

use super::{ConvId, MsgId};
use crate::{NodeId, auth::DeviceId};

/// What a member may do; the order is that of member lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Owner,
    Admin,
    Member,
}

impl Role {
    /// Whether the role may invite, remove, ban, mute.
    pub fn governs(self) -> bool {
        self != Self::Member
    }

    pub const fn number(self) -> i64 {
        self as i64
    }

    pub const fn from_number(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::Owner),
            1 => Some(Self::Admin),
            2 => Some(Self::Member),
            _ => None,
        }
    }
}

/// Whether the relay looks at heads of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Profile {
    #[default]
    #[serde(rename = "opaque")]
    Opaque,
    #[serde(rename = "relay-mls/1")]
    RelayMls1,
}

impl Profile {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opaque => "opaque",
            Self::RelayMls1 => "relay-mls/1",
        }
    }
}

/// A direct message is a room of two in which room-only operations mean nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConvKind {
    Dm,
    Room,
}

/// What an entry of a profile conversation's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    Application,
    Proposal,
    Commit,
}

impl MessageKind {
    pub const fn number(self) -> i64 {
        match self {
            Self::Application => 1,
            Self::Proposal => 2,
            Self::Commit => 3,
        }
    }

    pub const fn from_number(number: i64) -> Option<Self> {
        match number {
            1 => Some(Self::Application),
            2 => Some(Self::Proposal),
            3 => Some(Self::Commit),
            _ => None,
        }
    }
}

/// One message as it is kept and as every reader gets it: the body of `conv.event`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    pub conv_id: ConvId,
    pub seq: u64,
    pub msg_id: MsgId,
    pub env: String,
    pub sender_device_id: DeviceId,
    pub sender_user_id: NodeId,
    pub conv_home: String,
    pub origin_gateway: String,
    pub ts_ms: u64,
    /// Only in profile conversations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<MessageKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}
