//! A histogram of latencies: fixed memory, below 1 % error, cheap to record into and to join.

use std::time::Duration;

/// Values below this are exact; above, each power of two is cut into this many parts.
const PARTS: u64 = 128;
const PARTS_LOG2: u32 = PARTS.trailing_zeros();

/// Counts of nanosecond values.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let slots = (u64::BITS - PARTS_LOG2 + 1) as usize * PARTS as usize;
        Self { counts: vec![0; slots], total: 0, max_ns: 0 }
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Histogram").field("total", &self.total).finish_non_exhaustive()
    }
}

impl Histogram {
    pub fn record(&mut self, value: Duration) {
        let ns = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        self.counts[slot(ns)] += 1;
        self.total += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds all that `other` recorded.
    pub fn join(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// The counts that are not zero, with their places; for another process to join.
    pub fn sparse(&self) -> Vec<(usize, u64)> {
        let counts = self.counts.iter().copied().enumerate();
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// What [`Self::sparse`] gave; the greatest value is known to within its slot.
    pub fn from_sparse(sparse: &[(usize, u64)]) -> Self {
        let mut whole = Self::default();
        for (slot, count) in sparse {
            if let Some(mine) = whole.counts.get_mut(*slot) {
                *mine += count;
                whole.total += count;
                whole.max_ns = whole.max_ns.max(upper_end(*slot));
            }
        }
        whole
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    /// The fraction (0 to 1) of all values that are below `limit`, to within a slot; 0 when empty.
    pub fn share_below(&self, limit: Duration) -> f64 {
        let limit = slot(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
        let below: u64 = self.counts[..limit].iter().sum();
        below as f64 / self.total.max(1) as f64
    }

    /// The value that the fraction `q` (0 to 1) of all values does not exceed; zero when empty.
    pub fn quantile(&self, q: f64) -> Duration {
        let wanted = ((self.total as f64 * q).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (slot, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(upper_end(slot).min(self.max_ns));
            }
        }
        Duration::ZERO
    }
}

fn slot(ns: u64) -> usize {
    if ns < PARTS {
        return ns as usize;
    }
    let shift = ns.ilog2() - PARTS_LOG2;
    // The leading one is always there, so it carries no information: take the parts after it.
    let part = (ns >> shift) - PARTS;
    (u64::from(shift + 1) * PARTS + part) as usize
}

/// The greatest value that falls into `slot`.
fn upper_end(slot: usize) -> u64 {
    let slot = slot as u64;
    if slot < PARTS {
        return slot;
    }
    let shift = slot / PARTS - 1;
    let part = slot % PARTS + PARTS;
    ((u128::from(part + 1) << shift) - 1).min(u128::from(u64::MAX)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_slot_with_small_error() {
        for ns in (0..63).flat_map(|bits| [1 << bits, (1 << bits) + 1, (1u64 << bits) * 3 / 2]) {
            let end = upper_end(slot(ns));
            assert!(end >= ns, "{ns} above its slot's end {end}");
            assert!(end - ns <= ns / 100, "{ns} is reported as {end}");
        }
        assert_eq!(upper_end(slot(u64::MAX)), u64::MAX);
    }

    #[test]
    fn quantiles_of_a_known_series() {
        let mut low = Histogram::default();
        let mut high = Histogram::default();
        for ms in 1..=500 {
            low.record(Duration::from_millis(ms));
        }
        for ms in 501..=1000 {
            high.record(Duration::from_millis(ms));
        }
        low.join(&high);
        assert_eq!(low.total(), 1000);
        for (q, ms) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1000.0)] {
            let found = low.quantile(q).as_secs_f64() * 1000.0;
            assert!((found - ms).abs() <= ms * 0.01, "p{q} is {found} and not {ms}");
        }
        assert_eq!(low.max(), Duration::from_secs(1));
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }
}
