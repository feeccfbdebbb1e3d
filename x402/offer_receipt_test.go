package x402

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/farthing402/farthing/evm"
)

const premium = "https://api.example.com/premium-data"

func offered() Requirements {
	return Requirements{
		Scheme: "exact", Network: "eip155:84532", Amount: "10000", Asset: "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
		PayTo: "0x209693Bc6afc0C5328bA36FaF03C514EF312287C", MaxTimeoutSeconds: 60,
	}
}

func terms402(offers ...Signed) PaymentRequired {
	return PaymentRequired{X402Version: 2, Resource: Resource{URL: premium}, Extensions: map[string]json.RawMessage{OfferReceiptKey: DeclareOffers(offers)}}
}

func receiptOf(entry json.RawMessage) SettleResponse {
	return SettleResponse{Success: true, Extensions: map[string]json.RawMessage{OfferReceiptKey: entry}}
}

// Signatures are deterministic, so what we sign is the text that the packages make.
func TestOffersAndReceiptsAsThePackagesMakeThem(t *testing.T) {
	t.Parallel()
	v := readExtensionVectors(t)
	key, ctx := v.key(t), t.Context()
	end := uint64(v.About.Clock + 60)

	o := MakeOffer(premium, offered(), end)
	if o.Digest() != v.OfferDigest {
		t.Errorf("offer's digest is %s, want %s", o.Digest(), v.OfferDigest)
	}
	signed, err := SignOffer(ctx, key, o, 0)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := encodePlain(signed); err != nil || string(b) != squeezed(t, v.Offer) {
		t.Errorf("offer %s (%v)\nwant %s", b, err, squeezed(t, v.Offer))
	}
	pay := offered()
	pay.PayTo = key.Address().String()
	if signed, err = SignOfferJWS(ctx, key, v.JWSKid, MakeOffer(premium, pay, end), 0); err != nil {
		t.Fatal(err)
	}
	if b, err := encodePlain(signed); err != nil || string(b) != squeezed(t, v.JWSOffer) {
		t.Errorf("JWS offer %s (%v)\nwant %s", b, err, squeezed(t, v.JWSOffer))
	}

	receipt := Receipt{Version: 1, Network: "eip155:84532", ResourceURL: premium, Payer: key.Address().String(), IssuedAt: uint64(v.About.Clock)}
	if receipt.Digest() != v.ReceiptPrivateDigest {
		t.Errorf("receipt's digest is %s, want %s", receipt.Digest(), v.ReceiptPrivateDigest)
	}
	named := receipt
	named.Network, named.Transaction = "base-sepolia", "0x"+strings.Repeat("12", 32)
	for want, r := range map[string]Receipt{squeezed(t, v.ReceiptPrivate): receipt, squeezed(t, v.ReceiptWithTransaction): named} {
		entry, err := SignReceipt(ctx, key, r)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(entry), `{"info":{"receipt":`+want+`},"schema":`) {
			t.Errorf("receipt %s\nwant %s", entry, want)
		}
		got, signer, found, err := receiptOf(entry).SignedReceipt(nil)
		if err != nil || !found || signer != key.Address() || got != r {
			t.Errorf("read as %+v by %s (%v)", got, signer, err)
		}
	}
	receipt.ResourceURL = "https://api.example.com/pre\"mium\\\n\u2028é"
	entry, err := SignReceiptJWS(ctx, key, v.JWSKid, receipt)
	if err != nil || !strings.Contains(string(entry), `"receipt":`+squeezed(t, v.JWSReceipt)) {
		t.Errorf("JWS receipt %s (%v)\nwant %s", entry, err, squeezed(t, v.JWSReceipt))
	}

	sample, err := canonicalJSON(json.RawMessage(`{"c":{"z":null,"y":true},"b":1,"a":"x"}`))
	if err != nil || string(sample) != v.CanonicalJSON {
		t.Errorf("canonical %s (%v)", sample, err)
	}
	if all, err := canonicalJSON([]any{false, "\x01<&>é", 1.5, map[string]any{}}); err != nil || string(all) != `[false,"\u0001<&>é",1.5,{}]` {
		t.Errorf("canonical %s (%v)", all, err)
	}
}

