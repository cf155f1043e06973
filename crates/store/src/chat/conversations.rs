//! Conversations, who is in them, and what stands in their row.

use relay_proto::{
    NodeId,
    conv::{ConvId, ConvKind, Mail, Profile, Role},
};

use super::mail;
use crate::{
    Store,
    error::Result,
    sql::{Row, Sql, damaged, exists, look, one, one_locked, transact},
};

/// A conversation to be made.
#[derive(Debug, Clone)]
pub struct NewConversation {
    pub conv: ConvId,
    pub profile: Profile,
    pub kind: ConvKind,
    /// The relay that orders it, for ever.
    pub home: String,
    pub creator: NodeId,
    /// Besides the creator; each once.
    pub members: Vec<NodeId>,
    pub at_ms: u64,
    pub max_members: u64,
    pub max_per_user: u64,
    /// Whether users who do not live here are told at their homes.
    pub mail: bool,
}

/// What became of a creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateOutcome {
    Created,
    Taken,
    /// A member and the creator do not want to hear of each other.
    Blocked,
    /// Of members, or of conversations of one of them.
    TooMany,
}

/// What stands in the row of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationRow {
    pub(super) n: i64,
    pub profile: Profile,
    pub kind: ConvKind,
    pub home: String,
    pub members: u64,
    pub latest_seq: u64,
    pub earliest_seq: u64,
    pub epoch: u64,
}

/// A member's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRow {
    pub user: NodeId,
    pub role: Role,
    pub joined_seq: u64,
    /// Since when, and by whom.
    pub muted: Option<(u64, NodeId)>,
}

impl Store {
    /// Makes a conversation with all its members, or refuses and makes nothing.
    pub async fn create_conversation(&self, new: NewConversation) -> Result<CreateOutcome> {
        transact!(self, new, create)
    }

    /// A conversation and its members, sorted as lists show them; `None` where `user` is no member.
    pub async fn conversation_members(
        &self,
        conv: ConvId,
        user: NodeId,
    ) -> Result<Option<(ConversationRow, Vec<MemberRow>)>> {
        let asked = (conv, user);
        look!(self, asked, members)
    }

    /// Who is banned, by whom and since when; `None` where `user` is no member. The member's own role comes along.
    pub async fn conversation_bans(
        &self,
        conv: ConvId,
        user: NodeId,
    ) -> Result<Option<(Role, Vec<(NodeId, NodeId, u64)>)>> {
        let asked = (conv, user);
        look!(self, asked, bans)
    }

    /// Whether there is a conversation of this name, and this user in it.
    pub async fn membership(
        &self,
        conv: ConvId,
        user: NodeId,
    ) -> Result<Option<(ConversationRow, MemberRow)>> {
        let asked = (conv, user);
        look!(self, asked, membership)
    }

    /// The sealed GroupInfo of a conversation and its epoch; the outer `None` where `user` is no member.
    pub async fn group_info(
        &self,
        conv: ConvId,
        user: NodeId,
    ) -> Result<Option<Option<(u64, Vec<u8>)>>> {
        let asked = (conv, user);
        look!(self, asked, group_info)
    }
}

pub(super) const COLUMNS: &str =
    "c.n, c.profile, c.kind, c.home, c.members, c.latest_seq, c.earliest_seq, c.epoch";

/// Reads the columns of [`COLUMNS`], which come first.
pub(super) fn conversation_row(row: &mut Row) -> Result<ConversationRow> {
    Ok(ConversationRow {
        n: row.number(0)? as i64,
        profile: profile(row.number(1)?)?,
        kind: kind(row.number(2)?)?,
        home: row.text(3)?,
        members: row.number(4)?,
        latest_seq: row.number(5)?,
        earliest_seq: row.number(6)?,
        epoch: row.number(7)?,
    })
}

pub(super) fn profile(number: u64) -> Result<Profile> {
    match number {
        0 => Ok(Profile::Opaque),
        1 => Ok(Profile::RelayMls1),
        _ => Err(damaged("an unknown profile")),
    }
}

