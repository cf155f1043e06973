//! Reading the event log: the plan's sources as runs, one statement a page.

use deadpool_postgres::Object;
use futures_util::future::try_join;
use relay_proto::{Event, Filter, Position};
use tokio_postgres::{GenericClient, Row, types::ToSql};

use super::{
    log::array,
    names::ReadNames,
    sql::{self, What},
};
use crate::{
    error::{Result, StoreError},
    event::{EventQuery, Order, Page, StoredEvent},
    plan::{Access, Part, Source, covered, plan},
    tags::tag_hash,
};

/// Runs that are together at most this long are sorted by `seq`; beyond it matches are so frequent that
/// walking the log finds them sooner. So does a cursor that is nearer to the end than this.
const SORTABLE: u64 = 20_000;
/// Entries counted when choosing between alternatives.
const PROBE: u64 = 2_000;
/// Rows asked for at a time when counting what the statement cannot tell for sure.
const COUNT_CHUNK: usize = 2_000;

const END_OF_TIME: u64 = i64::MAX as u64;

/// Answers one page.
pub(super) async fn page(client: &Object, names: &ReadNames, query: &EventQuery) -> Result<Page> {
    let parts = choose(client, names, query).await?;
    let runs: Vec<&Run> = parts.iter().flat_map(|part| &part.runs).collect();
    if runs.is_empty() {
        let head = head_seq(&***client).await?;
        return Ok(Page { through_seq: head, ..Page::default() });
    }
    let certain = parts.iter().all(|part| covered(&part.filter));
    let statement = client.prepare_cached(&sql::page(query.order)).await?;
    let columns = Columns::of(&runs);
    let mut at = start(query);
    let mut page = Page::default();
    let mut head = None;
    loop {
        let chunk = query.limit - page.events.len() + 1;
        let limit = chunk as i64;
        let now = query.now_s as i64;
        let mut values = columns.values();
        values.extend([&now as &(dyn ToSql + Sync), &at.0, &at.1, &limit]);
        // The head is asked for first: what the page then sees may be newer, but never older.
        let (newest, rows) =
            try_join(newest(client), async { Ok(client.query(&statement, &values).await?) })
                .await?;
        let head = *head.get_or_insert(newest);
        for row in &rows {
            let event = stored(row);
            at = (event.created_at_ns as i64, event.seq as i64);
            if !certain && !matches(&parts, &event)? {
                continue;
            }
            if page.events.len() == query.limit {
                page.next = page.events.last().map(|last| position(query.order, last));
                return Ok(page);
            }
            page.through_seq = event.seq;
            page.events.push(event);
        }
        if rows.len() < chunk {
            page.through_seq = page.through_seq.max(head);
            return Ok(page);
        }
    }
}

/// How many events match.
pub(super) async fn count(client: &Object, names: &ReadNames, query: &EventQuery) -> Result<u64> {
    let mut query = EventQuery { order: Order::TimeDescending, from: None, ..query.clone() };
    let parts = choose(client, names, &query).await?;
    let runs: Vec<&Run> = parts.iter().flat_map(|part| &part.runs).collect();
    if parts.iter().all(|part| covered(&part.filter)) {
        let statement = client.prepare_cached(&sql::count()).await?;
        let columns = Columns::of(&runs);
        let now = query.now_s as i64;
        let mut values = columns.values();
        values.push(&now);
        let counted: i64 = client.query_one(&statement, &values).await?.get(0);
        return Ok(counted as u64);
    }
    query.limit = COUNT_CHUNK;
    let mut count = 0;
    loop {
        let page = page(client, names, &query).await?;
        count += page.events.len() as u64;
        match page.next {
            Some(next) => query.from = Some(next),
            None => return Ok(count),
        }
    }
}

/// The `seq` of the newest event, 0 where there is none.
pub(super) async fn head_seq(client: &impl GenericClient) -> Result<u64> {
    let head: Option<i64> = client.query_one("SELECT max(seq) FROM events", &[]).await?.get(0);
    Ok(head.unwrap_or(0) as u64)
}