func TestSignedOffersAreFoundAndChecked(t *testing.T) {
	t.Parallel()
	v := readExtensionVectors(t)
	key, ctx := v.key(t), t.Context()
	var theirs, jws Signed
	if err := errors.Join(json.Unmarshal(v.Offer, &theirs), json.Unmarshal(v.JWSOffer, &jws)); err != nil {
		t.Fatal(err)
	}
	pay := offered()
	pay.PayTo = key.Address().String()
	pkh, err := SignOfferJWS(ctx, key, PKH(84532, key.Address()), MakeOffer(premium, pay, 0), 0)
	if err != nil {
		t.Fatal(err)
	}
	web, err := SignOfferJWS(ctx, key, "did:web:api.example.com#1", MakeOffer(premium, pay, 0), 0)
	if err != nil {
		t.Fatal(err)
	}
	keys := func(kid string) (evm.Address, bool) { return key.Address(), kid == "did:web:api.example.com#1" }
	change := func(s Signed, old, new string) Signed {
		s.Payload = json.RawMessage(strings.Replace(string(s.Payload), old, new, 1))
		s.Signature = strings.Replace(s.Signature, old, new, 1)
		return s
	}
	header, body, _ := strings.Cut(jws.Signature, ".")
	body, signature, _ := strings.Cut(body, ".")
	highS := highS(t, jws.Signature)
	for _, tt := range []struct {
		name   string
		offers []Signed
		chosen Requirements
		keys   Keys
		want   string // "found", "none", or part of an error
	}{
		{"the packages'", []Signed{theirs}, offered(), nil, "found"},
		{"the packages', as JWS", []Signed{jws}, pay, nil, "found"},
		{"as JWS with a high s", []Signed{{Format: FormatJWS, Signature: highS}}, pay, nil, "found"},
		{"by an account's DID", []Signed{pkh}, pay, nil, "found"},
		{"by a DID that somebody knows", []Signed{web}, pay, keys, "found"},
		{"second of two", []Signed{jws, theirs}, offered(), nil, "found"},
		{"of another amount", []Signed{theirs}, func() Requirements { r := offered(); r.Amount = "10001"; return r }(), nil, "none"},
		{"of another payee", []Signed{theirs}, pay, nil, "none"},
		{"none", nil, offered(), nil, "none"},

		{"by a DID that nobody knows", []Signed{web}, pay, nil, "none"},
		{"first by a DID that nobody knows", []Signed{web, jws}, pay, nil, "found"},
		{"by another algorithm", []Signed{{Format: FormatJWS, Signature: "eyJhbGciOiJFZERTQSIsImtpZCI6ImRpZDpwa2gifQ." + body + "."}, jws}, pay, nil, "found"},
		{"another signature", []Signed{change(theirs, "0xbf", "0xbe")}, offered(), nil, ""},
		{"another form", []Signed{{Format: "pgp", Signature: "x"}}, offered(), nil, "none"},
		{"no payload", []Signed{{Format: FormatEIP712, Signature: theirs.Signature}}, offered(), nil, "no payload"},
		{"two payloads", []Signed{{Format: FormatJWS, Payload: theirs.Payload, Signature: jws.Signature}}, pay, nil, "a payload beside"},
		{"a payload that names a member twice", []Signed{change(theirs, `"version": 1`, `"version": 1, "amount": "1"`)}, offered(), nil, "twice"},
		{"another payload in a JWS", []Signed{{Format: FormatJWS, Signature: header + ".e30." + signature}}, pay, nil, "not signed by"},
		{"two parts of a JWS", []Signed{{Format: FormatJWS, Signature: header + "." + body}}, pay, nil, "not a compact JWS"},
		{"padding in a JWS", []Signed{{Format: FormatJWS, Signature: jws.Signature + "=="}}, pay, nil, "not base64url"},
		{"a JWS with a shorter signature", []Signed{{Format: FormatJWS, Signature: header + "." + body + ".AAAA"}}, pay, nil, "not 64 bytes"},
		{"a JWS without a signature's algorithm", []Signed{{Format: FormatJWS, Signature: "eyJhbGciOiJub25lIiwia2lkIjoiZGlkOnBraCJ9." + body + "."}}, pay, nil, "without a signature"},
		{"a signature that is no hexadecimal", []Signed{{Format: FormatEIP712, Payload: theirs.Payload, Signature: "0xzz"}}, offered(), nil, "signature"},
	} {
		o, signer, found, err := terms402(tt.offers...).SignedOffer(tt.chosen, tt.keys)
		switch {
		case tt.want == "found":
			if err != nil || !found || signer != key.Address() || !o.Matches(tt.chosen) {
				t.Errorf("%s: %+v by %s, %v (%v)", tt.name, o, signer, found, err)
			}
		case tt.want == "none":
			if err != nil || found {
				t.Errorf("%s: %v (%v)", tt.name, found, err)
			}
		case tt.want == "": // a changed signature recovers to somebody else, or to nobody
			if err == nil && signer == key.Address() {
				t.Errorf("%s: passes as the key's", tt.name)
			}
		default:
			if !errors.Is(err, &Error{Code: "offer_invalid"}) || !strings.Contains(err.Error(), tt.want) || found {
				t.Errorf("%s: %v (%v), want %s", tt.name, found, err, tt.want)
			}
		}
	}
	elsewhere := terms402(theirs)
	elsewhere.Resource.URL = "https://api.example.com/other"
	if _, _, found, err := elsewhere.SignedOffer(offered(), nil); found || err != nil {
		t.Errorf("an offer of another resource: %v (%v)", found, err)
	}
	if _, _, found, err := (PaymentRequired{}).SignedOffer(offered(), nil); found || err != nil {
		t.Errorf("no extension: %v (%v)", found, err)
	}
	broken := PaymentRequired{Extensions: map[string]json.RawMessage{OfferReceiptKey: json.RawMessage(`{"info":{"offers":7}}`)}}
	if _, _, _, err := broken.SignedOffer(offered(), nil); !errors.Is(err, &Error{Code: "offer_invalid"}) {
		t.Errorf("offers that are a number: %v", err)
	}
	many := terms402(append(repeat(jws, offersMax), theirs)...)
	if _, _, found, err := many.SignedOffer(offered(), nil); found || err != nil {
		t.Errorf("behind more offers than are read: %v (%v)", found, err)
	}
}

