//! Conversations, vaults, contacts, attachments' rows.

use std::{collections::BTreeSet, sync::Arc};

use relay_proto::{
    NodeId,
    auth::{DeviceId, SessionId, TokenHash},
    conv::{ConvId, ConvKind, Profile, Role, request::Act},
};
use relay_store::{
    NewSession, Opened, ProofFacts, SessionLimits, SessionRow, Store,
    chat::{
        BlobRow, ContactChange, ContactKind, ContactOutcome, ConversationRetention, CreateOutcome,
        Gate, GovernOutcome, GovernRefusal, Governing, LogPage, LogQuery, NewConversation,
        NewMessage, PersonalChange, PersonalOutcome, PostBatch, PostRefusal, Posted,
    },
};

use crate::{keys::author, place::Place};

pub fn user(n: u8) -> NodeId {
    author(n)
}

pub fn device() -> DeviceId {
    DeviceId::new("laptop").unwrap()
}

pub fn conv(name: &str) -> ConvId {
    name.parse().unwrap()
}

pub fn room(name: &str, creator: u8, members: &[u8]) -> NewConversation {
    NewConversation {
        conv: conv(name),
        profile: Profile::Opaque,
        kind: ConvKind::Room,
        home: "gw_local".into(),
        creator: user(creator),
        members: members.iter().map(|n| user(*n)).collect(),
        at_ms: 1_000,
        max_members: 100,
        max_per_user: 100,
        mail: false,
    }
}

pub async fn create(store: &Store, new: NewConversation) {
    assert_eq!(store.create_conversation(new).await.unwrap(), CreateOutcome::Created);
}

pub fn message(n: u8, id: &str, env: &str) -> NewMessage {
    NewMessage {
        msg_id: id.parse().unwrap(),
        sender: user(n),
        device: device(),
        origin: "gw_local".into(),
        at_ms: 2_000,
        env: env.into(),
        kind: None,
        handshake: None,
        gate: Gate::open(),
    }
}

async fn post(store: &Store, name: &str, messages: Vec<NewMessage>) -> Vec<Posted> {
    let batch = PostBatch { conv: conv(name), messages: messages.into() };
    store.post_messages(batch).await.unwrap().0
}

pub async fn post_one(store: &Store, name: &str, message: NewMessage) -> Posted {
    post(store, name, vec![message]).await.remove(0)
}

pub fn seq(posted: &Posted) -> u64 {
    match posted {
        Posted::Stored { seq, .. } | Posted::Duplicate { seq, .. } => *seq,
        Posted::Refused(why) => panic!("{why:?}"),
    }
}

async fn page(store: &Store, name: &str, n: u8, from_seq: u64) -> LogPage {
    let query =
        LogQuery { conv: conv(name), user: user(n), from_seq, limit: 100, from_join: false };
    store.read_log(query).await.unwrap()
}

pub async fn seqs(store: &Store, name: &str, n: u8, from_seq: u64) -> Vec<u64> {
    match page(store, name, n, from_seq).await {
        LogPage::Entries { entries, .. } => entries.iter().map(|entry| entry.seq).collect(),
        other => panic!("{other:?}"),
    }
}

fn change(name: &str, actor: u8, act: Act, targets: &[u8]) -> Governing {
    Governing {
        conv: conv(name),
        actor: user(actor),
        act,
        targets: targets.iter().map(|n| user(*n)).collect(),
        at_ms: 3_000,
        max_members: 5,
        max_per_user: 100,
        mail: false,
        gate: Gate::open(),
    }
}

async fn govern(store: &Store, change: Governing) -> Result<Vec<NodeId>, GovernRefusal> {
    match store.govern(change).await.unwrap() {
        GovernOutcome::Done { removed } => Ok(removed),
        GovernOutcome::Refused(why) => Err(why),
    }
}

