package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/store/storetest"
)

// A server that is killed under load, again and again, has lost nothing that was answered; the store goes on by itself when
// the server is there again, and until then says that nothing was written.
func TestAKilledServerLosesNothingAnswered(t *testing.T) {
	t.Parallel()
	const kills, workers = 3, 8
	server := storetest.Start(t, "fsync=off") // the machine stays up
	s := reopen(t, server.Database(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	putCycle(t, s, clearing.Open)

	var mu sync.Mutex
	answered := make(map[evm.Hash]bool)
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(answered) }
	var wg sync.WaitGroup
	for worker := range workers {
		payer := address(byte(worker + 1))
		wg.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				g := promise(payer, address(99), n)
				// What was not answered is asked for again, as a buyer does.
				for ctx.Err() == nil {
					_, err := reserve(ctx, s, g, 1<<60)
					if err == nil {
						if _, err = s.Purchases().Reserve(ctx, reservation(fmt.Sprintf("p_%d_%d", worker, n), g.Digest)); errors.Is(err, purchase.ErrTaken) {
							err = nil // it was written, and its answer lost
						}
					}
					if err == nil {
						mu.Lock()
						answered[g.Digest] = true
						mu.Unlock()
						break
					}
					_ = pause(ctx, 5*time.Millisecond)
				}
			}
		})
	}
	until := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); count() < n; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d answered of %d", count(), n)
			}
		}
	}
	fails := func(what string, do func() error) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); do() == nil; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s goes on without a server", what)
			}
		}
	}
	until(50)
	for range kills {
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		// What its first process had started may finish what it is at before it notices.
		fails("a write", func() error { return s.Clearing().Write(ctx, func(clearing.Tx) error { return nil }) })
		fails("a read", func() error { return s.Clearing().Read(ctx, func(clearing.Tx) error { return nil }) })
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
		until(count() + 50)
	}
	cancel()
	wg.Wait()

	if err := s.Clearing().Read(t.Context(), func(tx clearing.Tx) error {
		exposed := make(map[evm.Address]money.Amount)
		for g, err := range tx.Guarantees(raceCycle) {
			if err != nil {
				return err
			}
			payer := g.Signed.Claims.Payer
			exposed[payer], _ = exposed[payer].Add(g.Payable)
			delete(answered, g.Digest)
		}
		if len(answered) > 0 {
			t.Errorf("%d of those that were answered are gone", len(answered))
		}
		for payer, sum := range exposed {
			account, err := tx.Account(payer, raceCycle.Asset)
			kept, err2 := tx.PayableBy(raceCycle, payer)
			if account.Balance.DebitsPending != sum || kept != sum {
				t.Errorf("%s has guaranteed %s; its account says %s, its cycle %s", payer, sum, account.Balance.DebitsPending, kept)
			}
			if err := errors.Join(err, err2); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
