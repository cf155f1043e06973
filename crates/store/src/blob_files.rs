//! Attachments as files in the data directory, each under the hash of its bytes.
//!
//! A file is written beside its place, made durable, and moved there: what is in its place is whole.

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::{
    fs::{self, File},
    io::AsyncWriteExt,
};

/// The directory of attachments.
#[derive(Debug)]
pub struct BlobFiles {
    dir: PathBuf,
    next: AtomicU64,
}

/// A file that is being written. Dropped before its end it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    file: Option<File>,
    path: PathBuf,
    hasher: blake3::Hasher,
    size: u64,
}

impl BlobFiles {
    /// Opens or makes the directory; what a crash left half written is deleted.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let unfinished = dir.join(UNFINISHED);
        std::fs::create_dir_all(&unfinished)?;
        for left in std::fs::read_dir(&unfinished)? {
            std::fs::remove_file(left?.path())?;
        }
        Ok(Self { dir: dir.to_owned(), next: AtomicU64::new(0) })
    }

    /// Begins a file.
    ///
    /// # Errors
    /// The file system's.
    pub async fn create(&self) -> io::Result<BlobWriter> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(UNFINISHED).join(number.to_string());
        let file = File::create(&path).await?;
        Ok(BlobWriter { file: Some(file), path, hasher: blake3::Hasher::new(), size: 0 })
    }

    /// Puts a finished file into its place and returns when it is there for good.
    ///
    /// # Errors
    /// The file system's; then it is not there.
    pub async fn keep(&self, mut writer: BlobWriter, hash: &[u8; 32]) -> io::Result<()> {
        let Some(mut file) = writer.file.take() else { return Ok(()) };
        file.flush().await?;
        file.sync_all().await?;
        let place = self.place(hash);
        let Some(parent) = place.parent().map(Path::to_owned) else { return Ok(()) };
        fs::create_dir_all(&parent).await?;
        fs::rename(&writer.path, &place).await?;
        // The names have to be on disk as well, that of a new directory too.
        File::open(&parent).await?.sync_all().await?;
        File::open(&self.dir).await?.sync_all().await
    }

    /// The file of an attachment.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where there is none.
    pub async fn read(&self, hash: &[u8; 32]) -> io::Result<File> {
        File::open(self.place(hash)).await
    }

    /// Deletes the file of an attachment, if it is there.
    ///
    /// # Errors
    /// The file system's.
    pub async fn delete(&self, hash: &[u8; 32]) -> io::Result<()> {
        match fs::remove_file(self.place(hash)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Two levels, so that no directory gets very long.
    fn place(&self, hash: &[u8; 32]) -> PathBuf {
        let mut name = Vec::with_capacity(64);
        relay_proto::key::write_hex(hash, &mut name);
        let name = String::from_utf8_lossy(&name).into_owned();
        self.dir.join(&name[..2]).join(name)
    }
}

const UNFINISHED: &str = "unfinished";

impl BlobWriter {
    /// Adds bytes.
    ///
    /// # Errors
    /// The file system's.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        match &mut self.file {
            Some(file) => file.write_all(bytes).await,
            None => Ok(()),
        }
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The BLAKE3 of what was written so far.
    pub fn hash(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn what_is_kept_is_whole_and_the_rest_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let files = BlobFiles::open(dir.path()).unwrap();
        let mut writer = files.create().await.unwrap();
        writer.write(b"some ").await.unwrap();
        writer.write(b"bytes").await.unwrap();
        assert_eq!(writer.size(), 10);
        let hash = writer.hash();
        assert_eq!(hash, *blake3::hash(b"some bytes").as_bytes());
        files.keep(writer, &hash).await.unwrap();
        let mut text = String::new();
        files.read(&hash).await.unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "some bytes");
        let mut left = files.create().await.unwrap();
        left.write(b"half").await.unwrap();
        drop(left);
        std::fs::write(dir.path().join(UNFINISHED).join("99"), b"of a crash").unwrap();
        drop(files);
        let files = BlobFiles::open(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join(UNFINISHED)).unwrap().count(), 0);
        files.delete(&hash).await.unwrap();
        files.delete(&hash).await.unwrap();
        assert_eq!(files.read(&hash).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
