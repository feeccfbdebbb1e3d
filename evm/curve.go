package evm

import (
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
)

// The curve's two slow operations exist twice: here in pure Go, and over libsecp256k1 where a C compiler is at hand
// (curve_cgo.go), which recovers about four times as fast. Both give the same bytes for every input; a test compares
// them.

func signPure(key *secp256k1.PrivateKey, digest Hash) (sig Signature) {
	compact := ecdsa.SignCompact(key, digest[:], false) // v ‖ r ‖ s
	copy(sig[:64], compact[1:])
	sig[64] = compact[0]
	return sig
}

// recoverPure expects v to be 27 or 28.
func recoverPure(digest Hash, sig Signature) (Address, error) {
	var compact [65]byte
	compact[0] = sig[64]
	copy(compact[1:], sig[:64])
	pub, _, err := ecdsa.RecoverCompact(compact[:], digest[:])
	if err != nil {
		return Address{}, ErrRecover
	}
	return pubAddress(pub), nil
}
