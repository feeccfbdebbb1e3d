package store

import (
	"cmp"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/ledger"
)

const accountColumns = `debits_pending, debits_posted, credits_pending, credits_posted,
	withdraw_head, withdraw_confirmed, limit_head, limit_confirmed, limited_head, limited_confirmed, auto_settle`

func sides(b *ledger.Balance) []any {
	return []any{&b.DebitsPending, &b.DebitsPosted, &b.CreditsPending, &b.CreditsPosted}
}

// Account implements [clearing.Tx].
func (t *tx) Account(owner, asset evm.Address) (clearing.Account, error) {
	if a, ok := t.accounts[[2]evm.Address{owner, asset}]; ok {
		return a, nil
	}
	a := clearing.Account{Owner: owner, Asset: asset}
	found, err := t.one("SELECT "+accountColumns+" FROM account WHERE owner = ? AND asset = ?"+t.held(), []any{owner[:], asset[:]}, accountDest(&a)...)
	if err != nil {
		return clearing.Account{}, corrupt("account", accountKey(owner, asset), err)
	}
	t.remember([2]evm.Address{owner, asset}, found, err)
	return a, nil
}

func accountDest(a *clearing.Account) []any {
	return append(sides(&a.Balance), &a.WithdrawHead, &a.WithdrawConfirmed, &a.LimitHead, &a.LimitConfirmed,
		flag{&a.LimitedHead}, flag{&a.LimitedConfirmed}, flag{&a.AutoSettle})
}

