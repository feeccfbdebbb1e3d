package clearing

import (
	"context"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/ledger"
	"github.com/farthing402/farthing/money"
)

// A withdrawal request holds collateral from the moment it is seen anywhere until its end is confirmed.
func TestWithdrawalHoldsAtAnyDepth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	w.owe(0, 1, 30, start)
	request := Event{Kind: WithdrawalRequested, Account: party(0), Asset: dollar, Amount: money.Units(50)}
	number := w.chain.number
	next := func(s Stream, events ...Event) {
		t.Helper()
		tips, err := w.Tips(t.Context(), s, 1)
		if err != nil {
			t.Fatal(err)
		}
		n := number
		if len(tips) > 0 {
			n = tips[0].Number
		}
		w.apply(s, Block{Number: n + 1, Hash: evm.Hash{byte(n)}, Time: start}, events)
	}
	headroom := func(want uint64) {
		t.Helper()
		if a := w.account(0); units(a.Headroom()) != want {
			t.Errorf("headroom %s, want %d", a.Headroom(), want)
		}
	}
	next(Head, request)
	headroom(20)
	if r := w.admitOne(w.sign(0, 1, 21, start), start); !errors.Is(r.Err, ErrExposure) {
		t.Errorf("%v", r.Err)
	}
	next(Head, Event{Kind: WithdrawalCanceled, Account: party(0), Asset: dollar})
	headroom(70) // the request never got confirmed
	next(Head, request)
	next(Confirmed, request)
	next(Head, Event{Kind: WithdrawalCanceled, Account: party(0), Asset: dollar})
	headroom(20) // its end is not confirmed yet
	next(Confirmed, Event{Kind: WithdrawalCanceled, Account: party(0), Asset: dollar})
	headroom(70)
	larger := request
	larger.Amount = money.Units(60)
	next(Head, request)
	next(Confirmed, request)
	next(Head, larger)
	headroom(10)
	next(Confirmed, larger)
	done := Event{Kind: Withdrawn, Account: party(0), Asset: dollar, Amount: money.Units(60)}
	next(Head, done)
	headroom(10)
	next(Confirmed, done)
	headroom(10) // 40 left, 30 in use
	if a := w.account(0); units(a.Collateral()) != 40 || !a.Held().IsZero() {
		t.Errorf("collateral %s, held %s", a.Collateral(), a.Held())
	}
	w.check()
}

// A deposit counts when it is confirmed, a limit when it is seen; a limit that is raised when that is confirmed.
func TestDepthOfDepositsAndLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.chain.number
	deposit := Event{Kind: Deposited, Account: party(0), Asset: dollar, Amount: money.Units(100), LogIndex: 1}
	limit := func(amount uint64, on bool) Event {
		return Event{Kind: LimitSet, Account: party(0), Asset: dollar, Amount: money.Units(amount), On: on}
	}
	w.apply(Head, Block{Number: n + 1, Time: start}, []Event{deposit})
	if a := w.account(0); !a.Collateral().IsZero() {
		t.Errorf("collateral %s at the head", a.Collateral())
	}
	w.apply(Confirmed, Block{Number: n + 1, Time: start}, []Event{deposit, limit(40, true)})
	w.apply(Head, Block{Number: n + 2, Time: start}, []Event{limit(60, true)})
	w.owe(0, 1, 40, start)
	if r := w.admitOne(w.sign(0, 1, 1, start), start); !errors.Is(r.Err, ErrLimit) {
		t.Errorf("a raised limit counts before it is confirmed: %v", r.Err)
	}
	w.apply(Confirmed, Block{Number: n + 2, Time: start}, []Event{limit(60, true)})
	w.owe(0, 1, 20, start)
	w.apply(Head, Block{Number: n + 3, Time: start}, []Event{limit(0, false)})
	if r := w.admitOne(w.sign(0, 1, 1, start), start); !errors.Is(r.Err, ErrLimit) {
		t.Errorf("a lifted limit counts before it is confirmed: %v", r.Err)
	}
	w.apply(Confirmed, Block{Number: n + 3, Time: start}, []Event{limit(0, false)})
	w.owe(0, 1, 40, start)
}