pub(super) fn kind(number: u64) -> Result<ConvKind> {
    match number {
        1 => Ok(ConvKind::Dm),
        2 => Ok(ConvKind::Room),
        _ => Err(damaged("an unknown kind")),
    }
}

pub(super) fn role(number: u64) -> Result<Role> {
    Role::from_number(number as i64).ok_or_else(|| damaged("an unknown role"))
}

/// The row of a conversation, held until the end of the transaction.
pub(super) async fn lock<S: Sql>(sql: &S, conv: &ConvId) -> Result<Option<ConversationRow>> {
    let text = format!("SELECT {COLUMNS} FROM conversations c WHERE c.conv_id = ?1");
    let row = one_locked(sql, &text, &[conv.into()]).await?;
    row.map(|mut row| conversation_row(&mut row)).transpose()
}

/// One member of a conversation.
pub(super) async fn member<S: Sql>(sql: &S, conv: i64, user: &NodeId) -> Result<Option<MemberRow>> {
    let row = one(
        sql,
        "SELECT user_key, role, joined_seq, muted_at_ms, muted_by FROM conversation_members
         WHERE conv = ?1 AND user_key = ?2",
        &[conv.into(), user.into()],
    )
    .await?;
    row.map(|mut row| member_row(&mut row, 0)).transpose()
}

fn member_row(row: &mut Row, from: usize) -> Result<MemberRow> {
    let muted = match row.opt_number(from + 3)? {
        Some(at_ms) => Some((at_ms, row.key(from + 4)?)),
        None => None,
    };
    Ok(MemberRow {
        user: row.key(from)?,
        role: role(row.number(from + 1)?)?,
        joined_seq: row.number(from + 2)?,
        muted,
    })
}

/// Whether either of the two blocks the other.
pub(super) async fn blocked<S: Sql>(sql: &S, one: &NodeId, other: &NodeId) -> Result<bool> {
    exists(
        sql,
        "SELECT CAST(1 AS bigint) FROM blocks WHERE user_key = ?1 AND target = ?2
         UNION ALL SELECT CAST(1 AS bigint) FROM blocks WHERE user_key = ?2 AND target = ?1",
        &[one.into(), other.into()],
    )
    .await
}

/// Whether the user is in `limit` conversations or more.
pub(super) async fn is_full<S: Sql>(sql: &S, user: &NodeId, limit: u64) -> Result<bool> {
    let count = one(
        sql,
        "SELECT count(*) FROM (SELECT conv FROM conversation_members WHERE user_key = ?1 LIMIT ?2) x",
        &[user.into(), limit.into()],
    )
    .await?;
    Ok(count.map(|row| row.number(0)).transpose()?.unwrap_or(0) >= limit)
}

/// Puts a user in; one who is in already keeps their role.
pub(super) async fn add_member<S: Sql>(
    sql: &S,
    conv: i64,
    user: &NodeId,
    role: Role,
    at: (u64, u64),
) -> Result<bool> {
    let (at_ms, seq) = at;
    let added = sql
        .run(
            "INSERT INTO conversation_members (conv, user_key, role, joined_at_ms, joined_seq)
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
            &[conv.into(), user.into(), role.number().into(), at_ms.into(), seq.into()],
        )
        .await?;
    Ok(added > 0)
}

