package evm

import (
	"errors"
	"fmt"
)

// ErrTransaction is the error of bytes that are no signed transaction of EIP-1559.
var ErrTransaction = errors.New("not a signed EIP-1559 transaction")

// Transaction is what a signed transaction of EIP-1559 says.
type Transaction struct {
	ChainID, Nonce, TipWei, FeeWei, Gas uint64 // tip and fee per gas
	To                                  Address
	Value                               [32]byte // wei, big-endian
	Data                                []byte
	Hash                                Hash // of the whole, as the chain names it

	digest Hash
	sig    Signature
}

// ParseTransaction reads a transaction somebody else signed, in its one encoding. Other kinds than EIP-1559's are refused, as
// are one that creates a contract and one with an access list. Errors match [ErrTransaction].
func ParseTransaction(raw []byte) (Transaction, error) {
	fail := func(what string) (Transaction, error) {
		return Transaction{}, fmt.Errorf("%s: %w", what, ErrTransaction)
	}
	if len(raw) == 0 || raw[0] != 2 {
		return fail("type")
	}
	body, rest, list, err := rlpItem(raw[1:])
	if err != nil || !list || len(rest) != 0 {
		return fail("envelope")
	}
	t := Transaction{Hash: Keccak256(raw)}
	var r, s [32]byte
	var recovery uint64
	left := body
	for _, field := range []struct {
		name string
		read func([]byte) bool
	}{
		{"chain id", uintField(&t.ChainID)}, {"nonce", uintField(&t.Nonce)}, {"priority fee", uintField(&t.TipWei)},
		{"fee", uintField(&t.FeeWei)}, {"gas limit", uintField(&t.Gas)},
		{"recipient", func(b []byte) bool { return copy(t.To[:], b) == 20 && len(b) == 20 }},
		{"value", wordField(&t.Value)},
		{"data", func(b []byte) bool { t.Data = b; return true }},
		{"access list", nil},
		{"recovery id", uintField(&recovery)}, {"r", wordField(&r)}, {"s", wordField(&s)},
	} {
		var item []byte
		if item, left, list, err = rlpItem(left); err != nil {
			return fail(field.name)
		}
		if field.read == nil {
			if !list || len(item) != 0 {
				return fail(field.name)
			}
			signed := body[:len(body)-len(left)]
			t.digest = Keccak256([]byte{2}, rlpListHeader(len(signed)), signed)
			continue
		}
		if list || !field.read(item) {
			return fail(field.name)
		}
	}
	if len(left) != 0 || recovery > 1 {
		return fail("signature")
	}
	copy(t.sig[:32], r[:])
	copy(t.sig[32:], s[:])
	t.sig[64] = byte(27 + recovery)
	return t, nil
}

// Sender returns who signed the transaction; see [Recover] for errors.
func (t Transaction) Sender() (Address, error) { return Recover(t.digest, t.sig) }

// uintField and wordField read a number in its one encoding: no byte of zero in front.
func uintField(into *uint64) func([]byte) bool {
	return func(b []byte) bool {
		if len(b) > 8 || len(b) > 0 && b[0] == 0 {
			return false
		}
		for _, c := range b {
			*into = *into<<8 | uint64(c)
		}
		return true
	}
}

func wordField(into *[32]byte) func([]byte) bool {
	return func(b []byte) bool {
		if len(b) > 32 || len(b) > 0 && b[0] == 0 {
			return false
		}
		copy(into[32-len(b):], b)
		return true
	}
}

var errRLP = errors.New("not RLP in its one encoding")

// rlpItem splits the first item off: a string's bytes, or a list's content.
func rlpItem(b []byte) (content, rest []byte, list bool, err error) {
	if len(b) == 0 {
		return nil, nil, false, errRLP
	}
	first := b[0]
	if first < 0x80 {
		return b[:1], b[1:], false, nil
	}
	base := byte(0x80)
	if list = first >= 0xc0; list {
		base = 0xc0
	}
	size, head := uint64(first-base), uint64(1)
	if size > 55 {
		n := size - 55 // bytes of the size
		if uint64(len(b)) < 1+n || b[1] == 0 {
			return nil, nil, false, errRLP
		}
		size = 0
		for _, c := range b[1 : 1+n] {
			if size > 1<<32 {
				return nil, nil, false, errRLP
			}
			size = size<<8 | uint64(c)
		}
		if head += n; size < 56 {
			return nil, nil, false, errRLP
		}
	}
	if uint64(len(b))-head < size || !list && size == 1 && b[head] < 0x80 {
		return nil, nil, false, errRLP
	}
	return b[head : head+size], b[head+size:], list, nil
}

func rlpListHeader(size int) []byte {
	if size < 56 {
		return []byte{0xc0 + byte(size)}
	}
	var digits []byte
	for n := size; n > 0; n >>= 8 {
		digits = append([]byte{byte(n)}, digits...)
	}
	return append([]byte{0xf7 + byte(len(digits))}, digits...)
}
