//! What helps a device that is stuck, and one whose binding ends.

use relay_proto::mls::{KeyPackage, decode_base64};

use super::*;

const DAY_MS: u64 = 86_400_000;

/// Alice and Bob in a room, where Bob alone got a damaged copy of the commit that took Carol in.
fn bob_is_stuck(seed: u64) -> (World, String) {
    let mut world = World::new(seed, &[1, 2, 3]);
    let room = world.room(0, &[1]);
    damage_for_bob(&mut world, &room);
    // And nothing is published that would lead around it.
    world.relay.logs.get_mut(&room).unwrap().group_info = None;
    world.settle();
    world.accept_all();
    (world, room)
}

fn stuck(world: &World, n: usize, room: &str) -> Option<String> {
    match world.peers[n].core.conversation(room).unwrap().state {
        ConversationState::Stuck { help, .. } => Some(help),
        _ => None,
    }
}

#[test]
fn members_are_asked_and_one_lets_the_device_in_again() {
    let (mut world, room) = bob_is_stuck(41);
    let help = stuck(&world, 1, &room).expect("Bob is stuck");
    assert!(help.contains("were asked to let this device in again"), "{help}");
    let bob = world.id(1);
    let asking = world.peers[0].core.asking(&room).unwrap();
    assert_eq!(asking.iter().map(|asking| asking.user).collect::<Vec<_>>(), [bob]);
    // Nobody is let in before the user agrees, and nobody who did not ask.
    let carol = world.id(2);
    let refused = world.peers[0].core.readmit_user(&room, carol, world.now_ms);
    assert!(matches!(refused, Err(Error::Refused(Refusal::NobodyAsks(_)))), "{refused:?}");
    assert!(world.say(1, &room, "written while stuck"));
    world.settle();
    assert!(stuck(&world, 1, &room).is_some());
    world.peers[0].core.readmit_user(&room, bob, world.now_ms).unwrap();
    world.settle();
    assert_eq!(stuck(&world, 1, &room), None);
    assert!(world.peers[0].core.asking(&room).unwrap().is_empty());
    for n in 0..3 {
        assert!(world.say(n, &room, &format!("{n} is here")));
    }
    world.settle();
    world.check(&room);
    let members = world.peers[0].core.members(&room).unwrap();
    assert!(members.iter().all(|member| member.devices == 1), "{members:#?}");
    let texts: Vec<_> = world.lines(2, &room).into_iter().map(|(_, line)| line).collect();
    assert!(texts.contains(&MessageBody::Text { text: "written while stuck".into() }));
}

#[test]
fn a_stuck_conversation_begins_anew_with_the_same_people() {
    let (mut world, room) = bob_is_stuck(42);
    // What works is not begun anew by mistake.
    let refused = world.peers[0].core.restart(&room, world.now_ms);
    assert!(matches!(refused, Err(Error::Refused(Refusal::Invalid(_)))), "{refused:?}");
    let (new_room, _) = world.peers[1].core.restart(&room, world.now_ms).unwrap();
    world.settle();
    world.accept_all();
    assert!(world.say(0, &new_room, "here again") && world.say(1, &new_room, "at last"));
    world.settle();
    world.check(&new_room);
    let old = world.peers[1].core.conversation(&room).unwrap();
    assert_eq!((old.state, old.archived), (ConversationState::Left, true));
    assert_eq!(world.peers[1].core.conversation(&new_room).unwrap().name, old.name);
    // For Alice, who is not stuck there, the old one goes on.
    let old = world.peers[0].core.conversation(&room).unwrap();
    assert_eq!(old.state, ConversationState::Active);
    let texts: Vec<_> = world.lines(0, &new_room).into_iter().map(|(_, line)| line).collect();
    assert!(texts.contains(&MessageBody::Text { text: "at last".into() }), "{texts:?}");
}

