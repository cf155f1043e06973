//! The clock that leases are counted on.
//!
//! A lease goes on running at the relay while this machine sleeps, so the holder must count with a
//! clock that runs through a suspend: `CLOCK_BOOTTIME` on Linux. `std::time::Instant` stands still.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

/// A clock that never goes back and does not stop when the machine sleeps.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Time since some fixed start.
    fn now(&self) -> Duration;
    /// Returns once [`now`](Self::now) is at least `at`.
    fn sleep_until(&self, at: Duration) -> BoxFuture<'_, ()>;
}

/// The machine's boot-time clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct BootClock;

/// Timers of the runtime do not count a suspend. Sleeping in slices bounds how late after a resume
/// the loss of a lease is noticed by those who wait for it; `is_held` is exact in any case.
const SLICE: Duration = Duration::from_millis(500);

impl Clock for BootClock {
    fn now(&self) -> Duration {
        boot_time()
    }

    fn sleep_until(&self, at: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            while let Some(left) = at.checked_sub(self.now()).filter(|left| !left.is_zero()) {
                tokio::time::sleep(left.min(SLICE)).await;
            }
        })
    }
}

#[cfg(target_os = "linux")]
fn boot_time() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    // CLOCK_BOOTTIME exists on every Linux that Rust supports; CLOCK_MONOTONIC is there regardless.
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .or_else(|_| clock_gettime(ClockId::CLOCK_MONOTONIC))
        .map(Duration::from)
        .unwrap_or_default()
}

#[cfg(not(target_os = "linux"))]
fn boot_time() -> Duration {
    use std::{sync::OnceLock, time::Instant};
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// A clock that moves when it is told to: for tests.
#[derive(Debug, Clone)]
pub struct ManualClock {
    now: Arc<watch::Sender<Duration>>,
}

impl Default for ManualClock {
    fn default() -> Self {
        Self { now: Arc::new(watch::Sender::new(Duration::ZERO)) }
    }
}

impl ManualClock {
    /// Moves the clock forward and wakes who sleeps until then.
    pub fn advance(&self, by: Duration) {
        self.now.send_modify(|now| *now += by);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *self.now.borrow()
    }

    fn sleep_until(&self, at: Duration) -> BoxFuture<'_, ()> {
        let mut now = self.now.subscribe();
        Box::pin(async move {
            // The sender lives in `self`, so waiting cannot fail while this future exists.
            let _ = now.wait_for(|now| *now >= at).await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_runs_forward() {
        let before = BootClock.now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(BootClock.now() > before);
    }

    #[tokio::test]
    async fn a_manual_clock_wakes_sleepers_at_their_time() {
        let clock = ManualClock::default();
        let sleeper = clock.clone();
        let task = tokio::spawn(async move { sleeper.sleep_until(Duration::from_secs(5)).await });
        clock.advance(Duration::from_secs(4));
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        clock.advance(Duration::from_secs(1));
        task.await.unwrap();
    }
}
