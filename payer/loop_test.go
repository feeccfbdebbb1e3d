package payer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/api"
	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/x402"
)

// idle is a chain that nobody asks for anything before a cycle ends.
type idle struct{}

func (idle) Post(clearing.CycleRef, uint64, uint64, uint8, []byte) (evm.Call, error) {
	return evm.Call{}, errors.ErrUnsupported
}
func (idle) Commit(clearing.CycleRef, evm.Hash, money.Amount, uint64, int) (evm.Call, error) {
	return evm.Call{}, errors.ErrUnsupported
}
func (idle) MarkDefaulted(evm.Hash, evm.Address, money.Amount, []evm.Hash) (evm.Call, error) {
	return evm.Call{}, errors.ErrUnsupported
}
func (idle) Finalize(evm.Hash) (evm.Call, error) { return evm.Call{}, errors.ErrUnsupported }
func (idle) Release(clearing.CycleRef, uint64, uint64, []byte) (evm.Call, error) {
	return evm.Call{}, errors.ErrUnsupported
}

var loopKeys = func() (keys [2]*evm.PrivateKey) {
	for i := range keys {
		secret := evm.Keccak256([]byte("loop"), []byte{byte(i)})
		var err error
		if keys[i], err = evm.NewKey(secret[:]); err != nil {
			panic(err)
		}
	}
	return keys
}()

var loopDollar = evm.MustAddress("0xFA12000000000000000000000000000000000001")

// loop is a whole one: a buyer, a seller behind its paywall, and a clearing house over HTTP.
type loop struct {
	house  *clearing.House
	url    string // of the clearing house
	seller string
	pw     *paywall.Paywall
	calls  atomic.Int64 // of handlers
}

