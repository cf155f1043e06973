//! The stretches of indexes that a query is answered from, and the choice between them.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use ahash::RandomState;
use relay_proto::Filter;
use rusqlite::{Connection, params_from_iter};
use smallvec::{SmallVec, smallvec};

use super::super::{
    dictionary::{find_author, find_namespace},
    index::{Key, Segment, View},
    log::FindId,
};
use crate::{
    error::Result,
    event::{EventQuery, Order},
    plan::{Access, Part, Source},
    tags::tag_hash,
};

/// Entries counted when choosing between alternatives.
const PROBE: usize = 2_000;

/// A part with its sources as index runs.
pub(super) struct Chosen {
    pub filter: Filter,
    pub runs: Vec<Run>,
    /// Found by id instead.
    pub seqs: Vec<u64>,
}

/// A contiguous stretch of one index, ordered by (time, seq), where it lies.
#[derive(Debug, Clone)]
pub(super) enum Run {
    /// In the tables.
    Stored { key: Key, superseded: bool },
    /// In memory; never superseded.
    Recent { key: Key, segment: Arc<Segment> },
}

impl Run {
    pub fn is_stored(&self) -> bool {
        matches!(self, Self::Stored { .. })
    }

    /// Up to `limit` entries beyond `from`, in order.
    pub fn read(
        &self,
        conn: &Connection,
        from: Option<(u64, u64)>,
        window: Window,
        limit: usize,
    ) -> Result<VecDeque<(u64, u64)>> {
        match self {
            Self::Stored { key, superseded } => {
                read_table(conn, (*key, *superseded), from, window, limit)
            }
            Self::Recent { key, segment } => Ok(segment.read(*key, from, window, limit)),
        }
    }

    /// Entries of the run, counted no further than `limit`.
    fn count(&self, conn: &Connection, limit: usize) -> Result<usize> {
        match self {
            Self::Stored { key, superseded } => {
                let (body, mut values) = stretch(*key, *superseded);
                values.push(limit as i64);
                let sql = format!("SELECT count(*) FROM (SELECT 1 FROM {body} LIMIT ?)");
                let mut count = conn.prepare_cached(&sql)?;
                let count: i64 = count.query_row(params_from_iter(values), |row| row.get(0))?;
                Ok(count as usize)
            }
            Self::Recent { key, segment } => {
                Ok(segment.read(*key, None, Window::ALWAYS, limit).len())
            }
        }
    }
}

/// Table and condition; the values go in as the first parameters.
fn stretch(key: Key, superseded: bool) -> (&'static str, SmallVec<[i64; 8]>) {
    let superseded = i64::from(superseded);
    match key {
        Key::Id { prefix } => ("event_ids WHERE id_prefix = ?", smallvec![prefix]),
        Key::Author { ns, author, kind } => (
            "events_by_author WHERE ns = ? AND author = ? AND kind = ? AND superseded = ?",
            smallvec![ns, author, kind, superseded],
        ),
        Key::Kind { ns, kind } => (
            "events_by_kind WHERE ns = ? AND kind = ? AND superseded = ?",
            smallvec![ns, kind, superseded],
        ),
        Key::Tag { tag } => {
            ("event_tags WHERE tag = ? AND superseded = ?", smallvec![tag, superseded])
        }
    }
}

