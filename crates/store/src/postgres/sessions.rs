//! Sessions on PostgreSQL.
//!
//! Whatever depends on more than one row of a user runs under that user's lock, so that a session cannot start
//! beside the revocation that forbids it.

use std::borrow::Cow;

use deadpool_postgres::{Object, Transaction};
use relay_proto::{
    NodeId,
    auth::{DeviceId, SessionId, TokenHash},
};
use tokio_postgres::{Row, types::ToSql};

use super::{PostgresStore, log::bytes32};
use crate::{
    error::{Result, StoreError},
    sessions::{
        AuthTokenRow, Ending, NewSession, Opened, ProofFacts, Resumption, SessionLimits, SessionRow,
    },
};

const COLUMNS: &str = "id, user_key, device_id, client_label, token, previous_token,
     previous_until_ms, resume_token, generation, created_at_ms, expires_at_ms, last_seen_at_ms,
     edge_grant";

/// The class of advisory locks on users; the writer's lock is of the other kind and cannot meet them.
const USER_LOCKS: i32 = 1;

type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

impl PostgresStore {
    pub(crate) async fn insert_auth_token(&self, row: AuthTokenRow) -> Result<()> {
        let mut client = self.client().await?;
        let tx = of_user(&mut client, &row.user).await?;
        if let Some(credential) = &row.credential {
            remember_credential(&tx, &row.user, &row.device, credential).await?;
        }
        tx.execute(
            "INSERT INTO auth_tokens
                 (token, user_key, device_id, credential_hash, created_at_ms, expires_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                &hash(&row.token),
                &key(&row.user),
                &row.device.as_str(),
                &row.credential.as_ref().map(|hash| &hash[..]),
                &(row.created_at_ms as i64),
                &(row.expires_at_ms as i64),
            ],
        )
        .await?;
        Ok(tx.commit().await?)
    }

    pub(crate) async fn find_auth_token(&self, token: TokenHash) -> Result<Option<AuthTokenRow>> {
        let client = self.client().await?;
        let statement = client.prepare_cached(AUTH_TOKEN).await?;
        let row = client.query_opt(&statement, &[&hash(&token)]).await?;
        row.as_ref().map(auth_token_row).transpose()
    }

    pub(crate) async fn open_session(&self, new: NewSession) -> Result<Opened> {
        let mut client = self.client().await?;
        let tx = of_user(&mut client, &new.row.user).await?;
        if !proof_holds(&tx, &new).await? {
            return Ok(Opened::ProofRefused);
        }
        if let Some(credential) = &new.credential
            && !credential_holds(&tx, &new, credential).await?
        {
            return Ok(Opened::CredentialRefused);
        }
        insert(&tx, &new.row).await?;
        let ended = make_room(&tx, &new.row, new.limits).await?;
        tx.commit().await?;
        Ok(Opened::Started { ended })
    }

    pub(crate) async fn resume_session(&self, with: Resumption) -> Result<Option<SessionRow>> {
        let client = self.client().await?;
        let sql = format!(
            "UPDATE sessions SET
                 previous_token = token, previous_until_ms = $1, token = $2, resume_token = $3,
                 generation = generation + 1, last_seen_at_ms = $4,
                 expires_at_ms = least($4::bigint + $5::bigint, created_at_ms + $6::bigint),
                 edge_grant = coalesce($8, edge_grant)
             WHERE resume_token = $7 AND expires_at_ms > $4 AND created_at_ms + $6 > $4
             RETURNING {COLUMNS}"
        );
        let statement = client.prepare_cached(&sql).await?;
        let row = client
            .query_opt(
                &statement,
                &[
                    &((with.now_ms + with.grace_ms) as i64),
                    &hash(&with.token),
                    &hash(&with.resume),
                    &(with.now_ms as i64),
                    &(with.ttl_ms as i64),
                    &(with.max_age_ms as i64),
                    &hash(&with.used),
                    &with.grant,
                ],
            )
            .await?;
        row.as_ref().map(session_row).transpose()
    }

    pub(crate) async fn find_session(&self, token: TokenHash) -> Result<Option<SessionRow>> {
        let client = self.client().await?;
        let sql = format!(
            "SELECT {COLUMNS} FROM sessions WHERE token = $1
             UNION ALL SELECT {COLUMNS} FROM sessions WHERE previous_token = $1 LIMIT 1"
        );
        let statement = client.prepare_cached(&sql).await?;
        let row = client.query_opt(&statement, &[&hash(&token)]).await?;
        row.as_ref().map(session_row).transpose()
    }

