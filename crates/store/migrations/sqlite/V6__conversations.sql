-- Conversations and what their members' devices need: logs, cursors, KeyPackages, inboxes, vaults, contacts,
-- attachments. Times are unix milliseconds.

-- One row is one conversation. Whoever changes anything of a conversation changes or locks its row first.
CREATE TABLE conversations (
    n             INTEGER PRIMARY KEY,
    conv_id       TEXT NOT NULL UNIQUE,
    -- 0: never looked into, 1: relay-mls/1.
    profile       INTEGER NOT NULL CHECK (profile IN (0, 1)),
    -- 1: of two, 2: a room.
    kind          INTEGER NOT NULL CHECK (kind IN (1, 2)),
    home          TEXT NOT NULL,
    created_by    BLOB NOT NULL CHECK (length(created_by) = 32),
    created_at_ms INTEGER NOT NULL,
    title         TEXT NOT NULL,
    -- How many rows of `conversation_members` there are.
    members       INTEGER NOT NULL,
    -- The newest seq ever given, 0 before the first; never goes back.
    latest_seq    INTEGER NOT NULL,
    latest_ts_ms  INTEGER NOT NULL,
    -- The oldest seq that is kept; latest_seq + 1 where none is.
    earliest_seq  INTEGER NOT NULL,
    epoch         INTEGER NOT NULL,
    -- The newest published GroupInfo, sealed, and its epoch.
    group_info       BLOB,
    group_info_epoch INTEGER
) STRICT;

