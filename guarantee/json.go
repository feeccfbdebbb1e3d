package guarantee

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

type claimsJSON struct {
	Version   string `json:"version"`
	Payer     string `json:"user_address"`
	Payee     string `json:"recipient_address"`
	ReqID     string `json:"req_id"`
	Amount    string `json:"amount"`
	Asset     string `json:"asset_address"`
	Timestamp uint64 `json:"timestamp"`
}

type signedJSON struct {
	Claims    Claims        `json:"claims"`
	Signature evm.Signature `json:"signature"`
	Form      Form          `json:"scheme"`
}

// MarshalJSON writes the claims as 4Mica's clients do: lower-case addresses, minimal hexadecimal numbers.
func (c Claims) MarshalJSON() ([]byte, error) {
	reqID, err := money.AmountFromBytes(c.ReqID[:])
	if err != nil {
		return nil, err
	}
	return json.Marshal(claimsJSON{
		Version: "v1", Payer: c.Payer.Lower(), Payee: c.Payee.Lower(), ReqID: reqID.Hex(),
		Amount: c.Amount.Hex(), Asset: c.Asset.Lower(), Timestamp: c.Timestamp,
	})
}

// UnmarshalJSON reads claims of version 1. Addresses may have any letter case; numbers may be hexadecimal or decimal
// text or JSON integers. Every member must be there once; unknown ones are ignored. Errors match [ErrVersion] for
// another version, else [ErrMalformed].
func (c *Claims) UnmarshalJSON(b []byte) error {
	m, err := members(b)
	if err != nil {
		return fmt.Errorf("claims: %w", err)
	}
	switch v := strings.ToLower(strings.Trim(string(m["version"]), `"`)); v {
	case "v1", "1":
	case "":
		return fmt.Errorf("claims: version missing: %w", ErrMalformed)
	default:
		return fmt.Errorf("claims: version %s: %w", clip(v), ErrVersion)
	}
	var out Claims
	var reqID, timestamp money.Amount
	for _, f := range []struct {
		name string
		into json.Unmarshaler
	}{
		{"user_address", (*addressJSON)(&out.Payer)},
		{"recipient_address", (*addressJSON)(&out.Payee)},
		{"asset_address", (*addressJSON)(&out.Asset)},
		{"req_id", &reqID},
		{"amount", &out.Amount},
		{"timestamp", &timestamp},
	} {
		raw, ok := m[f.name]
		if !ok {
			return fmt.Errorf("claims: %s missing: %w", f.name, ErrMalformed)
		}
		if err := f.into.UnmarshalJSON(raw); err != nil {
			return fmt.Errorf("claims: %s: %w: %w", f.name, ErrMalformed, err)
		}
	}
	out.ReqID = reqID.Word()
	var fits bool
	if out.Timestamp, fits = timestamp.Uint64(); !fits {
		return fmt.Errorf("claims: timestamp past 64 bits: %w", ErrMalformed)
	}
	*c = out
	return nil
}

// MarshalJSON writes the body of a guarantee request.
func (s Signed) MarshalJSON() ([]byte, error) { return json.Marshal(signedJSON(s)) }

// UnmarshalJSON reads the body of a guarantee request. A missing scheme is [EIP712]; unknown members are ignored, a
// member given twice is refused.
func (s *Signed) UnmarshalJSON(b []byte) error {
	m, err := members(b)
	if err != nil {
		return fmt.Errorf("guarantee: %w", err)
	}
	out := Signed{Form: EIP712}
	if err := out.Claims.UnmarshalJSON(m["claims"]); err != nil {
		return err
	}
	text, err := textOf(m["signature"])
	if err != nil {
		return fmt.Errorf("guarantee: signature: %w", err)
	}
	if out.Signature, err = evm.ParseSignature(text); err != nil {
		return fmt.Errorf("guarantee: %w: %w", ErrMalformed, err)
	}
	if raw, ok := m["scheme"]; ok {
		if text, err = textOf(raw); err != nil {
			return fmt.Errorf("guarantee: scheme: %w", err)
		}
		out.Form = Form(text)
	}
	*s = out
	return nil
}

type certificateJSON struct {
	Claims    string     `json:"claims"`
	Signature string     `json:"signature"`
	Batch     *Inclusion `json:"batch,omitempty"`
}

type inclusionJSON struct {
	Root     evm.Hash   `json:"root"`
	Index    uint32     `json:"index"`
	Size     uint32     `json:"size"`
	Siblings []evm.Hash `json:"siblings"`
}

// MarshalJSON writes claims and signature in hexadecimal without 0x, as 4Mica's core does.
func (c Certificate) MarshalJSON() ([]byte, error) {
	return json.Marshal(certificateJSON{hex.EncodeToString(c.Claims), hex.EncodeToString(c.Signature[:]), c.Batch})
}

