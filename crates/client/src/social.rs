//! The social layer: reading what people wrote, and writing for one's own key.
//!
//! A device numbers what it writes; [`Author`] keeps the newest event of this device in a file, so that no number is
//! given twice, also where the relay has lost or never had what was written before.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use prost::Message;
use rand_core::{OsRng, RngCore};
use relay_proto::NodeId;
use relay_proto::polycentric::{
    Body, Claim, ClaimFieldEntry, CountLwwElementReferences, CountReferences, Draft, Event,
    EventKey, EventMessage, EventWriter, Events, ImageManifest, ProcessId, PublicKey,
    QueryIndexResponse, QueryReferencesRequest, QueryReferencesRequestEvents,
    QueryReferencesResponse, Range, Ranges, RangesForProcess, RangesForSystem, Reference,
    RepeatedUInt64, ResultEventsAndRelatedEventsAndCursor, ResultTopStringReferences, SignedEvent,
    SystemKey, SystemProcesses, content, decode_message, decode_param, encode_param, opinion,
};
use reqwest::Method;

use crate::{
    client::{Body as HttpBody, Client, Request},
    error::Error,
    signer::Signer,
};

/// Longest piece of a picture in one event; the protocol's client cuts at the same length.
pub const SECTION: usize = 512 << 10;
/// Events of one upload, as the protocol's client sends them.
const UPLOAD: usize = 20;
/// People whose pages [`Social::home`] joins, beside one's own.
pub const MAX_FOLLOWED: usize = 100;

/// Names an event in text: key, process in hex, clock, with slashes between.
pub fn event_name(key: &EventKey) -> String {
    format!("{}/{}/{}", key.system, process_name(key.process), key.clock)
}

/// A process as it is written in the names of its events.
pub fn process_name(process: ProcessId) -> String {
    hex::encode(process.as_bytes())
}

/// Reads what [`event_name`] wrote.
pub fn parse_event_name(text: &str) -> Option<EventKey> {
    let mut parts = text.split('/');
    let system: NodeId = parts.next()?.parse().ok()?;
    let process = relay_proto::key::parse_hex(parts.next()?)?;
    let clock = parts.next()?.parse().ok()?;
    let key = EventKey {
        system: SystemKey::from(system),
        process: ProcessId::from_bytes(process),
        clock,
    };
    parts.next().is_none().then_some(key)
}

/// An event with what others made of it.
#[derive(Debug, Clone)]
pub struct Counted {
    /// The event itself.
    pub event: Event,
    /// How many like it.
    pub likes: u64,
    /// How many do not.
    pub dislikes: u64,
    /// Posts about it.
    pub replies: u64,
}

/// What a profile shows.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    /// The current name.
    pub username: Option<String>,
    /// The current description.
    pub description: Option<String>,
    /// Events that the relay holds or knows to be deleted.
    pub events_held: u64,
}

/// The social requests of a client.
#[derive(Debug, Clone, Copy)]
pub struct Social<'c>(pub &'c Client);

