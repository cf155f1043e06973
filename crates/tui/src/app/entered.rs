//! What entering a line does: it is sent, it changes an older message, or it is a command.

use relay_chat::{
    Settings as ConversationSettings,
    views::{Connection, ConversationState, ConversationView, MemberView},
};
use relay_proto::{NodeId, conv::ConvKind};

use super::{
    App, Effect, Overlay, Search,
    overlay::{Asking, Then},
};
use crate::{
    backend::{Act, Presence, Question},
    commands::{self, Command, Device, Entered},
    editor::Editor,
    text,
};

/// How a join code begins; whoever has one can join the relay.
const JOIN_CODE: &str = "relay-join-v1.";
const KEY: &str = "ed25519:";

impl App {
    pub(super) fn enter(&mut self) {
        if self.draft().is_edit() {
            return self.send_edit();
        }
        let written = self.draft().editor.text().to_owned();
        if written.trim().is_empty() {
            return self.enter_nothing();
        }
        match (commands::parse(&written), self.place) {
            (Err(why), _) => self.complain(why),
            (Ok(Entered::Say(_)), Some(place)) => self.complain(place.not_here()),
            (Ok(Entered::Say(text)), None) if self.open.is_none() => {
                self.enter_nowhere(text.trim())
            }
            (Ok(Entered::Say(text)), None) if text.contains(JOIN_CODE) => {
                let question =
                    "This holds a join code: whoever reads it can join your relay. Send it?";
                let asking = Asking::yes_or_no(question.into(), "send", Then::Send);
                self.overlay = Some(Overlay::Ask(asking));
            }
            (Ok(Entered::Say(_)), None) => self.send_draft(),
            (Ok(Entered::Do(command)), _) => {
                // The command is gone before it acts: it may show another chat.
                self.draft_mut().editor.take();
                if let Err(why) = self.command(command) {
                    self.draft_mut().give_back(&written);
                    self.complain(why);
                }
            }
        }
    }

    /// Enter on an empty line does what the screen offers.
    fn enter_nothing(&mut self) {
        let Some(chat) = self.chat() else {
            if matches!(self.connection, Connection::Refused { .. } | Connection::Offline { .. }) {
                self.act(Act::Connect);
            }
            return self.reread();
        };
        let conv_id = chat.conv_id.clone();
        if let ConversationState::Invited { .. } = chat.state {
            self.act(Act::Accept { conv_id });
        } else if matches!(self.connection, Connection::Refused { .. }) {
            self.act(Act::Connect);
        } else if let Some(local) = self.open.as_ref().and_then(super::Timeline::failed) {
            self.act(Act::Retry { local });
        }
    }

    /// Words while no chat is open: a key, or a line of `relay chat link`, is somebody to write to.
    fn enter_nowhere(&mut self, text: &str) {
        let somebody = text.starts_with(KEY) || text.starts_with(relay_chat::LINK);
        if somebody && !text.contains(char::is_whitespace) {
            self.draft_mut().editor.take();
            self.act(Act::Direct { person: text.to_owned(), text: None });
        } else if text.contains(JOIN_CODE) {
            self.complain("this lets you use a relay: quit with Ctrl-Q, then relay login --invite-file - takes it");
        } else {
            self.complain("no chat is open, nothing was sent: /msg NAME or KEY writes to somebody");
        }
    }

    pub(super) fn send_draft(&mut self) {
        let Some(chat) = self.chat() else {
            return self.complain("no chat is open, nothing was sent");
        };
        if !chat.state.is_writable() {
            return self.complain(match chat.state {
                ConversationState::Invited { .. } => {
                    "accept the invitation first: empty the line and press Enter; /leave declines"
                }
                _ => "you are not in this chat any more; nothing was sent",
            });
        }
        let conv_id = chat.conv_id.clone();
        let draft = self.draft_mut();
        // Only a text that was parsed comes here.
        let Ok(Entered::Say(text)) = commands::parse(draft.editor.text()) else { return };
        draft.editor.take();
        let reply_to = draft.reply_to.take().map(|reply| reply.id);
        self.act(Act::Send { conv_id, text: text.trim_end().to_owned(), reply_to });
        if let Some(open) = &mut self.open {
            // Who writes has seen what is new, and wants to see what they wrote.
            open.new_after = None;
            open.bottom = None;
            open.below = 0;
            if open.more_after {
                open.items.clear();
                open.more_after = false;
            }
        }
    }

    fn send_edit(&mut self) {
        let Some(conv_id) = self.open.as_ref().map(|open| open.conv_id.clone()) else { return };
        let Some(edit) = self.draft_mut().edit.take() else { return };
        let text = edit.editor.text().trim_end().to_owned();
        if text.is_empty() {
            self.draft_mut().edit = Some(edit);
            return self.complain("an empty message is a deleted one: Esc, Up, d deletes it");
        }
        self.act(Act::Edit { conv_id, of: edit.id, text });
    }

