package desk_test

import (
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/money"
)

func TestManySettlementsShareATransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var single uint64
	for i := range byte(2) { // the first transfer pays for the payee's balance
		alone := w.transfer(payer(0), 5, 200+i)
		w.ask(alone)
		w.settle()
		single = w.want(alone, desk.Settled, "").Gas
	}
	const count = 100
	var all []desk.Ask
	for i := range byte(count) {
		all = append(all, w.transfer(payer(int(i)%5), 5, 1+i))
		w.ask(all[i])
	}
	w.settle()
	var gas uint64
	for _, a := range all {
		s := w.want(a, desk.Settled, "")
		if s.Foreign || s.Tx != w.find(all[0]).Tx {
			t.Errorf("settled in %s, foreign %v", s.Tx, s.Foreign)
		}
		gas += s.Gas
	}
	receipt, err := w.client.Receipt(t.Context(), w.find(all[0]).Tx)
	if err != nil || receipt.GasUsed != gas {
		t.Errorf("the shares come to %d gas, the transaction used %d", gas, receipt.GasUsed)
	}
	if w.sent() != 3 || w.dollars(payee) != 5*(count+2) {
		t.Errorf("%d transactions, %d units", w.sent(), w.dollars(payee))
	}
	t.Logf("gas of a payment: alone %d, one of %d %d", single, count, gas/count)
	if 4*gas/count > 3*single {
		t.Errorf("one of %d takes %d gas, alone it takes %d: less than a quarter is saved", count, gas/count, single)
	}
}

// While a lane is busy, what is asked for gathers, and shares the next transaction.
func TestWhatComesWhileALaneIsBusyGathers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *desk.Config) { c.BlockTime = 2 * time.Second })
	first := w.transfer(payer(0), 5, 1)
	w.ask(first)
	w.step()
	var later []desk.Ask
	for i := range byte(5) {
		later = append(later, w.transfer(payer(1), 5, 10+i))
		w.ask(later[i])
		w.step()
	}
	w.want(later[0], desk.Queued, "")
	w.mine(1)
	w.settle()
	for _, a := range later {
		if s := w.want(a, desk.Settled, ""); s.Tx != w.find(later[0]).Tx {
			t.Error("they did not share a transaction")
		}
	}
	if w.sent() != 2 {
		t.Errorf("%d transactions, want two", w.sent())
	}
}

// One bad settlement in a batch: found before it is sent, or in the block; the others do not notice.
func TestABadSettlementDoesNotHurtItsNeighbours(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before it is sent", "in the block"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			key := newKey(t)
			w.by(payer(4), chain.Mint(devchain.TestDollar, key.Address(), money.Units(5)), evm.Call{To: key.Address(), Value: money.Units(1e18).Word()})
			bad := w.transfer(key, 5, 1)
			good := []desk.Ask{w.transfer(payer(0), 5, 1), w.transfer(payer(1), 5, 1), w.transfer(payer(2), 5, 1)}
			empties := chain.Transfer(devchain.TestDollar, payer(4).Address(), money.Units(1))
			switch when {
			case "before it is sent":
				w.by(key, empties)
			case "in the block":
				w.pool(key, empties) // pays more for its place than the lane does
			}
			for _, a := range append(good[:2:2], bad, good[2]) {
				w.ask(a)
			}
			w.settle()
			w.want(bad, desk.Failed, "invalid_exact_evm_insufficient_balance")
			for _, a := range good {
				w.want(a, desk.Settled, "")
			}
			if w.dollars(payee) != 15 {
				t.Errorf("%d units moved, want 15", w.dollars(payee))
			}
		})
	}
}

// A payer with money for one of its two payments: one is settled, whichever.
func TestTwoPaymentsOutOfMoneyForOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	key := newKey(t)
	w.by(payer(4), chain.Mint(devchain.TestDollar, key.Address(), money.Units(7)))
	a, b := w.transfer(key, 5, 1), w.transfer(key, 5, 2)
	w.ask(a)
	w.ask(b)
	w.ask(w.transfer(payer(0), 5, 1))
	w.settle()
	settled := 0
	for _, s := range []desk.Settlement{w.find(a), w.find(b)} {
		if s.State == desk.Settled {
			settled++
		} else if s.Code != "invalid_exact_evm_insufficient_balance" {
			t.Errorf("failed with %s %s", s.Code, s.Reason)
		}
	}
	if settled != 1 || w.dollars(payee) != 10 {
		t.Errorf("%d settled, %d units moved", settled, w.dollars(payee))
	}
}

// Equal amounts between the same parties in one transaction are told apart by their nonces.
func TestEqualPaymentsAreToldApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a, b, c := w.transfer(payer(0), 5, 1), w.transfer(payer(0), 5, 2), w.transfer(payer(0), 5, 3)
	for _, x := range []desk.Ask{a, b, c} {
		w.ask(x)
	}
	front := w.pool(payer(4), evm.Call{To: b.To, Data: b.Data})
	w.settle()
	for _, x := range []desk.Ask{a, b, c} {
		w.want(x, desk.Settled, "")
	}
	if s := w.find(b); s.Tx == front != s.Foreign || w.dollars(payee) != 15 {
		t.Errorf("the second was settled by %s, foreign %v; %d units moved", s.Tx, s.Foreign, w.dollars(payee))
	}
}

