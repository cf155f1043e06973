//! Building a node: in order of dependence, with everything handed in.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use rand_core::{OsRng, RngCore};
use relay_core::{
    attachments::Attachments,
    audit::Audit,
    conversations::Conversations,
    events::{Events, EventsConfig, Question},
    fanout::Fanout,
    inbox::Inboxes,
    key_packages::KeyPackages,
    locks::{HeldCounts, Locks},
    policy::{
        CHANGING_KINDS, Policy,
        quota::{Quotas, TenantUsage},
    },
    presence::Presence,
    sessions::Sessions,
    social::Social,
};
use relay_proto::{
    Event, Filter,
    lease::{LeaseLimits, LeaseRow},
};
use relay_store::{
    BlobFiles, Clock, CommitObserver, Committed, Order, PostgresOptions, PostgresStore,
    SqliteOptions, SqliteStore, Store, StoreError, WriteStats,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    chat::{Afar, courier, tidings},
    config::{Backend, Config},
    connections::Connections,
    federation::{Federated, Parts},
    gate::{Everything, PolicyGate},
    homes::{DoorFrame, Homes},
    identity::{Identity, IdentityError},
    join, judge, maintenance,
    metrics::Metrics,
    mirror::{self, Mirrors},
    node::Node,
    push::{self, Push},
    reload::Live,
    services::{Far, Outside, Services},
    settings,
};

/// Why a relay cannot start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the store cannot be opened: {0}")]
    Store(#[from] StoreError),
    #[error("{path}: {source}")]
    DataDir { path: String, source: std::io::Error },
    #[error("the configuration cannot be used: {0}")]
    Setting(String),
    #[error("what services keep cannot be opened: {0}")]
    Actors(String),
    #[error("no thread could be started: {0}")]
    Thread(std::io::Error),
    #[error("stored events cannot be read: {0}")]
    Read(relay_proto::Problem),
}

