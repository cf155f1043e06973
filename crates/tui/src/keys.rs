//! Which key does what: two tables, one for everywhere and one for reading (single letters, while nothing is being typed).

use std::{collections::HashMap, fmt, str::FromStr};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// A key with what is held down with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub code: KeyCode,
    pub with: KeyModifiers,
}

impl Key {
    pub const fn plain(code: KeyCode) -> Self {
        Self { code, with: KeyModifiers::NONE }
    }

    pub const fn char(c: char) -> Self {
        Self::plain(KeyCode::Char(c))
    }

    pub const fn ctrl(c: char) -> Self {
        Self { code: KeyCode::Char(c), with: KeyModifiers::CONTROL }
    }

    pub const fn alt(c: char) -> Self {
        Self { code: KeyCode::Char(c), with: KeyModifiers::ALT }
    }

    /// What it writes, where it writes.
    pub fn written(self) -> Option<char> {
        match self.code {
            KeyCode::Char(c) if self.with.is_empty() => Some(c),
            _ => None,
        }
    }
}

impl From<KeyEvent> for Key {
    fn from(event: KeyEvent) -> Self {
        let mut with =
            event.modifiers & (KeyModifiers::CONTROL | KeyModifiers::ALT | KeyModifiers::SHIFT);
        let mut code = event.code;
        match code {
            // The letter tells already.
            KeyCode::Char(c) => {
                with.remove(KeyModifiers::SHIFT);
                if with.contains(KeyModifiers::CONTROL) {
                    code = KeyCode::Char(c.to_ascii_lowercase());
                }
            }
            KeyCode::BackTab => with.remove(KeyModifiers::SHIFT),
            _ => {}
        }
        Self { code, with }
    }
}

/// A key's name is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no key; keys are like a, ctrl-k, alt-1, f1, pgup, esc, tab, shift-tab, space")]
pub struct NoKey(String);

const NAMES: [(&str, KeyCode); 15] = [
    ("enter", KeyCode::Enter),
    ("esc", KeyCode::Esc),
    ("tab", KeyCode::Tab),
    ("shift-tab", KeyCode::BackTab),
    ("space", KeyCode::Char(' ')),
    ("backspace", KeyCode::Backspace),
    ("delete", KeyCode::Delete),
    ("up", KeyCode::Up),
    ("down", KeyCode::Down),
    ("left", KeyCode::Left),
    ("right", KeyCode::Right),
    ("home", KeyCode::Home),
    ("end", KeyCode::End),
    ("pgup", KeyCode::PageUp),
    ("pgdn", KeyCode::PageDown),
];

impl FromStr for Key {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let no_key = || NoKey(text.to_owned());
        let mut rest = text;
        let mut with = KeyModifiers::NONE;
        loop {
            let lower = rest.to_ascii_lowercase();
            if let Some((_, code)) = NAMES.iter().find(|(name, _)| *name == lower) {
                return Ok(Self { code: *code, with });
            }
            let number = lower.strip_prefix('f').and_then(|number| number.parse::<u8>().ok());
            if let Some(number) = number.filter(|number| (1..=12).contains(number)) {
                return Ok(Self { code: KeyCode::F(number), with });
            }
            let mut chars = rest.chars();
            if let (Some(c), None) = (chars.next(), chars.next()) {
                // As terminals tell it: Ctrl has no capitals.
                let ctrl = with.contains(KeyModifiers::CONTROL);
                let c = if ctrl { c.to_ascii_lowercase() } else { c };
                return Ok(Self { code: KeyCode::Char(c), with });
            }
            let (modifier, more) = rest.split_once('-').ok_or_else(no_key)?;
            with |= match modifier.to_ascii_lowercase().as_str() {
                "ctrl" => KeyModifiers::CONTROL,
                "alt" => KeyModifiers::ALT,
                "shift" => KeyModifiers::SHIFT,
                _ => return Err(no_key()),
            };
            rest = more;
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = [
            (KeyModifiers::CONTROL, "Ctrl-"),
            (KeyModifiers::ALT, "Alt-"),
            (KeyModifiers::SHIFT, "Shift-"),
        ];
        for (modifier, name) in held {
            if self.with.contains(modifier) {
                f.write_str(name)?;
            }
        }
        match self.code {
            KeyCode::PageUp => f.write_str("PgUp"),
            KeyCode::PageDown => f.write_str("PgDn"),
            KeyCode::BackTab => f.write_str("Shift-Tab"),
            KeyCode::F(number) => write!(f, "F{number}"),
            KeyCode::Char(' ') => f.write_str("Space"),
            KeyCode::Char(c) if self.with.is_empty() => write!(f, "{c}"),
            KeyCode::Char(c) => write!(f, "{}", c.to_ascii_uppercase()),
            code => write!(f, "{code:?}"),
        }
    }
}

