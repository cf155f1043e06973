//! `relay expose`: a program of this machine as a service, for as long as the command runs.

use std::{
    collections::HashMap,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rand_core::{OsRng, RngCore};
use relay_actors::{
    ActorSpec, Journal, Life, Random, Router, RouterConfig, ServiceInfo, Supervisor,
    bridge::{Program, StdioBridge, is_usable_url},
};
use relay_client::{Attachment, Error, PassedCall, Served, ServiceOffer};
use relay_proto::{Address, Call, CallError, ServiceName, call::Json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::attached::{self, Ending, attach};
use crate::{
    app::App,
    error::{Failure, Outcome, exit},
    files,
};

/// How long the child process may take to end.
const END_GRACE: Duration = Duration::from_secs(6);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay expose blog --http http://127.0.0.1:3000/rpc --health /healthz
  relay expose shop --proxy http://127.0.0.1:8000
  relay expose tools --stdio -- python3 tools.py")]
pub struct Expose {
    /// The service's name
    name: ServiceName,
    /// URL of a program that speaks JSON-RPC over HTTP
    #[arg(long, value_name = "URL", value_parser = url, group = "way", required_unless_present_any = ["proxy", "stdio"])]
    http: Option<String>,
    /// Base URL of any HTTP server; callers use /svc/NAME/…
    #[arg(long, value_name = "URL", value_parser = url, group = "way")]
    proxy: Option<String>,
    /// Run a command that speaks JSON-RPC, one message a line, on stdin and stdout
    #[arg(long, group = "way", requires = "command")]
    stdio: bool,
    /// For every node of the federation (default)
    #[arg(long, conflicts_with = "private")]
    public: bool,
    /// For this node only
    #[arg(long)]
    private: bool,
    /// Its version
    #[arg(id = "service_version", long = "version", value_name = "V", default_value = "1.0.0")]
    version: String,
    /// Methods that it has
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    methods: Vec<String>,
    /// Path that health checks ask, with --http or --proxy
    #[arg(long, value_name = "PATH")]
    health: Option<String>,
    /// Write it into the configuration too, for the relay's next start
    #[arg(long)]
    save: bool,
    /// The command of --stdio
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

fn url(text: &str) -> Result<String, String> {
    let usable = is_usable_url(text);
    let wanted = "an http or https URL without user and password";
    usable.then(|| text.to_owned()).ok_or_else(|| wanted.to_owned())
}

impl Expose {
    pub async fn run(self, app: &App) -> Outcome {
        let target = app.local_target()?.ok_or_else(|| {
            Failure::usage("no relay runs on this machine")
                .hint("relay serve", "start one")
                .hint("--url unix:PATH", "where its socket is elsewhere")
        })?;
        let (client, mut attachment) = attach(app, &target).await?;
        let mut ending = Ending::new()?;
        let child = self.program().map(|program| Child::start(&self.name, program)).transpose()?;
        attachment
            .register(&self.offer())
            .await
            .map_err(|error| Failure::of(error, &format!("service {}", self.name)))?;
        if self.save {
            let path = self.save()?;
            app.notice(&format!(
                "saved in {}; the relay takes it at its next start",
                path.display()
            ));
        }
        let relay = attached::relay_name(&client).await;
        let seen = self.visibility();
        app.notice(&format!("{} is {seen} on {relay} (Ctrl-C ends it)", self.name));
        let mut shown = 0;
        let served = loop {
            let child = child.as_ref();
            let lost = match serve(app, &mut attachment, child, &mut shown, &mut ending).await {
                Stopped::Asked => break Ok(()),
                Stopped::GivenUp => break Err(self.given_up()),
                Stopped::Lost(error) => error,
            };
            let offer =
                async |attachment: &mut Attachment| attachment.register(&self.offer()).await;
            match attached::reattach(app, &target, &lost, &mut ending, offer).await {
                Ok(Some((again, _))) => attachment = again,
                Ok(None) => break Ok(()),
                Err(failure) if self.save && failure.exit == exit::TAKEN => {
                    app.notice(&format!("{} is the relay's own from now on", self.name));
                    break Ok(());
                }
                Err(failure) => break Err(failure),
            }
        };
        // Withdrawn before the program ends, so that no call finds it gone.
        drop(attachment);
        if let Some(child) = child {
            child.supervisor.shutdown(END_GRACE).await;
        }
        served?;
        Ok(0)
    }

    const fn visibility(&self) -> &'static str {
        if self.private && !self.public { "private" } else { "public" }
    }

    fn offer(&self) -> ServiceOffer {
        ServiceOffer {
            service_name: self.name.clone(),
            version: Some(self.version.clone()),
            methods: self.methods.clone(),
            visibility: self.visibility(),
            http: self.http.clone(),
            proxy: self.proxy.clone(),
            health: self.health.clone(),
            log: true,
        }
    }

    /// The child process; it has this command's environment, without what speaks to relays.
    fn program(&self) -> Option<Program> {
        let (program, args) = self.command.split_first().filter(|_| self.stdio)?;
        let ours = |name: &OsString| name.to_string_lossy().starts_with("RELAY_");
        Some(Program {
            program: program.clone(),
            args: args.to_vec(),
            directory: None,
            environment: std::env::vars_os().filter(|(name, _)| !ours(name)).collect(),
        })
    }

    fn given_up(&self) -> Failure {
        Failure::failed(format!("service {}: its command only crashes; given up", self.name))
    }

    /// Writes a drop-in beside the configuration file.
    fn save(&self) -> Result<PathBuf, Failure> {
        let mut service = toml::Table::new();
        let mut set = |name: &str, value: toml::Value| service.insert(name.to_owned(), value);
        set("name", self.name.as_str().into());
        for (name, url) in [("http", &self.http), ("proxy", &self.proxy)] {
            if let Some(url) = url {
                set(name, url.as_str().into());
            }
        }
        if self.stdio {
            let words = self.command.iter().map(|word| word.to_string_lossy().into_owned().into());
            set("stdio", toml::Value::Array(words.collect()));
            let here = std::env::current_dir()?;
            set("directory", here.to_string_lossy().into_owned().into());
        }
        set("visibility", self.visibility().into());
        set("version", self.version.as_str().into());
        if !self.methods.is_empty() {
            let methods = self.methods.iter().map(|method| method.as_str().into());
            set("methods", toml::Value::Array(methods.collect()));
        }
        if let Some(health) = &self.health {
            set("health", health.as_str().into());
        }
        let mut file = toml::Table::new();
        file.insert("service".into(), toml::Value::Array(vec![toml::Value::Table(service)]));
        let dir = drop_in_dir()?;
        std::fs::create_dir_all(&dir).map_err(|error| files::at(&dir, &error))?;
        let path = dir.join(format!("service-{}.toml", self.name));
        let text = toml::to_string(&file).map_err(|error| Failure::failed(error.to_string()))?;
        let text = format!("# Written by `relay expose --save`.\n{text}");
        files::replace(&path, text.as_bytes()).map_err(|error| files::at(&path, &error))?;
        Ok(path)
    }
}

/// Where the relay of this machine reads drop-ins: as `config` finds them.
fn drop_in_dir() -> Result<PathBuf, Failure> {
    let own = files::config_dir()?;
    let system = Path::new("/etc/relay");
    let is_used = own.join("relay.toml").is_file() || own.join("relay.d").is_dir();
    let dir = if !is_used && system.join("relay.toml").is_file() { system } else { &own };
    Ok(dir.join("relay.d"))
}

/// A child process under a supervisor of this command.
struct Child {
    name: ServiceName,
    supervisor: Supervisor,
    journal: Option<Journal>,
}

impl Child {
    fn start(name: &ServiceName, program: Program) -> Result<Self, Failure> {
        let relay = "expose".parse().map_err(|error| Failure::failed(format!("{error}")))?;
        let router = Router::new(RouterConfig::new(relay));
        let random = Random::new(|| f64::from(OsRng.next_u32()) / f64::from(u32::MAX));
        let supervisor = Supervisor::new(router.clone(), random);
        // The relay has asked already who may call what.
        let spec = ActorSpec::new(ServiceInfo::new(name.clone()).public());
        let (journals, own) = (router.clone(), name.clone());
        let make = move || StdioBridge::spawn(&program, journals.journal(&own));
        let started = supervisor.start(spec, make);
        started.map_err(|error| Failure::failed(error.to_string()))?;
        let journal = router.journal(name);
        Ok(Self { name: name.clone(), supervisor, journal })
    }

    /// Serves one call.
    fn call(&self, passed: PassedCall) -> BoxFuture<'static, Result<Json, CallError>> {
        let router = self.supervisor.router().clone();
        let mut call = Call::new(Address::anywhere(self.name.clone()), passed.method, passed.args);
        call.timeout = Duration::from_millis(passed.timeout_ms);
        call.trace = passed.trace;
        Box::pin(
            async move { router.receive(call, passed.caller, None).await.map(|reply| reply.value) },
        )
    }

    /// Resolves when the supervisor has given the process up.
    async fn given_up(&self) {
        let mut changes = self.supervisor.router().changes();
        let is_over = || {
            let actor = self.supervisor.router().actor(&self.name);
            actor.is_none_or(|actor| actor.life == Life::GaveUp)
        };
        while !is_over() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// The id of a call, and its result unless it was cancelled.
type Answered = (String, Option<Result<Json, CallError>>);

/// Why no more calls are served.
enum Stopped {
    /// The command is to end.
    Asked,
    /// The child process only crashes.
    GivenUp,
    /// The connection to the relay.
    Lost(Error),
}

/// Serves calls as long as the connection, the child process and the command last. `shown` is the last line of
/// the process' log that was shown.
async fn serve(
    app: &App,
    attachment: &mut Attachment,
    child: Option<&Child>,
    shown: &mut u64,
    ending: &mut Ending,
) -> Stopped {
    let mut running: FuturesUnordered<BoxFuture<'static, Answered>> = FuturesUnordered::new();
    let mut cancels: HashMap<String, CancellationToken> = HashMap::new();
    let lines = child.and_then(|child| child.journal.clone());
    let mut newest = lines.as_ref().map(Journal::newest);
    loop {
        tokio::select! {
            () = ending.asked() => return Stopped::Asked,
            () = given_up(child) => return Stopped::GivenUp,
            () = grown(newest.as_mut()) => {
                let new = lines.as_ref().map(|journal| journal.after(*shown)).unwrap_or_default();
                for line in new {
                    *shown = line.number;
                    eprintln!("{}", line.message);
                }
            }
            Some((id, result)) = running.next(), if !running.is_empty() => {
                cancels.remove(&id);
                if let Some(result) = result
                    && let Err(error) = attachment.answer(&id, result).await {
                        return Stopped::Lost(error);
                    }
            }
            served = attachment.next() => {
                let served = match served {
                    Ok(served) => served,
                    Err(error) => return Stopped::Lost(error),
                };
                match (served, child) {
                    (Served::Call(call), Some(child)) => {
                        let cancel = CancellationToken::new();
                        cancels.insert(call.id.clone(), cancel.clone());
                        let (id, work) = (call.id.clone(), child.call(*call));
                        running.push(Box::pin(async move {
                            let result = cancel.run_until_cancelled(work).await;
                            (id, result)
                        }));
                    }
                    (Served::Call(_), None) => {}
                    (Served::Cancel(id), _) => {
                        if let Some(cancel) = cancels.get(&id) {
                            cancel.cancel();
                        }
                    }
                    (Served::Log(line), _) => attached::show(app, &line),
                }
            }
        }
    }
}

/// Resolves when the child process is given up; never where there is none.
async fn given_up(child: Option<&Child>) {
    match child {
        Some(child) => child.given_up().await,
        None => std::future::pending().await,
    }
}

/// Resolves when a log has new lines; never where there is none, or where it has ended.
async fn grown(newest: Option<&mut watch::Receiver<u64>>) {
    let changed = match newest {
        Some(newest) => newest.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending().await
    }
}
