package desk_test

import (
	"errors"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/money"
)

func TestASettlementMovesTheMoneyOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.transfer(payer(0), 500, 1)
	if s := w.ask(a); s.State != desk.Queued {
		t.Errorf("a new settlement is %s", s.State)
	}
	w.settle()
	s := w.want(a, desk.Settled, "")
	if s.Foreign || s.Tx.IsZero() || s.Gas < 40_000 || s.TotalCost().IsZero() || s.DoneAt.IsZero() {
		t.Errorf("settled: %+v", s)
	}
	if got := w.ask(a); got.Tx != s.Tx || got.State != desk.Settled {
		t.Errorf("asking again: %s %s, want the same", got.State, got.Tx)
	}
	w.settle()
	if w.dollars(payee) != 500 || w.sent() != 1 {
		t.Errorf("%d units in %d transactions, want 500 in one", w.dollars(payee), w.sent())
	}
	spent, err := w.store.Settlements().Spent(t.Context(), a.ChainID, desk.Day(w.now()))
	if err != nil || len(spent) != 2 {
		t.Fatalf("spent: %+v, %v", spent, err)
	}
	for _, sp := range spent {
		if sp.Gas != s.Gas || sp.Wei != s.Cost {
			t.Errorf("spent %+v, want gas %d and %s wei", sp, s.Gas, s.Cost)
		}
	}
}

// Whatever fails, done or not, and whether or not the process restarts then, the payee has the money once.
func TestAPaymentSettlesOnceWhateverFails(t *testing.T) {
	t.Parallel()
	for _, on := range []string{"record", "send", "lane", "find", "estimate", "receipt", "save"} {
		for _, after := range []bool{false, true} {
			for _, restarts := range []bool{false, true} {
				w := newWorld(t, func(c *desk.Config) { c.Depth = 1 })
				w.faults.on, w.faults.after = on, after
				a := w.transfer(payer(0), 500, 1)
				for range 10 {
					_, err := w.desk.Ask(t.Context(), a, 0, w.now())
					if err == nil {
						err = w.desk.Step(t.Context(), w.now())
					}
					if err != nil && !errors.Is(err, errFault) {
						t.Fatalf("%s failed, done %v, restart %v: %v", on, after, restarts, err)
					}
					if err != nil && restarts {
						w.start()
					}
					w.mine(1)
				}
				w.want(a, desk.Settled, "")
				if w.dollars(payee) != 500 || w.sent() != 1 || !w.faults.fired {
					t.Errorf("%s failed, done %v, restart %v: %d units in %d transactions, fault fired %v", on, after, restarts, w.dollars(payee), w.sent(), w.faults.fired)
				}
			}
		}
	}
}

// The process is killed at any moment: the next one over the same book goes on.
func TestANewDeskGoesOnWhereTheOldOneStopped(t *testing.T) {
	t.Parallel()
	for passes := range 4 {
		w := newWorld(t, func(c *desk.Config) { c.Depth = 1 })
		a := w.transfer(payer(0), 500, 1)
		w.ask(a)
		for range passes {
			w.step()
			w.mine(1)
		}
		w.start()
		w.settle()
		if w.want(a, desk.Settled, ""); w.dollars(payee) != 500 || w.sent() != 1 {
			t.Errorf("after %d passes: %d units in %d transactions", passes, w.dollars(payee), w.sent())
		}
	}
}

func TestAnAuthorizationStandsForOneTransfer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.transfer(payer(0), 500, 1)
	w.ask(a)
	other := w.transfer(payer(0), 700, 1)
	w.refuses(other, "duplicate_settlement")
	elsewhere := a
	elsewhere.Payee = evm.Address{1}
	w.refuses(elsewhere, "duplicate_settlement")
	w.settle()
	w.refuses(other, "duplicate_settlement")
	if w.dollars(payee) != 500 {
		t.Errorf("%d units moved", w.dollars(payee))
	}
}

func TestWhatIsNotSettledIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *desk.Config) {
		c.Selectors = [][4]byte{selector("transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)")}
		c.OpenMax = 2
	})
	good := w.transfer(payer(0), 5, 1)
	for _, tt := range []struct {
		name   string
		change func(*desk.Ask)
		code   string
	}{
		{"another chain", func(a *desk.Ask) { a.ChainID = 1 }, "invalid_network"},
		{"a token that is not on the list", func(a *desk.Ask) { a.Asset = evm.Address{1} }, "asset_not_served"},
		{"a call that is not on the list", func(a *desk.Ask) { a.Data = append([]byte{1, 2, 3, 4}, a.Data[4:]...) }, "call_not_served"},
		{"no call at all", func(a *desk.Ask) { a.Data = nil }, "call_not_served"},
		{"somebody else's lane", func(a *desk.Ask) { a.Lane = evm.Address{1} }, "unsupported_payload_type"},
		{"no time left", func(a *desk.Ask) { a.ValidBefore = uint64(w.now().Unix()) + 5 }, "settlement_too_late"},
		{"long expired", func(a *desk.Ask) { a.ValidBefore = 0 }, "settlement_too_late"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := good
			tt.change(&a)
			w.refuses(a, tt.code)
		})
	}
	w.ask(good)
	w.ask(w.transfer(payer(0), 5, 2))
	w.refuses(w.transfer(payer(0), 5, 3), "settlement_busy")
	if w.desk.Open() != 2 {
		t.Errorf("%d settlements are open", w.desk.Open())
	}
}

func TestAPayerHasItsShareOfGasADay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *desk.Config) { c.GasPerPayer = 250_000 })
	w.ask(w.transfer(payer(0), 5, 1))
	w.ask(w.transfer(payer(0), 5, 2))
	w.settle()
	a := w.transfer(payer(0), 5, 3)
	w.ask(a)
	w.refuses(w.transfer(payer(0), 5, 4), "gas_budget_exceeded")
	w.ask(w.transfer(payer(1), 5, 1)) // has its own
	w.settle()
	w.start() // the book remembers
	w.refuses(w.transfer(payer(0), 5, 4), "gas_budget_exceeded")
	tomorrow := w.now().Add(24 * time.Hour)
	later := w.transfer(payer(0), 5, 4)
	later.ValidBefore += 86400
	if _, err := w.desk.Ask(t.Context(), signed(t, later, payer(0)), 0, tomorrow); err != nil {
		t.Errorf("a new day: %v", err)
	}
}

func TestTheLanesSpendNoMoreThanTheyMayADay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *desk.Config) { c.SpendMax = money.Units(1) })
	w.ask(w.transfer(payer(0), 5, 1))
	w.settle()
	w.refuses(w.transfer(payer(0), 5, 2), "settlement_busy")
	w.start()
	w.refuses(w.transfer(payer(0), 5, 2), "settlement_busy")
}

// A payer that empties its account between verify and settle costs nothing, and its authorization can still be settled
// once the money is back.
func TestAnEmptiedPayerCostsNoGas(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	key := newKey(t)
	a := w.transfer(key, 500, 1)
	w.ask(a)
	w.settle()
	s := w.want(a, desk.Failed, "invalid_exact_evm_insufficient_balance")
	if w.sent() != 0 || !s.TotalCost().IsZero() {
		t.Errorf("%d transactions, %s wei", w.sent(), s.TotalCost())
	}
	w.by(payer(1), chain.Mint(devchain.TestDollar, key.Address(), money.Units(500)))
	w.ask(a)
	w.settle()
	w.want(a, desk.Settled, "")
}