impl Social<'_> {
    async fn get<M: Message + Default>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<M, Error> {
        let mut request = Request::new(Method::GET, path);
        request.signed = false;
        for (name, value) in query {
            request = request.query(name, Some(value));
        }
        let bytes = self.0.fetch(request).await?;
        decode_message(bytes).map_err(|error| self.damaged(&error.to_string()))
    }

    fn damaged(&self, what: &str) -> Error {
        self.0.protocol_error(what.to_owned())
    }

    /// Checks what a relay sent as the protocol's client does: one bad signature spoils the answer.
    fn checked(&self, events: Vec<SignedEvent>) -> Result<Vec<Event>, Error> {
        let body = Events { events }.encode_to_vec();
        let raws = relay_proto::polycentric::parse_events(body.into());
        raws.and_then(relay_proto::polycentric::verify_all)
            .map_err(|error| self.damaged(&error.to_string()))
    }

    fn system(system: SystemKey) -> (&'static str, String) {
        ("system", encode_param(&system.to_message().encode_to_vec()))
    }

    /// Uploads events, as many at a time as the protocol's client.
    ///
    /// # Errors
    /// The relay's refusal, or that of the way there. What was uploaded before it stays.
    pub async fn upload(&self, events: &[Event]) -> Result<(), Error> {
        for batch in events.chunks(UPLOAD) {
            let body = Events { events: batch.iter().map(Event::to_signed).collect() };
            let mut request = Request::new(Method::POST, "/events");
            request.signed = false;
            // The relay keeps an event once.
            request.repeatable = true;
            let bytes = body.encode_to_vec().into();
            request.body = Some(HttpBody { media_type: "application/octet-stream", bytes });
            self.0.fetch(request).await?;
        }
        Ok(())
    }

    /// Heads of a system's devices and the lists of devices that go with them.
    ///
    /// # Errors
    /// As every request.
    pub async fn head(&self, system: SystemKey) -> Result<Vec<Event>, Error> {
        let events: Events = self.get("/head", &[Self::system(system)]).await?;
        self.checked(events.events)
    }

    /// Which clocks the relay holds, for each device.
    ///
    /// # Errors
    /// As every request.
    pub async fn ranges(&self, system: SystemKey) -> Result<Vec<(ProcessId, Ranges)>, Error> {
        let all: RangesForSystem = self.get("/ranges", &[Self::system(system)]).await?;
        all.ranges_for_processes
            .iter()
            .map(|of| {
                let process = ProcessId::required(of.process.as_ref())?;
                Ok((process, Ranges::from_wire(&of.ranges)?))
            })
            .collect::<Result<_, relay_proto::polycentric::WireError>>()
            .map_err(|error| self.damaged(&error.to_string()))
    }

    /// Events of one device by their clocks.
    ///
    /// # Errors
    /// As every request.
    pub async fn events(
        &self,
        system: SystemKey,
        process: ProcessId,
        ranges: &Ranges,
    ) -> Result<Vec<Event>, Error> {
        let of = RangesForProcess { process: Some(process.to_message()), ranges: ranges.to_wire() };
        let wanted = RangesForSystem { ranges_for_processes: vec![of] }.encode_to_vec();
        let query = [Self::system(system), ("ranges", encode_param(&wanted))];
        let events: Events = self.get("/events", &query).await?;
        self.checked(events.events)
    }

    /// One event.
    ///
    /// # Errors
    /// As every request; none where it is not there.
    pub async fn event(&self, key: &EventKey) -> Result<Option<Event>, Error> {
        let only: Ranges = [key.clock].into_iter().collect();
        let found = self.events(key.system, key.process, &only).await?;
        Ok(found.into_iter().find(|event| event.key() == *key))
    }

    /// A page of what a system wrote of one type, newest first.
    ///
    /// # Errors
    /// As every request.
    pub async fn feed(
        &self,
        system: SystemKey,
        content_type: u64,
        before_ms: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Event>, Error> {
        let mut query = vec![
            Self::system(system),
            ("content_type", content_type.to_string()),
            ("limit", limit.to_string()),
        ];
        query.extend(before_ms.map(|ms| ("after", ms.to_string())));
        let page: QueryIndexResponse = self.get("/query_index", &query).await?;
        self.checked(page.events)
    }

    /// The newest posts of a system and of whom it follows, newest first. Of at most [`MAX_FOLLOWED`] people: the pages of
    /// more would take too long.
    ///
    /// # Errors
    /// As every request.
    pub async fn home(&self, own: SystemKey, limit: usize) -> Result<Vec<Event>, Error> {
        let mut posts = self.feed(own, content::POST, None, limit).await?;
        let followed = self.set(own, content::FOLLOW).await?;
        let keys = followed.into_iter().filter_map(|value| {
            let key: PublicKey = decode_message(value.into()).ok()?;
            SystemKey::from_message(&key).ok()
        });
        for system in keys.take(MAX_FOLLOWED) {
            posts.extend(self.feed(system, content::POST, None, limit).await?);
        }
        posts.sort_by_key(|event| std::cmp::Reverse(event.unix_ms()));
        posts.truncate(limit);
        Ok(posts)
    }

    /// Everything that is in a set of the system now (whom it follows, which servers it uses …).
    ///
    /// # Errors
    /// As every request.
    pub async fn set(&self, system: SystemKey, content_type: u64) -> Result<Vec<Vec<u8>>, Error> {
        const PAGE: usize = 100;
        let mut newest = std::collections::BTreeMap::<Vec<u8>, (u64, bool)>::new();
        let mut before = None;
        loop {
            let page = self.feed(system, content_type, before, PAGE).await?;
            let Some(last) = page.last() else { break };
            before = last.unix_ms();
            for event in &page {
                let message: EventMessage = decode_message(event.bytes().clone())
                    .map_err(|error| self.damaged(&error.to_string()))?;
                let Some(set) = message.lww_element_set else { continue };
                let entry = newest.entry(set.value.to_vec()).or_insert((0, false));
                if set.unix_milliseconds >= entry.0 {
                    *entry = (set.unix_milliseconds, set.operation == 0);
                }
            }
            if page.len() < PAGE || before.is_none() {
                break;
            }
        }
        Ok(newest.into_iter().filter(|(_, (_, there))| *there).map(|(value, _)| value).collect())
    }

    /// What a system says of itself.
    ///
    /// # Errors
    /// As every request.
    pub async fn profile(&self, system: SystemKey) -> Result<Profile, Error> {
        let types = RepeatedUInt64 { numbers: vec![content::USERNAME, content::DESCRIPTION] };
        let query = [Self::system(system), ("event_types", encode_param(&types.encode_to_vec()))];
        let events: Events = self.get("/query_latest", &query).await?;
        let mut newest: [Option<(u64, ProcessId, String)>; 2] = [None, None];
        for event in self.checked(events.events)? {
            let (Some(lww), Body::Text(text)) = (event.lww(), event.body()) else { continue };
            let slot = &mut newest[usize::from(event.content_type() == content::DESCRIPTION)];
            let value = (lww.unix_ms, event.process(), text.clone());
            if slot.as_ref().is_none_or(|known| (known.0, known.1) < (value.0, value.1)) {
                *slot = Some(value);
            }
        }
        let [username, description] = newest.map(|value| value.map(|(_, _, text)| text));
        let held = self.ranges(system).await?;
        let events_held = held.iter().map(|(_, ranges)| ranges.count()).sum();
        Ok(Profile { username, description, events_held })
    }

    /// Posts about something, best liked first, with counts; and the counts of the thing itself.
    ///
    /// # Errors
    /// As every request.
    pub async fn about(&self, reference: &Reference) -> Result<(Vec<Counted>, [u64; 3]), Error> {
        let values = || {
            [opinion::LIKE, opinion::DISLIKE].map(|value| CountLwwElementReferences {
                value: value.into(),
                from_type: Some(content::OPINION),
            })
        };
        let posts = || vec![CountReferences { from_type: Some(content::POST) }];
        let request = QueryReferencesRequest {
            reference: Some(reference.to_message()),
            request_events: Some(QueryReferencesRequestEvents {
                from_type: Some(content::POST),
                count_lww_element_references: values().to_vec(),
                count_references: posts(),
            }),
            count_lww_element_references: values().to_vec(),
            count_references: posts(),
            ..Default::default()
        };
        let query = [("query", encode_param(&request.encode_to_vec()))];
        let answer: QueryReferencesResponse = self.get("/query_references", &query).await?;
        let counts = |given: &[u64]| -> [u64; 3] {
            std::array::from_fn(|at| given.get(at).copied().unwrap_or(0))
        };
        let mut all = Vec::new();
        for item in answer.items {
            let [likes, dislikes, replies] = counts(&item.counts);
            for event in self.checked(item.event.into_iter().collect())? {
                all.push(Counted { event, likes, dislikes, replies });
            }
        }
        Ok((all, counts(&answer.counts)))
    }

    /// Posts or profiles with all of the words.
    ///
    /// # Errors
    /// As every request.
    pub async fn search(
        &self,
        words: &str,
        profiles: bool,
        limit: usize,
    ) -> Result<Vec<Event>, Error> {
        let kind = if profiles { "profiles" } else { "messages" };
        let query = [
            ("search", words.to_owned()),
            ("search_type", kind.to_owned()),
            ("limit", limit.to_string()),
        ];
        let answer: ResultEventsAndRelatedEventsAndCursor = self.get("/search", &query).await?;
        self.checked(answer.result_events.unwrap_or_default().events)
    }

    /// The newest posts of everybody.
    ///
    /// # Errors
    /// As every request.
    pub async fn explore(&self, limit: usize) -> Result<Vec<Event>, Error> {
        let query = [("limit", limit.to_string())];
        let answer: ResultEventsAndRelatedEventsAndCursor = self.get("/explore", &query).await?;
        self.checked(answer.result_events.unwrap_or_default().events)
    }

    /// The most used topics and how many posts each has.
    ///
    /// # Errors
    /// As every request.
    pub async fn topics(
        &self,
        words: Option<&str>,
        range: &str,
    ) -> Result<Vec<(String, u64)>, Error> {
        let mut query = vec![("time_range", range.to_owned())];
        query.extend(words.map(|words| ("query", words.to_owned())));
        let answer: ResultTopStringReferences = self.get("/top_string_references", &query).await?;
        let name = |key: &[u8]| {
            let text = String::from_utf8_lossy(key);
            decode_param(&text)
                .map_or_else(|_| text.to_string(), |raw| String::from_utf8_lossy(&raw).into_owned())
        };
        let buckets = answer.buckets.into_iter();
        Ok(buckets.map(|bucket| (name(&bucket.key), bucket.value.max(0) as u64)).collect())
    }
}

