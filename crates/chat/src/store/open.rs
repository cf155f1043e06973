//! Finding, making and locking the file.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    sync::Mutex,
};

use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, OptionalExtension};

use super::{
    Store,
    seal::{self, Keys, Unlock, Wrapped},
};
use crate::error::{Error, Result, StateError};

/// The form of the tables. Raised with every change of them.
const FORMAT: u32 = 1;
const FILE: &str = "chat.db";
const LOCK: &str = "chat.lock";

/// The tables. Names are the tags of [`Keys::tag`]; `sealed` is JSON under the data key.
const TABLES: &str = "
-- What there is one of; also the wrapped data key, which alone is not sealed.
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID, STRICT;
-- What the MLS library keeps, one scope for the device and one for each group.
CREATE TABLE mls (scope BLOB NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (scope, name)) WITHOUT ROWID, STRICT;
-- One conversation.
CREATE TABLE conversations (n INTEGER PRIMARY KEY, tag BLOB NOT NULL UNIQUE, sealed BLOB NOT NULL) STRICT;
-- One entry of a conversation's log; shown = 0 where it changes another one instead of standing for itself.
CREATE TABLE messages (conv INTEGER NOT NULL REFERENCES conversations (n) ON DELETE CASCADE, seq INTEGER NOT NULL,
  shown INTEGER NOT NULL, tag BLOB, sealed BLOB NOT NULL, PRIMARY KEY (conv, seq)) WITHOUT ROWID, STRICT;
CREATE INDEX messages_by_id ON messages (conv, tag) WHERE tag IS NOT NULL;
CREATE INDEX messages_shown ON messages (conv, seq) WHERE shown = 1;
-- What is to be sent, in order; rows go when the log has brought them back.
CREATE TABLE outbox (n INTEGER PRIMARY KEY AUTOINCREMENT, conv INTEGER NOT NULL REFERENCES conversations (n) ON DELETE CASCADE,
  tag BLOB, sealed BLOB NOT NULL) STRICT;
CREATE INDEX outbox_by_conversation ON outbox (conv, n);
-- People whom the user gave names to, trusts or blocks.
CREATE TABLE people (tag BLOB PRIMARY KEY, sealed BLOB NOT NULL) WITHOUT ROWID, STRICT;
";

impl Store {
    /// Opens the profile in `dir`, making it where there is none.
    pub fn open(dir: &Path, unlock: &Unlock) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io(dir))?;
        let held = lock_profile(dir)?;
        let path = dir.join(FILE);
        // SQLite gives its side files the mode of the database.
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io(&path))?;
        let writer = connect(&path)?;
        let format: u32 = writer.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if format > FORMAT {
            return Err(StateError::Newer(format).into());
        }
        let keys = if format == 0 {
            let (keys, wrapped) = Keys::generate(unlock)?;
            writer.execute_batch(&format!(
                "BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {FORMAT};"
            ))?;
            save_wrapped(&writer, &wrapped)?;
            writer.execute_batch("COMMIT")?;
            keys
        } else {
            Keys::unwrap(&load_wrapped(&writer)?, unlock)?
        };
        let reader = connect(&path)?;
        reader.pragma_update(None, "query_only", true)?;
        Ok(Self { keys, writer: Mutex::new(writer), reader: Mutex::new(reader), _lock: held })
    }
}

pub(super) fn needs_passphrase(dir: &Path) -> Result<Option<bool>> {
    let path = dir.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let sql = connect(&path)?;
    let format: u32 = sql.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if format == 0 {
        return Ok(None);
    }
    load_wrapped(&sql).map(|wrapped| Some(wrapped.needs_passphrase()))
}

pub(super) fn rewrap(dir: &Path, old: &Unlock, new: &Unlock) -> Result<()> {
    let _held = lock_profile(dir)?;
    let sql = connect(&dir.join(FILE))?;
    save_wrapped(&sql, &seal::rewrap(&load_wrapped(&sql)?, old, new)?)
}

fn save_wrapped(sql: &Connection, wrapped: &Wrapped) -> Result<()> {
    let text = serde_json::to_vec(wrapped)?;
    sql.execute(
        "INSERT INTO meta (name, value) VALUES ('key', ?1) ON CONFLICT (name) DO UPDATE SET value = ?1",
        [text],
    )?;
    Ok(())
}

fn load_wrapped(sql: &Connection) -> Result<Wrapped> {
    let text: Option<Vec<u8>> = sql
        .query_row("SELECT value FROM meta WHERE name = 'key'", [], |row| row.get(0))
        .optional()?;
    let text = text.ok_or(StateError::Damaged)?;
    serde_json::from_slice(&text).map_err(|_| StateError::Damaged.into())
}

fn connect(path: &Path) -> Result<Connection> {
    let sql = Connection::open(path)?;
    sql.pragma_update(None, "journal_mode", "wal")?;
    sql.pragma_update(None, "foreign_keys", true)?;
    // What was deleted must not lie in free pages.
    sql.pragma_update(None, "secure_delete", true)?;
    sql.busy_timeout(std::time::Duration::from_secs(5))?;
    sql.set_prepared_statement_cache_capacity(64);
    Ok(sql)
}

/// One process at a time: two that count the same ratchet would use a key twice.
fn lock_profile(dir: &Path) -> Result<Flock<File>> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(io(&path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut held) => {
            // Only for the sentence that another process shows.
            let note = held
                .set_len(0)
                .and_then(|()| held.seek(SeekFrom::Start(0)))
                .and_then(|_| write!(held, "{}", std::process::id()));
            note.map_err(io(&path))?;
            Ok(held)
        }
        Err((mut file, _)) => {
            let mut text = String::new();
            let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            Err(StateError::InUse(holder).into())
        }
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| match source.kind() {
        std::io::ErrorKind::StorageFull => Error::State(StateError::Full),
        _ => Error::State(StateError::Io { path, source }),
    }
}
