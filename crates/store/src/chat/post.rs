//! Appending to the log of a conversation (`gateway.md` 5, `mls-profile.md` 6.2).

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use ahash::RandomState;
use relay_proto::{
    NodeId,
    auth::DeviceId,
    conv::{ConvId, EpochRefusal, Handshake, MessageKind, MsgId, Profile},
    mls::{Accepted, Head, MlsError},
};

use super::{
    Gate,
    conversations::{ConversationRow, MemberRow, blocked, lock, member},
};
use crate::{
    Store,
    error::Result,
    sql::{Arg, Sql, one, transact},
};

/// A message to be appended.
#[derive(Debug, Clone)]
pub struct NewMessage {
    pub msg_id: MsgId,
    pub sender: NodeId,
    pub device: DeviceId,
    /// The relay that the sender is connected to.
    pub origin: Arc<str>,
    pub at_ms: u64,
    pub env: Arc<str>,
    /// What the sender says that it is, in profile conversations.
    pub kind: Option<MessageKind>,
    /// In opaque conversations: the sender wants it to be the first handshake of this epoch.
    pub handshake: Option<u64>,
    pub gate: Gate,
}

/// Messages of one conversation, in their order.
#[derive(Debug, Clone)]
pub struct PostBatch {
    pub conv: ConvId,
    pub messages: Arc<[NewMessage]>,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Posted {
    Stored {
        seq: u64,
        kind: Option<MessageKind>,
        epoch: Option<u64>,
    },
    /// It was here before; where it came in then, as far as that is known.
    Duplicate {
        seq: u64,
        origin: Option<String>,
    },
    Refused(PostRefusal),
}

/// Why a message is not in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostRefusal {
    /// No such conversation, or not a member: nobody learns which.
    NotMember,
    Muted,
    /// Too many; milliseconds to wait.
    Exceeded(u64),
    Blocked,
    /// Another user has used the `msg_id`.
    MsgIdUsed,
    /// The sender used the `msg_id` for other bytes.
    OtherBytes {
        epoch: u64,
        head_seq: u64,
    },
    Mls(MlsError),
    /// The message is another kind than said, or one that may not be sent.
    WrongKind,
    /// The message is of another group than the conversation's.
    OtherGroup,
    /// Not this epoch's.
    Epoch {
        refusal: EpochRefusal,
        profile: Profile,
        epoch: u64,
        head_seq: u64,
    },
}

/// The outcomes of a batch and the conversation after it; `None` where there is none.
pub type PostAnswer = (Vec<Posted>, Option<ConversationRow>);

impl Store {
    /// Appends messages of one conversation in their order; each is judged and answered by itself.
    pub async fn post_messages(&self, batch: PostBatch) -> Result<PostAnswer> {
        transact!(self, batch, post)
    }
}

/// What is known of a `msg_id`.
pub(super) struct Known {
    seq: u64,
    sender: NodeId,
    same_bytes: bool,
    origin: Option<String>,
}

async fn post<S: Sql>(sql: &S, batch: &PostBatch) -> Result<PostAnswer> {
    let Some(mut conversation) = lock(sql, &batch.conv).await? else {
        let refused = Posted::Refused(PostRefusal::NotMember);
        return Ok((vec![refused; batch.messages.len()], None));
    };
    let mut members: HashMap<NodeId, Option<MemberRow>, RandomState> = HashMap::default();
    let mut outcomes = Vec::with_capacity(batch.messages.len());
    let mut latest_ts_ms = None;
    for message in &*batch.messages {
        let sender = match members.entry(message.sender) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                place.insert(member(sql, conversation.n, &message.sender).await?)
            }
        };
        let sender = sender.as_ref();
        let outcome = judge(sql, &batch.conv, &conversation, sender, message).await?;
        let outcome = match outcome {
            Ok(judged) => {
                conversation.latest_seq += 1;
                conversation.epoch = judged.next_epoch;
                latest_ts_ms = Some(message.at_ms);
                append(sql, &conversation, message, &judged).await?;
                let seq = conversation.latest_seq;
                Posted::Stored { seq, kind: judged.kind, epoch: judged.epoch }
            }
            Err(answer) => answer,
        };
        outcomes.push(outcome);
    }
    if let Some(at_ms) = latest_ts_ms {
        move_head(sql, &conversation, at_ms).await?;
    }
    Ok((outcomes, Some(conversation)))
}

