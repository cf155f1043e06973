//! What lies over the panes.

use ratatui::{
    Frame,
    layout::{Position, Rect},
    style::Style,
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph},
};
use relay_chat::views::SafetyNumber;

use super::{bar, clock, day};
use crate::{
    app::{App, Asking, Candidate, Overlay, Search},
    commands::COMMANDS,
    editor::Editor,
    keys::Action,
    text,
};

/// Draws it; gives where the cursor is, where something is typed.
pub fn draw(app: &App, frame: &mut Frame<'_>, overlay: &Overlay) -> Option<Position> {
    match overlay {
        Overlay::Help { from } => page(app, frame, "Help", &help(app), *from),
        Overlay::Page { title, lines, from } => page(app, frame, title, lines, *from),
        Overlay::GoTo { query, cursor } => return Some(go_to(app, frame, query, *cursor)),
        Overlay::Search(found) => return Some(search(app, frame, found)),
        Overlay::Ask(asking) => ask(app, frame, asking),
        Overlay::Verify(number) => verify(app, frame, number),
    }
    None
}

/// A box in the middle, emptied; gives its inside.
fn boxed(app: &App, frame: &mut Frame<'_>, title: &str, width: u16, height: u16) -> Rect {
    let all = frame.area();
    let width = width.min(all.width);
    let height = height.min(all.height);
    let area = Rect { x: (all.width - width) / 2, y: (all.height - height) / 2, width, height };
    let style = app.settings.theme.focus();
    let title = text::cut(&text::clean(title), usize::from(width).saturating_sub(4));
    let block =
        Block::bordered().border_style(style).title(Span::styled(format!(" {title} "), style));
    let inner = block.inner(area);
    frame.render_widget(Clear, area);
    frame.render_widget(block, area);
    inner
}

fn page(app: &App, frame: &mut Frame<'_>, title: &str, lines: &[String], from: usize) {
    let all = frame.area();
    let columns = usize::from(all.width.min(84)).saturating_sub(4);
    let wrapped: Vec<_> = lines.iter().flat_map(|line| text::wrap(line, columns)).collect();
    let height = u16::try_from(wrapped.len() + 3).unwrap_or(u16::MAX).min(all.height);
    let inner = boxed(app, frame, title, all.width.min(84), height);
    let seen = usize::from(inner.height.saturating_sub(1));
    let from = from.min(wrapped.len().saturating_sub(seen));
    let mut shown: Vec<_> =
        wrapped.iter().skip(from).take(seen).map(|line| Line::from(format!(" {line}"))).collect();
    let more = if from + seen < wrapped.len() { "PgDn: more   " } else { "" };
    shown.push(Line::styled(format!(" {more}Esc closes"), app.settings.theme.quiet()));
    frame.render_widget(Paragraph::new(shown), inner);
}

fn help(app: &App) -> Vec<String> {
    let keys = &app.settings.keys;
    let mut lines = vec!["Keys (tui.toml changes them)".to_owned()];
    let mut chats = false;
    for action in Action::ALL {
        let bound = keys.keys_of(*action);
        if bound.is_empty() {
            continue;
        }
        if action.chat_number().is_some() && bound.starts_with("Alt-") {
            if !chats {
                lines.push(format!("  {:<22}{}", "Alt-1 … Alt-9", "a chat of the list"));
            }
            chats = true;
            continue;
        }
        lines.push(format!("  {bound:<22}{}", action.says()));
    }
    lines.extend([
        String::new(),
        "In the input: Ctrl-A, Ctrl-E, Ctrl-W, Ctrl-U as in a shell; Ctrl-J or Alt-Enter a new line".to_owned(),
        "Up in an empty input selects a message; then single letters act on it".to_owned(),
        String::new(),
        "Commands".to_owned(),
    ]);
    lines.extend(COMMANDS.iter().map(|(name, arguments, says)| {
        let typed = format!("/{name} {arguments}");
        format!("  {typed:<38}{says}")
    }));
    lines.extend([
        "  //TEXT sends a line that begins with a slash".to_owned(),
        String::new(),
        "Marks in the list: ! you were mentioned  ? invitation  * unread  m muted  ^ pinned  x stuck  - over".to_owned(),
        "Messages: ○ not there yet  ✓ the relay has it  ! failed  ? cannot be read, and why".to_owned(),
    ]);
    lines
}

fn typed(app: &App, frame: &mut Frame<'_>, area: Rect, query: &Editor) -> Position {
    let columns = usize::from(area.width).saturating_sub(3).max(2);
    let (lines, (line, column)) = query.laid_out(columns);
    let shown = lines.get(line).cloned().unwrap_or_default();
    let spans = vec![Span::styled(" > ", app.settings.theme.focus()), Span::raw(shown)];
    frame.render_widget(
        Paragraph::new(Line::from(spans)),
        Rect { height: area.height.min(1), ..area },
    );
    let x = area.x.saturating_add(u16::try_from(column + 3).unwrap_or(0));
    Position { x: x.min(area.right().saturating_sub(1)), y: area.y }
}

fn below(area: Rect, rows: u16) -> Rect {
    let rows = rows.min(area.height);
    Rect { y: area.y + rows, height: area.height - rows, ..area }
}

