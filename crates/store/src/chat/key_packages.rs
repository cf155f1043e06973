//! The pool of KeyPackages: put many in, hand each out once, ever (`gateway.md` 10, `mls-profile.md` 6.7).

use relay_proto::{NodeId, auth::DeviceId};

use super::conversations::blocked;
use crate::{
    Store,
    error::Result,
    sql::{Arg, Sql, exists, look, one, transact},
};

/// A package as it is handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKeyPackage {
    pub bytes: Vec<u8>,
    /// Where it was verified: RFC 9420 section 5.2.
    pub reference: Option<[u8; 32]>,
    /// Unix seconds, where known.
    pub not_after_s: Option<u64>,
}

/// What a device hands in.
#[derive(Debug, Clone)]
pub struct Publish {
    pub user: NodeId,
    pub device: DeviceId,
    /// None of the present ones may be handed out any more.
    pub revoke: bool,
    pub packages: Vec<NewKeyPackage>,
    pub last_resort: Option<NewKeyPackage>,
    /// The one-time ones go only to whom the user knows.
    pub for_contacts: bool,
    pub at_ms: u64,
    /// Of those not handed out; above it the oldest go.
    pub max_pool: u64,
}

/// What a device has in the pool now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    pub available: u64,
}

/// Who wants packages of whom.
#[derive(Debug, Clone)]
pub struct Fetch {
    pub by: NodeId,
    pub user: NodeId,
    pub count: u64,
    /// `count` of each device, instead of `count` over all.
    pub per_device: bool,
    /// Packages for contacts are not for others.
    pub contacts_only: bool,
    pub now_ms: u64,
}

/// What was handed out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetched {
    pub devices: Vec<FetchedDevice>,
    /// In the order of their age over all devices.
    pub packages: Vec<Vec<u8>>,
    pub last_resort_used: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedDevice {
    pub device: DeviceId,
    pub packages: Vec<Vec<u8>>,
    /// What is left in the device's pool.
    pub left: u64,
}

/// A device's pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRow {
    pub device: DeviceId,
    pub available: u64,
    pub last_resort: bool,
}

impl Store {
    /// Puts packages into the pool; those known already are ignored.
    pub async fn publish_key_packages(&self, publish: Publish) -> Result<Published> {
        transact!(self, publish, put)
    }

    /// Takes packages out of the pool, for ever; committed before they are returned.
    pub async fn fetch_key_packages(&self, fetch: Fetch) -> Result<Fetched> {
        transact!(self, fetch, fetch_all)
    }

    /// What a user's devices have in the pool.
    pub async fn key_package_pool(&self, user: NodeId, now_ms: u64) -> Result<Vec<PoolRow>> {
        let asked = (user, now_ms);
        look!(self, asked, pool)
    }

    /// Forgets to whom packages were handed out before a time, and packages long expired.
    pub async fn sweep_key_packages(
        &self,
        issued_before_ms: u64,
        expired_before_s: u64,
    ) -> Result<u64> {
        let asked = (issued_before_ms, expired_before_s);
        transact!(self, asked, sweep)
    }
}

async fn put<S: Sql>(sql: &S, publish: &Publish) -> Result<Published> {
    let (user, device) = (&publish.user, &publish.device);
    sql.lock_user(user).await?;
    if publish.revoke {
        let text = "UPDATE key_packages SET bytes = NULL WHERE user_key = ?1 AND device_id = ?2";
        sql.run(text, &[user.into(), device.into()]).await?;
    }
    for package in &publish.packages {
        insert(sql, publish, package, false).await?;
    }
    if let Some(package) = &publish.last_resort
        && insert(sql, publish, package, true).await?
    {
        sql.run(
            "UPDATE key_packages SET bytes = NULL
             WHERE user_key = ?1 AND device_id = ?2 AND last_resort = 1 AND bytes IS NOT NULL AND hash <> ?3",
            &[user.into(), device.into(), blake3::hash(&package.bytes).as_bytes().into()],
        )
        .await?;
    }
    let mut available = count(sql, user, device, publish.at_ms).await?;
    if available > publish.max_pool {
        sql.run(
            "UPDATE key_packages SET bytes = NULL WHERE n IN (
                 SELECT n FROM key_packages
                 WHERE user_key = ?1 AND device_id = ?2 AND last_resort = 0 AND bytes IS NOT NULL
                 ORDER BY n LIMIT ?3)",
            &[user.into(), device.into(), (available - publish.max_pool).into()],
        )
        .await?;
        available = publish.max_pool;
    }
    Ok(Published { available })
}

