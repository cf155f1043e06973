//! The entry points through which foreign bytes come in, each with what must hold of any input.
//!
//! Shared by `mutations.rs`, which runs in every test, and by the fuzz targets in `fuzz/`.

#![allow(clippy::unwrap_used, reason = "what is broken here is a finding")]

use relay_proto::{
    Cursor, Event, EventLimits, Filter,
    auth::{
        AuthProof, DeviceId, SessionToken, SignedRequest, credential_hash, signed_token::Expected,
    },
    event::{parse_event, rotation_of, verify},
    frame::{Frame, encode},
    link::{
        self, Encoding, MessageType, NodeType,
        codec::decode_first,
        handshake::{Acceptor, AuthMethod, Identity, Offer},
        session::{Config, Pace, Session},
    },
    mls::{Head, KeyPackage},
    polycentric as social,
    registry::{Gossip, Limits, Output, Registry, Timing},
};

/// An event: what verifies is stored in one form, and that form reads back as itself.
pub fn event(bytes: &[u8]) {
    let Ok(raw) = parse_event(bytes, &EventLimits::default()) else { return };
    let Ok(event) = verify(raw) else { return };
    let again = Event::from_stored(event.json().clone()).unwrap();
    assert_eq!(again.json(), event.json());
    assert_eq!(again.id(), event.id());
    let verified = verify(parse_event(event.json(), &EventLimits::default()).unwrap()).unwrap();
    assert_eq!(verified.json(), event.json());
    let _ = rotation_of(&event);
}

/// A filter: what is read is written and read again without a change.
pub fn filter(bytes: &[u8]) {
    let Ok(filter) = serde_json::from_slice::<Filter>(bytes) else { return };
    let text = serde_json::to_string(&filter).unwrap();
    let again: Filter = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), text);
    assert!(filter.terms() <= bytes.len());
}

/// A cursor: what is read is written the same, and only under the log that it names.
pub fn cursor(bytes: &[u8]) {
    const LOG: u32 = 7;
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(cursor) = Cursor::decode(text, LOG) else { return };
    assert_eq!(cursor.log, LOG);
    assert_eq!(Cursor::decode(&cursor.encode(), LOG).unwrap(), cursor);
    assert!(Cursor::decode(text, LOG + 1).is_err());
}

/// A frame: type, id and body survive being sent on.
pub fn frame(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(frame) = Frame::parse(text) else { return };
    let Ok(body) = frame.body::<&serde_json::value::RawValue>() else { return };
    let sent = encode(&frame.t, frame.id.as_deref(), &body);
    let again = Frame::parse(&sent).unwrap();
    assert_eq!((&again.t, &again.id, again.body), (&frame.t, &frame.id, frame.body));
}

/// What comes in an `auth_token` or an `Authorization` header: a token has one text; nothing that
/// was made up passes for the key holder's.
pub fn proof(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(token) = SessionToken::parse(text) {
        assert!(*token.reveal() == text);
    }
    if let Some(AuthProof::Signed(token)) = AuthProof::parse(text) {
        let device = DeviceId::new("d").unwrap();
        let expected = Expected {
            gateway_id: "gw_local",
            device: &device,
            credential_hash: &credential_hash(None),
            max_ttl_ms: 1_000,
            now_ms: 1_500,
        };
        if let Ok(claims) = token.check(&expected) {
            assert!((claims.iat, claims.exp) == (1_000, 2_000) && claims.jti == "j");
        }
    }
    if let Ok(request) = SignedRequest::parse(text, &EventLimits::default()) {
        let urls = ["http://relay.example/v1/whoami"];
        if request.check_target("GET", urls.into_iter(), 1_000).is_ok() {
            request.check_body(b"").unwrap();
        }
    }
}

/// An MLS message: a head tells a group of 32 bytes or nothing; a KeyPackage that verifies has one reference and
/// an end of its lifetime that both readings agree on.
pub fn mls(bytes: &[u8]) {
    if let Ok(head) = Head::parse(bytes)
        && let Some((group, epoch)) = head.place()
    {
        assert!(bytes.windows(32).any(|window| window == group));
        assert!(bytes.windows(8).any(|window| window == epoch.to_be_bytes()));
    }
    if let Ok(package) = KeyPackage::parse(bytes) {
        assert_eq!(KeyPackage::expiry_of(bytes), Some(package.not_after));
    }
}

