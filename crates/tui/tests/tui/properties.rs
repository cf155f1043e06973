//! Whatever is pressed, pasted and told: nothing panics, everything can be drawn, and no draft is lost.

use crossterm::event::{KeyCode, KeyModifiers};
use proptest::prelude::*;
use relay_chat::views::{Connection, Delivery, Event, MessageView};
use relay_tui::{
    Act, Input, Settings,
    keys::{Key, KeyMap, Preset},
};

use super::{
    desk::Desk,
    played::{BOB, NOW, Played, id, text},
};

/// Something that happens.
#[derive(Debug, Clone)]
enum Step {
    Key(Key),
    Letter(char),
    Paste(String),
    Resize(u16, u16),
    Focus(bool),
    Receive(char, String, bool),
    Store,
    Fail(String),
    Offline(bool),
    Missed,
    Refuse(bool),
    Note(String),
}

fn moving() -> impl Strategy<Value = Key> {
    let alone = [
        KeyCode::Esc,
        KeyCode::Enter,
        KeyCode::Up,
        KeyCode::Down,
        KeyCode::PageUp,
        KeyCode::PageDown,
        KeyCode::End,
        KeyCode::BackTab,
        KeyCode::F(1),
        KeyCode::Left,
        KeyCode::Right,
    ];
    let ctrl = ['n', 'p', 'k', 'f', 'l', 'q'];
    let alt = ['1', '2', '3', '9', 'a'];
    let mut keys: Vec<_> = alone.map(Key::plain).into();
    keys.extend(ctrl.map(Key::ctrl));
    keys.extend(alt.map(Key::alt));
    prop::sample::select(keys)
}

fn any_key() -> impl Strategy<Value = Key> {
    let codes = [
        KeyCode::Tab,
        KeyCode::Home,
        KeyCode::Backspace,
        KeyCode::Delete,
        KeyCode::Insert,
        KeyCode::F(5),
    ];
    let held = [KeyModifiers::NONE, KeyModifiers::CONTROL, KeyModifiers::ALT, KeyModifiers::SHIFT];
    prop_oneof![
        moving(),
        (prop::sample::select(codes.to_vec()), prop::sample::select(held.to_vec()))
            .prop_map(|(code, with)| Key { code, with }),
        (any::<char>(), prop::sample::select(held.to_vec()))
            .prop_map(|(c, with)| Key { code: KeyCode::Char(c), with }),
    ]
}

fn outside() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u16..150, 0u16..50).prop_map(|(width, height)| Step::Resize(width, height)),
        any::<bool>().prop_map(Step::Focus),
        (prop::sample::select(vec!['o', 'g', 'b', '?']), any::<String>(), any::<bool>())
            .prop_map(|(letter, words, mention)| Step::Receive(letter, words, mention)),
        Just(Step::Store),
        any::<String>().prop_map(Step::Fail),
        any::<bool>().prop_map(Step::Offline),
        Just(Step::Missed),
        any::<bool>().prop_map(Step::Refuse),
        any::<String>().prop_map(Step::Note),
    ]
}

fn anything() -> impl Strategy<Value = Step> {
    let letters = "rcioed+?/jkgGhy n:";
    prop_oneof![
        4 => any_key().prop_map(Step::Key),
        2 => prop::sample::select(letters.chars().collect::<Vec<_>>()).prop_map(Step::Letter),
        1 => any::<String>().prop_map(Step::Paste),
        1 => prop::collection::vec("[a-z/]{0,8}", 0..8).prop_map(|lines| Step::Paste(lines.join("\n"))),
        2 => outside(),
    ]
}

fn not_editing() -> impl Strategy<Value = Step> {
    let letters = "rcioed+?jkgGhy n";
    prop_oneof![
        4 => moving().prop_map(Step::Key),
        2 => prop::sample::select(letters.chars().collect::<Vec<_>>()).prop_map(Step::Letter),
        2 => outside(),
    ]
}

fn happen(desk: &mut Desk, step: Step, at: usize) {
    let has_outbox = |desk: &Desk| {
        let world = desk.played.world();
        world.messages[&id('o')].iter().any(|message| message.seq.is_none())
    };
    match step {
        Step::Key(key) => desk.input(Input::Key(key)),
        Step::Letter(c) => desk.input(Input::Key(Key::char(c))),
        Step::Paste(text) => desk.input(Input::Paste(text)),
        Step::Resize(width, height) => desk.resize(width, height),
        Step::Focus(looked_at) => desk.input(Input::Focus(looked_at)),
        Step::Receive(letter, words, mention) => {
            let seq = 100 + at as u64;
            desk.played.receive(MessageView { mention, ..text(letter, seq, BOB, 41, &words) });
        }
        Step::Store if has_outbox(desk) => desk.played.store('o'),
        Step::Fail(why) if has_outbox(desk) => desk.played.deliver('o', Delivery::Failed { why }),
        Step::Store | Step::Fail(_) => {}
        Step::Offline(offline) => {
            let connection = if offline {
                Connection::Offline { since_ms: NOW, retry_at_ms: 0, why: String::new() }
            } else {
                Connection::Online { rtt_ms: 1 }
            };
            desk.played.tell(Event::Connection { connection });
        }
        Step::Missed => desk.input(Input::Missed),
        Step::Refuse(refuse) => desk.played.world().refuse = refuse.then(|| "no".into()),
        Step::Note(text) => desk.played.tell(Event::Note { text }),
    }
    desk.now_ms += 1_000;
    desk.catch_up();
}

fn desk(vim: bool) -> Desk {
    let preset = if vim { Preset::Vim } else { Preset::Default };
    let settings = Settings { keys: KeyMap::new(preset), ..Settings::default() };
    Desk::with(&Played::usual(), settings, 80, 24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics(vim in any::<bool>(), steps in prop::collection::vec(anything(), 1..60)) {
        let mut desk = desk(vim);
        for (at, step) in steps.into_iter().enumerate() {
            happen(&mut desk, step, at);
            desk.screen();
        }
    }

    #[test]
    fn no_draft_is_lost(steps in prop::collection::vec(not_editing(), 1..60)) {
        let mut desk = desk(false);
        let drafts = [('o', "first words "), ('g', "second words "), ('b', "third words ")];
        for ((_, words), chat) in drafts.iter().zip(["alt-1", "alt-2", "alt-3"]) {
            desk.press(chat).write(words);
        }
        for (at, step) in steps.into_iter().enumerate() {
            // A letter in the input would be an edit.
            if matches!(step, Step::Letter(_)) && !desk.app.is_reading() && desk.app.overlay.is_none() {
                continue;
            }
            happen(&mut desk, step, at);
            for (letter, words) in drafts {
                let conv_id = id(letter);
                let kept = desk.app.draft_of(&conv_id).is_some_and(|draft| draft.editor.text().contains(words.trim_end()));
                let sent = desk.played.did(|act| {
                    matches!(act, Act::Send { conv_id: of, text, .. } if *of == conv_id && text.contains(words.trim_end()))
                });
                prop_assert!(kept || sent, "'{words}' is gone");
            }
        }
    }
}
