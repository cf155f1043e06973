//! Our member and one on ts-mls in the same groups.
//!
//! Needs `node` and `npm`; the library is installed beside what is built, by the first test that wants it.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use relay_proto::{SigningKey, mls::DeviceBinding};
use serde_json::{Value, json};

use super::*;
use crate::{content::Content, mls::info, store::random};

/// Somebody on ts-mls.
struct Foreign {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    user: SigningKey,
    device: [u8; 16],
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn node_modules() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let dir = exe.ancestors().nth(2).unwrap().join("ts-mls-1.6.4");
    std::fs::create_dir_all(&dir).unwrap();
    let lock = std::fs::File::create(dir.join("lock")).unwrap();
    lock.lock().unwrap();
    if !dir.join("installed").exists() {
        let status = Command::new("timeout")
            .args(["300", "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"])
            .args(["--no-save", "--prefix"])
            .arg(&dir)
            .args(["ts-mls@1.6.4", "@noble/hashes@2.0.1", "@noble/curves@2.0.1"])
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "ts-mls could not be installed");
        std::fs::write(dir.join("installed"), "").unwrap();
    }
    dir.join("node_modules")
}

impl Foreign {
    fn new(user: u8, now_ms: u64) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/member.mjs");
        let mut child = Command::new("node")
            .arg(script)
            .arg(node_modules())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let user = SigningKey::from_seed([user; 32]);
        let device = random().unwrap();
        let mut foreign = Self { child, stdin, stdout, user, device };
        let identity = foreign.identity(now_ms);
        foreign.ok(json!({ "verb": "identity", "identity": identity }));
        foreign
    }

    fn identity(&mut self, now_ms: u64) -> String {
        let key = self.ok(json!({ "verb": "key" }))["key"].as_str().unwrap().to_owned();
        let key: [u8; 32] = STANDARD.decode(key).unwrap().try_into().unwrap();
        let now_s = now_ms / 1_000;
        let binding = DeviceBinding {
            user: self.user.node_id(),
            device: self.device,
            not_before: now_s - 3_600,
            not_after: now_s + 86_400 * 300,
        };
        STANDARD.encode(binding.identity(&self.user.sign(&binding.to_be_signed(&key))))
    }

    fn ask(&mut self, line: Value) -> Value {
        writeln!(self.stdin, "{line}").unwrap();
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    fn ok(&mut self, line: Value) -> Value {
        let answer = self.ask(line.clone());
        assert!(answer["error"].is_null(), "{line}: {}", answer["error"].as_str().unwrap());
        answer
    }

    fn user(&self) -> NodeId {
        self.user.node_id()
    }

    fn device_id(&self) -> String {
        step::device_text(&self.device)
    }

    fn hand_in(&mut self, relay: &mut Relay) {
        let package = self.ok(json!({ "verb": "key_package" }))["package"].clone();
        let key = (self.user(), self.device_id());
        relay.pools.entry(key).or_default().push(package.as_str().unwrap().to_owned());
    }

    fn join(&mut self, relay: &Relay) -> u64 {
        let inbox = &relay.inboxes[&(self.user(), self.device_id())];
        let entry = inbox.last().unwrap();
        self.ok(json!({ "verb": "join", "welcome": entry.env }));
        entry.conv_seq
    }

    /// Appends to the log as the relay does for any client.
    fn append(&self, relay: &mut Relay, body: &Value, kind: MessageKind, now_ms: u64) -> u64 {
        let device = Device::create(&self.user.clone().into(), now_ms / 1_000).unwrap();
        relay.append(&device, body, kind, now_ms).unwrap()
    }

    fn say(&mut self, relay: &mut Relay, conv_id: &str, text: &str, now_ms: u64) {
        let body = Body::Text { text: text.to_owned(), reply_to: None };
        let content = Content::new(body, now_ms).unwrap().encode().unwrap();
        let content = String::from_utf8(content).unwrap();
        let env = self.ok(json!({ "verb": "send", "content": content }))["env"].clone();
        let msg_id = crate::content::new_id().unwrap();
        let body = json!({ "conv_id": conv_id, "msg_id": msg_id, "env": env });
        self.append(relay, &body, MessageKind::Application, now_ms);
    }

    fn commit(&mut self, world: &mut World, conv_id: &str, made: &Value, welcomed: Vec<Value>) {
        let row = world.peers[0].core.store.read(|tx| conv(tx, conv_id)).unwrap();
        let epoch = made["epoch"].as_u64().unwrap();
        let info = STANDARD.decode(made["group_info"].as_str().unwrap()).unwrap();
        let id = group_id(conv_id).unwrap();
        let sealed = info::seal(&row.rejoin_key, &id, epoch, &info).unwrap();
        let welcomes = match made["welcome"].as_str() {
            Some(welcome) => json!([{ "env": welcome, "to": welcomed }]),
            None => json!([]),
        };
        let body = json!({
            "conv_id": conv_id, "msg_id": crate::content::new_id().unwrap(), "env": made["env"],
            "group_info": { "epoch": epoch, "sealed": STANDARD.encode(sealed) }, "welcomes": welcomes,
        });
        let device = Device::create(&self.user.clone().into(), world.now_ms / 1_000).unwrap();
        world.relay.commit(&device, &body, world.now_ms).unwrap();
        self.ok(json!({ "verb": "merge" }));
    }

    /// Reads the log from an entry on; gives the texts and where it goes on.
    fn read(&mut self, relay: &Relay, conv_id: &str, from: u64) -> (Vec<String>, u64) {
        let mut texts = Vec::new();
        let entries = &relay.logs[conv_id].entries;
        for entry in &entries[from as usize - 1..] {
            let got = self.ok(json!({ "verb": "process", "env": entry.env }));
            if let Some(content) = got["content"].as_str()
                && let Body::Text { text, .. } = Content::decode(content.as_bytes()).unwrap().body
            {
                texts.push(text);
            }
        }
        (texts, entries.len() as u64 + 1)
    }
}