func repeat(s Signed, n int) (list []Signed) {
	for range n {
		list = append(list, s)
	}
	return list
}

// The published type of a receipt has no amount, so our own signature beside it says it.
func TestReceiptsWithAmount(t *testing.T) {
	t.Parallel()
	v := readExtensionVectors(t)
	key, ctx := v.key(t), t.Context()
	r := Receipt{
		Version: 1, Network: "eip155:84532", ResourceURL: premium, Payer: key.Address().String(), IssuedAt: 1767225600,
		Asset: "0x036CbD53842c5426634e7929541eC2318f3dCF7e", Amount: "1234", Purchase: "p_7k2q",
	}
	typed, err := SignReceipt(ctx, key, r)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(typed), `"receipt":`+squeezed(t, v.ReceiptPrivate)) {
		t.Errorf("the published form is not there as it was: %s", typed)
	}
	jws, err := SignReceiptJWS(ctx, key, v.JWSKid, r)
	if err != nil {
		t.Fatal(err)
	}
	for name, entry := range map[string]json.RawMessage{"typed": typed, "JWS": jws} {
		got, signer, found, err := receiptOf(entry).SignedReceipt(nil)
		if err != nil || !found || signer != key.Address() || got != r {
			t.Errorf("%s: %+v by %s, %v (%v)", name, got, signer, found, err)
		}
	}
	// A charge of another purchase, by another key, or changed.
	other, err := evm.NewKey(append(make([]byte, 31), 7))
	if err != nil {
		t.Fatal(err)
	}
	info := func(entry json.RawMessage) (i offerReceiptInfo) {
		var e Extension
		if err := errors.Join(json.Unmarshal(entry, &e), json.Unmarshal(e.Info, &i)); err != nil {
			t.Fatal(err)
		}
		return i
	}
	r2 := r
	r2.IssuedAt++
	later, err := SignReceipt(ctx, key, r2)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := SignReceipt(ctx, other, r)
	if err != nil {
		t.Fatal(err)
	}
	cheaper := info(typed)
	cheaper.Charge.Payload = json.RawMessage(strings.Replace(string(cheaper.Charge.Payload), `"1234"`, `"12"`, 1))
	for name, i := range map[string]offerReceiptInfo{
		"of another purchase": {Receipt: info(typed).Receipt, Charge: info(later).Charge},
		"by another key":      {Receipt: info(typed).Receipt, Charge: info(theirs).Charge},
		"lowered":             cheaper,
		"a receipt as charge": {Receipt: info(typed).Receipt, Charge: info(typed).Receipt},
	} {
		if got, _, found, err := receiptOf(declare(i, `{}`)).SignedReceipt(nil); !errors.Is(err, &Error{Code: "receipt_invalid"}) || found {
			t.Errorf("a charge %s: %+v (%v)", name, got, err)
		}
	}
	// An amount that nobody signed is not shown.
	padded := info(typed)
	padded.Charge = nil
	padded.Receipt.Payload = json.RawMessage(strings.Replace(string(padded.Receipt.Payload), `{`, `{"amount":"1",`, 1))
	if got, _, found, err := receiptOf(declare(padded, `{}`)).SignedReceipt(nil); err != nil || !found || got.Amount != "" {
		t.Errorf("an amount beside the signature: %+v (%v)", got, err)
	}
	for name, entry := range map[string]string{"text": `"x"`, "no receipt": `{"info":{"receipt":{"format":"eip712","payload":{},"signature":"0x"}}}`, "version 2": strings.Replace(string(typed), `"version":1`, `"version":2`, 1)} {
		if _, _, found, err := receiptOf(json.RawMessage(entry)).SignedReceipt(nil); err == nil || found {
			t.Errorf("%s was read", name)
		}
	}
	if _, _, found, err := receiptOf(json.RawMessage(`{"info":{}}`)).SignedReceipt(nil); found || err != nil {
		t.Errorf("no receipt: %v (%v)", found, err)
	}
}

