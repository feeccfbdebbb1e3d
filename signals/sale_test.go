package signals

import (
	"math"
	"math/big"
	"strings"
	"testing"

	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"pgregory.net/rapid"
)

// shop is the sale of the README: $0.0005 a call that costs $0.00012, at 0.005 gwei and $3,000, with the gas of a plain
// token.
func shop(t *testing.T) Sale {
	gas := DefaultGas
	gas.Transfer.Gas = 65_000
	return Sale{
		Price: dollars(t, "$0.0005"), Cost: Total{Work: dollars(t, "$0.00012")}, Margin: percent(t, "50%"),
		Fees: Fees{GasPrice: money.Units(5_000_000), Coin: dollars(t, "$3000")}, Gas: gas,
		Bundle: 100, Batch: 50, Cycle: Cycle{Calls: 6_667, Buyers: 67},
	}
}

func TestTheShopOfTheReadme(t *testing.T) {
	t.Parallel()
	s := shop(t)
	for _, c := range []struct {
		way             Way
		sponsored       bool
		fee, net, least string
		keep            string
	}{
		{Exact, false, "$0.00098", "−$0.00060", "$0.0022", "−119 %"},
		{Bundle, false, "$0.0000098", "$0.00037", "$0.00026", "74 %"},
		{Batch, false, "$0.00081", "−$0.00043", "$0.0019", "−86 %"},
		{Upto, false, "$0.0015", "−$0.0012", "$0.0033", "−224 %"},
		{Guarantee, false, "$0.0000014", "$0.00037", "$0.00025", "75 %"},
		{Exact, true, "$0", "$0.00038", "$0.00024", "76 %"},
		{Upto, true, "$0", "$0.00038", "$0.00024", "76 %"},
		{Guarantee, true, "$0.000000049", "$0.00037", "$0.00025", "75 %"},
	} {
		l := s.Line(c.way, c.sponsored)
		if l.Fee.Up() != c.fee || l.Net.Down() != c.net || l.Minimum.Up() != c.least || l.Keep.Percent() != c.keep || !l.Viable {
			t.Errorf("%s, sponsored %v: fee %s, net %s, viable from %s, keep %s; want %+v", c.way, c.sponsored, l.Fee.Up(), l.Net.Down(), l.Minimum.Up(), l.Keep.Percent(), c)
		}
	}
	if n, ok := s.Bundled(); n != 100 || !ok {
		t.Errorf("proposes %d at once, %v", n, ok)
	}
}

// The two figures of T402's page: $0.001 of fees make $0.002 viable at half, and sponsored any price is.
func TestTheMinimumOfThePage(t *testing.T) {
	t.Parallel()
	s := Sale{Price: dollars(t, "$0.0001"), Margin: percent(t, "50%"), Gas: Gas{Transfer: Use{Gas: 1_000_000}},
		Fees: Fees{GasPrice: money.Units(1_000_000_000), Coin: dollars(t, "$1")}}
	if l := s.Line(Exact, false); l.Fee.String() != "$0.001" || l.Minimum.String() != "$0.002" || !l.Loses() {
		t.Errorf("unsponsored: fee %v, minimum %v", l.Fee, l.Minimum)
	}
	if l := s.Line(Exact, true); l.Fee.Sign() != 0 || l.Minimum.Sign() != 0 || l.Loses() || l.Keep.Percent() != "100 %" || l.Payer != "the facilitator" {
		t.Errorf("sponsored: %+v", l)
	}
}

func drawSale(t *rapid.T) Sale {
	return Sale{
		Price:  drawDollars(t, "price"),
		Cost:   Total{Work: drawDollars(t, "work"), Failed: RatioOf(rapid.Uint64Range(0, 99).Draw(t, "failed"), 100), Lost: RatioOf(rapid.Uint64Range(0, 100).Draw(t, "lost"), 100)},
		Margin: RatioOf(rapid.Uint64Range(0, 99).Draw(t, "margin"), 100),
		Fees: Fees{GasPrice: money.Units(rapid.Uint64Range(0, 1e12).Draw(t, "gas price")), Coin: drawDollars(t, "coin"), Data: DataFee{
			Small: 400, Large: 10_000, SmallWei: money.Units(rapid.Uint64Range(0, 1e12).Draw(t, "small")), LargeWei: money.Units(rapid.Uint64Range(0, 1e13).Draw(t, "large")),
		}},
		Gas: DefaultGas, Bundle: rapid.Uint64Range(0, 1e6).Draw(t, "bundle"), Batch: rapid.Uint64Range(0, 200).Draw(t, "batch"),
		Cycle: Cycle{rapid.Uint64Range(0, 1e7).Draw(t, "calls"), rapid.Uint64Range(0, 1e4).Draw(t, "buyers")},
	}
}