// What comes late, twice, out of turn or about nothing that is known changes nothing and says why.
func TestEventsThatDoNotFit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	w.owe(0, 1, 60, start)
	w.owe(0, 2, 1, end)
	w.closeAt(cutoff)
	c := w.status(Committed)
	id, open := c.Ref.ID(), CycleRef{dollar, end}.ID()
	units := money.Units
	fits := []Event{{Kind: DebtorPaid, Cycle: id, Account: party(0), Amount: units(60)}}
	w.apply(Confirmed, Block{Number: 1000, Time: cutoff}, fits)
	before := w.memory.dump()
	events := []Event{
		{Kind: "earthquake"},
		{Kind: ScheduleSet},
		{Kind: ScheduleSet, Schedule: &Schedule{Asset: dollar, From: 1}},
		{Kind: CycleCommitted, Cycle: evm.Hash{1}, Root: evm.Hash{2}},
		{Kind: CycleCommitted, Cycle: id, Asset: dollar, Root: c.Root, Amount: c.Total}, // again
		{Kind: CycleCommitted, Cycle: id, Asset: dollar, Root: evm.Hash{9}, Amount: c.Total},
		{Kind: PositionsPosted, Cycle: id},
		{Kind: PositionsPosted, Cycle: open},
		{Kind: PositionsPosted, Cycle: id, Generation: 7},
		{Kind: DebtorPaid, Cycle: id, Account: party(0), Amount: units(60)},
		{Kind: DebtorPaid, Cycle: id, Account: party(1), Amount: units(60)},
		{Kind: DebtorPaid, Cycle: id, Account: party(5), Amount: units(60)},
		{Kind: DebtorPaid, Cycle: id, Account: party(0), Amount: units(59)},
		{Kind: DebtorPaid, Cycle: open, Account: party(0), Amount: units(60)},
		{Kind: DebtFilled, Cycle: id, Account: party(0), Amount: units(1)},
		{Kind: DebtorDefaulted, Cycle: id, Account: party(1), Amount: units(60)},
		{Kind: CreditorClaimed, Cycle: id, Account: party(0), Amount: units(60)},
		{Kind: CreditorClaimed, Cycle: id, Account: party(1), Amount: units(61)},
		{Kind: CycleFinalized, Cycle: open},
		{Kind: CycleVoided, Cycle: id, Generation: 1},
		{Kind: CycleVoided, Cycle: open},
		{Kind: ChunkReleased, Cycle: id},
		{Kind: ChunkReleased, Cycle: evm.Hash{3}, Generation: 1 << 63, Chunk: 1 << 63},
	}
	for i := range events {
		events[i].LogIndex = uint64(i)
	}
	w.apply(Confirmed, Block{Number: 1001, Time: cutoff}, events)
	w.apply(Head, Block{Number: 1001, Time: cutoff}, events)
	if err := w.memory.Write(t.Context(), func(tx Tx) error {
		recorded, err := tx.DropBlock(Confirmed, 1001)
		for i, e := range recorded {
			if e.Ignored == "" {
				t.Errorf("event %d, %s, changed something", i, e.Kind)
			}
		}
		if len(recorded) != len(events) {
			t.Errorf("%d events recorded, want %d", len(recorded), len(events))
		}
		head, err2 := tx.DropBlock(Head, 1001)
		if len(head) != 0 {
			t.Errorf("the head stream records %v", head)
		}
		return errors.Join(err, err2)
	}); err != nil {
		t.Fatal(err)
	}
	if after := w.memory.dump(); after != before {
		t.Errorf("changed:\n%s\nwas\n%s", after, before)
	}
	w.check()
}

func TestOrderOfBlocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := func(n uint64, fork byte) Block { return Block{Number: n, Hash: evm.Hash{fork, byte(n)}, Time: start} }
	deposit := []Event{{Kind: Deposited, Account: party(0), Asset: dollar, Amount: money.Units(1)}}
	w.apply(Confirmed, b(100, 0), nil)
	w.apply(Confirmed, b(101, 0), deposit)
	w.apply(Confirmed, b(102, 0), nil)
	w.apply(Confirmed, b(101, 0), deposit) // again
	if a := w.account(0); units(a.Collateral()) != 1 {
		t.Errorf("collateral %s", a.Collateral())
	}
	ctx := t.Context()
	for _, other := range []Block{b(101, 1), b(102, 1), b(50, 0)} {
		if err := w.Apply(ctx, Confirmed, other, nil); !errors.Is(err, ErrOrder) {
			t.Errorf("block %d of another branch: %v", other.Number, err)
		}
	}
	if err := w.Apply(ctx, "sideways", b(103, 0), nil); err == nil {
		t.Error("an unknown stream is taken")
	}
	// Away to another branch, and back.
	for _, fork := range []byte{1, 0, 1} {
		if err := w.Unwind(ctx, Confirmed, 100); err != nil {
			t.Fatal(err)
		}
		if a := w.account(0); !a.Collateral().IsZero() {
			t.Errorf("collateral %s", a.Collateral())
		}
		w.apply(Confirmed, b(101, fork), deposit)
	}
	before := w.memory.dump()
	if err := w.Unwind(ctx, Confirmed, 0); !errors.Is(err, ErrTooDeep) {
		t.Errorf("unwinding everything: %v", err)
	}
	if w.memory.dump() != before {
		t.Error("a refused unwinding changed something")
	}
	if tips, err := w.Tips(ctx, Confirmed, 2); err != nil || len(tips) != 2 || tips[0] != b(101, 1) || tips[1] != b(100, 0) {
		t.Errorf("tips %v, %v", tips, err)
	}
}

func TestOldBlocksAreForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.KeepDepth = 100 })
	for n := uint64(10); n < 300; n++ {
		w.apply(Confirmed, Block{Number: n, Hash: evm.Hash{byte(n)}, Time: start}, nil)
	}
	tips, err := w.Tips(t.Context(), Confirmed, 1000)
	if err != nil || len(tips) < 100 || len(tips) > 100+pruneEvery {
		t.Errorf("%d blocks are remembered, %v", len(tips), err)
	}
}

// Guarantees that were admitted between an event and its undoing stay, with their exposure.
func TestUnwindKeepsWhatCameSince(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	w.deposit(0, 50)
	w.owe(0, 1, 120, start)
	ctx := t.Context()
	if err := w.Unwind(ctx, Confirmed, w.chain.number-1); err != nil {
		t.Fatal(err)
	}
	a := w.account(0)
	if units(a.Collateral()) != 100 || units(a.Exposure()) != 120 || !a.Headroom().IsZero() {
		t.Errorf("collateral %s, exposure %s, headroom %s", a.Collateral(), a.Exposure(), a.Headroom())
	}
	if r := w.admitOne(w.sign(0, 1, 1, start), start); !errors.Is(r.Err, ErrExposure) {
		t.Errorf("%v", r.Err)
	}
	w.check()
}

// A reorg takes back a seal: exposure returns, the cycle waits again, and a cycle that was closed is open again.
func TestReorgOfASeal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	r := w.owe(0, 1, 60, start)
	w.mine(cutoff)
	if err := w.CloseDue(t.Context(), at(cutoff), cutoff); err != nil {
		t.Fatal(err)
	}
	before := w.memory.dump()
	sealed, events := w.chain.block(cutoff, w.memory)
	w.apply(Confirmed, sealed, events)
	c := w.status(Committed)
	w.mine(c.FinalAt + 1)
	w.closeAt(c.FinalAt + 1)
	w.closeAt(c.FinalAt + 2)
	w.status(Closed)
	if err := w.Unwind(t.Context(), Confirmed, sealed.Number); err != nil {
		t.Fatal(err)
	}
	if c := w.cycleAt(start); c.Status == Closed || c.Finalized {
		t.Errorf("%+v", c)
	}
	w.check()
	for _, s := range []Stream{Head, Confirmed} {
		if err := w.Unwind(t.Context(), s, sealed.Number-1); err != nil {
			t.Fatal(err)
		}
	}
	if after := w.memory.dump(); after != before {
		t.Errorf("not as before:\n%s\nwant\n%s", after, before)
	}
	if a := w.account(0); units(a.Exposure()) != 60 || units(a.Collateral()) != 100 {
		t.Errorf("exposure %s, collateral %s", a.Exposure(), a.Collateral())
	}
	if s, err := w.Guarantee(t.Context(), r.Digest); err != nil || s.Status != StatusNetted {
		t.Errorf("status %s, %v", s.Status, err)
	}
	// The same transactions in another block.
	sealed.Hash[0] ^= 1
	w.apply(Confirmed, sealed, events)
	w.status(Committed)
	w.check()
}

// actor draws what happens next in a world, by the rules of everybody in it.
type actor struct {
	*rapid.T
	*world
	now       uint64
	digests   map[evm.Hash]int // to payee
	positions func() (CycleRef, []Position)
}

