package clearing

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/ledger"
	"github.com/farthing402/farthing/money"
)

func TestReads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	w.deposit(1, 100)
	ctx := t.Context()
	first := w.owe(0, 1, 10, start)
	w.owe(1, 0, 5, start)
	w.owe(0, 2, 7, start)
	last := w.owe(0, 1, 3, end)
	ref := first.Cycle

	s, err := w.Guarantee(ctx, first.Digest)
	if err != nil || s.Status != StatusPayable || s.Cycle.Ref != ref {
		t.Errorf("by digest: %+v, %v", s, err)
	}
	byKey, err := w.GuaranteeByKey(ctx, s.Guarantee.Signed.Claims.Key())
	if err != nil || byKey != s {
		t.Errorf("by key: %+v, %v", byKey, err)
	}
	again, err := w.Certificate(s.Guarantee)
	if err != nil || again.Signature != first.Certificate.Signature {
		t.Errorf("certificate made again: %v", err)
	}
	payer := party(0)
	all, err := w.List(ctx, Listing{Asset: dollar, Payer: &payer, InCycle: true, Start: ref.Start, Limit: 10})
	if err != nil || len(all) != 2 || all[1].Guarantee.Digest != first.Digest || all[1].Status != StatusPayable {
		t.Errorf("guarantees: %+v, %v", all, err)
	}
	for _, bad := range []Listing{{Asset: dollar, Limit: 1}, {Asset: dollar, Payer: &payer}, {Asset: dollar, Payer: &payer, Payee: &payer, Limit: 1}} {
		if _, err := w.List(ctx, bad); !errors.Is(err, errListing) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	page, err := w.List(ctx, Listing{Asset: dollar, Payer: &payer, Before: all[0].Place, Limit: 1})
	if err != nil || len(page) != 1 || page[0].Guarantee.Digest != first.Digest {
		t.Errorf("a page of them: %+v, %v", page, err)
	}
	if cycles, err := w.Cycles(ctx, dollar, 1); err != nil || len(cycles) != 1 || cycles[0].Ref != last.Cycle {
		t.Errorf("cycles: %+v, %v", cycles, err)
	}
	if assets, err := w.Assets(ctx); err != nil || !slices.Equal(assets, []evm.Address{dollar}) {
		t.Errorf("assets: %v, %v", assets, err)
	}
	if list, err := w.Schedules(ctx, dollar); err != nil || !slices.Equal(list, []Schedule{schedule}) {
		t.Errorf("schedules: %v, %v", list, err)
	}
	for _, id := range []string{ref.String(), strings.ToUpper(ref.String()), ref.ID().String(), strings.TrimPrefix(ref.ID().String(), "0x")} {
		if c, err := w.Cycle(ctx, id); err != nil || c.Ref != ref {
			t.Errorf("cycle %s: %+v, %v", id, c, err)
		}
	}
	statement, err := w.Statement(ctx, ref.String(), party(0))
	if err != nil || units(statement.Out) != 17 || units(statement.In) != 5 || len(statement.Entries) != 3 || statement.Entries[2].Direction != In {
		t.Errorf("running statement: %+v, %v", statement, err)
	}
	if a, err := w.House.Account(ctx, evm.Address{1}, dollar); err != nil || a.Owner != (evm.Address{1}) || a.Asset != dollar || !a.Headroom().IsZero() {
		t.Errorf("account of a stranger: %+v, %v", a, err)
	}

	for name, read := range map[string]func() error{
		"no digest":             func() error { _, err := w.Guarantee(ctx, evm.Hash{1}); return err },
		"no key":                func() error { _, err := w.GuaranteeByKey(ctx, guarantee.Key{}); return err },
		"no cycle":              func() error { _, err := w.Cycle(ctx, evm.Hash{1}.String()); return err },
		"no id":                 func() error { _, err := w.Cycle(ctx, "yesterday"); return err },
		"no asset in an id":     func() error { _, err := w.Cycle(ctx, "0x12:34"); return err },
		"no number in an id":    func() error { _, err := w.Cycle(ctx, dollar.Lower()+":now"); return err },
		"a number past 64 bits": func() error { _, err := w.Cycle(ctx, dollar.Lower()+":18446744073709551616"); return err },
		"proof before the net":  func() error { _, err := w.Proof(ctx, ref.String(), party(0)); return err },
		"statement of nobody":   func() error { _, err := w.Statement(ctx, ref.String(), party(9)); return err },
		"positions of nothing":  func() error { _, err := w.Positions(ctx, ""); return err },
	} {
		if err := read(); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Each status has one cause, and what payees do is none.
func TestStatus(t *testing.T) {
	t.Parallel()
	g := Guarantee{Payable: money.Units(1)}
	debtor, creditor, flat := Position{Role: Debtor}, Position{Role: Creditor}, Position{Role: Flat}
	paid, defaulted := debtor, debtor
	paid.Flags.Paid, defaulted.Flags.Defaulted = true, true
	for _, c := range []struct {
		cycle CycleStatus
		payer Position
		want  GuaranteeStatus
	}{
		{Open, Position{}, StatusPayable}, {Frozen, Position{}, StatusPayable}, {Netted, debtor, StatusNetted}, {Committed, debtor, StatusNetted},
		{Committed, paid, StatusSettled}, {Committed, creditor, StatusNetted}, {Final, creditor, StatusSettled}, {Final, flat, StatusSettled},
		{Final, debtor, StatusNetted}, {Final, defaulted, StatusRemunerate}, {Closed, debtor, StatusSettled}, {Closed, defaulted, StatusRemunerate},
		{Failed, debtor, StatusDisputed}, {Failed, Position{}, StatusDisputed},
	} {
		if got := Status(g, Cycle{Status: c.cycle}, c.payer); got != c.want {
			t.Errorf("payer %+v in a cycle that is %s: %s, want %s", c.payer, c.cycle, got, c.want)
		}
		if got := Status(Guarantee{}, Cycle{Status: c.cycle}, c.payer); got != StatusCancelled {
			t.Errorf("a guarantee of nothing in a cycle that is %s: %s", c.cycle, got)
		}
	}
}

// Check finds what does not belong, wherever it is.
func TestCheckFinds(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*Memory){
		"a unit too much in an account": func(m *Memory) {
			a := m.accounts[AccountKey{party(0), dollar}]
			a.Balance.CreditsPosted, _ = a.Balance.CreditsPosted.Add(money.Units(1))
			m.accounts[AccountKey{party(0), dollar}] = a
		},
		"exposure without a guarantee": func(m *Memory) {
			m.accounts[AccountKey{party(7), dollar}] = Account{Owner: party(7), Asset: dollar, Balance: ledger.Balance{DebitsPending: money.Units(1)}}
		},
		"a guarantee without exposure": func(m *Memory) {
			a := m.accounts[AccountKey{party(0), dollar}]
			a.Balance.DebitsPending = money.Amount{}
			m.accounts[AccountKey{party(0), dollar}] = a
		},
		"an account that is gone": func(m *Memory) {
			delete(m.accounts, AccountKey{party(0), dollar})
			m.balances[worldOf(dollar)] = ledger.Balance{}
			m.balances[potOf(CycleRef{dollar, start})] = ledger.Balance{}
		},
		"another position": func(m *Memory) {
			m.positions[cycleGeneration{CycleRef{dollar, start}, 0}].list[0].Amount = money.Units(61)
		},
		"a lost position": func(m *Memory) {
			key := cycleGeneration{CycleRef{dollar, start}, 0}
			m.positions[key] = postings{list: m.positions[key].list[:1]}
		},
		"another root": func(m *Memory) {
			c := m.cycles[CycleRef{dollar, start}]
			c.Root[0] ^= 1
			m.cycles[c.Ref] = c
		},
		"a claim that was not paid": func(m *Memory) {
			for i, p := range m.positions[cycleGeneration{CycleRef{dollar, start}, 0}].list {
				if p.Role == Creditor {
					m.positions[cycleGeneration{CycleRef{dollar, start}, 0}].list[i].Flags.Claimed = true
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.deposit(0, 100)
			w.owe(0, 1, 60, start)
			w.owe(0, 1, 20, end)
			w.closeAt(cutoff)
			w.status(Committed)
			w.check()
			spoil(w.memory)
			if err := w.Check(context.Background()); !errors.Is(err, ErrBroken) {
				t.Errorf("not found: %v", err)
			}
		})
	}
}
