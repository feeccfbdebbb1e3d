package guarantee

import (
	"bytes"
	"encoding/hex"
	"fmt"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/internal/jsonobject"
	"github.com/farthing402/farthing/money"
)

// members splits a JSON object.
func members(b []byte) (jsonobject.Object, error) { return malformed(jsonobject.Parse(b, bytes.Equal)) }

// split is members of text that is JSON already.
func split(b []byte) (jsonobject.Object, error) { return malformed(jsonobject.Split(b, bytes.Equal)) }

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

func readText(raw []byte) (string, error) {
	if raw == nil {
		return "", fmt.Errorf("missing: %w", ErrMalformed)
	}
	text, err := unquote(raw)
	return string(text), err
}

func readAddress(into *evm.Address, raw []byte) error {
	text, err := readText(raw)
	if err != nil {
		return err
	}
	if *into, err = evm.ParseAddress(text); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

func readHash(into *evm.Hash, raw []byte) error {
	text, err := readText(raw)
	if err != nil {
		return err
	}
	if *into, err = evm.ParseHash(text); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

// readHashes takes a list, which may be empty, of at most so many hashes.
func readHashes(raw []byte, most int) ([]evm.Hash, error) {
	if len(raw) == 0 || raw[0] != '[' {
		return nil, fmt.Errorf("not a list: %w", ErrMalformed)
	}
	list := []evm.Hash{}
	for i := jsonobject.SkipSpace(raw, 1); raw[i] != ']'; {
		end := jsonobject.ValueEnd(raw, i)
		var h evm.Hash
		if err := readHash(&h, raw[i:end]); err != nil {
			return nil, err
		}
		if len(list) == most {
			return nil, fmt.Errorf("more than %d: %w", most, ErrMalformed)
		}
		list = append(list, h)
		if i = jsonobject.SkipSpace(raw, end); raw[i] == ',' {
			i = jsonobject.SkipSpace(raw, i+1)
		}
	}
	return list, nil
}

func readSignature(into *evm.Signature, raw []byte) error {
	text, err := readText(raw)
	if err != nil {
		return err
	}
	if *into, err = evm.ParseSignature(text); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

// readNumber takes text, decimal or 0x, and a JSON integer.
func readNumber(into *money.Amount, raw []byte) error {
	text := string(raw)
	if raw == nil || raw[0] == '"' {
		var err error
		if text, err = readText(raw); err != nil {
			return err
		}
	}
	n, err := money.ParseAmount(text)
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

// readHex takes hexadecimal of exactly as many bytes, with or without 0x.
func readHex(into, raw []byte) error {
	if raw == nil {
		return fmt.Errorf("missing: %w", ErrMalformed)
	}
	digits, err := unquote(raw)
	if err != nil {
		return err
	}
	digits = bytes.TrimPrefix(digits, []byte("0x"))
	if len(digits) != 2*len(into) {
		return fmt.Errorf("%d hexadecimal digits, want %d: %w", len(digits), 2*len(into), ErrMalformed)
	}
	if _, err := hex.Decode(into, digits); err != nil {
		return fmt.Errorf("not hexadecimal: %w", ErrMalformed)
	}
	return nil
}
