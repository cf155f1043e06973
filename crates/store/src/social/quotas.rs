//! What operators allow single identities.

use relay_proto::polycentric::SystemKey;

use super::{IngestReport, SocialDone};
use crate::{
    error::Result,
    sql::{Sql, args},
};

/// What one identity may, in place of what all may. `None` is as for all, 0 no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocialQuota {
    pub system: SystemKey,
    /// Bytes of its events that are held.
    pub bytes: Option<u64>,
    /// Its events a second in the long run.
    pub events_per_sec: Option<u32>,
    /// When it was set, unix milliseconds.
    pub set_at_ms: u64,
}

pub(super) async fn set<S: Sql>(sql: &S, quota: &SocialQuota) -> Result<SocialDone> {
    sql.run(
        "INSERT INTO social_quotas (system, bytes, events_per_sec, set_at_ms) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (system) DO UPDATE SET bytes = excluded.bytes,
             events_per_sec = excluded.events_per_sec, set_at_ms = excluded.set_at_ms",
        args![
            quota.system.as_bytes(),
            quota.bytes,
            quota.events_per_sec.map(u64::from),
            quota.set_at_ms
        ],
    )
    .await?;
    Ok(SocialDone::Changed(true, IngestReport::default()))
}

pub(super) async fn remove<S: Sql>(sql: &S, system: SystemKey) -> Result<SocialDone> {
    let text = "DELETE FROM social_quotas WHERE system = ?1";
    let there = sql.run(text, args![system.as_bytes()]).await? > 0;
    Ok(SocialDone::Changed(there, IngestReport::default()))
}

pub(super) async fn all<S: Sql>(sql: &S) -> Result<Vec<SocialQuota>> {
    let text = "SELECT system, bytes, events_per_sec, set_at_ms FROM social_quotas ORDER BY system";
    let rows = sql.rows(text, &[]).await?;
    rows.iter()
        .map(|row| {
            let per_sec = row.opt_number(2)?;
            Ok(SocialQuota {
                system: SystemKey::from_bytes(row.array(0)?),
                bytes: row.opt_number(1)?,
                events_per_sec: per_sec.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
                set_at_ms: row.number(3)?,
            })
        })
        .collect()
}
