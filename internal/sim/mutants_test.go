package sim

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// mutant is a clearing house with one fault built in, between it and its book.
type mutant struct {
	name    string
	profile int
	tx      func(*faultyBook, clearing.Tx) clearing.Tx
	world   func(*world)
}

// withTx is a transaction in which some methods do something else.
type withTx struct {
	clearing.Tx

	account        func(clearing.Account) clearing.Account
	putAccount     func(old, a clearing.Account) clearing.Account
	byKey          func(clearing.Guarantee, bool) (clearing.Guarantee, bool)
	addGuarantee   func(clearing.Guarantee) error
	lowerGuarantee func() error
	pledge         func() error
	validation     func(clearing.Validation) bool // false: it is lost
	positions      func([]clearing.Position)
	mark           func(money.Amount, clearing.PositionFlags) (money.Amount, clearing.PositionFlags)
	enqueue        func(evm.Call) bool
	dropped        func([]clearing.Event) []clearing.Event
	added          func(clearing.Guarantee) clearing.Guarantee
	put            func([]clearing.Event) []clearing.Event
}

func (t withTx) Account(owner, asset evm.Address) (clearing.Account, error) {
	a, err := t.Tx.Account(owner, asset)
	if t.account != nil {
		a = t.account(a)
	}
	return a, err
}

func (t withTx) Accounts(keys []clearing.AccountKey) ([]clearing.Account, error) {
	all, err := t.Tx.Accounts(keys)
	if t.account != nil {
		for i := range all {
			all[i] = t.account(all[i])
		}
	}
	return all, err
}

func (t withTx) PutAccount(a clearing.Account) error {
	if t.putAccount != nil {
		old, err := t.Tx.Account(a.Owner, a.Asset)
		if err != nil {
			return err
		}
		a = t.putAccount(old, a)
	}
	return t.Tx.PutAccount(a)
}

func (t withTx) GuaranteeByKey(k guarantee.Key) (clearing.Guarantee, bool, error) {
	g, ok, err := t.Tx.GuaranteeByKey(k)
	if t.byKey != nil {
		g, ok = t.byKey(g, ok)
	}
	return g, ok, err
}

func (t withTx) GuaranteesByKey(keys []guarantee.Key) (map[guarantee.Key]clearing.Guarantee, error) {
	known, err := t.Tx.GuaranteesByKey(keys)
	if t.byKey != nil {
		for k, g := range known {
			if _, ok := t.byKey(g, true); !ok {
				delete(known, k)
			}
		}
	}
	return known, err
}

func (t withTx) AddGuarantee(g clearing.Guarantee) error {
	if t.added != nil {
		g = t.added(g)
	}
	if t.addGuarantee != nil {
		return t.addGuarantee(g)
	}
	return t.Tx.AddGuarantee(g)
}

func (t withTx) LowerGuarantee(digest evm.Hash, payable money.Amount, note guarantee.SignedNote, evidence evm.Hash) error {
	if t.lowerGuarantee != nil {
		return t.lowerGuarantee()
	}
	return t.Tx.LowerGuarantee(digest, payable, note, evidence)
}

func (t withTx) PledgeGuarantee(digest evm.Hash, pledged money.Amount) error {
	if t.pledge != nil {
		return t.pledge()
	}
	return t.Tx.PledgeGuarantee(digest, pledged)
}

func (t withTx) PutValidation(digest evm.Hash, payable money.Amount, v clearing.Validation) error {
	if t.validation != nil && !t.validation(v) {
		return nil
	}
	return t.Tx.PutValidation(digest, payable, v)
}

func (t withTx) Positions(c clearing.CycleRef, generation uint64) ([]clearing.Position, error) {
	ps, err := t.Tx.Positions(c, generation)
	if t.positions != nil {
		t.positions(ps)
	}
	return ps, err
}

func (t withTx) MarkPosition(c clearing.CycleRef, generation uint64, who evm.Address, filled money.Amount, flags clearing.PositionFlags) error {
	if t.mark != nil {
		filled, flags = t.mark(filled, flags)
	}
	return t.Tx.MarkPosition(c, generation, who, filled, flags)
}

func (t withTx) Enqueue(call evm.Call) error {
	if t.enqueue != nil && !t.enqueue(call) {
		return nil
	}
	return t.Tx.Enqueue(call)
}

