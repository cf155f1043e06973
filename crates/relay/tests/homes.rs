//! A namespace's home and an edge relay before it, as commands see them: `relay status`, and `relay lock run` with the
//! lock at the home and its holder at the edge.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    os::unix::fs::PermissionsExt,
    process::{Child, Stdio},
};

use serde_json::Value;
use support::{Ran, Relay, drain, ended, until};

/// A hub that is the home of `far`, and a spoke through which it is asked.
struct Pair {
    home: Relay,
    edge: Relay,
    _key: tempfile::TempDir,
}

impl Pair {
    fn start() -> Self {
        let key = tempfile::tempdir().unwrap();
        let psk = key.path().join("psk");
        std::fs::write(&psk, "a key shared by a hub and its spokes").unwrap();
        std::fs::set_permissions(&psk, std::fs::Permissions::from_mode(0o600)).unwrap();
        let open = "[[acl]]\nns = \"**\"\nwho = [\"*\"]\nallow = [\"read\", \"write\", \"lock\"]\n";
        let home = Relay::configured(&format!(
            "[node]\nid = \"home-b\"\n[hub]\npsk_file = {psk:?}\n{open}"
        ));
        let hub = home.url.replace("http://", "ws://");
        let edge = Relay::configured(&format!(
            "[node]\nid = \"edge-a\"\n[federation]\nconnect = \"{hub}\"\npsk_file = {psk:?}\n{open}\
             [[namespace]]\nmatch = \"far/**\"\nhome = \"home-b\"\n"
        ));
        let pair = Self { home, edge, _key: key };
        pair.linked();
        pair
    }

    fn linked(&self) {
        until("the edge is linked", || status(&self.edge)["federation"]["is_attached"] == true);
    }

    /// What the home says of the lock, asked there.
    fn lock(&self) -> Value {
        self.home.ok(["lock", "inspect", "db", "--ns", "far/x", "--json"]).json()
    }

    /// A `lock run` at the edge whose output can be read.
    fn holder(&self, more: &[&str], script: &str) -> Child {
        let args = ["lock", "run", "db", "--ns", "far/x"].iter().chain(more);
        let mut command = self.edge.command(args.chain(&["--", "sh", "-c", script]));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

fn status(relay: &Relay) -> Value {
    relay.run(["status", "--json"]).json()
}

/// A command that says that it runs, waits for a word, and ends with 3.
const WAITS: &str =
    "echo $RELAY_FENCING_TOKEN > token; while [ ! -e go ]; do sleep 0.05; done; echo done; exit 3";

fn runs(pair: &Pair) -> bool {
    std::fs::read_to_string(pair.edge.path("token")).is_ok_and(|token| token.ends_with('\n'))
}

#[test]
fn status_tells_the_home_from_its_edge_and_how_they_are_linked() {
    let mut pair = Pair::start();
    let at_home = pair.home.ok(["status"]);
    for (name, value) in
        [("status", "ok"), ("relay_id", "home-b"), ("node_type", "main"), ("spokes", "1")]
    {
        assert_eq!(at_home.kv(name), value, "{}", at_home.stdout);
    }
    let at_edge = pair.edge.ok(["status"]);
    for (name, value) in [("status", "ok"), ("relay_id", "edge-a"), ("node_type", "home")] {
        assert_eq!(at_edge.kv(name), value, "{}", at_edge.stdout);
    }
    assert!(at_edge.kv("link").starts_with("linked to home-b"), "{}", at_edge.stdout);
    let as_json = status(&pair.edge);
    assert_eq!(as_json["federation"]["hub"], "home-b", "{as_json}");
    // Without its hub an edge is there all the same, and says what is missing.
    pair.home.stop();
    until("the link is gone", || status(&pair.edge)["federation"]["is_attached"] == false);
    let alone = pair.edge.ok(["status"]);
    assert!(alone.kv("link").starts_with("none: "), "{}", alone.stdout);
    assert_eq!(pair.home.run(["status"]).code(), 7);
    let refused = publish(&pair.edge);
    assert_eq!(refused.code(), 7, "{}", refused.stderr);
    assert!(refused.stderr.contains("home_unreachable"), "{}", refused.stderr);
    pair.home.start_again_there();
    pair.linked();
    assert!(pair.edge.ok(["status"]).kv("link").starts_with("linked to home-b"));
    assert_eq!(publish(&pair.edge).code(), 0);
    assert_eq!(pair.home.ok(["event", "count", "--ns", "far/x"]).stdout, "1\n");
}

fn publish(relay: &Relay) -> Ran {
    relay.run(["event", "publish", "--ns", "far/x", "--kind", "1", "--content", "hello"])
}

#[test]
fn a_lock_of_another_home_is_held_while_the_command_runs() {
    let pair = Pair::start();
    let mut holder = pair.holder(&[], WAITS);
    until("it runs", || runs(&pair));
    let held = pair.lock();
    let token = std::fs::read_to_string(pair.edge.path("token")).unwrap();
    assert_eq!(
        (&held["held"], held["fencing_token"].to_string().as_str()),
        (&true.into(), token.trim())
    );
    // Nobody else gets it, by either relay.
    for relay in [&pair.edge, &pair.home] {
        relay.ok(["keys", "gen", "other"]);
        let other = relay.path("config/relay/keys/other").display().to_string();
        let args = ["lock", "run", "db", "--ns", "far/x", "--key", &other, "--wait"];
        let refused = relay.run(args.iter().chain(&["300ms", "--", "true"]));
        assert_eq!(refused.code(), 124, "{}", refused.stderr);
    }
    std::fs::write(pair.edge.path("go"), "").unwrap();
    assert_eq!(ended(&mut holder).code(), Some(3));
    assert_eq!(drain(holder.stdout.take()), "done\n");
    assert_eq!(pair.lock()["held"], false, "it was given back");
}

#[test]
fn a_holder_goes_on_when_the_home_is_restarted() {
    let mut pair = Pair::start();
    let mut holder = pair.holder(&["--lease", "12s", "--grace", "2s"], WAITS);
    until("it runs", || runs(&pair));
    let before = pair.lock();
    pair.home.stop();
    pair.home.start_again_there();
    pair.linked();
    // Still the same lease, and renewed once more.
    let ends = |state: &Value| state["lease_expires_at_ns"].to_string();
    until("it is renewed", || ends(&pair.lock()) != ends(&before));
    assert_eq!(pair.lock()["fencing_token"], before["fencing_token"]);
    std::fs::write(pair.edge.path("go"), "").unwrap();
    assert_eq!(ended(&mut holder).code(), Some(3));
    let stderr = drain(holder.stderr.take());
    assert!(!stderr.contains("lease lost"), "{stderr}");
    until("it is given back", || pair.lock()["held"] == false);
}

#[test]
fn a_home_that_stays_away_ends_the_command() {
    let mut pair = Pair::start();
    let mut holder = pair.holder(&["--lease", "3s", "--grace", "500ms"], WAITS);
    until("it runs", || runs(&pair));
    pair.home.stop();
    assert_eq!(ended(&mut holder).code(), Some(121));
    let stderr = drain(holder.stderr.take());
    assert!(stderr.contains("lease lost"), "{stderr}");
    // A wrapper that cannot ask for the lock at all says so.
    let args = ["lock", "run", "db", "--ns", "far/x", "--", "true"];
    assert_eq!(pair.edge.run(args).code(), 125);
}