fn now_ms() -> u64 {
    relay_client::unix_ns() / 1_000_000
}

#[test]
fn a_member_on_another_library_takes_part() {
    // The other library has no clock but the real one.
    let mut world = World::new(11, &[]);
    world.now_ms = now_ms();
    world.add_device(1);
    world.add_device(2);
    let mut dave = Foreign::new(4, world.now_ms);
    dave.hand_in(&mut world.relay);
    let room = world.room(0, &[1]);
    world.peers[0].core.invite(&room, &[dave.user()], world.now_ms).unwrap();
    world.settle();
    // Join, and both directions.
    let next = dave.join(&world.relay) + 1;
    world.say(0, &room, "welcome dave");
    world.settle();
    let (texts, _) = dave.read(&world.relay, &room, next);
    assert_eq!(texts, ["welcome dave"]);
    dave.say(&mut world.relay, &room, "hello from another library", world.now_ms);
    world.settle();
    let told = world.lines(1, &room).pop().unwrap().1;
    assert_eq!(told, MessageBody::Text { text: "hello from another library".into() });
    let line = world.peers[1].core.messages(&room, Part::Newest, 1).unwrap().items.pop().unwrap();
    assert_eq!(line.from, Some(dave.user()));
    // Their update is applied here, and leaves all in one epoch.
    let made = dave.ok(json!({ "verb": "commit" }));
    dave.commit(&mut world, &room, &made, Vec::new());
    world.settle();
    world.say(1, &room, "after the update");
    world.settle();
    let last = world.relay.logs[&room].entries.len() as u64;
    let (texts, next) = dave.read(&world.relay, &room, last);
    assert_eq!(texts, ["after the update"]);
    // A race: theirs is built and not sent before ours is in the log, so it is thrown away.
    dave.ok(json!({ "verb": "commit" }));
    let third = world.add_device(3);
    let user = world.id(third);
    world.peers[0].core.invite(&room, &[user], world.now_ms).unwrap();
    world.settle();
    world.accept_all();
    world.say(third, &room, "carol is here");
    world.settle();
    let (texts, next) = dave.read(&world.relay, &room, next);
    assert_eq!(texts, ["carol is here"]);
    // A browser of Alice's lets itself in by the published GroupInfo.
    let mut second = Foreign::new(1, world.now_ms);
    let sealed = world.relay.logs[&room].group_info.clone().unwrap();
    let row = world.peers[0].core.store.read(|tx| conv(tx, &room)).unwrap();
    let id = group_id(&room).unwrap();
    let opened =
        info::open(&row.rejoin_key, &id, sealed.0, &STANDARD.decode(sealed.1).unwrap()).unwrap();
    let made = second.ok(json!({ "verb": "external", "group_info": STANDARD.encode(opened) }));
    second.commit(&mut world, &room, &made, Vec::new());
    world.settle();
    let devices = world.peers[1].core.members(&room).unwrap();
    let alice = devices.iter().find(|member| member.user_id == second.user()).unwrap();
    assert_eq!(alice.devices, 2, "alice came in with a second device, on another library");
    second.say(&mut world.relay, &room, "from alice's browser", world.now_ms);
    world.settle();
    let (texts, _) = dave.read(&world.relay, &room, next);
    assert_eq!(texts, ["from alice's browser"]);
    world.check(&room);
    // Removed, and shut out.
    world.peers[0].core.remove(&room, vec![dave.user()], world.now_ms).unwrap();
    world.settle();
    let last = world.relay.logs[&room].entries.last().unwrap().clone();
    assert_eq!(dave.ok(json!({ "verb": "process", "env": last.env }))["active"], false);
    world.check(&room);
}

#[test]
fn a_binding_that_does_not_hold_lets_nobody_in() {
    let mut world = World::new(12, &[]);
    world.now_ms = now_ms();
    world.add_device(1);
    world.add_device(2);
    let mut mallory = Foreign::new(5, world.now_ms);
    let bob = world.id(1);
    // Mallory's key package says that it is bob's.
    let identity = mallory.identity(world.now_ms);
    let mut forged = STANDARD.decode(identity).unwrap();
    forged[4..36].copy_from_slice(bob.as_bytes());
    mallory.ok(json!({ "verb": "identity", "identity": STANDARD.encode(forged) }));
    let package = mallory.ok(json!({ "verb": "key_package" }))["package"].clone();
    let key = (bob, mallory.device_id());
    world.relay.pools.insert(key.clone(), vec![package.as_str().unwrap().to_owned(); 9]);
    let room = world.room(0, &[1]);
    let members = world.peers[0].core.members(&room).unwrap();
    let bobs = members.iter().find(|member| member.user_id == bob).unwrap();
    assert_eq!(bobs.devices, 1, "the relay handed out a device that is not bob's");
    assert!(!world.relay.inboxes.contains_key(&key));
    world.check(&room);
}
