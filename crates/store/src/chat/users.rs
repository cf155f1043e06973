//! Users as an operator sees them.

use relay_proto::NodeId;

use crate::{
    Store,
    error::Result,
    sql::{Sql, look, one, transact},
};

/// What the relay has of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    pub user: NodeId,
    pub sessions: u64,
    pub conversations: u64,
    pub key_packages: u64,
    pub blob_bytes: u64,
}

impl Store {
    /// Users with a session, a conversation or a KeyPackage, in the order of their keys, after `after`.
    pub async fn users(&self, after: Option<NodeId>, limit: u64) -> Result<Vec<UserRow>> {
        let asked = (after, limit);
        look!(self, asked, list)
    }

    /// One user's row.
    pub async fn user(&self, user: NodeId) -> Result<UserRow> {
        look!(self, user, show)
    }

    /// Deletes what a user has besides sessions and messages: memberships, cursors, personal state, KeyPackages,
    /// inboxes, vault, contacts; attachments expire at once. Returns the conversations left.
    pub async fn purge_user(&self, user: NodeId) -> Result<u64> {
        transact!(self, user, purge)
    }
}

async fn list<S: Sql>(sql: &S, (after, limit): &(Option<NodeId>, u64)) -> Result<Vec<UserRow>> {
    let after: &[u8] = after.as_ref().map_or(&[], |key| key.as_bytes());
    let rows = sql
        .rows(
            "SELECT user_key FROM (
                 SELECT user_key FROM sessions WHERE user_key > ?1
                 UNION SELECT user_key FROM conversation_members WHERE user_key > ?1
                 UNION SELECT user_key FROM key_packages WHERE user_key > ?1) x
             ORDER BY user_key LIMIT ?2",
            &[after.into(), (*limit).into()],
        )
        .await?;
    let mut users = Vec::with_capacity(rows.len());
    for mut row in rows {
        users.push(show(sql, &row.key(0)?).await?);
    }
    Ok(users)
}

async fn show<S: Sql>(sql: &S, user: &NodeId) -> Result<UserRow> {
    let row = one(
        sql,
        "SELECT (SELECT count(*) FROM sessions WHERE user_key = ?1),
             (SELECT count(*) FROM conversation_members WHERE user_key = ?1),
             (SELECT count(*) FROM key_packages WHERE user_key = ?1 AND bytes IS NOT NULL),
             (SELECT CAST(coalesce(sum(size), 0) AS bigint) FROM blobs WHERE owner = ?1)",
        &[user.into()],
    )
    .await?;
    let number = |column| row.as_ref().map_or(Ok(0), |row| row.number(column));
    Ok(UserRow {
        user: *user,
        sessions: number(0)?,
        conversations: number(1)?,
        key_packages: number(2)?,
        blob_bytes: number(3)?,
    })
}

async fn purge<S: Sql>(sql: &S, user: &NodeId) -> Result<u64> {
    let args = [user.into()];
    // Conversations first, in one order, as whoever changes their members does.
    sql.run(
        "UPDATE conversations SET members = members - 1
         WHERE n IN (SELECT conv FROM conversation_members WHERE user_key = ?1)",
        &args,
    )
    .await?;
    let left = sql.run("DELETE FROM conversation_members WHERE user_key = ?1", &args).await?;
    for table in [
        "conversation_cursors",
        "conversation_state",
        "key_packages",
        "inboxes",
        "inbox_entries",
        "vaults",
        "blocks",
        "watches",
        "home_users",
        "conversation_routes",
        "home_mail",
        "home_mail_taken",
        "push_subscriptions",
    ] {
        sql.run(&format!("DELETE FROM {table} WHERE user_key = ?1"), &args).await?;
    }
    sql.run("UPDATE blobs SET expires_at_ms = 0 WHERE owner = ?1", &args).await?;
    Ok(left)
}
