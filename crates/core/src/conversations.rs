//! Conversations at home (`gateway.md` 5 to 9, 12, 15): who may post and read, one order for each, live delivery.
//!
//! [`Conversations::serve`] is the door: a typed request and who asks, a typed answer, whether the request came in at
//! this relay or over a link. What changes a conversation waits in its [`line::Line`], so that everybody hears of
//! changes in the order of the log; what may be is decided by the store's transaction, under the conversation's lock.

mod bundle;
mod config;
mod follow;
mod line;
mod personal;
mod refusal;
mod retention;
mod rooms;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use ahash::RandomState;
use arc_swap::{ArcSwap, Guard};
use futures::BoxedAnswer;
use relay_proto::{
    NodeId, Problem,
    auth::DeviceId,
    conv::{
        Answer, Caller, ConvId, Request,
        answer::Acked,
        request::{Act, Send},
    },
    mls::{Accepted, Head},
};
use relay_store::{
    Clock, Store,
    chat::{Gate, NewMessage, Posted},
};

pub use config::{ChatConfig, LogRetention};
pub use follow::{Followed, Following, Page, PageRequest, Start, event_frame};
pub use personal::page_of;
pub use refusal::{limit_exceeded, not_a_member};

use tokio::sync::Notify;

use crate::{failure::store_problem, inbox::Inboxes, limits::Windows};
use line::{Job, Lines};

const MINUTE_MS: u64 = 60_000;
/// Keys of each limiter that are remembered.
const LIMITER_KEYS: usize = 100_000;

/// What operators want to know.
#[derive(Debug, Default)]
pub struct ConversationStats {
    pub sent: AtomicU64,
    pub duplicates: AtomicU64,
    pub refused: AtomicU64,
    /// Messages that lost a race for their epoch.
    pub conflicts: AtomicU64,
    pub delivered: AtomicU64,
    /// Subscriptions that fell back to the store.
    pub lagged: AtomicU64,
    /// Messages read from the store for subscribers.
    pub replayed: AtomicU64,
    pub pruned: AtomicU64,
}

/// The domain. Shared by all doors.
#[derive(Debug)]
pub struct Conversations {
    store: Store,
    clock: Arc<dyn Clock>,
    config: ArcSwap<ChatConfig>,
    origin: Arc<str>,
    lines: Lines,
    sends: Arc<Windows<(NodeId, ConvId)>>,
    changes: Arc<Windows<(NodeId, ConvId, bool)>>,
    dms: Windows<NodeId>,
    rooms: Windows<NodeId>,
    rejoins: Windows<(NodeId, DeviceId, ConvId)>,
    inboxes: Arc<Inboxes>,
    /// Something was written for the homes of users who do not live here.
    mail: Notify,
    others: AtomicBool,
    stats: Arc<ConversationStats>,
}

