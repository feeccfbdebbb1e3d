package clearing

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// Registry asks the validation registries of the chain. evm/chain implements it, a simulated chain its own.
type Registry interface {
	// Answers returns what the registries said at a block, in the order of the policies that ask. A request that nobody
	// answered, or whose registry refuses to say, has the zero answer.
	Answers(ctx context.Context, at Block, asked []guarantee.Policy) ([]guarantee.Answer, error)
}

// Validation is where a guarantee stands that depends on a validator. Until the validator has answered well enough it
// belongs to no cycle, and its collateral is locked. Then the first cycle nets it whose cutoff comes after the answer, at
// most carriedMax cycles after the one that its certificate names. If there is none, it is cancelled.
type Validation struct {
	Cycle     uint64 // start of the cycle that nets it, 0 while none does
	Answered  uint64 // when the answer was given that counts, unix seconds of the chain; 0 while there is none
	Cancelled bool
	Block     uint64 // at which it was answered or cancelled, 0 before
	Asked     uint64 // time of the block at which the registry was last asked
	AskAt     uint64 // not to be asked again before, by the house's clock; 0 when there is nothing to ask
}

// carriedMax is how many cycles later than its certificate says a guarantee may be netted.
const carriedMax = 3

// Nowhere stands for the cycle of an asset's guarantees that no cycle nets.
func Nowhere(asset evm.Address) CycleRef { return CycleRef{Asset: asset} }

// Netting returns the cycle that nets the guarantee, or [Nowhere].
func (g Guarantee) Netting() CycleRef {
	if g.Validation == nil {
		return g.Cycle
	}
	return CycleRef{Asset: g.Cycle.Asset, Start: g.Validation.Cycle}
}

// Pending reports whether the guarantee waits for its validator.
func (g Guarantee) Pending() bool {
	return g.Validation != nil && g.Validation.Cycle == 0 && !g.Payable.IsZero()
}

// checkPolicy checks what claims depend on.
func (h *House) checkPolicy(c guarantee.Claims) error {
	if c.Policy == nil {
		return nil
	}
	if err := c.CheckPolicy(h.Deployment.ChainID); err != nil {
		return err
	}
	if !slices.Contains(h.Registries, c.Policy.Registry) {
		return fmt.Errorf("%s: %w", c.Policy.Registry, ErrRegistry)
	}
	return nil
}

// promised is what a payer's limit has to hold in a cycle: what the cycle nets already, and what may still come into it.
func (v *view) promised(c CycleRef, payer evm.Address) (money.Amount, error) {
	used, err := v.tx.PayableBy(c, payer)
	if err != nil {
		return money.Amount{}, err
	}
	waits, err := v.tx.PayableBy(Nowhere(c.Asset), payer)
	sum, ok := used.Add(waits)
	if err == nil && !ok {
		err = fmt.Errorf("guarantees of %s pass 256 bits: %w", payer, ErrBroken)
	}
	return sum, err
}

const (
	askPage  = 128  // guarantees in one transaction
	askMax   = 1024 // and in one call
	askWait  = 10 * time.Minute
	askShare = 8 // of a guarantee's age, which it waits until it is asked about again
)

// AskValidators asks about guarantees that wait for their validators: one bounded pass, meant to be repeated each second or
// so before [House.CloseDue]. now is the house's clock. Registries are read at the newest confirmed block. One that waits
// for long is asked about less and less often, and once more as soon as the cutoff of a cycle is confirmed, which waits for
// that before it is netted. Several houses may do this at once.
func (h *House) AskValidators(ctx context.Context, now time.Time) error {
	if h.Registry == nil {
		return nil
	}
	for range askMax / askPage {
		asked, err := h.askSome(ctx, unix(now))
		if err != nil {
			return fmt.Errorf("ask validators: %w", err)
		}
		if asked < askPage {
			break
		}
	}
	return nil
}

