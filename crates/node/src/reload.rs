//! Settings that change while the relay runs (`cli.md` 3.5).
//!
//! What is in force is one [`Config`] behind [`Node::live`], replaced as a whole. [`take_over`] says which
//! settings change live; the others keep the value of the start and are told as needing a restart.

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use arc_swap::ArcSwap;
use serde::Serialize;

use crate::{
    config::{Config, Difference, Listen, Loaded, Locks, Log, Problems},
    node::Node,
    settings,
};

/// The program around the node: where its configuration comes from, and what it itself takes from it.
pub trait Reread: fmt::Debug + Send + Sync {
    /// Reads and checks all sources again.
    ///
    /// # Errors
    /// Every problem of every source.
    fn read(&self) -> Result<Loaded, Problems>;

    /// Takes over what the program uses itself, such as the level of its log.
    fn apply(&self, config: &Config);
}

/// Something outside the node that a reload makes new: files that the configuration only names.
pub trait Renewal: fmt::Debug + Send + Sync {
    /// Reads and checks what is new. What it returns is done once nothing else of the reload can fail.
    ///
    /// # Errors
    /// Why the new is no good, in words for people; then the reload changes nothing.
    fn prepare(self: Arc<Self>) -> Result<Box<dyn FnOnce() + Send>, String>;
}

/// What a reload did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// Settings that changed at once.
    pub changed: Vec<Difference>,
    /// Settings that keep their old value until the relay is started again.
    pub restart: Vec<Difference>,
}

/// Why a reload changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    #[error("the configuration cannot be used")]
    Bad(Vec<String>),
    #[error("this relay was started without configuration sources")]
    NoSources,
}

/// How the last reload ended: what the status tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastReload {
    pub at_ms: u64,
    pub ok: bool,
    /// Why nothing was changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Settings that wait for a restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub restart: Vec<Difference>,
}

/// The settings in force.
#[derive(Debug)]
pub(crate) struct Live {
    config: ArcSwap<Config>,
    sources: OnceLock<Arc<dyn Reread>>,
    renewal: OnceLock<Arc<dyn Renewal>>,
    /// Held for the whole of a reload, so that two never mix.
    last: Mutex<Option<LastReload>>,
}

impl Live {
    pub fn new(config: Config) -> Self {
        Self {
            config: ArcSwap::from_pointee(config),
            sources: OnceLock::new(),
            renewal: OnceLock::new(),
            last: Mutex::default(),
        }
    }

    /// For a moment's look, without counting a reference.
    pub fn current(&self) -> arc_swap::Guard<Arc<Config>> {
        self.config.load()
    }
}

