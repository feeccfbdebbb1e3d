//go:build !cgo

package evm

import "github.com/decred/dcrd/dcrec/secp256k1/v4"

func signDigest(key *secp256k1.PrivateKey, digest Hash) (Signature, error) {
	return signPure(key, digest), nil
}

func recoverSigner(digest Hash, sig Signature) (Address, error) { return recoverPure(digest, sig) }
