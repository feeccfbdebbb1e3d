package clearing

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// The times of the cycle that begins at start.
const (
	end      = start + 100
	cutoff   = end + 10
	deadline = cutoff + 40
)

func TestLifeOfACycle(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 1000)
	w.deposit(1, 1000)
	w.deposit(2, 1000)
	w.owe(0, 1, 300, start+1)
	first := w.owe(0, 2, 100, start+2)
	w.owe(1, 2, 50, start+3)
	w.owe(2, 3, 30, start+4)
	if err := w.lower(first.Digest, 2, 80, start+5); err != nil {
		t.Fatal(err)
	}
	if a := w.account(0); units(a.Exposure()) != 380 || units(a.Headroom()) != 620 {
		t.Errorf("exposure %s, headroom %s", a.Exposure(), a.Headroom())
	}
	w.check()

	w.closeAt(end - 1)
	w.status(Open)
	w.closeAt(end)
	w.status(Frozen)
	w.closeAt(cutoff - 1)
	w.status(Frozen)
	w.check()

	// Netting and the seal's call come together; the seal is applied with the next block.
	w.mine(cutoff)
	if err := w.CloseDue(t.Context(), at(cutoff), cutoff); err != nil {
		t.Fatal(err)
	}
	c := w.status(Netted)
	// 0 owes 380; 1 gets 300 − 50; 2 gets 80 + 50 − 30; 3 gets 30
	if c.Participants != 4 || c.Debtors != 1 || units(c.Total) != 380 || units(c.Gross) != 460 || c.Guarantees != 4 {
		t.Errorf("netted %+v", c)
	}
	if got := len(w.memory.Queued()); got != 2 {
		t.Errorf("%d calls are asked for, want post and commit", got)
	}
	if a := w.account(0); units(a.Exposure()) != 380 {
		t.Errorf("exposure before the seal is %s", a.Exposure())
	}
	w.check()
	w.mine(cutoff + 1)
	c = w.status(Committed)
	if c.FinalAt != cutoff+1+40 || c.Posted != 1 {
		t.Errorf("committed %+v", c)
	}
	for who, want := range map[int]uint64{0: 620, 1: 1000, 2: 1000} {
		if a := w.account(who); !a.Exposure().IsZero() || units(a.Collateral()) != want {
			t.Errorf("party %d has exposure %s and collateral %s, want none and %d", who, a.Exposure(), a.Collateral(), want)
		}
	}
	w.check()

	for who := range 4 {
		p, err := w.Proof(t.Context(), c.Ref.ID().String(), party(who))
		if err != nil || !VerifyProof(p.Leaf, c.Root, p.Siblings) {
			t.Errorf("proof of %d: %v", who, err)
		}
		s, err := w.Statement(t.Context(), c.Ref.String(), party(who))
		if err != nil || s.Hash != p.Position.Statement || s.Out != p.Position.Out || s.In != p.Position.In {
			t.Errorf("statement of %d: %+v, %v", who, s, err)
		}
	}

	w.closeAt(c.FinalAt)
	w.status(Committed)
	w.mine(c.FinalAt + 1)
	w.closeAt(c.FinalAt + 1)
	w.status(Final)
	w.closeAt(c.FinalAt + 2)
	w.status(Closed)
	p, err := w.Proof(t.Context(), c.Ref.String(), party(0))
	if err != nil || !p.Position.Flags.Defaulted {
		t.Errorf("the debtor that did not pay is not marked: %+v, %v", p.Position, err)
	}
	if s, err := w.Guarantee(t.Context(), first.Digest); err != nil || s.Status != StatusRemunerate {
		t.Errorf("status %s, %v", s.Status, err)
	}
	creditor, err := w.Proof(t.Context(), c.Ref.String(), party(1))
	if err != nil || !w.chain.claim(c.Ref, creditor.Position, true) {
		t.Fatalf("claim: %v", err)
	}
	w.mine(c.FinalAt + 3)
	if a := w.account(1); units(a.Collateral()) != 1250 {
		t.Errorf("collateral after a claim into the vault is %s", a.Collateral())
	}
	w.check()
}

