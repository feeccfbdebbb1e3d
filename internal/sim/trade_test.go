package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// ask is a request for a guarantee and what the house must say to it.
type ask struct {
	signed guarantee.Signed
	batch  bool
	cover  []evm.Hash
	what   string
	want   error // nil: it may be admitted
}

func (w *world) sign(c guarantee.Claims) guarantee.Signed {
	s, err := guarantee.Sign(context.Background(), keyOf(c.Payer), deployment, c)
	if err != nil {
		panic(err) // keys in memory always sign
	}
	w.signed[c.Digest(deployment.ClaimsSeparator())] = s
	return s
}

func (w *world) claims() guarantee.Claims {
	w.ids++
	payer := w.party()
	payee := payer
	for payee == payer {
		payee = w.party()
	}
	return guarantee.Claims{
		Payer: payer, Payee: payee, Asset: w.asset(), ReqID: evm.Hash(evm.WordUint64(w.ids)),
		Amount: w.amount(150), Timestamp: w.now - uint64(w.rng.IntN(15)) + uint64(w.rng.IntN(4)),
	}
}

// newAsk draws a request, honest or not.
func (w *world) newAsk() ask {
	a := ask{batch: w.percent(70), what: "honest"}
	c := w.claims()
	known := func() (held, bool) {
		if len(w.certs) == 0 {
			return held{}, false
		}
		return w.certs[w.rng.IntN(len(w.certs))], true
	}
	switch n := w.rng.IntN(100); {
	case n < 8:
		if h, ok := known(); ok {
			a.what, a.signed = "replayed", h.signed
			return a
		}
	case n < 12:
		a.what, a.want, a.signed = "altered", guarantee.ErrSignature, w.sign(c)
		a.signed.Claims.Amount, _ = a.signed.Claims.Amount.Add(money.Units(1))
		return a
	case n < 16:
		if h, ok := known(); ok {
			c = h.signed.Claims
			c.Amount, _ = c.Amount.Add(w.amount(5))
			a.what, a.want = "conflicting", clearing.ErrConflict
		}
	case n < 20:
		c.Amount = money.Units(2 * minted * partyMax) // more than there is
		a.what, a.want = "too much", clearing.ErrExposure
	case n < 22:
		c.Timestamp = w.now - 21
		a.what, a.want = "stale", guarantee.ErrStale
	case n < 24:
		c.Timestamp = w.now + 6
		a.what, a.want = "early", guarantee.ErrFuture
	case n < 25:
		c.Amount = money.Amount{}
		a.what, a.want = "nothing", clearing.ErrAmount
	case n < 26:
		c.Payee = c.Payer
		a.what, a.want = "to itself", clearing.ErrParties
	case n < 27:
		c.Asset = evm.Address{0xee}
		a.what, a.want = "foreign", clearing.ErrAsset
	case n < 40:
		w.asRefund(&a, &c)
	}
	if w.percent(20) {
		c = c.Bind(judgement)
	}
	a.signed = w.sign(c)
	return a
}

// judgement is what guarantees depend on that depend on a validator.
var judgement = guarantee.Policy{
	Registry: Registry, ChainID: 31337, Validator: evm.Address{0x1a}, AgentID: evm.Hash{31: 7}, MinScore: 80, JobHash: evm.Hash{1}, Tag: "done",
}

// validate has the validator answer about a guarantee, whether or not it has before, well enough or not, or somebody else.
func (w *world) validate() (string, error) {
	var waiting []held
	for _, h := range w.certs[max(0, len(w.certs)-60):] {
		if h.signed.Claims.Policy != nil {
			waiting = append(waiting, h)
		}
	}
	if len(waiting) == 0 {
		return "nothing", nil
	}
	h := waiting[w.rng.IntN(len(waiting))]
	a := guarantee.Answer{Validator: judgement.Validator, AgentID: judgement.AgentID, Response: uint8(60 + w.rng.IntN(41)), Tag: judgement.Tag}
	switch w.rng.IntN(12) {
	case 0:
		a.Tag = "begun"
	case 1:
		a.Validator[0]++
	}
	w.chain.Validate(h.signed.Claims.Policy.Request, a)
	return fmt.Sprintf("%d for %s", a.Response, h.digest.Short()), nil
}

// asRefund makes a guarantee a refund that is more than its payer has free, and names claims of the payer's, also old and
// spent ones and some of others.
func (w *world) asRefund(a *ask, c *guarantee.Claims) {
	for _, h := range w.certs[max(0, len(w.certs)-60):] {
		if in := h.signed.Claims; in.Payee == c.Payer && in.Asset == c.Asset || w.percent(10) {
			a.cover = append(a.cover, h.digest)
		}
	}
	who := ownerAsset{c.Payer, c.Asset}
	used, _ := w.exposures()[who].Add(w.heldOf(who))
	free, _ := w.collateralOf(who).Sub(used)
	a.what = "refund"
	w.ids++
	c.ReqID = guarantee.RefundID([16]byte{0: byte(w.ids >> 8), 1: byte(w.ids)})
	c.Amount, _ = free.Add(w.amount(40))
}

