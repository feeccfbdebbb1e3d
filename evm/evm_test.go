package evm

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// The examples of EIP-55.
func TestAddressChecksum(t *testing.T) {
	t.Parallel()
	for _, want := range []string{
		"0x52908400098527886E0F7030069857D2E4169EE7", "0x8617E340B3D01FA5F11F306F4090FD50E238070D",
		"0xde709f2102306220921060314715629080e2fb77", "0x27b1fdb04752bbc536007a920d24acb045561c26",
		"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
		"0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB", "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
	} {
		for _, spelling := range []string{want, strings.ToLower(want), "0x" + strings.ToUpper(want[2:]), "0X" + want[2:]} {
			a, err := ParseAddress(spelling)
			if err != nil {
				t.Errorf("%s: %v", spelling, err)
			}
			if a.String() != want || a.Lower() != strings.ToLower(want) {
				t.Errorf("%s is written %s and %s", spelling, a, a.Lower())
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	const digits = "52908400098527886e0f7030069857d2e4169ee7"
	for _, s := range []string{"", "0x", digits, "0x" + digits[1:], "0x" + digits + "0", "0x0x" + digits[2:], "0x0X" + digits, "0x" + digits[:39] + "g", " 0x" + digits, strings.Repeat("0x", 1000)} {
		if a, err := ParseAddress(s); err == nil {
			t.Errorf("address %q is read as %s", s, a)
		} else if len(err.Error()) > 200 {
			t.Errorf("error of %d bytes", len(err.Error()))
		}
	}
	for _, s := range []string{"", "0x", digits, "0x" + strings.Repeat("0", 63), strings.Repeat("g", 64), "0x0X" + strings.Repeat("0", 64)} {
		if h, err := ParseHash(s); err == nil {
			t.Errorf("hash %q is read as %s", s, h)
		}
		if sig, err := ParseSignature(s); err == nil {
			t.Errorf("signature %q is read as %s", s, sig)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("MustAddress keeps quiet")
		}
	}()
	MustAddress("nobody")
}

func TestText(t *testing.T) {
	t.Parallel()
	v := struct {
		A Address
		H Hash
		S Signature
	}{MustAddress("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"), Keccak256([]byte("h")), Signature{0: 7, 64: 28}}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	back := v
	back.A, back.H, back.S = Address{}, Hash{}, Signature{}
	if err := json.Unmarshal(text, &back); err != nil || back != v {
		t.Errorf("%s is read as %+v, %v", text, back, err)
	}
	if got := v.A.Short(); got != "0x5a…ed" {
		t.Errorf("short %s", got)
	}
	if got := (Hash{0: 0x9c, 31: 0x41}).Short(); got != "0x9c…41" {
		t.Errorf("short %s", got)
	}
	if got, want := slog.AnyValue(v.S).Resolve().String(), "0x07000000…"; got != want {
		t.Errorf("logged as %s, want %s", got, want)
	}
	if !(Address{}).IsZero() || v.A.IsZero() || !(Hash{}).IsZero() || v.H.IsZero() {
		t.Error("zero is not told from others")
	}
}

func TestKeccak256(t *testing.T) {
	t.Parallel()
	if got := Keccak256().String(); got != "0xc5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470" {
		t.Errorf("of nothing: %s", got)
	}
	if Keccak256([]byte("ab"), nil, []byte("c")) != Keccak256([]byte("abc")) {
		t.Error("parts are not concatenated")
	}
}

func TestWordUint64(t *testing.T) {
	t.Parallel()
	if got := fmt.Sprintf("%x", WordUint64(0x0102030405060708)); got != strings.Repeat("0", 48)+"0102030405060708" {
		t.Errorf("word %s", got)
	}
}

// The example of EIP-712, "Ether Mail", with the digest and signature that it gives.
func TestTypedDigest(t *testing.T) {
	t.Parallel()
	contract := MustAddress("0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC")
	domain := Domain{Name: "Ether Mail", Version: "1", ChainID: 1, VerifyingContract: &contract}
	if got := domain.Separator().String(); got != "0xf2cee375fa42b42143804025fc449deafd50cc031ca257e0b194a650a912090f" {
		t.Errorf("separator %s", got)
	}
	person := Keccak256([]byte("Person(string name,address wallet)"))
	hashPerson := func(name, wallet string) []byte {
		n, w := Keccak256([]byte(name)), MustAddress(wallet).Word()
		h := Keccak256(person[:], n[:], w[:])
		return h[:]
	}
	mail := Keccak256([]byte("Mail(Person from,Person to,string contents)Person(string name,address wallet)"))
	contents := Keccak256([]byte("Hello, Bob!"))
	digest := TypedDigest(domain.Separator(), Keccak256(mail[:],
		hashPerson("Cow", "0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"),
		hashPerson("Bob", "0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB"), contents[:]))
	if got := digest.String(); got != "0xbe609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2" {
		t.Errorf("digest %s", got)
	}
	secret := Keccak256([]byte("cow"))
	key, err := NewKey(secret[:])
	if err != nil {
		t.Fatal(err)
	}
	sig, err := key.Sign(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	const want = "0x4355c47d63924e8a72e509b65029052eb6c299d53a04e167c5775fd466751c9d07299936d304c153f6443dfa05f40ff007d72911b6f72307f996231605b915621c"
	if sig.String() != want {
		t.Errorf("signature %s", sig)
	}
	without := domain
	without.VerifyingContract = nil
	if without.Separator() == domain.Separator() {
		t.Error("the contract does not count")
	}
}

// EIP-191: the length is of the bytes, in decimal.
func TestHashPersonal(t *testing.T) {
	t.Parallel()
	if got := HashPersonal([]byte("hello world")).String(); got != "0xd9eba16ed0ecae432b71fe008c98cc872bb4cc214d3220a36f365326cf807d68" {
		t.Errorf("hash %s", got)
	}
}

func mustSignature(t *testing.T, s string) Signature {
	t.Helper()
	sig, err := ParseSignature(s)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func must32(t testing.TB, s string) (b [32]byte) {
	t.Helper()
	if n, err := hex.Decode(b[:], []byte(s)); err != nil || n != 32 {
		t.Fatal(err)
	}
	return b
}
