//! The side that is dialled.

use std::time::Duration;

use super::{
    AuthMethod, HandshakeError, Identity, Message, MessageType, OLDEST_VERSION, Offer, Part,
    Proven, Transcript, VERSION, Zeroizing, mac, mac_is,
    wire::{self, Auth, Hello},
};

/// Waits for `hello`.
#[derive(Debug)]
pub struct Acceptor<'a> {
    identity: &'a Identity,
    offer: Offer,
    methods: Vec<AuthMethod>,
    nonce: [u8; 32],
}

impl<'a> Acceptor<'a> {
    /// `nonce` is fresh and random; `methods` is what the operator allows.
    pub const fn new(
        identity: &'a Identity,
        offer: Offer,
        methods: Vec<AuthMethod>,
        nonce: [u8; 32],
    ) -> Self {
        Self { identity, offer, methods, nonce }
    }

    /// Checks the initiator's `hello` and answers with ours, signed.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn on_hello(self, message: &Message) -> Result<(Answered, Message), HandshakeError> {
        let theirs = Hello::read(message)?;
        if theirs.v < OLDEST_VERSION {
            return Err(HandshakeError::Version(theirs.v));
        }
        // A newer initiator is answered with the newest that both know; it may then go.
        let protocol = theirs.v.min(VERSION);
        let mut ours = Hello::new(self.identity, self.offer, &self.nonce, protocol);
        if theirs.key == ours.key || theirs.relay_id == ours.relay_id {
            return Err(HandshakeError::Itself);
        }
        let transcript = Transcript {
            initiator: (theirs.relay_id.clone(), theirs.key, theirs.nonce.clone()),
            acceptor: (ours.relay_id.clone(), ours.key, ours.nonce.clone()),
        };
        let signed = transcript.signed_bytes(Part::Acceptor);
        ours.sig = Some(wire::write_signature(&self.identity.key.sign(&signed)));
        ours.auth = Some(self.methods.iter().map(|method| method.as_str().to_owned()).collect());
        let next = Answered {
            peer: theirs.proven(protocol),
            transcript,
            methods: self.methods,
            offer: self.offer,
        };
        Ok((next, wire::message(MessageType::Hello, &ours)))
    }
}

/// Has answered `hello`, waits for `auth`.
#[derive(Debug)]
pub struct Answered {
    peer: Proven,
    transcript: Transcript,
    methods: Vec<AuthMethod>,
    offer: Offer,
}

impl Answered {
    /// Who the other side says it is; nothing is proven yet.
    pub const fn said(&self) -> &Proven {
        &self.peer
    }

    /// Checks that the initiator holds its key. Whether it may link is then the operator's policy.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn on_auth(self, message: &Message) -> Result<Claim, HandshakeError> {
        let auth = Auth::read(message)?;
        let signed = self.transcript.signed_bytes(Part::Initiator);
        if !wire::verifies(&self.peer.key, &signed, &auth.sig) {
            return Err(HandshakeError::Signature(self.peer.relay));
        }
        if !self.methods.contains(&auth.method) {
            return Err(HandshakeError::NoMethod);
        }
        let Self { peer, transcript, offer, .. } = self;
        let proof = auth.proof.map(Zeroizing::new);
        Ok(Claim { peer, method: auth.method, proof, signed, transcript, offer })
    }
}

/// A relay that holds its key and claims that it may link.
pub struct Claim {
    pub peer: Proven,
    pub method: AuthMethod,
    proof: Option<Zeroizing<String>>,
    signed: Vec<u8>,
    transcript: Transcript,
    offer: Offer,
}

impl Claim {
    /// The join token; `None` where the initiator counts on its key being known.
    pub fn token(&self) -> Option<&str> {
        let shown = self.proof.as_deref().map(String::as_str);
        shown.filter(|_| self.method == AuthMethod::Token)
    }

    /// Whether the proof was made with this pre-shared key or shared secret.
    pub fn proves(&self, secret: &[u8]) -> bool {
        let shown = self.proof.as_deref().map_or("", String::as_str);
        matches!(self.method, AuthMethod::Psk | AuthMethod::Secret)
            && mac_is(secret, &self.signed, shown)
    }

    /// The `welcome`; `secret` is what the claim was proven with, where the method is `secret`.
    pub fn welcome(
        &self,
        heartbeat: Duration,
        main_relay: Option<crate::RelayId>,
        secret: Option<&[u8]>,
    ) -> Message {
        let proof = secret
            .filter(|_| self.method == AuthMethod::Secret)
            .map(|secret| mac(secret, &self.transcript.signed_bytes(Part::Acceptor)));
        let welcome = wire::Welcome {
            heartbeat_ms: u64::try_from(heartbeat.as_millis()).unwrap_or(u64::MAX),
            max_message_bytes: self.offer.max_message_bytes,
            credit: self.offer.credit,
            main_relay,
            proof,
        };
        wire::message(MessageType::Welcome, &welcome)
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim")
            .field("peer", &self.peer)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}
