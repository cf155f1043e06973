//! Calls through a small federation of processes: 256 bytes to an echo on another spoke and back.
//!
//! Each node is a process of its own (`relay-bench-node`) with nothing in it but its links and the federation over
//! them. The callers are in the process of their spoke, as scripts and bridges are.

mod troubles;

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde::Deserialize;
use tempfile::TempDir;

use super::{Run, idle::raise_open_files};
use crate::{hist::Histogram, proc::Watched, report::Row, server::Process, throttle::Throttle};

/// Who answers in the rows of this scenario.
const LINKS: &str = "relay links";

/// Name, hubs on the way, callers at a time.
pub const CASES: [(&str, usize, usize); 4] = [
    ("spoke, hub, hub, spoke: 64 callers", 2, 64),
    ("spoke, hub, hub, spoke: 1 caller", 2, 1),
    ("spoke, hub, spoke: 64 callers", 1, 64),
    ("spoke, hub, spoke: 1 caller", 1, 1),
];

pub async fn rows(run: &Run) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (case, hubs, callers) in CASES.into_iter().filter(|(case, ..)| run.wants(case)) {
        let mut chain = Chain::start(run, hubs).await?;
        let mut caller = node("spoke-a");
        caller.arg("--connect").arg(&chain.first).args(["--call", "echo"]);
        rows.push(chain.measure(run, LINKS, case, caller, callers).await?);
        #[cfg(feature = "peers")]
        if run.peers {
            rows.push(crate::peer::nats::row(run, case, hubs, callers).await?);
        }
    }
    for spokes in CROWDS {
        let case = format!("{spokes} idle spokes on one hub");
        if run.wants(&case) {
            rows.push(crowd(run, case, spokes).await?);
        }
    }
    if run.wants(BESIDE_BULK) {
        rows.extend(beside_bulk(run).await?);
    }
    rows.extend(troubles::rows(run).await?);
    Ok(rows)
}

const CROWDS: [usize; 2] = [1_000, 5_000];

/// What an idle spoke with one service costs its hub, and how long all take to attach.
async fn crowd(run: &Run, case: String, spokes: usize) -> anyhow::Result<Row> {
    raise_open_files(spokes)?;
    let chain = Chain::start(run, 1).await?;
    let hub = chain.processes.first().context("a hub")?;
    let watched = Watched::new([hub.pid()]);
    let before = watched.rss();
    let mut command = node("crowd");
    command.args(["--crowd", &spokes.to_string(), "--connect", &chain.first]);
    let log = chain.dir.path().join("crowd");
    let mut process = Process::start(command, log.clone(), Signal::SIGKILL)?;
    process.wait_until(async || line_of(&log, "linked ").is_some()).await?;
    let took = line_of(&log, "linked ").context("a time")?.parse()?;
    // Until what is freed after attaching is given back.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = watched.rss();
    Ok(Row {
        server: LINKS.to_owned(),
        case,
        operations: spokes as u64,
        took: Duration::from_secs_f64(took),
        rss: Some(after),
        value: Some(("KiB/spoke", after.saturating_sub(before) as f64 / 1024.0 / spokes as f64)),
        ..Row::default()
    })
}

const BESIDE_BULK: &str = "8 callers beside a bulk body, 15 Mbit/s uplink";
/// 15 Mbit/s.
const UPLINK: u64 = 15_000_000 / 8;

/// Small calls at a low rate while a body that never ends fills a slow uplink.
async fn beside_bulk(run: &Run) -> anyhow::Result<[Row; 2]> {
    let mut chain = Chain::start(run, 2).await?;
    let port = chain.first.split(':').nth(2).and_then(|rest| rest.split('/').next());
    let hub = SocketAddr::from(([127, 0, 0, 1], port.context("a port")?.parse()?));
    let throttle = Throttle::start(hub, UPLINK)?;
    let mut caller = node("spoke-a");
    caller.arg("--connect").arg(format!("ws://{}/federate", throttle.addr));
    caller.args(["--call", "echo", "--bulk", "--pause-ms", "25"]);
    let mut calls = chain.measure(run, LINKS, BESIDE_BULK, caller, 8).await?;
    let used = calls.value.take().map_or(0.0, |(_, bytes)| bytes / calls.took.as_secs_f64());
    let bulk = Row {
        server: calls.server.clone(),
        case: format!("{BESIDE_BULK}: the body"),
        value: Some(("% of the line", used * 100.0 / UPLINK as f64)),
        ..Row::default()
    };
    Ok([calls, bulk])
}

