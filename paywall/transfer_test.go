package paywall_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// bank is a facilitator and the chain behind it: it moves what verifies, each nonce once. The hooks make it lie, hang or
// die, which a real one does too seldom.
type bank struct {
	clock *clock
	upto  evm.Address

	mu      sync.Mutex
	holds   map[evm.Address]money.Amount // guarded by mu; nobody that is not in it has less than enough
	moved   map[evm.Hash]money.Amount    // guarded by mu; by authorization
	tx      map[evm.Hash]evm.Hash        // guarded by mu
	asked   int                          // guarded by mu; settlements asked for
	checked int                          // guarded by mu
	// These run instead of what the bank does, if set. guarded by mu
	verify func(exact.Authorization) (x402.VerifyResponse, error)
	settle func(a exact.Authorization, amount money.Amount, move func() x402.SettleResponse) (x402.SettleResponse, error)
}

func newBank(c *clock) *bank {
	return &bank{clock: c, upto: evm.Address{0xfa}, holds: make(map[evm.Address]money.Amount), moved: make(map[evm.Hash]money.Amount), tx: make(map[evm.Hash]evm.Hash)}
}

func (b *bank) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

func (b *bank) Supported(context.Context) (x402.Supported, error) {
	address, _ := json.Marshal(b.upto)
	var s x402.Supported
	for _, chain := range []string{"eip155:84532", "eip155:42161"} {
		s.Kinds = append(s.Kinds, x402.Kind{X402Version: 2, Scheme: "exact", Network: chain},
			x402.Kind{X402Version: 2, Scheme: "upto", Network: chain, Extra: map[string]json.RawMessage{"facilitatorAddress": address}},
			x402.Kind{X402Version: 2, Scheme: "exact-legacy", Network: chain, Extra: map[string]json.RawMessage{"spender": address, "tokenType": json.RawMessage(`"legacy"`)}})
	}
	return s, nil
}

func (b *bank) read(p x402.Payment, r x402.Requirements) (exact.Authorization, error) {
	a, err := exact.Read(p, r)
	if err == nil {
		cap := r
		if p.Accepted != nil {
			cap.Amount = p.Accepted.Amount // settling an upto names what is charged
		}
		err = a.Accept(cap, b.clock.now())
	}
	return a, err
}

