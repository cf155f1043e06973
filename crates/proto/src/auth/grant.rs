//! `<P>.<S>`: a user's leave for one relay to speak for a device at the homes of what it asks for
//! (`gateway.md` 15, `federation.md` Homes).
//!
//! A home trusts the relay that forwards for transport only. The grant, signed by the user's key, says
//! which user and device that relay speaks for, and until when. It is no bearer's secret: it is worth
//! something only to the relay that it names.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{DeviceId, proof::parse_signature, strict};
use crate::{RelayId, event::SigningKey, key::NodeId};

/// The longest life of a grant.
pub const MAX_TTL_MS: u64 = 24 * 3_600_000;
/// How far ahead of the relay's clock a grant may be dated.
const MAX_AHEAD_MS: u64 = 120_000;
/// Characters of the whole text; the members are all short.
pub const MAX_CHARS: usize = 2048;

/// What a grant says. Times are unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantClaims {
    pub v: u64,
    /// Who grants, and by whose key it is signed.
    pub user_id: NodeId,
    pub device_id: DeviceId,
    /// The relay that may speak for the user.
    pub edge: RelayId,
    pub iat: u64,
    pub exp: u64,
}

/// Why a grant is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    #[error("the grant cannot be read")]
    Form,
    #[error("the grant is not signed by its user")]
    Signature,
    #[error("the grant has another version than 1")]
    Version,
    #[error("the grant is for another relay")]
    Edge,
    #[error("the grant is dated ahead of the clock")]
    NotYet,
    #[error("the grant has expired")]
    Expired,
    #[error("the grant is valid for more than 24 hours")]
    TooLong,
}

impl From<GrantError> for crate::Problem {
    fn from(error: GrantError) -> Self {
        Self::unauthorized(error.to_string())
    }
}

impl GrantClaims {
    /// A grant of `user_id` for `edge`, from `now_ms` for `ttl_ms` (at most [`MAX_TTL_MS`]).
    pub fn new(
        user_id: NodeId,
        device_id: DeviceId,
        edge: RelayId,
        now_ms: u64,
        ttl_ms: u64,
    ) -> Self {
        let exp = now_ms.saturating_add(ttl_ms.min(MAX_TTL_MS));
        Self { v: 1, user_id, device_id, edge, iat: now_ms, exp }
    }

