//! Relays with links between them.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt};

use relay_node::Node;
use relay_proto::RelayId;

use super::{House, shears::Shears};

pub const HOME: &str = "home-b";
pub const EDGE: &str = "edge-a";
pub const OTHER: &str = "edge-c";

/// After this a link that breaks is dialled again at once, milliseconds: one that breaks sooner counts as a failure,
/// and what fails is tried less and less often.
const HELD_MS: u64 = 600;

/// A hub that is a home, and a spoke through which it is asked.
pub struct Pair {
    pub home: House,
    pub edge: House,
    config: (String, String),
    key: SharedKey,
}

impl Pair {
    /// Opens both, each with a configuration besides what the link needs.
    pub async fn open(at_home: &str, at_edge: &str) -> Self {
        let (home, home_config, key) = open_hub(at_home).await;
        let address = home.address();
        Self::join(home, home_config, key, at_edge, address).await
    }

    /// Opens both with shears at the line between them.
    pub async fn open_with_shears(at_home: &str, at_edge: &str) -> (Self, Shears) {
        let (home, home_config, key) = open_hub(at_home).await;
        let shears = Shears::before(home.address()).await;
        let pair = Self::join(home, home_config, key, at_edge, shears.address()).await;
        (pair, shears)
    }

    async fn join(
        home: House,
        home_config: String,
        key: SharedKey,
        at_edge: &str,
        hub: SocketAddr,
    ) -> Self {
        let (edge, edge_config) = open_spoke(EDGE, hub, &key, at_edge).await;
        Self { home, edge, config: (home_config, edge_config), key }
    }

    pub async fn linked(&self) {
        until_linked(&self.edge).await;
    }

    /// Waits until the link has held for as long as it takes that its end is not taken for a failure.
    pub async fn holds(&self) {
        let holds = |node: &Node| {
            let status = node.federated().federation.status();
            let now_ms = node.clock.wall_ns() / 1_000_000;
            let since_ms = status.link.map_or(now_ms, |link| link.since_ms);
            status.is_attached && now_ms.saturating_sub(since_ms) >= HELD_MS
        };
        self.edge.until("link that holds", holds).await;
    }

    /// Cuts the link; the edge makes a new one.
    pub fn cut(&self) {
        let edge: RelayId = EDGE.parse().unwrap();
        self.home.node.federated().federation.kick(&edge);
    }

    /// Stops the edge and starts it again on the same data.
    pub async fn restart_edge(self) -> Self {
        let Self { home, edge, config, key } = self;
        let edge = edge.reopen_at_address(EDGE, &config.1).await;
        let pair = Self { home, edge, config, key };
        pair.linked().await;
        pair
    }

    /// Stops the home and starts it again on the same data and address.
    pub async fn restart_home(self) -> Self {
        let Self { home, edge, config, key } = self;
        let home = home.reopen_at_address(HOME, &config.0).await;
        let pair = Self { home, edge, config, key };
        pair.linked().await;
        pair
    }
}

/// A hub and two spokes.
pub struct Trio {
    pub home: House,
    pub edge: House,
    pub other: House,
    _key: SharedKey,
}

impl Trio {
    /// Opens all three, each with a configuration besides what the links need.
    pub async fn open(at_home: &str, at_edge: &str, at_other: &str) -> Self {
        let (home, _, key) = open_hub(at_home).await;
        let (edge, _) = open_spoke(EDGE, home.address(), &key, at_edge).await;
        let (other, _) = open_spoke(OTHER, home.address(), &key, at_other).await;
        Self { home, edge, other, _key: key }
    }
}

/// What a hub and its spokes prove to each other.
struct SharedKey(tempfile::TempDir);

impl SharedKey {
    fn new() -> Self {
        let key = Self(tempfile::tempdir().unwrap());
        let path = key.0.path().join("psk");
        std::fs::write(&path, "a key shared by a hub and its spokes").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        key
    }

    /// The line of the configuration.
    fn line(&self) -> String {
        format!("psk_file = {:?}\n", self.0.path().join("psk"))
    }
}

async fn open_hub(more: &str) -> (House, String, SharedKey) {
    let key = SharedKey::new();
    let config = format!("[hub]\n{}{more}", key.line());
    (House::open_as(HOME, &config).await, config, key)
}

async fn open_spoke(id: &str, hub: SocketAddr, key: &SharedKey, more: &str) -> (House, String) {
    let config = format!("[federation]\nconnect = \"ws://{hub}\"\n{}{more}", key.line());
    let spoke = House::open_as(id, &config).await;
    until_linked(&spoke).await;
    (spoke, config)
}

async fn until_linked(spoke: &House) {
    spoke.until("link", |node| node.federated().federation.status().is_attached).await;
}