/// A message that may be appended.
pub(super) struct Judged {
    pub kind: Option<MessageKind>,
    /// The epoch that it is of.
    pub epoch: Option<u64>,
    /// The epoch after it.
    pub next_epoch: u64,
}

/// The checks in their order; the first that fails answers.
async fn judge<S: Sql>(
    sql: &S,
    conv: &ConvId,
    conversation: &ConversationRow,
    sender: Option<&MemberRow>,
    message: &NewMessage,
) -> Result<Result<Judged, Posted>> {
    let refused = |refusal| Ok(Err(Posted::Refused(refusal)));
    if let Err(refusal) = may_post(sender, message) {
        return refused(refusal);
    }
    if conversation.members == 2 && is_blocked(sql, conversation.n, &message.sender).await? {
        return refused(PostRefusal::Blocked);
    }
    if let Some(answer) = repeated(sql, conversation, message).await? {
        return Ok(Err(answer));
    }
    if conversation.profile == Profile::Opaque {
        let claim = message.handshake.map_or(Handshake::Unchecked, Handshake::First);
        return match claim.apply(conversation.epoch) {
            Ok(next_epoch) => Ok(Ok(Judged { kind: None, epoch: message.handshake, next_epoch })),
            Err(refusal) => refused(epoch_refusal(refusal, conversation)),
        };
    }
    let (accepted, epoch) = match head(conv, &message.env) {
        Ok(found) => found,
        Err(refusal) => return refused(refusal),
    };
    let kind = match accepted {
        Accepted::Application => MessageKind::Application,
        Accepted::Proposal => MessageKind::Proposal,
        // A commit comes with its bundle, or not at all.
        _ => return refused(PostRefusal::WrongKind),
    };
    if message.kind.is_some_and(|said| said != kind) {
        return refused(PostRefusal::WrongKind);
    }
    match Handshake::Within(epoch).apply(conversation.epoch) {
        Ok(next_epoch) => Ok(Ok(Judged { kind: Some(kind), epoch: Some(epoch), next_epoch })),
        Err(refusal) => refused(epoch_refusal(refusal, conversation)),
    }
}

/// Membership, mute, rate.
pub(super) fn may_post(
    sender: Option<&MemberRow>,
    message: &NewMessage,
) -> Result<(), PostRefusal> {
    let sender = sender.ok_or(PostRefusal::NotMember)?;
    if sender.muted.is_some() {
        return Err(PostRefusal::Muted);
    }
    message.gate.ask().map_err(PostRefusal::Exceeded)
}

/// Whether the sender and the only other member do not want to hear of each other.
async fn is_blocked<S: Sql>(sql: &S, conv: i64, sender: &NodeId) -> Result<bool> {
    let text = "SELECT user_key FROM conversation_members WHERE conv = ?1 AND user_key <> ?2";
    match one(sql, text, &[conv.into(), sender.into()]).await? {
        Some(mut row) => blocked(sql, sender, &row.key(0)?).await,
        None => Ok(false),
    }
}

/// The answer to a `msg_id` that was used before.
pub(super) async fn repeated<S: Sql>(
    sql: &S,
    conversation: &ConversationRow,
    message: &NewMessage,
) -> Result<Option<Posted>> {
    let Some(known) = find(sql, conversation, message).await? else { return Ok(None) };
    let (epoch, head_seq) = (conversation.epoch, conversation.latest_seq);
    Ok(Some(if known.sender != message.sender {
        Posted::Refused(PostRefusal::MsgIdUsed)
    } else if conversation.profile == Profile::RelayMls1 && !known.same_bytes {
        Posted::Refused(PostRefusal::OtherBytes { epoch, head_seq })
    } else {
        Posted::Duplicate { seq: known.seq, origin: known.origin }
    }))
}

