package purchase

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Check returns an error if members that must agree do not. A [Book] asks it before it writes and after it reads.
func (p Purchase) Check() error {
	if _, known := next[p.State]; !known || p.State == "" {
		return fmt.Errorf("state %q is none", p.State)
	}
	switch {
	case p.ID == "":
		return errors.New("it has no id")
	case p.Cap.Less(p.Charged):
		return fmt.Errorf("charged %s of %s", p.Charged, p.Cap)
	case p.State != Committed && !p.Charged.IsZero():
		return fmt.Errorf("charged %s, but it is %s", p.Charged, p.State)
	case p.Cap.Less(p.Owed):
		return fmt.Errorf("owed %s of %s", p.Owed, p.Cap)
	case (p.State.Final() || p.State == Reserved) && !p.Owed.IsZero():
		return fmt.Errorf("owed %s, but it is %s", p.Owed, p.State)
	case p.Cap.Less(p.Credit):
		return fmt.Errorf("credit %s of %s", p.Credit, p.Cap)
	case p.Answer != nil && p.State != Committed && p.State != Working && p.State != Pending:
		return fmt.Errorf("it has an answer, but it is %s", p.State)
	case p.State == Working && p.Due.IsZero():
		return errors.New("it is working without end")
	case p.ProofDone && len(p.Proof) == 0:
		return errors.New("a proof is delivered, but there is none")
	case !p.Transaction.IsZero() && !p.Settling:
		return errors.New("it has a transaction, but nothing was to be settled")
	case p.State == Void && p.Settling:
		return errors.New("it is void, but its money may have moved")
	case p.State == Committed && p.Unknown():
		return errors.New("it is committed, but nobody knows whether its money moved")
	}
	return p.checkBundle()
}

func (p Purchase) checkBundle() error {
	switch {
	case p.Buys > math.MaxInt64 || p.Draws > math.MaxInt64:
		return errors.New("more units than can be counted")
	case p.Bundle == "" && (p.Draws > 0 || p.Buys > 0):
		return fmt.Errorf("it draws %d and buys %d of no bundle", p.Draws, p.Buys)
	case (p.Buys > 0) != (p.Bundle != "" && p.Bundle == p.ID):
		return fmt.Errorf("it buys %d of bundle %s", p.Buys, p.Bundle)
	case p.Buys > 0 && p.Buys < p.Draws:
		return fmt.Errorf("it draws %d of %d", p.Draws, p.Buys)
	case p.DrawsOnly() && (p.Settling || !p.Charged.IsZero() || !p.Owed.IsZero() || !p.Credit.IsZero()):
		return errors.New("it draws from a bundle, and money moves for it as well")
	}
	return nil
}

// Ready returns p as [Book.Reserve] writes it, or an error. Purchases with a bundle are made by [Book.ReserveCall].
func (p Purchase) Ready() (Purchase, error) {
	if p.State != Reserved && p.State != "" {
		return p, fmt.Errorf("it is %s: %w", p.State, ErrState)
	}
	if p.Bundle != "" || p.Draws > 0 || p.Buys > 0 {
		return p, errors.New("it has a bundle before it is reserved")
	}
	p.State, p.Answer = Reserved, nil
	return p, p.Check()
}

// Settles returns p after [Book.Settling].
func (p Purchase) Settles(certificate []byte) (Purchase, error) {
	if p.State.Final() {
		return p, fmt.Errorf("it is %s: %w", p.State, ErrState)
	}
	p.Settling, p.Certificate = true, certificate
	return p, p.Check()
}

// Settled returns p after [Book.Settled].
func (p Purchase) Settled(transaction evm.Hash) (Purchase, error) {
	if p.State == Void {
		return p, fmt.Errorf("it is %s: %w", p.State, ErrState)
	}
	if transaction.IsZero() {
		return p, errors.New("it was settled in no transaction")
	}
	p.Settling, p.Transaction = true, transaction
	return p, p.Check()
}

