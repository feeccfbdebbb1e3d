package payer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

const (
	// bodyMax is the largest request body that can be paid for: it is held in memory, because the payment covers it.
	bodyMax = 10 << 20
	// bodyKept is the largest one that is kept in the journal, for asking again after a restart.
	bodyKept = 64 << 10
	// answerMax bounds what is read of an answer that refuses.
	answerMax = 64 << 10
)

// backoffs are the waits before a lost answer is asked for again.
var backoffs = []time.Duration{200 * time.Millisecond, time.Second, 3 * time.Second}

// errTwoReadings is the error of an offer that its way to pay reads otherwise than the budget did.
var errTwoReadings = x402.Errorf("offer_invalid", "the offer can be read in two ways")

// errTooLarge is the error of paying for a request whose body cannot be held.
var errTooLarge = x402.Errorf("body_too_large", "the request has a price and its body is larger than %d bytes", bodyMax).
	WithHint("nothing was signed; send a smaller body")

// RoundTrip implements [http.RoundTripper]. A request that already carries a payment is passed on as it is. Of any other, a
// body of up to 10 MiB is read to its end before it is sent: a payment covers all of it, and it is sent again. Errors of a
// purchase are [*NeedError], [*PendingError] or [*x402.Error]; http.Client wraps them in a *url.Error, through which
// errors.As sees.
func (p *Payer) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Header.Get(x402.HeaderSignature) != "" || req.Header.Get(x402.HeaderPayment) != "" {
		return p.Transport.RoundTrip(req)
	}
	body, rest, err := bodyOf(req)
	if err != nil {
		return nil, err
	}
	first := req.Clone(req.Context())
	if rest != nil { // larger than what can be paid for: it goes through once
		first.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(body), rest), rest}
	} else {
		setBody(first, body)
	}
	resp, err := p.Transport.RoundTrip(first)
	if err != nil || resp.StatusCode != http.StatusPaymentRequired {
		return resp, err
	}
	if rest != nil {
		resp.Body.Close()
		return nil, errTooLarge
	}
	return p.buy(req, body, resp)
}

// bodyOf reads the request's body. If it is larger than what can be paid for, rest is what follows.
func bodyOf(req *http.Request) (body []byte, rest io.ReadCloser, err error) {
	if req.Body == nil || req.Body == http.NoBody {
		return nil, nil, nil
	}
	body, err = io.ReadAll(io.LimitReader(req.Body, bodyMax+1))
	if err != nil {
		req.Body.Close()
		return nil, nil, fmt.Errorf("read the request's body: %w", err)
	}
	if len(body) > bodyMax {
		return body, req.Body, nil
	}
	return body, nil, req.Body.Close()
}

func setBody(req *http.Request, body []byte) {
	req.Body, req.GetBody, req.ContentLength, req.TransferEncoding = http.NoBody, nil, int64(len(body)), nil
	if len(body) > 0 {
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		req.Body, _ = req.GetBody()
	}
}

// attemptsMax is how often one request is paid for at most: anew after a payment that came too late or was given up, or
// in another way after one that the payer cannot afford.
const attemptsMax = 3

// buy answers a 402. What the seller refuses is not signed again, except where it says that a payment came too late or
// that its purchase was given up, once; and a way to pay that the payer cannot afford gives way to another one.
func (p *Payer) buy(req *http.Request, body []byte, resp *http.Response) (*http.Response, error) {
	l := &look{Payer: p, ctx: req.Context(), req: req, tried: make(map[string]bool)}
	var refused error
	var t terms
	for attempt := 1; ; attempt++ {
		switch said, err := readTerms(resp); {
		case err == nil:
			t = said
		case attempt == 1 || resp.StatusCode == http.StatusPaymentRequired:
			return nil, p.unusable(req, err)
		default: // a 412 need not repeat the offers: those of the 402 stand
		}
		if attempt == 1 {
			answer, err := p.signIn(req, body, t)
			if err != nil {
				return nil, err
			}
			switch {
			case answer == nil:
			case answer.StatusCode != http.StatusPaymentRequired:
				return answer, nil
			default:
				if t, err = readTerms(answer); err != nil {
					return nil, p.unusable(req, err)
				}
			}
		}
		r, leave, err := l.prepare(body, t)
		if err != nil {
			var need *NeedError
			if refused != nil && errors.As(err, &need) && need.Code == "no_common_option" {
				return nil, refused
			}
			return nil, err
		}
		out := p.present(req.Context(), r, requestOf(req, r, body))
		var next step
		resp, next, err = p.conclude(req, r, out)
		leave()
		if err == nil || next == stop || next == newOffer && l.tried[anew] || attempt == attemptsMax {
			if resp != nil && err != nil {
				resp.Body.Close()
				resp = nil
			}
			return resp, err
		}
		if next == otherWay {
			l.tried[option{Requirements: x402.Requirements{Scheme: r.scheme(), Network: r.Network}, token: network.Token{Address: r.Asset}}.key()] = true
		} else {
			l.tried[anew] = true
		}
		refused = err
	}
}

