//! The part of a chat's messages that is loaded, and which part of it is seen.

use relay_chat::views::{Delivery, MessageBody, MessagePage, MessageView};

/// Messages asked for at once.
pub const PAGE: usize = 100;
/// Messages that are kept; those furthest from what is seen go first.
const MAX_LOADED: usize = 4 * PAGE;

/// Messages that are shown below one that was found.
const AFTER_FOUND: usize = 5;

/// Names a message, also before it has a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ItemKey {
    Seq(u64),
    /// In the outbox.
    Local(i64),
}

/// One chat's messages.
#[derive(Debug, Clone)]
pub struct Timeline {
    pub conv_id: String,
    /// Oldest first; those with a number, then the outbox.
    pub items: Vec<MessageView>,
    /// There are older ones than those that are loaded.
    pub more_before: bool,
    /// There are newer ones.
    pub more_after: bool,
    /// The first answer is there.
    pub loaded: bool,
    /// A page was asked for.
    pub asked: bool,
    /// Messages of others after this one are new.
    pub new_after: Option<u64>,
    /// The last row that is seen: a message, and a row of it. `None`: the end, also when more comes.
    pub bottom: Option<(ItemKey, usize)>,
    /// The message that keys are about.
    pub selected: Option<ItemKey>,
    /// Messages that came below what is seen.
    pub below: usize,
}

/// The name of a message.
pub fn key_of(message: &MessageView) -> Option<ItemKey> {
    match (message.seq, message.local) {
        (Some(seq), _) => Some(ItemKey::Seq(seq)),
        (None, Some(local)) => Some(ItemKey::Local(local)),
        (None, None) => None,
    }
}

impl Timeline {
    pub fn new(conv_id: &str, new_after: Option<u64>) -> Self {
        Self {
            conv_id: conv_id.to_owned(),
            items: Vec::new(),
            more_before: false,
            more_after: false,
            loaded: false,
            asked: true,
            new_after,
            bottom: None,
            selected: None,
            below: 0,
        }
    }

    /// The end is seen.
    pub fn at_end(&self) -> bool {
        self.bottom.is_none() && !self.more_after
    }

    pub fn newest_seq(&self) -> Option<u64> {
        self.items.iter().filter_map(|item| item.seq).next_back()
    }

    pub fn oldest_seq(&self) -> Option<u64> {
        self.items.first().and_then(|item| item.seq)
    }

    pub fn position(&self, key: ItemKey) -> Option<usize> {
        self.items.iter().position(|item| key_of(item) == Some(key))
    }

    pub fn get(&self, key: ItemKey) -> Option<&MessageView> {
        self.items.iter().find(|item| key_of(item) == Some(key))
    }

    pub fn selected(&self) -> Option<&MessageView> {
        self.get(self.selected?)
    }

    /// The newest own message that was not sent, if nothing was sent after it.
    pub fn failed(&self) -> Option<i64> {
        let own = self.items.iter().rev().find(|item| item.own && is_said(item))?;
        own.local.filter(|_| matches!(own.delivery, Delivery::Failed { .. }))
    }

    /// Takes the newest messages in, and the outbox as it is now.
    pub fn take_newest(&mut self, page: MessagePage) {
        (self.asked, self.loaded) = (false, true);
        let first = page.items.iter().find_map(|item| item.seq);
        let joins = match (self.newest_seq(), first) {
            (Some(newest), Some(first)) => first <= newest + 1,
            _ => false,
        };
        if joins && !self.more_after {
            self.items.retain(|item| item.seq.is_some_and(|seq| Some(seq) < first));
            self.items.extend(page.items);
        } else {
            self.items = page.items;
            self.more_before = page.more_before;
        }
        self.more_after = false;
        self.tidy(self.bottom.is_none());
    }

    /// Takes older messages in.
    pub fn take_before(&mut self, page: MessagePage) {
        self.asked = false;
        self.more_before = page.more_before;
        let oldest = self.oldest_seq();
        let mut items: Vec<_> = page
            .items
            .into_iter()
            .filter(|item| item.seq.is_some() && (oldest.is_none() || item.seq < oldest))
            .collect();
        items.append(&mut self.items);
        self.items = items;
        self.tidy(false);
    }

    /// Takes newer messages in, with the outbox where they reach the end.
    pub fn take_after(&mut self, page: MessagePage) {
        self.asked = false;
        self.more_after = page.more_after;
        let newest = self.newest_seq();
        self.items.retain(|item| item.seq.is_some());
        self.items
            .extend(page.items.into_iter().filter(|item| item.seq.is_none() || item.seq > newest));
        self.tidy(true);
    }

    /// Shows the messages around one of them, which a search has found.
    pub fn take_around(&mut self, seq: u64, page: MessagePage) {
        (self.asked, self.loaded) = (false, true);
        self.more_before = page.more_before;
        self.more_after = page.more_after;
        self.items = page.items;
        self.selected = Some(ItemKey::Seq(seq)).filter(|key| self.position(*key).is_some());
        // With some of what came after it.
        let shown = self.selected.and_then(|key| self.position(key)).map(|at| at + AFTER_FOUND);
        let last = shown.and_then(|at| self.items.get(at)).or(self.items.last());
        self.bottom = last.and_then(key_of).map(|key| (key, 0));
        self.below = 0;
    }

    /// A message has come. `false` where it lies beyond what is loaded.
    pub fn add(&mut self, message: MessageView) -> bool {
        let Some(seq) = message.seq else { return false };
        if let Some(at) = self.position(ItemKey::Seq(seq)) {
            self.items.remove(at);
        } else if self.more_after && self.newest_seq().is_some_and(|newest| seq > newest) {
            return false;
        }
        let at = self.items.iter().position(|item| item.seq.is_none_or(|other| other > seq));
        self.items.insert(at.unwrap_or(self.items.len()), message);
        self.tidy(self.bottom.is_none());
        true
    }

    /// A message is another one now.
    pub fn replace(&mut self, message: MessageView) {
        if let Some(at) = key_of(&message).and_then(|key| self.position(key)) {
            self.items[at] = message;
        }
    }

    /// A message of the outbox has its number.
    pub fn number(&mut self, local: i64, seq: u64) {
        if let Some(at) = self.position(ItemKey::Local(local)) {
            let mut message = self.items.remove(at);
            (message.seq, message.local) = (Some(seq), None);
            message.delivery = Delivery::Stored;
            let keys = self.selected.iter_mut().chain(self.bottom.iter_mut().map(|(key, _)| key));
            for key in keys.filter(|key| **key == ItemKey::Local(local)) {
                *key = ItemKey::Seq(seq);
            }
            self.add(message);
        }
    }

    /// Lets go of what is too much, and of names of messages that are gone.
    fn tidy(&mut self, oldest_first: bool) {
        if self.items.len() > MAX_LOADED {
            if oldest_first {
                self.items.drain(..self.items.len() - MAX_LOADED);
                self.more_before = true;
            } else {
                self.items.truncate(MAX_LOADED);
                self.more_after = true;
            }
        }
        if self.selected.is_some_and(|key| self.position(key).is_none()) {
            self.selected = None;
        }
        if self.bottom.is_some_and(|(key, _)| self.position(key).is_none()) {
            self.bottom = None;
        }
    }
}

/// It is something that a person has said.
pub fn is_said(message: &MessageView) -> bool {
    matches!(message.body, MessageBody::Text { .. } | MessageBody::File { .. })
}
