package chain

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/money"
)

var epoch = time.Unix(1_800_000_000, 0)

// lane is a sender with what it stands on.
type lane struct {
	world
	outbox *faultyOutbox
	node   *faultyNode
	sender *Sender
	policy Policy
	now    time.Time
}

func newLane(w world, p Policy) *lane {
	l := &lane{world: w, outbox: &faultyOutbox{MemoryOutbox: evm.NewMemoryOutbox()}, node: &faultyNode{Client: w.client}, policy: p, now: epoch}
	l.restart()
	return l
}

// restart forgets everything that is not in the outbox.
func (l *lane) restart() { l.sender = newSender(l.node, l.outbox, key(0), l.policy) }

func (l *lane) ask(id string, call evm.Call) {
	l.Helper()
	call.ID, call.From = id, key(0).Address()
	if err := l.outbox.Enqueue(l.Context(), call); err != nil {
		l.Fatal(err)
	}
}

// step makes a pass that must succeed.
func (l *lane) step() {
	l.Helper()
	if err := l.try(); err != nil {
		l.Fatal(err)
	}
}

func (l *lane) try() error {
	l.now = l.now.Add(time.Second)
	return l.sender.Step(l.Context(), l.now)
}

func (l *lane) call(id string) evm.SentCall {
	l.Helper()
	call, err := l.outbox.Find(l.Context(), id)
	if err != nil {
		l.Fatal(err)
	}
	return call
}

func (l *lane) want(id string, state evm.CallState) evm.SentCall {
	l.Helper()
	call := l.call(id)
	if call.State != state {
		l.Fatalf("%s is %s (%s), want %s", id, call.State, call.Err, state)
	}
	return call
}

func (l *lane) nonce() uint64 {
	l.Helper()
	n, err := l.client.Nonce(l.Context(), key(0).Address())
	if err != nil {
		l.Fatal(err)
	}
	return n
}

var errFault = errors.New("injected fault")

// fault fails the nth use of what it guards, before or after it happened.
type fault struct {
	on    string
	after bool
	fired bool
}

func (f *fault) around(name string, do func() error) error {
	if f == nil || f.on != name || f.fired {
		return do()
	}
	f.fired = true
	if f.after {
		if err := do(); err != nil {
			return err
		}
	}
	return errFault
}

type faultyOutbox struct {
	*evm.MemoryOutbox
	fault *fault
}

func (o *faultyOutbox) RecordAttempt(ctx context.Context, id string, a evm.Attempt) error {
	return o.fault.around("record", func() error { return o.MemoryOutbox.RecordAttempt(ctx, id, a) })
}

func (o *faultyOutbox) Finish(ctx context.Context, id string, r *evm.CallReceipt, reason string) error {
	return o.fault.around("finish", func() error { return o.MemoryOutbox.Finish(ctx, id, r, reason) })
}

func (o *faultyOutbox) Reopen(ctx context.Context, id string) error {
	return o.fault.around("reopen", func() error { return o.MemoryOutbox.Reopen(ctx, id) })
}

type faultyNode struct {
	*Client
	fault      *fault
	broadcasts [][]byte
	noPending  bool // like nodes that answer about the pending state from the newest block
}

func (n *faultyNode) estimate(ctx context.Context, call evm.Call, tag string) (uint64, error) {
	if n.noPending {
		tag = "latest"
	}
	return n.Client.estimate(ctx, call, tag)
}

func (n *faultyNode) broadcast(ctx context.Context, raw []byte) error {
	return n.fault.around("broadcast", func() error {
		n.broadcasts = append(n.broadcasts, raw)
		return n.Client.broadcast(ctx, raw)
	})
}

func (n *faultyNode) receipt(ctx context.Context, tx evm.Hash) (r *evm.CallReceipt, err error) {
	err = n.fault.around("receipt", func() error { r, err = n.Client.receipt(ctx, tx); return err })
	return r, err
}

