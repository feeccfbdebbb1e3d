package facilitator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/api"
	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/facilitator"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/internal/sim"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/x402"
)

// cycleStart is when the houses of these tests open.
const cycleStart = 1_700_000_000

// deposited is what their buyer has in the vault.
const deposited = 1_000_000

// front is a facilitator over HTTP for the guarantees of a clearing house that also speaks HTTP.
type front struct {
	world // of which only what speaks HTTP is there
	house *clearing.House
	api   *httptest.Server
	d     guarantee.Deployment
	buyer *evm.PrivateKey
	now   atomic.Int64
	ids   byte
}

type frontOptions struct {
	closed bool // the house tells nobody's balance
	judges bool // the house trusts the chain's registry of validators
	house  func(facilitator.House) facilitator.House
	config func(*facilitator.Config)
}

func newFront(t *testing.T, o frontOptions) *front {
	t.Helper()
	f := &front{world: world{T: t}, buyer: payer(0)}
	f.now.Store(cycleStart + 10)
	now := func() time.Time { return time.Unix(f.now.Load(), 0) }
	vault := evm.MustAddress("0x5555555555555555555555555555555555555555")
	f.d = guarantee.Deployment{ChainID: 31337, Name: "4Mica " + vault.Lower(), Version: "1", Vault: vault, ClearingHouse: evm.Address{0x77}}
	authority, err := guarantee.NewAuthority(append(make([]byte, 31), 9))
	if err != nil {
		t.Fatal(err)
	}
	schedule := clearing.Schedule{Asset: devchain.TestDollar, From: cycleStart, Length: 3600, Cutoff: 60, Post: 300, Challenge: 120, Repost: 300, Redeem: 600}
	chain, err := sim.New(f.d, payee, 86_400, cycleStart, schedule)
	if err != nil {
		t.Fatal(err)
	}
	config := clearing.Config{Book: clearing.NewMemory(), Chain: chain, Deployment: f.d, Authority: authority}
	if o.judges {
		config.Registries, config.Registry = []evm.Address{sim.Registry}, chain
	}
	if f.house, err = clearing.New(config); err != nil {
		t.Fatal(err)
	}
	events := []clearing.Event{
		{Kind: clearing.ScheduleSet, Asset: schedule.Asset, Schedule: &schedule},
		{Kind: clearing.Deposited, Account: f.buyer.Address(), Asset: schedule.Asset, Amount: money.Units(deposited), LogIndex: 1, TxHash: evm.Hash{1}},
	}
	for _, stream := range []clearing.Stream{clearing.Head, clearing.Confirmed} {
		if err := f.house.Apply(t.Context(), stream, clearing.Block{Number: 1, Time: cycleStart, Hash: evm.Hash{1}}, events); err != nil {
			t.Fatal(err)
		}
	}
	tokens := []network.Token{{Symbol: "USDC", Address: schedule.Asset, Decimals: 6}}
	f.api = httptest.NewServer(api.New(api.Config{House: f.house, Tokens: tokens, Inside: !o.closed, Now: now}))
	t.Cleanup(f.api.Close)
	c, err := client.New(f.api.URL)
	if err != nil {
		t.Fatal(err)
	}
	var asked facilitator.House = c
	if o.house != nil {
		asked = o.house(c)
	}
	fc := facilitator.Config{Houses: []facilitator.House{asked}, Now: now}
	if o.config != nil {
		o.config(&fc)
	}
	if f.f, err = facilitator.New(fc); err != nil {
		t.Fatal(err)
	}
	f.server = httptest.NewServer(f.f.Handler())
	t.Cleanup(f.server.Close)
	f.http = x402.Client{Base: f.server.URL}
	return f
}

// asks are a seller's terms.
func asks(amount uint64) x402.Requirements {
	return x402.Requirements{
		Scheme: guarantee.Scheme, Network: "eip155:31337", Amount: fmt.Sprint(amount), Asset: devchain.TestDollar.String(), PayTo: payee.String(),
		MaxTimeoutSeconds: 60, Extra: map[string]json.RawMessage{"tabEndpoint": raw("https://api.example.org/tab")},
	}
}

