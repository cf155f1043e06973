//! What a chat shows: plain values, the same for `--json`, for the TUI and for bots.

mod beside;

use relay_proto::{
    NodeId,
    conv::{ConvKind, Role},
};
use serde::{Deserialize, Serialize};

pub use beside::{PostView, ServiceView};

use crate::content::FileBody;

/// Who and which device this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Me {
    /// The user.
    pub user_id: NodeId,
    /// The device, base64url of 16 bytes.
    pub device_id: String,
    /// Which relay it talks to.
    pub relay_url: String,
    /// The relay's id, once it was heard.
    pub relay_id: Option<String>,
    /// Until when other devices accept this one, unix seconds.
    pub binding_until_s: u64,
    /// Whether a recovery secret was written down for this user on this device.
    pub backed_up: bool,
}

/// How it stands with the relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Connection {
    /// On the way.
    Connecting,
    /// There; with the time of the last round trip.
    Online {
        /// Milliseconds.
        rtt_ms: u64,
    },
    /// Not there.
    Offline {
        /// Unix milliseconds.
        since_ms: u64,
        /// When it is tried again, unix milliseconds.
        retry_at_ms: u64,
        /// What went wrong.
        why: String,
    },
    /// The relay does not let this device in; somebody has to do something.
    Refused {
        /// What the relay said, and what helps.
        why: String,
    },
}

/// What becomes of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ConversationState {
    /// Made here, not known to the relay yet.
    Creating,
    /// Usable.
    Active,
    /// Somebody has invited this user, who has not answered.
    Invited {
        /// Who.
        by: NodeId,
    },
    /// This user has left; others still have to take the devices out.
    Leaving,
    /// Over, by the user's will.
    Left,
    /// Over, by another member's.
    Removed,
    /// A message cannot be applied: nothing is sent, and a way out is being looked for.
    Stuck {
        /// Where in the log.
        seq: u64,
        /// What is wrong.
        why: String,
        /// What is being done about it.
        help: String,
    },
    /// This device was let in again and waits to be brought up to date.
    Rejoining,
}

impl ConversationState {
    /// Whether messages may be written here.
    pub fn is_writable(&self) -> bool {
        matches!(self, Self::Creating | Self::Active | Self::Stuck { .. } | Self::Rejoining)
    }

    /// Whether the log is followed.
    pub fn is_followed(&self) -> bool {
        !matches!(self, Self::Creating | Self::Left | Self::Removed)
    }
}

/// One line of the list of conversations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConversationView {
    /// Its id, 43 characters.
    pub conv_id: String,
    /// Direct message or room.
    pub kind: ConvKind,
    /// What to call it: the own label, its name, the other person, or the start of its id.
    pub name: String,
    /// What the room is about.
    pub topic: String,
    /// The own label, which nobody else sees.
    pub label: String,
    /// What becomes of it.
    #[serde(flatten)]
    pub state: ConversationState,
    /// The relay that numbers its messages.
    pub home: String,
    /// How many people.
    pub member_count: usize,
    /// How many of them were verified, oneself left out.
    pub verified_count: usize,
    /// Messages of others since the read mark.
    pub unread: u64,
    /// How many of those name this user.
    pub mentions: u64,
    /// The read mark.
    pub read_seq: u64,
    /// The newest message.
    pub latest_seq: u64,
    /// The newest message that stands for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Preview>,
    /// When something last happened, unix milliseconds.
    pub active_at_ms: u64,
    /// Not announced.
    pub muted: bool,
    /// First in the list.
    pub pinned: bool,
    /// Not in the list.
    pub archived: bool,
    /// How much waits to be sent.
    pub waiting: usize,
    /// What it waits for, where it is not the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// The MLS epoch.
    pub epoch: u64,
    /// The first 8 bytes of the epoch's authenticator: equal on all members' screens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// What this user may do.
    pub role: Role,
}

/// The newest message in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// Who.
    pub from: NodeId,
    /// The beginning.
    pub text: String,
    /// Unix milliseconds.
    pub at_ms: u64,
}

