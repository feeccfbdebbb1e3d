// Package x402 is the wire of paying over HTTP 402: the terms that a seller answers with, the payment that a buyer sends,
// the receipt, and the [Facilitator] that checks and settles payments. It reads and writes both versions of the protocol
// and leaves the payload of a scheme as it is.
//
// Sellers want [ReadPayment], [Matches] and [WritePaymentRequired]; buyers [ParsePaymentRequired], [NewPayment] and
// [ReadReceipt]. The table of error codes that all of farthing uses is here too; see [Reason].
//
// # Compatibility
//
// Follows x402-specification-v1 and -v2 and, where the published packages (@x402/core 2.27, x402 1.2) differ from the
// text, accepts both and emits what the packages emit. T402 (@t402/core 2.0) is the same protocol under another name of the
// version; see [Dialect]. What 4Mica's clients send and expect is understood as well. Which version an object is of is
// told by its members, since not everybody numbers them alike; an object that has no number, or one that is not known, is
// refused.
//
// # Concurrency
//
// Everything here is a value or a function, except [Client], which any number of goroutines may use.
package x402

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
)

// Requirements is one way to pay: PaymentRequirements of version 2. It is also read from version 1's members. Amount is
// decimal, in smallest units.
type Requirements struct {
	Scheme            string                     `json:"scheme"`
	Network           string                     `json:"network"` // CAIP-2; a name that is not known stays as it was
	Amount            string                     `json:"amount"`
	Asset             string                     `json:"asset"`
	PayTo             string                     `json:"payTo"`
	MaxTimeoutSeconds int                        `json:"maxTimeoutSeconds"`
	Extra             map[string]json.RawMessage `json:"extra,omitempty"`

	// NetworkSent is the network as it was read, if that was another spelling than Network. It is what goes back to
	// whoever sent it.
	NetworkSent string `json:"-"`
}

// ExtraString returns a string member of Extra, or "".
func (r Requirements) ExtraString(key string) string {
	raw := r.Extra[key]
	// Nearly all are plain text, and every payment has its token's name looked up several times.
	if n := len(raw); n >= 2 && raw[0] == '"' && raw[n-1] == '"' && !bytes.ContainsAny(raw[1:n-1], "\"\\") && utf8.Valid(raw) {
		return string(raw[1 : n-1])
	}
	var s string
	if raw != nil {
		_ = json.Unmarshal(raw, &s)
	}
	return s
}

// MarshalJSON writes version 2's form, with the network as it was read.
func (r Requirements) MarshalJSON() ([]byte, error) {
	return encodePlain(struct {
		Scheme            string `json:"scheme"`
		Network           string `json:"network"`
		Amount            string `json:"amount"`
		Asset             string `json:"asset"`
		PayTo             string `json:"payTo"`
		MaxTimeoutSeconds int    `json:"maxTimeoutSeconds"`
		Extra             extra  `json:"extra,omitempty"`
	}{r.Scheme, cmp.Or(r.NetworkSent, r.Network), r.Amount, r.Asset, r.PayTo, r.MaxTimeoutSeconds, r.Extra})
}

// UnmarshalJSON reads either version's form.
func (r *Requirements) UnmarshalJSON(b []byte) error {
	if err := valid(b); err != nil {
		return err
	}
	return r.unmarshal(bytes.Clone(b))
}

// unmarshal is UnmarshalJSON for valid text, of which it keeps parts.
func (r *Requirements) unmarshal(b []byte) error {
	var w Requirements
	var amountV1 string
	err := fill(b, field{"scheme", &w.Scheme}, field{"network", &w.Network}, field{"amount", &w.Amount}, field{"maxAmountRequired", &amountV1},
		field{"asset", &w.Asset}, field{"payTo", &w.PayTo}, field{"maxTimeoutSeconds", &w.MaxTimeoutSeconds}, field{"extra", &w.Extra})
	if err != nil {
		return err
	}
	if w.Amount != "" && amountV1 != "" && w.Amount != amountV1 {
		return errors.New("amount and maxAmountRequired differ")
	}
	w.Amount = cmp.Or(w.Amount, amountV1)
	if strings.HasPrefix(w.Amount, "0x") && strings.Contains(w.Scheme, "4mica") { // whose facilitators take it
		amount, err := money.ParseAmount(w.Amount)
		if err != nil {
			return err
		}
		w.Amount = amount.String()
	}
	w.Network, w.NetworkSent = canonicalNetwork(w.Network)
	*r = w
	return nil
}

