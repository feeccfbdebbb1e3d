package sim

import (
	"context"
	"slices"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/ledger"
	"github.com/farthing402/farthing/money"
)

// read reads the true book, which never fails.
func (w *world) read(fn func(clearing.Tx) error) error {
	return w.book.inner.Read(context.Background(), fn)
}

// exposures returns what every payer has pending.
func (w *world) exposures() map[ownerAsset]money.Amount {
	m := make(map[ownerAsset]money.Amount)
	_ = w.read(func(tx clearing.Tx) error {
		for _, asset := range assets {
			for _, key := range parties {
				a, err := tx.Account(key.Address(), asset)
				if err != nil {
					return err
				}
				m[ownerAsset{a.Owner, a.Asset}] = a.Exposure()
			}
		}
		return nil
	})
	return m
}

// seen returns the chain as it was at the newest block that was applied on a stream; nil if there is none.
func (w *world) seen(stream clearing.Stream) (s *state) {
	_ = w.read(func(tx clearing.Tx) error { s = w.seenIn(tx, stream); return nil })
	return s
}

// collateralOf is what the chain says that an owner has, at the newest confirmed block that the house has seen; what is
// posted and not sealed is counted.
func (w *world) collateralOf(who ownerAsset) money.Amount {
	s := w.seen(clearing.Confirmed)
	if s == nil {
		return money.Amount{}
	}
	sum, _ := s.accounts[who].collateral.Add(s.unsealed(who))
	return sum
}

// heldOf is the withdrawal that an owner has requested, by what the house could know.
func (w *world) heldOf(who ownerAsset) (most money.Amount) {
	for _, stream := range []clearing.Stream{clearing.Head, clearing.Confirmed} {
		if s := w.seen(stream); s != nil {
			most = money.Max(most, s.accounts[who].requested)
		}
	}
	return most
}

// checkSolvent holds every payer whose exposure has grown to its collateral.
func (w *world) checkSolvent(before map[ownerAsset]money.Amount) error {
	for who, now := range w.exposures() {
		if !before[who].Less(now) {
			continue
		}
		need, _ := now.Add(w.heldOf(who))
		if have := w.collateralOf(who); have.Less(need) {
			return broken("%s has guaranteed %s and withdraws %s, with %s confirmed", who.owner, now, w.heldOf(who), have)
		}
	}
	return nil
}

// check looks at everything after every step.
func (w *world) check() error {
	if err := w.chain.Check(); err != nil {
		return broken("chain: %v", err)
	}
	if err := w.checkPosted(); err != nil {
		return err
	}
	if w.book.writes == w.checked {
		return nil // nothing else can have changed
	}
	w.checked = w.book.writes
	if err := w.auditor.Check(context.Background()); err != nil {
		return broken("books: %v", err)
	}
	return w.read(func(tx clearing.Tx) error {
		if err := w.checkGuarantees(tx); err != nil {
			return err
		}
		return w.checkAccounts(tx)
	})
}

