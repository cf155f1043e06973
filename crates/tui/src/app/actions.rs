//! What keys do.

use crossterm::event::KeyCode;
use relay_chat::{
    MessageRange,
    views::{ConversationState, Delivery},
};

use super::{
    App, Detail, Effect, Overlay, PAGE, Pane, Search,
    overlay::{Asking, Choice, Then},
    timeline::key_of,
};
use crate::{
    backend::{Act, Question},
    commands::COMMANDS,
    editor::{Editor, Move},
    keys::{Action, Key},
    text,
    view::timeline::{bottom_row, rows},
};

/// More lines than these are asked about before they are put into a draft.
const PASTED_UNASKED: usize = 3;

impl App {
    pub(super) fn key(&mut self, key: Key) {
        let action = self.settings.keys.action(key, self.is_reading());
        if action != Some(Action::Quit) {
            self.quitting = false;
        }
        if self.overlay.is_some() {
            return self.key_over(key);
        }
        self.said = None;
        // In a text, keys that move are about the text first.
        if self.focus == Pane::Input && self.edit_key(key, action) {
            return;
        }
        if let Some(action) = action {
            self.do_action(action);
        }
    }

    /// Writes, or moves in what is written; `false` where the key means something else.
    fn edit_key(&mut self, key: Key, action: Option<Action>) -> bool {
        let full = "a message has at most 32 KB; send a file instead: /file PATH";
        if let Some(c) = key.written().filter(|_| action.is_none()) {
            if !self.may_begin_with(c) {
                return true;
            }
            if !self.draft_mut().active_mut().insert(c.encode_utf8(&mut [0; 4])) {
                self.complain(full);
            }
            return true;
        }
        let editor = self.draft_mut().active_mut();
        match action {
            Some(Action::Up) => return editor.go(Move::Up),
            Some(Action::Down) => return editor.go(Move::Down),
            Some(Action::Newest) => return !editor.at_end() && editor.go(Move::LineEnd),
            Some(Action::NewLine) => {
                if !editor.insert("\n") {
                    self.complain(full);
                }
                return true;
            }
            Some(Action::Complete) => return self.complete(),
            Some(_) => return false,
            None => {}
        }
        edit(editor, key)
    }

    /// Whether something that begins so may be written here; where only commands may, it is said.
    fn may_begin_with(&mut self, c: char) -> bool {
        let Some(place) = self.place else { return true };
        let may = c == '/' || !self.draft().active().is_empty();
        if !may {
            self.complain(place.not_here());
        }
        may
    }

    /// Completes a command or a name before the cursor; `false` where there is nothing to complete.
    fn complete(&mut self) -> bool {
        let before = self.draft().active().before_cursor().to_owned();
        let start = before.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let word = &before[start..];
        if word.is_empty() {
            return false;
        }
        let lower = word.to_lowercase();
        let fitting = |name: &str| name.to_lowercase().starts_with(lower.trim_start_matches('@'));
        let completed = match word.strip_prefix('/').filter(|_| start == 0) {
            Some(verb) => {
                let command = COMMANDS.iter().find(|(name, ..)| name.starts_with(verb));
                command.map(|(name, ..)| format!("/{name} "))
            }
            None => {
                let members =
                    self.members.iter().filter(|member| !member.own).map(|member| &member.name);
                let people = self.people.iter().map(|person| &person.name);
                let named = members.chain(people).map(|name| text::clean(name));
                named.filter(|name| fitting(name)).min_by_key(String::len).map(|name| {
                    let at = if word.starts_with('@') { "@" } else { "" };
                    let end = if start == 0 { ": " } else { " " };
                    format!("{at}{name}{end}")
                })
            }
        };
        let Some(completed) = completed else { return false };
        let bytes = word.len();
        self.draft_mut().active_mut().replace_before(bytes, &completed);
        true
    }

