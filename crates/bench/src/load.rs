//! Load made ahead of the run: signed events, encoded as the bytes that go on the wire.
//!
//! Generator and server share the machine, so during a run the generator only writes slices of
//! these buffers and looks for a few bytes in the answers.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use relay_proto::{SigningKey, key::write_hex};

/// What the events of one run look like. Event `index` of a plan is always the same.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Seeds keys and choices.
    pub seed: u64,
    pub authors: usize,
    /// Values of the tag `t`.
    pub topics: usize,
    pub kinds: Vec<u16>,
    /// Bytes of an event as JSON; content fills it up.
    pub event_bytes: usize,
    /// Time of event 0, in nanoseconds since 1970; each next one is `step_ns` later.
    pub first_ns: u64,
    pub step_ns: u64,
}

impl Plan {
    /// The load of all comparisons: 200 authors, 20 topics, 950 bytes, from now on.
    pub fn usual() -> Self {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos() as u64;
        Self {
            seed: now,
            authors: 200,
            topics: 20,
            kinds: vec![1],
            event_bytes: 950,
            first_ns: now,
            step_ns: 1000,
        }
    }

    pub fn created_at_ns(&self, index: usize) -> u64 {
        self.first_ns + index as u64 * self.step_ns
    }

    pub fn author_of(&self, index: usize) -> usize {
        self.pick(index, 1, self.authors)
    }

    pub fn kind_of(&self, index: usize) -> u16 {
        self.kinds[self.pick(index, 2, self.kinds.len())]
    }

    pub fn topic_of(&self, index: usize) -> usize {
        self.pick(index, 3, self.topics)
    }

    /// The author that the tag `p` of an event names.
    pub fn peer_of(&self, index: usize) -> usize {
        self.pick(index, 4, self.authors)
    }

    /// 32 secret bytes for the key of an author, or for anything else that needs one.
    pub fn secret(&self, purpose: &str, index: usize) -> [u8; 32] {
        *blake3::hash(format!("{}/{purpose}/{index}", self.seed).as_bytes()).as_bytes()
    }

    fn pick(&self, index: usize, salt: u64, of: usize) -> usize {
        let mut z = (index as u64)
            .wrapping_mul(4)
            .wrapping_add(salt)
            .wrapping_add(self.seed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % of.max(1) as u64) as usize
    }
}

/// Marks the event's index in its content, so that a delivery can be timed without parsing it.
pub const INDEX_MARK: &[u8] = b"\"content\":\"#";

/// Appends content of `len` bytes that starts with `#index`; plain letters, nothing to escape.
pub fn write_content(index: usize, len: usize, out: &mut Vec<u8>) {
    const WORDS: &[u8] = b"the relay keeps what was signed and tells everyone who asked in order ";
    let end = out.len() + len;
    out.extend_from_slice(format!("#{index:010} ").as_bytes());
    while out.len() < end {
        let rest = end - out.len();
        out.extend_from_slice(&WORDS[..rest.min(WORDS.len())]);
    }
}

/// Reads the index that [`write_content`] left in an event inside `bytes`.
pub fn index_in(bytes: &[u8]) -> Option<usize> {
    let at = memchr::memmem::find(bytes, INDEX_MARK)? + INDEX_MARK.len();
    number_at(bytes, at)
}

/// The decimal number that starts at `at`.
pub fn number_at(bytes: &[u8], at: usize) -> Option<usize> {
    let digits = bytes.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit());
    let mut found = None;
    for digit in digits {
        found = Some(found.unwrap_or(0usize).checked_mul(10)? + usize::from(digit - b'0'));
    }
    found
}

/// Byte strings one after the other in one buffer, so that many can be written at once.
#[derive(Debug, Default, Clone)]
pub struct Frames {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Frames {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The frames `range` as one slice.
    pub fn slice(&self, range: std::ops::Range<usize>) -> &[u8] {
        let start = range.start.checked_sub(1).map_or(0, |before| self.ends[before]);
        let end = range.end.checked_sub(1).map_or(0, |last| self.ends[last]);
        &self.bytes[start..end]
    }

    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    fn append(&mut self, other: &Self) {
        let shift = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.ends.extend(other.ends.iter().map(|end| end + shift));
    }
}

/// Makes the frames of `indexes` on all cores; `write` appends one frame.
pub fn generate(
    indexes: std::ops::Range<usize>,
    write: impl Fn(usize, &mut Vec<u8>) + Sync,
) -> Frames {
    const CHUNK: usize = 2048;
    let chunks = indexes.len().div_ceil(CHUNK);
    let done: Mutex<Vec<(usize, Frames)>> = Mutex::new(Vec::with_capacity(chunks));
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(chunks.max(1));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let chunk = next.fetch_add(1, Ordering::Relaxed);
                    if chunk >= chunks {
                        break;
                    }
                    let start = indexes.start + chunk * CHUNK;
                    let mut frames = Frames::default();
                    for index in start..(start + CHUNK).min(indexes.end) {
                        frames.push_with(|out| write(index, out));
                    }
                    done.lock().unwrap_or_else(|broken| broken.into_inner()).push((chunk, frames));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|broken| broken.into_inner());
    done.sort_unstable_by_key(|(chunk, _)| *chunk);
    let mut all = Frames::default();
    for (_, frames) in done {
        all.append(&frames);
    }
    all
}

