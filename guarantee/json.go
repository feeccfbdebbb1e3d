package guarantee

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/internal/jsonobject"
)

// What is written here is written piece by piece: encoding/json would scan every value again for each level that it is
// nested in, and a certificate has three.

// appendHex writes bytes as hexadecimal text with 0x.
func appendHex(b, value []byte) []byte { return hex.AppendEncode(append(b, "0x"...), value) }

// MarshalJSON writes the claims as 4Mica's clients do: lower-case addresses, minimal hexadecimal numbers.
func (c Claims) MarshalJSON() ([]byte, error) { return c.appendJSON(make([]byte, 0, 384)) }

func (c Claims) appendJSON(b []byte) ([]byte, error) {
	b = append(b, `{"version":"v`...)
	b = strconv.AppendUint(b, c.Version(), 10)
	b = append(b, `","user_address":"`...)
	b = appendHex(b, c.Payer[:])
	b = append(b, `","recipient_address":"`...)
	b = appendHex(b, c.Payee[:])
	b = append(b, `","req_id":"`...)
	b = append(b, number(c.ReqID).Hex()...)
	b = append(b, `","amount":"`...)
	b = append(b, c.Amount.Hex()...)
	b = append(b, `","asset_address":"`...)
	b = appendHex(b, c.Asset[:])
	b = append(b, `","timestamp":`...)
	b = strconv.AppendUint(b, c.Timestamp, 10)
	if p := c.Policy; p != nil {
		tag, err := json.Marshal(p.Tag)
		if err != nil {
			return nil, err
		}
		b = fmt.Appendf(b, `,"validation_registry_address":"%s","validation_request_hash":"%s","validation_chain_id":%d`, p.Registry.Lower(), p.Request, p.ChainID)
		b = fmt.Appendf(b, `,"validator_address":"%s","validator_agent_id":"%s","min_validation_score":%d`, p.Validator.Lower(), number(p.AgentID).Hex(), p.MinScore)
		b = fmt.Appendf(b, `,"validation_subject_hash":"%s","job_hash":"%s","required_validation_tag":%s`, p.Subject, p.JobHash, tag)
	}
	return append(b, '}'), nil
}

// UnmarshalJSON reads claims. Addresses may have any letter case; numbers may be hexadecimal or decimal text or JSON
// integers; version may be "v1", "1" or 1, or the same with 2. A policy's members may stand among the others or in an
// object validation_policy, in snake_case or camelCase. Every member must be there once, but for a tag, which may be
// missing; unknown ones are ignored. Errors match [ErrVersion] for another version, else [ErrMalformed].
func (c *Claims) UnmarshalJSON(b []byte) error {
	o, err := members(b)
	if err != nil {
		return fmt.Errorf("claims: %w", err)
	}
	return c.read(o)
}

func (c *Claims) read(o jsonobject.Object) error {
	var out Claims
	switch version := string(o.Get("version")); version {
	case `"v1"`, `"V1"`, `"1"`, `1`:
	case `"v2"`, `"V2"`, `"2"`, `2`:
		p, err := readClaimsPolicy(o)
		if err != nil {
			return fmt.Errorf("claims: %w", err)
		}
		out.Policy = p
	case ``:
		return fmt.Errorf("claims: version: missing: %w", ErrMalformed)
	default:
		return fmt.Errorf("claims: version %s: %w", clip(version), ErrVersion)
	}
	name := "user_address"
	err := readFixed(&out.Payer, o.Get(name))
	if err == nil {
		name = "recipient_address"
		err = readFixed(&out.Payee, o.Get(name))
	}
	if err == nil {
		name = "req_id"
		err = readWord(&out.ReqID, o.Get(name))
	}
	if err == nil {
		name = "amount"
		err = readNumber(&out.Amount, o.Get(name))
	}
	if err == nil {
		name = "asset_address"
		err = readFixed(&out.Asset, o.Get(name))
	}
	if err == nil {
		name = "timestamp"
		err = readUint64(&out.Timestamp, o.Get(name))
	}
	if err != nil {
		return fmt.Errorf("claims: %s: %w", name, err)
	}
	*c = out
	return nil
}

