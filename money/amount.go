// Package money holds exact amounts of assets and the prices that people write. An [Amount] counts an asset's smallest
// units; a [Price] says how many dollars or tokens are asked for how much of what. There is no float and no wrapping.
package money

import (
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/holiman/uint256"
)

// ErrAmount is the error of text that is no amount: not a decimal or 0x integer, negative, or past 256 bits.
var ErrAmount = errors.New("not an unsigned integer of at most 256 bits")

// Amount is an exact unsigned integer of an asset's smallest units, at most 2^256 − 1. The zero value is 0. Amounts are
// comparable with == and by [Amount.Cmp]. Arithmetic never wraps: it says when a result does not fit.
type Amount struct{ v uint256.Int }

// Units makes an amount of n smallest units.
func Units(n uint64) Amount { return Amount{*uint256.NewInt(n)} }

// ParseAmount reads decimal digits or 0x and hexadecimal digits.
func ParseAmount(s string) (Amount, error) {
	var a Amount
	var err error
	if digits, ok := strings.CutPrefix(s, "0x"); ok {
		digits = strings.TrimLeft(digits, "0")
		if len(s) == 2 || len(s) > 66 {
			return Amount{}, fmt.Errorf("amount %q: %w", clip(s), ErrAmount)
		}
		if digits == "" {
			digits = "0"
		}
		err = a.v.SetFromHex("0x" + strings.ToLower(digits))
	} else {
		if s == "" || strings.Trim(s, "0123456789") != "" {
			return Amount{}, fmt.Errorf("amount %q: %w", clip(s), ErrAmount)
		}
		err = a.v.SetFromDecimal(s)
	}
	if err != nil {
		return Amount{}, fmt.Errorf("amount %q: %w", clip(s), ErrAmount)
	}
	return a, nil
}

// AmountFromBytes reads a big-endian integer of at most 32 bytes.
func AmountFromBytes(b []byte) (Amount, error) {
	if len(b) > 32 {
		return Amount{}, fmt.Errorf("amount of %d bytes: %w", len(b), ErrAmount)
	}
	var a Amount
	a.v.SetBytes(b)
	return a, nil
}

// Word returns the amount as a big-endian ABI word.
func (a Amount) Word() [32]byte { return a.v.Bytes32() }

// Uint64 returns the amount if it fits 64 bits.
func (a Amount) Uint64() (uint64, bool) { return a.v.Uint64(), a.v.IsUint64() }

// BitLen returns the number of bits needed; 0 for 0.
func (a Amount) BitLen() int { return a.v.BitLen() }

// IsZero reports whether the amount is 0.
func (a Amount) IsZero() bool { return a.v.IsZero() }

// Cmp compares a with b: −1, 0 or 1.
func (a Amount) Cmp(b Amount) int { return a.v.Cmp(&b.v) }

// Less reports whether a < b.
func (a Amount) Less(b Amount) bool { return a.v.Lt(&b.v) }

// Add returns a + b, and false if that passes 256 bits.
func (a Amount) Add(b Amount) (Amount, bool) {
	var r Amount
	_, over := r.v.AddOverflow(&a.v, &b.v)
	return r, !over
}

// Sub returns a − b, or 0 and false if b is larger.
func (a Amount) Sub(b Amount) (Amount, bool) {
	if a.Less(b) {
		return Amount{}, false
	}
	var r Amount
	r.v.Sub(&a.v, &b.v)
	return r, true
}

// Mul returns a × b, and false if that passes 256 bits.
func (a Amount) Mul(b Amount) (Amount, bool) {
	var r Amount
	_, over := r.v.MulOverflow(&a.v, &b.v)
	return r, !over
}

// Share returns a × part / whole, rounded down, for part ≤ whole and a whole above 0; else a itself.
func (a Amount) Share(part, whole uint64) Amount {
	if part >= whole {
		return a
	}
	var out Amount
	out.v.MulDivOverflow(&a.v, uint256.NewInt(part), uint256.NewInt(whole)) // at most a: cannot overflow
	return out
}

// Min returns the smaller of a and b.
func Min(a, b Amount) Amount {
	if b.Less(a) {
		return b
	}
	return a
}

// Max returns the larger of a and b.
func Max(a, b Amount) Amount {
	if a.Less(b) {
		return b
	}
	return a
}

// String returns decimal digits.
func (a Amount) String() string { return a.v.Dec() }

// Hex returns the minimal hexadecimal form, 0x0 for zero.
func (a Amount) Hex() string { return a.v.Hex() }

// MarshalText implements encoding.TextMarshaler with decimal digits.
func (a Amount) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseAmount.
func (a *Amount) UnmarshalText(text []byte) (err error) {
	*a, err = ParseAmount(string(text))
	return err
}

// UnmarshalJSON accepts a decimal or 0x string, and a JSON integer.
func (a *Amount) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		return a.UnmarshalText([]byte(s))
	}
	if string(b) == "null" {
		return fmt.Errorf("amount null: %w", ErrAmount)
	}
	return a.UnmarshalText(b)
}

// Value implements driver.Valuer: decimal text.
func (a Amount) Value() (driver.Value, error) { return a.String(), nil }

// Scan implements sql.Scanner: decimal text.
func (a *Amount) Scan(src any) error {
	switch s := src.(type) {
	case string:
		return a.UnmarshalText([]byte(s))
	case []byte:
		return a.UnmarshalText(s)
	case int64:
		if s >= 0 {
			*a = Units(uint64(s))
			return nil
		}
	}
	return fmt.Errorf("amount from %T: %w", src, ErrAmount)
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
