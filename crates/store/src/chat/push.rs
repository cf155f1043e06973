//! Where devices want to be pushed to: addresses at push services, nothing else.

use relay_proto::{NodeId, auth::DeviceId, conv::ConvId};

use crate::{
    Store,
    error::Result,
    sql::{Row, Sql, exists, look, one, transact},
};

/// The most devices of one conversation that are pushed to at once.
const MAX_TARGETS: u64 = 10_000;

/// A device, and where it is pushed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushTarget {
    pub user: NodeId,
    pub device: DeviceId,
    pub endpoint: String,
}

impl Store {
    /// Keeps where a device is pushed to, in place of another address; `None` where it is not to be any more.
    pub async fn set_push(
        &self,
        user: NodeId,
        device: DeviceId,
        endpoint: Option<String>,
        at_ms: u64,
    ) -> Result<()> {
        let asked = (user, device, endpoint, at_ms);
        transact!(self, asked, set)
    }

    /// Forgets an address that the push service does not know any more, unless it was replaced meanwhile.
    pub async fn drop_push(&self, target: PushTarget) -> Result<()> {
        transact!(self, target, drop_one)
    }

    /// Where a device is pushed to.
    pub async fn push_of(&self, user: NodeId, device: DeviceId) -> Result<Option<PushTarget>> {
        let asked = (user, device);
        look!(self, asked, of_device)
    }

    /// The devices of a user that are pushed to.
    pub async fn push_of_user(&self, user: NodeId) -> Result<Vec<PushTarget>> {
        look!(self, user, of_user)
    }

    /// The members of a conversation who live elsewhere.
    pub async fn members_away(&self, conv: ConvId) -> Result<Vec<NodeId>> {
        look!(self, conv, away)
    }

    /// Those of some users who live here and are in a conversation of that home.
    pub async fn users_with(&self, home: String, users: Vec<NodeId>) -> Result<Vec<NodeId>> {
        let asked = (home, users);
        look!(self, asked, with)
    }

    /// The devices of a conversation's members that are pushed to.
    pub async fn push_targets(&self, conv: ConvId) -> Result<Vec<PushTarget>> {
        look!(self, conv, of_conversation)
    }
}

async fn set<S: Sql>(
    sql: &S,
    (user, device, endpoint, at_ms): &(NodeId, DeviceId, Option<String>, u64),
) -> Result<()> {
    let key = [user.into(), device.into()];
    sql.run("DELETE FROM push_subscriptions WHERE user_key = ?1 AND device_id = ?2", &key).await?;
    if let Some(endpoint) = endpoint {
        sql.run(
            "INSERT INTO push_subscriptions (user_key, device_id, endpoint, created_at_ms) VALUES (?1, ?2, ?3, ?4)",
            &[user.into(), device.into(), endpoint.as_str().into(), (*at_ms).into()],
        )
        .await?;
    }
    Ok(())
}

async fn drop_one<S: Sql>(sql: &S, target: &PushTarget) -> Result<()> {
    sql.run(
        "DELETE FROM push_subscriptions WHERE user_key = ?1 AND device_id = ?2 AND endpoint = ?3",
        &[(&target.user).into(), (&target.device).into(), target.endpoint.as_str().into()],
    )
    .await?;
    Ok(())
}

async fn of_device<S: Sql>(
    sql: &S,
    (user, device): &(NodeId, DeviceId),
) -> Result<Option<PushTarget>> {
    let text = "SELECT user_key, device_id, endpoint FROM push_subscriptions
                WHERE user_key = ?1 AND device_id = ?2";
    one(sql, text, &[user.into(), device.into()]).await?.map(target).transpose()
}

async fn of_user<S: Sql>(sql: &S, user: &NodeId) -> Result<Vec<PushTarget>> {
    let text = "SELECT user_key, device_id, endpoint FROM push_subscriptions WHERE user_key = ?1";
    sql.rows(text, &[user.into()]).await?.into_iter().map(target).collect()
}

async fn away<S: Sql>(sql: &S, conv: &ConvId) -> Result<Vec<NodeId>> {
    let rows = sql
        .rows(
            "SELECT m.user_key FROM conversations c
             JOIN conversation_members m ON m.conv = c.n
             LEFT JOIN home_users h ON h.user_key = m.user_key
             WHERE c.conv_id = ?1 AND h.user_key IS NULL LIMIT ?2",
            &[conv.into(), MAX_TARGETS.into()],
        )
        .await?;
    rows.into_iter().map(|mut row| row.key(0)).collect()
}

async fn with<S: Sql>(sql: &S, (home, users): &(String, Vec<NodeId>)) -> Result<Vec<NodeId>> {
    let text =
        "SELECT r.home FROM conversation_routes r JOIN home_users h ON h.user_key = r.user_key
                WHERE r.user_key = ?1 AND r.home = ?2 LIMIT 1";
    let mut found = Vec::new();
    for user in users {
        if exists(sql, text, &[user.into(), home.as_str().into()]).await? {
            found.push(*user);
        }
    }
    Ok(found)
}

async fn of_conversation<S: Sql>(sql: &S, conv: &ConvId) -> Result<Vec<PushTarget>> {
    let rows = sql
        .rows(
            "SELECT p.user_key, p.device_id, p.endpoint FROM conversations c
             JOIN conversation_members m ON m.conv = c.n
             JOIN push_subscriptions p ON p.user_key = m.user_key
             WHERE c.conv_id = ?1 LIMIT ?2",
            &[conv.into(), MAX_TARGETS.into()],
        )
        .await?;
    rows.into_iter().map(target).collect()
}

fn target(mut row: Row) -> Result<PushTarget> {
    Ok(PushTarget { user: row.key(0)?, device: row.device(1)?, endpoint: row.text(2)? })
}
