package paywall_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// sold sells once and lets the cycle of the sale pass.
func sold(t *testing.T, w *world) purchase.Purchase {
	t.Helper()
	w.handle("GET /x", "$0.0005", hello)
	if a := w.do(w.paid(get("/x"))); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	w.clock.advance(2 * time.Hour)
	return w.book.only(t)
}

// hourly are cycles of an hour, a minute for notes after each.
func hourly(w *world) []client.Schedule {
	now := uint64(w.clock.now().Unix())
	return []client.Schedule{{Asset: w.chain.Dollars()[0].Address, From: now - now%3600, Length: time.Hour, Cutoff: time.Minute}}
}

// Every place at which carrying out a late refund can be cut off. Whatever is asked again afterwards, the
// clearing house sees one request id with one content, and the refund is done once.
func TestALateRefundThatIsCutOff(t *testing.T) {
	t.Parallel()
	for _, place := range []string{"before the clearing house heard of it", "its answer is lost", "the end is not written down"} {
		w := newWorld(t)
		w.house.schedules = hourly(w)
		p := sold(t, w)
		var seen []guarantee.Signed
		w.house.set(func() {
			w.house.refund = func(s guarantee.Signed, _ []evm.Hash) error {
				seen = append(seen, s)
				if len(seen) == 1 && place != "the end is not written down" {
					return errors.New("no connection")
				}
				return nil
			}
		})
		failed := false
		w.book.set(func(method string, _ purchase.Purchase) error {
			if method == "finish refund" && place == "the end is not written down" && !failed {
				failed = true
				return errBook
			}
			return nil
		})
		r, err := w.pw.Refund(context.Background(), p.ID, paywall.Return{Reason: "sorry"})
		if err != nil || r.State != purchase.Queued || r.Kind != purchase.ByGuarantee {
			t.Fatalf("%s: %+v, %v", place, r, err)
		}
		w.pw = w.open() // another process goes on
		if r, err = w.pw.Refunding(context.Background(), p.ID); err != nil || r.State != purchase.Done {
			t.Fatalf("%s: %+v, %v", place, r, err)
		}
		id, _ := purchase.IDBytes(p.ID)
		w.house.set(func() {
			c, ok := w.house.refunded[guarantee.RefundID(id)]
			if !ok || len(w.house.refunded) != 1 || c.Payer != p.Payee || c.Payee != p.Payer || c.Amount != p.Charged || c.Asset != p.Asset {
				t.Errorf("%s: the clearing house has %+v", place, w.house.refunded)
			}
			for _, s := range seen {
				if s != seen[0] {
					t.Errorf("%s: signed twice without need", place)
				}
			}
		})
	}
}

// What a clearing house says about a late refund: some of it passes, some never does.
func TestALateRefundThatIsRefused(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]purchase.RefundState{
		"collateral_insufficient": purchase.Queued, "house_unreachable": purchase.Queued, "settlement_pending": purchase.Queued,
		"malformed_request": purchase.Failed,
	} {
		w := newWorld(t)
		w.house.schedules = hourly(w)
		p := sold(t, w)
		w.house.set(func() {
			w.house.refund = func(guarantee.Signed, []evm.Hash) error { return x402.Errorf(code, "no") }
		})
		if _, err := w.pw.Refund(context.Background(), p.ID, paywall.Return{}); err != nil {
			t.Fatal(err)
		}
		r, _, err := w.book.FindRefund(context.Background(), p.ID)
		if err != nil || r.State != want {
			t.Errorf("%s: %+v, %v", code, r, err)
		}
	}
	// A false certificate is none.
	w := newWorld(t)
	w.house.schedules = hourly(w)
	p := sold(t, w)
	other := w.house.deployment
	other.Vault[0] ^= 1
	w.house.set(func() {
		w.house.refund = func(guarantee.Signed, []evm.Hash) error { w.house.deployment = other; return nil }
	})
	if r, err := w.pw.Refund(context.Background(), p.ID, paywall.Return{}); err != nil || r.State != purchase.Queued {
		t.Errorf("certified for another vault: %+v, %v", r, err)
	}
}

// A seller whose key is only named for notes cannot promise anything for the payee: what is late is kept as credit.
func TestANamedKeyGivesNothingBackLate(t *testing.T) {
	t.Parallel()
	cold := key(t).Address()
	w := newWorld(t, func(c *paywall.Config) { c.PayTo = cold.String() })
	w.house.schedules = hourly(w)
	w.house.set(func() { w.house.signers = map[evm.Address][]client.Signer{cold: {{Key: w.seller.Address()}}} })
	w.handle("GET /x", "$0.0005", hello)
	if a := w.do(w.paid(get("/x"), func(d *draft) { d.claims.Payee = cold })); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	w.clock.advance(2 * time.Hour)
	p := w.book.only(t)
	if _, err := w.pw.Refund(context.Background(), p.ID, paywall.Return{}); !errors.Is(err, &x402.Error{Code: "refund_refused"}) {
		t.Errorf("%v", err)
	}
	if r, err := w.pw.Refund(context.Background(), p.ID, paywall.Return{Credit: true}); err != nil || r.State != purchase.Done || r.Amount != money.Units(500) {
		t.Errorf("%+v, %v", r, err)
	}
}
