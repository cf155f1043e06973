//! How the relay speaks HTTP (`common.md`).

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    event,
    support::{House, key},
};

#[tokio::test]
async fn refusals_are_problem_documents_with_a_name() {
    let house = House::open("").await;
    let answer = house.get("/v1/nothing").await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let problem = answer.json();
    assert_eq!(problem["code"], "not_found");
    assert_eq!(problem["message"], problem["detail"]);
    assert_eq!(problem["status"], 404);
    assert_eq!(problem["request_id"].as_str(), answer.header("relay-request-id"));
    let other = house.get("/v1/nothing").await;
    assert_ne!(other.header("relay-request-id"), answer.header("relay-request-id"));
    let good = house.get("/v1/info").await;
    assert!(good.header("relay-request-id").is_some());
    house.close().await;
}

#[tokio::test]
async fn methods_that_are_not_served_are_named() {
    let house = House::open("").await;
    let answer = house.raw("DELETE", "/v1/events", &[], "").await;
    assert_eq!((answer.status, answer.json()["status"].as_u64()), (405, Some(405)));
    assert!(answer.header("allow").unwrap().contains("POST"), "{:?}", answer.headers);
    let head = house.raw("HEAD", "/v1/info", &[], "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    house.close().await;
}

#[tokio::test]
async fn browsers_and_programs_are_answered_differently() {
    let house = House::open("").await;
    let browser = house.raw("GET", "/", &[("accept", "text/html,*/*")], "").await;
    assert_eq!((browser.status, browser.header("location")), (303, Some("/app")));
    assert!(house.get("/app").await.header("content-security-policy").is_some());
    let program = house.get("/").await;
    assert_eq!(program.json()["relay_id"], "gw_local");
    house.close().await;
}

#[tokio::test]
async fn only_listed_origins_may_read_answers() {
    let house = House::open("[chat]\ncors_origins = [\"https://app.example\"]").await;
    let preflight = [
        ("origin", "https://app.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
    ];
    let answer = house.raw("OPTIONS", "/v1/events", &preflight, "").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
    assert!(answer.header("access-control-allow-credentials").is_none());
    let listed = house.raw("GET", "/v1/info", &[("origin", "https://app.example")], "").await;
    assert_eq!(listed.header("access-control-allow-origin"), Some("https://app.example"));
    let other = house.raw("GET", "/v1/info", &[("origin", "https://evil.example")], "").await;
    assert_eq!(other.header("access-control-allow-origin"), None);
    house.close().await;
}

#[tokio::test]
async fn answers_may_be_kept_only_where_everybody_may_read() {
    let alice = key(1);
    let config = format!(
        "[[acl]]\nns = \"open\"\nwho = [\"*\"]\nallow = [\"read\", \"write\"]\n\
         [[acl]]\nns = \"closed\"\nwho = [\"{}\"]\nallow = [\"read\", \"write\"]\n",
        alice.node_id()
    );
    let house = House::open(&config).await;
    let open = event(&alice, 30_001, &[&["ns", "open"], &["d", "x"]], "all");
    let closed = event(&alice, 1, &[&["ns", "closed"]], "few");
    house.publish_all(&[open.clone(), closed.clone()]).await;

    let path = format!("/v1/events/{}", open.id());
    let answer = house.get(&path).await;
    assert_eq!(answer.header("cache-control"), Some("public, max-age=31536000, immutable"));
    let tag = answer.header("etag").unwrap().to_owned();
    for path in [path, format!("/v1/events/address/30001/{}/x", alice.node_id())] {
        let again = house.raw("GET", &path, &[("if-none-match", &tag)], "").await;
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
        assert_eq!(again.header("etag"), Some(tag.as_str()));
        let other = house.raw("GET", &path, &[("if-none-match", "\"other\"")], "").await;
        assert_eq!(other.status, 200);
    }

    let path = format!("/v1/events/{}", closed.id());
    assert_eq!(house.get(&path).await.code(), "not_found", "as if it were not there");
    assert_eq!(house.get("/v1/events?ns=closed").await.code(), "forbidden");
    assert_eq!(house.get("/v1/events/stream?ns=closed").await.code(), "forbidden");
    assert_eq!(house.ids("").await, [open.id().to_string()], "left out without a word");
    assert_eq!(house.count("").await, 1);
    let client = house.client().key(alice).build().unwrap();
    let found: serde_json::Value = client.call(relay_client::Request::get(&path)).await.unwrap();
    assert_eq!(found["id"], closed.id().to_string());
    house.close().await;
}

#[tokio::test]
async fn http2_is_spoken_to_those_who_know() {
    let house = House::open("").await;
    let address = house.url().replace("http://", "");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&settings).await.unwrap();
    let mut head = [0; 9];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut head));
    read.await.unwrap().unwrap();
    assert_eq!(head[3], 4, "the first frame is SETTINGS");
    drop(stream);
    house.close().await;
}

#[tokio::test]
async fn above_a_rate_http_is_refused_and_sockets_are_slowed() {
    let house = House::open("[quota]\nkey_events_per_sec = 50\nkey_burst = 5").await;
    let alice = key(1);
    let mut refused = None;
    for n in 0..100 {
        let answer = house.publish(&event(&alice, 1, &[], &n.to_string())).await;
        if answer.status != 201 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("100 events in less than two seconds, or a slow machine");
    assert_eq!((refused.status, refused.code()), (429, "rate_limited".into()));
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert!(refused.json()["retry_after_ms"].as_u64().unwrap() >= 1);

    let mut socket = house.socket(&[]).await;
    for n in 0..40 {
        let event = event(&key(2), 1, &[], &n.to_string());
        let frame = format!(
            r#"{{"v":1,"t":"event.publish","id":"{n}","body":{{"event":{}}}}}"#,
            crate::text(&event)
        );
        socket.send(&frame).await;
    }
    for _ in 0..40 {
        assert_eq!(socket.next().await["t"], "event.ok");
    }
    drop(socket);
    house.close().await;
}
