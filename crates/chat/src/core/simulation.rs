//! Many devices, a relay in memory, and chance: joins, leaves, races, restarts, lost answers, and lies.
//!
//! The relay of this world keeps the profile's rules (`mls-profile.md` 6) unless it is told to lie. Nothing waits for a clock: time is
//! a number that moves when nobody has anything to do.

mod interop;
mod soak;
mod ways_back;
mod world;

use relay_proto::conv::MessageKind;

use self::world::*;
use super::*;
use crate::{
    content::Body,
    views::{ConversationState, MessageBody, Unreadable},
};

#[test]
fn chance_leaves_everybody_agreed() {
    let mut all = 0;
    for seed in 1..=3 {
        let mut world = World::new(seed, &[1, 2, 3, 4, 5]);
        let room = world.room(0, &[1, 2]);
        world.lossy = 15;
        let mut said = 0;
        for _ in 0..120 {
            let n = world.rng.next(world.peers.len());
            match world.rng.next(12) {
                0 => {
                    let who = world.rng.next(world.peers.len());
                    let user = world.id(who);
                    let _ = world.peers[0].core.invite(&room, &[user], world.now_ms);
                }
                1 if world.rng.chance(40) => {
                    let who = 1 + world.rng.next(world.peers.len() - 1);
                    let user = world.id(who);
                    let _ = world.peers[0].core.remove(&room, vec![user], world.now_ms);
                }
                2 => world.restart(n),
                3 if n > 2 => drop(world.peers[n].core.leave(&room, world.now_ms)),
                4 => world.accept_all(),
                5..=7 => {
                    said += usize::from(world.say(n, &room, &format!("{seed}/{said}")));
                }
                _ => {}
            }
            // Only some get a turn, and see only a part of the log.
            for _ in 0..3 {
                let n = world.rng.next(world.peers.len());
                let most = world.rng.next(4);
                world.receive(n, most);
                world.work(n);
                world.refill(n);
            }
            world.now_ms += 500;
        }
        world.lossy = 0;
        world.accept_all();
        world.settle();
        world.check(&room);
        all += said;
    }
    assert!(all > 20, "hardly anybody said anything: {all}");
}

#[test]
fn commits_race_and_all_of_them_get_their_way() {
    let mut world = World::new(9, &[1, 2, 3, 4, 5, 6]);
    let room = world.room(0, &[1, 2]);
    // Two admins invite at once.
    let admin = world.id(1);
    let roles = Some([(admin, relay_proto::conv::Role::Admin)].into());
    let body = Body::Room(crate::content::RoomBody { roles, ..Default::default() });
    world.peers[0].core.say(&room, body, world.now_ms).unwrap();
    world.settle();
    let (third, fourth) = (world.id(3), world.id(4));
    world.peers[0].core.invite(&room, &[third], world.now_ms).unwrap();
    world.peers[1].core.invite(&room, &[fourth], world.now_ms).unwrap();
    for _ in 0..6 {
        world.work(0);
        world.work(1);
    }
    world.settle();
    world.accept_all();
    for n in 0..5 {
        assert!(world.say(n, &room, &n.to_string()));
    }
    world.settle();
    world.check(&room);
    assert_eq!(world.peers[4].core.members(&room).unwrap().len(), 5);
}

#[test]
fn a_second_device_comes_in_and_a_lost_one_is_replaced() {
    let mut world = World::new(4, &[1, 2]);
    let room = world.room(0, &[1]);
    world.say(0, &room, "before");
    world.settle();
    let phone = world.add_device(1);
    world.peers[0].core.devices_changed(true, &[], world.now_ms).unwrap();
    world.settle();
    assert!(world.say(phone, &room, "from my phone"));
    world.settle();
    world.check(&room);
    // Both are lost; the key and the vault are there.
    let vault = world.peers[0].core.vault_contents().unwrap().0;
    world.peers.swap_remove(phone);
    let lost = world.peers.remove(0);
    let new = world.add_device(1);
    let (conv_id, home, rejoin_key) = vault[0].clone();
    let latest_seq = world.relay.logs[&conv_id].entries.len() as u64;
    let from = Vaulted { conv_id, home, rejoin_key, latest_seq };
    world.peers[new].core.come_back(&from, true, world.now_ms).unwrap();
    world.settle();
    assert!(world.say(new, &room, "I am back") && world.say(0, &room, "welcome back"));
    world.settle();
    world.check(&room);
    let members = world.peers[new].core.members(&room).unwrap();
    assert!(members.iter().all(|member| member.devices == 1), "{members:#?}");
    drop(lost);
}

