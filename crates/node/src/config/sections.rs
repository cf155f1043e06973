//! The sections of the configuration, each a plain struct with good defaults.
//!
//! To add one: define it here, add its field to [`Config`]. Reading, `config show`, the JSON Schema
//! and the sample file follow from that.

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
    /// Authentication, sessions, connections; conversations and what belongs to them.
    pub struct Chat {
        /// The URL under which clients reach this relay. "" = made from the request.
        public_url: String = String::new();
        /// The relay where users live who come in here and live nowhere yet: their KeyPackages, inboxes, vault, contacts and the conversations that they make. "self" = here. Needs a restart.
        user_home: String = "self".to_owned();
        /// How long the token of a key challenge may start sessions.
        auth_token_ttl: Duration = Duration::from_secs(600), in Duration::from_secs(1)..=Duration::from_secs(86_400);
        /// Longest life of a token that a key holder signs offline.
        signed_token_max_ttl: Duration = Duration::from_secs(30 * 86_400), in Duration::from_secs(60)..=Duration::from_secs(366 * 86_400);
        /// For development only: any text is a token and names its user. Refused unless all addresses are loopback. Needs a restart.
        insecure_dev_auth: bool = false;
        /// Requests a minute from one address to the endpoints that need no session. 0 = no limit.
        auth_per_ip_per_min: Option<u64> = Some(600);
        /// Requests a minute for one claimed user to the endpoints that need no session. 0 = no limit.
        auth_per_user_per_min: Option<u64> = Some(60);
        /// How long a session lives without being resumed.
        session_ttl: Duration = Duration::from_secs(3_600), in Duration::from_secs(10)..=Duration::from_secs(30 * 86_400);
        /// How long the old token of a resumed session still works, for requests under way.
        session_grace: Duration = Duration::from_secs(120), in Duration::ZERO..=Duration::from_secs(3_600);
        /// After this a session can't be resumed; the key must prove itself again.
        session_max_age: Duration = Duration::from_secs(30 * 86_400), in Duration::from_secs(10)..=Duration::from_secs(366 * 86_400);
        /// Most sessions of a user; above it the least recently used ends.
        sessions_per_user: u64 = 100, in 1..=10_000;
        /// Most sessions of a device; above it the least recently used ends.
        sessions_per_device: u64 = 10, in 1..=1_000;
        /// Web origins that may use the API from a browser, such as "https://app.example.com".
        cors_origins: Vec<String> = Vec::new();
        /// Longest frame of a socket.
        max_frame: Size = Size::mib(1), in Size::kib(16)..=Size::mib(16);
        /// After so long without a frame a client is asked for a sign of life; after the third time the connection ends.
        ping_interval: Duration = Duration::from_secs(30), in Duration::from_millis(100)..=Duration::from_secs(3_600);
        /// A client that comes without a session and sends nothing for so long is sent away.
        first_frame_within: Duration = Duration::from_secs(10), in Duration::from_millis(100)..=Duration::from_secs(600);
        /// Frames a second on one connection, published events and locks aside; above it the socket is read slower. 0 = no limit.
        frames_per_sec: Option<u64> = Some(200);
        /// Frames a second of one user over all connections, published events and locks aside; above it they are read slower. 0 = no limit.
        user_frames_per_sec: Option<u64> = Some(1_000);
        /// Connections of one user. 0 = no limit.
        conns_per_user: Option<u64> = Some(50);
        /// Connections of one device. 0 = no limit.
        conns_per_device: Option<u64> = Some(10);
        /// Connections from one address. 0 = no limit.
        conns_per_address: Option<u64> = Some(1_000);
        /// Frames that may wait on one connection before its subscriptions go back to reading from the store.
        queue_frames: u64 = 1_000, in 16..=100_000;
        /// Conversations that one connection may follow.
        subscriptions_per_conn: u64 = 1_000, in 1..=100_000;
        /// Longest `env` of a message, characters.
        max_env: u64 = 262_144, in 256..=8_388_608;
        /// Messages a minute of one user in one conversation. 0 = no limit.
        sends_per_min: Option<u64> = Some(120);
        /// Direct messages a minute that one user may begin. 0 = no limit.
        dm_creates_per_min: Option<u64> = Some(30);
        /// Rooms a minute that one user may make. 0 = no limit.
        room_creates_per_min: Option<u64> = Some(60);
        /// Invitations a minute of one user to one conversation. 0 = no limit.
        invites_per_min: Option<u64> = Some(60);
        /// Removals a minute of one user from one conversation. 0 = no limit.
        removes_per_min: Option<u64> = Some(60);
        /// Most members of a conversation.
        max_members: u64 = 1_024, in 2..=10_000;
        /// Most conversations of a user.
        convs_per_user: u64 = 5_000, in 1..=100_000;
        /// Whether members see nothing of what came before their latest join.
        history_from_join: bool = false;
        /// Whether the relay reads the epoch of commits in opaque conversations, so that the first of an epoch wins.
        mls_aware: bool = false;
        /// The newest so many messages of a conversation are kept. 0 = all.
        retention_max_events: Option<u64> = None;
        /// Messages older than this are pruned. "0" = kept for ever.
        retention_max_age: Option<Duration> = None;
        /// How often old messages are looked for.
        retention_sweep_interval: Duration = Duration::from_secs(60), in Duration::from_secs(1)..=Duration::from_secs(86_400);
        /// Whether messages are pruned although a device of a member has not seen them.
        retention_hard_limits: bool = false;
        /// A device that acknowledged nothing for so long keeps no messages from being pruned. "0" = it always does.
        cursor_stale_after: Option<Duration> = None;
        /// How long a message's id is known after the message was pruned.
        idempotency_window: Duration = Duration::from_secs(604_800), in Duration::from_secs(60)..=Duration::from_secs(366 * 86_400);
        /// KeyPackage fetches a minute of one user. 0 = no limit.
        kp_fetches_per_min: Option<u64> = Some(60);
        /// KeyPackage fetches a minute of one user's packages by all others. 0 = no limit.
        kp_target_fetches_per_min: Option<u64> = Some(120);
        /// Times a minute that a device may hand KeyPackages in. 0 = no limit.
        kp_publishes_per_min: Option<u64> = Some(60);
        /// Whether one-time KeyPackages of the MLS profile go only to contacts of their user and to those in a conversation with
        /// them; others get the one of last resort.
        kp_contacts_only: bool = true;
        /// KeyPackages of a device that wait to be handed out; above it the oldest go.
        kp_pool_max: u64 = 1_000, in 1..=100_000;
        /// Most entries of a device's inbox; above it the oldest go.
        inbox_max: u64 = 10_000, in 100..=1_000_000;
        /// Largest attachment.
        blob_max: Size = Size::mib(64), in Size::kib(1)..=Size::mib(4_096);
        /// Attachments of one user, together.
        blob_quota: Size = Size::mib(1_024), in Size::kib(1)..=Size::mib(1_048_576);
        /// How long an attachment is kept after it was last handed in.
        blob_ttl: Duration = Duration::from_secs(30 * 86_400), in Duration::from_secs(60)..=Duration::from_secs(3_660 * 86_400);
    }
}

