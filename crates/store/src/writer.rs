//! The one writer of a store: joins what many callers want into one transaction, in one linear order.
//!
//! Leases live in the writer's memory and are journalled; an event with a fence is judged against
//! them at its place in the order, so the check and the write cannot be torn apart. Answers leave
//! after the commit; observers (fan-out, policy) hear of a commit before its answers leave.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ahash::RandomState;
use relay_proto::{
    Event,
    lease::{Applied, LeaseAnswer, LeaseOp, LeaseRefusal, LeaseRow, LeaseTable, Now, Ticket},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    batch::Batch,
    clock::Clock,
    error::{Result, StoreError},
    event::{Appended, Committed},
};

/// Jobs that may wait for the writer. When it is full, callers wait, and sockets are not read.
const QUEUE: usize = 8_192;
/// Events of one transaction.
const MAX_EVENTS: usize = 2_000;
/// Bytes of event JSON of one transaction.
const MAX_BYTES: usize = 2 << 20;
/// Lease operations of one transaction.
const MAX_LEASE_OPS: usize = 2_000;
/// Other domains' writes of one transaction.
const MAX_DOMAIN_WRITES: usize = 256;
/// Expired leases handled in one transaction.
const EXPIRY_BUDGET: usize = 1_000;

/// Hears of what was committed, on the writer's thread: must be quick and must not block.
pub trait CommitObserver: Send + Sync + fmt::Debug {
    /// Events in `seq` order. Called once for each transaction that stored any.
    fn committed(&self, events: &[Committed]);
    /// Leases that changed state, in their order.
    fn leases_changed(&self, rows: &[LeaseRow]);
    /// How long the transaction took, for metrics.
    fn wrote(&self, stats: WriteStats);
}

/// What one transaction was like.
#[derive(Debug, Clone, Copy)]
pub struct WriteStats {
    pub events: usize,
    pub lease_ops: usize,
    /// From the first statement to the end of the commit.
    pub took: Duration,
    /// Jobs still waiting.
    pub queued: usize,
}

/// What a store does for the writer loop. One transaction at a time, on one connection.
pub(crate) trait WriteBackend: 'static {
    /// Other domains' writes: run under a savepoint in the group's transaction, answered after the commit.
    type Domain: DomainWrite<Self>;

    /// Whether the connection is gone, so that memory has to be read anew over another.
    fn is_lost(&self) -> bool {
        false
    }
    async fn begin(&mut self) -> Result<()>;
    /// Which of the events are stored already, and the heads that they meet.
    async fn look_up(&mut self, next_seq: u64, events: &[Event]) -> Result<Batch>;
    async fn write_events(&mut self, batch: &Batch) -> Result<()>;
    async fn write_leases(&mut self, rows: &[LeaseRow]) -> Result<()>;
    async fn commit(&mut self) -> Result<()>;
    /// Undoes what the failed transaction did, if the connection is still good for it.
    async fn rollback(&mut self, error: &StoreError);
    /// The lease table as it was last committed.
    async fn load_leases(&mut self, now: Now) -> Result<LeaseTable>;
    /// The `seq` that the next event gets.
    async fn next_seq(&mut self) -> Result<u64>;
    /// Writes the current leases, so that the journal before now need not be read at the next start.
    async fn checkpoint_leases(&mut self, table: &LeaseTable) -> Result<()>;
    /// Writes what could wait until now, in the last transaction before a stop.
    async fn settle(&mut self) -> Result<()> {
        Ok(())
    }
    /// Called when nothing waits.
    async fn idle(&mut self) {}
}

/// A write of another domain.
pub(crate) trait DomainWrite<B: ?Sized>: Send {
    /// Runs the statements. A refusal undoes this write alone.
    async fn run(&mut self, backend: &mut B);
    /// Tells the caller, after the commit.
    fn finish(self, committed: Result<()>);
}

struct AppendJob {
    events: Vec<Event>,
    received_at_ns: u64,
    reply: AppendReply,
}