func (p *Payer) unusable(req *http.Request, err error) error {
	var coded *x402.Error
	if errors.As(err, &coded) {
		return &NeedError{Need{Code: coded.Code, Reason: coded.Message, Method: req.Method, URL: req.URL.String()}}
	}
	return err
}

// prepare chooses an offer, sets the budget aside, signs, and writes the purchase down. leave is to be called once the
// purchase is over.
func (l *look) prepare(body []byte, t terms) (r row, leave func(), err error) {
	r, o, leave, err := l.choose(t)
	if err != nil {
		return row{}, nil, err
	}
	req := l.req
	r.Accept, r.BodyType, r.BodyHash = req.Header.Get("Accept"), req.Header.Get("Content-Type"), purchase.BodyDigest(body)
	if r.BodyGone = len(body) > bodyKept; !r.BodyGone {
		r.Body = body
	}
	if err := l.sign(l.ctx, &r, o, t, body); err != nil {
		r.State, r.Proven, r.Code = Void, true, "not_signed"
		now := l.Now()
		r.DoneAt = &now
		_ = l.journal.record(r, false) // if it fails, the reservation runs out
		leave()
		return row{}, nil, err
	}
	return r, leave, nil
}

// choose finds the offer to pay and reserves it, asking the owner where the policy says no. Offers are tried from the
// cheapest on: one that the budget does not cover, or the account, gives way to the next.
func (l *look) choose(t terms) (row, option, func(), error) {
	p, ctx, now, seller := l.Payer, l.ctx, l.Now(), lowerHost(l.req.URL)
	need := Need{Method: l.req.Method, URL: l.req.URL.String()}
	fail := func(err error) (row, option, func(), error) { return row{}, option{}, nil, err }
	if !sameResource(t.Resource.URL, l.req.URL) {
		need.Code, need.Reason = "offer_invalid", fmt.Sprintf("asked for %s, and the 402 sells %s", l.req.URL.Redacted(), clip(t.Resource.URL))
		return fail(&NeedError{need})
	}
	if !p.limits.allows(seller) && !l.allowed {
		need.Code, need.Reason = "seller_not_allowed", fmt.Sprintf("%s is not on your list of sellers. Nothing was signed", seller)
		need.Ways = []Way{{Kind: Budgeting, Text: "add " + seller + " to the sellers that may be paid"}}
		if l.allowed = p.ask(ctx, need); !l.allowed {
			return fail(&NeedError{need})
		}
	}
	list, not, err := l.options(t)
	if err != nil {
		return fail(err)
	}
	if len(list) == 0 && l.err != nil {
		return fail(l.err)
	}
	if len(list) == 0 {
		return fail(&NeedError{l.noOption(need, t, not)})
	}
	var first *Need // what kept the cheapest from being paid
	keep := func(n Need) {
		if first == nil {
			first = &n
		}
	}
	var over *option
	for i := range list {
		o := &list[i]
		n := need
		n.Asked, n.Payee = o.money(), o.payee
		if o.expired(now) {
			n.Code, n.Reason = "quote_expired", "the quote is over already. Nothing was signed"
			n.Hint = "check your clock, or ask again"
			keep(n)
			continue
		}
		before, known, err := p.journal.payee(seller, o.Network, o.Scheme)
		if err != nil {
			return fail(errJournal(p.Journal, err))
		}
		if known && before.payee != o.payee && l.trustedPayee != o.payee {
			n.Code = "payee_changed"
			n.Reason = fmt.Sprintf("%s was paid at %s since %s, now asks %s. Nothing was signed", seller, before.payee, before.since.Format(time.DateOnly), o.payee)
			n.Hint = "ask the seller; then --trust-payee " + o.payee.String()
			if !p.ask(ctx, n) {
				return fail(&NeedError{n})
			}
			l.trustedPayee = o.payee
		}
		if short := l.afford(o, t); short != nil {
			keep(l.shortNeed(n, *o, short, t))
			continue
		}
		r, leave, err := l.reserve(o, false)
		var beyond *overBudget
		switch {
		case err == nil:
			return r, *o, leave, nil
		case errors.Is(err, errDrawnDry):
			return l.choose(t) // others drew it meanwhile, or bought it
		case !errors.As(err, &beyond):
			return fail(err)
		}
		if first == nil {
			over = o
		}
		keep(overNeed(n, beyond, t, list[i:]))
	}
	if over != nil && p.ask(ctx, *first) {
		r, leave, err := l.reserve(over, true)
		if errors.Is(err, errDrawnDry) {
			return l.choose(t)
		}
		if err != nil {
			return fail(err)
		}
		return r, *over, leave, nil
	}
	return fail(&NeedError{*first})
}

