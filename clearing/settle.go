package clearing

import (
	"fmt"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/ledger"
	"github.com/farthing402/farthing/money"
)

// cycleEvent applies what the chain says about a cycle. ignored says why it changed nothing.
func (h *House) cycleEvent(v *view, b Block, e Event, u *undo) (ignored string, err error) {
	c, found, err := v.cycleByID(e.Cycle)
	if err != nil {
		return "", err
	}
	if !found {
		return "no such cycle is known here", nil
	}
	before := c
	switch e.Kind {
	case PositionsPosted:
		ignored, err = h.posted(v, &c, e)
	case CycleCommitted:
		ignored, err = h.committed(v, &c, b, e)
	case CycleVoided:
		ignored, err = h.voided(v, &c, b, e)
	case ChunkReleased:
		return h.released(v, c, e)
	case CycleFinalized:
		if !c.sealed() || c.Finalized {
			return "cycle is not waiting to be final", nil
		}
		c.Finalized = true
		if c.Status == Committed {
			c.Status, c.Tries, c.RetryAt, c.Trouble = Final, 0, 0, ""
		}
	default:
		ignored, err = h.participantEvent(v, c, e, u)
	}
	if err != nil || ignored != "" {
		return ignored, err
	}
	u.Cycle = &before
	if c != before {
		v.putCycle(c)
	}
	return "", nil
}

// sealed reports whether the chain has sealed the cycle as the house netted it.
func (c Cycle) sealed() bool { return c.Status == Committed || c.Status == Final || c.Status == Closed }

func (v *view) cycleByID(id evm.Hash) (Cycle, bool, error) {
	c, found, err := v.tx.CycleByID(id)
	if err != nil || !found {
		return Cycle{}, false, err
	}
	return v.cycle(c.Ref)
}

// posted counts a chunk. One with other bytes than the house's is somebody else's: it is not counted, so that the house
// neither builds on it nor releases what it does not have.
func (h *House) posted(v *view, c *Cycle, e Event) (ignored string, err error) {
	switch {
	case c.Status != Netted && c.Status != Failed:
		return "cycle is not waiting for positions", nil
	case e.Generation != c.Generation || e.Chunk != c.Posted || e.Chunk >= c.chunks():
		return "chunk is not the next one", nil
	}
	if !e.Root.IsZero() {
		ps, err := v.tx.Positions(c.Ref, c.Generation)
		if err != nil {
			return "", err
		}
		if evm.Keccak256(encodeChunk(c.chunk(ps, e.Chunk))) != e.Root {
			c.Trouble = "positions were posted that are not the house's"
			return "", nil
		}
	}
	c.Posted++
	return "", nil
}

// committed books a sealed cycle: exposure ends for every payer, whatever its role in the net, and each net debit moves
// from its debtor's collateral, or the bond, into the pot. A seal under another root is not the house's word: the cycle
// stops and keeps its locks.
func (h *House) committed(v *view, c *Cycle, b Block, e Event) (ignored string, err error) {
	if c.sealed() || c.SealedAt != 0 {
		return "cycle is sealed already", nil
	}
	c.SealedAt = b.Time
	if c.Status != Netted && c.Status != Failed || e.Root != c.Root || e.Amount != c.Total || e.Asset != c.Ref.Asset {
		c.Status, c.Tries, c.RetryAt = Failed, 0, 0
		c.Trouble = fmt.Sprintf("sealed with root %s and total %s, which is not what the house netted", e.Root.Short(), e.Amount)
		return "", nil
	}
	ps, err := v.positions(c.Ref, c.Generation)
	if err != nil {
		return "", err
	}
	for _, p := range ps {
		if err := v.unlock(c.Ref, p); err != nil {
			return "", err
		}
		for _, t := range takes(*c, p) {
			if err := v.post(t); err != nil {
				return "", err
			}
		}
	}
	if c.FinalAt = e.Time; c.FinalAt == 0 {
		c.FinalAt = b.Time + c.Challenge
	}
	c.Status, c.Tries, c.RetryAt, c.Trouble = Committed, 0, 0, ""
	return "", nil
}

// positions returns a cycle's positions, with the accounts that they lock or take from read together: there may be a
// hundred thousand.
func (v *view) positions(ref CycleRef, generation uint64) ([]Position, error) {
	ps, err := v.tx.Positions(ref, generation)
	if err != nil {
		return nil, err
	}
	var accounts []AccountKey
	for _, p := range ps {
		if p.Role == Debtor || !p.locked().IsZero() {
			accounts = append(accounts, AccountKey{p.Participant, ref.Asset})
		}
	}
	return ps, v.hold(nil, accounts)
}