// Accounts implements [clearing.Tx].
func (t *tx) Accounts(keys []clearing.AccountKey) (all []clearing.Account, err error) {
	if t.dialect.locks {
		return t.accountsAtOnce(keys)
	}
	for _, k := range keys {
		a, err := t.Account(k.Owner, k.Asset)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

// PutAccount implements [clearing.Tx]. The row is written with others, before anybody looks for it.
func (t *tx) PutAccount(a clearing.Account) error {
	if t.accounts == nil {
		t.accounts = make(map[[2]evm.Address]clearing.Account)
	}
	t.accounts[[2]evm.Address{a.Owner, a.Asset}] = a
	return nil
}

const accountConflict = `
	ON CONFLICT (owner, asset) DO UPDATE SET
		debits_pending = excluded.debits_pending, debits_posted = excluded.debits_posted,
		credits_pending = excluded.credits_pending, credits_posted = excluded.credits_posted,
		withdraw_head = excluded.withdraw_head, withdraw_confirmed = excluded.withdraw_confirmed,
		limit_head = excluded.limit_head, limit_confirmed = excluded.limit_confirmed,
		limited_head = excluded.limited_head, limited_confirmed = excluded.limited_confirmed,
		auto_settle = excluded.auto_settle`

// putAccounts writes the accounts that were put.
func (t *tx) putAccounts() error {
	accounts := slices.SortedFunc(maps.Values(t.accounts), func(a, b clearing.Account) int {
		return cmp.Or(slices.Compare(a.Asset[:], b.Asset[:]), slices.Compare(a.Owner[:], b.Owner[:]))
	})
	t.accounts = nil
	if t.dialect.locks {
		old := accounts[:0]
		for _, a := range accounts {
			if !t.absent[[2]evm.Address{a.Owner, a.Asset}] {
				old = append(old, a)
			} else if err := t.putAccount(a); err != nil {
				return err
			}
		}
		return t.putAccountsAtOnce(old)
	}
	for _, a := range accounts {
		if err := t.putAccount(a); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) putAccount(a clearing.Account) error {
	return t.upsert("account", [2]evm.Address{a.Owner, a.Asset}, accountKey(a.Owner, a.Asset), `INSERT INTO account (owner, asset, `+accountColumns+`)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, accountConflict,
		a.Owner[:], a.Asset[:],
		a.Balance.DebitsPending, a.Balance.DebitsPosted, a.Balance.CreditsPending, a.Balance.CreditsPosted,
		a.WithdrawHead, a.WithdrawConfirmed, a.LimitHead, a.LimitConfirmed,
		bit(a.LimitedHead), bit(a.LimitedConfirmed), bit(a.AutoSettle))
}

func accountKey(owner, asset evm.Address) string { return owner.Lower() + " in " + asset.Lower() }

// Balance implements [clearing.Tx].
func (t *tx) Balance(a ledger.Account) (ledger.Balance, error) {
	if err := checkShared(a); err != nil {
		return ledger.Balance{}, err
	}
	var b ledger.Balance
	found, err := t.one(`SELECT debits_pending, debits_posted, credits_pending, credits_posted
		FROM balance WHERE asset = ? AND kind = ? AND cycle = ?`+t.held(), []any{a.Asset[:], string(a.Kind), a.Cycle[:]}, sides(&b)...)
	if err != nil {
		return ledger.Balance{}, corrupt("balance", a, err)
	}
	t.remember(a, found, err)
	return b, nil
}

// PutBalance implements [clearing.Tx].
func (t *tx) PutBalance(a ledger.Account, b ledger.Balance) error {
	if err := checkShared(a); err != nil {
		return err
	}
	return t.upsert("balance", a, a, `INSERT INTO balance (asset, kind, cycle, debits_pending, debits_posted, credits_pending, credits_posted)
		VALUES (?, ?, ?, ?, ?, ?, ?)`, `
		ON CONFLICT (asset, kind, cycle) DO UPDATE SET
			debits_pending = excluded.debits_pending, debits_posted = excluded.debits_posted,
			credits_pending = excluded.credits_pending, credits_posted = excluded.credits_posted`,
		a.Asset[:], string(a.Kind), a.Cycle[:], b.DebitsPending, b.DebitsPosted, b.CreditsPending, b.CreditsPosted)
}

// checkShared says whether the account's members fit its kind, for accounts that are nobody's collateral.
func checkShared(a ledger.Account) error {
	switch a.Kind {
	case ledger.World, ledger.Bond:
		if a.Owner.IsZero() && a.Cycle.IsZero() {
			return nil
		}
	case ledger.Pot:
		if a.Owner.IsZero() {
			return nil
		}
	}
	return fmt.Errorf("account %v is no world, pot or bond", a)
}

// checkSide says whether the account's members fit its kind.
func checkSide(a ledger.Account) error {
	if a.Kind == ledger.Collateral && a.Cycle.IsZero() {
		return nil
	}
	return checkShared(a)
}

// AddTransfer implements [clearing.Tx]. The row is written with others.
func (t *tx) AddTransfer(tr ledger.Transfer) error {
	if err := errors.Join(checkSide(tr.Debit), checkSide(tr.Credit)); err != nil {
		return fmt.Errorf("transfer %s: %w", tr.ID, err)
	}
	if tr.Debit.Asset != tr.Credit.Asset {
		return fmt.Errorf("transfer %s: its sides differ in asset", tr.ID)
	}
	t.transfers = append(t.transfers, tr)
	return nil
}

const transferColumns = "id, asset, debit_kind, debit_owner, debit_cycle, credit_kind, credit_owner, credit_cycle, amount"

// insertTransfers writes what was added.
func (t *tx) insertTransfers() error {
	added := t.transfers
	t.transfers = nil
	if len(added) > 0 && t.dialect.locks {
		return t.insertTransfersAtOnce(added)
	}
	for _, tr := range added {
		d, c := tr.Debit, tr.Credit
		if err := t.put("transfer", tr.ID, "INSERT INTO transfer ("+transferColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
			tr.ID, d.Asset[:], string(d.Kind), d.Owner[:], d.Cycle[:], string(c.Kind), c.Owner[:], c.Cycle[:], tr.Amount); err != nil {
			return err
		}
	}
	return nil
}

// DropTransfer implements [clearing.Tx].
func (t *tx) DropTransfer(id string) error {
	if err := t.flush(); err != nil {
		return err
	}
	return t.change("transfer", id, "DELETE FROM transfer WHERE id = ?", id)
}

// Balances implements [clearing.Tx].
func (t *tx) Balances(asset evm.Address) iter.Seq2[clearing.BalanceRow, error] {
	return func(yield func(clearing.BalanceRow, error) bool) {
		if err := t.flush(); err != nil {
			yield(clearing.BalanceRow{}, err)
			return
		}
		var shared []clearing.BalanceRow
		err := t.each(`SELECT kind, cycle, debits_pending, debits_posted, credits_pending, credits_posted
			FROM balance WHERE asset = ? ORDER BY kind, cycle`, []any{asset[:]}, func(rows *sql.Rows) error {
			r := clearing.BalanceRow{Account: ledger.Account{Asset: asset}}
			err := rows.Scan(append([]any{&r.Account.Kind, fixed(r.Account.Cycle[:])}, sides(&r.Balance)...)...)
			if err == nil {
				err = checkShared(r.Account)
			}
			if err != nil {
				return corrupt("balance", r.Account, err)
			}
			shared = append(shared, r)
			return nil
		})
		if err != nil {
			yield(clearing.BalanceRow{}, err)
			return
		}
		for _, r := range shared {
			if !yield(r, nil) {
				return
			}
		}
		pages(t, yield, evm.Address{}, func(after evm.Address, page []clearing.BalanceRow) ([]clearing.BalanceRow, evm.Address, error) {
			// The zero address owns nothing, so that starting after it leaves nobody out.
			err := t.each(`SELECT owner, debits_pending, debits_posted, credits_pending, credits_posted
				FROM account WHERE asset = ? AND owner > ? ORDER BY owner LIMIT ?`, []any{asset[:], after[:], pageRows}, func(rows *sql.Rows) error {
				r := clearing.BalanceRow{Account: ledger.Account{Kind: ledger.Collateral, Asset: asset}}
				if err := rows.Scan(append([]any{fixed(r.Account.Owner[:])}, sides(&r.Balance)...)...); err != nil {
					return corrupt("account", accountKey(r.Account.Owner, asset), err)
				}
				after = r.Account.Owner
				page = append(page, r)
				return nil
			})
			return page, after, err
		})
	}
}

// pageRows is how many rows a long read takes at once: enough to forget the cost of asking again, few enough to hold.
const pageRows = 512

// pages yields rows page by page. No query is open while a row is yielded, so that the loop's body may read and write:
// next returns the rows after a key and the last one's key, in the slice given.
func pages[K, R any](t *tx, yield func(R, error) bool, after K, next func(after K, page []R) ([]R, K, error)) {
	var none R
	page := make([]R, 0, pageRows)
	for {
		err := t.stop()
		if err == nil {
			page, after, err = next(after, page[:0])
		}
		if err != nil {
			yield(none, err)
			return
		}
		for _, r := range page {
			if !yield(r, nil) {
				return
			}
		}
		if len(page) < pageRows {
			return
		}
	}
}
