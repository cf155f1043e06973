//! The conversations and the inbox that one connection follows: first from the store, page by page, then live.
//!
//! What the log of events has in [`crate::subscriptions`]; a connection has both, over one outbox.

use std::{collections::HashMap, sync::Arc};

use axum::extract::ws::Utf8Bytes;
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use relay_core::{
    conversations::{Following, Page, Start, limit_exceeded},
    fanout::{Outbox, SubscriptionId},
    inbox::{FollowingInbox, InboxFrames},
};
use relay_node::{
    Node,
    chat::{Removed, TailAsked},
};
use relay_proto::{
    NodeId, Problem,
    conv::{Caller, ConvId},
    frame::{encode, encode_error},
};
use serde::Deserialize;
use serde_json::json;

use crate::subscriptions::Sent;

/// Users of one relay who may follow a conversation: as many as it may have members.
const MAX_USERS: usize = 10_000;

/// The body of `conv.subscribe`.
#[derive(Debug, Deserialize)]
pub(crate) struct SubscribeConversation {
    pub conv_id: ConvId,
    pub from_seq: Option<i64>,
    pub after_seq: Option<i64>,
    #[serde(default)]
    pub notify: bool,
}

impl SubscribeConversation {
    /// Where to begin.
    ///
    /// # Errors
    /// `invalid_request` for a start below 1.
    pub fn start(&self) -> Result<Start, Problem> {
        let start = self.from_seq.or_else(|| Some(self.after_seq?.saturating_add(1)));
        match start.map(u64::try_from) {
            None => Ok(Start::Cursor),
            Some(Ok(seq @ 1..)) => Ok(Start::From(seq)),
            Some(_) => Err(Problem::invalid("from_seq is at least 1")),
        }
    }
}

pub(crate) struct Feeds {
    node: Arc<Node>,
    outbox: Arc<Outbox>,
    by_id: HashMap<SubscriptionId, Feed, ahash::RandomState>,
    by_conv: HashMap<ConvId, SubscriptionId, ahash::RandomState>,
    inbox: Option<SubscriptionId>,
    steps: FuturesUnordered<BoxFuture<'static, Step>>,
}

/// One thing that is followed.
enum Feed {
    /// Its beginning is being looked up.
    Opening,
    Conversation(Conversation),
    Inbox(FollowingInbox, Caller),
}

struct Conversation {
    following: Following,
    /// Wants to hear when the replay is complete: the frame's id, and where the replay began.
    notify: Option<(Option<String>, u64)>,
}

/// Something that took time is done.
pub(crate) enum Step {
    Opened {
        id: SubscriptionId,
        conv: ConvId,
        frame: Asked,
        result: Box<Result<Following, Problem>>,
    },
    Page {
        id: SubscriptionId,
        result: Result<(Page, u64), Problem>,
    },
    InboxOpened {
        id: SubscriptionId,
        frame: Asked,
        caller: Caller,
        result: Result<FollowingInbox, Problem>,
    },
    InboxPage {
        id: SubscriptionId,
        result: Result<InboxFrames, Problem>,
    },
}

/// How the frame that asked wants to be answered.
pub(crate) struct Asked {
    pub id: Option<String>,
    pub notify: bool,
}

impl Feeds {
    pub fn new(node: Arc<Node>, outbox: Arc<Outbox>) -> Self {
        Self {
            node,
            outbox,
            by_id: HashMap::default(),
            by_conv: HashMap::default(),
            inbox: None,
            steps: FuturesUnordered::new(),
        }
    }

    /// Begins to follow a conversation; an earlier subscription to it ends.
    pub fn subscribe(
        &mut self,
        caller: Caller,
        asked: SubscribeConversation,
        frame_id: Option<String>,
    ) -> Result<(), Problem> {
        let start = asked.start()?;
        let id = self.place(&asked.conv_id)?;
        let conv = asked.conv_id;
        let frame = Asked { id: frame_id, notify: asked.notify };
        let (node, outbox) = (self.node.clone(), self.outbox.clone());
        self.steps.push(Box::pin(async move {
            let result = node.follow(&caller, conv.clone(), start, id, outbox).await;
            Step::Opened { id, conv, frame, result: Box::new(result) }
        }));
        Ok(())
    }

