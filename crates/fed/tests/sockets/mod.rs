//! Hubs and spokes over loopback sockets, with an application that keeps book.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared by tests, each of which uses a part"
)]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream};
use relay_fed::{
    Link, LinkEvents,
    link::{Answered, Answering, ByteStream},
    links::{Admission, Admitted, Arrival, Dialing, Hub, Links, Refusal, Settings, door},
};
use relay_proto::{
    NodeId, RelayId, SigningKey,
    link::{
        Encoding, Message, MessageType, NodeType,
        handshake::{AuthMethod, Claim, Credential, Expected, FEATURE_PROBE, Identity, Offer, Pin},
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

pub fn identity(relay: &str, node_type: NodeType) -> Identity {
    let mut seed = [0; 32];
    seed[..relay.len()].copy_from_slice(relay.as_bytes());
    Identity {
        relay: relay.parse().unwrap(),
        node_type,
        key: SigningKey::from_seed(seed),
        version: "0.1.0".into(),
        features: vec![FEATURE_PROBE.into()],
    }
}

pub fn dialing(encoding: Encoding) -> Dialing {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Dialing { tls: Arc::new(tls), insecure: false, encoding }
}

/// What happened on one node's links.
#[derive(Default)]
pub struct Book {
    pub up: Vec<Arc<dyn Link>>,
    pub down: Vec<(RelayId, String)>,
    pub messages: Vec<Message>,
    pub abandoned: u32,
    pub requests: u32,
}

/// An application: echoes requests, by method.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    book: Mutex<Book>,
    changed: watch::Sender<u64>,
}

impl App {
    pub fn new() -> Self {
        Self(Arc::new(Inner { book: Mutex::default(), changed: watch::Sender::new(0) }))
    }

    fn note(&self, change: impl FnOnce(&mut Book)) {
        change(&mut self.0.book.lock().unwrap());
        self.0.changed.send_modify(|count| *count += 1);
    }

    /// Waits until the book says so.
    pub async fn until<T>(&self, mut says: impl FnMut(&Book) -> Option<T>) -> T {
        let mut changed = self.0.changed.subscribe();
        let waiting = async {
            loop {
                if let Some(found) = says(&self.0.book.lock().unwrap()) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it never happened")
    }

    /// The newest link to `relay`.
    pub async fn link_to(&self, relay: &str) -> Arc<dyn Link> {
        self.until(|book| {
            book.up.iter().rev().find(|link| link.peer().relay.as_str() == relay).cloned()
        })
        .await
    }

    pub async fn lost(&self, relay: &str) -> String {
        self.until(|book| {
            book.down.iter().find(|(peer, _)| peer.as_str() == relay).map(|(_, why)| why.clone())
        })
        .await
    }
}

impl LinkEvents for App {
    fn up(&self, link: Arc<dyn Link>) {
        self.note(|book| book.up.push(link));
    }

    fn message(&self, _: &Arc<dyn Link>, message: Message) {
        self.note(|book| book.messages.push(message));
    }

    fn request(
        &self,
        _: &Arc<dyn Link>,
        message: Message,
        body: Option<ByteStream>,
        mut answering: Box<dyn Answering>,
    ) {
        self.note(|book| book.requests += 1);
        let method = message.method.clone().unwrap_or_default();
        let response = Message { data: message.data, ..Message::new(MessageType::Response) };
        match method.as_str() {
            "drop" => drop(answering),
            "never" => {
                let app = self.clone();
                tokio::spawn(async move {
                    answering.abandoned().await;
                    app.note(|book| book.abandoned += 1);
                });
            }
            // Gives the body back as the result.
            "mirror" => answering.answer(Answered { message: response, stream: body }),
            "count" => drop(tokio::spawn(async move {
                let mut body = body.unwrap();
                let mut total = 0_usize;
                while let Some(Ok(bytes)) = body.next().await {
                    total += bytes.len();
                }
                let data = serde_json::value::to_raw_value(&total).ok();
                answering.answer(Answered { message: Message { data, ..response }, stream: None });
            })),
            _ => answering.answer(Answered { message: response, stream: None }),
        }
    }

    fn down(&self, link: &Arc<dyn Link>, reason: &str) {
        let relay = link.peer().relay.clone();
        self.note(|book| book.down.push((relay, reason.to_owned())));
    }
}

/// An operator's policy in memory.
#[derive(Default)]
pub struct Policy {
    pub tokens: Mutex<Vec<String>>,
    pub pins: Mutex<HashMap<RelayId, NodeId>>,
    pub psk: Option<Vec<u8>>,
    pub secret: Option<Vec<u8>>,
    pub denied: Vec<RelayId>,
}

impl Policy {
    pub fn with_tokens(tokens: &[&str]) -> Self {
        let tokens = tokens.iter().map(|&token| token.to_owned()).collect();
        Self { tokens: Mutex::new(tokens), ..Self::default() }
    }

    fn decide(&self, claim: &Claim) -> Result<Admitted, Refusal> {
        let peer = &claim.peer;
        if self.denied.contains(&peer.relay) {
            return Err(Refusal::Denied);
        }
        let mut pins = self.pins.lock().unwrap();
        let pinned = pins.get(&peer.relay).copied();
        if pinned.is_some_and(|pinned| pinned != peer.key) {
            return Err(Refusal::Borrowed);
        }
        let mut secret = None;
        match claim.method {
            AuthMethod::Token if pinned.is_some() => {}
            AuthMethod::Token => {
                let shown = claim.token().ok_or(Refusal::Unknown)?;
                let mut tokens = self.tokens.lock().unwrap();
                let at = tokens.iter().position(|token| token == shown).ok_or(Refusal::Token)?;
                tokens.remove(at);
            }
            AuthMethod::Psk => {
                let good = self.psk.as_ref().is_some_and(|psk| claim.proves(psk));
                good.then_some(()).ok_or(Refusal::Proof)?;
            }
            AuthMethod::Secret => {
                secret = self.secret.clone().filter(|secret| claim.proves(secret));
                secret.as_ref().ok_or(Refusal::Proof)?;
            }
            AuthMethod::Mtls => return Err(Refusal::Certificate),
        }
        pins.insert(peer.relay.clone(), peer.key);
        Ok(Admitted { secret: secret.map(Zeroizing::new) })
    }
}

impl Admission for Policy {
    fn methods(&self) -> Vec<AuthMethod> {
        AuthMethod::ALL.to_vec()
    }

    fn admit<'a>(
        &'a self,
        claim: &'a Claim,
        _: &'a Arrival,
    ) -> BoxFuture<'a, Result<Admitted, Refusal>> {
        Box::pin(std::future::ready(self.decide(claim)))
    }
}

/// A node with its links, and a door where it is a hub.
pub struct Node {
    pub app: App,
    pub links: Links,
    pub identity: Identity,
    pub port: u16,
    door: Option<JoinHandle<()>>,
}

impl Node {
    pub fn spoke(relay: &str, encoding: Encoding) -> Self {
        let identity = identity(relay, NodeType::Home);
        let app = App::new();
        let settings = Settings { offer: Offer::HOME, ..Settings::default() };
        let policy = Arc::new(Policy::default());
        let events: Arc<dyn LinkEvents> = Arc::new(app.clone());
        let links = Links::new(identity.clone(), settings, dialing(encoding), events, policy);
        Self { app, links, identity, port: 0, door: None }
    }

    pub async fn hub(relay: &str, policy: Policy) -> Self {
        Self::hub_with(relay, policy, Settings::default()).await
    }

    pub async fn hub_with(relay: &str, policy: Policy, settings: Settings) -> Self {
        let identity = identity(relay, NodeType::Main);
        let app = App::new();
        let events: Arc<dyn LinkEvents> = Arc::new(app.clone());
        let dialing = dialing(Encoding::Cbor);
        let links = Links::new(identity.clone(), settings, dialing, events, Arc::new(policy));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let door =
            tokio::spawn(door::serve(listener, links.clone(), None, CancellationToken::new()));
        Self { app, links, identity, port, door: Some(door) }
    }

    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}/federate", self.port)
    }

    pub fn pinned(&self) -> Expected {
        let key = self.identity.key.node_id();
        Expected { relay: Some(self.identity.relay.clone()), pin: Pin::Key(key) }
    }

    /// This hub as a spoke dials it.
    pub fn as_hub(&self, credential: Credential) -> Hub {
        Hub { url: self.url(), expected: self.pinned(), credentials: vec![credential] }
    }

    /// Closes the door; links that are up stay.
    pub fn close_door(&mut self) {
        if let Some(door) = self.door.take() {
            door.abort();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.close_door();
    }
}

