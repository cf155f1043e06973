//! Draws an [`App`]: reads it and nothing else. The same state gives the same screen.

mod details;
pub mod layout;
mod list;
mod over;
pub mod place;
mod status;
pub mod timeline;

use jiff::{Timestamp, tz::TimeZone};
use ratatui::{
    Frame,
    layout::{Position, Rect},
    style::Style,
    text::{Line, Span},
    widgets::{Block, Paragraph},
};

use crate::{
    app::{App, Pane},
    text,
};

/// Draws the whole screen.
pub fn draw(app: &App, frame: &mut Frame<'_>) {
    let layout = app.layout();
    if layout.too_small {
        frame.render_widget(Paragraph::new("too small"), frame.area());
        return;
    }
    status::draw(app, frame, layout.status);
    if let Some(area) = layout.list {
        list::draw(app, frame, area);
    }
    if let Some(area) = layout.timeline {
        match app.place {
            Some(place) => place::draw(app, frame, place, area, layout.messages),
            None => timeline::draw(app, frame, area, layout.messages, layout.banner),
        }
    }
    if let Some(area) = layout.details {
        details::draw(app, frame, area);
    }
    let cursor = input(app, frame, layout.input);
    notices(app, frame, layout.notices);
    let cursor = match &app.overlay {
        Some(overlay) => over::draw(app, frame, overlay),
        None => cursor.filter(|_| app.focus == Pane::Input),
    };
    if let Some(cursor) = cursor {
        frame.set_cursor_position(cursor);
    }
}

/// What is being written, and beside it what lies below and where help is.
fn input(app: &App, frame: &mut Frame<'_>, area: Rect) -> Option<Position> {
    let theme = &app.settings.theme;
    let editor = app.draft().active();
    let (lines, (line, column)) = editor.laid_out(layout::input_columns(area.width));
    let height = usize::from(area.height);
    let from = (line + 1).saturating_sub(height);
    let prompt = if app.focus == Pane::Input { theme.focus() } else { theme.quiet() };
    let mut shown: Vec<Line<'_>> = lines
        .iter()
        .skip(from)
        .take(height)
        .enumerate()
        .map(|(at, text)| {
            let mark = if at == 0 && from == 0 { " > " } else { "   " };
            Line::from(vec![Span::styled(mark, prompt), Span::raw(text.clone())])
        })
        .collect();
    if editor.is_empty() {
        shown = vec![Line::from(vec![
            Span::styled(" > ", prompt),
            Span::styled(hint(app), theme.quiet()),
        ])];
    }
    let used = shown.first().map_or(0, Line::width);
    frame.render_widget(Paragraph::new(shown), area);
    let beside = beside(app);
    let wide = text::width(&beside);
    let room = usize::from(area.width);
    if used + wide + 2 <= room {
        let x = area.x + u16::try_from(room - wide - 1).unwrap_or(0);
        let beside_area = Rect { x, width: area.right() - x, height: 1, ..area };
        frame.render_widget(Paragraph::new(Span::styled(beside, theme.quiet())), beside_area);
    }
    let x = u16::try_from(column + 3).unwrap_or(u16::MAX);
    let y = u16::try_from(line - from.min(line)).unwrap_or(0);
    Some(Position {
        x: area.x.saturating_add(x).min(area.right().saturating_sub(1)),
        y: area.y + y,
    })
}

fn hint(app: &App) -> &'static str {
    if app.is_reading() {
        return match app.focus {
            Pane::Timeline if app.open.as_ref().is_some_and(|open| open.selected.is_some()) => {
                "r reply  + react  c copy  i info  o open  e edit  d delete  Esc back"
            }
            Pane::List => "Up and Down choose, Enter opens, Esc back",
            Pane::Details => "Up and Down choose, Enter compares safety numbers, Esc back",
            Pane::Timeline if app.place.is_some() => {
                "Up and Down scroll, Ctrl-L reads it again, Esc back"
            }
            _ => "i types, ? lists all keys",
        };
    }
    if app.place.is_some() {
        return "Up and Down scroll, Ctrl-L reads it again, / for commands";
    }
    "type a message, / for commands"
}

fn beside(app: &App) -> String {
    let below = app.open.as_ref().map_or(0, |open| open.below);
    let away = app.open.as_ref().is_some_and(|open| !open.at_end());
    let more = match (below, away) {
        (0, false) => String::new(),
        (0, true) => "more below  [End]     ".to_owned(),
        (below, _) => format!("{below} new below  [End]     "),
    };
    let help = app.settings.keys.keys_of(crate::keys::Action::Help);
    let key = help.split(", ").next().unwrap_or("F1").to_owned();
    format!("{more}{key} help")
}

/// What is said, and what the message that is being written is about.
fn notices(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let lines = layout::notices(app, area.width);
    frame.render_widget(Paragraph::new(lines), area);
}

/// A box with a title; told to be in use by words too, for there may be no colours.
fn pane(app: &App, title: &str, pane: Pane, width: u16) -> Block<'static> {
    let theme = &app.settings.theme;
    let in_use = app.focus == pane;
    let style = if in_use { theme.focus() } else { theme.quiet() };
    let title = text::cut(title, usize::from(width).saturating_sub(4));
    Block::bordered()
        .border_style(if in_use { theme.focus() } else { theme.quiet() })
        .title(Span::styled(format!(" {title} "), style))
}

/// Pads a line to its whole width in one style, so that what is chosen is seen as a bar.
fn bar(line: Line<'static>, width: usize, style: Style) -> Line<'static> {
    let used = line.width();
    let mut line = line;
    line.spans.push(Span::raw(" ".repeat(width.saturating_sub(used))));
    line.patch_style(style)
}

/// The time of day.
pub fn clock(zone: &TimeZone, at_ms: u64) -> String {
    zoned(zone, at_ms).strftime("%H:%M").to_string()
}

/// The day.
pub fn day(zone: &TimeZone, at_ms: u64) -> String {
    zoned(zone, at_ms).strftime("%a %-d %b %Y").to_string()
}

fn zoned(zone: &TimeZone, at_ms: u64) -> jiff::Zoned {
    let at = i64::try_from(at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.unwrap_or_default().to_zoned(zone.clone())
}
