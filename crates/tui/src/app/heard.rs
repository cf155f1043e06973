//! What the chat tells: events, and answers to what was asked and done.

use relay_chat::{
    Asking, MessageRange,
    views::{
        Connection, ConversationState, ConversationView, DeviceView, Event, MemberView,
        MessagePage, MessageView, SearchPage,
    },
};
use relay_proto::conv::ConvKind;

use super::{App, Effect, MAX_WATCHED, Overlay, PAGE, Progress, overlay::plain};
use crate::{
    backend::{Act, Answer, Done, Question, device_code},
    text,
    view::{clock, day},
};

impl App {
    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Connection { connection } => self.connected(connection),
            Event::Conversation { conv_id } => {
                self.stale.chats = true;
                if self.is_open(&conv_id) {
                    self.stale.members = true;
                }
            }
            Event::Message { message } => self.message(*message),
            Event::Changed { conv_id, seq, local } => self.changed(conv_id, seq, local),
            Event::Invited { conv_id, by } => {
                self.stale.chats = true;
                let who = self.people.iter().find(|person| person.user_id == by);
                let who = who.map_or_else(|| short(&by), |person| person.name.clone());
                self.say(format!("{who} invites you; Alt-A shows it"));
                if !self.is_open(&conv_id) {
                    self.ring(format!("{} invites you", text::clean(&who)));
                }
            }
            Event::Presence { user_id, .. } => {
                self.stale.members |= self.members.iter().any(|member| member.user_id == user_id);
            }
            Event::File { name, done, total, .. } => {
                let name = text::clean(&name);
                self.progress = (done < total).then_some(Progress { name, done, total });
            }
            Event::Note { text } => self.say(text),
        }
    }

    fn connected(&mut self, connection: Connection) {
        // Coming back is seen by what the outbox then does.
        self.stale.chats = true;
        let before = std::mem::replace(&mut self.connection, connection);
        self.back_online(&before);
    }

    fn message(&mut self, message: MessageView) {
        self.stale.chats = true;
        let chat = self.chats.iter().find(|chat| chat.conv_id == message.conv_id);
        let muted = chat.is_some_and(|chat| chat.muted);
        let direct = chat.is_some_and(|chat| chat.kind == ConvKind::Dm);
        let name = chat.map(|chat| text::clean(&chat.name)).unwrap_or_default();
        let seen = self.looked_at && self.is_open(&message.conv_id);
        let blocked = self.people.iter().any(|it| it.blocked && Some(it.user_id) == message.from);
        let words = plain(&message);
        if !message.own
            && !seen
            && !blocked
            && !words.is_empty()
            && (message.mention || direct && !muted)
        {
            let from = text::clean(&message.from_name);
            self.ring(format!("{from} in {name}: {}", text::cut(&text::clean(&words), 80)));
        }
        if !self.is_open(&message.conv_id) {
            return;
        }
        let Some(open) = &mut self.open else { return };
        let known =
            message.seq.is_some_and(|seq| open.position(super::ItemKey::Seq(seq)).is_some());
        let own = message.own;
        let added = open.add(message);
        if !own && !known && (!added || open.bottom.is_some()) {
            open.below += 1;
        }
    }

    /// Rings and notifies, as far as that is wanted.
    fn ring(&mut self, text: String) {
        if self.settings.bell {
            self.effects.push(Effect::Bell);
        }
        if self.settings.notify {
            self.effects.push(Effect::Notify(text));
        }
    }

    fn changed(&mut self, conv_id: String, seq: Option<u64>, local: Option<i64>) {
        self.stale.chats = true;
        if seq.is_none() {
            // A file may have got as far as it does; if not, its next word follows.
            self.progress = None;
        }
        if !self.is_open(&conv_id) {
            return;
        }
        let Some(open) = &mut self.open else { return };
        match (seq, local) {
            (Some(seq), Some(local)) => open.number(local, seq),
            (Some(seq), None) => {
                if open.position(super::ItemKey::Seq(seq)).is_some() {
                    self.ask(Question::Message { conv_id, seq });
                }
            }
            (None, _) => self.stale.newest = true,
        }
    }

    fn is_open(&self, conv_id: &str) -> bool {
        self.open.as_ref().is_some_and(|open| open.conv_id == conv_id)
    }

    // === answers ===

    pub(super) fn answer(&mut self, question: Question, answer: Answer) {
        match (question, answer) {
            (_, Answer::Me(me, nick)) => {
                self.nick = if nick == "me" { short(&me.user_id) } else { nick };
                self.me = Some(me);
            }
            (_, Answer::Connection(connection)) => {
                let before = std::mem::replace(&mut self.connection, connection);
                self.back_online(&before);
            }
            (_, Answer::Conversations(chats)) => self.take_chats(chats),
            (_, Answer::People(people)) => self.people = people,
            (Question::Members { conv_id }, Answer::Members(members)) if self.is_open(&conv_id) => {
                self.take_members(members);
            }
            (Question::Messages { conv_id, range, .. }, Answer::Messages(page))
                if self.is_open(&conv_id) =>
            {
                self.take_page(range, page);
            }
            (Question::Message { conv_id, .. }, Answer::Message(message))
                if self.is_open(&conv_id) =>
            {
                if let Some(open) = &mut self.open {
                    open.replace(*message);
                }
            }
            (Question::Search { text, within, from }, Answer::Search(page)) => {
                self.take_hits(&text, within.as_deref(), from.is_some(), page);
            }
            (_, Answer::Asking(asking)) => self.asking_page(&asking),
            (_, Answer::SafetyNumber(number)) => self.overlay = Some(Overlay::Verify(number)),
            _ => {}
        }
    }

    pub(super) fn unanswered(&mut self, question: &Question, why: String) {
        if let Some(open) = &mut self.open {
            open.asked = false;
        }
        if let (Question::Search { .. }, Some(Overlay::Search(search))) =
            (question, &mut self.overlay)
        {
            search.running = false;
        }
        self.complain(why);
    }

    /// The list keeps its order: new ones come first, pinned ones before all.
    fn take_chats(&mut self, chats: Vec<ConversationView>) {
        if self.loaded {
            let old = std::mem::take(&mut self.chats);
            let place = |chat: &ConversationView| {
                old.iter().position(|other| other.conv_id == chat.conv_id)
            };
            let mut placed: Vec<_> =
                chats.into_iter().map(|chat| (!chat.pinned, place(&chat), chat)).collect();
            // `None` sorts first.
            placed.sort_by_key(|(unpinned, place, _)| (*unpinned, *place));
            self.chats = placed.into_iter().map(|(.., chat)| chat).collect();
        } else {
            self.chats = chats;
            self.loaded = true;
        }
        if self.open.is_none() && self.place.is_none() {
            let first = self.listed().first().map(|chat| chat.conv_id.clone());
            // Words that were written before there was a chat stay where they are: in no chat.
            if let Some(first) = first.filter(|_| self.draft().active().is_empty()) {
                self.show(&first);
            }
        }
        let most = self.entries().len().saturating_sub(1);
        if self.focus == super::Pane::List {
            self.cursor = self.cursor.min(most);
        }
        self.mark_read();
    }

    fn take_members(&mut self, members: Vec<MemberView>) {
        self.members = members;
        let direct = self.chat().is_some_and(|chat| {
            chat.kind == ConvKind::Dm && chat.state == ConversationState::Active
        });
        let other = self.members.iter().find(|member| !member.own).map(|member| member.user_id);
        // Who is in a room with strangers does not show them when they are there.
        if let Some(other) = other.filter(|_| direct)
            && self.watched.len() < MAX_WATCHED
            && self.watched.insert(other)
        {
            let watched = self.watched.iter().copied().collect();
            self.act(Act::Watch(watched));
        }
    }

    fn take_page(&mut self, range: MessageRange, page: MessagePage) {
        let sought = self.sought;
        let Some(open) = &mut self.open else { return };
        match range {
            MessageRange::Newest if sought.is_some() => return,
            MessageRange::Newest => open.take_newest(page),
            MessageRange::Before(_) if sought.is_some() => {
                self.sought = None;
                open.take_around(sought.unwrap_or_default(), page);
            }
            MessageRange::Before(_) => open.take_before(page),
            MessageRange::After(_) => open.take_after(page),
        }
        self.mark_read();
    }

    fn take_hits(&mut self, text: &str, within: Option<&str>, more: bool, page: SearchPage) {
        let Some(Overlay::Search(search)) = &mut self.overlay else { return };
        if search.asked.as_deref() != Some(text) || search.within.as_deref() != within {
            return;
        }
        if !more {
            search.hits.clear();
        }
        search.hits.extend(page.items);
        search.hits.truncate(4 * PAGE);
        search.next = page.next;
        search.running = false;
    }

    // === what came of acts ===

    pub(super) fn acted(&mut self, act: Act, done: Result<Done, String>) {
        match done {
            Ok(done) => self.acted_well(&act, done),
            Err(why) => self.acted_badly(act, why),
        }
    }

    fn acted_well(&mut self, act: &Act, done: Done) {
        match done {
            Done::Quietly => {}
            Done::Said(text) => {
                self.progress = None;
                self.say(text);
            }
            Done::Opened(conv_id) => {
                self.stale.chats = true;
                if !self.chats.iter().any(|chat| chat.conv_id == conv_id) {
                    // Its line comes with the next answer.
                    self.ask(Question::Conversations);
                }
                self.show(&conv_id);
            }
            Done::Devices(devices) => self.devices_page(&devices),
            Done::Banned(names) => self.banned_page(&names),
            Done::Found(found) => {
                if let Act::Look(place) = act {
                    self.looked(*place, Ok(found));
                }
            }
        }
        match act {
            Act::Verified { .. }
            | Act::Blocked { .. }
            | Act::NamePerson { .. }
            | Act::Nick { .. } => {
                (self.stale.chats, self.stale.people, self.stale.members, self.stale.newest) =
                    (true, true, true, true);
                self.ask(Question::Me);
            }
            Act::Send { .. } | Act::Retry { .. } | Act::TakeBack { .. } => {
                (self.stale.chats, self.stale.newest) = (true, true);
            }
            Act::Set { .. } | Act::MarkRead { .. } | Act::Accept { .. } | Act::Leave { .. } => {
                self.stale.chats = true
            }
            Act::SendFile { .. } => (self.progress, self.stale.newest) = (None, true),
            _ => {}
        }
    }

    /// Says why, and gives back what was written.
    fn acted_badly(&mut self, act: Act, why: String) {
        match act {
            // It is told where it would be shown.
            Act::Look(place) => return self.looked(place, Err(why)),
            Act::Send { conv_id, text, .. } => {
                let text = if text.starts_with('/') { format!("/{text}") } else { text };
                self.drafts.entry(conv_id).or_default().give_back(&text);
            }
            Act::Edit { conv_id, of, text } => {
                let draft = self.drafts.entry(conv_id).or_default();
                if draft.edit.is_none() {
                    draft.begin_edit(&of, &text);
                }
            }
            Act::Direct { person, text: Some(text) } => {
                self.draft_mut().give_back(&format!("/msg {person} {text}"));
            }
            Act::SendFile { .. } | Act::SaveFile { .. } => self.progress = None,
            // The mark is set again with the next message.
            Act::MarkRead { .. } => return,
            _ => {}
        }
        self.complain(why);
    }

    fn banned_page(&mut self, names: &[String]) {
        if names.is_empty() {
            return self.say("nobody is kept out of this room");
        }
        let mut lines: Vec<_> = names.iter().map(|name| text::clean(name)).collect();
        lines.extend([String::new(), "/unban NAME lets somebody be invited again".into()]);
        self.overlay = Some(Overlay::Page { title: "Kept out".into(), lines, from: 0 });
    }

    fn asking_page(&mut self, asking: &[Asking]) {
        if asking.is_empty() {
            return self.say("nobody asks to be let in again");
        }
        let zone = &self.settings.zone;
        let line = |asking: &Asking| {
            let (day, clock) = (day(zone, asking.at_ms), clock(zone, asking.at_ms));
            let code = device_code(&asking.device_id);
            format!("{}  device {code}, since {day} {clock}", text::clean(&asking.name))
        };
        let mut lines: Vec<_> = asking.iter().map(line).collect();
        lines.extend([
            String::new(),
            "/readmit NAME lets them in. Call them first, or meet them: whoever has stolen their key could ask as well."
                .into(),
        ]);
        self.overlay =
            Some(Overlay::Page { title: "Who asks to be let in".into(), lines, from: 0 });
    }

    fn devices_page(&mut self, devices: &[DeviceView]) {
        let mut lines = vec![];
        for device in devices {
            let code = device_code(&device.device_id);
            let what = match (device.current, device.conversations) {
                (true, 0) => "this one, in no chat yet".to_owned(),
                (true, chats) => format!("this one, in {chats} chats"),
                (false, 0) => "new, in no chat yet".to_owned(),
                (false, chats) => format!("in {chats} chats"),
            };
            lines.push(format!("{code}  {what}"));
            lines.push(format!("          id {}", text::clean(&device.device_id)));
        }
        lines.extend([
            String::new(),
            "To take a new device in: put your key on it, sign in, type /device there.".to_owned(),
            "Then here: /device link CODE, with the code that it shows as \"this one\".".to_owned(),
            "Lost one? /device revoke ID. All lost but the key? /device recover on the new one."
                .to_owned(),
        ]);
        self.overlay = Some(Overlay::Page { title: "Your devices".into(), lines, from: 0 });
    }
}

/// The beginning of a key, for those who have no name here.
fn short(user: &relay_proto::NodeId) -> String {
    user.to_string().chars().skip(8).take(8).collect()
}
