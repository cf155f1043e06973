//! The most used topics, counted now and then: a client waits 200 ms for them.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use relay_proto::{
    Problem,
    polycentric::{AggregationBucket, ResultTopStringReferences, encode_param},
};

use super::Social;
use crate::failure::store_problem;

/// How long a list is good, milliseconds.
const GOOD_FOR_MS: u64 = 10_000;
/// Topics of a list, among which a question is looked for.
const LISTED: usize = 2_000;
/// Topics of an answer.
const MAX_ANSWER: usize = 10;
const DAY_MS: u64 = 86_400_000;
/// The time ranges that can be asked for.
const RANGES: [(&str, u64); 4] =
    [("12h", DAY_MS / 2), ("1d", DAY_MS), ("7d", 7 * DAY_MS), ("30d", 30 * DAY_MS)];

/// One list for each time range, with when it was made.
#[derive(Debug, Default)]
pub(super) struct TopicCache([Mutex<Option<List>>; RANGES.len()]);

#[derive(Debug, Clone)]
struct List {
    made_ms: u64,
    topics: std::sync::Arc<[(Bytes, u64)]>,
}

impl Social {
    /// Topics that hold `query`, most used first.
    ///
    /// # Errors
    /// `invalid_request` for a time range that there is not.
    pub async fn top_topics(
        &self,
        query: Option<&str>,
        limit: usize,
        range: Option<&str>,
    ) -> Result<ResultTopStringReferences, Problem> {
        let range = range.filter(|range| !range.is_empty()).unwrap_or("30d");
        let at = RANGES
            .iter()
            .position(|(name, _)| *name == range)
            .ok_or_else(|| Problem::invalid("time_range is 12h, 1d, 7d or 30d"))?;
        let topics = self.topics_of(at).await?;
        let wanted = query.map(|text| text.trim_start_matches('/').to_lowercase());
        let fits = |topic: &Bytes| {
            let Some(wanted) = &wanted else { return true };
            let topic = String::from_utf8_lossy(topic).to_lowercase();
            topic.trim_start_matches('/').contains(&wanted[..])
        };
        let buckets = topics
            .iter()
            .filter(|(topic, _)| fits(topic))
            .take(limit.min(MAX_ANSWER))
            .map(|(topic, posts)| AggregationBucket {
                key: encode_param(topic).into(),
                value: *posts as i64,
            })
            .collect();
        Ok(ResultTopStringReferences { buckets })
    }

    async fn topics_of(&self, at: usize) -> Result<std::sync::Arc<[(Bytes, u64)]>, Problem> {
        let now_ms = self.now_ms();
        let kept = || self.topics.0[at].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = &*kept()
            && now_ms.saturating_sub(list.made_ms) < GOOD_FOR_MS
        {
            return Ok(list.topics.clone());
        }
        let since_ms = now_ms.saturating_sub(RANGES[at].1);
        let topics = self
            .store
            .social_topics(since_ms, now_ms, LISTED)
            .await
            .map_err(|error| store_problem(&error))?;
        let list = List { made_ms: now_ms, topics: topics.into() };
        *kept() = Some(list.clone());
        Ok(list.topics)
    }
}
