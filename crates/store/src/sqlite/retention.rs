//! Deleting: expired events, and what the policy of a namespace lets go. In slices, so that writers wait little.

use relay_proto::{Namespace, event::Class, event::class_of};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    dictionary::find_namespace,
    index::Recent,
    log,
    migrate::{meta, set_meta},
    query::head_seq,
};
use crate::{error::Result, event::Retention, schema::NEXT_SEQ_FLOOR};

/// Deletes up to `limit` events that expired by `now_s`; returns how many.
pub(super) fn sweep_expired(
    conn: &Connection,
    recent: &Recent,
    now_s: u64,
    limit: usize,
) -> Result<usize> {
    let seqs = seqs(
        conn,
        "SELECT seq FROM events WHERE expires_at_s IS NOT NULL AND expires_at_s <= ?1 LIMIT ?2",
        &[now_s as i64, limit as i64],
    )?;
    delete(conn, recent, &seqs, Heads::Stay)?;
    Ok(seqs.len())
}

/// Deletes up to `limit` events of one namespace by its policy; returns how many.
pub(super) fn prune(
    conn: &Connection,
    recent: &Recent,
    name: &Namespace,
    policy: &Retention,
    limit: usize,
) -> Result<usize> {
    let Some(ns) = find_namespace(conn, name)? else { return Ok(0) };
    let mut gone = 0;
    if let Some(before) = policy.received_before_ns {
        let old = seqs(
            conn,
            "SELECT seq FROM events WHERE ns = ?1 AND received_at_ns < ?2 ORDER BY seq LIMIT ?3",
            &[ns, before as i64, limit as i64],
        )?;
        gone += forget(conn, recent, ns, &old)?;
    }
    if let Some(max_bytes) = policy.max_bytes
        && gone < limit
    {
        let bytes: i64 =
            conn.query_row("SELECT bytes FROM namespaces WHERE n = ?1", [ns], |row| row.get(0))?;
        let excess = bytes - max_bytes as i64;
        if excess > 0 {
            let old = oldest_bytes(conn, ns, excess, limit - gone)?;
            gone += forget(conn, recent, ns, &old)?;
        }
    }
    if let Some(keep) = policy.keep_versions
        && gone < limit
    {
        gone += compact(conn, recent, ns, keep.max(1), limit - gone)?;
    }
    Ok(gone)
}

/// Deletes, and notes that cursors before the last of them no longer tell the whole story.
fn forget(conn: &Connection, recent: &Recent, ns: i64, seqs: &[i64]) -> Result<usize> {
    delete(conn, recent, seqs, Heads::Go)?;
    if let Some(last) = seqs.iter().max() {
        conn.execute(
            "UPDATE namespaces SET pruned_through_seq = max(pruned_through_seq, ?2) WHERE n = ?1",
            params![ns, last],
        )?;
    }
    Ok(seqs.len())
}

fn oldest_bytes(conn: &Connection, ns: i64, excess: i64, limit: usize) -> Result<Vec<i64>> {
    let mut oldest = conn.prepare_cached(
        "SELECT seq, length(json) FROM events WHERE ns = ?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut rows = oldest.query(params![ns, limit as i64])?;
    let (mut found, mut sum) = (Vec::new(), 0);
    while sum < excess
        && let Some(row) = rows.next()?
    {
        found.push(row.get(0)?);
        sum += row.get::<_, i64>(1)?;
    }
    Ok(found)
}

/// Superseded versions beyond the newest `keep` of their coordinate.
fn compact(conn: &Connection, recent: &Recent, ns: i64, keep: u64, limit: usize) -> Result<usize> {
    let mut candidates = conn.prepare_cached(
        "SELECT old.seq, events.author, events.kind
         FROM events_by_kind AS old CROSS JOIN events ON events.seq = old.seq
         WHERE old.ns = ?1 AND old.kind BETWEEN 10000 AND 39999 AND old.superseded = 1",
    )?;
    let mut rows = candidates.query([ns])?;
    let mut gone = Vec::new();
    while gone.len() < limit
        && let Some(row) = rows.next()?
    {
        let (seq, author, kind): (i64, i64, u16) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if matches!(class_of(kind), Class::Replaceable | Class::Addressable)
            && newer_versions(conn, ns, author, kind, seq)? >= keep
        {
            gone.push(seq);
        }
    }
    drop(rows);
    delete(conn, recent, &gone, Heads::Go)?;
    Ok(gone.len())
}

fn newer_versions(conn: &Connection, ns: i64, author: i64, kind: u16, seq: i64) -> Result<u64> {
    let Some(event) = log::load(conn, seq as u64)? else { return Ok(0) };
    let d = event.d().to_owned();
    let mut newer = conn.prepare_cached(
        "SELECT seq FROM events_by_author
         WHERE ns = ?1 AND author = ?2 AND kind = ?3 AND superseded IN (0, 1)
           AND created_at_ns >= ?4",
    )?;
    let mut rows = newer.query(params![ns, author, kind, event.created_at_ns() as i64])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        let other = log::load(conn, row.get::<_, i64>(0)? as u64)?;
        count += u64::from(
            other.is_some_and(|other| other.d() == d && other.version() > event.version()),
        );
    }
    Ok(count)
}

fn seqs(conn: &Connection, sql: &str, values: &[i64]) -> Result<Vec<i64>> {
    let mut found = conn.prepare_cached(sql)?;
    let rows = found.query_map(rusqlite::params_from_iter(values), |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Whether a coordinate forgets its latest version with the event. After expiry it does not: an older version
/// that arrives late is as old as it was before the sweep.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heads {
    Go,
    Stay,
}

fn delete(conn: &Connection, recent: &Recent, seqs: &[i64], heads: Heads) -> Result<()> {
    if seqs.is_empty() {
        return Ok(());
    }
    let floor = meta(conn, NEXT_SEQ_FLOOR)?.unwrap_or(1).max(head_seq(conn)? as i64 + 1);
    set_meta(conn, NEXT_SEQ_FLOOR, floor)?;
    let mut row =
        conn.prepare_cached("SELECT ns, author, kind, length(json) FROM events WHERE seq = ?1")?;
    for &seq in seqs {
        let found: Option<(i64, i64, u16, i64)> = row
            .query_row([seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .optional()?;
        let Some((ns, author, kind, bytes)) = found else { continue };
        if heads == Heads::Go {
            conn.prepare_cached("DELETE FROM heads WHERE author = ?1 AND kind = ?2 AND seq = ?3")?
                .execute(params![author, kind, seq])?;
        }
        conn.prepare_cached(
            "UPDATE namespaces SET events = events - 1, bytes = bytes - ?2 WHERE n = ?1",
        )?
        .execute(params![ns, bytes])?;
        log::delete(conn, recent, seq as u64)?;
    }
    Ok(())
}
