-- Keys that owners have named to sign their notes.

CREATE TABLE signer (
    owner BLOB NOT NULL,
    key BLOB NOT NULL,
    until INTEGER NOT NULL, -- seconds, exclusive
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;
