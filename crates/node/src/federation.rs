//! The node in its federation: what it offers over links, whom it lets in, whom it dials.
//!
//! - [`Federated`]: links, routes and registry of a running node
//! - `offer`: what other relays reach here
//! - `admission`: who may link
//! - `pins`: which relay has which key
//! - `peers`: hubs that were added at run time
//! - `follow`: what is done when a link comes or goes
//!
//! A hub dials its peers; a home relay dials its hub and the fallbacks. Both are built the same way.

mod admission;
mod follow;
mod offer;
mod peers;
mod pins;
mod rules;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use rand_core::{OsRng, RngCore};
use relay_actors::{BodyStream, Remote, Reply, Router};
use relay_core::sessions::Sessions;
use relay_fed::{
    Directory, DirectoryEntry, DirectoryFile, Federation, FederationConfig,
    link::Role,
    links::{Dialing, Hub, Links, Settings, Target, TargetHandle},
};
use relay_proto::{
    Call, CallError, Caller, Code, NodeId, Problem, RelayId,
    link::{
        Encoding, NodeType,
        handshake::{
            Credential, Expected, FEATURE_PROBE, FEATURE_STANDBY, Identity as LinkIdentity, Offer,
            Pin,
        },
    },
};
use relay_store::Clock;
use rustls::{
    client::WebPkiServerVerifier,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use zeroize::Zeroizing;

use crate::{
    config::{Config, SecretFile},
    homes::DoorFrame,
    identity::Identity,
    join::Joined,
    services::Far,
    start::StartError,
};
use admission::OperatorsAdmission;
use follow::Follower;
use offer::Offered;
use peers::AddedPeers;
use pins::Pins;
use rules::Rules;

pub use rules::Decision;

/// Links, routes and registry of a running node.
#[derive(Debug)]
pub struct Federated {
    pub federation: Federation,
    pub links: Links,
    pub role: Role,
    directory: Arc<Mutex<Directory>>,
    clock: Arc<dyn Clock>,
    pins: Arc<Pins>,
    rules: Arc<Rules>,
    /// The hub of a home relay with its fallbacks.
    hub: Option<TargetHandle>,
    /// Peers that are dialled, by URL.
    peers: Mutex<HashMap<String, TargetHandle>>,
    /// Those of them that are not of the configuration.
    added: AddedPeers,
    peer_credentials: Vec<Credential>,
    trust_first_use: bool,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What the federation of a node is made of.
pub(crate) struct Parts<'a> {
    pub config: &'a Config,
    /// The hub that was joined; it is then the configuration's as well.
    pub joined: Option<&'a Joined>,
    pub identity: &'a Identity,
    pub dir: &'a Path,
    pub router: Router,
    pub door: DoorFrame,
    pub far: &'a Far,
    pub sessions: Arc<Sessions>,
    pub clock: Arc<dyn Clock>,
}

impl Federated {
    /// Builds it and begins to dial.
    pub(crate) fn start(parts: Parts<'_>) -> Result<Self, StartError> {
        let Parts { config, joined, identity, dir, router, door, far, sessions, clock } = parts;
        let setting = |error: &dyn std::fmt::Display| StartError::Setting(error.to_string());
        let relay: RelayId = identity.relay_id.parse().map_err(|error| setting(&error))?;
        let role = if config.is_home() { Role::Home } else { Role::Main };
        let directory = Arc::new(Mutex::new(read_directories(config, now_ms(&*clock))?));
        let pins = Pins::open(&dir.join("links.pins"));
        let pins =
            Arc::new(pins.map_err(|error| StartError::Setting(format!("links.pins: {error}")))?);

        let rules = Rules::open(&dir.join("links.rules"));
        let rules =
            Arc::new(rules.map_err(|error| StartError::Setting(format!("links.rules: {error}")))?);

        let added = AddedPeers::open(&dir.join("links.peers"));
        let added = added.map_err(|error| StartError::Setting(format!("links.peers: {error}")))?;

        let offered = Arc::new(Offered::new(router.clone(), door));
        let fed =
            FederationConfig::new(relay.clone(), role, identity.key.clone(), OsRng.next_u64());
        let federation = Federation::new(fed, offered);
        router.set_remote(Elsewhere(federation.clone()));
        far.set(federation.clone());

        let mut secrets = Secrets::read(config)?;
        if let Some(token) = joined.and_then(|joined| joined.token.clone()) {
            secrets.join_token = Some(Zeroizing::new(token));
        }
        let admission = OperatorsAdmission {
            role,
            hub: config.hub.clone(),
            psk: secrets.hub_psk.clone(),
            peer_secret: secrets.peer_secret.clone(),
            mutual_tls: config.federation.ca_file.is_some(),
            sessions,
            pins: pins.clone(),
            rules: rules.clone(),
            directory: directory.clone(),
            clock: clock.clone(),
            federation: federation.clone(),
        };
        let node_type = match role {
            Role::Main => NodeType::Main,
            Role::Home => NodeType::Home,
        };
        let link_identity = LinkIdentity {
            relay,
            node_type,
            key: identity.key.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            features: vec![FEATURE_PROBE.to_owned(), FEATURE_STANDBY.to_owned()],
        };
        let settings = Settings {
            offer: if role == Role::Home { Offer::HOME } else { Offer::MAIN },
            accepts_per_second: u32::try_from(config.hub.accept_per_sec).unwrap_or(u32::MAX),
            max_accepted: (config.hub.max_spokes + config.hub.max_peers) as usize,
            ..Settings::default()
        };
        let dialing = Dialing {
            tls: Arc::new(tls_client(config)?),
            insecure: config.federation.insecure,
            encoding: Encoding::Cbor,
        };
        let links = Links::new(
            link_identity,
            settings,
            dialing,
            Arc::new(federation.clone()),
            Arc::new(admission),
        );
        let mut node = Self {
            federation,
            links,
            role,
            directory,
            clock,
            pins,
            rules,
            hub: None,
            peers: Mutex::default(),
            added,
            peer_credentials: secrets.for_peers(config),
            trust_first_use: config.federation.trust_first_use,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        node.run(router);
        node.dial(config, joined, &secrets);
        Ok(node)
    }

    fn run(&self, router: Router) {
        let (federation, stop) = (self.federation.clone(), self.stop.clone());
        self.tasks.spawn(async move { federation.run(stop).await });
        // The router knows which hub this node is linked to, for addresses that name it.
        let (federation, stop) = (self.federation.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let mut changes = federation.changes();
            loop {
                router.set_hub(federation.hub());
                let changed = stop.run_until_cancelled(changes.changed()).await;
                if !matches!(changed, Some(Ok(()))) {
                    return;
                }
            }
        });
    }

    fn dial(&mut self, config: &Config, joined: Option<&Joined>, secrets: &Secrets) {
        if self.role == Role::Main {
            let mut urls = self.added.urls();
            urls.extend(config.federation.peers.iter().map(|url| link_url(url)));
            for url in &urls {
                if !self.peers().contains_key(url) {
                    self.connect_peer(url);
                }
            }
            return;
        }
        let urls = std::iter::once(&config.federation.connect).chain(&config.federation.fallback);
        let hubs = urls.filter(|url| !url.is_empty()).map(|url| {
            let url = link_url(url);
            let told =
                joined.filter(|joined| link_url(&joined.url) == url).map(|joined| joined.key);
            let expected = match told {
                // The key of the join code, whatever was seen under this address before.
                Some(key) => Expected { relay: None, pin: Pin::Key(key) },
                None => self.expected(&url),
            };
            Hub { expected, credentials: secrets.for_hubs(), url }
        });
        let hubs: Vec<Hub> = hubs.collect();
        if !hubs.is_empty() {
            let hub = self.links.connect(Target::with_fallbacks(hubs));
            self.follow(&hub);
            self.hub = Some(hub);
        }
    }

    /// Dials a peer hub from now on, also after a restart, until it is removed.
    ///
    /// # Errors
    /// `conflict` where it is dialled already, `invalid_request` for a URL that is none, `internal_error` where it
    /// cannot be kept.
    pub fn add_peer(&self, url: &str) -> Result<(), Problem> {
        if self.role != Role::Main {
            return Err(Problem::invalid("a home relay has no peers"));
        }
        let url = link_url(url);
        if !(url.starts_with("ws://") || url.starts_with("wss://")) {
            return Err(Problem::invalid(format!("'{url}' is no ws:// or wss:// address")));
        }
        if self.peers().contains_key(&url) {
            return Err(Problem::new(Code::Conflict, format!("{url} is dialled already")));
        }
        self.added.add(&url).map_err(|error| not_kept(&error))?;
        self.connect_peer(&url);
        Ok(())
    }

    fn connect_peer(&self, url: &str) {
        let credentials = self.peer_credentials.clone();
        let hub = Hub { expected: self.expected(url), credentials, url: url.to_owned() };
        let handle = self.links.connect(Target::one(hub, true));
        self.follow(&handle);
        self.peers().insert(url.to_owned(), handle);
    }

    /// Ends the links to a peer, and dials it no more; whether there was one. One that never answered goes by
    /// its URL.
    ///
    /// # Errors
    /// `internal_error` where that cannot be kept: then nothing is changed.
    pub fn remove_peer(&self, peer: &str) -> Result<bool, Problem> {
        let (id, url) = (peer.parse::<RelayId>().ok(), link_url(peer));
        let is_meant = |dialled: &str, handle: &TargetHandle| {
            dialled == url || id.is_some() && handle.status().borrow().relay == id
        };
        let dialled: Vec<String> = {
            let peers = self.peers();
            let meant = peers.iter().filter(|(url, handle)| is_meant(url, handle));
            meant.map(|(url, _)| url.clone()).collect()
        };
        for url in &dialled {
            self.added.remove(url).map_err(|error| not_kept(&error))?;
        }
        self.peers().retain(|url, _| !dialled.contains(url));
        let linked = id.is_some_and(|id| self.federation.drop_peer(&id));
        Ok(linked || !dialled.is_empty())
    }

    /// Whom the hub at a URL must be: who stands there by the directory, else the key that was pinned for it.
    fn expected(&self, url: &str) -> Expected {
        let listed =
            self.directory().by_url(now_ms(&*self.clock), |listed| link_url(listed) == url);
        if let Some(entry) = listed {
            return Expected { relay: Some(entry.gateway_id), pin: Pin::Key(entry.node_id) };
        }
        let pin = match self.pins.of_url(url) {
            Some(key) => Pin::Key(key),
            None if self.trust_first_use => Pin::FirstUse,
            None => Pin::None,
        };
        Expected { relay: None, pin }
    }

    fn follow(&self, handle: &TargetHandle) {
        let follower = Follower {
            federation: self.federation.clone(),
            role: self.role,
            pins: self.pins.clone(),
            directory: self.directory.clone(),
        };
        self.tasks.spawn(follower.run(handle.status(), self.stop.clone()));
    }

    /// Lets home relays of a pattern (over ids, or a key) in from now on, or shuts them out and ends their
    /// links; the number of links ended.
    ///
    /// # Errors
    /// `invalid_request` for what is no pattern, `internal_error` where it cannot be kept.
    pub fn decide(&self, pattern: &str, decision: Decision) -> Result<usize, Problem> {
        let id = pattern.replace('*', "a");
        if pattern.parse::<NodeId>().is_err() && id.parse::<RelayId>().is_err() {
            let message = format!("'{pattern}' is no relay id, pattern such as \"*.home\", or key");
            return Err(Problem::invalid(message));
        }
        self.rules.set(pattern, decision).map_err(|error| {
            tracing::error!(%error, "who may link cannot be kept");
            Problem::new(Code::InternalError, "links.rules cannot be written")
        })?;
        if decision == Decision::Allow {
            return Ok(0);
        }
        let spokes = self.federation.spokes().into_iter();
        let denied = spokes.filter(|spoke| admission::fits_one(pattern, &spoke.id, &spoke.key));
        Ok(denied.filter(|spoke| self.federation.kick(&spoke.id)).count())
    }

    /// For a home relay: how the link to its hub is doing.
    pub fn uplink(&self) -> Option<relay_fed::links::Status> {
        self.hub.as_ref().map(|hub| hub.status().borrow().clone())
    }

    /// Where a relay is, and which key it has.
    pub fn resolve(&self, id: &RelayId) -> Option<DirectoryEntry> {
        self.directory().resolve(now_ms(&*self.clock), id)
    }

    /// The relay that has a key: this one, one of the directory, or one that is attached somewhere.
    pub fn named(&self, key: &NodeId) -> Option<RelayId> {
        let listed = self.directory().by_key(now_ms(&*self.clock), key);
        listed.map(|entry| entry.gateway_id).or_else(|| self.federation.relay_of_key(key))
    }

    fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks all links to move, lets what is under way finish within `within`, and ends.
    pub(crate) async fn close(&self, within: Duration) {
        self.peers().clear();
        self.links.shutdown(within).await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<String, TargetHandle>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_kept(error: &std::io::Error) -> Problem {
    tracing::error!(%error, "the peers cannot be kept");
    Problem::new(Code::InternalError, "links.peers cannot be written")
}

/// The router's way to other nodes.
struct Elsewhere(Federation);

impl Remote for Elsewhere {
    fn ask(
        &self,
        call: Call,
        caller: Caller,
        body: Option<BodyStream>,
    ) -> BoxFuture<'_, Result<Reply, CallError>> {
        Box::pin(async move {
            let answer = self.0.ask(call, caller, body).await?;
            let mut reply = Reply::from(answer.value);
            reply.stream = answer.stream;
            reply.hops = answer.hops;
            Ok(reply)
        })
    }

    fn send(&self, call: Call, caller: Caller) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(self.0.send(call, caller))
    }
}

/// What this relay proves itself and others by; read once, wiped when dropped.
struct Secrets {
    join_token: Option<Zeroizing<String>>,
    /// Shared with this home relay's hub.
    psk: Option<Zeroizing<Vec<u8>>>,
    /// Shared with this hub's home relays.
    hub_psk: Option<Zeroizing<Vec<u8>>>,
    peer_secret: Option<Zeroizing<Vec<u8>>>,
}

impl Secrets {
    fn read(config: &Config) -> Result<Self, StartError> {
        let bytes = |text: Option<Zeroizing<String>>| {
            text.map(|text| Zeroizing::new(text.as_bytes().to_vec()))
        };
        let federation = &config.federation;
        Ok(Self {
            join_token: read_secret(&federation.join_token_file)?,
            psk: bytes(read_secret(&federation.psk_file)?),
            hub_psk: bytes(read_secret(&config.hub.psk_file)?),
            peer_secret: bytes(read_secret(&federation.peer_secret_file)?),
        })
    }

    /// What a home relay shows its hub: the token the first time, else that its key is known.
    fn for_hubs(&self) -> Vec<Credential> {
        let token = self.join_token.clone().map(Credential::Token);
        let psk = self.psk.clone().map(Credential::Psk);
        psk.into_iter().chain(token).chain([Credential::Known]).collect()
    }

    fn for_peers(&self, config: &Config) -> Vec<Credential> {
        let mtls = config.federation.cert_file.is_some().then_some(Credential::Mtls);
        let secret = self.peer_secret.clone().map(Credential::Secret);
        mtls.into_iter().chain(secret).collect()
    }
}

pub(crate) fn read_secret(
    file: &Option<SecretFile>,
) -> Result<Option<Zeroizing<String>>, StartError> {
    let Some(file) = file else { return Ok(None) };
    let text = std::fs::read_to_string(file.path())
        .map(Zeroizing::new)
        .map_err(|error| StartError::Setting(format!("{}: {error}", file.path().display())))?;
    Ok(Some(Zeroizing::new(text.trim().to_owned())))
}

/// A hub's address as links dial it: with a path, and the scheme of WebSockets.
fn link_url(text: &str) -> String {
    let text = match text.split_once("://") {
        Some(("https", rest)) => format!("wss://{rest}"),
        Some(("http", rest)) => format!("ws://{rest}"),
        _ => text.to_owned(),
    };
    let has_path =
        text.split_once("://").is_some_and(|(_, rest)| rest.trim_end_matches('/').contains('/'));
    if has_path { text } else { format!("{}/federate", text.trim_end_matches('/')) }
}

fn now_ms(clock: &dyn Clock) -> u64 {
    clock.wall_ns() / 1_000_000
}

/// Signed directory files of the configuration.
fn read_directories(config: &Config, now_ms: u64) -> Result<Directory, StartError> {
    let bad =
        |what: &str, error: &dyn std::fmt::Display| StartError::Setting(format!("{what}: {error}"));
    let trusted: Result<Vec<NodeId>, _> =
        config.federation.directory_keys.iter().map(|key| key.parse()).collect();
    let trusted = trusted.map_err(|error| bad("directory_keys", &error))?;
    let mut directory = Directory::default();
    for file in &config.federation.directory_files {
        let name = file.0.display().to_string();
        let text = std::fs::read_to_string(&file.0).map_err(|error| bad(&name, &error))?;
        let parsed = DirectoryFile::parse(&text).map_err(|error| bad(&name, &error))?;
        directory.add(now_ms, &parsed, &trusted).map_err(|error| bad(&name, &error))?;
    }
    Ok(directory)
}

/// How hubs are checked: by the system's roots and the configured authority, with its list of certificates
/// that it took back; with our own certificate where there is one.
fn tls_client(config: &Config) -> Result<rustls::ClientConfig, StartError> {
    let federation = &config.federation;
    let bad =
        |error: &dyn std::fmt::Display| StartError::Setting(format!("federation TLS: {error}"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = &federation.ca_file {
        for cert in CertificateDer::pem_file_iter(&file.0).map_err(|error| bad(&error))? {
            roots.add(cert.map_err(|error| bad(&error))?).map_err(|error| bad(&error))?;
        }
    }
    let builder = match &federation.crl_file {
        None => rustls::ClientConfig::builder().with_root_certificates(roots),
        Some(list) => {
            let list = CertificateRevocationListDer::from_pem_file(&list.0)
                .map_err(|error| bad(&error))?;
            // The list speaks of that authority's certificates, not of those of the system's roots.
            let verifier = WebPkiServerVerifier::builder(Arc::new(roots))
                .with_crls([list])
                .allow_unknown_revocation_status()
                .build()
                .map_err(|error| bad(&error))?;
            rustls::ClientConfig::builder().with_webpki_verifier(verifier)
        }
    };
    let (Some(cert), Some(key)) = (&federation.cert_file, &federation.key_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&cert.0).map_err(|error| bad(&error))?.collect();
    let chain = chain.map_err(|error| bad(&error))?;
    let key = PrivateKeyDer::from_pem_file(key.path()).map_err(|error| bad(&error))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| bad(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_hubs_get_a_path_and_a_scheme() {
        for (given, dialled) in [
            ("wss://hub", "wss://hub/federate"),
            ("https://hub:8443/", "wss://hub:8443/federate"),
            ("ws://127.0.0.1:8080/ws/peers", "ws://127.0.0.1:8080/ws/peers"),
            ("http://127.0.0.1:8080", "ws://127.0.0.1:8080/federate"),
        ] {
            assert_eq!(link_url(given), dialled);
        }
    }
}