// Emptied between the simulation and the block: the transaction reverts, and its cost is the payer's.
func TestAPayerEmptiedUnderwayIsCharged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	key := newKey(t)
	w.by(payer(1), chain.Mint(devchain.TestDollar, key.Address(), money.Units(500)), evm.Call{To: key.Address(), Value: money.Units(1e18).Word()})
	a := w.transfer(key, 500, 1)
	w.pool(key, chain.Transfer(devchain.TestDollar, payer(2).Address(), money.Units(1)))
	w.ask(a)
	w.settle()
	s := w.want(a, desk.Failed, "invalid_exact_evm_insufficient_balance")
	if w.sent() == 1 && (s.Gas == 0 || s.Tx.IsZero() || s.TotalCost().IsZero()) {
		t.Errorf("it failed in a block for nothing: %+v", s)
	}
	if w.dollars(payee) != 0 {
		t.Errorf("%d units moved", w.dollars(payee))
	}
}

// A nonce that is used with the matching transfer is paid, whoever sent the transaction and whenever.
func TestSomebodyElsesTransactionCountsAsPaid(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before it is asked for", "while it is queued", "while it is in the pool", "in company"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(c *desk.Config) { c.Depth = 1 })
			a := w.transfer(payer(0), 500, 1)
			front := evm.Call{To: a.To, Data: a.Data}
			var tx evm.Hash
			switch when {
			case "before it is asked for":
				tx = w.by(payer(3), front)
				w.ask(a)
			case "while it is queued":
				w.ask(a)
				tx = w.by(payer(3), front)
			case "while it is in the pool":
				tx = w.pool(payer(3), front)
				w.ask(a)
				w.step() // both are in the pool, the other one first
			case "in company":
				w.ask(w.transfer(payer(1), 5, 1))
				w.ask(a)
				tx = w.by(payer(3), front)
			}
			w.settle()
			s := w.want(a, desk.Settled, "")
			if s.Tx != tx && when != "while it is in the pool" || s.Foreign != (s.Tx == tx) {
				t.Errorf("settled by %s, foreign %v; want %s", s.Tx, s.Foreign, tx)
			}
			if !w.paid(500, when == "in company") {
				t.Errorf("%d units moved", w.dollars(payee))
			}
		})
	}
}

func (w *world) paid(units uint64, company bool) bool {
	if company {
		units += 5
	}
	return w.dollars(payee) == units
}

// The same nonce of the same payer was used for another transfer: nothing was paid here.
func TestANonceThatPaidSomebodyElseIsNotPaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.transfer(payer(0), 500, 1)
	b := a
	b.Payee = evm.Address{7}
	b = signed(t, b, payer(0))
	w.by(payer(3), evm.Call{To: b.To, Data: b.Data})
	w.ask(a)
	w.settle()
	w.want(a, desk.Failed, "invalid_exact_evm_nonce_already_used")
	if w.sent() != 0 {
		t.Errorf("%d transactions were sent", w.sent())
	}
}

// A payer uses up the nonces of several payments in one transaction, and only one of them for the payment.
func TestOneTransferPaysForOneNonceOnly(t *testing.T) {
	t.Parallel()
	part := func(a desk.Ask) evm.Arg {
		return evm.TupleArg(evm.WordArg(a.To.Word()), evm.WordArg([32]byte{}), evm.BytesArg(a.Data))
	}
	for _, paidFirst := range []bool{true, false} {
		w := newWorld(t, nil)
		paid, cheat := w.transfer(payer(0), 500, 1), w.transfer(payer(0), 500, 2)
		void := cheat
		void.Payee, void.Amount = payer(0).Address(), money.Amount{}
		void = signed(t, void, payer(0))
		parts := []evm.Arg{part(paid), part(void)}
		if !paidFirst {
			parts = []evm.Arg{part(void), part(paid)}
		}
		data := evm.EncodeCall(selector("aggregate3((address,bool,bytes)[])"), evm.ListArg(parts...))
		w.by(payer(3), evm.Call{To: desk.Multicall3, Data: data, GasLimit: 400_000})
		w.ask(cheat)
		w.ask(paid)
		w.settle()
		w.want(paid, desk.Settled, "")
		w.want(cheat, desk.Failed, "invalid_exact_evm_nonce_already_used")
		if !w.paid(500, false) {
			t.Errorf("%d units moved", w.dollars(payee))
		}
	}
}

