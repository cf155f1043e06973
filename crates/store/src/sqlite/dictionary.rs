//! Numbers for namespaces and authors, so that rows and indexes stay narrow.

use std::collections::HashMap;

use ahash::RandomState;
use relay_proto::{Namespace, NodeId};
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::Result;

/// Authors remembered by the writer; beyond it the cache starts anew. 40 bytes each.
const MAX_AUTHORS: usize = 200_000;

/// The writer's view: known numbers, new ones given out on first use.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    namespaces: HashMap<Namespace, i64, RandomState>,
    authors: HashMap<NodeId, i64, RandomState>,
}

impl Dictionary {
    pub fn namespace(&mut self, conn: &Connection, name: &Namespace) -> Result<i64> {
        if let Some(&n) = self.namespaces.get(name) {
            return Ok(n);
        }
        let n = match find_namespace(conn, name)? {
            Some(n) => n,
            None => {
                conn.prepare_cached("INSERT INTO namespaces (name) VALUES (?1)")?
                    .execute([name.as_str()])?;
                conn.last_insert_rowid()
            }
        };
        self.namespaces.insert(name.clone(), n);
        Ok(n)
    }

    pub fn author(&mut self, conn: &Connection, key: &NodeId) -> Result<i64> {
        if let Some(&n) = self.authors.get(key) {
            return Ok(n);
        }
        let n = match find_author(conn, key)? {
            Some(n) => n,
            None => {
                conn.prepare_cached("INSERT INTO authors (pubkey) VALUES (?1)")?
                    .execute(params![key.as_bytes()])?;
                conn.last_insert_rowid()
            }
        };
        if self.authors.len() >= MAX_AUTHORS {
            self.authors.clear();
        }
        self.authors.insert(*key, n);
        Ok(n)
    }

    /// After a rollback numbers that were given out may not exist.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

pub(super) fn find_namespace(conn: &Connection, name: &Namespace) -> Result<Option<i64>> {
    Ok(conn
        .prepare_cached("SELECT n FROM namespaces WHERE name = ?1")?
        .query_row([name.as_str()], |row| row.get(0))
        .optional()?)
}

pub(super) fn find_author(conn: &Connection, key: &NodeId) -> Result<Option<i64>> {
    Ok(conn
        .prepare_cached("SELECT n FROM authors WHERE pubkey = ?1")?
        .query_row(params![key.as_bytes()], |row| row.get(0))
        .optional()?)
}
