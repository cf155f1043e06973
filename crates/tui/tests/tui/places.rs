//! Feed and Services: in the list after the chats, read through the relay, never unread, never written in.

use relay_chat::views::{Connection, Event, PostView, ServiceView};
use relay_tui::{Act, Effect, Input, Place};

use super::{
    desk::Desk,
    played::{BOB, CAROL, ME, NOW, Played, name, text, user},
};

const SIZES: [(u16, u16); 2] = [(100, 20), (60, 16)];

fn on_both_sizes(name: &str, play: impl Fn() -> Played, press: impl Fn(&mut Desk)) {
    let mut all = String::new();
    for (width, height) in SIZES {
        let mut desk = Desk::at(&play(), width, height);
        press(&mut desk);
        all.push_str(&format!("== {width}x{height}\n{}\n", desk.screen()));
    }
    insta::assert_snapshot!(name, all);
}

fn post(from: u8, minutes_ago: u64, words: &str) -> PostView {
    PostView {
        id: format!("{}/00112233445566778899aabbccddeeff/1", user(from)),
        from: Some(user(from)),
        from_name: name(from).into(),
        own: from == ME,
        at_ms: Some(NOW - minutes_ago * 60_000),
        text: words.into(),
    }
}

fn service(name: &str, is_healthy: bool, methods: &[&str]) -> ServiceView {
    ServiceView {
        name: name.into(),
        version: "1.2.0".into(),
        is_healthy,
        methods: methods.iter().map(|it| (*it).to_owned()).collect(),
    }
}

/// The usual chats, with posts and services beside them.
fn lively() -> Played {
    let played = Played::usual();
    {
        let mut world = played.world();
        world.feed = vec![
            post(BOB, 3, "the grey heron is back at the pond\nseen from the bridge"),
            post(ME, 60, "hello"),
            post(
                CAROL,
                2_000,
                "a post that is long enough to be broken into several lines on a terminal that has one pane and sixty columns",
            ),
        ];
        world.services =
            vec![service("blog", true, &["list", "show", "publish"]), service("greet", false, &[])];
    }
    played
}

fn looks(desk: &Desk, place: Place) -> usize {
    let world = desk.played.world();
    world.acts.iter().filter(|act| matches!(act, Act::Look(other) if *other == place)).count()
}

#[test]
fn the_feed() {
    // Three chats, then Feed and Services.
    on_both_sizes("feed", lively, |desk| {
        desk.press("alt-4");
    });
}

#[test]
fn the_services() {
    on_both_sizes("services", lively, |desk| {
        desk.press("alt-5");
    });
}

#[test]
fn nothing_there() {
    on_both_sizes("feed_empty", Played::usual, |desk| {
        desk.press("alt-4");
    });
    on_both_sizes("services_empty", Played::usual, |desk| {
        desk.press("alt-5");
    });
}

#[test]
fn no_network() {
    let play = || {
        let played = lively();
        played.world().refuse = Some("this needs a connection to the relay".into());
        played
    };
    on_both_sizes("feed_offline", play, |desk| {
        desk.press("alt-4");
    });
}

#[test]
fn every_way_through_the_list_reaches_them() {
    let mut desk = Desk::at(&lively(), 100, 20);
    desk.press("ctrl-p").expect("blog 1.2.0");
    desk.press("ctrl-p").expect("grey heron");
    desk.press("ctrl-n ctrl-n").expect("#ops · 4 members");
    desk.press("ctrl-k").write("serv").press("enter").expect("blog 1.2.0");
    desk.press("shift-tab").press("up enter").expect("grey heron");
    desk.press("alt-1").expect("deploy is held");
    desk.press("alt-4").expect("grey heron");
    desk.press("alt-9").expect("there is no chat 9").expect("grey heron");
}

#[test]
fn the_places_stay_in_sight_below_many_chats() {
    let played = lively();
    for n in 0..40 {
        let mut chat =
            super::played::chat('z', relay_proto::conv::ConvKind::Room, &format!("#room-{n}"));
        chat.conv_id = format!("{n:043}");
        played.world().chats.push(chat);
    }
    let mut desk = Desk::at(&played, 100, 20);
    desk.expect("#ops").expect("Feed").expect("Services");
    desk.press("ctrl-p ctrl-p ctrl-p").expect("#room-39").expect("Feed").expect("Services");
}

