//! The directory of KeyPackages (`gateway.md` 10, `mls-profile.md` 6.7): put many in, hand each out once, ever.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::{ArcSwap, Guard};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use relay_proto::{
    NodeId, Problem,
    auth::DeviceId,
    conv::{Caller, Profile},
    mls::{KeyPackage, KeyPackageError, decode_base64},
};
use relay_store::{
    Clock, Store,
    chat::{Fetch, Fetched, InboxPost, NewKeyPackage, PoolRow, Publish},
};
use serde_json::json;

use crate::{failure::store_problem, inbox::Inboxes, limits::Windows};

/// Packages of one request.
const MAX_PER_CALL: usize = 200;
/// The largest package that is taken as opaque bytes.
const MAX_OPAQUE: usize = 16_384;
/// The most packages of one fetch.
const MAX_FETCH: u64 = 64;
/// Below so many a device is told to refill.
pub const LOW_WATER: u64 = 20;
const MINUTE_MS: u64 = 60_000;
const LIMITER_KEYS: usize = 100_000;

/// Limits, with the defaults of `gateway.md` 12.
#[derive(Debug, Clone, Copy)]
pub struct KeyPackagesConfig {
    pub fetches_per_min: u32,
    pub target_fetches_per_min: u32,
    pub publishes_per_min: u32,
    pub pool_max: u64,
    /// Entries of a device's inbox.
    pub max_inbox: u64,
    /// Packages of the profile are handed out only to contacts and to those in a conversation with the user.
    pub contacts_only: bool,
}

impl Default for KeyPackagesConfig {
    fn default() -> Self {
        Self {
            fetches_per_min: 60,
            target_fetches_per_min: 120,
            publishes_per_min: 60,
            pool_max: 1_000,
            max_inbox: 10_000,
            contacts_only: true,
        }
    }
}

/// What operators want to know.
#[derive(Debug, Default)]
pub struct KeyPackageStats {
    pub published: AtomicU64,
    pub refused: AtomicU64,
    pub issued: AtomicU64,
    /// Fetches that found no package at all.
    pub empty: AtomicU64,
    pub last_resort: AtomicU64,
}

/// The domain.
#[derive(Debug)]
pub struct KeyPackages {
    store: Store,
    clock: Arc<dyn Clock>,
    config: ArcSwap<KeyPackagesConfig>,
    inboxes: Arc<Inboxes>,
    fetches: Windows<NodeId>,
    targets: Windows<NodeId>,
    publishes: Windows<(NodeId, DeviceId)>,
    stats: KeyPackageStats,
}

/// What a device hands in.
#[derive(Debug, Clone, Default)]
pub struct HandIn {
    /// Base64.
    pub packages: Vec<String>,
    /// Base64.
    pub last_resort: Option<String>,
    pub profile: Profile,
    /// The present ones must not be handed out any more.
    pub revoke: bool,
}

/// What became of it.
#[derive(Debug, Clone, Default)]
pub struct HandedIn {
    /// In the device's pool now.
    pub available: u64,
    /// Where in the list, and why; only of devices of the profile.
    pub refused: Vec<(usize, KeyPackageError)>,
    pub last_resort_refused: Option<KeyPackageError>,
}

