//! Which of several instances gets a call (`federation.md`, Registry and discovery).
//!
//! Of the instances whose version will do, the healthy ones come first and those of silent hubs
//! last. Among these two are drawn and the cheaper one taken (power of two choices). An instance
//! costs its recent latency times the calls it has to do; the latency includes the way there, so
//! of equal ones the nearest wins by itself. One that fails is taken out for a while, and comes back
//! by one call that succeeds. `now` is time since any fixed moment of the process, monotonic.

use std::{collections::HashMap, time::Duration};

use crate::address::{RelayId, ServiceName};

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

/// What is known of one instance.
#[derive(Debug)]
struct Score {
    /// Since when it is known.
    since: Duration,
    /// Moving average of its latency, in seconds; `None` before the first answer.
    latency: Option<f64>,
    /// When the average was last told something.
    updated: Duration,
    in_flight: u32,
    failures_in_row: u32,
    /// Calls and failures since `window` began.
    window: Duration,
    calls: u32,
    failures: u32,
    /// How often it was taken out, and until when it is.
    ejections: u32,
    out_until: Option<Duration>,
    /// A call that decides whether it comes back is under way.
    probing: bool,
}

/// How long calls are counted together for [`Tuning::ratio`].
const WINDOW: Duration = Duration::from_secs(10);
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

/// Whether an instance is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    In,
    Out,
    /// Its time is up: one call decides.
    Probe,
}