#[test]
fn a_lying_relay_stops_a_conversation_at_most() {
    let mut world = World::new(5, &[1, 2]);
    let room = world.room(0, &[1]);
    for n in 0..4 {
        world.say(0, &room, &n.to_string());
    }
    for _ in 0..30 {
        world.work(0);
        world.receive(0, usize::MAX);
    }
    let bob = &world.peers[1].core;
    let entries = world.relay.logs[&room].entries.clone();
    let next = bob.followed().unwrap()[0].1 as usize;
    let due = &entries[next - 1..];
    let before = bob.conversation(&room).unwrap();
    // Left out: a gap is noticed, and nothing is taken.
    assert!(matches!(bob.apply(&due[1], 0).unwrap(), Applied::Gap { .. }));
    // From another home: nothing of it is believed.
    let mut abroad = due[0].clone();
    abroad.conv_home = "gw_evil".into();
    // Damaged, and cut off in the middle: passed over as what it is.
    let mut flipped = due[0].clone();
    let middle = flipped.env.len() / 2;
    let letter = if &flipped.env[middle..=middle] == "A" { "B" } else { "A" };
    flipped.env.replace_range(middle..=middle, letter);
    let Applied::Stored(_) = bob.apply(&flipped, 0).unwrap() else { panic!("not taken") };
    let line = world.lines(1, &room).pop().unwrap();
    assert!(matches!(line.1, MessageBody::Unreadable { why: Unreadable::Invalid { .. } }));
    // The true one under the same number is a fork now, and is not shown either.
    let Applied::Ignored(events) = bob.apply(&due[0], 0).unwrap() else { panic!("taken") };
    assert!(matches!(&events[..], [Event::Note { .. }]));
    // The rest still reads: one bad message costs itself alone.
    for entry in &due[1..] {
        bob.apply(entry, 0).unwrap();
    }
    let texts: Vec<_> = world
        .lines(1, &room)
        .into_iter()
        .filter(|(_, line)| matches!(line, MessageBody::Text { .. }))
        .collect();
    assert_eq!(texts.len(), 3);
    // Replayed, it changes nothing.
    let count = world.lines(1, &room).len();
    for entry in &entries {
        let bob = &world.peers[1].core;
        assert!(matches!(bob.apply(entry, 0).unwrap(), Applied::Ignored(_)));
    }
    assert_eq!(world.lines(1, &room).len(), count);
    let after = world.peers[1].core.conversation(&room).unwrap();
    assert_eq!(
        (after.epoch, after.check, &after.state),
        (before.epoch, before.check, &ConversationState::Active)
    );
    // A commit from nowhere stops the conversation, and says so.
    abroad.seq = entries.len() as u64 + 1;
    let bob = &world.peers[1].core;
    bob.apply(&abroad, 0).unwrap();
    assert!(matches!(bob.conversation(&room).unwrap().state, ConversationState::Stuck { .. }));
}

/// Bob alone gets a damaged copy of the commit that takes Carol in; the others go on.
fn damage_for_bob(world: &mut World, room: &str) {
    let carol = world.id(2);
    world.peers[0].core.invite(room, &[carol], world.now_ms).unwrap();
    while !world.relay.logs[room].members.contains(&carol) {
        world.work(0);
        world.receive(0, usize::MAX);
    }
    let mut bad = world.relay.logs[room].entries.last().unwrap().clone();
    assert_eq!(bad.kind, Some(MessageKind::Commit));
    let middle = bad.env.len() - 40;
    let letter = if &bad.env[middle..=middle] == "A" { "B" } else { "A" };
    bad.env.replace_range(middle..=middle, letter);
    world.peers[1].core.apply(&bad, world.now_ms).unwrap();
}

#[test]
fn a_poisoned_commit_is_survived_by_rejoining() {
    let mut world = World::new(6, &[1, 2, 3]);
    let room = world.room(0, &[1]);
    world.say(1, &room, "all is well");
    world.settle();
    damage_for_bob(&mut world, &room);
    let state = world.peers[1].core.conversation(&room).unwrap().state;
    assert!(matches!(state, ConversationState::Stuck { .. }), "{state:?}");
    assert!(world.say(1, &room, "written while stuck"));
    world.settle();
    world.accept_all();
    world.say(0, &room, "you are back");
    world.settle();
    world.check(&room);
    let texts: Vec<_> = world.lines(0, &room).into_iter().map(|(_, line)| line).collect();
    assert!(texts.contains(&MessageBody::Text { text: "written while stuck".into() }));
}
