//! A chat that is played: conversations, messages and what was asked of it, all in memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use relay_chat::{
    Asking, MessageRange,
    views::{
        Connection, ConversationState, ConversationView, Delivery, DeviceView, Event, Me,
        MemberView, MessageBody, MessagePage, MessageView, PersonView, PostView, SafetyNumber,
        SearchHit, SearchPage, ServiceView,
    },
};
use relay_proto::{
    NodeId,
    conv::{ConvKind, Role},
};
use relay_tui::{Act, Answer, Backend, Done, Found, Place, Question};
use tokio::sync::broadcast;

/// 1 January 2026, 12:41.
pub const NOW: u64 = 1_767_271_260_000;
const MINUTE: u64 = 60_000;

pub const ME: u8 = 17;
pub const BOB: u8 = 34;
pub const CAROL: u8 = 51;
pub const DAVE: u8 = 68;

pub fn user(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32]).unwrap()
}

pub fn name(n: u8) -> &'static str {
    match n {
        ME => "alice",
        BOB => "bob",
        CAROL => "carol",
        _ => "dave",
    }
}

/// A conversation of 43 letters.
pub fn id(letter: char) -> String {
    letter.to_string().repeat(43)
}

#[derive(Debug)]
pub struct World {
    pub me: Me,
    pub connection: Connection,
    pub chats: Vec<ConversationView>,
    pub people: Vec<PersonView>,
    pub members: HashMap<String, Vec<MemberView>>,
    pub messages: HashMap<String, Vec<MessageView>>,
    pub feed: Vec<PostView>,
    pub services: Vec<ServiceView>,
    pub asking: Vec<Asking>,
    pub banned: Vec<String>,
    pub acts: Vec<Act>,
    /// What every further act is answered with.
    pub refuse: Option<String>,
    next_local: i64,
}

#[derive(Debug, Clone)]
pub struct Played {
    world: Arc<Mutex<World>>,
    events: broadcast::Sender<Event>,
}

impl Played {
    /// Nobody and nothing.
    pub fn empty() -> Self {
        let me = Me {
            user_id: user(ME),
            device_id: "bXkgbGFwdG9wIDEyMw".into(),
            relay_url: "https://relay.example.com".into(),
            relay_id: Some("relay.example.com".into()),
            binding_until_s: NOW / 1_000 + 90 * 86_400,
            backed_up: false,
        };
        let world = World {
            me,
            connection: Connection::Online { rtt_ms: 21 },
            chats: Vec::new(),
            people: [BOB, CAROL].into_iter().map(person).collect(),
            members: HashMap::new(),
            messages: HashMap::new(),
            feed: Vec::new(),
            services: Vec::new(),
            asking: Vec::new(),
            banned: Vec::new(),
            acts: Vec::new(),
            refuse: None,
            next_local: 1,
        };
        Self { world: Arc::new(Mutex::new(world)), events: broadcast::channel(1024).0 }
    }

