package purchase_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/purchase"
)

const drawChain = 84532

func drawKey(t testing.TB, secret byte) *evm.PrivateKey {
	t.Helper()
	key, err := evm.NewKey(append(make([]byte, 31), secret))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func vectorDraw(t testing.TB) purchase.Draw {
	t.Helper()
	terms := vectorTerms()
	d, err := purchase.SignDraw(t.Context(), drawKey(t, 1), drawChain, terms.Payee, terms.Purchase, terms.Hash(), time.Unix(1782122400, 0))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

type drawVector struct {
	Description string
	Key         string // of the payer; everybody has it
	ChainID     uint64
	Payee       evm.Address
	Terms       evm.Hash
	Digest      evm.Hash
	ID          evm.Hash
	Payload     json.RawMessage
}

// Other implementations compare themselves with this file, so our bytes may not drift from it.
func TestDrawVector(t *testing.T) {
	t.Parallel()
	d, payee := vectorDraw(t), vectorTerms().Payee
	payload, err := d.Payload()
	if err != nil {
		t.Fatal(err)
	}
	got := drawVector{
		Description: "Digest is what the payer of a bundle signs (docs/spec/purchase.md section 8), ID names the draw as a payment, Payload is that of the payment.",
		Key:         "0x" + strings.Repeat("0", 63) + "1", ChainID: drawChain, Payee: payee, Terms: d.Terms,
		Digest: d.Digest(drawChain, payee), ID: d.ID(drawChain, payee), Payload: payload,
	}
	const file = "../docs/spec/vectors/draw.json"
	if *update {
		b, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var want drawVector
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&want); err != nil {
		t.Fatal(err)
	}
	read, is, err := purchase.ReadDraw(want.Payload)
	if err != nil || !is {
		t.Fatalf("%v, %v", is, err)
	}
	read.Terms = want.Terms
	if read != d {
		t.Errorf("read %+v\nwant %+v", read, d)
	}
	if err := read.Signed(want.ChainID, want.Payee); err != nil {
		t.Error(err)
	}
	got.Payload, want.Payload = nil, nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestADrawIsForOneRequestAtOneSellerByOnePayer(t *testing.T) {
	t.Parallel()
	whole, payee := vectorDraw(t), vectorTerms().Payee
	if err := whole.Signed(drawChain, payee); err != nil {
		t.Fatal(err)
	}
	for name, alter := range map[string]func(*purchase.Draw){
		"another bundle":    func(d *purchase.Draw) { d.Bundle = purchase.IDFromPayment(evm.Hash{1}) },
		"another payer":     func(d *purchase.Draw) { d.Payer[0] ^= 1 },
		"other terms":       func(d *purchase.Draw) { d.Terms[0] ^= 1 },
		"another time":      func(d *purchase.Draw) { d.Timestamp++ },
		"another signature": func(d *purchase.Draw) { d.Signature[0] ^= 1 },
	} {
		d := whole
		alter(&d)
		if err := d.Signed(drawChain, payee); !errors.Is(err, purchase.ErrDrawSignature) {
			t.Errorf("%s: %v", name, err)
		}
		if same := d.ID(drawChain, payee) == whole.ID(drawChain, payee); same != (name == "another signature") {
			t.Errorf("%s: the same payment: %v", name, same)
		}
	}
	if err := whole.Signed(drawChain+1, payee); !errors.Is(err, purchase.ErrDrawSignature) {
		t.Errorf("on another chain: %v", err)
	}
	if err := whole.Signed(drawChain, evm.Address{1}); !errors.Is(err, purchase.ErrDrawSignature) {
		t.Errorf("at another payee: %v", err)
	}
	high := whole
	for i := range 32 { // n − s, the other signature of the same key
		high.Signature[32+i] = 0xff
	}
	if err := high.Signed(drawChain, payee); !errors.Is(err, purchase.ErrDrawSignature) || !errors.Is(err, evm.ErrHighS) {
		t.Errorf("a high s: %v", err)
	}
}

func TestDrawWindow(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		at   uint64
		now  int64
		good bool
	}{
		{"now", 1000, 1000, true},
		{"as old as may be", 1000, 1300, true},
		{"a second too old", 1000, 1301, false},
		{"as far ahead as may be", 1030, 1000, true},
		{"a second too far ahead", 1031, 1000, false},
		{"the end of time", 1<<64 - 1, 1000, false},
		{"a clock before 1970", 10, -5, true},
	} {
		err := purchase.Draw{Timestamp: tt.at}.Fresh(time.Unix(tt.now, 0))
		if (err == nil) != tt.good || err != nil && !errors.Is(err, purchase.ErrDrawTime) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if _, err := purchase.SignDraw(t.Context(), drawKey(t, 1), 1, evm.Address{}, "", evm.Hash{}, time.Unix(-1, 0)); !errors.Is(err, purchase.ErrDrawTime) {
		t.Errorf("signed before 1970: %v", err)
	}
}

func TestReadDraw(t *testing.T) {
	t.Parallel()
	d := vectorDraw(t)
	b, err := d.Payload()
	if err != nil {
		t.Fatal(err)
	}
	good := string(b)
	id, sig := d.Bundle, d.Signature.String()
	for _, tt := range []struct {
		name, payload string
		is, good      bool
	}{
		{"as it is written", good, true, true},
		{"with spaces, in another order", `{ "draw" : {"signature":"` + sig + `", "timestamp": 1782122400, "payer":"` + d.Payer.Lower() + `","bundle":"` + id + `"} }`, true, true},
		{"an authorization", `{"signature":"0x","authorization":{}}`, false, false},
		{"no object", `[]`, false, false},
		{"no JSON", `{`, false, false},
		{"null", `null`, false, false},
		{"another letter case", `{"Draw":{}}`, false, false},
		{"nothing in it", `{"draw":{}}`, true, false},
		{"no draw in it", `{"draw":null}`, true, false},
		{"a draw and an authorization", good[:len(good)-1] + `,"authorization":{}}`, true, false},
		{"two draws", good[:len(good)-1] + `,` + good[1:], true, false},
		{"two that differ in letter case", good[:len(good)-1] + `,"DRAW":1}`, true, false},
		{"one member more", strings.Replace(good, `"bundle"`, `"terms":"0x","bundle"`, 1), true, false},
		{"one member less", strings.Replace(good, `"timestamp":1782122400,`, ``, 1), true, false},
		{"a member in another letter case", strings.Replace(good, `"bundle"`, `"Bundle"`, 1), true, false},
		{"a member twice", strings.Replace(good, `"bundle"`, `"bundle":"`+id+`","bundle"`, 1), true, false},
		{"a member that is null", strings.Replace(good, `1782122400`, `null`, 1), true, false},
		{"a negative time", strings.Replace(good, `1782122400`, `-1`, 1), true, false},
		{"a time that is text", strings.Replace(good, `1782122400`, `"1782122400"`, 1), true, false},
		{"a time with a fraction", strings.Replace(good, `1782122400`, `1782122400.0`, 1), true, false},
		{"a time past 64 bits", strings.Replace(good, `1782122400`, `18446744073709551616`, 1), true, false},
		{"a bundle that is no purchase", strings.Replace(good, id, "p_1", 1), true, false},
		{"a short signature", strings.Replace(good, sig, sig[:130], 1), true, false},
		{"a short payer", strings.Replace(good, d.Payer.String(), "0x1", 1), true, false},
	} {
		got, is, err := purchase.ReadDraw(json.RawMessage(tt.payload))
		if is != tt.is || (err == nil) != (tt.good || !tt.is) || err != nil && !errors.Is(err, purchase.ErrDrawMalformed) {
			t.Errorf("%s: %v, %v", tt.name, is, err)
		}
		got.Terms = d.Terms
		if tt.good && got != d {
			t.Errorf("%s: %+v, want %+v", tt.name, got, d)
		}
	}
}

// What is read is what is written, and never panics.
func FuzzReadDraw(f *testing.F) {
	b, err := vectorDraw(f).Payload()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(b))
	f.Add([]byte(`{"draw":{"bundle":null}}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		d, is, err := purchase.ReadDraw(payload)
		if !is || err != nil {
			return
		}
		again, err := d.Payload()
		if err != nil {
			t.Fatal(err)
		}
		if e, is, err := purchase.ReadDraw(again); !is || err != nil || e != d {
			t.Fatalf("%+v became %+v, %v, %v", d, e, is, err)
		}
		_ = d.Signed(1, evm.Address{})
	})
}
