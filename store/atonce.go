package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/ledger"
	"github.com/farthing402/farthing/money"
)

// PostgreSQL takes and gives many rows with one statement, whose arguments are columns; a statement costs as much as
// several rows. Amounts go as text.

// pending is a statement that is sent with those that follow it, or with the commit.
type pending struct {
	table string
	key   any
	query string
	args  []any
}

// later is put, on PostgreSQL, for who need not know at once: its error is that of the next statement or of the commit.
func (t *tx) later(table string, key any, query string, args ...any) error {
	t.pending = append(t.pending, pending{table, key, query, args})
	return nil
}

// send sends what is pending, and a last statement unless it is empty, in one go.
func (s *session) send(last string) error {
	sent := s.pending
	s.pending = nil
	return s.conn.Raw(func(driver any) error {
		var batch pgx.Batch
		for _, p := range sent {
			batch.Queue(s.dialect.rebind(p.query), p.args...)
		}
		if last != "" {
			batch.Queue(last)
		}
		results := driver.(*stdlib.Conn).Conn().SendBatch(context.Background(), &batch)
		for _, p := range sent {
			if _, err := results.Exec(); err != nil {
				_ = results.Close() // which says the same
				return fmt.Errorf("table %s, key %v: %w", p.table, p.key, s.fail(err))
			}
		}
		return results.Close()
	})
}

// drain sends what is pending.
func (s *session) drain() error {
	if len(s.pending) == 0 {
		return nil
	}
	return s.send("")
}

// commit ends a transaction on PostgreSQL. If s.failed is nil, an error of it leaves open whether it has been committed.
func (s *session) commit() error {
	if len(s.pending) == 0 {
		return s.control("COMMIT")
	}
	return s.send("COMMIT")
}

// column makes an argument of what each row has.
func column[R, V any](rows []R, of func(*R) V) []V {
	values := make([]V, len(rows))
	for i := range rows {
		values[i] = of(&rows[i])
	}
	return values
}

// textOrNull is how an amount that is almost always nothing is written.
func textOrNull(a money.Amount) *string {
	if a.IsZero() {
		return nil
	}
	text := a.String()
	return &text
}

func (t *tx) insertGuaranteesAtOnce(rows []clearing.Guarantee) error {
	type row = clearing.Guarantee
	return t.later("guarantee", rows[0].Digest, `INSERT INTO guarantee (`+guaranteeInserted+`)
		SELECT payer, asset, payee, req_id, amount::numeric, timestamp, form, signature, digest, cycle_start, payable::numeric,
			note_reason, note_signature, admitted_at, evidence, backed::numeric, pledged::numeric
		FROM unnest(?::bytea[], ?::bytea[], ?::bytea[], ?::bytea[], ?::text[], ?::bigint[], ?::text[], ?::bytea[], ?::bytea[], ?::bigint[],
			?::text[], ?::bytea[], ?::bytea[], ?::bigint[], ?::bytea[], ?::text[], ?::text[]) AS new (`+guaranteeInserted+`)`,
		column(rows, func(g *row) []byte { return g.Signed.Claims.Payer[:] }),
		column(rows, func(g *row) []byte { return g.Signed.Claims.Asset[:] }),
		column(rows, func(g *row) []byte { return g.Signed.Claims.Payee[:] }),
		column(rows, func(g *row) []byte { return g.Signed.Claims.ReqID[:] }),
		column(rows, func(g *row) string { return g.Signed.Claims.Amount.String() }),
		column(rows, func(g *row) uint64 { return g.Signed.Claims.Timestamp }),
		column(rows, func(g *row) string { return string(g.Signed.Form) }),
		column(rows, func(g *row) []byte { return g.Signed.Signature[:] }),
		column(rows, func(g *row) []byte { return g.Digest[:] }),
		column(rows, func(g *row) uint64 { return g.Netting().Start }),
		column(rows, func(g *row) string { return g.Payable.String() }),
		column(rows, func(g *row) []byte {
			if g.Note == nil {
				return nil
			}
			return g.Note.Reason[:]
		}),
		column(rows, func(g *row) []byte {
			if g.Note == nil {
				return nil
			}
			return g.Note.Signature[:]
		}),
		column(rows, func(g *row) int64 { return g.At }),
		column(rows, func(g *row) []byte { return evidence(g.Evidence) }),
		column(rows, func(g *row) *string { return textOrNull(g.Backed) }),
		column(rows, func(g *row) *string { return textOrNull(g.Pledged) }))
}