func TestPayingGivesBackCollateral(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	r := w.owe(0, 1, 60, start)
	w.closeAt(cutoff)
	c := w.status(Committed)
	p, err := w.Proof(t.Context(), c.Ref.String(), party(0))
	if err != nil || !w.chain.pay(c.Ref, p.Position) {
		t.Fatal("cannot pay", err)
	}
	w.mine(cutoff + 2)
	if a := w.account(0); units(a.Collateral()) != 100 {
		t.Errorf("collateral %s", a.Collateral())
	}
	if s, err := w.Guarantee(t.Context(), r.Digest); err != nil || s.Status != StatusSettled {
		t.Errorf("status %s, %v", s.Status, err)
	}
	w.mine(c.FinalAt + 1)
	w.closeAt(c.FinalAt + 1)
	w.closeAt(c.FinalAt + 2)
	w.status(Closed)
	for _, call := range w.chain.executed {
		if call.Kind == "mark" {
			t.Errorf("marked %s, who has paid", call.Debtor)
		}
	}
	w.check()
}

// Who chose to be settled from collateral is never marked, also if it chose before it had any collateral.
func TestAutoSettleIsNoDefault(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain.autoSettle[party(0)] = true
	w.chain.emit(Event{Kind: AutoSettleSet, Account: party(0), On: true})
	w.mine(start)
	w.deposit(0, 100)
	r := w.owe(0, 1, 60, start)
	w.closeAt(cutoff)
	c := w.status(Committed)
	w.mine(c.FinalAt + 1)
	w.closeAt(c.FinalAt + 1)
	w.closeAt(c.FinalAt + 2)
	w.status(Closed)
	for _, call := range w.chain.executed {
		if call.Kind == "mark" {
			t.Error("marked")
		}
	}
	if s, err := w.Guarantee(t.Context(), r.Digest); err != nil || s.Status != StatusSettled {
		t.Errorf("status %s, %v", s.Status, err)
	}
}

// A cycle whose guarantees came to nothing is posted all the same: it would stay redeemable on one side otherwise.
func TestAllVoidedCycleIsPostedFlat(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	r := w.owe(0, 1, 60, start)
	if err := w.lower(r.Digest, 1, 0, cutoff-1); err != nil {
		t.Fatal(err)
	}
	if s, err := w.Guarantee(t.Context(), r.Digest); err != nil || s.Status != StatusCancelled {
		t.Errorf("status %s, %v", s.Status, err)
	}
	w.closeAt(cutoff)
	c := w.status(Committed)
	if c.Participants != 2 || !c.Total.IsZero() || c.Debtors != 0 {
		t.Errorf("%+v", c)
	}
	if len(w.chain.executed) != 2 || w.chain.executed[0].Positions[20] != 2 || w.chain.executed[0].Positions[69+20] != 2 {
		t.Errorf("executed %+v", w.chain.executed)
	}
	w.check()
}

// A cycle without guarantees has no row; if one is made it closes without a word to the chain, and blocks nothing.
func TestEmptyCycleCloses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.memory.Write(t.Context(), func(tx Tx) error { return tx.PutCycle(schedule.at(start)) }); err != nil {
		t.Fatal(err)
	}
	w.closeAt(cutoff)
	w.status(Closed)
	if len(w.chain.executed) != 0 {
		t.Errorf("executed %+v", w.chain.executed)
	}
}

// The contract refuses what comes before the cutoff by the clock of its blocks, whatever the house's clock says.
func TestChainClockBehind(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	w.owe(0, 1, 60, start)
	w.mine(cutoff - 1)
	if err := w.CloseDue(t.Context(), at(cutoff+5), cutoff-1); err != nil {
		t.Fatal(err)
	}
	w.status(Frozen)
	if q := w.memory.Queued(); len(q) != 0 {
		t.Errorf("%d calls before the chain's clock allows them", len(q))
	}
	w.mine(cutoff)
	if err := w.CloseDue(t.Context(), at(cutoff+6), cutoff); err != nil {
		t.Fatal(err)
	}
	w.mine(cutoff)
	w.status(Committed)
	for _, c := range w.chain.executed {
		if c.Kind == "commit" && c.Deadline <= deadline {
			t.Errorf("deadline %d may pass before the call is mined", c.Deadline)
		}
	}
}

func TestManyChunks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.ChunkMax = 2 })
	for i := range 10 {
		w.deposit(i, 100)
		w.owe(i, (i+1)%11, uint64(10+i), start)
	}
	w.closeAt(cutoff)
	c := w.status(Committed)
	if c.Participants != 11 || c.Posted != 6 || c.Height != 1 {
		t.Errorf("%+v", c)
	}
	w.check()
}

