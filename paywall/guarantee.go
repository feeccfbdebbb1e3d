package paywall

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// wayGuarantee is what people call the scheme of package guarantee.
const wayGuarantee = "guarantee"

// guarantees is the way to pay by a promise that a clearing house certifies. A purchase keeps the promise and the
// certificate as its proof, and the payee signs what it takes less.
type guarantees struct{ pw *Paywall }

func (guarantees) name() string   { return wayGuarantee }
func (guarantees) scheme() string { return guarantee.Scheme }

func (g guarantees) ready(ctx context.Context) error {
	_, err := g.pw.verifierNow(ctx)
	if err == nil {
		err = g.pw.mayLower(ctx)
	}
	return err
}

func (g guarantees) lowers() bool { return g.pw.cfg.Signer != nil }

func (g guarantees) lasts(*route) time.Duration { return g.pw.cfg.QuoteLifetime }

// describe names the vault whose collateral backs the promise, so that a buyer of another house need not try, and where
// 4Mica's clients get a request id.
func (g guarantees) describe(v *visit, _ offer, extra map[string]any) bool {
	if vault := g.pw.vault(); vault != "" {
		extra["vault"] = vault
	}
	if endpoint := v.tabEndpoint(); endpoint != "" {
		extra["tabEndpoint"] = endpoint
	}
	if p := v.policy(); p != nil {
		maps.Copy(extra, p.Extra())
	}
	return true
}

func (g guarantees) read(v *visit, p *x402.Payment, _ []tender) (payment, *x402.Error) {
	signed, err := guarantee.ParsePayload(p.Payload)
	if err != nil {
		return nil, x402.Errorf("payment_undecodable", "payload: %w", err)
	}
	vf, err := g.pw.verifierNow(v.r.Context())
	if err == nil {
		err = g.pw.mayLower(v.r.Context())
	}
	if err != nil {
		return nil, internal(err)
	}
	return promise{g.pw, vf, signed}, nil
}

// promise is a guarantee that was signed.
type promise struct {
	pw *Paywall
	*verifier
	guarantee.Signed
}

func (g promise) facts() facts {
	c := g.Claims
	return facts{c.Digest(g.separator), c.Payer, c.Payee, c.Asset, c.Amount, c.ReqID}
}

func (g promise) fits(a *agreement) *x402.Error {
	switch c, q := g.Claims, a.quote; {
	case c.Payee != q.Payee:
		return x402.Errorf("payment_mismatch", "signed for payee %s, this route pays %s", c.Payee, q.Payee)
	case c.Asset != q.Asset:
		return x402.Errorf("payment_mismatch", "signed in asset %s, this offer is in %s (%s)", c.Asset, q.Asset, a.token.Symbol)
	case c.Amount != q.Amount:
		e := x402.Errorf("payment_mismatch", "signed for %s, this request takes %s", show(c.Amount, a.token), show(q.Amount, a.token))
		e.Details = map[string]string{"asked": q.Amount.String(), "signed": c.Amount.String()}
		return e
	case a.policy == nil && c.Policy != nil:
		return x402.Errorf("payment_mismatch", "signed on condition of a validator's answer, this offer has none")
	case a.policy != nil:
		if err := guarantee.Meets(g.Claims, *a.policy, a.chain.ID); err != nil {
			return x402.Errorf("payment_mismatch", "%w", err)
		}
	}
	return nil
}

func (g promise) late(_ *agreement, now time.Time) *x402.Error { return skew(g.window, g.Claims, now) }

func (g promise) verify(*visit, *agreement) *x402.Error {
	// A text signature names no deployment. Whether it counts is the clearing house's policy; it says so when it certifies.
	_, err := g.Verify(g.separator, guarantee.Rules{EIP191: true})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, evm.ErrHighS):
		return x402.Errorf("high_s", "%w", err)
	}
	return x402.Errorf("payer_signature_invalid", "the signature is not of payer %s: %w", g.Claims.Payer, err)
}

