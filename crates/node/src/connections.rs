//! How many sockets and streams there may be (`gateway.md` 12).

use std::{net::IpAddr, time::Duration};

use relay_core::{
    limits::{Buckets, Gauges, Permit, Rate},
    sessions::LiveSession,
};
use relay_proto::{Code, NodeId, Problem, auth::DeviceId};

use crate::config::Chat;

/// The connections of a relay, by whom they are of.
#[derive(Debug)]
pub struct Connections {
    by_address: Gauges<IpAddr>,
    by_user: Gauges<NodeId>,
    by_device: Gauges<(NodeId, DeviceId)>,
    /// Frames of each user over all connections.
    frames: Buckets<NodeId>,
}

/// Users whose last frames are remembered.
const BUSY_USERS: usize = 100_000;

impl Default for Connections {
    fn default() -> Self {
        Self {
            by_address: Gauges::default(),
            by_user: Gauges::default(),
            by_device: Gauges::default(),
            frames: Buckets::new(BUSY_USERS),
        }
    }
}

/// The place that one connection takes; given back when dropped.
#[derive(Debug, Default)]
pub struct Place {
    address: Option<Permit<IpAddr>>,
    user: Option<Permit<NodeId>>,
    device: Option<Permit<(NodeId, DeviceId)>>,
}

impl Connections {
    /// Lets a connection in. Programs on this machine are not counted by address: they all share one.
    ///
    /// # Errors
    /// `limit_exceeded`.
    pub fn enter(
        &self,
        limits: &Chat,
        address: IpAddr,
        session: Option<&LiveSession>,
    ) -> Result<Place, Problem> {
        let mut place = Place::default();
        if !address.is_loopback() {
            let limit = limits.conns_per_address.unwrap_or(u64::MAX);
            let permit = self.by_address.enter(address, limit);
            place.address = Some(permit.ok_or_else(|| exceeded("address"))?);
        }
        if let Some(session) = session {
            self.name(&mut place, limits, session)?;
        }
        Ok(place)
    }

    /// A device is connected to another relay, as long as the answer lives; there it is counted.
    pub fn attend(&self, user: NodeId, device: DeviceId) -> Place {
        let device = self.by_device.enter((user, device), u64::MAX);
        Place { address: None, user: None, device }
    }

    /// Whether a device is connected.
    pub fn is_connected(&self, user: &NodeId, device: &DeviceId) -> bool {
        self.by_device.holds(&(*user, device.clone()))
    }

    /// Counts one frame of a user, and tells how long its connection should not be read.
    pub fn charge_frame(&self, user: NodeId, rate: Rate, now_ns: u64) -> Duration {
        self.frames.charge(user, rate, now_ns)
    }

    /// Counts a connection as one of the session's user and device.
    ///
    /// # Errors
    /// `limit_exceeded`; the connection is then counted by its address alone.
    pub fn name(
        &self,
        place: &mut Place,
        limits: &Chat,
        session: &LiveSession,
    ) -> Result<(), Problem> {
        // Given back first, so that a session that is resumed on its own socket needs no second place.
        (place.user, place.device) = (None, None);
        let (user, device) = (session.user(), session.device().clone());
        let per_user = limits.conns_per_user.unwrap_or(u64::MAX);
        let per_device = limits.conns_per_device.unwrap_or(u64::MAX);
        let of_user = self.by_user.enter(user, per_user).ok_or_else(|| exceeded("user"))?;
        let of_device =
            self.by_device.enter((user, device), per_device).ok_or_else(|| exceeded("device"))?;
        (place.user, place.device) = (Some(of_user), Some(of_device));
        Ok(())
    }
}

fn exceeded(of: &str) -> Problem {
    Problem::new(Code::LimitExceeded, format!("too many connections of this {of}"))
        .with("retry_after_s", 0)
}
