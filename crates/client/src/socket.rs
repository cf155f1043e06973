//! The WebSocket to a relay, over TCP, TLS or a local socket.

use std::{pin::Pin, time::Duration};

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use reqwest::{Method, Url, header::AUTHORIZATION};
use tokio::{net::TcpStream, time::Instant};
use tokio_tungstenite::{
    client_async_tls_with_config, client_async_with_config,
    tungstenite::{
        self, Message, client::IntoClientRequest, handshake::client::Request,
        protocol::WebSocketConfig,
    },
};

use crate::{
    client::{Client, GRANT_HEADER},
    endpoint::Endpoint,
    error::Error,
};

/// Both directions of a socket, whatever carries it.
pub(crate) trait Duplex:
    Stream<Item = Result<Message, tungstenite::Error>>
    + Sink<Message, Error = tungstenite::Error>
    + Send
{
}
impl<T> Duplex for T where
    T: Stream<Item = Result<Message, tungstenite::Error>>
        + Sink<Message, Error = tungstenite::Error>
        + Send
{
}

pub(crate) type Socket = Pin<Box<dyn Duplex>>;

/// The largest frame taken; a relay sends one event a frame.
const MAX_FRAME: usize = 64 << 20;

impl Client {
    /// Opens a socket at `path` within the client's deadline.
    pub(crate) async fn socket(&self, path: &str) -> Result<Socket, Error> {
        let after = self.inner.timeout;
        match tokio::time::timeout(after, self.open_socket(path)).await {
            Ok(opened) => opened,
            Err(_) => Err(Error::Timeout { url: self.address(), after }),
        }
    }

    /// Opens a socket, says nothing on it for `quiet`, and asks for a sign of life; tells how long
    /// the answer took. What stands between may cut connections that look idle.
    ///
    /// # Errors
    /// [`Error::Unreachable`] with the time after which the socket was cut, [`Error::Timeout`].
    pub async fn probe_idle(&self, quiet: Duration) -> Result<Duration, Error> {
        let mut socket = self.socket("/v1/stream").await?;
        let opened = Instant::now();
        let cut = |why: &str| {
            let cause = format!("the socket was cut after {} s: {why}", opened.elapsed().as_secs());
            Error::Unreachable { url: self.address(), cause }
        };
        // Reading answers the relay's own pings, as every client does.
        let mut until = opened + quiet;
        let mut asked = None;
        loop {
            match tokio::time::timeout_at(until, socket.next()).await {
                Ok(Some(Ok(Message::Pong(_)))) if asked.is_some() => {
                    return Ok(asked.unwrap_or(opened).elapsed());
                }
                Ok(Some(Ok(Message::Close(_))) | None) => return Err(cut("closed")),
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return Err(cut(&error.to_string())),
                Err(_) if asked.is_some() => return Err(cut("no answer to a ping")),
                Err(_) => {
                    let ping = socket.send(Message::Ping(bytes::Bytes::new())).await;
                    ping.map_err(|error| cut(&error.to_string()))?;
                    asked = Some(Instant::now());
                    until = Instant::now() + self.inner.timeout;
                }
            }
        }
    }

    async fn open_socket(&self, path: &str) -> Result<Socket, Error> {
        let url = self.inner.endpoint.url(path, &[]);
        let request = self.upgrade(&url)?;
        let config = Some(
            WebSocketConfig::default()
                .read_buffer_size(16 << 10)
                .write_buffer_size(0)
                .max_message_size(Some(MAX_FRAME))
                .max_frame_size(Some(MAX_FRAME)),
        );
        let unreachable = |cause: String| Error::Unreachable { url: self.address(), cause };
        let opened: Result<Socket, tungstenite::Error> = match &self.inner.endpoint {
            #[cfg(unix)]
            Endpoint::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path)
                    .await
                    .map_err(|error| unreachable(error.to_string()))?;
                client_async_with_config(request, stream, config)
                    .await
                    .map(|(ws, _)| Box::pin(ws) as _)
            }
            #[cfg(not(unix))]
            Endpoint::Unix(_) => return Err(Error::Address("no local sockets here".into())),
            Endpoint::Http(_) => {
                let stream = connect_tcp(&url).await.map_err(unreachable)?;
                client_async_tls_with_config(request, stream, config, None)
                    .await
                    .map(|(ws, _)| Box::pin(ws) as _)
            }
        };
        opened.map_err(|error| match error {
            tungstenite::Error::Http(response) => {
                let body = response.body().as_deref().unwrap_or_default();
                self.refused_upgrade(response.status().as_u16(), body)
            }
            other => unreachable(other.to_string()),
        })
    }

    fn upgrade(&self, url: &Url) -> Result<Request, Error> {
        let authorization = self.authorization(&Method::GET, url, None)?;
        let mut socket_url = url.clone();
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        // Both are special schemes, between which the scheme may be changed.
        let _ = socket_url.set_scheme(scheme);
        let mut request = socket_url
            .as_str()
            .into_client_request()
            .map_err(|error| Error::Address(error.to_string()))?;
        if let Some(value) = authorization {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        if let Some(grant) = self.grant() {
            let value = grant.parse().map_err(|_| Error::Address("a grant".into()))?;
            request.headers_mut().insert(GRANT_HEADER, value);
        }
        Ok(request)
    }
}

async fn connect_tcp(url: &Url) -> Result<TcpStream, String> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(80);
    let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
    // Without it a small frame may wait for the acknowledgement of the one before.
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    Ok(stream)
}

/// A relay that sends nothing for this long, not even the answer to a ping, is taken for gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);
/// How often a quiet socket is pinged.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(10);
