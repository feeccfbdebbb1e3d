package paywall

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
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
}

// offer is a price for one visit in one asset.
type offer struct {
	token  network.Token
	tariff tariff
	counted
	quote purchase.Quote
}

// extra is what an offer says beside x402's own members. A payer that echoes it holds the seller to it.
type extra struct {
	Quote       string `json:"quote"`
	Price       string `json:"price"`
	Completion  string `json:"completion"`
	Refund      string `json:"refund"`
	Uncaptured  string `json:"uncaptured"`
	Expires     int64  `json:"expires"`         // unix seconds
	Vault       string `json:"vault,omitempty"` // whose collateral backs it, so that a buyer of another house need not try
	TabEndpoint string `json:"tabEndpoint,omitempty"`
}

// name is what quotes know the route by.
func (v *visit) name() string {
	if v.r.Pattern != "" {
		return v.r.Pattern
	}
	return v.r.Method + " " + v.r.URL.Path
}

// offers prices the visit in every asset that is taken. The body must have been read if the price depends on it.
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
	list := make([]offer, 0, len(v.pw.assets))
	for _, token := range v.pw.assets {
		c, err := t.in(token)
		if err != nil {
			return nil, asError(err, "price_invalid")
		}
		o := offer{token: token, tariff: t, counted: c}
		o.quote = purchase.Quote{
			Route: v.name(), Scheme: guarantee.Scheme, Network: v.pw.chain.CAIP2(), Asset: token.Address, Payee: v.pw.payee,
			Amount: v.toSign(o), Price: t.text(),
			Completion: string(v.completion), Refund: v.refund, Uncaptured: v.uncaptured,
			Expires: v.began.Add(v.pw.cfg.QuoteLifetime).Unix(),
		}
		if v.ofRequest() {
			o.quote.Request = v.digest
		}
		list = append(list, o)
	}
	return list, nil
}

// toSign is what the buyer has to promise for an offer.
func (v *visit) toSign(o offer) money.Amount {
	switch unit := o.tariff.price.Unit; {
	case measuredLater(o.tariff.price):
		return o.cap
	case unit.Kind == money.Byte:
		return o.rate.Charge(uint64(len(v.body)), o.minimum, o.cap)
	}
	return o.rate.Charge(1, o.minimum, o.cap)
}

// requirements is the offer on the wire.
func (v *visit) requirements(o offer) (x402.Requirements, error) {
	members, err := json.Marshal(extra{
		Quote: o.quote.Token(v.pw.secret), Price: o.quote.Price, Completion: o.quote.Completion, Refund: o.quote.Refund,
		Uncaptured: o.quote.Uncaptured, Expires: o.quote.Expires, Vault: v.pw.vault(), TabEndpoint: v.tabEndpoint(),
	})
	if err != nil {
		return x402.Requirements{}, err
	}
	r := x402.Requirements{
		Scheme: o.quote.Scheme, Network: o.quote.Network, Amount: o.quote.Amount.String(),
		Asset: o.quote.Asset.String(), PayTo: o.quote.Payee.String(), MaxTimeoutSeconds: int(v.pw.cfg.QuoteLifetime / time.Second),
	}
	return r, json.Unmarshal(members, &r.Extra)
}

// vault is the clearing house's, or "" while it has not answered yet.
func (pw *Paywall) vault() string {
	pw.mu.Lock()
	defer pw.mu.Unlock()
	if pw.verifier == nil {
		return ""
	}
	return pw.verifier.params.Deployment.Vault.String()
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
	purchase string      // id that the payer gave; empty from clients that know nothing of it
	late     *x402.Error // all is right but the time
	claims   guarantee.Claims
}

// agree matches a payment with this route. It checks in this order: the quote, or for a payment without one the price of
// now; asset, payee and amount of what was signed; the terms, if the payer named its purchase; and last the times, which
// an earlier reservation may excuse.
func (v *visit) agree(p *x402.Payment, c guarantee.Claims, w guarantee.Window) (*agreement, *x402.Error) {
	a := &agreement{claims: c}
	token, err := v.agreeOffer(p, a)
	if err != nil {
		return nil, internal(err)
	}
	switch q := a.quote; {
	case c.Payee != q.Payee:
		return nil, x402.Errorf("payment_mismatch", "signed for payee %s, this route pays %s", c.Payee, q.Payee)
	case c.Asset != q.Asset:
		return nil, x402.Errorf("payment_mismatch", "signed in asset %s, this offer is in %s (%s)", c.Asset, q.Asset, a.token.Symbol)
	case c.Amount != q.Amount:
		e := x402.Errorf("payment_mismatch", "signed for %s, this request takes %s", show(c.Amount, a.token), show(q.Amount, a.token))
		e.Details = map[string]string{"asked": q.Amount.String(), "signed": c.Amount.String()}
		return nil, e
	}
	if err := v.agreeTerms(p, a, token); err != nil {
		return nil, internal(err)
	}
	if a.late == nil {
		a.late = skew(w, c, v.began)
	}
	return a, nil
}

// agreeOffer finds the offer that a payment accepts and returns the token of its quote, empty if the payment has none.
func (v *visit) agreeOffer(p *x402.Payment, a *agreement) (token string, err error) {
	if p.Scheme != guarantee.Scheme || p.Network != v.pw.chain.CAIP2() {
		return "", x402.Errorf("payment_mismatch", "paid by %s on %s, this route takes %s on %s",
			clip(p.Scheme), clip(p.Network), guarantee.Scheme, v.pw.chain.CAIP2())
	}
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
		if o.token.Address != a.claims.Asset {
			continue
		}
		a.offer = o
		if p.Accepted != nil && !sameOffer(*p.Accepted, o.quote) {
			return "", x402.Errorf("payment_mismatch", "accepts another offer than the one that stands, %s", show(o.quote.Amount, o.token))
		}
		return "", nil
	}
	return "", x402.Errorf("payment_mismatch", "signed in asset %s, which this route does not take", a.claims.Asset)
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
	if err == nil {
		a.token, err = v.pw.chain.Token(q.Asset.String())
	}
	if err == nil {
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
	if terms.Hash() != a.claims.ReqID {
		return x402.Errorf("payment_mismatch", "signed for other terms than this request's: quote, method, URL, body or rules differ")
	}
	a.purchase = e.Purchase
	return nil
}
