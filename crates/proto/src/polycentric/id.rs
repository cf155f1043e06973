//! What names what: systems, processes, events, subjects.

use std::fmt;

use bytes::Bytes;
use ed25519_zebra::{Signature, VerificationKey};
use prost::Message;
use sha2::{Digest as _, Sha256};

use super::message::{Digest, PointerMessage, Process, PublicKey, ReferenceMessage};
use crate::key::NodeId;

/// The greatest clock, type or time: what a signed 64-bit column holds.
pub const MAX_NUMBER: u64 = i64::MAX as u64;

/// Why a part of a message cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the message cannot be decoded")]
    Malformed,
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("the key type is not 1 (Ed25519)")]
    KeyType,
    #[error("a key has 32 bytes")]
    KeyLength,
    #[error("a process has 16 bytes")]
    ProcessLength,
    #[error("the digest type is not 1 (SHA-256)")]
    DigestType,
    #[error("a digest has 32 bytes")]
    DigestLength,
    #[error("the reference type is not 1, 2 or 3")]
    ReferenceType,
    #[error("{0} is above 2^63 - 1")]
    TooGreat(&'static str),
    #[error("a range has low above high")]
    Range,
    #[error("the text is not base64url")]
    Base64,
}

/// An identity: one Ed25519 public key.
///
/// Any 32 bytes name a system; whether they are a key is found when a signature is checked. That check is the
/// plain one of Ed25519 (no cofactor, small orders allowed), as other servers of this protocol do it: a stricter
/// one would refuse here what is accepted there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemKey([u8; 32]);

impl SystemKey {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// # Errors
    /// [`WireError::KeyType`], [`WireError::KeyLength`].
    pub fn from_message(message: &PublicKey) -> Result<Self, WireError> {
        if message.key_type != 1 {
            return Err(WireError::KeyType);
        }
        message.key[..].try_into().map(Self).map_err(|_| WireError::KeyLength)
    }

    /// As [`Self::from_message`] for a field that has to be there.
    ///
    /// # Errors
    /// [`WireError::Missing`] and those of [`Self::from_message`].
    pub fn required(message: Option<&PublicKey>) -> Result<Self, WireError> {
        Self::from_message(message.ok_or(WireError::Missing("system"))?)
    }

    pub fn to_message(self) -> PublicKey {
        PublicKey { key_type: 1, key: Bytes::copy_from_slice(&self.0) }
    }

    /// The key ready to check signatures, where the bytes are one.
    pub(super) fn verifier(&self) -> Option<VerificationKey> {
        VerificationKey::try_from(self.0).ok()
    }

    /// Whether `signature` is this system's over `message`, by the rule of this protocol.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let signature = Signature::from_bytes(signature);
        self.verifier().is_some_and(|key| key.verify(&signature, message).is_ok())
    }
}

impl From<NodeId> for SystemKey {
    fn from(key: NodeId) -> Self {
        Self(*key.as_bytes())
    }
}

impl fmt::Display for SystemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::key::KEY_PREFIX)?;
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SystemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One writer of a system: a device, a browser, a store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId([u8; 16]);

impl ProcessId {
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// # Errors
    /// [`WireError::Missing`], [`WireError::ProcessLength`].
    pub fn required(message: Option<&Process>) -> Result<Self, WireError> {
        let message = message.ok_or(WireError::Missing("process"))?;
        message.process[..].try_into().map(Self).map_err(|_| WireError::ProcessLength)
    }

    pub fn to_message(self) -> Process {
        Process { process: Bytes::copy_from_slice(&self.0) }
    }
}

impl fmt::Debug for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Names an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey {
    pub system: SystemKey,
    pub process: ProcessId,
    pub clock: u64,
}

/// Names an event and says which bytes it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pointer {
    pub key: EventKey,
    /// SHA-256 of the event's bytes.
    pub digest: [u8; 32],
}

