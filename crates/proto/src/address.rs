//! Addresses (`common.md`, Keys and names): read right to left, each `@` one step closer to the
//! target. `blog@alice.home@relay.example.com` is the service `blog` on the spoke `alice.home` of
//! the hub `relay.example.com`. Steps left out on the right are found through the registry.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::key::text_serde;

/// The longest relay id, service name or method, in bytes.
pub const MAX_NAME: usize = 128;

/// Why a text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("a relay id is [a-z0-9][a-z0-9._-]* of at most 128 bytes")]
    Relay,
    #[error("a service name is [A-Za-z0-9_][A-Za-z0-9._-]* of at most 128 bytes")]
    Service,
    #[error("a method is 1 to 128 of [A-Za-z0-9_.:/$-]")]
    Method,
    #[error("an address is service@spoke@hub, where steps on the right may be left out")]
    Steps,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $is:ident, $error:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = AddressError;

            fn from_str(text: &str) -> Result<Self, AddressError> {
                if $is(text) { Ok(Self(text.into())) } else { Err($error) }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        text_serde!($type);
    };
}

name_type!(
    /// The stable, globally unique name of a relay (`gateway_id` in chat routing).
    RelayId, is_relay_id, AddressError::Relay
);
name_type!(
    /// The name of a service or actor, unique on its node.
    ServiceName, is_service, AddressError::Service
);
name_type!(
    /// The name of a method of a service.
    Method, is_method, AddressError::Method
);

/// Whether `text` has the form of a relay id.
pub fn is_relay_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= MAX_NAME
        && bytes.first().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

fn is_service(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= MAX_NAME
        && bytes.first().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn is_method(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|b| {
            b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b':' | b'/' | b'$' | b'-')
        })
}

/// A relay, and where it is known the hub it is reached through: `alice.home@relay.example.com`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAddress {
    pub relay: RelayId,
    /// The hub of the spoke `relay`; `None` when `relay` is a hub or the registry is to be asked.
    pub hub: Option<RelayId>,
}

impl NodeAddress {
    /// Whether this names the relay `relay`, which is linked to `hub`.
    ///
    /// A hub left out matches: relay ids are globally unique.
    pub fn names(&self, relay: &RelayId, hub: Option<&RelayId>) -> bool {
        self.relay == *relay && (self.hub.is_none() || self.hub.as_ref() == hub)
    }
}

impl FromStr for NodeAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let mut steps = text.split('@');
        let relay = steps.next().ok_or(AddressError::Steps)?.parse()?;
        let hub = steps.next().map(str::parse).transpose()?;
        if steps.next().is_some() { Err(AddressError::Steps) } else { Ok(Self { relay, hub }) }
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.relay.as_str())?;
        match &self.hub {
            Some(hub) => write!(f, "@{hub}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

text_serde!(NodeAddress);

/// A service or actor, and the node it lives on where the caller names one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    pub service: ServiceName,
    /// `None`: here if it lives here, else any instance the registry knows.
    pub node: Option<NodeAddress>,
}

impl Address {
    /// The service of this name wherever it is.
    pub const fn anywhere(service: ServiceName) -> Self {
        Self { service, node: None }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (service, node) = match text.split_once('@') {
            Some((service, node)) => (service, Some(node.parse()?)),
            None => (text, None),
        };
        Ok(Self { service: service.parse()?, node })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.service.as_str())?;
        match &self.node {
            Some(node) => write!(f, "@{node}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

text_serde!(Address);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_from_the_right() {
        let full: Address = "blog@alice.home@relay.example.com".parse().unwrap();
        assert_eq!(full.service.as_str(), "blog");
        let node = full.node.clone().unwrap();
        assert_eq!(node.relay.as_str(), "alice.home");
        assert_eq!(node.hub.unwrap().as_str(), "relay.example.com");
        assert_eq!(full.to_string(), "blog@alice.home@relay.example.com");

        let spoke: Address = "blog@alice.home".parse().unwrap();
        assert_eq!(spoke.node.unwrap().hub, None);
        assert_eq!("blog".parse::<Address>().unwrap().node, None);
        let node: NodeAddress = "alice.home@relay.example.com".parse().unwrap();
        assert_eq!(node.relay.as_str(), "alice.home");
    }

    #[test]
    fn malformed_addresses_are_refused() {
        use AddressError::{Relay, Service, Steps};
        let long = "a".repeat(MAX_NAME + 1);
        for (text, error) in [
            ("", Service),
            ("@hub", Service),
            ("blog@", Relay),
            ("blog@@hub", Relay),
            ("blog@Alice", Relay),
            ("blog@.a", Relay),
            ("bl og", Service),
            (".blog", Service),
            ("a@b@c@d", Steps),
            (long.as_str(), Service),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
        assert!("tools/list".parse::<Method>().is_ok());
        assert_eq!("a b".parse::<Method>(), Err(AddressError::Method));
    }

    #[test]
    fn a_node_is_named_with_or_without_its_hub() {
        let relay = "alice.home".parse().unwrap();
        let hub: RelayId = "hub-a".parse().unwrap();
        let named = |text: &str| text.parse::<NodeAddress>().unwrap().names(&relay, Some(&hub));
        assert!(named("alice.home") && named("alice.home@hub-a"));
        assert!(!named("alice.home@hub-b") && !named("hub-a"));
    }
}
