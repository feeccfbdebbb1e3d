-- One list of steps for every database. BLOB, INTEGER, TEXT are as SQLite has them, and AMOUNT is an integer of up to 256 bits:
-- decimal text there, NUMERIC(78,0) in PostgreSQL. A line that ends in "-- only sqlite" or "-- only postgres" is so; the
-- package has the rest of the differences in one place (dialect.go).
--
-- Addresses and hashes are BLOB, times unix INTEGER (unit in the name or beside it).
-- Tables whose rows are small and found by key alone have no rowid; guarantees are appended and found by index.

-- Clearing house. Keys of what grows with payments begin with the payer.

CREATE TABLE account (
    owner BLOB NOT NULL,
    asset BLOB NOT NULL,
    debits_pending AMOUNT NOT NULL,
    debits_posted AMOUNT NOT NULL,
    credits_pending AMOUNT NOT NULL,
    credits_posted AMOUNT NOT NULL,
    withdraw_head AMOUNT NOT NULL,
    withdraw_confirmed AMOUNT NOT NULL,
    limit_head AMOUNT NOT NULL,
    limit_confirmed AMOUNT NOT NULL,
    limited_head INTEGER NOT NULL,
    limited_confirmed INTEGER NOT NULL,
    auto_settle INTEGER NOT NULL,
    PRIMARY KEY (owner, asset)
) STRICT, WITHOUT ROWID;
CREATE INDEX account_asset ON account (asset, owner);

-- Accounts that are no owner's collateral. cycle is zero but for pots.
CREATE TABLE balance (
    asset BLOB NOT NULL,
    kind TEXT NOT NULL,
    cycle BLOB NOT NULL,
    debits_pending AMOUNT NOT NULL,
    debits_posted AMOUNT NOT NULL,
    credits_pending AMOUNT NOT NULL,
    credits_posted AMOUNT NOT NULL,
    PRIMARY KEY (asset, kind, cycle)
) STRICT, WITHOUT ROWID;

