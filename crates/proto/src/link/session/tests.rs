use std::rc::Rc;

use super::*;
use crate::link::{
    codec::{Credit, Frame},
    handshake::{Offer, read_error},
};

/// What a request is known by here, and whether its answer is still awaited.
type Event1 = Event<u32, Rc<()>>;
type Side = Session<u32, Rc<()>>;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

struct Pair {
    spoke: Side,
    hub: Side,
    now: Duration,
}

impl Pair {
    fn new(encoding: Encoding) -> Self {
        let side = |dialled| {
            let (ours, theirs) = (Offer::HOME, Offer::HOME);
            let pace = Pace::relaxed(s(15));
            let config = Config { encoding, dialled, ours, theirs, pace, answers_heartbeats: true };
            Session::new(config, Duration::ZERO)
        };
        Self { spoke: side(true), hub: side(false), now: Duration::ZERO }
    }

    /// Moves everything that can be moved; gives what happened at the spoke and at the hub.
    fn settle(&mut self) -> (Vec<Event1>, Vec<Event1>) {
        let (mut at_spoke, mut at_hub) = (Vec::new(), Vec::new());
        loop {
            let moved = pass(&mut self.spoke, &mut self.hub, self.now, &mut at_hub)
                | pass(&mut self.hub, &mut self.spoke, self.now, &mut at_spoke);
            if !moved {
                return (at_spoke, at_hub);
            }
        }
    }

    /// Lets time pass on both sides, waking each when it wants to.
    fn wait(&mut self, time: Duration) -> Result<(Vec<Event1>, Vec<Event1>), Death> {
        let until = self.now + time;
        let (mut at_spoke, mut at_hub) = (Vec::new(), Vec::new());
        loop {
            let next = self.spoke.wake_at(self.now).min(self.hub.wake_at(self.now)).min(until);
            self.now = next.max(self.now);
            self.spoke.wake(self.now, || None, &mut at_spoke)?;
            self.hub.wake(self.now, || None, &mut at_hub)?;
            let (spoke, hub) = self.settle();
            at_spoke.extend(spoke);
            at_hub.extend(hub);
            if self.now >= until {
                return Ok((at_spoke, at_hub));
            }
        }
    }
}

fn pass(from: &mut Side, to: &mut Side, now: Duration, events: &mut Vec<Event1>) -> bool {
    let mut moved = false;
    loop {
        let mut out = Vec::new();
        if !from.transmit(&mut out) {
            return moved;
        }
        moved = true;
        to.receive(now, &out, events).unwrap();
    }
}

fn request() -> Message {
    Message { method: Some("m".into()), ..Message::new(MessageType::Request) }
}

fn response() -> Message {
    Message::new(MessageType::Response)
}

/// The one request that arrived.
fn arrived(events: Vec<Event1>) -> (Box<str>, Option<u64>, Rc<()>) {
    match <[Event1; 1]>::try_from(events) {
        Ok([Event::Request { id, body, token, .. }]) => (id, body, token),
        other => panic!("{other:?}"),
    }
}

