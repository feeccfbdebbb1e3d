package chain

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/money"
)

// key returns one of the funded development keys.
func key(i int) *evm.PrivateKey { return devchain.Accounts()[i] }

// world is a chain that is driven by hand and a client of it.
type world struct {
	*testing.T
	chain  *devchain.Chain
	client *Client
}

func newWorld(t *testing.T) world {
	t.Helper()
	return worldOf(t, devchain.Config{})
}

func worldOf(t *testing.T, c devchain.Config) world {
	t.Helper()
	c.Manual = true
	chain, err := devchain.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { chain.Close() })
	client, err := Dial(t.Context(), chain.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return world{t, chain, client}
}

func (w world) mine(n int) {
	w.Helper()
	if err := w.chain.Mine(w.Context(), n); err != nil {
		w.Fatal(err)
	}
}

func (w world) reorg(depth int, fate devchain.Fate) {
	w.Helper()
	if err := w.chain.Reorg(w.Context(), depth, fate); err != nil {
		w.Fatal(err)
	}
}

func (w world) dollars(owner evm.Address) uint64 {
	w.Helper()
	amount, err := w.client.TokenBalance(w.Context(), devchain.TestDollar, owner)
	if err != nil {
		w.Fatal(err)
	}
	units, ok := amount.Uint64()
	if !ok {
		w.Fatalf("balance %v", amount)
	}
	return units
}

// send sends calls of an account and mines until all are done.
func (w world) send(from *evm.PrivateKey, calls ...evm.Call) []evm.SentCall {
	w.Helper()
	outbox := evm.NewMemoryOutbox()
	sender := NewSender(w.client, outbox, from, Policy{})
	for i := range calls {
		calls[i].ID, calls[i].From = fmt.Sprint("call ", i), from.Address()
		if err := outbox.Enqueue(w.Context(), calls[i]); err != nil {
			w.Fatal(err)
		}
	}
	sent, pause := make([]evm.SentCall, len(calls)), w.mining()
	for i, call := range calls {
		var err error
		if sent[i], err = sender.Wait(w.Context(), call.ID, pause); err != nil {
			w.Fatal(err)
		}
	}
	return sent
}

// mining is a pause for Wait that makes a block, except before the first pass.
func (w world) mining() func(context.Context) (time.Time, error) {
	now := time.Unix(1_800_000_000, 0)
	blocks := 0
	return func(ctx context.Context) (time.Time, error) {
		now = now.Add(time.Second)
		if blocks++; blocks == 1 {
			return now, nil
		}
		return now, w.chain.Mine(ctx, 1)
	}
}

func give(to evm.Address, units uint64) evm.Call {
	return Transfer(devchain.TestDollar, to, money.Units(units))
}
