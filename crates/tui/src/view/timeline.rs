//! The messages, as rows.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::Paragraph,
};
use relay_chat::views::{
    ConversationState, ConversationView, Delivery, MessageBody, MessageView, Notice,
};
use relay_proto::{NodeId, conv::ConvKind};

use super::{bar, clock, day, pane};
use crate::{
    app::{App, ItemKey, Pane, Timeline, is_said, key_of},
    text,
};

/// Lines of one message that are shown; the rest is told by number. A message may have thousands.
const MAX_LINES: usize = 200;

/// One row and the message that it belongs to.
#[derive(Debug, Clone)]
pub struct Row {
    pub key: Option<ItemKey>,
    pub line: Line<'static>,
}

/// The row that is the last one to be seen.
pub fn bottom_row(rows: &[Row], bottom: Option<(ItemKey, usize)>) -> usize {
    let end = rows.len().saturating_sub(1);
    let Some((key, row)) = bottom else { return end };
    let first = rows.iter().position(|row| row.key == Some(key));
    let last = rows.iter().rposition(|row| row.key == Some(key));
    match (first, last) {
        (Some(first), Some(last)) => first.saturating_add(row).min(last),
        _ => end,
    }
}

pub fn draw(app: &App, frame: &mut Frame<'_>, area: Rect, messages: Rect, banner_area: Rect) {
    let title = app.chat().map_or_else(|| "Relay".to_owned(), |chat| title(app, chat));
    let focus = if app.focus == Pane::Input { Pane::Input } else { Pane::Timeline };
    frame.render_widget(pane(app, &title, focus, area.width), area);
    match &app.open {
        None => {
            let lines: Vec<_> = nothing(app, messages.width).into_iter().map(Line::from).collect();
            frame.render_widget(Paragraph::new(lines), messages);
        }
        Some(open) => {
            let rows = rows(app, open);
            let height = usize::from(messages.height);
            let end = rows.len().min(bottom_row(&rows, open.bottom) + 1);
            let from = end.saturating_sub(height);
            // Where the beginning is seen, what there is fills the pane.
            let end = end.max(height.min(rows.len()));
            let lines: Vec<_> = rows.into_iter().take(end).skip(from).map(|row| row.line).collect();
            frame.render_widget(Paragraph::new(lines), messages);
        }
    }
    frame.render_widget(Paragraph::new(banner(app, banner_area.width)), banner_area);
}

fn title(app: &App, chat: &ConversationView) -> String {
    let mut parts = vec![text::clean(&chat.name)];
    if chat.kind == ConvKind::Room {
        parts.push(match chat.member_count {
            1 => "1 member".into(),
            many => format!("{many} members"),
        });
    }
    // One's own relay is no news.
    let own = app.me.as_ref().and_then(|me| me.relay_id.as_deref());
    if own != Some(chat.home.as_str()) {
        parts.push(format!("home {}", text::clean(&chat.home)));
    }
    let others = chat.member_count.saturating_sub(1);
    parts.push(match (chat.verified_count, others) {
        (1, 1) => "verified".into(),
        (0, 1) => "not verified".into(),
        (verified, others) => format!("verified {verified}/{others}"),
    });
    if !chat.topic.is_empty() {
        parts.push(text::clean(&chat.topic));
    }
    parts.join(" · ")
}

/// What there is to do where there is no chat.
fn nothing(app: &App, width: u16) -> Vec<String> {
    if !app.loaded {
        return Vec::new();
    }
    let lines = [
        "Nobody to talk to yet.",
        "",
        "/msg KEY    write to somebody; keys look like ed25519:3f2a…",
        "/new NAME   make a room, then /invite people into it",
        "/keys       shows your own key, which others need to write to you",
        "",
        "Or paste somebody's key, or the line that relay chat link printed for them, and press Enter. Invitations appear here by themselves.",
    ];
    lines.iter().flat_map(|line| text::wrap(line, usize::from(width))).collect()
}

