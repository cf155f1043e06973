//! Attachments (`PUT`, `GET`, `HEAD /v1/blobs/{hash}`).

use serde_json::json;

use crate::{FREE, person::Person, support::House};

fn path(bytes: &str) -> String {
    format!("/v1/blobs/{}", blake3::hash(bytes.as_bytes()).to_hex())
}

#[tokio::test]
async fn bytes_are_kept_by_their_hash_and_read_in_ranges() {
    let house = House::open(&format!("{FREE}blob_max = \"4KiB\"\nblob_quota = \"5KiB\"\n")).await;
    let alice = Person::login(&house, 1, "d").await;
    let bob = Person::login(&house, 2, "d").await;
    let bearer = format!("Bearer {}", alice.token);
    let put = async |path: &str, bytes: &str| {
        house.raw("PUT", path, &[("authorization", &bearer)], bytes).await
    };
    let text = "0123456789".repeat(400);
    let stored = put(&path(&text), &text).await;
    assert_eq!(stored.status, 200, "{}", stored.body);
    assert_eq!(stored.json()["size"], 4_000);
    assert_eq!(put(&path(&text), &text).await.status, 200, "again is no matter");
    let read = bob.get(&house, &path(&text)).await;
    assert_eq!((read.status, read.body.as_str()), (200, text.as_str()));
    assert_eq!(read.header("cache-control"), Some("private, max-age=31536000, immutable"));
    let bobs = format!("Bearer {}", bob.token);
    let range = |range: &'static str| {
        let (house, bobs, path) = (&house, &bobs, path(&text));
        async move { house.raw("GET", &path, &[("authorization", bobs), ("range", range)], "").await }
    };
    let part = range("bytes=2-5").await;
    assert_eq!((part.status, part.body.as_str()), (206, "2345"));
    assert_eq!(part.header("content-range"), Some("bytes 2-5/4000"));
    let tail = range("bytes=-3").await;
    assert_eq!((tail.status, tail.body.as_str()), (206, "789"));
    assert_eq!(range("bytes=4000-").await.status, 416);
    let head = house.raw("HEAD", &path(&text), &[("authorization", &bobs)], "").await;
    assert_eq!(
        (head.status, head.header("content-length"), head.body.as_str()),
        (200, Some("4000"), "")
    );
    let wrong = put(&path("other"), "short").await;
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "invalid_request"));
    assert_eq!(bob.get(&house, &path("other")).await.status, 404);
    let large = "x".repeat(4_097);
    assert_eq!(put(&path(&large), &large).await.status, 413);
    let over = "y".repeat(2_000);
    let refused = put(&path(&over), &over).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "quota_exceeded"));
    assert_eq!(put("/v1/blobs/zz", "x").await.status, 400);
    assert_eq!(house.raw("GET", &path(&text), &[], "").await.status, 401);
    let house = house.reopen(FREE).await;
    assert_eq!(bob.get(&house, &path(&text)).await.body, text, "survives a restart");
    assert_eq!(json!(bob.get(&house, &path("nothing")).await.code()), "not_found");
    house.close().await;
}
