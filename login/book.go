package login

import (
	"context"
	"time"

	"github.com/farthing402/farthing/evm"
)

// Book keeps what logins leave behind. Each closure runs in one transaction, which a nil return commits.
type Book interface {
	Read(ctx context.Context, fn func(Tx) error) error
	Write(ctx context.Context, fn func(Tx) error) error
}

// Tx is a transaction on the [Book]. What is not there is the zero value and false. Those methods that report whether they
// changed something do so for one of several callers, on whichever node.
type Tx interface {
	NonceUsed(evm.Hash) (bool, error)
	// UseNonce remembers a nonce until a time, and reports whether it was not there.
	UseNonce(nonce evm.Hash, until time.Time) (bool, error)

	Token(hash evm.Hash) (Token, bool, error)
	AddToken(Token) error
	// RevokeToken reports whether the token was there and not revoked.
	RevokeToken(hash evm.Hash) (bool, error)
	RevokeFamily(family evm.Hash) error

	// Keys returns all, the oldest first.
	Keys() ([]Key, error)
	KeyByHash(hash evm.Hash) (Key, bool, error)
	AddKey(Key) error
	// RevokeKey ends a key at a time; one that has ended keeps its own.
	RevokeKey(id string, at time.Time) (Key, bool, error)

	// Forget lets go of nonces and tokens whose time was over before now, some at a time.
	Forget(now time.Time) error
}

// Token is a refresh token as it is kept.
type Token struct {
	Hash    evm.Hash // SHA-256 of its text
	Family  evm.Hash // of the sign-in that it comes from
	Address evm.Address
	Expires time.Time
	Revoked bool
}
