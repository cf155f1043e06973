//! The live tail of one numbered log that its own home orders: a conversation, a device's inbox.
//!
//! The same rules as [`crate::fanout`] has for the event log, without the matching: a follower is a cursor. It
//! enrols, reads the store at its own pace, and joins with the `seq` that it has read to. What was published
//! meanwhile comes out of the short memory here, or it is told to read on. A follower whose outbox is full, or whom
//! an entry would leave with a gap, falls back to the store in the same way. So nothing is lost or sent twice, and a
//! slow reader costs nobody anything.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use relay_proto::NodeId;

use crate::fanout::{Item, Outbox, SubscriptionId};

/// Bytes of frames that are remembered for those who join; beyond it the oldest are forgotten.
const RECENT_BYTES: usize = 256 << 10;
/// Frames remembered.
const RECENT_FRAMES: usize = 1_024;

/// One log's followers.
#[derive(Debug, Default)]
pub struct Feed {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The newest `seq` that was published here; 0 before the first.
    last: u64,
    recent: VecDeque<(u64, Bytes)>,
    recent_bytes: usize,
    followers: Vec<Follower>,
}

#[derive(Debug)]
struct Follower {
    id: SubscriptionId,
    user: NodeId,
    outbox: Arc<Outbox>,
    /// Reads for others as well: hears of everybody who may not read on.
    is_relay: bool,
    /// Everything up to this was put into the outbox or read from the store; `None` while it reads.
    seen: Option<u64>,
}

impl Feed {
    /// Counts somebody as a reader who is going to join. From here on an expulsion reaches them.
    pub fn enrol(&self, id: SubscriptionId, user: NodeId, outbox: Arc<Outbox>) {
        self.enrol_as(id, user, outbox, false);
    }

    /// As [`Self::enrol`], for a relay that reads on the word of this user and hands on to others.
    pub fn enrol_relay(&self, id: SubscriptionId, user: NodeId, outbox: Arc<Outbox>) {
        self.enrol_as(id, user, outbox, true);
    }

    fn enrol_as(&self, id: SubscriptionId, user: NodeId, outbox: Arc<Outbox>, is_relay: bool) {
        self.lock().followers.push(Follower { id, user, outbox, is_relay, seen: None });
    }

    /// The users who follow, each once.
    pub fn users(&self) -> Vec<NodeId> {
        let mut users: Vec<NodeId> =
            self.lock().followers.iter().map(|follower| follower.user).collect();
        users.sort_unstable();
        users.dedup();
        users
    }

    /// Joins the live tail after `seq`: the outbox gets [`Item::Live`], or [`Item::Lagging`] if the store has to be
    /// read further first.
    pub fn join(&self, id: SubscriptionId, seq: u64) {
        let state = &mut *self.lock();
        let Some(follower) = state.followers.iter_mut().find(|follower| follower.id == id) else {
            return;
        };
        let mut seen = seq;
        if state.last > seq {
            let known = state.recent.front().is_some_and(|(first, _)| *first <= seq + 1);
            let since = state.recent.iter().skip_while(|(at, _)| *at <= seq);
            let complete = known
                && since.cloned().all(|(at, frame)| {
                    let taken = follower.outbox.push(Item::Event { to: id, frame, seq: at });
                    if taken {
                        seen = at;
                    }
                    taken
                });
            if !complete {
                follower.outbox.note(Item::Lagging { to: id, after_seq: seen, remembered: false });
                return;
            }
        }
        follower.seen = Some(seen);
        follower.outbox.note(Item::Live { to: id, seq: seen });
    }

    /// Everything from `from_seq` on, for a follower who fell behind no further than the memory here goes, each with its `seq`.
    /// `None` where the store has to be read, or nobody of that name follows.
    pub fn remembered(&self, id: SubscriptionId, from_seq: u64) -> Option<Vec<(u64, Bytes)>> {
        let state = self.lock();
        let (first, _) = state.recent.front()?;
        if !(*first..=state.last).contains(&from_seq)
            || !state.followers.iter().any(|follower| follower.id == id)
        {
            return None;
        }
        Some(state.recent.iter().skip_while(|(seq, _)| *seq < from_seq).cloned().collect())
    }

    pub fn leave(&self, id: SubscriptionId) {
        let mut state = self.lock();
        state.followers.retain(|follower| follower.id != id);
        if state.followers.is_empty() {
            state.recent = VecDeque::new();
            state.recent_bytes = 0;
        }
    }

    /// Whether anybody would want a frame.
    pub fn has_followers(&self) -> bool {
        !self.lock().followers.is_empty()
    }

    /// Tells of an entry with the next `seq`. Returns how many followers got it and how many fell back.
    pub fn publish(&self, seq: u64, frame: &Bytes) -> (u64, u64) {
        let state = &mut *self.lock();
        let (mut delivered, mut lagged) = (0, 0);
        for follower in &mut state.followers {
            // Whoever is reading, or has read this already, needs nothing.
            let Some(seen) = follower.seen.filter(|seen| *seen < seq) else { continue };
            let id = follower.id;
            let next = seen + 1 == seq;
            if next && follower.outbox.push(Item::Event { to: id, frame: frame.clone(), seq }) {
                follower.seen = Some(seq);
                delivered += 1;
            } else {
                follower.seen = None;
                follower.outbox.note(Item::Lagging { to: id, after_seq: seen, remembered: false });
                lagged += 1;
            }
        }
        state.remember(seq, frame);
        (delivered, lagged)
    }