/// The configuration after a reload: of `new` what can change live, the rest as it runs.
fn take_over(running: &Config, new: &Config) -> Config {
    let mut next = running.clone();
    // A home never changes while the relay runs: then all of these sections wait for a restart.
    let homes = |config: &Config| -> Vec<(String, String)> {
        let named = config.namespace.iter().filter(|policy| policy.home != "self");
        named.map(|policy| (policy.r#match.clone(), policy.home.clone())).collect()
    };
    if homes(running) == homes(new) {
        next.namespace = new.namespace.clone();
    }
    next.acl = new.acl.clone();
    next.groups = new.groups.clone();
    next.quota = new.quota.clone();
    // The room for ephemeral events is made at the start.
    next.events = new.events.clone();
    next.events.ephemeral_replay = running.events.ephemeral_replay;
    // The lease table knows the longest lease from the start.
    next.locks = Locks { max_lease: running.locks.max_lease, ..new.locks.clone() };
    next.chat = new.chat.clone();
    next.presence = new.presence.clone();
    next.chat.insecure_dev_auth = running.chat.insecure_dev_auth;
    next.listen =
        Listen { trusted_proxies: new.listen.trusted_proxies.clone(), ..running.listen.clone() };
    next.drain = new.drain.clone();
    next.log = Log { level: new.log.level.clone(), ..running.log.clone() };
    next
}

impl Node {
    /// The settings in force now.
    pub fn live(&self) -> Arc<Config> {
        self.live.config.load_full()
    }

    /// Says where a reload reads the configuration. Only the first call counts.
    pub fn set_sources(&self, sources: Arc<dyn Reread>) {
        let _ = self.live.sources.set(sources);
    }

    /// Says what else a reload makes new. Only the first call counts.
    pub fn renew_at_reload(&self, renewal: Arc<dyn Renewal>) {
        let _ = self.live.renewal.set(renewal);
    }

    /// How the last reload ended, if there was one.
    pub fn last_reload(&self) -> Option<LastReload> {
        self.live.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a reload would do now.
    ///
    /// # Errors
    /// [`ReloadError`].
    pub fn preview_reload(&self) -> Result<Reloaded, ReloadError> {
        let (running, new) = (self.live(), self.read_sources()?);
        Ok(report(&running, &take_over(&running, &new), &new))
    }

    /// Reads the configuration again and applies what can change live. A bad one changes nothing.
    ///
    /// Reads files: not for a thread that serves sockets.
    ///
    /// # Errors
    /// [`ReloadError`]; it is logged and kept for the status too.
    pub fn reload(&self) -> Result<Reloaded, ReloadError> {
        let mut last = self.live.last.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.reload_alone();
        let mut told = LastReload {
            at_ms: self.clock.wall_ns() / 1_000_000,
            ok: outcome.is_ok(),
            problems: Vec::new(),
            restart: Vec::new(),
        };
        match &outcome {
            Ok(done) => {
                tracing::info!(changed = %names(&done.changed), "the configuration was reloaded");
                if !done.restart.is_empty() {
                    tracing::warn!(settings = %names(&done.restart), "these need a restart");
                }
                told.restart = done.restart.clone();
            }
            Err(error) => {
                let problems = match error {
                    ReloadError::Bad(problems) => problems.clone(),
                    ReloadError::NoSources => vec![error.to_string()],
                };
                for problem in &problems {
                    tracing::error!("the configuration was not reloaded: {problem}");
                }
                told.problems = problems;
            }
        }
        *last = Some(told);
        outcome
    }

    fn reload_alone(&self) -> Result<Reloaded, ReloadError> {
        let (running, new) = (self.live(), self.read_sources()?);
        let next = take_over(&running, &new);
        // Everything that can fail comes before the first change.
        let acl = settings::acl(&next, self.identity.node_id())
            .map_err(|error| ReloadError::Bad(vec![error.to_string()]))?;
        let renewal = self.live.renewal.get().cloned();
        let renew = renewal.map(Renewal::prepare).transpose();
        let renew = renew.map_err(|problem| ReloadError::Bad(vec![problem]))?;
        self.policy.reconfigure(acl);
        self.quotas.reconfigure(settings::quota(&next));
        self.sessions.reconfigure(settings::sessions(&next, &self.identity.relay_id));
        self.conversations.reconfigure(settings::chat(&next, &self.identity.relay_id));
        self.key_packages.reconfigure(settings::key_packages(&next));
        self.presence.reconfigure(settings::presence(&next));
        self.attachments.reconfigure(settings::attachments(&next));
        if let Some(renew) = renew {
            renew();
        }
        let done = report(&running, &next, &new);
        if let Some(sources) = self.live.sources.get() {
            sources.apply(&next);
        }
        self.live.config.store(Arc::new(next));
        Ok(done)
    }

    fn read_sources(&self) -> Result<Config, ReloadError> {
        let sources = self.live.sources.get().ok_or(ReloadError::NoSources)?;
        let told = |problems: Problems| problems.0.iter().map(ToString::to_string).collect();
        sources
            .read()
            .map(|loaded| loaded.config)
            .map_err(|problems| ReloadError::Bad(told(problems)))
    }
}

fn report(running: &Config, next: &Config, new: &Config) -> Reloaded {
    Reloaded { changed: running.differences(next), restart: next.differences(new) }
}

fn names(settings: &[Difference]) -> String {
    settings.iter().map(|one| one.setting.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;

    fn config(text: &str) -> Config {
        load_text("test.toml", text).unwrap().config
    }

    fn settings(differences: &[Difference]) -> Vec<&str> {
        differences.iter().map(|one| one.setting.as_str()).collect()
    }

    #[test]
    fn what_cannot_change_live_keeps_its_value_and_is_told() {
        let running = config("");
        let new = config(
            "[node]\nid = \"other\"\n[quota]\nlocks = 5\n[locks]\nmax_lease = \"10s\"\nhistory = \"1d\"\n\
             [log]\nlevel = \"debug\"\nformat = \"json\"\n[[acl]]\nns = \"a\"\nwho = [\"*\"]\nallow = [\"read\"]\n",
        );
        let next = take_over(&running, &new);
        let done = report(&running, &next, &new);
        assert_eq!(settings(&done.changed), ["acl", "locks.history", "log.level", "quota.locks"]);
        assert_eq!(settings(&done.restart), ["locks.max_lease", "log.format", "node.id"]);
        assert_eq!(next.node.id, running.node.id);
    }

    #[test]
    fn nothing_new_is_no_difference() {
        let running = config("[quota]\nlocks = 5\n");
        let done = report(&running, &take_over(&running, &running), &running);
        assert_eq!(done, Reloaded::default());
    }
}