/// What comes in a WebSocket message of a link: each frame that is read is written and read again
/// without a change, in both encodings.
pub fn link(bytes: &[u8]) {
    for encoding in Encoding::ALL {
        let mut rest = bytes;
        while let Ok((frame, behind)) = decode_first(rest, encoding) {
            assert!(behind.len() < rest.len() || rest.is_empty());
            if let Some(frame) = frame {
                for other in Encoding::ALL {
                    assert_eq!(text(&again(&frame, other)), text(&frame));
                }
            }
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
    }
}

fn again(frame: &link::Frame, encoding: Encoding) -> link::Frame {
    let mut bytes = Vec::new();
    link::codec::encode(frame, encoding, &mut bytes);
    decode_first(&bytes, encoding).unwrap().0.unwrap()
}

fn text(frame: &link::Frame) -> String {
    let mut bytes = Vec::new();
    link::codec::encode(frame, Encoding::Json, &mut bytes);
    String::from_utf8(bytes).unwrap()
}

/// A link at work and a handshake, fed with anything: they refuse or go on, and stay within their
/// bounds.
pub fn session(bytes: &[u8]) {
    let ours = Offer { budget: 64 * 1024, ..Offer::HOME };
    for encoding in Encoding::ALL {
        let pace = Pace::QUICK;
        let config =
            Config { encoding, dialled: false, ours, theirs: ours, pace, answers_heartbeats: true };
        let now = std::time::Duration::ZERO;
        let mut session = Session::<u32, u32>::new(config, now);
        session.request(now, link::Message::new(MessageType::Request), true, 1).unwrap();
        let mut events = Vec::new();
        for chunk in bytes.split(|byte| *byte == b'\n') {
            if session.receive(now, chunk, &mut events).is_err() {
                break;
            }
        }
        let mut out = Vec::new();
        while session.transmit(&mut out) {
            out.clear();
        }
        assert_eq!(session.queued(), 0);
        handshake(bytes, encoding);
    }
}

fn handshake(bytes: &[u8], encoding: Encoding) {
    let Ok((Some(link::Frame::Message(hello)), rest)) = decode_first(bytes, encoding) else {
        return;
    };
    let identity = Identity {
        relay: "hub".parse().unwrap(),
        node_type: NodeType::Main,
        key: relay_proto::SigningKey::from_seed([9; 32]),
        version: "0".into(),
        features: Vec::new(),
    };
    let acceptor = Acceptor::new(&identity, Offer::MAIN, AuthMethod::ALL.to_vec(), [1; 32]);
    let Ok((answered, _)) = acceptor.on_hello(&hello) else { return };
    let Ok((Some(link::Frame::Message(auth)), _)) = decode_first(rest, encoding) else { return };
    // Nobody can have signed our nonce.
    assert!(answered.on_auth(&auth).is_err());
}

/// What a peer hub says about its homes: it can invent homes, and takes none that are another's.
pub fn gossip(bytes: &[u8]) {
    let said: Vec<Gossip> = bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    let relay = |text: &str| text.parse::<relay_proto::RelayId>().unwrap();
    let key = relay_proto::SigningKey::from_seed([7; 32]).node_id();
    let (me, peer, home) = (relay("hub-a"), relay("hub-b"), relay("alice"));
    let now = std::time::Duration::from_secs(1);
    let mut hub = Registry::new(me.clone(), 1, Timing::default(), Limits::default());
    let proof = relay_proto::registry::Proof::sign(
        &relay_proto::SigningKey::from_seed([7; 32]),
        &home,
        &me,
        1,
    );
    hub.attach(now, &home, NodeType::Home, key, Some(1), Some(proof)).unwrap();
    hub.peer_up(now, &peer);
    for gossip in said {
        let text = serde_json::to_string(&gossip).unwrap();
        assert_eq!(serde_json::from_str::<Gossip>(&text).unwrap(), gossip);
        hub.receive(now, &peer, gossip);
        let mut sent = 0;
        while let Some(output) = hub.poll() {
            assert!(matches!(output, Output::Send(..)));
            sent += 1;
        }
        assert!(sent <= 3, "one answer to one message, and what changed");
        assert_eq!(hub.home(&home).unwrap().main, me);
        let instances: usize = hub.all_homes().map(|claim| claim.attachment.services.len()).sum();
        assert_eq!(hub.size().1, instances);
    }
    hub.tick(now);
    hub.remove_peer(now, &peer);
    assert_eq!(hub.all_homes().count(), 1);
}

/// The body of an upload of the social layer: what is taken is stored under its own bytes and reads back the same.
pub fn social_events(bytes: &[u8]) {
    let Ok(raws) = social::parse_events(bytes.to_vec().into()) else { return };
    let Ok(events) = social::verify_all(raws) else { return };
    for event in events {
        let stored = social::Event::from_stored(*event.signature(), event.bytes().clone()).unwrap();
        assert_eq!(stored.key(), event.key());
        assert_eq!((stored.body(), stored.references()), (event.body(), event.references()));
        assert!(event.system().verifies(event.bytes(), event.signature()));
        let _ = (event.subject(), event.previous(social::content::SYSTEM_PROCESSES));
    }
}

/// Messages in query parameters, links, proofs: whatever they hold, reading them ends.
pub fn social_params(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(decoded) = social::decode_param(&text) {
        assert_eq!(social::decode_param(&social::encode_param(&decoded)).unwrap(), decoded);
    }
    let body = bytes::Bytes::copy_from_slice(bytes);
    if let Ok(ranges) = social::decode_message::<social::RangesForSystem>(body.clone()) {
        for of in &ranges.ranges_for_processes {
            let Ok(ranges) = social::Ranges::from_wire(&of.ranges) else { continue };
            assert_eq!(social::Ranges::from_wire(&ranges.to_wire()).unwrap(), ranges);
            assert!(ranges.without(&ranges).is_empty());
        }
    }
    if let Ok(asked) = social::decode_message::<social::QueryReferencesRequest>(body.clone())
        && let Some(reference) = &asked.reference
    {
        let _ = social::Reference::from_message(reference).map(|reference| reference.subject());
    }
    if let Ok(proof) = social::decode_message::<social::HarborValidateRequest>(body) {
        assert!(social::check_challenge(b"secret", &proof, 1_000).is_err());
    }
}