// A burst of used authorizations must not use up the lane's nonces, or everything behind them would hang.
func TestUsedAuthorizationsSpendNoNonces(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var burst []desk.Ask
	for i := range byte(8) {
		a := w.transfer(payer(0), 500, 1+i)
		b := a
		b.Payee = evm.Address{7}
		b = signed(t, b, payer(0))
		w.by(payer(3), evm.Call{To: b.To, Data: b.Data})
		burst = append(burst, a)
	}
	good := w.transfer(payer(1), 500, 1)
	for _, a := range append(burst, good) {
		w.ask(a)
	}
	w.settle()
	for _, a := range burst {
		w.want(a, desk.Failed, "invalid_exact_evm_nonce_already_used")
	}
	if w.want(good, desk.Settled, ""); w.sent() != 1 {
		t.Errorf("%d transactions for one good payment", w.sent())
	}
}

func TestAReorganisationTakesASettlementBack(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		fate    devchain.Fate
		restart bool
	}{
		{"its transaction waits in the pool again", devchain.Requeue, false},
		{"its transaction is in another block", devchain.Include, false},
		{"nobody remembers its transaction", devchain.Forget, false},
		{"nobody remembers its transaction, and the desk restarts", devchain.Forget, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.mine(3)
			a := w.transfer(payer(0), 500, 1)
			w.ask(a)
			w.settle()
			before := w.want(a, desk.Settled, "")
			if err := w.chain.Reorg(t.Context(), 1, tt.fate); err != nil {
				t.Fatal(err)
			}
			if tt.restart {
				w.start()
			}
			w.step()
			if tt.fate != devchain.Include {
				w.want(a, desk.Sent, "")
			}
			w.mine(1)
			w.settle()
			after := w.want(a, desk.Settled, "")
			if after.BlockHash == before.BlockHash || w.dollars(payee) != 500 {
				t.Errorf("settled in the same block, or not once: %d units", w.dollars(payee))
			}
		})
	}
}

// The book may have written that a settlement is open again, without the desk hearing of it.
func TestAReorganisationThatIsWrittenDownUnheard(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.mine(3)
	a := w.transfer(payer(0), 500, 1)
	w.ask(a)
	w.settle()
	if err := w.chain.Reorg(t.Context(), 1, devchain.Forget); err != nil {
		t.Fatal(err)
	}
	*w.faults = faults{on: "save", after: true}
	if err := w.desk.Step(t.Context(), w.now()); !errors.Is(err, errFault) {
		t.Fatalf("the pass ended with %v", err)
	}
	w.mine(1)
	w.settle()
	if w.want(a, desk.Settled, ""); w.dollars(payee) != 500 {
		t.Errorf("%d units were paid", w.dollars(payee))
	}
}

// A reorganisation in which the payer's money goes elsewhere: what was settled is reported as failed.
func TestAReorganisationMayUndoASettlement(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	key := newKey(t)
	w.by(payer(1), chain.Mint(devchain.TestDollar, key.Address(), money.Units(500)), evm.Call{To: key.Address(), Value: money.Units(1e18).Word()})
	a := w.transfer(key, 500, 1)
	w.ask(a)
	w.settle()
	w.want(a, desk.Settled, "")
	if err := w.chain.Reorg(t.Context(), 1, devchain.Forget); err != nil {
		t.Fatal(err)
	}
	w.by(key, chain.Transfer(devchain.TestDollar, payer(2).Address(), money.Units(1)))
	w.settle()
	w.want(a, desk.Failed, "invalid_exact_evm_insufficient_balance")
	if last := w.ended[len(w.ended)-1]; last.State != desk.Failed {
		t.Errorf("the owner was told last: %s", last.State)
	}
}

// One that expires before a block can have it is not sent.
func TestAnExpiredSettlementIsNotSent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.transfer(payer(0), 500, 1)
	w.ask(a)
	if err := w.chain.AdvanceTime(10 * time.Minute); err != nil {
		t.Fatal(err)
	}
	w.mine(1)
	w.settle()
	w.want(a, desk.Failed, "invalid_exact_evm_payload_authorization_valid_before")
	if w.sent() != 0 {
		t.Errorf("%d transactions were sent", w.sent())
	}
}