/// Makes the enum, its names for `tui.toml`, and the sentences of the help from one table.
macro_rules! actions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $says:literal;)*) => {
        /// What a key can do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Action {
            $(#[doc = $says] $variant,)*
        }

        impl Action {
            /// All of them, in the order of the help.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in `tui.toml`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it does, in words.
            pub fn says(self) -> &'static str {
                match self { $(Self::$variant => $says,)* }
            }
        }
    };
}

actions! {
    Chat1 = "chat-1", "the first chat of the list";
    Chat2 = "chat-2", "the second chat";
    Chat3 = "chat-3", "the third chat";
    Chat4 = "chat-4", "the fourth chat";
    Chat5 = "chat-5", "the fifth chat";
    Chat6 = "chat-6", "the sixth chat";
    Chat7 = "chat-7", "the seventh chat";
    Chat8 = "chat-8", "the eighth chat";
    Chat9 = "chat-9", "the ninth chat";
    NextChat = "next-chat", "next chat";
    PreviousChat = "previous-chat", "previous chat";
    NextUnread = "next-unread", "next unread chat, mentions first";
    GoTo = "go-to", "go to anything";
    Complete = "complete", "complete a name; else next pane";
    NextPane = "next-pane", "next pane";
    PreviousPane = "previous-pane", "previous pane";
    PageUp = "page-up", "a page up";
    PageDown = "page-down", "a page down";
    HalfPageUp = "half-page-up", "half a page up";
    HalfPageDown = "half-page-down", "half a page down";
    Oldest = "oldest", "to the beginning of what is loaded";
    Newest = "newest", "to the newest message";
    Up = "up", "up: the message above, the line above";
    Down = "down", "down";
    Search = "search", "search in this chat";
    Accept = "accept", "send; open; accept an invitation; retry what failed";
    NewLine = "new-line", "a new line in the message";
    Back = "back", "back; drafts stay";
    Type = "type", "to the input";
    Command = "command", "to the input, with a slash";
    Reply = "reply", "reply to the message";
    React = "react", "react to the message";
    Copy = "copy", "copy the message";
    Info = "info", "about the message";
    OpenLink = "open-link", "open the message's link, save its file";
    Edit = "edit", "edit your message";
    Delete = "delete", "delete your message";
    Help = "help", "all keys";
    Redraw = "redraw", "draw everything anew";
    Quit = "quit", "quit";
}

impl FromStr for Action {
    type Err = NoAction;

    fn from_str(text: &str) -> Result<Self, NoAction> {
        let found = Self::ALL.iter().find(|action| action.name() == text);
        found.copied().ok_or_else(|| NoAction(text.to_owned()))
    }
}

/// An action's name is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no action; F1 lists them")]
pub struct NoAction(String);

impl Action {
    /// The place in the list that it goes to.
    pub fn chat_number(self) -> Option<usize> {
        let chats = [
            Self::Chat1,
            Self::Chat2,
            Self::Chat3,
            Self::Chat4,
            Self::Chat5,
            Self::Chat6,
            Self::Chat7,
            Self::Chat8,
            Self::Chat9,
        ];
        chats.iter().position(|chat| *chat == self)
    }
}

/// The keys to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    #[default]
    Default,
    /// Opens for reading; `i` types, `Esc` reads again.
    Vim,
}

/// The two tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMap {
    pub preset: Preset,
    /// Everywhere.
    pub anywhere: HashMap<Key, Action>,
    /// While nothing is being typed; asked first.
    pub reading: HashMap<Key, Action>,
}

impl KeyMap {
    pub fn new(preset: Preset) -> Self {
        let mut map = Self { preset, anywhere: anywhere(), reading: reading() };
        if preset == Preset::Vim {
            map.reading.extend(vim());
        }
        map
    }

    /// What a key does, if anything.
    pub fn action(&self, key: Key, reading: bool) -> Option<Action> {
        let first = reading.then(|| self.reading.get(&key)).flatten();
        first.or_else(|| self.anywhere.get(&key)).copied()
    }

