//! Looking at one thing: what `relay doctor` does for all, and `relay check` for one.

mod certificate;
mod figures;
mod links;

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use relay_client::{Client, EventStream, Probe, Subscription, keys, unix_ns};
use relay_proto::{EventId, Filter};
use serde::Serialize;

pub use self::{
    certificate::certificate,
    figures::{lag, locks},
    links::{idle_socket, link, seen_from},
};
use crate::{app::App, times};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub name: &'static str,
    pub level: Level,
    /// What was measured.
    pub value: String,
    /// The exact command or line that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, value: impl Into<String>) -> Self {
        Self { name, level: Level::Ok, value: value.into(), cure: None }
    }

    fn bad(
        name: &'static str,
        level: Level,
        value: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { name, level, value: value.into(), cure: Some(cure.into()) }
    }

    fn graded(name: &'static str, level: Level, value: String, cure: &str) -> Self {
        let cure = (level != Level::Ok).then(|| cure.to_owned());
        Self { name, level, value, cure }
    }
}

/// The level of a measured value: at least `warn`, at least `crit`.
pub fn grade(value: f64, warn: f64, crit: f64) -> Level {
    if value >= crit {
        Level::Fail
    } else if value >= warn {
        Level::Warn
    } else {
        Level::Ok
    }
}

/// Whether the relay is ready, and how long it took to say so.
pub fn relay(
    url: &str,
    probe: &Result<Probe, relay_client::Error>,
    warn: Duration,
    crit: Duration,
) -> Finding {
    const NAME: &str = "relay";
    match probe {
        Err(error) => Finding::bad(
            NAME,
            Level::Fail,
            error.to_string(),
            "relay serve   (or: relay context ls)",
        ),
        Ok(Probe { ready: false, .. }) => Finding::bad(
            NAME,
            Level::Fail,
            format!("{url} is not ready"),
            "relay api GET /health   (and look into the relay's log)",
        ),
        Ok(probe) => {
            let level = grade(probe.took.as_secs_f64(), warn.as_secs_f64(), crit.as_secs_f64());
            let value = format!("{url} ready in {}", times::human(probe.took));
            Finding::graded(
                NAME,
                level,
                value,
                "relay doctor   (on the relay's machine: disk and load)",
            )
        }
    }
}

/// Our wall clock against the relay's. Signed requests may be 60 s off, events 15 minutes ahead.
pub fn clock(probe: &Probe, warn_s: f64, crit_s: f64) -> Finding {
    const NAME: &str = "clock";
    let Some(theirs) = probe.date.as_deref().and_then(http_date_s) else {
        return Finding::bad(
            NAME,
            Level::Warn,
            "the relay told no time",
            "check the proxy before the relay",
        );
    };
    // The date has no fractions; half a second is the middle of what it can mean.
    let ours = unix_ns() as f64 / 1e9;
    let off = ours - (theirs as f64 + 0.5);
    let level = grade(off.abs() - 0.5, warn_s, crit_s);
    let value = format!("{off:+.1} s against the relay");
    Finding::graded(NAME, level, value, "timedatectl set-ntp true   (on both machines)")
}

fn http_date_s(text: &str) -> Option<i64> {
    let parsed = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(parsed.timestamp().as_second())
}

/// Whether a socket can be opened: proxies often let plain requests through and no upgrades.
pub async fn socket(client: &Client) -> Finding {
    const NAME: &str = "socket";
    let begun = Instant::now();
    // Nothing has the id of all zeros, so that nothing is delivered.
    let nothing = Filter { ids: vec![EventId::from_bytes([0; 32])], ..Filter::default() };
    let wanted = Subscription { filters: vec![nothing], ..Subscription::default() };
    let opened = async {
        let mut stream = EventStream::open(client, wanted).await?;
        stream.next().await
    };
    match tokio::time::timeout(Duration::from_secs(10), opened).await {
        Ok(Ok(_)) => {
            Finding::ok(NAME, format!("WebSocket live in {}", times::human(begun.elapsed())))
        }
        Ok(Err(error)) => Finding::bad(
            NAME,
            Level::Fail,
            error.to_string(),
            "let the proxy pass 'Upgrade: websocket' on /v1/stream and /v1/ws",
        ),
        Err(_) => Finding::bad(
            NAME,
            Level::Fail,
            "no answer on the socket in 10 s",
            "let the proxy pass sockets unbuffered",
        ),
    }
}

/// The key that commands sign with.
pub fn key(app: &App) -> Finding {
    const NAME: &str = "key";
    let path = app.target().ok().unwrap_or_default();
    let path = match app.key_path(&path) {
        Ok(Some(path)) => path,
        Ok(None) => {
            return Finding::bad(NAME, Level::Warn, "there is no signing key", "relay keys gen");
        }
        Err(failure) => return Finding::bad(NAME, Level::Warn, failure.what, "export HOME=…"),
    };
    if let Some(name) = crate::app::agent_name(&path) {
        return match relay_client::agent::AgentKey::find(name) {
            Ok(key) => Finding::ok(NAME, format!("{} in ssh-agent", key.node_id())),
            Err(error) => Finding::bad(NAME, Level::Fail, error.to_string(), "ssh-add -L"),
        };
    }
    let shown = path.display();
    match keys::load(&path, || None) {
        Ok(key) => Finding::ok(NAME, format!("{} in {shown}", key.node_id())),
        Err(keys::KeyFileError::NeedsPassphrase) => {
            Finding::ok(NAME, format!("{shown}, with a passphrase"))
        }
        Err(error @ keys::KeyFileError::OpenToOthers(_)) => {
            Finding::bad(NAME, Level::Fail, error.to_string(), format!("chmod 600 {shown}"))
        }
        Err(error) => {
            Finding::bad(NAME, Level::Fail, format!("{shown}: {error}"), "relay keys gen")
        }
    }
}

