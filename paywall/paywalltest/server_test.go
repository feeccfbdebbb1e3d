package paywalltest_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/paywall/paywalltest"
)

// one sells a single handler for $0.0005.
func one(h http.HandlerFunc) func(*paywall.Paywall) http.Handler {
	return func(pw *paywall.Paywall) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/", pw.Price("$0.0005", h))
		return mux
	}
}

func get(t *testing.T, s *paywalltest.Server, path string) (*http.Response, string) {
	t.Helper()
	resp, err := s.Client.Get(s.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// servedAtOnce buys n times at once and counts the answers that came.
func servedAtOnce(t *testing.T, s *paywalltest.Server, n int) int64 {
	t.Helper()
	var wg sync.WaitGroup
	var served atomic.Int64
	for range n {
		wg.Go(func() {
			resp, err := s.Client.Get(s.URL + "/")
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			if resp.StatusCode == 200 {
				served.Add(1)
			}
		})
	}
	wg.Wait()
	return served.Load()
}

func TestManyBuyersAtOnceAreSettled(t *testing.T) {
	t.Parallel()
	s := paywalltest.NewServer(t, one(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	const n = 40
	served := servedAtOnce(t, s, n)
	settled := s.Settle()
	if served != n || settled.Guarantees != n || settled.Collected != money.Units(500*n) {
		t.Errorf("served %d, settled %+v", served, settled)
	}
	if f := settled.Participants[s.Buyer]; f.Out != money.Units(500*n) || !f.In.IsZero() || !f.Collected.IsZero() {
		t.Errorf("buyer %+v", f)
	}
	left, _ := paywalltest.DefaultCollateral.Sub(money.Units(500 * n))
	if a := s.Account(s.Buyer); a.Collateral() != left || !a.Exposure().IsZero() {
		t.Errorf("buyer has %s, %s of it promised", a.Collateral(), a.Exposure())
	}
	if s.Wallet(s.Seller) != settled.Collected {
		t.Errorf("seller holds %s", s.Wallet(s.Seller))
	}
}

// What is sold after a settlement is settled by the next one, and nothing twice.
func TestOneCycleAfterAnother(t *testing.T) {
	t.Parallel()
	s := paywalltest.NewServer(t, one(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	for i := range 3 {
		for range i + 1 {
			get(t, s, "/")
		}
		settled := s.Settle()
		if want := money.Units(uint64(500 * (i + 1))); settled.Collected != want || len(settled.Cycles) != 1 {
			t.Errorf("settlement %d: %+v", i, settled)
		}
	}
	if empty := s.Settle(); !empty.Collected.IsZero() || len(empty.Cycles) != 0 {
		t.Errorf("nothing was sold, settled %+v", empty)
	}
	if s.Wallet(s.Seller) != money.Units(3000) {
		t.Errorf("seller holds %s", s.Wallet(s.Seller))
	}
}

// What the seller's completion rule did not earn is let go before the cycle is netted.
func TestFailedWorkIsNotSettled(t *testing.T) {
	t.Parallel()
	s := paywalltest.NewServer(t, one(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/fail") {
			http.Error(w, "no luck", 500)
		}
	}))
	get(t, s, "/fail")
	get(t, s, "/works")
	if settled := s.Settle(); settled.Collected != money.Units(500) || settled.Guarantees != 2 {
		t.Errorf("settled %+v", settled)
	}
}

// A crash in the middle of a request neither charges nor serves twice: the first run is interrupted and not charged, the
// buyer's client asks again and buys anew.
func TestCrashWhileTheHandlerRuns(t *testing.T) {
	t.Parallel()
	var s *paywalltest.Server
	var runs atomic.Int64
	s = paywalltest.NewServer(t, one(func(w http.ResponseWriter, _ *http.Request) {
		if runs.Add(1) == 1 {
			s.Crash()
		}
		fmt.Fprintf(w, "run %d", runs.Load())
	}))
	resp, body := get(t, s, "/")
	if resp.StatusCode != 200 || body != "run 2" || runs.Load() != 2 {
		t.Errorf("%d %q after %d runs", resp.StatusCode, body, runs.Load())
	}
	receipts, err := s.Payer.Receipts()
	if err != nil {
		t.Fatal(err)
	}
	var charged money.Amount
	for _, r := range receipts {
		charged, _ = charged.Add(r.Charged)
	}
	if settled := s.Settle(); charged != money.Units(500) || settled.Collected != charged {
		t.Errorf("buyer was charged %s, seller collected %s", charged, settled.Collected)
	}
}

// A crash after the work, before the buyer has its answer: the same payment gets the stored answer from the next process.
func TestCrashAfterTheWork(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	s := paywalltest.NewServer(t, one(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "run %d", runs.Add(1)) }))
	resp, _ := get(t, s, "/")
	bought, ok := payer.Receipt(resp)
	if !ok {
		t.Fatal("no receipt")
	}
	s.Crash()
	again, err := s.Payer.Resume(t.Context(), bought.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Body.Close()
	body, err := io.ReadAll(again.Body)
	if err != nil || string(body) != "run 1" || runs.Load() != 1 {
		t.Errorf("%q after %d runs (%v)", body, runs.Load(), err)
	}
	if settled := s.Settle(); settled.Collected != money.Units(500) {
		t.Errorf("settled %+v", settled)
	}
}

func TestBuyerWithoutCollateral(t *testing.T) {
	t.Parallel()
	s := paywalltest.NewServer(t, one(func(http.ResponseWriter, *http.Request) { t.Error("served") }), paywalltest.Collateral(money.Units(499)))
	_, err := s.Client.Get(s.URL + "/")
	var need *payer.NeedError
	if !errors.As(err, &need) || need.Code != "collateral_insufficient" {
		t.Errorf("%v", err)
	}
	if settled := s.Settle(); !settled.Collected.IsZero() {
		t.Errorf("settled %+v", settled)
	}
}

func TestBuyerWithoutBudget(t *testing.T) {
	t.Parallel()
	s := paywalltest.NewServer(t, one(func(http.ResponseWriter, *http.Request) { t.Error("served") }), paywalltest.Budget(payer.Budget{PerCall: "$0.0001"}))
	_, err := s.Client.Get(s.URL + "/")
	var need *payer.NeedError
	if !errors.As(err, &need) || need.Code != "budget_exceeded" {
		t.Errorf("%v", err)
	}
}

// The clock is the test's: a quote that has grown old is renewed, and costs nothing.
func TestTheClockIsTheTests(t *testing.T) {
	t.Parallel()
	var sales atomic.Int64
	s := paywalltest.NewServer(t, one(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }),
		paywalltest.Config(func(c *paywall.Config) {
			c.QuoteLifetime = 10 * time.Second
			c.OnSale = func(e paywall.Event) {
				if e.Kind == paywall.Paid {
					sales.Add(1)
				}
			}
		}))
	before := s.Now()
	get(t, s, "/")
	s.Advance(2 * time.Hour)
	get(t, s, "/")
	if got := s.Now().Sub(before); got != 2*time.Hour {
		t.Errorf("%s have passed", got)
	}
	settled := s.Settle()
	if settled.Collected != money.Units(1000) || len(settled.Cycles) != 2 || sales.Load() != 2 {
		t.Errorf("%d sales, settled %+v", sales.Load(), settled)
	}
}

// A settled cycle is what the chain, the clearing house and everybody's wallets agree on.
func TestTheBooksHold(t *testing.T) {
	t.Parallel()
	s := paywalltest.NewServer(t, shop)
	get(t, s, "/quote/ACME")
	s.Settle()
	if err := s.House.Check(t.Context()); err != nil {
		t.Error(err)
	}
	cycles, err := s.House.Cycles(t.Context(), s.Token.Address, 0)
	if err != nil || len(cycles) != 1 || cycles[0].Status != clearing.Closed {
		t.Errorf("cycles %+v (%v)", cycles, err)
	}
}

func BenchmarkSettledSale(b *testing.B) {
	for b.Loop() {
		s := paywalltest.NewServer(b, shop)
		resp, err := s.Client.Get(s.URL + "/quote/ACME")
		if err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
		if s.Settle().Collected != money.Units(500) {
			b.Fatal("not settled")
		}
	}
}
