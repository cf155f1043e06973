//! Hubs that lose links, messages and homes, and still come to say the same.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What may happen to a federation of hubs and homes.
#[derive(Debug, Clone)]
enum Step {
    /// A home attaches to a hub; the hub it was on notices later, or not before the end.
    Attach {
        home: usize,
        hub: usize,
        noticed: bool,
    },
    Register {
        home: usize,
        services: u8,
    },
    Health {
        home: usize,
        healthy: bool,
    },
    Leave {
        home: usize,
    },
    Cut {
        a: usize,
        b: usize,
    },
    Heal {
        a: usize,
        b: usize,
    },
    Restart {
        hub: usize,
    },
    Pass {
        millis: u64,
    },
}

const HUBS: usize = 3;
const HOMES: usize = 5;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (hub, home) = (0..HUBS, 0..HOMES);
    let pair = || (0..HUBS, 1..HUBS).prop_map(|(a, by)| (a, (a + by) % HUBS));
    let step = prop_oneof![
        4 => (home.clone(), hub.clone(), any::<bool>())
            .prop_map(|(home, hub, noticed)| Step::Attach { home, hub, noticed }),
        4 => (home.clone(), 0..8_u8).prop_map(|(home, services)| Step::Register { home, services }),
        2 => (home.clone(), any::<bool>()).prop_map(|(home, healthy)| Step::Health { home, healthy }),
        1 => home.prop_map(|home| Step::Leave { home }),
        2 => pair().prop_map(|(a, b)| Step::Cut { a, b }),
        2 => pair().prop_map(|(a, b)| Step::Heal { a, b }),
        1 => hub.prop_map(|hub| Step::Restart { hub }),
        4 => prop_oneof![0..50_u64, 0..20_000_u64].prop_map(|millis| Step::Pass { millis }),
    ];
    prop::collection::vec(step, 1..60)
}

/// Where a home is attached and with which epoch, its last epoch, its services and their health.
type Offer = (Option<(usize, u64)>, u64, BTreeMap<String, bool>);

struct World {
    now: Duration,
    hubs: Vec<Registry>,
    cut: BTreeSet<(usize, usize)>,
    /// On the way: from, to, what.
    wires: Vec<(usize, usize, Gossip)>,
    homes: Vec<Offer>,
    /// Ends of old links that their hub has not noticed.
    unnoticed: Vec<(usize, usize, u64)>,
    /// One in so many messages is lost; 0 for none.
    loses: u64,
    sent: u64,
    restarts: u64,
}

impl World {
    fn new(loses: u64) -> Self {
        let hubs = (0..HUBS).map(|n| hub(&format!("hub{n}"), n as u64)).collect();
        let mut world = Self {
            now: s(1),
            hubs,
            cut: BTreeSet::new(),
            wires: Vec::new(),
            homes: vec![(None, 0, BTreeMap::new()); HOMES],
            unnoticed: Vec::new(),
            loses,
            sent: 0,
            restarts: 0,
        };
        for a in 0..HUBS {
            for b in 0..a {
                world.connect(a, b);
            }
        }
        world
    }

    fn connect(&mut self, a: usize, b: usize) {
        for (x, y) in [(a, b), (b, a)] {
            let peer = id(&format!("hub{y}"));
            self.hubs[x].peer_up(self.now, &peer);
        }
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        for (x, y) in [(a, b), (b, a)] {
            self.hubs[x].peer_down(&id(&format!("hub{y}")));
        }
        self.wires.retain(|(x, y, _)| !((*x, *y) == (a, b) || (*x, *y) == (b, a)));
    }

    fn linked(&self, a: usize, b: usize) -> bool {
        !self.cut.contains(&(a.min(b), a.max(b)))
    }

    fn pump(&mut self) {
        for at in 0..HUBS {
            while let Some(output) = self.hubs[at].poll() {
                let Output::Send(peer, gossip) = output else { continue };
                let to = peer.as_str()[3..].parse().unwrap();
                self.sent += 1;
                let lost = self.loses > 0 && self.sent.is_multiple_of(self.loses);
                if self.linked(at, to) && !lost {
                    self.wires.push((at, to, gossip));
                }
            }
        }
    }

