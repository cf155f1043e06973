//! Bytes that only their owners can read: attachments by hash, and vaults (`gateway.md` 15, `mls-profile.md` 8).

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwap, Guard};
use relay_proto::{Code, NodeId, Problem};
use relay_store::{
    BlobFiles, BlobWriter, Clock, Store, StoreError,
    chat::{BlobRefusal, BlobRow},
};

use crate::failure::{correlation_id, store_problem};

/// The largest vault, bytes.
pub const MAX_VAULT: usize = 1 << 20;
/// Attachments deleted in one go.
const SWEEP: u64 = 100;

/// Settings of attachments.
#[derive(Debug, Clone, Copy)]
pub struct AttachmentConfig {
    /// Of one attachment, bytes.
    pub max_bytes: u64,
    /// Of all attachments of one user, bytes.
    pub quota_bytes: u64,
    /// How long an attachment is kept, milliseconds.
    pub ttl_ms: u64,
}

impl Default for AttachmentConfig {
    fn default() -> Self {
        Self { max_bytes: 64 << 20, quota_bytes: 1 << 30, ttl_ms: 30 * 86_400_000 }
    }
}

/// What operators want to know.
#[derive(Debug, Default)]
pub struct AttachmentStats {
    pub stored_bytes: AtomicU64,
    pub expired: AtomicU64,
}

/// The domain.
#[derive(Debug)]
pub struct Attachments {
    store: Store,
    files: BlobFiles,
    clock: Arc<dyn Clock>,
    config: ArcSwap<AttachmentConfig>,
    stats: AttachmentStats,
}

/// An attachment on its way in.
#[derive(Debug)]
pub struct Upload {
    owner: NodeId,
    hash: [u8; 32],
    writer: BlobWriter,
    limit: u64,
}

impl Attachments {
    pub fn new(
        store: Store,
        files: BlobFiles,
        clock: Arc<dyn Clock>,
        config: AttachmentConfig,
    ) -> Self {
        Self {
            store,
            files,
            clock,
            config: ArcSwap::from_pointee(config),
            stats: AttachmentStats::default(),
        }
    }

    fn config(&self) -> Guard<Arc<AttachmentConfig>> {
        self.config.load()
    }

    /// Uses other settings from now on.
    pub fn reconfigure(&self, config: AttachmentConfig) {
        self.config.store(Arc::new(config));
    }

    pub fn stats(&self) -> &AttachmentStats {
        &self.stats
    }

    /// Begins an upload of `told` bytes, where the client says how many.
    ///
    /// # Errors
    /// `too_large`, `quota_exceeded` before a byte is read.
    pub async fn begin(
        &self,
        owner: NodeId,
        hash: [u8; 32],
        told: Option<u64>,
    ) -> Result<Upload, Problem> {
        if told.is_some_and(|told| told > self.config().max_bytes) {
            return Err(self.too_large());
        }
        let used = self.store.blob_usage(owner).await.map_err(|error| store_problem(&error))?;
        let left = self.config().quota_bytes.saturating_sub(used);
        if told.unwrap_or(0) > left && self.find(hash).await.is_err() {
            return Err(over_quota(used));
        }
        let writer = self.files.create().await.map_err(|error| file_problem(&error))?;
        Ok(Upload { owner, hash, writer, limit: self.config().max_bytes })
    }

    /// Keeps an upload whose bytes are those that were named.
    ///
    /// # Errors
    /// `invalid_request` for other bytes, `quota_exceeded`.
    pub async fn finish(&self, upload: Upload) -> Result<(), Problem> {
        let Upload { owner, hash, writer, .. } = upload;
        if writer.hash() != hash {
            return Err(Problem::invalid("the bytes have another hash than the path says"));
        }
        let size = writer.size();
        let now_ms = self.now_ms();
        let row = BlobRow {
            hash,
            owner,
            size,
            created_at_ms: now_ms,
            expires_at_ms: now_ms.saturating_add(self.config().ttl_ms),
        };
        // The file first: a row promises that there is one. A file without a row is overwritten or never found.
        self.files.keep(writer, &hash).await.map_err(|error| file_problem(&error))?;
        let kept = self.store.put_blob(row, self.config().quota_bytes).await;
        match kept.map_err(|error| store_problem(&error))? {
            Ok(()) => {
                self.stats.stored_bytes.fetch_add(size, Ordering::Relaxed);
                Ok(())
            }
            Err(BlobRefusal::Quota { used }) => {
                let _ = self.files.delete(&hash).await;
                Err(over_quota(used))
            }
        }
    }

