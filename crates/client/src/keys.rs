//! Signing keys in files: OpenSSH (with or without a passphrase) and PEM PKCS#8.
//!
//! Our own files are OpenSSH private keys, so that `ssh-keygen`, `ssh-add` and `age` can use them.
//! A private key that others may read is refused, as `ssh` does.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, spki::der::pem::LineEnding};
use relay_proto::{NodeId, SigningKey};
use ssh_key::{
    PrivateKey, PublicKey,
    private::{Ed25519Keypair, KeypairData},
    public::KeyData,
};
use zeroize::Zeroizing;

/// Why a key cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A private key that its group or everybody may read.
    #[error("{} can be read by others; run: chmod 600 {}", .0.display(), .0.display())]
    OpenToOthers(PathBuf),
    /// Neither OpenSSH nor PEM, or damaged.
    #[error("no OpenSSH or PEM (PKCS#8) private key")]
    Format,
    /// RSA, ECDSA and others sign no events.
    #[error("a {0} key; only Ed25519 keys can be used")]
    Algorithm(String),
    /// Nobody gave the passphrase.
    #[error("the key is protected by a passphrase")]
    NeedsPassphrase,
    /// It does not open the key.
    #[error("wrong passphrase")]
    WrongPassphrase,
    /// Without randomness there is no new key.
    #[error("no system randomness: {0}")]
    Random(getrandom::Error),
}

/// Makes a new key from system randomness.
///
/// # Errors
/// [`KeyFileError::Random`].
pub fn generate() -> Result<SigningKey, KeyFileError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(KeyFileError::Random)?;
    Ok(SigningKey::from_seed(seed))
}

/// Reads a private key file. `passphrase` is asked only where the key is protected.
///
/// # Errors
/// Any [`KeyFileError`]; [`KeyFileError::OpenToOthers`] before anything is read.
pub fn load(
    path: &Path,
    passphrase: impl FnOnce() -> Option<Zeroizing<String>>,
) -> Result<SigningKey, KeyFileError> {
    refuse_open_to_others(path)?;
    let text = fs::read(path).map(Zeroizing::new).map_err(|source| io_error(path, source))?;
    parse(&text, passphrase)
}

/// Reads a private key from the text of a file.
///
/// # Errors
/// As [`load`], except for those of the file itself.
pub fn parse(
    text: &[u8],
    passphrase: impl FnOnce() -> Option<Zeroizing<String>>,
) -> Result<SigningKey, KeyFileError> {
    let text = std::str::from_utf8(text).map_err(|_| KeyFileError::Format)?;
    if text.contains("-----BEGIN PRIVATE KEY-----") {
        let key = ed25519_dalek::SigningKey::from_pkcs8_pem(text.trim())
            .map_err(|_| KeyFileError::Format)?;
        return Ok(SigningKey::from_seed(key.to_bytes()));
    }
    let mut key = PrivateKey::from_openssh(text).map_err(|_| KeyFileError::Format)?;
    if key.is_encrypted() {
        let passphrase = passphrase().ok_or(KeyFileError::NeedsPassphrase)?;
        key = key.decrypt(passphrase.as_bytes()).map_err(|_| KeyFileError::WrongPassphrase)?;
    }
    match key.key_data() {
        KeypairData::Ed25519(pair) => Ok(SigningKey::from_seed(pair.private.to_bytes())),
        _ => Err(KeyFileError::Algorithm(key.algorithm().to_string())),
    }
}

/// The key as an OpenSSH private key file, protected where a passphrase is given.
///
/// # Errors
/// [`KeyFileError::Format`] where the key cannot be encoded, which does not happen.
pub fn to_openssh(
    key: &SigningKey,
    comment: &str,
    passphrase: Option<&str>,
) -> Result<Zeroizing<String>, KeyFileError> {
    let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(&key.seed()));
    let mut private = PrivateKey::new(pair, comment).map_err(|_| KeyFileError::Format)?;
    if let Some(passphrase) = passphrase {
        private = private
            .encrypt(&mut rand_core::OsRng, passphrase.as_bytes())
            .map_err(|_| KeyFileError::Format)?;
    }
    private.to_openssh(LineEnding::LF).map_err(|_| KeyFileError::Format)
}

/// The key as PEM PKCS#8, unprotected.
///
/// # Errors
/// [`KeyFileError::Format`] where the key cannot be encoded, which does not happen.
pub fn to_pem(key: &SigningKey) -> Result<Zeroizing<String>, KeyFileError> {
    ed25519_dalek::SigningKey::from_bytes(&key.seed())
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(|_| KeyFileError::Format)
}

