//! Configuration (`cli.md` section 4): from files, environment and flags to plain structs.
//!
//! Later wins: built-in defaults · `GATEWAY_…` variables · `/etc/relay/relay.toml` (or
//! `$XDG_CONFIG_HOME/relay/relay.toml`) · `relay.d/*.toml` beside it, by name · `--config` files ·
//! `RELAY_…` variables · flags. Sections join key by key; the sections of a list (`[[acl]]`) add up.
//!
//! Loading either gives a [`Config`] in which every value has been checked, or [`Problems`]: all of
//! them, each with its place. Nothing here starts or opens anything.

mod check;
mod environment;
mod problem;
mod reader;
mod sections;
mod show;
mod source;
mod value;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

pub(crate) use check::hub_url;
pub use problem::{Origin, Problem, Problems};
pub use sections::{
    AclRule, Anonymous, Backend, CallRule, Calls, Chat, Config, Drain, Events, Federation, Hub,
    Listen, Locks, Log, LogFormat, Moderation, NamespacePolicy, Node, NodeKind, Permission,
    Presence, Push, Quota, Rotation, RuleEffect, Script, Service, Social, SocialRule, Store,
    TenantQuota, Tls, Visibility,
};
pub use show::{Difference, Line, differences, sample, schema};
pub use value::{ExistingFile, Inherit, Network, SecretFile, Size};

use reader::{Reader, Setting, Shape};

/// Where a configuration is read from. Empty: built-in defaults alone.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Files, later wins. Each must exist.
    pub files: Vec<PathBuf>,
    /// Environment variables, name and value.
    pub env: Vec<(String, String)>,
    /// Command line flags.
    pub flags: Vec<FlagValue>,
}

/// One command line flag that sets something.
#[derive(Debug, Clone)]
pub struct FlagValue {
    /// As typed, for messages: `--node-id`.
    pub flag: String,
    /// What it sets: `node.id`.
    pub path: String,
    /// Its value; lists separated by commas.
    pub value: String,
}

impl Sources {
    /// What a process on this machine reads: the usual files, then `files`, its environment, `flags`.
    pub fn of_process(files: Vec<PathBuf>, flags: Vec<FlagValue>) -> Self {
        // Variables that are not UTF-8 can not be settings; those of others must not stop us.
        let env: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("RELAY_") || name.starts_with("GATEWAY_"))
            .collect();
        let mut all = usual_files();
        all.extend(files);
        Self { files: all, env, flags }
    }

    /// Sets what `--port N` sets: this port on all interfaces.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.flags.push(FlagValue {
            flag: "--port".into(),
            path: "listen.http".into(),
            value: environment::every_interface(&port.to_string()),
        });
        self
    }

    /// Sets what `--port N` sets for a home relay: this port of loopback.
    #[must_use]
    pub fn with_loopback_port(mut self, port: u16) -> Self {
        let value = format!("127.0.0.1:{port}");
        self.flags.push(FlagValue { flag: "--port".into(), path: "listen.http".into(), value });
        self
    }
}

/// The user's file if there is one, else the machine's, and the drop-ins beside it.
fn usual_files() -> Vec<PathBuf> {
    let user_dir = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".config")))
        .map(|dir| dir.join("relay"));
    let has_config =
        |dir: &PathBuf| dir.join("relay.toml").is_file() || dir.join("relay.d").is_dir();
    let dir = user_dir.filter(has_config).unwrap_or_else(|| Path::new("/etc/relay").to_owned());
    let main = Some(dir.join("relay.toml")).filter(|file| file.is_file());
    main.into_iter().chain(source::drop_ins(&dir.join("relay.d"))).collect()
}

/// A configuration that holds together, and what is known about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// Allowed, but probably not meant.
    pub notices: Vec<Problem>,
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Every effective setting with its origin.
    pub fn lines(&self) -> Vec<Line> {
        self.config.lines(&self.origins)
    }

    /// What an operator should know about the security of these settings.
    pub fn advice(&self) -> Vec<String> {
        check::advice(&self.config)
    }
}

/// Reads, joins and checks all sources.
///
/// # Errors
/// Every problem of every source.
pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let (mut problems, mut notices) = (Vec::new(), Vec::new());
    let mut above = source::Node::empty_table();
    for file in &sources.files {
        if let Some(tree) = source::read_file(file, &mut problems) {
            above.overlay(tree);
        }
    }
    above.overlay(environment::relay(&sources.env, &section_names(), &mut problems));
    for flag in &sources.flags {
        above.set(&flag.path, &flag.value, Origin::Flag(flag.flag.clone()));
    }
    let mut tree = environment::gateway(&sources.env, &mut notices);
    environment::overruled(&sources.env, &above, &mut notices);
    tree.overlay(above);
    finish(&tree, problems, notices)
}

/// Reads one TOML text, called `name` in messages, over the defaults.
///
/// # Errors
/// Every problem.
pub fn load_text(name: &str, text: &str) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let tree = source::parse(&Arc::from(name), text, &mut problems);
    finish(&tree, problems, Vec::new())
}

fn finish(
    tree: &source::Node,
    problems: Vec<Problem>,
    notices: Vec<Problem>,
) -> Result<Loaded, Problems> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let mut reader = Reader::new(problems, credentials);
    let config = Config::read(tree, &mut reader);
    let Reader { mut problems, origins, bad, .. } = reader;
    let config = config.unwrap_or_default();
    // A value of the wrong type left its default behind, so contradictions of the rest still show.
    check::contradictions(&config, &origins, &bad, &mut problems);
    if problems.is_empty() {
        Ok(Loaded { config, notices, origins })
    } else {
        Err(Problems(problems))
    }
}

fn section_names() -> Vec<&'static str> {
    match Config::shape() {
        Shape::Section(section) => section.fields.iter().map(|field| field.name).collect(),
        _ => Vec::new(),
    }
}
