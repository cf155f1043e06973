//! What `relay-bench mls` looks at from inside: groups of a size on one sealed state, and profiles that are full. Nothing
//! for programs; built with the feature `measure` only.
#![allow(missing_docs, reason = "for one reader, and each name says what it is")]

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use relay_client::Signer;
use relay_proto::{
    NodeId, SigningKey,
    auth::DeviceId,
    conv::{ConvId, ConvKind, LogEntry, MessageKind},
};
use serde_json::Value;

use crate::{
    content::Body,
    core::{Applied, CommitAnswer, Core, InboxEntry, NewConversation, Step},
    error::{Error, Refusal, Result},
    mls::device::Device,
    store::{Durability, Store, Unlock, rows::MessageRow},
    views::{ConversationState, MessageBody, Preview},
};

const HOME: &str = "gw_paper";

/// What a group of a size takes. Sizes are those of MLS, before base64.
#[derive(Debug, Default)]
pub struct GroupTimes {
    pub create: Duration,
    /// Each commit that added a part of the members, its bundle built and on the disk.
    pub add: Vec<Duration>,
    /// Reading the Welcome of the last such commit, all bindings of the tree checked.
    pub join: Duration,
    /// A commit that renews keys, built and on the disk.
    pub commit: Vec<Duration>,
    /// The same on another member: verified, merged, stored.
    pub process: Vec<Duration>,
    /// The same on its author, when it comes back.
    pub merge: Vec<Duration>,
    /// A message, encrypted and on the disk.
    pub send: Vec<Duration>,
    /// A message, decrypted and stored.
    pub receive: Vec<Duration>,
    pub commit_bytes: usize,
    pub welcome_bytes: usize,
    /// The body of `conv.commit` of the largest commit, as it travels.
    pub bundle_bytes: usize,
}

/// One member who does everything, one who follows, and as many others on paper as the size asks for.
struct Paper {
    alice: Core,
    bob: Core,
    conv_id: String,
    now_ms: u64,
    /// One KeyPackage of each invited user.
    packages: BTreeMap<NodeId, (String, String)>,
    seq: u64,
    bob_is_in: bool,
    times: GroupTimes,
}

/// Makes a group of `leaves` and measures `rounds` commits and messages in it.
///
/// # Errors
/// The state's.
pub fn group(dir: &Path, leaves: usize, rounds: usize, now_ms: u64) -> Result<GroupTimes> {
    let unlock = Unlock::Key(zeroize::Zeroizing::new([1; 32]));
    let open = |name: &str| {
        let user: Signer = SigningKey::from_seed(seed(name, 0)).into();
        Core::open(&dir.join(name), &unlock, &user, now_ms)
    };
    let (alice, bob) = (open("alice")?, open("bob")?);
    let mut packages = on_paper(&dir.join("others"), &unlock, leaves.saturating_sub(2), now_ms)?;
    let others: Vec<NodeId> = packages.keys().copied().collect();
    let mut bobs = bob.key_packages(0, now_ms)?.unwrap_or_default().packages;
    let bobs = bobs.pop().ok_or(Refusal::NoMessage)?;
    packages.insert(bob.me(), (bob.device().device_id(), bobs));
    let new = NewConversation {
        kind: ConvKind::Room,
        name: Some("paper".into()),
        // Bob last, so that his Welcome is the one of the whole group.
        users: others.into_iter().chain([bob.me()]).collect(),
        home: HOME.into(),
        replaces: None,
    };
    let begun = Instant::now();
    let (conv_id, _) = alice.create(new, now_ms)?;
    let times = GroupTimes { create: begun.elapsed(), ..GroupTimes::default() };
    let mut paper =
        Paper { alice, bob, conv_id, now_ms, packages, seq: 0, bob_is_in: false, times };
    paper.drive()?;
    for n in 0..rounds {
        paper.alice.renew(&paper.conv_id, now_ms)?;
        paper.drive()?;
        let body = Body::Text { text: format!("message {n} on paper"), reply_to: None };
        paper.alice.say(&paper.conv_id, body, now_ms)?;
        paper.drive()?;
    }
    Ok(paper.times)
}