func (w *world) admit() (string, error) {
	var asks []ask
	for range 1 + w.rng.IntN(4) {
		asks = append(asks, w.newAsk())
	}
	if w.percent(10) {
		asks = append(asks, asks[0]) // twice in one call
	}
	return w.ask(asks)
}

// askAgain asks about what nobody answered, with the same bytes.
func (w *world) askAgain() (string, error) {
	var asks []ask
	for range min(len(w.unknown), 1+w.rng.IntN(3)) {
		i := w.rng.IntN(len(w.unknown))
		asks = append(asks, ask{signed: w.unknown[i], batch: w.percent(50), what: "again"})
		w.unknown = slices.Delete(w.unknown, i, i+1)
	}
	if len(asks) == 0 {
		return "nothing", nil
	}
	return w.ask(asks)
}

// ask brings requests to a house and takes its answers, some of which are lost on the way.
func (w *world) ask(asks []ask) (said string, err error) {
	reqs := make([]clearing.Request, len(asks))
	for i, a := range asks {
		reqs[i] = clearing.Request{Signed: a.signed, Batch: a.batch, Cover: a.cover}
	}
	ctx := context.Background()
	if w.percent(2) {
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		ctx = cancelled
	}
	before := w.exposures()
	w.book.admitting = true
	results := w.house().Admit(ctx, reqs, w.time())
	w.book.admitting = false
	lost := w.percent(w.lost)
	for i, r := range results {
		a := asks[i]
		said += a.what + " "
		if err := w.answer(a, r, lost); err != nil {
			return said, fmt.Errorf("%s guarantee %s of %s to %s over %s: %w", a.what, r.Digest.Short(), a.signed.Claims.Payer.Short(), a.signed.Claims.Payee.Short(), a.signed.Claims.Amount, err)
		}
	}
	return said, w.checkSolvent(before)
}

// answer takes one result to the books of payer and payee.
func (w *world) answer(a ask, r clearing.Result, lost bool) error {
	digest := a.signed.Claims.Digest(deployment.ClaimsSeparator())
	_, certified := w.byDigest[digest]
	open := slices.ContainsFunc(w.unknown, func(s guarantee.Signed) bool { return s == a.signed })
	switch {
	case errors.Is(r.Err, clearing.ErrUnfinished) && a.want != nil:
		return w.refuse(digest, certified || open, a.want)
	case errors.Is(r.Err, clearing.ErrUnfinished) || lost && a.want == nil:
		if !open {
			w.unknown = append(w.unknown, a.signed)
		}
		delete(w.refused, digest)
		return nil
	case errors.Is(r.Err, clearing.ErrNotAdmitted):
		if a.what == "again" { // it says nothing of the first time
			w.unknown = append(w.unknown, a.signed)
		}
		return nil
	case a.want != nil:
		if errors.Is(r.Err, a.want) || a.want == clearing.ErrExposure && errors.Is(r.Err, clearing.ErrLimit) {
			return w.refuse(digest, certified || open, r.Err)
		}
		return broken("want %v, got %v", a.want, r.Err)
	case r.Err == nil:
		if open {
			w.unknown = slices.DeleteFunc(w.unknown, func(s guarantee.Signed) bool { return s == a.signed })
		}
		return w.hold(a, digest, r, certified)
	case certified:
		return broken("a certified guarantee is refused: %v", r.Err)
	case errors.Is(r.Err, clearing.ErrExposure):
		return w.justified(a, r.Err)
	case errors.Is(r.Err, clearing.ErrLimit) && w.limits:
		return nil
	case errors.Is(r.Err, guarantee.ErrStale) && a.what == "again":
		return w.refuse(digest, open, r.Err)
	}
	return broken("unexpected answer: %v", r.Err)
}

// refuse remembers that a guarantee is not to be in the book, unless another copy of it may be.
func (w *world) refuse(digest evm.Hash, perhaps bool, why error) error {
	if !perhaps {
		w.refused[digest] = why
	}
	return nil
}

// hold gives a certificate to its payee, who looks at it as one does that trusts nobody.
func (w *world) hold(a ask, digest evm.Hash, r clearing.Result, certified bool) error {
	if r.Digest != digest {
		return broken("answered about %s", r.Digest.Short())
	}
	domain, cycle, claims, err := guarantee.DecodeClaims(r.Certificate.Claims)
	if err != nil || domain != deployment.DomainOf(claims.Version()) || !claims.Equal(a.signed.Claims) || cycle != r.Cycle.ID() {
		return broken("certificate is of other claims (%v)", err)
	}
	if w.percent(8) { // a pairing takes a millisecond
		if _, err := w.verifier.Verify(r.Certificate, a.signed.Claims); err != nil {
			return broken("certificate does not verify: %v", err)
		}
	}
	if certified {
		first := w.certs[w.byDigest[digest]]
		if !r.Replayed || first.cycle != r.Cycle {
			return broken("certified anew: replayed %v, cycles %s and %s", r.Replayed, first.cycle, r.Cycle)
		}
	} else {
		w.byDigest[digest] = len(w.certs)
	}
	if why := w.refused[digest]; why != nil {
		return broken("certified after it was refused: %v", why)
	}
	w.certs = append(w.certs, held{a.signed, digest, r.Certificate, r.Cycle})
	return nil
}

