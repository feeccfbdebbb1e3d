package paywall

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// demand answers 402 with a fresh offer, and with the reason if a payment was refused. It returns an error, and answers
// nothing, if no offer can be made.
func (v *visit) demand(reason *x402.Error) *x402.Error {
	if v.needsBody() {
		if e := v.readBody(); e != nil {
			return e
		}
	}
	offers, err := v.offers()
	if err != nil {
		e := internal(err)
		v.pw.log.Error("cannot make a price", "route", v.name(), "error", err)
		return e
	}
	if len(offers) == 0 { // this request is free
		v.event.Kind, v.event.Status = NotCharged, http.StatusOK
		v.handler.ServeHTTP(v.w, v.fresh(v.r.Context()))
		return nil
	}
	terms, err := v.terms(offers, reason)
	if err != nil {
		return internal(err)
	}
	if v.pw.cfg.Help != "" {
		v.w.Header().Add("Link", fmt.Sprintf("<%s>; rel=%q", v.pw.cfg.Help, "help"))
	}
	contentType, body := "", []byte(nil) // what x402 writes
	if wantsPage(v.r) {
		contentType = "text/html; charset=utf-8"
		if body, err = v.page(terms); err != nil {
			return internal(err)
		}
	}
	v.event.Kind, v.event.Status = Refused, http.StatusPaymentRequired
	if reason == nil {
		v.event.Code = "payment_required"
	} else {
		v.event.Status = status(reason)
	}
	if err := x402.WritePaymentRequired(v.w, terms, contentType, body); err != nil {
		v.pw.log.Debug("buyer did not take the 402", "error", err)
	}
	return nil
}

func (v *visit) terms(offers []offer, reason *x402.Error) (x402.Terms, error) {
	first := offers[0]
	price := first.tariff.text()
	switch {
	case measuredLater(first.tariff.price):
		price += ", at most " + show(first.quote.Amount, first.token)
	case first.tariff.price.Unit.Kind != money.Call:
		price += ", " + show(first.quote.Amount, first.token) + " for this request"
	}
	t := x402.Terms{
		Required: x402.PaymentRequired{
			X402Version: 2, Resource: x402.Resource{URL: v.resource, Description: v.description, MimeType: v.mimeType},
		},
		Error:      fmt.Sprintf("Payment required: %s for %s %s. Nothing has been charged.", price, v.r.Method, v.r.URL.Path),
		Price:      price,
		Completion: first.quote.Completion, Refund: first.quote.Refund,
		QuoteExpires: time.Unix(first.quote.Expires, 0).UTC().Format(time.RFC3339),
		Alternative:  v.alternative,
		BodyAll:      v.bodyAll,
		Try:          "farthing get " + v.pw.devFlag() + "--max '" + generous(first) + "' " + shellWord(v.resource),
	}
	if v.r.Method != http.MethodGet && v.r.Method != http.MethodHead {
		t.Try = "farthing get -X " + v.r.Method + strings.TrimPrefix(t.Try, "farthing get")
	}
	t.Required.Error = "Payment required"
	if reason != nil {
		t.Code, t.Hint, t.Details = reason.Code, reason.Remedy(), reason.Details
		t.Error = fmt.Sprintf("Payment refused: %s. Nothing has been charged.", strings.TrimRight(reason.Error(), "."))
		t.Required.Error = reason.Code
	}
	if v.pw.cfg.DevNote != "" {
		t.Error += " " + v.pw.cfg.DevNote
	}
	for _, o := range offers {
		r, now, err := v.requirements(o)
		if err != nil {
			return t, err
		}
		if !now {
			continue
		}
		t.Required.Accepts = append(t.Required.Accepts, r)
		if !slices.Contains(t.WaysToPay, o.way.name()) {
			t.WaysToPay = append(t.WaysToPay, o.way.name())
		}
	}
	if len(t.Required.Accepts) == 0 {
		return t, x402.Errorf("facilitator_unreachable", "none of the ways to pay can be offered now")
	}
	var err error
	t.Required.Extensions, err = v.extensions(offers, t.Required.Accepts)
	return t, err
}

// generous is a limit that allows the offer and a little more.
func generous(o offer) string {
	if twice, ok := o.quote.Amount.Mul(money.Units(2)); ok {
		return show(twice, o.token)
	}
	return show(o.quote.Amount, o.token)
}

// shellWord quotes text for a shell if it needs that.
func shellWord(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:/._-%") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// wantsPage reports whether a browser asks.
func wantsPage(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "text/html") && strings.Contains(r.UserAgent(), "Mozilla")
}

var pageTemplate = template.Must(template.New("402").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Payment required: {{.Price}}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 40em; margin: 3em auto; padding: 0 1em; color: #222; }
dt { font-weight: 600; margin-top: .6em; } dd { margin: 0; }
code { background: #f3f3f0; padding: .3em .5em; display: block; overflow-x: auto; }
</style>
</head>
<body>
<h1>Payment required</h1>
<p>{{.Error}}</p>
{{if .Hint}}<p>{{.Hint}}</p>{{end}}
<dl>
<dt>Price</dt><dd>{{.Price}}</dd>
<dt>Ways to pay</dt><dd>{{range $i, $w := .WaysToPay}}{{if $i}}, {{end}}{{$w}}{{end}}</dd>
<dt>When it is charged</dt><dd>{{.Completion}}</dd>
<dt>Refund</dt><dd>{{.Refund}}</dd>
<dt>Price stands until</dt><dd>{{.QuoteExpires}}</dd>
{{if .Alternative}}<dt>Cheaper</dt><dd><a href="{{.Alternative}}">{{.Alternative}}</a></dd>{{end}}
</dl>
<p>A program pays this page, for example:</p>
<code>{{.Try}}</code>
{{if .Code}}<p>Code: {{.Code}}</p>{{end}}
</body>
</html>
`))

func (v *visit) page(t x402.Terms) ([]byte, error) {
	var b bytes.Buffer
	err := pageTemplate.Execute(&b, t)
	v.w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	return b.Bytes(), err
}

// devFlag is what the buyer's command needs on a development chain, whose clearing house it finds by itself.
func (pw *Paywall) devFlag() string {
	if pw.chain.Name == "dev" {
		return "--dev "
	}
	return ""
}
