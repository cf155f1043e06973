//! Conversations of the profile: epochs, bundles, inboxes; KeyPackages.

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use relay_proto::{
    NodeId,
    auth::DeviceId,
    conv::{EpochRefusal, MessageKind, Profile},
};
use relay_store::{
    Store,
    chat::{
        CommitBundle, CommitOutcome, Fetch, GovernRefusal, NewConversation, NewKeyPackage,
        NewMessage, PostRefusal, Posted, Publish, WelcomeFor,
    },
};
use relay_testkit::mls::{MlsDevice, external_commit, private_message, welcome};

use crate::{
    chat::{block, conv, create, device, message, post_one, room, seq, seqs, user},
    place::Place,
};

fn group(n: u8) -> ([u8; 32], String) {
    ([n; 32], URL_SAFE_NO_PAD.encode([n; 32]))
}

fn profile_room(name: &str, creator: u8, members: &[u8]) -> NewConversation {
    NewConversation { profile: Profile::RelayMls1, ..room(name, creator, members) }
}

fn bundle(name: &str, message: NewMessage, epoch: u64) -> CommitBundle {
    CommitBundle {
        conv: conv(name),
        message,
        welcomes: Vec::new(),
        group_info: (epoch, b"sealed".to_vec()),
        members_add: Vec::new(),
        members_remove: Vec::new(),
        max_members: 5,
        max_per_user: 100,
        mail: false,
        max_inbox: 3,
    }
}

pub async fn one_commit_wins_each_epoch(place: Place) {
    let store = place.open().await;
    let (id, name) = group(7);
    create(&store, profile_room(&name, 1, &[2])).await;
    let env = |epoch, content| private_message(&id, epoch, content, b"payload");
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8_u8 {
        let (store, name) = (store.clone(), name.clone());
        let message = message(1 + n % 2, &format!("c{n}"), &env(0, 3));
        tasks.spawn(async move { store.commit_bundle(bundle(&name, message, 1)).await.unwrap() });
    }
    let outcomes = tasks.join_all().await;
    let won = outcomes.iter().filter(|outcome| matches!(outcome, CommitOutcome::Stored { .. }));
    assert_eq!(won.count(), 1);
    for outcome in &outcomes {
        if let CommitOutcome::Refused(why) = outcome {
            let PostRefusal::Epoch { refusal: EpochRefusal::Stale, epoch: 1, head_seq: 1, .. } =
                why
            else {
                panic!("{why:?}")
            };
        }
    }
    // The loser's message was never stored: it sends the same id in the new epoch.
    let stored = post_one(&store, &name, message(2, "app", &env(1, 1))).await;
    let kind = Some(MessageKind::Application);
    assert_eq!(stored, Posted::Stored { seq: 2, kind, epoch: Some(1) });
    let again = post_one(&store, &name, message(2, "app", &env(1, 1))).await;
    assert_eq!(seq(&again), 2);
    let other =
        post_one(&store, &name, message(2, "app", &private_message(&id, 1, 1, b"other"))).await;
    assert!(matches!(other, Posted::Refused(PostRefusal::OtherBytes { epoch: 1, head_seq: 2 })));
    for (env, why) in [
        (env(0, 1), "stale"),
        (env(2, 1), "future"),
        (env(1, 3), "a commit without its bundle"),
        (external_commit(&id, 1), "an external commit without its bundle"),
        (private_message(&[9; 32], 1, 1, b""), "another group"),
        (welcome(), "a welcome"),
        ("not base64!".into(), "no base64"),
    ] {
        let refused = post_one(&store, &name, message(1, "bad", &env)).await;
        assert!(matches!(refused, Posted::Refused(_)), "{why}");
    }
    let outcome = store
        .commit_bundle(bundle(&name, message(2, "ext", &external_commit(&id, 1)), 2))
        .await
        .unwrap();
    assert!(matches!(outcome, CommitOutcome::Stored { seq: 3, epoch: 2, .. }), "{outcome:?}");
    let info = store.group_info(conv(&name), user(1)).await.unwrap().unwrap();
    assert_eq!(info, Some((2, b"sealed".to_vec())));
    assert_eq!(store.group_info(conv(&name), user(9)).await.unwrap(), None);
    store.close().await;
}