impl Conversations {
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        config: ChatConfig,
        inboxes: Arc<Inboxes>,
    ) -> Arc<Self> {
        let stats = Arc::new(ConversationStats::default());
        Arc::new(Self {
            lines: Lines::new(store.clone(), inboxes.clone(), stats.clone()),
            origin: config.gateway_id.as_str().into(),
            store,
            clock,
            config: ArcSwap::from_pointee(config),
            sends: Arc::new(Windows::new(MINUTE_MS, LIMITER_KEYS)),
            changes: Arc::new(Windows::new(MINUTE_MS, LIMITER_KEYS)),
            dms: Windows::new(MINUTE_MS, LIMITER_KEYS),
            rooms: Windows::new(MINUTE_MS, LIMITER_KEYS),
            rejoins: Windows::new(60 * MINUTE_MS, LIMITER_KEYS),
            inboxes,
            mail: Notify::new(),
            others: AtomicBool::new(false),
            stats,
        })
    }

    /// The settings in force now.
    pub fn config(&self) -> Guard<Arc<ChatConfig>> {
        self.config.load()
    }

    /// Uses other settings from now on.
    pub fn reconfigure(&self, config: ChatConfig) {
        self.config.store(Arc::new(config));
    }

    pub fn stats(&self) -> &ConversationStats {
        &self.stats
    }

    /// From now on there may be users who live at other relays, which are told of what is theirs.
    pub fn expect_others(&self) {
        self.others.store(true, Ordering::Relaxed);
    }

    fn has_others(&self) -> bool {
        self.others.load(Ordering::Relaxed)
    }

    /// Mail for the homes of other users was written beside conversations.
    pub fn note_mail(&self) {
        self.mail.notify_one();
    }

    /// Waits until mail for the homes of other users may have been written.
    pub async fn wrote_mail(&self) {
        self.mail.notified().await;
    }

    /// Waits for what is under way; call it when no request can come any more.
    pub async fn close(&self) {
        self.lines.close().await;
    }

    /// Serves a request. A message takes its place in the line before this returns, so that what one client sends
    /// is stored in the order sent; all else happens when the answer is awaited.
    pub fn serve(self: &Arc<Self>, caller: Caller, request: Request) -> BoxedAnswer {
        let this = self.clone();
        match request {
            Request::Send(send) => this.send(&caller, send),
            Request::Commit(commit) => Box::pin(async move { this.commit(&caller, commit).await }),
            Request::Ack(ack) => Box::pin(async move { this.ack(&caller, ack).await }),
            Request::CreateRoom(room) => {
                Box::pin(async move { this.create_room(&caller, room).await })
            }
            Request::CreateDm(dm) => Box::pin(async move { this.create_dm(&caller, dm).await }),
            Request::Govern { act, target } => {
                Box::pin(async move { this.govern(&caller, act, target).await })
            }
            Request::Members(named) => Box::pin(async move { this.members(&caller, named).await }),
            Request::Bans(named) => Box::pin(async move { this.bans(&caller, named).await }),
            Request::Mutes(named) => Box::pin(async move { this.mutes(&caller, named).await }),
            Request::List(list) => Box::pin(async move { this.list(&caller, list).await }),
            Request::MarkRead(mark) => Box::pin(async move { this.mark_read(&caller, mark).await }),
            Request::MarkAllRead(mark) => {
                Box::pin(async move { this.mark_all_read(&caller, mark).await })
            }
            Request::SetTitle(title) => {
                Box::pin(async move { this.set_title(&caller, title).await })
            }
            Request::SetLabel(label) => {
                Box::pin(async move { this.set_label(&caller, label).await })
            }
            Request::Pin(pin) => Box::pin(async move { this.pin(&caller, pin).await }),
            Request::Mute(mute) => Box::pin(async move { this.mute(&caller, mute).await }),
            Request::Archive(archive) => {
                Box::pin(async move { this.archive(&caller, archive).await })
            }
            Request::GroupInfo(named) => {
                Box::pin(async move { this.group_info(&caller, named).await })
            }
            Request::Rejoin(asked) => {
                Box::pin(async move { this.ask_rejoin(&caller, asked).await })
            }
        }
    }

    fn send(self: Arc<Self>, caller: &Caller, send: Send) -> BoxedAnswer {
        if let Err(problem) = self.check_env(&send.env) {
            return Box::pin(std::future::ready(Err(problem)));
        }
        let conv = send.conv_id.clone();
        let msg_id = send.msg_id.clone();
        let message = NewMessage {
            msg_id: send.msg_id,
            sender: caller.user,
            device: caller.device.clone(),
            origin: self.origin_of(caller),
            at_ms: self.now_ms(),
            handshake: self.handshake(send.handshake, send.epoch, &send.env),
            env: send.env.into(),
            kind: send.kind,
            gate: self.send_gate(caller.user, conv.clone()),
        };
        let (origin, now_ms) = (message.origin.clone(), message.at_ms);
        let posted = match self.lines.of(&conv).enter(&self.lines, Job::post(message)) {
            Ok(posted) => posted,
            Err(problem) => return Box::pin(std::future::ready(Err(problem))),
        };
        Box::pin(async move {
            let (posted, home) = posted.await.map_err(|_| stopping())??;
            let (seq, duplicate, origin) = match posted {
                Posted::Stored { seq, .. } => (seq, false, origin.to_string()),
                Posted::Duplicate { seq, origin } => {
                    (seq, true, origin.unwrap_or_else(|| home.clone()))
                }
                Posted::Refused(refusal) => {
                    self.count_refusal(&refusal);
                    return Err(refusal::post(refusal));
                }
            };
            let counter = if duplicate { &self.stats.duplicates } else { &self.stats.sent };
            counter.fetch_add(1, Ordering::Relaxed);
            if !duplicate {
                self.prune_after(&conv, now_ms);
            }
            Ok(Answer::Acked(Acked {
                conv_id: conv,
                msg_id,
                seq,
                conv_home: home,
                origin_gateway: origin,
                epoch: None,
                duplicate,
            }))
        })
    }

    /// What a message claims of its epoch: what the sender says, or what the head says where the relay looks.
    fn handshake(&self, said: bool, epoch: Option<u64>, env: &str) -> Option<u64> {
        if said {
            return epoch;
        }
        if !self.config().mls_aware {
            return None;
        }
        let head = Head::of_base64(env).ok()?;
        let commits = matches!(head.accepted(), Some(Accepted::Commit | Accepted::ExternalCommit));
        head.place().filter(|_| commits).map(|(_, epoch)| epoch)
    }

    fn check_env(&self, env: &str) -> Result<(), Problem> {
        if env.is_empty() {
            return Err(Problem::invalid("env is empty"));
        }
        // Characters, of which a byte is at least one.
        let limit = self.config().max_env as usize;
        if env.len() > limit && env.chars().count() > limit {
            return Err(Problem::invalid("env too large"));
        }
        Ok(())
    }

    fn send_gate(&self, user: NodeId, conv: ConvId) -> Gate {
        let (windows, limit, clock) =
            (self.sends.clone(), self.config().sends_per_min, self.clock.clone());
        Gate::new(move || {
            let now_ms = clock.wall_ns() / 1_000_000;
            let counted = windows.count((user, conv.clone()), limit, now_ms);
            counted.map_err(|exceeded| exceeded.retry_after_ms)
        })
    }

    fn change_gate(&self, user: NodeId, conv: ConvId, act: Act) -> Gate {
        let (limit, invites) = match act {
            Act::Invite => (self.config().invites_per_min, true),
            Act::Remove => (self.config().removes_per_min, false),
            _ => return Gate::open(),
        };
        let (windows, clock) = (self.changes.clone(), self.clock.clone());
        Gate::new(move || {
            let now_ms = clock.wall_ns() / 1_000_000;
            let counted = windows.count((user, conv.clone(), invites), limit, now_ms);
            counted.map_err(|exceeded| exceeded.retry_after_ms)
        })
    }

    fn count_refusal(&self, refusal: &relay_store::chat::PostRefusal) {
        use relay_store::chat::PostRefusal;
        let lost = matches!(refusal, PostRefusal::Epoch { .. } | PostRefusal::OtherBytes { .. });
        let counter = if lost { &self.stats.conflicts } else { &self.stats.refused };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn origin_of(&self, caller: &Caller) -> Arc<str> {
        if *caller.gateway == *self.origin {
            self.origin.clone()
        } else {
            caller.gateway.as_str().into()
        }
    }

    fn now_ms(&self) -> u64 {
        self.clock.wall_ns() / 1_000_000
    }
}

/// What those hear who waited when the relay stopped.
fn stopping() -> Problem {
    store_problem(&relay_store::StoreError::Closed)
}

/// Boxed futures under one name.
mod futures {
    use std::pin::Pin;

    use relay_proto::{Problem, conv::Answer};

    /// An answer on its way.
    pub type BoxedAnswer = Pin<Box<dyn Future<Output = Result<Answer, Problem>> + Send + 'static>>;
}

pub use futures::BoxedAnswer as PendingAnswer;

/// Map of hashing that strangers cannot steer.
type Map<K, V> = dashmap::DashMap<K, V, RandomState>;