// checkGuarantees compares the book with what payers signed and payees hold.
func (w *world) checkGuarantees(tx clearing.Tx) error {
	in := make(map[evm.Hash]clearing.Guarantee)
	names := make(map[guarantee.Key]bool)
	for _, asset := range assets {
		cycles, err := tx.Cycles(asset, false, 0)
		if err != nil {
			return err
		}
		for _, c := range cycles {
			backed, claims := make(map[evm.Address]money.Amount), make(map[evm.Address]money.Amount)
			for g, err := range tx.Guarantees(c.Ref) {
				if err != nil {
					return err
				}
				p := g.Signed.Claims
				backed[p.Payer], _ = backed[p.Payer].Add(money.Min(g.Backed, g.Payable))
				if g.Backed.IsZero() {
					claims[p.Payee], _ = claims[p.Payee].Add(g.Payable)
				} else if w.signed[g.Digest].Claims.ReqID[0] == 0 {
					return broken("guarantee %s is no refund, and claims back it", g.Digest)
				}
				key := g.Signed.Claims.Key()
				if _, twice := in[g.Digest]; twice || names[key] {
					return broken("guarantee %s is counted twice", g.Digest)
				}
				in[g.Digest], names[key] = g, true
				if err := w.checkGuarantee(g, c); err != nil {
					return err
				}
			}
			for who, sum := range backed {
				if claims[who].Less(sum) {
					return broken("refunds of %s in cycle %s count on %s, it is owed %s", who, c.Ref, sum, claims[who])
				}
				if !sum.IsZero() {
					w.covered++
				}
			}
		}
	}
	for _, asset := range assets {
		for g, err := range tx.Guarantees(clearing.Nowhere(asset)) {
			if err != nil {
				return err
			}
			if _, twice := in[g.Digest]; twice || g.Signed.Claims.Policy == nil {
				return broken("guarantee %s waits for nothing", g.Digest)
			}
			in[g.Digest] = g
			if err := w.checkGuarantee(g, clearing.Cycle{Ref: clearing.Nowhere(asset)}); err != nil {
				return err
			}
			if g.Validation.Cancelled {
				w.given++
			}
		}
	}
	for _, h := range w.certs {
		g, ok := in[h.digest]
		if !ok {
			return broken("a payee holds a certificate of %s, which is not in the book", h.digest)
		}
		if again := guarantee.EncodeClaims(deployment.DomainOf(g.Signed.Claims.Version()), g.Cycle.ID(), g.Signed.Claims); !slices.Equal(again, h.cert.Claims) {
			return broken("the certificate of %s has other bytes than the book", h.digest)
		}
	}
	return nil
}

func (w *world) checkGuarantee(g clearing.Guarantee, c clearing.Cycle) error {
	if s, ok := w.signed[g.Digest]; !ok || !s.Claims.Equal(g.Signed.Claims) || s.Signature != g.Signed.Signature || s.Form != g.Signed.Form {
		return broken("guarantee %s was never signed like that", g.Digest)
	}
	if g.Netting() != c.Ref {
		return broken("guarantee %s is netted by cycle %s, listed under %s", g.Digest, g.Netting(), c.Ref)
	}
	if v := g.Validation; v != nil && v.Cycle != 0 {
		if !w.wasAnswered(g) || v.Answered > c.CutoffAt {
			return broken("guarantee %s is netted by cycle %s, and was not answered at %d", g.Digest, c.Ref, v.Answered)
		}
		if c.Ref != g.Cycle {
			w.carried++
		}
	}
	if why := w.refused[g.Digest]; why != nil {
		return broken("guarantee %s is in the book, but was refused: %v", g.Digest, why)
	}
	cancelled := g.Validation != nil && g.Validation.Cancelled && g.Payable.IsZero()
	if !cancelled && g.Payable != g.Signed.Claims.Amount && !slices.Contains(w.notes[g.Digest], g.Payable) {
		return broken("guarantee %s pays %s, which nobody signed", g.Digest, g.Payable)
	}
	if lowest, ok := w.acked[g.Digest]; ok && lowest.Less(g.Payable) {
		return broken("guarantee %s pays %s, a note of %s was taken", g.Digest, g.Payable, lowest)
	}
	return nil
}

// wasAnswered reports whether the validator ever gave the answer by which a guarantee is netted, in a block that there was.
func (w *world) wasAnswered(g clearing.Guarantee) bool {
	p := g.Signed.Claims.Policy
	for _, b := range w.chain.known {
		if a := b.state.answers[p.Request]; a.LastUpdate == g.Validation.Answered && p.Met(a) {
			return true
		}
	}
	return false
}

