package payer

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// A bundle is paid once; after that nothing that could be spent leaves the process while a call is left.
func TestABundleIsPaidOnceAndDrawn(t *testing.T) {
	t.Parallel()
	s := (&till{calls: 5}).start(t)
	path := journalFile(t)
	p := s.payer(t, inFile(path))
	for i := range 5 {
		body, r, err := get(p, s.url+fmt.Sprint("/quote/", i)) // the seller names one route for all
		if err != nil || body != "sold by exact" {
			t.Fatalf("call %d: %q, %v", i, body, err)
		}
		if b := r.Bundle; b == nil || b.Left != uint64(4-i) || b.Total != 5 || b.Disputed || !b.Expires.Equal(noon.Add(24*time.Hour)) {
			t.Errorf("call %d: %+v", i, r.Bundle)
		}
		if want := fmt.Sprintf("%d of 5 calls left", 4-i); !strings.Contains(r.String(), want) || i > 0 && r.Way != "bundle" {
			t.Errorf("call %d: %s", i, r)
		}
		if today(t, p) != "$0.9975" {
			t.Errorf("call %d: %s left: the budget counts the purchase once", i, today(t, p))
		}
		p.Close()
		p = s.payer(t, inFile(path)) // its stock outlives a restart
	}
	if transfers, draws := s.signed(); transfers != 1 || draws != 4 {
		t.Errorf("%d transfers, %d draws", transfers, draws)
	}
	bought := s.payments[0]
	for i, got := range s.payments[1:] {
		d, err := purchase.ReadDraw(got.Payload)
		if err != nil || d.Bundle != bought.id {
			t.Fatalf("%s: %v", got.Payload, err)
		}
		o := got.offer
		terms := purchase.Terms{
			Purchase: got.id, Scheme: o.Scheme, Network: o.Network, Asset: evm.MustAddress(o.Asset), Payee: sellerKey.Address(), Amount: money.Units(2500),
			Method: "GET", Resource: s.url + fmt.Sprint("/quote/", i+1), Body: purchase.BodyDigest(nil),
		}.Hash()
		if err := d.Verify(31337, sellerKey.Address()); err != nil || d.Terms != terms || d.Payer != buyerKey.Address() {
			t.Errorf("draw %d: %v", i, err)
		}
	}
	// The sixth call buys another.
	if _, r, err := get(p, s.url+"/quote/6"); err != nil || r.Way != "exact" || r.Bundle.Left != 4 || today(t, p) != "$0.995" {
		t.Errorf("%+v, %v, %s left", r, err, today(t, p))
	}
}

// A hundred parallel calls buy one bundle, wait for it, and draw each call of it once.
func TestParallelCallsBuyOneBundle(t *testing.T) {
	t.Parallel()
	s := (&till{calls: 60}).start(t)
	p := s.payer(t, func(c *Config) { c.Budget.PerCall = "$0.05" })
	var failed atomic.Int64
	var wg sync.WaitGroup
	for range 60 {
		wg.Go(func() {
			if _, _, err := get(p, s.url); err != nil {
				failed.Add(1)
				t.Log(err)
			}
		})
	}
	wg.Wait()
	if transfers, draws := s.signed(); transfers != 1 || draws != 59 || failed.Load() != 0 || today(t, p) != "$0.97" {
		t.Errorf("%d transfers, %d draws, %d failed, %s left", transfers, draws, failed.Load(), today(t, p))
	}
}

// The budget has to cover the whole bundle, although a call of it is cheap.
func TestABudgetCoversTheWholeBundle(t *testing.T) {
	t.Parallel()
	s := (&till{calls: 100}).start(t)
	_, _, err := get(s.payer(t), s.url)
	if n := need(err); n == nil || n.Code != "budget_exceeded" || n.Asked.String() != "$0.05" || len(s.payments) != 0 {
		t.Errorf("%v", err)
	}
}

