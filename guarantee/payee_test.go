package guarantee

import (
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/internal/jsonobject"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

func vectorRequirement(t testing.TB) (r x402.Requirements) {
	t.Helper()
	if err := json.Unmarshal(vec.X402["paymentRequirementsV2"], &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// The whole way of a payment, with the published bytes: requirement, payload, and back.
func TestVectorPayment(t *testing.T) {
	t.Parallel()
	r := vectorRequirement(t)
	s, err := Pay(t.Context(), payerKey(t), deployment, r, claims.ReqID, time.Unix(1782122400, 999))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"v1_decoded", "v2_decoded"} {
		var envelope struct{ Payload json.RawMessage }
		if err := json.Unmarshal(vec.X402[name], &envelope); err != nil {
			t.Fatal(err)
		}
		if want := compact(t, envelope.Payload); string(payload) != want {
			t.Errorf("payload %s, want %s", payload, want)
		}
		got, err := ParsePayload(envelope.Payload)
		if err != nil || got != s {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if err := Matches(got, r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var old x402.Requirements
		if err := json.Unmarshal(vec.X402["paymentRequirementsV1"], &old); err != nil {
			t.Fatal(err)
		}
		if err := Matches(got, old); err != nil {
			t.Errorf("%s, requirement of version 1: %v", name, err)
		}
	}
}

func TestParsePayloadBounds(t *testing.T) {
	t.Parallel()
	fits := body(nil) + strings.Repeat(" ", PayloadBytesMax-len(body(nil)))
	if _, err := ParsePayload(json.RawMessage(fits)); err != nil {
		t.Error(err)
	}
	_, err := ParsePayload(json.RawMessage(fits + " "))
	wantErr(t, err, ErrMalformed)
	_, err = ParsePayload(nil)
	wantErr(t, err, ErrMalformed)
	deep := `{"claims":{"a":` + strings.Repeat("[", 3000) + strings.Repeat("]", 3000) + `}}`
	_, err = ParsePayload(json.RawMessage(deep))
	wantErr(t, err, ErrMalformed)
	var crowd strings.Builder
	for i := range jsonobject.MembersMax + 1 {
		crowd.WriteString(`,"m` + strings.Repeat("x", i) + `":0`)
	}
	_, err = ParsePayload(json.RawMessage(`{"claims":{}` + crowd.String() + `}`))
	wantErr(t, err, ErrMalformed)
}

func TestMatches(t *testing.T) {
	t.Parallel()
	s := signed(t, vec.V1.Request)
	for _, c := range []struct {
		name   string
		change func(*x402.Requirements, *Claims)
		err    error
		field  string
	}{
		{"another payee", func(r *x402.Requirements, c *Claims) { c.Payee[0] ^= 1 }, ErrMismatch, "payTo"},
		{"another asset", func(r *x402.Requirements, c *Claims) { c.Asset[0] ^= 1 }, ErrMismatch, "asset"},
		{"less", func(r *x402.Requirements, c *Claims) { c.Amount = money.Units(99999) }, ErrMismatch, "amount"},
		{"more", func(r *x402.Requirements, c *Claims) { c.Amount = money.Units(100001) }, ErrMismatch, "amount"},
		{"another scheme", func(r *x402.Requirements, c *Claims) { r.Scheme = "exact" }, ErrMismatch, "scheme"},
		{"scheme by its short name", func(r *x402.Requirements, c *Claims) { r.Scheme = "4mica" }, ErrMismatch, "scheme"},
		{"letter case", func(r *x402.Requirements, c *Claims) {
			r.Asset, r.PayTo = strings.ToLower(r.Asset), strings.ToUpper(r.PayTo)
		}, nil, ""},
		{"hexadecimal amount", func(r *x402.Requirements, c *Claims) { r.Amount = "0x186a0" }, nil, ""},
		{"network by its old name", func(r *x402.Requirements, c *Claims) { r.Network = "base-sepolia" }, ErrMalformed, ""},
		{"network of another family", func(r *x402.Requirements, c *Claims) { r.Network = "solana:84532" }, ErrMalformed, ""},
		{"network number with zeros", func(r *x402.Requirements, c *Claims) { r.Network = "eip155:084532" }, ErrMalformed, ""},
		{"network zero", func(r *x402.Requirements, c *Claims) { r.Network = "eip155:0" }, ErrMalformed, ""},
		{"network past 64 bits", func(r *x402.Requirements, c *Claims) { r.Network = "eip155:18446744073709551616" }, ErrMalformed, ""},
		{"no payee", func(r *x402.Requirements, c *Claims) { r.PayTo = evm.Address{}.String() }, ErrMalformed, ""},
		{"payee is text", func(r *x402.Requirements, c *Claims) { r.PayTo = "me" }, ErrMalformed, ""},
		{"asset is a symbol", func(r *x402.Requirements, c *Claims) { r.Asset = "USDC" }, ErrMalformed, ""},
		{"amount is a price", func(r *x402.Requirements, c *Claims) { r.Amount = "$0.10" }, ErrMalformed, ""},
		{"amount zero", func(r *x402.Requirements, c *Claims) { r.Amount = "0" }, ErrMalformed, ""},
		{"part of a policy", func(r *x402.Requirements, c *Claims) { r.Extra["jobHash"] = json.RawMessage(`"0x"`) }, ErrMalformed, ""},
		{"a policy that was not asked for", func(r *x402.Requirements, c *Claims) { *c = c.Bind(policy) }, ErrVersion, ""},
		{"only a tag", func(r *x402.Requirements, c *Claims) { r.Extra["requiredValidationTag"] = json.RawMessage(`"x"`) }, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, s := vectorRequirement(t), s
			r.Extra = maps.Clone(r.Extra)
			c.change(&r, &s.Claims)
			err := Matches(s, r)
			if !errors.Is(err, c.err) {
				t.Fatalf("error is %v, want %v", err, c.err)
			}
			var m *MismatchError
			if errors.As(err, &m) && m.Field != c.field {
				t.Errorf("field %s, want %s", m.Field, c.field)
			}
			// A payer signs nothing for a requirement that its own payee would refuse.
			if c.err == ErrMalformed || c.field == "scheme" {
				_, err := Pay(t.Context(), payerKey(t), deployment, r, claims.ReqID, time.Unix(1782122400, 0))
				wantErr(t, err, c.err)
			}
		})
	}
}

func TestPayRefuses(t *testing.T) {
	t.Parallel()
	r := vectorRequirement(t)
	other := deployment
	other.ChainID = 8453
	_, err := Pay(t.Context(), payerKey(t), other, r, claims.ReqID, time.Unix(1782122400, 0))
	var m *MismatchError
	if !errors.As(err, &m) || m.Field != "network" || m.Want != "eip155:8453" {
		t.Errorf("another chain: %v", err)
	}
	_, err = Pay(t.Context(), payerKey(t), deployment, r, claims.ReqID, time.Time{})
	wantErr(t, err, ErrStale)
}

func TestWindow(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	w := Window{Past: DefaultPast, Ahead: DefaultAhead}
	for _, c := range []struct {
		name      string
		window    Window
		now       time.Time
		timestamp uint64
		err       error
	}{
		{"now", w, now, 1_000_000, nil},
		{"oldest", w, now, 999_700, nil},
		{"too old", w, now, 999_699, ErrStale},
		{"furthest ahead", w, now, 1_000_030, nil},
		{"too far ahead", w, now, 1_000_031, ErrFuture},
		{"end of numbers", w, now, 1<<64 - 1, ErrFuture},
		{"zero", w, now, 0, ErrStale},
		{"no window, now", Window{}, now, 1_000_000, nil},
		{"no window, before", Window{}, now, 999_999, ErrStale},
		{"no window, after", Window{}, now, 1_000_001, ErrFuture},
		{"clock before 1970", w, time.Time{}, 31, ErrFuture},
	} {
		if err := c.window.Check(Claims{Timestamp: c.timestamp}, c.now); !errors.Is(err, c.err) || (c.err == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
	}
}