pub async fn a_bundle_is_all_or_nothing(place: Place) {
    let store = place.open().await;
    let (id, name) = group(7);
    create(&store, profile_room(&name, 1, &[])).await;
    let mut bob = MlsDevice::new(2, 9);
    let package = relay_proto::mls::decode_base64(&bob.key_package(1_767_000_000)).unwrap();
    let reference = relay_proto::mls::KeyPackage::parse(&package).unwrap().reference;
    let bobs = DeviceId::new(&bob.device_id()).unwrap();
    publish(&store, bob.user_id(), &bobs, vec![(package, Some(reference))], None).await;
    let commit = |msg: &str| {
        let mut bundle = bundle(&name, message(1, msg, &private_message(&id, 0, 3, b"")), 1);
        bundle.members_add = vec![bob.user_id()];
        bundle.welcomes = vec![WelcomeFor {
            user: bob.user_id(),
            device: bobs.clone(),
            reference,
            env: welcome().into(),
        }];
        bundle
    };
    let refused = |outcome: &CommitOutcome| {
        matches!(outcome, CommitOutcome::Invalid(_) | CommitOutcome::Governance(_))
    };
    let early = store.commit_bundle(commit("a")).await.unwrap();
    assert!(refused(&early), "the package was not handed out: {early:?}");
    let fetch = Fetch {
        by: user(1),
        user: bob.user_id(),
        count: 1,
        per_device: true,
        contacts_only: false,
        now_ms: 1_767_000_000_000,
    };
    assert_eq!(store.fetch_key_packages(fetch).await.unwrap().packages.len(), 1);
    for (what, wrong) in [
        ("group info of another epoch", CommitBundle { group_info: (2, vec![1]), ..commit("b") }),
        ("a welcome for a stranger", CommitBundle { members_add: vec![], ..commit("c") }),
        ("too many members", CommitBundle { max_members: 1, ..commit("d") }),
    ] {
        let outcome = store.commit_bundle(wrong).await.unwrap();
        assert!(refused(&outcome), "{what}: {outcome:?}");
    }
    let inbox = store.read_inbox(bob.user_id(), bobs.clone(), None, 9).await.unwrap();
    assert_eq!((inbox.latest_seq, inbox.entries.len()), (0, 0), "nothing was delivered");
    assert_eq!(seqs(&store, &name, 1, 1).await, [0; 0]);
    let outcome = store.commit_bundle(commit("e")).await.unwrap();
    let CommitOutcome::Stored { seq: 1, epoch: 1, delivered, .. } = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(delivered.len(), 1);
    let inbox = store.read_inbox(bob.user_id(), bobs.clone(), None, 9).await.unwrap();
    assert_eq!((inbox.latest_seq, inbox.next_seq), (1, 1));
    assert!(inbox.entries[0].body.contains(r#""kind":"welcome""#));
    let repeated = store.commit_bundle(commit("e")).await.unwrap();
    assert!(matches!(repeated, CommitOutcome::Duplicate { seq: 1, .. }));
    let inbox = store.read_inbox(bob.user_id(), bobs.clone(), None, 9).await.unwrap();
    assert_eq!(inbox.latest_seq, 1, "a repeat delivers nothing");
    // Bob is in, without rights: he may not take Alice out, but may leave.
    let mut takes_out = bundle(
        &name,
        NewMessage { sender: bob.user_id(), ..message(2, "f", &private_message(&id, 1, 3, b"")) },
        2,
    );
    takes_out.members_remove = vec![user(1)];
    let outcome = store.commit_bundle(takes_out).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Governance(GovernRefusal::Forbidden)));
    store.acknowledge_inbox(bob.user_id(), bobs.clone(), 1).await.unwrap();
    let inbox = store.read_inbox(bob.user_id(), bobs.clone(), None, 9).await.unwrap();
    assert_eq!((inbox.next_seq, inbox.entries.len()), (2, 0));
    for n in 0..5 {
        store.put_inbox(bob.user_id(), bobs.clone(), format!("{{\"n\":{n}}}"), 9, 3).await.unwrap();
    }
    let inbox = store.read_inbox(bob.user_id(), bobs, Some(1), 9).await.unwrap();
    let seqs: Vec<u64> = inbox.entries.iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, [4, 5, 6], "the oldest make room");
    store.close().await;
}

