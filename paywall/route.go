package paywall

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/farthing402/farthing/guarantee"
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

// ChargeRule sets when a charge is earned: "before work", "after success" (the default), "as measured" or
// "by stage". With "after
// success" a buyer who leaves before the end of a stream pays nothing for what it got; "as measured" is the rule for streams
// whose beginning is worth having.
func ChargeRule(rule string) Option {
	return func(rt *route) {
		text := "charged " + strings.TrimPrefix(strings.TrimSpace(rule), "charged ")
		switch c := purchase.Completion(text); c {
		case purchase.BeforeWork, purchase.AfterSuccess, purchase.AsMeasured, purchase.ByStage:
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

// Validation makes a route's guarantees payable only once a validator has answered well enough, in a registry that the
// clearing house trusts: buyers sign claims of version 2. A chain of 0 is the paywall's own; a job of zero is the request,
// by the hash of method, URL and body. Other ways to pay know no such condition.
func Validation(p guarantee.Policy) Option {
	return func(rt *route) {
		setDefault(&p.ChainID, rt.pw.chain.ID)
		switch {
		case p.Registry.IsZero() || p.Validator.IsZero():
			rt.wrong("validation: names no registry, or no validator")
		case p.MinScore < 1 || p.MinScore > 100:
			rt.wrong("validation: a score of %d is not between 1 and 100", p.MinScore)
		case len(p.Tag) > guarantee.TagBytesMax:
			rt.wrong("validation: the tag has more than %d bytes", guarantee.TagBytesMax)
		case p.ChainID != rt.pw.chain.ID:
			rt.wrong("validation: its registry is on chain %d, and %s is sold on", p.ChainID, rt.pw.chain)
		}
		rt.validation = &p
	}
}

// policy is what a guarantee for the visit has to depend on; nil for nothing. The body must have been read if that is the
// job.
func (v *visit) policy() *guarantee.Policy {
	if v.validation == nil {
		return nil
	}
	p := *v.validation
	if p.JobHash.IsZero() {
		p.JobHash = v.digest
	}
	return &p
}

// PriceFunc makes a price for one request. It may read the body: the handler sees it again. It is called for each request
// without a payment, and for payments that echo no quote. An error is answered with 500 and logged, not shown, unless it
// is an [*x402.Error], which is answered as it is.
type PriceFunc func(*http.Request) (string, error)

// Bundle sells many units at once, "100 calls", to buyers who pay by transfer: one payment buys them, the payer's later
// requests draw them down, and what is not used ends after valid. Buyers by guarantee pay each request.
func Bundle(what string, valid time.Duration) Option {
	return func(rt *route) {
		count, unit, ok := strings.Cut(strings.TrimSpace(what), " ")
		n, err := strconv.ParseUint(count, 10, 32)
		switch {
		case !ok || err != nil || n < 2:
			rt.wrong("bundle: %q is not how many, such as 100 calls", clip(what))
		case valid < time.Minute || valid%time.Second != 0:
			rt.wrong("valid: a bundle lasts whole seconds, and a minute at least")
		case !rt.tariff.countedIn(unit):
			rt.wrong("bundle: the price is not per %s", clip(unit))
		default:
			rt.tariff.bundle = &bundle{n, valid}
		}
	}
}

// Settle says how long a facilitator may gather payments of the route before it settles them together. 0, as without this
// option, is now. The answer is held back until then.
func Settle(within time.Duration) Option {
	return func(rt *route) {
		if within < 0 || within > time.Hour {
			rt.wrong("settle: within an hour, or now")
		}
		rt.settleWithin = within
	}
}

// Job sets how long a purchase stays open whose handler answers 202: until then [Paywall.Complete] charges it and
// [Paywall.Cancel] lets it go, and afterwards it is let go.
func Job(open time.Duration) Option {
	return func(rt *route) {
		if open < time.Second || open > 30*24*time.Hour {
			rt.wrong("job: between a second and 30 days")
		}
		rt.job = open
	}
}

// Stages sells work in parts, each with its share of the price in whole percent, "outline 20%": a stage is charged when the
// handler says [Stage], and what is not reached is let go.
func Stages(parts ...string) Option {
	return func(rt *route) { rt.tariff.stages = rt.parseStages(parts) }
}

// tariff is a price as it is written, with its bounds.
type tariff struct {
	price         money.Price
	minimum, upTo *money.Money
	bundle        *bundle // nil: every request is paid
	stages        stages  // nil: charged in one piece
}

// bundle is how many units are sold at once, and for how long they are good.
type bundle struct {
	units uint64
	valid time.Duration
}

// same reports whether two tariffs sell at the same price.
func (t tariff) same(other tariff) bool {
	return t.text() == other.text() && (t.upTo == other.upTo || t.upTo != nil && other.upTo != nil && *t.upTo == *other.upTo)
}

// countedIn reports whether a bundle can count in a unit, as people write it: calls, tokens.
func (t tariff) countedIn(unit string) bool {
	kind := string(t.price.Unit.Kind)
	return t.price.Unit.Size == 1 && t.price.Unit.Kind != money.Byte && (unit == kind || unit == kind+"s")
}

// by returns the tariff as it is for one way to pay, or an error that wraps errUnfit if that way cannot pay it.
func (t tariff) by(w way) (tariff, error) {
	_, transfer := w.(*transfer)
	switch {
	case !transfer:
		t.bundle = nil
	case t.bundle != nil:
	case w.lowers():
	case measuredLater(t.price):
		return t, fmt.Errorf("%s: %w by %s, which always moves the whole amount: it takes upto, guarantee or a bundle", t.price, errUnfit, w.name())
	case len(t.stages) > 0:
		return t, fmt.Errorf("stages: %w by %s, which always moves the whole amount: it takes upto or guarantee", errUnfit, w.name())
	}
	return t, nil
}

// route is a handler with a price.
type route struct {
	pw      *Paywall
	handler http.Handler

	tariff       tariff
	priceFunc    PriceFunc // nil: tariff
	tenders      []tender  // nil: the paywall's
	meter        Meter
	completion   purchase.Completion
	refund       string
	settleWithin time.Duration
	valid        time.Duration     // 0: who comes back pays again
	validation   *guarantee.Policy // nil: guarantees are payable as soon as they are certified
	listed       bool
	job          time.Duration

	alternative, description, mimeType string
	bodyAll                            bool

	mounted  bool  // by the seller, and not by a gate, whose mux has every pattern once
	replaced bool  // guarded by pw.mu: another route has its name now
	fault    error // set: every request is answered with it
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
	rt.mounted = true
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
	setDefault(&rt.job, DefaultJob)
	if len(rt.tariff.stages) > 0 {
		if rt.completion != "" && rt.completion != purchase.ByStage {
			rt.wrong("stages: a route with stages is %s", purchase.ByStage)
		}
		rt.completion = purchase.ByStage
	} else if rt.completion == purchase.ByStage {
		rt.wrong("charge: by stage, and no stages are named")
	}
	if rt.completion != "" && rt.completion != purchase.BeforeWork && !slices.ContainsFunc(rt.taken(), rt.keeps) {
		rt.wrong("%s needs the payee's key, to let go of what was not earned", rt.completion)
	}
	if rt.fault != nil || rt.priceFunc != nil {
		return
	}
	if measuredLater(rt.tariff.price) {
		if !slices.ContainsFunc(rt.taken(), rt.keeps) {
			rt.wrong("%s: what is not used is let go by the payee's signature, which takes its key", rt.tariff.price)
		} else if rt.tariff.upTo == nil {
			rt.wrong("%s: what it comes to is known only after the work, so up_to must say what the buyer signs", rt.tariff.price)
		} else if rt.completion == purchase.BeforeWork {
			rt.wrong("%s: a price that is measured after the work cannot be charged before it", rt.tariff.price)
		}
	}
	var unfit, fits error
	offered := 0
	for _, in := range rt.taken() {
		t, err := rt.tariff.by(in.way)
		if err != nil {
			unfit = err
			continue
		}
		if _, err := t.in(in.token); err != nil {
			fits = err
			break
		}
		offered++
	}
	switch {
	case rt.fault != nil:
	case fits != nil:
		rt.fault = asError(fits, "price_invalid")
	case offered == 0:
		rt.fault = asError(unfit, "price_invalid")
	}
}

// keeps reports whether a tender can charge nothing when nothing was earned.
func (rt *route) keeps(t tender) bool {
	_, promised := t.way.(guarantees)
	return !promised || t.way.lowers()
}

// rules are the words that an offer is made with.
type rules struct {
	completion         purchase.Completion
	refund, uncaptured string
}

// rules returns the rules for one way to pay. Who cannot let go of a promise can only charge it before the work.
func (rt *route) rules(w way) rules {
	r := rules{rt.completion, rt.refund, ""}
	_, promised := w.(guarantees)
	if promised && !w.lowers() {
		return rules{purchase.BeforeWork, "no refund", "the whole amount is charged"}
	}
	setDefault(&r.completion, purchase.AfterSuccess)
	if r.completion == purchase.BeforeWork {
		setDefault(&r.refund, "no refund")
		setDefault(&r.uncaptured, "the whole amount is charged")
	}
	setDefault(&r.refund, "full on failure")
	setDefault(&r.uncaptured, "what is not charged is never owed")
	return r
}

// measuredLater reports whether only the work shows how many units it takes.
func measuredLater(p money.Price) bool {
	u := p.Unit
	return !p.Free() && u.Kind != money.Call && !(u.Kind == money.Byte && u.Direction == money.In)
}

// free reports whether requests need no payment.
func (rt *route) free() bool { return rt.priceFunc == nil && rt.tariff.price.Free() }

// needsBody reports whether an offer depends on the request's body.
func (rt *route) needsBody() bool {
	return rt.ofRequest() || rt.validation != nil && rt.validation.JobHash.IsZero()
}

// ofRequest reports whether a quote is for one request only, because another one has another price.
func (rt *route) ofRequest() bool {
	return rt.priceFunc != nil || rt.tariff.price.Unit.Kind == money.Byte && rt.tariff.price.Unit.Direction == money.In
}

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
	text := t.price.String()
	if t.minimum != nil {
		text += minimumMark + t.minimum.String()
	}
	if t.bundle != nil {
		if t.upTo != nil { // elsewhere it stands in the amount
			text += upToMark + t.upTo.String() + eachMark
		}
		text += fmt.Sprintf("%s%d %ss%s%s", listMark, t.bundle.units, t.price.Unit.Kind, bundleMark, t.bundle.valid)
	}
	if len(t.stages) > 0 {
		text += stagesMark + t.stages.String()
	}
	return text
}

const (
	listMark    = ", "
	minimumMark = ", minimum "
	upToMark    = ", up to "
	eachMark    = " each"
	bundleMark  = " at once, valid "
	stagesMark  = ", in stages: "
)

func parseTariff(text string) (t tariff, err error) {
	text, parts, staged := strings.Cut(text, stagesMark)
	if staged {
		if t.stages, err = parseStages(strings.Split(parts, listMark)); err != nil {
			return t, err
		}
	}
	if front, valid, sold := strings.Cut(text, bundleMark); sold {
		at := strings.LastIndex(front, listMark)
		if at < 0 {
			return t, errors.New("bundle without a price")
		}
		count, _, _ := strings.Cut(front[at+len(listMark):], " ")
		b := &bundle{}
		if b.units, err = strconv.ParseUint(count, 10, 32); err != nil {
			return t, err
		}
		if b.valid, err = time.ParseDuration(valid); err != nil {
			return t, err
		}
		t.bundle, text = b, front[:at]
		if before, sum, capped := strings.Cut(strings.TrimSuffix(text, eachMark), upToMark); capped {
			m, err := money.ParseMoney(sum)
			if err != nil {
				return t, err
			}
			t.upTo, text = &m, before
		}
	}
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
