//! One node of a small federation under load, in a process of its own: a hub, a spoke that
//! answers, or a spoke that calls. Started by the scenario `links`.
//!
//! A hub prints `port N` once it listens, a spoke `linked`; a caller prints `report` and JSON with what it
//! measured.

use std::{
    io::Write,
    path::{Path, PathBuf},
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
    federation::{
        Query,
        views::{RegistryView, ServiceQuery},
    },
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
    /// Hubs to go to when that one is gone, in this order.
    #[arg(long)]
    fallback: Vec<String>,
    /// Speak TLS as a hub, with a certificate made for it that is written to this file.
    #[arg(long)]
    tls: Option<PathBuf>,
    /// Trust the certificate in this file.
    #[arg(long)]
    trust: Option<PathBuf>,
    /// Offer a service of this name that answers with its arguments.
    #[arg(long)]
    serve: Option<String>,
    /// Offer this many more of them, called `NAME-0`, `NAME-1` and so on.
    #[arg(long, default_value_t = 0)]
    also: usize,
    /// Answer this much later, in milliseconds.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
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
    /// Instead of calling them, ask the hub for as many services as `--also` of the other end says, one by one.
    #[arg(long)]
    discover: Option<usize>,
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
    let echo = Echo::new(args.serve.as_deref(), args.also, args.delay_ms)?;
    let dialing = dialing(args.trust.as_deref())?;
    let (federation, links) = build(&args.relay, args.listen, echo, dialing)?;
    let stop = CancellationToken::new();
    let (running, until) = (federation.clone(), stop.clone());
    tokio::spawn(async move { running.run(until).await });
    let targets: Vec<_> = targets(&args).into_iter().map(|to| links.connect(to)).collect();
    if args.listen {
        let tls = args.tls.as_deref().map(certified).transpose()?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("port {}", listener.local_addr()?.port());
        std::io::stdout().flush()?;
        door::serve(listener, links, tls, stop).await;
        return Ok(());
    }
    let target = targets.first().context("a spoke needs --connect")?;
    target.status().wait_for(|status| status.relay.is_some()).await?;
    println!("linked");
    std::io::stdout().flush()?;
    if let Some(count) = args.discover {
        println!("report {}", discover(&federation, count).await?);
        return Ok(());
    }
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
    echo: Echo,
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
    let config = FederationConfig::new(identity.relay.clone(), role, identity.key.clone(), 1);
    let federation = Federation::new(config, Arc::new(echo));
    let settings = Settings { offer, accepts_per_second: 10_000, ..Settings::default() };
    let events = Arc::new(federation.clone());
    let links = Links::new(identity, settings, dialing, events, Arc::new(Everybody));
    Ok((federation, links))
}

/// Many spokes that do nothing but be there; says when all are linked.
async fn crowd(args: &Args, count: usize) -> anyhow::Result<()> {
    let url = args.connect.first().context("a crowd needs --connect")?;
    let (stop, dialing) = (CancellationToken::new(), dialing(None)?);
    let began = Instant::now();
    let mut kept = Vec::with_capacity(count);
    for at in 0..count {
        let name = format!("{}-{at}", args.relay);
        let echo = Echo::new(Some(&name), 0, 0)?;
        let (federation, links) = build(&name, false, echo, dialing.clone())?;
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
    // When the last call of any caller was answered, and the longest time in which none was.
    let (answered_ns, gap_ns) = (AtomicU64::new(0), AtomicU64::new(0));
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
                let now = start.elapsed().as_nanos() as u64;
                gap_ns.fetch_max(now.saturating_sub(answered_ns.swap(now, Relaxed)), Relaxed);
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
        "gap_ms": gap_ns.into_inner() as f64 / 1e6,
    }))
}

/// How long the hub takes to say who offers a service. Each is asked for once, so that no answer is one that was kept.
async fn discover(federation: &Federation, count: usize) -> anyhow::Result<serde_json::Value> {
    let mut latency = Histogram::default();
    let start = Instant::now();
    for at in 0..count {
        let name = Some(format!("echo-{at}").parse()?);
        let query = Query::Services(ServiceQuery { name, own: false });
        let asked = Instant::now();
        let found: RegistryView = federation.ask_hub(query).await?;
        latency.record(asked.elapsed());
        ensure!(found.services.len() == 1, "echo-{at} is not found");
    }
    Ok(serde_json::json!({
        "failed": 0,
        "seconds": start.elapsed().as_secs_f64(),
        "latency": latency.sparse(),
        "gap_ms": 0,
    }))
}

/// Peers each for itself, or a hub with its fallbacks.
fn targets(args: &Args) -> Vec<Target> {
    let hub = |url: &String| at_hub(url);
    if args.fallback.is_empty() {
        return args.connect.iter().map(|url| Target::one(at_hub(url), true)).collect();
    }
    vec![Target::with_fallbacks(args.connect.iter().chain(&args.fallback).map(hub).collect())]
}

fn at_hub(url: &str) -> Hub {
    Hub {
        url: url.to_owned(),
        expected: Expected { relay: None, pin: Pin::FirstUse },
        credentials: vec![Credential::Known],
    }
}

fn dialing(trust: Option<&Path>) -> anyhow::Result<Dialing> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(file) = trust {
        roots.add(std::fs::read(file)?.into())?;
    }
    let tls = rustls::ClientConfig::builder_with_provider(ring())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Dialing { tls: Arc::new(tls), insecure: false, encoding: Encoding::Cbor })
}

/// TLS with a certificate for loopback, which is written to `file` for those who shall trust it.
fn certified(file: &Path) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    std::fs::write(file, made.cert.der())?;
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(ring())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    Ok(Arc::new(config))
}

fn ring() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The pieces of the endless body, in bytes.
const BULK: usize = 16 * 1024;

/// A service that answers with its arguments, after reading to the end of the body where there is one.
struct Echo {
    /// None where this node serves nothing.
    names: Vec<ServiceName>,
    delay: Duration,
    changed: watch::Sender<u64>,
}

impl Echo {
    fn new(name: Option<&str>, also: usize, delay_ms: u64) -> anyhow::Result<Self> {
        let mut names = Vec::new();
        if let Some(name) = name {
            names.push(name.parse()?);
            for at in 0..also {
                names.push(format!("{name}-{at}").parse()?);
            }
        }
        let delay = Duration::from_millis(delay_ms);
        Ok(Self { names, delay, changed: watch::Sender::new(0) })
    }
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
        self.names.iter().map(record).collect()
    }

    fn services_changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn has_service(&self, name: &ServiceName) -> bool {
        self.names.contains(name)
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
        if self.delay.is_zero() {
            return Box::pin(std::future::ready(answer));
        }
        let delay = self.delay;
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            answer
        })
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
