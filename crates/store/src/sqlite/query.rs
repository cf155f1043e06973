//! Reading the event log: index runs merged in order, then rows.

mod by_seq;
mod merge;
mod runs;

use std::rc::Rc;

use relay_proto::{Event, Position};
use rusqlite::{CachedStatement, Connection, types::Value};

pub(super) use self::runs::Window;
use self::{
    by_seq::by_seq,
    merge::Merge,
    runs::{Chosen, choose},
};
use super::index::View;
use crate::{
    error::{Result, StoreError},
    event::{EventQuery, Order, Page, StoredEvent},
    plan::{covered, plan},
};

/// Rows fetched at once while counting.
const COUNTED_AT_ONCE: usize = 256;

/// Answers one page. The view was taken before.
pub(super) fn page(conn: &Connection, view: &View, query: &EventQuery) -> Result<Page> {
    // One read transaction, so that all statements see the same log.
    let snapshot = Snapshot::begin(conn)?;
    let parts = choose(conn, view, plan(query), query)?;
    let page = match query.order {
        Order::Seq | Order::SeqDescending => by_seq(conn, query, &parts, view.through_seq)?,
        Order::Time | Order::TimeDescending => by_time(conn, query, &parts)?,
    };
    drop(snapshot);
    let through_seq = if page.next.is_none() { view.through_seq } else { page.through_seq };
    Ok(Page { through_seq, ..page })
}

/// How many events match.
pub(super) fn count(conn: &Connection, view: &View, query: &EventQuery) -> Result<u64> {
    let mut query = query.clone();
    query.order = Order::TimeDescending;
    query.from = None;
    let snapshot = Snapshot::begin(conn)?;
    let parts = choose(conn, view, plan(&query), &query)?;
    let mut merge = Merge::open(conn, &query, &parts, 4_096)?;
    let mut rows = Rows::new(conn, &query, &parts)?;
    let mut count = 0;
    let mut found = Vec::new();
    loop {
        let seqs = merge.take(COUNTED_AT_ONCE)?;
        if seqs.is_empty() {
            break;
        }
        rows.fetch(&seqs, &mut found)?;
        count += found.len() as u64;
        found.clear();
    }
    drop(snapshot);
    Ok(count)
}

/// A read transaction by statements that are prepared once.
struct Snapshot<'a>(&'a Connection);

impl<'a> Snapshot<'a> {
    fn begin(conn: &'a Connection) -> Result<Self> {
        conn.prepare_cached("BEGIN")?.execute([])?;
        Ok(Self(conn))
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        let ended = self.0.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
        if let Err(error) = ended {
            tracing::error!(%error, "a read transaction did not end");
        }
    }
}

/// The `seq` of the newest event, 0 where there is none.
pub(super) fn head_seq(conn: &Connection) -> Result<u64> {
    let head: Option<i64> =
        conn.prepare_cached("SELECT max(seq) FROM events")?.query_row([], |row| row.get(0))?;
    Ok(head.unwrap_or(0) as u64)
}

fn by_time(conn: &Connection, query: &EventQuery, parts: &[Chosen]) -> Result<Page> {
    let mut merge = Merge::open(conn, query, parts, query.limit + 1)?;
    let mut rows = Rows::new(conn, query, parts)?;
    let mut page = Page::default();
    loop {
        let seqs = merge.take(query.limit + 1 - page.events.len())?;
        if seqs.is_empty() {
            return Ok(page);
        }
        rows.fetch(&seqs, &mut page.events)?;
        if page.events.len() > query.limit {
            page.events.truncate(query.limit);
            page.next = page.events.last().map(|last| match query.order {
                Order::Time => Position::AfterTime(last.created_at_ns, last.seq),
                _ => Position::BeforeTime(last.created_at_ns, last.seq),
            });
            return Ok(page);
        }
    }
}

/// Fetches rows and drops those that the indexes could not rule out.
struct Rows<'a> {
    select: CachedStatement<'a>,
    query: &'a EventQuery,
    parts: &'a [Chosen],
    /// One filter that the index answers in full: rows need no further look.
    covered: bool,
}

impl<'a> Rows<'a> {
    fn new(conn: &'a Connection, query: &'a EventQuery, parts: &'a [Chosen]) -> Result<Self> {
        let covered = parts.len() == 1 && covered(&parts[0].filter);
        // All rows of a page by one statement: one for each would cost as much as the row. A cross join keeps the order.
        let select = conn.prepare_cached(
            "SELECT seq, created_at_ns, expires_at_s, superseded, json
             FROM rarray(?1) AS wanted CROSS JOIN events ON seq = wanted.value",
        )?;
        Ok(Self { select, query, parts, covered })
    }

    /// Adds those of the events that are wanted to `to`, in their order.
    fn fetch(&mut self, seqs: &[u64], to: &mut Vec<StoredEvent>) -> Result<()> {
        let (now_s, history) = (self.query.now_s, self.query.history);
        let wanted: Vec<Value> = seqs.iter().map(|&seq| Value::from(seq as i64)).collect();
        let (covered, parts) = (self.covered, self.parts);
        let mut rows = self.select.query([Rc::new(wanted)])?;
        while let Some(row) = rows.next()? {
            let seq = row.get::<_, i64>(0)? as u64;
            let expires: Option<i64> = row.get(2)?;
            let superseded: bool = row.get(3)?;
            if expires.is_some_and(|at| at as u64 <= now_s) || superseded && !history {
                continue;
            }
            let json = row.get_ref(4)?.as_blob().map_err(|e| StoreError::Corrupt(e.to_string()))?;
            let json = bytes::Bytes::copy_from_slice(json);
            if covered || matches(parts, seq, &json)? {
                let created_at_ns = row.get::<_, i64>(1)? as u64;
                to.push(StoredEvent { seq, created_at_ns, json });
            }
        }
        Ok(())
    }
}

fn matches(parts: &[Chosen], seq: u64, json: &bytes::Bytes) -> Result<bool> {
    let event = Event::from_stored(json.clone())
        .map_err(|error| StoreError::Corrupt(format!("event {seq}: {error}")))?;
    Ok(parts.iter().any(|part| part.filter.matches(&event)))
}