section! {
    /// Who is online, who may know, whom somebody does not want to hear of.
    pub struct Presence {
        /// Contacts that a user may watch.
        watchlist_max: u64 = 256, in 1..=10_000;
        /// Users whose watching of one user counts.
        watchers_max: u64 = 256, in 1..=100_000;
        /// Contacts that a user may block.
        blocklist_max: u64 = 256, in 1..=10_000;
        /// Changes a minute of a user's watchlist. 0 = no limit.
        watch_mutations_per_min: Option<u64> = Some(60);
        /// Changes a minute of a user's blocklist. 0 = no limit.
        block_mutations_per_min: Option<u64> = Some(60);
        /// Leases and renewals a minute of one device. 0 = no limit.
        renews_per_min: Option<u64> = Some(60);
        /// Questions a minute of one user about who is online. 0 = no limit.
        status_per_min: Option<u64> = Some(120);
    }
}

section! {
    /// Pushes to devices that are not connected: Web Push without content, which UnifiedPush takes as well. Needs a restart.
    pub struct Push {
        /// How push services reach the operator: "mailto:…" or "https://…". "" = nothing is pushed.
        contact: String = String::new();
        /// A device is pushed to at most once in this time.
        every: Duration = Duration::from_secs(10), in Duration::from_millis(100)..=Duration::from_secs(86_400);
        /// How long a push service keeps a push for a device that is off.
        ttl: Duration = Duration::from_secs(86_400), in Duration::ZERO..=Duration::from_secs(28 * 86_400);
        /// Whether push services may be reached at private addresses, and by http://.
        allow_private: bool = false;
    }
}

