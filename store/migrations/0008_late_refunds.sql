-- Refunds that claims back instead of collateral. All three are null where there is nothing of it, which is almost always.

ALTER TABLE guarantee ADD COLUMN backed AMOUNT; -- of a refund: the part that claims of its payer back
ALTER TABLE guarantee ADD COLUMN pledged AMOUNT; -- the part that backs refunds of its payee
ALTER TABLE position ADD COLUMN backed AMOUNT;

CREATE INDEX guarantee_refund ON guarantee (asset, cycle_start, seq) WHERE backed IS NOT NULL OR pledged IS NOT NULL;