func (a *actor) step() {
	ctx := context.Background()
	switch rapid.IntRange(0, 11).Draw(a.T, "action") {
	case 0:
		a.deposit(rapid.IntRange(0, 4).Draw(a.T, "who"), rapid.Uint64Range(1, 200).Draw(a.T, "amount"))
	case 1, 2, 3, 4:
		payer := rapid.IntRange(0, 4).Draw(a.T, "payer")
		payee := (payer + rapid.IntRange(1, 4).Draw(a.T, "payee")) % 5
		var reqs []Request
		for range rapid.IntRange(1, 3).Draw(a.T, "requests") {
			reqs = append(reqs, Request{Signed: a.sign(payer, payee, rapid.Uint64Range(1, 60).Draw(a.T, "amount"), a.now), Batch: true})
		}
		for _, r := range a.Admit(ctx, reqs, at(a.now)) {
			if r.Err == nil {
				a.digests[r.Digest] = payee
			} else if !errors.Is(r.Err, ErrExposure) && !errors.Is(r.Err, ErrLimit) {
				a.T.Fatal(r.Err)
			}
		}
	case 5:
		if len(a.digests) == 0 {
			return
		}
		all := make([]evm.Hash, 0, len(a.digests))
		for d := range a.digests {
			all = append(all, d)
		}
		slices.SortFunc(all, func(x, y evm.Hash) int { return slices.Compare(x[:], y[:]) })
		d := rapid.SampledFrom(all).Draw(a.T, "guarantee")
		err := a.lower(d, a.digests[d], rapid.Uint64Range(0, 40).Draw(a.T, "amount"), a.now)
		if err != nil && !errors.Is(err, ErrRaise) && !errors.Is(err, ErrCutoff) {
			a.T.Fatal(err)
		}
	case 6:
		who := party(rapid.IntRange(0, 4).Draw(a.T, "who"))
		e := rapid.SampledFrom([]Event{
			{Kind: WithdrawalRequested, Amount: money.Units(rapid.Uint64Range(1, 100).Draw(a.T, "amount"))},
			{Kind: WithdrawalCanceled}, {Kind: LimitSet, On: true, Amount: money.Units(100)}, {Kind: LimitSet}, {Kind: AutoSettleSet, On: true}, {Kind: AutoSettleSet},
		}).Draw(a.T, "event")
		e.Account, e.Asset = who, dollar
		if e.Kind == AutoSettleSet {
			a.chain.autoSettle[who] = e.On
		}
		a.chain.emit(e)
	case 7:
		ref, ps := a.positions()
		if len(ps) > 0 {
			p := rapid.SampledFrom(ps).Draw(a.T, "position")
			if !a.chain.pay(ref, p) {
				a.chain.claim(ref, p, rapid.Bool().Draw(a.T, "to vault"))
			}
		}
	case 8:
		ref, ps := a.positions()
		if cy := a.chain.cycles[ref.ID()]; len(ps) > 0 && cy.sealed && !cy.final && cy.claimable(a.chain.time) && rapid.IntRange(0, 3).Draw(a.T, "void") == 0 {
			a.chain.void(ref)
		}
	default:
		a.now += rapid.Uint64Range(1, 30).Draw(a.T, "seconds")
	}
}

// claimable reports whether a void may still come.
func (cy *simCycle) claimable(now uint64) bool { return now <= cy.since+schedule.Challenge }

func (w *world) somePositions(t *rapid.T) (CycleRef, []Position) {
	cycles, err := w.Cycles(context.Background(), dollar, 0)
	if err != nil {
		t.Fatal(err)
	}
	cycles = slices.DeleteFunc(cycles, func(c Cycle) bool { return !c.sealed() })
	if len(cycles) == 0 {
		return CycleRef{}, nil
	}
	c := rapid.SampledFrom(cycles).Draw(t, "cycle")
	ps, err := w.Positions(context.Background(), c.Ref.String())
	if err != nil {
		t.Fatal(err)
	}
	return c.Ref, ps
}

