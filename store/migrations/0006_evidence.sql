-- What netting reads of a guarantee. Null in rows of versions that did not know it.

ALTER TABLE guarantee ADD COLUMN evidence BLOB;
CREATE INDEX payer_cycle_cycle ON payer_cycle (asset, cycle_start, payer);
