//! The sections of the configuration, each a plain struct with good defaults.
//!
//! To add one: define it here or in the module of its subject, add its field to [`Config`]. Reading, `config show`, the JSON Schema
//! and the sample file follow from that.

mod chat;
mod services;
mod social;

pub use chat::{Chat, Presence, Push};
pub use services::{Anonymous, CallRule, Calls, RuleEffect, Script, Service, Visibility};
pub use social::{Moderation, Social, SocialRule};

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    reader::section,
    value::{ExistingFile, Inherit, Network, SecretFile, Size, choice},
};

section! {
    /// The configuration of a relay.
    pub struct Config {
        /// Who this relay is and where it keeps its data.
        node: Node = Node::default();
        /// Where it listens.
        listen: Listen = Listen::default();
        /// Encryption of the listening addresses.
        tls: Tls = Tls::default();
        /// Where events, locks and sessions are kept.
        store: Store = Store::default();
        /// Links to other relays.
        federation: Federation = Federation::default();
        /// Which relays may link to this one.
        hub: Hub = Hub::default();
        /// Policy of namespaces. The first section that matches a namespace counts.
        namespace: Vec<NamespacePolicy> = Vec::new();
        /// Who may do what. Rules add up, a denial wins; without any rule everyone may use 'default'.
        acl: Vec<AclRule> = Vec::new();
        /// Names for sets of keys, to be used as "@name" in the rules.
        groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        /// What each tenant may use.
        quota: Quota = Quota::default();
        /// Limits and features of events.
        events: Events = Events::default();
        /// Limits of locks.
        locks: Locks = Locks::default();
        /// Authentication, sessions, connections; conversations and what belongs to them.
        chat: Chat = Chat::default();
        /// Who is online, who may know, whom somebody does not want to hear of.
        presence: Presence = Presence::default();
        /// Pushes to devices that are not connected.
        push: Push = Push::default();
        /// Who may call services, and what is kept of calls.
        calls: Calls = Calls::default();
        /// Local programs as services.
        service: Vec<Service> = Vec::new();
        /// Scripts whose services run here.
        script: Vec<Script> = Vec::new();
        /// The social layer, for clients of Polycentric.
        social: Social = Social::default();
        /// How the relay stops.
        drain: Drain = Drain::default();
        /// What it writes about itself.
        log: Log = Log::default();
    }
}

section! {
    /// Who this relay is and where it keeps its data.
    pub struct Node {
        /// Stable, globally unique name of this relay: [a-z0-9][a-z0-9._-]{0,127}. Can't change after the first start.
        /// "" = "gw_local"; a home relay is then "home-" and 8 hex digits of its key.
        id: String = String::new();
        /// "main": a hub, "home": a spoke that only dials out, "auto": a home relay where [federation] names a hub.
        r#type: NodeKind = NodeKind::Auto;
        /// Directory of the store, the relay's key and its state.
        /// "" = $XDG_DATA_HOME/relay, or ~/.local/share/relay.
        data_dir: Option<PathBuf> = None;
    }
}

impl Node {
    /// The directory of the data, the default filled in. It need not exist yet.
    pub fn data_dir(&self) -> PathBuf {
        let default = || {
            std::env::var_os("XDG_DATA_HOME")
                .map(PathBuf::from)
                .or_else(|| std::env::home_dir().map(|home| home.join(".local/share")))
                .map_or_else(|| "/var/lib/relay".into(), |dir| dir.join("relay"))
        };
        self.data_dir.clone().unwrap_or_else(default)
    }
}

choice! {
    /// The role of this relay in its federation.
    pub enum NodeKind {
        /// As [federation] says.
        Auto = "auto",
        /// A hub: others link to it.
        Main = "main",
        /// A spoke behind its hub.
        Home = "home",
    }
}

