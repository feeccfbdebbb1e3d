package paywall_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

type settling = func(a exact.Authorization, amount money.Amount, move func() x402.SettleResponse) (x402.SettleResponse, error)

var errReset = errors.New("connection reset")

func says(reason string) settling {
	return func(exact.Authorization, money.Amount, func() x402.SettleResponse) (x402.SettleResponse, error) {
		return x402.SettleResponse{ErrorReason: reason, Network: "eip155:84532"}, nil
	}
}

func gone(exact.Authorization, money.Amount, func() x402.SettleResponse) (x402.SettleResponse, error) {
	return x402.SettleResponse{}, errReset
}

func goneAfterMoving(_ exact.Authorization, _ money.Amount, move func() x402.SettleResponse) (x402.SettleResponse, error) {
	move()
	return x402.SettleResponse{}, errReset
}

func seeing(c *paywall.Config) { c.Witness = c.Facilitators[0].(*bank) }

// A facilitator that never comes back must not keep a purchase open for ever: the seller sees for itself.
func TestAFacilitatorThatNeverComesBack(t *testing.T) {
	t.Parallel()
	for _, rule := range []string{"after success", "before work"} {
		t.Run("it had moved the money, charged "+rule, func(t *testing.T) {
			t.Parallel()
			m := newMarket(t, seeing)
			m.handle("GET /x", "$0.0005", hello, paywall.ChargeRule(rule))
			m.bank.set(func() { m.bank.settle = goneAfterMoving })
			paid := m.buy(get("/x"), "exact")
			if a := m.do(paid); a.StatusCode != 503 || a.code() != "settlement_pending" {
				t.Fatalf("%d %s", a.StatusCode, a.body)
			}
			m.bank.set(func() { m.bank.settle = gone })
			if a := m.do(paid); a.StatusCode != 200 || a.body != "hello" || !receiptOf(t, a).Success {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
			m.bank.expect(t, 500, 1)
		})
		for name, trouble := range map[string]settling{"hangs": gone, "says pending": says("settlement_pending"), "says that it has moved": func(exact.Authorization, money.Amount, func() x402.SettleResponse) (x402.SettleResponse, error) {
			return x402.SettleResponse{Success: true, Transaction: "0x" + strings.Repeat("11", 32), Network: "eip155:84532"}, nil
		}} {
			t.Run("nothing moved and it "+name+", charged "+rule, func(t *testing.T) {
				t.Parallel()
				m := newMarket(t, seeing)
				m.handle("GET /x", "$0.0005", hello, paywall.ChargeRule(rule))
				m.bank.set(func() { m.bank.settle = trouble })
				paid := m.buy(get("/x"), "exact")
				m.do(paid)
				m.clock.advance(6 * time.Minute)
				_ = m.pw.Recover(t.Context())
				if p := m.book.only(t); p.State.Final() {
					t.Fatalf("its last block may not be known yet, and it is %s", p.State)
				}
				m.clock.advance(2 * time.Minute)
				for range 200 { // the paywall's own goroutine may be looking at it at this moment
					if err := m.pw.Recover(t.Context()); err != nil {
						t.Error(err)
					}
					if m.book.only(t).State.Final() {
						break
					}
					time.Sleep(10 * time.Millisecond)
				}
				if p := m.book.only(t); p.State != purchase.Void || p.Outcome == "" {
					t.Errorf("it can move no more, and the purchase is %s %s", p.State, p.Outcome)
				}
				m.bank.expect(t, 0, 0)
			})
		}
	}
}

// The first settlement took the payer's last money, and nobody heard of it. What the facilitator says to the second is true
// and tells nothing about the first.
func TestASecondSettlementIsRefusedBecauseOfTheFirst(t *testing.T) {
	t.Parallel()
	for _, rule := range []string{"after success", "before work"} {
		for _, reason := range []string{"insufficient_funds", "invalid_exact_evm_insufficient_balance", "invalid_exact_evm_nonce_already_used", "invalid_exact_evm_transaction_simulation_failed"} {
			t.Run(reason+", charged "+rule, func(t *testing.T) {
				t.Parallel()
				m := newMarket(t)
				m.handle("GET /x", "$0.0005", hello, paywall.ChargeRule(rule))
				m.bank.set(func() { m.bank.settle = goneAfterMoving })
				paid := m.buy(get("/x"), "exact")
				m.do(paid)
				m.bank.set(func() { m.bank.settle = says(reason) })
				if a := m.do(paid); a.StatusCode != 503 || a.code() != "settlement_pending" {
					t.Errorf("%d %s", a.StatusCode, a.body)
				}
				if p := m.book.only(t); p.State.Final() {
					t.Fatalf("rolled back by guess: %+v", p)
				}
				m.bank.set(func() { m.bank.settle = nil })
				if a := m.do(paid); a.StatusCode != 200 || a.body != "hello" {
					t.Errorf("%d %s", a.StatusCode, a.body)
				}
				m.bank.expect(t, 500, 1)
			})
		}
	}
}

// What was sent and is not in a block yet looks on the chain as if it had not been sent.
func TestWhatWaitsForABlockIsNotUnpaid(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]settling{
		"the first answer was lost":                gone,
		"the facilitator stopped waiting for it":   says("invalid_exact_evm_transaction_failed"),
		"the facilitator does not know what it is": says("unexpected_settle_error"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarket(t, seeing)
			m.handle("GET /x", "$0.0005", hello)
			m.bank.set(func() { m.bank.settle = first })
			paid := m.buy(get("/x"), "exact")
			m.do(paid)
			m.bank.set(func() { m.bank.settle = says("duplicate_settlement") })
			if a := m.do(paid); a.StatusCode != 503 || m.book.only(t).State.Final() {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
			m.bank.set(func() { m.bank.settle = goneAfterMoving }) // the block comes
			m.do(paid)
			if a := m.do(paid); a.StatusCode != 200 || a.body != "hello" {
				t.Errorf("afterwards: %d %s", a.StatusCode, a.body)
			}
			m.bank.expect(t, 500, 1)
		})
	}
}

