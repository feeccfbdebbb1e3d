-- PostgreSQL knows a guarantee by its key, which begins with the payer, and finds a digest, which begins with nobody, by an
-- index that need not be unique: the key already makes it so. Rows that every admission updates have room beside them for
-- their next version.

DROP INDEX guarantee_key; -- only postgres
DROP INDEX guarantee_digest; -- only postgres
ALTER TABLE guarantee DROP CONSTRAINT guarantee_pkey; -- only postgres
ALTER TABLE guarantee ADD PRIMARY KEY (payer, req_id, payee, asset); -- only postgres
CREATE INDEX guarantee_digest ON guarantee USING hash (digest); -- only postgres
ALTER TABLE account SET (fillfactor = 50); -- only postgres
ALTER TABLE payer_cycle SET (fillfactor = 50); -- only postgres
