//! Ingest rules (`polycentric.md` section 4): from bytes to an [`Event`] that may be stored.

use bytes::Bytes;
use ed25519_zebra::{Signature, VerificationKey, VerificationKeyBytes, batch};
use rand_core::{CryptoRng, RngCore};

use super::{
    content,
    id::{
        EventKey, Pointer, ProcessId, Reference, Subject, SystemKey, WireError, bounded, decode,
        digest,
    },
    message::{Claim, ClaimFieldEntry, Delete, EventMessage, Events, Indices, Post, SignedEvent},
};

/// Most events of one request. The client sends 20.
pub const MAX_EVENTS: usize = 1_000;
/// Below this many signatures one equation for all costs more than it saves.
const MIN_BATCH: usize = 4;
/// Longest event in bytes. The client cuts blobs into sections of 512 KiB.
pub const MAX_EVENT_BYTES: usize = 4 << 20;
/// Longest text of a post in UTF-16 units, as the client counts; at most three times as many bytes.
pub const MAX_POST_UNITS: usize = 10_000;
/// Most references of one event. The client writes one.
pub const MAX_REFERENCES: usize = 64;
/// Most fields of one claim. The client writes up to three.
pub const MAX_CLAIM_FIELDS: usize = 64;

/// Why a request of events is refused, and which event is at fault (from 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error("the body is no message 'Events'")]
    Body,
    #[error("at most {MAX_EVENTS} events a request")]
    TooMany,
    #[error("event {at}: {cause}")]
    Wire { at: usize, cause: WireError },
    #[error("event {at}: an event has at most {MAX_EVENT_BYTES} bytes")]
    TooLarge { at: usize },
    #[error("event {at}: at most {MAX_REFERENCES} references")]
    References { at: usize },
    #[error("event {at}: at most {MAX_CLAIM_FIELDS} fields of a claim")]
    ClaimFields { at: usize },
    #[error("event {at}: a post has at most {MAX_POST_UNITS} characters (UTF-16 units)")]
    PostTooLong { at: usize },
    #[error("event {at}: the signature does not hold")]
    Signature { at: usize },
}

/// A last-writer-wins value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lww {
    pub value: Bytes,
    pub unix_ms: u64,
}

/// What a Delete takes out: an event of the same system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub process: ProcessId,
    pub clock: u64,
    pub content_type: u64,
    pub unix_ms: Option<u64>,
}

/// The contents that a server looks into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    Delete(Target),
    Claim {
        claim_type: u64,
        fields: Vec<ClaimFieldEntry>,
    },
    /// Text of a post, a username, a description.
    Text(String),
    Other,
}

/// An event whose shape is right. Its signature has not been checked.
#[derive(Debug, Clone)]
pub struct RawEvent(Event);

/// An event that its system signed, with its bytes as they came.
#[derive(Debug, Clone)]
pub struct Event {
    key: EventKey,
    content_type: u64,
    unix_ms: Option<u64>,
    lww: Option<Lww>,
    references: Vec<Reference>,
    body: Body,
    signature: [u8; 64],
    bytes: Bytes,
}

impl Event {
    pub fn key(&self) -> EventKey {
        self.key
    }

    pub fn system(&self) -> SystemKey {
        self.key.system
    }

    pub fn process(&self) -> ProcessId {
        self.key.process
    }

    pub fn clock(&self) -> u64 {
        self.key.clock
    }

    pub fn content_type(&self) -> u64 {
        self.content_type
    }

    /// When the author says it was made.
    pub fn unix_ms(&self) -> Option<u64> {
        self.unix_ms
    }

    pub fn lww(&self) -> Option<&Lww> {
        self.lww.as_ref()
    }

    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    pub fn body(&self) -> &Body {
        &self.body
    }

