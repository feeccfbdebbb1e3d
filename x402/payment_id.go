package x402

import (
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/farthing402/farthing/evm"
)

// paymentID is the info of payment-identifier. Terms say whether an id is required, the client adds it.
type paymentID struct {
	Required *bool   `json:"required,omitempty"`
	ID       *string `json:"id,omitempty"`
}

// DeclarePaymentID returns the entry by which terms ask for an id of the client's choice: the same id with the same payment
// gets the same answer, with another payment it is a conflict (payment_id_conflict).
func DeclarePaymentID(required bool) json.RawMessage {
	return declare(paymentID{Required: &required},
		`{"type":"object","properties":{"required":{"type":"boolean"},`+
			`"id":{"type":"string","minLength":16,"maxLength":128,"pattern":"^[a-zA-Z0-9_-]+$"}},"required":["required"]}`)
}

// NewPaymentID makes an id of 16 random bytes.
func NewPaymentID(random [16]byte) string { return "pay_" + hex.EncodeToString(random[:]) }

// ValidPaymentID reports whether s is an id: 16 to 128 of a-z, A-Z, 0-9, _ and -.
func ValidPaymentID(s string) bool {
	return len(s) >= 16 && len(s) <= 128 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}

// PaymentID returns the id that a payment carries, "" for none. The error is payment_id_invalid: for an id that is none,
// and for none where one is required.
func (p Payment) PaymentID(required bool) (string, *Error) {
	var info paymentID
	switch there, err := readExtension(p.Extensions, PaymentIDKey, &info); {
	case err != nil:
		return "", Errorf("payment_id_invalid", "extension %s: %w", PaymentIDKey, err)
	case there && info.ID != nil && !ValidPaymentID(*info.ID):
		return "", Errorf("payment_id_invalid", "the payment's id is not 16 to 128 letters, digits, _ and -")
	case there && info.ID != nil:
		return *info.ID, nil
	case required:
		return "", Errorf("payment_id_invalid", "the payment has no id, and this seller asks for one")
	}
	return "", nil
}

// WithPaymentID returns the payment with an id in it, and false if its terms did not ask for one.
func (p Payment) WithPaymentID(id string) (Payment, bool) {
	var e Extension
	var info map[string]json.RawMessage
	if raw, ok := p.Extensions[PaymentIDKey]; !ok || p.Version != 2 || !ValidPaymentID(id) || Decode(raw, &e) != nil || Decode(e.Info, &info) != nil || info == nil {
		return p, false
	}
	info["id"] = json.RawMessage(`"` + id + `"`)
	var err error
	if e.Info, err = encodePlain(info); err != nil {
		return p, false
	}
	entry, err := encodePlain(e)
	if err != nil {
		return p, false
	}
	extensions := make(map[string]json.RawMessage, len(p.Extensions))
	for key, raw := range p.Extensions {
		extensions[key] = raw
	}
	extensions[PaymentIDKey] = entry
	p.Extensions, p.Raw = extensions, ""
	return p, true
}

// Fingerprint names the payment's payload by value: two payments have the same one if they carry the same signed object,
// in whatever spelling, dialect or order of members. It is what "the same payment" means for an id.
func (p Payment) Fingerprint() evm.Hash {
	payload, ok := canonical(p.Payload)
	if !ok {
		payload = p.Payload
	}
	return evm.Keccak256([]byte(p.Scheme), []byte{0}, []byte(p.Network), []byte{0}, payload)
}
