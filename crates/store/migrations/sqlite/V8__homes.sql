-- Users whose home is this relay: their KeyPackages, inboxes, vault and contacts lie here.
CREATE TABLE home_users (
    user_key    BLOB NOT NULL PRIMARY KEY CHECK (length(user_key) = 32),
    since_ms    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO home_users (user_key, since_ms)
    SELECT user_key, 0 FROM sessions UNION SELECT user_key, 0 FROM key_packages;

-- Conversations of these users that have their home at another relay.
CREATE TABLE conversation_routes (
    user_key BLOB NOT NULL,
    conv_id  TEXT NOT NULL,
    home     TEXT NOT NULL,
    PRIMARY KEY (user_key, conv_id)
) STRICT, WITHOUT ROWID;

-- What the homes of other users have to be told, until they have taken it.
CREATE TABLE home_mail (
    user_key BLOB NOT NULL,
    n        INTEGER NOT NULL,
    -- JSON.
    body     BLOB NOT NULL,
    at_ms    INTEGER NOT NULL,
    PRIMARY KEY (user_key, n)
) STRICT, WITHOUT ROWID;
CREATE INDEX home_mail_by_number ON home_mail (n);

-- The last number of each user's mail. Numbers are microseconds at least, so that they rise also after a restore.
CREATE TABLE home_mail_heads (
    user_key BLOB NOT NULL PRIMARY KEY,
    n        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How far the mail of another relay for a user was taken.
CREATE TABLE home_mail_taken (
    source   TEXT NOT NULL,
    user_key BLOB NOT NULL,
    n        INTEGER NOT NULL,
    PRIMARY KEY (source, user_key)
) STRICT, WITHOUT ROWID;

-- Packages of the profile are for contacts.
ALTER TABLE key_packages ADD COLUMN for_contacts INTEGER NOT NULL DEFAULT 0;

-- Where a device hears that something is there, while it is not connected.
CREATE TABLE push_subscriptions (
    user_key      BLOB NOT NULL,
    device_id     TEXT NOT NULL,
    endpoint      TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (user_key, device_id)
) STRICT, WITHOUT ROWID;
