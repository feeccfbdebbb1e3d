package purchase

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// RefundKind is how something is given back.
type RefundKind string

// The kinds.
const (
	ByTransfer RefundKind = "transfer" // money on the chain
	ByCalls    RefundKind = "calls"    // units to the bundle from which they were drawn
	ByNote     RefundKind = "note"     // the payee's signature that a guarantee is worth less
	// After a guarantee's cutoff the payee guarantees the other way: what was charged, or, where a note came too late, what
	// was promised beyond the charge.
	ByGuarantee RefundKind = "guarantee"
	ByReturn    RefundKind = "return"
	ByCredit    RefundKind = "credit" // money for the payer's next purchases from the same seller
)

// RefundState is where a refund stands.
type RefundState string

// The states of a refund.
const (
	Queued RefundState = "queued" // to be sent, or sent and not known to have arrived
	Done   RefundState = "done"   // the payer has it; final
	Failed RefundState = "failed" // it did not arrive and is not tried again by itself
)

// Refund is what is given back for a purchase after it was charged. A purchase has one at most.
type Refund struct {
	Purchase    string
	Kind        RefundKind
	Amount      money.Amount // 0 for calls
	Calls       uint64       // units: given back for calls; of a bundle's unused rest that is paid back, how many
	Proof       []byte       // JSON: the signed note, or the signed guarantee and its certificate once it has one; nil for others
	State       RefundState
	Transaction evm.Hash // of a transfer
	Reason      string   // why it is given, then why it failed
	At, DoneAt  time.Time
}

// Check returns an error if members that must agree do not. A [Book] asks it before it writes and after it reads.
func (r Refund) Check() error {
	switch {
	case r.Purchase == "":
		return errors.New("it has no purchase")
	case r.State != Queued && r.State != Done && r.State != Failed:
		return fmt.Errorf("state %q is none", r.State)
	case r.Kind != ByTransfer && r.Kind != ByCalls && r.Kind != ByCredit && !r.Kind.Signed():
		return fmt.Errorf("kind %q is none", r.Kind)
	case r.Kind == ByCalls && (r.Calls == 0 || !r.Amount.IsZero()):
		return fmt.Errorf("it gives back %d calls and %s", r.Calls, r.Amount)
	case r.Kind != ByCalls && r.Amount.IsZero():
		return errors.New("it gives back nothing")
	case r.Calls > math.MaxInt64:
		return errors.New("more units than can be counted")
	case r.Kind.Signed() != (len(r.Proof) > 0):
		return fmt.Errorf("it is by %s and has a signed proof of %d bytes", r.Kind, len(r.Proof))
	case (r.Kind == ByCalls || r.Kind == ByCredit) && r.State != Done:
		return fmt.Errorf("it is by %s and %s", r.Kind, r.State)
	case r.Kind != ByTransfer && !r.Transaction.IsZero():
		return fmt.Errorf("it is by %s and has a transaction", r.Kind)
	}
	return nil
}

// Signed reports whether a refund of the kind is what its payee signs.
func (k RefundKind) Signed() bool { return k == ByNote || k == ByGuarantee || k == ByReturn }

// becomes reports whether a queued refund of the kind may become one of another: a note that came too late a guarantee.
func (k RefundKind) becomes(other RefundKind) bool {
	return k == other || k == ByNote && other == ByGuarantee
}

// Same reports whether r and s give back the same: whether by a note or by a guarantee is a question of the time.
func (r Refund) Same(s Refund) bool {
	return r.Purchase == s.Purchase && (r.Kind.becomes(s.Kind) || s.Kind.becomes(r.Kind)) && r.Amount == s.Amount && r.Calls == s.Calls
}

// All reports whether r gives back all that was charged or drawn for p, or is to.
func (r Refund) All(p Purchase) bool {
	return r.State != Failed && r.Kind != ByReturn && (r.Kind == ByCalls || r.Amount == p.Charged)
}

// Begun returns r as a book records it: queued, or done at once if the book itself gives it.
func (r Refund) Begun() Refund {
	r.State, r.DoneAt, r.Transaction = Queued, time.Time{}, evm.Hash{}
	if r.Kind == ByCalls || r.Kind == ByCredit {
		r.State, r.DoneAt = Done, r.At
	}
	return r
}

// Finished returns r after it became what done says: State, Transaction, Reason and DoneAt of it, and Kind and Proof where
// the payee has signed something else.
func (r Refund) Finished(done Refund) (Refund, error) {
	if r.State == Done || r.State == done.State && r.State != Queued {
		return r, fmt.Errorf("it is %s and cannot become %s: %w", r.State, done.State, ErrState)
	}
	if done.Kind.Signed() && r.Kind.becomes(done.Kind) {
		r.Kind, r.Proof = done.Kind, done.Proof
	}
	r.State, r.Transaction, r.Reason, r.DoneAt = done.State, done.Transaction, done.Reason, done.DoneAt
	return r, r.Check()
}

// MayRefund says whether r can be given back for p, whose bundle is b: only what is Committed, and never more than was
// charged. Calls are those that p drew. Of a bundle money comes back for the units that nobody has drawn, all of them at
// once and in proportion to its price: r.Calls says how many they are, so that a draw in between is noticed. What was
// drawn from a bundle was not charged, so only calls come back for it. What a guarantee promised beyond the charge can be
// returned however the purchase ended. The error matches [ErrState] or [ErrTooMuch].
func (p Purchase) MayRefund(r Refund, b Bundle) error {
	switch {
	case r.Kind == ByReturn && p.State.Final():
		beyond, _ := p.Cap.Sub(p.Charged) // Charged ≤ Cap
		if beyond, _ = beyond.Add(p.Credit); beyond.Less(r.Amount) {
			return fmt.Errorf("%s, but %s was promised beyond the charge: %w", r.Amount, beyond, ErrTooMuch)
		}
		return nil
	case p.State != Committed:
		return fmt.Errorf("it is %s: %w", p.State, ErrState)
	case r.Kind == ByCalls && p.Draws < r.Calls:
		return fmt.Errorf("%d calls of %d: %w", r.Calls, p.Draws, ErrTooMuch)
	case r.Kind == ByCalls:
		return nil
	case p.Charged.Less(r.Amount):
		return fmt.Errorf("%s of %s: %w", r.Amount, p.Charged, ErrTooMuch)
	case p.Buys == 0 && r.Calls > 0:
		return fmt.Errorf("%d calls of a purchase that bought none: %w", r.Calls, ErrTooMuch)
	case p.Buys == 0:
		return nil
	case r.Calls != b.Remaining:
		return fmt.Errorf("%d calls, but %d are unused: %w", r.Calls, b.Remaining, ErrTooMuch)
	}
	asked, fits := r.Amount.Mul(money.Units(b.Total))
	most, ok := p.Charged.Mul(money.Units(r.Calls))
	if !fits || !ok || most.Less(asked) {
		return fmt.Errorf("%s for %d calls of %d, which cost %s: %w", r.Amount, r.Calls, b.Total, p.Charged, ErrTooMuch)
	}
	return nil
}

// Refunded returns b after r was recorded for a purchase that drew from it or bought it.
func (b Bundle) Refunded(r Refund) Bundle {
	switch {
	case r.Kind == ByCalls:
		b.Remaining += r.Calls
	case r.Purchase == b.ID:
		b.Remaining -= r.Calls
	}
	return b
}
