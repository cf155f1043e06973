//! Streams of a link as the application sees them: one to read, one to be pumped.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use relay_proto::{
    CallError,
    call::RpcCode,
    link::{
        codec::{MAX_TEXT, StreamEnd},
        session::{ReadOutcome, WriteOutcome},
    },
};

use super::running::Shared;
use crate::link::ByteStream;

/// A stream that comes in. Dropped, the sender is told that nobody reads on.
pub(super) struct Reader {
    shared: Arc<Shared>,
    id: u64,
    done: bool,
}

impl Reader {
    pub fn stream(shared: &Arc<Shared>, id: u64) -> ByteStream {
        Box::pin(Self { shared: Arc::clone(shared), id, done: false })
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.done {
            return Poll::Ready(None);
        }
        let outcome = {
            let mut inner = self.shared.lock();
            let outcome = inner.session.read(self.id);
            if outcome == ReadOutcome::Nothing && !inner.is_closed() {
                inner.readers.insert(self.id, cx.waker().clone());
                return Poll::Pending;
            }
            outcome
        };
        let failed = |code, why: String| Poll::Ready(Some(Err(CallError::new(code, why))));
        match outcome {
            ReadOutcome::Bytes(bytes) => {
                // Credit may be due.
                self.shared.wake();
                Poll::Ready(Some(Ok(bytes.into())))
            }
            ReadOutcome::Nothing => {
                self.done = true;
                failed(
                    RpcCode::NodeUnreachable,
                    "the link ended in the middle of a stream".to_owned(),
                )
            }
            ReadOutcome::Failed(why) => {
                self.done = true;
                failed(RpcCode::Internal, why)
            }
            ReadOutcome::End => {
                self.done = true;
                Poll::Ready(None)
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.readers.remove(&self.id);
        if !self.done {
            inner.session.stop(self.id);
            drop(inner);
            self.shared.wake();
        }
    }
}

/// Sends `body` as the stream `id`, at the pace of its reader, until it ends, or nobody reads on.
pub(super) async fn pump(shared: Arc<Shared>, id: u64, mut body: ByteStream) {
    let end = loop {
        let next = std::future::poll_fn(|cx| {
            if shared.is_stopped(id, cx) {
                return Poll::Ready(None);
            }
            body.poll_next_unpin(cx).map(Some)
        });
        match next.await {
            None => break None,
            Some(None) => break Some(StreamEnd::Finished),
            Some(Some(Err(error))) => break Some(StreamEnd::Failed(shorten(error.message))),
            Some(Some(Ok(bytes))) => {
                if !write_all(&shared, id, &bytes).await {
                    break None;
                }
            }
        }
    };
    let mut inner = shared.lock();
    inner.writers.remove(&id);
    if let Some(end) = end {
        inner.session.end(id, end);
        drop(inner);
        shared.wake();
    }
}

/// False where nobody reads on.
async fn write_all(shared: &Arc<Shared>, id: u64, bytes: &[u8]) -> bool {
    let mut rest = bytes;
    std::future::poll_fn(|cx| {
        let mut inner = shared.lock();
        if inner.is_closed() {
            return Poll::Ready(false);
        }
        match inner.session.write(id, rest) {
            WriteOutcome::Stopped => return Poll::Ready(false),
            WriteOutcome::Took(took) => rest = rest.get(took..).unwrap_or_default(),
        }
        if !rest.is_empty() {
            inner.writers.insert(id, cx.waker().clone());
        }
        drop(inner);
        shared.wake();
        if rest.is_empty() { Poll::Ready(true) } else { Poll::Pending }
    })
    .await
}

fn shorten(mut text: String) -> String {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or_default());
    text
}
