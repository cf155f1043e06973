//! `relay keys`: signing keys in files. Ours are OpenSSH private keys, usable with every tool that
//! reads those.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use relay_client::{Signer, keys, unix_ns};
use relay_proto::{
    SigningKey,
    event::{Draft, Tags, reserved, rotation_text},
};
use serde_json::{Value, json};

use crate::{
    app::{self, App},
    complete,
    contexts::is_name,
    error::{Failure, Outcome, exit},
    files, output, prompt,
};

mod backup;

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Keys {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a new key
    #[command(after_help = "\
Examples:
  relay keys gen
  relay keys gen ci --passphrase-file pass.txt")]
    Gen {
        /// Its name among your keys
        #[arg(default_value = "default")]
        name: String,
        /// Write it here instead of among your keys
        #[arg(long, value_name = "PATH")]
        out: Option<PathBuf>,
        /// Protect it with a passphrase that is asked for
        #[arg(long)]
        passphrase: bool,
        /// What stands in the file for people to read
        #[arg(long, default_value = "")]
        comment: String,
    },
    /// List your keys
    #[command(after_help = "\
Examples:
  relay keys ls
  relay keys ls --json")]
    Ls,
    /// Show a key's public side
    #[command(after_help = "\
Examples:
  relay keys show
  relay keys show ~/.ssh/id_ed25519 --ssh")]
    Show {
        /// A name among your keys, or the path of a private or public key file
        #[arg(add = complete::key_names())]
        #[arg(id = "which", value_name = "KEY", default_value = "default")]
        key: String,
        /// As a line for authorized_keys and allowed_signers
        #[arg(long)]
        ssh: bool,
    },
    /// Take a key from elsewhere among your keys
    #[command(after_help = "\
Examples:
  relay keys import ~/.ssh/id_ed25519
  relay keys import key.pem --name ci")]
    Import {
        /// An OpenSSH or PEM file
        path: PathBuf,
        /// Its name among your keys
        #[arg(long, default_value = "default")]
        name: String,
    },
    /// Write a private key to a file or to stdout
    #[command(after_help = "\
Examples:
  relay keys export --form pem --out key.pem
  relay keys export ci --form public")]
    Export {
        /// A name among your keys, or a path
        #[arg(add = complete::key_names())]
        #[arg(id = "which", value_name = "KEY", default_value = "default")]
        key: String,
        #[arg(long, default_value = "openssh")]
        form: Form,
        /// A new file; stdout where absent
        #[arg(long, value_name = "PATH")]
        out: Option<PathBuf>,
    },
    /// Convert a key file
    #[command(after_help = "\
Examples:
  relay keys convert key.pem --form openssh --out id_relay
  relay keys convert ~/.ssh/id_ed25519 --form pem --out key.pem")]
    Convert {
        /// The file to read
        path: PathBuf,
        #[arg(long)]
        form: Form,
        /// A new file; stdout where absent
        #[arg(long, value_name = "PATH")]
        out: Option<PathBuf>,
    },
    /// Hand everything that a key may do to another, with a signed event
    #[command(after_help = "\
Examples:
  relay keys rotate --to next
  relay keys rotate --to ~/.ssh/id_new --dry-run")]
    Rotate {
        /// The new key: a name among your keys, or a path
        #[arg(long, value_name = "KEY")]
        to: String,
        /// Print the event and send nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Write a key to be kept elsewhere: a file under a passphrase, or 24 words for paper
    #[command(after_help = "\
Examples:
  relay keys backup --out relay-key.backup
  relay keys backup ci --out ci.backup --passphrase-file pass.txt
  relay keys backup --phrase")]
    Backup {
        /// A name among your keys, or a path
        #[arg(add = complete::key_names())]
        #[arg(id = "which", value_name = "KEY", default_value = "default")]
        key: String,
        /// A new file, under a passphrase
        #[arg(long, value_name = "PATH", required_unless_present = "phrase")]
        out: Option<PathBuf>,
        /// Print the key as 24 words (BIP 39), to be written down
        #[arg(long, conflicts_with = "out")]
        phrase: bool,
    },
    /// Take a key from its backup, once it has proved that it signs
    #[command(after_help = "\
Examples:
  relay keys recover relay-key.backup
  relay keys recover ci.backup --name ci --passphrase-file pass.txt
  relay keys recover --phrase
  relay keys recover --phrase-file -")]
    Recover {
        /// What `keys backup` wrote
        #[arg(required_unless_present_any = ["phrase", "phrase_file"])]
        path: Option<PathBuf>,
        /// Ask for the 24 words
        #[arg(long, conflicts_with_all = ["path", "phrase_file"])]
        phrase: bool,
        /// File with the 24 words; - is stdin
        #[arg(long, value_name = "PATH", conflicts_with = "path")]
        phrase_file: Option<PathBuf>,
        /// Its name among your keys
        #[arg(long, default_value = "default")]
        name: String,
    },
    /// Check that a key file is private, whole, and signs
    #[command(after_help = "\
Examples:
  relay keys verify
  relay keys verify ~/.ssh/id_ed25519")]
    Verify {
        /// A name among your keys, or a path
        #[arg(add = complete::key_names())]
        #[arg(id = "which", value_name = "KEY", default_value = "default")]
        key: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// OpenSSH private key
    Openssh,
    /// PEM PKCS#8, unprotected
    Pem,
    /// The canonical public key
    Public,
    /// The public key as a line of OpenSSH
    SshPublic,
}

impl Keys {
    pub async fn run(self, app: &App) -> Outcome {
        match self.verb {
            Verb::Gen { name, out, passphrase, comment } => {
                make(app, &name, out, passphrase, &comment)
            }
            Verb::Ls => list(app),
            Verb::Show { key, ssh } => show(app, &key, ssh),
            Verb::Import { path, name } => import(app, &path, &name),
            Verb::Export { key, form, out } => write(app, &path_of(&key)?, form, out),
            Verb::Convert { path, form, out } => write(app, &path, form, out),
            Verb::Rotate { to, dry_run } => rotate(app, &to, dry_run).await,
            Verb::Backup { key, out, .. } => {
                let path = path_of(&key)?;
                out.map_or_else(|| backup::words(app, &path), |out| backup::file(app, &path, &out))
            }
            Verb::Recover { path, phrase_file, name, .. } => match path {
                Some(path) => backup::recover(app, &app.load_key(&path)?, &name),
                None => backup::recover(app, &backup::from_words(app, phrase_file)?, &name),
            },
            Verb::Verify { key } => verify(app, &path_of(&key)?),
        }
    }
}

fn make(app: &App, name: &str, out: Option<PathBuf>, ask: bool, comment: &str) -> Outcome {
    let path = match out {
        Some(path) => path,
        None => place(name)?,
    };
    let key = keys::generate().map_err(|error| Failure::failed(error.to_string()))?;
    let passphrase = new_passphrase(app, ask)?;
    let text = keys::to_openssh(&key, comment, passphrase.as_ref().map(|phrase| phrase.as_str()))
        .map_err(|error| Failure::failed(error.to_string()))?;
    save_new(&path, text.as_bytes())?;
    app.notice(&format!("wrote {}", path.display()));
    told(app, &key, &path)
}

/// A passphrase for a new key: typed twice, or from the file that was named.
fn new_passphrase(app: &App, ask: bool) -> Result<Option<zeroize::Zeroizing<String>>, Failure> {
    if let Some(file) = &app.global.passphrase_file {
        return prompt::secret_file(file).map(Some);
    }
    if !ask {
        return Ok(None);
    }
    if !prompt::possible(app.global.no_input) {
        return Err(Failure::usage(
            "there is no terminal to ask for a passphrase; give --passphrase-file",
        ));
    }
    let first = prompt::secret("New passphrase")?;
    let second = prompt::secret("Once more")?;
    if *first != *second {
        return Err(Failure::usage("the two passphrases differ"));
    }
    Ok(Some(first))
}

fn list(app: &App) -> Outcome {
    let dir = app::key_dir()?;
    let mut items = Vec::new();
    for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_name(&name) || !path.is_file() {
            continue;
        }
        items.push(describe(&name, &path));
    }
    items.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    if items.is_empty() {
        app.advice("no keys yet; make one with: relay keys gen");
    }
    app.out.list(&json!({ "items": items }), &items, &["name", "key", "protected", "path"])?;
    Ok(0)
}

/// What can be said of a key file without its passphrase.
fn describe(name: &str, path: &Path) -> Value {
    let mut protected = false;
    let loaded = keys::load(path, || {
        protected = true;
        None
    });
    let (key, problem) = match loaded {
        Ok(key) => (Some(key.node_id()), None),
        Err(keys::KeyFileError::NeedsPassphrase) => (None, None),
        Err(error) => (None, Some(error.to_string())),
    };
    json!({ "name": name, "key": key, "protected": protected, "path": path, "problem": problem })
}

fn show(app: &App, key: &str, ssh: bool) -> Outcome {
    if let Ok(id) = crate::ids::parse_key(key) {
        return print_public(app, &id, None, ssh);
    }
    let path = path_of(key)?;
    let loaded = app.signer(&path)?;
    print_public(app, &loaded.node_id(), Some(&path), ssh)
}

fn print_public(app: &App, id: &relay_proto::NodeId, path: Option<&Path>, ssh: bool) -> Outcome {
    let line = keys::to_openssh_public(id, "");
    if ssh {
        output::line(line.trim())?;
        return Ok(0);
    }
    app.out.one(&json!({ "key": id, "ssh": line.trim(), "path": path }), &["key", "ssh"])?;
    Ok(0)
}

fn import(app: &App, path: &Path, name: &str) -> Outcome {
    let target = place(name)?;
    let key = app.load_key(path)?;
    let text = std::fs::read(path)
        .map(zeroize::Zeroizing::new)
        .map_err(|error| files::at(path, &error))?;
    save_new(&target, &text)?;
    app.notice(&format!("wrote {}", target.display()));
    told(app, &key, &target)
}

fn write(app: &App, path: &Path, form: Form, out: Option<PathBuf>) -> Outcome {
    let key = app.load_key(path)?;
    let failed = |error: keys::KeyFileError| Failure::failed(error.to_string());
    let text = match form {
        Form::Openssh => keys::to_openssh(&key, "", None).map_err(failed)?,
        Form::Pem => keys::to_pem(&key).map_err(failed)?,
        Form::Public => format!("{}\n", key.node_id()).into(),
        Form::SshPublic => {
            format!("{}\n", keys::to_openssh_public(&key.node_id(), "").trim()).into()
        }
    };
    match out {
        Some(out) => {
            save_new(&out, text.as_bytes())?;
            app.notice(&format!("wrote {}", out.display()));
        }
        None => output::write(&text)?,
    }
    Ok(0)
}

async fn rotate(app: &App, to: &str, dry_run: bool) -> Outcome {
    let target = app
        .target()
        .or_else(|failure| if dry_run { Ok(app::Target::default()) } else { Err(failure) })?;
    let old = app.key(&target)?;
    let new = app.signer(&path_of(to)?)?;
    if old.node_id() == new.node_id() {
        return Err(Failure::usage("the old and the new key are the same"));
    }
    let event = rotation(&old, &new).map_err(|error| Failure::failed(error.to_string()))?;
    if dry_run {
        output::line(&String::from_utf8_lossy(event.json()))?;
        return Ok(0);
    }
    app.confirm("take every right from", &old.node_id().to_string())?;
    let client = app.client_for(&target, false).await?;
    let answer =
        client.publish(&event).await.map_err(|error| Failure::of(error, "the rotation"))?;
    let answer =
        serde_json::to_value(answer).map_err(|error| Failure::failed(error.to_string()))?;
    app.notice(&format!("{} now has what {} had", new.node_id(), old.node_id()));
    app.out.one(&answer, &["id", "seq", "status"])?;
    Ok(0)
}

fn rotation(old: &Signer, new: &Signer) -> Result<relay_proto::Event, relay_client::Error> {
    let created_at_ns = unix_ns();
    let text = rotation_text(&old.node_id(), &new.node_id(), created_at_ns);
    let mut tags = Tags::new();
    tags.push(["delegate", &new.node_id().to_string()]);
    let content = json!({ "proof": hex::encode(new.sign(text.as_bytes())?) }).to_string();
    old.sign_event(&Draft { kind: reserved::KEY_ROTATION, created_at_ns, tags, content })
}

fn verify(app: &App, path: &Path) -> Outcome {
    let key = app.signer(path)?;
    let signed = key.sign_event(&Draft { created_at_ns: unix_ns(), ..Draft::default() });
    let answer =
        json!({ "path": path, "key": key.node_id(), "private": true, "signs": signed.is_ok() });
    app.out.one(&answer, &["key", "path"])?;
    Ok(if signed.is_ok() { 0 } else { exit::FAILED })
}

fn told(app: &App, key: &SigningKey, path: &Path) -> Outcome {
    app.out.one(&json!({ "key": key.node_id(), "path": path }), &["key", "path"])?;
    Ok(0)
}

fn save_new(path: &Path, text: &[u8]) -> Result<(), Failure> {
    keys::write_secret(path, text).map_err(|error| match error {
        keys::KeyFileError::Io { source, .. }
            if source.kind() == std::io::ErrorKind::AlreadyExists =>
        {
            Failure::new(
                exit::TAKEN,
                format!("{} is there already; keys are never overwritten", path.display()),
            )
        }
        other => Failure::failed(other.to_string()),
    })
}

/// Where a new key of this name goes.
fn place(name: &str) -> Result<PathBuf, Failure> {
    if !is_name(name) {
        return Err(Failure::usage(format!("'{name}' is no name for a key")));
    }
    let dir = app::key_dir()?;
    files::private_dir(&dir)?;
    Ok(dir.join(name))
}

/// The file of a key: a name among ours, or a path.
fn path_of(key: &str) -> Result<PathBuf, Failure> {
    if app::agent_name(Path::new(key)).is_some() {
        return Ok(key.into());
    }
    let named = app::key_dir()?.join(key);
    if is_name(key) && named.exists() {
        return Ok(named);
    }
    if Path::new(key).exists() {
        return Ok(key.into());
    }
    Err(Failure::new(exit::NOT_FOUND, format!("there is no key '{key}'"))
        .hint("relay keys ls", "those there are"))
}
