package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/store"
	"github.com/farthing402/farthing/x402"
)

// till is a gate that takes transfers, in front of a server of its own. Its facilitator has no chain: it takes every
// payment for good and counts.
type till struct {
	b          *bench
	book       purchase.Book
	store      *store.Store // nil with a book in memory
	pw         *paywall.Paywall
	servers    []*http.Server
	served     []chan error
	url        string
	pool       *http.Transport
	buyer      *http.Client
	payer      *evm.PrivateKey
	verified   atomic.Int64
	settled    atomic.Int64
	hold       chan struct{} // settlements wait until it is closed; nil: they do not
	bundle     string        // that calls draw from
	signed     int           // payments signed so far: each nonce once
	calls      int           // served out of the bundle
	answerSize int           // bytes of what /held answers
}

// benchBundle is more calls than a run makes.
const benchBundle = 10_000_000

// openTill opens a gate with a book on disk, or in memory.
func (b *bench) openTill(ctx context.Context, inMemory bool) (t *till, err error) {
	t = &till{b: b, pool: &http.Transport{MaxIdleConnsPerHost: benchPurchasers, MaxIdleConns: 2 * benchPurchasers}, payer: b.keys[1]}
	t.buyer = &http.Client{Transport: t.pool, Timeout: benchTimeout}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	t.book = paywall.Memory()
	if !inMemory {
		if t.store, err = b.database(ctx); err != nil {
			return t, err
		}
		t.book = t.store.Purchases()
	}
	mux := http.NewServeMux()
	answer := func(body func() []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(body())
		}
	}
	mux.HandleFunc("GET /", answer(func() []byte { return benchBody }))
	mux.HandleFunc("GET /held", answer(func() []byte { return bytes.Repeat([]byte("a"), t.answerSize) }))
	upstream, err := t.serve(mux)
	if err != nil {
		return t, err
	}
	t.pw, err = paywall.New(paywall.Config{
		Network: "dev", Facilitators: []x402.Facilitator{t}, Accept: []string{exact.Scheme}, Purchases: t.book, Signer: b.keys[0],
		Now: func() time.Time { return b.Now },
	})
	if err != nil {
		return t, err
	}
	at, err := url.Parse(upstream)
	if err != nil {
		return t, err
	}
	gate, err := paywall.NewGate(t.pw, paywall.GateConfig{Upstream: at, Routes: []paywall.Route{
		{Pattern: "GET /free", Price: "free"},
		{Pattern: "GET /call", Price: "$0.000001", Options: []paywall.Option{paywall.Bundle(fmt.Sprintf("%d calls", benchBundle), 24*time.Hour)}},
		{Pattern: "GET /held", Price: "$0.0001"},
	}})
	if err != nil {
		return t, err
	}
	t.url, err = t.serve(gate)
	return t, err
}

func (t *till) serve(h http.Handler) (url string, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server, served := &http.Server{Handler: h, ReadHeaderTimeout: benchTimeout}, make(chan error, 1)
	t.servers, t.served = append(t.servers, server), append(t.served, served)
	go func() { served <- server.Serve(listener) }()
	return "http://" + listener.Addr().String(), nil
}

func (t *till) close() (err error) {
	t.pool.CloseIdleConnections()
	for i, server := range slices.Backward(t.servers) {
		err = errors.Join(err, server.Close())
		<-t.served[i]
	}
	if t.pw != nil {
		ctx, cancel := context.WithTimeout(context.Background(), benchTimeout)
		defer cancel()
		err = errors.Join(err, t.pw.Close(ctx))
	}
	if t.store != nil {
		err = errors.Join(err, t.store.Close())
	}
	return err
}

// Supported, Verify and Settle implement [x402.Facilitator].
func (t *till) Supported(context.Context) (x402.Supported, error) {
	return x402.Supported{Kinds: []x402.Kind{{X402Version: 2, Scheme: exact.Scheme, Network: mustChain("dev").CAIP2()}}}, nil
}

func (t *till) Verify(context.Context, x402.Payment, x402.Requirements) (x402.VerifyResponse, error) {
	t.verified.Add(1)
	return x402.VerifyResponse{IsValid: true}, nil
}

func (t *till) Settle(ctx context.Context, p x402.Payment, r x402.Requirements) (x402.SettleResponse, error) {
	t.settled.Add(1)
	if t.hold != nil {
		<-t.hold
	}
	return x402.SettleResponse{Success: true, Network: r.Network, Transaction: evm.Keccak256(p.Payload).String(), Amount: r.Amount}, nil
}

// offer asks for a path's price.
func (t *till) offer(ctx context.Context, path string) (x402.PaymentRequired, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url+path, nil)
	if err != nil {
		return x402.PaymentRequired{}, err
	}
	resp, err := t.buyer.Do(req)
	if err != nil {
		return x402.PaymentRequired{}, err
	}
	defer resp.Body.Close()
	offer, _, err := x402.ParsePaymentRequired(resp)
	if err == nil && len(offer.Accepts) == 0 {
		err = errors.New("the gate offers nothing")
	}
	return offer, err
}

