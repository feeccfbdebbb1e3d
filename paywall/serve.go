package paywall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// ServeHTTP implements http.Handler.
func (rt *route) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	payment, err := x402.ReadPayment(r.Header)
	r = withoutPayment(r)
	if rt.fault == nil && rt.free() {
		if !plainPath(r) {
			x402.WriteError(w, pathAmbiguous(r))
			return
		}
		rt.handler.ServeHTTP(w, r)
		return
	}
	v := &visit{route: rt, w: w, r: r, began: rt.pw.cfg.Now(), resource: rt.pw.origin(r) + target(r)}
	v.event = Event{
		At: v.began, Kind: Refused, Method: r.Method, Path: r.URL.Path, Route: v.name(), UserAgent: r.UserAgent(),
	}
	defer func() {
		v.event.Elapsed = rt.pw.cfg.Now().Sub(v.began)
		if rt.pw.cfg.OnSale != nil {
			rt.pw.cfg.OnSale(v.event)
		}
	}()
	if r.Header.Get("Origin") != "" {
		w.Header().Add("Access-Control-Expose-Headers", strings.Join([]string{x402.HeaderRequired, x402.HeaderResponse, x402.HeaderXResponse}, ", "))
	}
	if refusal := v.serve(payment, err); refusal != nil {
		v.refuse(refusal)
	}
}

// serve is the order of checks of docs/spec/purchase.md: path, payment header, payment.
func (v *visit) serve(payment *x402.Payment, headerErr error) *x402.Error {
	switch {
	case !plainPath(v.r):
		return pathAmbiguous(v.r)
	case v.fault != nil:
		v.pw.log.Error("route has no usable price", "route", v.name(), "error", v.fault)
		return x402.Errorf("price_invalid", "%s cannot be sold: its price is not set up", v.name())
	}
	if e := v.named(); e != nil {
		v.pw.log.Error("route cannot be told from another one", "route", v.name(), "error", e)
		return e
	}
	switch {
	case headerErr != nil:
		return internal(headerErr)
	case payment == nil:
		if handled, refusal := v.signedIn(); handled {
			return refusal
		}
		return v.demand(nil)
	}
	return v.pay(payment)
}

func pathAmbiguous(r *http.Request) *x402.Error {
	return x402.Errorf("path_ambiguous", "path %q can be read in two ways", clip(r.URL.EscapedPath()))
}

// withoutPayment returns the request as handlers see it.
func withoutPayment(r *http.Request) *http.Request {
	clean := new(http.Request)
	*clean = *r
	clean.Header = r.Header.Clone()
	x402.StripPayment(clean.Header)
	return clean
}

// origin returns scheme and host under which the buyer reached us.
func (pw *Paywall) origin(r *http.Request) string {
	if pw.base != nil {
		return pw.base.Scheme + "://" + pw.base.Host
	}
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// readBody takes the request's body into memory, once.
func (v *visit) readBody() *x402.Error {
	if !v.digest.IsZero() {
		return nil
	}
	limit := v.pw.cfg.BodyBytes
	body := v.r.Body
	if body == nil {
		body = http.NoBody
	}
	large := v.r.ContentLength > limit
	if !large {
		var err error
		if v.body, err = io.ReadAll(io.LimitReader(body, limit+1)); err != nil {
			return x402.Errorf("malformed_request", "the request's body ended early: %w", err)
		}
		large = int64(len(v.body)) > limit
	}
	if large {
		return x402.Errorf("body_too_large", "the request's body is larger than %d bytes", limit)
	}
	v.digest = purchase.RequestDigest(v.r.Method, v.resource, purchase.BodyDigest(v.body))
	return nil
}

// fresh returns the request with a body that can be read from its start.
func (v *visit) fresh(ctx context.Context) *http.Request {
	r := v.r.WithContext(ctx)
	if !v.digest.IsZero() {
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(v.body)), int64(len(v.body)), nil
		if len(v.body) == 0 {
			r.Body = http.NoBody
		}
	}
	return r
}

