//! What a client asks of the home of a conversation, or of its own relay's directory.
//!
//! The members are those of the wire, so that one reading serves frames, HTTP bodies and links.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ConvId, ConvKind, MessageKind, MsgId, Profile, UserRef};
use crate::{NodeId, auth::DeviceId};

/// Who asks: proven by the door that the request came in by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    pub user: NodeId,
    pub device: DeviceId,
    /// The relay that the client is connected to.
    pub gateway: String,
    /// The user's leave for that relay to speak for them at other homes, where they gave one.
    #[serde(skip)]
    pub grant: Option<Arc<str>>,
}

/// Everything that can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", content = "body", rename_all = "snake_case")]
pub enum Request {
    Send(Send),
    Commit(Commit),
    Ack(Ack),
    CreateRoom(CreateRoom),
    CreateDm(CreateDm),
    Govern { act: Act, target: Members },
    Members(Named),
    Bans(Named),
    Mutes(Named),
    List(List),
    MarkRead(MarkRead),
    MarkAllRead(MarkAllRead),
    SetTitle(SetTitle),
    SetLabel(SetLabel),
    Pin(Pin),
    Mute(MuteFlag),
    Archive(Archive),
    GroupInfo(Named),
    Rejoin(Rejoin),
}

impl Request {
    /// The conversation that it is about, where it is about one that exists.
    pub fn conv_id(&self) -> Option<&ConvId> {
        match self {
            Self::CreateRoom(_) | Self::CreateDm(_) | Self::List(_) | Self::MarkAllRead(_) => None,
            Self::Send(body) => Some(&body.conv_id),
            Self::Commit(body) => Some(&body.conv_id),
            Self::Ack(body) => Some(&body.conv_id),
            Self::Govern { target, .. } => Some(&target.conv_id),
            Self::Members(body) | Self::Bans(body) | Self::Mutes(body) | Self::GroupInfo(body) => {
                Some(&body.conv_id)
            }
            Self::MarkRead(body) => Some(&body.conv_id),
            Self::SetTitle(body) => Some(&body.conv_id),
            Self::SetLabel(body) => Some(&body.conv_id),
            Self::Pin(body) => Some(&body.conv_id),
            Self::Mute(body) => Some(&body.conv_id),
            Self::Archive(body) => Some(&body.conv_id),
            Self::Rejoin(body) => Some(&body.conv_id),
        }
    }
}

/// A change of who is in a conversation and what they may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    Invite,
    Remove,
    Promote,
    Demote,
    Ban,
    Unban,
    Mute,
    Unmute,
}

/// `conv.send`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Send {
    pub conv_id: ConvId,
    pub msg_id: MsgId,
    pub env: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<MessageKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    #[serde(default)]
    pub handshake: bool,
}

/// `conv.commit`: a commit with all that comes with it (`mls-profile.md` 6.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    pub conv_id: ConvId,
    pub msg_id: MsgId,
    pub env: String,
    #[serde(default)]
    pub welcomes: Vec<Welcome>,
    pub group_info: Option<GroupInfo>,
    #[serde(default)]
    pub members_add: Vec<UserRef>,
    #[serde(default)]
    pub members_remove: Vec<UserRef>,
}

/// One Welcome and the devices that it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    pub env: String,
    pub to: Vec<WelcomeTo>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WelcomeTo {
    pub user_id: UserRef,
    pub device_id: DeviceId,
    /// Base64 of the 32 bytes of RFC 9420 section 5.2.
    pub key_package_ref: String,
}

/// A sealed GroupInfo and the epoch that it says it is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInfo {
    pub epoch: u64,
    /// Base64.
    pub sealed: String,
}

/// `conv.ack`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    pub conv_id: ConvId,
    pub seq: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateRoom {
    pub conv_id: ConvId,
    #[serde(default)]
    pub members: Option<Vec<UserRef>>,
    #[serde(default)]
    pub profile: Profile,
    #[serde(default)]
    pub kind: Option<ConvKind>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateDm {
    pub peer_user_id: UserRef,
    #[serde(default)]
    pub conv_id: Option<String>,
    #[serde(default)]
    pub profile: Profile,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    pub conv_id: ConvId,
    #[serde(default)]
    pub members: Option<Vec<UserRef>>,
}

/// A conversation and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub conv_id: ConvId,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    #[serde(default)]
    pub include_archived: bool,
    /// All where there is none.
    #[serde(default)]
    pub limit: Option<u64>,
    #[serde(default)]
    pub cursor: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkRead {
    pub conv_id: ConvId,
    #[serde(default)]
    pub to_seq: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkAllRead {
    #[serde(default)]
    pub include_archived: bool,
    #[serde(default = "yes")]
    pub include_muted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetTitle {
    pub conv_id: ConvId,
    pub title: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetLabel {
    pub conv_id: ConvId,
    pub label: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub conv_id: ConvId,
    pub pinned: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MuteFlag {
    pub conv_id: ConvId,
    pub muted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    pub conv_id: ConvId,
    pub archived: bool,
}

/// A device that has lost its state asks members to remove and add it again (`mls-profile.md` 6.5, 8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejoin {
    pub conv_id: ConvId,
    /// Whom to ask; those who may invite, and the user's own other devices, where nobody is named.
    #[serde(default)]
    pub members: Option<Vec<UserRef>>,
}

const fn yes() -> bool {
    true
}
