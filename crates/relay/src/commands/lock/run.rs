//! `relay lock run`: a command that runs only while the lock is held (`cli.md` 3.3).

use std::{
    ffi::OsString,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::ExitStatus,
    time::Duration,
};

use clap::Args;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use relay_client::{
    Error, LockGuard, LockOptions, LockRequest, Loss,
    locks::{MAX_LEASE, MIN_LEASE},
};
use relay_proto::Code;
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::Instant,
};

use super::{as_holder, refusal, taken, terminal::Lent};
use crate::{
    app::App,
    complete,
    error::{Failure, Outcome},
    times,
};

/// The lease was lost, and the command ended by us.
pub const LEASE_LOST: u8 = 121;
/// Not acquired within `--wait`.
pub const NOT_ACQUIRED: u8 = 124;
/// The wrapper itself failed.
pub const WRAPPER_FAILED: u8 = 125;
/// The command cannot be run.
pub const CANNOT_RUN: u8 = 126;
/// There is no such command.
pub const NOT_FOUND: u8 = 127;

/// How long giving the lock back may take at the end.
const RELEASE_WITHIN: Duration = Duration::from_secs(3);
const DEFAULT_GRACE: Duration = Duration::from_secs(5);

pub const EXAMPLES: &str = "\
Examples:
  relay lock run nightly --wait 0 -- ./backup.sh
  relay lock run site/prod --wait 5m -- sh -c 'upload && relay event publish --kind 30001 --d site/prod --fence site/prod --content @manifest.json'

The command sees RELAY_FENCING_TOKEN, RELAY_LOCK_RESOURCE, RELAY_LOCK_NS, RELAY_LOCK_OWNER,
RELAY_LOCK_EXPIRES_AT_NS, RELAY_URL and RELAY_NS.

Exit codes:
  the command's own; 128+n if signal n ended it
  121 lease lost, the command was ended   124 not acquired within --wait
  125 the wrapper failed   126 the command cannot be run   127 no such command   2 usage";

#[derive(Debug, Args)]
pub struct Run {
    /// What to lock
    #[arg(add = complete::resources())]
    resource: String,
    /// How long it is ours without renewal; renewed at each third
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = times::parse_duration)]
    lease: Duration,
    /// How long to queue for it: 0, a duration, or forever
    #[arg(long, value_name = "DUR", default_value = "0", value_parser = parse_wait)]
    wait: Wait,
    /// Between SIGTERM and SIGKILL, at most a third of the lease [default: 5s or a third]
    #[arg(long, value_name = "DUR", value_parser = times::parse_duration)]
    grace: Option<Duration>,
    /// Exit with this where the lock was not acquired within --wait
    #[arg(long, value_name = "N", default_value_t = NOT_ACQUIRED)]
    conflict_exit_code: u8,
    /// Leave the command alone when the lease is lost; only say so
    #[arg(long)]
    no_kill: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    For(Duration),
    Forever,
}

fn parse_wait(text: &str) -> Result<Wait, String> {
    if text == "forever" { Ok(Wait::Forever) } else { times::parse_duration(text).map(Wait::For) }
}

impl Run {
    pub async fn run(self, app: &App) -> Outcome {
        let (grace, margin) = self.check()?;
        let mut signals = Signals::listen().map_err(|error| wrapper_failed(&error))?;
        let acquired = tokio::select! {
            acquired = self.acquire(app, margin) => acquired?,
            // Dropping the request leaves the queue.
            signal = signals.ending() => return Ok(128 + signal as u8),
        };
        let (lock, url) = match acquired {
            Acquired::Held(lock, url) => (lock, url),
            Acquired::NotInTime(failure) => {
                return Err(Failure { exit: self.conflict_exit_code, ..failure });
            }
        };
        let mut child = match self.spawn(app, &lock, &url) {
            Ok(child) => child,
            Err(failure) => {
                give_back(app, lock).await;
                return Err(failure);
            }
        };
        let group = group_of(&child);
        let _terminal = group.and_then(Lent::to);
        match self.watch(&mut child, group, &lock, &mut signals).await? {
            Ended::ByItself(status) => {
                give_back(app, lock).await;
                Ok(code_of(status))
            }
            Ended::Lost(loss) if self.no_kill => {
                eprintln!(
                    "relay: lock {}: lease lost ({loss}); the command goes on without it",
                    self.resource
                );
                self.outlive(&mut child, group, &mut signals).await
            }
            Ended::Lost(loss) => {
                eprintln!("relay: lock {}: lease lost ({loss}); ending the command", self.resource);
                end(&mut child, group, grace).await;
                Ok(LEASE_LOST)
            }
        }
    }

