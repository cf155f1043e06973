//! The routed message, the same fields in JSON and CBOR.

use serde::{Deserialize, Serialize};

use crate::{address::RelayId, call::Json};

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageType {
    Hello,
    Auth,
    Welcome,
    Registration,
    Heartbeat,
    Request,
    Response,
    ServiceDiscovery,
    Error,
    Stream,
    Credit,
    Forward,
    Goaway,
}

/// The role of a relay, as messages name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeType {
    Main,
    Home,
}

/// A relay as messages name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeRef {
    #[serde(rename = "type")]
    pub node_type: NodeType,
    pub id: RelayId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_relay: Option<RelayId>,
}

/// One message of a link. Members that a type does not use are absent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Message {
    #[serde(rename = "type")]
    pub message_type: MessageType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The `message_id` of the request that this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// When it was made, RFC 3339; for people, nothing is decided by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_node: Option<NodeRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_node: Option<NodeRef>,
    /// The relays it passed, by the identity their links proved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routing_path: Vec<RelayId>,
    /// Hops left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jsonrpc_request: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Json>,
    /// 0 to 9.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// What is left of the caller's patience, milliseconds; shrinks at every hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// W3C traceparent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<u64>,
}

impl Message {
    /// A message of a type, with nothing else.
    pub const fn new(message_type: MessageType) -> Self {
        Self {
            message_type,
            message_id: None,
            correlation_id: None,
            timestamp: None,
            source_node: None,
            destination_node: None,
            routing_path: Vec::new(),
            ttl: None,
            server_name: None,
            method: None,
            jsonrpc_request: None,
            data: None,
            priority: None,
            timeout_seconds: None,
            deadline_ms: None,
            trace: None,
            idempotency_key: None,
            stream_id: None,
        }
    }
}
