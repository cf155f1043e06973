//! What owners and operators do: purge, handles, censorship, moderation.

use bytes::Bytes;
use relay_proto::polycentric::{EventKey, ModerationTag, ProcessId, SystemKey, content};

use super::{
    IngestReport, SocialDone, SocialEvent,
    claims::number_of,
    db::{Db, Value, values},
    read::{EVENT, NOTES, event},
    stored,
    write::Work,
};
use crate::error::Result;

/// Events of a system removed in one transaction.
const PURGE_SLICE: i64 = 500;

/// What is censored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Censored {
    System(SystemKey),
    Event(EventKey),
}

impl Censored {
    fn named(&self) -> [Value; 3] {
        match self {
            Self::System(system) => [system.as_bytes().into(), Bytes::new().into(), 0_i64.into()],
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

pub(super) async fn purge_some<D: Db>(db: &D, system: SystemKey) -> Result<SocialDone> {
    let Some(n) = number_of(db, system).await? else {
        return Ok(SocialDone::Changed(false, IngestReport::default()));
    };
    let rows = db
        .query(
            "SELECT e.seq, e.raw FROM social_processes p JOIN social_events e ON e.process = p.n
             WHERE p.system = ?1 LIMIT ?2",
            values![n, PURGE_SLICE],
        )
        .await?;
    let mut work = Work::begin(db).await?;
    let mut report = IngestReport::default();
    work.know(system).await?;
    for row in &rows {
        work.remove(row.int(0)?, &stored::event(&row.bytes(1)?)?).await?;
        report.deleted += 1;
    }
    let more = rows.len() as i64 == PURGE_SLICE;
    if !more {
        for table in ["social_tombstones", "social_ranges"] {
            let sql = format!(
                "DELETE FROM {table}
                 WHERE process IN (SELECT n FROM social_processes WHERE system = ?1)"
            );
            db.execute(&sql, values![n]).await?;
        }
        db.execute("DELETE FROM social_processes WHERE system = ?1", values![n]).await?;
        db.execute("UPDATE social_systems SET handle = NULL WHERE n = ?1", values![n]).await?;
    }
    work.finish(&mut report).await?;
    Ok(SocialDone::Changed(more, report))
}

pub(super) async fn censor<D: Db>(db: &D, what: &Censored, refuse: bool) -> Result<SocialDone> {
    let [system, process, clock] = what.named();
    let how = Value::Int(if refuse { 2 } else { 1 });
    db.execute(
        "INSERT INTO social_censored (system, process, clock, how) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (system, process, clock) DO UPDATE SET how = excluded.how",
        &[system, process, clock, how],
    )
    .await?;
    changed(db, what).await
}

pub(super) async fn uncensor<D: Db>(db: &D, what: &Censored) -> Result<SocialDone> {
    let sql = "DELETE FROM social_censored WHERE system = ?1 AND process = ?2 AND clock = ?3";
    let there = db.execute(sql, &what.named()).await? > 0;
    match changed(db, what).await? {
        SocialDone::Changed(_, report) => Ok(SocialDone::Changed(there, report)),
        other => Ok(other),
    }
}

/// Numbers a change of what is shown of a system.
async fn changed<D: Db>(db: &D, what: &Censored) -> Result<SocialDone> {
    let system = match what {
        Censored::System(system) => *system,
        Censored::Event(key) => key.system,
    };
    let mut work = Work::begin(db).await?;
    let mut report = IngestReport::default();
    work.know(system).await?;
    work.finish(&mut report).await?;
    Ok(SocialDone::Changed(true, report))
}

pub(super) async fn claim_handle<D: Db>(
    db: &D,
    system: SystemKey,
    handle: &str,
) -> Result<SocialDone> {
    let mut report = IngestReport::default();
    let owner = self::handle(db, handle.to_owned()).await?;
    if owner.is_some_and(|owner| owner != system) {
        return Ok(SocialDone::Changed(false, report));
    }
    let mut work = Work::begin(db).await?;
    work.know(system).await?;
    db.execute(
        "UPDATE social_systems SET handle = ?2 WHERE key = ?1",
        values![system.as_bytes(), handle],
    )
    .await?;
    work.finish(&mut report).await?;
    Ok(SocialDone::Changed(true, report))
}

pub(super) async fn handle<D: Db>(db: &D, handle: String) -> Result<Option<SystemKey>> {
    let sql = "SELECT key FROM social_systems WHERE handle = ?1";
    let rows = db.query(sql, values![&handle[..]]).await?;
    rows.first().map(|row| Ok(SystemKey::from_bytes(row.array(0)?))).transpose()
}

pub(super) async fn moderate<D: Db>(
    db: &D,
    seq: u64,
    state: ModerationState,
    tags: &[ModerationTag],
) -> Result<SocialDone> {
    let mut report = IngestReport::default();
    let found = db.query("SELECT raw FROM social_events WHERE seq = ?1", values![seq]).await?;
    let Some(row) = found.first() else { return Ok(SocialDone::Changed(false, report)) };
    let event = stored::event(&row.bytes(0)?)?;
    db.execute(
        "INSERT INTO social_moderation (seq, state, tags) VALUES (?1, ?2, ?3)
         ON CONFLICT (seq) DO UPDATE SET state = excluded.state, tags = excluded.tags",
        values![seq, state as i64, &text_of(tags)[..]],
    )
    .await?;
    let mut work = Work::begin(db).await?;
    work.know(event.system()).await?;
    work.touch(&event);
    work.finish(&mut report).await?;
    Ok(SocialDone::Changed(true, report))
}

pub(super) async fn waiting<D: Db>(db: &D, after: u64, limit: usize) -> Result<Vec<Waiting>> {
    let sql = format!(
        "SELECT {EVENT} FROM social_moderation w JOIN social_events e ON e.seq = w.seq {NOTES}
         WHERE w.state = 0 AND w.seq > ?1 ORDER BY w.seq LIMIT ?2"
    );
    let rows = db.query(&sql, values![after, limit as u64]).await?;
    rows.iter().map(|row| Ok(Waiting { event: event(row)? })).collect()
}

pub(super) async fn censored<D: Db>(db: &D) -> Result<Vec<(Censored, bool)>> {
    let sql =
        "SELECT system, process, clock, how FROM social_censored ORDER BY system, process, clock";
    let rows = db.query(sql, &[]).await?;
    rows.iter()
        .map(|row| {
            let system = SystemKey::from_bytes(row.array(0)?);
            let what = if row.bytes(1)?.is_empty() {
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
pub(super) async fn some_systems<D: Db>(db: &D, from: u64, limit: usize) -> Result<Vec<SystemKey>> {
    let newest = db.query("SELECT COALESCE(MAX(n), 0) FROM social_systems", &[]).await?;
    let newest = newest.first().map_or(Ok(0), |row| row.int(0))?;
    if newest == 0 {
        return Ok(Vec::new());
    }
    let from = (from % newest as u64) as i64;
    let mut found = Vec::new();
    // From a random place to the end, then from the beginning to that place.
    for (low, high) in [(from, newest), (0, from)] {
        let rows = db
            .query(
                "SELECT s.key FROM social_systems s WHERE s.n > ?1 AND s.n <= ?2
                 AND EXISTS (SELECT 1 FROM social_lww l
                             WHERE l.subject = ?3 AND l.system = s.n AND l.content_type = ?4)
                 AND NOT EXISTS (SELECT 1 FROM social_censored c
                                 WHERE c.system = s.key AND c.process = ?5)
                 ORDER BY s.n LIMIT ?6",
                values![low, high, &[0_u8; 16], content::USERNAME, Bytes::new(), limit as u64],
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

pub(super) async fn totals<D: Db>(db: &D) -> Result<(u64, u64, u64)> {
    let rows = db
        .query(
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
