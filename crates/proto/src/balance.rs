//! Which of several instances gets a call (`federation.md`, Registry and discovery).
//!
//! Of the instances whose version will do, the healthy ones come first and those of silent hubs
//! last. Among these two are drawn and the cheaper one taken (power of two choices). An instance
//! costs its recent latency times the calls it has to do; the latency includes the way there, so
//! of equal ones the nearest wins by itself. One that fails is taken out for a while, and comes back
//! by one call that succeeds. `now` is time since any fixed moment of the process, monotonic.

mod score;

use std::{collections::HashMap, time::Duration};

use crate::address::{RelayId, ServiceName};
use score::{Rest, Score};

/// How quickly an instance is judged. The defaults are those of the documentation.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// How slowly a good latency is believed again: the time in which an old one loses two thirds
    /// of its weight. Default 5 s.
    pub decay: Duration,
    /// How much of a worse latency is believed at once, 0 to 1. Default 0.3: one late answer does
    /// not turn an instance ten times faster than the others into the slowest.
    pub rise: f64,
    /// Over this time a new instance gets its full share. Default 10 s.
    pub slow_start: Duration,
    /// So many failures in a row take an instance out. Default 5.
    pub failures: u32,
    /// Or this ratio of failures among at least [`Self::sample`] recent calls. Default 0.5 of 20.
    pub ratio: f64,
    pub sample: u32,
    /// How long it is out, times how often it was. Default 10 s, at most 5 min.
    pub out: Duration,
    pub out_most: Duration,
    /// Calls at once to an instance that does not say how many it wants. Default 1024.
    pub slots: u32,
    /// Instances whose latency is remembered; the one longest idle goes first. Default 65 536.
    pub remembered: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            decay: Duration::from_secs(5),
            rise: 0.3,
            slow_start: Duration::from_secs(10),
            failures: 5,
            ratio: 0.5,
            sample: 20,
            out: Duration::from_secs(10),
            out_most: Duration::from_secs(300),
            slots: 1024,
            remembered: 65_536,
        }
    }
}

/// An instance that may get the call; the caller has seen to it that its version will do.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    pub home: &'a RelayId,
    /// Round trip of the link it is reached by, where known.
    pub rtt: Option<Duration>,
    /// It said of itself that it is well.
    pub healthy: bool,
    /// Its hub is silent.
    pub suspect: bool,
    /// The most calls it wants at once, where it says so.
    pub slots: Option<u32>,
}

/// How a call to an instance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, be it with an error of its own.
    Answered,
    /// It was not reached, did not answer in time or broke.
    Failed,
    /// It had too much to do.
    Overloaded,
    /// The caller went away: says nothing about the instance.
    Cancelled,
}

/// Why no instance was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoChoice {
    /// There is none.
    None,
    /// Each has as many calls as it wants; one may be free after this time.
    Full { retry_after: Duration },
}

/// What an instance is assumed to take when nothing is known of any, in seconds.
const UNKNOWN_LATENCY: f64 = 0.001;

/// What an instance looks like to a person.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Glance {
    pub latency: Option<Duration>,
    pub in_flight: u32,
    pub ejected: bool,
}

/// Chooses among instances by what came of earlier choices.
#[derive(Debug)]
pub struct Balancer {
    tuning: Tuning,
    scores: HashMap<(ServiceName, RelayId), Score>,
}

impl Balancer {
    pub fn new(tuning: Tuning) -> Self {
        Self { tuning, scores: HashMap::new() }
    }