async fn newest(client: &Object) -> Result<u64> {
    let statement = client.prepare_cached("SELECT max(seq) FROM events").await?;
    let head: Option<i64> = client.query_one(&statement, &[]).await?.get(0);
    Ok(head.unwrap_or(0) as u64)
}

fn stored(row: &Row) -> StoredEvent {
    StoredEvent {
        seq: row.get::<_, i64>(0) as u64,
        created_at_ns: row.get::<_, i64>(1) as u64,
        json: bytes::Bytes::copy_from_slice(row.get(2)),
    }
}

fn matches(parts: &[Chosen], stored: &StoredEvent) -> Result<bool> {
    let event = Event::from_stored(stored.json.clone())
        .map_err(|error| StoreError::Corrupt(format!("event {}: {error}", stored.seq)))?;
    Ok(parts.iter().any(|part| part.filter.matches(&event)))
}

/// Time and `seq` that the page lies beyond.
fn start(query: &EventQuery) -> (i64, i64) {
    let time = matches!(query.order, Order::Time | Order::TimeDescending);
    match query.from {
        Some(Position::AfterTime(ns, seq) | Position::BeforeTime(ns, seq)) if time => {
            (ns as i64, seq as i64)
        }
        Some(Position::AfterSeq(seq) | Position::BeforeSeq(seq)) if !time => (0, seq as i64),
        _ => match query.order {
            Order::Time | Order::Seq => (-1, -1),
            Order::TimeDescending | Order::SeqDescending => (i64::MAX, i64::MAX),
        },
    }
}

fn position(order: Order, last: &StoredEvent) -> Position {
    match order {
        Order::Seq => Position::AfterSeq(last.seq),
        Order::SeqDescending => Position::BeforeSeq(last.seq),
        Order::Time => Position::AfterTime(last.created_at_ns, last.seq),
        Order::TimeDescending => Position::BeforeTime(last.created_at_ns, last.seq),
    }
}

/// A part with its sources as runs.
struct Chosen {
    filter: Filter,
    runs: Vec<Run>,
}

/// A stretch of an index, and what of the filter can be told of its rows at the server.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    what: What,
    ns: i32,
    author: i32,
    kind: i32,
    /// The tag's number, or the `seq` of an event.
    number: i64,
    superseded: bool,
    since: i64,
    until: i64,
    namespaces: Option<String>,
    authors: Option<String>,
    kinds: Option<String>,
    tags: Option<String>,
    more: Option<String>,
}

impl Run {
    fn new(what: What, filter: &Filter) -> Self {
        let time = |ns: u64| ns.min(END_OF_TIME) as i64;
        Self {
            what,
            ns: 0,
            author: 0,
            kind: 0,
            number: 0,
            superseded: false,
            since: time(filter.since_ns.unwrap_or(0)),
            until: time(filter.until_ns.unwrap_or(END_OF_TIME)),
            namespaces: None,
            authors: None,
            kinds: None,
            tags: None,
            more: None,
        }
    }
}

/// The runs as lists, the way they are handed over.
#[derive(Default)]
struct Columns<'a> {
    what: Vec<i16>,
    ns: Vec<i32>,
    author: Vec<i32>,
    kind: Vec<i32>,
    number: Vec<i64>,
    superseded: Vec<bool>,
    since: Vec<i64>,
    until: Vec<i64>,
    texts: [Vec<Option<&'a str>>; 5],
}

impl<'a> Columns<'a> {
    fn of(runs: &[&'a Run]) -> Self {
        let mut columns = Self::default();
        for run in runs {
            columns.what.push(run.what as i16);
            columns.ns.push(run.ns);
            columns.author.push(run.author);
            columns.kind.push(run.kind);
            columns.number.push(run.number);
            columns.superseded.push(run.superseded);
            columns.since.push(run.since);
            columns.until.push(run.until);
            let texts = [&run.namespaces, &run.authors, &run.kinds, &run.tags, &run.more];
            for (column, text) in columns.texts.iter_mut().zip(texts) {
                column.push(text.as_deref());
            }
        }
        columns
    }

    fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![
            &self.what,
            &self.ns,
            &self.author,
            &self.kind,
            &self.number,
            &self.superseded,
            &self.since,
            &self.until,
        ];
        values.extend(self.texts.iter().map(|column| column as &(dyn ToSql + Sync)));
        values
    }
}

