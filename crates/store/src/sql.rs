//! One text of SQL for both engines, for the domains whose writes are short and many-sided: conversations and the
//! social layer.
//!
//! A verb is an async function over [`Sql`]. On SQLite it runs within the writer's group transaction, where every
//! step is ready at once; on PostgreSQL in a transaction of its own (conversations), or in the writer's (the social
//! layer). Statements name their values `?1`, `?2` …, keep to what both engines understand, and lock what they are
//! about to decide on ([`Sql::LOCKS_ROWS`]). Where the engines differ for good there is [`FullText`].

mod postgres;
mod sqlite;
mod text;

use std::borrow::Cow;

use bytes::Bytes;
use futures_util::FutureExt;
use relay_proto::{NodeId, auth::DeviceId, conv::ConvId};

pub use self::text::Words;
pub(crate) use self::{
    postgres::{PostgresSql, Prepared, WriterSql},
    sqlite::{GroupSql, Later, SqliteSql},
    text::{FullText, add_words, drop_words, find_words},
};
use crate::error::{Result, StoreError};

/// A value that a statement is given.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg<'a> {
    Null,
    Number(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

/// A value of its own: what a statement gave back, or will be given later.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Null,
    Number(i64),
    Text(String),
    Bytes(Bytes),
}

/// One row of an answer; columns count from 0.
#[derive(Debug)]
pub(crate) struct Row(Vec<Value>);

/// An open transaction, or a connection for reading.
pub(crate) trait Sql: Sized {
    /// Whether a statement that decides has to lock its rows; SQLite's one writer needs none of it.
    const LOCKS_ROWS: bool;
    const FULL_TEXT: &'static FullText;
    /// Takes a conversation, the hash of a `msg_id` and the `msg_id`; gives `seq`, sender, bytes and origin. SQLite keeps no
    /// statistics and would look through the whole conversation.
    const MESSAGE_BY_ID: &'static str;

