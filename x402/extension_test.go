package x402

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// extensionVectors are what the published packages make of extensions; see testdata/extensions.json.
type extensionVectors struct {
	Note  string `json:"note"`
	About struct {
		Clock   int64  `json:"clock_unix"`
		Key     string `json:"private_key"`
		Address string `json:"address"`
	} `json:"about"`
	Offer                  json.RawMessage `json:"offer"`
	OfferDigest            evm.Hash        `json:"offer_digest"`
	ReceiptPrivate         json.RawMessage `json:"receipt_private"`
	ReceiptPrivateDigest   evm.Hash        `json:"receipt_private_digest"`
	ReceiptWithTransaction json.RawMessage `json:"receipt_with_transaction"`
	CanonicalJSON          string          `json:"canonical_json"`
	JWSKid                 string          `json:"jws_kid"`
	JWSOffer               json.RawMessage `json:"jws_offer"`
	JWSReceipt             json.RawMessage `json:"jws_receipt"`
	SignIn                 struct {
		Message          string `json:"message"`
		Signature        string `json:"signature"`
		JSON             string `json:"json"`
		Header           string `json:"header"`
		WithoutStatement string `json:"message_without_statement"`
	} `json:"sign_in"`
	Bazaar json.RawMessage `json:"bazaar"`
}

func readExtensionVectors(t testing.TB) (v extensionVectors) {
	t.Helper()
	b, err := os.ReadFile("testdata/extensions.json")
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v extensionVectors) key(t testing.TB) *evm.PrivateKey {
	t.Helper()
	secret := evm.MustHash(v.About.Key)
	key, err := evm.NewKey(secret[:])
	if err != nil || key.Address().String() != v.About.Address {
		t.Fatalf("key of %s (%v)", key, err)
	}
	return key
}

// squeezed is JSON without blanks.
func squeezed(t testing.TB, raw []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestExtensionsComeBackWhole(t *testing.T) {
	t.Parallel()
	const terms = `{"a":{"info":{"x":1,"list":[1,{"y":2.0}],"deep":{"z":"ü","n":null}},"schema":{}},` +
		`"offer-receipt":{"info":{"offers":[{"signature":"0x01"}],"version":1}},"sign-in-with-x":{"info":{"domain":"d","nonce":"1","issuedAt":"t","expirationTime":"e"}},"bare":{"calls":1}}`
	for _, tt := range []struct {
		name, echoed string
		ok           bool
	}{
		{"all of them as they were", terms, true},
		{"none", `{}`, true},
		{"null", `null`, true},
		{"some", `{"bare":{"calls":1}}`, true},
		{"an own one", `{"mine":{"info":{"x":1}}}`, true},
		{"more in info", `{"a":{"info":{"x":1,"list":[1,{"y":2.0}],"deep":{"z":"ü","n":null,"mine":1},"id":"x"}}}`, true},
		{"numbers as JavaScript writes them", `{"a":{"info":{"x":1.0,"list":[1e0,{"y":2}],"deep":{"z":"\u00fc","n":null}}}}`, true},
		{"the schema left out", `{"a":{"info":{"x":1,"list":[1,{"y":2}],"deep":{"z":"ü","n":null}}}}`, true},
		{"an entry that has no info", `{"bare":7}`, true},
		{"offers of another 402", `{"offer-receipt":{"info":{"offers":[{"signature":"0x02"}],"version":1}}}`, true},
		{"a nonce of another 402", `{"sign-in-with-x":{"info":{"domain":"d","nonce":"2","issuedAt":"u","expirationTime":"f"}}}`, true},

		{"a member changed", `{"a":{"info":{"x":2,"list":[1,{"y":2}],"deep":{"z":"ü","n":null}}}}`, false},
		{"a number as text", `{"a":{"info":{"x":"1","list":[1,{"y":2}],"deep":{"z":"ü","n":null}}}}`, false},
		{"a member away", `{"a":{"info":{"list":[1,{"y":2}],"deep":{"z":"ü","n":null}}}}`, false},
		{"a deep member changed", `{"a":{"info":{"x":1,"list":[1,{"y":2}],"deep":{"z":"u","n":null}}}}`, false},
		{"a null away", `{"a":{"info":{"x":1,"list":[1,{"y":2}],"deep":{"z":"ü"}}}}`, false},
		{"a longer list", `{"a":{"info":{"x":1,"list":[1,{"y":2},3],"deep":{"z":"ü","n":null}}}}`, false},
		{"more in a list's element", `{"a":{"info":{"x":1,"list":[1,{"y":2,"mine":1}],"deep":{"z":"ü","n":null}}}}`, false},
		{"no info", `{"a":{"schema":{}}}`, false},
		{"info that is no object", `{"a":{"info":[]}}`, false},
		{"an entry that is null", `{"a":null}`, false},
		{"another domain to sign in at", `{"sign-in-with-x":{"info":{"domain":"e","nonce":"1","issuedAt":"t","expirationTime":"e"}}}`, false},
		{"another version of offers", `{"offer-receipt":{"info":{"offers":[],"version":2}}}`, false},
	} {
		var advertised, echoed map[string]json.RawMessage
		if err := json.Unmarshal([]byte(terms), &advertised); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(tt.echoed), &echoed); err != nil {
			t.Fatal(err)
		}
		if e := CheckEcho(advertised, echoed); (e == nil) != tt.ok || e != nil && e.Code != "extension_echo_mismatch" {
			t.Errorf("%s: %v", tt.name, e)
		}
	}
}

