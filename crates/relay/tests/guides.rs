//! The commands that people are told to type: every `sh` block of the README and of the guides, run in
//! order against a fresh relay. Blocks for the eye alone are marked `console`, `toml` or `text`.
//!
//! A hidden comment `<!-- check: COMMAND -->` in a page is run at its place, and must succeed.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use support::{RELAY, Relay};

/// Longer than any page takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// The story of the README: keys, publish, stream, a lock, a holder that hangs, a write that is refused.
#[test]
fn first_ten_minutes() {
    // Its second half needs the operator of the hub.
    let relay = Relay::start();
    let socket = format!("unix:{}", relay.path("relay.sock").display());
    let told = run_against(&socket, "README.md");
    // 6: no longer yours. 121: the wrapper found its lease gone and ended the command.
    for line in ["deploying with token 1", "refused, exit 6", "the holder noticed too, exit 121"] {
        assert!(told.contains(line), "'{line}' is missing in:\n{told}");
    }
}

#[test]
fn guide_to_events() {
    run("docs/events.md");
}

#[test]
fn guide_to_locks() {
    let told = run("docs/locks.md");
    for line in ["backup, token 1", "somebody else runs it, exit 124", "fenced, exit 6"] {
        assert!(told.contains(line), "'{line}' is missing in:\n{told}");
    }
}

#[test]
fn guide_to_http() {
    run("docs/http.md");
}

#[test]
fn guide_to_operating() {
    run("docs/operate.md");
}

#[test]
fn guide_to_the_social_layer() {
    run("docs/social.md");
}

/// As the relay's operator on its own machine.
#[test]
fn guide_to_services() {
    let relay = Relay::start();
    let socket = format!("unix:{}", relay.path("relay.sock").display());
    run_against(&socket, "docs/services.md");
}

/// Runs a page and returns what its commands printed.
fn run(page: &str) -> String {
    let relay = Relay::start();
    run_against(&relay.url, page)
}

fn run_against(url: &str, page: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let script = script(&fs::read_to_string(root.join(page)).unwrap());
    let home = tempfile::Builder::new().prefix("relay-guide.").tempdir().unwrap();
    let output = home.path().join("output");
    let out = fs::File::create(&output).unwrap();
    let mut shell = Command::new("bash")
        .args(["-euxo", "pipefail", "-c", &script])
        .current_dir(home.path())
        .env("HOME", home.path())
        .env("XDG_CONFIG_HOME", home.path().join("config"))
        .env("XDG_RUNTIME_DIR", home.path())
        .env("RELAY_URL", url)
        .env("PATH", path_with_relay())
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        // Its own group, so that what it leaves in the background ends with it.
        .process_group(0)
        .spawn()
        .unwrap();
    let give_up = Instant::now() + LIMIT;
    let mut ended = None;
    while ended.is_none() && Instant::now() < give_up {
        std::thread::sleep(Duration::from_millis(20));
        ended = shell.try_wait().unwrap();
    }
    // There is nobody left to end where nothing was put in the background.
    let _ = killpg(Pid::from_raw(shell.id() as i32), Signal::SIGKILL);
    let _ = shell.wait();
    let told = fs::read_to_string(&output).unwrap();
    let ended = ended.unwrap_or_else(|| panic!("{page} does not end:\n{told}"));
    assert!(ended.success(), "{page}: {ended}\n{told}");
    told
}

/// The `sh` blocks and hidden checks of a page, as one script.
fn script(page: &str) -> String {
    let mut script = String::new();
    let mut inside = false;
    for line in page.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => script += &format!("{line}\n"),
            _ => {
                let check = line.strip_prefix("<!-- check: ").and_then(|l| l.strip_suffix(" -->"));
                script.extend(check.map(|check| format!("{check}\n")));
            }
        }
    }
    assert!(script.lines().count() > 3, "no commands found");
    script
}

fn path_with_relay() -> std::ffi::OsString {
    let own = Path::new(RELAY).parent().unwrap().to_owned();
    let usual = env::var_os("PATH").unwrap_or_default();
    env::join_paths([own].into_iter().chain(env::split_paths(&usual))).unwrap()
}
