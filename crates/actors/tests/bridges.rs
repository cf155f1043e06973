//! Bridges to real servers and processes on this machine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Json, Router as Axum,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::IntoResponse,
    routing::{any, get, post},
};
use futures_util::{StreamExt, stream};
use relay_actors::{
    ActorSpec, Life, Random, Router, RouterConfig, ServiceInfo, Supervisor,
    bridge::{HttpBridge, HttpRpcBridge, Program, StdioBridge},
};
use relay_proto::{Call, CallError, Caller, ServiceName, call::RpcCode};
use serde_json::{Value, json, value::RawValue};

fn node() -> Supervisor {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let router = Router::new(RouterConfig::new("home-a".parse().unwrap()));
    Supervisor::new(router, Random::new(|| 0.0))
}

fn spec() -> ActorSpec {
    let mut spec = ActorSpec::new(ServiceInfo::new(name()).public());
    spec.health = Duration::from_millis(20);
    spec
}

fn name() -> ServiceName {
    "s".parse().unwrap()
}

fn call(method: &str, args: &Value) -> Call {
    let args = RawValue::from_string(args.to_string()).unwrap();
    Call::new("s".parse().unwrap(), method.parse().unwrap(), Some(args))
}

async fn ask(node: &Supervisor, method: &str, args: Value) -> Result<Value, CallError> {
    let bob = Caller::remote("bob@hub".parse().unwrap());
    let reply = node.router().ask(call(method, &args), bob).await?;
    Ok(serde_json::from_str(reply.value.get()).unwrap())
}

async fn serve(app: Axum) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    format!("http://{address}")
}

async fn until_health(node: &Supervisor, healthy: bool) {
    let mut changes = node.router().changes();
    while node.router().actor(&name()).unwrap().is_healthy != healthy {
        changes.changed().await.unwrap();
    }
}

async fn rpc(headers: HeaderMap, Json(request): Json<Value>) -> impl IntoResponse {
    let id = request["id"].clone();
    Json(match request["method"].as_str().unwrap() {
        "echo" => json!({"jsonrpc": "2.0", "id": id, "result": request["params"]}),
        "who" => {
            let node = headers.get("x-relay-caller-node").unwrap().to_str().unwrap();
            json!({"jsonrpc": "2.0", "id": id, "result": node})
        }
        "odd" => json!("hello"),
        _ => json!({"jsonrpc": "2.0", "id": id, "error": {"code": 7, "message": "own", "data": 3}}),
    })
}

