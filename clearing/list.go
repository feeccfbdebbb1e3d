package clearing

import (
	"context"
	"errors"

	"github.com/farthing402/farthing/evm"
)

// Listing asks for guarantees in one asset: of a payer, or of a payee, or in a cycle.
type Listing struct {
	Asset   evm.Address
	Payer   *evm.Address // this or Payee, not both
	Payee   *evm.Address
	InCycle bool   // only those of the cycle that starts at Start
	Start   uint64 // unix seconds
	Before  Place  // only those that stand behind it; zero: from the newest on
	Limit   int
}

// Place is where a guarantee stands in lists: it stays there, whatever comes before it, but for one that its validator lets
// into a cycle.
type Place struct{ Start, Seq uint64 }

// before reports that p stands behind q in a list, as it was there earlier.
func (p Place) before(q Place) bool { return p.Start < q.Start || p.Start == q.Start && p.Seq < q.Seq }

// Listed is a guarantee in a list.
type Listed struct {
	Guarantee Guarantee
	Place     Place
}

// ListedStanding is a guarantee in a list, and where it stands.
type ListedStanding struct {
	Standing
	Place Place
}

var errListing = errors.New("a list is of a payer, a payee or a cycle, and has a limit")

// List returns guarantees, the newest first, and where each stands.
func (h *House) List(ctx context.Context, q Listing) (list []ListedStanding, err error) {
	if q.Limit < 1 || q.Payer != nil && q.Payee != nil || q.Payer == nil && q.Payee == nil && !q.InCycle {
		return nil, errListing
	}
	err = h.Book.Read(ctx, func(tx Tx) error {
		list = nil
		rows, err := tx.List(q)
		if err != nil {
			return err
		}
		payers := make(map[CycleRef]map[evm.Address]Position)
		for _, row := range rows {
			ref := row.Guarantee.Netting()
			if payers[ref] == nil {
				payers[ref] = make(map[evm.Address]Position)
			}
			s, err := standing(tx, row.Guarantee, payers[ref])
			if err != nil {
				return err
			}
			list = append(list, ListedStanding{s, row.Place})
		}
		return nil
	})
	return list, err
}

// PositionsOf returns what an asset's cycles came to for a participant, the newest first: of those that start before a time
// (0: of all), at most limit are looked at. next is where to go on, 0 at the end.
func (h *House) PositionsOf(ctx context.Context, asset, participant evm.Address, before uint64, limit int) (list []Proof, next uint64, err error) {
	err = h.Book.Read(ctx, func(tx Tx) error {
		list, next = nil, 0
		cycles, err := tx.CyclesBefore(asset, before, limit)
		for _, c := range cycles {
			p, found, err := tx.Position(c.Ref, c.Generation, participant)
			if err != nil {
				return err
			}
			if found {
				list = append(list, Proof{Cycle: c, Position: p})
			}
		}
		if len(cycles) == limit {
			next = cycles[limit-1].Ref.Start
		}
		return err
	})
	return list, next, err
}

// OpenCycles returns an asset's cycles that are not closed, the newest first.
func (h *House) OpenCycles(ctx context.Context, asset evm.Address) (list []Cycle, err error) {
	err = h.Book.Read(ctx, func(tx Tx) (err error) { list, err = tx.Cycles(asset, true, 0); return err })
	return list, err
}

// CyclesBefore returns an asset's cycles that start before a time (0: all), the newest first, at most limit.
func (h *House) CyclesBefore(ctx context.Context, asset evm.Address, before uint64, limit int) (list []Cycle, err error) {
	err = h.Book.Read(ctx, func(tx Tx) (err error) { list, err = tx.CyclesBefore(asset, before, limit); return err })
	return list, err
}
