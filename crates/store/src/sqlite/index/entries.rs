//! Index entries in memory: one ordered set for all index tables. Pure.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Bound,
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use relay_proto::Event;

use super::super::query::Window;
use crate::tags::tag_hashes;

/// Names a contiguous stretch of one index table; the variants are in the order in which tables are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::sqlite) enum Key {
    Id { prefix: i64 },
    Author { ns: i64, author: i64, kind: i64 },
    Kind { ns: i64, kind: i64 },
    Tag { tag: i64 },
}

impl Key {
    /// Whether old versions stand apart in the table.
    pub fn knows_superseded(self) -> bool {
        !matches!(self, Self::Id { .. })
    }
}

/// A place in a stretch. Within one, entries are in order of time, then of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::sqlite) struct Entry {
    pub key: Key,
    pub created_at_ns: u64,
    pub seq: u64,
}

/// Puts what is to be found of an event into `to`. Namespace and author are given by their numbers.
pub(in crate::sqlite) fn entries_of(
    event: &Event,
    seq: u64,
    (ns, author): (i64, i64),
    to: &mut Vec<Entry>,
) {
    let created_at_ns = event.created_at_ns();
    let kind = i64::from(event.kind());
    let columns = [
        Key::Id { prefix: event.id().prefix() },
        Key::Author { ns, author, kind },
        Key::Kind { ns, kind },
    ];
    let tags = tag_hashes(event).map(|tag| Key::Tag { tag });
    to.extend(columns.into_iter().chain(tags).map(|key| Entry { key, created_at_ns, seq }));
}

/// Entries that are being collected by the writer and read by everybody.
#[derive(Debug, Default)]
pub(in crate::sqlite) struct Segment(RwLock<BTreeSet<Entry>>);

impl Segment {
    pub fn extend(&self, entries: impl IntoIterator<Item = Entry>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).extend(entries);
    }

    pub fn len(&self) -> usize {
        self.entries().len()
    }

    /// Of every entry in a stretch, whose it is.
    pub fn seqs(&self, key: Key) -> Vec<u64> {
        let at = |created_at_ns, seq| Entry { key, created_at_ns, seq };
        let stretch = at(0, 0)..=at(u64::MAX, u64::MAX);
        self.entries().range(stretch).map(|entry| entry.seq).collect()
    }

    /// Up to `limit` entries beyond `last`, in order.
    pub fn beyond(&self, last: Option<Entry>, limit: usize) -> Vec<Entry> {
        let start = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries().range((start, Bound::Unbounded)).take(limit).copied().collect()
    }

    /// The places of a stretch within `window` and beyond `from`, at most `limit`.
    pub fn read(
        &self,
        key: Key,
        from: Option<(u64, u64)>,
        window: Window,
        limit: usize,
    ) -> VecDeque<(u64, u64)> {
        let at = |(created_at_ns, seq)| Entry { key, created_at_ns, seq };
        let (first, last) = (at((window.since_ns, 0)), at((window.until_ns, u64::MAX)));
        let (mut low, mut high) = (Bound::Included(first), Bound::Included(last));
        match from.map(at) {
            Some(from) if window.descending && from <= last => high = Bound::Excluded(from),
            Some(from) if !window.descending && from >= first => low = Bound::Excluded(from),
            _ => {}
        }
        if !is_range(low, high) {
            return VecDeque::new();
        }
        let place = |entry: &Entry| (entry.created_at_ns, entry.seq);
        let entries = self.entries();
        let found = entries.range((low, high));
        if window.descending {
            found.rev().take(limit).map(place).collect()
        } else {
            found.take(limit).map(place).collect()
        }
    }

    /// The next kind after `last` of the stretches that `with` names.
    pub fn kind_after(&self, last: i64, with: impl Fn(i64) -> Key) -> Option<i64> {
        let at = |kind| Entry { key: with(kind), created_at_ns: 0, seq: 0 };
        let stretches = at(last + 1)..at(KINDS_END);
        match self.entries().range(stretches).next()?.key {
            Key::Author { kind, .. } | Key::Kind { kind, .. } => Some(kind),
            Key::Id { .. } | Key::Tag { .. } => None,
        }
    }

    fn entries(&self) -> RwLockReadGuard<'_, BTreeSet<Entry>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Above every kind.
const KINDS_END: i64 = 1 << 16;

/// `BTreeSet::range` panics where the end lies before the start.
fn is_range(low: Bound<Entry>, high: Bound<Entry>) -> bool {
    match (low, high) {
        (Bound::Included(low), Bound::Included(high)) => low <= high,
        (
            Bound::Included(low) | Bound::Excluded(low),
            Bound::Included(high) | Bound::Excluded(high),
        ) => low < high,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key::Tag { tag: 5 };

    fn segment() -> Segment {
        let segment = Segment::default();
        let at = |created_at_ns, seq| Entry { key: KEY, created_at_ns, seq };
        segment.extend([at(10, 1), at(10, 2), at(20, 3), at(30, 4)]);
        segment.extend([4, 6].map(|tag| Entry {
            key: Key::Tag { tag },
            created_at_ns: 15,
            seq: 9,
        }));
        segment
    }

    fn seqs(from: Option<(u64, u64)>, since_ns: u64, until_ns: u64, descending: bool) -> Vec<u64> {
        let window = Window { since_ns, until_ns, descending };
        segment().read(KEY, from, window, 100).into_iter().map(|(_, seq)| seq).collect()
    }

    #[test]
    fn a_stretch_is_read_both_ways_within_its_window() {
        assert_eq!(seqs(None, 0, u64::MAX, false), [1, 2, 3, 4]);
        assert_eq!(seqs(None, 0, u64::MAX, true), [4, 3, 2, 1]);
        assert_eq!(seqs(None, 10, 20, true), [3, 2, 1]);
        assert_eq!(seqs(Some((10, 2)), 10, 30, false), [3, 4]);
        assert_eq!(seqs(Some((20, 3)), 10, 30, true), [2, 1]);
        assert_eq!(seqs(Some((5, 0)), 10, 30, false), [1, 2, 3, 4]);
        assert_eq!(seqs(Some((99, 0)), 10, 30, true), [4, 3, 2, 1]);
        assert_eq!(seqs(Some((30, 4)), 0, 30, false), [0; 0]);
        assert_eq!(seqs(Some((5, 0)), 10, 30, true), [0; 0]);
        assert_eq!(seqs(None, 30, 20, true), [0; 0]);
    }
}
