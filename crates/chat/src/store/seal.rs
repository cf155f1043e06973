//! How a value lies on the disk: XChaCha20-Poly1305 under the profile's data key, bound to the place that it lies in.
//!
//! The data key is random and never leaves the file unsealed: it is wrapped by a key made from a passphrase (scrypt) or
//! read from a key file. Nonces are random; with 192 bits they may be for as long as anybody writes messages.

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, StateError};

const NONCE: usize = 24;
/// scrypt's cost: 2^15 blocks of 1 KiB, about a tenth of a second on a laptop.
const LOG_N: u8 = 15;
const SALT: usize = 16;

/// What opens the local state.
#[derive(Clone)]
pub enum Unlock {
    /// A passphrase that a person types.
    Passphrase(Zeroizing<String>),
    /// 32 bytes out of a key file or a keyring.
    Key(Zeroizing<[u8; 32]>),
}

impl std::fmt::Debug for Unlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase(…)",
            Self::Key(_) => "Key(…)",
        })
    }
}

/// The keys of an open profile.
pub(crate) struct Keys {
    cipher: XChaCha20Poly1305,
    /// Keys the hashes that stand in for names in columns that are looked up.
    tags: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(…)")
    }
}

/// The wrapped data key as it lies in the file, readable by all versions to come.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Wrapped {
    /// `None` where a key wraps it, else scrypt's cost and salt.
    scrypt: Option<(u8, Vec<u8>)>,
    sealed: Vec<u8>,
}

impl Wrapped {
    /// Whether a passphrase is needed.
    pub fn needs_passphrase(&self) -> bool {
        self.scrypt.is_some()
    }
}

impl Keys {
    /// Keys of a new profile, and what is kept of them.
    pub fn generate(unlock: &Unlock) -> Result<(Self, Wrapped), Error> {
        let data = Zeroizing::new(random::<32>()?);
        let wrapped = wrap(&data, unlock)?;
        Ok((Self::of(&data), wrapped))
    }

    /// The keys of a profile that is there.
    pub fn unwrap(wrapped: &Wrapped, unlock: &Unlock) -> Result<Self, Error> {
        let data = unwrap(wrapped, unlock)?;
        Ok(Self::of(&data))
    }

    fn of(data: &[u8; 32]) -> Self {
        let mut sealing = blake3::derive_key("relay-chat 2026 local state: values", data);
        let cipher = XChaCha20Poly1305::new(&sealing.into());
        sealing.zeroize();
        let tags = Zeroizing::new(blake3::derive_key("relay-chat 2026 local state: names", data));
        Self { cipher, tags }
    }

    /// Seals a value for a place.
    pub fn seal(&self, place: &[u8], value: &[u8]) -> Result<Vec<u8>, Error> {
        seal(&self.cipher, place, value)
    }

    /// Opens what was sealed for this place.
    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        open(&self.cipher, place, sealed).ok_or(Error::State(StateError::Damaged))
    }

    /// What stands in a column for a name: the same for the same name, and telling nothing else.
    pub fn tag(&self, kind: &str, name: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.tags);
        hasher.update(kind.as_bytes());
        hasher.update(&[0]);
        hasher.update(name);
        let mut tag = [0; 16];
        hasher.finalize_xof().fill(&mut tag);
        tag
    }
}

/// Wraps the same data key anew.
pub(crate) fn rewrap(wrapped: &Wrapped, old: &Unlock, new: &Unlock) -> Result<Wrapped, Error> {
    wrap(&*unwrap(wrapped, old)?, new)
}

fn wrap(data: &[u8; 32], unlock: &Unlock) -> Result<Wrapped, Error> {
    let scrypt = match unlock {
        Unlock::Passphrase(_) => Some((LOG_N, random::<SALT>()?.to_vec())),
        Unlock::Key(_) => None,
    };
    let key = wrapping_key(scrypt.as_ref(), unlock)?;
    let cipher = XChaCha20Poly1305::new((&*key).into());
    Ok(Wrapped { scrypt, sealed: seal(&cipher, b"data key", data)? })
}