/// Runs on the writer's thread after the commit; must be quick.
pub(crate) type AppendReply = Box<dyn FnOnce(Result<Vec<Appended>>) + Send>;

type LeaseReply = oneshot::Sender<Result<Result<LeaseAnswer, LeaseRefusal>>>;

enum Urgent<D> {
    Lease { ticket: Ticket, op: LeaseOp, reply: LeaseReply },
    Domain(D),
    Stop(oneshot::Sender<()>),
}

/// The callers' side. Cloning is cheap.
pub(crate) struct WriterHandle<D> {
    appends: mpsc::Sender<AppendJob>,
    urgent: mpsc::Sender<Urgent<D>>,
    committed_seq: Arc<AtomicU64>,
    next_ticket: Arc<AtomicU64>,
}

/// Takes an acquire out of the line when its caller goes away before the answer.
struct Leaving<'a, D> {
    writer: &'a WriterHandle<D>,
    ticket: Option<Ticket>,
}

impl<D> Drop for Leaving<'_, D> {
    fn drop(&mut self) {
        let Some(waiting) = self.ticket else { return };
        // Nobody reads the answer. Where the queue is full the line skips the caller at its turn.
        let (reply, _) = oneshot::channel();
        let ticket = self.writer.ticket();
        let op = LeaseOp::Cancel(waiting);
        let _ = self.writer.urgent.try_send(Urgent::Lease { ticket, op, reply });
    }
}

impl<D> WriterHandle<D> {
    fn ticket(&self) -> Ticket {
        Ticket(self.next_ticket.fetch_add(1, Ordering::Relaxed))
    }
}

impl<D> Clone for WriterHandle<D> {
    fn clone(&self) -> Self {
        Self {
            appends: self.appends.clone(),
            urgent: self.urgent.clone(),
            committed_seq: self.committed_seq.clone(),
            next_ticket: self.next_ticket.clone(),
        }
    }
}

impl<D> fmt::Debug for WriterHandle<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriterHandle").finish_non_exhaustive()
    }
}

impl<D: Send + 'static> WriterHandle<D> {
    /// Stores events; answered when they are durable.
    pub async fn append(&self, events: Vec<Event>, received_at_ns: u64) -> Result<Vec<Appended>> {
        let (tell, answer) = oneshot::channel();
        let reply: AppendReply = Box::new(|appended| drop(tell.send(appended)));
        let job = AppendJob { events, received_at_ns, reply };
        self.appends.send(job).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Stores events for a caller on a thread of its own, which waits while the queue is full.
    pub fn submit(&self, events: Vec<Event>, received_at_ns: u64, reply: AppendReply) {
        let job = AppendJob { events, received_at_ns, reply };
        if let Err(refused) = self.appends.blocking_send(job) {
            (refused.0.reply)(Err(StoreError::Closed));
        }
    }

    /// Runs a lease operation. Dropping the future leaves the queue of waiters.
    pub async fn lease(&self, op: LeaseOp) -> Result<Result<LeaseAnswer, LeaseRefusal>> {
        let (reply, answer) = oneshot::channel();
        let ticket = self.ticket();
        let waits = matches!(&op, LeaseOp::Acquire(acquire) if acquire.wait_ms > 0);
        self.send(Urgent::Lease { ticket, op, reply }).await?;
        let mut leaving = Leaving { writer: self, ticket: waits.then_some(ticket) };
        let answer = answer.await;
        leaving.ticket = None;
        answer.map_err(|_| StoreError::Closed)?
    }

    pub async fn domain(&self, write: D) -> Result<()> {
        self.send(Urgent::Domain(write)).await
    }

    /// Writes what waits, then ends the writer.
    pub async fn stop(&self) {
        let (done, ended) = oneshot::channel();
        if self.send(Urgent::Stop(done)).await.is_ok() {
            let _ = ended.await;
        }
    }

    /// The newest committed `seq`.
    pub fn committed_seq(&self) -> u64 {
        self.committed_seq.load(Ordering::Acquire)
    }

    async fn send(&self, job: Urgent<D>) -> Result<()> {
        self.urgent.send(job).await.map_err(|_| StoreError::Closed)
    }
}