    /// Tells that the log has come to `seq`, where nobody wanted frames.
    pub fn skip_to(&self, seq: u64) {
        let mut state = self.lock();
        state.last = state.last.max(seq);
        state.recent.clear();
        state.recent_bytes = 0;
        // Somebody may have enrolled just now: they are reading, and will find a gap here and read on.
        for follower in &mut state.followers {
            if let Some(seen) = follower.seen.take_if(|seen| *seen < seq) {
                follower.outbox.note(Item::Lagging {
                    to: follower.id,
                    after_seq: seen,
                    remembered: false,
                });
            }
        }
    }

    /// Ends whatever these users follow here; each subscription is told once.
    pub fn expel(&self, users: &[NodeId]) {
        if users.is_empty() {
            return;
        }
        self.lock().followers.retain(|follower| {
            let stays = !users.contains(&follower.user);
            if follower.is_relay {
                let users = users.into();
                follower.outbox.note(Item::Removed { to: follower.id, users });
            }
            if !stays {
                follower.outbox.note(Item::Expelled { to: follower.id });
            }
            stays
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Whole between any two of its statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remember(&mut self, seq: u64, frame: &Bytes) {
        if seq <= self.last {
            // Told late; whoever wanted it has read it from the store.
            return;
        }
        if self.last + 1 != seq {
            self.recent.clear();
            self.recent_bytes = 0;
        }
        self.last = seq;
        if self.followers.is_empty() {
            return;
        }
        self.recent.push_back((seq, frame.clone()));
        self.recent_bytes += frame.len();
        while self.recent.len() > RECENT_FRAMES || self.recent_bytes > RECENT_BYTES {
            let Some((_, old)) = self.recent.pop_front() else { break };
            self.recent_bytes -= old.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use relay_proto::SigningKey;

    use super::*;
    use crate::fanout::OutboxLimits;

    /// What a reader of a log of `end` entries does next with what its outbox holds; `got` are the entries it sent.
    struct Reader {
        id: SubscriptionId,
        outbox: Arc<Outbox>,
        got: Vec<u64>,
        /// Has to read the store on after this.
        behind: Option<u64>,
    }

    impl Reader {
        fn take(&mut self, max: usize) {
            let mut items = Vec::new();
            self.outbox.take(max, &mut items);
            for item in items {
                match item {
                    Item::Event { seq, .. } => self.got.push(seq),
                    Item::Lagging { after_seq, .. } => self.behind = Some(after_seq),
                    _ => {}
                }
            }
        }
    }

    proptest! {
        /// However publishing, reading, joining and slowness fall together, each reader gets each entry once, in order.
        #[test]
        fn nothing_is_lost_or_repeated(steps in prop::collection::vec((0_u8..5, 0_usize..6), 1..120)) {
            let feed = Feed::default();
            let limits = OutboxLimits { frames: 3, bytes: 1 << 20 };
            let user = SigningKey::from_seed([1; 32]).node_id();
            let mut reader = Reader {
                id: SubscriptionId::for_tests(7),
                outbox: Arc::new(Outbox::new(limits)),
                got: Vec::new(),
                behind: Some(0),
            };
            feed.enrol(reader.id, user, reader.outbox.clone());
            let mut end = 0;
            let read_and_join = |reader: &mut Reader, end: u64| {
                reader.take(usize::MAX);
                if let Some(after) = reader.behind.take() {
                    if let Some(frames) = feed.remembered(reader.id, after + 1) {
                        assert!(frames.iter().map(|(seq, _)| *seq).eq(after + 1..=end));
                    }
                    reader.got.extend(after + 1..=end);
                    feed.join(reader.id, end);
                }
            };
            for (what, amount) in steps {
                match what {
                    0 | 1 => {
                        end += 1;
                        feed.publish(end, &Bytes::from_static(b"frame"));
                    }
                    2 => {
                        end += 1;
                        feed.skip_to(end);
                    }
                    3 => reader.take(amount),
                    _ => read_and_join(&mut reader, end),
                }
            }
            for _ in 0..=end {
                read_and_join(&mut reader, end);
            }
            let expected: Vec<u64> = (1..=end).collect();
            prop_assert_eq!(reader.got, expected);
        }
    }

    #[test]
    fn the_expelled_are_told_once_and_get_nothing_more() {
        let feed = Feed::default();
        let user = SigningKey::from_seed([1; 32]).node_id();
        let outbox = Arc::new(Outbox::new(OutboxLimits::default()));
        let id = SubscriptionId::for_tests(1);
        feed.enrol(id, user, outbox.clone());
        feed.join(id, 0);
        feed.publish(1, &Bytes::from_static(b"before"));
        feed.expel(&[user]);
        feed.expel(&[user]);
        feed.publish(2, &Bytes::from_static(b"after"));
        let mut items = Vec::new();
        outbox.take(99, &mut items);
        assert!(matches!(
            items[..],
            [Item::Live { .. }, Item::Event { seq: 1, .. }, Item::Expelled { .. }]
        ));
    }
}
