package purchase

import (
	"slices"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// next is the state machine: where a purchase may go from each state. Pending may be found pending again.
var next = map[State][]State{
	"":        {Reserved},
	Reserved:  {Running, Void, Pending},
	Running:   {Working, Committed, Void, Pending},
	Working:   {Committed, Void, Pending},
	Pending:   {Committed, Void, Pending},
	Committed: nil,
	Void:      nil,
}

// May reports whether a purchase in state s may go to state to. The empty state is that of a payment never seen.
func (s State) May(to State) bool { return slices.Contains(next[s], to) }

// Final reports whether nothing can change the state any more.
func (s State) Final() bool { return s == Committed || s == Void }

// Move is what a paywall does about a payment that it is shown.
type Move string

// The moves.
const (
	Secure     Move = "secure"      // have the payment certified or settled, then run; the reservation is this request's
	Replay     Move = "replay"      // give the stored answer with the same receipt; of a job that is its 202
	Wait       Move = "wait"        // it is being served right now
	Resolve    Move = "resolve"     // whether it is paid is not known yet: find out, then give what is stored; do not serve
	RefuseUsed Move = "refuse used" // the payment bought another request
	RefuseVoid Move = "refuse void" // nothing was charged, and this payment can charge nothing any more
)

// Shown says what to do when the payment of p is shown for a request: what [Book.Reserve] and [Book.Find] return is
// asked this. Which request it is comes first, so that whoever shows a payment for something else learns no more.
func (p Purchase) Shown(request evm.Hash) Move {
	if p.Request != request {
		return RefuseUsed
	}
	switch p.State {
	case Reserved:
		return Secure
	case Running:
		return Wait
	case Committed, Working:
		return Replay
	case Void:
		return RefuseVoid
	}
	return Resolve
}

// Completion is the rule by which a charge is earned, in the words that stand in the offer.
type Completion string

// The rules.
const (
	BeforeWork   Completion = "charged before work"   // the whole amount, once work begins, whatever comes of it
	AfterSuccess Completion = "charged after success" // the price, or what was measured, if the work succeeds
	AsMeasured   Completion = "charged as measured"   // what was measured, also when the work fails halfway
	ByStage      Completion = "charged by stage"      // the share of the stages that were reached, also when the work fails later
)

// Work is what became of a purchase's work.
type Work struct {
	Rule    Completion
	Cap     money.Amount // signed
	Minimum money.Amount // least charge; a charge is never below one unit
	// Measured is the price of what was done, nil if that is not known. For a fixed price it is the price.
	Measured *money.Amount
	Waived   bool   // the seller said that nothing is to be charged
	Failure  string // reason code; empty if the work succeeded
}

// MeterMissing is the outcome of work that nobody measured although its price is per unit.
const MeterMissing = "meter_missing"

// Verdict returns the state in which the purchase ends, what is charged (≤ Cap, 0 if void), and the outcome's reason
// code. It decides in this order: a waiver, the rule before work, a failure, a missing measure, and last the charge,
// max(measured, minimum, 1) but never above Cap.
func (w Work) Verdict() (State, money.Amount, string) {
	switch {
	case w.Waived:
		return Void, money.Amount{}, w.Failure
	case w.Rule == BeforeWork:
		return Committed, w.Cap, w.Failure
	case w.Failure != "" && w.Rule != AsMeasured && w.Rule != ByStage:
		return Void, money.Amount{}, w.Failure
	case w.Measured == nil && w.Failure != "":
		return Void, money.Amount{}, w.Failure
	case w.Measured == nil:
		return Void, money.Amount{}, MeterMissing
	}
	least := money.Max(w.Minimum, money.Units(1))
	return Committed, money.Min(money.Max(*w.Measured, least), w.Cap), w.Failure
}