func (b *bank) Verify(_ context.Context, p x402.Payment, r x402.Requirements) (x402.VerifyResponse, error) {
	a, err := b.read(p, r)
	if e, refused := x402.AsError(err); refused {
		return x402.VerifyResponse{InvalidReason: e.Code, InvalidMessage: e.Error()}, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.checked++
	if b.verify != nil {
		return b.verify(a)
	}
	if held, known := b.holds[a.From]; known && held.Less(a.Amount) {
		return x402.VerifyResponse{InvalidReason: "insufficient_funds"}, nil
	}
	return x402.VerifyResponse{IsValid: true, Payer: a.From.String()}, err
}

func (b *bank) Settle(_ context.Context, p x402.Payment, r x402.Requirements) (x402.SettleResponse, error) {
	a, err := b.read(p, r)
	if e, refused := x402.AsError(err); refused {
		return x402.SettleResponse{ErrorReason: e.Code, Network: r.Network}, nil
	}
	amount, err := money.ParseAmount(r.Amount)
	if err != nil || a.Amount.Less(amount) {
		return x402.SettleResponse{ErrorReason: "invalid_upto_evm_payload_settlement_exceeds_amount", Network: r.Network}, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	move := func() x402.SettleResponse { return b.move(a, amount) }
	if b.settle != nil {
		return b.settle(a, amount, move)
	}
	return move(), nil
}

// move is what the chain does. The caller holds mu.
func (b *bank) move(a exact.Authorization, amount money.Amount) x402.SettleResponse {
	s := x402.SettleResponse{Network: fmt.Sprintf("eip155:%d", a.ChainID), Payer: a.From.String(), Amount: amount.String()}
	id := a.ID()
	if _, done := b.moved[id]; !done {
		held, known := b.holds[a.From]
		if known && held.Less(amount) {
			s.ErrorReason = "insufficient_funds"
			return s
		}
		if known {
			b.holds[a.From], _ = held.Sub(amount)
		}
		b.moved[id], b.tx[id] = amount, evm.Keccak256([]byte("tx"), id[:])
	}
	s.Success, s.Transaction = true, b.tx[id].String()
	return s
}

// Moved implements [paywall.Witness] over the same chain.
func (b *bank) Moved(_ context.Context, _ string, a exact.Authorization, amount money.Amount, _ evm.Hash) (paywall.Fate, evm.Hash, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	got, used := b.moved[a.ID()]
	switch {
	case !used:
		return paywall.Unspent, evm.Hash{}, nil
	case got != amount:
		return paywall.Spent, b.tx[a.ID()], nil
	}
	return paywall.Moved, b.tx[a.ID()], nil
}

// took is what arrived, and in how many transfers.
func (b *bank) took() (sum money.Amount, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.moved {
		sum, _ = sum.Add(a)
	}
	return sum, len(b.moved)
}

func (b *bank) expect(t *testing.T, sum uint64, n int) {
	t.Helper()
	if got, count := b.took(); got != money.Units(sum) || count != n {
		t.Errorf("%s arrived in %d transfers, want %d in %d", got, count, sum, n)
	}
}

// market is a world whose seller takes transfers.
type market struct {
	*world
	bank *bank
}

func newMarket(t *testing.T, changes ...func(*paywall.Config)) *market {
	t.Helper()
	m := &market{}
	m.world = newWorld(t, append([]func(*paywall.Config){func(c *paywall.Config) {
		// The clock is the world's, which does not exist yet: config carries it.
		m.bank = newBank(&clock{t: time.Unix(1782122400, 0)})
		c.Facilitators, c.Accept, c.House = []x402.Facilitator{m.bank}, []string{"exact"}, nil
	}}, changes...)...)
	m.bank.clock = m.clock
	return m
}

// order is a transfer that can still be altered before it is signed.
type order struct {
	accepted x402.Requirements
	terms    x402.PaymentRequired
	nonce    evm.Hash
	ours     string // purchase id, if the payer names it
	signer   evm.Signer
	v1       bool
	at       time.Time
	spoil    func(*exact.Authorization)

	paymentID  string                     // of the extension payment-identifier
	extensions map[string]json.RawMessage // instead of those that came
}

func offerOf(t testing.TB, p x402.PaymentRequired, scheme string) x402.Requirements {
	t.Helper()
	for _, r := range p.Accepts {
		if r.Scheme == scheme {
			return r
		}
	}
	t.Fatalf("no %s among %d offers", scheme, len(p.Accepts))
	return x402.Requirements{}
}

// buy returns the call with a transfer for it, as a stock client makes it unless altered.
func (m *market) buy(c call, scheme string, alter ...func(*order)) call {
	m.t.Helper()
	required := m.terms(c)
	o := &order{accepted: offerOf(m.t, required, scheme), terms: required, signer: m.payer, at: m.clock.now()}
	_, _ = rand.Read(o.nonce[:])
	for _, f := range alter {
		f(o)
	}
	a, err := exact.Pay(m.t.Context(), o.signer, o.accepted, o.nonce, o.at)
	if err != nil {
		m.t.Fatal(err)
	}
	if o.spoil != nil {
		o.spoil(&a)
	}
	payload, err := a.Payload()
	if err != nil {
		m.t.Fatal(err)
	}
	terms := o.terms
	if o.v1 {
		terms.X402Version = 1
	}
	p, err := x402.NewPayment(terms, o.accepted, payload)
	if err != nil {
		m.t.Fatal(err)
	}
	if o.paymentID != "" {
		p.Extensions = map[string]json.RawMessage{x402.PaymentIDKey: json.RawMessage(fmt.Sprintf(`{"info":{"required":false,"id":%q}}`, o.paymentID))}
	}
	if o.extensions != nil {
		p.Extensions = o.extensions
	}
	if o.ours != "" {
		p.Extensions = map[string]json.RawMessage{purchase.ExtensionKey: json.RawMessage(fmt.Sprintf(`{"purchase":%q}`, o.ours))}
	}
	name, value, err := p.Header()
	if err != nil {
		m.t.Fatal(err)
	}
	return c.with(name, value)
}

// named makes the payer name its purchase and sign for the terms of a call.
func (m *market) named(c call) func(*order) {
	return func(o *order) {
		o.ours = purchase.NewID(rand.Reader)
		o.nonce = m.termsOf(c, o.accepted, o.terms, o.ours).Hash()
	}
}

func (m *market) termsOf(c call, r x402.Requirements, required x402.PaymentRequired, id string) purchase.Terms {
	m.t.Helper()
	amount, err := money.ParseAmount(r.Amount)
	var expires int64
	if err == nil {
		err = json.Unmarshal(r.Extra["expires"], &expires)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return purchase.Terms{
		Purchase: id, Quote: text(r, "quote"), Price: text(r, "price"), Scheme: r.Scheme, Network: r.Network,
		Asset: evm.MustAddress(r.Asset), Payee: evm.MustAddress(r.PayTo), Amount: amount, Method: c.method, Resource: required.Resource.URL,
		Body: purchase.BodyDigest([]byte(c.body)), Completion: text(r, "completion"), Refund: text(r, "refund"), Uncaptured: text(r, "uncaptured"), Expires: expires,
	}
}

func TestATransferPaysOnceAndIsInTheReceipt(t *testing.T) {
	t.Parallel()
	for name, alter := range map[string]func(*market, call) func(*order){
		"a stock client":         func(*market, call) func(*order) { return func(*order) {} },
		"a client of version 1":  func(*market, call) func(*order) { return func(o *order) { o.v1 = true } },
		"a payer of our own":     func(m *market, c call) func(*order) { return m.named(c) },
		"one that echoes little": func(*market, call) func(*order) { return func(o *order) { delete(o.accepted.Extra, "quote") } },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarket(t)
			var ran atomic.Int32
			m.handle("GET /x", "$0.0005", counting(&ran))
			paid := m.buy(get("/x"), "exact", alter(m, get("/x")))
			for range 3 {
				a := m.do(paid)
				r := receiptOf(t, a)
				if a.StatusCode != 200 || a.body != "hello" || !r.Success || r.Amount != "500" || len(r.Transaction) != 66 {
					t.Fatalf("%d %s %+v", a.StatusCode, a.body, r)
				}
			}
			if p := m.book.only(t); p.State != purchase.Committed || p.Charged != money.Units(500) || p.Transaction.IsZero() || ran.Load() != 1 {
				t.Errorf("%+v, ran %d times", p, ran.Load())
			}
			m.bank.expect(t, 500, 1)
		})
	}
}

// T402's way for tokens that know no signatures: an allowance, and a signature that only the facilitator ever reads.
func TestATransferOutOfAnAllowance(t *testing.T) {
	t.Parallel()
	m := newMarket(t, func(c *paywall.Config) { c.Accept = []string{"exact-legacy"} })
	m.handle("GET /x", "$0.0005", hello)
	paid := m.buy(get("/x"), "exact-legacy")
	for range 2 {
		if a := m.do(paid); a.StatusCode != 200 || receiptOf(t, a).Amount != "500" {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	}
	m.bank.expect(t, 500, 1)
	other := key(t).Address()
	if a := m.do(m.buy(get("/x"), "exact-legacy", func(o *order) { o.spoil = func(a *exact.Authorization) { a.Spender = other } })); a.StatusCode != 402 {
		t.Errorf("for another spender: %d %s", a.StatusCode, a.body)
	}
}

func TestATransferThatIsNotAsAskedBuysNothing(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	var ran atomic.Int32
	m.handle("GET /x", "$0.0005", counting(&ran))
	other := key(t)
	for name, c := range map[string]struct {
		code  string
		alter func(*order)
	}{
		"to somebody else":       {"payment_mismatch", func(o *order) { o.accepted.PayTo = other.Address().String() }},
		"of less":                {"payment_mismatch", func(o *order) { o.accepted.Amount = "499" }},
		"of another token":       {"payment_mismatch", func(o *order) { o.accepted.Asset = other.Address().String() }},
		"on another network":     {"payment_mismatch", func(o *order) { o.accepted.Network = "eip155:42161" }},
		"signed by another key":  {"invalid_exact_evm_signature", func(o *order) { o.spoil = func(a *exact.Authorization) { a.From = other.Address() } }},
		"altered after it":       {"invalid_exact_evm_signature", func(o *order) { o.spoil = func(a *exact.Authorization) { a.Nonce[0]++ } }},
		"with another recipient": {"invalid_exact_evm_recipient_mismatch", func(o *order) { o.spoil = func(a *exact.Authorization) { a.To = other.Address() } }},
		"with another value": {"invalid_exact_evm_payload_authorization_value_mismatch", func(o *order) {
			o.spoil = func(a *exact.Authorization) { a.Amount = money.Units(499) }
		}},
		"too late":  {"invalid_exact_evm_payload_authorization_valid_before", func(o *order) { o.at = o.at.Add(-time.Hour) }},
		"too early": {"invalid_exact_evm_payload_authorization_valid_after", func(o *order) { o.spoil = func(a *exact.Authorization) { a.ValidAfter = 1 << 33 } }},
		"of no bytes": {"invalid_exact_evm_signature", func(o *order) {
			o.spoil = func(a *exact.Authorization) { a.Signature = make([]byte, 65) }
		}},
	} {
		a := m.do(m.buy(get("/x"), "exact", c.alter))
		if a.StatusCode != 402 || a.code() != c.code || strings.Contains(a.body, "hello") {
			t.Errorf("%s: %d %s, want %s", name, a.StatusCode, a.body, c.code)
		}
	}
	if ran.Load() != 0 || m.book.count() != 0 {
		t.Errorf("ran %d times, %d purchases", ran.Load(), m.book.count())
	}
	m.bank.expect(t, 0, 0)
}

func TestManyCopiesOfATransferAreOneGrant(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	var ran atomic.Int32
	m.handle("GET /x", "$0.0005", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(20 * time.Millisecond)
		counting(&ran)(w, r)
	})
	paid := m.buy(get("/x"), "exact")
	var served atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if a, err := m.try(paid); err == nil && a.StatusCode == 200 && a.body == "hello" {
				served.Add(1)
			}
		})
	}
	wg.Wait()
	if ran.Load() != 1 || served.Load() == 0 {
		t.Errorf("ran %d times, %d served", ran.Load(), served.Load())
	}
	m.bank.expect(t, 500, 1)
}

