//! Vaults and attachments' rows (`gateway.md` 15).

use relay_proto::NodeId;

use crate::{
    Store,
    error::Result,
    sql::{Sql, look, one, one_locked, transact},
};

/// An attachment whose bytes lie in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRow {
    /// BLAKE3 of the bytes.
    pub hash: [u8; 32],
    pub owner: NodeId,
    pub size: u64,
    pub created_at_ms: u64,
    pub expires_at_ms: u64,
}

/// Why an attachment is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobRefusal {
    /// The owner's attachments would have so many bytes.
    Quota { used: u64 },
}

impl Store {
    /// A user's vault: its version and bytes.
    pub async fn vault(&self, user: NodeId) -> Result<Option<(u64, Vec<u8>)>> {
        look!(self, user, vault)
    }

    /// Replaces a vault whose version is `expected` (0: there is none); else gives the present version.
    pub async fn set_vault(
        &self,
        user: NodeId,
        expected: u64,
        blob: Vec<u8>,
        now_ms: u64,
    ) -> Result<Result<u64, u64>> {
        let asked = (user, expected, blob, now_ms);
        transact!(self, asked, set_vault)
    }

    /// Keeps an attachment's row; one that is there already lives at least as long as both.
    pub async fn put_blob(&self, row: BlobRow, quota: u64) -> Result<Result<(), BlobRefusal>> {
        let asked = (row, quota);
        transact!(self, asked, put_blob)
    }

    /// How many bytes of attachments a user has.
    pub async fn blob_usage(&self, owner: NodeId) -> Result<u64> {
        look!(self, owner, usage)
    }

    /// The row of an attachment.
    pub async fn blob(&self, hash: [u8; 32]) -> Result<Option<BlobRow>> {
        look!(self, hash, blob)
    }

    /// Some attachments that expired by `now_ms`, or some of one user's.
    pub async fn expired_blobs(&self, now_ms: u64, limit: u64) -> Result<Vec<[u8; 32]>> {
        let asked = (now_ms, limit);
        look!(self, asked, expired_blobs)
    }

    /// Deletes an attachment's row if it has expired by `now_ms`.
    pub async fn drop_blob(&self, hash: [u8; 32], now_ms: u64) -> Result<bool> {
        let asked = (hash, now_ms);
        transact!(self, asked, drop_blob)
    }
}

async fn vault<S: Sql>(sql: &S, user: &NodeId) -> Result<Option<(u64, Vec<u8>)>> {
    let text = "SELECT version, blob FROM vaults WHERE user_key = ?1";
    let row = one(sql, text, &[user.into()]).await?;
    row.map(|mut row| Ok((row.number(0)?, row.bytes(1)?))).transpose()
}

async fn set_vault<S: Sql>(
    sql: &S,
    (user, expected, blob, now_ms): &(NodeId, u64, Vec<u8>, u64),
) -> Result<Result<u64, u64>> {
    sql.lock_user(user).await?;
    let text = "SELECT version FROM vaults WHERE user_key = ?1";
    let row = one_locked(sql, text, &[user.into()]).await?;
    let present = row.map_or(Ok(0), |row| row.number(0))?;
    if present != *expected {
        return Ok(Err(present));
    }
    sql.run(
        "INSERT INTO vaults (user_key, version, blob, updated_at_ms) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (user_key) DO UPDATE SET version = excluded.version, blob = excluded.blob,
             updated_at_ms = excluded.updated_at_ms",
        &[user.into(), (present + 1).into(), (&blob[..]).into(), (*now_ms).into()],
    )
    .await?;
    Ok(Ok(present + 1))
}

async fn put_blob<S: Sql>(
    sql: &S,
    (row, quota): &(BlobRow, u64),
) -> Result<Result<(), BlobRefusal>> {
    sql.lock_user(&row.owner).await?;
    let used = usage(sql, &row.owner).await?;
    let known = blob(sql, &row.hash).await?;
    if known.is_none() && used.saturating_add(row.size) > *quota {
        return Ok(Err(BlobRefusal::Quota { used }));
    }
    sql.run(
        "INSERT INTO blobs (hash, owner, size, created_at_ms, expires_at_ms) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (hash) DO UPDATE SET expires_at_ms =
             CASE WHEN blobs.expires_at_ms < excluded.expires_at_ms THEN excluded.expires_at_ms
                  ELSE blobs.expires_at_ms END",
        &[
            (&row.hash).into(),
            (&row.owner).into(),
            row.size.into(),
            row.created_at_ms.into(),
            row.expires_at_ms.into(),
        ],
    )
    .await?;
    Ok(Ok(()))
}

async fn usage<S: Sql>(sql: &S, owner: &NodeId) -> Result<u64> {
    let text = "SELECT CAST(coalesce(sum(size), 0) AS bigint) FROM blobs WHERE owner = ?1";
    one(sql, text, &[owner.into()]).await?.map_or(Ok(0), |row| row.number(0))
}

async fn blob<S: Sql>(sql: &S, hash: &[u8; 32]) -> Result<Option<BlobRow>> {
    let text = "SELECT owner, size, created_at_ms, expires_at_ms FROM blobs WHERE hash = ?1";
    let row = one(sql, text, &[hash.into()]).await?;
    row.map(|mut row| {
        Ok(BlobRow {
            hash: *hash,
            owner: row.key(0)?,
            size: row.number(1)?,
            created_at_ms: row.number(2)?,
            expires_at_ms: row.number(3)?,
        })
    })
    .transpose()
}

async fn expired_blobs<S: Sql>(sql: &S, (now_ms, limit): &(u64, u64)) -> Result<Vec<[u8; 32]>> {
    let text = "SELECT hash FROM blobs WHERE expires_at_ms <= ?1 ORDER BY expires_at_ms LIMIT ?2";
    let rows = sql.rows(text, &[(*now_ms).into(), (*limit).into()]).await?;
    rows.into_iter().map(|row| row.array(0)).collect()
}

async fn drop_blob<S: Sql>(sql: &S, (hash, now_ms): &([u8; 32], u64)) -> Result<bool> {
    let text = "DELETE FROM blobs WHERE hash = ?1 AND expires_at_ms <= ?2";
    Ok(sql.run(text, &[hash.into(), (*now_ms).into()]).await? > 0)
}
