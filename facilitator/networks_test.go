package facilitator_test

import (
	"context"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/facilitator"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/store"
	"github.com/farthing402/farthing/x402"
)

// One facilitator, one file and one key serve two networks, on which the key has the same nonces. A payment for one of them
// settles there only, and on a network that version 1 has a name for, in version 1 as well.
func TestOneKeyServesTwoNetworks(t *testing.T) {
	t.Parallel()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "facilitator.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, stop := context.WithCancel(t.Context())
	var loops sync.WaitGroup
	defer loops.Wait()
	defer stop()
	lane := devchain.Accounts()[1]
	var networks []*facilitator.Network
	clients := make(map[string]*chain.Client)
	now := time.Now() // both chains begin here
	for _, name := range []string{"base-sepolia", "arbitrum-sepolia"} {
		on, err := network.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		c, err := devchain.Start(t.Context(), devchain.Config{Manual: true, ChainID: on.ID, Genesis: now})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		client, err := chain.Dial(t.Context(), c.URL())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		clients[name] = client
		n, err := facilitator.Open(t.Context(), facilitator.NetworkConfig{
			Chain: on, Node: client, Book: db.Settlements(), Now: c.Time, Lanes: []desk.Lane{chain.NewSender(client, db.OutboxOn(on.ID), lane, chain.Policy{})},
		})
		if err != nil {
			t.Fatal(err)
		}
		networks = append(networks, n)
		loops.Go(func() {
			for ctx.Err() == nil {
				time.Sleep(20 * time.Millisecond)
				_ = c.Mine(ctx, 1)
			}
		})
	}
	f, err := facilitator.New(facilitator.Config{Networks: networks, Wait: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	loops.Go(func() { _ = f.Run(ctx) })
	server := httptest.NewServer(f.Handler())
	defer server.Close()
	w := &world{T: t, f: f, http: x402.Client{Base: server.URL}}

	supported, err := w.http.Supported(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := supported.Find(1, exact.Scheme, "eip155:84532"); !ok {
		t.Error("base-sepolia is not listed in version 1")
	}
	if _, ok := supported.Find(1, exact.Scheme, "eip155:421614"); ok {
		t.Error("arbitrum-sepolia is listed in version 1, which has no name for it")
	}
	offer := func(name string) (x402.Requirements, network.Token) {
		on, err := network.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		token := on.Dollars()[0]
		r := terms(500)
		r.Network, r.Asset = on.CAIP2(), token.Address.String()
		r.Extra["name"], r.Extra["version"] = raw(token.Name), raw(token.Version)
		return r, token
	}
	for i := range 6 {
		for name := range clients {
			r, _ := offer(name)
			a, err := exact.Pay(t.Context(), payer(i%3), r, nonce(), now)
			if err != nil {
				t.Fatal(err)
			}
			p := w.payment(a, r)
			if name == "base-sepolia" && i%2 == 1 {
				p, r.NetworkSent = inOne(p), "base-sepolia"
				p.NetworkSent = "base-sepolia"
			}
			if s := w.accepted(p, r); r.NetworkSent != "" && s.Network != "eip155:84532" {
				t.Errorf("network %q", s.Network) // the client reads the name back
			}
			other, _ := offer(map[string]string{"base-sepolia": "arbitrum-sepolia", "arbitrum-sepolia": "base-sepolia"}[name])
			if s := w.settle(p, other); s.Success {
				t.Errorf("a payment on %s was settled on another network: %+v", name, s)
			}
		}
	}
	for name, client := range clients {
		_, token := offer(name)
		got, err := client.TokenBalance(t.Context(), token.Address, payee)
		if units, _ := got.Uint64(); err != nil || units != 3000 {
			t.Errorf("%s: %d units moved, %v", name, units, err)
		}
		if n, err := client.Nonce(t.Context(), lane.Address()); err != nil || n != 6 {
			t.Errorf("%s: the lane sent %d transactions, %v", name, n, err)
		}
	}
}
