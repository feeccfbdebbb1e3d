package store

import (
	"database/sql"
	"errors"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// validated adds to a guarantee with a policy where it stands with its validator. Its row names the cycle that nets it.
func (t *tx) validated(g clearing.Guarantee) (clearing.Guarantee, error) {
	if g.Signed.Claims.Policy == nil {
		return g, nil
	}
	v := &clearing.Validation{Cycle: g.Cycle.Start}
	found, err := t.one("SELECT certified_start, answered_at, cancelled, block, asked, ask_at FROM validation WHERE payer = ? AND digest = ?",
		[]any{g.Signed.Claims.Payer[:], g.Digest[:]}, &g.Cycle.Start, &v.Answered, flag{&v.Cancelled}, &v.Block, &v.Asked, &v.AskAt)
	if err == nil && !found {
		err = errMissing
	}
	if err != nil {
		return g, corrupt("validation", g.Digest, err)
	}
	g.Validation = v
	return g, checkGuarantee(g)
}

// addValidation writes what an added guarantee has more than others. They have no column for its policy, which is put into
// its row afterwards.
func (t *tx) addValidation(g clearing.Guarantee) error {
	if err := t.insertGuarantees(); err != nil {
		return err
	}
	if err := t.change("guarantee", g.Digest, "UPDATE guarantee SET policy = ? WHERE digest = ?", g.Signed.Claims.Policy.Bytes(), g.Digest[:]); err != nil {
		return err
	}
	return t.putValidation(g)
}

func (t *tx) putValidation(g clearing.Guarantee) error {
	v := g.Validation
	return t.put("validation", g.Digest, `INSERT INTO validation (payer, digest, asset, certified_start, answered_at, cancelled, block, asked, ask_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (payer, digest) DO UPDATE SET answered_at = excluded.answered_at,
		cancelled = excluded.cancelled, block = excluded.block, asked = excluded.asked, ask_at = excluded.ask_at`,
		g.Signed.Claims.Payer[:], g.Digest[:], g.Cycle.Asset[:], g.Cycle.Start, v.Answered, bit(v.Cancelled), v.Block, v.Asked, v.AskAt)
}

// PutValidation implements [clearing.Tx].
func (t *tx) PutValidation(digest evm.Hash, payable money.Amount, v clearing.Validation) error {
	g, found, err := t.GuaranteeByDigest(digest)
	if err != nil {
		return err
	}
	if !found || g.Validation == nil {
		return corrupt("guarantee", digest, errors.New("it is not there, or depends on nobody"))
	}
	before, payer := g, g.Signed.Claims.Payer
	g.Payable, g.Validation = payable, &v
	if err := checkGuarantee(g); err != nil {
		return corrupt("guarantee", digest, err)
	}
	if g.Netting() != before.Netting() || g.Payable != before.Payable {
		if err := t.change("guarantee", digest, "UPDATE guarantee SET cycle_start = ?, payable = ? WHERE digest = ?", v.Cycle, payable, digest[:]); err != nil {
			return err
		}
		if err := t.addSum(before.Netting(), payer, before.Payable, money.Amount{}); err != nil {
			return err
		}
		if err := t.addSum(g.Netting(), payer, money.Amount{}, payable); err != nil {
			return err
		}
	}
	return t.putValidation(g)
}

// Unanswered implements [clearing.Tx].
func (t *tx) Unanswered(due uint64, limit int) ([]evm.Hash, error) {
	return t.validations("SELECT digest FROM validation WHERE ask_at > 0 AND ask_at <= ? ORDER BY ask_at, digest LIMIT ?", due, limit)
}

// Unasked implements [clearing.Tx].
func (t *tx) Unasked(asset evm.Address, start, at uint64) (bool, error) {
	some, err := t.validations("SELECT digest FROM validation WHERE ask_at > 0 AND asset = ? AND asked < ? AND certified_start <= ? LIMIT 1", asset[:], at, start)
	return len(some) > 0, err
}

// Decided implements [clearing.Tx].
func (t *tx) Decided(above uint64) ([]evm.Hash, error) {
	return t.validations("SELECT digest FROM validation WHERE block > 0 AND block > ?", above)
}

func (t *tx) validations(query string, args ...any) (digests []evm.Hash, err error) {
	err = t.each(query, args, func(rows *sql.Rows) error {
		var digest evm.Hash
		if err := rows.Scan(fixed(digest[:])); err != nil {
			return corrupt("validation", digest, err)
		}
		digests = append(digests, digest)
		return nil
	})
	return digests, err
}
