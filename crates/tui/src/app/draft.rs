//! What is being written in one chat.

use crate::editor::Editor;

/// A message that is not sent yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft {
    /// The words.
    pub editor: Editor,
    /// What it answers.
    pub reply_to: Option<ReplyTo>,
    /// New words for an older message. While it goes on, keys are about it, and the draft waits; when it was left, it waits for
    /// the same message to be edited again.
    pub edit: Option<EditOf>,
}

/// The message that is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo {
    pub id: String,
    pub from_name: String,
    pub excerpt: String,
}

/// An own message that is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditOf {
    pub id: String,
    pub editor: Editor,
    pub goes_on: bool,
}

impl Draft {
    /// The editor that keys are about.
    pub fn active(&self) -> &Editor {
        match &self.edit {
            Some(edit) if edit.goes_on => &edit.editor,
            _ => &self.editor,
        }
    }

    pub fn active_mut(&mut self) -> &mut Editor {
        match &mut self.edit {
            Some(edit) if edit.goes_on => &mut edit.editor,
            _ => &mut self.editor,
        }
    }

    /// An older message is being changed.
    pub fn is_edit(&self) -> bool {
        self.edit.as_ref().is_some_and(|edit| edit.goes_on)
    }

    /// Begins to change an older message, or goes on.
    pub fn begin_edit(&mut self, id: &str, text: &str) {
        match &mut self.edit {
            Some(edit) if edit.id == id => edit.goes_on = true,
            _ => {
                let editor = Editor::with(text);
                self.edit = Some(EditOf { id: id.to_owned(), editor, goes_on: true });
            }
        }
    }

    /// Something would be lost with it.
    pub fn has_words(&self) -> bool {
        !self.editor.text().trim().is_empty()
    }

    /// Puts back what could not be sent, before what was written since.
    pub fn give_back(&mut self, text: &str) {
        if self.editor.text() == text {
            return;
        }
        let since = self.editor.take();
        let both = if since.is_empty() { text.to_owned() } else { format!("{text}\n{since}") };
        self.editor = Editor::with(both);
    }
}
