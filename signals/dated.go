package signals

import (
	"math/big"
	"slices"

	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
)

// DatedFee is what gas cost on a network at a time in the past. It stands in where no node is asked, and says so.
type DatedFee struct {
	Network string // of package network
	Fees    Fees   // without what a rollup asks for data: see DataUnknown
	AsOf    string // year and month
	Source  string
	// DataUnknown says that the network is a rollup, whose fee for a transaction's bytes is not in the figure.
	DataUnknown bool
}

// dated are gas prices of ordinary days, in wei, and round prices of coins. Nobody should rely on them for long: gas moves
// by a factor of ten within days, and coins by a factor of two within months.
var dated = []struct {
	network string
	wei     uint64
	coin    uint64 // dollars for a hundred coins
	asOf    string
	source  string
	rollup  bool
}{
	// Its least base fee has been 0.002 gwei since 2 February 2026; what is paid lies above it.
	{"base", 5_000_000, 3000_00, "2026-02", "docs.base.org, network fees; ordinary days lie at two to three times the least", true},
	{"arbitrum", 20_000_000, 3000_00, "2026-01", "forum.arbitrum.foundation, ArbOS 51: least base fee 0.02 gwei since 8 January", true},
	{"optimism", 1_000_000, 3000_00, "2026-01", "ordinary days lie at 0.001 gwei, most of it tip", true},
	{"ethereum", 500_000_000, 3000_00, "2026-01", "coinpaprika.com: 0.43 to 0.50 gwei a day on average", false},
	{"polygon", 30_000_000_000, 20, "2026-01", "least tip 25 gwei, by its nodes' default", false},
	{"avalanche", 1_000_000_000, 20_00, "2026-01", "ordinary days lie at or below 1 gwei", false},
	// Money on test networks is not real, and their gas is given away. They are priced as what they stand in for.
	{"base-sepolia", 5_000_000, 3000_00, "2026-02", "as base", true},
	{"arbitrum-sepolia", 20_000_000, 3000_00, "2026-01", "as arbitrum", true},
	{"optimism-sepolia", 1_000_000, 3000_00, "2026-01", "as optimism", true},
	{"sepolia", 500_000_000, 3000_00, "2026-01", "as ethereum", false},
	{"polygon-amoy", 30_000_000_000, 20, "2026-01", "as polygon", false},
	{"avalanche-fuji", 1_000_000_000, 20_00, "2026-01", "as avalanche", false},
	{"dev", 10_000_000, 3000_00, "2026-01", "a rollup on an ordinary day", false},
}

// Dated is the figure for a network, and false where there is none: then a fee is not known.
func Dated(on network.Chain) (DatedFee, bool) {
	for _, d := range dated {
		if d.network == on.Name {
			return DatedFee{
				Network: d.network, AsOf: d.asOf, Source: d.source, DataUnknown: d.rollup,
				Fees: Fees{GasPrice: money.Units(d.wei), Coin: Dollars{one}.Times(RatioOf(d.coin, 100))},
			}, true
		}
	}
	return DatedFee{}, false
}

// DatedPrice is what a coin was worth.
type DatedPrice struct {
	Dollars Dollars
	AsOf    string // year and month
}

// DatedCoin is the figure for a coin by its symbol, and false where there is none.
func DatedCoin(symbol string) (DatedPrice, bool) {
	for _, d := range dated {
		if c, err := network.Lookup(d.network); err == nil && symbol != "" && c.Native == symbol {
			return DatedPrice{Dollars{one}.Times(RatioOf(d.coin, 100)), d.asOf}, true
		}
	}
	return DatedPrice{}, false
}

// Rail is another way to be paid, and what it takes.
type Rail struct {
	Name   string
	Share  Ratio   // of the payment
	Fixed  Dollars // for each payment
	Payer  string  // who bears it
	AsOf   string  // year and month
	Source string
	Note   string
}

