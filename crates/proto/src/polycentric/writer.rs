//! Making events: what a client does for one process of a system.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::{
    content,
    event::{Event, Target},
    id::{ProcessId, Reference, SystemKey, WireError, decode},
    message::{
        Delete, EventMessage, Index, Indices, LwwElement, LwwElementSet, Post, SystemProcesses,
        VectorClock,
    },
};
use crate::event::SigningKey;

/// An event before its process numbers and signs it.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    pub content_type: u64,
    pub content: Bytes,
    pub lww_element: Option<LwwElement>,
    pub lww_element_set: Option<LwwElementSet>,
    pub references: Vec<Reference>,
}

impl Draft {
    pub fn post(text: &str, about: Option<Reference>) -> Self {
        let post = Post { content: Some(text.to_owned()), image: None };
        Self {
            content_type: content::POST,
            content: post.encode_to_vec().into(),
            references: about.into_iter().collect(),
            ..Self::default()
        }
    }

    /// A value of the system, the newest of which counts.
    pub fn element(content_type: u64, value: impl Into<Bytes>, unix_ms: u64) -> Self {
        let element = LwwElement { value: value.into(), unix_milliseconds: unix_ms };
        Self { content_type, lww_element: Some(element), ..Self::default() }
    }

    /// Adds to a set of the system, or removes from it.
    pub fn set(content_type: u64, add: bool, value: impl Into<Bytes>, unix_ms: u64) -> Self {
        let operation = i32::from(!add);
        let set = LwwElementSet { operation, value: value.into(), unix_milliseconds: unix_ms };
        Self { content_type, lww_element_set: Some(set), ..Self::default() }
    }

    pub fn opinion(about: Reference, value: &'static [u8], unix_ms: u64) -> Self {
        let references = vec![about];
        Self { references, ..Self::element(content::OPINION, value, unix_ms) }
    }

    /// Tells of the other processes of the system. Its own vector clock still follows the list before it, so the
    /// writer learns of the new list ([`EventWriter::beside`]) when this is written.
    pub fn list_processes(others: impl IntoIterator<Item = ProcessId>) -> Self {
        let processes = others.into_iter().map(ProcessId::to_message).collect();
        Self::of_message(content::SYSTEM_PROCESSES, &SystemProcesses { processes })
    }

    pub fn vouch(about: Reference) -> Self {
        Self { content_type: content::VOUCH, references: vec![about], ..Self::default() }
    }

    pub fn of_message(content_type: u64, message: &impl Message) -> Self {
        Self { content_type, content: message.encode_to_vec().into(), ..Self::default() }
    }

    /// Takes out an event of this system.
    pub fn delete(target: &Event) -> Result<Self, WireError> {
        let message: EventMessage = decode(target.bytes().clone())?;
        let delete = Delete {
            process: Some(target.process().to_message()),
            logical_clock: target.clock(),
            indices: message.indices,
            unix_milliseconds: target.unix_ms(),
            content_type: target.content_type(),
        };
        Ok(Self::of_message(content::DELETE, &delete))
    }
}

/// The state of one process: what its next event says of those before it.
#[derive(Debug, Clone)]
pub struct EventWriter {
    process: ProcessId,
    clock: u64,
    /// For each content type the clock of the latest event.
    indices: BTreeMap<u64, u64>,
    /// The other processes of the system, in the order of the latest SystemProcesses, with the clock seen of each.
    others: Vec<(ProcessId, u64)>,
}

impl EventWriter {
    /// A process that has written nothing.
    pub fn new(process: ProcessId) -> Self {
        Self { process, clock: 0, indices: BTreeMap::new(), others: Vec::new() }
    }

    /// A process that goes on after its newest event.
    ///
    /// # Errors
    /// The event's bytes are damaged.
    pub fn after(newest: &Event) -> Result<Self, WireError> {
        let message: EventMessage = decode(newest.bytes().clone())?;
        let mut indices: BTreeMap<u64, u64> = message
            .indices
            .unwrap_or_default()
            .indices
            .iter()
            .map(|index| (index.index_type, index.logical_clock))
            .collect();
        indices.insert(newest.content_type(), newest.clock());
        Ok(Self { process: newest.process(), clock: newest.clock(), indices, others: Vec::new() })
    }

    /// The other processes as this process's latest SystemProcesses lists them, with the newest clock seen of each.
    #[must_use]
    pub fn beside(mut self, others: Vec<(ProcessId, u64)>) -> Self {
        self.others = others;
        self
    }

    pub fn process(&self) -> ProcessId {
        self.process
    }

    pub fn others(&self) -> &[(ProcessId, u64)] {
        &self.others
    }

    /// The bytes of the next event, to be signed; nothing is numbered before [`Self::signed`].
    pub fn unsigned(&self, system: SystemKey, draft: Draft, unix_ms: u64) -> Bytes {
        let indices = self
            .indices
            .iter()
            .map(|(&index_type, &logical_clock)| Index { index_type, logical_clock });
        let message = EventMessage {
            system: Some(system.to_message()),
            process: Some(self.process.to_message()),
            logical_clock: self.clock + 1,
            content_type: draft.content_type,
            content: draft.content,
            vector_clock: Some(VectorClock {
                logical_clocks: self.others.iter().map(|(_, clock)| *clock).collect(),
            }),
            indices: Some(Indices { indices: indices.collect() }),
            lww_element_set: draft.lww_element_set,
            lww_element: draft.lww_element,
            references: draft.references.iter().map(Reference::to_message).collect(),
            unix_milliseconds: Some(unix_ms),
        };
        message.encode_to_vec().into()
    }

    /// Takes the event whose bytes [`Self::unsigned`] gave.
    ///
    /// # Errors
    /// [`WireError`] where it would be refused by those who read it; then no number is used up.
    pub fn signed(&mut self, signature: [u8; 64], bytes: Bytes) -> Result<Event, WireError> {
        let event = Event::from_stored(signature, bytes)?;
        self.clock = event.clock();
        self.indices.insert(event.content_type(), self.clock);
        Ok(event)
    }

    /// Numbers and signs an event with a key at hand.
    ///
    /// # Errors
    /// As [`Self::signed`].
    pub fn write(
        &mut self,
        key: &SigningKey,
        draft: Draft,
        unix_ms: u64,
    ) -> Result<Event, WireError> {
        let bytes = self.unsigned(SystemKey::from(key.node_id()), draft, unix_ms);
        self.signed(key.sign(&bytes), bytes)
    }
}

/// Where a Delete of this target would point.
impl From<&Event> for Target {
    fn from(event: &Event) -> Self {
        Self {
            process: event.process(),
            clock: event.clock(),
            content_type: event.content_type(),
            unix_ms: event.unix_ms(),
        }
    }
}