    pub(super) fn do_action(&mut self, action: Action) {
        if let Some(number) = action.chat_number() {
            if !self.show_entry(number) {
                self.complain(format!("there is no chat {}", number + 1));
            }
            return;
        }
        match action {
            Action::NextChat => self.step_chat(1),
            Action::PreviousChat => self.step_chat(-1),
            Action::NextUnread => self.next_unread(),
            Action::GoTo => {
                self.overlay = Some(Overlay::GoTo { query: Editor::default(), cursor: 0 });
            }
            Action::Search => self.search_here(),
            Action::Help => self.overlay = Some(Overlay::Help { from: 0 }),
            Action::Redraw => self.redraw(),
            Action::Quit => self.quit(),
            Action::Complete | Action::NextPane => self.step_pane(1),
            Action::PreviousPane => self.step_pane(-1),
            Action::PageUp => self.scroll(-self.page()),
            Action::PageDown => self.scroll(self.page()),
            Action::HalfPageUp => self.scroll(-self.page() / 2),
            Action::HalfPageDown => self.scroll(self.page() / 2),
            Action::Oldest => self.scroll(isize::MIN / 2),
            Action::Newest => self.go_to_newest(),
            Action::Up => self.step(-1),
            Action::Down => self.step(1),
            Action::Back => self.back(),
            Action::Type => self.focus = Pane::Input,
            Action::Command => {
                self.focus = Pane::Input;
                if self.draft().active().is_empty() {
                    self.draft_mut().active_mut().insert("/");
                }
            }
            Action::Accept => self.accept(),
            Action::NewLine => {}
            Action::Reply
            | Action::React
            | Action::Copy
            | Action::Info
            | Action::OpenLink
            | Action::Edit
            | Action::Delete => self.about_message(action),
            _ => {}
        }
    }

    // === moving ===

    fn step_chat(&mut self, by: isize) {
        let count = self.entries().len().cast_signed();
        let next = match self.shown_entry() {
            None => 0,
            Some(at) => (at.cast_signed() + by).rem_euclid(count).cast_unsigned(),
        };
        self.show_entry(next);
    }

    /// What is on the screen is not to be trusted: it is drawn anew, and what only the relay knows is read anew.
    pub(super) fn redraw(&mut self) {
        self.effects.push(Effect::Redraw);
        self.reread();
    }

    /// The next chat after this one that has something new: mentions, then invitations, then the rest; muted ones last.
    fn next_unread(&mut self) {
        let listed = self.listed();
        let open = self.open.as_ref().map(|open| open.conv_id.as_str());
        let here = listed.iter().position(|chat| Some(chat.conv_id.as_str()) == open).unwrap_or(0);
        let count = listed.len();
        let found = listed
            .iter()
            .enumerate()
            .filter(|(_, chat)| Some(chat.conv_id.as_str()) != open)
            .filter_map(|(at, chat)| {
                let rank = match chat {
                    chat if chat.mentions > 0 => 0,
                    chat if matches!(chat.state, ConversationState::Invited { .. }) => 1,
                    chat if chat.unread > 0 => 2 + u8::from(chat.muted),
                    _ => return None,
                };
                Some(((rank, (at + count - here) % count), chat.conv_id.clone()))
            })
            .min();
        match found {
            Some((_, conv_id)) => self.show(&conv_id),
            None => self.say("nothing is unread"),
        }
    }

    fn step_pane(&mut self, by: isize) {
        let order = [Pane::Input, Pane::Timeline, Pane::Details, Pane::List];
        let order: Vec<_> = order.into_iter().filter(|pane| self.has(*pane)).collect();
        let at = order.iter().position(|pane| *pane == self.focus).unwrap_or(0);
        let count = order.len().cast_signed();
        self.focus = order[(at.cast_signed() + by).rem_euclid(count).cast_unsigned()];
        self.cursor = match self.focus {
            Pane::List => self.shown_entry().unwrap_or(0),
            _ => 0,
        };
        if self.focus == Pane::Input
            && let Some(open) = &mut self.open
        {
            open.selected = None;
        }
    }

    fn step(&mut self, by: isize) {
        match self.focus {
            Pane::List => {
                let most = self.entries().len().saturating_sub(1);
                self.cursor = self.cursor.saturating_add_signed(by).min(most);
            }
            Pane::Details => {
                let most = self.members.len().saturating_sub(1);
                self.cursor = self.cursor.saturating_add_signed(by).min(most);
            }
            Pane::Input | Pane::Timeline if self.place.is_some() => self.turn(by),
            Pane::Input if by < 0 && self.draft().active().is_empty() => {
                self.focus = Pane::Timeline;
                self.select(by);
            }
            Pane::Input => {}
            Pane::Timeline => self.select(by),
        }
    }

