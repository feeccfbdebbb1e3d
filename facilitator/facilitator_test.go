package facilitator_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/facilitator"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/x402"
)

func TestAPaymentIsVerifiedAndSettled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := terms(500)
	p := w.pay(payer(0), r)
	s := w.accepted(p, r)
	if s.Transaction == "" || s.Network != "eip155:31337" || s.Payer != payer(0).Address().String() || s.Amount != "500" {
		t.Errorf("settled: %+v", s)
	}
	if again := w.settle(p, r); !again.Success || again.Transaction != s.Transaction {
		t.Errorf("again: %+v", again)
	}
	if v := w.verify(p, r); v.IsValid || v.InvalidReason != "invalid_exact_evm_nonce_already_used" {
		t.Errorf("verified again: %+v", v)
	}
	if w.dollars(payee) != 500 {
		t.Errorf("%d units moved", w.dollars(payee))
	}
	a, err := exact.Read(p, r)
	if err != nil {
		t.Fatal(err)
	}
	status, cost, _ := w.get("/settlements/" + a.ID().String())
	if status != 200 || cost["state"] != "settled" || cost["transaction"] != s.Transaction || cost["gas"].(float64) < 40_000 || cost["costWei"] == "0" {
		t.Errorf("its cost: %d %v", status, cost)
	}
}

// Every way to pay, in every version that has it.
func TestEveryWayToPayIsSettled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{network: func(c *facilitator.NetworkConfig) { c.SponsorMax = money.Units(1e16) }})
	lane := w.f.Networks[0].Desk().Lanes()[1].String()
	with := func(r x402.Requirements, members ...any) x402.Requirements {
		for i := 0; i < len(members); i += 2 {
			r.Extra[members[i].(string)] = raw(members[i+1])
		}
		return r
	}
	scheme := func(r x402.Requirements, s string) x402.Requirements { r.Scheme = s; return r }
	permit2 := with(terms(500), "assetTransferMethod", "permit2")
	upto := with(scheme(terms(500), "upto"), "assetTransferMethod", "permit2", "facilitatorAddress", lane)
	legacy := with(scheme(terms(500), "exact-legacy"), "spender", lane, "tokenType", "legacy")
	oneTerms := terms(500)
	oneTerms.NetworkSent = "eip155:31337"
	for i, tt := range []struct {
		name    string
		r       x402.Requirements
		approve evm.Address // that the payer allows before
		change  func(x402.Payment) x402.Payment
	}{
		{"exact by EIP-3009", terms(500), evm.Address{}, nil},
		{"exact of version 1", oneTerms, evm.Address{}, inOne},
		{"exact in T402", terms(500), evm.Address{}, func(p x402.Payment) x402.Payment { p.Dialect = x402.T402; return p }},
		{"exact by Permit2", permit2, exact.Permit2Address, nil},
		{"upto, all of it", upto, exact.Permit2Address, nil},
		{"exact-legacy", legacy, evm.MustAddress(lane), func(p x402.Payment) x402.Payment { p.Dialect = x402.T402; return p }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key := w.funded(5_000)
			if !tt.approve.IsZero() {
				w.send(key, chain.Approve(devchain.TestDollar, tt.approve, money.Units(1_000_000)))
			}
			before := w.dollars(payee)
			p := w.pay(key, tt.r)
			if tt.change != nil {
				p = tt.change(p)
			}
			s := w.accepted(p, tt.r)
			if again := w.settle(p, tt.r); !again.Success || again.Transaction != s.Transaction {
				t.Errorf("again: %+v", again)
			}
			if v := w.verify(p, tt.r); v.IsValid {
				t.Error("it is valid once more")
			}
			if got := w.dollars(payee) - before; got != 500 {
				t.Errorf("case %d: %d units moved, want 500", i, got)
			}
		})
	}
}