async fn insert<S: Sql>(
    sql: &S,
    publish: &Publish,
    package: &NewKeyPackage,
    last_resort: bool,
) -> Result<bool> {
    // Nobody's pool is emptied by the last resort, so strangers can make a first contact by it.
    let for_contacts = publish.for_contacts && !last_resort;
    let added = sql
        .run(
            "INSERT INTO key_packages (user_key, device_id, hash, reference, last_resort, not_after_s, bytes, created_at_ms, for_contacts)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
            &[
                (&publish.user).into(),
                (&publish.device).into(),
                blake3::hash(&package.bytes).as_bytes().into(),
                package.reference.as_ref().into(),
                last_resort.into(),
                package.not_after_s.into(),
                (&package.bytes[..]).into(),
                publish.at_ms.into(),
                for_contacts.into(),
            ],
        )
        .await?;
    Ok(added > 0)
}

async fn count<S: Sql>(sql: &S, user: &NodeId, device: &DeviceId, now_ms: u64) -> Result<u64> {
    let row = one(
        sql,
        "SELECT count(*) FROM key_packages
         WHERE user_key = ?1 AND device_id = ?2 AND last_resort = 0 AND bytes IS NOT NULL
             AND (not_after_s IS NULL OR not_after_s > ?3)",
        &[user.into(), device.into(), (now_ms / 1_000).into()],
    )
    .await?;
    row.map_or(Ok(0), |row| row.number(0))
}

/// Whether somebody is the user, one of their contacts, or in a conversation with them.
async fn knows<S: Sql>(sql: &S, user: &NodeId, other: &NodeId) -> Result<bool> {
    if user == other {
        return Ok(true);
    }
    exists(
        sql,
        "SELECT CAST(1 AS bigint) FROM watches WHERE user_key = ?1 AND target = ?2
         UNION ALL SELECT CAST(1 AS bigint) FROM conversation_members a
             JOIN conversation_members b ON b.conv = a.conv
             WHERE a.user_key = ?1 AND b.user_key = ?2",
        &[user.into(), other.into()],
    )
    .await
}

async fn fetch_all<S: Sql>(sql: &S, fetch: &Fetch) -> Result<Fetched> {
    let mut fetched = Fetched::default();
    if blocked(sql, &fetch.by, &fetch.user).await? {
        return Ok(fetched);
    }
    let knows = !fetch.contacts_only || knows(sql, &fetch.user, &fetch.by).await?;
    sql.lock_user(&fetch.user).await?;
    let now_s: Arg<'_> = (fetch.now_ms / 1_000).into();
    let devices = sql
        .rows(
            "SELECT DISTINCT device_id FROM key_packages
             WHERE user_key = ?1 AND bytes IS NOT NULL AND (not_after_s IS NULL OR not_after_s > ?2)
                 AND for_contacts <= ?3
             ORDER BY device_id",
            &[(&fetch.user).into(), now_s, knows.into()],
        )
        .await?;
    if fetch.count == 0 {
        return Ok(fetched);
    }
    if fetch.per_device {
        for mut row in devices {
            let device = row.device(0)?;
            let packages = take_of(sql, fetch, knows, &device, &mut fetched).await?;
            let left = count(sql, &fetch.user, &device, fetch.now_ms).await?;
            fetched.packages.extend(packages.iter().cloned());
            fetched.devices.push(FetchedDevice { device, packages, left });
        }
        return Ok(fetched);
    }
    let oldest = sql
        .rows(
            "SELECT n, bytes, reference, device_id FROM key_packages
             WHERE user_key = ?1 AND last_resort = 0 AND bytes IS NOT NULL
                 AND (not_after_s IS NULL OR not_after_s > ?2) AND for_contacts <= ?4
             ORDER BY n LIMIT ?3",
            &[(&fetch.user).into(), now_s, fetch.count.into(), knows.into()],
        )
        .await?;
    for mut row in oldest {
        let bytes = row.bytes(1)?;
        let device = row.device(3)?;
        issue(sql, fetch, Some(row.number(0)?), row.opt_bytes(2)?).await?;
        fetched.packages.push(bytes.clone());
        match fetched.devices.iter_mut().find(|known| known.device == device) {
            Some(known) => known.packages.push(bytes),
            None => fetched.devices.push(FetchedDevice { device, packages: vec![bytes], left: 0 }),
        }
    }
    for device in &mut fetched.devices {
        device.left = count(sql, &fetch.user, &device.device, fetch.now_ms).await?;
    }
    for mut row in devices {
        if fetched.packages.len() as u64 >= fetch.count {
            break;
        }
        let device = row.device(0)?;
        if fetched.devices.iter().any(|known| known.device == device) {
            continue;
        }
        if let Some(bytes) = last_resort(sql, fetch, knows, &device).await? {
            fetched.last_resort_used = true;
            fetched.packages.push(bytes.clone());
            fetched.devices.push(FetchedDevice { device, packages: vec![bytes], left: 0 });
        }
    }
    Ok(fetched)
}

