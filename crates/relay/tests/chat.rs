//! Two people with the program and nothing else: from no key to an encrypted talk, with real processes.
#![cfg(feature = "chat")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;
use support::{Ran, Relay, base, finish, until};

/// Somebody on a machine of their own.
struct Person {
    home: tempfile::TempDir,
}

impl Person {
    fn new(relay: &Relay) -> Self {
        let person = Self { home: tempfile::tempdir().unwrap() };
        person.ok(&["keys", "gen"]);
        person.ok(&["login", &relay.url]);
        person
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = base(self.home.path());
        command.args(args).args(["--timeout", "30s"]).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        finish(self.command(args))
    }

    fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.status.code(), Some(0), "{args:?}\n{}\n{}", ran.stdout, ran.stderr);
        ran
    }

    fn key(&self) -> String {
        self.ok(&["whoami", "--json"]).json()["principal"].as_str().unwrap().to_owned()
    }

    fn items(&self, args: &[&str]) -> Vec<Value> {
        let ran = self.ok(&[args, &["--json"]].concat());
        ran.json()["items"].as_array().cloned().unwrap_or_default()
    }

    /// The words of a conversation.
    fn texts(&self, conversation: &str) -> Vec<String> {
        let items = self.items(&["chat", "history", conversation]);
        items.iter().filter_map(|item| item["text"].as_str().map(str::to_owned)).collect()
    }
}

#[test]
fn from_invitation_to_first_message() {
    let relay = Relay::start();
    let begun = Instant::now();
    let (alice, bob) = (Person::new(&relay), Person::new(&relay));
    let (alices_key, bobs_key) = (alice.key(), bob.key());
    // Bob has not opened a chat yet: the message waits, and says for whom.
    let sent = alice.ok(&["chat", "dm", &bobs_key, "hello bob", "--name", "bob", "--json"]);
    assert_eq!(sent.json()["waiting"].as_u64(), Some(2), "{}", sent.stdout);
    assert!(sent.stderr.contains("has no device at this relay yet"), "{}", sent.stderr);
    assert!(bob.items(&["chat", "ls"]).is_empty());
    // Now he has; the next command of Alice's sends it.
    until("the message left", || {
        let left = alice.items(&["chat", "ls"]);
        left[0]["waiting"] == 0
    });
    let invited = bob.items(&["chat", "ls"]);
    assert_eq!(invited[0]["state"], "invited", "{invited:?}");
    assert_eq!(invited[0]["by"].as_str(), Some(&*alices_key));
    let conv = invited[0]["conv_id"].as_str().unwrap().to_owned();
    bob.ok(&["chat", "name", &alices_key, "alice"]);
    bob.ok(&["chat", "accept", &conv]);
    assert_eq!(bob.texts("alice"), ["hello bob"]);
    let first_message = begun.elapsed();
    bob.ok(&["chat", "send", "alice", "hello alice"]);
    assert_eq!(alice.texts("bob"), ["hello bob", "hello alice"]);
    assert!(first_message < Duration::from_secs(120), "{first_message:?}");

    // Both see the same safety number, and may say so.
    let number = |person: &Person, name: &str| {
        person.ok(&["chat", "verify", name, "--json"]).json()["digits"].clone()
    };
    assert_eq!(number(&alice, "bob"), number(&bob, "alice"));
    assert_eq!(alice.ok(&["chat", "verify", "bob", "--ok", "--json"]).json()["verified"], true);

    // A file goes and comes back byte for byte, under the name that it had.
    let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(alice.home.path().join("plan.bin"), &content).unwrap();
    let sent = alice.ok(&["chat", "file", "bob", "plan.bin", "--json"]);
    let seq = sent.json()["latest_seq"].to_string();
    bob.ok(&["chat", "save", "alice", &seq]);
    assert_eq!(std::fs::read(bob.home.path().join("plan.bin")).unwrap(), content);
    assert_eq!(bob.run(&["chat", "save", "alice", &seq]).code(), 1, "never over a file");

    // What the relay keeps tells nothing of it.
    assert_secret(relay.dir.path(), &["hello bob", "hello alice", "plan.bin"]);
    assert_secret(&bob.home.path().join("state"), &["hello bob", "alice", &conv]);

    // Errors say what to do.
    let nobody = alice.run(&["chat", "send", "carol", "?"]);
    assert_eq!(nobody.code(), 3);
    assert!(nobody.stderr.contains("relay chat ls"), "{}", nobody.stderr);
    let found = bob.ok(&["chat", "search", "HELLO", "--json"]).json();
    assert_eq!(found["items"].as_array().unwrap().len(), 2);
}

