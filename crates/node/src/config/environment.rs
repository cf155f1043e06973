//! Which environment variable is which setting.

use super::{
    problem::{Origin, Problem, did_you_mean},
    source::Node,
};

/// Short names of the flags of `relay serve`.
const SHORT: &[(&str, &str)] = &[
    ("RELAY_NODE_ID", "node.id"),
    ("RELAY_NODE_TYPE", "node.type"),
    ("RELAY_CONNECT", "federation.connect"),
    ("RELAY_FALLBACK", "federation.fallback"),
    ("RELAY_PEERS", "federation.peers"),
    ("RELAY_JOIN_TOKEN_FILE", "federation.join_token_file"),
    ("RELAY_DATA_DIR", "node.data_dir"),
    ("RELAY_DATABASE_URL_FILE", "store.database_url_file"),
];

/// Variables of the chat gateway's operators, and the unit that they leave out.
const GATEWAY: &[(&str, &str, &str)] = &[
    ("GATEWAY_ID", "node.id", ""),
    ("GATEWAY_PUBLIC_URL", "chat.public_url", ""),
    ("GATEWAY_INSECURE_DEV_AUTH", "chat.insecure_dev_auth", ""),
    ("GATEWAY_AUTH_TOKEN_TTL_S", "chat.auth_token_ttl", "s"),
    ("GATEWAY_SIGNED_TOKEN_MAX_TTL_S", "chat.signed_token_max_ttl", "s"),
    ("GATEWAY_AUTH_PER_IP_PER_MIN", "chat.auth_per_ip_per_min", ""),
    ("GATEWAY_AUTH_PER_USER_PER_MIN", "chat.auth_per_user_per_min", ""),
    ("GATEWAY_SESSION_TTL_S", "chat.session_ttl", "s"),
    ("GATEWAY_SESSION_GRACE_S", "chat.session_grace", "s"),
    ("GATEWAY_SESSION_MAX_AGE_S", "chat.session_max_age", "s"),
    ("GATEWAY_SESSIONS_PER_USER", "chat.sessions_per_user", ""),
    ("GATEWAY_MAX_FRAME_BYTES", "chat.max_frame", "B"),
    ("GATEWAY_CORS_ORIGINS", "chat.cors_origins", ""),
    ("GATEWAY_PING_INTERVAL_S", "chat.ping_interval", "s"),
    ("GATEWAY_FRAMES_PER_SEC", "chat.frames_per_sec", ""),
    ("GATEWAY_USER_FRAMES_PER_SEC", "chat.user_frames_per_sec", ""),
    ("GATEWAY_CONNS_PER_USER", "chat.conns_per_user", ""),
    ("GATEWAY_CONNS_PER_DEVICE", "chat.conns_per_device", ""),
    ("GATEWAY_CONNS_PER_ADDRESS", "chat.conns_per_address", ""),
    ("GATEWAY_QUEUE_FRAMES", "chat.queue_frames", ""),
    ("GATEWAY_SUBSCRIPTIONS_PER_CONN", "chat.subscriptions_per_conn", ""),
    ("GATEWAY_MAX_ENV_B64_LEN", "chat.max_env", ""),
    ("GATEWAY_CONV_SENDS_PER_MIN", "chat.sends_per_min", ""),
    ("GATEWAY_DMS_CREATES_PER_MIN", "chat.dm_creates_per_min", ""),
    ("GATEWAY_ROOM_CREATES_PER_MIN", "chat.room_creates_per_min", ""),
    ("GATEWAY_INVITES_PER_MIN", "chat.invites_per_min", ""),
    ("GATEWAY_REMOVES_PER_MIN", "chat.removes_per_min", ""),
    ("GATEWAY_MAX_MEMBERS", "chat.max_members", ""),
    ("GATEWAY_CONVS_PER_USER", "chat.convs_per_user", ""),
    ("GATEWAY_HISTORY_FROM_JOIN", "chat.history_from_join", ""),
    ("GATEWAY_MLS_AWARE", "chat.mls_aware", ""),
    ("GATEWAY_RETENTION_MAX_EVENTS_PER_CONV", "chat.retention_max_events", ""),
    ("GATEWAY_RETENTION_MAX_AGE_S", "chat.retention_max_age", "s"),
    ("GATEWAY_RETENTION_SWEEP_INTERVAL_S", "chat.retention_sweep_interval", "s"),
    ("GATEWAY_RETENTION_HARD_LIMITS", "chat.retention_hard_limits", ""),
    ("GATEWAY_CURSOR_STALE_AFTER_S", "chat.cursor_stale_after", "s"),
    ("GATEWAY_IDEMPOTENCY_WINDOW_S", "chat.idempotency_window", "s"),
    ("GATEWAY_KP_FETCHES_PER_MIN", "chat.kp_fetches_per_min", ""),
    ("GATEWAY_KP_TARGET_FETCHES_PER_MIN", "chat.kp_target_fetches_per_min", ""),
    ("GATEWAY_KP_PUBLISHES_PER_MIN", "chat.kp_publishes_per_min", ""),
    ("GATEWAY_KP_POOL_MAX", "chat.kp_pool_max", ""),
    ("GATEWAY_WATCHLIST_MAX", "presence.watchlist_max", ""),
    ("GATEWAY_WATCHERS_MAX", "presence.watchers_max", ""),
    ("GATEWAY_BLOCKLIST_MAX", "presence.blocklist_max", ""),
    ("GATEWAY_WATCH_MUTATIONS_PER_MIN", "presence.watch_mutations_per_min", ""),
    ("GATEWAY_BLOCK_MUTATIONS_PER_MIN", "presence.block_mutations_per_min", ""),
    ("GATEWAY_PRESENCE_RENEWS_PER_MIN", "presence.renews_per_min", ""),
    ("GATEWAY_STATUS_PER_MIN", "presence.status_per_min", ""),
];

