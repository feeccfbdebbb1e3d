package paywall

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// tender is something that is taken in payment: a way to pay, in a token, on a chain.
type tender struct {
	way   way
	chain network.Chain
	token network.Token
}

// way is one way to pay, as a paywall deals with it. A purchase that was paid so comes back to its way by its scheme.
type way interface {
	name() string   // for people: guarantee
	scheme() string // on the wire
	// ready reports whether payments could be taken now.
	ready(ctx context.Context) error
	// lowers reports whether less than what was signed can be charged.
	lowers() bool
	// lasts is for how long a payment for a route is good once it is signed.
	lasts(rt *route) time.Duration
	// describe adds to an offer what the way's clients need. It reports false if the offer cannot be made now.
	describe(v *visit, o offer, extra map[string]any) bool
	// read reads what was signed, for one of some tenders of this way.
	read(v *visit, p *x402.Payment, among []tender) (payment, *x402.Error)
	// end ends a purchase whose work is done as p says: Committed and what is charged, Void, or Working. It writes that
	// down, after moving money where that has to come first, and returns the purchase as it stands then. With a refusal the
	// answer must not leave.
	end(ctx context.Context, p purchase.Purchase) (purchase.Purchase, *x402.Error)
	// recover does what is left to do for an unfinished purchase that nobody serves, and returns it as it stands then.
	recover(ctx context.Context, p purchase.Purchase) (purchase.Purchase, error)
	// proof returns what the receipt of a purchase shows as proof of payment, of what stands in the book; nil if nothing.
	proof(p purchase.Purchase) json.RawMessage
}

// payment is what a buyer signed.
type payment interface {
	facts() facts
	// fits reports what of the payment is not as agreed, apart from its times.
	fits(a *agreement) *x402.Error
	// late reports that it was signed for another time than now.
	late(a *agreement, now time.Time) *x402.Error
	// verify checks the payer's signature. Without an agreement, only as far as that takes nobody else's word.
	verify(v *visit, a *agreement) *x402.Error
	// reserve makes the payment a purchase's, durably; see [purchase.Book].
	reserve(ctx context.Context, a *agreement, p purchase.Purchase) (purchase.Purchase, error)
	// secure makes sure that the purchase is paid if it is charged, and then has the book let its work begin. It returns
	// the purchase as Running.
	secure(v *visit, a *agreement, p purchase.Purchase) (purchase.Purchase, *x402.Error)
}

// facts are what every payment says.
type facts struct {
	id                  evm.Hash // names it by value
	payer, payee, asset evm.Address
	amount              money.Amount
	terms               evm.Hash // what our payers put the hash of their terms in
}

// readAccept makes the tenders that hold for every route, and says what is missing for them.
func (pw *Paywall) readAccept() error {
	accept := pw.cfg.Accept
	if len(accept) == 0 {
		if pw.house != nil {
			accept = append(accept, wayGuarantee)
		}
		if len(pw.transfer.asked) > 0 {
			accept = append(accept, exact.Scheme)
		}
	}
	if len(accept) == 0 {
		return x402.Errorf("config_invalid", "clearing_house: none is named, and no facilitator").
			WithHint("the URL of a clearing house, such as https://clear.example.org, or of a facilitator")
	}
	var err error
	pw.tenders, err = pw.accepted(accept)
	return err
}

// Entry is one entry of [Config.Accept]: a way to pay, and where and in what if that is not the seller's own.
type Entry struct{ Way, Network, Asset string }

// ParseEntry reads WAY, with "on NETWORK" and "in ASSET" where they are said. Names are not looked up.
func ParseEntry(text string) (e Entry, err error) {
	words := strings.Fields(text)
	wrong := x402.Errorf("config_invalid", "accept: %q is no way to pay", clip(text)).
		WithHint("such as guarantee, exact, upto, or exact on arbitrum in USDC")
	if len(words) == 0 || len(words)%2 == 0 {
		return e, wrong
	}
	e.Way = words[0]
	for i := 1; i < len(words); i += 2 {
		switch {
		case words[i] == "on" && e.Network == "":
			e.Network = words[i+1]
		case words[i] == "in" && e.Asset == "":
			e.Asset = words[i+1]
		default:
			return e, wrong
		}
	}
	return e, nil
}

