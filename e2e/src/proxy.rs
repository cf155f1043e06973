//! A link between two processes that can be held, slowed and cut, each direction by itself.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream, tcp},
    sync::watch,
    task::JoinSet,
};

/// What the link does. Shared by all connections through it.
#[derive(Debug, Default)]
struct Weather {
    /// Bytes from the server wait.
    hold_answers: AtomicBool,
    /// Bytes from the client wait.
    hold_requests: AtomicBool,
    delay_ms: AtomicU64,
    /// Bytes a second in each direction; 0 is as fast as it goes.
    rate: AtomicU64,
    /// New connections are closed at once.
    refuse: AtomicBool,
}

/// A proxy. Ends, with all connections through it, when dropped.
#[derive(Debug)]
pub struct Proxy {
    weather: Arc<Weather>,
    /// Changes when all connections are to be cut.
    cuts: watch::Sender<u64>,
    /// Keeps the accepting task.
    _accepting: JoinSet<()>,
    address: Option<std::net::SocketAddr>,
    socket_dir: Option<TempDir>,
}

impl Proxy {
    /// Listens on loopback for a server on TCP.
    pub async fn tcp(to: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut proxy = Self::new();
        proxy.address = Some(address);
        let (weather, cuts) = (proxy.weather.clone(), proxy.cuts.subscribe());
        proxy._accepting.spawn(async move {
            let mut links = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (weather, cuts) = (weather.clone(), cuts.clone());
                if weather.refuse.load(Ordering::SeqCst) {
                    continue;
                }
                links.spawn(async move {
                    let Ok(server) = TcpStream::connect(to).await else { return };
                    let _ = client.set_nodelay(true);
                    let _ = server.set_nodelay(true);
                    let (from_client, to_client): (tcp::OwnedReadHalf, _) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    join(weather, cuts, (from_client, to_server), (from_server, to_client)).await;
                });
            }
        });
        proxy
    }

    /// Listens on a socket directory for a PostgreSQL on another one.
    pub async fn postgres(to: &Path) -> Self {
        const SOCKET: &str = ".s.PGSQL.5432";
        let dir = tempfile::Builder::new().prefix("relay-proxy.").tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
        let target: PathBuf = to.join(SOCKET);
        let mut proxy = Self::new();
        proxy.socket_dir = Some(dir);
        let (weather, cuts) = (proxy.weather.clone(), proxy.cuts.subscribe());
        proxy._accepting.spawn(async move {
            let mut links = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (weather, cuts, target) = (weather.clone(), cuts.clone(), target.clone());
                links.spawn(async move {
                    let Ok(server) = UnixStream::connect(target).await else { return };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    join(weather, cuts, (from_client, to_server), (from_server, to_client)).await;
                });
            }
        });
        proxy
    }

    fn new() -> Self {
        Self {
            weather: Arc::default(),
            cuts: watch::Sender::new(0),
            _accepting: JoinSet::new(),
            address: None,
            socket_dir: None,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.address.expect("a proxy on TCP")
    }

    pub fn socket_dir(&self) -> &Path {
        self.socket_dir.as_ref().expect("a proxy on sockets").path()
    }

    /// Answers of the server wait until they are let go.
    pub fn hold_answers(&self, hold: bool) {
        self.weather.hold_answers.store(hold, Ordering::SeqCst);
    }

    pub fn hold_requests(&self, hold: bool) {
        self.weather.hold_requests.store(hold, Ordering::SeqCst);
    }

    /// Each piece takes this much longer, in both directions.
    pub fn delay(&self, by: Duration) {
        self.weather.delay_ms.store(by.as_millis() as u64, Ordering::SeqCst);
    }

    /// Each direction carries at most so many bytes a second; 0 is as fast as it goes.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.weather.rate.store(bytes_per_second, Ordering::SeqCst);
    }

    /// A partition: connections that are there are cut, and none can be made until it heals.
    pub fn part(&self, parted: bool) {
        self.weather.refuse.store(parted, Ordering::SeqCst);
        if parted {
            self.cut();
        }
    }

    /// Cuts all connections; new ones can be made.
    pub fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }
}

async fn join<A, B, C, D>(
    weather: Arc<Weather>,
    mut cuts: watch::Receiver<u64>,
    up: (A, B),
    down: (C, D),
) where
    A: AsyncRead + Unpin,
    B: AsyncWrite + Unpin,
    C: AsyncRead + Unpin,
    D: AsyncWrite + Unpin,
{
    cuts.mark_unchanged();
    tokio::select! {
        () = carry(up.0, up.1, &weather, |w| &w.hold_requests) => {}
        () = carry(down.0, down.1, &weather, |w| &w.hold_answers) => {}
        _ = cuts.changed() => {}
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    weather: &Weather,
    hold: impl Fn(&Weather) -> &AtomicBool,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(got @ 1..) = from.read(&mut buffer).await {
        let delay = weather.delay_ms.load(Ordering::SeqCst);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        let rate = weather.rate.load(Ordering::SeqCst);
        if rate > 0 {
            let pause = Duration::from_secs(1).mul_f64(got as f64 / rate as f64);
            tokio::time::sleep(pause).await;
        }
        while hold(weather).load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if to.write_all(&buffer[..got]).await.is_err() {
            return;
        }
    }
}
