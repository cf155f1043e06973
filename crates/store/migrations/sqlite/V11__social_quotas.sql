-- What an operator allows one identity, in place of what is allowed to all. NULL: as to all; 0: no limit.
CREATE TABLE social_quotas (
    system         BLOB NOT NULL PRIMARY KEY CHECK (length(system) = 32),
    bytes          INTEGER CHECK (bytes >= 0),
    events_per_sec INTEGER CHECK (events_per_sec >= 0),
    set_at_ms      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
