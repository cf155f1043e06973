//! `tui.toml`: what a person changes about the screen.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use serde::Deserialize;

use crate::{
    backend::Presence,
    keys::{Action, Key, KeyMap, Preset},
    theme::{Depth, Theme},
};

/// How the screen behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    pub keys: KeyMap,
    pub theme: Theme,
    /// Rings on a mention and on a direct message.
    pub bell: bool,
    /// Hands mentions to the terminal's notifications (OSC 9).
    pub notify: bool,
    /// How this user appears from the start.
    pub presence: Presence,
    /// Of the clock times.
    pub zone: TimeZone,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            keys: KeyMap::new(Preset::Default),
            theme: Theme::new(Depth::Full),
            bell: true,
            notify: true,
            presence: Presence::Online,
            zone: TimeZone::UTC,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    preset: Preset,
    color: Option<Depth>,
    #[serde(default = "yes")]
    bell: bool,
    #[serde(default = "yes")]
    notify: bool,
    #[serde(default)]
    presence: Presence,
    #[serde(default)]
    keys: BTreeMap<String, String>,
    #[serde(default)]
    reading: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

/// All that is wrong with a `tui.toml`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Wrong(pub Vec<String>);

impl Settings {
    /// Reads a `tui.toml`; `depth` is what the terminal can do and the user wants.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn read(text: &str, depth: Depth, zone: TimeZone) -> Result<Self, Wrong> {
        let file: File =
            toml::from_str(text).map_err(|error| Wrong(vec![error.message().to_owned()]))?;
        let mut keys = KeyMap::new(file.preset);
        let mut wrong = Vec::new();
        for (table, given) in [(&mut keys.anywhere, &file.keys), (&mut keys.reading, &file.reading)]
        {
            for (key, action) in given {
                match (key.parse::<Key>(), action.as_str()) {
                    (Err(error), _) => wrong.push(error.to_string()),
                    (Ok(key), "none") => {
                        table.remove(&key);
                    }
                    (Ok(key), action) => match action.parse::<Action>() {
                        Ok(action) => {
                            table.insert(key, action);
                        }
                        Err(error) => wrong.push(error.to_string()),
                    },
                }
            }
        }
        for key in keys.anywhere.keys().filter(|key| key.written().is_some()) {
            wrong.push(format!(
                "[keys]: '{key}' could not be typed any more; put it under [reading]"
            ));
        }
        if !wrong.is_empty() {
            wrong.sort();
            return Err(Wrong(wrong));
        }
        // A file may ask for less than the terminal can do, never for colours that nobody wants.
        let depth =
            file.color.map_or(depth, |color| if depth == Depth::None { depth } else { color });
        Ok(Self {
            keys,
            theme: Theme::new(depth),
            bell: file.bell,
            notify: file.notify,
            presence: file.presence,
            zone,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, Wrong> {
        Settings::read(text, Depth::Full, TimeZone::UTC)
    }

    #[test]
    fn keys_can_be_moved_and_taken_away() {
        let text = "preset = \"vim\"\ncolor = \"16\"\n[keys]\n\"ctrl-g\" = \"go-to\"\n\"ctrl-k\" = \"none\"\n[reading]\nx = \"delete\"";
        let settings = read(text).unwrap();
        assert_eq!(settings.keys.action(Key::ctrl('g'), false), Some(Action::GoTo));
        assert_eq!(settings.keys.action(Key::ctrl('k'), false), None);
        assert_eq!(settings.keys.action(Key::char('x'), true), Some(Action::Delete));
        assert_eq!(settings.keys.action(Key::char('j'), true), Some(Action::Down));
        assert_eq!(settings.theme.depth(), Depth::Sixteen);
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let wrong = read("[keys]\nnonsense-x = \"quit\"\n\"ctrl-x\" = \"explode\"\nq = \"quit\"")
            .unwrap_err();
        assert_eq!(wrong.0.len(), 3, "{wrong}");
        assert!(read("colour = \"16\"").is_err());
    }

    #[test]
    fn no_colour_stays_no_colour() {
        let settings = Settings::read("color = \"256\"", Depth::None, TimeZone::UTC).unwrap();
        assert_eq!(settings.theme.depth(), Depth::None);
    }
}
