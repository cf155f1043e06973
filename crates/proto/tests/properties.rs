//! Properties of the codecs: what goes out comes back, whatever it holds.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use proptest::{collection::vec, prelude::*};
use relay_proto::{
    Code, Cursor, Event, EventId, EventLimits, Filter, Namespace, NodeId, Position, Problem,
    SigningKey,
    event::{Class, Draft, Tags, Verifier, class_of, parse_event, verify},
    frame::{Frame, encode, encode_error},
};

/// Any text: the whole of Unicode, control characters included.
fn text(max: usize) -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..max).prop_map(String::from_iter)
}

/// Tags of any names and elements, but none of those with rules of their own.
fn free_tags() -> impl Strategy<Value = Vec<Vec<String>>> {
    let reserved = |name: &String| matches!(name.as_str(), "d" | "ns" | "fence" | "expiration");
    let name = text(12).prop_filter("reserved", move |name| !reserved(name));
    let tag = (name, vec(text(24), 0..4))
        .prop_map(|(name, rest)| std::iter::once(name).chain(rest).collect::<Vec<_>>());
    vec(tag, 0..8)
}

fn draft() -> impl Strategy<Value = Draft> {
    (any::<u16>(), 0..(1_u64 << 63), free_tags(), text(200)).prop_map(
        |(kind, created_at_ns, mut tags, content)| {
            if class_of(kind) == Class::Addressable {
                tags.push(vec!["d".into(), "x".into()]);
            }
            Draft { kind, created_at_ns, tags: Tags::from_iter(tags), content }
        },
    )
}

fn key() -> impl Strategy<Value = SigningKey> {
    any::<[u8; 32]>().prop_map(SigningKey::from_seed)
}

fn node_id() -> impl Strategy<Value = NodeId> {
    key().prop_map(|key| key.node_id())
}

fn namespace() -> impl Strategy<Value = Namespace> {
    "[a-z0-9._-]{1,8}(/[a-z0-9._-]{1,8}){0,7}".prop_map(|text| text.parse().unwrap())
}

fn filter() -> impl Strategy<Value = Filter> {
    let lists = (
        vec(any::<[u8; 32]>().prop_map(EventId::from_bytes), 0..3),
        vec(node_id(), 0..3),
        vec(any::<u16>(), 0..4),
        vec((text(6), vec(text(8), 1..3)), 0..3),
        vec(namespace(), 0..3),
    );
    let time = || proptest::option::of(0..(1_u64 << 63));
    (lists, time(), time()).prop_map(|((ids, authors, kinds, tags, ns), since_ns, until_ns)| {
        let mut filter =
            Filter { ids, authors, kinds, ns, since_ns, until_ns, ..Filter::default() };
        for (name, values) in tags {
            filter.add_tag(&name, values);
        }
        filter
    })
}

