//! Many devices, a relay in memory, and chance: joins, leaves, races, restarts, lost answers, and lies.
//!
//! The relay of this world keeps the profile's rules (`mls-profile.md` 6) unless it is told to lie. Nothing waits for a clock: time is
//! a number that moves when nobody has anything to do.

mod interop;

use std::collections::{BTreeMap, BTreeSet};

use relay_proto::{
    Code, NodeId, SigningKey,
    conv::{ConvId, ConvKind, EpochRefusal, Handshake, LogEntry, MessageKind},
    mls::{Accepted, Head},
};
use serde_json::Value;
use zeroize::Zeroizing;

use super::*;
use crate::{
    content::Body,
    store::random,
    views::{ConversationState, MessageBody, Unreadable},
};

const HOME: &str = "gw_sim";

/// A small generator, the same for the same seed.
struct Rng(u64);

impl Rng {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below.max(1) as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.next(100) < percent
    }
}

#[derive(Default)]
struct Log {
    entries: Vec<LogEntry>,
    epoch: u64,
    members: BTreeSet<NodeId>,
    group_info: Option<(u64, String)>,
}

/// The relay, as far as a client sees it.
#[derive(Default)]
struct Relay {
    logs: BTreeMap<String, Log>,
    inboxes: BTreeMap<(NodeId, String), Vec<InboxEntry>>,
    pools: BTreeMap<(NodeId, String), Vec<String>>,
}

impl Relay {
    fn refuse(code: Code, reason: Option<&str>, message: &str) -> Refused {
        Refused {
            code,
            reason: reason.map(str::to_owned),
            message: message.to_owned(),
            retry_after_ms: None,
        }
    }

    fn append(
        &mut self,
        device: &Device,
        body: &Value,
        kind: MessageKind,
        now_ms: u64,
    ) -> std::result::Result<u64, Refused> {
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        let (conv_id, msg_id, env) = (text("conv_id"), text("msg_id"), text("env"));
        let log = self.logs.get_mut(&conv_id).unwrap();
        if !log.members.contains(&device.user) {
            return Err(Self::refuse(Code::Forbidden, None, "not a member"));
        }
        if let Some(entry) = log.entries.iter().find(|entry| entry.msg_id.as_str() == msg_id) {
            assert_eq!(entry.env, env, "the same msg_id with other bytes");
            return Ok(entry.seq);
        }
        let head = Head::of_base64(&env).unwrap();
        let (_, epoch) = head.place().unwrap();
        let handshake = match head.accepted() {
            Some(Accepted::Commit | Accepted::ExternalCommit) => Handshake::Commit(epoch),
            Some(Accepted::Application | Accepted::Proposal) => Handshake::Within(epoch),
            other => panic!("sent as {kind:?}: {other:?}"),
        };
        let next = handshake.apply(log.epoch).map_err(|why| {
            let stale = why == EpochRefusal::Stale;
            let reason = if stale { "stale_epoch" } else { "future_epoch" };
            Self::refuse(Code::Conflict, Some(reason), "conflict")
        })?;
        log.epoch = next;
        let seq = log.entries.len() as u64 + 1;
        log.entries.push(LogEntry {
            conv_id: conv_id.parse::<ConvId>().unwrap(),
            seq,
            msg_id: msg_id.parse().unwrap(),
            env,
            sender_device_id: relay_proto::auth::DeviceId::new(&device.device_id()).unwrap(),
            sender_user_id: device.user,
            conv_home: HOME.into(),
            origin_gateway: HOME.into(),
            ts_ms: now_ms,
            kind: Some(kind),
            epoch: Some(epoch),
        });
        Ok(seq)
    }