/// A person on one device: writes, numbers, signs, uploads.
#[derive(Debug)]
pub struct Author<'c> {
    social: Social<'c>,
    key: Signer,
    writer: EventWriter,
    /// Where the newest event of this device is kept.
    file: PathBuf,
    /// Held as long as this lives: of two programs on one device one waits.
    _lock: fs::File,
}

/// Why this device cannot write.
#[derive(Debug, thiserror::Error)]
pub enum AuthorError {
    /// The device's file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The device's file holds something else.
    #[error("{0}: this is no state of a device")]
    State(PathBuf),
    /// The relay refused, or could not be reached.
    #[error(transparent)]
    Client(#[from] Error),
    /// The draft would be refused by its readers.
    #[error("an event cannot be written: {0}")]
    Wire(#[from] relay_proto::polycentric::WireError),
    /// Somebody wrote under this device's name elsewhere.
    #[error(
        "the relay keeps another event under this device's number; remove {0} to go on as a new device"
    )]
    Forked(PathBuf),
}

impl<'c> Author<'c> {
    /// Goes on where this device stopped; a new device where `file` is not there.
    ///
    /// # Errors
    /// [`AuthorError`].
    pub async fn open(client: &'c Client, key: Signer, file: PathBuf) -> Result<Self, AuthorError> {
        let at = |source| AuthorError::File { path: file.clone(), source };
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir).map_err(at)?;
        }
        let lock = fs::File::create(file.with_extension("lock")).map_err(at)?;
        lock.lock().map_err(at)?;
        let kept = match fs::read(&file) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(at(error)),
        };
        let social = Social(client);
        let system = SystemKey::from(key.node_id());
        let newest = kept.map(|bytes| parse_state(&bytes, &file)).transpose()?;
        let heads = social.head(system).await?;
        let process = newest.as_ref().map_or_else(new_process, Event::process);
        let listed = heads
            .iter()
            .rfind(|event| {
                event.process() == process && event.content_type() == content::SYSTEM_PROCESSES
            })
            .map(listed_in)
            .transpose()?
            .unwrap_or_default();
        let clock_of = |process: ProcessId| {
            heads
                .iter()
                .filter(|event| event.process() == process)
                .map(Event::clock)
                .max()
                .unwrap_or(0)
        };
        let beside = listed.iter().map(|process| (*process, clock_of(*process))).collect();
        let writer = match &newest {
            Some(event) => EventWriter::after(event)?,
            None => EventWriter::new(process),
        };
        let mut author =
            Self { social, key, writer: writer.beside(beside), file: file.clone(), _lock: lock };
        let mut others: Vec<ProcessId> =
            heads.iter().map(Event::process).filter(|other| *other != process).collect();
        others.sort_unstable();
        others.dedup();
        if others.iter().any(|other| !listed.contains(other)) {
            let event = author.sign(Draft::list_processes(others.iter().copied()))?;
            let all = others.iter().map(|other| (*other, clock_of(*other))).collect();
            author.writer = author.writer.beside(all);
            author.keep(&event)?;
            author.social.upload(&[event]).await?;
        }
        Ok(author)
    }

    /// Writes and uploads one event.
    ///
    /// # Errors
    /// [`AuthorError`].
    pub async fn publish(&mut self, draft: Draft) -> Result<Event, AuthorError> {
        let event = self.sign(draft)?;
        // Kept first: a number that may have been used is never used again.
        self.keep(&event)?;
        self.social.upload(std::slice::from_ref(&event)).await?;
        match self.social.event(&event.key()).await? {
            Some(kept) if kept.bytes() != event.bytes() => {
                Err(AuthorError::Forked(self.file.clone()))
            }
            _ => Ok(event),
        }
    }

    /// Uploads a picture in pieces; tells after each how many bytes are there.
    ///
    /// # Errors
    /// [`AuthorError`].
    pub async fn upload_image(
        &mut self,
        mime: &str,
        size: (u64, u64),
        bytes: &[u8],
        mut progress: impl FnMut(u64),
    ) -> Result<ImageManifest, AuthorError> {
        let mut clocks = Vec::new();
        let mut done = 0;
        for section in bytes.chunks(SECTION) {
            let draft = Draft {
                content_type: content::BLOB_SECTION,
                content: bytes::Bytes::copy_from_slice(section),
                ..Draft::default()
            };
            let event = self.sign(draft)?;
            self.keep(&event)?;
            self.social.upload(std::slice::from_ref(&event)).await?;
            clocks.push(event.clock());
            done += section.len() as u64;
            progress(done);
        }
        let sections: Vec<Range> = clocks.into_iter().collect::<Ranges>().to_wire();
        Ok(ImageManifest {
            mime: mime.to_owned(),
            width: size.0,
            height: size.1,
            byte_count: bytes.len() as u64,
            process: Some(self.writer.process().to_message()),
            sections,
        })
    }

    /// Makes a claim of one field.
    ///
    /// # Errors
    /// [`AuthorError`].
    pub async fn claim(&mut self, claim_type: u64, value: &str) -> Result<Event, AuthorError> {
        let field = ClaimFieldEntry { key: 0, value: value.to_owned() };
        let claim = Claim { claim_type, claim_fields: vec![field] };
        self.publish(Draft::of_message(content::CLAIM, &claim)).await
    }

    fn sign(&mut self, draft: Draft) -> Result<Event, AuthorError> {
        let system = SystemKey::from(self.key.node_id());
        let bytes = self.writer.unsigned(system, draft, now_ms());
        Ok(self.writer.signed(self.key.sign(&bytes)?, bytes)?)
    }

    fn keep(&self, event: &Event) -> Result<(), AuthorError> {
        let at = |source| AuthorError::File { path: self.file.clone(), source };
        let next = self.file.with_extension("new");
        let mut file = fs::File::create(&next).map_err(at)?;
        file.write_all(&event.to_signed().encode_to_vec()).map_err(at)?;
        file.sync_all().map_err(at)?;
        fs::rename(&next, &self.file).map_err(at)
    }
}

fn parse_state(bytes: &[u8], file: &std::path::Path) -> Result<Event, AuthorError> {
    let damaged = || AuthorError::State(file.to_owned());
    let signed = SignedEvent::decode(bytes).map_err(|_| damaged())?;
    let signature = signed.signature[..].try_into().map_err(|_| damaged())?;
    Event::from_stored(signature, signed.event).map_err(|_| damaged())
}

fn listed_in(event: &Event) -> Result<Vec<ProcessId>, relay_proto::polycentric::WireError> {
    let message: EventMessage = decode_message(event.bytes().clone())?;
    let listed: SystemProcesses = decode_message(message.content)?;
    listed.processes.iter().map(|process| ProcessId::required(Some(process))).collect()
}

fn new_process() -> ProcessId {
    let mut bytes = [0; 16];
    OsRng.fill_bytes(&mut bytes);
    ProcessId::from_bytes(bytes)
}

/// Unix milliseconds.
pub fn now_ms() -> u64 {
    crate::auth::unix_ns() / 1_000_000
}
