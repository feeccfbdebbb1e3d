package paywall_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/x402"
)

var policy = guarantee.Policy{Registry: evm.Address{1}, Validator: evm.Address{2}, AgentID: evm.Hash{31: 42}, MinScore: 80, Tag: "hard-finality"}

// What a route's validator has to answer is in its offer, and only a guarantee that depends on just that pays it.
func TestValidation(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		alter func(*guarantee.Policy)
		code  string
	}{
		{"as asked", func(*guarantee.Policy) {}, ""},
		{"a lower score", func(p *guarantee.Policy) { p.MinScore = 79 }, "payment_mismatch"},
		{"a higher score", func(p *guarantee.Policy) { p.MinScore = 81 }, "payment_mismatch"},
		{"another validator", func(p *guarantee.Policy) { p.Validator = evm.Address{9} }, "payment_mismatch"},
		{"another registry", func(p *guarantee.Policy) { p.Registry = evm.Address{9} }, "payment_mismatch"},
		{"a registry on another chain", func(p *guarantee.Policy) { p.ChainID++ }, "payment_mismatch"},
		{"another agent", func(p *guarantee.Policy) { p.AgentID[0]++ }, "payment_mismatch"},
		{"another job", func(p *guarantee.Policy) { p.JobHash[0]++ }, "payment_mismatch"},
		{"no tag", func(p *guarantee.Policy) { p.Tag = "" }, "payment_mismatch"},
		{"no condition", nil, "payment_mismatch"},
	} {
		for _, v1 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, version 1 %v", test.name, v1), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				var ran atomic.Int32
				w.handle("GET /x/{n}", "$0.0005", counting(&ran), paywall.Validation(policy))
				ctx := context.Background()
				d := w.draft(get("/x/1"))
				d.stock, d.v1 = true, v1
				s, err := guarantee.Pay(ctx, w.payer, w.house.deployment, d.accepted, evm.Hash{7}, w.clock.now())
				if err != nil {
					t.Fatal(err)
				}
				if test.alter == nil {
					s.Claims.Policy = nil
				} else {
					p := *s.Claims.Policy
					test.alter(&p)
					s.Claims = s.Claims.Bind(p)
				}
				if s, err = guarantee.Sign(ctx, w.payer, w.house.deployment, s.Claims); err != nil {
					t.Fatal(err)
				}
				header := w.wrap(d, s)
				// The job is this request and no other.
				if a := w.do(get("/x/2").with(x402.HeaderSignature, header)); a.StatusCode != 402 || ran.Load() != 0 {
					t.Errorf("another request: %d %s", a.StatusCode, a.body)
				}
				a := w.do(get("/x/1").with(x402.HeaderSignature, header))
				switch {
				case test.code == "" && (a.StatusCode != 200 || ran.Load() != 1):
					t.Errorf("%d %s", a.StatusCode, a.body)
				case test.code != "" && (a.StatusCode != 402 || a.code() != test.code || ran.Load() != 0 || w.house.asked != 0):
					t.Errorf("%d %s, asked %d", a.StatusCode, a.body, w.house.asked)
				}
			})
		}
	}
}

// Ids are handed out for the version that the terms want.
func TestTabsOfValidation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mux.Handle("/x402/tab", w.pw.Tabs())
	w.handle("GET /x", "$0.0005", hello, paywall.Validation(policy))
	terms, err := x402.EncodeHeader(w.terms(get("/x")).Accepts[0])
	if err != nil {
		t.Fatal(err)
	}
	for version, status := range map[string]int{`"guaranteeVersion":2,`: 200, "": 200, `"guaranteeVersion":1,`: 400, `"x402Version":1,`: 400, `"x402Version":2,`: 200} {
		body := `{` + version + `"userAddress":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","paymentRequirements":` + decode64(t, terms) + `}`
		if a := w.do(call{method: "POST", path: "/x402/tab", body: body}); a.StatusCode != status {
			t.Errorf("%q: %d %s", version, a.StatusCode, a.body)
		}
	}
}

func TestValidationsThatCannotBe(t *testing.T) {
	t.Parallel()
	for name, alter := range map[string]func(*guarantee.Policy){
		"no registry":   func(p *guarantee.Policy) { p.Registry = evm.Address{} },
		"no validator":  func(p *guarantee.Policy) { p.Validator = evm.Address{} },
		"no score":      func(p *guarantee.Policy) { p.MinScore = 0 },
		"too high":      func(p *guarantee.Policy) { p.MinScore = 101 },
		"a long tag":    func(p *guarantee.Policy) { p.Tag = strings.Repeat("x", 257) },
		"another chain": func(p *guarantee.Policy) { p.ChainID = 1 },
	} {
		w := newWorld(t)
		p := policy
		alter(&p)
		w.pw.Price("$0.0005", nil, paywall.Validation(p))
		if err := w.pw.Check(); err == nil || !strings.Contains(err.Error(), "validation: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
