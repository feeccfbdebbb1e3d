package payer

import (
	"fmt"
	"net"
	"path"
	"strings"

	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// Budget is what a payer may spend, in dollars: "$0.01". A day is one of UTC.
type Budget struct {
	PerCall string   // most that one purchase may cost; must be set
	PerDay  string   // empty: no limit
	Total   string   // over the whole journal; empty: no limit
	Sellers []string // hosts that may be paid, such as api.example.org or *.example.org; empty: any
}

// fine is the scale in which sums of different tokens are compared: dollars with as many decimals as a token can have.
const fine = 36

type limits struct {
	call       money.Amount
	day, total *money.Amount // nil: no limit
	sellers    []string
}

func (b Budget) limits() (limits, error) {
	var l limits
	for _, f := range []struct {
		name, text string
		into       **money.Amount
	}{{"most per call", b.PerCall, nil}, {"most per day", b.PerDay, &l.day}, {"most in total", b.Total, &l.total}} {
		if f.text == "" && f.into != nil {
			continue
		}
		m, err := money.ParseMoney(f.text)
		if err != nil {
			return limits{}, x402.Errorf("config_invalid", "budget: %s: %w", f.name, err).WithHint("write it in dollars, such as $0.01")
		}
		if m.Symbol != "$" {
			return limits{}, x402.Errorf("config_invalid", "budget: %s: %s is not in dollars", f.name, m).WithHint("write it in dollars, such as $0.01")
		}
		a, err := m.Atomic(fine)
		if err != nil {
			return limits{}, x402.Errorf("config_invalid", "budget: %s: %w", f.name, err)
		}
		if f.into == nil {
			l.call = a
		} else {
			*f.into = &a
		}
	}
	for _, s := range b.Sellers {
		if _, err := path.Match(s, ""); err != nil || s == "" {
			return limits{}, x402.Errorf("config_invalid", "budget: seller %q is no host pattern", s).WithHint("write api.example.org or *.example.org")
		}
		l.sellers = append(l.sellers, strings.ToLower(s))
	}
	return l, nil
}

// allows reports whether the seller with this host, and port if it has one, may be paid. A pattern without a port is
// for every port.
func (l limits) allows(host string) bool {
	if len(l.sellers) == 0 {
		return true
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	for _, s := range l.sellers {
		whole, _ := path.Match(s, host)
		part, _ := path.Match(s, name)
		if whole || part {
			return true
		}
	}
	return false
}

// inDollars scales an amount of a dollar token. It reports false past 256 bits.
func inDollars(a money.Amount, decimals uint8) (money.Amount, bool) {
	if decimals > fine {
		return money.Amount{}, false
	}
	scale, err := money.ParseAmount("1" + strings.Repeat("0", fine-int(decimals)))
	if err != nil {
		return money.Amount{}, false
	}
	return a.Mul(scale)
}

// dollars is a scaled sum for people and errors.
func dollars(a money.Amount) money.Money {
	m, err := money.ParseMoney(money.Format(a, fine, "$"))
	if err != nil { // cannot be but for sums that nobody has: then it is said without a number
		return money.Money{}
	}
	return m
}

// less is a − b, or 0.
func less(a, b money.Amount) money.Amount {
	if d, ok := a.Sub(b); ok {
		return d
	}
	return money.Amount{}
}

// The limits of a budget, as they are called.
const (
	perCall = "per call"
	forDay  = "for today"
	inTotal = "in total"
)

// overBudget says which limit a purchase would pass, and what is left of it.
type overBudget struct {
	limit     string
	available money.Amount
}

func (o *overBudget) Error() string { return fmt.Sprintf("over the budget %s", o.limit) }
