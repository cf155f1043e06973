//! One node of a small federation under load, in a process of its own: a hub that forwards, a spoke that
//! answers, or a spoke that calls. Started by the scenario `links`.
//!
//! A hub prints `port N` once it listens, a spoke `linked`; a caller prints `report` and JSON with what it
//! measured.

use std::{
    collections::HashMap,
    io::Write,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Parser;
use futures_util::future::{BoxFuture, join_all};
use relay_bench::hist::Histogram;
use relay_fed::{
    Link, LinkEvents,
    link::{Answered, Answering, ByteStream},
    links::{Admission, Admitted, Arrival, Dialing, Hub, Links, Refusal, Settings, Target, door},
};
use relay_proto::{
    Problem, SigningKey,
    link::{
        Encoding, Message, MessageType, NodeType,
        handshake::{
            AuthMethod, Claim, Credential, Expected, FEATURE_PROBE, Identity, Offer, Pin,
            error_message,
        },
    },
};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Parser)]
struct Args {
    #[arg(long)]
    relay: String,
    /// Listen for links on a free port: a hub.
    #[arg(long)]
    listen: bool,
    /// Link to this hub.
    #[arg(long)]
    connect: Vec<String>,
    /// Call the spoke of this name.
    #[arg(long)]
    call: Option<String>,
    #[arg(long, default_value_t = 64)]
    callers: usize,
    #[arg(long, default_value_t = 256)]
    payload: usize,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Answer at this NATS server instead.
    #[cfg(feature = "peers")]
    #[arg(long)]
    nats_echo: Option<std::net::SocketAddr>,
    /// Call through this NATS server instead.
    #[cfg(feature = "peers")]
    #[arg(long)]
    nats_call: Option<std::net::SocketAddr>,
    /// Worker threads; 0 runs everything on one.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = match args.threads {
        0 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        threads => {
            tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()
        }
    };
    runtime?.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    #[cfg(feature = "peers")]
    if let Some(addr) = args.nats_echo {
        return relay_bench::peer::nats::echo(addr).await;
    }
    #[cfg(feature = "peers")]
    if let Some(addr) = args.nats_call {
        let caller = relay_bench::peer::nats::Caller::connect(addr).await?;
        let payload = vec![b'x'; args.payload];
        let call = || async { caller.call(&payload).await.is_ok() };
        println!("report {}", load(&args, call).await?);
        return Ok(());
    }
    let mut seed = [0; 32];
    let name = args.relay.as_bytes();
    ensure!(name.len() <= 32, "the name is the seed of the key");
    seed[..name.len()].copy_from_slice(name);
    let node_type = if args.listen { NodeType::Main } else { NodeType::Home };
    let identity = Identity {
        relay: args.relay.parse()?,
        node_type,
        key: SigningKey::from_seed(seed),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        features: vec![FEATURE_PROBE.to_owned()],
    };
    let offer = if args.listen { Offer::MAIN } else { Offer::HOME };
    let router = Router::default();
    let links = Links::new(
        identity,
        Settings { offer, ..Settings::default() },
        dialing()?,
        Arc::new(router.clone()),
        Arc::new(Everybody),
    );
    let stop = CancellationToken::new();
    let targets: Vec<_> =
        args.connect.iter().map(|url| links.connect(Target::one(at(url), true))).collect();
    if args.listen {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("port {}", listener.local_addr()?.port());
        std::io::stdout().flush()?;
        door::serve(listener, links, None, stop).await;
        return Ok(());
    }
    let target = targets.first().context("a spoke needs --connect")?;
    target.status().wait_for(|status| status.relay.is_some()).await?;
    println!("linked");
    std::io::stdout().flush()?;
    let Some(callee) = &args.call else {
        return std::future::pending().await;
    };
    let link = router.any().context("no link")?;
    let text = serde_json::to_string(&"x".repeat(args.payload.saturating_sub(2)))?;
    let payload = serde_json::value::RawValue::from_string(text)?;
    let call = || {
        let message = Message {
            server_name: Some(callee.clone()),
            method: Some("echo".to_owned()),
            jsonrpc_request: Some(payload.clone()),
            deadline_ms: Some(10_000),
            ..Message::new(MessageType::Request)
        };
        let answer = link.request(message, None);
        async move {
            answer.await.is_ok_and(|answer| answer.message.message_type == MessageType::Response)
        }
    };
    println!("report {}", load(&args, call).await?);
    links.shutdown(Duration::from_millis(100)).await;
    Ok(())
}

