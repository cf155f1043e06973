//! Token buckets, kept as one number each: the time at which the bucket will be full again.

use std::{hash::Hash, time::Duration};

use super::{Exceeded, table::Table};

/// How fast, and how much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second in the long run; 0 refuses everything.
    pub per_sec: u32,
    /// Tokens that may be taken at once by a key that was idle; at least 1.
    pub burst: u32,
}

impl Rate {
    fn interval_ns(self) -> u64 {
        1_000_000_000 / u64::from(self.per_sec.max(1))
    }

    fn capacity_ns(self) -> u64 {
        self.interval_ns() * u64::from(self.burst.max(1))
    }
}

/// One bucket, for a holder of its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    full_at_ns: u64,
}

impl Bucket {
    /// Takes one token in any case, and tells how long to rest where that leaves a debt: for what
    /// is slowed instead of refused.
    pub fn charge(&mut self, rate: Rate, now_ns: u64) -> Duration {
        self.full_at_ns = self.full_at_ns.max(now_ns).saturating_add(rate.interval_ns());
        let debt_ns = (self.full_at_ns - now_ns).saturating_sub(rate.capacity_ns());
        Duration::from_nanos(debt_ns)
    }
}

/// One bucket for each key.
#[derive(Debug)]
pub struct Buckets<K>(Table<K, u64>);

impl<K: Hash + Eq> Buckets<K> {
    /// Remembers about `capacity` keys.
    pub fn new(capacity: usize) -> Self {
        Self(Table::new(capacity))
    }

    /// Takes `n` tokens, or none. More than a burst at once needs a full bucket and leaves a
    /// debt, so that a batch of any size gets through and the long run holds.
    ///
    /// # Errors
    /// [`Exceeded`].
    pub fn take(&self, key: K, rate: Rate, n: u32, now_ns: u64) -> Result<(), Exceeded> {
        if rate.per_sec == 0 {
            return Err(Exceeded { retry_after_ms: u64::from(u32::MAX) });
        }
        let room = rate
            .capacity_ns()
            .saturating_sub(rate.interval_ns() * u64::from(n.min(rate.burst.max(1))));
        let cost = rate.interval_ns() * u64::from(n);
        self.0.with(
            key,
            || now_ns,
            |full_at| *full_at <= now_ns,
            |full_at| {
                let from = (*full_at).max(now_ns);
                let missing = (from - now_ns).saturating_sub(room);
                if missing > 0 {
                    return Err(Exceeded { retry_after_ms: missing.div_ceil(1_000_000) });
                }
                *full_at = from.saturating_add(cost);
                Ok(())
            },
        )
    }

    /// As [`Bucket::charge`], for the bucket of `key`.
    pub fn charge(&self, key: K, rate: Rate, now_ns: u64) -> Duration {
        self.0.with(
            key,
            || now_ns,
            |full_at| *full_at <= now_ns,
            |full_at| {
                let mut bucket = Bucket { full_at_ns: *full_at };
                let rest = bucket.charge(rate, now_ns);
                *full_at = bucket.full_at_ns;
                rest
            },
        )
    }

    /// Gives back `n` tokens that were taken for something that then did not happen.
    pub fn refund(&self, key: K, rate: Rate, n: u32, now_ns: u64) {
        self.0.with(
            key,
            || now_ns,
            |full_at| *full_at <= now_ns,
            |full_at| *full_at = full_at.saturating_sub(rate.interval_ns() * u64::from(n)),
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { per_sec: 10, burst: 5 };
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_then_the_rate() {
        let buckets = Buckets::new(100);
        for _ in 0..5 {
            assert_eq!(buckets.take("a", RATE, 1, SECOND), Ok(()));
        }
        let refused = buckets.take("a", RATE, 1, SECOND);
        assert_eq!(refused, Err(Exceeded { retry_after_ms: 100 }));
        assert_eq!(buckets.take("b", RATE, 5, SECOND), Ok(()), "keys are apart");
        assert_eq!(buckets.take("a", RATE, 1, SECOND + SECOND / 10), Ok(()));
        assert!(buckets.take("a", RATE, 1, SECOND + SECOND / 10).is_err());
    }

    #[test]
    fn a_batch_larger_than_the_burst_leaves_a_debt() {
        let buckets = Buckets::new(100);
        assert_eq!(buckets.take("a", RATE, 20, SECOND), Ok(()));
        let refused = buckets.take("a", RATE, 1, SECOND);
        assert_eq!(refused, Err(Exceeded { retry_after_ms: 1_600 }));
        assert!(buckets.take("a", RATE, 20, SECOND + 1_900_000_000).is_err());
        assert_eq!(buckets.take("a", RATE, 20, SECOND + 2 * SECOND), Ok(()));
    }

    #[test]
    fn what_is_slowed_rests_for_its_debt_and_no_longer() {
        let mut bucket = Bucket::default();
        for _ in 0..5 {
            assert_eq!(bucket.charge(RATE, SECOND), Duration::ZERO);
        }
        assert_eq!(bucket.charge(RATE, SECOND), Duration::from_millis(100));
        assert_eq!(bucket.charge(RATE, SECOND), Duration::from_millis(200));
        assert_eq!(bucket.charge(RATE, SECOND + 2 * SECOND), Duration::ZERO);
        let buckets = Buckets::new(100);
        let rests: Vec<_> = (0..7).map(|_| buckets.charge("a", RATE, SECOND)).collect();
        assert_eq!(rests[4..], [0, 100, 200].map(Duration::from_millis));
        assert_eq!(buckets.charge("b", RATE, SECOND), Duration::ZERO);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let buckets = Buckets::new(100);
        assert_eq!(buckets.take("a", RATE, 5, SECOND), Ok(()));
        buckets.refund("a", RATE, 2, SECOND);
        assert_eq!(buckets.take("a", RATE, 2, SECOND), Ok(()));
        assert!(buckets.take("a", RATE, 1, SECOND).is_err());
    }

    #[test]
    fn a_crowd_of_keys_costs_bounded_memory() {
        let buckets = Buckets::new(160);
        for n in 0..100_000u32 {
            let _ = buckets.take(n, RATE, 1, SECOND);
        }
        assert!(buckets.0.len() <= 160);
    }

    #[test]
    fn no_tokens_at_rate_zero() {
        let closed = Rate { per_sec: 0, burst: 5 };
        assert!(Buckets::new(1).take("a", closed, 1, SECOND).is_err());
    }

    proptest! {
        /// However it is asked, never more than the burst and what the time allows gets through.
        #[test]
        fn the_long_run_holds(steps in prop::collection::vec((0u64..SECOND, 1u32..5), 1..100)) {
            let buckets = Buckets::new(16);
            let (mut now, mut taken) = (SECOND, 0u64);
            for (forward, n) in steps {
                now += forward;
                if buckets.take("a", RATE, n, now).is_ok() {
                    taken += u64::from(n);
                }
                let allowed = 5 + (now - SECOND) * 10 / SECOND;
                prop_assert!(taken <= allowed, "{} of {}", taken, allowed);
            }
        }
    }
}