    /// Goes to the message above or below, and on from both ends.
    fn select(&mut self, by: isize) {
        let resting = self.resting();
        let Some(open) = &mut self.open else { return };
        let at = open.selected.and_then(|key| open.position(key));
        let next = match at {
            None if by < 0 => open.items.len().checked_sub(1),
            None => None,
            Some(at) => at.checked_add_signed(by),
        };
        match next {
            Some(next) if next < open.items.len() => {
                open.selected = key_of(&open.items[next]);
                self.keep_selected_in_view();
                self.load_around();
            }
            Some(_) if open.more_after => self.load_around(),
            Some(_) => {
                open.selected = None;
                open.bottom = None;
                self.focus = resting;
                self.arrive_at_end();
            }
            None => self.load_around(),
        }
    }

    /// Rows of one page: one less than there are, so that the eye finds its place.
    pub(super) fn page(&self) -> isize {
        let height = self.layout().messages.height.max(2);
        isize::try_from(height - 1).unwrap_or(1)
    }

    fn scroll(&mut self, by: isize) {
        if self.focus == Pane::Details || self.focus == Pane::List {
            return self.step(by.clamp(-1_000, 1_000));
        }
        if self.place.is_some() {
            return self.turn(by);
        }
        let Some(open) = &self.open else { return };
        let rows = rows(self, open);
        let height = usize::from(self.layout().messages.height).max(1);
        let Some(last) = rows.len().checked_sub(1) else { return };
        let bottom = bottom_row(&rows, open.bottom);
        let least = height.min(rows.len()) - 1;
        let target = bottom.saturating_add_signed(by).clamp(least, last);
        let anchor = if target == last {
            None
        } else {
            let key = rows[target].key;
            let first = rows.iter().position(|row| row.key == key).unwrap_or(target);
            key.map(|key| (key, target - first))
        };
        let Some(open) = &mut self.open else { return };
        // The last row of what is loaded is only then the end if nothing comes after it.
        open.bottom = anchor;
        if anchor.is_none() && open.more_after {
            open.bottom = open.items.last().and_then(key_of).map(|key| (key, usize::MAX));
        }
        self.arrive_at_end();
        self.load_around();
    }

    /// Notes that the end is seen, where it is.
    fn arrive_at_end(&mut self) {
        if let Some(open) = &mut self.open
            && open.at_end()
        {
            open.below = 0;
            self.mark_read();
        }
    }

    fn go_to_newest(&mut self) {
        self.turn(isize::MAX);
        let Some(open) = &mut self.open else { return };
        open.bottom = None;
        open.selected = None;
        open.below = 0;
        if open.more_after {
            open.items.clear();
            open.more_after = false;
            self.stale.newest = true;
        }
        if self.focus == Pane::Timeline {
            self.focus = self.resting();
        }
        self.mark_read();
    }

    fn keep_selected_in_view(&mut self) {
        let Some(open) = &self.open else { return };
        let Some(key) = open.selected else { return };
        let rows = rows(self, open);
        let height = usize::from(self.layout().messages.height).max(1);
        let bottom = bottom_row(&rows, open.bottom);
        let top = (bottom + 1).saturating_sub(height);
        let first = rows.iter().position(|row| row.key == Some(key)).unwrap_or(bottom);
        let last = rows.iter().rposition(|row| row.key == Some(key)).unwrap_or(bottom);
        if first < top {
            self.scroll(first.cast_signed() - top.cast_signed());
        } else if last > bottom {
            self.scroll(last.cast_signed() - bottom.cast_signed());
        }
    }

    /// Asks for what lies beyond the loaded messages where the eye comes near.
    fn load_around(&mut self) {
        let Some(open) = &self.open else { return };
        if open.asked || !open.loaded {
            return;
        }
        let rows = rows(self, open);
        let height = usize::from(self.layout().messages.height).max(1);
        let bottom = bottom_row(&rows, open.bottom);
        let range = if open.more_before && bottom < 2 * height {
            open.oldest_seq().map(MessageRange::Before)
        } else if open.more_after && bottom + height >= rows.len() {
            open.newest_seq().map(MessageRange::After)
        } else {
            None
        };
        if let Some(range) = range {
            let conv_id = open.conv_id.clone();
            if let Some(open) = &mut self.open {
                open.asked = true;
            }
            self.ask(Question::Messages { conv_id, range, limit: PAGE });
        }
    }

    /// One step back; what is written stays.
    fn back(&mut self) {
        if self.draft().is_edit() {
            if let Some(edit) = &mut self.draft_mut().edit {
                edit.goes_on = false;
            }
            return;
        }
        if let Detail::Message(_) = self.detail {
            self.detail = Detail::Members;
            return;
        }
        let resting = self.resting();
        if let Some(open) = &mut self.open
            && open.selected.take().is_some()
        {
            self.focus = resting;
            return;
        }
        if self.focus != resting {
            self.focus = resting;
            return;
        }
        if self.draft().reply_to.is_some() {
            self.draft_mut().reply_to = None;
        } else if self.layout().is_narrow() {
            self.step_pane(-1);
        }
    }

