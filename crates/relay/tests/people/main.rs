//! People who chat through a real relay, by the crate that the commands are made of.
#![cfg(feature = "chat")]
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod files;
mod person;
#[path = "../support/mod.rs"]
mod support;
mod wire;

use person::{FREE, Person, options};
use relay_chat::{
    Chat, MessageRange,
    views::{ConversationState, Delivery, MessageBody},
};
use relay_client::Request;
use relay_proto::{
    conv::Role,
    event::{Draft, Tags, reserved},
};
use support::Relay;

#[tokio::test(flavor = "multi_thread")]
async fn two_people_talk() {
    let relay = Relay::configured(FREE);
    provider();
    let (alice, bob) = (Person::join(&relay, 1).await, Person::join(&relay, 2).await);
    let dm = alice.chat.direct(bob.id()).await.unwrap();
    // Written before bob is in: it waits for him, and is not lost.
    alice.send(&dm, "hello bob").await;
    let at_bob = bob.accept().await;
    assert_eq!(dm, at_bob);
    bob.reads(&dm, "hello bob").await;
    bob.send(&dm, "hello alice").await;
    let seen = alice.reads(&dm, "hello alice").await;
    assert_eq!((seen.from, seen.own), (Some(bob.id()), false));
    let own = alice.reads(&dm, "hello bob").await;
    assert_eq!((own.own, own.delivery), (true, Delivery::Stored));
    assert_eq!(alice.check(&dm), bob.check(&dm));
    assert_eq!(alice.texts(&dm), bob.texts(&dm));
    // Asked again, the same conversation is the answer.
    assert_eq!(bob.chat.direct(alice.id()).await.unwrap(), dm);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_changes_its_members() {
    let relay = Relay::configured(FREE);
    provider();
    let (alice, bob, carol) = (
        Person::join(&relay, 1).await,
        Person::join(&relay, 2).await,
        Person::join(&relay, 3).await,
    );
    let room = alice.chat.create_room(Some("ops".into()), vec![bob.id()]).await.unwrap();
    bob.accept().await;
    bob.until_members(&room, 2).await;
    bob.until("name", |chat| chat.conversation(&room).unwrap().name == "#ops").await;
    // Only who governs may invite.
    assert!(bob.chat.invite(&room, vec![carol.id()]).await.is_err());
    alice.chat.invite(&room, vec![carol.id()]).await.unwrap();
    carol.accept().await;
    carol.send(&room, "hi all").await;
    for person in [&alice, &bob] {
        person.reads(&room, "hi all").await;
    }
    alice.chat.remove(&room, vec![carol.id()]).await.unwrap();
    bob.until_members(&room, 2).await;
    carol
        .until("removal", |chat| {
            chat.conversation(&room).unwrap().state == ConversationState::Removed
        })
        .await;
    assert!(carol.chat.send_text(&room, "still here?", None).await.is_err());
    alice.send(&room, "she is gone").await;
    bob.reads(&room, "she is gone").await;
    assert_eq!(alice.check(&room), bob.check(&room));
    // Who leaves is taken out by the others.
    bob.chat.leave(&room).await.unwrap();
    bob.until("end", |chat| chat.conversation(&room).unwrap().state == ConversationState::Left)
        .await;
    alice.until_members(&room, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_invites_and_a_device_without_a_vault_is_let_in_by_asking() {
    let relay = Relay::configured(FREE);
    provider();
    let (alice, bob, carol) = (
        Person::join(&relay, 1).await,
        Person::join(&relay, 2).await,
        Person::join(&relay, 3).await,
    );
    let room = alice.chat.create_room(Some("ops".into()), vec![bob.id()]).await.unwrap();
    bob.accept().await;
    // An admin is one at the relay too, which would not take the invitation otherwise.
    alice.chat.set_role(&room, bob.id(), Role::Admin).await.unwrap();
    bob.until("admin", |chat| chat.conversation(&room).unwrap().role == Role::Admin).await;
    bob.chat.invite(&room, vec![carol.id()]).await.unwrap();
    carol.accept().await;
    carol.send(&room, "hi all").await;
    alice.reads(&room, "hi all").await;
    // Carol loses her device, and her vault too; her key she has.
    let client = carol.chat.client().unwrap();
    let vault: serde_json::Value = client.call(Request::get("/v1/vault")).await.unwrap();
    let body = serde_json::json!({ "version": vault["version"], "blob": "" });
    let mut emptied = Request::post("/v1/vault", &body);
    emptied.method = relay_client::client::Method::PUT;
    let _: serde_json::Value = client.call(emptied).await.unwrap();
    carol.chat.close().await;
    let carol = Person::open(&relay.url, 3, tempfile::tempdir().unwrap()).await;
    carol.online().await;
    let recovered = carol.chat.recover(true).await.unwrap();
    assert_eq!((recovered.conversations, recovered.without_key), (0, 1));
    alice.until("a request", |chat| !chat.asking(&room).unwrap().is_empty()).await;
    let asking = alice.chat.asking(&room).unwrap();
    assert_eq!(asking[0].user_id, carol.id());
    alice.chat.readmit(&room, carol.id()).await.unwrap();
    carol
        .until("a way in", |chat| {
            chat.conversation(&room).is_ok_and(|view| view.state == ConversationState::Active)
        })
        .await;
    carol.send(&room, "here again").await;
    for person in [&alice, &bob] {
        person.reads(&room, "here again").await;
        // The lost device is out: the new one has taken its place.
        person
            .until("one device each", |chat| {
                chat.members(&room).unwrap().iter().all(|member| member.devices == 1)
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_taken_out_by_others_too() {
    let relay = Relay::configured(FREE);
    provider();
    let (alice, bob) = (Person::join(&relay, 1).await, Person::join(&relay, 2).await);
    let phone = Person::join(&relay, 2).await;
    let room = alice.chat.create_room(Some("ops".into()), vec![bob.id()]).await.unwrap();
    bob.accept().await;
    let bobs_id = bob.id();
    let devices = |chat: &Chat| {
        let members = chat.members(&room).unwrap();
        members.iter().find(|member| member.user_id == bobs_id).map(|member| member.devices)
    };
    alice.until("two devices", |chat| devices(chat) == Some(2)).await;
    // Bob's other device is away; that the phone is lost, his key says in public.
    let lost = phone.chat.me().unwrap().device_id;
    bob.chat.close().await;
    let mut tags = Tags::new();
    tags.push(["d", &lost]);
    let draft = Draft {
        kind: reserved::DEVICE_REVOCATION,
        created_at_ns: relay_client::unix_ns(),
        tags,
        content: String::new(),
    };
    let key: relay_client::Signer = person::key(2).into();
    let event = key.sign_event(&draft).unwrap();
    alice.chat.client().unwrap().publish(&event).await.unwrap();
    let alice = alice.restart().await;
    alice.until("one device", |chat| devices(chat) == Some(1)).await;
    phone
        .until("its end", |chat| {
            chat.conversation(&room).unwrap().state == ConversationState::Removed
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_edits_reactions_and_marks() {
    let relay = Relay::configured(FREE);
    provider();
    let (alice, bob) = (Person::join(&relay, 1).await, Person::join(&relay, 2).await);
    let dm = alice.chat.direct(bob.id()).await.unwrap();
    bob.accept().await;
    alice.send(&dm, "teh deploy").await;
    let first = bob.reads(&dm, "teh deploy").await;
    let id = first.id.clone().unwrap();
    bob.until("unread", |chat| chat.conversation(&dm).unwrap().unread == 1).await;
    assert!(bob.chat.edit(&dm, &id, "mine now").await.is_err(), "not the author");
    alice.reads(&dm, "teh deploy").await;
    alice.chat.edit(&dm, &id, "the deploy").await.unwrap();
    let edited = bob.reads(&dm, "the deploy").await;
    assert!(edited.edited && edited.seq == first.seq);
    bob.chat.react(&dm, &id, "👍", false).await.unwrap();
    bob.chat.send_text(&dm, "done", Some(id.clone())).await.unwrap();
    let reply = alice.reads(&dm, "done").await;
    assert_eq!(reply.reply_to.as_ref().unwrap().excerpt, "the deploy");
    assert!(reply.mention, "an answer to an own message names its author");
    let reacted = alice.chat.message(&dm, first.seq.unwrap()).unwrap();
    assert_eq!((reacted.reactions[0].emoji.as_str(), reacted.reactions[0].own), ("👍", false));
    alice.chat.mark_read(&dm, None).await.unwrap();
    assert_eq!(alice.chat.conversation(&dm).unwrap().unread, 0);
    bob.until("read mark", |chat| {
        chat.message(&dm, reply.seq.unwrap()).is_ok_and(|message| !message.read_by.is_empty())
    })
    .await;
    alice.chat.delete(&dm, &id).await.unwrap();
    bob.until("deletion", |chat| {
        chat.message(&dm, first.seq.unwrap()).unwrap().body == MessageBody::Deleted
    })
    .await;
    let found = bob.chat.search("DONE", None, None, 10).unwrap();
    assert_eq!(found.items.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_offline_arrives_once_and_in_order() {
    let mut relay = Relay::configured(FREE);
    provider();
    // By the local socket, whose address stays when the relay is started again.
    let url = format!("unix:{}", relay.path("relay.sock").display());
    let alice = Person::open(&url, 1, tempfile::tempdir().unwrap()).await;
    let bob = Person::open(&url, 2, tempfile::tempdir().unwrap()).await;
    for person in [&alice, &bob] {
        person.online().await;
    }
    let dm = alice.chat.direct(bob.id()).await.unwrap();
    bob.accept().await;
    alice.send(&dm, "0").await;
    bob.reads(&dm, "0").await;
    relay.stop();
    for n in 1..=5 {
        alice.send(&dm, &n.to_string()).await;
    }
    // The outbox is there again after a restart of its device, before any connection.
    let alice = alice.restart().await;
    let page = alice.chat.messages(&dm, MessageRange::Newest, 50).unwrap();
    assert_eq!(page.items.iter().filter(|message| message.local.is_some()).count(), 5);
    relay.start_again();
    for person in [&alice, &bob] {
        person.chat.connect().await;
    }
    bob.reads(&dm, "5").await;
    assert_eq!(bob.texts(&dm), ["0", "1", "2", "3", "4", "5"]);
    alice.reads(&dm, "5").await;
    assert_eq!(alice.texts(&dm), bob.texts(&dm));
    assert_eq!(bob.unreadable(&dm), []);
}

#[tokio::test]
async fn a_profile_is_open_once_and_for_its_user() {
    provider();
    let dir = tempfile::tempdir().unwrap();
    let url = "http://127.0.0.1:9";
    let first = Chat::open(options(url, 1, dir.path())).await.unwrap();
    let again = Chat::open(options(url, 1, dir.path())).await.unwrap_err();
    assert!(
        again.to_string().contains(&format!("open in process {}", std::process::id())),
        "{again}"
    );
    first.close().await;
    let other = Chat::open(options(url, 2, dir.path())).await.unwrap_err();
    assert!(other.to_string().contains("belongs to"), "{other}");
    Chat::open(options(url, 1, dir.path())).await.unwrap().close().await;
}

/// The second installation of a process says no; the first one holds.
fn provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
