//! Deleting: expired events, and what the policy of a namespace lets go. In slices, so that the writer waits little.
//!
//! A slice is a transaction of its own that locks the row of the writer's epoch, as the writer's transactions do,
//! so it has its place in the writer's order and cannot meet a half-written batch.

use std::collections::HashMap;

use ahash::RandomState;
use deadpool_postgres::{Object, Transaction};
use futures_util::{TryStreamExt, pin_mut};
use relay_proto::{
    Event, Namespace,
    event::{Class, class_of},
};

use super::{migrate::raise_meta, query::head_seq};
use crate::{
    error::{Result, StoreError},
    event::Retention,
    schema::NEXT_SEQ_FLOOR,
};

/// Deletes up to `limit` events that expired by `now_s`; returns how many.
pub(super) async fn sweep_expired(client: &mut Object, now_s: u64, limit: usize) -> Result<usize> {
    let tx = in_order(client).await?;
    let sql = "SELECT seq FROM events WHERE expires_at_s IS NOT NULL AND expires_at_s <= $1
               ORDER BY expires_at_s LIMIT $2";
    let expired = tx.query(sql, &[&(now_s as i64), &(limit as i64)]).await?;
    let seqs: Vec<i64> = expired.iter().map(|row| row.get(0)).collect();
    delete(&tx, &seqs, Heads::Stay).await?;
    tx.commit().await?;
    Ok(seqs.len())
}

/// Deletes up to `limit` events of one namespace by its policy; returns how many.
pub(super) async fn prune(
    client: &mut Object,
    name: &Namespace,
    policy: &Retention,
    limit: usize,
) -> Result<usize> {
    let tx = in_order(client).await?;
    let sql = "SELECT n, bytes FROM namespaces WHERE name = $1";
    let Some(row) = tx.query_opt(sql, &[&name.as_str()]).await? else { return Ok(0) };
    let ns: i32 = row.get(0);
    let mut bytes: i64 = row.get(1);
    let mut gone = 0;
    if let Some(before) = policy.received_before_ns {
        let old = oldest(&tx, ns, limit).await?;
        let old: Vec<_> =
            old.into_iter().filter(|row| row.received_at_ns < before as i64).collect();
        bytes -= old.iter().map(|row| row.bytes).sum::<i64>();
        gone += forget(&tx, ns, &old).await?;
    }
    if let Some(max_bytes) = policy.max_bytes
        && gone < limit
        && bytes > max_bytes as i64
    {
        let mut old = oldest(&tx, ns, limit - gone).await?;
        let mut excess = bytes - max_bytes as i64;
        old.retain(|row| {
            let wanted = excess > 0;
            excess -= row.bytes;
            wanted
        });
        gone += forget(&tx, ns, &old).await?;
    }
    if let Some(keep) = policy.keep_versions
        && gone < limit
    {
        gone += compact(&tx, ns, keep.max(1), limit - gone).await?;
    }
    tx.commit().await?;
    Ok(gone)
}

async fn in_order(client: &mut Object) -> Result<Transaction<'_>> {
    let tx = client.transaction().await?;
    tx.execute("SELECT FROM writer FOR NO KEY UPDATE", &[]).await?;
    Ok(tx)
}

struct Old {
    seq: i64,
    received_at_ns: i64,
    bytes: i64,
}

/// The first events of a namespace in order of arrival.
async fn oldest(tx: &Transaction<'_>, ns: i32, limit: usize) -> Result<Vec<Old>> {
    let sql = "SELECT seq, received_at_ns, length(json)::bigint FROM events WHERE ns = $1
               ORDER BY seq LIMIT $2";
    let rows = tx.query(sql, &[&ns, &(limit as i64)]).await?;
    let old = |row: &tokio_postgres::Row| Old {
        seq: row.get(0),
        received_at_ns: row.get(1),
        bytes: row.get(2),
    };
    Ok(rows.iter().map(old).collect())
}

