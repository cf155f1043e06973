//! The conversation list, and what each user has set for themselves (`gateway.md` 9).

use std::collections::HashMap;

use relay_proto::{
    NodeId,
    conv::{ConvId, ConvKind, Profile, Role, answer::read_mark},
};

use super::conversations::{kind, profile, role};
use crate::{
    Store,
    error::Result,
    sql::{Sql, look, one, one_locked, transact},
};

/// Members are listed up to this many.
const MEMBERS_SHOWN: i64 = 20;

/// A conversation as one of its members sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationView {
    pub conv: ConvId,
    pub role: Role,
    pub profile: Profile,
    pub kind: ConvKind,
    pub home: String,
    pub created_at_ms: u64,
    pub title: String,
    pub member_count: u64,
    /// `None` where there are many.
    pub members: Option<Vec<NodeId>>,
    pub latest_seq: u64,
    pub latest_ts_ms: u64,
    pub earliest_seq: u64,
    pub label: String,
    pub pinned_at_ms: u64,
    pub muted: bool,
    pub archived: bool,
    pub last_read_seq: Option<u64>,
}

/// Something to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PersonalChange {
    Label(String),
    /// 0 unpins.
    PinnedAtMs(u64),
    Muted(bool),
    Archived(bool),
    /// Up to here, or to the newest.
    ReadTo(Option<u64>),
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PersonalOutcome {
    NotMember,
    Done,
    Read(MarkOutcome),
}

/// A mark and what it was set in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkOutcome {
    pub last_read_seq: u64,
    pub latest_seq: u64,
    pub earliest_seq: u64,
}

impl Store {
    /// Everything that a user is in, in no order.
    pub async fn conversations_of(&self, user: NodeId) -> Result<Vec<ConversationView>> {
        look!(self, user, list)
    }

    /// Sets something for a user alone.
    pub async fn set_personal(
        &self,
        conv: ConvId,
        user: NodeId,
        change: PersonalChange,
    ) -> Result<PersonalOutcome> {
        let asked = (conv, user, change);
        transact!(self, asked, set)
    }
}

async fn list<S: Sql>(sql: &S, user: &NodeId) -> Result<Vec<ConversationView>> {
    let rows = sql
        .rows(
            "SELECT c.n, c.conv_id, m.role, c.profile, c.kind, c.home, c.created_at_ms, c.title, c.members,
                 c.latest_seq, c.latest_ts_ms, c.earliest_seq,
                 s.label, s.pinned_at_ms, s.muted, s.archived, s.last_read_seq
             FROM conversation_members m JOIN conversations c ON c.n = m.conv
             LEFT JOIN conversation_state s ON s.user_key = m.user_key AND s.conv = m.conv
             WHERE m.user_key = ?1",
            &[user.into()],
        )
        .await?;
    let mut members = small_members(sql, user).await?;
    rows.into_iter()
        .map(|mut row| {
            let has_state = row.opt_number(13)?.is_some();
            let (label, pinned_at_ms, muted, archived) = if has_state {
                (row.text(12)?, row.number(13)?, row.flag(14)?, row.flag(15)?)
            } else {
                Default::default()
            };
            Ok(ConversationView {
                conv: row.name(1)?,
                role: role(row.number(2)?)?,
                profile: profile(row.number(3)?)?,
                kind: kind(row.number(4)?)?,
                home: row.text(5)?,
                created_at_ms: row.number(6)?,
                title: row.text(7)?,
                member_count: row.number(8)?,
                members: members.remove(&row.number(0)?),
                latest_seq: row.number(9)?,
                latest_ts_ms: row.number(10)?,
                earliest_seq: row.number(11)?,
                label,
                pinned_at_ms,
                muted,
                archived,
                last_read_seq: row.opt_number(16)?,
            })
        })
        .collect()
}

/// The members of all small conversations of a user, in one go.
async fn small_members<S: Sql>(sql: &S, user: &NodeId) -> Result<HashMap<u64, Vec<NodeId>>> {
    let rows = sql
        .rows(
            "SELECT o.conv, o.user_key FROM conversation_members m
             JOIN conversations c ON c.n = m.conv
             JOIN conversation_members o ON o.conv = m.conv
             WHERE m.user_key = ?1 AND c.members <= ?2 ORDER BY o.user_key",
            &[user.into(), MEMBERS_SHOWN.into()],
        )
        .await?;
    let mut members: HashMap<u64, Vec<NodeId>> = HashMap::new();
    for mut row in rows {
        members.entry(row.number(0)?).or_default().push(row.key(1)?);
    }
    Ok(members)
}

async fn set<S: Sql>(
    sql: &S,
    (conv, user, change): &(ConvId, NodeId, PersonalChange),
) -> Result<PersonalOutcome> {
    let found = one(
        sql,
        "SELECT c.n, c.latest_seq, c.earliest_seq FROM conversations c
         JOIN conversation_members m ON m.conv = c.n WHERE c.conv_id = ?1 AND m.user_key = ?2",
        &[conv.into(), user.into()],
    )
    .await?;
    let Some(found) = found else { return Ok(PersonalOutcome::NotMember) };
    let (n, latest_seq, earliest_seq) = (found.number(0)?, found.number(1)?, found.number(2)?);
    sql.run(
        "INSERT INTO conversation_state (user_key, conv, label, pinned_at_ms, muted, archived)
         VALUES (?1, ?2, '', 0, 0, 0) ON CONFLICT DO NOTHING",
        &[user.into(), n.into()],
    )
    .await?;
    let (column, value) = match change {
        PersonalChange::Label(label) => ("label", label.as_str().into()),
        PersonalChange::PinnedAtMs(at_ms) => ("pinned_at_ms", (*at_ms).into()),
        PersonalChange::Muted(muted) => ("muted", (*muted).into()),
        PersonalChange::Archived(archived) => ("archived", (*archived).into()),
        PersonalChange::ReadTo(to) => {
            let text =
                "SELECT last_read_seq FROM conversation_state WHERE user_key = ?1 AND conv = ?2";
            let row = one_locked(sql, text, &[user.into(), n.into()]).await?;
            let before = row.map(|row| row.opt_number(0)).transpose()?.flatten();
            let last_read_seq = read_mark(latest_seq, earliest_seq, before, *to);
            let text = "UPDATE conversation_state SET last_read_seq = ?3 WHERE user_key = ?1 AND conv = ?2";
            sql.run(text, &[user.into(), n.into(), last_read_seq.into()]).await?;
            let outcome = MarkOutcome { last_read_seq, latest_seq, earliest_seq };
            return Ok(PersonalOutcome::Read(outcome));
        }
    };
    let text =
        format!("UPDATE conversation_state SET {column} = ?3 WHERE user_key = ?1 AND conv = ?2");
    sql.run(&text, &[user.into(), n.into(), value]).await?;
    Ok(PersonalOutcome::Done)
}