impl Score {
    const fn new(now: Duration) -> Self {
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

    fn rest(&self, now: Duration) -> Rest {
        match self.out_until {
            None => Rest::In,
            Some(until) if until > now || self.probing => Rest::Out,
            Some(_) => Rest::Probe,
        }
    }

    /// The average, forgetting a bad latency that nothing has confirmed for a while.
    fn latency_at(&self, now: Duration, tuning: &Tuning) -> Option<f64> {
        let latency = self.latency?;
        Some(latency * fade(now.saturating_sub(self.updated), tuning))
    }

    fn observe(&mut self, now: Duration, sample: f64, tuning: &Tuning) {
        let next = match self.latency {
            None => sample,
            Some(old) if sample > old => old + (sample - old) * tuning.rise,
            Some(old) => sample + (old - sample) * fade(now.saturating_sub(self.updated), tuning),
        };
        self.latency = Some(next);
        self.updated = now;
    }

    fn count(&mut self, now: Duration, failed: bool) {
        if now.saturating_sub(self.window) >= WINDOW {
            self.window = now;
            self.calls = 0;
            self.failures = 0;
        }
        self.calls += 1;
        self.failures += u32::from(failed);
        self.updated = now;
    }

    fn eject(&mut self, now: Duration, tuning: &Tuning) {
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
mod tests {
    use std::collections::{BinaryHeap, HashMap};

    use super::*;

    /// A simulated group of instances with so many callers, each of which calls again at once.
    struct Sim {
        balancer: Balancer,
        homes: Vec<RelayId>,
        service: ServiceName,
        seed: u64,
        now: Duration,
        /// Ends of calls: when (reversed), which, how long it took.
        under_way: BinaryHeap<(std::cmp::Reverse<Duration>, usize, Duration)>,
        got: HashMap<usize, usize>,
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    impl Sim {
        fn new(instances: usize) -> Self {
            Self {
                balancer: Balancer::new(Tuning::default()),
                homes: (0..instances).map(|n| format!("h{n}").parse().unwrap()).collect(),
                service: "s".parse().unwrap(),
                seed: 7,
                now: Duration::ZERO,
                under_way: BinaryHeap::new(),
                got: HashMap::new(),
            }
        }

        fn random(&mut self) -> u64 {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            self.seed ^ (self.seed >> 29)
        }

        fn call(
            &mut self,
            rtt: impl Fn(usize) -> Option<Duration>,
            takes: impl Fn(usize, u64) -> Duration,
        ) -> Option<usize> {
            let random = self.random();
            let candidate = |(n, home)| Candidate {
                home,
                rtt: rtt(n),
                healthy: true,
                suspect: false,
                slots: None,
            };
            let all: Vec<_> = self.homes.iter().enumerate().map(candidate).collect();
            let at = self.balancer.choose(self.now, &self.service, &all, random).ok()?;
            *self.got.entry(at).or_default() += 1;
            let noise = self.random();
            let takes = takes(at, noise);
            self.under_way.push((std::cmp::Reverse(self.now + takes), at, takes));
            Some(at)
        }

        fn end_one(&mut self, outcome: impl Fn(usize) -> Outcome) -> usize {
            let (end, at, took) = self.under_way.pop().unwrap();
            self.now = end.0;
            self.balancer.finished(self.now, &self.service, &self.homes[at], took, outcome(at));
            at
        }

        fn run(
            &mut self,
            callers: usize,
            calls: usize,
            rtt: impl Fn(usize) -> Option<Duration>,
            takes: impl Fn(usize, u64) -> Duration,
        ) {
            for _ in 0..callers {
                self.call(&rtt, &takes);
            }
            for _ in 0..calls {
                self.end_one(|_| Outcome::Answered);
                self.call(&rtt, &takes);
            }
        }

        fn share(&self, at: usize) -> f64 {
            let all: usize = self.got.values().sum();
            *self.got.get(&at).unwrap_or(&0) as f64 / all as f64
        }
    }

    #[test]
    fn at_least_nine_in_ten_calls_go_to_the_instance_that_is_20_ms_faster() {
        for callers in [1, 4, 16, 64] {
            let mut sim = Sim::new(2);
            // Noise of up to 2 ms, and once in 200 calls a hiccup of 30 ms.
            let takes = |at: usize, noise: u64| {
                let hiccup = if noise.is_multiple_of(200) { ms(30) } else { Duration::ZERO };
                Duration::from_micros(300 + noise % 2000) + hiccup + ms(20) * u32::from(at == 1)
            };
            sim.run(callers, 20_000, |_| None, takes);
            assert!(sim.share(0) >= 0.9, "{callers} callers: {}", sim.share(0));
            assert!(sim.share(1) > 0.0, "the slow one is looked at now and then");
        }
    }

    #[test]
    fn equal_instances_share_evenly() {
        let mut sim = Sim::new(4);
        sim.run(32, 20_000, |_| None, |_, noise| Duration::from_micros(800 + noise % 400));
        for at in 0..4 {
            assert!((0.2..0.3).contains(&sim.share(at)), "{at}: {}", sim.share(at));
        }
    }

    #[test]
    fn of_equal_instances_the_nearest_wins() {
        let mut sim = Sim::new(2);
        let far = ms(30);
        let takes = |at: usize, _| ms(1) + if at == 1 { far } else { Duration::ZERO };
        sim.run(4, 2000, |at| Some(if at == 1 { far } else { ms(1) }), takes);
        assert!(sim.share(0) > 0.95, "{}", sim.share(0));
    }

    #[test]
    fn an_instance_that_fails_is_out_and_comes_back_by_one_good_call() {
        let mut sim = Sim::new(3);
        let failing = |at| if at == 2 { Outcome::Failed } else { Outcome::Answered };
        for _ in 0..200 {
            sim.call(|_| None, |_, _| ms(1));
            sim.end_one(failing);
        }
        assert_eq!(sim.got[&2], 5, "five failures in a row");
        assert_eq!(sim.balancer.ejected(sim.now), 1);
        // Still broken at its return: one call, and out for twice as long.
        sim.now += Duration::from_secs(10);
        for _ in 0..100 {
            sim.call(|_| None, |_, _| ms(1));
            sim.end_one(failing);
        }
        assert_eq!(sim.got[&2], 6);
        sim.now += Duration::from_secs(11);
        for _ in 0..10 {
            sim.call(|_| None, |_, _| ms(1));
            sim.end_one(failing);
        }
        assert_eq!(sim.got[&2], 6, "twice as long");
        sim.now += Duration::from_secs(10);
        for _ in 0..100 {
            sim.call(|_| None, |_, _| ms(1));
            sim.end_one(|_| Outcome::Answered);
        }
        assert!(sim.got[&2] > 20, "back");
    }

    #[test]
    fn many_calls_that_fail_together_take_an_instance_out_once() {
        let mut sim = Sim::new(2);
        for _ in 0..64 {
            sim.call(|_| None, |_, _| ms(1));
        }
        while !sim.under_way.is_empty() {
            sim.end_one(|at| if at == 1 { Outcome::Failed } else { Outcome::Answered });
        }
        assert_eq!(sim.balancer.ejected(sim.now), 1);
        sim.now += Duration::from_secs(10);
        assert_eq!(sim.balancer.ejected(sim.now), 0, "out for the shortest time");
    }

    #[test]
    fn a_probe_is_one_call_however_many_come() {
        let mut sim = Sim::new(2);
        let failing = |at| if at == 1 { Outcome::Failed } else { Outcome::Answered };
        for _ in 0..100 {
            sim.call(|_| None, |_, _| ms(1));
            sim.end_one(failing);
        }
        let before = sim.got[&1];
        sim.now += Duration::from_secs(20);
        for _ in 0..50 {
            sim.call(|_| None, |_, _| ms(500));
        }
        assert_eq!(sim.got[&1], before + 1);
    }

    #[test]
    fn with_more_than_half_out_none_is_left_out() {
        let mut sim = Sim::new(2);
        for _ in 0..200 {
            sim.call(|_| None, |_, _| ms(1));
            sim.end_one(|_| Outcome::Failed);
        }
        assert_eq!(sim.balancer.ejected(sim.now), 2);
        for _ in 0..100 {
            sim.call(|_| None, |_, _| ms(1)).unwrap();
            sim.end_one(|_| Outcome::Answered);
        }
        assert!(sim.balancer.ejected(sim.now) < 2, "one that answers is back");
    }

    #[test]
    fn unhealthy_and_suspect_ones_are_last_and_full_ones_refuse() {
        let mut balancer = Balancer::new(Tuning::default());
        let homes: Vec<RelayId> = ["a", "b", "c"].map(|h| h.parse().unwrap()).to_vec();
        let service: ServiceName = "s".parse().unwrap();
        let make = |n: usize, healthy, suspect| Candidate {
            home: &homes[n],
            rtt: None,
            healthy,
            suspect,
            slots: Some(1),
        };
        let all = [make(0, false, false), make(1, true, true), make(2, true, false)];
        let mut order = Vec::new();
        for random in 0..3 {
            order.push(balancer.choose(ms(1), &service, &all, random).unwrap());
        }
        assert_eq!(order, [2, 1, 0]);
        let full = balancer.choose(ms(1), &service, &all, 0);
        assert!(matches!(full, Err(NoChoice::Full { .. })));
        balancer.finished(ms(2), &service, &homes[1], ms(1), Outcome::Cancelled);
        assert_eq!(balancer.choose(ms(2), &service, &all, 0), Ok(1));
        assert_eq!(balancer.choose(ms(2), &service, &[], 0), Err(NoChoice::None));
    }

    #[test]
    fn a_new_instance_is_not_flooded() {
        let mut sim = Sim::new(1);
        sim.run(16, 5000, |_| None, |_, _| ms(10));
        sim.homes.push("new".parse().unwrap());
        sim.got.clear();
        let start = sim.now;
        // The old ones end first; then a second of the new group.
        let mut most = 0;
        while sim.now < start + Duration::from_secs(1) {
            sim.end_one(|_| Outcome::Answered);
            sim.call(|_| None, |_, _| ms(10));
            let new = sim.homes[1].clone();
            most = most.max(sim.balancer.glance(sim.now, &sim.service, &new).in_flight);
        }
        assert!(most <= 4, "{most} of 16 at once in the first second");
        assert!(sim.got[&1] > 0);
    }

    #[test]
    fn memory_is_bounded() {
        let tuning = Tuning { remembered: 100, ..Tuning::default() };
        let mut balancer = Balancer::new(tuning);
        let service: ServiceName = "s".parse().unwrap();
        for n in 0..1000_u64 {
            let home: RelayId = format!("h{n}").parse().unwrap();
            balancer.start(ms(n), &service, &home);
            balancer.finished(ms(n), &service, &home, ms(1), Outcome::Answered);
        }
        assert!(balancer.scores.len() <= 100);
    }
}
