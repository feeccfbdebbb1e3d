// Package x402 is the wire of paying over HTTP 402: the terms that a seller answers with, the payment that a buyer sends,
// the receipt, and the [Facilitator] that checks and settles payments. It reads and writes both versions of the protocol
// and leaves the payload of a scheme as it is.
//
// Most callers want [WritePaymentRequired], [ReadPayment] and [ParsePaymentRequired]. The table of error codes that all
// of farthing uses is here too; see [Reason].
//
// # Compatibility
//
// Follows x402-specification-v1 and -v2 and, where the published packages (@x402/core 2.27, x402 1.2) differ from the
// text, accepts both and emits what the packages emit.
package x402

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/network"
)

// Requirements is one way to pay: PaymentRequirements of version 2. Amount is decimal, in smallest units.
type Requirements struct {
	Scheme            string                     `json:"scheme"`
	Network           string                     `json:"network"` // CAIP-2
	Amount            string                     `json:"amount"`
	Asset             string                     `json:"asset"`
	PayTo             string                     `json:"payTo"`
	MaxTimeoutSeconds int                        `json:"maxTimeoutSeconds"`
	Extra             map[string]json.RawMessage `json:"extra,omitempty"`
}

// ExtraString returns a string member of Extra, or "".
func (r Requirements) ExtraString(key string) string {
	var s string
	if raw, ok := r.Extra[key]; ok {
		_ = json.Unmarshal(raw, &s)
	}
	return s
}

// Resource says what is sold.
type Resource struct {
	URL         string `json:"url"`
	Description string `json:"description,omitempty"`
	MimeType    string `json:"mimeType,omitempty"`
}

// PaymentRequired is the terms of a 402 in the form of version 2.
type PaymentRequired struct {
	X402Version int                        `json:"x402Version"`
	Error       string                     `json:"error,omitempty"`
	Resource    Resource                   `json:"resource"`
	Accepts     []Requirements             `json:"accepts"`
	Extensions  map[string]json.RawMessage `json:"extensions,omitempty"`
}

// Payment is a payment header's content in one form for all versions. In version 2 Accepted is the option that the buyer
// chose; in version 1 it is nil and only Scheme and Network tell.
type Payment struct {
	Version    int
	Scheme     string
	Network    string // CAIP-2; a version-1 name that is not known stays as it was
	Accepted   *Requirements
	Resource   *Resource
	Payload    json.RawMessage
	Extensions map[string]json.RawMessage
}

type envelope struct {
	X402Version int                        `json:"x402Version"`
	Scheme      string                     `json:"scheme,omitempty"`
	Network     string                     `json:"network,omitempty"`
	Payload     json.RawMessage            `json:"payload"`
	Extensions  map[string]json.RawMessage `json:"extensions,omitempty"`
	Resource    *Resource                  `json:"resource,omitempty"`
	Accepted    *Requirements              `json:"accepted,omitempty"`
}

// MarshalJSON writes the payment as its version's payload object.
func (p Payment) MarshalJSON() ([]byte, error) {
	e := envelope{X402Version: p.Version, Payload: p.Payload}
	if p.Accepted != nil {
		e.Extensions, e.Resource, e.Accepted = p.Extensions, p.Resource, p.Accepted
	} else {
		e.Scheme, e.Network = p.Scheme, p.Network
	}
	return json.Marshal(e)
}

// UnmarshalJSON reads a payload object; the version is told by its members, since some clients number it otherwise.
func (p *Payment) UnmarshalJSON(b []byte) error {
	var e envelope
	if err := decodeStrict(b, &e); err != nil {
		return err
	}
	if trimmed := bytes.TrimSpace(e.Payload); len(trimmed) == 0 || trimmed[0] != '{' {
		return errors.New("payload is missing")
	}
	q := Payment{Version: e.X402Version, Payload: e.Payload, Resource: e.Resource, Extensions: e.Extensions}
	switch {
	case e.Accepted != nil:
		q.Accepted = e.Accepted
		q.Scheme, q.Network = e.Accepted.Scheme, e.Accepted.Network
		if q.Version == 0 {
			q.Version = 2
		}
	case e.Scheme != "" && e.Network != "":
		q.Scheme, q.Network = e.Scheme, canonicalNetwork(e.Network)
		if q.Version == 0 {
			q.Version = 1
		}
	default:
		return errors.New("neither accepted (version 2) nor scheme and network (version 1)")
	}
	*p = q
	return nil
}

func canonicalNetwork(name string) string {
	if strings.Contains(name, ":") {
		return name
	}
	if c, err := network.Lookup(name); err == nil {
		return c.CAIP2()
	}
	return name
}