    /// The keys of an action, in words.
    pub fn keys_of(&self, action: Action) -> String {
        let of = |table: &HashMap<Key, Action>| {
            let mut keys: Vec<_> = table
                .iter()
                .filter(|(_, does)| **does == action)
                .map(|(key, _)| key.to_string())
                .collect();
            keys.sort();
            keys
        };
        let mut keys = of(&self.anywhere);
        keys.extend(
            of(&self.reading).into_iter().filter(|key| !keys.contains(key)).collect::<Vec<_>>(),
        );
        keys.join(", ")
    }
}

fn anywhere() -> HashMap<Key, Action> {
    let mut table: HashMap<Key, Action> = [
        (Key::ctrl('n'), Action::NextChat),
        (Key::ctrl('p'), Action::PreviousChat),
        (Key::alt('a'), Action::NextUnread),
        (Key::ctrl('k'), Action::GoTo),
        (Key::ctrl('f'), Action::Search),
        (Key::ctrl('l'), Action::Redraw),
        (Key::ctrl('q'), Action::Quit),
        (Key::ctrl('c'), Action::Quit),
        (Key::ctrl('j'), Action::NewLine),
        (Key { code: KeyCode::Enter, with: KeyModifiers::ALT }, Action::NewLine),
        (Key::plain(KeyCode::Tab), Action::Complete),
        (Key::plain(KeyCode::BackTab), Action::PreviousPane),
        (Key::plain(KeyCode::PageUp), Action::PageUp),
        (Key::plain(KeyCode::PageDown), Action::PageDown),
        (Key::plain(KeyCode::End), Action::Newest),
        (Key::plain(KeyCode::Up), Action::Up),
        (Key::plain(KeyCode::Down), Action::Down),
        (Key::plain(KeyCode::Enter), Action::Accept),
        (Key::plain(KeyCode::Esc), Action::Back),
        (Key::plain(KeyCode::F(1)), Action::Help),
    ]
    .into();
    let chats = ('1'..='9').map(Key::alt);
    table.extend(chats.zip(Action::ALL.iter().copied()));
    table
}

fn reading() -> HashMap<Key, Action> {
    [
        (Key::char('r'), Action::Reply),
        (Key::char('+'), Action::React),
        (Key::char('c'), Action::Copy),
        (Key::char('i'), Action::Info),
        (Key::char('o'), Action::OpenLink),
        (Key::char('e'), Action::Edit),
        (Key::char('d'), Action::Delete),
        (Key::char('?'), Action::Help),
        (Key::char('/'), Action::Command),
        (Key::plain(KeyCode::Home), Action::Oldest),
    ]
    .into()
}

fn vim() -> HashMap<Key, Action> {
    [
        (Key::char('j'), Action::Down),
        (Key::char('k'), Action::Up),
        (Key::char('g'), Action::Oldest),
        (Key::char('G'), Action::Newest),
        (Key::ctrl('u'), Action::HalfPageUp),
        (Key::ctrl('d'), Action::HalfPageDown),
        (Key::ctrl('b'), Action::PageUp),
        (Key::char('h'), Action::PreviousPane),
        (Key::char('l'), Action::NextPane),
        (Key::char('i'), Action::Type),
        (Key::char('a'), Action::Type),
        (Key::char('K'), Action::Info),
        (Key::char('y'), Action::Copy),
        (Key::char('/'), Action::Search),
        (Key::char(':'), Action::Command),
    ]
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        for text in ["Ctrl-K", "Alt-1", "F1", "PgUp", "Esc", "Shift-Tab", "Space", "?", "G", "-"] {
            assert_eq!(text.parse::<Key>().unwrap().to_string(), text);
        }
        assert_eq!("alt-ctrl-x".parse::<Key>().unwrap().to_string(), "Ctrl-Alt-X");
        for bad in ["", "hyper-x", "f99", "ctrl-"] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
    }

    #[test]
    fn letters_act_only_while_nothing_is_typed() {
        let map = KeyMap::new(Preset::Default);
        assert_eq!(map.action(Key::char('r'), true), Some(Action::Reply));
        assert_eq!(map.action(Key::char('r'), false), None);
        assert_eq!(map.action(Key::alt('9'), false), Some(Action::Chat9));
        let vim = KeyMap::new(Preset::Vim);
        assert_eq!(vim.action(Key::char('i'), true), Some(Action::Type));
    }

    #[test]
    fn no_letter_that_would_be_typed_is_bound_everywhere() {
        assert!(anywhere().keys().all(|key| key.written().is_none()));
    }
}