/// Calls in closed loop for a while; what came of it as JSON. `call` says whether it was answered.
async fn load<F: Future<Output = bool>>(
    args: &Args,
    call: impl Fn() -> F,
) -> anyhow::Result<serde_json::Value> {
    // Until the other end is there, and caches are warm.
    let warm = Instant::now();
    while warm.elapsed() < Duration::from_millis(500) {
        call().await;
    }
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(args.seconds);
    let caller = || async {
        let mut latency = Histogram::default();
        let mut failed = 0_u64;
        while Instant::now() < end {
            let began = Instant::now();
            if call().await {
                latency.record(began.elapsed());
            } else {
                failed += 1;
            }
        }
        (latency, failed)
    };
    let mut all = Histogram::default();
    let mut failed = 0;
    for (latency, failures) in join_all((0..args.callers).map(|_| caller())).await {
        all.join(&latency);
        failed += failures;
    }
    Ok(serde_json::json!({
        "failed": failed,
        "seconds": start.elapsed().as_secs_f64(),
        "latency": all.sparse(),
    }))
}

fn at(url: &str) -> Hub {
    Hub {
        url: url.to_owned(),
        expected: Expected { relay: None, pin: Pin::FirstUse },
        credentials: vec![Credential::Known],
    }
}

fn dialing() -> anyhow::Result<Dialing> {
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()?
    .with_root_certificates(rustls::RootCertStore::empty())
    .with_no_client_auth();
    Ok(Dialing { tls: Arc::new(tls), insecure: false, encoding: Encoding::Cbor })
}

/// Forwards by the name of the spoke; everything else goes to the other hub, once.
#[derive(Clone, Default)]
struct Router(Arc<Mutex<HashMap<String, Arc<dyn Link>>>>);

impl Router {
    fn links(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<dyn Link>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn any(&self) -> Option<Arc<dyn Link>> {
        self.links().values().next().cloned()
    }

    fn next(&self, name: &str, from: &Arc<dyn Link>) -> Option<Arc<dyn Link>> {
        let links = self.links();
        let far = || {
            links.values().find(|link| {
                link.id() != from.id() && link.peer().relay.as_str().starts_with("hub")
            })
        };
        links.get(name).or_else(far).cloned()
    }
}

impl LinkEvents for Router {
    fn up(&self, link: Arc<dyn Link>) {
        self.links().insert(link.peer().relay.to_string(), link);
    }

    fn message(&self, _: &Arc<dyn Link>, _: Message) {}

    fn request(
        &self,
        link: &Arc<dyn Link>,
        message: Message,
        _: Option<ByteStream>,
        answering: Box<dyn Answering>,
    ) {
        let from_hub = link.peer().relay.as_str().starts_with("hub");
        let name = message.server_name.clone().unwrap_or_default();
        let next = self.next(&name, link);
        match next {
            Some(next) => {
                let answer = next.request(message, None);
                tokio::spawn(async move {
                    if let Ok(answered) = answer.await {
                        answering.answer(answered);
                    }
                });
            }
            None if from_hub => answering.answer(Answered {
                message: Message {
                    jsonrpc_request: message.jsonrpc_request,
                    ..Message::new(MessageType::Response)
                },
                stream: None,
            }),
            None => answering.answer(Answered {
                message: error_message(&Problem::not_found("no such spoke")),
                stream: None,
            }),
        }
    }

    fn down(&self, link: &Arc<dyn Link>, _: &str) {
        self.links().remove(link.peer().relay.as_str());
    }
}

/// Loopback only, for a measurement.
struct Everybody;

impl Admission for Everybody {
    fn methods(&self) -> Vec<AuthMethod> {
        vec![AuthMethod::Token]
    }

    fn admit<'a>(
        &'a self,
        _: &'a Claim,
        _: &'a Arrival,
    ) -> BoxFuture<'a, Result<Admitted, Refusal>> {
        Box::pin(std::future::ready(Ok(Admitted::default())))
    }
}