/// The library measures the lifetime of keys by the clock of the machine; so Carol is let in with keys that are about to end
/// by that clock, and Bob comes back when they have.
#[test]
fn who_was_away_for_longer_than_keys_last_is_told_so_and_comes_back() {
    const LEFT_MS: u64 = 10_000;
    let mut world = World::new(44, &[1, 2, 3]);
    let room = world.room(0, &[1]);
    let carol = world.id(2);
    // The world has gone on faster than the machine.
    world.now_ms = relay_client::unix_ns() / 1_000_000;
    let ends_ms = world.now_ms + LEFT_MS;
    let made = world.peers[2].core.key_packages(0, ends_ms - 28 * DAY_MS).unwrap().unwrap();
    let device = world.peers[2].core.device().device_id();
    world.relay.pools.insert((carol, device), made.packages);
    // Bob is away from here on.
    let without_bob = |world: &mut World, until: &dyn Fn(&World) -> bool| {
        for _ in 0..100 {
            if until(world) {
                return;
            }
            world.work(0);
            world.receive(0, usize::MAX);
        }
        panic!("it does not come so far");
    };
    assert!(world.say(0, &room, "before carol"));
    world.peers[0].core.invite(&room, &[carol], world.now_ms).unwrap();
    without_bob(&mut world, &|world| world.relay.logs[&room].members.contains(&carol));
    assert!(world.say(0, &room, "with carol"));
    without_bob(&mut world, &|world| world.peers[0].core.outbox().unwrap().is_empty());
    while relay_client::unix_ns() / 1_000_000 <= ends_ms + 1_000 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(world.say(1, &room, "I was away"));
    world.receive(1, usize::MAX);
    let ConversationState::Stuck { why, .. } =
        world.peers[1].core.conversation(&room).unwrap().state
    else {
        panic!("Bob is not stuck");
    };
    assert!(why.contains("was away for more than four weeks"), "{why}");
    world.settle();
    world.accept_all();
    assert!(world.say(0, &room, "welcome back"));
    world.settle();
    world.check(&room);
    let seen = world.lines(1, &room);
    let says = |text: &str| {
        let words = MessageBody::Text { text: text.to_owned() };
        seen.iter().any(|(_, line)| *line == words)
    };
    assert!(says("before carol") && says("I was away") && says("welcome back"), "{seen:?}");
    // What was said between the commit that he cannot follow and his return is counted, not passed over in silence.
    let gap = seen.iter().find_map(|(_, line)| match line {
        MessageBody::Unreadable { why: Unreadable::WhileAway { from_seq, to_seq } } => {
            Some(*from_seq..=*to_seq)
        }
        _ => None,
    });
    let spoken = world
        .lines(0, &room)
        .into_iter()
        .find(|(_, line)| *line == MessageBody::Text { text: "with carol".into() });
    assert!(gap.is_some_and(|gap| gap.contains(&spoken.unwrap().0)), "{seen:?}");
}

#[test]
fn a_binding_is_renewed_before_it_ends() {
    let mut world = World::new(43, &[1, 2, 3]);
    let room = world.room(0, &[1]);
    let before = world.peers[1].core.device().binding;
    world.now_ms += 200 * DAY_MS;
    world.restart(1);
    assert_eq!(world.peers[1].core.device().binding.not_after, before.not_after, "too early");
    world.now_ms += 100 * DAY_MS;
    for n in 0..3 {
        world.restart(n);
    }
    let after = world.peers[1].core.device();
    assert!(after.binding.not_after > before.not_after + 200 * DAY_MS / 1_000);
    assert_eq!((after.id, after.user), (before.device, before.user), "it is the same device");
    // The old room goes on long after the first binding has ended, and so do invitations: their keys are under the new one.
    world.now_ms += 90 * DAY_MS;
    assert!(world.say(0, &room, "still here") && world.say(1, &room, "so am I"));
    world.settle();
    world.check(&room);
    let now_s = world.now_ms / 1_000;
    assert!(before.not_after < now_s);
    let upload = world.peers[1].core.key_packages(0, world.now_ms).unwrap().unwrap();
    let made = upload.packages.iter().chain(&upload.last_resort);
    for package in made {
        let package = KeyPackage::parse(&decode_base64(package).unwrap()).unwrap();
        package.check(&before.user, &before.device, now_s).unwrap();
    }
}
