//! What a home registers.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    address::{Method, RelayId, ServiceName},
    event::SigningKey,
    key::{NodeId, parse_hex},
    link::NodeType,
};

/// The most methods one service may name.
pub const MAX_METHODS: usize = 256;
/// The most bytes of a service's metadata, as JSON.
pub const MAX_METADATA: usize = 4096;

/// One public service as it is registered with the hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceRecord {
    pub service_name: ServiceName,
    /// Semver.
    #[serde(default = "first_version")]
    pub version: String,
    /// Empty where any method may be asked for.
    #[serde(default)]
    pub methods: Vec<String>,
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    #[serde(default = "public")]
    pub visibility: String,
    #[serde(default = "healthy")]
    pub is_healthy: bool,
}

fn first_version() -> String {
    "1.0.0".to_owned()
}

fn public() -> String {
    "public".to_owned()
}

const fn healthy() -> bool {
    true
}

/// Why a registration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("'{service}': the version is not semver")]
    Version { service: ServiceName },
    #[error("'{service}': only public services are registered")]
    Private { service: ServiceName },
    #[error("'{service}': at most {MAX_METHODS} methods, each 1 to 128 of [A-Za-z0-9_.:/$-]")]
    Methods { service: ServiceName },
    #[error("'{service}': metadata has at most {MAX_METADATA} bytes")]
    Metadata { service: ServiceName },
    #[error("'{service}' is registered twice")]
    Twice { service: ServiceName },
    #[error("a home has at most {most} services")]
    TooMany { most: usize },
}

impl ServiceRecord {
    /// A healthy public service of any methods.
    pub fn new(service_name: ServiceName, version: &str) -> Self {
        Self {
            service_name,
            version: version.to_owned(),
            methods: Vec::new(),
            metadata: serde_json::Map::new(),
            visibility: public(),
            is_healthy: true,
        }
    }

    /// The most calls it wants at once (`metadata.slots`), where it says so.
    pub fn slots(&self) -> Option<u32> {
        self.metadata.get("slots")?.as_u64()?.try_into().ok()
    }

    fn check(&self) -> Result<(), RecordError> {
        let service = || self.service_name.clone();
        if semver::Version::parse(&self.version).is_err() {
            return Err(RecordError::Version { service: service() });
        }
        if self.visibility != "public" {
            return Err(RecordError::Private { service: service() });
        }
        let named = |method: &String| method.parse::<Method>().is_ok();
        if self.methods.len() > MAX_METHODS || !self.methods.iter().all(named) {
            return Err(RecordError::Methods { service: service() });
        }
        let metadata = serde_json::to_vec(&self.metadata).map_or(usize::MAX, |json| json.len());
        if metadata > MAX_METADATA {
            return Err(RecordError::Metadata { service: service() });
        }
        Ok(())
    }
}

/// A home's signature that it attached to a hub, as hex on the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Proof([u8; 64]);

impl Proof {
    /// Signs that `key`'s home attaches to `main` with `epoch`.
    pub fn sign(key: &SigningKey, home: &RelayId, main: &RelayId, epoch: u64) -> Self {
        Self(key.sign(attachment_statement(home, &key.node_id(), main, epoch).as_bytes()))
    }
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proof")
    }
}

impl Serialize for Proof {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Proof {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes =
            parse_hex(&text).ok_or_else(|| de::Error::custom("128 lowercase hex digits"))?;
        Ok(Self(bytes))
    }
}

/// What a home signs when it attaches.
pub fn attachment_statement(home: &RelayId, key: &NodeId, main: &RelayId, epoch: u64) -> String {
    format!("relay-attach-v1\n{home}\n{key}\n{main}\n{epoch}")
}

/// What a hub says of one home attached to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    pub home: RelayId,
    #[serde(rename = "type")]
    pub node_type: NodeType,
    pub key: NodeId,
    /// Raised by the home each time it attaches; a number below 2^53.
    pub epoch: u64,
    /// The home's signature over [`attachment_statement`]; foreign programs give none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// Sorted by name.
    pub services: Vec<Arc<ServiceRecord>>,
}

impl Attachment {
    /// Whether the home itself signed that it attached to `main`.
    pub fn is_proven(&self, main: &RelayId) -> bool {
        self.proof.as_ref().is_some_and(|proof| {
            let statement = attachment_statement(&self.home, &self.key, main, self.epoch);
            self.key.verifies(statement.as_bytes(), &proof.0)
        })
    }

    /// The attachment with `services` in place of all it had, or beside them.
    pub(super) fn merged(
        &self,
        services: Vec<ServiceRecord>,
        full: bool,
        most: usize,
    ) -> Result<Self, RecordError> {
        let mut new = Vec::with_capacity(services.len());
        for service in services {
            service.check()?;
            new.push(Arc::new(service));
        }
        new.sort_by(|a, b| a.service_name.cmp(&b.service_name));
        if let Some(pair) = new.windows(2).find(|pair| pair[0].service_name == pair[1].service_name)
        {
            return Err(RecordError::Twice { service: pair[0].service_name.clone() });
        }
        if !full {
            let replaced = |old: &ServiceRecord| {
                new.binary_search_by(|s| s.service_name.cmp(&old.service_name)).is_ok()
            };
            let kept: Vec<_> = self.services.iter().filter(|old| !replaced(old)).cloned().collect();
            new.extend(kept);
            new.sort_by(|a, b| a.service_name.cmp(&b.service_name));
        }
        if new.len() > most {
            return Err(RecordError::TooMany { most });
        }
        Ok(Self { services: new, ..self.clone() })
    }

    /// The attachment with the health of some services changed; `None` where nothing changes.
    pub(super) fn with_health(&self, health: &[(ServiceName, bool)]) -> Option<Self> {
        let mut changed: Option<Self> = None;
        for (name, is_healthy) in health {
            let Ok(at) = self.services.binary_search_by(|s| s.service_name.cmp(name)) else {
                continue;
            };
            if self.services[at].is_healthy != *is_healthy {
                let record = ServiceRecord::clone(&self.services[at]);
                changed.get_or_insert_with(|| self.clone()).services[at] =
                    Arc::new(ServiceRecord { is_healthy: *is_healthy, ..record });
            }
        }
        changed
    }

    /// Whether a peer may say this: the bounds that a home's own registration has.
    pub(super) fn is_acceptable(&self, most: usize) -> bool {
        let sorted = self.services.windows(2).all(|p| p[0].service_name < p[1].service_name);
        sorted
            && self.epoch < 1 << 53
            && self.services.len() <= most
            && self.services.iter().all(|service| service.check().is_ok())
    }
}
