//! Every path of the relay, in the order of the reference.

/// What one method does on one path.
pub(super) struct Operation {
    pub method: &'static str,
    /// As the router has it.
    pub path: &'static str,
    pub tag: &'static str,
    pub summary: &'static str,
    pub query: &'static [(&'static str, &'static str)],
    /// Name of the body's schema.
    pub body: Option<&'static str>,
    /// Status and schema name, or the media type of what is not JSON; "" for no body.
    pub answers: &'static [(u16, &'static str)],
}

pub(super) type Query = &'static [(&'static str, &'static str)];

pub(super) const fn get(
    tag: &'static str,
    path: &'static str,
    summary: &'static str,
    query: Query,
    answers: &'static [(u16, &'static str)],
) -> Operation {
    Operation { method: "get", path, tag, summary, query, body: None, answers }
}

pub(super) const fn post(
    tag: &'static str,
    path: &'static str,
    summary: &'static str,
    body: &'static str,
    answers: &'static [(u16, &'static str)],
) -> Operation {
    let body = if body.is_empty() { None } else { Some(body) };
    Operation { method: "post", path, tag, summary, query: &[], body, answers }
}

macro_rules! filters {
    ($($more:expr),* $(,)?) => {
        &[
            ("ids", "event ids, comma-separated or repeated"),
            ("authors", "authors (`ed25519:…`)"),
            ("kinds", "kinds, 0 to 65535"),
            ("tag.NAME", "values of the tag NAME; each name is a parameter of its own"),
            ("ns", "namespaces"),
            ("since_ns", "not before this time, unix nanoseconds"),
            ("until_ns", "not after this time, unix nanoseconds"),
            ("history", "old versions of replaceable and addressable events too"),
            $($more),*
        ]
    };
}

const PAGED: Query = filters![
    ("order", "`seq`, `-seq`, `time` or `-time` (default)"),
    ("limit", "events on a page, default 100, at most 1000"),
    ("cursor", "the cursor of the page before"),
];
const NS: (&str, &str) = ("ns", "the namespace; default `default`");
const CURSOR: (&str, &str) = ("cursor", "the cursor of the page before");
const LIMIT: (&str, &str) = ("limit", "items on a page");

