//! The rules of Polycentric against bytes that its real client made (`vectors/polycentric.json`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is the report of a test")]

use bytes::Bytes;
use prost::Message;
use relay_proto::{
    SigningKey,
    polycentric::{
        Body, ChallengeError, Draft, Event, EventError, EventMessage, EventWriter, Events,
        FindClaimAndVouchRequest, HarborValidateRequest, MAX_NUMBER, Pointer, PointerMessage,
        ProcessId, PublicKey, QueryClaimToSystemRequest, QueryReferencesRequest, RangesForSystem,
        Reference, ReferenceMessage, RepeatedUInt64, SignedEvent, SystemKey, WireError, big_cursor,
        check_challenge, content, encode_param, make_challenge, message_param, parse_events,
        verify_all, verify_many,
    },
};
use serde_json::Value;

const NAMES: [&str; 9] = [
    "username",
    "server_add",
    "post",
    "reply",
    "topic_post",
    "like",
    "claim",
    "vouch",
    "delete_of_reply",
];

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/polycentric.json")).unwrap()
}

fn hex_of(value: &Value) -> Bytes {
    hex::decode(value.as_str().unwrap()).unwrap().into()
}

fn key() -> SigningKey {
    let seed = hex_of(&vectors()["key"]["private_key_hex"]);
    SigningKey::from_seed(seed[..].try_into().unwrap())
}

fn accept(signed: Bytes) -> Result<Event, EventError> {
    let signed = SignedEvent::decode(signed).unwrap();
    let body = Events { events: vec![signed] }.encode_to_vec();
    verify_all(parse_events(body.into())?).map(|mut events| events.remove(0))
}

#[test]
fn every_event_of_the_client_is_taken_as_it_is() {
    let vectors = vectors();
    for (name, clock) in NAMES.into_iter().zip(1..) {
        let vector = &vectors[name];
        let event = accept(hex_of(&vector["signed_event_hex"])).unwrap();
        assert_eq!(event.clock(), clock, "{name}");
        assert_eq!(*event.bytes(), hex_of(&vector["event_hex"]), "{name}");
        assert_eq!(event.signature()[..], hex_of(&vector["signature_hex"])[..], "{name}");
        assert_eq!(event.system(), SystemKey::from(key().node_id()));
        let again = event.to_signed().encode_to_vec();
        assert_eq!(again, hex_of(&vector["signed_event_hex"]), "{name}");
        let pointer = event.pointer();
        assert_eq!(pointer.digest[..], hex_of(&vector["event_sha256_hex"])[..], "{name}");
        assert_eq!(pointer.to_message().encode_to_vec(), hex_of(&vector["pointer_hex"]), "{name}");
        let reference = Reference::Event(pointer).to_message().encode_to_vec();
        assert_eq!(reference, hex_of(&vector["reference_to_it_hex"]), "{name}");
        let read = ReferenceMessage::decode(&reference[..]).unwrap();
        let read = Reference::from_message(&read).unwrap();
        assert_eq!(read.subject(), Some(event.subject()));
        let stored = Event::from_stored(*event.signature(), event.bytes().clone()).unwrap();
        assert_eq!(stored.body(), event.body());
    }
}

#[test]
fn contents_are_understood() {
    let vectors = vectors();
    let event = |name: &str| accept(hex_of(&vectors[name]["signed_event_hex"])).unwrap();
    assert_eq!(event("username").body(), &Body::Text("alice".into()));
    assert_eq!(event("post").body(), &Body::Text("hello".into()));
    assert_eq!(event("like").lww().unwrap().value[..], [1]);
    let reply = event("reply");
    let Body::Delete(target) = *event("delete_of_reply").body() else { panic!() };
    assert_eq!(target, (&reply).into());
    let Body::Claim { claim_type: 7, fields } = event("claim").body().clone() else { panic!() };
    assert_eq!((fields[0].key, fields[0].value.as_str()), (0, "lifts boxes"));
    assert_eq!(event("vouch").references()[0].subject(), Some(event("claim").subject()));
    let about = Reference::Bytes(Bytes::from_static(b"https://example.test/video"));
    assert_eq!(event("topic_post").references(), [about]);
}

