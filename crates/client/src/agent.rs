//! Keys that an ssh-agent holds: it signs, and never gives the key away.
//!
//! Speaks what is needed of the agent protocol (draft-ietf-sshm-ssh-agent): list the identities, sign.
//! An agent signs the bytes it is given with plain Ed25519, so that its signatures are native ones.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use relay_proto::NodeId;

/// Why an agent gives no signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// `SSH_AUTH_SOCK` is not set.
    #[error("no ssh-agent: SSH_AUTH_SOCK is not set")]
    NoAgent,
    /// The agent cannot be spoken to.
    #[error("the ssh-agent at {} does not answer: {source}", path.display())]
    Io {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It answered with something else.
    #[error("the ssh-agent's answer cannot be read")]
    Protocol,
    /// It has no such key.
    #[error("the ssh-agent holds no Ed25519 key{0}")]
    NoKey(String),
    /// It has several, and none was named.
    #[error("the ssh-agent holds several Ed25519 keys; name one: {0}")]
    Several(String),
    /// It was asked to sign and would not: the key is locked, or its owner said no.
    #[error("the ssh-agent refused to sign")]
    Refused,
}

/// One Ed25519 key of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentKey {
    socket: PathBuf,
    id: NodeId,
    comment: String,
}

/// Longest message that is read; an agent with a thousand keys stays below it.
const MAX_MESSAGE: usize = 1 << 20;
/// Time for an answer; an agent may ask its owner first.
const PATIENCE: Duration = Duration::from_secs(60);

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const ED25519: &[u8] = b"ssh-ed25519";

impl AgentKey {
    /// The Ed25519 keys of the agent at `socket`.
    ///
    /// # Errors
    /// [`AgentError::Io`], [`AgentError::Protocol`].
    pub fn list(socket: &Path) -> Result<Vec<Self>, AgentError> {
        let answer = ask(socket, &[REQUEST_IDENTITIES])?;
        let mut rest = answer.strip_prefix(&[IDENTITIES_ANSWER]).ok_or(AgentError::Protocol)?;
        let count = take_u32(&mut rest)?;
        let mut keys = Vec::new();
        for _ in 0..count {
            let (blob, comment) = (take(&mut rest)?, take(&mut rest)?);
            // Keys of other kinds, and those that no relay would accept, are left out.
            if let Some(id) = ed25519_of(blob) {
                let comment = String::from_utf8_lossy(comment).into_owned();
                keys.push(Self { socket: socket.to_owned(), id, comment });
            }
        }
        Ok(keys)
    }

    /// The key that `name` means, in the agent that `SSH_AUTH_SOCK` names: its public key, its
    /// comment, or nothing where the agent holds just one.
    ///
    /// # Errors
    /// Any [`AgentError`] but [`AgentError::Refused`].
    pub fn find(name: &str) -> Result<Self, AgentError> {
        let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
        let mut keys = Self::list(Path::new(&socket.ok_or(AgentError::NoAgent)?))?;
        let named = crate::keys::parse_public(name).ok();
        keys.retain(|key| name.is_empty() || key.comment == name || named == Some(key.id));
        let suffix = if name.is_empty() { String::new() } else { format!(" '{name}'") };
        match keys.len() {
            0 => Err(AgentError::NoKey(suffix)),
            1 => Ok(keys.swap_remove(0)),
            _ => {
                let names = keys.iter().map(|key| format!("agent:{} ({})", key.id, key.comment));
                Err(AgentError::Several(names.collect::<Vec<_>>().join(", ")))
            }
        }
    }

    /// The public key.
    pub fn node_id(&self) -> NodeId {
        self.id
    }