#[test]
fn answers_find_their_requests_in_any_order() {
    for encoding in Encoding::ALL {
        let mut pair = Pair::new(encoding);
        for token in 0..3 {
            pair.spoke.request(pair.now, request(), false, token).unwrap();
        }
        let (_, arrived) = pair.settle();
        let ids: Vec<_> = arrived
            .into_iter()
            .map(|event| match event {
                Event::Request { id, .. } => id,
                other => panic!("{other:?}"),
            })
            .collect();
        for id in ids.iter().rev() {
            pair.hub.answer(id, response(), false);
        }
        let (answers, _) = pair.settle();
        let tokens: Vec<_> = answers
            .into_iter()
            .map(|event| match event {
                Event::Answered { token, .. } => token,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(tokens, [2, 1, 0]);
        // A second answer finds nobody, and does no harm.
        assert_eq!(pair.hub.answer(&ids[0], response(), true), None);
        assert!(matches!(pair.settle(), (a, b) if a.is_empty() && b.is_empty()));
    }
}

#[test]
fn a_request_that_nobody_answers_times_out_and_is_withdrawn() {
    let mut pair = Pair::new(Encoding::Cbor);
    let message = Message { deadline_ms: Some(2_000), ..request() };
    pair.spoke.request(pair.now, message, true, 7).unwrap();
    let (id, body, _) = arrived(pair.settle().1);
    assert!(body.is_some());
    let (at_spoke, at_hub) = pair.wait(s(2)).unwrap();
    assert!(matches!(at_spoke[..], [Event::TimedOut { token: 7, .. }]));
    assert!(matches!(at_hub[..], [Event::Abandoned(_)]));
    assert_eq!(pair.hub.read(body.unwrap()), ReadOutcome::Failed("cancelled".into()));
    pair.hub.answer(&id, response(), false);
    assert!(pair.settle().0.is_empty());
}

#[test]
fn a_cancelled_request_is_withdrawn() {
    let mut pair = Pair::new(Encoding::Json);
    let (id, _) = pair.spoke.request(pair.now, request(), false, 7).unwrap();
    pair.settle();
    assert_eq!(pair.spoke.cancel(id), Some(7));
    assert!(matches!(pair.settle().1[..], [Event::Abandoned(_)]));
}

#[test]
fn late_answers_are_counted_and_their_streams_stopped() {
    let mut pair = Pair::new(Encoding::Cbor);
    let (number, _) = pair.spoke.request(pair.now, request(), false, 7).unwrap();
    let (id, ..) = arrived(pair.settle().1);
    let stream = pair.hub.answer(&id, response(), true).unwrap();
    pair.spoke.cancel(number);
    assert!(pair.settle().0.is_empty());
    assert_eq!(pair.spoke.counts().late, 1);
    assert_eq!(pair.hub.write(stream, b"x"), WriteOutcome::Stopped);
    assert!(pair.hub.writable().contains(&stream));
}

#[test]
fn bodies_and_results_flow_both_ways_at_the_readers_pace() {
    for encoding in Encoding::ALL {
        let mut pair = Pair::new(encoding);
        let (_, body) = pair.spoke.request(pair.now, request(), true, 1).unwrap();
        let (id, incoming, _) = arrived(pair.settle().1);
        let result = pair.hub.answer(&id, response(), true).unwrap();
        let (answers, _) = pair.settle();
        let [Event::Answered { stream: Some(at_spoke), .. }] = answers[..] else { panic!() };
        let (body, at_hub) = (body.unwrap(), incoming.unwrap());
        assert_eq!((body, at_hub, result, at_spoke), (1, 1, 2, 2));
        // Nobody reads: what is under way stays within the window.
        let total = 2_000_000;
        let (mut written, mut read) = (0, 0);
        while let WriteOutcome::Took(took) = pair.spoke.write(body, &vec![5; total - written]) {
            written += took;
            pair.settle();
            if took == 0 {
                break;
            }
        }
        assert!((256 * 1024..600 * 1024).contains(&written), "{written}");
        // The reader takes: everything comes, in order, to its end.
        loop {
            match pair.hub.read(at_hub) {
                ReadOutcome::Bytes(bytes) => read += bytes.len(),
                ReadOutcome::Nothing if written < total => {
                    let WriteOutcome::Took(took) =
                        pair.spoke.write(body, &vec![5; total - written])
                    else {
                        panic!()
                    };
                    written += took;
                    if written == total {
                        pair.spoke.end(body, StreamEnd::Finished);
                    }
                }
                ReadOutcome::Nothing => {}
                ReadOutcome::End => break,
                ReadOutcome::Failed(why) => panic!("{why}"),
            }
            pair.wait(Duration::from_millis(20)).unwrap();
        }
        assert_eq!(read, total);
    }
}

#[test]
fn a_stream_that_nobody_reads_is_stopped_at_its_sender() {
    let mut pair = Pair::new(Encoding::Cbor);
    let (_, body) = pair.spoke.request(pair.now, request(), true, 1).unwrap();
    let (_, incoming, _) = arrived(pair.settle().1);
    pair.spoke.write(body.unwrap(), b"abc");
    pair.settle();
    pair.hub.stop(incoming.unwrap());
    pair.spoke.write(body.unwrap(), b"under way");
    pair.settle();
    assert_eq!(pair.spoke.write(body.unwrap(), b"more"), WriteOutcome::Stopped);
    assert_eq!(pair.hub.read(incoming.unwrap()), ReadOutcome::End);
}

/// Feeds one side frames as a foreign or hostile other side would.
fn feed(side: &mut Side, frames: &[Frame]) -> Result<Vec<Event1>, SessionError> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| codec::encode(frame, Encoding::Cbor, &mut bytes));
    let mut events = Vec::new();
    side.receive(Duration::ZERO, &bytes, &mut events).map(|()| events)
}

