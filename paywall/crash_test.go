package paywall_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// restart serves the same book by a new paywall, as after a crash.
func (w *world) restart(price string, h http.HandlerFunc) {
	w.t.Helper()
	w.pw = w.open()
	w.mux = http.NewServeMux()
	w.mux.Handle("GET /x", w.pw.Price(price, h))
	w.server.Config.Handler = w.mux
}

// A crash in the middle of a request neither charges nor serves twice.
func TestACrashWhileTheHandlerRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ran atomic.Int32
	w.handle("GET /x", "$0.0005", counting(&ran))
	paid := w.paid(get("/x"))
	crashed := errors.New("the process is gone")
	w.book.set(func(method string, _ purchase.Purchase) error {
		if method == "finish" {
			return crashed
		}
		return nil
	})
	if a := w.do(paid); a.StatusCode != 503 || a.code() != "settlement_pending" || a.body == "hello" {
		t.Errorf("an answer that was not written down: %d %s", a.StatusCode, a.body)
	}
	if e := w.lastEvent(); e.Kind != paywall.Unknown {
		t.Errorf("event %+v", e)
	}
	if p := w.book.only(t); p.State != purchase.Running {
		t.Fatalf("state %s", p.State)
	}
	w.book.set(nil)
	w.restart("$0.0005", counting(&ran))
	if a := w.do(paid); a.StatusCode != 402 || a.code() != "payment_void" {
		t.Errorf("after the restart: %d %s", a.StatusCode, a.body)
	}
	w.drain()
	if ran.Load() != 1 || !w.house.owed().IsZero() {
		t.Errorf("ran %d times, owed %s", ran.Load(), w.house.owed())
	}
	if p := w.book.only(t); p.State != purchase.Void || p.Outcome != "interrupted" || !p.ProofDone {
		t.Errorf("purchase %+v", p)
	}
	if a := w.do(w.paid(get("/x"))); a.StatusCode != 200 || ran.Load() != 2 {
		t.Errorf("a new payment: %d", a.StatusCode)
	}
}

// Without anybody asking again, a start alone ends what a crash left.
func TestAStartEndsWhatACrashLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", hello)
	w.book.set(func(method string, _ purchase.Purchase) error {
		if method == "finish" {
			return errBook
		}
		return nil
	})
	w.do(w.paid(get("/x")))
	ended := make(chan purchase.State, 1)
	w.book.set(func(method string, p purchase.Purchase) error {
		if method == "finish" {
			ended <- p.State
		}
		return nil
	})
	w.open()
	select {
	case state := <-ended:
		if state != purchase.Void {
			t.Errorf("state %s", state)
		}
	case <-time.After(10 * time.Second):
		t.Error("nothing happened")
	}
}

func TestACrashBetweenReservationAndCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ran atomic.Int32
	w.handle("GET /x", "$0.0005", counting(&ran))
	paid := w.paid(get("/x"))
	w.book.set(func(method string, _ purchase.Purchase) error {
		if method == "run" {
			return errBook
		}
		return nil
	})
	if a := w.do(paid); a.StatusCode != 503 || a.code() != "book_unavailable" || ran.Load() != 0 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	w.book.set(nil)
	w.restart("$0.0005", counting(&ran))
	if a := w.do(paid); a.StatusCode != 200 || ran.Load() != 1 || w.house.owed() != money.Units(500) {
		t.Errorf("same payment: %d %s", a.StatusCode, a.body)
	}
}

func TestABookThatFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ran atomic.Int32
	w.handle("GET /x", "$0.0005", counting(&ran))
	paid := w.paid(get("/x"))
	w.book.set(func(string, purchase.Purchase) error { return errBook })
	if a := w.do(paid); a.StatusCode != 503 || a.code() != "book_unavailable" || strings.Contains(a.body, "fire") || ran.Load() != 0 || w.house.asked != 0 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	w.clock.advance(2 * time.Minute) // the quote is over, so the book is asked whether it knows the payment
	if a := w.do(paid); a.StatusCode != 503 || a.code() != "book_unavailable" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// Another process may be at work on the same book: what it runs is its own until it has taken too long.
func TestAnotherGatesPurchaseIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *paywall.Config) { c.Abandoned = time.Hour })
	started, release := make(chan struct{}), make(chan struct{})
	w.handle("GET /x", "$0.0005", func(rw http.ResponseWriter, r *http.Request) { close(started); <-release; hello(rw, r) })
	paid := w.paid(get("/x"))
	done := make(chan answer)
	go func() {
		a, err := w.try(paid)
		if err != nil {
			t.Error(err)
		}
		done <- a
	}()
	<-started
	other := w.open()
	if err := other.Recover(context.Background()); err != nil || w.book.only(t).State != purchase.Running {
		t.Errorf("%v, %s", err, w.book.only(t).State)
	}
	rec := &recorded{discard: discard{header: http.Header{}}}
	r, err := http.NewRequest("GET", w.server.URL+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header, r.RequestURI = paid.header, "/x"
	other.Price("$0.0005", http.HandlerFunc(hello)).ServeHTTP(rec, r)
	if rec.status != 409 {
		t.Errorf("at the other gate: %d", rec.status)
	}
	w.clock.advance(time.Hour + time.Second)
	if err := other.Recover(context.Background()); err != nil || w.book.only(t).State != purchase.Void {
		t.Errorf("%v, %s", err, w.book.only(t).State)
	}
	close(release)
	if a := <-done; a.StatusCode != 503 { // it was ended as not charged, so it is not served either
		t.Errorf("first gate: %d %s", a.StatusCode, a.body)
	}
}

func TestNotesAreBroughtAgainUntilTheyArrive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(500) })
	w.house.set(func() { w.house.note = refuse(x402.Errorf("house_unreachable", "away")) })
	w.do(w.paid(get("/x")))
	if err := w.pw.Close(context.Background()); !errors.Is(err, &x402.Error{Code: "house_unreachable"}) {
		t.Errorf("close: %v", err)
	}
	if p := w.book.only(t); p.ProofDone || p.State != purchase.Void {
		t.Errorf("purchase %+v", p)
	}
	w.house.set(func() { w.house.note = nil })
	w.pw = w.open()
	w.drain()
	if p := w.book.only(t); !p.ProofDone || !w.house.owed().IsZero() {
		t.Errorf("delivered %v, owed %s", p.ProofDone, w.house.owed())
	}
}

func TestANoteThatIsTooLateIsNotBroughtForEver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(500) })
	w.house.set(func() { w.house.note = refuse(x402.Errorf("note_too_late", "cutoff")) })
	w.do(w.paid(get("/x")))
	w.drain()
	if p := w.book.only(t); !p.ProofDone {
		t.Error("it is still to be delivered")
	}
}

// A payee's key that cannot sign now leaves the purchase open until it can: the whole amount is owed until then.
func TestASignerThatIsAway(t *testing.T) {
	t.Parallel()
	s := &awaySigner{}
	w := newWorld(t, func(c *paywall.Config) { s.Signer = c.Signer; c.Signer = s })
	w.handle("GET /x", "$0.00001 per token", func(_ http.ResponseWriter, r *http.Request) { paywall.Charge(r.Context(), 5) }, paywall.UpTo("$0.02"))
	paid := w.paid(get("/x"))
	s.away.Store(true)
	if a := w.do(paid); a.StatusCode != 200 || receiptOf(t, a).Amount != "50" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if p := w.book.only(t); p.State != purchase.Pending {
		t.Fatalf("state %s", p.State)
	}
	if a := w.do(paid); a.StatusCode != 503 || a.code() != "settlement_pending" {
		t.Errorf("again: %d %s", a.StatusCode, a.body)
	}
	s.away.Store(false)
	if err := w.pw.Recover(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.drain()
	if p := w.book.only(t); p.State != purchase.Committed || p.Charged != money.Units(50) || w.house.owed() != money.Units(50) {
		t.Errorf("%+v, owed %s", p, w.house.owed())
	}
	if a := w.do(paid); a.StatusCode != 200 || receiptOf(t, a).Amount != "50" {
		t.Errorf("when it is back: %d %s", a.StatusCode, a.body)
	}
}

func refuse(e *x402.Error) func(guarantee.SignedNote) error {
	return func(guarantee.SignedNote) error { return e }
}

type awaySigner struct {
	evm.Signer
	away atomic.Bool
}

func (s *awaySigner) Sign(ctx context.Context, digest evm.Hash) (evm.Signature, error) {
	if s.away.Load() {
		return evm.Signature{}, errors.New("the vault is locked")
	}
	return s.Signer.Sign(ctx, digest)
}
