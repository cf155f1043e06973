//! Events about subjects, and how many there are.

use std::collections::BTreeSet;

use bytes::Bytes;
use relay_proto::polycentric::Subject;

use super::{
    SocialEvent,
    deltas::{ANY_TYPE, Counted, kept_value},
    read::by_seq,
};
use crate::{
    error::Result,
    sql::{Sql, args},
};

/// Content types that are looked through where a question names none.
const MAX_TYPES: i64 = 64;
/// Entries that an answer may skip; beyond it there is none.
const MAX_OFFSET: u64 = 100_000;

/// Asks for a page of events about any of the subjects, best liked first, then newest first.
#[derive(Debug, Clone)]
pub struct RefsQuery {
    pub subjects: Vec<Subject>,
    pub from_type: Option<u64>,
    pub offset: u64,
    pub limit: usize,
}

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Count {
    /// Events.
    References { from_type: Option<u64> },
    /// Systems whose newest value equals this one, each once for every content type.
    Values { value: Bytes, from_type: Option<u64> },
}

pub(super) async fn page<S: Sql>(sql: &S, query: RefsQuery) -> Result<Vec<SocialEvent>> {
    if query.offset > MAX_OFFSET {
        return Ok(Vec::new());
    }
    let reach = query.offset + query.limit as u64;
    let mut found: BTreeSet<(i64, i64)> = BTreeSet::new();
    for subject in &query.subjects {
        let types = match query.from_type {
            Some(from_type) => vec![i64::try_from(from_type).unwrap_or(i64::MAX)],
            None => types_of(sql, *subject).await?,
        };
        for from_type in types {
            let rows = sql
                .rows(
                    "SELECT score, seq FROM social_refs WHERE subject = ?1 AND from_type = ?2
                     ORDER BY score DESC, seq DESC LIMIT ?3",
                    args![subject.as_bytes(), from_type, reach],
                )
                .await?;
            for row in rows {
                // An event about two of the subjects comes once.
                found.insert((row.int(0)?, row.int(1)?));
            }
        }
    }
    let page = found.into_iter().rev().skip(query.offset as usize).take(query.limit);
    let mut events = Vec::with_capacity(query.limit);
    for (_, seq) in page {
        events.extend(by_seq(sql, seq).await?);
    }
    Ok(events)
}

async fn types_of<S: Sql>(sql: &S, subject: Subject) -> Result<Vec<i64>> {
    let rows = sql
        .rows(
            "SELECT from_type FROM social_counts WHERE subject = ?1 AND kind = 0 AND from_type >= 0
             ORDER BY from_type LIMIT ?2",
            args![subject.as_bytes(), MAX_TYPES],
        )
        .await?;
    rows.iter().map(|row| row.int(0)).collect()
}

pub(super) async fn counts<S: Sql>(sql: &S, asked: Vec<(Vec<Subject>, Count)>) -> Result<Vec<u64>> {
    let mut counts = Vec::with_capacity(asked.len());
    for (subjects, count) in asked {
        let (counted, from_type, value) = match count {
            Count::References { from_type } => (Counted::References, from_type, Bytes::new()),
            Count::Values { value, from_type } => (Counted::Votes, from_type, kept_value(&value)),
        };
        let from_type =
            from_type.map_or(ANY_TYPE, |from_type| i64::try_from(from_type).unwrap_or(i64::MAX));
        let mut sum = 0;
        for subject in subjects {
            let rows = sql
                .rows(
                    "SELECT n FROM social_counts
                     WHERE subject = ?1 AND kind = ?2 AND from_type = ?3 AND value = ?4",
                    args![subject.as_bytes(), counted as i64, from_type, &value],
                )
                .await?;
            sum += rows.first().map_or(Ok(0), |row| row.int(0))?.max(0) as u64;
        }
        counts.push(sum);
    }
    Ok(counts)
}
