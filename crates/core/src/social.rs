//! The social layer (`polycentric.md`): what is taken in, what is answered, and how fresh answers are known to be.
//!
//! The relay keeps and serves what authors' devices number and sign; it decides only what is refused, what is
//! hidden, and how much of it there may be. Every change has a number; the number of the last change of what an
//! answer is made of is its version ([`Versions`]), so that an unchanged answer costs no look at the store.

mod answers;
mod ingest;
mod moderation;
mod owners;
mod quotas;
mod stats;
mod topics;
mod versions;
mod watch;

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use relay_proto::polycentric::{Subject, SystemKey};
use relay_store::{Clock, IngestReport, Store, StoreError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

pub use answers::{ExploreQuestion, MAX_LIMIT, SearchQuestion};
pub use moderation::{Filter, Mode, TagRule, parse_filters};
pub use stats::SocialStats;
pub use watch::{Watch, WatchRequest, Watched};

use crate::limits::{Buckets, Rate, Windows};
use moderation::Censors;
use owners::SpentChallenges;
use quotas::Quotas;
use topics::TopicCache;
use versions::Versions;

/// KiB of request bodies that may be in work at once. Beyond it requests wait before they are read.
const ROOM_KIB: usize = 96 << 10;
/// Keys that the limits remember.
const REMEMBERED: usize = 50_000;
/// Handles that an address may claim in an hour.
const HANDLES_PER_HOUR: u32 = 30;

/// Settings of the domain.
#[derive(Debug, Clone)]
pub struct SocialConfig {
    /// Bytes of events of one identity; `None` is no limit.
    pub identity_bytes: Option<u64>,
    /// Events of one identity.
    pub identity_rate: Option<Rate>,
    /// Events that an idle identity or address may send at once.
    pub burst: u32,
    /// Events from one address.
    pub address_rate: Option<Rate>,
    /// How far ahead of the relay's clock a post may be and still be shown among the newest, milliseconds.
    pub future_ms: u64,
    pub mode: Mode,
    pub rules: Vec<TagRule>,
    /// Whether handles can be claimed.
    pub handles: bool,
    /// Whether texts can be searched.
    pub search: bool,
}

/// The domain. Shared by all doors.
#[derive(Debug)]
pub struct Social {
    store: Store,
    clock: Arc<dyn Clock>,
    config: SocialConfig,
    /// Signs challenges; made anew by each process, so that none outlives it.
    secret: [u8; 32],
    spent: SpentChallenges,
    versions: Versions,
    censors: ArcSwap<Censors>,
    quotas: Quotas,
    topics: TopicCache,
    room: Arc<Semaphore>,
    by_identity: Buckets<SystemKey>,
    by_address: Buckets<IpAddr>,
    handles_by_address: Windows<IpAddr>,
    watch: Watch,
    /// Told when events begin to wait for a verdict.
    queue_grew: Notify,
    stats: SocialStats,
}

/// What the version of an answer depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freshness {
    System(SystemKey),
    Subjects(Vec<Subject>),
    /// Anything at all.
    Everything,
}

impl Social {
    /// Starts the domain over an open store.
    ///
    /// # Errors
    /// What is censored cannot be read.
    pub async fn start(
        store: Store,
        clock: Arc<dyn Clock>,
        config: SocialConfig,
        secret: [u8; 32],
    ) -> Result<Self, StoreError> {
        let censors = Censors::of(store.social_censored().await?);
        let quotas = Quotas::of(store.social_quotas().await?);
        Ok(Self {
            versions: Versions::new(store.social_last_version().await?),
            store,
            clock,
            config,
            secret,
            spent: SpentChallenges::default(),
            censors: ArcSwap::from_pointee(censors),
            quotas,
            topics: TopicCache::default(),
            room: Arc::new(Semaphore::new(ROOM_KIB)),
            by_identity: Buckets::new(REMEMBERED),
            by_address: Buckets::new(REMEMBERED),
            handles_by_address: Windows::new(3_600_000, REMEMBERED),
            watch: Watch::default(),
            queue_grew: Notify::new(),
            stats: SocialStats::default(),
        })
    }

    pub fn config(&self) -> &SocialConfig {
        &self.config
    }

    pub fn stats(&self) -> &SocialStats {
        &self.stats
    }

    /// Those who want to be told of new events.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Waits until events wait for a verdict that did not before.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn queue_grew(&self) {
        self.queue_grew.notified().await;
    }

    /// Waits until a body of this many bytes may be read and worked on.
    pub async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = bytes.div_ceil(1 << 10).clamp(1, ROOM_KIB);
        self.room.clone().acquire_many_owned(u32::try_from(kib).unwrap_or(u32::MAX)).await.ok()
    }

    /// A text that changes whenever an answer that depends on this does; the value of a strong `ETag`.
    ///
    /// # Errors
    /// Only those of the store.
    pub async fn tag(&self, of: &Freshness) -> Result<String, relay_proto::Problem> {
        let version = match of {
            Freshness::Everything => self.versions.newest(),
            Freshness::System(system) => self.system_version(*system).await?,
            Freshness::Subjects(subjects) => {
                let mut newest = 0;
                for subject in subjects {
                    newest = newest.max(self.subject_version(*subject).await?);
                }
                newest
            }
        };
        // What operators censor, and how answers are made, are part of every answer.
        let epoch = self.censors.load().epoch;
        Ok(format!("\"{:08x}-{version:x}\"", epoch ^ self.config.mode as u32 ^ FORM))
    }

    async fn system_version(&self, system: SystemKey) -> Result<u64, relay_proto::Problem> {
        let store = &self.store;
        self.versions
            .get(versions::Key::System(system), async {
                Ok(store.social_version(system).await?.unwrap_or(0))
            })
            .await
            .map_err(|error| crate::failure::store_problem(&error))
    }

    async fn subject_version(&self, subject: Subject) -> Result<u64, relay_proto::Problem> {
        let store = &self.store;
        self.versions
            .get(versions::Key::Subject(subject), async {
                store.social_subjects_version(vec![subject]).await
            })
            .await
            .map_err(|error| crate::failure::store_problem(&error))
    }

    /// Tells caches and watchers of a change that is durable, before its answer leaves.
    fn committed(&self, report: &IngestReport) {
        if report.version == 0 {
            return;
        }
        self.versions.committed(report);
        self.watch.tell(&report.changes);
    }

    fn now_ms(&self) -> u64 {
        self.clock.wall_ns() / 1_000_000
    }
}

/// Names how answers are made; raised when the same data make another answer.
const FORM: u32 = 0x5001_0000;
