//! The envelope: strict JSON reading, canonical bytes, the stored form.

use std::{borrow::Cow, fmt, sync::Arc};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use smallvec::SmallVec;

use super::{Class, Tags, class_of};
use crate::{
    error::{Code, Problem},
    key::{EventId, KeyError, NodeId, parse_hex, write_hex},
    lease::Resource,
    name::Namespace,
};

/// Sizes an event may have. Defaults are those of `events.md`, Acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLimits {
    /// Bytes of the whole event as JSON.
    pub event_bytes: usize,
    /// Bytes of `content`.
    pub content_bytes: usize,
    pub tags: usize,
    pub elements_per_tag: usize,
    pub element_bytes: usize,
    /// Whether `sshsig` signatures are accepted.
    pub sshsig: bool,
}

impl Default for EventLimits {
    fn default() -> Self {
        Self {
            event_bytes: 128 << 10,
            content_bytes: 64 << 10,
            tags: 256,
            elements_per_tag: 16,
            element_bytes: 1 << 10,
            sshsig: true,
        }
    }
}

/// Why an event is refused before anybody asks who may write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error("the event is larger than {limit} bytes")]
    EventTooLarge { limit: usize },
    #[error("the content is larger than {limit} bytes")]
    ContentTooLarge { limit: usize },
    #[error("the event has more than {limit} tags")]
    TooManyTags { limit: usize },
    #[error("a tag has more than {limit} elements")]
    TooManyElements { limit: usize },
    #[error("a tag element is larger than {limit} bytes")]
    ElementTooLarge { limit: usize },
    #[error("not an event: {0}")]
    Json(String),
    #[error("{field}: {source}")]
    Key { field: &'static str, source: KeyError },
    #[error(
        "created_at_ns is a string of decimal digits without leading zero, below 9223372036854775808"
    )]
    Time,
    #[error("an addressable event (kind 30000 to 39999) needs exactly one non-empty d tag")]
    MissingD,
    #[error("at most one ns tag, and its value must be a namespace")]
    BadNamespace,
    #[error("fence tags are [\"fence\", resource, token] with a decimal token, at most one")]
    BadFence,
    #[error("an ephemeral event cannot carry a fence: it is not stored")]
    FencedEphemeral,
    #[error("expiration is one tag with decimal unix seconds")]
    BadExpiration,
    #[error("sig is 128 lowercase hex digits or an armoured SSH signature: {0}")]
    SignatureForm(&'static str),
    #[error("sshsig signatures are turned off on this relay")]
    SshSigOff,
    #[error("the id is not the hash of the event's canonical bytes")]
    IdMismatch,
    #[error("the signature does not verify under pubkey")]
    BadSignature,
}

impl EventError {
    pub const fn code(&self) -> Code {
        match self {
            Self::EventTooLarge { .. }
            | Self::ContentTooLarge { .. }
            | Self::TooManyTags { .. }
            | Self::TooManyElements { .. }
            | Self::ElementTooLarge { .. } => Code::TooLarge,
            _ => Code::InvalidRequest,
        }
    }
}

impl From<EventError> for Problem {
    fn from(error: EventError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// A signature as it came: native, or OpenSSH's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    Native([u8; 64]),
    /// The armoured block, not yet looked into.
    SshSig(String),
}

/// A protected write: the author must hold `resource` with exactly `token`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    pub resource: Resource,
    pub token: u64,
}

/// An event whose shape is right. Id and signature are not yet checked.
#[derive(Clone)]
pub struct RawEvent {
    pub(super) id: EventId,
    pub(super) pubkey: NodeId,
    pub(super) created_at_ns: u64,
    pub(super) kind: u16,
    pub(super) tags: Tags,
    pub(super) sig: Signature,
    pub(super) namespace: Namespace,
    pub(super) fence: Option<Fence>,
    pub(super) expires_at_s: Option<u64>,
    /// What is hashed and signed.
    pub(super) canonical: Vec<u8>,
    /// Where tags and content lie in `canonical`, to build the stored form from.
    pub(super) tags_at: u32,
    pub(super) content_at: u32,
}

impl RawEvent {
    /// The id that the event claims; true only once verified.
    pub fn claimed_id(&self) -> EventId {
        self.id
    }

    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
    pub fn pubkey(&self) -> NodeId {
        self.pubkey
    }
}

impl fmt::Debug for RawEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawEvent").field("id", &self.id).field("kind", &self.kind).finish()
    }
}