// readClaimsPolicy reads the policy of claims of version 2, its two hashes as they are said to be.
func readClaimsPolicy(o jsonobject.Object) (*Policy, error) {
	if raw := o.Get("validation_policy"); raw != nil && string(raw) != "null" {
		inner, err := split(raw)
		if err != nil {
			return nil, fmt.Errorf("validation_policy: %w", err)
		}
		o = inner
	}
	p := new(Policy)
	if err := readPolicyMembers(p, o.Get); err != nil {
		return nil, err
	}
	for _, h := range []struct {
		into          *evm.Hash
		claims, extra string
	}{{&p.Subject, "validation_subject_hash", "validationSubjectHash"}, {&p.Request, "validation_request_hash", "validationRequestHash"}} {
		raw := o.Get(h.claims)
		if raw == nil {
			raw = o.Get(h.extra)
		}
		if err := readFixed(h.into, raw); err != nil {
			return nil, fmt.Errorf("%s: %w", h.claims, err)
		}
	}
	return p, nil
}

// MarshalJSON writes the body of a guarantee request.
func (s Signed) MarshalJSON() ([]byte, error) { return s.AppendJSON(make([]byte, 0, 640)) }

// AppendJSON is MarshalJSON behind what is in b.
func (s Signed) AppendJSON(b []byte) ([]byte, error) {
	b, err := s.Claims.appendJSON(append(b, `{"claims":`...))
	if err != nil {
		return nil, err
	}
	b = append(b, `,"signature":"`...)
	b = appendHex(b, s.Signature[:])
	b = append(b, `","scheme":`...)
	if s.Form == EIP712 {
		return append(b, `"eip712"}`...), nil
	}
	form, err := json.Marshal(string(s.Form)) // may be any text
	return append(append(b, form...), '}'), err
}

// UnmarshalJSON reads the body of a guarantee request. A missing scheme is [EIP712]; unknown members are ignored, a
// member given twice is refused. It checks shapes only; see [Signed.Verify].
func (s *Signed) UnmarshalJSON(b []byte) error {
	o, err := members(b)
	if err != nil {
		return fmt.Errorf("guarantee: %w", err)
	}
	inner, err := split(o.Get("claims"))
	if err != nil {
		return fmt.Errorf("guarantee: claims: %w", err)
	}
	out := Signed{Form: EIP712}
	if err := out.Claims.read(inner); err != nil {
		return fmt.Errorf("guarantee: %w", err)
	}
	if err := readFixed(&out.Signature, o.Get("signature")); err != nil {
		return fmt.Errorf("guarantee: signature: %w", err)
	}
	if raw := o.Get("scheme"); raw != nil {
		text, err := readText(raw)
		if err != nil {
			return fmt.Errorf("guarantee: scheme: %w", err)
		}
		out.Form = Form(text)
	}
	*s = out
	return nil
}

// MarshalJSON writes claims and signature in hexadecimal without 0x, as 4Mica's core does.
func (c Certificate) MarshalJSON() ([]byte, error) { return c.AppendJSON(make([]byte, 0, 2048)), nil }

// AppendJSON is MarshalJSON behind what is in b.
func (c Certificate) AppendJSON(b []byte) []byte {
	b = append(b, `{"claims":"`...)
	b = hex.AppendEncode(b, c.Claims)
	b = append(b, `","signature":"`...)
	b = hex.AppendEncode(b, c.Signature[:])
	b = append(b, '"')
	if c.Batch != nil {
		b = c.Batch.appendJSON(append(b, `,"batch":`...))
	}
	return append(b, '}')
}

