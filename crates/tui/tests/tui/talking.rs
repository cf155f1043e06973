//! Writing, sending, commands.

use relay_chat::{
    Asking,
    views::{Connection, ConversationState, Delivery},
};
use relay_proto::conv::ConvKind;
use relay_tui::{Act, Effect, Input, app::Overlay, backend::Presence};

use super::{
    desk::Desk,
    played::{BOB, NOW, Played, chat, id, text, user},
};

fn sent(desk: &Desk) -> Vec<String> {
    let world = desk.played.world();
    let texts = world.acts.iter().filter_map(|act| match act {
        Act::Send { text, .. } => Some(text.clone()),
        _ => None,
    });
    texts.collect()
}

#[test]
fn an_own_message_is_there_at_once_and_in_place_when_it_is_stored() {
    let mut desk = Desk::usual();
    desk.write("one").press("enter").write("two").press("enter");
    desk.expect("○ sending");
    assert_eq!(desk.draft(), "");
    // Somebody was quicker; the log's order counts.
    desk.played.receive(text('o', 5, BOB, 41, "in between"));
    desk.played.store('o');
    desk.catch_up();
    let screen = desk.screen();
    let at = |words: &str| screen.find(words).unwrap_or_else(|| panic!("no {words} in\n{screen}"));
    assert!(at("in between") < at("one") && at("one") < at("two"), "{screen}");
    assert_eq!(screen.matches("○ sending").count(), 1, "{screen}");
    assert_eq!(screen.matches(" one ").count(), 1, "{screen}");
    desk.played.store('o');
    desk.catch_up();
    desk.expect("✓ stored");
    assert!(!desk.sees("○ sending"));
}

#[test]
fn what_failed_says_why_and_enter_tries_again() {
    let mut desk = Desk::usual();
    desk.write("hello").press("enter");
    desk.played.deliver('o', Delivery::Failed { why: "muted until noon".into() });
    desk.catch_up();
    // In a narrow chat the words go on in the next line.
    desk.expect("! failed (muted until noon) - Enter").expect("retries");
    desk.press("enter");
    assert!(desk.played.did(|act| matches!(act, Act::Retry { local: 1 })));
}

#[test]
fn a_refused_message_comes_back_into_the_draft() {
    let mut desk = Desk::usual();
    desk.played.world().refuse = Some("no space is left on the disk".into());
    desk.write("precious").press("enter");
    desk.expect("no space is left on the disk");
    assert_eq!(desk.draft(), "precious");
    desk.press("ctrl-u").write("//slash").press("enter");
    assert_eq!(desk.draft(), "//slash");
}

#[test]
fn an_unknown_command_is_an_error_and_never_a_message() {
    let mut desk = Desk::usual();
    desk.write("/laeve now").press("enter");
    desk.expect("did you mean /leave?");
    assert_eq!(desk.draft(), "/laeve now");
    assert_eq!(sent(&desk), Vec::<String>::new());
    desk.press("ctrl-u").write("//laeve").press("enter");
    assert_eq!(sent(&desk), ["/laeve"]);
}

#[test]
fn drafts_belong_to_their_chats() {
    let mut desk = Desk::usual();
    desk.write("for ops").press("alt-2");
    assert_eq!(desk.draft(), "");
    desk.write("for all").press("alt-1");
    assert_eq!(desk.draft(), "for ops");
    desk.press("esc esc ctrl-n");
    assert_eq!(desk.draft(), "for all");
}

#[test]
fn changing_a_message_leaves_the_draft_alone() {
    let mut desk = Desk::usual();
    desk.write("later");
    // The input is not empty, so that Up stays in it; the timeline is a pane away.
    desk.press("shift-tab shift-tab shift-tab up e");
    assert_eq!(desk.draft(), "thanks");
    desk.write("!");
    desk.press("esc");
    assert_eq!(desk.draft(), "later");
    desk.press("shift-tab shift-tab shift-tab up e");
    assert_eq!(desk.draft(), "thanks!", "what was begun is still there");
    desk.press("enter");
    assert_eq!(desk.draft(), "later");
    assert!(desk.played.did(|act| matches!(act, Act::Edit { text, .. } if text == "thanks!")));
}