impl KeyPackages {
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        config: KeyPackagesConfig,
        inboxes: Arc<Inboxes>,
    ) -> Self {
        let windows = || Windows::new(MINUTE_MS, LIMITER_KEYS);
        Self {
            store,
            clock,
            config: ArcSwap::from_pointee(config),
            inboxes,
            fetches: windows(),
            targets: windows(),
            publishes: Windows::new(MINUTE_MS, LIMITER_KEYS),
            stats: KeyPackageStats::default(),
        }
    }

    fn config(&self) -> Guard<Arc<KeyPackagesConfig>> {
        self.config.load()
    }

    /// Uses other settings from now on.
    pub fn reconfigure(&self, config: KeyPackagesConfig) {
        self.config.store(Arc::new(config));
    }

    pub fn stats(&self) -> &KeyPackageStats {
        &self.stats
    }

    /// Puts packages into the pool of the caller's device.
    ///
    /// # Errors
    /// `invalid_request`, `rate_limited`. A device of the profile is told of each refused package instead.
    pub async fn publish(&self, caller: &Caller, given: HandIn) -> Result<HandedIn, Problem> {
        if given.packages.len() > MAX_PER_CALL {
            return Err(Problem::invalid("at most 200 key packages at once"));
        }
        let now_ms = self.clock.wall_ns() / 1_000_000;
        let key = (caller.user, caller.device.clone());
        self.publishes.count(key, self.config().publishes_per_min, now_ms)?;
        let mut handed = HandedIn::default();
        let mut packages = Vec::with_capacity(given.packages.len());
        for (index, text) in given.packages.iter().enumerate() {
            match self.read(caller, given.profile, text, now_ms)? {
                Ok(package) => packages.push(package),
                Err(why) => handed.refused.push((index, why)),
            }
        }
        let last_resort = match given.last_resort {
            None => None,
            Some(text) => match self.read(caller, given.profile, &text, now_ms)? {
                Ok(package) => Some(package),
                Err(why) => {
                    handed.last_resort_refused = Some(why);
                    None
                }
            },
        };
        self.stats.published.fetch_add(packages.len() as u64, Ordering::Relaxed);
        self.stats.refused.fetch_add(handed.refused.len() as u64, Ordering::Relaxed);
        let publish = Publish {
            user: caller.user,
            device: caller.device.clone(),
            revoke: given.revoke,
            packages,
            last_resort,
            for_contacts: given.profile == Profile::RelayMls1,
            at_ms: now_ms,
            max_pool: self.config().pool_max,
        };
        let published = self.store.publish_key_packages(publish).await;
        handed.available = published.map_err(|error| store_problem(&error))?.available;
        Ok(handed)
    }

    /// Takes packages of a user out of the pool.
    ///
    /// # Errors
    /// `rate_limited`.
    pub async fn fetch(
        &self,
        caller: &Caller,
        user: NodeId,
        count: u64,
        per_device: bool,
    ) -> Result<Fetched, Problem> {
        let now_ms = self.clock.wall_ns() / 1_000_000;
        self.fetches.count(caller.user, self.config().fetches_per_min, now_ms)?;
        self.targets.count(user, self.config().target_fetches_per_min, now_ms)?;
        let count = count.min(MAX_FETCH);
        let contacts_only = self.config().contacts_only;
        let fetch = Fetch { by: caller.user, user, count, per_device, contacts_only, now_ms };
        let fetched = self.store.fetch_key_packages(fetch).await;
        let fetched = fetched.map_err(|error| store_problem(&error))?;
        self.stats.issued.fetch_add(fetched.packages.len() as u64, Ordering::Relaxed);
        if count > 0 && fetched.packages.is_empty() {
            self.stats.empty.fetch_add(1, Ordering::Relaxed);
        }
        if fetched.last_resort_used {
            self.stats.last_resort.fetch_add(1, Ordering::Relaxed);
        }
        self.warn(user, &fetched, now_ms).await;
        Ok(fetched)
    }

    /// What the devices of a user have in the pool.
    ///
    /// # Errors
    /// The store's.
    pub async fn pool(&self, user: NodeId) -> Result<Vec<PoolRow>, Problem> {
        let now_ms = self.clock.wall_ns() / 1_000_000;
        self.store.key_package_pool(user, now_ms).await.map_err(|error| store_problem(&error))
    }

    /// What one device has left.
    ///
    /// # Errors
    /// The store's.
    pub async fn left(&self, caller: &Caller) -> Result<u64, Problem> {
        let pool = self.pool(caller.user).await?;
        let own = pool.into_iter().find(|row| row.device == caller.device);
        Ok(own.map_or(0, |row| row.available))
    }

    /// Devices whose pool has just run low find a note in their inbox.
    async fn warn(&self, user: NodeId, fetched: &Fetched, now_ms: u64) {
        for device in &fetched.devices {
            let before = device.left + device.packages.len() as u64;
            if device.left >= LOW_WATER || before < LOW_WATER || fetched.last_resort_used {
                continue;
            }
            let body =
                json!({ "kind": "key_packages_low", "key_packages_left": device.left }).to_string();
            let max = self.config().max_inbox;
            let put = self.store.put_inbox(user, device.device.clone(), body, now_ms, max).await;
            match put {
                Ok(entry) => {
                    self.inboxes.publish(&InboxPost { user, device: device.device.clone(), entry })
                }
                // The device hears of it with its next session as well.
                Err(error) => tracing::debug!(%error, "a device was not told of its pool"),
            }
        }
    }

    /// Reads one package; the inner error is one of the profile's rules.
    fn read(
        &self,
        caller: &Caller,
        profile: Profile,
        text: &str,
        now_ms: u64,
    ) -> Result<Result<NewKeyPackage, KeyPackageError>, Problem> {
        let bytes = match decode_base64(text) {
            Ok(bytes) => bytes,
            Err(error) if profile == Profile::RelayMls1 => return Ok(Err(error.into())),
            Err(_) => return Err(Problem::invalid("a key package is not base64")),
        };
        if profile == Profile::RelayMls1 {
            let device = URL_SAFE_NO_PAD.decode(caller.device.as_str()).ok();
            let device: Option<[u8; 16]> = device.and_then(|bytes| bytes.try_into().ok());
            let Some(device) = device else {
                let message = "the device_id of a profile device is 16 bytes in base64url";
                return Err(Problem::invalid(message));
            };
            let checked = KeyPackage::parse(&bytes).and_then(|package| {
                package.check(&caller.user, &device, now_ms / 1_000)?;
                Ok(package)
            });
            return Ok(checked.map(|package| NewKeyPackage {
                reference: Some(package.reference),
                not_after_s: Some(package.not_after.min(package.binding.not_after)),
                bytes,
            }));
        }
        if bytes.is_empty() || bytes.len() > MAX_OPAQUE {
            return Err(Problem::invalid("a key package has 1 to 16384 bytes"));
        }
        let reference = KeyPackage::parse(&bytes).ok().map(|package| package.reference);
        // Libraries that set no end set the greatest number.
        let not_after_s = KeyPackage::expiry_of(&bytes).filter(|at| *at < i64::MAX as u64);
        Ok(Ok(NewKeyPackage { reference, not_after_s, bytes }))
    }
}

/// A package as clients get it.
pub fn encode_package(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