func TestASettlementThatMayWaitIsSentWhenItIsDue(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.transfer(payer(0), 500, 1)
	b := w.transfer(payer(1), 500, 1)
	b.ValidBefore = uint64(w.now().Unix()) + 20
	b = signed(t, b, payer(1))
	w.askWithin(a, 30*time.Second)
	if s := w.askWithin(b, time.Hour); int64(b.ValidBefore)-s.Due.Unix() < 6 {
		t.Errorf("due at %d, valid before %d", s.Due.Unix(), b.ValidBefore)
	}
	w.step()
	w.want(a, desk.Queued, "")
	w.want(b, desk.Queued, "")
	if err := w.chain.AdvanceTime(15 * time.Second); err != nil {
		t.Fatal(err)
	}
	w.mine(1)
	w.settle()
	w.want(a, desk.Settled, "") // went with the other
	w.want(b, desk.Settled, "")
	if w.sent() != 1 {
		t.Errorf("%d transactions, want both in one", w.sent())
	}
}

func TestALaneWhoseKeyIsGoneIsMissed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.ask(w.transfer(payer(0), 500, 1))
	w.step()
	w.lanes = devchain.Accounts()[1:2]
	w.start()
	if err := w.desk.Step(t.Context(), w.now()); err == nil {
		t.Error("a settlement on its way from another account was taken over")
	}
}

// A lane without coin gets nothing to send, and new payments are turned away until it has some.
func TestALaneThatCannotPayForGasSendsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	key := newKey(t)
	w.lanes = []*evm.PrivateKey{key}
	w.start()
	a, b := w.transfer(payer(0), 500, 1), w.transfer(payer(0), 5, 2)
	w.ask(a)
	if err := w.desk.Step(t.Context(), w.now()); err == nil {
		t.Error("nobody is told")
	}
	w.want(a, desk.Queued, "")
	w.refuses(b, "settlement_busy")
	if err := w.chain.AdvanceTime(time.Hour); err != nil {
		t.Fatal(err)
	}
	w.mine(1)
	_ = w.desk.Step(t.Context(), w.now()) // says again that there is no coin
	w.want(a, desk.Failed, "invalid_exact_evm_payload_authorization_valid_before")
	c := w.transfer(payer(0), 7, 3)
	w.refuses(c, "settlement_busy")
	w.by(payer(1), evm.Call{To: key.Address(), Value: money.Units(1e18).Word()})
	w.step()
	w.ask(c)
	w.settle()
	if w.want(c, desk.Settled, ""); w.dollars(payee) != 7 {
		t.Errorf("%d units moved", w.dollars(payee))
	}
}

// One lane is out of coin: the other does the work.
func TestARichLaneWorksForAPoorOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	key := newKey(t)
	w.lanes = []*evm.PrivateKey{key, devchain.Accounts()[0]}
	w.start()
	for i := range byte(3) {
		w.ask(w.transfer(payer(0), 5, 1+i))
		w.settle()
	}
	if w.dollars(payee) != 15 {
		t.Errorf("%d units moved", w.dollars(payee))
	}
}

// What ended is remembered for a month after it could last be shown, and then asked for as if it had never been.
func TestWhatEndedIsForgottenAfterAMonth(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.transfer(payer(0), 5, 1)
	w.ask(a)
	w.settle()
	w.want(a, desk.Settled, "")
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{desk.Keep, 0}, {desk.Keep + 299*time.Second, 0}, {desk.Keep + time.Hour, 1}, {desk.Keep + time.Hour, 0}} {
		if n, err := w.desk.Prune(t.Context(), w.now().Add(step.after)); err != nil || n != step.want {
			t.Errorf("after %s: forgotten %d, want %d: %v", step.after, n, step.want, err)
		}
	}
	if _, _, found, err := w.desk.Find(t.Context(), a.ID); found || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
}