#[test]
fn they_are_read_anew_when_opened_and_on_ctrl_l() {
    let mut desk = Desk::at(&lively(), 100, 20);
    assert_eq!(looks(&desk, Place::Feed), 0, "nobody has asked for it yet");
    desk.press("alt-4 alt-1 alt-4");
    assert_eq!(looks(&desk, Place::Feed), 2);
    desk.played.world().feed.insert(0, post(CAROL, 0, "just now"));
    assert!(!desk.sees("just now"));
    desk.press("ctrl-l").expect("just now").expect("4 posts");
    assert!(desk.effects.iter().any(|effect| matches!(effect, Effect::Redraw)));
    // In a chat it only draws.
    desk.press("alt-1 ctrl-l");
    assert_eq!(looks(&desk, Place::Feed), 3);
}

#[test]
fn what_was_read_stays_when_the_network_goes_and_comes_anew_with_it() {
    let mut desk = Desk::at(&lively(), 100, 20);
    desk.press("alt-4").expect("grey heron");
    desk.played.world().refuse = Some("this needs a connection to the relay".into());
    let offline =
        Connection::Offline { since_ms: NOW, retry_at_ms: NOW + 9_000, why: String::new() };
    desk.played.tell(Event::Connection { connection: offline });
    desk.press("ctrl-l").expect("this needs a connection to the relay").expect("grey heron");
    desk.played.world().refuse = None;
    desk.played.world().feed.clear();
    desk.played.tell(Event::Connection { connection: Connection::Online { rtt_ms: 2 } });
    desk.catch_up();
    desk.expect("No posts yet");
    assert!(!desk.sees("this needs a connection"));
    // Being online is no news any more.
    let before = looks(&desk, Place::Feed);
    desk.played.tell(Event::Connection { connection: Connection::Online { rtt_ms: 3 } });
    desk.catch_up();
    assert_eq!(looks(&desk, Place::Feed), before);
}

#[test]
fn they_are_never_unread_and_hide_no_mention() {
    let played = lively();
    played.world().feed.push(post(BOB, 0, "@alice look"));
    let mut desk = Desk::at(&played, 100, 20);
    desk.press("alt-4").expect("@alice look");
    assert!(!desk.effects.iter().any(|it| matches!(it, Effect::Bell | Effect::Notify(_))));
    for line in desk.screen().lines().filter(|line| line.starts_with("│   Feed")) {
        assert_eq!(line.chars().skip(1).take(19).collect::<String>().trim(), "Feed", "{line}");
    }
    // A chat that is not shown rings as ever, and Alt-A goes to it, not here.
    let mut mention = text('g', 1, CAROL, 41, "@alice over here");
    mention.mention = true;
    played.receive(mention);
    played.change('g', |chat| chat.mentions = 1);
    desk.catch_up();
    assert!(desk.effects.iter().any(|effect| matches!(effect, Effect::Bell)));
    desk.input(Input::Missed);
    desk.press("alt-a").expect("over here");
}

#[test]
fn nothing_is_written_there_but_commands() {
    let mut desk = Desk::at(&lively(), 100, 20);
    desk.press("alt-4").write("h").expect("relay social post");
    assert_eq!(desk.draft(), "");
    desk.write("//h").press("enter").expect("nothing was sent");
    desk.press("ctrl-u");
    desk.input(Input::Paste("pasted".into()));
    desk.expect("relay social post");
    assert_eq!(desk.draft(), "");
    desk.press("alt-5").write("x").expect("relay call");
    desk.write("/leave").press("enter").expect("no chat is open");
    assert!(!desk.played.did(|act| matches!(act, Act::Send { .. } | Act::Leave { .. })));
    desk.press("ctrl-u").write("/msg bob hi").press("enter");
    assert!(desk.played.did(|act| matches!(act, Act::Direct { .. })));
}

#[test]
fn long_ones_scroll_within_what_there_is() {
    let played = lively();
    played.world().feed = (0..40).map(|n| post(BOB, n, &format!("post number {n}."))).collect();
    let mut desk = Desk::at(&played, 60, 16);
    desk.press("alt-4").expect("number 0.");
    desk.press("pgdn");
    assert!(!desk.sees("number 0."));
    desk.press("end").expect("number 39.");
    desk.press("pgdn").expect("number 39.");
    desk.press("up up up up up pgup pgup pgup pgup pgup pgup pgup pgup pgup pgup pgup pgup");
    desk.expect("number 0.");
    // What is read anew may be less.
    desk.press("end");
    played.world().feed.truncate(1);
    desk.press("ctrl-l").expect("number 0.");
}