// reserve sets an offer's price aside, or one of the calls in stock. Whoever would buy a bundle waits for another one who
// does; the error is errDrawnDry if the offer has to be looked at again then.
func (l *look) reserve(o *option, anyway bool) (row, func(), error) {
	p := l.Payer
	r := row{
		ID: p.newID(), State: Reserved, At: l.Now(), Seller: lowerHost(l.req.URL), Method: l.req.Method, URL: withoutFragment(l.req.URL),
		Price: o.ExtraString("price"), Network: o.Network, Asset: o.token.Address, Symbol: o.token.Symbol, Decimals: o.token.Decimals,
		Payee: o.payee, Amount: o.amount, Scheme: o.Scheme, Payer: p.Key.Address(),
	}
	leave := func() {}
	switch {
	case o.stock != nil:
		r.Draw, r.Amount = o.stock.id, money.Amount{}
	case o.bundle != nil:
		var err error
		var waited bool
		if leave, waited, err = p.queues.enter(l.ctx, o.bundle.Of); err != nil {
			return row{}, nil, err
		}
		if waited {
			leave()
			return row{}, nil, errDrawnDry
		}
		b := *o.bundle
		b.ID = r.ID
		r.Bundle = &b
	}
	err := p.journal.reserve(r, anyway)
	if over := (*overBudget)(nil); errors.As(err, &over) && !anyway {
		// What may still be charged counts as spent; the chain may know that it cannot be any more.
		if settled, recheckErr := p.Recheck(l.ctx); recheckErr == nil && settled > 0 {
			err = p.journal.reserve(r, anyway)
		}
	}
	if err == nil {
		return r, leave, nil
	}
	leave()
	busy := (*beingBought)(nil)
	switch {
	case errors.As(err, new(*overBudget)) || errors.Is(err, errDrawnDry):
		return row{}, nil, err
	case !errors.As(err, &busy):
		return row{}, nil, errJournal(p.Journal, err)
	case l.waits < len(backoffs): // by another process: its call may be ours to draw in a moment
		if err := p.Wait(l.ctx, backoffs[l.waits]); err != nil {
			return row{}, nil, err
		}
		l.waits++
		return row{}, nil, errDrawnDry
	case busy.by.State == Reserved:
		return row{}, nil, x402.Errorf("payment_in_progress", "another process is buying a bundle of this, or crashed before it signed").WithHint("try again in %s", reserveLease)
	}
	return row{}, nil, &PendingError{Purchase: busy.by.ID, URL: busy.by.URL, Err: busy}
}

func (p *Payer) newID() string {
	p.randMu.Lock()
	defer p.randMu.Unlock()
	return purchase.NewID(p.Rand)
}

