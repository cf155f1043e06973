//! Listening, accepting, draining.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::Request};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use relay_node::{Node, metrics::Metrics};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use crate::{
    acme::Acme,
    homes::HomeDoor,
    info,
    peer::{Certificates, Peer},
    routes,
    stall::Guarded,
    tls::{Encryption, TlsError},
};

/// Time for a client to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for a TLS handshake.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a relay cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot listen on {addr}: {source}")]
    Listen { addr: String, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The open doors of a relay.
#[derive(Debug)]
pub struct Doors {
    node: Arc<Node>,
    /// Where HTTP is really served (ports 0 are filled in).
    pub http: Vec<SocketAddr>,
    /// The local socket, where there is one.
    pub socket: Option<PathBuf>,
    pub metrics: Option<SocketAddr>,
    pub tls: bool,
    /// Ends accepting.
    accepting: CancellationToken,
    /// Asks open connections to finish.
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// What every accepted connection needs.
#[derive(Clone)]
struct Shared {
    node: Arc<Node>,
    router: Router,
    metrics: Arc<Metrics>,
    accepting: CancellationToken,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Doors {
    /// Listens where the configuration says.
    ///
    /// # Errors
    /// [`OpenError`]; then nothing is left open.
    pub async fn open(node: Arc<Node>) -> Result<Self, OpenError> {
        let config = &node.config;
        let acme = Acme::of(config, node.metrics.clone());
        let encryption = Encryption::of(config, acme.as_ref().map(Acme::certificates))?;
        if let Some(encryption) = &encryption {
            node.renew_at_reload(encryption.clone());
        }
        let shared = Shared {
            node: node.clone(),
            router: routes::router(node.clone()),
            metrics: node.metrics.clone(),
            accepting: CancellationToken::new(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let mut listeners = Vec::new();
        for addr in &config.listen.http {
            listeners.push(listen(*addr).await?);
        }
        let challenge = match &acme {
            Some(_) => Some(listen(config.tls.challenge).await?),
            None => None,
        };
        let metrics = match config.listen.metrics {
            Some(addr) => Some(listen(addr).await?),
            None => None,
        };
        let socket = config.listen.socket_path(&config.node.data_dir());
        let unix = socket.as_deref().map(listen_local).transpose()?;
        let doors = Self {
            http: listeners.iter().filter_map(|l| l.local_addr().ok()).collect(),
            metrics: metrics.as_ref().and_then(|l| l.local_addr().ok()),
            tls: encryption.is_some(),
            socket,
            accepting: shared.accepting.clone(),
            closing: shared.closing.clone(),
            tasks: shared.tasks.clone(),
            node: node.clone(),
        };
        let _ = node.address.set(doors.address());
        let door = HomeDoor::new(node.clone());
        node.open_door(Arc::new(door));
        for listener in listeners {
            shared.tasks.spawn(accept_tcp(listener, encryption.clone(), shared.clone()));
        }
        if let Some(listener) = metrics {
            let router = Router::new().route(
                "/metrics",
                axum::routing::get(move || async move { info::metrics_text(&node) }),
            );
            let shared = Shared { router, ..shared.clone() };
            shared.tasks.spawn(accept_tcp(listener, None, shared.clone()));
        }
        if let (Some(acme), Some(listener)) = (acme, challenge) {
            let shared = Shared { router: acme.router(), ..shared.clone() };
            shared.tasks.spawn(accept_tcp(listener, None, shared.clone()));
            let stop = shared.accepting.clone();
            shared.tasks.spawn(async move { acme.run(stop).await });
        }
        if let Some(listener) = unix {
            shared.tasks.spawn(accept_local(listener, shared.clone()));
        }
        Ok(doors)
    }

    /// Where others reach this relay: its public name, else the first address it listens on.
    fn address(&self) -> String {
        let domain = &self.node.config.tls.domain;
        if !domain.is_empty() {
            return format!("https://{domain}");
        }
        let scheme = if self.tls { "https" } else { "http" };
        match self.http.first() {
            // From elsewhere it has another address, which only `chat.public_url` can tell.
            Some(addr) if addr.ip().is_unspecified() => {
                format!("{scheme}://127.0.0.1:{}", addr.port())
            }
            Some(addr) => format!("{scheme}://{addr}"),
            None => String::new(),
        }
    }

    /// Stops accepting, lets what is under way finish within `timeout`, then cuts the rest.
    pub async fn close(self, timeout: Duration) {
        self.accepting.cancel();
        self.node.close_door();
        self.node.stop.cancel();
        self.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(timeout, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "connections did not end in time and are cut");
        }
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}

async fn listen(addr: SocketAddr) -> Result<TcpListener, OpenError> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| OpenError::Listen { addr: addr.to_string(), source })
}

/// Takes over a socket file that nobody answers on; one that is in use is left alone.
fn listen_local(path: &Path) -> Result<UnixListener, OpenError> {
    let failed = |source| OpenError::Listen { addr: path.display().to_string(), source };
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(failed(io::ErrorKind::AddrInUse.into()));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Whoever connects is known by their user id; others come in as nobody in particular.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}

async fn accept_tcp(listener: TcpListener, encryption: Option<Arc<Encryption>>, shared: Shared) {
    loop {
        let accepted = tokio::select! {
            () = shared.accepting.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, addr)) = accepted else {
            // Out of files: others have to end first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let acceptor = encryption.as_ref().map(|encryption| encryption.acceptor());
        let shared = shared.clone();
        let tasks = shared.tasks.clone();
        tasks.spawn(async move {
            let peer = Peer::Tcp { addr, tls: acceptor.is_some() };
            match acceptor {
                None => serve(stream, peer, None, shared).await,
                Some(acceptor) => {
                    let handshake =
                        tokio::time::timeout(TLS_TIMEOUT, acceptor.accept(stream)).await;
                    match handshake {
                        Ok(Ok(stream)) => {
                            let shown = stream.get_ref().1.peer_certificates();
                            let shown = shown.map(|shown| Certificates(owned(shown)));
                            serve(stream, peer, shown, shared).await;
                        }
                        Ok(Err(error)) => note_failed(&shared.node, addr, &error),
                        // Who connects and says nothing is nobody's concern.
                        Err(_) => {}
                    }
                }
            }
        });
    }
}

/// A client whose certificate does not hold is a hub that may not link; what else fails is left to the client.
fn note_failed(node: &Node, remote: SocketAddr, error: &io::Error) {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    if let Some(cause @ rustls::Error::InvalidCertificate(_)) = cause {
        node.federated().links.certificate_refused(remote, cause);
    }
}

fn owned(shown: &[CertificateDer<'_>]) -> Arc<[CertificateDer<'static>]> {
    shown.iter().map(|one| one.clone().into_owned()).collect()
}

async fn accept_local(listener: UnixListener, shared: Shared) {
    let own = nix::unistd::Uid::effective().as_raw();
    loop {
        let accepted = tokio::select! {
            () = shared.accepting.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(uid) = stream.peer_cred().map(|cred| cred.uid()) else { continue };
        let peer = Peer::Local { uid, operator: uid == own || uid == 0 };
        shared.tasks.spawn(serve(stream, peer, None, shared.clone()));
    }
}

/// Speaks HTTP/1.1 or HTTP/2 on one connection until it ends or the relay does.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: Peer,
    certificates: Option<Certificates>,
    shared: Shared,
) {
    let router = shared.router;
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(peer);
        if let Some(certificates) = certificates.clone() {
            request.extensions_mut().insert(certificates);
        }
        router.clone().call(request)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .keep_alive_interval(Duration::from_secs(30));
    let stream = Guarded::new(stream, shared.metrics);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let closing = shared.closing;
    tokio::pin!(connection);
    tokio::select! {
        result = &mut connection => log_end(result),
        () = closing.cancelled() => {
            // Idle connections end at once, others after the answer that is under way.
            connection.as_mut().graceful_shutdown();
            log_end(connection.await);
        }
    }
}

fn log_end(result: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended");
    }
}