func (g promise) reserve(ctx context.Context, _ *agreement, p purchase.Purchase) (purchase.Purchase, error) {
	if !(guarantees{g.pw}).lowers() {
		return g.pw.cfg.Purchases.Reserve(ctx, p)
	}
	return g.pw.reserve(ctx, p, true)
}

// secure has the promise certified. If that fails the reservation stays: the same payment may be shown again, and is
// certified then or was already.
func (g promise) secure(v *visit, a *agreement, p purchase.Purchase) (purchase.Purchase, *x402.Error) {
	certify := g.pw.house.Certify
	if a.purchase == "" { // a stock client may want to verify what the receipt shows
		certify = g.pw.house.CertifyAlone
	}
	cert, e := g.pw.certify(v.r.Context(), certify, g.verifier, g.Signed, p.ReservedAt)
	if e != nil {
		if strings.HasPrefix(e.Code, "certificate_") {
			g.pw.log.Error("clearing house answered with a false certificate", "purchase", p.ID, "payment", p.Payment, "error", e)
		}
		return p, e
	}
	certificate, err := json.Marshal(cert)
	if err != nil {
		return p, internal(err)
	}
	proof, err := json.Marshal(evidence{g.Signed, certificate})
	if err != nil {
		return p, internal(err)
	}
	return v.start(p, proof)
}

// end signs what is let go in the step in which the purchase ends. Until that is signed the whole amount is owed, so such
// a purchase is not over yet, but what it comes to is known, and its answer may leave.
func (g guarantees) end(ctx context.Context, p purchase.Purchase) (purchase.Purchase, *x402.Error) {
	if p.State == purchase.Working {
		if last, ok := g.lastNote(p); ok && last.Before(p.Due) && !g.late() {
			p.Due = last
		}
	} else if owed := beyond(p.Charged, p.Credit); owed.Less(p.Cap) && g.lowers() {
		note, err := g.pw.lower(ctx, p.Payment, owed, p.Outcome)
		if err != nil {
			g.pw.log.Error("cannot sign that less is charged; trying again later", "purchase", p.ID, "error", err)
			p.Owed = p.Charged
			p.State, p.Charged = purchase.Pending, money.Amount{}
		} else {
			p.Proof = note
		}
	}
	if err := g.pw.cfg.Purchases.Finish(ctx, p); err != nil {
		return p, notWritten(p, err)
	}
	if len(p.Proof) > 0 {
		g.pw.poke()
	}
	return p, nil
}

// lastNote is until when less than what was promised can be charged: the cutoff of the certificate's cycle, less what a
// note's way takes.
func (g guarantees) lastNote(p purchase.Purchase) (time.Time, bool) {
	vf := g.pw.verifierKnown()
	var e evidence
	var cert guarantee.Certificate
	if vf == nil || json.Unmarshal(p.Certificate, &e) != nil || json.Unmarshal(e.Certificate, &cert) != nil {
		return time.Time{}, false
	}
	cycle, err := vf.certs.Verify(cert, e.Guarantee.Claims)
	if err != nil {
		return time.Time{}, false
	}
	found, _ := findCycle(vf.params.Schedules, p.Asset, cycle, p.ReservedAt, g.pw.cfg.Now())
	return found.Add(-noteSlack), !found.IsZero()
}

var refundWithin = regexp.MustCompile(`^(.*) within (\S+)$`)

// late reports whether what a promise is worth may come back after the cutoff of its cycle, by a guarantee the other way.
func (g guarantees) late() bool { return g.pw.cfg.LateRefunds && g.lowers() && !g.pw.named() }

// until returns a refund rule as it can be kept for a promise: what it is worth can be lowered until the cutoff of its
// cycle only, so no later deadline is announced, unless refunds may be late.
func (g guarantees) until(rule string, asset evm.Address, now time.Time) string {
	words := refundWithin.FindStringSubmatch(rule)
	if words == nil || g.late() {
		return rule
	}
	vf := g.pw.verifierKnown()
	deadline, err := time.ParseDuration(words[2])
	if err != nil || vf == nil {
		return words[1] + " until the cutoff of its cycle"
	}
	_, last, listed := openCycle(vf.params.Schedules, asset, now)
	if listed && last.Add(-noteSlack).Before(now.Add(deadline)) {
		return words[1] + " until " + last.Add(-noteSlack).UTC().Format(time.RFC3339)
	}
	return rule
}

