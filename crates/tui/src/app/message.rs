//! What is done to a selected message.

use relay_chat::views::{MessageBody, MessageView};

use super::{
    App, Detail, Effect, Overlay, Pane, ReplyTo,
    overlay::{Asking, Then, plain},
    timeline::key_of,
};
use crate::{backend::Act, keys::Action, text};

impl App {
    pub(super) fn about_message(&mut self, action: Action) {
        let Some(open) = &self.open else { return };
        let Some(message) = open.selected().cloned() else {
            return self.say("Up selects a message first");
        };
        let conv_id = open.conv_id.clone();
        let said = plain(&message);
        match (action, message.id.clone()) {
            (Action::Info, _) => {
                if let Some(key) = key_of(&message) {
                    self.detail = Detail::Message(key);
                    if self.layout().details.is_none() {
                        self.focus = Pane::Details;
                    }
                }
            }
            (Action::Copy, _) => {
                self.effects.push(Effect::Copy(said));
                self.say("copied");
            }
            (Action::OpenLink, _) => self.open_link(&message, conv_id),
            (Action::Reply, Some(id)) => {
                let excerpt = text::clean(&said);
                let from_name = text::clean(&message.from_name);
                self.draft_mut().reply_to = Some(ReplyTo { id, from_name, excerpt });
                self.deselect();
            }
            (Action::React, Some(to)) => {
                let own = message.reactions.iter().find(|reaction| reaction.own);
                let emoji = own.map_or_else(|| "+1".to_owned(), |own| own.emoji.clone());
                self.act(Act::React { conv_id, to, remove: own.is_some(), emoji });
            }
            (Action::Edit, Some(id)) => {
                if message.own && matches!(message.body, MessageBody::Text { .. }) {
                    self.draft_mut().begin_edit(&id, &said);
                    self.deselect();
                } else {
                    self.complain("only words of your own can be changed");
                }
            }
            (Action::Delete, id) => self.delete(conv_id, &message, id),
            _ => self.complain("not with this message"),
        }
    }

    fn delete(&mut self, conv_id: String, message: &MessageView, id: Option<String>) {
        let act = match (message.local, id) {
            _ if !message.own => return self.complain("only messages of your own can be deleted"),
            (Some(local), _) => Act::TakeBack { local },
            (None, Some(of)) => Act::Delete { conv_id, of },
            (None, None) => return self.complain("not with this message"),
        };
        let text =
            format!("Delete \"{}\" for everybody?", text::cut(&text::clean(&plain(message)), 40));
        let then = Then::Effects(vec![Effect::Do(act)]);
        self.overlay = Some(Overlay::Ask(Asking::yes_or_no(text, "delete", then)));
    }

    fn open_link(&mut self, message: &MessageView, conv_id: String) {
        match (&message.body, message.seq) {
            (MessageBody::File { .. }, Some(seq)) => {
                self.act(Act::SaveFile { conv_id, seq });
                self.say("fetching the file into this folder");
            }
            (MessageBody::Text { text }, _) => match text::links(text).into_iter().next() {
                Some(link) => {
                    self.say(format!("opening {link}"));
                    self.effects.push(Effect::OpenLink(link));
                }
                None => self.complain("there is no link in this message"),
            },
            _ => self.complain("there is nothing to open in this message"),
        }
    }

    fn deselect(&mut self) {
        if let Some(open) = &mut self.open {
            open.selected = None;
        }
        self.focus = Pane::Input;
    }
}
