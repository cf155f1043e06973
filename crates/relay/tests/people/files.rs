//! Files whose way was cut: they are encrypted once, go on where they were, and nothing is handed in twice.

use std::path::PathBuf;

use nix::sys::signal::Signal;
use relay_chat::{
    Chat, Error, MessageRange, SaveAs,
    views::{Delivery, Event, MessageBody, MessageView},
};

use super::{
    person::{FREE, Person},
    provider,
    support::Relay,
    wire::{Cut, Wire},
};

/// Longer than what is fetched at once, and not a whole number of pieces.
const SIZE: usize = (10 << 20) + 77;

/// Alice, whose line is watched, and Bob in a conversation; and a file of Alice's.
struct Scene {
    relay: Relay,
    wire: Wire,
    alice: Person,
    bob: Person,
    dm: String,
    file: PathBuf,
    content: Vec<u8>,
}

impl Scene {
    async fn set() -> Self {
        let relay = Relay::configured(FREE);
        provider();
        let wire = Wire::to(&relay.url).await;
        let alice = Person::open(&wire.url, 1, tempfile::tempdir().unwrap()).await;
        alice.online().await;
        let bob = Person::join(&relay, 2).await;
        let dm = alice.chat.direct(bob.id()).await.unwrap();
        bob.accept().await;
        alice.send(&dm, "a file comes").await;
        bob.reads(&dm, "a file comes").await;
        let file = alice.dir.path().join("plan.bin");
        let content: Vec<u8> = (0..SIZE).map(|n| (n * 31 + n / 251) as u8).collect();
        std::fs::write(&file, &content).unwrap();
        Self { relay, wire, alice, bob, dm, file, content }
    }

