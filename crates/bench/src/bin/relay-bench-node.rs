//! One node of a small federation under load, in a process of its own: a hub, a spoke that
//! answers, or a spoke that calls. Started by the scenario `links`.
//!
//! A hub prints `port N` once it listens, a spoke `linked`; a caller prints `report` and JSON with what it
//! measured.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Parser;
use futures_util::{
    StreamExt,
    future::{BoxFuture, join_all},
};
use relay_bench::hist::Histogram;
use relay_fed::{
    Federation, FederationConfig, LocalNode,
    link::{ByteStream, Role},
    links::{Admission, Admitted, Arrival, Dialing, Hub, Links, Refusal, Settings, Target, door},
    local::{Answer, Forward},
};
use relay_proto::{
    Address, Call, CallError, Caller, Problem, RelayId, ServiceName, ServiceRecord, SigningKey,
    address::Method,
    call::Json,
    link::{
        Encoding, NodeType,
        handshake::{AuthMethod, Claim, Credential, Expected, FEATURE_PROBE, Identity, Offer, Pin},
    },
};
use tokio::sync::watch;
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
    /// Offer a service of this name that answers with its arguments.
    #[arg(long)]
    serve: Option<String>,
    /// Call the service at this address.
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
    /// Each caller waits this long between its calls, in milliseconds.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// Beside the calls, send a body that never ends to the same service.
    #[arg(long)]
    bulk: bool,
    /// Be this many spokes at once, each with a service of its own.
    #[arg(long)]
    crowd: Option<usize>,
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
    // On a worker like everything else, not on the thread that started the runtime.
    let runtime = runtime?;
    runtime.block_on(async { tokio::spawn(run(args)).await? })
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
    if let Some(count) = args.crowd {
        return crowd(&args, count).await;
    }
    let (federation, links) = build(&args.relay, args.listen, args.serve.as_deref(), dialing()?)?;
    let stop = CancellationToken::new();
    let (running, until) = (federation.clone(), stop.clone());
    tokio::spawn(async move { running.run(until).await });
    let targets: Vec<_> =
        args.connect.iter().map(|url| links.connect(Target::one(at_hub(url), true))).collect();
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
    let text = serde_json::to_string(&["x".repeat(args.payload.saturating_sub(4))])?;
    let payload = serde_json::value::RawValue::from_string(text)?;
    let (to, method): (Address, Method) = (callee.parse()?, "echo".parse()?);
    let call = || {
        let mut call = Call::new(to.clone(), method.clone(), Some(payload.clone()));
        call.timeout = Duration::from_secs(10);
        let answer = federation.ask(call, Caller::local(), None);
        async move { answer.await.is_ok() }
    };
    let sent = Arc::new(AtomicU64::new(0));
    if args.bulk {
        let (federation, sent) = (federation.clone(), Arc::clone(&sent));
        let call = Call::new(to.clone(), "sink".parse()?, None);
        tokio::spawn(async move {
            let body = futures_util::stream::repeat_with(move || {
                sent.fetch_add(BULK as u64, Relaxed);
                Ok::<_, CallError>(bytes::Bytes::from_static(&[0; BULK]))
            });
            federation.ask(call, Caller::local(), Some(Box::pin(body))).await
        });
    }
    let began = Instant::now();
    let mut report = load(&args, call).await?;
    let share = report["seconds"].as_f64().unwrap_or_default() / began.elapsed().as_secs_f64();
    report["bulk_bytes"] = ((sent.load(Relaxed) as f64 * share) as u64).into();
    println!("report {report}");
    links.shutdown(Duration::from_millis(100)).await;
    Ok(())
}