    async fn rows(&self, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Row>>;

    /// Returns how many rows were changed.
    async fn run(&self, sql: &str, args: &[Arg<'_>]) -> Result<u64>;

    /// Runs a statement before anything that is asked after it. Over a network it may wait for that, and its failure
    /// is told then.
    async fn run_later(&self, sql: &str, args: &[Arg<'_>]) -> Result<()> {
        self.run(sql, args).await.map(drop)
    }

    /// Runs a statement at the end of the transaction, or before: nothing else in the transaction may look at what it does.
    async fn run_last(&self, sql: &'static str, args: &[Arg<'_>]) -> Result<()> {
        self.run_later(sql, args).await
    }

    /// One question with several sets of values: over a network, in one go. One answer for each, in their order.
    async fn rows_of_each<const N: usize>(
        &self,
        sql: &str,
        each: &[[Arg<'_>; N]],
    ) -> Result<Vec<Vec<Row>>> {
        let mut answers = Vec::with_capacity(each.len());
        for args in each {
            answers.push(self.rows(sql, args).await?);
        }
        Ok(answers)
    }

    /// Runs what waits for a later statement.
    async fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Until the end of the transaction nobody else decides on what is this user's.
    async fn lock_user(&self, user: &NodeId) -> Result<()>;
}

/// No bytes, as a value.
pub(crate) const EMPTY: &[u8] = &[];

/// The only row, if there is one.
pub(crate) async fn one<S: Sql>(sql: &S, text: &str, args: &[Arg<'_>]) -> Result<Option<Row>> {
    Ok(sql.rows(text, args).await?.pop())
}

/// As [`one`], and the row stays as it is until the end of the transaction.
pub(crate) async fn one_locked<S: Sql>(
    sql: &S,
    text: &str,
    args: &[Arg<'_>],
) -> Result<Option<Row>> {
    let text =
        if S::LOCKS_ROWS { Cow::Owned(format!("{text} FOR UPDATE")) } else { Cow::Borrowed(text) };
    one(sql, &text, args).await
}

/// Whether there is a row.
pub(crate) async fn exists<S: Sql>(sql: &S, text: &str, args: &[Arg<'_>]) -> Result<bool> {
    Ok(!sql.rows(text, args).await?.is_empty())
}

/// Runs a verb whose steps are all ready at once.
pub(crate) fn now<T>(verb: impl Future<Output = Result<T>>) -> Result<T> {
    verb.now_or_never().unwrap_or_else(|| Err(StoreError::Database("a step had to wait".into())))
}

/// `args![a, b]`: values of several kinds.
macro_rules! args {
    ($($value:expr),* $(,)?) => {
        &[$($crate::sql::Arg::from($value)),*]
    };
}

// === impl Arg ===

/// What comes in is checked to fit; what is greater than everything compares like the greatest.
impl From<u64> for Arg<'_> {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<i64> for Arg<'_> {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Arg<'_> {
    fn from(flag: bool) -> Self {
        Self::Number(i64::from(flag))
    }
}

impl<'a> From<&'a str> for Arg<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Arg<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Arg<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a> From<&'a Bytes> for Arg<'a> {
    fn from(bytes: &'a Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a> From<&'a NodeId> for Arg<'a> {
    fn from(key: &'a NodeId) -> Self {
        Self::Bytes(key.as_bytes())
    }
}

impl<'a> From<&'a DeviceId> for Arg<'a> {
    fn from(device: &'a DeviceId) -> Self {
        Self::Text(device.as_str())
    }
}

impl<'a> From<&'a ConvId> for Arg<'a> {
    fn from(conv: &'a ConvId) -> Self {
        Self::Text(conv.as_str())
    }
}

impl<'a, T: Into<Arg<'a>>> From<Option<T>> for Arg<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

// === impl Value ===

impl From<&Arg<'_>> for Value {
    fn from(arg: &Arg<'_>) -> Self {
        match *arg {
            Arg::Null => Self::Null,
            Arg::Number(number) => Self::Number(number),
            Arg::Text(text) => Self::Text(text.to_owned()),
            Arg::Bytes(bytes) => Self::Bytes(Bytes::copy_from_slice(bytes)),
        }
    }
}

impl Value {
    fn as_arg(&self) -> Arg<'_> {
        match self {
            Self::Null => Arg::Null,
            Self::Number(number) => Arg::Number(*number),
            Self::Text(text) => Arg::Text(text),
            Self::Bytes(bytes) => Arg::Bytes(bytes),
        }
    }
}

// === impl Row ===

impl Row {
    pub fn int(&self, column: usize) -> Result<i64> {
        self.opt_int(column)?.ok_or_else(|| damaged("a number is missing"))
    }

    pub fn opt_int(&self, column: usize) -> Result<Option<i64>> {
        match self.0.get(column) {
            Some(Value::Number(number)) => Ok(Some(*number)),
            Some(Value::Null) => Ok(None),
            _ => Err(damaged("no number")),
        }
    }

    pub fn number(&self, column: usize) -> Result<u64> {
        self.int(column).map(|number| number as u64)
    }

    pub fn opt_number(&self, column: usize) -> Result<Option<u64>> {
        Ok(self.opt_int(column)?.map(|number| number as u64))
    }

    pub fn flag(&self, column: usize) -> Result<bool> {
        Ok(self.int(column)? != 0)
    }

    pub fn str(&self, column: usize) -> Result<&str> {
        match self.0.get(column) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(damaged("no text")),
        }
    }

    pub fn text(&mut self, column: usize) -> Result<String> {
        match self.0.get_mut(column) {
            Some(Value::Text(text)) => Ok(std::mem::take(text)),
            _ => Err(damaged("no text")),
        }
    }

    pub fn opt_text(&mut self, column: usize) -> Result<Option<String>> {
        match self.0.get(column) {
            Some(Value::Null) => Ok(None),
            _ => self.text(column).map(Some),
        }
    }

    /// Bytes that the answer shares.
    pub fn shared(&self, column: usize) -> Result<Bytes> {
        match self.0.get(column) {
            Some(Value::Bytes(bytes)) => Ok(bytes.clone()),
            Some(Value::Null) => Err(damaged("bytes are missing")),
            _ => Err(damaged("no bytes")),
        }
    }

    pub fn bytes(&mut self, column: usize) -> Result<Vec<u8>> {
        self.opt_bytes(column)?.ok_or_else(|| damaged("bytes are missing"))
    }

    pub fn opt_bytes(&mut self, column: usize) -> Result<Option<Vec<u8>>> {
        match self.0.get_mut(column) {
            Some(Value::Bytes(bytes)) => Ok(Some(std::mem::take(bytes).into())),
            Some(Value::Null) => Ok(None),
            _ => Err(damaged("no bytes")),
        }
    }

    pub fn array<const N: usize>(&self, column: usize) -> Result<[u8; N]> {
        match self.0.get(column) {
            Some(Value::Bytes(bytes)) => {
                bytes[..].try_into().map_err(|_| damaged("another number of bytes"))
            }
            _ => Err(damaged("no bytes")),
        }
    }

    pub fn key(&mut self, column: usize) -> Result<NodeId> {
        NodeId::from_bytes(self.array(column)?).map_err(|_| damaged("no key"))
    }

    pub fn device(&mut self, column: usize) -> Result<DeviceId> {
        DeviceId::new(&self.text(column)?).ok_or_else(|| damaged("no device"))
    }

    /// A name that was checked before it was stored.
    pub fn name<T: std::str::FromStr>(&mut self, column: usize) -> Result<T> {
        self.text(column)?.parse().map_err(|_| damaged("no name"))
    }
}

pub(crate) fn damaged(what: &str) -> StoreError {
    StoreError::Corrupt(format!("a column is not what was written: {what}"))
}

/// Runs a verb of many sides in one durable transaction of whichever store it is.
macro_rules! transact {
    ($store:expr, $request:ident, $verb:path) => {
        match $store {
            $crate::Store::Sqlite(store) => {
                store
                    .write(move |conn| {
                        $crate::sql::now($verb(&$crate::sql::SqliteSql(conn), &$request))
                    })
                    .await
            }
            $crate::Store::Postgres(store) => {
                let mut client = store.client().await?;
                let tx = client.transaction().await?;
                let answer = $verb(&$crate::sql::PostgresSql(&tx), &$request).await?;
                tx.commit().await?;
                Ok(answer)
            }
        }
    };
}

/// Runs a reading verb. Its statements may see different states: each must hold by itself.
macro_rules! look {
    ($store:expr, $request:ident, $verb:path) => {
        match $store {
            $crate::Store::Sqlite(store) => {
                store
                    .read(move |conn| {
                        $crate::sql::now($verb(&$crate::sql::SqliteSql(conn), &$request))
                    })
                    .await
            }
            $crate::Store::Postgres(store) => {
                let client = store.client().await?;
                $verb(&$crate::sql::PostgresSql(&client), &$request).await
            }
        }
    };
}

pub(crate) use {args, look, transact};