// Whatever fails, done or not, and whether or not the process restarts then, a call takes effect exactly once.
func TestACallTakesEffectOnceWhateverFails(t *testing.T) {
	t.Parallel()
	for _, on := range []string{"record", "broadcast", "receipt", "finish"} {
		for _, after := range []bool{false, true} {
			for _, restarts := range []bool{false, true} {
				w := newWorld(t)
				l := newLane(w, Policy{Depth: 1})
				l.outbox.fault = &fault{on: on, after: after}
				l.node.fault = l.outbox.fault
				bob := key(1).Address()
				before := w.dollars(bob)
				l.ask("pay", give(bob, 5))
				failures := 0
				for range 8 {
					if err := l.try(); errors.Is(err, errFault) {
						failures++
						if restarts {
							l.restart()
						}
					} else if err != nil {
						t.Fatal(err)
					}
					w.mine(1)
				}
				l.want("pay", evm.CallDone)
				if got := w.dollars(bob) - before; got != 5 {
					t.Errorf("%s failed, done %v, restart %v: %d units moved, want 5", on, after, restarts, got)
				}
				if l.nonce() != 1 || failures != 1 {
					t.Errorf("%s failed, done %v, restart %v: %d transactions, %d failures", on, after, restarts, l.nonce(), failures)
				}
			}
		}
	}
}

func TestCallsWaitForTheirDepth(t *testing.T) {
	t.Parallel()
	l := newLane(newWorld(t), Policy{Depth: 2})
	l.ask("pay", give(key(1).Address(), 5))
	l.step()
	for range 3 {
		l.want("pay", evm.CallSent)
		l.mine(1)
		l.step()
	}
	call := l.want("pay", evm.CallDone)
	if call.Receipt.BlockNumber != 1 || call.Receipt.TxHash != call.Attempts[0].Hash || call.Receipt.GasUsed == 0 || call.Receipt.FeeWei == 0 {
		t.Errorf("receipt %+v", call.Receipt)
	}
}

func TestManyCallsShareBlocks(t *testing.T) {
	t.Parallel()
	l := newLane(newWorld(t), Policy{})
	bob := key(1).Address()
	before := l.dollars(bob)
	for i := range 20 {
		l.ask(strings.Repeat("x", i+1), give(bob, 1))
	}
	l.step() // sixteen fit in flight
	l.mine(1)
	l.step()
	l.mine(1)
	l.step()
	if open, _ := l.outbox.Open(t.Context(), key(0).Address()); len(open) != 0 {
		t.Errorf("%d calls are open after two blocks", len(open))
	}
	if got := l.dollars(bob) - before; got != 20 {
		t.Errorf("%d units moved, want 20", got)
	}
}

// The node forgot its pool: the same bytes go out again, all of them.
func TestALostPoolIsFilledAgain(t *testing.T) {
	t.Parallel()
	l := newLane(newWorld(t), Policy{})
	l.mine(2)
	for _, id := range []string{"a", "b", "c"} {
		l.ask(id, give(key(1).Address(), 1))
	}
	l.step()
	l.reorg(1, devchain.Forget)
	l.restart()
	l.step()
	l.mine(1)
	l.step()
	for _, id := range []string{"a", "b", "c"} {
		if call := l.want(id, evm.CallDone); len(call.Attempts) != 1 {
			t.Errorf("%s has %d attempts, want the same bytes again", id, len(call.Attempts))
		}
	}
	if len(l.node.broadcasts) != 6 {
		t.Errorf("%d broadcasts, want three twice", len(l.node.broadcasts))
	}
}

