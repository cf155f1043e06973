//! Reading the log of a conversation (`gateway.md` 6).

use relay_proto::{
    NodeId,
    auth::DeviceId,
    conv::{ConvId, LogEntry, MessageKind, Profile},
};

use super::conversations::{COLUMNS, conversation_row};
use crate::{
    Store,
    error::Result,
    sql::{Sql, damaged, look, one, transact},
};

/// A page of a conversation, as one of its members may read it.
#[derive(Debug, Clone)]
pub struct LogQuery {
    pub conv: ConvId,
    pub user: NodeId,
    /// The first `seq` wanted.
    pub from_seq: u64,
    pub limit: u64,
    /// Hides what lies before the reader's latest join.
    pub from_join: bool,
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPage {
    /// No such conversation, or not a member.
    NotMember,
    /// What was asked for is gone.
    Pruned { earliest_seq: u64, latest_seq: u64 },
    /// Gapless from the first `seq` wanted; empty where there is nothing yet. `latest_seq` is the end of the log
    /// when it was read.
    Entries { entries: Vec<LogEntry>, latest_seq: u64 },
}

/// The bounds of a log as a member sees them, and where a device of theirs has got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogWindow {
    /// 1 where nothing was acknowledged.
    pub next_seq: u64,
    pub earliest_seq: u64,
    pub latest_seq: u64,
    /// The end of the log when the member came in.
    pub joined_seq: u64,
}

impl Store {
    /// One page of a log.
    pub async fn read_log(&self, query: LogQuery) -> Result<LogPage> {
        look!(self, query, page)
    }

    /// Where a device's reading of a conversation begins; `None` where the user is no member.
    pub async fn log_window(
        &self,
        conv: ConvId,
        user: NodeId,
        device: DeviceId,
    ) -> Result<Option<LogWindow>> {
        let asked = (conv, user, device);
        look!(self, asked, window)
    }

    /// Moves a device's cursor behind `seq`, never back and never beyond the log; `None` where the user is no member.
    pub async fn acknowledge(
        &self,
        conv: ConvId,
        user: NodeId,
        device: DeviceId,
        seq: u64,
        now_ms: u64,
    ) -> Result<Option<u64>> {
        let asked = (conv, user, device, seq, now_ms);
        transact!(self, asked, acknowledge)
    }

    /// A device's cursors in those conversations that its user is in, by name.
    pub async fn cursors(&self, user: NodeId, device: DeviceId) -> Result<Vec<(ConvId, u64)>> {
        let asked = (user, device);
        look!(self, asked, cursors)
    }
}

async fn page<S: Sql>(sql: &S, query: &LogQuery) -> Result<LogPage> {
    // First who and how far, then the entries up to there: whoever was removed since sees nothing newer.
    let text = format!(
        "SELECT {COLUMNS}, m.joined_seq FROM conversations c JOIN conversation_members m ON m.conv = c.n
         WHERE c.conv_id = ?1 AND m.user_key = ?2"
    );
    let Some(mut row) = one(sql, &text, &[(&query.conv).into(), (&query.user).into()]).await?
    else {
        return Ok(LogPage::NotMember);
    };
    let conversation = conversation_row(&mut row)?;
    let latest_seq = conversation.latest_seq;
    let hidden = if query.from_join { row.number(8)? } else { 0 };
    let earliest_seq = conversation.earliest_seq.max(hidden + 1);
    if query.from_seq < earliest_seq {
        return Ok(LogPage::Pruned { earliest_seq, latest_seq });
    }
    let rows = sql
        .rows(
            "SELECT seq, msg_id, kind, epoch, sender_key, sender_device, origin_gateway, ts_ms, env
             FROM messages WHERE conv = ?1 AND seq >= ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4",
            &[conversation.n.into(), query.from_seq.into(), latest_seq.into(), query.limit.into()],
        )
        .await?;
    let entries: Result<Vec<LogEntry>> = rows
        .into_iter()
        .map(|mut row| {
            let kind = row.opt_number(2)?.map(|kind| {
                MessageKind::from_number(kind as i64).ok_or_else(|| damaged("an unknown kind"))
            });
            let profile = conversation.profile == Profile::RelayMls1;
            Ok(LogEntry {
                conv_id: query.conv.clone(),
                seq: row.number(0)?,
                msg_id: row.name(1)?,
                kind: kind.transpose()?,
                epoch: row.opt_number(3)?.filter(|_| profile),
                sender_user_id: row.key(4)?,
                sender_device_id: row.device(5)?,
                origin_gateway: row.text(6)?,
                ts_ms: row.number(7)?,
                env: String::from_utf8(row.bytes(8)?).map_err(|_| damaged("an env is no text"))?,
                conv_home: conversation.home.clone(),
            })
        })
        .collect();
    let entries = entries?;
    // Retention may have been here between the two statements.
    let expected = query.from_seq <= latest_seq && query.limit > 0;
    if expected && entries.first().is_none_or(|first| first.seq != query.from_seq) {
        let first = entries.first().map_or(latest_seq + 1, |first| first.seq);
        return Ok(LogPage::Pruned { earliest_seq: first, latest_seq });
    }
    Ok(LogPage::Entries { entries, latest_seq })
}