/// A part of a timeline, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MessagePage {
    /// The messages.
    pub items: Vec<MessageView>,
    /// There are older ones: ask before the first one's `seq`.
    pub more_before: bool,
    /// There are newer ones: ask after the last one's `seq`.
    pub more_after: bool,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MessageView {
    /// Its conversation.
    pub conv_id: String,
    /// Its number in the log; `None` while it waits to be sent.
    pub seq: Option<u64>,
    /// Its number in the outbox, while it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<i64>,
    /// What replies and reactions point at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Who; `None` where nobody can tell.
    pub from: Option<NodeId>,
    /// What this user calls them.
    pub from_name: String,
    /// This user's.
    pub own: bool,
    /// When the relay took it, unix milliseconds.
    pub at_ms: u64,
    /// What it says.
    #[serde(flatten)]
    pub body: MessageBody,
    /// The words were changed.
    pub edited: bool,
    /// Names this user.
    pub mention: bool,
    /// What it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<ReplyView>,
    /// What others think of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reactions: Vec<ReactionView>,
    /// Who else has read up to here or further (own messages only).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub read_by: Vec<String>,
    /// How far it has got.
    #[serde(flatten)]
    pub delivery: Delivery,
}

/// What a message says, as far as it can be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MessageBody {
    /// Words.
    Text {
        /// The words.
        text: String,
    },
    /// A file.
    File {
        /// All there is about it.
        file: FileBody,
    },
    /// It was deleted by its author.
    Deleted,
    /// Something happened.
    Notice {
        /// What.
        notice: Notice,
    },
    /// Sent by a program that can do more.
    Unsupported {
        /// The type's name.
        kind: String,
    },
    /// It cannot be read, and this is why.
    Unreadable {
        /// The reason.
        why: Unreadable,
    },
}

/// What happened to a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Notice {
    /// The conversation began.
    Created,
    /// People came in.
    Joined {
        /// Who.
        users: Vec<NodeId>,
    },
    /// People went.
    Gone {
        /// Who.
        users: Vec<NodeId>,
    },
    /// A member has one more device.
    DeviceAdded {
        /// Whose.
        user: NodeId,
    },
    /// A member has one device less.
    DeviceRemoved {
        /// Whose.
        user: NodeId,
    },
    /// The room has another name or topic.
    Renamed {
        /// The name.
        name: Option<String>,
        /// The topic.
        topic: Option<String>,
    },
    /// Roles changed.
    Roles,
    /// What a commit did is not what the relay was told; harmless, but worth a look.
    Mismatch,
    /// This device was let in again.
    Rejoined,
}

/// Why a message cannot be read, and what helps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Unreadable {
    /// From before this device was in the group; no key for it ever existed here.
    BeforeJoin,
    /// While this device was out of step; it was let in again later.
    WhileAway {
        /// The first one.
        from_seq: u64,
        /// The last one.
        to_seq: u64,
    },
    /// Sent by this device before its state was put back from a backup.
    OwnBeforeRestore,
    /// It does not verify.
    Invalid {
        /// What is wrong.
        detail: String,
    },
    /// The relay does not keep it any longer.
    Pruned {
        /// The first one that is kept.
        earliest_seq: u64,
    },
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BeforeJoin => f.write_str("sent before this device joined"),
            Self::WhileAway { from_seq, to_seq } => {
                write!(
                    f,
                    "messages {from_seq} to {to_seq} were sent while this device was out of the group"
                )
            }
            Self::OwnBeforeRestore => {
                f.write_str("sent from this device before it was put back from a backup")
            }
            Self::Invalid { detail } => write!(f, "not shown: {detail}"),
            Self::Pruned { earliest_seq } => {
                write!(f, "older messages than {earliest_seq} were removed by this relay's policy")
            }
        }
    }
}

/// What a message answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplyView {
    /// The `id` of the other message.
    pub id: String,
    /// Its number, where it is known here.
    pub seq: Option<u64>,
    /// Who wrote it.
    pub from_name: String,
    /// Its beginning; empty where it is not known here.
    pub excerpt: String,
}

/// One kind of reaction to a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReactionView {
    /// Which.
    pub emoji: String,
    /// Whose.
    pub by: Vec<String>,
    /// This user's is among them.
    pub own: bool,
}

