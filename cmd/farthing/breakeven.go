package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/signals"
)

// costing is what gate.yaml says under costs: what the seller's calls cost, and who pays the gas.
type costing struct {
	Items     []signals.Cost
	Units     signals.Usage // what a typical call uses
	Gas       string        // gwei; empty takes the dated figure
	Coin      string        // dollars for one native coin; empty takes the dated figure
	Sponsored bool          // the facilitator pays the gas and asks nothing for it
}

// costs reads that part of the file. Its keys are the names of costs with _ for the space, cost for all of
// them together, units, gas and coin.
func (p *gateParser) costs(n *yaml.Node) (c costing) {
	known := map[string]func(*yaml.Node){
		"units": func(n *yaml.Node) {
			l := p.text(n)
			var err error
			if c.Units, err = signals.ParseUsage(l.Text); err != nil {
				p.fault(l, "units: %v", err)
			}
		},
		"gas": func(n *yaml.Node) {
			l := p.text(n)
			if c.Sponsored = l.Text == "sponsored"; c.Sponsored {
				return
			}
			c.Gas = l.Text
			if _, err := parseGwei(l.Text); err != nil {
				p.fault(l, "%v", err).hint("0.005 gwei, or sponsored if the facilitator pays it and asks nothing for it")
			}
		},
	}
	known["coin"] = func(n *yaml.Node) {
		l := p.text(n)
		c.Coin = l.Text
		if _, err := signals.ParseDollars(l.Text); err != nil {
			p.fault(l, "coin: %v", err).hint("what one coin that pays gas is worth: $3000")
		}
	}
	add := func(name string) func(*yaml.Node) {
		return func(n *yaml.Node) {
			l := p.text(n)
			cost, err := signals.ParseCost(name, l.Text)
			var bad *money.PriceError
			if errors.As(err, &bad) {
				l.Column += bad.Column - 1
			}
			if err != nil {
				p.fault(l, "%v", err)
				return
			}
			c.Items = append(c.Items, cost)
		}
	}
	known["cost"] = add("")
	for _, name := range signals.CostNames {
		known[strings.ReplaceAll(name, " ", "_")] = add(name)
	}
	p.fields(n, known)
	return c
}

// gasOn is the price of gas, and of the coin that pays it, that the file names, if it is for that network: the file's own.
func (g gateFile) gasOn(all network.Registry, on network.Chain) (gas, coin string) {
	if home, err := all.Lookup(g.Network); g.Network != "" && (err != nil || home.ID != on.ID) {
		return "", ""
	}
	return g.Costs.Gas, g.Costs.Coin
}

// offer is one way to pay for a route, as package paywall would make it.
type offer struct {
	Route   string
	Price   money.Price
	Minimum money.Money // least charge of a route whose price is per unit; the zero value is none
	Way     signals.Way
	Entry   string // the way as the price list says it: exact on arbitrum
	Bundle  uint64 // calls that one payment buys; 0 and 1 are one
	On      network.Chain
	Token   network.Token
}

// loss is an offer that takes more than it brings in.
type loss struct {
	Offer offer
	Line  signals.Line
	Price signals.Dollars
	// Bundle is what to sell at once so that it does not lose: 100 calls. Empty where no number helps.
	Bundle string
}

// Error says what is lost, as in: GET /quote: exact costs $0.00098 a call, price $0.0005.
func (l loss) Error() string {
	way := cmp.Or(l.Offer.Entry, string(l.Offer.Way))
	if l.Offer.Bundle > 1 {
		way += fmt.Sprintf(" in bundles of %d", l.Offer.Bundle)
	}
	switch {
	case l.Line.Cost.Cmp(l.Price) > 0:
		return fmt.Sprintf("%s: a call costs you %s, price %s", l.Offer.Route, l.Line.Cost.Up(), l.Price)
	case l.Line.Fee.Cmp(l.Price) > 0:
		return fmt.Sprintf("%s: %s costs %s a call, price %s", l.Offer.Route, way, l.Line.Fee.Up(), l.Price)
	}
	return fmt.Sprintf("%s: %s costs %s a call beside your own %s, price %s", l.Offer.Route, way, l.Line.Fee.Up(), l.Line.Cost.Up(), l.Price)
}

