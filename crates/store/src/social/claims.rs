//! Claims that somebody vouches for.

use relay_proto::polycentric::SystemKey;

use super::{SocialEvent, read::by_seq, write::field_hash};
use crate::{
    error::Result,
    sql::{Sql, args},
};

/// Pairs of claim and vouch that are looked at for one answer.
const MAX_CANDIDATES: i64 = 10_000;

/// Asks for claims with these fields and a vouch for each.
#[derive(Debug, Clone)]
pub struct ClaimsQuery {
    pub claim_type: u64,
    /// Who vouches.
    pub root: SystemKey,
    /// Who claims; `None` is anybody.
    pub claimer: Option<SystemKey>,
    /// All have to be there; a key of `None` is any.
    pub fields: Vec<(Option<u64>, String)>,
    pub limit: usize,
}

pub(super) async fn matches<S: Sql>(
    sql: &S,
    query: ClaimsQuery,
) -> Result<Vec<(SocialEvent, SocialEvent)>> {
    let Some(root) = number_of(sql, query.root).await? else { return Ok(Vec::new()) };
    let claimer = match query.claimer {
        None => None,
        Some(claimer) => match number_of(sql, claimer).await? {
            None => return Ok(Vec::new()),
            found => found,
        },
    };
    let hashed: Vec<(Option<u64>, [u8; 16])> =
        query.fields.iter().map(|(key, value)| (*key, field_hash(value))).collect();
    // One field finds candidates, the others are looked up; a claim without fields is found by the row of its own.
    let (first, others) = match hashed.split_first() {
        Some((first, others)) => (first.1, others),
        None => ([0; 16], &[][..]),
    };
    let rows = sql
        .rows(
            "SELECT c.seq, v.seq, c.key, c.system FROM social_claims c
             JOIN social_vouches v ON v.system = ?3 AND v.subject = c.subject
             WHERE c.claim_type = ?1 AND c.value = ?2 ORDER BY v.seq DESC LIMIT ?4",
            args![query.claim_type, &first, root, MAX_CANDIDATES],
        )
        .await?;
    let wanted_key = hashed.first().and_then(|(key, _)| *key);
    let mut found: Vec<(i64, i64)> = Vec::new();
    for row in rows {
        let (claim, vouch, key, system) = (row.int(0)?, row.int(1)?, row.int(2)?, row.int(3)?);
        let right = claimer.is_none_or(|claimer| claimer == system)
            && wanted_key.is_none_or(|wanted| wanted as i64 == key)
            && !found.contains(&(claim, vouch))
            && has_all(sql, query.claim_type, system, claim, others).await?;
        if right {
            found.push((claim, vouch));
            if found.len() >= query.limit {
                break;
            }
        }
    }
    let mut pairs = Vec::with_capacity(found.len());
    for (claim, vouch) in found {
        if let (Some(claim), Some(vouch)) = (by_seq(sql, claim).await?, by_seq(sql, vouch).await?) {
            pairs.push((claim, vouch));
        }
    }
    Ok(pairs)
}

async fn has_all<S: Sql>(
    sql: &S,
    claim_type: u64,
    system: i64,
    seq: i64,
    fields: &[(Option<u64>, [u8; 16])],
) -> Result<bool> {
    for (key, value) in fields {
        let rows = sql
            .rows(
                "SELECT key FROM social_claims
                 WHERE claim_type = ?1 AND value = ?2 AND system = ?3 AND seq = ?4",
                args![claim_type, value, system, seq],
            )
            .await?;
        let mut there = false;
        for row in rows {
            let found = row.int(0)?;
            there |= key.is_none_or(|wanted| wanted as i64 == found);
        }
        if !there {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) async fn number_of<S: Sql>(sql: &S, system: SystemKey) -> Result<Option<i64>> {
    let text = "SELECT n FROM social_systems WHERE key = ?1";
    let rows = sql.rows(text, args![system.as_bytes()]).await?;
    rows.first().map(|row| row.int(0)).transpose()
}