    /// What its owner called it.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// Lets the agent sign. Blocks the thread for as long as it takes, at most a minute.
    ///
    /// # Errors
    /// [`AgentError::Refused`], [`AgentError::Io`], [`AgentError::Protocol`].
    pub fn sign(&self, message: &[u8]) -> Result<[u8; 64], AgentError> {
        let mut blob = Vec::new();
        put(&mut blob, ED25519);
        put(&mut blob, self.id.as_bytes());
        let mut request = vec![SIGN_REQUEST];
        put(&mut request, &blob);
        put(&mut request, message);
        request.extend(0_u32.to_be_bytes());
        let answer = ask(&self.socket, &request)?;
        let mut rest = match answer.split_first() {
            Some((&SIGN_RESPONSE, rest)) => rest,
            Some((&FAILURE, _)) => return Err(AgentError::Refused),
            _ => return Err(AgentError::Protocol),
        };
        let mut signature = take(&mut rest)?;
        if take(&mut signature)? != ED25519 {
            return Err(AgentError::Protocol);
        }
        take(&mut signature)?.try_into().map_err(|_| AgentError::Protocol)
    }
}

/// One request on a connection of its own.
fn ask(socket: &Path, request: &[u8]) -> Result<Vec<u8>, AgentError> {
    let exchange = || -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut message = Vec::with_capacity(request.len() + 4);
        put(&mut message, request);
        stream.write_all(&message)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_MESSAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    exchange().map_err(|source| AgentError::Io { path: socket.to_owned(), source })
}

fn ed25519_of(mut blob: &[u8]) -> Option<NodeId> {
    let kind = take(&mut blob).ok()?;
    let key: [u8; 32] = take(&mut blob).ok()?.try_into().ok()?;
    (kind == ED25519).then(|| NodeId::from_bytes(key).ok()).flatten()
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    // What is sent is far below 4 GiB: an event is at most some MiB.
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(bytes);
}

fn take_u32(from: &mut &[u8]) -> Result<u32, AgentError> {
    let (head, rest) = from.split_first_chunk::<4>().ok_or(AgentError::Protocol)?;
    *from = rest;
    Ok(u32::from_be_bytes(*head))
}

fn take<'a>(from: &mut &'a [u8]) -> Result<&'a [u8], AgentError> {
    let length = take_u32(from)? as usize;
    let (taken, rest) = from.split_at_checked(length).ok_or(AgentError::Protocol)?;
    *from = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// An agent that answers once, with this.
    fn agent(answer: Vec<u8>) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut request).unwrap();
            let mut message = Vec::new();
            put(&mut message, &answer);
            stream.write_all(&message).unwrap();
        });
        (dir, path)
    }

    fn identities(count: u32, keys: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut answer = vec![IDENTITIES_ANSWER];
        answer.extend(count.to_be_bytes());
        for (blob, comment) in keys {
            put(&mut answer, blob);
            put(&mut answer, comment);
        }
        answer
    }

    #[test]
    fn other_keys_are_left_out() {
        let id = crate::keys::generate().unwrap().node_id();
        let mut blob = Vec::new();
        put(&mut blob, ED25519);
        put(&mut blob, id.as_bytes());
        let mut rsa = Vec::new();
        put(&mut rsa, b"ssh-rsa");
        let (_dir, path) = agent(identities(2, &[(&rsa, b"old"), (&blob, b"mine")]));
        let keys = AgentKey::list(&path).unwrap();
        assert_eq!(
            keys.iter().map(|key| (key.id, key.comment())).collect::<Vec<_>>(),
            [(id, "mine")]
        );
    }

    #[test]
    fn a_damaged_answer_is_an_error() {
        for answer in [vec![], vec![FAILURE], identities(9, &[]), vec![IDENTITIES_ANSWER, 0, 0]] {
            let (_dir, path) = agent(answer);
            assert!(matches!(AgentKey::list(&path), Err(AgentError::Protocol)));
        }
    }

    #[test]
    fn nobody_there_is_told() {
        let gone = AgentKey::list(Path::new("/nonexistent/agent"));
        assert!(matches!(gone, Err(AgentError::Io { .. })));
    }
}