#[test]
fn what_breaks_the_protocol_ends_the_link() {
    let piece = |stream_id, length| {
        Frame::Stream(codec::StreamPiece { stream_id, bytes: vec![0; length], end: None })
    };
    let open = |stream_id, id: &str| {
        Frame::Message(Message {
            stream_id: Some(stream_id),
            message_id: Some(id.into()),
            ..request()
        })
    };
    let hub = || Pair::new(Encoding::Cbor).hub;
    let hello = Frame::Message(Message::new(MessageType::Hello));
    let cases = [
        (vec![hello], "unexpected_message"),
        (vec![piece(1, 1)], "bad_stream"),
        (vec![open(2, "a")], "bad_stream"),
        (vec![open(3, "a"), open(1, "b")], "bad_stream"),
        (vec![open(1, "a"), piece(3, 1)], "bad_stream"),
    ];
    for (frames, reason) in cases {
        assert_eq!(feed(&mut hub(), &frames).unwrap_err().reason(), reason, "{frames:?}");
    }
    let mut flooded = hub();
    feed(&mut flooded, &[open(1, "a")]).unwrap();
    let mut sent = 0;
    let error = loop {
        match feed(&mut flooded, &[piece(1, PIECE)]) {
            Ok(_) => sent += PIECE as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error, SessionError::Credit(1));
    assert!(sent <= Offer::HOME.budget);
    let long =
        Message { data: serde_json::value::to_raw_value(&"x".repeat(1 << 20)).ok(), ..request() };
    assert_eq!(feed(&mut hub(), &[Frame::Message(long)]).unwrap_err().reason(), "too_large");
    assert_eq!(hub().receive(s(0), b"\xff", &mut Vec::new()).unwrap_err().reason(), "malformed");
}

#[test]
fn too_many_requests_are_answered_not_kept() {
    let mut hub = Pair::new(Encoding::Cbor).hub;
    for number in 0..MAX_ANSWERS + 5 {
        let message = Message { message_id: Some(number.to_string()), ..request() };
        feed(&mut hub, &[Frame::Message(message)]).unwrap();
    }
    let repeated = Message { message_id: Some("1".into()), ..request() };
    assert!(feed(&mut hub, &[Frame::Message(repeated)]).unwrap().is_empty());
    let mut out = Vec::new();
    while hub.transmit(&mut out) {
        let mut rest = std::mem::take(&mut out);
        while !rest.is_empty() {
            let (frame, behind) = codec::decode_first(&rest, Encoding::Cbor).unwrap();
            let Some(Frame::Message(message)) = frame else { panic!("{frame:?}") };
            assert_eq!(read_error(&message).code, Code::RateLimited);
            rest = behind.to_vec();
        }
    }
    assert_eq!(hub.answers.len(), MAX_ANSWERS);
}

#[test]
fn credit_that_nobody_is_owed_does_no_harm() {
    let mut side = Pair::new(Encoding::Cbor).spoke;
    let (_, body) = side.request(s(0), request(), true, 1).unwrap();
    let credit = |stream_id, bytes| Frame::Credit(Credit { stream_id, bytes, stop: false });
    feed(&mut side, &[credit(body.unwrap(), u64::MAX), credit(99, 5), credit(0, 0)]).unwrap();
    assert!(side.is_sending(body.unwrap()));
}

#[test]
fn idle_links_live_and_know_their_round_trip() {
    let mut pair = Pair::new(Encoding::Cbor);
    pair.wait(s(300)).unwrap();
    assert!(pair.spoke.rtt().is_some() && pair.hub.rtt().is_some());
    // The other side falls silent.
    let mut events = Vec::new();
    let died = loop {
        let now = pair.spoke.wake_at(pair.now);
        pair.now = now;
        if let Err(death) = pair.spoke.wake(now, || None, &mut events) {
            break death;
        }
        while pair.spoke.transmit(&mut Vec::new()) {}
    };
    assert_eq!(died, Death::Silent);
    assert!(pair.now <= s(300) + s(31));
}

#[test]
fn a_link_that_takes_no_bytes_is_given_up() {
    let mut side = Pair::new(Encoding::Cbor).spoke;
    side.send(Lane::Call, &request()).unwrap();
    side.wake_at(s(0));
    side.heard(s(29));
    assert_eq!(side.wake(s(29), || None, &mut Vec::new()), Ok(()));
    assert_eq!(side.wake(s(30), || None, &mut Vec::new()), Err(Death::Stalled));
}

#[test]
fn draining_lets_finish_what_is_under_way() {
    let mut pair = Pair::new(Encoding::Cbor);
    pair.spoke.request(pair.now, request(), false, 1).unwrap();
    let (id, ..) = arrived(pair.settle().1);
    pair.hub.drain("restart", s(10));
    let (at_spoke, _) = pair.settle();
    assert!(matches!(&at_spoke[..], [Event::Message(m)] if m.message_type == MessageType::Goaway));
    let refused = pair.spoke.request(pair.now, request(), false, 2).unwrap_err();
    assert_eq!(refused, (SendError::Draining, 2));
    assert!(pair.spoke.is_told_to_move() && !pair.hub.is_drained());
    pair.hub.answer(&id, response(), false);
    assert!(matches!(pair.settle().0[..], [Event::Answered { token: 1, .. }]));
    assert!(pair.hub.is_drained());
}

#[test]
fn an_answer_that_does_not_fit_is_an_error_and_not_lost() {
    let mut pair = Pair::new(Encoding::Cbor);
    pair.spoke.request(pair.now, request(), false, 1).unwrap();
    let (id, ..) = arrived(pair.settle().1);
    let data = serde_json::value::to_raw_value(&"x".repeat(1 << 20)).ok();
    pair.hub.answer(&id, Message { data, ..response() }, true);
    let (answers, _) = pair.settle();
    let [Event::Answered { token: 1, message, stream: None }] = &answers[..] else { panic!() };
    assert_eq!(read_error(message).code, Code::TooLarge);
    assert!(!pair.hub.lanes.has_streams());
}

#[test]
fn heartbeats_say_what_the_application_has_to_say() {
    let mut pair = Pair::new(Encoding::Cbor);
    pair.now = s(15);
    let load = || serde_json::value::to_raw_value(&serde_json::json!({"load": 1})).ok();
    pair.spoke.wake(pair.now, load, &mut Vec::new()).unwrap();
    let (_, at_hub) = pair.settle();
    assert!(matches!(&at_hub[..], [Event::Message(m)] if m.message_type == MessageType::Heartbeat));
    assert_eq!(pair.spoke.rtt(), Some(Duration::ZERO));
}

#[test]
fn closing_gives_back_every_token() {
    let mut pair = Pair::new(Encoding::Cbor);
    pair.spoke.request(pair.now, request(), false, 1).unwrap();
    pair.settle();
    pair.spoke.request(pair.now, request(), false, 2).unwrap();
    let mut requests = pair.spoke.close().0;
    requests.sort_unstable();
    assert_eq!(requests, [(1, true), (2, false)]);
    assert_eq!(pair.hub.close().1.len(), 1);
}
