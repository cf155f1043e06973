//! What clients ask about a system, and explore, search, topics.

use std::collections::BTreeMap;

use bytes::Bytes;
use relay_proto::polycentric::{ModerationTag, ProcessId, Ranges, Subject, SystemKey, content};

use super::{
    IndexPage, IndexQuery, MAX_ANSWER_EVENTS, ModerationState, SocialEvent,
    admin::tags_of,
    stored,
    write::{NEXT, interval},
};
use crate::{
    error::Result,
    sql::{EMPTY, Row, Sql, Words, args, find_words},
};

/// Bytes after which an answer about clocks ends.
const MAX_ANSWER_BYTES: usize = 24 << 20;
/// Entries of one time that are kept together on a page.
const MAX_TIES: usize = 4_096;
const HOUR_MS: u64 = 3_600_000;

/// What makes a [`SocialEvent`]; joined with its notes where there are any.
pub(super) const EVENT: &str = "e.seq, e.unix_ms, e.raw, m.state, m.tags";
pub(super) const NOTES: &str = "LEFT JOIN social_moderation m ON m.seq = e.seq";

pub(super) fn event(row: &Row) -> Result<SocialEvent> {
    let (signature, bytes) = stored::split(&row.shared(2)?)?;
    let state = row.opt_int(3)?;
    let tags: Vec<ModerationTag> = if state.is_some() { tags_of(row.str(4)?) } else { Vec::new() };
    Ok(SocialEvent {
        seq: row.int(0)? as u64,
        signature,
        bytes,
        unix_ms: row.opt_int(1)?.map(|ms| ms as u64),
        tags,
        moderation: state.map(ModerationState::of),
    })
}

pub(super) async fn by_seq<S: Sql>(sql: &S, seq: i64) -> Result<Option<SocialEvent>> {
    let text = format!("SELECT {EVENT} FROM social_events e {NOTES} WHERE e.seq = ?1");
    sql.rows(&text, args![seq]).await?.first().map(event).transpose()
}

pub(super) async fn last_version<S: Sql>(sql: &S) -> Result<u64> {
    let rows = sql.rows("SELECT value FROM meta WHERE key = ?1", args![NEXT]).await?;
    Ok(rows.first().map_or(Ok(1), |row| row.int(0))?.saturating_sub(1) as u64)
}

pub(super) async fn version<S: Sql>(sql: &S, system: SystemKey) -> Result<Option<u64>> {
    let text = "SELECT version FROM social_systems WHERE key = ?1";
    let rows = sql.rows(text, args![system.as_bytes()]).await?;
    rows.first().map(|row| Ok(row.int(0)? as u64)).transpose()
}

pub(super) async fn subjects_version<S: Sql>(sql: &S, subjects: Vec<Subject>) -> Result<u64> {
    let mut newest = 0;
    for subject in subjects {
        let rows = sql
            .rows(
                "SELECT n FROM social_counts WHERE subject = ?1 AND kind = 2 AND from_type = -1
                 AND value = ?2",
                args![subject.as_bytes(), EMPTY],
            )
            .await?;
        newest = newest.max(rows.first().map_or(Ok(0), |row| row.int(0))? as u64);
    }
    Ok(newest)
}

/// A process of a system: its number, its name.
type Process = (i64, ProcessId);

async fn processes<S: Sql>(sql: &S, system: SystemKey) -> Result<Vec<Process>> {
    let rows = sql
        .rows(
            "SELECT p.n, p.process FROM social_systems s JOIN social_processes p ON p.system = s.n
             WHERE s.key = ?1 ORDER BY p.process",
            args![system.as_bytes()],
        )
        .await?;
    rows.iter().map(|row| Ok((row.int(0)?, ProcessId::from_bytes(row.array(1)?)))).collect()
}

pub(super) async fn ranges<S: Sql>(sql: &S, system: SystemKey) -> Result<Vec<(ProcessId, Ranges)>> {
    let mut all = Vec::new();
    for (n, process) in processes(sql, system).await? {
        let text = "SELECT low, high FROM social_ranges WHERE process = ?1 ORDER BY low";
        let rows = sql.rows(text, args![n]).await?;
        let intervals: Result<Vec<_>> = rows.iter().map(interval).collect();
        let ranges = Ranges::of(intervals?);
        if !ranges.is_empty() {
            all.push((process, ranges));
        }
    }
    Ok(all)
}

