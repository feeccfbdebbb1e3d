package api

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// word is a registry in which one validator has answered whatever it is asked.
type word struct{ guarantee.Answer }

func (w word) Answers(_ context.Context, _ clearing.Block, asked []guarantee.Policy) ([]guarantee.Answer, error) {
	return slices.Repeat([]guarantee.Answer{w.Answer}, len(asked)), nil
}

// A guarantee that depends on a validator, with the published bytes: the certificate is made, and it waits until the answer.
func TestPublishedValidation(t *testing.T) {
	t.Parallel()
	var s guarantee.Signed
	if err := json.Unmarshal(vectors.V2.RequestBody, &s); err != nil {
		t.Fatal(err)
	}
	p := s.Claims.Policy
	w := newWorld(t, func(_ *Config, h *clearing.Config) {
		h.Registries = []evm.Address{p.Registry}
		h.Registry = word{guarantee.Answer{Validator: p.Validator, AgentID: p.AgentID, Response: 90, Tag: p.Tag, LastUpdate: signed + 60}}
	})
	status, body := w.ask("POST", "/core/guarantees", vectors.V2.RequestBody)
	want := `{"claims":"` + vectors.Certificate2.Claims[2:] + `","signature":"` + vectors.Certificate2.Signature[2:] + `"`
	if status != 200 || !strings.HasPrefix(string(body), want) {
		t.Fatalf("answered %d: %s", status, body)
	}
	c, err := client.New(w.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	params, err := c.Params(t.Context())
	if err != nil || params.Deployment != deployment || !slices.Equal(params.Registries, []evm.Address{p.Registry}) {
		t.Fatalf("params %+v, %v", params, err)
	}
	var raw struct {
		Max      int      `json:"max_accepted_guarantee_version"`
		Accepted []int    `json:"accepted_guarantee_versions"`
		Domain   evm.Hash `json:"active_guarantee_domain_separator"`
		Rule     string   `json:"validation_hash_canonicalization_version"`
	}
	_, body = w.ask("GET", "/core/public-params", nil)
	if err := json.Unmarshal(body, &raw); err != nil || raw.Max != 2 || !slices.Equal(raw.Accepted, []int{1, 2}) || raw.Domain != deployment.DomainOf(2) || raw.Rule != "4MICA_VALIDATION_REQUEST_V2" {
		t.Errorf("params %s, %v", body, err)
	}
	digest := s.Claims.Digest(deployment.ClaimsSeparator())
	stands := func(status string, answered, netted any) {
		t.Helper()
		_, body := w.ask("GET", "/core/guarantees/"+digest.String(), nil)
		var got map[string]any
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatal(err)
		}
		v, _ := got["validation"].(map[string]any)
		if got["status"] != status || v["answered_at"] != answered || v["netted_in_text"] != netted {
			t.Errorf("guarantee %s", body)
		}
		_, body = w.ask("GET", "/core/recipients/"+s.Claims.Payee.String()+"/payments", nil)
		if !strings.Contains(string(body), `"status":"`+status+`"`) {
			t.Errorf("payments %s", body)
		}
	}
	stands("PENDING_VALIDATION", nil, nil)
	w.chain(signed + 90)
	if err := w.house.AskValidators(t.Context(), time.Unix(signed+90, 0)); err != nil {
		t.Fatal(err)
	}
	stands("FINALIZED_PAYABLE", float64(signed+60), vectors.Certificate.Text)

	// Batch certificates through the client, beside one of version 1, and what is refused with its code.
	bind := func(change func(*guarantee.Policy)) guarantee.Signed {
		p := *p
		change(&p)
		signed, err := guarantee.Sign(t.Context(), keys[0], deployment, w.sign(0, party(1), 7).Claims.Bind(p))
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	v, err := guarantee.NewVerifier(params.Key, params.Deployment)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []guarantee.Signed{bind(func(*guarantee.Policy) {}), w.sign(0, party(1), 8)} {
		cert, err := c.Certify(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(cert, s.Claims); err != nil || cert.Batch == nil {
			t.Error(err)
		}
	}
	for want, s := range map[string]guarantee.Signed{
		"validation_invalid": bind(func(p *guarantee.Policy) { p.MinScore = 101 }),
		"registry_untrusted": bind(func(p *guarantee.Policy) { p.Registry = evm.Address{1} }),
	} {
		_, err := c.Certify(t.Context(), s)
		var e *x402.Error
		if !errors.As(err, &e) || e.Code != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	plain := newWorld(t)
	if status, body := plain.ask("POST", "/core/guarantees", vectors.V2.RequestBody); status != 400 || code(body) != "malformed_request" {
		t.Errorf("a house without registries answered %d: %s", status, body)
	}
	if a, err := w.house.Account(t.Context(), buyer, dollar); err != nil || a.Exposure() != money.Units(100_000) {
		t.Errorf("exposure %s, %v", a.Exposure(), err)
	}
}
