//! Verification on threads of its own: whatever waits is checked in one batch.
//!
//! A publisher keeps to one thread, which hands on what it checked in the order it came. So what one
//! connection sends is stored in the order sent, and different connections use all threads.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
};

use rand_core::OsRng;
use relay_proto::{Event, EventError, RawEvent, event::Verifier as Batches};
use tokio::sync::mpsc;

/// Jobs that may wait for one thread. When it is full, publishers wait, and sockets are not read.
const QUEUE: usize = 512;
/// Events checked in one batch; beyond it a larger batch gains little and delays the first.
const BATCH: usize = 128;

type Done = Box<dyn FnOnce(Vec<Result<Event, EventError>>) + Send>;

struct Job {
    raws: Vec<RawEvent>,
    done: Done,
}

/// Names a publisher whose events are to be stored in the order sent.
#[derive(Debug, Clone, Copy)]
pub struct Lane(usize);

/// The verification threads. They end when this is dropped and their queues are empty.
pub(super) struct Verifier {
    threads: Vec<mpsc::Sender<Job>>,
    next_lane: AtomicUsize,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("waiting", &self.waiting()).finish()
    }
}

impl Verifier {
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let start = |_| {
            let (jobs, inbox) = mpsc::channel(QUEUE);
            std::thread::Builder::new().name("verify".into()).spawn(move || run(inbox))?;
            Ok(jobs)
        };
        let threads: std::io::Result<Vec<_>> = (0..threads.max(1)).map(start).collect();
        Ok(Self { threads: threads?, next_lane: AtomicUsize::new(0) })
    }

    /// A lane for a new publisher.
    pub fn lane(&self) -> Lane {
        Lane(self.next_lane.fetch_add(1, Ordering::Relaxed))
    }

    /// Has events checked; `done` runs on the thread that checked them, in the order of the lane.
    /// Waits while the queue is full.
    ///
    /// Returns false when the threads are gone.
    pub async fn check(
        &self,
        lane: Lane,
        raws: Vec<RawEvent>,
        done: impl FnOnce(Vec<Result<Event, EventError>>) + Send + 'static,
    ) -> bool {
        let thread = &self.threads[lane.0 % self.threads.len()];
        thread.send(Job { raws, done: Box::new(done) }).await.is_ok()
    }

    /// Jobs waiting.
    pub fn waiting(&self) -> usize {
        self.threads.iter().map(|jobs| jobs.max_capacity() - jobs.capacity()).sum()
    }
}

fn run(mut inbox: mpsc::Receiver<Job>) {
    let mut batches = Batches::default();
    while let Some(mut jobs) = next_batch(&mut inbox) {
        let sizes: Vec<usize> = jobs.iter().map(|job| job.raws.len()).collect();
        let raws = jobs.iter_mut().flat_map(|job| std::mem::take(&mut job.raws)).collect();
        let mut verified = batches.verify_many(raws, OsRng).into_iter();
        for (job, size) in jobs.into_iter().zip(sizes) {
            (job.done)(verified.by_ref().take(size).collect());
        }
    }
}

/// Waits for one job, then takes what else is there.
fn next_batch(inbox: &mut mpsc::Receiver<Job>) -> Option<Vec<Job>> {
    let first = inbox.blocking_recv()?;
    let mut events = first.raws.len();
    let mut jobs = vec![first];
    while events < BATCH
        && let Ok(job) = inbox.try_recv()
    {
        events += job.raws.len();
        jobs.push(job);
    }
    Some(jobs)
}
