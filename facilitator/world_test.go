package facilitator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/facilitator"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/store"
	"github.com/farthing402/farthing/x402"
)

var payee = evm.MustAddress("0x00000000000000000000000000000000000000ee")

// payer is one of the funded accounts that are no lane.
func payer(i int) *evm.PrivateKey { return devchain.Accounts()[4+i] }

// world is a facilitator over HTTP, on a chain that makes a block whenever a transaction waits.
type world struct {
	*testing.T
	chain  *devchain.Chain
	client *chain.Client
	store  *store.Store
	f      *facilitator.Facilitator
	server *httptest.Server
	http   x402.Client

	stopRunning func()
}

type options struct {
	config  func(*facilitator.Config)
	network func(*facilitator.NetworkConfig)
	still   bool // no blocks but those that the test makes
}

func newWorld(t *testing.T, o options) *world {
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
	w := &world{T: t, chain: c, client: client}
	if w.store, err = store.Open(t.Context(), filepath.Join(t.TempDir(), "facilitator.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	on, err := network.Lookup("dev")
	if err != nil {
		t.Fatal(err)
	}
	nc := facilitator.NetworkConfig{Chain: on, Node: client, Book: w.store.Settlements(), Now: c.Time}
	for _, key := range devchain.Accounts()[1:3] {
		nc.Lanes = append(nc.Lanes, chain.NewSender(client, w.store.OutboxOn(on.ID), key, chain.Policy{}))
	}
	if o.network != nil {
		o.network(&nc)
	}
	n, err := facilitator.Open(t.Context(), nc)
	if err != nil {
		t.Fatal(err)
	}
	fc := facilitator.Config{Networks: []*facilitator.Network{n}, Catalogue: w.store.Catalogue(), Now: c.Time, Wait: 10 * time.Second}
	if o.config != nil {
		o.config(&fc)
	}
	if w.f, err = facilitator.New(fc); err != nil {
		t.Fatal(err)
	}
	w.server = httptest.NewServer(w.f.Handler())
	w.http = x402.Client{Base: w.server.URL}
	ctx, stop := context.WithCancel(t.Context())
	var loops sync.WaitGroup
	loops.Go(func() { _ = w.f.Run(ctx) })
	if !o.still {
		loops.Go(func() { w.mineAlways(ctx) })
	}
	w.stopRunning = func() { stop(); loops.Wait() }
	t.Cleanup(func() { w.stopRunning(); w.server.Close() })
	return w
}

// mineAlways makes a block whenever a lane has something in the pool.
func (w *world) mineAlways(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = w.chain.Mine(ctx, 1)
		}
	}
}

// terms are what a seller asks for on the development chain.
func terms(amount uint64) x402.Requirements {
	return x402.Requirements{
		Scheme: "exact", Network: "eip155:31337", Amount: fmt.Sprint(amount), Asset: devchain.TestDollar.String(), PayTo: payee.String(),
		MaxTimeoutSeconds: 300, Extra: map[string]json.RawMessage{"name": raw("Test Dollar"), "version": raw("2")},
	}
}

func raw(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

var nonces struct {
	sync.Mutex
	n uint64
}

func nonce() evm.Hash {
	nonces.Lock()
	defer nonces.Unlock()
	nonces.n++
	n := evm.WordUint64(nonces.n)
	return evm.Keccak256([]byte("test"), n[:])
}

// pay signs a payment for terms.
func (w *world) pay(key evm.Signer, r x402.Requirements) x402.Payment {
	w.Helper()
	a, err := exact.Pay(w.Context(), key, r, nonce(), w.chain.Time())
	if err != nil {
		w.Fatal(err)
	}
	return w.payment(a, r)
}

func (w *world) payment(a exact.Authorization, r x402.Requirements) x402.Payment {
	w.Helper()
	payload, err := a.Payload()
	if err != nil {
		w.Fatal(err)
	}
	p, err := x402.NewPayment(x402.PaymentRequired{X402Version: 2, Resource: x402.Resource{URL: "https://api.example.org/quote"}, Accepts: []x402.Requirements{r}}, r, payload)
	if err != nil {
		w.Fatal(err)
	}
	return p
}

// inOne returns a payment as version 1 has it.
func inOne(p x402.Payment) x402.Payment {
	p.Version, p.Accepted, p.Resource, p.Extensions, p.NetworkSent = 1, nil, nil, nil, p.Network
	return p
}

func (w *world) verify(p x402.Payment, r x402.Requirements) x402.VerifyResponse {
	w.Helper()
	v, err := w.http.Verify(w.Context(), p, r)
	if err != nil {
		w.Fatal(err)
	}
	return v
}

func (w *world) settle(p x402.Payment, r x402.Requirements) x402.SettleResponse {
	w.Helper()
	s, err := w.http.Settle(w.Context(), p, r)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// accepted verifies and settles a payment that must be good.
func (w *world) accepted(p x402.Payment, r x402.Requirements) x402.SettleResponse {
	w.Helper()
	if v := w.verify(p, r); !v.IsValid {
		w.Fatalf("not valid: %s %s", v.InvalidReason, v.InvalidMessage)
	}
	s := w.settle(p, r)
	if !s.Success {
		w.Fatalf("not settled: %s %s", s.ErrorReason, s.ErrorMessage)
	}
	return s
}

func (w *world) dollars(owner evm.Address) uint64 {
	w.Helper()
	amount, err := w.client.TokenBalance(w.Context(), devchain.TestDollar, owner)
	if err != nil {
		w.Fatal(err)
	}
	units, _ := amount.Uint64()
	return units
}

// send makes transactions of somebody's account and waits until they are mined.
func (w *world) send(key *evm.PrivateKey, calls ...evm.Call) {
	w.Helper()
	outbox := evm.NewMemoryOutbox()
	sender := chain.NewSender(w.client, outbox, key, chain.Policy{})
	for i, call := range calls {
		call.ID, call.From = fmt.Sprint(i), key.Address()
		if _, err := sender.SendAndWait(w.Context(), call, chain.Every(10*time.Millisecond)); err != nil {
			w.Fatal(err)
		}
	}
}

// post sends a body to the service and returns status and answer.
func (w *world) post(path string, body []byte, header ...string) (int, map[string]any, http.Header) {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), http.MethodPost, w.server.URL+path, bytes.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return w.do(req)
}

func (w *world) get(path string) (int, map[string]any, http.Header) {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), http.MethodGet, w.server.URL+path, nil)
	if err != nil {
		w.Fatal(err)
	}
	return w.do(req)
}

func (w *world) do(req *http.Request) (int, map[string]any, http.Header) {
	w.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		w.Fatalf("%s: status %d: %v", req.URL.Path, resp.StatusCode, err)
	}
	return resp.StatusCode, answer, resp.Header
}

func body(p x402.Payment, r x402.Requirements) []byte {
	b, err := json.Marshal(x402.FacilitatorRequest{Payment: p, Requirements: r})
	if err != nil {
		panic(err)
	}
	return b
}

func readAll(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
