//! What runs on this node as a service: bridges and scripts of the configuration, and what programs
//! on this machine attach for as long as they are connected.
//!
//! Who may call what is decided by one list of rules: those of `[calls]`, then the `allow` of each
//! service. It is compiled anew whenever a service comes or goes.

mod far;
mod follow;
mod outside;

use std::{
    collections::{BTreeMap, HashSet},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand_core::{OsRng, RngCore};
use relay_actors::{
    ActorSpec, Random, ResultLimits, Router, RouterConfig, ServiceInfo, SqliteResults,
    StartError as ActorError, Supervisor, Visibility, WallClock,
    bridge::{ChannelBridge, HttpBridge, HttpRpcBridge, Program, StdioBridge},
    script::{LoadOptions, ScriptError, ScriptHost, ScriptLimits, SqliteState},
};
use relay_proto::{
    Code, Problem, RelayId, ServiceName,
    call::{AccessRules, Effect, Rule},
};
use relay_store::Clock;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{self, Config},
    start::StartError,
};
pub(crate) use far::Far;
pub(crate) use outside::Outside;

/// How often a watched script's file is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// Threads that run all scripts, which mostly wait.
const SCRIPT_THREADS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

/// The services of a node.
#[derive(Debug)]
pub struct Services {
    pub router: Router,
    pub supervisor: Arc<Supervisor>,
    pub scripts: ScriptHost,
    rules: Mutex<Rules>,
    /// Files of scripts that somebody runs here.
    claimed: Mutex<HashSet<String>>,
    watchers: TaskTracker,
    stop: CancellationToken,
}

/// A service that a bridge makes of a program.
#[derive(Debug, Clone)]
pub struct ServiceSpec {
    pub info: ServiceInfo,
    pub way: Way,
    /// A path that a health check asks, where the program speaks HTTP.
    pub health: Option<String>,
    pub health_every: Duration,
    /// Patterns of callers; `None` lets everybody call it.
    pub allow: Option<Vec<String>>,
    /// Calls under way at once, at least 1.
    pub concurrency: usize,
}

/// How the program is reached.
#[derive(Debug, Clone)]
pub enum Way {
    /// JSON-RPC over HTTP, at this URL.
    Http(String),
    /// Any HTTP server, below this URL.
    Proxy(String),
    /// A child process.
    Stdio(Program),
    /// It is connected already.
    Attached(ChannelBridge),
}

impl Way {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Proxy(_) => "proxy",
            Self::Stdio(_) => "stdio",
            Self::Attached(_) => "attached",
        }
    }
}

impl ServiceSpec {
    /// A service that everybody may call, without health checks.
    pub fn new(info: ServiceInfo, way: Way) -> Self {
        let (health, health_every) = (None, Duration::from_secs(15));
        Self { info, way, health, health_every, allow: None, concurrency: 64 }
    }
}

#[derive(Debug, Default)]
struct Rules {
    /// Those of `[calls]`.
    base: Vec<Rule>,
    /// The callers of services that name them.
    allow: BTreeMap<ServiceName, Vec<String>>,
}

