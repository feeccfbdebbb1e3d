package payer

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/x402"
)

// shop is a real paywall that takes transfers, with a facilitator of the test's.
func shop(t *testing.T, f *settler) (address string, pw *paywall.Paywall, calls *atomic.Int64) {
	t.Helper()
	f.T, f.chain, calls = t, newLedgerChain(), &atomic.Int64{}
	pw, err := paywall.New(paywall.Config{
		Signer: sellerKey, Network: "dev", Facilitators: []x402.Facilitator{f}, Accept: []string{"exact", "upto"}, Purchases: paywall.Memory(),
		Now: func() time.Time { return noon },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pw.Close(t.Context()) })
	mux := http.NewServeMux()
	handle := func(pattern, price string, status int, opts ...paywall.Option) {
		mux.Handle(pattern, pw.Price(price, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			body, _ := io.ReadAll(r.Body)
			if len(body) > 0 {
				paywall.Charge(r.Context(), len(body))
			}
			w.WriteHeader(status)
			fmt.Fprintf(w, "%s served", r.URL.Path)
		}), opts...))
	}
	handle("GET /quote/{symbol}", "$0.0005", 200)
	handle("GET /down", "$0.0005", 500)
	handle("POST /generate", "$0.00001 per token", 200, paywall.Accept("upto"), paywall.UpTo("$0.005"))
	handle("GET /feed/{topic}", "$0.0001", 200, paywall.Bundle("5 calls", time.Hour))
	handle("GET /job/{n}", "$0.0005", 202, paywall.Job(time.Minute))
	handle("GET /daily", "$0.0005", 200, paywall.Valid(time.Hour))
	handle("GET /other", "$0.0001", 200, paywall.Bundle("5 calls", time.Hour))
	if err := pw.Check(); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL, pw, calls
}

