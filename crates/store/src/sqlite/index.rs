//! Index tables that follow the log (ADR 8).
//!
//! A commit writes events to the log alone; their index entries, of which nearly each would touch a page of its own,
//! are kept in memory. When there are enough of them they are frozen and written in the order of the tables, some with
//! each transaction, while new ones are collected. `indexed_seq` in `meta` says up to where the tables are complete; a
//! start reads the log after it.
//!
//! A reader takes a [`View`] first and its snapshot of the database second. Entries leave memory only after they are
//! committed to the tables, so an event of the view is then found in memory, in the tables, or in both.
//!
//! Only events that nothing but retention can change are treated so. Those that can be superseded or expire have their
//! entries written with them.

mod entries;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ahash::RandomState;
use relay_proto::{Event, event::Class};
use rusqlite::{CachedStatement, Connection, params};

pub(super) use entries::{Entry, Key, Segment, entries_of};

use super::migrate::{meta, set_meta};
use crate::{
    error::{Result, StoreError},
    schema::INDEXED_SEQ,
};

/// Events whose entries are collected before they are written. More would mean fewer pages for each, but more
/// memory (about half a KiB an event, twice as many events at most) and a longer start after a crash.
pub(super) const DEFAULT_EVERY: usize = 8_192;
/// Entries written with a transaction at least, so that frozen ones do not stay for ever.
const MIN_SLICE: usize = 64;

/// Whether an event's entries may be written later than the event.
pub(super) fn is_deferred(event: &Event) -> bool {
    event.class() == Class::Normal && event.expires_at_s().is_none()
}

/// What is in memory, shared by the writer and the readers.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Being written, if anything is; then being collected.
    segments: Vec<Arc<Segment>>,
    /// The tables are complete up to here.
    indexed_seq: u64,
    /// Tables and memory together are complete up to here.
    through_seq: u64,
    /// Deleted, perhaps, before their entries were written.
    doubtful: HashSet<u64, RandomState>,
}

/// What is in memory at one moment.
#[derive(Debug)]
pub(super) struct View {
    pub segments: Vec<Arc<Segment>>,
    /// Tables and memory together are complete up to here.
    pub through_seq: u64,
}

impl View {
    /// Events that may have the id: the caller looks at their rows.
    pub fn seqs_of_id(&self, prefix: i64) -> impl Iterator<Item = u64> {
        self.segments.iter().flat_map(move |segment| segment.seqs(Key::Id { prefix }))
    }
}

impl Recent {
    pub fn view(&self) -> View {
        let state = self.state();
        View { segments: state.segments.clone(), through_seq: state.through_seq }
    }

    /// Has the row looked at before its entries are written: it is about to be deleted.
    pub fn doubt(&self, seq: u64) {
        let mut state = self.state();
        if seq > state.indexed_seq {
            state.doubtful.insert(seq);
        }
    }

