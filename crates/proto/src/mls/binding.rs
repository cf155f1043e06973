//! The device binding: the 132 bytes of a leaf's identity (`mls-profile.md` 3).

use crate::{NodeId, key::KeyError};

/// Length of an identity.
pub const IDENTITY_BYTES: usize = 132;
/// How early a binding may be used, seconds: clocks differ.
pub(super) const EARLY_S: u64 = 300;

const HEAD: [u8; 4] = *b"RLY\x01";
const LABEL: &[u8; 27] = b"relay-mls/1 device-binding\0";

/// A binding whose signature holds for the leaf that carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceBinding {
    pub user: NodeId,
    pub device: [u8; 16],
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds, exclusive.
    pub not_after: u64,
}

/// Why an identity binds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    #[error("an identity has 132 bytes and begins with 'RLY' and 1")]
    Form,
    #[error("the user key of the identity is refused: {0}")]
    User(KeyError),
    #[error("the binding's time is empty")]
    Times,
    #[error("the user did not sign this binding for this leaf")]
    Signature,
    #[error("the binding does not hold now")]
    NotNow,
}

impl DeviceBinding {
    /// Reads the identity of a leaf with this signature key and checks that the user made it for that key.
    ///
    /// # Errors
    /// [`BindingError`], except [`BindingError::NotNow`].
    pub fn verify(identity: &[u8], leaf_key: &[u8; 32]) -> Result<Self, BindingError> {
        let identity: &[u8; IDENTITY_BYTES] =
            identity.try_into().map_err(|_| BindingError::Form)?;
        let (head, rest) = identity.split_at(4);
        if head != HEAD {
            return Err(BindingError::Form);
        }
        let (user, rest) = take::<32>(rest)?;
        let (device, rest) = take::<16>(rest)?;
        let (not_before, rest) = take::<8>(rest)?;
        let (not_after, rest) = take::<8>(rest)?;
        let (signature, _) = take::<64>(rest)?;
        let user = NodeId::from_bytes(user).map_err(BindingError::User)?;
        let binding = Self {
            user,
            device,
            not_before: u64::from_be_bytes(not_before),
            not_after: u64::from_be_bytes(not_after),
        };
        // Who makes a binding keeps it to 400 days (profile, section 3); the reference vectors have longer ones
        // that hold, so length alone is no reason to refuse one.
        if binding.not_after <= binding.not_before {
            return Err(BindingError::Times);
        }
        if !user.verifies(&binding.to_be_signed(leaf_key), &signature) {
            return Err(BindingError::Signature);
        }
        Ok(binding)
    }

    /// Whether it holds at `now_s` (unix seconds).
    ///
    /// # Errors
    /// [`BindingError::NotNow`].
    pub fn check_time(&self, now_s: u64) -> Result<(), BindingError> {
        let begun = self.not_before.saturating_sub(EARLY_S) <= now_s;
        if begun && now_s < self.not_after { Ok(()) } else { Err(BindingError::NotNow) }
    }

    /// What the user signs for a leaf with this signature key.
    pub fn to_be_signed(&self, leaf_key: &[u8; 32]) -> Vec<u8> {
        let mut out = Vec::with_capacity(123);
        out.extend_from_slice(LABEL);
        out.extend_from_slice(self.user.as_bytes());
        out.extend_from_slice(&self.device);
        out.extend_from_slice(leaf_key);
        out.extend_from_slice(&self.not_before.to_be_bytes());
        out.extend_from_slice(&self.not_after.to_be_bytes());
        out
    }

    /// The identity with the user's signature over [`Self::to_be_signed`].
    pub fn identity(&self, signature: &[u8; 64]) -> [u8; IDENTITY_BYTES] {
        let mut out = [0; IDENTITY_BYTES];
        let not_before = self.not_before.to_be_bytes();
        let not_after = self.not_after.to_be_bytes();
        let parts: [&[u8]; 6] =
            [&HEAD, self.user.as_bytes(), &self.device, &not_before, &not_after, signature];
        let mut at = 0;
        for part in parts {
            out[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        out
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), BindingError> {
    bytes.split_first_chunk().map(|(taken, rest)| (*taken, rest)).ok_or(BindingError::Form)
}
