// Package evm holds the values that every EVM network shares: addresses, 32-byte hashes, Keccak-256, secp256k1
// signatures and EIP-712 typed data. It opens no connection and depends on no node.
//
// Most callers want [Address], [Signer] and [Recover].
package evm

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"golang.org/x/crypto/sha3"
)

// Address is a 20-byte account address. Its zero value stands for a network's native coin where an asset is named.
type Address [20]byte

// ParseAddress reads 40 hexadecimal digits after 0x, in any letter case: addresses are compared by value, and a
// checksum is not asked for.
func ParseAddress(s string) (Address, error) { return parseAddress(s) }

func parseAddress[T text](s T) (a Address, err error) {
	err = errPrefix
	if hasPrefix(s) {
		err = decodeFixed(a[:], s)
	}
	if err != nil {
		return Address{}, fmt.Errorf("address %q: %w", clip(s), err)
	}
	return a, nil
}

// MustAddress is ParseAddress for constants; it panics on text that is no address.
func MustAddress(s string) Address {
	a, err := ParseAddress(s)
	if err != nil {
		panic(err)
	}
	return a
}

// IsZero reports whether a is the zero address.
func (a Address) IsZero() bool { return a == Address{} }

// Lower returns the address as 0x and 40 lower-case digits, the form that hashes over text use.
func (a Address) Lower() string { return "0x" + hex.EncodeToString(a[:]) }

// String returns the address with the checksum of EIP-55.
func (a Address) String() string {
	digits := []byte(hex.EncodeToString(a[:]))
	sum := Keccak256(digits)
	for i, c := range digits {
		nibble := sum[i/2] >> 4
		if i%2 == 1 {
			nibble = sum[i/2] & 15
		}
		if c >= 'a' && nibble >= 8 {
			digits[i] = c - 'a' + 'A'
		}
	}
	return "0x" + string(digits)
}

// Short returns the abbreviation that people read: 0x52…e1.
func (a Address) Short() string { s := a.Lower(); return s[:4] + "…" + s[40:] }

// MarshalText implements encoding.TextMarshaler with the checksummed form.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseAddress.
func (a *Address) UnmarshalText(text []byte) (err error) {
	*a, err = parseAddress(text)
	return err
}

// Word returns the address as a left-padded ABI word.
func (a Address) Word() (w [32]byte) { copy(w[12:], a[:]); return w }

// Hash is a 32-byte value: a digest, a topic, a Merkle node.
type Hash [32]byte

// ParseHash reads 64 hexadecimal digits, with or without 0x.
func ParseHash(s string) (Hash, error) { return parseHash(s) }

func parseHash[T text](s T) (h Hash, err error) {
	if err := decodeFixed(h[:], s); err != nil {
		return Hash{}, fmt.Errorf("hash %q: %w", clip(s), err)
	}
	return h, nil
}

// MustHash is ParseHash for constants; it panics on text that is no hash.
func MustHash(s string) Hash {
	h, err := ParseHash(s)
	if err != nil {
		panic(err)
	}
	return h
}

// IsZero reports whether every byte of h is zero.
func (h Hash) IsZero() bool { return h == Hash{} }

// String returns 0x and 64 lower-case digits.
func (h Hash) String() string { return "0x" + hex.EncodeToString(h[:]) }

// Short returns the abbreviation that people read: 0x9c…41.
func (h Hash) Short() string { s := h.String(); return s[:4] + "…" + s[64:] }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseHash.
func (h *Hash) UnmarshalText(text []byte) (err error) { *h, err = parseHash(text); return err }

// Keccak256 hashes the concatenation of parts.
func Keccak256(parts ...[]byte) (h Hash) {
	d := sha3.NewLegacyKeccak256()
	for _, p := range parts {
		d.Write(p)
	}
	_, _ = d.(io.Reader).Read(h[:]) // Sum would copy the state first
	return h
}

// Signature is r ‖ s ‖ v, 65 bytes with v 27 or 28.
type Signature [65]byte

// ParseSignature reads 65 bytes of hexadecimal. A v of 0 or 1 becomes 27 or 28; any other v, and a high s, are left
// for [Recover] to refuse.
func ParseSignature(s string) (Signature, error) { return parseSignature(s) }

func parseSignature[T text](s T) (sig Signature, err error) {
	if err := decodeFixed(sig[:], s); err != nil {
		return Signature{}, fmt.Errorf("signature: %w", err)
	}
	if sig[64] < 2 {
		sig[64] += 27
	}
	return sig, nil
}

// String returns 0x and 130 lower-case digits.
func (s Signature) String() string { return "0x" + hex.EncodeToString(s[:]) }

// MarshalText implements encoding.TextMarshaler.
func (s Signature) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseSignature.
func (s *Signature) UnmarshalText(text []byte) (err error) {
	*s, err = parseSignature(text)
	return err
}

// LogValue shows a prefix only: a signature is a bearer value for whoever may present it.
func (s Signature) LogValue() slog.Value { return slog.StringValue(s.String()[:10] + "…") }

var (
	errPrefix = errors.New("does not begin with 0x")
	errLength = errors.New("wrong length")
)

// text is what numbers are read from, without a copy of bytes that came from outside.
type text interface{ string | []byte }

func hasPrefix[T text](s T) bool { return len(s) > 1 && s[0] == '0' && s[1]|0x20 == 'x' }

func decodeFixed[T text](dst []byte, s T) error {
	if hasPrefix(s) {
		s = s[2:]
	}
	if len(s) != 2*len(dst) {
		return fmt.Errorf("%w: %d hexadecimal digits, want %d", errLength, len(s), 2*len(dst))
	}
	for i := range dst {
		high, low := nibbles[s[2*i]], nibbles[s[2*i+1]]
		if high|low > 15 {
			return errors.New("not hexadecimal")
		}
		dst[i] = high<<4 | low
	}
	return nil
}

// nibbles is the value of each hexadecimal digit, and 255 of everything else.
var nibbles = func() (t [256]byte) {
	for c := range t {
		switch digit := byte(c) | 0x20; {
		case '0' <= c && c <= '9':
			t[c] = byte(c) - '0'
		case 'a' <= digit && digit <= 'f':
			t[c] = digit - 'a' + 10
		default:
			t[c] = 255
		}
	}
	return t
}()

func clip[T text](s T) string {
	if len(s) > 80 {
		return string(s[:80]) + "…"
	}
	return string(s)
}
