//! Where devices want to be pushed to: addresses at push services, nothing else.

use relay_proto::{NodeId, auth::DeviceId, conv::ConvId};

use crate::{
    Store,
    error::Result,
    sql::{Row, Sql, look, one, transact},
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
