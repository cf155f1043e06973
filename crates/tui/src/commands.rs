//! What is typed: words to be sent, or a command after a slash.

/// A line that was entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entered {
    /// To be sent as it is.
    Say(String),
    Do(Command),
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Msg { person: String, text: Option<String> },
    Join { conversation: Option<String> },
    New { name: String, people: Vec<String> },
    Invite { people: Vec<String> },
    Remove { person: String },
    Ban { person: Option<String> },
    Unban { person: String },
    Readmit { person: Option<String> },
    Restart,
    Leave,
    Verify { person: Option<String> },
    Block { person: Option<String>, blocked: bool },
    Presence { online: bool },
    Mute,
    Pin,
    Archive,
    Search { text: String },
    Export { path: String },
    File { path: String },
    Device(Device),
    Keys,
    Name { person: String, name: String },
    Nick { name: String },
    Title { name: String },
    Topic { text: String },
    Read,
    Help,
    Quit,
}

/// What can be done about the own devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    List,
    Link { code: String },
    Revoke { device_id: String },
    Recover,
}

/// The commands, for help, completion and messages about typing errors: name, arguments, what it does.
pub const COMMANDS: [(&str, &str, &str); 30] = [
    ("msg", "NAME|KEY [TEXT]", "write to somebody"),
    ("join", "[CHAT]", "accept an invitation; go to a chat"),
    ("new", "NAME [PEOPLE…]", "make a room"),
    ("invite", "PEOPLE…", "take people into this room"),
    ("remove", "NAME", "take somebody out of this room"),
    ("ban", "[NAME]", "take somebody out of this room and keep them out; list those"),
    ("unban", "NAME", "let somebody be invited again"),
    ("readmit", "[NAME]", "let a device in again that has lost its state; list who asks"),
    ("restart", "", "begin a new chat in the place of this one, which is stuck"),
    ("leave", "", "leave this chat, or decline the invitation"),
    ("verify", "[NAME]", "compare safety numbers"),
    ("block", "[NAME]", "take nothing from somebody any more"),
    ("unblock", "[NAME]", "take their messages again"),
    ("invisible", "", "see others without being seen"),
    ("online", "", "be seen again by those you watch and who watch you"),
    ("mute", "", "announce nothing of this chat, or again"),
    ("pin", "", "keep this chat at the top, or no longer"),
    ("archive", "", "take this chat out of the list, or back"),
    ("search", "WORDS", "search in all chats; Ctrl-F searches here"),
    ("export", "FILE", "write this chat's messages as JSON lines"),
    ("file", "FILE", "send a file"),
    ("device", "[link CODE|revoke ID|recover]", "your devices"),
    ("keys", "", "who you are, and your backup"),
    ("name", "KEY|NAME NEW", "what you call somebody"),
    ("nick", "NAME", "the name by which others mention you"),
    ("title", "NAME", "name this room"),
    ("topic", "TEXT", "say what this room is about"),
    ("read", "", "mark this chat as read"),
    ("help", "", "all keys and commands"),
    ("quit", "", "leave"),
];

/// Reads what was entered. Only `//…` sends something that begins with a slash.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse(line: &str) -> Result<Entered, String> {
    let Some(command) = line.strip_prefix('/') else { return Ok(Entered::Say(line.to_owned())) };
    if command.starts_with('/') {
        return Ok(Entered::Say(command.to_owned()));
    }
    let (verb, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim();
    let words = || rest.split_whitespace().map(str::to_owned);
    let optional = || Some(rest.to_owned()).filter(|text| !text.is_empty());
    let needed = || {
        optional().ok_or_else(|| {
            let known = COMMANDS.iter().find(|(name, ..)| *name == verb);
            format!(
                "/{verb} needs more: /{verb} {}",
                known.map_or("", |(_, arguments, _)| arguments)
            )
        })
    };
    let command = match verb {
        "msg" => {
            let all = needed()?;
            let (person, text) = all.split_once(char::is_whitespace).unwrap_or((&all, ""));
            let text = Some(text.trim().to_owned()).filter(|text| !text.is_empty());
            Command::Msg { person: person.to_owned(), text }
        }
        "join" => Command::Join { conversation: optional() },
        "new" => {
            needed()?;
            let mut words = words();
            let name = words.next().unwrap_or_default().trim_start_matches('#').to_owned();
            Command::New { name, people: words.collect() }
        }
        "invite" => {
            needed()?;
            Command::Invite { people: words().collect() }
        }
        "remove" => Command::Remove { person: needed()? },
        "ban" => Command::Ban { person: optional() },
        "unban" => Command::Unban { person: needed()? },
        "readmit" => Command::Readmit { person: optional() },
        "restart" => Command::Restart,
        "leave" => Command::Leave,
        "verify" => Command::Verify { person: optional() },
        "block" => Command::Block { person: optional(), blocked: true },
        "unblock" => Command::Block { person: optional(), blocked: false },
        "invisible" => Command::Presence { online: false },
        "online" => Command::Presence { online: true },
        "mute" => Command::Mute,
        "pin" => Command::Pin,
        "archive" => Command::Archive,
        "search" => Command::Search { text: needed()? },
        "export" => Command::Export { path: needed()? },
        "file" => Command::File { path: needed()? },
        "device" | "devices" => Command::Device(device(rest)?),
        "keys" => Command::Keys,
        "name" => {
            let all = needed()?;
            let (person, name) = all
                .split_once(char::is_whitespace)
                .ok_or("/name needs whom and the new name: /name KEY NAME")?;
            Command::Name { person: person.to_owned(), name: name.trim().to_owned() }
        }
        "nick" => Command::Nick { name: needed()? },
        "title" => Command::Title { name: needed()?.trim_start_matches('#').to_owned() },
        "topic" => Command::Topic { text: rest.to_owned() },
        "read" => Command::Read,
        "help" => Command::Help,
        "quit" | "exit" => Command::Quit,
        unknown => return Err(no_command(unknown)),
    };
    Ok(Entered::Do(command))
}