// unlock ends the exposure that a participant had in a cycle.
func (v *view) unlock(ref CycleRef, p Position) error {
	if p.locked().IsZero() {
		return nil
	}
	row, err := v.account(p.Participant, ref.Asset)
	if err != nil {
		return err
	}
	row.dirty = true
	if err := row.Balance.Void(p.locked()); err != nil {
		return fmt.Errorf("release %s of %s: %w: %w", p.locked(), p.Participant, ErrBroken, err)
	}
	return nil
}

// lock brings the exposure back, also if collateral has become less.
func (v *view) lock(ref CycleRef, p Position) error {
	if p.locked().IsZero() {
		return nil
	}
	row, err := v.account(p.Participant, ref.Asset)
	if err != nil {
		return err
	}
	row.dirty = true
	return row.Balance.ReserveAnyway(p.locked())
}

// takes returns the transfers by which posting took a position's net debit.
func takes(c Cycle, p Position) []ledger.Transfer {
	if p.Role != Debtor {
		return nil
	}
	id := fmt.Sprintf("%s/%d/%s", c.Ref, c.Generation, p.Participant.Lower())
	own, _ := p.Amount.Sub(money.Min(p.Filled, p.Amount))
	return []ledger.Transfer{
		{ID: "take/" + id, Debit: collateralOf(p.Participant, c.Ref.Asset), Credit: potOf(c.Ref), Amount: own},
		{ID: "fill/" + id, Debit: bondOf(c.Ref.Asset), Credit: potOf(c.Ref), Amount: money.Min(p.Filled, p.Amount)},
	}
}

// participantEvent applies what the chain says about one participant of a cycle.
func (h *House) participantEvent(v *view, c Cycle, e Event, u *undo) (ignored string, err error) {
	p, found, err := v.tx.Position(c.Ref, c.Generation, e.Account)
	if err != nil {
		return "", err
	}
	role := Debtor
	if e.Kind == CreditorClaimed {
		role = Creditor
	}
	switch {
	case !found || p.Role != role:
		return "participant has no such position", nil
	case e.Kind == DebtFilled && c.Status != Netted && c.Status != Failed:
		return "cycle is not waiting for positions", nil
	case e.Kind == DebtFilled && p.Amount.Less(e.Amount):
		return "more was filled than owed", nil
	case e.Kind != DebtFilled && !c.sealed():
		return "cycle is not sealed", nil
	case e.Kind != DebtFilled && p.Amount != e.Amount:
		return "amount is not the position's", nil
	}
	u.Mark = &mark{c.Ref, c.Generation, p.Participant, p.Filled, p.Flags}
	asset := c.Ref.Asset
	switch e.Kind {
	case DebtFilled:
		p.Filled = e.Amount
	case DebtorPaid:
		if p.Flags.Paid {
			return "debtor has paid already", nil
		}
		p.Flags.Paid = true
		own, _ := p.Amount.Sub(p.Filled) // at most Amount, see above
		if err := v.move(u, e, "payment", worldOf(asset), collateralOf(p.Participant, asset), own); err != nil {
			return "", err
		}
		if err := v.move(u, e, "refill", worldOf(asset), bondOf(asset), p.Filled); err != nil {
			return "", err
		}
	case DebtorDefaulted:
		if p.Flags.Defaulted {
			return "debtor is marked already", nil
		}
		p.Flags.Defaulted = true
	case CreditorClaimed:
		if p.Flags.Claimed {
			return "creditor has claimed already", nil
		}
		p.Flags.Claimed = true
		if err := v.move(u, e, "claim", potOf(c.Ref), worldOf(asset), p.Amount); err != nil {
			return "", err
		}
	}
	return "", v.tx.MarkPosition(c.Ref, c.Generation, p.Participant, p.Filled, p.Flags)
}

// voided takes a seal back: exposure is as it was before, the pot keeps what was taken until it is released, and the same
// net is to be posted once more, as the next generation; after the second time the cycle has failed.
func (h *House) voided(v *view, c *Cycle, b Block, e Event) (ignored string, err error) {
	if !c.sealed() || e.Generation != c.Generation {
		return "no such seal is known here", nil
	}
	ps, err := v.positions(c.Ref, c.Generation)
	if err != nil {
		return "", err
	}
	for _, p := range ps {
		if err := v.lock(c.Ref, p); err != nil {
			return "", err
		}
	}
	// What was taken goes back before it is taken again: both are sent from one account, in this order.
	for i := range c.chunks() {
		w := h.wantRelease(*c, c.Generation, i, func() ([]Position, error) { return ps, nil })
		call, err := w.pack()
		if err != nil {
			return "", err
		}
		call.ID = w.id(0)
		if err := v.tx.Enqueue(call); err != nil {
			return "", err
		}
	}
	schedules, err := v.schedulesOf(c.Ref.Asset)
	if err != nil {
		return "", err
	}
	_, s, _ := scheduled(schedules, c.Ref.Start)
	c.Generation++
	c.Posted, c.Tries, c.RetryAt, c.SealedAt, c.FinalAt, c.Finalized = 0, 0, 0, 0, 0, false
	c.PostDeadline = b.Time + s.Repost
	c.Trouble = "its seal was voided"
	if e.On {
		c.Status = Failed
		return "", nil
	}
	c.Status = Netted
	n, err := h.computeNet(v.tx, *c) // a statement names its generation
	if err != nil {
		return "", err
	}
	height := c.Height
	h.putNet(c, n)
	c.Height = height
	return "", v.tx.PutPositions(c.Ref, c.Generation, n.positions)
}