    pub(crate) async fn user_sessions(&self, user: NodeId, now_ms: u64) -> Result<Vec<SessionRow>> {
        let client = self.client().await?;
        let sql =
            format!("SELECT {COLUMNS} FROM sessions WHERE user_key = $1 AND expires_at_ms > $2");
        let statement = client.prepare_cached(&sql).await?;
        let rows = client.query(&statement, &[&key(&user), &(now_ms as i64)]).await?;
        rows.iter().map(session_row).collect()
    }

    pub(crate) async fn end_sessions(&self, user: NodeId, which: Ending) -> Result<Vec<SessionId>> {
        let mut client = self.client().await?;
        let tx = of_user(&mut client, &user).await?;
        fn id(except: &Option<SessionId>) -> Option<&[u8]> {
            except.as_ref().map(|id| &id.as_bytes()[..])
        }
        let ended = match &which {
            Ending::One(id) => {
                let sql = "DELETE FROM sessions WHERE user_key = $1 AND id = $2 RETURNING id";
                delete_sessions(&tx, sql, &[&key(&user), &&id.as_bytes()[..]]).await?
            }
            Ending::Device { device, except } => {
                let sql = "DELETE FROM sessions WHERE user_key = $1 AND device_id = $2
                           AND ($3::bytea IS NULL OR id <> $3) RETURNING id";
                delete_sessions(&tx, sql, &[&key(&user), &device.as_str(), &id(except)]).await?
            }
            Ending::All { except } => {
                let sql = "DELETE FROM sessions WHERE user_key = $1
                           AND ($2::bytea IS NULL OR id <> $2) RETURNING id";
                delete_sessions(&tx, sql, &[&key(&user), &id(except)]).await?
            }
        };
        tx.commit().await?;
        Ok(ended)
    }

    pub(crate) async fn revoke_user(&self, user: NodeId, now_ms: u64) -> Result<Vec<SessionId>> {
        let mut client = self.client().await?;
        let tx = of_user(&mut client, &user).await?;
        tx.execute(
            "INSERT INTO token_floors (user_key, not_before_ms) VALUES ($1, $2)
             ON CONFLICT (user_key) DO UPDATE
                 SET not_before_ms = greatest(token_floors.not_before_ms, excluded.not_before_ms)",
            &[&key(&user), &(now_ms as i64)],
        )
        .await?;
        tx.execute("DELETE FROM auth_tokens WHERE user_key = $1", &[&key(&user)]).await?;
        let sql = "DELETE FROM sessions WHERE user_key = $1 RETURNING id";
        let ended = delete_sessions(&tx, sql, &[&key(&user)]).await?;
        tx.commit().await?;
        Ok(ended)
    }

    pub(crate) async fn revoke_signed_token(
        &self,
        user: NodeId,
        jti: String,
        expires_at_ms: u64,
    ) -> Result<()> {
        let mut client = self.client().await?;
        let tx = of_user(&mut client, &user).await?;
        tx.execute(
            "INSERT INTO revoked_tokens (user_key, jti, expires_at_ms) VALUES ($1, $2, $3)
             ON CONFLICT (user_key, jti) DO UPDATE SET expires_at_ms = excluded.expires_at_ms",
            &[&key(&user), &plain(&jti), &(expires_at_ms as i64)],
        )
        .await?;
        Ok(tx.commit().await?)
    }