    /// `P`: what stands before the dot.
    pub fn payload(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Makes the grant: what the key holder does.
    pub fn sign(&self, key: &SigningKey) -> String {
        let payload = self.payload();
        let signature = key.sign(&signed_bytes(&payload));
        join(&payload, &signature)
    }
}

/// What the user's key signs for the payload `P`.
pub fn signed_bytes(payload: &str) -> Vec<u8> {
    format!("relay-edge-grant-v1\n{payload}").into_bytes()
}

/// `P.S`.
pub fn join(payload: &str, signature: &[u8; 64]) -> String {
    format!("{payload}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// What a grant says, once it is shown to be true: signed by its user, for the relay `edge`, now.
///
/// # Errors
/// [`GrantError`], the first that applies.
pub fn verify_grant(text: &str, edge: &str, now_ms: u64) -> Result<GrantClaims, GrantError> {
    if text.len() > MAX_CHARS {
        return Err(GrantError::Form);
    }
    let (payload, signature) = text.split_once('.').ok_or(GrantError::Form)?;
    let signature = parse_signature(signature).ok_or(GrantError::Form)?;
    let json = URL_SAFE_NO_PAD.decode(payload).map_err(|_| GrantError::Form)?;
    let claims: GrantClaims = strict::from_slice(&json).map_err(|_| GrantError::Form)?;
    if !claims.user_id.verifies(&signed_bytes(payload), &signature) {
        return Err(GrantError::Signature);
    }
    if claims.v != 1 {
        return Err(GrantError::Version);
    }
    if claims.edge.as_str() != edge {
        return Err(GrantError::Edge);
    }
    if claims.iat > now_ms.saturating_add(MAX_AHEAD_MS) {
        return Err(GrantError::NotYet);
    }
    if claims.exp <= now_ms || claims.exp <= claims.iat {
        return Err(GrantError::Expired);
    }
    if claims.exp - claims.iat > MAX_TTL_MS {
        return Err(GrantError::TooLong);
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_767_000_000_000;

    fn key() -> SigningKey {
        SigningKey::from_seed([3; 32])
    }

    fn claims() -> GrantClaims {
        let device = DeviceId::new("d_laptop1").unwrap();
        GrantClaims::new(key().node_id(), device, "edge-a".parse().unwrap(), NOW, MAX_TTL_MS)
    }

    fn outcome(text: &str) -> Result<(), GrantError> {
        verify_grant(text, "edge-a", NOW).map(|_| ())
    }

    #[test]
    fn each_rule_refuses_by_itself() {
        let with = |change: fn(&mut GrantClaims)| {
            let mut claims = claims();
            change(&mut claims);
            outcome(&claims.sign(&key()))
        };
        assert_eq!(with(|_| ()), Ok(()));
        assert_eq!(with(|c| c.v = 2), Err(GrantError::Version));
        assert_eq!(with(|c| c.edge = "edge-b".parse().unwrap()), Err(GrantError::Edge));
        assert_eq!(with(|c| (c.iat, c.exp) = (NOW + 120_000, NOW + 120_001)), Ok(()));
        assert_eq!(
            with(|c| (c.iat, c.exp) = (NOW + 120_001, NOW + 120_002)),
            Err(GrantError::NotYet)
        );
        assert_eq!(with(|c| (c.iat, c.exp) = (NOW - 9, NOW)), Err(GrantError::Expired));
        assert_eq!(with(|c| (c.iat, c.exp) = (NOW + 9, NOW + 9)), Err(GrantError::Expired));
        assert_eq!(with(|c| c.exp += 1), Err(GrantError::TooLong));
    }

    #[test]
    fn another_key_cannot_grant_for_the_user() {
        let forged = claims().sign(&SigningKey::from_seed([4; 32]));
        assert_eq!(outcome(&forged), Err(GrantError::Signature));
    }

    #[test]
    fn no_other_signed_text_counts_as_a_grant() {
        let payload = claims().payload();
        let other = key().sign(format!("relay-gateway-token-v1\n{payload}").as_bytes());
        assert_eq!(outcome(&join(&payload, &other)), Err(GrantError::Signature));
    }

    #[test]
    fn the_json_is_read_strictly() {
        let sign = |json: &str| {
            let payload = URL_SAFE_NO_PAD.encode(json);
            outcome(&join(&payload, &key().sign(&signed_bytes(&payload))))
        };
        let plain = serde_json::to_string(&claims()).unwrap();
        assert_eq!(sign(&plain), Ok(()));
        assert_eq!(sign(&plain.replacen('{', "{\"extra\":[],", 1)), Ok(()));
        assert_eq!(sign(&plain.replacen('{', "{\"v\":1,", 1)), Err(GrantError::Form));
        assert_eq!(sign(&plain.replace("\"v\":1", "\"v\":1.0")), Err(GrantError::Form));
        assert_eq!(sign(&plain.replace("edge-a", "Edge A")), Err(GrantError::Form));
        assert_eq!(outcome(""), Err(GrantError::Form));
        assert_eq!(outcome(&"a".repeat(MAX_CHARS + 1)), Err(GrantError::Form));
    }

    proptest! {
        #[test]
        fn a_changed_character_is_never_accepted(at in 0usize..400, to in "[A-Za-z0-9_.-]") {
            let text = claims().sign(&key());
            let at = at % text.len();
            let mut changed = text.clone();
            changed.replace_range(at..=at, &to);
            prop_assume!(changed != text);
            prop_assert!(outcome(&changed).is_err());
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[A-Za-z0-9_.-]{0,300}|\\PC{0,80}") {
            prop_assert!(outcome(&text).is_err());
        }
    }
}