    fn commit(
        &mut self,
        device: &Device,
        body: &Value,
        now_ms: u64,
    ) -> std::result::Result<(), Refused> {
        let conv_id = body["conv_id"].as_str().unwrap().to_owned();
        let before = self.logs[&conv_id].entries.len();
        let seq = self.append(device, body, MessageKind::Commit, now_ms)?;
        let log = self.logs.get_mut(&conv_id).unwrap();
        if log.entries.len() == before {
            return Ok(());
        }
        let users = |name: &str| -> Vec<NodeId> {
            body[name]
                .as_array()
                .into_iter()
                .flatten()
                .map(|id| id.as_str().unwrap().parse().unwrap())
                .collect()
        };
        log.members.extend(users("members_add"));
        for user in users("members_remove") {
            log.members.remove(&user);
        }
        let info = &body["group_info"];
        assert_eq!(info["epoch"].as_u64(), Some(log.epoch));
        log.group_info = Some((log.epoch, info["sealed"].as_str().unwrap().to_owned()));
        for welcome in body["welcomes"].as_array().into_iter().flatten() {
            for to in welcome["to"].as_array().unwrap() {
                let user: NodeId = to["user_id"].as_str().unwrap().parse().unwrap();
                let key = (user, to["device_id"].as_str().unwrap().to_owned());
                let inbox = self.inboxes.entry(key).or_default();
                inbox.push(InboxEntry {
                    seq: inbox.len() as u64 + 1,
                    kind: "welcome".into(),
                    conv_id: conv_id.clone(),
                    conv_home: HOME.into(),
                    conv_seq: seq,
                    inviter: Some(device.user),
                    env: welcome["env"].as_str().unwrap().to_owned(),
                });
            }
        }
        Ok(())
    }

    fn fetch(&mut self, user: &NodeId, but: &Device) -> Vec<(String, String)> {
        let own = (but.user, but.device_id());
        let pools = self.pools.iter_mut().filter(|(key, _)| key.0 == *user && **key != own);
        pools.filter_map(|((_, device), pool)| Some((device.clone(), pool.pop()?))).collect()
    }
}

/// One device in the world.
struct Peer {
    core: Core,
    user: SigningKey,
    dir: tempfile::TempDir,
}

struct World {
    rng: Rng,
    now_ms: u64,
    relay: Relay,
    peers: Vec<Peer>,
    /// Percent of answers that are lost on the way back.
    lossy: usize,
}

impl World {
    fn new(seed: u64, users: &[u8]) -> Self {
        let mut world = Self {
            rng: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now_ms: relay_client::unix_ns() / 1_000_000,
            relay: Relay::default(),
            peers: Vec::new(),
            lossy: 0,
        };
        for user in users {
            world.add_device(*user);
        }
        world
    }

    fn add_device(&mut self, user: u8) -> usize {
        let user = SigningKey::from_seed([user; 32]);
        let dir = tempfile::tempdir().unwrap();
        let core = Self::open(&dir, &user, self.now_ms);
        self.peers.push(Peer { core, user, dir });
        self.refill(self.peers.len() - 1);
        self.peers.len() - 1
    }

    fn open(dir: &tempfile::TempDir, user: &SigningKey, now_ms: u64) -> Core {
        let unlock = Unlock::Key(Zeroizing::new([1; 32]));
        Core::open(dir.path(), &unlock, &user.clone().into(), now_ms).unwrap()
    }

    /// A process ends and starts again.
    fn restart(&mut self, n: usize) {
        let Peer { core, user, dir } = self.peers.remove(n);
        drop(core);
        let core = Self::open(&dir, &user, self.now_ms);
        self.peers.insert(n, Peer { core, user, dir });
    }

    fn refill(&mut self, n: usize) {
        let core = &self.peers[n].core;
        let key = (core.me(), core.device().device_id());
        let pool = self.relay.pools.entry(key).or_default();
        if pool.len() < 3 {
            // As if the others lay there still: a whole pool takes its time.
            let upload = core.key_packages(19, self.now_ms).unwrap().unwrap_or_default();
            pool.extend(upload.packages);
        }
    }

    fn id(&self, n: usize) -> NodeId {
        self.peers[n].core.me()
    }

