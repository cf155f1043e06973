//! Pages in the order of the log: few candidates are sorted, many are met sooner by walking the log.

use relay_proto::{Namespace, NodeId, Position};
use rusqlite::{Connection, params};

use super::{
    super::dictionary::{find_author, find_namespace},
    Rows,
    runs::{Chosen, window},
};
use crate::{
    error::Result,
    event::{EventQuery, Order, Page},
};

/// A run whose entries are all wanted anyway is sorted by `seq` if it is at most this long;
/// beyond it matches are so frequent that walking the log finds them sooner.
const SORTABLE: usize = 20_000;
/// Rows of the log looked at between two looks at the deadline.
const WALK_CHUNK: usize = 4_096;

pub(super) fn by_seq(
    conn: &Connection,
    query: &EventQuery,
    parts: &[Chosen],
    head: u64,
) -> Result<Page> {
    match few(conn, query, parts, head)? {
        Some(seqs) => pick(conn, query, parts, seqs),
        None => walk(conn, query, parts, head),
    }
}

/// All candidates up to `head`, if they are few enough to be sorted.
fn few(
    conn: &Connection,
    query: &EventQuery,
    parts: &[Chosen],
    head: u64,
) -> Result<Option<Vec<u64>>> {
    let mut seqs = Vec::new();
    for part in parts {
        seqs.extend_from_slice(&part.seqs);
        for run in &part.runs {
            let room = SORTABLE + 1 - seqs.len().min(SORTABLE);
            let entries = run.read(conn, None, window(&part.filter, Order::Time), room)?;
            seqs.extend(entries.into_iter().map(|(_, seq)| seq));
            if seqs.len() > SORTABLE {
                return Ok(None);
            }
        }
    }
    let from = query.from;
    seqs.retain(|&seq| match from {
        _ if seq > head => false,
        Some(Position::AfterSeq(after)) => seq > after,
        Some(Position::BeforeSeq(before)) => seq < before,
        _ => true,
    });
    seqs.sort_unstable();
    seqs.dedup();
    if query.order == Order::SeqDescending {
        seqs.reverse();
    }
    Ok(Some(seqs))
}

fn pick(conn: &Connection, query: &EventQuery, parts: &[Chosen], seqs: Vec<u64>) -> Result<Page> {
    let mut rows = Rows::new(conn, query, parts)?;
    let mut page = Page::default();
    let mut seqs = &seqs[..];
    while !seqs.is_empty() {
        let (some, others) = seqs.split_at(seqs.len().min(query.limit + 1 - page.events.len()));
        seqs = others;
        rows.fetch(some, &mut page.events)?;
        if page.events.len() > query.limit {
            page.events.truncate(query.limit);
            page.next = page.events.last().map(|last| seq_position(query.order, last.seq));
            break;
        }
    }
    page.through_seq = page.events.last().map_or(0, |last| last.seq);
    Ok(page)
}

const fn seq_position(order: Order, seq: u64) -> Position {
    match order {
        Order::SeqDescending => Position::BeforeSeq(seq),
        _ => Position::AfterSeq(seq),
    }
}

/// Looks at the log itself up to `head`, in order, until the page is full.
fn walk(conn: &Connection, query: &EventQuery, parts: &[Chosen], head: u64) -> Result<Page> {
    let narrow = Narrow::of(conn, query, parts)?;
    let mut rows = Rows::new(conn, query, parts)?;
    let mut page = Page::default();
    let descending = query.order == Order::SeqDescending;
    let mut at = match query.from {
        Some(Position::AfterSeq(seq) | Position::BeforeSeq(seq)) => seq,
        _ if descending => head + 1,
        _ => 0,
    };
    let sql = if descending {
        "SELECT seq, ns, author, kind, superseded FROM events WHERE seq < ?1 AND seq <= ?3
         ORDER BY seq DESC LIMIT ?2"
    } else {
        "SELECT seq, ns, author, kind, superseded FROM events WHERE seq > ?1 AND seq <= ?3
         ORDER BY seq LIMIT ?2"
    };
    loop {
        let mut chunk = conn.prepare_cached(sql)?;
        let mut found = chunk.query(params![at as i64, WALK_CHUNK as i64, head as i64])?;
        let mut seen = 0;
        while let Some(row) = found.next()? {
            seen += 1;
            at = row.get::<_, i64>(0)? as u64;
            if !narrow.passes(row)? {
                continue;
            }
            rows.fetch(&[at], &mut page.events)?;
            page.through_seq = at;
            if page.events.len() == query.limit {
                page.next = Some(seq_position(query.order, at));
                return Ok(page);
            }
        }
        if seen < WALK_CHUNK {
            return Ok(page);
        }
    }
}

/// What of the filters can be told from the narrow columns, for each part.
struct Narrow {
    history: bool,
    parts: Vec<(Vec<i64>, Vec<i64>, Vec<u16>)>,
}

impl Narrow {
    fn of(conn: &Connection, query: &EventQuery, parts: &[Chosen]) -> Result<Self> {
        let mut narrow = Self { history: query.history, parts: Vec::new() };
        for part in parts {
            let ns = numbers(&part.filter.ns, |ns: &Namespace| find_namespace(conn, ns))?;
            let authors = numbers(&part.filter.authors, |key: &NodeId| find_author(conn, key))?;
            if part.filter.authors.is_empty() || !authors.is_empty() {
                narrow.parts.push((ns, authors, part.filter.kinds.clone()));
            }
        }
        Ok(narrow)
    }

    fn passes(&self, row: &rusqlite::Row<'_>) -> Result<bool> {
        let (ns, author): (i64, i64) = (row.get(1)?, row.get(2)?);
        let (kind, superseded): (u16, bool) = (row.get(3)?, row.get(4)?);
        if superseded && !self.history {
            return Ok(false);
        }
        Ok(self.parts.iter().any(|(namespaces, authors, kinds)| {
            namespaces.contains(&ns)
                && (authors.is_empty() || authors.contains(&author))
                && (kinds.is_empty() || kinds.contains(&kind))
        }))
    }
}

fn numbers<T>(names: &[T], find: impl Fn(&T) -> Result<Option<i64>>) -> Result<Vec<i64>> {
    names.iter().filter_map(|name| find(name).transpose()).collect()
}
