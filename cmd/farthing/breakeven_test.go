package main

import (
	"strings"
	"testing"

	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/signals"
)

func mustPrice(t *testing.T, text string) money.Price {
	t.Helper()
	p, err := money.ParsePrice(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustSum(t *testing.T, text string) money.Money {
	t.Helper()
	m, err := money.ParseMoney(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A transfer costs $0.00098 at this price of gas.
func onBase(t *testing.T) map[string]tariff {
	t.Helper()
	coin, err := signals.ParseDollars("$3000")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]tariff{"base": {On: mustChain("base"), Fees: signals.Fees{GasPrice: money.Units(3_840_000), Coin: coin}}}
}

func TestOffersThatLose(t *testing.T) {
	t.Parallel()
	cost := func(text string) []signals.Cost {
		c, err := signals.ParseCost("", text)
		if err != nil {
			t.Fatal(err)
		}
		return []signals.Cost{c}
	}
	const dearer = "$0.00098"
	for name, c := range map[string]struct {
		offer  offer
		costs  costing
		error  string // none: it does not lose
		remedy string
	}{
		"exact below its fee":                    {offer{Price: mustPrice(t, "$0.0005"), Way: signals.Exact}, costing{}, "GET /quote: exact costs $0.00098 a call, price $0.0005", "bundle: 100 calls"},
		"exact at its fee":                       {offer{Price: mustPrice(t, dearer), Way: signals.Exact}, costing{}, "", ""},
		"exact whose fee is paid by somebody":    {offer{Price: mustPrice(t, "$0.0005"), Way: signals.Exact}, costing{Sponsored: true}, "", ""},
		"a bundle that is large enough":          {offer{Price: mustPrice(t, "$0.0005"), Way: signals.Exact, Bundle: 100}, costing{}, "", ""},
		"a bundle that is too small":             {offer{Price: mustPrice(t, "$0.0001"), Way: signals.Exact, Bundle: 5}, costing{}, "GET /quote: exact in bundles of 5 costs $0.00020 a call, price $0.0001", "bundle: 500 calls"},
		"fee and cost together":                  {offer{Price: mustPrice(t, "$0.001"), Way: signals.Exact}, costing{Items: cost("$0.0005")}, "GET /quote: exact costs $0.00098 a call beside your own $0.00050, price $0.001", "bundle: 50 calls"},
		"work that costs more than its price":    {offer{Price: mustPrice(t, "$0.0005"), Way: signals.Guarantee}, costing{Items: cost("$0.0006")}, "GET /quote: a call costs you $0.00060, price $0.0005", "price: $0.00061 or more"},
		"the same, and somebody else pays gas":   {offer{Price: mustPrice(t, "$0.0005"), Way: signals.Exact}, costing{Items: cost("$0.0006"), Sponsored: true}, "GET /quote: a call costs you $0.00060, price $0.0005", "price: $0.00060 or more"},
		"upto below its fee":                     {offer{Price: mustPrice(t, "$0.0005"), Way: signals.Upto}, costing{}, "GET /quote: upto costs $0.0012 a call, price $0.0005", "bundle: 200 calls"},
		"upto with a minimum that covers it":     {offer{Price: mustPrice(t, "$0.00001 per token"), Minimum: mustSum(t, "$0.002"), Way: signals.Upto}, costing{}, "", ""},
		"upto for a typical call that covers it": {offer{Price: mustPrice(t, "$0.00001 per token"), Way: signals.Upto}, costing{Units: signals.Usage{{Kind: money.Token}: signals.RatioOf(800, 1)}}, "", ""},
		"upto for one token":                     {offer{Price: mustPrice(t, "$0.00001 per token"), Way: signals.Upto}, costing{}, "GET /quote: upto costs $0.0012 a call, price $0.00001", "minimum: $0.0012"},
		"a guarantee of a hundredth of a cent":   {offer{Price: mustPrice(t, "$0.0001"), Way: signals.Guarantee}, costing{}, "", ""},
		"a facilitator pays for no guarantee":    {offer{Price: mustPrice(t, "$0.000001"), Way: signals.Guarantee}, costing{Sponsored: true}, "GET /quote: guarantee costs $0.0000023 a call, price $0.000001", "price: $0.0000023 or more"},
		"a guarantee of one unit":                {offer{Price: mustPrice(t, "$0.000001"), Way: signals.Guarantee}, costing{}, "GET /quote: guarantee costs $0.0000023 a call, price $0.000001", "price: $0.0000023 or more"},
		"upto in a bundle that is large enough":  {offer{Price: mustPrice(t, "$0.0005"), Way: signals.Upto, Bundle: 100}, costing{}, "", ""},
		"upto in a bundle of two":                {offer{Price: mustPrice(t, "$0.0005"), Way: signals.Upto, Bundle: 2}, costing{}, "GET /quote: upto in bundles of 2 costs $0.00058 a call, price $0.0005", "bundle: 200 calls"},
		"a unit that no bundle counts":           {offer{Price: mustPrice(t, "$0.0001 per MB in"), Way: signals.Exact}, costing{}, "GET /quote: exact costs $0.00098 a call, price $0.0001", "price: $0.00098 or more"},
		"free":                                   {offer{Price: mustPrice(t, "free"), Way: signals.Exact}, costing{}, "", ""},
		"a price that no bundle makes worth it":  {offer{Price: mustPrice(t, "$0.0000000001"), Way: signals.Exact}, costing{}, "GET /quote: exact costs $0.00098 a call, price $0.0000000001", "price: $0.00098 or more"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.offer.Route, c.offer.On, c.offer.Token = "GET /quote", mustChain("base"), mustChain("base").Tokens[0]
			found, err := losses([]offer{c.offer}, c.costs, onBase(t))
			if err != nil {
				t.Fatal(err)
			}
			if c.error == "" {
				if len(found) != 0 {
					t.Errorf("it loses: %v", found[0])
				}
				return
			}
			if len(found) != 1 || found[0].Error() != c.error || found[0].remedy() != c.remedy {
				t.Errorf("%v; want %s; %s", found, c.error, c.remedy)
			}
		})
	}
}

// What the remedy proposes does not lose.
func TestRemediesHelp(t *testing.T) {
	t.Parallel()
	for _, price := range []string{"$0.0005", "$0.0001", "$0.00001", "$0.0009", "$0.00001 per token", "$0.0001 per 100 records", "$0.0001 per image"} {
		o := offer{Route: "GET /a", Price: mustPrice(t, price), Way: signals.Exact, On: mustChain("base"), Token: mustChain("base").Tokens[0]}
		found, err := losses([]offer{o}, costing{}, onBase(t))
		if err != nil || len(found) != 1 || found[0].Bundle == "" {
			t.Fatalf("%s: %v, %v", price, found, err)
		}
		o.Bundle = bundled(found[0].Bundle, o.Price, nil)
		if found, _ = losses([]offer{o}, costing{}, onBase(t)); len(found) != 0 {
			t.Errorf("%s in bundles of %d still loses: %v", price, o.Bundle, found[0])
		}
	}
}

func TestWhatCannotBeJudgedIsNotJudged(t *testing.T) {
	t.Parallel()
	o := offer{Route: "GET /a", Price: mustPrice(t, "$0.000001"), Way: signals.Exact, On: mustChain("celo")}
	if found, err := losses([]offer{o}, costing{}, onBase(t)); err != nil || len(found) != 0 {
		t.Errorf("without a fee: %v, %v", found, err)
	}
	c, err := signals.ParseCost("compute", "$1 per second")
	if err != nil {
		t.Fatal(err)
	}
	o = offer{Route: "GET /a", Price: mustPrice(t, "$0.01"), Way: signals.Exact, On: mustChain("base"), Token: mustChain("base").Tokens[0]}
	found, err := losses([]offer{o}, costing{Items: []signals.Cost{c}}, onBase(t))
	if err == nil || !strings.Contains(err.Error(), "compute: how many seconds") || len(found) != 0 {
		t.Errorf("a cost by the second of calls whose length nobody said: %v, %v", found, err)
	}
}

func TestGweiAsPeopleReadIt(t *testing.T) {
	t.Parallel()
	for wei, want := range map[uint64]string{
		5_000_000: "0.005", 30_000_000_000: "30", 1_500_000_000: "1.50", 0: "0", 7: "0.000000007", 4_839_271: "0.00484", 999_999: "0.001", 1_234_567_890_123: "1240",
	} {
		if got := gwei(money.Units(wei)); got != want {
			t.Errorf("%d wei are shown as %s gwei, want %s", wei, got, want)
		}
	}
	for text, want := range map[string]uint64{"0.005": 5_000_000, "0.005 gwei": 5_000_000, "30gwei": 30_000_000_000, "0": 0, "0.000000001": 1} {
		if got, err := parseGwei(text); err != nil || got != money.Units(want) {
			t.Errorf("%q is %s wei, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "gwei", "-1", "1e3", "0.0000000001", "1 ether", "99999999999999999999999", "0x1"} {
		if got, err := parseGwei(bad); err == nil {
			t.Errorf("%q passes for %s wei", bad, got)
		}
	}
}

// What a rollup is asked about has the length of what is sent: a call of nine words, and one more of fourteen a payment.
func TestSampleTransactions(t *testing.T) {
	t.Parallel()
	if one, many := len(sampleTransaction(1)), len(sampleTransaction(20)); one != 57+9*32 || many != 57+20*14*32 {
		t.Errorf("%d and %d bytes", one, many)
	}
}
