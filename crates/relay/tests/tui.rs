//! Two people in real terminals: invited, accepted, talking, a smaller window, and the terminal given back.
#![cfg(feature = "tui")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use support::{RELAY, Ran, Relay, alone, base, finish, until};

/// Somebody with a machine and a terminal of their own.
struct Person {
    home: tempfile::TempDir,
    /// tmux talks to its server here; each person has one, and it ends with them.
    socket: PathBuf,
}

impl Person {
    fn new(relay: &Relay) -> Self {
        let home = tempfile::tempdir().unwrap();
        let person = Self { socket: home.path().join("tmux"), home };
        person.ok(&["keys", "gen"]);
        person.ok(&["login", &relay.url]);
        person
    }

    fn ok(&self, args: &[&str]) -> Ran {
        let ran = alone(self.home.path(), args);
        assert_eq!(ran.status.code(), Some(0), "{args:?}\n{}\n{}", ran.stdout, ran.stderr);
        ran
    }

    fn key(&self) -> String {
        self.ok(&["whoami", "--json"]).json()["principal"].as_str().unwrap().to_owned()
    }

    fn tmux(&self, args: &[&str]) -> Ran {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).args(["-f", "/dev/null", "-u"]).args(args);
        adopt(&mut command, self.home.path());
        finish(command)
    }

    /// Starts the program in a terminal of 100 columns; what comes after it tells how it has ended.
    fn open(&self) {
        let line = format!("{RELAY} tui; echo \"ended with $?\"; cat");
        let ran = self.tmux(&["new-session", "-d", "-x", "100", "-y", "24", &line]);
        assert!(ran.status.success(), "tmux: {}", ran.stderr);
    }

    /// Closes the terminal. The next one gets a socket of its own: a server that was told to end still listens for a
    /// moment, and takes whoever comes with it.
    fn close(&mut self) {
        self.tmux(&["kill-server"]);
        self.socket.as_mut_os_string().push("-next");
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"]).stdout
    }

    /// Presses keys, by tmux's names for them.
    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    fn write(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
    }

    fn sees(&self, text: &str) {
        let mut last = String::new();
        let shows = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until(text, || {
                last = self.screen();
                last.contains(text)
            });
        }));
        assert!(shows.is_ok(), "waited in vain for '{text}' on\n{last}");
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

/// Gives a command the environment of the program under test.
fn adopt(command: &mut Command, home: &Path) {
    let like = base(home);
    for (name, value) in like.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8").current_dir(home);
}

#[test]
fn two_people_talk_in_their_terminals() {
    let relay = Relay::start();
    let (mut alice, bob) = (Person::new(&relay), Person::new(&relay));
    bob.open();
    // Whoever was here once can be invited.
    bob.sees("Nobody to talk to yet");
    bob.sees("linked");

    alice.open();
    alice.sees("linked");
    alice.write(&format!("/msg {} hello bob", bob.key()));
    alice.press("Enter");
    alice.sees("hello bob");
    alice.sees("✓ stored");

    bob.sees("wants to write to you");
    bob.press("Enter");
    bob.sees("hello bob");
    bob.write("hello alice");
    bob.press("Enter");
    alice.sees("hello alice");
    bob.sees("✓");

    // A line that looks like a command is none, and an unknown command is no message.
    alice.write("/wave");
    alice.press("Enter");
    alice.sees("/wave is no command, nothing was sent");
    alice.press("C-u");
    alice.write("//wave");
    alice.press("Enter");
    bob.sees("/wave");

    // What the relay has beside the chats, read through it: nothing at first, then what a command of the same key wrote.
    alice.press("M-2");
    alice.sees("No posts yet");
    alice.ok(&["social", "post", "the grey heron is back"]);
    alice.press("C-l");
    alice.sees("the grey heron is back");
    alice.write("hello");
    alice.sees("relay social post 'TEXT' writes a post");
    alice.press("C-n");
    alice.sees("There is no service to call here");
    let mut service =
        relay.command(["expose", "greet", "--public", "--http", "http://127.0.0.1:9/"]);
    let mut service = service.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the service is there", || relay.ok(["services"]).stdout.contains("greet"));
    alice.press("C-l");
    alice.sees("greet");
    service.kill().unwrap();
    service.wait().unwrap();
    alice.press("M-1");
    alice.sees("hello alice");

    alice.tmux(&["resize-window", "-x", "60", "-y", "16"]);
    alice.sees("hello alice");
    alice.press("C-k");
    alice.sees("Go to");
    alice.press("Escape");

    // Both quit; the terminal is as it was before.
    for person in [&alice, &bob] {
        person.press("C-q");
        person.sees("ended with 0");
        assert!(!person.screen().contains("hello"), "{}", person.screen());
    }

    // What was said is there at the next start, before any network.
    drop(relay);
    alice.close();
    alice.open();
    alice.sees("hello alice");
    alice.sees("offline since");
    alice.write("later");
    alice.press("Enter");
    alice.sees("waiting for the connection");
    alice.press("C-q");
    alice.sees("ended with 0");
}

#[test]
fn without_a_terminal_it_says_what_to_do() {
    let relay = Relay::start();
    let person = Person::new(&relay);
    let ran = alone(person.home.path(), ["tui"]);
    assert_eq!(ran.code(), 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("relay chat open"), "{}", ran.stderr);
    let plain = alone(person.home.path(), ["tui", "--plain"]);
    assert_eq!(plain.code(), 2, "{}", plain.stderr);
    assert!(plain.stderr.contains("relay chat ls"), "{}", plain.stderr);
}

#[test]
fn a_wrong_tui_toml_names_every_fault_before_the_screen_is_taken() {
    let relay = Relay::start();
    let person = Person::new(&relay);
    let file = person.home.path().join("config/relay/tui.toml");
    std::fs::write(file, "[keys]\nnonsense-x = \"quit\"\n\"ctrl-x\" = \"explode\"\n").unwrap();
    person.open();
    person.sees("ended with 2");
    let screen = person.screen();
    assert!(screen.contains("nonsense-x") && screen.contains("explode"), "{screen}");
}
