//! One link at work, after its handshake.
//!
//! Facts go in: bytes that came ([`Session::receive`]), what the application wants sent, the time
//! ([`Session::wake`]). Effects come out: bytes to write ([`Session::transmit`]), [`Event`]s, and when to
//! be woken ([`Session::wake_at`]). Nothing here waits, and nothing here grows without a bound.
//!
//! Requests are told apart by small numbers that this side gives out (`message_id`, link by link); the
//! caller's token `R` comes back with the answer. Requests of the other side get a token `C`,
//! by which the caller here learns that nobody waits any more.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::Duration,
};

use crate::{
    call::{DEFAULT_TIMEOUT, MAX_TIMEOUT},
    error::{Code, Problem},
    link::{
        codec::{self, Encoding, StreamEnd},
        handshake::error_message,
        message::{Message, MessageType},
    },
};

mod incoming;
mod inflow;
mod lanes;
mod liveness;
mod types;

use inflow::Inflow;
use lanes::Lanes;
use liveness::{Due, Liveness};

pub use liveness::Pace;
pub use types::{
    Config, Counts, Death, Event, Lane, ReadOutcome, SendError, SessionError, WriteOutcome,
};

/// Frames are joined into one binary WebSocket message up to this size, in bytes.
pub const BATCH: usize = 16 * 1024;
/// The most bytes of a stream in one piece: on a 15 Mbit/s line, 4 ms.
pub const PIECE: usize = 8 * 1024;
/// The bytes of one stream that wait here for their turn; above, its writer waits.
pub const STREAM_QUEUE: usize = 32 * 1024;
/// Requests of this side that wait for their answers; above, another is refused.
pub const MAX_REQUESTS: usize = 65_536;
/// Requests of the other side that are being answered; above, another is answered `rate_limited`.
pub const MAX_ANSWERS: usize = 16_384;
/// Credit of less than a batch is given back after this time.
pub const CREDIT_DELAY: Duration = Duration::from_millis(50);
/// A link that has bytes to send and could send none for this long is ended.
pub const STALL: Duration = Duration::from_secs(30);

/// A request of this side under way.
#[derive(Debug)]
struct Pending<R> {
    token: R,
    deadline: Duration,
    body: Option<u64>,
    /// Its place in the call lane.
    place: u64,
}

/// The state of one link. See the module.
#[derive(Debug)]
pub struct Session<R, C> {
    config: Config,
    lanes: Lanes,
    inflow: Inflow,
    requests: HashMap<u64, Pending<R>>,
    next_request: u64,
    /// When requests time out, soonest first; entries of answered ones are passed over.
    deadlines: BinaryHeap<Reverse<(Duration, u64)>>,
    answers: HashMap<Box<str>, C>,
    life: Liveness,
    counts: Counts,
    /// When small credits are given back.
    credit_at: Option<Duration>,
    /// Since when bytes wait and none could be sent.
    stalled_since: Option<Duration>,
    drain: Drain,
}

/// `goaway`, from either side.
#[derive(Debug, Default)]
struct Drain {
    /// This side asked the other to move.
    asked: bool,
    /// The other side asked: no new requests from here.
    told: bool,
    /// This side's `goaway` in answer to the other's is out.
    confirmed: bool,
}

impl<R, C: Clone + Default> Session<R, C> {
    pub fn new(config: Config, now: Duration) -> Self {
        // Odd stream ids are the dialler's.
        let (first, parity) = if config.dialled { (1, 0) } else { (2, 1) };
        Self {
            config,
            lanes: Lanes::new(config.encoding, config.theirs, first),
            inflow: Inflow::new(config.ours, parity),
            requests: HashMap::new(),
            next_request: 1,
            deadlines: BinaryHeap::new(),
            answers: HashMap::new(),
            life: Liveness::new(config.pace, config.answers_heartbeats, now),
            counts: Counts::default(),
            credit_at: None,
            stalled_since: None,
            drain: Drain::default(),
        }
    }

    // === what the application wants ===

