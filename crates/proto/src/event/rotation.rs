//! Key rotation events (kind 10100): the old key names the new one, which proves that it agrees.

use ed25519_zebra::{Signature, VerificationKey};
use serde::Deserialize;

use super::{Event, reserved};
use crate::{
    error::Problem,
    key::{NodeId, parse_hex},
};

/// `old` hands everything it may do to `new`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    pub old: NodeId,
    pub new: NodeId,
}

/// Why a kind-10100 event is no rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    #[error("a rotation has exactly one tag [\"delegate\", new key]")]
    Delegate,
    #[error("a key cannot rotate to itself")]
    Itself,
    #[error("the content is {{\"proof\": hex signature by the new key}}")]
    Form,
    #[error("the proof does not verify under the new key")]
    Proof,
}

impl From<RotationError> for Problem {
    fn from(error: RotationError) -> Self {
        Self::invalid(error.to_string())
    }
}

/// What the new key signs.
pub fn rotation_text(old: &NodeId, new: &NodeId, created_at_ns: u64) -> String {
    format!("relay-key-rotation-v1\n{old}\n{new}\n{created_at_ns}")
}

/// Reads and proves the rotation in `event`; `None` for events of other kinds.
///
/// # Errors
/// [`RotationError`].
pub fn rotation_of(event: &Event) -> Result<Option<Rotation>, RotationError> {
    #[derive(Deserialize)]
    struct Content {
        proof: String,
    }
    if event.kind() != reserved::KEY_ROTATION {
        return Ok(None);
    }
    let mut delegates = event.tags().values("delegate");
    let (Some(new), None) = (delegates.next(), delegates.next()) else {
        return Err(RotationError::Delegate);
    };
    let new: NodeId = new.parse().map_err(|_| RotationError::Delegate)?;
    let old = event.pubkey();
    if old == new {
        return Err(RotationError::Itself);
    }
    let content: Content =
        serde_json::from_str(&event.content()).map_err(|_| RotationError::Form)?;
    let proof: [u8; 64] = parse_hex(&content.proof).ok_or(RotationError::Form)?;
    let text = rotation_text(&old, &new, event.created_at_ns());
    VerificationKey::try_from(*new.as_bytes())
        .and_then(|key| key.verify(&Signature::from(proof), text.as_bytes()))
        .map_err(|_| RotationError::Proof)?;
    Ok(Some(Rotation { old, new }))
}
