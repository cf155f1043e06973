//! What a change does to the counters, summed up so that each counter is written once: pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use relay_proto::polycentric::{Pointer, Reference, Subject, opinion};

/// All content types together.
pub(super) const ANY_TYPE: i64 = -1;
/// Longest value that is kept as it is; longer ones are kept as a hash of this many bytes and one.
const MAX_VALUE: usize = 32;

/// What a counter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Counted {
    /// Events about the subject.
    References = 0,
    /// Winners with a value.
    Votes = 1,
    /// Not a count: the number of the last change.
    Version = 2,
}

/// Names a counter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Counter {
    pub subject: Subject,
    pub counted: Counted,
    pub from_type: i64,
    pub value: Bytes,
}

#[derive(Debug, Default)]
pub(super) struct Deltas {
    pub counters: BTreeMap<Counter, i64>,
    /// Events that others' events are about: by how much their score changes (0: only that something did).
    pub scores: BTreeMap<Subject, (Pointer, i64)>,
    /// By hour and topic.
    pub topics: BTreeMap<(i64, Bytes), i64>,
}

impl Deltas {
    /// One more (1) or one fewer (-1) event of `from_type` about what `reference` names.
    pub fn refer(&mut self, reference: &Reference, from_type: i64, by: i64) {
        let Some(subject) = reference.subject() else { return };
        self.touch(reference, 0);
        for from_type in [from_type, ANY_TYPE] {
            self.count(subject, Counted::References, from_type, Bytes::new(), by);
        }
    }

    /// The vote of one (system, content type) on what `reference` names changes.
    pub fn vote(
        &mut self,
        reference: &Reference,
        from_type: i64,
        before: Option<&Bytes>,
        after: Option<&Bytes>,
    ) {
        let Some(subject) = reference.subject() else { return };
        if before == after {
            return;
        }
        let mut score = 0;
        for (value, by) in [(before, -1), (after, 1)] {
            let Some(value) = value else { continue };
            score += by * weight(value);
            for from_type in [from_type, ANY_TYPE] {
                self.count(subject, Counted::Votes, from_type, value.clone(), by);
            }
        }
        self.touch(reference, score);
    }

    pub fn topic(&mut self, hour: i64, topic: &Bytes, by: i64) {
        *self.topics.entry((hour, topic.clone())).or_default() += by;
    }

    fn touch(&mut self, reference: &Reference, score: i64) {
        if let (Reference::Event(pointer), Some(subject)) = (reference, reference.subject()) {
            self.scores.entry(subject).or_insert((*pointer, 0)).1 += score;
        }
    }

    fn count(&mut self, subject: Subject, counted: Counted, from_type: i64, value: Bytes, by: i64) {
        *self.counters.entry(Counter { subject, counted, from_type, value }).or_default() += by;
    }
}

/// What a vote of this value adds to a score.
fn weight(value: &[u8]) -> i64 {
    match value {
        opinion::LIKE => 1,
        opinion::DISLIKE => -1,
        _ => 0,
    }
}

/// A value as it is kept and compared.
pub(super) fn kept_value(value: &Bytes) -> Bytes {
    if value.len() <= MAX_VALUE {
        return value.clone();
    }
    let mut hash = vec![0xff];
    hash.extend_from_slice(blake3::hash(value).as_bytes());
    hash.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_vote_is_counted_once() {
        let about = Reference::Bytes(Bytes::from_static(b"topic"));
        let (like, dislike) =
            (Bytes::from_static(opinion::LIKE), Bytes::from_static(opinion::DISLIKE));
        let mut deltas = Deltas::default();
        deltas.vote(&about, 14, None, Some(&like));
        deltas.vote(&about, 14, Some(&like), Some(&dislike));
        deltas.vote(&about, 14, Some(&dislike), Some(&dislike));
        let of = |value: &Bytes, from_type| {
            let found =
                deltas.counters.iter().find(|(c, _)| c.value == *value && c.from_type == from_type);
            *found.unwrap().1
        };
        assert_eq!((of(&like, 14), of(&like, ANY_TYPE)), (0, 0));
        assert_eq!((of(&dislike, 14), of(&dislike, ANY_TYPE)), (1, 1));
    }

    #[test]
    fn long_values_do_not_meet_short_ones() {
        let long = Bytes::from(vec![1; 33]);
        assert_eq!(kept_value(&long).len(), 33);
        assert_ne!(kept_value(&long), long);
        assert_eq!(kept_value(&Bytes::from(vec![1; 32])), vec![1; 32]);
    }
}
