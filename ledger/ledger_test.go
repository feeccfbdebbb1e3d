package ledger

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

var largest, _ = money.ParseAmount("0xffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff")

func units(n uint64) money.Amount { return money.Units(n) }

func TestReserve(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name            string
		deposited, took uint64
		pending         uint64
		amount, held    money.Amount
		want            error
		available       uint64
	}{
		{"all of it", 100, 0, 0, units(100), units(0), nil, 0},
		{"one more than there is", 100, 0, 0, units(101), units(0), ErrInsufficient, 100},
		{"what others have left", 100, 20, 30, units(50), units(0), nil, 0},
		{"one more than others have left", 100, 20, 30, units(51), units(0), ErrInsufficient, 50},
		{"beside what is held", 100, 0, 0, units(60), units(40), nil, 40},
		{"into what is held", 100, 0, 0, units(61), units(40), ErrInsufficient, 100},
		{"nothing, all of it held", 100, 0, 0, units(0), units(100), nil, 100},
		{"nothing of nothing", 0, 0, 0, units(0), units(0), nil, 0},
		{"after more was taken than came", 100, 120, 0, units(1), units(0), ErrInsufficient, 0},
		{"with a sum past 256 bits", 100, 0, 0, largest, units(1), ErrOverflow, 100},
		{"the largest amount", 100, 0, 0, largest, units(0), ErrInsufficient, 100},
	} {
		b := Balance{CreditsPosted: units(c.deposited), DebitsPosted: units(c.took), DebitsPending: units(c.pending)}
		before := b
		if err := b.Reserve(c.amount, c.held); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if c.want != nil && b != before {
			t.Errorf("%s: a refused reservation changes the balance to %+v", c.name, b)
		}
		if b.Available() != units(c.available) {
			t.Errorf("%s: %s available, want %d", c.name, b.Available(), c.available)
		}
	}
}

func TestAvailableNeverWraps(t *testing.T) {
	t.Parallel()
	b := Balance{CreditsPosted: units(5), DebitsPosted: largest, DebitsPending: largest}
	if !b.Available().IsZero() {
		t.Errorf("%s available", b.Available())
	}
}

func TestVoid(t *testing.T) {
	t.Parallel()
	b := Balance{CreditsPosted: units(100), DebitsPending: units(40)}
	if err := b.Void(units(41)); !errors.Is(err, ErrPending) || b.DebitsPending != units(40) {
		t.Errorf("voiding more than is pending: %v, %s pending", err, b.DebitsPending)
	}
	if err := b.Void(units(40)); err != nil || b.Available() != units(100) {
		t.Errorf("%v, %s available", err, b.Available())
	}
}

// An obligation that comes back with a reorg stands, whatever is there to cover it.
func TestReserveAnyway(t *testing.T) {
	t.Parallel()
	b := Balance{CreditsPosted: units(10)}
	if err := b.ReserveAnyway(units(30)); err != nil || b.DebitsPending != units(30) || !b.Available().IsZero() {
		t.Errorf("%v, %+v", err, b)
	}
	if err := b.ReserveAnyway(largest); !errors.Is(err, ErrOverflow) || b.DebitsPending != units(30) {
		t.Errorf("past 256 bits: %v, %+v", err, b)
	}
}