fn device(rest: &str) -> Result<Device, String> {
    let (verb, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let rest = rest.trim();
    match (verb, rest) {
        ("" | "ls", "") => Ok(Device::List),
        ("recover", "") => Ok(Device::Recover),
        ("link", "") => {
            Err("/device link needs the code that the new device shows when you type /device there"
                .into())
        }
        ("link", code) => Ok(Device::Link { code: code.to_owned() }),
        ("revoke", id) if !id.is_empty() => Ok(Device::Revoke { device_id: id.to_owned() }),
        _ => Err("/device lists your devices; then there are link CODE, revoke ID, recover".into()),
    }
}

fn no_command(unknown: &str) -> String {
    let near = COMMANDS.iter().map(|(name, ..)| *name).find(|name| near(name, unknown));
    let hint =
        near.map_or_else(|| "/help lists them".into(), |name| format!("did you mean /{name}?"));
    format!("/{unknown} is no command, nothing was sent; {hint}  (//{unknown} would send it)")
}

/// Within one letter: added, left out, or another one.
fn near(known: &str, typed: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (known.chars().collect(), typed.chars().collect());
    if a.len().abs_diff(b.len()) > 1 || b.len() < 2 {
        return false;
    }
    let begin = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let most = a.len().min(b.len()) - begin;
    let end = a.iter().rev().zip(b.iter().rev()).take(most).take_while(|(a, b)| a == b).count();
    let left = a.len().max(b.len()) - begin - end;
    // Two neighbours that changed places are one error too.
    left <= 1
        || (left == 2 && a.len() == b.len() && a[begin] == b[begin + 1] && a[begin + 1] == b[begin])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_list_is_understood() {
        for (name, ..) in COMMANDS {
            let parsed = parse(&format!("/{name}"));
            let known = parsed.as_ref().err().is_none_or(|error| error.contains("needs"));
            assert!(known, "{name}: {parsed:?}");
        }
    }

    #[test]
    fn an_unknown_command_is_never_a_message() {
        let error = parse("/emote waves").unwrap_err();
        assert!(error.contains("nothing was sent"), "{error}");
        assert!(parse("/laeve").unwrap_err().contains("did you mean /leave?"));
        assert!(parse("/").is_err());
        assert_eq!(parse("//usr/bin").unwrap(), Entered::Say("/usr/bin".into()));
        assert_eq!(parse("and/or").unwrap(), Entered::Say("and/or".into()));
    }

    #[test]
    fn arguments_are_read() {
        assert_eq!(
            parse("/msg bob  hello there").unwrap(),
            Entered::Do(Command::Msg { person: "bob".into(), text: Some("hello there".into()) })
        );
        assert_eq!(
            parse("/new #ops bob carol").unwrap(),
            Entered::Do(Command::New {
                name: "ops".into(),
                people: vec!["bob".into(), "carol".into()]
            })
        );
        assert_eq!(
            parse("/device link ab12cd34").unwrap(),
            Entered::Do(Command::Device(Device::Link { code: "ab12cd34".into() }))
        );
        assert!(parse("/device link").is_err());
        assert!(parse("/new").is_err());
    }
}
