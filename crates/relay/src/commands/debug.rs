//! `relay debug bundle`: what helps somebody else to see what is wrong, without secrets.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use relay_client::{Client, Request};
use serde_json::{Value, json};

use crate::{
    app::App,
    checks,
    error::{Failure, Outcome, exit},
    output,
};

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Debug {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write an archive for a bug report; it holds no secrets, no events and no names of locks
    #[command(after_help = "\
Examples:
  relay debug bundle --out relay-debug.tar --yes
  relay debug bundle --dry-run")]
    Bundle {
        /// The archive; never replaced
        #[arg(long, value_name = "PATH", default_value = "relay-debug.tar")]
        out: PathBuf,
        /// Only list what it would hold
        #[arg(long)]
        dry_run: bool,
    },
}

/// One file of the archive.
struct Part {
    name: &'static str,
    what: &'static str,
    text: String,
}

impl Debug {
    pub async fn run(self, app: &App) -> Outcome {
        let Verb::Bundle { out, dry_run } = self.verb;
        let parts = collect(app).await;
        let items: Vec<Value> = parts
            .iter()
            .map(|part| json!({ "name": part.name, "bytes": part.text.len(), "what": part.what }))
            .collect();
        if dry_run {
            app.out.list(&json!({ "items": items }), &items, &["name", "bytes", "what"])?;
            return Ok(0);
        }
        for part in &parts {
            app.notice(&format!("  {:<20} {:>7} B  {}", part.name, part.text.len(), part.what));
        }
        app.confirm("write", &out.display().to_string())?;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&out).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Failure::new(exit::TAKEN, format!("{} is there already", out.display()))
            }
            _ => crate::files::at(&out, &error),
        })?;
        archive(file, &parts).map_err(|error| crate::files::at(&out, &error))?;
        output::line(&out.display().to_string())?;
        Ok(0)
    }
}

/// What can be found out; what cannot says why instead.
async fn collect(app: &App) -> Vec<Part> {
    let version = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        "kernel": std::fs::read_to_string("/proc/version").unwrap_or_default().trim(),
    });
    let (finding, loaded) = checks::configuration(app);
    let settings = match &loaded {
        None => finding.value.clone(),
        // Secrets are files, and shown as such; keys and groups are public keys.
        Some(loaded) => loaded
            .lines()
            .iter()
            .map(|line| format!("{} = {}   # {}\n", line.path, line.value, line.origin))
            .collect(),
    };
    let mut findings = vec![finding, checks::file_limit()];
    if let Some(loaded) = &loaded {
        let dir = loaded.config.node.data_dir();
        findings.extend([checks::disk(&dir, 85.0, 95.0), checks::sync_time(&dir)]);
    }
    let mut parts = vec![
        Part { name: "version.json", what: "program and system", text: format!("{version:#}\n") },
        Part {
            name: "settings.txt",
            what: "settings of this machine, secrets as <file>",
            text: settings,
        },
        Part {
            name: "checks.json",
            what: "what relay doctor finds here",
            text: format!("{:#}\n", json!(findings)),
        },
    ];
    let client = app.client().await;
    for (name, what, path) in [
        ("info.json", "what the relay tells everybody", "/v1/info"),
        ("health.json", "its health", "/health"),
        ("metrics.txt", "its figures", "/metrics"),
    ] {
        let text = match &client {
            Ok(client) => fetch(client, path).await,
            Err(failure) => format!("not asked: {}\n", failure.what),
        };
        parts.push(Part { name, what, text });
    }
    parts
}

async fn fetch(client: &Client, path: &str) -> String {
    match client.fetch(Request::get(path)).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("not answered: {error}\n"),
    }
}

/// A tar archive (POSIX ustar) of plain files.
fn archive(mut out: impl std::io::Write, parts: &[Part]) -> std::io::Result<()> {
    const BLOCK: usize = 512;
    let now_s = relay_client::unix_ns() / 1_000_000_000;
    for part in parts {
        let mut head = [0_u8; BLOCK];
        let mut put =
            |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, &format!("relay-debug/{}", part.name));
        put(100, "0000600\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{:011o}\0", part.text.len()));
        put(136, &format!("{now_s:011o}\0"));
        put(148, "        ");
        put(156, "0");
        put(257, "ustar\x0000");
        let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
        let mut put =
            |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(148, &format!("{sum:06o}\0 "));
        out.write_all(&head)?;
        out.write_all(part.text.as_bytes())?;
        let rest = part.text.len().next_multiple_of(BLOCK) - part.text.len();
        out.write_all(&[0; BLOCK][..rest])?;
    }
    out.write_all(&[0; 2 * BLOCK])?;
    out.flush()
}
