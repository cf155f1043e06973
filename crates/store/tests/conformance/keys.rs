//! Keys and events by number, the same in every run.

use relay_proto::{Event, NodeId, SigningKey, event::Draft};

pub fn key(n: u8) -> SigningKey {
    SigningKey::from_seed([n; 32])
}

pub fn author(n: u8) -> NodeId {
    key(n).node_id()
}

/// An event of author `by`.
pub fn event(by: u8, kind: u16, at: u64, tags: &[&[&str]], content: &str) -> Event {
    let mut draft = Draft { kind, created_at_ns: at, content: content.into(), ..Draft::default() };
    for tag in tags {
        draft.tags.push(tag.iter());
    }
    draft.sign(&key(by)).unwrap()
}
