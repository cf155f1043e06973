//! What is kept: the event log, locks and their history, conversations, on SQLite or PostgreSQL, behind the product's verbs.
//!
//! [`Store`] is the door. Writes go through one writer that joins many callers in one transaction
//! ([`mod@writer`]); what it commits is told to a [`CommitObserver`]. Who may do what is not decided here.

mod access;
mod audit;
mod batch;
mod blob_files;
pub mod chat;
mod clock;
mod error;
mod event;
mod lease;
pub mod offline;
mod plan;
mod postgres;
mod schema;
mod sessions;
mod social;
mod sql;
mod sqlite;
mod store;
mod tags;
mod writer;

pub use access::{AccessTokenRow, TokenPurpose};
pub use audit::{AuditEntry, AuditRow};
pub use batch::Coordinate;
pub use blob_files::{BlobFiles, BlobWriter};
pub use clock::{Clock, SystemClock};
pub use error::{Result, StoreError};
pub use event::{
    Appended, Committed, EventQuery, FoundEvent, NamespaceInfo, Order, Page, Retention, StoredEvent,
};
pub use lease::{HistoryQuery, HistoryRow};
pub use postgres::{PostgresOptions, PostgresStore};
pub use schema::{SCHEMA_VERSION, SchemaStatus};
pub use sessions::{
    AuthTokenRow, Ending, NewSession, Opened, ProofFacts, Resumption, SessionLimits, SessionRow,
};
pub use social::{
    Censored, ClaimsQuery, Count, IndexPage, IndexQuery, Ingest, IngestReport, Ingested,
    MAX_ANSWER_EVENTS, ModerationState, Note, Over, OverWhat, RefsQuery, SocialChange, SocialEvent,
    SocialQuota, SystemUsage, Waiting, Words,
};
pub use sqlite::{SqliteOptions, SqliteStore};
pub use store::Store;
pub use writer::{CommitObserver, WriteStats};