    /// Queues a message that wants no answer.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&mut self, lane: Lane, message: &Message) -> Result<(), SendError> {
        let encoding = self.config.encoding;
        self.lanes.push(lane, false, |out| codec::encode_message(message, encoding, out))
    }

    /// Queues a request: its `message_id` is set here, and its `stream_id` where it has a body.
    /// Gives its number and the stream to write the body to.
    ///
    /// # Errors
    /// [`SendError`], with the token.
    pub fn request(
        &mut self,
        now: Duration,
        mut message: Message,
        with_body: bool,
        token: R,
    ) -> Result<(u64, Option<u64>), (SendError, R)> {
        if self.drain.told {
            return Err((SendError::Draining, token));
        }
        if self.requests.len() >= MAX_REQUESTS {
            return Err((SendError::Full, token));
        }
        let body = match with_body.then(|| self.lanes.open(Lane::Bulk)).transpose() {
            Ok(body) => body,
            Err(error) => return Err((error, token)),
        };
        let id = self.next_request;
        message.message_id = Some(id.to_string());
        message.stream_id = body;
        let encoding = self.config.encoding;
        let queued = self
            .lanes
            .push(Lane::Call, false, |out| codec::encode_message(&message, encoding, out));
        if let Err(error) = queued {
            if let Some(body) = body {
                self.lanes.credit(body, 0, true);
            }
            return Err((error, token));
        }
        if let Some(body) = body {
            self.lanes.opened_by_newest(body);
        }
        let place = self.lanes.newest_call();
        self.next_request += 1;
        let patience = message.deadline_ms.map_or(DEFAULT_TIMEOUT, Duration::from_millis);
        let deadline = now + patience.min(MAX_TIMEOUT);
        self.deadlines.push(Reverse((deadline, id)));
        self.requests.insert(id, Pending { token, deadline, body, place });
        Ok((id, body))
    }

    /// Nobody waits for the answer to request `id` any more; the other side is told.
    pub fn cancel(&mut self, id: u64) -> Option<R> {
        let pending = self.take_request(id)?;
        self.tell_cancelled(id, pending.body);
        Some(pending.token)
    }

    fn tell_cancelled(&mut self, id: u64, body: Option<u64>) {
        if let Some(body) = body {
            self.lanes.end(body, StreamEnd::Failed("cancelled".to_owned()));
        }
        let mut message = error_message(&Problem::new(Code::Timeout, "nobody waits any more"));
        message.message_id = Some(id.to_string());
        let encoding = self.config.encoding;
        // Bounded by the requests that were queued before.
        let _ = self.lanes.push(Lane::Control, true, |out| {
            codec::encode_message(&message, encoding, out);
        });
    }

    /// Answers the request `id` of the other side with a `response` or `error`; gives the stream to
    /// write more of the result to. `None` also where nobody waits any more.
    ///
    /// An answer that does not fit is replaced by an error that says so.
    pub fn answer(&mut self, id: &str, mut message: Message, with_stream: bool) -> Option<u64> {
        self.answers.remove(id)?;
        if self.answers.is_empty() && self.answers.capacity() > 256 {
            self.answers = HashMap::new();
        }
        let stream = with_stream.then(|| self.lanes.open(Lane::Stream)).transpose();
        message.message_id = None;
        message.correlation_id = Some(id.to_owned());
        message.stream_id = stream.unwrap_or_default();
        let encoding = self.config.encoding;
        let queued = match stream {
            Ok(_) => self
                .lanes
                .push(Lane::Call, false, |out| codec::encode_message(&message, encoding, out)),
            Err(error) => Err(error),
        };
        let Err(error) = queued else {
            if let Some(stream) = message.stream_id {
                self.lanes.opened_by_newest(stream);
            }
            return message.stream_id;
        };
        if let Some(stream) = message.stream_id {
            self.lanes.credit(stream, 0, true);
        }
        let problem = match error {
            SendError::TooLarge => {
                Problem::new(Code::TooLarge, "the answer is too long for the link")
            }
            _ => Problem::rate_limited("too much waits for this link", 1_000),
        };
        self.answer_problem(id, &problem);
        None
    }

    fn answer_problem(&mut self, id: &str, problem: &Problem) {
        let mut message = error_message(problem);
        message.correlation_id = Some(id.to_owned());
        let encoding = self.config.encoding;
        // Small, and bounded by the requests of the other side.
        let _ = self.lanes.push(Lane::Call, true, |out| {
            codec::encode_message(&message, encoding, out);
        });
    }

    /// Whether somebody still waits for the answer to request `id` of the other side.
    pub fn is_awaited(&self, id: &str) -> bool {
        self.answers.contains_key(id)
    }

    /// Whether a stream that this side sends still takes bytes.
    pub fn is_sending(&self, stream: u64) -> bool {
        self.lanes.is_open(stream)
    }

    /// Queues bytes of a stream that this side sends.
    pub fn write(&mut self, stream: u64, bytes: &[u8]) -> WriteOutcome {
        self.lanes.write(stream, bytes)
    }

    /// Ends a stream that this side sends.
    pub fn end(&mut self, stream: u64, end: StreamEnd) {
        self.lanes.end(stream, end);
    }

    /// Takes the next bytes of a stream that comes in.
    pub fn read(&mut self, stream: u64) -> ReadOutcome {
        self.inflow.read(stream)
    }

    /// Nobody reads a stream that comes in any more.
    pub fn stop(&mut self, stream: u64) {
        self.inflow.stop(stream);
    }

    /// Asks the other side to move; what is under way finishes. See [`Self::is_drained`].
    pub fn drain(&mut self, reason: &str, reconnect_after: Duration) {
        if !std::mem::replace(&mut self.drain.asked, true) {
            let after = u64::try_from(reconnect_after.as_millis()).unwrap_or(u64::MAX);
            self.push_goaway(&serde_json::json!({"reason": reason, "reconnect_after_ms": after}));
        }
    }

    fn push_goaway(&mut self, data: &serde_json::Value) {
        let data = serde_json::value::to_raw_value(data).ok();
        let message = Message { data, ..Message::new(MessageType::Goaway) };
        let encoding = self.config.encoding;
        let _ = self.lanes.push(Lane::Control, true, |out| {
            codec::encode_message(&message, encoding, out);
        });
    }

    /// Both sides have said `goaway`, and nothing is under way any more.
    pub fn is_drained(&self) -> bool {
        self.drain.asked && self.drain.told && self.is_quiet() && self.lanes.is_empty()
    }

    /// Nothing of either side waits for an end.
    fn is_quiet(&self) -> bool {
        self.requests.is_empty()
            && self.answers.is_empty()
            && !self.inflow.has_streams()
            && !self.lanes.has_streams()
    }

    // === what comes from the network ===

    /// Any sign of life below the messages: a ping, a pong, a part of a message.
    pub fn heard(&mut self, now: Duration) {
        self.life.heard(now);
    }

    // === what goes to the network ===

    /// Whether [`Self::transmit`] has anything to give.
    pub fn has_output(&self) -> bool {
        !self.lanes.is_empty() || self.inflow.has_credit_due()
    }

    /// Puts the next WebSocket message into `out`, which is empty; false where there is none.
    pub fn transmit(&mut self, out: &mut Vec<u8>) -> bool {
        let most = match self.config.encoding {
            Encoding::Cbor => BATCH,
            Encoding::Json => 1,
        };
        while out.len() < most {
            if let Some(credit) = self.inflow.pop_credit() {
                codec::encode_credit(&credit, self.config.encoding, out);
            } else if !self.lanes.pop(out) {
                break;
            }
            self.counts.messages_out += 1;
            // A long message goes alone, a full batch goes now.
            if out.len() + PIECE > most {
                break;
            }
        }
        self.counts.bytes_out += out.len() as u64;
        !out.is_empty()
    }

    /// Bytes were taken by the socket.
    pub const fn progressed(&mut self) {
        self.stalled_since = None;
    }

    /// Streams that have something for their readers, since last asked.
    pub fn readable(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.inflow.readable)
    }

    /// Streams that take more from their writers, or were stopped, since last asked.
    pub fn writable(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.lanes.writable)
    }

    // === what the clock does ===

    fn is_awaiting(&self) -> bool {
        !self.requests.is_empty() || self.lanes.awaits_credit()
    }

    /// When [`Self::wake`] is to be called at the latest.
    pub fn wake_at(&mut self, now: Duration) -> Duration {
        if self.has_output() {
            self.stalled_since.get_or_insert(now);
        } else {
            self.stalled_since = None;
        }
        if self.inflow.has_small_credit() {
            self.credit_at.get_or_insert(now + CREDIT_DELAY);
        }
        let life = self.life.wake_at(self.is_awaiting());
        let stall = self.stalled_since.map(|since| since + STALL);
        let deadline = self.deadlines.peek().map(|Reverse((deadline, _))| *deadline);
        [self.credit_at, stall, deadline].into_iter().flatten().fold(life, Duration::min)
    }

    /// Does what is due. `load` gives what the application has to say in a heartbeat.
    ///
    /// # Errors
    /// [`Death`]: the link must be closed.
    pub fn wake(
        &mut self,
        now: Duration,
        load: impl FnOnce() -> Option<crate::call::Json>,
        events: &mut Vec<Event<R, C>>,
    ) -> Result<(), Death> {
        if self.stalled_since.is_some_and(|since| now >= since + STALL) {
            return Err(Death::Stalled);
        }
        if self.credit_at.is_some_and(|at| now >= at) {
            self.credit_at = None;
            self.inflow.flush_small();
        }
        self.time_out(now, events);
        match self.life.check(now, self.is_awaiting()) {
            Due::Nothing => {}
            Due::Dead => return Err(Death::Silent),
            Due::Heartbeat(number) => {
                let message = Message {
                    message_id: number.map(|number| number.to_string()),
                    data: load(),
                    ..Message::new(MessageType::Heartbeat)
                };
                let encoding = self.config.encoding;
                let _ = self.lanes.push(Lane::Control, true, |out| {
                    codec::encode_message(&message, encoding, out);
                });
            }
        }
        self.confirm_goaway();
        Ok(())
    }

    fn time_out(&mut self, now: Duration, events: &mut Vec<Event<R, C>>) {
        while let Some(Reverse((deadline, id))) = self.deadlines.peek().copied() {
            if deadline > now {
                break;
            }
            self.deadlines.pop();
            // Only the entry of this very request: numbers never return.
            if self.requests.get(&id).is_some_and(|pending| pending.deadline == deadline)
                && let Some(Pending { token, body, .. }) = self.take_request(id)
            {
                self.tell_cancelled(id, body);
                events.push(Event::TimedOut { token, body });
            }
        }
    }

    /// Answers the other side's `goaway`: from here on no request of this side follows.
    fn confirm_goaway(&mut self) {
        if self.drain.told && !self.drain.asked && !self.drain.confirmed {
            self.drain.confirmed = true;
            self.push_goaway(&serde_json::json!({"reason": "confirmed"}));
        }
    }

    // === what people see ===

    pub const fn rtt(&self) -> Option<Duration> {
        self.life.rtt()
    }

    /// What the handshake took for a round trip, until a heartbeat is answered.
    pub const fn assume_rtt(&mut self, rtt: Duration) {
        self.life.assume_rtt(rtt);
    }

    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes that wait to be sent.
    pub fn queued(&self) -> usize {
        self.lanes.queued()
    }

    /// The other side asked to move.
    pub const fn is_told_to_move(&self) -> bool {
        self.drain.told
    }

    /// Ends everything: the tokens of requests that will get no answer, each with whether it may have
    /// reached the other side, and of those that nobody will be able to answer.
    pub fn close(&mut self) -> (Vec<(R, bool)>, Vec<C>) {
        let lanes = &self.lanes;
        let requests = self.requests.drain();
        let requests = requests.map(|(_, pending)| (pending.token, lanes.has_left(pending.place)));
        let requests = requests.collect();
        let answers = self.answers.drain().map(|(_, token)| token).collect();
        (requests, answers)
    }
}

#[cfg(test)]
mod tests;
