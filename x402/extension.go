package x402

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
)

// Keys of the extensions that this package knows.
const (
	PaymentIDKey     = "payment-identifier"
	OfferReceiptKey  = "offer-receipt"
	SignInKey        = "sign-in-with-x"
	BazaarKey        = "bazaar"
	EIP2612Key       = "eip2612GasSponsoring"
	ERC20ApprovalKey = "erc20ApprovalGasSponsoring"
)

// Extension is the form of an entry in terms, payments and receipts. Clients send an entry back whole and may add to Info.
type Extension struct {
	Info   json.RawMessage `json:"info"`
	Schema json.RawMessage `json:"schema,omitempty"`
}

// declare makes an entry of what encodes without fail. Schemas are kept short: they travel in a header that has little
// room, and clients fill in what an extension's text says whether or not its schema repeats it.
func declare(info any, schema string) json.RawMessage {
	raw, err := encodePlain(info)
	if err != nil {
		return nil // values made here: cannot be
	}
	entry, _ := encodePlain(Extension{raw, json.RawMessage(schema)})
	return entry
}

// readExtension reads an entry's info strictly into v; false if there is no entry, or one without an info.
func readExtension(extensions map[string]json.RawMessage, key string, v any) (there bool, err error) {
	raw, ok := extensions[key]
	if !ok || isNull(raw) {
		return false, nil
	}
	var e Extension
	if err := Decode(raw, &e); err != nil {
		return true, err
	}
	if isNull(e.Info) {
		return false, nil
	}
	return true, Decode(e.Info, v)
}

// madeAnew are the members of info that differ in each 402, so that those of another one may come back.
var madeAnew = map[string][]string{
	OfferReceiptKey: {"offers"},
	SignInKey:       {"nonce", "issuedAt", "expirationTime"},
}

// CheckEcho compares the extensions that a payment sends back with those of the terms. An entry that is there must hold
// everything that its terms had in info: members may be added, not changed and not taken away. Entries may be left out,
// and be the client's own. What differs is extension_echo_mismatch.
func CheckEcho(advertised, echoed map[string]json.RawMessage) *Error {
	for _, key := range slices.Sorted(maps.Keys(echoed)) {
		offered, ok := advertised[key]
		if !ok {
			continue
		}
		want, okWant := infoOf(offered)
		got, okGot := infoOf(echoed[key])
		if okWant {
			for _, name := range madeAnew[key] {
				delete(want, name)
			}
		}
		if okWant && (!okGot || !holds(got, want)) {
			return Errorf("extension_echo_mismatch", "extension %s came back changed", key)
		}
	}
	return nil
}

// infoOf returns an entry's info as values, and false if it has none.
func infoOf(raw json.RawMessage) (map[string]any, bool) {
	var e struct {
		Info map[string]any `json:"info"`
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	return e.Info, dec.Decode(&e) == nil && e.Info != nil
}

// holds reports whether a value has everything that another has: objects member by member, anything else whole.
func holds(got, want any) bool {
	w, ok := want.(map[string]any)
	if !ok {
		return equal(got, want)
	}
	g, ok := got.(map[string]any)
	if !ok {
		return false
	}
	for name, value := range w {
		if other, ok := g[name]; !ok || !holds(other, value) {
			return false
		}
	}
	return true
}

// equal compares values of JSON. Numbers are equal if a client in JavaScript could have written one for the other.
func equal(a, b any) bool {
	switch x := a.(type) {
	case json.Number:
		y, ok := b.(json.Number)
		return ok && (x == y || float(x) == float(y))
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, equal)
	case map[string]any:
		y, ok := b.(map[string]any)
		return ok && maps.EqualFunc(x, y, equal)
	}
	return a == b // string, bool or nil
}

// float returns a number as JavaScript has it; one that is out of range is infinite.
func float(n json.Number) float64 {
	f, _ := strconv.ParseFloat(string(n), 64)
	return f
}