/// A verified event. Cloning shares everything.
#[derive(Clone)]
pub struct Event(Arc<Inner>);

struct Inner {
    id: EventId,
    pubkey: NodeId,
    created_at_ns: u64,
    kind: u16,
    tags: Tags,
    namespace: Namespace,
    fence: Option<Fence>,
    expires_at_s: Option<u64>,
    json: Bytes,
}

impl Event {
    pub(super) fn from_verified(raw: RawEvent) -> Self {
        let json = stored_json(&raw);
        Self(Arc::new(Inner {
            id: raw.id,
            pubkey: raw.pubkey,
            created_at_ns: raw.created_at_ns,
            kind: raw.kind,
            tags: raw.tags,
            namespace: raw.namespace,
            fence: raw.fence,
            expires_at_s: raw.expires_at_s,
            json,
        }))
    }

    /// Takes an event that this relay verified earlier and kept as `json`.
    ///
    /// # Errors
    /// [`EventError`] where the stored text is damaged; id and signature are not checked again.
    pub fn from_stored(json: Bytes) -> Result<Self, EventError> {
        let limits = EventLimits {
            event_bytes: usize::MAX,
            content_bytes: usize::MAX,
            tags: usize::MAX,
            elements_per_tag: usize::MAX,
            element_bytes: usize::MAX,
            sshsig: true,
        };
        let raw = parse_event(&json, &limits)?;
        Ok(Self::from_verified(raw))
    }

    pub fn id(&self) -> EventId {
        self.0.id
    }
    pub fn pubkey(&self) -> NodeId {
        self.0.pubkey
    }
    pub fn created_at_ns(&self) -> u64 {
        self.0.created_at_ns
    }
    pub fn kind(&self) -> u16 {
        self.0.kind
    }
    pub fn class(&self) -> Class {
        class_of(self.0.kind)
    }
    pub fn tags(&self) -> &Tags {
        &self.0.tags
    }
    pub fn namespace(&self) -> &Namespace {
        &self.0.namespace
    }
    pub fn fence(&self) -> Option<&Fence> {
        self.0.fence.as_ref()
    }
    /// Unix seconds from which on the event counts as gone.
    pub fn expires_at_s(&self) -> Option<u64> {
        self.0.expires_at_s
    }
    /// The value of the `d` tag, empty where absent.
    pub fn d(&self) -> &str {
        self.0.tags.values("d").next().unwrap_or("")
    }
    /// The event as compact JSON with its seven members: the stored and the sent form.
    pub fn json(&self) -> &Bytes {
        &self.0.json
    }
    /// The content, decoded from the stored form.
    pub fn content(&self) -> String {
        #[derive(Deserialize)]
        struct Content<'a> {
            #[serde(borrow)]
            content: Cow<'a, str>,
        }
        serde_json::from_slice::<Content<'_>>(&self.0.json)
            .map(|found| found.content.into_owned())
            .unwrap_or_default()
    }
    /// What decides which version of a coordinate is the latest.
    pub fn version(&self) -> (u64, EventId) {
        (self.0.created_at_ns, self.0.id)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0.json))
    }
}