#[tokio::test]
async fn an_http_json_rpc_program_is_a_service() {
    let node = node();
    let well = Arc::new(AtomicBool::new(true));
    let health = |State(well): State<Arc<AtomicBool>>| async move {
        if well.load(SeqCst) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    };
    let app = Axum::new().route("/rpc", post(rpc)).route("/healthz", get(health));
    let base = serve(app.with_state(well.clone())).await;
    let endpoint = format!("{base}/rpc");
    node.start(spec(), move || {
        HttpRpcBridge::new(&endpoint, Some("/healthz")).map_err(|error| error.to_string())
    })
    .unwrap();
    assert_eq!(ask(&node, "echo", json!({"a": [1]})).await.unwrap(), json!({"a": [1]}));
    assert_eq!(ask(&node, "who", json!({})).await.unwrap(), "bob@hub");
    let own = ask(&node, "other", json!({})).await.unwrap_err();
    assert_eq!((own.code, own.message.as_str()), (RpcCode::Other(7), "own"));
    assert_eq!(ask(&node, "odd", json!({})).await.unwrap_err().code, RpcCode::Internal);

    until_health(&node, true).await;
    well.store(false, SeqCst);
    until_health(&node, false).await;
    let ailing = node.router().actor(&name()).unwrap().ailing.unwrap();
    assert!(ailing.contains("503"), "{ailing}");
    well.store(true, SeqCst);
    until_health(&node, true).await;
    assert!(node.shutdown(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told_at_once() {
    let node = node();
    node.start(spec(), || {
        HttpRpcBridge::new("http://127.0.0.1:9/", Some("/")).map_err(|error| error.to_string())
    })
    .unwrap();
    let error = ask(&node, "echo", json!({})).await.unwrap_err();
    assert_eq!(error.code, RpcCode::NodeUnreachable);
    until_health(&node, false).await;
}

async fn plain(headers: HeaderMap, method: http::Method, uri: Uri, body: Bytes) -> Body {
    if uri.path() == "/app/stream" {
        let pieces = ["one ", "two ", "three"].map(Ok::<_, std::io::Error>);
        return Body::from_stream(stream::iter(pieces));
    }
    if uri.path() == "/app/binary" {
        return Body::from(vec![0xff, 0]);
    }
    let header = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    let seen = json!({
        "method": method.as_str(), "uri": uri.to_string(), "body": String::from_utf8_lossy(&body),
        "node": header("x-relay-caller-node"), "own": header("x-own"), "te": header("te"),
    });
    Body::from(seen.to_string())
}

#[tokio::test]
async fn a_plain_http_server_is_a_service() {
    let node = node();
    let base = serve(Axum::new().fallback(any(plain))).await;
    node.start(spec(), move || {
        HttpBridge::new(&format!("{base}/app"), None).map_err(|error| error.to_string())
    })
    .unwrap();
    let args = json!({
        "path": "/x?y=1", "body": "hi",
        "headers": {"x-own": "1", "X-Relay-Caller-Node": "forged", "te": "trailers"},
    });
    let answer = ask(&node, "put", args).await.unwrap();
    assert_eq!(answer["status"], 200);
    let seen: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    let expected = json!({
        "method": "PUT", "uri": "/app/x?y=1", "body": "hi",
        "node": "bob@hub", "own": "1", "te": null,
    });
    assert_eq!(seen, expected);
    let binary = ask(&node, "get", json!({"path": "/binary"})).await.unwrap();
    assert_eq!(binary["body_base64"], "_wA");
    let climb = ask(&node, "get", json!({"path": "/../x"})).await.unwrap_err();
    assert_eq!(climb.code, RpcCode::InvalidParams);
    let strange = ask(&node, "brew", json!({})).await.unwrap_err();
    assert_eq!(strange.code, RpcCode::MethodNotFound);

    // Bodies in pieces, both ways.
    let mut streaming = call("get", &json!({"path": "/stream"}));
    streaming.streaming = true;
    let reply = node.router().ask(streaming, Caller::local()).await.unwrap();
    assert!(reply.value.get().contains("\"status\":200"));
    let pieces: Vec<_> = reply.stream.unwrap().map(|piece| piece.unwrap()).collect().await;
    assert_eq!(pieces.concat(), b"one two three");
    let upload = stream::iter(["a", "b"].map(|piece| Ok(Bytes::from(piece))));
    let uploading = call("post", &json!({"path": "/up"}));
    let uploading = node.router().ask_with_body(uploading, Caller::local(), Some(Box::pin(upload)));
    assert!(uploading.await.unwrap().value.get().contains(r#"\"body\":\"ab\""#));
}

/// Answers its process id, waits for ever, or ends.
const CHILD: &str = r#"
while read -r line; do
  id=$(printf '%s' "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')
  case "$line" in
    *'"method":"die"'*) exit 3 ;;
    *'"method":"hang"'*) ;;
    *'"method":"noise"'*) echo "no json"; echo "to the log" >&2
        printf '{"jsonrpc":"2.0","id":%s,"result":"after noise"}\n' "$id" ;;
    *'"method":"who"'*) caller=$(printf '%s' "$line" | sed 's/.*"node":\("[^"]*"\).*/\1/')
        printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$caller" ;;
    *'"method":"env"'*) printf '{"jsonrpc":"2.0","id":%s,"result":"%s"}\n' "$id" "$CARGO_PKG_NAME$OWN" ;;
    *) printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$$" ;;
  esac
done
"#;

fn shell(script: &str) -> Program {
    Program {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        directory: None,
        environment: vec![("OWN".into(), "own".into())],
    }
}

#[tokio::test]
async fn a_child_process_is_a_service_and_is_started_again() {
    let node = node();
    let mut spec = spec();
    spec.restarts.first = Duration::from_millis(1);
    node.start(spec, || StdioBridge::spawn(&shell(CHILD), None)).unwrap();
    let first = ask(&node, "pid", json!({})).await.unwrap();
    assert_eq!(ask(&node, "pid", json!({})).await.unwrap(), first);
    assert_eq!(ask(&node, "who", json!({})).await.unwrap(), "bob@hub");
    assert_eq!(ask(&node, "noise", json!({})).await.unwrap(), "after noise");
    assert_eq!(ask(&node, "env", json!({})).await.unwrap(), "own", "no other variables");

    // A call that hangs stands in nobody's way; one under way when the process ends is told.
    let hanging = ask(&node, "hang", json!({}));
    let (hung, died) = tokio::join!(hanging, ask(&node, "die", json!({})));
    for outcome in [hung, died] {
        assert_eq!(outcome.unwrap_err().code, RpcCode::NodeUnreachable);
    }
    let second = ask(&node, "pid", json!({})).await.unwrap();
    assert_ne!(second, first);
    let status = node.router().actor(&name()).unwrap();
    assert_eq!(status.restarts, 1);
    assert!(status.last_crash.unwrap().contains("exit status: 3"));
    assert!(node.shutdown(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn a_process_that_only_ends_is_given_up() {
    let node = node();
    let mut spec = spec();
    spec.restarts.first = Duration::from_millis(1);
    spec.restarts.give_up_after = 2;
    node.start(spec, || StdioBridge::spawn(&shell("exit 1"), None)).unwrap();
    let mut changes = node.router().changes();
    while node.router().actor(&name()).unwrap().life != Life::GaveUp {
        changes.changed().await.unwrap();
    }
    let error = ask(&node, "pid", json!({})).await.unwrap_err();
    assert_eq!(error.code, RpcCode::ServiceNotFound);
}
