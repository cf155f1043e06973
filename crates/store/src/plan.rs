//! Which indexes answer a question: pure, shared by both stores.

use relay_proto::{EventId, Filter, Namespace, NodeId};

use crate::event::EventQuery;

/// One ordered run of index entries that holds candidates.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// Events of one author; of one kind, or of every kind that the author used.
    Author { ns: Namespace, author: NodeId, kind: Option<u16> },
    /// Events of one kind, or everything in the namespace.
    Kind { ns: Namespace, kind: Option<u16> },
    /// Events with one tag value.
    Tag { ns: Namespace, name: String, value: String },
}

/// How one filter is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    Ids(Vec<EventId>),
    /// Alternatives that answer the same filter, cheapest unknown: the store counts a little and takes one.
    /// Each alternative is a union of sources.
    Index(Vec<Vec<Source>>),
}

/// A filter with the namespaces that the asker may read put in.
#[derive(Debug, Clone)]
pub struct Part {
    pub filter: Filter,
    pub access: Access,
}

/// Splits a question into parts that the indexes can answer. Parts that can have no answer are left out.
pub fn plan(query: &EventQuery) -> Vec<Part> {
    let everything = [Filter::default()];
    let filters = if query.filters.is_empty() { &everything[..] } else { &query.filters };
    filters.iter().filter_map(|filter| part(filter, &query.namespaces)).collect()
}

fn part(filter: &Filter, readable: &[Namespace]) -> Option<Part> {
    let mut filter = filter.clone();
    if filter.ns.is_empty() {
        filter.ns = readable.to_vec();
    } else {
        filter.ns.retain(|ns| readable.contains(ns));
    }
    if filter.ns.is_empty() {
        return None;
    }
    let access = if filter.ids.is_empty() {
        Access::Index(alternatives(&filter))
    } else {
        Access::Ids(filter.ids.clone())
    };
    Some(Part { filter, access })
}

fn alternatives(filter: &Filter) -> Vec<Vec<Source>> {
    let per_namespace =
        |make: &dyn Fn(&Namespace) -> Vec<Source>| filter.ns.iter().flat_map(make).collect();
    let mut found: Vec<Vec<Source>> = Vec::new();
    for (name, values) in filter.tags.iter().filter(|(name, _)| name != "ns") {
        found.push(per_namespace(&|ns| {
            let tag = |value: &String| Source::Tag {
                ns: ns.clone(),
                name: name.clone(),
                value: value.clone(),
            };
            values.iter().map(tag).collect()
        }));
    }
    if !filter.authors.is_empty() {
        found.push(per_namespace(&|ns| {
            let author = |kind| {
                filter.authors.iter().map(move |&author| Source::Author {
                    ns: ns.clone(),
                    author,
                    kind,
                })
            };
            each_kind(filter, author)
        }));
    }
    if found.is_empty() {
        found.push(per_namespace(&|ns| {
            each_kind(filter, |kind| [Source::Kind { ns: ns.clone(), kind }])
        }));
    }
    found
}

fn each_kind<I: IntoIterator<Item = Source>>(
    filter: &Filter,
    make: impl Fn(Option<u16>) -> I,
) -> Vec<Source> {
    if filter.kinds.is_empty() {
        make(None).into_iter().collect()
    } else {
        filter.kinds.iter().flat_map(|&kind| make(Some(kind))).collect()
    }
}

/// Whether a candidate out of `source` can be told to match by its columns alone, without reading its tags.
pub fn covered(filter: &Filter) -> bool {
    filter.tags.is_empty() && filter.ids.is_empty()
}
