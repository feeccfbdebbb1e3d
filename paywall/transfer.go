package paywall

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

const (
	// transferLasts is how long a signed transfer is good unless a route's jobs take longer: the published servers' own
	// default. The work and a slow chain have to fit into it.
	transferLasts = 300 * time.Second
	// supportedKept is how long a facilitator's list of what it can do is believed.
	supportedKept = 5 * time.Minute
	// supportedRetry is how long a facilitator that did not say what it can do is left alone by requests.
	supportedRetry = 5 * time.Second
	// supportedWait is how long that list is waited for.
	supportedWait = 3 * time.Second
)

// transfers are the ways to pay in which a token moves on a chain: a facilitator verifies the payer's signature and brings
// it there. A purchase keeps what the facilitator is to be asked, so that it can be asked again.
type transfers struct {
	pw    *Paywall
	asked []x402.Facilitator

	once  sync.Once
	ways  map[string]*transfer
	lists []*abilities
}

// transfer is one scheme of them.
type transfer struct {
	*transfers
	called string // its scheme, which is what people call it too
}

// way returns the one way of a scheme; ways are compared.
func (ts *transfers) way(scheme string) *transfer {
	ts.once.Do(func() {
		ts.ways = make(map[string]*transfer)
		for _, s := range []string{exact.Scheme, exact.UptoScheme, exact.LegacyScheme} {
			ts.ways[s] = &transfer{ts, s}
		}
		for _, f := range ts.asked {
			ts.lists = append(ts.lists, &abilities{Facilitator: f})
		}
	})
	return ts.ways[scheme]
}

func (w *transfer) name() string   { return w.called }
func (w *transfer) scheme() string { return w.called }
func (w *transfer) lowers() bool   { return w.called == exact.UptoScheme }
func (w *transfer) lasts(rt *route) time.Duration {
	lasts := max(transferLasts, w.pw.cfg.QuoteLifetime) + rt.settleWithin
	if rt.job > DefaultJob {
		lasts += rt.job
	}
	return lasts
}

func (w *transfer) ready(ctx context.Context) error {
	var errs []error
	for _, t := range w.pw.tenders {
		if t.way == w {
			_, _, err := w.facilitator(ctx, t.chain.CAIP2())
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// describe says how the token moves. What only a facilitator can say is asked for, and without it there is no offer.
func (w *transfer) describe(v *visit, o offer, extra map[string]any) bool {
	if o.token.Name != "" {
		extra["name"], extra["version"] = o.token.Name, o.token.Version
	}
	if w.byPermit2(o.token) {
		extra["assetTransferMethod"] = string(exact.Permit2)
	}
	_, kind, err := w.facilitator(v.r.Context(), o.chain.CAIP2())
	if w.called == exact.Scheme {
		// Who settles may be away for a while: the offer stands, and paying is refused until it is back.
		return err == nil || status(asCoded(err)) >= 500 && asCoded(err).Code == "facilitator_unreachable"
	}
	if err != nil {
		w.pw.log.Warn("cannot offer a way to pay", "way", w.called, "network", o.chain.CAIP2(), "error", err)
		return false
	}
	for _, name := range settlersWords[w.called] {
		word, known := kind.Extra[name]
		if !known {
			w.pw.log.Warn("facilitator does not say what an offer needs", "way", w.called, "network", o.chain.CAIP2(), "member", name)
			return false
		}
		extra[name] = word
	}
	return true
}

// settlersWords are the members of extra that only a facilitator can say: which of its accounts settles.
var settlersWords = map[string][]string{exact.UptoScheme: {"facilitatorAddress"}, exact.LegacyScheme: {"spender", "tokenType"}}

// byPermit2 reports whether the token moves through Permit2.
func (w *transfer) byPermit2(t network.Token) bool {
	return w.called == exact.UptoScheme || w.called == exact.Scheme && !t.EIP3009
}

// terms are what an authorization in a tender is read against.
func (w *transfer) terms(in tender, q purchase.Quote, lasts time.Duration) x402.Requirements {
	r := x402.Requirements{
		Scheme: w.called, Network: in.chain.CAIP2(), Asset: in.token.Address.String(), PayTo: w.pw.payee.String(),
		Amount: q.Amount.String(), MaxTimeoutSeconds: int(lasts / time.Second), Extra: make(map[string]json.RawMessage),
	}
	set := func(name, value string) {
		if value != "" {
			r.Extra[name], _ = json.Marshal(value) // text: cannot fail
		}
	}
	set("name", in.token.Name)
	set("version", in.token.Version)
	if w.byPermit2(in.token) {
		set("assetTransferMethod", string(exact.Permit2))
	}
	return r
}

// read reads an authorization, or a request that draws from a bundle. Version 1 does not name the token: it is the one
// under whose domain the signature is the payer's.
func (w *transfer) read(v *visit, p *x402.Payment, among []tender) (payment, *x402.Error) {
	if purchase.IsDraw(p.Payload) {
		return w.readDraw(v, p, among)
	}
	if p.Accepted != nil {
		asset, err := evm.ParseAddress(p.Accepted.Asset)
		if err != nil {
			return nil, x402.Errorf("payment_undecodable", "accepted asset: %w", err)
		}
		for _, in := range among {
			if in.token.Address == asset {
				return w.readIn(v, p, in)
			}
		}
		return nil, x402.Errorf("payment_mismatch", "signed in asset %s, which this route does not take", asset)
	}
	if settlersWords[w.called] != nil {
		return nil, x402.Errorf("payment_undecodable", "%s is of version 2: the payment names no offer", w.called)
	}
	var first payment
	var refused *x402.Error
	for _, in := range among {
		paid, e := w.readIn(v, p, in)
		if e != nil {
			refused = e
			continue
		}
		if paid.verify(v, nil) == nil {
			return paid, nil
		}
		if first == nil {
			first = paid
		}
	}
	if first != nil {
		return first, nil
	}
	return nil, refused
}

func (w *transfer) readIn(v *visit, p *x402.Payment, in tender) (payment, *x402.Error) {
	against := w.terms(in, purchase.Quote{}, w.lasts(v.route))
	if p.Accepted != nil {
		for _, name := range settlersWords[w.called] {
			against.Extra[name] = p.Accepted.Extra[name]
		}
	}
	a, err := exact.Read(*p, against)
	if err != nil {
		return nil, internal(err)
	}
	s := authorized{w, a, *p, 0}
	if v.job > DefaultJob {
		s.needs = v.job
	}
	return s, nil
}