async fn window<S: Sql>(
    sql: &S,
    (conv, user, device): &(ConvId, NodeId, DeviceId),
) -> Result<Option<LogWindow>> {
    let row = one(
        sql,
        "SELECT c.earliest_seq, c.latest_seq, k.next_seq, m.joined_seq
         FROM conversations c JOIN conversation_members m ON m.conv = c.n
         LEFT JOIN conversation_cursors k ON k.user_key = m.user_key AND k.device_id = ?3 AND k.conv = c.n
         WHERE c.conv_id = ?1 AND m.user_key = ?2",
        &[conv.into(), user.into(), device.into()],
    )
    .await?;
    row.map(|row| {
        Ok(LogWindow {
            earliest_seq: row.number(0)?,
            latest_seq: row.number(1)?,
            next_seq: row.opt_number(2)?.unwrap_or(1),
            joined_seq: row.number(3)?,
        })
    })
    .transpose()
}

async fn acknowledge<S: Sql>(
    sql: &S,
    (conv, user, device, seq, now_ms): &(ConvId, NodeId, DeviceId, u64, u64),
) -> Result<Option<u64>> {
    let row = one(
        sql,
        "SELECT c.n, c.latest_seq FROM conversations c JOIN conversation_members m ON m.conv = c.n
         WHERE c.conv_id = ?1 AND m.user_key = ?2",
        &[conv.into(), user.into()],
    )
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (n, latest_seq) = (row.number(0)? as i64, row.number(1)?);
    let next_seq = (*seq).min(latest_seq) + 1;
    let moved = one(
        sql,
        "INSERT INTO conversation_cursors (user_key, device_id, conv, next_seq, updated_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (user_key, device_id, conv) DO UPDATE SET
             updated_at_ms = excluded.updated_at_ms,
             next_seq = CASE WHEN conversation_cursors.next_seq < excluded.next_seq
                 THEN excluded.next_seq ELSE conversation_cursors.next_seq END
         RETURNING next_seq",
        &[user.into(), device.into(), n.into(), next_seq.into(), (*now_ms).into()],
    )
    .await?;
    moved.map(|row| row.number(0)).transpose()
}

async fn cursors<S: Sql>(
    sql: &S,
    (user, device): &(NodeId, DeviceId),
) -> Result<Vec<(ConvId, u64)>> {
    let rows = sql
        .rows(
            "SELECT c.conv_id, k.next_seq FROM conversation_cursors k
             JOIN conversations c ON c.n = k.conv
             JOIN conversation_members m ON m.conv = k.conv AND m.user_key = k.user_key
             WHERE k.user_key = ?1 AND k.device_id = ?2 ORDER BY c.conv_id",
            &[user.into(), device.into()],
        )
        .await?;
    rows.into_iter().map(|mut row| Ok((row.name(0)?, row.number(1)?))).collect()
}
