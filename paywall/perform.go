package paywall

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime/debug"

	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// Outcomes of purchases that stand in no table of refusals: nobody is told them over the wire.
const (
	buyerGone   = "buyer_gone"  // left before the work was done
	interrupted = "interrupted" // the process ended before the work did
	expired     = "expired"     // reserved, and never certified
)

// perform runs the handler of a purchase that is Running and ends the purchase. ctx outlives the buyer.
func (v *visit) perform(ctx context.Context, vf *verifier, certificate json.RawMessage, a *agreement, p purchase.Purchase) *x402.Error {
	pw := v.pw
	slip := receipt{payer: p.Payer.String(), network: p.Network, purchase: p.ID, certificate: certificate}
	rec := newRecorder(v.w, v.r, pw.cfg.AnswerBytes)
	rec.leaving = func(h http.Header) {
		if h.Get("Content-Length") == "" {
			h.Add("Trailer", http.CanonicalHeaderKey(x402.HeaderResponse))
			h.Add("Trailer", http.CanonicalHeaderKey(x402.HeaderXResponse))
		}
		early := slip
		early.success = true
		if purchase.Completion(a.quote.Completion) == purchase.BeforeWork {
			early.amount = &p.Cap
		}
		copyHeader(h, early.header())
		makePrivate(h)
	}

	wk := &work{id: p.ID}
	began := pw.cfg.Now()
	panicked, stack := runHandler(v.handler, rec, v.fresh(context.WithValue(v.r.Context(), workKey{}, wk)))
	p.DoneAt = pw.cfg.Now()
	if rec.status == 0 && panicked == nil {
		rec.WriteHeader(http.StatusOK)
	}
	if panicked != nil && panicked != http.ErrAbortHandler {
		pw.log.Error("handler panicked", "route", v.name(), "purchase", p.ID, "panic", fmt.Sprint(panicked), "stack", string(stack))
	}

	said := wk.close()
	w, units := v.judge(a, said, rec, panicked, Exchange{
		Request: v.r, BytesIn: uint64(len(v.body)), BytesOut: rec.size, Elapsed: p.DoneAt.Sub(began),
		Status: rec.status, Header: rec.header, Body: rec.body, Whole: rec.whole(),
	})
	p.State, p.Charged, p.Outcome = w.Verdict()
	p.Units, p.Cost, p.Downstream = units, said.cost, said.downstream

	// The handler's answer stands unless there is none, or it is one that should have been charged and could not be.
	if !rec.left {
		var instead *x402.Error
		switch {
		case panicked != nil:
			instead = v.failed(p)
		case p.State == purchase.Void && p.Outcome == purchase.MeterMissing:
			instead = x402.Errorf(purchase.MeterMissing, "the answer does not say how much was used")
		}
		if instead != nil {
			panicked = nil
			rec.drop()
			x402.WriteError(rec, instead)
		}
	}
	if e := v.conclude(ctx, vf, rec, slip, p); e != nil {
		return e
	}
	if panicked != nil {
		panic(panicked) // the connection ends as the handler wanted
	}
	return nil
}

// conclude writes down how a purchase ended, with the payee's signature if that is less than was promised, and then lets
// the answer and its receipt go.
func (v *visit) conclude(ctx context.Context, vf *verifier, rec *recorder, slip receipt, p purchase.Purchase) *x402.Error {
	pw, final, charged := v.pw, p.State, p.Charged
	if charged.Less(p.Cap) && pw.cfg.Signer != nil {
		note, err := pw.lower(ctx, vf, p.Payment, charged, p.Outcome)
		if err != nil {
			// Until the note is signed the whole amount is owed, so it is not over yet.
			pw.log.Error("cannot sign that less is charged; trying again later", "purchase", p.ID, "error", err)
			p.State, p.Charged = purchase.Pending, money.Amount{}
			p.Proof = unsigned(p.Payment, charged, p.Outcome)
		} else {
			p.Proof, slip.note = note, note
		}
	}
	slip.success, slip.amount, slip.outcome = final == purchase.Committed, &charged, p.Outcome
	extra := slip.header()
	makePrivate(rec.header)
	if p.State == purchase.Committed {
		p.Answer = rec.answer(extra)
	}
	if err := pw.cfg.Purchases.Finish(ctx, p); err != nil {
		pw.log.Error("cannot write down how a purchase ended", "purchase", p.ID, "error", err)
		v.event.Kind, v.event.Code, v.event.Status = Unknown, "settlement_pending", rec.status
		if rec.left {
			panic(http.ErrAbortHandler) // an answer cut short tells the buyer to ask again
		}
		return &x402.Error{Code: "settlement_pending", Message: fmt.Sprintf("purchase %s is done and could not be written down", p.ID), Err: err}
	}
	if len(p.Proof) > 0 {
		pw.poke()
	}
	v.event.Kind, v.event.Code, v.event.Status, v.event.Charged = Paid, p.Outcome, rec.status, charged
	if final == purchase.Void {
		v.event.Kind = NotCharged
	}
	pw.log.Info("purchase ended", "purchase", p.ID, "state", p.State, "charged", charged, "asset", v.event.Asset.Symbol, "outcome", p.Outcome, "elapsed", p.DoneAt.Sub(v.began))

	if rec.left {
		// Go's client, for one, takes no trailers above 4 KiB, and the certificate is in the header already.
		slip.certificate = nil
		extra = slip.header()
	}
	if err := rec.finish(extra); err != nil {
		pw.log.Debug("buyer did not take the answer", "purchase", p.ID, "error", err)
	}
	return nil
}

