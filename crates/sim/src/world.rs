//! A deterministic world around one relay: clients, delays, crashes, pauses, clock steps.
//!
//! Everything follows from the seed. Time is a number that jumps from event to event.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, HashSet},
};

use relay_proto::{
    NodeId,
    lease::{
        Acquire, Break, LeaseAnswer, LeaseOp, LeaseRefusal, Now, Release, Renew, Resource, Ticket,
    },
};

use crate::{
    history::{Ask, Entry, History, Outcome, Restart},
    planted::Bug,
    relay::{Relay, Reply, Request},
    rng::Rng,
};

const MS: u64 = 1_000_000;
const CLIENTS: u32 = 6;
const RESOURCES: u32 = 2;
/// A third of the clients share their key with another, as two programs of one person do.
const OWNERS: u32 = 4;

/// Runs one world until each client has done about `ops` operations, and gives its history.
///
/// # Panics
/// If the journal, replayed, gives another table than the one that wrote it.
pub fn run(seed: u64, ops: usize, bug: Option<Bug>) -> History {
    let mut world = World::new(seed, bug);
    for client in 0..CLIENTS {
        world.after(0, 5 * MS, Event::Act(client));
    }
    world.after(MS, 2 * MS, Event::Sweep);
    world.after(20 * MS, 60 * MS, Event::Fault);
    let limit = ops * CLIENTS as usize;
    while world.history.entries.len() < limit
        && let Some(Reverse((time, _, event))) = world.events.pop()
    {
        world.time = time;
        world.handle(event);
    }
    world.cut_all();
    world.history
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A client does its next thing.
    Act(u32),
    Arrive(Ticket),
    /// Of one life of the relay.
    Commit(u32),
    Deliver(Ticket),
    /// A client loses its link while it waits.
    Cut(Ticket),
    Sweep,
    Fault,
    Up,
}

struct World {
    rng: Rng,
    time: u64,
    sequence: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    relay: Relay,
    up: bool,
    down_at: u64,
    life: u32,
    commit_due: bool,
    /// The relay does nothing before this (a stop signal, a slow disk).
    paused_until: u64,
    wall_shift: u64,
    calls: HashMap<Ticket, Call>,
    replies: HashMap<Ticket, Reply>,
    /// Who is still there to be answered.
    linked: HashSet<Ticket>,
    tickets: u64,
    /// What clients remember: the grants they had, newest last.
    grants: BTreeMap<(u32, u32), Vec<u64>>,
    last_request: BTreeMap<(u32, u32), u64>,
    requests: u64,
    history: History,
}

struct Call {
    client: u32,
    resource: u32,
    at: u64,
    ask: Ask,
    request: Request,
}

