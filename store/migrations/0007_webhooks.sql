-- Webhooks of a clearing house.

CREATE TABLE webhook_endpoint (
    id TEXT NOT NULL PRIMARY KEY,
    owner BLOB NOT NULL, -- zero: the operator
    slot INTEGER NOT NULL, -- which of those that its owner may have
    url TEXT NOT NULL,
    types TEXT NOT NULL, -- JSON; empty: all
    description TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL,
    failing_since INTEGER, -- nanoseconds; null is never
    secret TEXT NOT NULL,
    before TEXT NOT NULL, -- the secret that this one replaces; empty: none
    before_until INTEGER, -- nanoseconds; null is never
    created_at INTEGER NOT NULL -- nanoseconds
) STRICT;
CREATE UNIQUE INDEX webhook_endpoint_slot ON webhook_endpoint (owner, slot);

-- What is told. block_hash is null for what no event of the chain is behind.
CREATE TABLE webhook_event (
    id TEXT NOT NULL PRIMARY KEY,
    type TEXT NOT NULL,
    body BLOB NOT NULL, -- JSON, as it is signed
    block_number INTEGER NOT NULL,
    block_hash BLOB,
    voided INTEGER NOT NULL, -- the chain took it back
    created_at INTEGER NOT NULL -- nanoseconds
) STRICT;
CREATE INDEX webhook_event_block ON webhook_event (block_number) WHERE block_hash IS NOT NULL AND voided = 0;
CREATE INDEX webhook_event_old ON webhook_event (created_at);

CREATE TABLE webhook_delivery (
    endpoint TEXT NOT NULL,
    event TEXT NOT NULL,
    state TEXT NOT NULL,
    tries INTEGER NOT NULL,
    since INTEGER NOT NULL, -- nanoseconds, from when it is given up after a while
    due_at INTEGER NOT NULL, -- nanoseconds: of the next attempt, or the end of the claim
    claim TEXT NOT NULL,
    created_at INTEGER NOT NULL, -- nanoseconds
    PRIMARY KEY (endpoint, event)
) STRICT, WITHOUT ROWID;
CREATE INDEX webhook_delivery_due ON webhook_delivery (endpoint, state, due_at) WHERE state IN ('pending', 'sending');
CREATE INDEX webhook_delivery_list ON webhook_delivery (endpoint, created_at, event);
CREATE INDEX webhook_delivery_event ON webhook_delivery (event);
CREATE INDEX webhook_delivery_old ON webhook_delivery (created_at);

CREATE TABLE webhook_attempt (
    endpoint TEXT NOT NULL,
    event TEXT NOT NULL,
    place INTEGER NOT NULL, -- oldest first
    at INTEGER NOT NULL, -- nanoseconds
    elapsed INTEGER NOT NULL, -- nanoseconds
    status INTEGER NOT NULL, -- HTTP; 0: no answer
    trouble TEXT NOT NULL,
    PRIMARY KEY (endpoint, event, place)
) STRICT, WITHOUT ROWID;

-- How far the confirmed stream of events has been made into messages. There is one row, or none before the first time.
CREATE TABLE webhook_cursor (
    name TEXT NOT NULL PRIMARY KEY,
    number INTEGER NOT NULL,
    hash BLOB NOT NULL,
    time INTEGER NOT NULL, -- seconds
    place INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Each owner's newest request, for what tells of its end.
CREATE TABLE webhook_withdrawal (
    owner BLOB NOT NULL,
    asset BLOB NOT NULL,
    id BLOB NOT NULL,
    amount AMOUNT NOT NULL,
    requested_at INTEGER NOT NULL, -- nanoseconds
    available_at INTEGER NOT NULL,
    PRIMARY KEY (owner, asset)
) STRICT, WITHOUT ROWID;