func (v *visit) requestForPrice() *http.Request { return v.fresh(v.r.Context()) }

// pay serves the visit for a payment, or says why not.
func (v *visit) pay(p *x402.Payment) *x402.Error {
	ctx, pw := v.r.Context(), v.pw
	if e := v.readBody(); e != nil {
		return e
	}
	among, e := v.among(p)
	if e != nil {
		return e
	}
	v.dialect, v.accepted = p.Dialect, p.Accepted
	v.event.Way = among[0].way.name()
	paid, e := among[0].way.read(v, p, among)
	if e != nil {
		return e
	}
	f := paid.facts()
	v.event.Payment, v.event.Payer, v.event.Cap = f.id, f.payer, f.amount

	a, refusal := v.agree(p, paid)
	if refusal == nil {
		refusal = a.late
	}
	if refusal != nil {
		// A payment that is no longer good may have bought something when it was.
		known, ok, err := pw.cfg.Purchases.Find(ctx, f.id)
		switch {
		case err != nil:
			return bookDown(err)
		case !ok || paid.verify(v, nil) != nil:
			return refusal
		case a == nil && known.Shown(v.digest) == purchase.Secure:
			return refusal
		}
	} else if e := paid.verify(v, a); e != nil {
		return e
	}

	leave, e := v.alone(ctx, f.id)
	if e != nil {
		return e
	}
	defer leave()
	reserved, e := v.reserve(ctx, paid, a)
	if e != nil || reserved == nil {
		return e
	}
	return v.sell(paid, a, *reserved)
}

// alone waits until no other request of this process is about the payment.
func (v *visit) alone(ctx context.Context, payment evm.Hash) (leave func(), refusal *x402.Error) {
	patience := time.NewTimer(v.pw.cfg.Wait)
	defer patience.Stop()
	for {
		leave, others := v.pw.join(payment)
		if leave != nil {
			return leave, nil
		}
		select {
		case <-others:
		case <-patience.C:
			return nil, inProgress()
		case <-ctx.Done():
			return nil, inProgress()
		}
	}
}

func inProgress() *x402.Error {
	return x402.Errorf("payment_in_progress", "the request that this payment pays for is being served")
}

func bookDown(err error) *x402.Error {
	return &x402.Error{Code: "book_unavailable", Message: "the seller's book of purchases does not answer", Err: err}
}

// internal makes an [*x402.Error] of any error; what it does not know is for the operator only.
func internal(err error) *x402.Error {
	if e, ok := x402.AsError(err); ok {
		return e
	}
	return &x402.Error{Code: "internal", Message: "internal error", Err: err}
}

// reserve makes the payment this visit's, durably. It returns the purchase to be secured and run, or nil if the visit
// has been answered, or a refusal.
func (v *visit) reserve(ctx context.Context, paid payment, a *agreement) (*purchase.Purchase, *x402.Error) {
	book, id := v.pw.cfg.Purchases, paid.facts().id
	ctx = context.WithoutCancel(ctx) // a reservation that was half made helps nobody
	var p purchase.Purchase
	var err error
	if a != nil {
		p, err = paid.reserve(ctx, a, v.newPurchase(a))
	} else { // it was found in the book, and is not to be served
		var ok bool
		if p, ok, err = book.Find(ctx, id); err == nil && !ok {
			err = errors.New("a purchase is gone")
		} else if err == nil {
			err = purchase.ErrTaken
		}
	}
	v.event.Purchase = p.ID
	var refusal *x402.Error
	switch {
	case err == nil:
		return &p, nil
	case errors.As(err, &refusal):
		return nil, refusal
	case !errors.Is(err, purchase.ErrTaken):
		return nil, bookDown(err)
	case p.Payment != id && a != nil && a.paymentID != "":
		return nil, x402.Errorf("payment_id_conflict", "payment id %s stands for another payment", clip(a.paymentID))
	case p.Payment != id:
		return nil, x402.Errorf("payment_mismatch", "the purchase id %s belongs to another payment", p.ID)
	}
	return v.again(ctx, p)
}

