//! What is on the screen, and what happens to it.
//!
//! [`App::update`] takes one thing that has happened and gives what is to be done; [`App::settle`] is asked once after a batch
//! and gives the questions whose answers are out of date. There is no clock, no terminal and no chat in here.

mod actions;
mod draft;
mod entered;
mod heard;
mod message;
mod over;
mod overlay;
mod place;
mod timeline;

use std::collections::{BTreeSet, HashMap};

use relay_chat::{
    MessageRange,
    views::{Connection, ConversationState, ConversationView, Event, Me, MemberView, PersonView},
};
use relay_proto::NodeId;

pub use draft::{Draft, ReplyTo};
pub use overlay::{Asking, Candidate, Choice, Overlay, Search, Then};
pub use place::{Entry, Sheet};
pub use timeline::{ItemKey, PAGE, Timeline, is_said, key_of};

use crate::{
    backend::{Act, Answer, Done, Place, Presence, Question},
    config::Settings,
    keys::{Key, Preset},
    view::layout::Layout,
};

/// Something has happened.
#[derive(Debug, Clone)]
pub enum Input {
    Key(Key),
    Paste(String),
    Resize(u16, u16),
    /// The terminal's window is looked at, or no longer.
    Focus(bool),
    /// Time has passed.
    Tick,
    Event(Event),
    /// Events were missed.
    Missed,
    Answer(Question, Result<Answer, String>),
    Acted(Act, Result<Done, String>),
}

/// Something is to be done.
#[derive(Debug, Clone)]
pub enum Effect {
    Ask(Question),
    Do(Act),
    Bell,
    /// To be told by the terminal's notifications.
    Notify(String),
    Title(String),
    /// Into the clipboard.
    Copy(String),
    OpenLink(String),
    /// The terminal's contents are not to be trusted any more.
    Redraw,
    Quit,
}

/// What keys are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pane {
    List,
    Timeline,
    Details,
    Input,
}

/// What the details show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    Members,
    Message(ItemKey),
}

/// A line above the input, until the next key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub text: String,
    pub bad: bool,
}

/// A file on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub name: String,
    pub done: u64,
    pub total: u64,
}

/// The whole screen.
#[derive(Debug)]
pub struct App {
    pub settings: Settings,
    pub size: (u16, u16),
    /// As the last input told it.
    pub now_ms: u64,
    pub me: Option<Me>,
    /// What this user calls themselves.
    pub nick: String,
    pub connection: Connection,
    pub presence: Presence,
    /// In the order of the list; the order stays while the program runs, so that a key always means the same chat.
    pub chats: Vec<ConversationView>,
    /// The list was read once.
    pub loaded: bool,
    pub people: Vec<PersonView>,
    /// Of the open chat.
    pub members: Vec<MemberView>,
    pub open: Option<Timeline>,
    /// What is shown instead of a chat.
    pub place: Option<Place>,
    /// What is known of each place.
    sheets: [Sheet; Place::ALL.len()],
    /// What is being written, by chat; the empty name is that of no chat.
    drafts: HashMap<String, Draft>,
    pub focus: Pane,
    /// The line of the list, where keys are about the list; the details' first line, where they are about those.
    pub cursor: usize,
    pub detail: Detail,
    pub overlay: Option<Overlay>,
    pub said: Option<Said>,
    pub progress: Option<Progress>,
    /// Somebody looks at the terminal, as far as it tells.
    looked_at: bool,
    /// Quitting was asked for once although there are drafts.
    quitting: bool,
    title: String,
    watched: BTreeSet<NodeId>,
    /// A message that a search has found and whose neighbours were asked for.
    sought: Option<u64>,
    stale: Stale,
    effects: Vec<Effect>,
}

/// What must be asked for again.
#[derive(Debug, Default)]
struct Stale {
    chats: bool,
    people: bool,
    members: bool,
    newest: bool,
}

/// People of direct messages whose presence is watched, at most.
const MAX_WATCHED: usize = 200;

impl App {
    /// An empty screen, and what fills it.
    pub fn new(settings: Settings, size: (u16, u16), now_ms: u64) -> (Self, Vec<Effect>) {
        let presence = settings.presence;
        let vim = settings.keys.preset == Preset::Vim;
        let app = Self {
            settings,
            size,
            now_ms,
            me: None,
            nick: String::new(),
            connection: Connection::Connecting,
            presence,
            chats: Vec::new(),
            loaded: false,
            people: Vec::new(),
            members: Vec::new(),
            open: None,
            place: None,
            sheets: Default::default(),
            drafts: HashMap::new(),
            focus: if vim { Pane::Timeline } else { Pane::Input },
            cursor: 0,
            detail: Detail::Members,
            overlay: None,
            said: None,
            progress: None,
            looked_at: true,
            quitting: false,
            title: String::new(),
            watched: BTreeSet::new(),
            sought: None,
            stale: Stale::default(),
            effects: Vec::new(),
        };
        let effects =
            [Question::Me, Question::Connection, Question::Conversations, Question::People];
        let mut effects: Vec<_> = effects.into_iter().map(Effect::Ask).collect();
        effects.push(Effect::Do(Act::Appear(presence)));
        (app, effects)
    }

    /// Takes in what has happened.
    pub fn update(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        self.now_ms = now_ms;
        match input {
            Input::Key(key) => self.key(key),
            Input::Paste(text) => self.paste(text),
            Input::Resize(width, height) => self.size = (width, height),
            Input::Focus(looked_at) => self.look(looked_at),
            Input::Tick => {}
            Input::Event(event) => self.event(event),
            Input::Missed => {
                self.stale = Stale { chats: true, people: true, members: true, newest: true };
                self.effects.push(Effect::Ask(Question::Connection));
            }
            Input::Answer(question, Ok(answer)) => self.answer(question, answer),
            Input::Answer(question, Err(why)) => self.unanswered(&question, why),
            Input::Acted(act, done) => self.acted(act, done),
        }
        std::mem::take(&mut self.effects)
    }