    pub fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    /// The signed bytes, as they came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn pointer(&self) -> Pointer {
        Pointer { key: self.key, digest: digest(&self.bytes) }
    }

    /// The clock of the latest event of a type that its process had written before this one.
    pub fn previous(&self, content_type: u64) -> Option<u64> {
        let message: EventMessage = decode(self.bytes.clone()).ok()?;
        let indices = message.indices?.indices;
        let found = indices.iter().find(|index| index.index_type == content_type)?;
        Some(found.logical_clock)
    }

    /// Under what events about this one are counted.
    pub fn subject(&self) -> Subject {
        Subject::of_event(&self.pointer())
    }

    /// What goes over the wire, without anybody's notes.
    pub fn to_signed(&self) -> SignedEvent {
        SignedEvent {
            signature: Bytes::copy_from_slice(&self.signature),
            event: self.bytes.clone(),
            moderation_tags: Vec::new(),
        }
    }

    /// Reads an event that was verified before it was stored.
    ///
    /// # Errors
    /// The bytes are damaged.
    pub fn from_stored(signature: [u8; 64], bytes: Bytes) -> Result<Self, WireError> {
        shape(signature, bytes).map_err(|refusal| match refusal {
            Refusal::Wire(cause) => cause,
            _ => WireError::Malformed,
        })
    }
}

impl RawEvent {
    pub fn system(&self) -> SystemKey {
        self.0.key.system
    }
}

/// Reads the body of `POST /events` and checks the shape of each event.
///
/// # Errors
/// [`EventError`]: one bad event refuses all.
pub fn parse_events(body: Bytes) -> Result<Vec<RawEvent>, EventError> {
    let events: Events = decode(body).map_err(|_| EventError::Body)?;
    if events.events.len() > MAX_EVENTS {
        return Err(EventError::TooMany);
    }
    let parse = |(at, signed)| parse_event(signed).map(RawEvent).map_err(|refusal| refusal.of(at));
    events.events.into_iter().enumerate().map(parse).collect()
}

/// Checks the signatures, by the one rule of the relay: ZIP-215, which takes whatever this protocol's clients and
/// servers take.
///
/// # Errors
/// [`EventError::Signature`].
pub fn verify_all(events: Vec<RawEvent>) -> Result<Vec<Event>, EventError> {
    // One request mostly brings events of one system, and a key costs a fifth of a check to unpack.
    let mut last: Option<(SystemKey, VerificationKey)> = None;
    for (at, RawEvent(event)) in events.iter().enumerate() {
        let system = event.key.system;
        let key = match &last {
            Some((known, key)) if *known == system => key,
            _ => {
                let key = system.verifier().ok_or(EventError::Signature { at })?;
                &last.insert((system, key)).1
            }
        };
        key.verify(&Signature::from_bytes(&event.signature), &event.bytes)
            .map_err(|_| EventError::Signature { at })?;
    }
    Ok(events.into_iter().map(|RawEvent(event)| event).collect())
}

/// As [`verify_all`], with one equation for all signatures where they are many. What it refuses is checked one by one,
/// so that the answer is the same. `rng` blinds the equation; it must be unpredictable to the authors.
///
/// # Errors
/// [`EventError::Signature`].
pub fn verify_many<R: RngCore + CryptoRng>(
    events: Vec<RawEvent>,
    rng: R,
) -> Result<Vec<Event>, EventError> {
    if events.len() < MIN_BATCH {
        return verify_all(events);
    }
    let mut batch = batch::Verifier::new();
    for RawEvent(event) in &events {
        let key = VerificationKeyBytes::from(*event.key.system.as_bytes());
        batch.queue((key, Signature::from_bytes(&event.signature), &event.bytes[..]));
    }
    match batch.verify(rng) {
        Ok(()) => Ok(events.into_iter().map(|RawEvent(event)| event).collect()),
        Err(_) => verify_all(events),
    }
}

/// What is wrong with an event, before it is known which one of the request it is.
enum Refusal {
    Wire(WireError),
    TooLarge,
    References,
    ClaimFields,
    PostTooLong,
    Signature,
}

impl Refusal {
    fn of(self, at: usize) -> EventError {
        match self {
            Self::Wire(cause) => EventError::Wire { at, cause },
            Self::TooLarge => EventError::TooLarge { at },
            Self::References => EventError::References { at },
            Self::ClaimFields => EventError::ClaimFields { at },
            Self::PostTooLong => EventError::PostTooLong { at },
            Self::Signature => EventError::Signature { at },
        }
    }
}

