//! Every decoder against damaged input: good samples with bits, bytes and pieces changed at random.
//!
//! Bounded, and the same each time, so that it can run in every test; `make fuzz` goes further.
//! `RELAY_MUTATIONS` sets the number of inputs a decoder, `RELAY_SEED` another sequence.

#![allow(clippy::unwrap_used, reason = "samples are good, or the test fails")]

mod entry;

use relay_proto::{
    Cursor, Position, SigningKey,
    auth::{DeviceId, request::sign_request, signed_token::Claims},
    event::Draft,
    frame,
    link::{
        Credit, Encoding, Frame, Message, MessageType, NodeRef, NodeType, StreamPiece,
        codec::{StreamEnd, encode},
        handshake::{Identity, Initiator, Offer, error_message},
    },
    mls::decode_base64,
};
use relay_testkit::mls::MlsDevice;

/// xorshift64*: small, and all that is asked of it is variety.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What decoders trip over: ends, escapes, nesting, numbers at their limits, text that is not UTF-8.
const PIECES: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\\ud83d\\ude00",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"null",
    b"-0",
    b"1e400",
    b"18446744073709551616",
    b"9223372036854775808",
    b"65536",
    b"\x00",
    b"\xff\xfe",
    b"\xf0\x9f\xa6\x80",
    b"\xed\xa0\x80",
    b"[[[[[[[[[[[[[[[[",
    b"\"d\"",
    b"\"ns\"",
    b"\"fence\"",
    b"\"id\":\"\",",
];

fn mutate(sample: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(12)).min(bytes.len());
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.below(256) as u8,
            2 => drop(bytes.drain(at..end)),
            3 => bytes.truncate(at),
            4 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                let piece = PIECES[random.below(PIECES.len())];
                bytes.splice(at..end, piece.iter().copied());
            }
        }
    }
    bytes
}

fn run(name: &str, samples: &[Vec<u8>], entry: fn(&[u8])) {
    let seed = number("RELAY_SEED", 0x5eed).max(1);
    let mut random = Random(seed);
    samples.iter().for_each(|sample| entry(sample));
    for round in 0..number("RELAY_MUTATIONS", 20_000) {
        let input = mutate(&samples[random.below(samples.len())], &mut random);
        if std::panic::catch_unwind(|| entry(&input)).is_err() {
            panic!("{name}, seed {seed}, round {round}: {}", String::from_utf8_lossy(&input));
        }
    }
}

#[test]
fn events() {
    let key = SigningKey::from_seed([7; 32]);
    let sample = |kind, tags: &[&[&str]], content: &str| {
        let tags = tags.iter().copied().collect();
        let draft =
            Draft { kind, created_at_ns: 1_766_793_600_123_456_789, tags, content: content.into() };
        draft.sign(&key).unwrap().json().to_vec()
    };
    let mut samples = vec![
        sample(1, &[], "hello"),
        sample(
            30_001,
            &[&["d", "site/prod"], &["ns", "forge/web"], &["fence", "site/prod", "17"]],
            "{}",
        ),
        sample(
            1,
            &[&["t", "caf\u{e9}", "\u{1f980}"], &["expiration", "1999999999"]],
            "\u{1}\n\"\\",
        ),
    ];
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("vectors/events.json")).unwrap();
    for list in ["sshsig", "valid", "invalid"] {
        samples.extend(
            vectors[list]
                .as_array()
                .unwrap()
                .iter()
                .map(|case| case["event"].to_string().into_bytes()),
        );
    }
    samples.push(vectors["rotation"]["event"].to_string().into_bytes());
    run("event", &samples, entry::event);
}

#[test]
fn filters() {
    let samples = [
        r#"{}"#,
        r#"{"ids":["00"],"kinds":[1,30001],"tag.t":["a","b"],"tag.d":[""],"ns":["forge/web"]}"#,
        r#"{"authors":["ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541"],"since_ns":"1","until_ns":"9223372036854775807","tag.":["x"],"unknown":{"a":[]}}"#,
    ];
    run("filter", &samples.map(|text| text.as_bytes().to_vec()), entry::filter);
}