func TestAnAttemptThatWaitsIsReplaced(t *testing.T) {
	t.Parallel()
	l := newLane(newWorld(t), Policy{BumpAfter: time.Minute})
	l.ask("pay", give(key(1).Address(), 5))
	l.step()
	l.step()
	if n := len(l.call("pay").Attempts); n != 1 {
		t.Fatalf("%d attempts at once", n)
	}
	l.now = l.now.Add(time.Minute)
	l.step() // the node itself accepts the replacement, or this fails
	call := l.call("pay")
	if len(call.Attempts) != 2 {
		t.Fatalf("%d attempts after a minute, want 2", len(call.Attempts))
	}
	first, second := call.Attempts[0], call.Attempts[1]
	if first.Nonce != second.Nonce || second.FeeWei*10 < first.FeeWei*11 || second.TipWei*10 < first.TipWei*11 {
		t.Errorf("replaced %+v by %+v", first, second)
	}
	l.mine(1)
	l.step()
	if done := l.want("pay", evm.CallDone); done.Receipt.TxHash != second.Hash {
		t.Errorf("mined %v, want the replacement %v", done.Receipt.TxHash, second.Hash)
	}
	if l.nonce() != 1 {
		t.Errorf("%d transactions", l.nonce())
	}
}

func TestAReorgTakesASentCallBack(t *testing.T) {
	t.Parallel()
	l := newLane(newWorld(t), Policy{Depth: 3})
	bob := key(1).Address()
	before := l.dollars(bob)
	l.mine(2)
	l.ask("pay", give(bob, 5))
	l.step()
	l.mine(2)
	l.step()
	l.want("pay", evm.CallSent)
	l.reorg(2, devchain.Forget)
	l.step() // broadcast again
	l.mine(4)
	l.step()
	call := l.want("pay", evm.CallDone)
	if call.Receipt.BlockNumber != 6 || l.dollars(bob)-before != 5 {
		t.Errorf("mined in block %d, %d units moved", call.Receipt.BlockNumber, l.dollars(bob)-before)
	}
}

// A reorganisation deeper than the depth reopens what was done, also when the sender was restarted meanwhile.
func TestAReorgReopensADoneCall(t *testing.T) {
	t.Parallel()
	for _, restarts := range []bool{false, true} {
		for _, failing := range []*fault{nil, {on: "reopen"}, {on: "reopen", after: true}} {
			l := newLane(newWorld(t), Policy{})
			bob := key(1).Address()
			before := l.dollars(bob)
			l.mine(2)
			l.ask("first", give(bob, 1))
			l.step()
			l.mine(3)
			l.ask("pay", give(bob, 5))
			l.step()
			l.mine(1)
			l.step()
			first := l.want("first", evm.CallDone)
			l.want("pay", evm.CallDone)
			l.reorg(2, devchain.Forget)
			if restarts {
				l.restart()
			}
			if l.outbox.fault = failing; failing != nil {
				failing.fired = false
				if err := l.try(); !errors.Is(err, errFault) {
					t.Fatalf("the fault did not show: %v", err)
				}
			}
			l.step()
			l.want("pay", evm.CallSent)
			l.mine(1)
			l.step()
			l.want("pay", evm.CallDone)
			if again := l.want("first", evm.CallDone); *again.Receipt != *first.Receipt {
				t.Error("a call below the reorganisation was touched")
			}
			if got := l.dollars(bob) - before; got != 6 || l.nonce() != 2 {
				t.Errorf("%d units moved in %d transactions, want 6 in 2", got, l.nonce())
			}
		}
	}
}

func TestARefusedCallSpendsNoNonceAndBlocksNothing(t *testing.T) {
	t.Parallel()
	l := newLane(newWorld(t), Policy{})
	rich := uint64(devchain.Dollars*1_000_000 + 1)
	l.ask("good", give(key(1).Address(), 1))
	l.ask("too much", give(key(1).Address(), rich))
	l.ask("also good", give(key(1).Address(), 2))
	for range 3 {
		l.step()
		l.mine(1)
	}
	l.step()
	l.want("good", evm.CallDone)
	l.want("also good", evm.CallDone)
	call := l.want("too much", evm.CallReverted)
	if call.Err != "ERC20: transfer amount exceeds balance" || call.Receipt != nil || len(call.Attempts) != 0 {
		t.Errorf("refused with %q, receipt %v, %d attempts", call.Err, call.Receipt, len(call.Attempts))
	}
	if l.nonce() != 2 {
		t.Errorf("%d transactions, want 2", l.nonce())
	}
}

