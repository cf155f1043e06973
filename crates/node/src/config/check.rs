//! What types can't say: forms of names, settings that contradict each other, risky choices.

use std::collections::{BTreeMap, BTreeSet};

use relay_core::policy::Pattern;
use relay_proto::{NodeId, RelayId, ServiceName};

use super::{
    problem::{Origin, Problem, did_you_mean},
    sections::{AclRule, Anonymous, Backend, Config, Moderation, NodeKind, Permission},
    value::Size,
};

/// Finds every contradiction; `origins` tells where each value was set, `bad` which could not be
/// read: these have their problem already.
pub(super) fn contradictions(
    config: &Config,
    origins: &BTreeMap<String, Origin>,
    bad: &BTreeSet<String>,
    problems: &mut Vec<Problem>,
) {
    let mut check = Check { origins, bad, problems };
    check.node(config);
    check.listen(config);
    check.store(config);
    check.social(config);
    check.federation(config);
    check.hub(config);
    check.namespaces(config);
    check.acl(config);
    check.quota(config);
    check.events(config);
    check.chat(config);
    check.services(config);
    check.scripts(config);
    check.drain(config);
}

struct Check<'a> {
    origins: &'a BTreeMap<String, Origin>,
    bad: &'a BTreeSet<String>,
    problems: &'a mut Vec<Problem>,
}