#[test]
fn cursors() {
    let positions = [
        Position::AfterSeq(0),
        Position::BeforeSeq(u64::MAX),
        Position::AfterTime(1_766_793_600_123_456_789, 42),
        Position::BeforeTime(0, 1),
    ];
    let samples = positions.map(|position| Cursor { log: 7, position }.encode().into_bytes());
    run("cursor", &samples, entry::cursor);
}

#[test]
fn frames() {
    let samples = [
        frame::encode("event.publish", Some("q7"), &serde_json::json!({"event": {"kind": 1}})),
        r#"{"v":1,"t":"ping","id":"\u0041","ts":1766793600123,"body":{}}"#.to_owned(),
        r#"{ "v" : 1 , "t" : "stream.subscribe" , "body" : { "sub" : "a" , "filters" : [ { } ] } }"#.to_owned(),
        r#"{"v":2,"t":"x"}"#.to_owned(),
    ];
    run("frame", &samples.map(String::into_bytes), entry::frame);
}

#[test]
fn proofs() {
    let key = SigningKey::from_seed([7; 32]);
    let claims = Claims {
        v: 1,
        sub: key.node_id(),
        aud: "gw_local".into(),
        dev: DeviceId::new("d").unwrap(),
        iat: 1_000,
        exp: 2_000,
        jti: "j".into(),
        crd: None,
    };
    let url = "http://relay.example/v1/whoami";
    let request = sign_request(&key, "GET", url, b"", 1_000, "n").unwrap();
    let samples = [
        claims.sign(&key),
        format!("cr1.ch_{}.{}", "A".repeat(22), "A".repeat(86)),
        request.strip_prefix("Relay ").unwrap().to_owned(),
        format!("st_{}", "A".repeat(43)),
    ];
    run("proof", &samples.map(String::into_bytes), entry::proof);
}

#[test]
fn mls() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("vectors/mls-vectors.json")).unwrap();
    let messages = vectors["ds_header"].as_array().unwrap().iter();
    let mut samples: Vec<Vec<u8>> =
        messages.map(|case| decode_base64(case["message"].as_str().unwrap()).unwrap()).collect();
    samples.push(MlsDevice::new(1, 2).key_package_with(10_000, 20_000, 15_000));
    run("mls", &samples, entry::mls);
}

