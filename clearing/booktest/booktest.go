// Package booktest holds what every clearing.Book must do, as tests: [Run] them on each implementation.
package booktest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/ledger"
	"github.com/farthing402/farthing/money"
)

// Run tests a book. open returns a new, empty one for each test, and cleans up after it.
func Run(t *testing.T, open func(t *testing.T) clearing.Book) {
	for _, c := range []struct {
		name string
		test func(*testing.T, clearing.Book)
	}{
		{"accounts", accounts},
		{"balances", balances},
		{"transfers", transfers},
		{"guarantees", guarantees},
		{"guarantees in order", guaranteesInOrder},
		{"lists", lists},
		{"notes", notes},
		{"refunds", refunds},
		{"validations", validations},
		{"cycles", cycles},
		{"positions", positions},
		{"many positions", manyPositions},
		{"unsettled cycles", unsettled},
		{"schedules", schedules},
		{"signers", signers},
		{"wallets", wallets},
		{"calls", calls},
		{"blocks", blocks},
		{"a write that fails leaves nothing", rollback},
		{"a write that panics leaves nothing", panics},
		{"a write reads what it wrote", readsOwnWrites},
		{"iterators stop early", iterators},
		{"a cancelled context", cancelled},
		{"writes at once", concurrent},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, open(t))
		})
	}
}

// book is what the tests call; a failure of the store ends them.
type book struct {
	*testing.T
	clearing.Book
}

func (b book) write(fn func(clearing.Tx) error) {
	b.Helper()
	if err := b.Write(b.Context(), fn); err != nil {
		b.Fatalf("write: %v", err)
	}
}

func (b book) read(fn func(clearing.Tx) error) {
	b.Helper()
	if err := b.Read(b.Context(), fn); err != nil {
		b.Fatalf("read: %v", err)
	}
}

// refused expects a write to fail.
func (b book) refused(what string, fn func(clearing.Tx) error) {
	b.Helper()
	if err := b.Write(b.Context(), fn); err == nil {
		b.Errorf("%s is taken", what)
	}
}

