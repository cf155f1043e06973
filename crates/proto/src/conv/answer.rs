//! What the home answers.

use serde::{Deserialize, Serialize};

use super::{ConvId, ConvKind, MsgId, Profile, Role};
use crate::NodeId;

/// One answer for each kind of request; refusals are [`crate::Problem`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", content = "body", rename_all = "snake_case")]
pub enum Answer {
    Acked(Acked),
    List(ListAnswer),
    Members(MemberList),
    Bans(BanList),
    Mutes(MuteList),
    GroupInfo(GroupInfoAnswer),
    Read(ReadAnswer),
    AllRead(AllReadAnswer),
    State(StateAnswer),
    Created(Created),
    Rejoin(RejoinAnswer),
    Done(Done),
}

impl Answer {
    /// The body of the answer as a client gets it.
    pub fn to_json(&self) -> serde_json::Value {
        let body = match self {
            Self::Acked(body) => serde_json::to_value(body),
            Self::List(body) => serde_json::to_value(body),
            Self::Members(body) => serde_json::to_value(body),
            Self::Bans(body) => serde_json::to_value(body),
            Self::Mutes(body) => serde_json::to_value(body),
            Self::GroupInfo(body) => serde_json::to_value(body),
            Self::Read(body) => serde_json::to_value(body),
            Self::AllRead(body) => serde_json::to_value(body),
            Self::State(body) => serde_json::to_value(body),
            Self::Created(body) => serde_json::to_value(body),
            Self::Rejoin(body) => serde_json::to_value(body),
            Self::Done(body) => serde_json::to_value(body),
        };
        // Bodies are plain structs with text keys; they always serialise.
        body.unwrap_or_default()
    }
}

/// `conv.acked`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acked {
    pub conv_id: ConvId,
    pub msg_id: MsgId,
    pub seq: u64,
    pub conv_home: String,
    pub origin_gateway: String,
    /// The epoch that a commit began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The message was here before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// `{"status":"ok"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub status: Ok,
}

/// `{"status":"ok","conv_id":…}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    pub status: Ok,
    pub conv_id: ConvId,
}

/// How many members were asked to add a device again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejoinAnswer {
    pub status: Ok,
    pub asked: u64,
}

/// The one status there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ok {
    #[default]
    Ok,
}

/// An answer without anything to tell.
pub const DONE: Answer = Answer::Done(Done { status: Ok::Ok });

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberList {
    pub conv_id: ConvId,
    pub members: Vec<MemberView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    pub user_id: NodeId,
    pub role: Role,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanList {
    pub conv_id: ConvId,
    pub bans: Vec<BanView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanView {
    pub user_id: NodeId,
    pub banned_by_user_id: NodeId,
    pub banned_at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MuteList {
    pub conv_id: ConvId,
    pub mutes: Vec<MuteView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MuteView {
    pub user_id: NodeId,
    pub muted_by_user_id: NodeId,
    pub muted_at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInfoAnswer {
    pub epoch: u64,
    /// Base64 of the sealed bytes.
    pub group_info: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadAnswer {
    pub status: Ok,
    pub conv_id: ConvId,
    pub last_read_seq: u64,
    pub unread_count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllReadAnswer {
    pub status: Ok,
    pub updated: u64,
    pub updated_conv_ids: Vec<ConvId>,
    /// Homes that could not be asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<String>,
}

/// The part of a conversation's state that was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateAnswer {
    pub status: Ok,
    pub conv_id: ConvId,
    #[serde(flatten)]
    pub set: StateSet,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StateSet {
    Title { title: String },
    Label { label: String },
    Pinned { pinned: bool, pinned_at_ms: u64 },
    Muted { muted: bool },
    Archived { archived: bool },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListAnswer {
    pub items: Vec<ListItem>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Homes that could not be asked: their conversations are missing here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<String>,
}

/// A conversation as one of its members sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListItem {
    pub conv_id: ConvId,
    pub role: Role,
    pub created_at_ms: u64,
    pub home_gateway: String,
    pub profile: Profile,
    pub kind: ConvKind,
    pub member_count: u64,
    /// Left out where there are many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<NodeId>>,
    pub title: String,
    pub label: String,
    pub pinned: bool,
    pub pinned_at_ms: u64,
    pub muted: bool,
    pub archived: bool,
    pub earliest_seq: Option<u64>,
    pub latest_seq: Option<u64>,
    pub latest_ts_ms: Option<u64>,
    pub last_read_seq: Option<u64>,
    pub unread_count: u64,
    pub display_name: String,
}

/// How many messages nobody has marked as read.
///
/// `latest` and `earliest` are the newest and oldest messages that are kept; 0 and anything where there are none.
pub fn unread_count(latest: u64, earliest: u64, last_read: Option<u64>) -> u64 {
    latest.saturating_sub(last_read.unwrap_or(0).max(earliest.saturating_sub(1)))
}

/// What a mark at `to` (the newest where there is none) becomes: within the log, and never lower than before.
pub fn read_mark(latest: u64, earliest: u64, before: Option<u64>, to: Option<u64>) -> u64 {
    let floor = earliest.saturating_sub(1).min(latest);
    to.unwrap_or(latest).clamp(floor, latest).max(before.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A mark never goes back, stays within the log, and what is above it is what is unread.
        #[test]
        fn marks_only_rise(latest in 0_u64..50, pruned in 0_u64..50, marks in prop::collection::vec(prop::option::of(0_u64..99), 0..9)) {
            let earliest = pruned.min(latest) + 1;
            let mut read = None;
            for to in marks {
                let next = read_mark(latest, earliest, read, to);
                prop_assert!(read.is_none_or(|before| next >= before));
                prop_assert!(next <= latest);
                read = Some(next);
                let unread = (earliest..=latest).filter(|seq| *seq > next).count() as u64;
                prop_assert_eq!(unread_count(latest, earliest, read), unread);
            }
            if read.is_none() {
                prop_assert_eq!(unread_count(latest, earliest, None), latest - (earliest - 1));
            }
        }
    }
}
