use std::time::Duration;

use super::*;

fn identity(relay: &str, node_type: NodeType, seed: u8) -> Identity {
    Identity {
        relay: relay.parse().unwrap(),
        node_type,
        key: SigningKey::from_seed([seed; 32]),
        version: "0.1.0".into(),
        features: vec![FEATURE_PROBE.into()],
    }
}

fn spoke() -> Identity {
    identity("alice.home", NodeType::Home, 1)
}

fn hub() -> Identity {
    identity("hub-a", NodeType::Main, 2)
}

fn token() -> Credential {
    Credential::Token(Zeroizing::new("ot_secret".into()))
}

fn secret(text: &str) -> Credential {
    Credential::Secret(Zeroizing::new(text.as_bytes().to_vec()))
}

fn pinned(identity: &Identity) -> Expected {
    Expected { relay: Some(identity.relay.clone()), pin: Pin::Key(identity.key.node_id()) }
}

/// What is done to each message on its way.
type Change = fn(&mut Message);

/// What passes between the two, open to be changed on the way.
struct Handshake {
    expected: Expected,
    credentials: Vec<Credential>,
    methods: Vec<AuthMethod>,
    change: Change,
}

impl Handshake {
    fn run(self) -> Result<(Initiated, Claim), HandshakeError> {
        let (spoke, hub) = (spoke(), hub());
        let initiator = Initiator::new(&spoke, Offer::HOME, &[3; 32]);
        let acceptor = Acceptor::new(&hub, Offer::MAIN, self.methods, [4; 32]);
        let pass = |mut message: Message| {
            (self.change)(&mut message);
            message
        };
        let (answered, hello) = acceptor.on_hello(&pass(initiator.hello()))?;
        let (authenticating, auth) =
            initiator.on_hello(&pass(hello), &self.expected, &self.credentials)?;
        Ok((authenticating, answered.on_auth(&pass(auth))?))
    }
}

type Initiated = initiator::Authenticating;

fn plain() -> Handshake {
    Handshake {
        expected: pinned(&hub()),
        credentials: vec![token()],
        methods: AuthMethod::ALL.to_vec(),
        change: |_| {},
    }
}

fn edit(message: &mut Message, kind: MessageType, edit: impl Fn(&mut serde_json::Value)) {
    if message.message_type == kind {
        let mut data = serde_json::from_str(message.data.take().unwrap().get()).unwrap();
        edit(&mut data);
        message.data = Some(serde_json::value::to_raw_value(&data).unwrap());
    }
}

fn reason(handshake: Handshake) -> &'static str {
    handshake.run().map(|_| "none").unwrap_or_else(|error| error.reason())
}

#[test]
fn both_sides_learn_who_the_other_is() {
    let (initiated, claim) = plain().run().unwrap();
    assert_eq!(claim.peer.relay.as_str(), "alice.home");
    assert_eq!(claim.peer.key, spoke().key.node_id());
    assert_eq!(claim.token(), Some("ot_secret"));
    let welcome = claim.welcome(Duration::from_secs(15), Some("hub-a".parse().unwrap()), None);
    let welcome = initiated.on_welcome(&welcome).unwrap();
    assert_eq!(welcome.peer.relay.as_str(), "hub-a");
    assert_eq!(welcome.peer.offer, Offer::MAIN);
    assert_eq!(welcome.heartbeat, Duration::from_secs(15));
    assert!(welcome.peer.has_feature(FEATURE_PROBE));
}

/// The signed bytes are the specification's, letter by letter.
#[test]
fn the_signed_bytes_are_pinned() {
    let key = |seed| SigningKey::from_seed([seed; 32]).node_id();
    let transcript = Transcript {
        initiator: ("alice.home".parse().unwrap(), key(1), "nonce-i".into()),
        acceptor: ("hub-a".parse().unwrap(), key(2), "nonce-a".into()),
    };
    let expected = format!(
        "relay-link-v1\nacceptor\nalice.home\n{}\nhub-a\n{}\nnonce-i\nnonce-a",
        key(1),
        key(2)
    );
    assert_eq!(transcript.signed_bytes(Part::Acceptor), expected.as_bytes());
    let expected = expected.replace("\nacceptor\n", "\ninitiator\n");
    assert_eq!(transcript.signed_bytes(Part::Initiator), expected.as_bytes());
}

#[test]
fn every_forgery_is_told_apart() {
    use MessageType::{Auth, Hello};
    let changed = |change| reason(Handshake { change, ..plain() });
    // Whatever of the transcript is changed on the way, a signature no longer fits.
    let cases: [(&str, Change, &str); 9] = [
        ("relay_id", |m| edit(m, Hello, |d| d["relay_id"] = "mallory".into()), "bad_signature"),
        (
            "nonce",
            |m| {
                edit(m, Hello, |d| {
                    d["nonce"] = "BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ".into()
                })
            },
            "bad_signature",
        ),
        (
            "acceptor sig",
            |m| edit(m, Hello, |d| d["sig"] = "00".repeat(64).into()),
            "bad_signature",
        ),
        ("auth sig", |m| edit(m, Auth, |d| d["sig"] = "00".repeat(64).into()), "bad_signature"),
        ("short nonce", |m| edit(m, Hello, |d| d["nonce"] = "AAAA".into()), "malformed"),
        ("no version", |m| edit(m, Hello, |d| d["v"] = 0.into()), "unsupported_version"),
        (
            "order",
            |m| {
                if m.message_type == Auth {
                    m.message_type = Hello
                }
            },
            "unexpected_message",
        ),
        (
            "type",
            |m| {
                if m.message_type == Auth {
                    m.message_type = MessageType::Request
                }
            },
            "unexpected_message",
        ),
        ("long proof", |m| edit(m, Auth, |d| d["proof"] = "x".repeat(1000).into()), "malformed"),
    ];
    for (name, change, expected) in cases {
        assert_eq!(changed(change), expected, "{name}");
    }
}