#[test]
fn a_link_is_enough_to_meet() {
    let relay = Relay::start();
    let (alice, bob) = (Person::new(&relay), Person::new(&relay));
    let link = bob.ok(&["chat", "link", "--as", "bob"]).stdout.trim().to_owned();
    assert!(link.starts_with("relay-chat-v1.") && !link.contains(char::is_whitespace), "{link}");
    alice.ok(&["chat", "meet", &link, "hello bob"]);
    let invited = bob.items(&["chat", "ls"]);
    assert_eq!(invited[0]["state"], "invited", "{invited:?}");
    let conv = invited[0]["conv_id"].as_str().unwrap();
    bob.ok(&["chat", "accept", conv]);
    bob.ok(&["chat", "send", conv, "hello alice"]);
    assert_eq!(alice.texts("bob"), ["hello bob", "hello alice"]);
    let bad = alice.run(&["chat", "meet", "relay-join-v1.e30"]);
    assert_eq!(bad.code(), 2);
    assert!(bad.stderr.contains("relay chat link"), "{}", bad.stderr);
}

#[test]
fn an_invite_is_the_address_and_the_key_of_a_relay_in_one_line() {
    let relay = Relay::start();
    let code = relay.operator(["invite"]);
    assert_eq!((code.code(), code.stdout.lines().count()), (0, 1), "{}", code.stderr);
    let bob = Person { home: tempfile::tempdir().unwrap() };
    bob.ok(&["keys", "gen"]);
    let file = bob.home.path().join("invite");
    let login = ["login", "--invite-file", file.to_str().unwrap()];
    let write = |code: &str| {
        std::fs::write(&file, code).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    // On a command line others would see it.
    let seen = bob.run(&["login", code.stdout.trim()]);
    assert_eq!(seen.code(), 2, "{}", seen.stderr);
    assert!(seen.stderr.contains("--invite-file"), "{}", seen.stderr);
    // Another relay that answers under this address is not the one that invited.
    let other = Relay::start();
    let body = code.stdout.trim().strip_prefix("relay-join-v1.").unwrap();
    let mut content: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap();
    assert_eq!(content["url"], relay.url.as_str(), "by the socket it names the address for others");
    content["url"] = other.url.as_str().into();
    write(&format!("relay-join-v1.{}", URL_SAFE_NO_PAD.encode(content.to_string())));
    let wrong = bob.run(&login);
    assert_eq!(wrong.code(), 4, "{}", wrong.stderr);
    assert!(wrong.stderr.contains("has another key than the join code says"), "{}", wrong.stderr);
    write("hello");
    assert_eq!(bob.run(&login).code(), 2);
    assert_eq!(bob.run(&["chat", "ls"]).code(), 2, "nothing of this was taken");
    write(&code.stdout);
    bob.ok(&login);
    assert_eq!(bob.ok(&["chat", "ls", "--json"]).json()["items"], serde_json::json!([]));
}

#[test]
fn who_is_banned_stays_out() {
    let relay = Relay::start();
    let (alice, bob, carol) = (Person::new(&relay), Person::new(&relay), Person::new(&relay));
    for person in [&bob, &carol] {
        person.ok(&["chat", "ls"]);
    }
    alice.ok(&["chat", "name", &bob.key(), "bob"]);
    alice.ok(&["chat", "name", &carol.key(), "carol"]);
    alice.ok(&["chat", "new", "ops", "bob", "carol"]);
    let room = bob.items(&["chat", "ls"])[0]["conv_id"].as_str().unwrap().to_owned();
    for person in [&bob, &carol] {
        person.ok(&["chat", "ls"]);
        person.ok(&["chat", "accept", &room]);
    }
    alice.ok(&["chat", "promote", "#ops", "bob"]);
    alice.ok(&["chat", "ban", "#ops", "carol", "--yes"]);
    assert_eq!(alice.items(&["chat", "ban", "#ops"])[0]["name"], "carol");
    until("carol is out", || carol.items(&["chat", "ls"]).is_empty());
    until("bob sees it", || bob.items(&["chat", "members", &room]).len() == 2);
    // Not even another admin brings her back.
    bob.ok(&["chat", "name", &carol.key(), "carol"]);
    let refused = bob.run(&["chat", "invite", &room, "carol"]);
    assert_ne!(refused.code(), 0, "{}", refused.stdout);
    assert!(refused.stderr.contains("banned"), "{}", refused.stderr);
    alice.ok(&["chat", "unban", "#ops", "carol"]);
    assert!(alice.items(&["chat", "ban", "#ops"]).is_empty());
    alice.ok(&["chat", "invite", "#ops", "carol"]);
    until("carol is invited again", || carol.items(&["chat", "ls"])[0]["state"] == "invited");
}

#[test]
fn a_bot_answers_and_a_line_view_talks() {
    let relay = Relay::start();
    let (alice, bot) = (Person::new(&relay), Person::new(&relay));
    let mut bot_process =
        Interactive::start(bot.command(&["chat", "tail", "--json", "--commands"]));
    bot_process.read_until(|event| event["connection"]["state"] == "online");
    alice.ok(&["chat", "dm", &bot.key(), "ping", "--name", "bot"]);
    let invited = bot_process.read_until(|event| event["event"] == "invited");
    let conv = invited["conv_id"].as_str().unwrap().to_owned();
    bot_process.write(&format!(r#"{{"conv_id":"{conv}","accept":true}}"#));
    let heard = bot_process.read_until(|event| event["message"]["text"] == "ping");
    let seq = &heard["message"]["seq"];
    bot_process
        .write(&format!(r#"{{"conv_id":"{conv}","text":"pong","reply_to":{seq},"read":{seq}}}"#));
    // A second program on the same profile says who has it, and changes nothing.
    let second = bot.run(&["chat", "ls"]);
    assert_eq!(second.code(), 5, "{}", second.stderr);
    assert!(second.stderr.contains("open in process"), "{}", second.stderr);

    let mut talk = Interactive::start(alice.command(&["chat", "open", "bot"]));
    talk.line_with("me: ping");
    talk.line_with("pong");
    talk.write("/nonsense");
    talk.write("are you there?");
    bot_process.read_until(|event| event["message"]["text"] == "are you there?");
    talk.write("/quit");
    talk.ends();
    drop(bot_process);
    assert_eq!(alice.texts("bot"), ["ping", "pong", "are you there?"]);
}

#[test]
fn a_second_device_and_a_lost_one() {
    let relay = Relay::start();
    let (alice, bob) = (Person::new(&relay), Person::new(&relay));
    bob.ok(&["chat", "ls"]);
    alice.ok(&["chat", "dm", &bob.key(), "first", "--name", "bob"]);
    let conv = bob.items(&["chat", "ls"])[0]["conv_id"].as_str().unwrap().to_owned();
    bob.ok(&["chat", "accept", &conv]);
    // The same key on another machine.
    let begun = Instant::now();
    let phone = Person { home: tempfile::tempdir().unwrap() };
    copy_key(alice.home.path(), phone.home.path());
    phone.ok(&["login", &relay.url]);
    phone.ok(&["chat", "ls"]);
    alice.ok(&["device", "link"]);
    let devices = alice.items(&["device", "ls"]);
    assert_eq!(devices.len(), 2, "{devices:?}");
    phone.ok(&["chat", "send", &conv, "from my phone"]);
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert_eq!(bob.texts(&conv), ["first", "from my phone"]);
    // Everything is lost but the key.
    let new = Person { home: tempfile::tempdir().unwrap() };
    copy_key(alice.home.path(), new.home.path());
    drop((alice, phone));
    new.ok(&["login", &relay.url]);
    let back = new.ok(&["device", "recover", "--others-lost", "--yes", "--json"]).json();
    assert_eq!(back["conversations"], 1, "{back}");
    new.ok(&["chat", "send", &conv, "I am back"]);
    bob.ok(&["chat", "send", &conv, "good"]);
    assert_eq!(new.texts(&conv), ["I am back", "good"]);
    let members = bob.items(&["chat", "members", &conv]);
    assert!(members.iter().all(|member| member["devices"] == 1), "{members:?}");
}

#[test]
fn a_passphrase_protects_what_is_stored() {
    let relay = Relay::start();
    let alice = Person::new(&relay);
    alice.ok(&["chat", "ls"]);
    let file = |name: &str, text: &str| {
        let path = alice.home.path().join(name);
        relay_client::keys::write_secret(&path, text.as_bytes()).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (file("right", "correct horse"), file("wrong", "battery staple"));
    alice.ok(&["chat", "passphrase", "--new-passphrase-file", &right]);
    let none = alice.run(&["chat", "ls"]);
    assert_eq!(none.code(), 2, "{}", none.stderr);
    assert!(none.stderr.contains("--passphrase-file"), "{}", none.stderr);
    let bad = alice.run(&["chat", "ls", "--passphrase-file", &wrong]);
    assert_eq!(bad.code(), 4, "{}", bad.stderr);
    assert!(bad.stderr.contains("passphrase is wrong"), "{}", bad.stderr);
    alice.ok(&["chat", "ls", "--passphrase-file", &right]);
}

#[test]
fn a_keyring_opens_what_is_stored() {
    let relay = Relay::start();
    let alice = Person::new(&relay);
    alice.ok(&["chat", "ls"]);
    let state = alice.home.path().join("state/relay/chat");
    let has = |extension: &str| {
        let files = std::fs::read_dir(&state).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|other| other == extension)).count()
    };
    // A keyring of the same habits as the desktop's: one file for each name, silence and 1 where there is none.
    let tool = |script: &str| {
        let path = alice.home.path().join("bin/secret-tool");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    };
    let run = |args: &[&str]| {
        let mut command = base(alice.home.path());
        command.args(args).stdin(Stdio::null());
        let path = format!("{}/bin:/usr/bin:/bin", alice.home.path().display());
        command.env("PATH", path);
        finish(command)
    };
    const KEYRING: &str = "for name; do :; done
case $1 in
  store) cat >\"$HOME/kept-$name\" ;;
  lookup) test -e \"$HOME/kept-$name\" && cat \"$HOME/kept-$name\" ;;
  clear) rm \"$HOME/kept-$name\" ;;
esac";
    let none = alice.run(&["chat", "passphrase", "--keyring"]);
    if none.code() != 0 {
        assert!(
            none.stderr.contains("secret-tool") || none.stderr.contains("keyring"),
            "{}",
            none.stderr
        );
    }
    tool(KEYRING);
    let done = run(&["chat", "passphrase", "--keyring"]);
    assert_eq!(done.code(), 0, "{}", done.stderr);
    assert_eq!((has("key"), has("keyring")), (0, 1), "the key is in the keyring alone");
    assert_eq!(run(&["chat", "ls"]).code(), 0);
    // Locked, it waits for its user.
    tool("exec sleep 60");
    let locked = run(&["chat", "ls", "--timeout", "1s"]);
    assert_eq!(locked.code(), 4, "{}", locked.stderr);
    assert!(
        locked.stderr.contains("locked") && locked.stderr.contains("unlock it"),
        "{}",
        locked.stderr
    );
    // Without a desktop, nobody answers.
    tool("echo 'Cannot autolaunch D-Bus without X11 $DISPLAY' >&2; exit 1");
    let alone = run(&["chat", "ls"]);
    assert_eq!(alone.code(), 4, "{}", alone.stderr);
    assert!(alone.stderr.contains("log in there and unlock it"), "{}", alone.stderr);
    tool("exit 1");
    let lost = run(&["chat", "ls"]);
    assert_eq!(lost.code(), 4, "{}", lost.stderr);
    assert!(lost.stderr.contains("no key for your chats"), "{}", lost.stderr);
    // Back to a key file.
    tool(KEYRING);
    let back = run(&["chat", "passphrase", "--none"]);
    assert_eq!(back.code(), 0, "{}", back.stderr);
    assert_eq!((has("key"), has("keyring")), (1, 0));
    alice.ok(&["chat", "ls"]);
}

/// A process whose lines are read and written.
struct Interactive {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Interactive {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (send, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(support::PATIENCE).unwrap()
    }

    fn read_until(&self, holds: impl Fn(&Value) -> bool) -> Value {
        loop {
            let event: Value = serde_json::from_str(&self.next()).unwrap();
            if holds(&event) {
                return event;
            }
        }
    }

    fn line_with(&self, text: &str) {
        while !self.next().contains(text) {}
    }

    fn write(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn ends(&mut self) {
        assert!(support::ended(&mut self.child).success());
    }
}

impl Drop for Interactive {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn copy_key(from: &Path, to: &Path) {
    let keys = to.join("config/relay/keys");
    std::fs::create_dir_all(&keys).unwrap();
    std::fs::copy(from.join("config/relay/keys/default"), keys.join("default")).unwrap();
}

/// None of these words stands in any file below this folder.
fn assert_secret(dir: &Path, words: &[&str]) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_secret(&path, words);
        } else if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            for word in words {
                let found = bytes.windows(word.len()).any(|window| window == word.as_bytes());
                assert!(!found, "{word} in {}", path.display());
            }
        }
    }
}