    /// What waits in Alice's profile to be handed in.
    fn outgoing(&self) -> Vec<String> {
        let folder = self.alice.dir.path().join("profile/outgoing");
        let Ok(files) = std::fs::read_dir(folder) else { return Vec::new() };
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// The relay ends without a word, as by a power cut.
    async fn crash(&mut self) {
        self.relay.signal(Signal::SIGKILL);
        self.relay.ended();
    }

    async fn comes_back(&mut self) {
        self.relay.start_again_there();
        for person in [&self.alice, &self.bob] {
            person.chat.connect().await;
        }
    }

    /// Bob saves it, and it is what Alice has sent.
    async fn is_whole(&self) {
        let seq = arrives(&self.bob, &self.dm).await.seq.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let into = SaveAs::Folder(folder.path().to_owned());
        let saved = self.bob.chat.save_file(&self.dm, seq, into).await.unwrap();
        assert!(std::fs::read(saved).unwrap() == self.content, "other bytes than were sent");
    }
}

/// Waits until somebody has word of the file.
async fn arrives(person: &Person, dm: &str) -> MessageView {
    let found = |chat: &Chat| {
        let page = chat.messages(dm, MessageRange::Newest, 50).unwrap();
        let mut sent = page.items.into_iter().filter(|line| line.seq.is_some());
        sent.find(|line| matches!(line.body, MessageBody::File { .. }))
    };
    person.until("a file", |chat| found(chat).is_some()).await;
    found(&person.chat).unwrap()
}

fn puts(asked: &[String]) -> usize {
    asked.iter().filter(|asked| asked.starts_with("PUT")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_the_relay_and_its_own_program() {
    let mut scene = Scene::set().await;
    scene.wire.cut(Cut::Sent(1 << 20));
    let mut events = scene.alice.chat.events();
    let n = scene.alice.chat.send_file(&scene.dm, &scene.file, None).await.unwrap();
    scene.wire.stopped().await;
    scene.crash().await;
    // It was told how far it was.
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Event::File { done, total, .. } = event {
            assert_eq!(total, SIZE as u64);
            told.push(done);
        }
    }
    assert!(told.iter().all(|done| *done <= SIZE as u64), "{told:?}");
    let sealed = scene.outgoing();
    assert_eq!(sealed.len(), 1, "kept until the relay has it");
    // The file itself is not needed any more, nor is the program that began.
    std::fs::remove_file(&scene.file).unwrap();
    let Scene { relay, wire, alice, bob, dm, file, content } = scene;
    let alice = alice.restart().await;
    let mut scene = Scene { relay, wire, alice, bob, dm, file, content };
    assert_eq!(scene.outgoing(), sealed, "encrypted once");
    // Words written after it do not wait for it.
    scene.alice.send(&scene.dm, "it is large").await;
    scene.wire.asked();
    scene.comes_back().await;
    scene.bob.reads(&scene.dm, "it is large").await;
    let line = arrives(&scene.bob, &scene.dm).await;
    let MessageBody::File { file } = &line.body else { unreachable!() };
    assert_eq!([file.digest.clone()][..], sealed[..], "the same bytes as at first");
    assert_eq!(puts(&scene.wire.asked()), 1);
    scene.alice.until("an empty outbox", |chat| chat.outbox().unwrap().is_empty()).await;
    assert_eq!(scene.outgoing(), [""; 0]);
    assert!(scene.alice.chat.outbox().unwrap().iter().all(|out| out.local != n));
    scene.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_relay_has_is_not_handed_in_again() {
    let mut scene = Scene::set().await;
    scene.wire.cut(Cut::Answer);
    scene.alice.chat.send_file(&scene.dm, &scene.file, None).await.unwrap();
    scene.wire.stopped().await;
    scene.crash().await;
    assert_eq!(puts(&scene.wire.asked()), 1);
    assert_eq!(scene.outgoing().len(), 1, "nobody has told that it arrived");
    scene.comes_back().await;
    scene.is_whole().await;
    let asked = scene.wire.asked();
    assert!(asked.contains(&"GET bytes=0-0".to_owned()) && puts(&asked) == 0, "{asked:?}");
    scene.alice.until("an empty outbox", |chat| chat.outbox().unwrap().is_empty()).await;
    assert_eq!(scene.outgoing(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_where_the_relay_died() {
    let mut scene = Scene::set().await;
    // This time Bob sends, for the line of whoever saves is the one that is cut.
    scene.bob.chat.send_file(&scene.dm, &scene.file, None).await.unwrap();
    let seq = arrives(&scene.alice, &scene.dm).await.seq.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let into = SaveAs::Folder(folder.path().to_owned());
    scene.wire.cut(Cut::Received(6 << 20));
    let chat = &scene.alice.chat;
    let crash = async {
        scene.wire.stopped().await;
        scene.relay.signal(Signal::SIGKILL);
    };
    let (saved, ()) = tokio::join!(chat.save_file(&scene.dm, seq, into.clone()), crash);
    assert!(matches!(saved, Err(Error::Relay(_))), "{saved:?}");
    scene.relay.ended();
    let begun = scene.wire.asked();
    assert!(begun[0].starts_with("GET bytes=0-"), "{begun:?}");
    scene.comes_back().await;
    scene.alice.online().await;
    let saved = scene.alice.chat.save_file(&scene.dm, seq, into).await.unwrap();
    assert!(std::fs::read(saved).unwrap() == scene.content, "other bytes than were sent");
    let again = scene.wire.asked();
    assert!(!again.iter().any(|asked| asked.starts_with("GET bytes=0-")), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_refused_says_why_and_holds_up_nothing() {
    let relay = Relay::configured(&format!("{FREE}blob_max = \"64KiB\"\n"));
    provider();
    let (alice, bob) = (Person::join(&relay, 1).await, Person::join(&relay, 2).await);
    let dm = alice.chat.direct(bob.id()).await.unwrap();
    bob.accept().await;
    let file = alice.dir.path().join("large.bin");
    std::fs::write(&file, vec![7; 100_000]).unwrap();
    let n = alice.chat.send_file(&dm, &file, None).await.unwrap();
    alice.chat.handed_in(n).await.unwrap();
    let failed = |chat: &Chat| {
        let outbox = chat.outbox().unwrap();
        outbox.iter().any(|out| out.local == n && matches!(out.delivery, Delivery::Failed { .. }))
    };
    alice.until("a refusal", failed).await;
    alice.send(&dm, "too large, it seems").await;
    bob.reads(&dm, "too large, it seems").await;
    alice.chat.take_back(n).await.unwrap();
    assert!(alice.chat.outbox().unwrap().is_empty());
    let alice = alice.restart().await;
    let left = std::fs::read_dir(alice.dir.path().join("profile/outgoing")).unwrap().count();
    assert_eq!(left, 0, "what nobody waits for is removed");
}