// funded returns a new key with test dollars and coin.
func (w *world) funded(units uint64) *evm.PrivateKey {
	w.Helper()
	key, err := evm.GenerateKey()
	if err != nil {
		w.Fatal(err)
	}
	w.send(devchain.Accounts()[9], evm.Call{To: key.Address(), Value: money.Units(1e17).Word()}, chain.Mint(devchain.TestDollar, key.Address(), money.Units(units)))
	return key
}

func TestUptoChargesWhatIsAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := terms(500)
	r.Scheme = "upto"
	r.Extra["facilitatorAddress"] = raw(w.f.Networks[0].Desk().Lanes()[0].String())
	key := w.funded(5_000)
	w.send(key, chain.Approve(devchain.TestDollar, exact.Permit2Address, money.Units(1_000_000)))
	charge := func(amount string) x402.Requirements { c := r; c.Amount = amount; return c }

	p := w.pay(key, r)
	if v := w.verify(p, r); !v.IsValid {
		t.Fatalf("not valid: %s %s", v.InvalidReason, v.InvalidMessage)
	}
	if s := w.settle(p, charge("501")); s.Success || s.ErrorReason != "invalid_upto_evm_payload_settlement_exceeds_amount" {
		t.Errorf("more than was signed: %+v", s)
	}
	if s := w.settle(p, charge("120")); !s.Success || s.Amount != "120" || s.Transaction == "" {
		t.Errorf("a part: %+v", s)
	}
	if s := w.settle(p, charge("80")); s.Success {
		t.Errorf("a second part of the same authorization: %+v", s)
	}
	if w.dollars(payee) != 120 {
		t.Errorf("%d units moved, want 120", w.dollars(payee))
	}

	free := w.pay(key, r)
	if s := w.settle(free, charge("0")); !s.Success || s.Amount != "0" || s.Transaction != "" {
		t.Errorf("nothing: %+v", s)
	}
	if s := w.settle(free, charge("0")); !s.Success || s.Transaction != "" {
		t.Errorf("nothing again: %+v", s)
	}
	if s := w.settle(free, charge("80")); s.Success {
		t.Errorf("something after nothing: %+v", s)
	}
	if w.dollars(payee) != 120 {
		t.Errorf("%d units moved, want 120", w.dollars(payee))
	}
	other := w.pay(key, charge("500"))
	other.Accepted.Extra = map[string]json.RawMessage{"facilitatorAddress": raw(payee.String())}
	if v := w.verify(other, charge("400")); v.IsValid {
		t.Errorf("another ceiling than was signed: %+v", v)
	}
}

// A payer without coin and without an allowance: the facilitator pays for both, once.
func TestSponsoredAllowances(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		token evm.Address
		how   func(*world, exact.Authorization, *evm.PrivateKey) exact.Authorization
	}{
		{"by a permit", devchain.TestDollar, func(w *world, a exact.Authorization, key *evm.PrivateKey) exact.Authorization {
			a, err := a.Sponsored(w.Context(), key, money.Amount{})
			if err != nil {
				w.Fatal(err)
			}
			return a
		}},
		{"by a transaction of its own", devchain.TestTether, func(w *world, a exact.Authorization, key *evm.PrivateKey) exact.Authorization {
			raw, err := w.client.Presign(w.Context(), key, evm.Call{From: key.Address(), To: a.Asset, Data: chain.Approve(a.Asset, exact.Permit2Address, unlimited).Data, GasLimit: 70_000})
			if err != nil {
				w.Fatal(err)
			}
			if a, err = a.Approved(raw); err != nil {
				w.Fatal(err)
			}
			return a
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{network: func(c *facilitator.NetworkConfig) { c.SponsorMax = money.Units(1e16) }})
			key, err := evm.GenerateKey()
			if err != nil {
				t.Fatal(err)
			}
			w.send(devchain.Accounts()[9], chain.Transfer(tt.token, key.Address(), money.Units(5_000)))
			r := terms(500)
			r.Asset = tt.token.String()
			r.Extra["assetTransferMethod"] = raw("permit2")
			a, err := exact.Pay(t.Context(), key, r, nonce(), w.chain.Time())
			if err != nil {
				t.Fatal(err)
			}
			if v := w.verify(w.payment(a, r), r); v.IsValid || v.InvalidReason != "permit2_allowance_required" {
				t.Errorf("without an allowance: %+v", v)
			}
			a = tt.how(w, a, key)
			p := w.payment(a, r)
			if p.Extensions, err = a.Extensions(map[string]json.RawMessage{
				exact.PermitExtension: x402.DeclareEIP2612(), exact.ApprovalExtension: x402.DeclareERC20Approval()}); err != nil {
				t.Fatal(err)
			}
			s := w.accepted(p, r)
			if again := w.settle(p, r); again.Transaction != s.Transaction {
				t.Errorf("again: %+v", again)
			}
			got, err := w.client.TokenBalance(t.Context(), tt.token, payee)
			if err != nil || got != money.Units(500) {
				t.Errorf("%s units moved, %v", got, err)
			}
		})
	}
}