choice! {
    /// From where calls are taken without proof of a key.
    pub enum Anonymous {
        /// From nowhere.
        Never = "never",
        /// From this machine, proxies aside.
        Loopback = "loopback",
        /// From everywhere.
        Always = "always",
    }
}

choice! {
    /// What a rule does with a call that it fits.
    pub enum RuleEffect {
        /// It may pass.
        Allow = "allow",
        /// It is refused as forbidden.
        Deny = "deny",
    }
}

section! {
    /// Who may call services, and what is kept of calls.
    pub struct Calls {
        /// From where POST /rpc and /svc take calls without proof of a key: "never", "loopback" or "always".
        /// Anonymous callers reach public services only.
        anonymous: Anonymous = Anonymous::Loopback;
        /// Rules in order, before the `allow` of services. The first that fits a call decides; without any, everyone
        /// may call what is public.
        rule: Vec<CallRule> = Vec::new();
        /// How long the result of a call with an idempotency key is kept at least, room permitting.
        keep_results: Duration = Duration::from_secs(600), in Duration::from_secs(60)..=Duration::from_secs(7 * 86_400);
        /// Most results that are kept; the oldest go first.
        max_results: u64 = 10_000, in 100..=1_000_000;
        /// Most bytes of results that are kept, in memory and on disk.
        max_result_bytes: Size = Size::mib(16), in Size::mib(1)..=Size::mib(1_024);
    }
}

section! {
    /// One rule about calls; a member left out fits everything. `*` stands for any run of characters.
    pub struct CallRule {
        /// "allow" or "deny".
        effect: RuleEffect = RuleEffect::Deny;
        /// Services.
        service: String = "*".into();
        /// Methods.
        method: String = "*".into();
        /// Keys ("ed25519:…"), nodes ("alice.home@hub", "*@hub"), "local" for this node's operator and services, or "*".
        caller: String = "*".into();
    }
}

choice! {
    /// Whether other nodes see a service.
    pub enum Visibility {
        /// Registered with the hub, and callable over HTTP.
        Public = "public",
        /// For this node's operator and services only.
        Private = "private",
    }
}

section! {
    /// A local program as a service. One of `http`, `proxy` and `stdio` says how it is reached. Needs a restart.
    pub struct Service {
        /// The service's name: [A-Za-z0-9_][A-Za-z0-9._-]*. Required.
        name: String = String::new();
        /// URL of a program that speaks JSON-RPC over HTTP.
        http: String = String::new();
        /// Base URL of any HTTP server; callers name method, path, headers and body, or use /svc/NAME/….
        proxy: String = String::new();
        /// Command of a child process that speaks JSON-RPC, one message a line, on stdin and stdout.
        stdio: Vec<String> = Vec::new();
        /// Where the child process runs. "" = where the relay does.
        directory: Option<PathBuf> = None;
        /// "public" or "private".
        visibility: Visibility = Visibility::Public;
        /// Callers that may call it, as in [[calls.rule]]; the operator always may. Empty = nobody else.
        allow: Vec<String> = vec!["*".into()];
        /// Its version; callers may ask for a range.
        version: String = "1.0.0".into();
        /// Methods that it has, told to the registry. Empty = not told.
        methods: Vec<String> = Vec::new();
        /// Path that a health check asks; well means any 2xx. "" = not checked.
        health: String = String::new();
        /// How often its health is checked.
        health_every: Duration = Duration::from_secs(15), in Duration::from_secs(1)..=Duration::from_secs(3_600);
        /// Calls under way at once; further ones wait in its mailbox.
        concurrency: u64 = 64, in 1..=10_000;
    }
}

