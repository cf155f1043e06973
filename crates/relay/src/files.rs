//! Where files of a user live, and how they are replaced.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::error::Failure;

/// `$XDG_CONFIG_HOME/relay`.
pub fn config_dir() -> Result<PathBuf, Failure> {
    base("XDG_CONFIG_HOME", ".config")
}

/// `$XDG_STATE_HOME/relay`.
pub fn state_dir() -> Result<PathBuf, Failure> {
    base("XDG_STATE_HOME", ".local/state")
}

fn base(variable: &str, fallback: &str) -> Result<PathBuf, Failure> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set(variable)
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(fallback)))
        .map(|path| path.join("relay"))
        .ok_or_else(|| Failure::usage(format!("neither {variable} nor HOME is set")))
}

/// Makes a folder that only its owner may look into.
pub fn private_dir(path: &Path) -> Result<(), Failure> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| at(path, &error))
}

/// Replaces a file as a whole, readable by its owner only.
pub fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(name);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// A failure that names the file.
pub fn at(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("{}: {error}", path.display()))
}
