//! Two sessions and their applications, which keep book of what was sent, done and answered.

use std::{collections::BTreeMap, time::Duration};

use relay_proto::link::{
    Encoding, Message, MessageType,
    codec::StreamEnd,
    handshake::Offer,
    session::{Config, Event, Pace, ReadOutcome, SendError, Session, WriteOutcome},
};

use super::wire::{End, Line, Wire};
use crate::rng::Rng;

type Side = Session<u64, ()>;

/// What an application does with its end.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Requests that it makes; every fourth with a body.
    pub requests: u64,
    /// The longest body and result, in bytes.
    pub body: u64,
    /// Milliseconds that a reader may pause between two reads.
    pub pause_ms: u64,
    /// Milliseconds until a request is answered, at most.
    pub work_ms: u64,
}

/// What becomes of the connection, and when.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    Reset(Duration),
    /// What one end sends is silently lost.
    HalfOpen(Duration, End),
    /// Both directions are silently lost.
    Partition(Duration),
    /// Both directions stand still for a while, then everything arrives.
    Stall(Duration, Duration),
}

/// How a request of an application ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    TimedOut,
    Closed,
    Refused,
}

/// What is known at the end.
#[derive(Debug, Default)]
pub struct Report {
    /// Of each end's requests: all outcomes that were told for it.
    pub outcomes: [BTreeMap<u64, Vec<Outcome>>; 2],
    /// How often each end did what the other asked.
    pub done: [BTreeMap<u64, u32>; 2],
    /// Streams that came to their end whole.
    pub whole_streams: u64,
    /// When each end gave the connection up.
    pub ended: [Option<(Duration, &'static str)>; 2],
    /// When the last request had its outcome.
    pub settled: Duration,
    /// What must never happen, in words.
    pub faults: Vec<String>,
}

/// A stream that an end reads: what is to come, and when it reads on.
#[derive(Debug)]
struct Reading {
    stream: u64,
    request: u64,
    read: u64,
    at: Duration,
    /// Nothing was there; the session says when there is.
    idle: bool,
}

#[derive(Debug)]
struct Writing {
    stream: u64,
    request: u64,
    written: u64,
    length: u64,
    /// It took no more; the session says when it does.
    full: bool,
}

/// One end: its session and its application.
#[derive(Debug)]
struct Party {
    session: Option<Side>,
    left: u64,
    next: u64,
    reading: Vec<Reading>,
    writing: Vec<Writing>,
    /// Requests of the other that are worked on: when they are done.
    working: Vec<(Duration, Box<str>, u64)>,
    open: u64,
}

/// A whole run.
#[derive(Debug)]
pub struct Conversation {
    wire: Wire,
    parties: [Party; 2],
    habits: Habits,
    rng: Rng,
    now: Duration,
    report: Report,
}

/// The bytes of a stream are a function of its request and position, so that the reader can judge each.
const fn byte_at(request: u64, at: u64) -> u8 {
    (request.wrapping_mul(31).wrapping_add(at.wrapping_mul(7)) >> 3) as u8
}

impl Conversation {
    pub fn new(seed: u64, line: Line, habits: Habits, encoding: Encoding) -> Self {
        let offer = Offer { budget: 512 * 1024, credit: 32 * 1024, ..Offer::HOME };
        let party = |dialled| {
            let pace = Pace::QUICK;
            let config = Config {
                encoding,
                dialled,
                ours: offer,
                theirs: offer,
                pace,
                answers_heartbeats: true,
            };
            Party {
                session: Some(Session::new(config, Duration::ZERO)),
                left: habits.requests,
                next: 0,
                reading: Vec::new(),
                writing: Vec::new(),
                working: Vec::new(),
                open: 0,
            }
        };
        Self {
            wire: Wire::new(line),
            parties: [party(true), party(false)],
            habits,
            rng: Rng::new(seed),
            now: Duration::ZERO,
            report: Report::default(),
        }
    }

    /// Runs until nothing is left to do or `until`, with what befalls the connection.
    pub fn run(mut self, mut faults: Vec<Fault>, until: Duration) -> Report {
        faults.sort_by_key(Fault::at);
        faults.reverse();
        // Ends: each turn either moves the clock or something that is bounded by the habits.
        while self.now < until {
            while let Some(fault) = faults.pop_if(|fault| fault.at() <= self.now) {
                self.befall(fault);
            }
            for end in End::BOTH {
                self.turn(end);
            }
            if faults.is_empty() && self.is_finished() {
                break;
            }
            let next = self.next_moment().min(faults.last().map_or(until, Fault::at));
            self.now = next.max(self.now + Duration::from_micros(100)).min(until);
        }
        self.report
    }

    fn befall(&mut self, fault: Fault) {
        match fault {
            Fault::Reset(_) => self.wire.reset(self.now),
            Fault::HalfOpen(_, end) => self.wire.kill(end),
            Fault::Partition(_) => End::BOTH.into_iter().for_each(|end| self.wire.kill(end)),
            Fault::Stall(_, time) => {
                End::BOTH.into_iter().for_each(|end| self.wire.hold(end, self.now + time));
            }
        }
    }

    fn is_finished(&self) -> bool {
        self.parties.iter().all(|party| {
            party.session.is_none()
                || (party.left == 0
                    && party.open == 0
                    && party.working.is_empty()
                    && party.reading.is_empty()
                    && party.writing.is_empty())
        })
    }

    fn next_moment(&mut self) -> Duration {
        let mut next = self.now + Duration::from_millis(50);
        next = self.wire.next().map_or(next, |at| next.min(at));
        for end in End::BOTH {
            let busy_until = self.wire.writable_at(end);
            let party = &mut self.parties[index(end)];
            let Some(session) = &mut party.session else { continue };
            next = next.min(session.wake_at(self.now));
            if session.has_output() {
                next = next.min(busy_until);
            }
            let reads = party.reading.iter().map(|reading| reading.at);
            let works = party.working.iter().map(|(at, ..)| *at);
            next = reads.chain(works).filter(|at| *at > self.now).fold(next, Duration::min);
        }
        next
    }

    /// Everything that one end does at this moment.
    fn turn(&mut self, end: End) {
        if self.parties[index(end)].session.is_none() {
            return;
        }
        if self.wire.is_reset(self.now) {
            return self.close(end, "reset");
        }
        let mut events = Vec::new();
        while let Some(bytes) = self.wire.receive(self.now, end) {
            let Some(session) = &mut self.parties[index(end)].session else { return };
            if let Err(error) = session.receive(self.now, &bytes, &mut events) {
                self.report.faults.push(format!("{end:?} was sent what it must refuse: {error}"));
                return self.close(end, "broken");
            }
        }
        let Some(session) = &mut self.parties[index(end)].session else { return };
        if session.wake_at(self.now) <= self.now
            && let Err(death) = session.wake(self.now, || None, &mut events)
        {
            self.take(end, events);
            return self.close(
                end,
                if death.to_string().contains("heard") { "silent" } else { "stalled" },
            );
        }
        self.take(end, events);
        self.work(end);
        self.ask(end);
        self.write_streams(end);
        self.read_streams(end);
        self.transmit(end);
    }

    fn take(&mut self, end: End, events: Vec<Event<u64, ()>>) {
        for event in events {
            match event {
                Event::Request { id, message, body, .. } => {
                    let request = number(&message);
                    *self.report.done[index(end)].entry(request).or_default() += 1;
                    let time = self.rng.range(0, self.habits.work_ms + 1);
                    let at = self.now + Duration::from_millis(time);
                    let party = &mut self.parties[index(end)];
                    party.working.push((at, id, request));
                    if let Some(stream) = body {
                        party.reading.push(Reading {
                            stream,
                            request,
                            read: 0,
                            at: self.now,
                            idle: false,
                        });
                    }
                }
                Event::Answered { token, message, stream } => {
                    if number(&message) != token {
                        self.report.faults.push(format!("request {token} got another's answer"));
                    }
                    if let Some(stream) = stream {
                        let reading =
                            Reading { stream, request: token, read: 0, at: self.now, idle: false };
                        self.parties[index(end)].reading.push(reading);
                    }
                    self.settle(end, token, Outcome::Answered);
                }
                Event::TimedOut { token, .. } => self.settle(end, token, Outcome::TimedOut),
                Event::Message(_) | Event::Abandoned(()) => {}
                Event::Refused(problem) => self.report.faults.push(format!("refused: {problem}")),
            }
        }
    }

    fn settle(&mut self, end: End, request: u64, outcome: Outcome) {
        self.report.outcomes[index(end)].entry(request).or_default().push(outcome);
        self.parties[index(end)].open -= 1;
        self.report.settled = self.now;
    }

    /// Answers what is done.
    fn work(&mut self, end: End) {
        let now = self.now;
        let (body, rng) = (self.habits.body, &mut self.rng);
        let party = &mut self.parties[index(end)];
        let Some(session) = &mut party.session else { return };
        party.working.retain(|(at, id, request)| {
            if *at > now {
                return true;
            }
            let with_stream = request.is_multiple_of(3);
            let answer = Message { data: data(*request), ..Message::new(MessageType::Response) };
            if let Some(stream) = session.answer(id, answer, with_stream) {
                let length = rng.range(0, body + 1);
                party.writing.push(Writing {
                    stream,
                    request: *request,
                    written: 0,
                    length,
                    full: false,
                });
            }
            false
        });
    }

    /// Makes another request now and then.
    fn ask(&mut self, end: End) {
        if self.parties[index(end)].left == 0 || !self.rng.one_in(3) {
            return;
        }
        let deadline = self.rng.range(2_000, 60_000);
        let length = self.rng.range(0, self.habits.body + 1);
        let party = &mut self.parties[index(end)];
        let Some(session) = &mut party.session else { return };
        let request = party.next;
        let message = Message {
            data: data(request),
            deadline_ms: Some(deadline),
            ..Message::new(MessageType::Request)
        };
        party.next += 1;
        party.left -= 1;
        party.open += 1;
        match session.request(self.now, message, request.is_multiple_of(4), request) {
            Ok((_, Some(stream))) => {
                party.writing.push(Writing { stream, request, written: 0, length, full: false });
            }
            Ok((_, None)) => {}
            Err((SendError::Full | SendError::TooLarge | SendError::Draining, _)) => {
                self.settle(end, request, Outcome::Refused);
            }
        }
    }

    fn write_streams(&mut self, end: End) {
        let party = &mut self.parties[index(end)];
        let Some(session) = &mut party.session else { return };
        let writable = session.writable();
        party.writing.retain_mut(|writing| {
            writing.full &= !writable.contains(&writing.stream);
            if writing.full {
                return true;
            }
            let most = (writing.length - writing.written).min(20_000);
            let bytes: Vec<u8> =
                (0..most).map(|at| byte_at(writing.request, writing.written + at)).collect();
            match session.write(writing.stream, &bytes) {
                WriteOutcome::Stopped => return false,
                WriteOutcome::Took(took) => writing.written += took as u64,
            }
            writing.full = true;
            if writing.written == writing.length {
                session.end(writing.stream, StreamEnd::Finished);
                return false;
            }
            true
        });
    }

    fn read_streams(&mut self, end: End) {
        let (now, pause) = (self.now, self.habits.pause_ms);
        let Self { parties, rng, report, .. } = self;
        let party = &mut parties[index(end)];
        let Some(session) = &mut party.session else { return };
        let readable = session.readable();
        party.reading.retain_mut(|reading| {
            reading.idle &= !readable.contains(&reading.stream);
            if reading.at > now || reading.idle {
                return true;
            }
            match session.read(reading.stream) {
                ReadOutcome::Bytes(bytes) => {
                    let right = bytes.iter().enumerate().all(|(at, byte)| {
                        *byte == byte_at(reading.request, reading.read + at as u64)
                    });
                    if !right {
                        report.faults.push(format!("stream {} came garbled", reading.stream));
                    }
                    reading.read += bytes.len() as u64;
                    reading.at = now + Duration::from_millis(rng.range(0, pause + 1));
                    true
                }
                ReadOutcome::Nothing => {
                    reading.idle = true;
                    true
                }
                ReadOutcome::End => {
                    report.whole_streams += 1;
                    false
                }
                ReadOutcome::Failed(_) => false,
            }
        });
    }

    fn transmit(&mut self, end: End) {
        let Some(session) = &mut self.parties[index(end)].session else { return };
        while self.wire.is_writable(self.now, end) {
            let mut out = Vec::new();
            if !session.transmit(&mut out) {
                return;
            }
            session.progressed();
            self.wire.send(self.now, end, out, &mut self.rng);
        }
    }

    /// The end gives up: everything that waits learns of it.
    fn close(&mut self, end: End, reason: &'static str) {
        let party = &mut self.parties[index(end)];
        let Some(mut session) = party.session.take() else { return };
        let (requests, _) = session.close();
        party.reading.clear();
        party.writing.clear();
        party.working.clear();
        self.report.ended[index(end)] = Some((self.now, reason));
        // The other side's kernel answers what still comes with a reset, unless nothing comes through.
        if reason == "broken" {
            self.wire.reset(self.now);
        }
        for (request, _) in requests {
            self.settle(end, request, Outcome::Closed);
        }
    }
}

impl Fault {
    const fn at(&self) -> Duration {
        match self {
            Self::Reset(at) | Self::HalfOpen(at, _) | Self::Partition(at) | Self::Stall(at, _) => {
                *at
            }
        }
    }
}

const fn index(end: End) -> usize {
    match end {
        End::Spoke => 0,
        End::Hub => 1,
    }
}

fn data(request: u64) -> Option<relay_proto::call::Json> {
    serde_json::value::to_raw_value(&request).ok()
}

fn number(message: &Message) -> u64 {
    let read = message.data.as_ref().and_then(|data| serde_json::from_str(data.get()).ok());
    read.unwrap_or(u64::MAX)
}
