//! From a URL to a WebSocket: name, TCP, TLS where it is demanded, upgrade.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use relay_proto::link::{Encoding, NodeType, handshake::Identity, session::BATCH};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config,
    tungstenite::{
        self, Message,
        client::IntoClientRequest,
        http::{HeaderValue, Uri, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::socket::{Adapted, Packet, tune};

/// The time from the first packet to the upgrade.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("'{0}' is no ws:// or wss:// address")]
    Url(String),
    #[error(
        "{0} is not this machine, and without TLS everybody on the way can read along; use wss:// or \
         allow it with --insecure"
    )]
    NotTls(String),
    #[error("{0}")]
    Connect(#[source] io::Error),
    #[error("{0}")]
    Upgrade(String),
    #[error("no answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
}

impl DialError {
    /// One word for logs and the metric's label.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Url(_) => "bad_url",
            Self::NotTls(_) => "not_tls",
            Self::Connect(_) => "connect",
            Self::Upgrade(_) => "upgrade",
            Self::Timeout => "timeout",
        }
    }
}

/// How connections are made.
#[derive(Clone)]
pub struct Dialing {
    /// Roots, and the client certificate where there is one.
    pub tls: Arc<rustls::ClientConfig>,
    /// `ws://` to other machines is allowed.
    pub insecure: bool,
    pub encoding: Encoding,
}

impl std::fmt::Debug for Dialing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialing").field("insecure", &self.insecure).finish_non_exhaustive()
    }
}

/// A dialled socket.
pub type Dialled = Adapted<WebSocketStream<MaybeTlsStream<TcpStream>>, Message>;

/// The WebSocket settings of a link: small buffers, since thousands lie idle on a hub, and bounds
/// on what is taken.
pub fn websocket_config(max_message: u32) -> WebSocketConfig {
    let most = max_message as usize + 2 * BATCH;
    WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_message_size(Some(most))
        .max_frame_size(Some(most))
}

/// Connects to a hub.
///
/// # Errors
/// [`DialError`].
pub async fn dial(
    url: &str,
    identity: &Identity,
    dialing: &Dialing,
    max_message: u32,
) -> Result<(Dialled, Encoding), DialError> {
    let connected = connect(url, identity, dialing, max_message);
    tokio::time::timeout(CONNECT_TIMEOUT, connected).await.map_err(|_| DialError::Timeout)?
}

async fn connect(
    url: &str,
    identity: &Identity,
    dialing: &Dialing,
    max_message: u32,
) -> Result<(Dialled, Encoding), DialError> {
    let bad = || DialError::Url(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']);
    let port = match (uri.scheme_str(), uri.port_u16()) {
        (Some("ws"), port) => port.unwrap_or(80),
        (Some("wss"), port) => port.unwrap_or(443),
        _ => return Err(bad()),
    };
    let stream = TcpStream::connect((host, port)).await.map_err(DialError::Connect)?;
    let remote = stream.peer_addr().map_err(DialError::Connect)?.ip();
    if uri.scheme_str() == Some("ws") && !is_loopback(remote) && !dialing.insecure {
        return Err(DialError::NotTls(host.to_owned()));
    }
    tune(&stream);
    let mut request = url.into_client_request().map_err(|_| bad())?;
    let headers = request.headers_mut();
    let protocol = HeaderValue::from_static(dialing.encoding.subprotocol());
    headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    if let Ok(id) = HeaderValue::from_str(identity.relay.as_str()) {
        headers.insert("X-Relay-Node-ID", id);
    }
    let node_type = match identity.node_type {
        NodeType::Main => "main",
        NodeType::Home => "home",
    };
    headers.insert("X-Relay-Node-Type", HeaderValue::from_static(node_type));
    let connector = Connector::Rustls(Arc::clone(&dialing.tls));
    let config = Some(websocket_config(max_message));
    let upgraded = client_async_tls_with_config(request, stream, config, Some(connector)).await;
    let (socket, response) = upgraded.map_err(|error| DialError::Upgrade(explain(&error)))?;
    let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
    let encoding =
        chosen.and_then(|chosen| chosen.to_str().ok()).map_or(Encoding::Json, Encoding::choose);
    Ok((Adapted::new(socket, read, write), encoding))
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// What a person can act on.
fn explain(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Http(response) => {
            let status = response.status();
            let hint = match status.as_u16() {
                404 => "; is this the address of a relay's /federate?",
                429 | 503 => "; the hub takes no more links at the moment",
                _ => "",
            };
            format!("the hub answered {status}{hint}")
        }
        other => other.to_string(),
    }
}

pub(super) fn read(message: Message) -> Option<Packet> {
    Some(match message {
        Message::Text(text) => Packet::Text(text.into()),
        Message::Binary(bytes) => Packet::Binary(bytes),
        Message::Ping(_) | Message::Pong(_) => Packet::Alive,
        Message::Close(Some(frame)) => Packet::Close(frame.code.into(), frame.reason.to_string()),
        Message::Close(None) => Packet::Close(1005, String::new()),
        Message::Frame(_) => return None,
    })
}

pub(super) fn write(packet: Packet) -> Message {
    match packet {
        Packet::Text(bytes) => match tungstenite::Utf8Bytes::try_from(bytes) {
            Ok(text) => Message::Text(text),
            // Encoded JSON is UTF-8; should that be untrue, the other side closes.
            Err(_) => Message::Text(tungstenite::Utf8Bytes::default()),
        },
        Packet::Binary(bytes) => Message::Binary(bytes),
        Packet::Alive => Message::Ping(Bytes::new()),
        Packet::Close(code, reason) => {
            Message::Close(Some(CloseFrame { code: CloseCode::from(code), reason: reason.into() }))
        }
    }
}