// Matches reports whether what a buyer says it accepted is the offered option: every core member equal, addresses by
// value, and at least the offered extra members.
func Matches(accepted, offered Requirements) bool {
	if accepted.Scheme != offered.Scheme || canonicalNetwork(accepted.Network) != offered.Network || accepted.Amount != offered.Amount ||
		!sameAddress(accepted.Asset, offered.Asset) || !sameAddress(accepted.PayTo, offered.PayTo) ||
		accepted.MaxTimeoutSeconds != offered.MaxTimeoutSeconds {
		return false
	}
	for key, want := range offered.Extra {
		if !sameJSON(accepted.Extra[key], want) {
			return false
		}
	}
	return true
}

func sameAddress(a, b string) bool {
	x, errX := evm.ParseAddress(a)
	y, errY := evm.ParseAddress(b)
	return errX == nil && errY == nil && x == y
}

func sameJSON(a, b json.RawMessage) bool {
	var x, y bytes.Buffer
	if json.Compact(&x, a) != nil || json.Compact(&y, b) != nil {
		return false
	}
	return bytes.Equal(x.Bytes(), y.Bytes())
}

// VerifyResponse is a facilitator's answer to /verify.
type VerifyResponse struct {
	IsValid        bool   `json:"isValid"`
	InvalidReason  string `json:"invalidReason,omitempty"`
	InvalidMessage string `json:"invalidMessage,omitempty"`
	Payer          string `json:"payer,omitempty"`
}

// SettleResponse is a facilitator's answer to /settle, and a receipt header's content. Certificate, Error, TxHash and
// NetworkID are what 4Mica's clients read; Purchase and Remaining are ours.
type SettleResponse struct {
	Success      bool                       `json:"success"`
	ErrorReason  string                     `json:"errorReason,omitempty"`
	ErrorMessage string                     `json:"errorMessage,omitempty"`
	Payer        string                     `json:"payer,omitempty"`
	Transaction  string                     `json:"transaction"` // "" when there is none
	Network      string                     `json:"network"`
	Amount       string                     `json:"amount,omitempty"` // charged, smallest units
	Extensions   map[string]json.RawMessage `json:"extensions,omitempty"`
	Extra        map[string]json.RawMessage `json:"extra,omitempty"`

	Error       string          `json:"error,omitempty"`
	TxHash      string          `json:"txHash,omitempty"`
	NetworkID   string          `json:"networkId,omitempty"`
	Certificate json.RawMessage `json:"certificate,omitempty"`
	Purchase    string          `json:"purchase,omitempty"`
}

// Supported is a facilitator's list of what it can do.
type Supported struct {
	Kinds      []Kind              `json:"kinds"`
	Extensions []string            `json:"extensions"`
	Signers    map[string][]string `json:"signers"`
}

// Kind is one entry of [Supported].
type Kind struct {
	X402Version int                        `json:"x402Version"`
	Scheme      string                     `json:"scheme"`
	Network     string                     `json:"network"`
	Extra       map[string]json.RawMessage `json:"extra,omitempty"`
}

// decodeStrict decodes one JSON value: no second value behind it, no member named twice at any level, and no deeper than
// a payment ever is. Unknown members are ignored, as the protocol asks.
func decodeStrict(b []byte, v any) error {
	if err := checkMembers(b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

const depthMax = 32

// checkMembers refuses what two parsers could read differently: members that are there twice, in any letter case, since
// encoding/json matches names without regard to it.
func checkMembers(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	type level struct {
		object bool
		key    bool // the next token is a member's name
		seen   map[string]bool
	}
	var stack []level
	for {
		tok, err := dec.Token()
		if err == io.EOF {
			if len(stack) != 0 {
				return io.ErrUnexpectedEOF
			}
			return nil
		}
		if err != nil {
			return err
		}
		var top *level
		if len(stack) > 0 {
			top = &stack[len(stack)-1]
		}
		if d, ok := tok.(json.Delim); ok {
			switch d {
			case '{', '[':
				if top != nil && top.object {
					top.key = true // what follows this value is a name
				}
				if len(stack) == depthMax {
					return errors.New("nested too deeply")
				}
				stack = append(stack, level{object: d == '{', key: true, seen: map[string]bool{}})
			default:
				stack = stack[:len(stack)-1]
			}
			continue
		}
		if top != nil && top.object {
			if top.key {
				name := strings.ToLower(tok.(string))
				if top.seen[name] {
					return fmt.Errorf("member %q is there twice", tok)
				}
				top.seen[name] = true
			}
			top.key = !top.key
		}
	}
}

// Decode reads one JSON value strictly; see [Payment.UnmarshalJSON] for what that excludes.
func Decode(b []byte, v any) error { return decodeStrict(b, v) }
