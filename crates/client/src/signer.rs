//! Who signs: a key in this process, or an agent that holds one.

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use relay_proto::{Event, NodeId, SigningKey, event::Draft};
use ssh_key::{Algorithm, HashAlg, Signature, SshSig, public::KeyData};

#[cfg(unix)]
use crate::agent::{AgentError, AgentKey};
use crate::{error::Error, keys::KeyFileError};

/// Something that signs with an Ed25519 key.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Signer {
    /// The key is here.
    Key(SigningKey),
    /// An ssh-agent has it.
    #[cfg(unix)]
    Agent(AgentKey),
}

impl Signer {
    /// The public key.
    pub fn node_id(&self) -> NodeId {
        match self {
            Self::Key(key) => key.node_id(),
            #[cfg(unix)]
            Self::Agent(key) => key.node_id(),
        }
    }

    /// A plain Ed25519 signature. With an agent this blocks until it has answered.
    ///
    /// # Errors
    /// [`Error::Agent`]; never for a key that is here.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; 64], Error> {
        match self {
            Self::Key(key) => Ok(key.sign(message)),
            #[cfg(unix)]
            Self::Agent(key) => Ok(key.sign(message)?),
        }
    }

    /// Signs an event natively.
    ///
    /// # Errors
    /// [`Error::Event`] for what a relay with default limits would refuse, [`Error::Agent`].
    pub fn sign_event(&self, draft: &Draft) -> Result<Event, Error> {
        let author = self.node_id();
        let signature = self.sign(&draft.canonical(&author))?;
        Ok(draft.finish_native(author, &signature)?)
    }

    /// Signs `message` as `ssh-keygen -Y sign -n namespace` does, and returns the armoured block.
    ///
    /// # Errors
    /// [`Error::Agent`]; [`Error::Key`] where the signature cannot be encoded, which does not happen.
    pub fn sshsig(&self, namespace: &str, message: &[u8]) -> Result<String, Error> {
        let encoding = |_| Error::Key(KeyFileError::Format);
        let key = KeyData::Ed25519(ssh_key::public::Ed25519PublicKey(*self.node_id().as_bytes()));
        let data = SshSig::signed_data(namespace, HashAlg::Sha512, message).map_err(encoding)?;
        let signature = self.sign(&data)?.to_vec();
        let signature = Signature::new(Algorithm::Ed25519, signature).map_err(encoding)?;
        SshSig::new(key, namespace, HashAlg::Sha512, signature)
            .and_then(|sig| sig.to_pem(LineEnding::LF))
            .map_err(encoding)
    }

    /// The key itself, where it is here: an agent keeps its own.
    pub fn key(&self) -> Option<&SigningKey> {
        match self {
            Self::Key(key) => Some(key),
            #[cfg(unix)]
            Self::Agent(_) => None,
        }
    }
}

impl From<SigningKey> for Signer {
    fn from(key: SigningKey) -> Self {
        Self::Key(key)
    }
}

#[cfg(unix)]
impl From<AgentKey> for Signer {
    fn from(key: AgentKey) -> Self {
        Self::Agent(key)
    }
}

#[cfg(unix)]
impl From<AgentError> for Error {
    fn from(error: AgentError) -> Self {
        Self::Agent(error.to_string())
    }
}
