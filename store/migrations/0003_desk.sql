-- The gas desk of a facilitator, and an outbox that keeps the calls of several chains.

ALTER TABLE call ADD COLUMN chain_id INTEGER NOT NULL DEFAULT 0; -- 0: the one chain of a clearing house, or of a wallet
DROP INDEX call_nonce;
DROP INDEX call_queued;
DROP INDEX call_finished;
CREATE UNIQUE INDEX call_nonce ON call (chain_id, from_address, nonce) WHERE state = 'sent';
CREATE INDEX call_queued ON call (chain_id, from_address, seq) WHERE state = 'queued';
CREATE INDEX call_finished ON call (chain_id, from_address, receipt_block) WHERE state IN ('done', 'reverted');

CREATE TABLE settlement (
    seq INTEGER PRIMARY KEY, -- order in which they were asked for
    id BLOB NOT NULL UNIQUE,
    chain_id INTEGER NOT NULL,
    scheme TEXT NOT NULL,
    asset BLOB NOT NULL,
    payer BLOB NOT NULL,
    payee BLOB NOT NULL,
    amount AMOUNT NOT NULL,
    nonce BLOB NOT NULL,
    valid_after TEXT NOT NULL, -- seconds; the payer's, so up to 2^64 − 1
    valid_before TEXT NOT NULL,
    steps TEXT NOT NULL, -- JSON
    to_address BLOB NOT NULL,
    data BLOB NOT NULL,
    gas_max INTEGER NOT NULL,
    mark TEXT NOT NULL,
    shared INTEGER NOT NULL,
    lane BLOB NOT NULL, -- zero: any
    state TEXT NOT NULL,
    asked_at INTEGER NOT NULL, -- nanoseconds
    due INTEGER NOT NULL,
    since_block INTEGER NOT NULL,
    alone INTEGER NOT NULL,
    stage INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    call TEXT NOT NULL,
    from_address BLOB NOT NULL,
    tx BLOB, -- tx, block and block_hash: all or none
    block INTEGER,
    block_hash BLOB,
    is_foreign INTEGER NOT NULL,
    gas INTEGER NOT NULL,
    gas_before INTEGER NOT NULL,
    cost AMOUNT NOT NULL, -- wei
    cost_before AMOUNT NOT NULL,
    code TEXT NOT NULL,
    reason TEXT NOT NULL,
    done_at INTEGER -- nanoseconds; null while open
) STRICT;
CREATE INDEX settlement_open ON settlement (chain_id, seq) WHERE state IN ('queued', 'sent');
CREATE INDEX settlement_mined ON settlement (chain_id, block) WHERE block IS NOT NULL;
CREATE INDEX settlement_call ON settlement (call) WHERE call <> '';

CREATE TABLE gas_spent (
    chain_id INTEGER NOT NULL,
    day TEXT NOT NULL, -- UTC
    account BLOB NOT NULL,
    is_lane INTEGER NOT NULL, -- 0: a payer
    gas INTEGER NOT NULL,
    wei AMOUNT NOT NULL,
    PRIMARY KEY (chain_id, day, account, is_lane)
) STRICT, WITHOUT ROWID;

-- What a facilitator has seen sold.
CREATE TABLE resource (
    seq INTEGER PRIMARY KEY, -- order in which they were first seen
    name TEXT NOT NULL UNIQUE, -- what a later payment for the same renews
    item TEXT NOT NULL, -- JSON, as it is answered
    updated_at INTEGER NOT NULL -- milliseconds
) STRICT;
