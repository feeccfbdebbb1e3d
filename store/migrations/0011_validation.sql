-- Guarantees that depend on a validator. cycle_start of one that no cycle nets is 0, and so is that of its payer's sum.

ALTER TABLE guarantee ADD COLUMN policy BLOB; -- null for those that depend on nobody, which is almost all

CREATE TABLE validation (
    payer BLOB NOT NULL,
    digest BLOB NOT NULL,
    asset BLOB NOT NULL,
    certified_start INTEGER NOT NULL, -- of the cycle that the certificate names
    answered_at INTEGER NOT NULL, -- seconds, the chain's clock; 0: not
    cancelled INTEGER NOT NULL,
    block INTEGER NOT NULL, -- that decided it; 0: none has
    asked INTEGER NOT NULL, -- seconds, time of the last block in which the registry was asked
    ask_at INTEGER NOT NULL, -- seconds, the house's clock; 0: not any more
    PRIMARY KEY (payer, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX validation_due ON validation (ask_at, digest) WHERE ask_at > 0;
CREATE INDEX validation_asked ON validation (asset, asked) WHERE ask_at > 0;
CREATE INDEX validation_block ON validation (block) WHERE block > 0;
