//! People who chat through a relay.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::{path::Path, time::Duration};

use relay_chat::{
    Chat, MessageRange, Options, Unlock,
    views::{ConversationState, MessageBody, MessageView},
};
use relay_proto::{NodeId, SigningKey};
use zeroize::Zeroizing;

use crate::support::Relay;

/// No answer takes so long; a test that waits longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// No rate gets into the way of tests that are not about rates.
pub const FREE: &str = "[chat]
sends_per_min = 0
frames_per_sec = 0
user_frames_per_sec = 0
auth_per_ip_per_min = 0
auth_per_user_per_min = 0
dm_creates_per_min = 0
room_creates_per_min = 0
invites_per_min = 0
removes_per_min = 0
kp_fetches_per_min = 0
kp_target_fetches_per_min = 0
kp_publishes_per_min = 0
conns_per_user = 0
conns_per_device = 0
";

/// A user with a chat.
pub struct Person {
    pub chat: Chat,
    pub n: u8,
    pub dir: tempfile::TempDir,
    url: String,
}

pub fn key(n: u8) -> SigningKey {
    SigningKey::from_seed([n; 32])
}

pub fn unlock() -> Unlock {
    Unlock::Key(Zeroizing::new([9; 32]))
}

pub fn options(url: &str, n: u8, profile: &Path) -> Options {
    Options {
        profile: profile.to_owned(),
        unlock: unlock(),
        user: key(n).into(),
        relay_url: url.to_owned(),
        label: "test".into(),
        timeout: Duration::from_secs(20),
    }
}

impl Person {
    /// Somebody with a device of their own, connected.
    pub async fn join(relay: &Relay, n: u8) -> Self {
        let person = Self::open(&relay.url, n, tempfile::tempdir().unwrap()).await;
        person.online().await;
        person
    }

    pub async fn open(url: &str, n: u8, dir: tempfile::TempDir) -> Self {
        let chat = Chat::open(options(url, n, &dir.path().join("profile"))).await.unwrap();
        Self { chat, n, dir, url: url.to_owned() }
    }

    /// Ends the process, as far as a test can, and starts it again on the same profile.
    pub async fn restart(self) -> Self {
        let Self { chat, n, dir, url } = self;
        chat.close().await;
        Self::open(&url, n, dir).await
    }

    pub fn id(&self) -> NodeId {
        key(self.n).node_id()
    }

    pub async fn online(&self) {
        within("a connection", self.chat.online()).await.unwrap();
    }

    /// Waits until something can be seen.
    pub async fn until(&self, what: &str, holds: impl Fn(&Chat) -> bool) {
        let mut events = self.chat.events();
        let wait = async {
            while !holds(&self.chat) {
                // Whoever missed events looks again.
                let _ = events.recv().await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            let seen = self.chat.conversations().unwrap();
            panic!("person {}: no {what}; {:#?}\n{:#?}", self.n, seen, self.chat.outbox().unwrap());
        }
    }

    /// Waits for an invitation and accepts it.
    pub async fn accept(&self) -> String {
        let invited = |chat: &Chat| {
            let all = chat.conversations().unwrap();
            all.into_iter().find(|view| matches!(view.state, ConversationState::Invited { .. }))
        };
        self.until("invitation", |chat| invited(chat).is_some()).await;
        let conv_id = invited(&self.chat).unwrap().conv_id;
        self.chat.accept(&conv_id).await.unwrap();
        conv_id
    }

    pub async fn send(&self, conv_id: &str, text: &str) {
        self.chat.send_text(conv_id, text, None).await.unwrap();
    }

    /// Waits until a message with these words is in the log, and gives it.
    pub async fn reads(&self, conv_id: &str, text: &str) -> MessageView {
        let what = format!("message '{text}'");
        self.until(&what, |chat| find(chat, conv_id, text).is_some()).await;
        find(&self.chat, conv_id, text).unwrap()
    }

    /// The words of a conversation, in order.
    pub fn texts(&self, conv_id: &str) -> Vec<String> {
        let page = self.chat.messages(conv_id, MessageRange::Newest, 500).unwrap();
        page.items.into_iter().filter_map(|message| text_of(&message)).collect()
    }

    /// Lines that could not be read.
    pub fn unreadable(&self, conv_id: &str) -> Vec<MessageView> {
        let page = self.chat.messages(conv_id, MessageRange::Newest, 500).unwrap();
        let lines = page.items.into_iter();
        lines.filter(|line| matches!(line.body, MessageBody::Unreadable { .. })).collect()
    }

    pub async fn until_members(&self, conv_id: &str, count: usize) {
        self.until(&format!("{count} members"), |chat| {
            let members = chat.members(conv_id).unwrap_or_default();
            members.iter().filter(|member| member.devices > 0).count() == count
        })
        .await;
    }

    pub fn check(&self, conv_id: &str) -> (u64, Option<String>) {
        let view = self.chat.conversation(conv_id).unwrap();
        (view.epoch, view.check)
    }
}

fn text_of(message: &MessageView) -> Option<String> {
    match &message.body {
        MessageBody::Text { text } => Some(text.clone()),
        _ => None,
    }
}

fn find(chat: &Chat, conv_id: &str, text: &str) -> Option<MessageView> {
    let page = chat.messages(conv_id, MessageRange::Newest, 500).ok()?;
    page.items
        .into_iter()
        .find(|message| message.seq.is_some() && text_of(message).as_deref() == Some(text))
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("no {what}"),
    }
}
