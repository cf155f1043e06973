//! The frames of a socket as they come and go, for those who keep state of their own behind them.
//!
//! Nothing here subscribes, resumes or retries: whoever holds a [`FrameSocket`] knows what it has seen.

use futures_util::{SinkExt, StreamExt};
use relay_proto::frame::{Frame, encode};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    client::Client,
    error::Error,
    socket::{PING_EVERY, SILENCE, Socket},
};

/// A socket of the relay. Dropping it closes it.
pub struct FrameSocket {
    socket: Socket,
    /// When the relay last sent anything, and when it was last asked whether it is there.
    heard: Instant,
    pinged: Instant,
    /// The relay asked for a sign of life and has not got it yet.
    pong_due: bool,
    url: String,
}

/// A frame that came.
#[derive(Debug, Clone)]
pub struct ReceivedFrame {
    /// Its type, `area.verb`.
    pub t: String,
    /// The `id` of the request that it answers.
    pub id: Option<String>,
    /// The body as JSON text.
    pub body: String,
}

impl ReceivedFrame {
    /// Reads the body.
    ///
    /// # Errors
    /// [`Error::Protocol`] where it is something else.
    pub fn read<T: DeserializeOwned>(&self, url: &str) -> Result<T, Error> {
        serde_json::from_str(&self.body).map_err(|error| Error::Protocol {
            url: url.to_owned(),
            what: format!("{}: {error}", self.t),
        })
    }
}

impl Client {
    /// Opens a socket that speaks for this client's credentials.
    ///
    /// # Errors
    /// `unauthorized`; any [`Error`] of the transport.
    pub async fn frames(&self) -> Result<FrameSocket, Error> {
        let socket = self.socket("/v1/ws").await?;
        let now = Instant::now();
        let url = self.address();
        Ok(FrameSocket { socket, heard: now, pinged: now, pong_due: false, url })
    }
}

impl FrameSocket {
    /// Sends one frame.
    ///
    /// # Errors
    /// [`Error::Unreachable`] where the socket is gone.
    pub async fn send(
        &mut self,
        t: &str,
        id: Option<&str>,
        body: &(impl Serialize + Sync),
    ) -> Result<(), Error> {
        let text = encode(t, id, body);
        self.socket.send(Message::text(text)).await.map_err(|error| self.lost(error.to_string()))
    }

    /// Waits for the next frame. Questions of the relay for a sign of life are answered on the way.
    ///
    /// # Cancel safety
    /// Nothing that came is lost where the future is dropped.
    ///
    /// # Errors
    /// [`Error::Unreachable`] where the socket is gone, [`Error::Protocol`] where something else than frames comes.
    pub async fn next(&mut self) -> Result<ReceivedFrame, Error> {
        loop {
            if self.pong_due {
                let pong = encode("pong", None, &serde_json::json!({}));
                let sent = self.socket.send(Message::text(pong)).await;
                sent.map_err(|error| self.lost(error.to_string()))?;
                self.pong_due = false;
            }
            let quiet_since = self.heard.max(self.pinged);
            let message = tokio::select! {
                message = self.socket.next() => message,
                () = tokio::time::sleep_until(quiet_since + PING_EVERY) => {
                    if self.heard.elapsed() >= SILENCE {
                        return Err(self.lost(format!("nothing heard for {SILENCE:?}")));
                    }
                    self.pinged = Instant::now();
                    let sent = self.socket.send(Message::Ping(bytes::Bytes::new())).await;
                    sent.map_err(|error| self.lost(error.to_string()))?;
                    continue;
                }
            };
            self.heard = Instant::now();
            match message {
                Some(Ok(Message::Text(text))) => {
                    let frame = Frame::parse(text.as_str()).map_err(|fault| Error::Protocol {
                        url: self.url.clone(),
                        what: fault.problem.message,
                    })?;
                    if frame.t == "ping" {
                        self.pong_due = true;
                        continue;
                    }
                    return Ok(ReceivedFrame {
                        t: frame.t.into_owned(),
                        id: frame.id.map(std::borrow::Cow::into_owned),
                        body: frame.body.to_owned(),
                    });
                }
                Some(Ok(Message::Close(reason))) => {
                    let reason = reason.map(|reason| reason.reason.to_string()).unwrap_or_default();
                    let cause = format!("closed by the relay {reason}");
                    return Err(self.lost(cause.trim_end().to_owned()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(self.lost(error.to_string())),
                None => return Err(self.lost("the connection ended".into())),
            }
        }
    }

    fn lost(&self, cause: String) -> Error {
        Error::Unreachable { url: self.url.clone(), cause }
    }
}

impl std::fmt::Debug for FrameSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameSocket").field("url", &self.url).finish_non_exhaustive()
    }
}
