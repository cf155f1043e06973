//! `.rl` scripts: JavaScript modules that define services, each in a sandboxed QuickJS of its own.
//!
//! A service is an actor like any other: a mailbox, one message at a time, restarts. What its
//! handlers change in `ctx.state` is stored with the message or not at all; the answer goes out
//! when the change is durable. A handler that throws, loops or eats memory loses its own message
//! only. A new version of a script takes over with the state kept, or not at all.
//!
//! - [`ScriptHost`]: loads, reloads and watches scripts
//! - [`Host`]: what scripts reach outside; [`StateStore`]: where they keep state
//!
//! Scripts are the operator's own: the sandbox keeps mistakes in, it is no wall against an attacker.

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use relay_proto::ServiceName;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

mod error;
mod events;
mod failure;
mod host;
mod limits;
mod machine;
mod operations;
mod pool;
mod sqlite;
mod state;
mod timers;
mod vm;

pub use crate::journal::LogLevel;
pub use error::{ScriptError, ScriptFault};
pub use host::{Host, HostEvent, LockGrant, LockRequest};
pub use limits::{Limit, ScriptLimits};
pub use sqlite::SqliteState;
pub use state::{Commit, MemoryStore, StateError, StateStore, Stored, Timer};

use crate::{
    inbox::Inbox,
    router::Life,
    service::{ServiceInfo, Visibility},
    supervisor::{ActorSpec, Exit, Factory, Incarnation, StartError, Supervisor},
};
use machine::{Machine, Reload};
use pool::ScriptPool;
use vm::{Description, Source, Vm};

/// What all services of a host share.
struct Kit {
    store: Arc<dyn StateStore>,
    host: Arc<dyn Host>,
    /// Of scripts that are loaded without limits of their own.
    limits: ScriptLimits,
    pool: ScriptPool,
}

/// Runs scripts under a supervisor.
pub struct ScriptHost {
    supervisor: Arc<Supervisor>,
    kit: Arc<Kit>,
    /// By file; held while a script is loaded, reloaded or unloaded.
    scripts: Mutex<HashMap<String, Vec<Running>>>,
}

/// How a script is loaded.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Limits of its own.
    pub limits: Option<ScriptLimits>,
    /// Only this one of its services.
    pub only: Option<ServiceName>,
}

/// One service of a loaded script.
#[derive(Clone)]
struct Running {
    name: ServiceName,
    slot: Arc<Slot>,
    reloads: mpsc::Sender<Reload>,
}

/// What the lives of one service hand on to each other.
struct Slot {
    kit: Arc<Kit>,
    name: ServiceName,
    /// The version that runs.
    source: ArcSwap<Source>,
    reloads: Arc<Mutex<mpsc::Receiver<Reload>>>,
    /// Told how the first life began.
    begun: std::sync::Mutex<Option<oneshot::Sender<Result<(), ScriptError>>>>,
}

impl ScriptHost {
    /// `threads` run all scripts; two are plenty where scripts mostly wait.
    ///
    /// # Errors
    /// Where the system gives no threads.
    pub fn new(
        supervisor: Arc<Supervisor>,
        store: Arc<dyn StateStore>,
        host: Arc<dyn Host>,
        limits: ScriptLimits,
        threads: NonZeroUsize,
    ) -> std::io::Result<Self> {
        let pool = ScriptPool::new(threads)?;
        let kit = Arc::new(Kit { store, host, limits, pool });
        Ok(Self { supervisor, kit, scripts: Mutex::default() })
    }

    /// Checks a script without running it.
    ///
    /// # Errors
    /// [`ScriptError`] with file, line and what was expected.
    pub async fn check(&self, file: &str, text: &str) -> Result<Vec<ServiceInfo>, ScriptError> {
        let source = self.source(file, text, None);
        let described = self.describe(&source).await?;
        Ok(described.into_iter().map(|(info, _)| info).collect())
    }

    /// Loads a script, or a new version of one: state is kept, and a broken version changes
    /// nothing. Answers the services it serves.
    ///
    /// # Errors
    /// [`ScriptError`]; where a script has several services and one of them cannot take its new
    /// version, the others have taken theirs.
    pub async fn load(&self, file: &str, text: &str) -> Result<Vec<ServiceName>, ScriptError> {
        self.load_with(file, text, LoadOptions::default()).await
    }

