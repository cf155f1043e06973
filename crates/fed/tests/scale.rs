//! A federation of the size the specification names: ten hubs, 10 000 spokes, 50 000 services.
//!
//! The hubs' registries are real; what they say to each other goes through its JSON, as on a link.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::{collections::HashMap, time::Duration};

use relay_proto::{
    RelayId, ServiceName, SigningKey,
    link::NodeType,
    registry::{Gossip, Limits, Output, Proof, Registry, ServiceRecord, Timing},
};

const HUBS: usize = 10;
const SERVICES: usize = 5;

fn id(text: &str) -> RelayId {
    text.parse().unwrap()
}

struct Net {
    now: Duration,
    ids: Vec<RelayId>,
    hubs: Vec<Registry>,
    bytes: usize,
    messages: usize,
}

impl Net {
    fn new() -> Self {
        let ids: Vec<RelayId> = (0..HUBS).map(|n| id(&format!("hub-{n}"))).collect();
        let hub = |(n, id): (usize, &RelayId)| {
            Registry::new(id.clone(), n as u64 + 1, Timing::default(), Limits::default())
        };
        let mut hubs: Vec<Registry> = ids.iter().enumerate().map(hub).collect();
        let now = Duration::from_secs(1);
        for (n, hub) in hubs.iter_mut().enumerate() {
            for (_, peer) in ids.iter().enumerate().filter(|(m, _)| *m != n) {
                hub.peer_up(now, peer);
            }
            hub.tick(now);
        }
        let mut net = Self { now, ids, hubs, bytes: 0, messages: 0 };
        net.settle();
        net
    }

    /// Delivers everything; how many hops in a row it took.
    fn settle(&mut self) -> usize {
        let at: HashMap<RelayId, usize> =
            self.ids.iter().enumerate().map(|(n, id)| (id.clone(), n)).collect();
        for hops in 0..100 {
            let mut wires = Vec::new();
            for (from, hub) in self.hubs.iter_mut().enumerate() {
                while let Some(output) = hub.poll() {
                    let Output::Send(to, gossip) = output else { continue };
                    let text = serde_json::to_string(&gossip).unwrap();
                    self.bytes += text.len();
                    self.messages += 1;
                    wires.push((from, at[&to], text));
                }
            }
            if wires.is_empty() {
                return hops;
            }
            for (from, to, text) in wires {
                let gossip: Gossip = serde_json::from_str(&text).unwrap();
                let from = self.ids[from].clone();
                self.hubs[to].receive(self.now, &from, gossip);
            }
        }
        panic!("the hubs never fall silent");
    }

    fn attach(&mut self, n: usize, key: &SigningKey) {
        let hub = n % HUBS;
        let home = id(&format!("home-{n}"));
        let proof = Proof::sign(key, &home, &self.ids[hub], 1);
        let key = key.node_id();
        let services = (0..SERVICES).map(|s| {
            let name: ServiceName = format!("service-{n}-{s}").parse().unwrap();
            let methods = vec!["create".into(), "read".into(), "update".into(), "delete".into()];
            ServiceRecord { methods, ..ServiceRecord::new(name, "1.2.3") }
        });
        let registry = &mut self.hubs[hub];
        registry.attach(self.now, &home, NodeType::Home, key, Some(1), Some(proof)).unwrap();
        registry.register(self.now, &home, services.collect(), true).unwrap();
    }
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A change goes from its hub to every other in one message each: what it takes is one trip.
fn federation_of(homes: usize) {
    let mut net = Net::new();
    let key = SigningKey::from_seed([3; 32]);
    let before = resident_kib();
    let started = std::time::Instant::now();
    for n in 0..homes {
        net.attach(n, &key);
        if n % 1000 == 999 {
            net.settle();
        }
    }
    net.settle();
    let took = started.elapsed();
    for hub in &net.hubs {
        assert_eq!(hub.size(), (homes, homes * SERVICES));
        assert_eq!(hub.counters().claims_refused, 0);
    }
    let kib = (resident_kib() - before) / HUBS;
    println!("{homes} homes, {} services on {HUBS} hubs in {took:?}", homes * SERVICES);
    println!("{} messages, {} KiB between hubs; {kib} KiB a hub", net.messages, net.bytes >> 10);
    // One change, one hop.
    let (messages, bytes) = (net.messages, net.bytes);
    let name: ServiceName = "service-7-0".parse().unwrap();
    let started = std::time::Instant::now();
    net.hubs[7].set_health(net.now, &id("home-7"), &[(name.clone(), false)]);
    let hops = net.settle();
    println!("one change everywhere: {:?}, {} bytes", started.elapsed(), net.bytes - bytes);
    assert_eq!((hops, net.messages - messages), (1, HUBS - 1));
    for hub in &net.hubs {
        assert!(!hub.instances(&name)[0].record.is_healthy);
    }
    // A hub comes back empty and has everything within a few trips per hundred homes.
    net.hubs[0] = Registry::new(net.ids[0].clone(), 99, Timing::default(), Limits::default());
    for n in 1..HUBS {
        let (first, peer) = (net.ids[0].clone(), net.ids[n].clone());
        net.hubs[0].peer_up(net.now, &peer);
        net.hubs[n].peer_down(&first);
        net.hubs[n].peer_up(net.now, &first);
        net.hubs[n].tick(net.now);
    }
    net.hubs[0].tick(net.now);
    let started = std::time::Instant::now();
    net.settle();
    println!("a hub that lost everything knows it again: {:?}", started.elapsed());
    assert_eq!(net.hubs[0].size().1, homes * SERVICES * (HUBS - 1) / HUBS);
    // Its own homes are forgotten by the others: they attach again with a greater epoch.
    assert!(net.hubs[1].home(&id("home-0")).is_none());
}

#[test]
fn a_thousand_homes_on_ten_hubs() {
    federation_of(1000);
}

#[test]
#[ignore = "the full size; make soak"]
fn ten_thousand_homes_and_fifty_thousand_services_on_ten_hubs() {
    federation_of(10_000);
}
