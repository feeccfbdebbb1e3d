package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

type benchCmd struct {
	Names      []string `arg:"" optional:"" name:"name" help:"Rows to measure; without one, all."`
	Rounds     int      `default:"5" help:"How often each side is measured; the median counts."`
	Dir        string   `help:"Folder for the databases, on the disk that is to be measured; default the temporary folder." placeholder:"FOLDER"`
	Strict     bool     `help:"Fail if a goal is missed."`
	Postgres   string   `help:"PostgreSQL to measure with, whose user may make schemas; default $$FARTHING_POSTGRES, else one that is started for it." env:"FARTHING_POSTGRES" placeholder:"URL"`
	Full       bool     `help:"Store ten million guarantees, which takes ten minutes and 10 GB."`
	CPUProfile string   `name:"cpu-profile" help:"Write a profile of the run, for go tool pprof." placeholder:"FILE"`
}

// benchRow is one line of the result. Baseline is the other side of the comparison, measured in the same run, and Ratio
// is Value over Baseline. Goal is the least Ratio that is wanted (the least Value where there is no Baseline); with Most, the
// greatest.
type benchRow struct {
	Name     string   `json:"name"`
	Value    float64  `json:"value"`
	Unit     string   `json:"unit"`
	Baseline *float64 `json:"baseline"`
	Ratio    *float64 `json:"ratio"`
	Goal     *float64 `json:"goal"`
	Most     bool     `json:"most"`
	Met      *bool    `json:"met"`
}

// contest is a set of comparisons whose sides take turns, so that whatever disturbs the machine disturbs them all.
type contest struct {
	title     string
	server    bool // needs PostgreSQL
	roundsMax int  // 0: as many as are asked for
	cold      bool // without a round to warm up
	rows      []comparison
}

// comparison says how a row is made of two sides.
type comparison struct {
	name, unit      string
	value, baseline string  // sides; baseline may be empty
	goal            float64 // least ratio, or least value where there is no baseline; 0: none
	most            bool    // goal is the greatest
	// share compares costs instead of rates: value is what one of the things takes one core, and baseline what all cores
	// together have for one.
	share bool
	// less makes value what one thing takes longer than one of the side with this name, and plus is added to what one of
	// the baseline takes: times are compared, in µs.
	less string
	plus time.Duration
	// counted is for sides that count things instead of timing them; they return so many times once for each.
	counted bool
}

// once is how sides that count say one.
const once = time.Second

// paidOverhead is what a paid request may cost besides the recovery of its signature: reading, writing down, answering.
const paidOverhead = 100 * time.Microsecond

