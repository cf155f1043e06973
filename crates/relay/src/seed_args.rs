//! The command lines of the first designs (`cli.md` 3.1), rewritten before anything else reads them:
//! single-dash long flags, and a script as the first word.
//!
//! Exactly these names are known, with `-f value` or `-f=value`, before or after the script, and only
//! without a subcommand or with `serve` and `run`; other single-dash words stay what they are.
//! `-output`, `-help` and `-version` work with every command.

use std::ffi::OsString;

use crate::error::Failure;

/// Flags that only a relay has; those with a value say so.
const SERVE_FLAGS: [(&str, bool); 7] = [
    ("-server", false),
    ("-node-id", true),
    ("-node-type", true),
    ("-port", true),
    ("-connect", true),
    ("-fallback", true),
    ("-peers", true),
];
/// Flags of every command.
const COMMON_FLAGS: [&str; 3] = ["-output", "-help", "-version"];

/// What a script's file is called.
const SCRIPT: &str = ".rl";

/// Rewrites a command line (the program's name included).
///
/// # Errors
/// Contradictions, and values that are missing.
pub fn translate(args: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let Some((program, rest)) = args.split_first() else { return Ok(args) };
    let end = rest.iter().position(|arg| arg == "--").unwrap_or(rest.len());
    let (ours, theirs) = rest.split_at(end);
    let command = subcommand(ours);
    let is_script = command.is_none() && ours.iter().any(is_script);
    if !is_script && !ours.iter().any(is_known) {
        return Ok(args);
    }
    let takes_serve_flags = matches!(command.as_deref(), None | Some("serve" | "run"));
    let mut out = Rewritten { takes_scripts: command.is_none(), ..Rewritten::default() };
    let mut words = ours.iter().cloned();
    while let Some(word) = words.next() {
        out.word(word, &mut words, takes_serve_flags)?;
    }
    out.check()?;
    let mut all = vec![program.clone()];
    if command.is_none() {
        all.extend(out.command()?);
    }
    all.extend(out.words);
    all.extend(theirs.iter().cloned());
    Ok(all)
}

#[derive(Default)]
struct Rewritten {
    words: Vec<OsString>,
    is_serve: bool,
    server: bool,
    connect: bool,
    node_type: Option<String>,
    port: bool,
    /// Whether a word that names a script is one: not behind a subcommand.
    takes_scripts: bool,
    scripts: Vec<OsString>,
}

impl Rewritten {
    /// The command that the words belong to, and the script it takes first.
    fn command(&mut self) -> Result<Vec<OsString>, Failure> {
        if self.server {
            let flags = self.scripts.drain(..).flat_map(|script| ["--script".into(), script]);
            return Ok([OsString::from("serve")].into_iter().chain(flags).collect());
        }
        match self.scripts.as_slice() {
            [] if self.is_serve => Ok(vec!["serve".into()]),
            [] => Ok(Vec::new()),
            [script] if self.is_serve => {
                Ok(vec!["run".into(), script.clone(), "--standalone".into()])
            }
            [script] => Ok(vec!["run".into(), script.clone()]),
            [_, second, ..] => {
                Err(Failure::usage(format!("one script at a time: what is {}?", second.display()))
                    .hint("relay -server a.rl b.rl", "a hub hosts several"))
            }
        }
    }

    fn word(
        &mut self,
        word: OsString,
        rest: &mut impl Iterator<Item = OsString>,
        takes_serve_flags: bool,
    ) -> Result<(), Failure> {
        let Some(text) = word.to_str() else {
            self.words.push(word);
            return Ok(());
        };
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        if COMMON_FLAGS.contains(&name) {
            self.words.push(format!("-{text}").into());
            return Ok(());
        }
        let known = SERVE_FLAGS.iter().find(|(flag, _)| *flag == name && takes_serve_flags);
        let Some((_, has_value)) = known else {
            if self.takes_scripts && is_script(&word) {
                self.scripts.push(word);
            } else {
                self.words.push(word);
            }
            return Ok(());
        };
        self.is_serve = true;
        if !has_value {
            self.server = true;
            return Ok(());
        }
        let value = match value {
            Some(value) => value,
            None => rest
                .next()
                .and_then(|value| value.into_string().ok())
                .ok_or_else(|| Failure::usage(format!("{name} needs a value")))?,
        };
        match name {
            "-connect" => self.connect = true,
            "-node-type" => self.node_type = Some(value.clone()),
            "-port" => self.port = true,
            _ => {}
        }
        self.words.push(format!("-{name}={value}").into());
        Ok(())
    }

