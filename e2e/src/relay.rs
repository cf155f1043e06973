//! A relay process under test.

use std::{
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use relay_proto::SigningKey;
use tempfile::TempDir;

use crate::{
    postgres::Database,
    shim::{Shim, ShimSetup},
    until,
};

/// Which store the relay keeps its data in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Sqlite,
    Postgres,
}

/// What a relay is started with.
#[derive(Debug)]
pub struct Setup {
    pub backend: Backend,
    /// What it is called.
    pub id: String,
    /// Lines added to its configuration.
    pub config: String,
    /// Whether it speaks TLS alone; it then counts as ready when its socket takes connections.
    pub encrypted: bool,
    /// Whether its disk and clocks can be made to misbehave.
    pub shim: bool,
    /// Reaches its database through this socket directory instead (a proxy).
    pub database_host: Option<PathBuf>,
    /// Uses this database instead of a new one.
    pub database: Option<Database>,
}

impl Setup {
    pub fn new(backend: Backend) -> Self {
        Self {
            backend,
            id: "gw_test".into(),
            config: String::new(),
            encrypted: false,
            shim: false,
            database_host: None,
            database: None,
        }
    }
}

/// A relay with a directory and a port of its own. Killed when dropped.
#[derive(Debug)]
pub struct Relay {
    dir: TempDir,
    address: SocketAddr,
    process: Option<Child>,
    shim: Option<ShimSetup>,
    pub backend: Backend,
    pub database: Option<Database>,
    database_url: Option<String>,
    id: String,
    config: String,
    encrypted: bool,
}

/// The key that may break locks.
pub fn admin_key() -> SigningKey {
    SigningKey::from_seed([250; 32])
}

const START_LIMIT: Duration = Duration::from_secs(30);

impl Relay {
    /// Starts a relay on an empty store and waits until it is ready.
    pub async fn start(backend: Backend) -> Self {
        Self::with(Setup::new(backend)).await
    }

    pub async fn with(setup: Setup) -> Self {
        let dir = tempfile::Builder::new().prefix("relay-e2e.").tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        let database = match (setup.backend, setup.database) {
            (Backend::Postgres, None) => Some(Database::create().await),
            (_, given) => given,
        };
        let database_url =
            database.as_ref().map(|db| db.url_through(setup.database_host.as_deref()));
        let shim = setup.shim.then(|| ShimSetup::new(dir.path()));
        let mut relay = Self {
            address: free_address(),
            dir,
            process: None,
            shim,
            backend: setup.backend,
            database,
            database_url,
            id: setup.id,
            config: setup.config,
            encrypted: setup.encrypted,
        };
        relay.write_config();
        relay.launch();
        relay.ready().await;
        relay
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("relay.sock")
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The disk and the clocks of this relay.
    ///
    /// # Panics
    /// If it was set up without.
    pub fn shim(&self) -> &Shim {
        &self.shim.as_ref().expect("set up with a shim").control
    }

    /// What it has written to stderr.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The most memory that it has had resident since it was started, in KiB.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn peak_kib(&self) -> u64 {
        let id = self.process.as_ref().expect("running").id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim_end_matches("kB").trim().parse().unwrap()
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// SIGTERM, and waits until it has stopped by itself.
    pub async fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let mut process = self.process.take().expect("running");
        until("the relay stops", START_LIMIT, || {
            let done = process.try_wait().unwrap().is_some();
            async move { done }
        })
        .await;
    }