    /// Three chats, as in the picture of the specification.
    pub fn usual() -> Self {
        let played = Self::empty();
        {
            let mut world = played.world();
            let mut ops = chat('o', ConvKind::Room, "#ops");
            ops.home = "alice.home".into();
            (ops.member_count, ops.verified_count) = (4, 1);
            (ops.unread, ops.mentions, ops.read_seq, ops.latest_seq) = (1, 1, 2, 4);
            let mut general = chat('g', ConvKind::Room, "#general");
            general.member_count = 3;
            let mut bob = chat('b', ConvKind::Dm, "bob");
            (bob.unread, bob.latest_seq, bob.verified_count) = (1, 1, 1);
            world.chats = vec![ops, general, bob];
            let talk = vec![
                text('o', 1, BOB, 30, "deploy is held by db/main"),
                text('o', 2, CAROL, 31, "lock frees in 20 s"),
                MessageView { mention: true, ..text('o', 3, BOB, 40, "@alice now mine, token 18") },
                text('o', 4, ME, 41, "thanks"),
            ];
            world.messages.insert(id('o'), talk);
            world.messages.insert(id('b'), vec![text('b', 1, BOB, 12, "are you there?")]);
            world.messages.insert(id('g'), vec![]);
            let all = [ME, BOB, CAROL, DAVE];
            world.members.insert(id('o'), all.into_iter().map(member).collect());
            world.members.insert(id('g'), [ME, BOB, CAROL].into_iter().map(member).collect());
            world.members.insert(id('b'), [ME, BOB].into_iter().map(member).collect());
        }
        played
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Changes one line of the list.
    pub fn change(&self, letter: char, change: impl FnOnce(&mut ConversationView)) {
        let mut world = self.world();
        change(world.chats.iter_mut().find(|chat| chat.conv_id == id(letter)).unwrap());
    }

    pub fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// A message comes from somebody.
    pub fn receive(&self, message: MessageView) {
        {
            let mut world = self.world();
            let messages = world.messages.entry(message.conv_id.clone()).or_default();
            let at = messages.iter().position(|other| other.seq.is_none());
            let at = at.unwrap_or(messages.len());
            messages.insert(at, message.clone());
            if let Some(chat) = world.chats.iter_mut().find(|chat| chat.conv_id == message.conv_id)
            {
                chat.unread += 1;
                chat.latest_seq = message.seq.unwrap_or(0);
            }
        }
        self.tell(Event::Message { message: Box::new(message) });
    }

    /// The relay stores the first message of a chat's outbox.
    pub fn store(&self, letter: char) {
        let (message, local) = {
            let mut world = self.world();
            let messages = world.messages.get_mut(&id(letter)).unwrap();
            let seq = messages.iter().filter_map(|message| message.seq).max().unwrap_or(0) + 1;
            let message = messages.iter_mut().find(|message| message.seq.is_none()).unwrap();
            let local = message.local.take();
            message.seq = Some(seq);
            message.delivery = Delivery::Stored;
            (message.clone(), local)
        };
        self.tell(Event::Changed { conv_id: id(letter), seq: message.seq, local });
        self.tell(Event::Message { message: Box::new(message) });
    }

    /// Something happens to the first message of a chat's outbox.
    pub fn deliver(&self, letter: char, delivery: Delivery) {
        let local = {
            let mut world = self.world();
            let messages = world.messages.get_mut(&id(letter)).unwrap();
            let message = messages.iter_mut().find(|message| message.seq.is_none()).unwrap();
            message.delivery = delivery;
            message.local
        };
        self.tell(Event::Changed { conv_id: id(letter), seq: None, local });
    }

    /// Whether something like this was done.
    pub fn did(&self, like: impl Fn(&Act) -> bool) -> bool {
        self.world().acts.iter().any(like)
    }
}

impl Backend for Played {
    fn answer(&self, question: &Question) -> Result<Answer, String> {
        let world = self.world();
        Ok(match question {
            Question::Me => Answer::Me(world.me.clone(), "alice".into()),
            Question::Connection => Answer::Connection(world.connection.clone()),
            Question::Conversations => Answer::Conversations(world.chats.clone()),
            Question::People => Answer::People(world.people.clone()),
            Question::Messages { conv_id, range, limit } => {
                let all = world.messages.get(conv_id).cloned().unwrap_or_default();
                Answer::Messages(page(all, *range, *limit))
            }
            Question::Message { conv_id, seq } => {
                let all = world.messages.get(conv_id).into_iter().flatten();
                let found = all.into_iter().find(|message| message.seq == Some(*seq));
                Answer::Message(Box::new(found.cloned().ok_or("no such message")?))
            }
            Question::Members { conv_id } => {
                Answer::Members(world.members.get(conv_id).cloned().unwrap_or_default())
            }
            Question::Search { text, within, .. } => {
                Answer::Search(found(&world, text, within.as_deref()))
            }
            Question::Asking { .. } => Answer::Asking(world.asking.clone()),
            Question::SafetyNumber { user } => Answer::SafetyNumber(SafetyNumber {
                user_id: *user,
                name: name(user.as_bytes()[0]).into(),
                digits: ["12345 67890 11121 31415"; 3].join(" "),
                verified: false,
            }),
        })
    }

