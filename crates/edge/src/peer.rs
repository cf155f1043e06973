//! Where a connection comes from.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use rustls::pki_types::CertificateDer;

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Tcp {
        addr: SocketAddr,
        /// Whether the connection is encrypted by this relay.
        tls: bool,
    },
    /// The local socket, by the user id that the kernel vouches for.
    Local { uid: u32, operator: bool },
}

/// The certificates that the other end proved to hold, its own first; only where links use them.
#[derive(Debug, Clone)]
pub(crate) struct Certificates(pub Arc<[CertificateDer<'static>]>);

impl Peer {
    /// Whether nothing between here and there could be another machine.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Tcp { addr, .. } => addr.ip().to_canonical().is_loopback(),
            Self::Local { .. } => true,
        }
    }

    /// What limits by address count.
    pub fn ip(&self) -> IpAddr {
        match self {
            Self::Tcp { addr, .. } => addr.ip().to_canonical(),
            Self::Local { .. } => IpAddr::V6(Ipv6Addr::LOCALHOST),
        }
    }
}
