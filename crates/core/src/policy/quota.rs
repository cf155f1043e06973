//! What a tenant may use (`events.md`, Namespaces, tenants, policy).
//!
//! Counters live in memory and are loaded from, and now and then written back to, the store: a
//! crash may forget the last seconds of them, which is no harm to a quota.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use dashmap::DashMap;
use relay_proto::{Code, Problem};
use serde::Serialize;

use crate::limits::{Buckets, Rate};

/// The limits of one tenant; `None` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct QuotaLimits {
    /// Bytes of stored events.
    pub bytes: Option<u64>,
    /// Events stored in one day (UTC).
    pub events_per_day: Option<u64>,
    /// Events a second in the long run; twice as many at once.
    pub events_per_sec: Option<u32>,
    /// Live subscriptions.
    pub subscriptions: Option<u64>,
    /// Locks held at a time.
    pub locks: Option<u64>,
}

/// What the configuration says.
#[derive(Debug, Clone, Default)]
pub struct QuotaConfig {
    pub default: QuotaLimits,
    pub tenants: std::collections::BTreeMap<String, QuotaLimits>,
    /// Tokens for each writing key; `None` is no limit.
    pub per_key: Option<Rate>,
}

/// A tenant's counters as they are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TenantUsage {
    pub tenant: String,
    pub bytes: u64,
    /// Days since 1970 (UTC) that `events` belongs to.
    pub day: u64,
    pub events: u64,
}

/// Limits and use of a tenant: what `quota show` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QuotaReport {
    #[serde(flatten)]
    pub usage: TenantUsage,
    pub subscriptions: u64,
    pub limits: QuotaLimits,
}

/// Counters of every tenant.
#[derive(Debug)]
pub struct Quotas {
    config: arc_swap::ArcSwap<QuotaConfig>,
    tenants: DashMap<String, Arc<Counters>, ahash::RandomState>,
    rates: Buckets<String>,
    keys: Buckets<relay_proto::NodeId>,
}

#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicI64,
    /// Day in the upper half, events of it in the lower: both change in one step.
    day_and_events: AtomicU64,
    subscriptions: AtomicU64,
}

/// Namespaces make tenants, so their number is bounded too.
const MAX_TENANTS: usize = 100_000;
const MAX_KEYS: usize = 200_000;
const MS_PER_DAY: u64 = 86_400_000;
const EVENTS_MASK: u64 = 0xffff_ffff;

impl Quotas {
    pub fn new(config: QuotaConfig) -> Self {
        Self {
            config: arc_swap::ArcSwap::from_pointee(config),
            tenants: DashMap::default(),
            rates: Buckets::new(MAX_TENANTS),
            keys: Buckets::new(MAX_KEYS),
        }
    }

    pub fn reconfigure(&self, config: QuotaConfig) {
        self.config.store(Arc::new(config));
    }

    /// Takes over what the store knows; at the start.
    pub fn load(&self, rows: impl IntoIterator<Item = TenantUsage>) {
        for row in rows {
            let counters = Counters {
                bytes: AtomicI64::new(i64::try_from(row.bytes).unwrap_or(i64::MAX)),
                day_and_events: AtomicU64::new(pack(row.day, row.events)),
                subscriptions: AtomicU64::new(0),
            };
            self.tenants.insert(row.tenant, Arc::new(counters));
        }
    }

    /// Everything to be kept.
    pub fn usage(&self) -> Vec<TenantUsage> {
        self.tenants.iter().map(|entry| entry.value().usage(entry.key())).collect()
    }

    pub fn report(&self, tenant: &str) -> QuotaReport {
        let limits = self.limits(tenant);
        match self.tenants.get(tenant) {
            Some(counters) => QuotaReport {
                usage: counters.usage(tenant),
                subscriptions: counters.subscriptions.load(Ordering::Relaxed),
                limits,
            },
            None => QuotaReport {
                usage: TenantUsage { tenant: tenant.to_owned(), bytes: 0, day: 0, events: 0 },
                subscriptions: 0,
                limits,
            },
        }
    }

    pub fn limits(&self, tenant: &str) -> QuotaLimits {
        let config = self.config.load();
        config.tenants.get(tenant).unwrap_or(&config.default).clone()
    }

    /// Whether anything is limited by the second.
    pub fn has_rates(&self) -> bool {
        let config = self.config.load();
        let limited = |limits: &QuotaLimits| limits.events_per_sec.is_some();
        config.per_key.is_some() || limited(&config.default) || config.tenants.values().any(limited)
    }