fn seed(name: &str, n: usize) -> [u8; 32] {
    *blake3::hash(format!("{name} {n}").as_bytes()).as_bytes()
}

/// KeyPackages of people who do nothing else.
fn on_paper(
    dir: &Path,
    unlock: &Unlock,
    count: usize,
    now_ms: u64,
) -> Result<BTreeMap<NodeId, (String, String)>> {
    let store = Store::open(dir, unlock)?;
    let crypto = openmls_rust_crypto::RustCrypto::default();
    store.write(Durability::Soon, |tx| {
        let storage = crate::store::MlsStorage::live(tx, b"");
        let provider = crate::mls::Provider { storage, crypto: &crypto };
        let mut packages = BTreeMap::new();
        for n in 0..count {
            let user: Signer = SigningKey::from_seed(seed("other", n)).into();
            let device = Device::create(&user, now_ms / 1_000)?;
            let made = device.key_package(&provider, false, now_ms / 1_000)?;
            packages.insert(device.user, (device.device_id(), STANDARD.encode(made.message)));
        }
        Ok(packages)
    })
}

impl Paper {
    /// Takes steps until there are none.
    fn drive(&mut self) -> Result<()> {
        loop {
            let begun = Instant::now();
            let look = self.alice.next_step(&self.conv_id, self.now_ms)?;
            let took = begun.elapsed();
            match look.step {
                None | Some(Step::Wait { .. }) => return Ok(()),
                Some(Step::Create { n, .. }) => drop(self.alice.created(n)?),
                Some(Step::Fetch { n, user }) => {
                    let packages = self.packages.remove(&user).into_iter().collect();
                    drop(self.alice.fetched(n, user, packages)?);
                }
                Some(Step::Commit { msg_id, body }) => self.commit(took, &msg_id, &body)?,
                Some(Step::Send { n, body }) => self.send(took, n, &body)?,
                Some(_) => return Err(Refusal::Invalid("not on paper".into()).into()),
            }
        }
    }

    fn commit(&mut self, took: Duration, msg_id: &str, text: &str) -> Result<()> {
        let body: Value = serde_json::from_str(text)?;
        let entry = self.entry(&body, MessageKind::Commit)?;
        let welcome = body["welcomes"][0]["env"].as_str().map(str::to_owned);
        self.times.bundle_bytes = self.times.bundle_bytes.max(text.len());
        match &welcome {
            Some(welcome) => {
                self.times.add.push(took);
                self.times.welcome_bytes = self.times.welcome_bytes.max(raw(welcome));
            }
            None => {
                self.times.commit.push(took);
                self.times.commit_bytes = self.times.commit_bytes.max(raw(&entry.env));
            }
        }
        if self.bob_is_in {
            self.times.process.push(timed(|| self.bob.apply(&entry, self.now_ms))?);
        }
        let merged = timed(|| self.alice.apply(&entry, self.now_ms))?;
        if welcome.is_none() {
            self.times.merge.push(merged);
        }
        self.alice.commit_answered(&self.conv_id, msg_id, &CommitAnswer::Acked, self.now_ms)?;
        let invited = body["members_add"].to_string().contains(&self.bob.me().to_string());
        if let (Some(env), true) = (welcome, invited) {
            let inviter = Some(self.alice.me());
            let entry = InboxEntry {
                seq: 1,
                kind: "welcome".into(),
                conv_id: self.conv_id.clone(),
                conv_home: HOME.into(),
                conv_seq: self.seq,
                inviter,
                env,
                ..InboxEntry::default()
            };
            let begun = Instant::now();
            self.bob.inbox(&entry, self.now_ms)?;
            self.times.join = begun.elapsed();
            self.bob.accept(&self.conv_id)?;
            self.bob_is_in = true;
        }
        Ok(())
    }

    fn send(&mut self, took: Duration, n: i64, body: &Value) -> Result<()> {
        let entry = self.entry(body, MessageKind::Application)?;
        self.times.send.push(took);
        self.alice.sent(n)?;
        if self.bob_is_in {
            self.times.receive.push(timed(|| self.bob.apply(&entry, self.now_ms))?);
        }
        timed(|| self.alice.apply(&entry, self.now_ms)).map(|_| ())
    }

