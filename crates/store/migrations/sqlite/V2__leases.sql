-- Locks. The writer keeps them in memory; what is here makes them survive.

-- The journal and the history that people read: one row for each change of state, telling the whole new state.
CREATE TABLE lock_history (
    id                  INTEGER PRIMARY KEY,
    -- A 64-bit hash of namespace and resource: narrow enough that the index costs little on every operation.
    lock                INTEGER NOT NULL,
    ns                  TEXT NOT NULL,
    resource            TEXT NOT NULL,
    action              TEXT NOT NULL,
    owner               BLOB NOT NULL,
    previous_owner      BLOB,
    fencing_token       INTEGER NOT NULL,
    lease_ms            INTEGER NOT NULL,
    request_id          TEXT,
    meta                TEXT,
    at_ns               INTEGER NOT NULL,
    lease_expires_at_ns INTEGER NOT NULL,
    reason              TEXT,
    broken_by           BLOB
) STRICT;
CREATE INDEX lock_history_by_lock ON lock_history (lock);

-- The last row of the history of each resource up to meta 'locks_through', so that a start need not read all of it.
CREATE TABLE locks (
    lock          INTEGER NOT NULL,
    ns            TEXT NOT NULL,
    resource      TEXT NOT NULL,
    history_id    INTEGER NOT NULL,
    PRIMARY KEY (ns, resource)
) STRICT, WITHOUT ROWID;
CREATE INDEX locks_by_history ON locks (history_id);
