package signals

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/farthing402/farthing/money"
)

// Dollars is an exact sum of dollars; a loss is below 0. The zero value is $0.
type Dollars struct{ r *big.Rat } // nil is 0; never changed once made

// Ratio is an exact number without a unit: a margin, a share, how many seconds a call takes. The zero value is 0.
type Ratio struct{ r *big.Rat } // nil is 0; never changed once made

var (
	zero = new(big.Rat)
	one  = big.NewRat(1, 1)
)

func orZero(r *big.Rat) *big.Rat {
	if r == nil {
		return zero
	}
	return r
}

// DollarsOf is a sum that a person wrote, whatever its currency: who asks has made sure that it stands for dollars.
func DollarsOf(m money.Money) Dollars { return Dollars{ratOf(m.Value)} }

// ParseDollars reads $0.0005. The error is a [*money.PriceError].
func ParseDollars(text string) (Dollars, error) {
	m, err := money.ParseMoney(text)
	if err != nil {
		return Dollars{}, err
	}
	if m.Symbol != "$" {
		return Dollars{}, &money.PriceError{Text: text, Column: 1, Problem: "is not in dollars", Hint: "write $" + m.Value.String()}
	}
	return DollarsOf(m), nil
}

func ratOf(d money.Decimal) *big.Rat {
	r, _ := new(big.Rat).SetString(d.String()) // digits with a point
	return orZero(r)
}

// RatioOf is numerator over denominator, which must not be 0.
func RatioOf(numerator, denominator uint64) Ratio {
	return Ratio{new(big.Rat).SetFrac(new(big.Int).SetUint64(numerator), new(big.Int).SetUint64(denominator))}
}

// ParsePercent reads 50%, 2.5 %. Anything from 0 up to and including 100 is a percentage.
func ParsePercent(text string) (Ratio, error) {
	digits, ok := strings.CutSuffix(strings.TrimSpace(text), "%")
	m, err := money.ParseMoney("$" + strings.TrimSpace(digits))
	if !ok || err != nil {
		return Ratio{}, fmt.Errorf("%q is no percentage, such as 50%%", clip(text))
	}
	share := new(big.Rat).Quo(ratOf(m.Value), big.NewRat(100, 1))
	if share.Cmp(one) > 0 {
		return Ratio{}, fmt.Errorf("%q is more than everything", clip(text))
	}
	return Ratio{share}, nil
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}

// Add returns the sum of both.
func (d Dollars) Add(e Dollars) Dollars { return Dollars{new(big.Rat).Add(orZero(d.r), orZero(e.r))} }

// Sub returns d less e.
func (d Dollars) Sub(e Dollars) Dollars { return Dollars{new(big.Rat).Sub(orZero(d.r), orZero(e.r))} }

// Times returns d that many times.
func (d Dollars) Times(n Ratio) Dollars { return Dollars{new(big.Rat).Mul(orZero(d.r), orZero(n.r))} }

// Among shares d evenly among n, which must not be 0.
func (d Dollars) Among(n uint64) Dollars {
	return Dollars{new(big.Rat).Quo(orZero(d.r), new(big.Rat).SetInt(new(big.Int).SetUint64(n)))}
}

// Over returns how many times e goes into d, and false if e is 0.
func (d Dollars) Over(e Dollars) (Ratio, bool) {
	if e.Sign() == 0 {
		return Ratio{}, false
	}
	return Ratio{new(big.Rat).Quo(orZero(d.r), e.r)}, true
}

// Cmp compares as [money.Amount.Cmp] does.
func (d Dollars) Cmp(e Dollars) int { return orZero(d.r).Cmp(orZero(e.r)) }

// Sign is −1 for a loss, 0 or 1.
func (d Dollars) Sign() int { return orZero(d.r).Sign() }

// Up is the sum for a person, never less than it is: two significant digits, cents at least. $0.00098, −$0.0006.
func (d Dollars) Up() string { return d.people(true) }

// Down is the sum for a person, never more than it is.
func (d Dollars) Down() string { return d.people(false) }