async fn find<S: Sql>(
    sql: &S,
    conversation: &ConversationRow,
    message: &NewMessage,
) -> Result<Option<Known>> {
    let (id, hash) = (message.msg_id.as_str(), id_hash(&message.msg_id));
    let args: [Arg<'_>; 3] = [conversation.n.into(), hash.into(), id.into()];
    if let Some(mut row) = one(sql, S::MESSAGE_BY_ID, &args).await? {
        let same_bytes = row.bytes(2)? == message.env.as_bytes();
        let origin = Some(row.text(3)?);
        return Ok(Some(Known { seq: row.number(0)?, sender: row.key(1)?, same_bytes, origin }));
    }
    if conversation.earliest_seq == 1 {
        return Ok(None);
    }
    let pruned = one(
        sql,
        "SELECT seq, sender_key, env_hash FROM pruned_messages
         WHERE conv = ?1 AND id_hash = ?2 AND msg_id = ?3",
        &args,
    )
    .await?;
    let Some(mut row) = pruned else { return Ok(None) };
    let same_bytes = row.bytes(2)? == blake3::hash(message.env.as_bytes()).as_bytes();
    Ok(Some(Known { seq: row.number(0)?, sender: row.key(1)?, same_bytes, origin: None }))
}

/// What the head of a profile message says, if it is one of this conversation.
pub(super) fn head(conv: &ConvId, env: &str) -> Result<(Accepted, u64), PostRefusal> {
    let head = Head::of_base64(env).map_err(PostRefusal::Mls)?;
    let (group, epoch) = head.place().ok_or(PostRefusal::WrongKind)?;
    if conv.group_id().as_ref() != Some(group) {
        return Err(PostRefusal::OtherGroup);
    }
    Ok((head.accepted().ok_or(PostRefusal::WrongKind)?, epoch))
}

pub(super) fn epoch_refusal(refusal: EpochRefusal, conversation: &ConversationRow) -> PostRefusal {
    let ConversationRow { profile, epoch, latest_seq, .. } = *conversation;
    PostRefusal::Epoch { refusal, profile, epoch, head_seq: latest_seq }
}

/// Writes the message as the conversation's newest.
pub(super) async fn append<S: Sql>(
    sql: &S,
    conversation: &ConversationRow,
    message: &NewMessage,
    judged: &Judged,
) -> Result<()> {
    sql.run(
        "INSERT INTO messages (conv, seq, id_hash, msg_id, kind, epoch, sender_key, sender_device,
             origin_gateway, ts_ms, env)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        &[
            conversation.n.into(),
            conversation.latest_seq.into(),
            id_hash(&message.msg_id).into(),
            message.msg_id.as_str().into(),
            judged.kind.map(MessageKind::number).into(),
            judged.epoch.into(),
            (&message.sender).into(),
            (&message.device).into(),
            (&*message.origin).into(),
            message.at_ms.into(),
            message.env.as_bytes().into(),
        ],
    )
    .await?;
    Ok(())
}

/// Writes down how far the conversation has come.
pub(super) async fn move_head<S: Sql>(
    sql: &S,
    conversation: &ConversationRow,
    at_ms: u64,
) -> Result<()> {
    sql.run(
        "UPDATE conversations SET latest_seq = ?2, latest_ts_ms = ?3, epoch = ?4 WHERE n = ?1",
        &[
            conversation.n.into(),
            conversation.latest_seq.into(),
            at_ms.into(),
            conversation.epoch.into(),
        ],
    )
    .await?;
    Ok(())
}

/// The number by which a `msg_id` is found.
pub(super) fn id_hash(id: &MsgId) -> i64 {
    let hash = blake3::hash(id.as_str().as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    i64::from_le_bytes(first)
}
