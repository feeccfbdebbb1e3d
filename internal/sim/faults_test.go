package sim

import (
	"context"
	"errors"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/ledger"
	"github.com/farthing402/farthing/money"
)

var (
	errBefore = errors.New("simulated: nothing was written")
	errBehind = errors.New("simulated: everything was written, but the answer was lost")
	errKilled = errors.New("simulated: the process is dead")
)

// fault is what happens to one use of a book.
type fault int

const (
	noFault    fault = iota
	failBefore       // the closure never runs
	failInside       // the closure runs, and what it did is undone
	failAfter        // what the closure did is on disk, but the caller is told that it failed
	runTwice         // the closure runs, is undone, and runs again, which a book may do
)

// faultyBook is a book between houses and the true one. It fails as it is told, and after a kill it fails always.
type faultyBook struct {
	inner clearing.Book
	// next says what happens to the next read or write, and whether the process dies with it.
	next   func(write bool) (f fault, kill bool)
	dead   bool
	faults int // that callers have felt
	writes int // changes that may be on disk

	mutate    func(*faultyBook, clearing.Tx) clearing.Tx // a fault of the program, for tests of the checkers; nil for none
	admitting bool                                       // guarantees are being admitted
}

var errAgain = errors.New("simulated: to be run again")

func (b *faultyBook) wrap(fn func(clearing.Tx) error) func(clearing.Tx) error {
	if b.mutate == nil {
		return fn
	}
	return func(tx clearing.Tx) error { return fn(b.mutate(b, tx)) }
}

// Read implements [clearing.Book].
func (b *faultyBook) Read(ctx context.Context, fn func(clearing.Tx) error) error {
	if b.dead {
		return errKilled
	}
	if f, kill := b.next(false); f == failBefore {
		b.faults++
		b.dead = kill
		return errBefore
	}
	return b.inner.Read(ctx, b.wrap(fn))
}

// Write implements [clearing.Book].
func (b *faultyBook) Write(ctx context.Context, fn func(clearing.Tx) error) error {
	if b.dead {
		return errKilled
	}
	fn = b.wrap(fn)
	f, kill := b.next(true)
	if f != noFault && f != runTwice {
		b.faults++
		b.dead = kill
	}
	undone := func(tx clearing.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return errAgain
	}
	switch f {
	case failBefore:
		return errBefore
	case failInside:
		if err := b.inner.Write(ctx, undone); !errors.Is(err, errAgain) {
			return err
		}
		return errBefore
	case runTwice:
		if err := b.inner.Write(ctx, undone); !errors.Is(err, errAgain) {
			return err
		}
	}
	counted := func(tx clearing.Tx) error { return fn(countingTx{tx, &b.writes}) }
	if err := b.inner.Write(ctx, counted); err != nil || f != failAfter {
		return err
	}
	return errBehind
}

// countingTx counts what is changed, so that what has not changed need not be checked again.
type countingTx struct {
	clearing.Tx
	n *int
}

func (tx countingTx) PutAccount(a clearing.Account) error { *tx.n++; return tx.Tx.PutAccount(a) }

func (tx countingTx) PutBalance(a ledger.Account, b ledger.Balance) error {
	*tx.n++
	return tx.Tx.PutBalance(a, b)
}

func (tx countingTx) AddGuarantee(g clearing.Guarantee) error { *tx.n++; return tx.Tx.AddGuarantee(g) }

func (tx countingTx) LowerGuarantee(digest evm.Hash, payable money.Amount, note guarantee.SignedNote, evidence evm.Hash) error {
	*tx.n++
	return tx.Tx.LowerGuarantee(digest, payable, note, evidence)
}

func (tx countingTx) PutCycle(c clearing.Cycle) error { *tx.n++; return tx.Tx.PutCycle(c) }

func (tx countingTx) PutPositions(c clearing.CycleRef, generation uint64, ps []clearing.Position) error {
	*tx.n++
	return tx.Tx.PutPositions(c, generation, ps)
}

func (tx countingTx) MarkPosition(c clearing.CycleRef, generation uint64, who evm.Address, filled money.Amount, flags clearing.PositionFlags) error {
	*tx.n++
	return tx.Tx.MarkPosition(c, generation, who, filled, flags)
}

func (tx countingTx) PutBlock(s clearing.Stream, b clearing.Block, events []clearing.Event) error {
	*tx.n++
	return tx.Tx.PutBlock(s, b, events)
}

func (tx countingTx) DropBlock(s clearing.Stream, number uint64) ([]clearing.Event, error) {
	*tx.n++
	return tx.Tx.DropBlock(s, number)
}