/// Room on the disk of the data directory.
pub fn disk(dir: &Path, warn_percent: f64, crit_percent: f64) -> Finding {
    const NAME: &str = "disk";
    let there = nearest(dir);
    match nix::sys::statvfs::statvfs(&there) {
        Err(error) => {
            Finding::bad(NAME, Level::Fail, format!("{}: {error}", there.display()), "mount it")
        }
        Ok(stat) => {
            let total = stat.blocks() as f64 * stat.fragment_size() as f64;
            let free = stat.blocks_available() as f64 * stat.fragment_size() as f64;
            let used = if total > 0.0 { 100.0 * (1.0 - free / total) } else { 100.0 };
            let level = grade(used, warn_percent, crit_percent);
            let value =
                format!("{used:.0}% used, {:.1} GB free at {}", free / 1e9, there.display());
            Finding::graded(NAME, level, value, "make room, or give [namespace] a max_age")
        }
    }
}

/// How long a small write takes to be on the disk: every durable answer waits for it.
pub fn sync_time(dir: &Path) -> Finding {
    const NAME: &str = "sync";
    const TRIES: u32 = 5;
    let there = nearest(dir);
    let path = there.join(format!(".relay-doctor-{}", std::process::id()));
    let measured = || -> std::io::Result<Duration> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
        let begun = Instant::now();
        for _ in 0..TRIES {
            file.write_all(&[0; 4096])?;
            file.sync_data()?;
        }
        Ok(begun.elapsed() / TRIES)
    };
    let outcome = measured();
    let _ = std::fs::remove_file(&path);
    match outcome {
        Err(error) => Finding::bad(
            NAME,
            Level::Fail,
            format!("{}: {error}", there.display()),
            format!("chown $(id -u) {}", there.display()),
        ),
        Ok(took) => {
            let level = grade(took.as_secs_f64(), 0.02, 0.5);
            let value = format!("{:.2} ms a sync at {}", took.as_secs_f64() * 1e3, there.display());
            Finding::graded(NAME, level, value, "put the data directory on a local SSD")
        }
    }
}

/// How many files and sockets a process may have open.
pub fn file_limit() -> Finding {
    const NAME: &str = "files";
    use nix::sys::resource::{Resource, getrlimit};
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Err(error) => Finding::bad(NAME, Level::Warn, error.to_string(), "ulimit -n 65536"),
        Ok((soft, _)) => {
            let level = if soft < 1024 {
                Level::Fail
            } else if soft < 8192 {
                Level::Warn
            } else {
                Level::Ok
            };
            Finding::graded(
                NAME,
                level,
                format!("{soft} open files"),
                "ulimit -n 65536   (systemd: LimitNOFILE=65536)",
            )
        }
    }
}

/// The configuration that a relay here would read, and its data directory.
pub fn configuration(app: &App) -> (Finding, Option<relay_node::config::Loaded>) {
    const NAME: &str = "configuration";
    let sources = relay_node::config::Sources::of_process(app.global.config.clone(), Vec::new());
    match relay_node::config::load(&sources) {
        Err(problems) => {
            let text: Vec<_> = problems.0.iter().map(ToString::to_string).collect();
            (Finding::bad(NAME, Level::Fail, text.join("; "), "relay config check"), None)
        }
        Ok(loaded) if loaded.notices.is_empty() => (Finding::ok(NAME, "good"), Some(loaded)),
        Ok(loaded) => {
            let text: Vec<_> = loaded.notices.iter().map(ToString::to_string).collect();
            (Finding::bad(NAME, Level::Warn, text.join("; "), "relay config check"), Some(loaded))
        }
    }
}

/// The folder itself, or the nearest one above it that is there.
fn nearest(dir: &Path) -> PathBuf {
    dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http_are_read() {
        assert_eq!(http_date_s("Sat, 27 Dec 2025 00:00:00 GMT"), Some(1_766_793_600));
        assert_eq!(http_date_s("soon"), None);
    }

    #[test]
    fn a_wrong_clock_is_told() {
        let at = |s: i64| {
            let time = jiff::Timestamp::from_second(s).unwrap();
            let date = jiff::fmt::rfc2822::DateTimePrinter::new()
                .timestamp_to_rfc9110_string(&time)
                .unwrap();
            Probe { ready: true, took: Duration::ZERO, date: Some(date) }
        };
        let now = i64::try_from(unix_ns() / 1_000_000_000).unwrap();
        assert_eq!(clock(&at(now), 5.0, 60.0).level, Level::Ok);
        assert_eq!(clock(&at(now - 20), 5.0, 60.0).level, Level::Warn);
        assert_eq!(clock(&at(now + 3600), 5.0, 60.0).level, Level::Fail);
    }

    #[test]
    fn a_folder_that_cannot_be_written_fails() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(sync_time(dir.path()).level.min(Level::Warn), sync_time(dir.path()).level);
        assert_eq!(sync_time(Path::new("/proc/self")).level, Level::Fail);
    }
}
