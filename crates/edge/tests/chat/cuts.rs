//! Links that break at each step of what relays do for each other (`federation.md`, Homes).
//!
//! Each scenario is played again and again. The first time the first message over the link is lost, and the link with
//! it, then the second, and so on until there is none left to lose; one way, then the other. Lost on its way to whoever
//! serves it, a request was never heard of; lost on the way back, it was carried out and nobody knows. Whoever asked
//! asks again. Afterwards all must be as if nothing had happened.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use futures_util::future::join_all;
use relay_proto::mls::{KeyPackage, decode_base64};
use relay_testkit::mls::{MlsDevice, private_message, welcome};
use serde_json::{Value, json};

use crate::{
    FREE,
    person::{Person, is_unreachable},
    support::{
        House, PATIENCE, Socket,
        pair::Pair,
        shears::{Shears, Way},
    },
};

/// Pairs of relays that share the work: each has to wait for its link now and then.
const PAIRS: usize = 4;
/// More than any scenario sends one way.
const MOST_MESSAGES: usize = 120;

/// One play of a scenario: where, and what is lost in it.
#[derive(Clone, Copy)]
struct Play<'a> {
    pair: &'a Pair,
    shears: &'a Shears,
    way: Way,
    n: usize,
}

impl Play<'_> {
    /// From here on messages over the link are counted.
    async fn begins(&self) {
        self.pair.holds().await;
        self.shears.cut_at(self.way, self.n);
    }

    /// Something that no other play has, in the middle of a name.
    fn name(&self) -> String {
        format!("{:?}{}", self.way, self.n)
    }

    /// The group of this play, and its name as a conversation.
    fn group(&self) -> ([u8; 32], String) {
        let mut group = [self.n as u8; 32];
        group[0] = u8::from(self.way == Way::In);
        (group, URL_SAFE_NO_PAD.encode(group))
    }
}

