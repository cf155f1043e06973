//! Device inboxes (`mls-profile.md` 6.6): logs that the relay writes and one device reads.

use std::sync::{Arc, Weak};

use ahash::RandomState;
use bytes::Bytes;
use dashmap::DashMap;
use relay_proto::{NodeId, Problem, auth::DeviceId, conv::Caller};
use relay_store::{
    Store,
    chat::{InboxEntry, InboxPost},
};

use crate::{
    failure::store_problem,
    fanout::{Outbox, SubscriptionId},
    feed::Feed,
    news::{News, Place},
};

/// Entries read at once.
const PAGE: u64 = 64;

type Key = (NodeId, DeviceId);

/// The domain.
#[derive(Debug)]
pub struct Inboxes {
    store: Store,
    feeds: Arc<DashMap<Key, Weak<Inbox>, RandomState>>,
    news: Arc<News>,
}

/// One inbox that somebody follows.
#[derive(Debug)]
struct Inbox {
    key: Key,
    feed: Feed,
    feeds: Weak<DashMap<Key, Weak<Inbox>, RandomState>>,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        if let Some(feeds) = self.feeds.upgrade() {
            feeds.remove_if(&self.key, |_, inbox| inbox.strong_count() == 0);
        }
    }
}

/// A device that follows its inbox. Dropping it ends it.
#[derive(Debug)]
pub struct FollowingInbox {
    id: SubscriptionId,
    inbox: Arc<Inbox>,
    /// The next entry to be read from the store.
    pub next_seq: u64,
}

impl FollowingInbox {
    /// Joins the live tail: everything before `next_seq` was read.
    pub fn join(&self) {
        self.inbox.feed.join(self.id, self.next_seq.saturating_sub(1));
    }
}

impl Drop for FollowingInbox {
    fn drop(&mut self) {
        self.inbox.feed.leave(self.id);
    }
}

/// Some entries, encoded.
#[derive(Debug)]
pub struct InboxFrames {
    /// `seq` and `inbox.event` frame.
    pub frames: Vec<(u64, Bytes)>,
    /// There is more in the store already.
    pub more: bool,
    /// The newest entry there is.
    pub latest_seq: u64,
}

impl Inboxes {
    pub fn new(store: Store) -> Arc<Self> {
        Arc::new(Self { store, feeds: Arc::default(), news: Arc::default() })
    }

    /// Where something new lies, in inboxes and conversations.
    pub fn news(&self) -> &Arc<News> {
        &self.news
    }

    /// Begins to follow the caller's own inbox, from an entry or from what the device has acknowledged.
    ///
    /// # Errors
    /// The store's.
    pub async fn follow(
        &self,
        caller: &Caller,
        from_seq: Option<u64>,
        id: SubscriptionId,
        outbox: Arc<Outbox>,
    ) -> Result<FollowingInbox, Problem> {
        let inbox = self.inbox(caller);
        inbox.feed.enrol(id, caller.user, outbox);
        let mut following = FollowingInbox { id, inbox, next_seq: from_seq.unwrap_or(1).max(1) };
        if from_seq.is_none() {
            following.next_seq = self.next_seq(caller).await?;
        }
        Ok(following)
    }

    /// The first entry that the device has not acknowledged.
    ///
    /// # Errors
    /// The store's.
    pub async fn next_seq(&self, caller: &Caller) -> Result<u64, Problem> {
        let page = self.store.read_inbox(caller.user, caller.device.clone(), None, 0).await;
        Ok(page.map_err(|error| store_problem(&error))?.next_seq)
    }

    /// Entries from `from_seq` on, or from what the device has not acknowledged.
    ///
    /// # Errors
    /// The store's.
    pub async fn page(
        &self,
        caller: &Caller,
        from_seq: Option<u64>,
    ) -> Result<InboxFrames, Problem> {
        let page = self.store.read_inbox(caller.user, caller.device.clone(), from_seq, PAGE).await;
        let page = page.map_err(|error| store_problem(&error))?;
        let frames: Vec<(u64, Bytes)> =
            page.entries.iter().map(|entry| (entry.seq, event_frame(entry))).collect();
        let more = frames.last().is_some_and(|(seq, _)| *seq < page.latest_seq);
        Ok(InboxFrames { frames, more, latest_seq: page.latest_seq })
    }

    /// Moves the device's cursor.
    ///
    /// # Errors
    /// The store's.
    pub async fn ack(&self, caller: &Caller, seq: u64) -> Result<(), Problem> {
        let acked = self.store.acknowledge_inbox(caller.user, caller.device.clone(), seq).await;
        acked.map_err(|error| store_problem(&error))
    }

    /// Hands on what lies in an inbox since a commit.
    pub fn publish(&self, post: &InboxPost) {
        self.news.note(|| Place::Inbox(post.user, post.device.clone()));
        let key = (post.user, post.device.clone());
        let inbox = self.feeds.get(&key).and_then(|inbox| inbox.upgrade());
        if let Some(inbox) = inbox {
            inbox.feed.publish(post.entry.seq, &event_frame(&post.entry));
        }
    }

    fn inbox(&self, caller: &Caller) -> Arc<Inbox> {
        let key = (caller.user, caller.device.clone());
        let mut slot = self.feeds.entry(key.clone()).or_default();
        if let Some(inbox) = slot.upgrade() {
            return inbox;
        }
        let feeds = Arc::downgrade(&self.feeds);
        let inbox = Arc::new(Inbox { key, feed: Feed::default(), feeds });
        *slot = Arc::downgrade(&inbox);
        inbox
    }
}

/// The body of an entry as clients get it: its members and its `seq`.
pub fn event_body(entry: &InboxEntry) -> String {
    let members = entry.body.trim_start().strip_prefix('{').unwrap_or("}");
    let comma = if members.trim_start().starts_with('}') { "" } else { "," };
    format!(r#"{{"seq":{}{comma}{members}"#, entry.seq)
}

fn event_frame(entry: &InboxEntry) -> Bytes {
    format!(r#"{{"v":1,"t":"inbox.event","body":{}}}"#, event_body(entry)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_gets_its_number() {
        let entry = |body: &str| InboxEntry { seq: 7, body: body.into() };
        assert_eq!(event_body(&entry(r#"{"kind":"welcome"}"#)), r#"{"seq":7,"kind":"welcome"}"#);
        assert_eq!(event_body(&entry("{}")), r#"{"seq":7}"#);
    }
}