// The second call succeeds only after the first: it must not be judged before.
func TestACallMayDependOnTheOneBeforeIt(t *testing.T) {
	t.Parallel()
	for _, noPending := range []bool{false, true} {
		l := newLane(newWorld(t), Policy{})
		l.node.noPending = noPending
		alice := key(0).Address()
		l.ask("mint", Mint(devchain.TestDollar, alice, money.Units(10)))
		l.ask("spend", give(key(1).Address(), l.dollars(alice)+10))
		l.ask("after", Approve(devchain.TestDollar, alice, money.Units(1)))
		for range 4 {
			l.step()
			l.mine(1)
		}
		l.step()
		for i, id := range []string{"mint", "spend", "after"} {
			if call := l.want(id, evm.CallDone); call.Attempts[0].Nonce != uint64(i) {
				t.Errorf("%s went under nonce %d", id, call.Attempts[0].Nonce)
			}
		}
	}
}

func TestACallThatRevertsInABlock(t *testing.T) {
	t.Parallel()
	l := newLane(newWorld(t), Policy{})
	all := l.dollars(key(0).Address())
	spend := give(key(1).Address(), all)
	spend.GasLimit = 100_000 // not simulated while the other is in flight
	l.ask("first", spend)
	l.ask("second", spend)
	l.ask("third", Approve(devchain.TestDollar, key(1).Address(), money.Units(1)))
	for range 3 {
		l.step()
		l.mine(1)
	}
	l.step()
	l.want("first", evm.CallDone)
	l.want("third", evm.CallDone)
	if call := l.want("second", evm.CallReverted); call.Receipt == nil || call.Receipt.OK || call.Err == "" {
		t.Errorf("receipt %+v, reason %q", call.Receipt, call.Err)
	}
}

func TestGasPastTheCapIsRefused(t *testing.T) {
	t.Parallel()
	l := newLane(newWorld(t), Policy{})
	call := give(key(1).Address(), 1)
	call.GasLimit = GasMax + 1
	l.ask("greedy", call)
	burn := evm.Call{Data: []byte{0x5b, 0x60, 0x00, 0x56}} // a constructor that loops for ever
	l.ask("endless", burn)
	l.ask("good", give(key(1).Address(), 1))
	for range 3 {
		l.step()
		l.mine(1)
	}
	l.want("good", evm.CallDone)
	for _, id := range []string{"greedy", "endless"} {
		if call := l.want(id, evm.CallReverted); call.Err == "" || len(call.Attempts) != 0 {
			t.Errorf("%s: reason %q, %d attempts", id, call.Err, len(call.Attempts))
		}
	}
}

// A transaction that no node takes gives its nonce back, also when the process dies before that is written down.
func TestAnInvalidTransactionGivesItsNonceBack(t *testing.T) {
	t.Parallel()
	for _, failing := range []*fault{nil, {on: "finish"}, {on: "finish", after: true}} {
		l := newLane(newWorld(t), Policy{Depth: 5})
		l.ask("good", give(key(1).Address(), 1))
		starved := give(key(1).Address(), 2)
		starved.GasLimit = 21_000
		l.ask("starved", starved)
		l.ask("also good", give(key(1).Address(), 3))
		if l.outbox.fault = failing; failing != nil {
			if err := l.try(); !errors.Is(err, errFault) {
				t.Fatalf("the fault did not show: %v", err)
			}
			l.restart()
		}
		for range 8 {
			l.step()
			l.mine(1)
		}
		l.want("starved", evm.CallReverted)
		l.want("good", evm.CallDone)
		if call := l.want("also good", evm.CallDone); call.Attempts[0].Nonce != 1 {
			t.Errorf("the freed nonce was not used: %d", call.Attempts[0].Nonce)
		}
	}
}

