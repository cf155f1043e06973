//! The details: who is here, or all about one message.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::Paragraph,
};
use relay_chat::views::{Delivery, MemberView, MessageView};
use relay_proto::conv::Role;

use super::{bar, clock, day, pane};
use crate::{
    app::{App, Detail, Pane},
    text,
};

pub fn draw(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let message = match app.detail {
        Detail::Message(key) => app.open.as_ref().and_then(|open| open.get(key)),
        Detail::Members => None,
    };
    let title = if message.is_some() { "Message" } else { "Members" };
    let block = pane(app, title, Pane::Details, area.width);
    let inner = block.inner(area);
    let (width, height) = (usize::from(inner.width), usize::from(inner.height));
    let lines = match message {
        Some(message) => about(app, message, width),
        None => members(app, width, height),
    };
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn members(app: &App, width: usize, height: usize) -> Vec<Line<'static>> {
    let chosen = Some(app.cursor).filter(|_| app.focus == Pane::Details);
    let from = chosen.map_or(0, |at| (at + 1).saturating_sub(height.saturating_sub(4)));
    let mut lines: Vec<_> = app
        .members
        .iter()
        .enumerate()
        .skip(from)
        .take(height)
        .map(|(at, member)| {
            let line = member_line(app, member, width);
            if Some(at) == chosen { bar(line, width, app.settings.theme.selected()) } else { line }
        })
        .collect();
    if let Some(member) = chosen.and_then(|at| app.members.get(at)) {
        lines.truncate(height.saturating_sub(4));
        lines.push(Line::default());
        let verified = match (member.own, member.verified) {
            (true, _) => "yourself",
            (_, true) => "✓ verified",
            (_, false) => "not verified: Enter",
        };
        let devices = if member.devices == 1 {
            "1 device".into()
        } else {
            format!("{} devices", member.devices)
        };
        for text in [role(member.role).to_owned(), devices, verified.to_owned()] {
            lines.push(Line::from(format!(" {}", text::cut(&text, width.saturating_sub(1)))));
        }
    }
    lines
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Owner => "creator",
        Role::Admin => "admin",
        Role::Member => "member",
    }
}

fn member_line(app: &App, member: &MemberView, width: usize) -> Line<'static> {
    let theme = &app.settings.theme;
    let present = match member.presence.as_deref() {
        Some("online") => "●",
        Some("offline") => "○",
        _ if member.own => "●",
        _ => " ",
    };
    let rank = if member.role.governs() { "@" } else { " " };
    let verified = if member.verified && !member.own { "✓" } else { " " };
    let style = if member.own { theme.own() } else { theme.person(member.user_id.as_bytes()) };
    let name = text::fit(&text::clean(&member.name), width.saturating_sub(6));
    Line::from(vec![
        Span::styled(format!(" {present}"), theme.good()),
        Span::raw(rank),
        Span::styled(name, style),
        Span::styled(format!(" {verified}"), theme.good()),
    ])
}

fn about(app: &App, message: &MessageView, width: usize) -> Vec<Line<'static>> {
    let zone = &app.settings.zone;
    let mut facts = vec![
        ("from", text::clean(&message.from_name)),
        ("at", format!("{} {}", day(zone, message.at_ms), clock(zone, message.at_ms))),
    ];
    if let Some(from) = &message.from {
        facts.push(("key", from.to_string()));
    }
    facts.push((
        "state",
        match &message.delivery {
            Delivery::Stored => "stored by the relay".into(),
            Delivery::Sending => "on its way".into(),
            Delivery::Waiting { why: None } => "waits for the connection".into(),
            Delivery::Waiting { why: Some(why) } => format!("waits: {}", text::clean(why)),
            Delivery::Failed { why } => format!("not sent: {}", text::clean(why)),
        },
    ));
    if let Some(seq) = message.seq {
        facts.push(("number", seq.to_string()));
    }
    if !message.read_by.is_empty() {
        facts.push(("read by", text::clean(&message.read_by.join(", "))));
    }
    for reaction in &message.reactions {
        facts.push((
            "reaction",
            text::clean(&format!("{} {}", reaction.emoji, reaction.by.join(", "))),
        ));
    }
    let mut lines = Vec::new();
    for (name, value) in facts {
        lines.push(Line::from(Span::styled(format!(" {name}"), app.settings.theme.quiet())));
        let wrapped = text::wrap(&value, width.saturating_sub(3));
        lines.extend(
            wrapped.into_iter().map(|text| Line::styled(format!("  {text}"), Style::new())),
        );
    }
    lines
}
