package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/signals"
)

type priceCmd struct {
	Price  string `arg:"" optional:"" help:"What a call is sold for: '$0.0005', '$0.00001 per token'. Without it, every route of --config."`
	Margin string `default:"50%" help:"What is to be left of the price; 'viable from' answers it." placeholder:"PERCENT"`
	Units  string `help:"What a typical call uses, for prices and costs by units: '0.8 seconds, 1500 tokens, 20 kB out'." placeholder:"LIST"`
	Calls  string `default:"30000/month" help:"Calls you sell: N/hour, N/day, N/week, N/month." placeholder:"N/TIME"`
	Config string `help:"gate.yaml: its network, costs and routes." placeholder:"FILE" type:"path"`

	Cost            string `group:"Your costs" help:"All costs of a call together, or those besides the ones below: '$0.00004 per call', '$0.00002 per second', '$0.00008 per MB out'." placeholder:"COST"`
	Model           string `group:"Your costs" help:"Language or other model." placeholder:"COST"`
	Data            string `group:"Your costs" help:"Data that you buy." placeholder:"COST"`
	Compute         string `group:"Your costs" help:"Machines." placeholder:"COST"`
	Bandwidth       string `group:"Your costs" help:"Traffic." placeholder:"COST"`
	Observability   string `group:"Your costs" help:"Logs, metrics, traces." placeholder:"COST"`
	Support         string `group:"Your costs" help:"People who answer buyers." placeholder:"COST"`
	FailedRequests  string `group:"Your costs" help:"Share of calls that is worked on and not paid: 2%." placeholder:"PERCENT"`
	DownstreamSpend string `group:"Your costs" help:"What you pay other sellers for a call." placeholder:"COST"`
	DefaultLoss     string `group:"Your costs" help:"Share of what is guaranteed that is never collected: 0.5%." placeholder:"PERCENT"`

	RPCURL      string `name:"rpc-url" group:"Fees" help:"JSON-RPC of the network: fees as they are now, and their range in the last days." placeholder:"URL"`
	GasPrice    string `group:"Fees" help:"Price of gas in gwei, instead of what is known." placeholder:"GWEI"`
	NativePrice string `group:"Fees" help:"What the coin that pays gas is worth: '$3000'." placeholder:"DOLLARS"`
	TransferGas uint64 `group:"Fees" help:"Gas of one signed transfer, instead of the planning figure." placeholder:"GAS"`

	Bundle   uint64        `group:"Ways to sell" help:"Calls that are bought at once; default a number that keeps gas below 2 % of the price." placeholder:"N"`
	Batch    uint64        `group:"Ways to sell" default:"50" help:"Payments that are settled in one transaction." placeholder:"N"`
	Cycle    time.Duration `group:"Ways to sell" default:"24h" help:"Length of a clearing house's cycle." placeholder:"TIME"`
	PerBuyer uint64        `group:"Ways to sell" default:"100" help:"Calls that one buyer makes in a cycle." placeholder:"N"`
}

// Help is what farthing price --help says below its first line.
func (c *priceCmd) Help() string {
	return `What is left of a price, for each way to sell: net = price − fees − your cost.
"Viable from" is the price that leaves the margin: (fee + cost) ÷ (1 − margin).

Each way is shown with the gas paid by you. Where somebody else pays it (a
facilitator that sponsors, a clearing house that does not pass it on) the last
rows say what is left, and who pays.

Fees come from a node with --rpc-url, from --gas-price and --native-price, or from
figures with a date. A loss is a result, not an error; a fee that nobody knows is one.

  farthing price '$0.0005' --cost '$0.00012' --calls 200000/month --network base
  farthing price '$0.00001 per token' --units '800 tokens, 2 seconds' \
      --model '$0.004 per 1000 tokens' --compute '$0.00002 per second'
  farthing price --config gate.yaml --rpc-url http://localhost:8545`
}

// priced is one thing that is sold: what was asked about, or a route of a file.
type priced struct {
	Route string // empty for the price of the command line
	Text  string
	Sale  signals.Sale
	Fixed bool // the bundle's size was chosen by the seller
}