// sign makes a guarantee for terms, with a request id of its own.
func (f *front) sign(r x402.Requirements) guarantee.Signed {
	f.Helper()
	f.ids++
	s, err := guarantee.Pay(f.Context(), f.buyer, f.d, r, evm.Hash{31: f.ids}, time.Unix(f.now.Load(), 0))
	if err != nil {
		f.Fatal(err)
	}
	return s
}

func (f *front) promise(s guarantee.Signed, r x402.Requirements) x402.Payment {
	f.Helper()
	p, err := x402.NewPayment(x402.PaymentRequired{X402Version: 2}, r, s)
	if err != nil {
		f.Fatal(err)
	}
	return p
}

// Guarantees that depend on a validator are verified, settled and answered again like others, where the house trusts the
// registry; the terms are held to.
func TestGuaranteesThatDependOnAValidator(t *testing.T) {
	t.Parallel()
	f := newFront(t, frontOptions{judges: true})
	with := func(registry evm.Address) x402.Requirements {
		r := asks(700)
		policy := guarantee.Policy{Registry: registry, ChainID: 31337, Validator: evm.Address{1}, AgentID: evm.Hash{31: 1}, MinScore: 80, JobHash: evm.Hash{2}}
		for member, value := range policy.Extra() {
			text, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			r.Extra[member] = text
		}
		return r
	}
	r := with(sim.Registry)
	s := f.sign(r)
	pay := f.promise(s, r)
	for range 2 {
		if v, err := f.http.Verify(t.Context(), pay, r); err != nil || !v.IsValid {
			t.Fatalf("verify %+v, %v", v, err)
		}
		settled, err := f.http.Settle(t.Context(), pay, r)
		if err != nil || !settled.Success {
			t.Fatalf("settle %+v, %v", settled, err)
		}
		f.now.Add(400) // beyond the window: it is known all the same
	}
	if f.exposure() != 700 {
		t.Errorf("%d is locked", f.exposure())
	}
	f.now.Add(-800)
	other := with(evm.Address{9})
	if v, err := f.http.Verify(t.Context(), f.promise(f.sign(other), other), other); err != nil || v.IsValid {
		t.Errorf("a registry that nobody trusts: %+v, %v", v, err)
	}
	plain := f.sign(asks(700))
	if v, err := f.http.Verify(t.Context(), f.promise(plain, r), r); err != nil || v.IsValid {
		t.Errorf("a promise without the condition: %+v, %v", v, err)
	}
}

// exposure is what the buyer has promised, in the house's book.
func (f *front) exposure() uint64 {
	f.Helper()
	a, err := f.house.Account(f.Context(), f.buyer.Address(), devchain.TestDollar)
	if err != nil {
		f.Fatal(err)
	}
	n, _ := a.Exposure().Uint64()
	return n
}

