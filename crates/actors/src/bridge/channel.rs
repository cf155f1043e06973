//! A program that is connected to the node already and serves calls over that connection.

use futures_util::future::BoxFuture;
use relay_proto::{CallError, call::RpcCode};
use tokio::sync::{mpsc, oneshot};

use crate::service::{Handled, Reply, Request, Service};

/// A call on its way to the program.
#[derive(Debug)]
pub struct Passed {
    pub request: Request,
    /// Closed when nobody waits for the answer any more.
    pub answer: oneshot::Sender<Result<Reply, CallError>>,
}

/// Hands each call to whoever holds the other end; when that is gone, calls are unreachable.
#[derive(Debug, Clone)]
pub struct ChannelBridge {
    calls: mpsc::Sender<Passed>,
}

/// Calls between the actor and the connection; one more waits.
const QUEUE: usize = 16;

impl ChannelBridge {
    /// The service, and where its calls come out.
    pub fn new() -> (Self, mpsc::Receiver<Passed>) {
        let (calls, passed) = mpsc::channel(QUEUE);
        (Self { calls }, passed)
    }
}

impl Service for ChannelBridge {
    fn handle(&mut self, request: Request) -> BoxFuture<'_, Handled> {
        let calls = self.calls.clone();
        let work = async move {
            let (answer, answered) = oneshot::channel();
            calls.send(Passed { request, answer }).await.map_err(|_| gone())?;
            answered.await.unwrap_or_else(|_| Err(gone()))
        };
        Box::pin(std::future::ready(Handled::Aside(Box::pin(work))))
    }
}

fn gone() -> CallError {
    CallError::new(RpcCode::NodeUnreachable, "the program behind the service has gone")
}
