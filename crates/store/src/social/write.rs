//! Taking events in: one request is one write in the group's transaction.
//!
//! Events of a request are taken in the order of their clocks, so that what the counters say does not depend on the
//! order in which a client sends them; last-writer-wins values are compared and never assumed to be the newest.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ahash::RandomState;
use bytes::Bytes;
use relay_proto::polycentric::{
    Body, Event, EventKey, Interval, Pointer, ProcessId, Ranges, Reference, Subject, SystemKey,
    Target, content, opinion,
};

use super::{
    Ingest, IngestReport, Ingested, SocialChange,
    admin::text_of,
    db::{Db, Row, Value, Words, values},
    deltas::{ANY_TYPE, Counted, Deltas, kept_value},
    stored,
};
use crate::error::{Result, StoreError};

/// The number of the next event or change, in `meta`.
pub(super) const NEXT: &str = "social_next";
/// Topics longer than this are counted as subjects, but not listed.
const MAX_TOPIC: usize = 256;
const HOUR_MS: u64 = 3_600_000;

/// One write over the social tables: what it knows and what it still has to write.
pub(super) struct Work<'d, D> {
    db: &'d D,
    next_seq: i64,
    deltas: Deltas,
    systems: HashMap<SystemKey, SystemRow, RandomState>,
    processes: HashMap<(SystemKey, ProcessId), ProcessRow, RandomState>,
}

#[derive(Debug, Clone, Copy)]
struct SystemRow {
    n: i64,
    bytes: i64,
    events_change: i64,
    bytes_change: i64,
    /// Nothing of it is stored.
    refused: bool,
    /// Some of its events are not stored.
    some_refused: bool,
}

#[derive(Debug)]
struct ProcessRow {
    n: i64,
    /// What is held between these clocks.
    window: Option<(u64, u64)>,
    held: Ranges,
    added: Vec<u64>,
}