func (t *tx) guaranteesByKeyAtOnce(keys []guarantee.Key) (known map[guarantee.Key]clearing.Guarantee, err error) {
	if err := t.flush(); err != nil {
		return nil, err
	}
	// Asset and payee are compared apart from any index but the key's: to a planner that knows nothing of a young table yet, one
	// that begins with them looks as good, and it would keep to it.
	err = t.each(`SELECT `+guaranteeColumns+` FROM unnest(?::bytea[], ?::bytea[], ?::bytea[], ?::bytea[]) AS k (k_payer, k_asset, k_payee, k_req_id)
		JOIN guarantee ON payer = k_payer AND req_id = k_req_id AND asset || ''::bytea = k_asset AND payee || ''::bytea = k_payee`,
		[]any{
			column(keys, func(k *guarantee.Key) []byte { return k.Payer[:] }),
			column(keys, func(k *guarantee.Key) []byte { return k.Asset[:] }),
			column(keys, func(k *guarantee.Key) []byte { return k.Payee[:] }),
			column(keys, func(k *guarantee.Key) []byte { return k.ReqID[:] }),
		}, func(rows *sql.Rows) error {
			g, _, err := scanGuarantee(rows)
			if err != nil {
				return err
			}
			if known == nil {
				known = make(map[guarantee.Key]clearing.Guarantee)
			}
			known[g.Signed.Claims.Key()] = g
			return nil
		})
	for k, g := range known {
		if err == nil {
			known[k], err = t.validated(g)
		}
	}
	return known, err
}

func (t *tx) accountsAtOnce(keys []clearing.AccountKey) ([]clearing.Account, error) {
	if err := t.flush(); err != nil {
		return nil, err
	}
	found := make(map[clearing.AccountKey]clearing.Account, len(keys))
	err := t.each(`SELECT owner, asset, `+accountColumns+` FROM unnest(?::bytea[], ?::bytea[]) AS k (k_owner, k_asset)
		JOIN account ON owner = k_owner AND asset = k_asset ORDER BY asset, owner`+t.heldOf("account"),
		[]any{
			column(keys, func(k *clearing.AccountKey) []byte { return k.Owner[:] }),
			column(keys, func(k *clearing.AccountKey) []byte { return k.Asset[:] }),
		}, func(rows *sql.Rows) error {
			var a clearing.Account
			if err := rows.Scan(append([]any{fixed(a.Owner[:]), fixed(a.Asset[:])}, accountDest(&a)...)...); err != nil {
				return corrupt("account", accountKey(a.Owner, a.Asset), err)
			}
			found[clearing.AccountKey{Owner: a.Owner, Asset: a.Asset}] = a
			return nil
		})
	if err != nil {
		return nil, err
	}
	all := make([]clearing.Account, len(keys))
	for i, k := range keys {
		a, ok := found[k]
		t.remember([2]evm.Address{k.Owner, k.Asset}, ok, nil)
		a.Owner, a.Asset = k.Owner, k.Asset
		all[i] = a
	}
	return all, nil
}

