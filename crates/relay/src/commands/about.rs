//! `relay explain`, `version`, `completions` and `man`.

use std::{io::Write, path::PathBuf};

use clap::Args;
use clap_complete::Shell;
use serde_json::json;

use crate::{
    app::App,
    cli, complete,
    error::{Failure, Outcome, exit},
    explain::{self, ENTRIES},
    files, output,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay explain lock_held
  relay explain")]
pub struct Explain {
    /// The code; all of them where absent
    #[arg(add = complete::codes())]
    code: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay version
  relay version --json")]
pub struct Version {}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay completions bash > /etc/bash_completion.d/relay
  relay completions fish > ~/.config/fish/completions/relay.fish")]
pub struct Completions {
    shell: Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay man | man -l -
  relay man --dir /usr/share/man/man1")]
pub struct Man {
    /// One page for each command, into this folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Explain {
    pub fn run(self, app: &App) -> Outcome {
        let Some(code) = self.code else {
            let items: Vec<_> = ENTRIES
                .iter()
                .map(|entry| json!({ "code": entry.code, "meaning": entry.meaning }))
                .collect();
            app.out.list(&json!({ "items": items }), &items, &["code", "meaning"])?;
            return Ok(0);
        };
        let Some(entry) = explain::of(&code) else {
            let failure = Failure::new(exit::NOT_FOUND, format!("there is no code '{code}'"));
            return Err(match explain::similar(&code) {
                Some(near) => failure.hint(format!("relay explain {near}"), "did you mean this?"),
                None => failure.hint("relay explain", "all codes"),
            });
        };
        if app.out.is_json() {
            output::line(
                &serde_json::to_string(entry)
                    .map_err(|error| Failure::failed(error.to_string()))?,
            )?;
            return Ok(0);
        }
        let list = |title: &str, lines: &[&str]| -> String {
            let lines: String = lines.iter().map(|line| format!("  - {line}\n")).collect();
            if lines.is_empty() { lines } else { format!("\n{title}\n{lines}") }
        };
        let cures: Vec<&str> = [entry.first_cure].iter().chain(entry.cures).copied().collect();
        output::write(&format!(
            "{}: {}\n{}{}",
            entry.code,
            entry.meaning,
            list("Usual causes", entry.causes),
            list("What helps", &cures)
        ))?;
        Ok(0)
    }
}

impl Version {
    pub fn run(self, app: &App) -> Outcome {
        let version = env!("CARGO_PKG_VERSION");
        if app.out.is_json() {
            let os = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
            app.out.one(&json!({ "version": version, "target": os }), &["version"])?;
        } else {
            output::line(&format!("relay {version}"))?;
        }
        Ok(0)
    }
}

impl Completions {
    pub fn run(self) -> Outcome {
        let script = complete::script(self.shell)?;
        output::write(&String::from_utf8_lossy(&script))?;
        Ok(0)
    }
}

impl Man {
    pub fn run(self) -> Outcome {
        let command = cli::command();
        let Some(dir) = self.dir else {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            std::io::stdout().lock().write_all(&page)?;
            return Ok(0);
        };
        std::fs::create_dir_all(&dir).map_err(|error| files::at(&dir, &error))?;
        clap_mangen::generate_to(command, &dir).map_err(|error| files::at(&dir, &error))?;
        Ok(0)
    }
}
