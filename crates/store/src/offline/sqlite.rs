//! The embedded store as source and as target.

use std::{fs::File, path::Path};

use rusqlite::{Connection, params_from_iter, types::ValueRef};
use tokio::sync::mpsc;

use super::{
    CHUNK_BYTES, CHUNK_ROWS, Reading, UNFINISHED, not_empty, size,
    tables::{Chunk, Kind, TABLES, Table, Value},
    telling,
};
use crate::{
    error::{Result, StoreError},
    schema::LOCKS_THROUGH,
    social,
    sql::{SqliteSql, now},
    sqlite::{exclusive, rebuild_indexes},
};

/// Opens and migrates the store in `dir`; holds it until dropped.
pub(super) fn open(dir: &Path, new_log_id: u32) -> Result<(File, Connection)> {
    exclusive(dir, new_log_id)
}

/// Sends every row; returns how many there are.
pub(super) fn read(dir: &Path, send: mpsc::Sender<Chunk>) -> Result<(u64, Reading)> {
    let (lock, conn) = open(dir, 0)?;
    let mut total = 0;
    for table in TABLES {
        let sql = format!("SELECT count(*) FROM {}{}", table.name, table.condition());
        total += conn.query_row(&sql, [], |row| row.get::<_, i64>(0))? as u64;
    }
    let reading = tokio::task::spawn_blocking(move || {
        let _lock = lock;
        TABLES.iter().try_for_each(|table| read_table(&conn, table, &send))
    });
    Ok((total, reading))
}

fn read_table(conn: &Connection, table: &'static Table, send: &mpsc::Sender<Chunk>) -> Result<()> {
    let (columns, name) = (table.names().join(", "), table.name);
    let condition = table.condition();
    let mut select =
        conn.prepare(&format!("SELECT {columns} FROM {name}{condition} ORDER BY {}", table.order))?;
    let mut found = select.query([])?;
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.next()? {
        let values: Result<Vec<Value>> =
            (0..table.columns.len()).map(|index| value(row.get_ref(index)?)).collect();
        let values = values?;
        bytes += size(&values);
        rows.push(values);
        if rows.len() == CHUNK_ROWS || bytes >= CHUNK_BYTES {
            bytes = 0;
            let rows = std::mem::take(&mut rows);
            send.blocking_send(Chunk { table, rows }).map_err(|_| StoreError::Closed)?;
        }
    }
    if !rows.is_empty() {
        send.blocking_send(Chunk { table, rows }).map_err(|_| StoreError::Closed)?;
    }
    Ok(())
}

fn value(stored: ValueRef<'_>) -> Result<Value> {
    Ok(match stored {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Number(number),
        ValueRef::Text(bytes) => Value::Text(
            std::str::from_utf8(bytes).map_err(|e| StoreError::Corrupt(e.to_string()))?.to_owned(),
        ),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
        ValueRef::Real(_) => return Err(StoreError::Corrupt("a number is no integer".into())),
    })
}

pub(super) struct Target {
    _lock: File,
    conn: Connection,
}

impl Target {
    pub fn open(dir: &Path) -> Result<Self> {
        let (_lock, conn) = open(dir, 0)?;
        for table in telling() {
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {})", table.name);
            if conn.query_row(&sql, [], |row| row.get(0))? {
                return Err(not_empty(table));
            }
        }
        conn.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, 1)", [UNFINISHED])?;
        Ok(Self { _lock, conn })
    }

    pub fn write(&self, chunk: &Chunk) -> Result<()> {
        let names = chunk.table.names();
        let places: Vec<String> = (1..=names.len()).map(|place| format!("?{place}")).collect();
        let sql = format!(
            "INSERT OR REPLACE INTO {} ({}) VALUES ({})",
            chunk.table.name,
            names.join(", "),
            places.join(", ")
        );
        self.conn.execute_batch("BEGIN IMMEDIATE")?;
        let mut insert = self.conn.prepare_cached(&sql)?;
        for row in &chunk.rows {
            let kinds = chunk.table.columns.iter().map(|(_, kind)| *kind);
            let values: Result<Vec<_>> = row.iter().zip(kinds).map(bound).collect();
            insert.execute(params_from_iter(values?))?;
        }
        drop(insert);
        Ok(self.conn.execute_batch("COMMIT")?)
    }

    pub fn finish(self) -> Result<()> {
        // The tables that only this store has are made anew from what was copied.
        rebuild_indexes(&self.conn)?;
        self.conn.execute_batch("BEGIN IMMEDIATE")?;
        now(social::rebuild_words(&SqliteSql(&self.conn)))?;
        self.conn.execute_batch("COMMIT")?;
        self.conn.execute(
            "INSERT INTO lock_history_index (lock, history_id)
             SELECT lock, id FROM lock_history
             WHERE id <= (SELECT value FROM meta WHERE key = ?1) ORDER BY lock, id",
            [LOCKS_THROUGH],
        )?;
        self.conn.execute("DELETE FROM meta WHERE key = ?1", [UNFINISHED])?;
        self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }
}

fn bound((value, kind): (&Value, Kind)) -> Result<rusqlite::types::Value> {
    use rusqlite::types::Value as V;
    Ok(match (value, kind) {
        (Value::Null, _) => V::Null,
        (Value::Number(number), _) => V::Integer(*number),
        (Value::Text(text), _) => V::Text(text.clone()),
        (Value::Bytes(bytes), Kind::Words) => V::Text(
            String::from_utf8(bytes.clone()).map_err(|e| StoreError::Corrupt(e.to_string()))?,
        ),
        (Value::Bytes(bytes), _) => V::Blob(bytes.clone()),
    })
}