var unlimited = func() money.Amount {
	a, err := money.AmountFromBytes(slices.Repeat([]byte{0xff}, 32))
	if err != nil {
		panic(err)
	}
	return a
}()

// What is wrong is told by its code, in the words of the caller's version, and moves nothing.
func TestWhatIsWrongIsRefusedWithItsReason(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	poor, err := evm.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	good := terms(500)
	change := func(f func(*x402.Requirements)) x402.Requirements { r := terms(500); f(&r); return r }
	for _, tt := range []struct {
		name    string
		key     *evm.PrivateKey
		signed  x402.Requirements
		against x402.Requirements
		code    string // in version 2
		one     string // in version 1
	}{
		{"another amount", payer(0), good, terms(501), "invalid_exact_evm_payload_authorization_value_mismatch", "invalid_exact_evm_payload_authorization_value"},
		{"another payee", payer(0), good, change(func(r *x402.Requirements) { r.PayTo = payer(1).Address().String() }), "invalid_exact_evm_recipient_mismatch", "invalid_exact_evm_payload_recipient_mismatch"},
		{"another network", payer(0), good, change(func(r *x402.Requirements) { r.Network = "eip155:8453" }), "invalid_network", "invalid_network"},
		{"an empty account", poor, good, good, "invalid_exact_evm_insufficient_balance", "insufficient_funds"},
		{"another domain", payer(0), change(func(r *x402.Requirements) { r.Extra["name"] = raw("Other Dollar") }), change(func(r *x402.Requirements) { r.Extra["name"] = raw("Other Dollar") }), "invalid_exact_evm_token_name_mismatch", "invalid_payment_requirements"},
		{"no contract", payer(0), change(func(r *x402.Requirements) { r.Asset = poor.Address().String() }), change(func(r *x402.Requirements) { r.Asset = poor.Address().String() }), "asset_not_deployed_contract", "invalid_payment_requirements"},
		{"a contract that is no token on the list", payer(0), change(func(r *x402.Requirements) { r.Asset = exact.Multicall3.String() }), change(func(r *x402.Requirements) { r.Asset = exact.Multicall3.String() }), "asset_not_served", "unsupported_scheme"},
		{"almost expired", payer(0), change(func(r *x402.Requirements) { r.MaxTimeoutSeconds = 2 }), change(func(r *x402.Requirements) { r.MaxTimeoutSeconds = 2 }), "invalid_exact_evm_payload_authorization_valid_before", "invalid_exact_evm_payload_authorization_valid_before"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for version, want := range map[int]string{2: tt.code, 1: tt.one} {
				p := w.pay(tt.key, tt.signed)
				if version == 1 {
					p = inOne(p)
				}
				status, v, _ := w.post("/verify", body(p, tt.against))
				if status != 200 || v["isValid"] != false || v["invalidReason"] != want {
					t.Errorf("version %d, verify: %d %v, want %s", version, status, v, want)
				}
				status, s, _ := w.post("/settle", body(p, tt.against))
				if status != 200 || s["success"] != false || s["errorReason"] != want || s["transaction"] != "" {
					t.Errorf("version %d, settle: %d %v, want %s", version, status, s, want)
				}
			}
		})
	}
	if w.dollars(payee) != 0 {
		t.Errorf("%d units moved", w.dollars(payee))
	}
}

