//! `relay event` and the rules of all commands, against a real relay.

mod support;

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use serde_json::Value;
use support::{Relay, alone, ended, until};

#[test]
fn an_event_is_published_found_shown_and_counted() {
    let relay = Relay::start();
    let id = relay.ok(["event", "publish", "--content", "grüße", "--tag", "t=a"]).stdout;
    let id = id.trim();
    assert_eq!(id.len(), 64);
    assert_eq!(relay.ok(["event", "get", id]).kv("content"), "grüße");
    let found = relay.ok(["event", "query", "--tag", "t=a", "--json"]).json();
    assert_eq!(found["events"][0]["id"], id);
    assert_eq!(relay.ok(["event", "count", "--kind", "1"]).stdout, "1\n");
    let missing = relay.run(["event", "get", &"0".repeat(64)]);
    assert_eq!(missing.code(), 3);
    assert!(missing.stdout.is_empty() && missing.stderr.contains("not_found"), "{missing:?}");
    let missing = relay.run(["event", "get", &"0".repeat(64), "--json"]);
    let error: Value = serde_json::from_str(&missing.stderr).unwrap();
    assert_eq!(
        (&error["error"]["code"], &error["error"]["exit"]),
        (&"not_found".into(), &3.into())
    );
}

#[test]
fn an_address_shows_its_latest_and_its_history() {
    let relay = Relay::start();
    for content in ["one", "two"] {
        relay.ok(["event", "publish", "--kind", "30001", "--d", "site/prod", "--content", content]);
    }
    let author = relay.ok(["keys", "show"]).kv("key");
    let latest = relay.ok(["event", "addr", "30001", &author, "site/prod"]);
    assert_eq!(latest.kv("content"), "two");
    let history =
        relay.ok(["event", "addr", "30001", &author, "site/prod", "--history", "--json"]).json();
    let contents: Vec<_> = history["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["content"].as_str().unwrap())
        .collect();
    assert_eq!(contents, ["two", "one"]);
}

#[test]
fn exports_imports_elsewhere_with_the_same_ids_and_again_without_effect() {
    let (one, other) = (Relay::start(), Relay::start());
    let drafts: String =
        (0..2_500).map(|n| format!("{{\"kind\":1,\"content\":\"note {n}\"}}\n")).collect();
    let signed = one.with_stdin(["event", "sign"], &drafts);
    assert_eq!(signed.code(), 0, "{}", signed.stderr);
    let imported = one.with_stdin(["event", "import", "--in-order", "--json"], &signed.stdout);
    assert_eq!(imported.json()["stored"], 2_500, "{}", imported.stderr);
    let (file, state) = (one.path("all.ndjson"), one.path("import.state"));
    let (file, state) = (file.to_str().unwrap(), state.to_str().unwrap());
    one.ok(["event", "export", "--out", file]);
    let ids = |text: &str| -> Vec<String> {
        let ids =
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].to_string());
        ids.collect()
    };
    assert!(ids(&std::fs::read_to_string(file).unwrap()) == ids(&signed.stdout));
    let copied = other.ok(["event", "import", file, "--state", state, "--json"]);
    assert_eq!(copied.json()["stored"], 2_500);
    // Everything is behind the state already; without it the ids are known.
    let again = other.ok(["event", "import", file, "--state", state, "--json"]);
    assert_eq!((&again.json()["stored"], &again.json()["duplicates"]), (&0.into(), &0.into()));
    let again = other.ok(["event", "import", file, "--json"]);
    assert_eq!(again.json()["duplicates"], 2_500);
    let copy = other.path("copy.ndjson");
    other.ok(["event", "export", "--out", copy.to_str().unwrap()]);
    let sorted = |text: &str| {
        let mut ids = ids(text);
        ids.sort();
        ids
    };
    assert!(sorted(&std::fs::read_to_string(copy).unwrap()) == sorted(&signed.stdout));
}

#[test]
fn a_refused_line_is_named_and_the_others_are_stored() {
    let relay = Relay::start();
    let good = relay.ok(["event", "publish", "--content", "x", "--dry-run"]).stdout;
    let bad = good.replace("\"content\":\"x\"", "\"content\":\"y\"");
    let ran = relay.with_stdin(["event", "import", "--json"], &format!("{bad}\n{good}"));
    assert_eq!(ran.code(), 1);
    assert_eq!((&ran.json()["stored"], &ran.json()["refused"]), (&1.into(), &1.into()));
    assert!(ran.stderr.contains("line 1: invalid_request"), "{}", ran.stderr);
}