pub async fn messages_are_numbered_without_gaps(place: Place) {
    let store = place.open().await;
    create(&store, room("r", 1, &[2])).await;
    assert_eq!(store.create_conversation(room("r", 3, &[])).await.unwrap(), CreateOutcome::Taken);
    let mut closed = message(1, "closed", "x");
    closed.gate = Gate::new(|| Err(7));
    let outcomes = post(
        &store,
        "r",
        vec![
            message(1, "a", "one"),
            message(3, "b", "stranger"),
            message(2, "c", "two"),
            message(1, "a", "again"),
            message(2, "a", "not mine"),
            closed,
            message(1, "d", "three"),
        ],
    )
    .await;
    let stored = |seq| Posted::Stored { seq, kind: None, epoch: None };
    assert_eq!(outcomes[0], stored(1));
    assert_eq!(outcomes[1], Posted::Refused(PostRefusal::NotMember));
    assert_eq!(outcomes[2], stored(2));
    assert_eq!(outcomes[3], Posted::Duplicate { seq: 1, origin: Some("gw_local".into()) });
    assert_eq!(outcomes[4], Posted::Refused(PostRefusal::MsgIdUsed));
    assert_eq!(outcomes[5], Posted::Refused(PostRefusal::Exceeded(7)));
    assert_eq!(outcomes[6], stored(3));
    let unknown = post_one(&store, "nowhere", message(1, "a", "x")).await;
    assert_eq!(unknown, Posted::Refused(PostRefusal::NotMember));
    // Many at once: one order, no gap.
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let store = store.clone();
        tasks.spawn(
            async move { seq(&post_one(&store, "r", message(1, &format!("m{n}"), "x")).await) },
        );
    }
    let given: BTreeSet<u64> = tasks.join_all().await.into_iter().collect();
    assert_eq!(given, (4..=23).collect());
    store.close().await;
    let store = place.open().await;
    assert_eq!(seqs(&store, "r", 2, 1).await, (1..=23).collect::<Vec<_>>());
    let LogPage::Entries { entries, latest_seq } = page(&store, "r", 2, 3).await else { panic!() };
    assert_eq!(
        (entries[0].env.as_str(), entries[0].sender_user_id, latest_seq),
        ("three", user(1), 23)
    );
    assert_eq!(page(&store, "r", 9, 1).await, LogPage::NotMember);
    assert_eq!(page(&store, "nowhere", 1, 1).await, LogPage::NotMember);
    assert_eq!(seqs(&store, "r", 1, 24).await, [0; 0]);
    store.close().await;
}

pub async fn governance_is_all_or_nothing(place: Place) {
    let store = place.open().await;
    create(&store, room("r", 1, &[2])).await;
    let forbidden = Err(GovernRefusal::Forbidden);
    assert_eq!(govern(&store, change("r", 2, Act::Invite, &[3])).await, forbidden);
    assert_eq!(govern(&store, change("nowhere", 1, Act::Invite, &[3])).await, forbidden);
    assert_eq!(govern(&store, change("r", 1, Act::Promote, &[2, 9])).await, Ok(vec![]));
    assert_eq!(govern(&store, change("r", 2, Act::Invite, &[2, 3, 4])).await, Ok(vec![]));
    assert_eq!(
        govern(&store, change("r", 2, Act::Invite, &[5, 6])).await,
        Err(GovernRefusal::TooMany)
    );
    assert_eq!(govern(&store, change("r", 2, Act::Remove, &[3, 1])).await, forbidden);
    let (_, members) = store.conversation_members(conv("r"), user(3)).await.unwrap().unwrap();
    let roles: Vec<Role> = members.iter().map(|member| member.role).collect();
    assert_eq!(roles, [Role::Owner, Role::Admin, Role::Member, Role::Member]);
    assert_eq!(govern(&store, change("r", 2, Act::Mute, &[3, 1])).await, Ok(vec![]));
    let muted = post_one(&store, "r", message(3, "a", "x")).await;
    assert_eq!(muted, Posted::Refused(PostRefusal::Muted));
    seq(&post_one(&store, "r", message(1, "b", "owners cannot be muted")).await);
    assert_eq!(govern(&store, change("r", 2, Act::Ban, &[3])).await, Ok(vec![user(3)]));
    assert_eq!(govern(&store, change("r", 1, Act::Invite, &[3])).await, Err(GovernRefusal::Banned));
    let (role, bans) = store.conversation_bans(conv("r"), user(2)).await.unwrap().unwrap();
    assert_eq!((role, bans), (Role::Admin, vec![(user(3), user(2), 3_000)]));
    assert!(store.conversation_bans(conv("r"), user(3)).await.unwrap().is_none());
    assert_eq!(govern(&store, change("r", 1, Act::Unban, &[3])).await, Ok(vec![]));
    // The mute went with the membership.
    assert_eq!(govern(&store, change("r", 1, Act::Invite, &[3])).await, Ok(vec![]));
    seq(&post_one(&store, "r", message(3, "c", "back")).await);
    assert_eq!(govern(&store, change("r", 4, Act::Remove, &[4])).await, Ok(vec![user(4)]));
    let views = store.conversations_of(user(1)).await.unwrap();
    assert_eq!((views[0].member_count, views[0].members.as_ref().unwrap().len()), (3, 3));
    let limited = Governing { gate: Gate::new(|| Err(9)), ..change("r", 1, Act::Invite, &[5]) };
    assert_eq!(govern(&store, limited).await, Err(GovernRefusal::Exceeded(9)));
    assert!(store.set_title(conv("r"), user(2), "t".into()).await.unwrap());
    assert!(!store.set_title(conv("r"), user(3), "u".into()).await.unwrap());
    store.close().await;
}