#[test]
fn the_wrong_hub_gets_no_proof() {
    let other = identity("hub-a", NodeType::Main, 9);
    assert_eq!(reason(Handshake { expected: pinned(&other), ..plain() }), "wrong_key");
    let named = Expected { relay: Some("hub-b".parse().unwrap()), pin: Pin::FirstUse };
    assert_eq!(reason(Handshake { expected: named, ..plain() }), "wrong_relay");
    let none = Expected { relay: None, pin: Pin::None };
    assert_eq!(reason(Handshake { expected: none, ..plain() }), "not_pinned");
    let first = Expected { relay: None, pin: Pin::FirstUse };
    assert_eq!(reason(Handshake { expected: first, ..plain() }), "none");
}

#[test]
fn methods_must_meet() {
    assert_eq!(reason(Handshake { methods: vec![AuthMethod::Mtls], ..plain() }), "no_method");
    let credentials = vec![token(), Credential::Mtls];
    let (_, claim) =
        Handshake { methods: vec![AuthMethod::Mtls], credentials, ..plain() }.run().unwrap();
    assert_eq!((claim.method, claim.token()), (AuthMethod::Mtls, None));
}

#[test]
fn a_shared_secret_is_shown_by_both() {
    let run = || Handshake { credentials: vec![secret("s3cret")], ..plain() }.run().unwrap();
    let (initiated, claim) = run();
    assert!(claim.proves(b"s3cret") && !claim.proves(b"other") && !claim.proves(b""));
    let welcome = claim.welcome(Duration::from_secs(15), None, Some(b"s3cret"));
    assert!(initiated.on_welcome(&welcome).is_ok());
    for wrong in [Some(&b"other"[..]), None] {
        let (initiated, claim) = run();
        let welcome = claim.welcome(Duration::from_secs(15), None, wrong);
        let error = initiated.on_welcome(&welcome).unwrap_err();
        assert_eq!(error.reason(), "secret_unproven");
    }
    // A token is never taken for a proof by secret.
    let (_, claim) = plain().run().unwrap();
    assert!(!claim.proves(b"ot_secret"));
}

#[test]
fn a_recorded_auth_does_not_fit_another_handshake() {
    let (spoke, hub) = (spoke(), hub());
    let record = |nonce: u8| {
        let initiator = Initiator::new(&spoke, Offer::HOME, &[3; 32]);
        let acceptor = Acceptor::new(&hub, Offer::MAIN, AuthMethod::ALL.to_vec(), [nonce; 32]);
        let (answered, hello) = acceptor.on_hello(&initiator.hello()).unwrap();
        let (_, auth) = initiator.on_hello(&hello, &pinned(&hub), &[token()]).unwrap();
        (answered, auth)
    };
    let (_, recorded) = record(4);
    let (answered, _) = record(5);
    assert_eq!(answered.on_auth(&recorded).unwrap_err().reason(), "bad_signature");
}

#[test]
fn a_relay_does_not_link_to_itself() {
    let hub = hub();
    let initiator = Initiator::new(&hub, Offer::MAIN, &[3; 32]);
    let acceptor = Acceptor::new(&hub, Offer::MAIN, AuthMethod::ALL.to_vec(), [4; 32]);
    assert_eq!(acceptor.on_hello(&initiator.hello()).unwrap_err(), HandshakeError::Itself);
}

#[test]
fn a_newer_initiator_is_answered_with_what_both_know() {
    let mut hello = Initiator::new(&spoke(), Offer::HOME, &[3; 32]).hello();
    edit(&mut hello, MessageType::Hello, |data| {
        data["v"] = (VERSION + 1).into();
        data["later"] = true.into();
    });
    let hub = hub();
    let acceptor = Acceptor::new(&hub, Offer::MAIN, AuthMethod::ALL.to_vec(), [4; 32]);
    let (answered, hello) = acceptor.on_hello(&hello).unwrap();
    assert_eq!(answered.said().protocol, VERSION);
    let data: serde_json::Value = serde_json::from_str(hello.data.unwrap().get()).unwrap();
    assert_eq!(data["v"], VERSION);
}

#[test]
fn refusals_arrive_with_their_code() {
    let (initiated, _) = plain().run().unwrap();
    let problem = Problem::new(Code::Forbidden, "not on the list");
    let error = initiated.on_welcome(&error_message(&problem)).unwrap_err();
    assert_eq!(error, HandshakeError::Refused(problem));
    let codes = [Code::Unauthorized, Code::Forbidden, Code::Conflict].map(close_code);
    assert_eq!(codes, [4401, 4403, 4409]);
}

#[test]
fn nothing_secret_is_shown() {
    let (initiated, claim) =
        Handshake { credentials: vec![secret("s3cret")], ..plain() }.run().unwrap();
    let shown = format!("{initiated:?} {claim:?} {:?} {:?}", secret("s3cret"), token());
    assert!(!shown.contains("s3cret") && !shown.contains("ot_secret"));
}
