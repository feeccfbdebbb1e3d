package purchase

import (
	"encoding/binary"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Terms are what a payer accepts for one purchase. Their hash is what our payers sign as a guarantee's request id, so
// the signature covers every one of them; the seller computes them again from its own quote and the request it got.
type Terms struct {
	Purchase        string // id, see [NewID]
	Quote           string // the quote's token, as it stood in the offer
	Price           string // what a person reads, "$0.00001 per token"
	Scheme, Network string // as the offer spells them
	Asset, Payee    evm.Address
	Amount          money.Amount // to be signed: the most that the purchase can cost
	Method          string
	Resource        string   // absolute URL, as the 402 announces it
	Body            evm.Hash // [BodyDigest] of the request's body
	// Rules, in the words of the offer: when a charge is earned, what comes back on failure, what becomes of the part
	// of Amount that is not charged.
	Completion, Refund, Uncaptured string
	Expires                        int64 // of the quote, unix seconds
}

const (
	termsTag   = "FARTHING_TERMS_V1"
	requestTag = "FARTHING_REQUEST_V1"
	quoteTag   = "FARTHING_QUOTE_V1"
)

// Bytes returns the canonical encoding: a tag, then each field in the order of the struct, preceded by its length in
// eight big-endian bytes. Text is its UTF-8 bytes, an address its 20, a digest its 32, the amount 32 big-endian bytes,
// the expiry 8. Two different terms never have the same bytes.
func (t Terms) Bytes() []byte {
	amount, expires := t.Amount.Word(), bigEndian(t.Expires)
	return fields(termsTag,
		[]byte(t.Purchase), []byte(t.Quote), []byte(t.Price), []byte(t.Scheme), []byte(t.Network),
		t.Asset[:], t.Payee[:], amount[:], []byte(t.Method), []byte(t.Resource), t.Body[:],
		[]byte(t.Completion), []byte(t.Refund), []byte(t.Uncaptured), expires[:])
}

// Hash returns keccak256 of the bytes: the request id of the guarantee that pays for the purchase.
func (t Terms) Hash() evm.Hash { return evm.Keccak256(t.Bytes()) }

// BodyDigest is keccak256 of a request's body; no body and an empty one are the same.
func BodyDigest(body []byte) evm.Hash { return evm.Keccak256(body) }

// RequestDigest names a request: method, absolute URL as in [Terms.Resource], digest of the body. A payment may be shown
// again for the request that it bought and for no other.
func RequestDigest(method, resource string, body evm.Hash) evm.Hash {
	return evm.Keccak256(fields(requestTag, []byte(method), []byte(resource), body[:]))
}

// ExtensionKey is the member of a payload's extensions under which [Extension] stands.
const ExtensionKey = "farthing"

// Extension is what a payload says beside the payment. All other terms follow from the offer and the request.
type Extension struct {
	Purchase string `json:"purchase"` // id, see [NewID]
}

func fields(tag string, values ...[]byte) []byte {
	b := []byte(tag)
	for _, v := range values {
		b = binary.BigEndian.AppendUint64(b, uint64(len(v)))
		b = append(b, v...)
	}
	return b
}

func bigEndian(seconds int64) (b [8]byte) {
	binary.BigEndian.PutUint64(b[:], uint64(seconds))
	return b
}
