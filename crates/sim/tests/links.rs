//! Links under a network that fails in the ways networks fail. `RELAY_SEEDS` sets the number of runs.

use std::time::Duration;

use relay_proto::link::{Encoding, dialer::Plan};
use relay_sim::{
    net::{
        conversation::{Conversation, Fault, Habits, Outcome, Report},
        hubs::{Hubs, State},
        wire::{End, Line},
    },
    rng::Rng,
};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("RELAY_SEEDS").ok().and_then(|text| text.parse().ok());
    0..count.unwrap_or(10)
}

fn habits(seed: u64) -> Habits {
    let mut rng = Rng::new(seed ^ 0xbead);
    Habits {
        requests: rng.range(20, 80),
        body: rng.range(0, 150_000),
        pause_ms: rng.range(0, 20),
        work_ms: rng.range(0, 300),
    }
}

const fn encoding(seed: u64) -> Encoding {
    if seed.is_multiple_of(4) { Encoding::Json } else { Encoding::Cbor }
}

/// What holds in every run: each request has one outcome, nothing is done twice, nothing comes garbled.
fn judge(seed: u64, report: &Report) {
    assert_eq!(report.faults, Vec::<String>::new(), "seed {seed}");
    for end in 0..2 {
        for (request, outcomes) in &report.outcomes[end] {
            assert_eq!(outcomes.len(), 1, "seed {seed}, request {request}: {outcomes:?}");
        }
        for (request, times) in &report.done[end] {
            assert_eq!(*times, 1, "seed {seed}, request {request}");
        }
        for (request, outcomes) in &report.outcomes[1 - end] {
            let was_done = report.done[end].contains_key(request);
            assert!(was_done || outcomes[0] != Outcome::Answered, "seed {seed}, {request}");
        }
    }
}

/// Without faults everything is answered, every stream comes whole, and nobody is taken for dead:
/// credit never deadlocks, however slow the readers and full the line.
#[test]
fn a_sound_line_loses_nothing() {
    for seed in seeds() {
        let line = if seed.is_multiple_of(2) { Line::HOME } else { Line::NEAR };
        let habits = Habits { work_ms: 100, ..habits(seed) };
        let run = Conversation::new(seed, line, habits, encoding(seed));
        let report = run.run(Vec::new(), s(600));
        judge(seed, &report);
        assert_eq!(report.ended, [None, None], "seed {seed}");
        assert!(report.whole_streams > 0, "seed {seed}");
        for outcomes in &report.outcomes {
            assert_eq!(outcomes.len() as u64, habits.requests, "seed {seed}");
            // A request may time out behind the other's bodies; none is refused or lost.
            assert!(
                outcomes
                    .values()
                    .all(|all| matches!(all[0], Outcome::Answered | Outcome::TimedOut))
            );
        }
    }
}

/// A line that stands still for less than the silence it takes to die loses nothing.
#[test]
fn a_short_stall_loses_nothing() {
    for seed in seeds() {
        let stall =
            Fault::Stall(Duration::from_millis(500 + 37 * seed), Duration::from_millis(900));
        let run = Conversation::new(seed, Line::HOME, habits(seed), encoding(seed));
        let report = run.run(vec![stall], s(600));
        judge(seed, &report);
        assert_eq!(report.ended, [None, None], "seed {seed}");
    }
}