// The real paywall is paid in each way, and its buyer's journal says what the chain says.
func TestOurOwnShop(t *testing.T) {
	t.Parallel()
	f := &settler{}
	address, _, calls := shop(t, f)
	p := newPayer(t, inFile(journalFile(t)), func(c *Config) { c.Houses, c.Wallet, c.Budget.PerDay = nil, f.chain, "$1" })
	settled := func() (sum uint64) {
		for _, tx := range f.chain.moves {
			for _, units := range tx {
				sum += units
			}
		}
		return sum
	}

	body, r, err := get(p, address+"/quote/ACME?day=1")
	if err != nil || body != "/quote/ACME served" || r.Way != "exact" || r.Charged != money.Units(500) || r.Transaction == "" || settled() != 500 {
		t.Fatalf("exact: %q, %+v, %v", body, r, err)
	}
	resp, err := p.Resume(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if calls.Load() != 1 || settled() != 500 || today(t, p) != "$0.9995" {
		t.Errorf("asked again: %d calls, %d settled, %s left", calls.Load(), settled(), today(t, p))
	}

	resp, err = (&http.Client{Transport: p}).Post(address+"/generate", "text/plain", strings.NewReader("ten tokens"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if r, _ := Receipt(resp); r.Way != "upto" || r.Charged != money.Units(100) || r.Signed != money.Units(5000) || !r.Proven || settled() != 600 || today(t, p) != "$0.9994" {
		t.Errorf("upto: %+v, %d settled, %s left", r, settled(), today(t, p))
	}

	resp, err = (&http.Client{Transport: p}).Get(address + "/down")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if r, _ := Receipt(resp); resp.StatusCode != 500 || r.State != Void || settled() != 600 || today(t, p) != "$0.9994" {
		t.Errorf("failed work: %d, %+v, %d settled, %s left", resp.StatusCode, r, settled(), today(t, p))
	}

	for i := range 7 { // of which five are one bundle
		body, r, err := get(p, address+fmt.Sprint("/feed/", i))
		want := 4 - i%5
		if err != nil || body != fmt.Sprintf("/feed/%d served", i) || r.Bundle == nil || r.Bundle.Left != uint64(want) || r.Bundle.Disputed {
			t.Fatalf("call %d of a bundle: %q, %+v %+v, %v", i, body, r, r.Bundle, err)
		}
		if says := r.Bundle.SellerSays; says == nil || *says != uint64(want) {
			t.Errorf("call %d: the seller does not say the same: %v", i, says)
		}
	}
	if settled() != 1600 || today(t, p) != "$0.9984" {
		t.Errorf("bundles: %d settled, %s left", settled(), today(t, p))
	}
	for i := range 3 { // bought once, and come back to
		body, r, err := get(p, address+"/daily")
		if err != nil || body != "/daily served" || (i == 0) != (r.Way == "exact") || settled() != 2100 || today(t, p) != "$0.9979" {
			t.Errorf("day ticket, visit %d: %q, %+v, %v, %d settled", i, body, r, err, settled())
		}
	}
	if _, r, err := get(p, address+"/other"); err != nil || r.Way != "exact" || settled() != 2600 {
		t.Errorf("a bundle of another route: %+v, %v", r, err)
	}
}

// A job that was answered 202 counts in full until it is known what it came to; asked again, the seller tells.
func TestJobsOfOurOwnShop(t *testing.T) {
	t.Parallel()
	f := &settler{}
	address, pw, _ := shop(t, f)
	p := newPayer(t, inFile(journalFile(t)), func(c *Config) { c.Houses, c.Wallet, c.Budget.PerDay = nil, f.chain, "$1" })
	begin := func(path string) Purchase {
		t.Helper()
		resp, err := (&http.Client{Transport: p}).Get(address + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		r, ok := Receipt(resp)
		if resp.StatusCode != 202 || !ok {
			t.Fatalf("%d, %+v", resp.StatusCode, r)
		}
		return r
	}
	ask := func(id string) (Purchase, error) {
		t.Helper()
		resp, err := p.Resume(t.Context(), id)
		if err == nil {
			resp.Body.Close()
		}
		r, notFound := p.ReceiptOf(id)
		if notFound != nil {
			t.Fatal(notFound)
		}
		return r, err
	}
	done, failed := begin("/job/1"), begin("/job/2")
	if len(f.auths) != 0 || today(t, p) != "$0.999" {
		t.Errorf("%d settled before the work is done, %s left", len(f.auths), today(t, p))
	}
	if _, err := pw.Complete(t.Context(), done.ID, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := pw.Cancel(t.Context(), failed.ID, "handler_failed"); err != nil {
		t.Fatal(err)
	}
	if r, err := ask(done.ID); err != nil || r.State != Charged || r.Charged != money.Units(500) || r.Transaction == "" {
		t.Errorf("done: %+v, %v", r, err)
	}
	if r, err := ask(failed.ID); code(err) != "payment_void" || r.State != Void || today(t, p) != "$0.9995" {
		t.Errorf("failed: %+v, %v, %s left", r, err, today(t, p))
	}
}

// Two processes of one buyer that want the same bundle at once buy one: the other waits, and both count the same calls.
func TestTwoProcessesBuyOneBundle(t *testing.T) {
	t.Parallel()
	f := &settler{}
	address, _, calls := shop(t, f)
	path := journalFile(t)
	var wg sync.WaitGroup
	var last *Payer
	for range 2 {
		p := newPayer(t, inFile(path), func(c *Config) {
			c.Houses, c.Wallet, c.Budget.PerDay = nil, f.chain, "$1"
			c.Wait = func(ctx context.Context, _ time.Duration) error { return wait(ctx, 20*time.Millisecond) }
		})
		last = p
		for i := range 2 {
			wg.Go(func() {
				_, r, err := get(p, address+fmt.Sprint("/feed/", i))
				if err != nil || r.Bundle == nil || r.Bundle.Disputed {
					t.Errorf("%+v, %v", r, err)
				}
			})
		}
	}
	wg.Wait()
	_, r, err := get(last, address+"/feed/last")
	if err != nil || r.Bundle == nil || r.Bundle.Left != 5-uint64(calls.Load()) || r.Bundle.Disputed {
		t.Errorf("%+v %+v, %v after %d calls", r, r.Bundle, err, calls.Load())
	}
	var settled uint64
	for _, tx := range f.chain.moves {
		for _, units := range tx {
			settled += units
		}
	}
	if settled != 500 || today(t, last) != "$0.9995" {
		t.Errorf("%d settled, %s left", settled, today(t, last))
	}
}

// Two machines with one key and journals of their own: the second knows nothing of the first one's bundle and signs a
// transfer each time, which the seller does not take while calls are left. Its budget is not charged for them, on the
// seller's word, and a call that the first one misses is no dispute before the seller refuses one.
func TestOneKeyOnTwoMachines(t *testing.T) {
	t.Parallel()
	f := &settler{}
	address, _, _ := shop(t, f)
	machine := func() *Payer {
		return newPayer(t, inFile(journalFile(t)), func(c *Config) { c.Houses, c.Wallet, c.Budget.PerDay = nil, f.chain, "$1" })
	}
	first, second := machine(), machine()
	if _, r, err := get(first, address+"/feed/1"); err != nil || r.Bundle.Left != 4 {
		t.Fatalf("%+v, %v", r, err)
	}
	for range 3 {
		if _, r, err := get(second, address+"/feed/2"); err != nil || r.State != Charged || !r.Charged.IsZero() || r.Proven || today(t, second) != "$1.00" {
			t.Fatalf("%+v, %v, %s left", r, err, today(t, second))
		}
	}
	if len(f.auths) != 1 {
		t.Errorf("%d transfers were taken", len(f.auths))
	}
	if _, r, err := get(first, address+"/feed/3"); err != nil || !r.Bundle.Disputed || *r.Bundle.SellerSays != 0 || r.Bundle.Left != 3 {
		t.Errorf("%+v %+v, %v", r, r.Bundle, err)
	}
	_, _, err := get(first, address+"/feed/4")
	if n := need(err); n == nil || n.Code != "bundle_disputed" || !strings.Contains(n.Reason, "3 of 5 calls") || !strings.Contains(n.Reason, "bundle_exhausted") || len(f.auths) != 1 {
		t.Errorf("%v", err)
	}
}
