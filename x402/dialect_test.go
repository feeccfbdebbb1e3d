package x402

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// t402Vectors are what T402's published packages send; see testdata/t402.json.
type t402Vectors struct {
	V2, Legacy t402Sale
	V1         struct {
		Body    string `json:"payment_required_body"`
		Payment vector `json:"payment_payload"`
	} `json:"exact_eip3009_v1"`
	Failure    vector                     `json:"payment_response_failure"`
	Mismatch   struct{ Required vector }  `json:"amount_mismatch"`
	VerifyBody struct{ JSON string }      `json:"facilitator_verify_body"`
	All        map[string]json.RawMessage `json:"-"`
}

// t402Sale is one purchase: terms, payment, receipt.
type t402Sale struct {
	Required vector `json:"payment_required"`
	Payment  vector `json:"payment_payload"`
	Receipt  vector `json:"payment_response"`
}

func readT402(t testing.TB) (v t402Vectors) {
	t.Helper()
	b, err := os.ReadFile("testdata/t402.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	var sales struct {
		V2     t402Sale `json:"exact_eip3009_v2"`
		Legacy t402Sale `json:"exact_legacy_v2"`
	}
	if err := json.Unmarshal(b, &sales); err != nil {
		t.Fatal(err)
	}
	v.V2, v.Legacy = sales.V2, sales.Legacy
	for name, text := range map[string]string{"offer": v.V2.Required.JSON, "legacy offer": v.Legacy.Required.JSON, "legacy receipt": v.Legacy.Receipt.JSON,
		"receipt": v.V2.Receipt.JSON, "body": v.V1.Body, "verify": v.VerifyBody.JSON, "failure": v.Failure.JSON} {
		if text == "" {
			t.Fatalf("testdata/t402.json has no %s", name)
		}
	}
	return v
}

// Each object of T402's packages is read, and written again byte for byte.
func TestT402ByteForByte(t *testing.T) {
	t.Parallel()
	vs := readT402(t)
	for name, sale := range map[string]t402Sale{"exact": vs.V2, "exact-legacy": vs.Legacy} {
		terms, _, err := ParsePaymentRequired(&http.Response{Header: with(HeaderRequired, sale.Required.Header), Body: io.NopCloser(strings.NewReader("{}"))})
		if err != nil || terms.Dialect != T402 || terms.X402Version != 2 || terms.Accepts[0].Scheme != name {
			t.Fatalf("%s: terms %+v (%v)", name, terms, err)
		}
		if again, err := EncodeHeader(terms); err != nil || again != sale.Required.Header {
			t.Errorf("%s: terms written as %s (%v)\nwant %s", name, decoded(t, again), err, sale.Required.JSON)
		}

		p, err := ReadPayment(with(HeaderSignature, sale.Payment.Header))
		if err != nil || p.Dialect != T402 || p.Version != 2 || !Matches(*p.Accepted, terms.Accepts[0]) {
			t.Fatalf("%s: payment %+v (%v)", name, p, err)
		}
		// The one that is read, and the one that is made for the same terms.
		made, err := NewPayment(terms, terms.Accepts[0], p.Payload)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range []Payment{*p, made} {
			if header, again, err := q.Header(); err != nil || header != HeaderSignature || again != sale.Payment.Header {
				t.Errorf("%s: payment in %s: %s (%v)\nwant %s", name, header, decoded(t, again), err, sale.Payment.JSON)
			}
		}

		receipt, ok := ReadReceipt(&http.Response{Header: with(HeaderResponse, sale.Receipt.Header)})
		if !ok {
			t.Fatalf("%s: cannot read %s", name, sale.Receipt.JSON)
		}
		made2, err := SettleResponse{Success: true, Transaction: receipt.Transaction, Network: receipt.Network, Payer: receipt.Payer}.In(p.Dialect, *p.Accepted)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []SettleResponse{receipt, made2} {
			h := http.Header{}
			if err := SetReceipt(h, r); err != nil || h.Get(HeaderResponse) != sale.Receipt.Header {
				t.Errorf("%s: receipt written as %s (%v)\nwant %s", name, decoded(t, h.Get(HeaderResponse)), err, sale.Receipt.JSON)
			}
		}
		plain, err := receipt.In(X402, *p.Accepted)
		if b, _ := json.Marshal(plain); err != nil || bytes.Contains(b, []byte("requirements")) {
			t.Errorf("%s: a receipt of x402 says %s", name, b)
		}
	}

	failure, ok := ReadReceipt(&http.Response{Header: with(HeaderResponse, vs.Failure.Header)})
	if again, err := EncodeHeader(failure); !ok || err != nil || again != vs.Failure.Header {
		t.Errorf("failed receipt written as %s (%v)\nwant %s", decoded(t, again), err, vs.Failure.JSON)
	}

	q, refusal := ReadFacilitatorRequest(strings.NewReader(vs.VerifyBody.JSON))
	if refusal != nil || q.Payment.Dialect != T402 || q.Requirements.Amount != "10000" {
		t.Fatalf("request %+v (%v)", q, refusal)
	}
	if b, err := encodePlain(q); err != nil || string(b) != vs.VerifyBody.JSON {
		t.Errorf("request written as %s (%v)\nwant %s", b, err, vs.VerifyBody.JSON)
	}
}