func FuzzCheckEcho(f *testing.F) {
	f.Add(`{"a":{"info":{"x":[1,{"y":1e400}],"z":-0.0}}}`)
	f.Add(string(readExtensionVectors(f).Bazaar))
	f.Fuzz(func(t *testing.T, text string) {
		var m map[string]json.RawMessage
		if json.Unmarshal([]byte(text), &m) != nil {
			return
		}
		if e := CheckEcho(m, m); e != nil {
			t.Fatalf("%s is not its own echo: %v", text, e)
		}
		CheckEcho(m, map[string]json.RawMessage{"a": json.RawMessage(`{"info":{}}`)})
	})
}

// What the package's client makes of our declaration is read, and so is nothing else.
func TestPaymentIDs(t *testing.T) {
	t.Parallel()
	id := NewPaymentID([16]byte{0xab, 15: 1})
	if id != "pay_ab000000000000000000000000000001" || !ValidPaymentID(id) {
		t.Errorf("made %s", id)
	}
	if got := squeezed(t, DeclarePaymentID(true)); got != `{"info":{"required":true},"schema":{"type":"object","properties":{"required":{"type":"boolean"},"id":{"type":"string","minLength":16,"maxLength":128,"pattern":"^[a-zA-Z0-9_-]+$"}},"required":["required"]}}` {
		t.Errorf("declared %s", got)
	}
	for _, tt := range []struct {
		name, entry string
		required    bool
		want        string // the id, or the code of an error
	}{
		{"none, not asked for", ``, false, ""},
		{"none, asked for", ``, true, "payment_id_invalid"},
		{"an entry without one, not asked for", `{"info":{"required":false}}`, false, ""},
		{"an entry without one, asked for", `{"info":{"required":false}}`, true, "payment_id_invalid"},
		{"null", `{"info":{"required":true,"id":null}}`, true, "payment_id_invalid"},
		{"one", `{"info":{"required":true,"id":"pay_0123456789abcdef"},"schema":{}}`, true, "pay_0123456789abcdef"},
		{"one though not asked for", `{"info":{"id":"ABCDEFGHIJKLMNOP"}}`, false, "ABCDEFGHIJKLMNOP"},
		{"15 characters", `{"info":{"id":"ABCDEFGHIJKLMNO"}}`, false, "payment_id_invalid"},
		{"128 characters", `{"info":{"id":"` + strings.Repeat("a", 128) + `"}}`, false, strings.Repeat("a", 128)},
		{"129 characters", `{"info":{"id":"` + strings.Repeat("a", 129) + `"}}`, false, "payment_id_invalid"},
		{"another letter", `{"info":{"id":"ABCDEFGHIJKLMNOPé"}}`, false, "payment_id_invalid"},
		{"a line end", `{"info":{"id":"ABCDEFGHIJKLMNOP\n"}}`, false, "payment_id_invalid"},
		{"a number", `{"info":{"id":1234567890123456}}`, false, "payment_id_invalid"},
		{"one twice", `{"info":{"id":"ABCDEFGHIJKLMNOP","ID":"ABCDEFGHIJKLMNOQ"}}`, false, "payment_id_invalid"},
		{"an entry that is text", `"x"`, false, "payment_id_invalid"},
	} {
		p := Payment{Version: 2}
		if tt.entry != "" {
			p.Extensions = map[string]json.RawMessage{PaymentIDKey: json.RawMessage(tt.entry)}
		}
		got, e := p.PaymentID(tt.required)
		if e != nil {
			got = e.Code
		}
		if got != tt.want {
			t.Errorf("%s: %q (%v), want %q", tt.name, got, e, tt.want)
		}
	}

	p := Payment{Version: 2, Scheme: "exact", Network: "eip155:1", Payload: json.RawMessage(`{}`), Extensions: map[string]json.RawMessage{PaymentIDKey: DeclarePaymentID(true), "a": json.RawMessage(`{}`)}}
	q, ok := p.WithPaymentID(id)
	if got, e := q.PaymentID(true); !ok || e != nil || got != id || len(q.Extensions) != 2 {
		t.Errorf("with an id: %s (%v)", got, e)
	}
	if e := CheckEcho(p.Extensions, q.Extensions); e != nil {
		t.Errorf("the id is no echo: %v", e)
	}
	if got, _ := p.PaymentID(false); got != "" {
		t.Error("the payment that it was made of has the id too")
	}
	for name, p := range map[string]Payment{"not asked for": {Version: 2}, "version 1": {Version: 1, Extensions: p.Extensions}, "an entry that is none": {Version: 2, Extensions: map[string]json.RawMessage{PaymentIDKey: json.RawMessage(`7`)}}} {
		if _, ok := p.WithPaymentID(id); ok {
			t.Errorf("%s: has an id", name)
		}
	}
	if _, ok := p.WithPaymentID("short"); ok {
		t.Error("an id that is none was taken")
	}
}

