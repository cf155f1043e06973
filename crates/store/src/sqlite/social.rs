//! The social tables on the embedded store.

use bytes::Bytes;
use futures_util::FutureExt;
use rusqlite::{
    CachedStatement, Connection, ToSql,
    types::{ToSqlOutput, ValueRef},
};

use super::SqliteStore;
use crate::{
    error::{Result, StoreError},
    social::{
        SocialDone, SocialOp, Words, apply,
        db::{Db, Row, Value, values},
    },
};

/// Longest search: words beyond it are left out.
const MAX_WORDS: usize = 16;

/// A connection for the social tables; nothing on it ever waits.
#[derive(Debug)]
pub(crate) struct SqliteDb<'c>(pub &'c Connection);

/// The result of work that never waits, as everything over [`SqliteDb`] is.
pub(crate) fn ready<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let waited = || Err(StoreError::Database("work on the embedded store waited".into()));
    work.now_or_never().unwrap_or_else(waited)
}

impl SqliteStore {
    pub(crate) async fn social_write(&self, op: SocialOp) -> Result<SocialDone> {
        self.write(move |conn| ready(apply(&SqliteDb(conn), op))).await
    }
}

impl SqliteDb<'_> {
    fn prepare(&self, sql: &str, values: &[Value]) -> Result<CachedStatement<'_>> {
        let mut statement = self.0.prepare_cached(sql)?;
        for (at, value) in values.iter().enumerate() {
            statement.raw_bind_parameter(at + 1, value)?;
        }
        Ok(statement)
    }
}

impl Db for SqliteDb<'_> {
    async fn query(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>> {
        let mut statement = self.prepare(sql, values)?;
        let columns = statement.column_count();
        let mut rows = statement.raw_query();
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let values: Result<Vec<Value>> = (0..columns)
                .map(|at| match row.get_ref(at)? {
                    ValueRef::Null => Ok(Value::Null),
                    ValueRef::Integer(number) => Ok(Value::Int(number)),
                    ValueRef::Text(text) => {
                        Ok(Value::Text(String::from_utf8_lossy(text).into_owned()))
                    }
                    ValueRef::Blob(bytes) => Ok(Value::Bytes(Bytes::copy_from_slice(bytes))),
                    ValueRef::Real(_) => {
                        Err(StoreError::Corrupt("a column holds a fraction".into()))
                    }
                })
                .collect();
            found.push(Row(values?));
        }
        Ok(found)
    }

    async fn execute(&self, sql: &str, values: &[Value]) -> Result<u64> {
        Ok(self.prepare(sql, values)?.raw_execute()? as u64)
    }

    async fn add_words(&self, words: Words, seq: i64, text: &str) -> Result<()> {
        let sql = match words {
            Words::Posts => "INSERT INTO social_post_words (rowid, words) VALUES (?1, ?2)",
            Words::Profiles => "INSERT INTO social_profile_words (rowid, words) VALUES (?1, ?2)",
        };
        self.execute(sql, values![seq, text]).await.map(drop)
    }

    async fn drop_words(&self, words: Words, seq: i64) -> Result<()> {
        let sql = match words {
            Words::Posts => "DELETE FROM social_post_words WHERE rowid = ?1",
            Words::Profiles => "DELETE FROM social_profile_words WHERE rowid = ?1",
        };
        self.execute(sql, values![seq]).await.map(drop)
    }

    async fn find_words(
        &self,
        words: Words,
        text: &str,
        offset: i64,
        limit: i64,
    ) -> Result<Vec<i64>> {
        let Some(wanted) = all_words(text) else { return Ok(Vec::new()) };
        let sql = match words {
            Words::Posts => {
                "SELECT rowid FROM social_post_words WHERE social_post_words MATCH ?1
                 ORDER BY rank, rowid DESC LIMIT ?2 OFFSET ?3"
            }
            Words::Profiles => {
                "SELECT rowid FROM social_profile_words WHERE social_profile_words MATCH ?1
                 ORDER BY rank, rowid DESC LIMIT ?2 OFFSET ?3"
            }
        };
        let rows = self.query(sql, values![&wanted[..], limit, offset]).await?;
        rows.iter().map(|row| row.int(0)).collect()
    }
}

/// The words of a search, each quoted so that none of them means anything to the engine.
fn all_words(text: &str) -> Option<String> {
    let quoted: Vec<String> = text
        .split(|c: char| c.is_whitespace() || c == '\0')
        .filter(|word| word.chars().any(char::is_alphanumeric))
        .take(MAX_WORDS)
        .map(|word| format!("\"{}\"", word.replace('"', "\"\"")))
        .collect();
    (!quoted.is_empty()).then(|| quoted.join(" "))
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}
