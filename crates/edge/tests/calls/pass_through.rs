//! Plain HTTP servers and WebSockets behind a service.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{State, WebSocketUpgrade, ws::Message},
    http::{HeaderMap, StatusCode, Uri, header},
    response::IntoResponse,
    routing::{any, get, post},
};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite;

use crate::{
    service_call,
    support::{House, key},
};

/// A server with streams, cookies and a WebSocket.
async fn web_server() -> (String, Arc<AtomicU32>) {
    let hits = Arc::new(AtomicU32::new(0));
    let app = Router::new()
        .route(
            "/hello",
            get(|uri: Uri, headers: HeaderMap| async move {
                let read = |name: &str| {
                    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned()
                };
                let body = json!({
                    "query": uri.query(),
                    "key": read("x-relay-caller-key"),
                    "own": read("authorization"),
                    "for": read("x-forwarded-for"),
                });
                let cookies = [(header::SET_COOKIE, "a=1"), (header::SET_COOKIE, "b=2")];
                let mut response = body.to_string().into_response();
                for (name, value) in cookies {
                    response.headers_mut().append(name, value.parse().unwrap());
                }
                response
            }),
        )
        .route("/upload", post(|body: Bytes| async move { body.len().to_string() }))
        .route(
            "/stream",
            get(|| async {
                let pieces = futures_util::stream::iter(0..3).then(|n| async move {
                    Ok::<_, std::io::Error>(Bytes::from(format!("piece {n}\n")))
                });
                Body::from_stream(pieces)
            }),
        )
        .route("/missing", get(|| async { (StatusCode::NOT_FOUND, "not here") }))
        .route(
            "/echo",
            any(|State(hits): State<Arc<AtomicU32>>, socket: WebSocketUpgrade| async move {
                hits.fetch_add(1, SeqCst);
                socket.on_upgrade(|mut socket| async move {
                    while let Some(Ok(message)) = socket.recv().await {
                        match message {
                            Message::Text(_) | Message::Binary(_) => {
                                let _ = socket.send(message).await;
                            }
                            Message::Close(_) => return,
                            _ => {}
                        }
                    }
                })
            }),
        )
        .with_state(hits.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (format!("http://{address}"), hits)
}

#[tokio::test]
async fn a_plain_http_server_is_passed_through() {
    let (base, _) = web_server().await;
    let config = format!("[[service]]\nname = \"shop\"\nproxy = \"{base}\"\n");
    let house = House::open(&config).await;
    let raw = house.raw("GET", "/svc/shop/hello?a=1", &[("authorization", "Basic eHg=")], "").await;
    assert_eq!(raw.status, 200, "{}", raw.body);
    let cookies = raw.headers.iter().filter(|(name, _)| name == "set-cookie").count();
    assert_eq!(cookies, 2);
    assert!(raw.header("content-security-policy").unwrap().starts_with("sandbox"));
    assert!(raw.body.contains("a=1") && raw.body.contains("Basic eHg="), "{}", raw.body);
    assert!(raw.body.contains("127.0.0.1"));

    // A proof for the relay stays with the relay; the server is told who it was.
    let session = house.client().key(key(1)).build().unwrap().login("d_test1", None).await.unwrap();
    let bearer = format!("Bearer {}", session.session_token);
    let raw = house.raw("GET", "/svc/shop/hello", &[("authorization", &bearer)], "").await;
    assert!(raw.body.contains(&key(1).node_id().to_string()), "{}", raw.body);
    assert!(!raw.body.contains(&session.session_token));

    let big = "x".repeat(2 << 20);
    let raw = house.raw("POST", "/svc/shop/upload", &[], &big).await;
    assert!(raw.body.contains(&big.len().to_string()), "{}", raw.body);
    assert!(house.raw("GET", "/svc/shop/stream", &[], "").await.body.contains("piece 2"));
    let missing = house.raw("GET", "/svc/shop/missing", &[], "").await;
    assert_eq!(missing.status, 404);
    assert!(missing.body.contains("not here"));
    for path in ["/svc/nobody/x", "/svc/%zz/x"] {
        let refused = house.raw("GET", path, &[], "").await;
        assert!((400..500).contains(&refused.status), "{path}: {}", refused.status);
    }

    // The same through a call, in pieces.
    let client = house.client().build().unwrap();
    let call = service_call("shop", "get", json!({"path": "/stream"}));
    let mut pieces = client.stream_service(&call).await;
    // The call itself asks for no stream where the door is plain JSON.
    let whole = client.call_service(&call).await.unwrap().result;
    assert_eq!(
        (&whole["status"], &whole["body"]),
        (&json!(200), &json!("piece 0\npiece 1\npiece 2\n"))
    );
    let stream = pieces.as_mut().unwrap();
    let mut text = Vec::new();
    let mut first = None;
    while let Some(piece) = stream.next().await.unwrap() {
        match piece {
            relay_client::Piece::Result(value) => first = Some(value),
            relay_client::Piece::Bytes(bytes) => text.extend_from_slice(&bytes),
        }
    }
    assert_eq!(first.unwrap()["status"], 200);
    assert_eq!(text, b"piece 0\npiece 1\npiece 2\n");
    drop(pieces);
    house.close().await;
}

#[tokio::test]
async fn websockets_pass_through() {
    let (base, hits) = web_server().await;
    let config = format!("[[service]]\nname = \"shop\"\nproxy = \"{base}\"\n");
    let house = House::open(&config).await;
    let url = house.url().replace("http://", "ws://") + "/svc/shop/echo";
    let (mut socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    for text in ["one", "two"] {
        socket.send(tungstenite::Message::text(text)).await.unwrap();
        let echoed = socket.next().await.unwrap().unwrap();
        assert_eq!(echoed.into_text().unwrap().as_str(), text);
    }
    let big = vec![7_u8; 300_000];
    socket.send(tungstenite::Message::binary(big.clone())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_data(), big);
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    assert_eq!(hits.load(SeqCst), 1);
    // What is no WebSocket says so.
    let plain = house.url().replace("http://", "ws://") + "/svc/shop/hello";
    match tokio_tungstenite::connect_async(&plain).await {
        Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), 200),
        other => panic!("{other:?}"),
    }
    house.close().await;
}
