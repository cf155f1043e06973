//! A bounded map in shards, each under a short lock.

use std::{
    hash::Hash,
    sync::{Mutex, PoisonError},
};

use ahash::{AHashMap, RandomState};

const SHARDS: usize = 16;

#[derive(Debug)]
pub(super) struct Table<K, V> {
    shards: [Mutex<AHashMap<K, V>>; SHARDS],
    hasher: RandomState,
    capacity_per_shard: usize,
}

impl<K: Hash + Eq, V> Table<K, V> {
    /// Holds about `capacity` keys.
    pub fn new(capacity: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            capacity_per_shard: capacity.div_ceil(SHARDS).max(1),
        }
    }

    /// Works on the value of `key`, made by `fresh` where there is none. `is_idle` says which
    /// values are as good as absent.
    pub fn with<T>(
        &self,
        key: K,
        fresh: impl FnOnce() -> V,
        is_idle: impl Fn(&V) -> bool,
        work: impl FnOnce(&mut V) -> T,
    ) -> T {
        let shard = &self.shards[self.hasher.hash_one(&key) as usize % SHARDS];
        // A value is changed by one assignment, so a panic elsewhere leaves it whole.
        let mut map = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= self.capacity_per_shard && !map.contains_key(&key) {
            make_room(&mut map, self.capacity_per_shard, is_idle);
        }
        work(map.entry(key).or_insert_with(fresh))
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap().len()).sum()
    }
}

/// Drops the idle, and if that is not enough an eighth of the others, so that the cost of a
/// sweep is shared by many insertions.
fn make_room<K: Hash + Eq, V>(
    map: &mut AHashMap<K, V>,
    capacity: usize,
    is_idle: impl Fn(&V) -> bool,
) {
    map.retain(|_, value| !is_idle(value));
    let keep = capacity - capacity.div_ceil(8);
    let mut seen = 0;
    map.retain(|_, _| {
        seen += 1;
        seen <= keep
    });
}