func (t *tx) putAccountsAtOnce(rows []clearing.Account) error {
	if len(rows) == 0 {
		return nil
	}
	type row = clearing.Account
	return t.later("account", accountKey(rows[0].Owner, rows[0].Asset), `INSERT INTO account (owner, asset, `+accountColumns+`)
		SELECT owner, asset, debits_pending::numeric, debits_posted::numeric, credits_pending::numeric, credits_posted::numeric,
			withdraw_head::numeric, withdraw_confirmed::numeric, limit_head::numeric, limit_confirmed::numeric,
			limited_head, limited_confirmed, auto_settle
		FROM unnest(?::bytea[], ?::bytea[], ?::text[], ?::text[], ?::text[], ?::text[], ?::text[], ?::text[], ?::text[], ?::text[],
			?::bigint[], ?::bigint[], ?::bigint[]) AS new (owner, asset, `+accountColumns+`)`+accountConflict,
		column(rows, func(a *row) []byte { return a.Owner[:] }),
		column(rows, func(a *row) []byte { return a.Asset[:] }),
		column(rows, func(a *row) string { return a.Balance.DebitsPending.String() }),
		column(rows, func(a *row) string { return a.Balance.DebitsPosted.String() }),
		column(rows, func(a *row) string { return a.Balance.CreditsPending.String() }),
		column(rows, func(a *row) string { return a.Balance.CreditsPosted.String() }),
		column(rows, func(a *row) string { return a.WithdrawHead.String() }),
		column(rows, func(a *row) string { return a.WithdrawConfirmed.String() }),
		column(rows, func(a *row) string { return a.LimitHead.String() }),
		column(rows, func(a *row) string { return a.LimitConfirmed.String() }),
		column(rows, func(a *row) int64 { return bit(a.LimitedHead) }),
		column(rows, func(a *row) int64 { return bit(a.LimitedConfirmed) }),
		column(rows, func(a *row) int64 { return bit(a.AutoSettle) }))
}

func (t *tx) insertTransfersAtOnce(rows []ledger.Transfer) error {
	type row = ledger.Transfer
	return t.later("transfer", rows[0].ID, `INSERT INTO transfer (`+transferColumns+`)
		SELECT id, asset, debit_kind, debit_owner, debit_cycle, credit_kind, credit_owner, credit_cycle, amount::numeric
		FROM unnest(?::text[], ?::bytea[], ?::text[], ?::bytea[], ?::bytea[], ?::text[], ?::bytea[], ?::bytea[], ?::text[]) AS new (`+transferColumns+`)`,
		column(rows, func(r *row) string { return r.ID }),
		column(rows, func(r *row) []byte { return r.Debit.Asset[:] }),
		column(rows, func(r *row) string { return string(r.Debit.Kind) }),
		column(rows, func(r *row) []byte { return r.Debit.Owner[:] }),
		column(rows, func(r *row) []byte { return r.Debit.Cycle[:] }),
		column(rows, func(r *row) string { return string(r.Credit.Kind) }),
		column(rows, func(r *row) []byte { return r.Credit.Owner[:] }),
		column(rows, func(r *row) []byte { return r.Credit.Cycle[:] }),
		column(rows, func(r *row) string { return r.Amount.String() }))
}

// putSumsAtOnce adds to the sums what has changed.
func (t *tx) putSumsAtOnce(sums map[payerCycle]*sum) error {
	var payers, assets [][]byte
	var starts []uint64
	var changes []string
	for k, s := range sums {
		change, up := s.plus.Sub(s.minus)
		sign := ""
		if !up {
			change, _ = s.minus.Sub(s.plus)
			sign = "-"
		}
		payers, assets = append(payers, slices.Clone(k.payer[:])), append(assets, slices.Clone(k.cycle.Asset[:]))
		starts, changes = append(starts, k.cycle.Start), append(changes, sign+change.String())
	}
	if len(payers) == 0 {
		return nil
	}
	return t.later("payer_cycle", fmt.Sprintf("%d payers", len(payers)), `INSERT INTO payer_cycle (payer, asset, cycle_start, payable)
		SELECT payer, asset, cycle_start, change::numeric FROM unnest(?::bytea[], ?::bytea[], ?::bigint[], ?::text[])
			AS new (payer, asset, cycle_start, change)
		ON CONFLICT (payer, asset, cycle_start) DO UPDATE SET payable = payer_cycle.payable + excluded.payable`,
		payers, assets, starts, changes)
}
