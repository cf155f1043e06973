-- An operation on a lock appends one row and touches one page. An index of the history by lock would cost each of
-- them a second page at a random place, so it is a table of its own that the writer fills when it notes the leases
-- (meta 'locks_through'): it has the rows up to there, and a reader looks through the few after it.
DROP INDEX lock_history_by_lock;
CREATE TABLE lock_history_index (
    lock       INTEGER NOT NULL,
    history_id INTEGER NOT NULL,
    PRIMARY KEY (lock, history_id)
) STRICT, WITHOUT ROWID;
INSERT INTO lock_history_index (lock, history_id)
SELECT lock, id FROM lock_history
WHERE id <= (SELECT value FROM meta WHERE key = 'locks_through') ORDER BY lock, id;