// Bodies that cannot be read are faults of the caller; payments that cannot be read are refused.
func TestBodiesAreReadStrictly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := terms(500)
	good := string(body(w.pay(payer(0), r), r))
	for _, path := range []string{"/verify", "/settle"} {
		for _, tt := range []struct {
			name, body string
			status     int
			said       string // code, or reason
		}{
			{"nothing", "", 400, "malformed_request"},
			{"no JSON", "hello", 400, "malformed_request"},
			{"two values", good + good, 400, "malformed_request"},
			{"a member twice", strings.Replace(good, `"paymentPayload"`, `"paymentPayload":{},"paymentPayload"`, 1), 400, "malformed_request"},
			{"no payment", `{"x402Version":2,"paymentRequirements":{}}`, 400, "malformed_request"},
			{"too large", strings.Repeat(" ", x402.FacilitatorBytesMax) + good, 413, "body_too_large"},
			{"a version that is not known", strings.ReplaceAll(good, `"x402Version":2`, `"x402Version":3`), 200, "invalid_x402_version"},
			{"a payload that is none", strings.Replace(good, `"signature":"0x`, `"signature":7,"x":"0x`, 1), 200, "invalid_"},
		} {
			status, answer, _ := w.post(path, []byte(tt.body))
			said := fmt.Sprint(answer["code"], answer["invalidReason"], answer["errorReason"])
			if status != tt.status || !strings.Contains(said, tt.said) {
				t.Errorf("%s, %s: %d %v, want %d %s", path, tt.name, status, answer, tt.status, tt.said)
			}
			if _, structured := answer["isValid"]; status != 200 && structured {
				t.Errorf("%s, %s: a fault looks like an answer: %v", path, tt.name, answer)
			}
		}
	}
	status, _, header := w.get("/verify")
	if status != http.StatusMethodNotAllowed || header.Get("Allow") != "POST" {
		t.Errorf("GET /verify: %d, Allow %q", status, header.Get("Allow"))
	}
	if status, answer, _ := w.get("/nowhere"); status != 404 || answer["code"] != "not_found" {
		t.Errorf("GET /nowhere: %d %v", status, answer)
	}
}

func TestManyCallersSettleOnePaymentOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := terms(500)
	p := w.pay(payer(0), r)
	var all sync.WaitGroup
	answers := make([]x402.SettleResponse, 16)
	for i := range answers {
		all.Go(func() {
			var err error
			if answers[i], err = w.http.Settle(t.Context(), p, r); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, s := range answers {
		if !s.Success || s.Transaction != answers[0].Transaction {
			t.Errorf("%+v", s)
		}
	}
	if w.dollars(payee) != 500 {
		t.Errorf("%d units moved", w.dollars(payee))
	}
}

// No block comes: the answer is settlement_pending with the transaction, asking again waits again, and nothing is sent twice.
func TestASlowChainIsAnsweredWithPending(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{still: true, config: func(c *facilitator.Config) { c.Wait = 300 * time.Millisecond }})
	r := terms(500)
	p := w.pay(payer(0), r)
	// A busy machine may take longer than Wait for what follows: it asks again, as a seller would.
	until := func(done func(x402.SettleResponse) bool) (s x402.SettleResponse) {
		for range 60 {
			if s = w.settle(p, r); done(s) {
				break
			}
		}
		return s
	}
	first := until(func(s x402.SettleResponse) bool { return s.Transaction != "" })
	if first.Success || first.ErrorReason != "settlement_pending" || first.Transaction == "" {
		t.Fatalf("no block yet: %+v", first)
	}
	if second := w.settle(p, r); second.ErrorReason != "settlement_pending" || second.Transaction != first.Transaction {
		t.Errorf("asked again: %+v", second)
	}
	if one := w.settle(inOne(p), r); one.ErrorReason != "settlement_pending" {
		t.Errorf("in version 1: %+v", one)
	}
	if err := w.chain.Mine(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	last := until(func(s x402.SettleResponse) bool { return s.ErrorReason != "settlement_pending" })
	if !last.Success || last.Transaction != first.Transaction || w.dollars(payee) != 500 {
		t.Errorf("after the block: %+v, %d units moved", last, w.dollars(payee))
	}
}

// A facilitator that ends answers whoever waits, and the next one over the same book goes on.
func TestWhoWaitsIsAnsweredWhenItEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{still: true})
	r := terms(500)
	p := w.pay(payer(0), r)
	answered := make(chan x402.SettleResponse, 1)
	go func() {
		s, _ := w.http.Settle(t.Context(), p, r)
		answered <- s
	}()
	for w.f.Networks[0].Desk().Open() == 0 {
		time.Sleep(time.Millisecond)
	}
	w.stopRunning()
	if s := <-answered; s.Success || s.ErrorReason != "settlement_pending" {
		t.Errorf("%+v", s)
	}
}

// Somebody settles a payment that expires before the facilitator is asked: it is paid.
func TestAnExpiredPaymentThatSomebodySettledIsPaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := terms(500)
	p, unpaid := w.pay(payer(0), r), w.pay(payer(0), r)
	a, err := exact.Read(p, r)
	if err != nil {
		t.Fatal(err)
	}
	m, err := (&exact.Verifier{Chain: w.client}).Move(a, a.Amount)
	if err != nil {
		t.Fatal(err)
	}
	w.send(payer(3), evm.Call{To: m.To, Data: m.Data})
	if err := w.chain.AdvanceTime(time.Hour); err != nil {
		t.Fatal(err)
	}
	for w.chain.Time().Unix() < int64(a.ValidBefore) {
		time.Sleep(time.Millisecond)
	}
	if s := w.settle(p, r); !s.Success || s.Transaction == "" {
		t.Errorf("the one that was settled: %+v", s)
	}
	if s := w.settle(unpaid, r); s.Success || s.ErrorReason != "invalid_exact_evm_payload_authorization_valid_before" {
		t.Errorf("the one that was not: %+v", s)
	}
}

func TestWhatIsOfferedIsListed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	s, err := w.http.Supported(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lanes := w.f.Networks[0].Desk().Lanes()
	if got := s.Signers["eip155:*"]; len(got) != 2 || got[0] != lanes[0].String() {
		t.Errorf("signers %v", got)
	}
	for _, want := range []struct {
		version int
		scheme  string
	}{{2, "exact"}, {2, "upto"}, {2, "exact-legacy"}} {
		k, ok := s.Find(want.version, want.scheme, "eip155:31337")
		if !ok {
			t.Errorf("version %d, %s is not listed", want.version, want.scheme)
		}
		var address string
		if want.scheme == "upto" && (json.Unmarshal(k.Extra["facilitatorAddress"], &address) != nil || address != lanes[0].String()) {
			t.Errorf("upto names %s", k.Extra["facilitatorAddress"])
		}
	}
	if slices.Contains(s.Extensions, exact.ApprovalExtension) || !slices.Contains(s.Extensions, exact.PermitExtension) || !slices.Contains(s.Extensions, "bazaar") {
		t.Errorf("extensions %v", s.Extensions)
	}
	_, answer, _ := w.get("/supported")
	for _, kind := range answer["kinds"].([]any) {
		if kind.(map[string]any)["x402Version"] == nil {
			t.Errorf("an entry without x402Version, which its clients want: %v", kind)
		}
	}
}