/// What a caller reports.
#[derive(Debug, Deserialize)]
struct Report {
    failed: u64,
    seconds: f64,
    /// See [`Histogram::sparse`].
    latency: Vec<(usize, u64)>,
    /// The longest time in which no call was answered.
    #[serde(default)]
    gap_ms: f64,
    /// Given to the link while the calls were measured.
    #[serde(default)]
    bulk_bytes: u64,
}

impl Report {
    fn row(self, server: &str, case: &str) -> Row {
        let latency = Histogram::from_sparse(&self.latency);
        Row {
            server: server.to_owned(),
            case: case.to_owned(),
            operations: latency.total(),
            took: Duration::from_secs_f64(self.seconds),
            latency: Some(latency),
            errors: self.failed,
            value: (self.bulk_bytes > 0).then_some(("bytes", self.bulk_bytes as f64)),
            ..Row::default()
        }
    }
}

/// Servers in a row, and the answering end behind them.
#[derive(Debug)]
pub struct Chain {
    /// Where the caller goes in.
    pub first: String,
    pub processes: Vec<Process>,
    pub dir: TempDir,
}

impl Chain {
    async fn start(run: &Run, hubs: usize) -> anyhow::Result<Self> {
        let dir = run.servers.directory("links")?;
        let mut processes = Vec::new();
        let mut urls: Vec<String> = Vec::new();
        for hub in 0..hubs {
            let mut command = node(&format!("hub-{hub}"));
            if let Some(url) = urls.last() {
                command.arg("--connect").arg(url);
            }
            let (process, port) = listening(&dir, command, &format!("hub-{hub}")).await?;
            urls.push(format!("ws://127.0.0.1:{port}/federate"));
            processes.push(process);
        }
        let (first, last) = (urls.first().cloned(), urls.last().cloned());
        let mut echo = node("spoke-b");
        echo.args(["--serve", "echo", "--connect"]).arg(last.context("a hub")?);
        processes.push(linked(&dir, echo, "spoke-b").await?);
        Ok(Self { first: first.context("a hub")?, processes, dir })
    }

    /// Runs the calling end until it has reported.
    pub async fn measure(
        &mut self,
        run: &Run,
        server: &str,
        case: &str,
        mut caller: Command,
        callers: usize,
    ) -> anyhow::Result<Row> {
        let callers = callers.to_string();
        let seconds = run.limit.as_secs_f64().to_string();
        caller.args(["--callers", &callers, "--seconds", &seconds]);
        let log = self.dir.path().join("caller");
        let process = Process::start(caller, log.clone(), Signal::SIGTERM)?;
        let watched = self.processes.iter().map(Process::pid).chain([process.pid()]);
        let watched = Watched::new(watched);
        let report = report(&log, run.limit + PATIENCE).await?;
        Ok(Row { rss: Some(watched.rss()), ..report.row(server, case) })
    }
}

/// How much longer than its load a caller may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the caller with this log says in the end.
async fn report(log: &std::path::Path, within: Duration) -> anyhow::Result<Report> {
    let began = Instant::now();
    loop {
        if let Some(report) = line_of(log, "report ") {
            return Ok(serde_json::from_str(&report)?);
        }
        if began.elapsed() > within {
            bail!("no report:\n{}", std::fs::read_to_string(log).unwrap_or_default());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts a hub; its process and port.
async fn listening(
    dir: &TempDir,
    mut command: Command,
    name: &str,
) -> anyhow::Result<(Process, String)> {
    command.arg("--listen");
    let log = dir.path().join(name);
    let mut process = Process::start(command, log.clone(), Signal::SIGKILL)?;
    process.wait_until(async || line_of(&log, "port ").is_some()).await?;
    Ok((process, line_of(&log, "port ").context("a port")?))
}

/// Starts a spoke and waits for its link.
async fn linked(dir: &TempDir, command: Command, name: &str) -> anyhow::Result<Process> {
    let log = dir.path().join(name);
    let mut process = Process::start(command, log.clone(), Signal::SIGTERM)?;
    process.wait_until(async || line_of(&log, "linked").is_some()).await?;
    Ok(process)
}

/// A node beside this program.
pub fn node(name: &str) -> Command {
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("relay-bench"));
    let mut command = Command::new(own.with_file_name("relay-bench-node"));
    command.args(["--relay", name]);
    command
}

/// What follows `start` on the first line of a log that begins with it.
fn line_of(log: &std::path::Path, start: &str) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    // A line without its end is still being written.
    let whole = text.rsplit_once('\n')?.0;
    whole.lines().find_map(|line| line.strip_prefix(start)).map(str::to_owned)
}
