//! A small editor for what is being written: grapheme by grapheme, of any number of lines.

use unicode_segmentation::UnicodeSegmentation;

use crate::text;

/// The longest draft, bytes; more is not taken. The longest message has as many.
pub const MAX_DRAFT: usize = relay_chat::content::MAX_TEXT;

/// Text and the place in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Editor {
    text: String,
    /// A boundary between graphemes, bytes from the beginning.
    cursor: usize,
}

/// Where the cursor goes, or what is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    Left,
    Right,
    WordLeft,
    WordRight,
    Up,
    Down,
    LineStart,
    LineEnd,
}

impl Editor {
    /// An editor with this text, the cursor at its end.
    pub fn with(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { cursor: text.len(), text }
    }

    /// What was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Nothing was written.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The cursor stands behind everything.
    pub fn at_end(&self) -> bool {
        self.cursor == self.text.len()
    }

    /// What stands before the cursor.
    pub fn before_cursor(&self) -> &str {
        &self.text[..self.cursor]
    }

    /// Writes at the cursor. `false` where there is no room; then nothing changes.
    pub fn insert(&mut self, text: &str) -> bool {
        let text = text::clean_lines(text).join("\n");
        if self.text.len() + text.len() > MAX_DRAFT {
            return false;
        }
        self.text.insert_str(self.cursor, &text);
        self.cursor += text.len();
        self.settle();
        true
    }

    /// Replaces so many bytes before the cursor.
    pub fn replace_before(&mut self, bytes: usize, with: &str) {
        let from = self.cursor.saturating_sub(bytes);
        if self.text.is_char_boundary(from) {
            self.text.replace_range(from..self.cursor, "");
            self.cursor = from;
            self.insert(with);
        }
    }

    /// Takes everything out.
    pub fn take(&mut self) -> String {
        self.cursor = 0;
        std::mem::take(&mut self.text)
    }

    /// Moves the cursor; `false` where it cannot go further.
    pub fn go(&mut self, to: Move) -> bool {
        let target = self.target(to);
        let moved = target != self.cursor;
        self.cursor = target;
        moved
    }

    /// Takes away what lies between the cursor and there.
    pub fn delete(&mut self, to: Move) {
        let target = self.target(to);
        let (from, to) = (target.min(self.cursor), target.max(self.cursor));
        self.text.replace_range(from..to, "");
        self.cursor = from;
        self.settle();
    }

    fn target(&self, to: Move) -> usize {
        let (before, after) = self.text.split_at(self.cursor);
        match to {
            Move::Left => before.grapheme_indices(true).next_back().map_or(0, |(at, _)| at),
            Move::Right => self.cursor + after.graphemes(true).next().map_or(0, str::len),
            Move::WordLeft => {
                let mut words = before.unicode_word_indices();
                words.next_back().map_or(0, |(at, _)| at)
            }
            Move::WordRight => {
                let word = after.unicode_word_indices().next();
                word.map_or(self.text.len(), |(at, word)| self.cursor + at + word.len())
            }
            Move::LineStart => before.rfind('\n').map_or(0, |at| at + 1),
            Move::LineEnd => after.find('\n').map_or(self.text.len(), |at| self.cursor + at),
            Move::Up => {
                let start = before.rfind('\n').map_or(0, |at| at + 1);
                if start == 0 {
                    return self.cursor;
                }
                let above = before[..start - 1].rfind('\n').map_or(0, |at| at + 1);
                above + column_at(&self.text[above..start - 1], text::width(&before[start..]))
            }
            Move::Down => {
                let start = before.rfind('\n').map_or(0, |at| at + 1);
                let Some(end) = after.find('\n').map(|at| self.cursor + at + 1) else {
                    return self.cursor;
                };
                let below = &self.text[end..];
                let below = &below[..below.find('\n').unwrap_or(below.len())];
                end + column_at(below, text::width(&before[start..]))
            }
        }
    }