/// Takes a request's events in.
pub(super) async fn ingest<D: Db>(db: &D, given: Ingest) -> Result<Ingested> {
    let mut work = Work::begin(db).await?;
    let Ingest { mut events, max_system_bytes, notes } = given;
    let all = events.len();
    // The first of two under one name stays, as it would in two requests.
    events.sort_by_key(Event::key);
    events.dedup_by_key(|event| event.key());
    let mut fresh = work.fresh(events).await?;
    if fresh.is_empty() {
        return Ok(Ingested::Done(IngestReport::of_duplicates(all)));
    }
    if let Some(max) = max_system_bytes
        && let Some(system) = work.over_quota(&fresh, max)
    {
        return Ok(Ingested::OverQuota(system));
    }
    work.refuse(&mut fresh).await?;
    let mut report = IngestReport::default();
    let deletes: Vec<(EventKey, Target)> = fresh
        .values()
        .filter_map(|event| match event.body() {
            Body::Delete(target) => Some((event.key(), *target)),
            _ => None,
        })
        .collect();
    let mut takers: BTreeMap<EventKey, Vec<Target>> = BTreeMap::new();
    for (by, target) in deletes {
        if work.delete(by, &target, &mut fresh).await? {
            takers.entry(by).or_default().push(target);
            report.deleted += 1;
        }
    }
    for event in fresh.into_values() {
        let seq = work.insert(&event).await?;
        for target in takers.get(&event.key()).into_iter().flatten() {
            work.bury(event.system(), target, seq).await?;
        }
        if let Some(note) = notes.get(&event.key()) {
            work.db
                .execute(
                    "INSERT INTO social_moderation (seq, state, tags) VALUES (?1, ?2, ?3)",
                    values![seq, note.state as i64, &text_of(&note.tags)[..]],
                )
                .await?;
        }
        report.stored += 1;
        report.changes.push(change_of(&event));
    }
    report.duplicates = all - report.stored;
    work.finish(&mut report).await?;
    Ok(Ingested::Done(report))
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

impl<'d, D: Db> Work<'d, D> {
    pub async fn begin(db: &'d D) -> Result<Self> {
        let rows = db.query("SELECT value FROM meta WHERE key = ?1", values![NEXT]).await?;
        let next_seq = rows.first().map_or(Ok(1), |row| row.int(0))?;
        Ok(Self {
            db,
            next_seq,
            deltas: Deltas::default(),
            systems: HashMap::default(),
            processes: HashMap::default(),
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

    /// The events that are neither held nor deleted.
    async fn fresh(&mut self, events: Vec<Event>) -> Result<BTreeMap<EventKey, Event>> {
        let mut spans: BTreeMap<(SystemKey, ProcessId), (u64, u64)> = BTreeMap::new();
        for event in &events {
            let span = spans
                .entry((event.system(), event.process()))
                .or_insert((event.clock(), event.clock()));
            *span = (span.0.min(event.clock()), span.1.max(event.clock()));
        }
        for (&(system, process), &(low, high)) in &spans {
            self.load_process(system, process).await?;
            self.load_ranges(system, process, low, high).await?;
        }
        let held = |event: &Event| {
            self.processes
                .get(&(event.system(), event.process()))
                .is_some_and(|row| row.held.contains(event.clock()))
        };
        Ok(events
            .into_iter()
            .filter(|event| !held(event))
            .map(|event| (event.key(), event))
            .collect())
    }

    fn over_quota(&self, fresh: &BTreeMap<EventKey, Event>, max: u64) -> Option<SystemKey> {
        let mut sums: BTreeMap<SystemKey, u64> = BTreeMap::new();
        for event in fresh.values() {
            *sums.entry(event.system()).or_default() += event.bytes().len() as u64;
        }
        sums.into_iter().find_map(|(system, sum)| {
            let held = self.systems.get(&system).map_or(0, |row| row.bytes.max(0) as u64);
            (held + sum > max).then_some(system)
        })
    }

    /// Takes out what an operator does not want stored. Its clocks count as held, or clients would send it for ever.
    async fn refuse(&mut self, fresh: &mut BTreeMap<EventKey, Event>) -> Result<()> {
        let keys: Vec<EventKey> = fresh.keys().copied().collect();
        for key in keys {
            let Some(row) = self.systems.get(&key.system) else { continue };
            let refused = row.refused
                || row.some_refused
                    && !self
                        .db
                        .query(
                            "SELECT 1 FROM social_censored
                             WHERE system = ?1 AND process = ?2 AND clock = ?3 AND how = 2",
                            values![key.system.as_bytes(), key.process.as_bytes(), key.clock],
                        )
                        .await?
                        .is_empty();
            if refused {
                fresh.remove(&key);
                self.hold(key)?;
            }
        }
        Ok(())
    }

    async fn load_system(&mut self, system: SystemKey) -> Result<SystemRow> {
        if let Some(row) = self.systems.get(&system) {
            return Ok(*row);
        }
        let find = "SELECT n, bytes FROM social_systems WHERE key = ?1";
        let mut found = self.db.query(find, values![system.as_bytes()]).await?;
        if found.is_empty() {
            self.db
                .execute(
                    "INSERT INTO social_systems (key, version, events, bytes) VALUES (?1, 0, 0, 0)",
                    values![system.as_bytes()],
                )
                .await?;
            found = self.db.query(find, values![system.as_bytes()]).await?;
        }
        let found = found.first().ok_or(StoreError::Closed)?;
        let censored = self
            .db
            .query(
                "SELECT length(process) FROM social_censored WHERE system = ?1 AND how = 2
                 ORDER BY process LIMIT 2",
                values![system.as_bytes()],
            )
            .await?;
        let row = SystemRow {
            n: found.int(0)?,
            bytes: found.int(1)?,
            events_change: 0,
            bytes_change: 0,
            refused: match censored.first() {
                Some(row) => row.int(0)? == 0,
                None => false,
            },
            some_refused: !censored.is_empty(),
        };
        self.systems.insert(system, row);
        Ok(row)
    }

    async fn load_process(&mut self, system: SystemKey, process: ProcessId) -> Result<i64> {
        let owner = self.load_system(system).await?.n;
        if let Some(row) = self.processes.get(&(system, process)) {
            return Ok(row.n);
        }
        let find = "SELECT n FROM social_processes WHERE system = ?1 AND process = ?2";
        let named = values![owner, process.as_bytes()];
        let mut found = self.db.query(find, named).await?;
        if found.is_empty() {
            self.db
                .execute("INSERT INTO social_processes (system, process) VALUES (?1, ?2)", named)
                .await?;
            found = self.db.query(find, named).await?;
        }
        let n = found.first().ok_or(StoreError::Closed)?.int(0)?;
        let row = ProcessRow { n, window: None, held: Ranges::default(), added: Vec::new() };
        self.processes.insert((system, process), row);
        Ok(n)
    }

    /// Reads what is held from just below `low` to just above `high`.
    async fn load_ranges(
        &mut self,
        system: SystemKey,
        process: ProcessId,
        low: u64,
        high: u64,
    ) -> Result<()> {
        let Some(row) = self.processes.get_mut(&(system, process)) else { return Ok(()) };
        let rows = self
            .db
            .query(
                "SELECT low, high FROM social_ranges WHERE process = ?1 AND low <= ?2 AND low >=
                     COALESCE((SELECT MAX(low) FROM social_ranges WHERE process = ?1 AND low <= ?3), 0)
                 ORDER BY low",
                values![row.n, high.saturating_add(1), low.saturating_sub(1)],
            )
            .await?;
        let intervals: Result<Vec<Interval>> = rows.iter().map(interval).collect();
        row.held = Ranges::of(intervals?);
        row.window = Some((low, high));
        Ok(())
    }

    fn hold(&mut self, key: EventKey) -> Result<i64> {
        let row = self.processes.get_mut(&(key.system, key.process)).ok_or(StoreError::Closed)?;
        row.added.push(key.clock);
        Ok(row.n)
    }

    /// Makes room for a Delete: its target is taken out, of the request or of the store. Says whether there is
    /// anything to be buried; what deletes a Delete is kept as an event and changes nothing.
    async fn delete(
        &mut self,
        by: EventKey,
        target: &Target,
        fresh: &mut BTreeMap<EventKey, Event>,
    ) -> Result<bool> {
        let key = EventKey { system: by.system, process: target.process, clock: target.clock };
        if target.content_type == content::DELETE || key == by {
            return Ok(false);
        }
        let process = self.load_process(key.system, key.process).await?;
        if let Some(event) = fresh.get(&key) {
            if event.content_type() == content::DELETE {
                return Ok(false);
            }
            fresh.remove(&key);
            self.hold(key)?;
            return Ok(true);
        }
        let found = self
            .db
            .query(
                "SELECT seq, content_type, raw FROM social_events WHERE process = ?1 AND clock = ?2",
                values![process, key.clock],
            )
            .await?;
        match found.first() {
            Some(row) if row.int(1)? == content::DELETE as i64 => return Ok(false),
            Some(row) => self.remove(row.int(0)?, &stored::event(&row.bytes(2)?)?).await?,
            None => {
                let buried = self
                    .db
                    .query(
                        "SELECT 1 FROM social_tombstones WHERE process = ?1 AND clock = ?2",
                        values![process, key.clock],
                    )
                    .await?;
                if !buried.is_empty() {
                    return Ok(false);
                }
            }
        }
        self.hold(key)?;
        Ok(true)
    }

    async fn bury(&mut self, system: SystemKey, target: &Target, seq: i64) -> Result<()> {
        let process = self.load_process(system, target.process).await?;
        self.db
            .execute(
                "INSERT INTO social_tombstones (process, clock, content_type, unix_ms, seq)
                 VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
                values![process, target.clock, target.content_type, target.unix_ms, seq],
            )
            .await?;
        Ok(())
    }

    async fn insert(&mut self, event: &Event) -> Result<i64> {
        let seq = self.next_seq;
        self.next_seq += 1;
        let process = self.hold(event.key())?;
        self.db
            .execute(
                "INSERT INTO social_events (seq, process, clock, content_type, unix_ms, raw)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                values![
                    seq,
                    process,
                    event.clock(),
                    event.content_type(),
                    event.unix_ms(),
                    stored::raw(event),
                ],
            )
            .await?;
        self.account(event, 1)?;
        let subjects = subjects_of(event);
        if !subjects.is_empty() {
            let score = self.score_of(event.subject()).await?;
            for &subject in subjects.keys() {
                self.db
                    .execute(
                        "INSERT INTO social_refs (subject, from_type, score, seq)
                         VALUES (?1, ?2, ?3, ?4)",
                        values![subject.as_bytes(), event.content_type(), score, seq],
                    )
                    .await?;
            }
        }
        self.count(event, &subjects, 1);
        self.write_value(event, seq, true).await?;
        match event.body() {
            Body::Claim { .. } => self.insert_claim(event, seq).await?,
            Body::Text(text) if event.content_type() == content::POST => {
                self.db.add_words(Words::Posts, seq, text).await?;
            }
            _ => {}
        }
        if event.content_type() == content::VOUCH {
            let system = self.load_system(event.system()).await?.n;
            for subject in subjects.keys() {
                self.db
                    .execute(
                        "INSERT INTO social_vouches (system, subject, seq) VALUES (?1, ?2, ?3)",
                        values![system, subject.as_bytes(), seq],
                    )
                    .await?;
            }
        }
        Ok(seq)
    }

    /// Takes a stored event out, with everything derived from it.
    pub async fn remove(&mut self, seq: i64, event: &Event) -> Result<()> {
        let subjects = subjects_of(event);
        if !subjects.is_empty() {
            let score = self.score_of(event.subject()).await?;
            for subject in subjects.keys() {
                self.db
                    .execute(
                        "DELETE FROM social_refs
                         WHERE subject = ?1 AND from_type = ?2 AND score = ?3 AND seq = ?4",
                        values![subject.as_bytes(), event.content_type(), score, seq],
                    )
                    .await?;
            }
        }
        self.load_system(event.system()).await?;
        self.account(event, -1)?;
        self.count(event, &subjects, -1);
        self.write_value(event, seq, false).await?;
        match event.body() {
            Body::Claim { claim_type, fields } => {
                let system = self.load_system(event.system()).await?.n;
                for (value, key) in claim_rows(fields) {
                    self.db
                        .execute(
                            "DELETE FROM social_claims WHERE claim_type = ?1 AND value = ?2
                             AND key = ?3 AND system = ?4 AND seq = ?5",
                            values![*claim_type, &value, key, system, seq],
                        )
                        .await?;
                }
            }
            Body::Text(_) if event.content_type() == content::POST => {
                self.db.drop_words(Words::Posts, seq).await?;
            }
            _ => {}
        }
        if event.content_type() == content::VOUCH {
            let system = self.load_system(event.system()).await?.n;
            for subject in subjects.keys() {
                self.db
                    .execute(
                        "DELETE FROM social_vouches WHERE system = ?1 AND subject = ?2 AND seq = ?3",
                        values![system, subject.as_bytes(), seq],
                    )
                    .await?;
            }
        }
        self.db.execute("DELETE FROM social_moderation WHERE seq = ?1", values![seq]).await?;
        self.db.execute("DELETE FROM social_events WHERE seq = ?1", values![seq]).await?;
        Ok(())
    }

    fn account(&mut self, event: &Event, by: i64) -> Result<()> {
        let row = self.systems.get_mut(&event.system()).ok_or(StoreError::Closed)?;
        row.events_change += by;
        row.bytes_change += by * event.bytes().len() as i64;
        Ok(())
    }

    fn count(&mut self, event: &Event, subjects: &BTreeMap<Subject, &Reference>, by: i64) {
        for reference in subjects.values() {
            self.deltas.refer(reference, event.content_type() as i64, by);
            if let (Reference::Bytes(topic), content::POST, Some(unix_ms)) =
                (reference, event.content_type(), event.unix_ms())
                && topic.len() <= MAX_TOPIC
            {
                self.deltas.topic((unix_ms / HOUR_MS) as i64, topic, by);
            }
        }
    }

    /// Adds or removes the event's last-writer-wins value, and sees who wins then.
    async fn write_value(&mut self, event: &Event, seq: i64, add: bool) -> Result<()> {
        let Some(lww) = event.lww() else { return Ok(()) };
        // Only the first reference carries the value.
        let about = event.references().first();
        let subject = match about {
            None => Subject::NONE,
            Some(reference) => match reference.subject() {
                Some(subject) => subject,
                None => return Ok(()),
            },
        };
        let system = self.load_system(event.system()).await?.n;
        let of = [subject.as_bytes().into(), Value::Int(system), event.content_type().into()];
        let before = self.winner(&of).await?;
        let [subject, owner, content_type] = of.clone();
        let named = [
            subject,
            owner,
            content_type,
            lww.unix_ms.into(),
            event.process().as_bytes().into(),
            event.clock().into(),
        ];
        if add {
            let mut row = named.to_vec();
            row.extend([kept_value(&lww.value).into(), seq.into()]);
            self.db
                .execute(
                    "INSERT INTO social_lww
                         (subject, system, content_type, unix_ms, process, clock, value, seq)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                    &row,
                )
                .await?;
        } else {
            self.db
                .execute(
                    "DELETE FROM social_lww WHERE subject = ?1 AND system = ?2 AND content_type = ?3
                     AND unix_ms = ?4 AND process = ?5 AND clock = ?6",
                    &named,
                )
                .await?;
        }
        let after = self.winner(&of).await?;
        match about {
            Some(reference) => {
                let value = |winner: &Option<(Bytes, i64)>| winner.as_ref().map(|(v, _)| v.clone());
                let (before, after) = (value(&before), value(&after));
                let from_type = event.content_type() as i64;
                self.deltas.vote(reference, from_type, before.as_ref(), after.as_ref());
            }
            None => {
                let seqs = (before.map(|(_, seq)| seq), after.map(|(_, seq)| seq));
                self.move_profile(event, seq, seqs).await?;
            }
        }
        Ok(())
    }

    /// Only the current username and description of a system can be found.
    async fn move_profile(
        &mut self,
        event: &Event,
        seq: i64,
        (before, after): (Option<i64>, Option<i64>),
    ) -> Result<()> {
        let searched = matches!(event.content_type(), content::USERNAME | content::DESCRIPTION);
        if !searched || before == after {
            return Ok(());
        }
        if let Some(before) = before {
            self.db.drop_words(Words::Profiles, before).await?;
        }
        let Some(after) = after else { return Ok(()) };
        let body = if after == seq {
            event.body().clone()
        } else {
            let found = self
                .db
                .query("SELECT raw FROM social_events WHERE seq = ?1", values![after])
                .await?;
            match found.first() {
                Some(row) => stored::event(&row.bytes(0)?)?.body().clone(),
                None => Body::Other,
            }
        };
        if let Body::Text(text) = body {
            self.db.add_words(Words::Profiles, after, &text).await?;
        }
        Ok(())
    }

    async fn winner(&self, of: &[Value; 3]) -> Result<Option<(Bytes, i64)>> {
        let rows = self
            .db
            .query(
                "SELECT value, seq FROM social_lww
                 WHERE subject = ?1 AND system = ?2 AND content_type = ?3
                 ORDER BY unix_ms DESC, process DESC, clock DESC LIMIT 1",
                of,
            )
            .await?;
        rows.first().map(|row| Ok((row.bytes(0)?, row.int(1)?))).transpose()
    }

    async fn insert_claim(&mut self, event: &Event, seq: i64) -> Result<()> {
        let Body::Claim { claim_type, fields } = event.body() else { return Ok(()) };
        let system = self.load_system(event.system()).await?.n;
        let subject = event.subject();
        for (value, key) in claim_rows(fields) {
            self.db
                .execute(
                    "INSERT INTO social_claims (claim_type, value, key, system, seq, subject)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
                    values![*claim_type, &value, key, system, seq, subject.as_bytes()],
                )
                .await?;
        }
        Ok(())
    }

    /// Likes less dislikes, before what this write changes.
    async fn score_of(&self, subject: Subject) -> Result<i64> {
        let rows = self
            .db
            .query(
                "SELECT value, n FROM social_counts WHERE subject = ?1 AND kind = 1
                 AND from_type = -1 AND value IN (?2, ?3)",
                values![subject.as_bytes(), opinion::LIKE, opinion::DISLIKE],
            )
            .await?;
        let mut score = 0;
        for row in rows {
            score += if row.bytes(0)? == opinion::LIKE { row.int(1)? } else { -row.int(1)? };
        }
        Ok(score)
    }

    /// Writes what was summed up, and numbers the change.
    pub async fn finish(&mut self, report: &mut IngestReport) -> Result<()> {
        let version = self.next_seq;
        self.next_seq += 1;
        let mut touched: BTreeSet<Subject> =
            self.deltas.counters.keys().map(|counter| counter.subject).collect();
        self.move_scores(&mut touched).await?;
        self.write_counts().await?;
        for subject in touched {
            self.db
                .execute(
                    "INSERT INTO social_counts (subject, kind, from_type, value, n)
                     VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT (subject, kind, from_type, value) DO UPDATE SET n = excluded.n",
                    values![
                        subject.as_bytes(),
                        Counted::Version as i64,
                        ANY_TYPE,
                        Bytes::new(),
                        version
                    ],
                )
                .await?;
            report.subjects.push((subject, version as u64));
        }
        self.write_ranges().await?;
        for (&system, row) in &self.systems {
            self.db
                .execute(
                    "UPDATE social_systems SET version = ?2, events = events + ?3, bytes = bytes + ?4
                     WHERE n = ?1",
                    values![row.n, version, row.events_change, row.bytes_change],
                )
                .await?;
            report.systems.push((system, version as u64));
        }
        self.db
            .execute(
                "INSERT INTO meta (key, value) VALUES (?1, ?2)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                values![NEXT, self.next_seq],
            )
            .await?;
        report.version = version as u64;
        Ok(())
    }

    /// Moves the events that others' opinions are about to their new place among the answers of their own subjects,
    /// and marks those subjects as changed.
    async fn move_scores(&mut self, touched: &mut BTreeSet<Subject>) -> Result<()> {
        for (subject, (pointer, change)) in std::mem::take(&mut self.deltas.scores) {
            let Some((seq, event)) = self.find(&pointer).await? else { continue };
            let parents = subjects_of(&event);
            if parents.is_empty() {
                continue;
            }
            let score = if change == 0 { 0 } else { self.score_of(subject).await? };
            for &parent in parents.keys() {
                touched.insert(parent);
                if change != 0 {
                    self.db
                        .execute(
                            "UPDATE social_refs SET score = ?5
                             WHERE subject = ?1 AND from_type = ?2 AND score = ?3 AND seq = ?4",
                            values![
                                parent.as_bytes(),
                                event.content_type(),
                                score,
                                seq,
                                score + change
                            ],
                        )
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// The stored event with these very bytes.
    async fn find(&self, pointer: &Pointer) -> Result<Option<(i64, Event)>> {
        let rows = self
            .db
            .query(
                "SELECT e.seq, e.raw FROM social_systems s
                 JOIN social_processes p ON p.system = s.n AND p.process = ?2
                 JOIN social_events e ON e.process = p.n AND e.clock = ?3
                 WHERE s.key = ?1",
                values![
                    pointer.key.system.as_bytes(),
                    pointer.key.process.as_bytes(),
                    pointer.key.clock
                ],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let event = stored::event(&row.bytes(1)?)?;
        Ok((event.pointer() == *pointer).then_some((row.int(0)?, event)))
    }

    async fn write_counts(&mut self) -> Result<()> {
        for (counter, by) in std::mem::take(&mut self.deltas.counters) {
            if by == 0 {
                continue;
            }
            let named = [
                counter.subject.as_bytes().into(),
                Value::Int(counter.counted as i64),
                counter.from_type.into(),
                counter.value.into(),
                by.into(),
            ];
            self.db
                .execute(
                    "INSERT INTO social_counts (subject, kind, from_type, value, n)
                     VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT (subject, kind, from_type, value)
                     DO UPDATE SET n = social_counts.n + excluded.n",
                    &named,
                )
                .await?;
            if by < 0 {
                self.db
                    .execute(
                        "DELETE FROM social_counts WHERE subject = ?1 AND kind = ?2
                         AND from_type = ?3 AND value = ?4 AND n <= 0",
                        &named[..4],
                    )
                    .await?;
            }
        }
        for ((hour, topic), by) in std::mem::take(&mut self.deltas.topics) {
            self.db
                .execute(
                    "INSERT INTO social_topics (hour, topic, posts) VALUES (?1, ?2, ?3)
                     ON CONFLICT (hour, topic) DO UPDATE SET posts = social_topics.posts + excluded.posts",
                    values![hour, topic.clone(), by],
                )
                .await?;
            if by < 0 {
                self.db
                    .execute(
                        "DELETE FROM social_topics WHERE hour = ?1 AND topic = ?2 AND posts <= 0",
                        values![hour, topic],
                    )
                    .await?;
            }
        }
        Ok(())
    }

    async fn write_ranges(&mut self) -> Result<()> {
        let grown: Vec<(SystemKey, ProcessId)> = self
            .processes
            .iter()
            .filter(|(_, row)| !row.added.is_empty())
            .map(|(key, _)| *key)
            .collect();
        for key in grown {
            let Some(row) = self.processes.get(&key) else { continue };
            let added: Ranges = row.added.iter().copied().collect();
            let (Some(first), Some(last)) =
                (added.intervals().first().copied(), added.intervals().last().copied())
            else {
                continue;
            };
            let covered =
                row.window.is_some_and(|(low, high)| low <= first.low && high >= last.high);
            if !covered {
                self.load_ranges(key.0, key.1, first.low, last.high).await?;
            }
            let Some(row) = self.processes.get(&key) else { continue };
            let (n, old) = (row.n, row.held.clone());
            let new = old.union(&added);
            for interval in old.intervals() {
                if !new.intervals().iter().any(|kept| kept.low == interval.low) {
                    self.db
                        .execute(
                            "DELETE FROM social_ranges WHERE process = ?1 AND low = ?2",
                            values![n, interval.low],
                        )
                        .await?;
                }
            }
            for interval in new.intervals() {
                if !old.intervals().contains(interval) {
                    self.db
                        .execute(
                            "INSERT INTO social_ranges (process, low, high) VALUES (?1, ?2, ?3)
                             ON CONFLICT (process, low) DO UPDATE SET high = excluded.high",
                            values![n, interval.low, interval.high],
                        )
                        .await?;
                }
            }
        }
        Ok(())
    }
}

pub(super) fn interval(row: &Row) -> Result<Interval> {
    Ok(Interval { low: row.int(0)? as u64, high: row.int(1)? as u64 })
}

/// The different subjects of an event.
fn subjects_of(event: &Event) -> BTreeMap<Subject, &Reference> {
    let named = |reference| Some((Reference::subject(reference)?, reference));
    event.references().iter().filter_map(named).collect()
}

/// The rows of a claim: its fields by the hash of their value, and one for the claim itself.
fn claim_rows(
    fields: &[relay_proto::polycentric::ClaimFieldEntry],
) -> impl Iterator<Item = ([u8; 16], i64)> {
    let rows = fields.iter().map(|field| (field_hash(&field.value), field.key as i64));
    rows.chain([([0; 16], -1)])
}

/// Under what a field's value is found.
pub(super) fn field_hash(value: &str) -> [u8; 16] {
    *Subject::of_bytes(value.as_bytes()).as_bytes()
}