    fn entry(&mut self, body: &Value, kind: MessageKind) -> Result<LogEntry> {
        self.seq += 1;
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let odd = || Error::from(Refusal::Invalid("not an entry".into()));
        let device = self.alice.device().device_id();
        Ok(LogEntry {
            conv_id: self.conv_id.parse::<ConvId>().map_err(|_| odd())?,
            seq: self.seq,
            msg_id: text("msg_id").parse().map_err(|_| odd())?,
            env: text("env"),
            sender_device_id: DeviceId::new(&device).ok_or_else(odd)?,
            sender_user_id: self.alice.me(),
            conv_home: HOME.into(),
            origin_gateway: HOME.into(),
            ts_ms: self.now_ms,
            kind: Some(kind),
            epoch: None,
        })
    }
}

fn raw(base64: &str) -> usize {
    base64.len() / 4 * 3
}

/// How long it took to take an entry in. One that is not is an error.
fn timed(apply: impl FnOnce() -> Result<Applied>) -> Result<Duration> {
    let begun = Instant::now();
    match apply()? {
        Applied::Stored(_) => Ok(begun.elapsed()),
        other => Err(Refusal::Invalid(format!("not taken in: {other:?}")).into()),
    }
}

/// Fills a new profile: one room for each number, with so many messages of four other people. Gives the rooms' ids.
///
/// # Errors
/// The state's.
pub fn fill(
    profile: &Path,
    unlock: &Unlock,
    user: &Signer,
    sizes: &[u64],
    now_ms: u64,
) -> Result<Vec<String>> {
    const BATCH: u64 = 20_000;
    let core = Core::open(profile, unlock, user, now_ms)?;
    let people: Vec<NodeId> =
        (0..4).map(|n| SigningKey::from_seed(seed("writer", n)).node_id()).collect();
    for (n, person) in people.iter().enumerate() {
        core.change_person(*person, |row| row.name = format!("person {n}"))?;
    }
    let mut rooms = Vec::with_capacity(sizes.len());
    for (n, size) in sizes.iter().enumerate() {
        let new = NewConversation {
            kind: ConvKind::Room,
            name: Some(format!("room {n}")),
            users: people.clone(),
            home: HOME.into(),
            replaces: None,
        };
        let (conv_id, _) = core.create(new, now_ms)?;
        let mut from = 1;
        while from <= *size {
            let to = size.min(&(from + BATCH - 1)).to_owned();
            core.store().write(Durability::Soon, |tx| {
                let row = tx.conv(&conv_id)?.ok_or(Refusal::NoConversation)?;
                for seq in from..=to {
                    let from = people.get(seq as usize % 4).copied();
                    tx.put_message(row.n, &line(seq, from, now_ms - (size - seq) * 1_000)?, true)?;
                }
                Ok(())
            })?;
            from = to + 1;
        }
        core.store().write(Durability::Soon, |tx| {
            let mut row = tx.conv(&conv_id)?.ok_or(Refusal::NoConversation)?;
            for out in tx.outbox(row.n)? {
                tx.remove_out(out.n)?;
            }
            row.state = ConversationState::Active;
            row.members.extend(people.iter().map(|person| (*person, 1)));
            (row.latest_seq, row.read_seq, row.next_seq) =
                (*size, size.saturating_sub(3), size + 1);
            row.unread = 3.min(*size);
            row.active_at_ms = now_ms - n as u64;
            let text = "the newest one".into();
            row.last = people.first().map(|from| Preview { from: *from, text, at_ms: now_ms });
            tx.save_conv(&row)
        })?;
        rooms.push(conv_id);
    }
    Ok(rooms)
}

fn line(seq: u64, from: Option<NodeId>, at_ms: u64) -> Result<MessageRow> {
    Ok(MessageRow {
        seq,
        from,
        device: "AAAAAAAAAAAAAAAAAAAAAA".into(),
        at_ms,
        env_hash: [7; 32],
        id: Some(crate::content::new_id()?),
        body: MessageBody::Text {
            text: format!("message {seq}: as long as people write, which is not long, mostly"),
        },
        reply_to: None,
        edited: false,
        mention: false,
        reactions: BTreeMap::new(),
    })
}