    // === entering ===

    /// The details are about a chat.
    fn has(&self, pane: Pane) -> bool {
        pane != Pane::Details || self.place.is_none()
    }

    fn accept(&mut self) {
        match self.focus {
            Pane::Input => self.enter(),
            Pane::List => {
                if self.show_entry(self.cursor) {
                    self.focus = self.resting();
                }
            }
            Pane::Details => {
                if let Some(member) = self.members.get(self.cursor).filter(|member| !member.own) {
                    let user = member.user_id;
                    self.ask(Question::SafetyNumber { user });
                }
            }
            Pane::Timeline => {
                let selected = self.open.as_ref().and_then(|open| open.selected());
                match selected.map(|message| (message.local, message.delivery.clone())) {
                    Some((Some(local), Delivery::Failed { .. })) => self.act(Act::Retry { local }),
                    Some(_) => self.about_message(Action::Info),
                    None => self.enter(),
                }
            }
        }
    }

    pub(super) fn quit(&mut self) {
        let written = self.drafts.values().filter(|draft| draft.has_words()).count();
        if written > 0 && !self.quitting {
            self.quitting = true;
            let drafts = if written == 1 {
                "a message is".into()
            } else {
                format!("{written} messages are")
            };
            self.complain(format!("{drafts} not sent and would be lost; once more to quit"));
        } else {
            self.effects.push(Effect::Quit);
        }
    }

    pub(super) fn paste(&mut self, pasted: String) {
        if let Some(overlay) = &mut self.overlay {
            if let Overlay::GoTo { query, .. } | Overlay::Search(Search { query, .. }) = overlay {
                query.insert(&text::clean(pasted.trim()));
            }
            return;
        }
        self.focus = Pane::Input;
        let lines = pasted.trim_end_matches('\n').lines().count();
        if lines > PASTED_UNASKED {
            let one_line = text::clean(&pasted.lines().collect::<Vec<_>>().join(" "));
            self.overlay = Some(Overlay::Ask(Asking {
                text: vec![format!("Paste {lines} lines, {}?", text::bytes(pasted.len() as u64))],
                choices: vec![
                    Choice { key: 'y', says: "yes".into(), then: Then::Insert(pasted) },
                    Choice {
                        key: 'j',
                        says: "joined to one line".into(),
                        then: Then::Insert(one_line),
                    },
                    Choice { key: 'n', says: "no".into(), then: Then::Nothing },
                ],
            }));
        } else {
            self.insert(&pasted);
        }
    }

    pub(super) fn insert(&mut self, text: &str) {
        if !text.chars().next().is_none_or(|c| self.may_begin_with(c)) {
            return;
        }
        if !self.draft_mut().active_mut().insert(text) {
            self.complain("this is longer than a message may be (32 KB); nothing was pasted; send a file: /file PATH");
        }
    }
}

/// The keys of an editor, which are those of shells.
pub(super) fn edit(editor: &mut Editor, key: Key) -> bool {
    use crossterm::event::KeyModifiers as With;
    let plain = key.with.is_empty();
    let held = key.with.intersects(With::CONTROL | With::ALT);
    let (delete, to) = match key.code {
        KeyCode::Left if plain => (false, Move::Left),
        KeyCode::Right if plain => (false, Move::Right),
        KeyCode::Left if held => (false, Move::WordLeft),
        KeyCode::Right if held => (false, Move::WordRight),
        KeyCode::Home => (false, Move::LineStart),
        KeyCode::Backspace if held => (true, Move::WordLeft),
        KeyCode::Backspace => (true, Move::Left),
        KeyCode::Delete => (true, Move::Right),
        _ if key == Key::ctrl('a') => (false, Move::LineStart),
        _ if key == Key::ctrl('e') => (false, Move::LineEnd),
        _ if key == Key::ctrl('w') => (true, Move::WordLeft),
        _ if key == Key::ctrl('u') => (true, Move::LineStart),
        _ if key == Key::ctrl('d') => (true, Move::Right),
        _ => return false,
    };
    if delete {
        editor.delete(to);
    } else {
        editor.go(to);
    }
    true
}