// UnmarshalJSON reads a certificate, with or without 0x. It checks shapes only; see [Verifier.Verify].
func (c *Certificate) UnmarshalJSON(b []byte) error {
	m, err := members(b)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	var out Certificate
	out.Claims = make([]byte, ClaimsBytes)
	if err := hexInto(out.Claims, m["claims"]); err != nil {
		return fmt.Errorf("certificate: claims: %w", err)
	}
	if err := hexInto(out.Signature[:], m["signature"]); err != nil {
		return fmt.Errorf("certificate: signature: %w", err)
	}
	if raw, ok := m["batch"]; ok && string(raw) != "null" {
		out.Batch = new(Inclusion)
		if err := out.Batch.UnmarshalJSON(raw); err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
	}
	*c = out
	return nil
}

// MarshalJSON writes the proof; siblings is a list also when it is empty.
func (p Inclusion) MarshalJSON() ([]byte, error) {
	if p.Siblings == nil {
		p.Siblings = []evm.Hash{}
	}
	return json.Marshal(inclusionJSON(p))
}

// UnmarshalJSON reads a proof. It checks shapes only.
func (p *Inclusion) UnmarshalJSON(b []byte) error {
	m, err := members(b)
	if err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	var out Inclusion
	for _, f := range []struct {
		name string
		into any
	}{{"root", &out.Root}, {"index", &out.Index}, {"size", &out.Size}, {"siblings", &out.Siblings}} {
		raw, ok := m[f.name]
		if !ok || string(raw) == "null" {
			return fmt.Errorf("batch: %s missing: %w", f.name, ErrMalformed)
		}
		if err := json.Unmarshal(raw, f.into); err != nil {
			return fmt.Errorf("batch: %s: %w: %w", f.name, ErrMalformed, err)
		}
	}
	if len(out.Siblings) > siblingsMax {
		return fmt.Errorf("batch: %d siblings: %w", len(out.Siblings), ErrMalformed)
	}
	*p = out
	return nil
}

// MarshalJSON writes the 48 bytes as a list of numbers, the form that every 4Mica client reads.
func (k PublicKey) MarshalJSON() ([]byte, error) {
	var list [len(k)]uint16 // a list of bytes would be written as base64
	for i, b := range k {
		list[i] = uint16(b)
	}
	return json.Marshal(list)
}

// UnmarshalJSON reads a list of 48 numbers, or hexadecimal with or without 0x. It checks the shape only; [NewVerifier]
// checks that it is a key.
func (k *PublicKey) UnmarshalJSON(b []byte) error {
	var out PublicKey
	if len(b) > 0 && b[0] == '[' {
		var list []uint8NumberJSON
		if err := json.Unmarshal(b, &list); err != nil {
			return fmt.Errorf("public key: %w: %w", ErrMalformed, err)
		}
		if len(list) != len(out) {
			return fmt.Errorf("public key: %d bytes, want %d: %w", len(list), len(out), ErrMalformed)
		}
		for i, v := range list {
			out[i] = byte(v)
		}
	} else if err := hexInto(out[:], b); err != nil {
		return fmt.Errorf("public key: %w", err)
	}
	*k = out
	return nil
}

type uint8NumberJSON uint8

type addressJSON evm.Address

func (a *addressJSON) UnmarshalJSON(b []byte) error {
	text, err := textOf(b)
	if err != nil {
		return err
	}
	return (*evm.Address)(a).UnmarshalText([]byte(text))
}

// members splits a JSON object. Names are compared exactly, and one given twice is refused: encoding/json would take
// the last of "amount" and "Amount" where another reader takes the first.
func members(b []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, fmt.Errorf("not a JSON object: %w", ErrMalformed)
	}
	m := make(map[string]json.RawMessage)
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		key, ok := name.(string)
		if !ok {
			return nil, fmt.Errorf("member without a name: %w", ErrMalformed)
		}
		if _, twice := m[key]; twice {
			return nil, fmt.Errorf("member %q given twice: %w", clip(key), ErrMalformed)
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, fmt.Errorf("member %q: %w: %w", clip(key), ErrMalformed, err)
		}
		m[key] = raw
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("more than one JSON value: %w", ErrMalformed)
	}
	return m, nil
}

func textOf(raw json.RawMessage) (string, error) {
	if len(raw) == 0 {
		return "", fmt.Errorf("missing: %w", ErrMalformed)
	}
	var text *string
	if err := json.Unmarshal(raw, &text); err != nil || text == nil {
		return "", fmt.Errorf("not text: %w", ErrMalformed)
	}
	return *text, nil
}

func hexInto(dst []byte, raw json.RawMessage) error {
	text, err := textOf(raw)
	if err != nil {
		return err
	}
	digits := strings.TrimPrefix(text, "0x")
	if len(digits) != 2*len(dst) {
		return fmt.Errorf("%d hexadecimal digits, want %d: %w", len(digits), 2*len(dst), ErrMalformed)
	}
	if _, err := hex.Decode(dst, []byte(digits)); err != nil {
		return fmt.Errorf("not hexadecimal: %w", ErrMalformed)
	}
	return nil
}
