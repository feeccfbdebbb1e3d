package paywall

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// visit is one request to a priced route.
type visit struct {
	*route
	w        http.ResponseWriter
	r        *http.Request // without payment headers
	began    time.Time
	resource string   // absolute URL, as announced
	body     []byte   // read if the price depends on it, or a payment came with it
	digest   evm.Hash // of the request; set once the body is read
	event    Event

	dialect  x402.Dialect       // of the payment
	accepted *x402.Requirements // that the payment echoes; nil without
}

// offer is a price for one visit in one tender.
type offer struct {
	tender
	tariff tariff
	counted
	quote purchase.Quote
}

// name is what quotes, bundles and sign-ins know the route by: the pattern under which a mux found it, with what was taken
// off the path before that mux, since another mux may have the same pattern.
func (v *visit) name() string {
	if v.r.Pattern == "" {
		return v.r.Method + " " + v.r.URL.Path
	}
	if asked, err := url.ParseRequestURI(v.r.RequestURI); err == nil {
		if before, ok := strings.CutSuffix(asked.Path, v.r.URL.Path); ok && before != "" {
			return v.r.Pattern + " under " + before
		}
	}
	return v.r.Pattern
}

// named refuses a route whose name another one at another price has taken: what is bought of the cheaper one of two that
// are both there would buy the dearer. Routers other than http.ServeMux may serve many under one pattern.
func (v *visit) named() *x402.Error {
	if v.r.Pattern == "" || v.ofRequest() || !v.mounted {
		return nil
	}
	name := v.name()
	v.pw.mu.Lock()
	defer v.pw.mu.Unlock()
	if v.replaced {
		return x402.Errorf("price_invalid", "two routes with different prices are called %q", name).
			WithHint("register each with http.ServeMux under a pattern of its own")
	}
	if before, known := v.pw.names[name]; known && before != v.route {
		before.replaced = !before.tariff.same(v.tariff)
	}
	v.pw.names[name] = v.route
	return nil
}

// offers prices the visit in every tender that can pay it. The body must have been read if the price depends on it.
func (v *visit) offers() ([]offer, error) {
	t := v.tariff
	if v.priceFunc != nil {
		text, err := v.priceFunc(v.requestForPrice())
		if err != nil {
			if _, ok := x402.AsError(err); !ok {
				err = &x402.Error{Code: "price_invalid", Message: "the price of this request could not be made", Err: err}
			}
			return nil, err
		}
		if t.price, err = money.ParsePrice(text); err != nil {
			return nil, asError(err, "price_invalid")
		}
	}
	if t.price.Free() {
		return nil, nil
	}
	switch {
	case measuredLater(t.price) && t.upTo == nil:
		return nil, x402.Errorf("price_invalid", "%s: measured after the work, and up_to does not say what the buyer signs", t.price)
	case measuredLater(t.price) && v.completion == purchase.BeforeWork:
		return nil, x402.Errorf("price_invalid", "%s: measured after the work, and charged before it", t.price)
	}
	var list []offer
	var unfit error
	for _, tender := range v.taken() {
		o, err := v.offer(t, tender)
		if errors.Is(err, errUnfit) {
			unfit = err
			continue
		}
		if err != nil {
			return nil, asError(err, "price_invalid")
		}
		list = append(list, o)
	}
	if len(list) == 0 {
		return nil, asError(unfit, "price_invalid")
	}
	return list, nil
}

// errUnfit is why one way to pay is not offered at a price, while others are.
var errUnfit = errors.New("cannot be paid so")

// offer prices the visit in one tender.
func (v *visit) offer(t tariff, in tender) (o offer, err error) {
	if t, err = t.by(in.way); err != nil {
		return o, err
	}
	o = offer{tender: in, tariff: t}
	if o.counted, err = t.in(in.token); err != nil {
		return o, err
	}
	rules := v.rules(in.way)
	if g, promised := in.way.(guarantees); promised {
		rules.refund = g.until(rules.refund, in.token.Address, v.began)
		if g.late() {
			rules.uncaptured += lateRule
		}
	}
	o.quote = purchase.Quote{
		Route: v.name(), Scheme: in.way.scheme(), Network: in.chain.CAIP2(), Asset: in.token.Address, Payee: v.pw.payee,
		Amount: v.toSign(o), Price: t.text(),
		Completion: string(rules.completion), Refund: rules.refund, Uncaptured: rules.uncaptured,
		Expires: v.began.Add(v.pw.cfg.QuoteLifetime).Unix(),
	}
	if v.ofRequest() {
		o.quote.Request = v.digest
	}
	return o, nil
}

