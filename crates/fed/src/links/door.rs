//! A plain door for links, for programs that have no edge: it takes nothing but links, at any path.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use relay_proto::link::{Encoding, handshake::HANDSHAKE_TIMEOUT};

use super::{
    Links,
    admission::Arrival,
    dial::{read, websocket_config, write},
    socket::{Adapted, tune},
};

/// Takes links until `stop`; TLS where it is given. Links that are up then are [`Links`]' to end.
pub async fn serve(
    listener: TcpListener,
    links: Links,
    tls: Option<Arc<rustls::ServerConfig>>,
    stop: CancellationToken,
) {
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        // The listener's errors are those of one connection, or pass.
        let Ok((stream, remote)) = accepted else { continue };
        let Ok(ticket) = links.admit() else { continue };
        let (links, tls) = (links.clone(), tls.clone());
        tasks.spawn(async move {
            tune(&stream);
            let mut arrival = Arrival { remote: Some(remote), certificates: Vec::new() };
            let most = links.settings().offer.max_message_bytes;
            match tls {
                None => {
                    let upgraded = tokio::time::timeout(HANDSHAKE_TIMEOUT, upgrade(stream, most));
                    if let Ok(Some((socket, encoding))) = upgraded.await {
                        links.accept(ticket, socket, encoding, arrival);
                    }
                }
                Some(tls) => {
                    let upgraded = async {
                        let stream =
                            tokio_rustls::TlsAcceptor::from(tls).accept(stream).await.ok()?;
                        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
                        let shown = shown.iter().map(|one| one.clone().into_owned()).collect();
                        upgrade(stream, most).await.map(|upgraded| (upgraded, shown))
                    };
                    let upgraded = tokio::time::timeout(HANDSHAKE_TIMEOUT, upgraded);
                    if let Ok(Some(((socket, encoding), shown))) = upgraded.await {
                        arrival.certificates = shown;
                        links.accept(ticket, socket, encoding, arrival);
                    }
                }
            }
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// The WebSocket upgrade; `None` where it does not come about.
async fn upgrade<S>(
    stream: S,
    most: u32,
) -> Option<(Adapted<WebSocketStream<S>, Message>, Encoding)>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut encoding = Encoding::Json;
    let choose = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let offered = request.headers().get(SEC_WEBSOCKET_PROTOCOL);
        if let Some(offered) = offered.and_then(|offered| offered.to_str().ok()) {
            encoding = Encoding::choose(offered);
            let chosen = HeaderValue::from_static(encoding.subprotocol());
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, chosen);
        }
        Ok(response)
    };
    let config = Some(websocket_config(most));
    let socket = accept_hdr_async_with_config(stream, choose, config).await.ok()?;
    Some((Adapted::new(socket, read, write), encoding))
}