func TestApply(t *testing.T) {
	t.Parallel()
	asset := evm.Address{1}
	world := Account{Kind: World, Asset: asset}
	alice := Account{Kind: Collateral, Asset: asset, Owner: evm.Address{2}}
	for _, c := range []struct {
		name          string
		transfer      Transfer
		debit, credit Balance
		wrong         bool
	}{
		{"a deposit", Transfer{Debit: world, Credit: alice, Amount: units(5)}, Balance{}, Balance{}, false},
		{"to itself", Transfer{Debit: alice, Credit: alice, Amount: units(5)}, Balance{}, Balance{}, true},
		{"between assets", Transfer{Debit: world, Credit: Account{Kind: Collateral, Asset: evm.Address{9}}, Amount: units(5)}, Balance{}, Balance{}, true},
		{"past 256 bits on one side", Transfer{Debit: world, Credit: alice, Amount: units(5)}, Balance{}, Balance{CreditsPosted: largest}, true},
		{"past 256 bits on the other", Transfer{Debit: world, Credit: alice, Amount: units(5)}, Balance{DebitsPosted: largest}, Balance{}, true},
	} {
		debit, credit := c.debit, c.credit
		if err := c.transfer.Apply(&debit, &credit); (err != nil) != c.wrong {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.wrong && (debit != c.debit || credit != c.credit) {
			t.Errorf("%s: a refused transfer changes a balance", c.name)
		}
		if c.wrong {
			continue
		}
		if debit.DebitsPosted != units(5) || credit.CreditsPosted != units(5) {
			t.Errorf("%s: %+v, %+v", c.name, debit, credit)
		}
		if err := c.transfer.Unapply(&debit, &credit); err != nil || debit != c.debit || credit != c.credit {
			t.Errorf("%s: taken back: %v, %+v, %+v", c.name, err, debit, credit)
		}
		if err := c.transfer.Unapply(&debit, &credit); !errors.Is(err, ErrNotPosted) || debit != c.debit || credit != c.credit {
			t.Errorf("%s: taken back twice: %v, %+v, %+v", c.name, err, debit, credit)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	if err := Check(nil); err != nil {
		t.Error(err)
	}
	if err := Check([]Balance{{DebitsPosted: units(5)}, {CreditsPosted: units(4)}}); err == nil {
		t.Error("one side is missing a unit, and nobody says so")
	}
	if err := Check([]Balance{{DebitsPosted: units(5)}, {CreditsPosted: units(5), DebitsPending: units(3)}}); err != nil {
		t.Errorf("pending amounts have no other side: %v", err)
	}
	if err := Check([]Balance{{DebitsPosted: largest}, {DebitsPosted: units(1)}}); !errors.Is(err, ErrOverflow) {
		t.Errorf("a sum past 256 bits: %v", err)
	}
}

// Whatever is reserved, voided, moved and taken back: the books balance, nothing is reserved past what is there, and
// undoing everything in reverse leaves what there was.
func TestLedgerHolds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const accounts = 4
		var all [accounts]Balance
		pending := [accounts]uint64{}
		type move struct{ from, to int }
		var done []Transfer
		var moves []move
		account := func(i int) Account { return Account{Kind: Collateral, Owner: evm.Address{byte(i)}} }
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			i := rapid.IntRange(0, accounts-1).Draw(t, "account")
			n := rapid.Uint64Range(0, 50).Draw(t, "amount")
			switch rapid.IntRange(0, 2).Draw(t, "action") {
			case 0:
				j := (i + rapid.IntRange(1, accounts-1).Draw(t, "other")) % accounts
				tr := Transfer{ID: "t", Debit: account(i), Credit: account(j), Amount: units(n)}
				if err := tr.Apply(&all[i], &all[j]); err != nil {
					t.Fatal(err)
				}
				done, moves = append(done, tr), append(moves, move{i, j})
			case 1:
				free, held := all[i].Available(), units(rapid.Uint64Range(0, 30).Draw(t, "held"))
				need, _ := units(n).Add(held)
				err := all[i].Reserve(units(n), held)
				if (err == nil) != !free.Less(need) {
					t.Fatalf("reserving %d beside %s of %s: %v", n, held, free, err)
				}
				if err == nil {
					pending[i] += n
				}
			case 2:
				if err := all[i].Void(units(n)); (err == nil) != (n <= pending[i]) {
					t.Fatalf("voiding %d of %d: %v", n, pending[i], err)
				} else if err == nil {
					pending[i] -= n
				}
			}
			if err := Check(all[:]); err != nil {
				t.Fatal(err)
			}
			if all[i].DebitsPending != units(pending[i]) {
				t.Fatalf("pending %s, want %d", all[i].DebitsPending, pending[i])
			}
		}
		for k := len(done) - 1; k >= 0; k-- {
			if err := done[k].Unapply(&all[moves[k].from], &all[moves[k].to]); err != nil {
				t.Fatal(err)
			}
		}
		for i, b := range all {
			if b != (Balance{DebitsPending: units(pending[i])}) {
				t.Fatalf("account %d ends as %+v", i, b)
			}
		}
	})
}
