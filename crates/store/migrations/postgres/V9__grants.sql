-- The user's leave for this relay to speak for the session's device at other homes: signed, with an end of its own, and
-- of use to nobody but this relay.
ALTER TABLE sessions ADD COLUMN edge_grant TEXT;
