//! Writing the event log: lookups and rows of one group transaction.

use std::{collections::HashMap, fmt::Write as _};

use ahash::RandomState;
use futures_util::future::{LocalBoxFuture, join, join4};
use relay_proto::{Event, EventId, Namespace, NodeId};
use tokio_postgres::{Client, Row, Statement};

use super::pipeline::{Blob, Queued};
use crate::{
    batch::{Batch, Coordinate, Head},
    error::{Result, StoreError},
    tags::tag_hashes,
};

/// Authors remembered by the writer; beyond it the cache starts anew. 40 bytes each.
const MAX_AUTHORS: usize = 200_000;

/// Numbers of names, as the writer knows them.
#[derive(Debug, Default)]
pub(super) struct Names {
    namespaces: HashMap<Namespace, i32, RandomState>,
    authors: HashMap<NodeId, i32, RandomState>,
}

/// The prepared statements of the log.
pub(super) struct Statements {
    known: Statement,
    heads: Statement,
    add_namespaces: Statement,
    find_namespaces: Statement,
    add_authors: Statement,
    find_authors: Statement,
    supersede: Statement,
    events: Statement,
    tags: Statement,
    write_heads: Statement,
    sums: Statement,
}

impl Statements {
    pub async fn prepare(client: &Client) -> Result<Self> {
        Ok(Self {
            known: client
                .prepare(
                    "SELECT e.id, e.seq FROM unnest($1::bigint[], $2::bytea[]) AS wanted (prefix, id)
                     JOIN events e ON e.id_prefix = wanted.prefix AND e.id = wanted.id",
                )
                .await?,
            heads: client
                .prepare(
                    "SELECT wanted.at, h.seq, h.created_at_ns, h.id
                     FROM unnest($1::text[], $2::bytea[], $3::int[], $4::bytea[])
                         WITH ORDINALITY AS wanted (ns, author, kind, d, at)
                     JOIN namespaces n ON n.name = wanted.ns
                     JOIN authors a ON a.pubkey = wanted.author
                     JOIN heads h ON h.author = a.n AND h.kind = wanted.kind
                         AND h.d = wanted.d AND h.ns = n.n",
                )
                .await?,
            add_namespaces: client
                .prepare(
                    "INSERT INTO namespaces (name)
                     SELECT name FROM unnest($1::text[]) AS new (name)
                     WHERE NOT EXISTS (SELECT FROM namespaces known WHERE known.name = new.name)
                     ON CONFLICT DO NOTHING",
                )
                .await?,
            find_namespaces: client
                .prepare("SELECT name, n FROM namespaces WHERE name = ANY ($1::text[])")
                .await?,
            add_authors: client
                .prepare(
                    "INSERT INTO authors (pubkey)
                     SELECT pubkey FROM unnest($1::bytea[]) AS new (pubkey)
                     WHERE NOT EXISTS (SELECT FROM authors known WHERE known.pubkey = new.pubkey)
                     ON CONFLICT DO NOTHING",
                )
                .await?,
            find_authors: client
                .prepare("SELECT pubkey, n FROM authors WHERE pubkey = ANY ($1::bytea[])")
                .await?,
            supersede: client
                .prepare(
                    "WITH moved AS (
                         UPDATE events SET superseded = true WHERE seq = ANY ($1::bigint[])
                         RETURNING seq, created_at_ns, tags
                     )
                     UPDATE event_tags SET superseded = true
                     FROM (SELECT seq, created_at_ns, unnest(tags) AS tag FROM moved) AS old
                     WHERE event_tags.tag = old.tag AND event_tags.superseded = false
                         AND event_tags.created_at_ns = old.created_at_ns
                         AND event_tags.seq = old.seq",
                )
                .await?,
            events: client
                .prepare(
                    "INSERT INTO events (seq, id, id_prefix, ns, author, kind, superseded,
                         created_at_ns, received_at_ns, expires_at_s, tags, json)
                     SELECT seq, id, id_prefix, ns, author, kind, superseded,
                         created_at_ns, received_at_ns, expires_at_s, tags::bigint[], json
                     FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::int[], $5::int[], $6::int[],
                         $7::bool[], $8::bigint[], $9::bigint[], $10::bigint[], $11::text[], $12::bytea[])
                         AS new (seq, id, id_prefix, ns, author, kind, superseded,
                             created_at_ns, received_at_ns, expires_at_s, tags, json)",
                )
                .await?,
            tags: client
                .prepare(
                    "INSERT INTO event_tags (tag, superseded, created_at_ns, seq)
                     SELECT * FROM unnest($1::bigint[], $2::bool[], $3::bigint[], $4::bigint[])",
                )
                .await?,
            write_heads: client
                .prepare(
                    "INSERT INTO heads (ns, author, kind, d, seq, created_at_ns, id)
                     SELECT * FROM unnest($1::int[], $2::int[], $3::int[], $4::bytea[],
                         $5::bigint[], $6::bigint[], $7::bytea[])
                     ON CONFLICT (author, kind, d, ns) DO UPDATE SET seq = excluded.seq,
                         created_at_ns = excluded.created_at_ns, id = excluded.id",
                )
                .await?,
            sums: client
                .prepare(
                    "UPDATE namespaces SET events = namespaces.events + added.events,
                         bytes = namespaces.bytes + added.bytes
                     FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS added (n, events, bytes)
                     WHERE namespaces.n = added.n",
                )
                .await?,
        })
    }
}

