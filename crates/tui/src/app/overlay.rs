//! What lies over the panes and takes the keys.

use relay_chat::views::{ConversationState, MessageView, SafetyNumber, SearchCursor, SearchHit};

use super::{App, Effect};
use crate::{backend::Place, commands::COMMANDS, editor::Editor, text};

/// One of them at a time.
#[derive(Debug, Clone)]
pub enum Overlay {
    /// All keys and commands, from this line on.
    Help {
        from: usize,
    },
    /// Find a chat, a person or a command.
    GoTo {
        query: Editor,
        cursor: usize,
    },
    Search(Search),
    /// A question.
    Ask(Asking),
    /// Two numbers are compared.
    Verify(SafetyNumber),
    /// Something to read.
    Page {
        title: String,
        lines: Vec<String>,
        from: usize,
    },
}

/// A search and what it has found.
#[derive(Debug, Clone, Default)]
pub struct Search {
    pub query: Editor,
    /// In this chat; else in all.
    pub within: Option<String>,
    /// What the hits are for.
    pub asked: Option<String>,
    pub hits: Vec<SearchHit>,
    pub cursor: usize,
    /// Where it goes on; `None` where everything was looked at.
    pub next: Option<SearchCursor>,
    pub running: bool,
}

/// A question with its answers.
#[derive(Debug, Clone)]
pub struct Asking {
    pub text: Vec<String>,
    pub choices: Vec<Choice>,
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Choice {
    pub key: char,
    pub says: String,
    /// What it does.
    pub then: Then,
}

/// What an answer does.
#[derive(Debug, Clone)]
pub enum Then {
    Nothing,
    Effects(Vec<Effect>),
    Insert(String),
    /// Sends what is written, whatever it holds.
    Send,
}

impl Asking {
    /// A question with yes and no.
    pub fn yes_or_no(text: String, yes: &str, then: Then) -> Self {
        Self {
            text: vec![text],
            choices: vec![
                Choice { key: 'y', says: yes.to_owned(), then },
                Choice { key: 'n', says: "no".to_owned(), then: Then::Nothing },
            ],
        }
    }
}

/// Where one can go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidate {
    Chat { conv_id: String, name: String },
    Person { key: String, name: String },
    Place(Place),
    Command { name: &'static str, says: &'static str },
}

impl Candidate {
    pub fn name(&self) -> &str {
        match self {
            Self::Chat { name, .. } | Self::Person { name, .. } => name,
            Self::Place(place) => place.name(),
            Self::Command { name, .. } => name,
        }
    }
}

/// Candidates that are shown.
const MAX_CANDIDATES: usize = 50;

impl App {
    /// Everything one can go to whose name has the letters of `query` in their order, the best first.
    pub fn candidates(&self, query: &str) -> Vec<Candidate> {
        let over = |state: &ConversationState| matches!(state, ConversationState::Left);
        let chats = self.chats.iter().filter(|chat| !over(&chat.state)).map(|chat| {
            Candidate::Chat { conv_id: chat.conv_id.clone(), name: text::clean(&chat.name) }
        });
        let people = self.people.iter().filter(|person| !person.blocked).map(|person| {
            Candidate::Person { key: person.user_id.to_string(), name: text::clean(&person.name) }
        });
        let commands = COMMANDS.iter().map(|(name, _, says)| Candidate::Command { name, says });
        let mut found: Vec<_> = chats
            .chain(people)
            .chain(Place::ALL.map(Candidate::Place))
            .chain(commands)
            .filter_map(|candidate| Some((distance(candidate.name(), query)?, candidate)))
            .collect();
        // Stable: chats before people before places before commands, in their order.
        found.sort_by_key(|(distance, _)| *distance);
        found.into_iter().take(MAX_CANDIDATES).map(|(_, candidate)| candidate).collect()
    }
}

/// How far a name is from what was typed; `None` where letters are missing.
fn distance(name: &str, query: &str) -> Option<usize> {
    let name: Vec<char> = name.to_lowercase().chars().collect();
    let mut at = 0;
    let mut gaps = 0;
    for wanted in query.to_lowercase().chars().filter(|c| !c.is_whitespace()) {
        let step = name[at..].iter().position(|c| *c == wanted)?;
        gaps += step;
        at += step + 1;
    }
    Some(gaps)
}

/// What a message says, in plain text.
pub fn plain(message: &MessageView) -> String {
    use relay_chat::views::MessageBody;
    match &message.body {
        MessageBody::Text { text } => text.clone(),
        MessageBody::File { file } => file.name.clone(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_in_their_order_are_enough() {
        assert_eq!(distance("#general", "gen"), Some(1));
        assert!(distance("#general", "gnl") > distance("#general", "gen"));
        assert_eq!(distance("#general", "x"), None);
        assert_eq!(distance("Bob", "bob"), Some(0));
    }
}