-- Who may read and post. Written by creation and governance; a removed member has no row.
CREATE TABLE conversation_members (
    conv         INTEGER NOT NULL,
    user_key     BLOB NOT NULL CHECK (length(user_key) = 32),
    -- 0 owner, 1 admin, 2 member.
    role         INTEGER NOT NULL,
    joined_at_ms INTEGER NOT NULL,
    -- latest_seq when the user came in.
    joined_seq   INTEGER NOT NULL,
    -- NULL: may send.
    muted_at_ms  INTEGER,
    muted_by     BLOB,
    PRIMARY KEY (conv, user_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX conversation_members_by_user ON conversation_members (user_key, conv);

CREATE TABLE conversation_bans (
    conv         INTEGER NOT NULL,
    user_key     BLOB NOT NULL,
    banned_by    BLOB NOT NULL,
    banned_at_ms INTEGER NOT NULL,
    PRIMARY KEY (conv, user_key)
) STRICT, WITHOUT ROWID;

-- The logs. One row is one accepted message; retention deletes from the front of a conversation.
CREATE TABLE messages (
    conv           INTEGER NOT NULL,
    seq            INTEGER NOT NULL,
    -- The first eight bytes of the hash of `msg_id`: a random index is what slows a growing table most.
    id_hash        INTEGER NOT NULL,
    msg_id         TEXT NOT NULL,
    -- NULL in opaque conversations.
    kind           INTEGER,
    epoch          INTEGER,
    sender_key     BLOB NOT NULL,
    sender_device  TEXT NOT NULL,
    origin_gateway TEXT NOT NULL,
    ts_ms          INTEGER NOT NULL,
    env            BLOB NOT NULL,
    PRIMARY KEY (conv, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX messages_by_id ON messages (conv, id_hash);

-- What retention leaves of a message: its idempotency key, until the window is over.
CREATE TABLE pruned_messages (
    conv       INTEGER NOT NULL,
    id_hash    INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    msg_id     TEXT NOT NULL,
    sender_key BLOB NOT NULL,
    env_hash   BLOB NOT NULL,
    ts_ms      INTEGER NOT NULL,
    PRIMARY KEY (conv, id_hash, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX pruned_messages_by_time ON pruned_messages (ts_ms);

-- Where each device has got to.
CREATE TABLE conversation_cursors (
    user_key      BLOB NOT NULL,
    device_id     TEXT NOT NULL,
    conv          INTEGER NOT NULL,
    next_seq      INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (user_key, device_id, conv)
) STRICT, WITHOUT ROWID;
CREATE INDEX conversation_cursors_by_conv ON conversation_cursors (conv, next_seq);

-- What a user has set for a conversation, for themselves alone.
CREATE TABLE conversation_state (
    user_key      BLOB NOT NULL,
    conv          INTEGER NOT NULL,
    label         TEXT NOT NULL,
    pinned_at_ms  INTEGER NOT NULL,
    muted         INTEGER NOT NULL,
    archived      INTEGER NOT NULL,
    last_read_seq INTEGER,
    PRIMARY KEY (user_key, conv)
) STRICT, WITHOUT ROWID;

-- The pool. A package is handed out once; its row stays without its bytes, so that it is known when it comes again.
CREATE TABLE key_packages (
    n             INTEGER PRIMARY KEY,
    user_key      BLOB NOT NULL,
    device_id     TEXT NOT NULL,
    -- BLAKE3 of the bytes.
    hash          BLOB NOT NULL CHECK (length(hash) = 32),
    -- RFC 9420 section 5.2, where the bytes were verified.
    reference     BLOB,
    last_resort   INTEGER NOT NULL,
    -- Unix seconds; NULL where unknown.
    not_after_s   INTEGER,
    -- NULL once it may not be handed out any more.
    bytes         BLOB,
    created_at_ms INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX key_packages_by_hash ON key_packages (user_key, device_id, hash);
CREATE INDEX key_packages_available ON key_packages (user_key, device_id, last_resort, n) WHERE bytes IS NOT NULL;
CREATE INDEX key_packages_by_reference ON key_packages (reference) WHERE reference IS NOT NULL;

-- To whom verified packages were handed out: only they may send a Welcome for one.
CREATE TABLE key_package_issues (
    reference    BLOB NOT NULL,
    issued_to    BLOB NOT NULL,
    issued_at_ms INTEGER NOT NULL,
    PRIMARY KEY (reference, issued_to)
) STRICT, WITHOUT ROWID;
CREATE INDEX key_package_issues_by_time ON key_package_issues (issued_at_ms);

-- One row is one device's inbox: a log like a conversation's.
CREATE TABLE inboxes (
    user_key   BLOB NOT NULL,
    device_id  TEXT NOT NULL,
    latest_seq INTEGER NOT NULL,
    -- What the device has acknowledged lies before it.
    next_seq   INTEGER NOT NULL,
    PRIMARY KEY (user_key, device_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE inbox_entries (
    user_key  BLOB NOT NULL,
    device_id TEXT NOT NULL,
    seq       INTEGER NOT NULL,
    at_ms     INTEGER NOT NULL,
    -- The members of `inbox.event` but `seq`, as JSON.
    body      BLOB NOT NULL,
    PRIMARY KEY (user_key, device_id, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX inbox_entries_by_time ON inbox_entries (at_ms);

CREATE TABLE vaults (
    user_key      BLOB NOT NULL PRIMARY KEY,
    version       INTEGER NOT NULL,
    blob          BLOB NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT;

-- Both directions count: see `core::presence`.
CREATE TABLE blocks (
    user_key BLOB NOT NULL,
    target   BLOB NOT NULL,
    PRIMARY KEY (user_key, target)
) STRICT, WITHOUT ROWID;

CREATE TABLE watches (
    user_key BLOB NOT NULL,
    target   BLOB NOT NULL,
    PRIMARY KEY (user_key, target)
) STRICT, WITHOUT ROWID;

-- One row is one attachment, a file in the data directory under its BLAKE3. Deleted with the file.
CREATE TABLE blobs (
    hash          BLOB NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
    owner         BLOB NOT NULL,
    size          INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX blobs_by_owner ON blobs (owner);
CREATE INDEX blobs_by_expiry ON blobs (expires_at_ms);
