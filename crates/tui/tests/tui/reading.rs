//! What is read, what rings, how one moves.

use relay_chat::views::{ConversationState, MessageView};
use relay_proto::conv::ConvKind;
use relay_tui::{
    Act, Effect, Input, Settings,
    keys::{KeyMap, Preset},
};

use super::{
    desk::Desk,
    played::{BOB, CAROL, Played, chat, id, text, user},
};

fn marked(played: &Played, letter: char) -> Option<u64> {
    let world = played.world();
    let marks = world.acts.iter().filter_map(|act| match act {
        Act::MarkRead { conv_id, seq } if *conv_id == id(letter) => *seq,
        _ => None,
    });
    marks.max()
}

fn long_talk() -> Played {
    let played = Played::usual();
    let talk = (1..=500).map(|seq| text('o', seq, BOB, 30, &format!("line {seq}."))).collect();
    played.world().messages.insert(id('o'), talk);
    played.change('o', |chat| (chat.unread, chat.mentions, chat.read_seq) = (0, 0, 500));
    played
}

#[test]
fn read_is_what_was_seen() {
    let mut desk = Desk::usual();
    assert_eq!(marked(&desk.played, 'o'), Some(4));
    desk.expect(" new ");
    desk.input(Input::Focus(false));
    desk.played.receive(text('o', 5, BOB, 41, "while nobody looks"));
    desk.catch_up();
    assert_eq!(marked(&desk.played, 'o'), Some(4));
    desk.input(Input::Focus(true));
    assert_eq!(marked(&desk.played, 'o'), Some(5));
    assert_eq!(marked(&desk.played, 'b'), None);
}

#[test]
fn what_lies_below_is_not_read_until_it_is_seen() {
    let mut desk = Desk::at(&long_talk(), 100, 24);
    desk.press("pgup");
    desk.played.receive(text('o', 501, BOB, 41, "the newest"));
    desk.catch_up();
    desk.expect("1 new below  [End]");
    assert!(!desk.sees("the newest"));
    assert_eq!(marked(&desk.played, 'o'), None);
    desk.press("end");
    desk.expect("the newest");
    assert_eq!(marked(&desk.played, 'o'), Some(501));
}

#[test]
fn older_messages_are_fetched_as_one_goes_up_and_the_way_back_leads_to_the_end() {
    let mut desk = Desk::at(&long_talk(), 100, 24);
    desk.expect("line 500.");
    for _ in 0..60 {
        desk.press("pgup");
    }
    desk.expect("line 1.");
    assert!(desk.app.open.as_ref().unwrap().items.len() <= 400, "what is kept is bounded");
    for _ in 0..60 {
        desk.press("pgdn");
    }
    desk.expect("line 500.");
    assert!(desk.app.open.as_ref().unwrap().at_end());
}

#[test]
fn a_resize_keeps_what_is_read_in_view() {
    let mut desk = Desk::at(&long_talk(), 100, 24);
    desk.press("pgup pgup");
    let last = desk.app.open.as_ref().unwrap().bottom;
    for (width, height) in [(60, 20), (140, 40), (30, 10), (100, 24)] {
        desk.resize(width, height);
        assert_eq!(desk.app.open.as_ref().unwrap().bottom, last);
        desk.screen();
    }
}

#[test]
fn the_next_unread_is_a_mention_then_an_invitation_then_the_rest() {
    let played = Played::usual();
    {
        let mut world = played.world();
        let mut lab = chat('l', ConvKind::Room, "#lab");
        lab.state = ConversationState::Invited { by: user(BOB) };
        let mut loud = chat('m', ConvKind::Room, "#loud");
        (loud.unread, loud.mentions) = (9, 1);
        world.chats.extend([lab, loud]);
    }
    let mut desk = Desk::at(&played, 100, 24);
    let open = |desk: &Desk| desk.app.chat().unwrap().name.clone();
    assert_eq!(open(&desk), "#ops");
    let mut order = Vec::new();
    for _ in 0..3 {
        desk.press("alt-a");
        order.push(open(&desk));
        played.change('m', |chat| (chat.unread, chat.mentions) = (0, 0));
        if open(&desk) == "#lab" {
            played.change('l', |chat| chat.state = ConversationState::Active);
        }
        desk.input(Input::Missed);
    }
    assert_eq!(order, ["#loud", "#lab", "bob"]);
    desk.press("alt-a");
    desk.expect("nothing is unread");
}

