//! The feed and the services, as rows.

use ratatui::{
    Frame,
    layout::Rect,
    style::{Modifier, Style},
    text::{Line, Span},
    widgets::Paragraph,
};
use relay_chat::views::{PostView, ServiceView};

use super::{clock, day, pane};
use crate::{
    app::{App, Pane},
    backend::{Found, Place},
    text,
};

/// Lines of one post that are shown.
const MAX_LINES: usize = 100;
/// Columns before what belongs to the line above.
const INDENT: &str = "  ";

pub fn draw(app: &App, frame: &mut Frame<'_>, place: Place, area: Rect, inner: Rect) {
    let focus = if app.focus == Pane::Input { Pane::Input } else { Pane::Timeline };
    frame.render_widget(pane(app, &title(app, place), focus, area.width), area);
    let lines: Vec<_> = rows(app, place, inner.width)
        .into_iter()
        .skip(app.sheet(place).from)
        .take(usize::from(inner.height))
        .collect();
    frame.render_widget(Paragraph::new(lines), inner);
}

fn title(app: &App, place: Place) -> String {
    let name = place.name();
    let count = match &app.sheet(place).found {
        Some(Found::Posts(posts)) => match posts.len() {
            1 => " · 1 post".into(),
            many => format!(" · {many} posts"),
        },
        Some(Found::Services(services)) => format!(" · {}", services.len()),
        None => String::new(),
    };
    format!("{name}{count}")
}

/// All that is known of a place, in rows of this width.
pub fn rows(app: &App, place: Place, width: u16) -> Vec<Line<'static>> {
    let columns = usize::from(width);
    let sheet = app.sheet(place);
    let theme = &app.settings.theme;
    let mut rows = Vec::new();
    let mut say = |text: &str, style: Style| {
        rows.extend(text::wrap(text, columns).into_iter().map(|line| Line::styled(line, style)));
    };
    if let Some(why) = sheet.why.as_ref().filter(|_| !sheet.asked) {
        say(&format!("! {} - Ctrl-L tries again", text::clean(why)), theme.bad());
    } else if sheet.found.is_none() {
        say("reading …", theme.quiet());
    }
    match &sheet.found {
        None => {}
        Some(Found::Posts(posts)) if posts.is_empty() => {
            say("No posts yet, of yours or of whom you follow.", Style::new());
            say("relay social post 'TEXT'   writes one", theme.quiet());
            say("relay social follow KEY    follows somebody", theme.quiet());
        }
        Some(Found::Services(services)) if services.is_empty() => {
            say("There is no service to call here.", Style::new());
            say("relay expose NAME --http URL   makes one", theme.quiet());
            say("relay run FILE.rl              runs a script that is one", theme.quiet());
        }
        Some(Found::Posts(posts)) => {
            rows.extend(posts.iter().flat_map(|it| post(app, it, columns)));
        }
        Some(Found::Services(services)) => {
            rows.extend(services.iter().flat_map(|it| service(app, it, columns)));
        }
    }
    rows
}

/// Who and when, then the words.
fn post(app: &App, post: &PostView, columns: usize) -> Vec<Line<'static>> {
    let theme = &app.settings.theme;
    let zone = &app.settings.zone;
    let (name, style) = match &post.from {
        _ if post.own => (text::clean(&app.nick), theme.own()),
        Some(user) => (text::clean(&post.from_name), theme.person(user.as_bytes())),
        None => (text::clean(&post.from_name), theme.quiet()),
    };
    let at = post.at_ms.map(|at| format!("{} {}", day(zone, at), clock(zone, at)));
    let at = at.unwrap_or_else(|| "undated".into());
    let name = text::cut(&name, columns.saturating_sub(text::width(&at) + 2));
    let mut rows = vec![Line::from(vec![
        Span::styled(name, style),
        Span::styled(format!("  {at}"), theme.quiet()),
    ])];
    let words = text::clean_lines(&post.text);
    let more = words.len().saturating_sub(MAX_LINES);
    rows.extend(words.iter().take(MAX_LINES).flat_map(|line| indented(line, columns)));
    if more > 0 {
        rows.push(Line::styled(format!("{INDENT}… {more} more lines"), theme.quiet()));
    }
    rows.push(Line::default());
    rows
}

/// Whether it answers, what it is called, and what can be called.
fn service(app: &App, service: &ServiceView, columns: usize) -> Vec<Line<'static>> {
    let theme = &app.settings.theme;
    let (mark, state, style) = if service.is_healthy {
        ("●", "answers", theme.good())
    } else {
        ("○", "does not answer", theme.bad())
    };
    let room = columns.saturating_sub(text::width(state) + 5);
    let name = format!("{} {}", text::clean(&service.name), text::clean(&service.version));
    let mut rows = vec![Line::from(vec![
        Span::styled(format!("{mark} "), style),
        Span::styled(text::cut(name.trim_end(), room), Style::new().add_modifier(Modifier::BOLD)),
        Span::styled(format!("  {state}"), style),
    ])];
    if !service.methods.is_empty() {
        let methods = text::clean(&service.methods.join(", "));
        rows.extend(indented(&methods, columns));
    }
    rows.push(Line::default());
    rows
}

fn indented(line: &str, columns: usize) -> Vec<Line<'static>> {
    let wrapped = text::wrap(line, columns.saturating_sub(INDENT.len()));
    wrapped.into_iter().map(|text| Line::from(format!("{INDENT}{text}"))).collect()
}
