//! Whether the other side lives. Any received byte is life; heartbeats make sure that there are some.

use std::time::Duration;

/// How quickly silence is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between our heartbeats.
    pub heartbeat: Duration,
    /// While an answer is awaited, silence of this length is looked into at once.
    pub suspect: Duration,
    /// How long a heartbeat may go without any byte coming back.
    pub patience: Duration,
    /// Silence that ends the link whatever was asked.
    pub silence: Duration,
}

impl Pace {
    /// The specification's: a heartbeat each `heartbeat`, two missed are the end.
    pub fn relaxed(heartbeat: Duration) -> Self {
        let silence = heartbeat * 2 + Duration::from_secs(1);
        Self {
            heartbeat,
            suspect: Duration::from_secs(5),
            patience: Duration::from_secs(10).min(silence),
            silence,
        }
    }

    /// For a link that something else can stand in for: a frozen hub is noticed within 4.5 s.
    pub const QUICK: Self = Self {
        heartbeat: Duration::from_secs(2),
        suspect: Duration::from_millis(1_500),
        patience: Duration::from_millis(2_500),
        silence: Duration::from_secs(31),
    };
}

#[derive(Debug)]
pub(super) struct Liveness {
    pace: Pace,
    /// Whether the other side answers heartbeats, so that no answer means something.
    answers: bool,
    heard: Duration,
    sent: Duration,
    /// Our heartbeat that is not answered yet: its number and when it was made.
    asked: Option<(u64, Duration)>,
    number: u64,
    rtt: Option<Duration>,
    /// When [`Self::wake_at`] last asked to be woken.
    planned: Duration,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// Send a heartbeat, with this number where an answer is expected.
    Heartbeat(Option<u64>),
    Dead,
}

impl Liveness {
    pub const fn new(pace: Pace, answers: bool, now: Duration) -> Self {
        let (asked, rtt) = (None, None);
        Self { pace, answers, heard: now, sent: now, asked, number: 0, rtt, planned: now }
    }

    pub const fn heard(&mut self, now: Duration) {
        self.heard = now;
    }

    pub const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    pub const fn assume_rtt(&mut self, rtt: Duration) {
        self.rtt = Some(rtt);
    }

    /// The answer to heartbeat `number` came.
    pub fn answered(&mut self, number: u64, now: Duration) {
        let Some((_, at)) = self.asked.take_if(|(asked, _)| *asked == number) else { return };
        let sample = now.saturating_sub(at);
        // RFC 6298's smoothing.
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }

    /// Looks at the clock; `awaiting` says whether an answer is awaited.
    pub fn check(&mut self, now: Duration, awaiting: bool) -> Due {
        // Whoever was stopped himself has heard nobody: that is not the other side's silence.
        if now > self.planned + Duration::from_secs(1) && self.planned > self.heard {
            self.heard = now;
            self.asked = None;
        }
        let silent = now.saturating_sub(self.heard);
        let impatient = self
            .asked_in_vain()
            .is_some_and(|(_, at)| now.saturating_sub(at) >= self.pace.patience);
        if silent >= self.pace.silence || impatient {
            return Due::Dead;
        }
        if now < self.next_heartbeat(awaiting) {
            return Due::Nothing;
        }
        self.sent = now;
        if !self.answers {
            return Due::Heartbeat(None);
        }
        self.number += 1;
        self.asked = Some((self.number, now));
        Due::Heartbeat(Some(self.number))
    }

    fn next_heartbeat(&self, awaiting: bool) -> Duration {
        let regular = self.sent + self.pace.heartbeat;
        if let Some((_, at)) = self.asked_in_vain() {
            // Another question before the time for this one is over would only begin it anew.
            return regular.max(at + self.pace.patience);
        }
        if awaiting && self.answers {
            regular.min(self.heard.max(self.sent) + self.pace.suspect)
        } else {
            regular
        }
    }

    /// The heartbeat after which nothing at all was heard.
    fn asked_in_vain(&self) -> Option<(u64, Duration)> {
        self.asked.filter(|(_, at)| self.heard <= *at)
    }

    /// When to look again.
    pub fn wake_at(&mut self, awaiting: bool) -> Duration {
        let mut at = self.next_heartbeat(awaiting).min(self.heard + self.pace.silence);
        if let Some((_, asked)) = self.asked_in_vain() {
            at = at.min(asked + self.pace.patience);
        }
        self.planned = at;
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Runs until dead, hearing nothing; gives the time of death.
    fn dies_at(mut life: Liveness, awaiting: bool) -> Duration {
        loop {
            let now = life.wake_at(awaiting);
            if life.check(now, awaiting) == Due::Dead {
                return now;
            }
        }
    }

    #[test]
    fn silence_ends_the_link_at_its_pace() {
        let relaxed = Pace::relaxed(s(15));
        assert_eq!(dies_at(Liveness::new(relaxed, false, s(0)), false), s(31));
        assert_eq!(dies_at(Liveness::new(relaxed, true, s(0)), false), s(25));
        assert_eq!(dies_at(Liveness::new(relaxed, true, s(0)), true), s(15));
        let quick = Duration::from_millis(4_500);
        assert_eq!(dies_at(Liveness::new(Pace::QUICK, true, s(0)), false), quick);
        let awaiting = Duration::from_millis(4_000);
        assert_eq!(dies_at(Liveness::new(Pace::QUICK, true, s(0)), true), awaiting);
    }

    #[test]
    fn any_byte_is_life() {
        let mut life = Liveness::new(Pace::QUICK, true, s(0));
        for second in 1..100 {
            life.heard(s(second));
            assert_ne!(life.check(s(second), true), Due::Dead);
            life.wake_at(true);
        }
    }

    #[test]
    fn heartbeats_come_at_their_pace_and_measure_the_way() {
        let mut life = Liveness::new(Pace::relaxed(s(15)), true, s(0));
        assert_eq!(life.check(s(14), false), Due::Nothing);
        assert_eq!(life.check(s(15), false), Due::Heartbeat(Some(1)));
        life.answered(7, s(16));
        assert_eq!(life.rtt(), None);
        life.heard(s(16));
        life.answered(1, s(16));
        assert_eq!(life.rtt(), Some(s(1)));
        assert_eq!(life.wake_at(false), s(30));
    }

    #[test]
    fn who_was_stopped_himself_asks_before_he_judges() {
        let mut life = Liveness::new(Pace::QUICK, true, s(0));
        life.wake_at(false);
        assert_ne!(life.check(s(60), false), Due::Dead);
        life.wake_at(false);
        assert_eq!(dies_at(life, false), Duration::from_millis(62_500));
    }
}
