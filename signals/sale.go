package signals

import (
	"math/big"
)

// Way is a way to sell.
type Way string

// The ways to sell. Bundle and Batch are exact: the first sells several calls for one payment, the second settles several
// payments in one transaction.
const (
	Exact     Way = "exact"
	Bundle    Way = "bundle"
	Batch     Way = "batch"
	Upto      Way = "upto"
	Guarantee Way = "guarantee"
)

// Ways are all ways in the order in which they are shown.
var Ways = []Way{Exact, Bundle, Batch, Upto, Guarantee}

// DefaultBatch is how many payments one settling transaction carries unless a seller says otherwise.
const DefaultBatch = 50

// Cycle is a seller's part in one cycle of a clearing house.
type Cycle struct {
	Calls  uint64 // that the seller sells in it, at least 1
	Buyers uint64 // who make them, at least 1
}

// Sale is one kind of call that is sold at a price.
type Sale struct {
	Price  Dollars // what a typical call is charged
	Cost   Total   // what it costs besides being paid for
	Margin Ratio   // the share of the price that is to be left, at least 0 and below 1
	Fees   Fees
	Gas    Gas
	Bundle uint64 // calls that are bought at once, at least 1
	Batch  uint64 // payments that are settled at once, at least 1
	Cycle  Cycle
}

// Line is what selling one way comes to.
type Line struct {
	Way       Way
	Many      uint64 // calls in a bundle, payments in a batch, calls of one buyer in a cycle; 1 otherwise
	Sponsored bool   // somebody else pays the gas that the way lets somebody else pay
	Payer     string // who pays the gas

	Fee  Dollars // that a call costs to be paid for, as far as the seller bears it
	Cost Dollars // what else it costs
	Net  Dollars // price − fee − cost; below 0 at a loss
	Keep Ratio   // net over price; 0 where the price is 0
	// Minimum is the price from which the margin is left: (fee + cost) ÷ (1 − margin). Viable is false where no price
	// leaves it.
	Minimum Dollars
	Viable  bool
}

// Loses reports whether a call brings in less than it takes.
func (l Line) Loses() bool { return l.Net.Sign() < 0 }

// Lines are all ways, each first with the gas paid by the seller and then by somebody else.
func (s Sale) Lines() []Line {
	var lines []Line
	for _, sponsored := range []bool{false, true} {
		for _, way := range Ways {
			lines = append(lines, s.Line(way, sponsored))
		}
	}
	return lines
}

// Line is what one way comes to.
func (s Sale) Line(way Way, sponsored bool) Line {
	l := Line{Way: way, Many: 1, Sponsored: sponsored, Payer: "you", Cost: s.Cost.PerCall()}
	if sponsored {
		l.Payer = "the facilitator"
	}
	lost := zero
	switch way {
	case Bundle:
		l.Many = max(s.Bundle, 1)
		l.Fee = s.Fees.Of(s.Gas.Transfer).Among(l.Many)
	case Batch:
		l.Many = max(s.Batch, 1)
		l.Fee = s.Fees.Of(s.Gas.BatchFixed.plus(s.Gas.Batched, l.Many)).Among(l.Many)
	case Upto:
		l.Fee = s.Fees.Of(s.Gas.Upto)
	case Guarantee:
		calls, buyers := max(s.Cycle.Calls, 1), max(s.Cycle.Buyers, 1)
		l.Many = max(calls/buyers, 1)
		collected := s.Fees.PartOf(s.Gas.Collected)
		posted := s.Fees.PartOf(s.Gas.Creditor.plus(s.Gas.Debtor, buyers)).Add(s.Fees.PartOf(s.Gas.Cycle))
		l.Payer = "you and the operator"
		l.Fee = collected.Add(posted).Among(calls)
		if sponsored {
			l.Payer = "the operator; you collect"
			l.Fee = collected.Among(calls)
		}
		lost = orZero(s.Cost.Lost.r) // what is paid at once cannot be lost later
	default:
		l.Fee = s.Fees.Of(s.Gas.Transfer)
	}
	if sponsored && way != Guarantee {
		l.Fee = Dollars{}
	}
	comes := new(big.Rat).Mul(orZero(s.Price.r), new(big.Rat).Sub(one, lost))
	l.Net = Dollars{comes}.Sub(l.Fee).Sub(l.Cost)
	l.Keep, _ = l.Net.Over(s.Price)
	if left := new(big.Rat).Sub(new(big.Rat).Sub(one, orZero(s.Margin.r)), lost); left.Sign() > 0 {
		l.Minimum, l.Viable = Dollars{new(big.Rat).Quo(l.Fee.Add(l.Cost).r, left)}, true
	}
	return l
}

// MinBatch is how many payments of an amount one settlement needs, if it costs fixed and each payment in it costs each
// more, so that a margin is left: ceil(fixed ÷ (amount × (1 − margin) − each)). It is false where no number is enough.
func MinBatch(fixed, each, amount Dollars, margin Ratio) (uint64, bool) {
	left := amount.Times(Ratio{new(big.Rat).Sub(one, orZero(margin.r))}).Sub(each)
	if left.Sign() <= 0 {
		return 0, false
	}
	n := rounded(new(big.Rat).Quo(orZero(fixed.r), left.r), true)
	if n.Sign() <= 0 {
		return 1, true
	}
	return n.Uint64(), n.IsUint64()
}

// MinBatch is how many payments of the sale's price one settling transaction needs.
func (s Sale) MinBatch() (uint64, bool) {
	one := s.Fees.Of(s.Gas.BatchFixed.plus(s.Gas.Batched, 1))
	two := s.Fees.Of(s.Gas.BatchFixed.plus(s.Gas.Batched, 2))
	each := two.Sub(one)
	return MinBatch(one.Sub(each), each.Add(s.Cost.PerCall()), s.Price, s.Margin)
}

// gasShareMax is the part of its price that a proposed bundle spends on gas, in percent. It is what keeps a bundle viable
// when gas costs ten times as much.
const gasShareMax = 2

// bundleMax bounds a proposed bundle: nobody buys more calls than that from a stranger.
const bundleMax = 1_000_000

// Bundled proposes how many calls to sell at once: 1, 2 or 5 and zeros, so many that the margin is left and gas takes at
// most 2 % of the payment. It is false where calls cost too much to be sold at this price in any number.
func (s Sale) Bundled() (uint64, bool) {
	fee := s.Fees.Of(s.Gas.Transfer)
	enough, ok := MinBatch(fee, s.Cost.PerCall(), s.Price, s.Margin)
	if !ok {
		return 0, false
	}
	cheap, ok := MinBatch(fee, Dollars{}, s.Price, RatioOf(100-gasShareMax, 100))
	if !ok || max(enough, cheap) > bundleMax {
		return 0, false
	}
	least := max(enough, cheap)
	for ten := uint64(1); ; ten *= 10 {
		for _, n := range []uint64{ten, 2 * ten, 5 * ten} {
			if n >= least {
				return n, true
			}
		}
	}
}
