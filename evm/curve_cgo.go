//go:build cgo

package evm

import (
	"fmt"

	decred "github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/ethereum/go-ethereum/crypto/secp256k1"
)

func signDigest(key *decred.PrivateKey, digest Hash) (sig Signature, err error) {
	// RFC 6979 takes the digest modulo the curve order; the C library takes it as it is. No hash of anything known
	// is that large, but one function must stay one function.
	var reduced decred.ModNScalar
	if reduced.SetByteSlice(digest[:]) {
		return signPure(key, digest), nil
	}
	secret := key.Serialize()
	defer clear(secret)
	b, err := secp256k1.Sign(digest[:], secret)
	if err != nil {
		return sig, fmt.Errorf("sign: %w", err)
	}
	copy(sig[:], b)
	sig[64] += 27
	return sig, nil
}

// recoverSigner expects v to be 27 or 28.
func recoverSigner(digest Hash, sig Signature) (Address, error) {
	sig[64] -= 27
	pub, err := secp256k1.RecoverPubkey(digest[:], sig[:])
	if err != nil {
		return Address{}, ErrRecover
	}
	return uncompressedAddress(pub), nil
}
