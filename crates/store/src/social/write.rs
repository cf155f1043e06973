//! Taking events in: one request is one write in the group's transaction.
//!
//! Events of a request are taken in the order of their clocks, so that what the counters say does not depend on the
//! order in which a client sends them; last-writer-wins values are compared and never assumed to be the newest.
//! What is going to be asked is asked for all events at once, and what needs no answer is left for later: on a
//! store behind a network a request costs a handful of round trips, however many events it has.

mod counters;
mod events;
mod holdings;
mod values;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ahash::RandomState;
use relay_proto::polycentric::{
    Body, Event, EventKey, ProcessId, Reference, Subject, SystemKey, Target,
};

pub(super) use self::{events::field_hash, holdings::interval};
use self::{
    holdings::{ProcessRow, SystemRow},
    values::{Slot, Winner},
};
use super::{Ingest, IngestReport, Over, OverWhat, SocialChange, admin::text_of, deltas::Deltas};
use crate::{
    error::{Result, StoreError},
    sql::{Sql, args, one},
};

/// The number of the next event or change, in `meta`.
pub(super) const NEXT: &str = "social_next";

/// One write over the social tables: what it knows and what it still has to write.
pub(super) struct Work<'d, S> {
    sql: &'d S,
    next_seq: i64,
    deltas: Deltas,
    systems: HashMap<SystemKey, SystemRow, RandomState>,
    processes: HashMap<(SystemKey, ProcessId), ProcessRow, RandomState>,
    /// Likes less dislikes, before what this write changes.
    scores: HashMap<Subject, i64, RandomState>,
    /// As this write has left them.
    winners: HashMap<Slot, Option<Winner>, RandomState>,
}

/// Takes a request's events in. What goes over a limit is refused whole, as an error that undoes the write.
pub(super) async fn ingest<S: Sql>(sql: &S, given: Ingest) -> Result<IngestReport> {
    let mut work = Work::begin(sql).await?;
    let Ingest { mut events, max_system_bytes, max_bytes_of, notes } = given;
    let all = events.len();
    // The first of two under one name stays, as it would in two requests.
    events.sort_by_key(Event::key);
    events.dedup_by_key(|event| event.key());
    let mut fresh = work.fresh(events).await?;
    if fresh.is_empty() {
        return Ok(IngestReport::of_duplicates(all));
    }
    let max = |system: &SystemKey| max_bytes_of.get(system).copied().unwrap_or(max_system_bytes);
    if let Some(system) = work.over_quota(&fresh, max) {
        return Err(StoreError::Over(Over { system, what: OverWhat::Bytes }));
    }
    work.refuse(&mut fresh).await?;
    let mut report = IngestReport::default();
    let takers = work.delete_all(&mut fresh, &mut report).await?;
    work.look_ahead(fresh.values()).await?;
    for event in fresh.into_values() {
        let seq = work.insert(&event).await?;
        for target in takers.get(&event.key()).into_iter().flatten() {
            work.bury(event.system(), target, seq).await?;
        }
        if let Some(note) = notes.get(&event.key()) {
            sql.run_later(
                "INSERT INTO social_moderation (seq, state, tags) VALUES (?1, ?2, ?3)",
                args![seq, note.state as i64, &text_of(&note.tags)[..]],
            )
            .await?;
        }
        report.stored += 1;
        report.changes.push(change_of(&event));
    }
    report.duplicates = all - report.stored;
    work.finish(&mut report).await?;
    Ok(report)
}

fn change_of(event: &Event) -> SocialChange {
    let topics = event.references().iter().filter_map(|reference| match reference {
        Reference::Bytes(bytes) => Some(bytes.clone()),
        _ => None,
    });
    SocialChange {
        system: event.system(),
        process: event.process(),
        clock: event.clock(),
        content_type: event.content_type(),
        topics: topics.collect(),
    }
}

/// The different subjects of an event.
fn subjects_of(event: &Event) -> BTreeMap<Subject, &Reference> {
    let named = |reference| Some((Reference::subject(reference)?, reference));
    event.references().iter().filter_map(named).collect()
}

impl<'d, S: Sql> Work<'d, S> {
    pub async fn begin(sql: &'d S) -> Result<Self> {
        let next = one(sql, "SELECT value FROM meta WHERE key = ?1", args![NEXT]).await?;
        Ok(Self {
            sql,
            next_seq: next.map_or(Ok(1), |row| row.int(0))?,
            deltas: Deltas::default(),
            systems: HashMap::default(),
            processes: HashMap::default(),
            scores: HashMap::default(),
            winners: HashMap::default(),
        })
    }

    /// Takes note of a system, which then counts as changed.
    pub async fn know(&mut self, system: SystemKey) -> Result<()> {
        self.load_system(system).await.map(drop)
    }

    /// Marks what the event is about as changed.
    pub fn touch(&mut self, event: &Event) {
        for reference in subjects_of(event).values() {
            self.deltas.refer(reference, event.content_type() as i64, 0);
        }
    }

    /// Reads what is about to be asked of each of the events.
    pub async fn look_ahead<'e>(
        &mut self,
        events: impl Iterator<Item = &'e Event> + Clone,
    ) -> Result<()> {
        let with_place = events.clone().filter(|event| {
            event.references().iter().any(|reference| reference.subject().is_some())
        });
        let subjects: BTreeSet<Subject> = with_place.map(Event::subject).collect();
        self.load_scores(subjects).await?;
        let mut slots = BTreeSet::new();
        for event in events {
            slots.extend(self.slot_of(event).await?);
        }
        self.load_winners(slots).await
    }

    /// Carries the request's Deletes out. Gives, for each, what its tombstones are for.
    async fn delete_all(
        &mut self,
        fresh: &mut BTreeMap<EventKey, Event>,
        report: &mut IngestReport,
    ) -> Result<BTreeMap<EventKey, Vec<Target>>> {
        let deletes: Vec<(EventKey, Target)> = fresh
            .values()
            .filter_map(|event| match event.body() {
                Body::Delete(target) => Some((event.key(), *target)),
                _ => None,
            })
            .collect();
        let mut takers: BTreeMap<EventKey, Vec<Target>> = BTreeMap::new();
        for (by, target) in deletes {
            if self.delete(by, &target, fresh).await? {
                takers.entry(by).or_default().push(target);
                report.deleted += 1;
            }
        }
        Ok(takers)
    }

    /// Writes what was summed up, and numbers the change.
    pub async fn finish(&mut self, report: &mut IngestReport) -> Result<()> {
        let version = self.next_seq;
        self.next_seq += 1;
        let mut touched: BTreeSet<Subject> =
            self.deltas.counters.keys().map(|counter| counter.subject).collect();
        self.move_scores(&mut touched).await?;
        self.write_counts().await?;
        self.write_versions(&touched, version).await?;
        report.subjects.extend(touched.into_iter().map(|subject| (subject, version as u64)));
        self.write_ranges().await?;
        self.write_systems(version).await?;
        report.systems.extend(self.systems.keys().map(|&system| (system, version as u64)));
        self.sql
            .run_later(
                "INSERT INTO meta (key, value) VALUES (?1, ?2)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                args![NEXT, self.next_seq],
            )
            .await?;
        report.version = version as u64;
        Ok(())
    }
}
