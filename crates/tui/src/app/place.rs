//! The entries of the list after the chats: what the relay has beside them. They are read, never written in, and never unread.

use relay_chat::views::{Connection, ConversationView};

use super::{App, Detail};
use crate::backend::{Act, Found, Place};

/// A line of the list.
#[derive(Debug, Clone, Copy)]
pub enum Entry<'a> {
    Chat(&'a ConversationView),
    Place(Place),
}

/// What is shown of a place.
#[derive(Debug, Clone, Default)]
pub struct Sheet {
    /// As it was last read.
    pub found: Option<Found>,
    /// It is being read.
    pub asked: bool,
    /// Why it could not be read the last time.
    pub why: Option<String>,
    /// The first row that is seen.
    pub from: usize,
}

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Self::Feed => "Feed",
            Self::Services => "Services",
        }
    }

    /// What is said to whoever writes here.
    pub(super) fn not_here(self) -> &'static str {
        match self {
            Self::Feed => {
                "the feed is read here, nothing was sent: relay social post 'TEXT' writes a post, Ctrl-P goes to a chat"
            }
            Self::Services => {
                "services are listed here, nothing was sent: relay call NAME METHOD calls one, Ctrl-P goes to a chat"
            }
        }
    }
}

impl App {
    /// The whole list: chats, then places.
    pub fn entries(&self) -> Vec<Entry<'_>> {
        let places = Place::ALL.into_iter().map(Entry::Place);
        self.listed().into_iter().map(Entry::Chat).chain(places).collect()
    }

    /// The line of what is shown.
    pub fn shown_entry(&self) -> Option<usize> {
        let open = self.open.as_ref().map(|open| open.conv_id.as_str());
        self.entries().iter().position(|entry| match entry {
            Entry::Chat(chat) => Some(chat.conv_id.as_str()) == open,
            Entry::Place(place) => Some(*place) == self.place,
        })
    }

    /// What is known of a place.
    pub fn sheet(&self, place: Place) -> &Sheet {
        &self.sheets[place as usize]
    }

    fn sheet_mut(&mut self, place: Place) -> &mut Sheet {
        &mut self.sheets[place as usize]
    }

    /// Shows what stands in a line of the list; `false` where there is none.
    pub(super) fn show_entry(&mut self, line: usize) -> bool {
        let chat = match self.entries().get(line) {
            None => return false,
            Some(Entry::Place(place)) => Err(*place),
            Some(Entry::Chat(chat)) => Ok(chat.conv_id.clone()),
        };
        match chat {
            Ok(conv_id) => self.show(&conv_id),
            Err(place) => self.visit(place),
        }
        true
    }

    /// Shows a place from its top, and reads it anew.
    pub(super) fn visit(&mut self, place: Place) {
        self.open = None;
        self.sought = None;
        self.members.clear();
        self.detail = Detail::Members;
        self.place = Some(place);
        self.focus = self.resting();
        self.sheet_mut(place).from = 0;
        self.reread();
    }

    /// Reads the place that is shown, if one is, anew.
    pub(super) fn reread(&mut self) {
        let Some(place) = self.place else { return };
        let sheet = self.sheet_mut(place);
        if !sheet.asked {
            sheet.asked = true;
            self.act(Act::Look(place));
        }
    }

    /// What could not be read without a connection is read once there is one.
    pub(super) fn back_online(&mut self, before: &Connection) {
        let is_online = |connection: &Connection| matches!(connection, Connection::Online { .. });
        let in_vain = self.place.is_some_and(|place| self.sheet(place).why.is_some());
        if in_vain && is_online(&self.connection) && !is_online(before) {
            self.reread();
        }
    }

    pub(super) fn looked(&mut self, place: Place, found: Result<Found, String>) {
        let sheet = self.sheet_mut(place);
        sheet.asked = false;
        match found {
            Ok(found) => (sheet.found, sheet.why) = (Some(found), None),
            Err(why) => sheet.why = Some(why),
        }
        self.turn(0);
    }

    /// Moves the place that is shown by so many rows, within what there is.
    pub(super) fn turn(&mut self, rows: isize) {
        let Some(place) = self.place else { return };
        let messages = self.layout().messages;
        let all = crate::view::place::rows(self, place, messages.width).len();
        let most = all.saturating_sub(usize::from(messages.height));
        let sheet = self.sheet_mut(place);
        sheet.from = sheet.from.saturating_add_signed(rows).min(most);
    }
}
