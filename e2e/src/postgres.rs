//! A private PostgreSQL: the one of `tools/with-postgres.sh`, or one started for this test.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Gid, Pid, Uid, User, chown},
};
use tempfile::TempDir;
use tokio_postgres::NoTls;

use crate::{
    shim::{Shim, ShimSetup},
    until,
};

/// A server of a test's own, on a socket in its own directory.
#[derive(Debug)]
pub struct Cluster {
    dir: TempDir,
    process: Option<Child>,
    bin: PathBuf,
    /// Whether its clocks can be made to step.
    shim: Option<ShimSetup>,
}

/// A database of a test's own.
#[derive(Debug)]
pub struct Database {
    host: PathBuf,
    name: String,
    /// Keeps its server running, where it is not a shared one.
    cluster: Option<Cluster>,
}

impl Cluster {
    pub async fn start(with_shim: bool) -> Self {
        let bin = newest_bin();
        let dir = tempfile::Builder::new().prefix("relay-pg.").tempdir().unwrap();
        let shim = with_shim.then(|| ShimSetup::new(dir.path()));
        let mut cluster = Self { dir, process: None, bin, shim };
        if let Some((uid, gid)) = server_user() {
            chown(cluster.dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let mut initdb = cluster.program("initdb");
        initdb.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", "-D"]);
        let made = initdb.arg(cluster.data()).stdout(Stdio::null()).status().unwrap();
        assert!(made.success(), "initdb failed");
        cluster.launch().await;
        cluster
    }

    /// Where its socket is.
    pub fn host(&self) -> &Path {
        self.dir.path()
    }

    /// SIGKILL to the server and, through the death of their parent, its processes.
    pub async fn crash(&mut self) {
        let mut process = self.process.take().expect("running");
        kill(Pid::from_raw(process.id() as i32), Signal::SIGQUIT).unwrap();
        process.wait().unwrap();
    }

    pub async fn launch(&mut self) {
        let mut server = self.program("postgres");
        server
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(self.host())
            .args(["-c", "listen_addresses=", "-c", "max_connections=100"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.dir.path().join("log")).unwrap());
        if let Some(shim) = &self.shim {
            shim.apply(&mut server);
        }
        self.process = Some(server.spawn().unwrap());
        let host = self.host().to_owned();
        until("PostgreSQL starts", Duration::from_secs(30), || {
            let url = url_of(&host, "postgres");
            async move { tokio_postgres::connect(&url, NoTls).await.is_ok() }
        })
        .await;
    }

    /// Its clocks.
    ///
    /// # Panics
    /// If it was started without a shim.
    pub fn shim(&self) -> &Shim {
        &self.shim.as_ref().expect("started with a shim").control
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A program of the server's, run as a user that it accepts.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.current_dir(self.dir.path()).process_group(0);
        if let Some((uid, gid)) = server_user() {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = kill(Pid::from_raw(process.id() as i32), Signal::SIGQUIT);
            let _ = process.wait();
        }
    }
}

impl Database {
    /// A new, empty database.
    pub async fn create() -> Self {
        match std::env::var("RELAY_TEST_DATABASE_URL") {
            Ok(url) => Self::on(shared_host(&url), None).await,
            Err(_) => Self::private(false).await,
        }
    }

    /// A new database on a server of its own, which the test may mistreat.
    pub async fn private(with_shim: bool) -> Self {
        let cluster = Cluster::start(with_shim).await;
        Self::on(cluster.host().to_owned(), Some(cluster)).await
    }

    async fn on(host: PathBuf, cluster: Option<Cluster>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("relay_e2e_{}_{number}", std::process::id());
        let database = Self { host, name, cluster };
        execute(&database.host, "postgres", &format!("CREATE DATABASE {}", database.name)).await;
        database
    }

    /// The server, where it belongs to this database alone.
    pub fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("a private server")
    }

    pub fn host(&self) -> &Path {
        &self.host
    }

    pub fn url_through(&self, host: Option<&Path>) -> String {
        url_of(host.unwrap_or(&self.host), &self.name)
    }

    /// Runs one or more statements.
    pub async fn execute(&self, sql: &str) {
        execute(&self.host, &self.name, sql).await;
    }

    /// A connection for more.
    pub async fn connect(&self) -> tokio_postgres::Client {
        connect(&self.host, &self.name).await
    }

    /// Ends all other connections to this database, as a failing network would.
    pub async fn cut_connections(&self) {
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.cluster.is_some() {
            return;
        }
        // The shared server is thrown away at the end; this only keeps it small meanwhile.
        let drop = Command::new(newest_bin().join("psql"))
            .arg("--quiet")
            .arg("--dbname")
            .arg(url_of(&self.host, "postgres"))
            .arg("--command")
            .arg(format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        drop.ok();
    }
}

async fn connect(host: &Path, name: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&url_of(host, name), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn execute(host: &Path, name: &str, sql: &str) {
    connect(host, name).await.batch_execute(sql).await.unwrap();
}

fn url_of(host: &Path, name: &str) -> String {
    format!("postgresql:///{name}?host={}&user=postgres", host.display())
}

fn shared_host(url: &str) -> PathBuf {
    let (_, query) = url.split_once('?').expect("a URL with a socket directory");
    let host = query.split('&').find_map(|pair| pair.strip_prefix("host="));
    host.expect("a socket directory").into()
}

fn newest_bin() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL (make deps)");
    let newest = versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .expect("a version of PostgreSQL");
    format!("/usr/lib/postgresql/{newest}/bin").into()
}

/// PostgreSQL refuses to run as root: then it runs as the user of its package.
fn server_user() -> Option<(Uid, Gid)> {
    if !Uid::effective().is_root() {
        return None;
    }
    let user = User::from_name("postgres").unwrap().expect("the user postgres");
    Some((user.uid, user.gid))
}