pub async fn block(store: &Store, by: u8, whom: u8) {
    let change = ContactChange {
        user: user(by),
        kind: ContactKind::Block,
        contacts: vec![user(whom)],
        add: true,
        max: 2,
        tell: Vec::new(),
        at_ms: 0,
    };
    assert!(matches!(store.change_contacts(change).await.unwrap(), ContactOutcome::Done(_)));
}

pub async fn blocks_hold_in_both_directions(place: Place) {
    let store = place.open().await;
    create(&store, room("dm_1", 1, &[2])).await;
    create(&store, room("r", 1, &[2, 3])).await;
    seq(&post_one(&store, "dm_1", message(2, "a", "x")).await);
    block(&store, 1, 2).await;
    for n in [1, 2] {
        let refused = post_one(&store, "dm_1", message(n, "b", "x")).await;
        assert_eq!(refused, Posted::Refused(PostRefusal::Blocked));
        seq(&post_one(&store, "r", message(n, &format!("room{n}"), "x")).await);
    }
    for (creator, member) in [(1, 2), (2, 1)] {
        let refused = store.create_conversation(room("n", creator, &[3, member])).await.unwrap();
        assert_eq!(refused, CreateOutcome::Blocked);
    }
    block(&store, 1, 4).await;
    let too_many = ContactChange {
        user: user(1),
        kind: ContactKind::Block,
        contacts: vec![user(5), user(6)],
        add: true,
        max: 3,
        tell: Vec::new(),
        at_ms: 0,
    };
    assert_eq!(store.change_contacts(too_many).await.unwrap(), ContactOutcome::TooMany);
    store.close().await;
    let store = place.open().await;
    let mut blocks = store.all_contacts(ContactKind::Block).await.unwrap();
    blocks.sort_unstable();
    let mut expected = vec![(user(1), user(2)), (user(1), user(4))];
    expected.sort_unstable();
    assert_eq!(blocks, expected);
    assert_eq!(store.all_contacts(ContactKind::Watch).await.unwrap(), []);
    store.close().await;
}