/// Begins the transaction and looks up what the events of a batch meet in the store, in one round trip.
/// New names get their numbers.
pub(super) async fn look_up(
    client: &Client,
    begin: LocalBoxFuture<'_, Result<(), tokio_postgres::Error>>,
    statements: &Statements,
    names: &mut Names,
    next_seq: u64,
    events: &[Event],
) -> Result<Batch> {
    let prefixes: Vec<i64> = events.iter().map(|event| event.id().prefix()).collect();
    let event_ids: Vec<EventId> = events.iter().map(Event::id).collect();
    let ids: Vec<&[u8]> = event_ids.iter().map(|id| &id.as_bytes()[..]).collect();
    let wanted = Wanted::of(events);
    let known = async { client.query(&statements.known, &[&prefixes, &ids]).await };
    let (begun, known, heads, named) = join4(
        begin,
        known,
        wanted.heads(client, statements),
        names.number(client, statements, events),
    )
    .await;
    begun?;
    let mut stored = HashMap::with_capacity_and_hasher(events.len(), RandomState::default());
    for row in known? {
        stored.insert(EventId::from_bytes(bytes32(&row, 0)?), row.get::<_, i64>(1) as u64);
    }
    let heads = wanted.read(&heads?)?;
    names.learn(&named?)?;
    Ok(Batch::new(next_seq, stored, heads))
}

/// The distinct coordinates of a batch.
struct Wanted(Vec<Coordinate>);

impl Wanted {
    fn of(events: &[Event]) -> Self {
        let mut seen = std::collections::HashSet::with_hasher(RandomState::default());
        Self(events.iter().filter_map(Coordinate::of).filter(|c| seen.insert(c.clone())).collect())
    }

    async fn heads(
        &self,
        client: &Client,
        statements: &Statements,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        if self.0.is_empty() {
            return Ok(Vec::new());
        }
        let namespaces: Vec<&str> = self.0.iter().map(|c| c.namespace.as_str()).collect();
        let authors: Vec<&[u8]> = self.0.iter().map(|c| &c.author.as_bytes()[..]).collect();
        let kinds: Vec<i32> = self.0.iter().map(|c| i32::from(c.kind)).collect();
        let ds: Vec<&[u8]> = self.0.iter().map(|c| c.d.as_bytes()).collect();
        client.query(&statements.heads, &[&namespaces, &authors, &kinds, &ds]).await
    }

    fn read(self, rows: &[Row]) -> Result<HashMap<Coordinate, Head, RandomState>> {
        let mut heads = HashMap::with_hasher(RandomState::default());
        for row in rows {
            let at = row.get::<_, i64>(0) as usize;
            let head = Head {
                seq: row.get::<_, i64>(1) as u64,
                created_at_ns: row.get::<_, i64>(2) as u64,
                id: EventId::from_bytes(bytes32(row, 3)?),
            };
            if let Some(coordinate) = self.0.get(at.wrapping_sub(1)) {
                heads.insert(coordinate.clone(), head);
            }
        }
        Ok(heads)
    }
}