func (p *Payer) ask(ctx context.Context, n Need) bool {
	return p.Ask != nil && ctx.Err() == nil && p.Ask(ctx, n) == Proceed
}

// sign makes the payment and writes it down, in that order: when it returns nil the payment is on disk, and may leave.
func (p *Payer) sign(ctx context.Context, r *row, o option, t terms, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	accepted := o.accept(t, r.ID, r.Method, body)
	if accepted.Resource == "" {
		accepted.Resource = r.URL
	}
	r.Terms = accepted.Hash()
	if err := checkOffer(t, o); err != nil {
		return err
	}
	payload, extensions, err := o.way.sign(ctx, p, o, r)
	if err != nil {
		return fmt.Errorf("pay for %s: %w", r.URL, err)
	}
	t.Extensions = extensions
	payment, err := p.envelope(o, t, r.ID, payload)
	if err != nil {
		return err
	}
	if r.Header, r.Payment, err = payment.Header(); err != nil {
		return err
	}
	if len(r.Payment) > x402.HeaderBytesMax {
		return x402.Errorf("offer_invalid", "the offer is so long that no payment for it fits a header: %d bytes", len(r.Payment))
	}
	return p.mayLeave(ctx, r)
}

// mayLeave writes down that a payment leaves: when it returns nil it is on disk, and may.
func (p *Payer) mayLeave(ctx context.Context, r *row) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.State = Sent
	if err := p.journal.record(*r, true); err != nil {
		return errJournal(p.Journal, err)
	}
	return nil
}

// envelope puts a payload into the payment that answers the terms, with their extensions and the purchase's own.
func (p *Payer) envelope(o option, t terms, id string, payload any) (x402.Payment, error) {
	payment, err := x402.NewPayment(t.PaymentRequired, o.Requirements, payload)
	if err != nil {
		return payment, err
	}
	if payment.Version == 1 {
		if o.way == (byGuarantee{}) { // its version 1 names networks as version 2 does
			payment.NetworkSent = cmp.Or(o.NetworkSent, o.Network)
		}
		return payment, nil
	}
	ours, err := json.Marshal(purchase.Extension{Purchase: id})
	if err != nil {
		return payment, err
	}
	echoed := map[string]json.RawMessage{purchase.ExtensionKey: ours}
	for key, value := range payment.Extensions {
		if key != purchase.ExtensionKey {
			echoed[key] = value
		}
	}
	payment.Extensions = echoed
	payment, _ = payment.WithPaymentID(id) // if the seller asks for one
	return payment, nil
}

// requestOf is the request that carries the payment. The caller's own request never does, so no redirect takes it along.
func requestOf(req *http.Request, r row, body []byte) func() *http.Request {
	return func() *http.Request {
		paid := req.Clone(req.Context())
		setBody(paid, body)
		paid.Header.Set(r.Header, r.Payment)
		return paid
	}
}

// outcome is what presenting a payment came to.
type outcome struct {
	resp *http.Response // with its body still to be read, unless said
	said *x402.Error    // the reason in an answer that refuses; its body is in memory then
	err  error          // no answer
	left bool           // the payment may have left the process
	lost bool           // it may have arrived before, and no answer to that came back
}

// present sends a payment, and again if its answer is lost or says to ask again.
func (p *Payer) present(ctx context.Context, r row, request func() *http.Request) (out outcome) {
	for attempt := 0; ; attempt++ {
		left, lost := out.left, out.lost || out.left && out.err != nil
		if ctx.Err() != nil && attempt == 0 {
			return outcome{err: ctx.Err()}
		}
		out = p.once(request())
		out.left, out.lost = out.left || left, out.lost || lost
		if attempt == len(backoffs) || !out.again() {
			return out
		}
		p.Log.Debug("asking again with the same payment", "purchase", r.ID, "attempt", attempt+1, "error", out.why())
		if err := p.Wait(ctx, backoffs[attempt]); err != nil {
			if out.err == nil {
				out.err = err
			}
			return out
		}
	}
}