func TestTheSamePaymentInAnotherSpelling(t *testing.T) {
	t.Parallel()
	p := Payment{Scheme: "exact", Network: "eip155:1", Payload: json.RawMessage(`{"a":"x","b":{"c":1,"d":[2]}}`)}
	same := Payment{Version: 1, Dialect: T402, Scheme: "exact", Network: "eip155:1", Payload: json.RawMessage(` {"b":{"d":[2],"c":1},"a":"\u0078"}`)}
	if p.Fingerprint() != same.Fingerprint() {
		t.Error("another spelling is another payment")
	}
	for _, other := range []Payment{
		{Scheme: "upto", Network: p.Network, Payload: p.Payload}, {Scheme: p.Scheme, Network: "eip155:2", Payload: p.Payload},
		{Scheme: p.Scheme, Network: p.Network, Payload: json.RawMessage(`{"a":"y","b":{"c":1,"d":[2]}}`)},
		{Scheme: "exacteip155:1", Network: "", Payload: p.Payload}, {Scheme: p.Scheme, Network: p.Network},
	} {
		if p.Fingerprint() == other.Fingerprint() {
			t.Errorf("%+v is the same payment", other)
		}
	}
}

func TestSponsoringDeclarationsFitWhatClientsFillIn(t *testing.T) {
	t.Parallel()
	vs := readVectors(t)
	for key, declared := range map[string]json.RawMessage{EIP2612Key: DeclareEIP2612(), ERC20ApprovalKey: DeclareERC20Approval()} {
		name := map[string]string{EIP2612Key: "exact_permit2_with_eip2612_gas_sponsoring", ERC20ApprovalKey: "exact_permit2_with_erc20_approval_gas_sponsoring"}[key]
		p, err := ReadPayment(with(HeaderSignature, vs.Payment[name].Header))
		if err != nil {
			t.Fatal(err)
		}
		var ours, theirs Extension
		if err := json.Unmarshal(declared, &ours); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(p.Extensions[key], &theirs); err != nil {
			t.Fatal(err)
		}
		if err := CheckSchema(ours.Schema, theirs.Info); err != nil {
			t.Errorf("%s: %v", key, err)
		}
		if err := CheckSchema(ours.Schema, ours.Info); err == nil {
			t.Errorf("%s: what nobody filled in passes", key)
		}
	}
}