/// Resolves names to numbers and takes the smaller of alternatives.
async fn choose(client: &Object, names: &ReadNames, query: &EventQuery) -> Result<Vec<Chosen>> {
    let mut chosen = Vec::new();
    for part in plan(query) {
        let Part { filter, access } = part;
        let runs = match access {
            Access::Ids(ids) => {
                let found = super::events::seqs_of(client, &ids).await?;
                let run = |seq: i64| Run {
                    number: seq,
                    superseded: query.history,
                    ..Run::new(What::Event, &filter)
                };
                found.into_iter().flatten().map(run).collect()
            }
            Access::Index(alternatives) => {
                cheapest(client, names, query, &filter, alternatives).await?
            }
        };
        chosen.push(Chosen { filter, runs });
    }
    Ok(chosen)
}

async fn cheapest(
    client: &Object,
    names: &ReadNames,
    query: &EventQuery,
    filter: &Filter,
    alternatives: Vec<Vec<Source>>,
) -> Result<Vec<Run>> {
    let by_seq = matches!(query.order, Order::Seq | Order::SeqDescending);
    if by_seq && near_the_end(client, query).await? {
        return Ok(walk(client, names, query, filter).await?.into_iter().collect());
    }
    let only = alternatives.len() == 1;
    let mut best: Option<(u64, Vec<Run>)> = None;
    for sources in alternatives {
        let runs = resolve(client, names, query, filter, &sources).await?;
        let size = match (only, by_seq) {
            (true, false) => 0,
            (_, true) => size(client, &runs, SORTABLE).await?,
            (false, false) => size(client, &runs, PROBE).await?,
        };
        if best.as_ref().is_none_or(|(least, _)| size < *least) {
            best = Some((size, runs));
        }
    }
    match best {
        Some((size, _)) if by_seq && size > SORTABLE => {
            Ok(walk(client, names, query, filter).await?.into_iter().collect())
        }
        Some((_, runs)) => Ok(runs),
        None => Ok(Vec::new()),
    }
}

async fn near_the_end(client: &Object, query: &EventQuery) -> Result<bool> {
    match (query.order, query.from) {
        (Order::Seq, Some(Position::AfterSeq(seq))) => {
            Ok(newest(client).await?.saturating_sub(seq) <= SORTABLE)
        }
        _ => Ok(false),
    }
}

/// How long the runs are together, counted no further than `limit` for each.
async fn size(client: &Object, runs: &[Run], limit: u64) -> Result<u64> {
    let statement = client.prepare_cached(&sql::sizes()).await?;
    let runs: Vec<&Run> = runs.iter().collect();
    let columns = Columns::of(&runs);
    let limit = limit as i64 + 1;
    let mut values = columns.values();
    values.truncate(6);
    values.push(&limit);
    let rows = client.query(&statement, &values).await?;
    Ok(rows.iter().map(|row| row.get::<_, i64>(1) as u64).sum())
}

/// The log itself, with everything that a row can be asked.
async fn walk(
    client: &Object,
    names: &ReadNames,
    query: &EventQuery,
    filter: &Filter,
) -> Result<Option<Run>> {
    let namespaces = names.namespaces(client, &filter.ns).await?;
    let authors = names.authors(client, &filter.authors).await?;
    if namespaces.is_empty() || authors.is_empty() && !filter.authors.is_empty() {
        return Ok(None);
    }
    let numbers: Vec<i32> = namespaces.values().copied().collect();
    let mut run = Run {
        superseded: query.history,
        namespaces: Some(array(&numbers)),
        ..Run::new(What::Log, filter)
    };
    if !filter.authors.is_empty() {
        run.authors = Some(array(&authors.values().copied().collect::<Vec<_>>()));
    }
    if !filter.kinds.is_empty() {
        run.kinds = Some(array(&filter.kinds));
    }
    let tags = conditions(filter, None, &filter.ns);
    (run.tags, run.more) = tags;
    Ok(Some(run))
}