func (h *House) askSome(ctx context.Context, now uint64) (int, error) {
	var at Block
	var digests []evm.Hash
	var due []Guarantee
	err := h.Book.Read(ctx, func(tx Tx) error {
		due = nil
		tips, err := tx.Blocks(Confirmed, 1)
		if err != nil || len(tips) == 0 {
			return err
		}
		at = tips[0]
		if digests, err = tx.Unanswered(now, askPage); err != nil {
			return err
		}
		due, err = byDigest(tx, digests)
		return err
	})
	if err != nil || len(due) == 0 {
		return 0, err
	}
	policies := make([]guarantee.Policy, len(due))
	for i, g := range due {
		policies[i] = *g.Signed.Claims.Policy
	}
	answers, err := h.Registry.Answers(ctx, at, policies)
	if err == nil && len(answers) != len(due) {
		err = fmt.Errorf("%d answers to %d questions", len(answers), len(due))
	}
	if err != nil {
		return 0, err
	}
	return len(due), h.Book.Write(ctx, func(tx Tx) error {
		if err := tx.AloneOn(Confirmed); err != nil {
			return err
		}
		if known, err := tx.Blocks(Confirmed, askedDepth); err != nil || !slices.Contains(known, at) {
			return err // a block that is no more says nothing; the next pass asks again
		}
		v := newKeepingView(tx)
		if err := h.holdForAnswers(v, due); err != nil {
			return err
		}
		held, err := byDigest(tx, digests)
		if err != nil {
			return err
		}
		for i, g := range held {
			if err := h.hear(v, g, at, answers[i], now); err != nil {
				return fmt.Errorf("guarantee %s: %w", g.Digest.Short(), err)
			}
		}
		return v.flush()
	})
}

// holdForAnswers reads the cycles and accounts that answers can be about, in the one order.
func (h *House) holdForAnswers(v *view, due []Guarantee) error {
	var cycles []CycleRef
	var accounts []AccountKey
	for _, g := range due {
		roads, err := h.roads(v, g.Cycle)
		if err != nil {
			return err
		}
		for _, c := range roads {
			cycles = append(cycles, c.Ref)
		}
		accounts = append(accounts, AccountKey{g.Signed.Claims.Payer, g.Signed.Claims.Asset})
	}
	return v.hold(cycles, accounts)
}

// askedDepth is how many blocks may have been applied while registries were asked.
const askedDepth = 64

func byDigest(tx Tx, digests []evm.Hash) (list []Guarantee, err error) {
	for _, digest := range digests {
		g, found, err := tx.GuaranteeByDigest(digest)
		if err == nil && !found {
			err = fmt.Errorf("guarantee %s is not there: %w", digest, ErrBroken)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, g)
	}
	return list, nil
}

// hear decides on a guarantee by what its registry said at a block.
func (h *House) hear(v *view, g Guarantee, at Block, a guarantee.Answer, now uint64) error {
	s := *g.Validation
	s.Asked, s.AskAt = at.Time, 0
	if !g.Pending() {
		return v.tx.PutValidation(g.Digest, g.Payable, s)
	}
	roads, err := h.roads(v, g.Cycle)
	if err != nil {
		return err
	}
	met := g.Signed.Claims.Policy.Met(a)
	waits := false
	for _, road := range roads {
		c, found, err := v.cycle(road.Ref)
		if err != nil {
			return err
		}
		if !found {
			c = road
		}
		if c.Status != Open && c.Status != Frozen || now >= c.lateAt() {
			continue // netted, or about to be
		}
		if met && a.LastUpdate <= c.CutoffAt {
			fits, err := v.fits(g, c, now)
			if err != nil {
				return err
			}
			if fits {
				if !found {
					v.putCycle(c)
				}
				s.Cycle, s.Answered, s.Block, s.AskAt = c.Ref.Start, a.LastUpdate, at.Number, 0
				return v.tx.PutValidation(g.Digest, g.Payable, s)
			}
			waits = true
		}
		if at.Time < c.CutoffAt { // an answer may still come in time
			if waits = true; s.AskAt == 0 {
				s.AskAt = askAt(g, now, c.CutoffAt)
			}
		}
	}
	if waits {
		s.AskAt = max(s.AskAt, now+1)
		return v.tx.PutValidation(g.Digest, g.Payable, s)
	}
	payer, err := v.account(g.Signed.Claims.Payer, g.Signed.Claims.Asset)
	if err != nil {
		return err
	}
	if err := payer.Balance.Void(g.Payable); err != nil {
		return fmt.Errorf("free %s of %s: %w: %w", g.Payable, payer.Owner, ErrBroken, err)
	}
	v.changed(payer)
	s.Cancelled, s.Block = true, at.Number
	return v.tx.PutValidation(g.Digest, money.Amount{}, s)
}

