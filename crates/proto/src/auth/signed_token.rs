//! `sat1.<P>.<S>`: a token that the key holder makes offline, for clients that are just handed a
//! string (`gateway.md` 3.2).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{DeviceId, proof::parse_signature, strict};
use crate::{
    event::SigningKey,
    key::{NodeId, parse_hex},
};

/// How far ahead of the relay's clock a token may be dated.
const MAX_AHEAD_MS: u64 = 120_000;
/// Characters of `P`; the members are all short.
const MAX_CLAIM_CHARS: usize = 4096;

/// What the token says. Times are unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub v: u64,
    /// Whose token it is, and by whose key it is signed.
    pub sub: NodeId,
    /// The relay that it is for.
    pub aud: String,
    pub dev: DeviceId,
    pub iat: u64,
    pub exp: u64,
    /// Names the token, so that it can be revoked; 1 to 64 bytes.
    pub jti: String,
    /// Hex SHA-256 of the device credential that has to come with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crd: Option<String>,
}

/// What the token is held against.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    pub gateway_id: &'a str,
    /// The device that starts a session with it.
    pub device: &'a DeviceId,
    /// Hash of the credential that was presented; of the empty text where none was.
    pub credential_hash: &'a [u8; 32],
    pub max_ttl_ms: u64,
    pub now_ms: u64,
}

/// Why a token is not accepted. Clients learn only that it was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignedTokenError {
    #[error("the signature does not verify under sub")]
    Signature,
    #[error("unknown version")]
    Version,
    #[error("made for another relay")]
    Audience,
    #[error("made for another device")]
    Device,
    #[error("dated ahead of the clock")]
    NotYet,
    #[error("expired")]
    Expired,
    #[error("valid for longer than allowed")]
    TooLong,
    #[error("the device credential is another one")]
    Credential,
}

/// A token whose shape is right. Nothing that it says is true before [`SignedToken::check`].
#[derive(Clone)]
pub struct SignedToken {
    claims: Claims,
    /// What was signed.
    message: Vec<u8>,
    signature: [u8; 64],
}

impl SignedToken {
    pub const PREFIX: &str = "sat1.";

    /// Reads the text; `None` where it is malformed, its JSON repeats a member, or a time is no
    /// integer.
    pub fn parse(text: &str) -> Option<Self> {
        let (payload, signature) = text.strip_prefix(Self::PREFIX)?.split_once('.')?;
        if payload.len() > MAX_CLAIM_CHARS {
            return None;
        }
        let signature = parse_signature(signature)?;
        let json = URL_SAFE_NO_PAD.decode(payload).ok()?;
        let claims: Claims = strict::from_slice(&json).ok()?;
        (1..=64).contains(&claims.jti.len()).then(|| Self {
            claims,
            message: signed_bytes(payload),
            signature,
        })
    }

    /// What the token says, if `user` signed it as its own; for revoking it, in force or not.
    pub fn claims_of(&self, user: &NodeId) -> Option<&Claims> {
        let own = self.claims.sub == *user && user.verifies(&self.message, &self.signature);
        own.then_some(&self.claims)
    }

    /// What the token says, once it is shown to be true here and now.
    ///
    /// The caller still asks whether `jti` was revoked and whether `iat` lies before the user's
    /// `tokens_not_before`.
    ///
    /// # Errors
    /// [`SignedTokenError`], the first that applies.
    pub fn check(&self, expected: &Expected<'_>) -> Result<&Claims, SignedTokenError> {
        use SignedTokenError as Error;
        let claims = &self.claims;
        if !claims.sub.verifies(&self.message, &self.signature) {
            return Err(Error::Signature);
        }
        if claims.v != 1 {
            return Err(Error::Version);
        }
        if claims.aud != expected.gateway_id {
            return Err(Error::Audience);
        }
        if claims.dev != *expected.device {
            return Err(Error::Device);
        }
        if claims.iat > expected.now_ms.saturating_add(MAX_AHEAD_MS) {
            return Err(Error::NotYet);
        }
        if claims.exp <= expected.now_ms || claims.exp <= claims.iat {
            return Err(Error::Expired);
        }
        if claims.exp - claims.iat > expected.max_ttl_ms {
            return Err(Error::TooLong);
        }
        let credential_fits = claims
            .crd
            .as_deref()
            .is_none_or(|hex| parse_hex(hex).as_ref() == Some(expected.credential_hash));
        if !credential_fits {
            return Err(Error::Credential);
        }
        Ok(claims)
    }
}

impl std::fmt::Debug for SignedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The whole text is a bearer's secret; what it is about is not.
        f.debug_struct("SignedToken").field("sub", &self.claims.sub).finish_non_exhaustive()
    }
}