/// The loop's side.
pub(crate) struct Writer<B: WriteBackend> {
    backend: B,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn CommitObserver>,
    leases: LeaseTable,
    waiting: HashMap<Ticket, LeaseReply, RandomState>,
    next_seq: u64,
    rows_since_checkpoint: usize,
    failed: Option<StoreError>,
    /// Memory may be ahead of the disk: read it anew before the next transaction.
    stale: bool,
    appends: mpsc::Receiver<AppendJob>,
    urgent: mpsc::Receiver<Urgent<B::Domain>>,
    committed_seq: Arc<AtomicU64>,
}

/// One transaction's worth of jobs.
struct Work<D> {
    appends: Vec<AppendJob>,
    leases: Vec<(Ticket, LeaseOp, LeaseReply)>,
    domains: Vec<D>,
    stop: Option<oneshot::Sender<()>>,
}

impl<D> Default for Work<D> {
    fn default() -> Self {
        Self { appends: Vec::new(), leases: Vec::new(), domains: Vec::new(), stop: None }
    }
}

/// What a transaction will tell when it is committed.
#[derive(Default)]
struct Outcome {
    appended: Vec<Vec<Appended>>,
    committed: Vec<Committed>,
    applied: Applied,
}

impl<B: WriteBackend> Writer<B> {
    /// Opens the writer over `backend`.
    ///
    /// # Errors
    /// Where the log or the leases cannot be read.
    pub async fn open(
        mut backend: B,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn CommitObserver>,
    ) -> Result<(Self, WriterHandle<B::Domain>)> {
        let leases = backend.load_leases(now(&*clock)).await?;
        let next_seq = backend.next_seq().await?;
        let committed_seq = Arc::new(AtomicU64::new(next_seq - 1));
        let (append_tx, appends) = mpsc::channel(QUEUE);
        let (urgent_tx, urgent) = mpsc::channel(QUEUE);
        let handle = WriterHandle {
            appends: append_tx,
            urgent: urgent_tx,
            committed_seq: committed_seq.clone(),
            next_ticket: Arc::default(),
        };
        let writer = Self {
            backend,
            clock,
            observer,
            leases,
            waiting: HashMap::default(),
            next_seq,
            rows_since_checkpoint: 0,
            failed: None,
            stale: false,
            appends,
            urgent,
            committed_seq,
        };
        Ok((writer, handle))
    }

    /// Runs until stopped, or until every handle is gone.
    pub async fn run(mut self) {
        while let Some(mut work) = self.wait().await {
            self.fill(&mut work);
            let stop = work.stop.take();
            self.transact(work).await;
            if let Some(done) = stop {
                if let Err(error) = self.checkpoint().await {
                    tracing::warn!(%error, "what could wait was not written; the next start reads more history");
                }
                let _ = done.send(());
                return;
            }
        }
    }

    /// Writes down the leases as they are and what else could wait, so that the next start is quick.
    async fn checkpoint(&mut self) -> Result<()> {
        if self.failed.is_some() || self.stale {
            return Ok(());
        }
        self.backend.begin().await?;
        self.backend.checkpoint_leases(&self.leases).await?;
        self.backend.settle().await?;
        self.backend.commit().await
    }

    /// Waits for the first job, or for a lease to fall due.
    async fn wait(&mut self) -> Option<Work<B::Domain>> {
        let mut work = Work::default();
        if self.appends.is_empty() && self.urgent.is_empty() {
            self.backend.idle().await;
        }
        let due = if self.failed.is_some() {
            None
        } else if self.stale {
            Some(RETRY)
        } else {
            let left = |deadline: u64| deadline.saturating_sub(self.clock.mono_ns());
            self.leases.next_deadline().map(left).map(Duration::from_nanos)
        };
        tokio::select! {
            biased;
            job = self.urgent.recv() => self.take(&mut work, job?),
            job = self.appends.recv() => work.appends.push(job?),
            () = sleep(due) => {}
        }
        Some(work)
    }

