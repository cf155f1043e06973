//! Challenges: the relay asks for a signature over something that nobody could know before
//! (`gateway.md` 3.1).

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand_core::{CryptoRng, RngCore};

use super::DeviceId;
use crate::key::NodeId;

/// How long an answer may take.
pub const CHALLENGE_TTL_MS: u64 = 60_000;

/// Names one challenge: `ch_` and 22 characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChallengeId([u8; 16]);

impl ChallengeId {
    pub fn parse(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix("ch_").filter(|encoded| encoded.len() == 22)?;
        URL_SAFE_NO_PAD.decode(encoded).ok()?.try_into().ok().map(Self)
    }
}

impl fmt::Display for ChallengeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ch_{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// A question asked of one user and device. The caller takes it out of its pool before it checks
/// an answer, right or wrong.
#[derive(Debug, Clone)]
pub struct Challenge {
    pub id: ChallengeId,
    /// 32 random bytes in base64url.
    pub text: String,
    pub user: NodeId,
    pub device: DeviceId,
    pub expires_at_ms: u64,
}

impl Challenge {
    pub fn generate<R: RngCore + CryptoRng>(
        rng: &mut R,
        user: NodeId,
        device: DeviceId,
        now_ms: u64,
    ) -> Self {
        let (mut id, mut bytes) = ([0; 16], [0; 32]);
        rng.fill_bytes(&mut id);
        rng.fill_bytes(&mut bytes);
        Self {
            id: ChallengeId(id),
            text: URL_SAFE_NO_PAD.encode(bytes),
            user,
            device,
            expires_at_ms: now_ms.saturating_add(CHALLENGE_TTL_MS),
        }
    }

    /// The bytes that the client signs. The user stands in its canonical text, whichever form
    /// the client asked with.
    pub fn signed_text(&self, gateway_id: &str, credential_hash: &[u8; 32]) -> String {
        format!(
            "relay-gateway-auth-v1\n{gateway_id}\n{}\n{}\n{}\n{}\n{}",
            self.user,
            self.device,
            self.id,
            self.text,
            hex::encode(credential_hash)
        )
    }

    /// Whether `signature` answers this challenge, in time, for this relay and credential.
    pub fn is_answered(
        &self,
        gateway_id: &str,
        credential_hash: &[u8; 32],
        signature: &[u8; 64],
        now_ms: u64,
    ) -> bool {
        now_ms < self.expires_at_ms
            && self
                .user
                .verifies(self.signed_text(gateway_id, credential_hash).as_bytes(), signature)
    }
}

#[cfg(test)]
mod tests {
    use rand_core::OsRng;

    use super::*;
    use crate::{auth::credential_hash, event::SigningKey};

    fn ask(key: &SigningKey) -> Challenge {
        let device = DeviceId::new("d_laptop1").unwrap();
        Challenge::generate(&mut OsRng, key.node_id(), device, 1_000)
    }

    #[test]
    fn the_signed_bytes_are_those_of_the_specification() {
        let key = SigningKey::from_seed([1; 32]);
        let challenge = ask(&key);
        let expected = [
            "relay-gateway-auth-v1",
            "gw_local",
            &key.node_id().to_string(),
            "d_laptop1",
            &challenge.id.to_string(),
            &challenge.text,
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ]
        .join("\n");
        assert_eq!(challenge.signed_text("gw_local", &credential_hash(None)), expected);
        assert_eq!(challenge.text.len(), 43);
        assert_eq!(ChallengeId::parse(&challenge.id.to_string()), Some(challenge.id));
    }

    #[test]
    fn only_the_holder_in_time_for_this_relay_and_credential_answers() {
        let key = SigningKey::from_seed([1; 32]);
        let challenge = ask(&key);
        let none = credential_hash(None);
        let sig = key.sign(challenge.signed_text("gw_local", &none).as_bytes());
        let answered = |gateway: &str, credential: &[u8; 32], sig: &[u8; 64], now_ms| {
            challenge.is_answered(gateway, credential, sig, now_ms)
        };
        assert!(answered("gw_local", &none, &sig, 60_999));
        assert!(!answered("gw_local", &none, &sig, 61_000), "late");
        assert!(!answered("gw_other", &none, &sig, 2_000), "passed on by a relay in the middle");
        assert!(!answered("gw_local", &credential_hash(Some("c")), &sig, 2_000));
        let text = challenge.signed_text("gw_local", &none);
        let other = SigningKey::from_seed([2; 32]).sign(text.as_bytes());
        assert!(!answered("gw_local", &none, &other, 2_000));
    }
}
