//! One request of either side: who waits for the answer of the other, and who gives it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::{FutureExt, future::BoxFuture, task::AtomicWaker};
use relay_proto::{Code, Problem, link::handshake::error_message};
use tokio::sync::oneshot;

use super::Shared;
use crate::{
    link::{Answered, Answering, LinkError},
    links::stream::pump,
};

/// Waits for an answer; dropped before, the other side is told that nobody waits.
pub(super) struct Asking {
    pub shared: Arc<Shared>,
    /// `None` once answered.
    pub id: Option<u64>,
    pub answer: oneshot::Receiver<Result<Answered, LinkError>>,
}

impl Future for Asking {
    type Output = Result<Answered, LinkError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(self.answer.poll_unpin(cx));
        self.id = None;
        // The session ends every request before it goes.
        Poll::Ready(answer.unwrap_or(Err(LinkError::Closed { sent: true })))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.shared.lock().session.cancel(id);
            self.shared.wake();
        }
    }
}

/// Learns that nobody waits for an answer any more.
#[derive(Debug, Default)]
pub(in crate::links) struct Abandon {
    done: AtomicBool,
    waker: AtomicWaker,
}

impl Abandon {
    pub fn set(&self) {
        self.done.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.done.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Answers one request of the other side.
pub(super) struct Answerer {
    pub shared: Arc<Shared>,
    /// `None` once answered.
    pub id: Option<Box<str>>,
    pub abandon: Arc<Abandon>,
}

impl Answerer {
    fn give(&mut self, answer: Answered) {
        let Some(id) = self.id.take() else { return };
        let Answered { message, stream } = answer;
        let opened = self.shared.lock().session.answer(&id, message, stream.is_some());
        self.shared.wake();
        if let (Some(opened), Some(stream)) = (opened, stream) {
            self.shared.pumps.spawn(pump(Arc::clone(&self.shared), opened, stream));
        }
    }
}

impl Answering for Answerer {
    fn answer(mut self: Box<Self>, answer: Answered) {
        self.give(answer);
    }

    fn abandoned(&mut self) -> BoxFuture<'_, ()> {
        let abandon = Arc::clone(&self.abandon);
        Box::pin(std::future::poll_fn(move |cx| abandon.poll(cx)))
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        if self.id.is_some() {
            let problem = Problem::new(Code::InternalError, "the request was dropped unanswered");
            self.give(Answered { message: error_message(&problem), stream: None });
        }
    }
}