pub async fn cursors_and_marks_only_rise(place: Place) {
    let store = place.open().await;
    create(&store, room("r", 1, &[2])).await;
    for n in 0..5 {
        post_one(&store, "r", message(1, &format!("m{n}"), "x")).await;
    }
    let ack = |n, seq| store.acknowledge(conv("r"), user(n), device(), seq, 5_000);
    assert_eq!(ack(2, 3).await.unwrap(), Some(4));
    assert_eq!(ack(2, 1).await.unwrap(), Some(4));
    assert_eq!(ack(2, 99).await.unwrap(), Some(6), "no further than the log");
    assert_eq!(ack(9, 1).await.unwrap(), None);
    assert_eq!(store.cursors(user(2), device()).await.unwrap(), [(conv("r"), 6)]);
    let other = DeviceId::new("phone").unwrap();
    assert_eq!(store.cursors(user(2), other).await.unwrap(), []);
    let window = store.log_window(conv("r"), user(2), device()).await.unwrap().unwrap();
    assert_eq!((window.next_seq, window.earliest_seq, window.latest_seq), (6, 1, 5));
    let read = |to| store.set_personal(conv("r"), user(2), PersonalChange::ReadTo(to));
    for (to, expected) in [(Some(2), 2), (Some(1), 2), (None, 5), (Some(99), 5)] {
        let PersonalOutcome::Read(mark) = read(to).await.unwrap() else { panic!() };
        assert_eq!(mark.last_read_seq, expected, "{to:?}");
    }
    for change in [
        PersonalChange::Label("mine".into()),
        PersonalChange::PinnedAtMs(77),
        PersonalChange::Muted(true),
        PersonalChange::Archived(true),
    ] {
        let set = store.set_personal(conv("r"), user(2), change).await.unwrap();
        assert_eq!(set, PersonalOutcome::Done);
    }
    let stranger = store.set_personal(conv("r"), user(9), PersonalChange::Muted(true)).await;
    assert_eq!(stranger.unwrap(), PersonalOutcome::NotMember);
    let view = store.conversations_of(user(2)).await.unwrap().remove(0);
    assert_eq!(
        (view.label.as_str(), view.pinned_at_ms, view.muted, view.archived),
        ("mine", 77, true, true)
    );
    assert_eq!((view.last_read_seq, view.latest_seq), (Some(5), 5));
    // Out and in again: the cursor is still there.
    govern(&store, change("r", 1, Act::Remove, &[2])).await.unwrap();
    assert_eq!(store.cursors(user(2), device()).await.unwrap(), []);
    govern(&store, change("r", 1, Act::Invite, &[2])).await.unwrap();
    assert_eq!(store.cursors(user(2), device()).await.unwrap(), [(conv("r"), 6)]);
    let query = LogQuery { conv: conv("r"), user: user(2), from_seq: 1, limit: 9, from_join: true };
    let hidden = LogPage::Pruned { earliest_seq: 6, latest_seq: 5 };
    assert_eq!(store.read_log(query).await.unwrap(), hidden);
    store.close().await;
}

fn rules(max_events: Option<u64>, before_ms: Option<u64>, hard: bool) -> ConversationRetention {
    ConversationRetention {
        max_events,
        before_ms,
        hard,
        stale_before_ms: 0,
        now_ms: 10_000,
        batch: 3,
    }
}

async fn prune(store: &Store, rules: ConversationRetention) -> u64 {
    let mut earliest = 0;
    loop {
        let pruned = store.prune_conversation(conv("r"), rules).await.unwrap();
        earliest = pruned.earliest_seq.max(earliest);
        if pruned.messages < rules.batch {
            return earliest;
        }
    }
}

pub async fn retention_waits_for_readers_unless_told_otherwise(place: Place) {
    let store = place.open().await;
    create(&store, room("r", 1, &[2])).await;
    for n in 1..=10_u64 {
        let message = NewMessage { at_ms: n * 100, ..message(1, &format!("m{n}"), "x") };
        post_one(&store, "r", message).await;
    }
    store.acknowledge(conv("r"), user(2), device(), 4, 5_000).await.unwrap();
    assert_eq!(prune(&store, rules(Some(2), None, false)).await, 5, "5 was not seen yet");
    assert_eq!(page(&store, "r", 2, 1).await, LogPage::Pruned { earliest_seq: 5, latest_seq: 10 });
    assert_eq!(seqs(&store, "r", 2, 5).await, [5, 6, 7, 8, 9, 10]);
    // A device that is logged in and silent keeps everything since it joined.
    let session = NewSession {
        row: SessionRow {
            id: SessionId::from_bytes([1; 16]),
            user: user(1),
            device: DeviceId::new("silent").unwrap(),
            client_label: "label".into(),
            token: TokenHash::from_bytes([1; 32]),
            previous: None,
            resume: TokenHash::from_bytes([2; 32]),
            generation: 0,
            created_at_ms: 1,
            expires_at_ms: 20_000,
            last_seen_at_ms: 1,
            grant: None,
        },
        proof: ProofFacts::Fresh,
        credential: None,
        limits: SessionLimits { per_user: 9, per_device: 9 },
    };
    assert!(matches!(store.open_session(session).await.unwrap(), Opened::Started { .. }));
    store.acknowledge(conv("r"), user(2), device(), 10, 5_000).await.unwrap();
    assert_eq!(prune(&store, rules(Some(2), None, false)).await, 5);
    assert_eq!(prune(&store, rules(None, Some(700), true)).await, 7, "older than 700");
    assert_eq!(prune(&store, rules(Some(2), None, true)).await, 9);
    // The id of what is gone is still known, and its bytes.
    let repeated = post_one(&store, "r", message(1, "m1", "x")).await;
    assert_eq!(repeated, Posted::Duplicate { seq: 1, origin: None });
    let other = post_one(&store, "r", message(2, "m1", "x")).await;
    assert_eq!(other, Posted::Refused(PostRefusal::MsgIdUsed));
    assert_eq!(prune(&store, rules(None, Some(u64::MAX >> 2), true)).await, 11);
    assert_eq!(seq(&post_one(&store, "r", message(1, "new", "x")).await), 11);
    assert_eq!(store.kept_conversations(0, 9).await.unwrap().len(), 1);
    assert_eq!(store.sweep_message_ids(500).await.unwrap(), 4);
    let forgotten = post_one(&store, "r", message(1, "m1", "x")).await;
    assert_eq!(seq(&forgotten), 12);
    store.close().await;
}

