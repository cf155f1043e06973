//! Files: encrypted here, stored among the relay's attachments by hash (`gateway.md`, Attachments).
//!
//! A file has a key of its own, which travels in the message. It is cut into pieces, each sealed alone, so that it is
//! written piece by piece, can be resumed, and neither cut nor reordered unnoticed:
//!
//! ```text
//! piece = nonce[12] || AES-256-GCM(key, nonce, 64 KiB of the file, aad = number[8] || last[1])
//! ```

mod outgoing;

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use aes_gcm::{
    Aes256Gcm, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

pub(crate) use outgoing::Outgoing;

use crate::{
    content::{FileBody, MAX_NAME, shortened},
    error::{Error, Hostile, Refusal, Result},
    store::random,
};

/// Bytes of a file in one piece.
pub(crate) const PIECE: usize = 64 << 10;
const NONCE: usize = 12;
const TAG: usize = 16;
/// Bytes of a whole sealed piece.
pub(crate) const SEALED: usize = NONCE + PIECE + TAG;
/// The largest file; it is encrypted in memory, and relays take as much by default.
pub(crate) const MAX_FILE: u64 = 63 << 20;

/// A file ready to be handed to the relay.
#[derive(Debug)]
pub(crate) struct SealedFile {
    pub body: FileBody,
    pub bytes: Vec<u8>,
}

/// Reads and encrypts a file.
pub(crate) fn seal(path: &Path, mime: Option<&str>) -> Result<SealedFile> {
    let file = |source| Error::File { path: path.to_owned(), source };
    let mut input = File::open(path).map_err(file)?;
    let size = input.metadata().map_err(file)?.len();
    if size > MAX_FILE {
        return Err(Refusal::Invalid(format!("a file has at most {MAX_FILE} bytes")).into());
    }
    let key = Zeroizing::new(random::<32>()?);
    let cipher = Aes256Gcm::new((&*key).into());
    let pieces = size.div_ceil(PIECE as u64).max(1);
    let mut bytes = Vec::with_capacity(size as usize + pieces as usize * (NONCE + TAG));
    let mut piece = Zeroizing::new(Vec::with_capacity(PIECE));
    let mut read = 0;
    for number in 0..pieces {
        piece.clear();
        (&mut input).take(PIECE as u64).read_to_end(&mut piece).map_err(file)?;
        read += piece.len() as u64;
        let nonce = random::<NONCE>()?;
        let payload = Payload { msg: &piece, aad: &aad(number, number + 1 == pieces) };
        let sealed = cipher
            .encrypt(Nonce::from_slice(&nonce), payload)
            .map_err(|_| Error::Mls("a piece cannot be encrypted".into()))?;
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
    }
    if read != size {
        let source = std::io::Error::other("it changed while it was read");
        return Err(Error::File { path: path.to_owned(), source });
    }
    let digest = blake3::hash(&bytes).to_hex().to_string();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let body = FileBody {
        name: shortened(&name.unwrap_or_else(|| "file".into()), MAX_NAME),
        mime: mime.unwrap_or("application/octet-stream").to_owned(),
        size,
        url: format!("/v1/blobs/{digest}"),
        key: URL_SAFE_NO_PAD.encode(*key),
        digest,
    };
    Ok(SealedFile { body, bytes })
}

/// A file that is being saved, piece by piece, beside where it will be.
pub(crate) struct Saving {
    cipher: Aes256Gcm,
    part: PathBuf,
    target: PathBuf,
    output: File,
    /// The next piece.
    number: u64,
    pieces: u64,
    size: u64,
}

impl std::fmt::Debug for Saving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Saving").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Saving {
    /// Begins, or goes on where an earlier try ended.
    pub fn begin(body: &FileBody, target: &Path) -> Result<Self> {
        let key: Option<[u8; 32]> =
            URL_SAFE_NO_PAD.decode(&body.key).ok().and_then(|key| key.try_into().ok());
        let key = Zeroizing::new(
            key.ok_or_else(|| Hostile::Malformed("a file's key has 32 bytes".into()))?,
        );
        if target.exists() {
            let source = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(Error::File { path: target.to_owned(), source });
        }
        let mut part = target.as_os_str().to_owned();
        // The same file under the same name goes on; another one begins anew.
        part.push(format!(".{}.part", shortened(&body.digest, 8)));
        let part = PathBuf::from(part);
        let io = |source| Error::File { path: part.clone(), source };
        let mut output =
            OpenOptions::new().create(true).truncate(false).write(true).open(&part).map_err(io)?;
        let have = output.metadata().map_err(io)?.len();
        let pieces = body.size.div_ceil(PIECE as u64).max(1);
        let number = (have / PIECE as u64).min(pieces - 1);
        output.set_len(number * PIECE as u64).map_err(io)?;
        output.seek(SeekFrom::End(0)).map_err(io)?;
        let cipher = Aes256Gcm::new((&*key).into());
        Ok(Self {
            cipher,
            part,
            target: target.to_owned(),
            output,
            number,
            pieces,
            size: body.size,
        })
    }

    /// First and last byte of what is needed next, of the attachment; at most `pieces` pieces. `None` at the end.
    pub fn wanted(&self, pieces: u64) -> Option<(u64, u64)> {
        let end = (self.number + pieces).min(self.pieces);
        let sealed = SEALED as u64;
        let whole = self.size + self.pieces * (NONCE + TAG) as u64;
        (self.number < end).then(|| (self.number * sealed, (end * sealed).min(whole) - 1))
    }

    /// How much of the file is here.
    pub fn done(&self) -> u64 {
        (self.number * PIECE as u64).min(self.size)
    }

    /// Takes what [`wanted`](Self::wanted) named.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        for sealed in bytes.chunks(SEALED) {
            let bad =
                || Error::Hostile(Hostile::Malformed("a piece of the file does not verify".into()));
            let last = self.number + 1 == self.pieces;
            let (nonce, sealed) = sealed.split_at_checked(NONCE).ok_or_else(bad)?;
            let payload = Payload { msg: sealed, aad: &aad(self.number, last) };
            let piece =
                self.cipher.decrypt(Nonce::from_slice(nonce), payload).map_err(|_| bad())?;
            if !last && piece.len() != PIECE {
                return Err(bad());
            }
            self.output
                .write_all(&piece)
                .map_err(|source| Error::File { path: self.part.clone(), source })?;
            self.number += 1;
        }
        Ok(())
    }

    /// Puts the whole file in its place, never over another one.
    pub fn finish(self) -> Result<PathBuf> {
        let io = |source| Error::File { path: self.target.clone(), source };
        self.output.sync_all().map_err(io)?;
        // A link fails where something is there already, a rename would not.
        std::fs::hard_link(&self.part, &self.target).map_err(io)?;
        std::fs::remove_file(&self.part).map_err(io)?;
        Ok(self.target)
    }
}