fn read_table(
    conn: &Connection,
    (key, superseded): (Key, bool),
    from: Option<(u64, u64)>,
    window: Window,
    limit: usize,
) -> Result<VecDeque<(u64, u64)>> {
    let (body, mut values) = stretch(key, superseded);
    let (sign, direction) = if window.descending { ("<", "DESC") } else { (">", "ASC") };
    let beyond = match from {
        None => String::new(),
        Some((ns, seq)) => {
            values.extend([ns as i64, seq as i64]);
            format!(" AND (created_at_ns, seq) {sign} (?, ?)")
        }
    };
    values.extend([window.since_ns as i64, window.until_ns as i64, limit as i64]);
    let sql = format!(
        "SELECT created_at_ns, seq FROM {body}{beyond}
         AND created_at_ns >= ? AND created_at_ns <= ?
         ORDER BY created_at_ns {direction}, seq {direction} LIMIT ?"
    );
    let mut found = conn.prepare_cached(&sql)?;
    let rows = found.query_map(params_from_iter(values), |row| {
        Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The stretch of time that a part asks for, and the direction of the walk.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Window {
    pub since_ns: u64,
    pub until_ns: u64,
    pub descending: bool,
}

impl Window {
    const ALWAYS: Self = Self { since_ns: 0, until_ns: END_OF_TIME, descending: false };
}

const END_OF_TIME: u64 = i64::MAX as u64;

pub(super) fn window(filter: &Filter, order: Order) -> Window {
    Window {
        since_ns: filter.since_ns.unwrap_or(0),
        until_ns: filter.until_ns.unwrap_or(END_OF_TIME),
        descending: order == Order::TimeDescending,
    }
}

/// Resolves names to numbers and takes the smaller of alternatives.
pub(super) fn choose(
    conn: &Connection,
    view: &View,
    parts: Vec<Part>,
    query: &EventQuery,
) -> Result<Vec<Chosen>> {
    let mut chosen = Vec::with_capacity(parts.len());
    for part in parts {
        let mut runs = Vec::new();
        let mut seqs = Vec::new();
        match &part.access {
            Access::Ids(ids) => {
                let mut stored = FindId::prepare(conn)?;
                for id in ids {
                    seqs.extend(stored.find(view.seqs_of_id(id.prefix()), id)?);
                }
            }
            Access::Index(alternatives) => {
                let mut best = None;
                for sources in alternatives {
                    let candidate = resolve(conn, view, sources, query.history)?;
                    let size = if alternatives.len() == 1 { 0 } else { size(conn, &candidate)? };
                    if best.as_ref().is_none_or(|(least, _)| size < *least) {
                        best = Some((size, candidate));
                    }
                }
                runs = best.map(|(_, runs)| runs).unwrap_or_default();
            }
        }
        chosen.push(Chosen { filter: part.filter, runs, seqs });
    }
    Ok(chosen)
}

fn size(conn: &Connection, runs: &[Run]) -> Result<usize> {
    let mut size = 0;
    for run in runs {
        size += run.count(conn, PROBE)?;
        if size > PROBE {
            break;
        }
    }
    Ok(size)
}

/// The runs of a union of sources, each once.
fn resolve(conn: &Connection, view: &View, sources: &[Source], history: bool) -> Result<Vec<Run>> {
    let mut keys = Vec::new();
    for source in sources {
        resolve_one(conn, view, source, &mut keys)?;
    }
    let mut seen = HashSet::with_hasher(RandomState::default());
    keys.retain(|key| seen.insert(*key));
    let mut runs = Vec::with_capacity(keys.len() * 2);
    for key in keys {
        runs.push(Run::Stored { key, superseded: false });
        if history {
            runs.push(Run::Stored { key, superseded: true });
        }
        let recent = |segment: &Arc<Segment>| Run::Recent { key, segment: segment.clone() };
        runs.extend(view.segments.iter().map(recent));
    }
    Ok(runs)
}

fn resolve_one(conn: &Connection, view: &View, source: &Source, keys: &mut Vec<Key>) -> Result<()> {
    match source {
        Source::Tag { ns, name, value } => {
            keys.push(Key::Tag { tag: tag_hash(ns, name, value) });
        }
        Source::Kind { ns, kind } => {
            let Some(ns) = find_namespace(conn, ns)? else { return Ok(()) };
            let with = |kind| Key::Kind { ns, kind };
            match kind {
                Some(kind) => keys.push(with(i64::from(*kind))),
                None => {
                    let sql = "SELECT min(kind) FROM events_by_kind WHERE ns = ?1 AND kind > ?2";
                    add_kinds(conn, view, sql, &[ns], with, keys)?;
                }
            }
        }
        Source::Author { ns, author, kind } => {
            let (Some(ns), Some(author)) = (find_namespace(conn, ns)?, find_author(conn, author)?)
            else {
                return Ok(());
            };
            let with = |kind| Key::Author { ns, author, kind };
            match kind {
                Some(kind) => keys.push(with(i64::from(*kind))),
                None => {
                    let sql = "SELECT min(kind) FROM events_by_author
                               WHERE ns = ?1 AND author = ?2 AND kind > ?3";
                    add_kinds(conn, view, sql, &[ns, author], with, keys)?;
                }
            }
        }
    }
    Ok(())
}

/// The distinct kinds below a prefix of an index, found by jumping from one to the next.
fn add_kinds(
    conn: &Connection,
    view: &View,
    sql: &str,
    prefix: &[i64],
    with: impl Fn(i64) -> Key,
    keys: &mut Vec<Key>,
) -> Result<()> {
    let mut next = conn.prepare_cached(sql)?;
    let mut last = -1;
    loop {
        let values = prefix.iter().copied().chain([last]);
        match next.query_row(params_from_iter(values), |row| row.get::<_, Option<i64>>(0))? {
            Some(kind) => last = kind,
            None => break,
        }
        keys.push(with(last));
    }
    for segment in &view.segments {
        let mut last = -1;
        while let Some(kind) = segment.kind_after(last, &with) {
            keys.push(with(kind));
            last = kind;
        }
    }
    Ok(())
}
