package clearing

import (
	"context"
	"errors"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// say changes what the operator says of a party.
func (w *world) say(who int, change func(*Wallet)) {
	w.Helper()
	_, err := w.ChangeWallet(context.Background(), party(who), at(start), func(x *Wallet) error { change(x); return nil })
	if err != nil {
		w.Fatal(err)
	}
}

// A suspended payer is given nothing and a suspended payee receives nothing, by any house on the book and from the next
// admission on; what was certified stays so.
func TestSuspendedNeitherPromiseNorReceive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 1000)
	w.deposit(1, 1000)
	other, err := New(w.House.Config)
	if err != nil {
		t.Fatal(err)
	}
	before := w.sign(0, 1, 10, start)
	for _, h := range []*House{w.House, other} {
		if r := h.Admit(t.Context(), []Request{{Signed: before}}, at(start))[0]; r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	for _, status := range []WalletStatus{WalletSuspended, WalletRevoked} {
		w.say(1, func(x *Wallet) { x.Status = status })
		for _, h := range []*House{w.House, other} {
			reqs := []Request{{Signed: before}, {Signed: w.sign(0, 1, 10, start)}, {Signed: w.sign(1, 0, 10, start)}, {Signed: w.sign(0, 2, 10, start)}}
			rs := h.Admit(t.Context(), reqs, at(start))
			if rs[0].Err != nil || !rs[0].Replayed {
				t.Errorf("what was certified before: %v", rs[0].Err)
			}
			for i, want := range map[int]error{1: ErrSuspended, 2: ErrSuspended, 3: nil} {
				if !errors.Is(rs[i].Err, want) {
					t.Errorf("%s, request %d: %v, want %v", status, i, rs[i].Err, want)
				}
			}
		}
	}
	w.say(1, func(x *Wallet) { x.Status = WalletActive })
	if r := other.Admit(t.Context(), []Request{{Signed: w.sign(0, 1, 10, start)}}, at(start))[0]; r.Err != nil {
		t.Error(r.Err)
	}
	w.check()
}

// A house that stays open after a suspension whose write was undone must not keep to it.
func TestUndoneSuspensionIsNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 1000)
	failure := errors.New("no")
	err := w.Book.Write(t.Context(), func(tx Tx) error {
		if err := tx.PutWallet(Wallet{Address: party(0), Status: WalletSuspended}); err != nil {
			return err
		}
		if _, err := w.roster(tx); err != nil { // as an admission in the same physical transaction would
			return err
		}
		return failure
	})
	if !errors.Is(err, failure) {
		t.Fatal(err)
	}
	if r := w.admitOne(w.sign(0, 1, 10, start), start); r.Err != nil {
		t.Error(r.Err)
	}
	w.say(2, func(x *Wallet) { x.Name = "somebody" })
	if r := w.admitOne(w.sign(0, 1, 10, start), start); r.Err != nil {
		t.Error(r.Err)
	}
}

func TestMembersOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.MembersOnly = true })
	w.deposit(0, 1000)
	member := func(is bool) func(*Wallet) { return func(x *Wallet) { x.Member = is } }
	for _, step := range []struct {
		name         string
		payer, payee bool
		want         error
	}{
		{"neither", false, false, ErrNotMember}, {"the payer only", true, false, ErrNotMember},
		{"the payee only", false, true, ErrNotMember}, {"both", true, true, nil}, {"one was removed", false, true, ErrNotMember},
	} {
		w.say(0, member(step.payer))
		w.say(1, member(step.payee))
		if r := w.admitOne(w.sign(0, 1, 10, start), start); !errors.Is(r.Err, step.want) {
			t.Errorf("%s: %v, want %v", step.name, r.Err, step.want)
		}
	}
	w.check()
}

// The operator's limit holds beside the owner's own: the lower one counts, in each cycle anew.
func TestOperatorsLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 1000)
	w.say(0, func(x *Wallet) { x.Limit, x.Limited = money.Units(25), true })
	if r := w.admitOne(w.sign(0, 1, 25, start), start); r.Err != nil {
		t.Fatal(r.Err)
	}
	var limit *LimitError
	if r := w.admitOne(w.sign(0, 1, 1, start), start); !errors.As(r.Err, &limit) || units(limit.Limit) != 25 {
		t.Errorf("past the limit: %v", r.Err)
	}
	w.chain.emit(Event{Kind: LimitSet, Account: party(0), Asset: dollar, Amount: money.Units(20), On: true})
	w.mine(start)
	w.say(0, func(x *Wallet) { x.Limit = money.Units(100) })
	if r := w.admitOne(w.sign(0, 1, 1, start), start); !errors.As(r.Err, &limit) || units(limit.Limit) != 20 {
		t.Errorf("past the owner's own limit: %v", r.Err)
	}
}

func TestWalletsInPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 3 {
		w.say(i, func(x *Wallet) { x.Name = "n" })
	}
	var seen []Wallet
	for after := (evm.Address{}); ; {
		page, err := w.Wallets(t.Context(), after, 2)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, page...)
		if len(page) < 2 {
			break
		}
		after = page[1].Address
	}
	if len(seen) != 3 || seen[0].UpdatedAt != start*1000 {
		t.Errorf("got %+v", seen)
	}
	if got, found, err := w.Wallet(t.Context(), evm.Address{1}); err != nil || found || got.Status != WalletActive {
		t.Errorf("unknown wallet: %+v, %v, %v", got, found, err)
	}
	failure := errors.New("no")
	if _, err := w.ChangeWallet(t.Context(), party(0), at(start), func(x *Wallet) error { x.Name = "other"; return failure }); !errors.Is(err, failure) {
		t.Error(err)
	}
	if got, _, _ := w.Wallet(t.Context(), party(0)); got.Name != "n" {
		t.Error("a change that failed was kept")
	}
}
