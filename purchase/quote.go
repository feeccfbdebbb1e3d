package purchase

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Quote is an offer for which the seller stands until it expires, through changes of its prices and restarts. Nothing
// of it is stored: the offer carries a token that only the holder of the book's secret can make, and that fits this
// offer on this route and no other.
type Quote struct {
	Route   string   // the seller's own name of the route; not on the wire
	Request evm.Hash // [RequestDigest] if the price is of one request; zero for every request on the route

	Scheme, Network                string
	Asset, Payee                   evm.Address
	Amount                         money.Amount
	Price                          string
	Completion, Refund, Uncaptured string
	Expires                        int64 // unix seconds, inclusive
}

// Errors of [Quote.Check].
var (
	// ErrQuoteForged: the token was not made for this offer on this route, or not by this seller.
	ErrQuoteForged = errors.New("quote does not fit this offer and route")
	// ErrQuoteExpired: the token is right and too late.
	ErrQuoteExpired = errors.New("quote has expired")
)

// Token returns the quote's token: 43 characters of base64url, HMAC-SHA256 over the fields.
func (q Quote) Token(secret [32]byte) string {
	return base64.RawURLEncoding.EncodeToString(q.mac(secret))
}

// Check reports whether token was made by [Quote.Token] for exactly these fields, and the quote still stands.
func (q Quote) Check(secret [32]byte, token string, now time.Time) error {
	got, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || !hmac.Equal(got, q.mac(secret)) {
		return ErrQuoteForged
	}
	if now.Unix() > q.Expires {
		return ErrQuoteExpired
	}
	return nil
}

func (q Quote) mac(secret [32]byte) []byte {
	amount, expires := q.Amount.Word(), bigEndian(q.Expires)
	h := hmac.New(sha256.New, secret[:])
	h.Write(fields(quoteTag,
		[]byte(q.Route), q.Request[:], []byte(q.Scheme), []byte(q.Network), q.Asset[:], q.Payee[:], amount[:],
		[]byte(q.Price), []byte(q.Completion), []byte(q.Refund), []byte(q.Uncaptured), expires[:]))
	return h.Sum(nil)
}
