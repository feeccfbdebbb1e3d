package paywall

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// Option says more about a price.
type Option func(*route)

// UpTo sets what the buyer signs where the price is not known before the work: the most that can be charged.
func UpTo(sum string) Option {
	return func(rt *route) { rt.tariff.upTo = rt.sum("up_to", sum) }
}

// Minimum sets the least that is charged.
func Minimum(sum string) Option {
	return func(rt *route) { rt.tariff.minimum = rt.sum("minimum", sum) }
}

// Count sets how units are counted. Without it calls, seconds and bytes are counted as the price says, and everything
// else by [Charge] in the handler, whose word counts before any meter's.
func Count(m Meter) Option { return func(rt *route) { rt.meter = m } }

// ChargeRule sets when a charge is earned: "before work", "after success" (the default) or "as measured". With "after
// success" a buyer who leaves before the end of a stream pays nothing for what it got; "as measured" is the rule for streams
// whose beginning is worth having.
func ChargeRule(rule string) Option {
	return func(rt *route) {
		text := "charged " + strings.TrimPrefix(strings.TrimSpace(rule), "charged ")
		switch c := purchase.Completion(text); c {
		case purchase.BeforeWork, purchase.AfterSuccess, purchase.AsMeasured:
			rt.completion = c
		default:
			rt.wrong("charge: no rule is called %q", rule)
		}
	}
}

// Alternative names the path of a cheaper route, for a buyer who cannot afford this one.
func Alternative(path string) Option { return func(rt *route) { rt.alternative = path } }

// Refund sets the words that say what comes back on failure, and until when: "full on failure within 24h".
func Refund(rule string) Option { return func(rt *route) { rt.refund = rule } }

// Describe says what is sold and of which media type the answer is.
func Describe(description, mimeType string) Option {
	return func(rt *route) { rt.description, rt.mimeType = description, mimeType }
}

// Body says for whom the JSON body of the 402 lists ways to pay: "x402" (the default) for clients of version 1, which
// refuse the whole list if it has more than exact, or "4mica". Where there is nothing for the former it is for the latter.
func Body(clients string) Option {
	return func(rt *route) {
		if clients != "x402" && clients != "4mica" {
			rt.wrong("body: no clients are called %q", clip(clients))
		}
		rt.bodyAll = clients == "4mica"
	}
}

// PriceFunc makes a price for one request. It may read the body: the handler sees it again. It is called for each request
// without a payment, and for payments that echo no quote. An error is answered with 500 and logged, not shown, unless it
// is an [*x402.Error], which is answered as it is.
type PriceFunc func(*http.Request) (string, error)

// tariff is a price as it is written, with its bounds.
type tariff struct {
	price         money.Price
	minimum, upTo *money.Money
}

// route is a handler with a price.
type route struct {
	pw      *Paywall
	handler http.Handler

	tariff     tariff
	priceFunc  PriceFunc // nil: tariff
	meter      Meter
	completion purchase.Completion
	refund     string
	uncaptured string

	alternative, description, mimeType string
	bodyAll                            bool

	fault error // set: every request is answered with it
}

// Price sells a handler: "$0.0005", "$0.01 per 100 records", "$0.00001 per token", "free". What is wrong with the price or
// its options is reported by [Paywall.Check]; until it is mended the handler does not run.
//
// A price per bytes of the request's body is known before the work. Any other price per unit is not, and needs [UpTo].
func (pw *Paywall) Price(price string, h http.Handler, opts ...Option) http.Handler {
	return pw.listed(pw.route(price, h, opts))
}

// PriceFunc sells a handler at a price made for each request.
func (pw *Paywall) PriceFunc(f PriceFunc, h http.Handler, opts ...Option) http.Handler {
	rt := &route{pw: pw, handler: h, priceFunc: f}
	rt.settle(opts)
	return pw.listed(rt)
}

func (pw *Paywall) route(price string, h http.Handler, opts []Option) *route {
	rt := &route{pw: pw, handler: h}
	p, err := money.ParsePrice(price)
	if err != nil {
		rt.fault = asError(err, "price_invalid")
	}
	rt.tariff.price = p
	rt.settle(opts)
	return rt
}

// listed makes a route's fault known to [Paywall.Check].
func (pw *Paywall) listed(rt *route) http.Handler {
	if rt.fault != nil {
		pw.fault(rt.fault)
	}
	return rt
}

// wrong records the first fault of a route.
func (rt *route) wrong(format string, args ...any) {
	if rt.fault == nil {
		rt.fault = x402.Errorf("price_invalid", format, args...)
	}
}

