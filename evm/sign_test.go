package evm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
)

const (
	curveOrder = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"
	halfOrder  = "7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0"
)

// The first accounts of the development mnemonic, which everybody knows.
func TestKeyAddress(t *testing.T) {
	t.Parallel()
	for secret, want := range map[string]string{
		"ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80": "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
		"59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
		"0000000000000000000000000000000000000000000000000000000000000001": "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf",
	} {
		b := must32(t, secret)
		key, err := NewKey(b[:])
		if err != nil {
			t.Fatal(err)
		}
		if key.Address().String() != want || !bytes.Equal(key.Bytes(), b[:]) {
			t.Errorf("address %s, want %s", key.Address(), want)
		}
	}
}

func TestNewKeyRefuses(t *testing.T) {
	t.Parallel()
	order := must32(t, curveOrder)
	for name, secret := range map[string][]byte{
		"nothing": nil, "short": make([]byte, 31), "long": make([]byte, 33), "zero": make([]byte, 32),
		"the order": order[:], "above it": bytes.Repeat([]byte{0xff}, 32),
	} {
		if _, err := NewKey(secret); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	order[31]--
	if _, err := NewKey(order[:]); err != nil {
		t.Errorf("order − 1: %v", err)
	}
}

func TestKeyHidesSecret(t *testing.T) {
	t.Parallel()
	key, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	want := "key of " + key.Address().String()
	for _, verb := range []string{"%v", "%+v", "%s", "%#v"} {
		if got := fmt.Sprintf(verb, key); got != want {
			t.Errorf("%s prints %s", verb, got)
		}
	}
	if got := slog.AnyValue(key).Resolve().String(); got != want {
		t.Errorf("logged as %s", got)
	}
}

func TestRecoverRefuses(t *testing.T) {
	t.Parallel()
	key, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	digest := Keccak256([]byte("digest"))
	good, err := key.Sign(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	order, half := must32(t, curveOrder), must32(t, halfOrder)
	for _, c := range []struct {
		name   string
		change func(*Signature)
		err    error
	}{
		{"as it is", func(s *Signature) {}, nil},
		{"v 0", func(s *Signature) { s[64] -= 27 }, ErrRecoveryID},
		{"v 29", func(s *Signature) { s[64] = 29 }, ErrRecoveryID},
		{"v 255", func(s *Signature) { s[64] = 255 }, ErrRecoveryID},
		{"the twin with a high s", func(s *Signature) {
			twin := new(big.Int).SetBytes(order[:])
			twin.Sub(twin, new(big.Int).SetBytes(s[32:64])).FillBytes(s[32:64])
			s[64] ^= 27 ^ 28
		}, ErrHighS},
		{"s just above the half", func(s *Signature) { copy(s[32:], half[:]); s[63]++ }, ErrHighS},
		{"s of the order", func(s *Signature) { copy(s[32:], order[:]) }, ErrHighS},
		{"s past the order", func(s *Signature) { copy(s[32:64], bytes.Repeat([]byte{0xff}, 32)) }, ErrHighS},
		{"s zero", func(s *Signature) { clear(s[32:64]) }, ErrRecover},
		{"r zero", func(s *Signature) { clear(s[:32]) }, ErrRecover},
		{"r of the order", func(s *Signature) { copy(s[:32], order[:]) }, ErrRecover},
		{"r past the order", func(s *Signature) { copy(s[:32], bytes.Repeat([]byte{0xff}, 32)) }, ErrRecover},
		{"r of no point", func(s *Signature) { clear(s[:32]); s[31] = 5 }, ErrRecover},
		{"nothing", func(s *Signature) { *s = Signature{} }, ErrRecoveryID},
	} {
		sig := good
		c.change(&sig)
		address, err := Recover(digest, sig)
		if !errors.Is(err, c.err) || (err == nil) != (address == key.Address()) || err != nil && !address.IsZero() {
			t.Errorf("%s: %s, %v, want %v", c.name, address, err, c.err)
		}
	}
	// s exactly at the half is the largest that is allowed.
	atHalf := good
	copy(atHalf[32:], half[:])
	if _, err := Recover(digest, atHalf); err != nil {
		t.Errorf("s of half the order: %v", err)
	}
	other := good
	other[64] ^= 27 ^ 28
	if address, err := Recover(digest, other); err == nil && address == key.Address() {
		t.Error("both values of v recover one key")
	}
}

func TestParseSignatureV(t *testing.T) {
	t.Parallel()
	for v, want := range map[byte]byte{0: 27, 1: 28, 27: 27, 28: 28, 2: 2, 29: 29} {
		if got := mustSignature(t, Signature{64: v}.String()); got[64] != want {
			t.Errorf("v %d becomes %d", v, got[64])
		}
	}
}

// The pure and the native curve must be one function: parties with different builds judge the same signatures.
func TestCurvesAgree(t *testing.T) {
	t.Parallel()
	edges := [][32]byte{{}, {31: 1}, {31: 5}, must32(t, curveOrder), must32(t, halfOrder)}
	for i := range uint64(300) {
		seed := WordUint64(i)
		secret, digest := Keccak256([]byte("secret"), seed[:]), Keccak256([]byte("digest"), seed[:])
		switch i {
		case 0:
			digest = Hash{}
		case 1:
			copy(digest[:], bytes.Repeat([]byte{0xff}, 32))
		}
		key, err := NewKey(secret[:])
		if err != nil {
			t.Fatal(err)
		}
		sig, err := signDigest(key.key, digest)
		if err != nil {
			t.Fatal(err)
		}
		if pure := signPure(key.key, digest); sig != pure {
			t.Fatalf("signatures %s and %s", sig, pure)
		}
		if address, err := Recover(digest, sig); err != nil || address != key.Address() {
			t.Fatalf("recovered %s, %v", address, err)
		}
		for _, e := range edges {
			wrong := sig
			copy(wrong[32*(i%2):], e[:])
			agree(t, digest, wrong)
		}
		wrong := sig
		wrong[i%64] ^= byte(i) | 1
		agree(t, digest, wrong)
	}
}

func agree(t *testing.T, digest Hash, sig Signature) {
	t.Helper()
	one, err1 := recoverSigner(digest, sig)
	two, err2 := recoverPure(digest, sig)
	if one != two || err1 != err2 {
		t.Errorf("%s of %s: %s, %v and %s, %v", sig, digest, one, err1, two, err2)
	}
}

func FuzzRecover(f *testing.F) {
	f.Add(make([]byte, 32), make([]byte, 65), uint64(1))
	f.Add(bytes.Repeat([]byte{0xff}, 32), bytes.Repeat([]byte{27}, 65), uint64(7))
	f.Fuzz(func(t *testing.T, d, s []byte, n uint64) {
		var digest Hash
		var sig Signature
		copy(digest[:], d)
		copy(sig[:], s)
		if _, err := Recover(digest, sig); err == nil {
			// What recovers is low in s, and its twin does not.
			var high secp256k1.ModNScalar
			if high.SetByteSlice(sig[32:64]) || high.IsOverHalfOrder() {
				t.Error("high s recovers")
			}
		}
		sig[64] = 27 + sig[64]%2
		agree(t, digest, sig)

		var seed [8]byte
		binary.BigEndian.PutUint64(seed[:], n)
		secret := Keccak256(seed[:])
		key, err := NewKey(secret[:])
		if err != nil {
			return
		}
		own, err := key.Sign(t.Context(), digest)
		if err != nil {
			t.Fatal(err)
		}
		if address, err := Recover(digest, own); err != nil || address != key.Address() {
			t.Errorf("recovered %s, %v", address, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("0x52908400098527886E0F7030069857D2E4169EE7")
	f.Add("0x" + curveOrder)
	f.Add(Signature{64: 27}.String())
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := ParseAddress(s); err == nil {
			if back, err := ParseAddress(a.String()); err != nil || back != a {
				t.Errorf("%q: %s, %v", s, back, err)
			}
		}
		if h, err := ParseHash(s); err == nil {
			if back, err := ParseHash(h.String()); err != nil || back != h {
				t.Errorf("%q: %s, %v", s, back, err)
			}
		}
		if sig, err := ParseSignature(s); err == nil {
			if back, err := ParseSignature(sig.String()); err != nil || back != sig {
				t.Errorf("%q: %s, %v", s, back, err)
			}
		}
	})
}

func benchmarkSignature(b *testing.B) (*PrivateKey, Hash, Signature) {
	key, err := GenerateKey()
	if err != nil {
		b.Fatal(err)
	}
	digest := Keccak256([]byte("digest"))
	return key, digest, signPure(key.key, digest)
}

func BenchmarkRecover(b *testing.B) {
	_, digest, sig := benchmarkSignature(b)
	for b.Loop() {
		if _, err := Recover(digest, sig); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRecoverPure(b *testing.B) {
	_, digest, sig := benchmarkSignature(b)
	for b.Loop() {
		if _, err := recoverPure(digest, sig); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	key, digest, _ := benchmarkSignature(b)
	for b.Loop() {
		if _, err := key.Sign(b.Context(), digest); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSignPure(b *testing.B) {
	key, digest, _ := benchmarkSignature(b)
	for b.Loop() {
		signPure(key.key, digest)
	}
}

func BenchmarkKeccak256(b *testing.B) {
	message := make([]byte, 224)
	for b.Loop() {
		Keccak256(message)
	}
}
