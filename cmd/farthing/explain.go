package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/farthing402/farthing/x402"
)

type explainCmd struct {
	Code string `arg:"" optional:"" help:"Error code; without one, all codes are listed."`
}

func (c *explainCmd) Run(r *run) error {
	if c.Code == "" {
		if !r.Terminal || r.cli.JSON {
			return r.emit(x402.All(), "")
		}
		w := tabwriter.NewWriter(r.Out, 0, 0, 2, ' ', 0)
		for _, reason := range x402.All() {
			fmt.Fprintf(w, "%s\t%s\n", reason.Code, reason.What)
		}
		return w.Flush()
	}
	reason, ok := x402.Lookup(c.Code)
	if !ok {
		return misuse("no error code %q", c.Code).hint("did you mean %s? farthing explain lists all", x402.Nearest(c.Code))
	}
	return r.emit(reason, "%s\n  cause   %s\n  money   %s\n  remedy  %s\n  HTTP %d, exit %d, ask again: %s\n",
		reason.Code, reason.What, reason.Money, reason.Remedy, reason.Status, reason.Exit, reason.Retry)
}