#[test]
fn a_body_of_two_events_is_read() {
    let vectors = vectors();
    let body = hex_of(&vectors["post_events_body_of_username_and_post_hex"]);
    let events = verify_all(parse_events(body).unwrap()).unwrap();
    assert_eq!(events.iter().map(Event::clock).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn query_parameters_are_read_and_written() {
    let vectors = vectors();
    let query = &vectors["query"];
    let text = |name: &str| query[name].as_str().unwrap();
    let ranges: RangesForSystem = message_param(text("ranges_param")).unwrap();
    let pairs: Vec<_> =
        ranges.ranges_for_processes[0].ranges.iter().map(|range| (range.low, range.high)).collect();
    assert_eq!(pairs, [(1, 3), (5, 9)]);
    assert_eq!(encode_param(&ranges.encode_to_vec()), text("ranges_param"));
    let types: RepeatedUInt64 = message_param(text("event_types_param_5_6_9")).unwrap();
    assert_eq!(types.numbers, [5, 6, 9]);
    assert_eq!(encode_param(&types.encode_to_vec()), text("event_types_param_5_6_9"));
    let asked: QueryReferencesRequest = message_param(text("query_references_param")).unwrap();
    assert_eq!(asked.request_events.as_ref().unwrap().from_type, Some(3));
    assert_eq!(encode_param(&asked.encode_to_vec()), text("query_references_param"));
    let asked: QueryClaimToSystemRequest = message_param(text("resolve_claim_param")).unwrap();
    assert_eq!(asked.match_any_field.as_deref(), Some("lifts boxes"));
    let asked: FindClaimAndVouchRequest =
        message_param(text("find_claim_and_vouch_param")).unwrap();
    assert_eq!((asked.claim_type, asked.fields.len()), (7, 1));
    assert_eq!(big_cursor(20)[..], hex_of(&query["query_references_cursor_after_20_hex"])[..]);
    let key: PublicKey =
        message_param(vectors["key"]["system_query_param"].as_str().unwrap()).unwrap();
    assert_eq!(SystemKey::from_message(&key).unwrap(), SystemKey::from(self::key().node_id()));
}

#[test]
fn a_challenge_is_good_for_its_system_and_its_time() {
    let vectors = vectors();
    let vector = &vectors["challenge"];
    let secret = vector["hmac_key_utf8"].as_str().unwrap().as_bytes();
    let random: [u8; 32] = std::array::from_fn(|n| n as u8);
    let made_ms = 1_700_000_000_000;
    let challenge = make_challenge(secret, random, made_ms);
    assert_eq!(challenge.encode_to_vec(), hex_of(&vector["response_hex"]));
    let answer = HarborValidateRequest {
        challenge: Some(challenge),
        system: Some(SystemKey::from(key().node_id()).to_message()),
        signature: hex_of(&vector["signature_over_challenge_bytes_hex"]),
    };
    let checked = check_challenge(secret, &answer, made_ms + 300_000).unwrap();
    assert_eq!(checked, (SystemKey::from(key().node_id()), random));
    assert_eq!(check_challenge(secret, &answer, made_ms + 300_001), Err(ChallengeError::Expired));
    assert_eq!(check_challenge(b"other", &answer, made_ms), Err(ChallengeError::Foreign));
    let mut forged = answer.clone();
    forged.signature = Bytes::from(vec![1; 64]);
    assert_eq!(check_challenge(secret, &forged, made_ms), Err(ChallengeError::Signature));
}

#[test]
fn what_we_write_we_accept() {
    let mut writer = EventWriter::new(ProcessId::from_bytes([7; 16]));
    let post = writer.write(&key(), Draft::post("one", None), 10).unwrap();
    let about = Reference::Event(post.pointer());
    let reply = writer.write(&key(), Draft::post("two", Some(about)), 11).unwrap();
    let delete = writer.write(&key(), Draft::delete(&reply).unwrap(), 12).unwrap();
    let mut later = EventWriter::after(&delete).unwrap();
    let last = later.write(&key(), Draft::post("three", None), 13).unwrap();
    assert_eq!(last.clock(), 4);
    let body = Events { events: [&post, &reply, &delete, &last].map(Event::to_signed).to_vec() };
    let events = verify_all(parse_events(body.encode_to_vec().into()).unwrap()).unwrap();
    let message = EventMessage::decode(events[3].bytes().clone()).unwrap();
    let indices: Vec<_> = message
        .indices
        .unwrap()
        .indices
        .iter()
        .map(|index| (index.index_type, index.logical_clock))
        .collect();
    assert_eq!(indices, [(content::DELETE, 3), (content::POST, 2)]);
}

/// Signs whatever the change makes of a good event.
fn changed(change: impl Fn(&mut EventMessage)) -> Result<Event, EventError> {
    let bytes = hex_of(&vectors()["post"]["event_hex"]);
    let mut message = EventMessage::decode(bytes).unwrap();
    change(&mut message);
    let event = Bytes::from(message.encode_to_vec());
    let signature = Bytes::copy_from_slice(&key().sign(&event));
    accept(SignedEvent { signature, event, moderation_tags: Vec::new() }.encode_to_vec().into())
}

#[test]
fn broken_events_are_refused_with_their_cause() {
    type Change = fn(&mut EventMessage);
    let wire = |cause| EventError::Wire { at: 0, cause };
    let cases: [(Change, EventError); 9] = [
        (|m| m.system = None, wire(WireError::Missing("system"))),
        (|m| m.system.as_mut().unwrap().key_type = 2, wire(WireError::KeyType)),
        (|m| m.process.as_mut().unwrap().process = Bytes::new(), wire(WireError::ProcessLength)),
        (|m| m.vector_clock = None, wire(WireError::Missing("the vector clock"))),
        (|m| m.indices = None, wire(WireError::Missing("the indices"))),
        (|m| m.logical_clock = MAX_NUMBER + 1, wire(WireError::TooGreat("the clock"))),
        (|m| m.unix_milliseconds = Some(u64::MAX), wire(WireError::TooGreat("the time"))),
        (
            |m| {
                m.references = vec![ReferenceMessage { reference_type: 4, reference: Bytes::new() }]
            },
            wire(WireError::ReferenceType),
        ),
        (|m| m.content_type = content::CLAIM, wire(WireError::Malformed)),
    ];
    for (change, refusal) in cases {
        assert_eq!(changed(change).unwrap_err(), refusal);
    }
    let post = |text: String| Draft::post(&text, None).content;
    assert!(changed(|m| m.content = post("ä".repeat(10_000))).is_ok());
    assert!(changed(|m| m.content = post("€".repeat(10_000))).is_ok());
    let long = changed(|m| m.content = post("a".repeat(10_001)));
    assert_eq!(long.unwrap_err(), EventError::PostTooLong { at: 0 });
    // A character outside the first plane counts twice, as in the client.
    let long = changed(|m| m.content = post("🦀".repeat(5_001)));
    assert_eq!(long.unwrap_err(), EventError::PostTooLong { at: 0 });
}

#[test]
fn a_changed_bit_breaks_the_signature() {
    let mut signed = hex_of(&vectors()["like"]["signed_event_hex"]).to_vec();
    let last = signed.len() - 1;
    signed[last] ^= 1;
    assert_eq!(accept(signed.into()).unwrap_err(), EventError::Signature { at: 0 });
}

#[test]
fn many_signatures_are_judged_as_each_alone() {
    for broken in [None, Some(0), Some(7), Some(19)] {
        let mut writers: Vec<_> = (0..3_u8)
            .map(|n| {
                (SigningKey::from_seed([n; 32]), EventWriter::new(ProcessId::from_bytes([n; 16])))
            })
            .collect();
        let signed = |n: usize| {
            let (key, writer) = &mut writers[n % 3];
            writer.write(key, Draft::post(&n.to_string(), None), 10).unwrap().to_signed()
        };
        let mut events: Vec<SignedEvent> = (0..20).map(signed).collect();
        if let Some(at) = broken {
            // Another event's signature, which is good for that one.
            events[at].signature = events[(at + 3) % 20].signature.clone();
        }
        let body = Bytes::from(Events { events }.encode_to_vec());
        let alone = verify_all(parse_events(body.clone()).unwrap());
        let together = verify_many(parse_events(body).unwrap(), rand_core::OsRng);
        let clocks = |found: &Result<Vec<Event>, EventError>| {
            found.as_ref().map(|all| all.iter().map(Event::key).collect::<Vec<_>>()).map_err(|e| *e)
        };
        assert_eq!(clocks(&together), clocks(&alone));
        assert_eq!(together.err(), broken.map(|at| EventError::Signature { at }));
    }
}

#[test]
fn a_pointer_needs_its_parts() {
    let good = hex_of(&vectors()["post"]["pointer_hex"]);
    let good = PointerMessage::decode(good).unwrap();
    assert!(Pointer::from_message(&good).is_ok());
    let short = PointerMessage { event_digest: None, ..good.clone() };
    assert_eq!(Pointer::from_message(&short), Err(WireError::Missing("digest")));
    let mut wrong = good;
    wrong.event_digest.as_mut().unwrap().digest_type = 2;
    assert_eq!(Pointer::from_message(&wrong), Err(WireError::DigestType));
}