impl World {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        Self {
            rng: Rng::new(seed),
            time: 1000 * MS,
            sequence: 0,
            events: BinaryHeap::new(),
            relay: Relay::new(bug),
            up: true,
            down_at: 0,
            life: 0,
            commit_due: false,
            paused_until: 0,
            wall_shift: 1 << 50,
            calls: HashMap::new(),
            replies: HashMap::new(),
            linked: HashSet::new(),
            tickets: 0,
            grants: BTreeMap::new(),
            last_request: BTreeMap::new(),
            requests: 0,
            history: History::default(),
        }
    }

    fn now(&self) -> Now {
        Now { mono_ns: self.time, wall_ns: self.time + self.wall_shift }
    }

    /// Lets an event come after `low..high` nanoseconds.
    fn after(&mut self, low: u64, high: u64, event: Event) {
        self.sequence += 1;
        let at = self.time + self.rng.range(low, high);
        self.events.push(Reverse((at, self.sequence, event)));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Act(client) => self.act(client),
            Event::Arrive(ticket) => self.arrive(ticket),
            Event::Commit(life) => self.commit(life),
            Event::Deliver(ticket) => self.deliver(ticket),
            Event::Cut(ticket) => self.cut(ticket),
            Event::Sweep => self.sweep(),
            Event::Fault => self.fault(),
            Event::Up => {
                self.up = true;
                let now = self.now();
                self.relay.restart(now);
                self.history.restarts.push(Restart { down: self.down_at, up: self.time });
            }
        }
    }

    // === the relay ===

    fn arrive(&mut self, ticket: Ticket) {
        let Some(call) = self.calls.get(&ticket) else { return };
        if !self.up {
            return self.finish(ticket, Outcome::Nothing);
        }
        if self.time < self.paused_until {
            let wait = self.paused_until - self.time;
            return self.after(wait, wait + 1, Event::Arrive(ticket));
        }
        let (now, request) = (self.now(), call.request.clone());
        self.relay.serve(now, ticket, request, &|t| self.linked.contains(&t));
        self.commit_soon();
    }

    fn sweep(&mut self) {
        if self.up && self.time >= self.paused_until {
            let now = self.now();
            self.relay.sweep(now, &|t| self.linked.contains(&t));
            self.commit_soon();
        }
        self.after(MS, 40 * MS, Event::Sweep);
    }

    fn commit_soon(&mut self) {
        if self.relay.has(Bug::AnswerBeforeCommit) {
            // Replies go out at once; rows follow with the commit.
            self.reply_early();
        }
        if !self.commit_due {
            self.commit_due = true;
            self.after(MS / 10, 3 * MS, Event::Commit(self.life));
        }
    }

    fn reply_early(&mut self) {
        for (ticket, reply) in self.relay.take_replies() {
            self.send(ticket, reply);
        }
    }

    fn commit(&mut self, life: u32) {
        if life != self.life || !self.up {
            return;
        }
        self.commit_due = false;
        for (ticket, reply) in self.relay.commit() {
            self.send(ticket, reply);
        }
        if self.rng.one_in(20) {
            let now = self.now();
            self.relay.check_replay(now);
        }
    }

    fn send(&mut self, ticket: Ticket, reply: Reply) {
        self.replies.insert(ticket, reply);
        self.after(MS / 20, 2 * MS, Event::Deliver(ticket));
    }

    fn fault(&mut self) {
        match self.rng.range(0, 4) {
            0 | 1 => self.crash(),
            2 => self.paused_until = self.time + self.rng.range(MS, 80 * MS),
            _ => self.wall_shift = self.rng.range(1 << 40, 1 << 60),
        }
        self.after(30 * MS, 400 * MS, Event::Fault);
    }

    fn crash(&mut self) {
        if !self.up {
            return;
        }
        self.up = false;
        self.down_at = self.time;
        self.life += 1;
        self.commit_due = false;
        self.cut_all();
        self.after(MS, 30 * MS, Event::Up);
    }

    // === the clients ===

    fn act(&mut self, client: u32) {
        let resource = self.rng.range(0, RESOURCES.into()) as u32;
        let owner = client % OWNERS;
        let mine = (client, resource);
        let lease_ms = self.rng.range(5, 100);
        let newest = self.grants.get(&mine).and_then(|g| g.last().copied());
        let (ask, wait_ms) = match (self.rng.range(0, 20), newest) {
            (0..=1, _) => (Ask::Inspect, 0),
            (2, _) => {
                let token = self.any_token(resource);
                (Ask::Break { token }, 0)
            }
            (3, _) => {
                let token = self.any_token(resource);
                (Ask::Release { owner, token }, 0)
            }
            (4, _) => {
                let token = self.any_token(resource);
                (Ask::Renew { owner, token, lease_ms }, 0)
            }
            (5..=8, Some(token)) => (Ask::Renew { owner, token, lease_ms }, 0),
            (9..=11, Some(token)) => (Ask::Release { owner, token }, 0),
            (12..=13, Some(token)) => (Ask::Fenced { owner, token }, 0),
            _ => {
                let wait_ms = if self.rng.one_in(2) { self.rng.range(1, 150) } else { 0 };
                (Ask::Acquire { owner, lease_ms, request: self.request(mine) }, wait_ms)
            }
        };
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let request = request_of(&ask, resource, wait_ms);
        self.calls.insert(ticket, Call { client, resource, at: self.time, ask, request });
        self.linked.insert(ticket);
        self.after(MS / 20, 2 * MS, Event::Arrive(ticket));
        if self.rng.one_in(25) {
            self.after(MS / 10, 60 * MS, Event::Cut(ticket));
        }
    }

    /// None, a new one, or the last one again.
    fn request(&mut self, mine: (u32, u32)) -> Option<u64> {
        match self.rng.range(0, 3) {
            0 => None,
            1 if self.last_request.contains_key(&mine) => self.last_request.get(&mine).copied(),
            _ => {
                self.requests += 1;
                self.last_request.insert(mine, self.requests);
                Some(self.requests)
            }
        }
    }

    /// A token that somebody had, not always the last one.
    fn any_token(&mut self, resource: u32) -> u64 {
        let tokens: Vec<u64> = self
            .grants
            .iter()
            .filter(|((_, of), _)| *of == resource)
            .flat_map(|(_, tokens)| tokens.iter().rev().take(2).copied())
            .collect();
        let index = self.rng.range(0, tokens.len() as u64) as usize;
        tokens.get(index).copied().unwrap_or(1)
    }

    fn deliver(&mut self, ticket: Ticket) {
        let Some(reply) = self.replies.remove(&ticket) else { return };
        if let Some(call) = self.calls.get(&ticket) {
            let outcome = outcome_of(reply);
            if let Outcome::Granted { token } = outcome {
                self.grants.entry((call.client, call.resource)).or_default().push(token);
            }
            self.finish(ticket, outcome);
        }
    }

    fn cut(&mut self, ticket: Ticket) {
        if self.calls.contains_key(&ticket) {
            self.finish(ticket, Outcome::Unknown);
        }
    }

    /// All links break: nobody is told anything any more.
    fn cut_all(&mut self) {
        let mut open: Vec<Ticket> = self.calls.keys().copied().collect();
        open.sort_unstable();
        for ticket in open {
            self.cut(ticket);
        }
        self.replies.clear();
    }

    fn finish(&mut self, ticket: Ticket, outcome: Outcome) {
        self.linked.remove(&ticket);
        let Some(call) = self.calls.remove(&ticket) else { return };
        self.history.entries.push(Entry {
            client: call.client,
            resource: resource_name(call.resource),
            call: call.at,
            ret: self.time,
            ask: call.ask,
            outcome,
        });
        self.after(MS / 10, 25 * MS, Event::Act(call.client));
    }
}