// NotSettled returns p after [Book.NotSettled], if the bundle that it buys, if any, is b.
func (p Purchase) NotSettled(b Bundle) (Purchase, error) {
	if p.State.Final() {
		return p, fmt.Errorf("it is %s: %w", p.State, ErrState)
	}
	if p.Buys > 0 && b.State == Open {
		return p, fmt.Errorf("its bundle is open: %w", ErrState)
	}
	p.Settling, p.Transaction = false, evm.Hash{}
	return p, nil
}

// Owes returns p after [Book.Owe].
func (p Purchase) Owes(owed money.Amount) (Purchase, error) {
	if p.State != Running && p.State != Working {
		return p, fmt.Errorf("it is %s: %w", p.State, ErrState)
	}
	if owed.Less(p.Owed) {
		return p, fmt.Errorf("it has earned %s already, not %s", p.Owed, owed)
	}
	p.Owed = owed
	return p, p.Check()
}

// Ran returns p after [Book.Run].
func (p Purchase) Ran(certificate []byte, at time.Time) (Purchase, error) {
	switch {
	case p.State != Reserved:
		return p, fmt.Errorf("it is %s: %w", p.State, ErrState)
	case p.Unknown():
		return p, fmt.Errorf("nobody knows whether its money moved: %w", ErrState)
	}
	p.State, p.RunAt = Running, at
	if len(certificate) > 0 {
		p.Certificate = certificate
	}
	return p, p.Check()
}

// Finished returns p after [Book.Finish], if the bundle that it buys, if any, is b. What p had more of Draws and Credit
// is to be given back.
func (p Purchase) Finished(done Purchase, b Bundle) (Purchase, error) {
	if !done.State.Final() && done.State != Pending && done.State != Working || !p.State.May(done.State) {
		return p, fmt.Errorf("it is %s and cannot become %s: %w", p.State, done.State, ErrState)
	}
	if p.Draws < done.Draws {
		return p, fmt.Errorf("it has drawn %d, not %d", p.Draws, done.Draws)
	}
	p.State, p.Charged, p.Owed, p.Units, p.Cost, p.Downstream = done.State, done.Charged, done.Owed, done.Units, done.Cost, done.Downstream
	p.Outcome, p.Proof, p.DoneAt, p.Due, p.Draws = done.Outcome, done.Proof, done.DoneAt, done.Due, done.Draws
	if !done.Transaction.IsZero() {
		p.Settling, p.Transaction = true, done.Transaction
	}
	if done.Answer != nil {
		p.Answer = done.Answer
	}
	switch p.State {
	case Committed:
		p.Owed, p.Credit = money.Amount{}, money.Min(p.Credit, p.Charged)
	case Void:
		p.Owed, p.Credit, p.Draws, p.Answer = money.Amount{}, money.Amount{}, 0, done.Answer
	}
	switch {
	case p.State.Final() && p.Unknown():
		return p, fmt.Errorf("nobody knows whether its money moved, so it cannot become %s: %w", p.State, ErrState)
	case p.State == Void && p.Settling:
		return p, fmt.Errorf("its money moved, so it cannot become %s: %w", p.State, ErrState)
	case p.State == Void && p.Buys > 0 && b.State == Open:
		return p, fmt.Errorf("its bundle is open, so it cannot become %s: %w", p.State, ErrState)
	}
	return p, p.Check()
}

// Finished returns b after the purchase that buys it, or one that draws from it, went from old to done; false if it is
// no more.
func (b Bundle) Finished(old, done Purchase) (_ Bundle, there bool) {
	b.Remaining += old.Draws - done.Draws
	if done.Buys == 0 {
		return b, true
	}
	switch done.State {
	case Committed:
		b.Price = done.Charged
		if b.State == Buying {
			b.State, b.ValidUntil = Open, done.DoneAt.Add(b.Valid)
		}
	case Void:
		return Bundle{}, false
	}
	return b, true
}

// Opened returns b after [Book.OpenBundle], which buyer buys.
func (b Bundle) Opened(buyer Purchase, validUntil time.Time) (Bundle, error) {
	if buyer.State == Void || buyer.Unknown() {
		return b, fmt.Errorf("its purchase is %s and not known to be paid: %w", buyer.State, ErrState)
	}
	b.State, b.ValidUntil = Open, validUntil
	return b, b.Check()
}
