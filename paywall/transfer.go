package paywall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

const (
	// transferLasts is how long a signed transfer is good unless a route's jobs take longer: the published servers' own
	// default. The work and a slow chain have to fit into it.
	transferLasts = 300 * time.Second
	// supportedKept is how long a facilitator's list of what it can do is believed.
	supportedKept = 5 * time.Minute
	// supportedRetry is how long a facilitator that did not say what it can do is left alone by requests.
	supportedRetry = 5 * time.Second
	// supportedWait is how long that list is waited for.
	supportedWait = 3 * time.Second
)

// Witness looks at a chain with the seller's own eyes. Implementations are safe for concurrent use.
type Witness interface {
	// Moved says what became of a signed transfer on the network with a CAIP-2 name. claimed is the transaction in which
	// somebody says that it moved; zero for none. An error says that the chain cannot tell now.
	Moved(ctx context.Context, network string, a exact.Authorization, amount money.Amount, claimed evm.Hash) (Fate, evm.Hash, error)
}

// Fate is what became of a signed transfer.
type Fate int

// The fates.
const (
	Unseen  Fate = iota // the witness does not look at that network
	Unspent             // its nonce is not used: nothing moved
	Moved               // the amount went to the payee, whoever sent the transaction
	Spent               // its nonce is used, and the amount did not go to the payee
)

// transfers are the ways to pay in which a token moves on a chain: a facilitator verifies the payer's signature and brings
// it there. A purchase keeps what the facilitator is to be asked, so that it can be asked again.
type transfers struct {
	pw    *Paywall
	asked []x402.Facilitator

	once  sync.Once
	ways  map[string]*transfer
	lists []*abilities
}

// transfer is one scheme of them.
type transfer struct {
	*transfers
	called string // its scheme, which is what people call it too
}

// way returns the one way of a scheme; ways are compared.
func (ts *transfers) way(scheme string) *transfer {
	ts.once.Do(func() {
		ts.ways = make(map[string]*transfer)
		for _, s := range []string{exact.Scheme, exact.UptoScheme, exact.LegacyScheme} {
			ts.ways[s] = &transfer{ts, s}
		}
		for _, f := range ts.asked {
			ts.lists = append(ts.lists, &abilities{Facilitator: f})
		}
	})
	return ts.ways[scheme]
}

// abilities is what a facilitator says that it can do.
type abilities struct {
	mu               sync.Mutex
	x402.Facilitator                 // guarded by mu
	asked            time.Time       // guarded by mu
	failed           error           // guarded by mu
	list             *x402.Supported // guarded by mu
	asking           chan struct{}   // guarded by mu: closed when the answer is here; nil while nobody asks
}