// once sends the payment once.
func (p *Payer) once(req *http.Request) (out outcome) {
	// An error of dialing does not say that nothing left: net/http sends a request again, over a new connection, that an
	// old one lost, and then tells of the new one only.
	var connected atomic.Int32
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Add(1) }}
	resp, err := p.Transport.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if err != nil {
		var op *net.OpError
		dialing := errors.As(err, &op) && op.Op == "dial"
		return outcome{err: err, left: !dialing || connected.Load() > 0}
	}
	out = outcome{resp: resp, left: true, lost: connected.Load() > 1}
	if resp.StatusCode < 400 {
		return out
	}
	if _, ok := x402.ReadReceipt(resp); ok && resp.StatusCode != http.StatusPaymentRequired {
		return out // the seller's own answer, with its receipt
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, max(answerMax, x402.RequiredBodyMax)+1))
	resp.Body.Close()
	if err != nil {
		return outcome{err: err, left: true}
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	out.said = reasonOf(resp, body)
	return out
}

// reasonOf finds the code with which a seller refused: in the body, the terms' header, or the receipt. An answer other than
// 402 without a code of the table, or with one that could be the handler's own fault, is an answer like any other: nil.
func reasonOf(resp *http.Response, body []byte) *x402.Error {
	var e x402.Error
	if json.Unmarshal(body, &e) != nil {
		e = x402.Error{}
	}
	candidates := []string{e.Code}
	if t, err := readTerms(&http.Response{Header: resp.Header, Body: io.NopCloser(bytes.NewReader(body))}); err == nil {
		candidates = append(candidates, t.Error)
	}
	if receipt, ok := x402.ReadReceipt(resp); ok {
		candidates = append(candidates, receipt.ErrorReason)
		if e.Message == "" {
			e.Message = receipt.ErrorMessage
		}
	}
	for _, code := range candidates {
		if _, ok := x402.Lookup(code); ok && (code != "internal" || resp.StatusCode == http.StatusPaymentRequired) {
			e.Code, e.Message, e.Hint = code, clip(e.Message), clip(e.Hint)
			return &e
		}
	}
	if resp.StatusCode != http.StatusPaymentRequired {
		return nil
	}
	e.Code, e.Message = "payment_refused", clip(e.Message)
	return &e
}

// again reports whether the same payment should be shown once more: the answer is lost, or says so.
func (o outcome) again() bool {
	if o.err != nil {
		return !errors.Is(o.err, context.Canceled) && !errors.Is(o.err, context.DeadlineExceeded)
	}
	return o.said != nil && o.said.Reason().Retry == "same payment"
}

// transaction is the hash that the seller names for a payment which it does not know to be settled, "" if none.
func (o outcome) transaction() string {
	if o.resp == nil {
		return ""
	}
	receipt, _ := x402.ReadReceipt(o.resp)
	tx, err := evm.ParseHash(receipt.Transaction)
	if err != nil {
		return ""
	}
	return tx.String()
}

func (o outcome) why() error {
	if o.err != nil {
		return o.err
	}
	if o.said != nil {
		return o.said
	}
	return nil
}

// step is how a purchase that was refused may go on.
type step int

const (
	stop     step = iota
	newOffer      // with a new payment for the offer as it stands now
	otherWay      // in another way to pay
)

// anew marks in [look.tried] that a payment was made anew already; it is no offer's key.
const anew = "anew"

// unaffordable are the codes of refusals after which another way to pay may do: this one was checked and cannot pay.
var unaffordable = map[string]bool{
	"collateral_insufficient": true, "limit_per_cycle_exceeded": true, "insufficient_funds": true, "permit2_insufficient_balance": true,
	"invalid_exact_evm_insufficient_balance": true, "permit2_allowance_required": true,
}

// ended are the codes of a seller that keeps purchases: it knows what became of this one.
var ended = map[string]bool{"payment_void": true, "quote_expired": true, "handler_failed": true, "not_charged": true, "buyer_gone": true, "interrupted": true}

// spent are the codes that say that this very payment was made before: a lost answer is what it bought.
var spent = map[string]bool{"payment_used": true, "duplicate_settlement": true, "invalid_exact_evm_nonce_already_used": true}

