-- Locks. The writer keeps them in memory; what is here makes them survive.

-- The journal and the history that people read: one row for each change of state, telling the whole new state.
CREATE TABLE lock_history (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- A 64-bit hash of namespace and resource: narrow enough that the index costs little on every operation.
    lock                bigint NOT NULL,
    fencing_token       bigint NOT NULL,
    lease_ms            bigint NOT NULL,
    at_ns               bigint NOT NULL,
    lease_expires_at_ns bigint NOT NULL,
    ns                  text   COLLATE "C" NOT NULL,
    resource            text   COLLATE "C" NOT NULL,
    action              text   COLLATE "C" NOT NULL,
    owner               bytea  NOT NULL,
    previous_owner      bytea,
    broken_by           bytea,
    -- UTF-8. Not text, which cannot hold U+0000.
    request_id          bytea,
    meta                bytea,
    reason              bytea
);
CREATE INDEX lock_history_by_lock ON lock_history (lock, id);

-- The last row of the history of each resource up to meta 'locks_through', so that a start need not read all of it.
CREATE TABLE locks (
    lock       bigint NOT NULL,
    history_id bigint NOT NULL,
    ns         text   COLLATE "C" NOT NULL,
    resource   text   COLLATE "C" NOT NULL,
    PRIMARY KEY (ns, resource)
);
CREATE INDEX locks_by_history ON locks (history_id);
