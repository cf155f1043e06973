//! What opens the chats that are stored here.

use std::path::Path;

use clap::Args;
use relay_chat::{Chat, Unlock};
use zeroize::Zeroizing;

use super::{
    keyring,
    opening::{OrFail, key_file, opened, profile, unlock},
};
use crate::{
    app::App,
    error::{Failure, Outcome},
    prompt,
};

pub const EXAMPLES: &str = "\
Examples:
  relay chat passphrase
  relay chat passphrase --new-passphrase-file new.txt
  relay chat passphrase --keyring";

#[derive(Debug, Args)]
pub struct Passphrase {
    /// Read the new one from a file; - is stdin
    #[arg(long, value_name = "PATH")]
    new_passphrase_file: Option<std::path::PathBuf>,
    /// Ask for none any more: a key file beside the profile opens it
    #[arg(long, conflicts_with = "new_passphrase_file")]
    none: bool,
    /// Ask for none any more: the keyring of your desktop opens it, while it is unlocked
    #[arg(long, conflicts_with_all = ["new_passphrase_file", "none"])]
    keyring: bool,
}

impl Passphrase {
    pub async fn run(self, app: &App) -> Outcome {
        let profile = profile(&app.target()?)?;
        let old = unlock(app, &profile)?;
        let mut in_keyring = None;
        let new = match (&self.new_passphrase_file, self.none) {
            _ if self.keyring => {
                let name = keyring_name(&profile);
                let key = Zeroizing::new(random_key());
                keyring::store(&name, &key, app.timeout())?;
                in_keyring = Some(name);
                Unlock::Key(key)
            }
            (Some(path), _) => Unlock::Passphrase(prompt::secret_file(path)?),
            (None, true) => Unlock::Key(key_file(&profile)?),
            (None, false) if prompt::possible(app.global.no_input) => {
                Unlock::Passphrase(asked_twice()?)
            }
            (None, false) => {
                return Err(Failure::usage("the new passphrase is missing")
                    .hint("--new-passphrase-file PATH", "read it from a file")
                    .hint("--keyring", "let the keyring of your desktop keep a key"));
            }
        };
        // Where there is no profile yet, it is made first.
        opened_once(app, &profile).await?;
        if let Err(error) = Chat::change_unlock(&profile, &old, &new) {
            if let Some(name) = in_keyring {
                keyring::forget(&name, app.timeout());
            }
            return Err(error).or_fail("the passphrase");
        }
        let before = keyring::name(&profile);
        match &in_keyring {
            Some(name) => std::fs::write(keyring::marker(&profile), name)?,
            None if before.is_some() => std::fs::remove_file(keyring::marker(&profile))?,
            None => {}
        }
        if let Some(before) = before {
            keyring::forget(&before, app.timeout());
        }
        if in_keyring.is_some() || matches!(new, Unlock::Passphrase(_)) {
            // The key file opens nothing any more.
            let _ = std::fs::remove_file(profile.with_extension("key"));
        }
        app.notice("from now on your chats with this relay open by it alone");
        Ok(0)
    }
}

/// A name that no other profile, and no earlier key of this one, has in the keyring.
fn keyring_name(profile: &Path) -> String {
    let name = profile.file_name().unwrap_or_default().to_string_lossy();
    let salt = hex::encode(&random_key()[..4]);
    format!("{name}-{salt}")
}

fn random_key() -> [u8; 32] {
    let mut key = [0; 32];
    rand_core::RngCore::fill_bytes(&mut rand_core::OsRng, &mut key);
    key
}

async fn opened_once(app: &App, profile: &Path) -> Result<(), Failure> {
    if Chat::needs_passphrase(profile).or_fail("your chats")?.is_none() {
        opened(app).await?.close().await;
    }
    Ok(())
}

fn asked_twice() -> Result<Zeroizing<String>, Failure> {
    let first = prompt::secret("New passphrase of your chats")?;
    if first.is_empty() {
        return Err(Failure::usage("an empty passphrase protects nothing; --none says so openly"));
    }
    let second = prompt::secret("Again")?;
    if first == second { Ok(first) } else { Err(Failure::usage("the two are not the same")) }
}