func TestATransferIsForItsRequest(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	m.handle("POST /x", "$0.0005", hello)
	c := call{method: "POST", path: "/x", body: "A"}
	ours := m.buy(c, "exact", m.named(c))
	ours.body = "B"
	if a := m.do(ours); a.StatusCode != 402 || a.code() != "payment_mismatch" {
		t.Errorf("our payer's, for another body: %d %s", a.StatusCode, a.body)
	}
	stock := m.buy(c, "exact")
	if a := m.do(stock); a.StatusCode != 200 {
		t.Errorf("stock: %d", a.StatusCode)
	}
	stock.body = "B"
	if a := m.do(stock); a.StatusCode != 409 || a.code() != "payment_used" {
		t.Errorf("a stock client's that bought A, for B: %d %s", a.StatusCode, a.body)
	}
	m.bank.expect(t, 500, 1)
}

func TestWhatFailsIsNotSettled(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	m.handle("GET /fails", "$0.0005", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "sorry", http.StatusServiceUnavailable) })
	m.handle("GET /panics", "$0.0005", func(http.ResponseWriter, *http.Request) { panic("oops") })
	m.handle("GET /waived", "$0.0005", func(w http.ResponseWriter, r *http.Request) { paywall.Fail(r.Context(), "stale"); hello(w, r) })
	for path, status := range map[string]int{"/fails": 503, "/panics": 500, "/waived": 200} {
		paid := m.buy(get(path), "exact")
		a := m.do(paid)
		if r := receiptOf(t, a); a.StatusCode != status || r.Success || r.Transaction != "" {
			t.Errorf("%s: %d %+v", path, a.StatusCode, r)
		}
		if a := m.do(paid); a.code() != "payment_void" {
			t.Errorf("%s again: %d %s", path, a.StatusCode, a.body)
		}
	}
	m.bank.expect(t, 0, 0)
}