pub fn token(text: &str) -> Credential {
    Credential::Token(Zeroizing::new(text.to_owned()))
}

pub fn secret(text: &str) -> Credential {
    Credential::Secret(Zeroizing::new(text.as_bytes().to_vec()))
}

pub fn psk(text: &str) -> Credential {
    Credential::Psk(Zeroizing::new(text.as_bytes().to_vec()))
}

/// A request of a method with a number in it.
pub fn request(method: &str, number: u64) -> Message {
    let data = serde_json::value::to_raw_value(&number).ok();
    Message { method: Some(method.into()), data, ..Message::new(MessageType::Request) }
}

pub fn number(message: &Message) -> u64 {
    serde_json::from_str(message.data.as_ref().expect("an answer with data").get()).unwrap()
}

/// `count` pieces of `size` bytes, each full of its own number.
pub fn pieces(count: usize, size: usize) -> ByteStream {
    Box::pin(stream::iter((0..count).map(move |at| Ok(Bytes::from(vec![at as u8; size])))))
}

pub async fn read_all(mut stream: ByteStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = stream.next().await {
        all.extend_from_slice(&bytes.unwrap());
    }
    all
}

/// A TCP proxy that can be made to pass nothing any more, without closing anything.
pub struct Proxy {
    pub port: u16,
    frozen: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (frozen, watching) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let watching = watching.clone();
                connections.spawn(async move {
                    let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let (near_read, near_write) = near.into_split();
                    let (far_read, far_write) = far.into_split();
                    tokio::join!(
                        pass(near_read, far_write, watching.clone()),
                        pass(far_read, near_write, watching)
                    );
                });
            }
        });
        Self { port: own, frozen, task }
    }

    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut frozen: watch::Receiver<bool>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if frozen.wait_for(|frozen| !frozen).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