impl serde::Serialize for Event {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = std::str::from_utf8(&self.0.json).map_err(serde::ser::Error::custom)?;
        let raw: &serde_json::value::RawValue =
            serde_json::from_str(text).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

/// Reads one event, checking sizes before anything else, then the shape.
///
/// # Errors
/// [`EventError`], the first that applies.
pub fn parse_event(json: &[u8], limits: &EventLimits) -> Result<RawEvent, EventError> {
    if json.len() > limits.event_bytes {
        return Err(EventError::EventTooLarge { limit: limits.event_bytes });
    }
    let wire: Wire<'_> =
        serde_json::from_slice(json).map_err(|error| EventError::Json(json_fault(&error)))?;
    check_sizes(&wire, limits)?;
    let id = wire.id.parse().map_err(|source| EventError::Key { field: "id", source })?;
    let pubkey =
        wire.pubkey.parse().map_err(|source| EventError::Key { field: "pubkey", source })?;
    let created_at_ns = parse_time(&wire.created_at_ns).ok_or(EventError::Time)?;
    let sig = parse_signature(&wire.sig, limits)?;
    let class = class_of(wire.kind);
    check_d(class, &wire.tags)?;
    let namespace = namespace_of(&wire.tags)?;
    let fence = fence_of(&wire.tags)?;
    if fence.is_some() && class == Class::Ephemeral {
        return Err(EventError::FencedEphemeral);
    }
    let expires_at_s = expiration_of(&wire.tags)?;
    let (canonical, tags_at, content_at) =
        canonical(&pubkey, &wire.created_at_ns, wire.kind, &wire.tags, &wire.content);
    Ok(RawEvent {
        id,
        pubkey,
        created_at_ns,
        kind: wire.kind,
        tags: wire.tags,
        sig,
        namespace,
        fence,
        expires_at_s,
        canonical,
        tags_at,
        content_at,
    })
}

/// The canonical bytes, and where tags and content begin in them.
pub(super) fn canonical(
    pubkey: &NodeId,
    created_at_ns: &str,
    kind: u16,
    tags: &Tags,
    content: &str,
) -> (Vec<u8>, u32, u32) {
    let mut out = Vec::with_capacity(160 + content.len() + content.len() / 8);
    out.extend_from_slice(b"[\"relay-event-v1\",\"");
    pubkey.write_to(&mut out);
    out.extend_from_slice(b"\",\"");
    out.extend_from_slice(created_at_ns.as_bytes());
    out.extend_from_slice(b"\",");
    out.extend_from_slice(kind.to_string().as_bytes());
    out.push(b',');
    let tags_at = out.len() as u32;
    write_json(tags, &mut out);
    out.push(b',');
    let content_at = out.len() as u32;
    write_json(content, &mut out);
    out.push(b']');
    (out, tags_at, content_at)
}

/// `serde_json` writes strings exactly as RFC 8785 wants them, and writing to memory cannot fail.
fn write_json<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok());
}

fn stored_json(raw: &RawEvent) -> Bytes {
    let tags = &raw.canonical[raw.tags_at as usize..raw.content_at as usize - 1];
    let content = &raw.canonical[raw.content_at as usize..raw.canonical.len() - 1];
    let mut out = Vec::with_capacity(raw.canonical.len() + 320);
    out.extend_from_slice(b"{\"id\":\"");
    write_hex(raw.id.as_bytes(), &mut out);
    out.extend_from_slice(b"\",\"pubkey\":\"");
    raw.pubkey.write_to(&mut out);
    out.extend_from_slice(b"\",\"created_at_ns\":\"");
    out.extend_from_slice(raw.created_at_ns.to_string().as_bytes());
    out.extend_from_slice(b"\",\"kind\":");
    out.extend_from_slice(raw.kind.to_string().as_bytes());
    out.extend_from_slice(b",\"tags\":");
    out.extend_from_slice(tags);
    out.extend_from_slice(b",\"content\":");
    out.extend_from_slice(content);
    out.extend_from_slice(b",\"sig\":");
    match &raw.sig {
        Signature::Native(sig) => {
            out.push(b'"');
            write_hex(sig, &mut out);
            out.push(b'"');
        }
        Signature::SshSig(armour) => write_json(armour.as_str(), &mut out),
    }
    out.push(b'}');
    Bytes::from(out)
}

fn check_sizes(wire: &Wire<'_>, limits: &EventLimits) -> Result<(), EventError> {
    if wire.content.len() > limits.content_bytes {
        return Err(EventError::ContentTooLarge { limit: limits.content_bytes });
    }
    if wire.tags.len() > limits.tags {
        return Err(EventError::TooManyTags { limit: limits.tags });
    }
    for tag in wire.tags.iter() {
        if tag.len() > limits.elements_per_tag {
            return Err(EventError::TooManyElements { limit: limits.elements_per_tag });
        }
        if tag.elements().any(|element| element.len() > limits.element_bytes) {
            return Err(EventError::ElementTooLarge { limit: limits.element_bytes });
        }
    }
    Ok(())
}

/// Decimal nanoseconds, without leading zero, below 2^63.
fn parse_time(text: &str) -> Option<u64> {
    let plain = text == "0" || !text.starts_with('0');
    if !plain || text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|&ns: &u64| ns < 1 << 63)
}

fn parse_signature(text: &str, limits: &EventLimits) -> Result<Signature, EventError> {
    if text.starts_with("-----BEGIN SSH SIGNATURE-----") {
        if !limits.sshsig {
            return Err(EventError::SshSigOff);
        }
        return Ok(Signature::SshSig(text.to_owned()));
    }
    parse_hex(text)
        .map(Signature::Native)
        .ok_or(EventError::SignatureForm("neither form was found"))
}