CREATE TABLE transfer (
    id TEXT NOT NULL PRIMARY KEY,
    asset BLOB NOT NULL,
    debit_kind TEXT NOT NULL,
    debit_owner BLOB NOT NULL,
    debit_cycle BLOB NOT NULL,
    credit_kind TEXT NOT NULL,
    credit_owner BLOB NOT NULL,
    credit_cycle BLOB NOT NULL,
    amount AMOUNT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE guarantee (
    seq INTEGER PRIMARY KEY, -- order of admission
    payer BLOB NOT NULL,
    asset BLOB NOT NULL,
    payee BLOB NOT NULL,
    req_id BLOB NOT NULL,
    amount AMOUNT NOT NULL,
    timestamp INTEGER NOT NULL, -- seconds, the payer's clock
    form TEXT NOT NULL,
    signature BLOB NOT NULL,
    digest BLOB NOT NULL,
    cycle_start INTEGER NOT NULL,
    payable AMOUNT NOT NULL,
    note_reason BLOB, -- of the lowest note; its amount is payable and its digest is digest
    note_signature BLOB,
    admitted_at INTEGER NOT NULL -- milliseconds, the house's clock
) STRICT;
CREATE UNIQUE INDEX guarantee_key ON guarantee (payer, asset, payee, req_id);
CREATE UNIQUE INDEX guarantee_digest ON guarantee (digest);
CREATE INDEX guarantee_cycle ON guarantee (asset, cycle_start, seq);
CREATE INDEX guarantee_payer ON guarantee (asset, cycle_start, payer, seq);
CREATE INDEX guarantee_payee ON guarantee (asset, cycle_start, payee, seq);

-- What a payer's guarantees of a cycle come to: the sum of payable, kept so that a limit is checked without adding up.
CREATE TABLE payer_cycle (
    payer BLOB NOT NULL,
    asset BLOB NOT NULL,
    cycle_start INTEGER NOT NULL,
    payable AMOUNT NOT NULL,
    PRIMARY KEY (payer, asset, cycle_start)
) STRICT, WITHOUT ROWID;

CREATE TABLE schedule (
    asset BLOB NOT NULL,
    from_start INTEGER NOT NULL,
    length INTEGER NOT NULL,
    cutoff INTEGER NOT NULL,
    post INTEGER NOT NULL,
    challenge INTEGER NOT NULL,
    repost INTEGER NOT NULL,
    redeem INTEGER NOT NULL,
    PRIMARY KEY (asset, from_start)
) STRICT, WITHOUT ROWID;

CREATE TABLE cycle (
    asset BLOB NOT NULL,
    start INTEGER NOT NULL,
    id BLOB NOT NULL, -- hash of asset and start
    status TEXT NOT NULL,
    end_at INTEGER NOT NULL,
    cutoff_at INTEGER NOT NULL,
    post_deadline INTEGER NOT NULL,
    challenge INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    guarantees INTEGER NOT NULL,
    gross AMOUNT NOT NULL,
    total AMOUNT NOT NULL,
    participants INTEGER NOT NULL,
    debtors INTEGER NOT NULL,
    root BLOB NOT NULL,
    statements BLOB NOT NULL,
    height INTEGER NOT NULL,
    posted INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    retry_at INTEGER NOT NULL,
    sealed_at INTEGER NOT NULL,
    final_at INTEGER NOT NULL,
    finalized INTEGER NOT NULL,
    trouble TEXT NOT NULL,
    PRIMARY KEY (asset, start)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX cycle_id ON cycle (id);
CREATE INDEX cycle_open ON cycle (asset, start) WHERE status <> 'closed';

CREATE TABLE position (
    asset BLOB NOT NULL,
    cycle_start INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    participant BLOB NOT NULL,
    place INTEGER NOT NULL,
    role INTEGER NOT NULL,
    amount AMOUNT NOT NULL,
    gross_out AMOUNT NOT NULL,
    gross_in AMOUNT NOT NULL,
    statement BLOB NOT NULL,
    filled AMOUNT NOT NULL,
    paid INTEGER NOT NULL,
    claimed INTEGER NOT NULL,
    defaulted INTEGER NOT NULL,
    PRIMARY KEY (asset, cycle_start, generation, participant)
) STRICT, WITHOUT ROWID;

CREATE INDEX position_unsettled ON position (participant, asset, cycle_start)
    WHERE (role = 0 AND paid = 0 AND defaulted = 0) OR (role = 1 AND claimed = 0);

CREATE TABLE block (
    stream TEXT NOT NULL,
    number INTEGER NOT NULL,
    hash BLOB NOT NULL,
    time INTEGER NOT NULL,
    PRIMARY KEY (stream, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
    stream TEXT NOT NULL,
    number INTEGER NOT NULL,
    place INTEGER NOT NULL, -- order in which they were applied
    kind TEXT NOT NULL,
    tx_hash BLOB NOT NULL,
    log_index INTEGER NOT NULL,
    account BLOB NOT NULL,
    asset BLOB NOT NULL,
    amount AMOUNT NOT NULL,
    cycle BLOB NOT NULL,
    root BLOB NOT NULL,
    generation INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    time INTEGER NOT NULL,
    is_on INTEGER NOT NULL,
    schedule TEXT, -- JSON
    ignored TEXT NOT NULL,
    undo BLOB,
    PRIMARY KEY (stream, number, place),
    FOREIGN KEY (stream, number) REFERENCES block (stream, number)
) STRICT, WITHOUT ROWID;

-- Outbox of transactions.

CREATE TABLE call (
    seq INTEGER PRIMARY KEY, -- order in which they were asked for
    id TEXT NOT NULL UNIQUE,
    from_address BLOB NOT NULL,
    to_address BLOB NOT NULL,
    value BLOB NOT NULL, -- wei, 32 bytes
    data BLOB NOT NULL,
    gas_limit INTEGER NOT NULL,
    state TEXT NOT NULL,
    nonce INTEGER, -- of the newest attempt
    receipt_tx BLOB,
    receipt_block INTEGER,
    receipt_block_hash BLOB,
    receipt_gas INTEGER,
    receipt_fee INTEGER,
    receipt_ok INTEGER,
    err TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX call_nonce ON call (from_address, nonce) WHERE state = 'sent';
CREATE INDEX call_queued ON call (from_address, seq) WHERE state = 'queued';
CREATE INDEX call_finished ON call (from_address, receipt_block) WHERE state IN ('done', 'reverted');

CREATE TABLE attempt (
    call_id TEXT NOT NULL REFERENCES call (id),
    place INTEGER NOT NULL, -- oldest first
    hash BLOB NOT NULL,
    raw BLOB NOT NULL,
    nonce INTEGER NOT NULL,
    tip_wei INTEGER NOT NULL,
    fee_wei INTEGER NOT NULL,
    gas INTEGER NOT NULL,
    sent_at INTEGER NOT NULL, -- milliseconds
    PRIMARY KEY (call_id, place)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX attempt_hash ON attempt (call_id, hash);

-- Purchases of a gate.

CREATE TABLE purchase (
    seq INTEGER PRIMARY KEY, -- order of reservation
    payment BLOB NOT NULL UNIQUE,
    id TEXT NOT NULL UNIQUE,
    request BLOB NOT NULL,
    state TEXT NOT NULL,
    route TEXT NOT NULL,
    method TEXT NOT NULL,
    url TEXT NOT NULL,
    way TEXT NOT NULL,
    network TEXT NOT NULL,
    asset BLOB NOT NULL,
    payer BLOB NOT NULL,
    payee BLOB NOT NULL,
    cap AMOUNT NOT NULL,
    charged AMOUNT NOT NULL,
    units INTEGER NOT NULL,
    unit TEXT NOT NULL,
    cost AMOUNT NOT NULL,
    downstream AMOUNT NOT NULL,
    outcome TEXT NOT NULL,
    certificate BLOB,
    proof BLOB,
    proof_done INTEGER NOT NULL,
    reserved_at INTEGER, -- nanoseconds; null is never
    run_at INTEGER,
    done_at INTEGER
) STRICT;
CREATE INDEX purchase_unfinished ON purchase (reserved_at, seq) WHERE state IN ('reserved', 'running', 'pending');
CREATE INDEX purchase_undelivered ON purchase (done_at, seq) WHERE proof IS NOT NULL AND proof_done = 0;

-- Stored answers, apart because they are large and are let go after a while.
CREATE TABLE answer (
    id TEXT NOT NULL PRIMARY KEY REFERENCES purchase (id),
    status INTEGER NOT NULL,
    header TEXT NOT NULL, -- JSON
    body BLOB,
    whole INTEGER NOT NULL,
    done_at INTEGER NOT NULL -- nanoseconds, as the purchase has it
) STRICT;
CREATE INDEX answer_kept ON answer (done_at) WHERE body IS NOT NULL;

CREATE TABLE secret (
    name TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