// A refused call is made again under another name, later each time, while the deadline allows; one that did its work is
// not made again.
func TestRefusedCallIsMadeAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.ChunkMax = 2 })
	for i := range 5 {
		w.deposit(i, 100)
		w.owe(i, i+1, uint64(10+i), start)
	}
	refusals := 2
	w.chain.refuse = func(c simCall) bool {
		if c.Kind == "post" && c.Chunk == 1 && refusals > 0 {
			refusals--
			return true
		}
		return false
	}
	w.closeAt(cutoff) // refused; what follows it fails by the contract's own rules
	c := w.status(Netted)
	if c.Posted != 1 {
		t.Errorf("%d chunks posted", c.Posted)
	}
	w.closeAt(cutoff) // seen
	if c = w.status(Netted); c.Tries != 1 || c.RetryAt != cutoff+1 || c.Trouble == "" {
		t.Errorf("after a refusal: %+v", c)
	}
	w.closeAt(cutoff + 1) // made again, refused
	w.closeAt(cutoff + 1) // seen
	if c = w.status(Netted); c.Tries != 2 || c.RetryAt != cutoff+3 {
		t.Errorf("after the second refusal: %+v", c)
	}
	w.closeAt(cutoff + 2)
	w.status(Netted)
	w.closeAt(cutoff + 3)
	if c = w.status(Committed); c.Trouble != "" || c.Posted != 3 {
		t.Errorf("%+v", c)
	}
	posts := 0
	for _, call := range w.chain.executed {
		if call.Kind == "post" {
			posts++
		}
	}
	if posts != 3 {
		t.Errorf("%d posts were executed, want one a chunk", posts)
	}
	w.check()
}

// A chunk that costs too much gas is posted in smaller ones at the third try.
func TestSmallerChunksAtTheThirdTry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	w.owe(0, 1, 60, start)
	w.chain.refuse = func(c simCall) bool { return c.Kind == "post" && c.Height > 8 }
	for s := range uint64(8) {
		w.closeAt(cutoff + s)
	}
	if c := w.status(Committed); c.Height != 8 || c.Tries != 0 {
		t.Errorf("%+v", c)
	}
	w.check()
}

// What was posted but never sealed is released after the deadline; guarantees keep their locks.
func TestCycleThatWasNeverSealedFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	r := w.owe(0, 1, 60, start)
	w.chain.refuse = func(c simCall) bool { return c.Kind == "commit" }
	for s := cutoff; s <= deadline; s++ {
		w.closeAt(uint64(s))
	}
	if c := w.status(Netted); c.Tries < 4 {
		t.Errorf("only %d tries", c.Tries)
	}
	w.closeAt(deadline + 1)
	c := w.status(Failed)
	if !strings.Contains(c.Trouble, "deadline") {
		t.Errorf("trouble %q", c.Trouble)
	}
	w.closeAt(deadline + 2)
	if last := w.chain.executed[len(w.chain.executed)-1]; last.Kind != "release" {
		t.Errorf("last call was %s", last.Kind)
	}
	if s, err := w.Guarantee(t.Context(), r.Digest); err != nil || s.Status != StatusDisputed {
		t.Errorf("status %s, %v", s.Status, err)
	}
	if a := w.account(0); units(a.Exposure()) != 60 || units(a.Collateral()) != 100 || w.chain.collateral[party(0)] != money.Units(100) {
		t.Errorf("exposure %s, collateral %s, on chain %s", a.Exposure(), a.Collateral(), w.chain.collateral[party(0)])
	}
	n := len(w.chain.executed)
	for s := range uint64(100) {
		w.closeAt(deadline + 3 + s)
	}
	if len(w.chain.executed) != n || len(w.memory.Queued()) != 0 {
		t.Error("a failed cycle asks for more")
	}
	w.check()
}

// A seal in the last block before the deadline counts, although the house sees it later.
func TestLateSealIsNoFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	w.owe(0, 1, 60, start)
	w.mine(cutoff)
	if err := w.CloseDue(t.Context(), at(cutoff), cutoff); err != nil {
		t.Fatal(err)
	}
	// The chain goes on, but the house has not applied the block that sealed.
	b, events := w.chain.block(deadline, w.memory)
	if err := w.CloseDue(t.Context(), at(deadline+30), deadline+30); err != nil {
		t.Fatal(err)
	}
	w.status(Netted)
	w.apply(Confirmed, b, events)
	w.status(Committed)
	w.check()
}