pub(super) async fn events<S: Sql>(
    sql: &S,
    system: SystemKey,
    wanted: Vec<(ProcessId, Ranges)>,
) -> Result<Vec<SocialEvent>> {
    let known: BTreeMap<ProcessId, i64> =
        processes(sql, system).await?.into_iter().map(|(n, process)| (process, n)).collect();
    let text = format!(
        "SELECT {EVENT} FROM social_events e {NOTES}
         WHERE e.process = ?1 AND e.clock >= ?2 AND e.clock <= ?3 ORDER BY e.clock LIMIT ?4"
    );
    let mut found = Vec::new();
    let mut bytes = 0;
    for (process, ranges) in wanted {
        let Some(&n) = known.get(&process) else { continue };
        for interval in ranges.intervals() {
            let room = (MAX_ANSWER_EVENTS - found.len()) as i64;
            if room == 0 || bytes > MAX_ANSWER_BYTES {
                return Ok(found);
            }
            let rows = sql.rows(&text, args![n, interval.low, interval.high, room]).await?;
            for row in &rows {
                let event = event(row)?;
                bytes += event.bytes.len();
                found.push(event);
            }
        }
    }
    Ok(found)
}

pub(super) async fn heads<S: Sql>(sql: &S, system: SystemKey) -> Result<Vec<SocialEvent>> {
    let text = format!(
        "SELECT {EVENT} FROM social_events e {NOTES}
         WHERE e.process = ?1 ORDER BY e.clock DESC LIMIT 1"
    );
    let mut heads = Vec::new();
    for (n, _) in processes(sql, system).await?.into_iter().take(MAX_ANSWER_EVENTS) {
        let rows = sql.rows(&text, args![n]).await?;
        heads.extend(rows.first().map(event).transpose()?);
    }
    Ok(heads)
}

pub(super) async fn latest<S: Sql>(
    sql: &S,
    system: SystemKey,
    types: Vec<u64>,
) -> Result<Vec<SocialEvent>> {
    let text = format!(
        "SELECT {EVENT} FROM social_events e {NOTES}
         WHERE e.process = ?1 AND e.content_type = ?2 ORDER BY e.clock DESC LIMIT 1"
    );
    let processes = processes(sql, system).await?;
    let mut latest = Vec::new();
    for content_type in types {
        for (n, _) in &processes {
            if latest.len() >= MAX_ANSWER_EVENTS {
                return Ok(latest);
            }
            let rows = sql.rows(&text, args![*n, content_type]).await?;
            latest.extend(rows.first().map(event).transpose()?);
        }
    }
    Ok(latest)
}

/// A place in a feed. The order of the fields is the order of the feed, backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    unix_ms: i64,
    process: ProcessId,
    clock: i64,
    /// The event to show there: the entry itself, or the Delete in its place.
    seq: i64,
}

/// The two tables that a feed is made of, with the same columns.
const FEED: [&str; 2] = ["social_events", "social_tombstones"];

pub(super) async fn index<S: Sql>(sql: &S, query: IndexQuery) -> Result<IndexPage> {
    let processes = processes(sql, query.system).await?;
    let content_type = query.content_type;
    let before = query.before_ms.map_or(i64::MAX, |ms| i64::try_from(ms).unwrap_or(i64::MAX));
    let limit = query.limit.clamp(1, MAX_ANSWER_EVENTS);
    let mut places = Vec::new();
    for process in &processes {
        places.extend(descending(sql, *process, content_type, before, limit as i64).await?);
    }
    places.sort_unstable_by(|a, b| b.cmp(a));
    if let Some(last) = places.get(limit - 1).copied()
        && places.len() >= limit
    {
        // The page ends inside a group of one time: the next page begins below it, so all of it belongs here.
        places.retain(|place| place.unix_ms > last.unix_ms);
        let mut ties = Vec::new();
        for process in &processes {
            ties.extend(of_time(sql, *process, content_type, last.unix_ms).await?);
        }
        ties.sort_unstable_by(|a, b| b.cmp(a));
        ties.truncate(MAX_TIES);
        places.extend(ties);
    }
    let mut page = IndexPage::default();
    let (Some(first), Some(last)) = (places.first().copied(), places.last().copied()) else {
        return Ok(page);
    };
    for place in &places {
        page.events.extend(by_seq(sql, place.seq).await?);
    }
    for process in &processes {
        if process.1 != first.process {
            let next = neighbour(sql, *process, content_type, first.unix_ms, true).await?;
            if let Some(place) = next {
                page.proof.extend(by_seq(sql, place.seq).await?);
            }
        }
        if process.1 != last.process {
            let next = neighbour(sql, *process, content_type, last.unix_ms, false).await?;
            if let Some(place) = next {
                page.proof.extend(by_seq(sql, place.seq).await?);
            }
        }
    }
    Ok(page)
}

