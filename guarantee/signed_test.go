package guarantee

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

func TestSignRefusesAnotherPayer(t *testing.T) {
	t.Parallel()
	c := claims
	c.Payer[0] ^= 1
	_, err := Sign(t.Context(), payerKey(t), deployment, c)
	wantErr(t, err, ErrSignature)
}

// A signature is worth something in its own deployment only: name (with the vault's address), version and chain count.
func TestVerifyForeignSeparator(t *testing.T) {
	t.Parallel()
	s, err := Sign(t.Context(), payerKey(t), deployment, claims)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Deployment){
		"chain":   func(d *Deployment) { d.ChainID++ },
		"name":    func(d *Deployment) { d.Name += " " + d.Vault.Lower() },
		"version": func(d *Deployment) { d.Version = "2" },
	} {
		d := deployment
		change(&d)
		_, err := s.Verify(d.ClaimsSeparator(), Rules{})
		if !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerifyChangedClaims(t *testing.T) {
	t.Parallel()
	s, err := Sign(t.Context(), payerKey(t), deployment, claims)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Claims){
		"payer":     func(c *Claims) { c.Payer[0] ^= 1 },
		"payee":     func(c *Claims) { c.Payee[0] ^= 1 },
		"asset":     func(c *Claims) { c.Asset[0] ^= 1 },
		"req_id":    func(c *Claims) { c.ReqID[0] ^= 1 },
		"amount":    func(c *Claims) { c.Amount = money.Units(1) },
		"timestamp": func(c *Claims) { c.Timestamp++ },
	} {
		changed := s
		change(&changed.Claims)
		if _, err := changed.Verify(deployment.ClaimsSeparator(), Rules{EIP191: true}); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerifyForms(t *testing.T) {
	t.Parallel()
	for _, form := range []Form{"", "EIP712", "eip1271", "eip191 ", Form(strings.Repeat("x", 1000))} {
		_, err := Signed{Claims: claims, Signature: vec.V1.EIP712.Signature, Form: form}.Verify(deployment.ClaimsSeparator(), Rules{EIP191: true})
		wantErr(t, err, ErrForm)
		if len(err.Error()) > 200 {
			t.Errorf("error of %d bytes", len(err.Error()))
		}
	}
}

func TestVerifyHighSInEveryForm(t *testing.T) {
	t.Parallel()
	for form, sig := range map[Form]evm.Signature{EIP712: vec.V1.EIP712.Signature, EIP191: vec.V1.EIP191.RawSignature} {
		for i := 32; i < 64; i++ {
			sig[i] = 0xff
		}
		_, err := Signed{Claims: claims, Signature: sig, Form: form}.Verify(deployment.ClaimsSeparator(), Rules{EIP191: true})
		wantErr(t, err, evm.ErrHighS)
		wantErr(t, err, ErrSignature)
	}
}

const bodyFormat = `{"claims":{"version":%s,"user_address":%s,"recipient_address":%s,"req_id":%s,"amount":%s,"asset_address":%s,"timestamp":%s},"signature":%s,"scheme":%s}`

// body is the vector's request with some members' values replaced.
func body(change map[string]string) string {
	values := []any{}
	for _, f := range []struct{ name, value string }{
		{"version", `"v1"`},
		{"user_address", `"0x70997970c51812dc3a010c7d01b50e0d17dc79c8"`},
		{"recipient_address", `"0x2222222222222222222222222222222222222222"`},
		{"req_id", `"0x5f1d2c3b4a59687786958493a2b1c0dfeedccbbaa99887766554433221100ff1"`},
		{"amount", `"0x186a0"`},
		{"asset_address", `"0x036cbd53842c5426634e7929541ec2318f3dcf7e"`},
		{"timestamp", `1782122400`},
		{"signature", `"` + vec.V1.EIP712.Signature.String() + `"`},
		{"scheme", `"eip712"`},
	} {
		if v, ok := change[f.name]; ok {
			f.value = v
		}
		values = append(values, f.value)
	}
	return fmt.Sprintf(bodyFormat, values...)
}

func TestSignedJSONLiberalIn(t *testing.T) {
	t.Parallel()
	const decimalID = "43021264455594882119423435363462371852942451274110166304346556364913588047857"
	for name, text := range map[string]string{
		"as it is":                 body(nil),
		"version number":           body(map[string]string{"version": `1`}),
		"version text":             body(map[string]string{"version": `"1"`}),
		"version upper case":       body(map[string]string{"version": `"V1"`}),
		"checksum address":         body(map[string]string{"user_address": `"0x70997970C51812dc3A010C7d01b50e0d17dc79C8"`}),
		"upper-case address":       body(map[string]string{"asset_address": `"0x036CBD53842C5426634E7929541EC2318F3DCF7E"`}),
		"decimal amount":           body(map[string]string{"amount": `"100000"`}),
		"amount number":            body(map[string]string{"amount": `100000`}),
		"leading zeros":            body(map[string]string{"amount": `"0x00000186a0"`}),
		"upper-case digits":        body(map[string]string{"amount": `"0x186A0"`}),
		"decimal id":               body(map[string]string{"req_id": `"` + decimalID + `"`}),
		"id number":                body(map[string]string{"req_id": decimalID}),
		"timestamp text":           body(map[string]string{"timestamp": `"1782122400"`}),
		"signature without prefix": body(map[string]string{"signature": `"` + vec.V1.EIP712.Signature.String()[2:] + `"`}),
		"small v":                  body(map[string]string{"signature": `"` + vec.V1.EIP712.Signature.String()[:130] + `01"`}),
		"no scheme":                strings.Replace(body(nil), `,"scheme":"eip712"`, ``, 1),
		"unknown members":          strings.Replace(body(nil), `{"claims":{`, `{"certificate":"batch","claims":{"note":{"a":[1,{}]},`, 1),
		"unknown in capitals":      strings.Replace(body(nil), `"amount":`, `"AMOUNTS":"7","amount":`, 1),
		"spaces":                   "\n " + strings.ReplaceAll(body(nil), ",", " ,\n ") + " ",
	} {
		var s Signed
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if s != (Signed{Claims: claims, Signature: vec.V1.EIP712.Signature, Form: EIP712}) {
			t.Errorf("%s: %+v", name, s)
		}
		out, err := json.Marshal(s)
		if err != nil || string(out) != body(nil) {
			t.Errorf("%s: written %s, %v", name, out, err)
		}
	}
}

func TestSignedJSONRefuses(t *testing.T) {
	t.Parallel()
	type refusal struct {
		text string
		err  error
	}
	cases := map[string]refusal{
		"nothing":             {``, ErrMalformed},
		"null":                {`null`, ErrMalformed},
		"list":                {`[]`, ErrMalformed},
		"empty":               {`{}`, ErrMalformed},
		"cut off":             {body(nil)[:100], ErrMalformed},
		"two values":          {body(nil) + `{}`, ErrMalformed},
		"claims null":         {`{"claims":null,"signature":"0x"}`, ErrMalformed},
		"no version":          {strings.Replace(body(nil), `"version":"v1",`, ``, 1), ErrMalformed},
		"claims twice":        {strings.Replace(body(nil), `{"claims"`, `{"claims":{},"claims"`, 1), ErrMalformed},
		"amount twice":        {strings.Replace(body(nil), `"amount"`, `"amount":"1","amount"`, 1), ErrMalformed},
		"amount in two cases": {strings.Replace(body(nil), `"amount"`, `"Amount":"1","amount"`, 1), ErrMalformed},
		"amount in escapes":   {strings.Replace(body(nil), `"amount"`, `"\u0061mount":"1","amount"`, 1), ErrMalformed},
		"version 2":           {body(map[string]string{"version": `"v2"`}), ErrMalformed}, // has no policy
		"version number 2":    {body(map[string]string{"version": `2`}), ErrMalformed},
		"version 3":           {body(map[string]string{"version": `"v3"`}), ErrVersion},
		"version 0":           {body(map[string]string{"version": `0`}), ErrVersion},
		"version null":        {body(map[string]string{"version": `null`}), ErrVersion},
		"no signature":        {strings.Replace(body(nil), `"signature"`, `"sig"`, 1), ErrMalformed},
	}
	for _, m := range []struct{ name, value string }{
		{"user_address", `""`}, {"user_address", `"0x1"`}, {"user_address", `7`}, {"user_address", `null`},
		{"user_address", `"0x70997970c51812dc3a010c7d01b50e0d17dc79zz"`},
		{"user_address", `"0x0X70997970c51812dc3a010c7d01b50e0d17dc79c8"`},
		{"user_address", `["0x70997970c51812dc3a010c7d01b50e0d17dc79c8"]`},
		{"amount", `-1`}, {"amount", `1.0`}, {"amount", `1e5`}, {"amount", `""`}, {"amount", `" 1"`}, {"amount", `"0x"`}, {"amount", `true`},
		{"amount", `null`}, {"amount", `{}`}, {"amount", `"0x1` + strings.Repeat("0", 64) + `"`},
		{"req_id", `"0x-1"`}, {"req_id", `"0x1` + strings.Repeat("0", 64) + `"`},
		{"timestamp", `18446744073709551616`}, {"timestamp", `-5`}, {"timestamp", `1782122400.5`},
		{"signature", `""`}, {"signature", `"0x00"`}, {"signature", `5`}, {"signature", `null`}, {"scheme", `null`}, {"scheme", `712`},
	} {
		cases[m.name+" "+m.value] = refusal{body(map[string]string{m.name: m.value}), ErrMalformed}
	}
	for name, c := range cases {
		s := Signed{Form: "untouched"}
		err := s.UnmarshalJSON([]byte(c.text))
		if !errors.Is(err, c.err) {
			t.Errorf("%s: error is %v, want %v", name, err, c.err)
		}
		if s != (Signed{Form: "untouched"}) {
			t.Errorf("%s: changed to %+v", name, s)
		}
	}
}

func TestDecodeClaimsRefuses(t *testing.T) {
	t.Parallel()
	good := EncodeClaims(domain, cycle, claims)
	for n := range ClaimsBytes {
		if _, _, _, err := DecodeClaims(good[:n]); !errors.Is(err, ErrCertificate) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	if _, _, _, err := DecodeClaims(append(good, 0)); !errors.Is(err, ErrCertificate) {
		t.Error(err)
	}
	// Every padding, offset, length and version byte has one right value.
	free := make([]bool, ClaimsBytes)
	for _, span := range [][2]int{{96, 128}, {128, 160}, {160, 192}, {204, 224}, {236, 256}, {256, 288}, {300, 320}, {344, 352}} {
		for i := span[0]; i < span[1]; i++ {
			free[i] = true
		}
	}
	for i := range good {
		b := EncodeClaims(domain, cycle, claims)
		b[i] ^= 0x80
		_, _, _, err := DecodeClaims(b)
		if (err == nil) != free[i] {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
}

// The digest was computed once by another implementation of EIP-712 (go-ethereum's).
func TestNoteDigest(t *testing.T) {
	t.Parallel()
	n := Note{Digest: vec.V1.EIP712.Digest, Amount: money.Units(70000), Reason: evm.Hash{9}}
	if got := n.SigningDigest(deployment).String(); got != "0xae53f8f9df5e07e20fe8c422de1ec1cab651cc5d933fa0b98ed8747c0eaae64b" {
		t.Errorf("digest %s", got)
	}
}

func TestNote(t *testing.T) {
	t.Parallel()
	key, digest := payerKey(t), claims.Digest(deployment.ClaimsSeparator())
	d := deployment
	d.ChainID, d.Vault = 31337, evm.MustAddress("0x1111111111111111111111111111111111111111")
	n, err := SignNote(t.Context(), key, d, Note{Digest: digest, Amount: money.Units(70), Reason: evm.Hash{9}})
	if err != nil {
		t.Fatal(err)
	}
	if signer, err := n.Signer(d); err != nil || signer != key.Address() {
		t.Errorf("signer %s, %v", signer, err)
	}
	text, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"digest":"%s","amount":"70","reason":"%s","signature":"%s"}`, n.Digest, n.Reason, n.Signature)
	if string(text) != want {
		t.Errorf("note %s, want %s", text, want)
	}
	var back SignedNote
	if err := json.Unmarshal(text, &back); err != nil || back != n {
		t.Errorf("read back %+v, %v", back, err)
	}
	for name, change := range map[string]func(*SignedNote, *Deployment){
		"digest": func(n *SignedNote, _ *Deployment) { n.Digest[0] ^= 1 },
		"amount": func(n *SignedNote, _ *Deployment) { n.Amount = money.Units(69) },
		"reason": func(n *SignedNote, _ *Deployment) { n.Reason[0] ^= 1 },
		"chain":  func(_ *SignedNote, d *Deployment) { d.ChainID++ },
		"vault":  func(_ *SignedNote, d *Deployment) { d.Vault[0] ^= 1 },
	} {
		n, d := n, d
		change(&n, &d)
		if signer, err := n.Signer(d); err == nil && signer == key.Address() {
			t.Errorf("%s changed: still the signer's", name)
		}
	}
	high := n
	for i := 32; i < 64; i++ {
		high.Signature[i] = 0xff
	}
	_, err = high.Signer(d)
	wantErr(t, err, evm.ErrHighS)
	wantErr(t, err, ErrSignature)
	for name, text := range map[string]string{
		"twice":        strings.Replace(string(text), `"amount"`, `"amount":"1","amount"`, 1),
		"missing":      strings.Replace(string(text), `"amount"`, `"amounts"`, 1),
		"null":         strings.Replace(string(text), `"70"`, `null`, 1),
		"negative":     strings.Replace(string(text), `"70"`, `"-70"`, 1),
		"not a note":   `[]`,
		"short digest": strings.Replace(string(text), n.Digest.String(), `0x00`, 1),
	} {
		var back SignedNote
		if err := json.Unmarshal([]byte(text), &back); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A log is read by more people than a payment: signatures in it are cut short.
func TestLogsCutSignatures(t *testing.T) {
	t.Parallel()
	s := signed(t, vec.V1.Request)
	cert := Certificate{Claims: EncodeClaims(domain, cycle, claims), Signature: [96]byte(unhex(t, vec.Certificate.Signature))}
	var out strings.Builder
	log := slog.New(slog.NewJSONHandler(&out, nil))
	log.Info("test", "signed", s, "note", SignedNote{Note: Note{Amount: money.Units(7)}, Signature: s.Signature}, "certificate", cert)
	for _, secret := range []string{s.Signature.String()[2:20], vec.Certificate.Signature[2:20]} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("signature in %s", out.String())
		}
	}
	for _, want := range []string{claims.Payer.String(), `"amount":"100000"`, `"amount":"7"`, "0x82c9f0af…", "certificate 87c30d07…"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in %s", want, out.String())
		}
	}
}
