package guarantee

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"unicode/utf8"
)

// What is read is written back as something that reads the same.
func FuzzSigned(f *testing.F) {
	f.Add([]byte(body(nil)))
	f.Add([]byte(body(map[string]string{"version": `1`, "amount": `"7"`, "scheme": `"eip191"`})))
	f.Add([]byte(`{"claims":{"version":"v1"}}`))
	f.Add([]byte(vec.V2.Request))
	f.Fuzz(func(t *testing.T, text []byte) {
		var s Signed
		if err := s.UnmarshalJSON(text); err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrVersion) {
				t.Errorf("error without a class: %v", err)
			}
			return
		}
		out, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var back Signed
		if err := json.Unmarshal(out, &back); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		// Text that is not UTF-8 is no known form and may change on the way.
		if !back.Claims.Equal(s.Claims) || back.Signature != s.Signature || (s.Form == EIP712) != (back.Form == EIP712) {
			t.Errorf("%+v is read back as %+v", s, back)
		}
		_, _ = s.Verify(domain, Rules{EIP191: true})
	})
}

func FuzzCertificate(f *testing.F) {
	v := verifier(f, deployment)
	certs := batch(f, authority(f), 3)
	for i, cert := range certs {
		if _, err := v.Verify(cert, numbered(i)); err != nil {
			f.Fatal(err)
		}
		text, err := json.Marshal(cert)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var c Certificate
		if err := c.UnmarshalJSON(text); err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("error without a class: %v", err)
			}
			return
		}
		out, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var back Certificate
		if err := json.Unmarshal(out, &back); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		again, err := json.Marshal(back)
		if err != nil || !bytes.Equal(out, again) {
			t.Errorf("%s is written again as %s", out, again)
		}
		// Other batches and single certificates would take a pairing each, and the fuzzer's time with it.
		if c.Batch == nil || c.Batch.Root != certs[0].Batch.Root || c.Batch.Size != 3 {
			return
		}
		if _, _, claims, err := DecodeClaims(c.Claims); err == nil {
			if _, err := v.Verify(c, claims); err == nil && !made(certs, c) {
				t.Error("a certificate that nobody made verifies")
			}
		}
	})
}

func made(certs []Certificate, c Certificate) bool {
	for _, known := range certs {
		if bytes.Equal(known.Claims, c.Claims) && known.Signature == c.Signature && slices.Equal(known.Batch.Siblings, c.Batch.Siblings) {
			return true
		}
	}
	return false
}

// The splitter must see what encoding/json sees, except where it is stricter by intent.
func FuzzMembers(f *testing.F) {
	f.Add([]byte(body(nil)))
	f.Add([]byte(` { "a" : [ 1 , {"b":"]}"} ] , "\u0062\"" : -1.5e3 ,"":null, "c":"\\" } `))
	f.Fuzz(func(t *testing.T, text []byte) {
		var want map[string]json.RawMessage
		o, err := members(text)
		if jsonErr := json.Unmarshal(text, &want); jsonErr != nil || want == nil {
			if err == nil {
				t.Fatalf("takes what encoding/json refuses: %v", jsonErr)
			}
			return
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("error without a class: %v", err)
			}
			return // given twice, or too many
		}
		if len(o) < len(want) {
			t.Errorf("%d members, want %d", len(o), len(want))
		}
		for name, value := range want {
			if utf8.Valid(text) && !bytes.Equal(o.Get(name), value) {
				t.Errorf("%q is %s, want %s", name, o.Get(name), value)
			}
		}
	})
}

// Claims have one encoding: what decodes encodes to the same bytes.
func FuzzDecodeClaims(f *testing.F) {
	f.Add(EncodeClaims(domain, cycle, claims))
	f.Add(EncodeClaims(domain2, cycle, claims2))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, cycle, c, err := DecodeClaims(b)
		if err != nil {
			return
		}
		if !bytes.Equal(EncodeClaims(d, cycle, c), b) {
			t.Errorf("%x has two encodings", b)
		}
	})
}

func FuzzPublicKey(f *testing.F) {
	f.Add([]byte(vec.BLS.PublicKeyJSON))
	f.Add([]byte(`"` + vec.BLS.PublicKey + `"`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var k PublicKey
		if k.UnmarshalJSON(text) != nil {
			return
		}
		if _, err := k.G1Words(); err != nil && !errors.Is(err, ErrKey) {
			t.Errorf("error without a class: %v", err)
		}
		out, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		var back PublicKey
		if err := json.Unmarshal(out, &back); err != nil || back != k {
			t.Errorf("%s is read back as %s, %v", out, back, err)
		}
	})
}