/// The tag conditions beside `except`, at most two of them, as numbers. The rest is checked on the event.
fn conditions(
    filter: &Filter,
    except: Option<&str>,
    namespaces: &[relay_proto::Namespace],
) -> (Option<String>, Option<String>) {
    let mut found =
        filter.tags.iter().filter(|(name, _)| name != "ns" && Some(name.as_str()) != except).map(
            |(name, values)| {
                let hashes: Vec<i64> = namespaces
                    .iter()
                    .flat_map(|ns| values.iter().map(move |value| tag_hash(ns, name, value)))
                    .collect();
                array(&hashes)
            },
        );
    (found.next(), found.next())
}

async fn resolve(
    client: &Object,
    names: &ReadNames,
    query: &EventQuery,
    filter: &Filter,
    sources: &[Source],
) -> Result<Vec<Run>> {
    let namespaces = names.namespaces(client, &filter.ns).await?;
    let authors = names.authors(client, &filter.authors).await?;
    let mut runs: Vec<Run> = Vec::new();
    // Those that stand for every kind, by their place in `open`.
    let mut open: Vec<Run> = Vec::new();
    for source in sources {
        match source {
            Source::Tag { ns, name, value } => {
                let only = std::slice::from_ref(ns);
                let mut run =
                    Run { number: tag_hash(ns, name, value), ..Run::new(What::Tag, filter) };
                (run.tags, run.more) = conditions(filter, Some(name), only);
                if !filter.authors.is_empty() {
                    run.authors = Some(array(&authors.values().copied().collect::<Vec<_>>()));
                }
                if !filter.kinds.is_empty() {
                    run.kinds = Some(array(&filter.kinds));
                }
                runs.push(run);
            }
            Source::Author { ns, author, kind } => {
                let (Some(&n), Some(&author)) = (namespaces.get(ns), authors.get(author)) else {
                    continue;
                };
                let mut run = Run { ns: n, author, ..Run::new(What::Author, filter) };
                (run.tags, run.more) = conditions(filter, None, std::slice::from_ref(ns));
                match kind {
                    Some(kind) => runs.push(Run { kind: i32::from(*kind), ..run }),
                    None => open.push(run),
                }
            }
            Source::Kind { ns, kind } => {
                let Some(&n) = namespaces.get(ns) else { continue };
                let mut run = Run { ns: n, ..Run::new(What::Kind, filter) };
                (run.tags, run.more) = conditions(filter, None, std::slice::from_ref(ns));
                match kind {
                    Some(kind) => runs.push(Run { kind: i32::from(*kind), ..run }),
                    None => open.push(run),
                }
            }
        }
    }
    runs.extend(each_kind(client, &open).await?);
    if query.history {
        let old: Vec<Run> =
            runs.iter().map(|run| Run { superseded: true, ..run.clone() }).collect();
        runs.extend(old);
    }
    Ok(runs)
}

/// One run for each kind that there is.
async fn each_kind(client: &Object, open: &[Run]) -> Result<Vec<Run>> {
    if open.is_empty() {
        return Ok(Vec::new());
    }
    let namespaces: Vec<i32> = open.iter().map(|run| run.ns).collect();
    let authors: Vec<i32> = open.iter().map(|run| run.author).collect();
    let statement = client.prepare_cached(sql::KINDS).await?;
    let rows = client.query(&statement, &[&namespaces, &authors]).await?;
    let run = |row: &Row| {
        let at = row.get::<_, i64>(0) as usize;
        open.get(at.wrapping_sub(1)).map(|run| Run { kind: row.get(1), ..run.clone() })
    };
    Ok(rows.iter().filter_map(run).collect())
}
