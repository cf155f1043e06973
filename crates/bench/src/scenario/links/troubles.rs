//! What federations meet beside plain load: TLS, a slower instance, hubs that die, and finding what another hub has.

use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::{Chain, LINKS, PATIENCE, linked, listening, node, report};
use crate::{report::Row, scenario::Run, server::Process};

const TLS: &str = "spoke, hub, spoke: 64 callers, TLS";
const SLOWER: &str = "two instances, one 20 ms slower";
const DISCOVERY: &str = "discovery: 200 services of another hub";
/// Below what a hub takes of one home.
const SERVICES: usize = 200;
/// Name, what happens to the hub, and how long is called.
const DEATHS: [(&str, Signal, f64); 2] = [
    ("a hub dies: killed", Signal::SIGKILL, 5.0),
    ("a hub dies: stopped with its sockets open", Signal::SIGSTOP, 15.0),
];
/// How long the calls went on before the hub died.
const BEFORE: Duration = Duration::from_millis(2_000);

pub async fn rows(run: &Run) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    if run.wants(TLS) {
        rows.push(over_tls(run).await?);
    }
    if run.wants(SLOWER) {
        rows.push(slower(run).await?);
    }
    for (case, signal, seconds) in DEATHS.into_iter().filter(|(case, ..)| run.wants(case)) {
        rows.push(death(run, case, signal, seconds).await?);
    }
    if run.wants(DISCOVERY) {
        rows.push(discovery(run).await?);
    }
    Ok(rows)
}

/// As the plain case of one hub, each link encrypted.
async fn over_tls(run: &Run) -> anyhow::Result<Row> {
    let dir = run.servers.directory("links")?;
    let trusted = dir.path().join("certificate");
    let mut hub = node("hub-0");
    hub.arg("--tls").arg(&trusted);
    let (hub, port) = listening(&dir, hub, "hub-0").await?;
    let first = format!("wss://127.0.0.1:{port}/federate");
    let mut echo = node("spoke-b");
    echo.args(["--serve", "echo", "--connect", &first, "--trust"]).arg(&trusted);
    let echo = linked(&dir, echo, "spoke-b").await?;
    let mut chain = Chain { first: first.clone(), processes: vec![hub, echo], dir };
    let mut caller = node("spoke-a");
    caller.args(["--call", "echo", "--connect", &first, "--trust"]).arg(&trusted);
    chain.measure(run, LINKS, TLS, caller, 64).await
}

/// How many of the calls the faster of two instances gets.
async fn slower(run: &Run) -> anyhow::Result<Row> {
    let mut chain = Chain::start(run, 1).await?;
    let mut late = node("spoke-c");
    late.args(["--serve", "echo", "--delay-ms", "20", "--connect", &chain.first]);
    chain.processes.push(linked(&chain.dir, late, "spoke-c").await?);
    let mut caller = node("spoke-a");
    caller.args(["--call", "echo", "--connect", &chain.first]);
    let mut row = chain.measure(run, LINKS, SLOWER, caller, 64).await?;
    let fast = row.latency.as_ref().map_or(0.0, |all| all.share_below(Duration::from_millis(20)));
    row.value = Some(("% to the fast one", fast * 100.0));
    Ok(row)
}

/// The longest time without an answer when the hub of caller and callee dies, both having a fallback.
async fn death(run: &Run, case: &str, signal: Signal, seconds: f64) -> anyhow::Result<Row> {
    let dir = run.servers.directory("links")?;
    let (first, port) = listening(&dir, node("hub-0"), "hub-0").await?;
    let url = format!("ws://127.0.0.1:{port}/federate");
    let mut second = node("hub-1");
    second.args(["--connect", &url]);
    let (_second, port) = listening(&dir, second, "hub-1").await?;
    let fallback = format!("ws://127.0.0.1:{port}/federate");
    let mut echo = node("spoke-b");
    echo.args(["--serve", "echo", "--connect", &url, "--fallback", &fallback]);
    let _echo = linked(&dir, echo, "spoke-b").await?;
    let mut caller = node("spoke-a");
    caller.args(["--call", "echo", "--connect", &url, "--fallback", &fallback]);
    caller.args(["--callers", "8", "--pause-ms", "2", "--seconds", &seconds.to_string()]);
    let log = dir.path().join("caller");
    let _caller = linked(&dir, caller, "caller").await?;
    tokio::time::sleep(BEFORE).await;
    kill(Pid::from_raw(first.pid() as i32), signal)?;
    let report = report(&log, Duration::from_secs_f64(seconds) + PATIENCE).await?;
    let gap = report.gap_ms;
    Ok(Row { value: Some(("ms without an answer", gap)), ..report.row(LINKS, case) })
}

/// How long a spoke waits to hear who offers a service on another hub.
async fn discovery(run: &Run) -> anyhow::Result<Row> {
    let (dir, processes, first) = two_hubs(run).await?;
    let mut asker = node("spoke-a");
    asker.args(["--discover", &SERVICES.to_string(), "--connect", &first]);
    let log = dir.path().join("asker");
    let _asker = linked(&dir, asker, "asker").await?;
    let report = report(&log, run.limit + PATIENCE).await?;
    drop(processes);
    Ok(report.row(LINKS, DISCOVERY))
}

/// Two hubs, with many services on a spoke of the second; where the first one is.
async fn two_hubs(run: &Run) -> anyhow::Result<(TempDir, Vec<Process>, String)> {
    let dir = run.servers.directory("links")?;
    let (first, port) = listening(&dir, node("hub-0"), "hub-0").await?;
    let url = format!("ws://127.0.0.1:{port}/federate");
    let mut second = node("hub-1");
    second.args(["--connect", &url]);
    let (second, port) = listening(&dir, second, "hub-1").await?;
    let mut echo = node("spoke-b");
    let last = format!("ws://127.0.0.1:{port}/federate");
    echo.args(["--serve", "echo", "--also", &SERVICES.to_string(), "--connect", &last]);
    let echo = linked(&dir, echo, "spoke-b").await?;
    // What is registered is on every hub within a second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok((dir, vec![first, second, echo], url))
}
