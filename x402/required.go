package x402

import (
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
}

type requirementsV1 struct {
	Scheme            string                     `json:"scheme"`
	Network           string                     `json:"network"`
	MaxAmountRequired string                     `json:"maxAmountRequired"`
	Asset             string                     `json:"asset"`
	PayTo             string                     `json:"payTo"`
	Resource          string                     `json:"resource"`
	Description       string                     `json:"description"`
	MimeType          string                     `json:"mimeType"`
	MaxTimeoutSeconds int                        `json:"maxTimeoutSeconds"`
	Extra             map[string]json.RawMessage `json:"extra,omitempty"`
}

type bodyV1 struct {
	X402Version  int               `json:"x402Version"`
	Error        string            `json:"error"`
	Accepts      []requirementsV1  `json:"accepts"`
	Code         string            `json:"code,omitempty"`
	Hint         string            `json:"hint,omitempty"`
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
// they do not know, so the list has only what they can parse: exact, on networks that version 1 names.
func (t Terms) Body() ([]byte, error) {
	b := bodyV1{
		X402Version: 1, Error: t.Error, Accepts: []requirementsV1{}, Code: t.Code, Hint: t.Hint, Price: t.Price, WaysToPay: t.WaysToPay,
		Completion: t.Completion, Refund: t.Refund, QuoteExpires: t.QuoteExpires, Try: t.Try, Details: t.Details,
	}
	if t.Alternative != "" {
		b.Alternative = &t.Alternative
	}
	for _, r := range t.Required.Accepts {
		chain, err := network.Lookup(r.Network)
		if r.Scheme != "exact" || err != nil || chain.V1Name == "" {
			continue
		}
		b.Accepts = append(b.Accepts, requirementsV1{
			Scheme: r.Scheme, Network: chain.V1Name, MaxAmountRequired: r.Amount, Asset: r.Asset, PayTo: r.PayTo,
			Resource: t.Required.Resource.URL, Description: t.Required.Resource.Description, MimeType: t.Required.Resource.MimeType,
			MaxTimeoutSeconds: r.MaxTimeoutSeconds, Extra: r.Extra,
		})
	}
	return json.Marshal(b)
}

// WritePaymentRequired answers 402 (or the status of the code, if that is another) with every option in the header and
// body in the form given; nil body writes [Terms.Body] as JSON.
func WritePaymentRequired(w http.ResponseWriter, t Terms, contentType string, body []byte) error {
	header, err := EncodeHeader(t.Required)
	if err != nil {
		return err
	}
	if body == nil {
		contentType = "application/json"
		if body, err = t.Body(); err != nil {
			return err
		}
	}
	w.Header().Set(HeaderRequired, header)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", contentType)
	w.Header().Add("Vary", "Accept")
	w.WriteHeader(http.StatusPaymentRequired)
	_, err = w.Write(body)
	return err
}

// ParsePaymentRequired reads a 402's terms: the header if there is one, else the body, in either version's form. The body
// is read to at most RequiredBodyMax bytes and returned for whoever shows it.
func ParsePaymentRequired(resp *http.Response) (PaymentRequired, []byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, RequiredBodyMax))
	if err != nil {
		return PaymentRequired{}, nil, Errorf("offer_invalid", "402's body: %v", err)
	}
	if text := resp.Header.Get(HeaderRequired); text != "" {
		var p PaymentRequired
		if len(text) > requiredHeaderMax {
			return p, body, Errorf("offer_invalid", "%s header of %d bytes", HeaderRequired, len(text))
		}
		if err := DecodeHeader(text, &p); err != nil {
			return p, body, Errorf("offer_invalid", "%s header: %v", HeaderRequired, err)
		}
		return p, body, p.check()
	}
	p, err := parseBody(body)
	if err != nil {
		return p, body, Errorf("offer_invalid", "402's body: %v", err)
	}
	return p, body, p.check()
}

func (p PaymentRequired) check() error {
	if len(p.Accepts) == 0 {
		return Errorf("offer_invalid", "402 offers no way to pay")
	}
	return nil
}

// parseBody reads by members, not by version number: some servers number a version-2 list 1.
func parseBody(body []byte) (PaymentRequired, error) {
	var raw struct {
		X402Version int               `json:"x402Version"`
		Error       string            `json:"error"`
		Resource    *Resource         `json:"resource"`
		Accepts     []json.RawMessage `json:"accepts"`
	}
	if err := decodeStrict(body, &raw); err != nil {
		return PaymentRequired{}, err
	}
	p := PaymentRequired{X402Version: raw.X402Version, Error: raw.Error}
	if raw.Resource != nil {
		p.Resource = *raw.Resource
	}
	for _, option := range raw.Accepts {
		var r struct {
			Requirements
			MaxAmountRequired string `json:"maxAmountRequired"`
			Resource          string `json:"resource"`
			Description       string `json:"description"`
			MimeType          string `json:"mimeType"`
		}
		if err := json.Unmarshal(option, &r); err != nil {
			return PaymentRequired{}, err
		}
		if r.Amount == "" {
			r.Amount = r.MaxAmountRequired
		}
		if p.Resource.URL == "" {
			p.Resource = Resource{URL: r.Resource, Description: r.Description, MimeType: r.MimeType}
		}
		r.Network = canonicalNetwork(r.Network)
		p.Accepts = append(p.Accepts, r.Requirements)
	}
	return p, nil
}
