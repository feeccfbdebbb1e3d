package money

import (
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestAmountsInEverySpelling(t *testing.T) {
	t.Parallel()
	most := MaxAmount()
	for _, tt := range []struct{ text, want string }{
		{"0", "0"}, {"007", "7"}, {"500", "500"}, {"0x0", "0"}, {"0x1F4", "500"}, {"0x0001f4", "500"},
		{most.String(), most.String()}, {most.Hex(), most.String()},
		{"", ""}, {"0x", ""}, {"-1", ""}, {"+1", ""}, {"1.0", ""}, {"1e3", ""}, {" 1", ""}, {"1_000", ""}, {"0xg", ""}, {"0X1", ""},
		{"1" + strings.Repeat("0", 78), ""}, {"0x1" + strings.Repeat("0", 64), ""}, {"0x" + strings.Repeat("0", 65), ""},
	} {
		a, err := ParseAmount(tt.text)
		if tt.want == "" {
			if !errors.Is(err, ErrAmount) {
				t.Errorf("%q reads as %s (%v)", tt.text, a, err)
			}
			continue
		}
		if err != nil || a.String() != tt.want {
			t.Errorf("%q reads as %s (%v), want %s", tt.text, a, err, tt.want)
		}
	}
}

func TestAmountsInJSONAndSQL(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{`"500"`: "500", `"0x1f4"`: "500", `500`: "500", `null`: "", `-1`: "", `1.5`: "", `1e3`: "", `""`: "", `true`: "", `"1`: ""} {
		var a Amount
		if err := json.Unmarshal([]byte(text), &a); (err == nil) != (want != "") || err == nil && a.String() != want {
			t.Errorf("%s reads as %s (%v)", text, a, err)
		}
	}
	if b, err := json.Marshal(map[string]Amount{"a": MaxAmount()}); err != nil || string(b) != `{"a":"`+MaxAmount().String()+`"}` {
		t.Errorf("writes %s (%v)", b, err)
	}
	stored, err := Units(500).Value()
	if err != nil || stored != "500" {
		t.Errorf("stored as %v (%v)", stored, err)
	}
	for _, src := range []any{"500", []byte("500"), int64(500)} {
		var a Amount
		if err := a.Scan(src); err != nil || a != Units(500) {
			t.Errorf("%T reads as %s (%v)", src, a, err)
		}
	}
	for _, src := range []any{nil, int64(-1), 1.5, "x"} {
		var a Amount
		if err := a.Scan(src); !errors.Is(err, ErrAmount) {
			t.Errorf("%v reads as %s (%v)", src, a, err)
		}
	}
}

// Arithmetic agrees with math/big, or says that the result does not fit.
func TestArithmeticNeverWraps(t *testing.T) {
	t.Parallel()
	past := new(big.Int).Lsh(big.NewInt(1), 256)
	draw := func(t *rapid.T, name string) (Amount, *big.Int) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 32).Draw(t, name)
		a, err := AmountFromBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		return a, new(big.Int).SetBytes(b)
	}
	rapid.Check(t, func(t *rapid.T) {
		a, x := draw(t, "a")
		b, y := draw(t, "b")
		check := func(name string, got Amount, ok bool, want *big.Int) {
			fits := want.Sign() >= 0 && want.Cmp(past) < 0
			if ok != fits || ok && got.String() != want.String() {
				t.Fatalf("%s %s %s is %s (%v), want %s", a, name, b, got, ok, want)
			}
		}
		sum, ok := a.Add(b)
		check("+", sum, ok, new(big.Int).Add(x, y))
		difference, ok := a.Sub(b)
		check("-", difference, ok, new(big.Int).Sub(x, y))
		product, ok := a.Mul(b)
		check("×", product, ok, new(big.Int).Mul(x, y))
		if a.Cmp(b) != x.Cmp(y) || a.Less(b) != (x.Cmp(y) < 0) || (a == b) != (x.Cmp(y) == 0) {
			t.Fatalf("%s and %s compare wrongly", a, b)
		}
		if least, most := Min(a, b), Max(a, b); most.Less(least) || least != a && least != b || least == a && most != b || least == b && most != a {
			t.Fatalf("of %s and %s, %s is the smaller and %s the larger", a, b, least, most)
		}
		if word := a.Word(); new(big.Int).SetBytes(word[:]).Cmp(x) != 0 || a.BitLen() != x.BitLen() || a.IsZero() != (x.Sign() == 0) {
			t.Fatalf("%s as a word is %x", a, word)
		}
		if n, ok := a.Uint64(); ok != x.IsUint64() || ok && n != x.Uint64() {
			t.Fatalf("%s in 64 bits is %d (%v)", a, n, ok)
		}
	})
	if _, err := AmountFromBytes(make([]byte, 33)); !errors.Is(err, ErrAmount) {
		t.Errorf("33 bytes: %v", err)
	}
}