// toSign is what the buyer has to promise for an offer.
func (v *visit) toSign(o offer) money.Amount {
	switch unit := o.tariff.price.Unit; {
	case o.tariff.bundle != nil:
		return o.rate.Charge(o.tariff.bundle.units, o.minimum, money.MaxAmount())
	case measuredLater(o.tariff.price):
		return o.cap
	case unit.Kind == money.Byte:
		return o.rate.Charge(uint64(len(v.body)), o.minimum, o.cap)
	}
	return o.rate.Charge(1, o.minimum, o.cap)
}

// requirements is the offer on the wire. It reports false if the way cannot be offered now.
//
// Beside what its way needs, extra holds what is agreed: a payer that echoes it holds the seller to it.
func (v *visit) requirements(o offer) (x402.Requirements, bool, error) {
	r := x402.Requirements{
		Scheme: o.quote.Scheme, Network: o.quote.Network, Amount: o.quote.Amount.String(),
		Asset: o.quote.Asset.String(), PayTo: o.quote.Payee.String(), MaxTimeoutSeconds: int(o.way.lasts(v.route) / time.Second),
	}
	members := map[string]any{
		"quote": o.quote.Token(v.pw.secret), "price": o.quote.Price, "completion": o.quote.Completion, "refund": o.quote.Refund,
		"uncaptured": o.quote.Uncaptured, "expires": o.quote.Expires, // unix seconds
	}
	if b := o.tariff.bundle; b != nil {
		members["bundle"] = bundleOffer{b.units, string(o.tariff.price.Unit.Kind), b.valid.String(), v.name()}
	}
	if !o.way.describe(v, o, members) {
		return r, false, nil
	}
	r.Extra = make(map[string]json.RawMessage, len(members))
	for name, value := range members {
		raw, err := json.Marshal(value)
		if err != nil {
			return r, false, err
		}
		r.Extra[name] = raw
	}
	return r, true, nil
}

func (v *visit) tabEndpoint() string {
	if v.pw.cfg.TabPath == "" {
		return ""
	}
	return v.pw.origin(v.r) + v.pw.cfg.TabPath
}

// agreement is an offer that a payment accepts.
type agreement struct {
	offer
	purchase  string      // id that the payer gave; empty from clients that know nothing of it
	paymentID string      // id that a stock client gave; empty for none
	late      *x402.Error // all is right but the time
	facts     facts
	policy    *guarantee.Policy // that a guarantee has to depend on; nil for none
}

// agree matches a payment with this route. It checks in this order: the quote, or for a payment without one the price of
// now; asset, payee and amount of what was signed; the terms, if the payer named its purchase; and last the times, which
// an earlier reservation may excuse.
func (v *visit) agree(p *x402.Payment, paid payment) (*agreement, *x402.Error) {
	a := &agreement{facts: paid.facts(), policy: v.policy()}
	token, err := v.agreeOffer(p, a)
	if err != nil {
		return nil, internal(err)
	}
	if e := paid.fits(a); e != nil {
		return nil, e
	}
	if err := v.agreeTerms(p, a, token); err != nil {
		return nil, internal(err)
	}
	if e := v.agreeExtensions(p, a); e != nil {
		return nil, e
	}
	if a.late == nil {
		a.late = paid.late(a, v.began)
	}
	return a, nil
}

// among returns the route's tenders of a payment's scheme and network.
func (v *visit) among(p *x402.Payment) (list []tender, err *x402.Error) {
	for _, t := range v.taken() {
		if t.way.scheme() == p.Scheme && t.chain.CAIP2() == p.Network {
			list = append(list, t)
		}
	}
	if len(list) == 0 {
		var takes []string
		for _, t := range v.taken() {
			takes = append(takes, t.way.scheme()+" on "+t.chain.CAIP2())
		}
		return nil, x402.Errorf("payment_mismatch", "paid by %s on %s, this route takes %s", clip(p.Scheme), clip(p.Network), strings.Join(takes, ", "))
	}
	return list, nil
}

// agreeOffer finds the offer that a payment accepts and returns the token of its quote, empty if the payment has none.
func (v *visit) agreeOffer(p *x402.Payment, a *agreement) (token string, err error) {
	if p.Accepted != nil {
		if token = p.Accepted.ExtraString("quote"); token != "" {
			return token, v.agreeQuote(*p.Accepted, token, a)
		}
	}
	offers, err := v.offers()
	if err != nil {
		return "", err
	}
	for _, o := range offers {
		if o.quote.Scheme != p.Scheme || o.quote.Network != p.Network || o.token.Address != a.facts.asset {
			continue
		}
		a.offer = o
		if p.Accepted != nil && !sameOffer(*p.Accepted, o.quote) {
			return "", x402.Errorf("payment_mismatch", "accepts another offer than the one that stands, %s", show(o.quote.Amount, o.token))
		}
		return "", nil
	}
	return "", x402.Errorf("payment_mismatch", "signed in asset %s, which this route does not take", a.facts.asset)
}