// now returns the list. If what is known is old, one visitor asks; the others take what is known, or wait for it if that is
// nothing. An old list is better than none.
func (f *abilities) now(ctx context.Context, at time.Time) (x402.Supported, error) {
	f.mu.Lock()
	age := at.Sub(f.asked)
	known, failed, answered := f.list, f.failed, f.asking
	asks := answered == nil && (known == nil || age >= supportedKept) && (failed == nil || age >= supportedRetry)
	if asks {
		answered = make(chan struct{})
		f.asking = answered
	}
	f.mu.Unlock()
	switch {
	case asks:
		f.ask(ctx, at)
	case known != nil:
		return *known, nil
	case answered == nil:
		return x402.Supported{}, failed
	}
	select {
	case <-answered:
	case <-ctx.Done():
		return x402.Supported{}, x402.Errorf("facilitator_unreachable", "facilitator does not say what it can do: %w", ctx.Err())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.list == nil {
		return x402.Supported{}, f.failed
	}
	return *f.list, nil
}

// ask asks for the list, for everybody who waits: it does not end with the visitor who happens to ask.
func (f *abilities) ask(ctx context.Context, at time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), supportedWait)
	defer cancel()
	list, err := f.who().Supported(ctx)
	if err != nil && ctx.Err() != nil {
		err = x402.Errorf("facilitator_unreachable", "facilitator does not say what it can do: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.asking)
	f.asked, f.failed, f.asking = at, err, nil
	if err == nil {
		f.list = &list
		if c, ok := f.Facilitator.(*x402.Client); ok && c.Dialect != list.Dialect() {
			speaking := *c // it is asked in the words in which it answers
			speaking.Dialect = list.Dialect()
			f.Facilitator = &speaking
		}
	}
}

// who returns the facilitator to ask.
func (f *abilities) who() x402.Facilitator {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.Facilitator
}

// known returns the list without asking.
func (f *abilities) known() (x402.Supported, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.list == nil {
		return x402.Supported{}, false
	}
	return *f.list, true
}

func (w *transfer) name() string   { return w.called }
func (w *transfer) scheme() string { return w.called }
func (w *transfer) lowers() bool   { return w.called == exact.UptoScheme }
func (w *transfer) lasts(rt *route) time.Duration {
	lasts := max(transferLasts, w.pw.cfg.QuoteLifetime) + rt.settleWithin
	if rt.job > DefaultJob {
		lasts += rt.job
	}
	return lasts
}

func (w *transfer) ready(ctx context.Context) error {
	var errs []error
	for _, t := range w.pw.tenders {
		if t.way == w {
			_, _, err := w.facilitator(ctx, t.chain.CAIP2())
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// facilitator finds who settles on a network.
func (w *transfer) facilitator(ctx context.Context, caip2 string) (x402.Facilitator, x402.Kind, error) {
	var errs []error
	for _, f := range w.lists {
		list, err := f.now(ctx, w.pw.cfg.Now())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if kind, ok := list.Find(2, w.called, caip2); ok {
			return f.who(), kind, nil
		}
		if kind, ok := list.Find(1, w.called, caip2); ok {
			return f.who(), kind, nil
		}
	}
	if len(errs) > 0 {
		return nil, x402.Kind{}, asError(errs[0], "facilitator_unreachable")
	}
	return nil, x402.Kind{}, x402.Errorf("facilitator_fault", "no facilitator settles %s on %s", w.called, w.pw.called(caip2))
}

// called is a network by both of its names.
func (pw *Paywall) called(caip2 string) string {
	if on, err := pw.registry.Lookup(caip2); err == nil {
		return on.String()
	}
	return clip(caip2)
}

// describe says how the token moves. What only a facilitator can say is asked for, and without it there is no offer.
func (w *transfer) describe(v *visit, o offer, extra map[string]any) bool {
	if o.token.Name != "" {
		extra["name"], extra["version"] = o.token.Name, o.token.Version
	}
	if w.byPermit2(o.token) {
		extra["assetTransferMethod"] = string(exact.Permit2)
	}
	_, kind, err := w.facilitator(v.r.Context(), o.chain.CAIP2())
	if w.called == exact.Scheme {
		// Who settles may be away for a while: the offer stands, and paying is refused until it is back.
		return err == nil || status(asCoded(err)) >= 500 && asCoded(err).Code == "facilitator_unreachable"
	}
	if err != nil {
		w.pw.log.Warn("cannot offer a way to pay", "way", w.called, "network", o.chain.CAIP2(), "error", err)
		return false
	}
	for _, name := range settlersWords[w.called] {
		word, known := kind.Extra[name]
		if !known {
			w.pw.log.Warn("facilitator does not say what an offer needs", "way", w.called, "network", o.chain.CAIP2(), "member", name)
			return false
		}
		extra[name] = word
	}
	return true
}

// settlersWords are the members of extra that only a facilitator can say: which of its accounts settles.
var settlersWords = map[string][]string{exact.UptoScheme: {"facilitatorAddress"}, exact.LegacyScheme: {"spender", "tokenType"}}

// byPermit2 reports whether the token moves through Permit2.
func (w *transfer) byPermit2(t network.Token) bool {
	return w.called == exact.UptoScheme || w.called == exact.Scheme && !t.EIP3009
}

func asCoded(err error) *x402.Error {
	if e, ok := x402.AsError(err); ok {
		return e
	}
	return &x402.Error{Code: "internal", Err: err}
}

// terms are what an authorization in a tender is read against.
func (w *transfer) terms(in tender, q purchase.Quote, lasts time.Duration) x402.Requirements {
	r := x402.Requirements{
		Scheme: w.called, Network: in.chain.CAIP2(), Asset: in.token.Address.String(), PayTo: w.pw.payee.String(),
		Amount: q.Amount.String(), MaxTimeoutSeconds: int(lasts / time.Second), Extra: make(map[string]json.RawMessage),
	}
	set := func(name, value string) {
		if value != "" {
			r.Extra[name], _ = json.Marshal(value) // text: cannot fail
		}
	}
	set("name", in.token.Name)
	set("version", in.token.Version)
	if w.byPermit2(in.token) {
		set("assetTransferMethod", string(exact.Permit2))
	}
	return r
}

// read reads an authorization, or a request that draws from a bundle. Version 1 does not name the token: it is the one
// under whose domain the signature is the payer's.
func (w *transfer) read(v *visit, p *x402.Payment, among []tender) (payment, *x402.Error) {
	if purchase.IsDraw(p.Payload) {
		return w.readDraw(v, p, among)
	}
	if p.Accepted != nil {
		asset, err := evm.ParseAddress(p.Accepted.Asset)
		if err != nil {
			return nil, x402.Errorf("payment_undecodable", "accepted asset: %w", err)
		}
		for _, in := range among {
			if in.token.Address == asset {
				return w.readIn(v, p, in)
			}
		}
		return nil, x402.Errorf("payment_mismatch", "signed in asset %s, which this route does not take", asset)
	}
	var first payment
	var refused *x402.Error
	for _, in := range among {
		paid, e := w.readIn(v, p, in)
		if e != nil {
			refused = e
			continue
		}
		if paid.verify(v, nil) == nil {
			return paid, nil
		}
		if first == nil {
			first = paid
		}
	}
	if first != nil {
		return first, nil
	}
	return nil, refused
}

func (w *transfer) readIn(v *visit, p *x402.Payment, in tender) (payment, *x402.Error) {
	against := w.terms(in, purchase.Quote{}, w.lasts(v.route))
	if p.Accepted != nil {
		for _, name := range settlersWords[w.called] {
			against.Extra[name] = p.Accepted.Extra[name]
		}
	}
	a, err := exact.Read(*p, against)
	if err != nil {
		return nil, internal(err)
	}
	s := authorized{w, a, *p, 0}
	if v.job > DefaultJob {
		s.needs = v.job
	}
	return s, nil
}

// authorized is a transfer that was signed.
type authorized struct {
	*transfer
	exact.Authorization
	sent  x402.Payment
	needs time.Duration // how long from now it must be good: as long as the route's jobs take
}

func (s authorized) facts() facts {
	a := s.Authorization
	return facts{a.ID(), a.From, a.To, a.Asset, a.Amount, a.Nonce}
}

// check compares the authorization with what was agreed; a fault of its times is returned apart.
func (s authorized) check(a *agreement, now time.Time) (wrong, late *x402.Error) {
	r := s.terms(a.tender, a.quote, transferLasts)
	if words := settlersWords[s.Scheme]; words != nil {
		_, kind, err := s.facilitator(context.Background(), r.Network)
		if err != nil {
			return internal(err), nil
		}
		for _, name := range words {
			r.Extra[name] = kind.Extra[name]
		}
	}
	err := s.Check(r, now)
	if err == nil && s.needs > 0 {
		err = s.Check(r, now.Add(s.needs))
	}
	if err == nil {
		return nil, nil
	}
	e := internal(err)
	if untimely[e.Code] {
		return nil, e
	}
	return e, nil
}

// untimely are the codes of an authorization that was good at another time.
var untimely = map[string]bool{
	"invalid_exact_evm_payload_authorization_valid_before": true, "invalid_exact_evm_payload_authorization_valid_after": true,
	"permit2_deadline_expired": true, "permit2_not_yet_valid": true, "payment_expired": true,
}

func (s authorized) fits(a *agreement) *x402.Error {
	wrong, _ := s.check(a, s.pw.cfg.Now())
	if wrong == nil && s.Amount != a.quote.Amount {
		wrong = x402.Errorf("payment_mismatch", "signed for %s, this request takes %s", show(s.Amount, a.token), show(a.quote.Amount, a.token))
	}
	return wrong
}

func (s authorized) late(a *agreement, now time.Time) *x402.Error {
	_, late := s.check(a, now)
	return late
}

// verify checks a key's signature here. What is no key's may be a contract's, which the chain judges: the facilitator asks
// it, before anything is reserved for it.
func (s authorized) verify(v *visit, a *agreement) *x402.Error {
	err := s.Signed()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exact.ErrContractSignature) && a != nil:
		return s.ask(context.WithoutCancel(v.r.Context()), v, a)
	}
	return internal(err)
}

// reserve reserves the payment for a request, or on a route that sells bundles a part of one.
func (s authorized) reserve(ctx context.Context, a *agreement, p purchase.Purchase) (purchase.Purchase, error) {
	if a.tariff.bundle == nil {
		return s.pw.reserve(ctx, p, s.lowers())
	}
	b := a.tariff.bundle
	return s.pw.draw(ctx, p, purchase.BundleAsk{Draw: a.draws(), Buy: b.units, Valid: b.valid, Lease: s.pw.lease(), RunAt: s.pw.cfg.Now()})
}

// request is what a facilitator is asked about a purchase, and what the purchase keeps so that it can be asked again.
func (s authorized) request(v *visit, a *agreement) ([]byte, error) {
	r := s.terms(a.tender, a.quote, s.lasts(v.route))
	for _, name := range settlersWords[s.Scheme] {
		r.Extra[name] = s.sent.Accepted.Extra[name] // it was compared
	}
	if v.settleWithin > 0 {
		r.Extra["settleWithin"], _ = json.Marshal(int(v.settleWithin / time.Second))
	}
	sent := s.sent
	if sent.Resource == nil {
		sent.Resource = &x402.Resource{URL: v.resource, Description: v.description, MimeType: v.mimeType}
	}
	return json.Marshal(x402.FacilitatorRequest{Payment: sent, Requirements: r})
}

// secure has the facilitator verify the transfer, or settle it where that comes before the work.
func (s authorized) secure(v *visit, a *agreement, p purchase.Purchase) (purchase.Purchase, *x402.Error) {
	ctx := context.WithoutCancel(v.r.Context())
	if p.State == purchase.Running {
		return p, nil // it draws from a bundle, and began as it was reserved
	}
	if p.DrawsOnly() || p.Credit == p.Cap {
		return v.start(p, nil) // the signature only proves who asks: it is not sent anywhere, and not kept
	}
	request, err := s.request(v, a)
	if err != nil {
		return p, internal(err)
	}
	if purchase.Completion(a.quote.Completion) != purchase.BeforeWork && p.Buys == 0 {
		if e := s.ask(ctx, v, a); e != nil {
			return p, e
		}
		return v.start(p, request)
	}
	if p.Transaction.IsZero() {
		again := p.Settling
		if again && s.pw.beingAsked(p.ReservedAt) {
			return p, pending(p, evm.Hash{}, errors.New("another gate may be settling it"))
		}
		if err := s.pw.cfg.Purchases.Settling(ctx, p.ID, request); errors.Is(err, purchase.ErrState) {
			return p, errMoved
		} else if err != nil {
			return p, bookDown(err)
		}
		p.Settling, p.Certificate = true, request
		var e *x402.Error
		if p, e = s.settleFirst(ctx, p, again); e != nil {
			return p, e
		}
	}
	return v.start(p, request)
}

// settleFirst moves the money of a purchase that is Reserved and Settling.
func (w *transfer) settleFirst(ctx context.Context, p purchase.Purchase, again bool) (purchase.Purchase, *x402.Error) {
	book := w.pw.cfg.Purchases
	tx, refused, err := w.settle(ctx, p, p.Cap, again)
	switch {
	case err != nil:
		return p, pending(p, tx, err)
	case refused != nil:
		if err := book.NotSettled(ctx, p.ID); err != nil {
			return p, notWritten(p, err)
		}
		p.Settling, p.Draws = false, 0
		p.State, p.Outcome, p.DoneAt = purchase.Void, refused.Code, w.pw.cfg.Now()
		if err := book.Finish(ctx, p); err != nil {
			return p, notWritten(p, err)
		}
		return p, refused
	}
	if err := book.Settled(ctx, p.ID, tx); err != nil {
		return p, notWritten(p, err)
	}
	p.Transaction = tx
	if p.Buys > 0 {
		bought, ok, err := book.FindBundle(ctx, p.ID)
		if err == nil && ok {
			err = book.OpenBundle(ctx, p.ID, w.pw.cfg.Now().Add(bought.Valid))
		}
		if err != nil {
			return p, notWritten(p, err)
		}
	}
	return p, nil
}

// ask has the facilitator verify.
func (s authorized) ask(ctx context.Context, v *visit, a *agreement) *x402.Error {
	f, _, err := s.facilitator(ctx, a.chain.CAIP2())
	if err != nil {
		return internal(err)
	}
	raw, err := s.request(v, a)
	if err != nil {
		return internal(err)
	}
	var q x402.FacilitatorRequest
	if err := json.Unmarshal(raw, &q); err != nil {
		return internal(err)
	}
	answer, err := f.Verify(ctx, q.Payment, q.Requirements)
	switch {
	case err != nil:
		return facilitatorDown(err)
	case !answer.IsValid:
		return refusal(answer.InvalidReason, answer.InvalidMessage)
	case isOther(answer.Payer, s.From):
		return x402.Errorf("facilitator_fault", "the facilitator verified a payment of %s, and this one is of %s", clip(answer.Payer), s.From)
	}
	return nil
}

// facilitatorDown is the refusal while a facilitator cannot be asked: its faults are not the buyer's.
func facilitatorDown(err error) *x402.Error {
	e := asCoded(err)
	if e.Code == "facilitator_unreachable" {
		return e
	}
	return &x402.Error{Code: "facilitator_fault", Message: "the facilitator does not answer as it should", Err: err}
}

// refusal is what a facilitator says is wrong with a payment.
func refusal(reason, message string) *x402.Error {
	code := reason
	if _, ok := x402.Lookup(code); !ok {
		code = "payment_refused"
	}
	e := &x402.Error{Code: code, Message: clip(message)}
	if e.Message == "" && code == "payment_refused" {
		e.Message = "the facilitator refuses it: " + clip(reason)
	}
	if refusedBy(e) {
		return e
	}
	return &x402.Error{Code: "payment_refused", Message: strings.TrimSuffix(clip(reason)+": "+e.Error(), ": ")}
}

// settle asks for the money of a purchase to be moved: as often as it takes, it moves once. again says that it was asked
// for before. It returns the transaction; or why nothing moved, for certain; or an error when that is not known, with the
// transaction if there is one to look at.
func (w *transfer) settle(ctx context.Context, p purchase.Purchase, amount money.Amount, again bool) (tx evm.Hash, refused *x402.Error, err error) {
	ctx, cancel := context.WithTimeout(ctx, x402.DefaultTimeout)
	defer cancel()
	var q x402.FacilitatorRequest
	if err := json.Unmarshal(p.Certificate, &q); err != nil {
		return tx, nil, fmt.Errorf("purchase %s: what is to be settled: %w", p.ID, err)
	}
	signed := q.Requirements // what the authorization was signed for
	q.Requirements.Amount = amount.String()
	var answer x402.SettleResponse
	f, _, unknown := w.facilitator(ctx, p.Network)
	if unknown == nil {
		answer, unknown = f.Settle(ctx, q.Payment, q.Requirements)
	}
	claimed, hashErr := evm.ParseHash(answer.Transaction)
	reason := answer.ErrorReason
	switch {
	case unknown != nil:
	case answer.Success && amount.IsZero():
		return claimed, nil, nil
	case !answer.Success && reason == "settlement_pending":
		unknown = x402.Errorf("settlement_pending", "the facilitator has sent it and does not know more")
	}
	if unknown != nil && !again {
		return claimed, nil, unknown // it may be on its way right now
	}
	fate, seen, over, err := w.look(ctx, p, q.Payment, signed, amount, claimed)
	if err != nil {
		return claimed, nil, errors.Join(unknown, err)
	}
	refused = refusal(reason, answer.ErrorMessage)
	switch {
	case fate == Moved:
		return seen, nil, nil
	case over: // it has not moved, and never will
		if unknown != nil || answer.Success {
			refused = refusal("payment_expired", "the time in which it could be settled is over, and nothing moved")
		}
		return tx, refused, nil
	case unknown != nil:
	case answer.Success && fate != Unseen:
		unknown = x402.Errorf("settlement_pending", "the facilitator says it is settled in %s, and the chain does not show it", claimed)
	case answer.Success && hashErr != nil:
		unknown = x402.Errorf("settlement_pending", "the facilitator says it is settled, and names no transaction")
	case answer.Success && (isElsewhere(answer.Network, p.Network) || isOther(answer.Payer, p.Payer) || isLess(answer.Amount, amount)):
		unknown = x402.Errorf("settlement_pending", "the facilitator says that another payment is settled: %s of %s on %s", clip(answer.Amount), clip(answer.Payer), clip(answer.Network))
	case answer.Success:
		return claimed, nil, nil
	case fate != Unseen && again, fate != Spent && hashErr != nil && perhapsSent[reason]:
		// What was sent the first time may still be waiting for a block.
		unknown = x402.Errorf("settlement_pending", "the facilitator says: %s", clip(reason))
	case fate == Unseen && (nonceUsed[reason] && (again || p.State == purchase.Pending) || again && afterwards[reason]):
		unknown = x402.Errorf("settlement_pending", "the facilitator says: %s", clip(reason))
	}
	if unknown != nil {
		return claimed, nil, unknown
	}
	return tx, refused, nil
}

// look looks at the chain with the seller's own eyes. over says that they see for certain that nothing moved, and that
// nothing can move any more.
func (w *transfer) look(ctx context.Context, p purchase.Purchase, sent x402.Payment, signed x402.Requirements, amount money.Amount, claimed evm.Hash) (fate Fate, seen evm.Hash, over bool, err error) {
	if w.pw.cfg.Witness == nil {
		return Unseen, seen, false, nil
	}
	a, err := exact.Read(sent, signed)
	if err != nil {
		return Unseen, seen, false, err
	}
	if fate, seen, err = w.pw.cfg.Witness.Moved(ctx, p.Network, a, amount, claimed); err != nil {
		return Unseen, seen, false, err
	}
	late := w.pw.cfg.Now().Unix()-int64(min(a.ValidBefore, 1<<40)) > int64(overSlack/time.Second)
	return fate, seen, late && (fate == Unspent || fate == Spent), nil
}

// overSlack is how long after an authorization has expired its last block may still be unknown to the seller's node.
const overSlack = 2 * time.Minute

// nonceUsed are the reasons of a nonce that was used before: by a settlement that was asked for, or by somebody else's.
var nonceUsed = map[string]bool{
	"invalid_exact_evm_nonce_already_used": true, "nonce_already_used": true, "permit2_invalid_nonce": true, "duplicate_settlement": true,
}

// afterwards are reasons that a second settlement may have because of the first, from facilitators that do not say what became
// of that: its money is gone, for one.
var afterwards = map[string]bool{
	"invalid_transaction_state": true, "invalid_exact_evm_transaction_failed": true, "invalid_upto_evm_transaction_failed": true,
	"invalid_exact_evm_transaction_simulation_failed": true, "permit2_simulation_failed": true,
	"insufficient_funds": true, "invalid_exact_evm_insufficient_balance": true, "permit2_insufficient_balance": true,
}

// perhapsSent are reasons of facilitators that have sent a transaction, name none, and have stopped waiting for it.
var perhapsSent = map[string]bool{
	"invalid_exact_evm_transaction_failed": true, "invalid_upto_evm_transaction_failed": true, "unexpected_settle_error": true,
}

// isOther, isElsewhere and isLess report whether a facilitator speaks of another payer, of another network, or of less. What
// it leaves out, or spells in a way of its own, says nothing.
func isOther(named string, account evm.Address) bool {
	a, err := evm.ParseAddress(named)
	return err == nil && a != account
}

func isElsewhere(named, caip2 string) bool {
	if known, ok := network.FromV1(named); ok {
		named = known
	}
	return strings.HasPrefix(named, "eip155:") && named != caip2
}

func isLess(named string, amount money.Amount) bool {
	a, err := money.ParseAmount(named)
	return err == nil && a.Less(amount)
}

// pending is the refusal of a payment that may have moved.
func pending(p purchase.Purchase, tx evm.Hash, err error) *x402.Error {
	e := &x402.Error{Code: "settlement_pending", Message: fmt.Sprintf("the payment of purchase %s is not confirmed. It may still be charged", p.ID), Err: err}
	if !tx.IsZero() {
		e.Message = fmt.Sprintf("transfer %s of purchase %s was sent and is not confirmed. It may still be charged", tx, p.ID)
		e.Details = map[string]string{"transaction": tx.String(), "purchase": p.ID}
	}
	return e
}

// end moves the money of work that is done, before its answer leaves.
func (w *transfer) end(ctx context.Context, p purchase.Purchase) (purchase.Purchase, *x402.Error) {
	book := w.pw.cfg.Purchases
	paidBefore := !p.Transaction.IsZero()
	switch {
	case paidBefore:
		// A bundle is bought whatever becomes of the request that bought it; the request itself takes a unit or none.
		failed := p.State == purchase.Void
		if p.Buys > 0 {
			p.Draws = drawnUnits(p)
		}
		p.State, p.Charged, p.Owed = purchase.Committed, p.Cap, money.Amount{}
		if err := book.Finish(ctx, p); err != nil {
			return p, notWritten(p, err)
		}
		if failed && p.Buys == 0 {
			w.pw.giveBack(ctx, p)
		}
		return p, nil
	case p.DrawsOnly():
		p.Draws = drawnUnits(p)
		if p.State == purchase.Committed {
			p.Charged = money.Amount{} // it was paid with the bundle
		}
	case p.State == purchase.Committed && p.Credit.Less(p.Charged):
		if !w.lowers() {
			p.Charged = p.Cap // it moves whole, whatever was counted
		}
		return w.settleAfter(ctx, p)
	case p.State == purchase.Working:
		if good, ok := w.goodUntil(p); ok && good.Before(p.Due) {
			p.Due = good
		}
	}
	if err := book.Finish(ctx, p); err != nil {
		return p, notWritten(p, err)
	}
	return p, nil
}

// goodUntil is until when what pays a purchase can be settled, less what settling takes.
func (w *transfer) goodUntil(p purchase.Purchase) (time.Time, bool) {
	var q x402.FacilitatorRequest
	if len(p.Certificate) == 0 || json.Unmarshal(p.Certificate, &q) != nil {
		return time.Time{}, false
	}
	a, err := exact.Read(q.Payment, q.Requirements)
	return time.Unix(int64(min(a.ValidBefore, 1<<40)), 0).Add(-settleSlack), err == nil
}

// settleSlack is left to a job's payment to be settled before it expires.
const settleSlack = 20 * time.Second

// drawnUnits is how much of a bundle a request used that is done as p says.
func drawnUnits(p purchase.Purchase) uint64 {
	switch {
	case p.State == purchase.Void:
		return 0
	case p.State == purchase.Committed:
		return min(max(p.Units, 1), p.Draws)
	}
	return p.Draws
}

// settleAfter writes down what is to be charged, together with the answer, then moves the money, and then ends the purchase:
// a crash in between leaves what is needed to go on.
func (w *transfer) settleAfter(ctx context.Context, p purchase.Purchase) (purchase.Purchase, *x402.Error) {
	p.State, p.Owed, p.Charged = purchase.Pending, p.Charged, money.Amount{}
	if err := w.pw.cfg.Purchases.Finish(ctx, p); err != nil {
		return p, &x402.Error{Code: "book_unavailable", Message: fmt.Sprintf("purchase %s is done and could not be written down", p.ID), Err: err}
	}
	p.Answer = nil // the book has it, and many may wait for a chain here
	return w.resolve(ctx, p, false)
}

// resolve moves the money of a purchase that is Pending, or finds out that it moved, and ends the purchase.
func (w *transfer) resolve(ctx context.Context, p purchase.Purchase, again bool) (purchase.Purchase, *x402.Error) {
	book := w.pw.cfg.Purchases
	tx, refused, err := w.settle(ctx, p, beyond(p.Owed, p.Credit), again)
	if err != nil {
		w.pw.log.Warn("whether a purchase is paid is not known yet", "purchase", p.ID, "transaction", tx, "error", err)
		return p, pending(p, tx, err)
	}
	owed, answer := p.Owed, p.Answer
	p.Owed, p.Transaction, p.Answer = money.Amount{}, tx, nil // the stored answer stays
	p.State, p.Charged = purchase.Committed, owed
	if refused != nil {
		p.State, p.Charged, p.Outcome, answer = purchase.Void, money.Amount{}, refused.Code, nil
	}
	if err := book.Finish(ctx, p); errors.Is(err, purchase.ErrState) && !again { // another gate was faster
		if now, ok, e := book.FindID(ctx, p.ID); e == nil && ok && now.State == p.State {
			return now, refused
		}
		return p, notWritten(p, err)
	} else if err != nil {
		return p, notWritten(p, err)
	}
	p.Answer = answer
	return p, refused
}

func (w *transfer) recover(ctx context.Context, p purchase.Purchase) (purchase.Purchase, error) {
	book := w.pw.cfg.Purchases
	p.DoneAt = w.pw.cfg.Now()
	switch {
	case p.State == purchase.Pending:
		p, refused := w.resolve(ctx, p, true)
		if refused != nil && refused.Code == "settlement_pending" {
			return p, refused
		}
		if p.State == purchase.Committed && p.Answer != nil && !p.Answer.Whole {
			// It is paid, and what was bought is gone: its answer was larger than what is kept. Work that ended early and
			// owes for its stages has none.
			w.pw.log.Error("a purchase is paid and its answer is lost; the payer gets its money back", "purchase", p.ID)
			lost := p
			lost.Outcome = "answer_lost"
			w.pw.giveBack(ctx, lost)
		}
		return p, nil
	case p.State == purchase.Reserved && p.Settling:
		p, e := w.settleFirst(ctx, p, true)
		if e != nil && p.State != purchase.Void {
			return p, e
		}
		return p, nil
	case p.State == purchase.Running && !p.Transaction.IsZero():
		// It was charged before the work, whatever became of that. Of a bundle nothing was used.
		p.State, p.Charged, p.Outcome, p.Draws = purchase.Committed, p.Cap, interrupted, 0
	case p.State == purchase.Reserved:
		p.State, p.Outcome = purchase.Void, expired
	case p.State == purchase.Working:
		p.State, p.Outcome, p.Draws, p.Answer = purchase.Void, overdue, 0, nil
	default:
		p.State, p.Outcome, p.Draws = purchase.Void, interrupted, 0
	}
	if p.State == purchase.Void && !p.Owed.IsZero() {
		// Stages were reached, and what they earn is owed.
		p.State, p.Charged, p.Owed = purchase.Committed, p.Owed, money.Amount{}
		p, refused := w.end(ctx, p)
		if refused != nil && refused.Code == "settlement_pending" {
			return p, refused
		}
		return p, nil
	}
	return p, book.Finish(ctx, p)
}

// proof: the transaction is the proof.
func (w *transfer) proof(purchase.Purchase) json.RawMessage { return nil }