/// The settings in `GATEWAY_…` variables: the layer under the files.
pub(super) fn gateway(env: &[(String, String)], notices: &mut Vec<Problem>) -> Node {
    let mut tree = Node::empty_table();
    for (name, value) in env.iter().filter(|(name, _)| name.starts_with("GATEWAY_")) {
        let origin = Origin::Env(name.clone());
        match GATEWAY.iter().find(|(known, ..)| known == name) {
            Some((_, path, unit)) => tree.set(path, &format!("{value}{unit}"), origin),
            None => notices.push(Problem { origin, message: "not used by this relay".into() }),
        }
    }
    tree
}

/// Tells of each `GATEWAY_…` variable that the file or a `RELAY_…` name overrules.
pub(super) fn overruled(env: &[(String, String)], above: &Node, notices: &mut Vec<Problem>) {
    for (name, path, _) in GATEWAY {
        if env.iter().any(|(set, _)| set == name) && above.has(path) {
            let message = format!("overruled by {path}, which is set as well");
            notices.push(Problem { origin: Origin::Env((*name).to_owned()), message });
        }
    }
}

/// The settings in `RELAY_…` variables: the layer over the files.
///
/// `RELAY_SECTION__KEY` is the key of that section; a name without `__` that is not a short name
/// belongs to the command line (`RELAY_URL`, `RELAY_KEY` …) and is left alone.
pub(super) fn relay(
    env: &[(String, String)],
    sections: &[&str],
    problems: &mut Vec<Problem>,
) -> Node {
    let mut tree = Node::empty_table();
    for (name, value) in env {
        let origin = Origin::Env(name.clone());
        let Some(rest) = name.strip_prefix("RELAY_") else { continue };
        if let Some((_, path)) = SHORT.iter().find(|(known, _)| known == name) {
            tree.set(path, value, origin);
        } else if name == "RELAY_PORT" {
            tree.set("listen.http", &every_interface(value), origin);
        } else if let Some((section, key)) = rest.split_once("__") {
            let (section, key) = (section.to_lowercase(), key.to_lowercase());
            if sections.contains(&section.as_str()) {
                tree.set(&format!("{section}.{}", key.replace("__", ".")), value, origin);
            } else {
                let hint = did_you_mean(&section, sections.iter().copied());
                let message = format!("unknown section '{section}'{hint}");
                problems.push(Problem { origin, message });
            }
        }
    }
    tree
}

/// The value of `listen.http` that stands for a port alone.
pub(super) fn every_interface(port: &str) -> String {
    format!("0.0.0.0:{port}")
}