func TestAFacilitatorThatSpeaksOfAnotherPayment(t *testing.T) {
	t.Parallel()
	other := key(t).Address().String()
	for name, alter := range map[string]func(*x402.SettleResponse){
		"of another payer":            func(s *x402.SettleResponse) { s.Payer = other },
		"on another network":          func(s *x402.SettleResponse) { s.Network = "eip155:8453" },
		"on another, by its old name": func(s *x402.SettleResponse) { s.Network = "base" },
		"of less":                     func(s *x402.SettleResponse) { s.Amount = "499" },
	} {
		m := newMarket(t)
		m.handle("GET /x", "$0.0005", hello)
		m.bank.set(func() {
			m.bank.settle = func(_ exact.Authorization, _ money.Amount, move func() x402.SettleResponse) (x402.SettleResponse, error) {
				s := move()
				alter(&s)
				return s, nil
			}
		})
		paid := m.buy(get("/x"), "exact")
		if a := m.do(paid); a.StatusCode != 503 || a.code() != "settlement_pending" {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
		}
		m.bank.set(func() { m.bank.settle = nil })
		if a := m.do(paid); a.StatusCode != 200 {
			t.Errorf("%s, afterwards: %d %s", name, a.StatusCode, a.body)
		}
	}
	m := newMarket(t)
	m.handle("GET /x", "$0.0005", hello)
	m.bank.set(func() {
		m.bank.verify = func(exact.Authorization) (x402.VerifyResponse, error) {
			return x402.VerifyResponse{IsValid: true, Payer: other}, nil
		}
	})
	if a := m.do(m.buy(get("/x"), "exact")); a.StatusCode < 500 || a.code() != "facilitator_fault" {
		t.Errorf("verified another payer: %d %s", a.StatusCode, a.body)
	}
}

// hanging is a facilitator that does not say what it can do, once it was told to hang.
type hanging struct {
	*bank
	hang    atomic.Bool
	entered chan struct{}
	leave   chan struct{}
}

func (h *hanging) Supported(ctx context.Context) (x402.Supported, error) {
	if h.hang.Load() {
		h.entered <- struct{}{}
		select {
		case <-h.leave:
		case <-ctx.Done():
		}
		return x402.Supported{}, errReset
	}
	return h.bank.Supported(ctx)
}

