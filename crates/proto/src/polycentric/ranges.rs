//! Sets of clocks as intervals: what a party holds of a process.

use super::{
    id::{MAX_NUMBER, WireError},
    message::Range,
};

/// An inclusive interval of clocks; `low` is never above `high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval {
    pub low: u64,
    pub high: u64,
}

/// A set of clocks: intervals in ascending order that neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Interval>);

impl Ranges {
    /// Joins intervals of any order, also overlapping ones, into a set.
    pub fn of(intervals: impl IntoIterator<Item = Interval>) -> Self {
        let mut all: Vec<Interval> = intervals.into_iter().collect();
        all.sort_unstable();
        let mut joined: Vec<Interval> = Vec::with_capacity(all.len());
        for next in all {
            match joined.last_mut() {
                Some(last) if next.low <= last.high.saturating_add(1) => {
                    last.high = last.high.max(next.high);
                }
                _ => joined.push(next),
            }
        }
        Self(joined)
    }

    /// Reads ranges off the wire.
    ///
    /// # Errors
    /// [`WireError::Range`] for one that ends before it begins, [`WireError::TooGreat`].
    pub fn from_wire(ranges: &[Range]) -> Result<Self, WireError> {
        let intervals: Result<Vec<Interval>, WireError> = ranges
            .iter()
            .map(|range| match range {
                Range { high, .. } if *high > MAX_NUMBER => Err(WireError::TooGreat("a clock")),
                Range { low, high } if low > high => Err(WireError::Range),
                Range { low, high } => Ok(Interval { low: *low, high: *high }),
            })
            .collect();
        Ok(Self::of(intervals?))
    }

    pub fn to_wire(&self) -> Vec<Range> {
        self.0.iter().map(|interval| Range { low: interval.low, high: interval.high }).collect()
    }

    pub fn intervals(&self) -> &[Interval] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many clocks there are in the set; saturates.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum: u64, interval| {
            sum.saturating_add((interval.high - interval.low).saturating_add(1))
        })
    }

    pub fn contains(&self, clock: u64) -> bool {
        let after = self.0.partition_point(|interval| interval.low <= clock);
        after > 0 && self.0[after - 1].high >= clock
    }

    /// Both sets together.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::of(self.0.iter().chain(&other.0).copied())
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        let mut cuts = other.0.iter().peekable();
        for interval in &self.0 {
            let mut low = interval.low;
            let mut used_up = false;
            while let Some(cut) = cuts.peek() {
                if cut.high < low {
                    cuts.next();
                    continue;
                }
                if cut.low > interval.high {
                    break;
                }
                if cut.low > low {
                    left.push(Interval { low, high: cut.low - 1 });
                }
                if cut.high >= interval.high {
                    used_up = true;
                    break;
                }
                low = cut.high + 1;
                cuts.next();
            }
            if !used_up {
                left.push(Interval { low, high: interval.high });
            }
        }
        Self(left)
    }

    /// The set cut into pieces of at most `size` clocks each, in order.
    pub fn chunks(&self, size: u64) -> Vec<Self> {
        let size = size.max(1);
        let mut chunks = Vec::new();
        let (mut chunk, mut room) = (Vec::new(), size);
        for interval in &self.0 {
            let mut low = interval.low;
            loop {
                let high = interval.high.min(low.saturating_add(room - 1));
                chunk.push(Interval { low, high });
                room -= high - low + 1;
                if room == 0 {
                    chunks.push(Self(std::mem::take(&mut chunk)));
                    room = size;
                }
                if high == interval.high {
                    break;
                }
                low = high + 1;
            }
        }
        if !chunk.is_empty() {
            chunks.push(Self(chunk));
        }
        chunks
    }
}

impl FromIterator<u64> for Ranges {
    fn from_iter<I: IntoIterator<Item = u64>>(clocks: I) -> Self {
        Self::of(clocks.into_iter().map(|clock| Interval { low: clock, high: clock }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn clocks() -> impl Strategy<Value = BTreeSet<u64>> {
        prop::collection::btree_set(0..60u64, 0..40)
    }

    fn listed(ranges: &Ranges) -> BTreeSet<u64> {
        ranges.intervals().iter().flat_map(|interval| interval.low..=interval.high).collect()
    }

    /// What the client demands of an answer: no interval backwards, none touching the next.
    fn is_proper(ranges: &Ranges) -> bool {
        ranges.intervals().iter().all(|interval| interval.low <= interval.high)
            && ranges.intervals().windows(2).all(|pair| pair[0].high + 1 < pair[1].low)
    }

    proptest! {
        #[test]
        fn sets_behave_as_sets(a in clocks(), b in clocks(), size in 1..9u64) {
            let (x, y): (Ranges, Ranges) = (a.iter().copied().collect(), b.iter().copied().collect());
            prop_assert!(is_proper(&x));
            prop_assert_eq!(listed(&x), a.clone());
            prop_assert_eq!(x.count(), a.len() as u64);
            for (got, wanted) in [
                (x.union(&y), a.union(&b).copied().collect::<BTreeSet<_>>()),
                (x.without(&y), a.difference(&b).copied().collect()),
            ] {
                prop_assert!(is_proper(&got));
                prop_assert_eq!(listed(&got), wanted);
            }
            for clock in 0..60 {
                prop_assert_eq!(x.contains(clock), a.contains(&clock));
            }
            let chunks = x.chunks(size);
            prop_assert!(chunks.iter().all(|chunk| (1..=size).contains(&chunk.count())));
            let joined: BTreeSet<u64> = chunks.iter().flat_map(listed).collect();
            prop_assert_eq!(joined, a);
        }

        #[test]
        fn any_wire_form_of_a_set_is_that_set(
            intervals in prop::collection::vec((0..50u64, 0..10u64), 0..20),
        ) {
            let wire: Vec<Range> =
                intervals.iter().map(|&(low, more)| Range { low, high: low + more }).collect();
            let wanted: BTreeSet<u64> =
                wire.iter().flat_map(|range| range.low..=range.high).collect();
            let ranges = Ranges::from_wire(&wire).unwrap();
            prop_assert!(is_proper(&ranges));
            prop_assert_eq!(listed(&ranges), wanted);
            prop_assert_eq!(Ranges::from_wire(&ranges.to_wire()).unwrap(), ranges);
        }
    }

    #[test]
    fn limits_do_not_overflow() {
        let all = Ranges::from_wire(&[Range { low: 0, high: MAX_NUMBER }]).unwrap();
        assert_eq!(all.count(), MAX_NUMBER + 1);
        assert!(all.without(&all).is_empty());
        assert_eq!(Ranges::from_wire(&[Range { low: 2, high: 1 }]), Err(WireError::Range));
        let beyond = Ranges::from_wire(&[Range { low: 0, high: u64::MAX }]);
        assert_eq!(beyond, Err(WireError::TooGreat("a clock")));
    }
}
