//! Verification on threads of its own: whatever waits is checked in one batch.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use rand_core::OsRng;
use relay_proto::{Event, EventError, RawEvent, event::verify_many};
use tokio::sync::mpsc;

/// Jobs that may wait. When it is full, publishers wait, and sockets are not read.
const QUEUE: usize = 1_024;
/// Events checked in one batch; beyond it a larger batch gains little and delays the first.
const BATCH: usize = 64;

type Done = Box<dyn FnOnce(Vec<Result<Event, EventError>>) + Send>;

struct Job {
    raws: Vec<RawEvent>,
    done: Done,
}

/// The verification threads. They end when this is dropped and the queue is empty.
pub(super) struct Verifier {
    jobs: mpsc::Sender<Job>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("waiting", &self.waiting()).finish()
    }
}

impl Verifier {
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let (jobs, inbox) = mpsc::channel(QUEUE);
        let inbox = Arc::new(Mutex::new(inbox));
        for _ in 0..threads.max(1) {
            let inbox = inbox.clone();
            std::thread::Builder::new().name("verify".into()).spawn(move || run(&inbox))?;
        }
        Ok(Self { jobs })
    }

    /// Has events checked; `done` runs on the thread that checked them. Waits while the queue is full.
    ///
    /// Returns false when the threads are gone.
    pub async fn check(
        &self,
        raws: Vec<RawEvent>,
        done: impl FnOnce(Vec<Result<Event, EventError>>) + Send + 'static,
    ) -> bool {
        self.jobs.send(Job { raws, done: Box::new(done) }).await.is_ok()
    }

    /// Jobs waiting.
    pub fn waiting(&self) -> usize {
        self.jobs.max_capacity() - self.jobs.capacity()
    }
}

fn run(inbox: &Mutex<mpsc::Receiver<Job>>) {
    while let Some(mut jobs) = next_batch(inbox) {
        let sizes: Vec<usize> = jobs.iter().map(|job| job.raws.len()).collect();
        let raws = jobs.iter_mut().flat_map(|job| std::mem::take(&mut job.raws)).collect();
        let mut verified = verify_many(raws, OsRng).into_iter();
        for (job, size) in jobs.into_iter().zip(sizes) {
            (job.done)(verified.by_ref().take(size).collect());
        }
    }
}

/// Waits for one job, then takes what else is there.
fn next_batch(inbox: &Mutex<mpsc::Receiver<Job>>) -> Option<Vec<Job>> {
    let mut inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
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