fn aad(number: u64, last: bool) -> [u8; 9] {
    let mut aad = [u8::from(last); 9];
    aad[..8].copy_from_slice(&number.to_be_bytes());
    aad
}

/// A name that stays in its folder, whatever the sender wrote.
pub(crate) fn safe_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String = last.chars().filter(|c| !c.is_control()).collect();
    let clean = clean.trim_matches(['.', ' ']).to_owned();
    if clean.is_empty() { "file".into() } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(size: usize) {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..size).map(|n| (n * 7) as u8).collect();
        let from = dir.path().join("in.bin");
        std::fs::write(&from, &content).unwrap();
        let sealed = seal(&from, None).unwrap();
        assert_eq!((sealed.body.size, sealed.body.name.as_str()), (size as u64, "in.bin"));
        let target = dir.path().join("out.bin");
        // It goes on after each piece as after a broken connection.
        loop {
            let mut saving = Saving::begin(&sealed.body, &target).unwrap();
            let (first, last) = saving.wanted(1).unwrap();
            saving.take(&sealed.bytes[first as usize..=last as usize]).unwrap();
            if saving.wanted(1).is_none() {
                saving.finish().unwrap();
                break;
            }
        }
        assert_eq!(std::fs::read(&target).unwrap(), content);
        assert!(Saving::begin(&sealed.body, &target).is_err(), "never over another file");
    }

    #[test]
    fn files_of_all_sizes_come_back() {
        for size in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
            round(size);
        }
    }

    #[test]
    fn a_changed_piece_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("in");
        std::fs::write(&from, vec![7; 2 * PIECE]).unwrap();
        let sealed = seal(&from, None).unwrap();
        let swapped = [&sealed.bytes[SEALED..], &sealed.bytes[..SEALED]].concat();
        let mut flipped = sealed.bytes.clone();
        flipped[100] ^= 1;
        for bad in [swapped, flipped, sealed.bytes[..SEALED / 2].to_vec()] {
            let mut saving = Saving::begin(&sealed.body, &dir.path().join("out")).unwrap();
            assert!(saving.take(&bad).is_err());
        }
    }

    #[test]
    fn names_do_not_leave_their_folder() {
        for (name, safe) in
            [("../../etc/passwd", "passwd"), ("a\\b.txt", "b.txt"), ("..", "file"), ("ok", "ok")]
        {
            assert_eq!(safe_name(name), safe);
        }
    }
}