// === rows ===

/// All loaded messages, row by row.
pub fn rows(app: &App, open: &Timeline) -> Vec<Row> {
    let width = app.layout().messages.width;
    let page = Columns::of(usize::from(width));
    let zone = &app.settings.zone;
    let newest_own =
        open.items.iter().rposition(|item| item.own && item.seq.is_some() && is_said(item));
    let mut rows = Vec::new();
    let mut last_day = String::new();
    let mut marked = false;
    for (at, message) in open.items.iter().enumerate() {
        let key = key_of(message);
        let today = day(zone, message.at_ms);
        if today != last_day {
            rows.push(Row { key, line: rule(&today, page.all, app.settings.theme.quiet()) });
            last_day = today;
        }
        let is_new = !message.own && open.new_after.is_some_and(|after| message.seq > Some(after));
        if is_new && !marked {
            rows.push(Row { key, line: rule("new", page.all, app.settings.theme.mention()) });
            marked = true;
        }
        let selected = key.is_some() && key == open.selected;
        let lines = message_lines(app, message, page, Some(at) == newest_own);
        rows.extend(lines.into_iter().map(|line| {
            let line =
                if selected { bar(line, page.all, app.settings.theme.selected()) } else { line };
            Row { key, line }
        }));
    }
    if open.loaded && rows.is_empty() {
        let text = "No messages yet. What you write is encrypted on this device.";
        let lines = text::wrap(text, page.all).into_iter();
        rows.extend(
            lines.map(|line| Row {
                key: None,
                line: Line::styled(line, app.settings.theme.quiet()),
            }),
        );
    }
    rows
}

/// Columns of a row: time, mark, name, words.
#[derive(Debug, Clone, Copy)]
struct Columns {
    all: usize,
    name: usize,
}

impl Columns {
    fn of(all: usize) -> Self {
        let name = match all {
            0..45 => 6,
            45..70 => 8,
            _ => 12,
        };
        Self { all, name }
    }

    fn before_words(self) -> usize {
        // "12:30", the mark, the name, two spaces.
        5 + 1 + self.name + 2
    }

    fn words(self) -> usize {
        self.all.saturating_sub(self.before_words()).max(8)
    }
}

fn rule(text: &str, width: usize, style: Style) -> Line<'static> {
    let text = format!(" {text} ");
    let left = width.saturating_sub(text::width(&text)) / 2;
    let right = width.saturating_sub(text::width(&text) + left);
    Line::styled(format!("{}{text}{}", "─".repeat(left), "─".repeat(right)), style)
}

fn message_lines(
    app: &App,
    message: &MessageView,
    page: Columns,
    newest_own: bool,
) -> Vec<Line<'static>> {
    let theme = &app.settings.theme;
    let (name, name_style) = who(app, message);
    let (words, style) = words(app, message, page.words());
    let mark = if message.mention { "!" } else { " " };
    let mark_style = if message.mention { theme.mention() } else { Style::new() };
    let mut first = Some(vec![
        Span::styled(clock(&app.settings.zone, message.at_ms), theme.quiet()),
        Span::styled(mark, mark_style),
        Span::styled(text::fit(&name, page.name), name_style),
        Span::raw("  "),
    ]);
    let mut lines = Vec::new();
    let mut push = |text: String, style: Style| {
        let mut spans =
            first.take().unwrap_or_else(|| vec![Span::raw(" ".repeat(page.before_words()))]);
        spans.push(Span::styled(text, style));
        lines.push(Line::from(spans));
    };
    if let Some(reply) = &message.reply_to {
        let excerpt =
            if reply.excerpt.is_empty() { "a message that is not here" } else { &reply.excerpt };
        let text = format!("> {}: {}", text::clean(&reply.from_name), text::clean(excerpt));
        push(text::cut(&text, page.words()), theme.quiet());
    }
    for text in words {
        push(text, style);
    }
    if !message.reactions.is_empty() {
        let all = message.reactions.iter();
        let all = all.map(|reaction| {
            format!("[{} {}]", text::clean(&reaction.emoji), text::clean(&reaction.by.join(", ")))
        });
        push(text::cut(&all.collect::<Vec<_>>().join(" "), page.words()), theme.quiet());
    }
    if let Some((state, style)) = state(app, message, newest_own) {
        put_state(&mut lines, &state, style, page);
    }
    lines
}