#[test]
fn many_lines_are_asked_about_before_they_are_pasted() {
    let mut desk = Desk::usual();
    desk.input(Input::Paste("a\nb\nc".into()));
    assert_eq!(desk.draft(), "a\nb\nc");
    assert_eq!(sent(&desk), Vec::<String>::new(), "a pasted line end does not send");
    desk.press("enter");
    assert_eq!(sent(&desk), ["a\nb\nc"]);
    for (key, left) in [("n", ""), ("y", "1\n2\n3\n4"), ("j", "1 2 3 4")] {
        desk.input(Input::Paste("1\n2\n3\n4".into()));
        assert_eq!(desk.draft(), "");
        desk.expect("Paste 4 lines");
        desk.press(key);
        assert_eq!(desk.draft(), left);
        desk.press("ctrl-u backspace ctrl-u backspace ctrl-u backspace ctrl-u");
    }
}

#[test]
fn a_join_code_is_not_sent_by_mistake() {
    let mut desk = Desk::usual();
    desk.write("use relay-join-v1.abc").press("enter");
    assert!(matches!(desk.app.overlay, Some(Overlay::Ask(_))));
    desk.press("n");
    assert_eq!(sent(&desk), Vec::<String>::new());
    assert_eq!(desk.draft(), "use relay-join-v1.abc");
    desk.press("enter y");
    assert_eq!(sent(&desk).len(), 1);
}

#[test]
fn an_invitation_is_accepted_with_enter_or_declined() {
    let played = Played::usual();
    played.change('o', |chat| chat.state = ConversationState::Invited { by: user(BOB) });
    let mut desk = Desk::at(&played, 100, 24);
    desk.expect("bob invites you to this room");
    desk.write("hello").press("enter");
    assert_eq!(desk.draft(), "hello", "nothing is sent before it is accepted");
    desk.press("ctrl-u enter");
    assert!(played.did(|act| matches!(act, Act::Accept { .. })));
    assert!(!desk.sees("invites you"));
    played.change('o', |chat| chat.state = ConversationState::Invited { by: user(BOB) });
    desk.write("/leave").press("enter");
    assert!(!played.did(|act| matches!(act, Act::Leave { .. })), "asked first");
    desk.press("y");
    assert!(played.did(|act| matches!(act, Act::Leave { .. })));
}

#[test]
fn names_and_commands_are_completed() {
    let mut desk = Desk::usual();
    desk.write("@ca").press("tab");
    assert_eq!(desk.draft(), "@carol: ");
    desk.press("ctrl-u").write("ask bo").press("tab");
    assert_eq!(desk.draft(), "ask bob ");
    desk.press("ctrl-u").write("/arc").press("tab");
    assert_eq!(desk.draft(), "/archive ");
    desk.press("ctrl-u tab");
    assert!(desk.app.is_reading(), "with nothing to complete it is the next pane");
}

#[test]
fn commands_do_what_they_say() {
    let mut desk = Desk::usual();
    desk.write("/mute").press("enter");
    assert!(desk.app.chat().unwrap().muted);
    desk.write("/invisible").press("enter");
    desk.expect("◌ invisible");
    assert!(desk.played.did(|act| matches!(act, Act::Appear(Presence::Invisible))));
    desk.write("/invite dave").press("enter");
    assert!(
        desk.played.did(|act| matches!(act, Act::Invite { people, .. } if people[..] == ["dave"]))
    );
    desk.write("/new lab bob").press("enter");
    assert!(desk.played.did(|act| matches!(act, Act::NewRoom { name, .. } if name == "lab")));
    desk.write("/export x.jsonl").press("enter y");
    assert!(desk.played.did(|act| matches!(act, Act::Export { path, .. } if path == "x.jsonl")));
    desk.write("/device link cgvhvbmu").press("enter");
    desk.expect("device cgvhvbmu is taken into your conversations");
    desk.press("alt-3").write("/invite dave").press("enter");
    desk.expect("a direct message has two people");
}

#[test]
fn somebody_is_kept_out_after_a_question_and_let_in_again() {
    let mut desk = Desk::usual();
    desk.write("/ban").press("enter").expect("nobody is kept out of this room");
    desk.write("/ban bob").press("enter").expect("Take bob out of #ops and keep them out?");
    assert!(!desk.played.did(|act| matches!(act, Act::Ban { .. })), "not before the answer");
    desk.press("n").write("/ban bob").press("enter y");
    let banned = |act: &Act| matches!(act, Act::Ban { conv_id, person } if *conv_id == id('o') && person == "bob");
    assert!(desk.played.did(banned));
    desk.played.world().banned = vec!["bob".into()];
    desk.write("/ban").press("enter").expect("Kept out").expect("/unban NAME");
    desk.press("esc").write("/unban bob").press("enter");
    assert!(desk.played.did(|act| matches!(act, Act::Unban { person, .. } if person == "bob")));
    // A direct message keeps nobody out.
    desk.press("alt-3").write("/ban bob").press("enter").expect("a direct message has two people");
}

