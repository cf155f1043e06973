//! The field `auth_token` of `session.start`: one of three proofs (`gateway.md` 3).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{AuthToken, ChallengeId, SignedToken};

/// A proof whose shape is right, not yet checked.
#[derive(Debug, Clone)]
pub enum AuthProof {
    /// `cr1.<challenge_id>.<sig>`: the answer to a challenge.
    Answer { challenge: ChallengeId, signature: [u8; 64] },
    /// `at_…`: handed out for an answer earlier.
    Minted(AuthToken),
    /// `sat1.<P>.<S>`: made offline by the key holder.
    Signed(Box<SignedToken>),
}

impl AuthProof {
    /// Reads any of the three forms, each with or without a leading `Bearer `.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix("Bearer ").unwrap_or(text);
        if let Some(answer) = text.strip_prefix("cr1.") {
            let (challenge, signature) = answer.split_once('.')?;
            return Some(Self::Answer {
                challenge: ChallengeId::parse(challenge)?,
                signature: parse_signature(signature)?,
            });
        }
        if text.starts_with(SignedToken::PREFIX) {
            return SignedToken::parse(text).map(Box::new).map(Self::Signed);
        }
        AuthToken::parse(text).map(Self::Minted)
    }
}

/// An Ed25519 signature in base64url.
pub fn parse_signature(text: &str) -> Option<[u8; 64]> {
    if text.len() != 86 {
        return None;
    }
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_core::OsRng;

    use super::*;

    #[test]
    fn three_forms_with_or_without_bearer() {
        let minted = AuthToken::generate(&mut OsRng).reveal();
        let answer = format!("cr1.ch_{}.{}", "A".repeat(22), "A".repeat(86));
        for lead in ["", "Bearer "] {
            assert!(matches!(
                AuthProof::parse(&format!("{lead}{}", minted.as_str())),
                Some(AuthProof::Minted(_))
            ));
            assert!(matches!(
                AuthProof::parse(&format!("{lead}{answer}")),
                Some(AuthProof::Answer { .. })
            ));
        }
    }

    #[test]
    fn a_bare_key_or_name_is_no_proof() {
        let key = format!("ed25519:{}", "ab".repeat(32));
        for text in ["", "alice", "Bearer ", "cr1.", "cr1..", "sat1.", "sat1..", "at_", &key] {
            assert!(AuthProof::parse(text).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "(Bearer )?(cr1\\.|sat1\\.|at_)?[A-Za-z0-9_.-]{0,200}|\\PC{0,80}") {
            let _ = AuthProof::parse(&text);
        }
    }
}