    /// What was inserted or taken away may have joined the cursor's neighbours to one grapheme; the cursor then stands behind it.
    fn settle(&mut self) {
        let mut ends = self.text.grapheme_indices(true).map(|(at, cluster)| at + cluster.len());
        if self.cursor > 0 {
            self.cursor = ends.find(|end| *end >= self.cursor).unwrap_or(self.text.len());
        }
    }

    /// The text in lines of so many columns, and the cursor's line and column among them.
    pub fn laid_out(&self, columns: usize) -> (Vec<String>, (usize, usize)) {
        let columns = columns.max(2);
        let mut lines = vec![String::new()];
        let mut used = 0;
        let mut cursor = (0, 0);
        for (at, cluster) in self.text.grapheme_indices(true) {
            let wide = if cluster == "\n" { 0 } else { text::width(cluster) };
            if used + wide > columns {
                lines.push(String::new());
                used = 0;
            }
            if at == self.cursor {
                cursor = (lines.len() - 1, used);
            }
            if cluster == "\n" {
                lines.push(String::new());
                used = 0;
            } else if let Some(line) = lines.last_mut() {
                line.push_str(cluster);
                used += wide;
            }
        }
        if self.cursor == self.text.len() {
            if used >= columns {
                lines.push(String::new());
                used = 0;
            }
            cursor = (lines.len() - 1, used);
        }
        (lines, cursor)
    }
}

/// The byte of a line at which so many columns have passed.
fn column_at(line: &str, columns: usize) -> usize {
    let mut used = 0;
    for (at, cluster) in line.grapheme_indices(true) {
        if used >= columns {
            return at;
        }
        used += text::width(cluster);
    }
    line.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_edits_by_graphemes() {
        let mut editor = Editor::with("ae\u{301}👩‍👩‍👧");
        editor.delete(Move::Left);
        assert_eq!(editor.text(), "ae\u{301}");
        editor.delete(Move::Left);
        assert_eq!(editor.text(), "a");
        assert!(editor.go(Move::Left));
        assert!(!editor.go(Move::Left));
        editor.insert("x");
        assert_eq!(editor.text(), "xa");
    }

    #[test]
    fn lines_and_words_are_steps() {
        let mut editor = Editor::with("one two\nthree");
        assert!(editor.go(Move::Up));
        assert_eq!(editor.before_cursor(), "one t");
        editor.go(Move::LineEnd);
        assert_eq!(editor.before_cursor(), "one two");
        editor.delete(Move::WordLeft);
        assert_eq!(editor.text(), "one \nthree");
        assert!(editor.go(Move::Down));
        assert_eq!(editor.before_cursor(), "one \nthre");
    }

    #[test]
    fn what_is_written_has_no_controls_and_an_end() {
        let mut editor = Editor::default();
        assert!(editor.insert("a\x1b[2J\r\nb"));
        assert_eq!(editor.text(), "a␛[2J\nb");
        assert!(!editor.insert(&"x".repeat(MAX_DRAFT)));
        assert_eq!(editor.text(), "a␛[2J\nb");
    }

    fn moves() -> impl Strategy<Value = Move> {
        use Move::*;
        prop::sample::select(vec![Left, Right, WordLeft, WordRight, Up, Down, LineStart, LineEnd])
    }

    proptest! {
        #[test]
        fn the_cursor_stays_between_graphemes(
            steps in prop::collection::vec((any::<String>(), moves(), any::<bool>()), 0..12),
            columns in 0usize..20,
        ) {
            let mut editor = Editor::default();
            for (text, to, delete) in steps {
                editor.insert(&text);
                if delete { editor.delete(to) } else { editor.go(to); }
                let ends = || editor.text().grapheme_indices(true).map(|(at, cluster)| at + cluster.len());
                prop_assert!(editor.cursor == 0 || ends().any(|end| end == editor.cursor));
                let (lines, (line, _)) = editor.laid_out(columns);
                prop_assert!(line < lines.len());
            }
        }
    }
}