#[test]
fn mentions_and_direct_messages_ring() {
    let rings = |desk: &mut Desk, message: MessageView| {
        desk.effects.clear();
        desk.played.receive(message);
        desk.catch_up();
        let bell = desk.effects.iter().any(|effect| matches!(effect, Effect::Bell));
        let notified = desk.effects.iter().any(|effect| matches!(effect, Effect::Notify(_)));
        assert_eq!(bell, notified);
        bell
    };
    let mut desk = Desk::usual();
    assert!(!rings(&mut desk, text('g', 1, CAROL, 41, "hello all")));
    assert!(rings(&mut desk, MessageView { mention: true, ..text('g', 2, CAROL, 41, "@alice") }));
    assert!(rings(&mut desk, text('b', 2, BOB, 41, "psst")));
    let here = MessageView { mention: true, ..text('o', 5, CAROL, 41, "@alice here") };
    assert!(!rings(&mut desk, here.clone()), "what is in view needs no bell");
    desk.input(Input::Focus(false));
    assert!(rings(&mut desk, MessageView { seq: Some(6), ..here }));
    desk.played.change('b', |chat| chat.muted = true);
    desk.input(Input::Missed);
    assert!(!rings(&mut desk, text('b', 3, BOB, 41, "psst again")));
}

#[test]
fn the_title_counts_what_is_unread() {
    let mut desk = Desk::usual();
    let title = |desk: &Desk| {
        desk.effects.iter().rev().find_map(|effect| match effect {
            Effect::Title(title) => Some(title.clone()),
            _ => None,
        })
    };
    assert_eq!(title(&desk).unwrap(), "(1) #ops · Relay");
    desk.press("alt-3");
    assert_eq!(title(&desk).unwrap(), "bob · Relay");
}

#[test]
fn a_search_leads_to_the_message() {
    let mut desk = Desk::at(&long_talk(), 100, 24);
    desk.press("ctrl-f").write("line 77.").press("enter");
    desk.expect("Enter shows the message");
    desk.press("enter");
    assert!(desk.app.overlay.is_none());
    desk.expect("line 77.").expect("line 80.");
    assert_eq!(desk.app.open.as_ref().unwrap().selected().unwrap().seq, Some(77));
    desk.press("end");
    desk.expect("line 500.");
    desk.press("ctrl-f").write("no such words").press("enter");
    desk.expect("nothing found");
    desk.press("esc");
    desk.expect("line 500.");
}

#[test]
fn one_key_goes_to_anything() {
    let mut desk = Desk::usual();
    desk.press("ctrl-k").write("gen").press("enter");
    assert_eq!(desk.app.chat().unwrap().name, "#general");
    desk.press("ctrl-k").write("carol").press("enter");
    assert!(desk.played.did(|act| matches!(act, Act::Direct { .. })));
    desk.press("ctrl-k").write("export").press("enter");
    assert_eq!(desk.draft(), "/export ");
    desk.press("ctrl-k esc");
    assert_eq!(desk.draft(), "/export ");
}

#[test]
fn a_selected_message_is_copied_opened_and_reacted_to() {
    let mut desk = Desk::usual();
    desk.played.receive(text('o', 5, BOB, 41, "see https://example.com/x."));
    desk.catch_up();
    desk.press("up c o +");
    let copied = desk
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::Copy(text) if text.contains("see")));
    let opened = desk
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::OpenLink(link) if link == "https://example.com/x"));
    assert!(copied && opened);
    assert!(desk.played.did(|act| matches!(act, Act::React { remove: false, .. })));
    desk.press("d");
    desk.expect("only messages of your own");
    desk.press("up d");
    desk.expect("for everybody?");
    desk.press("n");
    assert!(!desk.played.did(|act| matches!(act, Act::Delete { .. })));
    desk.press("esc");
    assert!(!desk.app.is_reading());
}

#[test]
fn vim_reads_first_and_types_with_i() {
    let keys = KeyMap::new(Preset::Vim);
    let settings = Settings { keys, ..Settings::default() };
    let mut desk = Desk::with(&long_talk(), settings, 100, 24);
    assert!(desk.app.is_reading());
    desk.press("k k");
    assert_eq!(desk.app.open.as_ref().unwrap().selected().unwrap().seq, Some(499));
    desk.press("ctrl-u ctrl-u");
    assert!(!desk.app.open.as_ref().unwrap().at_end());
    desk.press("G i");
    desk.write("jk");
    assert_eq!(desk.draft(), "jk");
    desk.press("esc j");
    assert_eq!(desk.draft(), "jk", "a letter is a key again");
}

#[test]
fn presence_is_watched_of_direct_messages_alone() {
    let mut desk = Desk::usual();
    assert!(!desk.played.did(|act| matches!(act, Act::Watch(_))));
    desk.press("alt-3");
    assert!(desk.played.did(|act| matches!(act, Act::Watch(users) if users[..] == [user(BOB)])));
}