// conclude writes down what a purchase came to. It returns an answer for the caller, or an error; with an error also how
// the purchase may go on, and then the 402 for that.
func (p *Payer) conclude(req *http.Request, r row, out outcome) (*http.Response, step, error) {
	ctx := req.Context()
	switch {
	case out.err != nil && !out.left: // certain: it never left
		p.void(&r, true, "not_sent")
		return nil, stop, out.err
	case out.err != nil || out.again():
		if out.said != nil && r.State == Sent {
			r.Code = out.said.Code
			p.write(r)
		}
		p.Log.Warn("outcome of a purchase is not known", "purchase", r.ID, "url", r.URL, "error", out.why())
		return nil, stop, &PendingError{Purchase: r.ID, URL: r.URL, Transaction: out.transaction(), Err: out.why()}
	case out.said == nil:
		return p.served(req, r, out.resp), stop, nil
	case out.lost && r.Transfer != "" && r.State == Sent && !ended[out.said.Code] && !spent[out.said.Code]:
		// A stock seller takes a transfer that it has settled already for one that fails. Only the chain knows.
		if changed, err := p.recheck(ctx, &r); err == nil && changed && r.State == Charged {
			return nil, stop, &NeedError{p.refusedNeed(r, out.said, terms{})}
		}
		r.Code = out.said.Code
		p.write(r)
		return nil, stop, &PendingError{Purchase: r.ID, URL: r.URL, Transaction: out.transaction(), Err: out.said}
	}

	// The seller refuses. Its word, and its note if there is one, decide what counts as spent; where they are, the chain.
	receipt, ok := x402.ReadReceipt(out.resp)
	switch {
	case spent[out.said.Code] && (!ok || receipt.Amount == ""): // it bought something, and the seller has nothing more to say about that
		r.settle(nil, p.Now())
		p.write(r)
	case ok:
		r.settle(&receipt, p.Now())
		p.confirm(ctx, &r)
		p.write(r)
	case r.State != Charged || out.said.Code == "payment_void" && r.assumed():
		p.void(&r, false, out.said.Code)
	}
	if out.resp.StatusCode != http.StatusPaymentRequired && out.said.Code != "permit2_allowance_required" {
		return p.told(req, r, out.resp), stop, nil
	}
	var t terms
	if read, err := readTerms(peek(out.resp)); err == nil {
		t = read
	}
	switch code := out.said.Code; {
	case r.State == Charged:
		return nil, stop, &NeedError{p.refusedNeed(r, out.said, t)}
	case code == "quote_expired" || code == "payment_void":
		return out.resp, newOffer, &NeedError{p.refusedNeed(r, out.said, t)}
	case r.Draw != "" && r.Amount.IsZero() && !clockOrKey[code]:
		need := p.disputed(r, out.said, t)
		if !p.ask(ctx, need) {
			return nil, stop, &NeedError{need}
		}
		if err := p.giveUp(r.Draw); err != nil {
			return nil, stop, errJournal(p.Journal, err)
		}
		return out.resp, newOffer, &NeedError{need}
	case unaffordable[code]:
		return out.resp, otherWay, &NeedError{p.refusedNeed(r, out.said, t)}
	}
	return nil, stop, &NeedError{p.refusedNeed(r, out.said, t)}
}

// clockOrKey are the codes of draws that say nothing about the bundle.
var clockOrKey = map[string]bool{"timestamp_skew": true, "payer_signature_invalid": true, "high_s": true}

// peek returns a response whose body can be read without using up the given one's.
func peek(resp *http.Response) *http.Response {
	body, _ := io.ReadAll(resp.Body) // in memory already
	resp.Body = io.NopCloser(bytes.NewReader(body))
	copied := *resp
	copied.Body = io.NopCloser(bytes.NewReader(body))
	return &copied
}

