//! The social layer in the product's verbs: events kept verbatim, and what clients ask about them
//! (`polycentric.md` sections 4 to 7).
//!
//! What is asked of a database is written once for both stores, over [`db::Db`]. Writes run in the one writer's order.

mod admin;
mod claims;
mod deltas;
mod quotas;
mod read;
mod refs;
mod stored;
mod words;
mod write;

use std::collections::BTreeMap;

use bytes::Bytes;
use relay_proto::polycentric::{
    Event, EventKey, ModerationTag, ProcessId, Ranges, Subject, SystemKey,
};

pub use admin::{Censored, ModerationState, SystemUsage, Waiting};
pub use claims::ClaimsQuery;
pub use quotas::SocialQuota;
pub use refs::{Count, RefsQuery};
pub(crate) use words::rebuild as rebuild_words;

pub use crate::sql::Words;
use crate::{
    error::{Result, StoreError},
    sql::{PostgresSql, Sql, SqliteSql, now},
    store::{Store, each},
};

/// Runs a read on a connection of whichever store it is.
macro_rules! read {
    ($self:ident, $sql:ident => $call:expr) => {
        match $self {
            Self::Sqlite(store) => {
                store
                    .read(move |conn| {
                        let $sql = &SqliteSql(conn);
                        now($call)
                    })
                    .await
            }
            Self::Postgres(store) => {
                let client = store.client().await?;
                let $sql = &PostgresSql(&client);
                $call.await
            }
        }
    };
}

/// Processes (devices) of one system.
pub const MAX_PROCESSES: u64 = 1_024;
/// Intervals of clocks that are held of one system, over all of its processes. Devices count without gaps, so this
/// is a bound on what a stranger can make `/ranges` answer.
pub const MAX_INTERVALS: u64 = 10_000;
/// Most events of one answer about clocks or heads; the rest is asked for again.
pub const MAX_ANSWER_EVENTS: usize = 1_024;

/// A request's events on their way in.
#[derive(Debug, Clone)]
pub struct Ingest {
    pub events: Vec<Event>,
    /// Bytes of events that one system may hold.
    pub max_system_bytes: Option<u64>,
    /// The same for systems that may hold more or less than others.
    pub max_bytes_of: BTreeMap<SystemKey, Option<u64>>,
    /// What is noted of some of the events while moderation is on.
    pub notes: BTreeMap<EventKey, Note>,
}

/// What a relay notes of an event that it takes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub state: ModerationState,
    pub tags: Vec<ModerationTag>,
}

/// What became of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ingested {
    Done(IngestReport),
    /// A system would hold more than it may; nothing was stored.
    Over(Over),
}

/// More of a system than it may hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{system} {what}")]
pub struct Over {
    pub system: SystemKey,
    pub what: OverWhat,
}

/// What a system has too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OverWhat {
    #[error("holds as much here as one identity may")]
    Bytes,
    #[error("has as many processes here as one identity may, {MAX_PROCESSES}")]
    Processes,
    #[error("leaves more than {MAX_INTERVALS} gaps between its clocks")]
    Gaps,
}

/// What a write changed. Versions are numbers of the one order of changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IngestReport {
    pub stored: usize,
    /// Held already, deleted, refused by an operator, or deleted by the same request.
    pub duplicates: usize,
    pub deleted: usize,
    /// The number of this change; 0 where nothing changed.
    pub version: u64,
    pub changes: Vec<SocialChange>,
    pub systems: Vec<(SystemKey, u64)>,
    pub subjects: Vec<(Subject, u64)>,
}

impl IngestReport {
    fn of_duplicates(duplicates: usize) -> Self {
        Self { duplicates, ..Self::default() }
    }

    /// Adds a later change.
    fn join(&mut self, later: Self) {
        self.stored += later.stored;
        self.duplicates += later.duplicates;
        self.deleted += later.deleted;
        self.version = later.version;
        self.changes.extend(later.changes);
        self.systems.extend(later.systems);
        self.subjects.extend(later.subjects);
    }
}

/// A new event, for those who watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocialChange {
    pub system: SystemKey,
    pub process: ProcessId,
    pub clock: u64,
    pub content_type: u64,
    pub topics: Vec<Bytes>,
}

/// A stored event: what was signed, and the relay's notes on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocialEvent {
    /// Its place in the order of arrival.
    pub seq: u64,
    pub signature: [u8; 64],
    pub bytes: Bytes,
    pub unix_ms: Option<u64>,
    pub tags: Vec<ModerationTag>,
    /// `None` where nothing is noted.
    pub moderation: Option<ModerationState>,
}

impl SocialEvent {
    /// The event's parts.
    ///
    /// # Errors
    /// Its bytes are damaged.
    pub fn parse(&self) -> Result<Event> {
        Event::from_stored(self.signature, self.bytes.clone())
            .map_err(|error| StoreError::Corrupt(format!("social event {}: {error}", self.seq)))
    }
}

/// One page of a feed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexPage {
    pub events: Vec<SocialEvent>,
    /// The neighbours of the page in the system's other processes.
    pub proof: Vec<SocialEvent>,
}

