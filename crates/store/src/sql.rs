//! One text of SQL for both engines, for the domains whose writes are short and many-sided.
//!
//! A verb is an async function over [`Sql`]. On SQLite it runs within the writer's group transaction, where every
//! step is ready at once; on PostgreSQL in a transaction of its own. Statements name their values `$1`, `$2` …,
//! keep to what both engines understand, and lock what they are about to decide on ([`Sql::LOCKS_ROWS`]).

use std::borrow::Cow;

use deadpool_postgres::GenericClient;
use futures_util::{FutureExt, future::BoxFuture};
use relay_proto::{NodeId, auth::DeviceId, conv::ConvId};
use rusqlite::{Connection, ToSql, types::ToSqlOutput, types::ValueRef};
use tokio_postgres::types::{IsNull, Type, to_sql_checked};

use crate::error::{Result, StoreError};

/// A value that a statement is given.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg<'a> {
    Null,
    Number(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

/// A value that a statement gave back.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Null,
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// One row of an answer; columns count from 0.
#[derive(Debug)]
pub(crate) struct Row(Vec<Value>);

/// An open transaction, or a connection for reading.
pub(crate) trait Sql: Sized {
    /// Whether a statement that decides has to lock its rows; SQLite's one writer needs none of it.
    const LOCKS_ROWS: bool;

    fn rows<'a>(&'a self, sql: &'a str, args: &'a [Arg<'a>]) -> BoxFuture<'a, Result<Vec<Row>>>;

    /// Returns how many rows were changed.
    fn run<'a>(&'a self, sql: &'a str, args: &'a [Arg<'a>]) -> BoxFuture<'a, Result<u64>>;

    /// Until the end of the transaction nobody else decides on what is this user's.
    fn lock_user<'a>(&'a self, user: &'a NodeId) -> BoxFuture<'a, Result<()>>;
}

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

// === impl Arg ===

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

impl<'a> From<&'a [u8; 32]> for Arg<'a> {
    fn from(bytes: &'a [u8; 32]) -> Self {
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

impl ToSql for Arg<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Number(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Both engines name it `to_sql`.
fn postgres_value(
    value: &impl tokio_postgres::types::ToSql,
    ty: &Type,
    out: &mut bytes::BytesMut,
) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
    value.to_sql(ty, out)
}

impl tokio_postgres::types::ToSql for Arg<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut bytes::BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Number(number) => postgres_value(number, ty, out),
            Self::Text(text) => postgres_value(text, ty, out),
            Self::Bytes(bytes) => postgres_value(bytes, ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::TEXT | Type::BYTEA)
    }

    to_sql_checked!();
}

// === impl Row ===

impl Row {
    pub fn number(&self, column: usize) -> Result<u64> {
        self.opt_number(column)?.ok_or_else(|| damaged("a number is missing"))
    }

    pub fn opt_number(&self, column: usize) -> Result<Option<u64>> {
        match self.0.get(column) {
            Some(Value::Number(number)) => Ok(Some(*number as u64)),
            Some(Value::Null) => Ok(None),
            _ => Err(damaged("no number")),
        }
    }

    pub fn flag(&self, column: usize) -> Result<bool> {
        Ok(self.number(column)? != 0)
    }

    pub fn text(&mut self, column: usize) -> Result<String> {
        match self.0.get_mut(column) {
            Some(Value::Text(text)) => Ok(std::mem::take(text)),
            _ => Err(damaged("no text")),
        }
    }

    pub fn bytes(&mut self, column: usize) -> Result<Vec<u8>> {
        self.opt_bytes(column)?.ok_or_else(|| damaged("bytes are missing"))
    }

    pub fn opt_bytes(&mut self, column: usize) -> Result<Option<Vec<u8>>> {
        match self.0.get_mut(column) {
            Some(Value::Bytes(bytes)) => Ok(Some(std::mem::take(bytes))),
            Some(Value::Null) => Ok(None),
            _ => Err(damaged("no bytes")),
        }
    }

    pub fn array(&mut self, column: usize) -> Result<[u8; 32]> {
        self.bytes(column)?.try_into().map_err(|_| damaged("not 32 bytes"))
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
    StoreError::Corrupt(format!("conversations: {what}"))
}

// === SQLite ===

pub(crate) struct SqliteSql<'a>(pub &'a Connection);

impl SqliteSql<'_> {
    fn query(&self, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Row>> {
        let mut statement = self.0.prepare_cached(&numbered(sql))?;
        let columns = statement.column_count();
        let mut found = statement.query(rusqlite::params_from_iter(args))?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            let values: Result<Vec<Value>> = (0..columns)
                .map(|column| match row.get_ref(column)? {
                    ValueRef::Null => Ok(Value::Null),
                    ValueRef::Integer(number) => Ok(Value::Number(number)),
                    ValueRef::Text(text) => String::from_utf8(text.to_vec())
                        .map(Value::Text)
                        .map_err(|_| damaged("text is not UTF-8")),
                    ValueRef::Blob(bytes) => Ok(Value::Bytes(bytes.to_vec())),
                    ValueRef::Real(_) => Err(damaged("a number has a fraction")),
                })
                .collect();
            rows.push(Row(values?));
        }
        Ok(rows)
    }

    fn execute(&self, sql: &str, args: &[Arg<'_>]) -> Result<u64> {
        let mut statement = self.0.prepare_cached(&numbered(sql))?;
        Ok(statement.execute(rusqlite::params_from_iter(args))? as u64)
    }
}

/// SQLite counts `$1` by where it stands and `?1` by its number.
fn numbered(sql: &str) -> String {
    sql.replace('$', "?")
}

impl Sql for SqliteSql<'_> {
    const LOCKS_ROWS: bool = false;

    fn rows<'a>(&'a self, sql: &'a str, args: &'a [Arg<'a>]) -> BoxFuture<'a, Result<Vec<Row>>> {
        std::future::ready(self.query(sql, args)).boxed()
    }

    fn run<'a>(&'a self, sql: &'a str, args: &'a [Arg<'a>]) -> BoxFuture<'a, Result<u64>> {
        std::future::ready(self.execute(sql, args)).boxed()
    }

    fn lock_user<'a>(&'a self, _: &'a NodeId) -> BoxFuture<'a, Result<()>> {
        std::future::ready(Ok(())).boxed()
    }
}

// === PostgreSQL ===

pub(crate) struct PostgresSql<'c, C>(pub &'c C);

impl<C: GenericClient + Sync> Sql for PostgresSql<'_, C> {
    const LOCKS_ROWS: bool = true;

    fn rows<'a>(&'a self, sql: &'a str, args: &'a [Arg<'a>]) -> BoxFuture<'a, Result<Vec<Row>>> {
        Box::pin(async move {
            let statement = self.0.prepare_cached(sql).await?;
            let found = self.0.query(&statement, &values(args)).await?;
            found.iter().map(postgres_row).collect()
        })
    }

    fn run<'a>(&'a self, sql: &'a str, args: &'a [Arg<'a>]) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let statement = self.0.prepare_cached(sql).await?;
            Ok(self.0.execute(&statement, &values(args)).await?)
        })
    }

    fn lock_user<'a>(&'a self, user: &'a NodeId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let sql = "SELECT pg_advisory_xact_lock($1, $2)";
            let lock = crate::postgres::user_lock(user);
            let statement = self.0.prepare_cached(sql).await?;
            self.0.query(&statement, &[&lock.0, &lock.1]).await?;
            Ok(())
        })
    }
}

fn values<'a>(args: &'a [Arg<'a>]) -> Vec<&'a (dyn tokio_postgres::types::ToSql + Sync)> {
    args.iter().map(|arg| arg as &(dyn tokio_postgres::types::ToSql + Sync)).collect()
}

fn postgres_row(row: &tokio_postgres::Row) -> Result<Row> {
    let values: Result<Vec<Value>> = row
        .columns()
        .iter()
        .enumerate()
        .map(|(index, column)| {
            Ok(match *column.type_() {
                Type::INT8 => {
                    row.try_get::<_, Option<i64>>(index)?.map_or(Value::Null, Value::Number)
                }
                Type::INT4 => row
                    .try_get::<_, Option<i32>>(index)?
                    .map_or(Value::Null, |number| Value::Number(number.into())),
                Type::TEXT => {
                    row.try_get::<_, Option<String>>(index)?.map_or(Value::Null, Value::Text)
                }
                Type::BYTEA => {
                    row.try_get::<_, Option<Vec<u8>>>(index)?.map_or(Value::Null, Value::Bytes)
                }
                _ => return Err(damaged("a column of another type")),
            })
        })
        .collect();
    values.map(Row)
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

pub(crate) use {look, transact};
