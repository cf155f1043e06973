//! Servers under load: started in a private directory on a private port, and ended again.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{http, proc::Watched};

/// How long a server may take to become ready, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A child process that ends with this value: asked first, then forced.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    stop: Signal,
}

impl Process {
    /// Starts `command` with its output going to `log`.
    pub fn start(mut command: Command, log: PathBuf, stop: Signal) -> anyhow::Result<Self> {
        let out = std::fs::File::create(&log).context(log.display().to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Self { child, log, stop })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` says so, asking every millisecond.
    ///
    /// # Errors
    /// The process ended or took too long; with the end of what it wrote.
    pub async fn wait_until(&mut self, ready: impl AsyncFn() -> bool) -> anyhow::Result<()> {
        let started = Instant::now();
        while !ready().await {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status}:\n{}", self.log_end());
            }
            if started.elapsed() > PATIENCE {
                bail!("not ready after {PATIENCE:?}:\n{}", self.log_end());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    fn log_end(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), self.stop);
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where servers come from.
#[derive(Debug, Clone)]
pub struct Servers {
    /// Data directories are made here; must be on the disk that is to be measured.
    pub work_dir: PathBuf,
    pub origin: Origin,
    /// Further arguments for `relay serve`.
    pub server_args: Vec<String>,
}

#[derive(Debug, Clone)]
pub enum Origin {
    /// Start this binary for each run.
    Binary { path: PathBuf, stores: Vec<Store> },
    /// Load one that runs already.
    Running { addr: SocketAddr, pid: Option<u32> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Store {
    Sqlite,
    Postgres,
}

/// A server under load. Ends with this value where we started it.
#[derive(Debug)]
pub struct Target {
    pub name: String,
    pub addr: SocketAddr,
    pub watched: Watched,
    // In this order: the relay ends before its database, both before their directories.
    _process: Option<Process>,
    _database: Option<Postgres>,
    _dir: Option<TempDir>,
}

impl Target {
    /// A server that was started elsewhere in this program.
    pub fn of(name: &str, addr: SocketAddr, process: Process, dir: TempDir) -> Self {
        Self {
            name: name.to_owned(),
            addr,
            watched: Watched::new([process.pid()]),
            _process: Some(process),
            _database: None,
            _dir: Some(dir),
        }
    }

    /// A database that is itself under load.
    pub fn of_database(name: &str, database: Postgres) -> Self {
        Self {
            name: name.to_owned(),
            // It listens on a socket of the file system only.
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            watched: Watched::new([database.pid()]),
            _process: None,
            _database: Some(database),
            _dir: None,
        }
    }
}

impl Servers {
    /// The stores to measure one after the other; one entry for a server that runs already.
    pub fn stores(&self) -> Vec<Store> {
        match &self.origin {
            Origin::Binary { stores, .. } => stores.clone(),
            Origin::Running { .. } => vec![Store::Sqlite],
        }
    }

    /// A fresh relay on `store`, ready for load.
    pub async fn relay(&self, store: Store) -> anyhow::Result<Target> {
        let path = match &self.origin {
            Origin::Running { addr, pid } => {
                return Ok(Target {
                    name: "relay".to_owned(),
                    addr: *addr,
                    watched: Watched::new(*pid),
                    _process: None,
                    _database: None,
                    _dir: None,
                });
            }
            Origin::Binary { path, .. } => path,
        };
        let dir = self.directory("relay")?;
        let database = match store {
            Store::Sqlite => None,
            Store::Postgres => Some(Postgres::start(&self.work_dir).await?),
        };
        let (process, addr) = self.serve(path, dir.path(), database.as_ref()).await?;
        let roots = [process.pid()].into_iter().chain(database.as_ref().map(Postgres::pid));
        Ok(Target {
            name: match store {
                Store::Sqlite => "relay, SQLite",
                Store::Postgres => "relay, PostgreSQL",
            }
            .to_owned(),
            addr,
            watched: Watched::new(roots),
            _process: Some(process),
            _database: database,
            _dir: Some(dir),
        })
    }

    /// Starts `relay serve` on the data in `dir` and waits until it is ready.
    pub async fn serve(
        &self,
        path: &Path,
        dir: &Path,
        database: Option<&Postgres>,
    ) -> anyhow::Result<(Process, SocketAddr)> {
        let addr = free_address()?;
        let mut command = Command::new(path);
        command.arg("serve").arg("--listen").arg(addr.to_string());
        command.arg("--data-dir").arg(dir.join("data"));
        if let Some(database) = database {
            let url_file = dir.join("database-url");
            write_secret(&url_file, &database.url())?;
            command.args(["--store", "postgres", "--database-url-file"]).arg(url_file);
        }
        command.args(&self.server_args);
        let mut process = Process::start(command, dir.join("log"), Signal::SIGTERM)?;
        process.wait_until(async || http::once(addr, &http::get("/readyz")).await.is_ok()).await?;
        Ok((process, addr))
    }

    /// A directory of its own that goes away with the value.
    pub fn directory(&self, purpose: &str) -> anyhow::Result<TempDir> {
        directory(&self.work_dir, purpose)
    }
}

fn directory(parent: &Path, purpose: &str) -> anyhow::Result<TempDir> {
    tempfile::Builder::new()
        .prefix(&format!("relay-bench-{purpose}-"))
        .tempdir_in(parent)
        .with_context(|| format!("a directory in {}", parent.display()))
}

/// A relay refuses a secret file that others may read.
pub fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};

    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}

/// A loopback address with a port that nobody uses at the moment.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A private PostgreSQL with its default durability, reached by a socket in its own directory.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    dir: TempDir,
}

impl Postgres {
    pub async fn start(work_dir: &Path) -> anyhow::Result<Self> {
        let bin = newest_postgres().context("PostgreSQL's initdb was not found")?;
        let dir = directory(work_dir, "postgres")?;
        let data = dir.path().join("data");
        let mut init = as_server_user(&bin.join("initdb"), dir.path())?;
        init.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "-D"]).arg(&data);
        let made = init.current_dir(dir.path()).output().context("running initdb")?;
        if !made.status.success() {
            bail!("initdb: {}", String::from_utf8_lossy(&made.stderr));
        }
        let mut server = as_server_user(&bin.join("postgres"), dir.path())?;
        server.current_dir(dir.path()).arg("-D").arg(&data).arg("-k").arg(dir.path());
        for setting in ["listen_addresses=", "max_connections=200", "shared_buffers=256MB"] {
            server.args(["-c", setting]);
        }
        let process = Process::start(server, dir.path().join("log"), Signal::SIGINT)?;
        let mut started = Self { process, dir };
        let socket = started.dir.path().to_owned();
        let ready = async || {
            Command::new(bin.join("pg_isready"))
                .args(["-q", "-U", "postgres", "-h"])
                .arg(&socket)
                .status()
                .is_ok_and(|status| status.success())
        };
        started.process.wait_until(ready).await?;
        Ok(started)
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A connection string in URL form.
    pub fn url(&self) -> String {
        format!("postgresql:///postgres?host={}&user=postgres", self.dir.path().display())
    }
}

fn newest_postgres() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())))
        .max()
        .map(|(_, path)| path.join("bin"))
        .filter(|bin| bin.join("initdb").exists())
}

/// PostgreSQL refuses to run as root: then its programs run as the package's user, who gets `dir`.
fn as_server_user(program: &Path, dir: &Path) -> anyhow::Result<Command> {
    use std::os::unix::process::CommandExt as _;

    let mut command = Command::new(program);
    if nix::unistd::geteuid().is_root() {
        let user = nix::unistd::User::from_name("postgres")?
            .context("running as root needs the user 'postgres' of Debian's package")?;
        nix::unistd::chown(dir, Some(user.uid), Some(user.gid))?;
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    Ok(command)
}
