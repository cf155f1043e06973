//! The line at the top: who, which relay, how it stands with it, the time.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::Paragraph,
};
use relay_chat::views::Connection;

use super::clock;
use crate::{app::App, backend::Presence, text};

pub fn draw(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let theme = &app.settings.theme;
    let width = usize::from(area.width);
    let time = clock(&app.settings.zone, app.now_ms);
    let (state, style) = connection(app);
    let online = matches!(app.connection, Connection::Online { .. });
    let seen = if online { format!("   {}", presence(app.presence)) } else { String::new() };
    let who = who(app);
    // What is wrong comes before who one is.
    let room = width.saturating_sub(text::width(&time) + 3);
    let state = text::cut(&state, room.saturating_sub(3));
    let right = text::width(&state) + text::width(&seen);
    let left = text::fit(&who, room.saturating_sub(right + 1));
    let line = Line::from(vec![
        Span::styled(format!(" {left}"), Style::new().add_modifier(ratatui::style::Modifier::BOLD)),
        Span::styled(state, style),
        Span::styled(seen, theme.good()),
        Span::raw(format!("  {time}")),
    ]);
    frame.render_widget(Paragraph::new(line), area);
}

fn who(app: &App) -> String {
    let Some(me) = &app.me else { return "Relay".into() };
    let relay = me.relay_id.as_deref().unwrap_or(&me.relay_url);
    format!("Relay  {}@{}", text::clean(&app.nick), text::clean(relay))
}

fn presence(presence: Presence) -> &'static str {
    match presence {
        Presence::Online => "● online",
        Presence::Invisible => "◌ invisible",
        Presence::Off => "○ not shown",
    }
}

fn connection(app: &App) -> (String, Style) {
    let theme = &app.settings.theme;
    match &app.connection {
        Connection::Connecting => ("connecting".into(), theme.wait()),
        Connection::Online { rtt_ms } => (format!("linked {rtt_ms} ms"), theme.good()),
        Connection::Offline { since_ms, retry_at_ms, .. } => {
            let since = clock(&app.settings.zone, *since_ms);
            let seconds = retry_at_ms.saturating_sub(app.now_ms).div_ceil(1_000);
            let again = if seconds == 0 {
                "trying again".into()
            } else {
                format!("trying again in {seconds} s")
            };
            let wait = match app.waiting() {
                0 => String::new(),
                1 => ", 1 message waits".into(),
                many => format!(", {many} messages wait"),
            };
            (format!("offline since {since}, {again}{wait}"), theme.bad())
        }
        Connection::Refused { why } => {
            (format!("signed out ({}) - Enter signs in", text::clean(why)), theme.bad())
        }
    }
}