/// A node with nothing in it but its links, the federation over them, and one service.
fn build(
    name: &str,
    listen: bool,
    serve: Option<&str>,
    dialing: Dialing,
) -> anyhow::Result<(Federation, Links)> {
    let mut seed = [0; 32];
    ensure!(name.len() <= 32, "the name is the seed of the key");
    seed[..name.len()].copy_from_slice(name.as_bytes());
    let node_type = if listen { NodeType::Main } else { NodeType::Home };
    let identity = Identity {
        relay: name.parse()?,
        node_type,
        key: SigningKey::from_seed(seed),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        features: vec![FEATURE_PROBE.to_owned()],
    };
    let (role, offer) = if listen { (Role::Main, Offer::MAIN) } else { (Role::Home, Offer::HOME) };
    let name = serve.map(str::parse).transpose()?;
    let local = Arc::new(Echo { name, changed: watch::Sender::new(0) });
    let config = FederationConfig::new(identity.relay.clone(), role, identity.key.clone(), 1);
    let federation = Federation::new(config, local);
    let settings = Settings { offer, accepts_per_second: 10_000, ..Settings::default() };
    let events = Arc::new(federation.clone());
    let links = Links::new(identity, settings, dialing, events, Arc::new(Everybody));
    Ok((federation, links))
}

/// Many spokes that do nothing but be there; says when all are linked.
async fn crowd(args: &Args, count: usize) -> anyhow::Result<()> {
    let url = args.connect.first().context("a crowd needs --connect")?;
    let (stop, dialing) = (CancellationToken::new(), dialing()?);
    let began = Instant::now();
    let mut kept = Vec::with_capacity(count);
    for at in 0..count {
        let name = format!("{}-{at}", args.relay);
        let (federation, links) = build(&name, false, Some(&name), dialing.clone())?;
        let until = stop.clone();
        tokio::spawn(async move { federation.run(until).await });
        let target = links.connect(Target::one(at_hub(url), false));
        kept.push((links, target));
    }
    for (_, target) in &kept {
        target.status().wait_for(|status| status.relay.is_some()).await?;
    }
    println!("linked {}", began.elapsed().as_secs_f64());
    std::io::stdout().flush()?;
    std::future::pending().await
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
            if args.pause_ms > 0 {
                tokio::time::sleep(Duration::from_millis(args.pause_ms)).await;
            }
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

fn at_hub(url: &str) -> Hub {
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

/// The pieces of the endless body, in bytes.
const BULK: usize = 16 * 1024;

/// A service that answers with its arguments, after reading to the end of the body where there is one.
struct Echo {
    /// `None` where this node serves nothing.
    name: Option<ServiceName>,
    changed: watch::Sender<u64>,
}

impl LocalNode for Echo {
    fn services(&self) -> Vec<ServiceRecord> {
        let record = |name: &ServiceName| ServiceRecord {
            service_name: name.clone(),
            version: "1.0.0".to_owned(),
            methods: Vec::new(),
            metadata: serde_json::Map::new(),
            visibility: "public".to_owned(),
            is_healthy: true,
        };
        self.name.iter().map(record).collect()
    }

    fn services_changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn has_service(&self, name: &ServiceName) -> bool {
        self.name.as_ref() == Some(name)
    }

    fn call(
        &self,
        call: Call,
        _: Caller,
        body: Option<ByteStream>,
    ) -> BoxFuture<'static, Result<Answer, CallError>> {
        if let Some(mut body) = body {
            return Box::pin(async move {
                while body.next().await.transpose()?.is_some() {}
                Err(CallError::internal("the body has no end"))
            });
        }
        let value = call.args.ok_or_else(|| CallError::internal("nothing to echo"));
        let answer = value.map(|value| Answer { value, stream: None, hops: Vec::new() });
        Box::pin(std::future::ready(answer))
    }

    fn notify(&self, _: Call, _: Caller) -> Result<(), CallError> {
        Ok(())
    }

    fn forwarded(
        &self,
        _: RelayId,
        _: Forward,
        _: Option<ByteStream>,
    ) -> BoxFuture<'static, Result<(Json, Option<ByteStream>), Problem>> {
        Box::pin(std::future::ready(Err(Problem::not_found("this node is no home"))))
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