    /// Charges `events` of `bytes` in all, by one author, before they are stored.
    ///
    /// # Errors
    /// `rate_limited` with `retry_after_ms`, or `quota_exceeded`; then nothing was charged.
    pub fn charge(
        &self,
        tenant: &str,
        author: relay_proto::NodeId,
        events: u32,
        bytes: u64,
        now_ns: u64,
    ) -> Result<(), Problem> {
        let config = self.config.load();
        let limits = config.tenants.get(tenant).unwrap_or(&config.default);
        if let Some(rate) = config.per_key {
            self.keys.take(author, rate, events, now_ns)?;
        }
        let back_to_author = |problem| {
            if let Some(rate) = config.per_key {
                self.keys.refund(author, rate, events, now_ns);
            }
            problem
        };
        let rate = limits.rate();
        if let Some(rate) = rate {
            self.rates
                .take(tenant.to_owned(), rate, events, now_ns)
                .map_err(|exceeded| back_to_author(exceeded.into()))?;
        }
        self.counters(tenant)
            .and_then(|counters| counters.charge(limits, events, bytes, now_ns))
            .map_err(|problem| {
                if let Some(rate) = rate {
                    self.rates.refund(tenant.to_owned(), rate, events, now_ns);
                }
                back_to_author(problem)
            })
    }

    /// Takes back a charge for events that were not stored after all.
    pub fn refund(
        &self,
        tenant: &str,
        author: relay_proto::NodeId,
        events: u32,
        bytes: u64,
        now_ns: u64,
    ) {
        let config = self.config.load();
        let limits = config.tenants.get(tenant).unwrap_or(&config.default);
        if let Some(rate) = config.per_key {
            self.keys.refund(author, rate, events, now_ns);
        }
        if let Some(rate) = limits.rate() {
            self.rates.refund(tenant.to_owned(), rate, events, now_ns);
        }
        if let Some(counters) = self.tenants.get(tenant) {
            counters.uncharge(events, bytes, now_ns);
        }
    }

    /// Bytes that retention gave back.
    pub fn pruned(&self, tenant: &str, bytes: u64) {
        if let Some(counters) = self.tenants.get(tenant) {
            counters.bytes.fetch_sub(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
        }
    }

    /// Counts one live subscription until the permit is dropped.
    ///
    /// # Errors
    /// `quota_exceeded`.
    pub fn subscribe(&self, tenant: &str) -> Result<SubscriptionPermit, Problem> {
        let limit = self.limits(tenant).subscriptions.unwrap_or(u64::MAX);
        let counters = self.counters(tenant)?;
        let below = |count: u64| (count < limit).then_some(count + 1);
        counters
            .subscriptions
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, below)
            .map_err(|_| exceeded(tenant, "subscriptions"))?;
        Ok(SubscriptionPermit(counters))
    }

    /// Whether a tenant that holds `held` locks may take another.
    ///
    /// # Errors
    /// `quota_exceeded`.
    pub fn check_locks(&self, tenant: &str, held: u64) -> Result<(), Problem> {
        let limit = self.limits(tenant).locks.unwrap_or(u64::MAX);
        if held < limit { Ok(()) } else { Err(exceeded(tenant, "locks")) }
    }

    fn counters(&self, tenant: &str) -> Result<Arc<Counters>, Problem> {
        if let Some(counters) = self.tenants.get(tenant) {
            return Ok(counters.clone());
        }
        if self.tenants.len() >= MAX_TENANTS {
            return Err(Problem::new(Code::QuotaExceeded, "this relay has too many tenants"));
        }
        Ok(self.tenants.entry(tenant.to_owned()).or_default().clone())
    }
}

/// A live subscription that counts.
#[derive(Debug)]
pub struct SubscriptionPermit(Arc<Counters>);

