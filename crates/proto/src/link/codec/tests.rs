use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::{
    call::Json,
    link::message::{NodeRef, NodeType},
};

fn raw(text: &str) -> Json {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn call() -> Message {
    Message {
        message_id: Some("7".into()),
        source_node: Some(NodeRef {
            node_type: NodeType::Home,
            id: "alice.home".parse().unwrap(),
            main_relay: Some("hub-a".parse().unwrap()),
        }),
        routing_path: vec!["alice.home".parse().unwrap()],
        ttl: Some(4),
        server_name: Some("blog".into()),
        method: Some("read".into()),
        jsonrpc_request: Some(raw(r#"{"id":1}"#)),
        deadline_ms: Some(60_000),
        ..Message::new(MessageType::Request)
    }
}

fn encoded(frame: &Frame, encoding: Encoding) -> Vec<u8> {
    let mut out = Vec::new();
    encode(frame, encoding, &mut out);
    out
}

fn one(bytes: &[u8], encoding: Encoding) -> Frame {
    let (frame, rest) = decode_first(bytes, encoding).unwrap();
    assert!(rest.is_empty());
    frame.unwrap()
}

/// The bytes on the wire are pinned: another version must still read them.
#[test]
fn golden_vectors() {
    let call = Frame::Message(call());
    let text = r#"{"type":"request","message_id":"7","source_node":{"type":"home","id":"alice.home","main_relay":"hub-a"},"routing_path":["alice.home"],"ttl":4,"server_name":"blog","method":"read","jsonrpc_request":{"id":1},"deadline_ms":60000}"#;
    assert_eq!(String::from_utf8(encoded(&call, Encoding::Json)).unwrap(), text);
    let cbor = concat!(
        "a9647479706567726571756573746a6d6573736167655f696461376b736f757263655f6e6f6465a3",
        "647479706564686f6d656269646a616c6963652e686f6d656a6d61696e5f72656c6179656875622d",
        "616c726f7574696e675f70617468816a616c6963652e686f6d656374746c046b7365727665725f6e",
        "616d6564626c6f67666d6574686f6464726561646f6a736f6e7270635f72657175657374d9010648",
        "7b226964223a317d6b646561646c696e655f6d7319ea60",
    );
    assert_eq!(hex::encode(encoded(&call, Encoding::Cbor)), cbor);

    let piece = Frame::Stream(StreamPiece {
        stream_id: 3,
        bytes: b"hi\xff".to_vec(),
        end: Some(StreamEnd::Finished),
    });
    let text = r#"{"type":"stream","stream_id":3,"data":"aGn_","fin":true}"#;
    assert_eq!(String::from_utf8(encoded(&piece, Encoding::Json)).unwrap(), text);
    let cbor = "a464747970656673747265616d6973747265616d5f696403646461746143 6869ff6366696ef5";
    assert_eq!(hex::encode(encoded(&piece, Encoding::Cbor)), cbor.replace(' ', ""));

    let credit = Frame::Credit(Credit { stream_id: 3, bytes: 65_536, stop: false });
    let text = r#"{"type":"credit","stream_id":3,"bytes":65536}"#;
    assert_eq!(String::from_utf8(encoded(&credit, Encoding::Json)).unwrap(), text);
    let cbor = "a36474797065666372656469746973747265616d5f6964036562797465731a00010000";
    assert_eq!(hex::encode(encoded(&credit, Encoding::Cbor)), cbor);
}

#[test]
fn several_frames_follow_each_other_in_one_binary_message() {
    let mut bytes = encoded(&Frame::Message(call()), Encoding::Cbor);
    let credit = Credit { stream_id: 1, bytes: 2, stop: true };
    encode_credit(&credit, Encoding::Cbor, &mut bytes);
    let (first, rest) = decode_first(&bytes, Encoding::Cbor).unwrap();
    assert!(matches!(first, Some(Frame::Message(m)) if m.message_id.as_deref() == Some("7")));
    assert!(matches!(one(rest, Encoding::Cbor), Frame::Credit(read) if read == credit));
}

#[test]
fn unknown_members_and_types_are_passed_over() {
    let text = br#"{"type":"heartbeat","colour":{"deep":[1]},"data":{"load":1}}"#;
    assert!(matches!(one(text, Encoding::Json), Frame::Message(m) if m.data.is_some()));
    assert!(decode_first(br#"{"type":"later"}"#, Encoding::Json).unwrap().0.is_none());
    // {"type":"later","x":[_ 1]} then {"type":"credit",…}: the second is still read.
    let mut bytes = hex::decode("a2647479706565 6c617465726178 9f01ff".replace(' ', "")).unwrap();
    encode_credit(&Credit { stream_id: 1, bytes: 2, stop: false }, Encoding::Cbor, &mut bytes);
    let (unknown, rest) = decode_first(&bytes, Encoding::Cbor).unwrap();
    assert!(unknown.is_none() && matches!(one(rest, Encoding::Cbor), Frame::Credit(_)));
}

#[test]
fn what_could_be_understood_in_two_ways_is_refused() {
    let refused = |hexed: &str| {
        decode_first(&hex::decode(hexed.replace(' ', "")).unwrap(), Encoding::Cbor).unwrap_err()
    };
    // ttl twice
    let twice = "a3 6474797065 6572657175 6374746c 04 6374746c 05";
    assert!(matches!(refused(twice), CodecError::Malformed(_) | CodecError::Twice("ttl")));
    let twice = "a3 6474797065 656572726f72 6374746c 04 6374746c 05";
    assert_eq!(refused(twice), CodecError::Twice("ttl"));
    // data with bytes that are no JSON
    let torn = "a2 6474797065 656572726f72 6464617461 d90106 417b";
    assert_eq!(refused(torn), CodecError::Member("data"));
    // data of a message as bare bytes
    let bare = "a2 6474797065 656572726f72 6464617461 417b";
    assert_eq!(refused(bare), CodecError::Member("data"));
    assert_eq!(refused("a0"), CodecError::Member("type"));
    let twice = br#"{"type":"error","ttl":4,"ttl":5}"#;
    assert!(decode_first(twice, Encoding::Json).is_err());
}

#[test]
fn every_text_and_list_has_a_bound() {
    let long = "x".repeat(MAX_TEXT + 1);
    for (message, member) in [
        (Message { message_id: Some(long.clone()), ..call() }, "message_id"),
        (Message { method: Some(long.clone()), ..call() }, "method"),
        (Message { trace: Some(long), ..call() }, "trace"),
        (Message { priority: Some(10), ..call() }, "priority"),
        (
            Message { routing_path: vec!["a".parse().unwrap(); MAX_PATH + 1], ..call() },
            "routing_path",
        ),
    ] {
        for encoding in Encoding::ALL {
            let bytes = encoded(&Frame::Message(message.clone()), encoding);
            let error = decode_first(&bytes, encoding).unwrap_err();
            assert_eq!(error, CodecError::Member(member), "{encoding:?}");
        }
    }
}

#[test]
fn subprotocols_are_chosen() {
    assert_eq!(Encoding::choose("relay.link.v1+json, relay.link.v1+cbor"), Encoding::Cbor);
    assert_eq!(Encoding::choose("relay.link.v1+json"), Encoding::Json);
    assert_eq!(Encoding::choose(""), Encoding::Json);
}

fn any_node() -> impl Strategy<Value = NodeRef> {
    (any::<bool>(), "[a-z0-9][a-z0-9._-]{0,20}", proptest::option::of("[a-z0-9]{1,20}")).prop_map(
        |(main, id, hub)| NodeRef {
            node_type: if main { NodeType::Main } else { NodeType::Home },
            id: id.parse().unwrap(),
            main_relay: hub.map(|hub| hub.parse().unwrap()),
        },
    )
}

fn any_json() -> impl Strategy<Value = Json> {
    ("\\PC{0,40}", any::<i64>(), any::<bool>()).prop_map(|(text, number, list)| {
        let value = serde_json::json!({"t": text, "n": number});
        raw(&if list { format!("[{value}]") } else { value.to_string() })
    })
}

prop_compose! {
    fn any_message()(
        kind in 0..TYPES.len(),
        texts in proptest::array::uniform7(proptest::option::of("\\PC{0,30}")),
        nodes in proptest::array::uniform2(proptest::option::of(any_node())),
        path in proptest::collection::vec("[a-z0-9][a-z0-9._-]{0,20}", 0..5),
        small in proptest::array::uniform2(proptest::option::of(0..10_u8)),
        json in proptest::array::uniform2(proptest::option::of(any_json())),
        timeout in any::<Option<u32>>(),
        large in any::<[Option<u64>; 2]>(),
    ) -> Message {
        let kind = TYPES[kind].0;
        let is_message = !matches!(kind, MessageType::Stream | MessageType::Credit);
        let [message_id, correlation_id, timestamp, server_name, method, trace, key] = texts;
        let [source_node, destination_node] = nodes;
        let [jsonrpc_request, data] = json;
        Message {
            message_type: if is_message { kind } else { MessageType::Request },
            message_id,
            correlation_id,
            timestamp,
            source_node,
            destination_node,
            routing_path: path.into_iter().map(|id| id.parse().unwrap()).collect(),
            ttl: small[0],
            server_name,
            method,
            jsonrpc_request,
            data,
            priority: small[1],
            timeout_seconds: timeout,
            deadline_ms: large[0],
            trace,
            idempotency_key: key,
            stream_id: large[1],
        }
    }
}

proptest! {
    #[test]
    fn messages_survive_both_encodings(message in any_message()) {
        let text = serde_json::to_string(&message).unwrap();
        for encoding in Encoding::ALL {
            let Frame::Message(read) = one(&encoded(&Frame::Message(message.clone()), encoding), encoding)
                else { panic!("no message") };
            prop_assert_eq!(&serde_json::to_string(&read).unwrap(), &text);
        }
    }

    #[test]
    fn pieces_survive_both_encodings(
        stream_id in any::<u64>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        end in 0..3,
        why in "\\PC{0,30}",
    ) {
        let end = match end {
            0 => None,
            1 => Some(StreamEnd::Finished),
            _ => Some(StreamEnd::Failed(why)),
        };
        let piece = StreamPiece { stream_id, bytes, end };
        for encoding in Encoding::ALL {
            let Frame::Stream(read) = one(&encoded(&Frame::Stream(piece.clone()), encoding), encoding)
                else { panic!("no piece") };
            prop_assert_eq!(&read, &piece);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for encoding in Encoding::ALL {
            let _ = decode_first(&bytes, encoding);
        }
    }
}
