package paywalltest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/paywall/paywalltest"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// till is a server whose present paywall the test can get at.
type till struct {
	*paywalltest.Server
	t  *testing.T
	pw *paywall.Paywall
}

// newTill sells what routes adds to a mux, by guarantee.
func newTill(t *testing.T, routes func(*paywall.Paywall, *http.ServeMux), opts ...paywalltest.Option) *till {
	t.Helper()
	s := &till{t: t}
	s.Server = paywalltest.NewServer(t, func(pw *paywall.Paywall) http.Handler {
		s.pw = pw
		mux := http.NewServeMux()
		routes(pw, mux)
		return mux
	}, opts...)
	return s
}

// buy returns the purchase that a request makes, whose answer must have this status.
func (s *till) buy(path string, status int) purchase.Purchase {
	s.t.Helper()
	resp, body := get(s.t, s.Server, path)
	bought, ok := payer.Receipt(resp)
	if resp.StatusCode != status || !ok {
		s.t.Fatalf("%s: %d %s", path, resp.StatusCode, body)
	}
	return s.purchase(bought.ID)
}

func (s *till) purchase(id string) purchase.Purchase {
	s.t.Helper()
	p, err := s.pw.Purchase(s.t.Context(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// payable is what the clearing house counts of a purchase.
func (s *till) payable(p purchase.Purchase) money.Amount {
	s.t.Helper()
	g, err := s.House.Guarantee(s.t.Context(), p.Payment)
	if err != nil {
		s.t.Fatal(err)
	}
	return g.Guarantee.Payable
}

// given is the guarantee by which the seller gives a purchase back, if the clearing house has one.
func (s *till) given(p purchase.Purchase) (clearing.Guarantee, bool) {
	s.t.Helper()
	id, ok := purchase.IDBytes(p.ID)
	if !ok {
		s.t.Fatalf("%s is no id", p.ID)
	}
	g, err := s.House.GuaranteeByKey(s.t.Context(), guarantee.Key{Payer: s.Seller, Payee: s.Buyer, Asset: s.Token.Address, ReqID: guarantee.RefundID(id)})
	if err != nil && !errors.Is(err, clearing.ErrNotFound) {
		s.t.Fatal(err)
	}
	return g.Guarantee, err == nil
}

// deliver brings the notes of what has ended to the clearing house, as the paywall does by itself.
func (s *till) deliver() {
	s.t.Helper()
	if err := s.pw.Deliver(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

const cycle = time.Hour

func plain(price string) func(*paywall.Paywall, *http.ServeMux) {
	return func(pw *paywall.Paywall, mux *http.ServeMux) {
		mux.Handle("/", pw.Price(price, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })))
	}
}

// A seller without collateral gives back what it sold in a cycle that is over, out of what it earns now. Asking twice gives
// back once, and the buyer is told.
func TestALateRefund(t *testing.T) {
	t.Parallel()
	s := newTill(t, plain("$0.5"))
	old := s.buy("/", 200)
	s.Advance(cycle + 2*time.Minute)

	// Nothing is earned yet: the refund waits, through a restart.
	r, err := s.pw.Refund(t.Context(), old.ID, paywall.Return{Reason: "sorry"})
	if err != nil || r.State != purchase.Queued || r.Kind != purchase.ByGuarantee {
		t.Fatalf("%+v, %v", r, err)
	}
	if g, there := s.given(old); there {
		t.Fatalf("given on credit: %+v", g)
	}
	s.Restart()
	if _, err := s.pw.Refunding(t.Context(), old.ID); err == nil || !strings.Contains(err.Error(), "collateral") {
		t.Errorf("without collateral and claims: %v", err)
	}

	// A sale in the open cycle backs it, ten minutes later: what was signed at first is too old by then.
	s.Advance(10 * time.Minute)
	claim := s.buy("/", 200)
	r, err = s.pw.Refunding(t.Context(), old.ID)
	if err != nil || r.State != purchase.Done || r.Amount != money.Units(500_000) {
		t.Fatalf("%+v, %v", r, err)
	}
	again, err := s.pw.Refund(t.Context(), old.ID, paywall.Return{})
	if err != nil || again.State != purchase.Done {
		t.Errorf("asked twice: %+v, %v", again, err)
	}
	g, there := s.given(old)
	if !there || g.Payable != r.Amount || g.Backed != r.Amount {
		t.Errorf("%+v", g)
	}
	if a := s.Account(s.Seller); !a.Exposure().IsZero() {
		t.Errorf("the seller's collateral is locked by %s", a.Exposure())
	}

	// What backs it can no longer be lowered, so the next refund waits for other earnings, although its cycle is open.
	next, err := s.pw.Refund(t.Context(), claim.ID, paywall.Return{})
	if err != nil || next.State != purchase.Queued {
		t.Errorf("the claim that backs a refund is given back: %+v, %v", next, err)
	}
	s.buy("/", 200)
	if next, err = s.pw.Refunding(t.Context(), claim.ID); err != nil || next.State != purchase.Done || next.Kind != purchase.ByGuarantee {
		t.Errorf("%+v, %v", next, err)
	}

	// The buyer asks again and gets the proof.
	resp, err := s.Payer.Resume(t.Context(), old.ID)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	told := tellsRefund(t, resp)
	if r, err := s.Payer.ReceiptOf(old.ID); err != nil || r.Returned == nil || *r.Returned != (payer.Returned{Kind: "guarantee", Amount: told.Amount, Done: true, Proven: true}) ||
		!strings.HasSuffix(r.String(), " · returned $0.50 by guarantee") {
		t.Errorf("the buyer's journal has %v, %v", r, err)
	}
	if told.Kind != "guarantee" || told.State != "done" || told.Amount != r.Amount || told.Proof.Guarantee.Claims != g.Signed.Claims {
		t.Errorf("the buyer is told %+v", told)
	}
	if settled := s.Settle(); settled.Collected != money.Units(500_000) { // three sales, two given back
		t.Errorf("settled %+v", settled)
	}
}

type toldRefund struct {
	Kind, State string
	Amount      money.Amount
	Proof       struct {
		Guarantee   guarantee.Signed
		Certificate guarantee.Certificate
	}
}

func tellsRefund(t *testing.T, resp *http.Response) (told toldRefund) {
	t.Helper()
	var r x402.SettleResponse
	if err := x402.DecodeHeader(resp.Header.Get(x402.HeaderResponse), &r); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(r.Extra["refund"], &told); err != nil {
		t.Fatalf("%s: %v", r.Extra["refund"], err)
	}
	return told
}

func jobs(pw *paywall.Paywall, mux *http.ServeMux) {
	accepted := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	mux.Handle("/render", pw.Price("$0.5", accepted, paywall.Job(3*cycle)))
	mux.Handle("/count", pw.Price("$0.01 per second", accepted, paywall.Job(3*cycle), paywall.UpTo("$0.5")))
	plain("$0.5")(pw, mux)
}

// A job that takes longer than its cycle: at the cutoff its guarantee is netted whole, and what it does not come to is
// given back by a guarantee the other way. The offer says so.
func TestAJobOutlivesItsCycle(t *testing.T) {
	t.Parallel()
	s := newTill(t, jobs, paywalltest.Config(func(c *paywall.Config) { c.LateRefunds = true }))
	whole, part, failed := s.buy("/render", 202), s.buy("/count", 202), s.buy("/render", 202)
	s.Advance(cycle + 2*time.Minute)
	s.buy("/", 200)
	s.buy("/", 200)
	for _, end := range []func() (purchase.Purchase, error){
		func() (purchase.Purchase, error) { return s.pw.Complete(t.Context(), whole.ID, 0) },
		func() (purchase.Purchase, error) { return s.pw.Complete(t.Context(), part.ID, 20) },
		func() (purchase.Purchase, error) { return s.pw.Cancel(t.Context(), failed.ID, "no_paper") },
	} {
		if _, err := end(); err != nil {
			t.Fatal(err)
		}
	}
	s.deliver()
	for _, c := range []struct {
		p                          purchase.Purchase
		state                      purchase.State
		charged, payable, givenTop uint64
	}{{whole, purchase.Committed, 500_000, 500_000, 0}, {part, purchase.Committed, 200_000, 500_000, 300_000}, {failed, purchase.Void, 0, 500_000, 500_000}} {
		p := s.purchase(c.p.ID)
		g, there := s.given(p)
		if p.State != c.state || p.Charged != money.Units(c.charged) || s.payable(p) != money.Units(c.payable) || there != (c.givenTop > 0) || g.Payable != money.Units(c.givenTop) {
			t.Errorf("%s is %s, charged %s; the house nets %s and %s back", p.URL, p.State, p.Charged, s.payable(p), g.Payable)
		}
	}
	if settled := s.Settle(); settled.Collected != money.Units(500_000+200_000+2*500_000) {
		t.Errorf("settled %+v", settled)
	}
}

// Nobody ends a job: when its time is over it follows the rule that its offer announced, also if the seller was away then.
func TestAForgottenJobIsLetGo(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		s := newTill(t, jobs, paywalltest.Config(func(c *paywall.Config) { c.LateRefunds = late }))
		p := s.buy("/render", 202)
		if wait := p.Due.Sub(s.Now()); late != (wait > cycle+time.Minute) {
			t.Errorf("late refunds %v: due in %s", late, wait)
		}
		s.Crash()
		s.Advance(p.Due.Sub(s.Now()))
		if !late { // just in time for a note
			s.Restart()
			s.recover()
			if got := s.payable(p); !got.IsZero() {
				t.Errorf("%s is still owed for a job that nobody ended", got)
			}
			continue
		}
		s.buy("/", 200)
		s.recover()
		if g, there := s.given(p); !there || g.Payable != p.Cap {
			t.Errorf("the job's guarantee was netted, and %s is given back", g.Payable)
		}
	}
}

// recover does what the paywall does by itself every few seconds.
func (s *till) recover() {
	s.t.Helper()
	if err := s.pw.Recover(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.deliver()
}

// What an offer promises about the time after the cutoff is what the seller can keep.
func TestLateRefundsAreAnnounced(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		s := newTill(t, func(pw *paywall.Paywall, mux *http.ServeMux) {
			mux.Handle("/", pw.Price("$0.5", http.NotFoundHandler(), paywall.Refund("full on failure within 24h")))
		}, paywalltest.Config(func(c *paywall.Config) { c.LateRefunds = late }))
		resp, err := http.Get(s.URL + "/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		var terms x402.PaymentRequired
		if err := x402.DecodeHeader(resp.Header.Get(x402.HeaderRequired), &terms); err != nil {
			t.Fatal(err)
		}
		offer := terms.Accepts[0]
		refund, uncaptured := offer.ExtraString("refund"), offer.ExtraString("uncaptured")
		if late != (refund == "full on failure within 24h") || late != strings.Contains(uncaptured, "guarantee of the seller's") {
			t.Errorf("late refunds %v: %q, %q", late, refund, uncaptured)
		}
	}
}

// Stages are captured one by one: a crash in the middle of the work, and the clearing house counts what was reached and
// no more.
func TestACrashBetweenStagesCapturesWhatWasReached(t *testing.T) {
	t.Parallel()
	var s *till
	s = newTill(t, func(pw *paywall.Paywall, mux *http.ServeMux) {
		mux.Handle("/", pw.Price("$0.5", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			paywall.Stage(r.Context(), "outline")
			paywall.Stage(r.Context(), "draft")
			if r.URL.Path == "/crash" {
				s.Crash()
			}
			fmt.Fprint(w, "draft")
		}), paywall.Stages("outline 20%", "draft 30%", "final 50%")))
	})
	p := s.buy("/", 200)
	s.deliver()
	if p.Charged != money.Units(250_000) || s.payable(p) != p.Charged {
		t.Errorf("charged %s, the house counts %s", p.Charged, s.payable(p))
	}
	if resp, err := s.Client.Get(s.URL + "/crash"); err == nil {
		resp.Body.Close()
	}
	s.recover()
	receipts, err := s.Payer.Receipts()
	if err != nil || len(receipts) != 2 {
		t.Fatalf("%d receipts, %v", len(receipts), err)
	}
	for _, r := range receipts {
		if p := s.purchase(r.ID); p.State != purchase.Committed || p.Charged != money.Units(250_000) || s.payable(p) != p.Charged {
			t.Errorf("%s is %s, charged %s, the house counts %s", r.ID, p.State, p.Charged, s.payable(p))
		}
	}
	if settled := s.Settle(); settled.Collected != money.Units(500_000) {
		t.Errorf("settled %+v", settled)
	}
}

// Credit pays for the next purchase by guarantee: the clearing house counts what is beyond it, and a purchase that fails
// gives it back.
func TestCreditPaysForGuarantees(t *testing.T) {
	t.Parallel()
	s := newTill(t, func(pw *paywall.Paywall, mux *http.ServeMux) {
		mux.Handle("/broken", pw.Price("$0.5", http.NotFoundHandler()))
		mux.Handle("/dear", pw.Price("$0.8", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
		plain("$0.5")(pw, mux)
	})
	first := s.buy("/", 200)
	s.Advance(cycle + 2*time.Minute) // and no note can lower it any more
	if r, err := s.pw.Refund(t.Context(), first.ID, paywall.Return{Credit: true}); err != nil || r.State != purchase.Done {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, c := range []struct {
		path          string
		status        int
		credit, owing uint64
	}{{"/broken", 404, 0, 0}, {"/dear", 200, 500_000, 300_000}, {"/", 200, 0, 500_000}} {
		p := s.buy(c.path, c.status)
		s.deliver()
		said, err := s.Payer.ReceiptOf(p.ID)
		if line := said.String(); err != nil || strings.Contains(line, "out of credit") != (c.credit > 0) || said.Credit != money.Units(c.credit) {
			t.Errorf("%s: the buyer reads %s (%v)", c.path, line, err)
		}
		if p = s.purchase(p.ID); p.Credit != money.Units(c.credit) || s.payable(p) != money.Units(c.owing) {
			t.Errorf("%s: %s out of credit, the house counts %s", c.path, p.Credit, s.payable(p))
		}
	}
}
