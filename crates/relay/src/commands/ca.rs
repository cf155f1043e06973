//! `relay ca`: a certificate authority by which hubs prove themselves to each other.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use relay_fed::links::ca::{Authority, CaError};
use relay_node::write_secret;
use relay_proto::RelayId;
use serde_json::json;

use crate::{
    app::App,
    error::{Failure, Outcome, exit},
    files, times,
};

#[derive(Debug, Args)]
pub struct CaGroup {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make an authority; keep its file where no relay runs
    #[command(after_help = "\
Examples:
  relay ca init ca.json
  relay ca init ca.json --name 'Example relays'")]
    Init {
        /// Where the authority and its key are kept
        file: PathBuf,
        /// What the authority is called
        #[arg(long, default_value = "Relay hubs")]
        name: String,
    },
    /// Issue a certificate that names a hub
    #[command(after_help = "\
Examples:
  relay ca issue ca.json relay-a.example.com
  relay ca issue ca.json relay-a.example.com --expires 90d --out-dir /etc/relay")]
    Issue {
        /// The authority
        file: PathBuf,
        /// The hub's relay id
        relay: RelayId,
        /// How long it holds
        #[arg(long, value_name = "DUR", default_value = "365d", value_parser = times::parse_duration)]
        expires: Duration,
        /// Where ID.pem, ID.key and ca.pem go
        #[arg(long, value_name = "DIR", default_value = ".")]
        out_dir: PathBuf,
    },
    /// Take certificates back, and write the list that hubs read
    #[command(after_help = "\
Examples:
  relay ca revoke ca.json 4f00ab12cd34ef5600ab12cd34ef5678 --yes
  relay ca revoke ca.json relay-a.example.com --out-dir /etc/relay")]
    Revoke {
        /// The authority
        file: PathBuf,
        /// A serial number, or the relay id whose certificates are all meant
        which: String,
        /// Where crl.pem goes
        #[arg(long, value_name = "DIR", default_value = ".")]
        out_dir: PathBuf,
    },
}

/// How long a list of revoked certificates holds.
const LIST_LIFE: Duration = Duration::from_secs(90 * 86_400);

impl CaGroup {
    pub fn run(self, app: &App) -> Outcome {
        match self.verb {
            Verb::Init { file, name } => init(app, &file, &name),
            Verb::Issue { file, relay, expires, out_dir } => {
                issue(app, &file, &relay, expires, &out_dir)
            }
            Verb::Revoke { file, which, out_dir } => revoke(app, &file, &which, &out_dir),
        }
    }
}

fn init(app: &App, file: &Path, name: &str) -> Outcome {
    if file.exists() {
        let what = format!("{} is there already", file.display());
        return Err(Failure::new(exit::TAKEN, what).hint("another path", "for another authority"));
    }
    let authority = Authority::init(name, SystemTime::now()).map_err(failed)?;
    save(file, &authority)?;
    app.notice("keep this file where no relay runs: whoever has it can name hubs");
    app.out
        .one(&json!({ "file": file.display().to_string(), "name": authority.name }), &["file"])?;
    Ok(0)
}

fn issue(app: &App, file: &Path, relay: &RelayId, life: Duration, out_dir: &Path) -> Outcome {
    let mut authority = load(file)?;
    let issued = authority.issue(relay, life, SystemTime::now()).map_err(failed)?;
    save(file, &authority)?;
    let paths = ["pem", "key"].map(|end| out_dir.join(format!("{relay}.{end}")));
    let root = out_dir.join("ca.pem");
    write(&paths[0], issued.chain_pem.as_bytes())?;
    write(&paths[1], issued.key_pem.as_bytes())?;
    write(&root, authority.certificate_pem.as_bytes())?;
    app.notice("in [federation]: cert_file, key_file, and ca_file on every hub");
    let answer = json!({
        "serial": issued.serial,
        "cert_file": paths[0].display().to_string(),
        "key_file": paths[1].display().to_string(),
        "ca_file": root.display().to_string(),
    });
    app.out.one(&answer, &["serial", "cert_file", "key_file", "ca_file"])?;
    Ok(0)
}

fn revoke(app: &App, file: &Path, which: &str, out_dir: &Path) -> Outcome {
    let mut authority = load(file)?;
    let meant = |serial: &str, relay: &RelayId| serial == which || relay.as_str() == which;
    let holding = authority.issued.iter().filter(|record| record.revoked_at.is_none());
    let serials: Vec<String> = holding
        .filter(|record| meant(&record.serial, &record.relay))
        .map(|record| record.serial.clone())
        .collect();
    if serials.is_empty() {
        let what = format!("no certificate of '{which}' holds");
        return Err(Failure::new(exit::NOT_FOUND, what));
    }
    app.confirm("revoke", which)?;
    let now = SystemTime::now();
    for serial in &serials {
        authority.revoke(serial, now).map_err(failed)?;
    }
    let list = authority.revoked(LIST_LIFE, now).map_err(failed)?;
    save(file, &authority)?;
    let path = out_dir.join("crl.pem");
    write(&path, list.as_bytes())?;
    app.notice("in [federation] of every hub: crl_file; make the list anew within 90 days");
    let answer = json!({ "revoked": serials, "crl_file": path.display().to_string() });
    app.out.one(&answer, &["revoked", "crl_file"])?;
    Ok(0)
}

fn load(file: &Path) -> Result<Authority, Failure> {
    relay_client::keys::refuse_open_to_others(file)
        .map_err(|error| Failure::usage(error.to_string()))?;
    let text = fs::read(file).map_err(|error| files::at(file, &error))?;
    serde_json::from_slice(&text)
        .map_err(|error| Failure::usage(format!("{} is no authority: {error}", file.display())))
}

fn save(file: &Path, authority: &Authority) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(authority)
        .map_err(|error| Failure::failed(format!("the authority cannot be written: {error}")))?;
    write(file, &text)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    write_secret(path, bytes).map_err(|error| files::at(path, &error))
}

fn failed(error: CaError) -> Failure {
    Failure::failed(error.to_string())
}