// A seller that says fewer calls are left than were drawn is found out, and is not paid again without its buyer's word.
func TestABundleThatIsDenied(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		lie  func(s *till)
		says string
	}{
		{"the count is too low", func(s *till) {
			s.receipt = func(r *x402.SettleResponse, got paid) {
				r.Extra["bundle"] = raw(map[string]any{"id": got.offerBundle(), "total": 5, "remaining": 0})
				s.left[got.offerBundle()] = 0
			}
		}, "4 of 5 calls"},
		{"there was none", func(s *till) {
			s.receipt = func(r *x402.SettleResponse, got paid) { r.Extra = nil; s.left[got.offerBundle()] = 0 }
		}, "4 of 5 calls"},
		{"it is over early", func(s *till) {
			s.receipt = func(r *x402.SettleResponse, got paid) {
				r.Extra["bundle"] = raw(map[string]any{"id": got.offerBundle(), "total": 5, "remaining": 4, "expires": noon.Add(-time.Hour)})
				s.left[got.offerBundle()] = 0
			}
		}, "4 of 5 calls"},
		{"it was smaller", func(s *till) {
			s.receipt = func(r *x402.SettleResponse, got paid) {
				r.Extra["bundle"] = raw(map[string]any{"id": got.offerBundle(), "total": 1, "remaining": 0})
				s.left[got.offerBundle()] = 0
			}
		}, "4 of 5 calls"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := &till{calls: 5}
			test.lie(s)
			s.start(t)
			yes := false
			p := s.payer(t, func(c *Config) {
				c.Ask = func(_ ctx, n Need) Decision {
					if yes && n.Code == "bundle_disputed" {
						return Proceed
					}
					return Stop
				}
			})
			if _, _, err := get(p, s.url); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				_, _, err := get(p, s.url)
				n := need(err)
				if n == nil || n.Code != "bundle_disputed" || !strings.Contains(n.Reason, test.says) || n.Ways[len(n.Ways)-1].Kind != Rebuy {
					t.Fatalf("%v", err)
				}
			}
			if transfers, _ := s.signed(); transfers != 1 || today(t, p) != "$0.9975" {
				t.Errorf("%d transfers, %s left", transfers, today(t, p))
			}
			yes = true
			if _, r, err := get(p, s.url); err != nil || r.Way != "exact" {
				t.Errorf("%+v, %v", r, err)
			}
			if transfers, _ := s.signed(); transfers != 2 || today(t, p) != "$0.995" {
				t.Errorf("%d transfers, %s left", transfers, today(t, p))
			}
		})
	}
}

// A seller that counts wrongly and serves all the same is drawn from, and the receipt says both counts.
func TestABundleThatIsCountedWrongly(t *testing.T) {
	t.Parallel()
	s := &till{calls: 5}
	s.receipt = func(r *x402.SettleResponse, got paid) {
		if got.draw.Bundle != "" {
			r.Extra["bundle"] = raw(map[string]any{"id": got.draw.Bundle, "total": 5, "remaining": 1})
		}
	}
	s.start(t)
	p := s.payer(t)
	for i := range 5 {
		_, r, err := get(p, s.url)
		if err != nil || r.Bundle.Left != uint64(4-i) || r.Bundle.Disputed != (i == 1 || i == 2) {
			t.Errorf("call %d: %+v, %v", i, r.Bundle, err)
		}
		if i == 1 && !strings.Contains(r.String(), "3 of 5 calls left (the seller says 1)") {
			t.Errorf("%s", r)
		}
	}
}

// A draw whose answer is lost is asked for again with the same signature and counts once; one that was not served comes
// back to the stock.
func TestDrawsThatAreLostOrFail(t *testing.T) {
	t.Parallel()
	s := &till{calls: 5}
	fate := ""
	s.answer = func(w writer, _ *request, got paid) bool {
		if got.draw.Bundle == "" || fate == "" || got.try > 0 {
			return false
		}
		if fate == "lost" {
			hangUp(t, w)
			return true
		}
		text, _ := x402.EncodeHeader(x402.SettleResponse{ErrorReason: "handler_failed", Amount: "0"})
		w.Header().Set(x402.HeaderResponse, text)
		w.WriteHeader(500)
		return true
	}
	s.start(t)
	p := s.payer(t)
	left := func() uint64 {
		t.Helper()
		for _, h := range p.journal.bundles {
			return h.left()
		}
		return 0
	}
	if _, _, err := get(p, s.url); err != nil || left() != 4 {
		t.Fatal(err)
	}
	fate = "lost"
	if _, r, err := get(p, s.url); err != nil || left() != 3 || r.Bundle.Left != 3 || s.left[s.payments[0].id] != 3 {
		t.Errorf("%v, %d left", err, left())
	}
	fate = "fails"
	resp, err := (&http.Client{Transport: p}).Get(s.url)
	if err != nil || resp.StatusCode != 500 || left() != 3 {
		t.Errorf("%v, %d left", err, left())
	}
	resp.Body.Close()
	fate = ""
	if _, r, err := get(p, s.url); err != nil || r.Bundle.Left != 2 || r.Bundle.Disputed {
		t.Errorf("%+v, %v", r.Bundle, err)
	}
	if transfers, draws := s.signed(); transfers != 1 || draws != 3 {
		t.Errorf("%d transfers, %d draws", transfers, draws)
	}
}