fn who(app: &App, message: &MessageView) -> (String, Style) {
    let theme = &app.settings.theme;
    match &message.body {
        MessageBody::Notice { .. } => ("--".into(), theme.quiet()),
        _ if message.own => (text::clean(&app.nick), theme.own()),
        _ => match &message.from {
            Some(from) => (text::clean(&message.from_name), theme.person(from.as_bytes())),
            None => ("--".into(), theme.quiet()),
        },
    }
}

/// What a message says, wrapped.
fn words(app: &App, message: &MessageView, columns: usize) -> (Vec<String>, Style) {
    let theme = &app.settings.theme;
    let (mut lines, style) = match &message.body {
        MessageBody::Text { text } => {
            let style = if message.mention { theme.unread() } else { Style::new() };
            (text::clean_lines(text), style)
        }
        MessageBody::File { file } => {
            let size = text::bytes(file.size);
            (vec![format!("[file] {}, {size} (o saves it)", text::clean(&file.name))], Style::new())
        }
        MessageBody::Deleted => (vec!["(deleted)".into()], theme.notice()),
        MessageBody::Unsupported { kind } => {
            (vec![format!("(this version cannot show \"{}\")", text::clean(kind))], theme.notice())
        }
        MessageBody::Unreadable { why } => {
            (vec![format!("? {}", text::clean(&why.to_string()))], theme.wait())
        }
        MessageBody::Notice { notice } => (vec![noticed(app, notice)], theme.notice()),
    };
    if message.edited
        && let Some(last) = lines.last_mut()
    {
        last.push_str(" (edited)");
    }
    let more = lines.len().saturating_sub(MAX_LINES);
    lines.truncate(MAX_LINES);
    let mut wrapped: Vec<_> = lines.iter().flat_map(|line| text::wrap(line, columns)).collect();
    if more > 0 {
        wrapped.push(format!("… {more} more lines (c copies all)"));
    }
    (wrapped, style)
}

fn noticed(app: &App, notice: &Notice) -> String {
    let name = |user: &NodeId| name_of(app, user);
    let all = |users: &[NodeId]| users.iter().map(name).collect::<Vec<_>>().join(", ");
    match notice {
        Notice::Created => "the conversation began".into(),
        Notice::Joined { users } => format!("{} joined", all(users)),
        Notice::Gone { users } => format!("{} left or was taken out", all(users)),
        Notice::DeviceAdded { user } => format!("{} added a device", name(user)),
        Notice::DeviceRemoved { user } => format!("{} has one device less", name(user)),
        Notice::Renamed { name, topic } => {
            let told = [("name", name), ("topic", topic)].into_iter().filter_map(|(what, text)| {
                text.as_ref().map(|text| format!("the {what} is now: {}", text::clean(text)))
            });
            told.collect::<Vec<_>>().join("; ")
        }
        Notice::Roles => "roles changed".into(),
        Notice::Mismatch => {
            "! a change of the group was told to the relay differently than it was done".into()
        }
        Notice::Rejoined => "this device is in again".into(),
    }
}

fn name_of(app: &App, user: &NodeId) -> String {
    if app.me.as_ref().is_some_and(|me| me.user_id == *user) {
        return text::clean(&app.nick);
    }
    let member =
        app.members.iter().find(|member| member.user_id == *user).map(|member| &member.name);
    let person =
        || app.people.iter().find(|person| person.user_id == *user).map(|person| &person.name);
    member.or_else(person).map_or_else(
        || user.to_string().chars().skip(8).take(8).collect(),
        |name| text::clean(name),
    )
}