// Somebody with the operator's key sealed something else: the cycle stops and says so, and no lock is released.
func TestForeignSealStopsTheCycle(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*Event)
		when   uint64
	}{
		{"another root", func(e *Event) { e.Root[0] ^= 1 }, cutoff},
		{"another total", func(e *Event) { e.Amount = money.Units(1) }, cutoff},
		{"before the house has netted", func(e *Event) {}, end},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.chain.refuse = func(simCall) bool { return true }
			w.deposit(0, 100)
			w.owe(0, 1, 60, start)
			w.closeAt(c.when)
			cycle := w.cycleAt(start)
			e := Event{Kind: CycleCommitted, Cycle: cycle.Ref.ID(), Asset: dollar, Root: cycle.Root, Amount: cycle.Total, Time: cutoff + 40}
			c.change(&e)
			before := w.memory.dump()
			w.chain.emit(e)
			b := w.mine(cutoff + 1)
			if cycle = w.status(Failed); !strings.Contains(cycle.Trouble, "root") {
				t.Errorf("trouble %q", cycle.Trouble)
			}
			if a := w.account(0); units(a.Exposure()) != 60 {
				t.Errorf("exposure %s", a.Exposure())
			}
			w.check()
			for _, s := range []Stream{Head, Confirmed} {
				if err := w.Unwind(t.Context(), s, b.Number-1); err != nil {
					t.Fatal(err)
				}
			}
			if after := w.memory.dump(); after != before {
				t.Errorf("not undone:\n%s\nwant\n%s", after, before)
			}
		})
	}
}

// Positions that are not ours are not counted as posted, and make a remark.
func TestForeignPositions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain.refuse = func(simCall) bool { return true }
	w.deposit(0, 100)
	w.owe(0, 1, 60, start)
	w.closeAt(cutoff)
	w.chain.emit(Event{Kind: PositionsPosted, Cycle: CycleRef{dollar, start}.ID(), Root: evm.Hash{1}})
	w.mine(cutoff + 1)
	if c := w.status(Netted); c.Posted != 0 || !strings.Contains(c.Trouble, "not the house's") {
		t.Errorf("%+v", c)
	}
}

// One cycle's trouble does not keep the others from moving.
func TestTroubleBlocksNobodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bad := errors.New("cannot pack")
	w.House.Chain = failingChain{w.chain, func(c CycleRef) error {
		if c.Start == start {
			return bad
		}
		return nil
	}}
	w.deposit(0, 100)
	w.owe(0, 1, 60, start)
	w.owe(0, 1, 10, end)
	late := uint64(cutoff + 100)
	w.mine(end + 5)
	w.mine(cutoff)
	if err := w.CloseDue(t.Context(), at(cutoff), cutoff); !errors.Is(err, bad) {
		t.Errorf("error %v", err)
	}
	if c := w.status(Frozen); !strings.Contains(c.Trouble, bad.Error()) {
		t.Errorf("trouble %q", c.Trouble)
	}
	// By the time the second cycle is due, the first is past its deadline: nothing is packed for it any more.
	w.mine(late)
	if err := w.CloseDue(t.Context(), at(late), late); err != nil {
		t.Error(err)
	}
	w.mine(late)
	w.status(Failed)
	if c := w.cycleAt(end); c.Status != Committed {
		t.Errorf("the other cycle is %s (%s)", c.Status, c.Trouble)
	}
	w.check()
}

type failingChain struct {
	Chain
	err func(CycleRef) error
}

func (f failingChain) Post(c CycleRef, generation, chunk uint64, height uint8, positions []byte) (evm.Call, error) {
	if err := f.err(c); err != nil {
		return evm.Call{}, err
	}
	return f.Chain.Post(c, generation, chunk, height, positions)
}

// A house that was away at the deadline still nets, so that people can see what became of the cycle.
func TestHouseAwayAtTheDeadline(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	w.owe(0, 1, 60, start)
	w.closeAt(deadline + 1)
	if c := w.status(Failed); units(c.Total) != 60 {
		t.Errorf("%+v", c)
	}
	if len(w.chain.executed) != 0 || len(w.memory.Queued()) != 0 {
		t.Error("calls were asked for that must fail")
	}
	w.check()
}

// A debtor that is short is filled from the bond. Its payment refills the bond, and so does the release of a voided
// cycle, but never both.
func TestBondFillsAndIsRefilled(t *testing.T) {
	t.Parallel()
	for _, paid := range []bool{true, false} {
		t.Run(fmt.Sprintf("paid %v", paid), func(t *testing.T) {
			t.Parallel()
			bondFillsAndIsRefilled(t, paid)
		})
	}
}