// Somebody uses the key elsewhere and takes the nonce.
func TestAStolenNonceIsReplacedByTheNext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := newLane(w, Policy{LostAfter: time.Minute})
	bob := key(1).Address()
	before := w.dollars(bob)
	w.mine(2)
	l.ask("pay", give(bob, 5))
	l.step()
	w.reorg(1, devchain.Forget) // the node forgets it, and another program sends first
	w.send(key(0), give(key(2).Address(), 1))
	l.step()
	l.step()
	if call := l.want("pay", evm.CallSent); len(call.Attempts) != 1 {
		t.Fatal("a new nonce was taken at once")
	}
	l.now = l.now.Add(time.Minute)
	l.step()
	w.mine(1)
	l.step()
	call := l.want("pay", evm.CallDone)
	if call.Attempts[0].Nonce != 0 || call.Attempts[1].Nonce != 1 || w.dollars(bob)-before != 5 {
		t.Errorf("attempts under nonces %d and %d, %d units moved", call.Attempts[0].Nonce, call.Attempts[1].Nonce, w.dollars(bob)-before)
	}
}

func TestFeesAboveTheCeilingAreNotPaid(t *testing.T) {
	t.Parallel()
	l := newLane(newWorld(t), Policy{MaxFeeWei: 1})
	l.ask("pay", give(key(1).Address(), 1))
	if err := l.try(); !errors.Is(err, errFeesTooHigh) {
		t.Errorf("the pass gave %v", err)
	}
	l.want("pay", evm.CallQueued)
}

func TestWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := newLane(w, Policy{Depth: 1})
	call := give(key(1).Address(), 1)
	call.ID, call.From = "pay", key(0).Address()
	if sent, err := l.sender.SendAndWait(t.Context(), call, w.mining()); err != nil || sent.State != evm.CallDone {
		t.Errorf("waited for %s, %v", sent.State, err)
	}
	other := give(key(1).Address(), 2)
	other.ID, other.From = "pay", key(0).Address()
	if _, err := l.sender.SendAndWait(t.Context(), other, w.mining()); !errors.Is(err, evm.ErrCallConflict) {
		t.Errorf("other content under the same name gave %v", err)
	}
	greedy := give(key(1).Address(), 1<<60)
	greedy.ID, greedy.From = "greedy", key(0).Address()
	if sent, err := l.sender.SendAndWait(t.Context(), greedy, w.mining()); !errors.Is(err, ErrReverted) || !strings.Contains(err.Error(), "ERC20: transfer amount exceeds balance") || sent.State != evm.CallReverted {
		t.Errorf("a refused call gave %v", err)
	}
	stopped := give(key(1).Address(), 3)
	stopped.ID, stopped.From = "stopped", key(0).Address()
	passes := 0
	sent, err := l.sender.SendAndWait(t.Context(), stopped, func(context.Context) (time.Time, error) {
		if passes++; passes > 2 {
			return time.Time{}, context.DeadlineExceeded
		}
		return epoch, nil
	})
	if !errors.Is(err, context.DeadlineExceeded) || sent.State != evm.CallSent {
		t.Errorf("an unknown outcome is %s, %v", sent.State, err)
	}
}

func TestTwoSendersOfOneKeyDoNotBothGoOn(t *testing.T) {
	t.Parallel()
	ctx, o, from := t.Context(), evm.NewMemoryOutbox(), key(0).Address()
	for _, id := range []string{"a", "b"} {
		if err := o.Enqueue(ctx, evm.Call{ID: id, From: from}); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.RecordAttempt(ctx, "a", evm.Attempt{Hash: evm.Hash{1}, Nonce: 4}); err != nil {
		t.Fatal(err)
	}
	if err := o.RecordAttempt(ctx, "b", evm.Attempt{Hash: evm.Hash{2}, Nonce: 4}); !errors.Is(err, evm.ErrCallConflict) {
		t.Errorf("a second holder of nonce 4 gave %v", err)
	}
	if err := o.RecordAttempt(ctx, "a", evm.Attempt{Hash: evm.Hash{1}, Nonce: 4}); err != nil {
		t.Errorf("the same attempt again gave %v", err)
	}
	if _, err := o.Find(ctx, "c"); !errors.Is(err, evm.ErrNoCall) {
		t.Errorf("an unknown call gave %v", err)
	}
}
