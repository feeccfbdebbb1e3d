package sim

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/store"
	"github.com/farthing402/farthing/store/storetest"
)

// storeOutbox is the store's outbox as the model's sender sees it. What the model knows as states the store knows as
// attempts and receipts.
type storeOutbox struct {
	*store.Outbox
	nonce uint64
	err   error // of the last reading
}

// Queued implements [Outbox].
func (o *storeOutbox) Queued() (queued []evm.Call) {
	open, err := o.Open(context.Background(), operator)
	o.err = err
	for _, call := range open {
		if len(call.Attempts) == 0 {
			queued = append(queued, call.Call)
		}
	}
	return queued
}

// Finish implements [Outbox].
func (o *storeOutbox) Finish(id string, state evm.CallState) error {
	ctx := context.Background()
	if o.err != nil {
		return o.err
	}
	call, err := o.Find(ctx, id)
	if err != nil {
		return err
	}
	switch {
	case state == evm.CallSent && len(call.Attempts) > 0:
		return o.Reopen(ctx, id)
	case state == evm.CallSent:
		o.nonce++
		return o.RecordAttempt(ctx, id, evm.Attempt{Hash: evm.Keccak256([]byte(id)), Nonce: o.nonce})
	case len(call.Attempts) == 0:
		return o.Outbox.Finish(ctx, id, nil, "refused")
	}
	return o.Outbox.Finish(ctx, id, &evm.CallReceipt{TxHash: call.Attempts[0].Hash, BlockNumber: 1, OK: state == evm.CallDone}, "refused")
}

// overEach runs a test over a new database of every kind, with two seeds each.
func overEach(t *testing.T, test func(t *testing.T, name string, seed uint64)) {
	t.Parallel()
	for kind, name := range map[string]func(testing.TB) string{
		"sqlite":   func(t testing.TB) string { return filepath.Join(t.TempDir(), "book.db") },
		"postgres": storetest.Database,
	} {
		for _, seed := range []uint64{1, 3} {
			t.Run(fmt.Sprintf("%s/%d", kind, seed), func(t *testing.T) {
				t.Parallel()
				test(t, name(t), seed)
			})
		}
	}
}

// The same worlds hold over the real store. A killed process closes nothing: its database is opened again as it lies there.
func TestWorldOverTheStore(t *testing.T) {
	overEach(t, func(t *testing.T, path string, seed uint64) {
		p := profileOf(seed)
		outbox := &storeOutbox{}
		open := func() (clearing.Book, Outbox, error) {
			s, err := store.Open(context.Background(), path)
			if err != nil {
				return nil, nil, err
			}
			t.Cleanup(func() { s.Close() }) // long after another has taken over
			outbox.Outbox = s.Outbox()
			return s.Clearing(), outbox, nil
		}
		book, o, err := open()
		if err != nil {
			t.Fatal(err)
		}
		w, err := newWorld(seed, p, backing{Book: book, Outbox: o, reopen: open})
		if err != nil {
			t.Fatal(err)
		}
		const steps = 100
		if err := w.run(steps); err != nil {
			t.Fatalf("over the store, %s", replay(seed, steps, p, err))
		}
	})
}

// Markets hold over the real store too, which gates and facilitator share.
func TestMarketOverTheStore(t *testing.T) {
	overEach(t, func(t *testing.T, path string, seed uint64) {
		temper := temperOf(seed)
		m, err := newMarket(seed, temper, func(m *market) error {
			m.reopen = func() error {
				s, err := store.Open(context.Background(), path)
				if err != nil {
					return err
				}
				t.Cleanup(func() { s.Close() }) // long after another has taken over
				m.book, m.desks, m.calls = s.Purchases(), s.Settlements(), s.OutboxOn(deployment.ChainID)
				return nil
			}
			return m.reopen()
		})
		if err != nil {
			t.Fatal(err)
		}
		const steps = 50
		if err := m.run(steps); err != nil {
			t.Fatalf("over the store, %s", replayMarket(seed, steps, temper, err))
		}
	})
}