    /// What cannot be meant, and what goes without saying.
    fn check(&mut self) -> Result<(), Failure> {
        if !self.server {
            return Ok(());
        }
        if self.connect {
            return Err(Failure::usage("-server is a main relay and -connect makes a home relay")
                .hint("leave out -server", "to join the relay behind -connect")
                .hint(
                    "leave out -connect",
                    "to be a main relay; other main relays go under -peers",
                ));
        }
        match self.node_type.as_deref() {
            Some("home") => {
                return Err(Failure::usage("-server is a main relay, and -node-type says home")
                    .hint("leave out one of the two", ""));
            }
            Some(_) => {}
            None => self.words.push("--node-type=main".into()),
        }
        if !self.port {
            self.words.push("--port=8080".into());
        }
        Ok(())
    }
}

fn is_script(word: &OsString) -> bool {
    word.to_str().is_some_and(|word| word.ends_with(SCRIPT) && !word.starts_with('-'))
}

fn is_known(arg: &OsString) -> bool {
    let Some(text) = arg.to_str() else { return false };
    let name = text.split('=').next().unwrap_or(text);
    COMMON_FLAGS.contains(&name) || SERVE_FLAGS.iter().any(|(flag, _)| *flag == name)
}

/// The first word that names a command.
fn subcommand(words: &[OsString]) -> Option<String> {
    let command = crate::cli::command();
    let mut skip = false;
    for word in words {
        let text = word.to_str()?;
        if std::mem::take(&mut skip) {
            continue;
        }
        if SERVE_FLAGS.contains(&(text, true)) {
            skip = true;
        } else if !text.starts_with('-') && command.find_subcommand(text).is_some() {
            return Some(text.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(line: &str) -> Result<String, Failure> {
        let args = line.split_whitespace().map(OsString::from).collect();
        let out = translate(args)?;
        Ok(out.iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn the_seeds_command_lines() {
        for (typed, means) in [
            (
                "relay -server -node-id relay.example.com -port 8080",
                "relay serve --node-id=relay.example.com --port=8080 --node-type=main",
            ),
            ("relay -server", "relay serve --node-type=main --port=8080"),
            (
                "relay -server -node-type=main -peers ws://b:8081/ws/peers,ws://c:8082/ws/peers",
                "relay serve --node-type=main --peers=ws://b:8081/ws/peers,ws://c:8082/ws/peers --port=8080",
            ),
            (
                "relay -connect wss://hub -node-id lock",
                "relay serve --connect=wss://hub --node-id=lock",
            ),
            ("relay serve -port 9000", "relay serve --port=9000"),
            (
                "relay blog.rl -node-type home -node-id alice.home -connect ws://hub:8080/ws/federation",
                "relay run blog.rl --standalone --node-type=home --node-id=alice.home \
                 --connect=ws://hub:8080/ws/federation",
            ),
            (
                "relay -node-type=home -connect ws://a -fallback ws://b,ws://c blog.rl",
                "relay run blog.rl --standalone --node-type=home --connect=ws://a --fallback=ws://b,ws://c",
            ),
            (
                "relay my_app.rl -connect ws://relay-a.com:8080/federate -node-id my-home-relay",
                "relay run my_app.rl --standalone --connect=ws://relay-a.com:8080/federate \
                 --node-id=my-home-relay",
            ),
            (
                "relay -server blog.rl chat.rl -port 80",
                "relay serve --script blog.rl --script chat.rl --port=80 --node-type=main",
            ),
            ("relay blog.rl --watch", "relay run blog.rl --watch"),
            ("relay run blog.rl -port 9000", "relay run blog.rl --port=9000"),
            ("relay lock ls -output json", "relay lock ls --output json"),
            ("relay -help", "relay --help"),
        ] {
            assert_eq!(rewritten(typed).unwrap(), means);
        }
    }

    #[test]
    fn what_is_not_ours_stays() {
        for line in [
            "relay lock run db -- cmd -port 3 -help",
            "relay -vv event query",
            "relay event publish -n a --tag x=-server",
            "relay event publish --content notes.rl",
            "relay",
        ] {
            assert_eq!(rewritten(line).unwrap(), line);
        }
        // With another command the flag is for that command to refuse.
        assert_eq!(rewritten("relay lock ls -port 3").unwrap(), "relay lock ls -port 3");
    }

    #[test]
    fn contradictions_are_told() {
        for line in [
            "relay -server -connect wss://hub",
            "relay -server -node-type home",
            "relay -server -port",
            "relay a.rl b.rl -connect ws://hub",
        ] {
            assert_eq!(rewritten(line).unwrap_err().exit, 2, "{line}");
        }
    }
}