func newLoop(t *testing.T, collateral uint64) *loop {
	t.Helper()
	ctx := context.Background()
	secret := evm.Keccak256([]byte("authority"))
	secret[0] = 0
	authority, err := guarantee.NewAuthority(secret[:])
	if err != nil {
		t.Fatal(err)
	}
	vault := evm.MustAddress("0x5555555555555555555555555555555555555555")
	l := &loop{}
	l.house, err = clearing.New(clearing.Config{
		Book: clearing.NewMemory(), Chain: idle{}, Authority: authority,
		Deployment: guarantee.Deployment{ChainID: 31337, Name: "4Mica " + vault.Lower(), Version: "1", Vault: vault, ClearingHouse: evm.Address{0x77}},
	})
	if err != nil {
		t.Fatal(err)
	}
	from := uint64(time.Now().Unix()) - 1000
	schedule := clearing.Schedule{Asset: loopDollar, From: from, Length: 86400, Cutoff: 60, Post: 60, Challenge: 60, Repost: 60, Redeem: 60}
	events := []clearing.Event{
		{Kind: clearing.ScheduleSet, Asset: loopDollar, Schedule: &schedule, TxHash: evm.Hash{1}, LogIndex: 1},
		{Kind: clearing.Deposited, Account: loopKeys[0].Address(), Asset: loopDollar, Amount: money.Units(collateral), TxHash: evm.Hash{1}, LogIndex: 2},
	}
	for _, s := range []clearing.Stream{clearing.Head, clearing.Confirmed} {
		if err := l.house.Apply(ctx, s, clearing.Block{Number: 1, Hash: evm.Hash{1}, Time: from}, events); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(api.New(api.Config{House: l.house}))
	t.Cleanup(server.Close)
	l.url = server.URL

	l.pw, err = paywall.New(paywall.Config{Signer: loopKeys[1], Network: "dev", ClearingHouse: l.url, Purchases: paywall.Memory()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.pw.Close(ctx) })
	mux := http.NewServeMux()
	handle := func(pattern, price string, f http.HandlerFunc, opts ...paywall.Option) {
		mux.Handle(pattern, l.pw.Price(price, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			l.calls.Add(1)
			f(w, r)
		}), opts...))
	}
	handle("GET /quote/{symbol}", "$0.0005", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "quote %s", r.PathValue("symbol")) })
	handle("GET /down", "$0.0005", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no luck", 500) })
	handle("POST /generate", "$0.00001 per token", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		paywall.Charge(r.Context(), len(body))
		fmt.Fprintf(w, "%d tokens", len(body))
	}, paywall.UpTo("$0.02"))
	shop := httptest.NewServer(mux)
	t.Cleanup(shop.Close)
	l.seller = shop.URL
	if err := l.pw.Check(); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *loop) payer(t *testing.T, change ...func(*payer.Config)) *payer.Payer {
	t.Helper()
	c := payer.Config{
		Key: loopKeys[0], Budget: payer.Budget{PerCall: "$0.05", PerDay: "$1"}, Journal: filepath.Join(t.TempDir(), "journal"), ClearingHouse: l.url,
		Wait: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	}
	for _, f := range change {
		f(&c)
	}
	p, err := payer.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func (l *loop) exposure(t *testing.T) string {
	t.Helper()
	a, err := l.house.Account(context.Background(), loopKeys[0].Address(), loopDollar)
	if err != nil {
		t.Fatal(err)
	}
	return a.Exposure().String()
}

func read(t *testing.T, resp *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func leftToday(t *testing.T, p *payer.Payer) string {
	t.Helper()
	left, err := p.Left()
	if err != nil {
		t.Fatal(err)
	}
	return left.Today.String()
}

// One sale of each kind through the real paywall and the real clearing house: what the buyer's journal says is what the
// clearing house holds it to.
func TestWholeLoop(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1_000_000)
	p := l.payer(t)
	c := &http.Client{Transport: p}

	resp, err := c.Get(l.seller + "/quote/ACME?day=1")
	if got := read(t, resp, err); got != "quote ACME" || l.exposure(t) != "500" || leftToday(t, p) != "$0.9995" {
		t.Errorf("fixed price: %q, exposure %s, left %s", got, l.exposure(t), leftToday(t, p))
	}
	bought, ok := payer.Receipt(resp)
	if !ok || bought.State != payer.Charged || bought.Charged != money.Units(500) || bought.Certificate == nil {
		t.Errorf("receipt %+v", bought)
	}

	resp, err = c.Post(l.seller+"/generate", "text/plain", strings.NewReader("seven words that make thirty units"))
	if got := read(t, resp, err); got != "34 tokens" || leftToday(t, p) != "$0.99916" {
		t.Errorf("measured: %q, left %s", got, leftToday(t, p))
	}
	if r, _ := payer.Receipt(resp); r.Charged != money.Units(340) || r.Signed != money.Units(20_000) || !r.Proven {
		t.Errorf("measured: %+v", r)
	}

	resp, err = c.Get(l.seller + "/down")
	if got := read(t, resp, err); resp.StatusCode != 500 || !strings.Contains(got, "no luck") || leftToday(t, p) != "$0.99916" {
		t.Errorf("failed work: %d %q, left %s", resp.StatusCode, got, leftToday(t, p))
	}
	if r, _ := payer.Receipt(resp); r.State != payer.Void || !r.Proven {
		t.Errorf("failed work: %+v", r)
	}

	// Asking again is free, and gives the same answer.
	calls := l.calls.Load()
	resp, err = p.Resume(context.Background(), bought.ID)
	if got := read(t, resp, err); got != "quote ACME" || l.calls.Load() != calls || leftToday(t, p) != "$0.99916" {
		t.Errorf("again: %q, %d calls more, left %s", got, l.calls.Load()-calls, leftToday(t, p))
	}

	// When the notes are delivered, the clearing house agrees to the unit.
	if err := l.pw.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := l.exposure(t); got != "840" {
		t.Errorf("exposure %s, want 840", got)
	}
}

func TestNotEnoughCollateral(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 320)
	p := l.payer(t)
	_, err := (&http.Client{Transport: p}).Get(l.seller + "/quote/ACME")
	var n *payer.NeedError
	if !errors.As(err, &n) || n.Code != "collateral_insufficient" || n.Asked.String() != "$0.0005" || n.Available.String() != "$0.00032" ||
		len(n.Ways) == 0 || n.Ways[0].Kind != payer.Deposit || n.Ways[0].Amount.String() != "$0.00018" {
		t.Fatalf("%v: %+v", err, n)
	}
	if l.calls.Load() != 0 || leftToday(t, p) != "$1.00" || l.exposure(t) != "0" {
		t.Errorf("%d calls, left %s, exposure %s", l.calls.Load(), leftToday(t, p), l.exposure(t))
	}
}

// Answers get lost while many buy at once: each purchase runs once, and buyer and clearing house agree on the sum.
func TestManyBuyersLoseAnswers(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1_000_000)
	var n atomic.Int64
	p := l.payer(t, func(c *payer.Config) {
		c.Transport = roundTrip(func(req *http.Request) (*http.Response, error) {
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err == nil && req.Header.Get(x402.HeaderSignature) != "" && n.Add(1)%3 == 0 {
				resp.Body.Close()
				return nil, io.ErrUnexpectedEOF
			}
			return resp, err
		})
	})
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			resp, err := (&http.Client{Transport: p}).Get(fmt.Sprintf("%s/quote/%d", l.seller, i))
			for pending := (*payer.PendingError)(nil); errors.As(err, &pending); {
				resp, err = p.Resume(context.Background(), pending.Purchase)
			}
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != fmt.Sprint("quote ", i) {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
	wg.Wait()
	if l.calls.Load() != 40 || l.exposure(t) != "20000" || leftToday(t, p) != "$0.98" {
		t.Errorf("%d calls, exposure %s, left %s", l.calls.Load(), l.exposure(t), leftToday(t, p))
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
