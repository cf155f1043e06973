//! The list of chats.

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
    app::{App, Pane},
    text,
};

pub fn draw(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let block = pane(app, "Chats", Pane::List, area.width);
    let inner = block.inner(area);
    let width = usize::from(inner.width);
    let listed = app.listed();
    let open = app.open.as_ref().map(|open| open.conv_id.as_str());
    let chosen = match app.focus {
        Pane::List => Some(app.cursor),
        _ => listed.iter().position(|chat| Some(chat.conv_id.as_str()) == open),
    };
    let height = usize::from(inner.height);
    let from = chosen.map_or(0, |at| (at + 1).saturating_sub(height));
    let mut lines: Vec<Line<'_>> = listed
        .iter()
        .enumerate()
        .skip(from)
        .take(height)
        .map(|(at, chat)| {
            let line = line(app, chat, width);
            if Some(at) == chosen { bar(line, width, app.settings.theme.selected()) } else { line }
        })
        .collect();
    if app.loaded && listed.is_empty() {
        lines = text::wrap("No chats yet", width).into_iter().map(Line::from).collect();
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