impl Check<'_> {
    /// Blames the value at `path`, or the nearest thing above it that somebody set.
    fn blame(&mut self, path: &str, message: impl Into<String>) {
        let mut at = path;
        let origin = loop {
            match self.origins.get(at) {
                Some(origin) => break origin.clone(),
                None => match at.rfind(['.', '[']) {
                    Some(cut) => at = &at[..cut],
                    None => break Origin::Default,
                },
            }
        };
        self.problems.push(Problem { origin, message: message.into() });
    }

    /// Blames that one of two settings which somebody set, the first before the second.
    fn blame_either(&mut self, first: &str, second: &str, message: impl Into<String>) {
        let path = if self.origins.contains_key(first) { first } else { second };
        self.blame(path, message);
    }

    fn node(&mut self, config: &Config) {
        let id = &config.node.id;
        if id.is_empty() {
            return;
        }
        let rest_fits = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-');
        let first_fits = |c: char| matches!(c, 'a'..='z' | '0'..='9');
        if id.len() > 128 || !id.starts_with(first_fits) || !id.chars().all(rest_fits) {
            let message = format!("'node.id' must be [a-z0-9][a-z0-9._-]{{0,127}}, not '{id}'");
            self.blame("node.id", message);
        }
    }

    fn listen(&mut self, config: &Config) {
        let addresses = &config.listen.http;
        if addresses.is_empty() && config.listen.socket.is_empty() {
            self.blame("listen.http", "nothing to listen on: 'http' and 'socket' are both empty");
        }
        for (index, address) in addresses.iter().enumerate() {
            if address.port() != 0 && addresses[..index].contains(address) {
                self.blame(
                    &format!("listen.http[{index}]"),
                    format!("{address} stands here twice"),
                );
            }
        }
        if let Some(metrics) = config.listen.metrics
            && metrics.port() != 0
            && addresses.contains(&metrics)
        {
            self.blame("listen.metrics", "the address is also in 'http'; give metrics its own");
        }
        let tls = &config.tls;
        if !tls.domain.is_empty() && !is_host(&tls.domain) {
            let message = format!("'{}' is no name such as \"relay.example.com\"", tls.domain);
            self.blame("tls.domain", message);
        }
        if !tls.domain.is_empty() && (tls.cert_file.is_some() || tls.key_file.is_some()) {
            self.blame(
                "tls.domain",
                "[tls] has both a 'domain' to get a certificate for and files of one",
            );
        }
        match (&config.tls.cert_file, &config.tls.key_file) {
            (Some(_), None) if !self.bad.contains("tls.key_file") => {
                self.blame("tls.cert_file", "[tls] has 'cert_file' but no 'key_file'")
            }
            (None, Some(_)) if !self.bad.contains("tls.cert_file") => {
                self.blame("tls.key_file", "[tls] has 'key_file' but no 'cert_file'")
            }
            _ => {}
        }
    }

    fn social(&mut self, config: &Config) {
        let social = &config.social;
        let prefix = &social.prefix;
        let is_path = |text: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
            text.starts_with('/')
                && !text.ends_with('/')
                && !text.contains("//")
                && text.chars().all(plain)
        };
        if !prefix.is_empty() && !is_path(prefix) {
            self.blame(
                "social.prefix",
                "a path is like \"/polycentric\", without a slash at its end",
            );
        } else if ["/v1", "/app"].iter().any(|own| {
            prefix == own || prefix.strip_prefix(own).is_some_and(|rest| rest.starts_with('/'))
        }) {
            self.blame("social.prefix", "the relay's own API is under this path");
        }
        for (index, rule) in social.rule.iter().enumerate() {
            if rule.word.is_empty() || rule.tag.is_empty() {
                self.blame(&format!("social.rule[{index}]"), "a rule has a 'word' and a 'tag'");
            }
        }
        if !social.moderation_url.is_empty() {
            if let Err(problem) =
                crate::egress::check_url(&social.moderation_url, social.moderation_private)
            {
                self.blame("social.moderation_url", problem);
            }
            if social.moderation == Moderation::Off {
                let message = "nothing waits for a verdict while 'moderation' is \"off\"";
                self.blame("social.moderation_url", message);
            }
            if social.moderation_secret_file.is_none()
                && !self.bad.contains("social.moderation_secret_file")
            {
                let message = "requests are signed: 'moderation_secret_file' is missing";
                self.blame("social.moderation_url", message);
            }
        }
        for (index, follow) in social.follow.iter().enumerate() {
            if crate::settings::parse_follow(follow).is_none() {
                self.blame(
                    &format!("social.follow[{index}]"),
                    "an identity to follow is written \"ed25519:… https://server\"",
                );
            }
        }
    }

    fn store(&mut self, config: &Config) {
        match (config.store.backend, &config.store.database_url_file) {
            (Backend::Postgres, None) if !self.bad.contains("store.database_url_file") => self
                .blame(
                    "store.backend",
                    "backend \"postgres\" needs 'database_url_file' in [store]",
                ),
            (Backend::Sqlite, Some(_)) => self.blame(
                "store.database_url_file",
                "'database_url_file' is set but the backend is \"sqlite\"",
            ),
            _ => {}
        }
    }

    fn federation(&mut self, config: &Config) {
        let federation = &config.federation;
        if config.node.r#type == NodeKind::Main && !federation.connect.is_empty() {
            let message = "a main relay has no hub: leave out 'federation.connect', or say type \"home\"; \
                           other main relays go under 'federation.peers'";
            self.blame_either("federation.connect", "node.type", message);
        }
        if federation.connect.is_empty() && !federation.fallback.is_empty() {
            self.blame("federation.fallback", "'fallback' hubs need a first one in 'connect'");
        }
        let lists = [("fallback", &federation.fallback), ("peers", &federation.peers)];
        let lists = lists.into_iter().flat_map(|(key, list)| {
            list.iter().enumerate().map(move |(at, url)| (format!("federation.{key}[{at}]"), url))
        });
        let connect = (!federation.connect.is_empty())
            .then(|| ("federation.connect".to_owned(), &federation.connect));
        for (path, url) in connect.into_iter().chain(lists) {
            if let Err(message) = hub_url(url, federation.insecure) {
                self.blame(&path, message);
            }
        }
        if federation.cert_file.is_some() != federation.key_file.is_some()
            && !self.bad.contains("federation.cert_file")
            && !self.bad.contains("federation.key_file")
        {
            let message = "[federation] needs both 'cert_file' and 'key_file', or neither";
            self.blame_either("federation.cert_file", "federation.key_file", message);
        }
        for (index, key) in federation.directory_keys.iter().enumerate() {
            if let Err(error) = key.parse::<NodeId>() {
                self.blame(
                    &format!("federation.directory_keys[{index}]"),
                    format!("'{key}': {error}"),
                );
            }
        }
    }

    fn hub(&mut self, config: &Config) {
        let hub = &config.hub;
        let lists = [
            ("spokes_allow", &hub.spokes_allow),
            ("spokes_deny", &hub.spokes_deny),
            ("peers_allow", &hub.peers_allow),
            ("peers_deny", &hub.peers_deny),
        ];
        for (key, list) in lists {
            for (index, entry) in list.iter().enumerate() {
                let id = entry.replace('*', "a");
                if entry.parse::<NodeId>().is_err() && id.parse::<RelayId>().is_err() {
                    let message =
                        format!("'{entry}' is no relay id, pattern such as \"*.home\", or key");
                    self.blame(&format!("hub.{key}[{index}]"), message);
                }
            }
        }
    }

    fn namespaces(&mut self, config: &Config) {
        for (index, policy) in config.namespace.iter().enumerate() {
            let path = format!("namespace[{index}]");
            self.pattern(&path, "match", "[[namespace]]", &policy.r#match);
            if policy.home != "self" && policy.home.parse::<RelayId>().is_err() {
                let message = format!("'{}' is no relay id; \"self\" is this relay", policy.home);
                self.blame(&format!("{path}.home"), message);
            }
            let same = |earlier: &super::NamespacePolicy| earlier.r#match == policy.r#match;
            if config.namespace[..index].iter().any(same) {
                let message =
                    format!("a second [[namespace]] for '{}' has no effect", policy.r#match);
                self.blame(&format!("{path}.match"), message);
            }
        }
    }

    fn acl(&mut self, config: &Config) {
        for (index, rule) in config.acl.iter().enumerate() {
            let path = format!("acl[{index}]");
            self.pattern(&path, "ns", "[[acl]]", &rule.ns);
            let bad = |key: &str| self.bad.contains(&format!("{path}.{key}"));
            let (bad_who, bad_rights) = (bad("who"), bad("allow") || bad("deny"));
            if rule.who.is_empty() && !bad_who {
                self.blame(&path, "missing 'who' in [[acl]]");
            }
            if rule.allow.is_empty() && rule.deny.is_empty() && !bad_rights {
                self.blame(&path, "[[acl]] neither allows nor denies anything");
            }
            self.who(config, rule, &path);
        }
        for (name, members) in &config.groups {
            for (index, member) in members.iter().enumerate() {
                if let Err(error) = member.parse::<NodeId>() {
                    let message = format!("'{member}' in group '{name}' is not a key: {error}");
                    self.blame(&format!("groups.{name}[{index}]"), message);
                }
            }
        }
    }

    fn who(&mut self, config: &Config, rule: &AclRule, path: &str) {
        for (index, who) in rule.who.iter().enumerate() {
            let path = format!("{path}.who[{index}]");
            if let Some(group) = who.strip_prefix('@') {
                if !config.groups.contains_key(group) {
                    let hint = did_you_mean(group, config.groups.keys().map(String::as_str));
                    self.blame(&path, format!("no group '{group}' in [groups]{hint}"));
                }
            } else if who != "*"
                && let Err(error) = who.parse::<NodeId>()
            {
                self.blame(&path, format!("'{who}' is not a key, \"@group\" or \"*\": {error}"));
            }
        }
    }

    fn pattern(&mut self, path: &str, key: &str, place: &str, pattern: &str) {
        if pattern.is_empty() {
            self.blame(path, format!("missing '{key}' in {place}"));
            return;
        }
        if let Err(error) = pattern.parse::<Pattern>() {
            self.blame(&format!("{path}.{key}"), format!("'{pattern}': {error}"));
        }
    }

    fn quota(&mut self, config: &Config) {
        let tenants = &config.quota.tenant;
        for (index, tenant) in tenants.iter().enumerate() {
            let path = format!("quota.tenant[{index}]");
            if tenant.name.is_empty() {
                self.blame(&path, "missing 'name' in [[quota.tenant]]");
            } else if tenant.name.contains('/') {
                let message = "a tenant is the first segment of a namespace, without '/'";
                self.blame(&format!("{path}.name"), message);
            } else if tenants[..index].iter().any(|earlier| earlier.name == tenant.name) {
                let message = format!("a second [[quota.tenant]] for '{}'", tenant.name);
                self.blame(&format!("{path}.name"), message);
            }
        }
    }

    fn events(&mut self, config: &Config) {
        let events = &config.events;
        if events.max_content > events.max_event {
            let message = format!(
                "'max_content' ({}) is above 'max_event' ({})",
                events.max_content, events.max_event
            );
            self.blame_either("events.max_content", "events.max_event", message);
        }
        if events.max_event > events.max_batch_bytes {
            let message = format!(
                "'max_batch_bytes' ({}) is below 'max_event' ({})",
                events.max_batch_bytes, events.max_event
            );
            self.blame_either("events.max_batch_bytes", "events.max_event", message);
        }
        if Size(events.max_event.bytes().saturating_add(1_024)) > config.chat.max_frame {
            let message = format!(
                "'chat.max_frame' ({}) has no room for 'events.max_event' ({}) and 1KiB around it",
                config.chat.max_frame, events.max_event
            );
            self.blame_either("chat.max_frame", "events.max_event", message);
        }
    }

    fn chat(&mut self, config: &Config) {
        let chat = &config.chat;
        let loopback = config.listen.http.iter().all(|address| address.ip().is_loopback());
        if chat.insecure_dev_auth && !loopback {
            let message = "'insecure_dev_auth' lets anybody be anybody; it needs loopback addresses only in 'listen.http'";
            self.blame("chat.insecure_dev_auth", message);
        }
        if chat.session_ttl > chat.session_max_age {
            let message = "'session_ttl' is above 'session_max_age'";
            self.blame_either("chat.session_ttl", "chat.session_max_age", message);
        }
        if chat.session_grace > chat.session_ttl {
            let message = "'session_grace' is above 'session_ttl'";
            self.blame_either("chat.session_grace", "chat.session_ttl", message);
        }
        if !chat.public_url.is_empty() && !is_origin(&chat.public_url) {
            self.blame(
                "chat.public_url",
                "'public_url' must be like \"https://relay.example.com\"",
            );
        }
        for (index, origin) in chat.cors_origins.iter().enumerate() {
            if !is_origin(origin) {
                let message =
                    format!("'{origin}' is not an origin such as \"https://app.example.com\"");
                self.blame(&format!("chat.cors_origins[{index}]"), message);
            }
        }
    }

    fn services(&mut self, config: &Config) {
        for (index, service) in config.service.iter().enumerate() {
            let path = format!("service[{index}]");
            if service.name.is_empty() {
                self.blame(&path, "missing 'name' in [[service]]");
            } else if let Err(error) = service.name.parse::<ServiceName>() {
                self.blame(&format!("{path}.name"), format!("'{}': {error}", service.name));
            } else if config.service[..index].iter().any(|earlier| earlier.name == service.name) {
                let message = format!("a second [[service]] called '{}'", service.name);
                self.blame(&format!("{path}.name"), message);
            }
            let ways =
                [!service.http.is_empty(), !service.proxy.is_empty(), !service.stdio.is_empty()];
            if ways.into_iter().filter(|given| *given).count() != 1 {
                let message = "[[service]] needs one of 'http', 'proxy' and 'stdio'";
                self.blame(&path, message);
            }
            for (key, url) in [("http", &service.http), ("proxy", &service.proxy)] {
                if !url.is_empty() && !relay_actors::bridge::is_usable_url(url) {
                    let message =
                        format!("'{url}' is not an http or https URL without user and password");
                    self.blame(&format!("{path}.{key}"), message);
                }
            }
            if service.version.parse::<semver::Version>().is_err() {
                let message = format!("'{}' is not a version such as 1.2.0", service.version);
                self.blame(&format!("{path}.version"), message);
            }
        }
    }

    fn scripts(&mut self, config: &Config) {
        for (index, script) in config.script.iter().enumerate() {
            let path = format!("script[{index}]");
            let name = script.file.file_name();
            if script.file.as_os_str().is_empty() {
                self.blame(&path, "missing 'file' in [[script]]");
            } else if !script.file.is_file() {
                let message = format!("{} is not a file", script.file.display());
                self.blame(&format!("{path}.file"), message);
            } else if config.script[..index].iter().any(|earlier| earlier.file.file_name() == name)
            {
                let message = "a second [[script]] with a file of this name";
                self.blame(&format!("{path}.file"), message);
            }
        }
    }

    fn drain(&mut self, config: &Config) {
        if config.drain.delay >= config.drain.timeout {
            let message = "'delay' leaves nothing of 'timeout' to finish work in";
            self.blame_either("drain.delay", "drain.timeout", message);
        }
    }
}

/// Refuses what is no address of a hub, and one that would be dialled without encryption.
pub(crate) fn hub_url(text: &str, insecure: bool) -> Result<(), String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if !matches!(scheme, "ws" | "wss" | "http" | "https")
        || authority.is_empty()
        || authority.contains(['@', ' '])
    {
        return Err(format!("'{text}' is no address of a hub such as \"wss://relay.example.com\""));
    }
    if matches!(scheme, "ws" | "http") && !insecure && !is_loopback(authority) {
        return Err(format!(
            "'{text}' would be dialled without encryption: use wss://{rest}, or --insecure (tests only)"
        ));
    }
    Ok(())
}

