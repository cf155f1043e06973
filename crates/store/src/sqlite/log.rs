//! Writing the event log: lookups and rows of one group transaction.

use std::collections::HashMap;

use ahash::RandomState;
use relay_proto::{Event, EventId, Namespace};
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::{
    dictionary::Dictionary,
    index::{IndexWriter, Place, Recent, Tables, delete_entry, entries_of},
};
use crate::{
    batch::{Batch, Coordinate, Head},
    error::{Result, StoreError},
    event::Committed,
};

/// Finds events by id.
pub(super) struct FindId<'a> {
    by_id: CachedStatement<'a>,
    by_seq: CachedStatement<'a>,
}

impl<'a> FindId<'a> {
    pub fn prepare(conn: &'a Connection) -> Result<Self> {
        Ok(Self {
            by_id: conn.prepare_cached(
                "SELECT event_ids.seq FROM event_ids CROSS JOIN events ON events.seq = event_ids.seq
                 WHERE event_ids.id_prefix = ?1 AND events.id = ?2",
            )?,
            by_seq: conn.prepare_cached("SELECT 1 FROM events WHERE seq = ?1 AND id = ?2")?,
        })
    }

    /// The `seq` of an event that is stored already; `recent` are those in memory that may have the id.
    pub fn find(&mut self, recent: impl Iterator<Item = u64>, id: &EventId) -> Result<Option<u64>> {
        for seq in recent {
            if self.by_seq.exists(params![seq as i64, id.as_bytes()])? {
                return Ok(Some(seq));
            }
        }
        let mut rows = self.by_id.query(params![id.prefix(), id.as_bytes()])?;
        Ok(rows.next()?.map(|row| row.get::<_, i64>(0)).transpose()?.map(|seq| seq as u64))
    }
}

/// The latest version of a coordinate.
pub(super) fn find_head(
    conn: &Connection,
    names: &mut Dictionary,
    coordinate: &Coordinate,
) -> Result<Option<Head>> {
    let ns = names.namespace(conn, &coordinate.namespace)?;
    let author = names.author(conn, &coordinate.author)?;
    let mut found = conn.prepare_cached(
        "SELECT seq, created_at_ns, id FROM heads
         WHERE author = ?1 AND kind = ?2 AND d = ?3 AND ns = ?4",
    )?;
    Ok(found
        .query_row(params![author, coordinate.kind, coordinate.d, ns], |row| {
            Ok(Head {
                seq: row.get::<_, i64>(0)? as u64,
                created_at_ns: row.get::<_, i64>(1)? as u64,
                id: EventId::from_bytes(row.get(2)?),
            })
        })
        .optional()?)
}

/// Looks up what the events of a batch meet in the store.
pub(super) fn look_up<'a>(
    conn: &Connection,
    names: &mut Dictionary,
    index: &IndexWriter,
    next_seq: u64,
    events: impl Iterator<Item = &'a Event>,
) -> Result<Batch> {
    let mut known = HashMap::with_hasher(RandomState::default());
    let mut heads = HashMap::with_hasher(RandomState::default());
    let mut ids = FindId::prepare(conn)?;
    for event in events {
        let id = event.id();
        if let Some(seq) = ids.find(index.seqs_of_id(id.prefix()), &id)? {
            known.insert(id, seq);
        }
        if let Some(coordinate) = Coordinate::of(event)
            && let Some(head) = find_head(conn, names, &coordinate)?
        {
            heads.insert(coordinate, head);
        }
    }
    Ok(Batch::new(next_seq, known, heads))
}

