//! Settings of conversations, with the defaults of `gateway.md` 12.

/// Limits and rules.
#[derive(Debug, Clone)]
pub struct ChatConfig {
    /// The relay's id: the home of what is made here.
    pub gateway_id: String,
    /// Characters of an `env`.
    pub max_env: u64,
    /// Messages a minute of one user in one conversation.
    pub sends_per_min: u32,
    /// Direct messages a minute that one user may begin.
    pub dm_creates_per_min: u32,
    /// Rooms a minute that one user may make.
    pub room_creates_per_min: u32,
    /// Invitations a minute of one user to one conversation.
    pub invites_per_min: u32,
    /// Removals a minute of one user from one conversation.
    pub removes_per_min: u32,
    pub max_members: u64,
    /// Conversations that one user may be in.
    pub convs_per_user: u64,
    /// A member sees nothing of what came before the latest join.
    pub history_from_join: bool,
    /// Opaque messages are looked at for the epoch of commits.
    pub mls_aware: bool,
    pub retention: LogRetention,
    /// How long a `msg_id` is known after its message was pruned, milliseconds.
    pub idempotency_window_ms: u64,
    /// Entries of a device's inbox; above it the oldest go.
    pub max_inbox: u64,
}

/// What is kept of logs; by default everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogRetention {
    pub max_events: Option<u64>,
    pub max_age_ms: Option<u64>,
    /// Readers that have not seen something yet do not keep it.
    pub hard: bool,
    /// Cursors that did not move for so long keep nothing.
    pub cursor_stale_after_ms: Option<u64>,
}

impl Default for ChatConfig {
    fn default() -> Self {
        Self {
            gateway_id: "gw_local".into(),
            max_env: 262_144,
            sends_per_min: 120,
            dm_creates_per_min: 30,
            room_creates_per_min: 60,
            invites_per_min: 60,
            removes_per_min: 60,
            max_members: 1_024,
            convs_per_user: 5_000,
            history_from_join: false,
            mls_aware: false,
            retention: LogRetention::default(),
            idempotency_window_ms: 604_800_000,
            max_inbox: 10_000,
        }
    }
}