// extra writes members of Requirements.Extra in the order of the published packages, and what they do not know behind, by
// name. Nobody should depend on the order, but then an object that was read is the same text when it is written.
type extra map[string]json.RawMessage

var extraOrder = []string{"name", "version", "symbol", "tokenType", "assetTransferMethod", "facilitatorAddress", "spender"}

func (e extra) MarshalJSON() ([]byte, error) {
	names := make([]string, 0, len(e))
	for _, name := range extraOrder {
		if _, ok := e[name]; ok {
			names = append(names, name)
		}
	}
	known := len(names)
	for name := range e {
		if !slices.Contains(names[:known], name) {
			names = append(names, name)
		}
	}
	slices.Sort(names[known:])
	b := []byte{'{'}
	for i, name := range names {
		if i > 0 {
			b = append(b, ',')
		}
		quoted, err := encodePlain(name)
		if err != nil {
			return nil, err
		}
		value := e[name]
		if value == nil {
			value = json.RawMessage("null")
		}
		b = append(append(append(b, quoted...), ':'), value...)
	}
	return append(b, '}'), nil
}

// requirementsV1 is one way to pay as version 1 writes it.
type requirementsV1 struct {
	Scheme            string          `json:"scheme"`
	Network           string          `json:"network"`
	MaxAmountRequired string          `json:"maxAmountRequired"`
	Amount            string          `json:"amount,omitempty"` // for 4Mica's clients, of which some look for version 2's member
	Asset             string          `json:"asset"`
	PayTo             string          `json:"payTo"`
	Resource          string          `json:"resource"`
	Description       string          `json:"description"`
	MimeType          string          `json:"mimeType"`
	OutputSchema      json.RawMessage `json:"outputSchema,omitempty"`
	MaxTimeoutSeconds int             `json:"maxTimeoutSeconds"`
	Extra             extra           `json:"extra,omitempty"`
}

func (r Requirements) v1(of Resource, outputSchema json.RawMessage) requirementsV1 {
	return requirementsV1{
		Scheme: r.Scheme, Network: cmp.Or(r.NetworkSent, nameV1(r.Network)), MaxAmountRequired: r.Amount, Asset: r.Asset, PayTo: r.PayTo,
		Resource: of.URL, Description: of.Description, MimeType: of.MimeType, OutputSchema: outputSchema,
		MaxTimeoutSeconds: r.MaxTimeoutSeconds, Extra: r.Extra,
	}
}

// Resource says what is sold: ResourceInfo of version 2.
type Resource struct {
	URL         string   `json:"url"`
	Description string   `json:"description,omitempty"`
	MimeType    string   `json:"mimeType,omitempty"`
	ServiceName string   `json:"serviceName,omitempty"`
	Tags        []string `json:"tags,omitempty"`
	IconURL     string   `json:"iconUrl,omitempty"`
}

// PaymentRequired is the terms of a 402 in the form of version 2. X402Version says in which version the seller wants to be
// answered, and Dialect under which name it numbered that; see [Dialect].
type PaymentRequired struct {
	X402Version int
	Dialect     Dialect
	Error       string
	Resource    Resource
	Accepts     []Requirements
	Extensions  map[string]json.RawMessage
}

// required is PaymentRequired on the wire.
type required struct {
	numbers
	Error      string                     `json:"error,omitempty"`
	Resource   Resource                   `json:"resource"`
	Accepts    []Requirements             `json:"accepts"`
	Extensions map[string]json.RawMessage `json:"extensions,omitempty"`
}

// MarshalJSON writes version 2's form in the terms' dialect.
func (p PaymentRequired) MarshalJSON() ([]byte, error) {
	return encodePlain(required{p.Dialect.numbers(p.X402Version), p.Error, p.Resource, p.Accepts, p.Extensions})
}

