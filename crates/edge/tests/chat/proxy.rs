//! Behind something that cuts every connection after a moment, as content delivery networks do.

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use crate::{
    FREE,
    person::{Person, frame},
    support::House,
};

/// A proxy in front of `target`; each connection lives for one of `lives`, in turn. Ends with the test's runtime.
async fn cutting_proxy(target: String, lives: &'static [u64]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        for life in lives.iter().cycle() {
            let Ok((mut client, _)) = listener.accept().await else { return };
            let target = target.clone();
            tokio::spawn(async move {
                let Ok(mut server) = TcpStream::connect(target).await else { return };
                let both = tokio::io::copy_bidirectional(&mut client, &mut server);
                let _ = tokio::time::timeout(Duration::from_millis(*life), both).await;
            });
        }
    });
    address
}

/// Opens a socket and serves it until it is cut; `on` gives the next frame to send for each that
/// comes, and an empty one to end.
async fn until_cut(
    proxy: &str,
    person: &Person,
    first: Vec<String>,
    mut on: impl FnMut(Value) -> Option<String>,
) {
    let mut request = format!("ws://{proxy}/v1/ws").into_client_request().unwrap();
    let bearer = format!("Bearer {}", person.token);
    request.headers_mut().insert("authorization", bearer.parse().unwrap());
    let Ok((mut socket, _)) = tokio_tungstenite::connect_async(request).await else { return };
    for text in first {
        if socket.send(Message::text(text)).await.is_err() {
            return;
        }
    }
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let frame: Value = serde_json::from_str(&text).unwrap();
        let Some(answer) = on(frame) else { continue };
        if answer.is_empty() || socket.send(Message::text(answer)).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_cost_nothing() {
    const MESSAGES: u64 = 400;
    let house = House::open(FREE).await;
    let alice = Person::login(&house, 1, "d").await;
    let bob = Person::login(&house, 2, "d").await;
    alice.create(&house, "room", &[&bob]).await;
    let target = house.url().strip_prefix("http://").unwrap().to_owned();
    let proxy: Arc<str> = cutting_proxy(target, &[30, 80, 5, 150, 50]).await.into();
    let send = |n: u64| {
        frame("conv.send", "s", json!({ "conv_id": "room", "msg_id": format!("m{n}"), "env": "e" }))
    };
    let writing = async {
        let (mut acked, mut cuts) = (0, 0);
        while acked < MESSAGES {
            until_cut(&proxy, &alice, vec![send(acked)], |frame| {
                if frame["t"] == "conv.acked" {
                    assert_eq!(frame["body"]["seq"], acked + 1);
                    acked += 1;
                    // An empty text ends the connection from our side.
                    return Some(if acked < MESSAGES { send(acked) } else { String::new() });
                }
                None
            })
            .await;
            cuts += 1;
        }
        cuts
    };
    let reading = async {
        let (mut seen, mut cuts) = (0, 0);
        while seen < MESSAGES {
            let follow = json!({ "conv_id": "room", "after_seq": seen });
            until_cut(&proxy, &bob, vec![frame("conv.subscribe", "f", follow)], |frame| {
                if frame["t"] == "conv.event" {
                    assert_eq!(frame["body"]["seq"], seen + 1, "nothing is lost or repeated");
                    assert_eq!(frame["body"]["msg_id"], format!("m{seen}"));
                    seen += 1;
                }
                (seen == MESSAGES).then(String::new)
            })
            .await;
            cuts += 1;
        }
        cuts
    };
    let both = async { tokio::join!(writing, reading) };
    let cuts = tokio::time::timeout(Duration::from_secs(120), Box::pin(both)).await.unwrap();
    assert!(cuts.0 + cuts.1 > 2, "the proxy cut nothing: {cuts:?}");
    house.close().await;
}
