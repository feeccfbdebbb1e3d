package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// tinySizes measure nothing of use, quickly.
var tinySizes = sizes{
	Accounts: 20,
	Recover:  64, Admit: 128, Naive: 4, HTTP: 128,
	Signature: 8, Singles: 4, Batched: 64, JSON: 64, Bodies: 64,
	Purchases: 8, Serial: 4, Netted: 100, Paid: 8, Unpaid: 16,
	Verified: 16, Calls: 8, Settled: 8, Alone: 4, Open: 8,
	Few: 100, Stored: 250, Closing: 100, Measured: 64,
	Offered: 10 * time.Millisecond,
}

func tinyBench(t *testing.T) *bench {
	t.Helper()
	b, err := newBench(t.Context(), benchConfig{Postgres: os.Getenv("FARTHING_POSTGRES"), Rounds: 1, Sizes: tinySizes, Now: time.Unix(1_782_122_400, 0), Story: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	return b
}

func TestBenchRows(t *testing.T) {
	t.Parallel()
	b := tinyBench(t)
	rows, err := b.measure(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, row := range rows {
		names = append(names, row.Name)
		if row.Value <= 0 || row.Unit == "" {
			t.Errorf("%s: value %v %q", row.Name, row.Value, row.Unit)
		}
		if (row.Baseline == nil) != (row.Ratio == nil) || (row.Goal == nil) != (row.Met == nil) {
			t.Errorf("%s: a ratio goes with a baseline, and met with a goal: %+v", row.Name, row)
		}
		if row.Ratio != nil && *row.Ratio != rounded(row.Value / *row.Baseline) {
			t.Errorf("%s: ratio %v of %v and %v", row.Name, *row.Ratio, row.Value, *row.Baseline)
		}
		compared := row.Value
		if row.Ratio != nil {
			compared = *row.Ratio
		}
		if row.Met != nil && *row.Met != (compared >= *row.Goal) && !(row.Most && *row.Met == (compared <= *row.Goal)) {
			t.Errorf("%s: met is %v at %v of %v", row.Name, *row.Met, compared, *row.Goal)
		}
		line, err := json.Marshal(row)
		var members map[string]any
		if err := errors.Join(err, json.Unmarshal(line, &members)); err != nil {
			t.Fatal(err)
		}
		if got, want := slices.Sorted(maps.Keys(members)), []string{"baseline", "goal", "met", "most", "name", "ratio", "unit", "value"}; !slices.Equal(got, want) {
			t.Errorf("%s: members %q, want %q", row.Name, got, want)
		}
	}
	want := benchNames()
	if b.serverless != nil && os.Getenv("FARTHING_CI") != "1" {
		t.Logf("without the rows that need PostgreSQL: %v", b.serverless)
		want = slices.DeleteFunc(want, func(name string) bool { return !slices.Contains(names, name) })
	}
	if !slices.Equal(names, want) {
		t.Errorf("rows %q, want %q", names, want)
	}
	var table bytes.Buffer
	if err := printBench(&table, rows); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(table.String(), "\n"); lines != len(rows)+1 {
		t.Errorf("table of %d lines for %d rows:\n%s", lines, len(rows), table.String())
	}
}

func TestBenchMeasuresOnlyWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	b := tinyBench(t)
	rows, err := b.measure(t.Context(), []string{"file-http-64", "purchase"})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || rows[0].Name != "file-http-64" || rows[1].Name != "purchase" {
		t.Errorf("rows %+v", rows)
	}
	if want := 1 + 2; b.databases != want { // the house behind HTTP, and two books of purchases
		t.Errorf("%d databases were made, want %d", b.databases, want)
	}
}

func TestRowComparesCostsWithAllCores(t *testing.T) {
	t.Parallel()
	took := map[string]time.Duration{"a": 50 * time.Microsecond, "b": 100 * time.Microsecond}
	if row := (comparison{value: "a", baseline: "b", goal: 3}).row(took); row.Value != 20_000 || *row.Baseline != 10_000 || *row.Ratio != 2 || *row.Met {
		t.Errorf("rates: %+v", row)
	}
	row := comparison{value: "a", baseline: "b", share: true}.row(took)
	if row.Value != 50 || *row.Ratio > 0.5 || *row.Ratio != rounded(row.Value / *row.Baseline) {
		t.Errorf("share: %+v", row)
	}
}

func TestRowComparesWhatIsAddedAndWhatIsCounted(t *testing.T) {
	t.Parallel()
	took := map[string]time.Duration{"with": 300 * time.Microsecond, "without": 100 * time.Microsecond, "one": 60 * time.Microsecond, "two": 2 * once, "three": 3 * once}
	added := comparison{value: "with", less: "without", baseline: "one", plus: 40 * time.Microsecond, goal: 1.5, most: true}
	if row := added.row(took); row.Value != 200 || *row.Baseline != 100 || *row.Ratio != 2 || !row.Most || *row.Met {
		t.Errorf("added: %+v", row)
	}
	if added.goal = 2; !*added.row(took).Met {
		t.Error("the greatest ratio that is wanted is not met by itself")
	}
	took["with"] = 50 * time.Microsecond // faster than without, as noise has it
	if row := added.row(took); row.Value <= 0 || !*row.Met {
		t.Errorf("less than nothing added: %+v", row)
	}
	if row := (comparison{value: "two", baseline: "three", counted: true}).row(took); row.Value != 2 || *row.Baseline != 3 || row.Met != nil {
		t.Errorf("counted: %+v", row)
	}
}

// A measurement of refusals would look fast.
func TestBenchFailsWhenTheHouseRefuses(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := tinyBench(t)
	h, err := b.openHouse(ctx, houseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	list, err := h.next(ctx, 10)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.admit(ctx, list, 2, 4, true); err != nil {
		t.Fatal(err)
	}
	if err := h.check(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := h.admit(ctx, list, 2, 4, true); err == nil {
		t.Error("guarantees that were admitted before counted as admitted")
	}
	forged := list[0]
	forged.Claims.ReqID[0]++
	list[0] = forged
	if _, err := h.admit(ctx, list[:1], 1, 1, true); err == nil {
		t.Error("a guarantee without its payer's signature counted as admitted")
	}
	h.taken++
	if err := h.check(ctx); err == nil {
		t.Error("a guarantee that is not in the book went unnoticed")
	}
}

func TestBenchStops(t *testing.T) {
	t.Parallel()
	b := tinyBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	b.Story = func(string, ...any) { cancel() }
	if _, err := b.measure(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("after Ctrl-C: %v", err)
	}
}

func TestBenchKnowsItsNames(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"bench", "admit-65"}, {"bench", "--rounds", "0"}} {
		var out, story bytes.Buffer
		p := &program{Out: &out, Err: &story, Env: func(string) (string, bool) { return "", false }, Now: time.Now}
		if code := p.Main(t.Context(), args); code != 2 || out.Len() > 0 {
			t.Errorf("%q: exit %d, printed %q", args, code, out.String())
		}
		if args[1] == "admit-65" && !strings.Contains(story.String(), "admit-64-hot") {
			t.Errorf("known names are not listed: %s", story.String())
		}
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{14351.7: "14352", 0.19742: "0.197", 6.789: "6.79", 99.96: "100", 0: "0"} {
		if got := figure(&v); got != want {
			t.Errorf("%v is shown as %s, want %s", v, got, want)
		}
	}
	if got := figure(nil); got != "–" {
		t.Errorf("nothing is shown as %s", got)
	}
}
