//! Sessions on the embedded store.

use relay_proto::{
    NodeId,
    auth::{DeviceId, SessionId, TokenHash},
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::SqliteStore;
use crate::{
    error::{Result, StoreError},
    sessions::{
        AuthTokenRow, Ending, NewSession, Opened, ProofFacts, Resumption, SessionLimits, SessionRow,
    },
};

const COLUMNS: &str = "id, user_key, device_id, client_label, token, previous_token,
     previous_until_ms, resume_token, generation, created_at_ms, expires_at_ms, last_seen_at_ms,
     edge_grant";

impl SqliteStore {
    pub(crate) async fn insert_auth_token(&self, row: AuthTokenRow) -> Result<()> {
        self.write(move |conn| {
            if let Some(credential) = &row.credential {
                remember_credential(conn, &row.user, &row.device, credential)?;
            }
            conn.prepare_cached(
                "INSERT INTO auth_tokens
                     (token, user_key, device_id, credential_hash, created_at_ms, expires_at_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                row.token.as_bytes(),
                row.user.as_bytes(),
                row.device.as_str(),
                row.credential,
                row.created_at_ms as i64,
                row.expires_at_ms as i64,
            ])?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn find_auth_token(&self, token: TokenHash) -> Result<Option<AuthTokenRow>> {
        self.read(move |conn| find_auth_token(conn, &token)).await
    }

    pub(crate) async fn open_session(&self, new: NewSession) -> Result<Opened> {
        self.write(move |conn| open(conn, &new)).await
    }

    pub(crate) async fn resume_session(&self, with: Resumption) -> Result<Option<SessionRow>> {
        self.write(move |conn| {
            let sql = format!(
                "UPDATE sessions SET
                     previous_token = token, previous_until_ms = ?1, token = ?2, resume_token = ?3,
                     generation = generation + 1, last_seen_at_ms = ?4,
                     expires_at_ms = min(?4 + ?5, created_at_ms + ?6),
                     edge_grant = coalesce(?8, edge_grant)
                 WHERE resume_token = ?7 AND expires_at_ms > ?4 AND created_at_ms + ?6 > ?4
                 RETURNING {COLUMNS}"
            );
            conn.prepare_cached(&sql)?
                .query_row(
                    params![
                        (with.now_ms + with.grace_ms) as i64,
                        with.token.as_bytes(),
                        with.resume.as_bytes(),
                        with.now_ms as i64,
                        with.ttl_ms as i64,
                        with.max_age_ms as i64,
                        with.used.as_bytes(),
                        with.grant,
                    ],
                    |row| Ok(session_row(row)),
                )
                .optional()?
                .transpose()
        })
        .await
    }

    pub(crate) async fn find_session(&self, token: TokenHash) -> Result<Option<SessionRow>> {
        self.read(move |conn| {
            let sql = format!(
                "SELECT {COLUMNS} FROM sessions WHERE token = ?1
                 UNION ALL SELECT {COLUMNS} FROM sessions WHERE previous_token = ?1 LIMIT 1"
            );
            conn.prepare_cached(&sql)?
                .query_row([token.as_bytes()], |row| Ok(session_row(row)))
                .optional()?
                .transpose()
        })
        .await
    }

    pub(crate) async fn user_sessions(&self, user: NodeId, now_ms: u64) -> Result<Vec<SessionRow>> {
        self.read(move |conn| {
            let sql = format!(
                "SELECT {COLUMNS} FROM sessions WHERE user_key = ?1 AND expires_at_ms > ?2"
            );
            conn.prepare_cached(&sql)?
                .query_map(params![user.as_bytes(), now_ms as i64], |row| Ok(session_row(row)))?
                .map(|row| row?)
                .collect()
        })
        .await
    }

    pub(crate) async fn end_sessions(&self, user: NodeId, which: Ending) -> Result<Vec<SessionId>> {
        self.write(move |conn| match &which {
            Ending::One(id) => delete_sessions(
                conn,
                "DELETE FROM sessions WHERE user_key = ?1 AND id = ?2 RETURNING id",
                params![user.as_bytes(), id.as_bytes()],
            ),
            Ending::Device { device, except } => delete_sessions(
                conn,
                "DELETE FROM sessions WHERE user_key = ?1 AND device_id = ?2
                     AND (?3 IS NULL OR id <> ?3) RETURNING id",
                params![user.as_bytes(), device.as_str(), except.as_ref().map(SessionId::as_bytes)],
            ),
            Ending::All { except } => delete_sessions(
                conn,
                "DELETE FROM sessions WHERE user_key = ?1 AND (?2 IS NULL OR id <> ?2) RETURNING id",
                params![user.as_bytes(), except.as_ref().map(SessionId::as_bytes)],
            ),
        })
        .await
    }

    pub(crate) async fn revoke_user(&self, user: NodeId, now_ms: u64) -> Result<Vec<SessionId>> {
        self.write(move |conn| {
            conn.execute(
                "INSERT INTO token_floors (user_key, not_before_ms) VALUES (?1, ?2)
                 ON CONFLICT (user_key) DO UPDATE
                     SET not_before_ms = max(not_before_ms, excluded.not_before_ms)",
                params![user.as_bytes(), now_ms as i64],
            )?;
            conn.execute("DELETE FROM auth_tokens WHERE user_key = ?1", [user.as_bytes()])?;
            delete_sessions(
                conn,
                "DELETE FROM sessions WHERE user_key = ?1 RETURNING id",
                [user.as_bytes()],
            )
        })
        .await
    }

    pub(crate) async fn revoke_signed_token(
        &self,
        user: NodeId,
        jti: String,
        expires_at_ms: u64,
    ) -> Result<()> {
        self.write(move |conn| {
            conn.execute(
                "INSERT OR REPLACE INTO revoked_tokens (user_key, jti, expires_at_ms)
                 VALUES (?1, ?2, ?3)",
                params![user.as_bytes(), jti, expires_at_ms as i64],
            )?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn touch_sessions(&self, seen: Vec<(SessionId, u64)>) -> Result<()> {
        self.write(move |conn| {
            let mut touch = conn.prepare_cached(
                "UPDATE sessions SET last_seen_at_ms = max(last_seen_at_ms, ?2) WHERE id = ?1",
            )?;
            for (id, at_ms) in seen {
                touch.execute(params![id.as_bytes(), at_ms as i64])?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn sweep_sessions(&self, now_ms: u64) -> Result<Vec<SessionId>> {
        self.write(move |conn| {
            let now = now_ms as i64;
            conn.execute("DELETE FROM auth_tokens WHERE expires_at_ms <= ?1", [now])?;
            conn.execute("DELETE FROM revoked_tokens WHERE expires_at_ms <= ?1", [now])?;
            conn.execute("DELETE FROM access_tokens WHERE expires_at_ms <= ?1", [now])?;
            delete_sessions(
                conn,
                "DELETE FROM sessions WHERE expires_at_ms <= ?1 RETURNING id",
                [now],
            )
        })
        .await
    }
}

fn open(conn: &Connection, new: &NewSession) -> Result<Opened> {
    if !proof_holds(conn, new)? {
        return Ok(Opened::ProofRefused);
    }
    if let Some(credential) = &new.credential
        && !credential_holds(conn, new, credential)?
    {
        return Ok(Opened::CredentialRefused);
    }
    insert(conn, &new.row)?;
    let ended = make_room(conn, &new.row, new.limits)?;
    Ok(Opened::Started { ended })
}

fn proof_holds(conn: &Connection, new: &NewSession) -> Result<bool> {
    let user = &new.row.user;
    let made_at_ms = match &new.proof {
        ProofFacts::Fresh => return Ok(true),
        ProofFacts::Minted(token) => match find_auth_token(conn, token)? {
            Some(found)
                if found.user == *user
                    && found.device == new.row.device
                    && found.expires_at_ms > new.row.created_at_ms =>
            {
                found.created_at_ms
            }
            _ => return Ok(false),
        },
        ProofFacts::Signed { jti, issued_at_ms } => {
            let revoked: bool = conn
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM revoked_tokens WHERE user_key = ?1 AND jti = ?2)",
                )?
                .query_row(params![user.as_bytes(), jti], |row| row.get(0))?;
            if revoked {
                return Ok(false);
            }
            *issued_at_ms
        }
    };
    let floor: Option<i64> = conn
        .prepare_cached("SELECT not_before_ms FROM token_floors WHERE user_key = ?1")?
        .query_row([user.as_bytes()], |row| row.get(0))
        .optional()?;
    Ok(floor.is_none_or(|floor| made_at_ms > floor as u64))
}

fn credential_holds(conn: &Connection, new: &NewSession, credential: &[u8; 32]) -> Result<bool> {
    let (user, device) = (&new.row.user, &new.row.device);
    let known: Option<[u8; 32]> = conn
        .prepare_cached(
            "SELECT credential_hash FROM devices WHERE user_key = ?1 AND device_id = ?2",
        )?
        .query_row(params![user.as_bytes(), device.as_str()], |row| row.get(0))
        .optional()?;
    match known {
        Some(known) if known == *credential => Ok(true),
        Some(_) if new.proof != ProofFacts::Fresh => Ok(false),
        _ => remember_credential(conn, user, device, credential).map(|()| true),
    }
}

fn remember_credential(
    conn: &Connection,
    user: &NodeId,
    device: &DeviceId,
    credential: &[u8; 32],
) -> Result<()> {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO devices (user_key, device_id, credential_hash) VALUES (?1, ?2, ?3)",
    )?
    .execute(params![user.as_bytes(), device.as_str(), credential])?;
    Ok(())
}

fn insert(conn: &Connection, row: &SessionRow) -> Result<()> {
    let sql = format!(
        "INSERT INTO sessions ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12,
             ?13)"
    );
    conn.prepare_cached(&sql)?.execute(params![
        row.id.as_bytes(),
        row.user.as_bytes(),
        row.device.as_str(),
        row.client_label,
        row.token.as_bytes(),
        row.previous.as_ref().map(|(hash, _)| hash.as_bytes()),
        row.previous.map_or(0, |(_, until_ms)| until_ms as i64),
        row.resume.as_bytes(),
        row.generation as i64,
        row.created_at_ms as i64,
        row.expires_at_ms as i64,
        row.last_seen_at_ms as i64,
        row.grant,
    ])?;
    Ok(())
}

/// Ends the least recently used sessions beyond the limits, never the one just started.
fn make_room(conn: &Connection, new: &SessionRow, limits: SessionLimits) -> Result<Vec<SessionId>> {
    let others_kept = |limit: u32| i64::from(limit.saturating_sub(1));
    let mut ended = delete_sessions(
        conn,
        "DELETE FROM sessions WHERE id IN (
             SELECT id FROM sessions WHERE user_key = ?1 AND device_id = ?2 AND id <> ?3
             ORDER BY last_seen_at_ms DESC, id LIMIT -1 OFFSET ?4) RETURNING id",
        params![
            new.user.as_bytes(),
            new.device.as_str(),
            new.id.as_bytes(),
            others_kept(limits.per_device)
        ],
    )?;
    ended.extend(delete_sessions(
        conn,
        "DELETE FROM sessions WHERE id IN (
             SELECT id FROM sessions WHERE user_key = ?1 AND id <> ?2
             ORDER BY last_seen_at_ms DESC, id LIMIT -1 OFFSET ?3) RETURNING id",
        params![new.user.as_bytes(), new.id.as_bytes(), others_kept(limits.per_user)],
    )?);
    Ok(ended)
}

fn delete_sessions(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<Vec<SessionId>> {
    let mut delete = conn.prepare_cached(sql)?;
    let ids = delete.query_map(params, |row| row.get::<_, [u8; 16]>(0))?;
    let mut ended = Vec::new();
    for id in ids {
        ended.push(SessionId::from_bytes(id?));
    }
    Ok(ended)
}

fn find_auth_token(conn: &Connection, token: &TokenHash) -> Result<Option<AuthTokenRow>> {
    conn.prepare_cached(
        "SELECT token, user_key, device_id, credential_hash, created_at_ms, expires_at_ms
         FROM auth_tokens WHERE token = ?1",
    )?
    .query_row([token.as_bytes()], |row| {
        Ok((|| {
            Ok(AuthTokenRow {
                token: hash(row.get(0)?),
                user: key(row.get(1)?)?,
                device: device(row.get(2)?)?,
                credential: row.get(3)?,
                created_at_ms: number(row, 4)?,
                expires_at_ms: number(row, 5)?,
            })
        })())
    })
    .optional()?
    .transpose()
}

fn session_row(row: &Row<'_>) -> Result<SessionRow> {
    let previous = row.get::<_, Option<[u8; 32]>>(5)?.map(hash);
    let previous_until_ms = number(row, 6)?;
    Ok(SessionRow {
        id: SessionId::from_bytes(row.get(0)?),
        user: key(row.get(1)?)?,
        device: device(row.get(2)?)?,
        client_label: row.get(3)?,
        token: hash(row.get(4)?),
        previous: previous.map(|hash| (hash, previous_until_ms)),
        resume: hash(row.get(7)?),
        generation: number(row, 8)?,
        created_at_ms: number(row, 9)?,
        expires_at_ms: number(row, 10)?,
        last_seen_at_ms: number(row, 11)?,
        grant: row.get(12)?,
    })
}

fn number(row: &Row<'_>, index: usize) -> Result<u64> {
    Ok(row.get::<_, i64>(index)? as u64)
}

fn hash(bytes: [u8; 32]) -> TokenHash {
    TokenHash::from_bytes(bytes)
}

fn key(bytes: [u8; 32]) -> Result<NodeId> {
    NodeId::from_bytes(bytes).map_err(|_| StoreError::Corrupt("a key in sessions".into()))
}

fn device(text: String) -> Result<DeviceId> {
    DeviceId::new(&text).ok_or_else(|| StoreError::Corrupt("a device in sessions".into()))
}