// remedy is what to write into the route instead.
func (l loss) remedy() string {
	switch {
	case l.Offer.Way == signals.Upto && l.Offer.Price.Unit.Kind != money.Call && l.Line.Cost.Cmp(l.Price) < 0:
		return "minimum: " + l.Line.Minimum.Up()
	case l.Bundle == "":
		return "price: " + l.Line.Minimum.Up() + " or more"
	}
	return "bundle: " + l.Bundle
}

// guardCycle is the traffic that a guarantee's share in a cycle is reckoned with, where nobody sells anything yet.
var guardCycle = signals.Cycle{Calls: 1000, Buyers: 10}

// losses finds the offers that lose at some tariffs, by the name of the network. An offer on a network without a tariff is
// not judged. A cost by a unit of which nobody said how much a call uses counts as nothing; the error says which.
func losses(offers []offer, c costing, tariffs map[string]tariff) ([]loss, error) {
	cost, missing := signals.Sum(c.Items, c.Units)
	var found []loss
	for _, o := range offers {
		t, ok := tariffs[o.On.Name]
		if !ok || o.Price.Free() {
			continue
		}
		s := signals.Sale{Price: smallest(o, c.Units), Cost: cost, Fees: t.Fees, Gas: signals.GasOf(o.Token), Bundle: max(o.Bundle, 1), Batch: 1, Cycle: guardCycle}
		way := o.Way
		if way == signals.Upto {
			s.Gas.Transfer = s.Gas.Upto // what buys a bundle
		}
		if way != signals.Guarantee && o.Bundle > 1 {
			way = signals.Bundle
		}
		line := s.Line(way, c.Sponsored && way != signals.Guarantee)
		if !line.Loses() {
			continue
		}
		l := loss{Offer: o, Line: line, Price: s.Price}
		if n, ok := s.Bundled(); ok && way != signals.Guarantee && n > max(o.Bundle, 1) {
			l.Bundle = bundleText(n, o.Price, c.Units)
		}
		found = append(found, l)
	}
	return found, missing
}

// bundleText is a bundle of so many calls as a route says it: in units, where the price is by the unit.
func bundleText(calls uint64, p money.Price, u signals.Usage) string {
	if p.Unit.Kind == money.Call {
		return fmt.Sprintf("%d calls", calls)
	}
	units, ok := signals.UnitsFor(calls, p, u)
	if !ok || units > math.MaxUint32 || p.Unit.Size != 1 || p.Unit.Kind == money.Byte {
		return "" // no bundle counts so
	}
	many := money.Price{Money: p.Money, Per: units, Unit: p.Unit}
	_, text, _ := strings.Cut(many.String(), " per ")
	return text
}

// smallest is what a typical call is charged, or where nobody said what it uses, the least that any is.
func smallest(o offer, u signals.Usage) signals.Dollars {
	price, err := signals.Typical(o.Price, u)
	if err != nil {
		price = signals.DollarsOf(o.Price.Money) // one block
	}
	if least := signals.DollarsOf(o.Minimum); price.Cmp(least) < 0 {
		return least
	}
	return price
}

// guard refuses a price list in which a way to pay loses where money is real, unless losses were allowed; elsewhere it
// warns. What gas costs is what the file says, what its node says if it has one there, or a figure with a date.
func (c *gateCmd) guard(r *run, file gateFile) error {
	all, err := r.networks()
	if err != nil {
		return err
	}
	offers, err := c.offers(r, all, file)
	if err != nil {
		return err
	}
	tariffs, unknown := map[string]tariff{}, map[string]bool{}
	for _, o := range offers {
		if _, known := tariffs[o.On.Name]; known || unknown[o.On.Name] {
			continue
		}
		t, err := r.tariffOf(all, o.On, file)
		if err == nil {
			tariffs[o.On.Name] = t
			continue
		}
		unknown[o.On.Name] = true
		if !o.On.Test {
			r.say("note     %v, so nobody looked whether prices cover it; costs: {gas: …, coin: …} tells", err)
		}
	}
	found, missing := losses(offers, file.Costs, tariffs)
	if missing != nil {
		for line := range strings.SplitSeq(missing.Error(), "\n") {
			r.say("note     costs: %s, so it counts as nothing; costs: {units: …} tells", line)
		}
	}
	refused := slices.DeleteFunc(slices.Clone(found), func(l loss) bool { return l.Offer.On.Test })
	if len(refused) == 0 || c.AllowLoss {
		for _, l := range found {
			r.say("warning  %v; %s", l, l.remedy())
		}
		return nil
	}
	lines := make([]string, len(refused))
	for i, l := range refused {
		lines[i] = l.Error()
	}
	return fail("below_break_even", "%s", strings.Join(lines, "\n       ")).hint("%s, or --allow-loss", refused[0].remedy())
}

