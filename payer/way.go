package payer

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/x402"
)

// way is a way to pay: how an offer of its kind is read, how it is signed, and what a receipt proves about it. What is
// common to all ways (network, asset, amount, payee, budget, journal, the wire) is not its concern.
type way interface {
	// name is what people call it.
	name() string
	// read completes an option whose common members were read, or says why the offer cannot be paid.
	read(l *look, o *option) (why string)
	// sign makes the payload for the terms whose hash is r.Terms, with the 402's extensions as they go back, and writes into
	// r what has to be known of it later.
	sign(ctx context.Context, p *Payer, o option, r *row) (payload any, extensions map[string]json.RawMessage, err error)
	// prove reports whether a receipt proves that no more can be charged than r.Charged, which is less than r.Amount.
	prove(r row, receipt x402.SettleResponse) bool
}

// wayOf returns the way to pay of a scheme.
func wayOf(scheme string) (way, bool) {
	switch scheme {
	case guarantee.Scheme, guarantee.ShortScheme:
		return byGuarantee{}, true
	case exact.Scheme, exact.UptoScheme:
		return byTransfer{scheme}, true
	}
	return nil, false
}

// way returns how the row was paid.
func (r row) way() (way, bool) {
	if r.Draw != "" && r.Amount.IsZero() {
		return byDraw{}, true
	}
	return wayOf(r.scheme())
}

// wayName is what people call it.
func (r row) wayName() string {
	switch w, ok := r.way(); {
	case r.Seller == "":
		return "transfer"
	case ok:
		return w.name()
	}
	return clip(r.Scheme)
}

// look is what the offers of one 402 are judged with.
type look struct {
	*Payer
	ctx       context.Context
	req       *http.Request
	elsewhere int             // offers on a network, or in a token, where the policy does not pay
	tried     map[string]bool // ways that the seller refused for this request; see [option.key]

	waits        int         // for another process that buys a bundle
	allowed      bool        // the owner let this seller be paid
	trustedPayee evm.Address // the owner let this payee be paid

	asked   bool // whether the clearing house was
	trusted []guarantee.Deployment
	err     error // of the clearing house
}

// houses returns the deployments for which may be signed. The clearing house is asked once, and only if an offer needs it.
func (l *look) houses() ([]guarantee.Deployment, error) {
	if !l.asked {
		l.asked = true
		l.trusted, l.err = l.Payer.houses(l.ctx)
	}
	return l.trusted, l.err
}
