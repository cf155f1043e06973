//! Becoming a spoke (`relay join`): a join code's hub, key and token, kept in the data directory so that the
//! link is there again after a restart. A hub of the configuration wins over it.

use std::{io::ErrorKind, path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use relay_fed::link::Role;
use relay_proto::{Code, NodeId, Problem};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, NodeKind},
    federation::{Federated, Parts},
    identity::write_secret,
    node::Node,
    start::StartError,
};

/// What a join code begins with, so that people and secret scanners know it.
pub const JOIN_CODE: &str = "relay-join-v1.";
const FILE: &str = "joined.json";
/// Longest URL, and most fallback hubs.
const MAX_URL: usize = 512;
const MAX_FALLBACK: usize = 16;

/// The hub that this relay joined.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    pub url: String,
    /// The hub must have this key.
    pub key: NodeId,
    /// Lets this relay in the first time; `None` where it is known already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<String>,
}

impl std::fmt::Debug for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joined")
            .field("url", &self.url)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Joined {
    /// Reads a join code, as `relay token create --for spoke` printed it.
    ///
    /// # Errors
    /// `invalid_request` for what is no join code or lies past its end (`now_ms`, unix milliseconds).
    pub fn from_code(code: &str, now_ms: u64) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        struct Code {
            url: String,
            key: NodeId,
            token: String,
            exp: Option<u64>,
        }
        let no_code =
            || Problem::invalid(format!("a join code is one line that begins with '{JOIN_CODE}'"));
        let text = code.trim().strip_prefix(JOIN_CODE).ok_or_else(no_code)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| no_code())?;
        let code: Code = serde_json::from_slice(&bytes).map_err(|_| no_code())?;
        if code.exp.is_some_and(|exp| exp <= now_ms) {
            return Err(Problem::invalid("this join code has expired; ask for a new one"));
        }
        Ok(Self { url: code.url, key: code.key, token: Some(code.token), fallback: Vec::new() })
    }

    /// # Errors
    /// `invalid_request` for addresses that no hub has.
    fn check(&self, insecure: bool) -> Result<(), Problem> {
        if self.fallback.len() > MAX_FALLBACK {
            return Err(Problem::invalid(format!("at most {MAX_FALLBACK} fallback hubs")));
        }
        for url in std::iter::once(&self.url).chain(&self.fallback) {
            if url.len() > MAX_URL {
                return Err(Problem::invalid("the hub's address is too long"));
            }
            crate::config::hub_url(url, insecure).map_err(Problem::invalid)?;
        }
        Ok(())
    }

    /// Stores it for the next start, without a running relay.
    ///
    /// # Errors
    /// As [`Node::join`], and those of the file system.
    pub fn save(&self, config: &Config) -> Result<(), Problem> {
        check_role(config)?;
        self.check(config.federation.insecure)?;
        self.write(&config.node.data_dir())
    }

    fn write(&self, dir: &Path) -> Result<(), Problem> {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        let written =
            std::fs::create_dir_all(dir).and_then(|()| write_secret(&dir.join(FILE), &text));
        written.map_err(|error| {
            tracing::error!(%error, "the hub that was joined cannot be kept");
            Problem::new(Code::InternalError, format!("{FILE} cannot be written"))
        })
    }

    /// Forgets it; whether there was one.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn forget(config: &Config) -> std::io::Result<bool> {
        match std::fs::remove_file(config.node.data_dir().join(FILE)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The hub that was joined earlier, where the configuration leaves room for one.
pub(crate) fn joined(dir: &Path, config: &Config) -> Result<Option<Joined>, StartError> {
    if check_role(config).is_err() {
        return Ok(None);
    }
    let path = dir.join(FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StartError::Setting(format!("{}: {error}", path.display()))),
    };
    let joined = serde_json::from_slice(&text);
    joined.map(Some).map_err(|error| StartError::Setting(format!("{}: {error}", path.display())))
}

/// The configuration as it is with the hub that was joined.
pub(crate) fn with(config: &Config, joined: Option<&Joined>) -> Config {
    let mut config = config.clone();
    if let Some(joined) = joined {
        config.federation.connect.clone_from(&joined.url);
        config.federation.fallback.clone_from(&joined.fallback);
    }
    config
}