// checkAccounts compares what the house knows with the chain as it was at the blocks that the house has seen.
func (w *world) checkAccounts(tx clearing.Tx) error {
	confirmed, head := w.seenIn(tx, clearing.Confirmed), w.seenIn(tx, clearing.Head)
	if confirmed == nil || head == nil {
		return nil
	}
	if tips, err := tx.Blocks(clearing.Confirmed, 1); err != nil || !w.reckless && tips[0].Number+depth > w.chain.tallest() {
		return broken("a block counts before %d others lie on it (%v)", depth, err)
	}
	for _, asset := range assets {
		bond := confirmed.bonds[asset]
		for _, key := range parties {
			who := ownerAsset{key.Address(), asset}
			a, err := tx.Account(who.owner, asset)
			if err != nil {
				return err
			}
			c, h := confirmed.accounts[who], head.accounts[who]
			want, _ := c.collateral.Add(confirmed.unsealed(who))
			limit, limited := c.lastLimit()
			headLimit, headLimited := h.lastLimit()
			switch {
			case a.Collateral() != want:
				return broken("%s has %s, the chain says %s", who.owner, a.Collateral(), want)
			case a.WithdrawConfirmed != c.requested || a.WithdrawHead != h.requested:
				return broken("%s withdraws %s and %s, the chain says %s and %s", who.owner, a.WithdrawConfirmed, a.WithdrawHead, c.requested, h.requested)
			case a.LimitedConfirmed != limited || a.LimitConfirmed != limit || a.LimitedHead != headLimited || a.LimitHead != headLimit:
				return broken("%s limits a cycle to %s and %s, the chain says %s and %s", who.owner, a.LimitConfirmed, a.LimitHead, limit, headLimit)
			case a.AutoSettle != confirmed.auto[who.owner]:
				return broken("%s chose otherwise", who.owner)
			}
			fills := confirmed.unsealedFills(who)
			bond, _ = bond.Add(fills)
		}
		b, err := tx.Balance(ledger.Account{Kind: ledger.Bond, Asset: asset})
		if err != nil {
			return err
		}
		if b.Available() != bond {
			return broken("the bond is %s, the chain says %s", b.Available(), bond)
		}
	}
	return w.checkCycles(tx, confirmed)
}

func (w *world) seenIn(tx clearing.Tx, stream clearing.Stream) *state {
	tips, err := tx.Blocks(stream, 1)
	if err != nil || len(tips) == 0 {
		return nil
	}
	return w.chain.at(tips[0].Hash)
}

// tallest returns the highest number that any block ever had.
func (c *Chain) tallest() (n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.known {
		n = max(n, b.Number)
	}
	return n
}

// lastLimit is what the owner said last, whether it acts yet or not.
func (a account) lastLimit() (money.Amount, bool) {
	gap := a.gap
	if a.pendingFrom != 0 {
		gap = a.pendingGap
	}
	if gap.IsZero() {
		return money.Amount{}, false
	}
	limit, _ := amountMax.Sub(gap)
	return limit, true
}

// unsealedFills is what the bond gave for an owner in cycles that are posted but not sealed.
func (s *state) unsealedFills(who ownerAsset) (sum money.Amount) {
	for _, c := range s.cycles {
		if c.ref.Asset != who.asset || c.status != posting {
			continue
		}
		g := c.generations[c.generation]
		for i, chunk := range g.chunks {
			for _, p := range parsePositions(chunk) {
				if p.participant == who.owner && !g.released[uint64(i)] {
					sum, _ = sum.Add(g.fills[who.owner])
				}
			}
		}
	}
	return sum
}

// checkCycles compares cycles and positions with the chain.
func (w *world) checkCycles(tx clearing.Tx, s *state) error {
	for _, asset := range assets {
		cycles, err := tx.Cycles(asset, false, 0)
		if err != nil {
			return err
		}
		for _, c := range cycles {
			on, ok := s.cycles[c.Ref.ID()]
			isSealed := ok && (on.status == sealed || on.status == final)
			saysSealed := c.Status == clearing.Committed || c.Status == clearing.Final || c.Status == clearing.Closed && c.Guarantees > 0
			if isSealed != saysSealed {
				return broken("cycle %s is %s in the book and %v on chain", c.Ref, c.Status, isSealed)
			}
			if !isSealed {
				continue
			}
			ps, err := tx.Positions(c.Ref, c.Generation)
			if err != nil {
				return err
			}
			if on.total != c.Total || on.root != c.Root || on.generation != c.Generation {
				return broken("cycle %s has total %s, on chain %s", c.Ref, c.Total, on.total)
			}
			for _, p := range ps {
				if p.Flags != on.flags[p.Participant] {
					return broken("cycle %s: %s is %+v, on chain %+v", c.Ref, p.Participant, p.Flags, on.flags[p.Participant])
				}
			}
		}
	}
	return nil
}