/// Signs a plan's events as Relay wants them.
pub struct RelaySigner {
    pub plan: Plan,
    authors: Vec<(SigningKey, String)>,
}

impl std::fmt::Debug for RelaySigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelaySigner").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl RelaySigner {
    pub fn new(plan: Plan) -> Self {
        let author = |index| {
            let key = SigningKey::from_seed(plan.secret("author", index));
            let name = key.node_id().to_string();
            (key, name)
        };
        let authors = (0..plan.authors).map(author).collect();
        Self { plan, authors }
    }

    /// The canonical text of an author's key.
    pub fn author(&self, author: usize) -> &str {
        &self.authors[author].1
    }

    /// Appends event `index` as JSON and returns its id as hex digits.
    pub fn write_event(&self, index: usize, out: &mut Vec<u8>) -> [u8; 64] {
        let plan = &self.plan;
        let (key, name) = &self.authors[plan.author_of(index)];
        let time = plan.created_at_ns(index);
        let kind = plan.kind_of(index);
        let tags = format!(
            r#"[["t","topic-{}"],["p","{}"]]"#,
            plan.topic_of(index),
            self.authors[plan.peer_of(index)].1
        );

        // What surrounds tags and content: names, quotes, id (64), key (72), time (19), sig (128).
        const ENVELOPE: usize = 361;
        let kind_digits = kind.checked_ilog10().unwrap_or(0) as usize + 1;
        let content_bytes = plan.event_bytes.saturating_sub(ENVELOPE + kind_digits + tags.len());
        let mut content = Vec::with_capacity(content_bytes);
        write_content(index, content_bytes, &mut content);

        let mut canonical = Vec::with_capacity(plan.event_bytes);
        canonical.extend_from_slice(
            format!(r#"["relay-event-v1","{name}","{time}",{kind},{tags},""#).as_bytes(),
        );
        canonical.extend_from_slice(&content);
        canonical.extend_from_slice(br#""]"#);

        let mut id = [0; 64];
        id.copy_from_slice(blake3::hash(&canonical).to_hex().as_bytes());
        out.extend_from_slice(br#"{"id":""#);
        out.extend_from_slice(&id);
        out.extend_from_slice(
            format!(r#"","pubkey":"{name}","created_at_ns":"{time}","kind":{kind},"tags":{tags},"content":""#)
                .as_bytes(),
        );
        out.extend_from_slice(&content);
        out.extend_from_slice(br#"","sig":""#);
        write_hex(&key.sign(&canonical), out);
        out.extend_from_slice(br#""}"#);
        id
    }
}

#[cfg(test)]
mod tests {
    use relay_proto::event::{EventLimits, parse_event, verify};

    use super::*;

    #[test]
    fn events_are_accepted_and_have_the_wanted_size() {
        let signer = RelaySigner::new(Plan { kinds: vec![1, 30_000 - 1, 7], ..Plan::usual() });
        for index in [0, 1, 7, 4099] {
            let mut json = Vec::new();
            let id = signer.write_event(index, &mut json);
            assert_eq!(json.len(), signer.plan.event_bytes);
            assert_eq!(index_in(&json), Some(index));
            let raw = parse_event(&json, &EventLimits::default()).unwrap();
            let event = verify(raw).unwrap();
            assert_eq!(event.id().to_string().as_bytes(), id);
            assert_eq!(event.created_at_ns(), signer.plan.created_at_ns(index));
            assert_eq!(event.tags().values("t").count(), 1);
        }
    }

    #[test]
    fn frames_come_in_order_from_all_threads() {
        let frames = generate(10..9000, |index, out| out.extend_from_slice(&index.to_be_bytes()));
        assert_eq!(frames.len(), 8990);
        for (at, index) in [(0, 10usize), (2047, 2057), (2048, 2058), (8989, 8999)] {
            assert_eq!(frames.slice(at..at + 1), index.to_be_bytes());
        }
        assert_eq!(frames.slice(3..6).len(), 24);
        assert!(frames.slice(5..5).is_empty() && frames.slice(0..0).is_empty());
    }
}
