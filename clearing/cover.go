package clearing

import (
	"fmt"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// CoverMax is how many claims a refund can name to back it.
const CoverMax = 256

// A refund is a guarantee from a payee to a payer, for a purchase whose cycle takes no more notes. Its payer often has no
// collateral, and has claims: what others guarantee to it in the same cycle, behind which their collateral stands. A refund
// may name such claims in its request, and what its payer's collateral does not cover they do: they are pledged, and no
// note lowers them below that any more. To name one is to say that it is captured.
//
// The cycle then nets to what the collateral covers. For each participant, net debit ≤ out − in ≤ out − backed = locked,
// because in ≥ pledged ≥ backed, and what is locked is at most its collateral. A claim that is backed itself backs
// nothing, so that at the end of every refund there is collateral.

// Locked is the part of what is payable that stands against the payer's collateral.
func (g Guarantee) Locked() money.Amount {
	rest, _ := g.Payable.Sub(g.backed())
	return rest
}

// backed is the part that claims back. What a note lets go is freed of the collateral first.
func (g Guarantee) backed() money.Amount { return money.Min(g.Backed, g.Payable) }

// spare is what of a guarantee can still back a refund of its payee: nothing of one that a validator may still undo.
func (g Guarantee) spare() money.Amount {
	if !g.Backed.IsZero() || g.Signed.Claims.Policy != nil {
		return money.Amount{}
	}
	rest, _ := g.Payable.Sub(g.Pledged)
	return rest
}

// pledge is a part of a claim that is to back a refund.
type pledge struct {
	claim  Guarantee
	amount money.Amount
}

// cover are the claims that may back what an item asks for: of none but a refund, which alone pays for the look-up and for
// holding the rows of those who owe them.
func (it *admission) cover() []evm.Hash {
	if _, refund := guarantee.RefundOf(it.Signed.Claims.ReqID); !refund || it.Signed.Claims.Policy != nil || len(it.Cover) > CoverMax {
		return nil
	}
	return it.Cover
}

// findCover looks for claims that back what a refund is short of, in the order in which they are named. What is found may
// come to less.
func findCover(tx Tx, it *admission, c CycleRef, short money.Amount) (pledges []pledge, sum money.Amount, err error) {
	named := make(map[evm.Hash]bool)
	for _, digest := range it.cover() {
		if sum == short {
			break
		}
		if named[digest] {
			continue
		}
		named[digest] = true
		g, found, err := tx.GuaranteeByDigest(digest)
		if err != nil {
			return nil, sum, err
		}
		if !found || g.Cycle != c || g.Signed.Claims.Payee != it.Signed.Claims.Payer {
			continue
		}
		need, _ := short.Sub(sum)
		if part := money.Min(need, g.spare()); !part.IsZero() {
			pledges = append(pledges, pledge{g, part})
			sum, _ = sum.Add(part) // at most short
		}
	}
	return pledges, sum, nil
}

// backPositions writes into a cycle's positions what of each is backed, and proves that claims of the participant's back it.
func backPositions(tx Tx, c CycleRef, ps []Position) error {
	var backed, pledged map[evm.Address]money.Amount
	for g, err := range tx.Refunds(c) {
		if err != nil {
			return err
		}
		if backed == nil {
			backed, pledged = make(map[evm.Address]money.Amount), make(map[evm.Address]money.Amount)
		}
		if g.Payable.Less(g.Pledged) {
			return fmt.Errorf("guarantee %s pays %s, of which %s is pledged: %w", g.Digest, g.Payable, g.Pledged, ErrBroken)
		}
		payer, payee := g.Signed.Claims.Payer, g.Signed.Claims.Payee
		backed[payer], _ = backed[payer].Add(g.backed()) // at most gross
		pledged[payee], _ = pledged[payee].Add(g.Pledged)
	}
	for i, p := range ps {
		if len(backed) == 0 {
			return nil
		}
		ps[i].Backed = backed[p.Participant]
		delete(backed, p.Participant)
		if claims := pledged[p.Participant]; claims.Less(ps[i].Backed) || p.In.Less(claims) || p.Out.Less(ps[i].Backed) {
			return fmt.Errorf("%s of what %s owes is backed, by claims of %s: %w", ps[i].Backed, p.Participant, claims, ErrBroken)
		}
	}
	return nil
}
