//! A private PostgreSQL server: own directory, own socket, no network, gone when dropped.

use std::{
    fs::{self, File},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, User, chown},
};
use tempfile::TempDir;

/// How long the server may take to come up or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The account that runs the server where the tests run as root, which PostgreSQL refuses.
const ACCOUNT: &str = "postgres";

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    /// Holds the socket; the cluster is below it.
    dir: Directory,
    server: Mutex<Option<Child>>,
}

#[derive(Debug)]
enum Directory {
    Own(TempDir),
    /// Of a server that somebody else started and stops.
    Given(String),
}

/// A database of its own, dropped with the value.
#[derive(Debug)]
pub struct Database {
    server: Arc<Postgres>,
    name: String,
}

impl Postgres {
    /// The server that all tests of this process share: the one named by `RELAY_TEST_DATABASE_URL`
    /// (`tools/with-postgres.sh` sets it), else one started now. Ends with its last user.
    pub fn shared() -> Arc<Self> {
        static RUNNING: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut running = RUNNING.lock().unwrap_or_else(|broken| broken.into_inner());
        if let Some(server) = running.upgrade() {
            return server;
        }
        let server = Arc::new(match std::env::var("RELAY_TEST_DATABASE_URL") {
            Ok(url) => Self { dir: Directory::Given(url), server: Mutex::new(None) },
            Err(_) => Self::start(),
        });
        *running = Arc::downgrade(&server);
        server
    }

    /// Starts a server for one test alone, which may stop and start it.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("relay-postgres-").tempdir().unwrap();
        if let Some(user) = account() {
            chown(dir.path(), Some(user.uid), Some(user.gid)).unwrap();
        }
        let data = dir.path().join("data");
        let made = command("initdb")
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", "-D"])
            .arg(&data)
            .current_dir(dir.path())
            .output()
            .expect("initdb runs; tools/install-deps.sh installs it");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let server = Self { dir: Directory::Own(dir), server: Mutex::new(None) };
        server.resume(&[]);
        server
    }

    /// Starts the server again after [`Self::stop`], with further settings such as `fsync=off`.
    pub fn resume(&self, settings: &[&str]) {
        let dir = self.own_dir();
        let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let mut server = command("postgres");
        server
            .arg("-D")
            .arg(dir.join("data"))
            .arg("-k")
            .arg(dir)
            .args(["-c", "listen_addresses=", "-c", "max_connections=100"])
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = server.spawn().expect("postgres starts");
        *self.server.lock().unwrap() = Some(child);
        let ready = || {
            let mut asked = Command::new(program("pg_isready"));
            let asked = asked.args(["-q", "-U", "postgres", "-h"]).arg(dir);
            asked.status().is_ok_and(|status| status.success())
        };
        let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
        wait_until(ready, || format!("the server did not come up: {}", log()));
    }

    /// Writes a file that the server alone may read, such as its TLS key; only for a server of one's own.
    pub fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.own_dir().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        if let Some(user) = account() {
            chown(&path, Some(user.uid), Some(user.gid)).unwrap();
        }
        path
    }

    /// Stops the server: at once as a crash would (it recovers when resumed), or in order.
    pub fn stop(&self, crash: bool) {
        let Some(mut server) = self.server.lock().unwrap().take() else { return };
        // Immediate and fast shutdown, in the words of PostgreSQL's manual.
        let signal = if crash { Signal::SIGQUIT } else { Signal::SIGINT };
        let _ = kill(Pid::from_raw(server.id() as i32), signal);
        let _ = server.wait();
    }

    /// Connection string of one database.
    pub fn url(&self, database: &str) -> String {
        match &self.dir {
            Directory::Own(dir) => {
                format!("postgresql:///{database}?host={}&user=postgres", dir.path().display())
            }
            Directory::Given(url) => {
                let (front, options) = url.split_once('?').unwrap_or((url, ""));
                let (server, _) = front.rsplit_once('/').expect("postgresql://host/database");
                format!("{server}/{database}?{options}")
            }
        }
    }

    /// A new, empty database.
    pub fn database(self: &Arc<Self>) -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("relay_{}_{next}", std::process::id());
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        Database { server: self.clone(), name }
    }

    /// Runs statements and returns what they print, one row a line, columns parted by `|`.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        let done = Command::new(program("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statements])
            .arg(self.url(database))
            .stdin(Stdio::null())
            .output()
            .expect("psql runs");
        assert!(done.status.success(), "{statements}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    fn own_dir(&self) -> &Path {
        match &self.dir {
            Directory::Own(dir) => dir.path(),
            Directory::Given(_) => panic!("a server that was given is not stopped or started here"),
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop(true);
    }
}

impl Database {
    pub fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// See [`Postgres::sql`].
    pub fn sql(&self, statements: &str) -> String {
        self.server.sql(&self.name, statements)
    }

    pub fn server(&self) -> &Postgres {
        &self.server
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if matches!(self.server.dir, Directory::Given(_)) {
            let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
            self.server.sql("postgres", &drop);
        }
    }
}

fn account() -> Option<User> {
    Uid::effective().is_root().then(|| {
        User::from_name(ACCOUNT).ok().flatten().expect("the account 'postgres' of Debian's package")
    })
}

/// A program of the server, run by the account that may.
fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    if let Some(user) = account() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// The newest installed version's program.
fn program(name: &str) -> PathBuf {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|found| found.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect())
        .unwrap_or_default();
    versions.retain(|bin| bin.join("initdb").exists());
    versions.sort();
    versions.pop().map_or_else(|| name.into(), |bin| bin.join(name))
}

fn wait_until(done: impl Fn() -> bool, complaint: impl Fn() -> String) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "{}", complaint());
        std::thread::sleep(Duration::from_millis(20));
    }
}