func (c *priceCmd) Run(r *run) error {
	var file gateFile
	if c.Config != "" {
		var err error
		if file, err = (&sellerFlags{Config: c.Config}).load(r); err != nil {
			return err
		}
	}
	if c.Price == "" && c.Config == "" {
		return misuse("what does a call cost?").hint("farthing price '$0.0005', or --config gate.yaml")
	}
	if err := c.bounds(); err != nil {
		return err
	}
	t, err := c.tariff(r, file)
	if err != nil {
		return err
	}
	frame, items, err := c.frame(r, t, file)
	if err != nil {
		return err
	}
	sales, err := c.sales(frame, t.On, file, items.usage)
	if err != nil {
		return err
	}
	if t.GasSource != "now" && t.GasSource != "given" {
		r.say("note     gas is priced %s; --rpc-url URL asks a node for today's, --gas-price GWEI says it", t.GasSource)
	}
	for i, s := range sales {
		if i > 0 && r.Terminal && !r.cli.JSON {
			fmt.Fprintln(r.Out)
		}
		report := c.report(r, t, s)
		if r.Terminal && !r.cli.JSON {
			err = report.table(r.Out)
		} else {
			err = report.lines(r.Out)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tariff finds the network and what it charges.
func (c *priceCmd) tariff(r *run, file gateFile) (tariff, error) {
	var node *chain.Client
	if c.RPCURL != "" {
		var err error
		if node, err = r.dial(c.RPCURL); err != nil {
			return tariff{}, err
		}
		defer node.Close()
	}
	name := r.cli.Network
	if r.cli.Dev {
		name = "dev"
	}
	all, err := r.networks()
	if err != nil {
		return tariff{}, err
	}
	var on network.Chain
	if node != nil && name == "" {
		on, err = r.chainOf(node)
	} else {
		on, err = all.Lookup(cmp.Or(name, file.Network, "base"))
	}
	if err == nil && node != nil && node.ChainID() != on.ID {
		err = fail("chain_mismatch", "the node serves eip155:%d, not %s", node.ChainID(), on)
	}
	if err != nil {
		return tariff{}, err
	}
	gas, coin := file.gasOn(all, on)
	return r.tariff(on, node, cmp.Or(c.GasPrice, gas), cmp.Or(c.NativePrice, coin))
}

// costItems are a seller's costs and what a typical call uses.
type costItems struct {
	costs []signals.Cost
	usage signals.Usage
}

// frame is a sale without its price.
func (c *priceCmd) frame(r *run, t tariff, file gateFile) (signals.Sale, costItems, error) {
	items := costItems{costs: file.Costs.Items, usage: file.Costs.Units}
	s := signals.Sale{Fees: t.Fees, Batch: max(c.Batch, 1)}
	var err error
	if s.Margin, err = signals.ParsePercent(c.Margin); err != nil || s.Margin.Cmp(signals.RatioOf(1, 1)) == 0 {
		return s, items, misuse("--margin %s: want a percentage below 100 %%", c.Margin).hint("--margin 50%%")
	}
	if s.Cycle, err = c.cycle(); err != nil {
		return s, items, err
	}
	if c.Units != "" {
		if items.usage, err = signals.ParseUsage(c.Units); err != nil {
			return s, items, misuse("--units: %v", err)
		}
	}
	for _, given := range []struct{ name, text string }{
		{"", c.Cost}, {"model", c.Model}, {"data", c.Data}, {"compute", c.Compute}, {"bandwidth", c.Bandwidth}, {"observability", c.Observability},
		{"support", c.Support}, {signals.FailedRequests, c.FailedRequests}, {"downstream spend", c.DownstreamSpend}, {signals.DefaultLoss, c.DefaultLoss},
	} {
		if given.text == "" {
			continue
		}
		cost, err := signals.ParseCost(given.name, given.text)
		var bad *money.PriceError
		if err != nil && !errors.As(err, &bad) {
			err = misuse("%v", err)
		}
		if err != nil {
			return s, items, err
		}
		items.costs = slices.DeleteFunc(slices.Clone(items.costs), func(old signals.Cost) bool { return old.Name == given.name })
		items.costs = append(items.costs, cost) // a flag stands above the file
	}
	if s.Cost, err = signals.Sum(items.costs, items.usage); err != nil {
		return s, items, unitsMissing(err)
	}
	return s, items, nil
}

func unitsMissing(err error) error {
	var missing *signals.UsageError
	if !errors.As(err, &missing) {
		return err
	}
	return misuse("%s", strings.ReplaceAll(err.Error(), "\n", "\n       ")).hint("say it: --units '%s %s'", typicalNumber(missing.Measure), missing.Measure)
}

func typicalNumber(m signals.Measure) string {
	switch m.Kind {
	case money.Second:
		return "0.8"
	case money.Token:
		return "1500"
	case money.Byte:
		return "20000"
	}
	return "10"
}

// periods are the times that calls are counted over; a month has 30 days.
var periods = map[string]time.Duration{"hour": time.Hour, "day": 24 * time.Hour, "week": 7 * 24 * time.Hour, "month": 30 * 24 * time.Hour}

const (
	// callsMax bounds calls in a time: it is more than a clearing house admits in a year.
	callsMax = 1 << 40
	// transactionGasMax is the gas that one transaction may use (EIP-7825).
	transactionGasMax = 1 << 24
	// batchMax is how many payments a transaction of that gas settles.
	batchMax = 300
	// bundleMax bounds what is bought at once.
	bundleMax = 1_000_000
)

// bounds refuses numbers that no chain or shop has.
func (c *priceCmd) bounds() error {
	for _, b := range []struct {
		flag     string
		got, max uint64
	}{{"--batch", c.Batch, batchMax}, {"--bundle", c.Bundle, bundleMax}, {"--transfer-gas", c.TransferGas, transactionGasMax}} {
		if b.got > b.max {
			return misuse("%s %d: at most %s", b.flag, b.got, thousands(b.max))
		}
	}
	return nil
}

// cycle is the seller's part in one cycle of a clearing house.
func (c *priceCmd) cycle() (signals.Cycle, error) {
	many, over, _ := strings.Cut(c.Calls, "/")
	period, ok := periods[strings.TrimSpace(cmp.Or(over, "month"))]
	n, err := strconv.ParseUint(strings.TrimSpace(many), 10, 64)
	if err != nil || !ok || n == 0 || n > callsMax {
		return signals.Cycle{}, misuse("--calls %s: want a number and a time", c.Calls).hint("--calls 200000/month; hour, day, week and month are known")
	}
	if c.Cycle < time.Second || c.Cycle > periods["month"] || c.PerBuyer == 0 || c.PerBuyer > callsMax {
		return signals.Cycle{}, misuse("--cycle and --per-buyer: want a time of up to 720h, and a number from 1")
	}
	calls := max(n*uint64(c.Cycle/time.Second)/uint64(period/time.Second), 1) // 2^40 calls × 2^22 seconds
	return signals.Cycle{Calls: calls, Buyers: max((calls+c.PerBuyer-1)/c.PerBuyer, 1)}, nil
}

// sales puts prices into the frame: the one that was asked about, or every route's.
func (c *priceCmd) sales(frame signals.Sale, on network.Chain, file gateFile, u signals.Usage) ([]priced, error) {
	if c.Price != "" {
		s, err := c.sale(frame, on, "", c.Price, c.Bundle, u)
		return []priced{s}, err
	}
	var all []priced
	for _, route := range file.Routes {
		if route.Free {
			continue
		}
		s, err := c.sale(frame, on, route.Pattern.Text, route.Price.Text, cmp.Or(c.Bundle, route.bundleOf(u)), u)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", route.Pattern.Text, err)
		}
		all = append(all, s)
	}
	if len(all) == 0 {
		return nil, misuse("no route of %s has a price", c.Config)
	}
	return all, nil
}

func (c *priceCmd) sale(s signals.Sale, on network.Chain, route, text string, bundle uint64, u signals.Usage) (priced, error) {
	p, err := money.ParsePrice(text)
	if err != nil {
		return priced{}, err
	}
	token, err := paidIn(p, on)
	if err != nil {
		return priced{}, err
	}
	if token.Symbol != "" {
		if _, err := p.For(token.Asset()); err != nil {
			return priced{}, err
		}
	}
	if s.Gas = signals.GasOf(token); c.TransferGas > 0 {
		s.Gas.Transfer.Gas = c.TransferGas
	}
	if s.Price, err = signals.Typical(p, u); err != nil {
		return priced{}, unitsMissing(err)
	}
	s.Bundle = bundle
	if bundle == 0 {
		s.Bundle = 100
		if n, ok := s.Bundled(); ok && n > 1 {
			s.Bundle = n
		}
	}
	return priced{Route: route, Text: p.String(), Sale: s, Fixed: bundle > 0}, nil
}

// paidIn is the token that a price is paid in: the one that it names, or the network's first dollar. One that does not
// stand for a dollar is refused, because what it is worth is not known here.
func paidIn(p money.Price, on network.Chain) (network.Token, error) {
	if p.Free() || p.Symbol == "$" {
		if dollars := on.Dollars(); len(dollars) > 0 {
			return dollars[0], nil
		}
		return network.Token{EIP3009: true}, nil // what it would be like there
	}
	token, err := on.Token(p.Symbol)
	if err != nil {
		return network.Token{}, err
	}
	if !token.Dollar {
		return network.Token{}, misuse("%s stands for no dollar, so what fees leave of it is not known", token.Symbol).hint("give the price in $")
	}
	return token, nil
}

// priceReport is what a price comes to.
type priceReport struct {
	priced
	Tariff   tariff
	Calls    string
	Cycle    time.Duration
	PerBuyer uint64
	Lines    []signals.Line
	Rails    []signals.Line
	Networks []signals.Option
	WorthIt  int
	Use      advice
}

func (c *priceCmd) report(r *run, t tariff, p priced) priceReport {
	rep := priceReport{priced: p, Tariff: t, Calls: c.Calls, Cycle: c.Cycle, PerBuyer: c.PerBuyer, Lines: p.Sale.Lines(), Use: advise(p, t)}
	for _, rail := range signals.Rails {
		rep.Rails = append(rep.Rails, p.Sale.RailLine(rail))
	}
	options := []signals.Option{{Network: t.On, Line: p.Sale.Line(signals.Exact, false), Source: t.GasSource}}
	all, err := r.networks()
	if err != nil {
		all = network.Known()
	}
	for _, other := range all.Chains() {
		past, ok := signals.Dated(other)
		if !ok || other.ID == t.On.ID || other.Test {
			continue
		}
		s := p.Sale
		s.Fees = past.Fees
		options = append(options, signals.Option{Network: other, Line: s.Line(signals.Exact, false), Source: "as of " + past.AsOf})
	}
	rep.Networks, rep.WorthIt = signals.Choose(p.Sale.Price, options)
	return rep
}

// advice is which way to sell, to whom.
type advice struct {
	Strangers string `json:"strangers"` // way for buyers who have nothing but a wallet; empty for none
	Bundle    uint64 `json:"bundle"`    // calls at once, if that way is a bundle
	Members   string `json:"members"`   // way for buyers with collateral in a clearing house; empty for none
	Text      string `json:"text"`
}

// advise picks the simplest way that leaves the margin.
func advise(p priced, t tariff) (a advice) {
	s := p.Sale
	viable := func(w signals.Way) bool {
		l := s.Line(w, false)
		return l.Viable && s.Price.Cmp(l.Minimum) >= 0
	}
	var parts []string
	switch {
	case viable(signals.Exact):
		a.Strangers = string(signals.Exact)
		parts = append(parts, "exact for strangers, each call")
	case viable(signals.Bundle):
		a.Strangers, a.Bundle = string(signals.Bundle), s.Bundle
		parts = append(parts, fmt.Sprintf("bundle of %d (%s) for strangers", s.Bundle, s.Price.Times(signals.RatioOf(s.Bundle, 1))))
	}
	if viable(signals.Guarantee) {
		a.Members = string(signals.Guarantee)
		parts = append(parts, "guarantee for buyers with collateral")
	}
	if len(parts) == 0 {
		least := s.Line(signals.Guarantee, false)
		a.Text = "nothing leaves " + s.Margin.Percent() + " at this price"
		if least.Viable {
			a.Text += "; ask " + least.Minimum.Up() + " or more"
			if least.Cost.Sign() > 0 {
				a.Text += ", or lower your cost of " + least.Cost.Up()
			}
		}
		return a
	}
	a.Text = strings.Join(parts, ", ") + "."
	if a.Strangers == "" {
		return a
	}
	high, when := tenfold(s.Fees.GasPrice), ", ten times as much,"
	if t.Range != nil {
		high, when = money.Units(t.Range.HighWei), ""
	}
	name := "exact"
	if a.Bundle > 0 {
		name = "the bundle"
	}
	s.Fees.GasPrice = high
	l := s.Line(signals.Way(a.Strangers), false)
	keeps := "still keeps " + l.Keep.Percent()
	if l.Loses() {
		keeps = "loses"
	}
	a.Text += fmt.Sprintf(" At %s gwei%s %s %s.", gwei(high), when, name, keeps)
	return a
}

func tenfold(wei money.Amount) money.Amount {
	if ten, ok := wei.Mul(money.Units(10)); ok {
		return ten
	}
	return wei
}

// title names a line's way for people.
func title(l signals.Line, cycle time.Duration) string {
	switch l.Way {
	case signals.Exact:
		return "exact, each call"
	case signals.Bundle:
		return fmt.Sprintf("exact, bundle of %d", l.Many)
	case signals.Batch:
		return fmt.Sprintf("exact, %d settled at once", l.Many)
	case signals.Upto:
		return "upto, each call"
	}
	switch cycle {
	case 24 * time.Hour:
		return "guarantee, daily cycle"
	case time.Hour:
		return "guarantee, hourly cycle"
	}
	return "guarantee, cycle of " + short(cycle)
}

func (p priceReport) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	what := p.Text
	if strings.Contains(p.Text, " per ") {
		what += ", " + p.Sale.Price.String() + " for a typical call"
	}
	if p.Route != "" {
		what = p.Route + "  " + what
	}
	fmt.Fprintf(out, "%s\n%s\nformula  net = price − fees − your cost of %s      viable from = (fee + cost) ÷ (1 − margin)\n", what, p.Tariff, p.Sale.Cost.PerCall().Up())
	fmt.Fprintf(w, "  way to sell\tfee a call\tnet a call\tyou keep\tviable from (%s margin)\tgas paid by\n", p.Sale.Margin.Percent())
	row := func(name string, l signals.Line) {
		keep, from := l.Keep.Percent(), "never"
		if l.Loses() {
			keep = "loses"
		}
		if l.Viable {
			from = l.Minimum.Up()
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\n", name, l.Fee.Up(), l.Net.Down(), keep, from, l.Payer)
	}
	for _, l := range p.Lines {
		switch {
		case !l.Sponsored:
			row(title(l, p.Cycle), l)
		case l.Way == signals.Exact: // the same in a bundle, in a batch and with upto: somebody else pays
			row("exact or upto, sponsored", l)
		case l.Way == signals.Guarantee:
			row("guarantee, sponsored", l)
		}
	}
	for i, l := range p.Rails {
		rail := signals.Rails[i]
		terms := rail.Fixed.String()
		if rail.Share.Sign() > 0 {
			terms = rail.Share.String() + " + " + terms
		}
		l.Payer = "as of " + rail.AsOf + ", " + host(rail.Source)
		row(rail.Name+" ("+terms+")", l)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "where    exact each call leaves %s from %s\n", p.Sale.Margin.Percent(), p.where())
	if n, ok := p.Sale.MinBatch(); ok {
		fmt.Fprintf(out, "batch    settling %d or more at once leaves %s\n", n, p.Sale.Margin.Percent())
	} else {
		fmt.Fprintf(out, "batch    no number of payments settled at once leaves %s\n", p.Sale.Margin.Percent())
	}
	fmt.Fprintf(out, "assumes  %s\nuse      %s\n", p.assumes(), p.Use.Text)
	return nil
}

func host(source string) string {
	domain, _, _ := strings.Cut(source, ",")
	domain, _, _ = strings.Cut(domain, ":")
	return domain
}

func (p priceReport) where() string {
	var parts []string
	for _, o := range p.Networks {
		from := "at no price"
		if o.Line.Viable {
			from = o.Line.Minimum.Up()
		}
		parts = append(parts, from+" on "+o.Network.Name)
	}
	text := strings.Join(parts, ", ")
	if p.WorthIt == 0 {
		band := signals.BandOf(p.Sale.Price)
		text += "; a payment of this size: " + strings.TrimSpace(strings.Join(band.Networks, ", ")+" "+band.What)
	}
	return text
}

func (p priceReport) assumes() string {
	many, over, _ := strings.Cut(p.Calls, "/")
	s := p.Sale
	return fmt.Sprintf("%s gas a transfer and %s upto; %s calls a %s, so %s from %s buyers in a cycle of %s", thousands(s.Gas.Transfer.Gas), thousands(s.Gas.Upto.Gas),
		marked(strings.TrimSpace(many)), cmp.Or(over, "month"), thousands(s.Cycle.Calls), thousands(s.Cycle.Buyers), short(p.Cycle))
}

// short is a time without the zeros behind it: 24h.
func short(d time.Duration) string {
	text := d.String()
	if cut, ok := strings.CutSuffix(text, "m0s"); ok {
		text = cut + "m"
	}
	if cut, ok := strings.CutSuffix(text, "h0m"); ok {
		text = cut + "h"
	}
	return text
}

// lines writes the report for programs: one JSON object a line, each with its kind.
func (p priceReport) lines(out io.Writer) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	s, t := p.Sale, p.Tariff
	type object = map[string]any
	var lately any
	if t.Range != nil {
		lately = object{"low_wei": strconv.FormatUint(t.Range.LowWei, 10), "high_wei": strconv.FormatUint(t.Range.HighWei, 10),
			"from": time.Unix(int64(t.Range.From), 0).UTC(), "until": time.Unix(int64(t.Range.Until), 0).UTC(), "samples": t.Range.Samples}
	}
	all := []object{{
		"kind": "assumptions", "route": p.Route, "price": p.Text, "price_usd": s.Price.Decimal(true), "cost_usd": s.Cost.PerCall().Decimal(true),
		"margin": s.Margin.Decimal(), "calls": p.Calls, "network": t.On.Name, "chain": t.On.CAIP2(), "gas_price_wei": s.Fees.GasPrice, "gas_price_source": t.GasSource,
		"gas_price_lately": lately, "native": t.On.Native, "native_usd": s.Fees.Coin.Decimal(true), "native_source": t.CoinSource, "data_fee_source": t.DataSource,
		"transfer_gas": s.Gas.Transfer.Gas, "upto_gas": s.Gas.Upto.Gas, "debtor_gas": s.Gas.Debtor.Gas, "creditor_gas": s.Gas.Creditor.Gas,
		"cycle": p.Cycle.String(), "calls_a_cycle": s.Cycle.Calls, "buyers_a_cycle": s.Cycle.Buyers,
	}}
	line := func(kind, name string, l signals.Line) object {
		var from any
		if l.Viable {
			from = l.Minimum.Decimal(true)
		}
		return object{"kind": kind, "route": p.Route, "way": name, "many": l.Many, "sponsored": l.Sponsored, "gas_paid_by": l.Payer, "fee_usd": l.Fee.Decimal(true),
			"cost_usd": l.Cost.Decimal(true), "net_usd": l.Net.Decimal(false), "keep": l.Keep.Decimal(), "loses": l.Loses(), "viable_from_usd": from}
	}
	for _, l := range p.Lines {
		all = append(all, line("way", string(l.Way), l))
	}
	for i, l := range p.Rails {
		o, rail := line("rail", string(l.Way), l), signals.Rails[i]
		delete(o, "sponsored")
		delete(o, "gas_paid_by")
		o["paid_by"], o["as_of"], o["source"], o["note"] = rail.Payer, rail.AsOf, rail.Source, rail.Note
		o["share"], o["fixed_usd"] = rail.Share.Decimal(), rail.Fixed.Decimal(true)
		all = append(all, o)
	}
	for i, n := range p.Networks {
		o := line("network", "exact", n.Line)
		o["network"], o["source"], o["worth_it"] = n.Network.Name, n.Source, i < p.WorthIt
		all = append(all, o)
	}
	batch := object{"kind": "batch", "route": p.Route, "least": nil}
	if n, ok := s.MinBatch(); ok {
		batch["least"] = n
	}
	all = append(all, batch, object{"kind": "use", "route": p.Route, "strangers": p.Use.Strangers, "bundle": p.Use.Bundle, "members": p.Use.Members, "text": p.Use.Text})
	for _, o := range all {
		if err := enc.Encode(o); err != nil {
			return err
		}
	}
	return nil
}
