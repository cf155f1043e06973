//! The task between the core and the relay: one connection, the log and inbox followed, steps taken in order.
//!
//! One conversation has one request under way at a time; different conversations do not wait for each other. Whenever
//! the connection breaks, what was under way is asked of the core again: it gives the same bytes.

mod link;
pub(crate) mod requests;
pub(crate) mod revocations;
pub(crate) mod uploads;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use relay_client::{Client, Signer, backoff::Backoff};
use relay_proto::{Code, NodeId};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    core::{Core, Events},
    error::{Error, Result},
    files::Outgoing,
    views::{Connection, Event},
};

/// Events that a slow watcher may be behind before it has to look everything up again.
const EVENTS: usize = 1_024;
/// Wishes that wait for the task.
const WISHES: usize = 256;
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// After a refusal that only a person can mend, it is asked again so often.
const REFUSED_RETRY: Duration = Duration::from_secs(60);

/// What the task is asked to look at.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Something is to be sent in this conversation.
    Work(String),
    /// A conversation is new, or is followed again.
    Follow(String),
    /// Connect now instead of waiting.
    Connect,
    /// Whose presence is of interest, and how the user appears.
    Presence(PresenceWish),
}

/// How presence changes.
#[derive(Debug, Clone)]
pub(crate) enum PresenceWish {
    Watch(Vec<NodeId>),
    Appear { online: bool, invisible: bool },
}

/// What the handle and the task share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub core: Core,
    pub url: String,
    pub signer: Signer,
    pub label: String,
    pub timeout: Duration,
    /// Encrypted files on their way to the relay.
    pub outgoing: Outgoing,
    pub events: broadcast::Sender<Event>,
    pub connection: watch::Sender<Connection>,
    /// The relay's id, from the last session.
    pub relay_id: watch::Sender<Option<String>>,
    /// Everything that the relay had when the connection began was taken in.
    pub caught_up: watch::Sender<bool>,
    /// The client of the present session, for requests of the handle.
    pub session: Mutex<Option<Client>>,
    pub presence: Mutex<BTreeMap<NodeId, String>>,
}

impl Shared {
    pub fn new(
        core: Core,
        url: String,
        signer: Signer,
        label: String,
        timeout: Duration,
        outgoing: Outgoing,
        relay_id: Option<String>,
    ) -> Arc<Self> {
        Arc::new(Self {
            core,
            url,
            signer,
            label,
            timeout,
            outgoing,
            events: broadcast::Sender::new(EVENTS),
            connection: watch::Sender::new(Connection::Connecting),
            relay_id: watch::Sender::new(relay_id),
            caught_up: watch::Sender::new(false),
            session: Mutex::default(),
            presence: Mutex::default(),
        })
    }

    /// Tells who watches.
    pub fn tell(&self, events: Events) {
        for event in events {
            // Nobody may be watching.
            let _ = self.events.send(event);
        }
    }

    pub fn set_connection(&self, connection: Connection) {
        self.connection.send_replace(connection.clone());
        self.tell(vec![Event::Connection { connection }]);
    }

    /// The seed of the user's key, where the key is here.
    pub fn seed(&self) -> Option<zeroize::Zeroizing<[u8; 32]>> {
        self.signer.key().map(relay_proto::SigningKey::seed)
    }

    pub fn session(&self) -> Option<Client> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_session(&self, client: Option<Client>) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }

    /// Runs something on the core off the async threads: cryptography and the disk take their time.
    pub async fn on_core<T: Send + 'static>(
        self: &Arc<Self>,
        run: impl FnOnce(&Core) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = self.clone();
        match tokio::task::spawn_blocking(move || run(&shared.core)).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::Closed),
        }
    }
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    relay_client::unix_ns() / 1_000_000
}

/// The queue to the task.
pub(crate) fn wishes() -> (mpsc::Sender<Wish>, mpsc::Receiver<Wish>) {
    mpsc::channel(WISHES)
}

/// Stays connected until it is stopped.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut wishes: mpsc::Receiver<Wish>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    let mut offline_since: Option<u64> = None;
    let mut resume: Option<String> = None;
    loop {
        let linked = link::connect(&shared, &mut resume);
        let connected = tokio::select! {
            () = stop.cancelled() => break,
            connected = linked => connected,
        };
        let ended = match connected {
            Ok(link) => {
                backoff.reset();
                offline_since = None;
                link.serve(&mut wishes, &stop).await
            }
            Err(error) => Err(error),
        };
        shared.set_session(None);
        shared.caught_up.send_replace(false);
        if stop.is_cancelled() {
            break;
        }
        let Err(error) = ended else { continue };
        let pause = pause_after(&shared, &error, &mut backoff, &mut offline_since);
        wait(pause, &mut wishes, &stop).await;
    }
    shared.set_session(None);
}

/// Tells how it stands, and how long to wait.
fn pause_after(
    shared: &Shared,
    error: &Error,
    backoff: &mut Backoff,
    offline_since: &mut Option<u64>,
) -> Duration {
    tracing::debug!(%error, "the connection ended");
    let refused = match error {
        Error::Relay(error) => matches!(error.code(), Some(Code::Unauthorized | Code::Forbidden)),
        Error::State(_) => true,
        _ => false,
    };
    if refused {
        shared.set_connection(Connection::Refused { why: error.to_string() });
        return REFUSED_RETRY;
    }
    let asked = match error {
        Error::Relay(error) => error.retry_after(),
        _ => None,
    };
    let pause = backoff.next_wait().max(asked.unwrap_or_default());
    let since_ms = *offline_since.get_or_insert_with(now_ms);
    let retry_at_ms = now_ms() + pause.as_millis() as u64;
    shared.set_connection(Connection::Offline { since_ms, retry_at_ms, why: error.to_string() });
    pause
}

/// Waits, or less if somebody asks to connect. Other wishes need nothing: a new connection looks at everything.
async fn wait(pause: Duration, wishes: &mut mpsc::Receiver<Wish>, stop: &CancellationToken) {
    let until = tokio::time::Instant::now() + pause;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(until) => return,
            wish = wishes.recv() => match wish {
                Some(Wish::Connect) | None => return,
                Some(_) => {}
            },
        }
    }
}

/// Conversations that want to be looked at, each once.
pub(crate) type Queue = BTreeSet<String>;
