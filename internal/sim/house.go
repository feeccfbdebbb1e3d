package sim

import (
	"bytes"
	"fmt"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// position is a posted position, 69 bytes: participant 20 ‖ role 1 ‖ amount 16 ‖ statement 32.
type position struct {
	participant evm.Address
	role        clearing.Role
	amount      money.Amount
}

const positionBytes = 69

func parsePositions(b []byte) []position {
	list := make([]position, 0, len(b)/positionBytes)
	for ; len(b) >= positionBytes; b = b[positionBytes:] {
		amount, _ := money.AmountFromBytes(b[21:37]) // 16 bytes always fit
		list = append(list, position{evm.Address(b[:20]), clearing.Role(b[20]), amount})
	}
	return list
}

// edit returns a cycle that this transaction may change.
func (x *execution) edit(id evm.Hash) (*cycle, bool) {
	c, ok := x.cycles[id]
	if !ok {
		return nil, false
	}
	c = c.clone()
	x.cycles[id] = c
	return c, true
}

// postDeadline returns the last moment at which a cycle may be posted and sealed.
func (c *cycle) postDeadline(s clearing.Schedule) uint64 {
	if c.generation == 0 {
		return c.ref.Start + s.Length + s.Cutoff + s.Post
	}
	return c.since + s.Repost
}

func (x *execution) post(o op) error {
	if x.from != x.operator {
		return errCaller
	}
	s, err := x.scheduleOf(o.Asset, o.Start)
	if err != nil {
		return err
	}
	ref := clearing.CycleRef{Asset: o.Asset, Start: o.Start}
	c, ok := x.edit(ref.ID())
	if !ok {
		c = &cycle{ref: ref}
	}
	switch {
	case x.now < o.Start+s.Length+s.Cutoff:
		return errTooEarly
	case c.status == sealed || c.status == final || c.status == failed:
		return fmt.Errorf("%w: %s", errStatus, c.status)
	case x.now > c.postDeadline(s):
		return errTooLate
	case o.Generation != c.generation || c.count != o.Chunk<<o.Height || o.Height > 10 || c.count != 0 && o.Height != c.height:
		return errOutOfTurn
	}
	ps := parsePositions(o.Positions)
	if len(ps) == 0 || len(ps)*positionBytes != len(o.Positions) || len(ps) > 1<<o.Height {
		return errMalformed
	}
	if c.count == 0 {
		c.status, c.height, c.last, c.chunks = posting, o.Height, evm.Address{}, nil
		c.total, c.credits = money.Amount{}, money.Amount{}
		c.flags = make(map[evm.Address]clearing.PositionFlags)
		c.generations = append(c.generations, generation{released: make(map[uint64]bool), fills: make(map[evm.Address]money.Amount)})
	}
	g := &c.generations[c.generation]
	c.chunks, g.chunks = append(c.chunks, o.Positions), append(g.chunks, o.Positions)
	c.count += uint64(len(ps))
	id := ref.ID()
	x.cycles[id] = c
	x.emit(clearing.Event{Kind: clearing.PositionsPosted, Cycle: id, Generation: c.generation, Chunk: o.Chunk, Root: evm.Keccak256(o.Positions)})
	for _, p := range ps {
		if bytes.Compare(p.participant[:], c.last[:]) <= 0 || p.role > clearing.Flat || p.amount.IsZero() != (p.role == clearing.Flat) || amountMax.Less(p.amount) {
			return errMalformed
		}
		c.last = p.participant
		switch p.role {
		case clearing.Creditor:
			c.credits, _ = c.credits.Add(p.amount)
		case clearing.Debtor:
			c.total, _ = c.total.Add(p.amount)
			if err := x.debit(c, g, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// debit takes a net debit from its debtor's collateral, within its limit, and what is short from the bond.
func (x *execution) debit(c *cycle, g *generation, p position) error {
	who := ownerAsset{p.participant, c.ref.Asset}
	a := x.accounts[who]
	own := money.Min(p.amount, money.Min(a.collateral, a.limitOf(c.ref.Start)))
	a.collateral, _ = a.collateral.Sub(own)
	x.accounts[who] = a
	c.pot, _ = c.pot.Add(p.amount)
	short, _ := p.amount.Sub(own)
	if short.IsZero() {
		return nil
	}
	rest, ok := x.bonds[who.asset].Sub(short)
	if !ok {
		return fmt.Errorf("%w: %s of %s is short", errUnfunded, short, who.owner)
	}
	x.bonds[who.asset] = rest
	g.fills[who.owner] = short
	x.emit(clearing.Event{Kind: clearing.DebtFilled, Cycle: c.ref.ID(), Account: who.owner, Amount: short})
	return nil
}

func (x *execution) commit(o op) error {
	if x.from != x.operator {
		return errCaller
	}
	c, ok := x.edit(o.Cycle)
	if !ok || c.status != posting || c.ref.Asset != o.Asset {
		return errStatus
	}
	s, err := x.scheduleOf(c.ref.Asset, c.ref.Start)
	if err != nil {
		return err
	}
	switch {
	case x.now > c.postDeadline(s):
		return errTooLate
	case o.Deadline <= x.now || o.Deadline > x.now+s.Challenge+s.Post:
		return fmt.Errorf("%w: deadline %d is not within reach of %d", errTooLate, o.Deadline, x.now)
	case c.total != c.credits || c.total != o.Amount:
		return fmt.Errorf("%w: debits %s, credits %s, stated %s", errTotals, c.total, c.credits, o.Amount)
	}
	var leaves []evm.Hash
	for _, chunk := range c.chunks {
		for _, p := range parsePositions(chunk) {
			leaves = append(leaves, x.leaf(c, p.participant, p.role, p.amount))
		}
	}
	if c.root = foldPairs(leaves); c.root != o.Root {
		return errProof
	}
	c.status, c.since, c.claimed = sealed, x.now, money.Amount{}
	c.seals++
	x.emit(clearing.Event{Kind: clearing.CycleCommitted, Cycle: o.Cycle, Asset: c.ref.Asset, Root: c.root, Amount: c.total, Time: x.now + s.Challenge})
	return nil
}

// leaf is keccak256(abi.encode(chainId, clearingHouse, cycleId, asset, participant, amount, role)).
func (x *execution) leaf(c *cycle, participant evm.Address, role clearing.Role, amount money.Amount) evm.Hash {
	var b []byte
	id, d := c.ref.ID(), x.deployment
	for _, w := range [...][32]byte{
		evm.WordUint64(d.ChainID), d.ClearingHouse.Word(), id, c.ref.Asset.Word(), participant.Word(), amount.Word(), evm.WordUint64(uint64(role)),
	} {
		b = append(b, w[:]...)
	}
	return evm.Keccak256(b)
}

// foldPairs folds leaves to a root: sorted pairs of neighbours, an odd last one with itself.
func foldPairs(level []evm.Hash) evm.Hash {
	for len(level) > 1 {
		var up []evm.Hash
		for i := 0; i < len(level); i += 2 {
			a, b := level[i], level[min(i+1, len(level)-1)]
			if bytes.Compare(a[:], b[:]) > 0 {
				a, b = b, a
			}
			up = append(up, evm.Keccak256(a[:], b[:]))
		}
		level = up
	}
	return level[0]
}

// finalize makes a sealed cycle final once its challenge window is over.
func (x *execution) finalize(id evm.Hash) error {
	if c, ok := x.cycles[id]; ok && c.status == final {
		return errAlready
	}
	_, err := x.requireFinal(id)
	return err
}

// requireFinal returns a final cycle to be changed, made final on the way if its time has come.
func (x *execution) requireFinal(id evm.Hash) (*cycle, error) {
	c, ok := x.edit(id)
	switch {
	case !ok || c.status != sealed && c.status != final:
		return nil, errStatus
	case c.status == final:
		return c, nil
	}
	s, err := x.scheduleOf(c.ref.Asset, c.ref.Start)
	if err != nil {
		return nil, err
	}
	if x.now <= c.since+s.Challenge {
		return nil, errTooEarly
	}
	c.status = final
	x.emit(clearing.Event{Kind: clearing.CycleFinalized, Cycle: id})
	return c, nil
}

// participate does what is done about one position: pay, mark, claim.
func (x *execution) participate(o op) error {
	var c *cycle
	var err error
	who, role := o.Account, clearing.Debtor
	if o.Kind == opPay {
		var ok bool
		who = x.from
		if c, ok = x.edit(o.Cycle); !ok || c.status != sealed && c.status != final {
			return errStatus
		}
	} else if c, err = x.requireFinal(o.Cycle); err != nil {
		return err
	}
	if o.Kind == opClaim || o.Kind == opClaimToVault {
		role = clearing.Creditor
	}
	if o.Kind == opClaim {
		who = x.from
	}
	if !clearing.VerifyProof(x.leaf(c, who, role, o.Amount), c.root, o.Proof) || o.Amount.IsZero() {
		return errProof
	}
	account := ownerAsset{who, c.ref.Asset}
	flags := c.flags[who]
	e := clearing.Event{Cycle: o.Cycle, Account: who, Amount: o.Amount}
	switch o.Kind {
	case opPay:
		if flags.Paid || flags.Defaulted {
			return errAlready
		}
		flags.Paid, e.Kind = true, clearing.DebtorPaid
		fills := c.generations[c.generation].fills
		filled := fills[who]
		delete(fills, who)
		own, _ := o.Amount.Sub(filled)
		if err := x.take(account, o.Amount); err != nil {
			return err
		}
		x.bonds[c.ref.Asset], _ = x.bonds[c.ref.Asset].Add(filled)
		if err := x.increase(account, own); err != nil {
			return err
		}
	case opMark:
		if x.auto[who] {
			return errByChoice
		}
		if flags.Paid || flags.Defaulted {
			return errAlready
		}
		flags.Defaulted, e.Kind = true, clearing.DebtorDefaulted
	case opClaim, opClaimToVault:
		if flags.Claimed {
			return errAlready
		}
		flags.Claimed, e.Kind = true, clearing.CreditorClaimed
		rest, ok := c.pot.Sub(o.Amount)
		if !ok {
			return errAvailable
		}
		c.pot = rest
		c.claimed, _ = c.claimed.Add(o.Amount)
	}
	c.flags[who] = flags
	x.emit(e)
	switch o.Kind {
	case opClaim:
		return x.give(account, o.Amount)
	case opClaimToVault:
		return x.deposit(account, o.Amount)
	}
	return nil
}

// release gives back what a chunk took, of a voided generation or of one that was not sealed in time.
func (x *execution) release(o op) error {
	c, ok := x.edit(o.Cycle)
	if !ok || o.Generation >= uint64(len(c.generations)) {
		return errStatus
	}
	s, err := x.scheduleOf(c.ref.Asset, c.ref.Start)
	if err != nil {
		return err
	}
	if o.Generation == c.generation && !(c.status == posting && x.now > c.postDeadline(s)) {
		return errStatus
	}
	g := &c.generations[o.Generation]
	if o.Chunk >= uint64(len(g.chunks)) || !bytes.Equal(g.chunks[o.Chunk], o.Positions) {
		return errUnknown
	}
	if g.released[o.Chunk] {
		return errAlready
	}
	g.released[o.Chunk] = true
	x.emit(clearing.Event{Kind: clearing.ChunkReleased, Cycle: o.Cycle, Generation: o.Generation, Chunk: o.Chunk})
	for _, p := range parsePositions(o.Positions) {
		if p.role != clearing.Debtor {
			continue
		}
		filled := g.fills[p.participant]
		own, _ := p.amount.Sub(filled)
		x.bonds[c.ref.Asset], _ = x.bonds[c.ref.Asset].Add(filled)
		if err := x.increase(ownerAsset{p.participant, c.ref.Asset}, own); err != nil {
			return err
		}
		rest, ok := c.pot.Sub(p.amount)
		if !ok {
			return errAvailable
		}
		c.pot = rest
	}
	return nil
}

// void takes a seal back. After the first time the cycle may be posted once more, after the second it has failed.
func (x *execution) void(id evm.Hash) error {
	c, ok := x.edit(id)
	if !ok || c.status != sealed {
		return errStatus
	}
	s, err := x.scheduleOf(c.ref.Asset, c.ref.Start)
	if err != nil {
		return err
	}
	if x.now > c.since+s.Challenge {
		return errTooLate
	}
	forGood := c.generation != 0
	x.emit(clearing.Event{Kind: clearing.CycleVoided, Cycle: id, Generation: c.generation, On: forGood})
	if c.status = voided; forGood {
		c.status = failed
	}
	c.since, c.count = x.now, 0
	c.generation++
	return nil
}
