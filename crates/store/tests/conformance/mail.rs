//! Users and conversations of several homes: mail, routes, pushes.

use relay_proto::{
    NodeId,
    auth::DeviceId,
    conv::{ConvId, ConvKind, Mail, NumberedMail, Profile, request::Act},
};
use relay_store::{
    Store,
    chat::{
        BlockHeard, ContactChange, ContactKind, ContactOutcome, CreateOutcome, Fetch, Gate,
        GovernOutcome, Governing, MailTake, NewConversation, NewKeyPackage, Place as Found,
        Publish, PushTarget,
    },
};

use crate::{keys::author as user, place::Place};

fn conv(name: &str) -> ConvId {
    name.parse().unwrap()
}

fn device() -> DeviceId {
    DeviceId::new("laptop").unwrap()
}

async fn create(store: &Store, name: &str, members: Vec<NodeId>) {
    let new = NewConversation {
        conv: conv(name),
        profile: Profile::Opaque,
        kind: ConvKind::Room,
        home: "home-a".into(),
        creator: user(1),
        members,
        at_ms: 1_000,
        max_members: 100,
        max_per_user: 100,
        mail: true,
    };
    assert_eq!(store.create_conversation(new).await.unwrap(), CreateOutcome::Created);
}

async fn govern(store: &Store, name: &str, act: Act, target: NodeId) {
    let change = Governing {
        conv: conv(name),
        actor: user(1),
        act,
        targets: vec![target],
        at_ms: 1_000,
        max_members: 100,
        max_per_user: 100,
        mail: true,
        gate: Gate::open(),
    };
    let done = store.govern(change).await.unwrap();
    assert!(matches!(done, GovernOutcome::Done { .. }), "{done:?}");
}

fn take(source: Option<&str>, items: Vec<NumberedMail>) -> MailTake {
    let source = source.map(str::to_owned);
    MailTake { source, items, at_ms: 5_000, max_inbox: 10, max_per_user: 2 }
}

/// All mail that waits, by way of those for whom it does.
async fn waiting(store: &Store) -> Vec<NumberedMail> {
    let mut users = Vec::new();
    while let Some(next) = store.mail_users(users.last().copied(), 1).await.unwrap().first() {
        users.push(*next);
    }
    assert_eq!(store.mail_users(None, 10).await.unwrap(), users);
    store.mail_of(users, 10).await.unwrap()
}

/// What happens to somebody who lives elsewhere is written down in its order; for those who live here nothing is.
pub async fn other_homes_are_told_in_order(place: Place) {
    let store = place.open().await;
    assert!(store.add_home_user(user(1), 1).await.unwrap());
    assert!(!store.add_home_user(user(1), 2).await.unwrap());
    create(&store, "room", vec![user(2)]).await;
    govern(&store, "room", Act::Remove, user(2)).await;
    govern(&store, "room", Act::Invite, user(2)).await;
    let mail = waiting(&store).await;
    let conv_id = conv("room");
    let expected = [
        Mail::Joined { conv_id: conv_id.clone(), by: Some(user(1)) },
        Mail::Left { conv_id: conv_id.clone() },
        Mail::Joined { conv_id, by: Some(user(1)) },
    ];
    let told: Vec<Mail> = mail.iter().map(|item| item.mail.clone()).collect();
    assert_eq!(told, expected);
    assert!(mail.iter().all(|item| item.user_id == user(2)));
    assert!(mail.windows(2).all(|pair| pair[0].n < pair[1].n));
    assert_eq!(store.mail_of(vec![user(1), user(3)], 10).await.unwrap(), []);
    assert_eq!(store.mail_of(vec![user(1), user(2)], 2).await.unwrap(), mail[..2]);
    store.delete_mail(vec![(user(2), mail[0].n)], 0).await.unwrap();
    assert_eq!(waiting(&store).await, mail[1..]);
    // What nobody took for long goes.
    store.delete_mail(Vec::new(), 1_001).await.unwrap();
    assert_eq!(waiting(&store).await, []);
    // Numbers go on where they were, whatever was deleted.
    govern(&store, "room", Act::Remove, user(2)).await;
    let later = waiting(&store).await;
    assert!(later[0].n > mail[2].n);
}

