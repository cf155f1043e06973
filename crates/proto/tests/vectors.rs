//! The reference vectors of the signed event, made by an independent implementation
//! (`vectors/events.json`): each is judged as the relay judges what comes in, at a fixed time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use relay_proto::{
    Code, Event, EventError, EventLimits, SigningKey,
    event::{Draft, MAX_AHEAD_NS, Verifier, parse_event, rotation_of, rotation_text, verify},
    key::parse_hex,
};
use serde_json::Value;

/// The time at which the vectors are judged; all valid ones but "largest time" lie before it.
const NOW_NS: u64 = 1_766_800_000_000_000_000;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/events.json")).unwrap()
}

fn cases<'a>(vectors: &'a Value, list: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let cases = vectors[list].as_array().unwrap();
    assert!(!cases.is_empty(), "{list}");
    cases.iter().map(|case| (case["name"].as_str().unwrap(), case))
}

fn accept(event: &Value) -> Result<Event, EventError> {
    verify(parse_event(event.to_string().as_bytes(), &EventLimits::default())?)
}

fn key(seed: &Value) -> SigningKey {
    SigningKey::from_seed(parse_hex(seed.as_str().unwrap()).unwrap())
}

/// What a client would have signed to get this event.
fn draft_of(event: &Event) -> Draft {
    Draft {
        kind: event.kind(),
        created_at_ns: event.created_at_ns(),
        tags: event.tags().clone(),
        content: event.content(),
    }
}

#[test]
fn valid_events_are_accepted_and_our_signer_makes_the_same() {
    let vectors = vectors();
    for (name, case) in cases(&vectors, "valid") {
        let event = accept(&case["event"]).unwrap_or_else(|error| panic!("{name}: {error}"));
        let key = key(&case["secret_seed"]);
        let draft = draft_of(&event);
        let canonical = draft.canonical(&key.node_id());
        assert_eq!(hex::encode(&canonical), case["canonical_hex"].as_str().unwrap(), "{name}");
        assert_eq!(String::from_utf8(canonical).unwrap(), case["canonical"], "{name}");
        // Ed25519 is deterministic: the same draft gives the same bytes everywhere.
        assert_eq!(draft.sign(&key).unwrap().json(), event.json(), "{name}");
        let stored: Value = serde_json::from_slice(event.json()).unwrap();
        assert_eq!(stored, case["event"], "{name}");
    }
}

#[test]
fn sshsig_events_are_accepted_where_the_operator_allows_them() {
    let vectors = vectors();
    for (name, case) in cases(&vectors, "sshsig") {
        accept(&case["event"]).unwrap_or_else(|error| panic!("{name}: {error}"));
        let off = EventLimits { sshsig: false, ..EventLimits::default() };
        let refused = parse_event(case["event"].to_string().as_bytes(), &off);
        assert_eq!(refused.unwrap_err(), EventError::SshSigOff, "{name}");
        let public: ssh_key::PublicKey = case["openssh_public"].as_str().unwrap().parse().unwrap();
        let bytes = public.key_data().ed25519().unwrap().0;
        assert_eq!(accept(&case["event"]).unwrap().pubkey().as_bytes(), &bytes, "{name}");
    }
}

#[test]
fn invalid_events_are_refused_with_their_code() {
    let vectors = vectors();
    for (name, case) in cases(&vectors, "invalid") {
        let code = Code::parse(case["code"].as_str().unwrap()).unwrap();
        match accept(&case["event"]) {
            Err(error) => assert_eq!(error.code(), code, "{name}"),
            // The one that only the clock can tell: right in all else, dated too far ahead.
            Ok(event) => {
                assert_eq!(case["why"], "clock", "{name}");
                assert!(event.created_at_ns() > NOW_NS + MAX_AHEAD_NS, "{name}");
            }
        }
    }
}

#[test]
fn bodies_that_are_no_event_are_refused_with_their_code() {
    let vectors = vectors();
    for (name, case) in cases(&vectors, "raw_bodies") {
        let body = case["body"].as_str().unwrap();
        let refused = parse_event(body.as_bytes(), &EventLimits::default()).map(|_| ());
        let code = Code::parse(case["code"].as_str().unwrap()).unwrap();
        assert_eq!(refused.map_err(|error| error.code()), Err(code), "{name}");
    }
}

#[test]
fn one_by_one_and_many_at_once_agree() {
    let vectors = vectors();
    let all = ["valid", "sshsig", "invalid"].into_iter().flat_map(|list| cases(&vectors, list));
    let raws: Vec<_> = all
        .filter_map(|(_, case)| {
            parse_event(case["event"].to_string().as_bytes(), &EventLimits::default()).ok()
        })
        .collect();
    let single: Vec<_> = raws.iter().cloned().map(|raw| verify(raw).map(|e| e.id())).collect();
    assert!(single.iter().any(Result::is_ok) && single.iter().any(Result::is_err));
    let many = Verifier::default().verify_many(raws, rand_core::OsRng);
    let many: Vec<_> = many.into_iter().map(|outcome| outcome.map(|e| e.id())).collect();
    assert_eq!(single, many);
}

#[test]
fn the_latest_version_wins_in_every_order() {
    let vectors = vectors();
    let versions = vectors["latest"]["versions"].as_array().unwrap();
    let mut versions: Vec<_> = versions.iter().map(|event| accept(event).unwrap()).collect();
    for _ in 0..versions.len() {
        versions.rotate_left(1);
        for order in [versions.clone(), versions.iter().rev().cloned().collect()] {
            let mut current: Option<Event> = None;
            for event in order {
                if current.as_ref().is_none_or(|known| event.version() > known.version()) {
                    current = Some(event);
                }
            }
            assert_eq!(current.unwrap().id().to_string(), vectors["latest"]["winner"]);
        }
    }
}

#[test]
fn the_rotation_is_proven_by_the_new_key() {
    let vectors = vectors();
    let event = accept(&vectors["rotation"]["event"]).unwrap();
    let rotation = rotation_of(&event).unwrap().unwrap();
    let new = key(&vectors["rotation"]["new_secret_seed"]);
    assert_eq!((rotation.old, rotation.new), (event.pubkey(), new.node_id()));
    let text = rotation_text(&rotation.old, &rotation.new, event.created_at_ns());
    assert_eq!(text, vectors["rotation"]["proof_text"]);
}
