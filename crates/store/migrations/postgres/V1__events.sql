-- The event log. One row of `events` is one accepted event; the writer adds rows, retention and
-- expiry delete them. `seq` is the relay's total order and is never used twice.
-- The same tables as on SQLite; where a column differs, the reason stands beside it.
CREATE TABLE meta (
    key   text   PRIMARY KEY,
    value bigint NOT NULL
);

-- One row. A process that becomes the writer raises `epoch`; every transaction of a writer begins by
-- locking the row under the epoch that it knows, so one that was replaced can commit nothing.
CREATE TABLE writer (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch bigint  NOT NULL
);
INSERT INTO writer (epoch) VALUES (0);

CREATE FUNCTION hold_epoch(mine bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM writer WHERE epoch = mine FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another relay has become the writer' USING ERRCODE = 'RL001';
    END IF;
END
$$;

-- Names and keys are long and repeat in every row, so rows hold their numbers.
CREATE TABLE namespaces (
    n                  integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name               text   COLLATE "C" NOT NULL UNIQUE,
    events             bigint NOT NULL DEFAULT 0,
    bytes              bigint NOT NULL DEFAULT 0,
    -- Retention has removed events up to and with this seq: a cursor before it is refused.
    pruned_through_seq bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE authors (
    n      integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pubkey bytea   NOT NULL UNIQUE CHECK (length(pubkey) = 32)
);

CREATE TABLE events (
    seq            bigint  PRIMARY KEY,
    -- The first eight bytes of `id`: a random index is what slows a growing table most, so it is narrow.
    id_prefix      bigint  NOT NULL,
    created_at_ns  bigint  NOT NULL,
    received_at_ns bigint  NOT NULL,
    expires_at_s   bigint,
    -- No foreign keys (nor does SQLite check its own): the check would lock two more rows for each event,
    -- and only the writer adds rows.
    ns             integer NOT NULL,
    author         integer NOT NULL,
    kind           integer NOT NULL,
    -- Whether a later version of the same coordinate is known. In every index before the time,
    -- so that a query for the latest versions never walks over old ones.
    superseded     boolean NOT NULL,
    id             bytea   NOT NULL CHECK (length(id) = 32),
    -- The numbers of the event's tags (not on SQLite): moving or deleting an event finds its rows of
    -- `event_tags` without a trip to the client, and a query drops non-matching events at the server.
    tags           bigint[] NOT NULL,
    json           bytea   NOT NULL
);
CREATE INDEX events_by_id ON events (id_prefix);
-- `seq` is in every key here; on SQLite it is there unwritten.
CREATE INDEX events_by_author ON events (ns, author, kind, superseded, created_at_ns, seq);
CREATE INDEX events_by_kind ON events (ns, kind, superseded, created_at_ns, seq);
CREATE INDEX events_by_expiry ON events (expires_at_s) WHERE expires_at_s IS NOT NULL;

-- One row for each distinct (name, value) of an event; `tag` is a 64-bit hash of namespace, name and value,
-- so a reader checks the event itself.
CREATE TABLE event_tags (
    tag           bigint  NOT NULL,
    created_at_ns bigint  NOT NULL,
    seq           bigint  NOT NULL,
    superseded    boolean NOT NULL,
    PRIMARY KEY (tag, superseded, created_at_ns, seq)
);

-- The latest version of each coordinate of replaceable and addressable events.
CREATE TABLE heads (
    ns            integer NOT NULL,
    author        integer NOT NULL,
    kind          integer NOT NULL,
    -- UTF-8. Not text, which cannot hold U+0000.
    d             bytea   NOT NULL,
    seq           bigint  NOT NULL,
    created_at_ns bigint  NOT NULL,
    id            bytea   NOT NULL,
    PRIMARY KEY (author, kind, d, ns)
) WITH (fillfactor = 80);
