//! Every state, as it is seen, on a usual, a wide and a narrow terminal.

use relay_chat::{
    content::FileBody,
    views::{
        Connection, ConversationState, Delivery, Event, MessageBody, MessageView, Notice,
        ReactionView, ReplyView, Unreadable,
    },
};
use relay_proto::conv::ConvKind;
use relay_tui::Input;

use super::{
    desk::Desk,
    played::{BOB, CAROL, DAVE, ME, NOW, Played, chat, id, text, user},
};

const SIZES: [(u16, u16); 3] = [(80, 24), (120, 30), (60, 20)];

/// The same on each size.
fn on_all_sizes(name: &str, play: impl Fn() -> Played, press: impl Fn(&mut Desk)) {
    let mut all = String::new();
    for (width, height) in SIZES {
        let mut desk = Desk::at(&play(), width, height);
        press(&mut desk);
        all.push_str(&format!("== {width}x{height}\n{}\n", desk.screen()));
    }
    insta::assert_snapshot!(name, all);
}

fn still(_: &mut Desk) {}

fn notice(seq: u64, minute: u64, notice: Notice) -> MessageView {
    MessageView { body: MessageBody::Notice { notice }, ..text('o', seq, BOB, minute, "") }
}

fn unreadable(seq: u64, why: Unreadable) -> MessageView {
    MessageView {
        from: None,
        from_name: String::new(),
        body: MessageBody::Unreadable { why },
        ..text('o', seq, BOB, 20, "")
    }
}

#[test]
fn usual() {
    on_all_sizes("usual", Played::usual, still);
}

#[test]
fn nobody_yet() {
    on_all_sizes("nobody_yet", Played::empty, still);
}

#[test]
fn offline() {
    let play = || {
        let played = Played::usual();
        played.world().connection = Connection::Offline {
            since_ms: NOW - 21 * 60_000,
            retry_at_ms: NOW + 8_000,
            why: "connection refused".into(),
        };
        played
    };
    on_all_sizes("offline", play, |desk| {
        desk.write("one").press("enter").write("two").press("enter");
        desk.played.deliver('o', Delivery::Waiting { why: None });
        desk.played.change('o', |chat| chat.waiting = 2);
        desk.catch_up();
    });
}

#[test]
fn signed_out() {
    let play = || {
        let played = Played::usual();
        played.world().connection =
            Connection::Refused { why: "another device ended this session".into() };
        played
    };
    on_all_sizes("signed_out", play, still);
}

#[test]
fn states_of_messages() {
    on_all_sizes("states_of_messages", Played::usual, |desk| {
        {
            let mut world = desk.played.world();
            let talk = world.messages.get_mut(&id('o')).unwrap();
            talk.clear();
            let out = |local: i64, words: &str, delivery: Delivery| MessageView {
                seq: None,
                local: Some(local),
                delivery,
                ..text('o', 0, ME, 41, words)
            };
            talk.push(MessageView {
                read_by: vec!["bob".into(), "carol".into()],
                ..text('o', 1, ME, 30, "read by two")
            });
            talk.push(text('o', 2, ME, 35, "stored"));
            talk.push(out(1, "on its way", Delivery::Sending));
            talk.push(out(2, "waits", Delivery::Waiting { why: None }));
            let why = Some("home alice.home is not reached".into());
            talk.push(out(3, "waits for its home", Delivery::Waiting { why }));
            let why = "too large, this relay takes 64 KB".into();
            talk.push(out(4, "failed", Delivery::Failed { why }));
        }
        desk.input(Input::Missed);
    });
}

#[test]
fn kinds_of_messages() {
    on_all_sizes("kinds_of_messages", Played::usual, |desk| {
        {
            let mut world = desk.played.world();
            let talk = world.messages.get_mut(&id('o')).unwrap();
            *talk = vec![
                unreadable(1, Unreadable::Pruned { earliest_seq: 2 }),
                notice(2, 20, Notice::Created),
                notice(3, 21, Notice::Joined { users: vec![user(CAROL), user(DAVE)] }),
                notice(4, 22, Notice::Renamed { name: Some("ops".into()), topic: None }),
                text('o', 5, BOB, 23, "see https://example.com/a"),
                MessageView {
                    reply_to: Some(ReplyView {
                        id: "x".into(),
                        seq: Some(5),
                        from_name: "bob".into(),
                        excerpt: "see https://example.com/a".into(),
                    }),
                    edited: true,
                    reactions: vec![ReactionView {
                        emoji: "+1".into(),
                        by: vec!["bob".into()],
                        own: false,
                    }],
                    ..text('o', 6, CAROL, 24, "seen, and it is good")
                },
                MessageView { body: MessageBody::Deleted, ..text('o', 7, BOB, 25, "") },
                MessageView {
                    body: MessageBody::File {
                        file: FileBody {
                            name: "plan.pdf".into(),
                            mime: "application/pdf".into(),
                            size: 1_234_567,
                            url: String::new(),
                            key: String::new(),
                            digest: String::new(),
                        },
                    },
                    ..text('o', 8, CAROL, 26, "")
                },
                MessageView {
                    body: MessageBody::Unsupported { kind: "poll".into() },
                    ..text('o', 9, BOB, 27, "")
                },
                notice(10, 28, Notice::DeviceAdded { user: user(BOB) }),
            ];
        }
        desk.press("ctrl-n ctrl-p");
    });
}

