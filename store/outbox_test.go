package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
)

// What a sender needs, in its own words (package evm/chain, which this one must not import).
var _ interface {
	Enqueue(ctx context.Context, call evm.Call) error
	Find(ctx context.Context, id string) (evm.SentCall, error)
	Open(ctx context.Context, from evm.Address) ([]evm.SentCall, error)
	Finished(ctx context.Context, from evm.Address, since uint64) ([]evm.SentCall, error)
	RecordAttempt(ctx context.Context, id string, attempt evm.Attempt) error
	Finish(ctx context.Context, id string, receipt *evm.CallReceipt, reason string) error
	Reopen(ctx context.Context, id string) error
} = (*Outbox)(nil)

func call(id string, from byte) evm.Call {
	return evm.Call{ID: id, From: address(from), To: address(7), Value: [32]byte{31: 5}, Data: []byte{1, 0, 255}, GasLimit: 90_000}
}

func attempt(n byte, nonce uint64) evm.Attempt {
	return evm.Attempt{Hash: evm.Hash{n}, Raw: []byte{n, 0}, Nonce: nonce, TipWei: 1, FeeWei: math.MaxInt64, Gas: 3, SentAt: 4}
}

func ids(calls []evm.SentCall, err error) string {
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, c := range calls {
		all = append(all, c.ID)
	}
	return fmt.Sprint(all)
}

func TestOutboxKeepsACallsLife(t *testing.T) { onEach(t, testOutboxKeepsACallsLife) }

func testOutboxKeepsACallsLife(t *testing.T, db database) {
	s := db.fresh(t)
	o := s.Outbox()
	ctx := t.Context()
	is := func(step string, err error, want evm.SentCall) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		got, err := o.Find(ctx, want.ID)
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", step, diff)
		}
	}
	want := evm.SentCall{Call: call("a", 1), State: evm.CallQueued}
	is("asked for", o.Enqueue(ctx, want.Call), want)
	is("asked for again", o.Enqueue(ctx, want.Call), want)
	is("reopened before it was sent", o.Reopen(ctx, "a"), want)

	want.State, want.Attempts = evm.CallSent, []evm.Attempt{attempt(1, 8)}
	is("sent", o.RecordAttempt(ctx, "a", attempt(1, 8)), want)
	is("the same again", o.RecordAttempt(ctx, "a", attempt(1, 8)), want)
	want.Attempts = append(want.Attempts, attempt(2, 8), attempt(3, 9))
	is("replaced", o.RecordAttempt(ctx, "a", attempt(2, 8)), func() evm.SentCall { w := want; w.Attempts = w.Attempts[:2]; return w }())
	is("under a new nonce", o.RecordAttempt(ctx, "a", attempt(3, 9)), want)

	sent := want
	receipt := &evm.CallReceipt{TxHash: evm.Hash{3}, BlockNumber: 12, BlockHash: evm.Hash{4}, GasUsed: 5, FeeWei: 6, OK: true}
	want.State, want.Receipt = evm.CallDone, receipt
	is("mined", o.Finish(ctx, "a", receipt, "not to be kept"), want)
	is("mined, again", o.Finish(ctx, "a", receipt, ""), want)
	is("the attempt that was mined, again", o.RecordAttempt(ctx, "a", attempt(3, 9)), want)
	if err := o.RecordAttempt(ctx, "a", attempt(4, 9)); !errors.Is(err, evm.ErrCallConflict) {
		t.Errorf("an attempt of a finished call: %v, want %v", err, evm.ErrCallConflict)
	}
	is("its block is gone", o.Reopen(ctx, "a"), sent)
	is("reopened twice", o.Reopen(ctx, "a"), sent)

	failed := *receipt
	failed.OK, failed.BlockNumber = false, 13
	want.State, want.Receipt, want.Err = evm.CallReverted, &failed, "out of gas"
	is("mined, but refused", o.Finish(ctx, "a", &failed, "out of gas"), want)
	want.Receipt, want.Err = nil, "nonce spent elsewhere"
	is("finished otherwise", o.Finish(ctx, "a", nil, "nonce spent elsewhere"), want)

	for name, err := range map[string]error{
		"find":    func() error { _, err := o.Find(ctx, "none"); return err }(),
		"attempt": o.RecordAttempt(ctx, "none", attempt(9, 9)),
		"finish":  o.Finish(ctx, "none", nil, ""),
		"reopen":  o.Reopen(ctx, "none"),
	} {
		if !errors.Is(err, evm.ErrNoCall) {
			t.Errorf("%s what is not there: %v, want %v", name, err, evm.ErrNoCall)
		}
	}
}

func TestOutboxRefusesOtherContentUnderAnID(t *testing.T) {
	onEach(t, testOutboxRefusesOtherContentUnderAnID)
}