async fn publish(
    store: &Store,
    user: NodeId,
    device: &DeviceId,
    packages: Vec<(Vec<u8>, Option<[u8; 32]>)>,
    last_resort: Option<Vec<u8>>,
) -> u64 {
    let package = |(bytes, reference)| NewKeyPackage { bytes, reference, not_after_s: None };
    let publish = Publish {
        user,
        device: device.clone(),
        revoke: false,
        packages: packages.into_iter().map(package).collect(),
        last_resort: last_resort.map(|bytes| package((bytes, None))),
        for_contacts: false,
        at_ms: 1_000,
        max_pool: 100,
    };
    store.publish_key_packages(publish).await.unwrap().available
}

pub async fn a_key_package_is_handed_out_once(place: Place) {
    let store = place.open().await;
    let (laptop, phone) = (device(), DeviceId::new("phone").unwrap());
    let packages = |from: u8, to: u8| (from..to).map(|n| (vec![n; 9], None)).collect::<Vec<_>>();
    assert_eq!(publish(&store, user(1), &laptop, packages(0, 60), Some(vec![200; 9])).await, 60);
    assert_eq!(publish(&store, user(1), &laptop, packages(50, 80), None).await, 80);
    assert_eq!(publish(&store, user(1), &phone, packages(100, 110), None).await, 10);
    let fetch = |count, per_device| Fetch {
        by: user(2),
        user: user(1),
        count,
        per_device,
        contacts_only: false,
        now_ms: 2_000,
    };
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (store, fetch) = (store.clone(), fetch(8, false));
        tasks.spawn(async move { store.fetch_key_packages(fetch).await.unwrap() });
    }
    let mut given = BTreeSet::new();
    let mut last_resort = 0;
    for fetched in tasks.join_all().await {
        for package in fetched.packages {
            if package == [200; 9] {
                last_resort += 1;
            } else {
                assert!(given.insert(package), "handed out twice");
            }
        }
    }
    assert_eq!(given.len(), 90);
    assert!(last_resort >= 1, "96 were wanted");
    // What was handed out is known when it comes again.
    assert_eq!(publish(&store, user(1), &laptop, packages(0, 3), None).await, 0);
    let fetched = store.fetch_key_packages(fetch(1, true)).await.unwrap();
    assert!(fetched.last_resort_used && fetched.packages == [vec![200; 9]]);
    store.close().await;
    let store = place.open().await;
    publish(&store, user(1), &phone, packages(120, 122), None).await;
    let pool = store.key_package_pool(user(1), 2_000).await.unwrap();
    let pool: Vec<_> =
        pool.iter().map(|row| (row.device.as_str(), row.available, row.last_resort)).collect();
    assert_eq!(pool, [("laptop", 0, true), ("phone", 2, false)]);
    block(&store, 1, 2).await;
    assert!(store.fetch_key_packages(fetch(1, true)).await.unwrap().packages.is_empty());
    let revoke = Publish {
        user: user(1),
        device: laptop,
        revoke: true,
        packages: vec![],
        last_resort: None,
        for_contacts: false,
        at_ms: 3_000,
        max_pool: 100,
    };
    store.publish_key_packages(revoke).await.unwrap();
    assert_eq!(store.key_package_pool(user(1), 2_000).await.unwrap().len(), 1);
    store.close().await;
}

pub async fn full_and_expired_pools(place: Place) {
    let store = place.open().await;
    let package =
        |n: u8, not_after_s| NewKeyPackage { bytes: vec![n; 4], reference: None, not_after_s };
    let publish = Publish {
        user: user(1),
        device: device(),
        revoke: false,
        packages: (0..10).map(|n| package(n, (n < 8).then_some(100))).collect(),
        last_resort: Some(package(99, Some(100))),
        for_contacts: false,
        at_ms: 1_000,
        max_pool: 5,
    };
    assert_eq!(store.publish_key_packages(publish).await.unwrap().available, 5);
    let fetch = |now_ms| Fetch {
        by: user(2),
        user: user(1),
        count: 64,
        per_device: false,
        contacts_only: false,
        now_ms,
    };
    let late = store.fetch_key_packages(fetch(100_000)).await.unwrap();
    assert_eq!(late.packages, [vec![8; 4], vec![9; 4]], "the others have expired");
    let early = store.fetch_key_packages(fetch(99_000)).await.unwrap();
    assert_eq!(early.packages, [vec![5; 4], vec![6; 4], vec![7; 4]], "the oldest made room");
    assert!(store.sweep_key_packages(0, 101).await.unwrap() >= 9);
    store.close().await;
}