// The goals are reasoned in docs/performance.md.
var contests = []contest{
	{title: "guarantees", server: true, rows: []comparison{
		{name: "recover", unit: "recoveries/s", value: "recover"},
		{name: "http-64", unit: "guarantees/s", value: "http-64", baseline: "recover", goal: 0.6},
		{name: "http-1", unit: "guarantees/s", value: "http-1", baseline: "recover", goal: 0.35},
		{name: "admit-64", unit: "guarantees/s", value: "admit-64", baseline: "naive", goal: 15},
		{name: "admit-64-hot", unit: "guarantees/s", value: "admit-64-hot", baseline: "naive-hot", goal: 40},
		{name: "single", unit: "guarantees/s", value: "admit-single", baseline: "bls", goal: 0.85},
		{name: "signature", unit: "µs/guarantee", value: "signature", baseline: "http-64", share: true},
		{name: "database", unit: "µs/guarantee", value: "database", baseline: "http-64", share: true},
		{name: "bls-batch-64", unit: "µs/guarantee", value: "bls-batch-64", baseline: "http-64", share: true},
		{name: "json", unit: "µs/guarantee", value: "json", baseline: "http-64", share: true},
		{name: "http", unit: "µs/guarantee", value: "http", baseline: "http-64", share: true},
	}},
	{title: "guarantees in a file", rows: []comparison{
		{name: "file-admit-64", unit: "guarantees/s", value: "admit-file", baseline: "recover"},
		{name: "file-http-64", unit: "guarantees/s", value: "http-file", baseline: "recover"},
	}},
	{title: "waiting for a certificate", server: true, roundsMax: 3, rows: []comparison{
		{name: "p99-17", unit: "ms", value: "offered-17", goal: 4, most: true, counted: true},
		{name: "p99-42", unit: "ms", value: "offered-42", goal: 10, most: true, counted: true},
		{name: "p99-60", unit: "ms", value: "offered-60", goal: 20, most: true, counted: true},
	}},
	{title: "a full book", server: true, roundsMax: 1, cold: true, rows: []comparison{
		{name: "close", unit: "s", value: "closing", goal: 2, most: true, counted: true},
		{name: "close-work", unit: "s", value: "work-closing", counted: true},
		{name: "close-latency", unit: "ms", value: "latency-closing", baseline: "latency-before", goal: 2, most: true, counted: true},
		{name: "close-latency-p99", unit: "ms", value: "latency-p99-closing", baseline: "latency-p99-before", goal: 2, most: true, counted: true},
		{name: "close-memory", unit: "MB", value: "memory-closing", counted: true},
		{name: "seal", unit: "s", value: "seal", counted: true},
		{name: "open-memory", unit: "MB", value: "memory-open", goal: 180, most: true, counted: true},
		{name: "restart", unit: "s", value: "restart", goal: 2, most: true, counted: true},
		{name: "cpu-stored", unit: "µs/guarantee", value: "cpu-many", baseline: "cpu-few", goal: 1.15, most: true, counted: true},
	}},
	{title: "purchases", rows: []comparison{
		{name: "purchase", unit: "purchases/s", value: "purchase", baseline: "purchase-serial", goal: 5},
	}},
	{title: "netting", roundsMax: 3, rows: []comparison{
		{name: "netting", unit: "guarantees/s", value: "netting", baseline: "filling", goal: 5},
	}},
	{title: "paid requests", rows: []comparison{
		{name: "paid-request", unit: "requests/s", value: "paid", baseline: "unpaid"},
	}},
	{title: "payments verified", rows: []comparison{
		{name: "verify", unit: "payments/s", value: "verify", baseline: "recover", goal: 0.4},
	}},
	{title: "calls of bundles", rows: []comparison{
		{name: "draw-added", unit: "µs/request", value: "draw", less: "proxied", baseline: "recovery", plus: paidOverhead, goal: 1.5, most: true},
		{name: "stock-added", unit: "µs/request", value: "stock", less: "proxied", baseline: "recovery", plus: paidOverhead, goal: 1.5, most: true},
		{name: "draw-added-undisked", unit: "µs/request", value: "draw-memory", less: "proxied", baseline: "recovery", plus: paidOverhead},
		{name: "stock-added-undisked", unit: "µs/request", value: "stock-memory", less: "proxied", baseline: "recovery", plus: paidOverhead},
		{name: "flush", unit: "µs", value: "flush", share: true},
		{name: "bundle-flushes", unit: "flushes/request", value: "flushes-64", baseline: "flushes-1", counted: true},
	}},
	{title: "settlements", roundsMax: 3, rows: []comparison{
		{name: "settle-batched", unit: "payments/s", value: "settle-batched", baseline: "settle-single"},
		{name: "settle-gas", unit: "gas/payment", value: "gas-batched", baseline: "gas-single", counted: true},
		{name: "settle-chain", unit: "µs/payment", value: "settle-chain", baseline: "settle-batched", share: true},
	}},
	{title: "open requests", roundsMax: 1, rows: []comparison{
		{name: "open-1000", unit: "KB/request", value: "open-large", baseline: "open-small", goal: 1.25, most: true, counted: true},
	}},
}

// benchNames are the rows that can be asked for, in the order in which they are printed.
func benchNames() (names []string) {
	for _, c := range contests {
		for _, row := range c.rows {
			names = append(names, row.name)
		}
	}
	return names
}

// Run measures and prints.
func (c *benchCmd) Run(r *run) (err error) {
	for _, name := range c.Names {
		if !slices.Contains(benchNames(), name) {
			return misuse("nothing called %q is measured", name).hint("known: %s", strings.Join(benchNames(), ", "))
		}
	}
	if c.Rounds < 1 {
		return misuse("--rounds %d: at least one is needed", c.Rounds)
	}
	if c.CPUProfile != "" {
		f, err := os.Create(c.CPUProfile)
		if err != nil {
			return fail("config_invalid", "profile: %v", err)
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return fail("config_invalid", "profile: %v", err)
		}
		defer pprof.StopCPUProfile()
	}
	sizes := benchSizes
	if c.Full {
		sizes.Stored = 10_000_000
	}
	b, err := newBench(r.ctx, benchConfig{Dir: c.Dir, Postgres: c.Postgres, Rounds: c.Rounds, Sizes: sizes, Now: r.Now(), Story: r.say})
	if err != nil {
		return err
	}
	defer b.close()
	r.say("%s, %s/%s, %d cores; databases in %s; median of %d rounds", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0), b.Dir, c.Rounds)
	rows, err := b.measure(r.ctx, c.Names)
	if err != nil {
		return err
	}
	if !r.Terminal || r.cli.JSON {
		for _, row := range rows {
			if err := r.emit(row, ""); err != nil {
				return err
			}
		}
	} else if err := printBench(r.Out, rows); err != nil {
		return err
	}
	var missed []string
	for _, row := range rows {
		if row.Met != nil && !*row.Met {
			missed = append(missed, row.Name)
		}
	}
	if c.Strict && len(missed) > 0 {
		return fail("internal", "slower than wanted: %s", strings.Join(missed, ", ")).hint("measure again on a quiet machine; docs/performance.md says where the goals come from")
	}
	return nil
}

