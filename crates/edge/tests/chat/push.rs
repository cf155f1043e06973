//! Pushes without content, to a push service of this test.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

use crate::{FREE, person::Person, support::House};

pub const ON: &str =
    "[push]\ncontact = \"mailto:operator@example.com\"\nallow_private = true\nevery = \"200ms\"\n";
const PATIENCE: Duration = Duration::from_secs(20);

/// A push service: tells each request that comes, and answers with the status that its path names.
pub async fn push_service() -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                let mut buffer = [0; 4_096];
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut buffer).await {
                        Ok(got @ 1..) => request.extend_from_slice(&buffer[..got]),
                        _ => return,
                    }
                }
                let request = String::from_utf8(request).unwrap().to_lowercase();
                let status = if request.starts_with("post /gone") { 410 } else { 201 };
                let answer = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = tell.send(request);
            });
        }
    });
    (url, told)
}

pub async fn next(told: &mut mpsc::UnboundedReceiver<String>) -> String {
    tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap()
}

pub async fn set(person: &Person, house: &House, endpoint: &str) -> u16 {
    let bearer = format!("Bearer {}", person.token);
    let body = json!({ "endpoint": endpoint }).to_string();
    house.raw("PUT", "/v1/push", &[("authorization", &bearer)], &body).await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absent_devices_hear_that_something_is_there_and_nothing_else() {
    let (url, mut told) = push_service().await;
    let house = House::open(&format!("{FREE}{ON}")).await;
    let alice = Person::login(&house, 1, "d").await;
    let bob = Person::login(&house, 2, "phone").await;
    alice.create(&house, "secret-room", &[&bob]).await;
    let about = bob.get(&house, "/v1/push").await.json();
    let key = about["vapid_public_key"].as_str().unwrap().to_lowercase();
    assert_eq!((&about["enabled"], &about["endpoint"]), (&json!(true), &json!(null)));
    assert_eq!(set(&bob, &house, &format!("{url}/bob")).await, 200);
    for n in 0..50 {
        alice.send(&house, "secret-room", &format!("m{n}")).await;
    }
    let request = next(&mut told).await;
    assert!(request.starts_with("post /bob http/1.1"), "{request}");
    for part in ["ttl: ", "topic: relay", "content-length: 0", "authorization: vapid t=", &key] {
        assert!(request.contains(part), "{part}: {request}");
    }
    let (user, room) = (alice.id().to_string(), "secret-room");
    assert!(!request.contains(&user) && !request.contains(room), "{request}");
    // What came together is told together: at most once more.
    alice.send(&house, "secret-room", "last").await;
    next(&mut told).await;
    let more = tokio::time::timeout(Duration::from_secs(1), told.recv()).await;
    assert!(more.is_err(), "50 messages are not 50 pushes");
    // Whoever is connected hears it there.
    let mut socket = bob.socket(&house).await;
    socket.follow("secret-room", 1).await;
    alice.send(&house, "secret-room", "seen").await;
    assert_eq!(socket.seq().await, 1);
    // An address that the service does not know any more is forgotten.
    assert_eq!(set(&alice, &house, &format!("{url}/gone")).await, 200);
    bob.send(&house, "secret-room", "back").await;
    while !next(&mut told).await.starts_with("post /gone") {}
    let forgotten = async {
        while alice.get(&house, "/v1/push").await.json()["endpoint"] != json!(null) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, forgotten).await.unwrap();
    house.close().await;
}

#[tokio::test]
async fn nothing_is_pushed_unless_it_is_set_up_and_never_inside() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    assert_eq!(set(&alice, &house, "https://push.example.com/x").await, 400);
    assert_eq!(alice.get(&house, "/v1/push").await.json()["enabled"], false);
    house.close().await;
    let house = House::open("[push]\ncontact = \"mailto:operator@example.com\"\n").await;
    let alice = Person::login(&house, 1, "d").await;
    for bad in [
        "http://push.example.com/x",
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://10.0.0.1/",
        "ftp://x/",
        "https://user@push.example.com/",
        "nothing",
    ] {
        assert_eq!(set(&alice, &house, bad).await, 400, "{bad}");
    }
    assert_eq!(set(&alice, &house, "https://push.example.com/x").await, 200);
    house.close().await;
}