    fn doubtful(&self) -> HashSet<u64, RandomState> {
        self.state().doubtful.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writer's side.
#[derive(Debug)]
pub(super) struct IndexWriter {
    recent: Arc<Recent>,
    every: usize,
    collecting: Arc<Segment>,
    /// Events in `collecting`, and the `seq` of the last of all events.
    collected: usize,
    through_seq: u64,
    frozen: Option<Frozen>,
    staged: Staged,
}

/// A segment on its way into the tables.
#[derive(Debug)]
struct Frozen {
    segment: Arc<Segment>,
    through_seq: u64,
    /// Entries to write for each event that comes in: at this pace the segment is done before the next is full.
    pace: usize,
    /// The last entry written.
    written: Option<Entry>,
}

/// What becomes true with the commit of the running transaction.
#[derive(Debug, Default)]
struct Staged {
    entries: Vec<Entry>,
    events: usize,
    through_seq: u64,
    written: Option<Entry>,
    /// The frozen segment is in the tables as a whole.
    done: bool,
}

impl IndexWriter {
    /// Completes the tables up to the last `every` events and takes these into memory.
    ///
    /// # Errors
    /// The log cannot be read or the tables cannot be written.
    pub fn open(conn: &Connection, every: usize) -> Result<Self> {
        let mut through_seq = meta(conn, INDEXED_SEQ)?.unwrap_or(0) as u64;
        let every = every.max(1);
        loop {
            let tail = read_tail(conn, through_seq, every)?;
            if tail.rows < every {
                return Ok(Self::new(every, tail, through_seq));
            }
            through_seq = tail.through_seq;
            let transaction = conn.unchecked_transaction()?;
            write_entries(conn, &tail.entries, &HashSet::default())?;
            set_meta(conn, INDEXED_SEQ, through_seq as i64)?;
            transaction.commit()?;
        }
    }

    fn new(every: usize, tail: Tail, indexed_seq: u64) -> Self {
        let collecting = Arc::new(Segment::default());
        collecting.extend(tail.entries);
        let through_seq = tail.through_seq;
        let segments = vec![collecting.clone()];
        let state = State { segments, indexed_seq, through_seq, ..State::default() };
        Self {
            recent: Arc::new(Recent(Mutex::new(state))),
            every,
            collecting,
            collected: tail.events,
            through_seq,
            frozen: None,
            staged: Staged::default(),
        }
    }

    pub fn recent(&self) -> &Arc<Recent> {
        &self.recent
    }

    /// Events that may have the id: the caller looks at their rows.
    pub fn seqs_of_id(&self, prefix: i64) -> impl Iterator<Item = u64> {
        let frozen = self.frozen.as_ref().map(|frozen| &frozen.segment);
        let segments = frozen.into_iter().chain([&self.collecting]);
        segments.flat_map(move |segment| segment.seqs(Key::Id { prefix }))
    }

    /// Takes a new event of the running transaction: into memory, or into the tables where it must not wait.
    pub fn add(&mut self, conn: &Connection, event: &Event, place: Place) -> Result<()> {
        self.staged.through_seq = place.seq;
        let numbers = (place.ns, place.author);
        if is_deferred(event) {
            self.staged.events += 1;
            entries_of(event, place.seq, numbers, &mut self.staged.entries);
            return Ok(());
        }
        let mut entries = Vec::new();
        entries_of(event, place.seq, numbers, &mut entries);
        let mut tables = Tables::prepare(conn)?;
        entries.iter().try_for_each(|entry| tables.write(entry, place.superseded))
    }

    /// Writes a part of what is frozen, as large as the transaction's part in what is being collected.
    pub fn write_some(&mut self, conn: &Connection) -> Result<()> {
        let Some(frozen) = &self.frozen else { return Ok(()) };
        let limit = (frozen.pace * self.staged.events).max(MIN_SLICE);
        let slice = frozen.segment.beyond(frozen.written, limit);
        write_entries(conn, &slice, &self.recent.doubtful())?;
        self.staged.written = slice.last().copied();
        if slice.len() < limit {
            set_meta(conn, INDEXED_SEQ, frozen.through_seq as i64)?;
            self.staged.done = true;
        }
        Ok(())
    }

    /// The transaction is committed: what it wrote can be found, and what is in the tables leaves memory.
    pub fn committed(&mut self) {
        let mut staged = std::mem::take(&mut self.staged);
        staged.entries.sort_unstable();
        self.collecting.extend(staged.entries);
        self.collected += staged.events;
        self.through_seq = self.through_seq.max(staged.through_seq);
        let mut indexed_seq = None;
        if staged.done {
            indexed_seq = self.frozen.take().map(|frozen| frozen.through_seq);
        } else if let (Some(frozen), Some(written)) = (&mut self.frozen, staged.written) {
            frozen.written = Some(written);
        }
        if self.frozen.is_none() && self.collected >= self.every {
            self.freeze();
        }
        self.publish(indexed_seq);
    }

    /// The transaction is undone.
    pub fn rolled_back(&mut self) {
        self.staged = Staged::default();
    }

    /// Writes everything that is in memory, so that the next start need not read the log.
    pub fn settle(&mut self, conn: &Connection) -> Result<()> {
        let doubtful = self.recent.doubtful();
        if let Some(frozen) = &self.frozen {
            write_entries(conn, &frozen.segment.beyond(frozen.written, usize::MAX), &doubtful)?;
        }
        write_entries(conn, &self.collecting.beyond(None, usize::MAX), &doubtful)?;
        set_meta(conn, INDEXED_SEQ, self.through_seq as i64)
    }

    fn freeze(&mut self) {
        let segment = std::mem::take(&mut self.collecting);
        let pace = (segment.len() * 3).div_ceil(self.collected.max(1) * 2);
        self.collected = 0;
        self.frozen = Some(Frozen { segment, through_seq: self.through_seq, pace, written: None });
    }

    /// Shows the readers what is in memory now.
    fn publish(&self, indexed_seq: Option<u64>) {
        let frozen = self.frozen.as_ref().map(|frozen| frozen.segment.clone());
        let mut state = self.recent.state();
        state.segments = frozen.into_iter().chain([self.collecting.clone()]).collect();
        state.through_seq = self.through_seq;
        if let Some(indexed_seq) = indexed_seq {
            state.indexed_seq = indexed_seq;
            state.doubtful.retain(|&seq| seq > indexed_seq);
        }
    }
}

/// An event's place in the log, as far as indexes need it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub seq: u64,
    /// Numbers of namespace and author.
    pub ns: i64,
    pub author: i64,
    pub superseded: bool,
}

/// What the log holds beyond the tables.
struct Tail {
    entries: Vec<Entry>,
    rows: usize,
    /// Of the rows, those whose entries may be written later.
    events: usize,
    through_seq: u64,
}

fn read_tail(conn: &Connection, after: u64, limit: usize) -> Result<Tail> {
    let mut tail = Tail { entries: Vec::new(), rows: 0, events: 0, through_seq: after };
    let mut select = conn
        .prepare("SELECT seq, ns, author, json FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
    let mut rows = select.query(params![after as i64, limit as i64])?;
    while let Some(row) = rows.next()? {
        let seq = row.get::<_, i64>(0)? as u64;
        let json: Vec<u8> = row.get(3)?;
        let event = Event::from_stored(json.into())
            .map_err(|error| StoreError::Corrupt(format!("event {seq}: {error}")))?;
        tail.rows += 1;
        tail.through_seq = seq;
        if is_deferred(&event) {
            tail.events += 1;
            entries_of(&event, seq, (row.get(1)?, row.get(2)?), &mut tail.entries);
        }
    }
    tail.entries.sort_unstable();
    Ok(tail)
}

/// Writes entries of events that are not superseded, leaving out those that were deleted meanwhile.
fn write_entries(
    conn: &Connection,
    entries: &[Entry],
    doubtful: &HashSet<u64, RandomState>,
) -> Result<()> {
    let mut tables = Tables::prepare(conn)?;
    for entry in entries {
        if doubtful.is_empty() || !doubtful.contains(&entry.seq) || is_stored(conn, entry.seq)? {
            tables.write(entry, false)?;
        }
    }
    Ok(())
}

/// Adds to the index tables.
pub(super) struct Tables<'a> {
    ids: CachedStatement<'a>,
    authors: CachedStatement<'a>,
    kinds: CachedStatement<'a>,
    tags: CachedStatement<'a>,
}

impl<'a> Tables<'a> {
    pub fn prepare(conn: &'a Connection) -> Result<Self> {
        let add = |table: &str| conn.prepare_cached(&format!("INSERT OR IGNORE INTO {table}"));
        Ok(Self {
            ids: add("event_ids VALUES (?1, ?2)")?,
            authors: add("events_by_author VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?,
            kinds: add("events_by_kind VALUES (?1, ?2, ?3, ?4, ?5)")?,
            tags: add("event_tags VALUES (?1, ?2, ?3, ?4)")?,
        })
    }

    /// Writes one entry; one that is there already stays.
    pub fn write(&mut self, entry: &Entry, superseded: bool) -> Result<()> {
        let (created_at_ns, seq) = (entry.created_at_ns as i64, entry.seq as i64);
        match entry.key {
            Key::Id { prefix } => self.ids.execute(params![prefix, seq])?,
            Key::Author { ns, author, kind } => {
                self.authors.execute(params![ns, author, kind, superseded, created_at_ns, seq])?
            }
            Key::Kind { ns, kind } => {
                self.kinds.execute(params![ns, kind, superseded, created_at_ns, seq])?
            }
            Key::Tag { tag } => self.tags.execute(params![tag, superseded, created_at_ns, seq])?,
        };
        Ok(())
    }
}

/// Deletes one entry from its table.
pub(super) fn delete_entry(conn: &Connection, entry: &Entry, superseded: bool) -> Result<()> {
    let (created_at_ns, seq) = (entry.created_at_ns as i64, entry.seq as i64);
    match entry.key {
        Key::Id { prefix } => conn
            .prepare_cached("DELETE FROM event_ids WHERE id_prefix = ?1 AND seq = ?2")?
            .execute(params![prefix, seq])?,
        Key::Author { ns, author, kind } => conn
            .prepare_cached(
                "DELETE FROM events_by_author WHERE ns = ?1 AND author = ?2 AND kind = ?3
                 AND superseded = ?4 AND created_at_ns = ?5 AND seq = ?6",
            )?
            .execute(params![ns, author, kind, superseded, created_at_ns, seq])?,
        Key::Kind { ns, kind } => conn
            .prepare_cached(
                "DELETE FROM events_by_kind WHERE ns = ?1 AND kind = ?2
                 AND superseded = ?3 AND created_at_ns = ?4 AND seq = ?5",
            )?
            .execute(params![ns, kind, superseded, created_at_ns, seq])?,
        Key::Tag { tag } => conn
            .prepare_cached(
                "DELETE FROM event_tags WHERE tag = ?1 AND superseded = ?2
                 AND created_at_ns = ?3 AND seq = ?4",
            )?
            .execute(params![tag, superseded, created_at_ns, seq])?,
    };
    Ok(())
}

fn is_stored(conn: &Connection, seq: u64) -> Result<bool> {
    Ok(conn.prepare_cached("SELECT 1 FROM events WHERE seq = ?1")?.exists([seq as i64])?)
}

/// Fills the index tables anew from a log that was copied, except for tags, which are copied as they are.
pub(super) fn rebuild(conn: &Connection) -> Result<()> {
    Ok(conn.execute_batch(
        "BEGIN IMMEDIATE;
         INSERT OR IGNORE INTO event_ids SELECT id_prefix, seq FROM events ORDER BY id_prefix, seq;
         INSERT OR IGNORE INTO events_by_author
             SELECT ns, author, kind, superseded, created_at_ns, seq FROM events
             ORDER BY ns, author, kind, superseded, created_at_ns, seq;
         INSERT OR IGNORE INTO events_by_kind
             SELECT ns, kind, superseded, created_at_ns, seq FROM events
             ORDER BY ns, kind, superseded, created_at_ns, seq;
         INSERT OR REPLACE INTO meta (key, value)
             SELECT 'indexed_seq', coalesce(max(seq), 0) FROM events;
         COMMIT",
    )?)
}