    /// As [`Self::subscribe`], and returns when it is known whether it may be.
    pub async fn open(
        &mut self,
        caller: Caller,
        conv: ConvId,
        start: Start,
    ) -> Result<(), Problem> {
        let id = self.place(&conv)?;
        let outbox = self.outbox.clone();
        let opened = self.node.follow(&caller, conv.clone(), start, id, outbox).await;
        match opened {
            Ok(following) => {
                self.fetch(id, &following);
                self.by_id.insert(id, Feed::Conversation(Conversation { following, notify: None }));
                Ok(())
            }
            Err(problem) => {
                self.end(id, &conv);
                Err(problem)
            }
        }
    }

    /// As [`Self::open`], for the relay that the caller is connected to; returns the frame to begin with.
    pub async fn open_for_relay(
        &mut self,
        caller: Caller,
        asked: TailAsked,
    ) -> Result<Option<Sent>, Problem> {
        let TailAsked { conv_id: conv, after_seq, users } = asked;
        if users.len() > MAX_USERS {
            return Err(limit_exceeded("too many users follow on one relay"));
        }
        let id = self.place(&conv)?;
        let (outbox, start) = (self.outbox.clone(), Start::From(after_seq + 1));
        let conversations = &self.node.conversations;
        let opened = conversations.follow_for_relay(&caller, conv.clone(), start, id, outbox).await;
        let following = match opened {
            Ok(following) => following,
            Err(problem) => {
                self.end(id, &conv);
                return Err(problem);
            }
        };
        // Whoever was removed since the relay followed last is told first.
        let gone = conversations.strangers(&caller, conv.clone(), users).await;
        let gone = match gone {
            Ok(gone) => gone,
            Err(problem) => {
                drop(following);
                self.end(id, &conv);
                return Err(problem);
            }
        };
        self.fetch(id, &following);
        self.by_id.insert(id, Feed::Conversation(Conversation { following, notify: None }));
        Ok((!gone.is_empty()).then(|| removed(gone)))
    }

    /// As [`Self::subscribe_inbox`], and returns when it is known where it begins.
    pub async fn open_inbox(
        &mut self,
        caller: Caller,
        from_seq: Option<u64>,
    ) -> Result<(), Problem> {
        let id = self.node.fanout.new_id();
        let outbox = self.outbox.clone();
        let following = self.node.inboxes.follow(&caller, from_seq, id, outbox).await?;
        self.inbox = Some(id);
        self.fetch_inbox(id, caller.clone(), following.next_seq);
        self.by_id.insert(id, Feed::Inbox(following, caller));
        Ok(())
    }

    /// Begins to follow the caller's own inbox; an earlier subscription to it ends.
    pub fn subscribe_inbox(
        &mut self,
        caller: Caller,
        from_seq: Option<u64>,
        frame_id: Option<String>,
    ) {
        let id = self.node.fanout.new_id();
        if let Some(earlier) = self.inbox.replace(id) {
            self.by_id.remove(&earlier);
        }
        self.by_id.insert(id, Feed::Opening);
        let frame = Asked { id: frame_id, notify: false };
        let (node, outbox) = (self.node.clone(), self.outbox.clone());
        self.steps.push(Box::pin(async move {
            let result = node.inboxes.follow(&caller, from_seq, id, outbox).await;
            Step::InboxOpened { id, frame, caller, result }
        }));
    }

    /// The next step that is done; `None` while none is under way.
    pub async fn next_step(&mut self) -> Option<Step> {
        self.steps.next().await
    }