    /// [`Self::load`] with options.
    ///
    /// # Errors
    /// As [`Self::load`]; also where the one wanted service is not in the script.
    pub async fn load_with(
        &self,
        file: &str,
        text: &str,
        options: LoadOptions,
    ) -> Result<Vec<ServiceName>, ScriptError> {
        let source = self.source(file, text, options.limits);
        let mut scripts = self.scripts.lock().await;
        let mut described = self.describe(&source).await?;
        if let Some(only) = options.only {
            described.retain(|(info, _)| info.name == only);
            if described.is_empty() {
                let message = format!("it defines no service '{only}'");
                return Err(ScriptError::new(ScriptFault::Definition, file, message));
            }
        }
        let running = scripts.entry(file.to_owned()).or_default();

        let gone = |each: &Running| !described.iter().any(|(info, _)| info.name == each.name);
        for gone in running.extract_if(.., |each| gone(each)).collect::<Vec<_>>() {
            self.supervisor.stop(&gone.name).await;
        }
        for (info, _) in described {
            match running.iter().find(|each| each.name == info.name) {
                Some(known) => self.reload(known, &source, info).await?,
                None => running.push(self.start(info, &source).await?),
            }
        }
        Ok(running.iter().map(|each| each.name.clone()).collect())
    }

    /// Stops a script's services; their state is kept.
    pub async fn unload(&self, file: &str) {
        for running in self.scripts.lock().await.remove(file).unwrap_or_default() {
            self.supervisor.stop(&running.name).await;
        }
    }

    /// Loads a file and follows its changes until `stop`, looking every `interval`. A broken
    /// version is logged, and the running one stays.
    pub async fn watch(
        &self,
        path: PathBuf,
        options: LoadOptions,
        interval: Duration,
        stop: CancellationToken,
    ) {
        let file = file_name(&path);
        let mut last = None;
        loop {
            match tokio::fs::read_to_string(&path).await {
                Ok(text) if last.as_ref() != Some(&text) => {
                    match self.load_with(&file, &text, options.clone()).await {
                        Ok(services) => info!(%file, ?services, "script loaded"),
                        Err(error) => {
                            warn!(%file, "script refused, the running one stays: {error}")
                        }
                    }
                    last = Some(text);
                }
                Ok(_) => {}
                // Editors replace files: a file that is gone for a moment is no news.
                Err(error) => tracing::debug!(%file, %error, "script not readable"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
            }
        }
    }

    fn source(&self, file: &str, text: &str, limits: Option<ScriptLimits>) -> Arc<Source> {
        let limits = limits.unwrap_or_else(|| self.kit.limits.clone());
        Arc::new(Source { file: file.to_owned(), text: text.to_owned(), limits })
    }

    async fn describe(
        &self,
        source: &Arc<Source>,
    ) -> Result<Vec<(ServiceInfo, Description)>, ScriptError> {
        let (kit, source) = (self.kit.clone(), source.clone());
        let file = source.file.clone();
        let described = self.kit.pool.run(move || async move { describe(&kit, &source) }).await;
        let gone = || ScriptError::new(ScriptFault::Start, &file, "the script threads have ended");
        described.unwrap_or_else(|| Err(gone()))
    }

    /// Starts a service and waits until it serves.
    async fn start(&self, info: ServiceInfo, source: &Arc<Source>) -> Result<Running, ScriptError> {
        let (reloads, receiver) = mpsc::channel(1);
        let (begun, first) = oneshot::channel();
        let slot = Arc::new(Slot {
            kit: self.kit.clone(),
            name: info.name.clone(),
            source: ArcSwap::new(source.clone()),
            reloads: Arc::new(Mutex::new(receiver)),
            begun: std::sync::Mutex::new(Some(begun)),
        });
        let name = info.name.clone();
        let lives = slot.clone();
        let factory: Factory = Box::new(move || Ok(Box::new(OneLife(lives.clone()))));
        let started = self.supervisor.start_incarnations(ActorSpec::new(info), factory);
        started.map_err(|error: StartError| {
            ScriptError::new(ScriptFault::Start, &source.file, error.to_string())
        })?;
        let gone = || ScriptError::new(ScriptFault::Start, &source.file, "the service has ended");
        if let Err(error) = first.await.unwrap_or_else(|_| Err(gone())) {
            self.supervisor.stop(&name).await;
            return Err(error);
        }
        Ok(Running { name, slot, reloads })
    }

    async fn reload(
        &self,
        known: &Running,
        source: &Arc<Source>,
        info: ServiceInfo,
    ) -> Result<(), ScriptError> {
        if *known.slot.source.load_full() == **source {
            return Ok(());
        }
        let router = self.supervisor.router();
        if router.actor(&known.name).is_some_and(|actor| actor.life != Life::Running) {
            // It does not run, so the new version is all there is to try.
            known.slot.source.store(source.clone());
            self.supervisor.restart(&known.name);
            router.update_info(info);
            return Ok(());
        }
        let (answer, taken) = oneshot::channel();
        let reload = Reload { source: source.clone(), answer };
        let gone = || ScriptError::new(ScriptFault::Start, &source.file, "the service has ended");
        known.reloads.send(reload).await.map_err(|_| gone())?;
        taken.await.map_err(|_| gone())??;
        router.update_info(info);
        Ok(())
    }
}

impl fmt::Debug for ScriptHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptHost").field("limits", &self.kit.limits).finish_non_exhaustive()
    }
}