/// Mail that comes twice has its effect once, and only for those who live here.
pub async fn mail_is_taken_once(place: Place) {
    let store = place.open().await;
    let item = |n, mail| NumberedMail { n, user_id: user(2), mail };
    let joined = |name| Mail::Joined { conv_id: conv(name), by: None };
    let left = |name| Mail::Left { conv_id: conv(name) };
    let done = store.take_mail(take(Some("home-a"), vec![item(5, joined("x"))])).await.unwrap();
    assert_eq!(done.taken, [], "nobody of this name lives here");
    store.add_home_user(user(2), 1).await.unwrap();
    let all = vec![item(5, joined("x")), item(6, left("x")), item(7, joined("y"))];
    for _ in 0..2 {
        let done = store.take_mail(take(Some("home-a"), all.clone())).await.unwrap();
        assert_eq!(done.taken, [(user(2), 5), (user(2), 6), (user(2), 7)]);
        let found = |name| store.conversation_place(conv(name), user(2));
        assert_eq!(found("x").await.unwrap(), Found::Unknown);
        assert_eq!(found("y").await.unwrap(), Found::At("home-a".into()));
    }
    // Another relay counts for itself, and does not take over what is another's.
    store
        .take_mail(take(Some("home-b"), vec![item(1, joined("y")), item(2, left("y"))]))
        .await
        .unwrap();
    let found = store.conversation_place(conv("y"), user(2)).await.unwrap();
    assert_eq!(found, Found::At("home-a".into()));
    store.take_mail(take(Some("home-b"), vec![item(3, joined("z"))])).await.unwrap();
    assert_eq!(store.other_homes(user(2)).await.unwrap(), ["home-a", "home-b"]);
    // No relay fills the list without end.
    store.take_mail(take(Some("home-b"), vec![item(4, joined("one too many"))])).await.unwrap();
    let found = store.conversation_place(conv("one too many"), user(2)).await.unwrap();
    assert_eq!(found, Found::Unknown);
}

/// Strangers get no one-time package, but the one by which a first contact can be made.
pub async fn a_stranger_gets_the_last_resort_alone(place: Place) {
    let store = place.open().await;
    let package =
        |n: u8| NewKeyPackage { bytes: vec![n; 3], reference: Some([n; 32]), not_after_s: None };
    let publish = Publish {
        user: user(2),
        device: device(),
        revoke: false,
        packages: vec![package(1)],
        last_resort: Some(package(2)),
        for_contacts: true,
        at_ms: 1,
        max_pool: 10,
    };
    store.publish_key_packages(publish).await.unwrap();
    let fetch = |contacts_only| Fetch {
        by: user(1),
        user: user(2),
        count: 1,
        per_device: true,
        contacts_only,
        now_ms: 2,
    };
    let stranger = store.fetch_key_packages(fetch(true)).await.unwrap();
    assert_eq!((stranger.packages, stranger.last_resort_used), (vec![vec![2; 3]], true));
    let contact = store.fetch_key_packages(fetch(false)).await.unwrap();
    assert_eq!((contact.packages, contact.last_resort_used), (vec![vec![1; 3]], false));
}