/// Up to `count` packages of a device; its last resort where there is none.
async fn take_of<S: Sql>(
    sql: &S,
    fetch: &Fetch,
    knows: bool,
    device: &DeviceId,
    fetched: &mut Fetched,
) -> Result<Vec<Vec<u8>>> {
    let rows = sql
        .rows(
            "SELECT n, bytes, reference FROM key_packages
             WHERE user_key = ?1 AND device_id = ?2 AND last_resort = 0 AND bytes IS NOT NULL
                 AND (not_after_s IS NULL OR not_after_s > ?3) AND for_contacts <= ?5
             ORDER BY n LIMIT ?4",
            &[
                (&fetch.user).into(),
                device.into(),
                (fetch.now_ms / 1_000).into(),
                fetch.count.into(),
                knows.into(),
            ],
        )
        .await?;
    let mut packages = Vec::with_capacity(rows.len());
    for mut row in rows {
        issue(sql, fetch, Some(row.number(0)?), row.opt_bytes(2)?).await?;
        packages.push(row.bytes(1)?);
    }
    if packages.is_empty()
        && let Some(bytes) = last_resort(sql, fetch, knows, device).await?
    {
        fetched.last_resort_used = true;
        packages.push(bytes);
    }
    Ok(packages)
}

async fn last_resort<S: Sql>(
    sql: &S,
    fetch: &Fetch,
    knows: bool,
    device: &DeviceId,
) -> Result<Option<Vec<u8>>> {
    let row = one(
        sql,
        "SELECT bytes, reference FROM key_packages
         WHERE user_key = ?1 AND device_id = ?2 AND last_resort = 1 AND bytes IS NOT NULL
             AND (not_after_s IS NULL OR not_after_s > ?3) AND for_contacts <= ?4
         ORDER BY n DESC LIMIT 1",
        &[(&fetch.user).into(), device.into(), (fetch.now_ms / 1_000).into(), knows.into()],
    )
    .await?;
    let Some(mut row) = row else { return Ok(None) };
    issue(sql, fetch, None, row.opt_bytes(1)?).await?;
    row.bytes(0).map(Some)
}

/// Notes to whom a package goes; a one-time one loses its bytes.
async fn issue<S: Sql>(
    sql: &S,
    fetch: &Fetch,
    one_time: Option<u64>,
    reference: Option<Vec<u8>>,
) -> Result<()> {
    if let Some(n) = one_time {
        sql.run("UPDATE key_packages SET bytes = NULL WHERE n = ?1", &[n.into()]).await?;
    }
    if let Some(reference) = reference {
        sql.run(
            "INSERT INTO key_package_issues (reference, issued_to, issued_at_ms) VALUES (?1, ?2, ?3)
             ON CONFLICT (reference, issued_to) DO UPDATE SET issued_at_ms = excluded.issued_at_ms",
            &[(&reference[..]).into(), (&fetch.by).into(), fetch.now_ms.into()],
        )
        .await?;
    }
    Ok(())
}

async fn pool<S: Sql>(sql: &S, (user, now_ms): &(NodeId, u64)) -> Result<Vec<PoolRow>> {
    let rows = sql
        .rows(
            "SELECT device_id, last_resort, count(*) FROM key_packages
             WHERE user_key = ?1 AND bytes IS NOT NULL AND (not_after_s IS NULL OR not_after_s > ?2)
             GROUP BY device_id, last_resort ORDER BY device_id, last_resort",
            &[user.into(), (*now_ms / 1_000).into()],
        )
        .await?;
    let mut pool: Vec<PoolRow> = Vec::new();
    for mut row in rows {
        let (device, last_resort, count) = (row.device(0)?, row.flag(1)?, row.number(2)?);
        if pool.last().is_none_or(|last| last.device != device) {
            pool.push(PoolRow { device, available: 0, last_resort: false });
        }
        if let Some(last) = pool.last_mut() {
            if last_resort {
                last.last_resort = true;
            } else {
                last.available = count;
            }
        }
    }
    Ok(pool)
}

async fn sweep<S: Sql>(sql: &S, (issued_before_ms, expired_before_s): &(u64, u64)) -> Result<u64> {
    let text = "DELETE FROM key_package_issues WHERE issued_at_ms < ?1";
    let issues = sql.run(text, &[(*issued_before_ms).into()]).await?;
    // What has expired is never handed out, so it need not be known when it comes again.
    let text = "DELETE FROM key_packages WHERE not_after_s < ?1";
    Ok(issues + sql.run(text, &[(*expired_before_s).into()]).await?)
}
