package payer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// ledgerChain is what chains do with signed transfers, and the wallet that looks at them.
type ledgerChain struct {
	now func() time.Time

	mu       sync.Mutex
	dead     bool                           // guarded by mu; it does not answer
	balances map[string]uint64              // guarded by mu; of the buyer, by chain and token; missing: a million
	allowed  map[string]uint64              // guarded by mu; for Permit2; missing: a million
	used     map[evm.Hash]bool              // guarded by mu; by authorization
	moves    map[evm.Hash]map[string]uint64 // guarded by mu; by transaction: token, from, to
	asked    int                            // guarded by mu
}

func newLedgerChain() *ledgerChain {
	return &ledgerChain{
		now: func() time.Time { return noon }, balances: make(map[string]uint64), allowed: make(map[string]uint64),
		used: make(map[evm.Hash]bool), moves: make(map[evm.Hash]map[string]uint64),
	}
}

func coin(chainID uint64, token evm.Address) string { return fmt.Sprint(chainID, token.Lower()) }

var errDead = errors.New("node does not answer")

func (c *ledgerChain) ask() (func(), error) {
	c.mu.Lock()
	c.asked++
	if c.dead {
		c.mu.Unlock()
		return nil, errDead
	}
	return c.mu.Unlock, nil
}

func (c *ledgerChain) Networks() []uint64 { return []uint64{31337, 8453, 42161} }

func (c *ledgerChain) of(list map[string]uint64, chainID uint64, token evm.Address) (money.Amount, error) {
	done, err := c.ask()
	if err != nil {
		return money.Amount{}, err
	}
	defer done()
	if n, ok := list[coin(chainID, token)]; ok {
		return money.Units(n), nil
	}
	return money.Units(1_000_000), nil
}

func (c *ledgerChain) Balance(_ context.Context, chainID uint64, token, _ evm.Address) (money.Amount, error) {
	return c.of(c.balances, chainID, token)
}

func (c *ledgerChain) Allowance(_ context.Context, chainID uint64, token, _ evm.Address) (money.Amount, error) {
	return c.of(c.allowed, chainID, token)
}

func (c *ledgerChain) PermitNonce(context.Context, uint64, evm.Address, evm.Address) (money.Amount, error) {
	return money.Units(7), nil
}

func (c *ledgerChain) Used(_ context.Context, a exact.Authorization) (bool, time.Time, error) {
	done, err := c.ask()
	if err != nil {
		return false, time.Time{}, err
	}
	defer done()
	return c.used[a.ID()], c.now(), nil
}

func (c *ledgerChain) Moved(_ context.Context, _ uint64, tx evm.Hash, token, from, to evm.Address) (money.Amount, error) {
	done, err := c.ask()
	if err != nil {
		return money.Amount{}, err
	}
	defer done()
	moves, ok := c.moves[tx]
	if !ok {
		return money.Amount{}, errors.New("no such transaction")
	}
	return money.Units(moves[token.Lower()+from.Lower()+to.Lower()]), nil
}

// settle carries out a transfer, as a facilitator would have it.
func (c *ledgerChain) settle(a exact.Authorization, amount money.Amount) (evm.Hash, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := uint64(c.now().Unix())
	units, _ := amount.Uint64()
	switch {
	case c.used[a.ID()]:
		return evm.Hash{}, x402.Errorf("invalid_exact_evm_nonce_already_used", "used")
	case now >= a.ValidBefore || now <= a.ValidAfter && a.ValidAfter > 0:
		return evm.Hash{}, x402.Errorf("invalid_exact_evm_payload_authorization_valid_before", "too late")
	}
	c.used[a.ID()] = true
	tx := evm.Keccak256([]byte("tx"), a.Nonce[:])
	c.moves[tx] = map[string]uint64{a.Asset.Lower() + a.From.Lower() + a.To.Lower(): units}
	return tx, nil
}

// till is a stock seller of signed transfers, as a test wants it to behave: of either version and dialect, settling by
// itself. Its zero value sells a call for 500 units of network dev by EIP-3009, in version 2.
type till struct {
	*testing.T
	url   string
	chain *ledgerChain

	version int          // 2 unless it is 1
	dialect x402.Dialect // X402 unless said

	offers     func([]x402.Requirements) []x402.Requirements
	extensions map[string]json.RawMessage
	answer     func(w http.ResponseWriter, r *http.Request, got paid) bool // true: it answered
	actual     func(paid) uint64                                           // of an upto
	receipt    func(*x402.SettleResponse, paid)
	calls      uint64 // in a bundle; 0: none is sold

	mu       sync.Mutex
	asked    int               // guarded by mu
	payments []paid            // guarded by mu
	left     map[string]uint64 // guarded by mu; of bundles
	drawn    map[string]uint64 // guarded by mu; what was left after a draw, by payment header
}

// paid is a payment as a till read it.
type paid struct {
	x402.Payment
	header string
	offer  x402.Requirements
	auth   exact.Authorization
	draw   struct{ Bundle, Signature string }
	id     string
	try    int
}

