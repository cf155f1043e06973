//! Keys while something lies over the panes.

use relay_chat::MessageRange;

use super::{
    App, Candidate, ItemKey, Overlay, PAGE, Pane, Search,
    actions::edit,
    overlay::{Asking, Then},
};
use crate::{
    backend::{Act, Question},
    editor::Editor,
    keys::{Action, Key},
};

impl App {
    pub(super) fn search_here(&mut self) {
        let within = self.open.as_ref().map(|open| open.conv_id.clone());
        self.overlay = Some(Overlay::Search(Search { within, ..Search::default() }));
    }

    pub(super) fn key_over(&mut self, key: Key) {
        let typing = matches!(self.overlay, Some(Overlay::GoTo { .. } | Overlay::Search(_)));
        let action = self.settings.keys.action(key, !typing);
        match action {
            Some(Action::Quit) => return self.quit(),
            Some(Action::Redraw) => return self.redraw(),
            Some(Action::Back) => {
                self.overlay = None;
                return;
            }
            _ => {}
        }
        let Some(mut overlay) = self.overlay.take() else { return };
        let stays = match &mut overlay {
            Overlay::Help { from } | Overlay::Page { from, .. } => {
                turn(from, action, self.page().unsigned_abs());
                !matches!(action, Some(Action::Accept))
            }
            Overlay::GoTo { query, cursor } => self.key_go_to(query, cursor, key, action),
            Overlay::Search(search) => self.key_search(search, key, action),
            Overlay::Ask(asking) => self.key_ask(asking, key, action),
            Overlay::Verify(number) => self.key_verify(number.user_id, key),
        };
        if stays && self.overlay.is_none() {
            self.overlay = Some(overlay);
        }
    }

    fn key_go_to(
        &mut self,
        query: &mut Editor,
        cursor: &mut usize,
        key: Key,
        action: Option<Action>,
    ) -> bool {
        match action {
            Some(Action::Up | Action::PreviousChat) => *cursor = cursor.saturating_sub(1),
            Some(Action::Down | Action::NextChat | Action::GoTo) => {
                let most = self.candidates(query.text()).len().saturating_sub(1);
                *cursor = (*cursor + 1).min(most);
            }
            Some(Action::Accept) => {
                let chosen = self.candidates(query.text()).into_iter().nth(*cursor);
                match chosen {
                    Some(Candidate::Chat { conv_id, .. }) => self.show(&conv_id),
                    Some(Candidate::Person { key, .. }) => {
                        self.act(Act::Direct { person: key, text: None });
                    }
                    Some(Candidate::Place(place)) => self.visit(place),
                    Some(Candidate::Command { name, .. }) => self.begin_command(name),
                    None => return true,
                }
                return false;
            }
            _ => {
                if write(query, key) {
                    *cursor = 0;
                }
            }
        }
        true
    }

    /// Puts a command into the input where that is empty; a draft is never written over.
    fn begin_command(&mut self, name: &str) {
        self.focus = Pane::Input;
        if self.draft().active().is_empty() {
            self.draft_mut().active_mut().insert(&format!("/{name} "));
        } else {
            self.say(format!("type /{name} when your message is sent"));
        }
    }

    fn key_search(&mut self, search: &mut Search, key: Key, action: Option<Action>) -> bool {
        match action {
            Some(Action::Up | Action::PreviousChat) => {
                search.cursor = search.cursor.saturating_sub(1)
            }
            Some(Action::Down | Action::NextChat | Action::Search) => {
                search.cursor = (search.cursor + 1).min(search.hits.len().saturating_sub(1));
            }
            Some(Action::PageDown) if !search.running => {
                if let (Some(from), Some(text)) = (search.next, search.asked.clone()) {
                    search.running = true;
                    self.ask(Question::Search {
                        text,
                        within: search.within.clone(),
                        from: Some(from),
                    });
                }
            }
            Some(Action::Accept) => {
                let text = search.query.text().trim().to_owned();
                if text.is_empty() {
                    return true;
                }
                if search.asked.as_ref() != Some(&text) {
                    search.asked = Some(text.clone());
                    search.hits.clear();
                    (search.cursor, search.next, search.running) = (0, None, true);
                    self.ask(Question::Search { text, within: search.within.clone(), from: None });
                    return true;
                }
                let Some(hit) = search.hits.get(search.cursor) else { return true };
                if let Some(seq) = hit.message.seq {
                    let conv_id = hit.message.conv_id.clone();
                    self.show_around(&conv_id, seq);
                }
                return false;
            }
            _ => {
                write(&mut search.query, key);
            }
        }
        true
    }

    /// Shows a message among its neighbours.
    fn show_around(&mut self, conv_id: &str, seq: u64) {
        self.show(conv_id);
        let range = MessageRange::Before(seq.saturating_add(PAGE as u64 / 2));
        if let Some(open) = &mut self.open {
            open.selected = Some(ItemKey::Seq(seq));
            open.bottom = open.selected.map(|key| (key, 0));
            open.asked = true;
        }
        self.focus = Pane::Timeline;
        self.sought = Some(seq);
        self.ask(Question::Messages { conv_id: conv_id.to_owned(), range, limit: PAGE });
    }

    fn key_ask(&mut self, asking: &Asking, key: Key, action: Option<Action>) -> bool {
        let pressed = key.written().map(|c| c.to_ascii_lowercase());
        let chosen = match action {
            Some(Action::Accept) => asking.choices.first(),
            _ => asking.choices.iter().find(|choice| Some(choice.key) == pressed),
        };
        let Some(choice) = chosen else { return true };
        match choice.then.clone() {
            Then::Nothing => {}
            Then::Effects(effects) => self.effects.extend(effects),
            Then::Insert(text) => self.insert(&text),
            Then::Send => self.send_draft(),
        }
        false
    }

    fn key_verify(&mut self, user: relay_proto::NodeId, key: Key) -> bool {
        let verified = match key.written() {
            Some('y') => true,
            Some('n') => false,
            _ => return true,
        };
        self.act(Act::Verified { user, verified });
        if verified {
            self.say("verified: the numbers were equal");
        } else {
            self.complain("not verified. If the numbers differ, somebody may be between you: do not write secrets here");
        }
        (self.stale.members, self.stale.chats, self.stale.people) = (true, true, true);
        false
    }
}

fn turn(from: &mut usize, action: Option<Action>, page: usize) {
    *from = match action {
        Some(Action::Up) => from.saturating_sub(1),
        Some(Action::Down) => *from + 1,
        Some(Action::PageUp | Action::HalfPageUp) => from.saturating_sub(page),
        Some(Action::PageDown | Action::HalfPageDown) => *from + page,
        Some(Action::Oldest) => 0,
        _ => *from,
    }
    // The view stops at the last page; this only keeps the number small.
    .min(1_000);
}

/// Writes a letter, or edits; whether anything was done.
fn write(editor: &mut Editor, key: Key) -> bool {
    match key.written() {
        Some(c) => editor.insert(c.encode_utf8(&mut [0; 4])),
        None => edit(editor, key),
    }
}
