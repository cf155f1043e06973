//! What colours tell is also told without them.

use ratatui::style::Color;
use relay_tui::{
    Settings,
    theme::{Depth, Theme},
};

use super::{desk::Desk, played::Played};

fn colours(depth: Depth) -> Vec<Color> {
    let settings = Settings { theme: Theme::new(depth), ..Settings::default() };
    let desk = Desk::with(&Played::usual(), settings, 120, 30);
    let buffer = desk.buffer();
    let mut all: Vec<_> = buffer.content().iter().flat_map(|cell| [cell.fg, cell.bg]).collect();
    all.retain(|colour| *colour != Color::Reset);
    all
}

#[test]
fn each_depth_keeps_to_its_colours() {
    assert!(colours(Depth::None).is_empty());
    assert!(!colours(Depth::Sixteen).is_empty());
    assert!(
        colours(Depth::Sixteen)
            .iter()
            .all(|colour| !matches!(colour, Color::Indexed(_) | Color::Rgb(..)))
    );
    assert!(colours(Depth::Full).iter().all(|colour| matches!(colour, Color::Indexed(_))));
}

#[test]
fn the_same_words_are_there_without_colours() {
    let screen = |depth| {
        let settings = Settings { theme: Theme::new(depth), ..Settings::default() };
        Desk::with(&Played::usual(), settings, 120, 30).screen()
    };
    assert_eq!(screen(Depth::None), screen(Depth::Full));
}