/// Messages of a link as this program writes them, and some as another might.
#[allow(clippy::unwrap_used, reason = "the names are right here")]
fn link_samples() -> Vec<Vec<u8>> {
    let raw = |text: &str| serde_json::value::RawValue::from_string(text.into()).ok();
    let identity = Identity {
        relay: "alice.home".parse().unwrap(),
        node_type: NodeType::Home,
        key: SigningKey::from_seed([7; 32]),
        version: "0.1.0".into(),
        features: vec!["probe".into()],
    };
    let call = Message {
        message_id: Some("7".into()),
        source_node: Some(NodeRef {
            node_type: NodeType::Home,
            id: "alice.home".parse().unwrap(),
            main_relay: Some("hub-a".parse().unwrap()),
        }),
        routing_path: vec!["alice.home".parse().unwrap()],
        ttl: Some(4),
        server_name: Some("blog".into()),
        jsonrpc_request: raw(r#"{"id":1,"params":{"a":["\u0041"]}}"#),
        data: raw("{}"),
        deadline_ms: Some(60_000),
        stream_id: Some(1),
        ..Message::new(MessageType::Request)
    };
    let answer = Message {
        correlation_id: Some("1".into()),
        stream_id: Some(1),
        ..Message::new(MessageType::Response)
    };
    let problem = relay_proto::Problem::invalid("no");
    let piece = |end| Frame::Stream(StreamPiece { stream_id: 1, bytes: b"abc".to_vec(), end });
    let frames = [
        Frame::Message(Initiator::new(&identity, Offer::HOME, &[3; 32]).hello()),
        Frame::Message(call),
        Frame::Message(answer),
        Frame::Message(error_message(&problem)),
        piece(None),
        piece(Some(StreamEnd::Finished)),
        piece(Some(StreamEnd::Failed("gone".into()))),
        Frame::Credit(Credit { stream_id: 2, bytes: 65_536, stop: false }),
        Frame::Credit(Credit { stream_id: 2, bytes: 0, stop: true }),
    ];
    let mut samples = Vec::new();
    for encoding in Encoding::ALL {
        let mut all = Vec::new();
        for frame in &frames {
            let mut bytes = Vec::new();
            encode(frame, encoding, &mut bytes);
            all.extend_from_slice(&bytes);
            if encoding == Encoding::Json {
                all.push(b'\n');
            }
            samples.push(bytes);
        }
        samples.push(all);
    }
    samples
}

#[test]
fn links() {
    run("link", &link_samples(), entry::link);
}

#[test]
fn sessions() {
    run("session", &link_samples(), entry::session);
}

#[test]
fn registries() {
    use relay_proto::registry::{Gossip, Limits, Output, Registry, ServiceRecord, Timing};
    let relay = |text: &str| text.parse::<relay_proto::RelayId>().unwrap();
    let now = std::time::Duration::from_secs(1);
    let (a, b) = (relay("hub-a"), relay("hub-b"));
    let mut hub = Registry::new(b, 2, Timing::default(), Limits::default());
    hub.peer_up(now, &a);
    for (n, home) in ["alice", "bob", "carol"].into_iter().enumerate() {
        let key = SigningKey::from_seed([n as u8 + 7; 32]).node_id();
        hub.attach(now, &relay(home), NodeType::Home, key, Some(9), None).unwrap();
        let service = ServiceRecord::new(format!("{home}-service").parse().unwrap(), "1.2.3");
        hub.register(now, &relay(home), vec![service], true).unwrap();
    }
    hub.detach(now, &relay("bob"), 9);
    hub.tick(now);
    let everything = r#"{"kind":"pull","incarnation":"7","after":0,"everything":true}"#;
    hub.receive(now, &a, serde_json::from_str(everything).unwrap());
    let mut lines = vec![everything.to_owned()];
    while let Some(output) = hub.poll() {
        if let Output::Send(_, gossip) = output {
            assert!(matches!(gossip, Gossip::Digest(_) | Gossip::Delta(_)));
            lines.push(serde_json::to_string(&gossip).unwrap());
        }
    }
    assert!(lines.len() >= 4, "a digest, a delta and everything");
    lines.reverse();
    let mut samples: Vec<Vec<u8>> = lines.iter().cloned().map(String::into_bytes).collect();
    samples.push(lines.join("\n").into_bytes());
    run("gossip", &samples, entry::gossip);
}

/// Everything that the vectors of the social layer hold in hex.
fn social_samples() -> Vec<Vec<u8>> {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("vectors/polycentric.json")).unwrap();
    let mut samples = vec![
        hex::decode(vectors["post_events_body_of_username_and_post_hex"].as_str().unwrap())
            .unwrap(),
    ];
    for vector in vectors.as_object().unwrap().values() {
        let Some(signed) = vector["signed_event_hex"].as_str() else { continue };
        let signed = hex::decode(signed).unwrap();
        // One event as the body of an upload.
        let mut body = vec![0x0a];
        let mut left = signed.len();
        while left >= 0x80 {
            body.push(left as u8 | 0x80);
            left >>= 7;
        }
        body.push(left as u8);
        body.extend_from_slice(&signed);
        samples.push(body);
    }
    samples
}

#[test]
fn social_events() {
    run("social_events", &social_samples(), entry::social_events);
}

#[test]
fn social_params() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("vectors/polycentric.json")).unwrap();
    let mut samples = social_samples();
    for text in vectors["query"].as_object().unwrap().values() {
        let text = text.as_str().unwrap();
        samples.push(text.as_bytes().to_vec());
        samples.extend(relay_proto::polycentric::decode_param(text).map(|bytes| bytes.to_vec()));
    }
    samples.push(hex::decode(vectors["challenge"]["response_hex"].as_str().unwrap()).unwrap());
    run("social_params", &samples, entry::social_params);
}
