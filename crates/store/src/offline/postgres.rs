//! PostgreSQL as source and as target.

use futures_util::{TryStreamExt, pin_mut};
use tokio::sync::mpsc;
use tokio_postgres::{Client, Row, types::ToSql};

use super::{
    CHUNK_BYTES, CHUNK_ROWS, Reading, UNFINISHED, not_empty, size,
    tables::{Chunk, Kind, TABLES, Table, Value},
    telling,
};
use crate::{
    error::{Result, StoreError},
    postgres::{Exclusive, number_list, plain_text},
    social,
    tags::tag_hashes,
};

/// Opens and migrates the store; no relay can use it until it is dropped.
pub(super) async fn open(url: &str, new_log_id: u32) -> Result<Exclusive> {
    Exclusive::open(url, new_log_id).await
}

/// Sends every row; returns how many there are.
pub(super) async fn read(url: &str, send: mpsc::Sender<Chunk>) -> Result<(u64, Reading)> {
    let exclusive = open(url, 0).await?;
    let mut total = 0;
    for table in TABLES {
        let sql = format!("SELECT count(*) FROM {}{}", table.name, table.condition());
        total += exclusive.client()?.query_one(&sql, &[]).await?.get::<_, i64>(0) as u64;
    }
    let reading = tokio::spawn(async move {
        for table in TABLES {
            read_table(exclusive.client()?, table, &send).await?;
        }
        Ok(())
    });
    Ok((total, reading))
}

async fn read_table(
    client: &Client,
    table: &'static Table,
    send: &mpsc::Sender<Chunk>,
) -> Result<()> {
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|(name, kind)| match kind {
            Kind::Small => format!("{name}::bigint"),
            _ => (*name).to_owned(),
        })
        .collect();
    let sql = format!(
        "SELECT {} FROM {}{} ORDER BY {}",
        columns.join(", "),
        table.name,
        table.condition(),
        table.order
    );
    let none: [&(dyn ToSql + Sync); 0] = [];
    let found = client.query_raw(&sql, none).await?;
    pin_mut!(found);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.try_next().await? {
        let value = |(index, (_, kind)): (usize, &(&str, Kind))| value(&row, index, *kind);
        let values: Vec<Value> = table.columns.iter().enumerate().map(value).collect();
        bytes += size(&values);
        rows.push(values);
        if rows.len() == CHUNK_ROWS || bytes >= CHUNK_BYTES {
            bytes = 0;
            let rows = std::mem::take(&mut rows);
            send.send(Chunk { table, rows }).await.map_err(|_| StoreError::Closed)?;
        }
    }
    if !rows.is_empty() {
        send.send(Chunk { table, rows }).await.map_err(|_| StoreError::Closed)?;
    }
    Ok(())
}

fn value(row: &Row, index: usize, kind: Kind) -> Value {
    let found = match kind {
        Kind::Number | Kind::Small => row.get::<_, Option<i64>>(index).map(Value::Number),
        Kind::Flag => row.get::<_, Option<bool>>(index).map(|flag| Value::Number(i64::from(flag))),
        Kind::Text => row.get::<_, Option<String>>(index).map(Value::Text),
        Kind::Bytes | Kind::Words => row.get::<_, Option<Vec<u8>>>(index).map(Value::Bytes),
    };
    found.unwrap_or(Value::Null)
}

pub(super) struct Target(Exclusive);

impl Target {
    pub async fn open(url: &str) -> Result<Self> {
        let exclusive = open(url, 0).await?;
        let client = exclusive.client()?;
        for table in telling() {
            let sql = format!("SELECT EXISTS (SELECT FROM {})", table.name);
            if client.query_one(&sql, &[]).await?.get(0) {
                return Err(not_empty(table));
            }
        }
        let mark = "INSERT INTO meta (key, value) VALUES ($1, 1) ON CONFLICT DO NOTHING";
        client.execute(mark, &[&UNFINISHED]).await?;
        Ok(Self(exclusive))
    }

