package paywall_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

type stock struct {
	ID                      string
	Total, Remaining, Drawn uint64
	Expires                 int64
}

func stockOf(t *testing.T, a answer) stock {
	t.Helper()
	var s stock
	if err := json.Unmarshal(receiptOf(t, a).Extra["bundle"], &s); err != nil {
		t.Fatalf("status %d: receipt without a bundle: %v: %s", a.StatusCode, err, a.body)
	}
	return s
}

// draws returns the call with a draw from a bundle, as a payer of our own makes it.
func (m *market) draws(c call, bundle string, alter ...func(*purchase.Draw)) call {
	m.t.Helper()
	required := m.terms(c)
	r, id := offerOf(m.t, required, "exact"), purchase.NewID(rand.Reader)
	d, err := purchase.SignDraw(m.t.Context(), m.payer, 84532, m.seller.Address(), bundle, m.termsOf(c, r, required, id).Hash(), m.clock.now())
	if err != nil {
		m.t.Fatal(err)
	}
	for _, f := range alter {
		f(&d)
	}
	p, err := x402.NewPayment(required, r, d)
	if err != nil {
		m.t.Fatal(err)
	}
	p.Extensions = map[string]json.RawMessage{purchase.ExtensionKey: json.RawMessage(fmt.Sprintf(`{"purchase":%q}`, id))}
	name, value, err := p.Header()
	if err != nil {
		m.t.Fatal(err)
	}
	return c.with(name, value)
}

func TestAStockClientBuysABundleOnce(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	var ran atomic.Int32
	m.handle("GET /x", "$0.0005", counting(&ran), paywall.Bundle("100 calls", 24*time.Hour))
	if r := m.terms(get("/x")).Accepts[0]; r.Amount != "50000" || r.ExtraString("price") != "$0.0005, 100 calls at once, valid 24h0m0s" {
		t.Fatalf("offer %+v", r)
	}
	for i := range uint64(100) {
		a := m.do(m.buy(get("/x"), "exact"))
		r, s := receiptOf(t, a), stockOf(t, a)
		charged := "0"
		if i == 0 {
			charged = "50000"
		}
		if a.StatusCode != 200 || !r.Success || r.Amount != charged || (r.Transaction == "") != (i > 0) || s.Total != 100 || s.Remaining != 99-i {
			t.Fatalf("call %d: %d %+v %+v", i, a.StatusCode, r, s)
		}
	}
	m.bank.expect(t, 50000, 1)
	if s := stockOf(t, m.do(m.buy(get("/x"), "exact"))); s.Remaining != 99 {
		t.Errorf("the next bundle: %+v", s)
	}
	m.bank.expect(t, 100000, 2)
	if ran.Load() != 101 {
		t.Errorf("ran %d times", ran.Load())
	}
}

func TestRequestsAtOnceBuyOneBundle(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	var ran atomic.Int32
	m.handle("GET /x", "$0.0005", counting(&ran), paywall.Bundle("50 calls", time.Hour))
	var wg sync.WaitGroup
	var bad atomic.Int32
	for range 50 {
		c := m.buy(get("/x"), "exact")
		wg.Go(func() {
			if a, err := m.try(c); err != nil || a.StatusCode != 200 {
				bad.Add(1)
			}
		})
	}
	wg.Wait()
	if bad.Load() != 0 || ran.Load() != 50 {
		t.Errorf("%d were not served, ran %d times", bad.Load(), ran.Load())
	}
	m.bank.expect(t, 25000, 1)
}

