//! The social layer's operators at the command line.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use support::Relay;

const LAZY: &str =
    "[node]\nid = \"gw_local\"\n[social]\nmoderation = \"lazy\"\nidentity_bytes = \"1MB\"\n";

fn posts(relay: &Relay) -> Vec<String> {
    let listed = relay.ok(["social", "feed", "--everybody", "--json"]).json();
    let items = listed["items"].as_array().unwrap().iter();
    items.map(|item| item["text"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn an_operator_judges_hides_and_removes() {
    let relay = Relay::configured(LAZY);
    let first = relay.ok(["social", "post", "a heron", "--json"]).json();
    let second = relay.ok(["social", "post", "a gull", "--json"]).json();
    let id = second["id"].as_str().unwrap();
    let who = first["system"].as_str().unwrap();
    assert_eq!(relay.run(["social", "queue"]).code(), 4, "for operators only");

    let queue = relay.operator(["social", "queue", "--json"]).json();
    let texts: Vec<&str> = queue["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["a heron", "a gull"]);
    let seq = |n: usize| queue["items"][n]["seq"].to_string();
    let tags = ["--tag", "hate=0", "--tag", "sexual=0", "--tag", "violence=0"];
    let approved = relay.operator(["social", "approve", &seq(0)].into_iter().chain(tags));
    assert_eq!(approved.code(), 0, "{}", approved.stderr);
    assert_eq!(relay.operator(["social", "approve", "1", "--tag", "hate"]).code(), 2);
    assert_eq!(relay.operator(["social", "hide", &seq(1)]).code(), 0);
    assert_eq!(relay.operator(["social", "hide", "99999"]).code(), 3);
    assert_eq!(posts(&relay), ["a heron"]);
    assert_eq!(relay.operator(["social", "queue"]).stdout, "");

    assert_eq!(relay.operator(["social", "approve", &seq(1)].into_iter().chain(tags)).code(), 0);
    assert_eq!(posts(&relay).len(), 2);
    assert_eq!(relay.operator(["social", "censor", id]).code(), 0);
    assert_eq!(posts(&relay), ["a heron"]);
    assert_eq!(relay.operator(["social", "uncensor", id]).code(), 0);
    assert_eq!(relay.operator(["social", "censor", who, "--refuse"]).code(), 0);
    assert!(posts(&relay).is_empty());
    let censored = relay.operator(["social", "censored"]);
    assert_eq!(censored.stdout.trim_end(), format!("{who}\t\t\ttrue"));
    assert_eq!(relay.operator(["social", "uncensor", who]).code(), 0);
    assert_eq!(relay.operator(["social", "uncensor", who]).code(), 3, "it is not hidden");
    assert_eq!(relay.operator(["social", "censor", "nobody"]).code(), 2);

    let usage = relay.operator(["social", "usage", "--json"]).json();
    assert_eq!(usage["items"][0]["system"], who);
    assert_eq!(usage["items"][0]["events"], 2);
    assert_eq!(usage["limits"]["identity_bytes"], usage["items"][0]["bytes_limit"]);
    assert_eq!(usage["totals"]["systems"], 1);
    let shown = relay.operator(["social", "purge", who, "--dry-run", "--json"]).json();
    assert_eq!(shown["items"][0]["events"], 2);
    let unasked = relay.operator(["social", "purge", who]);
    assert_eq!(unasked.code(), 2, "{}", unasked.stderr);
    assert!(unasked.stderr.contains("--yes"), "{}", unasked.stderr);
    assert_eq!(posts(&relay).len(), 2);
    assert_eq!(relay.operator(["social", "purge", who, "--yes"]).code(), 0);
    assert!(posts(&relay).is_empty());
    let audit = relay.operator(["audit", "tail", "--json"]).stdout;
    for action in ["social.moderate", "social.censor", "social.uncensor", "social.purge"] {
        assert!(audit.contains(action), "{action} is not in the audit log");
    }
}

#[test]
fn an_operator_gives_one_identity_a_quota() {
    let relay =
        Relay::configured("[node]\nid = \"gw_local\"\n[social]\nidentity_bytes = \"700B\"\n");
    let long = "long ".repeat(200);
    let first = relay.ok(["social", "post", "short", "--json"]).json();
    let who = first["system"].as_str().unwrap();
    assert_eq!(relay.run(["social", "post", &long]).code(), 9);
    assert_eq!(
        relay.run(["social", "quota", "set", who, "--bytes", "1GB"]).code(),
        4,
        "for operators only"
    );
    assert_eq!(relay.operator(["social", "quota", "set", who]).code(), 2, "of what?");
    assert_eq!(relay.operator(["social", "quota", "set", who, "--bytes", "much"]).code(), 2);
    assert_eq!(relay.operator(["social", "quota", "set", who, "--bytes", "1GB"]).code(), 0);
    relay.ok(["social", "post", &long]);
    let shown = relay.operator(["social", "quota", "show", who, "--json"]).json();
    assert_eq!(
        (&shown["items"][0]["system"], &shown["items"][0]["bytes"]),
        (&who.into(), &1_000_000_000_u64.into())
    );
    assert_eq!(shown["items"][0]["events_per_sec"], serde_json::Value::Null);
    assert_eq!(relay.operator(["social", "quota", "remove", who]).code(), 0);
    assert_eq!(relay.operator(["social", "quota", "remove", who]).code(), 3, "there is none");
    assert_eq!(relay.operator(["social", "quota"]).stdout, "");
    assert_eq!(relay.run(["social", "post", &long]).code(), 9);
    let audit = relay.operator(["audit", "tail", "--json"]).stdout;
    for action in ["social.quota_set", "social.quota_remove"] {
        assert!(audit.contains(action), "{audit}");
    }
}