// Whatever happens, in whatever order: the books balance, exposure is what is guaranteed, nobody has guaranteed past its
// collateral, what the house counts as collateral is what the contract holds, and every applied block can be taken back
// to the byte.
func TestBooksHoldWhateverHappens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, func(c *Config) { c.ChunkMax = 2; c.BatchMax = 4 })
		w.chain.addBond(money.Units(1000))
		a := &actor{T: rt, world: w, now: start, digests: make(map[evm.Hash]int)}
		a.positions = func() (CycleRef, []Position) { return w.somePositions(rt) }
		refusing := rapid.Bool().Draw(rt, "refusing")
		if refusing {
			n := 0
			w.chain.refuse = func(simCall) bool { n++; return n%5 == 3 }
		}
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			a.step()
			w.mine(a.now)
			if err := w.CloseDue(context.Background(), at(a.now), a.now); err != nil {
				rt.Fatal(err)
			}
			w.check()
			// Between a void and the release of what was taken, exposure is back and collateral is not.
			for who := range 5 {
				account := w.account(who)
				if !w.voidedNow() && account.Collateral().Less(account.Exposure()) {
					rt.Fatalf("party %d has guaranteed %s against %s", who, account.Exposure(), account.Collateral())
				}
			}
		}
		// Let everything come to its end, and compare with the contract.
		w.chain.refuse = nil
		for i := range uint64(20) {
			a.now += 15 + 5*i
			w.closeAt(a.now)
		}
		w.check()
		cycles, err := w.Cycles(context.Background(), dollar, 0)
		if err != nil {
			rt.Fatal(err)
		}
		for _, c := range cycles {
			if c.Status != Closed && c.Status != Failed {
				rt.Fatalf("cycle %s ends as %s (%s)", c.Ref, c.Status, c.Trouble)
			}
		}
		for who := range 5 {
			if got, want := w.account(who).Collateral(), w.chain.collateral[party(who)]; got != want {
				rt.Fatalf("party %d has %s, on chain %s", who, got, want)
			}
		}
		_ = w.memory.Read(context.Background(), func(tx Tx) error {
			b, err := tx.Balance(ledger.Account{Kind: ledger.Bond, Asset: dollar})
			if err != nil || b.Available() != w.chain.bond {
				rt.Fatalf("bond %s, on chain %s, %v", b.Available(), w.chain.bond, err)
			}
			return nil
		})
	})
}

// voidedNow reports whether a cycle waits to be posted again, or the contract still has what it took for a voided posting:
// the bond may have stood in for that.
func (w *world) voidedNow() bool {
	w.Helper()
	cycles, err := w.Cycles(context.Background(), dollar, 0)
	if err != nil {
		w.Fatal(err)
	}
	return slices.ContainsFunc(cycles, func(c Cycle) bool {
		return c.Generation > 0 && (!c.sealed() || w.chain.cycles[c.Ref.ID()].unreleased())
	})
}

// The order in which a cycle's guarantees came does not change what it comes to.
func TestOrderInACycleDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt)
		var reqs []Request
		for range rapid.IntRange(1, 25).Draw(rt, "guarantees") {
			payer := rapid.IntRange(0, 5).Draw(rt, "payer")
			payee := (payer + rapid.IntRange(1, 5).Draw(rt, "payee")) % 6
			reqs = append(reqs, Request{Signed: w.sign(payer, payee, rapid.Uint64Range(1, 1000).Draw(rt, "amount"), start)})
		}
		var first []Position
		for i, order := range [][]Request{reqs, rapid.Permutation(reqs).Draw(rt, "order")} {
			w := newWorld(rt)
			for who := range 6 {
				w.deposit(who, 1_000_000)
			}
			for _, r := range order {
				if r := w.admitOne(r.Signed, start); r.Err != nil {
					rt.Fatal(r.Err)
				}
			}
			var n net
			if err := w.memory.Read(context.Background(), func(tx Tx) (err error) {
				n, err = w.computeNet(tx, w.cycleOf(tx))
				return err
			}); err != nil {
				rt.Fatal(err)
			}
			if i == 0 {
				first = n.positions
			} else if !slices.Equal(first, n.positions) {
				rt.Fatalf("positions %+v and %+v", first, n.positions)
			}
			var debit, credit uint64
			for _, p := range n.positions {
				switch p.Role {
				case Debtor:
					debit += units(p.Amount)
				case Creditor:
					credit += units(p.Amount)
				}
			}
			if debit != credit || debit != units(n.total) {
				rt.Fatalf("debits %d, credits %d, total %s", debit, credit, n.total)
			}
		}
	})
}

func (w *world) cycleOf(tx Tx) Cycle {
	c, _, err := tx.Cycle(CycleRef{dollar, start})
	if err != nil {
		w.Fatal(err)
	}
	return c
}