/// How far an own message has got, as symbol and words.
fn state(app: &App, message: &MessageView, newest: bool) -> Option<(String, Style)> {
    let theme = &app.settings.theme;
    if !message.own || !is_said(message) {
        return None;
    }
    Some(match &message.delivery {
        Delivery::Sending => ("○ sending".into(), theme.wait()),
        Delivery::Waiting { why: None } => ("○ waiting for the connection".into(), theme.wait()),
        Delivery::Waiting { why: Some(why) } => {
            (format!("○ waiting: {}", text::clean(why)), theme.wait())
        }
        Delivery::Failed { why } => {
            (format!("! failed ({}) - Enter retries", text::clean(why)), theme.bad())
        }
        Delivery::Stored => {
            let text = match &message.read_by[..] {
                [] if newest => "✓ stored".to_owned(),
                [] => "✓".to_owned(),
                [one] if newest => format!("✓ read by {}", text::clean(one)),
                many if newest => format!("✓ read by {}", many.len()),
                _ => "✓ read".to_owned(),
            };
            (text, theme.quiet())
        }
    })
}

/// At the right end of the last line where there is room, else below it.
fn put_state(lines: &mut Vec<Line<'static>>, state: &str, style: Style, page: Columns) {
    let wide = text::width(state);
    let used = lines.last().map_or(0, Line::width);
    if let Some(last) = lines.last_mut().filter(|_| used + wide + 2 <= page.all) {
        last.spans.push(Span::raw(" ".repeat(page.all - used - wide)));
        last.spans.push(Span::styled(state.to_owned(), style));
        return;
    }
    let wrapped = text::wrap(state, page.words());
    lines.extend(wrapped.into_iter().map(|text| {
        let before = page.all.saturating_sub(text::width(&text)).min(page.before_words());
        Line::from(vec![Span::raw(" ".repeat(before)), Span::styled(text, style)])
    }));
}

// === banner ===

/// What is the matter with the chat, and what helps.
pub fn banner(app: &App, width: u16) -> Vec<Line<'static>> {
    let Some(chat) = app.chat() else { return Vec::new() };
    let theme = &app.settings.theme;
    let people = chat.member_count;
    let told = match &chat.state {
        ConversationState::Active => {
            let failed = app.open.as_ref().is_some_and(|open| open.failed().is_some());
            chat.waits_for.as_ref().filter(|_| !failed && chat.waiting > 0).map(|why| {
                (format!("○ {} waiting: {}", chat.waiting, text::clean(why)), theme.wait())
            })
        }
        ConversationState::Creating => Some((
            "○ being made; it goes on by itself when the relay is reached".into(),
            theme.wait(),
        )),
        ConversationState::Invited { by } => {
            let by = name_of(app, by);
            let what = match chat.kind {
                ConvKind::Dm => "wants to write to you".to_owned(),
                ConvKind::Room => format!("invites you to this room of {people} people"),
            };
            let text =
                format!("? {by} {what}. Enter accepts, /leave declines, /block {by} stops them");
            Some((text, theme.mention()))
        }
        ConversationState::Leaving => Some((
            "- you have left; others still have to take your devices out".into(),
            theme.quiet(),
        )),
        ConversationState::Left => Some(("- you have left this chat".into(), theme.quiet())),
        ConversationState::Removed => Some((
            "- you were taken out of this chat; what is here stays readable".into(),
            theme.quiet(),
        )),
        ConversationState::Stuck { seq, why, help } => {
            let text =
                format!("x stuck at message {seq}: {} - {}", text::clean(why), text::clean(help));
            Some((text, theme.bad()))
        }
        ConversationState::Rejoining => {
            Some(("○ waiting for the group to include this device".into(), theme.wait()))
        }
    };
    let Some((text, style)) = told else { return Vec::new() };
    let wrapped = text::wrap(&text, usize::from(width));
    wrapped.into_iter().map(|text| Line::styled(text, style)).collect()
}
