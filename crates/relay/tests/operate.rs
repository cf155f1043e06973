//! What an operator does to a running relay: look at it, reload it, stop it in order.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use nix::sys::signal::Signal;
use support::{Relay, until, write_config};

const OPEN: &str = "[node]\nid = \"gw_local\"\n[quota]\nlocks = 100\n[log]\nlevel = \"info\"\n";
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

#[test]
fn development_mode_warns_and_keeps_to_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let mut open = support::base(dir.path());
    open.args(["serve", "--listen", "0.0.0.0:0"]).env("GATEWAY_INSECURE_DEV_AUTH", "1");
    let refused = support::finish(open);
    assert_eq!(refused.code(), 2);
    assert!(refused.stderr.contains("needs loopback addresses only"), "{}", refused.stderr);

    let relay = Relay::configured("[chat]\ninsecure_dev_auth = true\n");
    relay.ok(["api", "POST", "/v1/session/start", "auth_token=alice", "device_id=d1"]);
    until("the session was warned of", || relay.logged("session was started without any proof"));
}

/// The names of metrics in a text.
fn metric_names(text: &str) -> std::collections::BTreeSet<String> {
    let word = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
    text.split(|c| !word(c))
        .filter(|name| name.starts_with("relay_") && name.len() > 6)
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_is_there() {
    let relay = Relay::start();
    let shown = relay.ok(["api", "GET", "/metrics"]).stdout;
    let shown: std::collections::BTreeSet<_> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operate.md");
    let page = std::fs::read_to_string(page).unwrap();
    let table = page.lines().filter(|line| line.starts_with("| `relay_"));
    let documented = metric_names(&table.collect::<Vec<_>>().join("\n"));
    assert_eq!(shown, documented);
    // What the specification of the command line names, as far as the parts are there.
    for name in [
        "relay_event_lag_seconds",
        "relay_store_write_seconds",
        "relay_lock_wait_seconds",
        "relay_lock_takeovers_total",
        "relay_lock_contended_total",
        "relay_connections",
        "relay_fanout_seconds",
        "relay_build_info",
    ] {
        assert!(shown.contains(name), "{name}");
    }
}

#[test]
fn each_question_of_a_monitoring_system_has_its_answer() {
    let relay = Relay::start();
    let check = |args: &[&str]| relay.run([&["check"][..], args].concat());
    for name in ["relay", "clock", "disk", "lag", "locks"] {
        let ran = check(&[name, "--format", "nagios"]);
        assert!(ran.code() <= 2, "{name}: {}", ran.stdout);
        let head = format!("RELAY {} ", name.to_uppercase());
        assert!(ran.stdout.starts_with(&head), "{name}: {}", ran.stdout);
    }
    assert_eq!(check(&["disk", "--warn", "0", "--crit", "0"]).code(), 2);
    assert_eq!(check(&["relay", "--warn", "0", "--crit", "1h"]).code(), 1);
    let plain = check(&["cert", "--format", "json"]);
    assert_eq!((plain.code(), &plain.json()["name"]), (1, &"cert".into()), "{}", plain.stdout);
    assert_eq!(check(&["locks", "--warn", "many"]).code(), 3);

    // Two wait for one lock.
    relay.ok(["lock", "acquire", "db/main", "--lease", "60s"]);
    let waiters: Vec<_> = (0..2)
        .map(|_| {
            let mut command = relay.command(["lock", "acquire", "db/main", "--wait", "60s"]);
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    until("both wait", || check(&["locks", "--warn", "2"]).code() == 1);
    assert!(check(&["locks"]).stdout.contains("2 wait for db/main"));
    for mut waiter in waiters {
        waiter.kill().unwrap();
        waiter.wait().unwrap();
    }
    until("nobody waits any more", || check(&["locks"]).stdout.contains("nobody waits"));
}

#[test]
fn a_certificate_is_looked_at_through_its_address() {
    let dir = tempfile::tempdir().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca = authority.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2090, 1, 1);
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let (cert, secret) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let trusted = dir.path().join("ca.pem");
    std::fs::write(&trusted, ca.pem()).unwrap();
    std::fs::write(&cert, certificate.pem()).unwrap();
    std::fs::write(&secret, key.serialize_pem()).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&secret, private).unwrap();
    let tls = format!("[tls]\ncert_file = {cert:?}\nkey_file = {secret:?}\n");
    write_config(dir.path(), &tls);
    let relay = Relay::start_in(dir, &[]);
    assert!(relay.url.starts_with("https://"), "{}", relay.url);
    let with_authority = |args: &[&str]| {
        let mut command = relay.command(args);
        command.env("SSL_CERT_FILE", &trusted);
        support::finish(command)
    };
    let good = with_authority(&["check", "cert"]);
    assert_eq!(good.code(), 0, "{}", good.stdout);
    assert!(good.stdout.contains("days left"), "{}", good.stdout);
    assert_eq!(with_authority(&["check", "cert", "--warn", "100000"]).code(), 1);
    let stranger = relay.run(["check", "cert"]);
    assert_eq!(stranger.code(), 2, "nobody vouches for it: {}", stranger.stdout);
}

#[test]
fn init_writes_what_loads_and_never_twice() {
    let home = tempfile::tempdir().unwrap();
    let printed =
        support::alone(home.path(), ["init", "--system", "--domain", "a.example", "--print"]);
    assert_eq!(printed.code(), 0, "{}", printed.stderr);
    for text in ["id = \"a.example\"", "[Service]", "data_dir = \"/var/lib/relay\""] {
        assert!(printed.stdout.contains(text), "{text}");
    }
    assert!(!home.path().join("config/relay/relay.toml").exists());
    let made = support::alone(home.path(), ["init", "--domain", "a.example"]);
    assert_eq!(made.code(), 0, "{}", made.stderr);
    let shown = support::alone(home.path(), ["config", "show", "--changed"]);
    assert!(shown.stdout.contains("node.id\t\"a.example\""), "{}{}", shown.stdout, shown.stderr);
    assert_eq!(support::alone(home.path(), ["keys", "verify"]).code(), 0);
    let again = support::alone(home.path(), ["init"]);
    assert_eq!(again.code(), 5, "{}", again.stderr);
}

#[test]
fn a_debug_bundle_lists_what_it_holds_and_holds_no_secret() {
    let relay = Relay::start();
    std::fs::write(relay.path("url"), "postgresql://u:hunter2@db/x").unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(relay.path("url"), private).unwrap();
    let url = relay.path("url").display().to_string();
    let config = format!("[store]\nbackend = \"postgres\"\ndatabase_url_file = {url:?}\n");
    write_config(relay.dir.path(), &config);
    let listed = relay.ok(["debug", "bundle", "--dry-run"]).stdout;
    assert!(!relay.path("relay-debug.tar").exists());
    assert_eq!(relay.run(["debug", "bundle"]).code(), 2, "it asks before it writes");
    let written = relay.ok(["debug", "bundle", "--yes"]);
    assert_eq!(written.stdout, "relay-debug.tar\n");
    let archive = std::fs::read(relay.path("relay-debug.tar")).unwrap();
    let tar = std::process::Command::new("tar")
        .args(["-xOf", "relay-debug.tar"])
        .current_dir(relay.dir.path())
        .output()
        .unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    let text = String::from_utf8(tar.stdout).unwrap();
    for part in ["\"relay_id\"", "relay_build_info", "store.database_url_file = \"<file>\""] {
        assert!(text.contains(part), "{part}");
    }
    assert!(!String::from_utf8_lossy(&archive).contains("hunter2"));
    let names = std::process::Command::new("tar")
        .args(["-tf", "relay-debug.tar"])
        .current_dir(relay.dir.path())
        .output()
        .unwrap();
    let names = String::from_utf8(names.stdout).unwrap();
    assert_eq!(names.lines().count(), listed.lines().count());
    assert_eq!(relay.run(["debug", "bundle", "--yes"]).code(), 5, "never replaced");
}

#[test]
fn a_code_is_drawn_beside_being_printed() {
    let relay = Relay::start();
    let drawn = relay.operator(["token", "create", "--for", "spoke", "--qr"]);
    assert_eq!(drawn.code(), 0, "{}", drawn.stderr);
    assert_eq!(drawn.stdout.lines().count(), 1, "on stdout the code is alone");
    assert!(drawn.stdout.starts_with("relay-join-v1."));
    assert!(
        drawn.stderr.lines().filter(|line| line.contains('█')).count() > 10,
        "{}",
        drawn.stderr
    );
    let plain = relay.operator(["token", "create", "--qr", "--plain"]);
    assert_eq!(plain.code(), 2);
    assert!(plain.stderr.contains("--plain"), "{}", plain.stderr);
}