    /// What a step makes to be sent.
    pub fn take_step(&mut self, step: Step) -> Vec<Sent> {
        match step {
            Step::Opened { id, conv, frame, result } => self.opened(id, &conv, frame, *result),
            Step::Page { id, result } => self.took_page(id, result),
            Step::InboxOpened { id, frame, caller, result } => {
                if !self.by_id.contains_key(&id) {
                    return Vec::new();
                }
                match result {
                    Ok(following) => {
                        self.fetch_inbox(id, caller.clone(), following.next_seq);
                        self.by_id.insert(id, Feed::Inbox(following, caller));
                        Vec::new()
                    }
                    Err(problem) => {
                        self.by_id.remove(&id);
                        vec![refusal(frame.id.as_deref(), &problem)]
                    }
                }
            }
            Step::InboxPage { id, result } => self.took_inbox_page(id, result),
        }
    }

    fn opened(
        &mut self,
        id: SubscriptionId,
        conv: &ConvId,
        frame: Asked,
        result: Result<Following, Problem>,
    ) -> Vec<Sent> {
        if !self.by_id.contains_key(&id) {
            // Replaced meanwhile.
            return Vec::new();
        }
        match result {
            Ok(following) => {
                let notify = frame.notify.then_some((frame.id, following.next_seq));
                self.fetch(id, &following);
                self.by_id.insert(id, Feed::Conversation(Conversation { following, notify }));
                Vec::new()
            }
            Err(problem) => {
                self.end(id, conv);
                vec![refusal(frame.id.as_deref(), &problem)]
            }
        }
    }

    fn took_page(&mut self, id: SubscriptionId, result: Result<(Page, u64), Problem>) -> Vec<Sent> {
        let Some(Feed::Conversation(found)) = self.by_id.get_mut(&id) else { return Vec::new() };
        let (page, limit) = match result {
            Ok(done) => done,
            Err(problem) => {
                let conv = found.following.conv().clone();
                self.end(id, &conv);
                return vec![refusal(None, &problem.with("conv_id", conv.as_str()))];
            }
        };
        found.following.set_page(limit);
        if let Some((last, _)) = page.frames.last() {
            found.following.next_seq = last + 1;
            found.following.latest_seq = found.following.latest_seq.max(*last);
        }
        let mut sent: Vec<Sent> = page
            .frames
            .into_iter()
            .filter_map(|(seq, frame)| Sent::event("conv.event", seq, frame))
            .collect();
        if page.more {
            self.steps.push(next_page(&self.node, id, &found.following));
            return sent;
        }
        if let Some((frame_id, from_seq)) = found.notify.take() {
            let body = json!({
                "conv_id": found.following.conv(),
                "from_seq": from_seq,
                "latest_seq": found.following.latest_seq,
            });
            sent.push(Sent::new(
                "conv.subscribed",
                None,
                encode("conv.subscribed", frame_id.as_deref(), &body),
            ));
        }
        found.following.join();
        sent
    }

    fn took_inbox_page(
        &mut self,
        id: SubscriptionId,
        result: Result<InboxFrames, Problem>,
    ) -> Vec<Sent> {
        let Some(Feed::Inbox(following, caller)) = self.by_id.get_mut(&id) else {
            return Vec::new();
        };
        let page = match result {
            Ok(page) => page,
            Err(problem) => {
                self.by_id.remove(&id);
                return vec![refusal(None, &problem)];
            }
        };
        let end =
            if page.more { page.frames.last().map_or(0, |(seq, _)| *seq) } else { page.latest_seq };
        following.next_seq = following.next_seq.max(end + 1);
        let sent = page
            .frames
            .into_iter()
            .filter_map(|(seq, frame)| Sent::event("inbox.event", seq, frame))
            .collect();
        if page.more {
            let (caller, from) = (caller.clone(), following.next_seq);
            self.fetch_inbox(id, caller, from);
        } else {
            following.join();
        }
        sent
    }

