package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/x402"
)

// tokens is a chain with the development network's tokens, and a payer who has a thousand of each and lets Permit2 move them.
func tokens(t *testing.T) (*Chain, network.Chain, *evm.PrivateKey) {
	t.Helper()
	on, err := network.Lookup("dev")
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(deployment, operator, delay, genesis)
	if err != nil {
		t.Fatal(err)
	}
	c.Deploy(on.Tokens...)
	key := secretKey("buyer", 0)
	for _, token := range on.Tokens {
		c.Mint(key.Address(), token.Address, money.Units(1000))
		c.Call(key.Address(), token.Address, ApproveCall(exact.Permit2Address, money.MaxAmount()))
	}
	c.Mine(genesis+1, nil)
	return c, on, key
}

var shopkeeper, carrier = evm.Address{0x5e}, evm.Address{0xca}

// authorize signs a transfer of units; upto may be carried out by the carrier alone.
func authorize(t *testing.T, key *evm.PrivateKey, scheme string, token network.Token, units uint64, nonce byte, change func(*exact.Authorization)) exact.Authorization {
	t.Helper()
	extra := map[string]json.RawMessage{}
	set := func(name, value string) { extra[name], _ = json.Marshal(value) }
	set("name", token.Name)
	set("version", token.Version)
	if scheme == exact.UptoScheme || !token.EIP3009 {
		set("assetTransferMethod", string(exact.Permit2))
	}
	set("facilitatorAddress", carrier.String())
	a, err := exact.Pay(t.Context(), key, x402.Requirements{
		Scheme: scheme, Network: fmt.Sprintf("eip155:%d", deployment.ChainID), Asset: token.Address.String(), PayTo: shopkeeper.String(),
		Amount: fmt.Sprint(units), MaxTimeoutSeconds: 60, Extra: extra,
	}, evm.Hash{nonce}, time.Unix(genesis, 0))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&a)
	}
	return a
}

