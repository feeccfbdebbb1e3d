package evm

import (
	"errors"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
)

// PublicKey is a public key in its compressed form.
type PublicKey [33]byte

// Address returns the account of a public key. The error is bytes that are no point of the curve.
func (p PublicKey) Address() (Address, error) {
	key, err := secp256k1.ParsePubKey(p[:])
	if err != nil {
		return Address{}, errors.New("public key: not a point of the curve")
	}
	return pubAddress(key), nil
}

// RecoverKey returns the public key that signed digest, with the checks of [Recover].
func RecoverKey(digest Hash, sig Signature) (p PublicKey, err error) {
	if _, err := Recover(digest, sig); err != nil {
		return p, err
	}
	var compact [65]byte
	compact[0] = sig[64]
	copy(compact[1:], sig[:64])
	key, _, err := ecdsa.RecoverCompact(compact[:], digest[:])
	if err != nil {
		return p, ErrRecover
	}
	copy(p[:], key.SerializeCompressed())
	return p, nil
}

// LowS returns the signature in its one canonical form: s in the lower half of the curve order, and v turned with it. Other
// curves' libraries write either half.
func LowS(sig Signature) Signature {
	var s secp256k1.ModNScalar
	if s.SetByteSlice(sig[32:64]) || !s.IsOverHalfOrder() {
		return sig
	}
	s.Negate()
	low := s.Bytes()
	copy(sig[32:64], low[:])
	sig[64] ^= 27 ^ 28
	return sig
}
