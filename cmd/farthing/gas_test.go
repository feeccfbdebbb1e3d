package main

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/signals"
	"github.com/farthing402/farthing/x402"
)

// gasWorld is a development chain and an account that settles.
type gasWorld struct {
	*testing.T
	chain   *devchain.Chain
	client  *chain.Client
	outbox  *evm.MemoryOutbox
	settler *evm.PrivateKey
	calls   int
	nonce   byte
}

func newGasWorld(t *testing.T) *gasWorld {
	t.Helper()
	c, err := devchain.Start(t.Context(), devchain.Config{Manual: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	client, err := chain.Dial(t.Context(), c.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	w := &gasWorld{T: t, chain: c, client: client, outbox: evm.NewMemoryOutbox(), settler: devchain.Accounts()[9]}
	if err := c.Mine(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	return w
}

// send sends a call of an account and returns the gas that it took.
func (w *gasWorld) send(from *evm.PrivateKey, to evm.Address, data []byte) uint64 {
	w.Helper()
	w.calls++
	id, outbox := fmt.Sprint("call ", w.calls), w.outbox
	if from != w.settler {
		outbox = evm.NewMemoryOutbox()
	}
	if err := outbox.Enqueue(w.Context(), evm.Call{ID: id, From: from.Address(), To: to, Data: data}); err != nil {
		w.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	sent, err := chain.NewSender(w.client, outbox, from, chain.Policy{}).Wait(w.Context(), id, func(ctx context.Context) (time.Time, error) {
		now = now.Add(time.Second)
		return now, w.chain.Mine(ctx, 1)
	})
	if err != nil || sent.Receipt == nil || !sent.Receipt.OK {
		w.Fatalf("%s: %+v, %v", id, sent, err)
	}
	return sent.Receipt.GasUsed
}

// settlement is the call that settles a fresh payment of a key.
func (w *gasWorld) settlement(key *evm.PrivateKey, offer x402.Requirements) exact.Move {
	w.Helper()
	w.nonce++
	a, err := exact.Pay(w.Context(), key, offer, evm.Hash{0x77, w.nonce, 31: 1}, w.chain.Time())
	if err != nil {
		w.Fatal(err)
	}
	m, err := (&exact.Verifier{}).Move(a, money.Units(1000))
	if err != nil {
		w.Fatal(err)
	}
	return m
}

// together is a call of Multicall3 that makes several.
func together(to []evm.Address, data [][]byte) []byte {
	parts := make([]evm.Arg, len(to))
	for i := range to {
		parts[i] = evm.TupleArg(evm.WordArg(to[i].Word()), evm.WordArg(evm.WordUint64(1)), evm.BytesArg(data[i]))
	}
	return evm.EncodeCall(evm.Selector("aggregate3((address,bool,bytes)[])"), evm.ListArg(parts...))
}

// The planning figures of package signals lie above what payments in a plain token take on a real EVM, by what a token
// behind a proxy is allowed to add, and no further. go test ./cmd/farthing -run TestPlanningFigures -v prints both.
func TestPlanningFigures(t *testing.T) {
	t.Parallel()
	w := newGasWorld(t)
	token, payer := devchain.TestDollar, devchain.Accounts()[1]
	payee := devchain.Accounts()[2].Address() // holds the token already
	offer := func(scheme string, extra map[string]string) x402.Requirements {
		r := x402.Requirements{Scheme: scheme, Network: "eip155:31337", Amount: "1000", Asset: token.String(), PayTo: payee.String(), MaxTimeoutSeconds: 3600, Extra: map[string]json.RawMessage{}}
		for k, v := range extra {
			r.Extra[k], _ = json.Marshal(v)
		}
		return r
	}
	plain := offer(exact.Scheme, map[string]string{"name": "Test Dollar", "version": "2"})
	upto := offer(exact.UptoScheme, map[string]string{"name": "Test Dollar", "version": "2", "assetTransferMethod": "permit2", "facilitatorAddress": w.settler.Address().String()})

	single := w.settlement(payer, plain)
	transfer := w.send(w.settler, single.To, single.Data)

	w.send(payer, token, evm.EncodeCall(evm.Selector("approve(address,uint256)"), evm.WordArg(exact.Permit2Address.Word()), evm.WordArg(money.MaxAmount().Word())))
	first := w.settlement(payer, upto) // opens the payer's nonces with Permit2; the next 255 find them open
	w.send(w.settler, first.To, first.Data)
	second := w.settlement(payer, upto)
	atMost := w.send(w.settler, second.To, second.Data)

	batch := func(n int) uint64 {
		mint, to, data := make([][]byte, n), make([]evm.Address, n), make([][]byte, n)
		for i := range n {
			key, err := evm.GenerateKey()
			if err != nil {
				t.Fatal(err)
			}
			m := w.settlement(key, plain)
			mint[i] = evm.EncodeCall(evm.Selector("mint(address,uint256)"), evm.WordArg(key.Address().Word()), evm.WordArg(evm.WordUint64(5000)))
			to[i], data[i] = m.To, m.Data
		}
		w.send(w.settler, desk.Multicall3, together(to, mint))
		before, err := w.client.TokenBalance(t.Context(), token, payee)
		if err != nil {
			t.Fatal(err)
		}
		gas := w.send(w.settler, desk.Multicall3, together(to, data))
		after, err := w.client.TokenBalance(t.Context(), token, payee)
		if moved, ok := after.Sub(before); err != nil || !ok || moved != money.Units(uint64(1000*n)) {
			t.Fatalf("a batch of %d moved %s, %v", n, moved, err)
		}
		return gas
	}
	ten, fifty := batch(10), batch(50)
	each := (fifty - ten) / 40

	for _, c := range []struct {
		what              string
		took, plan, proxy uint64
	}{
		{"a transfer", transfer, signals.DefaultGas.Transfer.Gas, 25_000},
		{"upto", atMost, signals.DefaultGas.Upto.Gas, 30_000},
		{"a payment in a batch", each, signals.DefaultGas.Batched.Gas, 15_000},
		{"a batch of fifty", fifty, signals.DefaultGas.BatchFixed.Gas + 50*signals.DefaultGas.Batched.Gas, 50 * 15_000},
	} {
		t.Logf("%s took %d gas, planned are %d", c.what, c.took, c.plan)
		if c.plan < c.took || c.plan > c.took+c.proxy {
			t.Errorf("%s took %d gas, planned are %d", c.what, c.took, c.plan)
		}
	}
}