/// Plays a scenario with each message lost once.
async fn with_each_message_lost(
    at_home: &str,
    at_edge: &str,
    least: usize,
    scenario: impl AsyncFn(Play<'_>),
) {
    let play_some = async |first: usize| {
        let (pair, shears) = Pair::open_with_shears(at_home, at_edge).await;
        let mut lost = 0;
        for way in [Way::In, Way::Out] {
            for n in (first..).step_by(PAIRS) {
                assert!(n < MOST_MESSAGES, "there is no end of messages");
                scenario(Play { pair: &pair, shears: &shears, way, n }).await;
                if shears.call_off() {
                    break;
                }
                lost += 1;
            }
        }
        pair.edge.close().await;
        pair.home.close().await;
        lost
    };
    let lost: Vec<usize> = join_all((1..=PAIRS).map(play_some)).await;
    let lost: usize = lost.into_iter().sum();
    assert!(lost >= least, "only {lost} messages were lost: the scenario does not use the link");
}

/// Follows a conversation in which nothing was said yet, asking again while its home is out of reach.
async fn follow(socket: &mut Socket, conv: &str) {
    let asking = async {
        loop {
            socket.follow(conv, 1).await;
            let answer = socket.answer("follow").await;
            match answer["t"].as_str() {
                Some("conv.subscribed") => return,
                _ => assert!(is_passing(&answer), "{answer}"),
            }
            pause().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{conv}: not followed"));
}

fn is_passing(frame: &Value) -> bool {
    matches!(frame["body"]["code"].as_str(), Some("home_unreachable" | "timeout"))
}

async fn pause() {
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
}

/// Sends until it is acknowledged; its `seq`.
async fn send(who: &Person, house: &House, conv: &str, msg: &str) -> u64 {
    let body = json!({ "conv_id": conv, "msg_id": msg, "env": format!("env of {msg}") });
    let frame = json!({ "v": 1, "t": "conv.send", "body": body });
    done(who, house, "/v1/inbox", frame).await["seq"].as_u64().unwrap()
}

/// Asks until it is done.
async fn done(who: &Person, house: &House, path: &str, body: Value) -> Value {
    let answer = who.insist(house, path, body).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()
}

/// Creates a conversation; whoever does not know whether it was done hears that the name is taken.
async fn create(who: &Person, house: &House, room: Value) {
    let answer = who.insist(house, "/v1/rooms/create", room).await;
    let is_taken = answer.status == 400 && answer.body.contains("conversation already exists");
    assert!(answer.status == 200 || is_taken, "{}", answer.body);
}

/// Reads until the answer is as it should be.
async fn until(who: &Person, house: &House, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let asking = async {
        loop {
            let answer = who.get(house, path).await;
            if !is_unreachable(&answer) && holds(&answer.json()) {
                return answer.json();
            }
            pause().await;
        }
    };
    let asked = tokio::time::timeout(PATIENCE, asking).await;
    asked.unwrap_or_else(|_| panic!("{path} stays as it is"))
}

/// Messages come with `seq` 1 and on, each once.
async fn expect_all(socket: &mut Socket, messages: &[&str]) {
    for (at, msg) in messages.iter().enumerate() {
        let event = socket.expect("conv.event").await;
        let got = (&event["body"]["seq"], &event["body"]["msg_id"]);
        assert_eq!(got, (&json!(at + 1), &json!(msg)));
    }
}

async fn expect_nothing(socket: &mut Socket) {
    socket.ask("ping", "p", json!({})).await;
    socket.expect("pong").await;
}

fn roles(members: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let members = members["members"].as_array().unwrap();
    members.iter().map(|member| (text(&member["user_id"]), text(&member["role"]))).collect()
}

/// A room that `creator` makes at `near` and governs from there, with two others at `far`.
async fn talk(play: Play<'_>, near: &House, far: &House) {
    let conv = play.name();
    let alice = Person::login(near, 1, "d").await;
    let bob = Person::login(far, 2, "d").await;
    let carol = Person::login(far, 3, "d").await;
    play.begins().await;
    create(&alice, near, json!({ "conv_id": conv, "members": [bob.id()] })).await;
    let target = |who: &Person| json!({ "conv_id": conv, "members": [who.id()] });
    done(&alice, near, "/v1/rooms/invite", target(&carol)).await;
    done(&alice, near, "/v1/rooms/promote", target(&bob)).await;
    let list = format!("/v1/rooms/members?conv_id={conv}");
    for who in [&bob, &carol] {
        // The way to a conversation of another home is told a moment later.
        until(who, far, &list, |answer| answer["members"].is_array()).await;
    }
    let mut readers = [alice.socket(near).await, bob.socket(far).await];
    for reader in &mut readers {
        follow(reader, &conv).await;
    }
    assert_eq!(send(&alice, near, &conv, "a1").await, 1);
    assert_eq!(send(&bob, far, &conv, "b1").await, 2);
    assert_eq!(send(&alice, near, &conv, "a2").await, 3);
    assert_eq!(send(&alice, near, &conv, "a1").await, 1, "the same message has one number");
    for (who, house) in [(&alice, near), (&bob, far)] {
        let ack = json!({ "v": 1, "t": "conv.ack", "body": { "conv_id": conv, "seq": 2 } });
        done(who, house, "/v1/inbox", ack).await;
    }
    done(&bob, far, "/v1/rooms/mute", target(&carol)).await;
    done(&bob, far, "/v1/rooms/remove", target(&carol)).await;
    assert_eq!(send(&bob, far, &conv, "b2").await, 4);
    for (reader, (who, house)) in readers.iter_mut().zip([(&alice, near), (&bob, far)]) {
        expect_all(reader, &["a1", "b1", "a2", "b2"]).await;
        expect_nothing(reader).await;
        let members = until(who, house, &list, |answer| answer["members"].is_array()).await;
        let expected = [(&alice, "owner"), (&bob, "admin")];
        let expected: Vec<_> =
            expected.iter().map(|(who, role)| (who.id().to_string(), (*role).to_owned())).collect();
        assert_eq!(roles(&members), expected);
        let list = until(who, house, "/v1/conversations", |list| {
            list["unreachable"].as_array().is_none_or(Vec::is_empty)
        })
        .await;
        let items = list["items"].as_array().unwrap();
        let item = items.iter().find(|item| item["conv_id"] == *conv).unwrap();
        assert_eq!((&item["latest_seq"], &item["unread_count"]), (&json!(4), &json!(4)));
    }
    // Whoever was removed does not find it any longer.
    let gone = until(&carol, far, "/v1/conversations", |list| {
        list["items"]
            .as_array()
            .is_some_and(|items| items.iter().all(|item| item["conv_id"] != *conv))
    });
    gone.await;
    // The marks of devices are kept; a session that begins does not wait long for another home to tell them.
    for (n, house) in [(1, near), (2, far)] {
        let asking = async { while next_seq(house, n, &conv).await != 3 {} };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("no mark of {n}"));
    }
}

/// Where a device has got to, as a session that goes on is told.
async fn next_seq(house: &House, n: u8, conv: &str) -> Value {
    let person = Person::login(house, n, "d").await;
    let mut socket = house.socket(&[]).await;
    socket.ask("session.resume", "r", json!({ "resume_token": person.resume })).await;
    let ready = socket.expect("session.ready").await;
    let cursors = ready["body"]["cursors"].as_array().unwrap();
    let cursor = cursors.iter().find(|cursor| cursor["conv_id"] == *conv);
    cursor.map_or(Value::Null, |cursor| cursor["next_seq"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_made_and_governed_through_an_edge() {
    let at_edge = format!("{FREE}user_home = \"home-b\"\n");
    with_each_message_lost(FREE, &at_edge, 20, async |play| {
        Box::pin(talk(play, &play.pair.edge, &play.pair.home)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_of_one_home_with_members_of_another() {
    with_each_message_lost(FREE, FREE, 20, async |play| {
        Box::pin(talk(play, &play.pair.edge, &play.pair.home)).await;
    })
    .await;
}

/// Publishes a KeyPackage of a device.
async fn publish(who: &Person, house: &House, device: &mut MlsDevice) -> String {
    let package = device.key_package(house.node.clock.wall_ns() / 1_000_000_000);
    let body = json!({
        "device_id": device.device_id(), "profile": "relay-mls/1", "key_packages": [package],
    });
    done(who, house, "/v1/keypackages", body).await;
    package
}

/// The next entry of a device's inbox, which is followed from here on; asked again while its home is out of reach.
async fn next_entry(inbox: &mut Socket) -> Value {
    loop {
        let frame = inbox.next().await;
        match frame["t"].as_str() {
            Some("inbox.event") => return frame["body"].clone(),
            Some("ping") => inbox.send(r#"{"v":1,"t":"pong"}"#).await,
            _ => assert!(is_passing(&frame), "{frame}"),
        }
        if frame["t"] == "error" {
            pause().await;
            inbox.ask("inbox.subscribe", "i", json!({})).await;
        }
    }
}

/// A member is added with a Welcome, by somebody at `near`; the invited device is at `far`.
async fn add(play: Play<'_>, near: &House, far: &House, conv_home: &str) {
    let (group, conv) = play.group();
    let alice = Person::login(near, 1, &MlsDevice::new(1, 1).device_id()).await;
    // A device of its own for each play: its inbox and its KeyPackages are its own.
    let mut device = MlsDevice::new(2, group[0] * 128 + group[1]);
    let bob = Person::login(far, 2, &device.device_id()).await;
    let mut inbox = bob.socket(far).await;
    play.begins().await;
    if play.n <= PAIRS {
        // Packages are for contacts; it stays so for later plays.
        done(&bob, far, "/v1/presence/watch", json!({ "contacts": [alice.id()] })).await;
    }
    let mut published = vec![publish(&bob, far, &mut device).await];
    let room = json!({ "conv_id": conv, "profile": "relay-mls/1", "kind": "room" });
    create(&alice, near, room).await;
    let mut reader = alice.socket(near).await;
    follow(&mut reader, &conv).await;
    // A package that was given out and lost on the way is never given again.
    let fetch = json!({ "user_id": bob.id(), "count": 1, "per_device": true });
    let package = loop {
        let fetched = done(&alice, near, "/v1/keypackages/fetch", fetch.clone()).await;
        let devices = fetched["devices"].as_array().unwrap();
        let own = devices.iter().find(|found| found["device_id"] == device.device_id());
        match own.and_then(|own| own["keypackages"][0].as_str()) {
            Some(package) => break package.to_owned(),
            None => published.push(publish(&bob, far, &mut device).await),
        }
    };
    assert_eq!(published.last(), Some(&package), "each is given out once");
    let reference = KeyPackage::parse(&decode_base64(&package).unwrap()).unwrap().reference;
    let commit = json!({
        "conv_id": conv, "msg_id": "add bob", "env": private_message(&group, 0, 3, b"add bob"),
        "group_info": { "epoch": 1, "sealed": "AQID" }, "members_add": [bob.id()],
        "welcomes": [{ "env": welcome(), "to": [{
            "user_id": bob.id(), "device_id": device.device_id(),
            "key_package_ref": STANDARD.encode(reference) }] }],
    });
    let acked = done(&alice, near, "/v1/conversations/commit", commit).await;
    assert_eq!(acked["seq"], 1, "{acked}");
    inbox.ask("inbox.subscribe", "i", json!({})).await;
    let entry = next_entry(&mut inbox).await;
    assert_eq!(
        (&entry["seq"], &entry["kind"], &entry["conv_id"]),
        (&json!(1), &json!("welcome"), &json!(conv))
    );
    assert_eq!((&entry["conv_home"], &entry["conv_seq"]), (&json!(conv_home), &json!(1)));
    done(&bob, far, "/v1/inbox/ack", json!({ "seq": 1 })).await;
    let info = format!("/v1/conversations/group_info?conv_id={conv}");
    let info = until(&bob, far, &info, |answer| answer["epoch"].is_u64()).await;
    assert_eq!(info, json!({ "epoch": 1, "group_info": "AQID" }));
    let application = json!({ "v": 1, "t": "conv.send", "body": {
        "conv_id": conv, "msg_id": "app", "kind": "application",
        "env": private_message(&group, 1, 1, b"hello") } });
    assert_eq!(done(&bob, far, "/v1/inbox", application).await["seq"], 2);
    expect_all(&mut reader, &["add bob", "app"]).await;
    // The next entry of the inbox is the next thing that happened: the Welcome came once.
    let again = json!({ "conv_id": conv, "members": [bob.id()] });
    done(&alice, near, "/v1/conversations/rejoin_request", again).await;
    let entry = next_entry(&mut inbox).await;
    assert_eq!((&entry["seq"], &entry["kind"]), (&json!(2), &json!("rejoin_request")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_welcome_from_one_home_to_another() {
    with_each_message_lost(FREE, FREE, 10, async |play| {
        Box::pin(add(play, &play.pair.edge, &play.pair.home, "edge-a")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_added_from_home_to_an_inbox_that_is_read_through_an_edge() {
    let at_edge = format!("{FREE}user_home = \"home-b\"\n");
    with_each_message_lost(FREE, &at_edge, 10, async |play| {
        Box::pin(add(play, &play.pair.home, &play.pair.edge, "home-b")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_added_through_an_edge() {
    let at_edge = format!("{FREE}user_home = \"home-b\"\n");
    with_each_message_lost(FREE, &at_edge, 10, async |play| {
        Box::pin(add(play, &play.pair.edge, &play.pair.home, "home-b")).await;
    })
    .await;
}