func TestT402Version1(t *testing.T) {
	t.Parallel()
	vs := readT402(t)
	terms, _, err := ParsePaymentRequired(&http.Response{Body: io.NopCloser(strings.NewReader(vs.V1.Body))})
	if err != nil || terms.Dialect != T402 || terms.X402Version != 1 || terms.Accepts[0].Network != "eip155:8453" {
		t.Fatalf("terms %+v (%v)", terms, err)
	}
	p, err := ReadPayment(with(HeaderPayment, vs.V1.Payment.Header))
	if err != nil || p.Dialect != T402 || p.Version != 1 || p.Network != "eip155:8453" {
		t.Fatalf("payment %+v (%v)", p, err)
	}
	made, err := NewPayment(terms, terms.Accepts[0], p.Payload)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []Payment{*p, made} {
		if header, again, err := q.Header(); err != nil || header != HeaderPayment || again != vs.V1.Payment.Header {
			t.Errorf("in %s: %s (%v)\nwant %s", header, decoded(t, again), err, vs.V1.Payment.JSON)
		}
	}
}

// Who takes both answers in one dialect, and the facilitator is asked in its own.
func TestADialectStaysWithItsPeer(t *testing.T) {
	t.Parallel()
	w := write(t, terms())
	header := decoded(t, w.Header().Get(HeaderRequired))
	if !strings.HasPrefix(header, `{"x402Version":2,"t402Version":2,"error":`) {
		t.Errorf("the header begins %.80s", header)
	}
	read, _, err := ParsePaymentRequired(w.Result())
	if err != nil || read.Dialect != Both {
		t.Fatalf("%+v (%v)", read, err)
	}
	for dialect, begins := range map[Dialect]string{X402: `{"x402Version":2,"payload":`, T402: `{"t402Version":2,"payload":`, Both: `{"x402Version":2,"payload":`} {
		read.Dialect = dialect
		p, err := NewPayment(read, read.Accepts[1], map[string]string{})
		if err != nil {
			t.Fatal(err)
		}
		if _, h, err := p.Header(); err != nil || !strings.HasPrefix(decoded(t, h), begins) {
			t.Errorf("answer to %q: %s (%v)", dialect, decoded(t, h), err)
		}
		for _, spoken := range []Dialect{X402, T402} {
			var asked []byte
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				asked, _ = io.ReadAll(r.Body)
				io.WriteString(w, `{"isValid":true}`)
			})
			c.Dialect = spoken
			if _, err := c.Verify(t.Context(), p, *p.Accepted); err != nil {
				t.Fatal(err)
			}
			mine, other := "x402Version", "t402Version"
			if spoken == T402 {
				mine, other = other, mine
			}
			if bytes.Count(asked, []byte(mine)) != 2 || bytes.Contains(asked, []byte(other)) {
				t.Errorf("a facilitator that speaks %q was asked %s", spoken, asked)
			}
		}
	}
}

func TestKindsOfBothDialects(t *testing.T) {
	t.Parallel()
	var s Supported
	const text = `{"kinds":[{"t402Version":2,"scheme":"exact","network":"eip155:8453","extra":{"a":"<"}},{"x402Version":2,"scheme":"exact","network":"eip155:*"},` +
		`{"t402Version":2,"scheme":"exact-legacy","network":"eip155:1"},{"x402Version":2,"t402Version":2,"scheme":"upto","network":"eip155:1"}],"extensions":[],"signers":{}}`
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	if b, err := encodePlain(s); err != nil || string(b) != text {
		t.Errorf("written as %s (%v)", b, err)
	}
	for _, tt := range []struct {
		scheme, network string
		want            Dialect
		ok              bool
	}{{"exact", "eip155:8453", X402, true}, {"exact-legacy", "eip155:1", T402, true}, {"upto", "eip155:1", Both, true}, {"exact-legacy", "eip155:8453", "", false}} {
		if k, ok := s.Find(2, tt.scheme, tt.network); ok != tt.ok || k.Dialect != tt.want {
			t.Errorf("%s on %s: %+v, %v", tt.scheme, tt.network, k, ok)
		}
	}
	for list, want := range map[string]Dialect{
		`[]`: X402, `[{"t402Version":2}]`: T402, `[{"t402Version":2},{"x402Version":1}]`: X402, `[{"x402Version":7},{"t402Version":1}]`: T402,
		`[{"x402Version":2,"t402Version":2}]`: X402, `[{}]`: X402, `[{"x402Version":2,"t402Version":1},{"t402Version":2}]`: T402,
	} {
		var s Supported
		if err := json.Unmarshal([]byte(`{"kinds":`+list+`}`), &s); err != nil || s.Dialect() != want {
			t.Errorf("%s speaks %q, want %q (%v)", list, s.Dialect(), want, err)
		}
	}
	// A version of tomorrow hides nothing and is found by nobody.
	var tomorrow Supported
	if err := json.Unmarshal([]byte(`{"kinds":[{"x402Version":3,"scheme":"exact","network":"eip155:1"},{"x402Version":2,"scheme":"exact","network":"eip155:1"}]}`), &tomorrow); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Kind{{Scheme: "exact", Network: "eip155:1"}, {X402Version: 2, Scheme: "exact", Network: "eip155:1"}}, tomorrow.Kinds); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