func TestNothingIsLostBetweenPriceAndNet(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawSale(t)
		for _, l := range s.Lines() {
			comes := s.Price
			if l.Way == Guarantee {
				comes = comes.Sub(s.Price.Times(s.Cost.Lost))
			}
			if l.Fee.Add(l.Cost).Add(l.Net).Cmp(comes) != 0 {
				t.Fatalf("%s: %v = %v + %v + %v", l.Way, comes, l.Fee, l.Cost, l.Net)
			}
			if l.Fee.Sign() < 0 || l.Loses() != (l.Net.Sign() < 0) || l.Payer == "" || l.Many == 0 {
				t.Fatalf("%+v", l)
			}
		}
	})
}

// At the minimum exactly the margin is left, below it less, and a loss never passes for viable.
func TestTheMinimumLeavesTheMargin(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawSale(t)
		for _, l := range s.Lines() {
			if !l.Viable {
				if l.Way != Guarantee || new(big.Rat).Add(orZero(s.Margin.r), orZero(s.Cost.Lost.r)).Cmp(one) < 0 {
					t.Fatalf("%s is viable at no price", l.Way)
				}
				continue
			}
			if l.Minimum.Sign() == 0 {
				continue // neither a fee nor a cost
			}
			at := s
			at.Price = l.Minimum
			if got := at.Line(l.Way, l.Sponsored); got.Keep.Cmp(s.Margin) != 0 {
				t.Fatalf("%s at %v keeps %s of %s", l.Way, at.Price, got.Keep.Decimal(), s.Margin.Decimal())
			}
			at.Price = l.Minimum.Times(RatioOf(999, 1000))
			if got := at.Line(l.Way, l.Sponsored); got.Keep.Cmp(s.Margin) >= 0 {
				t.Fatalf("%s below %v keeps %s", l.Way, l.Minimum, got.Keep.Decimal())
			}
			if s.Price.Cmp(l.Minimum) >= 0 && l.Loses() {
				t.Fatalf("%s at %v loses and is above its minimum %v", l.Way, s.Price, l.Minimum)
			}
		}
	})
}

func TestASponsorIsNeverDearer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawSale(t)
		for _, w := range Ways {
			if alone, sponsored := s.Line(w, false), s.Line(w, true); sponsored.Fee.Cmp(alone.Fee) > 0 || sponsored.Payer == alone.Payer {
				t.Fatalf("%s: %+v, sponsored %+v", w, alone, sponsored)
			}
		}
	})
}

// The batch is the smallest that leaves the margin: with it there is enough, with one fewer there is not.
func TestTheSmallestBatch(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		fixed, each, amount := drawDollars(t, "fixed"), drawDollars(t, "each"), drawDollars(t, "amount")
		margin := RatioOf(rapid.Uint64Range(0, 99).Draw(t, "margin"), 100)
		left := func(n uint64) Dollars { // of n payments, above the margin
			all := amount.Times(RatioOf(n, 1))
			return all.Sub(all.Times(margin)).Sub(fixed).Sub(each.Times(RatioOf(n, 1)))
		}
		n, ok := MinBatch(fixed, each, amount, margin)
		switch {
		case !ok && fixed.Sign() > 0 && left(1<<63).Sign() >= 0: // of nothing fixed and nothing left of each, the margin is nothing too
			t.Fatalf("no batch is enough, but 2^63 are")
		case ok && (n == 0 || left(n).Sign() < 0):
			t.Fatalf("%d are too few: %v", n, left(n))
		case ok && n > 1 && left(n-1).Sign() >= 0:
			t.Fatalf("%d are enough too", n-1)
		}
	})
	for _, c := range []struct {
		fixed, each, amount string
		want                uint64
		ok                  bool
	}{
		{"$0.001", "$0", "$0.0005", 4, true},
		{"$0.001", "$0.00025", "$0.0005", 0, false}, // nothing is left of each
		{"$0.001", "$0.0003", "$0.0005", 0, false},
		{"$0", "$0", "$0.0005", 1, true},
		{"$1", "$0", "$0", 0, false},
	} {
		if n, ok := MinBatch(dollars(t, c.fixed), dollars(t, c.each), dollars(t, c.amount), percent(t, "50%")); n != c.want || ok != c.ok {
			t.Errorf("%+v: %d, %v", c, n, ok)
		}
	}
}

