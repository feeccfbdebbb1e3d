package facilitator

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/x402"
)

const (
	// DefaultWait is how long settling waits for the chain before it answers settlement_pending.
	DefaultWait = 20 * time.Second

	// waitMax is the longest that one call waits in all: the published clients give up after 90 seconds.
	waitMax = 80 * time.Second
)

// Config is what a facilitator serves. Networks or Houses must be set.
type Config struct {
	Networks []*Network    // where transfers are settled
	Houses   []House       // whose guarantees are settled
	Wait     time.Duration // 0: DefaultWait
	Keys     []Key         // who may verify and settle; none: everyone
	// PerMinute is how many calls to /verify and /settle are taken from one key or address in a minute; 0: no limit.
	PerMinute int
	Catalogue Catalogue // of /discovery/resources; nil: none is kept
	Now       func() time.Time
	Log       *slog.Logger // nil: silence
}

// Key lets its holder verify and settle.
type Key struct{ Name, Secret string }

// Facilitator verifies and settles. Make one with [New].
type Facilitator struct {
	Config
	promises []*promises
	metrics  *metrics
	http     *handler
	listed   x402.Supported  // of transfers
	working  context.Context // until Run returns
	rest     context.CancelFunc
}

var _ x402.Facilitator = (*Facilitator)(nil)

// New makes a facilitator. Settling waits until [Facilitator.Run] runs.
func New(c Config) (*Facilitator, error) {
	if len(c.Networks) == 0 && len(c.Houses) == 0 {
		return nil, errors.New("facilitator: neither a network nor a clearing house")
	}
	if c.Wait <= 0 {
		c.Wait = DefaultWait
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	f := &Facilitator{Config: c}
	for _, house := range c.Houses {
		f.promises = append(f.promises, &promises{house: house, now: c.Now})
	}
	f.working, f.rest = context.WithCancel(context.Background())
	f.metrics = newMetrics(f)
	for _, n := range c.Networks {
		n.mu.Lock()
		n.ended = f.metrics.ended(n)
		n.mu.Unlock()
	}
	f.listed = f.supported()
	f.http = newHandler(f)
	return f, nil
}

// How often a desk looks at its chain: soon after something has happened, since nodes for development make a block at once,
// then at most every beat while something is open, and at its leisure otherwise.
const (
	soon = 25 * time.Millisecond
	beat = 250 * time.Millisecond
	idle = 5 * time.Second
)

// Run settles until ctx ends, and returns when nothing is at work any more. What is on its way then stays recorded, and
// goes on with the next facilitator over the same book.
func (f *Facilitator) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, n := range f.Networks {
		all.Go(func() { f.work(ctx, n) })
	}
	all.Wait()
	<-ctx.Done() // guarantees need no loop
	f.rest()
	return nil
}

func (f *Facilitator) work(ctx context.Context, n *Network) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var moves uint64
	pause := soon
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-n.desk.Wake():
		}
		n.step(ctx)
		switch now := n.desk.Moves(); {
		case n.well() == nil && n.desk.Open() == 0:
			pause = idle
		case now != moves:
			moves, pause = now, soon
		default:
			pause = min(2*pause, beat)
		}
		timer.Reset(pause)
	}
}

// network finds the network of terms.
func (f *Facilitator) network(r x402.Requirements) (*Network, error) {
	for _, n := range f.Networks {
		if n.c.Chain.CAIP2() == r.Network {
			return n, nil
		}
	}
	return nil, x402.Errorf("invalid_network", "payments on %q are not served", clip(r.Network))
}

