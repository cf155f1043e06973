//! How many of something there are at a time, by key.

use std::{hash::Hash, sync::Arc};

use ahash::RandomState;
use dashmap::{DashMap, Entry};

/// Counts what lives; a key that nothing lives of takes no memory.
#[derive(Debug)]
pub struct Gauges<K: Hash + Eq>(Arc<DashMap<K, u64, RandomState>>);

impl<K: Hash + Eq> Default for Gauges<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Hash + Eq + Clone> Gauges<K> {
    /// Whether there is one of `key`.
    pub fn holds(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Counts one more of `key` until the permit is dropped; `None` where there are `limit` already.
    pub fn enter(&self, key: K, limit: u64) -> Option<Permit<K>> {
        let mut count = self.0.entry(key.clone()).or_default();
        if *count >= limit {
            let empty = *count == 0;
            drop(count);
            if empty {
                self.0.remove_if(&key, |_, count| *count == 0);
            }
            return None;
        }
        *count += 1;
        drop(count);
        Some(Permit { gauges: self.0.clone(), key })
    }
}

/// One that counts.
#[derive(Debug)]
pub struct Permit<K: Hash + Eq + Clone> {
    gauges: Arc<DashMap<K, u64, RandomState>>,
    key: K,
}

impl<K: Hash + Eq + Clone> Drop for Permit<K> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.gauges.entry(self.key.clone()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_makes_room() {
        let gauges = Gauges::default();
        let (one, two) = (gauges.enter("a", 2), gauges.enter("a", 2));
        assert!(one.is_some() && two.is_some() && gauges.enter("a", 2).is_none());
        let other = gauges.enter("b", 1);
        drop(one);
        assert!(gauges.enter("a", 2).is_some());
        drop((two, other));
        assert!(gauges.enter("c", 0).is_none());
        assert!(gauges.0.is_empty(), "nothing is left of those who are gone");
    }
}