impl Claims {
    /// Makes the token: what the key holder does.
    pub fn sign(&self, key: &SigningKey) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        let payload = URL_SAFE_NO_PAD.encode(json);
        let signature = URL_SAFE_NO_PAD.encode(key.sign(&signed_bytes(&payload)));
        format!("{}{payload}.{signature}", SignedToken::PREFIX)
    }
}

fn signed_bytes(payload: &str) -> Vec<u8> {
    format!("relay-gateway-token-v1\n{payload}").into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::credential_hash;

    const NOW: u64 = 1_767_000_000_000;
    const DAY: u64 = 86_400_000;

    fn key() -> SigningKey {
        SigningKey::from_seed([3; 32])
    }

    fn claims() -> Claims {
        Claims {
            v: 1,
            sub: key().node_id(),
            aud: "gw_local".into(),
            dev: DeviceId::new("d_laptop1").unwrap(),
            iat: NOW - 1000,
            exp: NOW + DAY,
            jti: "q0Lr".into(),
            crd: None,
        }
    }

    fn outcome(text: &str) -> Result<(), SignedTokenError> {
        let device = DeviceId::new("d_laptop1").unwrap();
        let expected = Expected {
            gateway_id: "gw_local",
            device: &device,
            credential_hash: &credential_hash(Some("cred")),
            max_ttl_ms: 30 * DAY,
            now_ms: NOW,
        };
        SignedToken::parse(text).unwrap().check(&expected).map(|_| ())
    }

    #[test]
    fn each_rule_refuses_by_itself() {
        use SignedTokenError as Error;
        let with = |change: fn(&mut Claims)| {
            let mut claims = claims();
            change(&mut claims);
            outcome(&claims.sign(&key()))
        };
        assert_eq!(with(|_| ()), Ok(()));
        assert_eq!(with(|c| c.v = 2), Err(Error::Version));
        assert_eq!(with(|c| c.aud = "gw_other".into()), Err(Error::Audience));
        assert_eq!(with(|c| c.dev = DeviceId::new("d2").unwrap()), Err(Error::Device));
        assert_eq!(with(|c| c.iat = NOW + 120_000), Ok(()));
        assert_eq!(with(|c| c.iat = NOW + 120_001), Err(Error::NotYet));
        assert_eq!(with(|c| c.exp = NOW), Err(Error::Expired));
        assert_eq!(with(|c| (c.iat, c.exp) = (NOW + 9, NOW + 9)), Err(Error::Expired));
        assert_eq!(with(|c| c.exp = c.iat + 30 * DAY), Ok(()));
        assert_eq!(with(|c| c.exp = c.iat + 30 * DAY + 1), Err(Error::TooLong));
        assert_eq!(with(|c| c.crd = Some(hex::encode(credential_hash(Some("cred"))))), Ok(()));
        assert_eq!(
            with(|c| c.crd = Some(hex::encode(credential_hash(None)))),
            Err(Error::Credential)
        );
        assert_eq!(with(|c| c.crd = Some("x".into())), Err(Error::Credential));
    }

    #[test]
    fn another_key_cannot_speak_for_the_user() {
        let forged = claims().sign(&SigningKey::from_seed([4; 32]));
        assert_eq!(outcome(&forged), Err(SignedTokenError::Signature));
    }

    #[test]
    fn the_json_is_read_strictly() {
        let sign = |json: &str| {
            let payload = URL_SAFE_NO_PAD.encode(json);
            let signature = URL_SAFE_NO_PAD.encode(key().sign(&signed_bytes(&payload)));
            SignedToken::parse(&format!("sat1.{payload}.{signature}"))
        };
        let plain = serde_json::to_string(&claims()).unwrap();
        assert!(sign(&plain).is_some());
        assert!(sign(&plain.replacen('{', "{\"extra\":[],", 1)).is_some());
        assert!(sign(&plain.replacen('{', "{\"v\":1,", 1)).is_none());
        assert!(sign(&plain.replacen('{', "{\"x\":1,\"x\":1,", 1)).is_none());
        assert!(sign(&plain.replace("\"v\":1", "\"v\":true")).is_none());
        assert!(sign(&plain.replace("\"v\":1", "\"v\":1.0")).is_none());
        assert!(sign(&plain.replace("q0Lr", "")).is_none());
    }

    proptest! {
        #[test]
        fn a_changed_character_is_never_accepted(at in 0usize..400, to in "[A-Za-z0-9_.-]") {
            let text = claims().sign(&key());
            let at = at % text.len();
            let mut changed = text.clone();
            changed.replace_range(at..=at, &to);
            prop_assume!(changed != text);
            if SignedToken::parse(&changed).is_some() {
                prop_assert!(outcome(&changed).is_err());
            }
        }
    }
}