impl Names {
    /// After a rollback numbers that were given out may not exist.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Asks for the numbers of names that are not known yet.
    async fn number(
        &self,
        client: &Client,
        statements: &Statements,
        events: &[Event],
    ) -> Result<(Vec<Row>, Vec<Row>), tokio_postgres::Error> {
        let mut namespaces: Vec<&str> = events
            .iter()
            .filter(|event| !self.namespaces.contains_key(event.namespace()))
            .map(|event| event.namespace().as_str())
            .collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        let mut authors: Vec<NodeId> = events
            .iter()
            .map(Event::pubkey)
            .filter(|author| !self.authors.contains_key(author))
            .collect();
        authors.sort_unstable();
        authors.dedup();
        let authors: Vec<&[u8]> = authors.iter().map(|author| &author.as_bytes()[..]).collect();
        let namespaces = async {
            if namespaces.is_empty() {
                return Ok(Vec::new());
            }
            let (add, find) = (&statements.add_namespaces, &statements.find_namespaces);
            let (added, found) =
                join(client.execute(add, &[&namespaces]), client.query(find, &[&namespaces])).await;
            added.and(found)
        };
        let authors = async {
            if authors.is_empty() {
                return Ok(Vec::new());
            }
            let (add, find) = (&statements.add_authors, &statements.find_authors);
            let (added, found) =
                join(client.execute(add, &[&authors]), client.query(find, &[&authors])).await;
            added.and(found)
        };
        let (namespaces, authors) = join(namespaces, authors).await;
        Ok((namespaces?, authors?))
    }

    fn learn(&mut self, (namespaces, authors): &(Vec<Row>, Vec<Row>)) -> Result<()> {
        for row in namespaces {
            let name: &str = row.get(0);
            let name =
                name.parse().map_err(|_| StoreError::Corrupt(format!("namespace {name}")))?;
            self.namespaces.insert(name, row.get(1));
        }
        for row in authors {
            let key = NodeId::from_bytes(bytes32(row, 0)?)
                .map_err(|error| StoreError::Corrupt(error.to_string()))?;
            self.authors.insert(key, row.get(1));
        }
        Ok(())
    }

    /// Keeps the cache bounded; called between batches.
    pub fn trim(&mut self) {
        if self.authors.len() > MAX_AUTHORS {
            self.authors.clear();
        }
    }

    fn namespace(&self, name: &Namespace) -> Result<i32> {
        self.namespaces.get(name).copied().ok_or_else(|| unnumbered(name))
    }

    fn author(&self, key: &NodeId) -> Result<i32> {
        self.authors.get(key).copied().ok_or_else(|| unnumbered(key))
    }
}

fn unnumbered(name: &dyn std::fmt::Display) -> StoreError {
    StoreError::Database(format!("{name} has no number"))
}

/// The statements that write everything that a batch decided.
pub(super) fn write(statements: &Statements, names: &Names, batch: &Batch) -> Result<Vec<Queued>> {
    let mut queued = Vec::new();
    if !batch.superseded.is_empty() {
        let seqs: Vec<i64> = batch.superseded.iter().map(|&seq| seq as i64).collect();
        queued
            .push(Queued { statement: statements.supersede.clone(), values: vec![Box::new(seqs)] });
    }
    if !batch.rows.is_empty() {
        queued.extend(write_rows(statements, names, batch)?);
    }
    if !batch.moved.is_empty() {
        queued.push(write_heads(statements, names, batch)?);
    }
    Ok(queued)
}

/// The columns of new rows, one list each.
#[derive(Default)]
struct Columns {
    seqs: Vec<i64>,
    ids: Vec<Blob>,
    prefixes: Vec<i64>,
    namespaces: Vec<i32>,
    authors: Vec<i32>,
    kinds: Vec<i32>,
    superseded: Vec<bool>,
    created: Vec<i64>,
    received: Vec<i64>,
    expires: Vec<Option<i64>>,
    tags: Vec<String>,
    json: Vec<Blob>,
}

/// The columns of new tag rows.
#[derive(Default)]
struct TagColumns {
    tags: Vec<i64>,
    superseded: Vec<bool>,
    created: Vec<i64>,
    seqs: Vec<i64>,
}