func TestWhoseKeyADIDIs(t *testing.T) {
	t.Parallel()
	v := readExtensionVectors(t)
	key := v.key(t)
	digest := evm.Keccak256([]byte("x"))
	signature, err := key.Sign(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	public, err := evm.RecoverKey(digest, signature)
	if err != nil || KeyDID(public) != v.JWSKid {
		t.Errorf("made %s (%v), want %s", KeyDID(public), err, v.JWSKid)
	}
	for kid, ok := range map[string]bool{
		v.JWSKid:                                                   true,
		strings.Split(v.JWSKid, "#")[0]:                            true,
		PKH(1, key.Address()):                                      true,
		PKH(1, key.Address()) + "#owner":                           true,
		"did:pkh:eip155:x:" + v.About.Address:                      false,
		"did:pkh:solana:1:" + v.About.Address:                      false,
		"did:pkh:eip155:1":                                         false,
		"did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK": false, // Ed25519
		"did:key:" + strings.Repeat("z", 70):                       false,
		"did:key:zQ3sh0":                                           false,
		"did:key:z":                                                false,
		"did:web:example.org":                                      false,
		"":                                                         false,
	} {
		if a, got := accountOf(kid); got != ok || ok && a != key.Address() {
			t.Errorf("%s: %s, %v", kid, a, got)
		}
	}
}

// highS returns the same JWS with s in the upper half, as other libraries may write it.
func highS(t *testing.T, jws string) string {
	t.Helper()
	at := strings.LastIndexByte(jws, '.') + 1
	raw, err := base64.RawURLEncoding.DecodeString(jws[at:])
	if err != nil {
		t.Fatal(err)
	}
	order, _ := new(big.Int).SetString("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16)
	order.Sub(order, new(big.Int).SetBytes(raw[32:])).FillBytes(raw[32:])
	return jws[:at] + base64.RawURLEncoding.EncodeToString(raw)
}

func FuzzSigned(f *testing.F) {
	v := readExtensionVectors(f)
	f.Add(string(v.Offer))
	f.Add(string(v.JWSOffer))
	f.Add(string(v.JWSReceipt))
	f.Fuzz(func(t *testing.T, text string) {
		entry := json.RawMessage(`{"info":{"offers":[` + text + `],"receipt":` + text + `,"charge":` + text + `}}`)
		terms := PaymentRequired{Extensions: map[string]json.RawMessage{OfferReceiptKey: entry}}
		if o, _, found, err := terms.SignedOffer(offered(), nil); found && (err != nil || !o.Matches(offered())) {
			t.Fatalf("%+v (%v)", o, err)
		}
		if r, _, found, err := receiptOf(entry).SignedReceipt(nil); found && (err != nil || r.Version != 1) {
			t.Fatalf("%+v (%v)", r, err)
		}
	})
}

func FuzzBase58(f *testing.F) {
	f.Add([]byte{0, 0, 1, 255})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 40 {
			return
		}
		if back, ok := unbase58(base58(b)); !ok || string(back) != string(b) {
			t.Fatalf("%x became %x", b, back)
		}
	})
}

func TestASignatureOfNoKeySignsNothing(t *testing.T) {
	t.Parallel()
	for name, signature := range map[string]string{
		"a v that is none": "0x" + strings.Repeat("11", 64) + "05",
		"a high s":         "0x" + strings.Repeat("11", 32) + strings.Repeat("ff", 32) + "1b",
		"an r off curve":   "0x" + strings.Repeat("00", 32) + strings.Repeat("11", 32) + "1b",
	} {
		entry := json.RawMessage(`{"info":{"receipt":{"format":"eip712","payload":{"version":1,"network":"eip155:8453","resourceUrl":"https://a.example/x",` +
			`"payer":"0x52000000000000000000000000000000000000e1","issuedAt":1,"transaction":""},"signature":"` + signature + `"}}}`)
		s := SettleResponse{Success: true, Network: "eip155:8453", Extensions: map[string]json.RawMessage{OfferReceiptKey: entry}}
		if _, signer, found, err := s.SignedReceipt(nil); err == nil || found {
			t.Errorf("%s: signed by %s, found %v", name, signer, found)
		}
	}
}