func TestADrawIsSignedForItsRequestAndCountsOnce(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	var ran atomic.Int32
	m.handle("GET /x", "$0.0005", counting(&ran), paywall.Bundle("3 calls", time.Hour))
	m.handle("GET /y", "$0.0005", hello, paywall.Bundle("3 calls", time.Hour))
	bundle := stockOf(t, m.do(m.buy(get("/x"), "exact"))).ID
	draw := m.draws(get("/x"), bundle)
	for range 3 {
		if a := m.do(draw); a.StatusCode != 200 || stockOf(t, a).Remaining != 1 || receiptOf(t, a).Amount != "0" {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
	}
	other := key(t)
	for name, c := range map[string]struct {
		code string
		call call
	}{
		"that was used already":   {"payment_used", call{method: "GET", path: "/x?more=1", header: draw.header}},
		"for another request":     {"payment_mismatch", call{method: "GET", path: "/x?more=1", header: m.draws(get("/x"), bundle).header}},
		"on another route":        {"payment_mismatch", call{method: "GET", path: "/y", header: m.draws(get("/x"), bundle).header}},
		"by somebody else":        {"payer_signature_invalid", m.draws(get("/x"), bundle, func(d *purchase.Draw) { d.Payer = other.Address() })},
		"that is too old":         {"timestamp_skew", m.draws(get("/x"), bundle, func(d *purchase.Draw) { d.Timestamp -= 301 })},
		"from nobody's bundle":    {"bundle_exhausted", m.draws(get("/x"), purchase.NewID(rand.Reader))},
		"from one of other calls": {"bundle_exhausted", m.draws(get("/y"), bundle)},
	} {
		if a := m.do(c.call); a.StatusCode < 400 || a.code() != c.code {
			t.Errorf("a draw %s: %d %s, want %s", name, a.StatusCode, a.body, c.code)
		}
	}
	if a := m.do(m.draws(get("/x"), bundle)); a.StatusCode != 200 || stockOf(t, a).Remaining != 0 {
		t.Errorf("the last one: %d %s", a.StatusCode, a.body)
	}
	if a := m.do(m.draws(get("/x"), bundle)); a.StatusCode != 402 || a.code() != "bundle_exhausted" {
		t.Errorf("one too many: %d %s", a.StatusCode, a.body)
	}
	if ran.Load() != 3 {
		t.Errorf("ran %d times", ran.Load())
	}
	m.bank.expect(t, 1500, 1)
}

func TestAFailedCallGoesBackIntoItsBundle(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	var fail atomic.Bool
	m.handle("GET /x", "$0.0005", func(w http.ResponseWriter, r *http.Request) {
		if fail.Load() {
			w.WriteHeader(502)
			return
		}
		hello(w, r)
	}, paywall.Bundle("10 calls", time.Hour))
	fail.Store(true)
	a := m.do(m.buy(get("/x"), "exact"))
	if s := stockOf(t, a); a.StatusCode != 502 || s.Remaining != 10 || s.Drawn != 0 {
		t.Errorf("the call that buys: %d %+v", a.StatusCode, s)
	}
	for range 3 {
		if s := stockOf(t, m.do(m.buy(get("/x"), "exact"))); s.Remaining != 10 {
			t.Errorf("a later call: %+v", s)
		}
	}
	fail.Store(false)
	if s := stockOf(t, m.do(m.buy(get("/x"), "exact"))); s.Remaining != 9 {
		t.Errorf("one that succeeds: %+v", s)
	}
	m.bank.expect(t, 5000, 1)
}

func TestABundleEnds(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	m.handle("GET /x", "$0.0005", hello, paywall.Bundle("10 calls", time.Hour))
	first := stockOf(t, m.do(m.buy(get("/x"), "exact")))
	m.clock.advance(time.Hour + time.Second)
	if a := m.do(m.draws(get("/x"), first.ID)); a.code() != "bundle_exhausted" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if s := stockOf(t, m.do(m.buy(get("/x"), "exact"))); s.ID == first.ID || s.Remaining != 9 {
		t.Errorf("%+v", s)
	}
	m.bank.expect(t, 10000, 2)
}

func TestABundleThatIsNotPaidIsNone(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	m.handle("GET /x", "$0.0005", hello, paywall.Bundle("10 calls", time.Hour))
	m.bank.set(func() { m.bank.holds[m.payer.Address()] = money.Units(4999) })
	for range 2 {
		if a := m.do(m.buy(get("/x"), "exact")); a.StatusCode != 402 || a.code() != "insufficient_funds" {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	}
	m.bank.set(func() { m.bank.holds[m.payer.Address()] = money.Units(5000) })
	if s := stockOf(t, m.do(m.buy(get("/x"), "exact"))); s.Remaining != 9 {
		t.Errorf("%+v", s)
	}
	m.bank.expect(t, 5000, 1)
}

func TestABundleOfUnitsIsDrawnByWhatWasUsed(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	used := 30
	m.handle("GET /x", "$0.00001 per token", func(w http.ResponseWriter, r *http.Request) {
		paywall.Charge(r.Context(), used)
		hello(w, r)
	}, paywall.UpTo("$0.001"), paywall.Bundle("1000 tokens", time.Hour))
	if r := m.terms(get("/x")).Accepts[0]; r.Amount != "10000" {
		t.Fatalf("offer %+v", r)
	}
	if s := stockOf(t, m.do(m.buy(get("/x"), "exact"))); s.Remaining != 970 || s.Drawn != 30 {
		t.Errorf("%+v", s)
	}
	used = 500 // past what a request may use
	if s := stockOf(t, m.do(m.buy(get("/x"), "exact"))); s.Remaining != 870 || s.Drawn != 100 {
		t.Errorf("%+v", s)
	}
	m.bank.expect(t, 10000, 1)
}

// A transfer that only proved who asks is no transfer any more: nothing that could be brought to a chain is kept.
func TestASignatureThatOnlyProvesWhoAsksIsForgotten(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	m.handle("GET /x", "$0.0005", hello, paywall.Bundle("10 calls", time.Hour))
	m.do(m.buy(get("/x"), "exact"))
	m.do(m.buy(get("/x"), "exact"))
	p, ok, err := m.book.FindID(context.Background(), m.lastEvent().Purchase)
	if err != nil || !ok || p.State != purchase.Committed || len(p.Certificate) != 0 {
		t.Errorf("%v %v %+v", ok, err, p)
	}
}

func TestAnAcceptedJobIsChargedLater(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	accept := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }
	m.handle("POST /x", "$0.0005", accept, paywall.Job(time.Hour))
	job := func() (call, string) {
		c := m.buy(call{method: "POST", path: "/x"}, "exact")
		a := m.do(c)
		if r := receiptOf(t, a); a.StatusCode != 202 || !r.Success || r.Amount != "" || r.Transaction != "" {
			t.Fatalf("%d %+v", a.StatusCode, r)
		}
		return c, receiptOf(t, a).Purchase
	}
	done, doneID := job()
	if a := m.do(done); a.StatusCode != 202 {
		t.Errorf("asked again: %d", a.StatusCode)
	}
	m.pw = m.open() // as after a restart
	if err := m.pw.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	m.bank.expect(t, 0, 0)
	for range 2 {
		p, err := m.pw.Complete(t.Context(), doneID, 0)
		if e, ok := x402.AsError(err); ok && e.Code == "job_closed" {
			break
		}
		if err != nil || p.State != purchase.Committed || p.Transaction.IsZero() {
			t.Fatalf("%v %+v", err, p)
		}
	}
	m.bank.expect(t, 500, 1)
	if r := receiptOf(t, m.do(done)); r.Amount != "500" {
		t.Errorf("its receipt: %+v", r)
	}
	_, failedID := job()
	if p, err := m.pw.Cancel(t.Context(), failedID, "no_paper"); err != nil || p.State != purchase.Void {
		t.Errorf("%v %+v", err, p)
	}
	_, forgottenID := job()
	m.clock.advance(time.Hour)
	if err := m.pw.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	if p, _, _ := m.book.FindID(t.Context(), forgottenID); p.State != purchase.Void || p.Outcome != "job_overdue" {
		t.Errorf("%+v", p)
	}
	m.bank.expect(t, 500, 1)
}

func TestStagesAreChargedAsTheyAreReached(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		reached []string
		status  int
		want    uint64
	}{
		"none named, and it succeeds":  {nil, 200, 50000},
		"the first, and then it fails": {[]string{"outline"}, 500, 10000},
		"two, and then it fails":       {[]string{"outline", "draft"}, 500, 25000},
		"only a later one":             {[]string{"draft"}, 500, 25000},
		"all":                          {[]string{"outline", "draft", "final"}, 200, 50000},
		"none, and it fails":           {nil, 500, 0},
		"one that is not sold":         {[]string{"epilogue"}, 200, 0},
	} {
		for _, way := range []string{"guarantee", "upto"} {
			t.Run(name+", by "+way, func(t *testing.T) {
				t.Parallel()
				house := newWorld(t)
				m := newMarket(t, func(cfg *paywall.Config) { cfg.Accept, cfg.House = []string{way}, house.house })
				h := func(w http.ResponseWriter, r *http.Request) {
					for _, s := range c.reached {
						paywall.Stage(r.Context(), s)
					}
					w.WriteHeader(c.status)
				}
				m.mux.Handle("GET /x", m.pw.Price("$0.05", http.HandlerFunc(h), paywall.Stages("outline 20%", "draft 30%", "final 50%")))
				if err := m.pw.Check(); err != nil {
					t.Fatal(err)
				}
				if way == "upto" {
					m.do(m.buy(get("/x"), "upto"))
					m.bank.expect(t, c.want, min(1, int(c.want)))
					return
				}
				m.world.house = house.house
				m.do(m.paid(get("/x")))
				if p := m.book.only(t); p.Charged != money.Units(c.want) {
					t.Errorf("charged %s, want %d: %+v", p.Charged, c.want, p)
				}
			})
		}
	}
}