fn write_rows(statements: &Statements, names: &Names, batch: &Batch) -> Result<Vec<Queued>> {
    let mut new = Columns::default();
    let mut tagged = TagColumns::default();
    let mut sums: HashMap<i32, (i64, i64), RandomState> = HashMap::default();
    for row in &batch.rows {
        let event = &row.committed.event;
        let (seq, created) = (row.committed.seq as i64, event.created_at_ns() as i64);
        let ns = names.namespace(event.namespace())?;
        let mut hashes: Vec<i64> = tag_hashes(event).collect();
        hashes.sort_unstable();
        hashes.dedup();
        for &tag in &hashes {
            tagged.tags.push(tag);
            tagged.superseded.push(row.superseded);
            tagged.created.push(created);
            tagged.seqs.push(seq);
        }
        let sum = sums.entry(ns).or_default();
        sum.0 += 1;
        sum.1 += event.json().len() as i64;
        new.seqs.push(seq);
        new.ids.push(Blob(bytes::Bytes::copy_from_slice(event.id().as_bytes())));
        new.prefixes.push(event.id().prefix());
        new.namespaces.push(ns);
        new.authors.push(names.author(&event.pubkey())?);
        new.kinds.push(i32::from(event.kind()));
        new.superseded.push(row.superseded);
        new.created.push(created);
        new.received.push(row.committed.received_at_ns as i64);
        new.expires.push(event.expires_at_s().map(|s| s as i64));
        new.tags.push(array(&hashes));
        new.json.push(Blob(event.json().clone()));
    }
    let mut queued = vec![Queued {
        statement: statements.events.clone(),
        values: vec![
            Box::new(new.seqs),
            Box::new(new.ids),
            Box::new(new.prefixes),
            Box::new(new.namespaces),
            Box::new(new.authors),
            Box::new(new.kinds),
            Box::new(new.superseded),
            Box::new(new.created),
            Box::new(new.received),
            Box::new(new.expires),
            Box::new(new.tags),
            Box::new(new.json),
        ],
    }];
    if !tagged.tags.is_empty() {
        queued.push(Queued {
            statement: statements.tags.clone(),
            values: vec![
                Box::new(tagged.tags),
                Box::new(tagged.superseded),
                Box::new(tagged.created),
                Box::new(tagged.seqs),
            ],
        });
    }
    let (numbers, added): (Vec<i32>, Vec<(i64, i64)>) = sums.into_iter().unzip();
    let (events, bytes): (Vec<i64>, Vec<i64>) = added.into_iter().unzip();
    queued.push(Queued {
        statement: statements.sums.clone(),
        values: vec![Box::new(numbers), Box::new(events), Box::new(bytes)],
    });
    Ok(queued)
}

fn write_heads(statements: &Statements, names: &Names, batch: &Batch) -> Result<Queued> {
    // A head may have moved more than once; one statement writes each row once.
    let mut moved: Vec<&Coordinate> = batch.moved.iter().collect();
    let mut seen = std::collections::HashSet::with_hasher(RandomState::default());
    moved.retain(|coordinate| seen.insert(*coordinate));
    let (mut namespaces, mut authors, mut kinds, mut ds) = (vec![], vec![], vec![], vec![]);
    let (mut seqs, mut created, mut ids) = (vec![], vec![], vec![]);
    for coordinate in moved {
        let Some(head) = batch.head(coordinate) else { continue };
        namespaces.push(names.namespace(&coordinate.namespace)?);
        authors.push(names.author(&coordinate.author)?);
        kinds.push(i32::from(coordinate.kind));
        ds.push(coordinate.d.clone().into_bytes());
        seqs.push(head.seq as i64);
        created.push(head.created_at_ns as i64);
        ids.push(head.id.as_bytes().to_vec());
    }
    Ok(Queued {
        statement: statements.write_heads.clone(),
        values: vec![
            Box::new(namespaces),
            Box::new(authors),
            Box::new(kinds),
            Box::new(ds),
            Box::new(seqs),
            Box::new(created),
            Box::new(ids),
        ],
    })
}

/// A list of numbers as PostgreSQL writes it; lists of lists cannot be handed over otherwise.
pub(crate) fn array<T: std::fmt::Display>(numbers: &[T]) -> String {
    let mut text = String::with_capacity(2 + numbers.len() * 20);
    text.push('{');
    for (index, number) in numbers.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(text, "{comma}{number}");
    }
    text.push('}');
    text
}

pub(super) fn bytes32(row: &Row, column: usize) -> Result<[u8; 32]> {
    row.get::<_, &[u8]>(column)
        .try_into()
        .map_err(|_| StoreError::Corrupt("a key or id is not 32 bytes long".into()))
}
