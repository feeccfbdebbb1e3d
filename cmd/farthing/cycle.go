package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/farthing402/farthing/api/client"
)

type cycleCmd struct {
	venueFlags
	ID    string `arg:"" optional:"" help:"One cycle, by its id; without it the newest are listed."`
	Limit int    `default:"10" help:"How many to list."`
}

func (c *cycleCmd) Run(r *run) error {
	v, err := r.venue(c.venueFlags, nil)
	if err != nil {
		return err
	}
	defer v.Close()
	var cycles []client.Cycle
	if c.ID != "" {
		one, err := v.House.Cycle(r.ctx, c.ID)
		if err != nil {
			return err
		}
		cycles = append(cycles, one)
	} else {
		current, err := v.House.Current(r.ctx, v.Token.Address)
		if err != nil {
			return err
		}
		if cycles, err = v.House.Cycles(r.ctx, v.Token.Address, c.Limit); err != nil {
			return err
		}
		if len(cycles) == 0 || cycles[0].ID != current.ID {
			cycles = append([]client.Cycle{current}, cycles...)
		}
	}
	if !r.Terminal || r.cli.JSON {
		for _, cycle := range cycles {
			if err := r.emit(cycle, ""); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(r.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "start\tstate\tguarantees\tpromised\tmoves\tparticipants\tnext")
	for _, cycle := range cycles {
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%d\t%s\n", time.Unix(int64(cycle.Start), 0).UTC().Format("2006-01-02 15:04:05"), cycle.State,
			cycle.Guarantees, v.format(cycle.Gross), v.format(cycle.Total), cycle.Participants, next(cycle, r.Now()))
	}
	return w.Flush()
}

// next says what a cycle waits for.
func next(c client.Cycle, now time.Time) string {
	until := func(what string, at uint64) string {
		if left := int64(at) - now.Unix(); left > 0 {
			return what + " in " + span(uint64(left))
		}
		return what + " now"
	}
	switch {
	case c.Trouble != "":
		return c.Trouble
	case c.State == "open":
		return until("closes", c.End)
	case c.State == "frozen":
		return until("is netted", c.Cutoff)
	case c.State == "netted":
		return until("is sealed at the latest", c.PostDeadline)
	case c.State == "committed":
		return until("final", c.FinalAt)
	}
	return ""
}