// served hands an answer to the caller. Its receipt counts at once, or at the end of its body if only then it is known.
func (p *Payer) served(req *http.Request, r row, resp *http.Response) *http.Response {
	rec := p.remember(req, r, resp)
	early, ok := x402.ReadReceipt(&http.Response{Header: resp.Header})
	switch {
	case ok:
		rec.settle(req.Context(), &early)
	case resp.StatusCode < 400:
		rec.settle(req.Context(), nil) // stock sellers may give no receipt: what was signed counts
	}
	if announced(resp.Trailer) {
		resp.Body = &trailing{ReadCloser: resp.Body, resp: resp, rec: rec}
	}
	return resp
}

// told hands a refusal other than 402 to the caller, who knows its statuses.
func (p *Payer) told(req *http.Request, r row, resp *http.Response) *http.Response {
	p.remember(req, r, resp)
	return resp
}

// remember ties a purchase to its answer, for [Receipt]. The answer's request is the caller's, without the payment.
func (p *Payer) remember(req *http.Request, r row, resp *http.Response) *record {
	rec := &record{payer: p, row: r}
	resp.Request = req.WithContext(context.WithValue(req.Context(), recordKey{}, rec))
	return rec
}

func announced(trailer http.Header) bool {
	for _, name := range []string{x402.HeaderResponse, x402.HeaderXResponse} {
		if _, ok := trailer[http.CanonicalHeaderKey(name)]; ok {
			return true
		}
	}
	return false
}

// trailing reads the receipt behind a body that was charged by what was streamed.
type trailing struct {
	io.ReadCloser
	resp *http.Response
	rec  *record
	done bool
}

func (t *trailing) Read(b []byte) (int, error) {
	n, err := t.ReadCloser.Read(b)
	if errors.Is(err, io.EOF) && !t.done {
		t.done = true
		if late, ok := x402.ReadReceipt(&http.Response{Header: t.resp.Trailer}); ok {
			t.rec.settle(t.resp.Request.Context(), &late)
		}
	}
	return n, err
}

func (p *Payer) void(r *row, proven bool, code string) {
	now := p.Now()
	r.State, r.Charged, r.Proven, r.Code, r.DoneAt = Void, money.Amount{}, proven, code, &now
	p.write(*r)
}

// write records what is known already; if it fails, the purchase counts as not known, which costs budget and nothing else.
func (p *Payer) write(r row) {
	if err := p.journal.record(r, false); err != nil {
		p.Log.Error("purchase not written down; it counts as spent", "purchase", r.ID, "error", err)
	}
}

// Resume asks again for a purchase, with the very same payment: the seller answers as it did, or would have, and cannot
// charge twice. The error is [*PendingError] if the outcome is still not known, and [*x402.Error] with code not_found for
// a purchase that is not in the journal, or whose request is not kept.
func (p *Payer) Resume(ctx context.Context, id string) (*http.Response, error) {
	r, ok, err := p.journal.find(id)
	switch {
	case err != nil:
		return nil, errJournal(p.Journal, err)
	case !ok:
		return nil, x402.Errorf("not_found", "no purchase %s in the journal", clip(id)).WithHint("--receipt all lists them; --journal FILE names another")
	case r.Seller == "":
		return nil, x402.Errorf("not_found", "%s is a payment outside any request", id).WithHint("farthing pay --resume %s", id)
	case r.Payment == "":
		return nil, x402.Errorf("not_found", "purchase %s was never paid, or too long ago to be asked for again", id)
	case r.BodyGone:
		return nil, x402.Errorf("not_found", "the request of purchase %s was too large to keep", id)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, nil)
	if err != nil {
		return nil, x402.Errorf("journal_unusable", "purchase %s: %w", id, err)
	}
	for name, value := range map[string]string{"Accept": r.Accept, "Content-Type": r.BodyType} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	if changed, err := p.recheck(ctx, &r); err == nil && changed && r.State == Void {
		return nil, x402.Errorf("payment_void", "payment for %s was never brought to the chain, and its time is over. It can not be charged any more", r.URL).
			WithHint("ask again; a new payment is safe")
	}
	out := p.present(ctx, r, requestOf(req, r, r.Body))
	out.lost = true
	if out.err != nil {
		out.left = true // the first time it may have
	}
	resp, _, err := p.conclude(req, r, out)
	if resp != nil && err != nil {
		resp.Body.Close()
		resp = nil
	}
	return resp, err
}
