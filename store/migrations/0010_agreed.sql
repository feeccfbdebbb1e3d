-- What every process on this database has in common: which deployment it serves.

CREATE TABLE agreed (fact TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
