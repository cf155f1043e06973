//! Text of strangers on the terminal: names, words, reasons, file names, whatever the relay says.

use relay_chat::{
    content::FileBody,
    views::{
        Connection, ConversationState, Delivery, Event, MessageBody, MessageView, Notice,
        ReactionView, ReplyView, Unreadable,
    },
};
use relay_tui::{Effect, Input};

use super::{
    desk::Desk,
    played::{BOB, Played, id, text, user},
};

/// Clears the screen, writes to the clipboard, sets the title, moves the cursor, rings, turns the line around.
const EVIL: &str =
    "\x1b[2J\x1b]52;c;ZXZpbA==\x07\x1b]0;owned\x1b\\\u{9b}10;10H\x07\x08\x7f\r\u{202e}evil\u{0}";

fn evil_messages() -> Vec<MessageView> {
    let evil = || EVIL.to_owned();
    let base = |seq| MessageView { from_name: evil(), ..text('o', seq, BOB, 40, EVIL) };
    let with = |seq, body| MessageView { body, ..base(seq) };
    let file = FileBody {
        name: evil(),
        mime: evil(),
        size: u64::MAX,
        url: evil(),
        key: evil(),
        digest: evil(),
    };
    vec![
        MessageView {
            mention: true,
            reply_to: Some(ReplyView { id: evil(), seq: None, from_name: evil(), excerpt: evil() }),
            reactions: vec![ReactionView { emoji: evil(), by: vec![evil()], own: false }],
            ..base(5)
        },
        with(6, MessageBody::File { file }),
        with(7, MessageBody::Unsupported { kind: evil() }),
        with(8, MessageBody::Unreadable { why: Unreadable::Invalid { detail: evil() } }),
        with(
            9,
            MessageBody::Notice {
                notice: Notice::Renamed { name: Some(evil()), topic: Some(evil()) },
            },
        ),
        MessageView { own: true, read_by: vec![evil()], ..base(10) },
        MessageView {
            own: true,
            seq: None,
            local: Some(9),
            delivery: Delivery::Failed { why: evil() },
            ..base(0)
        },
    ]
}

fn check(desk: &Desk) {
    for cell in desk.buffer().content() {
        let bad = |c: char| {
            c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert!(!cell.symbol().contains(bad), "{:?}", cell.symbol());
    }
    for effect in &desk.effects {
        let (Effect::Title(text) | Effect::Notify(text) | Effect::OpenLink(text)) = effect else {
            continue;
        };
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}

#[test]
fn no_stranger_writes_to_the_terminal() {
    let played = Played::usual();
    {
        let mut world = played.world();
        world.messages.insert(id('o'), evil_messages());
        world.connection = Connection::Refused { why: EVIL.into() };
        world.people[0].name = EVIL.into();
        world.me.relay_id = Some(EVIL.into());
        for member in world.members.values_mut().flatten() {
            member.name = EVIL.into();
        }
        for chat in &mut world.chats {
            (chat.name, chat.topic, chat.home) = (EVIL.into(), EVIL.into(), EVIL.into());
            (chat.waiting, chat.waits_for) = (1, Some(EVIL.into()));
        }
    }
    for (width, height) in [(120, 40), (60, 20), (30, 10)] {
        let mut desk = Desk::at(&played, width, height);
        check(&desk);
        for keys in ["up i", "esc up r", "ctrl-k", "esc tab tab", "esc shift-tab", "f1", "esc"] {
            desk.press(keys);
            check(&desk);
        }
        for (seq, message) in (20..).zip(evil_messages()) {
            played.receive(MessageView { seq: Some(seq), conv_id: id('b'), ..message });
        }
        for event in [
            Event::Note { text: EVIL.into() },
            Event::Invited { conv_id: id('g'), by: user(BOB) },
            Event::File { conv_id: id('o'), name: EVIL.into(), done: 1, total: 2 },
        ] {
            played.tell(event);
            desk.catch_up();
            check(&desk);
        }
        for state in [
            ConversationState::Invited { by: user(BOB) },
            ConversationState::Stuck { seq: 1, why: EVIL.into(), help: EVIL.into() },
        ] {
            played.change('o', |chat| chat.state = state);
            desk.input(Input::Missed);
            check(&desk);
        }
        played.world().refuse = Some(EVIL.into());
        desk.write("x").press("enter");
        check(&desk);
        desk.press("ctrl-f").write("evil").press("enter");
        check(&desk);
        played.world().refuse = None;
    }
}

#[test]
fn what_is_pasted_is_sent_without_its_controls() {
    let mut desk = Desk::usual();
    desk.input(Input::Paste(format!("a{EVIL}b")));
    desk.press("enter");
    let clean = |text: &str| text.chars().all(|c| c == '\n' || !c.is_control());
    assert!(desk.played.did(|act| matches!(act, relay_tui::Act::Send { text, .. } if clean(text))));
    check(&desk);
}

#[test]
fn a_message_of_a_million_lines_is_cut() {
    let mut desk = Desk::usual();
    desk.played.receive(text('o', 5, BOB, 41, &"\n".repeat(30_000)));
    desk.catch_up();
    desk.expect("more lines (c copies all)");
    desk.press("pgup pgup up");
    desk.screen();
}
