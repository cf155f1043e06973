//! Why a script is not taken: where, what, and what was expected there.

use std::fmt;

/// What stage of taking a script failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScriptFault {
    /// The text is no JavaScript module.
    Syntax,
    /// It threw, or ran against a limit, while it was loaded.
    Load,
    /// What it exports is no proper service.
    Definition,
    /// The state it left could not be read or brought to its new version.
    State,
    /// It is good, but a service of its name runs already, or the node is stopping.
    Start,
}

/// A script that was refused; the running version, if any, stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptError {
    pub fault: ScriptFault,
    pub file: String,
    /// From 1; `None` where no place in the file is to blame.
    pub line: Option<u32>,
    pub column: Option<u32>,
    /// What is wrong and, where there is such a thing, what was expected.
    pub message: String,
    /// The text of the line.
    pub excerpt: Option<String>,
}

impl ScriptError {
    pub(crate) fn new(fault: ScriptFault, file: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { fault, file: file.to_owned(), line: None, column: None, message, excerpt: None }
    }

    /// Points at the first frame of `stack` that lies in the script.
    pub(crate) fn at(mut self, stack: &str, source: &str) -> Self {
        if let Some((line, column)) = place(stack, &self.file) {
            self.line = Some(line);
            self.column = column;
            let text = source.lines().nth(line.saturating_sub(1) as usize);
            self.excerpt = text.map(|text| text.chars().take(MAX_EXCERPT).collect());
        }
        self
    }
}

const MAX_EXCERPT: usize = 160;

/// The line and column of the first frame of `stack` in `file`.
pub(crate) fn place(stack: &str, file: &str) -> Option<(u32, Option<u32>)> {
    stack.lines().find_map(|frame| {
        let (_, at) = frame.rsplit_once(&format!("{file}:"))?;
        let mut numbers = at.trim_end_matches(')').split(':');
        let line = numbers.next()?.trim().parse().ok()?;
        Some((line, numbers.next().and_then(|column| column.trim().parse().ok())))
    })
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        write!(f, ": {}", self.message)?;
        if let (Some(line), Some(excerpt)) = (self.line, &self.excerpt) {
            write!(f, "\n{line:>5} | {excerpt}")?;
            if let Some(column) = self.column.filter(|column| *column as usize <= MAX_EXCERPT) {
                write!(f, "\n      | {:>1$}", "^", column.max(1) as usize)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ScriptError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_the_first_frame_in_the_script() {
        let stack = "    at expect (relay:1:2)\n    at f (blog.rl:12:5)\n    at blog.rl:20:1\n";
        assert_eq!(place(stack, "blog.rl"), Some((12, Some(5))));
        assert_eq!(place("    at blog.rl:3\n", "blog.rl"), Some((3, None)));
        assert_eq!(place("    at native\n", "blog.rl"), None);
    }

    #[test]
    fn an_error_shows_the_line() {
        let source = "let a;\nlet b c;\n";
        let error = ScriptError::new(ScriptFault::Syntax, "x.rl", "expecting ';'")
            .at("    at x.rl:2:7\n", source);
        assert_eq!(error.to_string(), "x.rl:2:7: expecting ';'\n    2 | let b c;\n      |       ^");
    }
}
