-- Settlements that can be forgotten are found by when their authorization expired.

CREATE INDEX settlement_expired ON settlement (chain_id, (CAST(valid_before AS NUMERIC))) WHERE done_at IS NOT NULL;