// While it is not known whether a bundle was bought, no second one is.
func TestABundleThatIsNotConfirmed(t *testing.T) {
	t.Parallel()
	s := &till{calls: 5}
	var lost atomic.Bool
	lost.Store(true)
	s.answer = func(w writer, _ *request, got paid) bool {
		hanging := lost.Load() // read once: the payer goes on as soon as it is hung up on
		if hanging {
			hangUp(t, w)
		}
		return hanging
	}
	s.start(t)
	p := s.payer(t, inFile(journalFile(t)))
	_, _, err := get(p, s.url)
	first := pendingOf(err)
	_, _, err = get(p, s.url)
	second := pendingOf(err)
	if first == nil || second == nil || first.Purchase != second.Purchase || !errors.As(second, new(*beingBought)) {
		t.Fatalf("%v; %v", first, second)
	}
	if transfers, _ := s.signed(); transfers != 1 {
		t.Errorf("%d transfers", transfers)
	}
	lost.Store(false)
	resp, err := p.Resume(t.Context(), first.Purchase)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if _, r, err := get(p, s.url); err != nil || r.Way != "bundle" || r.Bundle.Left != 3 {
		t.Errorf("%+v, %v", r, err)
	}
}

// Without the seller's name of its route a bundle is for one method and path.
func TestABundleOfAnUnnamedRoute(t *testing.T) {
	t.Parallel()
	s := &till{calls: 5}
	s.offers = func(list []x402.Requirements) []x402.Requirements {
		list[0].Extra["bundle"] = raw(map[string]any{"calls": 5, "valid": "1h"})
		return list
	}
	s.start(t)
	p := s.payer(t)
	for _, path := range []string{"/a", "/a?x=1", "/b", "/a"} {
		if _, _, err := get(p, s.url+path); err != nil {
			t.Fatal(err)
		}
	}
	if resp, err := post(p, s.url+"/a", "x"); err != nil || resp.StatusCode != 200 {
		t.Fatal(err)
	}
	if transfers, draws := s.signed(); transfers != 3 || draws != 2 {
		t.Errorf("%d transfers, %d draws", transfers, draws)
	}
}

// What ends is not drawn from in its last moments, when the seller's clock may say that it is over.
func TestABundleEnds(t *testing.T) {
	t.Parallel()
	now := noon
	s := (&till{calls: 5}).start(t)
	s.chain.now = func() time.Time { return now }
	p := s.payer(t, func(c *Config) { c.Now = func() time.Time { return now } })
	for _, step := range []struct {
		after     time.Duration
		transfers int
	}{{0, 1}, {24*time.Hour - bundleSlack - time.Second, 1}, {24*time.Hour - bundleSlack, 2}} {
		now = noon.Add(step.after)
		if _, _, err := get(p, s.url); err != nil {
			t.Fatal(err)
		}
		if transfers, _ := s.signed(); transfers != step.transfers {
			t.Errorf("after %s: %d transfers", step.after, transfers)
		}
	}
}

// Units that only the seller measures are drawn while it says that some are left.
func TestABundleOfUnits(t *testing.T) {
	t.Parallel()
	left := uint64(1000)
	s := &till{calls: 1000}
	s.offers = func(list []x402.Requirements) []x402.Requirements {
		list[0].Amount, list[0].Extra["bundle"] = "2500", raw(map[string]any{"units": 1000, "unit": "tokens", "valid": "1h", "route": "POST /generate"})
		return list
	}
	s.receipt = func(r *x402.SettleResponse, got paid) {
		left -= 400
		r.Extra = map[string]rawJSON{"bundle": raw(map[string]any{"id": got.offerBundle(), "total": 1000, "remaining": left})}
	}
	s.start(t)
	p := s.payer(t)
	for i, want := range []string{"600 of 1000 tokens left", "200 of 1000 tokens left"} {
		if _, r, err := get(p, s.url); err != nil || !strings.Contains(r.String(), want) {
			t.Errorf("call %d: %s, %v", i, r, err)
		}
	}
	if transfers, draws := s.signed(); transfers != 1 || draws != 1 {
		t.Errorf("%d transfers, %d draws", transfers, draws)
	}
}

// offerBundle is the bundle that a payment bought or draws from.
func (p paid) offerBundle() string {
	if p.draw.Bundle != "" {
		return p.draw.Bundle
	}
	return p.id
}