// Payment is a payment header's content in one form for all versions. In version 2 Accepted is the option that the buyer
// chose; in version 1 it is nil and only Scheme and Network tell.
type Payment struct {
	Version    int // 1 or 2
	Dialect    Dialect
	Scheme     string
	Network    string // CAIP-2; a version-1 name that is not known stays as it was
	Accepted   *Requirements
	Resource   *Resource
	Payload    json.RawMessage // the scheme's own object
	Extensions map[string]json.RawMessage

	// NetworkSent is version 1's network as it was read or is to be written; empty: the version-1 name of Network.
	NetworkSent string
	// Raw is the header as [ReadPayment] found it; empty for a payment from elsewhere.
	Raw string
}

// NewPayment makes the payment that answers terms with one of their options: in the terms' own version and dialect, with
// resource and extensions echoed as version 2 asks. The payload is encoded as JSON and has to be an object.
func NewPayment(terms PaymentRequired, chosen Requirements, payload any) (Payment, error) {
	raw, err := compact(payload)
	if err != nil {
		return Payment{}, fmt.Errorf("payment payload: %w", err)
	}
	if len(raw) == 0 || raw[0] != '{' {
		return Payment{}, errors.New("payment payload is no object")
	}
	p := Payment{Version: 2, Dialect: terms.Dialect.one(), Scheme: chosen.Scheme, Network: chosen.Network, Payload: raw}
	if terms.X402Version == 1 {
		p.Version, p.NetworkSent = 1, cmp.Or(chosen.NetworkSent, nameV1(chosen.Network))
		return p, nil
	}
	p.Accepted, p.Extensions = &chosen, terms.Extensions
	if terms.Resource.URL != "" {
		p.Resource = &terms.Resource
	}
	return p, nil
}

// Header returns the name and value of the request header that carries the payment.
func (p Payment) Header() (name, value string, err error) {
	name = HeaderSignature
	if p.Version == 1 {
		name = HeaderPayment
	}
	value, err = EncodeHeader(p)
	return name, value, err
}

// envelope is a payment on the wire, in the order of members of the published packages.
type envelope struct {
	numbers
	Scheme     string                     `json:"scheme,omitempty"`
	Network    string                     `json:"network,omitempty"`
	Payload    json.RawMessage            `json:"payload"`
	Extensions map[string]json.RawMessage `json:"extensions,omitempty"`
	Resource   *Resource                  `json:"resource,omitempty"`
	Accepted   *Requirements              `json:"accepted,omitempty"`
}

// MarshalJSON writes the payment as its version's payload object, in its dialect.
func (p Payment) MarshalJSON() ([]byte, error) {
	e := envelope{numbers: p.Dialect.numbers(p.Version), Payload: p.Payload}
	if p.Accepted != nil {
		e.Extensions, e.Resource, e.Accepted = p.Extensions, p.Resource, p.Accepted
	} else {
		e.Scheme, e.Network = p.Scheme, cmp.Or(p.NetworkSent, nameV1(p.Network))
	}
	return encodePlain(e)
}

// UnmarshalJSON reads a payload object strictly; see [Decode]. With accepted it is of version 2, with scheme and network
// of version 1, and with both they have to agree; the number has to be there and known, and tells no more than the dialect.
func (p *Payment) UnmarshalJSON(b []byte) error {
	if err := strict(b); err != nil {
		return err
	}
	return p.unmarshal(bytes.Clone(b))
}

