//! The local state of one device: everything that a chat knows, in one SQLite file, each value sealed.
//!
//! [`Store::write`] is the only way to change anything, and is one transaction: MLS state, plaintext, the cursor in the
//! relay's log and what waits to be sent change together or not at all. A message whose key was used up but whose
//! text was not stored cannot exist, whenever the process ends.
//!
//! What the file shows to somebody without the key: how many conversations and messages there are, their sizes, in
//! which order they were stored. Not who, not what, not when.

mod mls;
mod open;
pub(crate) mod rows;
mod seal;

use std::{
    cell::RefCell,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::fcntl::Flock;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, Result};

pub(crate) use mls::MlsStorage;
pub(crate) use rows::{ConvRow, OutRow};
use seal::Keys;
pub use seal::Unlock;
pub(crate) use seal::random;

/// The open state. One process at a time has it.
#[derive(Debug)]
pub(crate) struct Store {
    keys: Keys,
    /// The one that writes.
    writer: Mutex<Connection>,
    /// The one that answers questions meanwhile.
    reader: Mutex<Connection>,
    /// Held as long as the profile is open.
    _lock: Flock<std::fs::File>,
}

/// Whether what a transaction wrote must have reached the disk when it returns.
///
/// What is received can be received again; what is about to be sent was made with a key that must never be used a
/// second time, so it is on the disk before it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    Soon,
    Now,
}

impl Store {
    /// Runs a transaction. An error of `change` takes everything back.
    pub fn write<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&Tx<'_>) -> Result<T>,
    ) -> Result<T> {
        self.write_then(durability, change, || {})
    }

    /// The same; `then` is run once it is committed, before anybody else can write.
    pub fn write_then<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&Tx<'_>) -> Result<T>,
        then: impl FnOnce(),
    ) -> Result<T> {
        let mut writer = lock(&self.writer);
        let level = if durability == Durability::Now { "FULL" } else { "NORMAL" };
        writer.pragma_update(None, "synchronous", level)?;
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let tx = Tx::new(&transaction, &self.keys);
        let done = match change(&tx) {
            Ok(done) => done,
            // What the disk refused is no fault of the message that the MLS library was working on.
            Err(error) => return Err(tx.fault.take().unwrap_or(error)),
        };
        transaction.commit()?;
        then();
        Ok(done)
    }

    /// Looks something up in what was last committed.
    pub fn read<T>(&self, look: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let mut reader = lock(&self.reader);
        let transaction = reader.transaction()?;
        look(&Tx::new(&transaction, &self.keys))
    }

    /// As if the disk were full from so many pages on; 0 for a disk with room.
    #[cfg(test)]
    pub fn cap_pages(&self, pages: u32) {
        let writer = lock(&self.writer);
        let present: u32 = writer.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        let most = if pages == 0 { u32::MAX - 1 } else { present + pages };
        writer.pragma_update(None, "max_page_count", most).unwrap();
    }

    /// Changes what opens the profile.
    pub fn rewrap(dir: &Path, old: &Unlock, new: &Unlock) -> Result<()> {
        open::rewrap(dir, old, new)
    }

    /// Whether the profile in this folder asks for a passphrase; `None` where there is no profile yet.
    pub fn needs_passphrase(dir: &Path) -> Result<Option<bool>> {
        open::needs_passphrase(dir)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic inside a transaction rolled it back, so what the mutex guards is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A transaction under way.
#[derive(Debug)]
pub(crate) struct Tx<'a> {
    sql: &'a Connection,
    keys: &'a Keys,
    /// What went wrong under the MLS library, which tells its own errors only.
    fault: RefCell<Option<Error>>,
}

impl<'a> Tx<'a> {
    fn new(sql: &'a Connection, keys: &'a Keys) -> Self {
        Self { sql, keys, fault: RefCell::default() }
    }
}

impl Tx<'_> {
    /// A single value of the profile.
    pub fn meta<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let sealed: Option<Vec<u8>> = self
            .sql
            .prepare_cached("SELECT value FROM meta WHERE name = ?1")?
            .query_row([name], |row| row.get(0))
            .optional()?;
        sealed.map(|sealed| self.open_json(&place("meta", name.as_bytes()), &sealed)).transpose()
    }

    pub fn set_meta(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let sealed = self.seal_json(&place("meta", name.as_bytes()), value)?;
        self.sql
            .prepare_cached("INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2")?
            .execute(params![name, sealed])?;
        Ok(())
    }

    pub fn forget_meta(&self, name: &str) -> Result<()> {
        self.sql.prepare_cached("DELETE FROM meta WHERE name = ?1")?.execute([name])?;
        Ok(())
    }

    fn seal_json(&self, place: &[u8], value: &impl Serialize) -> Result<Vec<u8>> {
        let text = zeroize::Zeroizing::new(serde_json::to_vec(value)?);
        self.keys.seal(place, &text)
    }

    fn open_json<T: DeserializeOwned>(&self, place: &[u8], sealed: &[u8]) -> Result<T> {
        let text = self.keys.open(place, sealed)?;
        serde_json::from_slice(&text).map_err(Error::from)
    }
}

/// What a sealed value is bound to: its table and the key of its row.
fn place(table: &str, key: &[u8]) -> Vec<u8> {
    [table.as_bytes(), b"\0", key].concat()
}
