//! The backend that is a chat.

use std::{
    fs::OpenOptions,
    io::{BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use relay_chat::{Chat, ChatLink, LINK, MessageRange, SaveAs, views::Event};
use relay_proto::NodeId;
use tokio::sync::broadcast;

use super::{Act, Answer, Backend, Done, Found, Place, Presence, Question};
use crate::text::clean;

/// Found messages of one page.
const HITS: usize = 50;
/// Messages of one page of an export.
const EXPORT_PAGE: usize = 500;
/// Posts of the feed, as many as are read at a time.
const POSTS: usize = 50;

/// A chat behind the screen.
#[derive(Debug, Clone)]
pub struct ChatBackend {
    chat: Arc<Chat>,
}

impl ChatBackend {
    /// The chat, which whoever opened it also closes.
    pub fn new(chat: Arc<Chat>) -> Self {
        Self { chat }
    }

    /// Whoever is meant: a name, a key, or a line of `relay chat link`, whose name for them counts where they have none here.
    fn person(&self, text: &str) -> Result<NodeId, String> {
        if !text.starts_with(LINK) {
            return self.chat.find_person(text).map_err(said);
        }
        let link = ChatLink::read(text).map_err(|error| error.to_string())?;
        // Who has no name here is called by the beginning of their key.
        let unnamed = link.user_id.to_string().contains(&self.chat.name_of(&link.user_id));
        if let Some(name) = link.name.filter(|_| unnamed) {
            // Somebody else may be called so; then the key tells them apart.
            let _ = self.chat.name_person(link.user_id, &name);
        }
        Ok(link.user_id)
    }

    fn people(&self, texts: &[String]) -> Result<Vec<NodeId>, String> {
        texts.iter().map(|text| self.person(text)).collect()
    }

    async fn direct(&self, person: &str, text: Option<String>) -> Result<Done, String> {
        let peer = self.person(person)?;
        let conv_id = self.chat.direct(peer).await.map_err(said)?;
        if let Some(text) = text {
            self.chat.send_text(&conv_id, text, None).await.map_err(said)?;
        }
        Ok(Done::Opened(conv_id))
    }

    /// Takes the one new device in that shows this code. Another new one beside it is a reason to stop: somebody else may
    /// have the key.
    async fn link(&self, code: &str) -> Result<Done, String> {
        let devices = self.chat.devices().await.map_err(said)?;
        let new: Vec<_> = devices
            .iter()
            .filter(|device| !device.current && device.conversations == 0)
            .map(|device| device_code(&device.device_id))
            .collect();
        let code = code.to_lowercase();
        if !new.contains(&code) {
            return Err(format!(
                "no new device shows {}; on the new one, sign in and type /device",
                clean(&code)
            ));
        }
        if new.len() > 1 {
            return Err(format!(
                "there are {} new devices of yours; if you know only one, somebody else has your key. /device lists them",
                new.len()
            ));
        }
        self.chat.add_own_devices().await.map_err(said)?;
        Ok(Done::Said(format!("device {code} is taken into your conversations")))
    }

    async fn export(&self, conv_id: String, path: PathBuf) -> Result<Done, String> {
        let chat = self.chat.clone();
        let written = tokio::task::spawn_blocking(move || export(&chat, &conv_id, &path));
        let lines = written.await.map_err(|error| error.to_string())??;
        Ok(Done::Said(format!("{lines} messages written, readable by you alone")))
    }
}

impl Backend for ChatBackend {
    fn answer(&self, question: &Question) -> Result<Answer, String> {
        let chat = &self.chat;
        match question {
            Question::Me => {
                let me = chat.me().map_err(said)?;
                let name = chat.name_of(&me.user_id);
                Ok(Answer::Me(me, name))
            }
            Question::Connection => Ok(Answer::Connection(chat.connection())),
            Question::Conversations => chat.conversations().map(Answer::Conversations),
            Question::People => chat.people().map(Answer::People),
            Question::Messages { conv_id, range, limit } => {
                chat.messages(conv_id, *range, *limit).map(Answer::Messages)
            }
            Question::Message { conv_id, seq } => {
                chat.message(conv_id, *seq).map(|message| Answer::Message(Box::new(message)))
            }
            Question::Members { conv_id } => chat.members(conv_id).map(Answer::Members),
            Question::Search { text, within, from } => {
                chat.search(text, within.as_deref(), *from, HITS).map(Answer::Search)
            }
            Question::Asking { conv_id } => chat.asking(conv_id).map(Answer::Asking),
            Question::SafetyNumber { user } => chat.safety_number(user).map(Answer::SafetyNumber),
        }
        .map_err(said)
    }

    async fn act(&self, act: Act) -> Result<Done, String> {
        let chat = &self.chat;
        match act {
            Act::Send { conv_id, text, reply_to } => {
                chat.send_text(&conv_id, text, reply_to).await.map(drop)
            }
            Act::Edit { conv_id, of, text } => chat.edit(&conv_id, &of, text).await.map(drop),
            Act::Delete { conv_id, of } => chat.delete(&conv_id, &of).await.map(drop),
            Act::React { conv_id, to, emoji, remove } => {
                chat.react(&conv_id, &to, &emoji, remove).await.map(drop)
            }
            Act::MarkRead { conv_id, seq } => chat.mark_read(&conv_id, seq).await,
            Act::Retry { local } => chat.retry(local).await,
            Act::TakeBack { local } => chat.take_back(local).await,
            Act::Direct { person, text } => return self.direct(&person, text).await,
            Act::NewRoom { name, people } => {
                let people = self.people(&people)?;
                let made = chat.create_room(Some(name), people).await;
                return made.map(Done::Opened).map_err(said);
            }
            Act::Find { conversation } => {
                return chat.find(&conversation).map(Done::Opened).map_err(said);
            }
            Act::Accept { conv_id } => chat.accept(&conv_id).await,
            Act::Leave { conv_id } => chat.leave(&conv_id).await,
            Act::Invite { conv_id, people } => chat.invite(&conv_id, self.people(&people)?).await,
            Act::Remove { conv_id, person } => {
                chat.remove(&conv_id, vec![self.person(&person)?]).await
            }
            Act::Ban { conv_id, person } => {
                chat.ban(&conv_id, vec![self.person(&person)?]).await.map_err(said)?;
                let person = clean(&person);
                return Ok(Done::Said(format!("{person} is kept out; /unban {person} ends it")));
            }
            Act::Unban { conv_id, person } => {
                chat.unban(&conv_id, &[self.person(&person)?]).await.map_err(said)?;
                let person = clean(&person);
                return Ok(Done::Said(format!("{person} can be invited again: /invite {person}")));
            }
            Act::Banned { conv_id } => {
                let banned = chat.banned(&conv_id).await.map_err(said)?;
                let names = banned.iter().map(|user| chat.name_of(user));
                return Ok(Done::Banned(names.collect()));
            }
            Act::Readmit { conv_id, person } => chat.readmit(&conv_id, self.person(&person)?).await,
            Act::Restart { conv_id } => {
                return chat.restart(&conv_id).await.map(Done::Opened).map_err(said);
            }
            Act::SetRoom { conv_id, name, topic } => {
                chat.set_room(&conv_id, name, topic).await.map(drop)
            }
            Act::Set { conv_id, settings } => chat.set(&conv_id, settings).await,
            Act::NamePerson { person, name } => chat.name_person(self.person(&person)?, &name),
            Act::Nick { name } => chat.set_nick(&name),
            Act::Verified { user, verified } => chat.set_verified(user, verified),
            Act::Blocked { user, blocked } => chat.set_blocked(user, blocked),
            Act::Appear(presence) => {
                let online = presence != Presence::Off;
                chat.appear(online, presence == Presence::Invisible).await;
                Ok(())
            }
            Act::Watch(users) => {
                chat.watch(users).await;
                Ok(())
            }
            Act::Connect => {
                chat.connect().await;
                Ok(())
            }
            Act::Look(Place::Feed) => {
                let posts = chat.feed(POSTS).await;
                return posts.map(|posts| Done::Found(Found::Posts(posts))).map_err(said);
            }
            Act::Look(Place::Services) => {
                let services = chat.services().await;
                return services.map(|all| Done::Found(Found::Services(all))).map_err(said);
            }
            Act::Devices => return chat.devices().await.map(Done::Devices).map_err(said),
            Act::LinkDevice { code } => return self.link(&code).await,
            Act::RevokeDevice { device_id } => chat.revoke_device(&device_id).await,
            Act::Recover => {
                let recovered = chat.recover(false).await.map_err(said)?;
                let mut text = format!("{} conversations come back", recovered.conversations);
                if recovered.without_key > 0 {
                    let without = recovered.without_key;
                    text.push_str(&format!("; {without} more only by another device or member"));
                }
                return Ok(Done::Said(text));
            }
            Act::Export { conv_id, path } => return self.export(conv_id, path.into()).await,
            Act::SendFile { conv_id, path } => {
                chat.send_file(&conv_id, Path::new(&path), None).await.map(drop)
            }
            Act::SaveFile { conv_id, seq } => {
                let saved = chat.save_file(&conv_id, seq, SaveAs::Folder(".".into())).await;
                let path = saved.map_err(said)?;
                return Ok(Done::Said(format!("saved as {}", path.display())));
            }
        }
        .map(|()| Done::Quietly)
        .map_err(said)
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.chat.events()
    }
}

/// What a new device shows and an old one asks for: 8 characters that a person can read out.
pub fn device_code(device_id: &str) -> String {
    let letters = device_id.chars().filter(char::is_ascii_alphanumeric).take(8);
    letters.collect::<String>().to_lowercase()
}

fn said(error: relay_chat::Error) -> String {
    clean(&error.to_string())
}

fn export(chat: &Chat, conv_id: &str, path: &Path) -> Result<usize, String> {
    let told = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut out = BufWriter::new(file.map_err(told)?);
    let mut after = 0;
    let mut lines = 0;
    loop {
        let page = chat.messages(conv_id, MessageRange::After(after), EXPORT_PAGE).map_err(said)?;
        for message in page.items.iter().filter(|message| message.seq.is_some()) {
            let line = serde_json::to_string(message).map_err(|error| error.to_string())?;
            writeln!(out, "{line}").map_err(told)?;
            lines += 1;
        }
        let last = page.items.iter().filter_map(|message| message.seq).next_back();
        match last {
            Some(last) if page.more_after && last > after => after = last,
            _ => break,
        }
    }
    out.flush().map_err(told)?;
    Ok(lines)
}