    /// What is out of date after all that was taken in: asked for once, however much has happened.
    pub fn settle(&mut self) -> Vec<Effect> {
        let stale = std::mem::take(&mut self.stale);
        if stale.chats {
            self.ask(Question::Conversations);
        }
        if stale.people {
            self.ask(Question::People);
        }
        let open = self.open.as_ref().map(|open| (open.conv_id.clone(), open.more_after));
        if let Some((conv_id, more_after)) = open {
            if stale.members {
                self.ask(Question::Members { conv_id: conv_id.clone() });
            }
            if stale.newest && !more_after {
                self.ask(Question::Messages { conv_id, range: MessageRange::Newest, limit: PAGE });
            }
        }
        self.retitle();
        std::mem::take(&mut self.effects)
    }

    // === what views and tests read ===

    /// The chat that is shown.
    pub fn chat(&self) -> Option<&ConversationView> {
        let open = self.open.as_ref()?;
        self.chats.iter().find(|chat| chat.conv_id == open.conv_id)
    }

    /// The chats of the list: without those that are over or put away.
    pub fn listed(&self) -> Vec<&ConversationView> {
        let shown = |chat: &&ConversationView| {
            let open = self.open.as_ref().is_some_and(|open| open.conv_id == chat.conv_id);
            open || (!chat.archived && chat.state != ConversationState::Left)
        };
        self.chats.iter().filter(shown).collect()
    }

    /// What is being written here.
    pub fn draft(&self) -> &Draft {
        static NOTHING: std::sync::LazyLock<Draft> = std::sync::LazyLock::new(Draft::default);
        self.drafts.get(self.draft_name()).unwrap_or(&NOTHING)
    }

    /// What is being written in a chat.
    pub fn draft_of(&self, conv_id: &str) -> Option<&Draft> {
        self.drafts.get(conv_id)
    }

    /// How many messages wait in all chats.
    pub fn waiting(&self) -> usize {
        self.chats.iter().map(|chat| chat.waiting).sum()
    }

    /// Nothing is being typed: letters are keys.
    pub fn is_reading(&self) -> bool {
        self.focus != Pane::Input
    }

    /// Where everything is drawn.
    pub fn layout(&self) -> Layout {
        Layout::of(self)
    }

    // === the small steps ===

    fn draft_name(&self) -> &str {
        match (&self.open, self.place) {
            (Some(open), _) => &open.conv_id,
            // A conversation's id is longer.
            (None, Some(place)) => place.name(),
            (None, None) => "",
        }
    }

    fn draft_mut(&mut self) -> &mut Draft {
        let name = self.draft_name().to_owned();
        self.drafts.entry(name).or_default()
    }

    fn ask(&mut self, question: Question) {
        self.effects.push(Effect::Ask(question));
    }

    fn act(&mut self, act: Act) {
        self.effects.push(Effect::Do(act));
    }

    fn say(&mut self, text: impl Into<String>) {
        self.said = Some(Said { text: crate::text::clean(&text.into()), bad: false });
    }

    fn complain(&mut self, text: impl Into<String>) {
        self.said = Some(Said { text: crate::text::clean(&text.into()), bad: true });
    }

    /// Shows a chat from its newest message.
    fn show(&mut self, conv_id: &str) {
        if self.open.as_ref().is_some_and(|open| open.conv_id == conv_id) {
            return;
        }
        let chat = self.chats.iter().find(|chat| chat.conv_id == conv_id);
        let new_after = chat.filter(|chat| chat.unread > 0).map(|chat| chat.read_seq);
        self.open = Some(Timeline::new(conv_id, new_after));
        self.place = None;
        self.sought = None;
        self.members.clear();
        self.detail = Detail::Members;
        self.focus = self.resting();
        let conv_id = conv_id.to_owned();
        let range = MessageRange::Newest;
        self.ask(Question::Messages { conv_id: conv_id.clone(), range, limit: PAGE });
        self.ask(Question::Members { conv_id });
    }

    /// Where keys go when nothing else is wanted.
    fn resting(&self) -> Pane {
        match self.settings.keys.preset {
            Preset::Vim => Pane::Timeline,
            Preset::Default => Pane::Input,
        }
    }

    /// What is seen is read.
    fn mark_read(&mut self) {
        let (Some(open), Some(chat)) = (&self.open, self.chat()) else { return };
        let seen = self.looked_at && open.at_end() && open.loaded;
        let newest = open.newest_seq();
        if seen && chat.unread > 0 && chat.state.is_writable() && newest > Some(chat.read_seq) {
            let conv_id = open.conv_id.clone();
            self.act(Act::MarkRead { conv_id, seq: newest });
        }
    }

    fn look(&mut self, looked_at: bool) {
        self.looked_at = looked_at;
        if looked_at {
            self.mark_read();
        } else if let Some(open) = &mut self.open {
            // What comes while nobody looks is new.
            open.new_after = open.newest_seq();
        }
    }

    fn retitle(&mut self) {
        let unread: u64 =
            self.chats.iter().filter(|chat| !chat.muted).map(|chat| chat.unread).sum();
        let count = if unread > 0 { format!("({unread}) ") } else { String::new() };
        let name = match (self.place, self.chat()) {
            (Some(place), _) => format!("{} · ", place.name()),
            (None, Some(chat)) => format!("{} · ", crate::text::clean(&chat.name)),
            (None, None) => String::new(),
        };
        let title = format!("{count}{name}Relay");
        if title != self.title {
            self.effects.push(Effect::Title(title.clone()));
            self.title = title;
        }
    }
}