func printBench(out io.Writer, rows []benchRow) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "name\tvalue\tunit\tbaseline\tratio\tgoal\tmet\t")
	for _, row := range rows {
		met := "–"
		if row.Met != nil {
			met = map[bool]string{true: "yes", false: "no"}[*row.Met]
		}
		goal := figure(row.Goal)
		if row.Most {
			goal = "≤ " + goal
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", row.Name, figure(&row.Value), row.Unit, figure(row.Baseline), figure(row.Ratio), goal, met)
	}
	return w.Flush()
}

// figure shows three digits; more would be noise.
func figure(v *float64) string {
	if v == nil {
		return "–"
	}
	return strconv.FormatFloat(rounded(*v), 'f', -1, 64)
}

// rounded keeps three digits that count, and all digits before the point.
func rounded(v float64) float64 {
	if v >= 100 {
		v, _ = strconv.ParseFloat(strconv.FormatFloat(v, 'f', 0, 64), 64)
		return v
	}
	v, _ = strconv.ParseFloat(strconv.FormatFloat(v, 'g', 3, 64), 64)
	return v
}

// row makes a row of what the sides took for one item.
func (c comparison) row(took map[string]time.Duration) benchRow {
	row := benchRow{Name: c.name, Unit: c.unit}
	count := func(side string, cores int) float64 {
		switch {
		case c.share:
			return rounded(took[side].Seconds() * 1e6 * float64(cores))
		case c.counted:
			return rounded(took[side].Seconds())
		case c.less != "":
			return rounded((took[side] + c.plus).Seconds() * 1e6)
		}
		return rounded(1 / took[side].Seconds())
	}
	row.Value = count(c.value, 1)
	if c.less != "" {
		row.Value = rounded(max(took[c.value]-took[c.less], 1).Seconds() * 1e6)
	}
	compared := row.Value
	if c.baseline != "" {
		baseline := count(c.baseline, runtime.GOMAXPROCS(0))
		compared = rounded(row.Value / baseline)
		row.Baseline, row.Ratio = &baseline, &compared
	}
	if c.goal > 0 {
		met := compared >= c.goal
		if c.most {
			met = compared <= c.goal
		}
		row.Goal, row.Most, row.Met = &c.goal, c.most, &met
	}
	return row
}

// measure runs the contests that the rows with these names need, or all, and returns the rows in the order of the list.
func (b *bench) measure(ctx context.Context, names []string) (rows []benchRow, _ error) {
	for _, c := range contests {
		var wanted []comparison
		var sides []string
		for _, row := range c.rows {
			if len(names) > 0 && !slices.Contains(names, row.name) {
				continue
			}
			wanted = append(wanted, row)
			for _, s := range []string{row.baseline, row.less, row.value} {
				if s != "" && !slices.Contains(sides, s) {
					sides = append(sides, s)
				}
			}
		}
		if len(wanted) == 0 || c.server && !b.needServer() {
			continue
		}
		b.Story("%s: %s", c.title, strings.Join(sides, ", "))
		rounds := b.Rounds
		if c.roundsMax > 0 {
			rounds = min(rounds, c.roundsMax)
		}
		took, err := b.contest(ctx, sides, rounds, c.cold)
		if err != nil {
			return nil, fmt.Errorf("measure %s: %w", c.title, err)
		}
		for _, row := range wanted {
			rows = append(rows, row.row(took))
		}
	}
	return rows, nil
}

// side is one way of doing something, ready to be measured.
type side struct {
	count int // things in one slice
	// slice does n things and returns the time that they took. Whatever it makes for them it makes before it looks at the
	// clock. Things that fail are its error: a measurement of failures is none.
	slice func(ctx context.Context, n int) (time.Duration, error)
	check func(ctx context.Context) error // whether what the slices did is there; may be nil
	close func() error                    // may be nil
}

// contest measures sides in turns and returns the median time of one thing of each.
func (b *bench) contest(ctx context.Context, names []string, rounds int, cold bool) (_ map[string]time.Duration, err error) {
	sides := make([]side, 0, len(names))
	b.shared = make(map[string]any)
	defer func() {
		for _, s := range slices.Backward(sides) {
			if s.close != nil {
				if closed := s.close(); err == nil {
					err = closed
				}
			}
		}
	}()
	for _, name := range names {
		s, err := b.side(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		sides = append(sides, s)
	}
	times := make([][]time.Duration, len(sides))
	first := 0 // the round to warm up
	if cold {
		first = 1
	}
	for round := first; round <= rounds; round++ {
		for i, s := range sides {
			n := s.count
			if round == 0 {
				n = (n + 3) / 4
			}
			runtime.GC() // what one side leaves behind is not the next one's to clear away
			took, err := s.slice(ctx, n)
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", names[i], err)
			}
			if round > 0 {
				times[i] = append(times[i], max(took, 1)/time.Duration(n))
			}
		}
	}
	medians := make(map[string]time.Duration, len(sides))
	for i, s := range sides {
		if s.check != nil {
			if err := s.check(ctx); err != nil {
				return nil, fmt.Errorf("%s: %w", names[i], err)
			}
		}
		slices.Sort(times[i])
		medians[names[i]] = max(times[i][len(times[i])/2], 1)
	}
	return medians, nil
}