fn unwrap(wrapped: &Wrapped, unlock: &Unlock) -> Result<Zeroizing<[u8; 32]>, Error> {
    let key = wrapping_key(wrapped.scrypt.as_ref(), unlock)?;
    let cipher = XChaCha20Poly1305::new((&*key).into());
    let wrong = match unlock {
        Unlock::Passphrase(_) => StateError::WrongPassphrase,
        Unlock::Key(_) => StateError::WrongKey,
    };
    let data = open(&cipher, b"data key", &wrapped.sealed).ok_or(Error::State(wrong))?;
    let data: [u8; 32] =
        data.as_slice().try_into().map_err(|_| Error::State(StateError::Damaged))?;
    Ok(Zeroizing::new(data))
}

fn wrapping_key(
    scrypt: Option<&(u8, Vec<u8>)>,
    unlock: &Unlock,
) -> Result<Zeroizing<[u8; 32]>, Error> {
    match (scrypt, unlock) {
        (None, Unlock::Key(key)) => Ok(key.clone()),
        (Some((log_n, salt)), Unlock::Passphrase(passphrase)) => {
            let damaged = || Error::State(StateError::Damaged);
            // A file that asks for more memory than this was tampered with.
            if *log_n > 20 {
                return Err(damaged());
            }
            let params = scrypt::Params::new(*log_n, 8, 1, 32).map_err(|_| damaged())?;
            let mut key = Zeroizing::new([0; 32]);
            scrypt::scrypt(passphrase.as_bytes(), salt, &params, &mut *key)
                .map_err(|_| damaged())?;
            Ok(key)
        }
        (Some(_), Unlock::Key(_)) => Err(Error::State(StateError::NeedsPassphrase)),
        (None, Unlock::Passphrase(_)) => Err(Error::State(StateError::NeedsKey)),
    }
}

fn seal(cipher: &XChaCha20Poly1305, place: &[u8], value: &[u8]) -> Result<Vec<u8>, Error> {
    let nonce = random::<NONCE>()?;
    let mut out = Vec::with_capacity(NONCE + value.len() + 16);
    out.extend_from_slice(&nonce);
    let sealed = cipher
        .encrypt(XNonce::from_slice(&nonce), Payload { msg: value, aad: place })
        .map_err(|_| Error::State(StateError::TooLarge))?;
    out.extend_from_slice(&sealed);
    Ok(out)
}

fn open(cipher: &XChaCha20Poly1305, place: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE)?;
    let opened =
        cipher.decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: place }).ok()?;
    Some(Zeroizing::new(opened))
}

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| Error::State(StateError::Random))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Unlock {
        Unlock::Key(Zeroizing::new([byte; 32]))
    }

    #[test]
    fn what_is_sealed_for_one_place_opens_nowhere_else() {
        let (keys, wrapped) = Keys::generate(&key(1)).unwrap();
        let sealed = keys.seal(b"here", b"secret").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        let again = Keys::unwrap(&wrapped, &key(1)).unwrap();
        assert_eq!(again.open(b"here", &sealed).unwrap().as_slice(), b"secret");
        assert!(keys.open(b"there", &sealed).is_err());
        assert_eq!(again.tag("conv", b"x"), keys.tag("conv", b"x"));
        assert_ne!(keys.tag("conv", b"x"), keys.tag("user", b"x"));
    }

    #[test]
    fn a_wrong_key_or_passphrase_is_called_so() {
        let (_, by_key) = Keys::generate(&key(1)).unwrap();
        assert!(matches!(Keys::unwrap(&by_key, &key(2)), Err(Error::State(StateError::WrongKey))));
        let phrase = |text: &str| Unlock::Passphrase(Zeroizing::new(text.to_owned()));
        assert!(matches!(
            Keys::unwrap(&by_key, &phrase("x")),
            Err(Error::State(StateError::NeedsKey))
        ));
        let by_phrase = rewrap(&by_key, &key(1), &phrase("right")).unwrap();
        assert!(by_phrase.needs_passphrase() && Keys::unwrap(&by_phrase, &phrase("right")).is_ok());
        assert!(matches!(
            Keys::unwrap(&by_phrase, &phrase("wrong")),
            Err(Error::State(StateError::WrongPassphrase))
        ));
        assert!(matches!(
            Keys::unwrap(&by_phrase, &key(1)),
            Err(Error::State(StateError::NeedsPassphrase))
        ));
    }
}
