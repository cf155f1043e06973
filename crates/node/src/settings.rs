//! From the configuration file's words to what the domains take.

use std::collections::BTreeMap;

use relay_core::limits::Rate;
use relay_core::policy::{
    AclConfig, Groups, Op, Ops, Pattern, RotationMode, Rule, Who,
    quota::{QuotaConfig, QuotaLimits},
};
use relay_core::{
    attachments::AttachmentConfig,
    conversations::{ChatConfig, LogRetention},
    key_packages::KeyPackagesConfig,
    presence::PresenceConfig,
    sessions::SessionsConfig,
    social::{Mode, SocialConfig, TagRule},
};
use relay_proto::{EventLimits, NodeId, polycentric::SystemKey};

use crate::{
    config::{Backend, Config, Moderation, Permission, Rotation},
    federation::read_secret,
    judge::Judge,
    start::StartError,
};

/// Rules, groups and admins. The relay's own key may do everything.
pub(crate) fn acl(config: &Config, own: NodeId) -> Result<AclConfig, StartError> {
    let mut groups = Groups::new();
    for (name, keys) in &config.groups {
        let keys: Result<Vec<NodeId>, _> = keys.iter().map(|key| key.parse()).collect();
        groups.insert(name.clone(), keys.map_err(|error| bad(format!("groups.{name}"), error))?);
    }
    let mut rules = Vec::new();
    for rule in &config.acl {
        let who: Result<Vec<Who>, _> = rule.who.iter().map(|who| who.parse()).collect();
        rules.push(Rule {
            ns: rule.ns.parse().map_err(|error| bad("acl.ns", error))?,
            who: who.map_err(|error| bad("acl.who", error))?,
            allow: rule.allow.iter().map(op).collect::<Ops>(),
            deny: rule.deny.iter().map(op).collect::<Ops>(),
        });
    }
    let mut rotation = Vec::new();
    for policy in &config.namespace {
        let pattern: Pattern =
            policy.r#match.parse().map_err(|error| bad("namespace.match", error))?;
        rotation.push((
            pattern,
            match policy.rotation {
                Rotation::Auto => RotationMode::Auto,
                Rotation::Approval => RotationMode::Approval,
            },
        ));
    }
    Ok(AclConfig { admins: vec![own], rules, groups, rotation })
}

fn op(permission: &Permission) -> Op {
    match permission {
        Permission::Read => Op::Read,
        Permission::Write => Op::Write,
        Permission::Lock => Op::Lock,
        Permission::Admin => Op::Admin,
    }
}

fn bad(what: impl std::fmt::Display, error: impl std::fmt::Display) -> StartError {
    StartError::Setting(format!("{what}: {error}"))
}

/// Limits of tenants and of keys.
pub(crate) fn quota(config: &Config) -> QuotaConfig {
    let quota = &config.quota;
    let rate = |per_sec: Option<u64>| per_sec.map(narrow);
    let default = QuotaLimits {
        bytes: quota.bytes.map(|size| size.0),
        events_per_day: quota.events_per_day,
        events_per_sec: rate(quota.events_per_sec),
        subscriptions: quota.subscriptions,
        locks: quota.locks,
    };
    let tenants: BTreeMap<String, QuotaLimits> = quota
        .tenant
        .iter()
        .map(|tenant| {
            let limits = QuotaLimits {
                bytes: tenant.bytes.or(quota.bytes).map(|size| size.0),
                events_per_day: tenant.events_per_day.or(quota.events_per_day),
                events_per_sec: rate(tenant.events_per_sec.or(quota.events_per_sec)),
                subscriptions: tenant.subscriptions.or(quota.subscriptions),
                locks: tenant.locks.or(quota.locks),
            };
            (tenant.name.clone(), limits)
        })
        .collect();
    let per_key = quota
        .key_events_per_sec
        .map(|per_sec| Rate { per_sec: narrow(per_sec), burst: narrow(quota.key_burst) });
    QuotaConfig { default, tenants, per_key }
}

/// How long proofs and sessions hold, and how many there may be.
pub(crate) fn sessions(config: &Config, relay_id: &str) -> SessionsConfig {
    let chat = &config.chat;
    let ms = |duration: std::time::Duration| duration.as_millis() as u64;
    let unlimited = |limit: Option<u64>| limit.map_or(u32::MAX, narrow);
    SessionsConfig {
        gateway_id: relay_id.to_owned(),
        auth_token_ttl_ms: ms(chat.auth_token_ttl),
        signed_token_max_ttl_ms: ms(chat.signed_token_max_ttl),
        session_ttl_ms: ms(chat.session_ttl),
        grace_ms: ms(chat.session_grace),
        max_age_ms: ms(chat.session_max_age),
        sessions_per_user: narrow(chat.sessions_per_user),
        sessions_per_device: narrow(chat.sessions_per_device),
        auth_per_ip_per_min: unlimited(chat.auth_per_ip_per_min),
        auth_per_user_per_min: unlimited(chat.auth_per_user_per_min),
        insecure_dev_auth: chat.insecure_dev_auth,
        // On the embedded store this process alone ends sessions.
        recheck_after_ms: match config.store.backend {
            Backend::Sqlite => None,
            Backend::Postgres => Some(SESSION_RECHECK_MS),
        },
    }
}

