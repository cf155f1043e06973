//! The `data` of the four messages. Unknown members are ignored.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    AuthMethod, HandshakeError, Identity, MAX_FEATURES, MAX_PROOF, MAX_VERSION, Message,
    MessageType, NodeId, NodeType, Offer, Proven, RelayId,
};
use crate::key::{parse_hex, write_hex};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Hello {
    pub v: u32,
    pub relay_id: RelayId,
    pub node_type: NodeType,
    pub key: NodeId,
    /// 32 bytes, base64url.
    pub nonce: String,
    pub version: String,
    #[serde(default)]
    pub features: Vec<String>,
    #[serde(default)]
    pub max_message_bytes: Option<u32>,
    #[serde(default)]
    pub credit: Option<u32>,
    #[serde(default)]
    pub budget: Option<u64>,
    /// Acceptor only: the methods it takes, unknown ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Vec<String>>,
    /// Acceptor only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sig: Option<String>,
}

impl Hello {
    pub fn new(identity: &Identity, offer: Offer, nonce: &[u8; 32], v: u32) -> Self {
        Self {
            v,
            relay_id: identity.relay.clone(),
            node_type: identity.node_type,
            key: identity.key.node_id(),
            nonce: URL_SAFE_NO_PAD.encode(nonce),
            version: identity.version.clone(),
            features: identity.features.clone(),
            max_message_bytes: Some(offer.max_message_bytes),
            credit: Some(offer.credit),
            budget: Some(offer.budget),
            auth: None,
            sig: None,
        }
    }

    /// Reads and bounds a `hello`.
    pub fn read(message: &Message) -> Result<Self, HandshakeError> {
        let hello: Self = read(message, MessageType::Hello, "hello")?;
        let nonce = URL_SAFE_NO_PAD.decode(&hello.nonce).ok();
        let bounded = nonce.is_some_and(|nonce| nonce.len() == 32)
            && hello.version.len() <= MAX_VERSION
            && hello.features.len() <= MAX_FEATURES
            && hello.features.iter().all(|feature| feature.len() <= MAX_VERSION)
            && hello.auth.as_ref().is_none_or(|methods| methods.len() <= MAX_FEATURES);
        if bounded { Ok(hello) } else { Err(HandshakeError::Malformed("hello")) }
    }

    pub fn proven(self, protocol: u32) -> Proven {
        let default = match self.node_type {
            NodeType::Main => Offer::MAIN,
            NodeType::Home => Offer::HOME,
        };
        let offer = Offer {
            max_message_bytes: self.max_message_bytes.unwrap_or(default.max_message_bytes),
            credit: self.credit.unwrap_or(default.credit),
            budget: self.budget.unwrap_or(default.budget),
        };
        Proven {
            relay: self.relay_id,
            node_type: self.node_type,
            key: self.key,
            version: self.version,
            features: self.features,
            protocol,
            offer: offer.at_least(),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Auth {
    pub sig: String,
    pub method: AuthMethod,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
}

impl Auth {
    pub fn read(message: &Message) -> Result<Self, HandshakeError> {
        let auth: Self = read(message, MessageType::Auth, "auth")?;
        let bounded = auth.proof.as_ref().is_none_or(|proof| proof.len() <= MAX_PROOF);
        if bounded { Ok(auth) } else { Err(HandshakeError::Malformed("auth")) }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Welcome {
    pub heartbeat_ms: u64,
    pub max_message_bytes: u32,
    pub credit: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_relay: Option<RelayId>,
    /// Where the method is `secret`: the acceptor's own proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
}

/// Reads the data of a message of one type; an `error` message is the other side's refusal.
pub(super) fn read<T: DeserializeOwned>(
    message: &Message,
    expected: MessageType,
    name: &'static str,
) -> Result<T, HandshakeError> {
    if message.message_type == MessageType::Error {
        return Err(HandshakeError::Refused(super::read_error(message)));
    }
    if message.message_type != expected {
        return Err(HandshakeError::Unexpected { expected, got: message.message_type });
    }
    let data = message.data.as_ref().ok_or(HandshakeError::Malformed(name))?;
    serde_json::from_str(data.get()).map_err(|_| HandshakeError::Malformed(name))
}

pub(super) fn message(message_type: MessageType, data: &impl Serialize) -> Message {
    // Plain structs with text members have no way to fail.
    let data = serde_json::value::to_raw_value(data).ok();
    Message { data, ..Message::new(message_type) }
}

pub(super) fn write_signature(signature: &[u8; 64]) -> String {
    let mut text = Vec::with_capacity(128);
    write_hex(signature, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

pub(super) fn verifies(key: &NodeId, bytes: &[u8], signature: &str) -> bool {
    parse_hex(signature).is_some_and(|signature| key.verifies(bytes, &signature))
}