    /// The grace, and how long before the end of the lease the ending has to begin: grace, then
    /// SIGKILL, then some room for both to happen.
    fn check(&self) -> Result<(Duration, Duration), Failure> {
        let lease = self.lease;
        if !(MIN_LEASE..=MAX_LEASE).contains(&lease) {
            return Err(Failure::usage(format!(
                "--lease {} is not between 500ms and 1h",
                times::human(lease)
            )));
        }
        let most = lease / 3;
        let grace = self.grace.unwrap_or(DEFAULT_GRACE.min(most));
        if grace > most {
            return Err(Failure::usage(format!(
                "--grace {} is more than a third of the lease of {}",
                times::human(grace),
                times::human(lease)
            )));
        }
        let room = (lease / 20).clamp(Duration::from_millis(50), Duration::from_secs(1));
        Ok((grace, if self.no_kill { room } else { grace + room }))
    }

    async fn acquire(&self, app: &App, margin: Duration) -> Result<Acquired, Failure> {
        let as_wrapper = |failure: Failure| match failure.exit {
            crate::error::exit::USAGE => failure,
            _ => Failure { exit: WRAPPER_FAILED, ..failure },
        };
        let (client, ns) = as_holder(app).await.map_err(as_wrapper)?;
        let url = client.endpoint().to_string();
        let until = match self.wait {
            Wait::For(wait) => Instant::now().checked_add(wait),
            Wait::Forever => None,
        };
        loop {
            let mut request = LockRequest::new(&self.resource)
                .map_err(|error| as_wrapper(Failure::of(error, "the lock")))?;
            request.ns = ns.clone();
            request.lease = self.lease;
            request.wait = until.map_or(MAX_LEASE, |until| until - Instant::now());
            let options = LockOptions { margin: Some(margin), ..LockOptions::default() };
            match LockGuard::acquire(&client, request, options).await {
                Ok(lock) => return Ok(Acquired::Held(lock, url)),
                Err(error) if error.code() == Some(Code::LockHeld) => {
                    if until.is_some_and(|until| Instant::now() >= until) {
                        let failure = taken(&client, &ns, error, &self.resource).await;
                        return Ok(Acquired::NotInTime(failure));
                    }
                    // The relay may end a wait before we would.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(Error::LeaseOver) if until.is_none_or(|until| Instant::now() < until) => {}
                Err(error) => return Err(as_wrapper(refusal(error, &self.resource))),
            }
        }
    }

    fn spawn(&self, app: &App, lock: &LockGuard, url: &str) -> Result<Child, Failure> {
        let own = std::env::current_exe().map_err(|error| wrapper_failed(&error))?;
        let mut command = std::process::Command::new(own);
        command
            .arg("__child")
            .arg(std::process::id().to_string())
            .arg("--")
            .args(&self.command)
            .env("RELAY_FENCING_TOKEN", lock.fencing_token().to_string())
            .env("RELAY_LOCK_RESOURCE", &self.resource)
            .env("RELAY_LOCK_NS", lock.ns().as_str())
            .env("RELAY_LOCK_OWNER", lock.owner().to_string())
            .env("RELAY_LOCK_EXPIRES_AT_NS", lock.expires_at_ns())
            .env("RELAY_URL", url)
            .env("RELAY_NS", lock.ns().as_str())
            .process_group(0);
        // The path, never what is in it.
        if let Some(key) = &app.global.key {
            command.env("RELAY_KEY", key);
        }
        Command::from(command).spawn().map_err(|error| wrapper_failed(&error))
    }

    /// Until the command ends or the lock is lost; signals are passed on.
    async fn watch(
        &self,
        child: &mut Child,
        group: Option<Pid>,
        lock: &LockGuard,
        signals: &mut Signals,
    ) -> Result<Ended, Failure> {
        loop {
            tokio::select! {
                status = child.wait() => {
                    return status.map(Ended::ByItself).map_err(|error| wrapper_failed(&error));
                }
                loss = lock.lost() => return Ok(Ended::Lost(loss)),
                signal = signals.next() => tell(group, signal),
            }
        }
    }

    /// With `--no-kill`: until the command ends.
    async fn outlive(
        &self,
        child: &mut Child,
        group: Option<Pid>,
        signals: &mut Signals,
    ) -> Outcome {
        loop {
            tokio::select! {
                status = child.wait() => {
                    return status.map(code_of).map_err(|error| wrapper_failed(&error));
                }
                signal = signals.next() => tell(group, signal),
            }
        }
    }
}

enum Acquired {
    Held(LockGuard, String),
    NotInTime(Failure),
}

enum Ended {
    ByItself(ExitStatus),
    Lost(Loss),
}

/// SIGTERM to the whole group, and SIGKILL to what is left of it after the grace.
async fn end(child: &mut Child, group: Option<Pid>, grace: Duration) {
    tell(group, Signal::SIGTERM);
    // A stopped command cannot act on SIGTERM.
    tell(group, Signal::SIGCONT);
    let _ = tokio::time::timeout(grace, child.wait()).await;
    tell(group, Signal::SIGKILL);
    // After SIGKILL the wait is short; its outcome changes nothing.
    let _ = tokio::time::timeout(RELEASE_WITHIN, child.wait()).await;
}

async fn give_back(app: &App, lock: LockGuard) {
    let resource = lock.resource().to_owned();
    let lease = lock.lease();
    let trouble = match tokio::time::timeout(RELEASE_WITHIN, lock.release()).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer".into(),
    };
    app.notice(&format!(
        "relay: lock {resource}: not given back ({trouble}); it is free in at most {}",
        times::human(lease)
    ));
}

