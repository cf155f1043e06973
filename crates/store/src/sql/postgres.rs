//! PostgreSQL: connections of the pool, and the writer's, which sends what needs no answer together with the next
//! question.

use std::{borrow::Cow, cell::RefCell, collections::HashMap};

use ahash::RandomState;
use bytes::Bytes;
use deadpool_postgres::GenericClient;
use futures_util::future::join_all;
use relay_proto::NodeId;
use tokio_postgres::{
    Client, Statement,
    types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked},
};

use super::{Arg, FullText, Row, Sql, Value, damaged};
use crate::error::Result;

const MESSAGE_BY_ID: &str = "SELECT seq, sender_key, env, origin_gateway
     FROM messages WHERE conv = ?1 AND id_hash = ?2 AND msg_id = ?3";

/// A connection of the pool, or a transaction on it.
pub(crate) struct PostgresSql<'c, C>(pub &'c C);

impl<C: GenericClient + Sync> Sql for PostgresSql<'_, C> {
    const LOCKS_ROWS: bool = true;
    const FULL_TEXT: &'static FullText = &FULL_TEXT;
    const MESSAGE_BY_ID: &'static str = MESSAGE_BY_ID;

    async fn rows(&self, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Row>> {
        let statement = self.0.prepare_cached(&numbered(sql)).await?;
        let found = self.0.query(&statement, &values(args)).await?;
        found.iter().map(row).collect()
    }

    async fn run(&self, sql: &str, args: &[Arg<'_>]) -> Result<u64> {
        let statement = self.0.prepare_cached(&numbered(sql)).await?;
        Ok(self.0.execute(&statement, &values(args)).await?)
    }

    async fn lock_user(&self, user: &NodeId) -> Result<()> {
        let lock = crate::postgres::user_lock(user);
        let statement = self.0.prepare_cached(LOCK_USER).await?;
        self.0.query(&statement, &[&lock.0, &lock.1]).await?;
        Ok(())
    }
}

const LOCK_USER: &str = "SELECT pg_advisory_xact_lock($1, $2)";

/// Statements that the writer's session has prepared, by their text.
pub(crate) type Prepared = RefCell<HashMap<String, Statement, RandomState>>;

/// Statements sent at once; `join_all` polls, and so sends, so few in their order.
const IN_ONE_GO: usize = 30;
/// Statements that may wait for the next question.
const MAX_WAITING: usize = 300;

/// The writer's connection, inside a transaction.
pub(crate) struct WriterSql<'c> {
    client: &'c Client,
    prepared: &'c Prepared,
    waiting: RefCell<Vec<(Statement, Vec<Value>)>>,
}

impl<'c> WriterSql<'c> {
    pub fn new(client: &'c Client, prepared: &'c Prepared) -> Self {
        Self { client, prepared, waiting: RefCell::default() }
    }

    async fn prepare(&self, sql: &str) -> Result<Statement> {
        let known = self.prepared.borrow().get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(&numbered(sql)).await?;
        self.prepared.borrow_mut().insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Sends what waits but for its last part, small enough to go with something else, which is given back.
    async fn send_most(&self) -> Result<Vec<(Statement, Vec<Value>)>> {
        let mut waiting = self.waiting.take();
        while waiting.len() >= IN_ONE_GO {
            let rest = waiting.split_off(IN_ONE_GO);
            self.send(&waiting).await?;
            waiting = rest;
        }
        Ok(waiting)
    }

    async fn send(&self, some: &[(Statement, Vec<Value>)]) -> Result<()> {
        let sent = some.iter().map(|(statement, given)| async move {
            let given: Vec<Arg<'_>> = given.iter().map(Value::as_arg).collect();
            self.client.execute(statement, &values(&given)).await
        });
        // The first error is the cause, the others its echo.
        for done in join_all(sent).await {
            done?;
        }
        Ok(())
    }
}

impl Sql for WriterSql<'_> {
    const LOCKS_ROWS: bool = false;
    const FULL_TEXT: &'static FullText = &FULL_TEXT;
    const MESSAGE_BY_ID: &'static str = MESSAGE_BY_ID;

