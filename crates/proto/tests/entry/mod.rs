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
    mls::{Head, KeyPackage},
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
