//! A lock that is held: renewed in the background, and known to be lost before anybody else can have it.
//!
//! The holder never compares its clock with the relay's. It counts a lease from the moment the last
//! successful request was *sent*, on a clock that runs while the machine sleeps, and stops a margin
//! before the end. Whatever happens to the answer, the relay began to count later than that, so it
//! cannot have given the lock to anybody else while [`LockGuard::is_held`] says yes.
//!
//! A program may still be stopped between the question and its next write. That write is what the
//! fencing token is for: send it along, and let the storage refuse ([`FenceGate`](crate::FenceGate)).

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use relay_proto::{Code, Namespace, NodeId, Problem};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    client::Client,
    clock::{BootClock, Clock},
    error::Error,
    locks::{LockGrant, LockRequest},
};

/// Why a lock is no longer held.
#[derive(Debug, Clone, PartialEq)]
pub enum Loss {
    /// No renewal came through in time.
    TimedOut {
        /// What the last attempt said, where there was one.
        last_error: Option<String>,
    },
    /// The relay said that it is another's, or over.
    Refused(Problem),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { last_error: Some(error) } => write!(f, "not renewed in time: {error}"),
            Self::TimedOut { last_error: None } => f.write_str("not renewed in time"),
            Self::Refused(problem) => write!(f, "{problem}"),
        }
    }
}

/// How a [`LockGuard`] counts.
#[derive(Debug, Clone)]
pub struct LockOptions {
    /// Give up this long before the lease ends; a tenth of the lease where absent. It has to cover
    /// what is still to be done after the loss is noticed, and the drift between two clocks over
    /// one lease.
    pub margin: Option<Duration>,
    /// What to count on; tests put a [`ManualClock`](crate::ManualClock) here.
    pub clock: Arc<dyn Clock>,
}

impl Default for LockOptions {
    fn default() -> Self {
        Self { margin: None, clock: Arc::new(BootClock) }
    }
}

/// A held lock. A task of its own renews it at a third of the lease until it is released, dropped
/// or lost. Dropping stops the renewals at once; the lease then runs out by itself.
///
/// ```no_run
/// # async fn example(client: relay_client::Client) -> Result<(), relay_client::Error> {
/// use relay_client::{LockGuard, LockOptions, LockRequest};
///
/// let request = LockRequest::new("site/prod")?;
/// let lock = LockGuard::acquire(&client, request, LockOptions::default()).await?;
/// tokio::select! {
///     () = write_things(lock.fencing_token()) => lock.release().await?,
///     loss = lock.lost() => eprintln!("stopped writing: {loss}"),
/// }
/// # Ok(()) }
/// # async fn write_things(token: u64) {}
/// ```
#[derive(Debug)]
pub struct LockGuard {
    held: Arc<Held>,
    stop: CancellationToken,
    renewals: JoinHandle<()>,
}

/// What the guard and its renewals share.
#[derive(Debug)]
struct Held {
    calls: Arc<dyn LockCalls>,
    clock: Arc<dyn Clock>,
    ns: Namespace,
    resource: String,
    owner: NodeId,
    fencing_token: u64,
    lease: Duration,
    margin: Duration,
    state: Mutex<State>,
    /// Written once, by whoever notices first.
    loss: watch::Sender<Option<Loss>>,
}

#[derive(Debug)]
struct State {
    /// From here on the lock counts as lost; on `clock`.
    deadline: Duration,
    /// The relay's wall clock, for people.
    expires_at_ns: String,
}

/// The lock operations that a guard needs of a relay.
trait LockCalls: fmt::Debug + Send + Sync + 'static {
    fn acquire<'a>(&'a self, request: &'a LockRequest) -> BoxFuture<'a, Result<LockGrant, Error>>;
    fn renew<'a>(&'a self, held: &'a Grip<'a>) -> BoxFuture<'a, Result<LockGrant, Error>>;
    fn release<'a>(&'a self, held: &'a Grip<'a>) -> BoxFuture<'a, Result<(), Error>>;
}

/// What names a held lock to the relay.
#[derive(Debug)]
struct Grip<'a> {
    ns: &'a Namespace,
    resource: &'a str,
    fencing_token: u64,
    lease: Duration,
}