/// A Welcome of another home counts only where its inviter was given the KeyPackage.
pub async fn a_welcome_of_another_home_needs_its_key_package(place: Place) {
    let store = place.open().await;
    store.add_home_user(user(2), 1).await.unwrap();
    let package =
        NewKeyPackage { bytes: vec![1, 2, 3], reference: Some([7; 32]), not_after_s: None };
    let publish = Publish {
        user: user(2),
        device: device(),
        revoke: false,
        packages: vec![package],
        last_resort: None,
        for_contacts: true,
        at_ms: 1,
        max_pool: 10,
    };
    store.publish_key_packages(publish).await.unwrap();
    let fetch = |contacts_only| Fetch {
        by: user(1),
        user: user(2),
        count: 1,
        per_device: true,
        contacts_only,
        now_ms: 2,
    };
    let nothing = store.fetch_key_packages(fetch(true)).await.unwrap();
    assert!(nothing.packages.is_empty(), "a stranger");
    let welcome = |n| NumberedMail {
        n,
        user_id: user(2),
        mail: Mail::Welcome {
            device_id: device(),
            conv_id: conv("x"),
            conv_seq: 4,
            inviter: user(1),
            key_package_ref: "07".repeat(32),
            env: "AAAA".into(),
        },
    };
    let done = store.take_mail(take(Some("home-a"), vec![welcome(1)])).await.unwrap();
    assert_eq!((done.taken.len(), done.delivered), (1, Vec::new()));
    assert_eq!(store.fetch_key_packages(fetch(false)).await.unwrap().packages.len(), 1);
    let done = store.take_mail(take(Some("home-a"), vec![welcome(2)])).await.unwrap();
    assert_eq!(done.delivered.len(), 1);
    assert!(done.delivered[0].entry.body.contains(r#""conv_home":"home-a""#));
    let found = store.conversation_place(conv("x"), user(2)).await.unwrap();
    assert_eq!(found, Found::At("home-a".into()));
}

pub async fn devices_are_pushed_to_where_they_said_last(place: Place) {
    let store = place.open().await;
    create(&store, "room", vec![user(2)]).await;
    let target = |endpoint: &str| PushTarget {
        user: user(2),
        device: device(),
        endpoint: endpoint.to_owned(),
    };
    for endpoint in ["https://one.example", "https://two.example"] {
        store.set_push(user(2), device(), Some(endpoint.into()), 1).await.unwrap();
    }
    store.set_push(user(3), device(), Some("https://three.example".into()), 1).await.unwrap();
    let found = store.push_targets(conv("room")).await.unwrap();
    assert_eq!(found, [target("https://two.example")]);
    // The push service forgot the former one meanwhile.
    store.drop_push(target("https://one.example")).await.unwrap();
    let found = store.push_of(user(2), device()).await.unwrap();
    assert_eq!(found, Some(target("https://two.example")));
    store.set_push(user(2), device(), None, 2).await.unwrap();
    assert_eq!(store.push_targets(conv("room")).await.unwrap(), []);
}

fn block(by: u8, whom: u8, add: bool) -> ContactChange {
    ContactChange {
        user: user(by),
        kind: ContactKind::Block,
        contacts: vec![user(whom)],
        add,
        max: 10,
        tell: vec![user(whom)],
        at_ms: 1_000,
    }
}

/// Who is blocked by somebody of another home is blocked here; their home is told in the order of the changes.
pub async fn blocks_are_told_and_kept_elsewhere(place: Place) {
    let store = place.open().await;
    store.add_home_user(user(1), 1).await.unwrap();
    for add in [true, true, false] {
        let done = store.change_contacts(block(1, 2, add)).await.unwrap();
        assert_eq!(done, ContactOutcome::Done(u64::from(add)));
    }
    store.change_contacts(block(1, 1, true)).await.unwrap();
    let told = waiting(&store).await;
    let told: Vec<_> = told.iter().map(|item| (item.user_id, item.mail.clone())).collect();
    let expected = |is_blocked| (user(2), Mail::Blocked { by: user(1), is_blocked });
    assert_eq!(told, [expected(true), expected(false)], "once each, and nothing to who lives here");

    let heard = |n, is_blocked| NumberedMail {
        n,
        user_id: user(1),
        mail: Mail::Blocked { by: user(5), is_blocked },
    };
    let joined = |n, name: &str, by| NumberedMail {
        n,
        user_id: user(1),
        mail: Mail::Joined { conv_id: conv(name), by: Some(user(by)) },
    };
    let items = vec![heard(1, true), joined(2, "x", 5), joined(3, "y", 6)];
    for round in 0..2 {
        let done = store.take_mail(take(Some("home-a"), items.clone())).await.unwrap();
        let block = BlockHeard { by: user(5), user: user(1), is_blocked: true };
        assert_eq!(done.blocks, if round == 0 { vec![block] } else { Vec::new() });
        assert_eq!(done.taken.len(), 3);
        assert_eq!(done.refused, [(user(1), 2)], "as often as it is asked");
    }
    let found = |name| store.conversation_place(conv(name), user(1));
    assert_eq!(found("x").await.unwrap(), Found::Unknown, "brought in by who is blocked");
    assert_eq!(found("y").await.unwrap(), Found::At("home-a".into()));
    let both = store.users_with("home-a".into(), vec![user(1), user(2)]).await.unwrap();
    assert_eq!(both, [user(1)], "only who lives here and is in a conversation there");
    assert_eq!(store.users_with("home-b".into(), vec![user(1)]).await.unwrap(), []);
    let refused = NewConversation {
        conv: conv("room"),
        profile: Profile::Opaque,
        kind: ConvKind::Room,
        home: "home-a".into(),
        creator: user(1),
        members: vec![user(5)],
        at_ms: 1_000,
        max_members: 100,
        max_per_user: 100,
        mail: true,
    };
    let create = || store.create_conversation(refused.clone());
    assert_eq!(create().await.unwrap(), CreateOutcome::Blocked);
    store.take_mail(take(Some("home-a"), vec![heard(4, false)])).await.unwrap();
    assert_eq!(create().await.unwrap(), CreateOutcome::Created);
    assert_eq!(store.members_away(conv("room")).await.unwrap(), [user(5)]);
    store.close().await;
}
