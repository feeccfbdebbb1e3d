package paywalltest_test

import (
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/paywall/paywalltest"
)

func TestManyBuyersAtOncePayByTransfers(t *testing.T) {
	t.Parallel()
	s := paywalltest.NewServer(t, one(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }), paywalltest.Transfers())
	const n = 40
	served := servedAtOnce(t, s, n)
	left, _ := paywalltest.DefaultWallet.Sub(money.Units(500 * n))
	if served != n || s.Wallet(s.Seller) != money.Units(500*n) || s.Wallet(s.Buyer) != left {
		t.Errorf("served %d, seller holds %s, buyer %s", served, s.Wallet(s.Seller), s.Wallet(s.Buyer))
	}
	if settled := s.Settle(); settled.Guarantees != 0 {
		t.Errorf("guarantees among transfers: %+v", settled)
	}
}

// What is not earned is not settled, and what was paid before the work and is waived comes back.
func TestFailedWorkMovesNoMoney(t *testing.T) {
	t.Parallel()
	s := paywalltest.NewServer(t, func(pw *paywall.Paywall) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/fail", pw.Price("$0.0005", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })))
		mux.Handle("/waive", pw.Price("$0.0005", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			paywall.Fail(r.Context(), "stale")
		}), paywall.ChargeRule("before work")))
		return mux
	}, paywalltest.Transfers("exact"))
	get(t, s, "/fail")
	get(t, s, "/waive")
	if s.Wallet(s.Seller) != (money.Amount{}) || s.Wallet(s.Buyer) != paywalltest.DefaultWallet {
		t.Errorf("seller holds %s, buyer %s", s.Wallet(s.Seller), s.Wallet(s.Buyer))
	}
}

// A crash while the handler runs: the first run is not charged, the buyer buys anew.
func TestCrashBeforeATransferIsSettled(t *testing.T) {
	t.Parallel()
	var s *paywalltest.Server
	var runs atomic.Int64
	s = paywalltest.NewServer(t, one(func(w http.ResponseWriter, _ *http.Request) {
		if runs.Add(1) == 1 {
			s.Crash()
		}
		fmt.Fprintf(w, "run %d", runs.Load())
	}), paywalltest.Transfers())
	resp, body := get(t, s, "/")
	if resp.StatusCode != 200 || body != "run 2" || runs.Load() != 2 || s.Wallet(s.Seller) != money.Units(500) {
		t.Errorf("%d %q after %d runs, seller holds %s", resp.StatusCode, body, runs.Load(), s.Wallet(s.Seller))
	}
}

func TestBuyerWithAnEmptyWallet(t *testing.T) {
	t.Parallel()
	s := paywalltest.NewServer(t, one(func(http.ResponseWriter, *http.Request) { t.Error("served") }),
		paywalltest.Transfers(), paywalltest.Wallet(money.Units(499)), paywalltest.Collateral(money.Amount{}))
	_, err := s.Client.Get(s.URL + "/")
	var need *payer.NeedError
	if !errors.As(err, &need) || need.Code != "insufficient_funds" {
		t.Errorf("%v", err)
	}
}

// One server takes both: the buyer without a wallet pays by guarantee, and Settle turns that into money.
func TestGuaranteesBesideTransfers(t *testing.T) {
	t.Parallel()
	s := paywalltest.NewServer(t, one(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }),
		paywalltest.Transfers("exact", "guarantee"), paywalltest.Wallet(money.Units(500)))
	get(t, s, "/")
	s.Advance(time.Minute)
	get(t, s, "/")
	if by := s.Settle(); s.Wallet(s.Seller) != money.Units(1000) || by.Guarantees > 1 {
		t.Errorf("seller holds %s, %d guarantees", s.Wallet(s.Seller), by.Guarantees)
	}
}
