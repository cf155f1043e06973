//! Who this relay is: its key and its name, bound to each other at the first start.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rand_core::{CryptoRng, RngCore};
use relay_proto::{NodeId, SigningKey};
use ssh_key::{LineEnding, PrivateKey, private::Ed25519Keypair};
use zeroize::Zeroizing;

/// The relay's own key and name.
#[derive(Debug, Clone)]
pub struct Identity {
    pub relay_id: String,
    pub key: SigningKey,
}

/// Why a relay cannot be who it is configured to be.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{} holds no Ed25519 key: {reason}", path.display())]
    Key { path: PathBuf, reason: String },
    #[error(
        "this data directory belongs to the relay '{bound}', the configuration names it '{configured}'; \
         use the old name or another data directory"
    )]
    Renamed { bound: String, configured: String },
}

impl Identity {
    pub fn node_id(&self) -> NodeId {
        self.key.node_id()
    }

    /// Reads `relay.key` and `relay.id` in `dir`, or makes them. `configured` is empty where the
    /// operator named nothing: the name that is bound stays, and a new relay takes its role's.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn open<R: RngCore + CryptoRng>(
        dir: &Path,
        configured: &str,
        is_home: bool,
        rng: &mut R,
    ) -> Result<Self, IdentityError> {
        let path = dir.join("relay.id");
        let bound = match fs::read_to_string(&path) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(file(&path)(error)),
        };
        if let Some(bound) = &bound
            && !configured.is_empty()
            && bound != configured
        {
            let (bound, configured) = (bound.clone(), configured.to_owned());
            return Err(IdentityError::Renamed { bound, configured });
        }
        let key = open_key(&dir.join("relay.key"), rng)?;
        let relay_id = match bound {
            Some(bound) => bound,
            None => {
                let named = (!configured.is_empty()).then(|| configured.to_owned());
                let relay_id = named.unwrap_or_else(|| unnamed(&key, is_home));
                fs::write(&path, format!("{relay_id}\n")).map_err(file(&path))?;
                relay_id
            }
        };
        Ok(Self { relay_id, key })
    }
}

/// What a relay is called that nobody named.
fn unnamed(key: &SigningKey, is_home: bool) -> String {
    if !is_home {
        return "gw_local".to_owned();
    }
    let text = key.node_id().to_string();
    let hex = text.rsplit(':').next().unwrap_or_default();
    format!("home-{}", hex.get(..8).unwrap_or(hex))
}

fn open_key<R: RngCore + CryptoRng>(path: &Path, rng: &mut R) -> Result<SigningKey, IdentityError> {
    let bad = |reason: String| IdentityError::Key { path: path.to_owned(), reason };
    match fs::read_to_string(path).map(Zeroizing::new) {
        Ok(text) => {
            let key = PrivateKey::from_openssh(text.as_str()).map_err(|e| bad(e.to_string()))?;
            let pair = key.key_data().ed25519().ok_or_else(|| bad("another kind of key".into()))?;
            Ok(SigningKey::from_seed(pair.private.to_bytes()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut seed = Zeroizing::new([0; 32]);
            rng.fill_bytes(&mut *seed);
            let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
            let text = key.to_openssh(LineEnding::LF).map_err(|e| bad(e.to_string()))?;
            write_secret(path, text.as_bytes()).map_err(file(path))?;
            Ok(SigningKey::from_seed(*seed))
        }
        Err(error) => Err(file(path)(error)),
    }
}

/// Writes a file that only its owner can read, whole or not at all.
///
/// # Errors
/// Those of the file system; then the file is as it was.
pub fn write_secret(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let part = path.with_extension("part");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)
}

fn file(path: &Path) -> impl Fn(std::io::Error) -> IdentityError + '_ {
    |source| IdentityError::File { path: path.to_owned(), source }
}