section! {
    /// Where the relay listens. Needs a restart.
    pub struct Listen {
        /// Addresses for HTTP and WebSocket. Loopback only, until you say otherwise.
        http: Vec<SocketAddr> = vec![SocketAddr::from(([127, 0, 0, 1], 8080))];
        /// Local admin socket, open to the relay's own user and root. "auto" = $XDG_RUNTIME_DIR/relay.sock,
        /// or /run/relay/relay.sock, or relay.sock in the data directory. "" = none.
        socket: String = "auto".into();
        /// Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed: addresses or ranges.
        trusted_proxies: Vec<Network> = Vec::new();
        /// A second address for /metrics, free for everyone who reaches it. "" = only on `http`, for loopback and tokens.
        metrics: Option<SocketAddr> = None;
    }
}

impl Config {
    /// Whether this relay is a spoke.
    pub fn is_home(&self) -> bool {
        match self.node.r#type {
            NodeKind::Main => false,
            NodeKind::Home => true,
            NodeKind::Auto => !self.federation.connect.is_empty(),
        }
    }
}

impl Listen {
    /// Where the local socket is made; `None` where there shall be none.
    pub fn socket_path(&self, data_dir: &Path) -> Option<PathBuf> {
        if self.socket != "auto" {
            return Some(PathBuf::from(&self.socket)).filter(|path| !path.as_os_str().is_empty());
        }
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let dir =
            [runtime, Some("/run/relay".into())].into_iter().flatten().find(|dir| dir.is_dir());
        Some(dir.unwrap_or_else(|| data_dir.to_owned()).join("relay.sock"))
    }
}

section! {
    /// Encryption of the listening addresses: a name to get a certificate for, or both files, or nothing.
    pub struct Tls {
        /// The public name of this relay. A certificate for it is fetched and renewed by ACME (RFC 8555), whose
        /// terms you accept by setting this; port 80 of that name must lead to 'challenge'.
        domain: String = String::new();
        /// Where the certificate's authority may write to you.
        acme_email: String = String::new();
        /// The authority's directory.
        acme_directory: String = "https://acme-v02.api.letsencrypt.org/directory".into();
        /// The authority's own root in PEM, where it is not one that this machine trusts.
        acme_ca_file: Option<ExistingFile> = None;
        /// Answers the authority's questions, and sends others to https.
        challenge: SocketAddr = SocketAddr::from(([0, 0, 0, 0], 80));
        /// Certificate chain in PEM, the relay's own first.
        cert_file: Option<ExistingFile> = None;
        /// Private key in PEM, closed to other users.
        key_file: Option<SecretFile> = None;
    }
}

choice! {
    /// Which engine keeps the data.
    pub enum Backend {
        /// Embedded, one relay process.
        Sqlite = "sqlite",
        /// A PostgreSQL server.
        Postgres = "postgres",
    }
}

section! {
    /// Where events, locks and sessions are kept. Needs a restart.
    pub struct Store {
        /// "sqlite" (embedded, in the data directory) or "postgres".
        backend: Backend = Backend::Sqlite;
        /// File that holds the PostgreSQL connection URL, closed to other users.
        database_url_file: Option<SecretFile> = None;
        /// Whether to copy an embedded store before a migration changes it.
        backup_before_migrate: bool = true;
    }
}

choice! {
    /// How a rotated key gets its rights.
    pub enum Rotation {
        /// At once.
        Auto = "auto",
        /// When an admin approves it.
        Approval = "approval",
    }
}