// Verify implements [x402.Facilitator]. Errors have the codes chain_unreachable, book_unavailable and settlement_busy, of
// guarantees house_unreachable and house_refused.
func (f *Facilitator) Verify(ctx context.Context, p x402.Payment, r x402.Requirements) (x402.VerifyResponse, error) {
	if f.isPromise(p, r) {
		answer, err := f.verifyPromise(ctx, p, r)
		f.metrics.verified(r, orElse(reasonOf(err), answer.InvalidReason))
		return answer, err
	}
	a, err := f.verify(ctx, p, r)
	answer := x402.VerifyResponse{IsValid: err == nil}
	if !a.From.IsZero() {
		answer.Payer = a.From.String()
	}
	reason, err := refusal(err)
	if err != nil {
		f.metrics.verified(r, reasonOf(err))
		return x402.VerifyResponse{}, err
	}
	if reason != nil {
		answer.InvalidReason, answer.InvalidMessage = reason.Code, reason.Error()
	}
	f.metrics.verified(r, answer.InvalidReason)
	return answer, nil
}

func (f *Facilitator) verify(ctx context.Context, p x402.Payment, r x402.Requirements) (exact.Authorization, error) {
	n, err := f.network(r)
	if err != nil {
		return exact.Authorization{}, err
	}
	a, err := exact.Read(p, r)
	if err != nil {
		return a, err
	}
	v, simulate := n.verifier, true
	if n.offline != nil {
		v, simulate = n.offline, false
	}
	if err := n.judge(ctx, v, a, r, simulate); err != nil {
		return a, err
	}
	ask := draft(a, a.Amount)
	if a.Method == exact.Legacy { // no contract knows what was settled
		s, _, found, err := n.desk.Find(ctx, ask.ID)
		if err != nil {
			return a, x402.Errorf("book_unavailable", "look for settlement: %w", err)
		}
		if found && s.State != desk.Failed {
			return a, x402.Errorf("duplicate_settlement", "the payment is %s", s.State)
		}
	}
	return a, n.desk.Admit(ask, f.Now())
}

// Settle implements [x402.Facilitator]: it settles, or joins the settlement that goes on, and waits for its end. Asking
// again is answered the same. A settlement whose end is not known in time is answered with settlement_pending. Errors have
// the codes chain_unreachable and settlement_busy if nothing was recorded, and settlement_pending if that is not known.
func (f *Facilitator) Settle(ctx context.Context, p x402.Payment, r x402.Requirements) (x402.SettleResponse, error) {
	if f.isPromise(p, r) {
		answer, err := f.settlePromise(ctx, p, r)
		f.metrics.settleAnswered(r, orElse(reasonOf(err), answer.ErrorReason))
		return answer, err
	}
	answer := x402.SettleResponse{Network: r.Network}
	if r.NetworkSent != "" {
		answer.Network = r.NetworkSent
	}
	a, s, tx, err := f.settle(ctx, p, r)
	if !a.From.IsZero() {
		answer.Payer = a.From.String()
	}
	reason, err := refusal(err)
	if err != nil {
		f.metrics.settleAnswered(r, reasonOf(err))
		return x402.SettleResponse{}, err
	}
	switch {
	case reason != nil:
		answer.ErrorReason, answer.ErrorMessage = reason.Code, reason.Error()
	case s.State == desk.Settled:
		answer.Success, answer.Amount = true, s.Amount.String()
		if !s.Tx.IsZero() {
			answer.Transaction = s.Tx.String()
		}
	case s.State == desk.Failed:
		answer.ErrorReason, answer.ErrorMessage = s.Code, s.Reason
		if !s.Tx.IsZero() {
			answer.Transaction = s.Tx.String()
		}
	default:
		answer.ErrorReason, answer.ErrorMessage = "settlement_pending", "it is "+string(s.State)+"; ask again"
		if !tx.IsZero() {
			answer.Transaction = tx.String()
		}
	}
	f.metrics.settleAnswered(r, answer.ErrorReason)
	return answer, nil
}

