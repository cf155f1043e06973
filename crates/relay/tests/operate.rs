//! What an operator does to a running relay: look at it, reload it, stop it in order.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use nix::sys::signal::Signal;
use support::{Relay, until, write_config};

const OPEN: &str = "[quota]\nlocks = 100\n[log]\nlevel = \"info\"\n";
const CLOSED: &str = "[node]\nid = \"other\"\n[quota]\nlocks = 5\n[log]\nlevel = \"info\"\n\
                      [[acl]]\nns = \"default\"\nwho = [\"*\"]\nallow = [\"read\"]\n";

/// The names of the settings in a member of an answer.
fn settings(answer: &serde_json::Value, member: &str) -> Vec<String> {
    let rows = answer[member].as_array().unwrap().iter();
    rows.map(|row| row["setting"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_reload_applies_what_can_change_live_and_tells_what_cannot() {
    let relay = Relay::configured(OPEN);
    relay.ok(["event", "publish", "--content", "allowed"]);
    let nothing = relay.operator(["config", "diff"]);
    assert_eq!((nothing.code(), nothing.stdout.as_str()), (0, ""), "{}", nothing.stderr);

    write_config(relay.dir.path(), CLOSED);
    let diff = relay.operator(["config", "diff", "--json"]).json();
    assert_eq!(settings(&diff, "changed"), ["acl", "quota.locks"]);
    assert_eq!(settings(&diff, "restart"), ["node.id"]);
    relay.ok(["event", "publish", "--content", "a look changes nothing"]);

    let done = relay.operator(["reload"]);
    assert_eq!(done.code(), 0, "{}", done.stderr);
    assert!(done.stdout.contains("quota.locks\t100\t5\tlive\n"), "{}", done.stdout);
    assert!(done.stdout.contains("node.id\t\"gw_local\"\t\"other\"\trestart\n"), "{}", done.stdout);
    assert!(done.stderr.contains("need a restart"), "{}", done.stderr);
    let refused = relay.run(["event", "publish", "--content", "no longer"]);
    assert_eq!(refused.code(), 4, "{}", refused.stderr);
    let quota = relay.operator(["quota", "show", "default", "--json"]).json();
    assert!(quota.to_string().contains("\"locks\":5"), "{quota}");
    assert!(relay.operator(["audit", "tail", "--json"]).stdout.contains("config.reload"));
    let status = relay.operator(["status", "--json"]).json();
    assert_eq!(status["config"], "restart_needed");

    // Back again, by signal.
    write_config(relay.dir.path(), OPEN);
    relay.signal(Signal::SIGHUP);
    until("the rules are open again", || {
        relay.run(["event", "publish", "--content", "again"]).code() == 0
    });
    assert!(relay.logged("the configuration was reloaded"));
    assert_eq!(relay.operator(["status", "--json"]).json()["config"], "ok");
}

#[test]
fn a_bad_file_changes_nothing_and_is_told_everywhere() {
    let relay = Relay::configured(OPEN);
    write_config(relay.dir.path(), "[quota]\nlocs = 1\n[[acl]]\nns = \"**\"\nwho = [\"x\"]\n");
    let refused = relay.operator(["config", "reload"]);
    assert_eq!(refused.code(), 1);
    assert!(refused.stderr.contains("unknown key 'locs'"), "{}", refused.stderr);
    assert!(refused.stderr.contains("[[acl]] neither allows nor denies"), "{}", refused.stderr);
    assert_eq!(refused.stdout, "");
    let diff = relay.operator(["config", "diff"]);
    assert_eq!(diff.code(), 1, "a look at a bad file fails too: {}", diff.stderr);
    assert!(relay.logged("unknown key 'locs'"), "the log tells it");
    let status = relay.operator(["status"]);
    assert_eq!(status.code(), 0, "the relay itself is well");
    assert!(status.stdout.contains("config=reload_failed"), "{}", status.stdout);
    let shown = relay.operator(["api", "GET", "/v1/config"]);
    assert!(shown.stdout.contains("unknown key 'locs'"), "{}", shown.stdout);
    relay.ok(["event", "publish", "--content", "as before"]);

    // The mended file is taken.
    write_config(relay.dir.path(), OPEN);
    assert_eq!(relay.operator(["reload"]).code(), 0);
    assert_eq!(relay.operator(["status", "--json"]).json()["config"], "ok");
}

#[test]
fn a_file_can_be_held_against_the_relay() {
    let relay = Relay::start();
    std::fs::write(relay.path("new.toml"), "[drain]\ntimeout = \"7s\"\n").unwrap();
    let diff = relay.operator(["config", "diff", "new.toml"]);
    assert!(
        diff.stdout.contains("drain.timeout\t\"25s\"\t\"7s\""),
        "{}{}",
        diff.stdout,
        diff.stderr
    );
}

#[test]
fn only_admins_see_and_change_the_configuration() {
    let relay = Relay::start();
    for args in [["config", "diff"], ["config", "reload"]] {
        assert_eq!(relay.run(args).code(), 4);
    }
    assert_eq!(relay.run(["reload"]).code(), 4);
    assert_eq!(relay.run(["drain", "--yes"]).code(), 4);
    assert_eq!(relay.run(["status"]).code(), 0, "how it is may everybody know");
}

#[test]
fn a_drain_stops_the_relay_in_order() {
    let mut relay = Relay::start();
    assert_eq!(relay.operator(["drain"]).code(), 2, "nobody is asked without a terminal");
    let drained = relay.operator(["drain", "--yes", "--timeout", "20s"]);
    assert_eq!(drained.code(), 0, "{}", drained.stderr);
    assert_eq!(drained.kv("status"), "draining");
    assert!(relay.ended().success());
    assert_eq!(relay.run(["status"]).code(), 7);
}
