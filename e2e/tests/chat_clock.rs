//! A machine whose clock is far off is told so when it chats: the keys by which others invite it are dated.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::process::{Command, Stdio};

use relay_e2e::{
    Backend, Relay,
    relay::{Setup, relay_binary},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_far_off_is_told() {
    let relay = Relay::with(Setup { shim: true, ..Setup::new(Backend::Sqlite) }).await;
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(relay_binary());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RELAY_") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .args(["--timeout", "30s"])
            .env("HOME", home.path())
            .env("XDG_CONFIG_HOME", home.path().join("config"))
            .env("XDG_STATE_HOME", home.path().join("state"))
            .env("XDG_RUNTIME_DIR", home.path())
            .stdin(Stdio::null());
        let ran = command.output().unwrap();
        let told = String::from_utf8(ran.stderr).unwrap();
        (ran.status.success(), told)
    };
    let ok = |args: &[&str]| {
        let (done, told) = run(args);
        assert!(done, "{args:?}: {told}");
        told
    };
    ok(&["keys", "gen"]);
    ok(&["login", &relay.url()]);
    let told = ok(&["chat", "ls"]);
    assert!(!told.contains("clock"), "{told}");
    // Ahead, as the date in the relay's answers does not follow a clock that is set back.
    relay.shim().shift_wall(7_200);
    let (_, told) = run(&["chat", "ls"]);
    assert!(told.contains("clocks of this machine and of the relay are far apart"), "{told}");
    assert!(told.contains("timedatectl set-ntp true"), "{told}");
}
