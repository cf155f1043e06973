//! The embedded store; nothing on it ever waits.

use std::borrow::Cow;

use bytes::Bytes;
use relay_proto::NodeId;
use rusqlite::{
    CachedStatement, Connection, ToSql,
    types::{ToSqlOutput, ValueRef},
};

use super::{Arg, FullText, Row, Sql, Value, damaged};
use crate::{error::Result, sqlite::PutOff};

/// Longest search: words beyond it are left out.
const MAX_WORDS: usize = 16;

#[derive(Debug)]
pub(crate) struct SqliteSql<'c>(pub &'c Connection);

impl SqliteSql<'_> {
    fn prepare(&self, sql: &str, args: &[Arg<'_>]) -> Result<CachedStatement<'_>> {
        debug_assert!(!sql.contains('$'), "values are ?1, ?2 …: {sql}");
        let mut statement = self.0.prepare_cached(sql)?;
        for (at, arg) in args.iter().enumerate() {
            statement.raw_bind_parameter(at + 1, arg)?;
        }
        Ok(statement)
    }
}

impl Sql for SqliteSql<'_> {
    const LOCKS_ROWS: bool = false;
    const FULL_TEXT: &'static FullText = &FULL_TEXT;
    const MESSAGE_BY_ID: &'static str = "SELECT seq, sender_key, env, origin_gateway
         FROM messages INDEXED BY messages_by_id WHERE conv = ?1 AND id_hash = ?2 AND msg_id = ?3";

    async fn rows(&self, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Row>> {
        let mut statement = self.prepare(sql, args)?;
        let columns = statement.column_count();
        let mut found = statement.raw_query();
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            let values: Result<Vec<Value>> =
                (0..columns).map(|column| value(row.get_ref(column)?)).collect();
            rows.push(Row(values?));
        }
        Ok(rows)
    }

    async fn run(&self, sql: &str, args: &[Arg<'_>]) -> Result<u64> {
        Ok(self.prepare(sql, args)?.raw_execute()? as u64)
    }

    async fn lock_user(&self, _: &NodeId) -> Result<()> {
        Ok(())
    }
}

/// The writer's connection, where statements can be put off to the end of the group transaction.
pub(crate) struct GroupSql<'c> {
    sql: SqliteSql<'c>,
    put_off: &'c PutOff,
}

/// A statement for later.
#[derive(Debug)]
pub(crate) struct Later {
    sql: &'static str,
    values: Vec<Value>,
}

impl Later {
    pub fn run(&self, conn: &Connection) -> Result<()> {
        let args: Vec<Arg<'_>> = self.values.iter().map(Value::as_arg).collect();
        SqliteSql(conn).prepare(self.sql, &args)?.raw_execute()?;
        Ok(())
    }
}

impl<'c> GroupSql<'c> {
    pub fn new(conn: &'c Connection, put_off: &'c PutOff) -> Self {
        Self { sql: SqliteSql(conn), put_off }
    }
}

impl Sql for GroupSql<'_> {
    const LOCKS_ROWS: bool = SqliteSql::LOCKS_ROWS;
    const FULL_TEXT: &'static FullText = SqliteSql::FULL_TEXT;
    const MESSAGE_BY_ID: &'static str = SqliteSql::MESSAGE_BY_ID;

    async fn rows(&self, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Row>> {
        self.sql.rows(sql, args).await
    }

    async fn run(&self, sql: &str, args: &[Arg<'_>]) -> Result<u64> {
        self.sql.run(sql, args).await
    }

    async fn run_last(&self, sql: &'static str, args: &[Arg<'_>]) -> Result<()> {
        let values = args.iter().map(Value::from).collect();
        self.put_off.borrow_mut().push(Later { sql, values });
        Ok(())
    }

    async fn lock_user(&self, user: &NodeId) -> Result<()> {
        self.sql.lock_user(user).await
    }
}

fn value(found: ValueRef<'_>) -> Result<Value> {
    Ok(match found {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Number(number),
        ValueRef::Text(text) => {
            let text = std::str::from_utf8(text).map_err(|_| damaged("text is not UTF-8"))?;
            Value::Text(text.to_owned())
        }
        ValueRef::Blob(bytes) => Value::Bytes(Bytes::copy_from_slice(bytes)),
        ValueRef::Real(_) => return Err(damaged("a number has a fraction")),
    })
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

const FULL_TEXT: FullText = FullText {
    add: [
        "INSERT INTO social_post_words (rowid, words) VALUES (?1, ?2)",
        "INSERT INTO social_profile_words (rowid, words) VALUES (?1, ?2)",
    ],
    drop: [
        "DELETE FROM social_post_words WHERE rowid = ?1",
        "DELETE FROM social_profile_words WHERE rowid = ?1",
    ],
    find: [
        "SELECT rowid FROM social_post_words WHERE social_post_words MATCH ?1
         ORDER BY rank, rowid DESC LIMIT ?2 OFFSET ?3",
        "SELECT rowid FROM social_profile_words WHERE social_profile_words MATCH ?1
         ORDER BY rank, rowid DESC LIMIT ?2 OFFSET ?3",
    ],
    kept: as_it_is,
    wanted: all_words,
};

fn as_it_is(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text)
}

/// The words of a search, each quoted so that none of them means anything to the engine.
fn all_words(text: &str) -> Option<Cow<'_, str>> {
    let quoted: Vec<String> = text
        .split(|c: char| c.is_whitespace() || c == '\0')
        .filter(|word| word.chars().any(char::is_alphanumeric))
        .take(MAX_WORDS)
        .map(|word| format!("\"{}\"", word.replace('"', "\"\"")))
        .collect();
    (!quoted.is_empty()).then(|| quoted.join(" ").into())
}