func raw(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// transferOffer is one for 500 units of a chain's first dollar.
func transferOffer(chainName string) x402.Requirements {
	chain, err := network.Lookup(chainName)
	if err != nil {
		panic(err)
	}
	token := chain.Dollars()[0]
	return x402.Requirements{
		Scheme: exact.Scheme, Network: chain.CAIP2(), Amount: "500", Asset: token.Address.String(), PayTo: sellerKey.Address().String(),
		MaxTimeoutSeconds: 60, Extra: map[string]json.RawMessage{"name": raw(token.Name), "version": raw(token.Version)},
	}
}

func uptoOffer(chainName string) x402.Requirements {
	r := transferOffer(chainName)
	r.Scheme = exact.UptoScheme
	r.Extra["assetTransferMethod"], r.Extra["facilitatorAddress"] = raw("permit2"), raw(otherKey.Address())
	return r
}

func (s *till) list() []x402.Requirements {
	one := transferOffer("dev")
	if s.calls > 0 {
		one.Amount = fmt.Sprint(500 * s.calls)
		one.Extra["bundle"] = raw(map[string]any{"calls": s.calls, "valid": "24h0m0s", "route": "GET /"})
	}
	offers := []x402.Requirements{one}
	if s.offers != nil {
		offers = s.offers(offers)
	}
	return offers
}

func (s *till) demand(w http.ResponseWriter, r *http.Request, reason string) {
	required := x402.PaymentRequired{
		X402Version: 2, Dialect: s.dialect, Error: reason, Resource: x402.Resource{URL: "http://" + r.Host + r.URL.RequestURI()},
		Accepts: s.list(), Extensions: s.extensions,
	}
	w.Header().Set("Content-Type", "application/json")
	if s.version == 1 {
		required.X402Version = 1
		name := "x402Version"
		if s.dialect == x402.T402 {
			name = "t402Version"
		}
		var accepts []map[string]any
		for _, o := range required.Accepts {
			chain, _ := network.Lookup(o.Network)
			v1 := chain.V1Name
			if v1 == "" {
				v1 = o.Network
			}
			accepts = append(accepts, map[string]any{
				"scheme": o.Scheme, "network": v1, "maxAmountRequired": o.Amount, "asset": o.Asset, "payTo": o.PayTo, "resource": required.Resource.URL,
				"description": "", "mimeType": "", "maxTimeoutSeconds": o.MaxTimeoutSeconds, "extra": o.Extra,
			})
		}
		w.WriteHeader(402)
		json.NewEncoder(w).Encode(map[string]any{name: 1, "error": reason, "accepts": accepts})
		return
	}
	header, err := x402.EncodeHeader(required)
	if err != nil {
		s.Error(err)
	}
	w.Header().Set(x402.HeaderRequired, header)
	w.WriteHeader(402)
	fmt.Fprint(w, "{}")
}

func (s *till) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p, err := x402.ReadPayment(r.Header)
	if err != nil {
		s.Errorf("payment: %v", err)
	}
	if p == nil {
		s.mu.Lock()
		s.asked++
		s.mu.Unlock()
		s.demand(w, r, "")
		return
	}
	got := paid{Payment: *p, header: p.Raw}
	for _, o := range s.list() {
		if o.Scheme == p.Scheme && o.Network == p.Network && (p.Accepted == nil || x402.Matches(*p.Accepted, o)) {
			got.offer = o
		}
	}
	var e purchase.Extension
	if json.Unmarshal(p.Extensions[purchase.ExtensionKey], &e) == nil {
		got.id = e.Purchase
	}
	var form struct {
		Draw *struct{ Bundle, Signature string }
	}
	_ = json.Unmarshal(p.Payload, &form)
	if form.Draw != nil {
		got.draw = *form.Draw
	} else if got.offer.Scheme != "" && got.offer.Scheme != guarantee.Scheme {
		if got.auth, err = exact.Read(*p, got.offer); err == nil {
			err = got.auth.Accept(got.offer, s.chain.now())
		}
		if err != nil {
			s.Errorf("payment is not what was asked for: %v", err)
		}
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
	if got.offer.Scheme == "" {
		s.demand(w, r, "No matching payment requirements")
		return
	}
	s.sell(w, r, got)
}

// sell settles and answers.
func (s *till) sell(w http.ResponseWriter, r *http.Request, got paid) {
	receipt := x402.SettleResponse{Success: true, Network: got.offer.Network, Payer: buyerKey.Address().String()}
	if got.draw.Bundle != "" {
		left, ok := s.take(got)
		if !ok {
			s.demand(w, r, "payment_required")
			return
		}
		receipt.Amount = "0"
		receipt.Extra = map[string]json.RawMessage{"bundle": raw(map[string]any{
			"id": got.draw.Bundle, "total": s.calls, "remaining": left, "expires": noon.Add(24 * time.Hour).Format(time.RFC3339)})}
	} else {
		amount := got.auth.Amount
		if s.actual != nil {
			amount = money.Units(s.actual(got))
		}
		tx, err := s.chain.settle(got.auth, amount)
		if err != nil {
			s.demand(w, r, code(err))
			return
		}
		receipt.Transaction = tx.String()
		if got.offer.Scheme == exact.UptoScheme {
			receipt.Amount = amount.String()
		}
		if s.calls > 0 {
			s.mu.Lock()
			if s.left == nil {
				s.left, s.drawn = make(map[string]uint64), make(map[string]uint64)
			}
			s.left[got.id] = s.calls - 1
			s.mu.Unlock()
			receipt.Extra = map[string]json.RawMessage{"bundle": raw(map[string]any{
				"id": got.id, "total": s.calls, "remaining": s.calls - 1, "expires": noon.Add(24 * time.Hour).Format(time.RFC3339)})}
		}
	}
	if s.receipt != nil {
		s.receipt(&receipt, got)
	}
	text, err := x402.EncodeHeader(receipt)
	if err != nil {
		s.Error(err)
	}
	name := x402.HeaderResponse
	if s.version == 1 {
		name = x402.HeaderXResponse
	}
	w.Header().Set(name, text)
	fmt.Fprintf(w, "sold by %s", got.offer.Scheme)
}

// take draws one call of a bundle, once per payment.
func (s *till) take(got paid) (left uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left, ok = s.drawn[got.header]; ok {
		return left, true
	}
	if s.left[got.draw.Bundle] == 0 {
		return 0, false
	}
	s.left[got.draw.Bundle]--
	s.drawn[got.header] = s.left[got.draw.Bundle]
	return s.left[got.draw.Bundle], true
}

// signed counts different transfers that arrived, and draws those of bundles.
func (s *till) signed() (transfers, draws int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := make(map[string]bool)
	for _, p := range s.payments {
		switch {
		case seen[p.header]:
		case p.draw.Bundle != "":
			draws++
		default:
			transfers++
		}
		seen[p.header] = true
	}
	return transfers, draws
}

func (s *till) start(t *testing.T) *till {
	t.Helper()
	s.T = t
	if s.chain == nil {
		s.chain = newLedgerChain()
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// newWallet makes a payer without a clearing house, whose account the till's chain has.
func (s *till) payer(t *testing.T, change ...func(*Config)) *Payer {
	t.Helper()
	return newPayer(t, append([]func(*Config){func(c *Config) { c.Houses, c.Wallet, c.Budget.PerDay = nil, s.chain, "$1" }}, change...)...)
}

func post(p *Payer, address, body string) (*http.Response, error) {
	resp, err := (&http.Client{Transport: p}).Post(address, "text/plain", bytes.NewReader([]byte(body)))
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	return resp, err
}

type (
	writer  = http.ResponseWriter
	request = http.Request
	ctx     = context.Context
)

// hangUp ends the connection without an answer.
func hangUp(t *testing.T, w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	conn.Close()
}

func pendingOf(err error) *PendingError {
	var p *PendingError
	errors.As(err, &p)
	return p
}

type rawJSON = json.RawMessage

// approving is a wallet that can also sign approvals, honestly or not.
type approving struct {
	*ledgerChain
	spoil bool
	asked evm.Address
}

func (w *approving) Approval(ctx context.Context, chainID uint64, token evm.Address) ([]byte, error) {
	w.asked = token
	if w.spoil {
		token = otherKey.Address()
	}
	data := evm.EncodeCall(evm.Selector("approve(address,uint256)"), evm.WordArg(exact.Permit2Address.Word()), evm.WordArg(money.MaxAmount().Word()))
	body := [][]byte{number(chainID), number(0), number(1), number(2), number(70_000), token[:], nil, data}
	unsigned := append([]byte{2}, rlpList(append(rlpItems(body), 0xc0))...)
	sig, err := buyerKey.Sign(ctx, evm.Keccak256(unsigned))
	if err != nil {
		return nil, err
	}
	signed := append(rlpItems(body), 0xc0)
	signed = append(signed, rlpItems([][]byte{number(uint64(sig[64] - 27)), bytes.TrimLeft(sig[:32], "\x00"), bytes.TrimLeft(sig[32:64], "\x00")})...)
	return append([]byte{2}, rlpList(signed)...), nil
}

// number is a number as RLP has it: big-endian, without leading zeros.
func number(n uint64) []byte {
	w := evm.WordUint64(n)
	return bytes.TrimLeft(w[:], "\x00")
}

func rlpItems(items [][]byte) (out []byte) {
	for _, b := range items {
		if len(b) == 1 && b[0] < 0x80 {
			out = append(out, b[0])
			continue
		}
		out = append(append(out, rlpHead(0x80, len(b))...), b...)
	}
	return out
}

func rlpList(content []byte) []byte { return append(rlpHead(0xc0, len(content)), content...) }

func rlpHead(kind byte, size int) []byte {
	if size < 56 {
		return []byte{kind + byte(size)}
	}
	n := number(uint64(size))
	return append([]byte{kind + 55 + byte(len(n))}, n...)
}

// testClock is a clock that a test sets while handlers read it.
type testClock struct{ at atomic.Int64 }

func newClock() *testClock { c := &testClock{}; c.set(noon); return c }

func (c *testClock) set(t time.Time) { c.at.Store(t.UnixNano()) }

func (c *testClock) now() time.Time { return time.Unix(0, c.at.Load()).UTC() }