/// Limits and rules of conversations.
pub(crate) fn chat(config: &Config, relay_id: &str) -> ChatConfig {
    let chat = &config.chat;
    let ms = |duration: std::time::Duration| duration.as_millis() as u64;
    ChatConfig {
        gateway_id: relay_id.to_owned(),
        max_env: chat.max_env,
        sends_per_min: rate(chat.sends_per_min),
        dm_creates_per_min: rate(chat.dm_creates_per_min),
        room_creates_per_min: rate(chat.room_creates_per_min),
        invites_per_min: rate(chat.invites_per_min),
        removes_per_min: rate(chat.removes_per_min),
        max_members: chat.max_members,
        convs_per_user: chat.convs_per_user,
        history_from_join: chat.history_from_join,
        mls_aware: chat.mls_aware,
        retention: LogRetention {
            max_events: chat.retention_max_events,
            max_age_ms: chat.retention_max_age.map(ms),
            hard: chat.retention_hard_limits,
            cursor_stale_after_ms: chat.cursor_stale_after.map(ms),
        },
        idempotency_window_ms: ms(chat.idempotency_window),
        max_inbox: chat.inbox_max,
    }
}

/// Limits of the directory of KeyPackages.
pub(crate) fn key_packages(config: &Config) -> KeyPackagesConfig {
    let chat = &config.chat;
    KeyPackagesConfig {
        fetches_per_min: rate(chat.kp_fetches_per_min),
        target_fetches_per_min: rate(chat.kp_target_fetches_per_min),
        publishes_per_min: rate(chat.kp_publishes_per_min),
        pool_max: chat.kp_pool_max,
        contacts_only: chat.kp_contacts_only,
        max_inbox: chat.inbox_max,
    }
}

/// Limits of presence.
pub(crate) fn presence(config: &Config) -> PresenceConfig {
    let presence = &config.presence;
    PresenceConfig {
        watchlist_max: presence.watchlist_max,
        watchers_max: presence.watchers_max,
        blocklist_max: presence.blocklist_max,
        watch_changes_per_min: rate(presence.watch_mutations_per_min),
        block_changes_per_min: rate(presence.block_mutations_per_min),
        renews_per_min: rate(presence.renews_per_min),
        status_per_min: rate(presence.status_per_min),
    }
}

/// Sizes and ages of attachments.
pub(crate) fn attachments(config: &Config) -> AttachmentConfig {
    AttachmentConfig {
        max_bytes: config.chat.blob_max.0,
        quota_bytes: config.chat.blob_quota.0,
        ttl_ms: config.chat.blob_ttl.as_millis() as u64,
    }
}

fn rate(limit: Option<u64>) -> u32 {
    limit.map_or(u32::MAX, narrow)
}

/// How late a relay may notice that another one over the same database ended a session.
const SESSION_RECHECK_MS: u64 = 500;

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(crate) fn event_limits(config: &Config) -> EventLimits {
    let events = &config.events;
    EventLimits {
        event_bytes: events.max_event.0 as usize,
        content_bytes: events.max_content.0 as usize,
        tags: events.max_tags as usize,
        elements_per_tag: events.max_tag_elements as usize,
        element_bytes: events.max_element.0 as usize,
        sshsig: events.sshsig,
    }
}

/// What the social layer takes and shows.
pub(crate) fn social(config: &Config) -> SocialConfig {
    let social = &config.social;
    let rate = |per_sec: Option<u64>| {
        per_sec.map(|per_sec| Rate { per_sec: narrow(per_sec), burst: narrow(social.burst) })
    };
    let rule = |rule: &crate::config::SocialRule| TagRule {
        word: rule.word.clone(),
        tag: rule.tag.clone(),
        level: narrow(rule.level),
    };
    SocialConfig {
        identity_bytes: social.identity_bytes.map(|size| size.0),
        identity_rate: rate(social.identity_events_per_sec),
        burst: narrow(social.burst),
        address_rate: rate(social.address_events_per_sec),
        future_ms: social.max_future.as_millis() as u64,
        mode: match social.moderation {
            Moderation::Off => Mode::Off,
            Moderation::Lazy => Mode::Lazy,
            Moderation::Strong => Mode::Strong,
        },
        rules: social.rule.iter().map(rule).collect(),
        handles: social.open_registration,
        search: social.search,
    }
}

/// The service that is asked about what waits for moderation.
pub(crate) fn judge(config: &Config) -> Result<Option<Judge>, StartError> {
    let social = &config.social;
    if !social.enabled || social.moderation == Moderation::Off || social.moderation_url.is_empty() {
        return Ok(None);
    }
    let secret = read_secret(&social.moderation_secret_file)?.unwrap_or_default();
    Judge::new(&social.moderation_url, &secret, social.moderation_private)
        .map(Some)
        .map_err(|error| StartError::Setting(format!("social.moderation_url: {error}")))
}

/// An identity to be fetched and the base URL of the server that has it: "KEY URL".
pub(crate) fn parse_follow(text: &str) -> Option<(SystemKey, String)> {
    let (key, url) = text.trim().split_once(' ')?;
    let key: NodeId = key.parse().ok()?;
    let url = url.trim().trim_end_matches('/');
    let known = url.starts_with("https://") || url.starts_with("http://");
    known.then(|| (SystemKey::from(key), url.to_owned()))
}