/// Whatever ends a connection, everybody who waits is told, once, and soon.
#[test]
fn a_broken_line_is_noticed_by_both_and_nothing_waits_for_ever() {
    for seed in seeds() {
        let at = Duration::from_millis(200 + 53 * seed);
        let faults = [
            Fault::Reset(at),
            Fault::HalfOpen(at, End::Spoke),
            Fault::HalfOpen(at, End::Hub),
            Fault::Partition(at),
        ];
        for fault in faults {
            let habits = Habits { requests: 500, ..habits(seed) };
            let run = Conversation::new(seed, Line::HOME, habits, encoding(seed));
            let report = run.run(vec![fault], at + s(40));
            judge(seed, &report);
            // In a half-open connection one side still hears the other until that one gives up.
            let most = match fault {
                Fault::Reset(_) => Duration::from_millis(50),
                Fault::HalfOpen(..) => s(12),
                _ => Duration::from_millis(4_600),
            };
            for ended in report.ended {
                let (when, _) = ended.unwrap_or_else(|| panic!("seed {seed}: {fault:?} unnoticed"));
                assert!(when <= at + most, "seed {seed}: {fault:?} noticed after {:?}", when - at);
            }
        }
    }
}

fn hubs(seed: u64, standby: bool) -> Hubs {
    Hubs::new(seed, Plan { hubs: 3, standby, stable: s(60) })
}

/// After any past, once all hubs are well the relay comes back to the first and stays.
#[test]
fn the_dialer_converges_from_any_past() {
    for seed in seeds() {
        for standby in [true, false] {
            let mut world = hubs(seed, standby);
            let mut rng = Rng::new(seed ^ 0xd1a1);
            for _ in 0..rng.range(1, 40) {
                let hub = rng.range(0, 3) as usize;
                let state = [State::Up, State::Down, State::Frozen][rng.range(0, 3) as usize];
                world.set(hub, state);
                world.run(Duration::from_millis(rng.range(1, 40_000)));
            }
            (0..3).for_each(|hub| world.set(hub, State::Up));
            // The longest back-off, a dial that times out, and the time for which the hub must be stable.
            world.run(s(60 + 10 + 60 + 5) * 2);
            assert_eq!(world.served_by(), Some(0), "seed {seed}, standby {standby}");
            assert_eq!(world.linked().len(), if standby { 2 } else { 1 }, "seed {seed}");
            let dials = world.dials;
            world.run(s(3_600));
            assert_eq!(world.dials, dials, "seed {seed}: a relay that is well does not dial");
        }
    }
}

/// With a warm standby the loss of the first hub costs no dial.
#[test]
fn a_standby_bridges_the_loss_of_a_hub() {
    for seed in seeds() {
        for (state, most) in
            [(State::Down, Duration::from_millis(5)), (State::Frozen, Duration::from_millis(4_600))]
        {
            let mut world = hubs(seed, true);
            world.run(s(30));
            world.reset_gap();
            world.set(0, state);
            world.run(s(30));
            assert!(world.longest_gap <= most, "seed {seed}: {state:?} {:?}", world.longest_gap);
            assert_eq!(world.served_by(), Some(1));
        }
    }
}

/// Whichever hub answers first: a relay begins at its first hub where that answers within a second, and
/// otherwise waits no longer than that for a fallback.
#[test]
fn the_first_hub_is_favoured_at_the_start() {
    for seed in seeds() {
        let mut rng = Rng::new(seed ^ 0x4ead);
        let mut world = hubs(seed, true);
        (0..3).for_each(|hub| world.delay(hub, Duration::from_millis(rng.range(1, 999))));
        world.run(s(1));
        assert_eq!(world.served_by(), Some(0), "seed {seed}");
        world.run(s(200));
        assert_eq!((world.served_by(), world.linked().len()), (Some(0), 2), "seed {seed}");

        let mut frozen = hubs(seed, true);
        frozen.set(0, State::Frozen);
        frozen.run(s(2));
        assert_eq!((frozen.served_by(), frozen.longest_gap), (Some(1), s(1)), "seed {seed}");
    }
}

/// A hub that is gone is not dialled in a tight loop.
#[test]
fn dials_are_bounded() {
    for seed in seeds() {
        let mut world = hubs(seed, false);
        (0..3).for_each(|hub| world.set(hub, State::Down));
        world.run(s(3_600));
        assert!(world.dials < 3 * 400, "seed {seed}: {} dials in an hour", world.dials);
    }
}