// tariffOf is what a network charges as far as a gate's file tells. A node that does not answer is no reason not to start.
func (r *run) tariffOf(all network.Registry, on network.Chain, file gateFile) (tariff, error) {
	gas, coin := file.gasOn(all, on)
	if file.RPCURL != "" && gas == "" {
		if node, err := chain.Dial(r.ctx, file.RPCURL); err == nil {
			defer node.Close()
			if node.ChainID() == on.ID {
				if t, err := r.tariff(on, node, gas, coin); err == nil {
					return t, nil
				}
			}
		}
	}
	return r.tariff(on, nil, gas, coin)
}

// offers are the ways to pay that a price list offers, each route's with each of its ways.
func (c *gateCmd) offers(r *run, all network.Registry, file gateFile) ([]offer, error) {
	name := file.Network
	if r.cli.Dev {
		name = "dev"
	}
	home, err := all.Lookup(name)
	if err != nil {
		return nil, err
	}
	var offers []offer
	for _, route := range file.Routes {
		price, err := money.ParsePrice(route.Price.Text)
		if err != nil || route.Free || price.Free() {
			continue // the gate refuses what is no price, and says where it is
		}
		minimum, err := money.ParseMoney(route.Minimum.Text)
		if err != nil {
			minimum = money.Money{}
		}
		for _, text := range file.waysOf(route, r.cli.Dev) {
			e, err := paywall.ParseEntry(text)
			if err != nil || signals.Way(e.Way) == signals.Exact && unfit(price, route) {
				continue
			}
			on := home
			if e.Network != "" && !r.cli.Dev { // with --dev nothing is sold elsewhere
				if on, err = all.Lookup(e.Network); err != nil {
					continue
				}
			}
			token, err := paidIn(price, on)
			if e.Asset != "" {
				token, err = on.Token(e.Asset)
			}
			if err != nil {
				continue
			}
			offers = append(offers, offer{
				Route: route.Pattern.Text, Price: price, Minimum: minimum, Way: signals.Way(e.Way), Entry: text,
				Bundle: bundled(route.Bundle.Text, price, file.Costs.Units), On: on, Token: token,
			})
		}
	}
	return offers, nil
}

// bundleOf is how many calls a route sells at once; 0 where it sells them one by one.
func (route gateRoute) bundleOf(u signals.Usage) uint64 {
	price, err := money.ParsePrice(route.Price.Text)
	if err != nil || route.Bundle.Text == "" {
		return 0
	}
	return bundled(route.Bundle.Text, price, u)
}

// unfit reports whether a route cannot be paid by exact: it moves the whole amount, and how much that is shows only later.
// The gate says so, or sells the route another way.
func unfit(p money.Price, route gateRoute) bool {
	known := p.Unit.Kind == money.Call || p.Unit.Kind == money.Byte && p.Unit.Direction == money.In
	return route.Bundle.Text == "" && (!known || len(route.Stages) > 0)
}

// bundled is how many calls a bundle of so many calls or units is good for, at least 1.
func bundled(text string, price money.Price, u signals.Usage) uint64 {
	size, err := money.ParsePrice("$1 per " + text)
	if text == "" || err != nil {
		return 1 // the gate refuses what is no bundle, and says where it is
	}
	units := size.Per * size.Unit.Size
	if size.Unit.Kind == money.Call {
		return max(units, 1)
	}
	return max(signals.CallsIn(units, price, u), 1)
}

// waysOf are the ways to pay that a route takes.
func (g gateFile) waysOf(route gateRoute, dev bool) []string {
	switch {
	case len(route.Accept) > 0:
		return plain(route.Accept)
	case len(g.Accept) > 0:
		return plain(g.Accept)
	case dev, g.ClearingHouse != "" && g.Facilitator != "":
		return []string{string(signals.Guarantee), string(signals.Exact)}
	case g.Facilitator != "":
		return []string{string(signals.Exact)}
	}
	return []string{string(signals.Guarantee)}
}