// UnmarshalJSON reads a certificate, with or without 0x. It checks shapes only; see [Verifier.Verify].
func (c *Certificate) UnmarshalJSON(b []byte) error {
	o, err := members(b)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	var out Certificate
	if out.Claims, err = readClaimsHex(o.Get("claims")); err != nil {
		return fmt.Errorf("certificate: claims: %w", err)
	}
	if err := readHex(out.Signature[:], o.Get("signature")); err != nil {
		return fmt.Errorf("certificate: signature: %w", err)
	}
	if raw := o.Get("batch"); raw != nil && string(raw) != "null" {
		out.Batch = new(Inclusion)
		proof, err := split(raw)
		if err == nil {
			err = out.Batch.read(proof)
		}
		if err != nil {
			return fmt.Errorf("certificate: batch: %w", err)
		}
	}
	*c = out
	return nil
}

// MarshalJSON writes the proof; siblings is a list also when it is empty.
func (p Inclusion) MarshalJSON() ([]byte, error) { return p.appendJSON(make([]byte, 0, 1024)), nil }

func (p Inclusion) appendJSON(b []byte) []byte {
	b = append(b, `{"root":"`...)
	b = appendHex(b, p.Root[:])
	b = append(b, `","index":`...)
	b = strconv.AppendUint(b, uint64(p.Index), 10)
	b = append(b, `,"size":`...)
	b = strconv.AppendUint(b, uint64(p.Size), 10)
	b = append(b, `,"siblings":[`...)
	for i, s := range p.Siblings {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = appendHex(b, s[:])
		b = append(b, '"')
	}
	return append(b, "]}"...)
}

// UnmarshalJSON reads a proof. It checks shapes only.
func (p *Inclusion) UnmarshalJSON(b []byte) error {
	o, err := members(b)
	if err == nil {
		err = p.read(o)
	}
	if err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	return nil
}

func (p *Inclusion) read(o jsonobject.Object) error {
	var out Inclusion
	var index, size uint64
	if err := readFixed(&out.Root, o.Get("root")); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if err := readUint64(&index, o.Get("index")); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	if err := readUint64(&size, o.Get("size")); err != nil {
		return fmt.Errorf("size: %w", err)
	}
	if index > math.MaxUint32 || size > math.MaxUint32 {
		return fmt.Errorf("place %d of %d: %w", index, size, ErrMalformed)
	}
	out.Index, out.Size = uint32(index), uint32(size)
	siblings, err := readHashes(o.Get("siblings"), siblingsMax)
	if err != nil {
		return fmt.Errorf("siblings: %w", err)
	}
	out.Siblings = siblings
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
		var list []uint16
		if err := json.Unmarshal(b, &list); err != nil {
			return fmt.Errorf("public key: %w: %w", ErrMalformed, err)
		}
		if len(list) != len(out) {
			return fmt.Errorf("public key: %d bytes, want %d: %w", len(list), len(out), ErrMalformed)
		}
		for i, v := range list {
			if v > 0xff {
				return fmt.Errorf("public key: byte %d is %d: %w", i, v, ErrMalformed)
			}
			out[i] = byte(v)
		}
	} else if err := readHex(out[:], b); err != nil {
		return fmt.Errorf("public key: %w", err)
	}
	*k = out
	return nil
}

// UnmarshalJSON reads {digest, amount, reason, signature}, each once. A missing reason is zero.
func (n *SignedNote) UnmarshalJSON(b []byte) error {
	o, err := members(b)
	if err != nil {
		return fmt.Errorf("note: %w", err)
	}
	var out SignedNote
	if err := readFixed(&out.Digest, o.Get("digest")); err != nil {
		return fmt.Errorf("note: digest: %w", err)
	}
	if err := readNumber(&out.Amount, o.Get("amount")); err != nil {
		return fmt.Errorf("note: amount: %w", err)
	}
	if raw := o.Get("reason"); raw != nil {
		if err := readFixed(&out.Reason, raw); err != nil {
			return fmt.Errorf("note: reason: %w", err)
		}
	}
	if err := readFixed(&out.Signature, o.Get("signature")); err != nil {
		return fmt.Errorf("note: signature: %w", err)
	}
	*n = out
	return nil
}
