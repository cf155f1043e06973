//! Long talks between two devices that forget everything but their disk at each step.

use super::*;
use crate::store::Durability;

/// Of this many messages keys are renewed once.
const RENEWED_EVERY: usize = 25;
const DAY_MS: u64 = 86_400_000;

/// Two people say `count` things in turn. After every step both processes end and start again.
fn talk(count: usize) {
    let mut world = World::new(31, &[1, 2]);
    let room = world.room(0, &[1]);
    let before = world.peers[0].core.conversation(&room).unwrap().epoch;
    for n in 0..count {
        let from = n % 2;
        assert!(world.say(from, &room, &format!("message {n}")));
        if n % RENEWED_EVERY == 0 {
            world.now_ms += 9 * DAY_MS;
        }
        // Until the message is at both: each takes a step, and what it knew is gone.
        let said = |world: &World, peer: usize| {
            let core = &world.peers[peer].core;
            let page = core.messages(&room, Part::Newest, 1).unwrap();
            page.items.iter().any(|item| {
                item.seq.is_some()
                    && item.body == MessageBody::Text { text: format!("message {n}") }
            })
        };
        for step in 0.. {
            for peer in 0..2 {
                world.work(peer);
                world.receive(peer, usize::MAX);
                world.restart(peer);
            }
            if said(&world, 0) && said(&world, 1) {
                break;
            }
            assert!(step < 50, "message {n} does not arrive");
            world.now_ms += 1_000;
        }
    }
    world.settle();
    world.check(&room);
    for peer in 0..2 {
        let lines = world.lines(peer, &room);
        let unreadable: Vec<_> = lines
            .iter()
            .filter(|(_, line)| matches!(line, MessageBody::Unreadable { .. }))
            .collect();
        assert!(unreadable.is_empty(), "{unreadable:?}");
        let texts: Vec<_> = lines
            .into_iter()
            .filter_map(|(_, line)| match line {
                MessageBody::Text { text } => Some(text),
                _ => None,
            })
            .collect();
        let all: Vec<_> = (0..count).map(|n| format!("message {n}")).collect();
        assert_eq!(texts, all);
    }
    let renewed = world.peers[0].core.conversation(&room).unwrap().epoch - before;
    assert!(renewed as usize >= count / RENEWED_EVERY / 2, "keys were renewed {renewed} times");
}

#[test]
fn a_hundred_messages_with_a_restart_at_each_step() {
    talk(100);
}

#[test]
#[ignore = "soak: a thousand messages, two processes that start several thousand times"]
fn a_thousand_messages_with_a_restart_at_each_step() {
    talk(1_000);
}

#[test]
fn a_full_disk_loses_nothing_and_says_what_to_do() {
    let mut world = World::new(33, &[1, 2]);
    let room = world.room(0, &[1]);
    world.peers[0].core.store().cap_pages(8);
    let mut said = 0;
    let full = loop {
        let body = Body::Text { text: format!("{said} {}", "x".repeat(3_000)), reply_to: None };
        match world.peers[0].core.say(&room, body, world.now_ms) {
            Ok(_) => said += 1,
            Err(error) => break error,
        }
        assert!(said < 100, "the disk does not get full");
    };
    assert!(full.to_string().contains("free some and try again"), "{full}");
    // Neither can anything be taken in, and nothing of it counts as read.
    assert!(world.say(1, &room, &"y".repeat(3_000)));
    for _ in 0..6 {
        world.work(1);
        world.receive(1, usize::MAX);
    }
    let next = world.peers[0].core.followed().unwrap()[0].1 as usize;
    for entry in &world.relay.logs[&room].entries[next - 1..] {
        match world.peers[0].core.apply(entry, world.now_ms) {
            Err(Error::State(StateError::Full)) => break,
            Ok(Applied::Stored(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    world.peers[0].core.store().cap_pages(0);
    world.settle();
    world.check(&room);
    let texts = world.lines(1, &room).into_iter();
    let texts = texts.filter(|(_, line)| matches!(line, MessageBody::Text { .. })).count();
    assert_eq!(texts, said + 1);
}

#[test]
fn a_group_in_memory_is_never_ahead_of_the_disk() {
    let mut world = World::new(32, &[1, 2]);
    let room = world.room(0, &[1]);
    assert!(world.say(0, &room, "first") && world.say(0, &room, "second"));
    for _ in 0..10 {
        world.work(0);
        world.receive(0, usize::MAX);
    }
    let bob = &world.peers[1].core;
    let next = bob.followed().unwrap()[0].1 as usize;
    let due = world.relay.logs[&room].entries[next - 1..].to_vec();
    assert_eq!(due.len(), 2);
    // The key of the first message is used up in memory, and the transaction is taken back.
    let failed = bob.write(Durability::Soon, |tx| {
        bob.apply_in(tx, &due[0])?;
        Err::<(), _>(Error::Closed)
    });
    assert!(matches!(failed, Err(Error::Closed)));
    assert_eq!(bob.groups.kept(), 0, "it was kept though it is ahead of the disk");
    for entry in &due {
        assert!(matches!(bob.apply(entry, world.now_ms).unwrap(), Applied::Stored(_)));
    }
    assert_eq!(bob.groups.kept(), 1);
    let texts: Vec<_> = world.lines(1, &room).into_iter().map(|(_, line)| line).collect();
    for text in ["first", "second"] {
        assert!(texts.contains(&MessageBody::Text { text: text.into() }), "{texts:?}");
    }
    // Our own commit that loses a race is built in memory and taken back there too.
    world.settle();
    world.check(&room);
}