// significantMax bounds the digits after the point of what people read: less than 10^-18 dollars shows as one of it, or none.
const significantMax = 18

func (d Dollars) people(up bool) string {
	r := orZero(d.r)
	if r.Sign() == 0 {
		return "$0"
	}
	size := new(big.Rat).Abs(r)
	places, ten := 2, big.NewRat(10, 1)
	scaled := new(big.Rat).Mul(size, big.NewRat(100, 1))
	for scaled.Cmp(ten) < 0 && places < significantMax {
		scaled.Mul(scaled, ten)
		places++
	}
	whole := rounded(scaled, up == (r.Sign() > 0))
	text := "$" + point(whole, places)
	if r.Sign() < 0 && whole.Sign() > 0 {
		text = "−" + text
	}
	return text
}

// String is the sum with every digit, for sums that people wrote; one that has no last digit ends after 18.
func (d Dollars) String() string {
	r := orZero(d.r)
	text := point(rounded(new(big.Rat).Mul(new(big.Rat).Abs(r), power10(significantMax)), false), significantMax)
	for strings.HasSuffix(text, "0") && len(text)-strings.IndexByte(text, '.') > 3 {
		text = text[:len(text)-1]
	}
	if r.Sign() < 0 {
		return "−$" + text
	}
	return "$" + text
}

// Decimal is the sum for a program: 12 digits after the point at most, no currency, and a plain minus. It is rounded up
// or down, as asked.
func (d Dollars) Decimal(up bool) string { return decimal(orZero(d.r), 12, up) }

// Sign is −1, 0 or 1.
func (x Ratio) Sign() int { return orZero(x.r).Sign() }

// Cmp compares as [money.Amount.Cmp] does.
func (x Ratio) Cmp(y Ratio) int { return orZero(x.r).Cmp(orZero(y.r)) }

// Percent is the number as a percentage for a person, rounded down: 74 %, 7.5 %.
func (x Ratio) Percent() string {
	r := new(big.Rat).Mul(orZero(x.r), big.NewRat(100, 1))
	size := new(big.Rat).Abs(r)
	down := r.Sign() >= 0
	text := ""
	if size.Cmp(big.NewRat(10, 1)) >= 0 {
		text = rounded(size, !down).String()
	} else {
		text = strings.TrimSuffix(point(rounded(size.Mul(size, big.NewRat(10, 1)), !down), 1), ".0")
	}
	if r.Sign() < 0 {
		text = "−" + text
	}
	return text + " %"
}

// String is the number as a percentage with every digit, four after the point at most.
func (x Ratio) String() string {
	return decimal(new(big.Rat).Mul(orZero(x.r), big.NewRat(100, 1)), 4, false) + " %"
}

// Decimal is the number for a program, rounded down, with at most six digits after the point.
func (x Ratio) Decimal() string { return decimal(orZero(x.r), 6, false) }

func decimal(r *big.Rat, places int, up bool) string {
	whole := rounded(new(big.Rat).Mul(new(big.Rat).Abs(r), power10(places)), up == (r.Sign() >= 0))
	text := strings.TrimSuffix(strings.TrimRight(point(whole, places), "0"), ".")
	if r.Sign() < 0 && whole.Sign() > 0 {
		text = "-" + text
	}
	return text
}

// rounded returns a number that is not negative as a whole one.
func rounded(r *big.Rat, up bool) *big.Int {
	whole, rest := new(big.Int).QuoRem(r.Num(), r.Denom(), new(big.Int))
	if up && rest.Sign() > 0 {
		whole.Add(whole, big.NewInt(1))
	}
	return whole
}

// point writes a whole number with its last digits behind a point.
func point(whole *big.Int, places int) string {
	digits := whole.String()
	if missing := places + 1 - len(digits); missing > 0 {
		digits = strings.Repeat("0", missing) + digits
	}
	return digits[:len(digits)-places] + "." + digits[len(digits)-places:]
}

func power10(n int) *big.Rat {
	return new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil))
}
