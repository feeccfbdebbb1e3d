package paywall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// Outcomes of purchases that stand in no table of refusals: nobody is told them over the wire.
const (
	buyerGone   = "buyer_gone"  // left before the work was done
	interrupted = "interrupted" // the process ended before the work did
	expired     = "expired"     // reserved, and never certified
	forNothing  = "for_nothing" // the handler says that it comes to 0
	overdue     = "job_overdue" // accepted with 202, and never said to be done
)

// start has the book let a purchase's work begin, with what proves its payment, and returns it as Running. A payment whose
// buyer has left meanwhile stays reserved.
func (v *visit) start(p purchase.Purchase, proof []byte) (purchase.Purchase, *x402.Error) {
	if v.r.Context().Err() != nil {
		return p, x402.Errorf("payment_in_progress", "the buyer left before work began")
	}
	ctx := context.WithoutCancel(v.r.Context())
	p.RunAt = v.pw.cfg.Now()
	err := v.pw.cfg.Purchases.Run(ctx, p.ID, proof, p.RunAt)
	switch {
	case errors.Is(err, purchase.ErrState):
		return p, errMoved
	case err != nil:
		return p, bookDown(err)
	}
	p.State, p.Certificate = purchase.Running, proof
	return p, nil
}

// errMoved says that a purchase has left the state in which this visit saw it: another gate on the same book was faster.
var errMoved = x402.Errorf("payment_in_progress", "another gate is serving the request that this payment pays for")

// perform runs the handler of a purchase that is Running and ends the purchase. ctx outlives the buyer.
func (v *visit) perform(ctx context.Context, a *agreement, p purchase.Purchase) *x402.Error {
	pw := v.pw
	// An answer whose payment moves only after the work must not leave before it has moved.
	hold := !certain(p)
	rec := newRecorder(v.w, v.r, pw.cfg.AnswerBytes)
	if hold {
		rec.hold(pw.cfg.HeldBytes)
		defer rec.release()
	}
	rec.leaving = func(h http.Header) {
		if h.Get("Content-Length") == "" {
			h.Add("Trailer", http.CanonicalHeaderKey(x402.HeaderResponse))
			h.Add("Trailer", http.CanonicalHeaderKey(x402.HeaderXResponse))
		}
		early := v.receiptOf(a.way, p)
		early.success = true
		if purchase.Completion(a.quote.Completion) == purchase.BeforeWork {
			early.amount = &p.Cap
		}
		copyHeader(h, early.header())
		makePrivate(h)
	}

	wk := &work{id: p.ID, reached: func(stage string) { v.reached(ctx, a, p, stage) }}
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
	override, overridden, faulty := x402.TakeOverride(rec.header, p.Cap, a.token.Asset())
	w, units := v.judge(a, said, rec, panicked, Exchange{
		Request: v.r, BytesIn: uint64(len(v.body)), BytesOut: rec.size, Elapsed: p.DoneAt.Sub(began),
		Status: rec.status, Header: rec.header, Body: rec.body, Whole: rec.whole(),
	})
	if faulty != nil {
		pw.log.Error("handler's word on the charge cannot be read", "route", v.name(), "purchase", p.ID, "error", faulty)
		w.Measured, w.Waived, w.Failure = nil, v.keeps(a.tender), purchase.MeterMissing
	} else if overridden {
		w.Measured, w.Waived = &override, override.IsZero() && v.keeps(a.tender)
		if w.Waived && w.Failure == "" {
			w.Failure = forNothing
		}
	}
	p.State, p.Charged, p.Outcome = w.Verdict()
	p.Units, p.Cost, p.Downstream = units, said.cost, said.downstream
	if p.State != purchase.Void && v.takesJob(a, said, rec) {
		// The work goes on; what it comes to is said later, by the purchase's id.
		p.State, p.Charged, p.Due = purchase.Working, money.Amount{}, pw.cfg.Now().Add(v.job)
	}

	// The handler's answer stands unless there is none, or it is one that should have been charged and could not be.
	if !rec.left {
		var instead *x402.Error
		switch {
		case panicked != nil:
			instead = v.failed(p)
		case p.State == purchase.Void && p.Outcome == purchase.MeterMissing:
			instead = x402.Errorf(purchase.MeterMissing, "the answer does not say how much was used")
		case rec.tooLarge:
			instead = x402.Errorf("answer_too_large", "the answer is larger than %d bytes, and is held back until its payment has moved", pw.cfg.HeldBytes)
		}
		if instead != nil {
			panicked = nil
			rec.drop()
			x402.WriteError(rec, instead)
		}
	}
	if e := v.conclude(ctx, a, rec, p); e != nil {
		return e
	}
	if panicked != nil {
		panic(panicked) // the connection ends as the handler wanted
	}
	return nil
}