func TestSettlementOverrides(t *testing.T) {
	t.Parallel()
	usdc := money.Asset{Symbol: "USDC", Decimals: 6, Dollar: true}
	most := "115792089237316195423570985008687907853269984665640564039457584007913129639935"
	for _, tt := range []struct {
		name, header, signed string
		asset                money.Asset
		want                 string // the charge, or the code of an error
	}{
		{"units", `{"amount":"12345"}`, "50000", usdc, "12345"},
		{"nothing", `{"amount":"0"}`, "50000", usdc, "0"},
		{"all", `{"amount":"50000"}`, "50000", usdc, "50000"},
		{"one more", `{"amount":"50001"}`, "50000", usdc, "invalid_upto_evm_payload_settlement_exceeds_amount"},
		{"leading zeros", `{"amount":"00012"}`, "50000", usdc, "12"},
		{"a part in a hundred", `{"amount":"40%"}`, "50000", usdc, "20000"},
		{"two decimals", `{"amount":"33.33%"}`, "50000", usdc, "16665"},
		{"rounded down", `{"amount":"33.33%"}`, "10", usdc, "3"},
		{"a point and no decimals", `{"amount":"40.%"}`, "50000", usdc, "20000"},
		{"one decimal", `{"amount":"0.1%"}`, "50000", usdc, "50"},
		{"none of it", `{"amount":"0%"}`, "50000", usdc, "0"},
		{"all of it", `{"amount":"100%"}`, "50000", usdc, "50000"},
		{"all of the largest amount", `{"amount":"100.00%"}`, most, usdc, most},
		{"nearly all of the largest amount", `{"amount":"99.99%"}`, most, usdc, "115780510028392463804028627910187039062484657667173999983053638249512338326971"},
		{"a hair more than all", `{"amount":"100.01%"}`, "50000", usdc, "invalid_upto_evm_payload_settlement_exceeds_amount"},
		{"very much more than all", `{"amount":"` + strings.Repeat("9", 70) + `%"}`, "50000", usdc, "invalid_upto_evm_payload_settlement_exceeds_amount"},
		{"three decimals", `{"amount":"1.005%"}`, "50000", usdc, "meter_missing"},
		{"dollars", `{"amount":"$0.05"}`, "50000", usdc, "50000"},
		{"whole dollars", `{"amount":"$1"}`, "5000000", usdc, "1000000"},
		{"dollars below one unit", `{"amount":"$0.0000019"}`, "50000", usdc, "1"},
		{"dollars of 18 decimals", `{"amount":"$0.1"}`, "100000000000000000", money.Asset{Decimals: 18, Dollar: true}, "100000000000000000"},
		{"dollars of what is none", `{"amount":"$0.05"}`, "50000", money.Asset{Decimals: 6}, "meter_missing"},
		{"a sign", `{"amount":"-1"}`, "50000", usdc, "meter_missing"},
		{"an exponent", `{"amount":"1e3"}`, "50000", usdc, "meter_missing"},
		{"a fraction of a unit", `{"amount":"1.5"}`, "50000", usdc, "meter_missing"},
		{"hexadecimal", `{"amount":"0x10"}`, "50000", usdc, "meter_missing"},
		{"dollars and a point", `{"amount":"$1."}`, "5000000", usdc, "meter_missing"},
		{"nothing in it", `{"amount":""}`, "50000", usdc, "meter_missing"},
		{"only a sign of a percentage", `{"amount":"%"}`, "50000", usdc, "meter_missing"},
		{"more than fits", `{"amount":"` + strings.Repeat("9", 79) + `"}`, "50000", usdc, "meter_missing"},
		{"a number that is no text", `{"amount":5}`, "50000", usdc, "meter_missing"},
		{"twice", `{"amount":"1","Amount":"2"}`, "50000", usdc, "meter_missing"},
		{"no JSON", `12`, "50000", usdc, "meter_missing"},
		{"too long", `{"amount":"1","x":"` + strings.Repeat("x", 300) + `"}`, "50000", usdc, "meter_missing"},
		{"no amount", `{}`, "50000", usdc, "50000"},
	} {
		signed, err := money.ParseAmount(tt.signed)
		if err != nil {
			t.Fatal(err)
		}
		h := http.Header{"settlement-overrides": {tt.header}, "Content-Type": {"text/plain"}}
		charge, _, e := TakeOverride(h, signed, tt.asset)
		got := charge.String()
		if e != nil {
			got = e.Code
		}
		if got != tt.want || len(h) != 1 {
			t.Errorf("%s: %s (%v), want %s; left %v", tt.name, got, e, tt.want, h)
		}
	}
	h := http.Header{"Settlement-Overrides": {`{"amount":"1"}`, `{"amount":"2"}`}}
	if _, _, e := TakeOverride(h, money.Units(5), usdc); e == nil || e.Code != "meter_missing" || len(h) != 0 {
		t.Errorf("two headers: %v, left %v", e, h)
	}
	if charge, set, e := TakeOverride(http.Header{}, money.Units(5), usdc); e != nil || set || charge != money.Units(5) {
		t.Errorf("none: %s, %v (%v)", charge, set, e)
	}
}

func FuzzTakeOverride(f *testing.F) {
	for _, s := range []string{"12345", "40%", "33.33%", "$0.05", "100.00%"} {
		f.Add(s, uint64(50000))
	}
	f.Fuzz(func(t *testing.T, amount string, signed uint64) {
		header, err := json.Marshal(map[string]string{"amount": amount})
		if err != nil {
			return
		}
		charge, _, e := TakeOverride(with(HeaderOverrides, string(header)), money.Units(signed), money.Asset{Decimals: 6, Dollar: true})
		if e == nil && money.Units(signed).Less(charge) {
			t.Fatalf("%q of %d charges %s", amount, signed, charge)
		}
	})
}