func (rt *route) sum(what, text string) *money.Money {
	m, err := money.ParseMoney(text)
	if err != nil {
		rt.wrong("%s: %w", what, err)
		return nil
	}
	return &m
}

// settle applies options, fills in the rules that were left open, and finds what cannot be.
func (rt *route) settle(opts []Option) {
	for _, o := range opts {
		o(rt)
	}
	canLower := rt.pw.cfg.Signer != nil
	if !canLower {
		if rt.completion != "" && rt.completion != purchase.BeforeWork {
			rt.wrong("%s needs the payee's key, to let go of what was not earned", rt.completion)
		}
		rt.completion, rt.refund, rt.uncaptured = purchase.BeforeWork, "no refund", "the whole amount is charged"
	}
	if !canLower && rt.priceFunc == nil && measuredLater(rt.tariff.price) {
		rt.wrong("%s: what is not used is let go by the payee's signature, which takes its key", rt.tariff.price)
	}
	setDefault(&rt.completion, purchase.AfterSuccess)
	if rt.completion == purchase.BeforeWork {
		setDefault(&rt.refund, "no refund")
		setDefault(&rt.uncaptured, "the whole amount is charged")
	}
	setDefault(&rt.refund, "full on failure")
	setDefault(&rt.uncaptured, "what is not charged is never owed")
	if rt.fault != nil || rt.priceFunc != nil {
		return
	}
	for _, token := range rt.pw.assets {
		if _, err := rt.tariff.in(token); err != nil {
			rt.fault = asError(err, "price_invalid")
			return
		}
	}
	if measuredLater(rt.tariff.price) {
		if rt.tariff.upTo == nil {
			rt.wrong("%s: what it comes to is known only after the work, so up_to must say what the buyer signs", rt.tariff.price)
		} else if rt.completion == purchase.BeforeWork {
			rt.wrong("%s: a price that is measured after the work cannot be charged before it", rt.tariff.price)
		}
	}
}

// measuredLater reports whether only the work shows how many units it takes.
func measuredLater(p money.Price) bool {
	u := p.Unit
	return !p.Free() && u.Kind != money.Call && !(u.Kind == money.Byte && u.Direction == money.In)
}

// free reports whether requests need no payment.
func (rt *route) free() bool { return rt.priceFunc == nil && rt.tariff.price.Free() }

// needsBody reports whether the price depends on the request's body.
func (rt *route) needsBody() bool {
	return rt.priceFunc != nil || rt.tariff.price.Unit.Kind == money.Byte && rt.tariff.price.Unit.Direction == money.In
}

// ofRequest reports whether a quote is for one request only, because another one has another price.
func (rt *route) ofRequest() bool { return rt.needsBody() }

// counted is a tariff in one asset's smallest units.
type counted struct {
	rate         money.Rate
	minimum, cap money.Amount
}

func (t tariff) in(token network.Token) (c counted, err error) {
	asset := assetOf(token)
	if c.rate, err = t.price.For(asset); err != nil {
		return c, err
	}
	c.cap = money.MaxAmount()
	for _, bound := range []struct {
		name string
		sum  *money.Money
		into *money.Amount
	}{{"minimum", t.minimum, &c.minimum}, {"up_to", t.upTo, &c.cap}} {
		if bound.sum == nil {
			continue
		}
		if *bound.into, err = bound.sum.In(asset); err != nil {
			return c, fmt.Errorf("%s: %w", bound.name, err)
		}
	}
	if c.cap.Less(c.minimum) || c.cap.IsZero() {
		return c, fmt.Errorf("up_to %s is below the minimum", asset.Format(c.cap))
	}
	return c, nil
}

// text is the price as offers show it, from which [parseTariff] reads it back. The cap stands in the offer's amount.
func (t tariff) text() string {
	if t.minimum != nil {
		return t.price.String() + minimumMark + t.minimum.String()
	}
	return t.price.String()
}

const minimumMark = ", minimum "

func parseTariff(text string) (t tariff, err error) {
	price, minimum, bounded := strings.Cut(text, minimumMark)
	if t.price, err = money.ParsePrice(price); err != nil || !bounded {
		return t, err
	}
	m, err := money.ParseMoney(minimum)
	t.minimum = &m
	return t, err
}

func assetOf(t network.Token) money.Asset {
	return money.Asset{Symbol: t.Symbol, Decimals: t.Decimals, Dollar: t.Dollar}
}

// show writes an amount as its price was written: in dollars for a dollar token, else with the token's symbol.
func show(a money.Amount, t network.Token) string {
	if t.Dollar {
		return money.Format(a, t.Decimals, "$")
	}
	return assetOf(t).Format(a)
}
