package guarantee

import (
	"bytes"
	"encoding"
	"encoding/hex"
	"fmt"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/internal/jsonobject"
	"github.com/farthing402/farthing/money"
)

// members splits a JSON object. Names that differ in letter case only are one name twice: another reader may take either.
func members(b []byte) (jsonobject.Object, error) {
	return malformed(jsonobject.Parse(b, bytes.EqualFold))
}

// split is members of text that is JSON already.
func split(b []byte) (jsonobject.Object, error) {
	return malformed(jsonobject.Split(b, bytes.EqualFold))
}

// unquote returns the text of a JSON string.
func unquote(raw []byte) ([]byte, error) { return malformed(jsonobject.Unquote(raw)) }

// malformed makes an error one of the payload's.
func malformed[T any](v T, err error) (T, error) {
	if err != nil {
		err = fmt.Errorf("%w: %w", err, ErrMalformed)
	}
	return v, err
}

// The readers below take a member's raw value and are given nil for one that is missing.

func readText(raw []byte) ([]byte, error) {
	if raw == nil {
		return nil, fmt.Errorf("missing: %w", ErrMalformed)
	}
	return unquote(raw)
}

// readFixed takes an address, a hash or a signature.
func readFixed(into encoding.TextUnmarshaler, raw []byte) error {
	text, err := readText(raw)
	if err != nil {
		return err
	}
	if err := into.UnmarshalText(text); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

// readHashes takes a list, which may be empty, of at most so many hashes.
func readHashes(raw []byte, most int) ([]evm.Hash, error) {
	list := make([]evm.Hash, 0, min(len(raw)/len(`"0x",`+(evm.Hash{}).String()), most))
	err := jsonobject.List(raw, func(value []byte) error {
		if len(list) == most {
			return fmt.Errorf("more than %d", most)
		}
		list = append(list, evm.Hash{})
		return readFixed(&list[len(list)-1], value)
	})
	return malformed(list, err)
}

// readNumber takes text, decimal or 0x, and a JSON integer.
func readNumber(into *money.Amount, raw []byte) error {
	text := raw
	if raw == nil || raw[0] == '"' {
		var err error
		if text, err = readText(raw); err != nil {
			return err
		}
	}
	n, err := money.ParseAmount(string(text))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	*into = n
	return nil
}

func readUint64(into *uint64, raw []byte) error {
	var n money.Amount
	if err := readNumber(&n, raw); err != nil {
		return err
	}
	v, fits := n.Uint64()
	if !fits {
		return fmt.Errorf("past 64 bits: %w", ErrMalformed)
	}
	*into = v
	return nil
}

// readClaimsHex takes the hexadecimal of certified claims.
func readClaimsHex(raw []byte) ([]byte, error) {
	digits, err := hexDigits(raw)
	if err != nil {
		return nil, err
	}
	size := ClaimsBytes
	if n := len(digits) / 2; n > size {
		size = min(n, ClaimsBytesMax)
	}
	b := make([]byte, size)
	return b, readDigits(b, digits)
}

// readHex takes hexadecimal of exactly as many bytes, with or without 0x.
func readHex(into, raw []byte) error {
	digits, err := hexDigits(raw)
	if err != nil {
		return err
	}
	return readDigits(into, digits)
}

func hexDigits(raw []byte) ([]byte, error) {
	digits, err := readText(raw)
	return bytes.TrimPrefix(digits, []byte("0x")), err
}

func readDigits(into, digits []byte) error {
	if len(digits) != 2*len(into) {
		return fmt.Errorf("%d hexadecimal digits, want %d: %w", len(digits), 2*len(into), ErrMalformed)
	}
	if _, err := hex.Decode(into, digits); err != nil {
		return fmt.Errorf("not hexadecimal: %w", ErrMalformed)
	}
	return nil
}
