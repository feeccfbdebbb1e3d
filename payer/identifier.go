package payer

import (
	"encoding/json"

	"github.com/farthing402/farthing/x402"
)

// identifierKey is the extension by which a seller asks for a name of the purchase.
const identifierKey = "payment-identifier"

// identified puts the purchase's id into the seller's extension. What the seller said stays as it is.
func identified(asked json.RawMessage, id string) (json.RawMessage, error) {
	var entry, info map[string]json.RawMessage
	if err := json.Unmarshal(asked, &entry); err != nil || entry == nil {
		return nil, x402.Errorf("offer_invalid", "extension %s cannot be read", identifierKey)
	}
	if raw, ok := entry["info"]; ok && json.Unmarshal(raw, &info) != nil {
		return nil, x402.Errorf("offer_invalid", "extension %s cannot be read", identifierKey)
	}
	if info == nil {
		info = make(map[string]json.RawMessage)
	}
	var err error
	if info["id"], err = json.Marshal(id); err != nil {
		return nil, err
	}
	if entry["info"], err = json.Marshal(info); err != nil {
		return nil, err
	}
	return json.Marshal(entry)
}