impl From<WireError> for Refusal {
    fn from(cause: WireError) -> Self {
        Self::Wire(cause)
    }
}

fn parse_event(signed: SignedEvent) -> Result<Event, Refusal> {
    if signed.event.len() > MAX_EVENT_BYTES {
        return Err(Refusal::TooLarge);
    }
    let signature = signed.signature[..].try_into().map_err(|_| Refusal::Signature)?;
    shape(signature, signed.event)
}

fn shape(signature: [u8; 64], bytes: Bytes) -> Result<Event, Refusal> {
    let message: EventMessage = decode(bytes.clone())?;
    let system = SystemKey::required(message.system.as_ref())?;
    let process = ProcessId::required(message.process.as_ref())?;
    let clock = bounded("the clock", message.logical_clock)?;
    let content_type = bounded("the content type", message.content_type)?;
    let vector_clock = message.vector_clock.ok_or(WireError::Missing("the vector clock"))?;
    for &clock in &vector_clock.logical_clocks {
        bounded("a clock of the vector clock", clock)?;
    }
    check_indices(message.indices.as_ref())?;
    if let Some(element) = &message.lww_element_set {
        bounded("the time of the element", element.unix_milliseconds)?;
    }
    let lww = message.lww_element.map(|element| -> Result<Lww, WireError> {
        let unix_ms = bounded("the time of the element", element.unix_milliseconds)?;
        Ok(Lww { value: element.value, unix_ms })
    });
    if message.references.len() > MAX_REFERENCES {
        return Err(Refusal::References);
    }
    let references: Result<Vec<Reference>, WireError> =
        message.references.iter().map(Reference::from_message).collect();
    let unix_ms = message.unix_milliseconds.map(|ms| bounded("the time", ms)).transpose()?;
    let lww = lww.transpose()?;
    let body = body(content_type, message.content, lww.as_ref())?;
    Ok(Event {
        key: EventKey { system, process, clock },
        content_type,
        unix_ms,
        lww,
        references: references?,
        body,
        signature,
        bytes,
    })
}

fn check_indices(indices: Option<&Indices>) -> Result<(), WireError> {
    for index in &indices.ok_or(WireError::Missing("the indices"))?.indices {
        bounded("the type of an index", index.index_type)?;
        bounded("the clock of an index", index.logical_clock)?;
    }
    Ok(())
}

fn body(content_type: u64, content: Bytes, lww: Option<&Lww>) -> Result<Body, Refusal> {
    match content_type {
        content::DELETE => {
            let delete: Delete = decode(content)?;
            check_indices(delete.indices.as_ref())?;
            Ok(Body::Delete(Target {
                process: ProcessId::required(delete.process.as_ref())?,
                clock: bounded("the clock of the deleted", delete.logical_clock)?,
                content_type: bounded("the type of the deleted", delete.content_type)?,
                unix_ms: delete
                    .unix_milliseconds
                    .map(|ms| bounded("the time of the deleted", ms))
                    .transpose()?,
            }))
        }
        content::CLAIM => {
            let claim: Claim = decode(content)?;
            if claim.claim_fields.len() > MAX_CLAIM_FIELDS {
                return Err(Refusal::ClaimFields);
            }
            for field in &claim.claim_fields {
                bounded("the key of a field", field.key)?;
            }
            let claim_type = bounded("the type of the claim", claim.claim_type)?;
            Ok(Body::Claim { claim_type, fields: claim.claim_fields })
        }
        content::POST => match decode::<Post>(content) {
            Ok(Post { content: Some(text), .. }) => {
                // Text of many bytes a character is counted as the client counts it.
                if text.len() > MAX_POST_UNITS && text.encode_utf16().count() > MAX_POST_UNITS {
                    return Err(Refusal::PostTooLong);
                }
                Ok(Body::Text(text))
            }
            // A post of a later form is kept all the same; nothing in it can be searched.
            _ => Ok(Body::Other),
        },
        content::USERNAME | content::DESCRIPTION => Ok(lww
            .and_then(|lww| std::str::from_utf8(&lww.value).ok())
            .map_or(Body::Other, |text| Body::Text(text.to_owned()))),
        _ => Ok(Body::Other),
    }
}