func (t withTx) PutBlock(s clearing.Stream, b clearing.Block, events []clearing.Event) error {
	if t.put != nil {
		events = t.put(events)
	}
	return t.Tx.PutBlock(s, b, events)
}

func (t withTx) DropBlock(s clearing.Stream, number uint64) ([]clearing.Event, error) {
	events, err := t.Tx.DropBlock(s, number)
	if t.dropped != nil {
		events = t.dropped(events)
	}
	return events, err
}

// forgetful is a book that says that it wrote and did not, each nth time.
type forgetful struct {
	clearing.Book
	n, every int
}

func (f *forgetful) Write(ctx context.Context, fn func(clearing.Tx) error) error {
	if f.n++; f.n%f.every != 0 {
		return f.Book.Write(ctx, fn)
	}
	undone := func(tx clearing.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return errAgain
	}
	if err := f.Book.Write(ctx, undone); err != errAgain {
		return err
	}
	return nil
}

// silent is a registry that cannot be reached.
type silent struct{}

func (silent) Answers(context.Context, clearing.Block, []guarantee.Policy) ([]guarantee.Answer, error) {
	return nil, errors.New("no answer")
}

// eager is a registry that says what its validators would have to say.
type eager struct{}

func (eager) Answers(_ context.Context, at clearing.Block, asked []guarantee.Policy) ([]guarantee.Answer, error) {
	list := make([]guarantee.Answer, len(asked))
	for i, p := range asked {
		list[i] = guarantee.Answer{Validator: p.Validator, AgentID: p.AgentID, Response: p.MinScore, Tag: p.Tag, LastUpdate: at.Time}
	}
	return list, nil
}

const calm, stormy, reckless = 0, 2, 4