/// Where a page of a feed begins, and how long it is.
#[derive(Debug, Clone, Copy)]
pub struct IndexQuery {
    pub system: SystemKey,
    pub content_type: u64,
    /// Only entries from before this time.
    pub before_ms: Option<u64>,
    pub limit: usize,
}

/// What an operation on the social tables is, in the writer's order.
#[derive(Debug)]
pub(crate) enum SocialOp {
    Ingest(Box<Ingest>),
    /// Removes some of what is held of a system.
    Purge(SystemKey),
    Censor {
        what: Censored,
        refuse: bool,
    },
    Uncensor(Censored),
    SetQuota(SocialQuota),
    RemoveQuota(SystemKey),
    ClaimHandle {
        system: SystemKey,
        handle: String,
    },
    Moderate {
        seq: u64,
        state: ModerationState,
        tags: Vec<ModerationTag>,
    },
}

/// What an operation answers.
#[derive(Debug)]
pub(crate) enum SocialDone {
    Ingested(IngestReport),
    /// Whether the operation had an effect, and what changed.
    Changed(bool, IngestReport),
}

/// Runs an operation inside a transaction.
pub(crate) async fn apply<S: Sql>(sql: &S, op: SocialOp) -> Result<SocialDone> {
    match op {
        SocialOp::Ingest(given) => write::ingest(sql, *given).await.map(SocialDone::Ingested),
        SocialOp::Purge(system) => admin::purge_some(sql, system).await,
        SocialOp::Censor { what, refuse } => admin::censor(sql, &what, refuse).await,
        SocialOp::Uncensor(what) => admin::uncensor(sql, &what).await,
        SocialOp::SetQuota(quota) => quotas::set(sql, &quota).await,
        SocialOp::RemoveQuota(system) => quotas::remove(sql, system).await,
        SocialOp::ClaimHandle { system, handle } => admin::claim_handle(sql, system, &handle).await,
        SocialOp::Moderate { seq, state, tags } => admin::moderate(sql, seq, state, &tags).await,
    }
}

impl Store {
    /// Stores events that are new; answered when they are durable.
    pub async fn social_ingest(&self, given: Ingest) -> Result<Ingested> {
        match self.social_write(SocialOp::Ingest(Box::new(given))).await {
            Ok(SocialDone::Ingested(report)) => Ok(Ingested::Done(report)),
            Ok(SocialDone::Changed(..)) => Err(StoreError::Closed),
            Err(StoreError::Over(over)) => Ok(Ingested::Over(over)),
            Err(error) => Err(error),
        }
    }

    /// Removes everything that is held of a system, a bounded piece in each transaction.
    pub async fn social_purge(&self, system: SystemKey) -> Result<IngestReport> {
        let mut report = IngestReport::default();
        loop {
            let (more, slice) = self.social_change(SocialOp::Purge(system)).await?;
            report.join(slice);
            if !more {
                return Ok(report);
            }
        }
    }

    /// Hides a system or an event; with `refuse` it is not stored any more, either.
    pub async fn social_censor(&self, what: Censored, refuse: bool) -> Result<IngestReport> {
        self.social_change(SocialOp::Censor { what, refuse }).await.map(|(_, report)| report)
    }

    /// Takes a censorship back; false where there was none.
    pub async fn social_uncensor(&self, what: Censored) -> Result<(bool, IngestReport)> {
        self.social_change(SocialOp::Uncensor(what)).await
    }

    /// Sets what one system may, in place of an older quota of it.
    pub async fn social_set_quota(&self, quota: SocialQuota) -> Result<()> {
        self.social_change(SocialOp::SetQuota(quota)).await.map(drop)
    }

    /// Takes a system's quota back; false where there was none.
    pub async fn social_remove_quota(&self, system: SystemKey) -> Result<bool> {
        self.social_change(SocialOp::RemoveQuota(system)).await.map(|(there, _)| there)
    }

    /// The quotas of single systems, by their keys.
    pub async fn social_quotas(&self) -> Result<Vec<SocialQuota>> {
        read!(self, sql => quotas::all(sql))
    }

    /// Gives a system a handle in place of its former one; false where another system has it.
    pub async fn social_claim_handle(
        &self,
        system: SystemKey,
        handle: String,
    ) -> Result<(bool, IngestReport)> {
        self.social_change(SocialOp::ClaimHandle { system, handle }).await
    }

    /// Notes what an event is like and whether it is shown; false where there is no such event.
    pub async fn social_moderate(
        &self,
        seq: u64,
        state: ModerationState,
        tags: Vec<ModerationTag>,
    ) -> Result<(bool, IngestReport)> {
        self.social_change(SocialOp::Moderate { seq, state, tags }).await
    }

    async fn social_change(&self, op: SocialOp) -> Result<(bool, IngestReport)> {
        match self.social_write(op).await? {
            SocialDone::Changed(effect, report) => Ok((effect, report)),
            SocialDone::Ingested(_) => Err(StoreError::Closed),
        }
    }

