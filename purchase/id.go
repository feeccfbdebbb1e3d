package purchase

import (
	"encoding/base32"
	"io"

	"github.com/farthing402/farthing/evm"
)

var idAlphabet = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

const (
	idPrefix = "p_"
	idBytes  = 16
)

// NewID makes a purchase id from 128 random bits: p_ and 26 lower-case base32 characters. It panics if rand fails, for
// an id that another purchase has would make a payer believe that it had already paid.
func NewID(rand io.Reader) string {
	var b [idBytes]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		panic("purchase: no randomness: " + err.Error())
	}
	return idPrefix + idAlphabet.EncodeToString(b[:])
}

// IDFromPayment makes the id of a purchase whose payer named none, from the name of its payment: the same payment always
// gives the same id.
func IDFromPayment(payment evm.Hash) string {
	return idPrefix + idAlphabet.EncodeToString(payment[:idBytes])
}

// IDFromBytes makes an id of its 16 bytes.
func IDFromBytes(b [16]byte) string { return idPrefix + idAlphabet.EncodeToString(b[:]) }

// ValidID reports whether id has the one form that [NewID] writes.
func ValidID(id string) bool {
	_, ok := IDBytes(id)
	return ok
}

// IDBytes returns the 16 bytes that an id is made of, or false for what is no id.
func IDBytes(id string) (b [16]byte, ok bool) {
	if len(id) != len(idPrefix)+idAlphabet.EncodedLen(idBytes) || id[:len(idPrefix)] != idPrefix {
		return b, false
	}
	raw, err := idAlphabet.DecodeString(id[len(idPrefix):])
	if err != nil {
		return b, false
	}
	copy(b[:], raw)
	// The last character carries two unused bits; only one spelling of them is an id.
	return b, IDFromBytes(b) == id
}
