//! A relay of this build in a folder of its own, and the commands of this build against it.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// The program under test.
pub const RELAY: &str = env!("CARGO_BIN_EXE_relay");
/// A free port of this machine.
const ANYWHERE: &str = "127.0.0.1:0";
/// Longer than anything here takes, so that a hang is a failure and not a stuck build.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A relay that is stopped when the test ends.
pub struct Relay {
    pub url: String,
    pub dir: tempfile::TempDir,
    /// What it wrote since it was ready.
    log: Arc<Mutex<Vec<String>>>,
    child: Child,
}

impl Relay {
    pub fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), &[])
    }

    /// With this configuration, where it looks for one.
    pub fn configured(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), config);
        Self::start_in(dir, &[])
    }

    /// In a home of its own, with more arguments of `serve`.
    pub fn start_in(dir: tempfile::TempDir, more: &[&str]) -> Self {
        let (child, url, log) = launch(dir.path(), ANYWHERE, more);
        let relay = Self { url, dir, log, child };
        let made = relay.run(["keys", "gen"]);
        assert!(made.status.success(), "{}", made.stderr);
        relay
    }

    /// Stops it in an orderly way; [`Self::start_again`] goes on with its data.
    pub fn stop(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.ended();
    }

    pub fn start_again(&mut self) {
        (self.child, self.url, self.log) = launch(self.dir.path(), ANYWHERE, &[]);
    }

    /// As [`Self::start_again`], where it listened before.
    pub fn start_again_there(&mut self) {
        let address = self.url.trim_start_matches("http://").to_owned();
        (self.child, self.url, self.log) = launch(self.dir.path(), &address, &[]);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Whether the relay has written a line that holds this.
    pub fn logged(&self, text: &str) -> bool {
        self.log.lock().unwrap().iter().any(|line| line.contains(text))
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the relay to end by itself.
    pub fn ended(&mut self) -> ExitStatus {
        ended(&mut self.child)
    }

    /// A command of the relay's operator, over the local socket.
    pub fn operator<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        let mut command = self.command(args);
        command.env("RELAY_URL", format!("unix:{}", self.path("relay.sock").display()));
        finish(command)
    }

    /// A command against this relay.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = base(self.dir.path());
        command.env("RELAY_URL", &self.url).args(args).stdin(Stdio::null());
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        finish(self.command(args))
    }

    /// Runs, and expects success.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.status.code(), Some(0), "stdout: {}\nstderr: {}", ran.stdout, ran.stderr);
        ran
    }

    pub fn with_stdin<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        input: &str,
    ) -> Ran {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let writer = std::thread::spawn(move || {
            // A command may end without reading everything.
            let _ = stdin.write_all(input.as_bytes());
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Ran::of(output)
    }
}

/// Starts a relay and waits until it is ready: the process, where it listens, and what it says from then on.
fn launch(home: &Path, listen: &str, more: &[&str]) -> (Child, String, Arc<Mutex<Vec<String>>>) {
    let mut child = base(home)
        .args(["serve", "--listen", listen, "--log-format", "text", "--data-dir"])
        .arg(home.join("data"))
        .args(more)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut url = None;
    for line in lines.by_ref().map_while(Result::ok) {
        if let Some(found) = line.split_whitespace().find(|word| word.contains("://127")) {
            url = Some(found.to_owned());
        }
        if line.starts_with("ready") {
            break;
        }
    }
    // The rest of its log must go somewhere, or the relay would wait for a reader.
    let log = Arc::new(Mutex::new(Vec::new()));
    std::thread::spawn({
        let log = log.clone();
        move || lines.map_while(Result::ok).for_each(|line| log.lock().unwrap().push(line))
    });
    (child, url.expect("the relay tells where it listens"), log)
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn of(output: std::process::Output) -> Self {
        Self {
            status: output.status,
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn code(&self) -> i32 {
        self.status.code().expect("it ended by itself")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// The value of one `key=value` line.
    pub fn kv(&self, key: &str) -> String {
        let prefix = format!("{key}=");
        let line = self.stdout.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("no {key} in {}", self.stdout)).to_owned()
    }
}

/// The program with nothing of the person who runs the tests.
pub fn base(home: &Path) -> Command {
    let mut command = Command::new(RELAY);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RELAY_") {
            command.env_remove(name);
        }
    }
    command
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("XDG_STATE_HOME", home.join("state"))
        .env("XDG_RUNTIME_DIR", home)
        .env_remove("SSH_AUTH_SOCK")
        .current_dir(home);
    command
}

/// Writes the configuration that a relay of this home reads.
pub fn write_config(home: &Path, text: &str) {
    let dir = home.join("config/relay");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("relay.toml"), text).unwrap();
}

/// Runs without a relay.
pub fn alone<S: AsRef<OsStr>>(home: &Path, args: impl IntoIterator<Item = S>) -> Ran {
    let mut command = base(home);
    command.args(args).stdin(Stdio::null());
    finish(command)
}

pub fn finish(mut command: Command) -> Ran {
    Ran::of(command.output().unwrap())
}

/// Waits until `holds`, or fails naming what was waited for.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for a process to end.
pub fn ended(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(begun.elapsed() < PATIENCE, "the process did not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a process wrote so far into its pipe, read to the end.
pub fn drain(pipe: Option<impl Read>) -> String {
    let mut text = String::new();
    pipe.unwrap().read_to_string(&mut text).unwrap();
    text
}
