package purchase_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/purchase"
)

var (
	drawPayee = evm.MustAddress("0x52000000000000000000000000000000000000e1")
	drawTime  = time.Unix(1767225600, 0)
	drawID    = purchase.IDFromPayment(evm.Keccak256([]byte("a bundle")))
)

func signedDraw(t *testing.T) (purchase.Draw, *evm.PrivateKey) {
	t.Helper()
	key, err := evm.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	d, err := purchase.SignDraw(t.Context(), key, 31337, drawPayee, drawID, evm.Keccak256([]byte("terms")), drawTime)
	if err != nil {
		t.Fatal(err)
	}
	return d, key
}

func TestDrawIsGoodForItsRequestAndPayeeOnly(t *testing.T) {
	t.Parallel()
	d, _ := signedDraw(t)
	if err := d.Verify(31337, drawPayee); err != nil {
		t.Fatalf("as signed: %v", err)
	}
	for name, change := range map[string]func(d *purchase.Draw, chain *uint64, payee *evm.Address){
		"another bundle": func(d *purchase.Draw, _ *uint64, _ *evm.Address) {
			d.Bundle = purchase.IDFromPayment(evm.Keccak256([]byte("other")))
		},
		"another request": func(d *purchase.Draw, _ *uint64, _ *evm.Address) { d.Terms[0]++ },
		"another time":    func(d *purchase.Draw, _ *uint64, _ *evm.Address) { d.Timestamp++ },
		"another payer":   func(d *purchase.Draw, _ *uint64, _ *evm.Address) { d.Payer[0]++ },
		"another chain":   func(_ *purchase.Draw, chain *uint64, _ *evm.Address) { *chain++ },
		"another payee":   func(_ *purchase.Draw, _ *uint64, payee *evm.Address) { payee[0]++ },
		"high s":          func(d *purchase.Draw, _ *uint64, _ *evm.Address) { d.Signature[32] = 0xff },
	} {
		changed, chain, payee := d, uint64(31337), drawPayee
		change(&changed, &chain, &payee)
		if changed.Verify(chain, payee) == nil {
			t.Errorf("%s: still verifies", name)
		}
	}
}

func TestDrawHasItsTime(t *testing.T) {
	t.Parallel()
	d, _ := signedDraw(t)
	for _, c := range []struct {
		after time.Duration
		want  error
	}{
		{0, nil}, {purchase.DrawPast, nil}, {purchase.DrawPast + time.Second, purchase.ErrDrawOld},
		{-purchase.DrawAhead, nil}, {-purchase.DrawAhead - time.Second, purchase.ErrDrawFuture},
	} {
		if err := d.Window(drawTime.Add(c.after)); !errors.Is(err, c.want) {
			t.Errorf("%v after signing: %v, want %v", c.after, err, c.want)
		}
	}
	d.Timestamp = 1<<64 - 1
	if err := d.Window(drawTime); !errors.Is(err, purchase.ErrDrawFuture) {
		t.Errorf("at the end of time: %v, want %v", err, purchase.ErrDrawFuture)
	}
}

func TestDrawKeepsItsWords(t *testing.T) {
	t.Parallel()
	d, _ := signedDraw(t)
	raw, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	got, err := purchase.ReadDraw(raw)
	if err != nil || got != d || !purchase.IsDraw(raw) {
		t.Fatalf("read %+v, %v of %s", got, err, raw)
	}
	for name, bad := range map[string]string{
		"nothing":            `{}`,
		"no draw in it":      `{"draw":null}`,
		"a second payment":   strings.Replace(string(raw), `{"draw":`, `{"authorization":{},"draw":`, 1),
		"a member too many":  strings.Replace(string(raw), `"terms"`, `"amount":"1","terms"`, 1),
		"a member twice":     strings.Replace(string(raw), `"terms"`, `"Bundle":"","terms"`, 1),
		"no time":            strings.Replace(string(raw), `"1767225600"`, `null`, 1),
		"no object":          `[]`,
		"two draws":          strings.Replace(string(raw), `{"draw":`, `{"draw":{},"draw":`, 1),
		"a bundle of no id":  strings.Replace(string(raw), drawID, "p_1", 1),
		"a time past counts": strings.Replace(string(raw), `1767225600`, `99999999999999999999999`, 1),
	} {
		if _, err := purchase.ReadDraw(json.RawMessage(bad)); err == nil {
			t.Errorf("%s: was read: %s", name, bad)
		}
	}
	if purchase.IsDraw(json.RawMessage(`{"authorization":{}}`)) {
		t.Error("a transfer is taken for a draw")
	}
}

func FuzzReadDraw(f *testing.F) {
	f.Add([]byte(`{"draw":{"bundle":"` + drawID + `","payer":"0x52000000000000000000000000000000000000e1","terms":"0x` + strings.Repeat("ab", 32) +
		`","timestamp":"1","signature":"0x` + strings.Repeat("11", 64) + `1b"}}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		d, err := purchase.ReadDraw(payload)
		if err != nil {
			return
		}
		raw, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := purchase.ReadDraw(raw); err != nil || again != d {
			t.Fatalf("%+v read again as %+v, %v", d, again, err)
		}
	})
}

type drawVector struct {
	Description string
	Key         evm.Hash // of the payer; everybody has it
	ChainID     uint64
	Payee       evm.Address
	Digest      evm.Hash
	Payload     json.RawMessage
}

// Other implementations compare themselves with this file, so our bytes may not drift from it.
func TestDrawVector(t *testing.T) {
	t.Parallel()
	terms, secret := vectorTerms(), evm.Hash{31: 1}
	key, err := evm.NewKey(secret[:])
	if err != nil {
		t.Fatal(err)
	}
	const chain = 84532
	d, err := purchase.SignDraw(t.Context(), key, chain, terms.Payee, terms.Purchase, terms.Hash(), time.Unix(1782122400, 0))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	got := drawVector{
		Description: "Digest is what the payer of a bundle signs (docs/spec/purchase.md section 8), Payload is that of the payment.",
		Key:         secret, ChainID: chain, Payee: terms.Payee, Digest: d.Digest(chain, terms.Payee), Payload: payload,
	}
	want := published(t, "draw.json", got)
	if read, err := purchase.ReadDraw(want.Payload); err != nil || read != d {
		t.Errorf("read %+v, %v\nwant %+v", read, err, d)
	}
	got.Payload, want.Payload = nil, nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