section! {
    /// A script whose services run here. Needs a restart; the script itself does not, with `watch`.
    pub struct Script {
        /// The `.rl` file. Required.
        file: PathBuf = PathBuf::new();
        /// Memory that each of its services may use, code and values together.
        memory: Size = Size::mib(64), in Size::mib(1)..=Size::mib(4_096);
        /// Processor time of one message.
        cpu: Duration = Duration::from_secs(1), in Duration::from_millis(1)..=Duration::from_secs(60);
        /// Time of one message with all that it waits for.
        wall: Duration = Duration::from_secs(60), in Duration::from_millis(10)..=Duration::from_secs(3_600);
        /// Most state of one service as JSON.
        state: Size = Size::mib(4), in Size::kib(1)..=Size::mib(64);
        /// Whether to take over a changed file; a broken one leaves the running version.
        watch: bool = false;
    }
}

choice! {
    /// What is shown of posts, descriptions and avatars that nobody has approved.
    pub enum Moderation {
        /// Everything; nothing is tagged.
        Off = "off",
        /// Everything but what tags exclude.
        Lazy = "lazy",
        /// Nothing.
        Strong = "strong",
    }
}

section! {
    /// The social layer, for clients of Polycentric. Needs a restart.
    pub struct Social {
        /// Whether it is served.
        enabled: bool = true;
        /// A path under which it is served as well as at the root, such as "/polycentric". "" = only at the root.
        prefix: String = String::new();
        /// Whether identities claim their handles themselves; else an operator gives them.
        open_registration: bool = true;
        /// Whether posts and profiles can be searched.
        search: bool = true;
        /// Longest request body. Clients send twenty pieces of a picture of 512 KiB at once, so less than 16 MiB would stop them.
        max_body: Size = Size::mib(32), in Size::mib(16)..=Size::mib(64);
        /// Bytes of events of one identity. "0" = no limit.
        identity_bytes: Option<Size> = None;
        /// Events a second of one identity. 0 = no limit.
        identity_events_per_sec: Option<u64> = None;
        /// Events a second from one address. 0 = no limit.
        address_events_per_sec: Option<u64> = None;
        /// Events that an identity or an address may send at once before its rate counts.
        burst: u64 = 2_000, in 20..=1_000_000;
        /// How long caches between here and the reader may keep feeds and profiles without asking again.
        shared_max_age: Duration = Duration::from_secs(10), in Duration::ZERO..=Duration::from_secs(3_600);
        /// Whether caches may keep whole ranges of events for ever. A copy in a cache survives the deletion of an event.
        immutable_ranges: bool = true;
        /// How far ahead of the relay's clock a post may be dated and still be among the newest of everybody.
        max_future: Duration = Duration::from_secs(300), in Duration::ZERO..=Duration::from_secs(86_400);
        /// What is shown of what nobody has approved: "off", "lazy" or "strong".
        moderation: Moderation = Moderation::Off;
        /// A service that is asked about what waits, such as "https://judge.example.com/posts". "" = nobody is asked.
        moderation_url: String = String::new();
        /// Signs the requests to it: "whsec_" and at least 24 bytes in base64.
        moderation_secret_file: Option<SecretFile> = None;
        /// Whether the service may have a private address, and be spoken to without TLS.
        moderation_private: bool = false;
        /// Words that give tags to texts; texts that went through the rules count as approved.
        rule: Vec<SocialRule> = Vec::new();
        /// Identities that are fetched from other servers: "KEY URL", the key as ed25519:… and the server's base URL.
        follow: Vec<String> = Vec::new();
        /// How often followed identities are looked for.
        follow_every: Duration = Duration::from_secs(60), in Duration::from_secs(1)..=Duration::from_secs(86_400);
    }
}

section! {
    /// A word and the tag that texts with it get.
    pub struct SocialRule {
        /// Found anywhere in the text, upper or lower case. Required.
        word: String = String::new();
        /// Such as "hate", "sexual", "violence". Required.
        tag: String = String::new();
        /// From 0 (harmless) on; readers say up to which level they want to see.
        level: u64 = 3, in 0..=10;
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
