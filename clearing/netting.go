package clearing

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// net is what a cycle came to.
type net struct {
	positions  []Position // ascending by participant
	guarantees uint64
	gross      money.Amount
	total      money.Amount // of net debits, and of net credits
	debtors    uint64
}

// computeNet streams a cycle's guarantees once and nets them per participant. The outcome does not depend on their order. Each
// guarantee takes about 200 bytes of memory for its two entries while that runs.
func (h *House) computeNet(tx Tx, c Cycle) (net, error) {
	var n net
	byParticipant := make(map[evm.Address][]Entry)
	for g, err := range tx.Guarantees(c.Ref) {
		if err != nil {
			return net{}, err
		}
		n.guarantees++
		sum, ok := n.gross.Add(g.Payable)
		if !ok {
			return net{}, fmt.Errorf("cycle %s: gross sum passes 256 bits: %w", c.Ref, ErrBroken)
		}
		n.gross = sum
		out, in := h.entries(g)
		payer, payee := g.Signed.Claims.Payer, g.Signed.Claims.Payee
		byParticipant[payer] = append(byParticipant[payer], out)
		byParticipant[payee] = append(byParticipant[payee], in)
	}
	who := slices.SortedFunc(maps.Keys(byParticipant), func(a, b evm.Address) int { return bytes.Compare(a[:], b[:]) })
	n.positions = make([]Position, len(who))
	errs := make([]error, len(who))
	parallel(len(who), func(i int) { n.positions[i], errs[i] = position(c, uint64(i), who[i], byParticipant[who[i]]) })
	var credits money.Amount
	for i, p := range n.positions {
		if errs[i] != nil {
			return net{}, errs[i]
		}
		switch p.Role {
		case Debtor:
			n.debtors++
			n.total, _ = n.total.Add(p.Amount) // at most gross
		case Creditor:
			credits, _ = credits.Add(p.Amount)
		}
	}
	switch {
	case n.total != credits:
		return net{}, fmt.Errorf("cycle %s: net debits %s, net credits %s: %w", c.Ref, n.total, credits, ErrBroken)
	case n.total.BitLen() > amountBits:
		return net{}, fmt.Errorf("cycle %s: total %s is more than the contract can hold", c.Ref, n.total)
	}
	return n, nil
}

// position nets one participant's entries.
func position(c Cycle, index uint64, participant evm.Address, entries []Entry) (Position, error) {
	s, err := newStatement(c, participant, entries)
	if err != nil {
		return Position{}, err
	}
	p := Position{Index: index, Participant: participant, Role: Flat, Out: s.Out, In: s.In, Statement: s.Hash}
	switch s.Out.Cmp(s.In) {
	case 1:
		p.Role = Debtor
		p.Amount, _ = s.Out.Sub(s.In)
	case -1:
		p.Role = Creditor
		p.Amount, _ = s.In.Sub(s.Out)
	}
	return p, nil
}