    /// An attachment that has not expired.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn find(&self, hash: [u8; 32]) -> Result<BlobRow, Problem> {
        let row = self.store.blob(hash).await.map_err(|error| store_problem(&error))?;
        row.filter(|row| row.expires_at_ms > self.now_ms())
            .ok_or_else(|| Problem::not_found("no such attachment"))
    }

    /// Its bytes.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn open(&self, hash: [u8; 32]) -> Result<tokio::fs::File, Problem> {
        self.files.read(&hash).await.map_err(|error| file_problem(&error))
    }

    /// Deletes what has expired.
    ///
    /// # Errors
    /// The store's.
    pub async fn sweep(&self) -> Result<(), StoreError> {
        loop {
            let now_ms = self.now_ms();
            let expired = self.store.expired_blobs(now_ms, SWEEP).await?;
            for hash in &expired {
                // The row first, and only if nobody renewed it meanwhile.
                if self.store.drop_blob(*hash, now_ms).await? {
                    self.stats.expired.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = self.files.delete(hash).await {
                        tracing::warn!(%error, "the file of an expired attachment stays");
                    }
                }
            }
            if (expired.len() as u64) < SWEEP {
                return Ok(());
            }
        }
    }

    /// A user's vault: version and bytes; version 0 where there is none.
    ///
    /// # Errors
    /// The store's.
    pub async fn vault(&self, user: NodeId) -> Result<(u64, Vec<u8>), Problem> {
        let vault = self.store.vault(user).await.map_err(|error| store_problem(&error))?;
        Ok(vault.unwrap_or_default())
    }

    /// Replaces a vault of this version; returns the new one.
    ///
    /// # Errors
    /// `too_large`; `conflict` with the present `version`.
    pub async fn set_vault(
        &self,
        user: NodeId,
        version: u64,
        blob: Vec<u8>,
    ) -> Result<u64, Problem> {
        if blob.len() > MAX_VAULT {
            return Err(Problem::new(Code::TooLarge, "a vault has at most 1 MiB"));
        }
        let set = self.store.set_vault(user, version, blob, self.now_ms()).await;
        set.map_err(|error| store_problem(&error))?.map_err(|present| {
            Problem::new(Code::Conflict, "the vault has changed").with("version", present)
        })
    }

    fn too_large(&self) -> Problem {
        let limit = self.config().max_bytes;
        Problem::new(Code::TooLarge, format!("an attachment has at most {limit} bytes"))
    }

    fn now_ms(&self) -> u64 {
        self.clock.wall_ns() / 1_000_000
    }
}

impl Upload {
    /// Adds bytes.
    ///
    /// # Errors
    /// `too_large`.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        if self.writer.size() + bytes.len() as u64 > self.limit {
            let message = format!("an attachment has at most {} bytes", self.limit);
            return Err(Problem::new(Code::TooLarge, message));
        }
        self.writer.write(bytes).await.map_err(|error| file_problem(&error))
    }
}

fn over_quota(used: u64) -> Problem {
    Problem::new(Code::QuotaExceeded, "your attachments have too many bytes").with("used", used)
}

fn file_problem(error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::NotFound => Problem::not_found("no such attachment"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            store_problem(&StoreError::Full)
        }
        _ => {
            let request_id = correlation_id();
            tracing::error!(%error, request_id, "a file failed");
            Problem::new(Code::InternalError, "the relay could not store or read this")
                .with("request_id", request_id)
        }
    }
}