// agreeQuote rebuilds the quote that a payment echoes. The token holds it to every word of the offer.
func (v *visit) agreeQuote(accepted x402.Requirements, token string, a *agreement) error {
	q, err := readQuote(accepted)
	if err != nil {
		return x402.Errorf("payment_mismatch", "accepted offer: %w", err)
	}
	q.Route = v.name()
	if v.ofRequest() {
		q.Request = v.digest
	}
	switch q.Check(v.pw.secret, token, v.began) {
	case nil:
	case purchase.ErrQuoteExpired:
		a.late = x402.Errorf("quote_expired", "the quote expired %s ago", v.began.Sub(time.Unix(q.Expires, 0)).Round(time.Second))
	default:
		return x402.Errorf("payment_mismatch", "the accepted offer is not one that was made for this route, or not with these figures")
	}
	t, err := parseTariff(q.Price)
	i := slices.IndexFunc(v.taken(), func(t tender) bool {
		return t.way.scheme() == q.Scheme && t.chain.CAIP2() == q.Network && t.token.Address == q.Asset
	})
	switch {
	case err != nil:
	case i < 0:
		err = fmt.Errorf("%s is no longer taken here", q.Scheme)
	default:
		a.tender = v.taken()[i]
		a.counted, err = t.in(a.token)
	}
	if err != nil {
		return x402.Errorf("quote_expired", "the quote is in terms that are no longer used: %w", err)
	}
	if q.Payee != v.pw.payee {
		return x402.Errorf("quote_expired", "the quote pays %s, this route now pays %s", q.Payee, v.pw.payee)
	}
	if v.priceFunc == nil && t.price.Unit != v.tariff.price.Unit {
		return x402.Errorf("quote_expired", "the quote counts in other units than this route now does: %s", t.price)
	}
	a.tariff, a.quote = t, q
	return nil
}

func readQuote(r x402.Requirements) (q purchase.Quote, err error) {
	q = purchase.Quote{
		Scheme: r.Scheme, Network: r.Network, Price: r.ExtraString("price"), Completion: r.ExtraString("completion"),
		Refund: r.ExtraString("refund"), Uncaptured: r.ExtraString("uncaptured"),
	}
	if q.Asset, err = evm.ParseAddress(r.Asset); err != nil {
		return q, err
	}
	if q.Payee, err = evm.ParseAddress(r.PayTo); err != nil {
		return q, err
	}
	if q.Amount, err = money.ParseAmount(r.Amount); err != nil {
		return q, err
	}
	q.Expires, err = strconv.ParseInt(string(r.Extra["expires"]), 10, 64)
	return q, err
}

// sameOffer compares what a payment without a quote says it accepted.
func sameOffer(r x402.Requirements, q purchase.Quote) bool {
	asset, errAsset := evm.ParseAddress(r.Asset)
	payee, errPayee := evm.ParseAddress(r.PayTo)
	amount, errAmount := money.ParseAmount(r.Amount)
	return errAsset == nil && errPayee == nil && errAmount == nil && asset == q.Asset && payee == q.Payee && amount == q.Amount
}

// agreeTerms holds a payer that named its purchase to the terms that it signed. A payload without the name is a stock
// client's: nothing but the reservation ties it to this request.
func (v *visit) agreeTerms(p *x402.Payment, a *agreement, token string) error {
	raw, ok := p.Extensions[purchase.ExtensionKey]
	if !ok {
		return nil
	}
	var e purchase.Extension
	if err := x402.Decode(raw, &e); err != nil || !purchase.ValidID(e.Purchase) {
		return x402.Errorf("payment_mismatch", "extension %s names no purchase", purchase.ExtensionKey)
	}
	terms := purchase.Terms{
		Purchase: e.Purchase, Quote: token, Price: a.quote.Price, Scheme: a.quote.Scheme, Network: a.quote.Network,
		Asset: a.quote.Asset, Payee: a.quote.Payee, Amount: a.quote.Amount,
		Method: v.r.Method, Resource: v.resource, Body: purchase.BodyDigest(v.body),
		Completion: a.quote.Completion, Refund: a.quote.Refund, Uncaptured: a.quote.Uncaptured, Expires: a.quote.Expires,
	}
	if terms.Hash() != a.facts.terms {
		return x402.Errorf("payment_mismatch", "signed for other terms than this request's: quote, method, URL, body or rules differ")
	}
	a.purchase = e.Purchase
	return nil
}