func TestStagesThatCannotBe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		accept []string
		parts  []string
	}{
		"not all of it":        {[]string{"upto"}, []string{"a 20%", "b 70%"}},
		"more than all":        {[]string{"upto"}, []string{"a 50%", "b 60%"}},
		"one":                  {[]string{"upto"}, []string{"a 100%"}},
		"twice the same":       {[]string{"upto"}, []string{"a 50%", "a 50%"}},
		"without a share":      {[]string{"upto"}, []string{"a", "b 100%"}},
		"by a whole transfer":  {[]string{"exact"}, []string{"a 50%", "b 50%"}},
		"with a comma in them": {[]string{"upto"}, []string{"a,b 50%", "c 50%"}},
	} {
		m := newMarket(t, func(cfg *paywall.Config) { cfg.Accept = c.accept })
		m.pw.Price("$0.05", http.HandlerFunc(hello), paywall.Stages(c.parts...))
		if m.pw.Check() == nil {
			t.Errorf("%s: not refused", name)
		}
	}
}

// till is a [paywall.Cashier] that pays at once, unless it is told otherwise.
type till struct {
	mu   sync.Mutex
	paid map[string]money.Amount // guarded by mu
	fail error                   // guarded by mu
}

func (c *till) Pay(_ context.Context, id, _ string, _, _ evm.Address, amount money.Amount) (evm.Hash, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return evm.Hash{}, false, c.fail
	}
	c.paid[id] = amount
	return evm.Keccak256([]byte(id)), true, nil
}