    fn deliver(&mut self) {
        for _ in 0..10_000 {
            self.pump();
            if self.wires.is_empty() {
                return;
            }
            for (from, to, gossip) in std::mem::take(&mut self.wires) {
                let from = id(&format!("hub{from}"));
                self.hubs[to].receive(self.now, &from, gossip);
            }
        }
        panic!("the hubs never fall silent");
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = (self.now + s(1)).min(end);
            for at in 0..HUBS {
                for home in 0..HOMES {
                    self.hubs[at].touch(self.now, &id(&format!("h{home}")));
                }
                for other in (0..HUBS).filter(|other| *other != at) {
                    if self.linked(at, other) {
                        self.hubs[at].peer_heard(self.now, &id(&format!("hub{other}")));
                    }
                }
                self.hubs[at].tick(self.now);
            }
            self.deliver();
        }
    }

    fn attach(&mut self, home: usize, at: usize, noticed: bool) {
        let (was, epoch, services) = self.homes[home].clone();
        if let Some((old, old_epoch)) = was {
            self.unnoticed.push((old, home, old_epoch));
        }
        if noticed {
            self.notice();
        }
        let mut epoch = epoch + 1;
        let name = format!("h{home}");
        let key = key(home as u8);
        // A home that is refused as stale takes an epoch above what the hub knows.
        if let Err(Refusal::Stale { newest }) =
            attach(&mut self.hubs[at], self.now, &name, &key, epoch)
        {
            epoch = newest + 1;
            attach(&mut self.hubs[at], self.now, &name, &key, epoch).unwrap();
        }
        self.homes[home] = (Some((at, epoch)), epoch, services);
        self.register(home);
    }

    fn register(&mut self, home: usize) {
        let (Some((at, epoch)), _, services) = self.homes[home].clone() else { return };
        if self.hubs[at].attached(&id(&format!("h{home}"))) != Some(epoch) {
            return;
        }
        let records = services
            .iter()
            .map(|(name, healthy)| ServiceRecord { is_healthy: *healthy, ..service(name) });
        let home = id(&format!("h{home}"));
        self.hubs[at].register(self.now, &home, records.collect(), true).unwrap();
    }

    fn notice(&mut self) {
        for (at, home, epoch) in std::mem::take(&mut self.unnoticed) {
            self.hubs[at].detach(self.now, &id(&format!("h{home}")), epoch);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Attach { home, hub, noticed } => self.attach(home, hub, noticed),
            Step::Register { home, services } => {
                let names = (0..3).filter(|bit| services >> bit & 1 == 1);
                self.homes[home].2 = names.map(|n| (format!("service{n}"), true)).collect();
                self.register(home);
            }
            Step::Health { home, healthy } => {
                self.homes[home].2.values_mut().for_each(|health| *health = healthy);
                self.register(home);
            }
            Step::Leave { home } => {
                if let Some((at, epoch)) = self.homes[home].0.take() {
                    self.hubs[at].detach(self.now, &id(&format!("h{home}")), epoch);
                }
            }
            Step::Cut { a, b } => {
                if self.cut.insert((a.min(b), a.max(b))) {
                    self.disconnect(a, b);
                }
            }
            Step::Heal { a, b } => {
                if self.cut.remove(&(a.min(b), a.max(b))) {
                    self.connect(a, b);
                }
            }
            Step::Restart { hub: at } => {
                self.restarts += 1;
                self.hubs[at] = hub(&format!("hub{at}"), 100 + self.restarts);
                self.unnoticed.retain(|(old, ..)| *old != at);
                for other in (0..HUBS).filter(|other| *other != at) {
                    self.disconnect(at, other);
                    if self.linked(at, other) {
                        self.connect(at, other);
                    }
                }
                for home in 0..HOMES {
                    if self.homes[home].0.is_some_and(|(on, _)| on == at) {
                        self.homes[home].0 = None;
                        self.attach(home, at, true);
                    }
                }
            }
            Step::Pass { millis } => self.pass(Duration::from_millis(millis)),
        }
        self.pump();
    }

    fn truth(&self) -> BTreeMap<String, (String, Vec<String>)> {
        let mut truth = BTreeMap::new();
        for (n, (at, _, services)) in self.homes.iter().enumerate() {
            if let Some((at, _)) = at {
                let services = services.iter().map(|(name, healthy)| format!("{name}:{healthy}"));
                truth.insert(format!("h{n}"), (format!("hub{at}"), services.collect()));
            }
        }
        truth
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// After any cuts, losses, restarts and moves, two rounds of digests make all hubs equal.
    #[test]
    fn all_hubs_converge_within_two_rounds(steps in steps(), loses in prop_oneof![Just(0_u64), 2..9_u64]) {
        let mut world = World::new(loses);
        for step in steps {
            world.step(step);
        }
        world.loses = 0;
        for (a, b) in std::mem::take(&mut world.cut) {
            world.connect(a, b);
        }
        world.notice();
        world.pass(s(30));
        let truth = world.truth();
        for hub in &world.hubs {
            prop_assert_eq!(&view(hub), &truth, "{} after {:?}", hub.me, world.now);
            // The index says the same as the claims.
            let indexed: usize = (0..3).map(|n| hub.instances(&name(&format!("service{n}"))).len()).sum();
            prop_assert_eq!(indexed, truth.values().map(|(_, services)| services.len()).sum::<usize>());
        }
    }
}