var mutants = []mutant{
	{name: "admission does not hold back a requested withdrawal", profile: calm, tx: func(b *faultyBook, tx clearing.Tx) clearing.Tx {
		t := withTx{Tx: tx}
		if b.admitting {
			t.account = func(a clearing.Account) clearing.Account {
				a.WithdrawHead, a.WithdrawConfirmed = money.Amount{}, money.Amount{}
				return a
			}
			t.putAccount = func(old, a clearing.Account) clearing.Account {
				a.WithdrawHead, a.WithdrawConfirmed = old.WithdrawHead, old.WithdrawConfirmed
				return a
			}
		}
		return t
	}},
	{name: "a lock is released twice", profile: calm, tx: func(_ *faultyBook, tx clearing.Tx) clearing.Tx {
		return withTx{Tx: tx, putAccount: func(old, a clearing.Account) clearing.Account {
			if freed, ok := old.Balance.DebitsPending.Sub(a.Balance.DebitsPending); ok {
				if rest, ok := a.Balance.DebitsPending.Sub(freed); ok {
					a.Balance.DebitsPending = rest
				}
			}
			return a
		}}
	}},
	{name: "a lock is never taken", profile: calm, tx: func(b *faultyBook, tx clearing.Tx) clearing.Tx {
		t := withTx{Tx: tx}
		if b.admitting {
			t.putAccount = func(old, a clearing.Account) clearing.Account { return old }
		}
		return t
	}},
	{name: "a seal releases debtors only", profile: calm, tx: func(_ *faultyBook, tx clearing.Tx) clearing.Tx {
		return withTx{Tx: tx, positions: func(ps []clearing.Position) {
			for i := range ps {
				if ps[i].Role != clearing.Debtor {
					ps[i].Out = money.Amount{}
				}
			}
		}}
	}},
	{name: "a certificate is made before the guarantee is on disk", profile: calm, world: func(w *world) {
		w.book.inner = &forgetful{Book: w.book.inner, every: 25}
	}},
	{name: "a request id may be used again", profile: calm, tx: func(_ *faultyBook, tx clearing.Tx) clearing.Tx {
		return withTx{Tx: tx,
			byKey:        func(g clearing.Guarantee, _ bool) (clearing.Guarantee, bool) { return g, false },
			addGuarantee: func(g clearing.Guarantee) error { _ = tx.AddGuarantee(g); return nil },
		}
	}},
	{name: "a guarantee is written with another amount", profile: calm, tx: func(_ *faultyBook, tx clearing.Tx) clearing.Tx {
		return withTx{Tx: tx, added: func(g clearing.Guarantee) clearing.Guarantee {
			g.Payable, _ = g.Payable.Add(money.Units(1))
			return g
		}}
	}},
	{name: "a note is acknowledged and lost", profile: calm, tx: func(_ *faultyBook, tx clearing.Tx) clearing.Tx {
		return withTx{Tx: tx, lowerGuarantee: func() error { return nil }}
	}},
	{name: "a claim backs refunds again and again", profile: calm, tx: func(_ *faultyBook, tx clearing.Tx) clearing.Tx {
		return withTx{Tx: tx, pledge: func() error { return nil }}
	}},
	{name: "a refund that claims back takes no lock and no claim", profile: calm, tx: func(_ *faultyBook, tx clearing.Tx) clearing.Tx {
		return withTx{Tx: tx, added: func(g clearing.Guarantee) clearing.Guarantee {
			if !g.Backed.IsZero() {
				g.Backed = money.Amount{}
			}
			return g
		}}
	}},
	{name: "a seal releases what claims backed", profile: calm, tx: func(_ *faultyBook, tx clearing.Tx) clearing.Tx {
		return withTx{Tx: tx, positions: func(ps []clearing.Position) {
			for i := range ps {
				ps[i].Backed = money.Amount{}
			}
		}}
	}},
	{name: "validators have said what nobody heard", profile: calm, world: func(w *world) { w.registry = eager{} }},
	{name: "what waited in vain is freed and stays payable", profile: calm, tx: func(_ *faultyBook, tx clearing.Tx) clearing.Tx {
		return withTx{Tx: tx, validation: func(v clearing.Validation) bool { return !v.Cancelled }}
	}},
	{name: "nobody is ever given up", profile: calm, world: func(w *world) { w.registry = silent{} }},
	{name: "the chain is believed before it is deep enough", profile: calm, world: func(w *world) { w.confirm = 0 }},
	{name: "a reorganisation is not undone", profile: stormy, tx: func(_ *faultyBook, tx clearing.Tx) clearing.Tx {
		return withTx{Tx: tx, dropped: func([]clearing.Event) []clearing.Event { return nil }}
	}},
	{name: "a block remembers half of its events", profile: stormy, tx: func(_ *faultyBook, tx clearing.Tx) clearing.Tx {
		return withTx{Tx: tx, put: func(events []clearing.Event) []clearing.Event { return events[:len(events)/2] }}
	}},
	{name: "a cycle is never sealed", profile: calm, tx: func(_ *faultyBook, tx clearing.Tx) clearing.Tx {
		return withTx{Tx: tx, enqueue: func(call evm.Call) bool { return !strings.HasPrefix(call.ID, "commit/") }}
	}},
	{name: "defaults are not marked", profile: calm, tx: func(_ *faultyBook, tx clearing.Tx) clearing.Tx {
		return withTx{Tx: tx, enqueue: func(call evm.Call) bool { return !strings.HasPrefix(call.ID, "mark/") }}
	}},
	{name: "claims are not noticed", profile: calm, tx: func(_ *faultyBook, tx clearing.Tx) clearing.Tx {
		return withTx{Tx: tx, mark: func(filled money.Amount, flags clearing.PositionFlags) (money.Amount, clearing.PositionFlags) {
			flags.Claimed = false
			return filled, flags
		}}
	}},
	{name: "what the bond gave is forgotten", profile: reckless, tx: func(_ *faultyBook, tx clearing.Tx) clearing.Tx {
		return withTx{Tx: tx, mark: func(_ money.Amount, flags clearing.PositionFlags) (money.Amount, clearing.PositionFlags) {
			return money.Amount{}, flags
		}}
	}},
}

// Checkers that cannot fail prove nothing: each of these faults must be found, in one of a few worlds.
func TestWorldCatchesMutants(t *testing.T) {
	t.Parallel()
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= 40; seed++ {
				w, err := newWorld(seed, profiles[m.profile], memory())
				if err != nil {
					t.Fatal(err)
				}
				w.book.mutate = m.tx
				if m.world != nil {
					m.world(w)
					if err := w.rebuild(); err != nil {
						t.Fatal(err)
					}
				}
				if err := w.run(120); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("no world noticed")
		})
	}
}