    pub(crate) async fn touch_sessions(&self, mut seen: Vec<(SessionId, u64)>) -> Result<()> {
        // Rows are locked in one order, whoever touches them.
        seen.sort_unstable_by_key(|(id, _)| *id.as_bytes());
        let ids: Vec<&[u8]> = seen.iter().map(|(id, _)| &id.as_bytes()[..]).collect();
        let times: Vec<i64> = seen.iter().map(|&(_, at_ms)| at_ms as i64).collect();
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "UPDATE sessions SET last_seen_at_ms = greatest(sessions.last_seen_at_ms, seen.at_ms)
                 FROM unnest($1::bytea[], $2::bigint[]) AS seen (id, at_ms)
                 WHERE sessions.id = seen.id",
            )
            .await?;
        client.execute(&statement, &[&ids, &times]).await?;
        Ok(())
    }

    pub(crate) async fn sweep_sessions(&self, now_ms: u64) -> Result<Vec<SessionId>> {
        let mut client = self.client().await?;
        let tx = client.transaction().await?;
        let now = now_ms as i64;
        tx.execute("DELETE FROM auth_tokens WHERE expires_at_ms <= $1", &[&now]).await?;
        tx.execute("DELETE FROM revoked_tokens WHERE expires_at_ms <= $1", &[&now]).await?;
        tx.execute("DELETE FROM access_tokens WHERE expires_at_ms <= $1", &[&now]).await?;
        let sql = "DELETE FROM sessions WHERE expires_at_ms <= $1 RETURNING id";
        let ended = delete_sessions(&tx, sql, &[&now]).await?;
        tx.commit().await?;
        Ok(ended)
    }
}

/// Begins a transaction that holds the user's lock.
async fn of_user<'a>(client: &'a mut Object, user: &NodeId) -> Result<Transaction<'a>> {
    let tx = client.transaction().await?;
    let (class, lock) = user_lock(user);
    tx.execute("SELECT pg_advisory_xact_lock($1, $2)", &[&class, &lock]).await?;
    Ok(tx)
}

/// The advisory lock of a user: its class and its number in it.
pub(crate) fn user_lock(user: &NodeId) -> (i32, i32) {
    let mut number = [0; 4];
    number.copy_from_slice(&user.as_bytes()[..4]);
    (USER_LOCKS, i32::from_le_bytes(number))
}

async fn proof_holds(tx: &Transaction<'_>, new: &NewSession) -> Result<bool> {
    let user = &new.row.user;
    let made_at_ms = match &new.proof {
        ProofFacts::Fresh => return Ok(true),
        ProofFacts::Minted(token) => {
            let found = tx.query_opt(AUTH_TOKEN, &[&hash(token)]).await?;
            match found.as_ref().map(auth_token_row).transpose()? {
                Some(found)
                    if found.user == *user
                        && found.device == new.row.device
                        && found.expires_at_ms > new.row.created_at_ms =>
                {
                    found.created_at_ms
                }
                _ => return Ok(false),
            }
        }
        ProofFacts::Signed { jti, issued_at_ms } => {
            let sql = "SELECT EXISTS (SELECT FROM revoked_tokens WHERE user_key = $1 AND jti = $2)";
            if tx.query_one(sql, &[&key(user), &plain(jti)]).await?.get(0) {
                return Ok(false);
            }
            *issued_at_ms
        }
    };
    let sql = "SELECT not_before_ms FROM token_floors WHERE user_key = $1";
    let floor = tx.query_opt(sql, &[&key(user)]).await?;
    Ok(floor.is_none_or(|row| made_at_ms > row.get::<_, i64>(0) as u64))
}

async fn credential_holds(
    tx: &Transaction<'_>,
    new: &NewSession,
    credential: &[u8; 32],
) -> Result<bool> {
    let (user, device) = (&new.row.user, &new.row.device);
    let sql = "SELECT credential_hash FROM devices WHERE user_key = $1 AND device_id = $2";
    let known = tx.query_opt(sql, &[&key(user), &device.as_str()]).await?;
    match known {
        Some(row) if row.get::<_, &[u8]>(0) == credential => Ok(true),
        Some(_) if new.proof != ProofFacts::Fresh => Ok(false),
        _ => remember_credential(tx, user, device, credential).await.map(|()| true),
    }
}

async fn remember_credential(
    tx: &Transaction<'_>,
    user: &NodeId,
    device: &DeviceId,
    credential: &[u8; 32],
) -> Result<()> {
    tx.execute(
        "INSERT INTO devices (user_key, device_id, credential_hash) VALUES ($1, $2, $3)
         ON CONFLICT (user_key, device_id) DO UPDATE SET credential_hash = excluded.credential_hash",
        &[&key(user), &device.as_str(), &&credential[..]],
    )
    .await?;
    Ok(())
}

