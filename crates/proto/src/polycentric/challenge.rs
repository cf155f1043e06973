//! The challenge that proves who may purge a system (`polycentric.md` 6.10): stateless but for single use, which
//! whoever keeps the used ones has to see to.

use bytes::Bytes;
use hmac::{Hmac, Mac};
use prost::Message;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::{
    id::{SystemKey, decode},
    message::{HarborChallengeResponse, HarborChallengeResponseBody, HarborValidateRequest},
};

/// How long a challenge may be answered, milliseconds.
pub const CHALLENGE_MAX_AGE_MS: u64 = 5 * 60 * 1_000;

/// Why an answer to a challenge does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    #[error("the request cannot be decoded")]
    Malformed,
    #[error("the signature is not the system's over the challenge")]
    Signature,
    #[error("the challenge is not this relay's")]
    Foreign,
    #[error("the challenge is too old")]
    Expired,
}

/// A challenge of this relay over 32 random bytes.
pub fn make_challenge(secret: &[u8], random: [u8; 32], now_ms: u64) -> HarborChallengeResponse {
    let body = HarborChallengeResponseBody {
        challenge: Bytes::copy_from_slice(&random),
        created_on: now_ms,
    };
    let body: Bytes = body.encode_to_vec().into();
    let hmac = Bytes::copy_from_slice(&mac_of(secret, &body));
    HarborChallengeResponse { body, hmac }
}

/// Whom the request speaks for, and the challenge that it uses up.
///
/// # Errors
/// [`ChallengeError`], the signature first.
pub fn check_challenge(
    secret: &[u8],
    request: &HarborValidateRequest,
    now_ms: u64,
) -> Result<(SystemKey, [u8; 32]), ChallengeError> {
    let malformed = ChallengeError::Malformed;
    let given = request.challenge.as_ref().ok_or(malformed)?;
    let body: HarborChallengeResponseBody = decode(given.body.clone()).map_err(|_| malformed)?;
    let challenge: [u8; 32] = body.challenge[..].try_into().map_err(|_| malformed)?;
    let system = SystemKey::required(request.system.as_ref()).map_err(|_| malformed)?;
    let signature: [u8; 64] =
        request.signature[..].try_into().map_err(|_| ChallengeError::Signature)?;
    if !system.verifies(&challenge, &signature) {
        return Err(ChallengeError::Signature);
    }
    if !bool::from(mac_of(secret, &given.body).ct_eq(&given.hmac)) {
        return Err(ChallengeError::Foreign);
    }
    // One made by this relay is never from the future, save for a clock that was set back.
    if now_ms.abs_diff(body.created_on) > CHALLENGE_MAX_AGE_MS {
        return Err(ChallengeError::Expired);
    }
    Ok((system, challenge))
}

fn mac_of(secret: &[u8], body: &[u8]) -> [u8; 32] {
    // HMAC takes keys of any length.
    let Ok(mut mac) = <Hmac<Sha256> as Mac>::new_from_slice(secret) else {
        unreachable!("HMAC refused a key")
    };
    mac.update(body);
    mac.finalize().into_bytes().into()
}
