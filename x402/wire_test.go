package x402

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// vectors are what the published packages send; see testdata/x402.json.
type vectors struct {
	Note     string            `json:"note"`
	Required map[string]vector `json:"required"`
	Payment  map[string]vector `json:"payment"`
	BodyV1   string            `json:"body_v1"`
	Receipt  []vector          `json:"receipt"`
}

type vector struct {
	JSON   string `json:"json"`
	Header string `json:"header"`
}

func readVectors(t testing.TB) vectors {
	t.Helper()
	b, err := os.ReadFile("testdata/x402.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// value decodes JSON for a comparison that ignores the order of members.
func value(t testing.TB, text string) any {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

func decoded(t testing.TB, header string) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(header)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func with(name string, values ...string) http.Header {
	h := http.Header{}
	for _, v := range values {
		h.Add(name, v)
	}
	return h
}

func TestPaymentsOfThePublishedPackages(t *testing.T) {
	t.Parallel()
	for name, v := range readVectors(t).Payment {
		header := HeaderSignature
		if strings.HasSuffix(name, "_v1") {
			header = HeaderPayment
		}
		p, err := ReadPayment(with(header, v.Header))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if p.Raw != v.Header || p.Network != "eip155:84532" {
			t.Errorf("%s: on %s, raw header kept %v", name, p.Network, p.Raw == v.Header)
		}
		gotName, again, err := p.Header()
		if err != nil || gotName != header {
			t.Errorf("%s: goes into %s (%v)", name, gotName, err)
		}
		if diff := cmp.Diff(value(t, v.JSON), value(t, decoded(t, again))); diff != "" {
			t.Errorf("%s: encoded again it differs (-was +is)\n%s", name, diff)
		}
	}
}

func TestTermsOfThePublishedPackages(t *testing.T) {
	t.Parallel()
	vs := readVectors(t)
	for name, v := range vs.Required {
		p, _, err := ParsePaymentRequired(&http.Response{Header: with(HeaderRequired, v.Header), Body: io.NopCloser(strings.NewReader("{}"))})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		again, err := EncodeHeader(p)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(value(t, v.JSON), value(t, decoded(t, again))); diff != "" {
			t.Errorf("%s: encoded again it differs (-was +is)\n%s", name, diff)
		}
		// Payments for these terms carry what they chose, which has to be found again.
		if payment, ok := vs.Payment[name]; ok {
			paid, err := ReadPayment(with(HeaderSignature, payment.Header))
			if err != nil {
				t.Fatal(err)
			}
			if !Matches(*paid.Accepted, p.Accepts[0]) {
				t.Errorf("%s: the payment does not match its terms", name)
			}
		}
	}
}

// What NewPayment makes is, byte for byte, what the packages make of the same terms.
func TestNewPaymentAsThePackagesMakeIt(t *testing.T) {
	t.Parallel()
	vs := readVectors(t)
	v2, _, err := ParsePaymentRequired(&http.Response{Header: with(HeaderRequired, vs.Required["exact_eip3009_v2"].Header)})
	if err != nil {
		t.Fatal(err)
	}
	v1, _, err := ParsePaymentRequired(&http.Response{Body: io.NopCloser(strings.NewReader(vs.BodyV1))})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, header string
		terms        PaymentRequired
	}{{"exact_eip3009_v2", HeaderSignature, v2}, {"exact_eip3009_v1", HeaderPayment, v1}} {
		want := vs.Payment[tt.name]
		var whole struct {
			Payload json.RawMessage `json:"payload"`
		}
		if err := json.Unmarshal([]byte(want.JSON), &whole); err != nil {
			t.Fatal(err)
		}
		p, err := NewPayment(tt.terms, tt.terms.Accepts[0], whole.Payload)
		if err != nil {
			t.Fatal(err)
		}
		name, value, err := p.Header()
		if err != nil || name != tt.header || value != want.Header {
			t.Errorf("%s: %s: %s (%v)\nwant %s", tt.name, name, decoded(t, value), err, want.JSON)
		}
	}
	for _, payload := range []any{[]int{1}, "text", nil, make(chan int)} {
		if _, err := NewPayment(v2, v2.Accepts[0], payload); err == nil {
			t.Errorf("a payload of %T was accepted", payload)
		}
	}
}

func TestVersion1TermsInNormalForm(t *testing.T) {
	t.Parallel()
	p, body, err := ParsePaymentRequired(&http.Response{Body: io.NopCloser(strings.NewReader(readVectors(t).BodyV1))})
	if err != nil {
		t.Fatal(err)
	}
	if string(body) != readVectors(t).BodyV1 {
		t.Error("the body is not returned as it came")
	}
	want := PaymentRequired{
		X402Version: 1, Error: "X-PAYMENT header is required",
		Resource: Resource{URL: "https://api.example.com/premium-data", Description: "Access to premium market data", MimeType: "application/json"},
		Accepts: []Requirements{{
			Scheme: "exact", Network: "eip155:84532", NetworkSent: "base-sepolia", Amount: "10000",
			Asset: "0x036CbD53842c5426634e7929541eC2318f3dCF7e", PayTo: "0x209693Bc6afc0C5328bA36FaF03C514EF312287C", MaxTimeoutSeconds: 60,
			Extra: map[string]json.RawMessage{"name": json.RawMessage(`"USDC"`), "version": json.RawMessage(`"2"`)},
		}},
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestTermsFromAllSortsOfServers(t *testing.T) {
	t.Parallel()
	const option = `{"scheme":"4mica-credit","network":"eip155:84532","amount":"500","asset":"0xa","payTo":"0xb","extra":{"tabEndpoint":"https://x.example"}}`
	for _, tt := range []struct {
		name, header, body string
		want               string // schemes offered, or the error
		version            int
	}{
		{"a version-2 list that is numbered 1", "", `{"x402Version":1,"resource":{"url":"u"},"accepts":[` + option + `]}`, "4mica-credit", 1},
		{"version-2 terms in the body", "", `{"x402Version":2,"accepts":[` + option + `]}`, "4mica-credit", 2},
		{"the header wins over the body", `{"x402Version":2,"accepts":[{"scheme":"exact","network":"eip155:1","amount":"1"}]}`, `{"x402Version":1,"accepts":[` + option + `]}`, "exact", 2},
		{"null for everything optional", "", `{"x402Version":1,"error":null,"resource":null,"extensions":null,"accepts":[{"scheme":"exact","network":"base","maxAmountRequired":"1","extra":null,"outputSchema":null,"description":null,"maxTimeoutSeconds":null}]}`, "exact", 1},
		{"one option that cannot be read", "", `{"x402Version":2,"accepts":[{"scheme":"new","network":"n:1","amount":{"from":1}},` + option + `,7]}`, "4mica-credit", 2},
		{"an amount that is no integer", "", `{"x402Version":2,"accepts":[{"scheme":"exact","network":"n:1","amount":"1.5"}]}`, "offers no way to pay", 0},
		{"two amounts that differ", "", `{"x402Version":2,"accepts":[{"scheme":"exact","network":"n:1","amount":"1","maxAmountRequired":"2"}]}`, "offers no way to pay", 0},
		{"no option", "", `{"x402Version":2,"accepts":[]}`, "offers no way to pay", 0},
		{"a page", "", `<html>`, "402's body", 0},
		{"nothing", "", ``, "402's body", 0},
		{"a body that goes on", "", `{"x402Version":2,"accepts":[` + option + `]} {}`, "402's body", 0},
		{"no number", "", `{"accepts":[` + option + `]}`, "neither x402Version nor t402Version", 0},
		{"a number that is not known", "", `{"x402Version":3,"accepts":[` + option + `]}`, "x402Version 3 is not known", 0},
		{"numbers that differ", `{"x402Version":2,"t402Version":1,"accepts":[` + option + `]}`, "", "x402Version is 2 and t402Version 1", 0},
		{"an option named twice", "", `{"accepts":[],"x402Version":2,"accepts":[` + option + `]}`, "twice", 0},
	} {
		h := http.Header{}
		if tt.header != "" {
			h.Set(HeaderRequired, base64.StdEncoding.EncodeToString([]byte(tt.header)))
		}
		p, _, err := ParsePaymentRequired(&http.Response{Header: h, Body: io.NopCloser(strings.NewReader(tt.body))})
		if err != nil {
			if !errors.Is(err, &Error{Code: "offer_invalid"}) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
			}
			continue
		}
		var schemes []string
		for _, r := range p.Accepts {
			schemes = append(schemes, r.Scheme)
		}
		if got := strings.Join(schemes, " "); got != tt.want || p.X402Version != tt.version {
			t.Errorf("%s: %s of version %d, want %s of %d", tt.name, got, p.X402Version, tt.want, tt.version)
		}
	}
	for name, resp := range map[string]*http.Response{
		"header that is no base64": {Header: with(HeaderRequired, "no base64!")},
		"header that is too long":  {Header: with(HeaderRequired, strings.Repeat("A", requiredHeaderMax+4))},
		"two headers":              {Header: with(HeaderRequired, "e30=", "e30=")},
		"body that is too long":    {Body: io.NopCloser(strings.NewReader(strings.Repeat(" ", RequiredBodyMax+1)))},
		"body that breaks off":     {Body: io.NopCloser(io.MultiReader(strings.NewReader("{"), brokenReader{}))},
	} {
		if _, _, err := ParsePaymentRequired(resp); !errors.Is(err, &Error{Code: "offer_invalid"}) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("connection lost") }

func TestPaymentHeadersThatAreRefused(t *testing.T) {
	t.Parallel()
	good := readVectors(t).Payment["exact_eip3009_v2"].Header
	encode := func(json string) string { return base64.StdEncoding.EncodeToString([]byte(json)) }
	const accepted = `"accepted":{"scheme":"exact","network":"eip155:1","amount":"1"}`
	stray := encode(`{"x402Version":2,"payload":{},` + accepted + `}`)
	for pad := " "; !strings.HasSuffix(stray, "fQ=="); pad += " " { // } alone in the last group: 16 spellings of its last bits
		stray = encode(pad + `{"x402Version":2,"payload":{},` + accepted + `}`)
	}
	stray = strings.TrimSuffix(stray, "Q==") + "R=="
	for _, tt := range []struct {
		name   string
		header http.Header
		code   string // empty: accepted
	}{
		{"as it should be", with(HeaderSignature, good), ""},
		{"in the header of version 1", with(HeaderPayment, good), ""},
		{"without padding", with(HeaderSignature, strings.TrimRight(encode(`{"x402Version":2,"payload":{}, `+accepted+`}`), "=")), ""},
		{"the number of the other dialect", with(HeaderSignature, encode(`{"t402Version":2,"payload":{},`+accepted+`}`)), ""},
		{"both numbers, the same", with(HeaderSignature, encode(`{"x402Version":2,"t402Version":2,"payload":{},`+accepted+`}`)), ""},
		{"a number that its members contradict", with(HeaderSignature, encode(`{"x402Version":1,"payload":{},`+accepted+`}`)), ""},
		{"null for everything optional", with(HeaderSignature, encode(`{"x402Version":2,"payload":{},"resource":null,"extensions":null,`+accepted+`}`)), ""},
		{"scheme and network that agree with accepted", with(HeaderSignature, encode(`{"x402Version":2,"scheme":"exact","network":"ethereum","payload":{},`+accepted+`}`)), ""},
		{"members that nobody knows", with(HeaderSignature, encode(`{"x402Version":2,"new":[{}],"payload":{},`+accepted+`}`)), ""},

		{"twice the same", with(HeaderSignature, good, good), "payment_header_duplicate"},
		{"in both headers", http.Header{"Payment-Signature": {good}, "X-Payment": {good}}, "payment_header_duplicate"},
		{"two, one too long", with(HeaderSignature, good, strings.Repeat("A", HeaderBytesMax+1)), "payment_header_duplicate"},
		{"too long", with(HeaderSignature, strings.Repeat("A", HeaderBytesMax+1)), "payment_header_oversized"},
		{"empty", with(HeaderSignature, ""), "payment_undecodable"},
		{"base64url", with(HeaderSignature, strings.ReplaceAll(encode(`{"x402Version":2,"payload":{"a":"???>>>"},`+accepted+`}`), "/", "_")), "payment_undecodable"},
		{"a list of two", with(HeaderSignature, good+", "+good), "payment_undecodable"},
		{"a line end inside", with(HeaderSignature, good[:8]+"\n"+good[8:]), "payment_undecodable"},
		{"stray bits in the last character", with(HeaderSignature, stray), "payment_undecodable"},
		{"too much padding", with(HeaderSignature, "e30=="), "payment_undecodable"},
		{"no JSON", with(HeaderSignature, encode(`not json`)), "payment_undecodable"},
		{"JSON that is no object", with(HeaderSignature, encode(`null`)), "payment_undecodable"},
		{"something behind the JSON", with(HeaderSignature, encode(`{"x402Version":2,"payload":{},`+accepted+`}x`)), "payment_undecodable"},
		{"no payload", with(HeaderSignature, encode(`{"x402Version":2,`+accepted+`}`)), "payment_undecodable"},
		{"a payload that is text", with(HeaderSignature, encode(`{"x402Version":2,"payload":"x",`+accepted+`}`)), "payment_undecodable"},
		{"a payload that is null", with(HeaderSignature, encode(`{"x402Version":2,"payload":null,`+accepted+`}`)), "payment_undecodable"},
		{"neither accepted nor scheme", with(HeaderSignature, encode(`{"x402Version":2,"payload":{}}`)), "payment_undecodable"},
		{"a scheme without network", with(HeaderPayment, encode(`{"x402Version":1,"scheme":"exact","payload":{}}`)), "payment_undecodable"},
		{"another scheme beside accepted", with(HeaderSignature, encode(`{"x402Version":2,"scheme":"upto","payload":{},`+accepted+`}`)), "payment_undecodable"},
		{"another network beside accepted", with(HeaderSignature, encode(`{"x402Version":2,"network":"base","payload":{},`+accepted+`}`)), "payment_undecodable"},
		{"no version number", with(HeaderSignature, encode(`{"payload":{},`+accepted+`}`)), "payment_undecodable"},
		{"null for a version number", with(HeaderSignature, encode(`{"x402Version":null,"payload":{},`+accepted+`}`)), "payment_undecodable"},
		{"version 0", with(HeaderSignature, encode(`{"x402Version":0,"payload":{},`+accepted+`}`)), "payment_undecodable"},
		{"version -2", with(HeaderSignature, encode(`{"x402Version":-2,"payload":{},`+accepted+`}`)), "payment_undecodable"},
		{"a version that is text", with(HeaderSignature, encode(`{"x402Version":"2","payload":{},`+accepted+`}`)), "payment_undecodable"},
		{"version 3 of the other dialect", with(HeaderSignature, encode(`{"t402Version":3,"payload":{},`+accepted+`}`)), "payment_undecodable"},
		{"two numbers that differ", with(HeaderSignature, encode(`{"x402Version":2,"t402Version":1,"payload":{},`+accepted+`}`)), "payment_undecodable"},
		{"version 3", with(HeaderSignature, encode(`{"x402Version":3,"payload":{},`+accepted+`}`)), "payment_undecodable"},
		{"a member twice", with(HeaderSignature, encode(`{"x402Version":2,"payload":{},"payload":{},`+accepted+`}`)), "payment_undecodable"},
		{"a member twice in another letter case", with(HeaderSignature, encode(`{"x402Version":2,"payload":{},"Payload":{},`+accepted+`}`)), "payment_undecodable"},
		{"a member twice with a letter that folds", with(HeaderSignature, encode(`{"x402Version":2,"payload":{"sig":1,"ſig":2},`+accepted+`}`)), "payment_undecodable"},
		{"a member twice deep in the payload", with(HeaderSignature, encode(`{"x402Version":2,"payload":{"a":[{"b":{"value":"1","value":"2"}}]},`+accepted+`}`)), "payment_undecodable"},
		{"nested too deeply", with(HeaderSignature, encode(`{"x402Version":2,"payload":{"a":`+strings.Repeat("[", 40)+strings.Repeat("]", 40)+`},`+accepted+`}`)), "payment_undecodable"},
		{"a name that is not UTF-8", with(HeaderSignature, encode("{\"payload\":{\"\xff\":1},"+accepted+`}`)), "payment_undecodable"},
	} {
		p, err := ReadPayment(tt.header)
		if tt.code == "" {
			if err != nil || p == nil || p.Version != 2 {
				t.Errorf("%s: %v, %v", tt.name, p, err)
			}
			continue
		}
		if !errors.Is(err, &Error{Code: tt.code}) || p != nil {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.code)
		}
	}
	if p, err := ReadPayment(http.Header{"Authorization": {"x"}}); p != nil || err != nil {
		t.Errorf("no payment header: %v, %v", p, err)
	}
}

func TestMatchesByValue(t *testing.T) {
	t.Parallel()
	extra := func(pairs ...string) map[string]json.RawMessage {
		m := map[string]json.RawMessage{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = json.RawMessage(pairs[i+1])
		}
		return m
	}
	offered := Requirements{
		Scheme: "exact", Network: "eip155:84532", Amount: "500", Asset: "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
		PayTo: "0x209693Bc6afc0C5328bA36FaF03C514EF312287C", MaxTimeoutSeconds: 60, Extra: extra("name", `"USDC"`, "terms", `{"a":1,"b":["x"]}`),
	}
	for _, tt := range []struct {
		name   string
		change func(*Requirements)
		want   bool
	}{
		{"the same", func(*Requirements) {}, true},
		{"addresses in lower case", func(r *Requirements) { r.Asset, r.PayTo = strings.ToLower(r.Asset), strings.ToLower(r.PayTo) }, true},
		{"the network by its short name", func(r *Requirements) { r.Network = "base-sepolia" }, true},
		{"more in extra", func(r *Requirements) {
			r.Extra = extra("name", `"USDC"`, "terms", `{"a":1,"b":["x"]}`, "mine", "1")
		}, true},
		{"extra with members in another order", func(r *Requirements) { r.Extra = extra("name", `"\u0055SDC"`, "terms", ` {"b":["x"], "a":1}`) }, true},
		{"another scheme", func(r *Requirements) { r.Scheme = "upto" }, false},
		{"another network", func(r *Requirements) { r.Network = "eip155:8453" }, false},
		{"a lower amount", func(r *Requirements) { r.Amount = "499" }, false},
		{"a higher amount", func(r *Requirements) { r.Amount = "501" }, false},
		{"the amount spelled in another way", func(r *Requirements) { r.Amount = "0500" }, false},
		{"another token", func(r *Requirements) { r.Asset = r.PayTo }, false},
		{"another payee", func(r *Requirements) { r.PayTo = r.Asset }, false},
		{"more time", func(r *Requirements) { r.MaxTimeoutSeconds++ }, false},
		{"no extra", func(r *Requirements) { r.Extra = nil }, false},
		{"less in extra", func(r *Requirements) { r.Extra = extra("name", `"USDC"`) }, false},
		{"something else in extra", func(r *Requirements) { r.Extra = extra("name", `"USDC"`, "terms", `{"a":1,"b":["y"]}`) }, false},
		{"extra that is no JSON", func(r *Requirements) { r.Extra = extra("name", `"USDC"`, "terms", `{`) }, false},
	} {
		accepted := offered
		tt.change(&accepted)
		if got := Matches(accepted, offered); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	null := Requirements{Extra: extra("policy", "null")}
	if Matches(Requirements{}, null) || !Matches(null, null) {
		t.Error("null in extra is not the same as nothing")
	}
}

func TestReceipts(t *testing.T) {
	t.Parallel()
	for _, v := range readVectors(t).Receipt {
		r, ok := ReadReceipt(&http.Response{Header: with(HeaderResponse, v.Header)})
		if !ok {
			t.Errorf("cannot read %s", v.JSON)
			continue
		}
		h := http.Header{}
		if err := SetReceipt(h, r); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(value(t, v.JSON), value(t, decoded(t, h.Get(HeaderResponse)))); diff != "" {
			t.Errorf("encoded again it differs (-was +is)\n%s", diff)
		}
		if old := decoded(t, h.Get(HeaderXResponse)); !strings.Contains(old, `"network":"base-sepolia"`) {
			t.Errorf("version 1 reads %s", old)
		}
		h.Del(HeaderResponse)
		if again, ok := ReadReceipt(&http.Response{Trailer: h}); !ok || !cmp.Equal(r, again) {
			t.Errorf("from version 1's header, in a trailer: %+v, %v", again, ok)
		}
	}
	mica, ok := ReadReceipt(&http.Response{Header: with(HeaderXResponse, base64.StdEncoding.EncodeToString([]byte(
		`{"success":true,"error":null,"txHash":null,"networkId":"eip155:84532","certificate":{"claims":"0x01","signature":"0x02"}}`)))})
	if !ok || !mica.Success || mica.NetworkID != "eip155:84532" || string(mica.Certificate) != `{"claims":"0x01","signature":"0x02"}` {
		t.Errorf("4Mica's receipt: %+v, %v", mica, ok)
	}
	seller, ok := ReadReceipt(&http.Response{Header: with(HeaderXResponse, base64.StdEncoding.EncodeToString([]byte(
		`{"success":true,"guarantee":{"claims":"01","signature":"02"}}`)))})
	if !ok || !seller.Success || string(seller.Certificate) != `{"claims":"01","signature":"02"}` || seller.Guarantee != nil {
		t.Errorf("the receipt of 4Mica's seller: %+v, %v", seller, ok)
	}
	for name, h := range map[string]http.Header{
		"none": {}, "no base64": with(HeaderResponse, "?"), "too long": with(HeaderResponse, strings.Repeat("A", requiredHeaderMax+4)),
	} {
		if r, ok := ReadReceipt(&http.Response{Header: h}); ok {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// Version 1's clients do not decode UTF-8 in headers.
func TestHeadersAreASCII(t *testing.T) {
	t.Parallel()
	text := map[string]string{"name": "USD₮0 <&> 😀 \u2028"}
	h, err := EncodeHeader(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range decoded(t, h) {
		if c > 126 {
			t.Fatalf("%q is not ASCII", c)
		}
	}
	var back map[string]string
	if err := DecodeHeader(h, &back); err != nil || !cmp.Equal(text, back) {
		t.Errorf("reads back as %q (%v)", back, err)
	}
	if _, err := EncodeHeader(make(chan int)); err == nil {
		t.Error("a channel was encoded")
	}
}

func TestStripPaymentLeavesTheRest(t *testing.T) {
	t.Parallel()
	h := http.Header{"X-Payment": {"a"}, "Payment-Signature": {"b"}, "Payment-Required": {"c"}, "X-Payment-Response": {"d"}, "X-Payments-Team": {"e"}, "Accept": {"f"}}
	StripPayment(h)
	if diff := cmp.Diff(http.Header{"X-Payments-Team": {"e"}, "Accept": {"f"}}, h); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// terms are those of a route that takes both ways to pay.
func terms() Terms {
	const payTo, usdc = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C", "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
	named := map[string]json.RawMessage{"name": json.RawMessage(`"USDC"`), "version": json.RawMessage(`"2"`)}
	return Terms{
		Required: PaymentRequired{
			Resource: Resource{URL: "http://127.0.0.1:4020/quote/ACME", Description: "One quote", MimeType: "application/json"},
			Accepts: []Requirements{
				{Scheme: "4mica-credit", Network: "eip155:84532", Amount: "500", Asset: usdc, PayTo: payTo, MaxTimeoutSeconds: 60},
				{Scheme: "exact", Network: "eip155:84532", Amount: "500", Asset: usdc, PayTo: payTo, MaxTimeoutSeconds: 60, Extra: named},
			},
		},
		Error: "Payment required: $0.0005 for GET /quote/ACME. Nothing has been charged.",
		Price: "$0.0005", WaysToPay: []string{"guarantee", "exact"}, Completion: "charged after success", Refund: "full on failure within 24h",
		QuoteExpires: "2026-01-01T12:01:00Z", Try: "farthing get --max '$0.001' http://127.0.0.1:4020/quote/ACME",
	}
}

func write(t *testing.T, terms Terms) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	if err := WritePaymentRequired(w, terms, "", nil); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestWhatOldClientsAndPeopleRead(t *testing.T) {
	t.Parallel()
	w := write(t, terms())
	const want = `{"x402Version":1,` +
		`"error":"Payment required: $0.0005 for GET /quote/ACME. Nothing has been charged.",` +
		`"accepts":[{"scheme":"exact","network":"base-sepolia","maxAmountRequired":"500","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","payTo":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C",` +
		`"resource":"http://127.0.0.1:4020/quote/ACME","description":"One quote","mimeType":"application/json","maxTimeoutSeconds":60,` +
		`"extra":{"name":"USDC","version":"2"}}],` +
		`"price":"$0.0005","waysToPay":["guarantee","exact"],"completion":"charged after success","refund":"full on failure within 24h",` +
		`"quoteExpires":"2026-01-01T12:01:00Z","alternative":null,"try":"farthing get --max '$0.001' http://127.0.0.1:4020/quote/ACME"}`
	if got := w.Body.String(); got != want {
		t.Errorf("body\n%s\nwant\n%s", got, want)
	}
	if w.Code != http.StatusPaymentRequired || w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("status %d, %v", w.Code, w.Header())
	}
	p, _, err := ParsePaymentRequired(w.Result())
	if err != nil || p.X402Version != 2 || p.Dialect != Both || len(p.Accepts) != 2 || p.Error != terms().Error {
		t.Errorf("the header says %+v (%v)", p, err)
	}
}

func TestTheBodyListsWhatVersion1CanParse(t *testing.T) {
	t.Parallel()
	option := func(r Requirements, change func(*Requirements)) Requirements { change(&r); return r }
	base := terms()
	guarantee, exact := base.Required.Accepts[0], base.Required.Accepts[1]
	permit2 := option(exact, func(r *Requirements) {
		r.Extra = map[string]json.RawMessage{"assetTransferMethod": json.RawMessage(`"permit2"`)}
	})
	for _, tt := range []struct {
		name    string
		all     bool
		accepts []Requirements
		want    string // scheme and network of each option
	}{
		{"exact on a named network", false, []Requirements{guarantee, exact}, "exact@base-sepolia"},
		{"every way for 4Mica's clients", true, []Requirements{guarantee, exact}, "4mica-credit@eip155:84532 exact@base-sepolia"},
		{"nothing that version 1 knows", false, []Requirements{guarantee}, "4mica-credit@eip155:84532"},
		{"a network without a name in version 1", false, []Requirements{option(exact, func(r *Requirements) { r.Network = "eip155:42161" }), exact}, "exact@base-sepolia"},
		{"a name that came later than the first packages", false, []Requirements{option(exact, func(r *Requirements) { r.Network = "eip155:1" }), exact}, "exact@base-sepolia"},
		{"Permit2", false, []Requirements{permit2, exact}, "exact@base-sepolia"},
		{"an amount of 19 digits", false, []Requirements{option(exact, func(r *Requirements) { r.Amount = "1000000000000000000" }), exact}, "exact@base-sepolia"},
		{"a network of development only", false, []Requirements{option(exact, func(r *Requirements) { r.Network = "eip155:31337" })}, "exact@eip155:31337"},
		{"no way to pay", false, nil, ""},
	} {
		terms := terms()
		terms.Required.Accepts, terms.BodyAll = tt.accepts, tt.all
		b, err := terms.Body()
		if err != nil {
			t.Fatal(err)
		}
		var body struct {
			Accepts []struct{ Scheme, Network string }
		}
		if err := json.Unmarshal(b, &body); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, o := range body.Accepts {
			got = append(got, o.Scheme+"@"+o.Network)
		}
		if got := strings.Join(got, " "); got != tt.want || body.Accepts == nil {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestARefusalKeepsTheShape(t *testing.T) {
	t.Parallel()
	for code, status := range map[string]int{"": 402, "payment_mismatch": 402, "payment_used": 409, "house_unreachable": 503, "permit2_allowance_required": 412, "no_such_code": 402} {
		terms := terms()
		terms.Code, terms.Hint, terms.Alternative, terms.Details = code, "do this", "/cheaper", map[string]string{"asked": "500"}
		w := write(t, terms)
		var body struct {
			Code, Hint, Alternative, Error string
			Details                        map[string]string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
			t.Fatal(err)
		}
		if w.Code != status || body.Code != code || body.Hint != "do this" || body.Alternative != "/cheaper" || body.Details["asked"] != "500" || w.Header().Get(HeaderRequired) == "" {
			t.Errorf("%q: status %d, %+v", code, w.Code, body)
		}
	}
	w := httptest.NewRecorder()
	if err := WritePaymentRequired(w, terms(), "text/html; charset=utf-8", []byte("<p>")); err != nil || w.Body.String() != "<p>" || w.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("a page: %v, %v", w, err)
	}
	bad := terms()
	bad.Required.Accepts[0].Extra = map[string]json.RawMessage{"x": json.RawMessage("{")}
	w = httptest.NewRecorder()
	if err := WritePaymentRequired(w, bad, "", nil); err == nil || w.Header().Get(HeaderRequired) != "" || w.Body.Len() != 0 {
		t.Errorf("terms that cannot be encoded wrote %v (%v)", w, err)
	}
}

// The walk over bytes sees what encoding/json's tokens show.
func FuzzCheckMembers(f *testing.F) {
	for _, s := range []string{
		`{"a":1,"A":2}`, `{"a":{"b":"}"},"c":["{",{"d":1}],"e":"\\","f":"\""}`, `{"\u0061":1,"a":2}`, `[{"a":1},{"a":1}]`, `{"K":1,"\u212a":2}`, `"x"`, `[[[["a"]]]]`,
		`{"a":[1,{"b":2},"c"],"b":1,"c":{"a":1,"b":{"a":1}}}`, `{"b":1,"c":2,"d":3,"e":4,"f":5,"g":6,"h":7,"i":8,"j":9,"k":1,"l":1,"m":1,"n":1,"o":1,"p":1,"q":1,"r":1,"s":1,"ſ":1}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !json.Valid([]byte(text)) || !utf8.ValidString(text) {
			return
		}
		// The slow way: read every object as pairs.
		var deep func(dec *json.Decoder, depth int) bool
		found := false
		dec := json.NewDecoder(strings.NewReader(text))
		dec.UseNumber()
		deep = func(dec *json.Decoder, depth int) bool {
			tok, err := dec.Token()
			if err != nil {
				t.Fatal(err)
			}
			d, ok := tok.(json.Delim)
			if !ok {
				return false
			}
			tooDeep := depth == depthMax
			seen := map[string]bool{}
			for dec.More() {
				if d == '{' {
					name, err := dec.Token()
					if err != nil {
						t.Fatal(err)
					}
					found = found || seen[fold(name.(string))]
					seen[fold(name.(string))] = true
				}
				tooDeep = deep(dec, depth+1) || tooDeep
			}
			if _, err := dec.Token(); err != nil {
				t.Fatal(err)
			}
			return tooDeep
		}
		tooDeep := deep(dec, 0)
		if got, want := checkMembers([]byte(text)) != nil, found || tooDeep; got != want {
			t.Fatalf("refused %v, want %v: %s", got, want, text)
		}
	})
}

func FuzzReadPayment(f *testing.F) {
	for _, v := range readVectors(f).Payment {
		f.Add(v.JSON)
	}
	f.Add(`{"x402Version":2,"payload":{},"accepted":{"scheme":"a","network":"b","amount":"1","extra":null}}`)
	f.Add(`{"t402Version":2,"payload":{},"accepted":{"scheme":"a","network":"b","amount":"1","extra":{"a":"<&>"}}}`)
	f.Add(`{"x402Version":1,"scheme":"a","network":"ethereum-sepolia","payload":{"x":[{}]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		header := base64.StdEncoding.EncodeToString([]byte(text))
		p, err := ReadPayment(with(HeaderSignature, header))
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		name, first, err := p.Header()
		if err != nil {
			t.Fatal(err)
		}
		if len(first) > HeaderBytesMax { // escapes make it longer
			return
		}
		again, err := ReadPayment(with(name, first))
		if err != nil {
			t.Fatalf("cannot read what it wrote: %v\n%s", err, decoded(t, first))
		}
		if _, second, err := again.Header(); err != nil || first != second {
			t.Fatalf("decode, encode, decode is not stable (%v)\n%s\n%s", err, decoded(t, first), decoded(t, second))
		}
		if p.Version != again.Version || p.Dialect != again.Dialect || p.Scheme != again.Scheme || p.Network != again.Network {
			t.Fatalf("%+v became %+v", p, again)
		}
	})
}

func FuzzParsePaymentRequired(f *testing.F) {
	vs := readVectors(f)
	for _, v := range vs.Required {
		f.Add(v.JSON)
	}
	f.Add(vs.BodyV1)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseTerms(nil, []byte(text))
		if err != nil {
			return
		}
		first, err := EncodeHeader(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(first) > requiredHeaderMax {
			return
		}
		again, err := parseTerms([]string{first}, nil)
		if err != nil {
			t.Fatalf("cannot read what it wrote: %v\n%s", err, decoded(t, first))
		}
		if second, err := EncodeHeader(again); err != nil || first != second {
			t.Fatalf("decode, encode, decode is not stable (%v)\n%s\n%s", err, decoded(t, first), decoded(t, second))
		}
		for _, r := range p.Accepts {
			if !Matches(r, r) {
				t.Fatalf("%+v does not match itself", r)
			}
		}
		if _, err := (Terms{Required: p}).Body(); err != nil {
			t.Fatal(err)
		}
	})
}

// @t402/core's clients read a header byte by byte and send what they read back the same way.
func TestTermsSurviveClientsThatKnowNoUTF8(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	terms := Terms{Required: PaymentRequired{Resource: Resource{URL: "https://a/x", Description: "Käse für 1 ₮"}, Accepts: []Requirements{{Scheme: "exact", Network: "eip155:8453"}}}}
	if err := WritePaymentRequired(w, terms, "", nil); err != nil {
		t.Fatal(err)
	}
	header := w.Result().Header.Get(HeaderRequired)
	text, err := base64.StdEncoding.DecodeString(header)
	if err != nil {
		t.Fatal(err)
	}
	var latin []rune
	for _, b := range text {
		latin = append(latin, rune(b))
	}
	var echoed PaymentRequired
	if err := json.Unmarshal([]byte(string(latin)), &echoed); err != nil {
		t.Fatal(err)
	}
	var sent []byte
	for _, c := range echoed.Resource.Description {
		if c > 0xff {
			t.Fatalf("the client cannot encode %q", c)
		}
		sent = append(sent, byte(c))
	}
	if string(sent) != terms.Required.Resource.Description {
		t.Errorf("comes back as %q", sent)
	}
}

// What a gate of ours puts into one offer, at its longest: the header still passes proxies that allow little.
func TestOneOfferFitsThreeKilobytes(t *testing.T) {
	t.Parallel()
	extra := map[string]json.RawMessage{}
	for name, value := range map[string]any{
		"name": "Tether USD₮0 on a network with a long name", "version": "2", "assetTransferMethod": "permit2", "facilitatorAddress": "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
		"quote": "q1." + strings.Repeat("A", 43) + "." + strings.Repeat("B", 43), "price": "$0.0005, 100 calls at once, valid 24h", "completion": "as measured, at least $0.0001, at most $0.05",
		"refund": "full on failure within 24h, half on delay within 30 s", "uncaptured": "nothing is charged if the seller does not answer", "expires": 1767225660,
		"bundle": map[string]any{"calls": 100, "valid": "24h0m0s"}, "vault": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
		"tabEndpoint": "https://api.a-rather-long-name.example.com/.well-known/farthing/tabs",
	} {
		raw, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		extra[name] = raw
	}
	offer := Requirements{
		Scheme: "exact", Network: "eip155:84532", Amount: "115792089237316195423570985008687907853269984665640564039457584007913129639935",
		Asset: "0x036CbD53842c5426634e7929541eC2318f3dCF7e", PayTo: "0x209693Bc6afc0C5328bA36FaF03C514EF312287C", MaxTimeoutSeconds: 86400, Extra: extra,
	}
	terms := Terms{
		Required: PaymentRequired{
			Resource: Resource{URL: "https://api.a-rather-long-name.example.com/v1/quotes/ACME?from=2026-01-01&to=2026-01-31", Description: strings.Repeat("One quote of a share. ", 6), MimeType: "application/json"},
			Accepts:  []Requirements{offer}, Extensions: map[string]json.RawMessage{PaymentIDKey: DeclarePaymentID(false)},
		},
		Error: "Payment required: $0.0005 for GET /v1/quotes/ACME. Nothing has been charged.",
	}
	if n := len(write(t, terms).Header().Get(HeaderRequired)); n > 3<<10 {
		t.Errorf("%d bytes", n)
	} else {
		t.Logf("%d bytes", n)
	}
}