    /// Takes in what is there; gives whether there was anything.
    fn receive(&mut self, n: usize, most: usize) -> bool {
        let core = &self.peers[n].core;
        let mut moved = false;
        let key = (core.me(), core.device().device_id());
        let next = core.inbox_next().unwrap();
        for entry in self.relay.inboxes.get(&key).into_iter().flatten() {
            if entry.seq >= next {
                core.inbox(entry, self.now_ms).unwrap();
                moved = true;
            }
        }
        for (conv_id, next, followed) in core.followed().unwrap() {
            let Some(log) = self.relay.logs.get(&conv_id) else { continue };
            if !followed {
                continue;
            }
            if !log.members.contains(&core.me()) {
                core.shut_out(&conv_id).unwrap();
                continue;
            }
            for entry in log.entries.iter().skip(next as usize - 1).take(most) {
                moved |= matches!(core.apply(entry, self.now_ms).unwrap(), Applied::Stored(_));
            }
        }
        moved
    }

    /// Takes one step in each conversation; gives whether there was any.
    fn work(&mut self, n: usize) -> bool {
        let mut moved = false;
        let convs = self.peers[n].core.followed().unwrap();
        for (conv_id, ..) in convs {
            let core = &self.peers[n].core;
            let Some(step) = core.next_step(&conv_id, self.now_ms).unwrap().step else { continue };
            let lost = self.rng.chance(self.lossy);
            let device = core.device().clone();
            let relay = &mut self.relay;
            moved |= !matches!(step, Step::Wait { .. });
            match step {
                Step::Wait { .. } => {}
                Step::Create { n, body, .. } => {
                    let log = relay.logs.entry(conv_id.clone()).or_default();
                    log.members.insert(device.user);
                    if let Some(peer) = body["peer_user_id"].as_str() {
                        log.members.insert(peer.parse().unwrap());
                    }
                    if !lost {
                        core.created(n).unwrap();
                    }
                }
                Step::Fetch { n, user } => {
                    let devices = relay.fetch(&user, &device);
                    core.fetched(n, user, devices).unwrap();
                }
                Step::Commit { msg_id, body } => {
                    let body: Value = serde_json::from_str(&body).unwrap();
                    let answer = match relay.commit(&device, &body, self.now_ms) {
                        Ok(()) => CommitAnswer::Acked,
                        Err(why) => CommitAnswer::Refused(why),
                    };
                    if !lost {
                        core.commit_answered(&conv_id, &msg_id, &answer, self.now_ms).unwrap();
                    }
                }
                Step::Send { n, body } => {
                    let kind = match body["kind"].as_str() {
                        Some("application") => MessageKind::Application,
                        _ => MessageKind::Proposal,
                    };
                    let sent = relay.append(&device, &body, kind, self.now_ms);
                    match sent {
                        _ if lost => {}
                        Ok(_) => drop(core.sent(n).unwrap()),
                        Err(why) => drop(core.refused(n, &why, self.now_ms).unwrap()),
                    }
                }
                Step::Leave { n } => {
                    relay.logs.get_mut(&conv_id).unwrap().members.remove(&device.user);
                    core.left(n).unwrap();
                }
                Step::GroupInfo { n } => match relay.logs[&conv_id].group_info.clone() {
                    Some((epoch, sealed)) => {
                        drop(core.group_info(n, epoch, &sealed, self.now_ms).unwrap());
                    }
                    None => drop(core.no_way_back(n, "nothing is published").unwrap()),
                },
            }
        }
        moved
    }

    /// Goes on until nobody has anything to do, letting time pass where somebody waits.
    fn settle(&mut self) {
        let mut idle = 0;
        for _ in 0..400 {
            let mut moved = false;
            for n in 0..self.peers.len() {
                moved |= self.receive(n, usize::MAX);
                moved |= self.work(n);
                self.refill(n);
            }
            idle = if moved { 0 } else { idle + 1 };
            if idle > 3 {
                return;
            }
            if !moved {
                self.now_ms += 20_000;
            }
        }
        for peer in &self.peers {
            eprintln!("{:#?}", peer.core.conversations().unwrap());
        }
        let outboxes: Vec<_> = self.peers.iter().map(|peer| peer.core.outbox().unwrap()).collect();
        panic!("it does not come to rest: {outboxes:#?}");
    }