    /// SIGSTOP: it stands still until [`Self::resume`].
    pub async fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.process.as_ref().expect("running").id());
        until("every thread stands still", START_LIMIT, || {
            let mut threads = fs::read_dir(&tasks).unwrap();
            let still = threads.all(|thread| {
                let stat = fs::read_to_string(thread.unwrap().path().join("stat"));
                stat.unwrap().rsplit(')').next().unwrap().starts_with(" T")
            });
            async move { still }
        })
        .await;
    }

    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// SIGHUP: it reads its configuration and certificates again.
    pub fn hang_up(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// Starts it again on the same data and waits until it is ready.
    pub async fn restart(&mut self) {
        assert!(self.process.is_none(), "still running");
        self.launch();
        self.ready().await;
    }

    pub async fn kill_and_restart(&mut self) {
        self.kill();
        self.restart().await;
    }

    /// A power cut: it dies, and of its data only what was synced is left.
    pub async fn cut_power(&mut self) {
        self.kill();
        let data = self.data_dir();
        let shadow = &self.shim.as_ref().expect("set up with a shim").shadow;
        for entry in fs::read_dir(&data).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.contains(".db") {
                // Files that were deleted stay deleted; the others go back to their last sync.
                let synced = shadow.join(&name);
                fs::remove_file(&path).unwrap();
                if synced.exists() {
                    fs::copy(synced, &path).unwrap();
                }
            }
        }
        self.restart().await;
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("running");
        kill(Pid::from_raw(process.id() as i32), signal).unwrap();
    }

    fn write_config(&self) {
        let dir = self.dir.path();
        let mut text = format!(
            "[node]\nid = {id:?}\ndata_dir = {data:?}\n\
             [listen]\nhttp = [\"{address}\"]\nsocket = {socket:?}\n\
             [chat]\nauth_per_ip_per_min = 0\nauth_per_user_per_min = 0\n\
             sends_per_min = 0\nframes_per_sec = 0\nuser_frames_per_sec = 0\n\
             session_ttl = \"30d\"\n\
             [[acl]]\nns = \"**\"\nwho = [\"*\"]\nallow = [\"read\", \"write\", \"lock\"]\n\
             [[acl]]\nns = \"**\"\nwho = [\"{admin}\"]\nallow = [\"admin\"]\n",
            id = self.id,
            data = self.data_dir(),
            address = self.address,
            socket = self.socket(),
            admin = admin_key().node_id(),
        );
        if let Some(url) = &self.database_url {
            let file = dir.join("database-url");
            write_secret(&file, url);
            writeln!(text, "[store]\nbackend = \"postgres\"\ndatabase_url_file = {file:?}")
                .unwrap();
        }
        text.push_str(&self.config);
        fs::write(dir.join("relay.toml"), text).unwrap();
    }

    fn launch(&mut self) {
        let dir = self.dir.path();
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
        let mut command = Command::new(relay_binary());
        command
            .args(["serve", "--config"])
            .arg(dir.join("relay.toml"))
            .env_remove("RELAY_CONFIG")
            .env("HOME", dir)
            .env("XDG_CONFIG_HOME", dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        if let Some(shim) = &self.shim {
            shim.apply(&mut command);
        }
        self.process = Some(command.spawn().unwrap());
    }

    async fn ready(&mut self) {
        let http = reqwest_client();
        let url = format!("{}/readyz", self.url());
        let give_up = tokio::time::Instant::now() + START_LIMIT;
        loop {
            if self.encrypted && std::os::unix::net::UnixStream::connect(self.socket()).is_ok() {
                return;
            }
            if let Ok(answer) = http.get(&url).send().await
                && answer.status().is_success()
            {
                return;
            }
            let ended = self.process.as_mut().and_then(|process| process.try_wait().unwrap());
            let late = tokio::time::Instant::now() > give_up;
            assert!(ended.is_none() && !late, "not ready ({ended:?}):\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the last lines of the relay's log ---");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// An HTTP client that talks plainly: no proxy, no redirects, no retries of its own.
pub fn reqwest_client() -> reqwest::Client {
    static PROVIDER: OnceLock<()> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder()
        .no_proxy()
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(60))
        .build()
        .unwrap()
}

/// The program under test: `RELAY_BIN`, or else built now, so that it is never an old one.
pub fn relay_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("RELAY_BIN") {
            return path.into();
        }
        // target/PROFILE/deps/this-test
        let test = std::env::current_exe().unwrap();
        let profile_dir = test.ancestors().nth(2).unwrap();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build
            .args(["build", "--quiet", "--package", "relay"])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile_dir.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "the relay does not build");
        profile_dir.join("relay")
    })
}

/// A port of loopback that nobody listens on.
pub fn free_address() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}

/// Writes a file that only its owner can read.
pub fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
