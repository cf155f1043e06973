//! What a relay has beside the chats: posts and services.

use relay_proto::NodeId;
use serde::{Deserialize, Serialize};

/// A post of the social layer. Its text is public, and signed by whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PostView {
    /// What commands call it: `ed25519:…/PROCESS/CLOCK`.
    pub id: String,
    /// Whose it is; `None` for a key that no user can have.
    pub from: Option<NodeId>,
    /// What this user calls them, or the beginning of their key.
    pub from_name: String,
    /// It is this user's.
    pub own: bool,
    /// When the author says it was written, unix milliseconds.
    pub at_ms: Option<u64>,
    /// What it says.
    pub text: String,
}

/// A service that can be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name, for `relay call`.
    #[serde(rename = "service_name")]
    pub name: String,
    /// Its version, as `1.2.3`.
    #[serde(default)]
    pub version: String,
    /// It answers, as far as the relay knows.
    pub is_healthy: bool,
    /// What can be called.
    #[serde(default)]
    pub methods: Vec<String>,
}
