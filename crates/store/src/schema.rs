//! The schema's version, one number for both stores.

/// The schema that this program writes.
pub const SCHEMA_VERSION: i64 = 11;

/// What a database holds and what this program knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaStatus {
    /// Version in the database, 0 if it is empty.
    pub found: i64,
    /// Version that this program writes.
    pub known: i64,
}

/// Names in `meta`, the same in both stores.
///
/// `seq` is never used twice, also when the newest events have been deleted: whoever deletes raises this.
pub(crate) const NEXT_SEQ_FLOOR: &str = "next_seq_floor";
/// SQLite: the index tables are complete up to this `seq`.
pub(crate) const INDEXED_SEQ: &str = "indexed_seq";
/// Up to this row of the lock history `locks` is complete.
pub(crate) const LOCKS_THROUGH: &str = "locks_through";
/// No token up to this one is given again, whatever the history says.
pub(crate) const LAST_TOKEN: &str = "last_fencing_token";
