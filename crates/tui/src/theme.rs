//! Colours, for terminals with 256, 16 and none. What a colour tells is also told by a letter, a symbol or a word.

use ratatui::style::{Color, Modifier, Style};
use serde::Deserialize;

/// How many colours there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Depth {
    #[serde(rename = "256")]
    Full,
    #[serde(rename = "16")]
    Sixteen,
    #[serde(rename = "none")]
    None,
}

/// What the environment and the flags say about colours.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wishes<'a> {
    /// `--color`: `Some(true)` always, `Some(false)` never.
    pub flag: Option<bool>,
    /// `NO_COLOR` has a value.
    pub no_color: bool,
    pub term: Option<&'a str>,
    pub colorterm: Option<&'a str>,
}

impl Depth {
    /// The colours to use: `--color never`, then `NO_COLOR` where the flag leaves it open, then what the terminal says of itself.
    pub fn choose(wishes: Wishes<'_>) -> Self {
        let term = wishes.term.unwrap_or("dumb");
        let none = match wishes.flag {
            Some(wanted) => !wanted,
            None => wishes.no_color || term == "dumb",
        };
        if none {
            Self::None
        } else if term.contains("256color") || wishes.colorterm.is_some_and(|it| !it.is_empty()) {
            Self::Full
        } else {
            Self::Sixteen
        }
    }
}

/// The styles, by what they mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    depth: Depth,
}

impl Theme {
    pub fn new(depth: Depth) -> Self {
        Self { depth }
    }

    pub fn depth(&self) -> Depth {
        self.depth
    }

    fn color(&self, full: u8, sixteen: Color) -> Style {
        match self.depth {
            Depth::Full => Style::new().fg(Color::Indexed(full)),
            Depth::Sixteen => Style::new().fg(sixteen),
            Depth::None => Style::new(),
        }
    }

    /// Times, borders, what is only beside the point.
    pub fn quiet(&self) -> Style {
        match self.depth {
            Depth::None => Style::new().add_modifier(Modifier::DIM),
            _ => self.color(245, Color::DarkGray),
        }
    }

    /// The border and title of the pane that keys go to.
    pub fn focus(&self) -> Style {
        self.color(81, Color::Cyan).add_modifier(Modifier::BOLD)
    }

    /// The line that keys are about.
    pub fn selected(&self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub fn unread(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub fn mention(&self) -> Style {
        self.color(214, Color::Yellow).add_modifier(Modifier::BOLD)
    }

    pub fn own(&self) -> Style {
        self.color(114, Color::Green)
    }

    /// Notices of the conversation.
    pub fn notice(&self) -> Style {
        self.quiet().add_modifier(Modifier::ITALIC)
    }

    pub fn good(&self) -> Style {
        self.color(114, Color::Green)
    }

    pub fn wait(&self) -> Style {
        self.color(179, Color::Yellow)
    }

    pub fn bad(&self) -> Style {
        self.color(203, Color::Red).add_modifier(Modifier::BOLD)
    }

    /// A person's own colour, always the same one.
    pub fn person(&self, key: &[u8; 32]) -> Style {
        const FULL: [u8; 10] = [75, 110, 140, 173, 180, 109, 150, 176, 216, 152];
        const SIXTEEN: [Color; 4] = [Color::Blue, Color::Magenta, Color::Cyan, Color::LightBlue];
        let n = usize::from(key[0]);
        self.color(FULL[n % FULL.len()], SIXTEEN[n % SIXTEEN.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_color_wins_over_auto_and_a_flag_over_no_color() {
        let term = Wishes { term: Some("xterm-256color"), ..Wishes::default() };
        assert_eq!(Depth::choose(term), Depth::Full);
        assert_eq!(Depth::choose(Wishes { no_color: true, ..term }), Depth::None);
        assert_eq!(Depth::choose(Wishes { no_color: true, flag: Some(true), ..term }), Depth::Full);
        assert_eq!(Depth::choose(Wishes { flag: Some(false), ..term }), Depth::None);
        assert_eq!(
            Depth::choose(Wishes { term: Some("linux"), ..Wishes::default() }),
            Depth::Sixteen
        );
        assert_eq!(Depth::choose(Wishes::default()), Depth::None);
    }
}