    pub(super) fn command(&mut self, command: Command) -> Result<(), String> {
        match command {
            Command::Msg { person, text } => self.act(Act::Direct { person, text }),
            Command::Join { conversation: Some(conversation) } => {
                self.act(Act::Find { conversation })
            }
            Command::Join { conversation: None } => {
                let chat = self.here()?;
                if !matches!(chat.state, ConversationState::Invited { .. }) {
                    return Err(
                        "you are in this chat already; /join CHAT goes to another one".into()
                    );
                }
                let conv_id = chat.conv_id.clone();
                self.act(Act::Accept { conv_id });
            }
            Command::New { name, people } => self.act(Act::NewRoom { name, people }),
            Command::Invite { people } => {
                let conv_id = self.room()?.conv_id.clone();
                self.act(Act::Invite { conv_id, people });
            }
            Command::Remove { person } => {
                let chat = self.room()?;
                let (conv_id, name) = (chat.conv_id.clone(), text::clean(&chat.name));
                let question = format!("Take {} out of {name}?", text::clean(&person));
                self.confirm(question, "take out", Act::Remove { conv_id, person });
            }
            Command::Ban { person: Some(person) } => {
                let chat = self.room()?;
                let (conv_id, name) = (chat.conv_id.clone(), text::clean(&chat.name));
                let question =
                    format!("Take {} out of {name} and keep them out?", text::clean(&person));
                self.confirm(question, "keep out", Act::Ban { conv_id, person });
            }
            Command::Ban { person: None } => {
                let conv_id = self.room()?.conv_id.clone();
                self.act(Act::Banned { conv_id });
            }
            Command::Unban { person } => {
                let conv_id = self.room()?.conv_id.clone();
                self.act(Act::Unban { conv_id, person });
            }
            Command::Readmit { person: Some(person) } => {
                let conv_id = self.here()?.conv_id.clone();
                let question = format!(
                    "Let the device of {} in again? First make sure, by any other way than this chat, that it is them who ask.",
                    text::clean(&person)
                );
                self.confirm(question, "let in", Act::Readmit { conv_id, person });
            }
            Command::Readmit { person: None } => {
                let conv_id = self.here()?.conv_id.clone();
                self.ask(Question::Asking { conv_id });
            }
            Command::Restart => {
                let chat = self.here()?;
                let (conv_id, name) = (chat.conv_id.clone(), text::clean(&chat.name));
                let question = format!(
                    "Begin a new chat with the same people in the place of {name}? What is here stays readable."
                );
                self.confirm(question, "begin anew", Act::Restart { conv_id });
            }
            Command::Leave => {
                let chat = self.here()?;
                let (conv_id, name) = (chat.conv_id.clone(), text::clean(&chat.name));
                let question = match chat.state {
                    ConversationState::Invited { .. } => {
                        format!("Decline the invitation to {name}?")
                    }
                    _ => format!("Leave {name}? You come back only by an invitation."),
                };
                self.confirm(question, "leave", Act::Leave { conv_id });
            }
            Command::Verify { person } => {
                let user = self.somebody(person.as_deref())?;
                self.ask(Question::SafetyNumber { user });
            }
            Command::Block { person, blocked } => {
                let user = self.somebody(person.as_deref())?;
                self.act(Act::Blocked { user, blocked });
                self.say(if blocked {
                    "blocked: /unblock takes it back"
                } else {
                    "not blocked any more"
                });
                self.stale.people = true;
            }
            Command::Presence { online } => {
                let invisible = !online && self.presence != Presence::Invisible;
                self.presence = if invisible { Presence::Invisible } else { Presence::Online };
                self.act(Act::Appear(self.presence));
                self.say(if invisible {
                    "invisible: you see others, they do not see you; /online ends it"
                } else {
                    "online: those you watch and who watch you see it"
                });
            }
            Command::Mute => {
                let muted = !self.here()?.muted;
                self.set(ConversationSettings { muted: Some(muted), ..Default::default() })?;
                self.say(if muted { "muted; /mute again ends it" } else { "not muted any more" });
            }
            Command::Pin => {
                let pinned = Some(!self.here()?.pinned);
                self.set(ConversationSettings { pinned, ..Default::default() })?;
            }
            Command::Archive => {
                let archived = !self.here()?.archived;
                self.set(ConversationSettings { archived: Some(archived), ..Default::default() })?;
                self.say(if archived {
                    "archived: Ctrl-K still finds it"
                } else {
                    "back in the list"
                });
            }
            Command::Search { text } => {
                let query = Editor::with(text.clone());
                let asked = Some(text.clone());
                let search = Search { query, asked, running: true, ..Search::default() };
                self.overlay = Some(Overlay::Search(search));
                self.ask(Question::Search { text, within: None, from: None });
            }
            Command::Export { path } => {
                let conv_id = self.here()?.conv_id.clone();
                let question = format!(
                    "Write this chat's messages, not encrypted, to {}?",
                    text::clean(&path)
                );
                self.confirm(question, "write", Act::Export { conv_id, path });
            }
            Command::File { path } => {
                let conv_id = self.here()?.conv_id.clone();
                self.say("encrypting and handing in the file");
                self.act(Act::SendFile { conv_id, path });
            }
            Command::Device(device) => self.device(device),
            Command::Keys => self.keys_page(),
            Command::Name { person, name } => {
                self.act(Act::NamePerson { person, name });
                (self.stale.chats, self.stale.people, self.stale.members, self.stale.newest) =
                    (true, true, true, true);
            }
            Command::Nick { name } => self.act(Act::Nick { name }),
            Command::Title { name } => self.set_room(Some(name), None)?,
            Command::Topic { text } => self.set_room(None, Some(text))?,
            Command::Read => {
                let conv_id = self.here()?.conv_id.clone();
                self.act(Act::MarkRead { conv_id, seq: None });
                if let Some(open) = &mut self.open {
                    open.new_after = None;
                }
            }
            Command::Help => self.overlay = Some(Overlay::Help { from: 0 }),
            Command::Quit => self.do_action(crate::keys::Action::Quit),
        }
        Ok(())
    }

