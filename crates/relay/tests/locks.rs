//! `relay lock`, and `lock run` with everything that it promises, against a real relay.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    os::unix::process::ExitStatusExt,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use support::{Relay, drain, ended, until};

/// A `lock run` whose output can be read.
fn start(relay: &Relay, args: &[&str]) -> Child {
    let mut command = relay.command(["lock", "run"].iter().chain(args));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(pid: u32, name: &str) {
    let sent = std::process::Command::new("kill").args([name, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

fn alive(pid: &str) -> bool {
    // A process that ended and was not yet waited for by its new parent is gone for us.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn read(relay: &Relay, name: &str) -> String {
    std::fs::read_to_string(relay.path(name)).unwrap_or_default()
}

/// Makes a second person: a key whose path is given to commands.
fn somebody_else(relay: &Relay) -> String {
    relay.ok(["keys", "gen", "other"]);
    relay.path("config/relay/keys/other").display().to_string()
}

#[test]
fn a_lock_is_taken_renewed_shown_and_given_back() {
    let relay = Relay::start();
    let taken = relay.ok(["lock", "acquire", "db/main", "--lease", "1m", "--meta", "host=a"]);
    let token = taken.kv("fencing_token");
    assert_eq!(
        (taken.kv("resource").as_str(), taken.kv("lease_ms").as_str()),
        ("db/main", "60000")
    );
    let state = relay.ok(["lock", "inspect", "db/main", "--json"]).json();
    assert_eq!((&state["held"], &state["meta"]["host"]), (&true.into(), &"a".into()));
    assert!(relay.ok(["lock", "ls"]).stdout.starts_with("db/main\t"));
    let renewed =
        relay.ok(["lock", "renew", "db/main", "--fencing-token", &token, "--lease", "2m"]);
    assert_eq!(renewed.kv("lease_ms"), "120000");
    let released = relay.ok(["lock", "release", "db/main", "--fencing-token", &token]);
    assert_eq!(released.kv("status"), "released");
    assert_eq!(relay.run(["lock", "inspect", "db/main", "--require-held"]).code(), 3);
    let history = relay.ok(["lock", "history", "db/main", "--json"]).json();
    assert!(history["items"].as_array().unwrap().len() >= 2, "{history}");
}

#[test]
fn a_held_lock_is_exit_5_and_an_old_token_exit_6() {
    let relay = Relay::start();
    let other = somebody_else(&relay);
    let token = relay.ok(["lock", "acquire", "db", "--lease", "1m"]).kv("fencing_token");
    let refused = relay.run(["lock", "acquire", "db", "--key", &other]);
    assert_eq!(refused.code(), 5);
    for part in [
        "lock db is held by ed25519:",
        "taken    ",
        " ago (",
        ", lease ends in ",
        &format!(", token {token}"),
        "lock_held",
        "relay lock acquire db --wait",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    relay.ok(["lock", "release", "db", "--fencing-token", &token]);
    relay.ok(["lock", "acquire", "db", "--key", &other]);
    assert_eq!(relay.run(["lock", "renew", "db", "--fencing-token", &token]).code(), 6);
    let fenced = relay.run([
        "event",
        "publish",
        "--kind",
        "30001",
        "--d",
        "x",
        "--fence",
        "db",
        "--fencing-token",
        &token,
    ]);
    assert_eq!(fenced.code(), 6, "{}", fenced.stderr);
    assert_eq!(relay.ok(["event", "count"]).stdout, "0\n");
}

#[test]
fn run_passes_everything_through_and_gives_the_lock_back() {
    let relay = Relay::start();
    let script = "echo out; echo err >&2; echo $RELAY_FENCING_TOKEN $RELAY_LOCK_RESOURCE \
                  $RELAY_LOCK_NS $RELAY_LOCK_OWNER $RELAY_LOCK_EXPIRES_AT_NS $RELAY_URL $RELAY_NS; exit 7";
    let ran = relay.run(["lock", "run", "db/main", "--", "sh", "-c", script]);
    assert_eq!(ran.code(), 7, "{}", ran.stderr);
    assert_eq!(ran.stderr, "err\n");
    let words: Vec<_> = ran.stdout.split_whitespace().collect();
    let key = relay.ok(["keys", "show"]).kv("key");
    assert_eq!(
        (words[0], words[2], words[3], words[4]),
        ("out", "db/main", "default", key.as_str())
    );
    assert!(words[1].parse::<u64>().unwrap() > 0 && words[5].len() == 19);
    assert_eq!((words[6], words[7]), (relay.url.as_str(), "default"));
    assert_eq!(relay.run(["lock", "inspect", "db/main", "--require-held"]).code(), 3);
}

#[test]
fn run_exits_as_its_command_does() {
    let relay = Relay::start();
    let code = |args: &[&str]| relay.run(["lock", "run", "db"].iter().chain(args)).code();
    assert_eq!(code(&["--", "true"]), 0);
    assert_eq!(code(&["--", "sh", "-c", "kill -9 $$"]), 137);
    assert_eq!(code(&["--", "no-such-command-here"]), 127);
    std::fs::write(relay.path("text"), "no program").unwrap();
    assert_eq!(code(&["--", "./text"]), 126);
    assert_eq!(code(&["--grace", "20s", "--", "true"]), 2);
    assert_eq!(code(&["--lease", "2h", "--", "true"]), 2);
    assert_eq!(code(&["--url", "http://127.0.0.1:1", "--", "true"]), 125);
}

#[test]
fn run_waits_or_says_that_it_did_not_get_it() {
    let relay = Relay::start();
    let other = somebody_else(&relay);
    let token =
        relay.ok(["lock", "acquire", "db", "--lease", "1m", "--key", &other]).kv("fencing_token");
    assert_eq!(relay.run(["lock", "run", "db", "--", "true"]).code(), 124);
    assert_eq!(relay.run(["lock", "run", "db", "--wait", "300ms", "--", "true"]).code(), 124);
    assert_eq!(
        relay.run(["lock", "run", "db", "--conflict-exit-code", "0", "--", "true"]).code(),
        0
    );
    let mut waiting = start(&relay, &["db", "--wait", "forever", "--", "echo", "mine"]);
    until("it queues", || relay.ok(["lock", "inspect", "db", "--json"]).json()["waiting"] == 1);
    relay.ok(["lock", "release", "db", "--fencing-token", &token, "--key", &other]);
    assert!(ended(&mut waiting).success());
    assert_eq!(drain(waiting.stdout.take()), "mine\n");
}

#[test]
fn a_signal_while_waiting_leaves_the_queue() {
    let relay = Relay::start();
    let other = somebody_else(&relay);
    let token =
        relay.ok(["lock", "acquire", "db", "--lease", "1m", "--key", &other]).kv("fencing_token");
    let mut waiting = start(&relay, &["db", "--wait", "forever", "--", "touch", "ran"]);
    let queued = || relay.ok(["lock", "inspect", "db", "--json"]).json()["waiting"] == 1;
    until("it queues", queued);
    signal(waiting.id(), "-TERM");
    assert_eq!(ended(&mut waiting).code(), Some(143));
    // Who is gone is skipped: the lock is free, and the next one has it at once.
    relay.ok(["lock", "release", "db", "--fencing-token", &token, "--key", &other]);
    assert_eq!(relay.run(["lock", "run", "db", "--", "true"]).code(), 0);
    assert!(!relay.path("ran").exists());
}

#[test]
fn signals_reach_the_command() {
    let relay = Relay::start();
    let script = "trap 'echo told; exit 9' TERM; echo ready > ready; while :; do sleep 0.05; done";
    let mut child = start(&relay, &["db", "--", "sh", "-c", script]);
    until("the command runs", || read(&relay, "ready").contains("ready"));
    signal(child.id(), "-TERM");
    assert_eq!(ended(&mut child).code(), Some(9));
    assert_eq!(drain(child.stdout.take()), "told\n");
}

#[test]
fn the_lock_is_renewed_for_as_long_as_the_command_runs() {
    let relay = Relay::start();
    let script = "sleep 2.5; echo done";
    let ran = relay.run(["lock", "run", "db", "--lease", "600ms", "--", "sh", "-c", script]);
    assert_eq!((ran.code(), ran.stdout.as_str()), (0, "done\n"), "{}", ran.stderr);
}

#[test]
fn a_lost_lock_ends_the_command_and_all_that_it_started() {
    let relay = Relay::start();
    let token = "$RELAY_FENCING_TOKEN";
    // The command gives its own lock away: the next renewal is refused. It ignores SIGTERM.
    let script = format!(
        "trap '' TERM; sleep 1000 & echo $! > grandchild; \
         {} lock release db --fencing-token {token} > released; while :; do sleep 0.05; done",
        support::RELAY
    );
    let begun = Instant::now();
    let args = ["db", "--lease", "3s", "--grace", "500ms", "--", "sh", "-c", &script];
    let mut child = start(&relay, &args);
    let status = ended(&mut child);
    let stderr = drain(child.stderr.take());
    assert_eq!(status.code(), Some(121), "{stderr}");
    assert!(stderr.contains("lease lost"), "{stderr}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    let grandchild = read(&relay, "grandchild");
    until("nothing of it is left", || !alive(grandchild.trim()));
}

#[test]
fn with_no_kill_the_command_goes_on() {
    let relay = Relay::start();
    let script = format!(
        "{} lock release db --fencing-token $RELAY_FENCING_TOKEN > released; sleep 1.5; echo finished; exit 3",
        support::RELAY
    );
    let ran =
        relay.run(["lock", "run", "db", "--lease", "1s", "--no-kill", "--", "sh", "-c", &script]);
    assert_eq!((ran.code(), ran.stdout.as_str()), (3, "finished\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("lease lost"), "{}", ran.stderr);
}

#[test]
fn when_the_wrapper_is_killed_the_kernel_kills_the_command() {
    let relay = Relay::start();
    let script = "echo $$ > pid; while :; do sleep 0.05; done";
    let mut child = start(&relay, &["db", "--lease", "3s", "--", "sh", "-c", script]);
    until("the command runs", || read(&relay, "pid").ends_with('\n'));
    let pid = read(&relay, "pid");
    assert!(alive(pid.trim()));
    child.kill().unwrap();
    assert_eq!(ended(&mut child).signal(), Some(9));
    until("the command dies with it", || !alive(pid.trim()));
}

/// The story of the fenced pointer: a holder is stopped, another takes over, the first one's write
/// comes too late.
#[test]
fn a_stopped_holder_cannot_move_the_pointer_any_more() {
    let relay = Relay::start();
    let other = somebody_else(&relay);
    let publish = format!(
        "{} event publish --kind 30001 --d site/prod --fence site/prod --content",
        support::RELAY
    );
    // The command notes its token, waits for a word, and only then writes.
    let script = format!(
        "echo $RELAY_FENCING_TOKEN > token; while [ ! -e go ]; do sleep 0.05; done; {publish} old; echo $? > outcome"
    );
    let args = ["site/prod", "--lease", "1s", "--no-kill", "--", "sh", "-c", &script];
    let mut holder = start(&relay, &args);
    until("it holds the lock", || read(&relay, "token").ends_with('\n'));
    signal(holder.id(), "-STOP");
    let new = format!("{publish} new");
    let taken = relay.run([
        "lock",
        "run",
        "site/prod",
        "--wait",
        "30s",
        "--key",
        &other,
        "--",
        "sh",
        "-c",
        &new,
    ]);
    assert_eq!(taken.code(), 0, "{}", taken.stderr);
    std::fs::write(relay.path("go"), "").unwrap();
    until("the stale write was tried", || read(&relay, "outcome").ends_with('\n'));
    assert_eq!(read(&relay, "outcome").trim(), "6", "fenced");
    signal(holder.id(), "-CONT");
    ended(&mut holder);
    let events = relay.ok(["event", "query", "--kind", "30001", "--history", "--json"]).json();
    let contents: Vec<_> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["content"].as_str().unwrap())
        .collect();
    assert_eq!(contents, ["new"]);
}

#[test]
fn a_watcher_sees_the_lock_change_hands() {
    let relay = Relay::start();
    let mut watcher =
        relay.command(["lock", "watch", "db", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines =
        std::io::BufRead::lines(std::io::BufReader::new(watcher.stdout.take().unwrap()));
    let mut state = || {
        let line = lines.next().unwrap().unwrap();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["state"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(state(), "free");
    relay.ok(["lock", "run", "db", "--", "true"]);
    assert_eq!((state(), state()), ("held".to_owned(), "free".to_owned()));
    watcher.kill().unwrap();
    watcher.wait().unwrap();
}
