//! What owners and operators do: purge, handles, censorship, moderation.

use relay_proto::polycentric::{Event, EventKey, ModerationTag, ProcessId, SystemKey, content};

use super::{
    IngestReport, SocialDone, SocialEvent,
    claims::number_of,
    read::{EVENT, NOTES, event},
    stored,
    write::Work,
};
use crate::{
    error::Result,
    sql::{Arg, EMPTY, Row, Sql, args},
};

/// Events of a system removed in one transaction.
const PURGE_SLICE: i64 = 500;

/// What is censored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Censored {
    System(SystemKey),
    Event(EventKey),
}

impl Censored {
    fn named(&self) -> [Arg<'_>; 3] {
        match self {
            Self::System(system) => [system.as_bytes().into(), EMPTY.into(), 0_i64.into()],
            Self::Event(key) => {
                [key.system.as_bytes().into(), key.process.as_bytes().into(), key.clock.into()]
            }
        }
    }
}

/// Whether an event is shown while moderation is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModerationState {
    Waiting = 0,
    Approved = 1,
    Hidden = 2,
}

impl ModerationState {
    pub(super) fn of(number: i64) -> Self {
        match number {
            1 => Self::Approved,
            2 => Self::Hidden,
            _ => Self::Waiting,
        }
    }
}

/// An event that waits for approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub event: SocialEvent,
}

pub(super) async fn purge_some<S: Sql>(sql: &S, system: SystemKey) -> Result<SocialDone> {
    let Some(n) = number_of(sql, system).await? else {
        return Ok(SocialDone::Changed(false, IngestReport::default()));
    };
    let rows = sql
        .rows(
            "SELECT e.seq, e.raw FROM social_processes p JOIN social_events e ON e.process = p.n
             WHERE p.system = ?1 LIMIT ?2",
            args![n, PURGE_SLICE],
        )
        .await?;
    let mut work = Work::begin(sql).await?;
    let mut report = IngestReport::default();
    work.know(system).await?;
    let stored =
        |row: &Row| -> Result<(i64, Event)> { Ok((row.int(0)?, stored::event(&row.shared(1)?)?)) };
    let events: Vec<(i64, Event)> = rows.iter().map(stored).collect::<Result<_>>()?;
    work.look_ahead(events.iter().map(|(_, event)| event)).await?;
    for (seq, event) in &events {
        work.remove(*seq, event).await?;
        report.deleted += 1;
    }
    let more = rows.len() as i64 == PURGE_SLICE;
    if !more {
        for table in ["social_tombstones", "social_ranges"] {
            let text = format!(
                "DELETE FROM {table}
                 WHERE process IN (SELECT n FROM social_processes WHERE system = ?1)"
            );
            sql.run(&text, args![n]).await?;
        }
        sql.run("DELETE FROM social_processes WHERE system = ?1", args![n]).await?;
        sql.run("UPDATE social_systems SET handle = NULL WHERE n = ?1", args![n]).await?;
    }
    work.finish(&mut report).await?;
    Ok(SocialDone::Changed(more, report))
}

pub(super) async fn censor<S: Sql>(sql: &S, what: &Censored, refuse: bool) -> Result<SocialDone> {
    let [system, process, clock] = what.named();
    let how = Arg::Number(if refuse { 2 } else { 1 });
    sql.run(
        "INSERT INTO social_censored (system, process, clock, how) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (system, process, clock) DO UPDATE SET how = excluded.how",
        &[system, process, clock, how],
    )
    .await?;
    changed(sql, what).await
}

pub(super) async fn uncensor<S: Sql>(sql: &S, what: &Censored) -> Result<SocialDone> {
    let text = "DELETE FROM social_censored WHERE system = ?1 AND process = ?2 AND clock = ?3";
    let there = sql.run(text, &what.named()).await? > 0;
    match changed(sql, what).await? {
        SocialDone::Changed(_, report) => Ok(SocialDone::Changed(there, report)),
        other => Ok(other),
    }
}

/// Numbers a change of what is shown of a system.
async fn changed<S: Sql>(sql: &S, what: &Censored) -> Result<SocialDone> {
    let system = match what {
        Censored::System(system) => *system,
        Censored::Event(key) => key.system,
    };
    let mut work = Work::begin(sql).await?;
    let mut report = IngestReport::default();
    work.know(system).await?;
    work.finish(&mut report).await?;
    Ok(SocialDone::Changed(true, report))
}

pub(super) async fn claim_handle<S: Sql>(
    sql: &S,
    system: SystemKey,
    handle: &str,
) -> Result<SocialDone> {
    let mut report = IngestReport::default();
    let owner = self::handle(sql, handle.to_owned()).await?;
    if owner.is_some_and(|owner| owner != system) {
        return Ok(SocialDone::Changed(false, report));
    }
    let mut work = Work::begin(sql).await?;
    work.know(system).await?;
    sql.run(
        "UPDATE social_systems SET handle = ?2 WHERE key = ?1",
        args![system.as_bytes(), handle],
    )
    .await?;
    work.finish(&mut report).await?;
    Ok(SocialDone::Changed(true, report))
}

pub(super) async fn handle<S: Sql>(sql: &S, handle: String) -> Result<Option<SystemKey>> {
    let text = "SELECT key FROM social_systems WHERE handle = ?1";
    let rows = sql.rows(text, args![&handle[..]]).await?;
    rows.first().map(|row| Ok(SystemKey::from_bytes(row.array(0)?))).transpose()
}