async fn places<S: Sql>(
    sql: &S,
    process: Process,
    rest: &str,
    content_type: u64,
    unix_ms: i64,
    limit: i64,
) -> Result<Vec<Place>> {
    let mut found = Vec::new();
    for table in FEED {
        let text = format!(
            "SELECT unix_ms, clock, seq FROM {table}
             WHERE process = ?1 AND content_type = ?2 AND {rest} LIMIT ?4"
        );
        for row in sql.rows(&text, args![process.0, content_type, unix_ms, limit]).await? {
            let place = Place {
                unix_ms: row.int(0)?,
                process: process.1,
                clock: row.int(1)?,
                seq: row.int(2)?,
            };
            found.push(place);
        }
    }
    Ok(found)
}

async fn descending<S: Sql>(
    sql: &S,
    process: Process,
    content_type: u64,
    before: i64,
    limit: i64,
) -> Result<Vec<Place>> {
    let rest = "unix_ms < ?3 ORDER BY unix_ms DESC, clock DESC";
    places(sql, process, rest, content_type, before, limit).await
}

async fn of_time<S: Sql>(
    sql: &S,
    process: Process,
    content_type: u64,
    unix_ms: i64,
) -> Result<Vec<Place>> {
    let rest = "unix_ms = ?3 ORDER BY clock DESC";
    places(sql, process, rest, content_type, unix_ms, MAX_TIES as i64).await
}

/// The earliest entry of a process from a time on (`up`), or its newest up to it.
async fn neighbour<S: Sql>(
    sql: &S,
    process: Process,
    content_type: u64,
    unix_ms: i64,
    up: bool,
) -> Result<Option<Place>> {
    let rest = if up {
        "unix_ms >= ?3 ORDER BY unix_ms, clock"
    } else {
        "unix_ms <= ?3 ORDER BY unix_ms DESC, clock DESC"
    };
    let found = places(sql, process, rest, content_type, unix_ms, 1).await?;
    Ok(if up { found.into_iter().min() } else { found.into_iter().max() })
}

pub(super) async fn explore<S: Sql>(
    sql: &S,
    before: Option<(u64, u64)>,
    until_ms: u64,
    limit: usize,
) -> Result<Vec<SocialEvent>> {
    let (ms, seq) = before.unwrap_or((until_ms.saturating_add(1), 0));
    let text = format!(
        "SELECT {EVENT} FROM social_events e {NOTES}
         WHERE e.content_type = {} AND (e.unix_ms, e.seq) < (?1, ?2)
         ORDER BY e.unix_ms DESC, e.seq DESC LIMIT ?3",
        content::POST
    );
    sql.rows(&text, args![ms, seq, limit as u64]).await?.iter().map(event).collect()
}

pub(super) async fn search<S: Sql>(
    sql: &S,
    words: Words,
    text: String,
    offset: u64,
    limit: usize,
) -> Result<Vec<SocialEvent>> {
    let offset = i64::try_from(offset).unwrap_or(i64::MAX);
    let mut found = Vec::new();
    for seq in find_words(sql, words, &text, offset, limit as i64).await? {
        found.extend(by_seq(sql, seq).await?);
    }
    Ok(found)
}

pub(super) async fn topics<S: Sql>(
    sql: &S,
    since_ms: u64,
    until_ms: u64,
    limit: usize,
) -> Result<Vec<(Bytes, u64)>> {
    let rows = sql
        .rows(
            "SELECT topic, CAST(SUM(posts) AS BIGINT) AS posts FROM social_topics
             WHERE hour >= ?1 AND hour <= ?2
             GROUP BY topic ORDER BY 2 DESC, topic LIMIT ?3",
            args![since_ms / HOUR_MS, until_ms / HOUR_MS, limit as u64],
        )
        .await?;
    rows.iter().map(|row| Ok((row.shared(0)?, row.int(1)? as u64))).collect()
}
