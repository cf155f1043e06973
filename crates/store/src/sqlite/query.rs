//! Reading the event log: index runs merged in order, then rows.

use std::{
    collections::{BinaryHeap, HashSet, VecDeque},
    rc::Rc,
    sync::Arc,
};

use ahash::RandomState;
use relay_proto::{Event, Filter, Namespace, NodeId, Position};
use rusqlite::{
    CachedStatement, Connection, OptionalExtension, params, params_from_iter, types::Value,
};
use smallvec::{SmallVec, smallvec};

use super::{
    dictionary::{find_author, find_namespace},
    index::{Key, Segment, View},
    log::FindId,
};
use crate::{
    error::{Result, StoreError},
    event::{EventQuery, Order, Page, StoredEvent},
    plan::{Access, Part, Source, covered, plan},
    tags::tag_hash,
};

/// A run whose entries are all wanted anyway is sorted by `seq` if it is at most this long;
/// beyond it matches are so frequent that walking the log finds them sooner.
const SORTABLE: usize = 20_000;
/// Entries counted when choosing between alternatives.
const PROBE: usize = 2_000;
/// Rows fetched at once while counting.
const COUNTED_AT_ONCE: usize = 256;
/// Rows of the log looked at between two looks at the deadline.
const WALK_CHUNK: usize = 4_096;

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

/// A part with its sources as index runs.
struct Chosen {
    filter: Filter,
    runs: Vec<Run>,
    /// Found by id instead.
    seqs: Vec<u64>,
}

/// A contiguous stretch of one index, ordered by (time, seq), where it lies.
#[derive(Debug, Clone)]
enum Run {
    /// In the tables.
    Stored { key: Key, superseded: bool },
    /// In memory; never superseded.
    Recent { key: Key, segment: Arc<Segment> },
}

impl Run {
    fn is_stored(&self) -> bool {
        matches!(self, Self::Stored { .. })
    }

    /// Up to `limit` entries beyond `from`, in order.
    fn read(
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
pub(super) struct Window {
    pub since_ns: u64,
    pub until_ns: u64,
    pub descending: bool,
}

impl Window {
    const ALWAYS: Self = Self { since_ns: 0, until_ns: END_OF_TIME, descending: false };
}

const END_OF_TIME: u64 = i64::MAX as u64;

fn window(filter: &Filter, order: Order) -> Window {
    Window {
        since_ns: filter.since_ns.unwrap_or(0),
        until_ns: filter.until_ns.unwrap_or(END_OF_TIME),
        descending: order == Order::TimeDescending,
    }
}

/// Resolves names to numbers and takes the smaller of alternatives.
fn choose(
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

/// The runs of all parts as one, each event once.
struct Merge<'a> {
    conn: &'a Connection,
    lanes: Vec<Lane>,
    heap: BinaryHeap<Entry>,
    chunk: usize,
    last: Option<(u64, u64)>,
    /// The lane of the last entry: its next is not in the heap yet.
    taken: Option<usize>,
    descending: bool,
}

struct Lane {
    /// Where to read on when nothing is ahead; `None` where all was read.
    more: Option<Run>,
    window: Window,
    ahead: VecDeque<(u64, u64)>,
    /// The last place taken.
    last: Option<(u64, u64)>,
}

/// Greatest first: the time and seq, negated for ascending walks.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry(i128, usize, (u64, u64));

impl<'a> Merge<'a> {
    fn open(
        conn: &'a Connection,
        query: &EventQuery,
        parts: &[Chosen],
        wanted: usize,
    ) -> Result<Self> {
        let descending = query.order == Order::TimeDescending;
        let from = match query.from {
            Some(Position::AfterTime(ns, seq) | Position::BeforeTime(ns, seq)) => Some((ns, seq)),
            _ => None,
        };
        let total: usize = parts.iter().map(|part| part.runs.len()).sum();
        let stored = |part: &Chosen| part.runs.iter().filter(|run| run.is_stored()).count();
        let stored: usize = parts.iter().map(stored).sum();
        let chunk = (wanted * 2 / stored.max(1)).clamp(wanted.min(16), wanted);
        let mut merge = Self {
            conn,
            lanes: Vec::with_capacity(total),
            heap: BinaryHeap::with_capacity(total),
            chunk,
            last: None,
            taken: None,
            descending,
        };
        for part in parts {
            let window = window(&part.filter, query.order);
            for run in &part.runs {
                let ahead = run.read(conn, from, window, chunk)?;
                let more = (ahead.len() == chunk).then(|| run.clone());
                merge.lanes.push(Lane { more, window, ahead, last: from });
            }
            if !part.seqs.is_empty() {
                let ahead = merge.found_by_id(&part.seqs, from)?;
                merge.lanes.push(Lane { more: None, window, ahead, last: from });
            }
        }
        for lane in 0..merge.lanes.len() {
            merge.push(lane)?;
        }
        Ok(merge)
    }

    fn found_by_id(&self, seqs: &[u64], from: Option<(u64, u64)>) -> Result<VecDeque<(u64, u64)>> {
        let mut found = Vec::with_capacity(seqs.len());
        let mut time =
            self.conn.prepare_cached("SELECT created_at_ns FROM events WHERE seq = ?1")?;
        for &seq in seqs {
            let at: Option<i64> = time.query_row([seq as i64], |row| row.get(0)).optional()?;
            found.extend(at.map(|at| (at as u64, seq)));
        }
        found.sort_unstable();
        if self.descending {
            found.reverse();
            found.retain(|at| from.is_none_or(|from| *at < from));
        } else {
            found.retain(|at| from.is_none_or(|from| *at > from));
        }
        found.dedup();
        Ok(found.into())
    }

    /// Puts the next entry of a lane into the heap, reading on where nothing is ahead.
    fn push(&mut self, index: usize) -> Result<()> {
        let lane = &mut self.lanes[index];
        if lane.ahead.is_empty()
            && let Some(run) = &lane.more
        {
            lane.ahead = run.read(self.conn, lane.last, lane.window, self.chunk)?;
            if lane.ahead.len() < self.chunk {
                lane.more = None;
            }
        }
        if let Some(at) = lane.ahead.pop_front() {
            lane.last = Some(at);
            let rank = i128::from(at.0) << 64 | i128::from(at.1);
            self.heap.push(Entry(if self.descending { rank } else { -rank }, index, at));
        }
        Ok(())
    }

    /// Up to `count` further events, in order.
    fn take(&mut self, count: usize) -> Result<Vec<u64>> {
        let mut seqs = Vec::with_capacity(count);
        while seqs.len() < count
            && let Some((_, seq)) = self.next()?
        {
            seqs.push(seq);
        }
        Ok(seqs)
    }

    fn next(&mut self) -> Result<Option<(u64, u64)>> {
        loop {
            // Only when more is wanted: the last of a page need not be followed by anything.
            if let Some(lane) = self.taken.take() {
                self.push(lane)?;
            }
            let Some(Entry(_, lane, at)) = self.heap.pop() else { return Ok(None) };
            self.taken = Some(lane);
            if self.last.replace(at) != Some(at) {
                return Ok(Some(at));
            }
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

fn by_seq(conn: &Connection, query: &EventQuery, parts: &[Chosen], head: u64) -> Result<Page> {
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