func TestABundleThatIsProposedLeavesTheMargin(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawSale(t)
		n, ok := s.Bundled()
		if !ok {
			return
		}
		s.Bundle = n
		l := s.Line(Bundle, false)
		if l.Keep.Cmp(s.Margin) < 0 || l.Fee.Times(RatioOf(100, gasShareMax)).Cmp(s.Price) > 0 {
			t.Fatalf("%d calls at once keep %s and spend %v of %v on gas", n, l.Keep.Decimal(), l.Fee, s.Price)
		}
		if digits := strings.TrimRight(big.NewInt(int64(n)).String(), "0"); digits != "1" && digits != "2" && digits != "5" {
			t.Fatalf("proposes %d", n)
		}
	})
	s := shop(t)
	s.Cost.Work = s.Price
	if n, ok := s.Bundled(); ok {
		t.Errorf("work that costs the price is sold in bundles of %d", n)
	}
}

// What the seller's calls of a cycle pay together is the gas that the cycle took.
func TestACycleIsSharedExactly(t *testing.T) {
	t.Parallel()
	s := shop(t)
	l := s.Line(Guarantee, false)
	gas := uint64(67*7_400 + 2_100 + 96_400 + 21_600)
	if got, want := l.Fee.Times(RatioOf(6_667, 1)), s.Fees.Of(Use{Gas: gas}); got.Cmp(want) != 0 {
		t.Errorf("calls pay %v for a cycle of %v", got, want)
	}
	if l.Many != 99 {
		t.Errorf("a buyer makes %d calls", l.Many)
	}
}

// What is paid at once cannot be lost later; what is promised can.
func TestDefaultsCostOnlyWhatIsPromised(t *testing.T) {
	t.Parallel()
	s := shop(t)
	before := s.Line(Exact, true)
	s.Cost.Lost = percent(t, "10%")
	if after := s.Line(Exact, true); after.Net.Cmp(before.Net) != 0 {
		t.Errorf("exact: %v, was %v", after.Net, before.Net)
	}
	if l := s.Line(Guarantee, true); l.Net.Up() != "$0.00033" {
		t.Errorf("guarantee nets %s", l.Net.Up())
	}
	s.Cost.Lost = percent(t, "60%")
	if l := s.Line(Guarantee, true); l.Viable {
		t.Errorf("half of what comes is to be left and sixty percent never comes, yet %v is enough", l.Minimum)
	}
}

func TestARollupsDataFee(t *testing.T) {
	t.Parallel()
	d := DataFee{Small: 400, Large: 1400, SmallWei: money.Units(1000), LargeWei: money.Units(6000)}
	for bytes, want := range map[uint64]int64{0: 1000, 400: 1000, 600: 2000, 1400: 6000, 2400: 11000} {
		if got := d.wei(bytes); got.Cmp(big.NewRat(want, 1)) != 0 {
			t.Errorf("%d bytes pay %v wei, want %d", bytes, got, want)
		}
	}
	if got := d.share(700); got.Cmp(big.NewRat(3000, 1)) != 0 {
		t.Errorf("half of the large one pays %v", got)
	}
	falling := DataFee{Small: 400, Large: 1400, SmallWei: money.Units(6000), LargeWei: money.Units(1000)}
	if got := falling.wei(5000); got.Cmp(big.NewRat(6000, 1)) != 0 {
		t.Errorf("a fee that falls with size comes to %v", got)
	}
	none := Fees{GasPrice: money.Units(1), Coin: dollars(t, "$3000")}
	with := none
	with.Data = d
	if got := with.Of(Use{100, 600}).Sub(none.Of(Use{100, 600})); got.Cmp(none.Of(Use{2000, 0})) != 0 {
		t.Errorf("2000 wei of data cost %v", got)
	}
}

func TestATokenWithoutSignedTransfersCostsMore(t *testing.T) {
	t.Parallel()
	if got := GasOf(network.Token{EIP3009: true}); got != DefaultGas {
		t.Errorf("with them: %+v", got)
	}
	if got := GasOf(network.Token{}); got.Transfer != DefaultGas.Upto || got.Batched.Gas != DefaultGas.Batched.Gas+15_000 || got.Upto != DefaultGas.Upto || got.Debtor != DefaultGas.Debtor {
		t.Errorf("without: %+v", got)
	}
}

// Numbers that no chain can hold come out as too dear, never as cheap.
func TestGasDoesNotWrap(t *testing.T) {
	t.Parallel()
	s := shop(t)
	s.Batch, s.Cycle = math.MaxUint64, Cycle{Calls: 1, Buyers: math.MaxUint64}
	for _, way := range []Way{Batch, Guarantee} {
		if l := s.Line(way, false); way == Guarantee && l.Fee.Cmp(dollars(t, "$1000000")) < 0 || l.Fee.Sign() <= 0 {
			t.Errorf("%s: %v", way, l.Fee)
		}
	}
	if got := (Use{1, 1}).plus(Use{1, math.MaxUint64}, math.MaxUint64); got != (Use{math.MaxUint64, math.MaxUint64}) {
		t.Errorf("%+v", got)
	}
}

