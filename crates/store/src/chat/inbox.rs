//! Device inboxes: logs that the relay writes and one device reads (`mls-profile.md` 6.6).

use relay_proto::{NodeId, auth::DeviceId, conv::ConvId};
use serde_json::json;

use crate::{
    Store,
    error::Result,
    sql::{Sql, damaged, look, one, transact},
};

/// One entry of an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxEntry {
    pub seq: u64,
    /// The members of `inbox.event` but `seq`, a JSON object.
    pub body: String,
}

/// A page of an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxPage {
    pub entries: Vec<InboxEntry>,
    pub latest_seq: u64,
    /// What the device has acknowledged lies before it.
    pub next_seq: u64,
}

impl Store {
    /// Entries from `from_seq` on, or from the device's cursor.
    pub async fn read_inbox(
        &self,
        user: NodeId,
        device: DeviceId,
        from_seq: Option<u64>,
        limit: u64,
    ) -> Result<InboxPage> {
        let asked = (user, device, from_seq, limit);
        look!(self, asked, page)
    }

    /// Moves the device's cursor behind `seq`; never back, never beyond the end.
    pub async fn acknowledge_inbox(&self, user: NodeId, device: DeviceId, seq: u64) -> Result<()> {
        let asked = (user, device, seq);
        transact!(self, asked, acknowledge)
    }

    /// Puts an entry into an inbox; above `max` entries the oldest go.
    pub async fn put_inbox(
        &self,
        user: NodeId,
        device: DeviceId,
        body: String,
        at_ms: u64,
        max: u64,
    ) -> Result<InboxEntry> {
        let asked = (user, device, body, at_ms, max);
        transact!(self, asked, put_one)
    }

    /// Deletes entries from before `acked_before_ms` that were acknowledged, and all from before `before_ms`.
    pub async fn sweep_inboxes(&self, acked_before_ms: u64, before_ms: u64) -> Result<u64> {
        let asked = (acked_before_ms, before_ms);
        transact!(self, asked, sweep)
    }
}

pub(super) fn welcome_body(
    conv: &ConvId,
    home: &str,
    seq: u64,
    inviter: &NodeId,
    env: &str,
) -> String {
    json!({
        "kind": "welcome", "conv_id": conv, "conv_home": home, "conv_seq": seq, "inviter": inviter, "env": env,
    })
    .to_string()
}

async fn put_one<S: Sql>(
    sql: &S,
    (user, device, body, at_ms, max): &(NodeId, DeviceId, String, u64, u64),
) -> Result<InboxEntry> {
    put(sql, user, device, body.clone(), *at_ms, *max).await
}

/// Appends to an inbox.
pub(super) async fn put<S: Sql>(
    sql: &S,
    user: &NodeId,
    device: &DeviceId,
    body: String,
    at_ms: u64,
    max: u64,
) -> Result<InboxEntry> {
    let numbered = one(
        sql,
        "INSERT INTO inboxes (user_key, device_id, latest_seq, next_seq) VALUES (?1, ?2, 1, 1)
         ON CONFLICT (user_key, device_id) DO UPDATE SET latest_seq = inboxes.latest_seq + 1
         RETURNING latest_seq",
        &[user.into(), device.into()],
    )
    .await?;
    let seq = numbered.ok_or_else(|| damaged("an inbox without a number"))?.number(0)?;
    sql.run(
        "INSERT INTO inbox_entries (user_key, device_id, seq, at_ms, body) VALUES (?1, ?2, ?3, ?4, ?5)",
        &[user.into(), device.into(), seq.into(), at_ms.into(), body.as_bytes().into()],
    )
    .await?;
    if seq > max {
        sql.run(
            "DELETE FROM inbox_entries WHERE user_key = ?1 AND device_id = ?2 AND seq <= ?3",
            &[user.into(), device.into(), (seq - max).into()],
        )
        .await?;
    }
    Ok(InboxEntry { seq, body })
}

async fn page<S: Sql>(
    sql: &S,
    (user, device, from_seq, limit): &(NodeId, DeviceId, Option<u64>, u64),
) -> Result<InboxPage> {
    let text = "SELECT latest_seq, next_seq FROM inboxes WHERE user_key = ?1 AND device_id = ?2";
    let bounds = one(sql, text, &[user.into(), device.into()]).await?;
    let (latest_seq, next_seq) = match bounds {
        Some(row) => (row.number(0)?, row.number(1)?),
        None => (0, 1),
    };
    let rows = sql
        .rows(
            "SELECT seq, body FROM inbox_entries
             WHERE user_key = ?1 AND device_id = ?2 AND seq >= ?3 AND seq <= ?4 ORDER BY seq LIMIT ?5",
            &[
                user.into(),
                device.into(),
                from_seq.unwrap_or(next_seq).into(),
                latest_seq.into(),
                (*limit).into(),
            ],
        )
        .await?;
    let entries: Result<Vec<_>> = rows
        .into_iter()
        .map(|mut row| {
            let body =
                String::from_utf8(row.bytes(1)?).map_err(|_| damaged("no text in an inbox"))?;
            Ok(InboxEntry { seq: row.number(0)?, body })
        })
        .collect();
    Ok(InboxPage { entries: entries?, latest_seq, next_seq })
}

async fn acknowledge<S: Sql>(sql: &S, (user, device, seq): &(NodeId, DeviceId, u64)) -> Result<()> {
    sql.run(
        "UPDATE inboxes SET next_seq = CASE WHEN latest_seq < ?3 THEN latest_seq + 1 ELSE ?3 + 1 END
         WHERE user_key = ?1 AND device_id = ?2 AND next_seq <= ?3",
        &[user.into(), device.into(), (*seq).into()],
    )
    .await?;
    Ok(())
}

async fn sweep<S: Sql>(sql: &S, (acked_before, before): &(u64, u64)) -> Result<u64> {
    let old = sql.run("DELETE FROM inbox_entries WHERE at_ms < ?1", &[(*before).into()]).await?;
    let acked = sql
        .run(
            "DELETE FROM inbox_entries WHERE at_ms < ?1 AND seq < (
                 SELECT i.next_seq FROM inboxes i
                 WHERE i.user_key = inbox_entries.user_key AND i.device_id = inbox_entries.device_id)",
            &[(*acked_before).into()],
        )
        .await?;
    Ok(old + acked)
}