// unmarshal is UnmarshalJSON for text that was found good, of which it keeps parts.
func (p *Payment) unmarshal(b []byte) error {
	var e envelope
	var accepted, resource json.RawMessage
	err := fill(b, field{"x402Version", &e.X402Version}, field{"t402Version", &e.T402Version}, field{"scheme", &e.Scheme}, field{"network", &e.Network},
		field{"payload", &e.Payload}, field{"extensions", &e.Extensions}, field{"resource", &resource}, field{"accepted", &accepted})
	if err == nil && !isNull(accepted) {
		e.Accepted = new(Requirements)
		err = e.Accepted.unmarshal(accepted)
	}
	if err == nil && !isNull(resource) {
		e.Resource = new(Resource)
		err = json.Unmarshal(resource, e.Resource)
	}
	if err != nil {
		return err
	}
	_, dialect, err := e.numbers.read()
	if err != nil {
		return err
	}
	if trimmed := bytes.TrimSpace(e.Payload); len(trimmed) == 0 || trimmed[0] != '{' {
		return errors.New("payload is no object")
	}
	q := Payment{Dialect: dialect.one(), Payload: e.Payload}
	switch {
	case e.Accepted != nil:
		q.Version, q.Scheme, q.Network, q.Accepted = 2, e.Accepted.Scheme, e.Accepted.Network, e.Accepted
		q.Resource, q.Extensions = e.Resource, e.Extensions
		if beside, _ := canonicalNetwork(e.Network); e.Scheme != "" && e.Scheme != q.Scheme || e.Network != "" && beside != q.Network {
			return errors.New("scheme or network is not the one accepted")
		}
	default:
		q.Version, q.Scheme = 1, e.Scheme
		q.Network, q.NetworkSent = canonicalNetwork(e.Network)
	}
	if q.Scheme == "" || q.Network == "" {
		return errors.New("neither accepted (version 2) nor scheme and network (version 1)")
	}
	if q.Version == 1 && q.NetworkSent == "" {
		q.NetworkSent = q.Network
	}
	*p = q
	return nil
}

// Matches reports whether what a buyer says it accepted is the offered option: every core member equal, addresses and
// networks by value, and at least the offered extra members.
func Matches(accepted, offered Requirements) bool {
	a, _ := canonicalNetwork(accepted.Network)
	o, _ := canonicalNetwork(offered.Network)
	if accepted.Scheme != offered.Scheme || a != o || accepted.Amount != offered.Amount ||
		!sameAddress(accepted.Asset, offered.Asset) || !sameAddress(accepted.PayTo, offered.PayTo) ||
		accepted.MaxTimeoutSeconds != offered.MaxTimeoutSeconds {
		return false
	}
	for key, want := range offered.Extra {
		if got, ok := accepted.Extra[key]; !ok || !sameJSON(got, want) {
			return false
		}
	}
	return true
}

// sameAddress compares addresses by value, and what is no EVM address as text.
func sameAddress(a, b string) bool {
	x, errX := evm.ParseAddress(a)
	y, errY := evm.ParseAddress(b)
	if errX != nil || errY != nil {
		return a == b
	}
	return x == y
}

// canonicalNetwork returns a network's CAIP-2 name, and its old spelling if that is another one. What is not known stays
// as it is.
func canonicalNetwork(name string) (caip2, sent string) {
	if name == "" || strings.Contains(name, ":") {
		return name, ""
	}
	if caip2, ok := network.FromV1(name); ok {
		return caip2, name
	}
	return name, ""
}

// nameV1 returns a network's name in version 1, or the name itself if it has none.
func nameV1(caip2 string) string {
	if name, ok := network.ToV1(caip2); ok {
		return name
	}
	return caip2
}

// VerifyResponse is a facilitator's answer to /verify.
type VerifyResponse struct {
	IsValid        bool                       `json:"isValid"`
	InvalidReason  string                     `json:"invalidReason,omitempty"`
	InvalidMessage string                     `json:"invalidMessage,omitempty"`
	Payer          string                     `json:"payer,omitempty"`
	Extensions     map[string]json.RawMessage `json:"extensions,omitempty"`
	Extra          map[string]json.RawMessage `json:"extra,omitempty"`
}

// SettleResponse is a facilitator's answer to /settle, and a receipt header's content. Error, TxHash, NetworkID,
// Certificate and Guarantee are what 4Mica's clients read, Requirements is T402's; Purchase is ours.
type SettleResponse struct {
	Success      bool                       `json:"success"`
	ErrorReason  string                     `json:"errorReason,omitempty"`
	ErrorMessage string                     `json:"errorMessage,omitempty"`
	Transaction  string                     `json:"transaction"` // "" when there is none
	Network      string                     `json:"network"`
	Payer        string                     `json:"payer,omitempty"`
	Amount       string                     `json:"amount,omitempty"` // charged, smallest units
	Extensions   map[string]json.RawMessage `json:"extensions,omitempty"`
	Extra        map[string]json.RawMessage `json:"extra,omitempty"`

	Error       string          `json:"error,omitempty"`
	TxHash      string          `json:"txHash,omitempty"`
	NetworkID   string          `json:"networkId,omitempty"`
	Certificate json.RawMessage `json:"certificate,omitempty"` // {claims, signature}, and batch for one of many
	Guarantee   json.RawMessage `json:"guarantee,omitempty"`   // the same, in receipts of version 1
	Purchase    string          `json:"purchase,omitempty"`

	Requirements json.RawMessage `json:"requirements,omitempty"` // T402's servers repeat what was paid
}