    fn here(&self) -> Result<&ConversationView, String> {
        self.chat().ok_or_else(|| "no chat is open; Ctrl-K goes to one".to_owned())
    }

    fn room(&self) -> Result<&ConversationView, String> {
        let chat = self.here()?;
        if chat.kind == ConvKind::Dm {
            return Err("a direct message has two people; /new NAME PEOPLE makes a room".into());
        }
        Ok(chat)
    }

    fn set(&mut self, settings: ConversationSettings) -> Result<(), String> {
        let conv_id = self.here()?.conv_id.clone();
        self.act(Act::Set { conv_id, settings });
        Ok(())
    }

    fn set_room(&mut self, name: Option<String>, topic: Option<String>) -> Result<(), String> {
        let conv_id = self.room()?.conv_id.clone();
        self.act(Act::SetRoom { conv_id, name, topic });
        Ok(())
    }

    /// Who is meant: by name or key; without either the other one of a direct message.
    fn somebody(&self, person: Option<&str>) -> Result<NodeId, String> {
        let Some(person) = person else {
            let others: Vec<&MemberView> =
                self.members.iter().filter(|member| !member.own).collect();
            return match others[..] {
                [one] => Ok(one.user_id),
                _ => Err("say whom: a name or a key".into()),
            };
        };
        if let Ok(user) = person.parse() {
            return Ok(user);
        }
        let wanted = person.trim_start_matches('@').to_lowercase();
        let named = |name: &str| name.to_lowercase() == wanted;
        let member =
            self.members.iter().find(|member| named(&member.name)).map(|member| member.user_id);
        let known =
            || self.people.iter().find(|other| named(&other.name)).map(|other| other.user_id);
        member
            .or_else(known)
            .ok_or_else(|| format!("nobody is called '{person}'; give their key (ed25519:…)"))
    }

    fn confirm(&mut self, question: String, yes: &str, act: Act) {
        let then = Then::Effects(vec![Effect::Do(act)]);
        self.overlay = Some(Overlay::Ask(Asking::yes_or_no(question, yes, then)));
    }

    fn device(&mut self, device: Device) {
        match device {
            Device::List => self.act(Act::Devices),
            Device::Link { code } => {
                self.say("looking for the new device");
                self.act(Act::LinkDevice { code });
            }
            Device::Revoke { device_id } => {
                let question = format!(
                    "Take device {} out of all your chats and end its sessions?",
                    text::clean(&device_id)
                );
                self.confirm(question, "revoke", Act::RevokeDevice { device_id });
            }
            Device::Recover => self.act(Act::Recover),
        }
    }

    fn keys_page(&mut self) {
        let Some(me) = &self.me else { return };
        let backup = if me.backed_up {
            "A backup of your key was written from this device."
        } else {
            "There is no backup of your key from this device. Without one a lost disk is the end of it."
        };
        let until = crate::view::day(&self.settings.zone, me.binding_until_s.saturating_mul(1_000));
        let lines = vec![
            "You are, for everybody who wants to write to you:".into(),
            String::new(),
            me.user_id.to_string(),
            String::new(),
            format!(
                "This device shows the code {} and is accepted until {until}.",
                crate::backend::device_code(&me.device_id)
            ),
            backup.into(),
            String::new(),
            "relay keys backup    writes it down, under a passphrase or as words".into(),
            "relay keys recover   puts it back".into(),
            "/verify NAME         compares safety numbers with somebody".into(),
        ];
        self.overlay = Some(Overlay::Page { title: "Keys".into(), lines, from: 0 });
    }
}