func TestABatchThatDoesNotFitIsSplit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *desk.Config) { c.BatchMax = 8 })
	var all []desk.Ask
	for i := range byte(20) {
		all = append(all, w.transfer(payer(int(i)%5), 5, 1+i))
		w.ask(all[i])
	}
	w.settle()
	for _, a := range all {
		w.want(a, desk.Settled, "")
	}
	if w.sent() != 3 {
		t.Errorf("%d transactions for twenty in eights", w.sent())
	}
}

// More than the gas of one transaction: it is found out by estimating, and split.
func TestABatchOfTooMuchGasIsSplit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *desk.Config) { c.BatchMax = 400 })
	for i := range 400 {
		a := w.transfer(payer(i%5), 5, 1)
		a.Nonce = evm.Hash{9, byte(i), byte(i >> 8)}
		w.ask(signed(t, a, payer(i%5)))
	}
	w.settle()
	if w.dollars(payee) != 2000 || w.sent() < 2 || w.sent() > 8 {
		t.Errorf("%d units in %d transactions", w.dollars(payee), w.sent())
	}
}

// Several lanes send at once, and each keeps to its own nonces.
func TestLanesShareTheWork(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *desk.Config) { c.BatchMax = 2 })
	w.lanes = devchain.Accounts()[:3]
	w.start()
	for i := range byte(6) {
		w.ask(w.transfer(payer(int(i)%5), 5, 1+i))
	}
	w.step()
	w.mine(1)
	w.settle()
	for _, key := range w.lanes {
		if n, err := w.client.Nonce(t.Context(), key.Address()); err != nil || n != 1 {
			t.Errorf("lane %s sent %d, %v", key.Address().Short(), n, err)
		}
	}
	if w.dollars(payee) != 30 {
		t.Errorf("%d units moved", w.dollars(payee))
	}
}

// A reorganisation may drop a batch of which one part was settled alone afterwards.
func TestABatchSurvivesAReorganisation(t *testing.T) {
	t.Parallel()
	for _, fate := range []devchain.Fate{devchain.Requeue, devchain.Forget} {
		w := newWorld(t, nil)
		all := []desk.Ask{w.transfer(payer(0), 5, 1), w.transfer(payer(1), 5, 1), w.transfer(payer(2), 5, 1)}
		for _, a := range all {
			w.ask(a)
		}
		w.settle()
		if err := w.chain.Reorg(t.Context(), 1, fate); err != nil {
			t.Fatal(err)
		}
		w.settle()
		for _, a := range all {
			w.want(a, desk.Settled, "")
		}
		if w.dollars(payee) != 15 {
			t.Errorf("fate %v: %d units moved", fate, w.dollars(payee))
		}
	}
}

// Estimating takes a node many times as long as running the batch once, so it is asked once for each kind of settlement, and
// again only where what it said does not do.
func TestGasIsEstimatedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	nonce := byte(0)
	batch := func(what string, estimates int, cold bool) {
		t.Helper()
		before, sent := w.faults.estimates, w.sent()
		var all []desk.Ask
		for i := range 12 {
			nonce++
			a := w.transfer(payer(i%5), 5, nonce)
			if cold {
				a.Payee[0], a.Payee[1] = 1, nonce
				a = signed(t, a, payer(i%5))
			}
			w.ask(a)
			all = append(all, a)
		}
		w.settle()
		for _, a := range all {
			w.want(a, desk.Settled, "")
		}
		if got := w.faults.estimates - before; got != estimates || w.sent() != sent+1 {
			t.Errorf("%s: %d estimates and %d transactions, want %d and 1", what, got, w.sent()-sent, estimates)
		}
	}
	batch("the first, which opens its payee's balance", 1, false)
	batch("the second, which is like it", 0, false)
	batch("one that opens twelve balances, each 17k gas more", 1, true)
	batch("one more of those", 0, true)
	batch("and a cheap one", 0, false)
}

// A batch never asks for more gas than a block has.
func TestABatchFitsABlock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.faults.gasLimit = 400_000
	for round := range byte(2) { // the second under what the first has taught
		var all []desk.Ask
		for i := range byte(12) {
			all = append(all, w.transfer(payer(int(i)%5), 5, 20*round+i+1))
			w.ask(all[i])
		}
		w.settle()
		for _, a := range all {
			s := w.want(a, desk.Settled, "")
			call, err := w.store.OutboxOn(devchain.DefaultChainID).Find(t.Context(), s.Call)
			if err != nil {
				t.Fatal(err)
			}
			if call.GasLimit > 400_000 {
				t.Errorf("a transaction may use %d gas, a block has 400,000", call.GasLimit)
			}
		}
	}
}