// again answers a payment that was seen before.
func (v *visit) again(ctx context.Context, p purchase.Purchase) (*purchase.Purchase, *x402.Error) {
	w, known := v.pw.wayOf(p)
	if !known {
		return nil, x402.Errorf("payment_mismatch", "purchase %s was paid by %s, which is no longer taken here", p.ID, clip(p.Way))
	}
	move := p.Shown(v.digest)
	lost := move == purchase.Wait && v.pw.lost(p) // a crash left it: what its first run did is not known, so it is not run again
	if lost || move == purchase.Resolve && v.pw.lost(p) {
		ended, err := w.recover(ctx, p)
		if err != nil {
			return nil, v.unresolved(p, err)
		}
		p, move = ended, ended.Shown(v.digest)
	}
	v.event.Asset = v.pw.Token(p)
	switch move {
	case purchase.Secure:
		return &p, nil
	case purchase.Replay:
		v.replay(w, p)
		return nil, nil
	case purchase.Wait:
		return nil, inProgress()
	case purchase.RefuseVoid:
		copyHeader(v.w.Header(), v.latest(w, p).header()) // with the note that lets the payment go
		return nil, x402.Errorf("payment_void", "purchase %s ended without a charge%s", p.ID, because(p.Outcome)).
			WithHint("not charged; sign a new payment")
	case purchase.RefuseUsed:
		return nil, x402.Errorf("payment_used", "this payment bought %s (%s %s) at %s", p.ID, p.Method, pathOf(p.URL), p.ReservedAt.UTC().Format("15:04:05"))
	}
	return nil, v.unresolved(p, nil)
}

// unresolved is the refusal of a payment of which it is not known yet what it comes to.
func (v *visit) unresolved(p purchase.Purchase, err error) *x402.Error {
	var e *x402.Error
	if errors.As(err, &e) && e.Code == "settlement_pending" {
		return e
	}
	if err != nil && p.State != purchase.Pending {
		return bookDown(err)
	}
	return &x402.Error{Code: "settlement_pending", Message: fmt.Sprintf("what purchase %s comes to is not settled yet", p.ID), Err: err}
}

func because(outcome string) string {
	if outcome == "" {
		return ""
	}
	return ": " + outcome
}

func pathOf(resource string) string {
	if _, rest, ok := strings.Cut(resource, "://"); ok {
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			return rest[i:]
		}
	}
	return resource
}

func (v *visit) newPurchase(a *agreement) purchase.Purchase {
	f, id := a.facts, a.purchase
	if id == "" {
		id = purchase.IDFromPayment(f.id)
	}
	return purchase.Purchase{
		ID: id, Payment: f.id, Request: v.digest, State: purchase.Reserved,
		Route: v.name(), Method: v.r.Method, URL: v.resource, Way: a.quote.Scheme, Network: a.quote.Network,
		Asset: f.asset, Payer: f.payer, Payee: f.payee, Cap: f.amount,
		Unit: string(a.tariff.price.Unit.Kind), Price: a.quote.Price, ReservedAt: v.began,
	}
}

// sell makes sure of the payment, runs the handler and ends the purchase.
func (v *visit) sell(paid payment, a *agreement, p purchase.Purchase) *x402.Error {
	v.event.Asset = a.token
	ctx := context.WithoutCancel(v.r.Context())
	running, e := paid.secure(v, a, p)
	if e == errMoved {
		if now, ok, err := v.pw.cfg.Purchases.Find(ctx, p.Payment); err == nil && ok && now.State != purchase.Reserved {
			_, e = v.again(ctx, now)
			return e
		}
		return inProgress()
	}
	if e != nil {
		return e
	}
	return v.perform(ctx, a, running)
}

// toPrice is what units come to, before any bound.
func toPrice(a *agreement, units uint64) *money.Amount {
	amount := a.rate.Charge(units, money.Amount{}, money.MaxAmount())
	return &amount
}

func isTaken(err error) bool { return errors.Is(err, purchase.ErrTaken) }
