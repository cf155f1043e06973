//! Two relays with a link between them.

use std::os::unix::fs::PermissionsExt;

use relay_proto::RelayId;

use super::House;

/// A hub that is a home, and a spoke through which it is asked.
pub struct Pair {
    pub home: House,
    pub edge: House,
    config: (String, String),
    _dir: tempfile::TempDir,
}

pub const HOME: &str = "home-b";
pub const EDGE: &str = "edge-a";

impl Pair {
    /// Opens both, each with a configuration besides what the link needs.
    pub async fn open(at_home: &str, at_edge: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let psk = dir.path().join("psk");
        std::fs::write(&psk, "a key shared by a hub and its spokes").unwrap();
        std::fs::set_permissions(&psk, std::fs::Permissions::from_mode(0o600)).unwrap();
        // A fixed port, once chosen, so that the hub can come back.
        let home_config = format!("[hub]\npsk_file = {psk:?}\n{at_home}");
        let home = House::open_as(HOME, &home_config).await;
        let url = home.url().replace("http://", "ws://");
        let edge_config =
            format!("[federation]\nconnect = \"{url}\"\npsk_file = {psk:?}\n{at_edge}");
        let edge = House::open_as(EDGE, &edge_config).await;
        let pair = Self { home, edge, config: (home_config, edge_config), _dir: dir };
        pair.linked().await;
        pair
    }

    pub async fn linked(&self) {
        self.edge.until("link", |node| node.federated().federation.status().is_attached).await;
    }

    /// Cuts the link; the edge makes a new one.
    pub fn cut(&self) {
        let edge: RelayId = EDGE.parse().unwrap();
        self.home.node.federated().federation.kick(&edge);
    }

    /// Stops the edge and starts it again on the same data.
    pub async fn restart_edge(self) -> Self {
        let Self { home, edge, config, _dir } = self;
        let edge = edge.reopen_at_address(EDGE, &config.1).await;
        let pair = Self { home, edge, config, _dir };
        pair.linked().await;
        pair
    }

    /// Stops the home and starts it again on the same data and address.
    pub async fn restart_home(self) -> Self {
        let Self { home, edge, config, _dir } = self;
        let home = home.reopen_at_address(HOME, &config.0).await;
        let pair = Self { home, edge, config, _dir };
        pair.linked().await;
        pair
    }
}
