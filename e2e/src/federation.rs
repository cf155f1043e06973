//! Hubs, spokes and the services behind them.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Json, Router, extract::State, routing::post};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use crate::relay::{Backend, Relay, Setup, reqwest_client, write_secret};

/// What all relays of a test share: the hubs' secret and the spokes' key.
#[derive(Debug)]
pub struct Secrets {
    dir: tempfile::TempDir,
}

impl Secrets {
    /// # Panics
    /// Where no file can be made.
    #[allow(clippy::new_without_default, reason = "it writes files")]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_secret(&dir.path().join("psk"), "the spokes' key of this test");
        write_secret(&dir.path().join("secret"), "the hubs' secret of this test");
        Self { dir }
    }

    fn psk(&self) -> PathBuf {
        self.dir.path().join("psk")
    }

    fn secret(&self) -> PathBuf {
        self.dir.path().join("secret")
    }

    /// A hub that dials these peers (their links' addresses).
    pub async fn hub(&self, id: &str, peers: &[String]) -> Relay {
        self.hub_with(id, peers, "").await
    }

    /// [`Self::hub`] with more lines of configuration.
    pub async fn hub_with(&self, id: &str, peers: &[String], more: &str) -> Relay {
        let config = format!(
            "[federation]\npeers = {peers:?}\npeer_secret_file = {:?}\n[hub]\npsk_file = {:?}\n{more}",
            self.secret(),
            self.psk()
        );
        Relay::with(Setup { id: id.into(), config, ..Setup::new(Backend::Sqlite) }).await
    }

    /// A spoke of the first hub, with the others to fall back to, and these services.
    pub async fn spoke(&self, id: &str, hubs: &[String], services: &[&Service]) -> Relay {
        let (connect, fallback) = hubs.split_first().unwrap();
        let mut config = format!(
            "[federation]\nconnect = {connect:?}\nfallback = {fallback:?}\npsk_file = {:?}\n",
            self.psk()
        );
        for service in services {
            config += &format!(
                "[[service]]\nname = {:?}\nhttp = \"http://{}/rpc\"\nvisibility = \"public\"\n",
                service.name, service.address
            );
        }
        Relay::with(Setup { id: id.into(), config, ..Setup::new(Backend::Sqlite) }).await
    }
}

/// Where a hub takes links.
pub fn links_of(address: SocketAddr) -> String {
    format!("ws://{address}/federate")
}

/// A program behind NAT: JSON-RPC over HTTP, and it counts what it did.
#[derive(Debug)]
pub struct Service {
    pub name: String,
    pub address: SocketAddr,
    state: Arc<Done>,
    _serving: JoinSet<()>,
}

/// What a service did, by the `id` argument of its calls.
#[derive(Debug, Default)]
struct Done {
    calls: AtomicU64,
    by_id: std::sync::Mutex<std::collections::HashMap<String, u64>>,
}

impl Service {
    /// Serves `echo` (its arguments), `slow {ms}` (after that long) and `fail`.
    pub async fn start(name: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Done::default());
        let router = Router::new().route("/rpc", post(answer)).with_state(state.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self { name: name.into(), address, state, _serving: serving }
    }

    /// How often anything was called.
    pub fn calls(&self) -> u64 {
        self.state.calls.load(Ordering::SeqCst)
    }

    /// The most often that any one `id` was carried out.
    pub fn most_for_one_id(&self) -> u64 {
        self.state.by_id.lock().unwrap().values().copied().max().unwrap_or(0)
    }

    /// How many different ids were carried out.
    pub fn ids(&self) -> usize {
        self.state.by_id.lock().unwrap().len()
    }
}

async fn answer(State(done): State<Arc<Done>>, Json(request): Json<Value>) -> Json<Value> {
    done.calls.fetch_add(1, Ordering::SeqCst);
    let params = &request["params"];
    if let Some(id) = params["id"].as_str() {
        *done.by_id.lock().unwrap().entry(id.to_owned()).or_default() += 1;
    }
    let result = match request["method"].as_str() {
        Some("slow") => {
            tokio::time::sleep(Duration::from_millis(params["ms"].as_u64().unwrap_or(0))).await;
            json!({ "jsonrpc": "2.0", "id": request["id"], "result": params })
        }
        Some("echo") => json!({ "jsonrpc": "2.0", "id": request["id"], "result": params }),
        _ => json!({ "jsonrpc": "2.0", "id": request["id"],
                     "error": { "code": -32601, "message": "no such method" } }),
    };
    Json(result)
}

/// Calls a service as a program on the machine of `relay` does; the JSON-RPC answer as it comes.
pub async fn call(relay: &Relay, method: &str, params: Value) -> Value {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let sent = reqwest_client().post(format!("{}/rpc", relay.url())).json(&request).send().await;
    match sent {
        Ok(answer) => answer.json().await.unwrap_or(Value::Null),
        Err(_) => Value::Null,
    }
}

/// The explicit form, with a key under which the call may be repeated.
pub async fn call_keyed(relay: &Relay, node: &str, service: &str, id: &str, ms: u64) -> Value {
    let params = json!({
        "node_id": node, "server_name": service, "method": "slow",
        "args": { "id": id, "ms": ms }, "timeout": 20, "idempotency_key": id,
    });
    call(relay, "remote_call", params).await
}

/// Whether a call has a result now.
pub async fn answers(relay: &Relay, method: &str) -> bool {
    call(relay, method, json!({ "n": 1 })).await["result"]["n"] == 1
}
