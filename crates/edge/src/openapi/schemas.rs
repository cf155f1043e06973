//! The schemas: of the doors' own types, and here, of what crates below encode.

#![allow(dead_code, reason = "these types say how answers look; nothing builds them")]

use serde::{Deserialize, Serialize};
use utoipa::{
    ToSchema,
    openapi::{Components, ComponentsBuilder},
};

use crate::social::admin as social;
use crate::{access, events, federation, locks, operate, sessions};

/// Every schema that a path names, and those that they name.
pub(super) fn components() -> Components {
    ComponentsBuilder::new()
        .schema_from::<Object>()
        .schema_from::<Problem>()
        .schema_from::<Info>()
        .schema_from::<Limits>()
        .schema_from::<Kinds>()
        .schema_from::<Health>()
        .schema_from::<Event>()
        .schema_from::<EventPage>()
        .schema_from::<Count>()
        .schema_from::<PublishBody>()
        .schema_from::<PublishAnswer>()
        .schema_from::<PublishResults>()
        .schema_from::<PublishResult>()
        .schema_from::<events::Receipt>()
        .schema_from::<locks::AcquireBody>()
        .schema_from::<locks::RenewBody>()
        .schema_from::<locks::ReleaseBody>()
        .schema_from::<locks::BreakBody>()
        .schema_from::<locks::Ended>()
        .schema_from::<LockBody>()
        .schema_from::<LockAnswer>()
        .schema_from::<Grant>()
        .schema_from::<LockState>()
        .schema_from::<LockPage>()
        .schema_from::<LockHistoryPage>()
        .schema_from::<LockHistoryItem>()
        .schema_from::<sessions::ChallengeBody>()
        .schema_from::<sessions::VerifyBody>()
        .schema_from::<sessions::StartBody>()
        .schema_from::<sessions::ResumeBody>()
        .schema_from::<sessions::LogoutAllBody>()
        .schema_from::<sessions::RevokeBody>()
        .schema_from::<Challenge>()
        .schema_from::<Session>()
        .schema_from::<access::TestBody>()
        .schema_from::<access::TokenBody>()
        .schema_from::<operate::ReloadBody>()
        .schema_from::<operate::DrainBody>()
        .schema_from::<access::UserBody>()
        .schema_from::<access::RevokeProofBody>()
        .schema_from::<social::CensorBody>()
        .schema_from::<social::ModerateBody>()
        .schema_from::<social::PurgeBody>()
        .schema_from::<social::QuotaBody>()
        .schema_from::<social::NoQuotaBody>()
        .schema_from::<Whoami>()
        .schema_from::<federation::PeerBody>()
        .schema_from::<federation::JoinBody>()
        .schema_from::<federation::SpokesBody>()
        .schema_from::<RpcBody>()
        .schema_from::<RpcRequest>()
        .schema_from::<RpcAnswer>()
        .schema_from::<RpcResponse>()
        .schema_from::<RpcError>()
        .schema_from::<ServiceList>()
        .schema_from::<ServiceEntry>()
        .build()
}

/// A JSON object whose members the guides describe.
#[derive(Serialize, ToSchema)]
pub(super) struct Object {}

/// A refusal (RFC 9457). Act on `code`; show `message` to people.
#[derive(Serialize, ToSchema)]
pub(super) struct Problem {
    r#type: String,
    title: String,
    status: u16,
    detail: String,
    /// Stable and machine-read.
    code: String,
    /// The same text as `detail`.
    message: String,
    /// Names the request in the relay's log.
    request_id: String,
    /// When to ask again.
    retry_after_ms: Option<u64>,
}

