package store

import (
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

const guaranteeColumns = `seq, payer, asset, payee, req_id, amount, timestamp, form, signature, digest, cycle_start, payable,
	note_reason, note_signature, admitted_at, evidence, backed, pledged, policy`

// guaranteeRow is a row as it is stored: the asset and the digest once, and of a note what the row does not say already.
type guaranteeRow struct {
	clearing.Guarantee
	seq                   int64
	noteReason, signature []byte // null without a note
	evidence              []byte // null in rows of older versions
	policy                []byte // null for those that depend on no validator
}

func (r *guaranteeRow) dest() []any {
	c := &r.Signed.Claims
	return []any{
		&r.seq, fixed(c.Payer[:]), fixed(c.Asset[:]), fixed(c.Payee[:]), fixed(c.ReqID[:]), &c.Amount, &c.Timestamp,
		&r.Signed.Form, fixed(r.Signed.Signature[:]), fixed(r.Digest[:]), &r.Cycle.Start, &r.Payable,
		&r.noteReason, &r.signature, &r.At, &r.evidence,
		amountOrNull{&r.Backed}, amountOrNull{&r.Pledged}, &r.policy,
	}
}

// guarantee puts the row together again, but for what [tx.validated] adds.
func (r *guaranteeRow) guarantee() (clearing.Guarantee, error) {
	g := r.Guarantee
	g.Cycle.Asset = g.Signed.Claims.Asset
	if r.noteReason != nil || r.signature != nil {
		note := &guarantee.SignedNote{Note: guarantee.Note{Digest: g.Digest, Amount: g.Payable}}
		if err := errors.Join(fixed(note.Reason[:]).Scan(r.noteReason), fixed(note.Signature[:]).Scan(r.signature)); err != nil {
			return clearing.Guarantee{}, fmt.Errorf("note: %w", err)
		}
		g.Note = note
	}
	if r.evidence != nil {
		if err := fixed(g.Evidence[:]).Scan(r.evidence); err != nil {
			return clearing.Guarantee{}, fmt.Errorf("evidence: %w", err)
		}
	}
	if r.policy == nil {
		return g, checkGuarantee(g)
	}
	policy, err := guarantee.ParsePolicy(r.policy)
	g.Signed.Claims.Policy = policy
	return g, err
}

// checkGuarantee compares what must agree.
func checkGuarantee(g clearing.Guarantee) error {
	switch {
	case g.Cycle.Asset != g.Signed.Claims.Asset:
		return errors.New("cycle and claims differ in asset")
	case (g.Validation == nil) != (g.Signed.Claims.Policy == nil):
		return errors.New("it has a policy and no validation, or the other way")
	case g.Validation != nil && g.Validation.Cancelled:
		if !g.Payable.IsZero() || g.Validation.Cycle != 0 {
			return errors.New("it is cancelled, and payable or in a cycle")
		}
	case g.Note == nil && g.Payable != g.Signed.Claims.Amount:
		return fmt.Errorf("%s of %s is payable, but no note lowered it", g.Payable, g.Signed.Claims.Amount)
	case g.Signed.Claims.Amount.Less(g.Payable):
		return fmt.Errorf("%s is payable, more than the %s that was signed", g.Payable, g.Signed.Claims.Amount)
	case g.Payable.Less(g.Pledged):
		return fmt.Errorf("%s of %s is pledged", g.Pledged, g.Payable)
	case g.Signed.Claims.Amount.Less(g.Backed):
		return fmt.Errorf("%s of %s is backed by claims", g.Backed, g.Signed.Claims.Amount)
	case g.Note != nil && (g.Note.Amount != g.Payable || g.Note.Digest != g.Digest):
		return errors.New("the note is of another guarantee or amount")
	}
	return nil
}

// GuaranteeByKey implements [clearing.Tx].
func (t *tx) GuaranteeByKey(k guarantee.Key) (clearing.Guarantee, bool, error) {
	known, err := t.GuaranteesByKey([]guarantee.Key{k})
	g, found := known[k]
	return g, found, err
}

// GuaranteesByKey implements [clearing.Tx].
func (t *tx) GuaranteesByKey(keys []guarantee.Key) (map[guarantee.Key]clearing.Guarantee, error) {
	if t.dialect.locks {
		return t.guaranteesByKeyAtOnce(keys)
	}
	if err := t.flush(); err != nil {
		return nil, err
	}
	known := make(map[guarantee.Key]clearing.Guarantee) // almost always empty
	for _, k := range keys {
		// Most keys that are asked for are new. The index alone says so; asking for a row's columns takes twice as long, even if
		// there is no row.
		var seq int64
		found, err := t.one("SELECT seq FROM guarantee WHERE payer = ? AND asset = ? AND payee = ? AND req_id = ?",
			[]any{k.Payer[:], k.Asset[:], k.Payee[:], k.ReqID[:]}, &seq)
		if err == nil && found {
			known[k], _, err = t.guarantee(k, "WHERE seq = ?", seq)
		}
		if err != nil {
			return nil, corrupt("guarantee", k, err)
		}
	}
	return known, nil
}

// GuaranteeByDigest implements [clearing.Tx].
func (t *tx) GuaranteeByDigest(digest evm.Hash) (clearing.Guarantee, bool, error) {
	if err := t.flush(); err != nil {
		return clearing.Guarantee{}, false, err
	}
	return t.guarantee(digest, "WHERE digest = ?", digest[:])
}

func (t *tx) guarantee(key any, where string, args ...any) (g clearing.Guarantee, found bool, err error) {
	var r guaranteeRow
	found, err = t.one("SELECT "+guaranteeColumns+" FROM guarantee "+where, args, r.dest()...)
	if err == nil && found {
		if g, err = r.guarantee(); err == nil {
			g, err = t.validated(g)
		}
	}
	if err != nil {
		return clearing.Guarantee{}, false, corrupt("guarantee", key, err)
	}
	return g, found, nil
}

// AddGuarantee implements [clearing.Tx]. The row is written with others, before anybody looks for it.
func (t *tx) AddGuarantee(g clearing.Guarantee) error {
	if err := checkGuarantee(g); err != nil {
		return fmt.Errorf("guarantee %s: %w", g.Digest, err)
	}
	t.added = append(t.added, g)
	if g.Validation != nil {
		if err := t.addValidation(g); err != nil {
			return err
		}
	}
	return t.addSum(g.Netting(), g.Signed.Claims.Payer, money.Amount{}, g.Payable)
}

const guaranteeInserted = `payer, asset, payee, req_id, amount, timestamp, form, signature, digest, cycle_start, payable,
	note_reason, note_signature, admitted_at, evidence, backed, pledged`

// insertGuarantees writes what was added.
func (t *tx) insertGuarantees() error {
	added := t.added
	t.added = t.added[:0]
	if len(added) == 0 {
		return nil
	}
	if t.dialect.locks {
		return t.insertGuaranteesAtOnce(added)
	}
	for _, g := range added {
		var reason, signature []byte
		if g.Note != nil {
			reason, signature = g.Note.Reason[:], g.Note.Signature[:]
		}
		c := g.Signed.Claims
		if err := t.put("guarantee", g.Digest, `INSERT INTO guarantee (`+guaranteeInserted+`)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			c.Payer[:], c.Asset[:], c.Payee[:], c.ReqID[:], c.Amount, c.Timestamp, string(g.Signed.Form), g.Signed.Signature[:],
			g.Digest[:], g.Netting().Start, g.Payable, reason, signature, g.At, evidence(g.Evidence),
			amountOrNull{&g.Backed}, amountOrNull{&g.Pledged}); err != nil {
			return err
		}
	}
	return nil
}

// evidence is how a guarantee's evidence is written.
func evidence(h evm.Hash) []byte {
	if h.IsZero() {
		return nil
	}
	return h[:]
}

// LowerGuarantee implements [clearing.Tx].
func (t *tx) LowerGuarantee(digest evm.Hash, payable money.Amount, note guarantee.SignedNote, proof evm.Hash) error {
	g, found, err := t.GuaranteeByDigest(digest)
	if err != nil {
		return err
	}
	before := g.Payable
	g.Payable, g.Note = payable, &note
	switch {
	case !found:
		err = errMissing
	case before.Less(payable):
		err = fmt.Errorf("%s is payable, a note for %s does not lower it", before, payable)
	default:
		err = checkGuarantee(g)
	}
	if err != nil {
		return fmt.Errorf("table guarantee, key %v: %w", digest, err)
	}
	if err := t.change("guarantee", digest, "UPDATE guarantee SET payable = ?, note_reason = ?, note_signature = ?, evidence = ? WHERE digest = ?",
		payable, note.Reason[:], note.Signature[:], evidence(proof), digest[:]); err != nil {
		return err
	}
	return t.addSum(g.Netting(), g.Signed.Claims.Payer, before, payable)
}

// PledgeGuarantee implements [clearing.Tx].
func (t *tx) PledgeGuarantee(digest evm.Hash, pledged money.Amount) error {
	g, found, err := t.GuaranteeByDigest(digest)
	if err != nil {
		return err
	}
	if g.Pledged = pledged; !found {
		err = errMissing
	} else {
		err = checkGuarantee(g)
	}
	if err != nil {
		return fmt.Errorf("table guarantee, key %v: %w", digest, err)
	}
	return t.change("guarantee", digest, "UPDATE guarantee SET pledged = ? WHERE digest = ?", amountOrNull{&pledged}, digest[:])
}

// Guarantees implements [clearing.Tx].
func (t *tx) Guarantees(c clearing.CycleRef) iter.Seq2[clearing.Guarantee, error] {
	const query = "SELECT " + guaranteeColumns + " FROM guarantee WHERE asset = ? AND cycle_start = ? AND seq > ? ORDER BY seq LIMIT ?"
	return t.guarantees(query, func(after int64) []any { return []any{c.Asset[:], c.Start, after, pageRows} })
}

// Refunds implements [clearing.Tx]. The condition is word for word that of the index guarantee_refund.
func (t *tx) Refunds(c clearing.CycleRef) iter.Seq2[clearing.Guarantee, error] {
	const query = "SELECT " + guaranteeColumns + " FROM guarantee WHERE asset = ? AND cycle_start = ? AND seq > ?" +
		" AND (backed IS NOT NULL OR pledged IS NOT NULL) ORDER BY seq LIMIT ?"
	return t.guarantees(query, func(after int64) []any { return []any{c.Asset[:], c.Start, after, pageRows} })
}

// GuaranteesOf implements [clearing.Tx]. They come in the order in which they were admitted.
func (t *tx) GuaranteesOf(c clearing.CycleRef, participant evm.Address) iter.Seq2[clearing.Guarantee, error] {
	// Two ordered walks along two indexes, merged; the second leaves out what the first has.
	const query = "SELECT " + guaranteeColumns + " FROM guarantee WHERE asset = ? AND cycle_start = ? AND payer = ? AND seq > ?" +
		" UNION ALL SELECT " + guaranteeColumns + " FROM guarantee WHERE asset = ? AND cycle_start = ? AND payee = ? AND seq > ? AND payer <> payee" +
		" ORDER BY seq LIMIT ?"
	return t.guarantees(query, func(after int64) []any {
		return []any{c.Asset[:], c.Start, participant[:], after, c.Asset[:], c.Start, participant[:], after, pageRows}
	})
}

// List implements [clearing.Tx]. A walk along the asset's cycles looks into an index of each, so that no index besides those
// that admission keeps is needed: it takes as long as there are cycles and rows to return.
func (t *tx) List(q clearing.Listing) (list []clearing.Listed, err error) {
	if err := t.flush(); err != nil {
		return nil, err
	}
	for _, nowhere := range []bool{false, true} {
		query, args := listQuery(q, q.Limit-len(list), nowhere)
		if query == "" || len(list) == q.Limit {
			continue
		}
		if err := t.each(query, args, func(rows *sql.Rows) error {
			g, seq, err := scanGuarantee(rows)
			list = append(list, clearing.Listed{Guarantee: g, Place: clearing.Place{Start: g.Cycle.Start, Seq: uint64(seq)}})
			return err
		}); err != nil {
			return nil, err
		}
	}
	for i := range list {
		if list[i].Guarantee, err = t.validated(list[i].Guarantee); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// listQuery makes the statement of the part of a list that cycles net, or of the rest, which stands behind it under start 0;
// empty if the list has no such part.
func listQuery(q clearing.Listing, limit int, nowhere bool) (query string, _ []any) {
	where, args := "", []any{q.Asset[:]}
	and := func(condition string, values ...any) { where += " AND " + condition; args = append(args, values...) }
	switch {
	case q.Payer != nil:
		and("g.payer = ?", q.Payer[:])
	case q.Payee != nil:
		and("g.payee = ?", q.Payee[:])
	}
	begun := q.Before != (clearing.Place{})
	if nowhere {
		if q.InCycle {
			return "", nil
		}
		if begun && q.Before.Start == 0 {
			and("g.seq < ?", q.Before.Seq)
		}
		return "SELECT " + listedColumns + " FROM guarantee g WHERE g.asset = ? AND g.cycle_start = 0" + where + " ORDER BY g.seq DESC LIMIT ?", append(args, limit)
	}
	if q.InCycle {
		and("c.start = ?", q.Start)
	}
	if begun && q.Before.Start == 0 {
		return "", nil
	}
	if begun {
		and("c.start <= ? AND (c.start < ? OR g.seq < ?)", q.Before.Start, q.Before.Start, q.Before.Seq)
	}
	return "SELECT " + listedColumns + " FROM cycle c CROSS JOIN guarantee g" +
		" WHERE c.asset = ? AND g.asset = c.asset AND g.cycle_start = c.start" + where + " ORDER BY c.start DESC, g.seq DESC LIMIT ?", append(args, limit)
}

// listedColumns are the guarantee's columns where another table stands beside it.
var listedColumns = "g." + strings.Join(strings.Fields(guaranteeColumns), " g.")

// scanGuarantee reads a row of guaranteeColumns, and its place.
func scanGuarantee(rows *sql.Rows) (g clearing.Guarantee, seq int64, err error) {
	var r guaranteeRow
	if err = rows.Scan(r.dest()...); err == nil {
		g, err = r.guarantee()
	}
	if err != nil {
		err = corrupt("guarantee", fmt.Sprintf("seq %d, digest %s", r.seq, r.Digest), err)
	}
	return g, r.seq, err
}

func (t *tx) guarantees(query string, args func(after int64) []any) iter.Seq2[clearing.Guarantee, error] {
	return func(yield func(clearing.Guarantee, error) bool) {
		pages(t, yield, int64(0), func(after int64, page []clearing.Guarantee) ([]clearing.Guarantee, int64, error) {
			err := t.flush()
			if err != nil {
				return page, after, err
			}
			err = t.each(query, args(after), func(rows *sql.Rows) error {
				g, seq, err := scanGuarantee(rows)
				page, after = append(page, g), seq
				return err
			})
			for i := range page {
				if err == nil {
					page[i], err = t.validated(page[i])
				}
			}
			return page, after, err
		})
	}
}

// linesPage is how many lines are read at once: they are small, and a million of them are read while a cycle closes.
const linesPage = 4096

// Lines implements [clearing.Tx].
func (t *tx) Lines(c clearing.CycleRef) iter.Seq2[[]clearing.Line, error] {
	if t.dialect.locks {
		return t.linesAtOnce(c)
	}
	return func(yield func([]clearing.Line, error) bool) {
		for after, more := int64(0), true; more; {
			page := make([]clearing.Line, 0, linesPage)
			err := t.stop()
			if err == nil {
				err = t.flush()
			}
			if err == nil {
				err = t.each(`SELECT seq, payer, payee, digest, evidence, payable FROM guarantee
					WHERE asset = ? AND cycle_start = ? AND seq > ? ORDER BY seq LIMIT ?`, []any{c.Asset[:], c.Start, after, linesPage},
					func(rows *sql.Rows) error {
						page = append(page, clearing.Line{})
						l := &page[len(page)-1]
						var proof, payable sql.RawBytes
						err := rows.Scan(&after, fixed(l.Payer[:]), fixed(l.Payee[:]), fixed(l.Digest[:]), &proof, &payable)
						if err == nil && proof != nil {
							err = fixed(l.Evidence[:]).Scan([]byte(proof))
						}
						if err == nil {
							l.Payable, err = money.ParseAmount(string(payable))
						}
						if err != nil {
							return corrupt("guarantee", fmt.Sprintf("seq %d", after), err)
						}
						return nil
					})
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if more = len(page) == linesPage; len(page) > 0 && !yield(page, nil) {
				return
			}
		}
	}
}

// PayableByEach implements [clearing.Tx].
func (t *tx) PayableByEach(c clearing.CycleRef) iter.Seq2[clearing.PayerSum, error] {
	if t.dialect.locks {
		return t.payableByEachAtOnce(c)
	}
	return func(yield func(clearing.PayerSum, error) bool) {
		pages(t, yield, evm.Address{}, func(after evm.Address, page []clearing.PayerSum) ([]clearing.PayerSum, evm.Address, error) {
			err := t.flush() // what this transaction has added up itself
			if err == nil {
				err = t.each("SELECT payer, payable FROM payer_cycle WHERE asset = ? AND cycle_start = ? AND payer > ? ORDER BY payer LIMIT ?",
					[]any{c.Asset[:], c.Start, after[:], pageRows}, func(rows *sql.Rows) error {
						var s clearing.PayerSum
						if err := rows.Scan(fixed(s.Payer[:]), &s.Payable); err != nil {
							return corrupt("payer_cycle", s.Payer.Lower()+" in "+c.String(), err)
						}
						page, after = append(page, s), s.Payer
						return nil
					})
			}
			return page, after, err
		})
	}
}

// payerCycle names a sum, and sum holds what a transaction adds to it and takes away: a group of guarantees of one payer
// writes it once.
type payerCycle struct {
	cycle clearing.CycleRef
	payer evm.Address
}

type sum struct{ plus, minus money.Amount }

// of returns what the sum has become of what the database has.
func (s *sum) of(before money.Amount) (after money.Amount, err error) {
	all, ok := before.Add(s.plus)
	if !ok {
		return after, errors.New("sum passes 256 bits")
	}
	if after, ok = all.Sub(s.minus); !ok {
		return after, errors.New("less than one of its guarantees")
	}
	return after, nil
}

// PayableBy implements [clearing.Tx].
func (t *tx) PayableBy(c clearing.CycleRef, payer evm.Address) (money.Amount, error) {
	k := payerCycle{c, payer}
	payable, err := t.storedSum(k)
	if s := t.sums[k]; err == nil && s != nil {
		payable, err = s.of(payable)
	}
	if err != nil {
		return money.Amount{}, corrupt("payer_cycle", payer.Lower()+" in "+c.String(), err)
	}
	return payable, nil
}

// addSum replaces one guarantee's part of its payer's sum.
func (t *tx) addSum(c clearing.CycleRef, payer evm.Address, before, after money.Amount) error {
	k := payerCycle{c, payer}
	s := t.sums[k]
	if s == nil {
		s = new(sum)
		if t.sums == nil {
			t.sums = make(map[payerCycle]*sum)
		}
		t.sums[k] = s
	}
	plus, ok1 := s.plus.Add(after)
	minus, ok2 := s.minus.Add(before)
	if !ok1 || !ok2 {
		return fmt.Errorf("guarantees of %s in %s: sum passes 256 bits", payer, c)
	}
	s.plus, s.minus = plus, minus
	return nil
}

// putSums writes the sums that have changed.
func (t *tx) putSums() error {
	sums := t.sums
	t.sums = nil
	if t.dialect.locks {
		return t.putSumsAtOnce(sums)
	}
	for k, s := range sums {
		before, err := t.storedSum(k)
		var after money.Amount
		if err == nil {
			after, err = s.of(before)
		}
		if err != nil {
			return corrupt("payer_cycle", k.payer.Lower()+" in "+k.cycle.String(), err)
		}
		if err := t.put("payer_cycle", k.payer, `INSERT INTO payer_cycle (payer, asset, cycle_start, payable) VALUES (?, ?, ?, ?)
			ON CONFLICT (payer, asset, cycle_start) DO UPDATE SET payable = excluded.payable`,
			k.payer[:], k.cycle.Asset[:], k.cycle.Start, after); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) storedSum(k payerCycle) (payable money.Amount, err error) {
	_, err = t.one("SELECT payable FROM payer_cycle WHERE payer = ? AND asset = ? AND cycle_start = ?",
		[]any{k.payer[:], k.cycle.Asset[:], k.cycle.Start}, &payable)
	return payable, err
}
