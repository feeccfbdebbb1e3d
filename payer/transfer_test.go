package payer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// settler is a facilitator as a test wants it to behave. Its zero value brings everything to the chain.
type settler struct {
	*testing.T
	chain *ledgerChain
	fate  func(try int, settle func() (x402.SettleResponse, error)) (x402.SettleResponse, error)

	mu    sync.Mutex
	auths []exact.Authorization // guarded by mu
}

func (s *settler) Verify(_ context.Context, p x402.Payment, r x402.Requirements) (x402.VerifyResponse, error) {
	a, err := exact.Read(p, r)
	if err == nil {
		err = a.Accept(r, s.chain.now())
	}
	if err != nil {
		return x402.VerifyResponse{InvalidReason: code(err)}, nil
	}
	return x402.VerifyResponse{IsValid: true, Payer: a.From.String()}, nil
}

func (s *settler) Supported(context.Context) (x402.Supported, error) {
	return x402.Supported{Kinds: []x402.Kind{
		{X402Version: 2, Scheme: exact.Scheme, Network: "eip155:31337"}, {X402Version: 1, Scheme: exact.Scheme, Network: "eip155:31337"},
		{X402Version: 2, Scheme: exact.UptoScheme, Network: "eip155:31337", Extra: map[string]json.RawMessage{"facilitatorAddress": raw(otherKey.Address())}},
	}}, nil
}

func (s *settler) Settle(_ context.Context, p x402.Payment, r x402.Requirements) (x402.SettleResponse, error) {
	a, err := exact.Read(p, r)
	if err == nil && a.Scheme == exact.Scheme { // of an upto the terms have what is charged
		err = a.Accept(r, s.chain.now())
	}
	if err != nil && code(err) != "invalid_exact_evm_payload_authorization_valid_before" {
		s.Errorf("payment: %v", err)
	}
	s.mu.Lock()
	try := len(s.auths)
	s.auths = append(s.auths, a)
	s.mu.Unlock()
	settle := func() (x402.SettleResponse, error) {
		amount, err := money.ParseAmount(r.Amount)
		if err != nil {
			return x402.SettleResponse{ErrorReason: code(err)}, nil
		}
		tx, err := s.chain.settle(a, amount)
		if err != nil {
			return x402.SettleResponse{ErrorReason: code(err)}, nil
		}
		return x402.SettleResponse{Success: true, Transaction: tx.String(), Network: r.Network, Amount: r.Amount}, nil
	}
	if s.fate != nil {
		return s.fate(try, settle)
	}
	return settle()
}

func (s *settler) signed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := make(map[evm.Hash]bool)
	for _, a := range s.auths {
		seen[a.ID()] = true
	}
	return len(seen)
}

// direct is a sender that remembers what it sent.
type direct struct {
	fate func() error

	mu   sync.Mutex
	sent map[string]string // guarded by mu; by id
}

func (d *direct) Send(_ context.Context, id string, chainID uint64, token, to evm.Address, amount money.Amount) (evm.Hash, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fate != nil {
		if err := d.fate(); err != nil {
			return evm.Hash{}, err
		}
	}
	d.sent[id] = fmt.Sprintf("%s of %s on %d to %s", amount, token, chainID, to)
	return evm.Keccak256([]byte(id)), nil
}

var friend = newKey("friend").Address()

func newPaying(t *testing.T, s *settler, change ...func(*Config)) *Payer {
	t.Helper()
	s.T = t
	if s.chain == nil {
		s.chain = newLedgerChain()
	}
	return newPayer(t, append([]func(*Config){func(c *Config) {
		c.Houses, c.Facilitator, c.Wallet, c.Budget = nil, s, s.chain, Budget{PerCall: "$1", PerDay: "$1"}
	}}, change...)...)
}

