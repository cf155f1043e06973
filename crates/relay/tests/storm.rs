//! A thousand spokes lose their hub at once and come back at once; what that costs the hub.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::{
    os::unix::fs::PermissionsExt,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};
use relay_fed::{
    Federation, FederationConfig, LocalNode,
    link::{ByteStream, Role},
    links::{
        Admission, Admitted, Arrival, Dialing, Hub, Links, Refusal, Settings, Target, TargetHandle,
    },
    local::{Answer, Forward, ServiceRecord},
};
use relay_proto::{
    Call, CallError, Caller, Problem, RelayId, ServiceName, SigningKey,
    call::Json,
    link::{
        Encoding, NodeType,
        handshake::{AuthMethod, Claim, Credential, Expected, FEATURE_PROBE, Identity, Offer, Pin},
    },
};
use support::Relay;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

const SPOKES: usize = 1_000;
const STORMS: usize = 3;
const KEY: &str = "a key shared by a hub and its spokes";
/// A storm is over by then, or there is something wrong.
const STORM: Duration = Duration::from_secs(180);
/// What the hub may hold more after the storms than before: 8 KiB a spoke. Links that are not let go cost more, and
/// three storms leave three of each spoke.
const MAY_GROW: u64 = 8 << 10;

/// A node that offers one service and is never called.
struct Idle(ServiceName, watch::Sender<u64>);

impl LocalNode for Idle {
    fn services(&self) -> Vec<ServiceRecord> {
        vec![ServiceRecord::new(self.0.clone(), "1.0.0")]
    }

    fn services_changed(&self) -> watch::Receiver<u64> {
        self.1.subscribe()
    }

    fn has_service(&self, name: &ServiceName) -> bool {
        self.0 == *name
    }

    fn call(
        &self,
        _: Call,
        _: Caller,
        _: Option<ByteStream>,
    ) -> BoxFuture<'static, Result<Answer, CallError>> {
        Box::pin(std::future::ready(Err(CallError::internal("nobody calls"))))
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

/// Spokes let nobody in.
struct Closed;

impl Admission for Closed {
    fn methods(&self) -> Vec<AuthMethod> {
        Vec::new()
    }

    fn admit<'a>(
        &'a self,
        _: &'a Claim,
        _: &'a Arrival,
    ) -> BoxFuture<'a, Result<Admitted, Refusal>> {
        Box::pin(std::future::ready(Err(Refusal::Denied)))
    }
}

/// A spoke that is linked, or tries to be.
struct Spoke {
    target: TargetHandle,
    links: Links,
}

impl Spoke {
    fn new(n: usize, hub: &str, dialing: &Dialing, stop: &CancellationToken) -> Self {
        let relay: RelayId = format!("spoke-{n}").parse().unwrap();
        let mut seed = [3; 32];
        seed[..8].copy_from_slice(&n.to_le_bytes());
        let key = SigningKey::from_seed(seed);
        let identity = Identity {
            relay: relay.clone(),
            node_type: NodeType::Home,
            key: key.clone(),
            version: "0.1.0".into(),
            features: vec![FEATURE_PROBE.into()],
        };
        let service = format!("service-{n}").parse().unwrap();
        let config = FederationConfig::new(relay, Role::Home, key, n as u64);
        let federation = Federation::new(config, Arc::new(Idle(service, watch::Sender::new(0))));
        let settings = Settings { offer: Offer::HOME, ..Settings::default() };
        let events = Arc::new(federation.clone());
        let links = Links::new(identity, settings, dialing.clone(), events, Arc::new(Closed));
        let stop = stop.clone();
        tokio::spawn(async move { federation.run(stop).await });
        let hub = Hub {
            url: hub.to_owned(),
            expected: Expected { relay: None, pin: Pin::FirstUse },
            credentials: vec![Credential::Psk(Zeroizing::new(KEY.as_bytes().to_vec()))],
        };
        // Silence is noticed within seconds, or a round would take minutes.
        let target = links.connect(Target::one(hub, true));
        Self { target, links }
    }
}

/// Waits until all are linked, or none is.
async fn until_all(spokes: &[Spoke], linked: bool) {
    let all = async {
        for spoke in spokes {
            let mut status = spoke.target.status();
            status.wait_for(|status| status.relay.is_some() == linked).await.unwrap();
        }
    };
    let waited = tokio::time::timeout(STORM, all).await;
    waited.unwrap_or_else(|_| panic!("not all spokes are linked = {linked}"));
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// The hub's memory once it has given back what it can, within a bound of time.
async fn settled(pid: u32, enough: u64) -> u64 {
    let began = Instant::now();
    loop {
        let now = resident(pid);
        if now <= enough || began.elapsed() > Duration::from_secs(20) {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: a thousand spokes, four storms"]
async fn a_thousand_spokes_come_back_at_once_and_cost_the_hub_nothing_lasting() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let secret = tempfile::tempdir().unwrap();
    let file = secret.path().join("psk");
    std::fs::write(&file, KEY).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut hub =
        Relay::configured(&format!("[node]\nid = \"hub-a\"\n[hub]\npsk_file = {file:?}\n"));
    let url = format!("{}/federate", hub.url.replace("http://", "ws://"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let dialing = Dialing { tls: Arc::new(tls), insecure: false, encoding: Encoding::Cbor };
    let stop = CancellationToken::new();
    let began = Instant::now();
    let spokes: Vec<Spoke> = (0..SPOKES).map(|n| Spoke::new(n, &url, &dialing, &stop)).collect();
    until_all(&spokes, true).await;
    println!("{SPOKES} spokes attached in {:?}", began.elapsed());

    // The hub is killed, and starts again where it was.
    hub.signal(Signal::SIGKILL);
    hub.ended();
    until_all(&spokes, false).await;
    hub.start_again_there();
    let began = Instant::now();
    until_all(&spokes, true).await;
    println!("after a kill -9 all are back in {:?}", began.elapsed());

    // It freezes until all have given it up, and finds them at its door when it goes on: the same process each time.
    let before = settled(hub.pid(), 0).await;
    let bound = before + MAY_GROW * SPOKES as u64;
    for storm in 1..=STORMS {
        hub.signal(Signal::SIGSTOP);
        until_all(&spokes, false).await;
        hub.signal(Signal::SIGCONT);
        let began = Instant::now();
        until_all(&spokes, true).await;
        println!("storm {storm}: all are back in {:?}", began.elapsed());
    }
    let after = settled(hub.pid(), bound).await;
    println!("resident before the storms {} KiB, after {} KiB", before >> 10, after >> 10);
    assert!(after <= bound, "{before} bytes before, {after} after: at most {bound}");
    let listed = hub.operator(["spokes", "--json"]).json();
    let attached = listed.to_string().matches("\"is_attached\":true").count();
    assert_eq!(attached, SPOKES, "none twice, none lost");

    stop.cancel();
    for spoke in spokes {
        spoke.links.shutdown(Duration::ZERO).await;
    }
}
