//! The numbers of last changes, in memory: what `ETag`s are made of.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use ahash::{AHashMap, RandomState};
use relay_proto::polycentric::{Subject, SystemKey};
use relay_store::{IngestReport, StoreError};

const SHARDS: usize = 16;
/// Numbers that a shard remembers; when it is full it begins anew, and the store is asked again.
const MAX_PER_SHARD: usize = 8_192;

/// What a version is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    System(SystemKey),
    Subject(Subject),
}

/// A bounded memory of versions. A version is never newer than the data that are read after it, and never older
/// than what was acknowledged before.
#[derive(Debug)]
pub(super) struct Versions {
    shards: [Mutex<AHashMap<Key, u64>>; SHARDS],
    hasher: RandomState,
    /// Counts changes, so that a number read before one is not remembered after it.
    changes: AtomicU64,
    newest: AtomicU64,
}

impl Versions {
    pub fn new(newest: u64) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            changes: AtomicU64::new(0),
            newest: AtomicU64::new(newest),
        }
    }

    /// The number of the last change of anything.
    pub fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// The version of `key`, read with `load` where it is not remembered.
    ///
    /// # Errors
    /// Those of `load`.
    pub async fn get(
        &self,
        key: Key,
        load: impl Future<Output = Result<u64, StoreError>>,
    ) -> Result<u64, StoreError> {
        if let Some(&version) = self.shard(&key).get(&key) {
            return Ok(version);
        }
        let before = self.changes.load(Ordering::Acquire);
        let version = load.await?;
        let mut shard = self.shard(&key);
        if self.changes.load(Ordering::Acquire) == before {
            if shard.len() >= MAX_PER_SHARD {
                shard.clear();
            }
            shard.insert(key, version);
        }
        Ok(version)
    }

    /// Remembers what a durable change changed.
    pub fn committed(&self, report: &IngestReport) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.newest.fetch_max(report.version, Ordering::AcqRel);
        for &(system, version) in &report.systems {
            self.raise(Key::System(system), version);
        }
        for &(subject, version) in &report.subjects {
            self.raise(Key::Subject(subject), version);
        }
    }

    /// Two changes may be told in another order than they were made.
    fn raise(&self, key: Key, version: u64) {
        if let Some(known) = self.shard(&key).get_mut(&key) {
            *known = version.max(*known);
        }
    }

    fn shard(&self, key: &Key) -> std::sync::MutexGuard<'_, AHashMap<Key, u64>> {
        let shard = &self.shards[self.hasher.hash_one(key) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key::Subject(Subject::NONE);

    fn report(version: u64) -> IngestReport {
        IngestReport { version, subjects: vec![(Subject::NONE, version)], ..Default::default() }
    }

    #[tokio::test]
    async fn a_number_read_before_a_change_is_not_kept() {
        let versions = Versions::new(0);
        let slow = versions.get(KEY, async {
            versions.committed(&report(7));
            Ok(3)
        });
        assert_eq!(slow.await.unwrap(), 3);
        assert_eq!(versions.get(KEY, async { Ok(7) }).await.unwrap(), 7);
        versions.committed(&report(9));
        versions.committed(&report(8));
        assert_eq!(versions.get(KEY, async { Ok(0) }).await.unwrap(), 9, "from memory");
        assert_eq!(versions.newest(), 9);
    }
}