// is reports a difference.
func is[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func addr(n byte) evm.Address { return evm.Address{n, 19: n} }
func hash(n byte) evm.Hash    { return evm.Hash{n, 31: n} }

// amount returns a large one, so that a column that is too narrow shows.
func amount(n uint64) money.Amount {
	a, err := money.ParseAmount(fmt.Sprintf("0xffffffffffffffffffff%08x", n))
	if err != nil {
		panic(err)
	}
	return a
}

func ref(n byte, start uint64) clearing.CycleRef {
	return clearing.CycleRef{Asset: addr(n), Start: start}
}

func balance(n uint64) ledger.Balance {
	return ledger.Balance{DebitsPending: amount(n), DebitsPosted: amount(n + 1), CreditsPending: amount(n + 2), CreditsPosted: amount(n + 3)}
}

func account(owner, asset byte) clearing.Account {
	return clearing.Account{
		Owner: addr(owner), Asset: addr(asset), Balance: balance(uint64(owner)),
		WithdrawHead: amount(10), WithdrawConfirmed: amount(11), LimitHead: amount(12), LimitConfirmed: amount(13),
		LimitedHead: true, LimitedConfirmed: true, AutoSettle: true,
	}
}

func makeGuarantee(n, payer, payee byte, c clearing.CycleRef) clearing.Guarantee {
	return clearing.Guarantee{
		Signed: guarantee.Signed{
			Claims: guarantee.Claims{
				Payer: addr(payer), Payee: addr(payee), Asset: c.Asset, ReqID: evm.Hash{0xff, 31: n}, Amount: amount(uint64(n)), Timestamp: c.Start + uint64(n),
			},
			Signature: evm.Signature{n, 63: n, 64: 27}, Form: guarantee.EIP191,
		},
		Digest: hash(n), Cycle: c, Payable: amount(uint64(n)), At: 1_700_000_000_123 + int64(n),
		Evidence: hash(n ^ 0xff),
	}
}

func makeNote(n byte, digest evm.Hash, payable money.Amount) guarantee.SignedNote {
	return guarantee.SignedNote{Note: guarantee.Note{Digest: digest, Amount: payable, Reason: hash(n)}, Signature: evm.Signature{n, 64: 28}}
}

func makeCycle(c clearing.CycleRef, s clearing.CycleStatus) clearing.Cycle {
	return clearing.Cycle{
		Ref: c, Status: s, End: c.Start + 1, CutoffAt: c.Start + 2, PostDeadline: c.Start + 3, Challenge: 4, Generation: 5, Guarantees: 6,
		Gross: amount(7), Total: amount(8), Participants: 9, Debtors: 10, Root: hash(11), Statements: hash(12), Height: 10, Posted: 13, Tries: 14,
		RetryAt: c.Start + 15, SealedAt: c.Start + 16, FinalAt: c.Start + 17, Finalized: true, Trouble: "es klemmt: “…”\n",
	}
}

func collect[T any](rows iter.Seq2[T, error]) (list []T, err error) {
	for row, err := range rows {
		if err != nil {
			return nil, err
		}
		list = append(list, row)
	}
	return list, nil
}

func accounts(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	b.read(func(tx clearing.Tx) error {
		a, err := tx.Account(addr(1), addr(2))
		a.Owner, a.Asset = evm.Address{}, evm.Address{}
		is(t, "account that is not there", a, clearing.Account{})
		return err
	})
	one, other, native := account(1, 2), account(1, 3), account(1, 0)
	b.write(func(tx clearing.Tx) error {
		return errors.Join(tx.PutAccount(one), tx.PutAccount(other), tx.PutAccount(native))
	})
	changed := one
	changed.Balance = ledger.Balance{CreditsPosted: amount(77)}
	changed.LimitedHead, changed.AutoSettle, changed.WithdrawHead = false, false, money.Amount{}
	b.write(func(tx clearing.Tx) error { return tx.PutAccount(changed) })
	b.read(func(tx clearing.Tx) error {
		for _, want := range []clearing.Account{changed, other, native} {
			got, err := tx.Account(want.Owner, want.Asset)
			if err != nil {
				return err
			}
			is(t, "account", got, want)
		}
		several, err := tx.Accounts([]clearing.AccountKey{{Owner: addr(8), Asset: addr(2)}, {Owner: addr(99), Asset: addr(2)}, {Owner: addr(1), Asset: addr(2)}})
		is(t, "accounts", len(several), 3)
		for i, want := range []clearing.AccountKey{{Owner: addr(8), Asset: addr(2)}, {Owner: addr(99), Asset: addr(2)}, {Owner: addr(1), Asset: addr(2)}} {
			one, err := tx.Account(want.Owner, want.Asset)
			is(t, "one of several accounts", several[i], one)
			if err != nil {
				return err
			}
		}
		return err
	})
}

func balances(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	rows := []clearing.BalanceRow{
		{Account: ledger.Account{Kind: ledger.World, Asset: addr(2)}, Balance: balance(1)},
		{Account: ledger.Account{Kind: ledger.Bond, Asset: addr(2)}, Balance: balance(2)},
		{Account: ledger.Account{Kind: ledger.Pot, Asset: addr(2), Cycle: hash(1)}, Balance: balance(3)},
		{Account: ledger.Account{Kind: ledger.Pot, Asset: addr(2), Cycle: hash(2)}, Balance: balance(4)},
		{Account: ledger.Account{Kind: ledger.World, Asset: addr(3)}, Balance: balance(5)},
	}
	owner := account(9, 2)
	b.write(func(tx clearing.Tx) error {
		for _, r := range rows {
			if err := tx.PutBalance(r.Account, balance(99)); err != nil {
				return err
			}
			if err := tx.PutBalance(r.Account, r.Balance); err != nil {
				return err
			}
		}
		return tx.PutAccount(owner)
	})
	b.read(func(tx clearing.Tx) error {
		for _, r := range rows {
			got, err := tx.Balance(r.Account)
			if err != nil {
				return err
			}
			is(t, "balance", got, r.Balance)
		}
		none, err := tx.Balance(ledger.Account{Kind: ledger.Pot, Asset: addr(2), Cycle: hash(3)})
		if err != nil {
			return err
		}
		is(t, "balance that is not there", none, ledger.Balance{})
		all, err := collect(tx.Balances(addr(2)))
		if err != nil {
			return err
		}
		want := append(slices.Clone(rows[:4]), clearing.BalanceRow{Account: ledger.Account{Kind: ledger.Collateral, Asset: addr(2), Owner: owner.Owner}, Balance: owner.Balance})
		sort := func(rows []clearing.BalanceRow) []clearing.BalanceRow {
			slices.SortFunc(rows, func(a, b clearing.BalanceRow) int { return a.Balance.CreditsPosted.Cmp(b.Balance.CreditsPosted) })
			return rows
		}
		is(t, "balances of an asset", sort(all), sort(want))
		return nil
	})
}

func transfers(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	tr := ledger.Transfer{ID: "deposit/1", Debit: ledger.Account{Kind: ledger.World, Asset: addr(2)}, Credit: ledger.Account{Kind: ledger.Collateral, Asset: addr(2), Owner: addr(1)}, Amount: amount(1)}
	pot := ledger.Transfer{ID: "take/1", Debit: tr.Credit, Credit: ledger.Account{Kind: ledger.Pot, Asset: addr(2), Cycle: hash(1)}, Amount: amount(2)}
	b.write(func(tx clearing.Tx) error { return errors.Join(tx.AddTransfer(tr), tx.AddTransfer(pot)) })
	b.refused("a transfer's ID a second time", func(tx clearing.Tx) error { return tx.AddTransfer(tr) })
	b.refused("dropping a transfer that is not there", func(tx clearing.Tx) error { return tx.DropTransfer("deposit/2") })
	b.write(func(tx clearing.Tx) error { return tx.DropTransfer(tr.ID) })
	b.refused("dropping a transfer twice", func(tx clearing.Tx) error { return tx.DropTransfer(tr.ID) })
	b.write(func(tx clearing.Tx) error { return tx.AddTransfer(tr) }) // a reorg away and back
}

func guarantees(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	c := ref(2, 1000)
	g := makeGuarantee(1, 1, 2, c)
	b.read(func(tx clearing.Tx) error {
		for _, find := range []func() (clearing.Guarantee, bool, error){
			func() (clearing.Guarantee, bool, error) { return tx.GuaranteeByKey(g.Signed.Claims.Key()) },
			func() (clearing.Guarantee, bool, error) { return tx.GuaranteeByDigest(g.Digest) },
		} {
			got, found, err := find()
			if err != nil || found {
				t.Errorf("found %v, %v before it was added", found, err)
			}
			is(t, "guarantee that is not there", got, clearing.Guarantee{})
		}
		return nil
	})
	b.write(func(tx clearing.Tx) error {
		return errors.Join(tx.PutCycle(makeCycle(c, clearing.Open)), tx.AddGuarantee(g))
	})
	sameKey := makeGuarantee(2, 1, 2, c)
	sameKey.Signed.Claims.ReqID = g.Signed.Claims.ReqID
	b.refused("a second guarantee with a key", func(tx clearing.Tx) error { return tx.AddGuarantee(sameKey) })
	inOtherCycle := sameKey
	inOtherCycle.Cycle.Start += 1000
	b.refused("a second guarantee with a key, in another cycle", func(tx clearing.Tx) error {
		return errors.Join(tx.PutCycle(makeCycle(inOtherCycle.Cycle, clearing.Open)), tx.AddGuarantee(inOtherCycle))
	})
	// Each member of the key makes it another one.
	others := []clearing.Guarantee{makeGuarantee(4, 3, 2, c), makeGuarantee(5, 1, 3, c), makeGuarantee(6, 1, 2, c), makeGuarantee(7, 1, 2, ref(3, 1000))}
	for i := range others {
		if i != 2 {
			others[i].Signed.Claims.ReqID = g.Signed.Claims.ReqID
		}
	}
	b.write(func(tx clearing.Tx) error {
		if err := tx.PutCycle(makeCycle(ref(3, 1000), clearing.Open)); err != nil {
			return err
		}
		for _, o := range others {
			if err := tx.AddGuarantee(o); err != nil {
				return err
			}
		}
		return nil
	})
	b.read(func(tx clearing.Tx) error {
		keys := []guarantee.Key{{Payer: addr(99)}}
		all := make(map[guarantee.Key]clearing.Guarantee)
		for _, want := range append(others, g) {
			keys = append(keys, want.Signed.Claims.Key())
			all[want.Signed.Claims.Key()] = want
		}
		known, err := tx.GuaranteesByKey(keys)
		is(t, "guarantees by key", known, all)
		if err != nil {
			return err
		}
		for _, want := range append(others, g) {
			byKey, found, err := tx.GuaranteeByKey(want.Signed.Claims.Key())
			if err != nil || !found {
				t.Errorf("by key: %v, %v", found, err)
			}
			is(t, "guarantee by key", byKey, want)
			byDigest, found, err := tx.GuaranteeByDigest(want.Digest)
			if err != nil || !found {
				t.Errorf("by digest: %v, %v", found, err)
			}
			is(t, "guarantee by digest", byDigest, want)
		}
		return nil
	})
}

func guaranteesInOrder(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	c, next := ref(2, 1000), ref(2, 2000)
	var all []clearing.Guarantee
	// Digests do not ascend, so that an order by digest shows; two transactions, so that one by transaction does.
	for i := range byte(20) {
		g := makeGuarantee(200-i*7, 1+i%3, 4+i%2, c)
		if i%5 == 4 {
			g = makeGuarantee(200-i*7, 4, 1, c)
		}
		all = append(all, g)
	}
	for _, part := range [][]clearing.Guarantee{all[:7], all[7:]} {
		b.write(func(tx clearing.Tx) error {
			if err := errors.Join(tx.PutCycle(makeCycle(c, clearing.Open)), tx.PutCycle(makeCycle(next, clearing.Open))); err != nil {
				return err
			}
			for _, g := range part {
				if err := tx.AddGuarantee(g); err != nil {
					return err
				}
			}
			return nil
		})
	}
	elsewhere := makeGuarantee(250, 1, 4, next)
	b.write(func(tx clearing.Tx) error { return tx.AddGuarantee(elsewhere) })
	b.read(func(tx clearing.Tx) error {
		got, err := collect(tx.Guarantees(c))
		is(t, "guarantees of a cycle", got, all)
		if err != nil {
			return err
		}
		for who := range byte(7) {
			var want []clearing.Guarantee
			var payable money.Amount
			for _, g := range all {
				if g.Signed.Claims.Payer == addr(who) {
					payable, _ = payable.Add(g.Payable)
				}
				if g.Signed.Claims.Payer == addr(who) || g.Signed.Claims.Payee == addr(who) {
					want = append(want, g)
				}
			}
			got, err := collect(tx.GuaranteesOf(c, addr(who)))
			if err != nil {
				return err
			}
			is(t, "guarantees of a participant", got, want)
			sum, err := tx.PayableBy(c, addr(who))
			if err != nil {
				return err
			}
			is(t, "payable by a participant", sum, payable)
		}
		none, err := collect(tx.Guarantees(ref(9, 9)))
		is(t, "guarantees of no cycle", len(none), 0)
		return errors.Join(err, lines(t, tx, c, all), lines(t, tx, ref(9, 9), nil))
	})
}

// lines checks what netting reads of a cycle that has these guarantees.
func lines(t *testing.T, tx clearing.Tx, c clearing.CycleRef, all []clearing.Guarantee) error {
	t.Helper()
	want, sums := make(map[clearing.Line]int), make(map[evm.Address]money.Amount)
	for _, g := range all {
		c := g.Signed.Claims
		want[clearing.Line{Payer: c.Payer, Payee: c.Payee, Digest: g.Digest, Evidence: g.Evidence, Payable: g.Payable}]++
		sums[c.Payer], _ = sums[c.Payer].Add(g.Payable)
	}
	got := make(map[clearing.Line]int)
	pages, err := collect(tx.Lines(c)) // pages are kept: each must be its receiver's
	for _, page := range pages {
		for _, l := range page {
			got[l]++
		}
	}
	is(t, "lines", got, want)
	rows, err2 := collect(tx.PayableByEach(c))
	is(t, "payers", len(rows), len(sums))
	for _, row := range rows {
		is(t, "payable by each", row.Payable, sums[row.Payer])
	}
	return errors.Join(err, err2)
}

// lists: the newest first, each once, in pages that stay where they are while more is added.
func lists(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	other := ref(9, 30)
	cycles := []clearing.CycleRef{ref(2, 10), ref(2, 20), ref(2, 30), other}
	var all []clearing.Guarantee // of the asset, oldest first
	add := func(n, payer, payee byte, c clearing.CycleRef) {
		t.Helper()
		g := makeGuarantee(n, payer, payee, c)
		b.write(func(tx clearing.Tx) error { return tx.AddGuarantee(g) })
		if c.Asset == addr(2) {
			all = append(all, g)
		}
	}
	b.write(func(tx clearing.Tx) error {
		var errs []error
		for _, c := range cycles {
			errs = append(errs, tx.PutCycle(makeCycle(c, clearing.Open)))
		}
		return errors.Join(errs...)
	})
	for i, c := range cycles {
		for n := range byte(6) {
			add(byte(i)*10+n+1, 50+n%2, 60+n%3, c)
		}
	}
	payer, payee := addr(51), addr(62)
	for name, c := range map[string]struct {
		listing clearing.Listing
		fits    func(clearing.Guarantee) bool
	}{
		"of a payer":            {clearing.Listing{Payer: &payer}, func(g clearing.Guarantee) bool { return g.Signed.Claims.Payer == payer }},
		"of a payee":            {clearing.Listing{Payee: &payee}, func(g clearing.Guarantee) bool { return g.Signed.Claims.Payee == payee }},
		"of a cycle":            {clearing.Listing{InCycle: true, Start: 20}, func(g clearing.Guarantee) bool { return g.Cycle.Start == 20 }},
		"of a payee in a cycle": {clearing.Listing{Payee: &payee, InCycle: true, Start: 20}, func(g clearing.Guarantee) bool { return g.Signed.Claims.Payee == payee && g.Cycle.Start == 20 }},
		"of nobody":             {clearing.Listing{Payer: &payee}, func(clearing.Guarantee) bool { return false }},
	} {
		var want, got []evm.Hash
		for _, g := range slices.Backward(all) {
			if c.fits(g) {
				want = append(want, g.Digest)
			}
		}
		c.listing.Asset, c.listing.Limit = addr(2), 2
		for page := 0; page == 0 || len(got) == 2*page; page++ {
			b.read(func(tx clearing.Tx) error {
				rows, err := tx.List(c.listing)
				for _, row := range rows {
					got, c.listing.Before = append(got, row.Guarantee.Digest), row.Place
				}
				return err
			})
		}
		is(t, name, got, want)
	}
	// Those that wait for a validator stand behind all others.
	waits := makeJudged(110, 51, 60, cycles[2])
	b.write(func(tx clearing.Tx) error { return tx.AddGuarantee(waits) })
	b.read(func(tx clearing.Tx) error {
		rows, err := tx.List(clearing.Listing{Asset: addr(2), Payer: &payer, Limit: 100})
		is(t, "those of a payer", len(rows), 10)
		last := rows[len(rows)-1]
		is(t, "the one that waits", last.Guarantee, waits)
		rest, err2 := tx.List(clearing.Listing{Asset: addr(2), Payer: &payer, Before: rows[len(rows)-2].Place, Limit: 9})
		is(t, "behind the others", rest, []clearing.Listed{last})
		none, err3 := tx.List(clearing.Listing{Asset: addr(2), Payer: &payer, Before: last.Place, Limit: 9})
		is(t, "behind it", len(none), 0)
		return errors.Join(err, err2, err3)
	})
	first := func() (row clearing.Listed) {
		b.read(func(tx clearing.Tx) error {
			rows, err := tx.List(clearing.Listing{Asset: addr(2), Payer: &payer, Limit: 1})
			row = rows[0]
			return err
		})
		return row
	}
	before := first()
	is(t, "listed guarantee", before.Guarantee, makeGuarantee(26, 51, 62, cycles[2]))
	add(100, 51, 60, cycles[2])
	b.read(func(tx clearing.Tx) error {
		rows, err := tx.List(clearing.Listing{Asset: addr(2), Payer: &payer, Before: before.Place, Limit: 1})
		is(t, "the next one, after another came", rows[0].Guarantee.Digest, makeGuarantee(24, 51, 60, cycles[2]).Digest)
		list, err2 := tx.CyclesBefore(addr(2), 30, 5)
		is(t, "cycles before", list, []clearing.Cycle{makeCycle(cycles[1], clearing.Open), makeCycle(cycles[0], clearing.Open)})
		list, err3 := tx.CyclesBefore(addr(2), 0, 1)
		is(t, "the newest cycle", list, []clearing.Cycle{makeCycle(cycles[2], clearing.Open)})
		return errors.Join(err, err2, err3)
	})
}

func notes(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	c := ref(2, 1000)
	g, other := makeGuarantee(9, 1, 2, c), makeGuarantee(8, 1, 3, c)
	b.write(func(tx clearing.Tx) error {
		return errors.Join(tx.PutCycle(makeCycle(c, clearing.Open)), tx.AddGuarantee(g), tx.AddGuarantee(other))
	})
	for i, payable := range []money.Amount{amount(3), money.Units(5), {}} {
		n := makeNote(byte(i), g.Digest, payable)
		evidence := hash(byte(100 + i))
		b.write(func(tx clearing.Tx) error { return tx.LowerGuarantee(g.Digest, payable, n, evidence) })
		g.Payable, g.Note, g.Evidence = payable, &n, evidence
		b.read(func(tx clearing.Tx) error {
			got, _, err := tx.GuaranteeByDigest(g.Digest)
			if err != nil {
				return err
			}
			is(t, "lowered guarantee", got, g)
			byKey, _, err := tx.GuaranteeByKey(g.Signed.Claims.Key())
			if err != nil {
				return err
			}
			is(t, "lowered guarantee by key", byKey, g)
			all, err := collect(tx.Guarantees(c))
			if err != nil {
				return err
			}
			is(t, "guarantees", all, []clearing.Guarantee{g, other})
			if err := lines(t, tx, c, all); err != nil {
				return err
			}
			sum, err := tx.PayableBy(c, addr(1))
			want, _ := payable.Add(other.Payable)
			is(t, "payable", sum, want)
			return err
		})
	}
	b.refused("lowering a guarantee that is not there", func(tx clearing.Tx) error {
		return tx.LowerGuarantee(hash(77), money.Amount{}, makeNote(1, hash(77), money.Amount{}), hash(1))
	})
}

func refunds(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	c := ref(2, 1000)
	plain, claim, refund := makeGuarantee(7, 1, 2, c), makeGuarantee(8, 1, 3, c), makeGuarantee(9, 3, 1, c)
	refund.Backed = amount(9)
	elsewhere := makeGuarantee(10, 3, 1, ref(2, 2000))
	elsewhere.Backed = money.Units(1)
	b.write(func(tx clearing.Tx) error {
		return errors.Join(tx.AddGuarantee(plain), tx.AddGuarantee(claim), tx.AddGuarantee(refund), tx.AddGuarantee(elsewhere),
			tx.PledgeGuarantee(claim.Digest, money.Units(3)), tx.PledgeGuarantee(claim.Digest, money.Units(4)))
	})
	note := makeNote(9, claim.Digest, money.Units(4))
	b.write(func(tx clearing.Tx) error { return tx.LowerGuarantee(claim.Digest, money.Units(4), note, hash(5)) })
	claim.Pledged, claim.Payable, claim.Note, claim.Evidence = money.Units(4), money.Units(4), &note, hash(5)
	b.read(func(tx clearing.Tx) error {
		got, _, err := tx.GuaranteeByDigest(claim.Digest)
		is(t, "pledged guarantee", got, claim)
		rows, err2 := collect(tx.Refunds(c))
		slices.SortFunc(rows, func(a, b clearing.Guarantee) int { return slices.Compare(a.Digest[:], b.Digest[:]) })
		is(t, "refunds", rows, []clearing.Guarantee{claim, refund})
		return errors.Join(err, err2)
	})
	b.refused("pledging a guarantee that is not there", func(tx clearing.Tx) error {
		return tx.PledgeGuarantee(hash(77), money.Units(1))
	})
}

// makeJudged makes a guarantee that depends on a validator and waits for it.
func makeJudged(n, payer, payee byte, c clearing.CycleRef) clearing.Guarantee {
	g := makeGuarantee(n, payer, payee, c)
	g.Signed.Form = guarantee.EIP712
	g.Signed.Claims.Policy = &guarantee.Policy{
		Registry: addr(n), ChainID: 1 << 40, Validator: addr(n + 1), AgentID: hash(n), MinScore: 100, JobHash: hash(n + 1), Tag: "größer",
		Subject: hash(n + 2), Request: hash(n + 3),
	}
	g.Validation = &clearing.Validation{AskAt: uint64(n)}
	return g
}

func validations(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	c, later, nowhere := ref(1, 1000), ref(1, 1100), clearing.Nowhere(addr(1))
	plain := makeGuarantee(1, 1, 2, c)
	one, two, three := makeJudged(11, 1, 2, c), makeJudged(12, 1, 3, c), makeJudged(13, 4, 1, later)
	elsewhere := makeJudged(14, 1, 2, ref(2, 500))
	b.refused("a policy without a validation", func(tx clearing.Tx) error {
		g := makeJudged(99, 1, 2, c)
		g.Validation = nil
		return tx.AddGuarantee(g)
	})
	b.write(func(tx clearing.Tx) error {
		return errors.Join(tx.AddGuarantee(two), tx.AddGuarantee(plain), tx.AddGuarantee(one), tx.AddGuarantee(three), tx.AddGuarantee(elsewhere))
	})
	look := func(what string, netted map[clearing.CycleRef][]clearing.Guarantee, due []evm.Hash, decided []evm.Hash) {
		t.Helper()
		b.read(func(tx clearing.Tx) error {
			for c, want := range netted {
				got, err := collect(tx.Guarantees(c))
				if err != nil {
					return err
				}
				is(t, what+": guarantees of "+c.String(), got, want)
				var lines []evm.Hash
				for page, err := range tx.Lines(c) {
					if err != nil {
						return err
					}
					for _, l := range page {
						lines = append(lines, l.Digest)
					}
				}
				sum := money.Amount{}
				for _, g := range want {
					if !slices.Contains(lines, g.Digest) {
						t.Errorf("%s: %s is no line of %s", what, g.Digest, c)
					}
					if g.Signed.Claims.Payer == addr(1) {
						sum, _ = sum.Add(g.Payable)
					}
					byDigest, found, err := tx.GuaranteeByDigest(g.Digest)
					if err != nil || !found {
						t.Fatal(found, err)
					}
					is(t, what+": by digest", byDigest, g)
					byKey, found, err := tx.GuaranteeByKey(g.Signed.Claims.Key())
					if err != nil || !found {
						t.Fatal(found, err)
					}
					is(t, what+": by key", byKey, g)
				}
				payable, err := tx.PayableBy(c, addr(1))
				if err != nil {
					return err
				}
				is(t, what+": payable in "+c.String(), payable, sum)
			}
			got, err := tx.Unanswered(1_000_000, 10)
			is(t, what+": due", got, due)
			if err != nil {
				return err
			}
			got, err = tx.Decided(7)
			slices.SortFunc(got, func(a, b evm.Hash) int { return slices.Compare(a[:], b[:]) })
			is(t, what+": decided", got, decided)
			return err
		})
	}
	look("at first", map[clearing.CycleRef][]clearing.Guarantee{
		c: {plain}, later: nil, nowhere: {two, one, three}, clearing.Nowhere(addr(2)): {elsewhere},
	}, []evm.Hash{hash(11), hash(12), hash(13), hash(14)}, nil)
	b.read(func(tx clearing.Tx) error {
		first, err := tx.Unanswered(12, 10)
		is(t, "due at 12", first, []evm.Hash{hash(11), hash(12)})
		if err != nil {
			return err
		}
		first, err = tx.Unanswered(13, 2)
		is(t, "the first two", first, []evm.Hash{hash(11), hash(12)})
		if err != nil {
			return err
		}
		of, err := collect(tx.GuaranteesOf(nowhere, addr(1)))
		is(t, "those of a participant", of, []clearing.Guarantee{two, one, three})
		return err
	})

	// One is answered and netted in a later cycle, one is cancelled, one is asked about in vain.
	one.Validation = &clearing.Validation{Cycle: later.Start, Answered: 1090, Block: 8, Asked: 1095}
	two.Validation, two.Payable = &clearing.Validation{Cancelled: true, Block: 9, Asked: 1500}, money.Amount{}
	three.Validation = &clearing.Validation{Asked: 1200, AskAt: 5}
	b.write(func(tx clearing.Tx) error {
		return errors.Join(tx.PutValidation(one.Digest, one.Payable, *one.Validation), tx.PutValidation(two.Digest, money.Amount{}, *two.Validation),
			tx.PutValidation(three.Digest, three.Payable, *three.Validation))
	})
	look("decided", map[clearing.CycleRef][]clearing.Guarantee{
		c: {plain}, later: {one}, nowhere: {two, three}, clearing.Nowhere(addr(2)): {elsewhere},
	}, []evm.Hash{hash(13), hash(14)}, []evm.Hash{hash(11), hash(12)})
	b.read(func(tx clearing.Tx) error {
		for _, ask := range []struct {
			asset     byte
			start, at uint64
			want      bool
		}{{1, 1100, 1201, true}, {1, 1100, 1200, false}, {1, 1099, 1201, false}, {2, 500, 1, true}, {3, 5000, 5000, false}} {
			got, err := tx.Unasked(addr(ask.asset), ask.start, ask.at)
			if err != nil {
				return err
			}
			if got != ask.want {
				t.Errorf("unasked %+v: %v", ask, got)
			}
		}
		return nil
	})

	// And back again: one waits as before.
	one.Validation, two.Validation, two.Payable = &clearing.Validation{AskAt: 1}, &clearing.Validation{AskAt: 2}, amount(12)
	b.write(func(tx clearing.Tx) error {
		return errors.Join(tx.PutValidation(one.Digest, one.Payable, *one.Validation), tx.PutValidation(two.Digest, two.Payable, *two.Validation))
	})
	look("taken back", map[clearing.CycleRef][]clearing.Guarantee{
		c: {plain}, later: nil, nowhere: {two, one, three},
	}, []evm.Hash{hash(11), hash(12), hash(13), hash(14)}, nil)

	// A note lowers what waits, in the sums of those that wait.
	note := makeNote(3, one.Digest, amount(4))
	b.write(func(tx clearing.Tx) error { return tx.LowerGuarantee(one.Digest, amount(4), note, hash(77)) })
	one.Payable, one.Note, one.Evidence = amount(4), &note, hash(77)
	look("lowered", map[clearing.CycleRef][]clearing.Guarantee{nowhere: {two, one, three}},
		[]evm.Hash{hash(11), hash(12), hash(13), hash(14)}, nil)
	b.refused("a validation of a guarantee that depends on nobody", func(tx clearing.Tx) error {
		return tx.PutValidation(plain.Digest, plain.Payable, clearing.Validation{})
	})
	b.refused("a validation of a guarantee that is not there", func(tx clearing.Tx) error {
		return tx.PutValidation(hash(200), amount(1), clearing.Validation{})
	})
}

func cycles(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	statuses := []clearing.CycleStatus{clearing.Closed, clearing.Failed, clearing.Final, clearing.Committed, clearing.Netted, clearing.Frozen, clearing.Open}
	var all []clearing.Cycle
	b.write(func(tx clearing.Tx) error {
		for i, s := range statuses {
			c := makeCycle(ref(2, 1000+uint64(i)*9000), s) // so that an order by text shows
			all = append(all, c)
		}
		for _, i := range []int{3, 0, 6, 1, 5, 2, 4} {
			if err := tx.PutCycle(all[i]); err != nil {
				return err
			}
		}
		return tx.PutCycle(makeCycle(ref(3, 1000), clearing.Open))
	})
	changed := clearing.Cycle{Ref: all[3].Ref, Status: clearing.Final}
	b.write(func(tx clearing.Tx) error { return tx.PutCycle(changed) })
	all[3] = changed
	slices.Reverse(all)
	b.read(func(tx clearing.Tx) error {
		for _, want := range all {
			got, found, err := tx.Cycle(want.Ref)
			if err != nil || !found {
				t.Errorf("cycle: %v, %v", found, err)
			}
			is(t, "cycle", got, want)
			got, found, err = tx.CycleByID(want.Ref.ID())
			if err != nil || !found {
				t.Errorf("cycle by id: %v, %v", found, err)
			}
			is(t, "cycle by id", got, want)
		}
		for _, c := range []struct {
			open  bool
			limit int
			want  []clearing.Cycle
		}{{false, 0, all}, {false, 2, all[:2]}, {true, 0, all[:6]}, {true, 6, all[:6]}, {true, 1, all[:1]}, {false, 100, all}} {
			got, err := tx.Cycles(addr(2), c.open, c.limit)
			if err != nil {
				return err
			}
			is(t, fmt.Sprintf("cycles, open %v, limit %d", c.open, c.limit), got, c.want)
		}
		if _, found, err := tx.Cycle(ref(2, 1)); found || err != nil {
			t.Errorf("cycle that is not there: %v, %v", found, err)
		}
		if _, found, err := tx.CycleByID(hash(1)); found || err != nil {
			t.Errorf("id of no cycle: %v, %v", found, err)
		}
		none, err := tx.Cycles(addr(9), false, 0)
		is(t, "cycles of no asset", len(none), 0)
		return err
	})
}

func makePositions(n int) []clearing.Position {
	ps := make([]clearing.Position, n)
	for i := range ps {
		ps[i] = clearing.Position{
			Index: uint64(i), Participant: evm.Address{byte(i >> 8), byte(i), 5}, Role: clearing.Role(i % 3), Amount: amount(uint64(i) + 1),
			Out: amount(uint64(i) + 1), In: amount(uint64(i) + 2), Backed: money.Units(uint64(i % 2)), Statement: hash(byte(i)), Filled: amount(uint64(i) + 3),
			Flags: clearing.PositionFlags{Paid: i%2 == 0, Claimed: i%3 == 0, Defaulted: i%5 == 0},
		}
		if ps[i].Role == clearing.Flat {
			ps[i].Amount = money.Amount{}
		}
	}
	return ps
}

func positions(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	c := ref(2, 1000)
	first, second := makePositions(5), makePositions(3)
	b.write(func(tx clearing.Tx) error {
		return errors.Join(tx.PutCycle(makeCycle(c, clearing.Netted)), tx.PutPositions(c, 0, makePositions(4)),
			tx.PutPositions(c, 0, first), tx.PutPositions(c, 1, second))
	})
	first[2].Filled, first[2].Flags = amount(50), clearing.PositionFlags{Defaulted: true}
	b.write(func(tx clearing.Tx) error {
		return tx.MarkPosition(c, 0, first[2].Participant, first[2].Filled, first[2].Flags)
	})
	b.refused("marking a position that is not there", func(tx clearing.Tx) error {
		return tx.MarkPosition(c, 0, addr(99), money.Amount{}, clearing.PositionFlags{Paid: true})
	})
	b.refused("marking a position of no generation", func(tx clearing.Tx) error {
		return tx.MarkPosition(c, 2, first[0].Participant, money.Amount{}, clearing.PositionFlags{Paid: true})
	})
	b.read(func(tx clearing.Tx) error {
		for generation, want := range [][]clearing.Position{first, second} {
			got, err := tx.Positions(c, uint64(generation))
			if err != nil {
				return err
			}
			is(t, "positions", got, want)
			for _, p := range want {
				one, found, err := tx.Position(c, uint64(generation), p.Participant)
				if err != nil || !found {
					t.Errorf("position: %v, %v", found, err)
				}
				is(t, "position", one, p)
			}
		}
		if _, found, err := tx.Position(c, 1, first[4].Participant); found || err != nil {
			t.Errorf("position of another generation: %v, %v", found, err)
		}
		none, err := tx.Positions(c, 2)
		is(t, "positions of no generation", len(none), 0)
		return err
	})
	b.write(func(tx clearing.Tx) error { return tx.PutPositions(c, 0, nil) })
	b.read(func(tx clearing.Tx) error {
		none, err := tx.Positions(c, 0)
		is(t, "positions taken away", len(none), 0)
		left, err2 := tx.Positions(c, 1)
		is(t, "positions of the other generation", left, second)
		return errors.Join(err, err2)
	})
}

// More rows than a database takes parameters in one statement.
func unsettled(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	who := addr(7)
	at := func(role clearing.Role, flags clearing.PositionFlags) []clearing.Position {
		return []clearing.Position{{Participant: who, Role: role, Amount: amount(1), Flags: flags}}
	}
	b.write(func(tx clearing.Tx) error {
		var err error
		for i, ps := range [][]clearing.Position{
			at(clearing.Debtor, clearing.PositionFlags{}),
			at(clearing.Debtor, clearing.PositionFlags{Paid: true}),
			at(clearing.Debtor, clearing.PositionFlags{Defaulted: true}),
			at(clearing.Creditor, clearing.PositionFlags{}),
			at(clearing.Creditor, clearing.PositionFlags{Claimed: true}),
			{{Participant: who, Role: clearing.Flat}},
		} {
			c := makeCycle(ref(2, uint64(1000+i)), clearing.Final)
			err = errors.Join(err, tx.PutCycle(c), tx.PutPositions(c.Ref, c.Generation, ps))
		}
		voided := makeCycle(ref(2, 2000), clearing.Final)
		other := makeCycle(ref(3, 1000), clearing.Final)
		return errors.Join(err, tx.PutCycle(voided), tx.PutPositions(voided.Ref, voided.Generation-1, at(clearing.Creditor, clearing.PositionFlags{})),
			tx.PutCycle(other), tx.PutPositions(other.Ref, other.Generation, at(clearing.Creditor, clearing.PositionFlags{})))
	})
	b.read(func(tx clearing.Tx) error {
		all, err := tx.Unsettled(addr(2), who, 0)
		is(t, "unsettled cycles", all, []clearing.CycleRef{ref(2, 1003), ref(2, 1000)})
		newest, err2 := tx.Unsettled(addr(2), who, 1)
		is(t, "the newest one", newest, []clearing.CycleRef{ref(2, 1003)})
		none, err3 := tx.Unsettled(addr(2), addr(8), 0)
		is(t, "of a stranger", len(none), 0)
		return errors.Join(err, err2, err3)
	})
}

func manyPositions(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	c := ref(2, 1000)
	ps := makePositions(5000)
	b.write(func(tx clearing.Tx) error {
		return errors.Join(tx.PutCycle(makeCycle(c, clearing.Netted)), tx.PutPositions(c, 0, ps))
	})
	b.read(func(tx clearing.Tx) error {
		got, err := tx.Positions(c, 0)
		if len(got) != len(ps) {
			t.Fatalf("%d positions, want %d", len(got), len(ps))
		}
		for i := range ps {
			if got[i] != ps[i] {
				t.Fatalf("position %d: %+v, want %+v", i, got[i], ps[i])
			}
		}
		return err
	})
}

func schedules(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	make := func(asset byte, from uint64) clearing.Schedule {
		return clearing.Schedule{Asset: addr(asset), From: from, Length: 2, Cutoff: 3, Post: 4, Challenge: 5, Repost: 6, Redeem: 7}
	}
	late, early, other := make(2, 10_000), make(2, 9_000), make(3, 1)
	old := early
	old.Length = 99
	b.write(func(tx clearing.Tx) error {
		return errors.Join(tx.PutSchedule(late), tx.PutSchedule(old), tx.PutSchedule(other), tx.PutSchedule(early))
	})
	b.read(func(tx clearing.Tx) error {
		got, err := tx.Schedules(addr(2))
		is(t, "schedules", got, []clearing.Schedule{early, late})
		assets, err2 := tx.Assets()
		slices.SortFunc(assets, func(a, b evm.Address) int { return slices.Compare(a[:], b[:]) })
		is(t, "assets", assets, []evm.Address{addr(2), addr(3)})
		none, err3 := tx.Schedules(addr(9))
		is(t, "schedules of no asset", len(none), 0)
		return errors.Join(err, err2, err3)
	})
	b.write(func(tx clearing.Tx) error {
		return errors.Join(tx.DropSchedule(addr(2), late.From), tx.DropSchedule(addr(3), other.From))
	})
	b.read(func(tx clearing.Tx) error {
		got, err := tx.Schedules(addr(2))
		is(t, "schedules", got, []clearing.Schedule{early})
		assets, err2 := tx.Assets()
		is(t, "assets", assets, []evm.Address{addr(2)})
		return errors.Join(err, err2)
	})
}

func signers(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	make := func(owner, key byte, until uint64) clearing.Signer {
		return clearing.Signer{Owner: addr(owner), Key: addr(key), Until: until}
	}
	late, early, foreign := make(2, 9, clearing.Forever), make(2, 3, 7), make(4, 3, 8)
	b.write(func(tx clearing.Tx) error {
		return errors.Join(tx.PutSigner(late), tx.PutSigner(make(2, 3, 99)), tx.PutSigner(foreign), tx.PutSigner(early))
	})
	b.read(func(tx clearing.Tx) error {
		list, err1 := tx.Signers(addr(2))
		is(t, "signers", list, []clearing.Signer{early, late})
		got, found, err2 := tx.Signer(addr(4), addr(3))
		is(t, "signer", got, foreign)
		is(t, "signer is there", found, true)
		_, found, err3 := tx.Signer(addr(4), addr(9))
		is(t, "another owner's", found, false)
		return errors.Join(err1, err2, err3)
	})
	b.write(func(tx clearing.Tx) error { return tx.DropSigner(addr(2), addr(3)) })
	b.read(func(tx clearing.Tx) error {
		list, err := tx.Signers(addr(2))
		is(t, "signers", list, []clearing.Signer{late})
		return err
	})
}

func wallet(n byte) clearing.Wallet {
	return clearing.Wallet{
		Address: addr(n), Name: fmt.Sprintf("Bäckerei %d", n), Contact: "a@example.org", Role: "user", Scopes: []string{"tab:read", "tab:create"},
		Status: clearing.WalletActive, Member: true, Limit: amount(uint64(n)), Limited: true, UpdatedAt: 1_782_122_400_000 + int64(n),
	}
}

func wallets(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	stamps := make(map[uint64]bool)
	stamp := func(fresh bool) {
		t.Helper()
		b.read(func(tx clearing.Tx) error {
			s, err := tx.WalletsStamp()
			if stamps[s] == fresh {
				t.Errorf("stamp %d: new is %v", s, !fresh)
			}
			stamps[s] = true
			return err
		})
	}
	stamp(true)
	b.read(func(tx clearing.Tx) error {
		_, found, err := tx.Wallet(addr(1))
		is(t, "found in an empty book", found, false)
		list, err2 := tx.Wallets(evm.Address{}, 10)
		is(t, "wallets of an empty book", len(list), 0)
		return errors.Join(err, err2)
	})
	plain := clearing.Wallet{Address: addr(3), Status: clearing.WalletSuspended}
	b.write(func(tx clearing.Tx) error {
		return errors.Join(tx.PutWallet(wallet(2)), tx.PutWallet(wallet(1)), tx.PutWallet(plain))
	})
	stamp(true)
	stamp(false)
	b.read(func(tx clearing.Tx) error {
		w, found, err := tx.Wallet(addr(2))
		is(t, "found", found, true)
		is(t, "wallet", w, wallet(2))
		list, err2 := tx.Wallets(evm.Address{}, 2)
		is(t, "first page", list, []clearing.Wallet{wallet(1), wallet(2)})
		list, err3 := tx.Wallets(addr(2), 2)
		is(t, "second page", list, []clearing.Wallet{plain})
		return errors.Join(err, err2, err3)
	})
	// A write that is undone takes its stamp with it, and no other one has it.
	failure := errors.New("no")
	var undone uint64
	err := b.Write(t.Context(), func(tx clearing.Tx) error {
		err := tx.PutWallet(plain)
		var err2 error
		undone, err2 = tx.WalletsStamp()
		return errors.Join(err, err2, failure)
	})
	is(t, "the closure's error comes back", errors.Is(err, failure), true)
	stamp(false)
	stamps[undone] = true
	b.write(func(tx clearing.Tx) error { return tx.PutWallet(wallet(1)) })
	stamp(true)
	b.refused("a status that is none", func(tx clearing.Tx) error { return tx.PutWallet(clearing.Wallet{Address: addr(9), Status: "gone"}) })
}

func calls(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	call := evm.Call{ID: "post/0x…/1", From: addr(1), To: addr(2), Value: [32]byte{31: 5}, Data: []byte{0, 1, 0xff}, GasLimit: 1 << 40}
	b.write(func(tx clearing.Tx) error { return tx.Enqueue(call) })
	b.write(func(tx clearing.Tx) error { return tx.Enqueue(call) }) // asking twice is asking once
	for name, change := range map[string]func(*evm.Call){
		"other data": func(c *evm.Call) { c.Data = []byte{1} }, "another sender": func(c *evm.Call) { c.From = addr(9) },
		"another value": func(c *evm.Call) { c.Value[0] = 1 },
	} {
		other := call
		change(&other)
		err := b.Write(t.Context(), func(tx clearing.Tx) error { return tx.Enqueue(other) })
		if !errors.Is(err, evm.ErrCallConflict) {
			t.Errorf("%s under a call's ID: %v, want %v", name, err, evm.ErrCallConflict)
		}
	}
	empty := evm.Call{ID: "finalize", From: addr(1)}
	b.write(func(tx clearing.Tx) error { return tx.Enqueue(empty) })
	b.read(func(tx clearing.Tx) error {
		for _, id := range []string{call.ID, empty.ID} {
			if state, found, err := tx.CallState(id); err != nil || !found || state != evm.CallQueued {
				t.Errorf("state of %s: %s, %v, %v", id, state, found, err)
			}
		}
		if state, found, err := tx.CallState("nobody's"); err != nil || found || state != "" {
			t.Errorf("state of no call: %s, %v, %v", state, found, err)
		}
		return nil
	})
}

func makeEvents(n int) []clearing.Event {
	events := make([]clearing.Event, n)
	for i := range events {
		events[i] = clearing.Event{
			Kind: clearing.Deposited, TxHash: hash(byte(i)), LogIndex: uint64(100 - i), Account: addr(1), Asset: addr(2), Amount: amount(3), Cycle: hash(4),
			Root: hash(5), Generation: 6, Chunk: 7, Time: 8, On: true, Ignored: "because", Undo: []byte(`{"a":1}`),
		}
	}
	if n > 1 {
		events[1] = clearing.Event{Kind: clearing.ScheduleSet, Schedule: &clearing.Schedule{Asset: addr(2), From: 1, Length: 2}}
	}
	return events
}

func blocks(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	make := func(n uint64) clearing.Block {
		return clearing.Block{Number: n, Hash: hash(byte(n)), Time: 1000 + n}
	}
	b.write(func(tx clearing.Tx) error {
		return errors.Join(tx.PutBlock(clearing.Head, make(8), nil), tx.PutBlock(clearing.Head, make(9), makeEvents(3)),
			tx.PutBlock(clearing.Head, make(10), makeEvents(1)), tx.PutBlock(clearing.Head, make(12), nil), tx.PutBlock(clearing.Confirmed, make(8), makeEvents(2)))
	})
	b.refused("the same block again", func(tx clearing.Tx) error { return tx.PutBlock(clearing.Head, make(12), nil) })
	b.refused("an older block", func(tx clearing.Tx) error { return tx.PutBlock(clearing.Head, make(11), nil) })
	b.refused("dropping a block that is not the newest", func(tx clearing.Tx) error { _, err := tx.DropBlock(clearing.Head, 10); return err })
	b.refused("dropping a block that is not there", func(tx clearing.Tx) error { _, err := tx.DropBlock(clearing.Head, 13); return err })
	check := func(stream clearing.Stream, limit int, want ...uint64) {
		t.Helper()
		b.read(func(tx clearing.Tx) error {
			got, err := tx.Blocks(stream, limit)
			var blocks []clearing.Block
			for _, n := range want {
				blocks = append(blocks, make(n))
			}
			if len(got) != 0 || len(blocks) != 0 {
				is(t, "blocks", got, blocks)
			}
			return err
		})
	}
	check(clearing.Head, 10, 12, 10, 9, 8)
	check(clearing.Head, 2, 12, 10)
	check(clearing.Confirmed, 10, 8)
	drop := func(stream clearing.Stream, n uint64, want []clearing.Event) {
		t.Helper()
		b.write(func(tx clearing.Tx) error {
			got, err := tx.DropBlock(stream, n)
			if len(got) != 0 || len(want) != 0 {
				is(t, "events of a dropped block", got, want)
			}
			return err
		})
	}
	drop(clearing.Head, 12, nil)
	drop(clearing.Head, 10, makeEvents(1))
	drop(clearing.Head, 9, makeEvents(3))
	check(clearing.Head, 10, 8)
	check(clearing.Confirmed, 10, 8)
	b.write(func(tx clearing.Tx) error { return tx.PutBlock(clearing.Head, make(9), makeEvents(2)) }) // the other branch
	b.write(func(tx clearing.Tx) error { return tx.PruneBlocks(clearing.Head, 9) })
	check(clearing.Head, 10, 9)
	check(clearing.Confirmed, 10, 8)
	drop(clearing.Head, 9, makeEvents(2))
	check(clearing.Head, 10)
	drop(clearing.Confirmed, 8, makeEvents(2))
}

// everything writes one row of each kind; n makes them differ.
func everything(tx clearing.Tx, n byte) error {
	c := ref(2, 1000+uint64(n))
	g := makeGuarantee(n, 1, 2, c)
	a := account(n, 2)
	err := errors.Join(
		tx.PutAccount(a),
		tx.PutBalance(ledger.Account{Kind: ledger.World, Asset: addr(n)}, balance(uint64(n))),
		tx.AddTransfer(ledger.Transfer{ID: fmt.Sprint("transfer ", n), Debit: ledger.Account{Kind: ledger.World, Asset: addr(2)}, Credit: ledger.Account{Kind: ledger.Bond, Asset: addr(2)}, Amount: amount(1)}),
		tx.PutCycle(makeCycle(c, clearing.Open)),
		tx.AddGuarantee(g),
		tx.PutPositions(c, 0, makePositions(2)),
		tx.MarkPosition(c, 0, makePositions(1)[0].Participant, amount(9), clearing.PositionFlags{}),
		tx.PutSchedule(clearing.Schedule{Asset: addr(n), From: uint64(n), Length: 1}),
		tx.PutSigner(clearing.Signer{Owner: addr(n), Key: addr(1), Until: 1}),
		tx.Enqueue(evm.Call{ID: fmt.Sprint("call ", n), From: addr(1), Data: []byte{n}}),
		tx.PutBlock(clearing.Confirmed, clearing.Block{Number: uint64(n), Hash: hash(n), Time: 1}, makeEvents(1)),
	)
	note := makeNote(n, g.Digest, money.Units(1))
	return errors.Join(err, tx.LowerGuarantee(g.Digest, money.Units(1), note, hash(n)))
}

// nothing checks that of what everything writes not a row is there.
func nothing(t *testing.T, tx clearing.Tx, n byte) error {
	t.Helper()
	c := ref(2, 1000+uint64(n))
	a, err1 := tx.Account(addr(n), addr(2))
	is(t, "account", a.Balance, ledger.Balance{})
	bal, err2 := tx.Balance(ledger.Account{Kind: ledger.World, Asset: addr(n)})
	is(t, "balance", bal, ledger.Balance{})
	_, cycle, err3 := tx.Cycle(c)
	is(t, "cycle", cycle, false)
	_, g, err4 := tx.GuaranteeByDigest(hash(n))
	is(t, "guarantee", g, false)
	_, k, err5 := tx.GuaranteeByKey(makeGuarantee(n, 1, 2, c).Signed.Claims.Key())
	is(t, "key", k, false)
	payable, err6 := tx.PayableBy(c, addr(1))
	is(t, "payable", payable, money.Amount{})
	ps, err7 := tx.Positions(c, 0)
	is(t, "positions", len(ps), 0)
	s, err8 := tx.Schedules(addr(n))
	is(t, "schedules", len(s), 0)
	signers, err11 := tx.Signers(addr(n))
	is(t, "signers", len(signers), 0)
	_, call, err9 := tx.CallState(fmt.Sprint("call ", n))
	is(t, "call", call, false)
	bs, err10 := tx.Blocks(clearing.Confirmed, 10)
	for _, b := range bs {
		is(t, "block", b.Number != uint64(n), true)
	}
	return errors.Join(err1, err2, err3, err4, err5, err6, err7, err8, err9, err10, err11)
}

func rollback(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	b.write(func(tx clearing.Tx) error { return everything(tx, 1) })
	failure := errors.New("no")
	err := b.Write(t.Context(), func(tx clearing.Tx) error {
		if err := everything(tx, 2); err != nil {
			return err
		}
		// And what was there before is changed.
		c := ref(2, 1001)
		if err := errors.Join(tx.PutAccount(clearing.Account{Owner: addr(1), Asset: addr(2)}), tx.PutCycle(clearing.Cycle{Ref: c, Status: clearing.Closed}),
			tx.PutPositions(c, 0, nil), tx.DropTransfer("transfer 1"), tx.DropSchedule(addr(1), 1), tx.LowerGuarantee(hash(1), money.Amount{}, makeNote(3, hash(1), money.Amount{}), hash(1))); err != nil {
			return err
		}
		if _, err := tx.DropBlock(clearing.Confirmed, 2); err != nil {
			return err
		}
		if _, err := tx.DropBlock(clearing.Confirmed, 1); err != nil {
			return err
		}
		return failure
	})
	if !errors.Is(err, failure) {
		t.Errorf("the closure's error comes back as %v", err)
	}
	b.read(func(tx clearing.Tx) error { return nothing(t, tx, 2) })
	b.read(func(tx clearing.Tx) error {
		c := ref(2, 1001)
		a, err := tx.Account(addr(1), addr(2))
		is(t, "account", a, account(1, 2))
		cycle, _, err2 := tx.Cycle(c)
		is(t, "cycle", cycle, makeCycle(c, clearing.Open))
		g, _, err3 := tx.GuaranteeByDigest(hash(1))
		is(t, "payable", g.Payable, money.Units(1))
		ps, err4 := tx.Positions(c, 0)
		is(t, "positions", len(ps), 2)
		blocks, err5 := tx.Blocks(clearing.Confirmed, 5)
		is(t, "blocks", len(blocks), 1)
		return errors.Join(err, err2, err3, err4, err5)
	})
	b.write(func(tx clearing.Tx) error { return everything(tx, 2) }) // and nothing is in its way
	b.refused("a transfer that was there before", func(tx clearing.Tx) error { return tx.AddTransfer(ledger.Transfer{ID: "transfer 1"}) })
}

func panics(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	func() {
		defer func() {
			if r := recover(); r == nil {
				t.Error("the panic is swallowed")
			}
		}()
		_ = b.Write(t.Context(), func(tx clearing.Tx) error {
			if err := everything(tx, 1); err != nil {
				return err
			}
			panic("broken")
		})
	}()
	b.read(func(tx clearing.Tx) error { return nothing(t, tx, 1) })
	b.write(func(tx clearing.Tx) error { return everything(tx, 1) })
}

func readsOwnWrites(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	b.write(func(tx clearing.Tx) error {
		if err := everything(tx, 1); err != nil {
			return err
		}
		c := ref(2, 1001)
		a, err := tx.Account(addr(1), addr(2))
		is(t, "account", a, account(1, 2))
		g, found, err2 := tx.GuaranteeByKey(makeGuarantee(1, 1, 2, c).Signed.Claims.Key())
		is(t, "guarantee found", found, true)
		is(t, "payable", g.Payable, money.Units(1))
		sum, err3 := tx.PayableBy(c, addr(1))
		is(t, "payable by", sum, money.Units(1))
		all, err4 := collect(tx.Guarantees(c))
		is(t, "guarantees", len(all), 1)
		cycles, err5 := tx.Cycles(addr(2), true, 0)
		is(t, "cycles", cycles, []clearing.Cycle{makeCycle(c, clearing.Open)})
		p, found, err6 := tx.Position(c, 0, makePositions(1)[0].Participant)
		is(t, "position found", found, true)
		is(t, "filled", p.Filled, amount(9))
		state, _, err7 := tx.CallState("call 1")
		is(t, "call", state, evm.CallQueued)
		blocks, err8 := tx.Blocks(clearing.Confirmed, 1)
		is(t, "blocks", len(blocks), 1)
		assets, err9 := tx.Assets()
		is(t, "assets", assets, []evm.Address{addr(1)})
		rows, err10 := collect(tx.Balances(addr(2)))
		is(t, "balances", len(rows), 1)
		return errors.Join(err, err2, err3, err4, err5, err6, err7, err8, err9, err10)
	})
}

// Whoever has seen enough stops, and the transaction is as good as before.
func iterators(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	c := ref(2, 1000)
	b.write(func(tx clearing.Tx) error {
		if err := tx.PutCycle(makeCycle(c, clearing.Open)); err != nil {
			return err
		}
		for i := range byte(10) {
			if err := errors.Join(tx.AddGuarantee(makeGuarantee(i+1, 1, 2, c)), tx.PutAccount(account(i+1, 2))); err != nil {
				return err
			}
		}
		for g, err := range tx.Guarantees(c) {
			is(t, "first guarantee", g.Digest, hash(1))
			if err != nil {
				return err
			}
			break
		}
		for _, err := range tx.GuaranteesOf(c, addr(2)) {
			if err != nil {
				return err
			}
			break
		}
		for _, err := range tx.Balances(addr(2)) {
			if err != nil {
				return err
			}
			break
		}
		return tx.PutCycle(makeCycle(ref(2, 2000), clearing.Open))
	})
}

func cancelled(t *testing.T, b0 clearing.Book) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b0.Write(ctx, func(tx clearing.Tx) error { return everything(tx, 1) }); !errors.Is(err, context.Canceled) {
		t.Errorf("write: %v", err)
	}
	b := book{t, b0}
	b.read(func(tx clearing.Tx) error { return nothing(t, tx, 1) })
}

// Writes that read before they write do not lose each other's work.
func concurrent(t *testing.T, b0 clearing.Book) {
	b := book{t, b0}
	const writers, each = 8, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				err := b.Write(t.Context(), func(tx clearing.Tx) error {
					a, err := tx.Account(addr(1), addr(2))
					if err != nil {
						return err
					}
					a.Owner, a.Asset = addr(1), addr(2)
					a.Balance.CreditsPosted, _ = a.Balance.CreditsPosted.Add(money.Units(1))
					return tx.PutAccount(a)
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.read(func(tx clearing.Tx) error {
		a, err := tx.Account(addr(1), addr(2))
		is(t, "sum of all writers", a.Balance.CreditsPosted, money.Units(writers*each))
		return err
	})
}
