//! Whose events are held, of which processes, and which clocks: what is new in a request.

use std::collections::BTreeMap;

use relay_proto::polycentric::{Event, EventKey, Interval, ProcessId, Ranges, SystemKey};

use super::{
    super::{MAX_INTERVALS, MAX_PROCESSES, Over, OverWhat},
    Work,
};
use crate::{
    error::{Result, StoreError},
    sql::{Row, Sql, args, exists, one},
};

#[derive(Debug, Clone, Copy)]
pub(super) struct SystemRow {
    pub n: i64,
    bytes: i64,
    events_change: i64,
    bytes_change: i64,
    /// Nothing of it is stored.
    refused: bool,
    /// Some of its events are not stored.
    some_refused: bool,
}

#[derive(Debug)]
pub(super) struct ProcessRow {
    n: i64,
    /// What is held between these clocks.
    window: Option<(u64, u64)>,
    held: Ranges,
    added: Vec<u64>,
}

pub(in super::super) fn interval(row: &Row) -> Result<Interval> {
    Ok(Interval { low: row.number(0)?, high: row.number(1)? })
}

impl<S: Sql> Work<'_, S> {
    /// The events that are neither held nor deleted.
    pub(super) async fn fresh(&mut self, events: Vec<Event>) -> Result<BTreeMap<EventKey, Event>> {
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

    pub(super) fn over_quota(
        &self,
        fresh: &BTreeMap<EventKey, Event>,
        max: impl Fn(&SystemKey) -> Option<u64>,
    ) -> Option<SystemKey> {
        let mut sums: BTreeMap<SystemKey, u64> = BTreeMap::new();
        for event in fresh.values() {
            *sums.entry(event.system()).or_default() += event.bytes().len() as u64;
        }
        sums.into_iter().find_map(|(system, sum)| {
            let held = self.systems.get(&system).map_or(0, |row| row.bytes.max(0) as u64);
            max(&system).is_some_and(|max| held + sum > max).then_some(system)
        })
    }

    /// Takes out what an operator does not want stored. Its clocks count as held, or clients would send it for ever.
    pub(super) async fn refuse(&mut self, fresh: &mut BTreeMap<EventKey, Event>) -> Result<()> {
        let keys: Vec<EventKey> = fresh.keys().copied().collect();
        for key in keys {
            let Some(row) = self.systems.get(&key.system) else { continue };
            let refused = row.refused
                || row.some_refused
                    && exists(
                        self.sql,
                        "SELECT 1 FROM social_censored
                         WHERE system = ?1 AND process = ?2 AND clock = ?3 AND how = 2",
                        args![key.system.as_bytes(), key.process.as_bytes(), key.clock],
                    )
                    .await?;
            if refused {
                fresh.remove(&key);
                self.hold(key)?;
            }
        }
        Ok(())
    }

    pub(super) async fn load_system(&mut self, system: SystemKey) -> Result<SystemRow> {
        if let Some(row) = self.systems.get(&system) {
            return Ok(*row);
        }
        // The shortest process among what is refused is the empty one, where it is the whole system.
        let find = "SELECT s.n, s.bytes,
                        (SELECT MIN(length(c.process)) FROM social_censored c
                         WHERE c.system = ?1 AND c.how = 2)
                    FROM social_systems s WHERE s.key = ?1";
        let mut found = one(self.sql, find, args![system.as_bytes()]).await?;
        if found.is_none() {
            self.sql
                .run_later(
                    "INSERT INTO social_systems (key, version, events, bytes) VALUES (?1, 0, 0, 0)",
                    args![system.as_bytes()],
                )
                .await?;
            found = one(self.sql, find, args![system.as_bytes()]).await?;
        }
        let found = found.ok_or(StoreError::Closed)?;
        let refused = found.opt_int(2)?;
        let row = SystemRow {
            n: found.int(0)?,
            bytes: found.int(1)?,
            events_change: 0,
            bytes_change: 0,
            refused: refused == Some(0),
            some_refused: refused.is_some(),
        };
        self.systems.insert(system, row);
        Ok(row)
    }

    pub(super) async fn load_process(
        &mut self,
        system: SystemKey,
        process: ProcessId,
    ) -> Result<i64> {
        let owner = self.load_system(system).await?.n;
        if let Some(row) = self.processes.get(&(system, process)) {
            return Ok(row.n);
        }
        let find = "SELECT n FROM social_processes WHERE system = ?1 AND process = ?2";
        let named = args![owner, process.as_bytes()];
        let mut found = one(self.sql, find, named).await?;
        if found.is_none() {
            let count = "SELECT COUNT(*) FROM social_processes WHERE system = ?1";
            let known = one(self.sql, count, args![owner]).await?;
            if known.map_or(Ok(0), |row| row.number(0))? >= MAX_PROCESSES {
                return Err(StoreError::Over(Over { system, what: OverWhat::Processes }));
            }
            let add = "INSERT INTO social_processes (system, process) VALUES (?1, ?2)";
            self.sql.run_later(add, named).await?;
            found = one(self.sql, find, named).await?;
        }
        let n = found.ok_or(StoreError::Closed)?.int(0)?;
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
            .sql
            .rows(
                "SELECT low, high FROM social_ranges WHERE process = ?1 AND low <= ?2 AND low >=
                     COALESCE((SELECT MAX(low) FROM social_ranges WHERE process = ?1 AND low <= ?3), 0)
                 ORDER BY low",
                args![row.n, high.saturating_add(1), low.saturating_sub(1)],
            )
            .await?;
        let intervals: Result<Vec<Interval>> = rows.iter().map(interval).collect();
        row.held = Ranges::of(intervals?);
        row.window = Some((low, high));
        Ok(())
    }

    /// Counts a clock as held from now on. Gives the number of its process.
    pub(super) fn hold(&mut self, key: EventKey) -> Result<i64> {
        let row = self.processes.get_mut(&(key.system, key.process)).ok_or(StoreError::Closed)?;
        row.added.push(key.clock);
        Ok(row.n)
    }

    pub(super) fn account(&mut self, event: &Event, by: i64) -> Result<()> {
        let row = self.systems.get_mut(&event.system()).ok_or(StoreError::Closed)?;
        row.events_change += by;
        row.bytes_change += by * event.bytes().len() as i64;
        Ok(())
    }

    pub(super) async fn write_ranges(&mut self) -> Result<()> {
        let grown: Vec<(SystemKey, ProcessId)> = self
            .processes
            .iter()
            .filter(|(_, row)| !row.added.is_empty())
            .map(|(key, _)| *key)
            .collect();
        for key in grown {
            self.write_ranges_of(key).await?;
        }
        Ok(())
    }

    async fn write_ranges_of(&mut self, (system, process): (SystemKey, ProcessId)) -> Result<()> {
        let Some(row) = self.processes.get(&(system, process)) else { return Ok(()) };
        let added: Ranges = row.added.iter().copied().collect();
        let (Some(first), Some(last)) =
            (added.intervals().first().copied(), added.intervals().last().copied())
        else {
            return Ok(());
        };
        let covered = row.window.is_some_and(|(low, high)| low <= first.low && high >= last.high);
        if !covered {
            self.load_ranges(system, process, first.low, last.high).await?;
        }
        let Some(row) = self.processes.get(&(system, process)) else { return Ok(()) };
        let old = &row.held;
        let new = old.union(&added);
        for interval in old.intervals() {
            if !new.intervals().iter().any(|kept| kept.low == interval.low) {
                self.sql
                    .run_later(
                        "DELETE FROM social_ranges WHERE process = ?1 AND low = ?2",
                        args![row.n, interval.low],
                    )
                    .await?;
            }
        }
        for interval in new.intervals() {
            if !old.intervals().contains(interval) {
                self.sql
                    .run_later(
                        "INSERT INTO social_ranges (process, low, high) VALUES (?1, ?2, ?3)
                         ON CONFLICT (process, low) DO UPDATE SET high = excluded.high",
                        args![row.n, interval.low, interval.high],
                    )
                    .await?;
            }
        }
        if new.intervals().len() > old.intervals().len() {
            self.check_intervals(system).await?;
        }
        Ok(())
    }

    /// Clocks without gaps take one interval a process; what has thousands of gaps no client made.
    async fn check_intervals(&mut self, system: SystemKey) -> Result<()> {
        let owner = self.load_system(system).await?.n;
        let held = one(
            self.sql,
            "SELECT COUNT(*) FROM social_processes p JOIN social_ranges r ON r.process = p.n
             WHERE p.system = ?1",
            args![owner],
        )
        .await?;
        if held.map_or(Ok(0), |row| row.number(0))? > MAX_INTERVALS {
            return Err(StoreError::Over(Over { system, what: OverWhat::Gaps }));
        }
        Ok(())
    }

    pub(super) async fn write_systems(&self, version: i64) -> Result<()> {
        for row in self.systems.values() {
            self.sql
                .run_later(
                    "UPDATE social_systems SET version = ?2, events = events + ?3, bytes = bytes + ?4
                     WHERE n = ?1",
                    args![row.n, version, row.events_change, row.bytes_change],
                )
                .await?;
        }
        Ok(())
    }
}