    async fn social_write(&self, op: SocialOp) -> Result<SocialDone> {
        each!(self, store => store.social_write(op).await)
    }

    /// The number of the last change of what is held of a system; `None` for one never seen.
    pub async fn social_version(&self, system: SystemKey) -> Result<Option<u64>> {
        read!(self, sql => read::version(sql, system))
    }

    /// The number of the last change of anything.
    pub async fn social_last_version(&self) -> Result<u64> {
        read!(self, sql => read::last_version(sql))
    }

    /// The number of the last change of what is about any of the subjects.
    pub async fn social_subjects_version(&self, subjects: Vec<Subject>) -> Result<u64> {
        read!(self, sql => read::subjects_version(sql, subjects))
    }

    /// Which clocks are held or deleted, for each process.
    pub async fn social_ranges(&self, system: SystemKey) -> Result<Vec<(ProcessId, Ranges)>> {
        read!(self, sql => read::ranges(sql, system))
    }

    /// Stored events with these clocks, in their order; at most [`MAX_ANSWER_EVENTS`].
    pub async fn social_events(
        &self,
        system: SystemKey,
        wanted: Vec<(ProcessId, Ranges)>,
    ) -> Result<Vec<SocialEvent>> {
        read!(self, sql => read::events(sql, system, wanted))
    }

    /// The newest event of each process.
    pub async fn social_heads(&self, system: SystemKey) -> Result<Vec<SocialEvent>> {
        read!(self, sql => read::heads(sql, system))
    }

    /// For each of the types and each process the newest event.
    pub async fn social_latest(
        &self,
        system: SystemKey,
        types: Vec<u64>,
    ) -> Result<Vec<SocialEvent>> {
        read!(self, sql => read::latest(sql, system, types))
    }

    /// A page of a feed with its proof, newest first. Entries of one time are never parted.
    pub async fn social_index(&self, query: IndexQuery) -> Result<IndexPage> {
        read!(self, sql => read::index(sql, query))
    }

    /// Events about subjects, the best liked first.
    pub async fn social_refs(&self, query: RefsQuery) -> Result<Vec<SocialEvent>> {
        read!(self, sql => refs::page(sql, query))
    }

    /// Counters, each summed over the subjects; in the order asked.
    pub async fn social_counts(&self, asked: Vec<(Vec<Subject>, Count)>) -> Result<Vec<u64>> {
        read!(self, sql => refs::counts(sql, asked))
    }

    /// Claims of a type with a vouch by `root` for each: those with all of the fields (key `None`: any field of this
    /// value), of one claiming system or all; newest vouch first, at most `limit`.
    pub async fn social_claims(
        &self,
        query: ClaimsQuery,
    ) -> Result<Vec<(SocialEvent, SocialEvent)>> {
        read!(self, sql => claims::matches(sql, query))
    }

    /// Posts of everybody, newest first, from before (time, seq); those from after `until_ms` are left out.
    pub async fn social_explore(
        &self,
        before: Option<(u64, u64)>,
        until_ms: u64,
        limit: usize,
    ) -> Result<Vec<SocialEvent>> {
        read!(self, sql => read::explore(sql, before, until_ms, limit))
    }

    /// Events with all the words of `text`, the most relevant first.
    pub async fn social_search(
        &self,
        words: Words,
        text: String,
        offset: u64,
        limit: usize,
    ) -> Result<Vec<SocialEvent>> {
        read!(self, sql => read::search(sql, words, text, offset, limit))
    }

    /// Topics of posts between two times with how many there were, the most used first.
    pub async fn social_topics(
        &self,
        since_ms: u64,
        until_ms: u64,
        limit: usize,
    ) -> Result<Vec<(Bytes, u64)>> {
        read!(self, sql => read::topics(sql, since_ms, until_ms, limit))
    }

    /// Whose handle it is.
    pub async fn social_handle(&self, handle: String) -> Result<Option<SystemKey>> {
        read!(self, sql => admin::handle(sql, handle))
    }

    /// Systems with a username, some of them from `from` (a random number) on; censored ones are left out.
    pub async fn social_some_systems(&self, from: u64, limit: usize) -> Result<Vec<SystemKey>> {
        read!(self, sql => admin::some_systems(sql, from, limit))
    }

    /// Everything that is censored, with whether it is refused.
    pub async fn social_censored(&self) -> Result<Vec<(Censored, bool)>> {
        read!(self, sql => admin::censored(sql))
    }

    /// Events that wait for approval, oldest first, after `seq`.
    pub async fn social_waiting(&self, after: u64, limit: usize) -> Result<Vec<Waiting>> {
        read!(self, sql => admin::waiting(sql, after, limit))
    }

    /// What one system holds, or those that hold most.
    pub async fn social_usage(
        &self,
        system: Option<SystemKey>,
        limit: usize,
    ) -> Result<Vec<SystemUsage>> {
        read!(self, sql => admin::usage(sql, system, limit))
    }

    /// How many systems and events there are and how many wait for approval.
    pub async fn social_totals(&self) -> Result<(u64, u64, u64)> {
        read!(self, sql => admin::totals(sql))
    }
}