func TestPay(t *testing.T) {
	t.Parallel()
	s := &settler{}
	p := newPaying(t, s)
	r, err := p.Pay(t.Context(), friend, "0.25", "USDC", On("dev"))
	if err != nil || r.State != Charged || r.Charged != money.Units(250_000) || !r.Proven || r.Way != "transfer" || today(t, p) != "$0.75" {
		t.Fatalf("%+v, %v, %s left", r, err, today(t, p))
	}
	a := s.auths[0]
	if a.To != friend || a.From != buyerKey.Address() || a.Amount != money.Units(250_000) || a.ChainID != 31337 || a.Signed() != nil || r.Digest != a.ID() {
		t.Errorf("%+v", a)
	}
	if want := "paid $0.25 to " + friend.Short() + " by transfer · purchase " + r.ID + " · tx " + r.Transaction; r.String() != want || r.Transaction == "" {
		t.Errorf("%s, want %s", r, want)
	}
	if again, err := p.ReceiptOf(r.ID); err != nil || again.Way != "transfer" || again.Transaction != r.Transaction {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestPayDirectly(t *testing.T) {
	t.Parallel()
	d := &direct{sent: make(map[string]string)}
	p := newPaying(t, &settler{}, func(c *Config) { c.Facilitator, c.Sender = nil, d })
	r, err := p.Pay(t.Context(), friend, "0.25", "usdc", On("dev"))
	if err != nil || r.State != Charged || d.sent[r.ID] != "250000 of "+evm.MustAddress(dollarText).String()+" on 31337 to "+friend.String() || today(t, p) != "$0.75" {
		t.Fatalf("%+v, %v, sent %v", r, err, d.sent)
	}
	d.fate = func() error { return fmt.Errorf("no gas: %w", ErrNotSent) }
	if _, err := p.Pay(t.Context(), friend, "0.25", "USDC", On("dev")); !errors.Is(err, ErrNotSent) || today(t, p) != "$0.75" {
		t.Errorf("%v, %s left", err, today(t, p))
	}
	d.fate = func() error { return context.DeadlineExceeded }
	_, err = p.Pay(t.Context(), friend, "0.25", "USDC", On("dev"))
	pending := pendingOf(err)
	if pending == nil || !pending.Pay || today(t, p) != "$0.50" {
		t.Fatalf("%v, %s left", err, today(t, p))
	}
	d.fate = nil
	if r, err := p.ResumePay(t.Context(), pending.Purchase); err != nil || r.State != Charged || len(d.sent) != 2 || today(t, p) != "$0.50" {
		t.Errorf("%+v, %v, sent %v", r, err, d.sent)
	}
}

// What could only be a mistake is refused before anything is signed.
func TestPaymentsThatAreMistakes(t *testing.T) {
	t.Parallel()
	s := &settler{}
	p := newPaying(t, s)
	for _, test := range []struct {
		name          string
		to            evm.Address
		amount, asset string
		on, code      string
	}{
		{"to nobody", evm.Address{}, "1", "USDC", "dev", "usage"},
		{"to oneself", buyerKey.Address(), "1", "USDC", "dev", "usage"},
		{"to the token", evm.MustAddress(dollarText), "1", "USDC", "dev", "usage"},
		{"nothing", friend, "0", "USDC", "dev", "price_invalid"},
		{"nothing, at length", friend, "0.000000", "USDC", "dev", "price_invalid"},
		{"less than there is", friend, "0.0000001", "USDC", "dev", "price_invalid"},
		{"negative", friend, "-1", "USDC", "dev", "price_invalid"},
		{"with an exponent", friend, "1e2", "USDC", "dev", "price_invalid"},
		{"with a sign", friend, "+1", "USDC", "dev", "price_invalid"},
		{"with a space", friend, " 1", "USDC", "dev", "price_invalid"},
		{"no number", friend, "NaN", "USDC", "dev", "price_invalid"},
		{"two points", friend, "1.2.3", "USDC", "dev", "price_invalid"},
		{"empty", friend, "", "USDC", "dev", "price_invalid"},
		{"more than numbers go", friend, strings.Repeat("9", 90), "USDC", "dev", "price_invalid"},
		{"more than there is", friend, "1.01", "USDC", "dev", "insufficient_funds"},
		{"another coin", friend, "1", "XYZ", "dev", "asset_unknown"},
		{"a coin that is not there", friend, "1", "USDT", "base", "asset_unknown"},
		{"another network", friend, "1", "USDC", "bose", "network_unknown"},
		{"on no network", friend, "1", "USDC", "", "usage"},
		{"a token without signatures", friend, "1", "USDT", "ethereum", "config_invalid"},
	} {
		p := newPaying(t, s, func(c *Config) { c.Budget = Budget{PerCall: "$9", PerDay: "$9"} })
		if _, err := p.Pay(t.Context(), test.to, test.amount, test.asset, On(test.on)); code(err) != test.code || today(t, p) != "$9.00" {
			t.Errorf("%s: %v, %s left", test.name, err, today(t, p))
		}
	}
	if _, err := p.Pay(t.Context(), friend, "1.000001", "USDC", On("dev")); code(err) != "budget_exceeded" || need(err).Ways[0].Text != "--max '$1.000001'" {
		t.Errorf("over the budget: %v", err)
	}
	if _, err := newPaying(t, s, func(c *Config) { c.Facilitator = nil }).Pay(t.Context(), friend, "1", "USDC", On("dev")); code(err) != "config_invalid" {
		t.Errorf("by nobody: %v", err)
	}
	if r, err := p.Check(friend, "0.5", "USDC", On("dev")); err != nil || r.State != Reserved || r.Signed != money.Units(500_000) || today(t, p) != "$1.00" {
		t.Errorf("checked: %+v, %v", r, err)
	}
	if len(s.auths) != 0 {
		t.Errorf("%d signed", len(s.auths))
	}
}

// One payment is made under a name, whatever is lost and however often it is asked for.
func TestANameIsPaidOnce(t *testing.T) {
	t.Parallel()
	s := &settler{}
	path := journalFile(t)
	s.fate = func(try int, settle func() (x402.SettleResponse, error)) (x402.SettleResponse, error) {
		if try == 0 { // carried out, and the answer lost
			if _, err := settle(); err != nil {
				t.Error(err)
			}
			return x402.SettleResponse{}, x402.Errorf("settlement_pending", "facilitator hung up")
		}
		return settle()
	}
	p := newPaying(t, s, inFile(path))
	_, err := p.Pay(t.Context(), friend, "0.10", "USDC", On("dev"), As("invoice 7"))
	if pending := pendingOf(err); pending == nil || code(err) != "settlement_pending" || !strings.Contains(errorHint(err), "farthing pay --resume "+pending.Purchase) {
		t.Fatal(err)
	}
	p.Close()
	p = newPaying(t, s, inFile(path), func(c *Config) { c.Wallet = nil }) // only the facilitator can tell
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if r, err := p.Pay(t.Context(), friend, "0.10", "USDC", On("dev"), As("invoice 7")); err != nil || r.State != Charged {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
	wg.Wait()
	if s.signed() != 1 || today(t, p) != "$0.90" {
		t.Errorf("%d signed, %s left", s.signed(), today(t, p))
	}
	for _, other := range []func() error{
		func() error {
			_, err := p.Pay(t.Context(), friend, "0.11", "USDC", On("dev"), As("invoice 7"))
			return err
		},
		func() error {
			_, err := p.Pay(t.Context(), sellerKey.Address(), "0.10", "USDC", On("dev"), As("invoice 7"))
			return err
		},
		func() error {
			_, err := p.Pay(t.Context(), friend, "0.10", "USDC", On("base"), As("invoice 7"))
			return err
		},
	} {
		if err := other(); code(err) != "id_reused" {
			t.Errorf("another payment of the same name: %v", err)
		}
	}
	if _, err := p.Pay(t.Context(), friend, "0.10", "USDC", On("dev"), As("invoice 8")); err != nil || s.signed() != 2 {
		t.Errorf("another name: %v", err)
	}
}

func errorHint(err error) string {
	var e *x402.Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}

// Whatever a facilitator does: one signature, and a budget that knows what may still be charged.
func TestFacilitatorsThatFail(t *testing.T) {
	t.Parallel()
	fail := func(reason string) func(int, func() (x402.SettleResponse, error)) (x402.SettleResponse, error) {
		return func(int, func() (x402.SettleResponse, error)) (x402.SettleResponse, error) {
			return x402.SettleResponse{ErrorReason: reason}, nil
		}
	}
	errs := func(code string) func(int, func() (x402.SettleResponse, error)) (x402.SettleResponse, error) {
		return func(int, func() (x402.SettleResponse, error)) (x402.SettleResponse, error) {
			return x402.SettleResponse{}, x402.Errorf(code, "no")
		}
	}
	for _, test := range []struct {
		name    string
		fate    func(int, func() (x402.SettleResponse, error)) (x402.SettleResponse, error)
		code    string
		pending bool
		state   State
		proven  bool
		left    string
	}{
		{"refuses", fail("invalid_exact_evm_transaction_failed"), "invalid_exact_evm_transaction_failed", false, Void, false, "$1.00"},
		{"refuses in words of its own", fail("computer says no"), "payment_refused", false, Void, false, "$1.00"},
		{"says pending", fail("settlement_pending"), "settlement_pending", true, Sent, false, "$0.90"},
		{"cannot say", fail("unexpected_settle_error"), "settlement_pending", true, Sent, false, "$0.90"},
		{"is not there", errs("facilitator_unreachable"), "facilitator_unreachable", false, Void, true, "$1.00"},
		{"turns away", errs("facilitator_fault"), "facilitator_fault", false, Void, false, "$1.00"},
		{"hangs up", errs("settlement_pending"), "settlement_pending", true, Sent, false, "$0.90"},
		{"knows the nonce", fail("duplicate_settlement"), "", false, Charged, false, "$0.90"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := &settler{fate: test.fate}
			p := newPaying(t, s)
			_, err := p.Pay(t.Context(), friend, "0.10", "USDC", On("dev"))
			if test.code == "" && err != nil || test.code != "" && code(err) != test.code || (pendingOf(err) != nil) != test.pending {
				t.Errorf("%v", err)
			}
			list, _ := p.Receipts()
			if len(list) != 1 || list[0].State != test.state || list[0].Proven != test.proven || today(t, p) != test.left {
				t.Errorf("%+v, %s left", list, today(t, p))
			}
		})
	}
}

// A transfer whose time is over and that the chain never saw is given up, and only then a new one is signed for its name.
func TestANameIsPaidAnewOnceItsTransferIsDead(t *testing.T) {
	t.Parallel()
	now := noon
	s := &settler{chain: newLedgerChain()}
	s.chain.now = func() time.Time { return now }
	dead := true
	s.fate = func(_ int, settle func() (x402.SettleResponse, error)) (x402.SettleResponse, error) {
		if dead {
			return x402.SettleResponse{}, x402.Errorf("settlement_pending", "hung up")
		}
		return settle()
	}
	p := newPaying(t, s, inFile(journalFile(t)), func(c *Config) { c.Now = func() time.Time { return now } })
	pay := func() error {
		_, err := p.Pay(t.Context(), friend, "0.10", "USDC", On("dev"), As("rent"))
		return err
	}
	for _, after := range []time.Duration{0, time.Minute, transferValid + chainSlack} {
		now = noon.Add(after)
		if err := pay(); pendingOf(err) == nil || s.signed() != 1 || today(t, p) != "$0.90" {
			t.Fatalf("after %s: %v, %d signed, %s left", after, err, s.signed(), today(t, p))
		}
	}
	now = now.Add(time.Second)
	if err := pay(); code(err) != "payment_void" || s.signed() != 1 || today(t, p) != "$1.00" {
		t.Fatalf("%v, %d signed, %s left", err, s.signed(), today(t, p))
	}
	dead = false
	if err := pay(); err != nil || s.signed() != 2 || today(t, p) != "$0.90" {
		t.Errorf("%v, %d signed, %s left", err, s.signed(), today(t, p))
	}
	for _, id := range []string{"p_nothing", ""} {
		if _, err := p.ResumePay(t.Context(), id); code(err) != "not_found" {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// What is paid outside a request is no seller's, and what a seller was paid is not to be resumed as if it were.
func TestPaymentsAndPurchasesDoNotMix(t *testing.T) {
	t.Parallel()
	s := (&seller{}).start(t)
	f := &settler{}
	p := newPaying(t, f, func(c *Config) { c.Houses = append(c.Houses, deployment) })
	_, bought, err := get(p, s.url)
	if err != nil {
		t.Fatal(err)
	}
	paid, err := p.Pay(t.Context(), friend, "0.1", "USDC", On("dev"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.ResumePay(t.Context(), bought.ID); code(err) != "not_found" {
		t.Errorf("%v", err)
	}
	if _, err := p.Resume(t.Context(), paid.ID); code(err) != "not_found" {
		t.Errorf("%v", err)
	}
}
