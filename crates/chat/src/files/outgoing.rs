//! Sealed files that the relay does not have yet, kept so that a restart or a broken line costs no new encryption.
//!
//! They are what will lie at the relay, and tell as little; their keys are in the outbox, which is sealed.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::SealedFile;
use crate::error::{Error, Result};

/// What is written before it is whole is called so.
const UNFINISHED: &str = "unfinished";

/// The folder of a profile where they lie, each named by the digest of its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing(PathBuf);

impl Outgoing {
    /// Of the profile in this folder.
    pub fn of(profile: &Path) -> Self {
        Self(profile.join("outgoing"))
    }

    /// Keeps a file; when this returns it survives a crash.
    pub fn keep(&self, sealed: &SealedFile) -> Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(at(&self.0))?;
        let unfinished = self.0.join(format!("{}.{UNFINISHED}", sealed.body.digest));
        let options =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).to_owned();
        let mut file = options.open(&unfinished).map_err(at(&unfinished))?;
        file.write_all(&sealed.bytes).map_err(at(&unfinished))?;
        file.sync_all().map_err(at(&unfinished))?;
        let path = self.0.join(&sealed.body.digest);
        fs::rename(&unfinished, &path).map_err(at(&path))?;
        File::open(&self.0).and_then(|folder| folder.sync_all()).map_err(at(&self.0))
    }

    /// The bytes of a file that was kept.
    pub fn read(&self, digest: &str) -> Result<Vec<u8>> {
        let path = self.0.join(digest);
        fs::read(&path).map_err(at(&path))
    }

    /// The relay has it.
    pub fn forget(&self, digest: &str) {
        if let Err(error) = fs::remove_file(self.0.join(digest))
            && error.kind() != ErrorKind::NotFound
        {
            // The next start tries again.
            tracing::warn!(%error, "a file that was handed in is still here");
        }
    }

    /// Removes what nobody waits for any more.
    pub fn sweep(&self, wanted: &BTreeSet<String>) -> Result<()> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(at(&self.0)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(at(&self.0))?;
            if !entry.file_name().to_str().is_some_and(|name| wanted.contains(name)) {
                fs::remove_file(entry.path()).map_err(at(&entry.path()))?;
            }
        }
        Ok(())
    }
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_waits_for_is_swept_and_the_rest_stays() {
        let profile = tempfile::tempdir().unwrap();
        let outgoing = Outgoing::of(profile.path());
        outgoing.sweep(&BTreeSet::new()).unwrap();
        let mut kept = Vec::new();
        for text in ["one", "two"] {
            let path = profile.path().join(text);
            fs::write(&path, text).unwrap();
            let sealed = super::super::seal(&path, None).unwrap();
            outgoing.keep(&sealed).unwrap();
            kept.push(sealed);
        }
        fs::write(outgoing.0.join("abc.unfinished"), "half").unwrap();
        outgoing.sweep(&[kept[0].body.digest.clone()].into()).unwrap();
        assert_eq!(outgoing.read(&kept[0].body.digest).unwrap(), kept[0].bytes);
        assert!(outgoing.read(&kept[1].body.digest).is_err());
        assert_eq!(fs::read_dir(&outgoing.0).unwrap().count(), 1);
        outgoing.forget(&kept[0].body.digest);
        outgoing.forget(&kept[0].body.digest);
        assert!(outgoing.read(&kept[0].body.digest).is_err());
    }
}