    async fn rows(&self, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Row>> {
        let statement = self.prepare(sql).await?;
        let before = self.send_most().await?;
        let given = values(args);
        let (sent, found) =
            tokio::join!(biased; self.send(&before), self.client.query(&statement, &given));
        sent?;
        found?.iter().map(row).collect()
    }

    async fn run(&self, sql: &str, args: &[Arg<'_>]) -> Result<u64> {
        let statement = self.prepare(sql).await?;
        self.settle().await?;
        Ok(self.client.execute(&statement, &values(args)).await?)
    }

    async fn run_later(&self, sql: &str, args: &[Arg<'_>]) -> Result<()> {
        let statement = self.prepare(sql).await?;
        self.waiting.borrow_mut().push((statement, args.iter().map(Value::from).collect()));
        if self.waiting.borrow().len() >= MAX_WAITING {
            self.settle().await?;
        }
        Ok(())
    }

    async fn rows_of_each<const N: usize>(
        &self,
        sql: &str,
        each: &[[Arg<'_>; N]],
    ) -> Result<Vec<Vec<Row>>> {
        if each.is_empty() {
            return Ok(Vec::new());
        }
        let statement = self.prepare(sql).await?;
        self.settle().await?;
        let mut answers = Vec::with_capacity(each.len());
        for some in each.chunks(IN_ONE_GO) {
            let statement = &statement;
            let asked = some.iter().map(|args| async move {
                let given = values(args);
                self.client.query(statement, &given).await
            });
            for found in join_all(asked).await {
                answers.push(found?.iter().map(row).collect::<Result<Vec<_>>>()?);
            }
        }
        Ok(answers)
    }

    async fn settle(&self) -> Result<()> {
        let last = self.send_most().await?;
        self.send(&last).await
    }

    async fn lock_user(&self, _: &NodeId) -> Result<()> {
        // The one writer.
        Ok(())
    }
}

/// Parameters as this server writes them.
fn numbered(sql: &str) -> String {
    sql.replace('?', "$")
}

fn values<'a>(args: &'a [Arg<'a>]) -> Vec<&'a (dyn ToSql + Sync)> {
    args.iter().map(|arg| arg as &(dyn ToSql + Sync)).collect()
}

fn row(row: &tokio_postgres::Row) -> Result<Row> {
    let value = |(at, column): (usize, &tokio_postgres::Column)| -> Result<Value> {
        Ok(match *column.type_() {
            Type::INT8 => row.try_get::<_, Option<i64>>(at)?.map_or(Value::Null, Value::Number),
            Type::INT4 => row
                .try_get::<_, Option<i32>>(at)?
                .map_or(Value::Null, |number| Value::Number(number.into())),
            Type::TEXT => row.try_get::<_, Option<String>>(at)?.map_or(Value::Null, Value::Text),
            Type::BYTEA => row
                .try_get::<_, Option<&[u8]>>(at)?
                .map_or(Value::Null, |bytes| Value::Bytes(Bytes::copy_from_slice(bytes))),
            _ => return Err(damaged("a column of another type")),
        })
    };
    row.columns().iter().enumerate().map(value).collect::<Result<Vec<_>>>().map(Row)
}

impl ToSql for Arg<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Number(number) if *ty == Type::INT4 => i32::try_from(*number)?.to_sql(ty, out),
            Self::Number(number) => number.to_sql(ty, out),
            Self::Text(text) => text.to_sql(ty, out),
            Self::Bytes(bytes) => bytes.to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::INT4 | Type::TEXT | Type::BYTEA)
    }

    to_sql_checked!();
}

const FULL_TEXT: FullText = FullText {
    add: [
        "INSERT INTO social_post_words (seq, words) VALUES (?1, to_tsvector('simple', ?2))",
        "INSERT INTO social_profile_words (seq, words) VALUES (?1, to_tsvector('simple', ?2))",
    ],
    drop: [
        "DELETE FROM social_post_words WHERE seq = ?1",
        "DELETE FROM social_profile_words WHERE seq = ?1",
    ],
    find: [
        "SELECT seq FROM social_post_words WHERE words @@ plainto_tsquery('simple', ?1)
         ORDER BY ts_rank(words, plainto_tsquery('simple', ?1)) DESC, seq DESC LIMIT ?2 OFFSET ?3",
        "SELECT seq FROM social_profile_words WHERE words @@ plainto_tsquery('simple', ?1)
         ORDER BY ts_rank(words, plainto_tsquery('simple', ?1)) DESC, seq DESC LIMIT ?2 OFFSET ?3",
    ],
    kept: plain,
    wanted,
};

fn wanted(text: &str) -> Option<Cow<'_, str>> {
    Some(plain(text))
}

/// Text without U+0000, which text here cannot hold.
fn plain(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', " ").into() } else { text.into() }
}