impl Node {
    /// Opens the store, loads the policy and starts the node's own tasks.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Arc<Self>, StartError> {
        // On the heap: what waits for a start keeps no room for all of its steps.
        Box::pin(Self::build(config, clock)).await
    }

    async fn build(config: Config, clock: Arc<dyn Clock>) -> Result<Arc<Self>, StartError> {
        let dir = config.node.data_dir();
        std::fs::create_dir_all(&dir)
            .map_err(|source| StartError::DataDir { path: dir.display().to_string(), source })?;
        let joined = join::joined(&dir, &config)?;
        let linked = join::with(&config, joined.as_ref());
        let identity = Identity::open(&dir, &config.node.id, linked.is_home(), &mut OsRng)?;
        let policy = Arc::new(Policy::new(settings::acl(&config, identity.node_id())?));
        let quotas = Arc::new(Quotas::new(settings::quota(&config)));
        let metrics = Arc::new(Metrics::default());
        let held = Arc::new(HeldCounts::default());
        let commits = Arc::new(Commits {
            policy: policy.clone(),
            held: held.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            newest: watch::Sender::new(0),
            later: OnceLock::new(),
        });
        let store = open_store(&config, &clock, &commits).await?;
        let ephemeral_ms = events_config(&config).ephemeral_replay_ms;
        let fanout = Fanout::start(store.log_id(), store.committed_seq(), ephemeral_ms)
            .map_err(StartError::Thread)?;
        let fanout = Arc::new(fanout);
        let audit = Arc::new(Audit::new(store.clone(), clock.clone()));
        let gate =
            PolicyGate { policy: policy.clone(), quotas: quotas.clone(), audit: audit.clone() };
        let events = Events::start(
            &events_config(&config),
            store.clone(),
            fanout.clone(),
            Arc::new(gate),
            clock.clone(),
        )
        .await?;
        let events = Arc::new(events);
        load_policy(&events, &policy).await?;
        load_quotas(&store, &quotas).await?;
        // Nothing is committed before this: no door is open yet.
        let _ = commits.later.set(Later { events: events.clone(), fanout: fanout.clone() });
        let follow: Vec<_> =
            config.social.follow.iter().filter_map(|text| settings::parse_follow(text)).collect();
        let judge = settings::judge(&config)?;
        let mut secret = [0; 32];
        OsRng.fill_bytes(&mut secret);
        let social = settings::social(&config);
        let social = Social::start(store.clone(), clock.clone(), social, secret).await?;
        let locks = Arc::new(Locks::new(store.clone(), held));
        let event_limits = settings::event_limits(&config);
        let homes = Arc::new(Homes::new(&config, &identity.relay_id)?);
        let me: relay_proto::RelayId =
            identity.relay_id.parse().map_err(|error| StartError::Setting(format!("{error}")))?;
        let far = Far::new(homes.clone(), me);
        let outside = |router| Outside {
            router,
            events: events.clone(),
            locks: locks.clone(),
            policy: policy.clone(),
            quotas: quotas.clone(),
            clock: clock.clone(),
            event_limits,
            key: identity.key.clone(),
            lane: events.lane(),
            far: far.clone(),
            committed: commits.newest.subscribe(),
        };
        let services =
            Services::open(&config, &identity.relay_id, &dir, outside, clock.clone()).await?;
        let sessions = settings::sessions(&config, &identity.relay_id);
        let sessions = Arc::new(Sessions::new(store.clone(), clock.clone(), sessions));
        let inboxes = Inboxes::new(store.clone());
        let conversations = Conversations::new(
            store.clone(),
            clock.clone(),
            settings::chat(&config, &identity.relay_id),
            inboxes.clone(),
        );
        let key_packages = KeyPackages::new(
            store.clone(),
            clock.clone(),
            settings::key_packages(&config),
            inboxes.clone(),
        );
        let presence =
            Presence::open(store.clone(), clock.clone(), settings::presence(&config)).await?;
        let files = BlobFiles::open(&dir.join("blobs"))
            .map_err(|source| StartError::DataDir { path: dir.display().to_string(), source })?;
        let attachments =
            Attachments::new(store.clone(), files, clock.clone(), settings::attachments(&config));
        let push = Push::open(&config.push, &dir)
            .map_err(|error| StartError::Setting(error.to_string()))?;
        let door = DoorFrame::default();
        let federated = Federated::start(Parts {
            config: &linked,
            joined: joined.as_ref(),
            identity: &identity,
            dir: &dir,
            router: services.router.clone(),
            door: door.clone(),
            far: &far,
            sessions: sessions.clone(),
            clock: clock.clone(),
        })?;
        let afar = Afar::new(&linked, &identity.relay_id)
            .map_err(|error| StartError::Setting(format!("chat.user_home: {error}")))?;
        if !afar.is_alone() {
            conversations.expect_others();
        }
        let node = Arc::new(Self {
            homes,
            far,
            afar,
            push: push.map(Arc::new),
            door,
            conversations,
            inboxes,
            key_packages,
            presence: Arc::new(presence),
            attachments: Arc::new(attachments),
            locks,
            services: Arc::new(services),
            federated: ArcSwap::from_pointee(federated),
            started_at_ns: clock.wall_ns(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            draining: Default::default(),
            stop_asked: watch::Sender::new(None),
            live: Live::new(config.clone()),
            config,
            identity,
            clock,
            store,
            events,
            fanout,
            policy,
            quotas,
            sessions,
            social: Arc::new(social),
            mirrors: Mirrors::of(&follow),
            audit,
            connections: Connections::default(),
            address: OnceLock::new(),
            metrics,
        });
        let (sessions, stop) = (node.sessions.clone(), node.stop.clone());
        node.tasks.spawn(async move { sessions.run(stop).await });
        let (audit, stop) = (node.audit.clone(), node.stop.clone());
        node.tasks.spawn(async move { audit.run(stop).await });
        let (presence, stop) = (node.presence.clone(), node.stop.clone());
        node.tasks.spawn(async move { presence.run(stop).await });
        node.tasks.spawn(push::run(Arc::downgrade(&node)));
        node.tasks.spawn(courier::run(Arc::downgrade(&node)));
        node.tasks.spawn(tidings::run(Arc::downgrade(&node)));
        node.tasks.spawn(maintenance::run_chat(Arc::downgrade(&node), node.stop.clone()));
        if !follow.is_empty() && node.config.social.enabled {
            let every = node.config.social.follow_every;
            node.tasks.spawn(mirror::run(Arc::downgrade(&node), every, node.stop.clone()));
        }
        if let Some(judge) = judge {
            node.tasks.spawn(judge::run(Arc::downgrade(&node), judge, node.stop.clone()));
        }
        node.tasks.spawn(maintenance::run(Arc::downgrade(&node), node.stop.clone()));
        if let Err(error) = node.services.start_configured(&node.config).await {
            node.close(START_GRACE).await;
            return Err(error);
        }
        Ok(node)
    }
}

/// Time for what was started already, where the rest cannot be.
const START_GRACE: std::time::Duration = std::time::Duration::from_secs(1);