#[test]
fn reasons_why_something_cannot_be_read() {
    on_all_sizes("unreadable", Played::usual, |desk| {
        {
            let mut world = desk.played.world();
            *world.messages.get_mut(&id('o')).unwrap() = vec![
                unreadable(1, Unreadable::BeforeJoin),
                unreadable(2, Unreadable::WhileAway { from_seq: 2, to_seq: 9 }),
                unreadable(10, Unreadable::OwnBeforeRestore),
                unreadable(11, Unreadable::Invalid { detail: "the signature is wrong".into() }),
                unreadable(12, Unreadable::Pruned { earliest_seq: 12 }),
            ];
        }
        desk.press("ctrl-n ctrl-p");
    });
}

#[test]
fn states_of_chats() {
    let states = [
        ("creating", ConversationState::Creating),
        ("invited", ConversationState::Invited { by: user(BOB) }),
        ("removed", ConversationState::Removed),
        ("rejoining", ConversationState::Rejoining),
        (
            "stuck",
            ConversationState::Stuck {
                seq: 7,
                why: "a commit does not verify".into(),
                help: "looking whether others went on".into(),
            },
        ),
    ];
    for (name, state) in states {
        let play = || {
            let played = Played::usual();
            played.change('o', |chat| {
                (chat.state, chat.unread, chat.mentions) = (state.clone(), 0, 0)
            });
            played
        };
        on_all_sizes(&format!("chat_{name}"), play, still);
    }
}

#[test]
fn over_the_panes() {
    on_all_sizes("help", Played::usual, |desk| {
        desk.press("f1");
    });
    on_all_sizes("go_to", Played::usual, |desk| {
        desk.press("ctrl-k").write("b");
    });
    on_all_sizes("search", Played::usual, |desk| {
        desk.press("ctrl-f").write("lock").press("enter");
    });
    on_all_sizes("paste", Played::usual, |desk| {
        desk.input(Input::Paste("one\ntwo\nthree\nfour\n".into()));
    });
    on_all_sizes("verify", Played::usual, |desk| {
        desk.write("/verify bob").press("enter");
    });
    on_all_sizes("devices", Played::usual, |desk| {
        desk.write("/device").press("enter");
    });
    on_all_sizes("keys", Played::usual, |desk| {
        desk.write("/keys").press("enter");
    });
    on_all_sizes("leave", Played::usual, |desk| {
        desk.write("/leave").press("enter");
    });
}

#[test]
fn about_a_message() {
    on_all_sizes("selected", Played::usual, |desk| {
        desk.press("up up");
    });
    on_all_sizes("info", Played::usual, |desk| {
        desk.press("up up i");
    });
    on_all_sizes("answering", Played::usual, |desk| {
        desk.press("up up r").write("which one?");
    });
}

#[test]
fn other_panes() {
    on_all_sizes("list", Played::usual, |desk| {
        desk.press("shift-tab");
    });
    on_all_sizes("details", Played::usual, |desk| {
        desk.press("tab tab down");
    });
}

#[test]
fn marks_of_the_list() {
    let play = || {
        let played = Played::usual();
        let mut world = played.world();
        let states = [
            ("pinned", ConversationState::Active),
            ("muted", ConversationState::Active),
            ("invited", ConversationState::Invited { by: user(BOB) }),
            ("stuck", ConversationState::Stuck { seq: 1, why: String::new(), help: String::new() }),
            ("gone", ConversationState::Removed),
            ("left, so not here", ConversationState::Left),
        ];
        for (letter, (called, state)) in ('p'..).zip(states) {
            let mut line = chat(letter, ConvKind::Dm, called);
            (line.pinned, line.muted) = (called == "pinned", called == "muted");
            line.state = state;
            world.chats.push(line);
        }
        drop(world);
        played
    };
    on_all_sizes("marks", play, |desk| {
        desk.press("ctrl-n").write("a draft").press("ctrl-p shift-tab");
    });
}

#[test]
fn wide_and_combining_characters_line_up() {
    on_all_sizes("wide", Played::usual, |desk| {
        for (seq, words) in
            (5..).zip(["日本語のメッセージ", "e\u{301}te\u{301}", "👩‍👩‍👧 family 🇩🇪", "ﷺ"])
        {
            let mut message = text('o', seq, CAROL, 41, words);
            message.from_name = "ユーザー名前長い".into();
            desk.played.receive(message);
        }
        desk.catch_up();
        desk.write("入力中 e\u{301}");
    });
}

#[test]
fn new_ones_come_below_what_is_read() {
    on_all_sizes("new_below", Played::usual, |desk| {
        for seq in 5..60 {
            desk.played.receive(text('o', seq, CAROL, 41, &format!("line {seq}")));
        }
        desk.catch_up();
        desk.press("pgup");
        for seq in 60..63 {
            desk.played.receive(text('o', seq, BOB, 41, &format!("line {seq}")));
        }
        desk.catch_up();
    });
}

#[test]
fn a_file_on_its_way() {
    on_all_sizes("progress", Played::usual, |desk| {
        desk.played.tell(Event::File {
            conv_id: id('o'),
            name: "plan.pdf".into(),
            done: 620,
            total: 1_000,
        });
        desk.catch_up();
    });
}

#[test]
fn too_small_for_anything() {
    for (width, height) in [(0, 0), (1, 1), (19, 6), (20, 7)] {
        let mut desk = Desk::at(&Played::usual(), width, height);
        desk.press("f1 esc ctrl-k esc up");
        desk.screen();
    }
}
