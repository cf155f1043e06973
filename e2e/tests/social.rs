//! The canonical client of Polycentric, in Node, against a relay; and a caching proxy before one.
//!
//! The client library is a peer, under a licence of its own: it is installed where the tests run and nowhere else.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use relay_e2e::{Backend, Relay, relay::Setup};

const CLIENT: &str = "@polycentric/polycentric-core@0.2.2";
const INSTALL_LIMIT: Duration = Duration::from_secs(300);
const RUN_LIMIT: Duration = Duration::from_secs(240);

/// Where the client library is; installed by the first test that needs it, kept beside what is built.
fn node_modules() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("polycentric");
        fs::create_dir_all(&dir).unwrap();
        // Tests of other processes may want it at the same time.
        let lock = fs::File::create(dir.join("lock")).unwrap();
        lock.lock().unwrap();
        let done = dir.join("installed-0.2.2");
        if !done.exists() {
            let status = Command::new("timeout")
                .arg(INSTALL_LIMIT.as_secs().to_string())
                .args(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"])
                .args(["--no-save", "--prefix"])
                .arg(&dir)
                .arg(CLIENT)
                .stdout(Stdio::null())
                .status()
                .unwrap();
            assert!(status.success(), "the client library could not be installed");
            fs::write(done, "").unwrap();
        }
        dir.join("node_modules")
    })
}

/// Runs the client's scenario; its report is in the message of a failure.
async fn run_client(arguments: &[String]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("social/client.cjs");
    let mut command = tokio::process::Command::new("node");
    command.arg(script).args(arguments).env("NODE_PATH", node_modules()).kill_on_drop(true);
    let output = tokio::time::timeout(RUN_LIMIT, command.output()).await;
    let output = output.expect("the client hangs").unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.lines().filter(|line| line.starts_with("ok ")).count() >= 15, "{told}");
}

#[tokio::test]
async fn the_canonical_client_works_unchanged_on_sqlite() {
    let relay = Relay::start(Backend::Sqlite).await;
    run_client(&[relay.url()]).await;
}

#[tokio::test]
async fn the_canonical_client_works_unchanged_on_postgres() {
    let relay = Relay::start(Backend::Postgres).await;
    run_client(&[relay.url()]).await;
}

#[tokio::test]
async fn the_canonical_client_works_under_a_prefix() {
    let mut setup = Setup::new(Backend::Sqlite);
    setup.config = "[social]\nprefix = \"/some/where\"\n".into();
    let relay = Relay::with(setup).await;
    run_client(&[format!("{}/some/where", relay.url())]).await;
}
