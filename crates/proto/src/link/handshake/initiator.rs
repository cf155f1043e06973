//! The side that dials.

use std::time::Duration;

use super::{
    AuthMethod, HandshakeError, Identity, Message, MessageType, NodeId, OLDEST_VERSION, Offer,
    Part, Proven, RelayId, Transcript, VERSION, Zeroizing, mac, mac_is,
    wire::{self, Auth, Hello},
};

/// Which key the acceptor must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    Key(NodeId),
    /// Whatever it shows, to be pinned from then on; the operator's choice.
    FirstUse,
    /// None is known and first use is not allowed: refuses everything.
    None,
}

/// Who must answer.
#[derive(Debug, Clone)]
pub struct Expected {
    /// `None` where only the key counts.
    pub relay: Option<RelayId>,
    pub pin: Pin,
}

/// A proof of permission that this side has.
#[derive(Clone)]
pub enum Credential {
    /// A join token.
    Token(Zeroizing<String>),
    /// The acceptor pinned this key to this id before.
    Known,
    Psk(Zeroizing<Vec<u8>>),
    Secret(Zeroizing<Vec<u8>>),
    /// The client certificate of the TLS connection.
    Mtls,
}

impl Credential {
    pub const fn method(&self) -> AuthMethod {
        match self {
            Self::Token(_) | Self::Known => AuthMethod::Token,
            Self::Psk(_) => AuthMethod::Psk,
            Self::Secret(_) => AuthMethod::Secret,
            Self::Mtls => AuthMethod::Mtls,
        }
    }

    fn proof(&self, signed: &[u8]) -> Option<String> {
        match self {
            Self::Token(token) => Some(token.to_string()),
            Self::Known | Self::Mtls => None,
            Self::Psk(key) | Self::Secret(key) => Some(mac(key, signed)),
        }
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({})", self.method().as_str())
    }
}

/// What the acceptor allowed.
#[derive(Debug, Clone)]
pub struct Welcome {
    pub peer: Proven,
    /// How often each side shows life when idle.
    pub heartbeat: Duration,
    /// The hub that this relay is now a spoke of.
    pub main_relay: Option<RelayId>,
}

/// Has said `hello`, waits for `hello`.
#[derive(Debug)]
pub struct Initiator<'a> {
    identity: &'a Identity,
    hello: Hello,
}

impl<'a> Initiator<'a> {
    /// `nonce` is fresh and random.
    pub fn new(identity: &'a Identity, offer: Offer, nonce: &[u8; 32]) -> Self {
        Self { identity, hello: Hello::new(identity, offer, nonce, VERSION) }
    }

    pub fn hello(&self) -> Message {
        wire::message(MessageType::Hello, &self.hello)
    }

    /// Checks the acceptor and makes the `auth`.
    ///
    /// # Errors
    /// [`HandshakeError`]; nothing was shown to the other side then.
    pub fn on_hello(
        self,
        message: &Message,
        expected: &Expected,
        credentials: &[Credential],
    ) -> Result<(Authenticating, Message), HandshakeError> {
        let theirs = Hello::read(message)?;
        if !(OLDEST_VERSION..=VERSION).contains(&theirs.v) {
            return Err(HandshakeError::Version(theirs.v));
        }
        if theirs.key == self.hello.key || theirs.relay_id == self.hello.relay_id {
            return Err(HandshakeError::Itself);
        }
        let transcript = Transcript {
            initiator: (self.hello.relay_id, self.hello.key, self.hello.nonce),
            acceptor: (theirs.relay_id.clone(), theirs.key, theirs.nonce.clone()),
        };
        let signature = theirs.sig.as_deref().unwrap_or_default();
        if !wire::verifies(&theirs.key, &transcript.signed_bytes(Part::Acceptor), signature) {
            return Err(HandshakeError::Signature(theirs.relay_id));
        }
        check_expected(&theirs, expected)?;
        let takes = theirs.auth.as_deref().unwrap_or_default();
        let takes: Vec<_> = takes.iter().filter_map(|name| AuthMethod::parse(name)).collect();
        let credential = credentials
            .iter()
            .find(|credential| takes.contains(&credential.method()))
            .ok_or(HandshakeError::NoMethod)?;
        let signed = transcript.signed_bytes(Part::Initiator);
        let auth = Auth {
            sig: wire::write_signature(&self.identity.key.sign(&signed)),
            method: credential.method(),
            proof: credential.proof(&signed),
        };
        let secret = match credential {
            Credential::Secret(secret) => Some(secret.clone()),
            _ => None,
        };
        let protocol = theirs.v;
        let next = Authenticating { peer: theirs.proven(protocol), transcript, secret };
        Ok((next, wire::message(MessageType::Auth, &auth)))
    }
}

fn check_expected(theirs: &Hello, expected: &Expected) -> Result<(), HandshakeError> {
    let found = &theirs.relay_id;
    if let Some(expected) = expected.relay.as_ref().filter(|expected| *expected != found) {
        let (expected, found) = (expected.clone(), found.clone());
        return Err(HandshakeError::WrongRelay { expected, found });
    }
    match expected.pin {
        Pin::Key(pinned) if pinned != theirs.key => {
            Err(HandshakeError::WrongKey { relay: found.clone(), pinned, found: theirs.key })
        }
        Pin::None => Err(HandshakeError::NotPinned(found.clone())),
        Pin::Key(_) | Pin::FirstUse => Ok(()),
    }
}

/// Has sent `auth`, waits for `welcome`.
pub struct Authenticating {
    peer: Proven,
    transcript: Transcript,
    /// Where the acceptor must prove the same.
    secret: Option<Zeroizing<Vec<u8>>>,
}

impl Authenticating {
    /// # Errors
    /// [`HandshakeError::Refused`] with the acceptor's reason, and the others.
    pub fn on_welcome(self, message: &Message) -> Result<Welcome, HandshakeError> {
        let welcome: wire::Welcome = wire::read(message, MessageType::Welcome, "welcome")?;
        if let Some(secret) = &self.secret {
            let signed = self.transcript.signed_bytes(Part::Acceptor);
            if !mac_is(secret, &signed, welcome.proof.as_deref().unwrap_or_default()) {
                return Err(HandshakeError::SecretUnproven(self.peer.relay));
            }
        }
        let mut peer = self.peer;
        peer.offer.max_message_bytes = welcome.max_message_bytes;
        peer.offer.credit = welcome.credit;
        peer.offer = peer.offer.at_least();
        let heartbeat = Duration::from_millis(welcome.heartbeat_ms.clamp(1_000, 60_000));
        Ok(Welcome { peer, heartbeat, main_relay: welcome.main_relay })
    }
}

impl std::fmt::Debug for Authenticating {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticating").field("peer", &self.peer).finish_non_exhaustive()
    }
}
