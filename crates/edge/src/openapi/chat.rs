//! The paths of the chat gateway (`gateway.md`); what they take and answer is described in `docs/chat-gateway.md`.

use super::paths::{Operation, Query, get, post};

const CONV: Query = &[("conv_id", "the conversation")];
const LIST: Query = &[
    ("include_archived", "archived ones too"),
    ("limit", "conversations on a page, at most 500; all where it is left out"),
    ("cursor", "the cursor of the page before"),
];
const PAGE: Query = &[("limit", "users on a page"), ("cursor", "the cursor of the page before")];
const FROM: Query = &[("from_seq", "the first entry; where the device has got to, if left out")];
const FOLLOW: Query = &[
    ("conv_id", "the conversation"),
    ("from_seq", "the first message"),
    ("after_seq", "the message before the first"),
    ("presence", "presence.update events too"),
];

const fn asks(path: &'static str, summary: &'static str) -> Operation {
    post("chat", path, summary, "Object", &[(200, "Object")])
}

const fn looks(path: &'static str, summary: &'static str, query: Query) -> Operation {
    get("chat", path, summary, query, &[(200, "Object")])
}

pub(super) const OPERATIONS: &[Operation] = &[
    asks("/v1/rooms/create", "Make a room; the caller owns it"),
    asks("/v1/rooms/invite", "Put users in"),
    asks("/v1/rooms/remove", "Take users out, or leave"),
    asks("/v1/rooms/promote", "Make members admins"),
    asks("/v1/rooms/demote", "Make admins members"),
    asks("/v1/rooms/ban", "Take users out and keep them out"),
    asks("/v1/rooms/unban", "Let users be invited again"),
    asks("/v1/rooms/mute", "Let members read and not send"),
    asks("/v1/rooms/unmute", "Let them send again"),
    asks("/v1/dms/create", "Begin a direct message"),
    asks("/v1/conversations/mark_read", "Note how far the caller has read"),
    asks("/v1/conversations/mark_all_read", "Note that everything is read"),
    asks("/v1/conversations/title", "Give a conversation a title"),
    asks("/v1/conversations/label", "Give it a name of the caller's own"),
    asks("/v1/conversations/pin", "Pin it in the caller's list"),
    asks("/v1/conversations/mute", "Flag it as muted for the caller"),
    asks("/v1/conversations/archive", "Hide it from the caller's list"),
    asks(
        "/v1/conversations/commit",
        "A commit with its welcomes, GroupInfo and members, all or nothing",
    ),
    asks("/v1/conversations/rejoin_request", "Ask members to add the device again"),
    asks("/v1/inbox", "One frame: conv.send, conv.commit or conv.ack"),
    asks("/v1/inbox/ack", "Note how far the device has read its inbox"),
    asks("/v1/keypackages", "Hand in KeyPackages of the caller's device"),
    asks("/v1/keypackages/fetch", "Take KeyPackages of a user, each once, ever"),
    asks("/v1/keypackages/rotate", "Revoke the device's KeyPackages and hand in others"),
    asks("/v1/presence/lease", "Be online for a while"),
    asks("/v1/presence/renew", "Stay online"),
    asks("/v1/presence/watch", "Watch contacts"),
    asks("/v1/presence/unwatch", "Watch them no longer"),
    asks("/v1/presence/block", "Hear nothing of users, and they nothing of the caller"),
    asks("/v1/presence/unblock", "Take them off the blocklist"),
    asks("/v1/presence/status", "Who is online, as far as the caller may know"),
    looks("/v1/rooms/members", "Members by role", CONV),
    looks("/v1/rooms/bans", "Who is banned", CONV),
    looks("/v1/rooms/mutes", "Who is muted", CONV),
    looks("/v1/conversations", "The caller's conversations", LIST),
    looks("/v1/conversations/group_info", "The newest sealed GroupInfo", CONV),
    looks("/v1/inbox/events", "A page of the device's inbox", FROM),
    looks("/v1/keypackages/pool", "What the caller's devices have in the pool", &[]),
    looks("/v1/vault", "The caller's vault", &[]),
    looks("/v1/presence/blocklist", "Whom the caller blocks", &[]),
    looks("/v1/users", "Users, for admins", PAGE),
    looks("/v1/users/{user}", "What the relay has of a user, for admins", &[]),
    asks("/v1/users/purge", "End a user's sessions and delete what is theirs, for admins"),
    looks("/v1/push", "Whether the relay pushes, and where the device is pushed to", &[]),
    Operation {
        method: "put",
        body: Some("Object"),
        ..looks("/v1/push", "Push to the device while it is not connected", &[])
    },
    Operation { method: "delete", ..looks("/v1/push", "Push to it no longer", &[]) },
    Operation {
        method: "put",
        body: Some("Object"),
        ..looks("/v1/vault", "Replace the caller's vault of this version", &[])
    },
    Operation {
        answers: &[(200, ""), (206, "")],
        ..looks("/v1/blobs/{hash}", "The bytes of an attachment, or a range of them", &[])
    },
    Operation {
        method: "put",
        ..looks("/v1/blobs/{hash}", "Keep an attachment whose bytes have this BLAKE3", &[])
    },
    get(
        "chat",
        "/v1/sse",
        "The messages of one conversation, then those to come",
        FOLLOW,
        &[(200, "text/event-stream")],
    ),
];
