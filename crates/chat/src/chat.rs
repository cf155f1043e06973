//! The handle of a chat.

mod beside;
mod devices;
mod files;
mod rooms;
mod watching;

pub use devices::Recovered;
pub(crate) use devices::keep_vault;
pub use files::SaveAs;
pub use rooms::Asking;

use std::{path::PathBuf, sync::Arc, time::Duration};

use relay_client::Signer;
use relay_proto::{NodeId, conv::ConvKind};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    content::Body,
    core::{Core, Events, NewConversation, Part},
    engine::{self, PresenceWish, Shared, Wish, now_ms},
    error::{Error, Refusal, Result},
    files::Outgoing,
    store::{Store, Unlock},
    views::{
        ConversationView, Event, Me, MemberView, MessagePage, MessageView, OutboxView, PersonView,
        SafetyNumber, SearchCursor, SearchPage,
    },
};

/// How a chat is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of the profile; made where there is none. One process at a time has it open.
    pub profile: PathBuf,
    /// What opens the local state.
    pub unlock: Unlock,
    /// The user's key: names this device when it is made, and proves it to the relay.
    pub user: Signer,
    /// The relay, `https://…` or `unix:PATH`.
    pub relay_url: String,
    /// What the relay's list of sessions calls this program: 1 to 32 of `[a-z0-9 _-]`.
    pub label: String,
    /// The deadline of one request.
    pub timeout: Duration,
}

/// What only this device knows of a conversation; `None` leaves a setting as it is.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What to call it.
    pub label: Option<String>,
    /// Not announced.
    pub muted: Option<bool>,
    /// First in the list.
    pub pinned: Option<bool>,
    /// Not in the list.
    pub archived: Option<bool>,
}

/// Which part of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageRange {
    /// The newest messages, and what waits to be sent.
    Newest,
    /// Older ones than this `seq`.
    Before(u64),
    /// Newer ones than this `seq`.
    After(u64),
}

/// One user's chat on this device.
///
/// Questions are answered at once from the local state, with or without a connection; they read the disk, and take well
/// below a millisecond for what fits a screen. Actions are noted durably and return; what becomes of them is told by
/// [`Event`]s. Dropping the handle stops the connection; [`close`](Self::close) also waits for its last words.
#[derive(Debug)]
pub struct Chat {
    shared: Arc<Shared>,
    wishes: mpsc::Sender<Wish>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for Chat {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Chat {
    /// Opens the profile and begins to connect. Does not wait for the relay.
    ///
    /// # Errors
    /// [`Error::State`]: wrong passphrase, the profile is in use, it is another user's, the disk is full.
    pub async fn open(options: Options) -> Result<Self> {
        let Options { profile, unlock, user, relay_url, label, timeout } = options;
        let signer = user.clone();
        let outgoing = Outgoing::of(&profile);
        let kept = outgoing.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let core = Core::open(&profile, &unlock, &user, now_ms())?;
            let relay_id = core.store().read(|tx| tx.meta("relay id"))?;
            kept.sweep(&core.outgoing()?)?;
            Ok::<_, Error>((core, relay_id))
        });
        let (core, relay_id) = opened.await.map_err(|_| Error::Closed)??;
        let shared = Shared::new(core, relay_url, signer, label, timeout, outgoing, relay_id);
        let (wishes, inbox) = engine::wishes();
        let stop = CancellationToken::new();
        let task = tokio::spawn(engine::run(shared.clone(), inbox, stop.clone()));
        Ok(Self { shared, wishes, stop, task })
    }