/// The name a script goes by: that of its file.
fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// Evaluates a script in a machine of its own and reads what it defines.
fn describe(kit: &Kit, source: &Source) -> Result<Vec<(ServiceInfo, Description)>, ScriptError> {
    let fault = |text: String| ScriptError::new(ScriptFault::Definition, &source.file, text);
    let nobody: ServiceName = "script".parse().map_err(|_| fault("no name".to_owned()))?;
    let vm = Vm::load(source, &nobody, kit.host.clone())?;
    let mut described: Vec<(ServiceInfo, Description)> = Vec::new();
    for each in vm.services {
        let name: ServiceName = each
            .name
            .parse()
            .map_err(|error| fault(format!("service '{}': {error}", each.name)))?;
        if described.iter().any(|(info, _)| info.name == name) {
            return Err(fault(format!("service '{name}' is defined twice")));
        }
        let version = each.version.parse().map_err(|_| {
            fault(format!("service '{name}': version '{}'; expected one like 1.2.0", each.version))
        })?;
        let visibility = if each.public { Visibility::Public } else { Visibility::Private };
        let mut info = ServiceInfo::new(name);
        info.version = version;
        info.visibility = visibility;
        info.methods = each.methods.clone();
        info.metadata.insert("kind".into(), "script".into());
        if let Some(text) = &each.description {
            info.metadata.insert("description".into(), text.as_str().into());
        }
        described.push((info, each));
    }
    Ok(described)
}

/// One life of a service of a script.
struct OneLife(Arc<Slot>);

impl Incarnation for OneLife {
    fn run(self: Box<Self>, inbox: Inbox, stop: CancellationToken) -> BoxFuture<'static, Exit> {
        let slot = self.0;
        Box::pin(async move {
            let kit = slot.kit.clone();
            let exit = kit.pool.run(move || live(slot, inbox, stop)).await;
            exit.unwrap_or_else(|| Exit::Crashed("its script thread ended".to_owned()))
        })
    }
}

async fn live(slot: Arc<Slot>, inbox: Inbox, stop: CancellationToken) -> Exit {
    let reloads = slot.reloads.clone().lock_owned().await;
    let source = slot.source.load_full();
    let started = Machine::start(slot.kit.clone(), slot.name.clone(), source).await;
    let begun = slot.begun.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(begun) = begun {
        let _ = begun.send(started.as_ref().map(|_| ()).map_err(Clone::clone));
    }
    match started {
        Ok(machine) => {
            let current = |source: &Arc<Source>| slot.source.store(source.clone());
            machine.serve(inbox, reloads, stop, current).await
        }
        Err(error) => Exit::Crashed(error.to_string()),
    }
}