// reached writes down what a stage earns, so that it is charged even if this process ends before the work does.
func (v *visit) reached(ctx context.Context, a *agreement, p purchase.Purchase, stage string) {
	percent, ok := a.tariff.stages.upTo(stage)
	if !ok {
		return
	}
	if err := v.pw.cfg.Purchases.Owe(ctx, p.ID, earned(p.Cap, percent)); err != nil {
		v.pw.log.Error("stage not written down", "purchase", p.ID, "stage", stage, "error", err)
	}
}

// certain reports whether a running purchase is paid already, or will be by no more than the seller's own saying so.
func certain(p purchase.Purchase) bool {
	return p.Way == guarantee.Scheme || !p.Transaction.IsZero() || p.DrawsOnly()
}

// takesJob reports whether an answer says that the work goes on.
func (v *visit) takesJob(a *agreement, wk said, rec *recorder) bool {
	return rec.status == http.StatusAccepted && !rec.left && !wk.counted && !wk.waived && a.quote.Completion != string(purchase.BeforeWork)
}

// conclude ends a purchase in its way and then lets the answer and its receipt go.
func (v *visit) conclude(ctx context.Context, a *agreement, rec *recorder, p purchase.Purchase) *x402.Error {
	pw := v.pw
	makePrivate(rec.header)
	if p.State == purchase.Committed || p.State == purchase.Working {
		p.Answer = rec.answer()
		rec.park()
	}
	meant := p.State
	p, refusal := a.way.end(ctx, p)
	if refusal != nil {
		v.event.Charged = p.Charged
		if rec.left {
			pw.log.Error("answer cut short", "purchase", p.ID, "code", refusal.Code, "error", refusal, "cause", refusal.Err)
			v.event.Kind, v.event.Code, v.event.Status = Unknown, refusal.Code, rec.status
			panic(http.ErrAbortHandler) // an answer cut short tells the buyer to ask again
		}
		if refusal.Code == "settlement_pending" || !p.State.Final() {
			v.event.Kind = Unknown // what it comes to is not written down, so there is no receipt
		} else {
			copyHeader(v.w.Header(), v.receiptOf(a.way, p).header())
		}
		return refusal
	}
	if p.DrawsOnly() {
		v.event.Way = "bundle"
	}
	v.event.Kind, v.event.Code, v.event.Status, v.event.Charged = Paid, p.Outcome, rec.status, p.Charged
	switch {
	case meant == purchase.Void && p.State != purchase.Committed:
		v.event.Kind = NotCharged
	case p.State == purchase.Pending:
		v.event.Charged = p.Owed
	case p.State == purchase.Working:
		v.event.Kind, v.event.Code = NotCharged, "working"
	}
	pw.log.Info("purchase ended", "purchase", p.ID, "state", p.State, "charged", p.Charged, "asset", v.event.Asset.Symbol, "outcome", p.Outcome, "elapsed", p.DoneAt.Sub(v.began))

	slip := v.receiptOf(a.way, p)
	if rec.left {
		// Go's client, for one, takes no trailers above 4 KiB, and the certificate is in the header already.
		slip.certificate = nil
	}
	if err := rec.finish(slip.header()); err != nil {
		pw.log.Debug("buyer did not take the answer", "purchase", p.ID, "error", err)
	}
	return nil
}

