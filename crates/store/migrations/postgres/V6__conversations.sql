-- Conversations and what their members' devices need: logs, cursors, KeyPackages, inboxes, vaults, contacts,
-- attachments. The same tables as on SQLite. Times are unix milliseconds.

-- One row is one conversation. Whoever changes anything of a conversation changes or locks its row first.
CREATE TABLE conversations (
    n             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    conv_id       text COLLATE "C" NOT NULL UNIQUE,
    -- 0: never looked into, 1: relay-mls/1.
    profile       bigint NOT NULL CHECK (profile IN (0, 1)),
    -- 1: of two, 2: a room.
    kind          bigint NOT NULL CHECK (kind IN (1, 2)),
    home          text COLLATE "C" NOT NULL,
    created_by    bytea NOT NULL CHECK (length(created_by) = 32),
    created_at_ms bigint NOT NULL,
    title         text COLLATE "C" NOT NULL,
    -- How many rows of `conversation_members` there are.
    members       bigint NOT NULL,
    -- The newest seq ever given, 0 before the first; never goes back.
    latest_seq    bigint NOT NULL,
    latest_ts_ms  bigint NOT NULL,
    -- The oldest seq that is kept; latest_seq + 1 where none is.
    earliest_seq  bigint NOT NULL,
    epoch         bigint NOT NULL,
    -- The newest published GroupInfo, sealed, and its epoch.
    group_info       bytea,
    group_info_epoch bigint
);

-- Who may read and post. Written by creation and governance; a removed member has no row.
CREATE TABLE conversation_members (
    conv         bigint NOT NULL,
    user_key     bytea NOT NULL CHECK (length(user_key) = 32),
    -- 0 owner, 1 admin, 2 member.
    role         bigint NOT NULL,
    joined_at_ms bigint NOT NULL,
    -- latest_seq when the user came in.
    joined_seq   bigint NOT NULL,
    -- NULL: may send.
    muted_at_ms  bigint,
    muted_by     bytea,
    PRIMARY KEY (conv, user_key)
);
CREATE INDEX conversation_members_by_user ON conversation_members (user_key, conv);

CREATE TABLE conversation_bans (
    conv         bigint NOT NULL,
    user_key     bytea NOT NULL,
    banned_by    bytea NOT NULL,
    banned_at_ms bigint NOT NULL,
    PRIMARY KEY (conv, user_key)
);

-- The logs. One row is one accepted message; retention deletes from the front of a conversation.
CREATE TABLE messages (
    conv           bigint NOT NULL,
    seq            bigint NOT NULL,
    -- The first eight bytes of the hash of `msg_id`: a random index is what slows a growing table most.
    id_hash        bigint NOT NULL,
    msg_id         text COLLATE "C" NOT NULL,
    -- NULL in opaque conversations.
    kind           bigint,
    epoch          bigint,
    sender_key     bytea NOT NULL,
    sender_device  text COLLATE "C" NOT NULL,
    origin_gateway text COLLATE "C" NOT NULL,
    ts_ms          bigint NOT NULL,
    env            bytea NOT NULL,
    PRIMARY KEY (conv, seq)
);
CREATE INDEX messages_by_id ON messages (conv, id_hash);

-- What retention leaves of a message: its idempotency key, until the window is over.
CREATE TABLE pruned_messages (
    conv       bigint NOT NULL,
    id_hash    bigint NOT NULL,
    seq        bigint NOT NULL,
    msg_id     text COLLATE "C" NOT NULL,
    sender_key bytea NOT NULL,
    env_hash   bytea NOT NULL,
    ts_ms      bigint NOT NULL,
    PRIMARY KEY (conv, id_hash, seq)
);
CREATE INDEX pruned_messages_by_time ON pruned_messages (ts_ms);

