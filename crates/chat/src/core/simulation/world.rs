//! The world: devices, and a relay in memory that keeps the profile's rules.

use std::collections::{BTreeMap, BTreeSet};

use relay_proto::{
    Code, NodeId, SigningKey,
    conv::{ConvId, ConvKind, EpochRefusal, Handshake, LogEntry, MessageKind},
    mls::{Accepted, Head},
};
use serde_json::Value;
use zeroize::Zeroizing;

use super::super::*;
use crate::{
    content::Body,
    views::{ConversationState, MessageBody, Unreadable},
};

pub(super) const HOME: &str = "gw_sim";

/// A small generator, the same for the same seed.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below.max(1) as u64) as usize
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.next(100) < percent
    }
}

#[derive(Default)]
pub(super) struct Log {
    pub(super) entries: Vec<LogEntry>,
    pub(super) epoch: u64,
    pub(super) members: BTreeSet<NodeId>,
    pub(super) group_info: Option<(u64, String)>,
}

/// The relay, as far as a client sees it.
#[derive(Default)]
pub(super) struct Relay {
    pub(super) logs: BTreeMap<String, Log>,
    pub(super) inboxes: BTreeMap<(NodeId, String), Vec<InboxEntry>>,
    pub(super) pools: BTreeMap<(NodeId, String), Vec<String>>,
}

impl Relay {
    pub(super) fn refuse(code: Code, reason: Option<&str>, message: &str) -> Refused {
        Refused {
            code,
            reason: reason.map(str::to_owned),
            message: message.to_owned(),
            retry_after_ms: None,
        }
    }

    pub(super) fn append(
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

    pub(super) fn commit(
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
                    ..InboxEntry::default()
                });
            }
        }
        Ok(())
    }

    /// Tells all devices of the members; gives how many members there are.
    pub(super) fn ask_rejoin(&mut self, device: &Device, conv_id: &str) -> u64 {
        let members = self.logs[conv_id].members.clone();
        let own = (device.user, device.device_id());
        let devices: Vec<_> = self.pools.keys().filter(|key| **key != own).cloned().collect();
        for key in devices.into_iter().filter(|key| members.contains(&key.0)) {
            let inbox = self.inboxes.entry(key).or_default();
            inbox.push(InboxEntry {
                seq: inbox.len() as u64 + 1,
                kind: "rejoin_request".into(),
                conv_id: conv_id.to_owned(),
                conv_home: HOME.into(),
                user_id: Some(device.user),
                device_id: device.device_id(),
                ..InboxEntry::default()
            });
        }
        members.len() as u64
    }

    pub(super) fn fetch(&mut self, user: &NodeId, but: &Device) -> Vec<(String, String)> {
        let own = (but.user, but.device_id());
        let pools = self.pools.iter_mut().filter(|(key, _)| key.0 == *user && **key != own);
        pools.filter_map(|((_, device), pool)| Some((device.clone(), pool.pop()?))).collect()
    }
}

/// One device in the world.
pub(super) struct Peer {
    pub(super) core: Core,
    pub(super) user: SigningKey,
    pub(super) dir: tempfile::TempDir,
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) now_ms: u64,
    pub(super) relay: Relay,
    pub(super) peers: Vec<Peer>,
    /// Percent of answers that are lost on the way back.
    pub(super) lossy: usize,
}

impl World {
    pub(super) fn new(seed: u64, users: &[u8]) -> Self {
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

    pub(super) fn add_device(&mut self, user: u8) -> usize {
        let user = SigningKey::from_seed([user; 32]);
        let dir = tempfile::tempdir().unwrap();
        let core = Self::open(&dir, &user, self.now_ms);
        self.peers.push(Peer { core, user, dir });
        self.refill(self.peers.len() - 1);
        self.peers.len() - 1
    }

    pub(super) fn open(dir: &tempfile::TempDir, user: &SigningKey, now_ms: u64) -> Core {
        let unlock = Unlock::Key(Zeroizing::new([1; 32]));
        Core::open(dir.path(), &unlock, &user.clone().into(), now_ms).unwrap()
    }

    /// A process ends and starts again.
    pub(super) fn restart(&mut self, n: usize) {
        let Peer { core, user, dir } = self.peers.remove(n);
        drop(core);
        let core = Self::open(&dir, &user, self.now_ms);
        self.peers.insert(n, Peer { core, user, dir });
    }

    pub(super) fn refill(&mut self, n: usize) {
        let core = &self.peers[n].core;
        let key = (core.me(), core.device().device_id());
        let pool = self.relay.pools.entry(key).or_default();
        if pool.len() < 3 {
            // As if the others lay there still: a whole pool takes its time.
            let upload = core.key_packages(19, self.now_ms).unwrap().unwrap_or_default();
            pool.extend(upload.packages);
        }
    }

    pub(super) fn id(&self, n: usize) -> NodeId {
        self.peers[n].core.me()
    }

    /// Takes in what is there; gives whether there was anything.
    pub(super) fn receive(&mut self, n: usize, most: usize) -> bool {
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
    pub(super) fn work(&mut self, n: usize) -> bool {
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
                    None => {
                        drop(core.no_way_back(n, "nothing is published", self.now_ms).unwrap());
                    }
                },
                Step::AskRejoin { n } => {
                    let asked = relay.ask_rejoin(&device, &conv_id);
                    core.rejoin_asked(n, asked, self.now_ms).unwrap();
                }
            }
        }
        moved
    }

    /// Goes on until nobody has anything to do, letting time pass where somebody waits.
    pub(super) fn settle(&mut self) {
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

    pub(super) fn room(&mut self, owner: usize, others: &[usize]) -> String {
        let users = others.iter().map(|n| self.id(*n)).collect();
        let new = NewConversation {
            kind: ConvKind::Room,
            name: Some("sim".into()),
            users,
            home: HOME.into(),
            replaces: None,
        };
        let (conv_id, _) = self.peers[owner].core.create(new, self.now_ms).unwrap();
        self.settle();
        self.accept_all();
        conv_id
    }

    pub(super) fn accept_all(&mut self) {
        for peer in &self.peers {
            for view in peer.core.conversations().unwrap() {
                if matches!(view.state, ConversationState::Invited { .. }) {
                    peer.core.accept(&view.conv_id).unwrap();
                }
            }
        }
    }

    pub(super) fn say(&self, n: usize, conv_id: &str, text: &str) -> bool {
        let body = Body::Text { text: text.to_owned(), reply_to: None };
        self.peers[n].core.say(conv_id, body, self.now_ms).is_ok()
    }

    pub(super) fn lines(&self, n: usize, conv_id: &str) -> Vec<(u64, MessageBody)> {
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
    pub(super) fn check(&self, conv_id: &str) {
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
