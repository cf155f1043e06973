//! The social tables on PostgreSQL.

use std::{cell::RefCell, collections::HashMap};

use ahash::RandomState;
use bytes::Bytes;
use deadpool_postgres::Object;
use tokio::sync::oneshot;
use tokio_postgres::{
    Client, Statement,
    types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked},
};

use super::PostgresStore;
use crate::{
    error::{Result, StoreError},
    social::{
        SocialDone, SocialOp, Words,
        db::{Db, Row, Value, values},
    },
};

/// Statements that the writer's session has prepared, by their text.
pub(super) type Prepared = RefCell<HashMap<String, Statement, RandomState>>;

/// A connection for the social tables.
#[derive(Debug)]
pub(crate) struct PostgresDb<'c>(&'c Object);

/// The writer's connection for the social tables, inside a transaction.
pub(super) struct WriterDb<'c> {
    pub client: &'c Client,
    pub prepared: &'c Prepared,
}

/// An operation on its way through the writer.
pub(super) struct SocialWrite {
    pub op: Option<SocialOp>,
    pub result: Option<Result<SocialDone>>,
    pub reply: oneshot::Sender<Result<SocialDone>>,
}

impl PostgresStore {
    pub(crate) async fn social_write(&self, op: SocialOp) -> Result<SocialDone> {
        let (reply, answer) = oneshot::channel();
        self.writer.domain(SocialWrite { op: Some(op), result: None, reply }).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl<'c> PostgresDb<'c> {
    pub fn of_pool(client: &'c Object) -> Self {
        Self(client)
    }
}

impl Db for PostgresDb<'_> {
    async fn query(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>> {
        let statement = self.0.prepare_cached(&numbered(sql)).await?;
        query(self.0, &statement, values).await
    }

    async fn execute(&self, sql: &str, values: &[Value]) -> Result<u64> {
        let statement = self.0.prepare_cached(&numbered(sql)).await?;
        Ok(self.0.execute(&statement, &params(values)).await?)
    }

    async fn add_words(&self, words: Words, seq: i64, text: &str) -> Result<()> {
        add_words(self, words, seq, text).await
    }

    async fn drop_words(&self, words: Words, seq: i64) -> Result<()> {
        drop_words(self, words, seq).await
    }

    async fn find_words(
        &self,
        words: Words,
        text: &str,
        offset: i64,
        limit: i64,
    ) -> Result<Vec<i64>> {
        find_words(self, words, text, offset, limit).await
    }
}

impl WriterDb<'_> {
    async fn prepare(&self, sql: &str) -> Result<Statement> {
        let known = self.prepared.borrow().get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(&numbered(sql)).await?;
        self.prepared.borrow_mut().insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

impl Db for WriterDb<'_> {
    async fn query(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>> {
        let statement = self.prepare(sql).await?;
        query(self.client, &statement, values).await
    }

    async fn execute(&self, sql: &str, values: &[Value]) -> Result<u64> {
        let statement = self.prepare(sql).await?;
        Ok(self.client.execute(&statement, &params(values)).await?)
    }

    async fn add_words(&self, words: Words, seq: i64, text: &str) -> Result<()> {
        add_words(self, words, seq, text).await
    }

    async fn drop_words(&self, words: Words, seq: i64) -> Result<()> {
        drop_words(self, words, seq).await
    }

    async fn find_words(
        &self,
        words: Words,
        text: &str,
        offset: i64,
        limit: i64,
    ) -> Result<Vec<i64>> {
        find_words(self, words, text, offset, limit).await
    }
}

/// Parameters as this server writes them.
fn numbered(sql: &str) -> String {
    sql.replace('?', "$")
}

fn params(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

async fn query(client: &Client, statement: &Statement, values: &[Value]) -> Result<Vec<Row>> {
    let rows = client.query(statement, &params(values)).await?;
    rows.iter().map(row).collect()
}

fn row(row: &tokio_postgres::Row) -> Result<Row> {
    let value = |at: usize| -> Result<Value> {
        let ty = row.columns()[at].type_();
        Ok(match *ty {
            Type::INT8 => row.try_get::<_, Option<i64>>(at)?.map_or(Value::Null, Value::Int),
            Type::INT4 => {
                row.try_get::<_, Option<i32>>(at)?.map_or(Value::Null, |n| Value::Int(n.into()))
            }
            Type::BYTEA => row
                .try_get::<_, Option<&[u8]>>(at)?
                .map_or(Value::Null, |bytes| Value::Bytes(Bytes::copy_from_slice(bytes))),
            _ => row.try_get::<_, Option<String>>(at)?.map_or(Value::Null, Value::Text),
        })
    };
    (0..row.len()).map(value).collect::<Result<Vec<_>>>().map(Row)
}

async fn add_words<D: Db>(db: &D, words: Words, seq: i64, text: &str) -> Result<()> {
    let sql = match words {
        Words::Posts => {
            "INSERT INTO social_post_words (seq, words) VALUES (?1, to_tsvector('simple', ?2))"
        }
        Words::Profiles => {
            "INSERT INTO social_profile_words (seq, words) VALUES (?1, to_tsvector('simple', ?2))"
        }
    };
    db.execute(sql, values![seq, &plain(text)[..]]).await.map(drop)
}

async fn drop_words<D: Db>(db: &D, words: Words, seq: i64) -> Result<()> {
    let sql = match words {
        Words::Posts => "DELETE FROM social_post_words WHERE seq = ?1",
        Words::Profiles => "DELETE FROM social_profile_words WHERE seq = ?1",
    };
    db.execute(sql, values![seq]).await.map(drop)
}

async fn find_words<D: Db>(
    db: &D,
    words: Words,
    text: &str,
    offset: i64,
    limit: i64,
) -> Result<Vec<i64>> {
    let table = match words {
        Words::Posts => "social_post_words",
        Words::Profiles => "social_profile_words",
    };
    let sql = format!(
        "SELECT seq FROM {table} WHERE words @@ plainto_tsquery('simple', ?1)
         ORDER BY ts_rank(words, plainto_tsquery('simple', ?1)) DESC, seq DESC LIMIT ?2 OFFSET ?3"
    );
    let rows = db.query(&sql, values![&plain(text)[..], limit, offset]).await?;
    rows.iter().map(|row| row.int(0)).collect()
}

/// Text without U+0000, which text here cannot hold.
fn plain(text: &str) -> String {
    text.replace('\0', " ")
}

impl ToSql for Value {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(number) if *ty == Type::INT4 => i32::try_from(*number)?.to_sql(ty, out),
            Self::Int(number) => number.to_sql(ty, out),
            Self::Bytes(bytes) => (&bytes[..]).to_sql(ty, out),
            Self::Text(text) => text.to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::INT4 | Type::BYTEA | Type::TEXT)
    }

    to_sql_checked!();
}
