//! The history of locks as it is read back.

use relay_proto::{
    Namespace,
    lease::{LeaseRow, Resource},
};

/// Which rows of the history are wanted, newest first.
#[derive(Debug, Clone)]
pub struct HistoryQuery {
    pub ns: Namespace,
    pub resource: Option<Resource>,
    /// Rows before this one.
    pub before_id: Option<u64>,
    pub limit: usize,
}

/// A row with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    pub id: u64,
    pub row: LeaseRow,
}
