package signals

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/farthing402/farthing/money"
)

// CostNames are what a seller calls its costs, in the order in which they are shown. Two of them may be percentages:
// failed requests, which are worked on and not paid, and default loss, which is sold on a promise and never collected.
var CostNames = []string{"model", "data", "compute", "bandwidth", "observability", "support", FailedRequests, "downstream spend", DefaultLoss}

// The costs that may be percentages.
const (
	FailedRequests = "failed requests"
	DefaultLoss    = "default loss"
)

// Measure is what a price or cost can be per.
type Measure struct {
	Kind      money.Kind
	Direction money.Direction // of bytes; otherwise empty
}

// String returns the measure as people write it: seconds, bytes out.
func (m Measure) String() string {
	return strings.TrimSpace(string(m.Kind) + "s " + string(m.Direction))
}

func measureOf(u money.Unit) Measure { return Measure{u.Kind, u.Direction} }

// Usage is how much of what a typical call uses. Every call is one call, whether that is said or not.
type Usage map[Measure]Ratio

// ParseUsage reads what a typical call uses: 0.8 seconds, 1500 tokens, 20 kB out. Units are those of prices.
func ParseUsage(text string) (Usage, error) {
	usage := Usage{}
	if strings.TrimSpace(text) == "" {
		return usage, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		number, unit, _ := strings.Cut(strings.TrimSpace(part), " ")
		many, err := money.ParseMoney("$" + number)
		if err != nil {
			return nil, fmt.Errorf("%q does not begin with a number, as 1500 tokens does", clip(strings.TrimSpace(part)))
		}
		p, err := money.ParsePrice("$1 per " + strings.TrimSpace(unit))
		if err != nil || p.Per != 1 {
			return nil, fmt.Errorf("%q names no unit after its number; write 0.8 seconds, 1500 tokens, or 20 kB out", clip(strings.TrimSpace(part)))
		}
		m := measureOf(p.Unit)
		if _, twice := usage[m]; twice || m.Kind == money.Call {
			return nil, fmt.Errorf("%s: said already", m)
		}
		usage[m] = Ratio{new(big.Rat).Mul(ratOf(many.Value), whole(p.Unit.Size))}
	}
	return usage, nil
}

func (u Usage) of(unit money.Unit) (*big.Rat, error) {
	m := measureOf(unit)
	if m.Kind == money.Call {
		return one, nil
	}
	if q, ok := u[m]; ok {
		return orZero(q.r), nil
	}
	return nil, &UsageError{m}
}

// UsageError says that something is counted of which nobody said how much a typical call uses.
type UsageError struct{ Measure Measure }

func (e *UsageError) Error() string {
	return fmt.Sprintf("how many %s a typical call takes is not known", e.Measure)
}

// Typical is what a typical call is charged at a price: every started block of units, as [money.Rate.Charge] counts them.
// The error is a [*UsageError].
func Typical(p money.Price, u Usage) (Dollars, error) {
	if p.Free() {
		return Dollars{}, nil
	}
	used, err := u.of(p.Unit)
	if err != nil {
		return Dollars{}, err
	}
	blocks := rounded(new(big.Rat).Quo(used, block(p)), true)
	if blocks.Sign() == 0 {
		blocks.SetUint64(1) // nothing measured is still charged as the smallest block
	}
	return DollarsOf(p.Money).Times(Ratio{new(big.Rat).SetInt(blocks)}), nil
}

// CallsIn is how many typical calls so many units are enough for, at a price by the unit. Where the usage says nothing, a
// call takes one block of the price.
func CallsIn(units uint64, p money.Price, u Usage) uint64 {
	each := taken(p, u)
	if each.Sign() == 0 {
		return 0
	}
	return rounded(new(big.Rat).Quo(whole(units), each), false).Uint64() // no more than units
}

// UnitsFor is how many units so many typical calls take, and false if they cannot be counted.
func UnitsFor(calls uint64, p money.Price, u Usage) (uint64, bool) {
	n := rounded(new(big.Rat).Mul(whole(calls), taken(p, u)), true)
	return n.Uint64(), n.IsUint64()
}

// taken is what a typical call takes of a bundle: at least a block of the price, as started blocks count.
func taken(p money.Price, u Usage) *big.Rat {
	if used, err := u.of(p.Unit); err == nil && used.Cmp(block(p)) > 0 {
		return used
	}
	return block(p)
}

// block is how much of what is measured a price is for.
func block(p money.Price) *big.Rat { return new(big.Rat).Mul(whole(p.Per), whole(p.Unit.Size)) }

func whole(n uint64) *big.Rat { return new(big.Rat).SetInt(new(big.Int).SetUint64(n)) }

// Cost is one of a seller's costs: so much per unit, or a percentage.
type Cost struct {
	Name  string
	Text  string // as it was written
	price money.Price
	share Ratio
}

// ParseCost reads a cost by one of [CostNames], or the empty name for all of them together: 0, $0.00004 per call,
// $0.00002 per second, $0.00008 per MB out, and 2 % where percentages make sense.
func ParseCost(name, text string) (Cost, error) {
	c := Cost{Name: name, Text: strings.TrimSpace(text)}
	if name != "" && !slices.Contains(CostNames, name) {
		return c, fmt.Errorf("no cost is named %q", clip(name))
	}
	var err error
	if strings.HasSuffix(c.Text, "%") {
		if name != FailedRequests && name != DefaultLoss {
			return c, fmt.Errorf("%s: %q is a percentage of nothing; write what it costs, such as $0.00004 per call", name, clip(text))
		}
		c.share, err = ParsePercent(c.Text)
		if err == nil && c.share.r.Cmp(one) == 0 {
			err = fmt.Errorf("%q leaves nothing to sell", clip(text))
		}
		return c, err
	}
	if c.price, err = money.ParsePrice(c.Text); err != nil {
		return c, err
	}
	if !c.price.Free() && c.price.Symbol != "$" {
		return c, &money.PriceError{Text: text, Column: 1, Problem: "is not in dollars", Hint: "write $" + c.price.Value.String()}
	}
	return c, nil
}

// Total is what a call costs its seller, besides being paid for.
type Total struct {
	// Work is what a call costs that is worked on, paid or not.
	Work Dollars
	// Failed is the share of calls that are worked on and not paid; Lost the share of what is promised that never comes.
	Failed, Lost Ratio
}

// Sum adds costs up for a typical call. A cost by a unit of which the usage says nothing is left out and returned as a
// [*UsageError] with its name, joined with the others: whoever asks decides whether that is an error.
func Sum(costs []Cost, u Usage) (Total, error) {
	var t Total
	var missing []error
	for _, c := range costs {
		if c.share.Sign() > 0 {
			if c.Name == FailedRequests {
				t.Failed = c.share
			} else {
				t.Lost = c.share
			}
			continue
		}
		if c.price.Free() {
			continue
		}
		used, err := u.of(c.price.Unit)
		if err != nil {
			missing = append(missing, fmt.Errorf("%s: %w", nameOf(c), err))
			continue
		}
		t.Work = t.Work.Add(DollarsOf(c.price.Money).Times(Ratio{new(big.Rat).Quo(used, block(c.price))}))
	}
	return t, errors.Join(missing...)
}

func nameOf(c Cost) string {
	if c.Name == "" {
		return "cost"
	}
	return c.Name
}

// PerCall is what a call that is paid has cost: its own work, and its share in the work of those that failed.
func (t Total) PerCall() Dollars {
	return Dollars{new(big.Rat).Quo(orZero(t.Work.r), new(big.Rat).Sub(one, orZero(t.Failed.r)))}
}