impl Drop for SubscriptionPermit {
    fn drop(&mut self) {
        self.0.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl QuotaLimits {
    fn rate(&self) -> Option<Rate> {
        let burst = |per_sec: u32| per_sec.saturating_mul(2).max(1);
        self.events_per_sec.map(|per_sec| Rate { per_sec, burst: burst(per_sec) })
    }
}

impl Counters {
    fn charge(
        &self,
        limits: &QuotaLimits,
        events: u32,
        bytes: u64,
        now_ns: u64,
    ) -> Result<(), Problem> {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let limit = limits.bytes.map_or(i64::MAX, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
        let fits = |used: i64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        self.bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map_err(|_| Problem::new(Code::QuotaExceeded, "the tenant's storage is used up"))?;

        let today = now_ns / 1_000_000 / MS_PER_DAY;
        let limit = limits.events_per_day.unwrap_or(EVENTS_MASK);
        let counts = |packed: u64| {
            let sum = events_of(packed, today) + u64::from(events);
            (sum <= limit).then(|| pack(today, sum))
        };
        self.day_and_events.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counts).map_err(
            |_| {
                self.bytes.fetch_sub(bytes, Ordering::Relaxed);
                let tomorrow_ms = (today + 1) * MS_PER_DAY;
                Problem::new(Code::QuotaExceeded, "the tenant's events of today are used up")
                    .with("retry_after_ms", tomorrow_ms.saturating_sub(now_ns / 1_000_000))
            },
        )?;
        Ok(())
    }

    fn uncharge(&self, events: u32, bytes: u64, now_ns: u64) {
        self.bytes.fetch_sub(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
        let today = now_ns / 1_000_000 / MS_PER_DAY;
        let less = |packed: u64| {
            Some(pack(today, events_of(packed, today).saturating_sub(u64::from(events))))
        };
        // The closure always says yes.
        let _ = self.day_and_events.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn usage(&self, tenant: &str) -> TenantUsage {
        let packed = self.day_and_events.load(Ordering::Relaxed);
        TenantUsage {
            tenant: tenant.to_owned(),
            bytes: u64::try_from(self.bytes.load(Ordering::Relaxed)).unwrap_or(0),
            day: packed >> 32,
            events: packed & EVENTS_MASK,
        }
    }
}

fn pack(day: u64, events: u64) -> u64 {
    day << 32 | events.min(EVENTS_MASK)
}

/// The events counted for `today`; those of another day are over.
fn events_of(packed: u64, today: u64) -> u64 {
    if packed >> 32 == today { packed & EVENTS_MASK } else { 0 }
}

fn exceeded(tenant: &str, what: &str) -> Problem {
    Problem::new(Code::QuotaExceeded, format!("the tenant '{tenant}' has too many {what}"))
}

#[cfg(test)]
mod tests {
    use relay_proto::{NodeId, SigningKey};

    use super::*;

    const DAY_NS: u64 = MS_PER_DAY * 1_000_000;
    const NOW: u64 = 20_000 * DAY_NS;

    fn author(n: u8) -> NodeId {
        SigningKey::from_seed([n; 32]).node_id()
    }

    fn quotas(limits: QuotaLimits) -> Quotas {
        Quotas::new(QuotaConfig { default: limits, ..QuotaConfig::default() })
    }

    fn code(outcome: Result<(), Problem>) -> Option<Code> {
        outcome.err().map(|problem| problem.code)
    }

    #[test]
    fn bytes_and_events_of_a_day() {
        let limits =
            QuotaLimits { bytes: Some(100), events_per_day: Some(3), ..QuotaLimits::default() };
        let quotas = quotas(limits);
        let charge = |n, bytes, now| code(quotas.charge("t", author(1), n, bytes, now));
        assert_eq!(charge(1, 101, NOW), Some(Code::QuotaExceeded));
        assert_eq!(charge(3, 60, NOW), None);
        assert_eq!(charge(1, 1, NOW), Some(Code::QuotaExceeded));
        assert_eq!(charge(1, 40, NOW + DAY_NS), None, "another day");
        assert_eq!(charge(1, 1, NOW + DAY_NS), Some(Code::QuotaExceeded), "bytes stay");
        quotas.pruned("t", 50);
        assert_eq!(charge(1, 1, NOW + DAY_NS), None);
        assert_eq!(code(quotas.charge("other", author(1), 1, 100, NOW)), None);
    }

    #[test]
    fn a_refusal_charges_nothing_and_a_refund_everything() {
        let limits = QuotaLimits {
            bytes: Some(10),
            events_per_day: Some(2),
            events_per_sec: Some(1),
            ..QuotaLimits::default()
        };
        let config = QuotaConfig {
            default: limits,
            per_key: Some(Rate { per_sec: 1, burst: 2 }),
            ..QuotaConfig::default()
        };
        let quotas = Quotas::new(config);
        for _ in 0..5 {
            assert_eq!(code(quotas.charge("t", author(1), 1, 11, NOW)), Some(Code::QuotaExceeded));
        }
        assert_eq!(code(quotas.charge("t", author(1), 2, 10, NOW)), None);
        assert_eq!(code(quotas.charge("t", author(1), 1, 0, NOW)), Some(Code::RateLimited));
        quotas.refund("t", author(1), 2, 10, NOW);
        assert_eq!(code(quotas.charge("t", author(1), 2, 10, NOW)), None);
    }

    #[test]
    fn what_is_kept_can_be_loaded() {
        let before = quotas(QuotaLimits::default());
        before.charge("t", author(1), 3, 60, NOW).unwrap();
        let after = quotas(QuotaLimits { events_per_day: Some(3), ..QuotaLimits::default() });
        after.load(before.usage());
        assert_eq!(code(after.charge("t", author(1), 1, 1, NOW)), Some(Code::QuotaExceeded));
        assert_eq!(after.report("t").usage.bytes, 60);
    }

    #[test]
    fn subscriptions_count_while_they_live() {
        let quotas = quotas(QuotaLimits { subscriptions: Some(1), ..QuotaLimits::default() });
        let permit = quotas.subscribe("t").unwrap();
        assert_eq!(quotas.subscribe("t").unwrap_err().code, Code::QuotaExceeded);
        drop(permit);
        assert!(quotas.subscribe("t").is_ok());
        assert!(quotas.subscribe("other").is_ok());
    }
}
