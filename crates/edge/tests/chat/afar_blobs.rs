//! Attachments of users whose homes are different relays.

use std::fmt::Write;

use serde_json::json;

use crate::{
    FREE,
    person::Person,
    support::{
        House, Raw,
        pair::{Pair, Trio},
    },
};

/// Longer than any message of a link: it goes in pieces.
fn bytes() -> String {
    (0..200_000_u32).fold(String::new(), |mut text, n| {
        let _ = write!(text, "{n:06} ");
        text
    })
}

fn path(bytes: &str) -> String {
    format!("/v1/blobs/{}", blake3::hash(bytes.as_bytes()).to_hex())
}

async fn put(who: &Person, house: &House, bytes: &str) -> Raw {
    let bearer = format!("Bearer {}", who.token);
    house.raw("PUT", &path(bytes), &[("authorization", &bearer)], bytes).await
}

async fn ask(who: &Person, house: &House, method: &str, bytes: &str, range: &str) -> Raw {
    let bearer = format!("Bearer {}", who.token);
    let headers = [("authorization", bearer.as_str()), ("range", range)];
    house.raw(method, &path(bytes), &headers, "").await
}

/// Somebody reads there what others put somewhere else, whole and in parts.
async fn reads(who: &Person, house: &House, bytes: &str) {
    let whole = who.get(house, &path(bytes)).await;
    assert_eq!(whole.status, 200, "{}", &whole.body[..whole.body.len().min(300)]);
    assert!(whole.body == bytes, "other bytes");
    assert_eq!(whole.header("cache-control"), Some("private, max-age=31536000, immutable"));
    let part = ask(who, house, "GET", bytes, "bytes=7-12").await;
    assert_eq!((part.status, part.body.as_str()), (206, "000001"));
    let range = format!("bytes 7-12/{}", bytes.len());
    assert_eq!(part.header("content-range"), Some(range.as_str()));
    assert_eq!(ask(who, house, "GET", bytes, "bytes=9999999-").await.status, 416);
    let head = ask(who, house, "HEAD", bytes, "").await;
    let length = bytes.len().to_string();
    assert_eq!((head.status, head.header("content-length")), (200, Some(length.as_str())));
    assert_eq!(head.body, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_at_an_edge_lies_at_its_users_home() {
    let limits = format!("{FREE}blob_max = \"2MiB\"\nblob_quota = \"2MiB\"\n");
    let pair = Pair::open(&limits, &format!("{FREE}user_home = \"home-b\"\n")).await;
    let alice = Person::login(&pair.edge, 1, "d").await;
    let bob = Person::login(&pair.home, 2, "d").await;
    let bytes = bytes();
    let stored = put(&alice, &pair.edge, &bytes).await;
    assert_eq!((stored.status, &stored.json()["size"]), (200, &json!(bytes.len())));
    let hash = *blake3::hash(bytes.as_bytes()).as_bytes();
    assert!(pair.home.node.attachments.find(hash).await.is_ok());
    assert!(pair.edge.node.attachments.find(hash).await.is_err(), "nothing is kept at the edge");
    reads(&alice, &pair.edge, &bytes).await;
    reads(&bob, &pair.home, &bytes).await;
    // The home's limits hold.
    let more = bytes.replace(' ', "+");
    let refused = put(&alice, &pair.edge, &more).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "quota_exceeded"));
    let large = "x".repeat((2 << 20) + 1);
    let refused = put(&alice, &pair.edge, &large).await;
    assert_eq!((refused.status, refused.code().as_str()), (413, "too_large"));
    assert_eq!(alice.get(&pair.edge, &path("nothing")).await.code(), "not_found");
    let bare = Person::login_without_grant(&pair.edge, 1, "d").await;
    let refused = bare.get(&pair.edge, &path(&bytes)).await;
    assert_eq!((refused.status, &refused.json()["grant_for"]), (401, &json!("edge-a")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attachments_are_found_at_whichever_relay_they_lie() {
    let trio = Trio::open(FREE, FREE, FREE).await;
    let alice = Person::login(&trio.edge, 1, "d").await;
    let bob = Person::login(&trio.other, 2, "d").await;
    let carol = Person::login(&trio.home, 3, "d").await;
    let bytes = bytes();
    assert_eq!(put(&alice, &trio.edge, &bytes).await.status, 200);
    reads(&carol, &trio.home, &bytes).await;
    reads(&bob, &trio.other, &bytes).await;
    let short = "0000000000001 short".to_owned();
    assert_eq!(put(&carol, &trio.home, &short).await.status, 200);
    reads(&alice, &trio.edge, &short).await;
    for (who, house) in [(&alice, &trio.edge), (&carol, &trio.home)] {
        assert_eq!(who.get(house, &path("nothing")).await.code(), "not_found");
    }
    // While not all can be asked, nobody says that there is none.
    trio.home.close().await;
    let answer = alice.get(&trio.edge, &path("nothing")).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "home_unreachable"));
    assert!(alice.get(&trio.edge, &path(&bytes)).await.body == bytes, "its own is there");
}