section! {
    /// Links to other relays.
    pub struct Federation {
        /// The hub of this home relay: wss://relay.example.com. "" = none, unless `relay join` stored one.
        connect: String = String::new();
        /// Hubs to turn to when that one is out of reach, in this order.
        fallback: Vec<String> = Vec::new();
        /// Other hubs that this hub dials.
        peers: Vec<String> = Vec::new();
        /// File with the token that lets this home relay in at its hub the first time.
        join_token_file: Option<SecretFile> = None;
        /// File with a key that is shared with the hub; for home relays that have no token.
        psk_file: Option<SecretFile> = None;
        /// File with the secret that all hubs share.
        peer_secret_file: Option<SecretFile> = None;
        /// Certificate authority in PEM that hubs prove themselves by (`relay ca`).
        ca_file: Option<ExistingFile> = None;
        /// This hub's certificate under that authority, in PEM; it names the relay id.
        cert_file: Option<ExistingFile> = None;
        /// Its private key in PEM, closed to other users.
        key_file: Option<SecretFile> = None;
        /// Certificates that the authority took back, in PEM.
        crl_file: Option<ExistingFile> = None;
        /// Signed directories: which relay has which key and address.
        directory_files: Vec<ExistingFile> = Vec::new();
        /// Keys ("ed25519:…") whose directories are believed.
        directory_keys: Vec<String> = Vec::new();
        /// Whether a hub whose key nobody told is trusted the first time, and its key kept.
        trust_first_use: bool = true;
        /// For tests only: links without encryption to addresses that are not loopback.
        insecure: bool = false;
    }
}

section! {
    /// Which relays may link to this one. Patterns on ids ("*.home"), or keys ("ed25519:…").
    pub struct Hub {
        /// Home relays that may link.
        spokes_allow: Vec<String> = vec!["*".into()];
        /// Home relays that may not, whatever the list above says.
        spokes_deny: Vec<String> = Vec::new();
        /// Hubs that may link. Empty: those of [federation] peers, and all that prove themselves.
        peers_allow: Vec<String> = Vec::new();
        /// Hubs that may not.
        peers_deny: Vec<String> = Vec::new();
        /// Home relays linked at once.
        max_spokes: u64 = 2_000, in 0..=1_000_000;
        /// Hubs linked at once.
        max_peers: u64 = 50, in 0..=1_000;
        /// Handshakes a second; more are told to come back.
        accept_per_sec: u64 = 1_000, in 1..=100_000;
        /// File with a key that is shared with home relays; they then need no token.
        psk_file: Option<SecretFile> = None;
        /// Whether a home relay whose key is known needs a token each time all the same.
        token_each_time: bool = false;
    }
}

section! {
    /// Policy of the namespaces that match.
    pub struct NamespacePolicy {
        /// Pattern: "forge/**" is forge and all below it, "forge/*" what is one segment below, "**" everything. Required.
        r#match: String = String::new();
        /// The relay that orders these namespaces: its id, or "self". Requests that come here are forwarded to it.
        home: String = "self".into();
        /// Whether a rotated key gets its rights at once ("auto") or after an admin's approval ("approval").
        rotation: Rotation = Rotation::Auto;
        /// Events received longer ago than this are pruned. "0" = kept for ever.
        max_age: Option<Duration> = None;
        /// The oldest events are pruned above this size. "0" = no limit.
        max_bytes: Option<Size> = None;
        /// How many versions of an addressable or replaceable event are kept. 0 = all.
        keep_versions: Option<u64> = None;
        /// How long the history of locks is kept. "0" = as [locks] says.
        history: Option<Duration> = None;
    }
}

choice! {
    /// A right in a namespace.
    pub enum Permission {
        /// See events and locks.
        Read = "read",
        /// Publish events.
        Write = "write",
        /// Take locks.
        Lock = "lock",
        /// Break locks, set rules, approve rotations.
        Admin = "admin",
    }
}

section! {
    /// Who may do what in the namespaces that match.
    pub struct AclRule {
        /// Pattern of namespaces, as in [[namespace]]. Required.
        ns: String = String::new();
        /// Keys ("ed25519:…"), groups ("@name"), or "*" for everyone. Required.
        who: Vec<String> = Vec::new();
        /// What they may do: "read", "write", "lock", "admin".
        allow: Vec<Permission> = Vec::new();
        /// What they may not do, whatever another rule allows.
        deny: Vec<Permission> = Vec::new();
    }
}

