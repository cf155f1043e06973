//! When a crashed actor starts again, and when it is given up.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

/// Uniform numbers in `[0, 1)`, handed in so that tests can say what comes.
#[derive(Clone)]
pub struct Random(Arc<dyn Fn() -> f64 + Send + Sync>);

impl Random {
    pub fn new(next: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(next))
    }

    /// The next number.
    pub fn next(&self) -> f64 {
        (self.0)().clamp(0.0, 1.0)
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}

/// One-for-one restarts: exponential back-off with jitter, and a limit.
#[derive(Debug, Clone)]
pub struct RestartPolicy {
    /// The pause before the first restart. Default 100 ms.
    pub first: Duration,
    /// The longest pause. Default 30 s.
    pub longest: Duration,
    /// Crashes without a stable run between them before the actor is given up. Default 10.
    pub give_up_after: u32,
    /// An actor that ran this long is stable: its crashes are forgotten. Default 60 s.
    pub stable_after: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(30),
            give_up_after: 10,
            stable_after: Duration::from_secs(60),
        }
    }
}

/// The crashes of one actor.
#[derive(Debug)]
pub struct Backoff {
    policy: RestartPolicy,
    random: Random,
    /// Crashes since the last stable run.
    crashes: u32,
}

impl Backoff {
    pub const fn new(policy: RestartPolicy, random: Random) -> Self {
        Self { policy, random, crashes: 0 }
    }

    /// The pause before the next start after a run from `started` to `now`; `None`: give up.
    ///
    /// The pause is between half and all of the doubling one, so that actors that crashed
    /// together do not start together.
    pub fn crashed(&mut self, started: Instant, now: Instant) -> Option<Duration> {
        if now.duration_since(started) >= self.policy.stable_after {
            self.crashes = 0;
        }
        self.crashes += 1;
        if self.crashes > self.policy.give_up_after {
            return None;
        }
        let doubled = self.policy.first.saturating_mul(1 << (self.crashes - 1).min(20));
        let pause = doubled.min(self.policy.longest);
        Some(pause.mul_f64(0.5 + self.random.next() / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_then_it_gives_up() {
        let policy = RestartPolicy {
            first: Duration::from_millis(100),
            longest: Duration::from_millis(300),
            give_up_after: 4,
            stable_after: Duration::from_secs(60),
        };
        let now = Instant::now();
        let pauses = |random: f64| {
            let mut backoff = Backoff::new(policy.clone(), Random::new(move || random));
            (0..5).map(|_| backoff.crashed(now, now).map(|d| d.as_millis())).collect::<Vec<_>>()
        };
        assert_eq!(pauses(1.0), [Some(100), Some(200), Some(300), Some(300), None]);
        assert_eq!(pauses(0.0), [Some(50), Some(100), Some(150), Some(150), None]);
    }

    #[test]
    fn a_stable_run_forgets_crashes() {
        let policy = RestartPolicy { give_up_after: 1, ..RestartPolicy::default() };
        let mut backoff = Backoff::new(policy, Random::new(|| 1.0));
        let start = Instant::now();
        assert!(backoff.crashed(start, start).is_some());
        assert!(backoff.crashed(start, start + Duration::from_secs(60)).is_some());
        assert!(backoff.crashed(start, start).is_none());
    }
}