func TestOtherRails(t *testing.T) {
	t.Parallel()
	s := shop(t)
	s.Cost = Total{}
	s.Price = dollars(t, "$10")
	for _, r := range Rails {
		l := s.RailLine(r)
		if l.Fee.Add(l.Net).Cmp(s.Price) != 0 || !l.Viable || l.Minimum.Cmp(r.Fixed) <= 0 {
			t.Errorf("%s: %+v", r.Name, l)
		}
		at := s
		at.Price = l.Minimum
		if got := at.RailLine(r); got.Keep.Cmp(s.Margin) != 0 {
			t.Errorf("%s at its minimum %v keeps %s", r.Name, l.Minimum, got.Keep.Decimal())
		}
		if r.AsOf < "2025" || len(r.AsOf) != 7 || !strings.Contains(r.Source, ".") || r.Payer == "" {
			t.Errorf("%s has no date or source: %+v", r.Name, r)
		}
	}
	if l := s.RailLine(Rails[1]); l.Fee.String() != "$0.59" { // 2.9 % of $10 and 30 cents
		t.Errorf("Stripe takes %v of $10", l.Fee)
	}
	if l := s.RailLine(Rails[3]); l.Fee.String() != "$0.589" {
		t.Errorf("PayPal takes %v of $10 at its rate for small payments", l.Fee)
	}
}

func TestDatedFiguresBelongToNetworksThatExist(t *testing.T) {
	t.Parallel()
	for _, d := range dated {
		c, err := network.Lookup(d.network)
		if err != nil || c.Name != d.network {
			t.Errorf("%s: %v", d.network, err)
			continue
		}
		f, ok := Dated(c)
		if !ok || f.Fees.GasPrice.IsZero() || f.Fees.Coin.Sign() <= 0 || len(f.AsOf) != 7 || f.Source == "" {
			t.Errorf("%s: %+v", d.network, f)
		}
	}
	for _, name := range []string{"base", "arbitrum", "optimism"} {
		c, _ := network.Lookup(name)
		if _, ok := Dated(c); !ok {
			t.Errorf("no figure for %s", name)
		}
	}
	if p, ok := DatedCoin("ETH"); !ok || p.Dollars.Cmp(dollars(t, "$3000")) != 0 || p.AsOf == "" {
		t.Errorf("an ether was worth %+v", p)
	}
	for _, none := range []string{"", "IOTX"} {
		if p, ok := DatedCoin(none); ok {
			t.Errorf("%q was worth %v", none, p.Dollars)
		}
	}
	if f, ok := Dated(network.Chain{Name: "elsewhere"}); ok {
		t.Errorf("a network that nobody looked at costs %+v", f)
	}
}

// Bounds belong to the band that they open.
func TestBandsDoNotOverlap(t *testing.T) {
	t.Parallel()
	for amount, want := range map[string]int{
		"$0": 0, "$0.00009999": 0, "$0.0001": 1, "$0.0009999": 1, "$0.001": 2, "$0.0099": 2, "$0.01": 3, "$0.0999": 3, "$0.10": 4, "$1000": 4,
	} {
		if got := BandOf(dollars(t, amount)); got.What != bands[want].What {
			t.Errorf("%s is in %+v", amount, got)
		}
	}
	if got := BandOf(dollars(t, "$0.0005")).Networks; len(got) != 1 || got[0] != "base" {
		t.Errorf("half a thousandth goes to %v", got)
	}
}

// A fee that is known beats the rule of thumb, also where it turns the order round.
func TestNetworksAreChosenByWhatTheyCost(t *testing.T) {
	t.Parallel()
	at := func(name string, wei uint64) Option {
		c, err := network.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		s := shop(t)
		s.Fees.GasPrice = money.Units(wei)
		return Option{Network: c, Line: s.Line(Exact, false)}
	}
	never := at("polygon", 1)
	never.Line.Viable = false
	sorted, n := Choose(dollars(t, "$0.0022"), []Option{at("base", 80_000_000), never, at("ethereum", 500_000_000), at("arbitrum", 5_000_000), at("optimism", 1_000_000)})
	var names []string
	for _, o := range sorted {
		names = append(names, o.Network.Name)
	}
	if got := strings.Join(names, " "); got != "optimism arbitrum base ethereum polygon" || n != 2 {
		t.Errorf("sorted %s, of which %d are worth it", got, n)
	}
	if _, n := Choose(dollars(t, "$0.0001"), sorted); n != 0 {
		t.Errorf("%d are worth it at a hundredth of a cent", n)
	}
}