func TestEveryWayToPayHasItsRefund(t *testing.T) {
	t.Parallel()
	cashier := &till{paid: make(map[string]money.Amount)}
	house := newWorld(t)
	m := newMarket(t, func(c *paywall.Config) {
		c.Accept, c.House, c.Cashier = []string{"guarantee", "exact"}, house.house, cashier
	})
	m.handle("GET /x", "$0.0005", hello)
	m.handle("GET /b", "$0.0005", hello, paywall.Bundle("10 calls", time.Hour))
	refund := func(id string, how paywall.Return) purchase.Refund {
		t.Helper()
		r, err := m.pw.Refund(t.Context(), id, how)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	exactID := receiptOf(t, m.do(m.buy(get("/x"), "exact"))).Purchase
	for range 2 {
		if r := refund(exactID, paywall.Return{Reason: "late"}); r.Kind != purchase.ByTransfer || r.State != purchase.Done || r.Transaction.IsZero() {
			t.Errorf("exact: %+v", r)
		}
	}
	if len(cashier.paid) != 1 || cashier.paid["refund:"+exactID] != money.Units(500) {
		t.Errorf("paid back %v", cashier.paid)
	}
	if _, err := m.pw.Refund(t.Context(), exactID, paywall.Return{Amount: money.Units(100)}); err == nil {
		t.Error("a second, other refund was given")
	}

	m.world.house = house.house
	m.do(m.paid(get("/x")))
	owed := house.house.owed()
	if r := refund(m.lastEvent().Purchase, paywall.Return{}); r.Kind != purchase.ByNote || r.State != purchase.Done {
		t.Errorf("guarantee: %+v", r)
	}
	if owed != money.Units(500) || !house.house.owed().IsZero() {
		t.Errorf("owed %s, then %s", owed, house.house.owed())
	}

	// A note lowers what was promised, and credit was not: what is refunded of both must not be asked of the promise alone.
	if r := refund(receiptOf(t, m.do(m.buy(get("/x"), "exact"))).Purchase, paywall.Return{Amount: money.Units(200), Credit: true}); r.Kind != purchase.ByCredit {
		t.Errorf("credit: %+v", r)
	}
	lowered := make(chan struct{}, 9)
	house.house.set(func() { house.house.note = func(guarantee.SignedNote) error { lowered <- struct{}{}; return nil } })
	m.do(m.paid(get("/x")))
	mixed := m.lastEvent().Purchase
	<-lowered
	owed = house.house.owed()
	if r, err := m.pw.Refund(t.Context(), mixed, paywall.Return{}); err == nil {
		t.Errorf("paid with 200 of credit, and refunded by a note: %+v", r)
	}
	if r := refund(mixed, paywall.Return{Amount: money.Units(100)}); r.Kind != purchase.ByNote || r.State != purchase.Done {
		t.Errorf("a part: %+v", r)
	}
	if owed != money.Units(300) || house.house.owed() != money.Units(200) {
		t.Errorf("owed %s, then %s", owed, house.house.owed())
	}

	bought := stockOf(t, m.do(m.buy(get("/b"), "exact"))).ID
	m.do(m.buy(get("/b"), "exact"))
	if r := refund(m.lastEvent().Purchase, paywall.Return{}); r.Kind != purchase.ByCalls || r.Calls != 1 {
		t.Errorf("a call: %+v", r)
	}
	if r := refund(bought, paywall.Return{}); r.Amount != money.Units(4500) || r.Calls != 9 {
		t.Errorf("what is left of a bundle: %+v", r)
	}
	if s := stockOf(t, m.do(m.buy(get("/b"), "exact"))); s.ID == bought {
		t.Errorf("a bundle that was paid back is drawn from: %+v", s)
	}

	credited := receiptOf(t, m.do(m.buy(get("/x"), "exact"))).Purchase
	if r := refund(credited, paywall.Return{Credit: true}); r.Kind != purchase.ByCredit || r.State != purchase.Done {
		t.Errorf("credit: %+v", r)
	}
	_, before := m.bank.took()
	a := m.do(m.buy(get("/x"), "exact"))
	if r := receiptOf(t, a); a.StatusCode != 200 || !r.Success || r.Amount != "0" || r.Transaction != "" {
		t.Errorf("the next purchase: %d %+v", a.StatusCode, r)
	}
	if _, after := m.bank.took(); after != before {
		t.Error("it was paid although there was credit for it")
	}
	if a := m.do(m.buy(get("/x"), "exact")); receiptOf(t, a).Amount != "500" {
		t.Errorf("credit was used twice: %+v", receiptOf(t, a))
	}
}

func TestARefundThatCannotBeSentNowIsSentLater(t *testing.T) {
	t.Parallel()
	cashier := &till{paid: make(map[string]money.Amount), fail: fmt.Errorf("no route to host")}
	m := newMarket(t, func(c *paywall.Config) { c.Cashier = cashier })
	m.handle("GET /x", "$0.0005", func(w http.ResponseWriter, r *http.Request) { paywall.Fail(r.Context(), "stale"); hello(w, r) }, paywall.ChargeRule("before work"))
	a := m.do(m.buy(get("/x"), "exact"))
	if r := receiptOf(t, a); a.StatusCode != 200 || !r.Success {
		t.Fatalf("%d %+v", a.StatusCode, r)
	}
	m.drain()
	cashier.mu.Lock()
	cashier.fail = nil
	cashier.mu.Unlock()
	m.pw = m.open()
	id := m.lastEvent().Purchase
	for range 100 {
		if r, ok, err := m.book.FindRefund(t.Context(), id); err != nil || !ok {
			t.Fatal(ok, err)
		} else if r.State == purchase.Done {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("it was not sent after a restart")
}

// An answer that was too large to keep can be given once only. If then nobody knows at first whether it is paid, its buyer
// gets its money back once it is.
func TestAPaidAnswerThatIsLostIsPaidBack(t *testing.T) {
	t.Parallel()
	cashier := &till{paid: make(map[string]money.Amount)}
	m := newMarket(t, func(c *paywall.Config) { c.Cashier, c.AnswerBytes = cashier, 100 })
	m.handle("GET /x", "$0.0005", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1000)) })
	m.bank.set(func() {
		m.bank.settle = func(_ exact.Authorization, _ money.Amount, move func() x402.SettleResponse) (x402.SettleResponse, error) {
			move()
			return x402.SettleResponse{}, fmt.Errorf("connection reset")
		}
	})
	paid := m.buy(get("/x"), "exact")
	if a := m.do(paid); a.StatusCode != 503 {
		t.Fatalf("%d", a.StatusCode)
	}
	m.bank.set(func() { m.bank.settle = nil })
	if a := m.do(paid); a.StatusCode != 409 || !receiptOf(t, a).Success {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if len(cashier.paid) != 1 {
		t.Errorf("paid back: %v", cashier.paid)
	}
	m.bank.expect(t, 500, 1)
}
