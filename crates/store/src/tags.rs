//! The numbers under which tags and locks are indexed: narrow, the same in both stores.
//! Different texts may share one, so readers check the event itself.

use relay_proto::{Event, Namespace, lease::Resource};

/// The numbers under which the tags of an event are indexed; the namespace has columns of its own.
pub(crate) fn tag_hashes(event: &Event) -> impl Iterator<Item = i64> + '_ {
    event.tags().iter().filter_map(move |tag| {
        let (name, value) = (tag.name()?, tag.value()?);
        (name != "ns").then(|| tag_hash(event.namespace(), name, value))
    })
}

/// The number under which a tag is indexed.
pub(crate) fn tag_hash(namespace: &Namespace, name: &str, value: &str) -> i64 {
    let mut hasher = blake3::Hasher::new();
    for part in [namespace.as_str(), name] {
        hasher.update(&(part.len() as u32).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.update(value.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    i64::from_le_bytes(first)
}

/// The number under which a lock's history is indexed.
pub(crate) fn lock_hash(ns: &Namespace, resource: &Resource) -> i64 {
    tag_hash(ns, "lock", resource.as_str())
}
