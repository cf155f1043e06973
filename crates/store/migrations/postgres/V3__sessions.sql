-- Who may come in: sessions, the tokens that start them, operators' tokens, the audit log.
-- Texts are kept without U+0000, which text cannot hold.
-- Tokens are kept only as SHA-256 of their text. Times are unix milliseconds.

-- One row is one session of a user's device. Written at start and resume, deleted when it ends or expires.
CREATE TABLE sessions (
    id                bytea NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    user_key          bytea NOT NULL CHECK (length(user_key) = 32),
    device_id         text NOT NULL,
    client_label      text NOT NULL,
    token             bytea NOT NULL UNIQUE CHECK (length(token) = 32),
    -- The token before the last resume, good for requests in flight until `previous_until_ms`.
    previous_token    bytea CHECK (length(previous_token) = 32),
    previous_until_ms bigint NOT NULL,
    resume_token      bytea NOT NULL UNIQUE CHECK (length(resume_token) = 32),
    -- Counts resumes, so that a reader knows the newer of two copies.
    generation        bigint NOT NULL,
    created_at_ms     bigint NOT NULL,
    expires_at_ms     bigint NOT NULL,
    last_seen_at_ms   bigint NOT NULL
);
CREATE INDEX sessions_by_user ON sessions (user_key, device_id);
CREATE INDEX sessions_by_previous ON sessions (previous_token) WHERE previous_token IS NOT NULL;
CREATE INDEX sessions_by_expiry ON sessions (expires_at_ms);

-- `at_` tokens. Written by verify, deleted when they expire or are revoked with all of their user's.
CREATE TABLE auth_tokens (
    token           bytea NOT NULL PRIMARY KEY CHECK (length(token) = 32),
    user_key        bytea NOT NULL,
    device_id       text NOT NULL,
    credential_hash bytea CHECK (length(credential_hash) = 32),
    created_at_ms   bigint NOT NULL,
    expires_at_ms   bigint NOT NULL
);
CREATE INDEX auth_tokens_by_user ON auth_tokens (user_key);
CREATE INDEX auth_tokens_by_expiry ON auth_tokens (expires_at_ms);

-- The first credential of each device, replaced only after a fresh proof. Never deleted.
CREATE TABLE devices (
    user_key        bytea NOT NULL,
    device_id       text NOT NULL,
    credential_hash bytea NOT NULL CHECK (length(credential_hash) = 32),
    PRIMARY KEY (user_key, device_id)
);

-- Proofs made up to this time start no session any more. Written by logout of everything.
CREATE TABLE token_floors (
    user_key      bytea NOT NULL PRIMARY KEY,
    not_before_ms bigint NOT NULL
);

-- Signed tokens revoked one by one, kept until they would have expired.
CREATE TABLE revoked_tokens (
    user_key      bytea NOT NULL,
    jti           text NOT NULL,
    expires_at_ms bigint NOT NULL,
    PRIMARY KEY (user_key, jti)
);
CREATE INDEX revoked_tokens_by_expiry ON revoked_tokens (expires_at_ms);

-- Tokens that an operator hands out.
CREATE TABLE access_tokens (
    id              text NOT NULL PRIMARY KEY,
    token           bytea NOT NULL UNIQUE CHECK (length(token) = 32),
    purpose         text NOT NULL CHECK (purpose IN ('user', 'admin', 'metrics', 'spoke')),
    -- What the token is good for within its purpose (names a spoke may take), NULL for everything.
    pattern         text,
    -- NULL: any number of times.
    uses_left       bigint CHECK (uses_left >= 0),
    created_by      text NOT NULL,
    created_at_ms   bigint NOT NULL,
    expires_at_ms   bigint,
    last_used_at_ms bigint
);

-- Refusals and administrative acts, oldest first. `times` counts equal ones joined in one row.
CREATE TABLE audit (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms   bigint NOT NULL,
    actor   text NOT NULL,
    action  text NOT NULL,
    subject text NOT NULL,
    outcome text NOT NULL,
    times   bigint NOT NULL,
    detail  text
);
CREATE INDEX audit_by_time ON audit (at_ms);

-- Events of a tenant on the last day that it wrote; bytes are counted with the namespaces.
CREATE TABLE tenant_usage (
    tenant text NOT NULL PRIMARY KEY,
    day    bigint NOT NULL,
    events bigint NOT NULL
);
