use super::*;
use crate::link::codec::{Frame, StreamPiece, decode_first};

fn lanes() -> Lanes {
    Lanes::new(Encoding::Cbor, Offer::HOME, 1)
}

fn fill(lanes: &mut Lanes, lane: Lane, mark: u8, count: usize) {
    for _ in 0..count {
        lanes.push(lane, false, |out| out.extend([mark; 1_000])).unwrap();
    }
}

fn next(lanes: &mut Lanes) -> Vec<u8> {
    let mut out = Vec::new();
    lanes.pop(&mut out);
    out
}

fn piece(bytes: &[u8]) -> StreamPiece {
    match decode_first(bytes, Encoding::Cbor) {
        Ok((Some(Frame::Stream(piece)), [])) => piece,
        other => panic!("no piece: {other:?}"),
    }
}

#[test]
fn control_goes_first_and_the_rest_shares_by_weight() {
    let mut lanes = lanes();
    fill(&mut lanes, Lane::Bulk, 3, 400);
    fill(&mut lanes, Lane::Stream, 2, 400);
    fill(&mut lanes, Lane::Call, 1, 400);
    fill(&mut lanes, Lane::Control, 0, 1);
    assert_eq!(next(&mut lanes)[0], 0);
    let mut sent = [0_u32; 4];
    for _ in 0..390 {
        sent[usize::from(next(&mut lanes)[0])] += 1;
    }
    let share = |count: u32, of: u32| (i64::from(count) - i64::from(of)).abs() <= 20;
    assert!(share(sent[1], 240) && share(sent[2], 120) && share(sent[3], 30), "{sent:?}");
}

#[test]
fn an_idle_lane_saves_nothing_up() {
    let mut lanes = lanes();
    fill(&mut lanes, Lane::Bulk, 3, 200);
    (0..100).for_each(|_| drop(next(&mut lanes)));
    fill(&mut lanes, Lane::Call, 1, 30);
    let sent: Vec<u8> = (0..35).map(|_| next(&mut lanes)[0]).collect();
    // The call lane is served within one turn, and bulk is not shut out.
    assert!(sent[..6].contains(&1) && sent.contains(&3), "{sent:?}");
}

#[test]
fn streams_of_a_lane_take_turns() {
    let mut lanes = lanes();
    let ids: Vec<u64> = (0..3).map(|_| lanes.open(Lane::Bulk).unwrap()).collect();
    assert_eq!(ids, [1, 3, 5]);
    for id in &ids {
        assert_eq!(lanes.write(*id, &[7; 3 * PIECE]), WriteOutcome::Took(3 * PIECE));
    }
    let order: Vec<u64> = (0..9).map(|_| piece(&next(&mut lanes)).stream_id).collect();
    assert_eq!(order, [1, 3, 5, 1, 3, 5, 1, 3, 5]);
}

#[test]
fn no_piece_overtakes_the_message_that_opens_its_stream() {
    let mut lanes = lanes();
    fill(&mut lanes, Lane::Call, 1, 50);
    let id = lanes.open(Lane::Stream).unwrap();
    fill(&mut lanes, Lane::Call, 9, 1);
    lanes.opened_by_newest(id);
    let place = lanes.newest_call();
    fill(&mut lanes, Lane::Call, 1, 50);
    lanes.write(id, b"first");
    for _ in 0..50 {
        assert_eq!(next(&mut lanes)[0], 1);
    }
    assert!(!lanes.has_left(place));
    assert_eq!(next(&mut lanes)[0], 9);
    assert!(lanes.has_left(place));
    let pieces = (0..51).filter(|_| decode_first(&next(&mut lanes), Encoding::Cbor).is_ok());
    assert_eq!(pieces.count(), 1);
    assert!(lanes.is_empty());
}

#[test]
fn a_stream_stops_at_its_window_and_goes_on_with_credit() {
    let mut lanes = lanes();
    let id = lanes.open(Lane::Bulk).unwrap();
    let mut sent = 0;
    let drain = |lanes: &mut Lanes| {
        let mut sent = 0;
        loop {
            lanes.write(id, &[1; STREAM_QUEUE]);
            let bytes = next(lanes);
            if bytes.is_empty() {
                return sent;
            }
            sent += piece(&bytes).bytes.len() as u64;
        }
    };
    sent += drain(&mut lanes);
    assert_eq!(sent, 256 * 1024);
    lanes.credit(id, 1_000, false);
    assert_eq!(drain(&mut lanes), 1_000);
    // All of the first window is taken: a larger one is due.
    lanes.credit(id, 256 * 1024, false);
    assert_eq!(drain(&mut lanes), 512 * 1024);
}

#[test]
fn unread_streams_never_take_the_whole_budget() {
    let budget = 1 << 20;
    let mut lanes = Lanes::new(Encoding::Cbor, Offer { budget, ..Offer::HOME }, 1);
    let ids: Vec<u64> = (0..20).map(|_| lanes.open(Lane::Bulk).unwrap()).collect();
    for _ in 0..200 {
        for id in &ids {
            lanes.write(*id, &[1; STREAM_QUEUE]);
        }
        while lanes.pop(&mut Vec::new()) {}
    }
    assert!(lanes.unread <= budget);
    // Another stream still gets its share.
    let late = lanes.open(Lane::Bulk).unwrap();
    lanes.write(late, &[1; 10_000]);
    assert!(!piece(&next(&mut lanes)).bytes.is_empty());
    // And once the others are read, everything flows again.
    for id in &ids {
        lanes.credit(*id, u64::MAX, false);
    }
    assert!(lanes.pop(&mut Vec::new()));
}

#[test]
fn an_end_needs_no_credit_and_a_failure_throws_the_rest_away() {
    let mut lanes = lanes();
    let id = lanes.open(Lane::Stream).unwrap();
    lanes.write(id, b"rest");
    lanes.end(id, StreamEnd::Finished);
    let last = piece(&next(&mut lanes));
    assert_eq!((last.bytes.as_slice(), last.end), (&b"rest"[..], Some(StreamEnd::Finished)));
    assert_eq!(lanes.write(id, b"more"), WriteOutcome::Stopped);

    let id = lanes.open(Lane::Stream).unwrap();
    lanes.write(id, b"rest");
    lanes.end(id, StreamEnd::Failed("gone".into()));
    let last = piece(&next(&mut lanes));
    assert!(last.bytes.is_empty() && last.end == Some(StreamEnd::Failed("gone".into())));
    assert!(!lanes.has_streams() && lanes.is_empty());
}

#[test]
fn a_full_lane_refuses_and_a_long_message_changes_nothing() {
    let mut lanes = lanes();
    let long = vec![0; (1 << 20) + 1];
    let pushed = lanes.push(Lane::Call, false, |out| out.extend(&long));
    assert_eq!(pushed, Err(SendError::TooLarge));
    assert!(lanes.is_empty() && lanes.queued() == 0);
    let mut count = 0;
    while lanes.push(Lane::Call, false, |out| out.extend(&long[1..])).is_ok() {
        count += 1;
    }
    assert_eq!(count, 9);
    assert_eq!(lanes.push(Lane::Call, true, |out| out.push(1)), Ok(()));
    assert_eq!(lanes.push(Lane::Control, false, |out| out.push(1)), Ok(()));
}
