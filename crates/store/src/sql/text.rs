//! Full text, for which each engine has statements of its own.

use std::borrow::Cow;

use super::{Sql, args};
use crate::error::Result;

/// The two sets of searchable words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    Posts,
    Profiles,
}

/// An engine's statements, each for posts and for profiles.
#[derive(Debug)]
pub(crate) struct FullText {
    /// Takes the number of an event and its text.
    pub(super) add: [&'static str; 2],
    /// Takes the number of an event.
    pub(super) drop: [&'static str; 2],
    /// Takes what is wanted, how many, and how many to skip; gives numbers, the most relevant first.
    pub(super) find: [&'static str; 2],
    /// A text as the engine takes it.
    pub(super) kept: fn(&str) -> Cow<'_, str>,
    /// A question for all the words of a text as the engine takes it; `None` where there are none.
    pub(super) wanted: fn(&str) -> Option<Cow<'_, str>>,
}

/// Makes the text of an event findable.
pub(crate) async fn add_words<S: Sql>(sql: &S, words: Words, seq: i64, text: &str) -> Result<()> {
    let text = (S::FULL_TEXT.kept)(text);
    sql.run_last(S::FULL_TEXT.add[words as usize], args![seq, &*text]).await
}

/// Forgets the text of an event.
pub(crate) async fn drop_words<S: Sql>(sql: &S, words: Words, seq: i64) -> Result<()> {
    sql.run_last(S::FULL_TEXT.drop[words as usize], args![seq]).await
}

/// Events that hold all the words of `text`, the most relevant first.
pub(crate) async fn find_words<S: Sql>(
    sql: &S,
    words: Words,
    text: &str,
    offset: i64,
    limit: i64,
) -> Result<Vec<i64>> {
    let Some(wanted) = (S::FULL_TEXT.wanted)(text) else { return Ok(Vec::new()) };
    let find = S::FULL_TEXT.find[words as usize];
    let rows = sql.rows(find, args![&*wanted, limit, offset]).await?;
    rows.iter().map(|row| row.int(0)).collect()
}
