package x402

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"

	"github.com/farthing402/farthing/network"
)

// Terms is a 402 before it is written: what both versions' clients need, and what a person reads.
type Terms struct {
	Required PaymentRequired // every way to pay

	// The members below are for people and never contradict Required.
	Code         string // reason code; "" for a request that carried no payment
	Error        string // "Payment required: $0.0005 for GET /quote/ACME. Nothing has been charged."
	Hint         string
	Price        string
	WaysToPay    []string
	Completion   string
	Refund       string
	QuoteExpires string // RFC 3339
	Alternative  string // path of a cheaper route; "" for none
	Try          string // a command that pays
	OutputSchema json.RawMessage
	Details      map[string]string

	// BodyAll lists every way to pay in the body, for 4Mica's clients, which read it too. Clients of version 1 then refuse
	// the whole list if one scheme or network of it is unknown to them.
	BodyAll bool
}

type bodyV1 struct {
	X402Version  int               `json:"x402Version"`
	Error        string            `json:"error"`
	Code         string            `json:"code,omitempty"`
	Hint         string            `json:"hint,omitempty"`
	Accepts      []requirementsV1  `json:"accepts"`
	Price        string            `json:"price"`
	WaysToPay    []string          `json:"waysToPay"`
	Completion   string            `json:"completion"`
	Refund       string            `json:"refund"`
	QuoteExpires string            `json:"quoteExpires,omitempty"`
	Alternative  *string           `json:"alternative"`
	Try          string            `json:"try,omitempty"`
	Details      map[string]string `json:"details,omitempty"`
}

// Body returns the JSON body of the 402. Clients of version 1 reject a whole list for one scheme or network name that
// they do not know, so the list has only what they can parse, where there is such a way to pay: see [Terms.ForV1].
// Otherwise, or with BodyAll, it has all.
func (t Terms) Body() ([]byte, error) {
	b := bodyV1{
		X402Version: 1, Error: t.Error, Code: t.Code, Hint: t.Hint, Accepts: []requirementsV1{}, Price: t.Price, WaysToPay: t.WaysToPay,
		Completion: t.Completion, Refund: t.Refund, QuoteExpires: t.QuoteExpires, Try: t.Try, Details: t.Details,
	}
	if b.WaysToPay == nil {
		b.WaysToPay = []string{}
	}
	if t.Alternative != "" {
		b.Alternative = &t.Alternative
	}
	offered := t.ForV1()
	if len(offered) == 0 || t.BodyAll {
		offered = t.Required.Accepts
	}
	for _, r := range offered {
		if r.Scheme == "exact" {
			b.Accepts = append(b.Accepts, r.v1(t.Required.Resource, t.OutputSchema))
			continue
		}
		r.NetworkSent = r.Network // version-1 names belong to version 1's one scheme; 4Mica's clients compare CAIP-2
		one := r.v1(t.Required.Resource, t.OutputSchema)
		one.Amount = r.Amount
		b.Accepts = append(b.Accepts, one)
	}
	return json.Marshal(b)
}

// ForV1 returns the ways to pay that every client of version 1 can parse: exact by EIP-3009, on a network whose name the
// first packages know, for an amount of at most 18 digits. Whoever is not in it is left out of the body.
func (t Terms) ForV1() []Requirements {
	var out []Requirements
	for _, r := range t.Required.Accepts {
		chain, err := network.Lookup(r.Network)
		method := r.ExtraString("assetTransferMethod")
		if err == nil && chain.V1First && r.Scheme == "exact" && (method == "" || method == "eip3009") && len(r.Amount) <= 18 {
			out = append(out, r)
		}
	}
	return out
}