    fn room(&mut self, owner: usize, others: &[usize]) -> String {
        let users = others.iter().map(|n| self.id(*n)).collect();
        let new = NewConversation {
            kind: ConvKind::Room,
            name: Some("sim".into()),
            users,
            home: HOME.into(),
        };
        let (conv_id, _) = self.peers[owner].core.create(new, self.now_ms).unwrap();
        self.settle();
        self.accept_all();
        conv_id
    }

    fn accept_all(&mut self) {
        for peer in &self.peers {
            for view in peer.core.conversations().unwrap() {
                if matches!(view.state, ConversationState::Invited { .. }) {
                    peer.core.accept(&view.conv_id).unwrap();
                }
            }
        }
    }

    fn say(&self, n: usize, conv_id: &str, text: &str) -> bool {
        let body = Body::Text { text: text.to_owned(), reply_to: None };
        self.peers[n].core.say(conv_id, body, self.now_ms).is_ok()
    }

    fn lines(&self, n: usize, conv_id: &str) -> Vec<(u64, MessageBody)> {
        let mut all = Vec::new();
        let mut after = 0;
        loop {
            let page = self.peers[n].core.messages(conv_id, Part::After(after), 500).unwrap();
            for item in &page.items {
                if let Some(seq) = item.seq {
                    after = seq;
                    all.push((seq, item.body.clone()));
                }
            }
            if !page.more_after {
                return all;
            }
        }
    }

    /// Everybody who is in agrees on the epoch and its secret, saw every message since their join once and in order,
    /// and nothing that they could not read.
    fn check(&self, conv_id: &str) {
        let mut checks = BTreeSet::new();
        // From where on each one reads without a gap, and what.
        let mut logs: Vec<(u64, Vec<(u64, String)>)> = Vec::new();
        for (n, peer) in self.peers.iter().enumerate() {
            let Ok(view) = peer.core.conversation(conv_id) else { continue };
            if view.state != ConversationState::Active {
                continue;
            }
            checks.insert((view.epoch, view.check.clone()));
            let lines = self.lines(n, conv_id);
            assert!(lines.windows(2).all(|pair| pair[0].0 < pair[1].0), "out of order at {n}");
            let mut whole_from = 0;
            for (seq, line) in &lines {
                match line {
                    MessageBody::Unreadable { why: Unreadable::WhileAway { to_seq, .. } } => {
                        whole_from = to_seq + 1;
                    }
                    MessageBody::Unreadable { why } => panic!("{n}, {seq}: {why}"),
                    _ => {}
                }
            }
            let texts: Vec<(u64, String)> = lines
                .into_iter()
                .filter_map(|(seq, line)| match line {
                    MessageBody::Text { text } => Some((seq, text)),
                    _ => None,
                })
                .collect();
            let first = texts.iter().map(|line| line.0).find(|seq| *seq >= whole_from);
            logs.push((first.unwrap_or(u64::MAX), texts));
        }
        assert_eq!(checks.len(), 1, "members disagree: {checks:?}");
        for (first, log) in &logs {
            for (_, other) in &logs {
                let common = other.iter().filter(|line| line.0 >= *first);
                let missing: Vec<_> = common.filter(|line| !log.contains(line)).collect();
                assert!(missing.is_empty(), "one member has them, another has not: {missing:?}");
            }
        }
    }
}