fn resource_name(number: u32) -> String {
    format!("r{number}")
}

#[allow(clippy::expect_used)] // The input is a small number of this module's own choice.
fn owner_key(owner: u32) -> NodeId {
    let mut bytes = [owner as u8 + 2; 32];
    bytes[31] = 0x10;
    NodeId::from_bytes(bytes).expect("small numbers are no small-order points")
}

fn owner_of(key: &NodeId) -> u32 {
    u32::from(key.as_bytes()[0]) - 2
}

#[allow(clippy::expect_used)] // The name is made two lines above.
fn request_of(ask: &Ask, resource: u32, wait_ms: u64) -> Request {
    let ns = relay_proto::Namespace::default();
    let resource: Resource =
        resource_name(resource).parse().expect("names of simulated resources are good");
    let op = match *ask {
        Ask::Acquire { owner, lease_ms, request } => LeaseOp::Acquire(Acquire {
            ns,
            resource,
            owner: owner_key(owner),
            lease_ms,
            wait_ms,
            request_id: request.map(|number| number.to_string().into()),
            meta: None,
        }),
        Ask::Renew { owner, token, lease_ms } => {
            LeaseOp::Renew(Renew { ns, resource, owner: owner_key(owner), token, lease_ms })
        }
        Ask::Release { owner, token } => {
            LeaseOp::Release(Release { ns, resource, owner: owner_key(owner), token })
        }
        Ask::Break { token } => {
            let (reason, by) = ("simulated".into(), owner_key(99));
            LeaseOp::Break(Break { ns, resource, token, reason, by })
        }
        Ask::Inspect => LeaseOp::Inspect { ns, resource },
        Ask::Fenced { owner, token } => return Request::Fenced(resource, token, owner_key(owner)),
    };
    Request::Lock(op)
}

fn outcome_of(reply: Reply) -> Outcome {
    use LeaseAnswer as A;
    use LeaseRefusal as R;
    match reply {
        Reply::Fenced { stored: true } => Outcome::Done,
        Reply::Fenced { stored: false } => Outcome::Fenced,
        Reply::Lock(Ok(answer)) => match answer {
            A::Acquired(grant) => Outcome::Granted { token: grant.token },
            A::State(state) => match state.held {
                Some(held) => Outcome::Seen { owner: owner_of(&held.owner), token: state.token },
                None => Outcome::SeenFree { last_token: state.token },
            },
            _ => Outcome::Done,
        },
        Reply::Lock(Err(refusal)) => match refusal {
            R::LockHeld { owner, .. } => Outcome::Held { owner: owner_of(&owner) },
            R::LeaseExpired => Outcome::Expired,
            R::StaleToken => Outcome::Stale,
            R::Forbidden => Outcome::Forbidden,
            R::RequestEnded | R::Superseded => Outcome::Conflict,
            _ => Outcome::Nothing,
        },
    }
}
