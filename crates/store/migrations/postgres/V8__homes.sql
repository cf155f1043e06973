-- Users whose home is this relay: their KeyPackages, inboxes, vault and contacts lie here.
CREATE TABLE home_users (
    user_key    bytea NOT NULL PRIMARY KEY CHECK (length(user_key) = 32),
    since_ms    bigint NOT NULL
);
INSERT INTO home_users (user_key, since_ms)
    SELECT user_key, 0 FROM sessions UNION SELECT user_key, 0 FROM key_packages;

-- Conversations of these users that have their home at another relay.
CREATE TABLE conversation_routes (
    user_key bytea NOT NULL,
    conv_id  text COLLATE "C" NOT NULL,
    home     text COLLATE "C" NOT NULL,
    PRIMARY KEY (user_key, conv_id)
);

-- What the homes of other users have to be told, until they have taken it.
CREATE TABLE home_mail (
    user_key bytea NOT NULL,
    n        bigint NOT NULL,
    -- JSON.
    body     bytea NOT NULL,
    at_ms    bigint NOT NULL,
    PRIMARY KEY (user_key, n)
);
CREATE INDEX home_mail_by_number ON home_mail (n);

-- The last number of each user's mail. Numbers are microseconds at least, so that they rise also after a restore.
CREATE TABLE home_mail_heads (
    user_key bytea NOT NULL PRIMARY KEY,
    n        bigint NOT NULL
);

-- How far the mail of another relay for a user was taken.
CREATE TABLE home_mail_taken (
    source   text COLLATE "C" NOT NULL,
    user_key bytea NOT NULL,
    n        bigint NOT NULL,
    PRIMARY KEY (source, user_key)
);

-- Packages of the profile are for contacts.
ALTER TABLE key_packages ADD COLUMN for_contacts bigint NOT NULL DEFAULT 0;

-- Where a device hears that something is there, while it is not connected.
CREATE TABLE push_subscriptions (
    user_key      bytea NOT NULL,
    device_id     text COLLATE "C" NOT NULL,
    endpoint      text COLLATE "C" NOT NULL,
    created_at_ms bigint NOT NULL,
    PRIMARY KEY (user_key, device_id)
);
