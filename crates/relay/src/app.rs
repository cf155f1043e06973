//! What every command shares: which relay, whose key, how to speak.

use std::{path::PathBuf, time::Duration};

use relay_client::{Client, Signer, agent::AgentKey, keys};
use relay_proto::{Namespace, SigningKey};

use crate::{
    cli::Global,
    contexts::{self, Context, Contexts},
    error::Failure,
    files, output, prompt,
};

/// One run of a command.
#[derive(Debug)]
pub struct App {
    pub global: Global,
    pub out: output::Output,
}

/// Which relay was chosen, and what is saved about it.
#[derive(Debug, Clone, Default)]
pub struct Target {
    pub url: String,
    /// The saved relay's name, where it is one.
    pub name: Option<String>,
    pub context: Context,
}

impl App {
    pub fn new(global: Global) -> Self {
        let format = if global.json { output::Format::Json } else { global.output };
        let out = output::Output {
            format,
            fields: global.fields.clone(),
            wide: global.wide,
            plain: global.plain,
            terminal: output::stdout_is_terminal(),
        };
        Self { global, out }
    }

    /// Says something on stderr, unless asked to be quiet.
    pub fn notice(&self, text: &str) {
        if self.global.quiet == 0 {
            eprintln!("{text}");
        }
    }

    /// Advice for people: only where somebody watches.
    pub fn advice(&self, text: &str) {
        use std::io::IsTerminal;
        if std::io::stderr().is_terminal() {
            self.notice(text);
        }
    }

    pub fn timeout(&self) -> Duration {
        self.global.timeout
    }

    /// Asks before something is destroyed. `Ok(false)`: it was only to be shown.
    pub fn confirm(&self, action: &str, object: &str) -> Result<(), Failure> {
        if self.global.yes {
            return Ok(());
        }
        if !prompt::possible(self.global.no_input) {
            return Err(Failure::usage(format!(
                "to {action} {object} without being asked, add --yes"
            )));
        }
        if prompt::confirm(action, object)? {
            Ok(())
        } else {
            Err(Failure::failed(format!("{object} was left alone")))
        }
    }

    /// The chosen relay: flags, environment, the selected context, the socket of this machine.
    pub fn target(&self) -> Result<Target, Failure> {
        let contexts = Contexts::load()?;
        let saved = |name: &str| -> Result<Target, Failure> {
            let context = contexts.named(name)?.clone();
            Ok(Target { url: context.url.clone(), name: Some(name.to_owned()), context })
        };
        let url = |url: &str| {
            let same = contexts.context.iter().find(|(_, context)| context.url == url);
            let (name, context) =
                same.map(|(n, c)| (Some(n.clone()), c.clone())).unwrap_or_default();
            Target { url: url.to_owned(), name, context }
        };
        let env = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(given) = &self.global.url {
            return Ok(url(given));
        }
        if let Some(name) = &self.global.context {
            return saved(name);
        }
        if let Some(given) = env("RELAY_URL") {
            return Ok(url(&given));
        }
        if let Some(name) = env("RELAY_CONTEXT") {
            return saved(&name);
        }
        if let Some(name) = &contexts.current {
            return saved(name);
        }
        local_socket().map(|path| url(&format!("unix:{}", path.display()))).ok_or_else(|| {
            Failure::usage("no relay is chosen, and none has a socket on this machine")
                .hint("relay serve", "start one here")
                .hint("--url https://relay.example.com", "use that one")
                .hint("relay login https://relay.example.com", "and remember it")
        })
    }

    /// The relay that runs on this machine, by its socket; `None` where none answers. A saved relay
    /// elsewhere does not count: programs and scripts of this machine belong to its own relay.
    pub fn local_target(&self) -> Result<Option<Target>, Failure> {
        let given = self.global.url.clone();
        let env = std::env::var("RELAY_URL").ok().filter(|url| url.starts_with("unix:"));
        let path = match given.or(env) {
            Some(url) => {
                let path = url.strip_prefix("unix:").map(PathBuf::from).ok_or_else(|| {
                    Failure::usage(format!("{url} is not the socket of a relay on this machine"))
                        .hint("--url unix:PATH", "write it like this, or leave it out")
                })?;
                Some(path)
            }
            None => local_socket(),
        };
        let answers = |path: &PathBuf| std::os::unix::net::UnixStream::connect(path).is_ok();
        Ok(path
            .filter(answers)
            .map(|path| Target { url: format!("unix:{}", path.display()), ..Target::default() }))
    }

    /// A client for what anybody or this machine's administrator may do: on the local socket the
    /// uid speaks, unless a key or token is given.
    pub async fn client(&self) -> Result<Client, Failure> {
        let target = self.target()?;
        self.client_for(&target, !target.url.starts_with("unix:")).await
    }

    /// A client that acts for a key, whatever the transport.
    pub async fn client_with_key(&self) -> Result<Client, Failure> {
        let target = self.target()?;
        self.client_for(&target, true).await
    }

