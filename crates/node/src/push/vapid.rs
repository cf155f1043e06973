//! The relay's proof towards push services (RFC 8292): one P-256 key, made when it is first needed.

use std::{io, path::Path};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::json;

use crate::identity::write_secret;

/// How long a proof holds; the standard allows a day.
const HOLDS_S: u64 = 12 * 3_600;

/// The key and its public half as browsers want it.
pub struct VapidKey {
    pair: EcdsaKeyPair,
    public: String,
    random: SystemRandom,
}

impl std::fmt::Debug for VapidKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VapidKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("it is no P-256 key in PKCS#8; remove it, and devices subscribe anew")]
    Form,
    #[error("the system gives no randomness")]
    Random,
}

impl VapidKey {
    /// Reads the key, or makes it.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
                    .map_err(|_| KeyError::Random)?;
                write_secret(path, made.as_ref())?;
                made.as_ref().to_vec()
            }
            Err(error) => return Err(error.into()),
        };
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &bytes, &random)
            .map_err(|_| KeyError::Form)?;
        let public = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        Ok(Self { pair, public, random })
    }

    pub fn public(&self) -> &str {
        &self.public
    }

    /// The `Authorization` for one push service.
    pub fn proof(&self, origin: &str, contact: &str, now_s: u64) -> Result<String, KeyError> {
        let head = URL_SAFE_NO_PAD.encode(json!({ "typ": "JWT", "alg": "ES256" }).to_string());
        let claims = json!({ "aud": origin, "exp": now_s + HOLDS_S, "sub": contact });
        let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature =
            self.pair.sign(&self.random, signed.as_bytes()).map_err(|_| KeyError::Random)?;
        let signature = URL_SAFE_NO_PAD.encode(signature.as_ref());
        Ok(format!("vapid t={signed}.{signature}, k={}", self.public))
    }
}