// notWritten is the refusal of a purchase that is done and could not be written down.
func notWritten(p purchase.Purchase, err error) *x402.Error {
	return &x402.Error{Code: "settlement_pending", Message: fmt.Sprintf("purchase %s is done and could not be written down", p.ID), Err: err}
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
		Rule: purchase.Completion(a.quote.Completion), Cap: a.quote.Amount, Minimum: a.minimum,
		Waived: wk.waived && v.keeps(a.tender),
	}
	switch {
	case wk.waived:
		w.Failure = wk.reason
	case panicked != nil:
		w.Failure = "handler_failed"
	case v.r.Context().Err() != nil:
		w.Failure = buyerGone
	case rec.tooLarge:
		w.Failure = "answer_too_large"
	case !wk.counted && (rec.status < 200 || rec.status > 299):
		w.Failure = "handler_failed"
	}
	if len(a.tariff.stages) > 0 {
		return v.judgeStages(a, wk, w)
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

// judgeStages says what stages come to: those that the handler named, and all of them if it named none and the work
// succeeded.
func (v *visit) judgeStages(a *agreement, wk said, w purchase.Work) (purchase.Work, uint64) {
	var percent uint64
	for _, name := range wk.stages {
		upTo, ok := a.tariff.stages.upTo(name)
		if !ok {
			v.pw.log.Error("handler named a stage that is not sold", "route", v.name(), "stage", name)
			return w, 0
		}
		percent = max(percent, upTo)
	}
	if len(wk.stages) == 0 && w.Failure == "" {
		percent = 100
	}
	if percent > 0 {
		amount := earned(w.Cap, percent)
		w.Measured = &amount
	}
	return w, percent
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

// receipt is what a buyer is told about its payment. It follows from the purchase alone, so that whoever asks again gets
// the same.
type receipt struct {
	success        bool
	payer, network string
	purchase       string
	amount         *money.Amount // nil: not known yet
	outcome        string
	transaction    evm.Hash        // zero: none
	certificate    json.RawMessage // nil: none, or said before
	note           []byte          // the payee's signature that it takes less; the payer keeps it
	credit         money.Amount    // that paid besides
	bundle         *bundleState
	refund         *refundState
	signed         json.RawMessage // entry of offer-receipt; nil for none
	dialect        x402.Dialect
	accepted       *x402.Requirements // nil: the payment echoes no offer
}

// receiptOf makes the receipt of a purchase as it stands.
func (v *visit) receiptOf(w way, p purchase.Purchase) receipt {
	r := receipt{
		success: p.State == purchase.Committed || p.Outcome == forNothing, payer: p.Payer.String(), network: p.Network, purchase: p.ID, outcome: p.Outcome,
		dialect: v.dialect, accepted: v.accepted,
		transaction: p.Transaction, certificate: w.proof(p), bundle: v.pw.bundleState(v.r.Context(), p),
	}
	switch charged := beyond(p.Charged, p.Credit); p.State {
	case purchase.Pending: // of a promise: what it comes to is known, and only the signature is missing
		owed := beyond(p.Owed, p.Credit)
		r.success, r.amount = !p.Owed.IsZero(), &owed
	case purchase.Working:
		r.success = true
	case purchase.Running:
	default:
		r.amount, r.note, r.credit = &charged, p.Proof, money.Min(p.Credit, p.Charged)
	}
	if v.pw.signs() && p.State == purchase.Committed {
		r.signed = v.signReceipt(p, r.amount.String())
	}
	return r
}

// signReceipt signs what a purchase came to; nil if the key is away. The same purchase always gives the same bytes.
func (v *visit) signReceipt(p purchase.Purchase, amount string) json.RawMessage {
	r := x402.Receipt{
		Version: 1, Network: p.Network, ResourceURL: p.URL, Payer: p.Payer.String(), IssuedAt: uint64(max(p.DoneAt.Unix(), 0)),
		Asset: p.Asset.String(), Amount: amount, Purchase: p.ID,
	}
	if !p.Transaction.IsZero() {
		r.Transaction = p.Transaction.String()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(v.r.Context()), signTime)
	defer cancel()
	var entry json.RawMessage
	var err error
	if v.pw.cfg.SignOffers == x402.FormatJWS {
		entry, err = x402.SignReceiptJWS(ctx, v.pw.cfg.Signer, v.pw.kid(ctx), r)
	} else {
		entry, err = x402.SignReceipt(ctx, v.pw.cfg.Signer, r)
	}
	if err != nil {
		v.pw.log.Warn("receipt is not signed", "purchase", p.ID, "error", err)
		return nil
	}
	return entry
}

// header returns the receipt's headers, of both versions.
func (r receipt) header() http.Header {
	s := x402.SettleResponse{Success: r.success, Payer: r.payer, Network: r.network, NetworkID: r.network, Purchase: r.purchase, Certificate: r.certificate}
	if !r.transaction.IsZero() {
		s.Transaction = r.transaction.String()
		s.TxHash = s.Transaction
	}
	if r.amount != nil {
		s.Amount = r.amount.String()
	}
	if !r.success {
		s.ErrorReason = r.outcome
		if s.ErrorReason == "" {
			s.ErrorReason = "not_charged"
		}
	}
	extra := make(map[string]json.RawMessage)
	if len(r.note) > 0 {
		extra["note"] = r.note
	}
	if r.bundle != nil {
		extra["bundle"], _ = json.Marshal(r.bundle) // numbers and text: cannot fail
	}
	if !r.credit.IsZero() {
		extra["credit"], _ = json.Marshal(r.credit) // text: cannot fail
	}
	if r.refund != nil {
		extra["refund"], _ = json.Marshal(r.refund) // numbers, text and JSON made here: cannot fail
	}
	if len(extra) > 0 {
		s.Extra = extra
	}
	if r.signed != nil {
		s.Extensions = map[string]json.RawMessage{x402.OfferReceiptKey: r.signed}
	}
	if r.accepted != nil {
		if in, err := s.In(r.dialect, *r.accepted); err == nil {
			s = in
		}
	}
	h := make(http.Header)
	_ = x402.SetReceipt(h, s) // text and JSON made here: cannot fail
	return h
}