// released books what the release of a chunk gave back: of a voided generation, what the pot still holds of its debtors;
// of one that was never sealed nothing, because nothing had been booked.
func (h *House) released(v *view, c Cycle, e Event) (ignored string, err error) {
	if e.Generation >= c.Generation {
		return "generation was never sealed, so nothing was booked", nil
	}
	transfers, err := releases(v.tx, c, e)
	for _, t := range transfers {
		if err := v.post(t); err != nil {
			return "", err
		}
	}
	return "", err
}

func releases(tx Tx, c Cycle, e Event) (transfers []ledger.Transfer, err error) {
	ps, err := tx.Positions(c.Ref, e.Generation)
	if err != nil {
		return nil, err
	}
	for _, p := range c.chunk(ps, e.Chunk) {
		if p.Role != Debtor {
			continue
		}
		filled := p.Filled
		if p.Flags.Paid {
			filled = money.Amount{} // the payment has refilled the bond
		}
		own, _ := p.Amount.Sub(filled)
		id := fmt.Sprintf("%s/%d/%s", c.Ref, e.Generation, p.Participant.Lower())
		transfers = append(transfers,
			ledger.Transfer{ID: "release/" + id, Debit: potOf(c.Ref), Credit: collateralOf(p.Participant, c.Ref.Asset), Amount: own},
			ledger.Transfer{ID: "unfill/" + id, Debit: potOf(c.Ref), Credit: bondOf(c.Ref.Asset), Amount: filled})
	}
	return transfers, nil
}

// undoCycleEvent puts back what an event changed in its cycle and positions.
func (h *House) undoCycleEvent(v *view, e Event, u undo) error {
	if m := u.Mark; m != nil {
		if err := v.tx.MarkPosition(m.Cycle, m.Generation, m.Participant, m.Filled, m.Flags); err != nil {
			return err
		}
	}
	if e.Kind == ChunkReleased {
		c, found, err := v.cycleByID(e.Cycle)
		if err != nil || !found {
			return err
		}
		transfers, err := releases(v.tx, c, e)
		if err != nil {
			return err
		}
		for _, t := range transfers {
			if err := v.unpost(t); err != nil {
				return err
			}
		}
		return nil
	}
	if u.Cycle == nil {
		return nil
	}
	before := *u.Cycle
	c, found, err := v.cycle(before.Ref)
	if err != nil || !found {
		return err
	}
	switch e.Kind {
	case PositionsPosted:
		if c.Posted == before.Posted { // somebody else's chunk left a remark only
			c.Trouble = before.Trouble
		}
		c.Posted = before.Posted
	case CycleCommitted:
		if c.sealed() {
			if err := h.unseal(v, c); err != nil {
				return err
			}
		}
		c = before
	case CycleVoided:
		if err := h.unvoid(v, c, before); err != nil {
			return err
		}
		c = before
	default:
		// A cycle that was closed because of this event has something left to do again.
		if e.Kind == CycleFinalized {
			c.Finalized, c.Status = before.Finalized, before.Status
		} else if c.Status == Closed {
			c.Status = before.Status
		}
	}
	v.putCycle(c)
	return nil
}

// unseal takes back what committed did to the accounts.
func (h *House) unseal(v *view, c Cycle) error {
	ps, err := v.positions(c.Ref, c.Generation)
	if err != nil {
		return err
	}
	for _, p := range ps {
		if err := v.lock(c.Ref, p); err != nil {
			return err
		}
		for _, t := range takes(c, p) {
			if err := v.unpost(t); err != nil {
				return err
			}
		}
	}
	return nil
}

// unvoid takes back what voided did to the accounts and positions.
func (h *House) unvoid(v *view, c, before Cycle) error {
	ps, err := v.positions(before.Ref, before.Generation)
	if err != nil {
		return err
	}
	for _, p := range ps {
		if err := v.unlock(before.Ref, p); err != nil {
			return err
		}
	}
	return v.tx.PutPositions(c.Ref, c.Generation, nil)
}