func (f *Facilitator) settle(ctx context.Context, p x402.Payment, r x402.Requirements) (a exact.Authorization, s desk.Settlement, tx evm.Hash, err error) {
	n, err := f.network(r)
	if err != nil {
		return a, s, tx, err
	}
	if a, err = exact.Read(p, r); err != nil {
		return a, s, tx, err
	}
	amount, err := money.ParseAmount(r.Amount)
	if err != nil {
		return a, s, tx, x402.Errorf("invalid_payment_requirements", "requirements: amount: %w", err)
	}
	signed := r // the terms that were signed: of upto the most that may be charged
	if a.Scheme == exact.UptoScheme {
		if a.Amount.Less(amount) {
			return a, s, tx, x402.Errorf("invalid_upto_evm_payload_settlement_exceeds_amount", "settle %s of an upto %s", amount, a.Amount)
		}
		signed.Amount = a.Amount.String()
	}
	ask, before, err := n.ask(a, amount)
	if err != nil {
		return a, s, tx, f.first(ctx, n, a, signed, err)
	}
	within := settleWithin(r)
	s, tx, known, err := n.desk.Find(ctx, ask.ID)
	if err != nil {
		return a, s, tx, x402.Errorf("book_unavailable", "look for settlement: %w", err)
	}
	if !known || s.State == desk.Failed || !s.Same(ask) {
		if err := n.judge(ctx, n.verifier, a, signed, false); err != nil {
			if late, ok := f.late(ctx, n, ask, err); ok {
				return a, late, late.Tx, nil
			}
			return a, s, tx, err
		}
		if ask.Steps, err = n.steps(ctx, before); err != nil {
			return a, s, tx, err
		}
		if len(ask.Steps) > 0 {
			ask.Shared = false
		}
		n.remember(ask.ID, a, signed)
		if s, err = n.desk.Ask(ctx, ask, within, f.Now()); err != nil || s.State.Final() {
			n.forget(ask.ID)
		}
		if err != nil {
			if _, ok := x402.AsError(err); !ok {
				err = x402.Errorf("settlement_pending", "record settlement: %w", err)
			}
			return a, s, tx, err
		}
	} else if s.State == desk.Queued {
		// If the answer of the book was lost when this was recorded, the desk does not know that it has it.
		if s, err = n.desk.Ask(ctx, ask, within, f.Now()); err != nil {
			return a, s, tx, x402.Errorf("settlement_pending", "look for settlement: %w", err)
		}
	}
	s, tx, err = f.wait(ctx, n, s, within)
	if err != nil {
		err = x402.Errorf("settlement_pending", "look for settlement: %w", err)
	}
	return a, s, tx, err
}

// first returns what is wrong with a payment, or else what was found first.
func (f *Facilitator) first(ctx context.Context, n *Network, a exact.Authorization, r x402.Requirements, found error) error {
	if err := n.judge(ctx, n.verifier, a, r, false); err != nil {
		return err
	}
	return found
}

// late looks for the transaction of a payment that comes too late to be settled: somebody may have settled it in time.
func (f *Facilitator) late(ctx context.Context, n *Network, ask desk.Ask, refused error) (desk.Settlement, bool) {
	e, ok := x402.AsError(refused)
	if !ok || e.Code != "invalid_exact_evm_payload_authorization_valid_before" && e.Code != "permit2_deadline_expired" {
		return desk.Settlement{}, false
	}
	s, found, err := n.desk.Look(ctx, ask, f.Now())
	if err != nil {
		f.Log.Warn("an expired payment could not be looked for", "error", err)
	}
	return s, found && err == nil
}

// wait waits for a settlement's end: as long as Wait after it is due, and longer while nothing is sent, since stock
// servers take a pending settlement only with the hash of a transaction.
func (f *Facilitator) wait(ctx context.Context, n *Network, s desk.Settlement, within time.Duration) (desk.Settlement, evm.Hash, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(f.working, stop)()
	limit := time.Now().Add(waitMax)
	pause := min(within+f.Wait, waitMax)
	for {
		bounded, done := context.WithTimeout(ctx, pause)
		got, tx, err := n.desk.Wait(bounded, s.ID)
		done()
		if err != nil || got.State.Final() || !tx.IsZero() || ctx.Err() != nil || !time.Now().Before(limit) {
			return got, tx, err
		}
		pause = beat
	}
}