pub(super) const OPERATIONS: &[Operation] = &[
    get(
        "relay",
        "/",
        "Browsers go to /app, programs get what /v1/info answers",
        &[],
        &[(200, "Info")],
    ),
    get("relay", "/app", "A page for people", &[], &[(200, "text/html")]),
    get("relay", "/v1/info", "What this relay is and takes", &[], &[(200, "Info")]),
    get("relay", "/openapi.json", "This document", &[], &[(200, "Object")]),
    get("relay", "/livez", "The process answers", &[], &[(200, "text/plain")]),
    get(
        "relay",
        "/readyz",
        "The store can be written and the relay is not stopping",
        &[("verbose", "list the checks")],
        &[(200, "text/plain"), (503, "text/plain")],
    ),
    get("relay", "/health", "State and figures", &[], &[(200, "Health"), (503, "Health")]),
    get(
        "relay",
        "/healthz",
        "The process answers, as older clients ask",
        &[],
        &[(200, "text/plain")],
    ),
    get(
        "relay",
        "/metrics",
        "Prometheus; from loopback or with a token",
        &[],
        &[(200, "text/plain")],
    ),
    get("events", "/v1/events", "A page of events", PAGED, &[(200, "EventPage")]),
    post(
        "events",
        "/v1/events",
        "Publish one event, an array, or NDJSON",
        "PublishBody",
        &[(200, "PublishAnswer"), (201, "Receipt"), (202, "Receipt")],
    ),
    get("events", "/v1/events/count", "How many events match", filters![], &[(200, "Count")]),
    get(
        "events",
        "/v1/events/stream",
        "Events as they come, as server-sent events; resumes by Last-Event-ID",
        filters![
            (
                "after",
                "a cursor to go on from; empty: from the beginning; absent: only what is new"
            ),
            ("cursor", "as `after`"),
            ("live", "false: end when everything stored was sent"),
        ],
        &[(200, "text/event-stream")],
    ),
    get("events", "/v1/events/{id}", "One event", &[], &[(200, "Event"), (304, "")]),
    get(
        "events",
        "/v1/events/address/{kind}/{pubkey}/",
        "The latest version of a replaceable event without `d`",
        &[],
        &[(200, "Event"), (304, "")],
    ),
    get(
        "events",
        "/v1/events/address/{kind}/{pubkey}//history",
        "All versions of a replaceable event without `d`, newest first",
        &[LIMIT, CURSOR],
        &[(200, "EventPage")],
    ),
    get(
        "events",
        "/v1/events/address/{kind}/{pubkey}/{d}",
        "The latest version of a coordinate",
        &[],
        &[(200, "Event"), (304, "")],
    ),
    get(
        "events",
        "/v1/events/address/{kind}/{pubkey}/{d}/history",
        "All versions of a coordinate, newest first",
        &[LIMIT, CURSOR],
        &[(200, "EventPage")],
    ),
    get(
        "locks",
        "/v1/locks",
        "Locks that are held",
        &[NS, ("prefix", "what the resource begins with"), LIMIT, CURSOR],
        &[(200, "LockPage")],
    ),
    get("locks", "/v1/locks/{*resource}", "One lock", &[NS], &[(200, "LockState")]),
    post(
        "locks",
        "/v1/locks/{*resource}",
        "`acquire`, `renew`, `release` or `break` in the place of the resource",
        "LockBody",
        &[(200, "LockAnswer")],
    ),
    get(
        "locks",
        "/v1/lock-history",
        "What happened to locks, newest first",
        &[NS, ("resource", "only this one"), LIMIT, CURSOR],
        &[(200, "LockHistoryPage")],
    ),
    get(
        "locks",
        "/v1/lock-watch",
        "The state of a lock and its changes, as server-sent events",
        &[NS, ("resource", "only this one")],
        &[(200, "text/event-stream")],
    ),
    post(
        "sessions",
        "/v1/auth/challenge",
        "Ask for a challenge",
        "ChallengeBody",
        &[(200, "Challenge")],
    ),
    post(
        "sessions",
        "/v1/auth/verify",
        "Answer it, for a token that starts a session",
        "VerifyBody",
        &[(200, "Object")],
    ),
    post(
        "sessions",
        "/v1/auth/revoke",
        "End a token that starts sessions",
        "RevokeProofBody",
        &[(200, "Object")],
    ),
    post("sessions", "/v1/session/start", "Start a session", "StartBody", &[(200, "Session")]),
    post(
        "sessions",
        "/v1/session/resume",
        "Go on with one, under new tokens",
        "ResumeBody",
        &[(200, "Session")],
    ),
    get("sessions", "/v1/session/list", "One's own sessions", &[], &[(200, "Object")]),
    post("sessions", "/v1/session/logout", "End this session", "", &[(200, "Object")]),
    post(
        "sessions",
        "/v1/session/logout_all",
        "End one's sessions",
        "LogoutAllBody",
        &[(200, "Object")],
    ),
    post(
        "sessions",
        "/v1/session/revoke",
        "End one's session, or those of a device",
        "RevokeBody",
        &[(200, "Object")],
    ),
    get("access", "/v1/whoami", "As whom the relay sees the asker", &[NS], &[(200, "Whoami")]),
    get(
        "access",
        "/v1/acl",
        "The rules in force",
        &[("ns", "only rules about this one")],
        &[(200, "Object")],
    ),
    Operation {
        method: "put",
        path: "/v1/acl",
        tag: "access",
        summary: "Replace the operator's own rules",
        query: &[],
        body: Some("Object"),
        answers: &[(200, "Object")],
    },
    post("access", "/v1/acl/test", "Which rule decides", "TestBody", &[(200, "Object")]),
    get(
        "access",
        "/v1/quota",
        "Limits and use of tenants",
        &[("tenant", "only this one")],
        &[(200, "Object")],
    ),
    get(
        "access",
        "/v1/audit",
        "Refusals and administrative acts, newest first",
        &[LIMIT, CURSOR],
        &[(200, "Object")],
    ),
    get(
        "access",
        "/v1/tokens",
        "Operators' tokens, without their secrets",
        &[],
        &[(200, "Object")],
    ),
    post(
        "access",
        "/v1/tokens",
        "Make a token; only this answer shows it",
        "TokenBody",
        &[(201, "Object")],
    ),
    Operation {
        method: "delete",
        path: "/v1/tokens/{id}",
        tag: "access",
        summary: "Revoke a token",
        query: &[],
        body: None,
        answers: &[(200, "Object")],
    },
    post(
        "access",
        "/v1/users/revoke_tokens",
        "End every session and proof of a user",
        "UserBody",
        &[(200, "Object")],
    ),
    post(
        "services",
        "/rpc",
        "Call services: JSON-RPC 2.0, one request, a notification or a batch; with `Accept: text/event-stream` in pieces",
        "RpcBody",
        &[(200, "RpcAnswer"), (204, "")],
    ),
    get("services", "/services", "The services of this node", &[], &[(200, "ServiceList")]),
    get("services", "/v1/actors", "What runs here", &[], &[(200, "Object")]),
    get("services", "/v1/actors/{name}", "One of them", &[], &[(200, "Object")]),
    post(
        "services",
        "/v1/actors/{name}/restart",
        "End its present life and begin the next",
        "",
        &[(202, "Object")],
    ),
    get(
        "services",
        "/v1/actors/{name}/log",
        "Its last lines; with `follow` as server-sent events",
        &[("lines", "how many; default 50"), ("follow", "go on with those that come")],
        &[(200, "Object")],
    ),
    get(
        "services",
        "/v1/attach",
        "A WebSocket on the local socket over which a program serves calls",
        &[],
        &[(101, "")],
    ),
    post(
        "federation",
        "/v1/calls/explain",
        "The way a call would take, and what would stop it; nothing is called",
        "RpcRequest",
        &[(200, "Object")],
    ),
    get(
        "federation",
        "/v1/gateways/resolve",
        "Where a relay is, and which key it has",
        &[("gateway_id", "its name")],
        &[(200, "Object")],
    ),
    get("federation", "/federate", "A link between relays", &[], &[(101, "")]),
    get("federation", "/ws/federation", "The same", &[], &[(101, "")]),
    get("federation", "/ws/peers", "The same", &[], &[(101, "")]),
    get(
        "federation",
        "/registry",
        "Services of this hub and its own spokes",
        &[("name", "only these")],
        &[(200, "Object")],
    ),
    get("federation", "/status", "What this node is, and its link", &[], &[(200, "Object")]),
    get(
        "federation",
        "/federation/registry",
        "Services of all hubs",
        &[("name", "only these")],
        &[(200, "Object")],
    ),
    get("federation", "/federation/peers", "Other hubs", &[], &[(200, "Object")]),
    post("federation", "/federation/peers/add", "Dial another hub", "PeerBody", &[(202, "Object")]),
    Operation {
        method: "delete",
        path: "/federation/peers/{id}",
        tag: "federation",
        summary: "End the links to another hub",
        query: &[],
        body: None,
        answers: &[(200, "Object")],
    },
    get("federation", "/federation/spokes", "Home relays linked here", &[], &[(200, "Object")]),
    post(
        "federation",
        "/federation/spokes",
        "Decide which home relays may link",
        "SpokesBody",
        &[(200, "Object")],
    ),
    Operation {
        method: "delete",
        path: "/federation/spokes/{id}",
        tag: "federation",
        summary: "Close the links of a home relay",
        query: &[],
        body: None,
        answers: &[(200, "Object")],
    },
    post(
        "federation",
        "/v1/federation/join",
        "Become a spoke of a hub",
        "JoinBody",
        &[(202, "Object")],
    ),
    Operation {
        method: "delete",
        path: "/v1/federation/join",
        tag: "federation",
        summary: "Leave the hub that was joined",
        query: &[],
        body: None,
        answers: &[(200, "Object")],
    },
    get("federation", "/federation/health", "State and figures", &[], &[(200, "Object")]),
    get(
        "federation",
        "/federation/topology",
        "Hubs, home relays and links",
        &[],
        &[(200, "Object")],
    ),
    get(
        "operate",
        "/v1/config",
        "The settings in force, and how the last reload ended",
        &[],
        &[(200, "Object")],
    ),
    post(
        "operate",
        "/v1/config/reload",
        "Read the configuration again and apply what can change live",
        "ReloadBody",
        &[(200, "Object")],
    ),
    post(
        "operate",
        "/v1/drain",
        "Finish what is under way, then stop",
        "DrainBody",
        &[(202, "Object")],
    ),
    get("socket", "/v1/ws", "A WebSocket that carries every area in frames", &[], &[(101, "")]),
    get("socket", "/v1/stream", "The same", &[], &[(101, "")]),
];
