//! What the screen asks and does, as values, and the chat that answers.

mod chat;

use std::future::Future;

use relay_chat::{
    Asking, MessageRange, Settings as ConversationSettings,
    views::{
        Connection, ConversationView, DeviceView, Event, Me, MemberView, MessagePage, MessageView,
        PersonView, PostView, SafetyNumber, SearchCursor, SearchPage, ServiceView,
    },
};
use relay_proto::NodeId;
use tokio::sync::broadcast;

pub use chat::{ChatBackend, device_code};

/// What is behind the screen.
pub trait Backend: Send + Sync + 'static {
    /// Answers at once from the local state; an error is a sentence for the user.
    ///
    /// # Errors
    /// The sentence.
    fn answer(&self, question: &Question) -> Result<Answer, String>;

    /// Does something; an error is a sentence for the user.
    fn act(&self, act: Act) -> impl Future<Output = Result<Done, String>> + Send;

    /// What happens from now on.
    fn events(&self) -> broadcast::Receiver<Event>;
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    Me,
    Connection,
    Conversations,
    People,
    Messages {
        conv_id: String,
        range: MessageRange,
        limit: usize,
    },
    Message {
        conv_id: String,
        seq: u64,
    },
    Members {
        conv_id: String,
    },
    Search {
        text: String,
        within: Option<String>,
        from: Option<SearchCursor>,
    },
    SafetyNumber {
        user: NodeId,
    },
    /// Who asks to be let into a chat again.
    Asking {
        conv_id: String,
    },
}

impl Question {
    /// It may take longer than a frame and is asked beside the screen.
    pub fn is_long(&self) -> bool {
        matches!(self, Self::Search { .. })
    }
}

/// What is answered, each to its question.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Who this is, and what they call themselves.
    Me(Me, String),
    Connection(Connection),
    Conversations(Vec<ConversationView>),
    People(Vec<PersonView>),
    Messages(MessagePage),
    Message(Box<MessageView>),
    Members(Vec<MemberView>),
    Search(SearchPage),
    SafetyNumber(SafetyNumber),
    Asking(Vec<Asking>),
}

/// How this user appears to those who watch them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    #[default]
    Online,
    /// Watches others without being seen.
    Invisible,
    Off,
}

/// What the relay has beside the chats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Posts of the social layer, by this user and whom they follow.
    Feed,
    /// Services that can be called.
    Services,
}

impl Place {
    /// In the order of the list.
    pub const ALL: [Self; 2] = [Self::Feed, Self::Services];
}

/// What is in a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Posts(Vec<PostView>),
    Services(Vec<ServiceView>),
}

/// What can be done. People are as the user typed them: a name or a key.
#[derive(Debug, Clone)]
pub enum Act {
    Send { conv_id: String, text: String, reply_to: Option<String> },
    Edit { conv_id: String, of: String, text: String },
    Delete { conv_id: String, of: String },
    React { conv_id: String, to: String, emoji: String, remove: bool },
    MarkRead { conv_id: String, seq: Option<u64> },
    Retry { local: i64 },
    TakeBack { local: i64 },
    Direct { person: String, text: Option<String> },
    NewRoom { name: String, people: Vec<String> },
    Find { conversation: String },
    Accept { conv_id: String },
    Leave { conv_id: String },
    Invite { conv_id: String, people: Vec<String> },
    Remove { conv_id: String, person: String },
    Ban { conv_id: String, person: String },
    Unban { conv_id: String, person: String },
    Banned { conv_id: String },
    Readmit { conv_id: String, person: String },
    Restart { conv_id: String },
    SetRoom { conv_id: String, name: Option<String>, topic: Option<String> },
    Set { conv_id: String, settings: ConversationSettings },
    NamePerson { person: String, name: String },
    Nick { name: String },
    Verified { user: NodeId, verified: bool },
    Blocked { user: NodeId, blocked: bool },
    Appear(Presence),
    Watch(Vec<NodeId>),
    Connect,
    Look(Place),
    Devices,
    LinkDevice { code: String },
    RevokeDevice { device_id: String },
    Recover,
    Export { conv_id: String, path: String },
    SendFile { conv_id: String, path: String },
    SaveFile { conv_id: String, seq: u64 },
}

impl Act {
    /// It waits for the relay or moves much: it is done beside what the user does next. All others keep their order.
    pub fn is_long(&self) -> bool {
        matches!(
            self,
            Self::Look(_)
                | Self::Ban { .. }
                | Self::Unban { .. }
                | Self::Banned { .. }
                | Self::Devices
                | Self::LinkDevice { .. }
                | Self::RevokeDevice { .. }
                | Self::Recover
                | Self::Export { .. }
                | Self::SendFile { .. }
                | Self::SaveFile { .. }
        )
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// Events tell the rest.
    Quietly,
    /// This is to be told.
    Said(String),
    /// This conversation is to be shown.
    Opened(String),
    Devices(Vec<DeviceView>),
    Found(Found),
    /// Whom a room keeps out, by name.
    Banned(Vec<String>),
}