impl LockGuard {
    /// Takes a lock, waiting for it as long as the request says, and keeps it.
    ///
    /// Where the answer took so long that the next renewal would be due already (as after waiting),
    /// a renewal confirms the grant before this returns.
    ///
    /// # Errors
    /// `lock_held` and other refusals; [`Error::LeaseOver`] where the lease was over before it could
    /// be used.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue; a grant already on its way runs out after its lease.
    pub async fn acquire(
        client: &Client,
        request: LockRequest,
        options: LockOptions,
    ) -> Result<Self, Error> {
        Self::acquire_with(Arc::new(client.clone()), request, options).await
    }

    async fn acquire_with(
        calls: Arc<dyn LockCalls>,
        request: LockRequest,
        options: LockOptions,
    ) -> Result<Self, Error> {
        let clock = options.clock;
        let sent = clock.now();
        let grant = calls.acquire(&request).await?;
        let lease = Duration::from_millis(grant.lease_ms);
        let margin = options.margin.unwrap_or(lease / 10);
        let (sent, grant) = if clock.now() < sent + lease / 3 {
            (sent, grant)
        } else {
            confirm(&*calls, &*clock, &request, grant, margin).await?
        };
        let held = Arc::new(Held {
            calls,
            clock,
            ns: request.ns,
            resource: request.resource,
            owner: grant.owner,
            fencing_token: grant.fencing_token,
            lease,
            margin,
            state: Mutex::new(State {
                deadline: (sent + lease).saturating_sub(margin),
                expires_at_ns: grant.lease_expires_at_ns,
            }),
            loss: watch::Sender::new(None),
        });
        let stop = CancellationToken::new();
        let renewals = tokio::spawn(keep(held.clone(), sent, stop.clone()));
        Ok(Self { held, stop, renewals })
    }

    /// Whether the lock is still ours, by the clock at this moment. Once `false`, always `false`.
    pub fn is_held(&self) -> bool {
        self.held.is_held()
    }

    /// Returns when the lock is lost: the lease ended by our own clock, or the relay refused a
    /// renewal. After a suspend of the machine it may return half a second late;
    /// [`is_held`](Self::is_held) never is.
    ///
    /// # Cancel safety
    /// May stand in `select!`.
    pub async fn lost(&self) -> Loss {
        let mut loss = self.held.loss.subscribe();
        let held = self.held.clone();
        // The sender lives in `held`, so the wait ends only with a loss.
        let loss = loss.wait_for(Option::is_some).await.ok().and_then(|loss| loss.clone());
        drop(held);
        loss.unwrap_or(Loss::TimedOut { last_error: None })
    }

    /// The token to send with every write that the lock protects.
    pub fn fencing_token(&self) -> u64 {
        self.held.fencing_token
    }

    /// What is locked.
    pub fn resource(&self) -> &str {
        &self.held.resource
    }

    /// The namespace of the resource.
    pub fn ns(&self) -> &Namespace {
        &self.held.ns
    }

    /// The key that holds the lock: the caller's.
    pub fn owner(&self) -> NodeId {
        self.held.owner
    }

    /// The lease that was granted.
    pub fn lease(&self) -> Duration {
        self.held.lease
    }

    /// When the lease ends by the relay's wall clock, in unix nanoseconds: for people.
    pub fn expires_at_ns(&self) -> String {
        self.held.state().expires_at_ns.clone()
    }

    /// Stops renewing and gives the lock back.
    ///
    /// # Errors
    /// `stale_token` or `lease_expired` where it was lost; any [`Error`] of the transport, and then
    /// the lease runs out by itself.
    pub async fn release(mut self) -> Result<(), Error> {
        self.stop.cancel();
        // A renewal under way must not land after the release.
        let _ = (&mut self.renewals).await;
        self.held.calls.release(&self.held.grip()).await
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.stop.cancel();
        self.renewals.abort();
    }
}

impl Held {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_held(&self) -> bool {
        self.loss.borrow().is_none() && self.clock.now() < self.state().deadline
    }