func testOutboxRefusesOtherContentUnderAnID(t *testing.T, db database) {
	s := db.fresh(t)
	if err := s.Outbox().Enqueue(t.Context(), call("a", 1)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*evm.Call){
		"sender":    func(c *evm.Call) { c.From = address(2) },
		"contract":  func(c *evm.Call) { c.To = address(2) },
		"value":     func(c *evm.Call) { c.Value[0] = 1 },
		"data":      func(c *evm.Call) { c.Data = nil },
		"gas limit": func(c *evm.Call) { c.GasLimit++ },
	} {
		other := call("a", 1)
		change(&other)
		if err := s.Outbox().Enqueue(t.Context(), other); !errors.Is(err, evm.ErrCallConflict) {
			t.Errorf("another %s: %v, want %v", name, err, evm.ErrCallConflict)
		}
		if err := s.Clearing().Write(t.Context(), func(tx clearing.Tx) error { return tx.Enqueue(other) }); !errors.Is(err, evm.ErrCallConflict) {
			t.Errorf("another %s, from the book: %v, want %v", name, err, evm.ErrCallConflict)
		}
	}
	empty := evm.Call{ID: "empty"}
	for range 2 {
		if err := s.Outbox().Enqueue(t.Context(), empty); err != nil {
			t.Errorf("a call without data: %v", err)
		}
	}
}

func TestOutboxLists(t *testing.T) { onEach(t, testOutboxLists) }

func testOutboxLists(t *testing.T, db database) {
	s := db.fresh(t)
	o := s.Outbox()
	ctx := t.Context()
	var errs []error
	for _, id := range []string{"q2", "q1", "s5", "s3", "done", "failed", "refused"} {
		errs = append(errs, o.Enqueue(ctx, call(id, 1)))
	}
	errs = append(errs, o.Enqueue(ctx, call("other", 2)),
		o.RecordAttempt(ctx, "s5", attempt(1, 5)), o.RecordAttempt(ctx, "s3", attempt(2, 3)),
		o.RecordAttempt(ctx, "done", attempt(3, 1)), o.RecordAttempt(ctx, "failed", attempt(4, 2)),
		o.Finish(ctx, "done", &evm.CallReceipt{BlockNumber: 10, OK: true}, ""),
		o.Finish(ctx, "failed", &evm.CallReceipt{BlockNumber: 11}, "reverted"),
		o.Finish(ctx, "refused", nil, "refused in simulation"))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2]string{
		"open":           {ids(o.Open(ctx, address(1))), "[s3 s5 q2 q1]"},
		"another's":      {ids(o.Open(ctx, address(2))), "[other]"},
		"nobody's":       {ids(o.Open(ctx, address(3))), "[]"},
		"finished":       {ids(o.Finished(ctx, address(1), 0)), "[done failed]"},
		"since a block":  {ids(o.Finished(ctx, address(1), 11)), "[failed]"},
		"since a later":  {ids(o.Finished(ctx, address(1), 12)), "[]"},
		"another's ends": {ids(o.Finished(ctx, address(2), 0)), "[]"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %s, want %s", name, pair[0], pair[1])
		}
	}
}

func TestTwoOpenCallsNeverHoldOneNonce(t *testing.T) { onEach(t, testTwoOpenCallsNeverHoldOneNonce) }

func testTwoOpenCallsNeverHoldOneNonce(t *testing.T, db database) {
	s := db.fresh(t)
	o := s.Outbox()
	ctx := t.Context()
	const calls = 16
	var errs []error
	for n := range byte(calls) {
		errs = append(errs, o.Enqueue(ctx, call(fmt.Sprint(n), 1)))
	}
	if err := errors.Join(append(errs, o.Enqueue(ctx, call("other", 2)))...); err != nil {
		t.Fatal(err)
	}
	var won atomic.Int64
	var winner atomic.Value
	var wg sync.WaitGroup
	for n := range byte(calls) {
		wg.Go(func() {
			switch err := o.RecordAttempt(ctx, fmt.Sprint(n), attempt(n, 5)); {
			case err == nil:
				won.Add(1)
				winner.Store(fmt.Sprint(n))
			case !errors.Is(err, evm.ErrCallConflict):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d hold the nonce", won.Load())
	}
	first := winner.Load().(string)
	second := "0"
	if first == second {
		second = "1"
	}
	if err := o.RecordAttempt(ctx, "other", attempt(99, 5)); err != nil {
		t.Errorf("another account's nonce: %v", err)
	}
	if err := o.Finish(ctx, first, &evm.CallReceipt{OK: true}, ""); err != nil {
		t.Fatal(err)
	}
	if err := o.RecordAttempt(ctx, second, attempt(100, 5)); err != nil {
		t.Errorf("after the first is finished: %v", err)
	}
	if err := o.Reopen(ctx, first); !errors.Is(err, evm.ErrCallConflict) {
		t.Errorf("reopened into a nonce that is held: %v, want %v", err, evm.ErrCallConflict)
	}
	if got, err := o.Find(ctx, first); err != nil || got.State != evm.CallDone {
		t.Errorf("%s, %v after a conflict", got.State, err)
	}
}

// A call is asked for with the fact that makes it necessary, or not at all.
func TestACallIsAskedForInTheBooksTransaction(t *testing.T) {
	onEach(t, testACallIsAskedForInTheBooksTransaction)
}

func testACallIsAskedForInTheBooksTransaction(t *testing.T, db database) {
	s := db.fresh(t)
	failure := errors.New("no")
	for _, tt := range []struct {
		err  error
		want []string
	}{{failure, nil}, {nil, []string{"a"}}} {
		if err := s.Clearing().Write(t.Context(), func(tx clearing.Tx) error {
			return errors.Join(tx.Enqueue(call("a", 1)), tt.err)
		}); !errors.Is(err, tt.err) {
			t.Fatal(err)
		}
		open, err := s.Outbox().Open(t.Context(), address(1))
		var got []string
		for _, c := range open {
			got = append(got, c.ID)
		}
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%v, %v, want %v", got, err, tt.want)
		}
	}
}
