//! Running a relay: build, say what it is, wait for the end, stop cleanly (`cli.md` 3.2, 3.5).

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use relay_actors::{Visibility, script::LoadOptions};
use relay_edge::Doors;
use relay_fed::link::Role;
use relay_node::{Node, Reread, config::Config};
use relay_proto::ServiceName;
use relay_store::SystemClock;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A script to run beside what the configuration says; the relay does not start where it is broken.
#[derive(Debug, Clone)]
pub struct OwnScript {
    pub path: PathBuf,
    pub only: Option<ServiceName>,
    /// Follow its changes; then a broken one is waited for.
    pub watch: bool,
}

/// Serves until SIGTERM or SIGINT; returns when everything is stored and closed.
/// SIGHUP reads the configuration again.
pub async fn run(
    config: Config,
    script: Option<OwnScript>,
    sources: Arc<dyn Reread>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    raise_file_limit();
    let mut signals = Signals::new().context("signals cannot be caught")?;
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be caught")?;
    let node = Node::start(config, Arc::new(SystemClock)).await?;
    node.set_sources(sources);
    let doors = match open(&node, script).await {
        Ok(doors) => doors,
        Err(error) => {
            node.close(Duration::from_secs(1)).await;
            return Err(error);
        }
    };
    greet(&node, &doors, began.elapsed());
    let timeout = until_stop(&node, &mut signals, &mut hangup).await;
    stop(node, doors, signals, timeout).await;
    Ok(())
}

async fn open(node: &Arc<Node>, script: Option<OwnScript>) -> anyhow::Result<Doors> {
    if let Some(OwnScript { path, only, watch }) = script {
        let options = LoadOptions { limits: None, only };
        match node.services.run_script(path, options, watch).await {
            Ok(_) => {}
            Err(problem) if watch => eprintln!("{}", problem.message),
            Err(problem) => return Err(anyhow::anyhow!(problem.message)),
        }
    }
    Ok(Doors::open(node.clone()).await?)
}

/// Serves signals until one, or an operator, ends the relay; returns the time for what is under way.
async fn until_stop(node: &Arc<Node>, signals: &mut Signals, hangup: &mut Signal) -> Duration {
    loop {
        tokio::select! {
            () = signals.next() => return node.live().drain.timeout,
            timeout = node.stop_asked() => return timeout,
            _ = hangup.recv() => {
                let node = node.clone();
                // How it went is in the log and in the status.
                let _ = tokio::task::spawn_blocking(move || node.reload()).await;
            }
        }
    }
}

/// First it says that it stops, then it finishes what is under way; a second signal cuts that short.
async fn stop(node: Arc<Node>, doors: Doors, mut signals: Signals, timeout: Duration) {
    let delay = node.live().drain.delay;
    tracing::info!("stopping: {timeout:?} for what is under way");
    node.start_draining();
    let orderly = async {
        tokio::time::sleep(delay).await;
        doors.close(timeout).await;
    };
    tokio::select! {
        () = orderly => {}
        () = signals.next() => tracing::warn!("stopping now"),
    }
    node.close(Duration::from_secs(5)).await;
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next signal that ends the relay.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// One connection is one file: take as many as the system gives.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, "the limit of open files could not be raised");
    }
}

/// The lines that a person sees at the start, on stderr.
fn greet(node: &Node, doors: &Doors, took: Duration) {
    let config = &node.config;
    // That of the configuration, or of the hub that was joined.
    let role = node.federated().role;
    let scheme = if doors.tls { "https" } else { "http" };
    eprintln!(
        "relay {}  {}  {}  {}",
        env!("CARGO_PKG_VERSION"),
        if role == Role::Home { "home" } else { "main" },
        node.identity.relay_id,
        node.identity.node_id()
    );
    let links = if doors.tls { "wss" } else { "ws" };
    for addr in &doors.http {
        let federate = match role {
            Role::Main => format!("      federation  {links}://{addr}/federate"),
            Role::Home => String::new(),
        };
        eprintln!("  listen   {scheme}://{addr}{federate}");
    }
    let socket = doors.socket.as_ref().map_or("none".into(), |path| path.display().to_string());
    let backend = match config.store.backend {
        relay_node::config::Backend::Sqlite => "sqlite",
        relay_node::config::Backend::Postgres => "postgres",
    };
    eprintln!("  data     {} ({backend})      socket   {socket}", config.node.data_dir().display());
    let services: Vec<String> = node
        .services
        .router
        .actors()
        .iter()
        .map(|actor| match actor.info.visibility {
            Visibility::Public => actor.info.name.to_string(),
            Visibility::Private => format!("{} (private)", actor.info.name),
        })
        .collect();
    if !services.is_empty() {
        eprintln!("  services {}", services.join(", "));
    }
    if config.chat.insecure_dev_auth {
        eprintln!(
            "  DANGER   insecure_dev_auth is on: anybody who reaches this relay may be anybody"
        );
    }
    if config.acl.is_empty() {
        eprintln!(
            "  open     namespace 'default' may be read, written and locked by anyone   \
             -> relay config check --security"
        );
    }
    let next = match role {
        Role::Main => "relay token create --for spoke   |   relay invite   |   relay doctor",
        Role::Home => "relay expose NAME --http URL   |   relay run FILE.rl   |   relay status",
    };
    eprintln!("ready in {:.2} s.  Next: {next}", took.as_secs_f64());
}