// In returns the answer as servers of a payment's dialect give it, for what was paid.
func (s SettleResponse) In(d Dialect, paid Requirements) (SettleResponse, error) {
	s.Requirements = nil
	if d != T402 {
		return s, nil
	}
	var err error
	s.Requirements, err = encodePlain(paid)
	return s, err
}

// Supported is a facilitator's list of what it can do.
type Supported struct {
	Kinds      []Kind              `json:"kinds"`
	Extensions []string            `json:"extensions"`
	Signers    map[string][]string `json:"signers"` // addresses by CAIP-2 pattern
}

// Kind is one entry of [Supported].
type Kind struct {
	X402Version int // 0: a version that is not known here
	Dialect     Dialect
	Scheme      string
	Network     string // or a pattern such as eip155:*
	Extra       map[string]json.RawMessage
}

// kind is Kind on the wire.
type kind struct {
	numbers
	Scheme  string                     `json:"scheme"`
	Network string                     `json:"network"`
	Extra   map[string]json.RawMessage `json:"extra,omitempty"`
}

// MarshalJSON writes the entry in its dialect.
func (k Kind) MarshalJSON() ([]byte, error) {
	return encodePlain(kind{k.Dialect.numbers(k.X402Version), k.Scheme, k.Network, k.Extra})
}

// UnmarshalJSON reads an entry of any version: one that is not known must not hide the others of its list.
func (k *Kind) UnmarshalJSON(b []byte) error {
	var w kind
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*k = Kind{Scheme: w.Scheme, Network: w.Network, Extra: w.Extra}
	if version, dialect, err := w.numbers.read(); err == nil {
		k.X402Version, k.Dialect = version, dialect
	}
	return nil
}

// Kinds returns the entries for a scheme on a network (CAIP-2), for every version and dialect that has the scheme: exact in
// both of both, where version 1 has a name for the network; exact-legacy in T402 alone; any other in x402's version 2.
func Kinds(scheme, caip2 string, extra map[string]json.RawMessage) []Kind {
	kinds := []Kind{{X402Version: 2, Scheme: scheme, Network: caip2, Extra: extra}}
	switch scheme {
	case "exact":
		kinds[0].Dialect = Both
		if name := nameV1(caip2); name != caip2 {
			kinds = append(kinds, Kind{X402Version: 1, Dialect: Both, Scheme: scheme, Network: name, Extra: extra})
		}
	case "exact-legacy":
		kinds[0].Dialect = T402
	}
	return kinds
}

// Find returns the first kind for a version, scheme and network (CAIP-2): one of x402's if there is one, else one of
// T402's.
func (s Supported) Find(version int, scheme, caip2 string) (found Kind, ok bool) {
	for _, k := range s.Kinds {
		name, _ := canonicalNetwork(k.Network)
		prefix, pattern := strings.CutSuffix(name, "*")
		if k.X402Version == version && k.Scheme == scheme && (name == caip2 || pattern && strings.HasPrefix(caip2, prefix)) {
			if k.Dialect != T402 {
				return k, true
			}
			if !ok {
				found, ok = k, true
			}
		}
	}
	return found, ok
}

// Dialect returns what to speak to the facilitator whose list this is: T402 if it lists nothing else.
func (s Supported) Dialect() Dialect {
	spoken := X402
	for _, k := range s.Kinds {
		if k.X402Version != 0 && k.Dialect != T402 {
			return X402
		}
		if k.X402Version != 0 {
			spoken = T402
		}
	}
	return spoken
}

// MarshalJSON writes lists and maps that are nil as empty, as the packages' readers expect.
func (s Supported) MarshalJSON() ([]byte, error) {
	type plain Supported
	if s.Kinds == nil {
		s.Kinds = []Kind{}
	}
	if s.Extensions == nil {
		s.Extensions = []string{}
	}
	if s.Signers == nil {
		s.Signers = map[string][]string{}
	}
	return encodePlain(plain(s))
}
