package client

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/x402"
)

func TestFacilitator(t *testing.T) {
	t.Parallel()
	secret := evm.Keccak256([]byte("buyer"))
	key, err := evm.NewKey(secret[:])
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	offer := x402.Requirements{
		Scheme: guarantee.Scheme, Network: "eip155:31337", Amount: "500", Asset: evm.Address{3}.String(), PayTo: evm.Address{2}.String(), MaxTimeoutSeconds: 60,
	}
	pay := func(id byte) x402.Payment {
		s, err := guarantee.Pay(ctx, key, deployment, offer, evm.Hash{31: id}, time.Unix(7, 0))
		if err != nil {
			t.Fatal(err)
		}
		p, err := x402.NewPayment(x402.PaymentRequired{X402Version: 2}, offer, s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	h := &house{}
	f := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Write(paramsJSON(t, nil))
			return
		}
		h.ServeHTTP(w, r)
	})).Facilitator()

	v, err := f.Verify(ctx, pay(1), offer)
	if err != nil || !v.IsValid || v.Payer != key.Address().String() {
		t.Errorf("verify: %+v, %v", v, err)
	}
	s, err := f.Settle(ctx, pay(1), offer)
	var cert guarantee.Certificate
	if err != nil || !s.Success || s.Amount != "500" || s.Network != "eip155:31337" || json.Unmarshal(s.Certificate, &cert) != nil {
		t.Errorf("settle: %+v, %v", s, err)
	}
	if s, err := f.Settle(ctx, pay(0xee), offer); err != nil || s.Success || s.ErrorReason != "collateral_insufficient" {
		t.Errorf("refused: %+v, %v", s, err)
	}
	if k, err := f.Supported(ctx); err != nil || len(k.Kinds) != 2 || k.Kinds[0].Network != "eip155:31337" {
		t.Errorf("supported: %+v, %v", k, err)
	}

	calls := h.calls.Load()
	for _, test := range []struct {
		name   string
		change func(*x402.Payment, *x402.Requirements)
		code   string
	}{
		{"another scheme", func(p *x402.Payment, _ *x402.Requirements) { p.Scheme = "exact" }, "payment_mismatch"},
		{"another network", func(_ *x402.Payment, r *x402.Requirements) { r.Network = "eip155:1" }, "payment_mismatch"},
		{"a network that is not the house's", func(p *x402.Payment, r *x402.Requirements) { p.Network, r.Network = "eip155:1", "eip155:1" }, "payment_mismatch"},
		{"no payload", func(p *x402.Payment, _ *x402.Requirements) { p.Payload = json.RawMessage(`{}`) }, "payment_undecodable"},
		{"less than is asked", func(_ *x402.Payment, r *x402.Requirements) { r.Amount = "501" }, "payment_mismatch"},
		{"more than is asked", func(_ *x402.Payment, r *x402.Requirements) { r.Amount = "499" }, "payment_mismatch"},
		{"another payee", func(_ *x402.Payment, r *x402.Requirements) { r.PayTo = evm.Address{9}.String() }, "payment_mismatch"},
		{"a signature over something else", func(p *x402.Payment, _ *x402.Requirements) {
			var s guarantee.Signed
			_ = json.Unmarshal(p.Payload, &s)
			s.Claims.Timestamp++
			p.Payload, _ = json.Marshal(s)
		}, "payer_signature_invalid"},
	} {
		p, r := pay(2), offer
		test.change(&p, &r)
		v, err := f.Verify(ctx, p, r)
		if err != nil || v.IsValid || v.InvalidReason != test.code {
			t.Errorf("verify %s: %+v, %v", test.name, v, err)
		}
		s, err := f.Settle(ctx, p, r)
		if err != nil || s.Success || s.ErrorReason != test.code || s.Certificate != nil {
			t.Errorf("settle %s: %+v, %v", test.name, s, err)
		}
	}
	if h.calls.Load() != calls {
		t.Error("the house was asked about what could not be")
	}
}

// A certificate of something else, or of somebody else, is no settlement.
func TestFacilitatorChecksCertificates(t *testing.T) {
	t.Parallel()
	secret := evm.Keccak256([]byte("buyer"))
	key, err := evm.NewKey(secret[:])
	if err != nil {
		t.Fatal(err)
	}
	other, err := guarantee.NewAuthority(append(make([]byte, 31), 5))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	offer := x402.Requirements{Scheme: guarantee.Scheme, Network: "eip155:31337", Amount: "500", Asset: evm.Address{3}.String(), PayTo: evm.Address{2}.String()}
	s, err := guarantee.Pay(ctx, key, deployment, offer, evm.Hash{1}, time.Unix(7, 0))
	if err != nil {
		t.Fatal(err)
	}
	p, err := x402.NewPayment(x402.PaymentRequired{X402Version: 2}, offer, s)
	if err != nil {
		t.Fatal(err)
	}
	lesser := s.Claims
	lesser.Payee = evm.Address{8}
	for name, test := range map[string]struct {
		by     *guarantee.Authority
		claims guarantee.Claims
		code   string
	}{
		"another operator's": {other, s.Claims, "certificate_invalid"},
		"of another payee":   {authority, lesser, "certificate_mismatch"},
	} {
		cert, err := test.by.Certify(guarantee.EncodeClaims(deployment.CertificateDomain(), evm.Hash{1}, test.claims))
		if err != nil {
			t.Fatal(err)
		}
		f := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				w.Write(paramsJSON(t, nil))
				return
			}
			json.NewEncoder(w).Encode(map[string]any{"results": []any{cert}})
		})).Facilitator()
		if got, err := f.Settle(ctx, p, offer); code(err) != test.code || got.Success {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