/// Whether a host, with or without a port, is this machine.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A host name of at least two labels.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.len() <= 253 && text.contains('.') && text.split('.').all(label)
}

/// Scheme, host and optional port, and nothing behind.
fn is_origin(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', '?', '#', '@', ' ']))
}

/// Choices that are allowed and that an operator should know of (`relay config check --security`).
pub(super) fn advice(config: &Config) -> Vec<String> {
    let mut advice = Vec::new();
    let public = config.listen.http.iter().any(|address| !address.ip().is_loopback());
    if config.acl.is_empty() {
        advice.push(
            "namespace 'default' may be read, written and locked by anyone: add [[acl]] rules"
                .into(),
        );
    }
    for rule in &config.acl {
        let risky =
            rule.allow.contains(&Permission::Write) || rule.allow.contains(&Permission::Admin);
        if risky && rule.who.iter().any(|who| who == "*") {
            advice.push(format!(
                "everyone may change namespace '{}': name keys or groups in 'who'",
                rule.ns
            ));
        }
    }
    if public
        && config.tls.cert_file.is_none()
        && config.tls.domain.is_empty()
        && config.listen.trusted_proxies.is_empty()
    {
        advice.push("clients reach this relay without encryption: set [tls], or put a proxy in front and name it in 'listen.trusted_proxies'".into());
    }
    if public && config.calls.anonymous == Anonymous::Always {
        advice
            .push("anybody may call public services: set 'calls.anonymous' to \"loopback\"".into());
    }
    if config.federation.insecure {
        advice.push("'federation.insecure' is on: links may go without encryption".into());
    }
    if config.chat.insecure_dev_auth {
        advice.push("'chat.insecure_dev_auth' is on: anybody may be anybody".into());
    }
    if public && config.quota.bytes.is_none() {
        advice.push("no tenant has a limit of stored bytes: set 'quota.bytes'".into());
    }
    if public && config.quota.key_events_per_sec.is_none() {
        advice.push("no key has a rate limit: set 'quota.key_events_per_sec'".into());
    }
    advice
}