func TestAFacilitatorThatHangsHoldsUpOneVisitorAtMost(t *testing.T) {
	t.Parallel()
	h := &hanging{entered: make(chan struct{}, 9), leave: make(chan struct{})}
	m := newMarket(t, func(c *paywall.Config) {
		h.bank = c.Facilitators[0].(*bank)
		c.Facilitators, c.Accept = []x402.Facilitator{h}, []string{"upto", "exact"}
	})
	m.handle("GET /x", "$0.0005", hello)
	m.do(get("/x"))
	m.clock.advance(time.Hour)
	h.hang.Store(true)
	var wg sync.WaitGroup
	wg.Go(func() { m.do(get("/x")) })
	<-h.entered
	others := make(chan struct{})
	go func() {
		defer close(others)
		if a := m.do(m.buy(get("/x"), "upto")); a.StatusCode != 200 {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	}()
	select {
	case <-others:
	case <-time.After(2 * time.Second):
		t.Error("others wait for a facilitator whose list is known")
	}
	close(h.leave)
	wg.Wait()
	<-others
	if len(h.entered) != 0 {
		t.Errorf("it was asked %d times more", len(h.entered))
	}
}

// Two gates that ask at once may both be told what is true of the other's transaction only: the facilitator refuses the one,
// because the other has just been paid.
func TestTwoGatesDoNotSettleOnePurchaseAtOnce(t *testing.T) {
	t.Parallel()
	for _, rule := range []string{"after success", "before work"} {
		m := newMarket(t, func(c *paywall.Config) { c.Abandoned, c.BaseURL = 10*time.Minute, "https://shop.example" })
		var ran atomic.Int32
		m.handle("GET /x", "$0.0005", counting(&ran), paywall.ChargeRule(rule))
		second := m.open()
		mux := http.NewServeMux()
		mux.Handle("GET /x", second.Price("$0.0005", counting(&ran), paywall.ChargeRule(rule)))
		other := &world{t: t, server: httptest.NewServer(mux)}
		t.Cleanup(other.server.Close)
		paid := m.buy(get("/x"), "exact")
		m.bank.set(func() {
			m.bank.settle = func(_ exact.Authorization, _ money.Amount, move func() x402.SettleResponse) (x402.SettleResponse, error) {
				// While the first gate waits for its answer, the other looks through the book, and is shown the payment.
				m.bank.settle = says("insufficient_funds")
				m.bank.mu.Unlock()
				if err := second.Recover(t.Context()); err != nil {
					t.Errorf("the other gate: %v", err)
				}
				if a := other.do(paid); a.StatusCode != 503 && a.StatusCode != 409 {
					t.Errorf("at the other gate: %d %s", a.StatusCode, a.body)
				}
				m.bank.mu.Lock()
				return move(), nil
			}
		})
		if a := m.do(paid); a.StatusCode != 200 || a.body != "hello" {
			t.Errorf("charged %s: %d %s", rule, a.StatusCode, a.body)
		}
		if asked := m.bank.asked; asked != 1 || ran.Load() != 1 {
			t.Errorf("charged %s: settled %d times, ran %d times", rule, asked, ran.Load())
		}
		m.bank.expect(t, 500, 1)
	}
}

// exact moves the whole amount or nothing, whatever the handler counts.
func TestExactIsNeverAskedToMoveAPart(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	m.bank.set(func() {
		m.bank.settle = func(a exact.Authorization, amount money.Amount, move func() x402.SettleResponse) (x402.SettleResponse, error) {
			if amount != a.Amount {
				return x402.SettleResponse{ErrorReason: "invalid_exact_evm_payload_authorization_value_mismatch", Network: "eip155:84532"}, nil
			}
			return move(), nil
		}
	})
	m.handle("GET /counted", "$0.0005", func(w http.ResponseWriter, r *http.Request) { paywall.Charge(r.Context(), 0); hello(w, r) })
	m.handle("GET /overridden", "$0.0005", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Settlement-Overrides", `{"amount":"123"}`)
		hello(w, r)
	})
	for _, path := range []string{"/counted", "/overridden"} {
		a := m.do(m.buy(get(path), "exact"))
		if r := receiptOf(t, a); a.StatusCode != 200 || r.Amount != "500" {
			t.Errorf("%s: %d %s %+v", path, a.StatusCode, a.body, r)
		}
	}
	m.bank.expect(t, 1000, 2)
}

