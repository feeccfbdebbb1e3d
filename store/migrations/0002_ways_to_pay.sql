-- Purchases that are settled on a chain, drawn from a bundle, worked on after the answer, given back.

ALTER TABLE purchase ADD COLUMN price TEXT NOT NULL DEFAULT '';
ALTER TABLE purchase ADD COLUMN owed AMOUNT NOT NULL DEFAULT '0';
ALTER TABLE purchase ADD COLUMN credit AMOUNT NOT NULL DEFAULT '0';
ALTER TABLE purchase ADD COLUMN settling INTEGER NOT NULL DEFAULT 0;
ALTER TABLE purchase ADD COLUMN tx BLOB; -- hash; null is none
ALTER TABLE purchase ADD COLUMN bundle TEXT NOT NULL DEFAULT '';
ALTER TABLE purchase ADD COLUMN draws INTEGER NOT NULL DEFAULT 0;
ALTER TABLE purchase ADD COLUMN buys INTEGER NOT NULL DEFAULT 0;
ALTER TABLE purchase ADD COLUMN due_at INTEGER; -- nanoseconds; null is never

DROP INDEX purchase_unfinished;
CREATE INDEX purchase_unfinished ON purchase (reserved_at, seq) WHERE state IN ('reserved', 'running', 'working', 'pending');

CREATE INDEX purchase_bought ON purchase (payer, payee, route, done_at) WHERE state = 'committed';

-- Units bought ahead. They are found by who may draw from them.
CREATE TABLE bundle (
    seq INTEGER PRIMARY KEY, -- order of reservation
    id TEXT NOT NULL UNIQUE REFERENCES purchase (id),
    payer BLOB NOT NULL,
    payee BLOB NOT NULL,
    network TEXT NOT NULL,
    asset BLOB NOT NULL,
    route TEXT NOT NULL,
    unit TEXT NOT NULL,
    total INTEGER NOT NULL,
    remaining INTEGER NOT NULL,
    price AMOUNT NOT NULL,
    valid INTEGER NOT NULL, -- nanoseconds, from when it is paid
    valid_until INTEGER, -- nanoseconds; null until it is open
    state TEXT NOT NULL
) STRICT;
CREATE INDEX bundle_payer ON bundle (payer, payee, seq);
CREATE INDEX bundle_open ON bundle (payer, payee, network, asset, route, valid_until, seq) WHERE state = 'open' AND remaining > 0;
CREATE INDEX bundle_buying ON bundle (payer, payee, network, asset, route) WHERE state = 'buying';

CREATE TABLE refund (
    purchase TEXT NOT NULL PRIMARY KEY REFERENCES purchase (id),
    kind TEXT NOT NULL,
    amount AMOUNT NOT NULL,
    calls INTEGER NOT NULL,
    proof BLOB,
    state TEXT NOT NULL,
    tx BLOB, -- hash; null is none
    reason TEXT NOT NULL,
    begun_at INTEGER, -- nanoseconds; null is never
    done_at INTEGER
) STRICT;
CREATE INDEX refund_queued ON refund (begun_at, purchase) WHERE state = 'queued';

-- What payers have for their next purchases from a payee.
CREATE TABLE credit (
    payer BLOB NOT NULL,
    payee BLOB NOT NULL,
    network TEXT NOT NULL,
    asset BLOB NOT NULL,
    amount AMOUNT NOT NULL,
    PRIMARY KEY (payer, payee, network, asset)
) STRICT, WITHOUT ROWID;