proptest! {
    #[test]
    fn a_signed_event_comes_back_whole(draft in draft(), key in key()) {
        let event = draft.sign(&key).unwrap();
        let read = verify(parse_event(event.json(), &EventLimits::default()).unwrap()).unwrap();
        prop_assert_eq!(read.json(), event.json());
        prop_assert_eq!(read.pubkey(), key.node_id());
        prop_assert_eq!(read.kind(), draft.kind);
        prop_assert_eq!(read.created_at_ns(), draft.created_at_ns);
        prop_assert_eq!(read.tags(), &draft.tags);
        prop_assert_eq!(read.content(), draft.content);
        let stored = Event::from_stored(event.json().clone()).unwrap();
        prop_assert_eq!((stored.id(), stored.version()), (event.id(), event.version()));
    }

    #[test]
    fn white_space_unknown_members_and_their_order_change_nothing(draft in draft(), key in key()) {
        let event = draft.sign(&key).unwrap();
        let value: serde_json::Value = serde_json::from_slice(event.json()).unwrap();
        let members: Vec<_> = value.as_object().unwrap().iter().rev().collect();
        let mut text = String::from("\n{ \"extra\" : { \"id\" : 1 } ");
        for (name, member) in members {
            text += &format!(",\n\t\"{name}\" : {member} ");
        }
        text += "}\n";
        let read = verify(parse_event(text.as_bytes(), &EventLimits::default()).unwrap()).unwrap();
        prop_assert_eq!(read.json(), event.json());
    }

    #[test]
    fn a_batch_says_what_each_would_say_alone(
        drafts in vec((draft(), key(), any::<Option<u8>>()), 1..12),
    ) {
        let raws: Vec<_> = drafts
            .into_iter()
            .map(|(draft, key, damage)| {
                let event = draft.sign(&key).unwrap();
                let mut value: serde_json::Value = serde_json::from_slice(event.json()).unwrap();
                if let Some(digit) = damage {
                    let sig = value["sig"].as_str().unwrap();
                    value["sig"] = format!("{:02x}{}", digit, &sig[2..]).into();
                }
                parse_event(value.to_string().as_bytes(), &EventLimits::default()).unwrap()
            })
            .collect();
        let alone: Vec<_> = raws.iter().cloned().map(|raw| verify(raw).map(|e| e.id())).collect();
        let many = Verifier::default().verify_many(raws, rand_core::OsRng);
        let many: Vec<_> = many.into_iter().map(|outcome| outcome.map(|e| e.id())).collect();
        prop_assert_eq!(alone, many);
    }

    #[test]
    fn tags_come_back_from_json(tags in free_tags()) {
        let packed = Tags::from_iter(tags.clone());
        let json = serde_json::to_string(&packed).unwrap();
        prop_assert_eq!(&json, &serde_json::to_string(&tags).unwrap());
        prop_assert_eq!(serde_json::from_str::<Tags>(&json).unwrap(), packed.clone());
        let unpacked: Vec<Vec<String>> =
            packed.iter().map(|tag| tag.elements().map(str::to_owned).collect()).collect();
        prop_assert_eq!(unpacked, tags);
    }

    #[test]
    fn a_cursor_comes_back_under_its_log_alone(
        log in any::<u32>(), other in any::<u32>(), a in any::<u64>(), b in any::<u64>(), which in 0..4_u8,
    ) {
        let position = match which {
            0 => Position::AfterSeq(a),
            1 => Position::BeforeSeq(a),
            2 => Position::AfterTime(a, b),
            _ => Position::BeforeTime(a, b),
        };
        let cursor = Cursor { log, position };
        prop_assert_eq!(Cursor::decode(&cursor.encode(), log), Ok(cursor));
        prop_assert_eq!(Cursor::decode(&cursor.encode(), other).is_ok(), other == log);
    }

    #[test]
    fn a_filter_comes_back_from_json(filter in filter()) {
        let json = serde_json::to_string(&filter).unwrap();
        let read: Filter = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(serde_json::to_string(&read).unwrap(), json);
        prop_assert_eq!(read, filter);
    }

    #[test]
    fn a_filter_made_of_an_event_matches_it(draft in draft(), key in key(), other in key()) {
        let event = draft.sign(&key).unwrap();
        let mut filter = Filter {
            ids: vec![event.id()],
            authors: vec![event.pubkey()],
            kinds: vec![event.kind()],
            ns: vec![event.namespace().clone()],
            since_ns: Some(event.created_at_ns()),
            until_ns: Some(event.created_at_ns()),
            ..Filter::default()
        };
        for tag in event.tags().iter() {
            if let (Some(name), Some(value)) = (tag.name(), tag.value()) {
                filter.add_tag(name, [value.to_owned()]);
            }
        }
        prop_assert!(filter.matches(&event));
        prop_assert!(Filter::default().matches(&event));
        let wrong_author = Filter { authors: vec![other.node_id()], ..filter.clone() };
        prop_assert_eq!(wrong_author.matches(&event), other.node_id() == key.node_id());
        let wrong_kind = Filter { kinds: vec![event.kind().wrapping_add(1)], ..filter.clone() };
        prop_assert!(!wrong_kind.matches(&event));
        if event.created_at_ns() > 0 {
            let too_early = Filter { until_ns: Some(event.created_at_ns() - 1), ..filter };
            prop_assert!(!too_early.matches(&event));
        }
    }

    #[test]
    fn a_frame_comes_back_whole(t in text(20), id in proptest::option::of(text(20)), word in text(40)) {
        let body = serde_json::json!({"word": word, "number": 7});
        let sent = encode(&t, id.as_deref(), &body);
        let frame = Frame::parse(&sent).unwrap();
        prop_assert_eq!((&*frame.t, frame.id.as_deref()), (t.as_str(), id.as_deref()));
        prop_assert_eq!(frame.body::<serde_json::Value>().unwrap(), body);
    }

    #[test]
    fn an_error_frame_carries_code_message_and_extras(message in text(40), which in 0..Code::ALL.len()) {
        let code = Code::ALL[which];
        let problem = Problem::new(code, message.clone()).with("retry_after_ms", 5);
        let sent = encode_error(Some("q"), &problem);
        let body: serde_json::Value = Frame::parse(&sent).unwrap().body().unwrap();
        let wanted = serde_json::json!({"code": code.as_str(), "message": message, "retry_after_ms": 5});
        prop_assert_eq!(body, wanted);
        prop_assert_eq!(Code::parse(code.as_str()), Some(code));
    }

    #[test]
    fn names_come_back_as_text(node in node_id(), id in any::<[u8; 32]>(), ns in namespace()) {
        prop_assert_eq!(node.to_string().parse::<NodeId>(), Ok(node));
        let id = EventId::from_bytes(id);
        prop_assert_eq!(id.to_string().parse::<EventId>(), Ok(id));
        prop_assert_eq!(ns.to_string().parse::<Namespace>(), Ok(ns));
    }
}