    /// A client for events: each proves its author by itself, and a key is asked for only to sign.
    pub async fn client_for(&self, target: &Target, with_key: bool) -> Result<Client, Failure> {
        let builder = || {
            Client::builder(&target.url)
                .map(|builder| builder.timeout(self.timeout()).user_agent(USER_AGENT))
                .map_err(|error| Failure::usage(error.to_string()))
        };
        let build = |builder: relay_client::ClientBuilder| {
            builder.build().map_err(|error| Failure::usage(error.to_string()))
        };
        if let Some(path) = &self.global.token_file {
            return build(builder()?.token(prompt::secret_file(path)?.as_str()));
        }
        if self.global.key.is_some() {
            return build(builder()?.key(self.key(target)?));
        }
        if let Some(name) = &target.name
            && let Some(session) = contexts::fresh_session(name, &build(builder()?)?).await?
        {
            return build(builder()?.token(session.session_token));
        }
        if let Some(path) = &target.context.token_file {
            return build(builder()?.token(prompt::secret_file(path)?.as_str()));
        }
        let usable = |path: &PathBuf| agent_name(path).is_some() || path.exists();
        if with_key && self.key_path(target)?.is_some_and(|path| usable(&path)) {
            return build(builder()?.key(self.key(target)?));
        }
        build(builder()?)
    }

    /// Where the signing key is, or which one of an agent (`agent:…`): flag or environment, the context, the default place.
    pub fn key_path(&self, target: &Target) -> Result<Option<PathBuf>, Failure> {
        if let Some(path) = self.global.key.clone().or_else(|| target.context.key.clone()) {
            return Ok(Some(path));
        }
        Ok(Some(default_key()?).filter(|path| path.exists()))
    }

    /// What signs: a key file, whose passphrase is asked for or read from a file, or an agent.
    pub fn key(&self, target: &Target) -> Result<Signer, Failure> {
        let path = self.key_path(target)?.ok_or_else(|| {
            Failure::usage("this needs a signing key, and there is none")
                .hint("relay keys gen", "make one")
                .hint("--key ~/.ssh/id_ed25519", "use one that is there")
                .hint("--key agent:", "let ssh-agent sign")
        })?;
        self.signer(&path)
    }

    /// The signing key where no relay is involved.
    pub fn offline_key(&self) -> Result<Signer, Failure> {
        self.key(&self.target().unwrap_or_default())
    }

    /// A key file, or a key of an agent.
    pub fn signer(&self, path: &std::path::Path) -> Result<Signer, Failure> {
        match agent_name(path) {
            Some(name) => AgentKey::find(name).map(Signer::from).map_err(|error| {
                Failure::usage(error.to_string())
                    .hint("ssh-add -L", "the keys that the agent holds")
                    .hint("ssh-add ~/.ssh/id_ed25519", "give it one")
            }),
            None => self.load_key(path).map(Signer::from),
        }
    }

    /// A key itself, for what an agent cannot do.
    pub fn load_key(&self, path: &std::path::Path) -> Result<SigningKey, Failure> {
        if agent_name(path).is_some() {
            return Err(Failure::usage(
                "an agent signs and does not give keys away; give the path of a key file",
            ));
        }
        let mut failure = None;
        let asked = || match self.passphrase(&format!("Passphrase of {}", path.display())) {
            Ok(passphrase) => passphrase,
            Err(error) => {
                failure = Some(error);
                None
            }
        };
        let loaded = keys::load(path, asked);
        if let Some(failure) = failure {
            return Err(failure);
        }
        loaded.map_err(|error| match error {
            keys::KeyFileError::NeedsPassphrase => {
                Failure::usage(format!("{} is protected by a passphrase", path.display()))
                    .hint("--passphrase-file PATH", "read it from a file")
            }
            keys::KeyFileError::Io { .. } | keys::KeyFileError::OpenToOthers(_) => {
                Failure::usage(error.to_string())
            }
            other => Failure::usage(format!("{}: {other}", path.display())),
        })
    }

    /// A passphrase from the file that was named, or from the terminal; `None` where neither is there.
    pub fn passphrase(
        &self,
        question: &str,
    ) -> Result<Option<zeroize::Zeroizing<String>>, Failure> {
        if let Some(file) = &self.global.passphrase_file {
            return prompt::secret_file(file).map(Some);
        }
        if prompt::possible(self.global.no_input) {
            return prompt::secret(question).map(Some);
        }
        Ok(None)
    }

    /// The namespace of an operation: flag or environment, the context, `default`.
    pub fn ns(&self, target: &Target) -> Result<Namespace, Failure> {
        Ok(self.chosen_ns(target)?.unwrap_or_default())
    }

    /// The namespace, where one was named.
    pub fn chosen_ns(&self, target: &Target) -> Result<Option<Namespace>, Failure> {
        let Some(text) = self.global.ns.as_ref().or(target.context.ns.as_ref()) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|error| Failure::usage(format!("'{text}': {error}")))
    }
}

/// The name after `agent:`, where a key is of an agent.
pub fn agent_name(path: &std::path::Path) -> Option<&str> {
    path.to_str()?.strip_prefix("agent:")
}

/// What the relay's log calls this program.
const USER_AGENT: &str = concat!("relay/", env!("CARGO_PKG_VERSION"));

/// Where `keys gen` puts a key, and where others look for it.
pub fn default_key() -> Result<PathBuf, Failure> {
    Ok(key_dir()?.join("default"))
}

pub fn key_dir() -> Result<PathBuf, Failure> {
    Ok(files::config_dir()?.join("keys"))
}

/// The sockets that a relay on this machine listens on.
fn local_socket() -> Option<PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("relay.sock"));
    own.into_iter().chain([PathBuf::from("/run/relay/relay.sock")]).find(|path| path.exists())
}
