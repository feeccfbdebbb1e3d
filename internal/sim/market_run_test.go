package sim

import (
	"fmt"
	"testing"
)

func temperOf(seed uint64) temper { return tempers[seed%uint64(len(tempers))] }

// replayMarket is the line that runs a market again.
func replayMarket(seed uint64, steps int, t temper, err error) string {
	return fmt.Sprintf("%s market: %v; run it again: go test ./internal/sim -run 'TestMarket$' -sim.seed=%d -sim.steps=%d -sim.trace", t.name, err, seed, steps)
}

// Markets run from seeds: those given by -sim.seed, or as many as FARTHING_SIM_SEEDS says.
func TestMarket(t *testing.T) {
	eachSeed(t, 12, func(seed uint64) string { return temperOf(seed).name }, func(t *testing.T, seed uint64) {
		m, err := newMarket(seed, temperOf(seed), nil)
		if err != nil {
			t.Fatal(err)
		}
		if *traceFlag {
			m.trace = t.Logf
		}
		if err := m.run(*stepsFlag); err != nil {
			t.Fatal(replayMarket(seed, *stepsFlag, m.temper, err))
		}
	})
}

// A market, too, is a function of its seed.
func TestMarketRepeatsItself(t *testing.T) {
	t.Parallel()
	var digests [2]string
	for i := range digests {
		m, err := newMarket(9, tempers[3], nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.run(150); err != nil {
			t.Fatal(err)
		}
		digests[i] = fmt.Sprintf("%x", m.digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("one seed made two markets: %s and %s", digests[0], digests[1])
	}
}

// Gate and facilitator may die at any use of their books, before or after what they write is on disk: whoever makes the
// use dies with it, and goes on from there.
func TestKilledAtEveryUseOfAMarketsBooks(t *testing.T) {
	t.Parallel()
	const each = 100
	killed := 0
	for use := 1; use <= each; use++ {
		m, err := newMarket(uint64(use), tempers[0], nil)
		if err != nil {
			t.Fatal(err)
		}
		m.killAt, m.killBy = m.uses+use, []fault{failBefore, failAfter}[use%2]
		if err := m.run(12); err != nil {
			t.Errorf("killed at use %d: %v", use, err)
		}
		if m.uses >= m.killAt {
			killed++
		}
	}
	if killed < each*9/10 {
		t.Errorf("somebody was killed in %d markets of %d", killed, each)
	}
}