#[test]
fn a_stream_goes_on_from_its_cursor_file() {
    let relay = Relay::start();
    let cursor = relay.path("cursor");
    let stream = |limit: &str| {
        let cursor = cursor.to_str().unwrap();
        let args =
            ["event", "stream", "--after", "begin", "--cursor-file", cursor, "--limit", limit];
        let ran = relay.ok(args);
        let contents = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        contents.map(|event| event["content"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for content in ["1", "2", "3"] {
        relay.ok(["event", "publish", "--content", content]);
    }
    assert_eq!(stream("2"), ["1", "2"]);
    assert_eq!(stream("1"), ["3"]);
}

#[test]
fn a_live_stream_shows_what_is_published_while_it_runs() {
    let relay = Relay::start();
    let mut command = relay.command(["event", "stream", "--after", "begin", "--limit", "2"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    relay.ok(["event", "publish", "--content", "first"]);
    assert!(lines.next().unwrap().unwrap().contains("first"));
    relay.ok(["event", "publish", "--content", "second"]);
    assert!(lines.next().unwrap().unwrap().contains("second"));
    assert!(ended(&mut child).success());
}

#[test]
fn with_exec_the_cursor_moves_only_after_success() {
    let relay = Relay::start();
    for content in ["good", "bad", "good"] {
        relay.ok(["event", "publish", "--content", content]);
    }
    let (cursor, seen) = (relay.path("cursor"), relay.path("seen"));
    let args = |command: &str| {
        let cursor = cursor.to_str().unwrap();
        [
            "event",
            "stream",
            "--after",
            "begin",
            "--stored",
            "--cursor-file",
            cursor,
            "--exec",
            command,
        ]
        .map(str::to_owned)
    };
    let fussy = format!("tee -a {} | grep -q good", seen.display());
    let ran = relay.run(args(&fussy));
    assert_eq!(ran.code(), 1, "{}", ran.stderr);
    assert_eq!(std::fs::read_to_string(&seen).unwrap().lines().count(), 2);
    let easy = format!("cat >> {}", seen.display());
    relay.ok(args(&easy));
    // The event that failed came again, then the last one.
    let lines = std::fs::read_to_string(&seen).unwrap();
    assert_eq!(lines.lines().count(), 4);
    assert!(lines.lines().nth(2).unwrap().contains("bad"));
}

#[test]
fn private_contents_open_for_their_recipient_alone() {
    let relay = Relay::start();
    relay.ok(["keys", "gen", "bob"]);
    let bob = relay.ok(["keys", "show", "bob"]).kv("key");
    let path = |name: &str| relay.path("config/relay/keys").join(name).display().to_string();
    let id = relay.ok(["event", "publish", "--content", "for bob", "--encrypt-to", &bob]).stdout;
    let event = relay.ok(["event", "get", id.trim(), "--json"]).stdout;
    assert!(!event.contains("for bob"));
    let opened = relay.with_stdin(["event", "decrypt", "--key", &path("bob")], &event);
    assert_eq!((opened.code(), opened.stdout.as_str()), (0, "for bob"));
    let refused = relay.with_stdin(["event", "decrypt", "--key", &path("default")], &event);
    assert_eq!((refused.code(), refused.stdout.as_str()), (4, ""));
}

#[test]
fn both_kinds_of_signature_are_taken() {
    let relay = Relay::start();
    relay.ok(["event", "publish", "--content", "native"]);
    relay.ok(["event", "publish", "--content", "like ssh-keygen", "--sshsig"]);
    let events = relay.ok(["event", "query", "-o", "ndjson"]).stdout;
    let checked = relay.with_stdin(["event", "verify"], &events);
    assert_eq!(checked.code(), 0);
    assert_eq!(checked.stdout.lines().filter(|line| line.starts_with("ok\t")).count(), 2);
    let broken = relay.with_stdin(["event", "verify"], &events.replace("native", "forged"));
    assert_eq!(broken.code(), 1);
}

#[test]
fn nothing_at_the_other_end_is_exit_7_and_soon() {
    let dir = tempfile::tempdir().unwrap();
    let ran = alone(dir.path(), ["event", "count", "--url", "http://127.0.0.1:1"]);
    assert_eq!(ran.code(), 7, "{}", ran.stderr);
    assert!(ran.stderr.contains("cannot reach http://127.0.0.1:1"), "{}", ran.stderr);
}

#[test]
fn without_a_terminal_nothing_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let phrase = dir.path().join("phrase");
    std::fs::write(&phrase, "secret\n").unwrap();
    std::fs::set_permissions(&phrase, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let phrase = phrase.to_str().unwrap();
    assert_eq!(alone(dir.path(), ["keys", "gen", "--passphrase-file", phrase]).code(), 0);
    let asked = alone(dir.path(), ["event", "publish", "--dry-run"]);
    assert_eq!(asked.code(), 2);
    assert!(asked.stderr.contains("--passphrase-file"), "{}", asked.stderr);
    assert_eq!(
        alone(dir.path(), ["event", "publish", "--dry-run", "--passphrase-file", phrase]).code(),
        0
    );
    let dangerous = alone(dir.path(), ["context", "add", "x", "http://127.0.0.1:1"]);
    assert_eq!(dangerous.code(), 0, "{}", dangerous.stderr);
    let asked = alone(dir.path(), ["context", "rm", "x"]);
    assert_eq!(asked.code(), 2);
    assert!(asked.stderr.contains("--yes"), "{}", asked.stderr);
}

#[test]
fn the_local_socket_is_found_without_an_address() {
    let relay = Relay::start();
    let socket = relay.path("relay.sock");
    until("the relay makes its socket", || socket.exists());
    let ran = alone(relay.dir.path(), ["event", "count"]);
    assert_eq!((ran.code(), ran.stdout.as_str()), (0, "0\n"), "{}", ran.stderr);
    let live = alone(relay.dir.path(), ["event", "stream", "--after", "begin", "--stored"]);
    assert_eq!(live.code(), 0, "{}", live.stderr);
}

#[test]
fn chosen_members_keep_the_names_of_the_api() {
    let relay = Relay::start();
    let id = relay.ok(["event", "publish", "--content", "x"]).stdout;
    let chosen = relay.ok(["event", "query", "--json", "--fields", "id"]).json();
    assert_eq!(chosen, serde_json::json!({ "events": [{ "id": id.trim() }] }));
    assert_eq!(relay.ok(["event", "query", "-o", "raw", "--fields", "id"]).stdout, id);
    let info = relay.ok(["api", "GET", "/v1/info", "--json", "--fields", "relay_id"]).json();
    assert_eq!(info, serde_json::json!({ "relay_id": "gw_local" }));
    let near = relay.run(["explain", "lock_hold"]);
    assert!(near.code() == 3 && near.stderr.contains("relay explain lock_held"), "{}", near.stderr);
    let missing = relay.operator(["token", "revoke", "tok_0", "--yes"]);
    assert!(!missing.stderr.contains("event query"), "{}", missing.stderr);
}

/// The bar is for eyes; what a program reads of the same work is told here.
#[test]
fn progress_is_told_in_the_form_that_was_asked_for() {
    let relay = Relay::start();
    let drafts: String =
        (0..300).map(|n| format!("{{\"kind\":1,\"content\":\"note {n}\"}}\n")).collect();
    let file = relay.path("events.ndjson");
    std::fs::write(&file, relay.with_stdin(["event", "sign"], &drafts).stdout).unwrap();
    let file = file.to_str().unwrap();
    let lines = relay.ok(["event", "import", file]);
    assert!(lines.stderr.starts_with("import: started\n"), "{}", lines.stderr);
    let json = relay.ok(["event", "import", file, "--progress", "json"]);
    let last = json.stderr.lines().find(|line| line.contains("\"progress\"")).unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!((&last["type"], &last["unit"]), (&"progress".into(), &"bytes".into()));
    assert_eq!(last["done"], last["total"]);
    let none = relay.ok(["event", "import", file, "--progress", "none"]);
    assert_eq!(none.stderr, "");
}
