package payer

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

var deployment = guarantee.Deployment{
	ChainID: 31337, Name: "4Mica 0x5555555555555555555555555555555555555555", Version: "1",
	Vault: evm.MustAddress("0x5555555555555555555555555555555555555555"), ClearingHouse: evm.MustAddress("0x7777777777777777777777777777777777777777"),
}

const dollarText = "0xFA12000000000000000000000000000000000001" // of network dev

var (
	buyerKey  = newKey("buyer")
	sellerKey = newKey("seller")
	otherKey  = newKey("other")
	noon      = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
)

func newKey(name string) *evm.PrivateKey {
	secret := evm.Keccak256([]byte(name))
	k, err := evm.NewKey(secret[:])
	if err != nil {
		panic(err)
	}
	return k
}

// seller is a server with a price, as a test wants it to behave. Its zero value sells a call for 500 units, charges, and
// gives a receipt.
type seller struct {
	*testing.T
	url string

	amount  string                                                          // asked; "" is 500
	offers  func(x402.Requirements) []x402.Requirements                     // what is offered in place of the one offer
	terms   func(*x402.Terms)                                               // what else is changed in the 402
	answer  func(w http.ResponseWriter, r *http.Request, paid payment) bool // true: it answered a payment
	receipt func(*x402.SettleResponse, payment)

	mu       sync.Mutex
	asked    int       // guarded by mu; requests without a payment
	payments []payment // guarded by mu; in order
}

// payment is one as the seller read it.
type payment struct {
	header string
	x402.Payment
	guarantee.Signed
	id   string // of the purchase, if it was named
	body []byte
	try  int // of the same payment, from 0
}

func (s *seller) offer() x402.Requirements {
	amount := s.amount
	if amount == "" {
		amount = "500"
	}
	extra := map[string]json.RawMessage{
		"quote": json.RawMessage(`"q"`), "price": json.RawMessage(`"$0.0005"`), "completion": json.RawMessage(`"charged after success"`),
		"refund": json.RawMessage(`"none"`), "uncaptured": json.RawMessage(`"voided"`),
		"expires": json.RawMessage(fmt.Sprint(noon.Add(time.Minute).Unix())),
	}
	return x402.Requirements{
		Scheme: guarantee.Scheme, Network: "eip155:31337", Amount: amount, Asset: dollarText,
		PayTo: sellerKey.Address().String(), MaxTimeoutSeconds: 60, Extra: extra,
	}
}

func (s *seller) demand(w http.ResponseWriter, r *http.Request, reason *x402.Error) {
	t := x402.Terms{Required: x402.PaymentRequired{
		X402Version: 2, Resource: x402.Resource{URL: "http://" + r.Host + r.URL.RequestURI()}, Accepts: []x402.Requirements{s.offer()},
	}}
	if s.offers != nil {
		t.Required.Accepts = s.offers(s.offer())
	}
	if reason != nil {
		t.Code, t.Error, t.Details, t.Required.Error = reason.Code, reason.Message, reason.Details, reason.Code
	}
	if s.terms != nil {
		s.terms(&t)
	}
	if err := x402.WritePaymentRequired(w, t, "", nil); err != nil {
		s.Error(err)
	}
}

func (s *seller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p, err := x402.ReadPayment(r.Header)
	if err != nil {
		s.Errorf("payment: %v", err)
	}
	if p == nil {
		s.mu.Lock()
		s.asked++
		s.mu.Unlock()
		s.demand(w, r, nil)
		return
	}
	got := payment{Payment: *p, header: p.Raw}
	if got.body, err = io.ReadAll(r.Body); err != nil {
		s.Errorf("body: %v", err)
	}
	if err := json.Unmarshal(p.Payload, &got.Signed); err != nil {
		s.Errorf("payload: %v", err)
	}
	var e purchase.Extension
	if json.Unmarshal(p.Extensions[purchase.ExtensionKey], &e) == nil {
		got.id = e.Purchase
	}
	s.mu.Lock()
	for _, before := range s.payments {
		if before.header == got.header {
			got.try++
		}
	}
	s.payments = append(s.payments, got)
	s.mu.Unlock()
	if s.answer != nil && s.answer(w, r, got) {
		return
	}
	s.sell(w, got, nil)
}

// sell charges and answers. A note by key says that less is taken than was signed.
func (s *seller) sell(w http.ResponseWriter, p payment, note *guarantee.SignedNote) {
	receipt := x402.SettleResponse{Success: true, Network: "eip155:31337", Payer: p.Claims.Payer.String(), Purchase: p.id, Amount: p.Claims.Amount.String()}
	if note != nil {
		raw, err := json.Marshal(note)
		if err != nil {
			s.Error(err)
		}
		receipt.Extra = map[string]json.RawMessage{"note": raw}
		receipt.Amount = note.Amount.String()
		receipt.Success = !note.Amount.IsZero()
	}
	if s.receipt != nil {
		s.receipt(&receipt, p)
	}
	if err := x402.SetReceipt(w.Header(), receipt); err != nil {
		s.Error(err)
	}
	fmt.Fprintf(w, "sold for %s", receipt.Amount)
}

// note signs that the payee takes no more than amount.
func (s *seller) note(p payment, by *evm.PrivateKey, amount uint64) *guarantee.SignedNote {
	n, err := guarantee.SignNote(context.Background(), by, deployment, guarantee.Note{Digest: p.Claims.Digest(deployment.ClaimsSeparator()), Amount: money.Units(amount)})
	if err != nil {
		s.Error(err)
	}
	return &n
}

// distinct counts different payments that arrived.
func (s *seller) distinct() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := make(map[string]bool)
	for _, p := range s.payments {
		seen[p.header] = true
	}
	return len(seen)
}

func (s *seller) arrived() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.payments) }

func (s *seller) start(t *testing.T) *seller {
	t.Helper()
	s.T = t
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// newPayer makes a payer that does not wait for real time.
func newPayer(t *testing.T, change ...func(*Config)) *Payer {
	t.Helper()
	c := Config{
		Key: buyerKey, Budget: Budget{PerCall: "$0.01"}, Houses: []guarantee.Deployment{deployment}, Rand: rand.Reader,
		Now: func() time.Time { return noon }, Wait: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	}
	for _, f := range change {
		f(&c)
	}
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func journalFile(t *testing.T) string { return filepath.Join(t.TempDir(), "purchases.journal") }

// get makes a request and reads the answer.
func get(p *Payer, address string) (string, Purchase, error) {
	resp, err := (&http.Client{Transport: p}).Get(address)
	if err != nil {
		return "", Purchase{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	r, _ := Receipt(resp)
	return string(body), r, err
}

func need(err error) *NeedError {
	var n *NeedError
	errors.As(err, &n)
	return n
}

func code(err error) string {
	var e *x402.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return fmt.Sprintf("no code: %v", err)
}

func today(t *testing.T, p *Payer) string {
	t.Helper()
	left, err := p.Left()
	if err != nil {
		t.Fatal(err)
	}
	if left.Today == nil {
		return "unlimited"
	}
	return left.Today.String()
}

func perDay(sum string) func(*Config) { return func(c *Config) { c.Budget.PerDay = sum } }

func inFile(path string) func(*Config) { return func(c *Config) { c.Journal = path } }

func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

func contains(s, part string) bool { return strings.Contains(s, part) }
