//! `GET /v1/sse` (`gateway.md` 7).

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use serde_json::{Value, json};

use crate::{FREE, person::Person, support::House};

/// An open stream.
struct Stream {
    lines: tokio::io::Lines<BufReader<TcpStream>>,
}

#[derive(Debug, PartialEq)]
struct Event {
    id: Option<String>,
    name: String,
    data: Value,
}

impl Stream {
    async fn open(house: &House, person: &Person, query: &str, last: Option<u64>) -> Self {
        let address = house.url().strip_prefix("http://").unwrap().to_owned();
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let last = last.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        let request = format!(
            "GET /v1/sse?{query} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\nauthorization: Bearer {}\r\n{last}\r\n",
            person.token
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let status = lines.next_line().await.unwrap().unwrap();
        assert!(status.contains("200"), "{status}");
        let mut head = Vec::new();
        loop {
            let line = lines.next_line().await.unwrap().unwrap();
            if line.is_empty() {
                break;
            }
            head.push(line.to_ascii_lowercase());
        }
        for expected in [
            "content-type: text/event-stream; charset=utf-8",
            "cache-control: no-store",
            "x-accel-buffering: no",
        ] {
            assert!(head.iter().any(|line| line == expected), "{head:?}");
        }
        Self { lines }
    }

    async fn next(&mut self) -> Option<Event> {
        let (mut id, mut name, mut data) = (None, None, None);
        while let Some(line) = self.lines.next_line().await.unwrap() {
            match line.split_once(": ") {
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("event", value)) => name = Some(value.to_owned()),
                Some(("data", value)) => data = Some(serde_json::from_str(value).unwrap()),
                _ if line.is_empty() && data.is_some() => {
                    return Some(Event { id, name: name?, data: data? });
                }
                // Comments, lengths of chunks, ends of comments.
                _ => {}
            }
        }
        None
    }

    async fn expect(&mut self, seq: u64) {
        let event = self.next().await.unwrap();
        assert_eq!((event.name.as_str(), event.id), ("conv.event", Some(seq.to_string())));
        assert_eq!(event.data["body"]["seq"], seq);
        assert_eq!((&event.data["v"], &event.data["t"]), (&json!(1), &json!("conv.event")));
    }
}

#[tokio::test]
async fn a_stream_has_what_a_socket_has() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    let bob = Person::login(&house, 2, "d").await;
    alice.create(&house, "room", &[&bob]).await;
    for n in 1..=3 {
        alice.send(&house, "room", &format!("m{n}")).await;
    }
    let mut stream = Stream::open(&house, &bob, "conv_id=room", None).await;
    for n in 1..=3 {
        stream.expect(n).await;
    }
    alice.send(&house, "room", "m4").await;
    stream.expect(4).await;
    let mut after = Stream::open(&house, &bob, "conv_id=room&after_seq=3", Some(1)).await;
    after.expect(4).await;
    let mut again = Stream::open(&house, &bob, "conv_id=room", Some(2)).await;
    again.expect(3).await;
    for bad in ["from_seq=0", "from_seq=x", "after_seq=-1"] {
        let refused = bob.get(&house, &format!("/v1/sse?conv_id=room&{bad}")).await;
        assert_eq!((refused.status, refused.code().as_str()), (400, "invalid_request"), "{bad}");
    }
    let nobody = house.raw("GET", "/v1/sse?conv_id=room", &[], "").await;
    assert_eq!(nobody.status, 401);
    // A member who is removed is told, and the stream ends.
    let bobs = json!({ "conv_id": "room", "members": [bob.id()] });
    alice.ok(&house, "/v1/rooms/remove", bobs).await;
    let event = stream.next().await.unwrap();
    assert_eq!(
        (event.name.as_str(), &event.data["body"]["message"]),
        ("error", &json!("membership revoked"))
    );
    assert_eq!(stream.next().await, None);
    house.close().await;
}

#[tokio::test]
async fn presence_comes_along_where_it_is_wanted() {
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    let bob = Person::login(&house, 2, "d").await;
    alice.create(&house, "room", &[&bob]).await;
    alice.ok(&house, "/v1/presence/watch", json!({ "contacts": [bob.id()] })).await;
    bob.ok(&house, "/v1/presence/watch", json!({ "contacts": [alice.id()] })).await;
    let mut stream = Stream::open(&house, &alice, "conv_id=room&presence=1", None).await;
    bob.ok(&house, "/v1/presence/lease", json!({ "device_id": "d", "ttl_seconds": 60 })).await;
    let event = stream.next().await.unwrap();
    assert_eq!(
        (event.name.as_str(), &event.data["body"]["status"]),
        ("presence.update", &json!("online"))
    );
    house.close().await;
}