/// Writes everything that a batch decided.
pub(super) fn write(
    conn: &Connection,
    names: &mut Dictionary,
    index: &mut IndexWriter,
    batch: &Batch,
) -> Result<()> {
    for &seq in &batch.superseded {
        supersede(conn, seq)?;
    }
    let mut sums: HashMap<&Namespace, (i64, i64), RandomState> = HashMap::default();
    let mut log = conn.prepare_cached(
        "INSERT INTO events (seq, id, id_prefix, ns, author, kind, superseded,
                             created_at_ns, received_at_ns, expires_at_s, json)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    for row in &batch.rows {
        let event = &row.committed.event;
        let place = Place {
            seq: row.committed.seq,
            ns: names.namespace(conn, event.namespace())?,
            author: names.author(conn, &event.pubkey())?,
            superseded: row.superseded,
        };
        append(&mut log, &row.committed, place)?;
        index.add(conn, event, place)?;
        let sum = sums.entry(event.namespace()).or_default();
        sum.0 += 1;
        sum.1 += event.json().len() as i64;
    }
    for coordinate in &batch.moved {
        write_head(conn, names, batch, coordinate)?;
    }
    for (name, (events, bytes)) in sums {
        let n = names.namespace(conn, name)?;
        conn.prepare_cached(
            "UPDATE namespaces SET events = events + ?2, bytes = bytes + ?3 WHERE n = ?1",
        )?
        .execute(params![n, events, bytes])?;
    }
    index.write_some(conn)
}

fn append(log: &mut CachedStatement<'_>, committed: &Committed, place: Place) -> Result<()> {
    let event = &committed.event;
    let id = event.id();
    log.execute(params![
        place.seq as i64,
        id.as_bytes(),
        id.prefix(),
        place.ns,
        place.author,
        event.kind(),
        place.superseded,
        event.created_at_ns() as i64,
        committed.received_at_ns as i64,
        event.expires_at_s().map(|s| s as i64),
        &event.json()[..],
    ])?;
    Ok(())
}

fn write_head(
    conn: &Connection,
    names: &mut Dictionary,
    batch: &Batch,
    coordinate: &Coordinate,
) -> Result<()> {
    let Some(head) = batch.head(coordinate) else { return Ok(()) };
    conn.prepare_cached(
        "INSERT OR REPLACE INTO heads (ns, author, kind, d, seq, created_at_ns, id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        names.namespace(conn, &coordinate.namespace)?,
        names.author(conn, &coordinate.author)?,
        coordinate.kind,
        coordinate.d,
        head.seq as i64,
        head.created_at_ns as i64,
        head.id.as_bytes(),
    ])?;
    Ok(())
}

/// Moves an event that has been the latest to the old versions, in every index.
fn supersede(conn: &Connection, seq: u64) -> Result<()> {
    let Some((event, numbers)) = load_with_numbers(conn, seq)? else { return Ok(()) };
    conn.prepare_cached("UPDATE events SET superseded = 1 WHERE seq = ?1")?
        .execute([seq as i64])?;
    let mut entries = Vec::new();
    entries_of(&event, seq, numbers, &mut entries);
    let mut tables = Tables::prepare(conn)?;
    for entry in entries.iter().filter(|entry| entry.key.knows_superseded()) {
        delete_entry(conn, entry, false)?;
        tables.write(entry, true)?;
    }
    Ok(())
}

/// Reads one event whole.
pub(super) fn load(conn: &Connection, seq: u64) -> Result<Option<Event>> {
    let json: Option<Vec<u8>> = conn
        .prepare_cached("SELECT json FROM events WHERE seq = ?1")?
        .query_row([seq as i64], |row| row.get(0))
        .optional()?;
    json.map(|json| {
        Event::from_stored(json.into())
            .map_err(|error| StoreError::Corrupt(format!("event {seq}: {error}")))
    })
    .transpose()
}

/// Reads one event whole, with the numbers of its namespace and author.
fn load_with_numbers(conn: &Connection, seq: u64) -> Result<Option<(Event, (i64, i64))>> {
    let Some(event) = load(conn, seq)? else { return Ok(None) };
    let numbers = conn
        .prepare_cached("SELECT ns, author FROM events WHERE seq = ?1")?
        .query_row([seq as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Some((event, numbers)))
}

/// Deletes one event from every table; the caller keeps the sums.
pub(super) fn delete(conn: &Connection, recent: &Recent, seq: u64) -> Result<()> {
    let Some((event, numbers)) = load_with_numbers(conn, seq)? else { return Ok(()) };
    recent.doubt(seq);
    let mut entries = Vec::new();
    entries_of(&event, seq, numbers, &mut entries);
    for entry in &entries {
        delete_entry(conn, entry, false)?;
        if entry.key.knows_superseded() {
            delete_entry(conn, entry, true)?;
        }
    }
    conn.prepare_cached("DELETE FROM events WHERE seq = ?1")?.execute([seq as i64])?;
    Ok(())
}