func TestAPayerThatIsEmptiedBetweenVerifyingAndSettling(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	m.handle("GET /x", "$0.0005", func(w http.ResponseWriter, r *http.Request) {
		m.bank.set(func() { m.bank.holds[m.payer.Address()] = money.Units(499) })
		hello(w, r)
	})
	a := m.do(m.buy(get("/x"), "exact"))
	if r := receiptOf(t, a); a.StatusCode != 402 || strings.Contains(a.body, "hello") || r.Success || r.ErrorReason != "insufficient_funds" {
		t.Errorf("%d %s %+v", a.StatusCode, a.body, r)
	}
	if p := m.book.only(t); p.State != purchase.Void || p.Outcome != "insufficient_funds" {
		t.Errorf("%+v", p)
	}
	if a := m.do(m.buy(get("/x"), "exact")); a.StatusCode != 402 || a.code() != "insufficient_funds" {
		t.Errorf("who has nothing is refused before the work: %d %s", a.StatusCode, a.body)
	}
}

// After each of these nobody knows at first whether the money moved. It is found out, never guessed, and the answer that
// was made is given once it is paid.
func TestAnUnknownSettlementIsFoundOut(t *testing.T) {
	t.Parallel()
	for name, trouble := range map[string]func(a exact.Authorization, amount money.Amount, move func() x402.SettleResponse) (x402.SettleResponse, error){
		"it died before it was sent": func(exact.Authorization, money.Amount, func() x402.SettleResponse) (x402.SettleResponse, error) {
			return x402.SettleResponse{}, errors.New("connection reset")
		},
		"it died after it was sent": func(_ exact.Authorization, _ money.Amount, move func() x402.SettleResponse) (x402.SettleResponse, error) {
			move()
			return x402.SettleResponse{}, errors.New("connection reset")
		},
		"it says pending": func(exact.Authorization, money.Amount, func() x402.SettleResponse) (x402.SettleResponse, error) {
			return x402.SettleResponse{ErrorReason: "settlement_pending", Transaction: "0x" + strings.Repeat("4f", 32), Network: "eip155:84532"}, nil
		},
		"it names no transaction": func(exact.Authorization, money.Amount, func() x402.SettleResponse) (x402.SettleResponse, error) {
			return x402.SettleResponse{Success: true, Network: "eip155:84532"}, nil
		},
	} {
		for _, rule := range []string{"after success", "before work"} {
			t.Run(name+", charged "+rule, func(t *testing.T) {
				t.Parallel()
				m := newMarket(t)
				var ran atomic.Int32
				m.handle("GET /x", "$0.0005", counting(&ran), paywall.ChargeRule(rule))
				m.bank.set(func() { m.bank.settle = trouble })
				paid := m.buy(get("/x"), "exact")
				for range 2 {
					if a := m.do(paid); a.StatusCode != 503 || a.code() != "settlement_pending" || strings.Contains(a.body, "hello") {
						t.Fatalf("%d %s", a.StatusCode, a.body)
					}
				}
				if err := m.pw.Recover(t.Context()); err == nil {
					t.Error("it was found out from nowhere")
				}
				if p := m.book.only(t); p.State.Final() {
					t.Fatalf("it was guessed: %+v", p)
				}
				m.bank.set(func() { m.bank.settle = nil })
				m.restart("$0.0005", counting(&ran))
				if err := m.pw.Recover(t.Context()); err != nil {
					t.Error(err)
				}
				if a := m.do(paid); a.StatusCode != 200 || a.body != "hello" || !receiptOf(t, a).Success {
					t.Errorf("afterwards: %d %s", a.StatusCode, a.body)
				}
				if ran.Load() != 1 {
					t.Errorf("ran %d times", ran.Load())
				}
				m.bank.expect(t, 500, 1)
			})
		}
	}
}

