//! `--key agent:` with OpenSSH's own agent.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use support::{Ran, Relay, until};

/// An ssh-agent of the test's own.
struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    fn start(dir: &Path) -> Self {
        let socket = dir.join("agent.sock");
        let child = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("the agent listens", || socket.exists());
        Self { child, socket }
    }

    /// Makes a key, gives it to the agent, and removes the file.
    fn add(&self, dir: &Path, kind: &str, comment: &str) {
        let file = dir.join(comment);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-N", "", "-t", kind, "-C", comment, "-f"])
            .arg(&file)
            .status()
            .unwrap();
        assert!(made.success());
        let added = Command::new("ssh-add")
            .arg(&file)
            .env("SSH_AUTH_SOCK", &self.socket)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(added.success());
        std::fs::remove_file(&file).unwrap();
    }

    fn run(&self, relay: &Relay, args: &[&str]) -> Ran {
        let mut command = relay.command(args);
        command.env("SSH_AUTH_SOCK", &self.socket);
        support::finish(command)
    }

    fn ok(&self, relay: &Relay, args: &[&str]) -> Ran {
        let ran = self.run(relay, args);
        assert_eq!(ran.code(), 0, "{args:?}: {}", ran.stderr);
        ran
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_agent_signs_events_requests_and_challenges() {
    let relay = Relay::start();
    let agent = Agent::start(relay.dir.path());
    agent.add(relay.dir.path(), "ecdsa", "other-kind");
    agent.add(relay.dir.path(), "ed25519", "mine");
    let who = agent.ok(&relay, &["keys", "show", "agent:"]).kv("key");
    assert!(who.starts_with("ed25519:"), "{who}");

    // Events, in both forms of signature; the relay verifies each before it stores it.
    for more in [&[][..], &["--sshsig"][..]] {
        let publish = ["event", "publish", "--content", "by agent", "--key", "agent:"];
        let id = agent.ok(&relay, &[&publish[..], more].concat()).stdout;
        let event = relay.ok(["event", "get", id.trim(), "--json"]).json();
        assert_eq!(event["pubkey"], who.as_str());
        assert_eq!(event["sig"].as_str().unwrap().starts_with("-----BEGIN SSH"), !more.is_empty());
    }
    // A signed request: a lock belongs to a key.
    let lock = agent.ok(&relay, &["lock", "acquire", "db/main", "--key", "agent:mine", "--json"]);
    assert_eq!(lock.json()["owner"], who.as_str());
    // A challenge: a session, remembered with the agent as its key.
    agent.ok(&relay, &["login", "--name", "home", "--key", &format!("agent:{who}")]);
    let shown = agent.ok(&relay, &["whoami", "--context", "home", "--json"]).json();
    assert_eq!((&shown["key"], &shown["via"]), (&who.as_str().into(), &"session".into()));
    agent.ok(&relay, &["event", "publish", "--content", "again", "--context", "home"]);
}

#[test]
fn what_an_agent_cannot_do_is_told() {
    let relay = Relay::start();
    let agent = Agent::start(relay.dir.path());
    let publish = ["event", "publish", "--content", "x", "--key"];
    let with = |key: &'static str| agent.run(&relay, &[&publish[..], &[key]].concat());
    let none = with("agent:");
    assert_eq!(none.code(), 2);
    assert!(none.stderr.contains("holds no Ed25519 key"), "{}", none.stderr);
    agent.add(relay.dir.path(), "ed25519", "one");
    agent.add(relay.dir.path(), "ed25519", "two");
    let several = with("agent:");
    assert_eq!(several.code(), 2);
    assert!(several.stderr.contains("(one)") && several.stderr.contains("(two)"));
    assert_eq!(with("agent:two").code(), 0);
    assert_eq!(with("agent:three").code(), 2);
    let away = agent.run(&relay, &["keys", "export", "agent:one"]);
    assert_eq!(away.code(), 2, "{}", away.stderr);
    assert!(away.stderr.contains("does not give keys away") || away.stderr.contains("not give"));
    // No agent at all.
    let mut command = relay.command([&publish[..], &["agent:"]].concat());
    command.env_remove("SSH_AUTH_SOCK");
    let alone = support::finish(command);
    assert!(alone.code() == 2 && alone.stderr.contains("SSH_AUTH_SOCK"), "{}", alone.stderr);
}