fn go_to(app: &App, frame: &mut Frame<'_>, query: &Editor, cursor: usize) -> Position {
    let theme = &app.settings.theme;
    let inner = boxed(app, frame, "Go to", 60, 16);
    let at = typed(app, frame, inner, query);
    let area = below(inner, 1);
    let candidates = app.candidates(query.text());
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    let from = (cursor + 1).saturating_sub(height);
    let mut lines: Vec<_> = candidates
        .iter()
        .enumerate()
        .skip(from)
        .take(height)
        .map(|(n, candidate)| {
            let (name, what) = match candidate {
                Candidate::Chat { name, .. } => (name.clone(), "chat"),
                Candidate::Person { name, .. } => (name.clone(), "write to"),
                Candidate::Place(place) => (place.name().to_owned(), "look into"),
                Candidate::Command { name, says } => (format!("/{name}"), *says),
            };
            let name = text::fit(&name, width / 2);
            let line = Line::from(vec![
                Span::raw(format!(" {name} ")),
                Span::styled(text::cut(what, (width / 2).saturating_sub(3)), theme.quiet()),
            ]);
            if n == cursor { bar(line, width, theme.selected()) } else { line }
        })
        .collect();
    if candidates.is_empty() {
        lines.push(Line::from(" nothing is called like that"));
    }
    frame.render_widget(Paragraph::new(lines), area);
    at
}

fn search(app: &App, frame: &mut Frame<'_>, search: &Search) -> Position {
    let theme = &app.settings.theme;
    let all = frame.area();
    let title = match (&search.within, app.chat()) {
        (Some(_), Some(chat)) => format!("Search in {}", chat.name),
        _ => "Search in all chats".to_owned(),
    };
    let inner = boxed(
        app,
        frame,
        &title,
        all.width.saturating_sub(4).min(90),
        all.height.saturating_sub(4),
    );
    let at = typed(app, frame, inner, &search.query);
    let area = below(inner, 1);
    let (width, height) = (usize::from(area.width), usize::from(area.height).saturating_sub(1));
    let from = (search.cursor + 1).saturating_sub(height);
    let mut lines: Vec<_> = search
        .hits
        .iter()
        .enumerate()
        .skip(from)
        .take(height)
        .map(|(n, hit)| {
            let message = &hit.message;
            let zone = &app.settings.zone;
            let place = if search.within.is_none() {
                format!("{} ", text::clean(&hit.conv_name))
            } else {
                String::new()
            };
            let head = format!(
                " {} {} {place}{}: ",
                day(zone, message.at_ms),
                clock(zone, message.at_ms),
                text::clean(&message.from_name)
            );
            let words = match &message.body {
                relay_chat::views::MessageBody::File { file } => format!("[file] {}", file.name),
                relay_chat::views::MessageBody::Text { text } => text.clone(),
                _ => String::new(),
            };
            let room = width.saturating_sub(text::width(&head));
            let line = Line::from(vec![
                Span::styled(head, theme.quiet()),
                Span::raw(text::cut(&text::clean(&words), room)),
            ]);
            if n == search.cursor { bar(line, width, theme.selected()) } else { line }
        })
        .collect();
    let state = match search {
        Search { running: true, .. } => "searching …",
        Search { asked: None, .. } => {
            "type words, Enter searches; all of them have to be in a message"
        }
        Search { next: Some(_), hits, .. } if hits.is_empty() => {
            "nothing in the newest messages; PgDn goes on"
        }
        Search { next: Some(_), .. } => "Enter shows the message, PgDn looks further",
        Search { hits, .. } if hits.is_empty() => "nothing found",
        _ => "Enter shows the message",
    };
    lines.push(Line::styled(format!(" {state}"), theme.quiet()));
    frame.render_widget(Paragraph::new(lines), area);
    at
}

fn ask(app: &App, frame: &mut Frame<'_>, asking: &Asking) {
    let width = frame.area().width.min(60);
    let columns = usize::from(width).saturating_sub(4);
    let text: Vec<_> = asking.text.iter().flat_map(|line| text::wrap(line, columns)).collect();
    let height = u16::try_from(text.len() + asking.choices.len() + 3).unwrap_or(u16::MAX);
    let inner = boxed(app, frame, "Question", width, height);
    let mut lines: Vec<_> = text.into_iter().map(|text| Line::from(format!(" {text}"))).collect();
    lines.push(Line::default());
    for (at, choice) in asking.choices.iter().enumerate() {
        let enter = if at == 0 { " (Enter)" } else { "" };
        lines.push(Line::from(vec![
            Span::styled(format!("  {} ", choice.key), app.settings.theme.focus()),
            Span::raw(format!(" {}{enter}", choice.says)),
        ]));
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

fn verify(app: &App, frame: &mut Frame<'_>, number: &SafetyNumber) {
    let theme = &app.settings.theme;
    let name = text::clean(&number.name);
    let inner = boxed(app, frame, &format!("Verify {name}"), 52, 13);
    let columns = usize::from(inner.width).saturating_sub(2);
    let digits = text::clean(&number.digits);
    let groups: Vec<_> = digits.split(' ').collect();
    let mut lines = vec![Line::default()];
    for row in groups.chunks(4) {
        lines.push(Line::styled(
            format!("    {}", row.join("   ")),
            Style::new().add_modifier(ratatui::style::Modifier::BOLD),
        ));
    }
    lines.push(Line::default());
    let state = if number.verified { "✓ verified before." } else { "Not verified yet." };
    let text = format!(
        "{state} Compare with {name} by voice or face to face: /verify shows the same there."
    );
    lines.extend(text::wrap(&text, columns).into_iter().map(|text| Line::from(format!(" {text}"))));
    lines.push(Line::default());
    lines.push(Line::from(vec![
        Span::styled(" y", theme.focus()),
        Span::raw(" they are equal   "),
        Span::styled("n", theme.focus()),
        Span::raw(" they are not   "),
        Span::styled("Esc", theme.focus()),
        Span::raw(" later"),
    ]));
    frame.render_widget(Paragraph::new(lines), inner);
}