async fn insert(tx: &Transaction<'_>, row: &SessionRow) -> Result<()> {
    let sql = format!(
        "INSERT INTO sessions ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
             $13)"
    );
    tx.execute(
        &sql,
        &[
            &&row.id.as_bytes()[..],
            &key(&row.user),
            &row.device.as_str(),
            &plain(&row.client_label),
            &hash(&row.token),
            &row.previous.as_ref().map(|(token, _)| hash(token)),
            &row.previous.map_or(0, |(_, until_ms)| until_ms as i64),
            &hash(&row.resume),
            &(row.generation as i64),
            &(row.created_at_ms as i64),
            &(row.expires_at_ms as i64),
            &(row.last_seen_at_ms as i64),
            &row.grant,
        ],
    )
    .await?;
    Ok(())
}

/// Ends the least recently used sessions beyond the limits, never the one just started.
async fn make_room(
    tx: &Transaction<'_>,
    new: &SessionRow,
    limits: SessionLimits,
) -> Result<Vec<SessionId>> {
    let others_kept = |limit: u32| i64::from(limit.saturating_sub(1));
    let id = &new.id.as_bytes()[..];
    let mut ended = delete_sessions(
        tx,
        "DELETE FROM sessions WHERE id IN (
             SELECT id FROM sessions WHERE user_key = $1 AND device_id = $2 AND id <> $3
             ORDER BY last_seen_at_ms DESC, id OFFSET $4) RETURNING id",
        &[&key(&new.user), &new.device.as_str(), &id, &others_kept(limits.per_device)],
    )
    .await?;
    let more = delete_sessions(
        tx,
        "DELETE FROM sessions WHERE id IN (
             SELECT id FROM sessions WHERE user_key = $1 AND id <> $2
             ORDER BY last_seen_at_ms DESC, id OFFSET $3) RETURNING id",
        &[&key(&new.user), &id, &others_kept(limits.per_user)],
    )
    .await?;
    ended.extend(more);
    Ok(ended)
}

async fn delete_sessions(
    tx: &Transaction<'_>,
    sql: &str,
    values: Values<'_>,
) -> Result<Vec<SessionId>> {
    tx.query(sql, values).await?.iter().map(session_id).collect()
}

const AUTH_TOKEN: &str =
    "SELECT token, user_key, device_id, credential_hash, created_at_ms, expires_at_ms
     FROM auth_tokens WHERE token = $1";

fn auth_token_row(row: &Row) -> Result<AuthTokenRow> {
    let credential: Option<&[u8]> = row.get(3);
    Ok(AuthTokenRow {
        token: TokenHash::from_bytes(bytes32(row, 0)?),
        user: user(row, 1)?,
        device: device(row.get(2))?,
        credential: credential.map(|_| bytes32(row, 3)).transpose()?,
        created_at_ms: number(row, 4),
        expires_at_ms: number(row, 5),
    })
}

fn session_row(row: &Row) -> Result<SessionRow> {
    let previous: Option<&[u8]> = row.get(5);
    let previous = previous.map(|_| bytes32(row, 5)).transpose()?;
    Ok(SessionRow {
        id: session_id(row)?,
        user: user(row, 1)?,
        device: device(row.get(2))?,
        client_label: row.get(3),
        token: TokenHash::from_bytes(bytes32(row, 4)?),
        previous: previous.map(|hash| (TokenHash::from_bytes(hash), number(row, 6))),
        resume: TokenHash::from_bytes(bytes32(row, 7)?),
        generation: number(row, 8),
        created_at_ms: number(row, 9),
        expires_at_ms: number(row, 10),
        last_seen_at_ms: number(row, 11),
        grant: row.get(12),
    })
}

fn session_id(row: &Row) -> Result<SessionId> {
    let bytes: &[u8] = row.get(0);
    let bytes = bytes.try_into().map_err(|_| StoreError::Corrupt("the id of a session".into()))?;
    Ok(SessionId::from_bytes(bytes))
}

fn number(row: &Row, column: usize) -> u64 {
    row.get::<_, i64>(column) as u64
}

fn user(row: &Row, column: usize) -> Result<NodeId> {
    NodeId::from_bytes(bytes32(row, column)?)
        .map_err(|_| StoreError::Corrupt("a key in sessions".into()))
}

fn device(text: &str) -> Result<DeviceId> {
    DeviceId::new(text).ok_or_else(|| StoreError::Corrupt("a device in sessions".into()))
}

fn key(user: &NodeId) -> &[u8] {
    user.as_bytes()
}

fn hash(token: &TokenHash) -> &[u8] {
    token.as_bytes()
}

/// Text without U+0000, which PostgreSQL's text cannot hold.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}
