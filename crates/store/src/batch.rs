//! Deciding a batch: pure rules that turn what callers want into rows, before any SQL runs.
//!
//! Both stores look up what is there (ids, heads), call [`Batch::decide`] for each event in order, and write the rows.

use std::collections::HashMap;

use ahash::RandomState;
use relay_proto::{Event, EventId, Namespace, NodeId, event::Class};

use crate::event::{Appended, Committed};

/// Names the versions of one replaceable or addressable thing within a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coordinate {
    pub namespace: Namespace,
    pub author: NodeId,
    pub kind: u16,
    pub d: String,
}

impl Coordinate {
    /// The coordinate of an event, where its class has one.
    pub fn of(event: &Event) -> Option<Self> {
        matches!(event.class(), Class::Replaceable | Class::Addressable).then(|| Self {
            namespace: event.namespace().clone(),
            author: event.pubkey(),
            kind: event.kind(),
            d: event.d().to_owned(),
        })
    }
}

/// The latest known version of a coordinate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub seq: u64,
    pub created_at_ns: u64,
    pub id: EventId,
}

/// An event row to be written.
#[derive(Debug)]
pub struct NewRow {
    pub committed: Committed,
    /// A later version was already there, or came in the same batch.
    pub superseded: bool,
}

/// What a batch knows and what it will write.
#[derive(Debug)]
pub struct Batch {
    known: HashMap<EventId, u64, RandomState>,
    heads: HashMap<Coordinate, Head, RandomState>,
    next_seq: u64,
    pub rows: Vec<NewRow>,
    /// Stored earlier, superseded by this batch: (seq) of old heads.
    pub superseded: Vec<u64>,
    /// Coordinates whose head moved.
    pub moved: Vec<Coordinate>,
    /// The `seq` of `rows[0]`: heads of this batch may be superseded again within it.
    first_seq: u64,
}

impl Batch {
    /// `next_seq` is what the first stored event will get.
    pub fn new(
        next_seq: u64,
        known: HashMap<EventId, u64, RandomState>,
        heads: HashMap<Coordinate, Head, RandomState>,
    ) -> Self {
        Self {
            known,
            heads,
            next_seq,
            rows: Vec::new(),
            superseded: Vec::new(),
            moved: Vec::new(),
            first_seq: next_seq,
        }
    }

    pub fn head(&self, coordinate: &Coordinate) -> Option<Head> {
        self.heads.get(coordinate).copied()
    }

    /// Whether the event is already stored, or was decided on earlier in this batch.
    pub fn duplicate_of(&self, id: &EventId) -> Option<u64> {
        self.known.get(id).copied()
    }

    /// Gives the event its `seq` and finds out which version is the latest.
    pub fn decide(&mut self, event: &Event, received_at_ns: u64) -> Appended {
        if let Some(seq) = self.duplicate_of(&event.id()) {
            let head = Coordinate::of(event).and_then(|coordinate| self.head(&coordinate));
            return Appended::Duplicate { seq, latest: head.is_none_or(|head| head.seq == seq) };
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        self.known.insert(event.id(), seq);
        let latest = match Coordinate::of(event) {
            None => true,
            Some(coordinate) => self.take_head(coordinate, event, seq),
        };
        self.rows.push(NewRow {
            committed: Committed { seq, event: event.clone(), latest, received_at_ns },
            superseded: !latest,
        });
        Appended::Stored { seq, latest }
    }

    /// Makes the event the head of its coordinate if it is the greatest by (time, id).
    fn take_head(&mut self, coordinate: Coordinate, event: &Event, seq: u64) -> bool {
        let (created_at_ns, id) = event.version();
        if let Some(old) = self.heads.get(&coordinate) {
            if (old.created_at_ns, old.id) > (created_at_ns, id) {
                return false;
            }
            self.supersede(old.seq);
        }
        self.heads.insert(coordinate.clone(), Head { seq, created_at_ns, id });
        self.moved.push(coordinate);
        true
    }

    fn supersede(&mut self, seq: u64) {
        match seq.checked_sub(self.first_seq) {
            Some(offset) => {
                if let Some(row) = self.rows.get_mut(offset as usize) {
                    row.superseded = true;
                }
            }
            None => self.superseded.push(seq),
        }
    }
}

#[cfg(test)]
mod tests {
    use relay_proto::{SigningKey, event::Draft};

    use super::*;

    fn version(created_at_ns: u64, content: &str) -> Event {
        let draft = Draft {
            kind: 30_001,
            created_at_ns,
            tags: [["d", "x"]].into_iter().collect(),
            content: content.into(),
        };
        draft.sign(&SigningKey::from_seed([7; 32])).unwrap()
    }

    /// All orders of arrival of four versions, two of the same time, end with the same head.
    #[test]
    fn the_latest_does_not_depend_on_arrival() {
        let versions = [version(5, "a"), version(9, "b"), version(9, "c"), version(1, "d")];
        let winner = versions.iter().max_by_key(|event| event.version()).unwrap().id();
        let mut orders = vec![vec![]];
        for _ in 0..4 {
            orders = orders
                .into_iter()
                .flat_map(|order: Vec<usize>| {
                    (0..4)
                        .filter(|i| !order.contains(i))
                        .map(|i| [order.clone(), vec![i]].concat())
                        .collect::<Vec<_>>()
                })
                .collect();
        }
        for order in orders {
            let mut batch = Batch::new(1, HashMap::default(), HashMap::default());
            for &index in &order {
                batch.decide(&versions[index], 0);
            }
            let current: Vec<_> = batch.rows.iter().filter(|row| !row.superseded).collect();
            assert_eq!(current.len(), 1, "{order:?}");
            assert_eq!(current[0].committed.event.id(), winner, "{order:?}");
        }
    }

    #[test]
    fn a_repeat_within_a_batch_is_a_duplicate() {
        let mut batch = Batch::new(4, HashMap::default(), HashMap::default());
        let event = version(1, "a");
        assert_eq!(batch.decide(&event, 0), Appended::Stored { seq: 4, latest: true });
        assert_eq!(batch.decide(&event, 0), Appended::Duplicate { seq: 4, latest: true });
        assert_eq!(batch.rows.len(), 1);
    }
}
