//! The gate in front of storage of your own: it refuses holders who lost their lock.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use nix::fcntl::{Flock, FlockArg};

/// Which tokens pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceMode {
    /// One write for each token: a token passes once, and none that is not greater than all before.
    PerWrite,
    /// Many writes under one token: a token passes until a greater one was seen.
    PerLease,
}

/// Why a write must not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FenceError {
    /// Somebody with a greater token (or, per write, this very token) was here before.
    #[error("token {token} for {resource} is stale: {last_seen} was seen")]
    Stale {
        /// What the write would have changed.
        resource: String,
        /// The token that came with it.
        token: u64,
        /// The greatest token seen so far.
        last_seen: u64,
    },
    /// Another gate has the file open; two gates over one file would each admit what the other refused.
    #[error("{} is in use by another gate", .0.display())]
    InUse(PathBuf),
    /// The file is not one that a gate wrote.
    #[error("{} is damaged: {cause}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The token could not be made durable; the write must not happen.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Remembers the greatest fencing token seen for each resource, and admits writes by it.
///
/// Ask with the token that came with a write, just before the write, in the process that owns the
/// storage. With a file the memory survives restarts: a token is on disk before its write is
/// admitted. The memory grows by one entry for each resource ever seen.
///
/// ```
/// use relay_client::{FenceGate, FenceMode};
///
/// let gate = FenceGate::new(FenceMode::PerLease);
/// assert!(gate.admit("site/prod", 17).is_ok());
/// assert!(gate.admit("site/prod", 17).is_ok()); // the same holder writes again
/// assert!(gate.admit("site/prod", 18).is_ok()); // somebody took over
/// assert!(gate.admit("site/prod", 17).is_err()); // the first holder wakes up
/// ```
#[derive(Debug)]
pub struct FenceGate {
    mode: FenceMode,
    seen: Mutex<HashMap<String, u64>>,
    file: Option<Durable>,
}

#[derive(Debug)]
struct Durable {
    path: PathBuf,
    /// Held for as long as the gate lives.
    _lock: Flock<File>,
}

impl FenceGate {
    /// A gate that forgets when the process ends.
    pub fn new(mode: FenceMode) -> Self {
        Self { mode, seen: Mutex::default(), file: None }
    }

    /// A gate that remembers in `path`. A second file beside it, ending in `.lock`, keeps other
    /// gates away.
    ///
    /// # Errors
    /// [`FenceError::InUse`], [`FenceError::Damaged`], [`FenceError::Io`].
    pub fn open(mode: FenceMode, path: impl Into<PathBuf>) -> Result<Self, FenceError> {
        let path = path.into();
        let lock = lock_beside(&path)?;
        let seen = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| FenceError::Damaged {
                path: path.clone(),
                cause: error.to_string(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => HashMap::new(),
            Err(source) => return Err(FenceError::Io { path, source }),
        };
        let file = Some(Durable { path, _lock: lock });
        Ok(Self { mode, seen: Mutex::new(seen), file })
    }

    /// Admits a write to `resource` under `token`, or says why not. Blocks on the disk where the
    /// gate has a file and the token is new.
    ///
    /// # Errors
    /// [`FenceError::Stale`]; [`FenceError::Io`], and then nothing is admitted or remembered.
    pub fn admit(&self, resource: &str, token: u64) -> Result<(), FenceError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&last_seen) = seen.get(resource) {
            let stale = match self.mode {
                FenceMode::PerWrite => token <= last_seen,
                FenceMode::PerLease => token < last_seen,
            };
            if stale {
                return Err(FenceError::Stale { resource: resource.to_owned(), token, last_seen });
            }
            if token == last_seen {
                return Ok(());
            }
        }
        let before = seen.insert(resource.to_owned(), token);
        if let Some(file) = &self.file
            && let Err(source) = file.write(&seen)
        {
            match before {
                Some(token) => seen.insert(resource.to_owned(), token),
                None => seen.remove(resource),
            };
            return Err(FenceError::Io { path: file.path.clone(), source });
        }
        Ok(())
    }

    /// The greatest token seen for `resource`.
    pub fn last_seen(&self, resource: &str) -> Option<u64> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(resource).copied()
    }
}

impl Durable {
    /// Replaces the file as a whole: a crash leaves the old one or the new one.
    fn write(&self, seen: &HashMap<String, u64>) -> io::Result<()> {
        let new = beside(&self.path, ".new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(seen)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn lock_beside(path: &Path) -> Result<Flock<File>, FenceError> {
    let file = File::create(beside(path, ".lock"))
        .map_err(|source| FenceError::Io { path: path.to_owned(), source })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| FenceError::InUse(path.to_owned()))
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stale(result: Result<(), FenceError>) -> bool {
        matches!(result, Err(FenceError::Stale { .. }))
    }

    #[test]
    fn per_write_admits_each_token_once() {
        let gate = FenceGate::new(FenceMode::PerWrite);
        gate.admit("a", 5).unwrap();
        assert!(stale(gate.admit("a", 5)) && stale(gate.admit("a", 4)));
        gate.admit("a", 6).unwrap();
        gate.admit("b", 1).unwrap();
    }

    #[test]
    fn per_lease_admits_a_token_until_a_greater_one() {
        let gate = FenceGate::new(FenceMode::PerLease);
        gate.admit("a", 5).unwrap();
        gate.admit("a", 5).unwrap();
        gate.admit("a", 6).unwrap();
        assert!(stale(gate.admit("a", 5)));
    }

    #[test]
    fn a_file_carries_the_memory_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fence.json");
        for mode in [FenceMode::PerWrite, FenceMode::PerLease] {
            let _ = fs::remove_file(&path);
            FenceGate::open(mode, &path).unwrap().admit("a", 9).unwrap();
            let gate = FenceGate::open(mode, &path).unwrap();
            assert_eq!(gate.last_seen("a"), Some(9));
            assert!(stale(gate.admit("a", 8)));
        }
    }

    #[test]
    fn one_file_has_one_gate_and_damage_is_not_forgotten_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fence.json");
        let gate = FenceGate::open(FenceMode::PerLease, &path).unwrap();
        assert!(matches!(FenceGate::open(FenceMode::PerLease, &path), Err(FenceError::InUse(_))));
        drop(gate);
        fs::write(&path, b"{\"a\":").unwrap();
        assert!(matches!(
            FenceGate::open(FenceMode::PerLease, &path),
            Err(FenceError::Damaged { .. })
        ));
    }

    #[test]
    fn what_cannot_be_remembered_is_not_admitted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fence.json");
        let gate = FenceGate::open(FenceMode::PerLease, &path).unwrap();
        gate.admit("a", 1).unwrap();
        // A folder where the new file should be made: the write fails for any user.
        fs::create_dir(dir.path().join("fence.json.new")).unwrap();
        assert!(matches!(gate.admit("a", 2), Err(FenceError::Io { .. })));
        assert_eq!(gate.last_seen("a"), Some(1));
    }
}