impl Pointer {
    /// # Errors
    /// Whatever is missing, too long, too great or of another type.
    pub fn from_message(message: &PointerMessage) -> Result<Self, WireError> {
        let system = SystemKey::required(message.system.as_ref())?;
        let process = ProcessId::required(message.process.as_ref())?;
        let clock = bounded("a clock", message.logical_clock)?;
        let digest = message.event_digest.as_ref().ok_or(WireError::Missing("digest"))?;
        if digest.digest_type != 1 {
            return Err(WireError::DigestType);
        }
        let digest = digest.digest[..].try_into().map_err(|_| WireError::DigestLength)?;
        Ok(Self { key: EventKey { system, process, clock }, digest })
    }

    pub fn to_message(&self) -> PointerMessage {
        PointerMessage {
            system: Some(self.key.system.to_message()),
            process: Some(self.key.process.to_message()),
            logical_clock: self.key.clock,
            event_digest: Some(Digest {
                digest_type: 1,
                digest: Bytes::copy_from_slice(&self.digest),
            }),
        }
    }
}

/// What an event refers to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    System(SystemKey),
    Event(Pointer),
    /// In practice a URL or a topic.
    Bytes(Bytes),
}

impl Reference {
    /// # Errors
    /// An unknown type, or bytes that are not what the type says.
    pub fn from_message(message: &ReferenceMessage) -> Result<Self, WireError> {
        let bytes = message.reference.clone();
        match message.reference_type {
            1 => SystemKey::from_message(&decode(bytes)?).map(Self::System),
            2 => Pointer::from_message(&decode(bytes)?).map(Self::Event),
            3 => Ok(Self::Bytes(bytes)),
            _ => Err(WireError::ReferenceType),
        }
    }

    pub fn to_message(&self) -> ReferenceMessage {
        let (reference_type, reference) = match self {
            Self::System(system) => (1, system.to_message().encode_to_vec().into()),
            Self::Event(pointer) => (2, pointer.to_message().encode_to_vec().into()),
            Self::Bytes(bytes) => (3, bytes.clone()),
        };
        ReferenceMessage { reference_type, reference }
    }

    /// Under what the reference is counted; references to systems are not.
    pub fn subject(&self) -> Option<Subject> {
        match self {
            Self::System(_) => None,
            Self::Event(pointer) => Some(Subject::of_event(pointer)),
            Self::Bytes(bytes) => Some(Subject::of_bytes(bytes)),
        }
    }
}

/// What events can be about, as 16 bytes of a hash: an event (with its digest, so that a pointer to other bytes
/// under the same name is another subject) or opaque bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject([u8; 16]);

impl Subject {
    /// The subject of values that are about nothing but their system.
    pub const NONE: Self = Self([0; 16]);

    pub fn of_event(pointer: &Pointer) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[2]);
        hasher.update(pointer.key.system.as_bytes());
        hasher.update(pointer.key.process.as_bytes());
        hasher.update(&pointer.key.clock.to_be_bytes());
        hasher.update(&pointer.digest);
        Self::cut(&hasher)
    }

    pub fn of_bytes(bytes: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[3]);
        hasher.update(bytes);
        Self::cut(&hasher)
    }

    fn cut(hasher: &blake3::Hasher) -> Self {
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        Self(bytes)
    }

    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// SHA-256 of an event's bytes.
pub fn digest(event: &[u8]) -> [u8; 32] {
    Sha256::digest(event).into()
}

/// Reads a message.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn decode_message<M: Message + Default>(bytes: Bytes) -> Result<M, WireError> {
    decode(bytes)
}

pub(super) fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, WireError> {
    M::decode(bytes).map_err(|_| WireError::Malformed)
}

/// Refuses what a signed column could not hold.
pub(super) fn bounded(what: &'static str, number: u64) -> Result<u64, WireError> {
    if number <= MAX_NUMBER { Ok(number) } else { Err(WireError::TooGreat(what)) }
}
