//! What operators allow single identities, in place of what the configuration allows all.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use relay_proto::{
    Code, Problem,
    polycentric::{Event, SystemKey},
};
use relay_store::SocialQuota;

use super::{Social, SocialConfig};
use crate::{failure::store_problem, limits::Rate};

/// Identities that may have a quota of their own; more are refused.
const MAX_QUOTAS: usize = 10_000;

/// Those that are set, in memory: each upload looks at them.
#[derive(Debug)]
pub(super) struct Quotas {
    all: ArcSwap<BTreeMap<SystemKey, SocialQuota>>,
    /// Held by whoever changes them, so that memory follows the store in its order.
    changing: tokio::sync::Mutex<()>,
}

impl Quotas {
    pub(super) fn of(all: Vec<SocialQuota>) -> Self {
        let all = all.into_iter().map(|quota| (quota.system, quota)).collect();
        Self { all: ArcSwap::from_pointee(all), changing: tokio::sync::Mutex::default() }
    }

    /// How fast this identity may write; `None` is no limit.
    pub(super) fn rate(&self, system: &SystemKey, config: &SocialConfig) -> Option<Rate> {
        match self.all.load().get(system).and_then(|quota| quota.events_per_sec) {
            None => config.identity_rate,
            Some(0) => None,
            Some(per_sec) => Some(Rate { per_sec, burst: config.burst }),
        }
    }

    /// How many bytes may be held of those authors of events who may hold more or less than all.
    pub(super) fn bytes_of(&self, events: &[Event]) -> BTreeMap<SystemKey, Option<u64>> {
        let all = self.all.load();
        if all.is_empty() {
            return BTreeMap::new();
        }
        let own = |event: &Event| {
            let bytes = all.get(&event.system())?.bytes?;
            Some((event.system(), (bytes > 0).then_some(bytes)))
        };
        events.iter().filter_map(own).collect()
    }
}

impl Social {
    /// The quotas of single identities, by their keys.
    pub fn quotas(&self) -> Vec<SocialQuota> {
        self.quotas.all.load().values().copied().collect()
    }

    /// Bytes that may be held of an identity; `None` is no limit.
    pub fn bytes_limit(&self, system: &SystemKey) -> Option<u64> {
        match self.quotas.all.load().get(system).and_then(|quota| quota.bytes) {
            None => self.config.identity_bytes,
            Some(0) => None,
            bytes => bytes,
        }
    }

    /// Sets what one identity may, in place of an older quota of it: what is `None` is as for all, what is 0 has no
    /// limit. Returns it with the time at which it was set.
    ///
    /// # Errors
    /// `invalid_request` where it says nothing; `limit_exceeded` where too many identities have one; the store's.
    pub async fn set_quota(
        &self,
        system: SystemKey,
        bytes: Option<u64>,
        events_per_sec: Option<u32>,
    ) -> Result<SocialQuota, Problem> {
        if bytes.is_none() && events_per_sec.is_none() {
            return Err(Problem::invalid(
                "a quota limits bytes or events_per_sec; remove it to have none",
            ));
        }
        if bytes.is_some_and(|bytes| i64::try_from(bytes).is_err()) {
            return Err(Problem::invalid("bytes is at most 2^63 - 1"));
        }
        let _changing = self.quotas.changing.lock().await;
        let mut all = BTreeMap::clone(&self.quotas.all.load());
        if all.len() >= MAX_QUOTAS && !all.contains_key(&system) {
            let message = format!("at most {MAX_QUOTAS} identities have a quota of their own");
            return Err(Problem::new(Code::LimitExceeded, message));
        }
        let quota = SocialQuota { system, bytes, events_per_sec, set_at_ms: self.now_ms() };
        self.store.social_set_quota(quota).await.map_err(|error| store_problem(&error))?;
        all.insert(system, quota);
        self.quotas.all.store(Arc::new(all));
        Ok(quota)
    }

    /// From now on an identity may what all may.
    ///
    /// # Errors
    /// `not_found` where it has no quota; the store's.
    pub async fn remove_quota(&self, system: SystemKey) -> Result<(), Problem> {
        let _changing = self.quotas.changing.lock().await;
        let there = self.store.social_remove_quota(system).await;
        if !there.map_err(|error| store_problem(&error))? {
            return Err(Problem::not_found("this identity has no quota of its own"));
        }
        let mut all = BTreeMap::clone(&self.quotas.all.load());
        all.remove(&system);
        self.quotas.all.store(Arc::new(all));
        Ok(())
    }
}
