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
        let candidate =
            |(n, home)| Candidate { home, rtt: rtt(n), healthy: true, suspect: false, slots: None };
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
