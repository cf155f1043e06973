-- What an operator allows one identity, in place of what is allowed to all. NULL: as to all; 0: no limit.
CREATE TABLE social_quotas (
    system         bytea NOT NULL PRIMARY KEY CHECK (length(system) = 32),
    bytes          bigint CHECK (bytes >= 0),
    events_per_sec bigint CHECK (events_per_sec >= 0),
    set_at_ms      bigint NOT NULL
);
