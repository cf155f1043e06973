//! The list: chats, and after them what else the relay has.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::Paragraph,
};
use relay_chat::views::{ConversationState, ConversationView};

use super::{bar, pane};
use crate::{
    app::{App, Entry, Pane},
    backend::Place,
    text,
};

pub fn draw(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let block = pane(app, "Chats", Pane::List, area.width);
    let inner = block.inner(area);
    let width = usize::from(inner.width);
    let entries = app.entries();
    let chosen = match app.focus {
        Pane::List => Some(app.cursor),
        _ => app.shown_entry(),
    };
    let lines = entries.iter().enumerate().map(|(at, entry)| {
        let line = match entry {
            Entry::Chat(chat) => line(app, chat, width),
            Entry::Place(place) => Line::from(format!("   {}", place.name())),
        };
        if Some(at) == chosen { bar(line, width, app.settings.theme.selected()) } else { line }
    });
    let mut lines: Vec<Line<'_>> = lines.collect();
    // Chats scroll; what comes after them stays in sight, where there is room for both.
    let chats = entries.len() - Place::ALL.len();
    let height = usize::from(inner.height);
    let room = if height > 2 * Place::ALL.len() { height - Place::ALL.len() } else { height };
    let end = if room < height { chats } else { lines.len() };
    let last = chosen.map_or(0, |at| at + 1).min(end);
    let from = last.saturating_sub(room);
    lines.drain((from + room).min(end)..end);
    lines.drain(..from);
    if app.loaded && chats == 0 {
        let none = text::wrap("No chats yet", width);
        lines.splice(
            ..0,
            none.into_iter().map(|text| Line::styled(text, app.settings.theme.quiet())),
        );
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// A mark, the name, and what is new in it.
fn line(app: &App, chat: &ConversationView, width: usize) -> Line<'static> {
    let theme = &app.settings.theme;
    let (mark, style) = match chat {
        chat if chat.mentions > 0 => ("!", theme.mention()),
        chat if matches!(chat.state, ConversationState::Invited { .. }) => ("?", theme.mention()),
        chat if matches!(chat.state, ConversationState::Stuck { .. }) => ("x", theme.bad()),
        chat if chat.unread > 0 && !chat.muted => ("*", theme.unread()),
        chat if matches!(chat.state, ConversationState::Removed | ConversationState::Left) => {
            ("-", theme.quiet())
        }
        chat if chat.muted => ("m", theme.quiet()),
        chat if chat.pinned => ("^", Style::new()),
        _ => (" ", Style::new()),
    };
    let written = app.draft_of(&chat.conv_id).is_some_and(crate::app::Draft::has_words);
    let open = app.open.as_ref().is_some_and(|open| open.conv_id == chat.conv_id);
    let count = match chat.unread {
        0 if matches!(chat.state, ConversationState::Invited { .. }) => "invite".to_owned(),
        0 if chat.waiting > 0 => format!("{} wait", chat.waiting),
        0 if written && !open => "draft".to_owned(),
        0 => String::new(),
        1_000.. => "999+".to_owned(),
        unread => unread.to_string(),
    };
    let room = width.saturating_sub(3 + text::width(&count) + usize::from(!count.is_empty()));
    let name = text::fit(&text::clean(&chat.name), room);
    let mut spans = vec![Span::styled(format!(" {mark} {name}"), style)];
    if !count.is_empty() {
        spans.push(Span::styled(format!(" {count}"), style));
    }
    Line::from(spans)
}
