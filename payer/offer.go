package payer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
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

// quoteSlack is how far a seller's clock may be behind ours before its quote counts as expired.
const quoteSlack = 30 * time.Second

// offersMax is how many offers of a 402 are looked at: more than any seller has, and not enough to be a burden.
const offersMax = 32

// terms are a 402 and what was read beside it.
type terms struct {
	x402.PaymentRequired
	said struct { // of the JSON body; for people and for ways on
		Error       string            `json:"error"`
		Code        string            `json:"code"`
		Hint        string            `json:"hint"`
		Alternative string            `json:"alternative"`
		WaysToPay   []string          `json:"waysToPay"`
		Details     map[string]string `json:"details"`
	}
}

// readTerms reads a 402 and closes its body. A header and a body that offer the same thing for two prices, or to two
// payees, are a seller that means to show one and take the other.
func readTerms(resp *http.Response) (terms, error) {
	defer resp.Body.Close()
	var t terms
	var body []byte
	var err error
	if t.PaymentRequired, body, err = x402.ParsePaymentRequired(resp); err != nil {
		return t, err
	}
	t.Accepts = t.Accepts[:min(len(t.Accepts), offersMax)]
	_ = json.Unmarshal(body, &t.said) // a page for people, or nothing
	if resp.Header.Get(x402.HeaderRequired) == "" {
		return t, nil
	}
	shown, _, err := x402.ParsePaymentRequired(&http.Response{Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body))})
	if err != nil {
		return t, nil
	}
	for _, b := range shown.Accepts {
		same := func(h x402.Requirements) bool {
			return h.Scheme == b.Scheme && h.Network == b.Network && strings.EqualFold(h.Asset, b.Asset)
		}
		equal := func(h x402.Requirements) bool {
			return same(h) && h.Amount == b.Amount && strings.EqualFold(h.PayTo, b.PayTo)
		}
		if slices.ContainsFunc(t.Accepts, same) && !slices.ContainsFunc(t.Accepts, equal) {
			return t, x402.Errorf("offer_invalid", "the 402 asks %s of %s to %s in its body, and something else in its header", clip(b.Amount), clip(b.Asset), clip(b.PayTo))
		}
	}
	return t, nil
}

// option is an offer that this payer could pay.
type option struct {
	x402.Requirements
	way     way
	chain   network.Chain
	token   network.Token
	payee   evm.Address
	amount  money.Amount
	dollars money.Amount // amount, scaled as budgets are

	deployment guarantee.Deployment // of a guarantee

	method      exact.Method // of a transfer
	sponsor     string       // extension by which the seller pays for what Permit2 needs; empty: nothing is needed
	permitNonce money.Amount
	bundle      *bundle // what it sells ahead, if it does
	stock       *stock  // in place of paying

	extensions map[string]json.RawMessage // of the 402
}

// money is the price for people.
func (o option) money() money.Money { return dollars(o.dollars) }

// transfers reports whether the way moves a token of the payer's own account.
func (o option) transfers() bool { return o.method != "" }

// key names the offer among those of one 402.
func (o option) key() string { return o.Scheme + " " + o.Network + " " + o.token.Address.Lower() }

// cheaper compares what a call costs: an offer that has stock costs nothing, and a bundle of calls its share.
func cheaper(a, b option) int {
	if a, b := a.stock == nil, b.stock == nil; a != b {
		if b {
			return -1
		}
		return 1
	}
	x, fitsX := a.dollars.Mul(money.Units(b.calls()))
	y, fitsY := b.dollars.Mul(money.Units(a.calls()))
	if !fitsX || !fitsY {
		return a.dollars.Cmp(b.dollars)
	}
	return x.Cmp(y)
}

// options returns the offers that could be paid, the cheapest first and otherwise in the seller's order, and why the
// others could not.
func (l *look) options(t terms) (list []option, not []string, err error) {
	l.elsewhere = 0
	for _, r := range t.Accepts {
		o, why := l.option(r)
		if why == "" && l.tried[o.key()] {
			why = "was refused"
		}
		if why != "" {
			not = append(not, why)
			continue
		}
		o.extensions = t.Extensions
		if o.bundle != nil {
			b := *o.bundle
			b.Of = l.bundleOf(o)
			o.bundle = &b
			if o.stock, err = l.journal.stock(b.Of); err != nil {
				return nil, nil, errJournal(l.Journal, err)
			}
			if o.stock != nil {
				o.way = byDraw{}
			}
		}
		list = append(list, o)
	}
	slices.SortStableFunc(list, cheaper)
	return list, not, nil
}

// mayPayBy reports whether the policy lets a way be used.
func (l *look) mayPayBy(w way, scheme string) bool {
	return len(l.PayBy) == 0 || slices.ContainsFunc(l.PayBy, func(name string) bool { return name == w.name() || name == scheme })
}