func TestALyingFacilitatorIsSeenThrough(t *testing.T) {
	t.Parallel()
	m := newMarket(t, func(c *paywall.Config) { c.Witness = c.Facilitators[0].(*bank) })
	m.handle("GET /x", "$0.0005", hello)
	m.bank.set(func() {
		m.bank.settle = func(exact.Authorization, money.Amount, func() x402.SettleResponse) (x402.SettleResponse, error) {
			return x402.SettleResponse{Success: true, Transaction: "0x" + strings.Repeat("11", 32), Network: "eip155:84532"}, nil
		}
	})
	if a := m.do(m.buy(get("/x"), "exact")); a.StatusCode != 503 || a.code() != "settlement_pending" {
		t.Errorf("says it moved, and it did not: %d %s", a.StatusCode, a.body)
	}
	m.bank.set(func() {
		m.bank.settle = func(_ exact.Authorization, _ money.Amount, move func() x402.SettleResponse) (x402.SettleResponse, error) {
			move()
			return x402.SettleResponse{ErrorReason: "invalid_transaction_state", Network: "eip155:84532"}, nil
		}
	})
	if a := m.do(m.buy(get("/x"), "exact")); a.StatusCode != 200 || !receiptOf(t, a).Success {
		t.Errorf("says it did not move, and it did: %d %s", a.StatusCode, a.body)
	}
	m.bank.expect(t, 500, 1)
}