// A buyer whose signature ends before the job does would get the work for nothing.
func TestAJobIsPaidForAsLongAsItTakes(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	accepted := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(202) }
	m.handle("GET /long", "$0.0005", accepted, paywall.Job(time.Hour))
	m.handle("GET /short", "$0.0005", accepted)
	brief := func(o *order) { o.accepted.MaxTimeoutSeconds = 60 }
	if a := m.do(m.buy(get("/long"), "exact", brief)); a.StatusCode != 402 || a.code() != "invalid_exact_evm_payload_authorization_valid_before" {
		t.Errorf("good for a minute: %d %s", a.StatusCode, a.body)
	}
	if a := m.do(m.buy(get("/long"), "exact")); a.StatusCode != 202 {
		t.Errorf("good for as long as it says: %d %s", a.StatusCode, a.body)
	}
	paid := m.buy(get("/short"), "exact", brief)
	if a := m.do(paid); a.StatusCode != 202 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	p, _, err := m.book.FindID(t.Context(), m.book.ids[1])
	if err != nil || p.State != purchase.Working || p.Due.Sub(m.clock.now()) > 50*time.Second {
		t.Errorf("%v, it is %s and due in %s, and its payment is good for 60 s", err, p.State, p.Due.Sub(m.clock.now()))
	}
}

// A note has until its cycle's cutoff. A facilitator that hangs over something else must not keep it from leaving.
func TestAFacilitatorThatHangsKeepsNoNote(t *testing.T) {
	t.Parallel()
	house := newWorld(t)
	m := newMarket(t, func(c *paywall.Config) { c.House, c.Accept = house.house, []string{"guarantee", "exact"} })
	m.handle("GET /x", "$0.0005", hello)
	m.bank.set(func() { m.bank.settle = says("settlement_pending") })
	m.do(m.buy(get("/x"), "exact"))
	entered, leave := make(chan struct{}, 9), make(chan struct{})
	defer close(leave)
	m.bank.set(func() {
		m.bank.settle = func(exact.Authorization, money.Amount, func() x402.SettleResponse) (x402.SettleResponse, error) {
			entered <- struct{}{}
			<-leave
			return x402.SettleResponse{}, errReset
		}
	})
	m.restart("$0.0005", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	<-entered
	came := make(chan struct{}, 9)
	house.house.set(func() { house.house.note = func(guarantee.SignedNote) error { came <- struct{}{}; return nil } })
	if a := m.do(m.paid(get("/x"))); a.StatusCode != 500 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	select {
	case <-came:
	case <-time.After(5 * time.Second):
		t.Error("the note waits")
	}
}

// A quote, and what is left of a bundle, are good for the route of a name. Two routes that a router calls the same must not be
// bought for each other's price.
func TestRoutesOfOnePatternAreNotMixedUp(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	var ran atomic.Int32
	cheap := m.pw.Price("$0.0001", http.HandlerFunc(hello), paywall.Bundle("10 calls", time.Hour))
	dear := m.pw.Price("$0.9", counting(&ran), paywall.Bundle("10 calls", time.Hour))

	inner := func(h http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("GET /x", h)
		return mux
	}
	m.mux.Handle("/one/", http.StripPrefix("/one", inner(cheap)))
	m.mux.Handle("/two/", http.StripPrefix("/two", inner(dear)))
	paid := m.buy(get("/one/x"), "exact")
	paid.path = "/two/x"
	if a := m.do(paid); a.StatusCode != 402 || a.code() != "payment_mismatch" {
		t.Errorf("the quote of another mux: %d %s", a.StatusCode, a.body)
	}
	bundle := stockOf(t, m.do(m.buy(get("/one/x"), "exact"))).ID
	if a := m.do(m.draws(get("/two/x"), bundle)); a.StatusCode != 402 || a.code() != "bundle_exhausted" {
		t.Errorf("the bundle of another mux: %d %s", a.StatusCode, a.body)
	}

	cheap, dear = m.pw.Price("$0.0001", http.HandlerFunc(hello)), m.pw.Price("$0.9", counting(&ran))
	m.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/cheap" {
			cheap.ServeHTTP(w, r)
		} else {
			dear.ServeHTTP(w, r)
		}
	})
	m.do(get("/cheap"))
	m.do(get("/dear"))
	if a := m.do(get("/cheap")); a.StatusCode != 500 || a.code() != "price_invalid" {
		t.Errorf("both under one pattern: %d %s", a.StatusCode, a.body)
	}
	if ran.Load() != 0 {
		t.Errorf("ran %d times", ran.Load())
	}
}