    /// A live frame: what kind it is, if it belongs here.
    pub fn take_event(&mut self, to: SubscriptionId, frame: Bytes, seq: u64) -> Option<Sent> {
        match self.by_id.get_mut(&to)? {
            Feed::Conversation(found) => {
                found.following.next_seq = seq + 1;
                Sent::event("conv.event", seq, frame)
            }
            Feed::Inbox(following, _) => {
                following.next_seq = seq + 1;
                Sent::event("inbox.event", seq, frame)
            }
            Feed::Opening => None,
        }
    }

    /// The subscription fell out of the live tail.
    pub fn lag(&mut self, to: SubscriptionId, after_seq: u64) {
        match self.by_id.get_mut(&to) {
            Some(Feed::Conversation(found)) => {
                found.following.next_seq = after_seq + 1;
                self.steps.push(next_page(&self.node, to, &found.following));
            }
            Some(Feed::Inbox(following, caller)) => {
                following.next_seq = after_seq + 1;
                let caller = caller.clone();
                self.fetch_inbox(to, caller, after_seq + 1);
            }
            _ => {}
        }
    }

    /// The reader may not read on.
    pub fn expelled(&mut self, to: SubscriptionId) -> Option<Sent> {
        let conv = self.by_conv.iter().find(|(_, id)| **id == to).map(|(conv, _)| conv.clone())?;
        self.end(to, &conv);
        let problem = Problem::forbidden("membership revoked").with("conv_id", conv.as_str());
        Some(refusal(None, &problem))
    }

    /// Users for whom a relay reads may not read on.
    pub fn removed(&self, to: SubscriptionId, users: &[NodeId]) -> Option<Sent> {
        self.by_id.contains_key(&to).then(|| removed(users.to_vec()))
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// A place for one more conversation; the one that this conversation had before is given up.
    fn place(&mut self, conv: &ConvId) -> Result<SubscriptionId, Problem> {
        let limit = self.node.live().chat.subscriptions_per_conn as usize;
        if self.by_conv.len() >= limit && !self.by_conv.contains_key(conv) {
            return Err(limit_exceeded("too many conversations are followed on this connection"));
        }
        let id = self.node.fanout.new_id();
        if let Some(earlier) = self.by_conv.insert(conv.clone(), id) {
            self.by_id.remove(&earlier);
        }
        self.by_id.insert(id, Feed::Opening);
        Ok(id)
    }

    fn end(&mut self, id: SubscriptionId, conv: &ConvId) {
        self.by_id.remove(&id);
        if self.by_conv.get(conv) == Some(&id) {
            self.by_conv.remove(conv);
        }
    }

    fn fetch(&self, id: SubscriptionId, following: &Following) {
        self.steps.push(next_page(&self.node, id, following));
    }

    fn fetch_inbox(&self, id: SubscriptionId, caller: Caller, from: u64) {
        let node = self.node.clone();
        self.steps.push(Box::pin(async move {
            Step::InboxPage { id, result: node.inboxes.page(&caller, Some(from)).await }
        }));
    }
}

/// Reads on, out of memory where that is enough.
fn next_page(
    node: &Arc<Node>,
    id: SubscriptionId,
    following: &Following,
) -> BoxFuture<'static, Step> {
    if let Some(page) = following.remembered() {
        return Box::pin(std::future::ready(Step::Page { id, result: Ok(page) }));
    }
    let (node, request) = (node.clone(), following.next_page());
    Box::pin(async move { Step::Page { id, result: node.page(request).await } })
}

fn removed(users: Vec<NodeId>) -> Sent {
    Sent::new("conv.removed", None, encode("conv.removed", None, &Removed { users }))
}

fn refusal(id: Option<&str>, problem: &Problem) -> Sent {
    Sent::new("error", None, encode_error(id, problem))
}

/// Frames are built from text; anything else is a fault of ours that must not end the connection.
pub(crate) fn text(frame: Bytes) -> Option<Utf8Bytes> {
    Utf8Bytes::try_from(frame).inspect_err(|_| tracing::error!("a frame is not text")).ok()
}
