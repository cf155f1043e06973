-- The event log. One row of `events` is one accepted event; the writer adds rows, retention and
-- expiry delete them. `seq` is the relay's total order and is never used twice.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY NOT NULL,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

-- Names and keys are long and repeat in every row, so rows hold their numbers.
CREATE TABLE namespaces (
    n                  INTEGER PRIMARY KEY,
    name               TEXT NOT NULL UNIQUE,
    events             INTEGER NOT NULL DEFAULT 0,
    bytes              INTEGER NOT NULL DEFAULT 0,
    -- Retention has removed events up to and with this seq: a cursor before it is refused.
    pruned_through_seq INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE authors (
    n      INTEGER PRIMARY KEY,
    pubkey BLOB NOT NULL UNIQUE CHECK (length(pubkey) = 32)
) STRICT;

CREATE TABLE events (
    seq            INTEGER PRIMARY KEY,
    id             BLOB NOT NULL CHECK (length(id) = 32),
    -- The first eight bytes of `id`: a random index is what slows a growing table most, so it is narrow.
    id_prefix      INTEGER NOT NULL,
    ns             INTEGER NOT NULL REFERENCES namespaces (n),
    author         INTEGER NOT NULL REFERENCES authors (n),
    kind           INTEGER NOT NULL,
    -- 1 where a later version of the same coordinate is known. In every index before the time,
    -- so that a query for the latest versions never walks over old ones.
    superseded     INTEGER NOT NULL,
    created_at_ns  INTEGER NOT NULL,
    received_at_ns INTEGER NOT NULL,
    expires_at_s   INTEGER,
    json           BLOB NOT NULL
) STRICT;
CREATE INDEX events_by_id ON events (id_prefix);
CREATE INDEX events_by_author ON events (ns, author, kind, superseded, created_at_ns);
CREATE INDEX events_by_kind ON events (ns, kind, superseded, created_at_ns);
CREATE INDEX events_by_expiry ON events (expires_at_s) WHERE expires_at_s IS NOT NULL;

-- One row for each distinct (name, value) of an event; `tag` is a 64-bit hash of namespace, name and value,
-- so a reader checks the event itself.
CREATE TABLE event_tags (
    tag           INTEGER NOT NULL,
    superseded    INTEGER NOT NULL,
    created_at_ns INTEGER NOT NULL,
    seq           INTEGER NOT NULL,
    PRIMARY KEY (tag, superseded, created_at_ns, seq)
) STRICT, WITHOUT ROWID;

-- The latest version of each coordinate of replaceable and addressable events.
CREATE TABLE heads (
    ns            INTEGER NOT NULL,
    author        INTEGER NOT NULL,
    kind          INTEGER NOT NULL,
    d             TEXT NOT NULL,
    seq           INTEGER NOT NULL,
    created_at_ns INTEGER NOT NULL,
    id            BLOB NOT NULL,
    PRIMARY KEY (author, kind, d, ns)
) STRICT, WITHOUT ROWID;