pub async fn vaults_blobs_and_users(place: Place) {
    let store = place.open().await;
    assert_eq!(store.vault(user(1)).await.unwrap(), None);
    assert_eq!(store.set_vault(user(1), 0, vec![1], 1).await.unwrap(), Ok(1));
    assert_eq!(store.set_vault(user(1), 0, vec![2], 1).await.unwrap(), Err(1));
    assert_eq!(store.set_vault(user(1), 1, vec![3], 1).await.unwrap(), Ok(2));
    assert_eq!(store.vault(user(1)).await.unwrap(), Some((2, vec![3])));
    let blob = |n: u8, size| BlobRow {
        hash: [n; 32],
        owner: user(1),
        size,
        created_at_ms: 1,
        expires_at_ms: 100,
    };
    assert_eq!(store.put_blob(blob(1, 60), 100).await.unwrap(), Ok(()));
    assert!(store.put_blob(blob(2, 60), 100).await.unwrap().is_err());
    let longer = BlobRow { expires_at_ms: 200, ..blob(1, 60) };
    assert_eq!(store.put_blob(longer, 100).await.unwrap(), Ok(()));
    assert_eq!(store.blob([1; 32]).await.unwrap().unwrap().expires_at_ms, 200);
    assert_eq!(store.blob_usage(user(1)).await.unwrap(), 60);
    assert_eq!(store.expired_blobs(150, 9).await.unwrap(), [[0; 32]; 0]);
    assert!(!store.drop_blob([1; 32], 150).await.unwrap());
    create(&store, room("r", 2, &[1])).await;
    let users = store.users(None, 10).await.unwrap();
    assert_eq!(
        users.iter().map(|row| row.user).collect::<BTreeSet<_>>(),
        [user(1), user(2)].into()
    );
    let row = store.user(user(1)).await.unwrap();
    assert_eq!((row.conversations, row.blob_bytes, row.sessions), (1, 60, 0));
    assert_eq!(store.purge_user(user(1)).await.unwrap(), 1);
    assert_eq!(store.vault(user(1)).await.unwrap(), None);
    assert_eq!(store.users(None, 10).await.unwrap().len(), 1);
    assert_eq!(store.expired_blobs(1, 9).await.unwrap(), [[1; 32]]);
    assert!(store.drop_blob([1; 32], 1).await.unwrap());
    let (conversation, members) =
        store.conversation_members(conv("r"), user(2)).await.unwrap().unwrap();
    assert_eq!((conversation.members, members.len()), (1, 1));
    let odd: Arc<str> = "a\u{1f980}\\\"".into();
    let odd = NewMessage { env: odd.clone(), ..message(2, "odd \u{1f980}", "") };
    seq(&post_one(&store, "r", odd.clone()).await);
    let LogPage::Entries { entries, .. } = page(&store, "r", 2, 1).await else { panic!() };
    assert_eq!((&*entries[0].env, &entries[0].msg_id), (&*odd.env, &odd.msg_id));
    store.close().await;
}