// openCycle returns the cycle that is open now and its cutoff; false for an asset without a schedule.
func openCycle(schedules []client.Schedule, asset evm.Address, now time.Time) (cycle evm.Hash, cutoff time.Time, listed bool) {
	at := uint64(now.Unix())
	var from uint64
	for _, s := range schedules {
		if length := uint64(s.Length / time.Second); s.Asset == asset && length > 0 && s.From <= at && (!listed || s.From >= from) {
			from, listed = s.From, true
			start := s.From + (at-s.From)/length*length
			cycle, cutoff = guarantee.CycleID(asset, start), time.Unix(int64(start+length), 0).Add(s.Cutoff)
		}
	}
	return cycle, cutoff, listed
}

// noteSlack is left to a note to reach the clearing house before the cutoff of its cycle.
const noteSlack = 2 * time.Second

func (g guarantees) recover(ctx context.Context, p purchase.Purchase) (purchase.Purchase, error) {
	switch p.State {
	case purchase.Running, purchase.Working:
		why := interrupted
		if p.State == purchase.Working {
			why = overdue
		}
		p.State, p.Charged, p.Outcome, p.Answer = purchase.Void, money.Amount{}, why, nil
		switch {
		case !g.lowers():
			p.State, p.Charged = purchase.Committed, p.Cap // charged before work, as announced
		case !p.Owed.IsZero():
			p.State, p.Charged = purchase.Committed, p.Owed // of stages that were reached
		}
	case purchase.Reserved:
		// The clearing house may have certified it without our hearing of it, so it gets a note as well.
		p.State, p.Charged, p.Outcome = purchase.Void, money.Amount{}, expired
	case purchase.Pending:
		p.State, p.Charged, p.Proof = purchase.Void, p.Owed, nil
		if !p.Owed.IsZero() {
			p.State = purchase.Committed
		}
	}
	p.Owed = money.Amount{}
	if owed := beyond(p.Charged, p.Credit); owed.Less(p.Cap) && g.lowers() {
		note, err := g.pw.lower(ctx, p.Payment, owed, p.Outcome)
		if err != nil {
			return p, err
		}
		p.Proof = note
	}
	p.DoneAt = g.pw.cfg.Now()
	if err := g.pw.cfg.Purchases.Finish(ctx, p); err != nil {
		return p, err
	}
	g.pw.poke()
	return p, nil
}

func (guarantees) proof(p purchase.Purchase) json.RawMessage {
	var e evidence
	if json.Unmarshal(p.Certificate, &e) != nil {
		return nil
	}
	return e.Certificate
}

// verifier is what is needed to judge guarantees of one clearing house without asking it.
type verifier struct {
	params    client.Params
	separator evm.Hash
	window    guarantee.Window
	certs     *guarantee.Verifier
}

// verifierNow returns the clearing house's verifier. It asks until the clearing house answers once.
func (pw *Paywall) verifierNow(ctx context.Context) (*verifier, error) {
	if known := pw.verifierKnown(); known != nil {
		return known, nil
	}
	params, err := pw.house.Params(ctx)
	if err != nil {
		return nil, asError(err, "house_unreachable")
	}
	if params.Deployment.ChainID != pw.chain.ID {
		return nil, x402.Errorf("house_refused", "the clearing house clears on chain %d, this route sells on %s", params.Deployment.ChainID, pw.chain)
	}
	certs, err := guarantee.NewVerifier(params.Key, params.Deployment)
	if err != nil {
		return nil, x402.Errorf("house_refused", "the clearing house's key: %w", err)
	}
	v := &verifier{
		params: params, separator: params.Deployment.ClaimsSeparator(), certs: certs,
		window: guarantee.Window{Past: params.TimestampPast, Ahead: params.TimestampFuture},
	}
	setDefault(&v.window.Past, guarantee.DefaultPast)
	setDefault(&v.window.Ahead, guarantee.DefaultAhead)
	pw.mu.Lock()
	defer pw.mu.Unlock()
	pw.verifier = v
	return v, nil
}

