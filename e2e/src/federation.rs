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

use axum::{
    Json, Router,
    extract::{Path, State},
    http::HeaderMap,
    routing::{get as on_get, post},
};
use relay_client::{Client, Request};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    relay::{Backend, Relay, Setup, reqwest_client, write_secret},
    until,
};

/// How long anything may take that is only waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// What spokes of a test share with their hubs.
pub const PSK: &str = "the spokes' key of this test";

/// What hubs of a test share with each other.
pub const HUB_SECRET: &str = "the hubs' secret of this test";

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
        write_secret(&dir.path().join("psk"), PSK);
        write_secret(&dir.path().join("secret"), HUB_SECRET);
        Self { dir }
    }

    /// Writes a file that only its owner can read.
    ///
    /// # Panics
    /// Where it cannot.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        write_secret(&path, text);
        path
    }

    /// The file of [`PSK`].
    pub fn psk(&self) -> PathBuf {
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

    /// A spoke of the first hub, with the others to fall back to, and these services. It is attached.
    pub async fn spoke(&self, id: &str, hubs: &[String], services: &[&Service]) -> Relay {
        let spoke = self.spoke_with(id, hubs, services, "").await;
        until("the spoke is attached", PATIENCE, || async {
            get(&spoke, "/status").await["is_attached"] == true
        })
        .await;
        spoke
    }

    /// A spoke with more lines of configuration, attached or not.
    pub async fn spoke_with(
        &self,
        id: &str,
        hubs: &[String],
        services: &[&Service],
        more: &str,
    ) -> Relay {
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
        config += more;
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
    /// Serves `echo` (its arguments), `slow {ms}` (after that long), `who` (who calls, as the relay says)
    /// at `/rpc`, and at `/bytes/N` so many bytes.
    pub async fn start(name: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Done::default());
        let router = Router::new()
            .route("/rpc", post(answer))
            .route("/bytes/{count}", on_get(async |Path(count): Path<usize>| vec![b'x'; count]))
            .with_state(state.clone());
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

async fn answer(
    State(done): State<Arc<Done>>,
    headers: HeaderMap,
    Json(request): Json<Value>,
) -> Json<Value> {
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
        Some("who") => {
            let told = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
            let who = json!({ "node": told("x-relay-caller-node"), "key": told("x-relay-caller-key"),
                              "service": told("x-relay-caller-service") });
            json!({ "jsonrpc": "2.0", "id": request["id"], "result": who })
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

/// The number of an answer's error, 0 where it has a result or there is no answer.
pub fn error_of(answer: &Value) -> i64 {
    answer["error"]["code"].as_i64().unwrap_or(0)
}

/// What `relay` shows everybody; `Null` where it does not answer.
pub async fn get(relay: &Relay, path: &str) -> Value {
    match reqwest_client().get(format!("{}{path}", relay.url())).send().await {
        Ok(answer) => answer.json().await.unwrap_or(Value::Null),
        Err(_) => Value::Null,
    }
}

/// The operator of `relay`, at its local socket.
///
/// # Panics
/// Where there can be no client.
pub fn operator(relay: &Relay) -> Client {
    Client::builder(&format!("unix:{}", relay.socket().display())).unwrap().build().unwrap()
}

/// What the operator of `relay` reads.
///
/// # Panics
/// Where it is refused.
pub async fn operate(relay: &Relay, request: Request) -> Value {
    operator(relay).call(request).await.unwrap()
}

/// How often `relay` counted an event of its links, by kind and reason.
pub async fn counted(relay: &Relay, event: &str, reason: &str) -> u64 {
    let text = operator(relay).fetch(Request::get("/metrics")).await.unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    let name = format!("relay_links_total{{event=\"{event}\",reason=\"{reason}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Waits until `relay` has a link that is in use.
pub async fn until_attached(relay: &Relay, hub: &str) {
    until(&format!("{} is attached to {hub}", relay.id()), PATIENCE, || async {
        let status = get(relay, "/status").await;
        status["is_attached"] == true && status["hub"] == hub
    })
    .await;
}

/// Waits until two hubs are linked.
pub async fn until_linked(one: &Relay, other: &Relay) {
    until("the hubs are linked", PATIENCE, || async {
        let peers = get(one, "/federation/peers").await;
        let mut peers = peers["peers"].as_array().into_iter().flatten();
        peers.any(|peer| peer["id"] == other.id() && peer["is_connected"] == true)
    })
    .await;
}

/// The names of the services that `relay` lists, one for each instance.
pub async fn names(relay: &Relay, path: &str) -> Vec<String> {
    let listed = get(relay, path).await;
    let services = listed["services"].as_array().into_iter().flatten();
    services.filter_map(|service| Some(service["service_name"].as_str()?.to_owned())).collect()
}