    fn grip(&self) -> Grip<'_> {
        Grip {
            ns: &self.ns,
            resource: &self.resource,
            fencing_token: self.fencing_token,
            lease: self.lease,
        }
    }

    fn lose(&self, loss: Loss) {
        self.loss.send_if_modified(|told| {
            let first = told.is_none();
            if first {
                *told = Some(loss);
            }
            first
        });
    }

    /// Counts from a renewal that was sent at `sent`. A deadline that has passed stays passed: the
    /// program may have been told already.
    fn extend(&self, sent: Duration, grant: &LockGrant) -> bool {
        let mut state = self.state();
        if self.clock.now() >= state.deadline {
            return false;
        }
        state.deadline = state.deadline.max((sent + self.lease).saturating_sub(self.margin));
        state.expires_at_ns.clone_from(&grant.lease_expires_at_ns);
        true
    }
}

/// Renews a grant whose answer came late, to know from when its lease counts.
async fn confirm(
    calls: &dyn LockCalls,
    clock: &dyn Clock,
    request: &LockRequest,
    grant: LockGrant,
    margin: Duration,
) -> Result<(Duration, LockGrant), Error> {
    let lease = Duration::from_millis(grant.lease_ms);
    let grip = Grip {
        ns: &request.ns,
        resource: &request.resource,
        fencing_token: grant.fencing_token,
        lease,
    };
    let sent = clock.now();
    match calls.renew(&grip).await {
        Ok(grant) if clock.now() < (sent + lease).saturating_sub(margin) => Ok((sent, grant)),
        Ok(_) => Err(Error::LeaseOver),
        Err(error) if is_loss(&error) => Err(Error::LeaseOver),
        Err(error) => Err(error),
    }
}

/// Renews at a third of the lease; after a failure again soon, until the deadline.
async fn keep(held: Arc<Held>, sent: Duration, stop: CancellationToken) {
    let mut next = sent + held.lease / 3;
    let mut backoff = Backoff::new(held.lease / 30, held.lease / 6);
    let mut last_error = None;
    loop {
        let deadline = held.state().deadline;
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = held.clock.sleep_until(deadline) => return held.lose(Loss::TimedOut { last_error }),
            () = held.clock.sleep_until(next) => {}
        }
        let sent = held.clock.now();
        let grip = held.grip();
        let answer = tokio::select! {
            biased;
            () = held.clock.sleep_until(deadline) => return held.lose(Loss::TimedOut { last_error }),
            answer = held.calls.renew(&grip) => answer,
        };
        match answer {
            Ok(grant) if held.extend(sent, &grant) => {
                next = sent + held.lease / 3;
                last_error = None;
                backoff.reset();
            }
            Ok(_) => return held.lose(Loss::TimedOut { last_error }),
            Err(Error::Refused { problem, .. }) if is_lost(problem.code) => {
                return held.lose(Loss::Refused(*problem));
            }
            Err(error) => {
                tracing::debug!(resource = %held.resource, %error, "renewal failed");
                next = held.clock.now() + backoff.next_wait();
                last_error = Some(error.to_string());
            }
        }
    }
}

fn is_loss(error: &Error) -> bool {
    error.code().is_some_and(is_lost)
}

/// Whether the code says that the lock is another's or nobody's.
fn is_lost(code: Code) -> bool {
    matches!(
        code,
        Code::LeaseExpired
            | Code::StaleToken
            | Code::Fenced
            | Code::Forbidden
            | Code::NotFound
            | Code::Conflict
            | Code::LockHeld
    )
}

impl LockCalls for Client {
    fn acquire<'a>(&'a self, request: &'a LockRequest) -> BoxFuture<'a, Result<LockGrant, Error>> {
        Box::pin(Self::acquire(self, request))
    }

    fn renew<'a>(&'a self, held: &'a Grip<'a>) -> BoxFuture<'a, Result<LockGrant, Error>> {
        Box::pin(Self::renew(self, held.ns, held.resource, held.fencing_token, held.lease))
    }

    fn release<'a>(&'a self, held: &'a Grip<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            Self::release(self, held.ns, held.resource, held.fencing_token).await.map(drop)
        })
    }
}

#[cfg(test)]
mod tests;