// transfers signs n payments as a stock client does, each with a nonce of its own, and returns their headers.
func (t *till) transfers(ctx context.Context, path string, n int) ([]string, error) {
	offer, err := t.offer(ctx, path)
	if err != nil {
		return nil, err
	}
	headers, first := make([]string, n), t.signed
	t.signed += n
	err = inParallel(ctx, runtime.GOMAXPROCS(0), n, 1, func(i, _ int) error {
		number := evm.WordUint64(uint64(first + i))
		a, err := exact.Pay(ctx, t.payer, offer.Accepts[0], evm.Keccak256([]byte("transfer"), number[:]), t.b.Now)
		if err != nil {
			return err
		}
		payload, err := a.Payload()
		if err != nil {
			return err
		}
		headers[i], err = encodePayment(offer, payload, "")
		return err
	})
	return headers, err
}

// draws signs n draws from the bundle, as farthing's payer does.
func (t *till) draws(ctx context.Context, path string, n int) ([]string, error) {
	offer, err := t.offer(ctx, path)
	if err != nil {
		return nil, err
	}
	r := offer.Accepts[0]
	headers, first := make([]string, n), t.signed
	t.signed += n
	err = inParallel(ctx, runtime.GOMAXPROCS(0), n, 1, func(i, _ int) error {
		number := evm.WordUint64(uint64(first + i))
		id := purchase.IDFromPayment(evm.Keccak256([]byte("draw"), number[:]))
		terms, err := termsOf(offer, r, t.pw.Payee(), id)
		if err != nil {
			return err
		}
		d, err := purchase.SignDraw(ctx, t.payer, mustChain("dev").ID, t.pw.Payee(), t.bundle, terms.Hash(), t.b.Now)
		if err != nil {
			return err
		}
		headers[i], err = encodePayment(offer, d, id)
		return err
	})
	return headers, err
}

func encodePayment(offer x402.PaymentRequired, payload any, purchaseID string) (string, error) {
	p, err := x402.NewPayment(offer, offer.Accepts[0], payload)
	if err != nil {
		return "", err
	}
	if purchaseID != "" {
		extension, err := json.Marshal(purchase.Extension{Purchase: purchaseID})
		if err != nil {
			return "", err
		}
		p.Extensions = map[string]json.RawMessage{purchase.ExtensionKey: extension}
	}
	return x402.EncodeHeader(p)
}

// get makes one request, with a payment if there is one, and returns its receipt.
func (t *till) get(ctx context.Context, path, payment string, want int) (receipt x402.SettleResponse, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url+path, nil)
	if err != nil {
		return receipt, err
	}
	if payment != "" {
		req.Header.Set(x402.HeaderSignature, payment)
	}
	resp, err := t.buyer.Do(req)
	if err != nil {
		return receipt, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || len(got) != want) {
		err = fmt.Errorf("GET %s was answered with status %d: %.300s", path, resp.StatusCode, got)
	}
	if err == nil && payment != "" {
		err = x402.DecodeHeader(resp.Header.Get(x402.HeaderResponse), &receipt)
	}
	return receipt, err
}

// buy buys the bundle.
func (t *till) buy(ctx context.Context) error {
	headers, err := t.transfers(ctx, "/call", 1)
	if err != nil {
		return err
	}
	receipt, err := t.get(ctx, "/call", headers[0], len(benchBody))
	if err != nil {
		return err
	}
	var bundle struct{ ID string }
	if err := json.Unmarshal(receipt.Extra["bundle"], &bundle); err != nil {
		return fmt.Errorf("receipt of a bundle: %w", err)
	}
	t.bundle = bundle.ID
	t.calls++
	return nil
}

// check compares the bundle with the calls that were served out of it, and counts who was asked about them: one payment
// was settled, and nobody was asked about any other.
func (t *till) check(ctx context.Context) error {
	b, found, err := t.book.FindBundle(ctx, t.bundle)
	switch {
	case err != nil:
		return err
	case !found || b.Total-b.Remaining != uint64(t.calls):
		return fmt.Errorf("%d calls were served, %d are drawn", t.calls, b.Total-b.Remaining)
	case t.settled.Load() != 1 || t.verified.Load() > 1:
		return fmt.Errorf("the facilitator verified %d payments and settled %d for one bundle", t.verified.Load(), t.settled.Load())
	}
	return nil
}

