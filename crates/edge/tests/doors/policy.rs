//! Who may do what, over the wire: configured rules, rules that an admin publishes, rotated keys, quotas.

use relay_proto::{
    SigningKey,
    event::{reserved, rotation_text},
};
use serde_json::{Value, json};

use crate::{
    event, event_at, now_ns,
    streams::subscribe,
    support::{House, key},
};

fn rotation(old: &SigningKey, new: &SigningKey, ns: &str) -> relay_proto::Event {
    let at = now_ns();
    let text = rotation_text(&old.node_id(), &new.node_id(), at);
    let content = json!({ "proof": hex::encode(new.sign(text.as_bytes())) }).to_string();
    let delegate = new.node_id().to_string();
    event_at(old, reserved::KEY_ROTATION, &[&["delegate", &delegate], &["ns", ns]], &content, at)
}

fn allow(ns: &str, who: &SigningKey, ops: &str) -> String {
    format!("[[acl]]\nns = \"{ns}\"\nwho = [\"{}\"]\nallow = [{ops}]\n", who.node_id())
}

#[tokio::test]
async fn rules_of_an_admin_count_at_once_and_deny_wins() {
    let (admin, bob, carol) = (key(9), key(2), key(3));
    let config = allow("**", &admin, "\"admin\", \"read\", \"write\"");
    let house = House::open(&config).await;
    let note = |author: &SigningKey, text: &str| event(author, 1, &[&["ns", "forge/a"]], text);
    assert_eq!(house.publish(&note(&bob, "1")).await.code(), "forbidden");

    let rules = |rules: Value| {
        let content = json!({ "rules": rules }).to_string();
        event(&admin, reserved::ACL_POLICY, &[&["d", "forge"]], &content)
    };
    let open = json!({ "ns": "forge/**", "who": ["*"], "allow": ["read", "write"] });
    let by_bob = event(&bob, reserved::ACL_POLICY, &[], &json!({ "rules": [open] }).to_string());
    assert_eq!(house.publish(&by_bob).await.code(), "forbidden", "bob is no admin");

    let mut socket = house.socket(&[]).await;
    subscribe(&mut socket, json!({ "sub": "s", "filters": [{ "kinds": [1] }] })).await;
    socket.frame("stream.live").await;
    assert_eq!(house.publish(&rules(json!([open]))).await.status, 201);
    assert_eq!(house.publish(&note(&bob, "2")).await.status, 201);
    socket.frame("stream.event").await;

    let deny = json!({ "ns": "forge/a", "who": [bob.node_id()], "deny": ["write"] });
    assert_eq!(house.publish(&rules(json!([open, deny]))).await.status, 201);
    assert_eq!(house.publish(&note(&bob, "3")).await.code(), "forbidden");
    let fine = note(&carol, "4");
    assert_eq!(house.publish(&fine).await.status, 201);
    let told = socket.frame("stream.event").await;
    assert_eq!(told["body"]["event"]["id"], fine.id().to_string());

    let house = house.reopen(&config).await;
    assert_eq!(house.publish(&note(&bob, "5")).await.code(), "forbidden", "also after a restart");
    assert_eq!(house.publish(&note(&carol, "6")).await.status, 201);
    drop(socket);
    house.close().await;
}

#[tokio::test]
async fn a_rotated_key_hands_on_its_rights_and_writes_no_more() {
    let (old, new) = (key(1), key(2));
    let config = allow("forge", &old, "\"read\", \"write\"");
    let house = House::open(&config).await;
    let note = |author: &SigningKey, text: &str| event(author, 1, &[&["ns", "forge"]], text);
    let before = note(&old, "1");
    assert_eq!(house.publish(&before).await.status, 201);
    assert_eq!(house.publish(&note(&new, "2")).await.code(), "forbidden");
    let rotated = house.publish(&rotation(&old, &new, "forge")).await;
    assert_eq!(rotated.status, 201, "{}", rotated.body);
    assert_eq!(house.publish(&note(&new, "3")).await.status, 201);
    assert_eq!(house.publish(&note(&old, "4")).await.code(), "forbidden");
    let again = house.publish(&before).await;
    assert_eq!(again.json()["status"], "duplicate", "what is stored is said to be stored");
    let cycle = house.publish(&rotation(&new, &old, "forge")).await;
    assert!(cycle.status >= 400, "a cycle: {}", cycle.body);
    house.close().await;
}

#[tokio::test]
async fn a_rotation_waits_for_approval_where_the_namespace_says_so() {
    let (old, new, admin) = (key(1), key(2), key(9));
    let config = format!(
        "{}{}[[namespace]]\nmatch = \"forge\"\nrotation = \"approval\"\n",
        allow("forge", &old, "\"read\", \"write\""),
        allow("**", &admin, "\"admin\", \"write\"")
    );
    let house = House::open(&config).await;
    let note = |author: &SigningKey, text: &str| event(author, 1, &[&["ns", "forge"]], text);
    let asked = rotation(&old, &new, "forge");
    assert_eq!(house.publish(&asked).await.status, 201);
    assert_eq!(house.publish(&note(&new, "1")).await.code(), "forbidden");
    let id = asked.id().to_string();
    let approval = event(&admin, reserved::ROTATION_APPROVAL, &[&["e", &id], &["ns", "forge"]], "");
    let approved = house.publish(&approval).await;
    assert_eq!(approved.status, 201, "{}", approved.body);
    assert_eq!(house.publish(&note(&new, "2")).await.status, 201);
    assert_eq!(house.publish(&note(&old, "3")).await.code(), "forbidden");
    house.close().await;
}

#[tokio::test]
async fn quotas_hold_per_tenant() {
    let house = House::open("[quota]\nevents_per_day = 3\nsubscriptions = 2").await;
    for n in 0..3 {
        assert_eq!(house.publish(&event(&key(1), 1, &[], &n.to_string())).await.status, 201);
    }
    let refused = house.publish(&event(&key(2), 1, &[], "more")).await;
    assert_eq!((refused.status, refused.code()), (429, "quota_exceeded".into()));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(house.count("").await, 3);
    let mut socket = house.socket(&[]).await;
    for sub in ["a", "b"] {
        subscribe(&mut socket, json!({ "sub": sub })).await;
        socket.frame("stream.live").await;
    }
    subscribe(&mut socket, json!({ "sub": "c" })).await;
    assert_eq!(socket.next().await["body"]["code"], "quota_exceeded");
    drop(socket);
    house.until("free places", |node| node.quotas.report("default").subscriptions == 0).await;
    house.close().await;
}
