//! The messages (`polycentric.md` section 2), field by field.

use bytes::Bytes;
use prost::Message;

#[derive(Clone, PartialEq, Eq, Message)]
pub struct PublicKey {
    #[prost(uint64, tag = "1")]
    pub key_type: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Process {
    #[prost(bytes = "bytes", tag = "1")]
    pub process: Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Index {
    #[prost(uint64, tag = "1")]
    pub index_type: u64,
    #[prost(uint64, tag = "2")]
    pub logical_clock: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Indices {
    #[prost(message, repeated, tag = "1")]
    pub indices: Vec<Index>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct VectorClock {
    #[prost(uint64, repeated, tag = "1")]
    pub logical_clocks: Vec<u64>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Digest {
    #[prost(uint64, tag = "1")]
    pub digest_type: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub digest: Bytes,
}

/// A pointer as it is on the wire; checked, it is a [`super::Pointer`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PointerMessage {
    #[prost(message, optional, tag = "1")]
    pub system: Option<PublicKey>,
    #[prost(message, optional, tag = "2")]
    pub process: Option<Process>,
    #[prost(uint64, tag = "3")]
    pub logical_clock: u64,
    #[prost(message, optional, tag = "4")]
    pub event_digest: Option<Digest>,
}

/// A reference as it is on the wire; checked, it is a [`super::Reference`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ReferenceMessage {
    #[prost(uint64, tag = "1")]
    pub reference_type: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub reference: Bytes,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct LwwElementSet {
    /// 0 adds, 1 removes.
    #[prost(int32, tag = "1")]
    pub operation: i32,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    #[prost(uint64, tag = "3")]
    pub unix_milliseconds: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct LwwElement {
    #[prost(bytes = "bytes", tag = "1")]
    pub value: Bytes,
    #[prost(uint64, tag = "2")]
    pub unix_milliseconds: u64,
}

/// An event as it is on the wire; checked, it is a [`super::RawEvent`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct EventMessage {
    #[prost(message, optional, tag = "1")]
    pub system: Option<PublicKey>,
    #[prost(message, optional, tag = "2")]
    pub process: Option<Process>,
    #[prost(uint64, tag = "3")]
    pub logical_clock: u64,
    #[prost(uint64, tag = "4")]
    pub content_type: u64,
    #[prost(bytes = "bytes", tag = "5")]
    pub content: Bytes,
    #[prost(message, optional, tag = "6")]
    pub vector_clock: Option<VectorClock>,
    #[prost(message, optional, tag = "7")]
    pub indices: Option<Indices>,
    #[prost(message, optional, tag = "8")]
    pub lww_element_set: Option<LwwElementSet>,
    #[prost(message, optional, tag = "9")]
    pub lww_element: Option<LwwElement>,
    #[prost(message, repeated, tag = "10")]
    pub references: Vec<ReferenceMessage>,
    #[prost(uint64, optional, tag = "11")]
    pub unix_milliseconds: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ModerationTag {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint32, tag = "2")]
    pub level: u32,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct SignedEvent {
    #[prost(bytes = "bytes", tag = "1")]
    pub signature: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub event: Bytes,
    /// Notes of a server, not signed. Those of a client are never believed.
    #[prost(message, repeated, tag = "3")]
    pub moderation_tags: Vec<ModerationTag>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Events {
    #[prost(message, repeated, tag = "1")]
    pub events: Vec<SignedEvent>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct PublicKeys {
    #[prost(message, repeated, tag = "1")]
    pub systems: Vec<PublicKey>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct SystemProcesses {
    #[prost(message, repeated, tag = "1")]
    pub processes: Vec<Process>,
}

/// The content of a Delete.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Delete {
    #[prost(message, optional, tag = "1")]
    pub process: Option<Process>,
    #[prost(uint64, tag = "2")]
    pub logical_clock: u64,
    #[prost(message, optional, tag = "3")]
    pub indices: Option<Indices>,
    #[prost(uint64, optional, tag = "4")]
    pub unix_milliseconds: Option<u64>,
    #[prost(uint64, tag = "5")]
    pub content_type: u64,
}

/// The content of a Post.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Post {
    #[prost(string, optional, tag = "1")]
    pub content: Option<String>,
    #[prost(message, optional, tag = "3")]
    pub image: Option<ImageManifest>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ClaimFieldEntry {
    #[prost(uint64, tag = "1")]
    pub key: u64,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// The content of a Claim.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Claim {
    #[prost(uint64, tag = "1")]
    pub claim_type: u64,
    #[prost(message, repeated, tag = "2")]
    pub claim_fields: Vec<ClaimFieldEntry>,
}

/// An inclusive interval of clocks as it is on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Range {
    #[prost(uint64, tag = "1")]
    pub low: u64,
    #[prost(uint64, tag = "2")]
    pub high: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct RangesForProcess {
    #[prost(message, optional, tag = "1")]
    pub process: Option<Process>,
    #[prost(message, repeated, tag = "2")]
    pub ranges: Vec<Range>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct RangesForSystem {
    #[prost(message, repeated, tag = "1")]
    pub ranges_for_processes: Vec<RangesForProcess>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct RepeatedUInt64 {
    #[prost(uint64, repeated, tag = "1")]
    pub numbers: Vec<u64>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ImageManifest {
    #[prost(string, tag = "1")]
    pub mime: String,
    #[prost(uint64, tag = "2")]
    pub width: u64,
    #[prost(uint64, tag = "3")]
    pub height: u64,
    #[prost(uint64, tag = "4")]
    pub byte_count: u64,
    #[prost(message, optional, tag = "5")]
    pub process: Option<Process>,
    #[prost(message, repeated, tag = "6")]
    pub sections: Vec<Range>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ImageBundle {
    #[prost(message, repeated, tag = "1")]
    pub image_manifests: Vec<ImageManifest>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct KeyPair {
    #[prost(uint64, tag = "1")]
    pub key_type: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub private_key: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub public_key: Bytes,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ExportBundle {
    #[prost(message, optional, tag = "1")]
    pub key_pair: Option<KeyPair>,
    #[prost(message, optional, tag = "2")]
    pub events: Option<Events>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct AggregationBucket {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(int64, tag = "2")]
    pub value: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ResultTopStringReferences {
    #[prost(message, repeated, tag = "1")]
    pub buckets: Vec<AggregationBucket>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ResultEventsAndRelatedEventsAndCursor {
    #[prost(message, optional, tag = "1")]
    pub result_events: Option<Events>,
    #[prost(message, optional, tag = "2")]
    pub related_events: Option<Events>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub cursor: Option<Bytes>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct QueryIndexResponse {
    #[prost(message, repeated, tag = "1")]
    pub events: Vec<SignedEvent>,
    #[prost(message, repeated, tag = "2")]
    pub proof: Vec<SignedEvent>,
}

/// Counts last-writer-wins values that equal `value`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CountLwwElementReferences {
    #[prost(bytes = "bytes", tag = "1")]
    pub value: Bytes,
    #[prost(uint64, optional, tag = "2")]
    pub from_type: Option<u64>,
}

/// Counts events.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct CountReferences {
    #[prost(uint64, optional, tag = "1")]
    pub from_type: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct QueryReferencesRequestEvents {
    #[prost(uint64, optional, tag = "1")]
    pub from_type: Option<u64>,
    #[prost(message, repeated, tag = "2")]
    pub count_lww_element_references: Vec<CountLwwElementReferences>,
    #[prost(message, repeated, tag = "3")]
    pub count_references: Vec<CountReferences>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct QueryReferencesRequest {
    #[prost(message, optional, tag = "1")]
    pub reference: Option<ReferenceMessage>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub cursor: Option<Bytes>,
    #[prost(message, optional, tag = "3")]
    pub request_events: Option<QueryReferencesRequestEvents>,
    #[prost(message, repeated, tag = "4")]
    pub count_lww_element_references: Vec<CountLwwElementReferences>,
    #[prost(message, repeated, tag = "5")]
    pub count_references: Vec<CountReferences>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub extra_byte_references: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct QueryReferencesResponseEventItem {
    #[prost(message, optional, tag = "1")]
    pub event: Option<SignedEvent>,
    #[prost(uint64, repeated, tag = "2")]
    pub counts: Vec<u64>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct QueryReferencesResponse {
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<QueryReferencesResponseEventItem>,
    #[prost(message, repeated, tag = "2")]
    pub related_events: Vec<SignedEvent>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub cursor: Option<Bytes>,
    #[prost(uint64, repeated, tag = "4")]
    pub counts: Vec<u64>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct MatchAllFields {
    #[prost(message, repeated, tag = "1")]
    pub fields: Vec<ClaimFieldEntry>,
}

/// Of the two kinds of match exactly one is to be given.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct QueryClaimToSystemRequest {
    #[prost(uint64, tag = "1")]
    pub claim_type: u64,
    #[prost(message, optional, tag = "2")]
    pub trust_root: Option<PublicKey>,
    #[prost(string, optional, tag = "3")]
    pub match_any_field: Option<String>,
    #[prost(message, optional, tag = "4")]
    pub match_all_fields: Option<MatchAllFields>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ClaimMatch {
    #[prost(message, optional, tag = "1")]
    pub claim: Option<SignedEvent>,
    #[prost(message, repeated, tag = "2")]
    pub proof_chain: Vec<SignedEvent>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct QueryClaimToSystemResponse {
    #[prost(message, repeated, tag = "1")]
    pub matches: Vec<ClaimMatch>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct FindClaimAndVouchRequest {
    #[prost(message, optional, tag = "1")]
    pub vouching_system: Option<PublicKey>,
    #[prost(message, optional, tag = "2")]
    pub claiming_system: Option<PublicKey>,
    #[prost(message, repeated, tag = "3")]
    pub fields: Vec<ClaimFieldEntry>,
    #[prost(uint64, tag = "4")]
    pub claim_type: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct FindClaimAndVouchResponse {
    #[prost(message, optional, tag = "1")]
    pub vouch: Option<SignedEvent>,
    #[prost(message, optional, tag = "2")]
    pub claim: Option<SignedEvent>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct HarborChallengeResponse {
    /// A serialised [`HarborChallengeResponseBody`].
    #[prost(bytes = "bytes", tag = "1")]
    pub body: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub hmac: Bytes,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct HarborChallengeResponseBody {
    #[prost(bytes = "bytes", tag = "1")]
    pub challenge: Bytes,
    /// Unix milliseconds.
    #[prost(uint64, tag = "2")]
    pub created_on: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct HarborValidateRequest {
    #[prost(message, optional, tag = "1")]
    pub challenge: Option<HarborChallengeResponse>,
    #[prost(message, optional, tag = "2")]
    pub system: Option<PublicKey>,
    #[prost(bytes = "bytes", tag = "3")]
    pub signature: Bytes,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ClaimHandleRequest {
    #[prost(message, optional, tag = "1")]
    pub system: Option<PublicKey>,
    #[prost(string, tag = "2")]
    pub handle: String,
}

/// A link, as the last segment of a URL in base64url.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UrlInfo {
    #[prost(uint64, tag = "1")]
    pub url_type: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub body: Bytes,
}

impl UrlInfo {
    pub const SYSTEM: u64 = 1;
    pub const EVENT: u64 = 2;
    pub const EXPORT: u64 = 3;
    pub const DATA: u64 = 4;
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct UrlInfoSystemLink {
    #[prost(message, optional, tag = "1")]
    pub system: Option<PublicKey>,
    #[prost(string, repeated, tag = "2")]
    pub servers: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct UrlInfoEventLink {
    #[prost(message, optional, tag = "1")]
    pub system: Option<PublicKey>,
    #[prost(message, optional, tag = "2")]
    pub process: Option<Process>,
    #[prost(uint64, tag = "3")]
    pub logical_clock: u64,
    #[prost(string, repeated, tag = "4")]
    pub servers: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct UrlInfoDataLink {
    #[prost(message, optional, tag = "1")]
    pub system: Option<PublicKey>,
    #[prost(message, optional, tag = "2")]
    pub process: Option<Process>,
    #[prost(string, repeated, tag = "3")]
    pub servers: Vec<String>,
    #[prost(uint64, tag = "4")]
    pub byte_count: u64,
    #[prost(message, repeated, tag = "5")]
    pub sections: Vec<Range>,
    #[prost(string, optional, tag = "6")]
    pub mime: Option<String>,
}
