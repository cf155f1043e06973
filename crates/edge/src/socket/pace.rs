//! How many frames a connection and its user may send (`gateway.md` 12).
//!
//! What comes too fast is slowed by not reading the socket, never refused: frames keep their order and
//! nobody has to send anything again. `event.publish` has its own rates (`[quota]`), and `lock.*` is
//! bounded by how many requests may be under way: both wait for the disk, which is what paces them.

use std::time::Duration;

use futures_util::{FutureExt, future::BoxFuture};
use relay_core::{
    limits::{Bucket, Rate},
    policy::Principal,
};
use relay_node::Node;

/// The pace of one connection.
#[derive(Default)]
pub(super) struct Pace {
    own: Bucket,
    /// While it is there, the socket is not read.
    rest: Option<BoxFuture<'static, ()>>,
}

impl Pace {
    /// Whether frames of this type count.
    pub fn counts(t: &str) -> bool {
        !matches!(t, "event.publish" | "pong") && !t.starts_with("lock.")
    }

    /// Counts one frame.
    pub fn count(&mut self, node: &Node, who: &Principal) {
        let config = node.live();
        let now_ns = node.clock.mono_ns();
        let rate = |per_sec: u64| {
            let per_sec = u32::try_from(per_sec).unwrap_or(u32::MAX);
            Rate { per_sec, burst: per_sec }
        };
        let mut rest = match config.chat.frames_per_sec {
            Some(per_sec) => self.own.charge(rate(per_sec), now_ns),
            None => Duration::ZERO,
        };
        if let (Principal::Key(user), Some(per_sec)) = (who, config.chat.user_frames_per_sec) {
            rest = rest.max(node.connections.charge_frame(*user, rate(per_sec), now_ns));
        }
        if !rest.is_zero() {
            self.rest = Some(tokio::time::sleep(rest).boxed());
        }
    }

    pub fn is_resting(&self) -> bool {
        self.rest.is_some()
    }

    /// Done when the socket may be read again; for ever where it may be now.
    pub async fn rested(&mut self) {
        match &mut self.rest {
            Some(rest) => rest.await,
            None => std::future::pending().await,
        }
        self.rest = None;
    }
}