// checkPosted holds every posted debit to what its debtor has signed for that cycle. Whatever the house believes, nobody
// may owe on chain more than it signed.
func (w *world) checkPosted() error {
	for id, c := range w.chain.at(evm.Hash{}).cycles {
		if c.status != sealed && c.status != posting || len(c.chunks) == 0 {
			continue
		}
		key := evm.Keccak256(id[:], []byte{byte(c.generation), byte(len(c.chunks))}, c.chunks[len(c.chunks)-1])
		if w.posted[key] {
			continue
		}
		w.posted[key] = true
		caps := make(map[evm.Address]money.Amount)
		err := w.read(func(tx clearing.Tx) error {
			for g, err := range tx.Guarantees(c.ref) {
				if err != nil {
					return err
				}
				s, ok := w.signed[g.Digest]
				if !ok {
					return broken("guarantee %s was never signed", g.Digest)
				}
				amount := s.Claims.Amount
				if lowest, ok := w.acked[g.Digest]; ok {
					amount = lowest
				}
				amount, _ = amount.Sub(money.Min(amount, g.Backed)) // the rest meets what the payer is owed
				caps[s.Claims.Payer], _ = caps[s.Claims.Payer].Add(amount)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, chunk := range c.chunks {
			for _, p := range parsePositions(chunk) {
				if p.role == clearing.Debtor && caps[p.participant].Less(p.amount) {
					return broken("%s owes %s in cycle %s, its collateral stands for %s", p.participant, p.amount, c.ref, caps[p.participant])
				}
			}
		}
	}
	return nil
}

// quiesce lets everything come to an end without further faults, and then looks at what everybody has.
func (w *world) quiesce() error {
	calm := profiles[0]
	calm.name, calm.limits, calm.reckless = w.name, w.limits, w.reckless
	faulty := w.profile
	w.profile, w.stalled, w.book.next = calm, 0, w.nextFault
	if w.book.dead {
		if err := w.step(); err != nil {
			return err
		}
	}
	w.armed = 0
	asked := w.unknown
	w.unknown = nil
	for tries := 0; len(asked) > 0; tries++ {
		if tries > 2000 {
			return broken("nobody can find out what became of %d guarantees", len(asked))
		}
		if _, err := w.ask([]ask{{signed: asked[0], what: "again"}}); err != nil {
			return err
		}
		asked = append(asked[1:], w.unknown...) // the caller may have gone away
		w.unknown = nil
	}
	h := w.houses[0]
	for i, rest := 0, 0; rest < restMin; i++ {
		w.now += 2
		w.finishDue()
		if err := w.sender.Step(nil); err != nil {
			return err
		}
		w.mine()
		if err := w.follow(h); err != nil {
			return err
		}
		if err := h.AskValidators(context.Background(), w.time()); err != nil {
			return err
		}
		if err := h.CloseDue(context.Background(), w.time(), w.chain.Head().Time); err != nil {
			return err
		}
		if err := w.check(); err != nil {
			return err
		}
		open, err := w.unfinished()
		switch {
		case err != nil:
			return err
		case open != nil && i > 300:
			return broken("cycle %s does not come to an end: %s %s", open.Ref, open.Status, open.Trouble)
		case open != nil || !w.sender.Idle():
			rest = 0
		default:
			rest++
		}
	}
	return w.reckon(faulty)
}

// restMin is how many beats nothing may be left to do, so that a house has tried again what it tries again: failed cycles
// have no end of their own.
const restMin = 10

// unfinished returns a cycle that still has something to come.
func (w *world) unfinished() (open *clearing.Cycle, err error) {
	err = w.read(func(tx clearing.Tx) error {
		for _, asset := range assets {
			cycles, err := tx.Cycles(asset, true, 0)
			if err != nil {
				return err
			}
			for _, c := range cycles {
				if c.Status != clearing.Failed || c.RetryAt != 0 && c.Tries < 5 {
					open = &c
				}
			}
			for g, err := range tx.Guarantees(clearing.Nowhere(asset)) {
				if err != nil {
					return err
				}
				if g.Pending() {
					open = &clearing.Cycle{Ref: g.Cycle, Status: "waited for by a validator"}
				}
			}
		}
		return nil
	})
	return open, err
}

// reckon has everybody collect, and holds what each one has against the sum of what it bought and sold.
func (w *world) reckon(faulty profile) error {
	h := w.houses[0]
	ctx := context.Background()
	owed := make(map[ownerAsset][2]money.Amount) // in, out of sealed cycles
	locked := make(map[ownerAsset]money.Amount)  // by failed cycles
	for _, asset := range assets {
		cycles, err := h.Cycles(ctx, asset, 0)
		if err != nil {
			return err
		}
		for _, c := range cycles {
			ps, err := h.Positions(ctx, c.Ref.String())
			if err != nil {
				return err
			}
			if c.Status == clearing.Failed && faulty.name == "calm" { // else the chain may just have been too slow
				return broken("cycle %s has failed: %s", c.Ref, c.Trouble)
			}
			if c.Status == clearing.Failed {
				if err := w.lockedBy(c.Ref, locked); err != nil {
					return err
				}
				continue
			}
			for _, p := range ps {
				who := ownerAsset{p.Participant, asset}
				sums := owed[who]
				sums[0], _ = sums[0].Add(p.In)
				sums[1], _ = sums[1].Add(p.Out)
				owed[who] = sums
				if p.Role != clearing.Creditor || p.Flags.Claimed {
					continue
				}
				proof, err := h.Proof(ctx, c.Ref.String(), p.Participant)
				if err != nil {
					return err
				}
				w.send(clearing.Creditor, proof)
			}
		}
	}
	for range depth + 2 {
		w.now++
		w.chain.Mine(w.now, nil)
	}
	if err := w.follow(h); err != nil {
		return err
	}
	if err := w.check(); err != nil {
		return err
	}
	s := w.chain.at(evm.Hash{})
	for _, c := range s.cycles {
		if (c.status == sealed || c.status == final) && !c.pot.IsZero() && c.generation == 0 {
			return broken("everybody has claimed, and the pot of cycle %s still holds %s", c.ref, c.pot)
		}
	}
	for _, asset := range assets {
		for _, key := range parties {
			who := ownerAsset{key.Address(), asset}
			has, _ := s.wallets[who].Add(s.accounts[who].collateral)
			has, _ = has.Add(owed[who][1]) // has + out = minted + in + what the bond still stands for
			want, _ := money.Units(minted).Add(owed[who][0])
			want, _ = want.Add(s.standsFor(who))
			if taken := s.unsealed(who); !taken.IsZero() {
				return broken("%s taken from %s was never given back", taken, who.owner)
			}
			if has != want {
				return broken("%s has %s, it should have %s", who.owner, has, want)
			}
			a, err := h.Account(ctx, who.owner, asset)
			if err != nil {
				return err
			}
			if a.Exposure() != locked[who] {
				return broken("%s still has %s locked, failed cycles lock %s", who.owner, a.Exposure(), locked[who])
			}
		}
	}
	return nil
}

// lockedBy adds what of a cycle's guarantees stands against its payers' collateral.
func (w *world) lockedBy(ref clearing.CycleRef, locked map[ownerAsset]money.Amount) error {
	return w.read(func(tx clearing.Tx) error {
		for g, err := range tx.Guarantees(ref) {
			if err != nil {
				return err
			}
			who := ownerAsset{g.Signed.Claims.Payer, ref.Asset}
			locked[who], _ = locked[who].Add(g.Locked())
		}
		return nil
	})
}

// standsFor is what the bond gave for an owner in sealed cycles and never got back.
func (s *state) standsFor(who ownerAsset) (sum money.Amount) {
	for _, c := range s.cycles {
		if c.ref.Asset == who.asset && (c.status == sealed || c.status == final) {
			sum, _ = sum.Add(c.generations[c.generation].fills[who.owner])
		}
	}
	return sum
}
