//! Saved relays and the sessions with them.

use std::{collections::BTreeMap, fs, path::PathBuf};

use nix::fcntl::{Flock, FlockArg};
use relay_client::{Client, session::Session};
use serde::{Deserialize, Serialize};

use crate::{
    error::Failure,
    files::{self, at},
};

/// The file of saved relays.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Contexts {
    /// The selected one.
    pub current: Option<String>,
    #[serde(default)]
    pub context: BTreeMap<String, Context>,
}

/// One saved relay.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Context {
    pub url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns: Option<String>,
    /// Names this machine in sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
}

impl Contexts {
    pub fn path() -> Result<PathBuf, Failure> {
        Ok(files::config_dir()?.join("contexts.toml"))
    }

    pub fn load() -> Result<Self, Failure> {
        let path = Self::path()?;
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(at(&path, &error)),
        };
        toml::from_str(&text)
            .map_err(|error| Failure::usage(format!("{}: {}", path.display(), error.message())))
    }

    pub fn save(&self) -> Result<(), Failure> {
        let path = Self::path()?;
        files::private_dir(&files::config_dir()?)?;
        let text = toml::to_string(self).map_err(|error| Failure::failed(error.to_string()))?;
        files::replace(&path, text.as_bytes()).map_err(|error| at(&path, &error))
    }

    pub fn named(&self, name: &str) -> Result<&Context, Failure> {
        self.context.get(name).ok_or_else(|| {
            Failure::usage(format!("no context is called '{name}'"))
                .hint("relay context ls", "those there are")
        })
    }
}

/// Whether the name can be a file name and a table of the file.
pub fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.len() <= 64 && !name.starts_with('.') && name.chars().all(fits)
}

fn session_path(context: &str) -> Result<PathBuf, Failure> {
    Ok(files::state_dir()?.join("sessions").join(format!("{context}.json")))
}

pub fn save_session(context: &str, session: &Session) -> Result<(), Failure> {
    let path = session_path(context)?;
    files::private_dir(&files::state_dir()?.join("sessions"))?;
    let text = serde_json::to_vec(session).map_err(|error| Failure::failed(error.to_string()))?;
    files::replace(&path, &text).map_err(|error| at(&path, &error))
}

pub fn forget_session(context: &str) -> Result<(), Failure> {
    let path = session_path(context)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at(&path, &error)),
        _ => Ok(()),
    }
}

/// The session of a context, where there is one.
pub fn session(context: &str) -> Result<Option<Session>, Failure> {
    let path = session_path(context)?;
    if !path.exists() {
        return Ok(None);
    }
    let text = crate::prompt::secret_file(&path)?;
    // A file that cannot be read is as good as none: the next login replaces it.
    Ok(serde_json::from_str(&text).ok())
}

/// A session that is valid for a while, resumed where it is about to end. Two commands at once must
/// not resume twice, for a resume token is good once: a lock file lets one wait for the other.
pub async fn fresh_session(context: &str, relay: &Client) -> Result<Option<Session>, Failure> {
    const SOON_MS: u64 = 60_000;
    let now_ms = relay_client::unix_ns() / 1_000_000;
    let current = |session: &Session| session.expires_at > now_ms + SOON_MS;
    match session(context)? {
        None => return Ok(None),
        Some(session) if current(&session) => return Ok(Some(session)),
        Some(_) => {}
    }
    let _lock = lock_sessions(context).await?;
    let Some(old) = session(context)? else { return Ok(None) };
    if current(&old) {
        return Ok(Some(old));
    }
    match relay.resume(&old.resume_token).await {
        Ok(session) => {
            save_session(context, &session)?;
            Ok(Some(session))
        }
        Err(error) if error.code() == Some(relay_proto::Code::ResumeFailed) => {
            forget_session(context)?;
            Ok(None)
        }
        Err(error) => Err(Failure::of(error, &format!("session of context {context}"))),
    }
}

async fn lock_sessions(context: &str) -> Result<Flock<fs::File>, Failure> {
    let path = session_path(context)?.with_extension("lock");
    let file = fs::File::create(&path).map_err(|error| at(&path, &error))?;
    let locked =
        tokio::task::spawn_blocking(move || Flock::lock(file, FlockArg::LockExclusive)).await;
    match locked {
        Ok(Ok(lock)) => Ok(lock),
        Ok(Err((_, error))) => Err(Failure::failed(format!("{}: {error}", path.display()))),
        Err(error) => Err(Failure::failed(error.to_string())),
    }
}