fn check_d(class: Class, tags: &Tags) -> Result<(), EventError> {
    if class != Class::Addressable {
        return Ok(());
    }
    let mut named = tags.iter().filter(|tag| tag.name() == Some("d"));
    match (named.next().and_then(|tag| tag.value()), named.next()) {
        (Some(value), None) if !value.is_empty() => Ok(()),
        _ => Err(EventError::MissingD),
    }
}

fn namespace_of(tags: &Tags) -> Result<Namespace, EventError> {
    let mut named = tags.iter().filter(|tag| tag.name() == Some("ns"));
    match (named.next(), named.next()) {
        (None, _) => Ok(Namespace::default()),
        (Some(tag), None) => {
            tag.value().and_then(|value| value.parse().ok()).ok_or(EventError::BadNamespace)
        }
        _ => Err(EventError::BadNamespace),
    }
}

fn fence_of(tags: &Tags) -> Result<Option<Fence>, EventError> {
    let mut named = tags.iter().filter(|tag| tag.name() == Some("fence"));
    let (Some(tag), None) = (named.next(), named.next()) else {
        return if tags.iter().any(|tag| tag.name() == Some("fence")) {
            Err(EventError::BadFence)
        } else {
            Ok(None)
        };
    };
    let resource = tag.value().and_then(|value| value.parse().ok()).ok_or(EventError::BadFence)?;
    let token = tag.get(2).and_then(parse_time).ok_or(EventError::BadFence)?;
    Ok(Some(Fence { resource, token }))
}

fn expiration_of(tags: &Tags) -> Result<Option<u64>, EventError> {
    let mut named = tags.iter().filter(|tag| tag.name() == Some("expiration"));
    match (named.next(), named.next()) {
        (None, _) => Ok(None),
        (Some(tag), None) => tag
            .value()
            .and_then(parse_time)
            .filter(|&seconds| seconds < 1 << 53)
            .map(Some)
            .ok_or(EventError::BadExpiration),
        _ => Err(EventError::BadExpiration),
    }
}

/// The parser's words without its position, which means nothing to a reader of the answer.
fn json_fault(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

/// The seven members as they came. Read by hand so that a repeated member of any name is refused.
struct Wire<'a> {
    id: Cow<'a, str>,
    pubkey: Cow<'a, str>,
    created_at_ns: Cow<'a, str>,
    kind: u16,
    tags: Tags,
    content: Cow<'a, str>,
    sig: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Wire<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Wire<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Wire<'de>, A::Error> {
                let (mut id, mut pubkey, mut created_at_ns) = (None, None, None);
                let (mut kind, mut tags, mut content, mut sig) = (None, None, None, None);
                let mut unknown: SmallVec<[Cow<'de, str>; 4]> = SmallVec::new();
                while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
                    let twice = match &*name {
                        "id" => id.replace(map.next_value::<Text<'de>>()?.0).is_some(),
                        "pubkey" => pubkey.replace(map.next_value::<Text<'de>>()?.0).is_some(),
                        "created_at_ns" => {
                            created_at_ns.replace(map.next_value::<Text<'de>>()?.0).is_some()
                        }
                        "kind" => kind.replace(map.next_value::<u16>()?).is_some(),
                        "tags" => tags.replace(map.next_value::<Tags>()?).is_some(),
                        "content" => content.replace(map.next_value::<Text<'de>>()?.0).is_some(),
                        "sig" => sig.replace(map.next_value::<Text<'de>>()?.0).is_some(),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            let twice = unknown.contains(&name);
                            if unknown.len() == MAX_UNKNOWN_MEMBERS {
                                return Err(A::Error::custom("too many unknown members"));
                            }
                            unknown.push(name.clone());
                            twice
                        }
                    };
                    if twice {
                        return Err(A::Error::custom(format_args!("member '{name}' twice")));
                    }
                }
                fn need<T, E: serde::de::Error>(
                    member: Option<T>,
                    name: &'static str,
                ) -> Result<T, E> {
                    member.ok_or_else(|| E::missing_field(name))
                }
                Ok(Wire {
                    id: need(id, "id")?,
                    pubkey: need(pubkey, "pubkey")?,
                    created_at_ns: need(created_at_ns, "created_at_ns")?,
                    kind: need(kind, "kind")?,
                    tags: need(tags, "tags")?,
                    content: need(content, "content")?,
                    sig: need(sig, "sig")?,
                })
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Members that are not ours are ignored, but looking for repeats among them has to end somewhere.
const MAX_UNKNOWN_MEMBERS: usize = 64;