#[test]
fn a_device_without_its_state_is_let_in_after_a_warning() {
    let mut desk = Desk::usual();
    desk.write("/readmit").press("enter").expect("nobody asks to be let in again");
    desk.played.world().asking = vec![Asking {
        user_id: user(BOB),
        name: "bob".into(),
        device_id: "cGhvbmUgcGhvbmUgNA".into(),
        at_ms: NOW,
    }];
    desk.write("/readmit").press("enter").expect("bob  device cghvbmug").expect("Call them first");
    desk.press("esc").write("/readmit bob").press("enter").expect("other way than this chat");
    assert!(!desk.played.did(|act| matches!(act, Act::Readmit { .. })), "not before the answer");
    desk.press("y");
    assert!(desk.played.did(|act| matches!(act, Act::Readmit { person, .. } if person == "bob")));
}

#[test]
fn a_stuck_chat_is_begun_anew_and_the_new_one_is_shown() {
    let mut desk = Desk::usual();
    desk.write("/restart").press("enter").expect("Begin a new chat");
    desk.press("n");
    assert!(!desk.played.did(|act| matches!(act, Act::Restart { .. })));
    desk.write("/restart").press("enter y");
    assert!(desk.played.did(|act| matches!(act, Act::Restart { conv_id } if *conv_id == id('o'))));
    desk.expect("#general · 3 members");
    let mut refused = Desk::usual();
    refused.played.world().refuse = Some("this conversation works; leave it".into());
    refused.write("/restart").press("enter y").expect("this conversation works");
}

#[test]
fn a_safety_number_is_compared_and_noted() {
    let mut desk = Desk::usual();
    desk.write("/verify bob").press("enter");
    desk.expect("12345   67890   11121   31415").expect("they are equal");
    desk.press("x");
    desk.expect("they are equal");
    desk.press("y");
    assert!(desk.played.did(|act| matches!(act, Act::Verified { verified: true, .. })));
}

#[test]
fn a_key_alone_begins_a_talk() {
    let mut desk = Desk::at(&Played::empty(), 100, 24);
    desk.write("hello").press("enter");
    desk.expect("no chat is open");
    assert_eq!(desk.draft(), "hello");
    desk.press("ctrl-u");
    desk.input(Input::Paste(format!("{}\n", user(BOB))));
    desk.press("enter");
    assert!(desk.played.did(|act| matches!(act, Act::Direct { .. })));
}

#[test]
fn an_invitation_that_travelled_outside_begins_a_talk_and_one_to_a_relay_does_not() {
    let link = relay_chat::ChatLink::new("https://relay.example.com".into(), user(BOB), None);
    let link = link.line().unwrap();
    let mut desk = Desk::at(&Played::empty(), 100, 24);
    desk.input(Input::Paste("relay-join-v1.eyJ9".into()));
    desk.press("enter").expect("relay login --invite-file -");
    assert!(!desk.played.did(|act| matches!(act, Act::Direct { .. })));
    desk.press("ctrl-u");
    desk.input(Input::Paste(format!("{link}\n")));
    desk.press("enter");
    assert!(desk.played.did(|act| matches!(act, Act::Direct { person, .. } if *person == link)));
}

#[test]
fn signing_in_again_is_one_key() {
    let played = Played::usual();
    played.world().connection = Connection::Refused { why: "ended elsewhere".into() };
    let mut desk = Desk::at(&played, 100, 24);
    desk.expect("signed out (ended elsewhere) - Enter signs in");
    desk.press("enter");
    assert!(played.did(|act| matches!(act, Act::Connect)));
}

#[test]
fn quitting_with_a_draft_is_asked_once() {
    let mut desk = Desk::usual();
    let quit = |desk: &Desk| desk.effects.iter().any(|effect| matches!(effect, Effect::Quit));
    desk.write("not sent").press("ctrl-q");
    assert!(!quit(&desk));
    desk.expect("once more to quit");
    desk.press("left ctrl-q");
    assert!(!quit(&desk), "another key in between begins anew");
    desk.press("ctrl-q");
    assert!(quit(&desk));
}

#[test]
fn the_list_keeps_its_order_while_the_program_runs() {
    let mut desk = Desk::usual();
    desk.played.world().chats.reverse();
    desk.played.world().chats.insert(0, chat('n', ConvKind::Room, "#fresh"));
    desk.input(Input::Missed);
    let order: Vec<_> = desk.app.listed().iter().map(|chat| chat.name.clone()).collect();
    assert_eq!(order, ["#fresh", "#ops", "#general", "bob"]);
    assert_eq!(desk.app.open.as_ref().unwrap().conv_id, id('o'));
}