// mayLower checks that the payee has named the key that signs its notes: else a buyer would be promised what the clearing
// house refuses. It asks again now and then, because the payee may remove the key.
func (pw *Paywall) mayLower(ctx context.Context) error {
	now := pw.cfg.Now()
	pw.mu.Lock()
	known := now.Sub(pw.namedAt) < namedFor && !now.Before(pw.namedAt)
	pw.mu.Unlock()
	if known || !pw.named() {
		return nil
	}
	signers, err := pw.house.Signers(ctx, pw.payee)
	if err != nil {
		return asError(err, "house_unreachable")
	}
	key, at := pw.cfg.Signer.Address(), uint64(max(now.Unix(), 0))
	if !slices.ContainsFunc(signers, func(s client.Signer) bool { return s.Key == key && (s.Until == 0 || at+signerSlack < s.Until) }) {
		return x402.Errorf("config_invalid", "%s is paid, and has not named the key of %s to sign for it", pw.payee, key).
			WithHint("farthing signer add %s, with the key of %s", key, pw.payee)
	}
	pw.mu.Lock()
	defer pw.mu.Unlock()
	pw.namedAt = now
	return nil
}

const (
	// namedFor is how long the clearing house's word on who signs for the payee is taken.
	namedFor = time.Minute
	// signerSlack is how many seconds before a key ends nothing is sold any more for whose note it would be needed: a day's
	// cycle with its cutoff. No vault that holds real money takes a key away faster.
	signerSlack = uint64(25 * time.Hour / time.Second)
)

// verifierKnown returns the verifier, or nil while the clearing house has not answered yet.
func (pw *Paywall) verifierKnown() *verifier {
	pw.mu.Lock()
	defer pw.mu.Unlock()
	return pw.verifier
}

// vault is the clearing house's, or "" while it has not answered yet.
func (pw *Paywall) vault() string {
	if vf := pw.verifierKnown(); vf != nil {
		return vf.params.Deployment.Vault.String()
	}
	return ""
}

// skew reports a timestamp outside the window, which the clearing house would refuse.
func skew(w guarantee.Window, c guarantee.Claims, now time.Time) *x402.Error {
	err := w.Check(c, now)
	switch {
	case errors.Is(err, guarantee.ErrFuture):
		return x402.Errorf("timestamp_skew", "your clock is %d s ahead of the seller's; %d s are allowed", c.Timestamp-uint64(max(now.Unix(), 0)), w.Ahead/time.Second)
	case err != nil:
		return x402.Errorf("timestamp_skew", "signed %d s ago; %d s are allowed", uint64(max(now.Unix(), 0))-c.Timestamp, w.Past/time.Second)
	}
	return nil
}

// certifier is one of a house's ways to certify.
type certifier func(context.Context, guarantee.Signed) (guarantee.Certificate, error)

