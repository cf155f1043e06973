//! The key of a profile in the desktop's keyring, through `secret-tool` (Secret Service): no library that speaks D-Bus is
//! linked for it, and no secret is ever an argument of a process.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use crate::error::{Failure, exit};

const TOOL: &str = "secret-tool";
/// Between two looks whether it has answered.
const POLL: Duration = Duration::from_millis(20);

/// The file beside a profile that says that its key is in the keyring, and under which name.
pub fn marker(profile: &Path) -> PathBuf {
    profile.with_extension("keyring")
}

/// The name of a profile in the keyring, where its key is there.
pub fn name(profile: &Path) -> Option<String> {
    let text = std::fs::read_to_string(marker(profile)).ok()?;
    Some(text.trim().to_owned()).filter(|name| !name.is_empty())
}

/// The key of this name.
pub fn lookup(name: &str, patience: Duration) -> Result<Zeroizing<[u8; 32]>, Failure> {
    let mut command = Command::new(TOOL);
    command.args(["lookup", "application", "relay-chat", "profile", name]);
    let text = run(command, None, patience)?;
    if text.trim().is_empty() {
        return Err(Failure::new(
            exit::NOT_ALLOWED,
            "the keyring has no key for your chats, or it is locked",
        )
        .hint("secret-tool search application relay-chat", "what it has")
        .fact("unlock the keyring (log in to the desktop) and try again; without the key these chats stay shut"));
    }
    let mut key = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim(), &mut *key)
        .map_err(|_| Failure::usage("what the keyring has for your chats is no key of ours"))?;
    Ok(key)
}

/// Keeps a key under this name.
pub fn store(name: &str, key: &[u8; 32], patience: Duration) -> Result<(), Failure> {
    let mut command = Command::new(TOOL);
    let label = format!("Relay chats {name}");
    command.args(["store", "--label", &label, "application", "relay-chat", "profile", name]);
    let text = Zeroizing::new(hex::encode(key));
    run(command, Some(text.as_bytes()), patience)?;
    // What cannot be read back would shut the chats for good.
    match lookup(name, patience) {
        Ok(kept) if *kept == *key => Ok(()),
        _ => Err(Failure::failed("the keyring did not keep the key; nothing was changed")),
    }
}

/// Forgets the key of this name; that it is not there any more is no matter.
pub fn forget(name: &str, patience: Duration) {
    let mut command = Command::new(TOOL);
    command.args(["clear", "application", "relay-chat", "profile", name]);
    let _ = run(command, None, patience);
}

/// Runs the tool to its end. A locked keyring asks on the desktop, which may take as long as its user likes.
fn run(
    mut command: Command,
    input: Option<&[u8]>,
    patience: Duration,
) -> Result<Zeroizing<String>, Failure> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let started = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = started.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::usage("the keyring is reached through secret-tool, which is not installed")
                .hint("apt install libsecret-tools", "on Debian and Ubuntu")
                .hint("relay chat passphrase", "protects your chats without a keyring")
        }
        _ => Failure::failed(format!("{TOOL}: {error}")),
    })?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // It may have ended without reading; its exit code says so.
        let _ = stdin.write_all(input);
    }
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begun.elapsed() > patience {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Failure::new(
                exit::NOT_ALLOWED,
                "the keyring is locked and waits for its password: unlock it, then try again",
            )
            .hint("--timeout 2m", "wait longer for it"));
        }
        std::thread::sleep(POLL);
    };
    let (mut out, mut told) = (Zeroizing::new(String::new()), String::new());
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut out)?;
    }
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut told)?;
    }
    // Where nothing is found it ends with 1 and says nothing.
    if !status.success() && !told.trim().is_empty() {
        let first = told.lines().next().unwrap_or_default();
        return Err(Failure::new(
            exit::NOT_ALLOWED,
            format!("the keyring does not answer: {first}"),
        )
        .fact("it belongs to a desktop session: log in there and unlock it, then try again"));
    }
    Ok(out)
}
