//! Which subscriptions want an event, at the cost of the matches and not of the subscriptions.
//!
//! Each filter is filed under its most selective member: id, author, tag value, kind, or under nothing. An
//! event is looked up under each of its own; the rest of the filter is checked on what was found.

use std::collections::HashMap;

use ahash::RandomState;
use relay_proto::{Event, EventId, Filter, NodeId};
use smallvec::SmallVec;

/// A subscription's place in the table of the thread.
pub(super) type Slot = usize;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Id(EventId),
    Author(NodeId),
    /// Name and value of a tag.
    Tag(String, String),
    Kind(u16),
}

/// One filter of one subscription.
type Entry = (Slot, usize);

#[derive(Debug, Default)]
pub(super) struct Index {
    by_id: HashMap<EventId, Vec<Entry>, RandomState>,
    by_author: HashMap<NodeId, Vec<Entry>, RandomState>,
    /// Names first, so that an event's tags of other names cost one look-up each.
    by_tag: HashMap<String, HashMap<String, Vec<Entry>, RandomState>, RandomState>,
    by_kind: HashMap<u16, Vec<Entry>, RandomState>,
    rest: Vec<Entry>,
}

impl Index {
    pub fn insert(&mut self, slot: Slot, filters: &[Filter]) {
        for (number, filter) in filters.iter().enumerate() {
            let entry = (slot, number);
            let keys = keys(filter);
            if keys.is_empty() {
                self.rest.push(entry);
            }
            for key in keys {
                match key {
                    Key::Id(id) => self.by_id.entry(id).or_default().push(entry),
                    Key::Author(key) => self.by_author.entry(key).or_default().push(entry),
                    Key::Tag(name, value) => {
                        self.by_tag.entry(name).or_default().entry(value).or_default().push(entry)
                    }
                    Key::Kind(kind) => self.by_kind.entry(kind).or_default().push(entry),
                }
            }
        }
    }

    pub fn remove(&mut self, slot: Slot, filters: &[Filter]) {
        for filter in filters {
            let keys = keys(filter);
            if keys.is_empty() {
                self.rest.retain(|entry| entry.0 != slot);
            }
            for key in keys {
                match key {
                    Key::Id(id) => drop_entry(&mut self.by_id, &id, slot),
                    Key::Author(key) => drop_entry(&mut self.by_author, &key, slot),
                    Key::Tag(name, value) => {
                        if let Some(values) = self.by_tag.get_mut(&name) {
                            drop_entry(values, &value, slot);
                            if values.is_empty() {
                                self.by_tag.remove(&name);
                            }
                        }
                    }
                    Key::Kind(kind) => drop_entry(&mut self.by_kind, &kind, slot),
                }
            }
        }
    }

    /// Calls `found` for each filter filed under something that the event has; perhaps more than once a slot.
    pub fn candidates(&self, event: &Event, mut found: impl FnMut(Entry)) {
        let mut all = |entries: Option<&Vec<Entry>>| {
            entries.into_iter().flatten().for_each(|&entry| found(entry));
        };
        if !self.by_id.is_empty() {
            all(self.by_id.get(&event.id()));
        }
        if !self.by_author.is_empty() {
            all(self.by_author.get(&event.pubkey()));
        }
        if !self.by_kind.is_empty() {
            all(self.by_kind.get(&event.kind()));
        }
        if !self.by_tag.is_empty() {
            for tag in event.tags().iter() {
                if let (Some(name), Some(value)) = (tag.name(), tag.value())
                    && let Some(values) = self.by_tag.get(name)
                {
                    all(values.get(value));
                }
            }
        }
        all(Some(&self.rest));
    }
}

fn drop_entry<K: std::hash::Hash + Eq>(
    map: &mut HashMap<K, Vec<Entry>, RandomState>,
    key: &K,
    slot: Slot,
) {
    if let Some(entries) = map.get_mut(key) {
        entries.retain(|entry| entry.0 != slot);
        if entries.is_empty() {
            map.remove(key);
        }
    }
}

/// What a filter is filed under; nothing where it asks for no id, author, tag or kind.
fn keys(filter: &Filter) -> SmallVec<[Key; 2]> {
    if !filter.ids.is_empty() {
        return filter.ids.iter().copied().map(Key::Id).collect();
    }
    if !filter.authors.is_empty() {
        return filter.authors.iter().copied().map(Key::Author).collect();
    }
    let fewest = filter.tags.iter().min_by_key(|(_, values)| values.len());
    if let Some((name, values)) = fewest {
        return values.iter().map(|value| Key::Tag(name.clone(), value.clone())).collect();
    }
    filter.kinds.iter().copied().map(Key::Kind).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use relay_proto::{SigningKey, event::Draft};

    use super::*;

    fn event(author: u8, kind: u16, tag: &str) -> Event {
        let draft = Draft {
            kind,
            created_at_ns: 1,
            tags: [["t", tag], ["e", tag]].into_iter().collect(),
            content: String::new(),
        };
        draft.sign(&SigningKey::from_seed([author; 32])).unwrap()
    }

    fn filter() -> impl Strategy<Value = Filter> {
        let authors = prop::collection::vec(0_u8..3, 0..2);
        let kinds = prop::collection::vec(0_u16..3, 0..2);
        let tags = prop::collection::vec(("[te]", prop::collection::vec("[ab]", 1..3)), 0..2);
        (authors, kinds, tags).prop_map(|(authors, kinds, tags)| {
            let key = |seed: u8| SigningKey::from_seed([seed; 32]).node_id();
            let mut filter = Filter {
                authors: authors.into_iter().map(key).collect(),
                kinds,
                ..Filter::default()
            };
            for (name, values) in tags {
                filter.add_tag(&name, values);
            }
            filter
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// The index finds exactly those subscriptions that a loop over all would find, also after removals.
        #[test]
        fn agrees_with_a_loop(
            subs in prop::collection::vec(prop::collection::vec(filter(), 1..3), 1..12),
            removed in prop::collection::vec(any::<bool>(), 12),
            author in 0_u8..3, kind in 0_u16..3, tag in "[abc]",
        ) {
            let event = event(author, kind, &tag);
            let mut index = Index::default();
            for (slot, filters) in subs.iter().enumerate() {
                index.insert(slot, filters);
            }
            for (slot, filters) in subs.iter().enumerate().filter(|(slot, _)| removed[*slot]) {
                index.remove(slot, filters);
            }
            let mut found = std::collections::BTreeSet::new();
            index.candidates(&event, |(slot, number)| {
                if subs[slot][number].matches(&event) {
                    found.insert(slot);
                }
            });
            let expected = (0..subs.len())
                .filter(|&slot| !removed[slot] && subs[slot].iter().any(|f| f.matches(&event)))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
