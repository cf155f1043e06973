//! The WebSocket under a link, behind a small trait: dialled ones are tungstenite's, accepted ones
//! are whatever the edge's server has.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};

/// One WebSocket message, as far as links care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    Text(Bytes),
    Binary(Bytes),
    /// A ping or pong: a sign of life and nothing else. Answering pings is the library's.
    Alive,
    /// Code and reason.
    Close(u16, String),
}

/// A WebSocket in messages.
pub trait Socket: Send + Unpin + 'static {
    /// The next message; `None` after the end.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Packet>>>;

    /// Whether [`Self::start_send`] may be called: everything before is in the kernel.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// # Errors
    /// Where the connection is gone.
    fn start_send(&mut self, packet: Packet) -> io::Result<()>;

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// A [`Socket`] over a stream and sink of another message type.
pub struct Adapted<S, M> {
    socket: S,
    read: fn(M) -> Option<Packet>,
    write: fn(Packet) -> M,
}

impl<S, M> Adapted<S, M> {
    /// `read` gives `None` for messages that mean nothing here; `write` never sees [`Packet::Alive`].
    pub const fn new(socket: S, read: fn(M) -> Option<Packet>, write: fn(Packet) -> M) -> Self {
        Self { socket, read, write }
    }
}

impl<S, M> std::fmt::Debug for Adapted<S, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapted").finish_non_exhaustive()
    }
}

impl<S, M, E> Socket for Adapted<S, M>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Send + Unpin + 'static,
    E: std::error::Error + Send + Sync + 'static,
    M: 'static,
{
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Packet>>> {
        loop {
            match ready!(self.socket.poll_next_unpin(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                Some(Ok(message)) => {
                    if let Some(packet) = (self.read)(message) {
                        return Poll::Ready(Some(Ok(packet)));
                    }
                }
            }
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_ready(cx).map_err(io::Error::other)
    }

    fn start_send(&mut self, packet: Packet) -> io::Result<()> {
        self.socket.start_send_unpin((self.write)(packet)).map_err(io::Error::other)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_flush_unpin(cx).map_err(io::Error::other)
    }
}

/// The next message of a socket.
///
/// # Errors
/// The connection's; its end is [`io::ErrorKind::UnexpectedEof`].
pub async fn receive(socket: &mut impl Socket) -> io::Result<Packet> {
    let packet = std::future::poll_fn(|cx| socket.poll_receive(cx)).await;
    packet.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))
}

/// Sends one message and flushes.
///
/// # Errors
/// The connection's.
pub async fn send(socket: &mut impl Socket, packet: Packet) -> io::Result<()> {
    std::future::poll_fn(|cx| socket.poll_ready(cx)).await?;
    socket.start_send(packet)?;
    std::future::poll_fn(|cx| socket.poll_flush(cx)).await
}

/// Settings of every socket that carries a link: nothing waits for more, and what the kernel holds back
/// unsent stays small, since behind it priorities mean nothing.
pub fn tune<'s>(socket: impl Into<socket2::SockRef<'s>>) {
    let socket = socket.into();
    // Each is an improvement, none a need.
    let _ = socket.set_tcp_nodelay(true);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket.set_tcp_notsent_lowat(NOTSENT);
}

/// Bytes that may wait unsent in the kernel: one piece of a stream, 4 ms on 15 Mbit/s.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NOTSENT: u32 = 8 * 1024;
