//! The flags of whatever starts a relay in this process: `serve`, and `run` with a node of its own.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use relay_node::config::{FlagValue, Sources};

/// Who the relay is, where it listens, whom it links to.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "The relay")]
pub struct NodeFlags {
    /// The public name of this relay: fetches a certificate for it, listens on ports 80 and 443, and is
    /// its id where no other is given
    #[arg(long, value_name = "NAME")]
    pub domain: Option<String>,
    /// Listen here; repeatable. Loopback port 8080 where nothing is said
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<String>,
    /// Listen on this port of all interfaces (a home relay: of loopback) [env: RELAY_PORT]
    #[arg(long, value_name = "N", conflicts_with = "listen")]
    pub port: Option<u16>,
    /// Stable, unique name of this relay
    #[arg(long, value_name = "ID")]
    pub node_id: Option<String>,
    /// A hub, or a spoke behind one; found out where absent
    #[arg(long, value_name = "TYPE")]
    pub node_type: Option<NodeType>,
    /// The hub of this home relay
    #[arg(long, value_name = "URL")]
    pub connect: Option<String>,
    /// Hubs to turn to when that one is out of reach, in this order
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    pub fallback: Vec<String>,
    /// Other hubs that this hub links to
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    pub peers: Vec<String>,
    /// File with the token that lets this home relay in at its hub
    #[arg(long, value_name = "PATH")]
    pub join_token_file: Option<PathBuf>,
    /// For tests: links without encryption to addresses that are not loopback
    #[arg(long)]
    pub insecure: bool,
    /// Where the data lives
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What keeps the data
    #[arg(long, value_name = "ENGINE")]
    pub store: Option<Engine>,
    /// File with the URL of the PostgreSQL database
    #[arg(long, value_name = "PATH")]
    pub database_url_file: Option<PathBuf>,
    /// Form of the log on stderr
    #[arg(long, value_name = "FORM")]
    pub log_format: Option<LogForm>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NodeType {
    Main,
    Home,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    Sqlite,
    Postgres,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogForm {
    Auto,
    Text,
    Json,
    Journald,
}

impl NodeFlags {
    /// `files`, the environment and these flags.
    pub fn sources(&self, files: &[PathBuf]) -> Sources {
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        let list = |list: &[String]| (!list.is_empty()).then(|| list.join(","));
        let listen = list(&self.listen).or_else(|| {
            (self.domain.is_some() && self.port.is_none()).then(|| "0.0.0.0:443".to_owned())
        });
        let flags = [
            ("--domain", "tls.domain", self.domain.clone()),
            ("--listen", "listen.http", listen),
            ("--node-id", "node.id", self.node_id.clone().or_else(|| self.domain.clone())),
            ("--node-type", "node.type", self.node_type.and_then(word)),
            ("--connect", "federation.connect", self.connect.clone()),
            ("--fallback", "federation.fallback", list(&self.fallback)),
            ("--peers", "federation.peers", list(&self.peers)),
            (
                "--join-token-file",
                "federation.join_token_file",
                self.join_token_file.as_ref().map(path),
            ),
            ("--insecure", "federation.insecure", self.insecure.then(|| "true".to_owned())),
            ("--data-dir", "node.data_dir", self.data_dir.as_ref().map(path)),
            ("--store", "store.backend", self.store.and_then(word)),
            (
                "--database-url-file",
                "store.database_url_file",
                self.database_url_file.as_ref().map(path),
            ),
            ("--log-format", "log.format", self.log_format.and_then(word)),
        ];
        let flags = flags
            .into_iter()
            .filter_map(|(flag, path, value)| {
                Some(FlagValue { flag: flag.into(), path: path.into(), value: value? })
            })
            .collect();
        let sources = Sources::of_process(files.to_vec(), flags);
        match self.port {
            Some(port) if self.is_home() => sources.with_loopback_port(port),
            Some(port) => sources.with_port(port),
            None => sources,
        }
    }

    /// Whether any of these flags says that a relay of its own is meant.
    pub fn is_given(&self) -> bool {
        let Self { listen, port, domain, node_id, node_type, connect, fallback, peers, .. } = self;
        let Self { data_dir, store, join_token_file, database_url_file, .. } = self;
        port.is_some()
            || domain.is_some()
            || node_id.is_some()
            || node_type.is_some()
            || connect.is_some()
            || data_dir.is_some()
            || store.is_some()
            || join_token_file.is_some()
            || database_url_file.is_some()
            || !(listen.is_empty() && fallback.is_empty() && peers.is_empty())
    }

    /// Whether these flags make a spoke, whatever the files say.
    pub fn is_home(&self) -> bool {
        self.node_type == Some(NodeType::Home) || self.connect.is_some()
    }
}

fn word(value: impl ValueEnum) -> Option<String> {
    value.to_possible_value().map(|word| word.get_name().to_owned())
}