async fn create<S: Sql>(sql: &S, new: &NewConversation) -> Result<CreateOutcome> {
    let count = new.members.len() as u64 + 1;
    if count > new.max_members {
        return Ok(CreateOutcome::TooMany);
    }
    for member in &new.members {
        if blocked(sql, &new.creator, member).await? {
            return Ok(CreateOutcome::Blocked);
        }
    }
    let taken = "SELECT n FROM conversations WHERE conv_id = ?1";
    if exists(sql, taken, &[(&new.conv).into()]).await? {
        return Ok(CreateOutcome::Taken);
    }
    for member in new.members.iter().chain([&new.creator]) {
        if is_full(sql, member, new.max_per_user).await? {
            return Ok(CreateOutcome::TooMany);
        }
    }
    let profile = i64::from(new.profile == Profile::RelayMls1);
    let kind = if new.kind == ConvKind::Dm { 1_i64 } else { 2 };
    let made = one(
        sql,
        "INSERT INTO conversations (conv_id, profile, kind, home, created_by, created_at_ms, title, members,
             latest_seq, latest_ts_ms, earliest_seq, epoch)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, '', ?7, 0, 0, 1, 0) ON CONFLICT (conv_id) DO NOTHING RETURNING n",
        &[
            (&new.conv).into(),
            profile.into(),
            kind.into(),
            new.home.as_str().into(),
            (&new.creator).into(),
            new.at_ms.into(),
            count.into(),
        ],
    )
    .await?;
    let Some(made) = made else { return Ok(CreateOutcome::Taken) };
    let n = made.number(0)? as i64;
    add_member(sql, n, &new.creator, Role::Owner, (new.at_ms, 0)).await?;
    for member in &new.members {
        add_member(sql, n, member, Role::Member, (new.at_ms, 0)).await?;
    }
    if new.mail {
        let mut told: Vec<&NodeId> = new.members.iter().chain([&new.creator]).collect();
        told.sort_unstable();
        for user in told {
            let joined = Mail::Joined { conv_id: new.conv.clone(), by: Some(new.creator) };
            mail::write(sql, user, &joined, new.at_ms).await?;
        }
    }
    Ok(CreateOutcome::Created)
}

async fn membership<S: Sql>(
    sql: &S,
    (conv, user): &(ConvId, NodeId),
) -> Result<Option<(ConversationRow, MemberRow)>> {
    let text = format!(
        "SELECT {COLUMNS}, m.user_key, m.role, m.joined_seq, m.muted_at_ms, m.muted_by
         FROM conversations c JOIN conversation_members m ON m.conv = c.n
         WHERE c.conv_id = ?1 AND m.user_key = ?2"
    );
    let row = one(sql, &text, &[conv.into(), user.into()]).await?;
    row.map(|mut row| Ok((conversation_row(&mut row)?, member_row(&mut row, 8)?))).transpose()
}

async fn members<S: Sql>(
    sql: &S,
    asked: &(ConvId, NodeId),
) -> Result<Option<(ConversationRow, Vec<MemberRow>)>> {
    let Some((conversation, _)) = membership(sql, asked).await? else { return Ok(None) };
    let rows = sql
        .rows(
            "SELECT user_key, role, joined_seq, muted_at_ms, muted_by FROM conversation_members
             WHERE conv = ?1 ORDER BY role, user_key",
            &[conversation.n.into()],
        )
        .await?;
    let members: Result<Vec<_>> = rows.into_iter().map(|mut row| member_row(&mut row, 0)).collect();
    Ok(Some((conversation, members?)))
}

async fn bans<S: Sql>(
    sql: &S,
    asked: &(ConvId, NodeId),
) -> Result<Option<(Role, Vec<(NodeId, NodeId, u64)>)>> {
    let Some((conversation, member)) = membership(sql, asked).await? else { return Ok(None) };
    let rows = sql
        .rows(
            "SELECT user_key, banned_by, banned_at_ms FROM conversation_bans WHERE conv = ?1 ORDER BY user_key",
            &[conversation.n.into()],
        )
        .await?;
    let bans: Result<Vec<_>> =
        rows.into_iter().map(|mut row| Ok((row.key(0)?, row.key(1)?, row.number(2)?))).collect();
    Ok(Some((member.role, bans?)))
}

async fn group_info<S: Sql>(
    sql: &S,
    asked: &(ConvId, NodeId),
) -> Result<Option<Option<(u64, Vec<u8>)>>> {
    let Some((conversation, _)) = membership(sql, asked).await? else { return Ok(None) };
    let text = "SELECT group_info_epoch, group_info FROM conversations WHERE n = ?1";
    let Some(mut row) = one(sql, text, &[conversation.n.into()]).await? else { return Ok(None) };
    let Some(epoch) = row.opt_number(0)? else { return Ok(Some(None)) };
    Ok(Some(Some((epoch, row.bytes(1)?))))
}
