//! Who is on the other side (`federation.md`, Links): `hello`, `hello`, `auth`, `welcome`.
//!
//! Each side signs both names, both keys and both nonces under its role, so that an answer fits
//! only this handshake, this peer and this direction. The initiator checks the acceptor before it
//! shows its own proof of permission; whether that proof is good enough is the operator's policy and
//! decided outside, over a [`Claim`].
//!
//! [`Initiator`] and [`Acceptor`] are used up step by step: a step cannot be skipped or repeated.

use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    SigningKey,
    address::RelayId,
    error::{Code, Problem},
    key::NodeId,
    link::message::{Message, MessageType, NodeType},
};

mod acceptor;
mod error;
mod initiator;
mod wire;

pub use acceptor::{Acceptor, Answered, Claim};
pub use error::{HandshakeError, REASON, close_code, error_message, read_error};
pub use initiator::{Credential, Expected, Initiator, Pin, Welcome};

/// The newest version of the protocol that this program speaks, and the oldest.
pub const VERSION: u32 = 1;
/// See [`VERSION`].
pub const OLDEST_VERSION: u32 = 1;
/// The time for the whole handshake.
pub const HANDSHAKE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// The longest message before `welcome`, in bytes.
pub const MAX_HANDSHAKE_MESSAGE: usize = 16 * 1024;
/// The longest program version, feature name and proof, in bytes, and the most features.
const MAX_VERSION: usize = 64;
const MAX_FEATURES: usize = 32;
const MAX_PROOF: usize = 512;

/// Answers `heartbeat` messages that have a `message_id`, so that silence means something.
pub const FEATURE_PROBE: &str = "probe";
/// The link is a spare of a relay that is attached elsewhere, until it registers something.
pub const FEATURE_STANDBY: &str = "standby";

/// A way to prove that one may link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMethod {
    /// A join token, or none where the key is already known under its id.
    Token,
    /// HMAC-SHA256 with a key shared beforehand.
    Psk,
    /// HMAC-SHA256 with a secret of both hubs, shown by both.
    Secret,
    /// The TLS client certificate names the relay id.
    Mtls,
}

impl AuthMethod {
    pub const ALL: [Self; 4] = [Self::Token, Self::Psk, Self::Secret, Self::Mtls];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Psk => "psk",
            Self::Secret => "secret",
            Self::Mtls => "mtls",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == text)
    }
}

/// This relay, as it shows itself on links.
#[derive(Debug, Clone)]
pub struct Identity {
    pub relay: RelayId,
    pub node_type: NodeType,
    pub key: SigningKey,
    /// The version of the program, at most 64 bytes.
    pub version: String,
    pub features: Vec<String>,
}

/// The other relay, as it proved itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    pub relay: RelayId,
    pub node_type: NodeType,
    pub key: NodeId,
    pub version: String,
    pub features: Vec<String>,
    /// The version of the protocol that both speak.
    pub protocol: u32,
    /// What it takes.
    pub offer: Offer,
}

impl Proven {
    pub fn has_feature(&self, name: &str) -> bool {
        self.features.iter().any(|feature| feature == name)
    }
}

/// What one side takes from the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The longest message, in bytes.
    pub max_message_bytes: u32,
    /// What a stream may have under way at its start, in bytes.
    pub credit: u32,
    /// What all streams together may have under way, in bytes.
    pub budget: u64,
}

impl Offer {
    /// A home relay's.
    pub const HOME: Self = Self { max_message_bytes: 1 << 20, credit: 256 * 1024, budget: 8 << 20 };
    /// A hub's.
    pub const MAIN: Self = Self { budget: 64 << 20, ..Self::HOME };
    /// The least that is believed; a peer that says less gets this.
    const LEAST: Self = Self { max_message_bytes: 16 * 1024, credit: 1024, budget: 64 * 1024 };

    const fn at_least(self) -> Self {
        const fn max(a: u64, b: u64) -> u64 {
            if a > b { a } else { b }
        }
        let message = max(self.max_message_bytes as u64, Self::LEAST.max_message_bytes as u64);
        Self {
            max_message_bytes: message as u32,
            credit: max(self.credit as u64, Self::LEAST.credit as u64) as u32,
            budget: max(self.budget, Self::LEAST.budget),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Acceptor,
    Initiator,
}

/// Names, keys and nonces of both sides.
#[derive(Debug, Clone)]
struct Transcript {
    initiator: (RelayId, NodeId, String),
    acceptor: (RelayId, NodeId, String),
}

impl Transcript {
    /// What `part` signs.
    fn signed_bytes(&self, part: Part) -> Vec<u8> {
        let role = match part {
            Part::Acceptor => "acceptor",
            Part::Initiator => "initiator",
        };
        let (initiator, initiator_key, initiator_nonce) = &self.initiator;
        let (acceptor, acceptor_key, acceptor_nonce) = &self.acceptor;
        format!(
            "relay-link-v1\n{role}\n{initiator}\n{initiator_key}\n{acceptor}\n{acceptor_key}\n\
             {initiator_nonce}\n{acceptor_nonce}"
        )
        .into_bytes()
    }
}

/// Hex HMAC-SHA256.
fn mac(secret: &[u8], message: &[u8]) -> String {
    // HMAC takes keys of every length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return String::new() };
    mac.update(message);
    hex::encode(mac.finalize().into_bytes())
}

fn mac_is(secret: &[u8], message: &[u8], shown: &str) -> bool {
    // An empty secret proves nothing.
    !secret.is_empty() && bool::from(mac(secret, message).as_bytes().ct_eq(shown.as_bytes()))
}

#[cfg(test)]
mod tests;
