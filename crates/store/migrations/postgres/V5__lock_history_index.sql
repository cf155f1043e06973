-- The embedded store fills its index of the lock history later, for the sake of its commits. Here nothing changes:
-- the server writes an index entry as a small record of its log.
SELECT 1;
