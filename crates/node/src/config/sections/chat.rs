//! The chat gateway, presence and pushes.

use std::time::Duration;

use crate::config::{reader::section, value::Size};

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
