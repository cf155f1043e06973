//! The script threads. A machine never leaves the thread it was made on.

use std::{
    future::Future,
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use futures_util::future::LocalBoxFuture;
use tokio::{
    sync::{mpsc, oneshot},
    task::LocalSet,
};

/// Makes a task on the thread it runs on.
type Start = Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>;

/// A few threads, each running the machines of many services.
#[derive(Debug)]
pub(super) struct ScriptPool {
    threads: Vec<Thread>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Thread {
    /// Bounded by the number of services: each asks once a life.
    starts: mpsc::UnboundedSender<Start>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

/// Twice what the machine may use, and room for what calls it.
const STACK: usize = 4 << 20;

impl ScriptPool {
    /// # Errors
    /// Where the system gives no threads.
    pub fn new(threads: NonZeroUsize) -> std::io::Result<Self> {
        let threads = (0..threads.get()).map(Thread::start).collect::<std::io::Result<_>>()?;
        Ok(Self { threads, next: AtomicUsize::new(0) })
    }

    /// Runs a future on one of the threads; `None` when that thread is gone. Dropping the
    /// returned future drops that one.
    pub async fn run<F, R>(&self, start: impl FnOnce() -> F + Send + 'static) -> Option<R>
    where
        F: Future<Output = R> + 'static,
        R: Send + 'static,
    {
        let at = self.next.fetch_add(1, Relaxed) % self.threads.len().max(1);
        let (mut done, result) = oneshot::channel();
        let start: Start = Box::new(move || {
            let work = start();
            Box::pin(async move {
                tokio::select! {
                    result = work => {
                        let _ = done.send(result);
                    }
                    () = done.closed() => {}
                }
            })
        });
        self.threads.get(at)?.starts.send(start).ok()?;
        result.await.ok()
    }
}

impl Drop for ScriptPool {
    fn drop(&mut self) {
        for thread in &mut self.threads {
            // Closing the channel ends the thread once its tasks are dropped.
            thread.starts = mpsc::unbounded_channel().0;
            let handle = thread.handle.get_mut().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(handle) = handle.filter(|h| h.thread().id() != std::thread::current().id())
            {
                let _ = handle.join();
            }
        }
    }
}

impl Thread {
    fn start(number: usize) -> std::io::Result<Self> {
        let (starts, mut wanted) = mpsc::unbounded_channel::<Start>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let run = move || {
            let tasks = LocalSet::new();
            tasks.block_on(&runtime, async {
                while let Some(start) = wanted.recv().await {
                    tokio::task::spawn_local(start());
                }
            });
            // Dropping the set drops what still runs on it.
        };
        let builder = std::thread::Builder::new().name(format!("script-{number}"));
        let handle = builder.stack_size(STACK).spawn(run)?;
        Ok(Self { starts, handle: Mutex::new(Some(handle)) })
    }
}