// Rails are what others charge a seller in the United States for one payment, as their public price lists said.
var Rails = []Rail{
	{"card", RatioOf(5, 10_000), cents(22), "you", "2025-12", "federalreserve.gov, Regulation II",
		"the cap on what the bank of a regulated debit card takes; processors add to it"},
	{"Stripe", RatioOf(29, 1000), cents(30), "you", "2026-06", "stripe.com, pricing", "cards of the United States, online"},
	{"PayPal", RatioOf(349, 10_000), cents(49), "you", "2026-06", "paypal.com, merchant fees", "PayPal checkout"},
	{"PayPal micropayments", RatioOf(499, 10_000), cents(9), "you", "2026-06", "paypal.com, merchant fees", "has to be applied for"},
	{"Lightning", RatioOf(3, 10_000), Dollars{one}.Times(RatioOf(3, 1000)), "the buyer", "2026-05",
		"mempool.space, median of 98 parts per million; 1ml.com, median of 1 satoshi",
		"three hops of 1 satoshi and 100 parts per million, at $100,000 a bitcoin; both sides keep channels open"},
	{"invoice", Ratio{}, cents(583), "the buyer's books", "2025-12", "apqc.org, median cost of one supplier invoice",
		"for one invoice, whatever stands on it"},
}

func cents(n uint64) Dollars { return Dollars{one}.Times(RatioOf(n, 100)) }

// RailLine is what a sale comes to on another rail, with a payment for each call.
func (s Sale) RailLine(r Rail) Line {
	fee := r.Fixed.Add(s.Price.Times(r.Share))
	l := Line{Way: Way(r.Name), Many: 1, Payer: r.Payer, Fee: fee, Cost: s.Cost.PerCall()}
	l.Net = s.Price.Sub(l.Fee).Sub(l.Cost)
	l.Keep, _ = l.Net.Over(s.Price)
	// price × (1 − share − margin) = fixed + cost
	if left := new(big.Rat).Sub(new(big.Rat).Sub(one, orZero(r.Share.r)), orZero(s.Margin.r)); left.Sign() > 0 {
		l.Minimum, l.Viable = Dollars{new(big.Rat).Quo(r.Fixed.Add(l.Cost).r, left)}, true
	}
	return l
}

// Option is one network on which a call could be sold, with what it takes there.
type Option struct {
	Network network.Chain
	Line    Line
	Source  string // live, or the month of a dated figure
}

// Choose sorts networks by the price from which they are worth it, least first, and says how many of them are worth it at
// an amount. A figure is always better than [Band]: use that only where there is none.
func Choose(amount Dollars, options []Option) (sorted []Option, worthIt int) {
	sorted = slices.Clone(options)
	slices.SortStableFunc(sorted, func(a, b Option) int {
		switch {
		case a.Line.Viable != b.Line.Viable:
			if a.Line.Viable {
				return -1
			}
			return 1
		}
		return a.Line.Minimum.Cmp(b.Line.Minimum)
	})
	for _, o := range sorted {
		if o.Line.Viable && amount.Cmp(o.Line.Minimum) >= 0 {
			worthIt++
		}
	}
	return sorted, worthIt
}

// Band is a rule of thumb: which networks carry payments of a size one by one.
type Band struct {
	From, Below Dollars // From is in the band and Below is not; Below is 0 where it has no end
	Networks    []string
	What        string
}

// bands are what T402's page on small payments recommends, with bounds that do not overlap. Where it says any EVM network
// for a cent, those are left out on which a transfer alone costs more.
var bands = []Band{
	{Dollars{}, tenThousandths(1), nil, "no network one by one: bundle, or net"},
	{tenThousandths(1), tenThousandths(10), []string{"base"}, "where somebody else pays the gas"},
	{tenThousandths(10), tenThousandths(100), []string{"base", "arbitrum"}, "at about $0.001 of gas"},
	{tenThousandths(100), tenThousandths(1000), []string{"base", "arbitrum", "optimism"}, "any rollup, at up to $0.01 of gas"},
	{tenThousandths(1000), Dollars{}, []string{"base", "arbitrum", "optimism", "polygon", "avalanche", "ethereum"}, "any network"},
}

func tenThousandths(n uint64) Dollars { return Dollars{one}.Times(RatioOf(n, 10_000)) }

// BandOf is the rule of thumb for an amount, for when no fee is known.
func BandOf(amount Dollars) Band {
	for _, b := range bands {
		if b.Below.Sign() == 0 || amount.Cmp(b.Below) < 0 {
			return b
		}
	}
	return bands[len(bands)-1]
}