#[test]
fn chance_leaves_everybody_agreed() {
    let mut all = 0;
    for seed in 1..=3 {
        let mut world = World::new(seed, &[1, 2, 3, 4, 5]);
        let room = world.room(0, &[1, 2]);
        world.lossy = 15;
        let mut said = 0;
        for _ in 0..120 {
            let n = world.rng.next(world.peers.len());
            match world.rng.next(12) {
                0 => {
                    let who = world.rng.next(world.peers.len());
                    let user = world.id(who);
                    let _ = world.peers[0].core.invite(&room, vec![user], world.now_ms);
                }
                1 if world.rng.chance(40) => {
                    let who = 1 + world.rng.next(world.peers.len() - 1);
                    let user = world.id(who);
                    let _ = world.peers[0].core.remove(&room, vec![user], world.now_ms);
                }
                2 => world.restart(n),
                3 if n > 2 => drop(world.peers[n].core.leave(&room, world.now_ms)),
                4 => world.accept_all(),
                5..=7 => {
                    said += usize::from(world.say(n, &room, &format!("{seed}/{said}")));
                }
                _ => {}
            }
            // Only some get a turn, and see only a part of the log.
            for _ in 0..3 {
                let n = world.rng.next(world.peers.len());
                let most = world.rng.next(4);
                world.receive(n, most);
                world.work(n);
                world.refill(n);
            }
            world.now_ms += 500;
        }
        world.lossy = 0;
        world.accept_all();
        world.settle();
        world.check(&room);
        all += said;
    }
    assert!(all > 20, "hardly anybody said anything: {all}");
}

#[test]
fn commits_race_and_all_of_them_get_their_way() {
    let mut world = World::new(9, &[1, 2, 3, 4, 5, 6]);
    let room = world.room(0, &[1, 2]);
    // Two admins invite at once.
    let admin = world.id(1);
    let roles = Some([(admin, relay_proto::conv::Role::Admin)].into());
    let body = Body::Room(crate::content::RoomBody { roles, ..Default::default() });
    world.peers[0].core.say(&room, body, world.now_ms).unwrap();
    world.settle();
    let (third, fourth) = (world.id(3), world.id(4));
    world.peers[0].core.invite(&room, vec![third], world.now_ms).unwrap();
    world.peers[1].core.invite(&room, vec![fourth], world.now_ms).unwrap();
    for _ in 0..6 {
        world.work(0);
        world.work(1);
    }
    world.settle();
    world.accept_all();
    for n in 0..5 {
        assert!(world.say(n, &room, &n.to_string()));
    }
    world.settle();
    world.check(&room);
    assert_eq!(world.peers[4].core.members(&room).unwrap().len(), 5);
}

#[test]
fn a_second_device_comes_in_and_a_lost_one_is_replaced() {
    let mut world = World::new(4, &[1, 2]);
    let room = world.room(0, &[1]);
    world.say(0, &room, "before");
    world.settle();
    let phone = world.add_device(1);
    world.peers[0].core.devices_changed(true, &[], world.now_ms).unwrap();
    world.settle();
    assert!(world.say(phone, &room, "from my phone"));
    world.settle();
    world.check(&room);
    // Both are lost; the key and the vault are there.
    let vault = world.peers[0].core.vault_contents().unwrap().0;
    world.peers.swap_remove(phone);
    let lost = world.peers.remove(0);
    let new = world.add_device(1);
    let (conv_id, home, rejoin_key) = vault[0].clone();
    let latest_seq = world.relay.logs[&conv_id].entries.len() as u64;
    let from = Vaulted { conv_id, home, rejoin_key, latest_seq };
    world.peers[new].core.come_back(&from, true, world.now_ms).unwrap();
    world.settle();
    assert!(world.say(new, &room, "I am back") && world.say(0, &room, "welcome back"));
    world.settle();
    world.check(&room);
    let members = world.peers[new].core.members(&room).unwrap();
    assert!(members.iter().all(|member| member.devices == 1), "{members:#?}");
    drop(lost);
}