/// Joining is for relays that no configuration made a hub or gave one.
fn check_role(config: &Config) -> Result<(), Problem> {
    let conflict = |message: &str| Err(Problem::new(Code::Conflict, message));
    if config.node.r#type == NodeKind::Main || !config.federation.peers.is_empty() {
        return conflict("this relay is configured as a hub; a hub links to others as a peer");
    }
    if !config.federation.connect.is_empty() {
        return conflict("the configuration names a hub ('federation.connect'); change it there");
    }
    Ok(())
}

impl Node {
    /// Becomes a spoke of a hub, from now on and after restarts. Links of before are drained.
    ///
    /// # Errors
    /// `conflict` where the configuration or linked relays make this one a hub.
    pub async fn join(self: &Arc<Self>, joined: Joined) -> Result<(), Problem> {
        let before = self.federated();
        check_role(&self.config)?;
        if before.role == Role::Main && !before.federation.spokes().is_empty() {
            let message = "other relays are linked to this one as their hub";
            return Err(Problem::new(Code::Conflict, message));
        }
        joined.check(self.config.federation.insecure)?;
        joined.write(&self.config.node.data_dir())?;
        self.federate(Some(&joined)).await
    }

    /// Leaves the hub that was joined; whether there was one.
    ///
    /// # Errors
    /// `conflict` where the configuration names the hub.
    pub async fn leave(self: &Arc<Self>) -> Result<bool, Problem> {
        check_role(&self.config)?;
        let was = Joined::forget(&self.config).map_err(|error| {
            tracing::error!(%error, "the hub that was joined cannot be forgotten");
            Problem::new(Code::InternalError, format!("{FILE} cannot be removed"))
        })?;
        self.federate(None).await?;
        Ok(was)
    }

    /// Replaces links, routes and registry by those with another hub, or with none.
    async fn federate(self: &Arc<Self>, joined: Option<&Joined>) -> Result<(), Problem> {
        let new = Federated::start(Parts {
            config: &with(&self.config, joined),
            joined,
            identity: &self.identity,
            dir: &self.config.node.data_dir(),
            router: self.services.router.clone(),
            door: self.door.clone(),
            far: &self.far,
            sessions: self.sessions.clone(),
            clock: self.clock.clone(),
        });
        let new = new.map_err(|error| {
            tracing::error!(%error, "the links cannot be made anew");
            Problem::new(Code::InternalError, "the links cannot be made anew")
        })?;
        let before = self.federated.swap(Arc::new(new));
        before.close(LAST_CALLS).await;
        Ok(())
    }
}

/// For what is under way on links that are given up.
const LAST_CALLS: std::time::Duration = std::time::Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn code(content: &serde_json::Value) -> String {
        format!("{JOIN_CODE}{}", URL_SAFE_NO_PAD.encode(content.to_string()))
    }

    #[test]
    fn a_code_is_read_and_others_are_refused() {
        let key = "ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541";
        let good = serde_json::json!({ "url": "https://hub.example.com", "key": key, "token": "t", "exp": 100 });
        let joined = Joined::from_code(&format!(" {}\n", code(&good)), 99).unwrap();
        assert_eq!(
            (joined.url.as_str(), joined.token.as_deref()),
            ("https://hub.example.com", Some("t"))
        );
        assert!(!format!("{joined:?}").contains("\"t\""));
        assert!(Joined::from_code(&code(&good), 100).unwrap_err().message.contains("expired"));
        for bad in ["", "relay-join-v1.", "relay-join-v1.!!", "hello"] {
            assert!(Joined::from_code(bad, 0).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_configured_hub_is_not_joined_over() {
        let mut config = Config::default();
        assert!(check_role(&config).is_ok());
        config.federation.connect = "wss://hub.example.com".into();
        assert_eq!(check_role(&config).unwrap_err().code, Code::Conflict);
        config.federation.connect.clear();
        config.node.r#type = NodeKind::Main;
        assert_eq!(check_role(&config).unwrap_err().code, Code::Conflict);
    }
}