func TestAFacilitatorThatIsAwayCostsNobodyAnything(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	var ran atomic.Int32
	m.handle("GET /x", "$0.0005", counting(&ran))
	paid := m.buy(get("/x"), "exact")
	m.bank.set(func() {
		m.bank.verify = func(exact.Authorization) (x402.VerifyResponse, error) {
			return x402.VerifyResponse{}, x402.Errorf("facilitator_unreachable", "no route to host")
		}
	})
	if a := m.do(paid); a.StatusCode != 503 || a.code() != "facilitator_unreachable" || ran.Load() != 0 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	m.bank.set(func() { m.bank.verify = nil })
	if a := m.do(paid); a.StatusCode != 200 {
		t.Errorf("the same payment later: %d %s", a.StatusCode, a.body)
	}
	m.bank.expect(t, 500, 1)
}

func TestWhatIsChargedBeforeTheWorkIsSettledBeforeIt(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	m.handle("GET /x", "$0.0005", func(w http.ResponseWriter, _ *http.Request) {
		m.bank.expect(t, 500, 1)
		w.WriteHeader(500)
	}, paywall.ChargeRule("before work"))
	a := m.do(m.buy(get("/x"), "exact"))
	if r := receiptOf(t, a); a.StatusCode != 500 || !r.Success || r.Amount != "500" {
		t.Errorf("%d %+v", a.StatusCode, r)
	}
}

func TestNoByteLeavesBeforeTheMoneyHasMoved(t *testing.T) {
	t.Parallel()
	m := newMarket(t, func(c *paywall.Config) { c.AnswerBytes, c.HeldBytes = 1000, 5000 })
	m.handle("GET /stream", "$0.0005", func(w http.ResponseWriter, _ *http.Request) {
		for range 40 {
			_, _ = io.WriteString(w, strings.Repeat("x", 100))
			w.(http.Flusher).Flush()
		}
		m.bank.expect(t, 0, 0)
	})
	m.bank.set(func() {
		m.bank.settle = func(exact.Authorization, money.Amount, func() x402.SettleResponse) (x402.SettleResponse, error) {
			return x402.SettleResponse{ErrorReason: "insufficient_funds", Network: "eip155:84532"}, nil
		}
	})
	if a := m.do(m.buy(get("/stream"), "exact")); a.StatusCode != 402 || strings.Contains(a.body, "xxx") {
		t.Errorf("not paid, and %d bytes left with status %d", len(a.body), a.StatusCode)
	}
	m.bank.set(func() { m.bank.settle = nil })
	if a := m.do(m.buy(get("/stream"), "exact")); a.StatusCode != 200 || len(a.body) != 4000 {
		t.Errorf("paid: %d bytes, status %d", len(a.body), a.StatusCode)
	}
	m.handle("GET /huge", "$0.0005", func(w http.ResponseWriter, _ *http.Request) {
		for range 60 {
			if _, err := io.WriteString(w, strings.Repeat("x", 100)); err != nil {
				return
			}
		}
	})
	if a := m.do(m.buy(get("/huge"), "exact")); a.code() != "answer_too_large" {
		t.Errorf("larger than can be held: %d %s", a.StatusCode, clipped(a.body))
	}
	m.bank.expect(t, 500, 1)
}