impl Services {
    /// Opens what actors keep under `dir`, and starts nothing yet.
    pub(crate) async fn open(
        config: &Config,
        relay_id: &str,
        dir: &Path,
        outside: impl FnOnce(Router) -> Outside,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let bad = |error: &dyn std::fmt::Display| StartError::Setting(error.to_string());
        let relay: RelayId = relay_id.parse().map_err(|error| bad(&error))?;
        let results = ResultLimits {
            entries: config.calls.max_results as usize,
            bytes: config.calls.max_result_bytes.0 as usize,
            keep: config.calls.keep_results,
        };
        let wall = WallClock::new(move || clock.wall_ns() / 1_000_000);
        let router = Router::new(RouterConfig { relay, results, clock: wall });
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            StartError::Actors(format!("{}: {error}", dir.join(what).display()))
        };
        let kept = SqliteResults::open(&dir.join("results.db"));
        let kept = kept.map_err(|error| failed("results.db", &error))?;
        let restored = router.keep_results(Arc::new(kept)).await;
        restored.map_err(|error| failed("results.db", &error))?;
        let state = SqliteState::open(&dir.join("scripts.db"));
        let state = state.map_err(|error| failed("scripts.db", &error))?;
        // 53 random bits make a number in [0, 1).
        let random = Random::new(|| (OsRng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64);
        let supervisor = Arc::new(Supervisor::new(router.clone(), random));
        let scripts = ScriptHost::new(
            supervisor.clone(),
            Arc::new(state),
            Arc::new(outside(router.clone())),
            ScriptLimits::default(),
            SCRIPT_THREADS,
        )
        .map_err(StartError::Thread)?;
        let base = config.calls.rule.iter().map(rule).collect();
        let services = Self {
            router,
            supervisor,
            scripts,
            rules: Mutex::new(Rules { base, allow: BTreeMap::new() }),
            claimed: Mutex::default(),
            watchers: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        services.change_rules(|_| {});
        Ok(services)
    }

    /// Starts the services and scripts of the configuration. A script that is broken is told in the
    /// log and does not keep the node from starting.
    pub(crate) async fn start_configured(
        self: &Arc<Self>,
        config: &Config,
    ) -> Result<(), StartError> {
        for service in &config.service {
            let spec = configured(service).map_err(|error| StartError::Setting(error.message))?;
            self.start(spec).map_err(|error| StartError::Setting(error.message))?;
        }
        for script in &config.script {
            self.start_script(script).await;
        }
        Ok(())
    }

    /// Starts a service.
    ///
    /// # Errors
    /// `conflict` for a name that is taken, `invalid_request` for a URL that no bridge leads to.
    pub fn start(&self, spec: ServiceSpec) -> Result<(), Problem> {
        let name = spec.info.name.clone();
        if self.router.actor(&name).is_some() {
            return Err(taken(&name));
        }
        // Before the first call can come.
        let allow = spec.allow.clone();
        self.change_rules(|rules| match allow {
            Some(allow) => drop(rules.allow.insert(name.clone(), allow)),
            None => drop(rules.allow.remove(&name)),
        });
        let mut actor = ActorSpec::new(spec.info);
        actor.info.metadata.insert("kind".into(), spec.way.kind().into());
        actor.health = spec.health_every;
        actor.concurrency = NonZeroUsize::new(spec.concurrency).unwrap_or(NonZeroUsize::MIN);
        let health = spec.health;
        let started = match spec.way {
            Way::Http(url) => {
                let bridge = HttpRpcBridge::new(&url, health.as_deref());
                let bridge = bridge.map_err(|error| Problem::invalid(error.to_string()))?;
                self.supervisor.start(actor, move || Ok(bridge.clone()))
            }
            Way::Proxy(url) => {
                actor.info.metadata.insert("path".into(), format!("/svc/{name}/").into());
                let bridge = HttpBridge::new(&url, health.as_deref());
                let bridge = bridge.map_err(|error| Problem::invalid(error.to_string()))?;
                self.supervisor.start(actor, move || Ok(bridge.clone()))
            }
            Way::Stdio(program) => {
                let router = self.router.clone();
                let make = move || StdioBridge::spawn(&program, router.journal(&name));
                self.supervisor.start(actor, make)
            }
            Way::Attached(bridge) => self.supervisor.start(actor, move || Ok(bridge.clone())),
        };
        started.map_err(|error| match error {
            ActorError::NameTaken(name) => taken(&name),
            ActorError::Stopping => Problem::new(Code::HomeUnreachable, "the relay is stopping"),
        })
    }

    /// Stops a service and waits for it.
    pub async fn end(&self, name: &ServiceName) {
        if self.supervisor.stop(name).await {
            self.change_rules(|rules| drop(rules.allow.remove(name)));
        }
    }

    /// Takes the name of a script's file, under which one program at a time runs it.
    ///
    /// # Errors
    /// `conflict`.
    pub fn claim_script(&self, file: &str) -> Result<(), Problem> {
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        if claimed.insert(file.to_owned()) {
            return Ok(());
        }
        Err(Problem::new(Code::Conflict, format!("a script '{file}' runs here already")))
    }

    /// Stops the services of a script, and gives its name back; their state is kept.
    pub async fn end_script(&self, file: &str) {
        self.scripts.unload(file).await;
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner).remove(file);
    }

    /// Runs a script of a file of this machine, and follows its changes where it is watched.
    ///
    /// # Errors
    /// Where it cannot be taken now; a watched one is taken when it is mended.
    pub async fn run_script(
        self: &Arc<Self>,
        path: PathBuf,
        options: LoadOptions,
        watch: bool,
    ) -> Result<Vec<ServiceName>, Problem> {
        let file = file_name(&path);
        self.claim_script(&file)?;
        let text = tokio::fs::read_to_string(&path).await;
        let text = text.map_err(|error| Problem::invalid(format!("{}: {error}", path.display())));
        let loaded = match text {
            Ok(text) => {
                let loaded = self.scripts.load_with(&file, &text, options.clone()).await;
                loaded.map_err(script_problem)
            }
            Err(problem) => Err(problem),
        };
        if watch {
            let (services, stop) = (self.clone(), self.stop.clone());
            self.watchers.spawn(async move {
                services.scripts.watch(path, options, WATCH_INTERVAL, stop).await;
            });
        }
        loaded
    }