/// The public key as one line of OpenSSH (`ssh-ed25519 AAAA… comment`).
pub fn to_openssh_public(id: &NodeId, comment: &str) -> String {
    let data = KeyData::Ed25519(ssh_key::public::Ed25519PublicKey(*id.as_bytes()));
    // Encoding 32 bytes has no way to fail; an empty text would be refused by every reader.
    PublicKey::new(data, comment).to_openssh().unwrap_or_default()
}

/// Reads a public key: canonical text, or a line of OpenSSH.
///
/// # Errors
/// [`KeyFileError::Format`], [`KeyFileError::Algorithm`].
pub fn parse_public(text: &str) -> Result<NodeId, KeyFileError> {
    let text = text.trim();
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let key = PublicKey::from_openssh(text).map_err(|_| KeyFileError::Format)?;
    match key.key_data() {
        KeyData::Ed25519(bytes) => NodeId::from_bytes(bytes.0).map_err(|_| KeyFileError::Format),
        _ => Err(KeyFileError::Algorithm(key.algorithm().to_string())),
    }
}

/// Writes a secret to a new file that only its owner may read. An existing file is never replaced.
///
/// # Errors
/// [`KeyFileError::Io`], of kind `AlreadyExists` where there is such a file.
pub fn write_secret(path: &Path, secret: &[u8]) -> Result<(), KeyFileError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let write = || {
        let mut file = options.open(path)?;
        file.write_all(secret)?;
        file.sync_all()
    };
    write().map_err(|source| io_error(path, source))
}

/// Refuses a file of secrets that its group or everybody may read.
///
/// # Errors
/// [`KeyFileError::OpenToOthers`], or [`KeyFileError::Io`] where there is no such file.
pub fn refuse_open_to_others(path: &Path) -> Result<(), KeyFileError> {
    let meta = fs::metadata(path).map_err(|source| io_error(path, source))?;
    #[cfg(unix)]
    if meta.is_file() && std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o077 != 0 {
        return Err(KeyFileError::OpenToOthers(path.to_owned()));
    }
    let _ = meta;
    Ok(())
}

fn io_error(path: &Path, source: io::Error) -> KeyFileError {
    KeyFileError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Option<Zeroizing<String>> {
        None
    }

    #[test]
    fn openssh_and_pem_give_the_same_key_back() {
        let key = generate().unwrap();
        let ssh = to_openssh(&key, "test", None).unwrap();
        let pem = to_pem(&key).unwrap();
        assert_eq!(parse(ssh.as_bytes(), none).unwrap().node_id(), key.node_id());
        assert_eq!(parse(pem.as_bytes(), none).unwrap().node_id(), key.node_id());
    }

    #[test]
    fn a_protected_key_needs_its_passphrase() {
        let key = generate().unwrap();
        let text = to_openssh(&key, "", Some("open sesame")).unwrap();
        let with = |phrase: &str| {
            let phrase = Zeroizing::new(phrase.to_owned());
            parse(text.as_bytes(), || Some(phrase))
        };
        assert_eq!(with("open sesame").unwrap().node_id(), key.node_id());
        assert!(matches!(with("guess"), Err(KeyFileError::WrongPassphrase)));
        assert!(matches!(parse(text.as_bytes(), none), Err(KeyFileError::NeedsPassphrase)));
    }

    #[test]
    fn public_keys_are_read_in_both_forms() {
        let id = generate().unwrap().node_id();
        assert_eq!(parse_public(&to_openssh_public(&id, "me@host")).unwrap(), id);
        assert_eq!(parse_public(&id.to_string()).unwrap(), id);
        assert!(matches!(parse_public("ssh-rsa AAAA"), Err(KeyFileError::Format)));
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = generate().unwrap();
        write_secret(&path, to_openssh(&key, "", None).unwrap().as_bytes()).unwrap();
        assert_eq!(load(&path, none).unwrap().node_id(), key.node_id());
        for mode in [0o640, 0o604] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(load(&path, none), Err(KeyFileError::OpenToOthers(_))));
        }
    }

    #[test]
    fn a_written_key_never_replaces_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_secret(&path, b"first").unwrap();
        let again = write_secret(&path, b"second");
        assert!(
            matches!(again, Err(KeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists)
        );
        assert_eq!(fs::read(&path).unwrap(), b"first");
    }
}
