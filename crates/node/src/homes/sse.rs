//! Server-sent events on their way between relays: written by a home, taken apart where they arrive.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// The longest event of a stream: one that is longer breaks it.
const MAX_EVENT: usize = 4 << 20;

/// One server-sent event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// The frame's `t`.
    pub t: String,
    /// The home's cursor behind it.
    pub id: Option<String>,
    /// The frame.
    pub data: String,
    /// Whether it came after the way had broken and the stream was asked for again.
    pub resumed: bool,
}

impl Event {
    /// The event as it travels.
    pub fn encode(&self) -> String {
        let id = self.id.as_ref().map(|id| format!("id: {id}\n")).unwrap_or_default();
        format!("{id}event: {}\ndata: {}\n\n", self.t, self.data)
    }
}

/// Takes a stream of bytes apart into events.
#[derive(Debug, Default)]
pub struct Parser {
    /// What is not yet a whole event.
    buffer: BytesMut,
    /// Where to go on looking for its end.
    looked: usize,
    whole: VecDeque<Bytes>,
}

impl Parser {
    /// Takes more bytes; false when an event is too long.
    pub fn add(&mut self, bytes: &[u8]) -> bool {
        self.buffer.extend_from_slice(bytes);
        loop {
            let found = self.buffer[self.looked..].windows(2).position(|pair| pair == b"\n\n");
            let Some(at) = found else { break };
            let whole = self.buffer.split_to(self.looked + at + 2).freeze();
            self.whole.push_back(whole);
            self.looked = 0;
        }
        self.looked = self.buffer.len().saturating_sub(1);
        self.buffer.len() <= MAX_EVENT
    }

    /// The next event; `Some(None)` for a comment.
    #[allow(clippy::should_implement_trait, reason = "two kinds of nothing")]
    pub fn next(&mut self) -> Option<Option<Event>> {
        let whole = self.whole.pop_front()?;
        let text = String::from_utf8_lossy(&whole);
        let mut event = Event::default();
        for line in text.lines() {
            match line.split_once(": ") {
                Some(("id", id)) => event.id = Some(id.to_owned()),
                Some(("event", t)) => event.t = t.to_owned(),
                Some(("data", data)) => event.data = data.to_owned(),
                _ => {}
            }
        }
        Some((!event.data.is_empty()).then_some(event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: usize) -> Event {
        let id = n.is_multiple_of(2).then(|| format!("c{n}"));
        let data = format!("{{\"n\":{n},\"text\":\"a: b\"}}");
        Event { t: "stream.event".into(), id, data, resumed: false }
    }

    #[test]
    fn events_are_found_wherever_the_bytes_are_cut() {
        let events: Vec<Event> = (0..9).map(event).collect();
        let text: String = events.iter().map(Event::encode).collect();
        for size in 1..=text.len() {
            let (mut parser, mut found) = (Parser::default(), Vec::new());
            for part in text.as_bytes().chunks(size) {
                assert!(parser.add(part));
                while let Some(next) = parser.next() {
                    found.extend(next);
                }
            }
            assert_eq!(found, events, "pieces of {size}");
        }
    }

    #[test]
    fn comments_are_no_events_and_long_ones_end_the_stream() {
        let mut parser = Parser::default();
        assert!(parser.add(b": ping\n\nid: 1\nevent: stream.live\nda"));
        assert_eq!(parser.next(), Some(None));
        assert_eq!(parser.next(), None);
        assert!(!parser.add(&vec![b'x'; MAX_EVENT + 1]));
    }
}
