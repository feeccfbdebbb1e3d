package evm

import (
	"encoding/hex"
	"testing"
)

func TestPublicKeys(t *testing.T) {
	t.Parallel()
	key, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	digest := Keccak256([]byte("x"))
	sig, err := key.Sign(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	public, err := RecoverKey(digest, sig)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := public.Address(); err != nil || a != key.Address() {
		t.Errorf("address %s (%v), want %s", a, err, key.Address())
	}
	bad := sig
	bad[64] = 29
	if _, err := RecoverKey(digest, bad); err != ErrRecoveryID {
		t.Errorf("v of 29: %v", err)
	}
	if _, err := (PublicKey{2}).Address(); err == nil {
		t.Error("bytes that are no point have an address")
	}

	if LowS(sig) != sig {
		t.Error("a low s was changed")
	}
	high := sig
	order, _ := hex.DecodeString("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141")
	borrow := 0
	for i := 31; i >= 0; i-- {
		d := int(order[i]) - int(sig[32+i]) - borrow
		borrow = 0
		if d < 0 {
			d, borrow = d+256, 1
		}
		high[32+i] = byte(d)
	}
	high[64] ^= 27 ^ 28
	if _, err := Recover(digest, high); err != ErrHighS {
		t.Errorf("a high s: %v", err)
	}
	if LowS(high) != sig {
		t.Error("the high form is not turned into the low one")
	}
	var most Signature
	for i := range most {
		most[i] = 0xff
	}
	if LowS(most) != most {
		t.Error("what is no s was changed")
	}
}