    async fn start_script(self: &Arc<Self>, script: &config::Script) {
        let limits = ScriptLimits {
            memory: script.memory.0 as usize,
            cpu: script.cpu,
            wall: script.wall,
            state: script.state.0 as usize,
            ..ScriptLimits::default()
        };
        let options = LoadOptions { limits: Some(limits), only: None };
        let file = script.file.display().to_string();
        match self.run_script(script.file.clone(), options, script.watch).await {
            Ok(services) => tracing::info!(%file, ?services, "script loaded"),
            Err(problem) => tracing::error!(%file, "script refused: {}", problem.message),
        }
    }

    /// Asks every service to stop and waits, at most `grace`.
    pub(crate) async fn close(&self, grace: Duration) {
        self.stop.cancel();
        self.watchers.close();
        self.watchers.wait().await;
        if !self.supervisor.shutdown(grace).await {
            tracing::warn!("services did not end in time and are cut");
        }
    }

    fn change_rules(&self, change: impl FnOnce(&mut Rules)) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut rules);
        self.router.set_access(rules.compile());
    }
}

impl Rules {
    fn compile(&self) -> AccessRules {
        let mut rules = self.base.clone();
        for (service, callers) in &self.allow {
            let service = service.as_str();
            rules.push(Rule::new(Effect::Allow, service, "*", "local"));
            rules.extend(callers.iter().map(|who| Rule::new(Effect::Allow, service, "*", who)));
            rules.push(Rule::new(Effect::Deny, service, "*", "*"));
        }
        AccessRules { rules, otherwise: Effect::Allow }
    }
}

fn rule(rule: &config::CallRule) -> Rule {
    let effect = match rule.effect {
        config::RuleEffect::Allow => Effect::Allow,
        config::RuleEffect::Deny => Effect::Deny,
    };
    Rule::new(effect, &rule.service, &rule.method, &rule.caller)
}

fn taken(name: &ServiceName) -> Problem {
    Problem::new(Code::Conflict, format!("a service named '{name}' runs here already"))
}

/// A script that was not taken, with its place and what was expected.
pub fn script_problem(error: ScriptError) -> Problem {
    let mut problem = Problem::invalid(error.to_string()).with("file", error.file);
    if let Some(line) = error.line {
        problem = problem.with("line", line);
    }
    if let Some(column) = error.column {
        problem = problem.with("column", column);
    }
    problem
}

/// The name a script goes by: that of its file.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn configured(service: &config::Service) -> Result<ServiceSpec, Problem> {
    let bad = |error: &dyn std::fmt::Display| Problem::invalid(error.to_string());
    let mut info = ServiceInfo::new(service.name.parse().map_err(|error| bad(&error))?);
    info.version = service.version.parse().map_err(|error| bad(&error))?;
    info.methods.clone_from(&service.methods);
    info.visibility = match service.visibility {
        config::Visibility::Public => Visibility::Public,
        config::Visibility::Private => Visibility::Private,
    };
    let way = match service.stdio.split_first() {
        Some((program, args)) => Way::Stdio(Program {
            program: program.into(),
            args: args.iter().map(Into::into).collect(),
            directory: service.directory.clone(),
            environment: Vec::new(),
        }),
        None if service.http.is_empty() => Way::Proxy(service.proxy.clone()),
        None => Way::Http(service.http.clone()),
    };
    let everybody = service.allow.iter().any(|who| who == "*");
    Ok(ServiceSpec {
        info,
        way,
        health: Some(service.health.clone()).filter(|path| !path.is_empty()),
        health_every: service.health_every,
        allow: (!everybody).then(|| service.allow.clone()),
        concurrency: service.concurrency as usize,
    })
}

#[cfg(test)]
mod tests {
    use relay_proto::Caller;

    use super::*;

    #[test]
    fn rules_of_calls_come_before_those_of_services() {
        let deny = Rule::new(Effect::Deny, "blog", "delete_*", "*");
        let allow = BTreeMap::from([("blog".parse().unwrap(), vec!["*@hub".to_owned()])]);
        let rules = Rules { base: vec![deny], allow }.compile();
        let effect = |service: &str, method: &str, caller: &Caller| {
            let (service, method) = (service.parse().unwrap(), method.parse().unwrap());
            rules.decide(&service, &method, caller).effect
        };
        let friend = Caller::remote("alice.home@hub".parse().unwrap());
        let stranger = Caller::remote("eve@other".parse().unwrap());
        assert_eq!(effect("blog", "read", &friend), Effect::Allow);
        assert_eq!(effect("blog", "delete_post", &friend), Effect::Deny);
        assert_eq!(effect("blog", "read", &stranger), Effect::Deny);
        assert_eq!(effect("blog", "read", &Caller::local()), Effect::Allow);
        assert_eq!(effect("shop", "read", &stranger), Effect::Allow);
    }
}