#[test]
fn a_lying_relay_stops_a_conversation_at_most() {
    let mut world = World::new(5, &[1, 2]);
    let room = world.room(0, &[1]);
    for n in 0..4 {
        world.say(0, &room, &n.to_string());
    }
    for _ in 0..30 {
        world.work(0);
        world.receive(0, usize::MAX);
    }
    let bob = &world.peers[1].core;
    let entries = world.relay.logs[&room].entries.clone();
    let next = bob.followed().unwrap()[0].1 as usize;
    let due = &entries[next - 1..];
    let before = bob.conversation(&room).unwrap();
    // Left out: a gap is noticed, and nothing is taken.
    assert!(matches!(bob.apply(&due[1], 0).unwrap(), Applied::Gap { .. }));
    // From another home: nothing of it is believed.
    let mut abroad = due[0].clone();
    abroad.conv_home = "gw_evil".into();
    // Damaged, and cut off in the middle: passed over as what it is.
    let mut flipped = due[0].clone();
    let middle = flipped.env.len() / 2;
    let letter = if &flipped.env[middle..=middle] == "A" { "B" } else { "A" };
    flipped.env.replace_range(middle..=middle, letter);
    let Applied::Stored(_) = bob.apply(&flipped, 0).unwrap() else { panic!("not taken") };
    let line = world.lines(1, &room).pop().unwrap();
    assert!(matches!(line.1, MessageBody::Unreadable { why: Unreadable::Invalid { .. } }));
    // The true one under the same number is a fork now, and is not shown either.
    let Applied::Ignored(events) = bob.apply(&due[0], 0).unwrap() else { panic!("taken") };
    assert!(matches!(&events[..], [Event::Note { .. }]));
    // The rest still reads: one bad message costs itself alone.
    for entry in &due[1..] {
        bob.apply(entry, 0).unwrap();
    }
    let texts: Vec<_> = world
        .lines(1, &room)
        .into_iter()
        .filter(|(_, line)| matches!(line, MessageBody::Text { .. }))
        .collect();
    assert_eq!(texts.len(), 3);
    // Replayed, it changes nothing.
    let count = world.lines(1, &room).len();
    for entry in &entries {
        let bob = &world.peers[1].core;
        assert!(matches!(bob.apply(entry, 0).unwrap(), Applied::Ignored(_)));
    }
    assert_eq!(world.lines(1, &room).len(), count);
    let after = world.peers[1].core.conversation(&room).unwrap();
    assert_eq!(
        (after.epoch, after.check, &after.state),
        (before.epoch, before.check, &ConversationState::Active)
    );
    // A commit from nowhere stops the conversation, and says so.
    abroad.seq = entries.len() as u64 + 1;
    let bob = &world.peers[1].core;
    bob.apply(&abroad, 0).unwrap();
    assert!(matches!(bob.conversation(&room).unwrap().state, ConversationState::Stuck { .. }));
}

#[test]
fn a_poisoned_commit_is_survived_by_rejoining() {
    let mut world = World::new(6, &[1, 2, 3]);
    let room = world.room(0, &[1]);
    world.say(1, &room, "all is well");
    world.settle();
    // Bob alone gets a damaged copy of the commit that takes carol in; the others go on.
    let carol = world.id(2);
    world.peers[0].core.invite(&room, vec![carol], world.now_ms).unwrap();
    while !world.relay.logs[&room].members.contains(&carol) {
        world.work(0);
        world.receive(0, usize::MAX);
    }
    let mut bad = world.relay.logs[&room].entries.last().unwrap().clone();
    assert_eq!(bad.kind, Some(MessageKind::Commit));
    let middle = bad.env.len() - 40;
    let letter = if &bad.env[middle..=middle] == "A" { "B" } else { "A" };
    bad.env.replace_range(middle..=middle, letter);
    world.peers[1].core.apply(&bad, world.now_ms).unwrap();
    let state = world.peers[1].core.conversation(&room).unwrap().state;
    assert!(matches!(state, ConversationState::Stuck { .. }), "{state:?}");
    assert!(world.say(1, &room, "written while stuck"));
    world.settle();
    world.accept_all();
    world.say(0, &room, "you are back");
    world.settle();
    world.check(&room);
    let texts: Vec<_> = world.lines(0, &room).into_iter().map(|(_, line)| line).collect();
    assert!(texts.contains(&MessageBody::Text { text: "written while stuck".into() }));
}
