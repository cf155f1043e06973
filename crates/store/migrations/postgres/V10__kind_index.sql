-- A question for an author's events of a kind can be answered from this index too, by walking over everybody's, and as
-- long as the server has no statistics of a young table it took that way (a plan that is made once stays). The condition
-- is always true; only statements that want this index repeat it, and for others it is none that they may use.
DROP INDEX events_by_kind;
CREATE INDEX events_by_kind ON events (ns, kind, superseded, created_at_ns, seq) WHERE kind >= 0;
