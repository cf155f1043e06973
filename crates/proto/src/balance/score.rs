//! What is known of one instance, and when it is left out.

use std::time::Duration;

use super::Tuning;

/// What is known of one instance.
#[derive(Debug)]
pub(super) struct Score {
    /// Since when it is known.
    pub since: Duration,
    /// Moving average of its latency, in seconds; `None` before the first answer.
    pub latency: Option<f64>,
    /// When the average was last told something.
    pub updated: Duration,
    pub in_flight: u32,
    pub failures_in_row: u32,
    /// Calls and failures since `window` began.
    pub window: Duration,
    pub calls: u32,
    pub failures: u32,
    /// How often it was taken out, and until when it is.
    pub ejections: u32,
    pub out_until: Option<Duration>,
    /// A call that decides whether it comes back is under way.
    pub probing: bool,
}

/// How long calls are counted together for [`Tuning::ratio`].
const WINDOW: Duration = Duration::from_secs(10);

/// Whether an instance is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    In,
    Out,
    /// Its time is up: one call decides.
    Probe,
}

impl Score {
    pub const fn new(now: Duration) -> Self {
        Self {
            since: now,
            latency: None,
            updated: now,
            in_flight: 0,
            failures_in_row: 0,
            window: now,
            calls: 0,
            failures: 0,
            ejections: 0,
            out_until: None,
            probing: false,
        }
    }

    pub fn rest(&self, now: Duration) -> Rest {
        match self.out_until {
            None => Rest::In,
            Some(until) if until > now || self.probing => Rest::Out,
            Some(_) => Rest::Probe,
        }
    }

    /// The average, forgetting a bad latency that nothing has confirmed for a while.
    pub fn latency_at(&self, now: Duration, tuning: &Tuning) -> Option<f64> {
        let latency = self.latency?;
        Some(latency * fade(now.saturating_sub(self.updated), tuning))
    }

    pub fn observe(&mut self, now: Duration, sample: f64, tuning: &Tuning) {
        let next = match self.latency {
            None => sample,
            Some(old) if sample > old => old + (sample - old) * tuning.rise,
            Some(old) => sample + (old - sample) * fade(now.saturating_sub(self.updated), tuning),
        };
        self.latency = Some(next);
        self.updated = now;
    }

    pub fn count(&mut self, now: Duration, failed: bool) {
        if now.saturating_sub(self.window) >= WINDOW {
            self.window = now;
            self.calls = 0;
            self.failures = 0;
        }
        self.calls += 1;
        self.failures += u32::from(failed);
        self.updated = now;
    }

    pub fn eject(&mut self, now: Duration, tuning: &Tuning) {
        // Well for as long as the longest time out: what was is forgotten.
        if self.out_until.is_none_or(|until| now.saturating_sub(until) > tuning.out_most) {
            self.ejections = 0;
        }
        self.ejections += 1;
        self.out_until = Some(now + (tuning.out * self.ejections).min(tuning.out_most));
        self.failures_in_row = 0;
        self.calls = 0;
        self.failures = 0;
    }
}

/// What is left of an old value's weight after `idle`.
fn fade(idle: Duration, tuning: &Tuning) -> f64 {
    (-idle.as_secs_f64() / tuning.decay.as_secs_f64().max(1e-9)).exp()
}
