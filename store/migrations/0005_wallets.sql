-- What the operator says of addresses, and their logins.

CREATE TABLE wallet (
    address BLOB NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    contact TEXT NOT NULL,
    role TEXT NOT NULL,
    scopes TEXT NOT NULL, -- separated by spaces
    status TEXT NOT NULL,
    member INTEGER NOT NULL,
    cycle_limit AMOUNT, -- null: none
    updated_at INTEGER NOT NULL -- milliseconds
) STRICT, WITHOUT ROWID;

-- One row. It changes with every wallet, so that admission sees by it alone whether one has changed.
CREATE TABLE wallet_stamp (
    id INTEGER NOT NULL PRIMARY KEY,
    stamp INTEGER NOT NULL
) STRICT;

CREATE TABLE login_nonce (
    nonce BLOB NOT NULL PRIMARY KEY, -- hash of it, once used
    until INTEGER NOT NULL -- milliseconds
) STRICT, WITHOUT ROWID;
CREATE INDEX login_nonce_until ON login_nonce (until);

CREATE TABLE login_token (
    hash BLOB NOT NULL PRIMARY KEY,
    family BLOB NOT NULL,
    address BLOB NOT NULL,
    expires_at INTEGER NOT NULL, -- milliseconds
    revoked INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX login_token_family ON login_token (family);
CREATE INDEX login_token_expires ON login_token (expires_at);

CREATE TABLE api_key (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    scopes TEXT NOT NULL, -- separated by spaces
    created_at INTEGER NOT NULL, -- milliseconds
    revoked_at INTEGER -- milliseconds; null: it is good
) STRICT, WITHOUT ROWID;
