//! Time as the store and the domains see it: handed in, so that tests can drive it.

/// Two clocks: one for people and cursors, one for leases.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Unix nanoseconds. May step in either direction.
    fn wall_ns(&self) -> u64;

    /// Nanoseconds since some fixed moment, counting time while the machine is suspended. Never steps back.
    fn mono_ns(&self) -> u64;
}

/// The machine's own clocks (`CLOCK_REALTIME`, `CLOCK_BOOTTIME`).
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ns(&self) -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64)
    }

    fn mono_ns(&self) -> u64 {
        // `Instant` stands still during suspend on Linux, which would keep dead leases alive.
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
    }
}
