//! Making events: what clients do.

use ed25519_dalek::Signer;
use zeroize::Zeroize;

use super::{
    Tags,
    envelope::{Event, EventError, EventLimits, canonical, parse_event},
    verify::verify,
};
use crate::key::{NodeId, write_hex};

/// An Ed25519 signing key. Its bytes are wiped when dropped and never shown.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// The key made from a 32-byte seed.
    pub fn from_seed(mut seed: [u8; 32]) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(&seed);
        seed.zeroize();
        Self(key)
    }

    /// The secret seed, to be stored or converted; wipe it after use.
    pub fn seed(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(self.0.to_bytes())
    }

    pub fn node_id(&self) -> NodeId {
        // A key made from a seed is canonical and a multiple of the base point, so never refused;
        // should that ever be untrue, the relay refuses what it signs.
        NodeId::from_bytes(self.0.verifying_key().to_bytes())
            .unwrap_or_else(|error| unreachable!("a derived key was refused: {error}"))
    }

    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.node_id())
    }
}

/// An event before it has an author's signature.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    pub kind: u16,
    /// Unix nanoseconds, below 2^63.
    pub created_at_ns: u64,
    pub tags: Tags,
    pub content: String,
}

impl Draft {
    /// The canonical bytes under `author`: what is hashed for the id and signed.
    pub fn canonical(&self, author: &NodeId) -> Vec<u8> {
        let time = self.created_at_ns.to_string();
        canonical(author, &time, self.kind, &self.tags, &self.content).0
    }

    /// Signs natively.
    ///
    /// # Errors
    /// What a relay with default limits would refuse.
    pub fn sign(&self, key: &SigningKey) -> Result<Event, EventError> {
        let author = key.node_id();
        self.finish_native(author, &key.sign(&self.canonical(&author)))
    }

    /// Joins the draft with a plain Ed25519 signature of its canonical bytes that was made elsewhere.
    ///
    /// # Errors
    /// As [`Draft::finish`].
    pub fn finish_native(&self, author: NodeId, signature: &[u8; 64]) -> Result<Event, EventError> {
        let mut sig = Vec::with_capacity(128);
        write_hex(signature, &mut sig);
        self.finish(author, &String::from_utf8_lossy(&sig))
    }

    /// Joins the draft with a signature in its text form, made elsewhere (`ssh-keygen -Y sign`).
    ///
    /// # Errors
    /// What a relay with default limits would refuse, a wrong signature included.
    pub fn finish(&self, author: NodeId, sig: &str) -> Result<Event, EventError> {
        let id = blake3::hash(&self.canonical(&author)).to_hex();
        let json = serde_json::json!({
            "id": id.as_str(),
            "pubkey": author,
            "created_at_ns": self.created_at_ns.to_string(),
            "kind": self.kind,
            "tags": self.tags,
            "content": self.content,
            "sig": sig,
        });
        verify(parse_event(json.to_string().as_bytes(), &EventLimits::default())?)
    }
}
