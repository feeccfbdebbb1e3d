package clearing

import (
	"context"
	"errors"
	"fmt"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/ledger"
	"github.com/farthing402/farthing/money"
)

// Check proves the books against themselves, in one reading transaction, and returns everything that is wrong, each
// error matching [ErrBroken]. For each asset:
//
//   - the posted sides of all accounts sum to zero;
//   - each account's exposure is the sum of what its guarantees pay in the cycles whose seal is not applied, and of those
//     that wait for validators, less what claims back, and no account has exposure besides;
//   - what claims back is pledged of claims in the same cycle;
//   - each guarantee that depends on a validator is netted after the answer, or not at all;
//   - each netted cycle's positions are what its guarantees net to, and fold to its roots;
//   - each sealed cycle's pot holds what its creditors have not claimed.
//
// It reads every guarantee of every cycle: a tool for operators and tests, not for each request.
func (h *House) Check(ctx context.Context) error {
	return h.Book.Read(ctx, func(tx Tx) error {
		assets, err := tx.Assets()
		if err != nil {
			return err
		}
		var wrong []error
		for _, asset := range assets {
			faults, err := h.checkAsset(tx, asset)
			if err != nil {
				return err
			}
			wrong = append(wrong, faults...)
		}
		return errors.Join(wrong...)
	})
}

func (h *House) checkAsset(tx Tx, asset evm.Address) (wrong []error, err error) {
	fault := func(format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("asset %s: "+format+": %w", append(append([]any{asset}, args...), ErrBroken)...))
	}
	cycles, err := tx.Cycles(asset, false, 0)
	if err != nil {
		return nil, err
	}
	exposure := make(map[evm.Address]money.Amount)
	for _, c := range cycles {
		n, err := h.computeNet(tx, c)
		if errors.Is(err, ErrBroken) {
			wrong = append(wrong, err)
			continue
		} else if err != nil {
			return nil, err
		}
		for g, err := range tx.Guarantees(c.Ref) {
			if err != nil {
				return nil, err
			}
			if !g.Evidence.IsZero() && g.Evidence != h.evidence(g) {
				fault("guarantee %s: its evidence is not the hash of what proves it", g.Digest)
			}
			if s := g.Validation; s != nil && (s.Answered == 0 || s.Answered > c.CutoffAt || c.Ref.Start < g.Cycle.Start) {
				fault("guarantee %s: cycle %s nets it, its validator answered at %d", g.Digest, c.Ref, s.Answered)
			}
		}
		if !c.sealed() {
			for _, p := range n.positions {
				exposure[p.Participant], _ = exposure[p.Participant].Add(p.locked())
			}
		}
		if c.Status == Open || c.Status == Frozen || n.guarantees == 0 {
			continue
		}
		ps, err := tx.Positions(c.Ref, c.Generation)
		if err != nil {
			return nil, err
		}
		if len(ps) == 0 && c.Status == Failed {
			continue // failed for good, or sealed by somebody else before it was netted
		}
		if what := h.compareNet(c, n, ps); what != "" {
			fault("cycle %s: %s", c.Ref, what)
		}
		if c.sealed() && c.Generation == 0 {
			left := c.Total
			for _, p := range ps {
				if p.Flags.Claimed {
					left, _ = left.Sub(p.Amount)
				}
			}
			b, err := tx.Balance(potOf(c.Ref))
			if err != nil {
				return nil, err
			}
			if holds := b.Available(); holds != left {
				fault("pot of cycle %s holds %s, creditors are owed %s", c.Ref, holds, left)
			}
		}
	}
	for lines, err := range tx.Lines(Nowhere(asset)) {
		if err != nil {
			return nil, err
		}
		for _, l := range lines {
			exposure[l.Payer], _ = exposure[l.Payer].Add(l.Payable)
		}
	}
	var balances []ledger.Balance
	for row, err := range tx.Balances(asset) {
		if err != nil {
			return nil, err
		}
		balances = append(balances, row.Balance)
		want := money.Amount{}
		if row.Account.Kind == ledger.Collateral {
			want = exposure[row.Account.Owner]
			delete(exposure, row.Account.Owner)
		}
		if row.Balance.DebitsPending != want || !row.Balance.CreditsPending.IsZero() {
			fault("%s %s has %s pending, its guarantees come to %s", row.Account.Kind, row.Account.Owner, row.Balance.DebitsPending, want)
		}
	}
	for owner, want := range exposure {
		if !want.IsZero() {
			fault("collateral %s has nothing pending, its guarantees come to %s", owner, want)
		}
	}
	if err := ledger.Check(balances); err != nil {
		fault("%w", err)
	}
	return wrong, nil
}

// compareNet says how a cycle's row and positions differ from what its guarantees net to, or nothing.
func (h *House) compareNet(c Cycle, n net, ps []Position) string {
	if len(ps) != len(n.positions) {
		return fmt.Sprintf("%d positions, its guarantees make %d", len(ps), len(n.positions))
	}
	for i, p := range ps {
		p.Filled, p.Flags = money.Amount{}, PositionFlags{}
		if p != n.positions[i] {
			return fmt.Sprintf("position of %s is not what its guarantees net to", p.Participant)
		}
	}
	again := c
	h.putNet(&again, n)
	again.Height = c.Height
	if again != c {
		return "totals or roots are not those of its positions"
	}
	return ""
}