section! {
    /// What each tenant (the first segment of a namespace) may use. 0 = no limit.
    pub struct Quota {
        /// Events a second.
        events_per_sec: Option<u64> = None;
        /// Events a day (UTC).
        events_per_day: Option<u64> = None;
        /// Bytes of stored events.
        bytes: Option<Size> = None;
        /// Live subscriptions at once.
        subscriptions: Option<u64> = Some(10_000);
        /// Locks held at once.
        locks: Option<u64> = None;
        /// Events a second by one key, over all tenants.
        key_events_per_sec: Option<u64> = None;
        /// Events that one key may send at once before its rate counts.
        key_burst: u64 = 1_000, in 1..=1_000_000;
        /// Tenants with other limits.
        tenant: Vec<TenantQuota> = Vec::new();
    }
}

section! {
    /// Limits of one tenant; what is left out is as in [quota].
    pub struct TenantQuota {
        /// The tenant: the first segment of its namespaces. Required.
        name: String = String::new();
        /// Events a second.
        events_per_sec: Inherit<Option<u64>> = Inherit(None);
        /// Events a day (UTC).
        events_per_day: Inherit<Option<u64>> = Inherit(None);
        /// Bytes of stored events.
        bytes: Inherit<Option<Size>> = Inherit(None);
        /// Live subscriptions at once.
        subscriptions: Inherit<Option<u64>> = Inherit(None);
        /// Locks held at once.
        locks: Inherit<Option<u64>> = Inherit(None);
    }
}

section! {
    /// Limits and features of events. The limits are told in /v1/info.
    pub struct Events {
        /// Longest event as JSON. Batches must hold at least one.
        max_event: Size = Size::kib(128), in Size::kib(1)..=Size::mib(8);
        /// Longest `content`.
        max_content: Size = Size::kib(64), in Size(0)..=Size::mib(8);
        /// Most tags of an event.
        max_tags: u64 = 256, in 1..=4_096;
        /// Most elements of a tag.
        max_tag_elements: u64 = 16, in 2..=256;
        /// Longest element of a tag.
        max_element: Size = Size::kib(1), in Size(64)..=Size::kib(64);
        /// Most events of a batch.
        max_batch: u64 = 1_000, in 1..=10_000;
        /// Longest body of a batch. Also what one request may make the relay hold in memory.
        max_batch_bytes: Size = Size::mib(8), in Size::kib(64)..=Size::mib(64);
        /// How long ephemeral events can be read again; they stay in memory that long. At most 60 s.
        ephemeral_replay: Duration = Duration::ZERO, in Duration::ZERO..=Duration::from_secs(60);
        /// Whether signatures made by `ssh-keygen -Y sign` are accepted.
        sshsig: bool = true;
    }
}

section! {
    /// Limits of locks.
    pub struct Locks {
        /// Longest lease that may be asked for.
        max_lease: Duration = Duration::from_secs(3_600), in Duration::from_millis(500)..=Duration::from_secs(3_600);
        /// How long the history of locks is kept. "0" = for ever.
        history: Option<Duration> = Some(Duration::from_secs(365 * 86_400));
    }
}

section! {
    /// How the relay stops after SIGTERM.
    pub struct Drain {
        /// How long to go on accepting while /readyz already says no, for load balancers to notice.
        delay: Duration = Duration::ZERO, in Duration::ZERO..=Duration::from_secs(300);
        /// After this the relay stops whatever is still under way. Keep the service manager's limit above it.
        timeout: Duration = Duration::from_secs(25), in Duration::from_secs(1)..=Duration::from_secs(3_600);
    }
}

choice! {
    /// How log lines look.
    pub enum LogFormat {
        /// Text on a terminal, journald under systemd, else JSON.
        Auto = "auto",
        /// Lines for people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
        /// Lines for systemd's journal.
        Journald = "journald",
    }
}

section! {
    /// What the relay writes about itself, on stderr.
    pub struct Log {
        /// "error", "warn", "info", "debug", "trace", or a filter such as "info,relay_store=debug".
        level: String = "info".into();
        /// "auto", "text", "json" or "journald".
        format: LogFormat = LogFormat::Auto;
    }
}
