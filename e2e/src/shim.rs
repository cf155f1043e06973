//! A disk that fails or forgets and clocks that step: a small library preloaded into the relay.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Where the shim of one relay is.
#[derive(Debug)]
pub struct ShimSetup {
    library: PathBuf,
    control_path: PathBuf,
    data: PathBuf,
    /// What a power cut would leave of the data.
    pub shadow: PathBuf,
    pub control: Shim,
}

/// Commands to the shim; each has its effect at once. The fields of `struct control` in `shim.c`.
#[derive(Debug)]
pub struct Shim(File);

impl ShimSetup {
    pub fn new(dir: &Path) -> Self {
        let library = dir.join("shim.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim/shim.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .args(["-ldl", "-lpthread"])
            .status()
            .unwrap();
        assert!(built.success(), "the shim does not compile");
        let control_path = dir.join("control");
        fs::write(&control_path, [0; 4096]).unwrap();
        // A database server under the shim runs as another user.
        fs::set_permissions(&control_path, fs::Permissions::from_mode(0o666)).unwrap();
        let shadow = dir.join("shadow");
        fs::create_dir(&shadow).unwrap();
        let control = Shim(File::options().write(true).open(&control_path).unwrap());
        Self { library, control_path, data: dir.join("data"), shadow, control }
    }

    pub fn apply(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("RELAY_SHIM_CONTROL", &self.control_path)
            .env("RELAY_SHIM_DATA", &self.data)
            .env("RELAY_SHIM_SHADOW", &self.shadow);
    }
}

impl Shim {
    /// The wall clock is wrong by this much.
    pub fn shift_wall(&self, by_seconds: i64) {
        self.set(0, by_seconds * 1_000_000_000);
    }

    /// The host was suspended this long: boot time went on, monotonic time did not.
    pub fn suspend(&self, by: Duration) {
        self.set(1, by.as_nanos() as i64);
    }

    /// Writes to the data directory fail; `None`: no more.
    pub fn fail_writes(&self, error: Option<nix::errno::Errno>) {
        self.set(2, error.map_or(0, |error| error as i64));
    }

    /// Syncs of files in the data directory fail.
    pub fn fail_syncs(&self, error: Option<nix::errno::Errno>) {
        self.set(3, error.map_or(0, |error| error as i64));
    }

    /// Syncs do nothing, as with a store that is not told to sync.
    pub fn forget_syncs(&self, forget: bool) {
        self.set(4, forget.into());
    }

    fn set(&self, field: u64, value: i64) {
        self.0.write_all_at(&value.to_ne_bytes(), field * 8).unwrap();
    }
}
