//! What came from the other side, message by message.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::Duration,
};

use super::{Event, Lane, MAX_ANSWERS, Pending, Session, SessionError};
use crate::{
    error::Problem,
    link::{
        codec::{self, Frame},
        handshake::read_error,
        message::{Message, MessageType},
    },
};

impl<R, C: Clone + Default> Session<R, C> {
    /// Takes one WebSocket message.
    ///
    /// # Errors
    /// [`SessionError`]: the link must be closed.
    pub fn receive(
        &mut self,
        now: Duration,
        bytes: &[u8],
        events: &mut Vec<Event<R, C>>,
    ) -> Result<(), SessionError> {
        self.life.heard(now);
        self.counts.bytes_in += bytes.len() as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (frame, behind) = codec::decode_first(rest, self.config.encoding)?;
            let length = rest.len() - behind.len();
            if length > self.config.ours.max_message_bytes as usize {
                return Err(SessionError::TooLong(length));
            }
            rest = behind;
            self.counts.messages_in += 1;
            match frame {
                None => self.counts.unknown += 1,
                Some(Frame::Stream(piece)) => self.inflow.receive(piece)?,
                Some(Frame::Credit(credit)) => {
                    self.lanes.credit(credit.stream_id, credit.bytes, credit.stop);
                }
                Some(Frame::Message(message)) => self.take(now, message, events)?,
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        now: Duration,
        message: Message,
        events: &mut Vec<Event<R, C>>,
    ) -> Result<(), SessionError> {
        use MessageType::*;
        match message.message_type {
            Hello | Auth | Welcome | Stream | Credit => {
                return Err(SessionError::Unexpected(message.message_type));
            }
            Response | Error if message.correlation_id.is_some() => {
                self.take_answer(message, events)?
            }
            Error => self.take_error(&message, events),
            Heartbeat => self.take_heartbeat(now, message, events),
            Goaway => {
                self.drain.told = true;
                events.push(Event::Message(message));
                self.confirm_goaway();
            }
            Request | Forward | Registration | ServiceDiscovery if message.message_id.is_some() => {
                self.take_request_of_theirs(message, events)?;
            }
            Request | Forward | Registration | ServiceDiscovery | Response => {
                // A body that nobody asked for an answer to is not read.
                if let Some(stream) = message.stream_id {
                    self.inflow.open(stream)?;
                    self.inflow.stop(stream);
                }
                events.push(Event::Message(message));
            }
        }
        Ok(())
    }

    fn take_request_of_theirs(
        &mut self,
        mut message: Message,
        events: &mut Vec<Event<R, C>>,
    ) -> Result<(), SessionError> {
        let Some(id) = message.message_id.take().map(String::into_boxed_str) else { return Ok(()) };
        let body = message.stream_id.take();
        if let Some(body) = body {
            self.inflow.open(body)?;
        }
        let refusal = if self.answers.len() >= MAX_ANSWERS {
            Some(Problem::rate_limited("too many requests are under way on this link", 1_000))
        } else if self.answers.contains_key(&id) {
            Some(Problem::invalid("a request with this message_id is under way"))
        } else {
            None
        };
        if let Some(problem) = refusal {
            if let Some(body) = body {
                self.inflow.stop(body);
            }
            self.answer_problem(&id, &problem);
            return Ok(());
        }
        let token = C::default();
        self.answers.insert(id.clone(), token.clone());
        events.push(Event::Request { id, message, body, token });
        Ok(())
    }

    fn take_answer(
        &mut self,
        mut message: Message,
        events: &mut Vec<Event<R, C>>,
    ) -> Result<(), SessionError> {
        let stream = message.stream_id.take();
        if let Some(stream) = stream {
            self.inflow.open(stream)?;
        }
        let number = message.correlation_id.take().and_then(|id| id.parse().ok());
        let Some(pending) = number.and_then(|number| self.take_request(number)) else {
            self.counts.late += 1;
            if let Some(stream) = stream {
                self.inflow.stop(stream);
            }
            return Ok(());
        };
        events.push(Event::Answered { token: pending.token, message, stream });
        Ok(())
    }

    pub(super) fn take_request(&mut self, id: u64) -> Option<Pending<R>> {
        let pending = self.requests.remove(&id)?;
        if self.deadlines.len() > 2 * self.requests.len() + 64 {
            let requests = &self.requests;
            self.deadlines.retain(|Reverse((_, id))| requests.contains_key(id));
        }
        if self.requests.is_empty() && self.requests.capacity() > 256 {
            self.requests = HashMap::new();
            self.deadlines = BinaryHeap::new();
        }
        Some(pending)
    }

    /// An `error` that answers nothing: with a `message_id` it withdraws that request of theirs.
    fn take_error(&mut self, message: &Message, events: &mut Vec<Event<R, C>>) {
        match &message.message_id {
            Some(id) => {
                if let Some(token) = self.answers.remove(id.as_str()) {
                    events.push(Event::Abandoned(token));
                }
            }
            None => events.push(Event::Refused(read_error(message))),
        }
    }

    fn take_heartbeat(&mut self, now: Duration, message: Message, events: &mut Vec<Event<R, C>>) {
        if let Some(number) = message.correlation_id.as_deref().and_then(|id| id.parse().ok()) {
            self.life.answered(number, now);
        }
        if message.message_id.is_some() {
            let answer = Message {
                correlation_id: message.message_id.clone(),
                ..Message::new(MessageType::Heartbeat)
            };
            // Refused only where the other side asks without reading the answers.
            let _ = self.send(Lane::Control, &answer);
        }
        if message.data.is_some() {
            events.push(Event::Message(message));
        }
    }
}
