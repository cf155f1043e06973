//! What a shell is told when somebody presses Tab.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::{net::TcpListener, path::Path, process::Command};

use support::{RELAY, Relay};

/// The completions of the last word, as the script of bash asks for them.
fn completed(mut command: Command, words: &[&str]) -> Vec<String> {
    let output = command
        .env("RELAY_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string())
        .env("_CLAP_IFS", "\n")
        .arg("--")
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn commands_and_flags_are_completed() {
    let home = tempfile::tempdir().unwrap();
    let ask = |words: &[&str]| completed(support::base(home.path()), words);
    assert_eq!(ask(&["relay", "loc"]), ["lock"]);
    assert!(ask(&["relay", "lock", "ac"]).contains(&"acquire".to_owned()));
    assert!(ask(&["relay", "event", "query", "--auth"]).contains(&"--author".to_owned()));
    assert!(ask(&["relay", "explain", "lock"]).contains(&"lock_held".to_owned()));
    assert!(!ask(&["relay", ""]).iter().any(|word| word.starts_with("__")));
}

#[test]
fn live_values_are_completed() {
    let relay = Relay::start();
    for resource in ["db/main", "db/other", "site/prod"] {
        relay.ok(["lock", "acquire", resource]);
    }
    let ask = |words: &[&str]| completed(relay.command([""; 0]), words);
    assert_eq!(ask(&["relay", "lock", "inspect", "db/"]), ["db/main", "db/other"]);
    assert_eq!(ask(&["relay", "lock", "release", "si"]), ["site/prod"]);
    relay.ok(["context", "add", "home", &relay.url]);
    relay.ok(["context", "add", "house", "https://relay.example.com"]);
    assert_eq!(ask(&["relay", "context", "use", "ho"]), ["home", "house"]);
    assert_eq!(ask(&["relay", "--context", "hom"]), ["home"]);
    relay.ok(["keys", "gen", "ci-runner"]);
    assert_eq!(ask(&["relay", "keys", "show", "ci"]), ["ci-runner"]);
}

/// A relay that takes the connection and says nothing must not hold the shell up.
#[test]
fn a_relay_that_does_not_answer_gives_none() {
    let home = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let ask = |url: &str| {
        completed(support::base(home.path()), &["relay", "--url", url, "lock", "inspect", ""])
    };
    let plain =
        |found: Vec<String>| found.into_iter().filter(|word| !word.starts_with('-')).count();
    assert_eq!(plain(ask(&url)), 0);
    assert_eq!(plain(ask("http://127.0.0.1:1")), 0);
    drop(silent);
}

/// The whole way through a real bash.
#[test]
fn bash_completes_with_the_script() {
    let home = tempfile::tempdir().unwrap();
    let bin = Path::new(RELAY).parent().unwrap();
    let path = std::env::join_paths(
        [bin.to_owned()]
            .into_iter()
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let script = r#"
        source <(relay completions bash)
        COMP_WORDS=(relay lock insp) COMP_CWORD=2 COMP_TYPE=9
        $(complete -p relay | sed 's/.*-F \([^ ]*\) .*/\1/') relay insp lock
        echo "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash")
        .args(["-c", script])
        .env("PATH", path.unwrap())
        .env("HOME", home.path())
        .env("XDG_CONFIG_HOME", home.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "inspect", "{output:?}");
    for shell in ["zsh", "fish", "powershell", "elvish"] {
        let ran = support::alone(home.path(), ["completions", shell]);
        assert!(ran.code() == 0 && ran.stdout.contains("RELAY_COMPLETE"), "{shell}");
    }
}