func (l *look) onNetwork(chain network.Chain) bool {
	return len(l.Networks) == 0 || slices.ContainsFunc(l.Networks, func(name string) bool {
		c, err := l.registry.Lookup(name)
		return err == nil && c.ID == chain.ID
	})
}

func (l *look) inAsset(chain network.Chain, asset evm.Address) bool {
	return len(l.Assets) == 0 || slices.ContainsFunc(l.Assets, func(name string) bool {
		t, err := chain.Token(name)
		return err == nil && t.Address == asset
	})
}

// option reads an offer, or says why it cannot be paid.
func (l *look) option(r x402.Requirements) (o option, why string) {
	o = option{Requirements: r}
	var ok bool
	if o.way, ok = wayOf(r.Scheme); !ok {
		return o, fmt.Sprintf("pays by %q, which this payer does not", clip(r.Scheme))
	}
	if !l.mayPayBy(o.way, r.Scheme) {
		return o, fmt.Sprintf("pays by %s, which you do not", o.way.name())
	}
	var err error
	if o.chain, err = l.registry.Lookup(r.Network); err != nil || o.chain.CAIP2() != r.Network {
		return o, fmt.Sprintf("is on %s, which is not known here", clip(r.Network))
	}
	if !l.onNetwork(o.chain) {
		l.elsewhere++
		return o, fmt.Sprintf("is on %s, where you do not pay", o.chain.Name)
	}
	asset, err := evm.ParseAddress(r.Asset)
	if err != nil {
		return o, "names no asset"
	}
	if o.token, err = o.chain.Token(asset.String()); err != nil || !o.token.Dollar {
		return o, fmt.Sprintf("is in %s on %s, which no budget in dollars can measure", asset, o.chain.Name)
	}
	if !l.inAsset(o.chain, asset) {
		l.elsewhere++
		return o, fmt.Sprintf("is in %s, in which you do not pay", o.token.Symbol)
	}
	if o.payee, err = evm.ParseAddress(r.PayTo); err != nil || o.payee.IsZero() || o.payee == l.Key.Address() {
		return o, "names no payee that could be paid"
	}
	var fits bool
	if o.amount, err = money.ParseAmount(r.Amount); err == nil {
		o.dollars, fits = inDollars(o.amount, o.token.Decimals)
	}
	if !fits || o.amount.IsZero() {
		return o, "names no amount that could be paid"
	}
	if flow := r.ExtraString("paymentFlow"); flow != "" && flow != "authorization" && flow != "upfront" {
		return o, fmt.Sprintf("wants the payment flow %q", clip(flow))
	}
	return o, o.way.read(l, &o)
}

// accept makes the terms that a purchase is signed for.
func (o option) accept(t terms, id, method string, body []byte) purchase.Terms {
	var expires int64
	_ = json.Unmarshal(o.Extra["expires"], &expires) // 0 if the seller does not say
	return purchase.Terms{
		Purchase: id, Quote: o.ExtraString("quote"), Price: o.ExtraString("price"), Scheme: o.Scheme, Network: o.Network,
		Asset: o.token.Address, Payee: o.payee, Amount: o.amount, Method: method, Resource: t.Resource.URL,
		Body:       purchase.BodyDigest(body),
		Completion: o.ExtraString("completion"), Refund: o.ExtraString("refund"), Uncaptured: o.ExtraString("uncaptured"),
		Expires: expires,
	}
}

// expired reports whether the offer's quote is over.
func (o option) expired(now time.Time) bool {
	var expires int64
	return json.Unmarshal(o.Extra["expires"], &expires) == nil && expires != 0 && now.Add(-quoteSlack).Unix() > expires
}

// sameResource reports whether a 402 is about the URL that was asked for. A path alone is taken as one of the same seller.
// Stock sellers leave the query out, and behind a proxy that speaks TLS for them they believe to be asked without it.
func sameResource(announced string, asked *url.URL) bool {
	if announced == "" {
		return true
	}
	u, err := asked.Parse(announced)
	if err != nil || u.User != nil {
		return false
	}
	if strings.EqualFold(u.Scheme, "http") && strings.EqualFold(asked.Scheme, "https") {
		c := *u
		c.Scheme = asked.Scheme
		u = &c
	}
	return strings.EqualFold(u.Scheme, asked.Scheme) && strings.EqualFold(hostPort(u), hostPort(asked)) &&
		pathOf(u) == pathOf(asked) && (u.RawQuery == "" || u.RawQuery == asked.RawQuery)
}

func hostPort(u *url.URL) string {
	if port := u.Port(); port != "" {
		return net.JoinHostPort(u.Hostname(), port)
	}
	return net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[strings.ToLower(u.Scheme)])
}

func pathOf(u *url.URL) string {
	if p := u.EscapedPath(); p != "" {
		return p
	}
	return "/"
}

// clip bounds text that somebody else wrote.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
