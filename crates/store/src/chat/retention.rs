//! Deleting the front of logs (`gateway.md` 12.1).

use relay_proto::conv::ConvId;

use super::{conversations::lock, post::id_hash};
use crate::{
    Store,
    error::Result,
    sql::{Sql, look, one, transact},
};

/// What to keep of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConversationRetention {
    /// The newest so many stay, and no more; `None` keeps all.
    pub max_events: Option<u64>,
    /// What came before this time goes.
    pub before_ms: Option<u64>,
    /// Readers that have not seen something yet do not keep it.
    pub hard: bool,
    /// Cursors that were last moved before this time keep nothing.
    pub stale_before_ms: u64,
    pub now_ms: u64,
    /// Messages deleted in one transaction.
    pub batch: u64,
}

/// What a round deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    pub messages: u64,
    /// The oldest that is kept.
    pub earliest_seq: u64,
}

impl Store {
    /// Deletes some of the front of a log; fewer than `batch` means that the rules are met.
    pub async fn prune_conversation(
        &self,
        conv: ConvId,
        rules: ConversationRetention,
    ) -> Result<Pruned> {
        let asked = (conv, rules);
        transact!(self, asked, prune)
    }

    /// Some conversations that keep messages, after `after` in their order, with that order's key.
    pub async fn kept_conversations(&self, after: u64, limit: u64) -> Result<Vec<(u64, ConvId)>> {
        let asked = (after, limit);
        look!(self, asked, kept)
    }

    /// Forgets the idempotency keys of pruned messages from before a time.
    pub async fn sweep_message_ids(&self, before_ms: u64) -> Result<u64> {
        transact!(self, before_ms, forget)
    }
}

async fn prune<S: Sql>(sql: &S, (conv, rules): &(ConvId, ConversationRetention)) -> Result<Pruned> {
    let Some(conversation) = lock(sql, conv).await? else { return Ok(Pruned::default()) };
    let (n, latest, earliest) =
        (conversation.n, conversation.latest_seq, conversation.earliest_seq);
    let by_count = rules.max_events.map_or(0, |max| latest.saturating_sub(max));
    let mut through = by_count;
    if let Some(before_ms) = rules.before_ms {
        // The server's times rise with seq but for clock steps: the prefix ends before the first young one.
        let young = one(
            sql,
            "SELECT seq FROM messages WHERE conv = ?1 AND seq > ?2 AND ts_ms >= ?3 ORDER BY seq LIMIT 1",
            &[n.into(), through.into(), before_ms.into()],
        )
        .await?;
        let old_through = young.map(|row| row.number(0)).transpose()?.map_or(latest, |seq| seq - 1);
        through = through.max(old_through);
    }
    if !rules.hard && through >= earliest {
        let floor = reader_floor(sql, n, rules).await?;
        through = through.min(floor.saturating_sub(1));
    }
    through = through.min(earliest.saturating_sub(1) + rules.batch).min(latest);
    if through < earliest {
        return Ok(Pruned { messages: 0, earliest_seq: earliest });
    }
    let rows = sql
        .rows(
            "SELECT seq, msg_id, sender_key, env, ts_ms FROM messages
             WHERE conv = ?1 AND seq <= ?2 ORDER BY seq",
            &[n.into(), through.into()],
        )
        .await?;
    let messages = rows.len() as u64;
    for mut row in rows {
        let id: relay_proto::conv::MsgId = row.name(1)?;
        let sender = row.key(2)?;
        sql.run(
            "INSERT INTO pruned_messages (conv, id_hash, seq, msg_id, sender_key, env_hash, ts_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
            &[
                n.into(),
                id_hash(&id).into(),
                row.number(0)?.into(),
                id.as_str().into(),
                (&sender).into(),
                blake3::hash(&row.bytes(3)?).as_bytes().into(),
                row.number(4)?.into(),
            ],
        )
        .await?;
    }
    let text = "DELETE FROM messages WHERE conv = ?1 AND seq <= ?2";
    sql.run(text, &[n.into(), through.into()]).await?;
    let text = "UPDATE conversations SET earliest_seq = ?2 WHERE n = ?1";
    sql.run(text, &[n.into(), (through + 1).into()]).await?;
    Ok(Pruned { messages, earliest_seq: through + 1 })
}

/// The first `seq` that some reader still wants; devices of members that are logged in and never acknowledged
/// anything want all since they joined.
async fn reader_floor<S: Sql>(sql: &S, conv: i64, rules: &ConversationRetention) -> Result<u64> {
    let cursor = one(
        sql,
        "SELECT min(k.next_seq) FROM conversation_cursors k
         JOIN conversation_members m ON m.conv = k.conv AND m.user_key = k.user_key
         WHERE k.conv = ?1 AND k.updated_at_ms >= ?2",
        &[conv.into(), rules.stale_before_ms.into()],
    )
    .await?;
    let silent = one(
        sql,
        "SELECT min(m.joined_seq) FROM conversation_members m
         JOIN sessions s ON s.user_key = m.user_key
         WHERE m.conv = ?1 AND s.expires_at_ms > ?2 AND NOT EXISTS (
             SELECT 1 FROM conversation_cursors k
             WHERE k.user_key = m.user_key AND k.device_id = s.device_id AND k.conv = m.conv)",
        &[conv.into(), rules.now_ms.into()],
    )
    .await?;
    let cursor = cursor.map(|row| row.opt_number(0)).transpose()?.flatten();
    let silent = silent.map(|row| row.opt_number(0)).transpose()?.flatten();
    let silent = silent.map(|joined| joined + 1);
    Ok(cursor.unwrap_or(u64::MAX).min(silent.unwrap_or(u64::MAX)))
}

async fn kept<S: Sql>(sql: &S, (after, limit): &(u64, u64)) -> Result<Vec<(u64, ConvId)>> {
    let rows = sql
        .rows(
            "SELECT n, conv_id FROM conversations WHERE n > ?1 AND latest_seq >= earliest_seq ORDER BY n LIMIT ?2",
            &[(*after).into(), (*limit).into()],
        )
        .await?;
    rows.into_iter().map(|mut row| Ok((row.number(0)?, row.name(1)?))).collect()
}

async fn forget<S: Sql>(sql: &S, before_ms: &u64) -> Result<u64> {
    sql.run("DELETE FROM pruned_messages WHERE ts_ms < ?1", &[(*before_ms).into()]).await
}
