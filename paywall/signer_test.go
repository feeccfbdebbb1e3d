package paywall_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
)

func broken(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "out of order", http.StatusServiceUnavailable)
}

// A gate that is paid at a cold address signs its notes with a key that the address has named. Without its naming nothing
// is sold: a buyer would be promised what nobody can keep.
func TestANamedKeySignsForAColdPayee(t *testing.T) {
	t.Parallel()
	cold := key(t).Address()
	w := newWorld(t, func(c *paywall.Config) { c.PayTo = cold.String() })
	w.handle("GET /x", "$0.0005", broken)
	paid := w.paid(get("/x"), func(d *draft) { d.claims.Payee = cold })
	if a := w.do(paid); a.StatusCode != 500 || a.code() != "config_invalid" || w.house.asked != 0 {
		t.Fatalf("nobody has named the key: %d %s", a.StatusCode, a.body)
	}
	if err := w.pw.Ready(context.Background()); err == nil {
		t.Error("ready with a key that nobody has named")
	}
	name := func(list ...client.Signer) {
		w.house.set(func() { w.house.signers = map[evm.Address][]client.Signer{cold: list} })
	}
	soon := uint64(w.clock.now().Add(time.Hour).Unix())
	name(client.Signer{Key: w.seller.Address(), Until: soon}, client.Signer{Key: key(t).Address()})
	if a := w.do(paid); a.code() != "config_invalid" {
		t.Errorf("the key ends before its note could be needed: %d %s", a.StatusCode, a.body)
	}
	name(client.Signer{Key: w.seller.Address()})
	if a := w.do(paid); a.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	w.drain()
	if owed := w.house.owed(); !owed.IsZero() {
		t.Errorf("%s is owed for work that failed", owed)
	}
}

// The payee removes its gate's key. What is sold already waits with its note until the key is named again; nothing more is
// sold.
func TestARemovedKeySellsNoMoreAndLosesNoNote(t *testing.T) {
	t.Parallel()
	cold := key(t).Address()
	w := newWorld(t, func(c *paywall.Config) { c.PayTo = cold.String() })
	w.handle("GET /x", "$0.0005", broken)
	signers := map[evm.Address][]client.Signer{cold: {{Key: w.seller.Address()}}}
	w.house.set(func() { w.house.signers = signers })
	first := w.paid(get("/x"), func(d *draft) { d.claims.Payee = cold })
	if err := w.pw.Ready(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.house.set(func() { w.house.signers = nil })
	if a := w.do(first); a.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if err := w.pw.Close(context.Background()); err == nil {
		t.Error("a note that the clearing house refuses was delivered")
	}
	p := w.book.only(t)
	if p.State != purchase.Void || p.ProofDone {
		t.Fatalf("%s, delivered %v", p.State, p.ProofDone)
	}
	w.clock.advance(2 * time.Minute)
	if a := w.do(w.paid(get("/x"), func(d *draft) { d.claims.Payee = cold })); a.code() != "config_invalid" {
		t.Errorf("sold with a key that is removed: %d %s", a.StatusCode, a.body)
	}
	w.house.set(func() { w.house.signers = signers })
	w.pw = w.open()
	w.drain()
	if owed := w.house.owed(); !owed.IsZero() {
		t.Errorf("%s is owed for work that failed", owed)
	}
}