    /// Chooses one of `candidates`, by position, and counts a call to it: every choice is followed
    /// by one [`Self::finished`]. `random` is any number drawn evenly.
    ///
    /// # Errors
    /// [`NoChoice`].
    pub fn choose(
        &mut self,
        now: Duration,
        service: &ServiceName,
        candidates: &[Candidate<'_>],
        random: u64,
    ) -> Result<usize, NoChoice> {
        if candidates.is_empty() {
            return Err(NoChoice::None);
        }
        let usable = self.usable(now, service, candidates);
        let Some((first, second)) = draw_two(&usable, random) else {
            return Err(NoChoice::Full { retry_after: self.retry_after(service, candidates) });
        };
        let assumed = self.median(service, candidates);
        let cost = |at: usize| self.cost(now, service, &candidates[at], assumed);
        let chosen = if cost(second) < cost(first) { second } else { first };
        self.start(now, service, candidates[chosen].home);
        Ok(chosen)
    }

    /// Counts a call to an instance that the caller named or that was chosen in another way.
    pub fn start(&mut self, now: Duration, service: &ServiceName, home: &RelayId) {
        self.make_room();
        let key = (service.clone(), home.clone());
        let score = self.scores.entry(key).or_insert_with(|| Score::new(now));
        score.in_flight += 1;
        score.probing |= score.out_until.is_some();
    }

    /// Notes how a call ended.
    pub fn finished(
        &mut self,
        now: Duration,
        service: &ServiceName,
        home: &RelayId,
        latency: Duration,
        outcome: Outcome,
    ) {
        let tuning = &self.tuning;
        let Some(score) = self.scores.get_mut(&(service.clone(), home.clone())) else { return };
        score.in_flight = score.in_flight.saturating_sub(1);
        match outcome {
            Outcome::Answered => {
                score.observe(now, latency.as_secs_f64(), tuning);
                score.count(now, false);
                score.failures_in_row = 0;
                if std::mem::take(&mut score.probing) {
                    score.out_until = None;
                    score.calls = 0;
                    score.failures = 0;
                }
            }
            Outcome::Failed => {
                let probed = std::mem::take(&mut score.probing);
                // Calls from before it was taken out say nothing new.
                if !probed && score.out_until.is_some() {
                    return;
                }
                score.count(now, true);
                score.failures_in_row += 1;
                let ratio = f64::from(score.failures) / f64::from(score.calls);
                let often = score.calls >= tuning.sample && ratio >= tuning.ratio;
                if probed || score.failures_in_row >= tuning.failures || often {
                    score.eject(now, tuning);
                }
            }
            // Taken as a slow answer, so that others get more; ejecting would only move the load.
            Outcome::Overloaded => {
                let slow = score.latency.unwrap_or(UNKNOWN_LATENCY) * 2.0;
                score.observe(now, slow.max(latency.as_secs_f64()), tuning);
                score.probing = false;
            }
            Outcome::Cancelled => score.probing = false,
        }
    }

    /// Forgets an instance that is not registered any more, unless calls to it are under way.
    pub fn forget(&mut self, service: &ServiceName, home: &RelayId) {
        let key = (service.clone(), home.clone());
        if self.scores.get(&key).is_some_and(|score| score.in_flight == 0) {
            self.scores.remove(&key);
        }
    }

    pub fn glance(&self, now: Duration, service: &ServiceName, home: &RelayId) -> Glance {
        let Some(score) = self.scores.get(&(service.clone(), home.clone())) else {
            return Glance::default();
        };
        Glance {
            latency: score.latency.map(Duration::from_secs_f64),
            in_flight: score.in_flight,
            ejected: score.out_until.is_some_and(|until| until > now),
        }
    }

    /// Instances that are out, for the metric.
    pub fn ejected(&self, now: Duration) -> usize {
        self.scores.values().filter(|score| score.out_until.is_some_and(|t| t > now)).count()
    }

    /// The positions among which to draw: the best rank that has room.
    fn usable(&self, now: Duration, service: &ServiceName, all: &[Candidate<'_>]) -> Vec<usize> {
        let score =
            |candidate: &Candidate<'_>| self.scores.get(&(service.clone(), candidate.home.clone()));
        let rest = |candidate: &Candidate<'_>| score(candidate).map_or(Rest::In, |s| s.rest(now));
        let out = all.iter().filter(|candidate| rest(candidate) == Rest::Out).count();
        // With more than half of them out the cause is elsewhere, and none is left out for it.
        let heed = out * 2 <= all.len();
        let rank = |candidate: &Candidate<'_>| {
            let unwell = !candidate.healthy || (heed && rest(candidate) == Rest::Out);
            (u8::from(unwell) << 1) | u8::from(candidate.suspect)
        };
        let mut best = Vec::new();
        let mut best_rank = u8::MAX;
        for (at, candidate) in all.iter().enumerate() {
            let slots = candidate.slots.unwrap_or(self.tuning.slots);
            if score(candidate).is_some_and(|score| score.in_flight >= slots) {
                continue;
            }
            match rest(candidate) {
                // It is its turn: this call decides whether it comes back.
                Rest::Probe if candidate.healthy && !candidate.suspect => return vec![at],
                _ => {}
            }
            let rank = rank(candidate);
            if rank < best_rank {
                best.clear();
                best_rank = rank;
            }
            if rank == best_rank {
                best.push(at);
            }
        }
        best
    }

    fn cost(
        &self,
        now: Duration,
        service: &ServiceName,
        candidate: &Candidate<'_>,
        assumed: f64,
    ) -> f64 {
        let rtt = candidate.rtt.map_or(0.0, |rtt| rtt.as_secs_f64());
        let Some(score) = self.scores.get(&(service.clone(), candidate.home.clone())) else {
            return assumed.max(rtt);
        };
        let latency = score.latency_at(now, &self.tuning).unwrap_or(assumed).max(rtt);
        let age = now.saturating_sub(score.since).as_secs_f64();
        let share = (age / self.tuning.slow_start.as_secs_f64().max(1e-9)).clamp(0.1, 1.0);
        // Old enough, or the only kind there is: a group of new ones is started evenly.
        latency * f64::from(score.in_flight + 1) / share
    }

    /// The median latency of the group, for those of which nothing is known.
    fn median(&self, service: &ServiceName, candidates: &[Candidate<'_>]) -> f64 {
        // A few say enough, and keep the cost of a choice flat in large groups.
        let known = candidates.iter().take(16).filter_map(|candidate| {
            self.scores.get(&(service.clone(), candidate.home.clone()))?.latency
        });
        let mut known: Vec<f64> = known.collect();
        known.sort_by(f64::total_cmp);
        known.get(known.len() / 2).copied().unwrap_or(UNKNOWN_LATENCY)
    }

    fn retry_after(&self, service: &ServiceName, candidates: &[Candidate<'_>]) -> Duration {
        let median = self.median(service, candidates);
        Duration::from_secs_f64(median.clamp(0.01, 1.0))
    }

    fn make_room(&mut self) {
        if self.scores.len() < self.tuning.remembered {
            return;
        }
        // A sixteenth at once, so that this is rare.
        let mut idle: Vec<Duration> = self
            .scores
            .values()
            .filter(|score| score.in_flight == 0)
            .map(|score| score.updated)
            .collect();
        let cut = idle.len().min(self.tuning.remembered / 16 + 1);
        if cut == 0 {
            return;
        }
        let (_, oldest, _) = idle.select_nth_unstable(cut - 1);
        let oldest = *oldest;
        self.scores.retain(|_, score| score.in_flight > 0 || score.updated > oldest);
    }
}

/// Two different ones of `from`, drawn evenly; the same one twice where there is no other.
fn draw_two(from: &[usize], random: u64) -> Option<(usize, usize)> {
    let many = from.len() as u64;
    if many == 0 {
        return None;
    }
    let first = random % many;
    let step = if many == 1 { 0 } else { 1 + (random >> 32) % (many - 1) };
    let second = (first + step) % many;
    // Both are below the length, which is a usize.
    #[allow(clippy::cast_possible_truncation, reason = "below a usize")]
    Some((from[first as usize], from[second as usize]))
}

#[cfg(test)]
mod tests;