pub(super) async fn moderate<S: Sql>(
    sql: &S,
    seq: u64,
    state: ModerationState,
    tags: &[ModerationTag],
) -> Result<SocialDone> {
    let mut report = IngestReport::default();
    let found = sql.rows("SELECT raw FROM social_events WHERE seq = ?1", args![seq]).await?;
    let Some(row) = found.first() else { return Ok(SocialDone::Changed(false, report)) };
    let event = stored::event(&row.shared(0)?)?;
    sql.run(
        "INSERT INTO social_moderation (seq, state, tags) VALUES (?1, ?2, ?3)
         ON CONFLICT (seq) DO UPDATE SET state = excluded.state, tags = excluded.tags",
        args![seq, state as i64, &text_of(tags)[..]],
    )
    .await?;
    let mut work = Work::begin(sql).await?;
    work.know(event.system()).await?;
    work.touch(&event);
    work.finish(&mut report).await?;
    Ok(SocialDone::Changed(true, report))
}

pub(super) async fn waiting<S: Sql>(sql: &S, after: u64, limit: usize) -> Result<Vec<Waiting>> {
    let text = format!(
        "SELECT {EVENT} FROM social_moderation w JOIN social_events e ON e.seq = w.seq {NOTES}
         WHERE w.state = 0 AND w.seq > ?1 ORDER BY w.seq LIMIT ?2"
    );
    let rows = sql.rows(&text, args![after, limit as u64]).await?;
    rows.iter().map(|row| Ok(Waiting { event: event(row)? })).collect()
}

pub(super) async fn censored<S: Sql>(sql: &S) -> Result<Vec<(Censored, bool)>> {
    let text =
        "SELECT system, process, clock, how FROM social_censored ORDER BY system, process, clock";
    let rows = sql.rows(text, &[]).await?;
    rows.iter()
        .map(|row| {
            let system = SystemKey::from_bytes(row.array(0)?);
            let what = if row.shared(1)?.is_empty() {
                Censored::System(system)
            } else {
                let process = ProcessId::from_bytes(row.array(1)?);
                Censored::Event(EventKey { system, process, clock: row.int(2)? as u64 })
            };
            Ok((what, row.int(3)? == 2))
        })
        .collect()
}

/// Systems with a name, by their number in the order of arrival, beginning at a place that `from` names.
pub(super) async fn some_systems<S: Sql>(
    sql: &S,
    from: u64,
    limit: usize,
) -> Result<Vec<SystemKey>> {
    let newest = sql.rows("SELECT COALESCE(MAX(n), 0) FROM social_systems", &[]).await?;
    let newest = newest.first().map_or(Ok(0), |row| row.int(0))?;
    if newest == 0 {
        return Ok(Vec::new());
    }
    let from = (from % newest as u64) as i64;
    let mut found = Vec::new();
    // From a random place to the end, then from the beginning to that place.
    for (low, high) in [(from, newest), (0, from)] {
        let rows = sql
            .rows(
                "SELECT s.key FROM social_systems s WHERE s.n > ?1 AND s.n <= ?2
                 AND EXISTS (SELECT 1 FROM social_lww l
                             WHERE l.subject = ?3 AND l.system = s.n AND l.content_type = ?4)
                 AND NOT EXISTS (SELECT 1 FROM social_censored c
                                 WHERE c.system = s.key AND c.process = ?5)
                 ORDER BY s.n LIMIT ?6",
                args![low, high, &[0_u8; 16], content::USERNAME, EMPTY, limit as u64],
            )
            .await?;
        for row in rows {
            if found.len() < limit {
                found.push(SystemKey::from_bytes(row.array(0)?));
            }
        }
    }
    Ok(found)
}

/// How much a system holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemUsage {
    pub system: SystemKey,
    pub handle: Option<String>,
    pub processes: u64,
    pub events: u64,
    pub bytes: u64,
}

/// What one system holds, or those that hold most.
pub(super) async fn usage<S: Sql>(
    sql: &S,
    system: Option<SystemKey>,
    limit: usize,
) -> Result<Vec<SystemUsage>> {
    const USAGE: &str = "SELECT s.key, s.handle, s.events, s.bytes,
                             (SELECT COUNT(*) FROM social_processes p WHERE p.system = s.n)
                         FROM social_systems s";
    let mut rows = match system {
        Some(system) => {
            let text = format!("{USAGE} WHERE s.key = ?1");
            sql.rows(&text, args![system.as_bytes()]).await?
        }
        None => {
            let text = format!("{USAGE} ORDER BY s.bytes DESC, s.n LIMIT ?1");
            sql.rows(&text, args![limit as u64]).await?
        }
    };
    rows.iter_mut()
        .map(|row| {
            Ok(SystemUsage {
                system: SystemKey::from_bytes(row.array(0)?),
                handle: row.opt_text(1)?,
                events: row.number(2)?,
                bytes: row.number(3)?,
                processes: row.number(4)?,
            })
        })
        .collect()
}

pub(super) async fn totals<S: Sql>(sql: &S) -> Result<(u64, u64, u64)> {
    let rows = sql
        .rows(
            "SELECT COUNT(*), CAST(COALESCE(SUM(events), 0) AS BIGINT),
                 (SELECT COUNT(*) FROM social_moderation WHERE state = 0)
             FROM social_systems",
            &[],
        )
        .await?;
    let Some(row) = rows.first() else { return Ok((0, 0, 0)) };
    Ok((row.int(0)? as u64, row.int(1)? as u64, row.int(2)? as u64))
}

pub(super) fn tags_of(text: &str) -> Vec<ModerationTag> {
    let pairs: Vec<(String, u32)> = serde_json::from_str(text).unwrap_or_default();
    pairs.into_iter().map(|(name, level)| ModerationTag { name, level }).collect()
}

pub(super) fn text_of(tags: &[ModerationTag]) -> String {
    let pairs: Vec<(&str, u32)> = tags.iter().map(|tag| (&tag.name[..], tag.level)).collect();
    serde_json::to_string(&pairs).unwrap_or_default()
}
