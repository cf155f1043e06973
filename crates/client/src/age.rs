//! End-to-end encryption of event contents with age: to `ssh-ed25519` recipients made from keys, so
//! that `age -d -i ~/.ssh/id_ed25519` opens what is sealed here, and the other way round.

use std::io::{Read, Write};

use age::{
    Decryptor, Encryptor,
    armor::{ArmoredReader, ArmoredWriter, Format},
    ssh::{Identity, Recipient},
};
use relay_proto::{NodeId, SigningKey};

use crate::keys;

/// Why a text cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Nobody to seal it to.
    #[error("no recipient")]
    NoRecipient,
    /// The key is no point that age can encrypt to.
    #[error("{0} cannot be encrypted to")]
    Recipient(NodeId),
    /// It is sealed to other keys.
    #[error("not encrypted to this key")]
    NotForUs,
    /// The text is no age ciphertext, or was changed.
    #[error("no intact age ciphertext: {0}")]
    Damaged(String),
}

/// Encrypts to every recipient, as ASCII armour.
///
/// # Errors
/// [`SealError::NoRecipient`], [`SealError::Recipient`].
pub fn seal(plaintext: &[u8], recipients: &[NodeId]) -> Result<String, SealError> {
    let recipients: Vec<Recipient> = recipients
        .iter()
        .map(|id| keys::to_openssh_public(id, "").parse().map_err(|_| SealError::Recipient(*id)))
        .collect::<Result<_, _>>()?;
    let encryptor = Encryptor::with_recipients(recipients.iter().map(|r| r as &dyn age::Recipient))
        .map_err(|_| SealError::NoRecipient)?;
    let mut sealed = Vec::with_capacity(plaintext.len() * 3 / 2 + 1024);
    let written = ArmoredWriter::wrap_output(&mut sealed, Format::AsciiArmor)
        .and_then(|armor| encryptor.wrap_output(armor))
        .and_then(|mut writer| {
            writer.write_all(plaintext)?;
            writer.finish()?.finish()
        });
    written.map_err(|error| SealError::Damaged(error.to_string()))?;
    String::from_utf8(sealed).map_err(|error| SealError::Damaged(error.to_string()))
}

/// Decrypts what was sealed to `key`.
///
/// # Errors
/// [`SealError::NotForUs`], [`SealError::Damaged`].
pub fn open(ciphertext: &str, key: &SigningKey) -> Result<Vec<u8>, SealError> {
    let damaged = |error: &dyn std::fmt::Display| SealError::Damaged(error.to_string());
    let private = keys::to_openssh(key, "", None).map_err(|error| damaged(&error))?;
    let identity =
        Identity::from_buffer(private.as_bytes(), None).map_err(|error| damaged(&error))?;
    let decryptor = Decryptor::new_buffered(ArmoredReader::new(ciphertext.trim().as_bytes()))
        .map_err(|error| damaged(&error))?;
    let mut reader =
        decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)).map_err(|error| {
            match error {
                age::DecryptError::NoMatchingKeys => SealError::NotForUs,
                other => damaged(&other),
            }
        })?;
    let mut plaintext = Vec::new();
    reader.read_to_end(&mut plaintext).map_err(|error| damaged(&error))?;
    Ok(plaintext)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_each_recipient_and_no_other() {
        let [alice, bob, eve] = std::array::from_fn(|_| keys::generate().unwrap());
        let sealed = seal("grüße".as_bytes(), &[alice.node_id(), bob.node_id()]).unwrap();
        assert!(sealed.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"));
        for key in [alice, bob] {
            assert_eq!(open(&sealed, &key).unwrap(), "grüße".as_bytes());
        }
        assert!(matches!(open(&sealed, &eve), Err(SealError::NotForUs)));
        assert!(matches!(seal(b"", &[]), Err(SealError::NoRecipient)));
    }

    /// Sealed by an independent implementation for the OpenSSH key beside it.
    #[test]
    fn the_vector_of_another_implementation_opens() {
        let key = include_bytes!("../testdata/age/alice_ed25519");
        let key = keys::parse(key, || None).unwrap();
        let sealed = include_str!("../testdata/age/to-alice.age");
        assert_eq!(open(sealed, &key).unwrap(), b"secret to alice");
        let mut broken = sealed.to_owned();
        broken.replace_range(120..121, "~");
        assert!(matches!(open(&broken, &key), Err(SealError::Damaged(_))));
    }
}
