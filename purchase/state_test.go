package purchase_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
)

var states = []purchase.State{"", purchase.Reserved, purchase.Running, purchase.Working, purchase.Committed, purchase.Void, purchase.Pending}

func TestStateMachine(t *testing.T) {
	t.Parallel()
	allowed := map[[2]purchase.State]bool{
		{"", purchase.Reserved}:                true,
		{purchase.Reserved, purchase.Running}:  true,
		{purchase.Reserved, purchase.Void}:     true,
		{purchase.Reserved, purchase.Pending}:  true,
		{purchase.Running, purchase.Working}:   true,
		{purchase.Working, purchase.Committed}: true,
		{purchase.Working, purchase.Void}:      true,
		{purchase.Working, purchase.Pending}:   true,
		{purchase.Running, purchase.Committed}: true,
		{purchase.Running, purchase.Void}:      true,
		{purchase.Running, purchase.Pending}:   true,
		{purchase.Pending, purchase.Committed}: true,
		{purchase.Pending, purchase.Void}:      true,
		{purchase.Pending, purchase.Pending}:   true,
	}
	for _, from := range states {
		ways := 0
		for _, to := range states {
			if got := from.May(to); got != allowed[[2]purchase.State{from, to}] {
				t.Errorf("%q → %q: %v", from, to, got)
			} else if got {
				ways++
			}
		}
		if from.Final() != (ways == 0) {
			t.Errorf("%q: final %v with %d ways on", from, from.Final(), ways)
		}
	}
}

func TestShown(t *testing.T) {
	t.Parallel()
	mine, other := evm.Hash{1}, evm.Hash{2}
	for _, c := range []struct {
		state purchase.State
		want  purchase.Move
	}{
		{purchase.Reserved, purchase.Secure},
		{purchase.Running, purchase.Wait},
		{purchase.Working, purchase.Replay},
		{purchase.Committed, purchase.Replay},
		{purchase.Void, purchase.RefuseVoid},
		{purchase.Pending, purchase.Resolve},
	} {
		p := purchase.Purchase{Request: mine, State: c.state}
		if got := p.Shown(mine); got != c.want {
			t.Errorf("%s, same request: %s, want %s", c.state, got, c.want)
		}
		if got := p.Shown(other); got != purchase.RefuseUsed {
			t.Errorf("%s, another request: %s", c.state, got)
		}
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	units := func(n uint64) *money.Amount { a := money.Units(n); return &a }
	for _, c := range []struct {
		name    string
		work    purchase.Work
		state   purchase.State
		charged uint64
		outcome string
	}{
		{"fixed price, success", purchase.Work{Rule: purchase.AfterSuccess, Cap: money.Units(500), Measured: units(500)}, purchase.Committed, 500, ""},
		{"fixed price, failure", purchase.Work{Rule: purchase.AfterSuccess, Cap: money.Units(500), Measured: units(500), Failure: "upstream_failed"}, purchase.Void, 0, "upstream_failed"},
		{"measured below the minimum", purchase.Work{Rule: purchase.AfterSuccess, Cap: money.Units(500), Minimum: money.Units(200), Measured: units(10)}, purchase.Committed, 200, ""},
		{"measured nothing, no minimum", purchase.Work{Rule: purchase.AfterSuccess, Cap: money.Units(500), Measured: units(0)}, purchase.Committed, 1, ""},
		{"measured past the cap", purchase.Work{Rule: purchase.AfterSuccess, Cap: money.Units(500), Measured: units(501)}, purchase.Committed, 500, ""},
		{"a minimum past the cap", purchase.Work{Rule: purchase.AfterSuccess, Cap: money.Units(500), Minimum: money.Units(900), Measured: units(1)}, purchase.Committed, 500, ""},
		{"nobody measured", purchase.Work{Rule: purchase.AfterSuccess, Cap: money.Units(500)}, purchase.Void, 0, purchase.MeterMissing},
		{"failed and nobody measured", purchase.Work{Rule: purchase.AsMeasured, Cap: money.Units(500), Failure: "handler_failed"}, purchase.Void, 0, "handler_failed"},
		{"failed halfway, charged as measured", purchase.Work{Rule: purchase.AsMeasured, Cap: money.Units(500), Measured: units(70), Failure: "handler_failed"}, purchase.Committed, 70, "handler_failed"},
		{"failed after a stage, charged by stage", purchase.Work{Rule: purchase.ByStage, Cap: money.Units(500), Measured: units(100), Failure: "handler_failed"}, purchase.Committed, 100, "handler_failed"},
		{"failed before any stage", purchase.Work{Rule: purchase.ByStage, Cap: money.Units(500), Failure: "handler_failed"}, purchase.Void, 0, "handler_failed"},
		{"before work, failure", purchase.Work{Rule: purchase.BeforeWork, Cap: money.Units(500), Failure: "handler_failed"}, purchase.Committed, 500, "handler_failed"},
		{"before work, waived", purchase.Work{Rule: purchase.BeforeWork, Cap: money.Units(500), Waived: true, Failure: "sorry"}, purchase.Void, 0, "sorry"},
		{"as measured, waived", purchase.Work{Rule: purchase.AsMeasured, Cap: money.Units(500), Measured: units(70), Waived: true, Failure: "sorry"}, purchase.Void, 0, "sorry"},
	} {
		state, charged, outcome := c.work.Verdict()
		if state != c.state || charged != money.Units(c.charged) || outcome != c.outcome {
			t.Errorf("%s: %s, %s, %q", c.name, state, charged, outcome)
		}
	}
}

// Whatever happens, nobody pays more than was signed, void is nothing, and a sale is never free.
func TestVerdictStaysWithinWhatWasSigned(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		amount := func(name string) money.Amount { return money.Units(rapid.Uint64Range(0, 20).Draw(t, name)) }
		w := purchase.Work{
			Rule:    rapid.SampledFrom([]purchase.Completion{purchase.BeforeWork, purchase.AfterSuccess, purchase.AsMeasured, purchase.ByStage}).Draw(t, "rule"),
			Minimum: amount("minimum"), Waived: rapid.Bool().Draw(t, "waived"),
			Failure: rapid.SampledFrom([]string{"", "handler_failed"}).Draw(t, "failure"),
		}
		w.Cap, _ = amount("cap").Add(money.Units(1))
		if rapid.Bool().Draw(t, "counted") {
			m := amount("measured")
			w.Measured = &m
		}
		state, charged, outcome := w.Verdict()
		if !state.Final() || w.Cap.Less(charged) || (state == purchase.Void) != charged.IsZero() {
			t.Fatalf("%+v: %s, %s", w, state, charged)
		}
		if state == purchase.Void && outcome == "" && !w.Waived {
			t.Fatalf("%+v: void without a reason", w)
		}
		if w.Rule == purchase.AfterSuccess && w.Failure != "" && state != purchase.Void {
			t.Fatalf("%+v: a failure was charged", w)
		}
	})
}