// accepted reads entries of Accept: WAY, with "on NETWORK" and "in ASSET" where they are not the paywall's own.
func (pw *Paywall) accepted(entries []string) (list []tender, err error) {
	for _, entry := range entries {
		e, err := ParseEntry(entry)
		if err != nil {
			return nil, err
		}
		w, err := pw.wayCalled(e.Way)
		if err != nil {
			return nil, err
		}
		on, assets := pw.chain, pw.assets
		if e.Network != "" {
			if on, err = pw.registry.Lookup(e.Network); err != nil {
				return nil, asError(err, "network_unknown")
			}
		}
		switch {
		case e.Asset != "":
			token, err := on.Token(e.Asset)
			if err != nil {
				return nil, asError(err, "asset_unknown")
			}
			assets = []network.Token{token}
		case on.ID != pw.chain.ID:
			token, err := firstDollar(on)
			if err != nil {
				return nil, err
			}
			assets = []network.Token{token}
		}
		for _, token := range assets {
			t := tender{w, on, token}
			if err := t.check(); err != nil {
				return nil, err
			}
			if !slices.ContainsFunc(list, func(other tender) bool {
				return other.way == t.way && other.chain.ID == on.ID && other.token.Address == token.Address
			}) {
				list = append(list, t)
			}
		}
	}
	return list, nil
}

// check refuses what could never be paid.
func (t tender) check() error {
	_, transfer := t.way.(*transfer)
	if transfer && t.token.Address.IsZero() {
		return x402.Errorf("asset_unknown", "%s is the native coin of %s, and cannot be paid by %s", t.token.Symbol, t.chain, t.way.name())
	}
	return nil
}

func (pw *Paywall) wayCalled(name string) (way, error) {
	switch name {
	case wayGuarantee, guarantee.Scheme:
		if pw.house == nil {
			return nil, x402.Errorf("config_invalid", "clearing_house: none is named, and guarantees are accepted").
				WithHint("its URL, such as https://clear.example.org")
		}
		return guarantees{pw}, nil
	case exact.Scheme, exact.UptoScheme, exact.LegacyScheme:
		if len(pw.transfer.asked) == 0 {
			return nil, x402.Errorf("config_invalid", "facilitator: none is named, and %s is accepted", name).
				WithHint("its URL; farthing facilitator runs one")
		}
		return pw.transfer.way(name), nil
	}
	return nil, x402.Errorf("config_invalid", "accept: no way to pay is called %q", clip(name)).WithHint("guarantee, exact, upto or exact-legacy")
}

// wayOf returns the way by which a purchase was paid, and false if this paywall does not know it any more.
func (pw *Paywall) wayOf(p purchase.Purchase) (way, bool) {
	switch p.Way {
	case guarantee.Scheme:
		return guarantees{pw}, pw.house != nil
	case exact.Scheme, exact.UptoScheme, exact.LegacyScheme:
		return pw.transfer.way(p.Way), true
	}
	return nil, false
}

// taken returns what a route takes.
func (rt *route) taken() []tender {
	if rt.tenders != nil {
		return rt.tenders
	}
	return rt.pw.tenders
}

// Accept says what a route takes in payment, where that is not what the paywall does; see [Config.Accept].
func Accept(entries ...string) Option {
	return func(rt *route) {
		list, err := rt.pw.accepted(entries)
		if err != nil && rt.fault == nil {
			rt.fault = err
		}
		rt.tenders = list
	}
}

// status is the HTTP status of a code.
func status(e *x402.Error) int { return e.Reason().Status }

// refusedBy reports whether an error is a refusal of the payment, and not a fault of whoever was asked.
func refusedBy(e *x402.Error) bool {
	switch status(e) {
	case http.StatusPaymentRequired, http.StatusConflict, http.StatusPreconditionFailed:
		return true
	}
	return false
}