/// Deletes, and notes that cursors before the last of them no longer tell the whole story.
async fn forget(tx: &Transaction<'_>, ns: i32, old: &[Old]) -> Result<usize> {
    let seqs: Vec<i64> = old.iter().map(|row| row.seq).collect();
    delete(tx, &seqs, Heads::Go).await?;
    if let Some(last) = seqs.iter().max() {
        let sql = "UPDATE namespaces SET pruned_through_seq = greatest(pruned_through_seq, $2)
                   WHERE n = $1";
        tx.execute(sql, &[&ns, last]).await?;
    }
    Ok(seqs.len())
}

/// Superseded versions beyond the newest `keep` of their coordinate.
async fn compact(tx: &Transaction<'_>, ns: i32, keep: u64, limit: usize) -> Result<usize> {
    let sql = "SELECT author, kind FROM events
               WHERE ns = $1 AND kind BETWEEN 10000 AND 39999 AND superseded
               GROUP BY author, kind HAVING count(*) >= $2";
    let keep_i64 = i64::try_from(keep).unwrap_or(i64::MAX);
    let mut gone = Vec::new();
    for group in tx.query(sql, &[&ns, &keep_i64]).await? {
        let (author, kind): (i32, i32) = (group.get(0), group.get(1));
        let class = u16::try_from(kind).map(class_of);
        if gone.len() < limit && matches!(class, Ok(Class::Replaceable | Class::Addressable)) {
            old_versions(tx, (ns, author, kind), keep, limit, &mut gone).await?;
        }
    }
    delete(tx, &gone, Heads::Go).await?;
    Ok(gone.len())
}

async fn old_versions(
    tx: &Transaction<'_>,
    (ns, author, kind): (i32, i32, i32),
    keep: u64,
    limit: usize,
    gone: &mut Vec<i64>,
) -> Result<()> {
    let sql = "SELECT seq, superseded, json FROM events WHERE ns = $1 AND author = $2 AND kind = $3
               ORDER BY created_at_ns DESC, id DESC";
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&ns, &author, &kind];
    let rows = tx.query_raw(sql, values).await?;
    pin_mut!(rows);
    let mut newer: HashMap<String, u64, RandomState> = HashMap::default();
    while gone.len() < limit
        && let Some(row) = rows.try_next().await?
    {
        let seq: i64 = row.get(0);
        let json = bytes::Bytes::copy_from_slice(row.get(2));
        let event = Event::from_stored(json)
            .map_err(|error| StoreError::Corrupt(format!("event {seq}: {error}")))?;
        let newer = newer.entry(event.d().to_owned()).or_default();
        if row.get(1) && *newer >= keep {
            gone.push(seq);
        }
        *newer += 1;
    }
    Ok(())
}

/// Whether a coordinate forgets its latest version with the event. After expiry it does not: an older version
/// that arrives late is as old as it was before the sweep.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heads {
    Go,
    Stay,
}

async fn delete(tx: &Transaction<'_>, seqs: &[i64], heads: Heads) -> Result<()> {
    if seqs.is_empty() {
        return Ok(());
    }
    let next = head_seq(&**tx).await? as i64 + 1;
    raise_meta(&**tx, NEXT_SEQ_FLOOR, next).await?;
    tx.execute(
        "WITH gone AS (
             DELETE FROM events WHERE seq = ANY ($1)
             RETURNING seq, ns, author, kind, superseded, created_at_ns, tags, length(json) AS bytes
         ), untagged AS (
             DELETE FROM event_tags t
             USING (SELECT seq, superseded, created_at_ns, unnest(tags) AS tag FROM gone) g
             WHERE t.tag = g.tag AND t.superseded = g.superseded
                 AND t.created_at_ns = g.created_at_ns AND t.seq = g.seq
         ), beheaded AS (
             DELETE FROM heads h USING gone g
             WHERE $2 AND NOT g.superseded AND h.author = g.author AND h.kind = g.kind AND h.seq = g.seq
         )
         UPDATE namespaces n SET events = n.events - s.events, bytes = n.bytes - s.bytes
         FROM (SELECT ns, count(*) AS events, sum(bytes) AS bytes FROM gone GROUP BY ns) s
         WHERE n.n = s.ns",
        &[&seqs, &(heads == Heads::Go)],
    )
    .await?;
    Ok(())
}
