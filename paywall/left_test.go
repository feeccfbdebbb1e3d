package paywall_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// leave has a call paid whose outcome cannot be written down, and starts another gate over the book, as after a crash.
func (m *market) leave(paid call) {
	m.t.Helper()
	m.book.set(func(method string, _ purchase.Purchase) error {
		if method == "finish" {
			return errors.New("no space left on device")
		}
		return nil
	})
	if a := m.do(paid); a.StatusCode != 503 || a.Header.Get(x402.HeaderResponse) != "" {
		m.t.Fatalf("%d %s, receipt %s", a.StatusCode, a.body, a.Header.Get(x402.HeaderResponse))
	}
	m.drain()
	m.book.set(nil)
	m.pw = m.open()
}

// What was charged and never answered still has its receipt: it is all that its buyer can show.
func TestAChargeWithoutAnAnswerHasItsReceipt(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	m.handle("GET /x", "$0.0005", hello, paywall.ChargeRule("before work"))
	paid := m.buy(get("/x"), "exact")
	m.leave(paid)
	if err := m.pw.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := m.do(paid)
	if r := receiptOf(t, a); a.StatusCode != 409 || a.code() != "payment_used" || !r.Success || r.Amount != "500" || r.Transaction == "" {
		t.Errorf("%d %s %+v", a.StatusCode, a.body, r)
	}
}

// Work whose outcome could not be written down is not charged, and nobody was told that it is.
func TestWorkThatIsNotWrittenDownHasNoReceipt(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	m.handle("GET /x", "$0.0005", hello)
	paid := m.buy(get("/x"), "exact")
	m.leave(paid)
	if a := m.do(paid); a.StatusCode != 402 || a.code() != "payment_void" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	m.bank.expect(t, 0, 0)
}

// Stages that were reached are charged as announced, whatever comes after them, also if it takes a while to find out that
// they are paid: that work has no answer does not give them back.
func TestStagesThatArePaidLateAreNotGivenBack(t *testing.T) {
	t.Parallel()
	cashier := &till{paid: make(map[string]money.Amount)}
	m := newMarket(t, func(c *paywall.Config) { c.Accept, c.Cashier = []string{"upto"}, cashier })
	m.handle("GET /x", "$0.05", func(w http.ResponseWriter, r *http.Request) {
		paywall.Stage(r.Context(), "outline")
		w.WriteHeader(500)
	}, paywall.Stages("outline 20%", "final 80%"))
	paid := m.buy(get("/x"), "upto")
	m.bank.set(func() {
		m.bank.settle = func(_ exact.Authorization, _ money.Amount, move func() x402.SettleResponse) (x402.SettleResponse, error) {
			move()
			return x402.SettleResponse{}, errors.New("connection reset")
		}
	})
	m.leave(paid)
	if err := m.pw.Recover(t.Context()); err == nil {
		t.Error("it was found out from nowhere")
	}
	m.bank.set(func() { m.bank.settle = nil })
	if err := m.pw.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	if p := m.book.only(t); p.State != purchase.Committed || p.Charged != money.Units(10000) || p.Outcome != "interrupted" {
		t.Errorf("%+v", p)
	}
	if len(cashier.paid) != 0 {
		t.Errorf("given back: %v", cashier.paid)
	}
	m.bank.expect(t, 10000, 1)
}

// Work that fails and would have been paid out of credit costs nothing, and its receipt says so.
func TestAReceiptOfWorkThatFailedWithCredit(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	status := 200
	m.handle("GET /x", "$0.0005", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	first := receiptOf(t, m.do(m.buy(get("/x"), "exact"))).Purchase
	if _, err := m.pw.Refund(t.Context(), first, paywall.Return{Credit: true}); err != nil {
		t.Fatal(err)
	}
	status = 500
	if r := receiptOf(t, m.do(m.buy(get("/x"), "exact"))); r.Success || r.Amount != "0" {
		t.Errorf("%+v", r)
	}
	status = 200
	if r := receiptOf(t, m.do(m.buy(get("/x"), "exact"))); !r.Success || r.Amount != "0" || r.Transaction != "" {
		t.Errorf("the credit is gone: %+v", r)
	}
	m.bank.expect(t, 500, 1)
}

// Work that a crash has left, and whose stages are paid out of credit: nothing is to be settled, and nobody is asked to.
func TestStagesThatCreditPays(t *testing.T) {
	t.Parallel()
	m := newMarket(t, func(c *paywall.Config) { c.Accept = []string{"upto"} })
	m.handle("GET /x", "$0.05", func(w http.ResponseWriter, r *http.Request) {
		paywall.Stage(r.Context(), "outline")
	}, paywall.Stages("outline 20%", "final 80%"))
	m.handle("GET /all", "$0.05", hello, paywall.ChargeRule("after success"))
	first := receiptOf(t, m.do(m.buy(get("/all"), "upto"))).Purchase
	if _, err := m.pw.Refund(t.Context(), first, paywall.Return{Credit: true}); err != nil {
		t.Fatal(err)
	}
	m.leave(m.buy(get("/x"), "upto"))
	if err := m.pw.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, _, err := m.book.FindID(t.Context(), m.lastEvent().Purchase)
	if err != nil || p.State != purchase.Committed || p.Charged != money.Units(10000) || p.Credit != money.Units(10000) {
		t.Errorf("%+v, %v", p, err)
	}
	left, err := m.book.Credit(t.Context(), p.Payer, p.Payee, p.Network, p.Asset)
	if err != nil || left != money.Units(40000) {
		t.Errorf("%s of the credit is left, %v", left, err)
	}
	m.bank.expect(t, 50000, 1)
}