-- Where each device has got to.
CREATE TABLE conversation_cursors (
    user_key      bytea NOT NULL,
    device_id     text COLLATE "C" NOT NULL,
    conv          bigint NOT NULL,
    next_seq      bigint NOT NULL,
    updated_at_ms bigint NOT NULL,
    PRIMARY KEY (user_key, device_id, conv)
);
CREATE INDEX conversation_cursors_by_conv ON conversation_cursors (conv, next_seq);

-- What a user has set for a conversation, for themselves alone.
CREATE TABLE conversation_state (
    user_key      bytea NOT NULL,
    conv          bigint NOT NULL,
    label         text COLLATE "C" NOT NULL,
    pinned_at_ms  bigint NOT NULL,
    muted         bigint NOT NULL,
    archived      bigint NOT NULL,
    last_read_seq bigint,
    PRIMARY KEY (user_key, conv)
);

-- The pool. A package is handed out once; its row stays without its bytes, so that it is known when it comes again.
CREATE TABLE key_packages (
    n             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_key      bytea NOT NULL,
    device_id     text COLLATE "C" NOT NULL,
    -- BLAKE3 of the bytes.
    hash          bytea NOT NULL CHECK (length(hash) = 32),
    -- RFC 9420 section 5.2, where the bytes were verified.
    reference     bytea,
    last_resort   bigint NOT NULL,
    -- Unix seconds; NULL where unknown.
    not_after_s   bigint,
    -- NULL once it may not be handed out any more.
    bytes         bytea,
    created_at_ms bigint NOT NULL
);
CREATE UNIQUE INDEX key_packages_by_hash ON key_packages (user_key, device_id, hash);
CREATE INDEX key_packages_available ON key_packages (user_key, device_id, last_resort, n) WHERE bytes IS NOT NULL;
CREATE INDEX key_packages_by_reference ON key_packages (reference) WHERE reference IS NOT NULL;

-- To whom verified packages were handed out: only they may send a Welcome for one.
CREATE TABLE key_package_issues (
    reference    bytea NOT NULL,
    issued_to    bytea NOT NULL,
    issued_at_ms bigint NOT NULL,
    PRIMARY KEY (reference, issued_to)
);
CREATE INDEX key_package_issues_by_time ON key_package_issues (issued_at_ms);

-- One row is one device's inbox: a log like a conversation's.
CREATE TABLE inboxes (
    user_key   bytea NOT NULL,
    device_id  text COLLATE "C" NOT NULL,
    latest_seq bigint NOT NULL,
    -- What the device has acknowledged lies before it.
    next_seq   bigint NOT NULL,
    PRIMARY KEY (user_key, device_id)
);

CREATE TABLE inbox_entries (
    user_key  bytea NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    seq       bigint NOT NULL,
    at_ms     bigint NOT NULL,
    -- The members of `inbox.event` but `seq`, as JSON.
    body      bytea NOT NULL,
    PRIMARY KEY (user_key, device_id, seq)
);
CREATE INDEX inbox_entries_by_time ON inbox_entries (at_ms);

CREATE TABLE vaults (
    user_key      bytea NOT NULL PRIMARY KEY,
    version       bigint NOT NULL,
    blob          bytea NOT NULL,
    updated_at_ms bigint NOT NULL
);

-- Both directions count: see `core::presence`.
CREATE TABLE blocks (
    user_key bytea NOT NULL,
    target   bytea NOT NULL,
    PRIMARY KEY (user_key, target)
);

CREATE TABLE watches (
    user_key bytea NOT NULL,
    target   bytea NOT NULL,
    PRIMARY KEY (user_key, target)
);

-- One row is one attachment, a file in the data directory under its BLAKE3. Deleted with the file.
CREATE TABLE blobs (
    hash          bytea NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
    owner         bytea NOT NULL,
    size          bigint NOT NULL,
    created_at_ms bigint NOT NULL,
    expires_at_ms bigint NOT NULL
);
CREATE INDEX blobs_by_owner ON blobs (owner);
CREATE INDEX blobs_by_expiry ON blobs (expires_at_ms);