/// Signals the group. One that has no process any more needs none.
fn tell(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        let _ = killpg(group, signal);
    }
}

/// The child leads its group, so that the group has its number.
fn group_of(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
}

fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(WRAPPER_FAILED)
}

fn wrapper_failed(error: &std::io::Error) -> Failure {
    Failure::new(WRAPPER_FAILED, format!("lock run: {error}"))
}

/// The signals that are passed on, in the order in which they came.
struct Signals {
    came: mpsc::Receiver<Signal>,
    /// Ends the listening tasks when dropped.
    _listening: tokio::task::JoinSet<()>,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        const PASSED_ON: [Signal; 6] = [
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
        ];
        let (sender, came) = mpsc::channel(16);
        let mut listening = tokio::task::JoinSet::new();
        for kind in PASSED_ON {
            let mut stream = signal(SignalKind::from_raw(kind as i32))?;
            let sender = sender.clone();
            listening.spawn(async move {
                while stream.recv().await.is_some() && sender.send(kind).await.is_ok() {}
            });
        }
        Ok(Self { came, _listening: listening })
    }

    async fn next(&mut self) -> Signal {
        match self.came.recv().await {
            Some(signal) => signal,
            // The listeners live as long as `self`.
            None => std::future::pending().await,
        }
    }

    /// The next signal that asks to end.
    async fn ending(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if !matches!(signal, Signal::SIGUSR1 | Signal::SIGUSR2) {
                return signal;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lease: &str, grace: Option<&str>) -> Run {
        Run {
            resource: "db".into(),
            lease: times::parse_duration(lease).unwrap(),
            wait: Wait::Forever,
            grace: grace.map(|text| times::parse_duration(text).unwrap()),
            conflict_exit_code: NOT_ACQUIRED,
            no_kill: false,
            command: vec!["true".into()],
        }
    }

    #[test]
    fn grace_and_kill_fit_into_the_lease() {
        for (lease, grace) in
            [("30s", None), ("30s", Some("10s")), ("500ms", None), ("1h", Some("20m"))]
        {
            let run = run(lease, grace);
            let (grace, margin) = run.check().unwrap();
            assert!(grace < margin && margin < run.lease * 2 / 3, "{lease}");
            // A renewal is due before the ending would begin.
            assert!(run.lease / 3 < run.lease - margin, "{lease}");
        }
        assert_eq!(run("30s", None).check().unwrap().0, Duration::from_secs(5));
    }

    #[test]
    fn what_cannot_work_is_a_usage_error() {
        for (lease, grace) in [("30s", Some("11s")), ("100ms", None), ("2h", None)] {
            assert_eq!(run(lease, grace).check().unwrap_err().exit, 2, "{lease}");
        }
    }

    #[test]
    fn codes_are_the_commands_own_or_the_signals() {
        assert_eq!(code_of(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(code_of(ExitStatus::from_raw(9)), 137);
    }
}
