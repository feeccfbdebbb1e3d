package evm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
)

// Errors of [Recover], in the order in which they are checked.
var (
	ErrRecoveryID = errors.New("signature's v is neither 27 nor 28")
	ErrHighS      = errors.New("signature's s is in the upper half of the curve order")
	ErrRecover    = errors.New("signature recovers to no key")
)

// Signer signs digests for one address. Implementations are safe for concurrent use; a remote one may take a while and
// honours ctx.
type Signer interface {
	Address() Address
	Sign(ctx context.Context, digest Hash) (Signature, error)
}

// PrivateKey is a secp256k1 key in memory. It implements [Signer] and never prints itself.
type PrivateKey struct {
	key     *secp256k1.PrivateKey
	address Address
}

// NewKey makes a key from 32 secret bytes, which must lie in [1, n).
func NewKey(secret []byte) (*PrivateKey, error) {
	var scalar secp256k1.ModNScalar
	if len(secret) != 32 || scalar.SetByteSlice(secret) || scalar.IsZero() {
		return nil, errors.New("private key: not 32 bytes within the curve order")
	}
	key := secp256k1.NewPrivateKey(&scalar)
	return &PrivateKey{key: key, address: pubAddress(key.PubKey())}, nil
}

// GenerateKey makes a new key from the system's randomness.
func GenerateKey() (*PrivateKey, error) {
	for {
		var secret [32]byte
		if _, err := rand.Read(secret[:]); err != nil {
			return nil, fmt.Errorf("generate key: %w", err)
		}
		if key, err := NewKey(secret[:]); err == nil {
			return key, nil
		}
	}
}

// Address returns the account that the key controls.
func (k *PrivateKey) Address() Address { return k.address }

// Bytes returns the 32 secret bytes, for encrypting them into a key file.
func (k *PrivateKey) Bytes() []byte { return k.key.Serialize() }

// String shows the address only.
func (k *PrivateKey) String() string { return "key of " + k.address.String() }

// GoString shows the address only.
func (k *PrivateKey) GoString() string { return k.String() }

// LogValue shows the address only.
func (k *PrivateKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// Sign returns the deterministic (RFC 6979), low-s signature of digest. It does not wait, so it does not look at ctx.
func (k *PrivateKey) Sign(_ context.Context, digest Hash) (Signature, error) {
	return signDigest(k.key, digest)
}

// Recover returns the address whose key signed digest. A high s is refused, so that a signature has one encoding. It
// checks v, then s, then the rest: see [ErrRecoveryID], [ErrHighS] and [ErrRecover].
func Recover(digest Hash, sig Signature) (Address, error) {
	if sig[64] != 27 && sig[64] != 28 {
		return Address{}, ErrRecoveryID
	}
	var s secp256k1.ModNScalar
	if s.SetByteSlice(sig[32:64]) || s.IsOverHalfOrder() {
		return Address{}, ErrHighS
	}
	return recoverSigner(digest, sig)
}

func pubAddress(pub *secp256k1.PublicKey) Address {
	return uncompressedAddress(pub.SerializeUncompressed())
}

// uncompressedAddress takes a public key as 0x04 ‖ x ‖ y.
func uncompressedAddress(pub []byte) (a Address) {
	h := Keccak256(pub[1:])
	copy(a[:], h[12:])
	return a
}