    /// Adds what else waits right now; never waits for more.
    fn fill(&mut self, work: &mut Work<B::Domain>) {
        while work.stop.is_none()
            && work.leases.len() < MAX_LEASE_OPS
            && work.domains.len() < MAX_DOMAIN_WRITES
            && let Ok(job) = self.urgent.try_recv()
        {
            self.take(work, job);
        }
        let size =
            |job: &AppendJob| job.events.iter().map(|event| event.json().len()).sum::<usize>();
        let mut events: usize = work.appends.iter().map(|job| job.events.len()).sum();
        let mut bytes: usize = work.appends.iter().map(size).sum();
        while events < MAX_EVENTS
            && bytes < MAX_BYTES
            && let Ok(job) = self.appends.try_recv()
        {
            events += job.events.len();
            bytes += size(&job);
            work.appends.push(job);
        }
    }

    fn take(&mut self, work: &mut Work<B::Domain>, job: Urgent<B::Domain>) {
        match job {
            Urgent::Lease { ticket, op, reply } => work.leases.push((ticket, op, reply)),
            Urgent::Domain(write) => work.domains.push(write),
            Urgent::Stop(done) => work.stop = Some(done),
        }
    }

    /// One transaction: decide, write, commit, tell.
    async fn transact(&mut self, mut work: Work<B::Domain>) {
        let began = self.clock.mono_ns();
        let lease_ops = work.leases.len();
        let mut outcome = Outcome::default();
        let result = match &self.failed {
            Some(failure) => Err(failure.clone()),
            None => self.write(&mut work, &mut outcome).await,
        };
        match result {
            Ok(()) => {
                let took = Duration::from_nanos(self.clock.mono_ns().saturating_sub(began));
                let events = outcome.committed.len();
                self.tell(work, outcome);
                let queued = self.appends.len() + self.urgent.len();
                self.observer.wrote(WriteStats { events, lease_ops, took, queued });
            }
            Err(error) => self.fail(work, &error).await,
        }
    }

    async fn write(&mut self, work: &mut Work<B::Domain>, outcome: &mut Outcome) -> Result<()> {
        if self.stale || self.backend.is_lost() {
            self.stale = true;
            self.reload().await?;
        }
        self.apply_leases(work, &mut outcome.applied);
        let writes = !work.appends.is_empty()
            || !work.domains.is_empty()
            || !outcome.applied.rows.is_empty();
        if !writes {
            return Ok(());
        }
        self.backend.begin().await?;
        if !work.appends.is_empty() {
            self.write_events(work, outcome).await?;
        }
        if !outcome.applied.rows.is_empty() {
            self.backend.write_leases(&outcome.applied.rows).await?;
            self.rows_since_checkpoint += outcome.applied.rows.len();
        }
        for write in &mut work.domains {
            write.run(&mut self.backend).await;
        }
        if self.rows_since_checkpoint >= LEASE_CHECKPOINT_ROWS {
            self.backend.checkpoint_leases(&self.leases).await?;
            self.rows_since_checkpoint = 0;
        }
        self.backend.commit().await
    }

    fn apply_leases(&mut self, work: &mut Work<B::Domain>, applied: &mut Applied) {
        let now = now(&*self.clock);
        for (ticket, op, reply) in work.leases.drain(..) {
            self.waiting.insert(ticket, reply);
            let waiting = &self.waiting;
            let alive = |ticket: Ticket| waiting.get(&ticket).is_some_and(|to| !to.is_closed());
            self.leases.apply(now, ticket, op, &alive, applied);
        }
        let waiting = &self.waiting;
        let alive = |ticket: Ticket| waiting.get(&ticket).is_some_and(|to| !to.is_closed());
        self.leases.expire(now, &alive, EXPIRY_BUDGET, applied);
    }