func carry(t *testing.T, a exact.Authorization, units uint64) exact.Move {
	t.Helper()
	m, err := (&exact.Verifier{}).Move(a, money.Units(units))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// The model refuses what tokens, Permit2 and the proxies refuse, in words that a gas desk reads.
func TestTokensRefuse(t *testing.T) {
	t.Parallel()
	c, on, key := tokens(t)
	usdc, usdt := on.Tokens[0], on.Tokens[1]
	resign := func(change func(*exact.Authorization)) func(*exact.Authorization) {
		return func(a *exact.Authorization) {
			change(a)
			sig, err := key.Sign(t.Context(), a.Digest())
			if err != nil {
				t.Fatal(err)
			}
			a.Signature = sig[:]
		}
	}
	for _, tt := range []struct {
		name   string
		a      exact.Authorization
		amount uint64
		from   evm.Address
		want   string // empty: it is carried out
	}{
		{"more than there is", authorize(t, key, "exact", usdc, 1001, 1, nil), 1001, carrier, "exceeds balance"},
		{"altered", authorize(t, key, "exact", usdc, 5, 2, func(a *exact.Authorization) { a.To = carrier }), 5, carrier, "invalid signature"},
		{"too late", authorize(t, key, "exact", usdc, 5, 3, resign(func(a *exact.Authorization) { a.ValidBefore = genesis + 2 })), 5, carrier, "expired"},
		{"too early", authorize(t, key, "exact", usdc, 5, 4, resign(func(a *exact.Authorization) { a.ValidAfter = genesis + 30 })), 5, carrier, "not yet valid"},
		{"good", authorize(t, key, "exact", usdc, 5, 5, nil), 5, carrier, ""},
		{"the same again", authorize(t, key, "exact", usdc, 5, 5, nil), 5, carrier, "used or canceled"},
		{"by signature, of a token without", authorize(t, key, "exact", usdt, 5, 6, func(a *exact.Authorization) { a.Method = exact.EIP3009 }), 5, carrier, "reverted"},
		{"through Permit2", authorize(t, key, "exact", usdt, 7, 7, nil), 7, carrier, ""},
		{"through Permit2 again", authorize(t, key, "exact", usdt, 7, 7, nil), 7, carrier, "InvalidNonce"},
		{"through Permit2, altered", authorize(t, key, "exact", usdt, 7, 8, func(a *exact.Authorization) { a.Amount = money.Units(8) }), 8, carrier, "InvalidSigner"},
		{"less than was signed", authorize(t, key, "upto", usdc, 9, 9, nil), 4, carrier, ""},
		{"by another than was named", authorize(t, key, "upto", usdc, 9, 10, nil), 4, shopkeeper, "UnauthorizedFacilitator"},
		{"a new nonce in the same word", authorize(t, key, "upto", usdc, 9, 9, resign(func(a *exact.Authorization) { a.Nonce[31] = 1 })), 9, carrier, ""},
	} {
		move := carry(t, tt.a, tt.amount)
		before := c.Wallet(shopkeeper, tt.a.Asset)
		tx := c.Call(tt.from, move.To, move.Data)
		c.Mine(genesis+2, nil)
		mined, err := c.Outcome(tx)
		r, _ := c.Node().Receipt(context.Background(), tx)
		after, _ := before.Add(money.Units(tt.amount))
		switch {
		case !mined || r == nil:
			t.Errorf("%s: it is not mined", tt.name)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || r.OK || len(r.Logs) > 0 || c.Wallet(shopkeeper, tt.a.Asset) != before):
			t.Errorf("%s: %v, want %s; %d logs", tt.name, err, tt.want, len(r.Logs))
		case tt.want == "" && (err != nil || !move.Proven(r.Logs) || c.Wallet(shopkeeper, tt.a.Asset) != after):
			t.Errorf("%s: %v, proven %v", tt.name, err, move.Proven(r.Logs))
		}
		if used, err := exact.Used(t.Context(), c.Node(), tt.a); tt.want == "" && (!used || err != nil) {
			t.Errorf("%s: its nonce counts as unused: %v", tt.name, err)
		}
		if err := c.Check(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// Calls that share a transaction stand or fall by themselves, and what failed has left nothing.
func TestMulticallKeepsPartsApart(t *testing.T) {
	t.Parallel()
	c, on, key := tokens(t)
	var parts []evm.Arg
	for i, units := range []uint64{600, 500, 400} { // a thousand is there
		move := carry(t, authorize(t, key, "exact", on.Tokens[0], units, byte(i), nil), units)
		parts = append(parts, evm.TupleArg(evm.WordArg(move.To.Word()), evm.WordArg(evm.WordUint64(1)), evm.BytesArg(move.Data)))
	}
	data := evm.EncodeCall(selAggregate, evm.ListArg(parts...))
	out, err := c.Node().Read(t.Context(), carrier, exact.Multicall3, data)
	if err != nil {
		t.Fatal(err)
	}
	list, n, _ := evm.ABI(out).List(0)
	for i, want := range []bool{true, false, true} {
		part, ok := list.Tail(i)
		if done, _ := part.Bool(0); !ok || n != 3 || done != want {
			t.Errorf("part %d of %d: %v", i, n, done)
		}
	}
	if got := c.Wallet(shopkeeper, on.Tokens[0].Address); !got.IsZero() {
		t.Errorf("a call that only asked has moved %s", got)
	}
	tx := c.Call(carrier, exact.Multicall3, data)
	c.Mine(genesis+2, nil)
	r, _ := c.Node().Receipt(t.Context(), tx)
	if got := c.Wallet(shopkeeper, on.Tokens[0].Address); got != money.Units(1000) || len(r.Logs) != 4 {
		t.Errorf("%s arrived, %d logs", got, len(r.Logs))
	}
}

// A lane's calls are carried out once each and in order, whatever is lost, replaced or reorganised away.
func TestLaneSendsEachCallOnce(t *testing.T) {
	t.Parallel()
	c, on, key := tokens(t)
	sent := evm.NewMemoryOutbox()
	rng := rand.New(rand.NewPCG(1, 1))
	lane := &Lane{Chain: c, Account: key.Address(), Calls: sent, Depth: 1, Fate: func(evm.Call) Delivery { return Delivery(rng.IntN(3)) }}
	for i, units := range []uint64{100, 200, 5000, 300} { // the third is refused before it is sent
		if err := sent.Enqueue(t.Context(), evm.Call{ID: fmt.Sprint(i), From: key.Address(), To: on.Tokens[0].Address, Data: TransferCall(shopkeeper, money.Units(units))}); err != nil {
			t.Fatal(err)
		}
	}
	finished := func() (done int) {
		for i := range 4 {
			if call, err := sent.Find(t.Context(), fmt.Sprint(i)); err == nil && call.State.Final() {
				done++
			}
		}
		return done
	}
	rest := func() {
		for range 30 {
			if err := lane.Step(t.Context(), time.Time{}); err != nil {
				t.Fatal(err)
			}
			c.Mine(0, nil)
		}
	}
	rest()
	if got := c.Wallet(shopkeeper, on.Tokens[0].Address); got != money.Units(600) || finished() != 4 {
		t.Fatalf("%s arrived, %d calls are finished", got, finished())
	}
	c.Drop(30)
	if err := lane.Step(t.Context(), time.Time{}); err != nil || finished() == 4 {
		t.Fatalf("calls are finished that no block holds: %d, %v", finished(), err)
	}
	rest()
	if got := c.Wallet(shopkeeper, on.Tokens[0].Address); got != money.Units(600) || finished() != 4 {
		t.Errorf("after a reorganisation %s arrived, %d calls are finished", got, finished())
	}
	if err := sent.Enqueue(t.Context(), evm.Call{ID: "0"}); !errors.Is(err, evm.ErrCallConflict) {
		t.Errorf("another call under a name: %v", err)
	}
}
