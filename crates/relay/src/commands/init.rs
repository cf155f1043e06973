//! `relay init`: what a relay needs before its first start.

use std::path::{Path, PathBuf};

use clap::Args;
use relay_client::keys;
use relay_node::config;

use crate::{
    app::{self, App},
    error::{Failure, Outcome, exit},
    files, output,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay init
  relay init --system --domain relay.example.com --print")]
pub struct Init {
    /// For a service of this machine: unit, user and directories too; needs root
    #[arg(long)]
    system: bool,
    /// The name under which the relay is reached
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// Print what would be written, and change nothing
    #[arg(long)]
    print: bool,
}

/// The packaged unit.
const UNIT: &str = include_str!("../../../../packaging/systemd/relay.service");
/// Where the service keeps its data.
const DATA: &str = "/var/lib/relay";

/// One file to be written.
struct Planned {
    path: PathBuf,
    text: String,
}

impl Init {
    pub fn run(self, app: &App) -> Outcome {
        let files = self.files()?;
        if self.print {
            for Planned { path, text } in &files {
                output::write(&format!("# {}\n{}\n", path.display(), text.trim_end()))?;
            }
            if self.system {
                output::write(&format!("# and the user 'relay' with the directory {DATA}\n"))?;
            }
            return Ok(0);
        }
        // All of it or nothing: what is there already is somebody's.
        if let Some(there) = files.iter().find(|file| file.path.exists()) {
            return Err(Failure::new(
                exit::TAKEN,
                format!("{} is there already; nothing was changed", there.path.display()),
            )
            .hint("relay init --print", "see what would be written"));
        }
        if self.system {
            make_user()?;
        }
        for Planned { path, text } in &files {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir).map_err(|error| files::at(dir, &error))?;
            }
            std::fs::write(path, text).map_err(|error| files::at(path, &error))?;
            app.notice(&format!("wrote {}", path.display()));
        }
        if !self.system {
            make_key(app)?;
        }
        app.advice(if self.system {
            "next: systemctl daemon-reload && systemctl enable --now relay"
        } else {
            "next: relay serve"
        });
        Ok(0)
    }

    fn files(&self) -> Result<Vec<Planned>, Failure> {
        let dir = if self.system { "/etc/relay".into() } else { files::config_dir()? };
        let mut text = config::sample(false);
        let mut set = |name: &str, value: &str| {
            // The sample names each setting once in its section, switched off.
            let line = text.lines().find(|line| line.starts_with(&format!("# {name} = ")));
            if let Some(line) = line.map(str::to_owned) {
                text = text.replacen(&line, &format!("{name} = \"{value}\""), 1);
            }
        };
        if let Some(domain) = &self.domain {
            set("id", domain);
            set("public_url", &format!("https://{domain}"));
        }
        if self.system {
            set("data_dir", DATA);
        }
        let path = dir.join("relay.toml");
        config::load_text(&path.display().to_string(), &text)
            .map_err(|problems| Failure::usage(problems.to_string()))?;
        let mut files = vec![Planned { path, text }];
        if self.system {
            let unit = Path::new("/etc/systemd/system/relay.service");
            files.push(Planned { path: unit.into(), text: UNIT.into() });
        }
        Ok(files)
    }
}

/// The key of the person, where there is none yet.
fn make_key(app: &App) -> Result<(), Failure> {
    let path = app::default_key()?;
    if path.exists() {
        return Ok(());
    }
    let failed = |error: keys::KeyFileError| Failure::failed(error.to_string());
    files::private_dir(&app::key_dir()?)?;
    let key = keys::generate().map_err(failed)?;
    let text = keys::to_openssh(&key, "", None).map_err(failed)?;
    keys::write_secret(&path, text.as_bytes()).map_err(failed)?;
    app.notice(&format!("wrote {} ({})", path.display(), key.node_id()));
    Ok(())
}

/// The account that the unit names, and its directory.
fn make_user() -> Result<(), Failure> {
    if !nix::unistd::Uid::effective().is_root() {
        return Err(Failure::usage("--system needs root")
            .hint("relay init --system --print", "see what would be written"));
    }
    let known = std::process::Command::new("id").args(["-u", "relay"]).output();
    if !known.is_ok_and(|output| output.status.success()) {
        let args = ["--system", "--home-dir", DATA, "--shell", "/usr/sbin/nologin", "relay"];
        let made = std::process::Command::new("useradd").args(args).status();
        if !made.is_ok_and(|status| status.success()) {
            return Err(Failure::failed("the user 'relay' could not be made with useradd"));
        }
    }
    Ok(())
}
