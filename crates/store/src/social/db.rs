//! What the social tables ask of a database: one SQL for both stores, with values of four kinds.
//!
//! Statements are written with `?1`, `?2` … and use only what both engines understand; where they differ (full text)
//! the trait has a method. On the embedded store the futures never wait.

use bytes::Bytes;

use crate::error::{Result, StoreError};

/// A value on its way in or out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Int(i64),
    Bytes(Bytes),
    Text(String),
}

/// One row of an answer.
#[derive(Debug)]
pub(crate) struct Row(pub Vec<Value>);

/// The two sets of searchable words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    Posts,
    Profiles,
}

/// A connection, inside or outside a transaction.
pub(crate) trait Db {
    async fn query(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>>;
    /// Returns how many rows were changed.
    async fn execute(&self, sql: &str, values: &[Value]) -> Result<u64>;
    /// Makes the text of an event findable.
    async fn add_words(&self, words: Words, seq: i64, text: &str) -> Result<()>;
    /// Forgets the text of an event; `text` is what was added.
    async fn drop_words(&self, words: Words, seq: i64) -> Result<()>;
    /// Events that hold all the words of `text`, the most relevant first.
    async fn find_words(
        &self,
        words: Words,
        text: &str,
        offset: i64,
        limit: i64,
    ) -> Result<Vec<i64>>;
}

impl Row {
    pub fn int(&self, at: usize) -> Result<i64> {
        match self.0.get(at) {
            Some(Value::Int(number)) => Ok(*number),
            _ => Err(unexpected()),
        }
    }

    pub fn maybe_int(&self, at: usize) -> Result<Option<i64>> {
        match self.0.get(at) {
            Some(Value::Null) => Ok(None),
            _ => self.int(at).map(Some),
        }
    }

    pub fn bytes(&self, at: usize) -> Result<Bytes> {
        match self.0.get(at) {
            Some(Value::Bytes(bytes)) => Ok(bytes.clone()),
            _ => Err(unexpected()),
        }
    }

    pub fn array<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        self.bytes(at)?[..].try_into().map_err(|_| unexpected())
    }

    pub fn text(&self, at: usize) -> Result<&str> {
        match self.0.get(at) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(unexpected()),
        }
    }
}

fn unexpected() -> StoreError {
    StoreError::Corrupt("a column of the social tables holds another kind of value".into())
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

/// Clocks, types and times are checked to fit when they come in.
impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<Option<u64>> for Value {
    fn from(number: Option<u64>) -> Self {
        number.map_or(Self::Null, Self::from)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(Bytes::copy_from_slice(bytes))
    }
}

impl<const N: usize> From<&[u8; N]> for Value {
    fn from(bytes: &[u8; N]) -> Self {
        Self::from(&bytes[..])
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// `values![a, b]`: an array of [`Value`]s.
macro_rules! values {
    ($($value:expr),* $(,)?) => {
        &[$($crate::social::db::Value::from($value)),*]
    };
}
pub(crate) use values;