// justified checks a refusal for want of collateral against the chain.
func (w *world) justified(a ask, err error) error {
	c := a.signed.Claims
	who := ownerAsset{c.Payer, c.Asset}
	free, ok := w.collateralOf(who).Sub(w.heldOf(who))
	if !ok {
		return nil
	}
	if free, ok = free.Sub(w.exposures()[who]); !ok || free.Less(c.Amount) {
		return nil
	}
	return broken("refused with %s free: %v", free, err)
}

// note has a payee lower a guarantee, or try what it may not.
func (w *world) note() (string, error) {
	if len(w.certs) == 0 {
		return "nothing", nil
	}
	h := w.certs[max(0, len(w.certs)-1-w.rng.IntN(40))]
	c := h.signed.Claims
	full, _ := c.Amount.Uint64()
	n := guarantee.Note{Digest: h.digest, Amount: money.Units(w.rng.Uint64N(full))}
	signer, what := c.Payee, "lower"
	switch r := w.rng.IntN(10); {
	case r < 3:
		n.Amount, what = money.Amount{}, "void"
	case r == 3:
		n.Amount, what = c.Amount, "raise"
	case r == 4:
		signer, what = c.Payer, "of the payer"
	case r > 7:
		signer = w.party() // perhaps one that the payee has named
	}
	named := w.signsFor(signer, c.Payee)
	signed, err := guarantee.SignNote(context.Background(), keyOf(signer), deployment, n)
	if err != nil {
		return what, err
	}
	if named && what != "raise" {
		w.notes[h.digest] = append(w.notes[h.digest], n.Amount)
	}
	house := w.house()
	err = house.Note(context.Background(), []guarantee.SignedNote{signed}, w.time())[0]
	lowest, acked := w.acked[h.digest]
	switch {
	case errors.Is(err, clearing.ErrUnfinished):
		return what, nil
	case !named:
		if !errors.Is(err, clearing.ErrSigner) {
			return what, broken("want ErrSigner, got %v", err)
		}
		return what, nil
	case err == nil && what != "raise":
		if !acked || n.Amount.Less(lowest) {
			w.acked[h.digest] = n.Amount
		} else if lowest.Less(n.Amount) {
			return what, broken("a note of %s was taken after one of %s", n.Amount, lowest)
		}
		return what, nil
	case errors.Is(err, clearing.ErrRaise):
		if what == "raise" || slices.ContainsFunc(w.notes[h.digest][:len(w.notes[h.digest])-1], func(a money.Amount) bool { return !n.Amount.Less(a) }) {
			return what, nil
		}
		if g, err := w.kept(h.digest); err != nil || g.Validation != nil && g.Validation.Cancelled {
			return "too late", err
		}
	case errors.Is(err, clearing.ErrPledged):
		g, err := w.kept(h.digest)
		if err != nil || n.Amount.Less(g.Pledged) {
			return "pledged", err
		}
	case errors.Is(err, clearing.ErrCutoff):
		schedule, err := w.chain.at(evm.Hash{}).scheduleOf(c.Asset, h.cycle.Start)
		if err != nil {
			return what, err
		}
		end := h.cycle.Start + schedule.Length + schedule.Cutoff
		if w.now >= end {
			return "late", nil
		}
	}
	return what, broken("note of %s on %s of %s: %v", n.Amount, h.digest.Short(), c.Amount, err)
}

// kept returns a guarantee as the book has it.
func (w *world) kept(digest evm.Hash) (g clearing.Guarantee, err error) {
	err = w.read(func(tx clearing.Tx) (err error) { g, _, err = tx.GuaranteeByDigest(digest); return err })
	return g, err
}

// signsFor reports whether a house that has seen what the houses here have seen takes a key's notes for an owner's.
func (w *world) signsFor(key, owner evm.Address) bool {
	s := w.seen(clearing.Confirmed)
	return key == owner || s != nil && w.now < s.signers[ownerKey{owner, key}]
}

// signer has an owner name another party's key for its notes, or remove it again.
func (w *world) signer() (string, error) {
	owner, key, on := w.party(), w.party(), w.percent(70)
	w.chain.SetSigner(owner, key, on)
	return fmt.Sprintf("%s for %s: %v", key.Short(), owner.Short(), on), nil
}