// certify has a guarantee certified and verifies what comes back, every field of it. since is when its payment was
// reserved: a clearing house whose answer was lost certifies again for the cycle that it admitted the guarantee to then.
func (pw *Paywall) certify(ctx context.Context, certify certifier, v *verifier, s guarantee.Signed, since time.Time) (guarantee.Certificate, *x402.Error) {
	cert, err := certify(ctx, s)
	if err != nil {
		var e *x402.Error
		if !errors.As(err, &e) {
			e = &x402.Error{Code: "house_unreachable", Message: "cannot certify payments: the clearing house does not answer", Err: err}
		}
		switch e.Reason().Status {
		case http.StatusPaymentRequired, http.StatusForbidden, http.StatusConflict, http.StatusTooManyRequests, http.StatusServiceUnavailable:
			return guarantee.Certificate{}, e
		}
		// What is wrong between us and the clearing house is not the buyer's fault, and must not read as if it were.
		return guarantee.Certificate{}, &x402.Error{Code: "house_refused", Message: "the clearing house does not certify for this seller: " + e.Error(), Err: e}
	}
	cycle, err := v.certs.Verify(cert, s.Claims)
	switch {
	case errors.Is(err, guarantee.ErrMismatch) || errors.Is(err, guarantee.ErrForeign):
		return guarantee.Certificate{}, x402.Errorf("certificate_mismatch", "the clearing house certified something else: %w", err)
	case err != nil:
		return guarantee.Certificate{}, x402.Errorf("certificate_invalid", "the clearing house's certificate does not verify: %w", err)
	case !cycleLives(v.params.Schedules, s.Claims.Asset, cycle, since, pw.cfg.Now()):
		return guarantee.Certificate{}, x402.Errorf("certificate_mismatch", "the clearing house certified for a cycle that is over, or not yet begun")
	}
	return cert, nil
}

// cyclesBack bounds the search for the cycle of a certificate.
const cyclesBack = 64

// cycleLives reports whether a certificate's cycle took notes still at since, and has begun by now. A clearing house that
// puts a guarantee into a cycle long netted would leave the payee with nothing. A house without a schedule for the asset
// is believed.
func cycleLives(schedules []client.Schedule, asset evm.Address, cycle evm.Hash, since, now time.Time) bool {
	cutoff, listed := findCycle(schedules, asset, cycle, since, now)
	return !cutoff.IsZero() || !listed
}

// findCycle looks for a cycle among those that took notes still at since and have begun by now, and returns its cutoff; the
// zero time if it is none of them. listed says whether the asset has a schedule at all.
func findCycle(schedules []client.Schedule, asset evm.Address, cycle evm.Hash, since, now time.Time) (cutoffAt time.Time, listed bool) {
	at, earliest := uint64(now.Unix()), uint64(since.Unix())
	for _, s := range schedules {
		length, cutoff := uint64(s.Length/time.Second), uint64(s.Cutoff/time.Second)
		if s.Asset != asset || length == 0 {
			continue
		}
		listed = true
		// The house's clock may be a little ahead of ours.
		last := at + uint64(guarantee.DefaultAhead/time.Second)
		for _, later := range schedules {
			if later.Asset == asset && later.From > s.From && later.From <= last {
				last = later.From - 1
			}
		}
		if last < s.From {
			continue
		}
		start := s.From + (last-s.From)/length*length
		for range cyclesBack {
			if start+length+cutoff+uint64(guarantee.DefaultAhead/time.Second) < earliest {
				break
			}
			if guarantee.CycleID(asset, start) == cycle {
				return time.Unix(int64(start+length+cutoff), 0), true
			}
			if start < s.From+length {
				break
			}
			start -= length
		}
	}
	return time.Time{}, listed
}

// evidence is what a purchase keeps as the proof of its payment: with both signatures the payee can be paid even if the
// operator disappears.
type evidence struct {
	Guarantee   guarantee.Signed `json:"guarantee"`
	Certificate json.RawMessage  `json:"certificate"` // [guarantee.Certificate]
}

// signTime is how long a remote key may take. The buyer waits for it, and the worker tries again.
const signTime = 5 * time.Second

// lower signs a note that the payee takes no more than amount of a guarantee, and returns its JSON.
func (pw *Paywall) lower(ctx context.Context, payment evm.Hash, amount money.Amount, outcome string) ([]byte, error) {
	v, err := pw.verifierNow(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, signTime)
	defer cancel()
	signed, err := guarantee.SignNote(ctx, pw.cfg.Signer, v.params.Deployment, noteOf(payment, amount, outcome))
	if err != nil {
		return nil, err
	}
	return json.Marshal(signed)
}

func noteOf(payment evm.Hash, amount money.Amount, outcome string) guarantee.Note {
	note := guarantee.Note{Digest: payment, Amount: amount}
	if outcome != "" {
		note.Reason = evm.Keccak256([]byte(outcome))
	}
	return note
}
