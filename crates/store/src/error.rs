//! What can go wrong below the domains.

/// A failure of the store. Nothing of the failed call is stored, unless it says otherwise.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("the store is closed")]
    Closed,
    #[error("the store is busy: another process holds the database")]
    Busy,
    #[error("the disk is full")]
    Full,
    /// The connection broke; whether the call took effect is not known. It can be repeated.
    #[error("the connection to the database was lost: {0}")]
    Lost(String),
    /// A write to disk failed; the store refuses all writes until it is opened again.
    #[error("the disk failed: {0}")]
    Disk(String),
    #[error("the database is damaged: {0}")]
    Corrupt(String),
    #[error("the database was written by a newer relay (schema {found}, this one knows {known})")]
    TooNew { found: i64, known: i64 },
    #[error("another relay process uses this database")]
    InUse,
    /// The database is set up so that what was acknowledged could be lost.
    #[error("the database cannot be used: {0}")]
    Unsafe(String),
    /// More of a social system than it may hold.
    #[error(transparent)]
    Over(#[from] crate::social::Over),
    #[error("database: {0}")]
    Database(String),
}

impl StoreError {
    /// Whether the same call may succeed later without anybody's help.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Busy | Self::Full | Self::Lost(_))
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as C;
        match error.sqlite_error_code() {
            Some(C::DatabaseBusy | C::DatabaseLocked) => Self::Busy,
            Some(C::DiskFull) => Self::Full,
            Some(C::SystemIoFailure) => Self::Disk(error.to_string()),
            Some(C::DatabaseCorrupt | C::NotADatabase) => Self::Corrupt(error.to_string()),
            _ => Self::Database(error.to_string()),
        }
    }
}

pub type Result<T, E = StoreError> = std::result::Result<T, E>;