    /// Whether the profile in this folder asks for a passphrase; `None` where there is no profile yet.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn needs_passphrase(profile: &std::path::Path) -> Result<Option<bool>> {
        Store::needs_passphrase(profile)
    }

    /// Changes what opens a profile. It must not be open.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn change_unlock(profile: &std::path::Path, old: &Unlock, new: &Unlock) -> Result<()> {
        Store::rewrap(profile, old, new)
    }

    /// Ends the connection in order and closes the profile.
    pub async fn close(mut self) {
        self.stop.cancel();
        // A task that panicked has nothing more to say.
        let _ = (&mut self.task).await;
    }

    // === questions ===

    /// Who this is.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn me(&self) -> Result<Me> {
        let device = self.shared.core.device();
        let backed_up = self.shared.core.store().read(|tx| tx.meta::<bool>("backed up"))?;
        Ok(Me {
            user_id: device.user,
            device_id: device.device_id(),
            relay_url: self.shared.url.clone(),
            relay_id: self.shared.relay_id.borrow().clone(),
            binding_until_s: device.binding.not_after,
            backed_up: backed_up.unwrap_or(false),
        })
    }

    /// All conversations, pinned and lately used ones first, invitations and those that are over among them.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn conversations(&self) -> Result<Vec<ConversationView>> {
        self.shared.core.conversations()
    }

    /// One conversation.
    ///
    /// # Errors
    /// [`Refusal::NoConversation`].
    pub fn conversation(&self, conv_id: &str) -> Result<ConversationView> {
        self.shared.core.conversation(conv_id)
    }

    /// Finds a conversation by what a person types: id or its beginning, name, the other person's key.
    ///
    /// # Errors
    /// [`Refusal::NoConversation`], [`Refusal::Ambiguous`].
    pub fn find(&self, text: &str) -> Result<String> {
        self.shared.core.find(text)
    }

    /// Finds somebody by name or key.
    ///
    /// # Errors
    /// [`Refusal::NoPerson`], [`Refusal::Ambiguous`].
    pub fn find_person(&self, text: &str) -> Result<NodeId> {
        self.shared.core.person(text)
    }

    /// A part of a timeline, oldest first, at most 500 messages.
    ///
    /// # Errors
    /// [`Refusal::NoConversation`].
    pub fn messages(
        &self,
        conv_id: &str,
        range: MessageRange,
        limit: usize,
    ) -> Result<MessagePage> {
        let part = match range {
            MessageRange::Newest => Part::Newest,
            MessageRange::Before(seq) => Part::Before(seq),
            MessageRange::After(seq) => Part::After(seq),
        };
        self.shared.core.messages(conv_id, part, limit)
    }

    /// One message.
    ///
    /// # Errors
    /// [`Refusal::NoMessage`].
    pub fn message(&self, conv_id: &str, seq: u64) -> Result<MessageView> {
        self.shared.core.message(conv_id, seq)
    }

    /// Who is in a conversation.
    ///
    /// # Errors
    /// [`Refusal::NoConversation`].
    pub fn members(&self, conv_id: &str) -> Result<Vec<MemberView>> {
        let mut members = self.shared.core.members(conv_id)?;
        let presence =
            self.shared.presence.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for member in &mut members {
            member.presence = presence.get(&member.user_id).cloned();
        }
        Ok(members)
    }

    /// Everybody whom this user knows.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn people(&self) -> Result<Vec<PersonView>> {
        self.shared.core.people()
    }

    /// What this user calls somebody: the name that they gave, or the beginning of the key.
    pub fn name_of(&self, user: &NodeId) -> String {
        self.shared.core.name(user).unwrap_or_else(|_| crate::core::short(user))
    }

    /// A client for requests of this user's session; of use as long as the connection lasts.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] while there is no connection.
    pub fn client(&self) -> Result<relay_client::Client> {
        self.shared.session().ok_or_else(offline)
    }

    /// What waits to be sent or done.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn outbox(&self) -> Result<Vec<OutboxView>> {
        self.shared.core.outbox()
    }

    /// Looks for messages that hold all the words, newest first in each conversation. Where many must be looked at, a page comes
    /// back early and names where to go on.
    ///
    /// # Errors
    /// [`Refusal::NoConversation`].
    pub fn search(
        &self,
        text: &str,
        within: Option<&str>,
        from: Option<SearchCursor>,
        limit: usize,
    ) -> Result<SearchPage> {
        self.shared.core.search(text, within, from, limit)
    }

    /// The number to compare with somebody.
    ///
    /// # Errors
    /// [`Refusal::Yourself`].
    pub fn safety_number(&self, user: &NodeId) -> Result<SafetyNumber> {
        self.shared.core.safety_number(user)
    }

    // === actions ===

    /// The direct message with somebody: the one there is, or a new one.
    ///
    /// # Errors
    /// [`Refusal::Yourself`]; [`Refusal::Invalid`] before the relay was reached for the first time.
    pub async fn direct(&self, peer: NodeId) -> Result<String> {
        if let Some(conv_id) = self.shared.core.dm_with(&peer)? {
            return Ok(conv_id);
        }
        self.create(ConvKind::Dm, None, vec![peer]).await
    }

    /// Makes a room.
    ///
    /// # Errors
    /// As [`direct`](Self::direct).
    pub async fn create_room(&self, name: Option<String>, users: Vec<NodeId>) -> Result<String> {
        self.create(ConvKind::Room, name, users).await
    }

    async fn create(
        &self,
        kind: ConvKind,
        name: Option<String>,
        users: Vec<NodeId>,
    ) -> Result<String> {
        let home = self.shared.relay_id.borrow().clone().ok_or_else(|| {
            Refusal::Invalid("the relay was not reached yet, so a conversation has no home".into())
        })?;
        let new = NewConversation { kind, name, users, home, replaces: None };
        let (conv_id, events) = self.shared.on_core(move |core| core.create(new, now_ms())).await?;
        self.done(&conv_id, events).await;
        Ok(conv_id)
    }

    /// Writes; gives the message's number in the outbox.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn send_text(
        &self,
        conv_id: &str,
        text: impl Into<String>,
        reply_to: Option<String>,
    ) -> Result<i64> {
        self.say(conv_id, Body::Text { text: text.into(), reply_to }).await
    }

    /// Says anything that a message can say.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn say(&self, conv_id: &str, body: Body) -> Result<i64> {
        let id = conv_id.to_owned();
        let (n, events) = self.shared.on_core(move |core| core.say(&id, body, now_ms())).await?;
        self.done(conv_id, events).await;
        Ok(n)
    }

    /// Changes the words of an own message.
    ///
    /// # Errors
    /// [`Refusal::NotYours`], [`Refusal::NoMessage`].
    pub async fn edit(&self, conv_id: &str, of: &str, text: impl Into<String>) -> Result<i64> {
        self.say(conv_id, Body::Edit { of: of.to_owned(), text: text.into() }).await
    }

    /// Asks everybody to forget an own message.
    ///
    /// # Errors
    /// [`Refusal::NotYours`], [`Refusal::NoMessage`].
    pub async fn delete(&self, conv_id: &str, of: &str) -> Result<i64> {
        self.say(conv_id, Body::Delete { of: of.to_owned() }).await
    }

    /// Reacts to a message, or takes a reaction back.
    ///
    /// # Errors
    /// [`Refusal::NoMessage`].
    pub async fn react(&self, conv_id: &str, to: &str, emoji: &str, remove: bool) -> Result<i64> {
        let body = Body::React { to: to.to_owned(), emoji: emoji.to_owned(), remove };
        self.say(conv_id, body).await
    }

    /// Marks as read up to `seq`, or everything. Others in the conversation are told.
    ///
    /// # Errors
    /// [`Refusal::NoConversation`].
    pub async fn mark_read(&self, conv_id: &str, seq: Option<u64>) -> Result<()> {
        self.act(conv_id, move |core, id| core.mark_read(id, seq, now_ms())).await
    }

    /// Answers an invitation with yes.
    ///
    /// # Errors
    /// [`Refusal::NoConversation`].
    pub async fn accept(&self, conv_id: &str) -> Result<()> {
        self.act(conv_id, |core, id| core.accept(id)).await
    }

    /// Leaves, or answers an invitation with no.
    ///
    /// # Errors
    /// [`Refusal::NoConversation`].
    pub async fn leave(&self, conv_id: &str) -> Result<()> {
        self.act(conv_id, |core, id| core.leave(id, now_ms())).await
    }

    /// Tries again what had failed or waits, by its number in the outbox.
    ///
    /// # Errors
    /// [`Refusal::NotWaiting`].
    pub async fn retry(&self, local: i64) -> Result<()> {
        self.with_out(local, move |core| core.retry(local)).await
    }

    /// Takes back what was not sent yet.
    ///
    /// # Errors
    /// [`Refusal::NotWaiting`].
    pub async fn take_back(&self, local: i64) -> Result<()> {
        self.with_out(local, move |core| core.take_back(local)).await
    }

    async fn with_out(
        &self,
        local: i64,
        run: impl FnOnce(&Core) -> Result<Events> + Send + 'static,
    ) -> Result<()> {
        let outbox = self.outbox()?;
        let out = outbox.into_iter().find(|out| out.local == local).ok_or(Refusal::NotWaiting)?;
        let events = self.shared.on_core(run).await?;
        self.done(&out.conv_id, events).await;
        Ok(())
    }

    /// Changes what only this device knows of a conversation.
    ///
    /// # Errors
    /// [`Refusal::NoConversation`].
    pub async fn set(&self, conv_id: &str, settings: Settings) -> Result<()> {
        self.act(conv_id, move |core, id| {
            core.change(id, |row| {
                if let Some(label) = settings.label {
                    row.label = crate::content::shortened(label.trim(), 64);
                }
                row.muted = settings.muted.unwrap_or(row.muted);
                row.pinned = settings.pinned.unwrap_or(row.pinned);
                row.archived = settings.archived.unwrap_or(row.archived);
                Ok(())
            })
        })
        .await
    }

    /// Gives somebody a name on this device.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for a name that another person has here.
    pub fn name_person(&self, user: NodeId, name: &str) -> Result<()> {
        let name = crate::content::shortened(name.trim(), 64);
        if let Ok(other) = self.shared.core.person(&name)
            && other != user
        {
            return Err(Refusal::Invalid(format!("somebody else is called '{name}'")).into());
        }
        self.shared.core.change_person(user, |person| person.name = name)
    }

    /// The name by which others may mention this user (`@name`).
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn set_nick(&self, nick: &str) -> Result<()> {
        let nick = crate::content::shortened(nick.trim(), 64);
        self.shared
            .core
            .store()
            .write(crate::store::Durability::Soon, |tx| tx.set_meta("nick", &nick))
    }

    /// Notes that a safety number was compared and found equal, or takes that back.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn set_verified(&self, user: NodeId, verified: bool) -> Result<()> {
        self.shared.core.change_person(user, |person| person.verified = verified)
    }

    /// Counts nothing that somebody sends and takes none of their invitations, or no longer so. The relay's block list is another
    /// one: `presence block`.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn set_blocked(&self, user: NodeId, blocked: bool) -> Result<()> {
        self.shared.core.change_person(user, |person| person.blocked = blocked)
    }

    /// Shows this user as there (or watches others without being seen), or no longer.
    pub async fn appear(&self, online: bool, invisible: bool) {
        self.wish(Wish::Presence(PresenceWish::Appear { online, invisible })).await;
    }

    /// Hears of the presence of people, as far as they watch this user too.
    pub async fn watch(&self, users: Vec<NodeId>) {
        self.wish(Wish::Presence(PresenceWish::Watch(users))).await;
    }

    async fn act(
        &self,
        conv_id: &str,
        run: impl FnOnce(&Core, &str) -> Result<Events> + Send + 'static,
    ) -> Result<()> {
        let id = conv_id.to_owned();
        let events = self.shared.on_core(move |core| run(core, &id)).await?;
        self.done(conv_id, events).await;
        Ok(())
    }

    async fn done(&self, conv_id: &str, events: Events) {
        self.shared.tell(events);
        self.wish(Wish::Work(conv_id.to_owned())).await;
    }

    async fn done_everywhere(&self, events: Events) {
        let convs: Vec<String> = events
            .iter()
            .filter_map(|event| match event {
                Event::Conversation { conv_id } => Some(conv_id.clone()),
                _ => None,
            })
            .collect();
        self.shared.tell(events);
        for conv_id in convs {
            self.wish(Wish::Work(conv_id)).await;
        }
    }

    async fn wish(&self, wish: Wish) {
        // The task ends only with this handle.
        let _ = self.wishes.send(wish).await;
    }
}

fn offline() -> Error {
    Refusal::Invalid("this needs a connection to the relay".into()).into()
}