// What a seller gets who knows x402 only, and what 4Mica's clients read, are in one answer.
func TestAGuaranteeIsVerifiedAndSettled(t *testing.T) {
	t.Parallel()
	f := newFront(t, frontOptions{})
	r := asks(500)
	buyer := f.buyer.Address().String()
	for name, change := range map[string]func(x402.Payment) x402.Payment{
		"version 1": inOne, "version 2": func(p x402.Payment) x402.Payment { return p },
	} {
		s := f.sign(r)
		before := f.exposure()
		body := body(change(f.promise(s, r)), r)
		if status, v, _ := f.post("/verify", body); status != 200 || v["isValid"] != true || v["payer"] != buyer {
			t.Fatalf("%s: verified: %d %v", name, status, v)
		}
		if f.exposure() != before {
			t.Errorf("%s: verifying locked something", name)
		}
		status, first, _ := f.post("/settle", body)
		for member, want := range map[string]any{
			"success": true, "payer": buyer, "network": "eip155:31337", "networkId": "eip155:31337", "transaction": "", "amount": "500",
			"error": nil, "errorReason": nil, "txHash": nil,
		} {
			if first[member] != want {
				t.Errorf("%s: settled: %s is %v, want %v", name, member, first[member], want)
			}
		}
		certificate, _ := first["certificate"].(map[string]any)
		claims, _ := certificate["claims"].(string)
		signature, _ := certificate["signature"].(string)
		if status != 200 || !strings.HasPrefix(claims, "0x") || !strings.HasPrefix(signature, "0x") || len(certificate) != 2 {
			t.Fatalf("%s: settled: %d %v", name, status, first)
		}
		var c guarantee.Certificate
		if err := json.Unmarshal(raw(certificate), &c); err != nil {
			t.Fatal(err)
		}
		v, err := guarantee.NewVerifier(f.house.Authority.PublicKey(), f.d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(c, s.Claims); err != nil {
			t.Errorf("%s: certificate: %v", name, err)
		}
		if f.exposure() != before+500 {
			t.Errorf("%s: %d is locked, want %d", name, f.exposure(), before+500)
		}
		// Asking again, also when the signature has grown old, gives the same certificate and locks nothing more.
		f.now.Add(400)
		if _, again, _ := f.post("/settle", body); again["success"] != true || fmt.Sprint(again["certificate"]) != fmt.Sprint(first["certificate"]) {
			t.Errorf("%s: settled again: %v", name, again)
		}
		if _, v, _ := f.post("/verify", body); v["isValid"] != true {
			t.Errorf("%s: verified after it was settled: %v", name, v)
		}
		if f.exposure() != before+500 {
			t.Errorf("%s: settling again locked %d", name, f.exposure())
		}
	}
}

func TestFacilitatorsListGuarantees(t *testing.T) {
	t.Parallel()
	f := newFront(t, frontOptions{})
	s, err := f.http.Supported(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []int{1, 2} {
		if k, ok := s.Find(version, guarantee.Scheme, "eip155:31337"); !ok || string(k.Extra["vault"]) != string(raw(f.d.Vault)) {
			t.Errorf("version %d: %+v", version, s.Kinds)
		}
	}
	if status, answer, _ := f.get("/"); status != 200 || answer["service"] == nil {
		t.Errorf("welcome: %d %v", status, answer)
	}
	if status, answer, _ := f.get("/health"); status != 200 || answer["status"] != "ok" {
		t.Errorf("health: %d %v", status, answer)
	}
	if status, answer, _ := f.get("/ready"); status != 200 {
		t.Errorf("ready: %d %v", status, answer)
	}
	// Transfers are another facilitator's.
	r := terms(500)
	if v := f.verify(f.promise(f.sign(asks(500)), r), r); v.IsValid {
		t.Error("a guarantee passed for a transfer")
	}
}

// Each is refused by both calls in the same way, with status 200, and nothing is locked.
func TestGuaranteesThatAreRefused(t *testing.T) {
	t.Parallel()
	f := newFront(t, frontOptions{})
	resign := func(change func(*guarantee.Claims)) func(*x402.Payment, *x402.Requirements) {
		return func(p *x402.Payment, r *x402.Requirements) {
			s := f.sign(*r)
			change(&s.Claims)
			s, err := guarantee.Sign(t.Context(), f.buyer, f.d, s.Claims)
			if err != nil {
				t.Fatal(err)
			}
			*p = f.promise(s, *r)
		}
	}
	type change = func(*x402.Payment, *x402.Requirements)
	for _, test := range []struct {
		name   string
		change change
		code   string
	}{
		{"underpaid", resign(func(c *guarantee.Claims) { c.Amount = money.Units(499) }), "payment_mismatch"},
		{"overpaid", resign(func(c *guarantee.Claims) { c.Amount = money.Units(501) }), "payment_mismatch"},
		{"signed for another payee", resign(func(c *guarantee.Claims) { c.Payee = evm.Address{8} }), "payment_mismatch"},
		{"signed in another asset", resign(func(c *guarantee.Claims) { c.Asset = evm.Address{8} }), "payment_mismatch"},
		{"another route's terms", func(_ *x402.Payment, r *x402.Requirements) { r.Amount = "50000" }, "payment_mismatch"},
		{"the requirements' payee is another", func(_ *x402.Payment, r *x402.Requirements) { r.PayTo = evm.Address{9}.String() }, "payment_mismatch"},
		{"the payment accepted other terms", func(p *x402.Payment, r *x402.Requirements) {
			a := *r
			a.Amount = "1"
			p.Accepted = &a
		}, "payment_mismatch"},
		{"scheme of the requirements", func(_ *x402.Payment, r *x402.Requirements) { r.Scheme = "4mica" }, "payment_mismatch"},
		{"scheme of the payment", func(p *x402.Payment, _ *x402.Requirements) {
			a := *p.Accepted
			a.Scheme, p.Scheme, p.Accepted = "exact", "exact", &a
		}, "payment_mismatch"},
		{"network of the payment", func(p *x402.Payment, _ *x402.Requirements) {
			a := *p.Accepted
			a.Network, p.Network, p.Accepted = "eip155:1", "eip155:1", &a
		}, "payment_mismatch"},
		{"a chain that the house does not clear", func(p *x402.Payment, r *x402.Requirements) {
			r.Network = "eip155:1"
			a := *r
			p.Network, p.Accepted = "eip155:1", &a
		}, "invalid_network"},
		{"no payload", func(p *x402.Payment, _ *x402.Requirements) { p.Payload = json.RawMessage(`{}`) }, "payment_undecodable"},
		{"a payload with a member twice", func(p *x402.Payment, _ *x402.Requirements) {
			p.Payload = append(bytes.TrimSuffix(bytes.Clone(p.Payload), []byte("}")), `,"claims":{}}`...)
		}, ""},
		{"nothing to pay", func(p *x402.Payment, r *x402.Requirements) {
			r.Amount = "0"
			a := *r
			p.Accepted = &a
		}, "invalid_payment_requirements"},
		{"signed by somebody else", func(p *x402.Payment, r *x402.Requirements) {
			s := f.sign(*r)
			sig, err := payer(1).Sign(t.Context(), s.Claims.Digest(f.d.ClaimsSeparator()))
			if err != nil {
				t.Fatal(err)
			}
			s.Signature = sig
			*p = f.promise(s, *r)
		}, "payer_signature_invalid"},
		{"signed for another deployment", func(p *x402.Payment, r *x402.Requirements) {
			d := f.d
			d.Name = "4Mica"
			s, err := guarantee.Pay(t.Context(), f.buyer, d, *r, evm.Hash{9}, time.Unix(f.now.Load(), 0))
			if err != nil {
				t.Fatal(err)
			}
			*p = f.promise(s, *r)
		}, "payer_signature_invalid"},
		{"signed long ago", resign(func(c *guarantee.Claims) { c.Timestamp -= 301 }), "timestamp_skew"},
		{"signed in the future", resign(func(c *guarantee.Claims) { c.Timestamp += 31 }), "timestamp_skew"},
		{"more than the collateral", func(p *x402.Payment, r *x402.Requirements) {
			*r = asks(deposited + 1)
			*p = f.promise(f.sign(*r), *r)
		}, "collateral_insufficient"},
	} {
		r := asks(500)
		p := f.promise(f.sign(r), r)
		test.change(&p, &r)
		body := body(p, r)
		if test.code == "" { // no reader may choose one of two
			if status, answer, _ := f.post("/settle", body); status != 400 || answer["error"] == nil {
				t.Errorf("%s: %d %v", test.name, status, answer)
			}
			continue
		}
		status, v, _ := f.post("/verify", body)
		if status != 200 || v["isValid"] != false || v["invalidReason"] != test.code || v["invalidMessage"] == nil {
			t.Errorf("%s: verified: %d %v", test.name, status, v)
		}
		status, s, _ := f.post("/settle", body)
		if status != 200 || s["success"] != false || s["errorReason"] != test.code || s["error"] == nil || s["certificate"] != nil || s["transaction"] != "" {
			t.Errorf("%s: settled: %d %v", test.name, status, s)
		}
	}
	if f.exposure() != 0 {
		t.Errorf("%d is locked", f.exposure())
	}
}

// The forms that 4Mica's clients send besides those of our own.
func TestFormsOfStockClients(t *testing.T) {
	t.Parallel()
	f := newFront(t, frontOptions{})
	r := asks(500)
	s := f.sign(r)
	payload := string(raw(s))
	for name, body := range map[string]string{
		"an old envelope, a header beside it, an amount in hexadecimal": fmt.Sprintf(`{"x402Version":1,"paymentHeader":"ZZ","paymentPayload":{"x402Version":1,"scheme":"4mica-credit",
			"network":"eip155:31337","payload":%s},"paymentRequirements":{"scheme":"4mica-credit","network":"eip155:31337","maxAmountRequired":"0x1f4","payTo":%q,"asset":%q,"extra":{}}}`,
			payload, payee.Lower(), devchain.TestDollar.Lower()),
		"a new envelope, numbered 1, without a version around it": fmt.Sprintf(`{"paymentPayload":{"x402Version":1,"accepted":{"scheme":"4mica-credit","network":"eip155:31337",
			"amount":"500","payTo":%q,"asset":%q,"maxTimeoutSeconds":300,"extra":{"tabEndpoint":"x"}},"payload":%s},"paymentRequirements":{"scheme":"4mica-credit",
			"network":"eip155:31337","amount":"500","payTo":%q,"asset":%q,"maxTimeoutSeconds":300}}`,
			payee.String(), devchain.TestDollar.String(), payload, payee.Lower(), devchain.TestDollar.Lower()),
	} {
		if status, v, _ := f.post("/verify", []byte(body)); status != 200 || v["isValid"] != true {
			t.Errorf("%s: verified: %d %v", name, status, v)
		}
		if status, s, _ := f.post("/settle", []byte(body)); status != 200 || s["success"] != true {
			t.Errorf("%s: settled: %d %v", name, status, s)
		}
	}
	for _, bad := range []string{"", "{", "[]", `{"paymentPayload":7}`, `{"paymentPayload":{}}`} {
		for _, path := range []string{"/verify", "/settle"} {
			if status, answer, _ := f.post(path, []byte(bad)); status != 400 || answer["success"] != nil || answer["isValid"] != nil {
				t.Errorf("%s %q: %d %v", path, bad, status, answer)
			}
		}
	}
}

// A house that does not tell balances is asked when the guarantee is settled.
func TestAHouseThatTellsNoBalance(t *testing.T) {
	t.Parallel()
	f := newFront(t, frontOptions{closed: true})
	r := asks(deposited + 1)
	p := f.promise(f.sign(r), r)
	if v := f.verify(p, r); !v.IsValid {
		t.Errorf("verified: %+v", v)
	}
	if s := f.settle(p, r); s.Success || s.ErrorReason != "collateral_insufficient" {
		t.Errorf("settled: %+v", s)
	}
	f.now.Add(301)
	if v := f.verify(p, r); v.IsValid || v.InvalidReason != "timestamp_skew" {
		t.Errorf("verified late: %+v", v)
	}
}

// liar is a house that answers with certificates of its own choice.
type liar struct {
	facilitator.House
	certify func(guarantee.Signed) (guarantee.Certificate, error)
}

func (l *liar) CertifyAlone(_ context.Context, s guarantee.Signed) (guarantee.Certificate, error) {
	return l.certify(s)
}

// A certificate of something else, or of somebody else, is no settlement; nor is it a refusal of the payment.
func TestFalseCertificatesAreNoSettlement(t *testing.T) {
	t.Parallel()
	other, err := guarantee.NewAuthority(append(make([]byte, 31), 5))
	if err != nil {
		t.Fatal(err)
	}
	l := &liar{}
	f := newFront(t, frontOptions{house: func(h facilitator.House) facilitator.House { l.House = h; return l }})
	own := f.house.Authority
	claims := func(s guarantee.Signed, change func(*guarantee.Claims)) []byte {
		c := s.Claims
		change(&c)
		return guarantee.EncodeClaims(f.d.CertificateDomain(), evm.Hash{1}, c)
	}
	for name, test := range map[string]struct {
		certify func(guarantee.Signed) (guarantee.Certificate, error)
		code    string
	}{
		"another operator's": {func(s guarantee.Signed) (guarantee.Certificate, error) {
			return other.Certify(claims(s, func(*guarantee.Claims) {}))
		}, "certificate_invalid"},
		"another payee": {func(s guarantee.Signed) (guarantee.Certificate, error) {
			return own.Certify(claims(s, func(c *guarantee.Claims) { c.Payee = evm.Address{8} }))
		}, "certificate_mismatch"},
		"a lower amount": {func(s guarantee.Signed) (guarantee.Certificate, error) {
			return own.Certify(claims(s, func(c *guarantee.Claims) { c.Amount = money.Units(499) }))
		}, "certificate_mismatch"},
		"another request id": {func(s guarantee.Signed) (guarantee.Certificate, error) {
			return own.Certify(claims(s, func(c *guarantee.Claims) { c.ReqID[0]++ }))
		}, "certificate_mismatch"},
		"another deployment": {func(s guarantee.Signed) (guarantee.Certificate, error) {
			return own.Certify(guarantee.EncodeClaims(evm.Hash{7}, evm.Hash{1}, s.Claims))
		}, "certificate_mismatch"},
		"no answer": {func(guarantee.Signed) (guarantee.Certificate, error) {
			return guarantee.Certificate{}, x402.Errorf("house_unreachable", "timed out")
		}, "settlement_pending"},
		"it asks the facilitator to log in": {func(guarantee.Signed) (guarantee.Certificate, error) {
			return guarantee.Certificate{}, x402.Errorf("unauthorized", "missing bearer token")
		}, "house_refused"},
	} {
		l.certify = test.certify
		r := asks(500)
		status, answer, header := f.post("/settle", body(f.promise(f.sign(r), r), r))
		if status != 503 || answer["code"] != test.code || answer["success"] != nil || header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %v", name, status, answer)
		}
	}
}

func TestAHouseThatIsDown(t *testing.T) {
	t.Parallel()
	f := newFront(t, frontOptions{})
	r := asks(500)
	body := body(f.promise(f.sign(r), r), r)
	f.api.Close()
	if status, answer, _ := f.get("/supported"); status != 503 || answer["code"] != "house_unreachable" {
		t.Errorf("supported: %d %v", status, answer)
	}
	for _, path := range []string{"/verify", "/settle"} {
		if status, answer, _ := f.post(path, body); status != 503 || answer["code"] != "house_unreachable" || strings.Contains(fmt.Sprint(answer), "127.0.0.1") {
			t.Errorf("%s: %d %v", path, status, answer)
		}
	}
	if status, _, _ := f.get("/ready"); status != 503 {
		t.Errorf("ready: %d", status)
	}
}

func TestTabs(t *testing.T) {
	t.Parallel()
	f, second := newFront(t, frontOptions{}), newFront(t, frontOptions{})
	user := "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
	asset := devchain.TestDollar.String()
	seen := map[string]bool{}
	for name, q := range map[string]string{
		"the least":              fmt.Sprintf(`{"userAddress":%q,"recipientAddress":%q}`, user, payee),
		"everything":             fmt.Sprintf(`{"userAddress":%q,"recipientAddress":%q,"network":"eip155:31337","erc20Token":%q,"ttlSeconds":60,"guaranteeVersion":1,"x402Version":1}`, user, payee, asset),
		"the alias":              fmt.Sprintf(`{"userAddress":%q,"recipientAddress":%q,"assetAddress":%q,"erc20Token":null,"ttlSeconds":null}`, strings.ToLower(user), payee, asset),
		"both names of one":      fmt.Sprintf(`{"userAddress":%q,"recipientAddress":%q,"assetAddress":%q,"erc20Token":%q}`, user, payee, asset, devchain.TestDollar.Lower()),
		"in snake case":          fmt.Sprintf(`{"user_address":%q,"recipient_address":%q,"erc20_token":%q,"ttl_seconds":"60","guarantee_version":"v1"}`, user, payee, asset),
		"as a tab endpoint's":    fmt.Sprintf(`{"guaranteeVersion":1,"userAddress":%q,"paymentRequirements":%s,"resource":{"url":"u"}}`, user, raw(asks(5))),
		"of a client of tabs":    fmt.Sprintf(`{"x402Version":1,"userAddress":%q,"paymentRequirements":%s}`, user, raw(asks(5))),
		"a name of version 1":    fmt.Sprintf(`{"userAddress":%q,"recipientAddress":%q,"network":"eip155:31337"}`, user, payee),
		"the recipient as terms": fmt.Sprintf(`{"userAddress":%q,"recipientAddress":%q,"paymentRequirements":%s}`, user, payee.Lower(), raw(asks(5))),
	} {
		for _, front := range []*front{f, second, f} {
			status, tab, _ := front.post("/tabs", []byte(q))
			id, _ := tab["nextReqId"].(string)
			number, err := money.ParseAmount(id)
			if status != 200 || err != nil || number.BitLen() < 128 || seen[id] || tab["tabId"] == nil || tab["startTimestamp"] != float64(front.now.Load()) || tab["ttlSeconds"] == float64(0) ||
				!strings.EqualFold(fmt.Sprint(tab["userAddress"]), user) || tab["recipientAddress"] != payee.String() || tab["assetAddress"] != asset {
				t.Errorf("%s: %d %v", name, status, tab)
			}
			seen[id] = true
		}
	}
	for name, q := range map[string]string{
		"nothing":                  ``,
		"no object":                `[]`,
		"no user":                  fmt.Sprintf(`{"recipientAddress":%q}`, payee),
		"no recipient":             fmt.Sprintf(`{"userAddress":%q}`, user),
		"a user twice":             fmt.Sprintf(`{"userAddress":%q,"useraddress":%q,"recipientAddress":%q}`, user, payee, payee),
		"two users":                fmt.Sprintf(`{"userAddress":%q,"user_address":%q,"recipientAddress":%q}`, user, payee, payee),
		"two assets":               fmt.Sprintf(`{"userAddress":%q,"recipientAddress":%q,"erc20Token":%q,"assetAddress":%q}`, user, payee, asset, payee),
		"two versions":             fmt.Sprintf(`{"userAddress":%q,"recipientAddress":%q,"guaranteeVersion":1,"x402Version":2}`, user, payee),
		"a version that is not":    fmt.Sprintf(`{"userAddress":%q,"recipientAddress":%q,"guaranteeVersion":3}`, user, payee),
		"another network":          fmt.Sprintf(`{"userAddress":%q,"recipientAddress":%q,"network":"base"}`, user, payee),
		"another asset":            fmt.Sprintf(`{"userAddress":%q,"recipientAddress":%q,"erc20Token":%q}`, user, payee, payee),
		"no time":                  fmt.Sprintf(`{"userAddress":%q,"recipientAddress":%q,"ttlSeconds":0}`, user, payee),
		"a time that is negative":  fmt.Sprintf(`{"userAddress":%q,"recipientAddress":%q,"ttlSeconds":-1}`, user, payee),
		"terms of another scheme":  fmt.Sprintf(`{"userAddress":%q,"paymentRequirements":%s}`, user, raw(terms(5))),
		"terms of another payee":   fmt.Sprintf(`{"userAddress":%q,"recipientAddress":%q,"paymentRequirements":%s}`, user, user, raw(asks(5))),
		"terms on another network": fmt.Sprintf(`{"userAddress":%q,"network":"eip155:1","paymentRequirements":%s}`, user, raw(asks(5))),
	} {
		if status, answer, _ := f.post("/tabs", []byte(q)); status != 400 || answer["error"] == nil || answer["nextReqId"] != nil {
			t.Errorf("%s: %d %v", name, status, answer)
		}
	}
	if status, answer, _ := f.post("/tabs", bytes.Repeat([]byte("x"), x402.TabBytesMax+1)); status != 413 || answer["error"] == nil {
		t.Errorf("too large: %d %v", status, answer)
	}
	if status, _, header := f.get("/tabs"); status != 405 || header.Get("Allow") != "POST" {
		t.Errorf("GET: %d", status)
	}
}

// Whoever floods is turned away: a question is cheap, and not free.
func TestTabsAreBounded(t *testing.T) {
	t.Parallel()
	f := newFront(t, frontOptions{config: func(c *facilitator.Config) { c.PerMinute = 3 }})
	q := fmt.Appendf(nil, `{"userAddress":%q,"recipientAddress":%q}`, payee, payee)
	for n := range 5 {
		status, answer, header := f.post("/tabs", q)
		if n < 3 && status != 200 || n >= 3 && (status != http.StatusTooManyRequests || header.Get("Retry-After") == "") {
			t.Errorf("question %d: %d %v", n, status, answer)
		}
	}
}

// A facilitator that has no clearing house gives no ids, and knows no guarantees.
func TestNoHouse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	if status, _, _ := w.post("/tabs", fmt.Appendf(nil, `{"userAddress":%q,"recipientAddress":%q}`, payee, payee)); status != 404 {
		t.Errorf("tabs: %d", status)
	}
	if _, err := facilitator.New(facilitator.Config{}); err == nil {
		t.Error("a facilitator for nothing")
	}
}