// calls makes requests to a gate one at a time, and takes the time of the one in the middle for all of them: proxied ones
// without a price, or such as draw from a bundle.
func (b *bench) calls(ctx context.Context, name string) (side, error) {
	t, err := b.openTill(ctx, strings.HasSuffix(name, "-memory"))
	if err != nil {
		return side{}, err
	}
	s := side{count: b.Sizes.Calls, close: t.close}
	path, sign := "/call", t.draws
	switch {
	case name == "proxied":
		path, sign = "/free", func(_ context.Context, _ string, n int) ([]string, error) { return make([]string, n), nil }
	case strings.HasPrefix(name, "stock"):
		sign = t.transfers
	}
	if name != "proxied" {
		if err := t.buy(ctx); err != nil {
			return side{}, errors.Join(err, t.close())
		}
		s.check = t.check
	}
	s.slice = func(ctx context.Context, n int) (time.Duration, error) {
		headers, err := sign(ctx, path, n)
		if err != nil {
			return 0, err
		}
		times := make([]time.Duration, n)
		for i := range times {
			began := time.Now()
			if _, err := t.get(ctx, path, headers[i], len(benchBody)); err != nil {
				return 0, err
			}
			times[i] = time.Since(began)
		}
		t.calls += n
		slices.Sort(times)
		return times[n/2] * time.Duration(n), nil
	}
	return s, nil
}

// recovery recovers signers on one core.
func (b *bench) recovery() side {
	separator := b.deployment.ClaimsSeparator()
	return side{count: b.Sizes.Signature, slice: func(ctx context.Context, n int) (time.Duration, error) {
		list, err := b.signed(ctx, 0, n)
		if err != nil {
			return 0, err
		}
		digests := make([]evm.Hash, n)
		for i, s := range list {
			digests[i] = s.Claims.Digest(separator)
		}
		began := time.Now()
		for i, s := range list {
			if _, err := evm.Recover(digests[i], s.Signature); err != nil {
				return 0, err
			}
		}
		return time.Since(began), nil
	}}
}

// flush writes a page to a file and waits for the disk, as each transaction does at least once.
func (b *bench) flush() (side, error) {
	f, err := os.CreateTemp(b.Dir, "flush-")
	if err != nil {
		return side{}, err
	}
	page := make([]byte, 4096)
	return side{count: b.Sizes.Calls, close: f.Close, slice: func(_ context.Context, n int) (time.Duration, error) {
		times := make([]time.Duration, n)
		for i := range times {
			began := time.Now()
			if _, err := f.Write(page); err != nil {
				return 0, err
			}
			if err := f.Sync(); err != nil {
				return 0, err
			}
			times[i] = time.Since(began)
		}
		slices.Sort(times)
		return times[n/2] * time.Duration(n), nil
	}}, nil
}

// flushes counts the transactions that calls out of a bundle put on disk, so many at once.
func (b *bench) flushes(ctx context.Context, at int) (side, error) {
	t, err := b.openTill(ctx, false)
	if err != nil {
		return side{}, err
	}
	if err := t.buy(ctx); err != nil {
		return side{}, errors.Join(err, t.close())
	}
	return side{count: b.Sizes.Calls, check: t.check, close: t.close, slice: func(ctx context.Context, n int) (time.Duration, error) {
		headers, err := t.draws(ctx, "/call", n)
		if err != nil {
			return 0, err
		}
		before := t.store.Commits()
		err = inParallel(ctx, at, n, 1, func(i, _ int) error {
			_, err := t.get(ctx, "/call", headers[i], len(benchBody))
			return err
		})
		t.calls += n
		return time.Duration(t.store.Commits()-before) * once, err
	}}, nil
}

// Answers of requests that wait for their settlement.
const (
	openSmall = 1 << 10
	openLarge = 256 << 10
)

// open has many requests wait for their settlement, each with an answer that is held back, and counts the memory that they
// take, in kilobytes: both ends of the connections to the buyers and to the server behind included.
func (b *bench) open(ctx context.Context, name string) (side, error) {
	t, err := b.openTill(ctx, false)
	if err != nil {
		return side{}, err
	}
	t.answerSize = openSmall
	if name == "open-large" {
		t.answerSize = openLarge
	}
	return side{count: b.Sizes.Open, close: t.close, slice: func(ctx context.Context, n int) (time.Duration, error) {
		headers, err := t.transfers(ctx, "/held", n)
		if err != nil {
			return 0, err
		}
		t.hold = make(chan struct{})
		t.settled.Store(0)
		before := inUse()
		done := make(chan error, 1)
		go func() {
			done <- inParallel(ctx, n, n, 1, func(i, _ int) error {
				_, err := t.get(ctx, "/held", headers[i], t.answerSize)
				return err
			})
		}()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for t.settled.Load() < int64(n) {
			select {
			case <-tick.C:
			case err := <-done:
				close(t.hold)
				return 0, fmt.Errorf("an answer did not wait for its settlement: %w", err)
			}
		}
		took := max(inUse()-before, 0)
		close(t.hold)
		return time.Duration(float64(took) / 1024 * float64(once)), <-done
	}}, nil
}

// inUse is the memory that lives: heap and stacks, after what is dead was taken away.
func inUse() int64 {
	runtime.GC()
	runtime.GC() // what pools hold lives through one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
