//! Where everything is: from the size, what keys are about, and how much is being written.

use ratatui::{
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use crate::{
    app::{App, Pane},
    text,
    view::timeline,
};

/// Below so many columns there is one pane.
const NARROW: u16 = 80;
/// From so many on there are three.
const WIDE: u16 = 100;
const LIST: u16 = 21;
const DETAILS: u16 = 22;
/// Rows of what is being written, at most.
const MAX_INPUT: u16 = 6;
/// Rows of what is said, at most.
const MAX_SAID: usize = 3;

/// The areas of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// There is no room for anything.
    pub too_small: bool,
    pub status: Rect,
    pub list: Option<Rect>,
    pub timeline: Option<Rect>,
    pub details: Option<Rect>,
    /// The messages, also where they are not shown: what scrolling goes by.
    pub messages: Rect,
    /// What is the matter with the chat.
    pub banner: Rect,
    pub notices: Rect,
    pub input: Rect,
}

/// Columns of what is being written.
pub fn input_columns(width: u16) -> usize {
    usize::from(width.saturating_sub(4)).max(2)
}

impl Layout {
    pub fn of(app: &App) -> Self {
        let (width, height) = app.size;
        let written = app.draft().active().laid_out(input_columns(width)).0.len();
        let input =
            u16::try_from(written).unwrap_or(u16::MAX).clamp(1, MAX_INPUT.min(height / 3).max(1));
        let notices = u16::try_from(notices(app, width).len()).unwrap_or(0).min(height / 3);
        let panes = height.saturating_sub(1 + input + notices);
        let row = |y, height| Rect { x: 0, y, width, height };
        let (list, timeline, details) = columns(width, app.focus, app.place.is_none());
        let place = |(x, width): (u16, u16)| Rect { x, y: 1, width, height: panes };
        let timeline = timeline.map(place);
        let inner = inside(timeline.unwrap_or_else(|| row(1, panes)));
        let banner = u16::try_from(timeline::banner(app, inner.width).len()).unwrap_or(0);
        let banner = banner.min(inner.height / 2);
        Self {
            too_small: width < 20 || height < 7,
            status: row(0, 1),
            list: list.map(place),
            timeline,
            details: details.map(place),
            messages: Rect { height: inner.height - banner, ..inner },
            banner: Rect { y: inner.bottom() - banner, height: banner, ..inner },
            notices: row(1 + panes, notices),
            input: row(1 + panes + notices, input),
        }
    }

    /// One pane at a time.
    pub fn is_narrow(&self) -> bool {
        self.status.width < NARROW
    }
}

type Columns = Option<(u16, u16)>;

/// The panes' places: list, timeline, details, where those have something to say.
fn columns(width: u16, focus: Pane, details: bool) -> (Columns, Columns, Columns) {
    let all = Some((0, width));
    if width < NARROW {
        return match focus {
            Pane::List => (all, None, None),
            Pane::Details => (None, None, all),
            Pane::Timeline | Pane::Input => (None, all, None),
        };
    }
    if width < WIDE || !details {
        if focus == Pane::Details {
            let left = width - DETAILS;
            return (None, Some((0, left)), Some((left, DETAILS)));
        }
        return (Some((0, LIST)), Some((LIST, width - LIST)), None);
    }
    let middle = width - LIST - DETAILS;
    (Some((0, LIST)), Some((LIST, middle)), Some((LIST + middle, DETAILS)))
}

fn inside(area: Rect) -> Rect {
    Rect {
        x: area.x + area.width.min(1),
        y: area.y + area.height.min(1),
        width: area.width.saturating_sub(2),
        height: area.height.saturating_sub(2),
    }
}

/// The lines above the input.
pub fn notices(app: &App, width: u16) -> Vec<Line<'static>> {
    let theme = &app.settings.theme;
    let columns = usize::from(width).saturating_sub(2);
    let mut lines = Vec::new();
    let mut one = |text: String, style: Style| {
        lines.push(Line::from(Span::styled(format!(" {}", text::cut(&text, columns)), style)));
    };
    if let Some(progress) = &app.progress {
        let percent = (progress.done.saturating_mul(100)).checked_div(progress.total).unwrap_or(0);
        let (done, total) = (text::bytes(progress.done), text::bytes(progress.total));
        one(format!("{}  {percent} %  {done} of {total}", progress.name), theme.quiet());
    }
    let draft = app.draft();
    if draft.is_edit() {
        one("changing your message; Enter saves, Esc goes back to your draft".into(), theme.wait());
    } else if let Some(reply) = &draft.reply_to {
        one(format!("answering {}: {}  (Esc: not)", reply.from_name, reply.excerpt), theme.wait());
    }
    if let Some(said) = &app.said {
        let (mark, style) = if said.bad { ("! ", theme.bad()) } else { ("", Style::new()) };
        let wrapped = text::wrap(&format!("{mark}{}", said.text), columns);
        let cut = wrapped.into_iter().take(MAX_SAID);
        lines.extend(cut.map(|text| Line::from(Span::styled(format!(" {text}"), style))));
    }
    lines
}
