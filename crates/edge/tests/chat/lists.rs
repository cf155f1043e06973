//! The conversation list and personal state (`gateway.md` 9).

use serde_json::{Value, json};

use crate::{
    FREE,
    person::{Person, id},
    support::House,
};

async fn list(person: &Person, house: &House, query: &str) -> Vec<Value> {
    let answer = person.get(house, &format!("/v1/conversations{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn what_a_member_sees_and_sets() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    let bob = Person::login(&house, 2, "d").await;
    assert_eq!(list(&alice, &house, "").await, [] as [Value; 0]);
    alice.create(&house, "pair", &[&bob]).await;
    let mut fresh = list(&bob, &house, "").await.remove(0);
    assert!(fresh["created_at_ms"].take().is_u64());
    let mut members = [id(1), id(2)];
    members.sort();
    assert_eq!(
        fresh,
        json!({ "conv_id": "pair", "role": "member", "created_at_ms": null, "home_gateway": "gw_local",
            "profile": "opaque", "kind": "room", "member_count": 2, "members": members,
            "title": "", "label": "", "pinned": false, "pinned_at_ms": 0, "muted": false, "archived": false,
            "earliest_seq": null, "latest_seq": null, "latest_ts_ms": null, "last_read_seq": null,
            "unread_count": 0, "display_name": format!("DM with {}", id(1)) })
    );
    for n in 0..3 {
        alice.send(&house, "pair", &format!("m{n}")).await;
    }
    let seen = list(&bob, &house, "").await.remove(0);
    assert_eq!((&seen["unread_count"], &seen["latest_seq"]), (&json!(3), &json!(3)));
    let read = |to: Value| json!({ "conv_id": "pair", "to_seq": to });
    for (to, last, unread) in
        [(json!(1), 1, 2), (json!(0), 1, 2), (json!(99), 3, 0), (Value::Null, 3, 0)]
    {
        let marked = bob.ok(&house, "/v1/conversations/mark_read", read(to)).await;
        assert_eq!(
            marked,
            json!({ "status": "ok", "conv_id": "pair", "last_read_seq": last, "unread_count": unread })
        );
    }
    for bad in [json!(-1), json!("1"), json!(1.5), json!(true)] {
        assert_eq!(bob.refused(&house, "/v1/conversations/mark_read", read(bad)).await.0, 400);
    }
    let title = json!({ "conv_id": "pair", "title": "  two \t words  " });
    let titled = alice.ok(&house, "/v1/conversations/title", title).await;
    assert_eq!(titled, json!({ "status": "ok", "conv_id": "pair", "title": "two words" }));
    let long = json!({ "conv_id": "pair", "title": "x".repeat(65) });
    assert_eq!(alice.refused(&house, "/v1/conversations/title", long).await.0, 400);
    assert_eq!(list(&bob, &house, "").await[0]["display_name"], "two words");
    let label = json!({ "conv_id": "pair", "label": " mine " });
    let labelled = bob.ok(&house, "/v1/conversations/label", label).await;
    assert_eq!(labelled["label"], "mine");
    assert_eq!(list(&bob, &house, "").await[0]["display_name"], "mine");
    assert_eq!(list(&alice, &house, "").await[0]["display_name"], "two words", "private");
    let pin = |pinned| json!({ "conv_id": "pair", "pinned": pinned });
    let pinned = bob.ok(&house, "/v1/conversations/pin", pin(true)).await;
    assert!(pinned["pinned_at_ms"].as_u64().unwrap() > 0);
    let unpinned = bob.ok(&house, "/v1/conversations/pin", pin(false)).await;
    assert_eq!(unpinned["pinned_at_ms"], 0);
    let archive = json!({ "conv_id": "pair", "archived": true });
    bob.ok(&house, "/v1/conversations/archive", archive).await;
    assert_eq!(list(&bob, &house, "").await.len(), 0);
    assert_eq!(list(&bob, &house, "?include_archived=1").await.len(), 1);
    house.close().await;
}

#[tokio::test]
async fn pinned_first_then_by_age_and_in_pages() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    for name in ["c", "a", "b"] {
        alice.create(&house, name, &[]).await;
        alice.send(&house, name, "m").await;
    }
    let mute = json!({ "conv_id": "a", "muted": true });
    alice.ok(&house, "/v1/conversations/mute", mute).await;
    alice.ok(&house, "/v1/conversations/pin", json!({ "conv_id": "b", "pinned": true })).await;
    let names = |items: Vec<Value>| -> Vec<String> {
        items.iter().map(|item| item["conv_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(list(&alice, &house, "").await), ["b", "c", "a"]);
    let page = alice.get(&house, "/v1/conversations?limit=2").await.json();
    assert_eq!(page["cursor"], "c");
    let rest = alice.get(&house, "/v1/conversations?limit=2&cursor=c").await.json();
    assert_eq!(names(rest["items"].as_array().unwrap().clone()), ["a"]);
    assert_eq!(rest.get("cursor"), None);
    let all = json!({ "include_muted": false });
    let marked = alice.ok(&house, "/v1/conversations/mark_all_read", all).await;
    assert_eq!(marked, json!({ "status": "ok", "updated": 2, "updated_conv_ids": ["b", "c"] }));
    let bearer = format!("Bearer {}", alice.token);
    let empty = house
        .raw("POST", "/v1/conversations/mark_all_read", &[("authorization", &bearer)], "")
        .await;
    assert_eq!(empty.json()["updated_conv_ids"], json!(["a"]));
    for bad in [json!([]), json!({ "include_muted": 1 })] {
        assert_eq!(alice.refused(&house, "/v1/conversations/mark_all_read", bad).await.0, 400);
    }
    house.close().await;
}
