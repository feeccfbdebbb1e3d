-- Who may do what only one may. In SQLite a lock on a file beside the database says so.

CREATE TABLE lease (name TEXT NOT NULL PRIMARY KEY, holder TEXT NOT NULL, until INTEGER NOT NULL); -- only postgres

-- A row that is there can be relied on; one that is not, nobody can lock.
INSERT INTO wallet_stamp (id, stamp) VALUES (0, 0) ON CONFLICT DO NOTHING;