    async fn write_events(&mut self, work: &Work<B::Domain>, outcome: &mut Outcome) -> Result<()> {
        let now = now(&*self.clock);
        let events: Vec<Event> =
            work.appends.iter().flat_map(|job| job.events.iter().cloned()).collect();
        let mut batch = self.backend.look_up(self.next_seq, &events).await?;
        for job in &work.appends {
            let mut decided = Vec::with_capacity(job.events.len());
            for event in &job.events {
                let known = batch.duplicate_of(&event.id()).is_some();
                decided.push(if known || self.fence_holds(now, event, &mut outcome.applied) {
                    batch.decide(event, job.received_at_ns)
                } else {
                    Appended::Fenced
                });
            }
            outcome.appended.push(decided);
        }
        self.backend.write_events(&batch).await?;
        outcome.committed = batch.rows.into_iter().map(|row| row.committed).collect();
        Ok(())
    }

    fn fence_holds(&mut self, now: Now, event: &Event, applied: &mut Applied) -> bool {
        let Some(fence) = event.fence() else { return true };
        let waiting = &self.waiting;
        let alive = |ticket: Ticket| waiting.get(&ticket).is_some_and(|to| !to.is_closed());
        let wanted = (event.namespace(), &fence.resource, fence.token);
        self.leases.check_fence(now, wanted, &event.pubkey(), &alive, applied)
    }

    /// After the commit: observers first, then everybody who asked.
    fn tell(&mut self, work: Work<B::Domain>, outcome: Outcome) {
        if let Some(last) = outcome.committed.last() {
            self.next_seq = last.seq + 1;
            self.observer.committed(&outcome.committed);
            self.committed_seq.store(last.seq, Ordering::Release);
        }
        if !outcome.applied.rows.is_empty() {
            self.observer.leases_changed(&outcome.applied.rows);
        }
        for (job, appended) in work.appends.into_iter().zip(outcome.appended) {
            (job.reply)(Ok(appended));
        }
        for (ticket, answer) in outcome.applied.answers {
            if let Some(reply) = self.waiting.remove(&ticket) {
                let _ = reply.send(Ok(answer));
            }
        }
        for write in work.domains {
            write.finish(Ok(()));
        }
    }

    /// Nothing was stored: everybody of this transaction hears why, and memory goes back to what is on disk.
    async fn fail(&mut self, work: Work<B::Domain>, error: &StoreError) {
        self.backend.rollback(error).await;
        for job in work.appends {
            (job.reply)(Err(error.clone()));
        }
        for write in work.domains {
            write.finish(Err(error.clone()));
        }
        for (_, _, reply) in work.leases {
            let _ = reply.send(Err(error.clone()));
        }
        // Waiters of earlier transactions lose their place as well: the table is read anew.
        for (_, reply) in self.waiting.drain() {
            let _ = reply.send(Err(error.clone()));
        }
        if self.failed.is_some() {
            return;
        }
        if !self.stale {
            tracing::error!(%error, "a transaction failed");
        }
        // After a failed write to disk nobody knows what is on it: no more promises until a new start.
        if matches!(error, StoreError::Disk(_) | StoreError::Corrupt(_)) {
            self.failed = Some(error.clone());
        }
        self.stale = true;
    }

    async fn reload(&mut self) -> Result<()> {
        self.leases = self.backend.load_leases(now(&*self.clock)).await?;
        self.next_seq = self.backend.next_seq().await?;
        self.stale = false;
        Ok(())
    }
}

/// While memory is not what is on disk, it is read anew this often although nobody asks.
const RETRY: Duration = Duration::from_millis(250);

/// Journal rows after which the current leases are written down.
const LEASE_CHECKPOINT_ROWS: usize = 4_000;

fn now(clock: &dyn Clock) -> Now {
    Now { mono_ns: clock.mono_ns(), wall_ns: clock.wall_ns() }
}

async fn sleep(due: Option<Duration>) {
    match due {
        Some(due) => tokio::time::sleep(due).await,
        None => std::future::pending().await,
    }
}