// WritePaymentRequired answers 402, or the status of the code if it has another, with every option in the header and the
// body in the form given; a nil body writes [Terms.Body] as JSON. The header is numbered in both dialects unless
// Required.Dialect is T402, and so serves clients of either: they all read it before the body, which is left to those of
// x402's version 1. An error before the first byte leaves w unwritten.
func WritePaymentRequired(w http.ResponseWriter, t Terms, contentType string, body []byte) error {
	if t.Required.X402Version == 0 {
		t.Required.X402Version = 2
	}
	if t.Required.Dialect == X402 {
		t.Required.Dialect = Both
	}
	if t.Required.Error == "" {
		t.Required.Error = t.Error
	}
	// In UTF-8, not escaped as the headers that clients of version 1 read: @t402/core takes each byte for a character and
	// echoes them so, which brings back these bytes, but of a character that it read from an escape makes another byte,
	// or throws.
	required, err := encodePlain(t.Required)
	if err != nil {
		return err
	}
	if body == nil {
		contentType = "application/json"
		if body, err = t.Body(); err != nil {
			return err
		}
	}
	status := http.StatusPaymentRequired
	if reason, ok := Lookup(t.Code); ok {
		status = reason.Status
	}
	h := w.Header()
	h.Set(HeaderRequired, base64.StdEncoding.EncodeToString(required))
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Add("Vary", "Accept")
	w.WriteHeader(status)
	_, err = w.Write(body)
	return err
}

// ParsePaymentRequired reads a 402's terms: the header if there is one, else the body, in either version's form. The body
// is read to at most RequiredBodyMax bytes and returned for whoever shows it; closing it stays with the caller. Errors
// have the code offer_invalid. The terms are the seller's words: nothing in them is checked against the request.
func ParsePaymentRequired(resp *http.Response) (PaymentRequired, []byte, error) {
	var body []byte
	if resp.Body != nil {
		var err error
		if body, err = io.ReadAll(io.LimitReader(resp.Body, RequiredBodyMax+1)); err != nil {
			return PaymentRequired{}, nil, Errorf("offer_invalid", "402's body: %w", err)
		}
	}
	p, err := parseTerms(resp.Header.Values(HeaderRequired), body)
	return p, body, err
}

func parseTerms(headers []string, body []byte) (p PaymentRequired, err error) {
	switch {
	case len(headers) > 1:
		return p, Errorf("offer_invalid", "%d %s headers", len(headers), HeaderRequired)
	case len(headers) == 1 && len(headers[0]) > requiredHeaderMax:
		return p, Errorf("offer_invalid", "%s header of %d bytes, at most %d are read", HeaderRequired, len(headers[0]), requiredHeaderMax)
	case len(headers) == 1:
		if err := DecodeHeader(headers[0], &p); err != nil {
			return p, Errorf("offer_invalid", "%s %w", HeaderRequired, err)
		}
	case len(body) > RequiredBodyMax:
		return p, Errorf("offer_invalid", "402's body is larger than %d bytes", RequiredBodyMax)
	default:
		if err := Decode(body, &p); err != nil {
			return p, Errorf("offer_invalid", "402's body: %w", err)
		}
	}
	if len(p.Accepts) == 0 {
		return p, Errorf("offer_invalid", "402 offers no way to pay")
	}
	return p, nil
}

// UnmarshalJSON reads either version's form by its members, not by its number, which has to be there and known all the
// same: some servers number a version-2 list 1. An option that cannot be read is left out, so that one new scheme does not hide the others.
func (p *PaymentRequired) UnmarshalJSON(b []byte) error {
	var w struct {
		numbers
		Error      string                     `json:"error"`
		Resource   *Resource                  `json:"resource"`
		Accepts    []json.RawMessage          `json:"accepts"`
		Extensions map[string]json.RawMessage `json:"extensions"`
	}
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	version, dialect, err := w.numbers.read()
	if err != nil {
		return err
	}
	q := PaymentRequired{X402Version: version, Dialect: dialect, Error: w.Error, Extensions: w.Extensions}
	if w.Resource != nil {
		q.Resource = *w.Resource
	}
	for _, option := range w.Accepts {
		var r Requirements
		if json.Unmarshal(option, &r) != nil || r.Scheme == "" || r.Network == "" || !isAmount(r.Amount) {
			continue
		}
		q.Accepts = append(q.Accepts, r)
		var old struct {
			Resource    string `json:"resource"`
			Description string `json:"description"`
			MimeType    string `json:"mimeType"`
		}
		if q.Resource.URL == "" && json.Unmarshal(option, &old) == nil {
			q.Resource = Resource{URL: old.Resource, Description: old.Description, MimeType: old.MimeType}
		}
	}
	*p = q
	return nil
}
