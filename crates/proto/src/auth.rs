//! Who is asking: the pure rules of authentication (`common.md`, Authentication; `gateway.md` 3, 4).
//!
//! - [`token`]: opaque random tokens that never show themselves, and their hashes
//! - [`challenge`]: what a client signs to prove that it holds a key
//! - [`signed_token`]: tokens that the key holder makes offline (`sat1.`)
//! - [`proof`]: the three forms of `auth_token` in one parser
//! - [`grant`]: a user's leave for another relay to speak for it
//! - [`request`]: the signed HTTP request of tools that keep no session
//! - [`identity`]: user, device and label as clients write them
//!
//! Time and randomness are handed in. What was already used up (challenges, tokens) is kept by
//! the caller; only [`request::ReplayGuard`] keeps a bounded memory of its own.

pub mod challenge;
pub mod grant;
pub mod identity;
pub mod proof;
pub mod request;
pub mod signed_token;
pub mod token;

mod strict;

pub use challenge::{Challenge, ChallengeId};
pub use grant::{GrantClaims, GrantError, verify_grant};
pub use identity::{ClientLabel, DeviceId, fold_user_id};
pub use proof::AuthProof;
pub use request::{ReplayGuard, RequestError, SignedRequest};
pub use signed_token::{SignedToken, SignedTokenError};
pub use token::{AuthToken, OperatorToken, ResumeToken, SessionId, SessionToken, TokenHash};

/// SHA-256 of the text of a device credential; of the empty text where there is none.
pub fn credential_hash(credential: Option<&str>) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(credential.unwrap_or("")).into()
}