    async fn act(&self, act: Act) -> Result<Done, String> {
        let mut world = self.world();
        world.acts.push(act.clone());
        if let Some(why) = &world.refuse {
            return Err(why.clone());
        }
        let done = match act {
            Act::Send { conv_id, text: words, .. } => {
                let local = world.next_local;
                world.next_local += 1;
                let letter = conv_id.chars().next().unwrap_or('?');
                let waits = MessageView {
                    seq: None,
                    local: Some(local),
                    at_ms: NOW,
                    delivery: Delivery::Sending,
                    ..text(letter, 0, ME, 0, &words)
                };
                world.messages.entry(conv_id.clone()).or_default().push(waits);
                drop(world);
                self.tell(Event::Changed { conv_id, seq: None, local: Some(local) });
                Done::Quietly
            }
            Act::MarkRead { conv_id, seq } => {
                if let Some(chat) = world.chats.iter_mut().find(|chat| chat.conv_id == conv_id) {
                    (chat.unread, chat.mentions) = (0, 0);
                    chat.read_seq = seq.unwrap_or(chat.latest_seq);
                }
                Done::Quietly
            }
            Act::Accept { conv_id } => {
                if let Some(chat) = world.chats.iter_mut().find(|chat| chat.conv_id == conv_id) {
                    chat.state = ConversationState::Active;
                }
                Done::Quietly
            }
            Act::Set { conv_id, settings } => {
                if let Some(chat) = world.chats.iter_mut().find(|chat| chat.conv_id == conv_id) {
                    chat.muted = settings.muted.unwrap_or(chat.muted);
                    chat.pinned = settings.pinned.unwrap_or(chat.pinned);
                    chat.archived = settings.archived.unwrap_or(chat.archived);
                }
                Done::Quietly
            }
            Act::Direct { .. } => Done::Opened(id('b')),
            Act::Banned { .. } => Done::Banned(world.banned.clone()),
            Act::Restart { .. } => Done::Opened(id('g')),
            Act::Find { .. } => Done::Opened(id('g')),
            Act::Look(Place::Feed) => Done::Found(Found::Posts(world.feed.clone())),
            Act::Look(Place::Services) => Done::Found(Found::Services(world.services.clone())),
            Act::Devices => Done::Devices(vec![
                device("bXkgbGFwdG9wIDEyMw", true, 3),
                device("cGhvbmUgcGhvbmUgNA", false, 0),
            ]),
            Act::LinkDevice { code } => {
                Done::Said(format!("device {code} is taken into your conversations"))
            }
            _ => Done::Quietly,
        };
        Ok(done)
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }
}

fn page(all: Vec<MessageView>, range: MessageRange, limit: usize) -> MessagePage {
    let (sent, waiting): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|message| message.seq.is_some());
    let within = |message: &MessageView| match range {
        MessageRange::Newest => true,
        MessageRange::Before(seq) => message.seq < Some(seq),
        MessageRange::After(seq) => message.seq > Some(seq),
    };
    let total = sent.len();
    let all: Vec<_> = sent.into_iter().filter(within).collect();
    let left = total - all.len();
    let more = all.len() > limit;
    let cut = all.len().saturating_sub(limit);
    match range {
        MessageRange::Newest => MessagePage {
            items: all.into_iter().skip(cut).chain(waiting).collect(),
            more_before: more,
            more_after: false,
        },
        MessageRange::Before(_) => MessagePage {
            items: all.into_iter().skip(cut).collect(),
            more_before: more,
            more_after: left > 0,
        },
        MessageRange::After(_) => MessagePage {
            items: all
                .into_iter()
                .take(limit)
                .chain(waiting.into_iter().filter(|_| !more))
                .collect(),
            more_before: left > 0,
            more_after: more,
        },
    }
}

fn found(world: &World, text: &str, within: Option<&str>) -> SearchPage {
    let mut items = Vec::new();
    for chat in &world.chats {
        if within.is_some_and(|within| within != chat.conv_id) {
            continue;
        }
        for message in world.messages.get(&chat.conv_id).into_iter().flatten().rev() {
            if matches!(&message.body, MessageBody::Text { text: words } if words.contains(text)) {
                items.push(SearchHit { conv_name: chat.name.clone(), message: message.clone() });
            }
        }
    }
    SearchPage { items, next: None }
}

pub fn chat(letter: char, kind: ConvKind, called: &str) -> ConversationView {
    ConversationView {
        conv_id: id(letter),
        kind,
        name: called.into(),
        topic: String::new(),
        label: String::new(),
        state: ConversationState::Active,
        home: "relay.example.com".into(),
        member_count: 2,
        verified_count: 0,
        unread: 0,
        mentions: 0,
        read_seq: 0,
        latest_seq: 0,
        last: None,
        active_at_ms: NOW,
        muted: false,
        pinned: false,
        archived: false,
        waiting: 0,
        waits_for: None,
        epoch: 3,
        check: None,
        role: Role::Member,
    }
}

pub fn text(letter: char, seq: u64, from: u8, minute: u64, words: &str) -> MessageView {
    MessageView {
        conv_id: id(letter),
        seq: Some(seq),
        local: None,
        id: Some(format!("{letter}{seq:021}")),
        from: Some(user(from)),
        from_name: name(from).into(),
        own: from == ME,
        at_ms: NOW - 41 * MINUTE + minute * MINUTE,
        body: MessageBody::Text { text: words.into() },
        edited: false,
        mention: false,
        reply_to: None,
        reactions: Vec::new(),
        read_by: Vec::new(),
        delivery: Delivery::Stored,
    }
}

fn member(n: u8) -> MemberView {
    MemberView {
        user_id: user(n),
        name: name(n).into(),
        role: if n == ME { Role::Owner } else { Role::Member },
        devices: 1,
        verified: n == BOB,
        own: n == ME,
        read_seq: 0,
        presence: match n {
            BOB => Some("online".into()),
            CAROL => Some("offline".into()),
            _ => None,
        },
    }
}

fn person(n: u8) -> PersonView {
    PersonView { user_id: user(n), name: name(n).into(), verified: n == BOB, blocked: false }
}

fn device(id: &str, current: bool, conversations: usize) -> DeviceView {
    DeviceView {
        device_id: id.into(),
        current,
        conversations,
        binding_until_s: 0,
        key_packages: Some(20),
    }
}