// settleWithin is how long a seller lets a settlement wait for company: extra.settleWithin, in seconds.
func settleWithin(r x402.Requirements) time.Duration {
	var seconds float64
	if raw, ok := r.Extra["settleWithin"]; !ok || json.Unmarshal(raw, &seconds) != nil || seconds < 0 {
		return 0
	}
	return time.Duration(min(seconds, 3600) * float64(time.Second))
}

// refusal tells what is wrong with a payment from what is wrong with the facilitator or its chain.
func refusal(err error) (*x402.Error, error) {
	e, ok := x402.AsError(err)
	switch {
	case err == nil:
		return nil, nil
	case !ok:
		return nil, x402.Errorf("chain_unreachable", "%w", err)
	case e.Reason().Status >= 500:
		return nil, e
	}
	return e, nil
}

func reasonOf(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := x402.AsError(err); ok {
		return e.Code
	}
	return "internal"
}

// isPromise reports whether a payment is a guarantee, or is asked to be one.
func (f *Facilitator) isPromise(p x402.Payment, r x402.Requirements) bool {
	return len(f.promises) > 0 && (p.Scheme == guarantee.Scheme || r.Scheme == guarantee.Scheme)
}

// Supported implements [x402.Facilitator]. The guarantees of a clearing house that does not answer are left out; if there is
// nothing else, that is the error.
func (f *Facilitator) Supported(ctx context.Context) (x402.Supported, error) {
	s := f.listed
	s.Kinds = slices.Clip(s.Kinds)
	var down error
	for _, p := range f.promises {
		kinds, err := p.kinds(ctx)
		if err != nil {
			down = err
			f.Log.Warn("guarantees cannot be offered", "error", err)
			continue
		}
		s.Kinds = append(s.Kinds, kinds...)
	}
	if len(s.Kinds) == 0 {
		return s, down
	}
	return s, nil
}

func (f *Facilitator) supported() x402.Supported {
	s := x402.Supported{Signers: map[string][]string{}}
	if slices.ContainsFunc(f.Networks, func(n *Network) bool { return n.permit2 }) {
		s.Extensions = append(s.Extensions, exact.PermitExtension)
	}
	if slices.ContainsFunc(f.Networks, func(n *Network) bool { return n.permit2 && n.verifier.Approvals }) {
		s.Extensions = append(s.Extensions, exact.ApprovalExtension)
	}
	if f.Catalogue != nil {
		s.Extensions = append(s.Extensions, x402.BazaarKey)
	}
	text := func(v string) json.RawMessage { b, _ := json.Marshal(v); return b }
	var v1 []x402.Kind
	for _, n := range f.Networks {
		lane := n.desk.Lanes()[0].String()
		caip2 := n.c.Chain.CAIP2()
		for _, l := range n.desk.Lanes() {
			if !slices.Contains(s.Signers["eip155:*"], l.String()) {
				s.Signers["eip155:*"] = append(s.Signers["eip155:*"], l.String())
			}
		}
		s.Kinds = append(s.Kinds, x402.Kind{X402Version: 2, Dialect: x402.Both, Scheme: exact.Scheme, Network: caip2})
		if n.upto {
			s.Kinds = append(s.Kinds, x402.Kind{X402Version: 2, Scheme: exact.UptoScheme, Network: caip2, Extra: map[string]json.RawMessage{
				"facilitatorAddress": text(lane), "assetTransferMethod": text("permit2")}})
		}
		s.Kinds = append(s.Kinds, x402.Kind{X402Version: 2, Dialect: x402.Both, Scheme: exact.LegacyScheme, Network: caip2, Extra: map[string]json.RawMessage{
			"spender": text(lane), "tokenType": text("legacy")}})
		if n.c.Chain.V1Name != "" && slices.ContainsFunc(n.tokens, func(t network.Token) bool { return t.EIP3009 }) {
			v1 = append(v1, x402.Kind{X402Version: 1, Dialect: x402.Both, Scheme: exact.Scheme, Network: n.c.Chain.V1Name})
		}
	}
	s.Kinds = append(s.Kinds, v1...)
	return s
}

func clip(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}