/// How far a message has got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "delivery", rename_all = "snake_case")]
pub enum Delivery {
    /// Waits for its turn, for the connection, or for what is said.
    Waiting {
        /// For what, where it is not the connection.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// On its way.
    Sending,
    /// In the log, with a number.
    Stored,
    /// Not sent, and not tried again unless asked to.
    Failed {
        /// Why.
        why: String,
    },
}

/// One person in a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberView {
    /// Who.
    pub user_id: NodeId,
    /// What this user calls them.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// How many devices they have here.
    pub devices: usize,
    /// Their safety number was compared.
    pub verified: bool,
    /// Oneself.
    pub own: bool,
    /// How far they have read.
    pub read_seq: u64,
    /// `online`, `offline` or `unavailable`, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<String>,
}

/// Somebody whom this user knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PersonView {
    /// Who.
    pub user_id: NodeId,
    /// What this user calls them.
    pub name: String,
    /// Their safety number was compared.
    pub verified: bool,
    /// Nothing of theirs is shown.
    pub blocked: bool,
}

/// Something that waits to be sent or done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutboxView {
    /// Its number, for retrying and taking back.
    pub local: i64,
    /// Where.
    pub conv_id: String,
    /// What the conversation is called.
    pub conv_name: String,
    /// `message`, `create`, `invite`, `remove`, `leave`, `update`, `rejoin`.
    pub kind: &'static str,
    /// In one line.
    pub summary: String,
    /// Since when, unix milliseconds.
    pub at_ms: u64,
    /// How far it has got.
    #[serde(flatten)]
    pub delivery: Delivery,
}

/// One of this user's devices, as the conversations show them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceView {
    /// Base64url of 16 bytes.
    pub device_id: String,
    /// This one.
    pub current: bool,
    /// In how many conversations it is.
    pub conversations: usize,
    /// Until when others accept it, unix seconds; 0 where it is not known.
    pub binding_until_s: u64,
    /// KeyPackages that it has left at the relay.
    pub key_packages: Option<u64>,
}

/// The number that two people compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SafetyNumber {
    /// The other one.
    pub user_id: NodeId,
    /// What this user calls them.
    pub name: String,
    /// 12 groups of 5 digits.
    pub digits: String,
    /// It was compared and found equal.
    pub verified: bool,
}

/// A message that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SearchHit {
    /// What its conversation is called.
    pub conv_name: String,
    /// The message.
    #[serde(flatten)]
    pub message: MessageView,
}

/// What was found so far, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SearchPage {
    /// The messages.
    pub items: Vec<SearchHit>,
    /// Where to go on; `None` where everything was looked at.
    pub next: Option<SearchCursor>,
}

/// Where a search goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchCursor {
    pub(crate) conv: i64,
    pub(crate) before: u64,
}

/// What happens, as it happens. Whoever missed some of them looks everything up again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The connection is another one.
    Connection {
        /// How it stands now.
        connection: Connection,
    },
    /// A conversation's line is to be shown anew.
    Conversation {
        /// Which.
        conv_id: String,
    },
    /// A message has come, an own one among them.
    Message {
        /// The message.
        message: Box<MessageView>,
    },
    /// A message is another one: edited, deleted, reacted to, sent, failed.
    Changed {
        /// Its conversation.
        conv_id: String,
        /// Its number in the log.
        seq: Option<u64>,
        /// Its number in the outbox.
        local: Option<i64>,
    },
    /// Somebody invites.
    Invited {
        /// To which conversation.
        conv_id: String,
        /// Who.
        by: NodeId,
    },
    /// Somebody came or went.
    Presence {
        /// Who.
        user_id: NodeId,
        /// `online`, `offline`, `unavailable`.
        status: String,
        /// How long ago they were last there.
        last_seen: String,
    },
    /// How far a file has got.
    File {
        /// Its conversation.
        conv_id: String,
        /// Its name.
        name: String,
        /// Bytes.
        done: u64,
        /// Bytes.
        total: u64,
    },
    /// Something that concerns no conversation, in words.
    Note {
        /// The words.
        text: String,
    },
}
