package guarantee

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Requests arrive by the thousand a second, from anybody, and say who owes whom. So objects are split here instead of
// by reflection, which costs as much as checking the signature, and which takes "Amount" for "amount" and the last of
// two where another reader takes the first.

// object is the members of a JSON object, in their order. No name occurs twice.
type object []member

type member struct {
	name  []byte // without escapes
	value []byte
}

// membersMax bounds an object; ours have seven members, and 4Mica's version 2 has sixteen.
const membersMax = 64

// members splits a JSON object. Names are compared exactly, and one given twice is refused.
func members(b []byte) (object, error) {
	if !json.Valid(b) {
		return nil, fmt.Errorf("not JSON: %w", ErrMalformed)
	}
	return split(b)
}

// split expects valid JSON, so that it need not look for its faults.
func split(b []byte) (object, error) {
	i := skipSpace(b, 0)
	if i == len(b) || b[i] != '{' {
		return nil, fmt.Errorf("not a JSON object: %w", ErrMalformed)
	}
	o := make(object, 0, 8)
	for i = skipSpace(b, i+1); b[i] != '}'; {
		end := valueEnd(b, i)
		name, err := unquote(b[i:end])
		if err != nil {
			return nil, err
		}
		i = skipSpace(b, skipSpace(b, end)+1) // past the colon
		end = valueEnd(b, i)
		if o.get(string(name)) != nil {
			return nil, fmt.Errorf("member %q given twice: %w", clip(string(name)), ErrMalformed)
		}
		if len(o) == membersMax {
			return nil, fmt.Errorf("more than %d members: %w", membersMax, ErrMalformed)
		}
		o = append(o, member{name, b[i:end]})
		if i = skipSpace(b, end); b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
	return o, nil
}

// get returns a member's value, nil if there is none.
func (o object) get(name string) []byte {
	for _, m := range o {
		if string(m.name) == name {
			return m.value
		}
	}
	return nil
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// valueEnd returns where the value that begins at i ends.
func valueEnd(b []byte, i int) int {
	depth := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // a number at its object's end
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\n', '\t', '\r', ':':
			if depth == 0 {
				return i
			}
		}
	}
	return i
}

// unquote returns the text of a JSON string.
func unquote(raw []byte) ([]byte, error) {
	if len(raw) < 2 || raw[0] != '"' {
		return nil, fmt.Errorf("not text: %w", ErrMalformed)
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1], nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("text: %w: %w", ErrMalformed, err)
	}
	return []byte(s), nil
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
	for i := skipSpace(raw, 1); raw[i] != ']'; {
		end := valueEnd(raw, i)
		var h evm.Hash
		if err := readHash(&h, raw[i:end]); err != nil {
			return nil, err
		}
		if len(list) == most {
			return nil, fmt.Errorf("more than %d: %w", most, ErrMalformed)
		}
		list = append(list, h)
		if i = skipSpace(raw, end); raw[i] == ',' {
			i = skipSpace(raw, i+1)
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