async fn open_store(
    config: &Config,
    clock: &Arc<dyn Clock>,
    commits: &Arc<Commits>,
) -> Result<Store, StartError> {
    let lease_limits = LeaseLimits {
        max_lease_ms: config.locks.max_lease.as_millis() as u64,
        ..LeaseLimits::default()
    };
    match config.store.backend {
        Backend::Sqlite => {
            let options = SqliteOptions {
                dir: config.node.data_dir(),
                new_log_id: OsRng.next_u32(),
                readers: parallelism().clamp(2, 4),
                lease_limits,
                backup_before_migrate: config.store.backup_before_migrate,
                index_every: None,
            };
            Ok(Store::Sqlite(SqliteStore::open(options, clock.clone(), commits.clone()).await?))
        }
        Backend::Postgres => {
            let options = PostgresOptions {
                url: database_url(config)?,
                new_log_id: OsRng.next_u32(),
                readers: POSTGRES_READERS,
                lease_limits,
            };
            Ok(Store::Postgres(PostgresStore::open(options, clock.clone(), commits.clone()).await?))
        }
    }
}

/// Connections beside the writer's: enough to hide the server's latency, few of its limit (100 by default).
const POSTGRES_READERS: usize = 8;

fn database_url(config: &Config) -> Result<String, StartError> {
    let Some(file) = &config.store.database_url_file else {
        return Err(StartError::Setting("'database_url_file' is not set in [store]".into()));
    };
    std::fs::read_to_string(file.path()).map_err(|error| {
        StartError::Setting(format!("database_url_file {}: {error}", file.path().display()))
    })
}

fn events_config(config: &Config) -> EventsConfig {
    EventsConfig {
        ephemeral_replay_ms: config.events.ephemeral_replay.as_millis() as u64,
        verify_threads: parallelism(),
    }
}

fn parallelism() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Rotations, approvals and rules that were published, in their order.
async fn load_policy(events: &Events, policy: &Policy) -> Result<(), StartError> {
    let kinds = CHANGING_KINDS.to_vec();
    let mut question = Question {
        filters: vec![Filter { kinds, ..Filter::default() }],
        history: true,
        order: Order::Seq,
        limit: relay_core::events::MAX_LIMIT,
        cursor: None,
    };
    loop {
        let (page, next) =
            events.page(&Everything, question.clone()).await.map_err(StartError::Read)?;
        let mut changes = Vec::with_capacity(page.events.len());
        for stored in &page.events {
            match Event::from_stored(stored.json.clone()) {
                Ok(event) => changes.push(event),
                Err(error) => {
                    tracing::error!(seq = stored.seq, %error, "a policy event is damaged")
                }
            }
        }
        policy.apply(&changes);
        if page.next.is_none() {
            return Ok(());
        }
        question.cursor = next;
    }
}

async fn load_quotas(store: &Store, quotas: &Quotas) -> Result<(), StartError> {
    let mut usage = std::collections::BTreeMap::<String, u64>::new();
    for info in store.namespaces().await? {
        *usage.entry(info.name.tenant().to_owned()).or_default() += info.bytes;
    }
    let mut days: std::collections::BTreeMap<_, _> = store
        .tenant_events()
        .await?
        .into_iter()
        .map(|(tenant, day, events)| (tenant, (day, events)))
        .collect();
    quotas.load(usage.into_iter().map(|(tenant, bytes)| {
        let (day, events) = days.remove(&tenant).unwrap_or_default();
        TenantUsage { tenant, bytes, day, events }
    }));
    Ok(())
}

/// What the store's writer tells: the policy first, since the next event is judged by it.
#[derive(Debug)]
struct Commits {
    policy: Arc<Policy>,
    held: Arc<HeldCounts>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    /// The newest `seq`, for readers that wait at the end of the log.
    newest: watch::Sender<u64>,
    later: OnceLock<Later>,
}

#[derive(Debug)]
struct Later {
    events: Arc<Events>,
    fanout: Arc<Fanout>,
}

impl CommitObserver for Commits {
    fn committed(&self, events: &[Committed]) {
        self.policy.apply(events.iter().map(|committed| &committed.event));
        if let Some(later) = self.later.get() {
            later.events.committed(events);
            later.fanout.committed(events);
        }
        if let Some(last) = events.last() {
            self.newest.send_replace(last.seq);
        }
        self.metrics.committed(events, self.clock.wall_ns());
    }

    fn leases_changed(&self, rows: &[LeaseRow]) {
        self.held.committed(rows);
        self.metrics.leases_changed(rows);
        if let Some(later) = self.later.get() {
            later.fanout.leases_changed(rows);
        }
    }

    fn wrote(&self, stats: WriteStats) {
        self.metrics.wrote(stats);
    }
}