// One process lists, verifies and settles both.
func TestTransfersAndGuaranteesBehindTheSameRoutes(t *testing.T) {
	t.Parallel()
	f := newFront(t, frontOptions{})
	c, err := client.New(f.api.URL)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, options{config: func(c2 *facilitator.Config) { c2.Houses = []facilitator.House{c} }})
	s, err := w.http.Supported(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, scheme := range []string{"exact", guarantee.Scheme} {
		if _, ok := s.Find(2, scheme, "eip155:31337"); !ok {
			t.Errorf("%s is not listed: %+v", scheme, s.Kinds)
		}
	}
	w.accepted(w.pay(payer(1), terms(500)), terms(500))
	r := asks(700)
	signed, err := guarantee.Pay(t.Context(), f.buyer, f.d, r, evm.Hash{1}, w.chain.Time())
	if err != nil {
		t.Fatal(err)
	}
	f.now.Store(w.chain.Time().Unix())
	if got := w.accepted(f.promise(signed, r), r); got.Certificate == nil {
		t.Errorf("settled: %+v", got)
	}
	f.api.Close()
	if s, err = w.http.Supported(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Find(2, "exact", "eip155:31337"); !ok {
		t.Error("transfers are gone with the clearing house")
	}
}

// Many who settle one guarantee at once get one certificate, and lock it once.
func TestSettledByManyAtOnce(t *testing.T) {
	t.Parallel()
	f := newFront(t, frontOptions{})
	r := asks(500)
	text := body(f.promise(f.sign(r), r), r)
	answers := make([]map[string]any, 16)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() {
			resp, err := http.Post(f.server.URL+"/settle", "application/json", bytes.NewReader(text))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if err := json.NewDecoder(resp.Body).Decode(&answers[i]); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for i, a := range answers {
		if a["success"] != true || fmt.Sprint(a["certificate"]) != fmt.Sprint(answers[0]["certificate"]) {
			t.Errorf("%d: %v", i, a)
		}
	}
	if f.exposure() != 500 {
		t.Errorf("%d is locked, want 500", f.exposure())
	}
}
