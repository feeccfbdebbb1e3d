package money

import (
	"fmt"
	"math"
	"strconv"

	"github.com/holiman/uint256"
)

// MaxAmount returns 2^256 − 1, the cap of a charge that nothing else caps.
func MaxAmount() Amount {
	var a Amount
	a.v.SetAllOne()
	return a
}

// rateBitsMax bounds a block's price in smallest units, so that no charge for 2^64 units passes 256 bits.
const rateBitsMax = 128

// Rate is a price counted in an asset's smallest units: Numerator over Denominator units of money for each started Block
// of what is measured. It is exact. The zero value is free.
type Rate struct {
	Numerator   Amount
	Denominator Amount // a power of ten; 1 where a block's price is whole
	Block       uint64 // calls, tokens, records, seconds or bytes that one block covers
}

// Free reports whether the rate asks nothing.
func (r Rate) Free() bool { return r.Numerator.IsZero() }

// For counts the price in an asset. Prices in $ are for dollar assets, at par; any other must name the asset. Nothing is
// rounded here: a price of 1.5 smallest units stays 1.5. A price below one smallest unit for its own number of units is a
// [*PriceError], because charging it call by call would charge more than it says.
func (p Price) For(a Asset) (Rate, error) {
	if p.Free() {
		return Rate{}, nil
	}
	fail := func(problem, hint string) (Rate, error) {
		return Rate{}, &PriceError{Text: p.String(), Column: 1, Problem: problem, Hint: hint}
	}
	if !p.isOf(a) {
		return fail("is not a price in "+a.Symbol, "a price in $ is for tokens that stand for a dollar; others name their token, such as 0.001 "+a.Symbol)
	}
	if a.Decimals > scaleMax || p.Per == 0 || p.Unit.Size == 0 || p.Per > (1<<63)/p.Unit.Size {
		return fail("cannot be counted in "+a.Symbol, "")
	}
	n, d, ok := p.Value.shift(a.Decimals)
	if !ok || n.BitLen() > rateBitsMax {
		return fail("is more than can be counted in "+a.Symbol, "")
	}
	if n.Less(d) {
		return fail(fmt.Sprintf("is below one unit of %s (%s)", a.Symbol, Format(Units(1), a.Decimals, p.Symbol)), p.bundled(n, d))
	}
	return Rate{n, d, p.Per * p.Unit.Size}, nil
}

// bundled proposes the same price for the fewest times ten as many units that cost a whole smallest unit or more.
func (p Price) bundled(n, d Amount) string {
	times, digits := uint64(1), 0
	for ; n.Less(d); digits++ {
		over := n.v
		if _, past := n.v.MulOverflow(&over, uint256.NewInt(10)); past || times > 1e14 {
			return ""
		}
		times *= 10
	}
	many := p
	many.Per = p.Per * times
	if many.Per/times != p.Per || many.Per > 1e15 || many.Per > (1<<63)/p.Unit.Size {
		return ""
	}
	coefficient, scale := p.Value.coefficient, p.Value.scale
	if int(scale) >= digits {
		many.Value = newDecimal(coefficient, scale-uint8(digits))
	} else {
		up, _ := pow10(uint8(digits) - scale)
		whole, ok := coefficient.Mul(up)
		if !ok {
			return ""
		}
		many.Value = newDecimal(whole, 0)
	}
	names := []string{1: "ten", 2: "a hundred", 3: "a thousand", 4: "ten thousand"}
	count := strconv.FormatUint(times, 10)
	if digits < len(names) {
		count = names[digits]
	}
	return "sell " + count + " at once: " + many.String()
}

// Charge says what measured units cost. Its rules, in this order:
//
//   - a started block counts as a whole one: 99 of 100 records cost one hundred, and so do 37;
//   - a result between two smallest units is rounded up: the payee gains less than one unit, once per charge;
//   - at least minimum is charged, and at least one smallest unit, even where nothing was measured, unless the rate is free;
//   - never more than limit is charged, whatever the other rules say. What was signed goes here; a zero limit charges
//     nothing, and [MaxAmount] is no limit.
func (r Rate) Charge(measured uint64, minimum, limit Amount) Amount {
	charge := minimum
	if !r.Free() {
		charge = Max(charge, Max(Units(1), r.cost(measured)))
	}
	return Min(charge, limit)
}

// cost is blocks × Numerator ÷ Denominator, rounded up.
func (r Rate) cost(measured uint64) Amount {
	blocks := measured / max(r.Block, 1)
	if measured%max(r.Block, 1) != 0 {
		blocks++
	}
	total, ok := r.Numerator.Mul(Units(blocks))
	if !ok { // not for a rate that For made
		return MaxAmount()
	}
	var quotient, rest uint256.Int
	denominator := Max(r.Denominator, Units(1))
	quotient.DivMod(&total.v, &denominator.v, &rest)
	up := Amount{quotient}
	if !rest.IsZero() {
		up, _ = up.Add(Units(1)) // a rest means that the denominator is 2 or more, so there is room
	}
	return up
}

// Within returns the most units whose charge is no more than a sum, as far as they can be counted.
func (r Rate) Within(sum Amount) uint64 {
	if r.Free() || r.Block == 0 {
		return 0
	}
	var blocks Amount
	if _, over := blocks.v.MulDivOverflow(&sum.v, &r.Denominator.v, &r.Numerator.v); over {
		return math.MaxUint64 / r.Block * r.Block
	}
	most := math.MaxUint64 / r.Block
	if n, fits := blocks.Uint64(); fits {
		most = min(most, n)
	}
	return most * r.Block
}