func bondFillsAndIsRefilled(t *testing.T, paid bool) {
	w := newWorld(t)
	w.chain.addBond(money.Units(500))
	w.deposit(0, 100)
	w.owe(0, 1, 60, start)
	// The chain has lost part of the deposit that the house had counted.
	w.chain.collateral[party(0)] = money.Units(45)
	w.closeAt(cutoff)
	c := w.status(Committed)
	p, err := w.Proof(t.Context(), c.Ref.String(), party(0))
	if err != nil || units(p.Position.Filled) != 15 {
		t.Fatalf("filled %s, %v", p.Position.Filled, err)
	}
	bond := func() uint64 {
		var b uint64
		if err := w.memory.Read(context.Background(), func(tx Tx) error {
			row, err := tx.Balance(bondOf(dollar))
			b = units(row.Available())
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return b
	}
	if bond() != 485 || units(w.chain.bond) != 485 {
		t.Errorf("bond %d, on chain %s", bond(), w.chain.bond)
	}
	w.check()
	if paid {
		if !w.chain.pay(c.Ref, p.Position) {
			t.Fatal("cannot pay")
		}
		w.mine(cutoff + 2)
		if bond() != 500 || units(w.chain.bond) != 500 {
			t.Errorf("bond after payment %d, on chain %s", bond(), w.chain.bond)
		}
		w.check()
	}
	w.chain.refuse = func(c simCall) bool { return c.Kind != "release" }
	w.chain.void(c.Ref)
	w.mine(cutoff + 3)
	w.mine(cutoff + 4)
	lost := uint64(55) // what the chain has lost, and the house still counts
	if a := w.account(0); bond() != 500 || units(w.chain.bond) != 500 || units(a.Collateral()) != units(w.chain.collateral[party(0)])+lost {
		t.Errorf("after the release: bond %d, on chain %s; collateral %s, on chain %s", bond(), w.chain.bond, a.Collateral(), w.chain.collateral[party(0)])
	}
	w.check()
}

// A void brings every lock back, releases what was taken, and the same net is posted once more.
func TestVoidedCycleIsPostedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	w.deposit(1, 100)
	w.owe(0, 1, 60, start)
	w.owe(1, 2, 20, start)
	w.closeAt(cutoff)
	c := w.status(Committed)
	p, err := w.Proof(t.Context(), c.Ref.String(), party(0))
	if err != nil || !w.chain.pay(c.Ref, p.Position) {
		t.Fatal("cannot pay", err)
	}
	w.mine(cutoff + 1)
	w.chain.void(c.Ref)
	w.mine(cutoff + 2)
	again := w.status(Netted)
	if again.Generation != 1 || again.Root != c.Root || again.Statements == c.Statements || again.PostDeadline != cutoff+2+40 {
		t.Errorf("voided: %+v", again)
	}
	if a := w.account(1); units(a.Exposure()) != 20 {
		t.Errorf("exposure %s", a.Exposure())
	}
	w.check()
	w.closeAt(cutoff + 3)
	again = w.status(Committed)
	// The first payment has become collateral, from which the debt was taken once more.
	for who, want := range map[int]uint64{0: 100, 1: 100} {
		if a := w.account(who); units(a.Collateral()) != want || w.chain.collateral[party(who)] != a.Collateral() {
			t.Errorf("party %d has %s, on chain %s, want %d", who, a.Collateral(), w.chain.collateral[party(who)], want)
		}
	}
	w.check()

	w.chain.void(c.Ref)
	w.mine(cutoff + 4)
	w.closeAt(cutoff + 5)
	w.status(Failed)
	for who, want := range map[int]uint64{0: 160, 1: 100} {
		if a := w.account(who); units(a.Collateral()) != want || w.chain.collateral[party(who)] != a.Collateral() {
			t.Errorf("party %d has %s, on chain %s, want %d", who, a.Collateral(), w.chain.collateral[party(who)], want)
		}
	}
	w.check()
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	w.owe(0, 1, 10, start)
	w.owe(0, 1, 10, end)
	got, err := w.Next(t.Context(), dollar)
	if err != nil || len(got) != 2 || got[0] != (Deadline{CycleRef{dollar, start}, Frozen, end}) || got[1].At != end+100 {
		t.Errorf("%+v, %v", got, err)
	}
	w.closeAt(end)
	got, err = w.Next(t.Context(), dollar)
	if err != nil || len(got) != 2 || got[0] != (Deadline{CycleRef{dollar, start}, Netted, cutoff}) {
		t.Errorf("%+v, %v", got, err)
	}
}