    pub async fn write(&self, chunk: &Chunk) -> Result<()> {
        let table = chunk.table;
        let mut names = table.names();
        let mut columns: Vec<Box<dyn ToSql + Sync + Send>> = Vec::new();
        let mut lists = Vec::new();
        let mut selected: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        for (index, (_, kind)) in table.columns.iter().enumerate() {
            columns.push(column(chunk, index, *kind));
            lists.push(format!("${}::{}", index + 1, list_type(*kind)));
        }
        let mut given = names.clone();
        if table.name == "events" {
            // A column of its own here: what `event_tags` holds of the event.
            columns.push(Box::new(event_tags(chunk)?));
            lists.push(format!("${}::text[]", columns.len()));
            selected.push("tags::bigint[]".into());
            names.push("tags");
            given.push("tags");
        }
        let conflict = if table.name == "meta" {
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        } else {
            ""
        };
        let overriding = if table.numbered.is_some() { " OVERRIDING SYSTEM VALUE" } else { "" };
        let sql = format!(
            "INSERT INTO {} ({}){overriding} SELECT {} FROM unnest({}) AS given ({}){conflict}",
            table.name,
            names.join(", "),
            selected.join(", "),
            lists.join(", "),
            given.join(", "),
        );
        let values: Vec<&(dyn ToSql + Sync)> =
            columns.iter().map(|column| &**column as &(dyn ToSql + Sync)).collect();
        self.0.client()?.execute(&sql, &values).await?;
        Ok(())
    }

    pub async fn finish(self) -> Result<()> {
        let client = self.0.client()?;
        for table in TABLES {
            let Some(column) = table.numbered else { continue };
            let name = table.name;
            let sql = format!(
                "SELECT setval(pg_get_serial_sequence('{name}', '{column}'),
                     (SELECT coalesce(max({column}), 0) + 1 FROM {name}), false)"
            );
            client.execute(&sql, &[]).await?;
        }
        social::rebuild_words(&self.0.social()?).await?;
        client.execute("DELETE FROM meta WHERE key = $1", &[&UNFINISHED]).await?;
        client.batch_execute("ANALYZE").await?;
        Ok(())
    }
}

const fn list_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Number => "bigint[]",
        Kind::Small => "int[]",
        Kind::Flag => "bool[]",
        Kind::Text => "text[]",
        Kind::Bytes | Kind::Words => "bytea[]",
    }
}

fn column(chunk: &Chunk, index: usize, kind: Kind) -> Box<dyn ToSql + Sync + Send> {
    fn list<T: ToSql + Sync + Send + 'static>(
        chunk: &Chunk,
        index: usize,
        of: impl Fn(&Value) -> Option<T>,
    ) -> Box<dyn ToSql + Sync + Send> {
        let values = chunk.rows.iter().map(|row| row.get(index).and_then(&of));
        Box::new(values.collect::<Vec<Option<T>>>())
    }
    let number = |value: &Value| match value {
        Value::Number(number) => Some(*number),
        _ => None,
    };
    match kind {
        Kind::Number => list(chunk, index, number),
        Kind::Small => {
            list(chunk, index, |value| number(value).and_then(|n| i32::try_from(n).ok()))
        }
        Kind::Flag => list(chunk, index, |value| number(value).map(|flag| flag != 0)),
        Kind::Text => list(chunk, index, |value| match value {
            Value::Text(text) => Some(plain_text(text).into_owned()),
            _ => None,
        }),
        Kind::Bytes | Kind::Words => list(chunk, index, |value| match value {
            Value::Bytes(bytes) => Some(bytes.clone()),
            Value::Text(text) => Some(text.clone().into_bytes()),
            _ => None,
        }),
    }
}

/// The numbers of each event's tags, as the writer keeps them.
fn event_tags(chunk: &Chunk) -> Result<Vec<String>> {
    let tags = |row: &Vec<Value>| {
        let Some(Value::Bytes(json)) = row.last() else {
            return Err(StoreError::Corrupt("an event has no text".into()));
        };
        let event = relay_proto::Event::from_stored(json.clone().into())
            .map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let mut hashes: Vec<i64> = tag_hashes(&event).collect();
        hashes.sort_unstable();
        hashes.dedup();
        Ok(number_list(&hashes))
    };
    chunk.rows.iter().map(tags).collect()
}