// Answers that wait for their money do so on disk, and come out as they went in, whatever part of them was there already.
func TestAnswersThatWaitAreWhole(t *testing.T) {
	t.Parallel()
	m := newMarket(t, func(c *paywall.Config) { c.AnswerBytes = 100_000 })
	for _, size := range []int{0, 1000, 16<<10 - 1, 16 << 10, 99_999, 100_000, 100_001, 300_000} {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte('a' + i%26)
		}
		path := fmt.Sprintf("/answer/%d", size)
		m.handle("GET "+path, "$0.0005", func(w http.ResponseWriter, _ *http.Request) {
			for part := body; len(part) > 0; {
				n, err := w.Write(part[:min(len(part), 7000)])
				if err != nil {
					t.Error(err)
					return
				}
				part = part[n:]
			}
		})
		bought := m.buy(get(path), "exact")
		if a := m.do(bought); a.StatusCode != 200 || a.body != string(body) {
			t.Errorf("%d bytes: %d with %d bytes", size, a.StatusCode, len(a.body))
		}
		if size > 100_000 {
			continue // not kept
		}
		if a := m.do(bought); a.StatusCode != 200 || a.body != string(body) {
			t.Errorf("%d bytes, asked for again: %d with %d bytes", size, a.StatusCode, len(a.body))
		}
	}
}

func clipped(s string) string { return s[:min(len(s), 200)] }

func TestUpToChargesWhatWasUsed(t *testing.T) {
	t.Parallel()
	m := newMarket(t, func(c *paywall.Config) { c.Accept = []string{"upto", "exact"} })
	used := 0
	m.handle("GET /x", "$0.00001 per token", func(w http.ResponseWriter, r *http.Request) {
		if used == 0 {
			w.WriteHeader(500)
			return
		}
		paywall.Charge(r.Context(), used)
		hello(w, r)
	}, paywall.UpTo("$0.02"))
	required := m.terms(get("/x"))
	if len(required.Accepts) != 1 || required.Accepts[0].ExtraString("facilitatorAddress") == "" {
		t.Fatalf("offers %+v: exact moves the whole amount and is not offered", required.Accepts)
	}
	for tokens, want := range map[int]string{5: "50", 2000: "20000", 5000: "20000"} {
		used = tokens
		a := m.do(m.buy(get("/x"), "upto"))
		if r := receiptOf(t, a); a.StatusCode != 200 || r.Amount != want {
			t.Errorf("%d tokens: %d %+v", tokens, a.StatusCode, r)
		}
	}
	used = 0
	a := m.do(m.buy(get("/x"), "upto"))
	if r := receiptOf(t, a); a.StatusCode != 500 || r.Success || r.Amount != "0" {
		t.Errorf("nothing used: %d %+v", a.StatusCode, r)
	}
	m.bank.expect(t, 40050, 3)
}

func TestOneRouteOffersSeveralWaysAndNetworks(t *testing.T) {
	t.Parallel()
	house := newWorld(t)
	m := newMarket(t, func(c *paywall.Config) {
		c.House, c.Accept = house.house, []string{"guarantee", "exact", "exact on arbitrum"}
	})
	m.handle("GET /x", "$0.0005", hello)
	a := m.do(get("/x"))
	var header x402.PaymentRequired
	if err := x402.DecodeHeader(a.Header.Get(x402.HeaderRequired), &header); err != nil || len(header.Accepts) != 3 {
		t.Fatalf("%v, %d offers", err, len(header.Accepts))
	}
	var body struct {
		Accepts   []struct{ Scheme, Network string }
		WaysToPay []string
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || len(body.Accepts) != 1 || body.Accepts[0].Network != "base-sepolia" || len(body.WaysToPay) != 2 {
		t.Errorf("%v %+v: clients of version 1 refuse a list with a name that they do not know", err, body)
	}
	if a := m.do(m.buy(get("/x"), "exact", func(o *order) {
		o.accepted = header.Accepts[2]
	})); a.StatusCode != 200 || receiptOf(t, a).Network != "eip155:42161" {
		t.Errorf("on arbitrum: %d %s", a.StatusCode, a.body)
	}
}

func TestAHandlerMaySayTheChargeInTheReferencesHeader(t *testing.T) {
	t.Parallel()
	m := newMarket(t, func(c *paywall.Config) { c.Accept = []string{"upto"} })
	var said string
	m.handle("GET /x", "$0.00001 per token", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Settlement-Overrides", said)
		hello(w, r)
	}, paywall.UpTo("$0.02"))
	for override, want := range map[string]struct {
		status  int
		success bool
		amount  string
	}{
		`{"amount":"123"}`:   {200, true, "123"},
		`{"amount":"40%"}`:   {200, true, "8000"},
		`{"amount":"$0.01"}`: {200, true, "10000"},
		`{"amount":"0"}`:     {200, true, "0"},
		`{"amount":"99999"}`: {502, false, "0"},
		`{"amount":"much"}`:  {502, false, "0"},
	} {
		said = override
		a := m.do(m.buy(get("/x"), "upto"))
		if r := receiptOf(t, a); a.StatusCode != want.status || r.Success != want.success || r.Amount != want.amount {
			t.Errorf("%s: %d %+v", override, a.StatusCode, r)
		}
		if a.Header.Get("Settlement-Overrides") != "" {
			t.Errorf("%s: the buyer sees it", override)
		}
	}
	m.bank.expect(t, 18123, 3)
}

