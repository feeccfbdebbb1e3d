package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

type demoCmd struct {
	Once     bool   `help:"Run one complete cycle, print what it came to, and end. Exit 0 only if all of it held."`
	Payments int    `default:"1000" help:"Paid requests in the first cycle." placeholder:"N"`
	Buyers   int    `default:"8" help:"Buyers; the last one will not pay." placeholder:"N"`
	Sellers  int    `default:"3" help:"Sellers, each with an API of its own: weather, text, records, and so on round." placeholder:"N"`
	Listen   string `default:"127.0.0.1:4020" help:"Where the first seller sells; another port is taken if this one is not free." placeholder:"HOST:PORT"`
}

// demoReport is the object that --once --json prints. Amounts are smallest units of the test dollar, millionths.
type demoReport struct {
	Payments            int               `json:"payments"`
	Guarantees          uint64            `json:"guarantees"` // also those that one seller gave another, and voided ones
	Cycles              int               `json:"cycles"`
	Refused             map[string]int    `json:"refused"`
	Gross               string            `json:"gross"`
	Net                 string            `json:"net"`
	Participants        uint64            `json:"participants"`
	OnchainTransactions int               `json:"onchain_transactions"`
	GasUsed             uint64            `json:"gas_used"`
	CostPerPayment      string            `json:"cost_per_payment_usd"`
	Assumptions         assumptions       `json:"assumptions"`
	Defaulted           string            `json:"defaulted"`
	DefaultCovered      bool              `json:"default_covered"`
	SellersPaidInFull   bool              `json:"sellers_paid_in_full"`
	ConservationOK      bool              `json:"conservation_ok"`
	GuaranteesPerSecond float64           `json:"guarantees_per_second"`
	P50                 float64           `json:"p50_ms"`
	P99                 float64           `json:"p99_ms"`
	Seconds             float64           `json:"seconds"`
	Problems            []string          `json:"problems,omitempty"`
	Sellers             map[string]string `json:"sellers"` // what each was paid on chain
}

func (c *demoCmd) Run(r *run) error {
	if c.Buyers < 3 || c.Sellers < 3 || c.Payments < c.Buyers*4 {
		return misuse("the demonstration needs at least 3 buyers, 3 sellers and 4 payments a buyer")
	}
	dir, err := os.MkdirTemp("", "farthing-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	began := time.Now()
	w, err := c.build(r, dir)
	if err != nil {
		return err
	}
	defer w.close()
	r.say("chain %d ready · contracts deployed · %d sellers, %d buyers, 1 of them will not pay %20.1f s",
		w.house.Deployment.ChainID, len(w.sellers), len(w.buyers), time.Since(began).Seconds())
	var screen *screen
	if r.Terminal && !r.cli.JSON && !c.Once {
		screen = w.show(r)
	}
	report, err := w.firstCycle(r.ctx, c.Payments)
	if screen != nil {
		screen.stop()
	}
	if err != nil {
		return err
	}
	report.Seconds = time.Since(began).Seconds()
	if r.cli.JSON || c.Once && !r.Terminal {
		if err := json.NewEncoder(r.Out).Encode(report); err != nil {
			return err
		}
	} else {
		w.tell(r, report)
	}
	if len(report.Problems) > 0 {
		return fail("internal", "the demonstration did not hold: %s", report.Problems[0])
	}
	if c.Once {
		return nil
	}
	return w.goOn(r)
}

// goOn keeps selling at a gentle pace, cycle after cycle, until Ctrl-C. Other processes with --dev find this chain and
// clearing house meanwhile.
func (w *world) goOn(r *run) error {
	if err := r.withDevLock(func(path string, s *devState) error {
		s.Chain, s.House = w.chain.URL(), w.house.URL
		return s.save(path)
	}); err != nil {
		return err
	}
	r.say("Cycle 2 is running. Buy something yourself:  farthing get --dev %s/weather/oslo       Ctrl-C stops", w.sellers[0].url)
	var view *screen
	if r.Terminal {
		view = w.show(r)
		defer view.stop()
	}
	err := w.stroll(r.ctx)
	if r.ctx.Err() != nil {
		return nil
	}
	return err
}

// tell prints the report as a person reads it.
func (w *world) tell(r *run, d demoReport) {
	dollars := func(units string) string { return w.dollars(units) }
	refused := 0
	for _, n := range d.Refused {
		refused += n
	}
	p := func(format string, args ...any) { fmt.Fprintf(r.Out, format+"\n", args...) }
	p("  sold     %d requests, %s        weather $0.0001 · text $0.00001/token · records $0.01/100", d.Payments, dollars(d.Gross))
	p("  refused  %5d  over collateral %d · replayed %d · over budget %d         nothing was served for these",
		refused, d.Refused["collateral_insufficient"], d.Refused["payment_used"], d.Refused["budget_exceeded"])
	p("  backed   %s of %s collateral    cycle 1: open ▸ netting ▸ committed ▸ paying ▸ done", dollars(d.Gross), w.collateral())
	p("  net      %s moves instead of %s (the text seller buys records) in %d transactions", dollars(d.Net), dollars(d.Gross), d.OnchainTransactions)
	p("  cost     $%s a request at 0.01 gwei and $3,000/ETH; card $%s, one transfer each $%s", d.CostPerPayment, d.Assumptions.CardDollars, d.Assumptions.TransferDollars)
	p("  default  buyer %d owed %s and did not pay: covered from its collateral in the same cycle", len(w.buyers), dollars(d.Defaulted))
	line := "  made good"
	for _, s := range w.sellers {
		line += fmt.Sprintf(" %s got %s,", s.name, dollars(d.Sellers[s.name]))
	}
	held := "no"
	if d.ConservationOK {
		held = "yes"
	}
	p("%s  vault = collateral + owed  %s", line, held)
	p("  speed    %.0f guarantees a second, p50 %.1f ms, p99 %.1f ms, buyer's side", d.GuaranteesPerSecond, d.P50, d.P99)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