// askAt is when to ask again about a guarantee that may be answered until a cutoff.
func askAt(g Guarantee, now, cutoff uint64) uint64 {
	age := now - min(now, uint64(max(g.At, 0))/1000)
	again := now + min(age/askShare, uint64(askWait/time.Second))
	if now < cutoff {
		again = min(again, cutoff)
	}
	return again
}

// roads returns the cycles that may net a guarantee whose certificate names a cycle, as their schedules have them.
func (h *House) roads(v *view, certified CycleRef) ([]Cycle, error) {
	schedules, err := v.schedulesOf(certified.Asset)
	if err != nil {
		return nil, err
	}
	var roads []Cycle
	for t := certified.Start; len(roads) <= carriedMax; t = roads[len(roads)-1].End {
		c, _, ok := scheduled(schedules, t)
		if !ok {
			return nil, fmt.Errorf("cycle %s has no schedule: %w", certified, ErrBroken)
		}
		roads = append(roads, c)
	}
	return roads, nil
}

// fits reports whether a cycle can net a guarantee whose validator has answered. In the one that its certificate names, it
// has had its place under the payer's limit since it was admitted; a later one may have a lower limit, which the contract
// keeps to.
func (v *view) fits(g Guarantee, c Cycle, now uint64) (bool, error) {
	if c.Ref == g.Cycle {
		return true, nil
	}
	payer, err := v.account(g.Signed.Claims.Payer, g.Signed.Claims.Asset)
	if err != nil || c.Ref.Start > now {
		return false, err
	}
	limit, limited := payer.Limit()
	if !limited {
		return true, nil
	}
	used, err := v.tx.PayableBy(c.Ref, payer.Owner)
	sum, ok := used.Add(g.Payable)
	return ok && !limit.Less(sum), err
}

// lateAt is until when a cycle waits, past its cutoff, for what validators answered before it: the rest of its posting time
// is for posting.
func (c Cycle) lateAt() uint64 { return c.CutoffAt + (c.PostDeadline-c.CutoffAt)/2 }

// unhear takes back what was heard in blocks above one that are no more. A cycle that has been netted stays as it is.
func (h *House) unhear(v *view, above uint64) error {
	digests, err := v.tx.Decided(above)
	if err != nil {
		return err
	}
	list, err := byDigest(v.tx, digests)
	if err != nil {
		return err
	}
	if err := h.holdForAnswers(v, list); err != nil {
		return err
	}
	if list, err = byDigest(v.tx, digests); err != nil { // as they are now that they are held
		return err
	}
	for _, g := range list {
		payable := g.Payable
		if g.Validation.Cancelled {
			payable = g.Signed.Claims.Amount
			if g.Note != nil {
				payable = g.Note.Amount
			}
			if err := v.lock(g.Cycle, Position{Participant: g.Signed.Claims.Payer, Out: payable}); err != nil {
				return err
			}
		} else {
			c, found, err := v.cycle(g.Netting())
			if err != nil {
				return err
			}
			if !found || c.Status != Open && c.Status != Frozen {
				continue
			}
			if c.Status == Frozen { // a netting under way has to see that its cycle has changed
				c.Trouble = "a validator's answer was taken back by the chain"
				v.putCycle(c)
			}
		}
		if err := v.tx.PutValidation(g.Digest, payable, Validation{AskAt: 1}); err != nil {
			return err
		}
	}
	return nil
}
