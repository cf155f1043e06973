-- Indexes become tables of their own, so that they can be written behind the log, many entries at once and in
-- their order (ADR 8). `indexed_seq` in `meta`: up to it they are complete; what is newer is read from the log at start.
DROP INDEX events_by_id;
DROP INDEX events_by_author;
DROP INDEX events_by_kind;

CREATE TABLE event_ids (
    -- The first eight bytes of the id; whoever looks up an id checks the event itself.
    id_prefix INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    PRIMARY KEY (id_prefix, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE events_by_author (
    ns            INTEGER NOT NULL,
    author        INTEGER NOT NULL,
    kind          INTEGER NOT NULL,
    superseded    INTEGER NOT NULL,
    created_at_ns INTEGER NOT NULL,
    seq           INTEGER NOT NULL,
    PRIMARY KEY (ns, author, kind, superseded, created_at_ns, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE events_by_kind (
    ns            INTEGER NOT NULL,
    kind          INTEGER NOT NULL,
    superseded    INTEGER NOT NULL,
    created_at_ns INTEGER NOT NULL,
    seq           INTEGER NOT NULL,
    PRIMARY KEY (ns, kind, superseded, created_at_ns, seq)
) STRICT, WITHOUT ROWID;

INSERT INTO event_ids
    SELECT id_prefix, seq FROM events ORDER BY id_prefix, seq;
INSERT INTO events_by_author
    SELECT ns, author, kind, superseded, created_at_ns, seq FROM events
    ORDER BY ns, author, kind, superseded, created_at_ns, seq;
INSERT INTO events_by_kind
    SELECT ns, kind, superseded, created_at_ns, seq FROM events
    ORDER BY ns, kind, superseded, created_at_ns, seq;
INSERT INTO meta (key, value)
    SELECT 'indexed_seq', coalesce(max(seq), 0) FROM events;