/// What a relay is and takes.
#[derive(Serialize, ToSchema)]
pub(super) struct Info {
    relay_id: String,
    /// The same, as chat calls it.
    gateway_id: String,
    key: String,
    version: String,
    roles: Vec<String>,
    protocols: Vec<String>,
    limits: Limits,
    features: Vec<String>,
    kinds: Kinds,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Limits {
    event_bytes: u64,
    content_bytes: u64,
    tags: u64,
    elements_per_tag: u64,
    element_bytes: u64,
    batch_events: u64,
    batch_bytes: u64,
    frame_bytes: u64,
    page_events: u64,
    ephemeral_replay_ms: u64,
    /// Longest body of a call, and most requests of a batch.
    call_bytes: u64,
    call_batch: u64,
    lease_ms_min: u64,
    lease_ms_max: u64,
}

/// First and last kind of each class.
#[derive(Serialize, ToSchema)]
pub(super) struct Kinds {
    replaceable: Vec<u16>,
    ephemeral: Vec<u16>,
    addressable: Vec<u16>,
    reserved: Vec<u16>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok` or `unavailable`.
    status: String,
    relay_id: String,
    version: String,
    uptime_s: u64,
    /// The newest of the event log.
    seq: u64,
    draining: bool,
    /// `ok`, `reload_failed` or `restart_needed`.
    config: String,
}

/// A signed event.
#[derive(Serialize, ToSchema)]
pub(super) struct Event {
    /// BLAKE3-256 of the canonical bytes, in hex.
    id: String,
    /// The author: `ed25519:` and 64 hex digits.
    pubkey: String,
    /// Unix nanoseconds in decimal.
    created_at_ns: String,
    kind: u16,
    tags: Vec<Vec<String>>,
    content: String,
    /// 128 hex digits, or an armoured SSH signature.
    sig: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct EventPage {
    events: Vec<Event>,
    /// Where the next page begins; absent on the last page, except with `order=seq`.
    cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Count {
    count: u64,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum PublishBody {
    One(Event),
    Many(Vec<Event>),
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum PublishAnswer {
    /// To one event that was stored already.
    One(events::Receipt),
    Many(PublishResults),
}

/// One result for each event, in their order.
#[derive(Serialize, ToSchema)]
pub(super) struct PublishResults {
    results: Vec<PublishResult>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct PublishResult {
    id: Option<String>,
    /// `stored`, `duplicate`, `relayed` or `error`.
    status: String,
    seq: Option<u64>,
    latest: Option<bool>,
    code: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
pub(super) enum LockBody {
    Acquire(locks::AcquireBody),
    Renew(locks::RenewBody),
    Release(locks::ReleaseBody),
    Break(locks::BreakBody),
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum LockAnswer {
    Granted(Grant),
    Ended(locks::Ended),
}

/// A lease that its owner holds.
#[derive(Serialize, ToSchema)]
pub(super) struct Grant {
    resource: String,
    owner: String,
    fencing_token: u64,
    lease_ms: u64,
    /// Unix nanoseconds in decimal.
    lease_expires_at_ns: String,
    /// The relay's clock, unix nanoseconds in decimal.
    now_ns: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct LockState {
    ns: String,
    resource: String,
    held: bool,
    owner: Option<String>,
    fencing_token: Option<u64>,
    lease_expires_at_ns: Option<String>,
    /// How many wait in line.
    waiting: Option<u64>,
    #[schema(value_type = Option<Object>)]
    meta: Option<serde_json::Value>,
    /// Where it is free: the last token given.
    last_token: Option<u64>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct LockPage {
    items: Vec<LockState>,
    cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct LockHistoryPage {
    items: Vec<LockHistoryItem>,
    cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct LockHistoryItem {
    at_ns: String,
    ns: String,
    resource: String,
    action: String,
    owner: String,
    fencing_token: u64,
    previous_owner: Option<String>,
    reason: Option<String>,
    by: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Challenge {
    challenge_id: String,
    challenge: String,
    gateway_id: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Session {
    user_id: String,
    session_id: String,
    session_token: String,
    resume_token: String,
    expires_at: u64,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Whoami {
    principal: String,
    /// `nothing`, `local_socket`, `session`, `signed_request` or `token`.
    via: String,
    relay_id: String,
    admin: bool,
    /// What the asker may do in the namespace.
    rights: Vec<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum RpcBody {
    One(RpcRequest),
    Batch(Vec<RpcRequest>),
}

/// JSON-RPC 2.0. `method` is `service.method`, with an address allowed before the last dot, or
/// `remote_call`.
#[derive(Serialize, ToSchema)]
struct RpcRequest {
    #[schema(example = "2.0")]
    jsonrpc: String,
    /// A text, a number or null; a request without one is a notification.
    #[schema(value_type = Option<Object>)]
    id: Option<serde_json::Value>,
    #[schema(example = "blog.create_post")]
    method: String,
    /// An object or an array.
    #[schema(value_type = Option<Object>)]
    params: Option<serde_json::Value>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum RpcAnswer {
    One(RpcResponse),
    Batch(Vec<RpcResponse>),
}

#[derive(Serialize, ToSchema)]
struct RpcResponse {
    jsonrpc: String,
    id: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<RpcError>,
}

#[derive(Serialize, ToSchema)]
struct RpcError {
    /// -32700 to -32600 as JSON-RPC has them; -32001 service not found, -32002 node unreachable,
    /// -32003 timeout, -32004 forbidden, -32005 overloaded, -32006 loop; others are the service's own.
    code: i64,
    message: String,
    /// Our `code`, and what goes with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<serde_json::Value>,
}

#[derive(Serialize, ToSchema)]
struct ServiceList {
    relay: String,
    services: Vec<ServiceEntry>,
}

#[derive(Serialize, ToSchema)]
struct ServiceEntry {
    service_name: String,
    version: String,
    methods: Vec<String>,
    metadata: serde_json::Value,
    /// `public` or `private`.
    visibility: String,
    is_healthy: bool,
    load_metrics: serde_json::Value,
}
