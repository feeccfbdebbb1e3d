package x402

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
)

// HeaderExtensionResponses is how a facilitator tells a seller what it did with a payment's extensions: base64 JSON of
// [ExtensionStatus] by extension.
const HeaderExtensionResponses = "EXTENSION-RESPONSES"

// ExtensionStatus is a facilitator's word on one extension.
type ExtensionStatus struct {
	Status         string `json:"status"` // "success", "processing" or "rejected"
	RejectedReason string `json:"rejectedReason,omitempty"`
}

// SetExtensionResponses puts the header into a facilitator's answer; nothing for none.
func SetExtensionResponses(h http.Header, by map[string]ExtensionStatus) {
	if len(by) == 0 {
		return
	}
	if text, err := EncodeHeader(by); err == nil { // strings only: cannot fail
		h.Set(HeaderExtensionResponses, text)
	}
}

// ReadExtensionResponses returns what a facilitator said in the header; nil if it said nothing that can be read.
func ReadExtensionResponses(h http.Header) map[string]ExtensionStatus {
	var by map[string]ExtensionStatus
	if text := h.Get(HeaderExtensionResponses); len(text) > requiredHeaderMax || DecodeHeader(text, &by) != nil {
		return nil
	}
	return by
}

// Discovered is one entry of a facilitator's catalog.
type Discovered struct {
	Resource    string                     `json:"resource"`
	Type        string                     `json:"type"` // "http" or "mcp"
	X402Version int                        `json:"x402Version"`
	Accepts     []Requirements             `json:"accepts"`
	LastUpdated string                     `json:"lastUpdated"` // RFC 3339
	Metadata    map[string]json.RawMessage `json:"metadata,omitempty"`
}

// DiscoveryAnswer is the answer to GET /discovery/resources.
type DiscoveryAnswer struct {
	X402Version int          `json:"x402Version"`
	Items       []Discovered `json:"items"`
	Pagination  Pagination   `json:"pagination"`
}

// Pagination says which part of the catalog an answer is.
type Pagination struct {
	Limit  int `json:"limit"`
	Offset int `json:"offset"`
	Total  int `json:"total"`
}

// MarshalJSON writes a list that is nil as empty.
func (d DiscoveryAnswer) MarshalJSON() ([]byte, error) {
	type plain DiscoveryAnswer
	if d.Items == nil {
		d.Items = []Discovered{}
	}
	return encodePlain(plain(d))
}

// DiscoveryQuery is what GET /discovery/resources asks for; empty members ask for all.
type DiscoveryQuery struct {
	Type, PayTo, Scheme string
	Network             string // CAIP-2
	Extension           string // a key that entries must have
	Limit, Offset       int
}

// Bounds of a page of the catalog.
const (
	DiscoveryLimitDefault = 20
	DiscoveryLimitMax     = 100
)

// ParseDiscoveryQuery reads the query of GET /discovery/resources. A limit or offset that is no number of the allowed
// range, and a parameter that is there twice, are malformed_request; parameters that are not known are passed over.
func ParseDiscoveryQuery(q url.Values) (DiscoveryQuery, *Error) {
	d := DiscoveryQuery{
		Type: q.Get("type"), PayTo: q.Get("payTo"), Scheme: q.Get("scheme"), Extension: q.Get("extensions"), Limit: DiscoveryLimitDefault,
	}
	d.Network, _ = canonicalNetwork(q.Get("network"))
	for _, name := range []string{"type", "payTo", "scheme", "network", "extensions", "limit", "offset"} {
		if len(q[name]) > 1 {
			return DiscoveryQuery{}, Errorf("malformed_request", "%s is there %d times", name, len(q[name]))
		}
	}
	for _, p := range []struct {
		name       string
		into       *int
		least, max int
	}{{"limit", &d.Limit, 1, DiscoveryLimitMax}, {"offset", &d.Offset, 0, 1 << 30}} {
		text := q.Get(p.name)
		if text == "" {
			continue
		}
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil || int(n) < p.least || int(n) > p.max {
			return DiscoveryQuery{}, Errorf("malformed_request", "%s is a number from %d to %d", p.name, p.least, p.max)
		}
		*p.into = int(n)
	}
	return d, nil
}

// Wants reports whether an entry is asked for.
func (d DiscoveryQuery) Wants(e Discovered) bool {
	if d.Type != "" && e.Type != d.Type {
		return false
	}
	if d.Extension != "" {
		var have map[string]json.RawMessage
		if raw, ok := e.Metadata["extensions"]; !ok || json.Unmarshal(raw, &have) != nil || have[d.Extension] == nil {
			return false
		}
	}
	if d.PayTo == "" && d.Scheme == "" && d.Network == "" {
		return true
	}
	for _, r := range e.Accepts {
		if (d.PayTo == "" || sameAddress(r.PayTo, d.PayTo)) && (d.Scheme == "" || r.Scheme == d.Scheme) && (d.Network == "" || r.Network == d.Network) {
			return true
		}
	}
	return false
}

// Page returns the part of a catalog that is asked for, in the catalog's order.
func (d DiscoveryQuery) Page(catalog []Discovered) DiscoveryAnswer {
	a := DiscoveryAnswer{X402Version: 2, Pagination: Pagination{Limit: d.Limit, Offset: d.Offset}}
	for _, e := range catalog {
		if !d.Wants(e) {
			continue
		}
		if a.Pagination.Total >= d.Offset && len(a.Items) < d.Limit {
			a.Items = append(a.Items, e)
		}
		a.Pagination.Total++
	}
	return a
}