// What a promise is worth can be lowered until its cycle's cutoff, so nobody is promised a refund after that.
func TestNoRefundIsAnnouncedThatCannotBeKept(t *testing.T) {
	t.Parallel()
	house := newWorld(t)
	m := newMarket(t, func(c *paywall.Config) { c.House, c.Accept = house.house, []string{"guarantee", "exact"} })
	m.handle("GET /x", "$0.0005", hello, paywall.Refund("full on failure within 24h"))
	said := func() (promise, transfer string) {
		for _, r := range m.terms(get("/x")).Accepts {
			if r.Scheme == "exact" {
				transfer = r.ExtraString("refund")
			} else {
				promise = r.ExtraString("refund")
			}
		}
		return promise, transfer
	}
	if p, e := said(); p != "full on failure until the cutoff of its cycle" || e != "full on failure within 24h" {
		t.Errorf("before the house has said when: %q, %q", p, e)
	}
	now := uint64(m.clock.now().Unix())
	asset := m.chain.Tokens[0].Address
	house.house.set(func() {
		house.house.schedules = []client.Schedule{{Asset: asset, From: now - now%3600, Length: time.Hour, Cutoff: time.Minute}}
	})
	if err := m.pw.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := "full on failure until " + time.Unix(int64(now-now%3600+3660-2), 0).UTC().Format(time.RFC3339)
	if p, _ := said(); p != want {
		t.Errorf("%q, want %q", p, want)
	}
}

// Whoever holds an authorization can bring it to the chain before its payment is shown. The seller has its money then, and
// the payer that signed for this request is served; a stock client's could have been spent elsewhere, and is refused.
func TestATransferThatSomebodyElseSentFirst(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	var ran atomic.Int32
	m.handle("GET /x", "$0.0005", counting(&ran))
	m.bank.set(func() {
		m.bank.verify = func(a exact.Authorization) (x402.VerifyResponse, error) {
			m.bank.move(a, a.Amount)
			return x402.VerifyResponse{InvalidReason: "invalid_exact_evm_nonce_already_used"}, nil
		}
	})
	paid := m.buy(get("/x"), "exact", m.named(get("/x")))
	for range 2 {
		if a := m.do(paid); a.StatusCode != 200 || receiptOf(t, a).Amount != "500" {
			t.Errorf("one signed for this request: %d %s", a.StatusCode, a.body)
		}
	}
	if a := m.do(m.buy(get("/x"), "exact")); a.StatusCode != 402 || a.code() != "invalid_exact_evm_nonce_already_used" {
		t.Errorf("a stock client's: %d %s", a.StatusCode, a.body)
	}
	if ran.Load() != 1 {
		t.Errorf("ran %d times", ran.Load())
	}
}

func TestAWayOfVersion2InVersion1IsNoPayment(t *testing.T) {
	t.Parallel()
	m := newMarket(t, func(c *paywall.Config) { c.Accept = []string{"upto", "exact-legacy"} })
	m.handle("GET /x", "$0.0005", hello)
	for _, scheme := range []string{"upto", "exact-legacy"} {
		if a := m.do(m.buy(get("/x"), scheme, func(o *order) { o.v1 = true })); a.StatusCode != 402 || a.code() != "payment_undecodable" {
			t.Errorf("%s: %d %s", scheme, a.StatusCode, a.body)
		}
	}
}
