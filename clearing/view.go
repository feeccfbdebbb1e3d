package clearing

import (
	"cmp"
	"maps"
	"slices"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/ledger"
)

// view is a transaction with the accounts that it touches read once and written once, in sorted order. Cycles are kept
// too, so that a group that opens one finds it again.
type view struct {
	tx        Tx
	readCycle func(CycleRef) (Cycle, bool, error)
	accounts  map[AccountKey]*accountRow
	balances  map[ledger.Account]*ledger.Balance
	cycles    map[CycleRef]*cycleRow
	schedules map[evm.Address][]Schedule
	// Of a group of admissions: those of its keys that are there, and what it has admitted itself.
	guarantees map[guarantee.Key]Guarantee
}

type accountRow struct {
	Account
	dirty bool
}

type cycleRow struct {
	Cycle
	found, dirty bool
}

// newView returns the view of a write that may change cycles, and newKeepingView of one that relies on them only.
func newView(tx Tx) *view {
	return &view{
		tx: tx, readCycle: tx.Cycle, accounts: make(map[AccountKey]*accountRow), balances: make(map[ledger.Account]*ledger.Balance),
		cycles: make(map[CycleRef]*cycleRow), schedules: make(map[evm.Address][]Schedule),
	}
}

func newKeepingView(tx Tx) *view {
	v := newView(tx)
	v.readCycle = tx.KeptCycle
	return v
}

// account returns the row of the view, which the caller may change if it says so by changed.
func (v *view) account(owner, asset evm.Address) (*accountRow, error) {
	key := AccountKey{owner, asset}
	if row, ok := v.accounts[key]; ok {
		return row, nil
	}
	a, err := v.tx.Account(owner, asset)
	if err != nil {
		return nil, err
	}
	a.Owner, a.Asset = owner, asset
	row := &accountRow{Account: a}
	v.accounts[key] = row
	return row, nil
}

func (v *view) changed(a *accountRow) { a.dirty = true }

// cycle returns the cycle's row and whether there is one.
func (v *view) cycle(ref CycleRef) (Cycle, bool, error) {
	if row, ok := v.cycles[ref]; ok {
		return row.Cycle, row.found, nil
	}
	c, found, err := v.readCycle(ref)
	if err != nil {
		return Cycle{}, false, err
	}
	v.cycles[ref] = &cycleRow{Cycle: c, found: found}
	return c, found, nil
}

func (v *view) putCycle(c Cycle) { v.cycles[c.Ref] = &cycleRow{Cycle: c, found: true, dirty: true} }

// hold reads cycles and accounts in the order in which all writes read them, so that no two of them each have what the
// other waits for: cycles first, each kind sorted.
func (v *view) hold(cycles []CycleRef, accounts []AccountKey) error {
	slices.SortFunc(cycles, compareRefs)
	for _, ref := range slices.Compact(cycles) {
		if _, _, err := v.cycle(ref); err != nil {
			return err
		}
	}
	accounts = slices.DeleteFunc(accounts, func(k AccountKey) bool { return v.accounts[k] != nil })
	slices.SortFunc(accounts, compareAccountKeys)
	rows, err := v.tx.Accounts(slices.Compact(accounts))
	if err != nil {
		return err
	}
	for _, a := range rows {
		v.accounts[AccountKey{a.Owner, a.Asset}] = &accountRow{Account: a}
	}
	return nil
}

// balance returns where the balance of an account is kept in the view, to be changed.
func (v *view) balance(a ledger.Account) (*ledger.Balance, error) {
	if a.Kind == ledger.Collateral {
		row, err := v.account(a.Owner, a.Asset)
		if err != nil {
			return nil, err
		}
		row.dirty = true
		return &row.Balance, nil
	}
	if b, ok := v.balances[a]; ok {
		return b, nil
	}
	b, err := v.tx.Balance(a)
	if err != nil {
		return nil, err
	}
	v.balances[a] = &b
	return &b, nil
}

// post applies a transfer. One of nothing is none.
func (v *view) post(t ledger.Transfer) error {
	if t.Amount.IsZero() {
		return nil
	}
	debit, credit, err := v.sides(t)
	if err != nil {
		return err
	}
	if err := t.Apply(debit, credit); err != nil {
		return err
	}
	return v.tx.AddTransfer(t)
}

// unpost takes back a transfer of a block that is no more.
func (v *view) unpost(t ledger.Transfer) error {
	if t.Amount.IsZero() {
		return nil
	}
	debit, credit, err := v.sides(t)
	if err != nil {
		return err
	}
	if err := t.Unapply(debit, credit); err != nil {
		return err
	}
	return v.tx.DropTransfer(t.ID)
}

func (v *view) sides(t ledger.Transfer) (debit, credit *ledger.Balance, err error) {
	if debit, err = v.balance(t.Debit); err != nil {
		return nil, nil, err
	}
	credit, err = v.balance(t.Credit)
	return debit, credit, err
}

// flush writes what was changed.
func (v *view) flush() error {
	for _, key := range slices.SortedFunc(maps.Keys(v.accounts), compareAccountKeys) {
		if row := v.accounts[key]; row.dirty {
			if err := v.tx.PutAccount(row.Account); err != nil {
				return err
			}
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(v.balances), compareAccounts) {
		if err := v.tx.PutBalance(a, *v.balances[a]); err != nil {
			return err
		}
	}
	for _, ref := range slices.SortedFunc(maps.Keys(v.cycles), compareRefs) {
		if row := v.cycles[ref]; row.dirty {
			if err := v.tx.PutCycle(row.Cycle); err != nil {
				return err
			}
		}
	}
	return nil
}

func compareAccounts(a, b ledger.Account) int {
	return cmp.Or(slices.Compare(a.Asset[:], b.Asset[:]), cmp.Compare(a.Kind, b.Kind), slices.Compare(a.Owner[:], b.Owner[:]), slices.Compare(a.Cycle[:], b.Cycle[:]))
}

func compareRefs(a, b CycleRef) int {
	return cmp.Or(slices.Compare(a.Asset[:], b.Asset[:]), cmp.Compare(a.Start, b.Start))
}
