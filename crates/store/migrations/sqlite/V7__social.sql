-- The social layer (Polycentric): signed events as their authors' devices numbered them, and what is derived from them.
-- Times are unix milliseconds. A subject is 16 bytes of a hash that name what events are about: an event or opaque bytes.

-- One row is one identity that was ever seen. `version` is the number of the last change of what is held of it.
CREATE TABLE social_systems (
    n       INTEGER PRIMARY KEY,
    key     BLOB NOT NULL UNIQUE CHECK (length(key) = 32),
    version INTEGER NOT NULL,
    events  INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    -- One handle a system, one system a handle.
    handle  TEXT UNIQUE
) STRICT;

-- The writers (devices) of a system.
CREATE TABLE social_processes (
    n       INTEGER PRIMARY KEY,
    system  INTEGER NOT NULL REFERENCES social_systems (n),
    process BLOB NOT NULL CHECK (length(process) = 16),
    UNIQUE (system, process)
) STRICT;

-- Events, numbered as they arrived. `raw` is the signature, then the signed bytes as they came.
CREATE TABLE social_events (
    seq          INTEGER PRIMARY KEY,
    process      INTEGER NOT NULL REFERENCES social_processes (n),
    clock        INTEGER NOT NULL,
    content_type INTEGER NOT NULL,
    unix_ms      INTEGER,
    raw          BLOB NOT NULL CHECK (length(raw) > 64)
) STRICT;
-- What names an event; ranges, heads.
CREATE UNIQUE INDEX social_events_by_clock ON social_events (process, clock);
-- The newest of each type.
CREATE INDEX social_events_by_type ON social_events (process, content_type, clock);
-- Feeds.
CREATE INDEX social_events_by_time ON social_events (process, content_type, unix_ms, clock);
-- Explore.
CREATE INDEX social_posts_by_time ON social_events (unix_ms, seq) WHERE content_type = 3;

-- Clocks whose event was deleted by its author; the Delete stands in its place. Type and time are copied from the Delete.
CREATE TABLE social_tombstones (
    process      INTEGER NOT NULL,
    clock        INTEGER NOT NULL,
    content_type INTEGER NOT NULL,
    unix_ms      INTEGER,
    -- The Delete.
    seq          INTEGER NOT NULL,
    PRIMARY KEY (process, clock)
) STRICT, WITHOUT ROWID;
CREATE INDEX social_tombstones_by_time ON social_tombstones (process, content_type, unix_ms, clock);

-- Which clocks of a process are held, stored or deleted: maximal intervals, disjoint.
CREATE TABLE social_ranges (
    process INTEGER NOT NULL,
    low     INTEGER NOT NULL,
    high    INTEGER NOT NULL CHECK (high >= low),
    PRIMARY KEY (process, low)
) STRICT, WITHOUT ROWID;

-- Which stored events are about a subject. `score` is what others' opinions make of the event: likes less dislikes.
CREATE TABLE social_refs (
    subject   BLOB NOT NULL CHECK (length(subject) = 16),
    from_type INTEGER NOT NULL,
    score     INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    PRIMARY KEY (subject, from_type, score, seq)
) STRICT, WITHOUT ROWID;

-- Last-writer-wins values: all that are stored, so that a deleted winner has a successor. Sixteen zero bytes are the subject of
-- values that are about their system alone. Long values are kept as a hash.
CREATE TABLE social_lww (
    subject      BLOB NOT NULL CHECK (length(subject) = 16),
    system       INTEGER NOT NULL,
    content_type INTEGER NOT NULL,
    unix_ms      INTEGER NOT NULL,
    process      BLOB NOT NULL,
    clock        INTEGER NOT NULL,
    value        BLOB NOT NULL,
    seq          INTEGER NOT NULL,
    PRIMARY KEY (subject, system, content_type, unix_ms, process, clock)
) STRICT, WITHOUT ROWID;

-- Counters, kept in the transactions that change what they count. kind 0: events about the subject; 1: winners of
-- `social_lww` with that value; 2: the number of the last change. from_type -1 is all types together.
CREATE TABLE social_counts (
    subject   BLOB NOT NULL CHECK (length(subject) = 16),
    kind      INTEGER NOT NULL CHECK (kind IN (0, 1, 2)),
    from_type INTEGER NOT NULL,
    value     BLOB NOT NULL,
    n         INTEGER NOT NULL,
    PRIMARY KEY (subject, kind, from_type, value)
) STRICT, WITHOUT ROWID;

-- Fields of claims, found by the hash of their value; each claim has one more row with the empty hash and key -1.
CREATE TABLE social_claims (
    claim_type INTEGER NOT NULL,
    value      BLOB NOT NULL CHECK (length(value) = 16),
    key        INTEGER NOT NULL,
    system     INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    -- Under what the claim is vouched for.
    subject    BLOB NOT NULL CHECK (length(subject) = 16),
    PRIMARY KEY (claim_type, value, key, system, seq)
) STRICT, WITHOUT ROWID;

-- Who vouches for what.
CREATE TABLE social_vouches (
    system  INTEGER NOT NULL,
    subject BLOB NOT NULL CHECK (length(subject) = 16),
    seq     INTEGER NOT NULL,
    PRIMARY KEY (system, subject, seq)
) STRICT, WITHOUT ROWID;

-- How many posts are about a topic, by the hour of the post.
CREATE TABLE social_topics (
    hour  INTEGER NOT NULL,
    topic BLOB NOT NULL,
    posts INTEGER NOT NULL,
    PRIMARY KEY (hour, topic)
) STRICT, WITHOUT ROWID;

-- What an operator censored: a system (empty process, clock 0) or an event. how 1: not recommended; 2: not stored either.
CREATE TABLE social_censored (
    system  BLOB NOT NULL CHECK (length(system) = 32),
    process BLOB NOT NULL,
    clock   INTEGER NOT NULL,
    how     INTEGER NOT NULL CHECK (how IN (1, 2)),
    PRIMARY KEY (system, process, clock)
) STRICT, WITHOUT ROWID;

-- What is known of an event's acceptability, while moderation is on. state 0: waits; 1: approved; 2: hidden.
CREATE TABLE social_moderation (
    seq   INTEGER NOT NULL PRIMARY KEY,
    state INTEGER NOT NULL CHECK (state IN (0, 1, 2)),
    -- JSON: [["hate", 2], …].
    tags  TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX social_moderation_waiting ON social_moderation (seq) WHERE state = 0;

-- The words of live posts, and of current usernames and descriptions, under the `seq` of their event.
CREATE VIRTUAL TABLE social_post_words USING fts5 (words, content = '', contentless_delete = 1, tokenize = 'unicode61');
CREATE VIRTUAL TABLE social_profile_words USING fts5 (words, content = '', contentless_delete = 1, tokenize = 'unicode61');