// runHandler runs h and returns what it panicked with.
func runHandler(h http.Handler, w http.ResponseWriter, r *http.Request) (panicked any, stack []byte) {
	defer func() {
		if panicked = recover(); panicked != nil {
			stack = debug.Stack()
		}
	}()
	h.ServeHTTP(w, r)
	return nil, nil
}

// failed is the answer of a handler that panicked before a byte had left.
func (v *visit) failed(p purchase.Purchase) *x402.Error {
	charged := "Not charged."
	if p.State == purchase.Committed {
		charged = "Charged before work, as announced."
	}
	if _, ok := x402.Lookup(p.Outcome); !ok {
		p.Outcome = "handler_failed"
	}
	e := x402.Errorf(p.Outcome, "%s %s failed. %s", v.r.Method, v.r.URL.Path, charged)
	if p.State == purchase.Committed {
		e = e.WithHint("ask the seller; the purchase is %s", p.ID)
	}
	return e
}

// judge says what became of the work, in the terms in which it was sold.
func (v *visit) judge(a *agreement, wk said, rec *recorder, panicked any, ex Exchange) (purchase.Work, uint64) {
	w := purchase.Work{
		Rule: purchase.Completion(a.quote.Completion), Cap: a.claims.Amount, Minimum: a.minimum,
		Waived: wk.waived && v.pw.cfg.Signer != nil,
	}
	switch {
	case wk.waived:
		w.Failure = wk.reason
	case panicked != nil:
		w.Failure = "handler_failed"
	case v.r.Context().Err() != nil:
		w.Failure = buyerGone
	case !wk.counted && (rec.status < 200 || rec.status > 299):
		w.Failure = "handler_failed"
	}
	units, err := v.measure(a, wk, ex)
	if err != nil {
		if w.Failure == "" {
			v.pw.log.Error("nobody knows how much was used", "route", v.name(), "error", err)
		}
		return w, 0
	}
	w.Measured = toPrice(a, units)
	return w, units
}

// measure counts units: the handler's word first, then the route's meter, then what the price itself says.
func (v *visit) measure(a *agreement, wk said, ex Exchange) (uint64, error) {
	unit := a.tariff.price.Unit
	switch {
	case wk.faulty:
		return 0, fmt.Errorf("the handler charged a negative number")
	case wk.counted:
		return wk.units, nil
	case v.meter != nil:
		return v.meter.Measure(ex)
	case unit.Kind == money.Call:
		return 1, nil
	case unit.Kind == money.Second:
		return Seconds().Measure(ex)
	case unit.Kind == money.Byte && unit.Direction == money.In:
		return BytesIn().Measure(ex)
	case unit.Kind == money.Byte:
		return BytesOut().Measure(ex)
	}
	return 0, fmt.Errorf("the price is per %s; neither the handler nor a meter counted them", unit.Kind)
}

// receipt is what a buyer is told about its payment.
type receipt struct {
	success        bool
	payer, network string
	purchase       string
	amount         *money.Amount // nil: not known yet
	outcome        string
	certificate    json.RawMessage // nil: said before
	note           []byte          // the payee's signature that it takes less; the payer keeps it
}

// header returns the receipt's headers, of both versions.
func (r receipt) header() http.Header {
	s := x402.SettleResponse{Success: r.success, Payer: r.payer, Network: r.network, NetworkID: r.network, Purchase: r.purchase, Certificate: r.certificate}
	if r.amount != nil {
		s.Amount = r.amount.String()
	}
	if !r.success {
		s.ErrorReason = r.outcome
		if s.ErrorReason == "" {
			s.ErrorReason = "not_charged"
		}
	}
	if len(r.note) > 0 {
		s.Extra = map[string]json.RawMessage{"note": r.note}
	}
	h := make(http.Header)
	_ = x402.SetReceipt(h, s) // text and JSON made here: cannot fail
	return h
}