// What the registry says is compared with the chain: what differs is not offered, and says why.
func TestATokenThatDiffersIsNotOffered(t *testing.T) {
	t.Parallel()
	wrong := network.Token{Symbol: "OOPS", Address: devchain.TestTether, Decimals: 6, Name: "Tether", Version: "1", EIP3009: true, Dollar: true}
	w := newWorld(t, options{network: func(c *facilitator.NetworkConfig) { c.Chain.Tokens = []network.Token{c.Chain.Tokens[0], wrong} }})
	n := w.f.Networks[0]
	if len(n.Refused) != 1 || n.Refused[0].Token.Symbol != "OOPS" || n.Refused[0].Reason == "" || len(n.Chain().Tokens) != 1 {
		t.Errorf("refused %+v, offered %v", n.Refused, n.Chain().Tokens)
	}
	r := terms(500)
	r.Asset = wrong.Address.String()
	if v := w.verify(w.pay(payer(0), r), r); v.IsValid || v.InvalidReason != "asset_not_served" || !strings.Contains(v.InvalidMessage, "OOPS") {
		t.Errorf("a payment in it: %+v", v)
	}
	for name, change := range map[string]func(*facilitator.NetworkConfig){
		"another chain":         func(c *facilitator.NetworkConfig) { c.Chain.ID = 8453 },
		"only what differs":     func(c *facilitator.NetworkConfig) { c.Chain.Tokens = []network.Token{wrong} },
		"a chain without token": func(c *facilitator.NetworkConfig) { c.Chain.Tokens = nil },
	} {
		on, err := network.Lookup("dev")
		if err != nil {
			t.Fatal(err)
		}
		c := facilitator.NetworkConfig{Chain: on, Node: w.client, Book: w.store.Settlements(), Lanes: []desk.Lane{chain.NewSender(w.client, evm.NewMemoryOutbox(), payer(0), chain.Policy{})}}
		change(&c)
		var e *x402.Error
		if _, err := facilitator.Open(t.Context(), c); !errors.As(err, &e) || e.Code != "chain_mismatch" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeysAndLimits(t *testing.T) {
	t.Parallel()
	const secret = "0123456789abcdef"
	w := newWorld(t, options{config: func(c *facilitator.Config) {
		c.Keys, c.PerMinute = []facilitator.Key{{Name: "shop", Secret: secret}}, 3
	}})
	r := terms(500)
	b := body(w.pay(payer(0), r), r)
	for _, header := range [][]string{nil, {"X-API-Key", "wrong"}, {"Authorization", "Bearer wrong"}, {"Authorization", "Basic " + secret}, {"X-API-Key", ""}} {
		if status, answer, h := w.post("/verify", b, header...); status != 401 || answer["code"] != "api_key_invalid" || h.Get("WWW-Authenticate") == "" {
			t.Errorf("%v: %d %v", header, status, answer)
		}
	}
	for i, header := range [][]string{{"X-API-Key", secret}, {"Authorization", "Bearer " + secret}, {"Authorization", "bearer " + secret}} {
		status, answer, h := w.post("/verify", b, header...)
		if status != 200 || answer["isValid"] != true || h.Get("X-RateLimit-Remaining") != fmt.Sprint(2-i) {
			t.Errorf("%v: %d %v, %s left", header, status, answer, h.Get("X-RateLimit-Remaining"))
		}
	}
	status, answer, h := w.post("/verify", b, "X-API-Key", secret)
	if status != 429 || answer["code"] != "rate_limited" || h.Get("Retry-After") == "" {
		t.Errorf("the fourth in a minute: %d %v", status, answer)
	}
	for _, open := range []string{"/supported", "/health", "/ready", "/discovery/resources"} {
		if status, answer, _ := w.get(open); status != 200 {
			t.Errorf("%s: %d %v", open, status, answer)
		}
	}
}

// A chain that does not answer is no reason against a payment.
func TestASilentChainIsNoRefusal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{still: true})
	r := terms(500)
	b := body(w.pay(payer(0), r), r)
	w.chain.Close()
	for _, path := range []string{"/verify", "/settle"} {
		status, answer, h := w.post(path, b)
		if status != 503 || answer["code"] != "chain_unreachable" || h.Get("Retry-After") == "" || strings.Contains(fmt.Sprint(answer), "127.0.0.1") {
			t.Errorf("%s: %d %v", path, status, answer)
		}
	}
	for {
		if status, _, _ := w.get("/ready"); status == 503 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if status, _, _ := w.get("/health"); status != 200 {
		t.Errorf("health: %d", status)
	}
}

// Whoever sells with the extension bazaar is listed, once a payment for it is good.
func TestWhatIsSoldIsListed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	declared, err := x402.Sale{Method: "GET", Query: map[string]any{"symbol": "ACME"}, Output: map[string]any{"price": 12.5}}.Declare()
	if err != nil {
		t.Fatal(err)
	}
	list := func(url string, units uint64, entry json.RawMessage) string {
		r := terms(units)
		p := w.pay(payer(0), r)
		p.Resource = &x402.Resource{URL: url, Description: "One quote"}
		p.Extensions = map[string]json.RawMessage{"bazaar": entry}
		status, v, h := w.post("/verify", body(p, r))
		if status != 200 || v["isValid"] != true {
			t.Fatalf("%d %v", status, v)
		}
		return x402.ReadExtensionResponses(h)["bazaar"].Status
	}
	if got := list("https://api.example.org/quote", 500, declared); got != "success" {
		t.Errorf("listed: %q", got)
	}
	list("https://api.example.org/quote", 700, declared) // a new price renews the entry
	list("https://api.example.org/other", 500, declared)
	if got := list("https://api.example.org/bad", 500, json.RawMessage(`{"info":{},"schema":{}}`)); got != "rejected" {
		t.Errorf("an entry without input: %q", got)
	}
	check := func(f func(string) (int, map[string]any, http.Header)) {
		t.Helper()
		status, page, _ := f("/discovery/resources?limit=1&network=eip155:31337")
		items, _ := page["items"].([]any)
		if status != 200 || len(items) != 1 || page["pagination"].(map[string]any)["total"] != 2.0 {
			t.Fatalf("first page: %d %v", status, page)
		}
		item := items[0].(map[string]any)
		accepts := item["accepts"].([]any)
		if item["resource"] != "https://api.example.org/quote" || item["type"] != "http" || len(accepts) != 1 || accepts[0].(map[string]any)["amount"] != "700" {
			t.Errorf("entry %v", item)
		}
		if status, _, _ := f("/discovery/resources?limit=1000"); status != 400 {
			t.Errorf("a page that is too long: %d", status)
		}
	}
	check(w.get)
	// It is on disk: another facilitator over the same book lists the same.
	other, err := facilitator.New(facilitator.Config{Networks: w.f.Networks, Catalogue: w.store.Catalogue(), Now: w.chain.Time})
	if err != nil {
		t.Fatal(err)
	}
	w.server.Config.Handler = other.Handler()
	check(w.get)
}

func TestMetricsCountWhatHappened(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := terms(500)
	p := w.pay(payer(0), r)
	w.accepted(p, r)
	w.settle(p, terms(501))
	resp, err := http.Get(w.server.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text := readAll(t, resp)
	for _, want := range []string{
		`farthing_verifications_total{network="dev",result="valid",scheme="exact"} 1`,
		`farthing_settlements_total{network="dev",result="settled",scheme="exact"} 1`,
		`farthing_settle_answers_total{network="dev",result="settled",scheme="exact"} 1`,
		`farthing_settlements_open{network="dev"} 0`,
		`farthing_facilitator_requests_total{path="/settle",status="200"} 2`,
		`farthing_chain_up{network="dev"} 1`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
}
